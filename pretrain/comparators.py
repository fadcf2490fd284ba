"""Comparators: two vectors to a score, higher is better, for pairs and for whole blocks.

``prepare`` is applied once to every vector that takes part (cosine normalises there, after the operator), so that the
block of scores is one matrix product whatever the comparator.  Distances are negated here and nowhere else.
Shapes: B batch, N negatives, D dimension.
"""

__all__ = ["COMPARATORS", "Comparator", "kept"]

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Comparator(Protocol):
    """Value and gradient of one comparator; ``a`` and ``b`` are prepared vectors, ``cache`` what the way back needs."""

    def prepare(self, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors (B, D) to prepared vectors (B, D)."""
        ...

    def prepare_backward(self, prepared: Tensor, cache: Tensor | None, grad: Tensor) -> Tensor:
        """Gradient of the prepared vectors (B, D) to that of the vectors (B, D)."""
        ...

    def pairs(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores (B,) of row i of ``a`` with row i of ``b``."""
        ...

    def pairs_backward(self, a: Tensor, b: Tensor, cache: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (B,) of the scores to those of ``a`` and ``b`` (B, D)."""
        ...

    def block(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores (B, N) of every row of ``a`` (B, D) with every row of ``b`` (N, D)."""
        ...

    def block_backward(self, a: Tensor, b: Tensor, cache: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (B, N), which may be overwritten, to those of ``a`` (B, D) and ``b`` (N, D)."""
        ...


class _Dot:
    """The dot product."""

    def prepare(self, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        return vectors, None

    def prepare_backward(self, prepared: Tensor, cache: Tensor | None, grad: Tensor) -> Tensor:
        return grad

    def pairs(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
        return (a * b).sum(1), None

    def pairs_backward(self, a: Tensor, b: Tensor, cache: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad[:, None] * b, grad[:, None] * a

    def block(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
        return a @ b.T, None

    def block_backward(self, a: Tensor, b: Tensor, cache: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad @ b, grad.T @ a


class _Cosine(_Dot):
    """The cosine: a dot product of normalised vectors; a zero vector has the cosine 0 with everything."""

    _floor = 1e-12  # below this norm a vector stays as it is: zeros, no NaN, and a gradient of ordinary size

    def prepare(self, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)  # (B, 1)
        inverse = norms.masked_fill(norms < self._floor, 1.0).reciprocal()
        return vectors * inverse, inverse

    def prepare_backward(self, prepared: Tensor, cache: Tensor | None, grad: Tensor) -> Tensor:
        # d(x/|x|): the part of the gradient along x is lost, the rest shrinks with |x|.
        along = (grad * prepared).sum(1, keepdim=True)
        return (grad - along * prepared) * kept(cache)


class _SquaredL2(_Dot):
    """Minus the squared Euclidean distance."""

    def pairs(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
        return -(a - b).square().sum(1), None

    def pairs_backward(self, a: Tensor, b: Tensor, cache: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        along = (2 * grad)[:, None] * (b - a)
        return along, -along

    def block(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
        return _squared_distances(a, b).neg_(), None

    def block_backward(self, a: Tensor, b: Tensor, cache: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        grad = grad.mul_(2)
        return grad @ b - grad.sum(1)[:, None] * a, grad.T @ a - grad.sum(0)[:, None] * b


class _L2(_SquaredL2):
    """Minus the Euclidean distance; between equal vectors it is 0 and has the gradient 0."""

    def pairs(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
        distances = torch.linalg.vector_norm(a - b, dim=1)
        return -distances, distances

    def pairs_backward(self, a: Tensor, b: Tensor, cache: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        return super().pairs_backward(a, b, None, _divided(grad / 2, kept(cache)))

    def block(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
        distances = _squared_distances(a, b).sqrt_()
        return -distances, distances

    def block_backward(self, a: Tensor, b: Tensor, cache: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        return super().block_backward(a, b, None, _divided(grad.div_(2), kept(cache)))


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (B, N) as |a|² + |b|² - 2ab; what is below the rounding of that sum is 0."""
    size_a, size_b = a.square().sum(1)[:, None], b.square().sum(1)
    squared = torch.addmm(size_a + size_b, a, b.T, alpha=-2.0)
    rounding = 8 * torch.finfo(a.dtype).eps
    return squared.masked_fill_(squared <= rounding * (size_a + size_b), 0.0)


def _divided(grad: Tensor, distances: Tensor) -> Tensor:
    """Gradients over distances; 0 where the distance is 0."""
    return (grad / distances).masked_fill_(distances == 0, 0.0)


def kept(cache: Tensor | None) -> Tensor:
    """Return what the way there returned for the way back."""
    if cache is None:
        raise TypeError("the way back needs what the way there returned")
    return cache


COMPARATORS: Mapping[str, Comparator] = {"dot": _Dot(), "cos": _Cosine(), "l2": _L2(), "squared_l2": _SquaredL2()}
