"""Comparators: two vectors to a score, higher is better, for pairs and for whole blocks.

``prepare`` is applied once to every vector that takes part (cosine normalises there, after the operator), so that the
block of scores is one matrix product whatever the comparator.  Shapes: B batch, N negatives, D dimension.
"""

__all__ = ["COMPARATORS", "Comparator"]

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Comparator(Protocol):
    """Value and gradient of one comparator; ``a`` and ``b`` are prepared vectors."""

    def prepare(self, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors (B, D) to prepared vectors (B, D) and what the way back needs."""
        ...

    def prepare_backward(self, prepared: Tensor, cache: Tensor | None, grad: Tensor) -> Tensor:
        """Gradient of the prepared vectors (B, D) to that of the vectors (B, D)."""
        ...

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """Scores (B,) of row i of ``a`` with row i of ``b``."""
        ...

    def pairs_backward(self, a: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (B,) of the scores to those of ``a`` and ``b`` (B, D)."""
        ...

    def block(self, a: Tensor, b: Tensor) -> Tensor:
        """Scores (B, N) of every row of ``a`` (B, D) with every row of ``b`` (N, D)."""
        ...

    def block_backward(self, a: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (B, N) of the scores to those of ``a`` (B, D) and ``b`` (N, D)."""
        ...


class _Dot:
    """The dot product."""

    def prepare(self, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        return vectors, None

    def prepare_backward(self, prepared: Tensor, cache: Tensor | None, grad: Tensor) -> Tensor:
        return grad

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1)

    def pairs_backward(self, a: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad[:, None] * b, grad[:, None] * a

    def block(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b.T

    def block_backward(self, a: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad @ b, grad.T @ a


class _Cosine(_Dot):
    """The cosine: a dot product of normalised vectors; a zero vector has the cosine 0 with everything."""

    _floor = 1e-12  # below this norm a vector stays as it is: zeros, no NaN, and a gradient of ordinary size

    def prepare(self, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)  # (B, 1)
        inverse = norms.masked_fill(norms < self._floor, 1.0).reciprocal()
        return vectors * inverse, inverse

    def prepare_backward(self, prepared: Tensor, cache: Tensor | None, grad: Tensor) -> Tensor:
        if cache is None:
            raise TypeError("the cosine's way back needs what prepare returned")
        # d(x/|x|): the part of the gradient along x is lost, the rest shrinks with |x|.
        along = (grad * prepared).sum(1, keepdim=True)
        return (grad - along * prepared) * cache


COMPARATORS: Mapping[str, Comparator] = {"dot": _Dot(), "cos": _Cosine()}
