"""Log loss, RCE and calibration against scikit-learn, TorchRec and arithmetic."""

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recokit.errors import ConfigError, DataError
from recokit.metrics import (
    calibration,
    cross_entropy,
    log_loss,
    normalized_entropy,
    nrce,
    prior_log_loss,
    rce,
    reliability_table,
    roc_auc,
    undo_downsampling,
)


def calibrated(seed, n=20_000):
    """Probabilities below one half, 7 % on average, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    p = np.minimum(1.0 / (1.0 + np.exp(3.0 - 1.2 * rng.standard_normal(n))), 0.49)
    return (rng.random(n) < p).astype(int), p


def entropy(share):
    return -share * log(share) - (1 - share) * log(1 - share)


def test_the_definition_as_arithmetic():
    labels, p = [1, 0, 0, 0], [0.8, 0.1, 0.3, 0.5]
    loss = -(log(0.8) + log(0.9) + log(0.7) + log(0.5)) / 4
    assert cross_entropy(labels, p) == pytest.approx([-log(0.8), -log(0.9), -log(0.7), -log(0.5)])
    assert log_loss(labels, p) == pytest.approx(loss)
    assert prior_log_loss(labels) == pytest.approx(entropy(1 / 4))
    assert normalized_entropy(labels, p) == pytest.approx(loss / entropy(1 / 4))
    assert rce(labels, p) == pytest.approx(100 * (entropy(1 / 4) - loss) / entropy(1 / 4))
    assert calibration(labels, p) == pytest.approx((0.8 + 0.1 + 0.3 + 0.5) / 1)


@pytest.mark.parametrize("weighted", [False, True])
def test_log_loss_agrees_with_scikit_learn(weighted):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, p = calibrated(seed=0, n=500)
    p[:2], labels[:2] = (0.0, 1.0), (1, 0)  # clipped by both at float64's eps
    weight = np.random.default_rng(1).random(500) if weighted else None
    assert log_loss(labels, p, weight=weight) == pytest.approx(metrics.log_loss(labels, p, sample_weight=weight))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_normalized_entropy_agrees_with_torchrec():
    torch = pytest.importorskip("torch")
    try:
        from torchrec.metrics.ne import compute_ne, get_ne_states
    except (ImportError, OSError) as error:  # its native part fails with OSError
        pytest.skip(f"torchrec cannot be imported: {error}")
    labels, p = calibrated(seed=2, n=500)
    weight = np.random.default_rng(3).random(500)
    rows = [torch.tensor(column, dtype=torch.float64)[None] for column in (labels, p, weight)]
    states = get_ne_states(*rows, eta=1e-12)
    theirs = compute_ne(*(states[k] for k in ("cross_entropy_sum", "weighted_num_samples", "pos_labels", "neg_labels")),
                        eta=1e-12)  # fmt: skip
    assert normalized_entropy(labels, p, weight=weight) == pytest.approx(float(theirs), abs=1e-9)


def test_the_prior_itself_has_rce_zero():
    labels, _ = calibrated(seed=4)
    assert rce(labels, np.full(len(labels), labels.mean())) == pytest.approx(0.0, abs=1e-10)


def test_a_half_at_three_percent_is_minus_414():
    labels = [1] * 30 + [0] * 970
    assert rce(labels, [0.5] * 1000) == pytest.approx(100 * (1 - log(2) / entropy(0.03)))
    assert round(rce(labels, [0.5] * 1000)) == -414


def test_one_zero_on_one_of_thirty_positives_costs_27_points():
    labels = np.array([1] * 30 + [0] * 970)
    good = np.where(labels == 1, 0.8, 0.006)
    one_zero = good.copy()
    one_zero[0] = 0.0
    eps = np.finfo(np.float64).eps
    lost = 100 * (-log(eps) + log(0.8)) / 1000 / entropy(0.03)
    assert rce(labels, good) - rce(labels, one_zero) == pytest.approx(lost)
    assert round(lost) == 27
    assert rce(labels, good) - rce(labels, one_zero, eps=1e-7) == pytest.approx(
        100 * (-log(1e-7) + log(0.8)) / 1000 / entropy(0.03)
    )


def test_doubling_calibrated_predictions_moves_rce_and_leaves_auc():
    labels, p = calibrated(seed=5)
    assert roc_auc(labels, 2 * p) == roc_auc(labels, p) > 0.7
    assert rce(labels, p) > 10.0
    assert rce(labels, 2 * p) < 0.0
    assert calibration(labels, p) == pytest.approx(1.0, abs=0.06)
    assert calibration(labels, 2 * p) == pytest.approx(2 * calibration(labels, p))


def test_nrce_does_not_see_a_constant_factor():
    labels, p = calibrated(seed=6)
    assert nrce(labels, p / 2) == pytest.approx(nrce(labels, p))
    assert nrce(labels, p) == pytest.approx(rce(labels, p * labels.mean() / p.mean()))


def test_another_prior_is_another_reference():
    labels, p = calibrated(seed=7)
    share = labels.mean()
    reference = -share * log(0.2) - (1 - share) * log(0.8)
    assert rce(labels, p, prior=0.2) == pytest.approx(100 * (1 - log_loss(labels, p) / reference))
    assert rce(labels, p, prior=0.2) > rce(labels, p)
    with pytest.raises(ConfigError, match="prior has to lie between 0 and 1, not 1"):
        rce(labels, p, prior=1)


def test_rce_of_batches_does_not_average_to_rce_of_all():
    labels, p = calibrated(seed=8)
    order = np.argsort(p)  # batches that differ, as days do
    batches = np.array_split(order, 10)
    mean = np.mean([rce(labels[rows], p[rows]) for rows in batches])
    assert mean < rce(labels, p) - 5.0


def test_logits_give_the_same_and_do_not_saturate():
    labels, p = calibrated(seed=9)
    z = np.log(p / (1 - p))
    for metric in (log_loss, normalized_entropy, rce, nrce, calibration):
        assert metric(labels, z, logits=True) == pytest.approx(metric(labels, p), rel=1e-9)
    assert cross_entropy([1, 0, 1, 0], [-1000.0, 1000.0, np.inf, -np.inf], logits=True).tolist() == [1000, 1000, 0, 0]


def test_float32_predictions_are_scored_in_float64():
    p = np.array([0.1, 1 - 1e-7], dtype=np.float32)
    assert log_loss([1, 0], p) == pytest.approx(-(log(p[0]) + log(1 - np.float64(p[1]))) / 2)
    assert log_loss([1, 1], np.zeros(2, dtype=np.float32)) == pytest.approx(-log(np.finfo(np.float64).eps))


def test_one_class_only_is_nan_and_so_is_nothing():
    for metric in (normalized_entropy, rce, nrce):
        assert np.isnan(metric([1, 1], [0.2, 0.9]))
        assert np.isnan(metric([0, 0], [0.2, 0.9]))
        assert np.isnan(metric([], []))
        assert np.isnan(metric([1, 0], [0.2, 0.9], weight=[0.0, 1.0]))
    assert np.isnan(calibration([0, 0], [0.2, 0.9]))
    assert calibration([1, 1], [0.2, 0.9]) == pytest.approx(1.1 / 2)
    assert np.isnan(log_loss([], []))
    assert prior_log_loss([1, 1]) == 0.0


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 1), st.floats(0.01, 0.99), st.integers(0, 3)), min_size=1, max_size=20))
def test_a_whole_weight_is_a_repetition(rows):
    labels, p, times = (np.array(column) for column in zip(*rows, strict=True))
    for metric in (log_loss, rce, nrce, calibration):
        repeated = metric(np.repeat(labels, times), np.repeat(p, times))
        assert metric(labels, p, weight=times) == pytest.approx(repeated, rel=1e-9, abs=1e-9, nan_ok=True)


def test_reliability_by_width():
    table = reliability_table([0, 1, 0, 1, 1], [0.0, 0.1, 0.3, 0.5, 1.0], bins=2)
    assert table.columns.tolist() == ["low", "high", "n", "predicted", "observed", "calibration"]
    assert table[["low", "high", "n"]].to_numpy().tolist() == [[0.0, 0.5, 3], [0.5, 1.0, 2]]
    assert table["predicted"].tolist() == pytest.approx([(0.0 + 0.1 + 0.3) / 3, (0.5 + 1.0) / 2])
    assert table["observed"].tolist() == pytest.approx([1 / 3, 1.0])
    assert table["calibration"].tolist() == pytest.approx([0.4 / 1, 1.5 / 2])


def test_reliability_by_count_has_equal_bins_and_recovers_calibration():
    labels, p = calibrated(seed=10)
    table = reliability_table(labels, p, bins=4, by="count")
    assert table["n"].tolist() == [5000] * 4
    assert table["observed"].tolist() == pytest.approx(table["predicted"].tolist(), abs=0.02)
    constant = reliability_table([0, 1], [0.25, 0.25], bins=4, by="count")
    assert constant[["n", "predicted", "observed"]].to_numpy().tolist() == [[2, 0.25, 0.5]]


def test_undoing_downsampling_restores_calibration():
    labels, p = calibrated(seed=11)
    kept = 0.1
    inflated = p / (p + (1 - p) * kept)  # what a model trained on a tenth of the negatives predicts
    assert undo_downsampling(inflated, kept) == pytest.approx(p)
    assert calibration(labels, undo_downsampling(inflated, kept)) == pytest.approx(calibration(labels, p))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [0.5, 0.5]), "labels have to be 0 or 1"),
        (([1, np.nan], [0.5, 0.5]), "labels have to be 0 or 1"),
        (([1, 0], [0.5, 1.5]), r"1 of 2 lie outside \[0, 1\], the first is 1\.5"),
        (([1, 0], [0.5, np.nan]), "1 of 2 are NaN"),
        (([1, 0], [0.5]), r"of length 2, not of shape \(1,\)"),
        ((["a", "b"], [0.5, 0.5]), "labels have to be numbers"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        rce(*arguments)
    with pytest.raises(DataError, match="weights have to be finite and not negative"):
        rce([1, 0], [0.5, 0.5], weight=[1.0, -1.0])
