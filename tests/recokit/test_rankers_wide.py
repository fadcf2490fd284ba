"""WideDeep and DCNv2: the formulas row by row, interactions that they have to find, settings that cannot be."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from ranker_oracle import Oracle, frame, spec

from recokit.errors import ConfigError
from recokit.features import FeatureSpec
from recokit.rankers import DCNv2, FitConfig, LinearProbe, WideDeep, fit
from recokit.rankers.base import to_tensors
from recokit.rankers.wide_deep import _Cross

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def randomised(ranker):
    """No weight at the zero where it starts, but those of unknown codes, which stay there."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in ranker.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
            if name.startswith(("wide", "crosses")):
                parameter[0] = 0
    return ranker


def assert_forward_equals(ranker, expected_of_row, rtol=1e-3, atol=1e-4) -> None:
    rows = frame()
    batch = ranker.features.batch(rows)
    oracle = Oracle(ranker)
    expected = np.array([expected_of_row(oracle, batch, b) for b in range(len(rows))])
    found = ranker(to_tensors(batch, CPU)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


# --- Wide & Deep ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["clicked", ["clicked", "bought"]])
def test_wide_and_deep_equals_the_paper_row_by_row(label):
    crosses = [("user", "country"), ("country", "device", "user")]  # the second has 2 * 2 * 3 values, more than 7
    ranker = randomised(WideDeep(spec(label=label).fit(frame()), dim=3, hidden=(6, 4), crosses=crosses, cross_size=7))

    def expected(oracle: Oracle, batch, b: int):
        weights, columns = oracle.weights, batch.categorical
        wide = weights["linear.weight"] @ batch.dense[b]
        for number, name in enumerate(("user", "country", "device")):
            code = columns[name][b]
            wide = wide + (weights[f"wide.{number}.weight"][code] if code > 0 else 0)
        for number, name in enumerate(("genres", "weighed"), start=3):
            values, offsets = batch.bags[name]
            places = [v for v in range(offsets[b], offsets[b + 1]) if values[v] > 0]
            shares = [batch.bag_weights[name][v] if name == "weighed" else 1.0 for v in places]
            total = sum(s * weights[f"wide.{number}.weight"][values[v]] for s, v in zip(shares, places, strict=True))
            wide = wide + (total / sum(shares) if sum(shares) else 0)
        for number, cross in enumerate(crosses):
            values = [int(columns[name][b]) - 1 for name in cross]
            place = values[0] * 2 + values[1] if number == 0 else _polynomial(values) % 7
            wide = wide + (weights[f"crosses.{number}.weights.weight"][place + 1] if min(values) >= 0 else 0)
        logit = wide + oracle.mlp("deep", oracle.flat(batch, b)) + weights["bias"]
        return logit if isinstance(label, list) else logit[0]

    assert_forward_equals(ranker, expected)


def _polynomial(values: list[int]) -> int:
    number = 0
    for value in values:
        number = (number * 1_583_458_089 + value + 1) % (2**31 - 1)
    return number * 1_583_458_089 % (2**31 - 1)


def test_crossed_values_that_fit_are_told_apart_and_others_spread_evenly():
    pairs = np.array(list(itertools.product(range(1, 6), range(1, 8))))
    first, second = torch.from_numpy(pairs.T.copy())
    apart = _Cross([6, 8], 35, 1)
    with torch.no_grad():
        apart.weights.weight[:, 0] = torch.arange(36)
    assert sorted(apart([first, second])[:, 0].tolist()) == list(range(1, 36))
    assert apart([torch.tensor([0, 3]), torch.tensor([2, 0])]).tolist() == [[0.0], [0.0]]
    many = torch.cartesian_prod(torch.arange(1, 301), torch.arange(1, 301))  # 90,000 pairs in 10,000 buckets
    hashed = _Cross([301, 301], 10_000, 1)
    with torch.no_grad():
        hashed.weights.weight[:, 0] = torch.arange(10_001)
    counts = np.bincount(hashed([many[:, 0], many[:, 1]])[:, 0].long().numpy(), minlength=10_001)[1:]
    assert counts.sum() == 90_000
    assert counts.std() < 2 * 3.0  # Poisson's is 3
    assert (counts == 0).mean() < 0.01  # e^-9


def test_a_cross_finds_what_no_sum_of_its_columns_has():
    """P(1) depends on the parity of both columns together; each alone says nothing."""
    random = np.random.default_rng(0)
    a, b = random.integers(0, 4, (2, 4000))
    likely = (a + b) % 2 == 1
    rows = pd.DataFrame({"a": a, "b": b, "y": random.random(4000) < np.where(likely, 0.9, 0.1)})
    features = FeatureSpec(categorical={"a": 4, "b": 4}, label="y")
    config = FitConfig(epochs=12, batch_size=500, learning_rate=0.05)
    crossed = WideDeep(features, dim=1, hidden=(1,), crosses=[("a", "b")])
    sums = LinearProbe(features)
    for ranker in (crossed, sums):
        fit(ranker, rows, None, config)
    cells = pd.DataFrame(itertools.product(range(4), range(4)), columns=["a", "b"])
    wanted = np.where((cells["a"] + cells["b"]) % 2 == 1, 0.9, 0.1)
    np.testing.assert_allclose(crossed.predict(cells), wanted, atol=0.08)
    np.testing.assert_allclose(sums.predict(cells), 0.5, atol=0.08)
    with torch.no_grad():  # it is the wide part that knows
        wide = crossed.wide_part(to_tensors(crossed.features.batch(cells, labels=False), CPU))[:, 0].numpy()
    assert (np.sign(wide - wide.mean()) == np.where(wanted > 0.5, 1, -1)).all()


def test_unknown_codes_have_no_weight_and_get_none():
    rows = frame()
    ranker = WideDeep(spec().fit(rows), dim=2, crosses=[("user", "country")])
    fit(ranker, rows, None, FitConfig(epochs=2, batch_size=10, learning_rate=0.1))
    zeros = [module.weight[0].tolist() for module in (*ranker.wide, *(cross.weights for cross in ranker.crosses))]
    assert zeros == [[0.0]] * 6
    assert all((module.weight[1:] != 0).any() for module in ranker.wide)


def test_crosses_that_cannot_be_are_refused():
    features = spec().fit(frame())
    with pytest.raises(ConfigError, match="names 'age', which is no categorical column; known: country, device, user"):
        WideDeep(features, crosses=[("user", "age")])
    with pytest.raises(ConfigError, match=r"names 'contry'.*did you mean 'country'"):
        WideDeep(features, crosses=[("user", "contry")])
    for wrong in ("user", ("user",)):
        with pytest.raises(ConfigError, match="two or more categorical columns"):
            WideDeep(features, crosses=[wrong])
    with pytest.raises(ConfigError, match=r"cross_size=0.*at least 1"):
        WideDeep(features, cross_size=0)


# --- DCN-V2 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("structure", "rank"), [("stacked", None), ("parallel", None), ("stacked", 3), ("parallel", 3)]
)
def test_dcn_equals_the_paper_row_by_row(structure, rank):
    ranker = randomised(
        DCNv2(spec().fit(frame()), dim=2, cross_layers=2, rank=rank, hidden=(5,), structure=structure, seed=4)
    )

    def expected(oracle: Oracle, batch, b: int):
        weights = oracle.weights
        first = oracle.flat(batch, b)
        x = first
        for layer in range(2):
            matrix = weights[f"cross.{layer}.up.weight"]
            if rank is not None:
                matrix = matrix @ weights[f"cross.{layer}.down.weight"]  # U V
            x = first * (matrix @ x + weights[f"cross.{layer}.up.bias"]) + x
        out = oracle.layers("deep", x) if structure == "stacked" else np.concatenate([x, oracle.layers("deep", first)])
        return (weights["last.weight"] @ out + weights["bias"])[0]

    assert_forward_equals(ranker, expected, rtol=5e-3, atol=5e-3)


def test_cross_layers_alone_find_a_product():
    random = np.random.default_rng(0)
    rows = pd.DataFrame(random.standard_normal((4000, 3)), columns=["a", "b", "c"])
    rows["y"] = random.random(4000) < 1 / (1 + np.exp(-3 * rows["a"] * rows["b"]))
    features = FeatureSpec(dense=["a", "b", "c"], label="y")
    config = FitConfig(epochs=12, batch_size=500, learning_rate=0.03)
    crossed, linear = DCNv2(features, cross_layers=1, hidden=()), LinearProbe(features)
    for ranker in (crossed, linear):
        fit(ranker, rows, None, config)
    corners = pd.DataFrame({"a": [1.0, 1, -1, -1], "b": [1.0, -1, 1, -1], "c": 0.0})
    logits = np.log(crossed.predict(corners) / (1 - crossed.predict(corners)))
    np.testing.assert_allclose(logits, [3, -3, -3, 3], atol=0.6)
    assert np.abs(np.log(linear.predict(corners) / (1 - linear.predict(corners)))).max() < 0.5


def test_a_structure_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="structure='stack': did you mean 'stacked'"):
        DCNv2(spec().fit(frame()), structure="stack")
    with pytest.raises(ConfigError, match=r"cross_layers=2, rank=0.*at least 1"):
        DCNv2(spec().fit(frame()), rank=0)
