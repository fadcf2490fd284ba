"""What rankers minimise: the log loss of rows, and the softmax cross-entropy of sessions.

Shapes: B rows of a batch, T labels, S sessions.
"""

__all__ = ["listwise_loss", "log_loss"]

import torch
import torch.nn.functional as F
from torch import Tensor

from recokit.errors import DataError
from recokit.features import Batch


def log_loss(logits: Tensor, batch: Batch[Tensor]) -> Tensor:
    """Return the weighted mean log loss of a batch in nats, over its rows and labels.

    Args:
        logits: (B,) or (B, T).
        batch: With labels (B, T) and, where rows weigh differently, weight (B,).
    """
    if batch.labels is None:
        raise DataError("the batch has no labels")
    losses = F.binary_cross_entropy_with_logits(logits.view_as(batch.labels), batch.labels.to(logits), reduction="none")
    if batch.weight is None:
        return losses.mean()
    return (losses.mean(dim=1) * batch.weight).sum() / batch.weight.sum().clamp(min=torch.finfo(losses.dtype).tiny)


def listwise_loss(logits: Tensor, batch: Batch[Tensor]) -> Tensor:
    """Return the mean over sessions of the softmax cross-entropy of their rows (ListNet, Cao et al. 2007).

    A session's loss is ``-sum_i y_i log softmax(s)_i / sum_i y_i``. Sessions without a positive or of a single row say
    nothing and are left out, as are rows of group -1; of none that is left the loss is 0. A session weighs what its
    rows weigh on average.

    Args:
        logits: (B,), the scores s.
        batch: With one label (B, 1), group (B,) and, where sessions weigh differently, weight (B,).
    """
    if batch.labels is None or batch.group is None:
        raise DataError(f"the batch has no {'labels' if batch.labels is None else 'groups'}")
    grouped = batch.group >= 0
    scores, labels = logits[grouped], batch.labels[grouped, 0].to(logits)
    session = torch.unique(batch.group[grouped], return_inverse=True)[1]  # (B,), from 0 to S - 1
    count = int(session.max()) + 1 if len(session) else 0

    def per_session(values: Tensor) -> Tensor:  # (B,) -> (S,)
        return scores.new_zeros(count).index_add(0, session, values)

    # softmax does not feel the largest score of a session being taken off: no exponential overflows
    largest = scores.new_full((count,), -torch.inf).scatter_reduce(0, session, scores.detach(), "amax")
    shifted = scores - largest[session]
    log_total = per_session(shifted.exp()).log()  # (S,)
    rows, positives = per_session(torch.ones_like(scores)), per_session(labels)
    losses = per_session(labels * (log_total[session] - shifted)) / positives.clamp(min=1.0)
    weight = torch.ones_like(losses)
    if batch.weight is not None:
        weight = per_session(batch.weight[grouped].to(scores)) / rows
    weight = weight * ((positives > 0) & (rows > 1))
    return (losses * weight).sum() / weight.sum().clamp(min=torch.finfo(losses.dtype).tiny)
