"""Movers: how a relation moves the anchors of a question to where candidates are compared as they are.

An edge asks two questions: given the source, which target, and given the target, which source.  The given end is the
anchor.  Where the operator stands on the anchor it moves the anchor; where it stands on the candidates, most operators
can be pulled to the anchor at equal scores: dot(W x, y) = dot(x, W' y), |x + r - y| = |x - (y - r)|.  So the
candidates stay as they are, and edges of thousands of relations share one block of them.
Shapes: B anchors, D dimension, R relations in the block, P parameters of one relation.
"""

__all__ = ["Form", "Moved", "Mover", "Offset", "forms"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from pretrain.config import Side
from pretrain.operators import OPERATORS, Operator, conjugate, spread, summed
from recokit.table import Comparator
from recokit.table import Operator as OperatorName


class Mover(Protocol):
    """Moves the anchors of a question to where they are compared with unmoved candidates.

    ``offset`` (B,) is what the scores of an anchor have on top of the comparator's; None for nothing.
    """

    def forward(self, vectors: Tensor, block: Tensor, which: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Anchors (B, D) to moved anchors (B, D) and offsets."""
        ...

    def backward(
        self, vectors: Tensor, block: Tensor, which: Tensor | None, grad: Tensor, grad_offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the moved anchors (B, D) and offsets (B,) to those of the anchors and of the block."""
        ...


@dataclass(frozen=True)
class Moved:
    """An operator as a mover, of its own parameters or of a linear map of them that is its own transpose."""

    name: OperatorName
    mapped: Callable[[Tensor], Tensor] = lambda block: block

    @property
    def operator(self) -> Operator:
        """What moves."""
        return OPERATORS[self.name]

    def forward(self, vectors: Tensor, block: Tensor, which: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See ``Mover``."""
        return self.operator.forward(vectors, self.mapped(block), which), None

    def backward(
        self, vectors: Tensor, block: Tensor, which: Tensor | None, grad: Tensor, grad_offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``Mover``."""
        own, grad_block = self.operator.backward(vectors, self.mapped(block), which, grad)
        return own, self.mapped(grad_block)


@dataclass(frozen=True)
class Offset:
    """dot(A x + t, y) = dot(x, A' y) + dot(t, y): what is moved by the linear part, the rest is an offset."""

    linear: Mover

    def forward(self, vectors: Tensor, block: Tensor, which: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See ``Mover``."""
        first, shift = self._parts(vectors, block)
        moved, _ = self.linear.forward(vectors, first, which)
        return moved, (vectors * spread(shift, which)).sum(1)

    def backward(
        self, vectors: Tensor, block: Tensor, which: Tensor | None, grad: Tensor, grad_offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``Mover``."""
        first, shift = self._parts(vectors, block)
        own, grad_first = self.linear.backward(vectors, first, which, grad, grad_offset)
        own = own + grad_offset[:, None] * spread(shift, which)
        return own, torch.cat([grad_first, summed(grad_offset[:, None] * vectors, shift, which)], 1)

    @staticmethod
    def _parts(vectors: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        dim = vectors.shape[1]
        return block[:, :-dim].contiguous(), block[:, -dim:]


def _transposed(block: Tensor) -> Tensor:
    dim = round(block.shape[1] ** 0.5)
    return block.view(-1, dim, dim).transpose(1, 2).reshape_as(block)


_MOVERS: Mapping[str, Mover] = {name: Moved(name) for name in get_args(OperatorName)}
_BACK = Moved("rotation", torch.neg)
# comparator(operator_r(x), y) = comparator(x, pulled_r(y)) + offset; where a pair is missing there is no such form.
_PULLERS: Mapping[tuple[str, str], Mover] = {
    **{("identity", comparator): _MOVERS["identity"] for comparator in ("dot", "cos", "l2", "squared_l2")},
    **{("rotation", comparator): _BACK for comparator in ("dot", "cos", "l2", "squared_l2")},
    **{("translation", comparator): Moved("translation", torch.neg) for comparator in ("l2", "squared_l2")},
    ("translation", "dot"): Offset(_MOVERS["identity"]),
    ("diagonal", "dot"): _MOVERS["diagonal"],
    ("complex_diagonal", "dot"): Moved("complex_diagonal", conjugate),
    ("linear", "dot"): Moved("linear", _transposed),
    ("affine", "dot"): Offset(Moved("linear", _transposed)),
}


@dataclass(frozen=True)
class Form:
    """How a relation enters a question: its mover, and what it moves.

    Candidates can be moved by one relation at a time only.
    """

    mover: Mover
    moves: Literal["anchors", "candidates"] = "anchors"


def forms(
    operator: OperatorName, side: Side, comparator: Comparator, *, reciprocal: bool = False, offsets: bool = True
) -> dict[Side, Form]:
    """Return how a relation enters the question for its target and that for its source.

    Args:
        operator: The relation's operator.
        side: The end that it stands on.
        comparator: What the moved vectors go into.
        reciprocal: Anchors are always moved, with parameters of their own in the question for the source.
        offsets: Pull operators to the anchor even where that takes an offset.
    """
    found: dict[Side, Form] = {}
    for asked in get_args(Side):
        if reciprocal or side != asked:  # the operator stands on the anchor
            found[asked] = Form(_MOVERS[operator])
        elif (puller := _PULLERS.get((operator, comparator))) and (offsets or not isinstance(puller, Offset)):
            found[asked] = Form(puller)
        else:
            found[asked] = Form(_MOVERS[operator], "candidates")
    return found
