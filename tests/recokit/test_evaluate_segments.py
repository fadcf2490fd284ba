"""Segments, predictions without a ranker, conditional labels, calibration error: against metrics of filtered rows."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from recokit.errors import ConfigError, DataError
from recokit.evaluate import compare_rankers, evaluate_predictions, evaluate_ranker
from recokit.metrics import (
    Rankings,
    average_precision_at_k,
    bootstrap_statistic,
    group_auc,
    log_loss,
    pr_auc,
    rce,
    reliability_table,
    roc_auc,
)
from recokit.report import Report


class Columns:
    """A ranker that reads its predictions from columns of the frame."""

    def __init__(self, *columns, label="y", **features):
        self.columns = columns
        self.features = SimpleNamespace(label=label, **features)

    def predict(self, frame):
        predictions = frame[list(self.columns)].to_numpy()
        return predictions[:, 0] if len(self.columns) == 1 else predictions


def impressions(seed=0, n=800):
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 4, n)
    frame = pd.DataFrame({"user": rng.integers(0, 60, n), "p": p, "y": (rng.random(n) < p).astype(int)})
    frame["other"] = np.clip(p + 0.1 * rng.standard_normal(n), 0.01, 0.99)
    frame["z"] = (rng.random(n) < 0.5).astype(int)
    frame["w"] = rng.random(n)
    frame["country"] = rng.choice(["AT", "CH", "DE", "FR", "LI"], n, p=[0.1, 0.3, 0.5, 0.07, 0.03])
    return frame


def of_group(report, group):
    return {result.metric: result for result in report.results if result.group == group}


def test_a_segment_is_evaluated_as_if_it_were_all_there_is():
    frame = impressions()
    report = evaluate_ranker(Columns("p", weight="w"), frame, segments=["country"], min_rows=60, bootstrap=50)
    groups = list(dict.fromkeys(result.group for result in report.results))
    assert groups == [None, "country=DE", "country=CH", "country=AT", "country=(other)"]
    parts = {
        "country=CH": frame[frame["country"] == "CH"],
        "country=(other)": frame[frame["country"].isin(["FR", "LI"])],
    }
    for name, part in parts.items():
        found = of_group(report, name)
        expected = bootstrap_statistic(
            lambda y, p, w, weight: rce(y, p, weight=w * weight), part["y"], part["p"], part["w"], samples=50
        )
        assert (found["rce"].value, found["rce"].low, found["rce"].high) == pytest.approx(expected)
        assert found["auc"].value == pytest.approx(roc_auc(part["y"], part["p"], weight=part["w"]))
        assert found["rce"].n == len(part)
        assert found["rce"].protocol["prior"] == pytest.approx(np.average(part["y"], weights=part["w"]))
        assert found["rce"].protocol["segment"] == name
    rare = frame["country"].isin(["FR", "LI"]).sum()
    said = f"2 of 5 values, with fewer than 60 rows each, {rare} together"
    assert of_group(report, "country=(other)")["rce"].protocol["other"] == said
    assert "segment" not in of_group(report, None)["rce"].protocol
    plain = evaluate_ranker(Columns("p", weight="w"), frame, bootstrap=50)
    assert report.results[: len(plain.results)] == plain.results  # segments change nothing of the whole
    assert report.value("rce") == plain.value("rce")
    prior = found["rce"].protocol["prior"]
    assert f"- of these: ranker. prior: {prior:.4f}; segment: country=(other); other: {said}\n" in report.to_markdown()


def test_groups_are_resampled_whole_within_a_segment():
    frame = impressions()
    report = evaluate_ranker(Columns("p"), frame, group="user", segments="country", min_rows=1, bootstrap=50)
    part = frame[frame["country"] == "CH"]
    found = of_group(report, "country=CH")
    expected = bootstrap_statistic(rce, part["y"], part["p"], groups=part["user"], samples=50)
    assert (found["rce"].value, found["rce"].low, found["rce"].high) == pytest.approx(expected)
    assert found["group_auc"].value == pytest.approx(group_auc(part["y"], part["p"], part["user"]).mean())
    lists = Rankings.from_scores(part["y"], part["p"], part["user"])
    assert found["map"].value == pytest.approx(average_precision_at_k(lists).mean())
    assert {result.group for result in report.results} >= {"country=LI", "country=FR"}


def test_differences_come_by_segment_on_the_same_resamples():
    frame = impressions()
    report = compare_rankers(
        Columns("p"), Columns("other"), frame, segments=["country"], names=("new", "old"), bootstrap=50
    )
    part = frame[frame["country"] == "DE"]
    gain = bootstrap_statistic(
        lambda y, a, b, weight: rce(y, a, weight=weight) - rce(y, b, weight=weight),
        *(part["y"], part["p"], part["other"]),
        samples=50,
    )
    found = of_group(report, "country=DE")["rce"]
    assert (found.name, found.n) == ("new - old", len(part))
    assert (found.value, found.low, found.high) == pytest.approx(gain)
    assert (found.protocol["difference"], found.protocol["segment"]) == ("paired", "country=DE")


def test_each_label_has_its_segments():
    frame = impressions()
    ranker = Columns("p", "other", label=["y", "z"])
    report = evaluate_ranker(ranker, frame, segments=["country"], min_rows=200, bootstrap=0)
    part = frame[frame["country"] == "DE"]
    assert report.value("rce", group="z, country=DE") == pytest.approx(rce(part["z"], part["other"]))
    assert report.value("rce", group="y, country=DE") == pytest.approx(rce(part["y"], part["p"]))
    assert {result.group for result in report.results} == {
        *("y", "z"),
        *(f"{label}, country={value}" for label in "yz" for value in ("DE", "CH", "(other)")),
    }


def test_values_of_a_segment_may_be_missing_or_ranges():
    frame = impressions().assign(age=np.arange(800) % 40)
    frame["country"] = frame["country"].where(frame["country"] != "CH")
    frame["ages"] = pd.cut(frame["age"], [-1, 9, 40])
    report = evaluate_ranker(Columns("p"), frame, segments=["country", "ages"], min_rows=1, bootstrap=0)
    missing = frame[frame["country"].isna()]
    assert report.value("rce", group="country=(missing)") == pytest.approx(rce(missing["y"], missing["p"]))
    young = frame[frame["age"] <= 9]
    assert report.value("auc", group="ages=(-1, 9]") == pytest.approx(roc_auc(young["y"], young["p"]))


def test_a_value_needs_as_many_rows_as_are_asked_for():
    frame = pd.DataFrame({"c": [*"aaabbd"], "p": 0.5, "y": [0, 1, 0, 1, 0, 1]})
    for min_rows, expected in ((1, "abd"), (2, ["a", "b", "(other)"]), (3, ["a", "(other)"]), (4, ["(other)"])):
        report = evaluate_ranker(Columns("p"), frame, segments="c", min_rows=min_rows, bootstrap=0)
        groups = list(dict.fromkeys(result.group for result in report.results))
        assert groups == [None, *(f"c={value}" for value in expected)]


def test_a_segment_of_one_class_has_no_rce_and_says_why():
    frame = impressions()
    frame.loc[frame["country"] == "AT", "y"] = 0
    report = evaluate_ranker(Columns("p"), frame, segments=["country"], min_rows=1, bootstrap=10)
    found = of_group(report, "country=AT")
    assert np.isnan(found["rce"].value)
    assert np.isnan(found["auc"].value)
    part = frame[frame["country"] == "AT"]
    assert found["log_loss"].value == pytest.approx(log_loss(part["y"], part["p"]))
    assert found["rce"].protocol["labels"] == "all 0, so most metrics have no value"
    assert "labels" not in of_group(report, "country=DE")["rce"].protocol


def test_segments_that_are_not_there_are_refused():
    with pytest.raises(DataError, match="segments by column 'contry', which the frame lacks; did you mean 'country'"):
        evaluate_ranker(Columns("p"), impressions(), segments=["contry"])
    with pytest.raises(ConfigError, match="min_rows has to be at least 1, not 0"):
        evaluate_ranker(Columns("p"), impressions(), segments=["country"], min_rows=0)


def test_predictions_are_evaluated_as_their_ranker_is():
    frame = impressions()
    given = evaluate_predictions(
        frame, frame[["p", "other"]], label=["y", "z"], group="user", weight="w", segments="country", bootstrap=20
    )
    ranker = Columns("p", "other", label=["y", "z"], group="user", weight="w")
    assert given.results == evaluate_ranker(ranker, frame, segments="country", name="predictions", bootstrap=20).results


def test_logits_lose_nothing_to_clipping():
    frame = impressions()
    logits = np.log(frame["p"] / (1 - frame["p"]))
    by_logit = evaluate_predictions(frame, logits, label="y", kind="logits", bootstrap=20)
    by_probability = evaluate_predictions(frame, frame["p"], label="y", bootstrap=20)
    for one, two in zip(by_logit.results, by_probability.results, strict=True):
        assert (one.metric, one.value) == (two.metric, pytest.approx(two.value))
    sure = pd.DataFrame({"y": [1, 0]})
    report = evaluate_predictions(sure, [-100.0, 0.0], label="y", kind="logits", bootstrap=0)
    assert report.value("log_loss") == pytest.approx((100.0 + np.log(2.0)) / 2)


def test_scores_that_are_no_probabilities_only_rank():
    frame = impressions()
    report = evaluate_predictions(
        frame, 10 * frame["p"] - 3, label="y", kind="scores", group="user", segments="country", bootstrap=20
    )
    metrics = ("auc", "pr_auc", "group_auc", "group_auc[positives]", "group_auc[impressions]", "map")
    assert [result.metric for result in report.results if result.group is None] == list(metrics)
    assert report.value("auc") == pytest.approx(roc_auc(frame["y"], frame["p"]))
    assert report.value("pr_auc") == pytest.approx(pr_auc(frame["y"], frame["p"]))
    assert report.value("map") == evaluate_ranker(Columns("p"), frame, group="user", bootstrap=0).value("map")
    assert report.results[0].protocol["predictions"] == "scores that are no probabilities: their order alone counts"
    part = frame[frame["country"] == "DE"]
    assert report.value("auc", group="country=DE") == pytest.approx(roc_auc(part["y"], part["p"]))


def test_predictions_that_cannot_be_what_they_are_said_to_be_are_refused():
    frame = impressions()
    with pytest.raises(
        DataError, match=r"predictions have to be probabilities; 800 of 800 .* is 1\.\d+.*kind='logits'"
    ):
        evaluate_predictions(frame, frame["p"] + 1, label="y")
    with pytest.raises(ConfigError, match="unknown kind of predictions 'score'; did you mean 'scores'"):
        evaluate_predictions(frame, frame["p"], label="y", kind="score")
    with pytest.raises(DataError, match="800 of 800 are NaN"):
        evaluate_predictions(frame, np.full(800, np.nan), label="y", kind="scores")
    with pytest.raises(DataError, match=r"shape \(799,\) for 800 rows and the labels \['y'\]"):
        evaluate_predictions(frame, frame["p"].iloc[1:], label="y")


def test_a_conversion_given_a_click_is_the_ratio_among_the_clicked():
    rng = np.random.default_rng(1)
    ctr, cvr = rng.uniform(0.2, 0.8, (2, 4000))
    click = (rng.random(4000) < ctr).astype(int)
    frame = pd.DataFrame({"click": click, "conversion": click * (rng.random(4000) < cvr)})
    predicted = np.column_stack([ctr, ctr * cvr])  # as ESMM predicts
    clicked = frame[frame["click"] == 1]
    p = predicted[frame["click"] == 1]
    report = evaluate_predictions(clicked, p[:, 1] / p[:, 0], label="conversion", bootstrap=0)
    assert report.value("rce") == pytest.approx(rce(clicked["conversion"], cvr[click == 1]))
    assert report.value("calibration") == pytest.approx(1.0, abs=0.05)
    # The probability of the two together, on the same rows, is the wrong one.
    joint = evaluate_predictions(clicked, p[:, 1], label="conversion", bootstrap=0)
    assert joint.value("calibration") < 0.7


def test_the_calibration_error_is_that_of_tenths_of_the_rows():
    # Ten predictions of 10 rows each, 0.05, 0.15, ..., 0.95; of bin b, b rows are positive: off by 0.05 everywhere,
    # but for the last, of which none is.
    p = np.repeat(np.arange(10) / 10 + 0.05, 10)
    y = np.concatenate([np.repeat([1, 0], [b, 10 - b]) for b in range(9)] + [np.zeros(10, int)])
    frame = pd.DataFrame({"p": p, "y": y})
    report = evaluate_ranker(Columns("p"), frame, bootstrap=10)
    found = report.results[-1]
    assert (found.metric, found.low, found.high, found.n) == ("ece[10]", None, None, 100)
    assert found.value == pytest.approx((9 * 0.05 + 0.95) / 10)
    frame = impressions()
    bins = reliability_table(frame["y"], frame["p"], bins=10, by="count")
    expected = np.average((bins["predicted"] - bins["observed"]).abs(), weights=bins["n"])
    assert evaluate_ranker(Columns("p"), frame, bootstrap=0).value("ece[10]") == pytest.approx(expected)
    constant = evaluate_ranker(Columns("c"), frame.assign(c=0.25), bootstrap=0)
    assert constant.value("ece[10]") == pytest.approx(abs(0.25 - frame["y"].mean()))
    weighted = evaluate_ranker(Columns("c", weight="w"), frame.assign(c=0.25), bootstrap=0)
    assert weighted.value("ece[10]") == pytest.approx(abs(0.25 - np.average(frame["y"], weights=frame["w"])))


def test_a_value_of_all_rows_goes_before_those_of_segments():
    frame = impressions()
    report = evaluate_ranker(Columns("p"), frame, segments=["country"], bootstrap=0)
    assert report.value("rce") == pytest.approx(rce(frame["y"], frame["p"]))
    only_segments = Report([result for result in report.results if result.group], {})
    with pytest.raises(DataError, match=r"the report has [345] results for metric 'rce'"):
        only_segments.value("rce")


def test_a_segment_that_weighs_nothing_has_no_value():
    frame = impressions()
    frame.loc[frame["country"] == "CH", "w"] = 0.0
    report = evaluate_ranker(Columns("p", weight="w", group="user"), frame, segments="country", bootstrap=5)
    pooled = {name: of_group(report, "country=CH")[name] for name in ("rce", "log_loss", "auc")}
    assert all(np.isnan(result.value) and result.protocol["prior"] is None for result in pooled.values())
    assert '"prior": null' in report.to_json()
    assert of_group(report, "country=DE")["rce"].value == pytest.approx(
        rce(
            *(frame.loc[frame["country"] == "DE", name] for name in ("y", "p")),
            weight=frame["w"][frame["country"] == "DE"],
        )
    )


@pytest.mark.parametrize(
    ("values", "name"),
    [([1, "1"], "c=1"), ([None, "(missing)"], r"c=\(missing\)"), (["(other)", "rare"], r"c=\(other\)")],
)
def test_segments_that_would_share_a_name_are_refused(values, name):
    frame = impressions()
    column = pd.Series([values[at % 10 == 0] for at in range(len(frame))], dtype=object)
    frame["c"] = column
    with pytest.raises(DataError, match=f"segments by column 'c': two of its values would both be called '{name}'"):
        evaluate_ranker(Columns("p"), frame, segments="c", min_rows=100 if "rare" in values else 1, bootstrap=0)


def test_segments_are_of_single_values_and_each_column_counts_once():
    frame = impressions()
    with pytest.raises(DataError, match="segments by column 'l', whose values are no single ones"):
        evaluate_ranker(Columns("p"), frame.assign(l=[[1]] * len(frame)), segments="l", bootstrap=0)
    once, twice = (
        evaluate_ranker(Columns("p"), frame, segments=columns, bootstrap=0) for columns in ("country", ["country"] * 2)
    )
    assert len(once.results) == len(twice.results)


def test_rankers_of_other_groups_or_weights_are_not_compared():
    frame = impressions()
    with pytest.raises(DataError, match="the same weights: new has the weight 'w', old has None"):
        compare_rankers(Columns("p", weight="w"), Columns("other"), frame, names=("new", "old"))
    grouped = Columns("p", group="user")
    with pytest.raises(DataError, match="the same groups: a has the group 'user', b has None; name the column of both"):
        compare_rankers(grouped, Columns("other"), frame)
    named = compare_rankers(grouped, Columns("other"), frame, group="user", bootstrap=0)
    assert named.value("auc") == pytest.approx(roc_auc(frame["y"], frame["p"]) - roc_auc(frame["y"], frame["other"]))
    lacking = compare_rankers(Columns("p", weight="no"), Columns("other"), frame, bootstrap=0)  # no such column here
    assert lacking.value("rce") == pytest.approx(rce(frame["y"], frame["p"]) - rce(frame["y"], frame["other"]))


def test_scores_are_evaluated_and_compared_by_what_ranks():
    frame = impressions().assign(s=lambda rows: 10.0 * rows["other"] - 4.0)
    scores = Columns("s")
    scores.predicts = "scores"
    assert {result.metric for result in evaluate_ranker(scores, frame, bootstrap=0).results} == {"auc", "pr_auc"}
    for pair, sign in (((scores, Columns("p")), 1), ((Columns("p"), scores), -1)):
        found = compare_rankers(*pair, frame, bootstrap=5)
        assert [result.metric for result in found.results] == ["auc", "pr_auc"]
        difference = roc_auc(frame["y"], frame["other"]) - roc_auc(frame["y"], frame["p"])
        assert found.value("auc") == pytest.approx(sign * difference)
        assert "scores that are no probabilities" in found.results[0].protocol["predictions"]
