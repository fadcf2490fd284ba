"""Whole training runs against float64 loops: losses, finite differences and Adagrad written down a second time.

All edges are one batch and all of them its negatives, or every entity is, so that only the start is left to chance.
"""

import dataclasses
import itertools
import math

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kstest

from pretrain import Graph, Relation, TrainConfig, train
from pretrain.comparators import COMPARATORS
from pretrain.losses import LOSSES
from pretrain.model import reverse_name
from pretrain.operators import OPERATORS
from pretrain.run import Run
from recokit.errors import DataError

CHOICES = list(itertools.product(OPERATORS, COMPARATORS, LOSSES))
EDGES = pd.DataFrame(
    {
        "source": [0, 1, 1, 2, 3, 0, 1],
        "target": [0, 0, 1, 2, 3, 2, 1],  # (1, 1) comes twice
        "weight": [1.0, 0.5, 2.0, 1.0, 0.0, 3.0, 1.0],
    }
)
CONFIG = TrainConfig(
    dim=4, epochs=3, batch_size=7, uniform_negatives=0, in_batch_negatives=7, temperature=0.5, init_scale=0.5, seed=3,
    learning_rate=0.05,
)  # fmt: skip


def changed(config=CONFIG, **settings):
    return dataclasses.replace(config, **settings)


def start_of(graph, config):
    """The vectors and parameters before the first step: no step is long enough to change them."""
    return train(graph, changed(config, epochs=1, learning_rate=1e-30, relation_learning_rate=1e-30, max_norm=0.0))


def numpy_copy(tensors):
    return {name: tensor.double().numpy().copy() for name, tensor in tensors.items()}


class NaiveRun:
    """A run in float64: tables, accumulators, one method per batch."""

    def __init__(self, graph, config, previous=None):
        start = start_of(graph, config) if previous is None else previous
        self.graph, self.config = graph, config
        self.vectors, self.biases = numpy_copy(start.vectors), numpy_copy(start.biases)
        self.parameters = numpy_copy(start.parameters)
        self.vector_state, self.bias_state = numpy_copy(start.vector_state), numpy_copy(start.bias_state)
        self.parameter_state = numpy_copy(start.parameter_state)
        if previous is None:
            for state in (self.vector_state, self.bias_state, self.parameter_state):
                state.update({name: np.zeros_like(array) for name, array in state.items()})
        self.earlier = None if previous is None else numpy_copy(previous.vectors)

    def step(self, *names, positions=None, rate=1.0):
        """Train edges of relations that share batches as one batch, all of them or some; return its loss."""
        relation, config, graph = self.graph.relations[names[0]], self.config, self.graph
        edges = {"relations": [], "sources": [], "targets": [], "weights": []}
        for number, name in enumerate(names):
            own = graph.edges[name].take(graph.edges[name].weights > 0)  # an edge of weight 0 is none
            ends, weights = (own.sources.tolist(), own.targets.tolist()), own.weights.tolist()
            if config.degree_power:
                weights = naive.degree_weights(*ends, weights, config.degree_power)
            edges["relations"] += [number] * len(own)
            edges["sources"] += ends[0]
            edges["targets"] += ends[1]
            edges["weights"] += [graph.relations[name].weight * w for w in weights]
        known = frozenset(zip(edges["sources"], edges["relations"], edges["targets"], strict=True))
        if positions is not None:
            edges = {name: [values[at] for at in positions] for name, values in edges.items()}
        sides = relation.sides or config.sides
        drawn = [
            self._negatives(relation, entity, edges[ends]) if sides in ("both", side) else []
            for side, entity, ends in (("source", relation.source, "sources"), ("target", relation.target, "targets"))
        ]
        batch = naive.Edges(
            **edges, negative_sources=drawn[0], negative_targets=drawn[1],
            known=known if config.filter_positives else frozenset(),
        )  # fmt: skip
        return self._train(names, relation, batch, rate)

    def _negatives(self, relation, entity, own):
        if (relation.uniform_negatives or self.config.uniform_negatives) == "all":
            return list(range(len(self.vectors[entity])))
        return own

    def _train(self, names, relation, batch, rate):
        config, constants = self.config, {}
        names = list(names)
        reverse = [reverse_name(name) for name in names if reverse_name(name) in self.parameters]
        tables = naive.Tables(
            self.vectors[relation.source], self.vectors[relation.target],
            np.stack([self.parameters[name] for name in names]),
            np.stack([self.parameters[name] for name in reverse]) if reverse else None,
            self.biases.get(relation.source), self.biases.get(relation.target),
        )  # fmt: skip
        same = [field.name for field in dataclasses.fields(naive.Setting) if hasattr(config, field.name)]
        setting = naive.Setting(**{name: getattr(config, name) for name in same} | {
            "operator": relation.operator or config.operator, "operator_side": relation.operator_side,
        })  # fmt: skip

        def loss():
            value = naive.batch_loss(tables, batch, setting, constants)
            if self.earlier is not None:  # the batch is the whole epoch
                for entity, alpha in config.alpha.items():
                    value += alpha * ((self.vectors[entity] - self.earlier[entity]) ** 2).sum()
            return value

        value = loss()
        grads = {name: naive.slopes(loss, array) for name, array in tables.arrays().items()}
        touched = {relation.source: set(batch.sources) | set(batch.negative_sources)}
        touched[relation.target] = touched.get(relation.target, set()) | set(batch.targets + batch.negative_targets)
        learning_rate = rate * config.learning_rate
        for end, entity in (("source", relation.source), ("target", relation.target)):
            if f"{end}s" in grads:  # one table for both ends is there once
                rows = touched[entity]
                self._update(entity, grads[f"{end}s"], rows, learning_rate)
                if config.max_norm:
                    naive.shorten(self.vectors[entity], rows, config.max_norm)
            if f"{end}_biases" in grads:
                bias, grad = self.biases[entity][:, None], grads[f"{end}_biases"][:, None]
                naive.row_adagrad(bias, self.bias_state[entity], grad, touched[entity], learning_rate)
        for part, own in (("parameters", names), ("reverse", reverse)):
            for number, name in enumerate(own if part in grads else []):
                naive.adagrad(
                    self.parameters[name], self.parameter_state[name], grads[part][number],
                    rate * config.relation_learning_rate,
                )  # fmt: skip
        return value

    def _update(self, entity, grad, rows, learning_rate):
        table, state = self.vectors[entity], self.vector_state[entity]
        if self.config.optimizer == "rowwise_adagrad":
            naive.row_adagrad(table, state, grad, rows, learning_rate)
        else:
            for row in rows:
                naive.adagrad(table[row], state[row], grad[row], learning_rate)


def check_model(model, expected, what=""):
    for part in ("vectors", "vector_state", "biases", "bias_state", "parameters", "parameter_state"):
        assert set(getattr(model, part)) == set(getattr(expected, part))
        for name, array in getattr(expected, part).items():
            np.testing.assert_allclose(
                getattr(model, part)[name].numpy(), array, rtol=2e-4, atol=5e-5, err_msg=f"{what} {part} {name}"
            )  # fmt: skip


def check_run(graph, config, *names, what=""):
    """Train, and in loops; all relations ``names`` share one batch an epoch."""
    expected = NaiveRun(graph, config)
    rates = [naive.rate(step, config.epochs, schedule=config.schedule, warmup=config.warmup) for step in range(3)]
    losses = [expected.step(*names, rate=rate) for rate in rates]
    model = train(graph, config)
    check_model(model, expected, what)
    total = sum((graph.edges[name].weights > 0).sum() for name in names)
    assert [epoch["loss"] for epoch in model.epochs] == pytest.approx([loss / total for loss in losses], rel=1e-4)
    return model, losses


def by_lot(rng, operator, comparator, loss):
    """Settings and a relation; whatever goes with the choice."""
    direction = rng.choice(["source", "target", "reciprocal"])
    # With negatives of the operator's own end alone it may cancel.
    sides = {"source": ["both", "target"], "target": ["both", "source"], "reciprocal": ["both", "target"]}[direction]
    settings = {"sides": str(rng.choice(sides)), "temperature": float(rng.choice([1.0, 0.5]))}
    if settings["sides"] == "both":
        settings["bias"] = rng.random() < 0.5
    if rng.random() < 0.5:
        settings |= {"uniform_negatives": "all", "in_batch_negatives": 0}
    if loss != "softmax":
        reduction = [{}, {"negative_reduction": "mean"}, {"adversarial": 0.7}]
        settings |= reduction[rng.integers(3)]
    settings |= [{}, {"l2": 0.02}, {"n3": 0.05}, {"l2": 0.01, "n3": 0.03}][rng.integers(4)]
    settings |= [{}, {"score_offset": 1.0} if loss == "logistic" else {}][rng.integers(2)]
    settings["filter_positives"] = rng.random() < 0.3
    settings["optimizer"] = str(rng.choice(["rowwise_adagrad", "adagrad"], p=[0.8, 0.2]))
    config = changed(
        operator=operator, comparator=comparator, loss=loss, reciprocal=direction == "reciprocal", **settings
    )
    return config, Relation("r", "a", "b", weight=2.0, operator_side="target" if direction == "target" else "source")


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_three_epochs_agree_with_loops(choice):
    config, relation = by_lot(np.random.default_rng(CHOICES.index(choice)), *choice)
    graph = Graph.from_frames({"r": EDGES}, [relation])
    model, losses = check_run(graph, config, "r", what=f"{relation} {config}")
    total_weight = 2.0 * EDGES["weight"].sum()
    assert model.epochs[0]["losses"] == {"r": pytest.approx(losses[0] / total_weight, rel=1e-4)}


@pytest.mark.parametrize("loss", LOSSES)
def test_an_entity_type_on_both_ends_has_one_table_and_one_update(loss):
    graph = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "a")])
    check_run(graph, changed(loss=loss, bias=True, l2=0.01, operator="diagonal"), "r")


@pytest.mark.parametrize("operator", ["translation", "complex_diagonal", "affine", "rotation"])
@pytest.mark.parametrize("reciprocal", [True, False])
def test_relations_of_a_group_share_a_batch_and_keep_parameters_of_their_own(operator, reciprocal):
    relations = [Relation(name, "a", "b", weight=weight) for name, weight in (("r", 1.0), ("s", 0.5), ("t", 2.0))]
    frames = {"r": EDGES, "s": EDGES[2:5], "t": EDGES.assign(target=EDGES["target"].to_numpy()[::-1])}
    config = changed(
        comparator="dot", operator=operator, reciprocal=reciprocal, batch_size=17, in_batch_negatives=17,
        filter_positives=True, l2=0.01,
    )  # fmt: skip
    graph = Graph.from_frames(frames, relations)
    model, _ = check_run(graph, config, "r", "s", "t")
    assert len(model.parameters) == (6 if reciprocal else 3)
    assert len({tuple(parameters.tolist()) for parameters in model.parameters.values()}) == len(model.parameters)


@pytest.mark.parametrize("seed", range(4))
def test_relations_share_tables_and_take_turns_in_random_order(seed):
    config = changed(epochs=1, seed=seed)
    relations = [Relation("r", "a", "b", sides="target"), Relation("s", "b", "a", weight=0.5, operator="identity")]
    graph = Graph.from_frames({"r": EDGES, "s": EDGES[:4]}, relations)
    model, matches = train(graph, config), []
    for order in (("r", "s"), ("s", "r")):
        expected = NaiveRun(graph, config)
        for name in order:
            expected.step(name)
        matches.append(np.allclose(model.vectors["a"].numpy(), expected.vectors["a"], rtol=1e-4, atol=1e-5))
        if matches[-1]:
            check_model(model, expected)
    assert sorted(matches) == [False, True]


@pytest.mark.parametrize("warmup", [0.0, 0.4, 0.6])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_learning_rates_follow_their_schedule(schedule, warmup):
    graph = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "b")])
    check_run(graph, changed(schedule=schedule, warmup=warmup), "r")


@pytest.mark.parametrize("settings", [{"max_norm": 0.9}, {"degree_power": 0.5}, {"degree_power": 1.0, "max_norm": 0.5}])
def test_norms_and_degrees(settings):
    edges = EDGES[EDGES["weight"] > 0]
    graph = Graph.from_frames({"r": edges, "s": edges[:4]}, [Relation("r", "a", "b"), Relation("s", "a", "b")])
    config = changed(comparator="squared_l2", batch_size=10, in_batch_negatives=10, **settings)
    model, _ = check_run(graph, config, "r", "s")
    if config.max_norm:
        longest = max(table.norm(dim=1).max().item() for table in model.vectors.values())
        assert longest == pytest.approx(config.max_norm, rel=1e-5)


@pytest.mark.parametrize("one_type", [False, True])
def test_a_warm_start_that_is_held_near_its_start_agrees_with_loops(one_type):
    edges = EDGES[EDGES["weight"] > 0]
    graph = Graph.from_frames({"r": edges}, [Relation("r", "a", "a" if one_type else "b")])
    previous = train(graph, changed(bias=True, operator="diagonal"))
    config = changed(bias=True, operator="diagonal", alpha={"a": 0.7} if one_type else {"a": 0.7, "b": 2.0})
    expected = NaiveRun(graph, config, previous)
    losses = [expected.step("r") for _ in range(3)]
    model = train(graph, config, previous=previous)
    check_model(model, expected)
    assert [epoch["loss"] for epoch in model.epochs] == pytest.approx([loss / 6 for loss in losses], rel=1e-4)


def test_edges_that_weigh_nothing_are_none():
    """Between entities that have other edges: the same bytes with them and without them."""
    config = changed(
        batch_size=3, prevalence_negatives=3, filter_positives=True, degree_power=0.5, log_q=True, n3=0.1
    )  # fmt: skip
    edges = EDGES[EDGES["weight"] > 0]
    nothing = pd.DataFrame({"source": [0, 2, 1], "target": [1, 0, 2], "weight": 0.0})
    relations = [Relation(name, "a", "b") for name in ("r", "s")]
    without, with_them = (
        train(Graph.from_frames({"r": frame, "s": edges}, relations), config)
        for frame in (edges, pd.concat([nothing, edges]))
    )
    assert with_them.epochs == without.epochs
    for part in ("vectors", "vector_state", "parameters", "parameter_state"):
        assert all(torch.equal(array, getattr(without, part)[name]) for name, array in getattr(with_them, part).items())


def test_edges_that_all_weigh_nothing_are_refused():
    graph = Graph.from_frames({"r": EDGES.assign(weight=0.0)}, [Relation("r", "a", "b")])
    with pytest.raises(DataError, match="every edge of the graph has the weight 0"):
        train(graph, CONFIG)


@pytest.mark.parametrize("operator", OPERATORS)
def test_relations_that_start_at_random_and_an_accumulator_an_element_agree_with_loops(operator):
    config = changed(
        operator=operator, relation_init="random", optimizer="adagrad", comparator="squared_l2", loss="logistic",
        bias=True, max_norm=1.5, reciprocal=True, n3=0.02,
    )  # fmt: skip
    model, _ = check_run(Graph.from_frames({"r": EDGES}, [Relation("r", "a", "b")]), config, "r")
    assert {state.shape for state in model.vector_state.values()} == {(4, 4)}
    assert {state.shape for state in model.bias_state.values()} == {(4,)}


def test_random_relations_are_normal_and_turn_anywhere():
    relations = [Relation(name, "a", "b", operator=name) for name in OPERATORS]
    graph = Graph.from_frames(dict.fromkeys(OPERATORS, EDGES), relations)
    start = start_of(graph, TrainConfig(dim=64, relation_init="random", init_scale=0.3, uniform_negatives=2))
    again = start_of(graph, TrainConfig(dim=64, relation_init="random", init_scale=0.3, uniform_negatives=2, seed=1))
    for name, parameters in start.parameters.items():
        assert name == "identity" or not torch.equal(parameters, again.parameters[name])
        if name not in ("identity", "rotation"):
            assert parameters.std().item() == pytest.approx(0.3, rel=4 / math.sqrt(2 * len(parameters)))
            assert abs(parameters.mean().item()) < 4 * 0.3 / math.sqrt(len(parameters))
    phases = start.parameters["rotation"]
    assert kstest(phases.numpy(), "uniform", args=(-math.pi, 2 * math.pi)).pvalue > 0.01


@pytest.mark.parametrize("operator", ["diagonal", "rotation"])
@pytest.mark.parametrize("comparator", COMPARATORS)
def test_many_small_batches_agree_with_loops(operator, comparator):
    """The order of the edges is taken from the run, everything else is not."""
    config = changed(
        comparator=comparator, operator=operator, batch_size=3, uniform_negatives="all", in_batch_negatives=0,
        bias=True, schedule="linear", loss="logistic", max_norm=2.0, epochs=2,
    )  # fmt: skip
    graph = Graph.from_frames({"r": EDGES, "s": EDGES[:4]}, [Relation("r", "a", "b"), Relation("s", "a", "b")])
    expected, steps = NaiveRun(graph, config), itertools.count()
    run = Run.of(graph, config, torch.device("cpu"))
    assert [len(group) for group in run.groups] == [6 + 4]
    seen = []
    for epoch in range(1, config.epochs + 1):
        for _, positions in run.batches(epoch):
            rate = naive.rate(next(steps), 2 * 4, schedule="linear")  # 10 edges: four batches
            expected.step("r", "s", positions=positions.tolist(), rate=rate)
            seen += positions.tolist()
    assert sorted(seen) == sorted([*range(10), *range(10)])
    check_model(train(graph, config), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none")
@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_cuda_and_cpu_agree(choice):
    operator, comparator, loss = choice
    config = changed(epochs=1, operator=operator, comparator=comparator, loss=loss)
    graph = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "b")])
    cpu, cuda = (train(graph, config, device=device) for device in ("cpu", "cuda"))
    assert all(table.is_cuda for table in cuda.vectors.values())
    assert cuda.epochs[0]["loss"] == pytest.approx(cpu.epochs[0]["loss"], rel=1e-4)
    for ours, theirs in ((cuda.vectors, cpu.vectors), (cuda.parameters, cpu.parameters)):
        for name, array in theirs.items():
            torch.testing.assert_close(ours[name].cpu(), array, rtol=1e-4, atol=1e-5)
    ids = EDGES["source"].to_numpy(), EDGES["target"].to_numpy()
    np.testing.assert_allclose(cuda.score("r", *ids), cpu.score("r", *ids), rtol=1e-4, atol=1e-5)
