"""Relation operators: what a relation does to a vector before it is compared.

``score = comparator(operator_r(source), target)``: the operator stands on the source (TwHIN Eq. 1), because with a dot
product a translation of the target would add the same number to a positive and to its corrupted targets, and cancel.
Every operator starts as the identity, so that training begins with plain similarity.

Each is a pair of pure functions with hand-written gradients; the NumPy form that candidate generation uses lives in
``recokit.table`` and the tests hold the two together.  The relations of a batch are rows of a block of parameters:
``which`` (B,) names the row of every vector; None means that the block has one row, which goes for all.
Shapes: B batch, D dimension, R relations in the block, P parameters of one relation.
"""

__all__ = ["OPERATORS", "Operator", "conjugate", "runs", "spread", "start", "summed", "times"]

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from recokit.table import Operator as OperatorName
from recokit.table import num_parameters


class Operator(Protocol):
    """Value and gradient of one operator."""

    def start(self, dim: int) -> Tensor:
        """The parameters (P,) at which the operator is the identity."""
        ...

    def forward(self, vectors: Tensor, block: Tensor, which: Tensor | None) -> Tensor:
        """Vectors (B, D) to operated vectors (B, D); ``block`` is (R, P)."""
        ...

    def backward(self, vectors: Tensor, block: Tensor, which: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (B, D) of the operated vectors to those of the vectors (B, D) and of the block (R, P)."""
        ...


class _Identity:
    """g(x) = x; for relations that should share one geometry."""

    def start(self, dim: int) -> Tensor:
        return torch.zeros(0)

    def forward(self, vectors: Tensor, block: Tensor, which: Tensor | None) -> Tensor:
        return vectors

    def backward(self, vectors: Tensor, block: Tensor, which: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, torch.zeros_like(block)


class _Translation:
    """g(x) = x + r (Bordes et al. 2013; TwHIN Eq. 1)."""

    def start(self, dim: int) -> Tensor:
        return torch.zeros(dim)

    def forward(self, vectors: Tensor, block: Tensor, which: Tensor | None) -> Tensor:
        return vectors + spread(block, which)

    def backward(self, vectors: Tensor, block: Tensor, which: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, summed(grad, block, which)


class _Diagonal:
    """g(x) = d * x (DistMult; Yang et al. 2015)."""

    def start(self, dim: int) -> Tensor:
        return torch.ones(dim)

    def forward(self, vectors: Tensor, block: Tensor, which: Tensor | None) -> Tensor:
        return vectors * spread(block, which)

    def backward(self, vectors: Tensor, block: Tensor, which: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad * spread(block, which), summed(grad * vectors, block, which)


class _ComplexDiagonal:
    """g(x) = r * x in complex numbers (ComplEx; Trouillon et al. 2016): with dot, Re⟨s, r, conj(t)⟩."""

    def start(self, dim: int) -> Tensor:
        return torch.cat([torch.ones(dim // 2), torch.zeros(dim // 2)])

    def forward(self, vectors: Tensor, block: Tensor, which: Tensor | None) -> Tensor:
        return times(vectors, spread(block, which))

    def backward(self, vectors: Tensor, block: Tensor, which: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        # y = r x: the gradients of real and imaginary parts are grad * conj(r) and grad * conj(x).
        own = times(grad, conjugate(spread(block, which)))
        return own, summed(times(grad, conjugate(vectors)), block, which)


class _Rotation:
    """g(x) = e^{iφ} * x in complex numbers (RotatE; Sun et al. 2019); norms stay."""

    def start(self, dim: int) -> Tensor:
        return torch.zeros(dim // 2)

    def forward(self, vectors: Tensor, block: Tensor, which: Tensor | None) -> Tensor:
        return times(vectors, spread(torch.cat([block.cos(), block.sin()], 1), which))

    def backward(self, vectors: Tensor, block: Tensor, which: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        turn = spread(torch.cat([block.cos(), block.sin()], 1), which)
        # dy/dφ = i y, and Re(grad * conj(i y)) = Im(grad * conj(y)).
        imaginary = times(grad, conjugate(times(vectors, turn))).chunk(2, dim=1)[1]
        return times(grad, conjugate(turn)), summed(imaginary, block, which)


class _Linear:
    """g(x) = W x (RESCAL; Nickel et al. 2011)."""

    def start(self, dim: int) -> Tensor:
        return torch.eye(dim).flatten()

    def forward(self, vectors: Tensor, block: Tensor, which: Tensor | None) -> Tensor:
        matrices = block.view(len(block), vectors.shape[1], vectors.shape[1])  # (R, D, D)
        if which is None:
            return vectors @ matrices[0].T
        operated = torch.empty_like(vectors)
        for relation, rows in runs(which):
            operated[rows] = vectors[rows] @ matrices[relation].T
        return operated

    def backward(self, vectors: Tensor, block: Tensor, which: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        matrices = block.view(len(block), vectors.shape[1], vectors.shape[1])
        if which is None:
            return grad @ matrices[0], (grad.T @ vectors).view(1, -1)
        own, grad_block = torch.empty_like(vectors), torch.zeros_like(matrices)
        for relation, rows in runs(which):
            own[rows] = grad[rows] @ matrices[relation]
            grad_block[relation] = grad[rows].T @ vectors[rows]
        return own, grad_block.view_as(block)


class _Affine:
    """g(x) = W x + t; the parameters are W, row by row, then t."""

    def start(self, dim: int) -> Tensor:
        return torch.cat([_LINEAR.start(dim), torch.zeros(dim)])

    def forward(self, vectors: Tensor, block: Tensor, which: Tensor | None) -> Tensor:
        dim = vectors.shape[1]
        return _LINEAR.forward(vectors, block[:, :-dim].contiguous(), which) + spread(block[:, -dim:], which)

    def backward(self, vectors: Tensor, block: Tensor, which: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        dim = vectors.shape[1]
        own, grad_matrices = _LINEAR.backward(vectors, block[:, :-dim].contiguous(), which, grad)
        return own, torch.cat([grad_matrices, summed(grad, block[:, -dim:], which)], 1)


_LINEAR = _Linear()
OPERATORS: Mapping[str, Operator] = {
    "identity": _Identity(),
    "translation": _Translation(),
    "diagonal": _Diagonal(),
    "complex_diagonal": _ComplexDiagonal(),
    "linear": _LINEAR,
    "affine": _Affine(),
    "rotation": _Rotation(),
}


def start(operator: OperatorName, dim: int) -> Tensor:
    """Return the parameters (P,) at which an operator is the identity; ConfigError if ``dim`` does not suit it."""
    num_parameters(operator, dim)
    return OPERATORS[operator].start(dim)


def spread(block: Tensor, which: Tensor | None) -> Tensor:
    """Return the parameters (B, P) of every vector, or (1, P) that go for all."""
    return block if which is None else block[which]


def summed(grads: Tensor, block: Tensor, which: Tensor | None) -> Tensor:
    """Sum gradients (B, P) by relation (R, P)."""
    return grads.sum(0, keepdim=True) if which is None else torch.zeros_like(block).index_add_(0, which, grads)


def runs(which: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield every relation that is there, and the positions of its vectors."""
    ordered, order = which.sort(stable=True)
    relations, counts = torch.unique_consecutive(ordered, return_counts=True)
    yield from zip(relations.tolist(), order.split(counts.tolist()), strict=True)  # type: ignore[no-untyped-call]


def times(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of complex numbers: real parts in the first half, imaginary parts in the second."""
    half = a.shape[1] // 2
    real, imaginary = b[:, :half], b[:, half:]
    return torch.cat([a[:, :half] * real - a[:, half:] * imaginary, a[:, :half] * imaginary + a[:, half:] * real], 1)


def conjugate(a: Tensor) -> Tensor:
    """Return complex numbers with their imaginary parts, the second half, negated."""
    half = a.shape[1] // 2
    return torch.cat([a[:, :half], -a[:, half:]], 1)
