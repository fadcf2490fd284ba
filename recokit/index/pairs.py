"""Sets of (query, row) pairs, for exclusion: sorted by query, then row, with no Python per query.

Shapes: Q queries, P pairs.
"""

__all__ = ["Pairs"]

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recokit.index.scoring import Rows


@dataclass(frozen=True, eq=False)
class Pairs:
    """For each of Q queries a set of rows: those of query q are ``rows[starts[q] : starts[q + 1]]``, ascending."""

    starts: Rows  # (Q + 1,)
    rows: Rows  # (P,)
    num_rows: int  # of the table

    @classmethod
    def of(cls, positions: Rows, rows: Rows, *, num_queries: int, num_rows: int) -> "Pairs":
        """Collect pairs in any order, with or without duplicates; a pair with a row or position of -1 is dropped."""
        known = (positions >= 0) & (rows >= 0)
        keys = np.sort(positions[known] * num_rows + rows[known])
        keys = keys[np.diff(keys, prepend=-1) > 0]
        position, row = np.divmod(keys, max(1, num_rows))
        return cls(np.searchsorted(position, np.arange(num_queries + 1)), row, num_rows)

    @property
    def counts(self) -> Rows:
        """The number of rows of each query (Q,)."""
        return np.diff(self.starts)

    @property
    def positions(self) -> Rows:
        """The query of each pair (P,)."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)

    def take(self, positions: Rows) -> "Pairs":
        """Return the pairs of some queries, in that order."""
        counts = self.counts[positions]
        starts = np.concatenate([[0], np.cumsum(counts)])
        at = np.arange(starts[-1]) - np.repeat(starts[:-1] - self.starts[positions], counts)
        return Pairs(starts, self.rows[at], self.num_rows)

    def within(self, among: Rows) -> "Pairs":
        """Return the pairs whose row is one of ``among`` (sorted)."""
        keep = in_sorted(among, self.rows)
        return Pairs(np.concatenate([[0], np.cumsum(keep)])[self.starts], self.rows[keep], self.num_rows)

    def contain(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which of ``rows`` (Q, k) are in the set of their query."""
        keys = self.positions * self.num_rows + self.rows
        return in_sorted(keys, np.arange(len(rows))[:, None] * self.num_rows + rows)


def in_sorted(values: Rows, queries: Rows) -> NDArray[np.bool_]:
    """Return which queries are one of the sorted ``values``."""
    if not len(values):
        return np.zeros(queries.shape, np.bool_)
    at = np.minimum(np.searchsorted(values, queries), len(values) - 1)
    return np.equal(values[at], queries)
