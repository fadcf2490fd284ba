"""Splits: every edge in exactly one part, and what joins the same two entities together, by chance or by time."""

from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain import Graph, Relation
from pretrain.edges import Edges
from recokit.errors import ConfigError, DataError

RELATIONS = [Relation("follows", "user", "user"), Relation("clicks", "user", "item")]


def build(follows, clicks):
    """A graph of lists of (source, target, time); ids are rows."""
    edges = {}
    for relation, part in zip(RELATIONS, (follows, clicks), strict=True):
        source, target, time = np.array(part, np.int64).reshape(-1, 3).T
        edges[relation.name] = Edges(source, target, times=time)
    ids = pa.array(range(1 + max(max(edge[:2]) for edge in (*follows, *clicks))))
    return Graph({relation.name: relation for relation in RELATIONS}, {"user": ids, "item": ids}, edges)


def edges_of(graph, relation):
    pairs = graph.pairs(relation)
    return list(zip(pairs["query"], pairs["candidate"], graph.edges[relation].times, strict=True))


def key(relation, edge):
    """What has to stay together: the two entities, direction aside where they are of one type."""
    return tuple(sorted(edge[:2])) if relation == "follows" else edge[:2]


# Few entities, so that duplicates, reversed twins and loops come up all the time.
edge_lists = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=30)


def check_parts(graph, known, held):
    for relation in graph.relations:
        everything, parts = edges_of(graph, relation), [edges_of(part, relation) for part in (known, held)]
        assert Counter(everything) == Counter(parts[0]) + Counter(parts[1])
        assert not {key(relation, e) for e in parts[0]} & {key(relation, e) for e in parts[1]}
        for part in parts:  # the order of the input is kept
            at = iter(everything)
            assert all(edge in at for edge in part)
    for part in (known, held):
        assert all(part.entities[entity].equals(ids) for entity, ids in graph.entities.items())


@settings(max_examples=40, deadline=None)
@given(follows=edge_lists, clicks=edge_lists, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_by_fraction_every_edge_is_in_one_part(follows, clicks, fraction, seed):
    graph = build(follows, clicks)
    known, held = graph.split(fraction=fraction, seed=seed)
    check_parts(graph, known, held)
    for relation, edges in (("follows", follows), ("clicks", clicks)):
        distinct = {key(relation, edge) for edge in edges}
        assert len({key(relation, e) for e in edges_of(held, relation)}) == round(fraction * len(distinct))
    again = graph.split(fraction=fraction, seed=seed)
    assert [edges_of(part, "clicks") for part in again] == [edges_of(part, "clicks") for part in (known, held)]


@settings(max_examples=40, deadline=None)
@given(follows=edge_lists, clicks=edge_lists, at=st.integers(1, 9))
def test_by_time_every_pair_goes_where_its_first_edge_goes(follows, clicks, at):
    graph = build(follows, clicks)
    first = {}
    for relation, edges in (("follows", follows), ("clicks", clicks)):
        for edge in edges:
            name = (relation, key(relation, edge))
            first[name] = min(first.get(name, 99), edge[2])
    if not any(time < at for time in first.values()) or not any(time >= at for time in first.values()):
        with pytest.raises(DataError, match=f"split at {at} leaves all edges on one side"):
            graph.split(at=at)
        return
    known, held = graph.split(at=at)
    check_parts(graph, known, held)
    for relation in graph.relations:
        assert all(first[relation, key(relation, edge)] < at for edge in edges_of(known, relation))
        assert all(first[relation, key(relation, edge)] >= at for edge in edges_of(held, relation))


def test_weights_go_with_their_edges():
    frame = pd.DataFrame({"source": range(20), "target": range(20), "weight": np.arange(20.0)})
    graph = Graph.from_frames({"r": frame}, [Relation("r", "a", "b")])
    for part in graph.split(fraction=0.3):
        assert part.edges["r"].weights.tolist() == part.pairs("r")["query"].tolist()


def test_the_seed_decides_and_the_share_is_the_one_asked_for():
    graph = build([(i, i + 1, 0) for i in range(100)], [(i, i, 0) for i in range(50)])
    known, held = graph.split(fraction=0.2, seed=1)
    assert (len(held.edges["follows"]), len(held.edges["clicks"])) == (20, 10)
    assert (len(known.edges["follows"]), len(known.edges["clicks"])) == (80, 40)
    assert edges_of(held, "follows") != edges_of(graph.split(fraction=0.2, seed=2)[1], "follows")
    assert known.history[-1] == {"split": {"fraction": 0.2, "seed": 1}, "part": "known"}
    assert held.history[-1] == {"split": {"fraction": 0.2, "seed": 1}, "part": "held out"}


def test_relations_are_not_cut_at_the_same_places():
    edges = [(i, i, 0) for i in range(100)]
    _, held = build(edges, edges).split(fraction=0.3)
    assert edges_of(held, "follows") != edges_of(held, "clicks")


def test_a_part_can_be_split_again():
    known, _ = build([(0, 1, 0)], [(i, i, 0) for i in range(100)]).split(fraction=0.5, seed=3)
    train, valid = known.split(fraction=0.5, seed=3)
    assert len(train.edges["clicks"]) == len(valid.edges["clicks"]) == 25
    assert [entry["part"] for entry in valid.history if "part" in entry] == ["known", "held out"]


DATES = pd.to_datetime(["2026-05-24 23:59:59.999999", "2026-05-25", "2026-05-26", "2026-05-01"], format="ISO8601")


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-05-25", [2, 3]),
        ("2026-05-25T00:00:00.000001", [3]),
        ("2026-05-25T02:00:00+02:00", [2, 3]),
        ("2026-05-25T00:00:00-02:00", [3]),
        ("2026-05-24 23:59:59.999999", [1, 2, 3]),
        (1_779_667_200_000_000, [2, 3]),
    ],
)
def test_dates_are_compared_as_instants(at, expected):
    frame = pd.DataFrame({"source": [1, 2, 3, 4], "target": [1, 2, 3, 4], "time": DATES})
    graph = Graph.from_frames({"r": frame}, [Relation("r", "a", "b")])
    assert graph.split(at=at)[1].pairs("r")["query"].tolist() == expected


def test_relations_without_a_time_stay_known():
    timed = pd.DataFrame({"source": [1, 2], "target": [1, 2], "time": [5, 6]})
    frames = {"follows": timed[["source", "target"]], "clicks": timed}
    known, held = Graph.from_frames(frames, RELATIONS).split(at=6)
    assert (len(known.edges["follows"]), len(held.edges["follows"])) == (2, 0)
    assert (len(known.edges["clicks"]), len(held.edges["clicks"])) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ConfigError, "split needs either fraction"),
        ({"fraction": 0.1, "at": 5}, ConfigError, "split needs either fraction"),
        ({"fraction": 0.0}, ConfigError, "fraction must lie between 0 and 1, got 0.0"),
        ({"fraction": 1.0}, ConfigError, "fraction must lie between 0 and 1, got 1.0"),
        ({"at": "tomorrow-ish"}, DataError, "split at 'tomorrow-ish': not a date"),
        ({"at": float("inf")}, DataError, "split at inf leaves all edges on one side"),
        ({"at": 10**400}, DataError, "not a number"),
        ({"at": "NaT"}, DataError, "split at 'NaT': not a date"),
        ({"at": "2026-05-25"}, DataError, "leaves all edges on one side: their times are 5 to 6"),  # times are no dates
        ({"at": 5}, DataError, "split at 5 leaves all edges on one side"),
    ],
)
def test_what_separates_nothing_is_refused(arguments, error, message):
    graph = build([(1, 2, 5)], [(1, 1, 6)])
    with pytest.raises(error, match=message):
        graph.split(**arguments)


def test_without_times_there_is_nothing_to_compare_with():
    graph = Graph.from_frames({"r": pd.DataFrame({"source": [1], "target": [2]})}, [Relation("r", "a", "b")])
    with pytest.raises(DataError, match="split at 5: no relation has a time column"):
        graph.split(at=5)


@pytest.mark.parametrize("at", [2**53 + 1, np.int64(2**53 + 1)])
def test_integer_times_are_compared_exactly(at):
    times = [2**53 - 1, 2**53, 2**53 + 1, 2**53 + 2]  # as floats, the second and the third are the same
    graph = build([(0, 1, 0)], [(row, row, time) for row, time in enumerate(times)])
    known, held = graph.split(at=at)
    assert known.edges["clicks"].times.tolist() == times[:2]
    assert held.edges["clicks"].times.tolist() == times[2:]


def test_a_fraction_among_integer_times_cuts_between_them():
    known, held = build([(0, 1, 4)], [(1, 1, 5), (2, 2, 6)]).split(at=5.5)
    assert (known.edges["clicks"].times.tolist(), held.edges["clicks"].times.tolist()) == ([5], [6])


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_seeds_are_whole_numbers_of_at_least_0(seed):
    with pytest.raises(ConfigError, match=f"seed must be a whole number of at least 0, got {seed}"):
        build([(0, 1, 0)], [(0, 0, 0)]).split(fraction=0.5, seed=seed)
