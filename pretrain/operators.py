"""Relation operators: what a relation does to a source vector before it is compared with the target.

``score = comparator(operator_r(source), target)``: the operator stands on the source (TwHIN Eq. 1), because with a dot
product a translation of the target would add the same number to a positive and to its corrupted targets, and cancel.
Every operator starts as the identity, so that training begins with plain similarity.

Each is a pair of pure functions with hand-written gradients; the NumPy form that candidate generation uses lives in
``recokit.table`` and the tests hold the two together.  Shapes: B batch, D dimension, P parameters of one relation.
"""

__all__ = ["OPERATORS", "Operator"]

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Operator(Protocol):
    """Value and gradient of one operator; ``parameters`` is the row of one relation."""

    def num_parameters(self, dim: int) -> int:
        """Parameters of one relation, P."""
        ...

    def start(self, dim: int) -> Tensor:
        """The parameters (P,) at which the operator is the identity."""
        ...

    def forward(self, vectors: Tensor, parameters: Tensor) -> Tensor:
        """Source vectors (B, D) to operated vectors (B, D)."""
        ...

    def backward(self, vectors: Tensor, parameters: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (B, D) of the operated vectors to those of the vectors (B, D) and of the parameters (P,)."""
        ...


class _Identity:
    """g(x) = x; for relations that should share one geometry."""

    def num_parameters(self, dim: int) -> int:
        return 0

    def start(self, dim: int) -> Tensor:
        return torch.zeros(0)

    def forward(self, vectors: Tensor, parameters: Tensor) -> Tensor:
        return vectors

    def backward(self, vectors: Tensor, parameters: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, parameters.new_zeros(0)


class _Translation:
    """g(x) = x + r (Bordes et al. 2013; TwHIN Eq. 1)."""

    def num_parameters(self, dim: int) -> int:
        return dim

    def start(self, dim: int) -> Tensor:
        return torch.zeros(dim)

    def forward(self, vectors: Tensor, parameters: Tensor) -> Tensor:
        return vectors + parameters

    def backward(self, vectors: Tensor, parameters: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.sum(0)


OPERATORS: Mapping[str, Operator] = {"identity": _Identity(), "translation": _Translation()}
