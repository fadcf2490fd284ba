"""Whole training runs against float64 loops: losses, finite differences and Adagrad written down a second time.

All edges are one batch and all of them its negatives, so that nothing is left to chance but the start.
"""

import dataclasses
import itertools

import naive
import numpy as np
import pandas as pd
import pytest
import torch

from pretrain import Graph, Relation, TrainConfig, train
from pretrain.comparators import COMPARATORS
from pretrain.losses import LOSSES
from pretrain.operators import OPERATORS

CHOICES = list(itertools.product(OPERATORS, COMPARATORS, LOSSES))
EDGES = pd.DataFrame(
    {
        "source": [0, 1, 1, 2, 3, 0, 1],
        "target": [0, 0, 1, 2, 3, 2, 1],  # (1, 1) comes twice
        "weight": [1.0, 0.5, 2.0, 1.0, 0.0, 3.0, 1.0],
    }
)
CONFIG = TrainConfig(
    dim=4, epochs=3, batch_size=7, uniform_negatives=0, in_batch_negatives=7, temperature=0.5, init_scale=0.5, seed=3
)


def start_of(graph, config):
    """The vectors and parameters before the first step: no step is long enough to change them."""
    return train(graph, dataclasses.replace(config, learning_rate=1e-30, relation_learning_rate=1e-30))


def numpy_copy(tensors):
    return {name: tensor.double().numpy().copy() for name, tensor in tensors.items()}


class NaiveRun:
    """A run in float64: tables, accumulators, one method per batch."""

    def __init__(self, graph, config):
        start = start_of(graph, config)
        self.graph, self.config = graph, config
        self.vectors, self.parameters = numpy_copy(start.vectors), numpy_copy(start.parameters)
        self.state = {name: np.zeros(len(table)) for name, table in self.vectors.items()}
        self.parameter_state = {name: np.zeros(len(p)) for name, p in self.parameters.items()}

    def step(self, name):
        """Train all edges of one relation as one batch; return its loss."""
        relation, edges, config = self.graph.relations[name], self.graph.edges[name], self.config
        sides = relation.sides or config.sides
        sources, targets = edges.sources.tolist(), edges.targets.tolist()
        batch = {
            "sources": sources,
            "targets": targets,
            "weights": [relation.weight * float(w) for w in edges.weights],
            "negative_sources": sources if sides != "target" else [],
            "negative_targets": targets if sides != "source" else [],
        }

        def loss():
            return naive.batch_loss(
                self.vectors[relation.source], self.vectors[relation.target], self.parameters[name], batch,
                operator=relation.operator or config.operator, comparator=config.comparator, loss=config.loss,
                temperature=config.temperature,
            )  # fmt: skip

        ends = {relation.source: set(sources)}
        ends[relation.target] = ends.get(relation.target, set()) | set(targets)
        grads = {entity: naive.slopes(loss, self.vectors[entity]) for entity in ends}
        grad = naive.slopes(loss, self.parameters[name])
        value = loss()
        for entity, rows in ends.items():
            naive.row_adagrad(self.vectors[entity], self.state[entity], grads[entity], rows, config.learning_rate)
        naive.adagrad(self.parameters[name], self.parameter_state[name], grad, config.relation_learning_rate)
        return value


def check_model(model, expected, *, parameters=True):
    compared = [(model.vectors, expected.vectors), (model.vector_state, expected.state)]
    if parameters:
        compared += [(model.parameters, expected.parameters), (model.parameter_state, expected.parameter_state)]
    for ours, theirs in compared:
        for name, array in theirs.items():
            np.testing.assert_allclose(ours[name].numpy(), array, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("sides", ["both", "source", "target"])
@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_three_epochs_agree_with_loops(choice, sides):
    operator, comparator, loss = choice
    config = dataclasses.replace(CONFIG, operator=operator, comparator=comparator, loss=loss, sides=sides)
    graph = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "b", weight=2.0)])
    expected = NaiveRun(graph, config)
    losses = [expected.step("r") for _ in range(config.epochs)]
    model = train(graph, config)
    # (s + r) · t - (s' + r) · t does not know r: its gradient is zero but for rounding, of which Adagrad makes steps.
    cancels = (*choice, sides) == ("translation", "dot", "softmax", "source")
    check_model(model, expected, parameters=not cancels)
    assert [epoch["loss"] for epoch in model.epochs] == pytest.approx([loss / 7 for loss in losses], rel=1e-4)
    total_weight = 2.0 * EDGES["weight"].sum()
    assert model.epochs[0]["losses"] == {"r": pytest.approx(losses[0] / total_weight, rel=1e-4)}


def test_an_entity_type_on_both_ends_has_one_table_and_one_update():
    graph = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "a")])
    expected = NaiveRun(graph, CONFIG)
    for _ in range(CONFIG.epochs):
        expected.step("r")
    check_model(train(graph, CONFIG), expected)


@pytest.mark.parametrize("seed", range(4))
def test_relations_share_tables_and_take_turns_in_random_order(seed):
    config = dataclasses.replace(CONFIG, epochs=1, seed=seed)
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none")
@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_cuda_and_cpu_agree(choice):
    operator, comparator, loss = choice
    config = dataclasses.replace(CONFIG, epochs=1, operator=operator, comparator=comparator, loss=loss)
    graph = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "b")])
    cpu, cuda = (train(graph, config, device=device) for device in ("cpu", "cuda"))
    assert all(table.is_cuda for table in cuda.vectors.values())
    assert cuda.epochs[0]["loss"] == pytest.approx(cpu.epochs[0]["loss"], rel=1e-4)
    for ours, theirs in ((cuda.vectors, cpu.vectors), (cuda.parameters, cpu.parameters)):
        for name, array in theirs.items():
            torch.testing.assert_close(ours[name].cpu(), array, rtol=1e-4, atol=1e-5)
    ids = EDGES["source"].to_numpy(), EDGES["target"].to_numpy()
    np.testing.assert_allclose(cuda.score("r", *ids), cpu.score("r", *ids), rtol=1e-4, atol=1e-5)
