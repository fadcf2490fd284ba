"""ROC-AUC and PR-AUC against scikit-learn, TorchRec and arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recokit.errors import ConfigError, DataError
from recokit.metrics import Rankings, ScoreOrder, average_precision_at_k, group_auc, pr_auc, roc_auc


def sample(seed, n=400, levels=20):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, n) / levels
    labels = (rng.random(n) < 0.1 + 0.5 * scores).astype(int)
    return labels, scores, rng.integers(0, 4, n).astype(float), rng.integers(0, 40, n)


@pytest.mark.parametrize("weighted", [False, True])
def test_pooled_areas_agree_with_scikit_learn(weighted):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, scores, weight, _ = sample(seed=0)
    w = weight if weighted else None
    assert roc_auc(labels, scores, weight=w) == pytest.approx(
        metrics.roc_auc_score(labels, scores, sample_weight=w), abs=1e-12
    )
    assert pr_auc(labels, scores, weight=w) == pytest.approx(
        metrics.average_precision_score(labels, scores, sample_weight=w), abs=1e-12
    )


def test_a_tie_counts_half():
    # Of the 2 x 2 pairs two are won, one is lost, one is tied.
    assert roc_auc([1, 1, 0, 0], [0.9, 0.5, 0.5, 0.7]) == (2 + 0.5) / 4
    assert roc_auc([1, 0, 0], [0.3, 0.3, 0.3]) == 0.5


def test_pr_auc_takes_a_tie_as_one_threshold_and_map_takes_its_expectation():
    labels, scores = [1, 0, 0, 0], [0.5] * 4
    assert pr_auc(labels, scores) == 1 / 4
    expected = average_precision_at_k(Rankings.from_scores(labels, scores))
    assert expected == pytest.approx([(1 + 1 / 2 + 1 / 3 + 1 / 4) / 4])


def test_one_class_has_no_area():
    for area in (roc_auc, pr_auc):
        assert np.isnan(area([1, 1], [0.2, 0.4]))
        assert np.isnan(area([0, 0], [0.2, 0.4]))
        assert np.isnan(area([], []))
        assert np.isnan(area([1, 0], [0.2, 0.4], weight=[1.0, 0.0]))


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=20))
def test_a_whole_weight_is_a_repetition(rows):
    labels, scores, times = (np.array(column) for column in zip(*rows, strict=True))
    for area in (roc_auc, pr_auc):
        repeated = area(np.repeat(labels, times), np.repeat(scores, times))
        assert area(labels, scores, weight=times) == pytest.approx(repeated, abs=1e-12, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 1), st.integers(-30, 30)), min_size=2, max_size=30))
def test_roc_auc_sees_only_the_order_of_scores(rows):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    area = roc_auc(labels, scores)
    assert roc_auc(labels, np.exp(scores / 10.0)) == pytest.approx(area, nan_ok=True)
    assert roc_auc(labels, -scores) == pytest.approx(1.0 - area, nan_ok=True)


def test_sorting_once_serves_every_weighting():
    labels, scores, weight, _ = sample(seed=1)
    order = ScoreOrder.of(labels, scores)
    assert order.areas(weight) == (roc_auc(labels, scores, weight=weight), pr_auc(labels, scores, weight=weight))
    assert order.areas(np.ones(400)) == (roc_auc(labels, scores), pr_auc(labels, scores))


def test_group_auc_is_the_auc_of_each_group_and_its_three_means():
    metrics = pytest.importorskip("sklearn.metrics")
    labels, scores, _, groups = sample(seed=2)
    labels[groups < 3] = 0  # three groups of one class
    ours = group_auc(labels, scores, groups)
    both = [g for g in range(40) if len(set(labels[groups == g])) == 2]
    theirs = {g: metrics.roc_auc_score(labels[groups == g], scores[groups == g]) for g in both}
    np.testing.assert_allclose(ours.values, [theirs[g] for g in ours.groups], atol=1e-12)
    assert ours.skipped == 40 - len(both) >= 3
    area, positives = np.array(list(theirs.values())), np.array([labels[groups == g].sum() for g in both])
    impressions = np.array([(groups == g).sum() for g in both])
    assert ours.mean() == pytest.approx(area.mean())
    assert ours.mean("positives") == pytest.approx((area * positives).sum() / positives.sum())
    assert ours.mean("impressions") == pytest.approx((area * impressions).sum() / impressions.sum())


def test_a_group_of_equal_predictions_counts_half():
    labels, scores, groups = [1, 0, 1, 0], [0.9, 0.1, 0.5, 0.5], ["a", "a", "b", "b"]
    assert group_auc(labels, scores, groups).values.tolist() == [1.0, 0.5]
    assert group_auc(labels, [0.5] * 4, groups).mean() == 0.5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_group_auc_agrees_with_torchrec_where_nothing_is_tied():
    torch = pytest.importorskip("torch")
    try:
        from torchrec.metrics.gauc import compute_gauc_3d
    except (ImportError, OSError) as error:  # its native part fails with OSError
        pytest.skip(f"torchrec cannot be imported: {error}")
    rng = np.random.default_rng(3)
    scores, labels = rng.permutation(60).reshape(1, 6, 10) / 60, rng.permutation(60).reshape(1, 6, 10) % 3 == 0
    labels[0, 2] = False
    theirs = compute_gauc_3d(torch.tensor(scores), torch.tensor(labels.astype(float)), torch.ones(1, 6, 10))
    ours = group_auc(labels.ravel(), scores.ravel(), np.repeat(np.arange(6), 10))
    assert len(ours.values) == int(theirs["num_samples"]) == 5
    assert ours.values.sum() == pytest.approx(float(theirs["auc_sum"]), abs=1e-6)


def test_groups_of_strings_and_no_groups_at_all():
    assert group_auc([1, 0], [0.9, 0.1], ["x", "x"]).groups.tolist() == ["x"]
    assert np.isnan(group_auc([1, 1], [0.9, 0.1], ["x", "x"]).mean())
    with pytest.raises(DataError, match="groups have 1 missing"):
        group_auc([1, 0], [0.9, 0.1], ["x", None])
    with pytest.raises(ConfigError, match="did you mean 'positives'"):
        group_auc([1, 0], [0.9, 0.1], ["x", "x"]).mean("positive")
