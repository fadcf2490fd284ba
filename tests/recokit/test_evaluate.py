"""Evaluation: numbers against the metrics themselves and arithmetic, protocols against what was done."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from recokit.errors import ConfigError, DataError
from recokit.evaluate import compare_candidates, compare_rankers, evaluate_candidates, evaluate_ranker
from recokit.metrics import (
    Rankings,
    average_precision_at_k,
    bootstrap_mean,
    bootstrap_statistic,
    calibration,
    catalog_coverage,
    group_auc,
    log_loss,
    normalized_entropy,
    paired_bootstrap,
    pr_auc,
    rce,
    recall_at_k,
    reciprocal_rank,
    roc_auc,
)
from recokit.table import EmbeddingTable


def lists(seed, queries=60, items=50, length=20):
    rng = np.random.default_rng(seed)
    rows = [(f"u{q}", f"i{i}", r) for q in range(queries) for r, i in enumerate(rng.permutation(items)[:length], 1)]
    return pd.DataFrame(rows, columns=["query", "candidate", "rank"])


def relevant_pairs(seed=9, queries=50, items=55):
    rng = np.random.default_rng(seed)
    rows = [(f"u{q}", f"i{i}") for q in range(queries) for i in rng.permutation(items)[:4]]
    return pd.DataFrame([*rows, ("nobody", "i1")], columns=["query", "candidate"])


def test_candidates_get_the_metrics_with_their_own_intervals():
    candidates, relevant = lists(seed=0), relevant_pairs()
    report = evaluate_candidates(candidates, relevant, k=(5, 10), name="random", seed=4, bootstrap=200)
    rankings = Rankings.from_candidates(candidates, relevant)
    assert [result.metric for result in report.results] == [
        *("recall@5", "recall@10", "hit@5", "hit@10", "ndcg@5", "ndcg@10", "map@5[rel]", "map@10[rel]", "mrr")
    ]
    by_metric = {result.metric: result for result in report.results}
    for metric, values in {
        "recall@10": recall_at_k(rankings, 10),
        "map@5[rel]": average_precision_at_k(rankings, 5),
        "mrr": reciprocal_rank(rankings),
    }.items():
        found = by_metric[metric]
        assert (found.value, found.low, found.high) == pytest.approx(bootstrap_mean(values, samples=200))
        assert (found.name, found.n, found.seed, found.group) == ("random", 51, 4, None)
    # 20 of 50 items at random, to a relevant set of which 50 of 55 can be found
    assert by_metric["recall@10"].value == pytest.approx(10 / 50 * 50 / 55, abs=0.06)


def test_the_protocol_says_who_was_left_out():
    report = evaluate_candidates(
        lists(seed=0), relevant_pairs(), k=10, protocol={"split": "by time"}, bootstrap=0, data={"test": "sha256:1"}
    )
    protocol = report.results[0].protocol
    assert protocol["candidates"] == "lists of at most 20"
    assert protocol["filter"] == "none"
    assert protocol["skipped_queries"] == 10
    assert protocol["queries_without_candidates"] == 1
    assert protocol["relevant_per_query"] == (50 * 4 + 1) / 51
    assert protocol["interval"] == "none"
    assert protocol["split"] == "by time"
    assert report.results[0].low is None
    assert report.provenance["data"] == {"test": "sha256:1"}


def test_coverage_needs_a_catalog_and_takes_a_table():
    candidates = pd.DataFrame({"query": ["u", "u"], "candidate": ["a", "b"], "rank": [1, 2]})
    relevant = pd.DataFrame({"query": ["u", "u"], "candidate": ["b", "gone"]})
    items = EmbeddingTable.from_arrays(list("abcd"), np.eye(4, dtype=np.float32), entity="item", version="v1")
    for catalog in (items, list("abcd")):
        report = evaluate_candidates(candidates, relevant, k=(1, 2), catalog=catalog, bootstrap=10)
        assert report.value("catalog_coverage@1") == 1 / 4
        assert report.value("catalog_coverage@2") == 2 / 4
        assert report.results[-1].n == 4
        assert report.results[-1].low is None
        assert report.results[0].protocol["relevant_outside_catalog"] == "1 of 2 pairs"
        assert report.value("recall@2") == 1 / 2


def test_a_catalog_of_the_other_id_type_is_refused():
    candidates = pd.DataFrame({"query": ["u", "u"], "candidate": [1, 2], "rank": [1, 2]})
    relevant = pd.DataFrame({"query": ["u"], "candidate": [2]})
    with pytest.raises(DataError, match="integer ids in relevant and string ids in the catalog"):
        evaluate_candidates(candidates, relevant, k=2, catalog=["1", "2"], bootstrap=10)
    with pytest.raises(DataError, match="integer ids in candidates and string ids in the catalog"):
        catalog_coverage(candidates, ["1", "2"])
    assert catalog_coverage(candidates, [1, 2, 3, 4]) == 2 / 4


def test_cutoffs_are_integers():
    candidates = pd.DataFrame({"query": ["u", "u"], "candidate": [1, 2], "rank": [1, 2]})
    relevant = pd.DataFrame({"query": ["u"], "candidate": [2]})
    for k in (np.int64(2), 2, [np.int32(2), 2], np.array([2])):
        report = evaluate_candidates(candidates, relevant, k=k, bootstrap=10)
        assert [result.metric for result in report.results] == ["recall@2", "hit@2", "ndcg@2", "map@2[rel]", "mrr"]
        assert report.value("recall@2") == 1.0
    for k in (True, [True], 2.0, "2", 0):
        with pytest.raises(ConfigError, match="k has to be"):
            evaluate_candidates(candidates, relevant, k=k, bootstrap=10)
        with pytest.raises(ConfigError, match="k has to be"):
            compare_candidates(candidates, candidates, relevant, k=k, bootstrap=10)


def test_seen_pairs_leave_the_lists_and_not_the_relevant_set():
    candidates = pd.DataFrame({"query": [1, 1, 1, 2], "candidate": [10, 11, 12, 10], "rank": [1, 2, 3, 1]})
    relevant = pd.DataFrame({"query": [1, 1, 2], "candidate": [12, 10, 10]})
    seen = pd.DataFrame({"query": [1, 2, 3], "candidate": [10, 11, 12]})
    report = evaluate_candidates(candidates, relevant, k=1, seen=seen, bootstrap=0)
    assert report.value("recall@1") == 1 / 2  # query 1: [11, 12], of which neither 12 at rank 2 nor 10; query 2: hit
    assert report.value("mrr") == (1 / 2 + 1) / 2
    assert report.results[0].protocol["filter"] == "seen pairs left out of the lists (1 of 4 rows)"


def test_differences_are_paired_by_query():
    a, b, relevant = lists(seed=0), lists(seed=1), relevant_pairs()
    report = compare_candidates(a, b, relevant, k=10, names=("new", "old"), bootstrap=200)
    values = [recall_at_k(Rankings.from_candidates(x, relevant), 10) for x in (a, b)]
    found = next(result for result in report.results if result.metric == "recall@10")
    assert found.name == "new - old"
    assert (found.value, found.low, found.high) == pytest.approx(paired_bootstrap(*values, samples=200))
    assert found.protocol["difference"] == "paired by query"
    assert found.protocol["candidates"] == "lists of at most 20"
    same = compare_candidates(a, a, relevant, k=10, bootstrap=20)
    assert {(result.value, result.low, result.high) for result in same.results} == {(0.0, 0.0, 0.0)}


def test_nothing_relevant_is_refused():
    with pytest.raises(DataError, match="relevant has no pairs"):
        evaluate_candidates(lists(seed=0), relevant_pairs().iloc[:0])
    with pytest.raises(ConfigError, match="k has to be at least 1"):
        evaluate_candidates(lists(seed=0), relevant_pairs(), k=0)
    with pytest.raises(ConfigError, match="bootstrap has to be a number of resamples"):
        evaluate_candidates(lists(seed=0), relevant_pairs(), bootstrap=-1)


class Columns:
    """A ranker that reads its predictions from columns of the frame."""

    def __init__(self, *columns, label="y", **features):
        self.columns = columns
        self.features = SimpleNamespace(label=label, **features)

    def predict(self, frame):
        predictions = frame[list(self.columns)].to_numpy()
        return predictions[:, 0] if len(self.columns) == 1 else predictions


def impressions(seed=0, n=600):
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 4, n)
    frame = pd.DataFrame({"user": rng.integers(0, 40, n), "p": p, "y": (rng.random(n) < p).astype(int)})
    frame["other"] = np.clip(p + 0.1 * rng.standard_normal(n), 0.01, 0.99)
    frame["z"] = (rng.random(n) < 0.5).astype(int)
    frame["w"] = rng.random(n)
    frame.loc[frame["user"] == 0, "y"] = 0
    return frame


def test_rankers_get_pooled_metrics_and_row_intervals():
    frame = impressions()
    report = evaluate_ranker(Columns("p"), frame, name="dlrm", bootstrap=100)
    expected = {
        "rce": rce,
        "ne": normalized_entropy,
        "log_loss": log_loss,
        "auc": roc_auc,
        "pr_auc": pr_auc,
        "calibration": calibration,
    }
    assert [result.metric for result in report.results] == list(expected)
    for result in report.results:
        assert result.value == pytest.approx(expected[result.metric](frame["y"], frame["p"]), rel=1e-9)
        assert result.low < result.value < result.high
        assert (result.n, result.group) == (600, None)
    assert report.results[0].protocol["prior"] == pytest.approx(frame["y"].mean())
    assert report.results[0].protocol["interval"] == "95% bootstrap over rows, 100 resamples"


def test_groups_bring_their_own_metrics_and_are_what_is_resampled():
    frame = impressions()
    report = evaluate_ranker(Columns("p"), frame, group="user", bootstrap=100)
    auc = group_auc(frame["y"], frame["p"], frame["user"])
    lists = Rankings.from_scores(frame["y"], frame["p"], frame["user"])
    assert report.value("group_auc") == pytest.approx(auc.mean())
    assert report.value("group_auc[positives]") == pytest.approx(auc.mean("positives"))
    assert report.value("group_auc[impressions]") == pytest.approx(auc.mean("impressions"))
    assert report.value("map") == pytest.approx(average_precision_at_k(lists).mean())
    by_metric = {result.metric: result for result in report.results}
    assert by_metric["group_auc"].n == len(auc.values)
    assert by_metric["map"].n == len(lists)
    protocol = by_metric["map"].protocol
    assert (protocol["group"], protocol["groups_without_positives"]) == ("user", lists.skipped)
    assert protocol["groups_without_both_classes"] == auc.skipped >= 1
    # The unit of the pooled metrics' intervals is the group too.
    found, expected = (
        by_metric["rce"],
        bootstrap_statistic(rce, frame["y"], frame["p"], groups=frame["user"], samples=100),
    )
    assert (found.value, found.low, found.high) == pytest.approx(expected)


def test_intervals_of_group_means_are_those_of_resampled_groups():
    frame = impressions()
    frame = frame[frame.groupby("user")["y"].transform("nunique") == 2]  # so that every group counts in both metrics
    report = evaluate_ranker(Columns("p"), frame, group="user", bootstrap=200)
    found = {result.metric: (result.value, result.low, result.high) for result in report.results}
    precision = average_precision_at_k(Rankings.from_scores(frame["y"], frame["p"], frame["user"]))
    assert found["map"] == pytest.approx(bootstrap_mean(precision, samples=200))
    auc = group_auc(frame["y"], frame["p"], frame["user"])
    assert found["group_auc"] == pytest.approx(bootstrap_mean(auc.values, samples=200))
    weighted = bootstrap_statistic(
        lambda value, positives, weight: np.average(value, weights=positives * weight),
        *(auc.values, auc.positives),
        samples=200,
    )
    assert found["group_auc[positives]"] == pytest.approx(weighted)


def test_the_spec_may_name_the_group_and_the_weight():
    frame = impressions()
    report = evaluate_ranker(Columns("p", group="user", weight="w"), frame, bootstrap=0)
    assert report.value("rce") == pytest.approx(rce(frame["y"], frame["p"], weight=frame["w"]))
    assert report.value("auc") == pytest.approx(roc_auc(frame["y"], frame["p"], weight=frame["w"]))
    assert report.value("group_auc") == pytest.approx(group_auc(frame["y"], frame["p"], frame["user"]).mean())
    assert report.results[0].protocol["weight"] == "by column"
    plain = evaluate_ranker(Columns("p", group="user", weight="w"), frame.drop(columns=["user", "w"]), bootstrap=0)
    assert plain.value("rce") == pytest.approx(rce(frame["y"], frame["p"]))
    assert "group_auc" not in {result.metric for result in plain.results}


def test_every_label_has_its_own_prior():
    frame = impressions()
    report = evaluate_ranker(Columns("p", "other", label=["y", "z"]), frame, bootstrap=0)
    assert {result.group for result in report.results} == {"y", "z"}
    assert report.value("rce", group="y") == pytest.approx(rce(frame["y"], frame["p"]))
    assert report.value("rce", group="z") == pytest.approx(rce(frame["z"], frame["other"]))


def test_rankers_are_compared_on_the_same_resamples():
    frame = impressions(n=2000)
    good, noisy = Columns("p"), Columns("other")
    report = compare_rankers(good, noisy, frame, names=("good", "noisy"), bootstrap=200)
    gain = bootstrap_statistic(
        lambda y, a, b, weight: rce(y, a, weight=weight) - rce(y, b, weight=weight),
        *(frame["y"], frame["p"], frame["other"]),
        samples=200,
    )
    found = report.results[0]
    assert (found.name, found.metric) == ("good - noisy", "rce")
    assert found.value == pytest.approx(gain.value)
    assert (found.low, found.high) == pytest.approx((gain.low, gain.high))
    by_user = compare_rankers(good, noisy, frame, group="user", bootstrap=200).results[0]
    gain_by_user = bootstrap_statistic(
        lambda y, a, b, weight: rce(y, a, weight=weight) - rce(y, b, weight=weight),
        *(frame["y"], frame["p"], frame["other"]),
        groups=frame["user"],
        samples=200,
    )
    assert (by_user.low, by_user.high) == pytest.approx((gain_by_user.low, gain_by_user.high))
    own = evaluate_ranker(good, frame, bootstrap=200).results[0]
    assert found.high - found.low < own.high - own.low
    assert {r.value for r in compare_rankers(good, good, frame, bootstrap=5).results} == {0.0}


def test_labels_of_one_class_are_nan_and_survive_the_report():
    frame = impressions().assign(y=0)
    report = evaluate_ranker(Columns("p"), frame, group="user", bootstrap=5)
    values = {result.metric: result.value for result in report.results}
    assert all(np.isnan(values[metric]) for metric in ("rce", "ne", "auc", "pr_auc", "calibration", "group_auc", "map"))
    assert values["log_loss"] == pytest.approx(-np.log(1 - frame["p"]).mean())
    assert report["results"][0]["value"] is None


def test_what_cannot_be_evaluated_is_refused():
    frame = impressions()
    with pytest.raises(DataError, match=r"the frame lacks the columns \['clicked'\]"):
        evaluate_ranker(Columns("p", label="clicked"), frame)
    with pytest.raises(ConfigError, match="name no label"):
        evaluate_ranker(Columns("p", label=None), frame)
    with pytest.raises(DataError, match=r"shape \(600, 2\) for 600 rows and the labels \['y'\]"):
        evaluate_ranker(Columns("p", "other"), frame)
    with pytest.raises(DataError, match="predictions have to be probabilities"):
        evaluate_ranker(Columns("user"), frame)
    with pytest.raises(DataError, match="no rows"):
        evaluate_ranker(Columns("p"), frame.iloc[:0])
    with pytest.raises(DataError, match="column 'user' of the frame has 1 missing"):
        evaluate_ranker(Columns("p"), frame.assign(user=[None, *range(599)]), group="user")
    with pytest.raises(DataError, match="rankers of the same labels"):
        compare_rankers(Columns("p"), Columns("p", label="z"), frame)
    with pytest.raises(DataError, match="weights in column 'w' sum to 0"):
        evaluate_ranker(Columns("p", weight="w"), frame.assign(w=0.0))
