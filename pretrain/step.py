"""One training step: a batch of edges of one relation to a loss and the gradients of every row that took part.

The interface is small so that faster engines can stand behind it: an operator, a comparator and a loss each give a
value and a gradient by hand (no autograd), the step joins them.  For an edge (s, r, t) and a side to corrupt,
``score(s, t) = comparator(operator_r(s), t)``; corrupting the target compares the operated source with other targets,
corrupting the source compares other operated sources with the target; the two losses are added.
Shapes: B edges, N negatives a side, D dimension, P parameters of the relation.
"""

__all__ = ["Batch", "Gradients", "Step"]

from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.comparators import Comparator
from pretrain.losses import Loss
from pretrain.operators import Operator


@dataclass(frozen=True, eq=False)
class Batch:
    """Edges of one relation and the negatives that they share; a side without negatives is not corrupted."""

    sources: Tensor  # (B,) rows
    targets: Tensor  # (B,) rows
    weights: Tensor  # (B,) relation weight times edge weight
    negative_sources: Tensor  # (N,) rows
    negative_targets: Tensor  # (N,) rows


@dataclass(frozen=True, eq=False)
class Gradients:
    """What a step asks the optimizer to do; a row that took part several times stands there several times."""

    loss: Tensor  # ()
    source_rows: Tensor  # (B + N,)
    source_grads: Tensor  # (B + N, D)
    target_rows: Tensor  # (B + N,)
    target_grads: Tensor  # (B + N, D)
    parameter_grad: Tensor  # (P,)


@dataclass(frozen=True)
class Step:
    """Loss and gradients of a batch, for one choice of operator, comparator and loss.

    Args:
        operator: Acts on the source.
        comparator: Gives scores, higher is better.
        loss: Sums over the positives.
        temperature: Scores are divided by it before the loss (1 for the plain losses).
    """

    operator: Operator
    comparator: Comparator
    loss: Loss
    temperature: float = 1.0

    def __call__(self, sources: Tensor, targets: Tensor, parameters: Tensor, batch: Batch) -> Gradients:
        """Compute loss and gradients.

        Args:
            sources: The table (N, D) of the source's entity type.
            targets: The table (N, D) of the target's entity type.
            parameters: The relation's parameters (P,).
            batch: The edges and their negatives.
        """
        size = len(batch.sources)
        source_rows = torch.cat([batch.sources, batch.negative_sources])
        target_rows = torch.cat([batch.targets, batch.negative_targets])
        raw = sources[source_rows]  # (B + N, D)
        operated = self.operator.forward(raw, parameters)
        left, left_cache = self.comparator.prepare(operated)
        right, right_cache = self.comparator.prepare(targets[target_rows])
        grad_left, grad_right = torch.zeros_like(left), torch.zeros_like(right)

        positive = self.comparator.pairs(left[:size], right[:size]) / self.temperature  # (B,)
        grad_positive = torch.zeros_like(positive)
        loss = positive.new_zeros(())
        for here, there, grad_here, grad_there, own, drawn in (
            (left, right, grad_left, grad_right, batch.targets, batch.negative_targets),
            (right, left, grad_right, grad_left, batch.sources, batch.negative_sources),
        ):
            if len(drawn) == 0:
                continue
            scores = self.comparator.block(here[:size], there[size:])  # (B, N)
            if self.temperature != 1.0:
                scores.div_(self.temperature)
            scores.masked_fill_(own[:, None] == drawn, -torch.inf)  # accidental positives
            value, grad_own, grad_scores = self.loss(positive, scores, batch.weights)
            if self.temperature != 1.0:
                grad_scores.div_(self.temperature)
            grad_anchors, grad_drawn = self.comparator.block_backward(here[:size], there[size:], grad_scores)
            grad_here[:size] += grad_anchors
            grad_there[size:] += grad_drawn
            grad_positive += grad_own
            loss = loss + value

        grad_a, grad_b = self.comparator.pairs_backward(left[:size], right[:size], grad_positive / self.temperature)
        grad_left[:size] += grad_a
        grad_right[:size] += grad_b
        grad_operated = self.comparator.prepare_backward(left, left_cache, grad_left)
        source_grads, parameter_grad = self.operator.backward(raw, parameters, grad_operated)
        target_grads = self.comparator.prepare_backward(right, right_cache, grad_right)
        return Gradients(loss, source_rows, source_grads, target_rows, target_grads, parameter_grad)
