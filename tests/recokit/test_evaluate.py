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
    categories_covered,
    category_entropy,
    group_auc,
    interest_entropy,
    intra_list_distance,
    list_overlap,
    log_loss,
    normalized_entropy,
    paired_bootstrap,
    pr_auc,
    rce,
    recall_at_k,
    reciprocal_rank,
    relevant_interests_covered,
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


def mixed_lists(seed, longest=8):
    """Lists of 0 to ``longest`` candidates, found by three components, and what there is to say of them with."""
    frame = lists(seed, queries=60, length=longest)
    rng = np.random.default_rng(seed + 100)
    length = rng.integers(0, longest + 1, 60)
    frame = frame[frame["rank"] <= length[frame["query"].str[1:].astype(int)]]
    return frame.assign(component=rng.integers(0, 3, len(frame)))


@pytest.fixture
def aspects():
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((45, 4)).astype(np.float32)  # i45 to i54 have none
    items = EmbeddingTable.from_arrays([f"i{i}" for i in range(45)], vectors, entity="item", version="v7")
    categories = pd.DataFrame({"candidate": [f"i{i}" for i in range(40)] * 2, "category": rng.integers(0, 5, 80)})
    return {"vectors": items, "categories": categories, "baseline": mixed_lists(50, longest=4)}


def metric_of_lists(frame, relevant, aspects, k):
    """Values of the public metrics for every query of ``relevant``, NaN where there is none."""
    queries = relevant["query"].unique()
    found = {
        f"intra_list_distance@{k}": intra_list_distance(frame, aspects["vectors"], k=k),
        f"categories@{k}": categories_covered(frame, aspects["categories"], k=k).reindex(queries, fill_value=0.0),
        f"category_entropy@{k}": category_entropy(frame, aspects["categories"], k=k),
        f"relevant_interests_covered@{k}": relevant_interests_covered(frame, relevant, aspects["categories"], k=k),
        f"interest_entropy@{k}": interest_entropy(frame, k=k),
        f"overlap@{k}": list_overlap(frame, aspects["baseline"], k=k),
    }
    return {metric: values.reindex(queries).to_numpy() for metric, values in found.items()}


def resampled(values, samples):
    """Means of the values that are there under the resamples of a bootstrap over all queries, written as a loop."""
    rng = np.random.default_rng(0)
    drawn = [values[rng.integers(len(values), size=len(values))] for _ in range(samples)]
    return np.quantile([np.nanmean(each) for each in drawn], [0.025, 0.975])


def test_diversity_is_a_mean_over_the_queries_that_have_a_value(aspects):
    frame, relevant = mixed_lists(0), relevant_pairs()
    plain = evaluate_candidates(frame.drop(columns="component"), relevant, k=(2, 5), bootstrap=100)
    report = evaluate_candidates(frame, relevant, k=(2, 5), bootstrap=100, seed=3, **aspects)
    expected = {**metric_of_lists(frame, relevant, aspects, 2), **metric_of_lists(frame, relevant, aspects, 5)}
    found = {result.metric: result for result in report.results[len(plain.results) :]}
    assert [*found] == [metric for name in [*expected][:6] for metric in (name, name.replace("@2", "@5"))]
    for metric, values in expected.items():
        result = found[metric]
        assert result.n == np.isfinite(values).sum()
        assert result.value == pytest.approx(np.nanmean(values))
        assert (result.low, result.high) == pytest.approx(tuple(resampled(values, 100)))
        assert (result.name, result.seed, result.group) == ("candidates", 3, None)
    assert found["categories@5"].n == 51
    assert found["intra_list_distance@5"].n < found["category_entropy@5"].n < 51
    assert found["interest_entropy@2"].n == frame["query"].isin(relevant["query"]).groupby(frame["query"]).first().sum()


def test_diversity_says_what_it_was_made_with(aspects):
    frame, relevant = mixed_lists(0), relevant_pairs()
    report = evaluate_candidates(frame, relevant, k=5, bootstrap=0, protocol={"split": "by time"}, **aspects)
    accuracy, diversity = report.results[0].protocol, report.results[-1].protocol
    listed = frame["candidate"].unique()
    without = [sum(int(item[1:]) >= num for item in listed) for num in (45, 40)]
    assert diversity["vectors"] == f"item of version v7, without {without[0]} of {len(listed)} listed candidates"
    assert diversity["categories"] == f"5, with {without[1]} of {len(listed)} listed candidates in none"
    assert diversity["baseline"] == "lists of at most 4"
    counts = {result.metric: 51 - result.n for result in report.results if result.n < 51}
    said = ", ".join(f"{metric} {num}" for metric, num in counts.items())
    assert diversity["queries_without_a_value"] == said
    assert said.startswith("intra_list_distance@5 ")
    assert accuracy == {key: diversity[key] for key in accuracy}
    assert accuracy["split"] == "by time"


def test_what_is_said_of_diversity_changes_nothing_else(aspects):
    frame, relevant = mixed_lists(0), relevant_pairs()
    plain = frame.drop(columns="component")
    catalog = [f"i{i}" for i in range(60)]
    before = evaluate_candidates(plain, relevant, k=(2, 5), catalog=catalog, bootstrap=50).results
    after = evaluate_candidates(frame, relevant, k=(2, 5), catalog=catalog, bootstrap=50, **aspects).results
    assert [result.metric for result in before] == [
        *("recall@2", "recall@5", "hit@2", "hit@5", "ndcg@2", "ndcg@5", "map@2[rel]", "map@5[rel]", "mrr"),
        *("catalog_coverage@2", "catalog_coverage@5"),
    ]
    kept = {result.metric for result in before}
    assert [result for result in after if result.metric in kept] == before  # to the last bit
    before = compare_candidates(plain, mixed_lists(1), relevant, k=5, bootstrap=50).results
    after = compare_candidates(frame, mixed_lists(1), relevant, k=5, bootstrap=50, **aspects).results
    assert after[: len(before)] == before


def test_each_aspect_comes_by_itself(aspects):
    frame, relevant = mixed_lists(0), relevant_pairs()
    plain = frame.drop(columns="component")
    names = {
        "vectors": ["intra_list_distance@5"],
        "categories": ["categories@5", "category_entropy@5", "relevant_interests_covered@5"],
        "baseline": ["overlap@5"],
    }
    for aspect, expected in names.items():
        report = evaluate_candidates(plain, relevant, k=5, bootstrap=0, **{aspect: aspects[aspect]})
        assert [result.metric for result in report.results[5:]] == expected
    report = evaluate_candidates(frame, relevant, k=5, bootstrap=0)
    assert [result.metric for result in report.results[5:]] == ["interest_entropy@5"]


def test_differences_of_diversity_are_over_queries_that_have_both(aspects):
    a, b, relevant = mixed_lists(0), mixed_lists(1), relevant_pairs()
    b = b[b["candidate"].str[1:].astype(int) < 45]
    report = compare_candidates(a, b, relevant, k=5, bootstrap=100, **aspects)
    first, second = (metric_of_lists(frame, relevant, aspects, 5) for frame in (a, b))
    found = {result.metric: result for result in report.results[5:]}
    assert [*found] == [*first]
    for metric, result in found.items():
        difference = first[metric] - second[metric]
        assert result.n == np.isfinite(difference).sum()
        assert result.value == pytest.approx(np.nanmean(difference))
        assert (result.low, result.high) == pytest.approx(tuple(resampled(difference, 100)))
    distance = found["intra_list_distance@5"]
    assert distance.n < min(np.isfinite(values["intra_list_distance@5"]).sum() for values in (first, second))
    protocol = distance.protocol
    assert protocol["difference"] == "paired by query"
    assert f"intra_list_distance@5 {51 - distance.n}" in protocol["queries_without_a_value"]
    assert protocol["baseline"] == "lists of at most 4"
    said = [f"item of version v7, without {num} listed candidates" for num in ("5 of 50", "0 of 45")]
    assert protocol["vectors"] == " - ".join(said)
    one_sided = compare_candidates(a, b.drop(columns="component"), relevant, k=5, bootstrap=0)
    assert [result.metric for result in one_sided.results] == ["recall@5", "hit@5", "ndcg@5", "map@5[rel]", "mrr"]


def test_seen_pairs_leave_the_baseline_too_and_ranks_close_up():
    candidates = pd.DataFrame({"query": 1, "candidate": [10, 11, 12], "rank": [1, 2, 3]})
    baseline = pd.DataFrame({"query": 1, "candidate": [10, 13, 12], "rank": [1, 2, 3]})
    categories = pd.DataFrame({"candidate": [10, 11, 12], "category": ["x", "y", "z"]})
    relevant, seen = pd.DataFrame({"query": [1], "candidate": [12]}), pd.DataFrame({"query": [1], "candidate": [10]})
    report = evaluate_candidates(
        candidates, relevant, k=(1, 2), seen=seen, baseline=baseline, categories=categories, bootstrap=0
    )
    # Left are 11, 12 and 13, 12: the first ones differ, of the first two they share one.
    assert (report.value("overlap@1"), report.value("overlap@2")) == (0.0, 1 / 2)
    assert (report.value("categories@1"), report.value("categories@2")) == (1.0, 2.0)
    assert (report.value("relevant_interests_covered@1"), report.value("relevant_interests_covered@2")) == (0.0, 1.0)


def test_a_metric_that_no_query_has_is_nan_of_none():
    candidates = pd.DataFrame({"query": [1, 2], "candidate": [10, 11], "rank": [1, 1]})
    relevant = pd.DataFrame({"query": [1, 2], "candidate": [11, 11]})
    items = EmbeddingTable.from_arrays([10, 11], np.eye(2, dtype=np.float32), entity="item", version="v1")
    report = evaluate_candidates(candidates, relevant, k=1, vectors=items, bootstrap=20)
    found = report.results[-1]
    assert (found.metric, found.n) == ("intra_list_distance@1", 0)
    assert np.isnan([found.value, found.low, found.high]).all()
    assert report.to_dict()["results"][-1]["value"] is None


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
    assert [result.metric for result in report.results] == [*expected, "ece[10]"]
    for result in report.results[:-1]:
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
