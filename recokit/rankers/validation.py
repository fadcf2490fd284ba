"""What a ranker's validation rows say of it.

Shapes: B rows of a batch, T labels.
"""

__all__ = ["evaluate"]

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recokit.errors import DataError
from recokit.features import Batch, take
from recokit.metrics import roc_auc
from recokit.rankers.base import Ranker, to_tensors
from recokit.rankers.batches import Batches, Buffer, ahead


def evaluate(ranker: Ranker, rows: Batches, *, auc: bool) -> tuple[float, float]:
    """Return the ranker's loss of all rows, summed in float64, and the ROC-AUC, NaN unless it is asked for.

    The loss is the mean over the rows and their weights. Where it is one of whole groups, it is that of all rows that
    are in memory together, in one. The AUC of several labels is their mean.

    Raises:
        DataError: There are no rows, none that weighs anything, or those of one class alone where the AUC is asked for.
    """
    total = weight = 0.0
    scored: list[tuple[Tensor, Batch[Tensor]]] = []
    ranker.eval()
    with torch.inference_mode():
        for _, buffer in ahead(rows.buffers()):
            parts = (_scored(ranker, arrays) for arrays in buffer.batches())
            for logits, batch in _in_one(ranker, buffer, parts) if ranker.batches_by_group else parts:
                size = float(len(batch) if batch.weight is None else batch.weight.sum())
                total += float(ranker.loss(logits, batch)) * size
                weight += size
                if auc:
                    scored.append((logits, batch))
    ranker.train()
    if not weight > 0:
        raise DataError("there are no validation rows, or none that weighs anything")
    return total / weight, _auc(scored) if auc else math.nan


def _scored(ranker: Ranker, arrays: Batch[NDArray[Any]]) -> tuple[Tensor, Batch[Tensor]]:
    batch = to_tensors(arrays, ranker.bias.device)
    return ranker(batch).double(), batch


def _in_one(
    ranker: Ranker, buffer: Buffer, parts: Iterable[tuple[Tensor, Batch[Tensor]]]
) -> list[tuple[Tensor, Batch[Tensor]]]:
    """Put the batches of a buffer together."""
    logits = [logits for logits, _ in parts]
    whole = to_tensors(take(buffer.arrays, buffer.order), ranker.bias.device)
    return [(torch.cat(logits), whole)] if logits else []


def _auc(scored: list[tuple[Tensor, Batch[Tensor]]]) -> float:
    labels = np.concatenate([batch.labels.cpu().numpy() for _, batch in scored if batch.labels is not None])  # (N, T)
    scores = torch.cat([logits for logits, _ in scored]).cpu().numpy().reshape(labels.shape)
    weights = [batch.weight.cpu().numpy() for _, batch in scored if batch.weight is not None]
    weight = np.concatenate(weights) if weights else None
    areas = [roc_auc(label, score, weight=weight) for label, score in zip(labels.T, scores.T, strict=True)]
    if any(map(math.isnan, areas)):
        raise DataError("the validation rows have labels of one class alone, for which there is no AUC")
    return float(np.mean(areas))
