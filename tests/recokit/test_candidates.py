"""Candidate frames agree with a slow dictionary version, and are complete over approximate indexes too."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_oracle import COMPARATORS, all_scores

from recokit.candidates import CandidateGenerator
from recokit.errors import ConfigError, DataError, VersionError
from recokit.index import ExactIndex, FaissIndex, HNSWIndex, filtered, scoring
from recokit.table import EmbeddingTable, RelationParameters

APPROXIMATE = {
    "hnswlib": lambda table: HNSWIndex.build(table, m=4, ef_construction=10, ef=10, threads=1),
    "faiss-ivf_flat": lambda table: FaissIndex.build(table, nlist=min(10, table.count), nprobe=1, threads=1),
    "faiss-hnsw": lambda table: FaissIndex.build(table, kind="hnsw", m=4, ef_construction=10, ef=10, threads=1),
}
approximate = pytest.mark.parametrize("build", APPROXIMATE.values(), ids=APPROXIMATE)


def table_of(ids, vectors, entity, version="v1", comparator="dot"):
    return EmbeddingTable.from_arrays(
        ids, np.asarray(vectors, np.float32), entity=entity, version=version, comparator=comparator
    )


def dictionary_candidates(queries, items, ids, k, *, exclude=(), allow=None, exclude_self=False):
    """One list at a time, in plain Python; query and candidate ids as lists."""
    query_ids, item_ids = queries.ids.to_pylist(), items.ids.to_pylist()
    scores = all_scores(items, queries.vectors)
    records = []
    for query in dict.fromkeys(ids):
        row = query_ids.index(query)
        left = [
            j
            for j, item in enumerate(item_ids)
            if (query, item) not in exclude
            and (allow is None or item in allow)
            and not (exclude_self and item == query)
        ]
        best = sorted(left, key=lambda j: (-scores[row, j], j))[:k]
        records += [(query, item_ids[j], scores[row, j], rank) for rank, j in enumerate(best, start=1)]
    return records


def records_of(frame):
    return list(frame.itertuples(index=False, name=None))


def pairs_frame(pairs):
    return pd.DataFrame(sorted(pairs), columns=["query", "candidate"])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_candidates_agree_with_the_dictionary_version(data):
    """With ties, duplicate query ids, unknown ids in exclude and allow, and the scan or the over-fetch forced."""
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_items, num_queries, k = draw(st.integers(1, 30)), draw(st.integers(1, 8)), draw(st.integers(1, 12))
    same = draw(st.booleans())
    make = str if draw(st.booleans()) else int
    item_ids = [make(7 * i) for i in rng.permutation(num_items)]
    items = table_of(item_ids, rng.integers(-2, 3, size=(num_items, 2)), "item")
    queries = items
    if not same:
        query_ids = [f"u{i}" for i in rng.permutation(num_queries)]
        queries = table_of(query_ids, rng.integers(-2, 3, size=(num_queries, 2)), "user")
    asked = list(rng.choice(queries.ids.to_pylist(), size=draw(st.integers(0, 10))).tolist())
    possible = [*item_ids, make(1)]  # the last is unknown
    exclude = {(q, c) for q in queries.ids.to_pylist() for c in possible if rng.random() < 0.4}
    allow = [c for c in possible for _ in range(2) if rng.random() < 0.5] if draw(st.booleans()) else None
    index = ExactIndex.build(items, block_rows=5)
    if draw(st.booleans()):
        index = FaissIndex.build(items, kind="flat", threads=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filtered, "_SCANNED_PER_FETCHED", draw(st.sampled_from([0, 100])))
        frame = CandidateGenerator(index, queries)(asked, k, exclude=pairs_frame(exclude), allow=allow)

    expected = dictionary_candidates(queries, items, asked, k, exclude=exclude, allow=allow, exclude_self=same)
    assert records_of(frame) == expected


@pytest.mark.parametrize("scanned_per_fetched", [0, 3, 100])
@approximate
def test_no_list_is_shorter_than_it_has_to_be(build, scanned_per_fetched, monkeypatch):
    """The poorest of indexes; users who have seen nothing, some, nearly all and all; a list of few and of many."""
    monkeypatch.setattr(filtered, "_SCANNED_PER_FETCHED", scanned_per_fetched)
    rng = np.random.default_rng(0)
    items = table_of(np.arange(400), rng.normal(size=(400, 8)), "item", comparator="l2")
    users = table_of(np.arange(6), rng.normal(size=(6, 8)), "user", comparator="l2")
    seen = {(u, i) for u, n in enumerate([0, 1, 30, 200, 395, 400]) for i in rng.permutation(400)[:n].tolist()}
    generate = CandidateGenerator(build(items), users)
    for allow in (None, list(range(0, 400, 40)), list(range(50, 400))):
        frame = generate(range(6), 20, exclude=pairs_frame(seen), allow=allow)
        found = [(int(q), int(c)) for q, c in zip(frame["query"], frame["candidate"], strict=True)]
        assert len(set(found)) == len(found)
        assert not seen & set(found)
        allowed = set(range(400) if allow is None else allow)
        assert {c for _, c in found} <= allowed
        exists = [min(20, len(allowed - {i for u, i in seen if u == query})) for query in range(6)]
        assert np.bincount(frame["query"], minlength=6).tolist() == exists
        own = all_scores(items, users.vectors)
        assert frame["score"].tolist() == [own[q, c] for q, c in found]
        assert (frame.groupby("query")["score"].diff().dropna() <= 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("comparator", COMPARATORS)
def test_lists_are_scored_as_pairs_to_the_byte(comparator, dtype, monkeypatch):
    """In blocks of any size, for dimensions on both sides of what a processor sums at once, and in any order."""
    rng = np.random.default_rng(0)
    for dim in (1, 2, 3, 7, 8, 15, 16, 17, 33, 64, 65, 130):
        vectors = rng.normal(size=(40, dim)).astype(dtype)
        vectors[3] = 0
        table = EmbeddingTable.from_arrays(
            np.arange(40), vectors, entity="item", version="v1", comparator=comparator,
            bias=rng.normal(size=40).astype(np.float32) if comparator == "dot" else None,
        )  # fmt: skip
        for shape in ((1, 1), (1, 30), (30, 1), (5, 13)):
            queries = rng.normal(size=(shape[0], dim)).astype(np.float32)
            rows = rng.integers(-1, 40, shape)
            monkeypatch.setattr(scoring, "_PAIR_BLOCK", int(rng.choice([1, 3 * dim, 1 << 17])))
            positions, order = np.repeat(np.arange(shape[0]), shape[1]), rng.permutation(rows.size)
            pairs = scoring.score_pairs(table, queries, positions[order], rows.ravel()[order])
            lists = scoring.score_lists(table, queries, rows).ravel()[order]
            assert lists.tobytes() == pairs.tobytes()


class Short:
    """An index that finds the true best row and no other, however many are asked for."""

    exact = False

    def __init__(self, table):
        self.table, self.calls = table, []

    def search(self, vectors, k):
        self.calls.append((len(vectors), k))
        rows, scores = ExactIndex.build(self.table).search(vectors, k)
        rows[:, 1:], scores[:, 1:] = -1, -np.inf
        return rows, scores


def test_an_index_that_comes_back_short_is_completed():
    rng = np.random.default_rng(0)
    items = table_of(np.arange(50), rng.normal(size=(50, 4)), "item")
    users = table_of(["a", "b"], rng.normal(size=(2, 4)), "user")
    frame = CandidateGenerator(Short(items), users)(["a", "b"], 60)
    assert records_of(frame) == dictionary_candidates(users, items, ["a", "b"], 60)


class Recording:
    """Exact search that does not say so, and writes down what it is asked for."""

    exact = False

    def __init__(self, table):
        self.table, self.calls = table, []

    def search(self, vectors, k):
        self.calls.append((len(vectors), k))
        return ExactIndex.build(self.table).search(vectors, k)


def test_queries_are_fetched_in_few_groups(monkeypatch):
    monkeypatch.setattr(filtered, "_SCANNED_PER_FETCHED", 0)
    rng = np.random.default_rng(0)
    items = table_of(np.arange(500), rng.normal(size=(500, 4)), "item")
    users = table_of(np.arange(100), rng.normal(size=(100, 4)), "user")
    index = Recording(items)
    seen = {(u, i) for u in range(100) for i in range(u)}
    frame = CandidateGenerator(index, users)(range(100), 10, exclude=pairs_frame(seen))
    assert records_of(frame) == dictionary_candidates(users, items, list(range(100)), 10, exclude=seen)
    assert sum(size for size, _ in index.calls) == 100  # no query twice: k + excluded is always enough
    assert {k for _, k in index.calls} == {10, 12, 16, 23, 32, 46, 64, 91, 128}


def test_queries_without_exclusions_always_go_to_the_index():
    """A scan would be cheaper here for the one with exclusions."""
    rng = np.random.default_rng(0)
    items = table_of(np.arange(50), rng.normal(size=(50, 4)), "item")
    users = table_of([1, 2, 3], rng.normal(size=(3, 4)), "user")
    index = Recording(items)
    CandidateGenerator(index, users)([1, 2, 3], 10, exclude=pairs_frame({(2, 7)}))
    assert index.calls == [(2, 10)]


def test_the_frame_by_hand():
    items = table_of(["x", "y", "z"], [[1, 0], [0, 1], [1, 1]], "item")
    users = table_of([10, 20], [[1, 2], [-1, 0]], "user")
    frame = CandidateGenerator(ExactIndex.build(items), users)([20, 10], k=2)
    expected = pd.DataFrame(
        {
            "query": [20, 20, 10, 10],
            "candidate": ["y", "x", "z", "y"],
            "score": np.float32([0, -1, 3, 2]),
            "rank": [1, 2, 1, 2],
        }
    )
    pd.testing.assert_frame_equal(frame, expected)


def test_empty_frames_have_the_same_types():
    items = table_of(["x"], [[1.0]], "item")
    generate = CandidateGenerator(ExactIndex.build(items), table_of([1], [[1.0]], "user"))
    full = generate([1])
    for ids, arguments in (([], {}), ([2], {"unknown": "skip"}), ([1], {"allow": []}), ([1], {"allow": ["unknown"]})):
        empty = generate(ids, **arguments)
        assert len(empty) == 0
        assert (empty.dtypes == full.dtypes).all()


def test_a_relation_moves_the_queries_first():
    items = table_of(["east", "north"], [[1, 0], [0, 1]], "place")
    users = table_of(["u"], [[2, 1]], "user")
    relation = RelationParameters("visits", "user", "place", "translation", np.float32([-3, 4]))
    frame = CandidateGenerator(ExactIndex.build(items), users, relation)(["u"])
    assert records_of(frame) == [("u", "north", 1 + 4, 1), ("u", "east", 2 - 3, 2)]


def test_a_relation_that_moves_targets_is_searched_over_moved_targets():
    items = table_of(["east", "north"], [[1, 0], [0, 1]], "place", comparator="l2")
    users = table_of(["u"], [[4, 5]], "user", comparator="l2")
    relation = RelationParameters("visits", "user", "place", "translation", np.float32([3, 4]), side="target")
    with pytest.raises(ConfigError, match=r"'visits' moves its targets.*index over a table of relation\.apply"):
        CandidateGenerator(ExactIndex.build(items), users, relation)
    moved = table_of(items.ids, relation.apply(items.vectors), "place", comparator="l2")
    frame = CandidateGenerator(ExactIndex.build(moved), users)(["u"])
    assert records_of(frame) == [("u", "east", -1, 1), ("u", "north", -1, 2)]  # (4, 4) and (3, 5)


def test_an_item_is_no_candidate_of_its_own_unless_asked():
    items = table_of([1, 2, 3], np.eye(3), "item")
    index = ExactIndex.build(items)
    generate = CandidateGenerator(index, items)
    assert generate([2], k=3)["candidate"].tolist() == [1, 3]
    assert generate([2], k=3, exclude_self=False)["candidate"].tolist() == [2, 1, 3]
    other_rows = table_of([3, 2, 1], np.eye(3), "item")  # ids decide, not rows
    assert CandidateGenerator(index, other_rows)([3], k=3)["candidate"].tolist() == [1, 2]
    users = table_of([1, 2], np.eye(3)[:2], "user")  # the same numbers, other entities
    assert CandidateGenerator(index, users)([2], k=3)["candidate"].tolist() == [2, 1, 3]
    assert CandidateGenerator(index, users)([2], k=3, exclude_self=True)["candidate"].tolist() == [1, 3]


def test_ids_come_in_any_container():
    items = table_of(["x", "y"], np.eye(2), "item")
    users = table_of([5, 6], np.eye(2), "user")
    generate = CandidateGenerator(ExactIndex.build(items), users)
    expected = records_of(generate([6, 5]))
    for ids in (np.array([6, 5, 6], np.int32), pd.Series([6, 5], index=[3, 9]), pd.Index([6, 5])):
        assert records_of(generate(ids)) == expected
    frame = pd.DataFrame({"query": [6, 5], "candidate": ["y", "x"]}, index=[7, 7])
    assert records_of(generate([6, 5], exclude=frame, allow=pd.Series(["x", "y"]))) == [(6, "x", 0, 1), (5, "y", 0, 1)]
    assert records_of(generate([6, 5], exclude=pd.DataFrame({"query": [], "candidate": []}))) == expected


def test_a_block_of_queries_is_not_the_limit(monkeypatch):
    monkeypatch.setattr("recokit.candidates.generator._ROWS_BLOCK", 7)
    rng = np.random.default_rng(0)
    items = table_of(np.arange(9), rng.normal(size=(9, 3)), "item")
    users = table_of(np.arange(20), rng.normal(size=(20, 3)), "user")
    exclude = {(u, i) for u in range(20) for i in range(9) if rng.random() < 0.3}
    ids = rng.permutation(20).tolist()
    frame = CandidateGenerator(ExactIndex.build(items), users)(ids, 3, exclude=pairs_frame(exclude))
    assert records_of(frame) == dictionary_candidates(users, items, ids, 3, exclude=exclude)


def test_unknown_queries_are_refused_or_skipped():
    items = table_of(["x"], [[1.0]], "item")
    generate = CandidateGenerator(ExactIndex.build(items), table_of(["a", "b"], [[1.0], [2.0]], "user"))
    message = "4 of 6 query ids are not in the 'user' table, such as 'c', 'd', 'e'; unknown='skip'"
    for ids in (["c", "a", "d", "e", "b", "f"], pd.Series(["c", "a", "d", "e", "b", "f"], index=range(10, 16))):
        with pytest.raises(DataError, match=message):
            generate(ids)
    assert generate(["c", "b", "d", "a"], unknown="skip")["query"].tolist() == ["b", "a"]
    with pytest.raises(ConfigError, match="did you mean 'skip'"):
        generate(["a"], unknown="skpi")


def test_what_does_not_fit_is_refused():
    items, users = table_of(["x"], [[1.0, 2.0]], "item"), table_of([1], [[1.0, 2.0]], "user")
    index = ExactIndex.build(items)
    generate = CandidateGenerator(index, users)
    with pytest.raises(ConfigError, match="k is 0"):
        generate([1], k=0)
    with pytest.raises(DataError, match="no column 'candidate'; its columns are \\['query', 'item'\\]"):
        generate([1], exclude=pd.DataFrame({"query": [1], "item": ["x"]}))
    with pytest.raises(DataError, match="got string ids, expected int64"):
        generate(["1"])
    with pytest.raises(DataError, match="got int64 ids, expected string"):
        generate([1], exclude=pd.DataFrame({"query": [1], "candidate": [1]}))
    with pytest.raises(DataError, match="got int64 ids, expected string"):
        generate([1], allow=[1])
    with pytest.raises(ConfigError, match="'likes' goes from 'item' to 'user', the tables from 'user' to 'item'"):
        CandidateGenerator(index, users, RelationParameters("likes", "item", "user", "identity", np.float32([])))
    with pytest.raises(DataError, match="3 dimensions, the index's 2"):
        CandidateGenerator(index, table_of([1], [[1.0, 2.0, 3.0]], "user"))
    with pytest.raises(VersionError, match="queries are of version 'v2', the index is of 'v1'"):
        CandidateGenerator(index, table_of([1], [[1.0, 2.0]], "user", version="v2"))
    other = CandidateGenerator(index, table_of([1], [[1.0, 2.0]], "user", version="v2"), any_version=True)
    assert other([1])["score"].tolist() == [5.0]
