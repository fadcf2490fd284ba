"""Preparing edges on disk: the same entities and edges as a graph in memory, in random partitions and buckets."""

import hashlib
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretrain import Graph, Relation, TrainConfig, train
from pretrain.preparation import _cut, prepare
from pretrain.prepared import PreparedGraph
from recokit.errors import ChecksumError, ConfigError, DataError, FormatError, VersionError

RELATIONS = [Relation("follows", "user", "user"), Relation("clicks", "user", "ad", weight=2.0)]
LARGEST = 2**63 - 1


def edges_of(graph):
    """Count the edges of a graph in memory as (source id, relation, target id, weight)."""
    found = Counter()
    for name, edges in graph.edges.items():
        pairs = graph.pairs(name).itertuples(index=False, name=None)
        weights = [None] * len(edges) if edges.weights is None else edges.weights.tolist()
        found.update((source, name, target, weight) for (source, target), weight in zip(pairs, weights, strict=True))
    return found


def in_buckets(prepared, weighted=("clicks",)):
    """Count the edges of all buckets in the same way, each row among the ids of its own partition."""
    found = Counter()
    names = list(prepared.relations)
    ids = {
        (entity, part): prepared.ids(entity, part).to_pylist()
        for entity in prepared.entity_types
        for part in range(prepared.num_partitions(entity))
    }
    for i, j in itertools.product(range(prepared.partitions), repeat=2):
        for chunk in range(prepared.chunks(i, j)):
            edges = prepared.edges(i, j, chunk)
            weights = [None] * len(edges) if edges.weights is None else edges.weights.tolist()
            rows = (edges.relation.tolist(), edges.sources.tolist(), edges.targets.tolist(), weights)
            for number, source, target, weight in zip(*rows, strict=True):
                ends, kept = prepared.relations[names[number]], weight if names[number] in weighted else None
                found[ids[ends.source, i][source], names[number], ids[ends.target, j][target], kept] += 1
    return found


def held_out_of(prepared):
    found = Counter()
    for name, edges in prepared.held_out().items():
        ends = prepared.relations[name]
        sources = prepared.ids(ends.source).take(pa.array(edges.sources)).to_pylist()
        targets = prepared.ids(ends.target).take(pa.array(edges.targets)).to_pylist()
        weights = [None] * len(edges) if edges.weights is None else edges.weights.tolist()
        found.update((s, name, t, w) for s, t, w in zip(sources, targets, weights, strict=True))
    return found


def written(folder, **frames):
    """Write a Parquet file per relation."""
    paths = {name: folder / f"{name}.parquet" for name in frames}
    for name, frame in frames.items():
        frame.to_parquet(paths[name])
    return paths


def random_edges(seed, users, ads, follows, clicks):
    draw = np.random.default_rng(seed)
    ids = draw.permutation(10**12 + np.arange(users) * 7919)
    return {
        "follows": pd.DataFrame({end: ids[draw.integers(users, size=follows)] for end in ("source", "target")}),
        "clicks": pd.DataFrame(
            {
                "source": ids[draw.integers(users, size=clicks)],
                "target": [f"ad-{number}" for number in draw.integers(ads, size=clicks)],
                "weight": draw.integers(0, 3, size=clicks) / 2,
            }
        ),
    }


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """3,000 edges in 3 x 3 buckets, of at most 100 edges a chunk, a tenth held out."""
    folder = tmp_path_factory.mktemp("large")
    paths = written(folder, **random_edges(0, 100, 30, 2000, 1000))
    settings = {"partitions": {"user": 3}, "held_out": 0.1, "chunk_edges": 100, "seed": 5}
    return prepare(folder / "graph", RELATIONS, files=paths, **settings), Graph.from_files(paths, RELATIONS)


user = st.one_of(st.none(), st.integers(-3, 5), st.sampled_from([LARGEST, -(2**63)]))
ad = st.one_of(st.none(), st.sampled_from(["", "a", "b", "a/b", "é", "7"]))
weight = st.sampled_from([0.0, -0.0, 0.1, 1.0, 2.5, 1e-3])


def table_of(rows, types):
    columns = list(zip(*rows, strict=True)) or [[] for _ in types]
    return pa.table({name: pa.array(c, kind) for (name, kind), c in zip(types.items(), columns, strict=True)})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    follows=st.lists(st.tuples(user, user), max_size=12),
    clicks=st.lists(st.tuples(user, ad, weight), max_size=12),
    min_count=st.dictionaries(st.sampled_from(["user", "ad"]), st.integers(1, 3)),
    held_out=st.sampled_from([0.0, 0.4]),
    partitions=st.sampled_from([1, {"user": 2}, {"ad": 2}, {"user": 2, "ad": 2}]),
    chunk_edges=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_entities_and_edges_are_those_of_a_graph_in_memory(
    follows, clicks, min_count, held_out, partitions, chunk_edges, seed
):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {name: folder / f"{name}.parquet" for name in ("follows", "clicks")}
        types = {"source": pa.int64(), "target": pa.int64()}
        pq.write_table(table_of(follows, types), paths["follows"])
        types = {"source": pa.int64(), "target": pa.string(), "weight": pa.float64()}
        pq.write_table(table_of(clicks, types), paths["clicks"])
        made = {}
        for maker, arguments in (
            (Graph.from_files, {}),
            (
                partial(prepare, folder / "graph"),
                {"partitions": partitions, "held_out": held_out, "chunk_edges": chunk_edges, "seed": seed},
            ),
        ):
            try:
                made[maker] = maker(relations=RELATIONS, files=paths, min_count=min_count, **arguments)
            except (DataError, ConfigError) as error:
                made[maker] = str(error)
        graph, prepared = made.values()
        if isinstance(prepared, str):
            few = not isinstance(graph, str) and any(len(ids) < 2 for ids in graph.entities.values())
            assert prepared == graph or (few and "leave some empty" in prepared)
            return
        for entity, ids in graph.entities.items():
            assert sorted(prepared.ids(entity).to_pylist()) == ids.to_pylist()
            assert prepared.num_entities(entity) == len(ids)
        assert in_buckets(prepared) + held_out_of(prepared) == edges_of(graph)
        assert prepared.summary == graph.summary
        both = prepared.to_graph("all")
        assert edges_of(both) == edges_of(graph)
        assert {entity: ids.to_pylist() for entity, ids in both.entities.items()} == {
            entity: ids.to_pylist() for entity, ids in graph.entities.items()
        }


def test_parts_of_a_larger_graph(large):
    prepared, graph = large
    known, held = in_buckets(prepared), held_out_of(prepared)
    assert known + held == edges_of(graph)
    assert edges_of(prepared.to_graph()) == known
    assert edges_of(prepared.to_graph("held_out")) == held
    assert sum(prepared.buckets.values()) == sum(prepared.num_edges.values()) == sum(known.values())
    assert prepared.to_graph().entities["user"].equals(graph.entities["user"])
    assert prepared.to_graph().history == (
        {"sources": {name: str(prepared.path.parent / f"{name}.parquet") for name in ("follows", "clicks")}},
        {"split": {"fraction": 0.1, "seed": 5, "by": "hash"}, "part": "known"},
    )
    assert prepared.relations == graph.relations
    files = json.loads((prepared.path / "graph.json").read_text())["files"]
    assert {path.name for path in prepared.path.iterdir()} == {*files, "graph.json"}
    assert repr(prepared).startswith("PreparedGraph(entities: 100 user, 30 ad; edges: ")


def md5_lower(text):
    """The lower 64 bits of an MD5, as DuckDB reads them."""
    return int.from_bytes(hashlib.md5(text.encode()).digest()[8:], "little")


def test_rows_are_in_the_order_of_a_hash_of_the_ids_and_the_seed(large):
    prepared, graph = large
    for entity, ids in graph.entities.items():
        expected = sorted(ids.to_pylist(), key=lambda one: md5_lower(f"5/{entity}/{one}"))
        assert prepared.ids(entity).to_pylist() == expected
    assert [prepared.partition("user", number) for number in range(3)] == [range(34), range(34, 68), range(68, 100)]
    parts = [prepared.ids("user", number).to_pylist() for number in range(3)]
    assert parts[0] + parts[1] + parts[2] == prepared.ids("user").to_pylist()
    assert prepared.partition("ad", 0) == range(30)
    assert [prepared.num_partitions(entity) for entity in prepared.entity_types] == [3, 1]


def test_edges_of_a_type_of_one_partition_lie_under_the_other_end_s_partition_and_0(large):
    prepared, _ = large
    for (i, j), count in prepared.buckets.items():
        chunks = [prepared.edges(i, j, chunk) for chunk in range(prepared.chunks(i, j))]
        assert sum(map(len, chunks)) == count
        relations = {int(number) for edges in chunks for number in edges.relation}
        assert relations == ({0, 1} if j == 0 else {0})
        for edges in chunks:
            assert edges.sources.max() < len(prepared.partition("user", i))
            for array in (edges.relation, edges.sources, edges.targets, edges.weights):
                assert not array.flags.writeable
                assert array.dtype == (np.float32 if array is edges.weights else np.int32)


def test_a_pair_is_held_out_by_the_hash_of_its_ids_whatever_else_there_is(large):
    prepared, graph = large
    expected = Counter()
    for edge, count in edges_of(graph).items():
        source, name, target, _ = edge
        first, second = sorted([source, target]) if name == "follows" else (source, target)
        if md5_lower(f"5/held out/{name}/{first}/{second}") < 0.1 * 2**64:
            expected[edge] = count
    assert held_out_of(prepared) == expected
    assert 200 < sum(expected.values()) < 400  # of 3,000; the standard deviation is 16


def test_twins_and_duplicates_are_held_out_together(tmp_path):
    pairs = [(first, first + 1) for first in range(0, 400, 2)]
    frame = pd.DataFrame([*pairs, *pairs, *(pair[::-1] for pair in pairs)], columns=["source", "target"])
    paths = written(tmp_path, follows=frame)
    prepared = prepare(tmp_path / "graph", RELATIONS[:1], files=paths, held_out=0.5, seed=1)
    held = held_out_of(prepared)
    chosen = {min(source, target) for source, _, target, _ in held}
    assert 70 < len(chosen) < 130  # of 200
    assert held == Counter(
        edge
        for first in chosen
        for edge in [(first, "follows", first + 1, None)] * 2 + [(first + 1, "follows", first, None)]
    )
    assert prepared.num_edges == {"follows": 3 * (200 - len(chosen))}


def test_the_same_edges_give_the_same_bytes_in_any_order_on_any_number_of_threads(tmp_path):
    frames = random_edges(1, 3000, 40, 20_000, 9000)
    arguments = {"min_count": {"user": 3}, "partitions": {"user": 4}, "held_out": 0.05, "chunk_edges": 700}
    graphs = []
    for number, threads in enumerate((1, 4)):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths = written(folder, **{name: frame.sample(frac=1, random_state=number) for name, frame in frames.items()})
        settings = {"threads": threads, "memory": "2GB" if number else "3GB"}
        graphs.append(prepare(folder / "graph", RELATIONS, files=paths, **arguments, **settings))
    manifests = [json.loads((graph.path / "graph.json").read_text()) for graph in graphs]
    assert manifests[0]["files"] == manifests[1]["files"]
    assert graphs[0].digest() == graphs[1].digest()
    other = prepare(tmp_path / "other", RELATIONS, files=paths, **arguments, seed=1)
    assert other.digest() != graphs[0].digest()
    assert in_buckets(other) + held_out_of(other) == in_buckets(graphs[0]) + held_out_of(graphs[0])


def test_degrees_and_occurrences_are_those_that_the_trainer_counts(large):
    prepared, _ = large
    known = prepared.to_graph()
    for entity, ids in known.entities.items():
        expected = dict(zip(ids.to_pylist(), known.degrees(entity, weighing=True).tolist(), strict=True))
        degrees = prepared.degrees(entity)
        assert dict(zip(prepared.ids(entity).to_pylist(), degrees.tolist(), strict=True)) == expected
        assert not degrees.flags.writeable
    total = {entity: np.zeros(prepared.num_entities(entity), np.int64) for entity in known.entities}
    for name, relation in prepared.relations.items():
        for side, entity in (("source", relation.source), ("target", relation.target)):
            counted = Counter()
            for (source, which, target, weight), n in in_buckets(prepared).items():
                if which == name and weight != 0:
                    counted[source if side == "source" else target] += n
            found = prepared.occurrences(name, side)
            assert found.tolist() == [counted[one] for one in prepared.ids(entity).to_pylist()]
            parts = [prepared.occurrences(name, side, part) for part in range(prepared.num_partitions(entity))]
            assert np.concatenate(parts).tolist() == found.tolist()
            total[entity] += found
    assert all(prepared.degrees(entity).tolist() == counts.tolist() for entity, counts in total.items())


def test_entities_that_lose_all_edges_are_left_out_and_the_others_keep_their_order(tmp_path):
    # Ad 9 has one edge only; without it, users 2 and 4 have none.
    frame = pd.DataFrame({"source": [1, 2, 3, 1, 5, 6, 4], "target": [7, 9, 7, 8, 8, 7, 10]})
    paths = written(tmp_path, clicks=frame)
    prepared = prepare(tmp_path / "graph", RELATIONS[1:], files=paths, min_count={"ad": 2})
    users, ads = (prepared.ids(entity).to_pylist() for entity in ("user", "ad"))
    assert users == sorted([1, 3, 5, 6], key=lambda one: md5_lower(f"0/user/{one}"))
    assert ads == sorted([7, 8], key=lambda one: md5_lower(f"0/ad/{one}"))
    assert dict(zip(users, prepared.degrees("user").tolist(), strict=True)) == {1: 2, 3: 1, 5: 1, 6: 1}
    assert dict(zip(ads, prepared.degrees("ad").tolist(), strict=True)) == {7: 3, 8: 2}
    assert prepared.occurrences("clicks", "source").tolist() == prepared.degrees("user").tolist()
    pairs = [(1, 7), (3, 7), (1, 8), (5, 8), (6, 7)]
    assert in_buckets(prepared, ()) == Counter((source, "clicks", target, None) for source, target in pairs)
    assert prepared.summary.rows[0]["below_min_count"] == 2


def test_chunks_split_a_bucket_at_random_and_evenly(tmp_path):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"source": np.arange(20_000), "target": draw.integers(300, size=20_000)})
    frame.loc[:9999, "target"] = 7  # half of all edges
    relation = Relation("clicks", "user", "ad")
    prepared = prepare(tmp_path / "graph", [relation], files=written(tmp_path, clicks=frame), chunk_edges=5500)
    assert prepared.chunks(0, 0) == 4  # ceil(20,000 / 5,500)
    chunks = [prepared.edges(0, 0, chunk) for chunk in range(4)]
    popular = prepared.ids("ad").to_pylist().index(7)
    for edges in chunks:
        assert abs(len(edges) - 5000) < 5 * np.sqrt(20_000 * 0.25 * 0.75)
        assert abs((edges.targets == popular).sum() - 2500) < 5 * np.sqrt(10_000 * 0.25 * 0.75)
    sources = np.sort(np.concatenate([edges.sources for edges in chunks]))
    assert sources.tolist() == list(range(20_000))
    whole = prepare(tmp_path / "whole", [relation], files={"clicks": tmp_path / "clicks.parquet"}, chunk_edges=20_000)
    assert whole.chunks(0, 0) == 1


def test_a_number_of_partitions_holds_for_types_that_are_large_enough(tmp_path):
    frame = pd.DataFrame({"source": range(100), "target": [number % 20 for number in range(100)]})
    paths = written(tmp_path, clicks=frame)
    made = {}
    for below in (20, 21):
        folder = tmp_path / str(below)
        prepared = prepare(folder, RELATIONS[1:], files=paths, partitions=4, whole_below=below)
        made[below] = [prepared.num_partitions(entity) for entity in ("user", "ad")]
    assert made == {20: [4, 4], 21: [4, 1]}
    assert prepare(tmp_path / "one", RELATIONS[1:], files=paths, partitions=4).partitions == 1


@pytest.mark.parametrize("kind", ["parquet", "tsv", "bare.txt"])
def test_triples_are_read_as_by_a_graph(tmp_path, kind):
    draw = np.random.default_rng(3)
    frame = pd.DataFrame({"h": draw.integers(20, size=300), "r": draw.integers(3, size=300)})
    frame["t"] = draw.integers(15, size=300)
    path = tmp_path / f"triples.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="\t", index=False, header=kind == "tsv")
    relations = {
        1: Relation("likes", "user", "item"),
        0: Relation("knows", "user", "user"),
        2: Relation("made_by", "item", "user"),
    }
    graph = Graph.from_triples(path, relations=relations, min_count={"user": 9})
    arguments = {"min_count": {"user": 9}, "partitions": {"user": 2, "item": 2}, "held_out": 0.2}
    prepared = prepare(tmp_path / "graph", relations, triples=path, **arguments)
    assert in_buckets(prepared, weighted=()) + held_out_of(prepared) == edges_of(graph)
    assert prepared.summary == graph.summary
    assert prepared.to_graph().relation_ids == graph.relation_ids == {"likes": "1", "knows": "0", "made_by": "2"}
    assert prepared.edges(0, 0).weights is None
    assert 0 < sum(held_out_of(prepared).values()) < 150


def test_triples_without_relations_given_are_refused_unless_all_are_known(tmp_path):
    frame = pd.DataFrame({"source": [1, 2], "relation": ["clicks", "click"], "target": [3, 4]})
    frame.to_parquet(tmp_path / "edges.parquet")
    with pytest.raises(DataError, match=r"1 of 2 relations .* is 'click'; did you mean 'clicks'"):
        prepare(tmp_path / "graph", RELATIONS[1:], triples=tmp_path / "edges.parquet")


def test_all_edges_may_be_held_out_and_entities_stay(tmp_path):
    paths = written(tmp_path, clicks=pd.DataFrame({"source": [1, 2], "target": [3, 4]}))
    prepared = prepare(tmp_path / "graph", RELATIONS[1:], files=paths, held_out=1 - 1e-12)
    assert prepared.buckets == {}
    assert prepared.chunks(0, 0) == 0
    assert sorted(held_out_of(prepared)) == [(1, "clicks", 3, None), (2, "clicks", 4, None)]
    assert prepared.degrees("user").tolist() == prepared.occurrences("clicks", "source").tolist() == [0, 0]
    assert [len(edges) for edges in prepared.to_graph().edges.values()] == [0]
    assert prepared.to_graph("held_out").num_entities("ad") == 2


def test_minus_zero_is_zero(tmp_path):
    frame = pd.DataFrame({"source": [1, 2], "target": [3, 4], "weight": [-0.0, 1.0]})
    prepared = prepare(tmp_path / "graph", RELATIONS[1:], files=written(tmp_path, clicks=frame))
    assert sorted(prepared.edges(0, 0).weights.view(np.int32).tolist()) == [0, np.float32(1).view(np.int32)]


def test_a_prepared_graph_trains_as_the_graph_in_memory(tmp_path):
    paths = written(tmp_path, **random_edges(4, 30, 10, 100, 80))
    prepared = prepare(tmp_path / "graph", RELATIONS, files=paths, partitions={"user": 2})
    config = TrainConfig(dim=4, epochs=1, batch_size=1000, uniform_negatives=20, in_batch_negatives=0)
    # One step a relation on all its edges: their order does not matter.
    losses = [
        train(graph.select(["follows"]), config).epochs[0]["loss"]
        for graph in (prepared.to_graph(), Graph.from_files(paths, RELATIONS))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_phases_are_told_in_order(tmp_path):
    events = []
    paths = written(tmp_path, **random_edges(0, 20, 5, 50, 50))
    prepare(tmp_path / "graph", RELATIONS, files=paths, callback=events.append)
    assert {event["event"] for event in events} == {"phase"}
    assert list(dict.fromkeys((event["phase"], event["number"]) for event in events)) == [
        ("read", 1),
        ("entities", 2),
        ("edges", 3),
        ("ends", 4),
        ("write", 5),
    ]
    assert events[-1] == {"event": "phase", "phase": "write", "number": 5, "phases": 5, "done": 1.0}
    progress = [(event["number"], event["done"]) for event in events]
    assert progress == sorted(progress)


# -- what is refused ------------------------------------------------------------------------------------------------


def click(**columns):
    return pd.DataFrame({"source": [1, 2, 3], "target": ["a", "b", "c"], **columns})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"held_out": 1.0}, "held_out must be at least 0 and below 1, got 1.0"),
        ({"chunk_edges": 0}, "chunk_edges must be a whole number of at least 1, got 0"),
        ({"threads": 0}, "threads must be a whole number of at least 1, got 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"memory": "much"}, "size of memory is 'much'"),
        ({"memory": "1MB"}, "memory is '1MB', and the process takes .* expected at least"),
        ({"partitions": 0}, "partitions must be whole numbers of at least 1, got 0"),
        ({"partitions": {"user": 2, "ad": 3}}, "the same number of partitions, or 1; got {'user': 2, 'ad': 3}"),
        ({"partitions": {"adv": 2}}, "partitions names the entity type 'adv'; did you mean 'ad'"),
        ({"partitions": {"user": 4}}, "'user' has 3 entities: 4 partitions of 1 leave some empty"),
        ({"min_count": {"ads": 2}}, "min_count names the entity type 'ads'; did you mean 'ad'"),
        ({"columns": {"click": {}}}, "columns are given for 'click', .* did you mean 'clicks'"),
        ({"triples": "x.parquet"}, "takes either files= .* or triples="),
        ({"files": None}, "takes either files= .* or triples="),
        ({"files": {"clicked": "clicks.parquet"}}, "edges are given for 'clicked', which is no relation; did you mean"),
        ({"relations": {1: RELATIONS[1]}}, "relations are a sequence, not a mapping"),
        ({"relations": [RELATIONS[1], RELATIONS[1]]}, "relation names must be unique, got twice: clicks"),
        ({"relations": []}, "edges are given for 'clicks'|at least one relation"),
    ],
)
def test_settings_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, monkeypatch, arguments, message):
    paths = written(tmp_path, clicks=click())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        prepare(tmp_path / "graph", **{"relations": RELATIONS[1:], "files": paths, **arguments})
    assert [path.name for path in tmp_path.iterdir()] == ["clicks.parquet"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (click(weight=[1.0, -1.0, np.nan]), "relation 'clicks': 2 weights are negative, missing or not finite"),
        (click(weight=[1.0, np.inf, 1e39]), "relation 'clicks': 2 weights are negative, missing or not finite"),
        (click(weight=["1", "2", "x"]), "cannot be read: .*Could not convert"),
        (click().rename(columns={"target": "item"}), "no column 'target' for the target; it has: source, item"),
        (click().assign(source=[0.5, 1.0, 2.0]), "the source column 'source' is DOUBLE"),
        (click().assign(source=[None, None, None]), "relation 'clicks' has no edges: 3 read, 3 without an end|column"),
    ],
)
def test_edges_that_a_graph_refuses_are_refused_in_the_same_words(tmp_path, frame, message):
    paths = written(tmp_path, clicks=frame)
    with pytest.raises(DataError, match=message) as refused:
        prepare(tmp_path / "graph", RELATIONS[1:], files=paths)
    with pytest.raises(DataError) as by_graph:
        Graph.from_files(paths, RELATIONS[1:])
    assert str(refused.value).split("  LINE")[0] == str(by_graph.value)  # without the SQL
    assert [path.name for path in tmp_path.iterdir()] == ["clicks.parquet"]


def test_bad_weights_of_triples_name_their_relation_also_where_min_count_drops_them(tmp_path):
    frame = pd.DataFrame(
        {"source": [1, 1, 2], "relation": ["b", "a", "b"], "target": [3, 3, 4], "weight": [1.0, 1.0, np.nan]}
    )
    # pandas writes NaN as null; Arrow keeps it, and the minimum and maximum of the column leave it out.
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "null.parquet")
    weights = pa.array([1.0, 1.0, float("nan")], from_pandas=False)
    table = pa.Table.from_pandas(frame.drop(columns="weight"), preserve_index=False).append_column("weight", weights)
    pq.write_table(table, tmp_path / "nan.parquet")
    relations = [Relation(name, "user", "ad") for name in "ab"]
    for kind in ("null", "nan"):
        with pytest.raises(DataError, match="relation 'b': 1 weights are negative, missing or not finite"):
            prepare(tmp_path / kind, relations, triples=tmp_path / f"{kind}.parquet", min_count={"user": 2})


def test_ids_of_two_kinds_in_a_type_are_refused(tmp_path):
    follows = pd.DataFrame({"source": ["a"], "target": ["b"]})
    with pytest.raises(DataError, match="ids of entity type 'user' must be all integers or all strings"):
        prepare(tmp_path / "graph", RELATIONS, files=written(tmp_path, follows=follows, clicks=click()))


def test_partitions_whose_rows_int32_cannot_number_are_refused():
    with pytest.raises(DataError, match=r"2,147,483,648 in each of 2 partitions; expected at most 2,147,483,647"):
        _cut({"user": 2**32}, 2, 0)
    assert _cut({"user": 2**32 - 2}, 2, 0)["user"].size == 2**31 - 1


def test_a_folder_that_exists_is_not_touched(tmp_path):
    (tmp_path / "graph").mkdir()
    with pytest.raises(VersionError, match="exists already"):
        prepare(tmp_path / "graph", RELATIONS[1:], files=written(tmp_path, clicks=click()))
    assert list((tmp_path / "graph").iterdir()) == []


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def stop(event):
        if event["phase"] == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "graph", RELATIONS[1:], files=written(tmp_path, clicks=click()), callback=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["clicks.parquet"]


def test_too_little_memory_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.preparation._limit", lambda memory: 4_000_000)
    paths = written(tmp_path, **random_edges(0, 50_000, 40, 200_000, 10))
    with pytest.raises(ConfigError, match=r"memory='5MB' does not suffice: give more, or fewer threads .*Memory"):
        prepare(tmp_path / "graph", RELATIONS, files=paths, memory="5MB")


def test_damaged_folders_are_refused(large, tmp_path):
    def copy(name):
        return shutil.copytree(large[0].path, tmp_path / name)

    cut = copy("cut") / "sources.npy"
    cut.write_bytes(cut.read_bytes()[:-4])
    with pytest.raises(FormatError, match=r"sources.npy has .* it is truncated or damaged"):
        PreparedGraph.open(cut.parent)
    changed = copy("changed") / "targets.npy"
    changed.write_bytes(changed.read_bytes()[:-4] + b"\1\2\3\4")
    assert PreparedGraph.open(changed.parent).relations == large[0].relations
    with pytest.raises(ChecksumError, match=r"targets.npy has the sha256"):
        PreparedGraph.open(changed.parent, verify=True)
    for name, old, new, message in (
        ("newer", "prepared-graph/1", "prepared-graph/2", "has the format 'prepared-graph/2'"),
        ("key", '"partitions"', '"parts"', "graph.json is damaged"),
        ("shape", '"edges": ', '"edges": 1', "holds <i4"),
    ):
        manifest = copy(name) / "graph.json"
        manifest.write_text(manifest.read_text().replace(old, new))
        with pytest.raises(FormatError, match=message):
            PreparedGraph.open(manifest.parent)
    with pytest.raises(FormatError, match="is not a graph: there is no such folder"):
        PreparedGraph.open(tmp_path / "none")


def test_numbers_and_names_that_are_not_there_are_refused(large):
    prepared, _ = large
    for ask, message in (
        (lambda: prepared.edges(3, 0), r"bucket \(3, 0\): partitions are 0 to 2"),
        (lambda: prepared.edges(0, -1), r"bucket \(0, -1\): partitions are 0 to 2"),
        (lambda: prepared.edges(0, 0, 99), r"bucket \(0, 0\) has \d+ chunks, numbered from 0; got 99"),
        (lambda: prepared.partition("user", 3), "'user' has partitions 0 to 2, got 3"),
        (lambda: prepared.ids("users"), "entity type 'users' is not in the graph; did you mean 'user'"),
        (lambda: prepared.occurrences("click", "source"), "relation 'click' is not .* did you mean 'clicks'"),
        (lambda: prepared.to_graph("held out"), "part"),
    ):
        with pytest.raises(ConfigError, match=message):
            ask()


@pytest.mark.slow
def test_memory_bounds_the_process(tmp_path):
    draw = np.random.default_rng(0)
    numbers = draw.integers(2_000_000, size=(2, 20_000_000)) * 7919
    pd.DataFrame({"source": numbers[0], "target": numbers[1]}).to_parquet(tmp_path / "clicks.parquet")
    code = f"""
from pathlib import Path
from pretrain import Relation
from pretrain.preparation import prepare
folder = Path({str(tmp_path)!r})
prepare(folder / "graph", [Relation("clicks", "user", "ad")], files={{"clicks": folder / "clicks.parquet"}},
        partitions=4, memory="1GB", threads=2)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
    peak = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 1024 * int(peak) < 1_000_000_000
    assert sum(PreparedGraph.open(tmp_path / "graph", verify=True).num_edges.values()) == 20_000_000
