"""Losses: the scores of positives and of their negatives to one number each and its gradient.

Every positive's loss is multiplied by its weight; a batch's loss is the sum, so that a batch counts by what it holds.
A negative with the score -inf (an accidental positive) adds exactly nothing, neither to the value nor to the gradient.
Shapes: B positives, N negatives of each.
"""

__all__ = ["LOSSES", "Loss", "make_loss"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.config import TrainConfig


class Loss(Protocol):
    """Value and gradient of one loss on one corrupted side.

    ``sees_offsets`` says whether a number added to all scores of a positive changes its loss. Where it does not, the
    gradient of such a number is 0, which a sum of rounded terms is not.
    """

    @property
    def sees_offsets(self) -> bool:
        """See the class."""
        ...

    def __call__(self, positive: Tensor, negative: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the values (B,), the gradient of ``positive`` (B,) and that of ``negative`` (B, N), of their sum.

        Args:
            positive: Scores (B,).
            negative: Scores (B, N), -inf where a negative does not count; may be overwritten.
            weight: Weight (B,) of each positive.
        """
        ...


@dataclass(frozen=True)
class _Weighing:
    """What each negative counts beside its positive.

    Args:
        reduction: ``"sum"`` counts every negative once; ``"mean"`` divides by how many there are.
        adversarial: Above 0: by the softmax of this times its score, taken as a constant (Sun et al. 2019, Eq. 5).
    """

    reduction: Literal["sum", "mean"] = "sum"
    adversarial: float = 0.0

    def __call__(self, negative: Tensor) -> Tensor | float:
        """Weights (B, N) or (B, 1) of the negatives; of those with the score -inf nobody asks."""
        if self.adversarial:
            return torch.softmax(self.adversarial * negative, 1).nan_to_num_(0.0)  # NaN: none of the negatives counts
        if self.reduction == "mean":
            return (negative > -torch.inf).sum(1, keepdim=True).clamp_min_(1).to(negative.dtype).reciprocal_()
        return 1.0


@dataclass(frozen=True)
class _Logistic:
    """-log σ(s_i + γ) - Σ_j w_ij log σ(-s_ij - γ): TwHIN Eq. 2 with the negatives summed and no offset γ."""

    weighing: _Weighing = _Weighing()
    offset: float = 0.0
    sees_offsets: ClassVar[bool] = True

    def __call__(self, positive: Tensor, negative: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = self.weighing(negative)
        if self.offset:
            positive, negative = positive + self.offset, negative.add_(self.offset)
        value = functional.softplus(-positive) + (functional.softplus(negative) * weights).sum(1)
        grad_negative = negative.sigmoid_().mul_(weight[:, None] * weights)
        return value * weight, -torch.sigmoid(-positive) * weight, grad_negative


@dataclass(frozen=True)
class _Softmax:
    """-s_i + log(e^{s_i} + Σ_j e^{s_ij}): sampled softmax, the positive among its own candidates."""

    sees_offsets: ClassVar[bool] = False

    def __call__(self, positive: Tensor, negative: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        top = torch.maximum(positive, negative.amax(1)) if negative.shape[1] else positive  # (B,)
        exponent = negative.sub_(top[:, None]).exp_()  # (B, N)
        own = torch.exp(positive - top)
        total = own + exponent.sum(1)
        value = total.log() + (top - positive)  # in this order: large scores cancel before a small sum is added
        scale = weight / total
        return value * weight, own * scale - weight, exponent.mul_(scale[:, None])


@dataclass(frozen=True)
class _Ranking:
    """Σ_j w_ij max(0, margin - s_i + s_ij): the triplet margin loss."""

    weighing: _Weighing = _Weighing()
    margin: float = 1.0
    sees_offsets: ClassVar[bool] = False

    def __call__(self, positive: Tensor, negative: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = self.weighing(negative)
        excess = negative.add_((self.margin - positive)[:, None]).clamp_min_(0.0)  # (B, N)
        value = (excess * weights).sum(1)
        grad_negative = (excess > 0).to(excess.dtype).mul_(weight[:, None] * weights)
        return value * weight, -grad_negative.sum(1), grad_negative


def _weighing(config: TrainConfig) -> _Weighing:
    return _Weighing(config.negative_reduction, config.adversarial)


LOSSES: Mapping[str, Callable[[TrainConfig], Loss]] = {
    "logistic": lambda config: _Logistic(_weighing(config), config.score_offset),
    "softmax": lambda config: _Softmax(),
    "ranking": lambda config: _Ranking(_weighing(config), config.margin),
}


def make_loss(config: TrainConfig) -> Loss:
    """Return the loss that a configuration asks for."""
    return LOSSES[config.loss](config)
