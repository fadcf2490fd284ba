"""Link prediction against a slow version with dictionaries, and protocols against what was done."""

import dataclasses
import importlib

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from untrained import untrained_model

from pretrain import Graph, Relation, TrainConfig, evaluate
from pretrain.comparators import COMPARATORS as MODEL_COMPARATORS
from pretrain.edges import Edges
from pretrain.ranks import Sample
from recokit.errors import ConfigError, DataError

CONFIG = TrainConfig(dim=4, comparator="dot")
RELATIONS = [
    Relation("likes", "user", "item"),
    Relation("follows", "user", "user", operator="identity"),
    Relation("made by", "item", "user", operator="diagonal", operator_side="target"),
]
COMPARATORS = ["dot", "cos", "l2", "squared_l2"]


def random_graph(seed, *, num_edges=40):
    """Seven users, nine items; duplicates, loops and twins."""
    rng = np.random.default_rng(seed)
    sizes = {"user": 7, "item": 9}
    frames = {
        relation.name: pd.DataFrame(
            {
                "source": rng.integers(0, sizes[relation.source], num_edges),
                "target": rng.integers(0, sizes[relation.target], num_edges),
            }
        )
        for relation in RELATIONS
    }
    return Graph.from_frames(frames, RELATIONS)


def with_edges(graph, positions):
    """The graph with some edges only: relation name to their positions."""
    none = np.zeros(0, np.int64)
    edges = {name: edges.take(np.array(positions.get(name, none))) for name, edges in graph.edges.items()}
    return Graph(graph.relations, graph.entities, edges)


def edges_of(graph, relation):
    pairs = graph.pairs(relation)
    return list(zip(pairs["query"].tolist(), pairs["candidate"].tolist(), strict=True))


def slow_rank(own, rivals, ties="mean"):
    """1 plus the scores above, and none, half or all of those that tie; ``own`` is None where nothing scores."""
    if own is None:
        return 1 + len(rivals)
    above = sum(score > own + 1e-9 for score in rivals)
    equal = sum(abs(score - own) <= 1e-9 for score in rivals)
    return 1 + above + {"mean": equal / 2, "pessimistic": equal, "optimistic": 0}[ties]


def slow_scores(model, relation, side, given):
    """Candidate id to score in float64, for the id of the given end."""
    ends = model.relations[relation]
    reverse = model.config.reciprocal and side == "source"
    parameters = model.parameters[f"{relation}^-1" if reverse else relation].double().numpy()
    asked, other = (ends.target, ends.source) if side == "target" else (ends.source, ends.target)
    tables = {
        entity: dict(zip(ids.to_pylist(), model.vectors[entity].double().numpy(), strict=True))
        for entity, ids in model.entities.items()
    }

    def move(vector):
        return naive.operate(ends.operator or model.config.operator, vector, parameters)

    def score(candidate):
        query, answer = tables[other][given], tables[asked][candidate]
        if model.config.reciprocal:  # the given end is moved, whichever it is
            return naive.compare(model.config.comparator, move(query), answer)
        source, target = (query, answer) if side == "target" else (answer, query)
        pair = (move(source), target) if ends.operator_side == "source" else (source, move(target))
        return naive.compare(model.config.comparator, *pair)

    biases = dict.fromkeys(tables[asked], 0.0)
    if model.config.bias:
        biases = dict(zip(tables[asked], model.biases[asked].tolist(), strict=True))
    return {candidate: score(candidate) + biases[candidate] for candidate in tables[asked]}


def slow_ranks(model, held_out, answers, relation, *, sides=("target", "source"), ties="mean"):
    """(relation, side, given id, true id) to a list of ranks; ``answers`` is a set of pairs of ids."""
    ranks = {}
    for pair in edges_of(held_out, relation):
        for side in sides:
            given, true = pair if side == "target" else pair[::-1]
            others = {t if side == "target" else s for s, t in answers if (s if side == "target" else t) == given}
            scores = slow_scores(model, relation, side, given)
            rivals = [score for candidate, score in scores.items() if candidate not in others | {true}]
            ranks.setdefault((relation, side, given, true), []).append(slow_rank(scores[true], rivals, ties))
    return ranks


def ranks_of(model, evaluation):
    """What ``evaluate`` returned, in the slow version's form."""
    ranks = {}
    for row in evaluation.ranks.itertuples():
        ends = model.relations[row.relation]
        given, true = (ends.source, ends.target) if row.side == "target" else (ends.target, ends.source)
        ids = model.entities[given][row.query].as_py(), model.entities[true][row.true].as_py()
        ranks.setdefault((row.relation, row.side, *ids), []).append(row.rank)
    return ranks


@pytest.mark.parametrize("extras", [{}, {"bias": True}, {"reciprocal": True}], ids=str)
@pytest.mark.parametrize("comparator", COMPARATORS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), ties=st.sampled_from(["mean", "pessimistic", "optimistic"]))
def test_ranks_agree_with_the_slow_version(comparator, extras, seed, ties):
    graph = random_graph(seed)
    known, held_out = graph.split(fraction=0.4, seed=seed)
    model = untrained_model(graph, dataclasses.replace(CONFIG, comparator=comparator, **extras), seed=seed)
    evaluation, expected = evaluate(model, held_out, known=known, ties=ties), {}
    for relation in graph.relations:
        answers = set(edges_of(known, relation)) | set(edges_of(held_out, relation))
        expected |= slow_ranks(model, held_out, answers, relation, ties=ties)
    assert ranks_of(model, evaluation) == expected
    every = np.concatenate(list(expected.values()))
    assert evaluation.value("mrr") == pytest.approx(np.mean(1 / every))
    assert evaluation.value("mean_rank") == pytest.approx(np.mean(every))
    assert evaluation.value("hits@3") == pytest.approx(np.mean(every <= 3))
    likes = np.concatenate([ranks for key, ranks in expected.items() if key[0] == "likes"])
    assert evaluation.value("hits@1", "likes") == pytest.approx(np.mean(likes <= 1))
    assert evaluation.results[0]["protocol"]["ties"] == f"{ties} rank (within 1e-06 of the vectors' sizes)"


@pytest.mark.parametrize("sides", ["target", "source", "both"])
@pytest.mark.parametrize(("arguments", "said"), [({}, "held out only"), ({"filter": False}, "none: raw ranks")])
def test_what_is_filtered_without_known_edges_and_without_a_filter(sides, arguments, said):
    graph = random_graph(1)
    known, held_out = graph.split(fraction=0.4)
    model = untrained_model(graph, CONFIG)
    if arguments:
        arguments = {**arguments, "known": known}
    evaluation = evaluate(model, held_out, relations=["likes"], sides=sides, **arguments)
    asked = ("target", "source") if sides == "both" else (sides,)
    answers = set() if arguments else set(edges_of(held_out, "likes"))
    assert ranks_of(model, evaluation) == slow_ranks(model, held_out, answers, "likes", sides=asked)
    assert evaluation.results[0]["protocol"]["filter"] == said
    assert evaluation.results[0]["protocol"]["sides"] == sides


def test_several_known_graphs_are_all_filtered():
    graph = random_graph(2)
    rest, held_out = graph.split(fraction=0.3)
    train, valid = rest.split(fraction=0.5)
    model = untrained_model(graph, CONFIG)
    together, apart = evaluate(model, held_out, known=rest), evaluate(model, held_out, known=[train, valid])
    assert together.ranks.equals(apart.ranks)
    assert apart.ranks["rank"].tolist() != evaluate(model, held_out, known=train).ranks["rank"].tolist()
    assert apart.results[0]["protocol"]["filter"] == "true answers of 2 known graph(s) and of the held-out one"


@pytest.mark.parametrize(("bias", "value"), [(False, 0.7), (True, 0.7), (False, 0.0)])
@pytest.mark.parametrize("operator", ["identity", "translation", "complex_diagonal", "rotation", "linear"])
@pytest.mark.parametrize("comparator", COMPARATORS)
def test_when_all_scores_are_equal_the_rank_is_the_middle(operator, comparator, bias, value):
    edges = pd.DataFrame({"source": [1, 1, 1, 2], "target": [10, 11, 12, 13]})
    graph = Graph.from_frames({"r": edges}, [Relation("r", "a", "b")])
    known, held_out = with_edges(graph, {"r": [0, 3]}), with_edges(graph, {"r": [1]})
    config = TrainConfig(dim=4, operator=operator, comparator=comparator, bias=bias)
    model = untrained_model(graph, config)
    for table in (*model.vectors.values(), *model.biases.values(), *model.parameters.values()):
        table.fill_(value)
    # Four targets, of which 10 is filtered: the ranks 1, 2, 3 tie. Two sources, none filtered: 1 and 2 tie.
    for ties, expected in (
        ("mean", [(3 + 1) / 2, (2 + 1) / 2]),
        ("pessimistic", [3.0, 2.0]),
        ("optimistic", [1.0, 1.0]),
    ):
        evaluation = evaluate(model, held_out, known=known, ties=ties)
        assert evaluation.ranks["rank"].tolist() == expected
        assert evaluation.ranks["candidates"].tolist() == [3, 2]
    assert evaluate(model, held_out, known=known, sides="target").value("mrr") == 1 / 2


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("distance", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("comparator", COMPARATORS)
def test_twins_tie_however_their_products_are_rounded(comparator, distance, bias):
    # 500 sources, each of whose target has nine twins and is as near to it as ``distance``.
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(500, 37)) * rng.uniform(0.1, 10, size=(500, 1))
    targets = np.repeat(sources + distance * rng.normal(size=sources.shape), 10, axis=0)
    shuffled = rng.permutation(5000)
    relations = {"r": Relation("r", "a", "b", operator="identity")}
    frame = pd.DataFrame({"source": np.arange(500), "target": np.arange(500)})
    ids = Graph.from_frames(
        {"r": pd.DataFrame({"source": np.arange(5000) % 500, "target": np.arange(5000)})}, list(relations.values())
    ).entities
    place = np.empty(5000, np.int64)
    place[shuffled] = np.arange(5000)
    held_out = Graph(relations, ids, {"r": Edges(frame["source"].to_numpy(), place[::10].copy())})
    model = untrained_model(held_out, TrainConfig(dim=37, comparator=comparator, bias=bias))
    model.vectors["a"].copy_(torch.from_numpy(sources))
    model.vectors["b"].copy_(torch.from_numpy(targets[shuffled]))
    if bias:
        model.biases["b"].fill_(0.3)
    rank = {ties: evaluate(model, held_out, sides="target", ties=ties).ranks["rank"] for ties in ("mean", "optimistic")}
    assert (rank["mean"] == rank["optimistic"] + 9 / 2).all()


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
    assert evaluation.value("amri") == pytest.approx(1 - (4 / 3 - 1) / (2 / 2))  # two rivals each: random is 1 + 2 / 2
    assert evaluation.value("hits@1") == pytest.approx(2 / 3)
    assert evaluation.value("hits@2") == 1.0
    assert evaluation.value("mrr", "r") == evaluation.value("mrr") == evaluation.value("mrr", group="side: target")


def test_the_adjusted_index_is_left_out_where_there_is_no_choice():
    graph = Graph.from_frames({"r": pd.DataFrame({"source": [0], "target": [0]})}, [Relation("r", "a", "b")])
    evaluation = evaluate(untrained_model(graph, CONFIG), graph)
    assert evaluation.value("mrr") == 1.0
    with pytest.raises(ConfigError, match="no metric 'amri'"):
        evaluation.value("amri")


def test_the_macro_mean_weighs_relations_alike_and_sides_stand_apart():
    graph = random_graph(3)
    known, held_out = graph.split(fraction=0.4)
    held_out = with_edges(held_out, {"likes": range(10), "follows": range(2)})
    evaluation = evaluate(untrained_model(graph, CONFIG), held_out, known=known)
    likes, follows = (evaluation.value("mrr", name) for name in ("likes", "follows"))
    assert evaluation.value("mrr", group="macro: mean over 2 relation(s)") == pytest.approx((likes + follows) / 2)
    assert evaluation.value("mrr") == pytest.approx((20 * likes + 4 * follows) / 24)
    for side in ("target", "source"):
        alone = evaluate(untrained_model(graph, CONFIG), held_out, known=known, sides=side)
        assert evaluation.value("mrr", group=f"side: {side}") == pytest.approx(alone.value("mrr"))
    assert evaluation.to_frame("side").index.tolist() == ["(all)", "target", "source"]
    assert evaluation.to_frame("side")["questions"].tolist() == [24, 12, 12]


def test_deciles_hold_equal_shares_of_the_questions_and_equal_degrees_together():
    # Item j has j training edges, from 0 to 19; each is asked for once, item 3 three times more.
    pairs = [(100 + user, item) for item in range(20) for user in range(item)]
    asked = [*((200, item) for item in range(20)), (201, 3), (202, 3), (203, 3)]
    edges = pd.DataFrame([*pairs, *asked], columns=["source", "target"])
    graph = Graph.from_frames({"r": edges}, [Relation("r", "user", "item")])
    known = with_edges(graph, {"r": np.arange(len(pairs))})
    held_out = with_edges(graph, {"r": np.arange(len(pairs), len(edges))})
    model = dataclasses.replace(
        untrained_model(graph, CONFIG), degrees={name: known.degrees(name) for name in graph.entities}
    )
    evaluation = evaluate(model, held_out, known=known, sides="target")
    frame = evaluation.to_frame("degree")
    # Below degree d lie d questions of the 23, and 3 more from d = 4 on: the decile is 1 + 10 * that // 23.
    assert frame.index.tolist() == [
        "(all)",
        "1: 0-2 edges",
        "2: 3 edges",
        "4: 4-6 edges",
        "5: 7-8 edges",
        "6: 9-10 edges",
        "7: 11-13 edges",
        "8: 14-15 edges",
        "9: 16-17 edges",
        "10: 18-19 edges",
    ]
    assert frame["questions"].tolist() == [23, 3, 4, 3, 2, 2, 3, 2, 2, 2]
    few = evaluation.ranks.query("degree <= 2")
    assert evaluation.value("mrr", group="degree decile 1: 0-2 edges") == pytest.approx((1 / few["rank"]).mean())
    assert (1 / few["rank"]).mean() == pytest.approx(frame.loc["1: 0-2 edges", "mrr"])


def test_the_results_are_rows_of_a_report():
    graph = random_graph(3)
    known, held_out = graph.split(fraction=0.4, seed=9)
    evaluation = evaluate(untrained_model(graph, CONFIG), held_out, known=known, k=(5,), name="tiny")
    groups = [None, "macro: mean over 3 relation(s)", "relation: likes", "relation: follows", "relation: made by"]
    groups += ["side: target", "side: source"]
    metrics = ("mrr", "mean_rank", "amri", "hits@5")
    rows = [(row["metric"], row["group"]) for row in evaluation.results]
    assert rows[: 4 * len(groups)] == [(metric, group) for group in groups for metric in metrics]
    assert all(group.startswith("degree decile ") for _, group in rows[4 * len(groups) :])
    assert {row["name"] for row in evaluation.results} == {"tiny"}
    counts = [2 * len(held_out.edges[name]) for name in graph.relations]
    protocol = evaluation.results[0]["protocol"]
    assert protocol == {
        "candidates": "all entities of the type",
        "filter": "true answers of 1 known graph(s) and of the held-out one",
        "ties": "mean rank (within 1e-06 of the vectors' sizes)",
        "sides": "both",
        "split": [{"split": {"fraction": 0.4, "seed": 9}, "part": "held out"}],
        "unseen": "keep (0 edges with an end never trained, 0 with one not in the model)",
        "questions": sum(counts),
    }
    frame = evaluation.to_frame()
    assert frame.index.tolist() == ["(all)", "(macro)", "likes", "follows", "made by"]
    assert frame.loc["likes", "mrr"] == evaluation.value("mrr", "likes")
    assert frame["questions"].tolist() == [sum(counts), sum(counts), *counts]
    assert "hits@5" in str(evaluation)
    assert "SAMPLED" not in str(evaluation)
    assert evaluate(untrained_model(graph, CONFIG), held_out, relations=["likes"]).to_frame().index.tolist() == [
        "likes"
    ]


def test_a_relation_may_be_called_like_another_group():
    names = ["side: target", "degree decile 1", "(all)"]
    frame = pd.DataFrame({"source": [0, 1], "target": [0, 1]})
    graph = Graph.from_frames(dict.fromkeys(names, frame), [Relation(name, "a", "b") for name in names])
    evaluation = evaluate(untrained_model(graph, CONFIG), graph)
    groups = [row["group"] for row in evaluation.results if row["metric"] == "mrr"]
    assert len(groups) == len(set(groups))
    of_relation = evaluation.ranks.query("relation == 'side: target'")["rank"]
    assert evaluation.value("mrr", "side: target") == pytest.approx((1 / of_relation).mean())


# -- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uniform", "prevalence"])
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 30))
def test_a_sample_is_count_different_rivals_for_every_question(kind, seed, count):
    rng = np.random.default_rng(seed)
    degrees = rng.integers(0, 4, 20)
    degrees[0] = 1
    excluded = np.unique(rng.integers(0, [[5], [20]], (2, 25)), axis=1)
    sample = Sample(kind, count, 0)
    drawn = sample.draw(rng, degrees, max(np.bincount(excluded[0])))
    left = sample.left(drawn, 20, excluded, 5)
    possible = set(range(20)) if kind == "uniform" else set(np.flatnonzero(degrees).tolist())
    assert len(set(drawn.tolist())) == len(drawn)
    for question in range(5):
        places = set(range(len(drawn))) - set(left[1, left[0] == question].tolist())
        rivals = possible - set(excluded[1, excluded[0] == question].tolist())
        assert {drawn[place] for place in places} <= rivals
        assert len(places) == min(count, len(rivals))


def test_samples_are_drawn_evenly_or_in_proportion_to_training_edges():
    degrees, rng = np.array([0, 1, 3, 4]), np.random.default_rng(0)
    for kind, shares in (("uniform", [1 / 3, 1 / 3, 1 / 3, 0]), ("prevalence", [0, 1 / 4, 3 / 4, 0])):
        drawn = np.zeros(4)
        for _ in range(4000):
            sample = Sample(kind, 1, 0)
            columns = sample.draw(rng, degrees, 1)
            drawn[np.delete(columns, sample.left(columns, 4, np.array([[0], [3]]), 1)[1])] += 1
        np.testing.assert_allclose(drawn / 4000, shares, atol=0.03)  # four standard deviations of a share of 1/3


@pytest.mark.parametrize("filter", [True, False])
@pytest.mark.parametrize("kind", ["uniform", "prevalence"])
def test_ranks_among_a_sample_agree_with_the_slow_version(kind, filter, monkeypatch):
    graph = random_graph(10, num_edges=30)
    known, held_out = graph.split(fraction=0.3)
    model = untrained_model(graph, dataclasses.replace(CONFIG, comparator="l2"))
    draws = []

    def spied(self, drawn, num_entities, excluded, questions, left=Sample.left):
        pairs = left(self, drawn, num_entities, excluded, questions)
        draws.append([np.delete(drawn, pairs[1, pairs[0] == question]).tolist() for question in range(questions)])
        return pairs

    monkeypatch.setattr(Sample, "left", spied)
    evaluation = evaluate(model, held_out, known=known, candidates=f"{kind}:3", filter=filter, seed=5)
    taken = [rows for draw in draws for rows in draw]
    assert len(taken) == len(evaluation.ranks)
    for row, rows in zip(evaluation.ranks.itertuples(), taken, strict=True):
        given, asked = ("source", "target") if row.side == "target" else ("target", "source")
        ends = model.relations[row.relation]
        ids = model.entities[getattr(ends, asked)].to_pylist()
        query, true = model.entities[getattr(ends, given)][row.query].as_py(), ids[row.true]
        pairs = [edge for part in (known, held_out) for edge in edges_of(part, row.relation)]
        answers = {t if asked == "target" else s for s, t in pairs if (s if asked == "target" else t) == query}
        assert not {ids[rival] for rival in rows} & ((answers if filter else set()) | {true})
        scores = slow_scores(model, row.relation, row.side, query)
        assert row.rank == slow_rank(scores[true], [scores[ids[rival]] for rival in rows])
        assert row.candidates == 1 + len(rows)
        assert len(rows) == 3 or len(ids) - len(answers) < 3 or kind == "prevalence"


def test_a_sample_depends_on_its_seed_and_on_nothing_else():
    graph = random_graph(11)
    known, held_out = graph.split(fraction=0.4)
    model = untrained_model(graph, CONFIG)

    def sampled(**arguments):
        return evaluate(model, held_out, known=known, candidates="uniform:2", **arguments).ranks

    every = sampled(seed=1)
    assert sampled(seed=1).equals(every)
    assert sampled(seed=2)["rank"].tolist() != every["rank"].tolist()
    alone = sampled(seed=1, relations=["follows"], sides="source")
    assert alone["rank"].tolist() == every.query("relation == 'follows' and side == 'source'")["rank"].tolist()


def test_more_candidates_than_there_are_give_the_full_ranks():
    graph = random_graph(12)
    known, held_out = graph.split(fraction=0.4)
    model = untrained_model(graph, CONFIG)
    full = evaluate(model, held_out, known=known)
    assert evaluate(model, held_out, known=known, candidates="uniform:9").ranks.equals(full.ranks)
    assert evaluate(model, held_out, known=known, candidates="uniform:5").value("mrr") > full.value("mrr")


def test_a_sampled_result_says_so():
    graph = random_graph(13)
    known, held_out = graph.split(fraction=0.4)
    evaluation = evaluate(untrained_model(graph, CONFIG), held_out, known=known, candidates="uniform:1000", seed=7)
    protocol = evaluation.results[0]["protocol"]
    said = "1,000 uniform, drawn anew for every 256 questions, and the true one"
    assert (protocol["candidates"], protocol["seed"]) == (said, 7)
    assert str(evaluation).startswith("SAMPLED, not to be compared with ranks among all entities\n")
    for by in ("relation", "side", "degree"):
        assert evaluation.to_frame(by).index.name == f"{by} (SAMPLED: 1,000 uniform)"


def test_prevalence_needs_training_edges():
    graph = random_graph(14)
    model = untrained_model(graph, CONFIG)
    nothing = dataclasses.replace(model, degrees={name: 0 * degrees for name, degrees in model.degrees.items()})
    with pytest.raises(DataError, match="no entity of the type has a training edge, which prevalence is drawn by"):
        evaluate(nothing, graph, candidates="prevalence:3")


# -- what the model does not know -------------------------------------------------------------------------------------


def test_entities_without_training_edges_are_kept_or_dropped_as_asked():
    edges = pd.DataFrame({"source": [1, 1, 2, 3], "target": [10, 11, 10, 12]})
    graph = Graph.from_frames({"r": edges}, [Relation("r", "a", "b")])
    known, held_out = with_edges(graph, {"r": [0]}), with_edges(graph, {"r": [1, 2, 3]})
    model = dataclasses.replace(
        untrained_model(graph, CONFIG), degrees={"a": known.degrees("a"), "b": np.array([1, 3, 0])}
    )
    kept = evaluate(model, held_out, known=known, sides="target")
    dropped = evaluate(model, held_out, known=known, sides="target", unseen="drop")
    assert kept.ranks["query"].tolist() == [0, 1, 2]
    assert dropped.ranks["query"].tolist() == [0]  # 2 and 3 have no training edge
    said = "({} edges with an end never trained, 0 with one not in the model)".format
    assert dropped.results[0]["protocol"]["unseen"] == f"drop {said(2)}"
    assert kept.results[0]["protocol"]["unseen"] == f"keep {said(2)}"
    assert dropped.ranks["rank"][0] == kept.ranks["rank"][0]  # the candidates stay all entities
    nothing = dataclasses.replace(model, degrees={"a": np.zeros(3, int), "b": np.zeros(3, int)})
    with pytest.raises(DataError, match="no held-out edge to ask about"):
        evaluate(nothing, held_out, known=known, unseen="drop")


@pytest.mark.parametrize("ties", ["mean", "optimistic"])
def test_what_the_model_does_not_have_takes_the_last_rank(ties):
    edges = pd.DataFrame({"source": [1, 1, 2, 3], "target": [10, 11, 10, 12]})
    graph = Graph.from_frames({"r": edges}, [Relation("r", "a", "b")])
    model = untrained_model(graph, CONFIG)
    asked = pd.DataFrame({"source": [1, 9, 9, 2], "target": [12, 10, 99, 99]})
    held_out = Graph.from_frames({"r": asked}, [Relation("r", "a", "b")])
    evaluation = evaluate(model, held_out, known=graph, ties=ties)
    target, source = (evaluation.ranks.query(f"side == '{side}'") for side in ("target", "source"))
    assert target["query"].tolist() == [0, -1, -1, 1]
    assert target["true"].tolist() == [2, 0, -1, -1]
    # Targets are 10, 11, 12. Of 1: 12 alone is left. Of 9, which is not there: all three, and 99 as a fourth.
    # Of 2: 11 and 12, since 10 is known, and 99.
    assert target["candidates"].tolist() == [1, 3, 4, 3]
    assert target["rank"].tolist() == [1.0, 3.0, 4.0, 3.0]
    # Sources are 1, 2, 3. Of 12: 1 and 2, since 3 is known. Of 10: 3 and 9. Of 99, which is not there: 9 and all; 2.
    assert source["candidates"].tolist() == [2, 2, 4, 3]
    assert source["rank"].tolist()[1:] == [2.0, 4.0, 3.0]
    assert target["degree"].tolist() == [1, 2, 0, 0]
    protocol = evaluation.results[0]["protocol"]
    assert protocol["unseen"] == "keep (0 edges with an end never trained, 3 with one not in the model)"
    dropped = evaluate(model, held_out, known=graph, unseen="drop")
    assert len(dropped.ranks) == 2
    assert "3 with one not in the model" in dropped.results[0]["protocol"]["unseen"]
    sampled = evaluate(model, held_out, known=graph, ties=ties, candidates="uniform:9")
    assert sampled.ranks.equals(evaluation.ranks)


@pytest.mark.parametrize("sides", ["source", "target"])
@pytest.mark.parametrize("empty", ["user", "item"])
def test_a_model_without_any_entity_of_a_type_is_not_asked(empty, sides):
    graph = random_graph(20)
    entities = graph.entities | {empty: graph.entities[empty][:0]}
    none = {name: edges.take(np.zeros(0, np.int64)) for name, edges in graph.edges.items()}
    model = untrained_model(Graph(graph.relations, entities, none), CONFIG)
    with pytest.raises(DataError, match=f"the model has no '{empty}' at all, of which 'likes' is held out"):
        evaluate(model, graph, relations=["likes"], sides=sides)
    with pytest.raises(DataError, match="no held-out edge to ask about"):
        evaluate(model, graph, relations=["likes"], sides=sides, unseen="drop")


@pytest.mark.parametrize("ties", ["mean", "pessimistic", "optimistic"])
def test_a_model_of_nan_is_no_good(ties):
    graph = random_graph(15)
    known, held_out = graph.split(fraction=0.4)
    model = untrained_model(graph, CONFIG)
    for table in model.vectors.values():
        table.fill_(torch.nan)
    ranks = evaluate(model, held_out, known=known, ties=ties).ranks
    assert (ranks["rank"] == ranks["candidates"]).all()


def test_ids_of_another_type_are_refused():
    graph = random_graph(16)
    words = Graph.from_frames({"follows": pd.DataFrame({"source": ["a"], "target": ["b"]})}, RELATIONS[1:2])
    with pytest.raises(DataError, match="evaluate: ids of 'user'"):
        evaluate(untrained_model(graph, CONFIG), words)


def test_a_relation_between_other_types_is_refused():
    graph = random_graph(17)
    turned = Graph.from_frames(
        {"likes": pd.DataFrame({"source": [1], "target": [2]})}, [Relation("likes", "item", "user")]
    )
    with pytest.raises(DataError, match="'likes' goes from 'item' to 'user' in the graph, from 'user' to 'item' in"):
        evaluate(untrained_model(graph, CONFIG), turned)


# -- joins, chunks, refusals ------------------------------------------------------------------------------------------


def test_graphs_are_joined_by_ids_and_not_by_rows():
    graph = random_graph(4)
    known, held_out = graph.split(fraction=0.4)
    model = untrained_model(graph, CONFIG)
    expected = evaluate(model, held_out, known=known, relations=["likes"])
    # Built anew from the pairs of each part: other entities are missing in each, so that rows differ.
    again = [
        Graph.from_frames({"likes": part.pairs("likes").set_axis(["source", "target"], axis=1)}, RELATIONS[:1])
        for part in (known, held_out)
    ]
    assert not again[1].entities["item"].equals(graph.entities["item"])
    assert evaluate(model, again[1], known=again[0]).ranks.equals(expected.ranks)


@pytest.mark.parametrize("candidates", ["all", "uniform:3", "prevalence:3"])
def test_large_questions_are_cut_into_chunks_without_a_trace(candidates, monkeypatch):
    graph = random_graph(5)
    known, held_out = graph.split(fraction=0.4)
    model = untrained_model(graph, CONFIG)
    arguments = {"known": known, "candidates": candidates}
    expected = evaluate(model, held_out, **arguments)
    module = importlib.import_module("pretrain.ranks")
    monkeypatch.setattr(module, "_FEWEST", 1)
    monkeypatch.setattr(module, "_CPU_SCORES", 20)  # two questions at a time
    assert evaluate(model, held_out, **arguments).ranks.equals(expected.ranks)


@pytest.mark.parametrize("candidates", ["all", "uniform:5"])
def test_the_answers_of_a_hub_are_spelled_out_for_few_questions_at_a_time(candidates, monkeypatch):
    edges = pd.DataFrame({"source": np.arange(50), "target": np.zeros(50, int)})
    graph = Graph.from_frames({"r": edges}, [Relation("r", "a", "b")])
    module = importlib.import_module("pretrain.ranks")
    monkeypatch.setattr(module, "_FEWEST", 1)
    monkeypatch.setattr(module, "_CPU_SCORES", 100)  # two questions at a time
    sizes = []

    def spied(self, anchors, true, pairs=module._Answers.pairs):
        sizes.append(pairs(self, anchors, true).shape[1])
        return pairs(self, anchors, true)

    monkeypatch.setattr(module._Answers, "pairs", spied)
    ranks = evaluate(untrained_model(graph, CONFIG), graph, sides="source", candidates=candidates).ranks["rank"]
    assert (ranks == 1).all()  # nobody else is left
    assert sizes == [100] * 25


@pytest.mark.parametrize("comparator", COMPARATORS)
def test_candidates_that_stay_are_prepared_once_for_all_relations(comparator, monkeypatch):
    graph = random_graph(19)
    relations = [dataclasses.replace(relation, operator="rotation") for relation in graph.relations.values()]
    graph = Graph({relation.name: relation for relation in relations}, graph.entities, graph.edges)
    model, prepared = untrained_model(graph, dataclasses.replace(CONFIG, comparator=comparator)), []
    kind = type(MODEL_COMPARATORS[comparator])

    def spied(self, vectors, prepare=kind.prepare):
        prepared.extend(entity for entity, table in model.vectors.items() if table is vectors)
        return prepare(self, vectors)

    monkeypatch.setattr(kind, "prepare", spied)
    together = evaluate(model, graph).ranks
    assert sorted(prepared) == ["item", "user"]
    for relation in graph.relations:
        alone = evaluate(model, graph, relations=[relation]).ranks
        assert together.query("relation == @relation").reset_index(drop=True).equals(alone)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none")
@pytest.mark.parametrize("candidates", ["all", "uniform:4"])
@pytest.mark.parametrize("comparator", COMPARATORS)
def test_cuda_and_cpu_agree(comparator, candidates):
    graph = random_graph(18)
    known, held_out = graph.split(fraction=0.4)
    model = untrained_model(graph, dataclasses.replace(CONFIG, comparator=comparator, bias=True))
    moved = {
        field: {name: table.cuda() for name, table in getattr(model, field).items()}
        for field in ("vectors", "biases", "parameters")
    }
    arguments = {"known": known, "candidates": candidates}
    expected = evaluate(model, held_out, **arguments).ranks
    assert evaluate(dataclasses.replace(model, **moved), held_out, **arguments).ranks.equals(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sides": "targets"}, "evaluate: sides 'targets' is not known; did you mean 'target'"),
        ({"unseen": "ignore"}, "evaluate: unseen 'ignore' is not known"),
        ({"ties": "average"}, "evaluate: ties 'average' is not known"),
        ({"relations": ["like"]}, "relation 'like' is not held out; did you mean 'likes'"),
        ({"candidates": "uniform"}, "candidates are 'all', 'uniform:K' or 'prevalence:K', got 'uniform'"),
        ({"candidates": "uniform:0"}, "got 'uniform:0'"),
        ({"candidates": 1000}, "got 1000"),
        ({"k": 10}, r"evaluate: k must be whole numbers of at least 1, such as \(1, 3, 10\), got 10"),
        ({"k": ("a",)}, r"k must be whole numbers of at least 1, .*got \('a',\)"),
        ({"k": (0,)}, "k must be whole numbers"),
        ({"k": (1, -1)}, "k must be whole numbers"),
        ({"k": (2.5,)}, "k must be whole numbers"),
        ({"k": (True,)}, "k must be whole numbers"),
        ({"known": [None]}, "evaluate: held_out and known must be graphs, got None"),
        ({"known": [random_graph(6), "test"]}, "must be graphs, got 'test'"),
        ({"candidates": "uniform:5", "seed": -1}, "evaluate: seed must be a whole number of at least 0, got -1"),
    ],
)
def test_unknown_choices_are_refused(arguments, message):
    graph = random_graph(6)
    with pytest.raises(ConfigError, match=message):
        evaluate(untrained_model(graph, CONFIG), graph, **arguments)


def test_a_relation_that_is_named_twice_counts_once():
    graph = random_graph(6)
    model = untrained_model(graph, CONFIG)
    twice = evaluate(model, graph, relations=["likes", "follows", "likes"], k=(1, np.int64(3)))
    assert twice.ranks.equals(evaluate(model, graph, relations=["likes", "follows"]).ranks)
    assert twice.value("hits@3") == evaluate(model, graph, relations=["likes", "follows"]).value("hits@3")


def test_what_was_not_measured_is_refused():
    graph = random_graph(7)
    model = untrained_model(graph, CONFIG)
    hates = Graph.from_frames(
        {"hates": pd.DataFrame({"source": [0], "target": [0]})}, [Relation("hates", "user", "item")]
    )
    with pytest.raises(ConfigError, match="relation 'hates' is not in the model; known: follows, likes"):
        evaluate(model, hates)
    evaluation = evaluate(model, graph)
    with pytest.raises(ConfigError, match="no metric 'hits@7' for 'all questions' was measured"):
        evaluation.value("hits@7")
    with pytest.raises(ConfigError, match="no metric 'mrr' for 'relation: hates' was measured"):
        evaluation.value("mrr", "hates")
    with pytest.raises(ConfigError, match="to_frame: by 'sides' is not known; did you mean 'side'"):
        evaluation.to_frame("sides")


def test_nothing_held_out_is_refused():
    graph = random_graph(8)
    with pytest.raises(DataError, match="there is no held-out edge to ask about"):
        evaluate(untrained_model(graph, CONFIG), with_edges(graph, {}), known=graph)


@pytest.mark.parametrize("comparator", ["dot", "l2", "squared_l2"])
def test_scale_changes_no_rank(comparator):
    draw = np.random.default_rng(0)
    edges = pd.DataFrame({"source": np.arange(30), "target": draw.permutation(30)})
    graph = Graph.from_frames({"r": edges}, [Relation("r", "a", "b", operator="identity")])
    model = untrained_model(graph, TrainConfig(dim=4, comparator=comparator))
    for entity in ("a", "b"):
        model.vectors[entity].copy_(model.vectors[entity].new_tensor(draw.normal(size=(30, 4))))
    before = evaluate(model, graph).ranks["rank"].tolist()
    for entity in ("a", "b"):
        model.vectors[entity].mul_(1e-4)
    assert evaluate(model, graph).ranks["rank"].tolist() == before
