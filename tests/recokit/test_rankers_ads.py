"""SharedBottom, MMoE and ESMM: the formulas row by row, and conversions that only all impressions can teach."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from ranker_oracle import LABELS, Oracle, frame, spec

from recokit.errors import ConfigError, DataError
from recokit.features import FeatureSpec
from recokit.rankers import ESMM, DCNv2, FitConfig, MMoE, SharedBottom, fit
from recokit.rankers.ads import _logit_of_product
from recokit.rankers.base import to_tensors

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def two_labels() -> FeatureSpec:
    return spec(label=LABELS).fit(frame())


def with_bias(ranker):
    with torch.no_grad():
        ranker.bias.copy_(torch.tensor([0.3, -0.7]))
    return ranker


def forward(ranker) -> tuple[np.ndarray, list[np.ndarray], Oracle]:
    """The logits, what the oracle makes of each row's features, and the oracle."""
    rows = frame()
    batch, oracle = ranker.features.batch(rows), Oracle(ranker)
    logits = ranker(to_tensors(batch, CPU)).detach().numpy()
    return logits, [oracle.flat(batch, b) for b in range(len(rows))], oracle


def test_a_shared_bottom_equals_the_formula_row_by_row():
    ranker = with_bias(SharedBottom(two_labels(), dim=3, bottom=(7, 5), tower=(4,)))
    logits, inputs, oracle = forward(ranker)
    shared = [oracle.layers("bottom", x) for x in inputs]
    expected = [[oracle.mlp(f"towers.{t}", x)[0] + oracle.weights["bias"][t] for t in range(2)] for x in shared]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_mmoe_equals_the_paper_row_by_row():
    ranker = with_bias(MMoE(two_labels(), dim=3, experts=3, expert=(6, 5), tower=(4,)))
    logits, inputs, oracle = forward(ranker)
    expected = []
    for x in inputs:
        experts = [oracle.layers(f"experts.{e}", x) for e in range(3)]
        row = []
        for t in range(2):
            gate = np.exp(oracle.weights[f"gates.{t}.weight"] @ x)
            mixed = sum(g * f for g, f in zip(gate / gate.sum(), experts, strict=True))
            row.append(oracle.mlp(f"towers.{t}", mixed)[0] + oracle.weights["bias"][t])
        expected.append(row)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ranker_type", [SharedBottom, MMoE], ids=lambda each: each.kind)
def test_both_labels_find_an_interaction_of_their_own(ranker_type):
    """Both hang on the product of two numbers, one the other way round, and either number alone says nothing."""
    random = np.random.default_rng(0)
    rows = pd.DataFrame(random.standard_normal((4000, 2)), columns=["a", "b"])
    likely = 1 / (1 + np.exp(-4 * rows["a"] * rows["b"]))
    rows["clicked"], rows["hidden"] = random.random((2, 4000)) < np.stack([likely, 1 - likely])
    ranker = ranker_type(FeatureSpec(dense=["a", "b"], label=["clicked", "hidden"]))
    fit(ranker, rows, None, FitConfig(epochs=10, batch_size=250, learning_rate=0.02))
    corners = pd.DataFrame({"a": [1.5, 1.5, -1.5, -1.5], "b": [1.5, -1.5, 1.5, -1.5]})
    found = ranker.predict(corners)
    assert ((found > 0.5) == [[1, 0], [0, 1], [0, 1], [1, 0]]).all()
    assert np.abs(found - 0.5).min() > 0.4


# --- ESMM ----------------------------------------------------------------------------------------------------------


def test_esmm_equals_the_paper_row_by_row():
    """pCTR, pCVR and their product (Eq. 1), and the loss: the log losses of both labels over all rows (Eq. 2)."""
    ranker = with_bias(ESMM(two_labels(), dim=3, tower=(6,)))
    logits, inputs, oracle = forward(ranker)
    sigmoid = [
        [1 / (1 + np.exp(-oracle.mlp(tower, x)[0] - oracle.weights["bias"][t])) for x in inputs]
        for t, tower in enumerate(("click", "conversion"))
    ]
    ctr, cvr = np.array(sigmoid)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, 0])), ctr, rtol=1e-4)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, 1])), ctr * cvr, rtol=1e-4)
    rows = frame()
    np.testing.assert_allclose(ranker.conversion_after_click(rows), cvr, rtol=1e-4)
    np.testing.assert_allclose(ranker.predict(rows), np.stack([ctr, ctr * cvr], axis=1), rtol=1e-4)
    y, z = rows["clicked"].to_numpy(), (rows["clicked"] & rows["bought"]).to_numpy()
    by_hand = -np.mean(y * np.log(ctr) + (1 - y) * np.log(1 - ctr))
    by_hand -= np.mean(z * np.log(ctr * cvr) + (1 - z) * np.log(1 - ctr * cvr))
    batch = to_tensors(ranker.features.batch(rows), CPU)
    assert ranker.loss(ranker(batch), batch).item() == pytest.approx(by_hand / 2, rel=1e-4)


def test_the_logit_of_a_product_holds_near_0_and_1():
    values = np.array([-300.0, -80, -20, -3, 0, 3, 20, 80, 300])
    a, b = (part.ravel() for part in np.meshgrid(values, values))
    # In logs and in extended precision: the odds of the product are 1 / (e^-a + e^-b + e^(-a-b)).
    parts = np.stack([-a, -b, -a - b]).astype(np.longdouble)
    largest = parts.max(axis=0)
    expected = -(largest + np.log(np.exp(parts - largest).sum(axis=0)))
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        pair = torch.tensor(np.stack([a, b]), dtype=dtype, requires_grad=True)
        found = _logit_of_product(pair[0], pair[1])
        np.testing.assert_allclose(found.detach().numpy(), expected.astype(float), rtol=tolerance, atol=tolerance)
        found.sum().backward()
        assert torch.isfinite(pair.grad).all()
    moderate = 1 / (1 + np.exp(-np.array([-2.0, 0.5]))), 1 / (1 + np.exp(-np.array([1.0, 3.0])))
    product = moderate[0] * moderate[1]
    found = _logit_of_product(torch.tensor([-2.0, 0.5]), torch.tensor([1.0, 3.0]))
    np.testing.assert_allclose(found, np.log(product / (1 - product)), rtol=1e-6)


def test_an_offset_corrects_the_click_and_leaves_conversions_after_it_alone():
    """Keep one negative of four: p -> p / (p + (1 - p) / s) for the click, and pCTCVR by the same factor."""
    ranker, rows = with_bias(ESMM(two_labels(), dim=3)), frame()
    click, both = ranker.predict(rows).T
    ranker.offset.fill_(np.log(0.25))
    corrected, product = ranker.predict(rows).T
    np.testing.assert_allclose(corrected, click / (click + (1 - click) / 0.25), rtol=1e-6)
    np.testing.assert_allclose(product / corrected, both / click, rtol=1e-6)
    extreme = torch.tensor([[-90.0, -120.0], [90.0, 90.0], [5.0, 5.0], [40.0, -40.0]], dtype=torch.float64)
    ranker.offset.zero_()
    torch.testing.assert_close(ranker.calibrated(extreme), extreme, rtol=1e-6, atol=1e-9)


def impressions(num_rows: int, seed: int) -> pd.DataFrame:
    """Items of a quality that decides clicks and conversions alike: what is clicked is the better half."""
    random = np.random.default_rng(seed)
    quality = np.random.default_rng(0).standard_normal(150)
    item = random.integers(0, len(quality), num_rows)
    ctr, cvr = (1 / (1 + np.exp(-shift - 1.5 * quality[item])) for shift in (-2.0, -1.0))
    clicked = random.random(num_rows) < ctr
    bought = clicked & (random.random(num_rows) < cvr)
    return pd.DataFrame({"item": item, "cvr": cvr, "clicked": clicked, "bought": bought})


def test_esmm_recovers_planted_conversions_better_than_training_on_clicks():
    """Of a poor item the clicked rows hold next to nothing, and what they hold of others is too good for it."""
    rows, valid = impressions(15_000, seed=1), impressions(5_000, seed=2)
    items = impressions(5_000, seed=3).drop_duplicates("item")  # asked about every item alike, clicked or not
    config = FitConfig(epochs=20, batch_size=500, learning_rate=0.01)
    esmm = ESMM(FeatureSpec(categorical={"item": 150}, label=["clicked", "bought"]), dim=4, tower=(8,))
    naive = DCNv2(FeatureSpec(categorical={"item": 150}, label="bought"), dim=4, cross_layers=1, hidden=(8,))
    fit(esmm, rows, valid, config)
    fit(naive, rows[rows["clicked"]], valid[valid["clicked"]], replace(config, epochs=100, patience=5))
    truth = items["cvr"].to_numpy()
    ours, theirs = esmm.conversion_after_click(items), naive.predict(items)
    assert np.sqrt(np.mean((ours - truth) ** 2)) < 0.7 * np.sqrt(np.mean((theirs - truth) ** 2))
    assert abs(ours.mean() - truth.mean()) < 0.5 * abs(theirs.mean() - truth.mean())


def test_the_towers_start_from_the_shares_of_clicks_and_of_conversions_among_them():
    rows = pd.DataFrame({"item": 1, "clicked": [1] * 20 + [0] * 80, "bought": [1] * 5 + [0] * 95})
    ranker = ESMM(FeatureSpec(categorical={"item": [7]}, label=["clicked", "bought"]), dim=2)
    ranker.start_bias(np.array([0.2, 0.05]))
    np.testing.assert_allclose(ranker.bias.detach(), [np.log(0.2 / 0.8), np.log(0.25 / 0.75)], rtol=1e-6)
    fit(ranker, rows, None, FitConfig(epochs=1, learning_rate=1e-9))
    np.testing.assert_allclose(ranker.bias.detach(), [np.log(0.2 / 0.8), np.log(0.25 / 0.75)], rtol=1e-6)
    ranker.start_bias(np.array([0.2, 0.2]))  # every click converts
    assert ranker.bias[1].item() == pytest.approx(np.log(1e6), rel=1e-2)


def test_labels_that_do_not_fit_are_refused():
    features = spec().fit(frame())
    for ranker_type, name in ((SharedBottom, "SharedBottom"), (MMoE, "MMoE")):
        with pytest.raises(ConfigError, match=rf"{name} takes two labels or more.*\['clicked'\]"):
            ranker_type(features)
    for label in ("clicked", ["clicked", "bought", "country"]):
        with pytest.raises(ConfigError, match="ESMM takes two labels, the click and the conversion"):
            ESMM(FeatureSpec(dense=["age"], label=label))
    rows = frame().assign(clicked=[0, 1] * 20, bought=[1, 1] * 10 + [0, 0] * 10)
    with pytest.raises(DataError, match="10 of 40 rows have 'bought' without 'clicked'"):
        fit(ESMM(two_labels()), rows, None, FitConfig(epochs=1))
    with pytest.raises(ConfigError, match=r"experts=0.*at least 1"):
        MMoE(two_labels(), experts=0)
