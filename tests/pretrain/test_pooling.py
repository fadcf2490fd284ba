"""Pooling of components' similarities: Eq. 1 and 2 spelled out, and the step of mixtures against float64 loops."""

import dataclasses
import itertools
import math

import naive
import numpy as np
import pytest
import torch

from pretrain import step as step_module
from pretrain.config import TrainConfig
from pretrain.movers import Offset, forms
from pretrain.pooling import Pooled, Pooling, Widened, comparator_of, largest, smoothmax
from pretrain.step import Batch, Sampled, Step
from recokit.errors import ConfigError

DIM, NUM_RELATIONS = 4, 3
M = [0.9, 0.1, -0.3, 0.5]


def tensor(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype)


# ---- Eq. 1


def test_smoothmax_is_the_boltzmann_operator():
    e = [math.exp(1.8), math.exp(0.2), math.exp(-0.6), math.exp(1.0)]  # M / .5
    expected = (0.9 * e[0] + 0.1 * e[1] - 0.3 * e[2] + 0.5 * e[3]) / sum(e)
    value, grad = smoothmax(tensor(*M), 0.5)
    assert value.item() == pytest.approx(expected, rel=1e-14)
    assert grad.tolist() == pytest.approx([x / sum(e) * (1 + (m - expected) / 0.5) for x, m in zip(e, M, strict=True)])
    assert value.item() < 0.5 * math.log(sum(e))  # no logarithm of a sum, which lies above the maximum


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0, 30.0])
def test_the_gradient_of_smoothmax_is_its_slope(temperature):
    similarities = np.random.default_rng(0).uniform(-1, 1, (3, 6))
    value, grad = smoothmax(torch.tensor(similarities), temperature)
    for row, (one, its) in enumerate(zip(value.tolist(), grad.numpy(), strict=True)):
        assert one == pytest.approx(naive.smoothmax(similarities[row].tolist(), temperature), rel=1e-12)
        slopes = naive.slopes(lambda row=row: naive.smoothmax(similarities[row].tolist(), temperature), similarities)
        np.testing.assert_allclose(its, slopes[row], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(grad.sum(1), 1.0)  # a number added to all is added to the result


def test_what_lies_more_than_the_temperature_below_the_result_is_pushed_away():
    value, grad = smoothmax(tensor(*M), 0.25)
    assert [g < 0 for g in grad.tolist()] == [m < value.item() - 0.25 for m in M] == [False, True, True, True]


def test_towards_0_it_is_the_maximum_and_towards_infinity_the_mean():
    cold, warm = smoothmax(tensor(*M), 1e-4), smoothmax(tensor(*M), 1e6)
    assert cold[0].item() == 0.9
    assert cold[1].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert warm[0].item() == pytest.approx((0.9 + 0.1 - 0.3 + 0.5) / 4, abs=1e-6)
    assert warm[1].tolist() == pytest.approx([0.25] * 4, abs=1e-6)
    assert [g.tolist() for g in largest(tensor(*M))] == [0.9, [1.0, 0.0, 0.0, 0.0]]
    assert largest(tensor(0.1, 0.7, 0.7))[1].tolist() == [0.0, 1.0, 0.0]  # the first of equal ones alone


@pytest.mark.parametrize(
    ("temperature", "similarities", "value", "grad"),
    [
        (1e-3, [1.0, -1.0, 1.0, -1.0], 1.0, [0.5, 0.0, 0.5, 0.0]),
        (1e-3, [-1.0, -1.0], -1.0, [0.5, 0.5]),
        (1e-3, [1e4, -1e4, 0.0], 1e4, [1.0, 0.0, 0.0]),
        (1e3, [1.0, -1.0], 0.001, [0.501, 0.499]),
    ],
)
def test_extreme_scores_are_finite_in_float32(temperature, similarities, value, grad):
    got = smoothmax(tensor(*similarities, dtype=torch.float32), temperature)
    assert got[0].item() == pytest.approx(value, rel=1e-4)
    np.testing.assert_allclose(got[1], grad, atol=2e-3)


# ---- Eq. 2


def test_positives_are_pooled_towards_the_average_and_as_printed_towards_the_sum():
    e = [math.exp(m / 0.2) for m in (0.8, 0.4, 0.2, 0.0, -0.4)]
    shares = [x / sum(e) for x in e]
    similarities = tensor(0.8, 0.4, 0.2, 0.0, -0.4)
    pooled = 0.8 * shares[0] + 0.4 * shares[1] + 0.2 * shares[2] - 0.4 * shares[4]
    normalized, printed = (Pooling("smoothmax", 0.2, 0.1, form) for form in (False, True))
    assert normalized.positives(similarities)[0].item() == pytest.approx(0.1 * (1.0 / 5) + 0.9 * pooled)
    assert printed.positives(similarities)[0].item() == pytest.approx(0.1 * 1.0 + 0.9 * pooled)
    assert normalized.negatives(similarities)[0].item() == printed.negatives(similarities)[0].item() != 0.0
    assert normalized.negatives(similarities)[0].item() == pytest.approx(pooled)
    slopes = [p * (1 + (m - pooled) / 0.2) for p, m in zip(shares, similarities.tolist(), strict=True)]
    assert normalized.positives(similarities)[1].tolist() == pytest.approx([0.1 / 5 + 0.9 * s for s in slopes])
    assert printed.positives(similarities)[1].tolist() == pytest.approx([0.1 + 0.9 * s for s in slopes])


def test_as_printed_five_equal_similarities_count_1_4_times():
    equal = tensor(*[0.7] * 5)
    assert Pooling("smoothmax", 0.1, 0.1).positives(equal)[0].item() == pytest.approx(0.7)
    assert Pooling("smoothmax", 0.1, 0.1, printed=True).positives(equal)[0].item() == pytest.approx(
        0.7 * (0.1 * 5 + 0.9)
    )


def test_the_maximum_has_an_average_too():
    value, grad = Pooling("max", 0.1, 0.2).positives(tensor(*M))
    assert value.item() == pytest.approx(0.2 * (0.9 + 0.1 - 0.3 + 0.5) / 4 + 0.8 * 0.9)
    assert grad.tolist() == pytest.approx([0.05 + 0.8, 0.05, 0.05, 0.05])


@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize("theta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["max", "smoothmax"])
def test_one_component_of_both_is_the_plain_score(kind, theta, printed):
    pooling, scores = Pooling(kind, 0.01, theta, printed), tensor(0.7, -0.2)[:, None]
    for value, grad in (pooling.positives(scores), pooling.negatives(scores)):
        assert value.tolist() == pytest.approx([0.7, -0.2])
        assert grad.tolist() == [[pytest.approx(1.0)]] * 2


def test_with_theta_1_a_positive_is_the_average_and_with_0_pooled_like_a_negative():
    assert Pooling("smoothmax", 0.1, 1.0).positives(tensor(*M))[1].tolist() == pytest.approx([0.25] * 4)
    free = Pooling("smoothmax", 0.1, 0.0)
    assert free.positives(tensor(*M))[0].item() == free.negatives(tensor(*M))[0].item()


# ---- the comparator of mixtures


@pytest.mark.parametrize("regularized", [True, False])
@pytest.mark.parametrize("comparator", ["cos", "dot"])
def test_pairs_and_blocks_agree_with_loops(comparator, regularized):
    config = TrainConfig(
        dim=DIM, comparator=comparator, components={"a": 2}, pooling_temperature=0.3, pooling_regularization=0.4
    )
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 2 * DIM)), rng.normal(size=(5, 3 * DIM))
    setting = naive.Setting(
        comparator=comparator, pooling_temperature=0.3, pooling_regularization=0.4 if regularized else 0.0
    )

    def score(i, j, *, positive):
        pairs = itertools.product(naive.parts(a[i], 2), naive.parts(b[j], 3))
        return naive.pool([naive.compare(comparator, x, y) for x, y in pairs], setting, positive=positive)

    pooled = comparator_of(config, regularized=regularized)
    left, right = (pooled.prepare(torch.tensor(side))[0] for side in (a, b))
    assert pooled.pairs(left, right)[0].tolist() == pytest.approx([score(i, i, positive=True) for i in range(5)])
    expected = [[score(i, j, positive=False) for j in range(5)] for i in range(5)]
    np.testing.assert_allclose(pooled.block(left, right)[0], expected, rtol=1e-12)


def test_without_mixtures_nothing_is_pooled():
    for components in (1, {}, {"a": 1}):
        assert not isinstance(comparator_of(TrainConfig(components=components)), Pooled)


def test_components_are_moved_and_have_no_offsets():
    mover = Widened(forms("translation", "target", "dot")["target"].mover, 2)
    with pytest.raises(TypeError, match="cannot have offsets"):
        mover.forward(torch.zeros(1, 4), torch.zeros(1, 2), None)
    for operator in ("translation", "affine"):
        form = forms(operator, "target", "dot", offsets=False)["target"]
        assert not isinstance(form.mover, Offset)
        assert form.moves == "candidates"


# ---- the step

COMPONENTS = [(5, 1), (1, 3), (2, 3), (3, 3)]  # (3, 3): one entity type at both ends
POOLINGS = [("smoothmax", "normalized"), ("max", "normalized"), ("smoothmax", "printed"), ("max", "printed")]
# Row 1 is a source three times; negatives repeat rows and hit the edges' own ends (accidental positives).
BOTH = naive.Edges(
    [1, 1, 0, 1], [2, 0, 0, 2], [1.0, 0.5, 2.0, 0.25], [3, 1, 3, 0, 2], [3, 2, 0], relations=[0, 2, 1, 2]
)
BATCHES = [
    BOTH,
    dataclasses.replace(BOTH, negative_sources=[]),
    dataclasses.replace(BOTH, negative_sources=BOTH.sources, negative_targets=BOTH.targets),  # in-batch
    dataclasses.replace(BOTH, negative_sources=[], negative_targets=BOTH.targets, relations=[1] * 4),
]


def config_of(setting):
    """The settings of a step; how many components there are it sees from the tables."""
    names = [field.name for field in dataclasses.fields(setting) if hasattr(TrainConfig, field.name)]
    given = {name: getattr(setting, name) for name in names}
    if setting.loss != "ranking":
        del given["margin"]
    return TrainConfig(dim=DIM, components={"a": 2}, **given)


def step_of(setting):
    both = forms(setting.operator, setting.operator_side, setting.comparator, offsets=False)
    return Step.of(config_of(setting), both["target"], both["source"])


def random_tables(setting, *, biases, one_type, seed):
    rng = np.random.default_rng(seed)
    size = len(naive.identity_parameters(setting.operator, DIM))
    sources = rng.normal(size=(4, setting.source_components * DIM))
    bias = [rng.normal(size=4), rng.normal(size=4)]
    return naive.Tables(
        sources,
        sources if one_type else rng.normal(size=(4, setting.target_components * DIM)),
        rng.normal(size=(NUM_RELATIONS, size)),
        None,
        bias[0] if biases else None,
        (bias[0] if one_type else bias[1]) if biases else None,
    )


def engine_batch(batch):
    def sampled(drawn):
        return Sampled(torch.tensor(drawn)) if drawn else None

    return Batch(
        torch.tensor(batch.sources),
        torch.tensor(batch.targets),
        torch.tensor(batch.relations),
        torch.tensor(batch.weights, dtype=torch.float64),
        sampled(batch.negative_sources),
        sampled(batch.negative_targets),
    )


def run_step(setting, tables, batch):
    """The engine's losses, and the dense gradient of every array."""
    given = {name: torch.tensor(array) for name, array in tables.arrays().items()}
    targets = given.get("targets", given["sources"])
    biases = given.get("source_biases"), given.get("target_biases", given.get("source_biases"))
    got = step_of(setting)(
        given["sources"],
        targets,
        given["parameters"],
        engine_batch(batch),
        source_bias=biases[0],
        target_bias=biases[1],
    )
    dense = {name: torch.zeros_like(array) for name, array in given.items()}
    for end, rows, grads, of_biases in (
        ("source", got.source_rows, got.source_grads, got.source_bias_grads),
        ("target", got.target_rows, got.target_grads, got.target_bias_grads),
    ):
        dense[f"{end}s" if f"{end}s" in dense else "sources"].index_add_(0, rows, grads)
        if of_biases is not None:
            dense[f"{end}_biases" if f"{end}_biases" in dense else "source_biases"].index_add_(0, rows, of_biases)
    dense["parameters"].index_add_(0, got.relation_rows, got.relation_grads)
    return got.losses, dense


def check_step(setting, tables, batch, rng, what):
    """The loss, and the slope of every array along a random direction, in which every entry counts."""
    losses, grads = run_step(setting, tables, batch)
    assert losses.sum().item() == pytest.approx(naive.batch_loss(tables, batch, setting), rel=1e-11), what
    for name, array in tables.arrays().items():
        if not array.size:
            continue
        direction, kept, ends = rng.normal(size=array.shape), array.copy(), []
        for step in (1e-6, -1e-6):
            array[...] = kept + step * direction
            ends.append(naive.batch_loss(tables, batch, setting))
            array[...] = kept
        slope = (grads[name].numpy() * direction).sum()
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=2e-6, abs=2e-6), f"{what}: {name}"


CHOICES = list(
    itertools.product(
        ["identity", "translation", "complex_diagonal"], ["cos", "dot"], ["ranking", "softmax", "logistic"]
    )
)


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_gradients_of_mixtures_agree_with_loops(choice):
    operator, comparator, loss = choice
    number, rng = CHOICES.index(choice), np.random.default_rng(CHOICES.index(choice))
    # Every pooling with every number of components; sides, batches, biases and the operator's side in turn.
    for at, (components, (kind, form)) in enumerate(itertools.product(COMPONENTS, POOLINGS)):
        setting = naive.Setting(
            operator, comparator, loss, "target" if (at + number) % 3 == 0 else "source",
            temperature=[0.5, 1.0][number % 2], margin=0.3,
            source_components=components[0], target_components=components[1], pooling=kind, pooling_form=form,
            pooling_temperature=[0.1, 0.4][at % 2], pooling_regularization=[0.1, 0.5][(at // 2) % 2],
        )  # fmt: skip
        one_type = components == (3, 3)
        tables = random_tables(setting, biases=(at // 4 + at) % 2 == 0, one_type=one_type, seed=100 * number + at)
        batch = BATCHES[(at + at // 4 + number // 2) % 4]
        check_step(setting, tables, batch, rng, f"{setting} {batch}")


def test_the_ranking_loss_of_an_edge_is_eq_3_and_weights_multiply_it():
    """Two components of a user, two items of one; cosines by hand: users (1, 0) and (0, 1), items (1, 0), (.6, .8)."""
    setting = naive.Setting(
        comparator="cos", loss="ranking", margin=0.5, source_components=2, pooling_temperature=0.2,
        pooling_regularization=0.1,
    )  # fmt: skip
    users = np.array([[1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0]])
    items = np.array([[3.0, 0.0, 0.0, 0.0], [0.6, 0.8, 0.0, 0.0]])
    tables = naive.Tables(users, items, np.zeros((1, 0)))
    batch = naive.Edges([0], [0], [2.5], [], [1], relations=[0])
    e = [math.exp(1 / 0.2), math.exp(0.0)], [math.exp(0.6 / 0.2), math.exp(0.8 / 0.2)]
    positive = 0.1 * (1 + 0) / 2 + 0.9 * e[0][0] / sum(e[0])
    negative = (0.6 * e[1][0] + 0.8 * e[1][1]) / sum(e[1])
    losses, _ = run_step(setting, tables, batch)
    assert losses.tolist() == [pytest.approx(2.5 * max(negative + 0.5 - positive, 0))]
    assert losses.item() > 0.5


# ---- in parts


@pytest.mark.parametrize("most", [1, 30, 100])
@pytest.mark.parametrize("operator_side", ["source", "target"])
@pytest.mark.parametrize("relations", [[0, 2, 1, 2], [1, 1, 1, 1]])
@pytest.mark.parametrize(("operator", "comparator"), [("translation", "dot"), ("complex_diagonal", "cos")])
def test_a_batch_in_parts_is_the_batch(monkeypatch, operator, comparator, relations, operator_side, most):
    setting = naive.Setting(operator, comparator, "softmax", operator_side, source_components=2, target_components=3)
    tables = random_tables(setting, biases=True, one_type=False, seed=0)
    batch = dataclasses.replace(BOTH, relations=relations)
    whole = run_step(setting, tables, batch)
    sizes, block = [], Pooled.block

    def counted(self, a, b):
        sizes.append((a.shape[1] // self.dim) * (b.shape[1] // self.dim) * len(a) * len(b))
        return block(self, a, b)

    monkeypatch.setattr(Pooled, "block", counted)
    monkeypatch.setattr(step_module, "_SIMILARITIES", most)
    in_parts = run_step(setting, tables, batch)
    one_edge = 2 * 3 * 5  # with the five negatives of the sources
    assert max(sizes) <= max(most, one_edge)
    assert sum(sizes) == 2 * 3 * 4 * (5 + 3)
    if most == 1:
        assert len(sizes) == 4 + 4
    torch.testing.assert_close(in_parts[0], whole[0], rtol=1e-13, atol=1e-13)
    for name, grad in whole[1].items():
        torch.testing.assert_close(in_parts[1][name], grad, rtol=1e-12, atol=1e-12, msg=name)


def test_one_vector_each_is_not_cut(monkeypatch):
    monkeypatch.setattr(step_module, "_SIMILARITIES", 1)
    config = TrainConfig(dim=DIM)
    both = forms("translation", "source", "cos")
    assert Step.of(config, both["target"], both["source"])._edges_at_once(DIM, 7 * DIM) is None
    mixed = step_of(naive.Setting())
    monkeypatch.setattr(step_module, "_SIMILARITIES", 1 << 22)
    assert mixed._edges_at_once(5 * DIM, 1000 * DIM) == (1 << 22) // 5000


# ---- settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"components": 0}, "components of every entity type must be a whole number of at least 1, got 0"),
        ({"components": {"user": 2.0}}, "components of user must be a whole number of at least 1, got 2.0"),
        ({"components": {"user": 65}}, "components of user must be at most 64, which the kernels hold at once, got 65"),
        ({"components": {"user": True}}, "components of user must be a whole number of at least 1, got True"),
        ({"pooling": "mean"}, "pooling 'mean' is not known; known: max, smoothmax"),
        ({"pooling": "smothmax"}, "did you mean 'smoothmax'"),
        ({"pooling_form": "print"}, "did you mean 'printed'"),
        ({"pooling_temperature": 0.0}, "pooling_temperature must be a number above 0, got 0.0"),
        ({"weight_temperature": -1.0}, "weight_temperature must be a number above 0, got -1.0"),
        ({"pooling_regularization": 1.5}, "pooling_regularization must be at most 1, a share, got 1.5"),
        ({"pooling_regularization": -0.5}, "pooling_regularization must be a number of at least 0, got -0.5"),
        ({"components": 2, "comparator": "l2"}, "components are compared by 'cos' or 'dot', not by 'l2'"),
        ({"components": {"user": 2}, "comparator": "squared_l2"}, "not by 'squared_l2'"),
        ({"components": 2, "init": "spectral"}, 'which init="spectral" gives no way to'),
        ({"components": 2, "engine": "gpu"}, "engine 'gpu' has no components; take 'auto' or 'torch'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(ConfigError) as error:
        TrainConfig(**settings)
    assert said in str(error.value)


def test_what_one_vector_each_may_be_mixtures_of_none_may_be_too():
    for settings in ({"comparator": "l2"}, {"init": "spectral"}, {"engine": "gpu"}):
        assert not TrainConfig(components={"user": 1}, **settings).has_mixtures
    config = TrainConfig(dim=3, components={"user": 5})
    assert (config.width("user"), config.width("item")) == (15, 3)
    assert (config.state_shape("user"), config.state_shape("item")) == ((5,), ())
    elements = dataclasses.replace(config, optimizer="adagrad")
    assert (elements.state_shape("user"), elements.state_shape("item")) == ((15,), (3,))
