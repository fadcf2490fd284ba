"""The losses' values and slopes, spelled out as arithmetic."""

import math

import pytest
import torch

from pretrain.comparators import COMPARATORS
from pretrain.losses import LOSSES
from pretrain.operators import OPERATORS
from pretrain.step import Batch, Step

LN2, LN3 = math.log(2), math.log(3)


def apply(name, positive, negative, *, masked=None, weight=None):
    """The loss of scores given as lists: value, slopes of the positives, slopes of the negatives, all as lists."""
    positive = torch.tensor(positive, dtype=torch.float64)
    negative = torch.tensor(negative, dtype=torch.float64).reshape(len(positive), -1)
    if masked is not None:
        negative[torch.tensor(masked)] = -math.inf
    weight = torch.ones_like(positive) if weight is None else torch.tensor(weight, dtype=torch.float64)
    value, grad_positive, grad_negative = LOSSES[name](positive, negative, weight)
    return value.item(), grad_positive.tolist(), grad_negative.tolist()


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


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("score", [-1e4, 0.0, 3.0, 1e4])
def test_a_masked_negative_adds_exactly_nothing_whatever_its_score(name, score):
    without = apply(name, [0.5, -1.0], [[0.3], [2.0]])
    value, positive, negative = apply(
        name, [0.5, -1.0], [[0.3, score], [score, 2.0]], masked=[[False, True], [True, False]]
    )
    assert (value, positive) == without[:2]
    assert negative == [[without[2][0][0], 0.0], [0.0, without[2][1][0]]]


@pytest.mark.parametrize(("name", "expected"), [("logistic", LN2 + LN2), ("softmax", 0.0)])
def test_positives_whose_negatives_are_all_masked(name, expected):
    value, _, negative = apply(name, [0.0, 0.0], [[9.0, 9.0]] * 2, masked=[[True, True]] * 2)
    assert value == pytest.approx(expected)
    assert negative == [[0.0, 0.0]] * 2


@pytest.mark.parametrize(("name", "each"), [("logistic", 3 * LN2), ("softmax", LN3)])
def test_weights_multiply_value_and_slopes_of_their_own_positive(name, each):
    value, positive, negative = apply(name, [0.0] * 3, [[0.0, 0.0]] * 3, weight=[2.0, 0.0, 0.5])
    _, plain_positive, plain_negative = apply(name, [0.0], [[0.0, 0.0]])
    assert value == pytest.approx(2.5 * each)
    assert positive == pytest.approx([weight * plain_positive[0] for weight in (2.0, 0.0, 0.5)])
    assert negative[0] == pytest.approx([2.0 * slope for slope in plain_negative[0]])
    assert negative[1] == [0.0, 0.0]


@pytest.mark.parametrize("name", LOSSES)
def test_equal_scores_count_alike_in_any_order(name):
    value, positive, _ = apply(name, [1.0, 2.0], [[0.5, -0.5, 1.5], [0.0, 3.0, 1.0]])
    again, again_positive, _ = apply(name, [2.0, 1.0], [[1.0, 0.0, 3.0], [-0.5, 1.5, 0.5]])
    assert again == pytest.approx(value)
    assert again_positive == pytest.approx(positive[::-1])


def zero_step(loss, num_negative_sources, num_negative_targets):
    """The loss of three edges whose scores, and those of all their negatives, are zero."""
    step = Step(OPERATORS["identity"], COMPARATORS["dot"], LOSSES[loss])
    own, other = torch.zeros(3, dtype=torch.int64), torch.ones(9, dtype=torch.int64)
    batch = Batch(own, own, torch.ones(3), other[:num_negative_sources], other[:num_negative_targets])
    return step(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(0), batch).loss.item()


@pytest.mark.parametrize(
    ("num_sources", "num_targets", "logistic", "softmax"),
    [
        (2, 2, 3 * (2 * LN2 + 4 * LN2), 3 * 2 * LN3),
        (0, 2, 3 * (LN2 + 2 * LN2), 3 * LN3),  # one-sided: every positive counts once
        (2, 0, 3 * (LN2 + 2 * LN2), 3 * LN3),
        (1, 3, 3 * (2 * LN2 + 4 * LN2), 3 * (LN2 + math.log(4))),
        (0, 0, 0.0, 0.0),
    ],
)
def test_the_sides_of_a_step_are_added(num_sources, num_targets, logistic, softmax):
    assert zero_step("logistic", num_sources, num_targets) == pytest.approx(logistic)
    assert zero_step("softmax", num_sources, num_targets) == pytest.approx(softmax)


@pytest.mark.parametrize("name", LOSSES)
def test_the_temperature_divides_every_score(name):
    sources, targets = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[1.0], [-3.0]], dtype=torch.float64)
    row = torch.zeros(1, dtype=torch.int64)
    batch = Batch(row, row, torch.ones(1, dtype=torch.float64), row[:0], row + 1)
    step = Step(OPERATORS["identity"], COMPARATORS["dot"], LOSSES[name], 0.25)
    assert step(sources, targets, torch.zeros(0), batch).loss.item() == apply(name, [2.0 / 0.25], [[-6.0 / 0.25]])[0]
