"""Mixtures as layers: each pooling against a loop in float64, and against the equation it is named after."""

import numpy as np
import pytest
import torch

from recokit.errors import ConfigError, DataError
from recokit.layers import MixtureEmbedding
from recokit.table import EmbeddingTable, Mixture

COUNT, PARTS, DIM, ITEMS = 12, 4, 5, 30
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((ITEMS, DIM)).astype(np.float32)
COMPONENT_ROWS = RNG.integers(0, ITEMS, (COUNT, PARTS))
COMPONENT_ROWS[:4, 3] = -1
COMPONENT_ROWS[:2, 1] = -1
WEIGHTS = np.where(COMPONENT_ROWS >= 0, RNG.random((COUNT, PARTS)), 0)
TARGETS = RNG.standard_normal((COUNT, DIM)).astype(np.float32)


def mixture(comparator: str = "dot", *, vectors: np.ndarray = VECTORS, weights: np.ndarray = WEIGHTS) -> Mixture:
    items = EmbeddingTable.from_arrays(np.arange(ITEMS), vectors, entity="item", version="v1", comparator=comparator)
    return Mixture.from_rows(np.arange(COUNT), COMPONENT_ROWS, weights, components=items, entity="user")


def score(vector: np.ndarray, target: np.ndarray, comparator: str) -> float:
    if comparator == "cos":
        return vector @ target / np.linalg.norm(vector) / np.linalg.norm(target)
    distance = np.linalg.norm(vector - target)
    return {"dot": vector @ target, "l2": -distance, "squared_l2": -(distance**2)}[comparator]


def naive(table: Mixture, pooling: str, temperature: float) -> np.ndarray:
    pooled = []
    for row in range(COUNT):
        there = table.component_rows[row] >= 0
        vectors = table.components.vectors[table.component_rows[row][there]].astype(np.float64)
        weights = table.weights[row][there].astype(np.float64)
        scores = np.array([score(vector, TARGETS[row].astype(np.float64), table.comparator) for vector in vectors])
        exponentials = np.exp(scores / temperature)
        shares = {
            "mean": weights,
            "max": np.arange(len(scores)) == scores.argmax(),
            "smoothmax": exponentials / exponentials.sum(),
            "attention": weights * exponentials / (weights * exponentials).sum(),
        }[pooling]
        pooled.append(shares @ vectors)
    return np.stack(pooled)


def run(table: Mixture, pooling: str, temperature: float = 1.0, rows=None, targets=TARGETS) -> np.ndarray:
    layer = MixtureEmbedding(table, pooling=pooling, temperature=temperature)
    rows = torch.arange(COUNT) if rows is None else torch.tensor(rows)
    return layer(rows, *(() if pooling == "mean" else (torch.tensor(targets),))).numpy()


@pytest.mark.parametrize("comparator", ["dot", "cos", "l2", "squared_l2"])
@pytest.mark.parametrize("pooling", ["mean", "max", "smoothmax", "attention"])
def test_every_pooling_is_a_loop_over_components(pooling, comparator):
    table = mixture(comparator)
    np.testing.assert_allclose(run(table, pooling, 0.7), naive(table, pooling, 0.7), rtol=1e-5, atol=1e-5)


def test_with_dot_the_pooled_vectors_score_is_equation_1():
    table, gamma = mixture("dot"), 0.3
    for row in range(COUNT):
        there = table.component_rows[row] >= 0
        scores = table.components.vectors[table.component_rows[row][there]].astype(np.float64) @ TARGETS[row]
        smoothmax = np.sum(scores * np.exp(scores / gamma)) / np.sum(np.exp(scores / gamma))
        assert run(table, "smoothmax", gamma)[row] @ TARGETS[row] == pytest.approx(smoothmax, rel=1e-4, abs=1e-5)


def test_the_temperature_goes_from_the_best_component_to_the_means():
    table = mixture()
    plain = np.stack([VECTORS[rows[rows >= 0]].mean(axis=0) for rows in table.component_rows])
    for pooling in ("smoothmax", "attention"):
        np.testing.assert_allclose(run(table, pooling, 1e-3), run(table, "max"), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(run(table, "smoothmax", 1e6), plain, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(run(table, "attention", 1e6), run(table, "mean"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["max", "smoothmax", "attention"])
def test_great_scores_do_not_overflow(pooling):
    vectors, targets = 100 * VECTORS, 100 * TARGETS  # exp(10,000 / 0.01)
    found = run(mixture(vectors=vectors), pooling, 0.01, targets=targets)
    np.testing.assert_allclose(found, run(mixture(vectors=vectors), "max", targets=targets), rtol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "max", "smoothmax", "attention"])
def test_unknown_rows_give_zeros_and_leading_dimensions_stay(pooling):
    table = mixture()
    found = run(table, pooling, 0.1, rows=[[3, -1], [-1, 0]], targets=TARGETS[[[3, 1], [1, 0]]])
    assert found[0, 1].tolist() == found[1, 0].tolist() == [0.0] * DIM
    np.testing.assert_allclose(found[[0, 1], [0, 1]], naive(table, pooling, 0.1)[[3, 0]], rtol=1e-5, atol=1e-6)


def test_a_weight_of_zero_counts_for_smoothmax_and_not_for_attention():
    weights = np.zeros((COUNT, PARTS))
    weights[:, 0] = 1.0
    table = mixture(weights=weights)
    np.testing.assert_array_equal(run(table, "attention"), VECTORS[COMPONENT_ROWS[:, 0]])
    np.testing.assert_array_equal(run(table, "mean"), VECTORS[COMPONENT_ROWS[:, 0]])
    np.testing.assert_allclose(run(table, "smoothmax"), naive(table, "smoothmax", 1.0), rtol=1e-5, atol=1e-6)


def test_float16_components_come_out_as_float32():
    table = mixture(vectors=VECTORS.astype(np.float16))
    found = MixtureEmbedding(table)(torch.arange(COUNT))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), naive(table, "mean", 1.0), rtol=1e-5, atol=1e-6)


def test_nothing_trains_but_the_unknown_and_the_target(tmp_path):
    saved = Mixture.load(mixture().save(tmp_path / "user-interests"))
    layer = MixtureEmbedding(saved, pooling="attention")
    assert list(layer.parameters()) == []
    assert layer.state_dict() == {}
    assert layer.vectors.data_ptr() == saved.components.vectors.ctypes.data
    assert layer.weights.data_ptr() == saved.weights.ctypes.data

    layer = MixtureEmbedding(saved, pooling="smoothmax", unknown="learned")
    target = torch.tensor(TARGETS[:2], requires_grad=True)
    layer(torch.tensor([5, -1]), target).sum().backward()
    assert layer.unknown.grad.tolist() == [1.0] * DIM
    assert target.grad[0].abs().sum() > 0
    assert target.grad[1].tolist() == [0.0] * DIM


def test_the_gradient_of_a_target_that_is_a_component_is_finite():
    layer = MixtureEmbedding(mixture("l2"), pooling="smoothmax")
    target = torch.tensor(VECTORS[COMPONENT_ROWS[5, :1]], requires_grad=True)
    layer(torch.tensor([5]), target).sum().backward()
    assert torch.isfinite(target.grad).all()


def test_raw_components_and_which_are_there():
    vectors, weights, present = MixtureEmbedding(mixture()).components(torch.tensor([0, -1, 7]))
    assert present.tolist() == [[True, False, True, False], [False] * 4, [True] * 4]
    np.testing.assert_array_equal(vectors[0, [0, 2]].numpy(), VECTORS[COMPONENT_ROWS[0, [0, 2]]])
    np.testing.assert_array_equal(weights[[0, 2]].numpy(), mixture().weights[[0, 7]])
    assert weights[1].tolist() == [0.0] * 4


def test_refusals():
    rows = torch.tensor([0])
    with pytest.raises(DataError, match="the mixture 'user': pooling='max' needs a target"):
        MixtureEmbedding(mixture(), pooling="max")(rows)
    with pytest.raises(DataError, match="pooling='mean' takes no target"):
        MixtureEmbedding(mixture())(rows, torch.zeros(1, DIM))
    with pytest.raises(DataError, match="row 12 of a table 'user' of 12 rows"):
        MixtureEmbedding(mixture())(torch.tensor([12]))
    with pytest.raises(ConfigError, match=r"pooling='softmax'.*smoothmax"):
        MixtureEmbedding(mixture(), pooling="softmax")
    with pytest.raises(ConfigError, match=r"temperature=0\.0"):
        MixtureEmbedding(mixture(), temperature=0.0)
