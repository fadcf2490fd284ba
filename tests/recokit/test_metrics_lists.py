"""Coverage, similarity and diversity of lists against loops and arithmetic."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from recokit.errors import DataError
from recokit.metrics import (
    CandidateLists,
    Categories,
    catalog_coverage,
    categories_covered,
    category_entropy,
    interest_entropy,
    intra_list_distance,
    intra_list_similarity,
    list_overlap,
    relevant_interests_covered,
)
from recokit.table import EmbeddingTable


def lists(rows):
    return pd.DataFrame(rows, columns=["query", "candidate", "rank"])


def table(ids, vectors):
    return EmbeddingTable.from_arrays(ids, np.asarray(vectors, dtype=np.float32), entity="item", version="v1")


def test_coverage_is_the_share_of_the_catalog_that_anyone_gets():
    candidates = lists([("u", "a", 1), ("u", "b", 2), ("v", "a", 1), ("v", "outside", 2)])
    catalog = ["a", "b", "c", "d", "d"]
    assert catalog_coverage(candidates, catalog) == 2 / 4
    assert catalog_coverage(candidates, catalog, k=1) == 1 / 4
    assert catalog_coverage(candidates, table(["a", "b", "c"], np.eye(3))) == 2 / 3
    assert catalog_coverage(candidates.iloc[:0], catalog) == 0.0
    with pytest.raises(DataError, match="needs a catalog"):
        catalog_coverage(candidates, [])


def test_similarity_is_the_mean_cosine_of_the_pairs():
    items = table([1, 2, 3], [[1, 0], [2, 2], [0, 5]])
    candidates = lists([(7, 1, 1), (7, 2, 2), (7, 3, 3), (8, 1, 1), (8, 3, 2)])
    similarity = intra_list_similarity(candidates, items)
    assert similarity.index.tolist() == [7, 8]
    assert similarity[7] == pytest.approx((np.sqrt(0.5) + 0.0 + np.sqrt(0.5)) / 3)
    assert similarity[8] == pytest.approx(0.0, abs=1e-12)
    assert intra_list_similarity(candidates, items, k=2)[7] == pytest.approx(np.sqrt(0.5))


def test_similarity_agrees_with_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((30, 5)).astype(np.float32)
    items = table(np.arange(100, 130), vectors)
    chosen = {q: rng.permutation(30)[: rng.integers(2, 9)] for q in range(12)}
    candidates = lists([(q, 100 + i, rank) for q, rows in chosen.items() for rank, i in enumerate(rows, 1)])
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    naive = [np.mean([unit[i] @ unit[j] for i, j in itertools.combinations(rows, 2)]) for rows in chosen.values()]
    np.testing.assert_allclose(intra_list_similarity(candidates, items), naive, atol=1e-7)


def test_candidates_without_a_direction_are_left_out():
    items = table(["a", "b", "zero"], [[1, 0], [1, 1], [0, 0]])
    candidates = lists([("u", "a", 1), ("u", "zero", 2), ("u", "unknown", 3), ("u", "b", 4), ("v", "a", 1)])
    similarity = intra_list_similarity(candidates, items)
    assert similarity["u"] == pytest.approx(np.sqrt(0.5))
    assert np.isnan(similarity["v"])


def random_lists(seed, queries=40, items=30, longest=12):
    """Lists of 1 to ``longest`` items in no order, with gaps in their ranks as a filter leaves them."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{q}", 100 + i, 2 * rank + 3, int(rng.integers(3)))
        for q in range(queries)
        for rank, i in enumerate(rng.permutation(items)[: rng.integers(1, longest + 1)])
    ]
    frame = pd.DataFrame(rows, columns=["query", "candidate", "rank", "component"])
    return frame.sample(frac=1.0, random_state=seed, ignore_index=True)


def random_categories(seed, items=35, categories=6):
    rng = np.random.default_rng(seed)
    rows = [(100 + i, f"c{c}") for i in range(items) for c in rng.permutation(categories)[: rng.integers(0, 4)]]
    return pd.DataFrame([*rows, rows[0]], columns=["candidate", "category"])


def first(frame, query, k):
    return frame[frame["query"] == query].sort_values("rank")["candidate"].tolist()[:k]


def memberships(categories):
    found = {}
    for candidate, category in categories.itertuples(index=False):
        found.setdefault(candidate, set()).add(category)
    return found


def entropy(amounts):
    total = sum(amounts)
    return -sum(amount / total * math.log(amount / total) for amount in amounts) if total else math.nan


GENRES = pd.DataFrame(
    {"candidate": ["a", "a", "b", "c", "d", "d"], "category": ["war", "crime", "war", "love", None, "love"]}
)


def test_distance_is_one_less_the_similarity_and_needs_a_pair():
    items = table(["a", "b", "c"], [[1, 0], [3, 3], [0, -2]])
    candidates = lists([("u", "a", 1), ("u", "b", 2), ("u", "c", 3), ("v", "a", 1), ("w", "a", 1), ("w", "?", 2)])
    distance = intra_list_distance(candidates, items)
    assert distance["u"] == pytest.approx(1 - (math.sqrt(0.5) + 0 - math.sqrt(0.5)) / 3)
    assert distance.isna().to_dict() == {"u": False, "v": True, "w": True}
    assert intra_list_distance(candidates, items, k=2)["u"] == pytest.approx(1 - math.sqrt(0.5))
    opposite = table(["a", "b"], [[2, 0], [-1, 0]])
    assert intra_list_distance(lists([("u", "a", 1), ("u", "b", 2)]), opposite)["u"] == pytest.approx(2 / (2 - 1))


def test_categories_of_a_list_are_counted_once():
    candidates = lists([("u", "b", 1), ("u", "a", 2), ("u", "c", 3), ("v", "?", 1), ("w", "d", 1)])
    assert categories_covered(candidates, GENRES).to_dict() == {"u": 3.0, "v": 0.0, "w": 1.0}
    assert categories_covered(candidates, GENRES, k=1)["u"] == 1.0
    assert categories_covered(candidates, GENRES, k=2)["u"] == 2.0


def test_entropy_gives_every_candidate_one_vote_in_nats():
    candidates = lists([("u", "b", 1), ("u", "a", 2), ("u", "c", 3), ("u", "?", 4), ("v", "?", 1), ("w", "c", 1)])
    found = category_entropy(candidates, GENRES)
    # b is war, a half war and half crime, c love; nobody knows "?"
    assert found["u"] == pytest.approx(-(1.5 / 3 * math.log(1.5 / 3) + 0.5 / 3 * math.log(0.5 / 3) - math.log(3) / 3))
    assert math.isnan(found["v"])
    assert (found["w"], math.copysign(1.0, found["w"])) == (0.0, 1.0)
    uniform = lists([("u", "b", 1), ("u", "c", 2)])
    assert category_entropy(uniform, GENRES)["u"] == pytest.approx(math.log(2))


def test_interests_are_the_components_that_found_a_list():
    candidates = lists([("u", item, rank) for rank, item in enumerate("abcd", 1)] + [("v", "a", 1), ("v", "b", 2)])
    candidates["component"] = [0, 1, 0, 3, 7, 7]
    found = interest_entropy(candidates)
    assert found["u"] == pytest.approx(-(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)))
    assert found["v"] == 0.0
    assert interest_entropy(candidates, k=2)["u"] == pytest.approx(math.log(2))
    with pytest.raises(DataError, match="lacks the column 'component'"):
        interest_entropy(candidates.drop(columns="component"))


def test_subtopic_recall_is_the_share_of_relevant_categories_in_the_list():
    candidates = lists([("u", "b", 1), ("u", "c", 2), ("v", "c", 1)])
    relevant = pd.DataFrame(
        [("nobody", "a"), ("u", "a"), ("u", "a"), ("u", "never listed"), ("v", "never listed")],
        columns=["query", "candidate"],
    )
    found = relevant_interests_covered(candidates, relevant, GENRES)
    # a is war and crime, of which b is war; the last one's relevant item is in no category
    assert found.index.tolist() == ["nobody", "u", "v"]
    assert found.iloc[:2].tolist() == [0.0, 1 / 2]
    assert math.isnan(found["v"])
    love = pd.DataFrame({"query": ["u", "u"], "candidate": ["d", "b"]})
    assert relevant_interests_covered(candidates, love, GENRES, k=1)["u"] == 1 / 2
    assert relevant_interests_covered(candidates, love, GENRES, k=2)["u"] == 2 / 2


def test_overlap_is_over_k_or_the_longer_list():
    a = lists([("u", "a", 1), ("u", "b", 2), ("u", "c", 3), ("v", "a", 1), ("only a", "a", 1), ("same", "x", 1)])
    b = lists([("u", "c", 1), ("u", "a", 2), ("v", "a", 1), ("v", "b", 2), ("only b", "a", 1), ("same", "x", 1)])
    found = list_overlap(a, b)
    assert found.to_dict() == {"u": 2 / 3, "v": 1 / 2, "only a": 0.0, "same": 1.0, "only b": 0.0}
    assert list_overlap(a, b, k=2).to_dict() == {"u": 1 / 2, "v": 1 / 2, "only a": 0.0, "same": 1.0, "only b": 0.0}
    assert list_overlap(a, b, k=1).to_dict() == {"u": 0.0, "v": 1.0, "only a": 0.0, "same": 1.0, "only b": 0.0}


@pytest.mark.parametrize("k", [1, 3, 5, None])
@pytest.mark.parametrize("numbered", [False, True])
def test_metrics_agree_with_loops(k, numbered):
    frame, other, categories = random_lists(0), random_lists(1, queries=50), random_categories(2)
    relevant = random_lists(3, queries=45, items=36)[["query", "candidate"]]
    of = memberships(categories)
    a, b = (CandidateLists.of(frame), CandidateLists.of(other)) if numbered else (frame, other)
    known = Categories.of(categories) if numbered else categories
    found = {
        "covered": categories_covered(a, known, k=k),
        "entropy": category_entropy(a, known, k=k),
        "interest": interest_entropy(a, k=k),
        "relevant": relevant_interests_covered(a, relevant, known, k=k),
        "overlap": list_overlap(a, b, k=k),
    }
    assert found["covered"].index.tolist() == frame["query"].unique().tolist()
    for query in frame["query"].unique():
        chosen = first(frame, query, k)
        reached = set().union(*(of.get(item, set()) for item in chosen))
        amounts = {}
        for item in chosen:
            for category in of.get(item, ()):
                amounts[category] = amounts.get(category, 0.0) + 1.0 / len(of[item])
        components = frame[frame["query"] == query].sort_values("rank")["component"].tolist()[:k]
        assert found["covered"][query] == len(reached)
        assert found["entropy"][query] == pytest.approx(entropy(list(amounts.values())), abs=1e-12, nan_ok=True)
        assert found["interest"][query] == pytest.approx(
            entropy([components.count(c) for c in set(components)]), abs=1e-12
        )
    assert found["relevant"].index.tolist() == relevant["query"].unique().tolist()
    for query in relevant["query"].unique():
        sought = set().union(*(of.get(item, set()) for item in relevant[relevant["query"] == query]["candidate"]))
        reached = set().union(*(of.get(item, set()) for item in first(frame, query, k)))
        expected = len(sought & reached) / len(sought) if sought else math.nan
        assert found["relevant"][query] == pytest.approx(expected, nan_ok=True)
    assert set(found["overlap"].index) == {*frame["query"], *other["query"]}
    for query in found["overlap"].index:
        one, two = first(frame, query, k), first(other, query, k)
        longest = max(len(one), len(two))
        assert found["overlap"][query] == len({*one} & {*two}) / min(k or longest, longest)


def test_ids_of_any_kind_match_and_types_never_mix():
    candidates = lists([(1, 10, 1), (1, 11, 2)])
    genres = pd.DataFrame({"candidate": [10, 11], "category": [1, 2]})
    assert categories_covered(candidates.astype({"candidate": "category"}), genres)[1] == 2.0
    assert categories_covered(candidates, genres.astype("category"))[1] == 2.0
    assert list_overlap(candidates.astype("category").assign(rank=[1, 2]), candidates)[1] == 1.0
    assert categories_covered(candidates.astype({"candidate": "int32"}), genres)[1] == 2.0
    with pytest.raises(DataError, match="integer ids in candidates and string ids in categories"):
        categories_covered(candidates, genres.astype({"candidate": str}))
    with pytest.raises(DataError, match="'candidate' holds integer ids in a and string ids in b"):
        list_overlap(candidates, candidates.astype({"candidate": str}))
    with pytest.raises(DataError, match="'query' holds integer ids in candidates and string ids in relevant"):
        relevant_interests_covered(candidates, candidates.astype({"query": str}), genres)


def test_lists_of_nothing_have_no_values():
    empty = lists([("u", "a", 1)]).iloc[:0]
    assert not len(categories_covered(empty, GENRES))
    assert not len(intra_list_distance(empty, table(["a"], [[1, 0]])))
    relevant = pd.DataFrame({"query": ["u"], "candidate": ["a"]})
    assert relevant_interests_covered(empty, relevant, GENRES).to_dict() == {"u": 0.0}
    listed = lists([("u", "a", 1)])
    assert math.isnan(category_entropy(listed, GENRES.iloc[:0])["u"])
    assert list_overlap(empty, listed).to_dict() == {"u": 0.0}


def test_lists_that_are_none_are_refused():
    with pytest.raises(DataError, match="query u lists candidate a twice"):
        categories_covered(lists([("v", "a", 1), ("u", "a", 1), ("u", "a", 2)]), GENRES)
    with pytest.raises(DataError, match=r"two candidates of one query share a rank \(rank 2; 1 such ranks\)"):
        categories_covered(lists([("u", "a", 2), ("u", "b", 2), ("v", "b", 2)]), GENRES, k=1)
    with pytest.raises(DataError, match="rank' of candidates has to start at 1; it holds 0"):
        interest_entropy(lists([("u", "a", 0)]).assign(component=0))
    with pytest.raises(DataError, match=r"has to hold integers from 1, not float64"):
        interest_entropy(lists([("u", "a", 1.5)]).assign(component=0))
    with pytest.raises(DataError, match=r"candidates lacks the columns \['rank'\]"):
        categories_covered(lists([("u", "a", 1)]).drop(columns="rank"), GENRES, k=1)
    with pytest.raises(DataError, match=r"categories lacks the columns \['category'\]"):
        categories_covered(lists([("u", "a", 1)]), GENRES.drop(columns="category"))
    with pytest.raises(DataError, match="'component' of candidates has 1 missing"):
        interest_entropy(lists([("u", "a", 1), ("u", "b", 2)]).assign(component=[0, None]))
