"""How much of each source's engagement goes to each cluster, and the few clusters that a mixture keeps.

Shapes: S sources, K clusters, C components kept.
"""

__all__ = ["keep_top", "normalized", "share_matrix"]

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recokit.index.scoring import EMPTY, Rows, pack, unpack

_GATHERED = 1 << 18  # numbers sorted at a time: 2 MiB


def share_matrix(
    sources: NDArray[np.int32], clusters: NDArray[np.int32], weights: NDArray[np.float64], shape: tuple[int, int]
) -> sparse.csr_matrix:
    """Return the sums (S, K) of the interactions' weights (E,) by source and cluster."""
    return sparse.csr_matrix((weights, (sources, clusters)), shape=shape)


def normalized(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return a matrix (S, K) of sums as shares that sum to 1 for each source that has some."""
    data = _relative(matrix.data, matrix.indptr, np.maximum)  # by the largest first: sums of tiny numbers keep digits
    return sparse.csr_matrix((_relative(data, matrix.indptr, np.add), matrix.indices, matrix.indptr), matrix.shape)


def keep_top(matrix: sparse.csr_matrix, top: int) -> tuple[Rows, NDArray[np.float32]]:
    """Return the clusters (S, C) with the largest sums of each source, largest first, and those sums (S, C).

    Sums are relative to the source's largest and are compared in float32, in which mixtures hold them, so that the
    order in which they were added seldom decides; of equal ones the smaller cluster comes first. What is not there is
    cluster -1 with sum 0.
    """
    top = min(top, matrix.shape[1])
    relative = _relative(matrix.data, matrix.indptr, np.maximum).astype(np.float32)
    keys = pack(relative, matrix.indices.astype(np.int64))
    sizes = np.diff(matrix.indptr)
    kept = np.full((len(sizes), top), EMPTY)
    widths = np.exp2(np.ceil(np.log2(np.maximum(sizes, 1)))).astype(np.int64)
    widths[sizes == 0] = 0
    # Sources of about as many clusters at a time: a few rectangles, little padding.
    for width in np.unique(widths[widths > 0]).tolist():
        rows = np.flatnonzero(widths == width)
        step = max(1, _GATHERED // width)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            at = matrix.indptr[part][:, None] + np.arange(width)
            there = np.arange(width) < sizes[part][:, None]
            found = np.where(there, keys[np.minimum(at, len(keys) - 1)], EMPTY)
            found.sort(axis=1)
            kept[part, :width] = found[:, :top]
    clusters, sums = unpack(kept)
    return clusters, np.where(clusters < 0, np.float32(0), sums)


def _relative(data: NDArray[np.float64], starts: NDArray[Any], reduce: np.ufunc) -> NDArray[np.float64]:
    """Divide the numbers of each row, which begin at ``starts``, by what ``reduce`` makes of them."""
    sizes = np.diff(starts)
    filled = sizes > 0
    if not filled.any():
        return data
    of_rows: NDArray[np.float64] = np.repeat(reduce.reduceat(data, starts[:-1][filled]), sizes[filled])
    return data / of_rows
