"""One training step: a batch of edges to a loss and the gradients of every row that took part.

The interface is small so that faster engines can stand behind it: movers, a comparator and a loss each give a value
and a gradient by hand (no autograd), the step joins them.  An edge asks up to two questions, whose losses are added:
given the source, its target among other targets, and given the target, its source among other sources.
Shapes: B edges, N negatives a side, D dimension, R relations, P parameters of a relation.
"""

__all__ = ["Batch", "Gradients", "Place", "Sampled", "Step", "distinct", "joined", "parts"]

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.comparators import Comparator
from pretrain.config import TrainConfig
from pretrain.losses import Loss, make_loss
from pretrain.movers import Form
from pretrain.operators import runs
from pretrain.pooling import Pooled, Widened, comparator_of

_SIMILARITIES = 1 << 22  # of pairs of components that are held at a time: 16 MB


@dataclass(frozen=True, eq=False)
class Sampled:
    """The negatives of one side, shared by the edges of a batch."""

    rows: Tensor  # (N,)
    log_expected: Tensor | None = None  # (N,) log of how often the draw gives each of them, for the logQ correction
    known: Tensor | None = None  # (2, A) pairs (question, negative) that are known edges
    questions: Tensor | None = None  # (B,) the question of every edge, below B; None: every edge has its own


@dataclass(frozen=True, eq=False)
class Batch:
    """Edges and the negatives that they share; a side without negatives (None) asks no question.

    ``relations`` are rows of the block of parameters, ``reverse`` those of the reciprocal relations, where there are.
    """

    sources: Tensor  # (B,) rows
    targets: Tensor  # (B,) rows
    relations: Tensor  # (B,) rows
    weights: Tensor  # (B,) relation weight times edge weight
    negative_sources: Sampled | None
    negative_targets: Sampled | None
    reverse: Tensor | None = None  # (B,) rows
    one_relation: bool = False  # whether all edges are known to have the same


@dataclass(frozen=True, eq=False)
class Gradients:
    """What a step asks the optimizer to do; a row that took part several times stands there several times."""

    losses: Tensor  # (B,)
    source_rows: Tensor  # (B + N,) the edges' own rows first
    source_grads: Tensor  # (B + N, D)
    target_rows: Tensor  # (B + N,)
    target_grads: Tensor  # (B + N, D)
    relation_rows: Tensor  # (U,)
    relation_grads: Tensor  # (U, P)
    source_bias_grads: Tensor | None = None  # (B + N,)
    target_bias_grads: Tensor | None = None  # (B + N,)


@dataclass(frozen=True, eq=False)
class _Question:
    """One question for a whole batch, or for its edges of one relation."""

    form: Form
    anchors: Tensor  # (B, D)
    candidates: Tensor  # (B + N, D) every anchor's own one first, then the negatives
    block: Tensor  # (U, P)
    which: Tensor | None  # (B,) rows of the block
    weights: Tensor  # (B,)
    accidental: Tensor  # (B, N) what does not count as a negative
    log_expected: Tensor | None  # (N,)
    biases: tuple[Tensor, Tensor] | None  # of the anchors (B,) and the candidates (B + N,)


@dataclass(frozen=True, eq=False)
class _Answer:
    """Losses and gradients of one question for a whole batch."""

    losses: Tensor  # (B,)
    anchors: Tensor  # (B, D)
    candidates: Tensor  # (B + N, D)
    block: Tensor  # (U, P)
    biases: tuple[Tensor, Tensor] | None  # of the anchors (B,) and the candidates (B + N,)


@dataclass(frozen=True)
class Step:
    """Losses and gradients of a batch, for one choice of operator, comparator and loss.

    Args:
        for_target: How relations enter the question for the target, whose anchors are the sources.
        for_source: How they enter the question for the source.
        comparator: Gives scores, higher is better.
        loss: Sums over the positives.
        temperature: Scores are divided by it before the loss (1 for the plain losses).
    """

    for_target: Form
    for_source: Form
    comparator: Comparator
    loss: Loss
    temperature: float = 1.0

    @classmethod
    def of(cls, config: TrainConfig, for_target: Form, for_source: Form) -> "Step":
        """Return the step of some settings."""
        if config.has_mixtures:
            for_target, for_source = (
                Form(Widened(form.mover, config.dim), form.moves) for form in (for_target, for_source)
            )
        comparator = comparator_of(config, regularized=True)
        return cls(for_target, for_source, comparator, make_loss(config), config.temperature)

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
        """Compute losses and gradients.

        Args:
            sources: The table (N, D) of the source's entity type.
            targets: The table (N, D) of the target's entity type.
            block: Parameters (R, P) of the relations.
            batch: The edges and their negatives.
            source_bias: Biases (N,) of the source's entity type, where the model has them.
            target_bias: Biases (N,) of the target's entity type.
        """
        size = len(batch.sources)
        rows = {
            "source": joined(batch.sources, batch.negative_sources),
            "target": joined(batch.targets, batch.negative_targets),
        }
        vectors = {"source": sources[rows["source"]], "target": targets[rows["target"]]}  # (B + N, D)
        biases = {
            side: None if table is None else table[rows[side]]
            for side, table in (("source", source_bias), ("target", target_bias))
        }
        grads = {side: torch.zeros_like(part) for side, part in vectors.items()}
        bias_grads = {side: None if bias is None else torch.zeros_like(bias) for side, bias in biases.items()}
        losses = batch.weights.new_zeros(size)
        relation_rows, relation_grads = [], []
        for form, anchor, asked, sampled, relations in (
            (self.for_target, "source", "target", batch.negative_targets, batch.relations),
            (self.for_source, "target", "source", batch.negative_sources, batch.reverse),
        ):
            if sampled is None:
                continue
            unique, which = distinct(batch.relations if relations is None else relations, one=batch.one_relation)
            accidental = rows[asked][:size, None] == sampled.rows  # (B, N)
            if sampled.known is not None:
                known = torch.zeros_like(accidental)
                known[sampled.known[0], sampled.known[1]] = True
                accidental |= known if sampled.questions is None else known[sampled.questions]
            anchor_bias, asked_bias = biases[anchor], biases[asked]
            anchor_bias_grads, asked_bias_grads = bias_grads[anchor], bias_grads[asked]
            most = self._edges_at_once(vectors[anchor].shape[1], len(sampled.rows) * vectors[asked].shape[1])
            for relation_row, at, among, own_which in parts(form, unique, which, size, len(rows[asked]), most=most):
                answer = self._ask(
                    _Question(
                        form,
                        vectors[anchor][at],
                        vectors[asked][among],
                        block[relation_row],
                        own_which,
                        batch.weights[at],
                        accidental[at],
                        sampled.log_expected,
                        None if anchor_bias is None or asked_bias is None else (anchor_bias[at], asked_bias[among]),
                    )
                )
                losses[at] += answer.losses
                grads[anchor][at] += answer.anchors
                grads[asked][among] += answer.candidates
                if answer.biases is not None and anchor_bias_grads is not None and asked_bias_grads is not None:
                    anchor_bias_grads[at] += answer.biases[0]
                    asked_bias_grads[among] += answer.biases[1]
                relation_rows.append(relation_row)
                relation_grads.append(answer.block)
        return Gradients(
            losses,
            rows["source"],
            grads["source"],
            rows["target"],
            grads["target"],
            torch.cat(relation_rows) if relation_rows else batch.relations[:0],
            torch.cat(relation_grads) if relation_grads else block[:0],
            bias_grads["source"],
            bias_grads["target"],
        )

    def _edges_at_once(self, width: int, drawn: int) -> int | None:
        """Return of how many edges, with anchors so wide and so many numbers drawn, similarities are held at once."""
        if not isinstance(self.comparator, Pooled):
            return None
        similarities = width // self.comparator.dim * (drawn // self.comparator.dim)
        return max(1, _SIMILARITIES // max(1, similarities))

    def _ask(self, ask: _Question) -> _Answer:
        """Score every anchor's own candidate and the negatives, and go all the way back."""
        size, comparator, mover = len(ask.anchors), self.comparator, ask.form.mover
        moves_anchors = ask.form.moves == "anchors"
        moved = (ask.anchors, ask.block, ask.which) if moves_anchors else (ask.candidates, ask.block, None)
        shifted, offset = mover.forward(*moved)
        queries, query_cache = comparator.prepare(shifted if moves_anchors else ask.anchors)
        prepared, candidate_cache = comparator.prepare(ask.candidates if moves_anchors else shifted)
        own, drawn = prepared[:size], prepared[size:]
        positive, pair_cache = comparator.pairs(queries, own)  # (B,)
        scores, block_cache = comparator.block(queries, drawn)  # (B, N)
        if ask.biases is not None:
            anchor_bias, candidate_bias = ask.biases
            offset = anchor_bias if offset is None else offset + anchor_bias
            positive = positive + candidate_bias[:size]
            scores += candidate_bias[size:]
        if offset is not None:
            positive = positive + offset
            scores += offset[:, None]
        if self.temperature != 1.0:
            positive = positive / self.temperature
            scores.div_(self.temperature)
        if ask.log_expected is not None:
            scores -= ask.log_expected
        scores.masked_fill_(ask.accidental, -torch.inf)

        losses, grad_positive, grad_scores = self.loss(positive, scores, ask.weights)
        if self.temperature != 1.0:
            grad_positive = grad_positive / self.temperature
            grad_scores.div_(self.temperature)
        grad_offset = torch.zeros_like(positive)
        if offset is not None and self.loss.sees_offsets:
            grad_offset = grad_positive + grad_scores.sum(1)
        biases = None
        if ask.biases is not None:
            biases = grad_offset, torch.cat([grad_positive, grad_scores.sum(0)])
        grad_queries, grad_own = comparator.pairs_backward(queries, own, pair_cache, grad_positive)
        grad_anchors, grad_drawn = comparator.block_backward(queries, drawn, block_cache, grad_scores)
        grad_anchors = comparator.prepare_backward(queries, query_cache, grad_anchors + grad_queries)
        grad_candidates = comparator.prepare_backward(prepared, candidate_cache, torch.cat([grad_own, grad_drawn]))
        if moves_anchors:
            grad_anchors, grad_block = mover.backward(*moved, grad_anchors, grad_offset)
        else:
            grad_candidates, grad_block = mover.backward(*moved, grad_candidates, grad_offset)
        return _Answer(losses, grad_anchors, grad_candidates, grad_block, biases)


def joined(own: Tensor, sampled: Sampled | None) -> Tensor:
    """Return the rows (B + N,) of a side: the edges' own, then the negatives'."""
    return own if sampled is None else torch.cat([own, sampled.rows])


def distinct(relations: Tensor, *, one: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return the distinct relations (U,) of a batch and which of them every edge has, None where there is one."""
    if one:
        return relations[:1], None
    unique, which = torch.unique(relations, return_inverse=True)
    return unique, None if len(unique) == 1 else which


Place = slice | Tensor


def parts(
    form: Form, unique: Tensor, which: Tensor | None, size: int, total: int, *, most: int | None = None
) -> Iterator[tuple[Tensor, Place, Place, Tensor | None]]:
    """Cut a question into what can be asked at once: all of it, or, where candidates move, the edges of one relation.

    Yields the relations (U,), the places of their edges among the B, the places of these edges' own candidates and of
    the negatives among the B + N, and the relation of every edge; at most ``most`` edges at once.
    """
    whole = which is None or form.moves == "anchors"
    if whole and (most is None or size <= most):
        yield unique, slice(size), slice(None), which
        return
    negatives = torch.arange(size, total, device=unique.device)
    if whole or which is None:
        everything = torch.arange(size, device=unique.device)
        for edges in everything.split(most or size):  # type: ignore[no-untyped-call]
            yield unique, edges, torch.cat([edges, negatives]), None if which is None else which[edges]
        return
    for row, found in runs(which):
        for edges in found.split(most or size):  # type: ignore[no-untyped-call]
            yield unique[row : row + 1], edges, torch.cat([edges, negatives]), None
