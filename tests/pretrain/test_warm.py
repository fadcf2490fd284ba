"""Warm starts: who is carried, where new entities begin, and how strongly the old ones are held."""

import dataclasses

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from untrained import untrained_model

from pretrain import Graph, Relation, TrainConfig, export, load_exported, train
from pretrain.comparators import COMPARATORS
from pretrain.operators import OPERATORS
from pretrain.run import Run
from pretrain.warm import carry
from recokit.errors import ConfigError, DataError
from recokit.table import RelationParameters

CPU = torch.device("cpu")
CONFIG = TrainConfig(dim=4, epochs=1, batch_size=8, uniform_negatives=3, comparator="dot", operator="translation")
STILL = {"learning_rate": 1e-30, "relation_learning_rate": 1e-30}


def graph_of(relations=None, **edges):
    """A network; edges are lists of (source, target) or (source, target, weight)."""
    frames = {
        name: pd.DataFrame(rows, columns=["source", "target", "weight"][: len(rows[0])]) for name, rows in edges.items()
    }
    return Graph.from_frames(frames, relations or [Relation(name, "user", "item") for name in edges])


def begin(graph, config, device):
    """A run that knows its graph, for looking rows up."""
    run = Run.of(graph, config, device)
    run.graph = graph
    return run


def row(run, entity, key):
    return run.graph.entities[entity].to_pylist().index(key)


def vector(run, entity, key):
    return run.vectors[entity][row(run, entity, key)].tolist()


OLD = graph_of(likes=[("ann", 1), ("bob", 2), ("cid", 3), ("cid", 1)])


def test_rows_are_joined_by_id_and_new_ones_start_from_their_neighbours_or_at_random():
    previous = untrained_model(OLD, dataclasses.replace(CONFIG, bias=True))
    new = graph_of(
        [Relation("likes", "user", "item"), Relation("sees", "user", "ad"), Relation("joins", "guest", "club")],
        likes=[("cid", 0), ("ada", 1), ("ann", 1)],  # ada, item 0 are new; bob, items 2 and 3 have gone
        sees=[("ann", 7)],  # a new relation, a new type
        joins=[("x", 5)],  # and one that leads nowhere
    )
    config = dataclasses.replace(CONFIG, bias=True, seed=3)
    run, fresh = begin(new, config, CPU), begin(new, config, CPU)
    counts = carry(previous, run, run.graph)
    assert counts == {
        "user": {"carried": 2, "from neighbours": 1, "at random": 0},
        "item": {"carried": 1, "from neighbours": 1, "at random": 0},
        "ad": {"carried": 0, "from neighbours": 1, "at random": 0},
        "guest": {"carried": 0, "from neighbours": 0, "at random": 1},
        "club": {"carried": 0, "from neighbours": 0, "at random": 1},
    }
    for entity, key in (("user", "ann"), ("user", "cid"), ("item", 1)):
        there, here = previous.entities[entity].to_pylist().index(key), row(run, entity, key)
        for field in ("vectors", "vector_state", "biases", "bias_state"):
            assert torch.equal(getattr(run, field)[entity][here], getattr(previous, field)[entity][there])
    for entity, key in (("user", "ada"), ("item", 0), ("ad", 7)):
        assert vector(run, entity, key) != vector(fresh, entity, key)
        for field in ("vector_state", "biases", "bias_state"):
            assert getattr(run, field)[entity][row(run, entity, key)] == 0
    for entity, key in (("guest", "x"), ("club", 5)):
        assert vector(run, entity, key) == vector(fresh, entity, key)
    operator, place = run.rows["likes"]
    assert torch.equal(run.blocks[operator][place], previous.parameters["likes"])
    assert torch.equal(run.block_state[operator][place], previous.parameter_state["likes"])
    for name in ("sees", "joins"):
        operator, place = run.rows[name]
        assert run.blocks[operator][place].tolist() == [0.0] * 4


def test_an_entity_that_was_never_trained_is_new():
    previous = untrained_model(OLD, CONFIG)
    previous.degrees["user"][1] = 0  # bob
    run = begin(OLD, CONFIG, CPU)
    assert carry(previous, run, run.graph)["user"] == {"carried": 2, "from neighbours": 1, "at random": 0}
    assert vector(run, "user", "bob") != previous.vectors["user"][1].tolist()


def test_without_the_state_the_vectors_alone_are_carried():
    previous = untrained_model(OLD, dataclasses.replace(CONFIG, bias=True))
    run = begin(OLD, dataclasses.replace(CONFIG, bias=True), CPU)
    carry(previous, run, run.graph, carry_state=False)
    assert torch.equal(run.vectors["item"], previous.vectors["item"])
    assert torch.equal(run.biases["item"], previous.biases["item"])
    assert torch.equal(run.blocks["translation"][0], previous.parameters["likes"])
    for state in (run.vector_state["item"], run.bias_state["item"], run.block_state["translation"]):
        assert not state.any()


@pytest.mark.parametrize(
    "other",
    [
        {"operator": "diagonal"},
        {"operator_side": "target", "operator": "rotation"},
        {"source": "item", "target": "user", "operator": "rotation"},
    ],
)
def test_a_relation_of_another_meaning_starts_anew(other):
    config = dataclasses.replace(CONFIG, operator="rotation")
    frame = pd.DataFrame({"source": ["ann", "bob"], "target": ["x", "y"]})
    previous = untrained_model(Graph.from_frames({"r": frame}, [Relation("r", "user", "item")]), config, seed=1)
    assert previous.parameters["r"].any()
    now = Graph.from_frames({"r": frame}, [Relation("r", **({"source": "user", "target": "item"} | other))])
    run, fresh = begin(now, config, CPU), begin(now, config, CPU)
    carry(previous, run, run.graph)
    operator, place = run.rows["r"]
    assert torch.equal(run.blocks[operator][place], fresh.blocks[operator][place])
    assert not run.block_state[operator].any()


def test_reciprocal_relations_are_carried_too():
    config = dataclasses.replace(CONFIG, reciprocal=True)
    previous, run = untrained_model(OLD, config), begin(OLD, config, CPU)
    carry(previous, run, run.graph)
    for name in ("likes", "likes^-1"):
        operator, place = run.rows[name]
        assert torch.equal(run.blocks[operator][place], previous.parameters[name])
    plain = begin(OLD, CONFIG, CPU)
    carry(previous, plain, plain.graph)
    assert list(plain.rows) == ["likes"]
    named = [Relation("likes", "user", "item"), Relation("likes^-1", "item", "user")]
    twins = graph_of(named, **{"likes": [("ann", 1)], "likes^-1": [(1, "ann")]})
    run = begin(twins, CONFIG, CPU)
    carry(untrained_model(OLD, CONFIG), run, run.graph)  # a name that ends like that is no one's reciprocal
    assert run.blocks["translation"][1].tolist() == [0.0] * 4


# -- Eq. 5 -------------------------------------------------------------------------------------------------------------


def suggestion(relation, comparator, vector, *, to):
    """What a neighbour suggests, for a unit of weight; the pull is tested where it is defined."""
    if relation.side != to:
        moved = naive.operate(relation.operator, vector, relation.parameters)
    else:
        moved = relation.pull(np.asarray(vector)[None], comparator)[0]
    return moved / np.linalg.norm(moved) if comparator == "cos" else moved


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("comparator", COMPARATORS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_new_ends_take_the_mean_of_what_their_neighbours_suggest(operator, comparator, side):
    config = dataclasses.replace(CONFIG, operator=operator, comparator=comparator)
    relations = [Relation("likes", "user", "item", operator_side=side, weight=2.0), Relation("buys", "user", "item")]
    old = graph_of(relations, likes=[("ann", 1), ("bob", 2), ("cid", 3)], buys=[("ann", 1)])
    previous = untrained_model(old, config, seed=4)
    new = graph_of(
        relations,
        likes=[("ann", 1, 1.0), ("bob", 2, 1.0), ("cid", 3, 1.0), ("ann", 9, 0.5), ("bob", 9, 3.0), ("zoe", 2, 1.0)],
        buys=[("cid", 9), ("zoe", 3)],
    )
    run = begin(new, config, CPU)
    counts = carry(previous, run, run.graph)
    assert counts["item"] == counts["user"] == {"carried": 3, "from neighbours": 1, "at random": 0}
    users = dict(zip(["ann", "bob", "cid"], previous.vectors["user"].numpy().astype(float), strict=True))
    items = dict(zip([1, 2, 3], previous.vectors["item"].numpy().astype(float), strict=True))
    likes, buys = (
        RelationParameters(name, "user", "item", operator, previous.parameters[name].numpy(), side=where)
        for name, where in (("likes", side), ("buys", "source"))
    )
    item = (
        2.0 * 0.5 * suggestion(likes, comparator, users["ann"], to="target")
        + 2.0 * 3.0 * suggestion(likes, comparator, users["bob"], to="target")
        + 1.0 * suggestion(buys, comparator, users["cid"], to="target")
    ) / (1.0 + 6.0 + 1.0)
    user = (
        2.0 * suggestion(likes, comparator, items[2], to="source")
        + 1.0 * suggestion(buys, comparator, items[3], to="source")
    ) / 3.0
    for entity, key, mean, others in (("item", 9, item, items), ("user", "zoe", user, users)):
        # Means are short: they are made as long as the median of those that were carried, but under cos.
        length = np.median([np.linalg.norm(other) for other in others.values()])
        expected = mean if comparator == "cos" else mean * length / np.linalg.norm(mean)
        assert vector(run, entity, key) == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)


def test_reciprocal_relations_suggest_sources():
    config = dataclasses.replace(CONFIG, reciprocal=True)
    previous = untrained_model(OLD, config, seed=1)
    run = begin(graph_of(likes=[("ann", 1), ("bob", 2), ("cid", 3), ("zoe", 2)]), config, CPU)
    carry(previous, run, run.graph)
    mean = previous.vectors["item"][1] + previous.parameters["likes^-1"]
    norms = previous.vectors["user"].norm(dim=1)
    assert vector(run, "user", "zoe") == pytest.approx((mean / mean.norm() * norms.median()).tolist(), rel=1e-5)


def test_chains_of_new_entities_are_followed_and_filled_once():
    relations = [Relation("follows", "user", "user", operator="identity")]
    old = graph_of(relations, follows=[(0, 1), (1, 0)])
    previous = untrained_model(old, dataclasses.replace(CONFIG, comparator="l2"), seed=2)
    previous.vectors["user"][:] = torch.tensor([[3.0, 0, 0, 0], [0, 3.0, 0, 0]])
    chain = [(0, 1), (1, 0), *((n, n + 1) for n in range(1, 9))]
    run = begin(graph_of(relations, follows=[*chain, (20, 21)]), dataclasses.replace(CONFIG, comparator="l2"), CPU)
    assert carry(previous, run, run.graph)["user"] == {"carried": 2, "from neighbours": 8, "at random": 2}
    for key in range(2, 10):
        assert vector(run, "user", key) == pytest.approx([0, 3.0, 0, 0])


# -- the training that follows -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    return train(OLD, dataclasses.replace(CONFIG, epochs=5, bias=True, reciprocal=True))


def test_a_run_that_takes_no_steps_ends_where_it_began(trained):
    config = dataclasses.replace(trained.config, epochs=2, **STILL, seed=9)
    same = train(OLD, config, previous=trained)
    for field in ("vectors", "biases", "parameters"):
        for name, part in getattr(trained, field).items():
            assert torch.equal(getattr(same, field)[name], part)
    assert same.meta["start"] == {
        "user": {"carried": 3, "from neighbours": 0, "at random": 0},
        "item": {"carried": 3, "from neighbours": 0, "at random": 0},
    }
    assert "start" not in trained.meta
    for entity, state in same.vector_state.items():
        assert (state >= trained.vector_state[entity]).all()
        assert trained.vector_state[entity].min() > 0


def test_a_carried_state_makes_smaller_first_steps(trained):
    def moved(**settings):
        model = train(OLD, dataclasses.replace(trained.config, epochs=1, seed=5), previous=trained, **settings)
        return sum((model.vectors[entity] - part).norm().item() for entity, part in trained.vectors.items())

    assert moved() < 0.8 * moved(carry_state=False)


def test_a_start_from_what_was_published_is_that_from_the_model(trained, tmp_path):
    export(trained, tmp_path / "v1")
    published = load_exported(tmp_path / "v1")
    new = graph_of(likes=[("cid", 0), ("ada", 1), ("ann", 1), ("bob", 2)])
    config = dataclasses.replace(trained.config, epochs=2)
    first, second = (train(new, config, previous=model) for model in (trained, published))
    for field in ("vectors", "biases", "parameters", "vector_state", "bias_state", "parameter_state"):
        for name, part in getattr(first, field).items():
            assert torch.equal(getattr(second, field)[name], part)
    assert first.meta["start"] == second.meta["start"]


def test_a_type_of_which_nobody_was_exported_is_no_obstacle(tmp_path):
    relations = [Relation("likes", "user", "item"), Relation("sees", "user", "ad")]
    whole = graph_of(relations, likes=[("ann", 1), ("bob", 2)], sees=[("ann", 7)])
    nothing = dict(whole.edges) | {"sees": whole.edges["sees"].take(np.zeros(1, bool))}
    model = train(Graph(whole.relations, whole.entities, nothing), CONFIG)
    assert model.degrees["ad"].tolist() == [0]
    published = load_exported(export(model, tmp_path / "v1"))
    assert [len(ids) for ids in published.entities.values()] == [2, 2, 0]
    run = begin(whole, CONFIG, CPU)
    assert carry(published, run, run.graph)["ad"] == {"carried": 0, "from neighbours": 1, "at random": 0}


# -- held near the previous version ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_degree", [False, True])
@pytest.mark.parametrize("alpha", [0.25, {"user": 0.25}, {"item": 2.0, "user": 0.0}])
def test_the_penalty_of_an_epoch_is_alpha_times_the_squared_distances(alpha, by_degree):
    previous = untrained_model(OLD, CONFIG)
    # eve is new, so that nothing holds her; bob and item 2 have no edge with a weight any more.
    new = graph_of(likes=[("ann", 1, 2.0), ("ann", 3, 1.0), ("cid", 3, 0.5), ("eve", 1, 1.0), ("bob", 2, 0.0)])
    config = dataclasses.replace(CONFIG, batch_size=2, **STILL)
    moves, totals = {}, []
    for settings in ({}, {"alpha": alpha, "alpha_by_degree": by_degree}):
        run = begin(new, dataclasses.replace(config, **settings), CPU)
        carry(previous, run, run.graph)
        for entity, table in run.vectors.items():
            generator = torch.Generator().manual_seed(len(entity))
            moves[entity] = torch.randn(table.shape, generator=generator)
            table.add_(moves[entity])
        losses = torch.zeros(1, dtype=torch.float64)
        for group, positions in run.batches(1):
            run.step(group, positions, losses)
        totals.append(losses.item())
    expected = 0.0
    degrees = {"user": {"ann": 2, "cid": 1}, "item": {1: 2, 3: 2}}
    for entity, of_type in degrees.items():
        factor = alpha.get(entity, 0.0) if isinstance(alpha, dict) else alpha
        ids = new.entities[entity].to_pylist()
        for key, degree in of_type.items():
            square = sum(x**2 for x in moves[entity][ids.index(key)].tolist())
            expected += factor * (degree if by_degree else 1) * square
    assert totals[1] - totals[0] == pytest.approx(expected, rel=1e-4)


def test_the_penalty_pulls_straight_back():
    config = dataclasses.replace(CONFIG, alpha=1e7, learning_rate=0.5)
    run = begin(graph_of(likes=[("ann", 1), ("bob", 2)]), config, CPU)
    carry(untrained_model(OLD, CONFIG), run, run.graph)
    here, move = row(run, "user", "ann"), torch.tensor([3.0, 0, 0, -4.0])
    run.vector_state["user"].zero_()
    start = run.vectors["user"][here].clone()
    run.vectors["user"][here] += move
    for group, positions in run.batches(1):
        run.step(group, positions, torch.zeros(1, dtype=torch.float64))
    # Row-wise Adagrad's first step: as long as the learning rate in the mean of squares over the four components.
    expected = move - 0.5 * move / np.sqrt((9 + 16) / 4)
    assert (run.vectors["user"][here] - start).tolist() == pytest.approx(expected.tolist(), abs=1e-3)


def test_the_larger_alpha_the_less_is_left_behind(trained):
    def drift(alpha):
        config = dataclasses.replace(trained.config, epochs=20, alpha=alpha, seed=5)
        model = train(OLD, config, previous=trained, carry_state=False)
        return {entity: (model.vectors[entity] - part).norm().item() for entity, part in trained.vectors.items()}

    drifts = [drift(alpha) for alpha in (0.0, 1.0, 100.0)]
    for entity in ("user", "item"):
        assert drifts[0][entity] > 1.3 * drifts[1][entity] > 1.3 * 1.3 * drifts[2][entity]
    one = drift({"user": 100.0})
    assert one["user"] < 0.7 * drifts[0]["user"]
    assert one["item"] > 0.7 * drifts[0]["item"]


def test_what_does_not_fit_is_refused(trained):
    with pytest.raises(ConfigError, match="alpha holds vectors near those of a previous model: give previous"):
        train(OLD, dataclasses.replace(CONFIG, alpha=0.1))
    with pytest.raises(ConfigError, match="alpha names the entity type 'usr'; did you mean 'user'"):
        train(OLD, dataclasses.replace(trained.config, alpha={"usr": 0.1}), previous=trained)
    with pytest.raises(ConfigError, match="the previous model has the dimension 4, this run 6"):
        train(OLD, dataclasses.replace(trained.config, dim=6), previous=trained)
    with pytest.raises(
        DataError, match=r"'user', joined with the previous model's ids.*got int64 ids, expected string"
    ):
        train(graph_of(likes=[(5, 1), (6, 2)]), trained.config, previous=trained)
