"""Searches for many lists at once, of which several may stand on the same vector.

The components of a mixture can be shared: TwHIN's users are mixtures of a thousand centroids. A vector that several
lists ask for is searched once, deep enough for the list that excludes most, and each list drops what it excludes. That
is never more rows fetched than list by list.

Shapes: U distinct vectors, P lists, D dimension.
"""

__all__ = ["SharedSearch", "num_found"]

import numpy as np
from numpy.typing import NDArray

from recokit.index import ExactIndex, Index, Pairs, search_filtered
from recokit.index.scoring import Rows, Scores

_FOUND_BLOCK = 1 << 20  # rows found in memory at a time
_WORTH_A_SCAN = 100  # an index that is to find more than one row in so many is slower than reading them all


class SharedSearch:
    """The results of searches for distinct vectors, from which lists are taken.

    Args:
        index: Any index.
        vectors: Distinct vectors (U, D).
        which: (P,) the vector that each list stands on.
        k: Rows wanted of each list.
        query: (P,) the query that each list belongs to.
        exclude: For each query, rows that are not to be found.
        among: The rows allowed, ascending and distinct; None for all.
    """

    def __init__(
        self,
        index: Index,
        vectors: NDArray[np.float32],
        which: Rows,
        k: int,
        *,
        query: Rows,
        exclude: Pairs,
        among: Rows | None,
    ) -> None:
        self.k = k
        self.which = which
        self.query = query
        self.exclude = exclude if among is None else exclude.within(among)
        allowed = index.table.count if among is None else len(among)
        amounts = _amounts(k, which, self.exclude.counts[query], len(vectors))
        self._group = np.zeros(len(vectors), np.int64)
        self._place = np.zeros(len(vectors), np.int64)
        self._found: list[tuple[Rows, Scores]] = []
        self._own: tuple[Rows, Scores] | None = None
        if len(vectors) == len(which):  # nothing is shared
            self._own = search_filtered(index, vectors[which], k, exclude=self.exclude.take(query), among=among)
            return
        for amount in np.unique(amounts):
            at = np.flatnonzero(amounts == amount)
            self._group[at], self._place[at] = len(self._found), np.arange(len(at))
            wanted = int(min(amount, max(k, allowed)))
            scan = amount > k and amount * _WORTH_A_SCAN >= allowed
            chosen = ExactIndex(index.table) if scan and not isinstance(index, ExactIndex) else index
            nothing = Pairs(np.zeros(len(at) + 1, np.int64), np.zeros(0, np.int64), index.table.count)
            self._found.append(search_filtered(chosen, vectors[at], wanted, exclude=nothing, among=among))

    def take(self, lists: Rows) -> tuple[Rows, Scores]:
        """Return rows (p, k) and scores (p, k) of some lists (p,), complete like those of ``search_filtered``."""
        if self._own is not None:
            return self._own[0][lists], self._own[1][lists]
        rows, scores = np.full((len(lists), self.k), -1), np.full((len(lists), self.k), -np.inf, np.float32)
        counts = self.exclude.counts[self.query[lists]]
        groups = self._group[self.which[lists]]
        for group, (found, found_scores) in enumerate(self._found):
            mine = np.flatnonzero(groups == group)
            mine = mine[np.argsort(counts[mine], kind="stable")]
            start = 0
            while start < len(mine):
                step = max(1, _FOUND_BLOCK // (self.k + int(counts[mine[start]])))
                at = mine[start : start + step]
                at = at[counts[at] <= max(self.k, 2 * counts[at[0]])]  # so that no list carries another's columns
                width = self.k + int(counts[at].max())
                place = self._place[self.which[lists[at]]]
                own = found[place, :width]
                kept = own >= 0
                if counts[at].any():
                    kept &= ~self.exclude.take(self.query[lists[at]]).contain(own)
                columns = np.argsort(~kept, axis=1, kind="stable")[:, : self.k]
                kept = np.take_along_axis(kept, columns, axis=1)
                rows[at] = np.where(kept, np.take_along_axis(own, columns, axis=1), -1)
                own_scores = np.take_along_axis(found_scores[place, :width], columns, axis=1)
                scores[at] = np.where(kept, own_scores, np.float32(-np.inf))
                start += len(at)
        return rows, scores


def num_found(k: int, which: Rows, counts: Rows, num_vectors: int) -> int:
    """Return how many rows a :class:`SharedSearch` would hold of lists that exclude ``counts`` (P,) rows."""
    return int(_amounts(k, which, counts, num_vectors).sum())


def _amounts(k: int, which: Rows, counts: Rows, num_vectors: int) -> Rows:
    """Return how many rows to find of each vector (U,): k, more where its lists exclude some."""
    most = np.zeros(num_vectors, np.int64)
    np.maximum.at(most, which, counts)
    rounded = np.ceil(2.0 ** (np.ceil(2 * np.log2(k + most)) / 2)).astype(np.int64)  # few amounts
    return np.where(most > 0, rounded, k)
