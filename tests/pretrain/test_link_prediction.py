"""Link prediction against a slow version with dictionaries."""

import dataclasses
import importlib

import naive
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from untrained import untrained_model

from pretrain import Graph, Relation, TrainConfig, evaluate
from pretrain.operators import OPERATORS
from recokit.errors import ConfigError, DataError

CONFIG = TrainConfig(dim=3, comparator="dot")
RELATIONS = [Relation("likes", "user", "item"), Relation("follows", "user", "user", operator="identity")]


def random_graph(seed, *, num_edges=40):
    """Seven users, nine items; duplicates, loops and twins."""
    rng = np.random.default_rng(seed)
    likes = pd.DataFrame({"source": rng.integers(0, 7, num_edges), "target": rng.integers(0, 9, num_edges)})
    follows = pd.DataFrame({"source": rng.integers(0, 7, num_edges), "target": rng.integers(0, 7, num_edges)})
    return Graph.from_frames({"likes": likes, "follows": follows}, RELATIONS)


def edges_of(graph, relation):
    pairs = graph.pairs(relation)
    return list(zip(pairs["query"].tolist(), pairs["candidate"].tolist(), strict=True))


def slow_ranks(model, held_out, answers, relation, *, sides=("target", "source")):
    """(relation, side, anchor id, true id) to a list of ranks, from dictionaries of ids."""
    ends = model.relations[relation]
    operator, comparator = model.operator_name(relation), model.config.comparator
    tables = {
        entity: dict(zip(ids.to_pylist(), model.vectors[entity].double().numpy(), strict=True))
        for entity, ids in model.entities.items()
    }
    parameters = model.parameters[relation].double().numpy()

    def score(source, target):
        moved = naive.operate(operator, tables[ends.source][source], parameters)
        return naive.compare(comparator, moved, tables[ends.target][target])

    ranks = {}
    for source, target in edges_of(held_out, relation):
        if "target" in sides:
            scores = {candidate: score(source, candidate) for candidate in tables[ends.target]}
            others = {t for s, t in answers if s == source}
            rank = naive.filtered_rank(scores, target, others)
            ranks.setdefault((relation, "target", source, target), []).append(rank)
        if "source" in sides:
            scores = {candidate: score(candidate, target) for candidate in tables[ends.source]}
            others = {s for s, t in answers if t == target}
            rank = naive.filtered_rank(scores, source, others)
            ranks.setdefault((relation, "source", target, source), []).append(rank)
    return ranks


def ranks_of(model, evaluation):
    """What ``evaluate`` returned, in the slow version's form."""
    ranks = {}
    for row in evaluation.ranks.itertuples():
        ends = model.relations[row.relation]
        anchor, true = (ends.source, ends.target) if row.side == "target" else (ends.target, ends.source)
        ids = model.entities[anchor][row.query].as_py(), model.entities[true][row.true].as_py()
        ranks.setdefault((row.relation, row.side, *ids), []).append(row.rank)
    return ranks


@pytest.mark.parametrize("comparator", ["dot", "cos"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_ranks_agree_with_the_slow_version(comparator, seed):
    graph = random_graph(seed)
    known, held_out = graph.split(fraction=0.4, seed=seed)
    model = untrained_model(graph, dataclasses.replace(CONFIG, comparator=comparator), seed=seed)
    evaluation, expected = evaluate(model, held_out, known=known), {}
    for relation in ("likes", "follows"):
        answers = set(edges_of(known, relation)) | set(edges_of(held_out, relation))
        expected |= slow_ranks(model, held_out, answers, relation)
    assert ranks_of(model, evaluation) == expected
    every = np.concatenate(list(expected.values()))
    assert evaluation.value("mrr") == pytest.approx(np.mean(1 / every))
    assert evaluation.value("mean_rank") == pytest.approx(np.mean(every))
    assert evaluation.value("hits@3") == pytest.approx(np.mean(every <= 3))
    likes = np.concatenate([ranks for key, ranks in expected.items() if key[0] == "likes"])
    assert evaluation.value("hits@1", "likes") == pytest.approx(np.mean(likes <= 1))


@pytest.mark.parametrize("sides", ["target", "source", "both"])
def test_without_known_edges_only_the_held_out_ones_are_filtered(sides):
    graph = random_graph(1)
    _, held_out = graph.split(fraction=0.4)
    model = untrained_model(graph, CONFIG)
    evaluation = evaluate(model, held_out, relations=["likes"], sides=sides)
    asked = ("target", "source") if sides == "both" else (sides,)
    answers = set(edges_of(held_out, "likes"))
    assert ranks_of(model, evaluation) == slow_ranks(model, held_out, answers, "likes", sides=asked)
    assert evaluation.results[0]["protocol"]["filter"] == "held out only"
    assert evaluation.results[0]["protocol"]["sides"] == sides


def test_several_known_graphs_are_all_filtered():
    graph = random_graph(2)
    rest, held_out = graph.split(fraction=0.3)
    train, valid = rest.split(fraction=0.5)
    model = untrained_model(graph, CONFIG)
    together, apart = evaluate(model, held_out, known=rest), evaluate(model, held_out, known=[train, valid])
    assert together.ranks["rank"].tolist() == apart.ranks["rank"].tolist()
    assert apart.ranks["rank"].tolist() != evaluate(model, held_out, known=train).ranks["rank"].tolist()
    assert apart.results[0]["protocol"]["filter"] == "true answers of 2 known graph(s) and of the held-out one"


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("comparator", ["dot", "cos"])
def test_when_all_scores_are_equal_the_rank_is_the_middle(operator, comparator):
    edges = pd.DataFrame({"source": [1, 1, 1, 2], "target": [10, 11, 12, 13]})
    graph = Graph.from_frames({"r": edges}, [Relation("r", "a", "b")])
    known = Graph(graph.relations, graph.entities, {"r": graph.edges["r"].take(np.array([0, 3]))})
    held_out = Graph(graph.relations, graph.entities, {"r": graph.edges["r"].take(np.array([1]))})
    model = untrained_model(graph, TrainConfig(dim=3, operator=operator, comparator=comparator))
    for table in (*model.vectors.values(), *model.parameters.values()):
        table.fill_(0.7)
    # Four targets, of which 10 is filtered: the ranks 1, 2, 3 tie. Two sources, none filtered: 1 and 2 tie.
    evaluation = evaluate(model, held_out, known=known)
    assert evaluation.ranks["rank"].tolist() == [(3 + 1) / 2, (2 + 1) / 2]
    assert evaluate(model, held_out, known=known, sides="target").value("mrr") == 1 / 2


def test_the_metrics_of_spelled_out_ranks():
    edges = pd.DataFrame({"source": [0, 1, 2], "target": [0, 1, 2]})
    graph = Graph.from_frames({"r": edges}, [Relation("r", "a", "b", operator="identity")])
    model = untrained_model(graph, TrainConfig(dim=1, comparator="dot"))
    model.vectors["a"][:, 0] = model.vectors["a"].new_tensor([1.0, 1.0, -1.0])
    model.vectors["b"][:, 0] = model.vectors["b"].new_tensor([3.0, 2.0, 1.0])
    evaluation = evaluate(model, graph, sides="target", k=(1, 2))
    assert evaluation.ranks["rank"].tolist() == [1.0, 2.0, 1.0]
    assert evaluation.value("mrr") == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert evaluation.value("mean_rank") == pytest.approx(4 / 3)
    assert evaluation.value("hits@1") == pytest.approx(2 / 3)
    assert evaluation.value("hits@2") == 1.0
    assert [row["n"] for row in evaluation.results] == [3] * 8  # all, and the one relation
    assert evaluation.value("mrr", "r") == evaluation.value("mrr")


def test_the_results_are_rows_of_a_report():
    graph = random_graph(3)
    known, held_out = graph.split(fraction=0.4, seed=9)
    evaluation = evaluate(untrained_model(graph, CONFIG), held_out, known=known, k=(5,), name="tiny")
    assert [(row["metric"], row["group"]) for row in evaluation.results] == [
        (metric, group) for group in (None, "likes", "follows") for metric in ("mrr", "mean_rank", "hits@5")
    ]
    assert {row["name"] for row in evaluation.results} == {"tiny"}
    protocol = evaluation.results[0]["protocol"]
    assert protocol["candidates"] == "all entities of the type"
    assert protocol["split"] == [{"split": {"fraction": 0.4, "seed": 9}, "part": "held out"}]
    frame = evaluation.to_frame()
    assert frame.index.tolist() == ["(all)", "likes", "follows"]
    assert frame.loc["likes", "mrr"] == evaluation.value("mrr", "likes")
    counts = [2 * len(held_out.edges[name]) for name in ("likes", "follows")]
    assert frame["questions"].tolist() == [sum(counts), *counts]
    assert "hits@5" in str(evaluation)


def test_unseen_entities_are_kept_or_dropped_as_asked():
    edges = pd.DataFrame({"source": [1, 1, 2, 3], "target": [10, 11, 10, 12]})
    graph = Graph.from_frames({"r": edges}, [Relation("r", "a", "b")])
    known = Graph(graph.relations, graph.entities, {"r": graph.edges["r"].take(np.array([0]))})
    held_out = Graph(graph.relations, graph.entities, {"r": graph.edges["r"].take(np.array([1, 2, 3]))})
    model = dataclasses.replace(
        untrained_model(graph, CONFIG), degrees={"a": known.degrees("a"), "b": np.array([1, 3, 0])}
    )
    kept = evaluate(model, held_out, known=known, sides="target")
    dropped = evaluate(model, held_out, known=known, sides="target", unseen="drop")
    assert kept.ranks["query"].tolist() == [0, 1, 2]
    assert dropped.ranks["query"].tolist() == [0]  # 2 and 3 have no training edge
    assert dropped.results[0]["protocol"]["unseen"] == "drop (2 edges dropped)"
    assert dropped.ranks["rank"][0] == kept.ranks["rank"][0]  # the candidates stay all entities
    nothing = dataclasses.replace(model, degrees={"a": np.zeros(3, int), "b": np.zeros(3, int)})
    with pytest.raises(DataError, match="no held-out edge to ask about"):
        evaluate(nothing, held_out, known=known, unseen="drop")


def test_graphs_are_joined_by_ids_and_not_by_rows():
    graph = random_graph(4)
    known, held_out = graph.split(fraction=0.4)
    model = untrained_model(graph, CONFIG)
    expected = evaluate(model, held_out, known=known)
    # Built anew from the pairs of each part: other entities are missing in each, so that rows differ.
    again = [
        Graph.from_frames(
            {name: part.pairs(name).set_axis(["source", "target"], axis=1) for name in part.relations}, RELATIONS
        )
        for part in (known, held_out)
    ]
    assert not again[1].entities["item"].equals(graph.entities["item"])
    evaluation = evaluate(model, again[1], known=again[0])
    assert evaluation.ranks.equals(expected.ranks)


def test_large_questions_are_cut_into_chunks_without_a_trace(monkeypatch):
    graph = random_graph(5)
    known, held_out = graph.split(fraction=0.4)
    model = untrained_model(graph, CONFIG)
    expected = evaluate(model, held_out, known=known)
    monkeypatch.setattr(importlib.import_module("pretrain.evaluate"), "_CHUNK_SCORES", 20)  # two questions at a time
    assert evaluate(model, held_out, known=known).ranks.equals(expected.ranks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sides": "targets"}, "evaluate: sides 'targets' is not known; did you mean 'target'"),
        ({"unseen": "ignore"}, "evaluate: unseen 'ignore' is not known"),
        ({"relations": ["like"]}, "relation 'like' is not held out; did you mean 'likes'"),
    ],
)
def test_unknown_choices_are_refused(arguments, message):
    graph = random_graph(6)
    with pytest.raises(ConfigError, match=message):
        evaluate(untrained_model(graph, CONFIG), graph, **arguments)


def test_what_the_model_does_not_know_is_refused():
    graph = random_graph(7)
    model = untrained_model(graph, CONFIG)
    stranger = pd.DataFrame({"source": [0, 77, 0], "target": [0, 0, 78]})
    with pytest.raises(DataError, match="evaluate: 1 ends of 'likes' are no 'user' of the model"):
        evaluate(model, Graph.from_frames({"likes": stranger}, RELATIONS[:1]))
    other = Graph.from_frames({"hates": stranger}, [Relation("hates", "user", "item")])
    with pytest.raises(ConfigError, match="relation 'hates' is not in the model; known: follows, likes"):
        evaluate(model, other)
    with pytest.raises(ConfigError, match="no metric 'hits@7' for relation None was measured"):
        evaluate(model, graph).value("hits@7")


def test_nothing_held_out_is_refused():
    graph = random_graph(8)
    empty = Graph(
        graph.relations,
        graph.entities,
        {name: edges.take(np.zeros(len(edges), bool)) for name, edges in graph.edges.items()},
    )
    with pytest.raises(DataError, match="there is no held-out edge to ask about"):
        evaluate(untrained_model(graph, CONFIG), empty, known=graph)


def test_the_scale_of_a_dot_product_changes_no_rank():
    draw = np.random.default_rng(0)
    edges = pd.DataFrame({"source": np.arange(30), "target": draw.permutation(30)})
    graph = Graph.from_frames({"r": edges}, [Relation("r", "a", "b", operator="identity")])
    model = untrained_model(graph, TrainConfig(dim=4, comparator="dot"))
    for entity in ("a", "b"):
        model.vectors[entity].copy_(model.vectors[entity].new_tensor(draw.normal(size=(30, 4))))
    before = evaluate(model, graph).ranks["rank"].tolist()
    for entity in ("a", "b"):
        model.vectors[entity].mul_(1e-4)
    assert evaluate(model, graph).ranks["rank"].tolist() == before
