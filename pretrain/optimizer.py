"""Adagrad on the rows that a batch touched, row-wise or element by element.

The gradients of a batch are summed per row first (both ends, positives and negatives); then, once a row:
``state += g²;  row -= learning_rate * g / (sqrt(state) + 1e-10)`` (PyTorch-BigGraph's and FBGEMM's order).  The
row-wise form keeps one accumulator a row, of ``mean(g²)``, so that a table costs dim + 1 numbers a row, not 2 * dim.
"""

__all__ = ["adagrad_", "row_adagrad_", "update_"]

from collections.abc import Sequence

import torch
from torch import Tensor

_EPSILON = 1e-10


def update_(
    table: Tensor,
    state: Tensor,
    parts: Sequence[tuple[Tensor, Tensor]],
    learning_rate: float,
    *,
    max_norm: float = 0.0,
) -> None:
    """Update a table (N, D) in place by parts of (rows (B,), gradients (B, D)) that count as one.

    The form of the state says which it is: (N,) row-wise, (N, D) element by element.
    """
    rows, grads = (torch.cat(part) for part in zip(*parts, strict=True))
    update = adagrad_ if state.dim() == 2 else row_adagrad_
    update(table, state, rows, grads, learning_rate, max_norm=max_norm)


def row_adagrad_(
    table: Tensor, state: Tensor, rows: Tensor, grads: Tensor, learning_rate: float, *, max_norm: float = 0.0
) -> None:
    """Update the ``rows`` (B,) of ``table`` (N, D) and ``state`` (N,) in place from ``grads`` (B, D).

    A row may come many times; its gradients are summed before the one update that it gets.  With ``max_norm`` the
    rows that are longer afterwards are cut to it.
    """
    unique, summed = _summed(rows, grads)
    grown = state[unique] + summed.square().mean(1)
    state[unique] = grown
    _move(table, unique, summed.mul_((-learning_rate / (grown.sqrt() + _EPSILON))[:, None]), max_norm)


def adagrad_(
    table: Tensor, state: Tensor, rows: Tensor, grads: Tensor, learning_rate: float, *, max_norm: float = 0.0
) -> None:
    """Do the same with a ``state`` (N, D) of every element."""
    unique, summed = _summed(rows, grads)
    grown = state[unique] + summed.square()
    state[unique] = grown
    _move(table, unique, summed.mul_(-learning_rate).div_(grown.sqrt_().add_(_EPSILON)), max_norm)


def _move(table: Tensor, rows: Tensor, steps: Tensor, max_norm: float) -> None:
    if max_norm:
        table[rows] = (table[rows] + steps).renorm_(2, 0, max_norm)
    else:
        table.index_add_(0, rows, steps)


def _summed(rows: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows (U,) and the sums (U, D) of their gradients."""
    unique, position = torch.unique(rows, return_inverse=True)
    return unique, grads.new_zeros((len(unique), grads.shape[1])).index_add_(0, position, grads)
