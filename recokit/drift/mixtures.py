"""Mixtures of two versions: which component became which, and how the weights moved.

The components of an id have no names, and an order that means nothing. Each old component is matched with one new
component at most, so that the sum over matches of (w + w') / 2 * cos is largest (Kuhn 1955); what is absent has weight
0. Shapes: N common ids, b ids of a block, C components, D dimension.
"""

__all__ = ["match_components"]

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from recokit.drift.common import TablePair
from recokit.index.lift import blocks
from recokit.index.scoring import Rows, unit
from recokit.table import Mixture

_BLOCK = 4096  # ids at a time


def match_components(pair: TablePair) -> dict[str, NDArray[np.float64]]:
    """Return ``component cosine`` and ``weight shift`` of every common id, (N,) each; nothing unless both are mixtures.

    ``component cosine`` is that sum, from -1 to 1: the mean cosine of matched components, each counted by its weights.
    ``weight shift`` is sum |w - w'| / 2 over matched and unmatched components: the share of weight that moved, from 0
    to 1.
    """
    old, new = pair.old, pair.new
    if not (isinstance(old, Mixture) and isinstance(new, Mixture)):
        return {}
    found = {"component cosine": np.empty(pair.count), "weight shift": np.empty(pair.count)}
    size = max(old.num_components, new.num_components)
    for part in blocks(pair.count, _BLOCK):
        w, x = _padded(old, pair.old_rows[part], size)
        v, y = _padded(new, pair.new_rows[part], size)
        gain = (w[:, :, None] + v[:, None, :]) / 2 * np.einsum("bcd,bed->bce", x, y)  # (b, C, C)
        match = np.stack([linear_sum_assignment(each, maximize=True)[1] for each in gain])  # (b, C)
        found["component cosine"][part] = np.take_along_axis(gain, match[:, :, None], axis=2).sum(axis=(1, 2))
        found["weight shift"][part] = np.abs(w - np.take_along_axis(v, match, axis=1)).sum(axis=1) / 2
    return found


def _padded(mixture: Mixture, rows: Rows, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weights (b, size) and unit vectors (b, size, D); weight 0 where an id has fewer."""
    vectors = mixture.vectors_at(rows).astype(np.float64)
    count, own, dim = vectors.shape
    weights, units = np.zeros((count, size)), np.zeros((count, size, dim))
    weights[:, :own] = mixture.weights[rows]
    units[:, :own] = unit(vectors.reshape(count * own, dim)).reshape(count, own, dim)
    return weights, units
