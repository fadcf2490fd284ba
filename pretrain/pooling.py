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
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.comparators import COMPARATORS, Comparator, kept
from pretrain.config import TrainConfig
from pretrain.movers import Mover

_EVEN = 1e6  # a temperature at which the smoothmax of cosines, or of dot products of any use, is their mean


def of_means(config: TrainConfig) -> TrainConfig:
    """Return settings under which pairs of components are pooled by their mean."""
    return dataclasses.replace(config, pooling="smoothmax", pooling_temperature=_EVEN, pooling_regularization=0.0)


Axes = tuple[int, ...]


def smoothmax(similarities: Tensor, temperature: float, axes: Axes = (-1,)) -> tuple[Tensor, Tensor]:
    """Return ``S = Σ M_k p_k`` with ``p = softmax(M / γ)`` over some axes, and ``p_k (1 + (M_k - S) / γ)``.

    Similarities that lie more than γ below the result have a negative gradient: they are pushed away on positives.

    >>> smoothmax(torch.tensor([0.9, 0.1]), 0.01)[0]
    tensor(0.9000)
    """
    above = similarities - similarities.amax(axes, keepdim=True)
    shares = above.div_(temperature).exp_()
    shares /= shares.sum(axes, keepdim=True)
    pooled = (similarities * shares).sum(axes, keepdim=True)
    return pooled.squeeze(axes), shares * (1 + (similarities - pooled) / temperature)


def largest(similarities: Tensor, axes: Axes = (-1,)) -> tuple[Tensor, Tensor]:
    """Return the largest over some axes and its gradient, 1 where it stands first and 0 elsewhere."""
    top = similarities.amax(axes, keepdim=True)
    here = similarities == top
    if (here.sum(axes) > 1).any():
        last = tuple(range(-len(axes), 0))
        flat = here.movedim(axes, last).flatten(-len(axes))  # (..., K)
        flat = flat & (flat.cumsum(-1) == 1)
        here = flat.view(here.movedim(axes, last).shape).movedim(last, axes)
    return top.squeeze(axes), here.to(similarities.dtype)


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

    def negatives(self, similarities: Tensor, axes: Axes = (-1,)) -> tuple[Tensor, Tensor]:
        """Pool some axes; values without them, gradient with them."""
        if all(similarities.shape[axis] == 1 for axis in axes):
            return similarities.squeeze(axes), torch.ones_like(similarities)
        return largest(similarities, axes) if self.kind == "max" else smoothmax(similarities, self.temperature, axes)

    def positives(self, similarities: Tensor, axes: Axes = (-1,)) -> tuple[Tensor, Tensor]:
        """Pool some axes of positive edges; values without them, gradient with them."""
        value, grad = self.negatives(similarities, axes)
        theta, even = self.regularization, self.each(math.prod(similarities.shape[axis] for axis in axes))
        return even * similarities.sum(axes) + (1 - theta) * value, even + (1 - theta) * grad

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
        return self.pooling.positives(similarities, (1, 2))

    def pairs_backward(self, a: Tensor, b: Tensor, cache: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Comparator``."""
        pulls = kept(cache) * grad[:, None, None]  # (B, C_a, C_c)
        left = torch.einsum("bcl,bln->bcn", pulls, self._apart(b))
        return left.flatten(1), torch.einsum("bcl,bcn->bln", pulls, self._apart(a)).flatten(1)

    def block(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores (B, N) of every anchor with every candidate; all B C_a N C_c similarities are in memory meanwhile."""
        similarities, _ = self.inner.block(self._by_place(a), self._by_place(b))
        left, right = a.shape[1] // self.dim, b.shape[1] // self.dim
        return self.pooling.negatives(similarities.view(left, len(a), right, len(b)), (0, 2))

    def block_backward(self, a: Tensor, b: Tensor, cache: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Comparator``."""
        first, second = self._by_place(a), self._by_place(b)
        pulls = (kept(cache) * grad[None, :, None, :]).reshape(len(first), len(second))  # (C_a, B, C_c, N)
        found = self.inner.block_backward(first, second, None, pulls)
        left, right = (
            part.view(of.shape[1] // self.dim, len(of), self.dim).transpose(0, 1).reshape(of.shape)
            for part, of in zip(found, (a, b), strict=True)
        )
        return left, right

    def _by_place(self, vectors: Tensor) -> Tensor:
        """Components (C B, n): the first ones of all entities (B, C n), then the second ones."""
        return self._apart(vectors).transpose(0, 1).reshape(-1, self.dim)

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
