"""How much of the exact result an index finds."""

__all__ = ["recall"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.errors import DataError
from recokit.index.exact import ExactIndex
from recokit.index.protocol import Index
from recokit.index.scoring import check_k, check_vectors, score_lists


def recall(index: Index, vectors: NDArray[Any], k: int = 10, *, exact: Index | None = None) -> float:
    """Return the mean share of the exact best ``k`` rows that ``index`` finds.

    Of rows that tie for the last places any will do, as many as there are such places. Scores are computed from the
    table, not taken from the index, and a row returned twice counts once.

    Args:
        index: The index to judge.
        vectors: Query vectors (Q, D), at least one.
        k: Rows per query; where the table has fewer, all of them are the exact result.
        exact: The yardstick; None for :class:`ExactIndex` over the same table.
    """
    table, k = index.table, check_k(k)
    vectors = check_vectors(table, vectors)
    if not len(vectors) or not table.count:
        raise DataError(
            f"recall of {len(vectors)} queries over {table.count} rows is not defined: expected one at least"
        )
    best_rows, best = (exact or ExactIndex.build(table)).search(vectors, k)
    present = best_rows >= 0  # (Q, k)
    cut = np.where(present, best, np.inf).min(axis=1)  # (Q,)
    above = (best > cut[:, None]).sum(axis=1)  # (Q,) places that do not tie for the last
    rows = np.sort(index.search(vectors, k)[0], axis=1)
    scores = score_lists(table, vectors, rows)
    scores[:, 1:][rows[:, 1:] == rows[:, :-1]] = -np.inf
    wanted = present.sum(axis=1)
    tied = np.minimum((scores == cut[:, None]).sum(axis=1), wanted - above)
    return float((((scores > cut[:, None]).sum(axis=1) + tied) / wanted).mean())
