"""Regularisers by arithmetic, by finite differences, and in whole runs."""

import math

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain import Graph, Relation, TrainConfig, train
from pretrain.regularisers import penalty
from pretrain.run import Run
from pretrain.warm import carry


def one(vector, weight=1.0, **factors):
    """The penalty of one vector and its gradient."""
    factors = {"l2": 0.0, "n3": 0.0, "complex_numbers": False} | factors
    value, grad = penalty(
        torch.tensor([vector], dtype=torch.float64), torch.tensor([weight], dtype=torch.float64), **factors
    )  # fmt: skip
    return value.item(), grad[0].tolist()


def test_squares_and_cubes_by_hand():
    assert one([1.0, -2.0, 3.0], l2=0.5) == (0.5 * (1 + 4 + 9), [1.0, -2.0, 3.0])
    assert one([1.0, -2.0, 3.0], n3=2.0) == (2 * (1 + 8 + 27), [2 * 3.0, 2 * 3 * -4.0, 2 * 3 * 9.0])
    assert one([1.0, -2.0, 3.0], l2=0.5, n3=2.0, weight=0.25) == (0.25 * (7 + 72), [1.75, -6.5, 14.25])


def test_of_complex_numbers_the_moduli_count():
    value, grad = one([3.0, 0.0, 4.0, 2.0], n3=1.0, complex_numbers=True)  # 3 + 4i and 2i
    assert value == pytest.approx(5**3 + 2**3)
    assert grad == pytest.approx([3 * 5 * 3, 0.0, 3 * 5 * 4, 3 * 2 * 2])
    # A turn changes nothing; squares do not know the difference.
    turned = naive.operate("rotation", [3.0, 0.0, 4.0, 2.0], [0.4, 1.1])
    assert one(turned.tolist(), n3=1.0, complex_numbers=True)[0] == pytest.approx(value)
    assert one([3.0, 0.0, 4.0, 2.0], l2=1.0, complex_numbers=True)[0] == pytest.approx(9 + 16 + 4)


def test_a_zero_costs_nothing_and_has_no_slope():
    for complex_numbers in (False, True):
        assert one([0.0, 0.0], l2=1.0, n3=1.0, complex_numbers=complex_numbers) == (0.0, [0.0, 0.0])


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(0, 4), seed=st.integers(0, 99), l2=st.sampled_from([0.0, 0.1]), n3=st.sampled_from([0.0, 0.3]),
    complex_numbers=st.booleans(),
)  # fmt: skip
def test_gradients_agree_with_autograd_of_complex_numbers(size, seed, l2, n3, complex_numbers):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(size, 6, generator=generator, dtype=torch.float64).requires_grad_()
    weights = torch.rand(size, generator=generator, dtype=torch.float64)
    parts = torch.complex(*vectors.chunk(2, dim=1)) if complex_numbers else vectors
    expected = weights * (l2 * parts.abs().square().sum(1) + n3 * parts.abs().pow(3).sum(1))
    expected_grad = torch.autograd.grad(expected.sum(), vectors)[0]
    value, grad = penalty(vectors.detach(), weights, l2=l2, n3=n3, complex_numbers=complex_numbers)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(grad, expected_grad)


EDGES = pd.DataFrame({"source": [0, 1, 1, 2], "target": [0, 0, 1, 2], "weight": [1.0, 0.5, 2.0, 4.0]})
CONFIG = TrainConfig(
    dim=4, epochs=1, batch_size=4, uniform_negatives="all", init_scale=1.0, learning_rate=1e-30,
    relation_learning_rate=1e-30,
)  # fmt: skip


def loss_of(config, **relation):
    """The loss of the first epoch, summed over the four edges, and the model that stayed where it was."""
    graph = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "b", **relation)])
    model = train(graph, TrainConfig(**{**vars(CONFIG), **config}))
    return 4 * model.epochs[0]["loss"], model


@pytest.mark.parametrize(
    ("operator", "size"),  # of the parameters at their start: squares and cubes are the same, 0 or 1 each
    [("identity", 0), ("translation", 0), ("diagonal", 4), ("complex_diagonal", 2), ("linear", 4), ("affine", 4),
     ("rotation", 0)],
)  # fmt: skip
@pytest.mark.parametrize("reciprocal", [False, True])
def test_an_edge_costs_its_weight_times_its_ends_and_its_relation(operator, size, reciprocal):
    config = {"operator": operator, "reciprocal": reciprocal}
    plain, model = loss_of(config, weight=3.0)
    squares, cubes = 0.0, 0.0
    for s, t, weight in EDGES.itertuples(index=False):
        for vector in (model.vectors["a"][int(s)], model.vectors["b"][int(t)]):
            parts = vector.double().tolist()
            if operator in ("complex_diagonal", "rotation"):
                parts = naive.as_complex(parts)
            squares += 3.0 * weight * sum(abs(x) ** 2 for x in parts)
            cubes += 3.0 * weight * sum(abs(x) ** 3 for x in parts)
        for total in [size] * (2 if reciprocal else 1):
            squares, cubes = squares + 3.0 * weight * total, cubes + 3.0 * weight * total
    assert loss_of({**config, "l2": 0.1}, weight=3.0)[0] == pytest.approx(plain + 0.1 * squares, rel=1e-5)
    assert loss_of({**config, "n3": 0.01}, weight=3.0)[0] == pytest.approx(plain + 0.01 * cubes, rel=1e-5)
    both = loss_of({**config, "l2": 0.1, "n3": 0.01}, weight=3.0)[0]
    assert both == pytest.approx(plain + 0.1 * squares + 0.01 * cubes, rel=1e-5)


def test_sides_do_not_matter_to_what_an_edge_costs():
    for sides in ("source", "target"):
        plain, model = loss_of({"sides": sides, "operator": "identity"})
        squares = sum(
            weight
            * sum(model.vectors[end][int(row)].double().square().sum().item() for end, row in (("a", s), ("b", t)))
            for s, t, weight in EDGES.itertuples(index=False)
        )
        assert loss_of({"sides": sides, "operator": "identity", "l2": 0.1})[0] == pytest.approx(
            plain + 0.1 * squares, rel=1e-5
        )


@pytest.mark.parametrize("comparator", ["dot", "l2"])
def test_strong_regularisation_makes_vectors_short(comparator):
    graph = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "b")])
    norms = []
    for l2 in (0.0, 0.1, 10.0):
        config = TrainConfig(
            dim=4, epochs=100, uniform_negatives="all", comparator=comparator, operator="identity", l2=l2,
            temperature=1.0,
        )  # fmt: skip
        norms.append(sum(table.square().sum().item() for table in train(graph, config).vectors.values()))
    assert norms[0] > norms[1] > norms[2]
    assert math.sqrt(norms[2]) < 0.2  # of six vectors together


def epoch_loss(graph, previous, shifts, **config):
    """The loss of an epoch that begins at the previous version, shifted, and whose steps lead nowhere."""
    config = TrainConfig(
        dim=4, uniform_negatives="all", learning_rate=1e-30, relation_learning_rate=1e-30, **config
    )  # fmt: skip
    run, losses = Run.of(graph, config, torch.device("cpu")), torch.zeros(2, dtype=torch.float64)
    carry(previous, run, graph)
    for entity, shift in shifts.items():
        run.vectors[entity] += shift
    for group, positions in run.batches(1):
        run.step(group, positions, losses)
    return losses.sum().item()


@pytest.mark.parametrize("batch_size", [2, 7])
def test_leaving_the_previous_version_costs_alpha_an_entity_and_epoch(batch_size):
    relations = [Relation("r", "a", "b"), Relation("s", "b", "a", weight=3.0, operator="identity")]
    old = Graph.from_frames({"r": EDGES[:3], "s": EDGES[:2]}, relations)
    graph = Graph.from_frames({"r": EDGES, "s": EDGES[:3]}, relations)
    previous = train(old, TrainConfig(dim=4, epochs=2, uniform_negatives=3))
    assert [previous.rows(entity, graph.entities[entity]).tolist() for entity in ("a", "b")] == [[0, 1, -1]] * 2
    shifts = {entity: torch.arange(12.0).reshape(3, 4) / scale for entity, scale in (("a", 10), ("b", -20))}
    squares = {entity: shift.double().square().sum(1).tolist() for entity, shift in shifts.items()}
    plain = epoch_loss(graph, previous, shifts, batch_size=batch_size)

    def cost(**config):
        return epoch_loss(graph, previous, shifts, batch_size=batch_size, **config) - plain

    # Row 2 is new in both types: it may go where it likes.
    both = {entity: sum(squares[entity][:2]) for entity in ("a", "b")}
    assert cost(alpha=0.5) == pytest.approx(0.5 * (both["a"] + both["b"]), rel=1e-4)
    assert cost(alpha={"a": 0.5, "b": 3.0}) == pytest.approx(0.5 * both["a"] + 3.0 * both["b"], rel=1e-4)
    assert cost(alpha={"b": 3.0}) == pytest.approx(3.0 * both["b"], rel=1e-4)
    # Occurrences: as a source 0 and 1 twice in r; s goes from b to a, whose edges are (0, 0), (1, 0), (1, 1).
    degrees = {"a": [1 + 2, 2 + 1], "b": [2 + 1, 1 + 2]}
    weighed = {entity: np.dot(degrees[entity], squares[entity][:2]) for entity in ("a", "b")}
    by_degree = cost(alpha={"a": 0.5, "b": 3.0}, alpha_by_degree=True)
    assert by_degree == pytest.approx(0.5 * weighed["a"] + 3.0 * weighed["b"], rel=1e-4)


def test_edges_of_weight_zero_hold_nobody():
    graph = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "b")])
    silent = EDGES.assign(weight=[1.0, 0.5, 2.0, 0.0])
    muted = Graph.from_frames({"r": silent}, [Relation("r", "a", "b")])
    previous = train(graph, TrainConfig(dim=4, epochs=1, uniform_negatives=3))
    shifts = {"a": torch.ones(3, 4), "b": torch.zeros(3, 4)}
    costs = [epoch_loss(g, previous, shifts, alpha=0.5) - epoch_loss(g, previous, shifts) for g in (graph, muted)]
    assert costs == pytest.approx([0.5 * 3 * 4, 0.5 * 2 * 4], rel=1e-4)


def test_the_stronger_the_penalty_the_closer_to_the_previous_version():
    graph = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "b")])
    previous = train(graph, TrainConfig(dim=4, epochs=2, uniform_negatives=3))
    ways = []
    for alpha in (0.0, 3.0, 100.0):
        config = TrainConfig(dim=4, epochs=40, uniform_negatives=3, alpha=alpha, seed=1)
        model = train(graph, config, previous=previous)
        ways.append(sum((model.vectors[e] - previous.vectors[e]).square().sum().item() for e in ("a", "b")))
    assert ways[0] > ways[1] > 3 * ways[2]
