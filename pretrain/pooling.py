"""Mixtures in training: an entity's components side by side in one row, and the pooling of their similarities.

An entity with C components of dimension n is a row of C * n numbers.  The score of two entities is their matrix of
similarities M (C_s, C_d), component by component, pooled to a number (Brinkman et al. 2020, Eq. 1 and 2):

    max            max M
    smoothmax      Σ M e^{M/γ} / Σ e^{M/γ}: the Boltzmann operator, not the logarithm of a sum
    positives      θ * mean M + (1 - θ) * pooled, so that a positive edge pulls at all pairs of components

As printed, Eq. 2 has θ * Σ M: with K pairs the weights add up to θ K + 1 - θ, which lifts positives by a factor.  That
form is there under its name; the mean is what the text means ("towards the average").
Shapes: B anchors, N candidates, C_a and C_c components of either, n dimension of a component.
"""

__all__ = ["Pooled", "Pooling", "Widened", "comparator_of", "of_means", "smoothmax"]

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pretrain.comparators import COMPARATORS, Comparator
from pretrain.config import TrainConfig
from pretrain.movers import Mover

_EVEN = 1e6  # a temperature at which the smoothmax of cosines, or of dot products of any use, is their mean


def of_means(config: TrainConfig) -> TrainConfig:
    """Return settings under which pairs of components are pooled by their mean."""
    return dataclasses.replace(config, pooling="smoothmax", pooling_temperature=_EVEN, pooling_regularization=0.0)


def smoothmax(similarities: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return ``S = Σ M_k p_k`` with ``p = softmax(M / γ)`` over the last axis, and ``p_k (1 + (M_k - S) / γ)``.

    Similarities that lie more than γ below the result have a negative gradient: they are pushed away on positives.

    >>> smoothmax(torch.tensor([0.9, 0.1]), 0.01)[0]
    tensor(0.9000)
    """
    shares = torch.softmax(similarities / temperature, -1)
    pooled = (similarities * shares).sum(-1)
    return pooled, shares * (1 + (similarities - pooled[..., None]) / temperature)


def largest(similarities: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest over the last axis and its gradient, 1 where it stands first and 0 elsewhere."""
    top, at = similarities.max(-1)
    return top, torch.zeros_like(similarities).scatter_(-1, at[..., None], 1.0)


@dataclass(frozen=True)
class Pooling:
    """How a matrix of similarities becomes a score.

    Args:
        kind: ``"max"`` or ``"smoothmax"``.
        temperature: γ of the smoothmax.
        regularization: θ of the positives.
        printed: θ multiplies the sum, not the mean.
    """

    kind: str
    temperature: float
    regularization: float = 0.0
    printed: bool = False

    @classmethod
    def of(cls, config: TrainConfig) -> "Pooling":
        """Return that of some settings."""
        printed = config.pooling_form == "printed"
        return cls(config.pooling, config.pooling_temperature, config.pooling_regularization, printed)

    def negatives(self, similarities: Tensor) -> tuple[Tensor, Tensor]:
        """Pool the last axis; values (...), gradient (..., K)."""
        if similarities.shape[-1] == 1:
            return similarities[..., 0], torch.ones_like(similarities)
        return largest(similarities) if self.kind == "max" else smoothmax(similarities, self.temperature)

    def positives(self, similarities: Tensor) -> tuple[Tensor, Tensor]:
        """Pool the last axis of positive edges; values (...), gradient (..., K)."""
        value, grad = self.negatives(similarities)
        theta, even = self.regularization, self.each(similarities.shape[-1])
        return even * similarities.sum(-1) + (1 - theta) * value, even + (1 - theta) * grad

    def each(self, pairs: int) -> float:
        """What a positive's similarity counts beside the pooling."""
        return self.regularization if self.printed else self.regularization / pairs


@dataclass(frozen=True)
class Pooled:
    """A comparator of entities with components: compares all pairs of components, and pools.

    Args:
        inner: Compares components; a dot product of prepared vectors.
        dim: n.
        pooling: How to pool; ``pairs`` are positives.
    """

    inner: Comparator
    dim: int
    pooling: Pooling

    def prepare(self, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors (B, C n) to prepared vectors (B, C n)."""
        prepared, cache = self.inner.prepare(vectors.reshape(-1, self.dim))
        return prepared.view_as(vectors), cache

    def prepare_backward(self, prepared: Tensor, cache: Tensor | None, grad: Tensor) -> Tensor:
        """See ``Comparator``."""
        parts = prepared.reshape(-1, self.dim), cache, grad.reshape(-1, self.dim)
        return self.inner.prepare_backward(*parts).view_as(prepared)

    def pairs(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores (B,) of positives."""
        similarities = torch.einsum("bcn,bln->bcl", self._apart(a), self._apart(b))  # (B, C_a, C_c)
        value, grad = self.pooling.positives(similarities.flatten(1))
        return value, grad.view_as(similarities)

    def pairs_backward(self, a: Tensor, b: Tensor, cache: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Comparator``."""
        pulls = _kept(cache) * grad[:, None, None]  # (B, C_a, C_c)
        left = torch.einsum("bcl,bln->bcn", pulls, self._apart(b))
        return left.flatten(1), torch.einsum("bcl,bcn->bln", pulls, self._apart(a)).flatten(1)

    def block(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores (B, N) of every anchor with every candidate; all B C_a N C_c similarities are in memory meanwhile."""
        similarities, _ = self.inner.block(a.reshape(-1, self.dim), b.reshape(-1, self.dim))
        left, right = a.shape[1] // self.dim, b.shape[1] // self.dim
        parts = similarities.view(len(a), left, len(b), right).transpose(1, 2)  # (B, N, C_a, C_c)
        value, grad = self.pooling.negatives(parts.flatten(2))
        return value, grad

    def block_backward(self, a: Tensor, b: Tensor, cache: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Comparator``."""
        left, right = a.shape[1] // self.dim, b.shape[1] // self.dim
        pulls = (_kept(cache) * grad[:, :, None]).view(len(a), len(b), left, right)
        pulls = pulls.transpose(1, 2).reshape(len(a) * left, len(b) * right)
        parts = self.inner.block_backward(a.reshape(-1, self.dim), b.reshape(-1, self.dim), None, pulls)
        return parts[0].view_as(a), parts[1].view_as(b)

    def _apart(self, vectors: Tensor) -> Tensor:
        return vectors.view(len(vectors), vectors.shape[1] // self.dim, self.dim)


@dataclass(frozen=True)
class Widened:
    """A mover of every component of an entity alike; ``inner`` has no offsets."""

    inner: Mover
    dim: int

    def forward(self, vectors: Tensor, block: Tensor, which: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See ``Mover``."""
        moved, offset = self.inner.forward(vectors.reshape(-1, self.dim), block, self._each(vectors, which))
        if offset is not None:
            raise TypeError("the components of an entity cannot have offsets of their own")
        return moved.reshape(vectors.shape), None

    def backward(
        self, vectors: Tensor, block: Tensor, which: Tensor | None, grad: Tensor, grad_offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``Mover``."""
        parts = vectors.reshape(-1, self.dim), block, self._each(vectors, which), grad.reshape(-1, self.dim)
        own, grad_block = self.inner.backward(*parts, grad_offset)
        return own.reshape(vectors.shape), grad_block

    def _each(self, vectors: Tensor, which: Tensor | None) -> Tensor | None:
        return None if which is None else which.repeat_interleave(vectors.shape[1] // self.dim)


def comparator_of(config: TrainConfig, *, regularized: bool = False) -> Comparator:
    """Return what compares two entities' rows under some settings.

    Args:
        config: The settings.
        regularized: Pool positives as training does; else every score is pooled like a negative's, so that all compare.
    """
    inner = COMPARATORS[config.comparator]
    if not config.has_mixtures:
        return inner
    pooling = Pooling.of(config)
    if not regularized:
        pooling = Pooling(pooling.kind, pooling.temperature)
    return Pooled(inner, config.dim, pooling)


def _kept(cache: Any) -> Tensor:
    if cache is None:
        raise TypeError("the way back needs what the way there returned")
    return cache  # type: ignore[no-any-return]
