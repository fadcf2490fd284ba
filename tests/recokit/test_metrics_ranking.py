"""Ranking metrics against ir-measures, scikit-learn, all orders of small ties, and arithmetic."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recokit.errors import ConfigError, DataError
from recokit.metrics import (
    Rankings,
    average_precision_at_k,
    hit_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
)


def frame(lists):
    """Candidate frame of {query: [candidates, best first]}."""
    rows = [(query, item, -float(rank), rank) for query, items in lists.items() for rank, item in enumerate(items, 1)]
    return pd.DataFrame(rows, columns=["query", "candidate", "score", "rank"])


def pairs(relevant):
    rows = [(query, item) for query, items in relevant.items() for item in items]
    return pd.DataFrame(rows, columns=["query", "candidate"])


def random_case(seed, queries=40, items=60, length=30):
    rng = np.random.default_rng(seed)
    lists = {f"q{q}": [f"i{i}" for i in rng.permutation(items)[: rng.integers(0, length)]] for q in range(queries)}
    relevant = {f"q{q}": [f"i{i}" for i in rng.permutation(items)[: rng.integers(0, 12)]] for q in range(queries)}
    return frame(lists), pairs(relevant)


METRICS = {
    "R@5": lambda r: recall_at_k(r, 5),
    "R@20": lambda r: recall_at_k(r, 20),
    "P@5": lambda r: precision_at_k(r, 5),
    "Success@5": lambda r: hit_at_k(r, 5),
    "RR": reciprocal_rank,
    "nDCG@5": lambda r: ndcg_at_k(r, 5),
    "nDCG@20": lambda r: ndcg_at_k(r, 20),
    "AP": average_precision_at_k,
    "AP@5": lambda r: average_precision_at_k(r, 5),
}


@pytest.mark.parametrize("measure", METRICS)
def test_lists_agree_with_trec_eval_query_by_query(measure):
    ir_measures = pytest.importorskip("ir_measures")
    candidates, relevant = random_case(seed=3)
    qrels = relevant.rename(columns={"query": "query_id", "candidate": "doc_id"}).assign(relevance=1)
    run = candidates.rename(columns={"query": "query_id", "candidate": "doc_id"})[["query_id", "doc_id", "score"]]
    theirs = {
        row.query_id: row.value
        for row in ir_measures.pytrec_eval.iter_calc([ir_measures.parse_measure(measure)], qrels, run)
    }
    rankings = Rankings.from_candidates(candidates, relevant)
    ours = METRICS[measure](rankings)
    assert len(theirs) > 30
    assert rankings.skipped == len(set(candidates["query"]) - set(relevant["query"])) > 0
    np.testing.assert_allclose(ours, [theirs.get(query, 0.0) for query in rankings.queries], atol=1e-12)
    assert (ours == 0.0).sum() < len(ours)


def test_the_textbook_example():
    rankings = Rankings.from_candidates(frame({"u": ["a", "b", "c", "d"]}), pairs({"u": ["b", "d", "z"]}))
    assert recall_at_k(rankings, 2).tolist() == [1 / 3]
    assert recall_at_k(rankings, 10).tolist() == [2 / 3]
    assert recall_at_k(rankings, 2, capped=True).tolist() == [1 / 2]
    assert precision_at_k(rankings, 2).tolist() == [1 / 2]
    assert precision_at_k(rankings, 10).tolist() == [2 / 10]
    assert hit_at_k(rankings, 1).tolist() == [0.0]
    assert hit_at_k(rankings, 2).tolist() == [1.0]
    assert reciprocal_rank(rankings).tolist() == [1 / 2]
    assert reciprocal_rank(rankings, 1).tolist() == [0.0]
    gain, ideal = 1 / np.log2(3) + 1 / np.log2(5), 1 / np.log2(2) + 1 / np.log2(3) + 1 / np.log2(4)
    assert ndcg_at_k(rankings, 10) == pytest.approx([gain / ideal])
    assert average_precision_at_k(rankings) == pytest.approx([(1 / 2 + 2 / 4) / 3])


def test_average_precision_to_k_has_three_denominators():
    rankings = Rankings.from_candidates(frame({"u": ["a", "b", "c", "d"]}), pairs({"u": ["a", "c", "y", "z"]}))
    total = 1 / 1 + 2 / 3
    assert average_precision_at_k(rankings, 3) == pytest.approx([total / 4])
    assert average_precision_at_k(rankings, 3, norm="min") == pytest.approx([total / 3])
    assert average_precision_at_k(rankings, 3, norm="hits") == pytest.approx([total / 2])
    assert average_precision_at_k(rankings, norm="min") == pytest.approx([total / 4])


def test_a_query_without_candidates_counts_zero_and_one_without_relevant_is_skipped():
    candidates = frame({"served": ["a", "b"], "unjudged": ["a"]})
    relevant = pairs({"served": ["a"], "unserved": ["b"]})
    rankings = Rankings.from_candidates(candidates, relevant)
    assert list(rankings.queries) == ["served", "unserved"]
    assert rankings.skipped == 1
    assert rankings.num_listed.tolist() == [2, 0]
    for metric in METRICS.values():
        assert metric(rankings)[1] == 0.0
    assert recall_at_k(rankings, 10).mean() == 1 / 2


def test_relevant_candidates_that_no_list_holds_stay_in_the_denominator():
    rankings = Rankings.from_candidates(frame({1: [10, 11]}), pairs({1: [10, 999, 998, 997]}))
    assert recall_at_k(rankings, 10).tolist() == [1 / 4]
    assert average_precision_at_k(rankings).tolist() == [1 / 4]


def test_repeated_relevant_pairs_count_once():
    rankings = Rankings.from_candidates(frame({1: [11, 10]}), pairs({1: [10, 12, 10]}))
    assert rankings.num_relevant.tolist() == [2]
    assert recall_at_k(rankings, 2).tolist() == [1 / 2]


def test_the_order_of_rows_does_not_matter_and_the_order_of_ranks_does():
    candidates, relevant = random_case(seed=5)
    shuffled = candidates.sample(frac=1.0, random_state=0)
    straight, mixed = Rankings.from_candidates(candidates, relevant), Rankings.from_candidates(shuffled, relevant)
    backwards = Rankings.from_candidates(candidates.assign(rank=1000 - candidates["rank"]), relevant)
    for metric in METRICS.values():
        assert metric(straight).tolist() == metric(mixed).tolist()
        assert metric(straight).tolist() != metric(backwards).tolist()


def test_ranks_of_a_filtered_frame_close_up():
    candidates = frame({"u": ["seen", "seen too", "hit"]}).query("candidate == 'hit'")
    assert candidates["rank"].tolist() == [3]
    assert reciprocal_rank(Rankings.from_candidates(candidates, pairs({"u": ["hit"]}))).tolist() == [1.0]


def test_an_empty_candidate_frame_gives_zeros():
    rankings = Rankings.from_candidates(frame({}), pairs({"u": ["a"], "v": ["b"]}))
    assert recall_at_k(rankings, 10).tolist() == [0.0, 0.0]
    assert ndcg_at_k(rankings, 10).tolist() == [0.0, 0.0]
    assert average_precision_at_k(rankings).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: pd.concat([c, c.iloc[:1].assign(rank=9)]), "query 1 lists candidate 10 twice"),
        (lambda c: c.assign(rank=1), "share a rank"),
        (lambda c: c.assign(rank=[0, 1]), "start at 1; it holds 0"),
        (lambda c: c.assign(rank=[1.5, 2.5]), "integers from 1, not float64"),
        (lambda c: c.drop(columns="rank"), r"candidates lacks the columns \['rank'\]"),
        (lambda c: c.assign(query=["1", "1"]), "string ids in candidates and integer ids in relevant"),
        (lambda c: c.assign(candidate=[None, 2.0]), "column 'candidate' of candidates has 1 missing"),
    ],
)
def test_frames_that_cannot_be_judged_are_refused(change, message):
    candidates, relevant = frame({1: [10, 11]}), pairs({1: [10]})
    with pytest.raises(DataError, match=message):
        Rankings.from_candidates(change(candidates), relevant)


def test_settings_that_do_not_exist_are_refused():
    rankings = Rankings.from_scores([1, 0], [0.5, 0.1])
    with pytest.raises(ConfigError, match="k has to be at least 1, not 0"):
        recall_at_k(rankings, 0)
    with pytest.raises(ConfigError, match="did you mean 'relevant'"):
        average_precision_at_k(rankings, 5, norm="relevance")
    with pytest.raises(ConfigError, match="did you mean 'pessimistic'"):
        Rankings.from_scores([1, 0], [0.5, 0.1], ties="pesimistic")


def over_all_orders(labels, scores, value):
    """Mean of ``value(labels in ranked order)`` over every order that the scores allow."""
    levels = sorted(set(scores), reverse=True)
    blocks = [[label for label, score in zip(labels, scores, strict=True) if score == level] for level in levels]
    orders = itertools.product(*[list(itertools.permutations(block)) for block in blocks])
    return float(np.mean([value(list(itertools.chain(*order))) for order in orders]))


def naive_ap(labels, k):
    hits = [rank for rank, label in enumerate(labels, 1) if label]
    return sum((place + 1) / rank for place, rank in enumerate(hits) if rank <= k) / len(hits)


def naive_ndcg(labels, k):
    gains = [1 / np.log2(rank + 1) for rank, label in enumerate(labels, 1) if label and rank <= k]
    return sum(gains) / sum(1 / np.log2(rank + 1) for rank in range(1, min(k, sum(labels)) + 1))


tied_lists = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.1, 0.5, 0.9])), min_size=1, max_size=6).filter(
    lambda rows: any(label for label, _ in rows)
)


@settings(max_examples=60, deadline=None)
@given(rows=tied_lists, k=st.integers(1, 7))
def test_expected_values_of_ties_are_means_over_all_orders(rows, k):
    labels, scores = map(list, zip(*rows, strict=True))
    rankings = Rankings.from_scores(labels, scores)

    def mean(value):
        return pytest.approx([over_all_orders(labels, scores, value)], abs=1e-12)

    assert recall_at_k(rankings, k) == mean(lambda order: sum(order[:k]) / sum(order))
    assert precision_at_k(rankings, k) == mean(lambda order: sum(order[:k]) / k)
    assert hit_at_k(rankings, k) == mean(lambda order: max(order[:k]))
    assert ndcg_at_k(rankings, k) == mean(lambda order: naive_ndcg(order, k))
    assert average_precision_at_k(rankings, k) == mean(lambda order: naive_ap(order, k))
    assert 1.0 / reciprocal_rank(rankings) == mean(lambda order: order.index(1) + 1)


@settings(max_examples=60, deadline=None)
@given(rows=tied_lists, k=st.integers(1, 7))
def test_the_expected_value_lies_between_the_worst_and_the_best_order(rows, k):
    labels, scores = map(list, zip(*rows, strict=True))
    low, middle, high = (
        Rankings.from_scores(labels, scores, ties=t) for t in ("pessimistic", "expected", "optimistic")
    )
    for metric in (recall_at_k, hit_at_k, ndcg_at_k, average_precision_at_k):
        values = [metric(rankings, k)[0] for rankings in (low, middle, high)]
        assert values == pytest.approx(sorted(values), abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 10, None])
def test_ndcg_of_tied_scores_agrees_with_scikit_learn(k):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels = (rng.random((50, 12)) < 0.3).astype(int)
    scores = rng.integers(0, 4, (50, 12)).astype(float)
    rankings = Rankings.from_scores(labels.ravel(), scores.ravel(), np.repeat(np.arange(50), 12))
    kept = labels.any(axis=1)
    theirs = [metrics.ndcg_score(labels[[q]], scores[[q]], k=k) for q in np.flatnonzero(kept)]
    assert rankings.skipped == (~kept).sum() > 0
    np.testing.assert_allclose(ndcg_at_k(rankings, k), theirs, atol=1e-12)


def test_a_constant_scorer_does_not_win():
    labels, scores, n = [1] + [0] * 9_999, [0.5] * 10_000, 10_000
    harmonic = sum(1 / rank for rank in range(1, n + 1))
    assert average_precision_at_k(Rankings.from_scores(labels, scores)) == pytest.approx([harmonic / n])
    assert reciprocal_rank(Rankings.from_scores(labels, scores)).tolist() == [1 / ((n + 1) / 2)]
    assert reciprocal_rank(Rankings.from_scores(labels, scores, ties="pessimistic")).tolist() == [1 / n]
    # What an argsort would have said, because the labels came sorted:
    assert reciprocal_rank(Rankings.from_scores(labels, scores, ties="order")).tolist() == [1.0]


def test_groups_may_come_in_any_order_and_score_shifts_do_not_matter():
    rng = np.random.default_rng(1)
    labels, groups = (rng.random(300) < 0.2).astype(int), rng.integers(0, 20, 300)
    scores = rng.integers(0, 5, 300).astype(float)
    straight = average_precision_at_k(Rankings.from_scores(labels, scores, groups)).mean()
    order = rng.permutation(300)
    shifted = scores[order] * 3.0 + groups[order] * 100.0
    assert average_precision_at_k(Rankings.from_scores(labels[order], shifted, groups[order])).mean() == pytest.approx(
        straight, abs=1e-12
    )


def test_untied_scores_and_candidate_frames_give_the_same_values():
    rng = np.random.default_rng(2)
    scores, groups = rng.permutation(200).astype(float), np.repeat(np.arange(10), 20)
    labels = (rng.random(200) < 0.3).astype(int)
    rows = pd.DataFrame({"query": groups, "candidate": np.arange(200), "score": scores, "label": labels})
    rows["rank"] = rows.groupby("query")["score"].rank(ascending=False).astype(int)
    by_frame = Rankings.from_candidates(rows, rows[rows["label"] == 1])
    by_score = Rankings.from_scores(labels, scores, groups)
    for metric in METRICS.values():
        np.testing.assert_allclose(metric(by_frame), metric(by_score), rtol=1e-12)


def test_infinite_scores_rank_and_nan_is_refused():
    assert reciprocal_rank(Rankings.from_scores([1, 0, 0], [-np.inf, np.inf, np.inf])).tolist() == [1 / 3]
    with pytest.raises(DataError, match="1 of 2 are NaN"):
        Rankings.from_scores([1, 0], [np.nan, 0.0])
    with pytest.raises(DataError, match=r"labels have to be 0 or 1; 1 of 2 are not, the first is 2\.0 at row 1"):
        Rankings.from_scores([1, 2], [0.1, 0.0])
    with pytest.raises(DataError, match="groups have to be as many as labels: 3 and 2"):
        Rankings.from_scores([1, 0], [0.1, 0.0], [1, 2, 3])
