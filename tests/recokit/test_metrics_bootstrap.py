"""Bootstrap intervals against the normal approximation, resampling by copying, and arithmetic."""

import numpy as np
import pytest

from recokit.errors import ConfigError, DataError
from recokit.metrics import (
    bootstrap_mean,
    bootstrap_samples,
    bootstrap_statistic,
    interval,
    log_loss,
    paired_bootstrap,
    rce,
    roc_auc,
)


def test_the_interval_of_a_mean_is_that_of_the_central_limit_theorem():
    values = np.random.default_rng(0).exponential(size=2000)
    value, low, high = bootstrap_mean(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert value == values.mean()
    assert low == pytest.approx(value - half, rel=0.02)
    assert high == pytest.approx(value + half, rel=0.02)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_pairing_removes_what_is_hard_for_both():
    rng = np.random.default_rng(1)
    difficulty = rng.random(500)
    a, b = difficulty + 0.02 + 0.01 * rng.standard_normal(500), difficulty
    gain, low, high = paired_bootstrap(a, b)
    assert gain == pytest.approx((a - b).mean())
    assert 0.018 < low < gain < high < 0.022
    assert bootstrap_mean(a).low < bootstrap_mean(b).high  # their own intervals overlap


def test_multiplicities_as_weights_are_resampling_by_copying():
    rng = np.random.default_rng(2)
    labels, p = rng.integers(0, 2, 60), rng.random(60)
    weighted = bootstrap_samples(lambda w: log_loss(labels, p, weight=w), 60, samples=20, seed=5)
    draws = np.random.default_rng(5)
    copied = []
    for _ in range(20):
        rows = draws.integers(60, size=60)
        copied.append(log_loss(labels[rows], p[rows]))
    assert weighted == pytest.approx(copied)


def test_any_weighted_statistic_and_any_difference_of_two():
    rng = np.random.default_rng(3)
    p = rng.random(1000)
    labels, worse = rng.random(1000) < p, np.clip(p + 0.2 * rng.standard_normal(1000), 0.01, 0.99)
    single = bootstrap_statistic(roc_auc, labels, p, samples=200)
    assert single.value == roc_auc(labels, p)
    assert single.low < single.value < single.high
    gain = bootstrap_statistic(
        lambda y, a, b, weight: rce(y, a, weight=weight) - rce(y, b, weight=weight), labels, p, worse, samples=200
    )
    assert gain.value == pytest.approx(rce(labels, p) - rce(labels, worse))
    assert 0.0 < gain.low < gain.value < gain.high


def test_rows_of_one_group_do_not_count_as_many():
    values = np.random.default_rng(4).random(100)
    rows, groups = np.repeat(values, 25), np.repeat([f"user {u}" for u in range(100)], 25)

    def mean(column, weight):
        return float(np.average(column, weights=weight))

    by_group = bootstrap_statistic(mean, rows, groups=groups, samples=300)
    assert by_group == pytest.approx(bootstrap_statistic(mean, values, samples=300))
    by_row = bootstrap_statistic(mean, rows, samples=300)
    assert by_group.high - by_group.low == pytest.approx(5 * (by_row.high - by_row.low), rel=0.2)  # sqrt(25)


def test_resamples_without_a_value_are_left_out():
    found = bootstrap_statistic(roc_auc, [1, 0, 0], [0.9, 0.2, 0.1], samples=50)
    assert found == (1.0, 1.0, 1.0)
    assert np.isnan(bootstrap_statistic(roc_auc, [0, 0], [0.9, 0.2], samples=5)).all()


def test_percentiles_are_those_of_the_level():
    drawn = np.arange(101.0)
    assert interval(50.0, drawn, level=0.9) == pytest.approx((50.0, 5.0, 95.0))
    assert interval(50.0, drawn, level=0.5) == pytest.approx((50.0, 25.0, 75.0))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(6)
    covered = 0
    for trial in range(200):
        found = bootstrap_mean(rng.exponential(size=100), samples=200, seed=trial)
        covered += found.low <= 1.0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="at least one value"):
        bootstrap_statistic(roc_auc, [], [])
    with pytest.raises(DataError, match="1 NaN"):
        bootstrap_mean([0.5, np.nan])
    with pytest.raises(DataError, match="a has 2 and b 1"):
        paired_bootstrap([1.0, 2.0], [1.0])
    with pytest.raises(DataError, match=r"equal length, not of \[2, 1\]"):
        bootstrap_statistic(roc_auc, [1, 0], [0.5])
    with pytest.raises(DataError, match="groups have to be 2, none missing; 2 came, 1 missing"):
        bootstrap_statistic(roc_auc, [1, 0], [0.5, 0.4], groups=["x", None])
    with pytest.raises(ConfigError, match="samples has to be at least 1"):
        bootstrap_mean([1.0], samples=0)
    with pytest.raises(ConfigError, match="level has to lie between 0 and 1, not 95"):
        bootstrap_mean([1.0], level=95)
