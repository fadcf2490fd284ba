"""Mixtures smoothed over a user's nearest users (kNN-Embed, El-Kishky et al. 2022).

    p~(c | u) = share * p(c | u) + (1 - share) / |V_u| * sum over v in V_u of p(c | v)

p(c | u) is the share of u's whole engagement that went to cluster c: smoothing comes before the few largest are kept.
V_u are the k users nearest to u, by the comparator of a table of users, that have engagements; u is not among them.

Decisions: users of the table without engagements take the mean of their neighbours alone, and users with engagements
who are not in the table keep their own. The paper smooths users who have both.

Shapes: S sources of the log, U users of the table, M users with a mixture, K clusters, k neighbours.
"""

__all__ = ["Smoothing"]

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from recokit.errors import ConfigError, DataError
from recokit.index import ExactIndex, Index, Pairs, search_filtered
from recokit.index.lift import blocks
from recokit.index.scoring import Rows
from recokit.index.settings import check_settings
from recokit.mixture.engagement import number_ids
from recokit.mixture.shares import keep_top, normalized
from recokit.table import EmbeddingTable, Mixture, as_vectors
from recokit.table.ids import id_type_of

_USERS = 1 << 15  # smoothed at a time


@dataclass(frozen=True, eq=False)
class Smoothing:
    """How a user's mixture leans on those of the nearest users.

    Attributes:
        users: A table of users' vectors, which is searched exactly, or any index over one.
        neighbors: k, how many users are asked; fewer where fewer have engagements.
        share: What a user's own engagements count, 0 to 1; the neighbours' mean counts the rest.
    """

    users: EmbeddingTable | Index
    neighbors: int = 10
    share: float = 0.8

    def __post_init__(self) -> None:
        if isinstance(self.users, Mixture):
            as_vectors(self.users, "users")
        check_settings({"neighbors": self.neighbors})
        if isinstance(self.share, bool) or not 0 <= self.share <= 1:
            raise ConfigError(f"share is {self.share!r}, expected 0 to 1")

    @property
    def index(self) -> Index:
        """What finds the neighbours."""
        return ExactIndex(self.users) if isinstance(self.users, EmbeddingTable) else self.users

    def keep_top(
        self, ids: pa.Array, matrix: sparse.csr_matrix, top: int
    ) -> tuple[pa.Array, Rows, NDArray[np.float32]]:
        """Return users, and the clusters and sums that ``shares.keep_top`` finds in their smoothed shares.

        Args:
            ids: The sources (S,).
            matrix: (S, K) the sums of their engagement by cluster; nothing for some.
            top: How many clusters to keep.

        Returns:
            All sources and all users of the table in ascending order (M,), clusters (M, C) and sums (M, C); the
            clusters of users who have neither engagements nor neighbours are -1.
        """
        index = self.index
        table = index.table
        if len(ids) and id_type_of(ids) != table.id_type:
            raise DataError(
                f"the log's sources are {id_type_of(ids)} ids, those of the {table.entity!r} table {table.id_type}"
            )
        engaged = np.diff(matrix.indptr) > 0
        everyone, numbers = number_ids(pa.concat_arrays([ids.cast(table.ids.type), table.ids]))
        own, row = np.full(len(everyone), -1), np.full(len(everyone), -1)
        own[numbers[: len(ids)][engaged]] = np.flatnonzero(engaged)
        row[numbers[len(ids) :]] = np.arange(len(table))
        source_of = own[numbers[len(ids) :]]  # (U,)
        shares = normalized(matrix)
        parts = [
            keep_top(self._weights(index, own[part], row[part], source_of, len(ids)) @ shares, top)
            for part in blocks(len(everyone), _USERS)
        ]
        empty = np.zeros((0, min(top, matrix.shape[1])))
        clusters = np.concatenate([empty.astype(np.int64), *(part[0] for part in parts)])
        return everyone, clusters, np.concatenate([empty.astype(np.float32), *(part[1] for part in parts)])

    def _weights(self, index: Index, own: Rows, row: Rows, source_of: Rows, count: int) -> sparse.csr_matrix:
        """Return the matrix (m, S) that makes smoothed shares of shares, for some users.

        Args:
            index: Over the users.
            own: (m,) their rows among the sources, -1 where they have no engagements.
            row: (m,) their rows in the table, -1 where they are not there.
            source_of: (U,) the row among the sources of each row of the table.
            count: S.
        """
        asked = np.flatnonzero(row >= 0)
        near = self._neighbors(index, row[asked], source_of)  # (a, k) rows of the table
        at, column = np.nonzero(near >= 0)
        found = np.bincount(asked[at], minlength=len(own))
        mine = np.flatnonzero(own >= 0)
        weights = np.concatenate([np.full(len(mine), self.share), (1 - self.share) / found[asked[at]]])
        rows = np.concatenate([mine, asked[at]])
        columns = np.concatenate([own[mine], source_of[near[at, column]]])
        # Where one of the two is all there is, its weight counts nothing but must not be 0.
        alone = (own < 0) | (found == 0)
        weights[alone[rows]] = 1.0
        used = weights > 0
        return sparse.csr_matrix((weights[used], (rows[used], columns[used])), (len(own), count))

    def _neighbors(self, index: Index, rows: Rows, source_of: Rows) -> Rows:
        """Return the rows (a, k) of the nearest users with engagements, -1 where there are fewer."""
        among = np.flatnonzero(source_of >= 0)
        if not len(rows) or not len(among):
            return np.full((len(rows), self.neighbors), -1)
        table = index.table
        themselves = Pairs.of(np.arange(len(rows)), rows, num_queries=len(rows), num_rows=len(table))
        vectors = np.asarray(table.vectors[rows], np.float32)
        found: Any = search_filtered(
            index,
            vectors,
            self.neighbors,
            exclude=themselves,
            among=None if len(among) == len(table) else among,
        )[0]
        neighbors: Rows = found
        return neighbors
