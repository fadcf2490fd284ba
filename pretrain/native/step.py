"""The training step and the optimizer by the compiled kernels: the same gradients as ``pretrain.step`` to rounding.

The kernels gather, move, compare, lose and go all the way back themselves.  What they do not know, a relation's matrix,
is done in torch before and after.
Shapes: B edges, N negatives a side, D dimension, U relations of the batch, P parameters of a relation.
"""

__all__ = ["NativeStep", "penalise_", "update_", "uses_bfloat16"]

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pretrain.config import TrainConfig
from pretrain.movers import Form, Moved, Mover, Offset
from pretrain.native.bindings import Contrast, Penalty, Pool, Update, has_bfloat16, library
from pretrain.pooling import Pooling, Widened
from pretrain.regularisers import Factors
from pretrain.step import Batch, Gradients, Place, Sampled, distinct, joined, parts

_OPERATORS = {"identity": 0, "translation": 1, "diagonal": 2, "complex_diagonal": 3, "rotation": 3}
_COMPARATORS = {"dot": 0, "cos": 1, "l2": 2, "squared_l2": 3}
_LOSSES = {"softmax": 0, "logistic": 1, "ranking": 2}
_REDUCTIONS = {"sum": 0, "mean": 1}
_ADVERSARIAL = 2
_SHARED = 64  # rows from which on an update is worth calling the other threads
_T = TypeVar("_T")


@dataclass(frozen=True)
class NativeStep:
    """Losses and gradients of a batch, of tables in memory of the CPU; see ``pretrain.step.Step``.

    Args:
        for_target: How relations enter the question for the target, whose anchors are the sources.
        for_source: How they enter the question for the source.
        config: Comparator, loss and precision.
        threads: How many to work with; the same number gives the same bytes.
    """

    for_target: Form
    for_source: Form
    config: TrainConfig
    threads: int = 1

    @functools.cached_property
    def settled(self) -> Contrast:
        """What all calls of the kernel have in common."""
        config = self.config
        return Contrast(
            pool=self.pool(1, 1),
            comparator=_COMPARATORS[config.comparator],
            loss=_LOSSES[config.loss],
            scale=1 / config.temperature,
            reduction=_ADVERSARIAL if config.adversarial else _REDUCTIONS[config.negative_reduction],
            adversarial=config.adversarial,
            margin=config.margin,
            offset=config.score_offset,
            half=uses_bfloat16(config),
            threads=self.threads,
        )

    def pool(self, anchors: int, candidates: int) -> Pool:
        """How so many components of an anchor and of a candidate make a score."""
        pooling, pairs = Pooling.of(self.config), anchors * candidates
        return Pool(
            anchor=anchors,
            candidate=candidates,
            smooth=pooling.kind == "smoothmax",
            sharpness=1 / pooling.temperature,
            even=pooling.each(pairs) if pairs > 1 else 0.0,
            rest=1 - pooling.regularization if pairs > 1 else 1.0,
        )

    def __call__(
        self,
        sources: Tensor,
        targets: Tensor,
        block: Tensor,
        batch: Batch,
        *,
        source_bias: Tensor | None = None,
        target_bias: Tensor | None = None,
    ) -> Gradients:
        """Compute losses and gradients; see ``pretrain.step.Step``."""
        ends = {
            "source": _End.of(sources, source_bias, batch.sources, batch.negative_sources),
            "target": _End.of(targets, target_bias, batch.targets, batch.negative_targets),
        }
        losses = sources.new_zeros(len(batch.sources))
        relation_rows, relation_grads = [], []
        for form, anchor, asked, sampled, relations in (
            (self.for_target, ends["source"], ends["target"], batch.negative_targets, batch.relations),
            (self.for_source, ends["target"], ends["source"], batch.negative_sources, batch.reverse),
        ):
            if sampled is None:
                continue
            unique, which = distinct(batch.relations if relations is None else relations, one=batch.one_relation)
            whole = which is None or form.moves == "anchors"
            ask = _Ask.begin(self, form, (anchor, asked), sampled, weights=batch.weights, losses=losses, whole=whole)
            for rows, at, _, own_which in parts(form, unique, which, len(losses), len(asked.rows)):
                relation_rows.append(rows)
                relation_grads.append(ask(block[rows], own_which, at))
        source, target = ends["source"], ends["target"]
        for end in (source, target):
            if not end.begun:  # nobody asked
                end.zero(slice(None))
        return Gradients(
            losses,
            source.rows,
            source.grads,
            target.rows,
            target.grads,
            torch.cat(relation_rows) if relation_rows else batch.relations[:0],
            torch.cat(relation_grads) if relation_grads else block[:0],
            source.bias_grads,
            target.bias_grads,
        )


@dataclass(eq=False)
class _End:
    """One end of the edges: its table, the rows that take part, and what their gradients become."""

    table: Tensor  # (V, D)
    bias: Tensor | None  # (V,)
    own: Tensor  # (B,) rows
    rows: Tensor  # (B + N,)
    grads: Tensor  # (B + N, D)
    bias_grads: Tensor | None  # (B + N,)
    begun: bool = False  # whether there is something in the gradients of the edges

    @classmethod
    def of(cls, table: Tensor, bias: Tensor | None, own: Tensor, sampled: Sampled | None) -> "_End":
        rows = joined(own, sampled)
        bias_grads = None if bias is None else bias.new_empty(len(rows))
        return cls(table, bias, own, rows, table.new_empty(len(rows), table.shape[1]), bias_grads)

    def zero(self, places: slice) -> None:
        """Begin with nothing at some places."""
        self.grads[places] = 0.0
        if self.bias_grads is not None:
            self.bias_grads[places] = 0.0


@dataclass(frozen=True)
class _Known:
    """A mover that the kernels know: parameters as they want them, and gradients back from there."""

    operator: int
    mover: Moved
    shifted: bool  # the block's last D columns are added to the scores as dot(anchor, shift)

    @classmethod
    def of(cls, mover: Mover) -> "_Known | None":
        inner = mover.linear if isinstance(mover, Offset) else mover
        if not isinstance(inner, Moved) or inner.name not in _OPERATORS:
            return None
        return cls(_OPERATORS[inner.name], inner, isinstance(mover, Offset))

    def parameters(self, block: Tensor, dim: int) -> tuple[Tensor, Tensor | None]:
        """Parameters (U, P) and shifts (U, D)."""
        first, shift = (block[:, :-dim], block[:, -dim:].contiguous()) if self.shifted else (block, None)
        first = self.mover.mapped(first)
        if self.mover.name == "rotation":
            first = torch.cat([first.cos(), first.sin()], 1)
        return first.contiguous(), shift

    def gradient(self, first: Tensor, grad: Tensor, grad_shift: Tensor | None) -> Tensor:
        """Gradient (U, P) of the block."""
        if self.mover.name == "rotation":  # d(cos φ, sin φ) = (-sin φ, cos φ) dφ
            (cos, sin), (grad_cos, grad_sin) = first.chunk(2, 1), grad.chunk(2, 1)
            grad = grad_sin * cos - grad_cos * sin
        grad = self.mover.mapped(grad)
        return grad if grad_shift is None else torch.cat([grad, grad_shift], 1)


class _Grads(NamedTuple):
    """Where a call of the kernel puts what it finds."""

    losses: Tensor  # (B,)
    anchors: Tensor  # (B, D)
    own: Tensor  # (B, D)
    drawn: Tensor  # (N, D)
    offset: Tensor | None  # (B,) of what all scores of an anchor have in common
    own_bias: Tensor | None  # (B,)
    drawn_bias: Tensor | None  # (N,)


@dataclass(frozen=True, eq=False)
class _Ask:
    """A question for a batch; a call asks it for all edges or those of a part, and adds what they give."""

    step: NativeStep
    form: Form
    known: _Known | None
    direct: bool  # the kernels write into the batch's own gradients
    add: bool  # there is something in those of the edges
    anchor: _End
    asked: _End
    sampled: Sampled
    weights: Tensor  # (B,)
    losses: Tensor  # (B,), added to

    @classmethod
    def begin(
        cls,
        step: NativeStep,
        form: Form,
        ends: tuple[_End, _End],
        sampled: Sampled,
        *,
        weights: Tensor,
        losses: Tensor,
        whole: bool,
    ) -> "_Ask":
        """Make ready the gradients of a question, which comes ``whole`` or in parts."""
        anchor, asked = ends
        known, size, begun = _Known.of(form.mover), len(asked.own), anchor.begun
        direct = whole and known is not None
        if not direct:
            asked.zero(slice(size, None))
            for end in () if begun else (anchor, asked):
                end.zero(slice(size))
        anchor.begun = asked.begun = True
        return cls(step, form, known, direct, begun, anchor, asked, sampled, weights, losses)

    def __call__(self, block: Tensor, which: Tensor | None, at: Place) -> Tensor:
        """Ask for the edges at some places; returns the gradient of the block (U, P)."""
        known, anchor, asked, size = self.known, self.anchor, self.asked, len(self.asked.own)
        if known is not None and self.direct:
            of_edges = [
                (end.grads[:size], None if end.bias_grads is None else end.bias_grads[:size]) for end in (anchor, asked)
            ]
            drawn_bias = None if asked.bias_grads is None else asked.bias_grads[size:]
            (anchors, offset), (own, own_bias) = of_edges
            grads = _Grads(self.losses, anchors, own, asked.grads[size:], offset, own_bias, drawn_bias)
            return self._by_rows(known, block, which, at, grads)
        grads = self._fresh(len(anchor.own[at]))
        ask = self._moved if known is None else functools.partial(self._by_rows, known)
        gradient = ask(block, which, at, grads)
        self.losses[at] += grads.losses
        anchor.grads[at] += grads.anchors
        asked.grads[at] += grads.own
        asked.grads[size:] += grads.drawn
        for total, place, part in (
            (anchor.bias_grads, at, grads.offset),
            (asked.bias_grads, at, grads.own_bias),
            (asked.bias_grads, slice(size, None), grads.drawn_bias),
        ):
            if total is not None and part is not None:
                total[place] += part
        return gradient

    def _fresh(self, size: int) -> _Grads:
        (given, asked), negatives = (end.table.shape[1] for end in (self.anchor, self.asked)), len(self.sampled.rows)
        shapes: tuple[tuple[int, ...], ...] = (
            (size,),
            (size, given),
            (size, asked),
            (negatives, asked),
            (size,),
            (size,),
        )
        return _Grads(*(self.asked.table.new_zeros(shape) for shape in (*shapes, (negatives,))))

    def _by_rows(self, known: _Known, block: Tensor, which: Tensor | None, at: Place, grads: _Grads) -> Tensor:
        """Let the kernels gather and move."""
        first, shift = known.parameters(block, self.step.config.dim)
        grad_first, grad_shift = torch.empty_like(first), None if shift is None else torch.empty_like(shift)
        call = self._call(at, grads)
        call.rows("anchors", self.anchor.table, _picked(self.anchor.own, at))
        call.rows("own", self.asked.table, _picked(self.asked.own, at))
        call.rows("drawn", self.asked.table, self.sampled.rows)
        call.set(op=known.operator, moves_candidates=self.form.moves == "candidates")
        call.set(relations=len(first), parameters=first.shape[1])
        call.point(block=first, shift=shift, which=which, grad_block=grad_first, grad_shift=grad_shift)
        call()
        return known.gradient(first, grad_first, grad_shift)

    def _moved(self, block: Tensor, which: Tensor | None, at: Place, grads: _Grads) -> Tensor:
        """Move in torch what the kernels cannot, and take the gradients back from there."""
        config, size = self.step.config, len(grads.losses)
        mover = Widened(self.form.mover, config.dim) if config.has_mixtures else self.form.mover
        call = self._call(at, grads)
        call.set(relations=1)
        if self.form.moves == "anchors":
            vectors = self.anchor.table[self.anchor.own[at]]
            moved, offset = mover.forward(vectors, block, which)
            call.rows("anchors", moved)
            call.rows("own", self.asked.table, self.asked.own[at])
            call.rows("drawn", self.asked.table, self.sampled.rows)
            call.add_offset(offset)
            call()
            own, gradient = mover.backward(vectors, block, which, grads.anchors, _there(grads.offset))
            grads.anchors.copy_(own)
            return gradient
        vectors = self.asked.table[torch.cat([self.asked.own[at], self.sampled.rows])]
        moved, _ = mover.forward(vectors, block, which)
        call.rows("anchors", self.anchor.table, self.anchor.own[at])
        call.rows("own", moved[:size])
        call.rows("drawn", moved[size:])
        call()
        both = torch.cat([grads.own, grads.drawn])
        own, gradient = mover.backward(vectors, block, which, both, _there(grads.offset))
        grads.own.copy_(own[:size])
        grads.drawn.copy_(own[size:])
        return gradient

    def _call(self, at: Place, grads: _Grads) -> "_Call":
        """Fill in all but where the vectors come from and what moves them."""
        sampled, own, dim = self.sampled, _picked(self.asked.own, at), self.step.config.dim
        call = _Call(self.step.settled)
        call.set(size=own.shape[0], negatives=sampled.rows.shape[0], dim=dim)
        if self.step.config.has_mixtures:
            call.set(pool=self.step.pool(*(end.table.shape[1] // dim for end in (self.anchor, self.asked))))
        call.set(add=self.add or not self.direct)
        call.point(own_ids=own, drawn_ids=sampled.rows, weights=_picked(self.weights, at))
        call.point(log_expected=sampled.log_expected)
        call.point(losses=grads.losses, grad_anchors=grads.anchors, grad_own=grads.own, grad_drawn=grads.drawn)
        call.point(grad_anchor_bias=grads.offset, grad_own_bias=grads.own_bias, grad_drawn_bias=grads.drawn_bias)
        if self.anchor.bias is not None and self.asked.bias is not None:
            call.point(own_bias=self.asked.bias[own], drawn_bias=self.asked.bias[sampled.rows])
            call.add_offset(self.anchor.bias[self.anchor.own[at]])
        if sampled.known is not None:
            order = sampled.known[0].argsort(stable=True)
            questions = torch.arange(len(self.asked.own), device=own.device)
            ends = torch.searchsorted(sampled.known[0][order], questions, right=True)
            asked = questions if sampled.questions is None else sampled.questions
            call.point(known_ends=ends, known_places=sampled.known[1][order], questions=asked[at])
        return call


class _Call:
    """A call of the kernel in the making; it keeps what its pointers point to."""

    def __init__(self, settled: Contrast) -> None:
        self._arguments = Contrast.from_buffer_copy(settled)
        self._kept: dict[str, Any] = {}

    def set(self, **numbers: float | Pool) -> None:
        for name, number in numbers.items():
            setattr(self._arguments, name, number)

    def point(self, **tensors: Tensor | None) -> None:
        for name, tensor in tensors.items():
            if tensor is not None:
                self._kept[name] = kept = tensor.contiguous()
                setattr(self._arguments, name, kept.data_ptr())

    def rows(self, name: str, matrix: Tensor, rows: Tensor | None = None) -> None:
        _check(matrix)
        matrix = matrix.contiguous()
        rows = rows if rows is None else rows.contiguous()
        self._kept[name] = matrix, rows
        where = getattr(self._arguments, name)
        where.matrix, where.rows = matrix.data_ptr(), None if rows is None else rows.data_ptr()

    def add_offset(self, offset: Tensor | None) -> None:
        """Add a number (B,) to the scores of every anchor."""
        if offset is not None:
            before = self._kept.get("anchor_bias")
            self.point(anchor_bias=offset if before is None else before + offset)

    def __call__(self) -> None:
        if not _there(library()).recokit_contrast(ctypes.byref(self._arguments)):
            raise MemoryError("there is no memory for the scores of a batch; try a smaller batch or fewer negatives")


def _picked(of_edges: Tensor, at: Place) -> Tensor:
    """Return what belongs to the edges at some places; a slice is all of them."""
    return of_edges if isinstance(at, slice) else of_edges[at]


def _check(tensor: Tensor) -> None:
    """Refuse what the kernels would read as other numbers."""
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise TypeError(f"the kernels take float32 on the CPU, not {tensor.dtype} on {tensor.device}")


def _there(found: _T | None) -> _T:
    if found is None:
        raise RuntimeError("the kernels were not built, or a gradient was not asked for")
    return found


def uses_bfloat16(config: TrainConfig) -> bool:
    """Whether the products of a run take bfloat16: distances, differences of large numbers, never do."""
    return config.precision == "auto" and config.comparator in ("dot", "cos") and has_bfloat16()


def update_(
    table: Tensor,
    state: Tensor,
    parts: Sequence[tuple[Tensor, Tensor]],
    learning_rate: float,
    *,
    max_norm: float = 0.0,
    threads: int = 1,
) -> None:
    """Update a table (V, D) in place by Adagrad; see ``pretrain.optimizer.update_``."""
    for tensor in (table, state):
        _check(tensor)
        if not tensor.is_contiguous():
            raise TypeError("table and state are updated in place and have to be contiguous")
    arguments = Update()
    arguments.table, arguments.state, arguments.dim = table.data_ptr(), state.data_ptr(), table.shape[1]
    arguments.elements, arguments.rate, arguments.max_norm = state.dim() == 2, learning_rate, max_norm
    kept = [(rows.contiguous(), grads.contiguous()) for rows, grads in parts]
    for number, (rows, grads) in enumerate(kept):
        arguments.rows[number], arguments.grads[number] = rows.data_ptr(), grads.data_ptr()
        arguments.counts[number] = len(rows)
    arguments.parts = len(kept)
    arguments.threads = threads if sum(arguments.counts) >= _SHARED else 1
    if not _there(library()).recokit_update(ctypes.byref(arguments)):
        raise MemoryError("there is no memory for the rows of a batch; try a smaller batch or fewer negatives")


def penalise_(
    table: Tensor,
    rows: Tensor,
    weights: Tensor,
    totals: tuple[Tensor, Tensor],
    factors: Factors,
    *,
    threads: int = 1,
) -> None:
    """Add what the vectors of a batch cost by their size; see ``pretrain.regularisers.penalise_``."""
    losses, grads = totals
    for tensor in (table, weights, *totals):
        _check(tensor)
    for tensor in totals:
        if not tensor.is_contiguous():
            raise TypeError("losses and gradients are added to in place and have to be contiguous")
    table, rows, weights = table.contiguous(), rows.contiguous(), weights.contiguous()
    _there(library()).recokit_penalise(
        ctypes.byref(
            Penalty(
                table=table.data_ptr(),
                rows=rows.data_ptr(),
                weights=weights.data_ptr(),
                size=len(rows),
                dim=table.shape[1],
                **factors._asdict(),
                losses=losses.data_ptr(),
                grads=grads.data_ptr(),
                threads=threads,
            )
        )
    )
