"""A training step in plain torch, as somebody would write it in an afternoon: a yardstick for ``train_speed.py``.

Dot products of unmoved vectors, sampled softmax with its gradient by hand, one block of uniform negatives a side,
row-wise Adagrad.  It moves nothing by a relation, normalises nothing and masks no negative that is the positive itself,
so it does less than what is measured beside it.
Shapes: B edges, N negatives a side, D dimension, V rows of a table.
"""

__all__ = ["Sketch"]

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sketch:
    """Tables (V, D) of both ends and their accumulators (V,); a call takes a step on the rows (B,) of some edges."""

    tables: tuple[Tensor, Tensor]
    states: tuple[Tensor, Tensor]
    negatives: int
    temperature: float = 1.0
    learning_rate: float = 0.1

    def __call__(self, sources: Tensor, targets: Tensor) -> Tensor:
        """Train a batch in place; returns the sum of its losses."""
        rows = [torch.cat([own, torch.randint(len(table), (self.negatives,))])
                for own, table in zip((sources, targets), self.tables, strict=True)]  # fmt: skip
        size, vectors = len(sources), [table[at] for table, at in zip(self.tables, rows, strict=True)]  # (B + N, D)
        grads, loss = [torch.zeros_like(part) for part in vectors], torch.zeros(())
        for anchor, asked in ((0, 1), (1, 0)):
            anchors, own, drawn = vectors[anchor][:size], vectors[asked][:size], vectors[asked][size:]
            values, grad_own, grad_scores = self._softmax((anchors * own).sum(1), anchors @ drawn.T)
            grads[anchor][:size].addmm_(grad_scores, drawn).addcmul_(grad_own, own)
            grads[asked][:size].addcmul_(grad_own, anchors)
            torch.mm(grad_scores.T, anchors, out=grads[asked][size:])
            loss += values.sum()
        for table, state, at, grad in zip(self.tables, self.states, rows, grads, strict=True):
            self._update(table, state, at, grad)
        return loss

    def _softmax(self, positive: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (B,) of scores (B,) and (B, N), their gradients (B, 1) and, in place of the scores, (B, N)."""
        top = torch.maximum(positive, scores.amax(1))
        exponents = scores.sub_(top[:, None]).div_(self.temperature).exp_()
        own = ((positive - top) / self.temperature).exp()
        total = exponents.sum(1) + own
        losses = total.log() - own.log()
        grad_own = (own / total - 1) / self.temperature
        return losses, grad_own[:, None], exponents.div_((total * self.temperature)[:, None])

    def _update(self, table: Tensor, state: Tensor, rows: Tensor, grads: Tensor) -> None:
        """Sum the gradients of a row, then take its one step."""
        ordered, order = rows.sort()
        unique, place = torch.unique_consecutive(ordered, return_inverse=True)
        summed = grads.new_zeros(len(unique), grads.shape[1]).index_add_(0, place, grads[order])
        grown = state[unique] + summed.square().mean(1)
        state[unique] = grown
        table.index_add_(0, unique, summed.mul_((-self.learning_rate / (grown.sqrt() + 1e-10))[:, None]))
