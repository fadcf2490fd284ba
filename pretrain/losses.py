"""Losses: the scores of positives and of their negatives to one number and its gradient.

All are sums over the positives of a batch, each times its weight, so that a batch counts by what it holds.
A negative with the score -inf (an accidental positive) adds exactly nothing, neither to the value nor to the gradient.
Shapes: B positives, N negatives of each.
"""

__all__ = ["LOSSES", "Loss"]

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Loss(Protocol):
    """Value and gradient of one loss on one corrupted side."""

    def __call__(self, positive: Tensor, negative: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the value (), the gradient of ``positive`` (B,) and that of ``negative`` (B, N).

        Args:
            positive: Scores (B,).
            negative: Scores (B, N), -inf where a negative does not count; may be overwritten.
            weight: Weight (B,) of each positive.
        """
        ...


def _logistic(positive: Tensor, negative: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-log σ(s_i) - Σ_j log σ(-s_ij): TwHIN Eq. 2, the negatives summed."""
    value = functional.softplus(-positive) + functional.softplus(negative).sum(1)
    grad_negative = negative.sigmoid_().mul_(weight[:, None])
    return (value * weight).sum(), -torch.sigmoid(-positive) * weight, grad_negative


def _softmax(positive: Tensor, negative: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-s_i + log(e^{s_i} + Σ_j e^{s_ij}): sampled softmax, the positive among its own candidates."""
    top = torch.maximum(positive, negative.amax(1)) if negative.shape[1] else positive  # (B,)
    exponent = negative.sub_(top[:, None]).exp_()  # (B, N)
    own = torch.exp(positive - top)
    total = own + exponent.sum(1)
    value = total.log() + (top - positive)  # in this order: large scores cancel before a small sum is added
    scale = weight / total
    return (value * weight).sum(), own * scale - weight, exponent.mul_(scale[:, None])


LOSSES: Mapping[str, Loss] = {"logistic": _logistic, "softmax": _softmax}
