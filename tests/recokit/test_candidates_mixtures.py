"""Candidates of mixtures agree with section 3.5 of Instagram's paper as a dictionary version, whatever finds them."""

from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_oracle import COMPARATORS, all_scores
from mixture_oracle import dictionary_mixtures

from recokit.candidates import CandidateGenerator, generator
from recokit.candidates import items as items_module
from recokit.candidates import search as search_module
from recokit.candidates.allocation import Allocation
from recokit.errors import ConfigError, DataError, VersionError
from recokit.index import ExactIndex, FaissIndex, HNSWIndex
from recokit.table import EmbeddingTable, Mixture, RelationParameters

ALLOCATIONS = get_args(Allocation)
each_allocation = pytest.mark.parametrize("allocation", ALLOCATIONS)


def table_of(ids, vectors, entity="item", version="v1", comparator="dot"):
    return EmbeddingTable.from_arrays(
        ids, np.asarray(vectors, np.float32), entity=entity, version=version, comparator=comparator
    )


def mixture_of(ids, vectors, weights=None, entity="user", comparator="dot", **more):
    vectors = np.asarray(vectors, np.float32)
    return Mixture.from_components(ids, vectors, weights, entity=entity, version="v1", comparator=comparator, **more)


def records_of(frame):
    return list(frame.itertuples(index=False, name=None))


def pairs_frame(pairs):
    return pd.DataFrame(sorted(pairs), columns=["query", "candidate"])


class Recording:
    """Exact search that does not say so, and writes down what it is asked for."""

    exact = False

    def __init__(self, table):
        self.table, self.calls = table, []

    def search(self, vectors, k):
        self.calls.append((len(vectors), k))
        return ExactIndex.build(self.table).search(vectors, k)


class Short(Recording):
    """It finds the true best row and no other, however many are asked for."""

    def search(self, vectors, k):
        rows, scores = super().search(vectors, k)
        rows[:, 1:], scores[:, 1:] = -1, -np.inf
        return rows, scores


INDEXES = {"exact": lambda table: ExactIndex.build(table, block_rows=5), "recording": Recording, "short": Short}


def random_mixture(rng, draw, entity, count, comparator, ids):
    """Own or shared components, some of them missing, weights that tie or are 0; returns it and what it holds."""
    num_components = draw(st.integers(1, 4))
    shared = draw(st.booleans())
    size = int(rng.integers(1, 8)) if shared else count * num_components
    components = table_of(
        np.arange(size), rng.integers(-2, 3, size=(size, 2)), f"{entity}-component", comparator=comparator
    )
    rows = rng.integers(0, size, (count, num_components)) if shared else np.arange(size).reshape(count, -1)
    rows[rng.random(rows.shape) < 0.3] = -1
    bare = (rows < 0).all(axis=1)
    rows[bare, 0] = 0 if shared else np.arange(count)[bare] * num_components
    weights = rng.integers(0, 3, rows.shape) if draw(st.booleans()) else rng.random(rows.shape)
    return Mixture.from_rows(ids, rows, weights, components=components, entity=entity)


def queries_of(mixture):
    """[(vectors, weights)] of all components, a missing one as a vector of weight 0."""
    at = np.arange(mixture.count)
    return list(zip(mixture.vectors_at(at), mixture.weights, strict=True))


def holders_of(mixture):
    """{item: {row: weight}}."""
    holders = {}
    for item in range(mixture.count):
        rows = holders[item] = {}
        for row, weight in zip(mixture.component_rows[item], mixture.weights[item], strict=True):
            if row >= 0:
                rows[int(row)] = np.float32(np.float64(rows.get(int(row), 0)) + np.float64(weight))
    return holders


@each_allocation
@settings(max_examples=45, deadline=None)
@given(data=st.data())
def test_candidates_agree_with_the_dictionary_version(allocation, data):
    """With ties, missing components, weights of 0, exclusions and an allow-list, in blocks of any size."""
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    comparator = draw(st.sampled_from(COMPARATORS))
    num_items, num_queries, k = draw(st.integers(1, 15)), draw(st.integers(1, 5)), draw(st.integers(1, 8))
    query_kind, item_kind = draw(
        st.sampled_from([("mixture", "vectors"), ("mixture", "mixture"), ("vectors", "mixture")])
    )
    users = [f"u{i}" for i in range(num_queries)]
    items = None
    if item_kind == "mixture":
        items = random_mixture(rng, draw, "item", num_items, comparator, np.arange(num_items))
        table, holders, most = items.components, holders_of(items), items.num_components
    else:
        table = table_of(np.arange(num_items), rng.integers(-2, 3, size=(num_items, 2)), comparator=comparator)
        holders, most = {item: {item: 1} for item in range(num_items)}, 1
    if query_kind == "mixture":
        queries = random_mixture(rng, draw, "user", num_queries, comparator, users)
        asked = queries_of(queries)
    else:
        queries = table_of(users, rng.integers(-2, 3, size=(num_queries, 2)), "user", comparator=comparator)
        asked = [(vector[None], [1]) for vector in queries.vectors]
    excluded = [{i for i in range(num_items) if rng.random() < share} for share in rng.random(num_queries)]
    allowed = {i for i in range(num_items) if rng.random() < 0.6} if draw(st.booleans()) else None
    index = draw(st.sampled_from(list(INDEXES.values())))(table)
    choices = {"allocation": allocation, "aggregate": draw(st.sampled_from(["sum", "max"]))}
    missing = draw(st.sampled_from([None, "floor"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "_ROWS_BLOCK", draw(st.sampled_from([1, 50, 1 << 20])))
        patch.setattr(generator, "_SHARED_BLOCK", draw(st.sampled_from([0, 1 << 20])))
        patch.setattr(items_module, "_PAIR_BLOCK", draw(st.sampled_from([1, 9, 1 << 20])))
        patch.setattr(search_module, "_FOUND_BLOCK", draw(st.sampled_from([1, 30, 1 << 20])))
        patch.setattr(search_module, "_WORTH_A_SCAN", draw(st.sampled_from([0, 100])))
        generate = CandidateGenerator(index, queries, items=items, missing=missing, **choices)
        frame = generate(
            users,
            k,
            exclude=pairs_frame({(users[q], i) for q in range(num_queries) for i in excluded[q]}),
            allow=None if allowed is None else sorted(allowed),
        )

    kernel = None if items is None else missing or ("zero" if comparator == "cos" else "floor")
    expected = dictionary_mixtures(
        asked, table, holders, k, most=most, excluded=excluded, allowed=allowed, kernel=kernel, **choices
    )
    expected = [(users[q], *more) for q, *more in expected]
    assert records_of(frame) == (expected if query_kind == "mixture" else [each[:4] for each in expected])


@each_allocation
@pytest.mark.parametrize("both_sides", [False, True])
def test_one_component_of_weight_1_is_a_single_vector(allocation, both_sides):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 8))
    items, table = None, table_of(np.arange(60), rng.normal(size=(60, 8)), comparator="cos")
    if both_sides:
        items = mixture_of(np.arange(60), rng.normal(size=(60, 3, 8)), rng.random((60, 3)), "item", "cos")
        table = items.components
    index = ExactIndex.build(table)
    exclude = pairs_frame({(u, i) for u in range(20) for i in range(60) if rng.random() < 0.3})
    users = table_of(np.arange(20), vectors, "user", comparator="cos")
    single = CandidateGenerator(index, users, items=items, allocation=allocation)
    mixture = mixture_of(np.arange(20), vectors[:, None], comparator="cos")
    found = CandidateGenerator(index, mixture, items=items, allocation=allocation)(np.arange(20), 7, exclude=exclude)
    expected = single(np.arange(20), 7, exclude=exclude)
    pd.testing.assert_frame_equal(found.drop(columns="component"), expected)
    if allocation == "max_score" or not both_sides:
        assert not found["score"].groupby(found["query"]).diff().gt(0).any()
    assert (found["component"] == 0).all()
    assert len(found) == 20 * 7


def test_items_of_one_component_are_a_table():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(50, 4)).astype(np.float32)
    items = mixture_of(np.arange(50), vectors[:, None], entity="item", comparator="cos")
    queries = mixture_of(np.arange(9), rng.normal(size=(9, 3, 4)), rng.random((9, 3)), comparator="cos")
    table = table_of(np.arange(50), vectors, comparator="cos")
    for allocation in ALLOCATIONS:
        as_table = CandidateGenerator(ExactIndex.build(table), queries, allocation=allocation)
        as_mixture = CandidateGenerator(ExactIndex.build(items.components), queries, items=items, allocation=allocation)
        pd.testing.assert_frame_equal(as_mixture(np.arange(9), 10), as_table(np.arange(9), 10))


def test_the_frame_by_hand():
    items = table_of(["east", "north", "north-east"], [[1, 0], [0, 1], [1, 1]])
    users = mixture_of([7], [[[2, 0], [0, 1]]], np.array([[0.6, 0.4]]))
    generate = CandidateGenerator(ExactIndex.build(items), users)
    # Component 0 scores 2, 0, 2 and ranks east, north-east, north; component 1 scores 0, 1, 1: north, north-east, east.
    expected = pd.DataFrame(
        {
            "query": [7, 7, 7],
            "candidate": ["east", "north", "north-east"],
            "score": np.float32([2, 1, 2]),
            "rank": [1, 2, 3],
            "component": [0, 1, 0],
        }
    )
    pd.testing.assert_frame_equal(generate([7], k=3), expected)
    assert generate([], k=3).dtypes.equals(expected.dtypes)


def test_an_item_is_scored_by_the_weighted_sum_of_its_rows_found():
    """alpha = sum of w (1 + cos) / 2; k * C = 4 of 5 rows are found, and one not found counts 0."""
    vectors = [[[1, 0], [0, 1]], [[1, 0], [-1, 0]], [[0, 1], [0, 1]]]
    rows = np.array([[0, 1], [2, 3], [4, -1]])
    components = mixture_of([0, 1, 2], vectors, entity="item", comparator="cos").components
    items = Mixture.from_rows(
        ["x", "y", "z"], rows, np.array([[0.75, 0.25], [0.5, 0.5], [1, 0]]), components=components, entity="item"
    )
    user = table_of(["u"], [[1, 0]], "user", comparator="cos")
    generate = CandidateGenerator(ExactIndex.build(components), user, items=items)
    # Found 0 and 2 (cos 1), 1 and 4 (cos 0). x: .75 * 1 + .25 * .5 = .875; y: .5 * 1 + 0; z: 1 * .5, a tie with y.
    assert records_of(generate(["u"], 3)) == [("u", "x", 1, 1), ("u", "y", 1, 2), ("u", "z", 0, 3)]
    assert records_of(generate(["u"], 2, exclude=pairs_frame({("u", "x")}))) == [("u", "y", 1, 1), ("u", "z", 0, 2)]
    # The floor is the last row found, cos -1 of 5 rows: x: .75 * 2 + .25 * 1, y: .5 * 2 + .5 * 0, z: 1 * 1.
    floor = CandidateGenerator(ExactIndex.build(components), user, items=items, missing="floor")
    assert floor(["u"], 3)["candidate"].tolist() == ["x", "y", "z"]


def test_the_maximum_does_not_dilute():
    """One component at cos .5 beats five of which the best is at .9, by the sum; not by the maximum."""
    good = [[0.9, np.sqrt(1 - 0.81)], *[[-1, 0]] * 4]
    fair = [[0.5, np.sqrt(0.75)], *[[-1, 0]] * 4]
    components = mixture_of([0, 1], [good, fair], entity="item", comparator="cos").components
    rows = np.array([[0, 1, 2, 3, 4], [5, -1, -1, -1, -1]])
    items = Mixture.from_rows(["good", "fair"], rows, components=components, entity="item")
    user, index = table_of(["u"], [[1, 0]], "user", comparator="cos"), ExactIndex.build(components)
    for aggregate, expected in (("sum", ["fair", "good"]), ("max", ["good", "fair"])):
        generate = CandidateGenerator(index, user, items=items, aggregate=aggregate)
        assert generate(["u"], 2)["candidate"].tolist() == expected


def test_a_relation_moves_every_component():
    items = table_of(["east", "north"], [[1, 0], [0, 1]], "place")
    users = mixture_of(["u"], [[[0, 0], [5, 5]]], np.array([[0.9, 0.1]]))
    relation = RelationParameters("visits", "user", "place", "translation", np.float32([-3, 4]))
    frame = CandidateGenerator(ExactIndex.build(items), users, relation, allocation="max_score")(["u"])
    assert records_of(frame) == [("u", "north", 9, 1, 1), ("u", "east", 2, 2, 1)]
    frame = CandidateGenerator(ExactIndex.build(items), users, relation)(["u"])
    assert records_of(frame) == [("u", "north", 4, 1, 0), ("u", "east", -3, 2, 0)]


@each_allocation
@pytest.mark.parametrize("build", ["hnswlib", "ivf", "short"])
def test_no_list_is_shorter_than_it_has_to_be(allocation, build):
    """The poorest of indexes; users who have seen nothing, some, nearly all and all; centroids that they share."""
    rng = np.random.default_rng(0)
    items = table_of(np.arange(300), rng.normal(size=(300, 8)), comparator="l2")
    index = {
        "hnswlib": lambda: HNSWIndex.build(items, m=2, ef_construction=4, ef=4, threads=1),
        "ivf": lambda: FaissIndex.build(items, nlist=30, nprobe=1, threads=1),
        "short": lambda: Short(items),
    }[build]()
    centroids = table_of(np.arange(5), rng.normal(size=(5, 8)), "centroid", comparator="l2")
    rows = np.stack([rng.permutation(5)[:3] for _ in range(12)])
    users = Mixture.from_rows(np.arange(12), rows, rng.random((12, 3)), components=centroids, entity="user")
    amounts = [0, 1, 30, 200, 295, 300] * 2
    seen = {(u, i) for u, n in enumerate(amounts) for i in rng.permutation(300)[:n].tolist()}
    for allow in (None, list(range(0, 300, 40)), list(range(50, 300))):
        generate = CandidateGenerator(index, users, allocation=allocation)
        frame = generate(range(12), 20, exclude=pairs_frame(seen), allow=allow)
        found = list(zip(frame["query"].tolist(), frame["candidate"].tolist(), strict=True))
        assert len(set(found)) == len(found)
        assert not seen & set(found)
        allowed = set(range(300) if allow is None else allow)
        assert {c for _, c in found} <= allowed
        exists = [min(20, len(allowed - {i for u, i in seen if u == user})) for user in range(12)]
        assert np.bincount(frame["query"], minlength=12).tolist() == exists
        component = rows[frame["query"], frame["component"]]
        scores = all_scores(items, centroids.vectors)[component, frame["candidate"]]
        assert frame["score"].tolist() == scores.tolist()


@each_allocation
def test_shared_components_are_those_of_each_alone(allocation):
    rng = np.random.default_rng(2)
    items = table_of(np.arange(200), rng.normal(size=(200, 4)), comparator="cos")
    centroids = table_of(np.arange(6), rng.normal(size=(6, 4)), "centroid", comparator="cos")
    rows, weights = np.stack([rng.permutation(6)[:4] for _ in range(30)]), rng.random((30, 4))
    shared = Mixture.from_rows(np.arange(30), rows, weights, components=centroids, entity="user")
    alone = mixture_of(np.arange(30), centroids.vectors[rows], weights, comparator="cos")
    for exclude in (None, pairs_frame({(u, i) for u in range(30) for i in range(200) if rng.random() < 0.1})):
        frames = [
            CandidateGenerator(Recording(items), queries, allocation=allocation)(range(30), 15, exclude=exclude)
            for queries in (shared, alone)
        ]
        pd.testing.assert_frame_equal(*frames)


def test_a_shared_component_is_searched_once(monkeypatch):
    rng = np.random.default_rng(3)
    items = table_of(np.arange(5000), rng.normal(size=(5000, 4)))
    centroids = table_of(np.arange(8), rng.normal(size=(8, 4)), "centroid")
    rows = np.stack([rng.permutation(8)[:3] for _ in range(100)])
    users = Mixture.from_rows(np.arange(100), rows, components=centroids, entity="user")
    index = Recording(items)
    CandidateGenerator(index, users)(range(100), 10)
    assert index.calls == [(8, 10)]
    index.calls.clear()
    CandidateGenerator(index, users)(
        range(100), 10, exclude=pairs_frame({(u, i) for u in range(100) for i in range(6)})
    )
    assert index.calls == [(8, 16)]  # 10 + 6, as a power of sqrt(2)
    index.calls.clear()
    monkeypatch.setattr(generator, "_ROWS_BLOCK", 90)  # blocks of three users
    CandidateGenerator(index, users)(range(100), 10)
    assert index.calls == [(8, 10)]


def test_a_shared_component_whose_lists_exclude_much_is_scanned():
    rng = np.random.default_rng(4)
    items = table_of(np.arange(5000), rng.normal(size=(5000, 4)))
    centroids = table_of(np.arange(2), rng.normal(size=(2, 4)), "centroid")
    users = Mixture.from_rows(np.arange(9), np.tile([0, 1], (9, 1)), components=centroids, entity="user")
    seen = pairs_frame({(u, i) for u in range(9) for i in rng.permutation(5000)[:60].tolist()})
    index = Recording(items)
    frame = CandidateGenerator(index, users)(range(9), 10, exclude=seen)
    assert index.calls == []
    pd.testing.assert_frame_equal(frame, CandidateGenerator(ExactIndex.build(items), users)(range(9), 10, exclude=seen))


def test_components_of_weight_0_are_not_searched():
    items = table_of(np.arange(9), np.eye(9))
    users = mixture_of(["u"], np.eye(9)[None, :3], np.array([[1, 0, 1]]))
    index = Recording(items)
    frame = CandidateGenerator(index, users)(["u"], 9)
    assert index.calls == [(2, 9)]
    assert frame["component"].tolist()[:3] == [0, 2, 0]
    assert sorted(frame["candidate"]) == list(range(9))


def test_an_item_is_no_candidate_of_its_own_unless_asked():
    items = mixture_of([1, 2, 3], np.eye(6).reshape(3, 2, 6), entity="item", comparator="cos")
    generate = CandidateGenerator(ExactIndex.build(items.components), items, items=items)
    assert generate([2], k=3)["candidate"].tolist() == [1, 3]
    assert generate([2], k=3, exclude_self=False)["candidate"].tolist()[0] == 2


def test_what_does_not_fit_is_refused():
    items = mixture_of([1, 2], np.eye(4).reshape(2, 2, 4), entity="item", comparator="l2")
    users = mixture_of([1], np.eye(4)[None], comparator="l2")
    index = ExactIndex.build(items.components)
    with pytest.raises(ConfigError, match="allocation='round' is no choice; did you mean 'round_robin'"):
        CandidateGenerator(index, users, allocation="round")
    with pytest.raises(ConfigError, match="aggregate='mean' is no choice; known: max, sum"):
        CandidateGenerator(index, users, items=items, aggregate="mean")
    with pytest.raises(ConfigError, match="missing='none' is no choice"):
        CandidateGenerator(index, users, items=items, missing="none")
    with pytest.raises(ConfigError, match=r"missing='zero' needs scores of at least 0.*'l2', so expected 'floor'"):
        CandidateGenerator(index, users, items=items, missing="zero")
    other = table_of(np.arange(4), 2 * np.eye(4), comparator="l2")
    with pytest.raises(VersionError, match=r"the index is over the 'item' table.*build it over items\.components"):
        CandidateGenerator(ExactIndex.build(other), users, items=items)
    with pytest.raises(DataError, match="3 dimensions, the index's 4"):
        CandidateGenerator(index, mixture_of([1], np.eye(3)[None]))
    relation = RelationParameters("likes", "item", "user", "identity", np.float32([]))
    with pytest.raises(ConfigError, match="'likes' goes from 'item' to 'user', the tables from 'user' to 'item'"):
        CandidateGenerator(index, users, relation, items=items)
    with pytest.raises(DataError, match="1 of 1 query ids are not in the 'user' table, such as 9"):
        CandidateGenerator(index, users, items=items)([9])


def test_no_list_is_longer_than_the_catalogue_however_many_are_asked_for():
    rng = np.random.default_rng(0)
    items = table_of(range(6), rng.normal(size=(6, 3)))
    mixture = mixture_of(["u"], rng.normal(size=(1, 2, 3)))
    for queries in (mixture, table_of(["u"], rng.normal(size=(1, 3)), entity="user")):
        generate = CandidateGenerator(ExactIndex.build(items), queries)
        assert generate(["u"], k=10**12).equals(generate(["u"], k=6))
        assert len(generate(["u"], k=10**12)) == 6
