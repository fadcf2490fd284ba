"""Regularisers: what an edge's vectors cost by their size, or by their distance from an earlier version.

They are summed over the positive edges of a batch, each times its weight, so that they keep their proportion to the
loss whatever the batch size, and only rows that take part are touched.
Shapes: B edges, D dimension, P parameters of a relation.
"""

__all__ = ["Factors", "penalise_", "penalty"]

from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """What a penalty is made of; see ``penalty``."""

    l2: float
    n3: float
    complex_numbers: bool


def penalty(vectors: Tensor, weights: Tensor, *, l2: float, n3: float, complex_numbers: bool) -> tuple[Tensor, Tensor]:
    """Return ``w (l2 |v|² + n3 Σ|v_i|³)`` (B,) and its gradient by the vectors (B, D).

    Args:
        vectors: (B, D).
        weights: (B,).
        l2: Factor of the squares.
        n3: Factor of the cubes (Lacroix et al. 2018).
        complex_numbers: The vectors are complex: cubes are those of the moduli.
    """
    moduli = vectors.abs()
    if complex_numbers:
        real, imaginary = vectors.chunk(2, dim=1)
        moduli = torch.hypot(real, imaginary)
    value = l2 * vectors.square().sum(1) + n3 * moduli.pow(3).sum(1)
    if complex_numbers:
        moduli = torch.cat([moduli, moduli], 1)
    grad = vectors * (2 * l2 + 3 * n3 * moduli)
    return value * weights, grad * weights[:, None]


def penalise_(table: Tensor, rows: Tensor, weights: Tensor, totals: tuple[Tensor, Tensor], factors: Factors) -> None:
    """Add the penalties of the ``rows`` (B,) of a table (N, D) in place.

    Args:
        table: (N, D).
        rows: (B,).
        weights: (B,).
        totals: Losses (B,) and gradients (B, D), added to.
        factors: See ``penalty``.
    """
    value, grad = penalty(table[rows], weights, **factors._asdict())
    losses, grads = totals
    losses += value
    grads += grad
