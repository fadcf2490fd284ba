"""Row-wise Adagrad: one accumulator a row, so that a table costs dim + 1 numbers a row and not 2 * dim.

The gradients of a batch are summed per row first (both ends, positives and negatives); then, once a row:
``state += mean(g²);  row -= learning_rate * g / (sqrt(state) + 1e-10)``  (PyTorch-BigGraph's and FBGEMM's order).
Relation parameters use the element-wise form of the same rule.
"""

__all__ = ["adagrad_", "row_adagrad_"]

import torch
from torch import Tensor

_EPSILON = 1e-10


def row_adagrad_(table: Tensor, state: Tensor, rows: Tensor, grads: Tensor, learning_rate: float) -> None:
    """Update the ``rows`` (B,) of ``table`` (N, D) and ``state`` (N,) in place from ``grads`` (B, D).

    A row may come many times; its gradients are summed before the one update that it gets.
    """
    unique, position = torch.unique(rows, return_inverse=True)
    summed = grads.new_zeros((len(unique), table.shape[1])).index_add_(0, position, grads)  # (U, D)
    grown = state[unique] + summed.square().mean(1)
    state[unique] = grown
    summed.mul_((-learning_rate / (grown.sqrt() + _EPSILON))[:, None])
    table.index_add_(0, unique, summed)


def adagrad_(parameters: Tensor, state: Tensor, grad: Tensor, learning_rate: float) -> None:
    """Update ``parameters`` (P,) and ``state`` (P,) in place from ``grad`` (P,)."""
    state.add_(grad.square())
    parameters.sub_(learning_rate * grad / (state.sqrt() + _EPSILON))
