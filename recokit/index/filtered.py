"""Search that leaves rows out: per query (what a user has seen) or for all (an allow-list), complete in every case.

Exact search leaves them out while it scans. Other indexes are asked for more rows than are wanted, and what may not
be returned is dropped; queries that come back short are asked again for twice as many, until a scan is cheaper.

Shapes: Q queries, f rows fetched.
"""

__all__ = ["search_filtered"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.index.exact import ExactIndex
from recokit.index.pairs import Pairs, in_sorted
from recokit.index.protocol import Index
from recokit.index.scoring import Rows, Scores, check_k, check_vectors

# A row fetched from a graph costs about as much as this many rows scanned in a batch (measured 40 to 500, D = 64).
_SCANNED_PER_FETCHED = 100


def search_filtered(
    index: Index, vectors: NDArray[Any], k: int, *, exclude: Pairs, among: Rows | None = None
) -> tuple[Rows, Scores]:
    """Return the best ``k`` rows of each query vector that are allowed and not excluded, and their scores.

    Args:
        index: Any index.
        vectors: Query vectors (Q, D).
        k: At least 1.
        exclude: For each query, rows that are not to be found.
        among: The rows allowed, ascending and distinct; None for all.

    Returns:
        Rows (Q, k) int64 and scores (Q, k) float32, best first; row -1 and score -inf only where a query has fewer than
        ``k`` rows that are allowed and not excluded, also where ``index`` is approximate.
    """
    vectors, k = check_vectors(index.table, vectors), check_k(k)
    count = index.table.count
    exact = index if isinstance(index, ExactIndex) else ExactIndex(index.table)
    if exact is index:
        return exact.search(vectors, k, among=among, exclude=exclude)
    if among is not None:
        exclude = exclude.within(among)
    allowed = count if among is None else len(among)
    wanted = np.minimum(k, allowed - exclude.counts)  # (Q,)
    rows, scores = np.full((len(vectors), k), -1), np.full((len(vectors), k), -np.inf, np.float32)
    fetch = _steps(np.ceil((k + exclude.counts) * (count / max(1, allowed))), k)  # (Q,)
    pending = np.flatnonzero(wanted > 0)
    while pending.size:
        amounts = np.minimum(fetch[pending], count)
        scan = (fetch[pending] > k) & (amounts * _SCANNED_PER_FETCHED >= allowed)
        if scan.any():
            at = pending[scan]
            rows[at], scores[at] = exact.search(vectors[at], k, among=among, exclude=exclude.take(at))
        for amount in np.unique(amounts[~scan]):
            at = pending[~scan & (amounts == amount)]
            found, found_scores = index.search(vectors[at], int(amount))
            rows[at], scores[at] = _first_kept(found, found_scores, _kept(found, exclude.take(at), among), k)
        pending = pending[(rows[pending] >= 0).sum(axis=1) < wanted[pending]]
        fetch[pending] *= 2
    return rows, scores


def _kept(found: Rows, exclude: Pairs, among: Rows | None) -> NDArray[np.bool_]:
    kept = (found >= 0) & ~exclude.contain(found)
    return kept if among is None else kept & in_sorted(among, found)


def _first_kept(found: Rows, scores: Scores, kept: NDArray[np.bool_], k: int) -> tuple[Rows, Scores]:
    """Move what is kept to the left, in order, and cut or fill to k columns."""
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(kept, order, axis=1)
    missing = ((0, 0), (0, k - order.shape[1]))
    rows = np.where(kept, np.take_along_axis(found, order, axis=1), -1)
    left = np.where(kept, np.take_along_axis(scores, order, axis=1), np.float32(-np.inf))
    return np.pad(rows, missing, constant_values=-1), np.pad(left, missing, constant_values=-np.inf)


def _steps(amounts: NDArray[np.float64], k: int) -> Rows:
    """Round amounts above k up to powers of sqrt(2), so that few groups cover all queries."""
    rounded = np.ceil(2.0 ** (np.ceil(2 * np.log2(np.maximum(amounts, 1))) / 2))
    return np.where(amounts > k, rounded, k).astype(np.int64)
