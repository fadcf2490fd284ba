"""The losses' values and slopes, spelled out as arithmetic."""

import math

import pytest
import torch

from pretrain.comparators import COMPARATORS
from pretrain.config import TrainConfig
from pretrain.losses import LOSSES, make_loss
from pretrain.movers import forms
from pretrain.step import Batch, Sampled, Step

LN2, LN3 = math.log(2), math.log(3)


def apply(name, positive, negative, *, masked=None, weight=None, **config):
    """The loss of scores given as lists: value, slopes of the positives, slopes of the negatives, all as lists."""
    positive = torch.tensor(positive, dtype=torch.float64)
    negative = torch.tensor(negative, dtype=torch.float64).reshape(len(positive), -1)
    if masked is not None:
        negative[torch.tensor(masked)] = -math.inf
    weight = torch.ones_like(positive) if weight is None else torch.tensor(weight, dtype=torch.float64)
    values, grad_positive, grad_negative = make_loss(TrainConfig(loss=name, **config))(positive, negative, weight)
    assert values.shape == positive.shape
    return values.sum().item(), grad_positive.tolist(), grad_negative.tolist()


def test_these_are_all():
    assert set(LOSSES) == {"logistic", "softmax", "ranking"}


def test_logistic_of_three_zero_scores_with_two_negatives_each():
    value, positive, negative = apply("logistic", [0.0] * 3, [[0.0, 0.0]] * 3)
    assert value == pytest.approx(3 * (LN2 + 2 * LN2))  # the negatives are summed, not averaged
    assert positive == pytest.approx([-1 / 2] * 3)
    assert negative == [[1 / 2, 1 / 2]] * 3


def test_softmax_of_three_zero_scores_with_two_negatives_each():
    value, positive, negative = apply("softmax", [0.0] * 3, [[0.0, 0.0]] * 3)
    assert value == pytest.approx(3 * LN3)  # the positive is one of its own three candidates
    assert positive == pytest.approx([1 / 3 - 1] * 3)
    assert negative == [pytest.approx([1 / 3, 1 / 3])] * 3


def test_logistic_of_uneven_scores():
    value, positive, negative = apply("logistic", [LN3], [[-LN3, LN2]])
    # sigmoid(ln 3) = 3/4, sigmoid(-(-ln 3)) = 3/4, sigmoid(-ln 2) = 1/3
    assert value == pytest.approx(-math.log(3 / 4) - math.log(3 / 4) - math.log(1 / 3))
    assert positive == pytest.approx([3 / 4 - 1])
    assert negative == [pytest.approx([1 / 4, 2 / 3])]


def test_softmax_of_uneven_scores():
    value, positive, negative = apply("softmax", [LN2], [[LN3, 0.0]])
    assert value == pytest.approx(-math.log(2 / (2 + 3 + 1)))
    assert positive == pytest.approx([2 / 6 - 1])
    assert negative == [pytest.approx([3 / 6, 1 / 6])]


def test_ranking_counts_what_is_closer_than_the_margin():
    value, positive, negative = apply("ranking", [2.0, 0.0], [[1.5, 0.5, 3.0], [-1.0, -0.5, -2.0]], margin=1.0)
    # 1 - 2 + 1.5, nothing, 1 - 2 + 3;  a tie at the margin is no violation, 1 - 0 - 0.5, nothing
    assert value == pytest.approx((0.5 + 0 + 2) + (0 + 0.5 + 0))
    assert positive == [-2.0, -1.0]
    assert negative == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize("margin", [0.0, 0.1, 2.5])
def test_the_margin_is_what_three_zero_scores_cost_each_negative(margin):
    value, positive, _ = apply("ranking", [0.0] * 3, [[0.0, 0.0]] * 3, margin=margin)
    assert value == pytest.approx(3 * 2 * margin)
    assert positive == [-2.0 if margin else 0.0] * 3
    # The default is 1.
    assert apply("ranking", [0.0] * 3, [[0.0, 0.0]] * 3)[0] == pytest.approx(3 * 2 * 1.0)


def test_the_offset_moves_positives_and_negatives_alike():
    value, positive, negative = apply("logistic", [0.0], [[-2 * LN3, 0.0]], score_offset=LN3)
    # as if the scores were ln 3, -ln 3 and ln 3
    assert value == pytest.approx(-math.log(3 / 4) - math.log(3 / 4) - math.log(1 / 4))
    assert positive == pytest.approx([-1 / 4])
    assert negative == [pytest.approx([1 / 4, 3 / 4])]


def test_the_mean_is_over_the_negatives_that_count():
    masked = [[False, False, False], [True, False, False], [True, True, True]]
    value, positive, negative = apply(
        "logistic", [0.0] * 3, [[0.0] * 3] * 3, masked=masked, negative_reduction="mean"
    )  # fmt: skip
    assert value == pytest.approx((LN2 + 3 * LN2 / 3) + (LN2 + 2 * LN2 / 2) + LN2)
    assert positive == pytest.approx([-1 / 2] * 3)
    assert negative == [pytest.approx(row) for row in ([1 / 6] * 3, [0.0, 1 / 4, 1 / 4], [0.0] * 3)]
    value, positive, negative = apply(
        "ranking", [0.0] * 3, [[0.0] * 3] * 3, masked=masked, negative_reduction="mean", margin=0.5
    )  # fmt: skip
    assert value == pytest.approx(0.5 + 0.5 + 0.0)
    assert positive == pytest.approx([-1.0, -1.0, 0.0])
    assert negative == [pytest.approx(row) for row in ([1 / 3] * 3, [0.0, 1 / 2, 1 / 2], [0.0] * 3)]


def test_adversarial_weights_are_a_softmax_that_knows_no_slope():
    scores = [[LN2, 0.0, 50.0]]  # the third does not count: twice the weight of 0 is on ln 2
    masked = [[False, False, True]]
    value, positive, negative = apply("ranking", [0.0], scores, masked=masked, adversarial=1.0)
    assert value == pytest.approx(2 / 3 * (1 + LN2) + 1 / 3 * 1)
    assert positive == pytest.approx([-1.0])
    assert negative == [pytest.approx([2 / 3, 1 / 3, 0.0])]
    value, positive, negative = apply("logistic", [0.0], scores, masked=masked, adversarial=2.0)
    assert value == pytest.approx(LN2 + 4 / 5 * LN3 + 1 / 5 * LN2)  # log(1 + e^ln 2) = ln 3
    assert negative == [pytest.approx([4 / 5 * 2 / 3, 1 / 5 * 1 / 2, 0.0])]
    assert positive == pytest.approx([-1 / 2])


def test_adversarial_weights_replace_the_reduction_and_small_ones_are_the_mean():
    scores = [0.5, -1.0], [[0.3, 2.0], [1.0, -4.0]]
    for name in ("logistic", "ranking"):
        both = [apply(name, *scores, adversarial=1.5, negative_reduction=reduction) for reduction in ("sum", "mean")]
        assert both[0] == both[1]
        small, mean = apply(name, *scores, adversarial=1e-9), apply(name, *scores, negative_reduction="mean")
        assert small[0] == pytest.approx(mean[0], rel=1e-6)
        assert small[1] == pytest.approx(mean[1], rel=1e-6)


@pytest.mark.parametrize(("name", "expected"), [("logistic", LN2), ("ranking", 0.0)])
def test_adversarial_weights_of_no_negative_are_no_nan(name, expected):
    value, positive, negative = apply(name, [0.0], [[9.0, 9.0]], masked=[[True, True]], adversarial=1.0)
    assert value == pytest.approx(expected)
    assert positive == pytest.approx([-1 / 2 if expected else 0.0])
    assert negative == [[0.0, 0.0]]


VARIANTS = [
    ("softmax", {}),
    ("logistic", {}),
    ("ranking", {"margin": 0.3}),
    ("logistic", {"negative_reduction": "mean"}),
    ("ranking", {"negative_reduction": "mean"}),
    ("logistic", {"adversarial": 0.5, "score_offset": 1.0}),
    ("ranking", {"adversarial": 0.5}),
]


@pytest.mark.parametrize(("name", "config"), VARIANTS)
@pytest.mark.parametrize("score", [-1e4, 0.0, 3.0, 1e4])
def test_a_masked_negative_adds_exactly_nothing_whatever_its_score(name, config, score):
    without = apply(name, [0.5, -1.0], [[0.3], [2.0]], **config)
    value, positive, negative = apply(
        name, [0.5, -1.0], [[0.3, score], [score, 2.0]], masked=[[False, True], [True, False]], **config
    )
    assert (value, positive) == without[:2]
    assert negative == [[without[2][0][0], 0.0], [0.0, without[2][1][0]]]


@pytest.mark.parametrize(("name", "expected"), [("logistic", LN2 + LN2), ("softmax", 0.0), ("ranking", 0.0)])
def test_positives_whose_negatives_are_all_masked(name, expected):
    value, _, negative = apply(name, [0.0, 0.0], [[9.0, 9.0]] * 2, masked=[[True, True]] * 2)
    assert value == pytest.approx(expected)
    assert negative == [[0.0, 0.0]] * 2


@pytest.mark.parametrize(("name", "each"), [("logistic", 3 * LN2), ("softmax", LN3), ("ranking", 2 * 1.0)])
def test_weights_multiply_value_and_slopes_of_their_own_positive(name, each):
    value, positive, negative = apply(name, [0.0] * 3, [[0.0, 0.0]] * 3, weight=[2.0, 0.0, 0.5])
    _, plain_positive, plain_negative = apply(name, [0.0], [[0.0, 0.0]])
    assert value == pytest.approx(2.5 * each)
    assert positive == pytest.approx([weight * plain_positive[0] for weight in (2.0, 0.0, 0.5)])
    assert negative[0] == pytest.approx([2.0 * slope for slope in plain_negative[0]])
    assert negative[1] == [0.0, 0.0]


@pytest.mark.parametrize(("name", "config"), VARIANTS)
def test_equal_scores_count_alike_in_any_order(name, config):
    value, positive, _ = apply(name, [1.0, 2.0], [[0.5, -0.5, 1.5], [0.0, 3.0, 1.0]], **config)
    again, again_positive, _ = apply(name, [2.0, 1.0], [[1.0, 0.0, 3.0], [-0.5, 1.5, 0.5]], **config)
    assert again == pytest.approx(value)
    assert again_positive == pytest.approx(positive[::-1])


def make_step(comparator, loss, temperature=1.0):
    both = forms("identity", "source", comparator)
    return Step(both["target"], both["source"], COMPARATORS[comparator], loss, temperature)


def zero_step(loss, num_negative_sources, num_negative_targets, **config):
    """The loss of three edges whose scores, and those of all their negatives, are zero."""
    step = make_step("dot", make_loss(TrainConfig(loss=loss, **config)))
    own, other = torch.zeros(3, dtype=torch.int64), torch.ones(9, dtype=torch.int64)
    sides = [Sampled(other[:count]) if count else None for count in (num_negative_sources, num_negative_targets)]
    batch = Batch(own, own, own, torch.ones(3), *sides)
    losses = step(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(1, 0), batch).losses
    assert losses.tolist() == [losses[0].item()] * 3
    return losses.sum().item()


@pytest.mark.parametrize(
    ("num_sources", "num_targets", "logistic", "softmax", "ranking"),
    [
        (2, 2, 3 * (2 * LN2 + 4 * LN2), 3 * 2 * LN3, 3 * 4),
        (0, 2, 3 * (LN2 + 2 * LN2), 3 * LN3, 3 * 2),  # one-sided: every positive counts once
        (2, 0, 3 * (LN2 + 2 * LN2), 3 * LN3, 3 * 2),
        (1, 3, 3 * (2 * LN2 + 4 * LN2), 3 * (LN2 + math.log(4)), 3 * 4),
        (0, 0, 0.0, 0.0, 0.0),
    ],
)
def test_the_sides_of_a_step_are_added(num_sources, num_targets, logistic, softmax, ranking):
    sides, one = (num_sources, num_targets), (num_sources > 0) + (num_targets > 0)
    assert zero_step("logistic", *sides) == pytest.approx(logistic)
    assert zero_step("softmax", *sides) == pytest.approx(softmax)
    assert zero_step("ranking", *sides) == pytest.approx(ranking)
    # The mean counts as one negative a side: three positives and three negatives at ln 2 each.
    assert zero_step("logistic", *sides, negative_reduction="mean") == pytest.approx(one * (3 * LN2 + 3 * LN2))
    assert zero_step("logistic", *sides, adversarial=1.0) == pytest.approx(one * (3 * LN2 + 3 * LN2))
    assert zero_step("ranking", *sides, negative_reduction="mean", margin=0.25) == pytest.approx(one * 3 * 0.25)


@pytest.mark.parametrize(("name", "config"), VARIANTS)
def test_the_temperature_divides_every_score(name, config):
    """Margin, offset and the weights of adversarial negatives are in units of what is left."""
    sources, targets = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[1.0], [-3.0]], dtype=torch.float64)
    row = torch.zeros(1, dtype=torch.int64)
    batch = Batch(row, row, row, torch.ones(1, dtype=torch.float64), None, Sampled(row + 1))
    step = make_step("dot", make_loss(TrainConfig(loss=name, **config)), temperature=0.25)
    loss = step(sources, targets, torch.zeros(1, 0, dtype=torch.float64), batch).losses.item()
    assert loss == apply(name, [2.0 / 0.25], [[-6.0 / 0.25]], **config)[0]


def test_what_is_drawn_often_is_corrected_down():
    """Three zero scores; a negative expected twice a draw counts half, one expected in half the draws counts twice."""
    row = torch.zeros(3, dtype=torch.int64)
    correction = torch.tensor([2.0, 0.5]).log()
    batch = Batch(row, row, row, torch.ones(3), None, Sampled(torch.tensor([1, 1]), correction))
    step = make_step("dot", make_loss(TrainConfig(loss="softmax")), temperature=0.1)
    losses = step(torch.zeros(1, 4), torch.zeros(2, 4), torch.zeros(1, 0), batch).losses
    assert losses.tolist() == pytest.approx([math.log(1 + 1 / 2 + 1 / 0.5)] * 3)
