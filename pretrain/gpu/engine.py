"""The step of a CUDA device: what ``pretrain.step`` does, made of Triton's kernels.

``KernelStep`` stands behind the same interface as ``Step`` and never waits for the device: nothing of it depends on a
number that the host would have to read, so that a whole batch can be captured (``pretrain.gpu.graphs``).  That decides
how relations are handled.  Edges of one relation move the vectors of the operator's end once, in front of both
questions, which then share all operands.  Edges of many relations move the anchors of each question, every edge with
its own copy of the parameters, and the optimizer sums what falls on a relation; ``torch.unique`` is not asked.  What
the kernels do not do (distances, adversarial weights, ...) stays with torch: ``refusal`` says why.
Shapes: B edges, N negatives a side, D dimension, P parameters of a relation.
"""

__all__ = ["KernelStep", "make_step", "product_of", "refusal"]

import dataclasses

import torch
from torch import Tensor

from pretrain.config import Side, TrainConfig
from pretrain.gpu import Kind
from pretrain.gpu.contrast import MAX_DIM, Contrast, Objective, Prepared, Product, contrast, prepare
from pretrain.movers import Form, forms
from pretrain.operators import OPERATORS
from pretrain.step import Batch, Gradients, Sampled, Step

_MATRICES = ("linear", "affine")


def product_of(config: TrainConfig) -> Product:
    """Return how products are made: ``precision="float32"`` is float32, ``"auto"`` is bfloat16 operands."""
    return "ieee" if config.precision == "float32" else "bf16"


def refusal(config: TrainConfig, kind: Kind, product: Product | None = None) -> str | None:
    """Return why the kernels cannot take such edges; None if they can."""
    most = MAX_DIM[product or product_of(config)]
    if config.comparator not in ("dot", "cos"):
        return f"the comparator {config.comparator!r} has no kernel; dot and cos have"
    if config.dim > most:
        return f"dim is {config.dim}; the kernels take {most} at most at this precision"
    if config.adversarial:
        return "adversarial weights need the scores of all negatives at once"
    if config.filter_positives:
        return "filter_positives looks up known edges on the host"
    if not kind.one_relation:
        if kind.operator in _MATRICES:
            return f"edges of many relations with the operator {kind.operator!r} are cut by relation on the host"
        entering = forms(kind.operator, kind.operator_side, config.comparator, reciprocal=config.reciprocal)
        if any(entering[side].moves == "candidates" for side in kind.sides):
            return f"the operator {kind.operator!r} moves the candidates, which one relation at a time can do"
    return None


def make_step(for_target: Form, for_source: Form, config: TrainConfig, kind: Kind) -> "KernelStep | Step":
    """Return the kernels' step for such edges, or torch's where the kernels cannot take them."""
    if refusal(config, kind) is None:
        return KernelStep.of(config, kind)
    return Step.of(config, for_target, for_source)


@dataclasses.dataclass(frozen=True)
class KernelStep:
    """Losses and gradients of a batch by kernels, with the interface of ``Step``.

    Args:
        config: The settings; ``refusal`` has nothing against them.
        kind: What the edges are.
        product: How matrix products are made.
    """

    config: TrainConfig
    kind: Kind
    product: Product

    @classmethod
    def of(cls, config: TrainConfig, kind: Kind) -> "KernelStep":
        """Return the step for these settings."""
        return cls(config, kind, product_of(config))

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
        """Compute losses and gradients; the arguments are those of ``Step``.

        The rows of the relations come back once an edge where edges have many relations.
        """
        ends: dict[Side, _End] = {
            "source": _End.of(sources, batch.sources, batch.negative_sources, source_bias),
            "target": _End.of(targets, batch.targets, batch.negative_targets, target_bias),
        }
        losses, biases = torch.zeros_like(batch.weights), _Biases(ends)
        work = self._shared if self._shares() else self._by_question
        grads, relation_rows, relation_grads = work(ends, block, batch, losses, biases)
        return Gradients(
            losses,
            ends["source"].rows,
            grads["source"],
            ends["target"].rows,
            grads["target"],
            relation_rows,
            relation_grads,
            biases.grads["source"],
            biases.grads["target"],
        )

    def _forms(self) -> dict[Side, Form]:
        config, kind = self.config, self.kind
        return forms(kind.operator, kind.operator_side, config.comparator, reciprocal=config.reciprocal)

    def _shares(self) -> bool:
        """Whether both questions can have the same operands.

        A translation, pulled out of a dot product, adds a number to all scores of an anchor, whose gradient is 0 under
        most losses; that of moved vectors would be a sum of rounded terms, which Adagrad makes steps of.
        """
        pulled = self.config.comparator == "dot" and self.kind.operator in ("translation", "affine")
        return self.kind.one_relation and not self.config.reciprocal and not pulled

    def _prepare(self, vectors: Tensor, rows: Tensor | None = None, shift: Tensor | None = None) -> Prepared:
        return prepare(vectors, rows, shift, normalise=self.config.comparator == "cos", product=self.product)

    # -- edges of one relation: the operator's end is moved, once ------------------------------------------------------

    def _shared(
        self, ends: "dict[Side, _End]", block: Tensor, batch: Batch, losses: Tensor, biases: "_Biases"
    ) -> "_Found":
        name, moved = self.kind.operator, self.kind.operator_side
        relation = batch.relations[:1]
        parameters = block[relation]  # (1, P)
        operands, gathered = {}, None
        for side, end in ends.items():
            if side != moved or name == "identity":
                operands[side] = self._prepare(end.table, end.rows)
            elif name == "translation":
                operands[side] = self._prepare(end.table, end.rows, parameters[0])
            else:
                gathered = end.table[end.rows]
                operands[side] = self._prepare(OPERATORS[name].forward(gathered, parameters, None))
        size, written = len(batch.weights), False
        grads = {side: end.table.new_empty((len(end.rows), end.table.shape[1])) for side, end in ends.items()}
        for asked in self.kind.sides:
            anchor, sampled = _other(asked), ends[asked].sampled
            if sampled is None:
                continue
            answer = contrast(
                Objective.of(self.config),
                _cut(operands[anchor], slice(size)),
                _cut(operands[asked], slice(size)),
                _cut(operands[asked], slice(size, None)),
                ends[asked].rows[:size],
                sampled.rows,
                batch.weights,
                offsets=biases.of(anchor, slice(size)),
                biases=biases.pair(asked, size),
                log_expected=sampled.log_expected,
                product=self.product,
                into=(grads[anchor][:size], grads[asked][:size]),
                add=written,
            )
            written = True
            grads[asked][size:] = answer.negatives
            losses += answer.losses
            biases.add(anchor, asked, answer)
        if not written:
            grads = {side: grad.zero_() for side, grad in grads.items()}
        if name == "identity":
            return grads, relation, torch.zeros_like(parameters)
        if gathered is None:
            return grads, relation, grads[moved].sum(0, keepdim=True)
        grads[moved], of_block = OPERATORS[name].backward(gathered, parameters, None, grads[moved])
        return grads, relation, of_block

    # -- edges of many relations, and forms that add offsets: each question moves its anchors --------------------------

    def _by_question(
        self, ends: "dict[Side, _End]", block: Tensor, batch: Batch, losses: Tensor, biases: "_Biases"
    ) -> "_Found":
        size = len(batch.weights)
        grads = {side: end.table.new_zeros((len(end.rows), end.table.shape[1])) for side, end in ends.items()}
        relation_rows, relation_grads = [batch.relations[:0]], [block[:0]]
        entering = self._forms()
        for asked in self.kind.sides:
            anchor, sampled = _other(asked), ends[asked].sampled
            if sampled is None:
                continue
            rows = batch.relations if asked == "target" or batch.reverse is None else batch.reverse
            rows = rows[:1] if self.kind.one_relation else rows
            which = None if self.kind.one_relation else torch.arange(size, device=rows.device)
            anchors, parameters = ends[anchor].table[ends[anchor].rows[:size]], block[rows]
            mover = entering[asked].mover
            shifted, offset = mover.forward(anchors, parameters, which)
            own_offset = biases.of(anchor, slice(size))
            if own_offset is not None:
                offset = own_offset if offset is None else offset + own_offset
            candidates = self._prepare(ends[asked].table, ends[asked].rows)
            answer = contrast(
                Objective.of(self.config),
                self._prepare(shifted),
                _cut(candidates, slice(size)),
                _cut(candidates, slice(size, None)),
                ends[asked].rows[:size],
                sampled.rows,
                batch.weights,
                offsets=offset,
                biases=biases.pair(asked, size),
                log_expected=sampled.log_expected,
                product=self.product,
            )
            of_offsets = torch.zeros_like(batch.weights) if answer.offsets is None else answer.offsets
            of_anchors, of_block = mover.backward(anchors, parameters, which, answer.queries, of_offsets)
            grads[anchor][:size] += of_anchors
            grads[asked][:size] += answer.own
            grads[asked][size:] += answer.negatives
            losses += answer.losses
            biases.add(anchor, asked, answer)
            relation_rows.append(rows)
            relation_grads.append(of_block)
        return grads, torch.cat(relation_rows), torch.cat(relation_grads)


_Found = tuple[dict[Side, Tensor], Tensor, Tensor]  # gradients of the ends' vectors, rows and gradients of relations


@dataclasses.dataclass(frozen=True, eq=False)
class _End:
    """One end of a batch's edges."""

    table: Tensor  # (T, D)
    rows: Tensor  # (B + N,) the edges' own first
    sampled: Sampled | None
    bias: Tensor | None  # (T,)

    @classmethod
    def of(cls, table: Tensor, own: Tensor, sampled: Sampled | None, bias: Tensor | None) -> "_End":
        return cls(table, own if sampled is None else torch.cat([own, sampled.rows]), sampled, bias)


class _Biases:
    """Biases of the rows of both ends, and their gradients."""

    def __init__(self, ends: dict[Side, _End]) -> None:
        self.values = {side: None if end.bias is None else end.bias[end.rows] for side, end in ends.items()}
        self.grads = {side: None if value is None else torch.zeros_like(value) for side, value in self.values.items()}

    def of(self, side: Side, part: slice) -> Tensor | None:
        value = self.values[side]
        return None if value is None else value[part]

    def pair(self, asked: Side, size: int) -> tuple[Tensor, Tensor] | None:
        """Return those of the own candidates (B,) and of the negatives (N,)."""
        value = self.values[asked]
        return None if value is None else (value[:size], value[size:])

    def add(self, anchor: Side, asked: Side, answer: Contrast) -> None:
        of_anchor, of_asked = self.grads[anchor], self.grads[asked]
        if of_anchor is not None and answer.offsets is not None:
            of_anchor[: len(answer.offsets)] += answer.offsets
        if of_asked is not None and answer.own_biases is not None and answer.negative_biases is not None:
            of_asked += torch.cat([answer.own_biases, answer.negative_biases])


def _other(side: Side) -> Side:
    return "target" if side == "source" else "source"


def _cut(prepared: Prepared, part: slice) -> Prepared:
    return Prepared(prepared.vectors[part], None if prepared.inverse is None else prepared.inverse[part])
