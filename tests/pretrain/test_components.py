"""Mixtures from training to export: whole runs in float64 loops, weights by Eq. 5, ranks, files, warm starts."""

import dataclasses
import itertools
import json
import math
from decimal import Decimal, localcontext

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from test_whole_step import check_model, numpy_copy, start_of
from untrained import untrained_model

from pretrain import Graph, Model, Relation, TrainConfig, evaluate, export, load_exported, ranks, train
from pretrain import components as components_module
from pretrain.components import component_usage, mixture_weights, similarities
from pretrain.model import reverse_name
from pretrain.networks import train_networks
from pretrain.partitioned import check_partitioned
from pretrain.plan import Workload
from pretrain.pooling import Pooled, Pooling, of_means
from pretrain.run import Run
from pretrain.warm import carry
from recokit.errors import ConfigError, DataError, FormatError
from recokit.table import open_version

CPU = torch.device("cpu")
ENGINES = ["native", "torch"]
EDGES = pd.DataFrame(
    {
        "source": [0, 1, 1, 2, 3, 0, 1],
        "target": [0, 0, 1, 2, 3, 2, 1],  # (1, 1) comes twice
        "weight": [1.0, 0.5, 2.0, 1.0, 0.25, 3.0, 1.0],
    }
)
CONFIG = TrainConfig(
    dim=4, epochs=2, batch_size=14, uniform_negatives=0, in_batch_negatives=14, temperature=0.5, init_scale=0.5, seed=3,
    learning_rate=0.05, components={"a": 2}, pooling_temperature=0.3,
)  # fmt: skip


def graph_of(relations, **frames):
    return Graph.from_frames(frames or {relation.name: EDGES for relation in relations}, relations)


def engine_of(config, engine):
    return dataclasses.replace(config, engine=engine)


# ---- whole runs


class LoopRun:
    """One batch of all edges an epoch, all ends its negatives, in float64; a component is a row of its own."""

    def __init__(self, graph, config):
        start = start_of(graph, config)
        self.graph, self.config = graph, config
        self.vectors, self.biases, self.parameters = map(numpy_copy, (start.vectors, start.biases, start.parameters))
        self.vector_state, self.bias_state, self.parameter_state = (
            {name: np.zeros(state.shape) for name, state in states.items()}
            for states in (start.vector_state, start.bias_state, start.parameter_state)
        )

    def step(self):
        """Train the relations, whose ends are alike, as one batch; return its loss."""
        config, graph, names = self.config, self.graph, list(self.graph.relations)
        relation = graph.relations[names[0]]
        rows = [
            (s, number, t, graph.relations[name].weight * w)
            for number, name in enumerate(names)
            for s, t, w in zip(*(getattr(graph.edges[name], x).tolist() for x in ("sources", "targets", "weights")),
                               strict=True)
        ]  # fmt: skip
        sources, relations, targets, weights = (list(column) for column in zip(*rows, strict=True))
        sides = relation.sides or config.sides
        batch = naive.Edges(
            sources, targets, weights, sources if sides != "target" else [], targets if sides != "source" else [],
            relations,
        )  # fmt: skip
        reverse = [reverse_name(name) for name in names if reverse_name(name) in self.parameters]
        tables = naive.Tables(
            self.vectors[relation.source],
            self.vectors[relation.target],
            np.stack([self.parameters[name] for name in names]),
            np.stack([self.parameters[name] for name in reverse]) if reverse else None,
            self.biases.get(relation.source),
            self.biases.get(relation.target),
        )
        same = [field.name for field in dataclasses.fields(naive.Setting) if hasattr(config, field.name)]
        setting = naive.Setting(**{name: getattr(config, name) for name in same} | {
            "operator_side": relation.operator_side,
            "source_components": config.components_of(relation.source),
            "target_components": config.components_of(relation.target),
        })  # fmt: skip

        def loss():
            return naive.batch_loss(tables, batch, setting)

        value = loss()
        grads = {name: naive.slopes(loss, array) for name, array in tables.arrays().items()}
        touched = {relation.source: set(sources)}
        touched[relation.target] = touched.get(relation.target, set()) | set(targets)
        for end, entity in (("source", relation.source), ("target", relation.target)):
            if f"{end}s" in grads:  # one table for both ends is there once
                self._update(entity, grads[f"{end}s"], touched[entity])
            if f"{end}_biases" in grads:
                bias, grad = self.biases[entity][:, None], grads[f"{end}_biases"][:, None]
                naive.row_adagrad(bias, self.bias_state[entity], grad, touched[entity], config.learning_rate)
        for part, own in (("parameters", names), ("reverse", reverse)):
            for number, name in enumerate(own if part in grads else []):
                naive.adagrad(
                    self.parameters[name], self.parameter_state[name], grads[part][number],
                    config.relation_learning_rate,
                )  # fmt: skip
        return value

    def _update(self, entity, grad, rows):
        number, dim = self.config.components_of(entity), self.config.dim
        parts = [row * number + c for row in sorted(rows) for c in range(number)]
        table, grad = self.vectors[entity].reshape(-1, dim), grad.reshape(-1, dim)  # the table itself
        if self.config.optimizer == "adagrad":
            state = self.vector_state[entity].reshape(-1, dim)
            for part in parts:
                naive.adagrad(table[part], state[part], grad[part], self.config.learning_rate)
        else:
            naive.row_adagrad(table, self.vector_state[entity].reshape(-1), grad, parts, self.config.learning_rate)
        if self.config.max_norm:
            naive.shorten(table, parts, self.config.max_norm)


def check_run(graph, config):
    expected = LoopRun(graph, config)
    losses = [expected.step() for _ in range(config.epochs)]
    edges = sum(len(part) for part in graph.edges.values())
    for engine in ENGINES:
        model = train(graph, engine_of(config, engine))
        check_model(model, expected, engine)
        assert [epoch["loss"] for epoch in model.epochs] == pytest.approx([loss / edges for loss in losses], rel=1e-4)
    return model


RUNS = {
    "users of two, sides target": {"sides": "target", "components": {"a": 2}},
    "both ends, ranking": {"components": {"a": 2, "b": 3}, "loss": "ranking", "margin": 0.3},
    "items alone, logistic, biases": {"components": {"b": 3}, "loss": "logistic", "bias": True},
    "max as printed": {"components": 2, "pooling": "max", "pooling_form": "printed", "pooling_regularization": 0.4},
    "l2 and n3": {"components": {"a": 3}, "l2": 0.02, "n3": 0.05, "comparator": "dot"},
    "complex n3": {
        "components": {"a": 2, "b": 2}, "n3": 0.05, "comparator": "dot", "operator": "complex_diagonal",
        "relation_init": "random",
    },
    "an accumulator an element": {"components": {"a": 2}, "optimizer": "adagrad", "comparator": "dot"},
    "short components": {"components": {"a": 2}, "max_norm": 0.7, "comparator": "dot", "operator": "diagonal"},
    "reciprocal": {"components": {"b": 2}, "reciprocal": True, "operator": "diagonal", "l2": 0.01},
}  # fmt: skip


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_two_epochs_of_two_tasks_agree_with_loops(settings):
    """Eq. 4: the losses of both tasks, weighted, are added; both have relations of their own and share tables."""
    relations = [Relation("r", "a", "b", weight=2.0), Relation("s", "a", "b", weight=0.5)]
    graph = graph_of(relations, r=EDGES[:4], s=EDGES[3:])
    model = check_run(graph, dataclasses.replace(CONFIG, **settings))
    if "max_norm" in settings:
        longest = [table.view(-1, 4).norm(dim=1).max().item() for table in model.vectors.values()]
        assert longest == [pytest.approx(0.7, rel=1e-5)] * 2


@pytest.mark.parametrize("operator_side", ["source", "target"])
def test_an_entity_type_on_both_ends_has_one_table_and_one_update(operator_side):
    graph = graph_of([Relation("r", "a", "a", operator_side=operator_side)])
    check_run(graph, dataclasses.replace(CONFIG, comparator="dot", bias=True))


def test_gradients_of_a_component_that_never_wins_leave_it_where_it_is():
    """Of max without an average only the winning pair moves: every accumulator counts its own component's steps."""
    config = dataclasses.replace(
        CONFIG, pooling="max", pooling_regularization=0.0, epochs=1, operator="identity", components={"a": 12}
    )
    graph = graph_of([Relation("r", "a", "b")])
    start, model = start_of(graph, config), train(graph, config)
    moved = (model.vectors["a"] != start.vectors["a"]).view(-1, 12, 4).any(2)
    assert torch.equal(moved, model.vector_state["a"] > 0)
    assert not moved.all()
    assert moved.any(1).all()


def test_components_start_apart_and_none_is_preferred():
    graph = graph_of([Relation("r", "a", "b")])
    config = dataclasses.replace(CONFIG, dim=32, components={"a": 4, "b": 3})
    run = Run.of(graph, config, CPU)
    assert {name: tuple(table.shape) for name, table in run.vectors.items()} == {"a": (4, 128), "b": (4, 96)}
    assert {name: tuple(state.shape) for name, state in run.vector_state.items()} == {"a": (4, 4), "b": (4, 3)}
    many = graph_of([Relation("r", "a", "b")], r=pd.DataFrame({"source": np.arange(200), "target": np.arange(200)}))
    usage = component_usage(start_of(many, config), many)
    assert [usage[name]["distance"] for name in "ab"] == [pytest.approx(1.0, abs=0.05)] * 2
    for name, number in (("a", 4), ("b", 3)):
        assert usage[name]["won"] == [pytest.approx(1 / number, abs=0.12)] * number


# ---- epochs of means


def test_the_first_epochs_by_means_are_a_share_rounded_down():
    shares = [(10, 0.4, 4), (3, 0.4, 1), (2, 0.4, 0), (20, 0.99, 19), (5, 0.0, 0)]
    for epochs, share, first in shares:
        assert TrainConfig(components=2, epochs=epochs, pooling_warmup=share).epochs_of_means == first
    assert TrainConfig(epochs=10, pooling_warmup=0.4).epochs_of_means == 0
    with pytest.raises(ConfigError, match=r"pooling_warmup must be below 1, a share of the epochs, got 1\.0"):
        TrainConfig(pooling_warmup=1.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_warm_up_is_a_run_by_means_and_one_that_goes_on_without_its_state(engine):
    graph = graph_of([Relation("r", "a", "b", operator="translation")])
    config = dataclasses.replace(
        CONFIG, epochs=5, components={"a": 2, "b": 3}, schedule="linear", pooling_warmup=0.4, engine=engine
    )
    means = dataclasses.replace(
        config, epochs=2, schedule="constant", pooling_warmup=0.0, pooling_temperature=1e6, pooling_regularization=0.0
    )
    rest = dataclasses.replace(config, epochs=3, pooling_warmup=0.0)
    both, first = train(graph, config), train(graph, means)
    parted = train(graph, rest, previous=first, carry_state=False)
    for name, vectors in parted.vectors.items():
        np.testing.assert_allclose(both.vectors[name], vectors, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(both.vector_state[name], parted.vector_state[name], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(both.parameters["r"], parted.parameters["r"], atol=1e-5)
    assert [record["loss"] for record in both.epochs[:2]] == pytest.approx(
        [record["loss"] for record in first.epochs], rel=1e-5
    )
    assert train(graph, rest).vectors["a"].tolist() != parted.vectors["a"].tolist()


def test_a_run_that_goes_on_keeps_its_state_and_pools_as_it_did():
    graph = random_graph()
    config = dataclasses.replace(SMALL, epochs=5, pooling_warmup=0.6)
    first = train(graph, config)
    on, without = (
        train(graph, dataclasses.replace(config, pooling_warmup=share), previous=first) for share in (0.6, 0.0)
    )
    assert on.vectors["user"].tolist() == without.vectors["user"].tolist()
    assert (on.vector_state["user"] >= first.vector_state["user"]).all()


def test_means_are_means_of_cosines():
    similarities = torch.tensor([0.9, -0.3, 0.6, 0.2], dtype=torch.float32)
    value, grad = Pooling.of(of_means(dataclasses.replace(CONFIG, pooling="max"))).positives(similarities)
    assert value.item() == pytest.approx((0.9 - 0.3 + 0.6 + 0.2) / 4)
    assert grad.tolist() == pytest.approx([0.25] * 4, rel=1e-5)


def test_validation_waits_for_the_epochs_of_means():
    graph, held_out = random_graph(), random_graph(1, num_edges=6)
    settings = dataclasses.replace(SMALL, epochs=5, pooling_warmup=0.4)
    records = train(graph, settings, validation=held_out).epochs
    assert [settings.metric in record for record in records] == [False, False, True, True, True]
    with pytest.raises(
        ConfigError, match="evaluate_every is 2, so 3 epochs, the first 2 by means, are never validated"
    ):
        train(graph, dataclasses.replace(settings, epochs=3, pooling_warmup=0.7, evaluate_every=2), validation=held_out)


# ---- models made by hand

RELATIONS = [
    Relation("likes", "user", "item"),
    Relation("follows", "user", "user", operator="identity"),
    Relation("made by", "item", "user", operator="diagonal", operator_side="target"),
]
COMPONENTS = {"user": 2, "item": 3}


def random_graph(seed=0, *, num_edges=24, relations=RELATIONS):
    rng, sizes = np.random.default_rng(seed), {"user": 6, "item": 8, "ad": 5}
    frames = {
        relation.name: pd.DataFrame(
            {
                "source": [f"{relation.source} {n}" for n in rng.integers(0, sizes[relation.source], num_edges)],
                "target": [f"{relation.target} {n}" for n in rng.integers(0, sizes[relation.target], num_edges)],
                "weight": rng.choice([0.5, 1.0, 3.0], num_edges),
            }
        )
        for relation in relations
    }
    return Graph.from_frames(frames, relations)


def mixture_model(graph, *, seed=0, scale=1.0, **settings):
    """A model of a graph that no training has touched: normal deviates, and weights at random."""
    config = TrainConfig(**{"dim": 4, "components": COMPONENTS, "pooling_temperature": 0.3} | settings)
    model, draw = untrained_model(graph, config, seed=seed), torch.Generator().manual_seed(seed)
    vectors = {
        name: torch.randn(len(ids), config.width(name), generator=draw) * scale for name, ids in graph.entities.items()
    }
    state = {
        name: torch.rand(len(ids), *config.state_shape(name), generator=draw) for name, ids in graph.entities.items()
    }
    weights = {
        name: torch.rand(len(ids), config.components_of(name), generator=draw).softmax(1).numpy()
        for name, ids in graph.entities.items()
        if config.components_of(name) > 1
    }
    return dataclasses.replace(model, vectors=vectors, vector_state=state, mixture_weights=weights)


def matrix(model, relation, source, target):
    """Similarities M (C_s, C_t) of two rows, in loops."""
    ends, config = model.relations[relation], model.config
    number = config.components_of(ends.source), config.components_of(ends.target)
    parts = [
        naive.parts(model.vectors[entity][row].double().numpy(), count)
        for entity, row, count in zip((ends.source, ends.target), (source, target), number, strict=True)
    ]
    moved = 0 if ends.operator_side == "source" else 1
    parameters = model.parameters[relation].double().numpy()
    parts[moved] = [naive.operate(model.operator_name(relation), part, parameters) for part in parts[moved]]
    return [[naive.compare(config.comparator, x, y) for y in parts[1]] for x in parts[0]]


def slow_score(model, relation, source, target):
    config, ends = model.config, model.relations[relation]
    setting = naive.Setting(pooling=config.pooling, pooling_temperature=config.pooling_temperature)
    value = naive.pool(list(itertools.chain(*matrix(model, relation, source, target))), setting, positive=False)
    if config.bias:
        value += float(model.biases[ends.source][source]) + float(model.biases[ends.target][target])
    return value


def rows_of(graph, name):
    edges = graph.edges[name]
    return list(zip(edges.sources.tolist(), edges.targets.tolist(), edges.weights.tolist(), strict=True))


# ---- mixture weights


def slow_weights(model, graph, temperatures, *, per_edge="sum"):
    """Eq. 5 by dictionaries, in decimals that neither overflow nor vanish; temperatures name the tasks."""
    numbers = {name: model.config.components_of(name) for name in model.entities}
    sums = {
        name: {row: [Decimal(0)] * numbers[name] for row in range(len(ids))} for name, ids in model.entities.items()
    }
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = 40, 10**9, -(10**9)
        for name, temperature in temperatures.items():
            ends = model.relations[name]
            for source, target, weight in rows_of(graph, name):
                table = [[(Decimal(m) / Decimal(temperature)).exp() for m in row] for row in
                         matrix(model, name, source, target)]  # fmt: skip
                for entity, row, lines in (
                    (ends.source, source, table),
                    (ends.target, target, list(zip(*table, strict=True))),
                ):
                    whole = sum(map(sum, lines)) if per_edge == "softmax" else 1
                    for c, line in enumerate(lines):
                        sums[entity][row][c] += Decimal(weight) * sum(line) / whole
        return {
            name: [[float(x / sum(row)) if sum(row) else 1 / numbers[name] for x in row] for row in sums[name].values()]
            for name in sums
            if numbers[name] > 1
        }


def check_weights(model, graph, temperatures, **arguments):
    wanted = slow_weights(model, graph, temperatures, per_edge=arguments.get("per_edge", "sum"))
    got = mixture_weights(model, graph, **arguments)
    assert set(got) == set(wanted)
    for name, weights in wanted.items():
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], weights, rtol=2e-3, atol=2e-6, err_msg=name)
        np.testing.assert_allclose(got[name].sum(1), 1.0, rtol=1e-6)
    return got


@pytest.mark.parametrize("per_edge", ["sum", "softmax"])
@pytest.mark.parametrize("comparator", ["cos", "dot"])
def test_mixture_weights_are_eq_5_over_all_tasks(comparator, per_edge):
    graph = random_graph()
    model = mixture_model(graph, comparator=comparator, weight_temperature=0.4)
    everything = dict.fromkeys(model.relations, 0.4)
    weights = check_weights(model, graph, everything, per_edge=per_edge)
    assert weights["user"].max() > 0.6  # they say something
    check_weights(model, graph, dict.fromkeys(everything, 2.0), temperature=2.0, per_edge=per_edge)


def test_mixture_weights_of_one_task_with_its_own_temperature():
    graph = random_graph()
    model = mixture_model(graph, weight_temperature=0.4)
    likes = check_weights(model, graph, {"likes": 0.4}, relations=["likes"])
    follows = check_weights(model, graph, {"follows": 0.2}, relations=["follows"], temperature={"follows": 0.2})
    assert not np.allclose(likes["user"], follows["user"], atol=0.05)
    assert mixture_weights(mixture_model(graph, components=1, comparator="l2"), graph) == {}
    assert follows["item"].tolist() == [[pytest.approx(1 / 3)] * 3] * 8  # no edge of that task: equal
    check_weights(model, graph, {"likes": 1.0, "follows": 0.4, "made by": 0.4}, temperature={"likes": 1.0})


def test_sources_and_destinations_by_hand():
    """One edge of weight 1 from (1, 0), (0, 1) to (1, 0), and one of weight 3 to (0, 1)."""
    graph = graph_of([Relation("r", "user", "item", operator="identity")], r=pd.DataFrame(
        {"source": ["u", "u"], "target": ["x", "y"], "weight": [1.0, 3.0]}
    ))  # fmt: skip
    model = mixture_model(graph, dim=2, components={"user": 2, "item": 2}, weight_temperature=0.5)
    model.vectors["user"][0] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    model.vectors["item"][:] = torch.tensor([[5.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 7.0]])
    e = math.exp(1 / 0.5)
    weights = mixture_weights(model, graph)
    first, second = 1 * (e + 1) + 3 * (1 + 1), 1 * (1 + 1) + 3 * (e + e)
    assert weights["user"].tolist() == [pytest.approx([first / (first + second), second / (first + second)])]
    assert weights["item"].tolist() == [pytest.approx([(e + 1) / (e + 3), 2 / (e + 3)]), pytest.approx([0.5, 0.5])]
    each = mixture_weights(model, graph, per_edge="softmax")["user"]
    share = 1 * (e + 1) / (e + 3) + 3 * 2 / (2 + 2 * e)
    assert each.tolist() == [pytest.approx([share / 4, 1 - share / 4])]


@pytest.mark.parametrize("per_edge", ["sum", "softmax"])
def test_weights_are_stable(monkeypatch, per_edge):
    """At the temperature .005, and for dot products of a thousand; whatever part of the edges comes first."""
    graph = random_graph()
    cold = mixture_model(graph, weight_temperature=0.005)
    check_weights(cold, graph, dict.fromkeys(cold.relations, 0.005), per_edge=per_edge)
    large = mixture_model(graph, comparator="dot", scale=20.0)
    monkeypatch.setattr(components_module, "_NUMBERS", 1)  # an edge at a time
    sizes = [len(part) for _, _, part in similarities(large, graph, "likes")]
    assert sizes == [1] * 24
    assert max(part.abs().max().item() for _, _, part in similarities(large, graph, "likes")) > 1e3
    check_weights(large, graph, dict.fromkeys(large.relations, 0.1), per_edge=per_edge)


def test_ids_are_joined_and_edges_that_weigh_nothing_are_none():
    graph = random_graph()
    model = mixture_model(graph)
    frames = {"likes": pd.DataFrame({"source": ["user 1", "user 1", "nobody"], "target": ["item 2", "item 3", "item 2"],
                                     "weight": [1.0, 0.0, 1.0]})}  # fmt: skip
    other = Graph.from_frames(frames, [RELATIONS[0]])
    user, item = (model.rows(name, [key])[0] for name, key in (("user", "user 1"), ("item", "item 2")))
    weights = mixture_weights(model, other)
    table = np.exp(np.array(matrix(model, "likes", user, item)) / 0.1)
    assert weights["user"][user] == pytest.approx(table.sum(1) / table.sum(), rel=1e-4)
    assert weights["item"][item] == pytest.approx(table.sum(0) / table.sum(), rel=1e-4)
    equal = np.delete(weights["item"], item, 0)
    assert equal.tolist() == [[pytest.approx(1 / 3)] * 3] * 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"relations": ["like"]}, "relation 'like' is not in the model; did you mean 'likes'"),
        ({"relations": []}, "relations is empty, expected at least one task"),
        ({"temperature": 0.0}, "the temperature of 'likes' is 0.0, expected a number above 0"),
        ({"temperature": {"follows": math.nan}}, "the temperature of 'follows' is nan"),
        ({"temperature": {"follow": 1.0}}, "temperature names 'follow'; did you mean 'follows'"),
        ({"relations": ["likes"], "temperature": {"follows": 1.0}}, "temperature names 'follows'; known: likes"),
        ({"per_edge": "max"}, "per_edge 'max' is not known; did you mean 'softmax'?"),
    ],
)
def test_weights_of_what_is_not_there_are_refused(arguments, said):
    graph = random_graph()
    with pytest.raises(ConfigError) as error:
        mixture_weights(mixture_model(graph), graph, **arguments)
    assert said in str(error.value)


# ---- how components are used


def test_usage_agrees_with_loops():
    """Of some entities with fewer edges than components."""
    graph = random_graph(num_edges=5)
    model = mixture_model(graph)
    wins = {name: np.zeros((len(ids), COMPONENTS[name])) for name, ids in model.entities.items()}
    for name, ends in model.relations.items():
        for source, target, _ in rows_of(graph, name):
            table = np.array(matrix(model, name, source, target))
            c, d = np.unravel_index(table.argmax(), table.shape)
            wins[ends.source][source, c] += 1
            wins[ends.target][target, d] += 1
    usage = component_usage(model, graph)
    assert {name: row["positives"] for name, row in usage.items()} == {"user": 5 * 4, "item": 5 * 2}
    for name, row in usage.items():
        number, won = COMPONENTS[name], [each for each in wins[name].tolist() if sum(each)]
        shares = [sorted((x / sum(each) for x in each), reverse=True) for each in won]
        entropies = [-sum(x * math.log(x) for x in each if x) for each in shares]
        busy = [each for each in won if sum(each) >= number]
        assert name == "user" or 0 < len(busy) < len(won)
        parts = model.vectors[name].double().numpy().reshape(-1, number, 4)[wins[name].sum(1) > 0]
        apart = [1 - naive.compare("cos", x, y) for each in parts for x, y in itertools.combinations(each, 2)]
        assert row["components"] == number
        assert row["won"] == pytest.approx((wins[name].sum(0) / wins[name].sum()).tolist())
        assert row["won_within"] == pytest.approx(np.mean(shares, 0).tolist())
        assert row["effective"] == pytest.approx(np.mean(np.exp(entropies)))
        assert row["dead"] == pytest.approx(np.mean([x == 0 for each in busy for x in each]))
        assert row["distance"] == pytest.approx(np.mean(apart), abs=1e-6)
    assert json.loads(json.dumps(usage)) == usage


def test_a_collapsed_model_is_reported():
    """The second and third component point away from everything: one wins all."""
    graph = graph_of([Relation("r", "user", "item", operator="identity")], r=pd.DataFrame(
        {"source": ["u", "u", "u", "v", "v", "v"], "target": ["x", "y", "z"] * 2}
    ))  # fmt: skip
    model = mixture_model(graph, components={"user": 3})
    model.vectors["item"].abs_()
    model.vectors["user"][:] = torch.tensor([1.0] * 4 + [-1.0] * 8)
    (row,) = component_usage(model, graph).values()
    assert (row["won"], row["won_within"], row["effective"]) == ([1.0, 0.0, 0.0], [1.0, 0.0, 0.0], 1.0)
    assert row["dead"] == pytest.approx(2 / 3)
    assert row["distance"] == pytest.approx((2 + 2 + 0) / 3)


@pytest.mark.parametrize(
    ("second", "distance"), [([0.0, 3.0], 1.0), ([2.0, 0.0], 0.0), ([-1.0, 0.0], 2.0), ([0.0, 0.0], 1.0)]
)
def test_the_distance_of_components_by_hand(second, distance):
    graph = graph_of([Relation("r", "user", "item")], r=pd.DataFrame({"source": ["u", "v"], "target": ["x", "x"]}))
    model = mixture_model(graph, dim=2, components={"user": 2})
    model.vectors["user"][:] = torch.tensor([5.0, 0.0, *second])
    assert component_usage(model, graph)["user"]["distance"] == pytest.approx(distance, abs=1e-12)


def test_usage_without_edges_says_nothing():
    graph = random_graph()
    none = {name: edges.take(np.zeros(0, np.int64)) for name, edges in graph.edges.items()}
    usage = component_usage(mixture_model(graph), Graph(graph.relations, graph.entities, none))
    assert usage["user"] == {
        "components": 2, "positives": 0, "won": [0.0, 0.0], "won_within": [], "effective": 0.0, "dead": 0.0,
        "distance": 0.0,
    }  # fmt: skip


# ---- scores and ranks


@pytest.mark.parametrize("settings", [{}, {"comparator": "dot", "bias": True}, {"pooling": "max"}], ids=str)
@pytest.mark.parametrize("similarities_at_once", [1 << 22, 30])
def test_scores_and_ranks_agree_with_loops(monkeypatch, settings, similarities_at_once):
    monkeypatch.setattr(ranks, "_CPU_SCORES", similarities_at_once)
    sizes, block = [], Pooled.block

    def counted(self, a, b):
        sizes.append(a.numel() * b.numel() // self.dim**2)
        return block(self, a, b)

    monkeypatch.setattr(Pooled, "block", counted)
    graph, held_out = random_graph(), random_graph(1, num_edges=9)
    held_out = Graph.from_frames(
        {name: pd.DataFrame({"source": held_out.pairs(name)["query"], "target": held_out.pairs(name)["candidate"]})
         for name in held_out.relations}, RELATIONS,
    )  # fmt: skip
    model = mixture_model(graph, **settings)
    known = {name: {(s, t) for s, t, _ in rows_of(graph, name)} for name in graph.relations}
    ids = {name: model.entities[name].to_pylist() for name in model.entities}
    wanted = {}
    for name, ends in model.relations.items():
        pairs = [
            (ids[ends.source].index(s), ids[ends.target].index(t))
            for s, t in held_out.pairs(name)[["query", "candidate"]].itertuples(index=False)
        ]
        known[name] |= set(pairs)
        scores = {
            (s, t): slow_score(model, name, s, t)
            for s in range(len(ids[ends.source]))
            for t in range(len(ids[ends.target]))
        }
        given = list(scores)
        got = model.score(name, [ids[ends.source][s] for s, _ in given], [ids[ends.target][t] for _, t in given])
        assert got.tolist() == pytest.approx([scores[pair] for pair in given], abs=1e-5)
        for s, t in pairs:
            line, column = (
                {n: scores[s, n] for n in range(len(ids[ends.target]))},
                {n: scores[n, t] for n in range(len(ids[ends.source]))},
            )
            others = {n for m, n in known[name] if m == s}, {m for m, n in known[name] if n == t}
            wanted.setdefault((name, "target", s, t), naive.filtered_rank(line, t, others[0]))
            wanted.setdefault((name, "source", t, s), naive.filtered_rank(column, s, others[1]))
    found = evaluate(model, held_out, known=graph).ranks
    got = {(row.relation, row.side, row.query, row.true): row.rank for row in found.itertuples()}
    assert got == wanted
    assert len(set(wanted.values())) > 3
    assert max(sizes) <= max(similarities_at_once, 2 * 3 * 8)  # or one question about an item


def test_scores_of_no_pairs_and_of_unknown_ids():
    model = mixture_model(random_graph())
    assert model.score("likes", [], []).tolist() == []
    assert np.isnan(model.score("likes", ["user 1", "nobody"], ["item 1", "item 1"])).tolist() == [False, True]


# ---- files


def learned(model):
    fields = ("vectors", "biases", "parameters", "vector_state", "bias_state", "parameter_state", "mixture_weights")
    return {f"{field} {name}": part.tolist() for field in fields for name, part in getattr(model, field).items()}


@pytest.mark.parametrize("settings", [{}, {"bias": True, "comparator": "dot", "optimizer": "adagrad"}], ids=str)
def test_a_model_is_saved_and_read_back(tmp_path, settings):
    model = mixture_model(random_graph(), **settings)
    read = Model.load(model.save(tmp_path / "model"), verify=True)
    assert learned(read) == learned(model)
    assert (read.config, read.relations) == (model.config, model.relations)
    pair = ["user 1", "user 3"], ["item 2", "item 5"]
    assert read.score("likes", *pair).tolist() == model.score("likes", *pair).tolist()


def test_a_model_with_damaged_weights_is_an_error(tmp_path):
    folder = mixture_model(random_graph()).save(tmp_path / "model")
    (folder / "mixture-weights-0.npy").unlink()
    with pytest.raises(FormatError, match=r"mixture-weights-0\.npy is missing"):
        Model.load(folder)


@pytest.mark.parametrize("settings", [{}, {"bias": True, "comparator": "dot", "optimizer": "adagrad"}], ids=str)
def test_an_exported_mixture_is_the_models(tmp_path, settings):
    relations = [RELATIONS[0], Relation("sees", "user", "ad")]
    graph = random_graph(relations=relations)
    model = mixture_model(graph, **settings)
    model.degrees["user"][2] = model.degrees["item"][0] = 0  # never trained
    version = export(model, tmp_path / "v1")
    kinds = {name: entry.kind for name, entry in version.tables.items()}
    assert kinds == {
        "user": "mixture", "user-components": "vectors", "item": "mixture", "item-components": "vectors",
        "ad": "vectors",
    }  # fmt: skip
    version = open_version(tmp_path / "v1", verify=True)
    for name, number in COMPONENTS.items():
        mixture, kept = version.mixture(name), model.degrees[name] > 0
        assert mixture.ids.to_pylist() == np.array(model.entities[name].to_pylist())[kept].tolist()
        assert (mixture.num_components, mixture.dim, mixture.comparator) == (number, 4, model.config.comparator)
        vectors = mixture.vectors_at(np.arange(len(mixture)))
        wanted = model.vectors[name].numpy()[kept]
        assert vectors.tobytes() == wanted.tobytes()
        np.testing.assert_allclose(mixture.weights, model.mixture_weights[name][kept], rtol=1e-6)
        if model.biases:
            biases = mixture.components.bias[mixture.component_rows]
            assert biases.tolist() == [[bias] * number for bias in model.biases[name].numpy()[kept].tolist()]
    ad = version.table("ad")
    assert ad.vectors.tobytes() == model.vectors["ad"].numpy()[model.degrees["ad"] > 0].tobytes()


def test_an_exported_mixture_reads_back_as_the_model(tmp_path):
    for number, settings in enumerate([{}, {"bias": True, "comparator": "dot", "optimizer": "adagrad"}]):
        model = mixture_model(random_graph(), **settings)
        for name in model.degrees:
            model.degrees[name][:] = 1
        read = load_exported(export(model, tmp_path / f"v{number}"))
        ours, theirs = learned(model), learned(read)
        assert set(ours) == set(theirs)
        for name, numbers in ours.items():
            assert theirs[name] == (pytest.approx(np.array(numbers)) if "weights" in name else numbers), name
        assert read.config == model.config


@pytest.mark.parametrize("components", [1, {"ad": 2}])
def test_a_type_without_a_trained_entity_reads_back_as_an_empty_one(tmp_path, components):
    relations = [RELATIONS[0], Relation("sees", "user", "ad")]
    graph = random_graph(relations=relations)
    model = mixture_model(graph, components=components, comparator="dot", bias=True)
    model.degrees["ad"][:] = 0
    read = load_exported(export(model, tmp_path / "v1"))
    assert len(read.entities["ad"]) == 0
    assert tuple(read.vectors["ad"].shape) == (0, model.config.width("ad"))
    assert tuple(read.biases["ad"].shape) == (0,)
    trained = torch.from_numpy(model.degrees["user"] > 0)
    assert read.biases["user"].tolist() == model.biases["user"][trained].tolist()


def test_networks_export_mixtures_side_by_side(tmp_path):
    """Components of a type that a network lacks are no mistake, as long as one has it."""
    graph = random_graph()
    config = TrainConfig(dim=4, epochs=1, uniform_negatives=3, components={"item": 2, "user": 2})
    models = train_networks(graph, {"follow": ["follows"], "taste": ["likes", "made by"]}, config)
    version = export(models, tmp_path / "v1")
    assert sorted(version.tables) == [
        "item-taste", "item-taste-components", "user-follow", "user-follow-components", "user-taste",
        "user-taste-components",
    ]  # fmt: skip
    read = load_exported(version, network="follow")
    assert torch.equal(read.vectors["user"], models["follow"].vectors["user"][models["follow"].degrees["user"] > 0])
    with pytest.raises(ConfigError, match="components names the entity type 'itme'; did you mean 'item'"):
        train_networks(graph, {"follow": ["follows"]}, dataclasses.replace(config, components={"itme": 2}))


def test_a_table_that_is_called_like_one_of_components_is_refused(tmp_path):
    graph = graph_of([Relation("r", "user", "user-components")])
    with pytest.raises(ConfigError, match="user-components"):
        export(mixture_model(graph, components={"user": 2}), tmp_path / "v1")
    assert not (tmp_path / "v1").exists()


# ---- warm starts


def test_components_are_carried_by_id_and_new_mixtures_start_at_random():
    old = Graph.from_frames(
        {"likes": pd.DataFrame({"source": ["ann", "bob"], "target": [1, 2]}),
         "next": pd.DataFrame({"source": [1], "target": [2]})},
        [Relation("likes", "user", "item"), Relation("next", "item", "item")],
    )  # fmt: skip
    previous = mixture_model(old, components={"user": 3})
    new = Graph.from_frames(
        {"likes": pd.DataFrame({"source": ["cid", "bob", "ada"], "target": [3, 2, 1]}),
         "next": pd.DataFrame({"source": [1, 4], "target": [3, 5]})},
        [Relation("likes", "user", "item"), Relation("next", "item", "item")],
    )  # fmt: skip
    run, fresh = Run.of(new, previous.config, CPU), Run.of(new, previous.config, CPU)
    assert carry(previous, run, new) == {
        "user": {"carried": 1, "from neighbours": 0, "at random": 2},
        "item": {"carried": 2, "from neighbours": 1, "at random": 2},
    }
    users, items = (new.entities[name].to_pylist() for name in ("user", "item"))
    assert torch.equal(run.vectors["user"][users.index("bob")], previous.vectors["user"][1])
    assert torch.equal(run.vector_state["user"][users.index("bob")], previous.vector_state["user"][1])
    for name in ("cid", "ada"):
        assert torch.equal(run.vectors["user"][users.index(name)], fresh.vectors["user"][users.index(name)])
        assert run.vector_state["user"][users.index(name)].tolist() == [0.0] * 3
    # Item 3 follows item 1, and nothing else leads there: the mixture of cid says nothing.
    moved = naive.operate("translation", previous.vectors["item"][0], previous.parameters["next"])
    assert naive.compare("cos", run.vectors["item"][items.index(3)], moved) == pytest.approx(1.0)
    for item in (4, 5):
        assert torch.equal(run.vectors["item"][items.index(item)], fresh.vectors["item"][items.index(item)])


@pytest.mark.parametrize("components", [{"user": 2, "item": 2}, {"user": 3}, {"user": 3, "item": 1}])
def test_another_number_of_components_is_refused(components):
    graph = random_graph()
    previous = mixture_model(graph, components={"user": 3, "item": 2})
    config = dataclasses.replace(previous.config, components=components, epochs=1)
    entity, numbers = ("user", (3, 2)) if components["user"] == 2 else ("item", (2, 1))
    said = f"'{entity}' has {numbers[0]} components in the previous model, {numbers[1]} in this run"
    with pytest.raises(ConfigError, match=said):
        train(graph, config, previous=previous)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad"])
def test_a_run_goes_on_from_a_version(tmp_path, optimizer):
    """From what was exported, held where it was: nothing but what a step changes is another number."""
    graph = random_graph()
    config = TrainConfig(dim=4, epochs=2, uniform_negatives=3, components=COMPONENTS, optimizer=optimizer)
    previous = train(graph, config)
    export(previous, tmp_path / "v1")
    still = dataclasses.replace(config, epochs=1, learning_rate=1e-30, relation_learning_rate=1e-30)
    again = train(graph, still, previous=tmp_path / "v1")
    for name in COMPONENTS:
        assert torch.equal(again.vectors[name], previous.vectors[name])
        np.testing.assert_allclose(again.mixture_weights[name], previous.mixture_weights[name], rtol=1e-6)
    assert again.meta["components"] == previous.meta["components"]
    held = train(graph, dataclasses.replace(config, alpha=1e6, learning_rate=0.01), previous=tmp_path / "v1")
    free = train(graph, dataclasses.replace(config, learning_rate=0.01), previous=tmp_path / "v1")
    apart = [(model.vectors["user"] - previous.vectors["user"]).norm().item() for model in (held, free)]
    assert 0 < apart[0] < apart[1] * 0.8


# ---- same seed, same bytes

SMALL = TrainConfig(dim=6, epochs=3, batch_size=16, uniform_negatives=5, components=COMPONENTS, bias=True, seed=1)


def bytes_of(model):
    fields = ("vectors", "biases", "parameters", "vector_state", "bias_state", "parameter_state")
    found = {f"{field} {name}": part.numpy().tobytes() for field in fields
             for name, part in getattr(model, field).items()}  # fmt: skip
    return found | {name: weights.tobytes() for name, weights in model.mixture_weights.items()}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(engine):
    graph, config = random_graph(), engine_of(SMALL, engine)
    first, second = train(graph, config), train(graph, config)
    assert bytes_of(first) == bytes_of(second)
    assert (first.epochs, first.meta) == (second.epochs, second.meta)
    assert bytes_of(train(graph, dataclasses.replace(config, seed=2))) != bytes_of(first)


def test_both_engines_agree():
    graph = random_graph()
    native, plain = (train(graph, engine_of(SMALL, engine)) for engine in ENGINES)
    for field in ("vectors", "biases", "parameters", "vector_state"):
        for name, array in getattr(plain, field).items():
            np.testing.assert_allclose(getattr(native, field)[name], array, rtol=1e-3, atol=2e-4, err_msg=name)
    for name, weights in plain.mixture_weights.items():
        np.testing.assert_allclose(native.mixture_weights[name], weights, atol=5e-3)
    assert native.epochs[-1]["loss"] == pytest.approx(plain.epochs[-1]["loss"], rel=1e-4)


@pytest.mark.parametrize("steps", [2, 3, 6, 9])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path, steps):
    class Stopped(Exception):
        pass

    count = itertools.count(1)

    def stop(event):
        if event["event"] == "step" and next(count) == steps:
            raise Stopped

    graph = random_graph()
    kept = {"checkpoint": tmp_path / "c", "checkpoint_seconds": 0.0}
    with pytest.raises(Stopped):
        train(graph, SMALL, callback=stop, **kept)
    assert list((tmp_path / "c").iterdir())
    assert bytes_of(train(graph, SMALL, resume=True, **kept)) == bytes_of(train(graph, SMALL))


def test_the_best_epoch_has_its_own_weights():
    graph, held_out = random_graph(), random_graph(1, num_edges=6)
    model = train(graph, dataclasses.replace(SMALL, patience=1, epochs=6, learning_rate=0.5), validation=held_out)
    for name, weights in mixture_weights(model, graph).items():
        assert weights.tolist() == model.mixture_weights[name].tolist()
    assert model.meta["components"] == component_usage(model, graph)


# ---- what is refused


def test_unknown_entity_types_are_named_with_the_nearest():
    for components in ({"usr": 2}, {"user": 2, "usr": 1}):
        with pytest.raises(ConfigError, match="components names the entity type 'usr'; did you mean 'user'"):
            train(random_graph(), dataclasses.replace(SMALL, components=components))


def test_partitions_and_plans_refuse_components():
    with pytest.raises(ConfigError, match="components do not go with partitions"):
        check_partitioned(RELATIONS, SMALL)
    with pytest.raises(ConfigError, match="components are not planned for: plan one vector of their length"):
        Workload({"user": 10}, 10, SMALL)


def test_what_is_not_finite_is_an_error():
    with pytest.raises(DataError, match=r"is not finite|the loss is"):
        train(random_graph(), dataclasses.replace(SMALL, comparator="dot", learning_rate=1e30))


# ---- the command line

TOML = """\
version = "v1"
output = "store"
[[relation]]
name = "clicks"
source = "user"
target = "ad"
path = "clicks.csv"
[train]
dim = 8
epochs = 3
uniform_negatives = 10
components = { user = 2 }
pooling = "smoothmax"
pooling_temperature = 0.2
pooling_regularization = 0.05
pooling_form = "printed"
weight_temperature = 0.3
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a configuration and its edges; the working folder."""
    draw = np.random.default_rng(0)
    rows = pd.DataFrame({"source": draw.integers(20, size=120), "target": draw.integers(15, size=120)})
    rows.to_csv(tmp_path / "clicks.csv", index=False)
    (tmp_path / "c.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_configuration_with_components_becomes_a_version(project, run_cli):
    ran = run_cli("pretrain", "c.toml", "--save-model", "model")
    assert ran.code == 0, ran.err
    version, model = open_version(project / "store/v1", verify=True), Model.load(project / "model")
    assert sorted(version.tables) == ["ad", "user", "user-components"]
    config = model.config
    assert (config.components, config.pooling_temperature, config.pooling_form) == ({"user": 2}, 0.2, "printed")
    assert (config.pooling_regularization, config.weight_temperature) == (0.05, 0.3)
    np.testing.assert_allclose(version.mixture("user").weights, model.mixture_weights["user"], rtol=1e-6)
    usage = model.meta["components"]["user"]
    lines = [line for line in ran.out.splitlines() if "user" in line and f"{usage['effective']:.2f}" in line]
    assert len(lines) == 1
    assert [word for word in lines[0].split() if word.isalnum()][:2] == ["user", "2"]
    for said in (
        ", ".join(f"{share:.0%}" for share in usage["won_within"]),
        f"{usage['dead']:.1%}",
        f"{usage['distance']:.3f}",
    ):
        assert said in lines[0]
    assert usage["positives"] == 120
    assert version.meta["components"] == {"user": usage}


def test_json_says_how_components_are_used(project, run_cli):
    document = json.loads(run_cli("pretrain", "c.toml", "--json").out)
    assert document["components"] == open_version(project / "store/v1").meta["components"]
    assert document["components"]["user"]["components"] == 2
    (project / "c.toml").write_text(TOML.replace("components = { user = 2 }", "").replace('"v1"', '"v2"'))
    assert "components" not in json.loads(run_cli("pretrain", "c.toml", "--json").out)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("user = 2", "uesr = 2", "components names the entity type 'uesr'; did you mean 'user'?"),
        ("user = 2", "user = 0", "components of user must be a whole number of at least 1, got 0"),
        ("dim = 8", 'dim = 8\nengine = "gpu"', "engine 'gpu' has no components; take 'auto' or 'torch'"),
        ("dim = 8", 'dim = 8\ncomparator = "l2"', "components are compared by 'cos' or 'dot', not by 'l2'"),
    ],
)
def test_the_command_says_what_is_wrong(project, run_cli, old, new, said):
    (project / "c.toml").write_text(TOML.replace(old, new))
    ran = run_cli("pretrain", "c.toml")
    assert ran.code == 2
    assert said in ran.err
    assert not (project / "store/v1").exists()


def test_the_command_within_memory_refuses_components(project, run_cli):
    ran = run_cli("pretrain", "c.toml", "--memory", "1GB")
    assert ran.code == 2
    assert "components do not go with partitions" in ran.err


# ---- planted

BLOCKS = 6


def planted(seed, *, users=200, items=48, each=4):
    """Users who like a few items each of two blocks; user to blocks."""
    rng, rows, tastes = np.random.default_rng(seed), [], {}
    for user in range(users):
        tastes[f"u{user:03}"] = pair = sorted(rng.choice(BLOCKS, 2, replace=False).tolist())
        rows += [(f"u{user:03}", f"{b}-{i}") for b in pair for i in rng.choice(items // BLOCKS, each, replace=False)]
    frame = pd.DataFrame(rows, columns=["source", "target"])
    return graph_of([Relation("likes", "user", "item", sides="target")], likes=frame), tastes


def towards_blocks(model, tastes):
    """Cosines (U, C, BLOCKS) of users' components with the blocks' mean directions, and the users' blocks (U, 2)."""
    unit = torch.nn.functional.normalize(model.vectors["item"], dim=1).numpy()
    blocks = np.array([int(item[0]) for item in model.entities["item"].to_pylist()])
    means = np.stack([unit[blocks == b].mean(0) for b in range(BLOCKS)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    users = model.vectors["user"].view(len(tastes), -1, model.config.dim)
    own = np.array([tastes[user] for user in model.entities["user"].to_pylist()])
    return torch.nn.functional.normalize(users, dim=2).numpy() @ means.T, own


@pytest.mark.parametrize("seed", [1, 4])
def test_two_components_find_both_interests_and_one_vector_lies_between(seed):
    graph, tastes = planted(seed)
    config = TrainConfig(
        dim=6, operator="identity", epochs=100, batch_size=256, uniform_negatives=40, pooling_temperature=0.3, seed=seed
    )
    cosines, own = towards_blocks(train(graph, dataclasses.replace(config, components={"user": 2})), tastes)
    nearest = np.sort(cosines.argmax(2), 1)  # of each component the block
    assert (nearest == own).all(1).mean() >= 0.9
    single, _ = towards_blocks(train(graph, config), tastes)
    # To the interest that is farther away; of a vector between two directions at right angles .71 at most.
    near = [np.take_along_axis(found.max(1), own, 1).min(1).mean() for found in (cosines, single)]
    assert near[0] > near[1] + 0.08


@pytest.mark.parametrize("seed", range(2))
def test_in_few_dimensions_two_components_find_what_one_vector_cannot(seed):
    """Six blocks in three dimensions: between two of them lies a third, whose items one vector would have first."""
    graph, tastes = planted(seed)
    rng, known = np.random.default_rng(seed), set(graph.pairs("likes")[["query", "candidate"]].itertuples(index=False))
    drawn = [(user, f"{b}-{i}") for user, pair in tastes.items() for b in pair for i in rng.choice(8, 2, replace=False)]
    held_out = pd.DataFrame([pair for pair in drawn if pair not in known], columns=["source", "target"])
    questions = graph_of(list(graph.relations.values()), likes=held_out)
    config = TrainConfig(
        dim=3, operator="identity", loss="ranking", margin=0.5, temperature=1.0, epochs=150, batch_size=256,
        uniform_negatives=40, seed=seed,
    )  # fmt: skip
    mixed, single = (
        evaluate(
            train(graph, dataclasses.replace(config, components={"user": number})), questions,
            known=graph, k=(8,), sides="target",
        ).value("hits@8")
        for number in (2, 1)
    )  # fmt: skip
    assert mixed > 0.88
    assert single < 0.84
