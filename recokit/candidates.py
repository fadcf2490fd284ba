"""Candidates for queries, as one frame: query, candidate, score, rank.

A relation's operator moves the query vectors, an index finds the rows that score highest with them, and what may not
be recommended (seen pairs, the query itself, all that is not on an allow-list) is left out without making any list
shorter than it has to be. No step runs in Python per query.

Shapes: Q queries, D dimension.
"""

__all__ = ["CandidateGenerator"]

from typing import Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, VersionError, closest
from recokit.index import Index, Pairs, search_filtered
from recokit.index.scoring import Rows, Scores, check_k
from recokit.table import EmbeddingTable, Ids, RelationParameters
from recokit.table.ids import id_array

Unknown = Literal["error", "skip"]

_ROWS_BLOCK = 1 << 20  # rows found at a time


class CandidateGenerator:
    """Finds the best candidates for queries of one entity type among the rows of an index.

    Args:
        index: An index over the table of candidates; its table's comparator makes the scores.
        queries: The table of query vectors; for item-to-item it is the index's own table.
        relation: Its operator is applied to query vectors; None to use them as they are.
        any_version: Allow tables of different versions. Their spaces have nothing to do with each other unless one was
            made in the other's, such as vectors inferred for new users.

    Raises:
        ConfigError: The relation has other ends than these tables, or its operator moves targets.
        DataError: The tables have vectors of different lengths.
        VersionError: The tables are of different versions.
    """

    def __init__(
        self,
        index: Index,
        queries: EmbeddingTable,
        relation: RelationParameters | None = None,
        *,
        any_version: bool = False,
    ) -> None:
        table = index.table
        if relation is not None and (relation.source, relation.target) != (queries.entity, table.entity):
            raise ConfigError(
                f"relation {relation.name!r} goes from {relation.source!r} to {relation.target!r}, "
                f"the tables from {queries.entity!r} to {table.entity!r}"
            )
        if relation is not None and relation.side == "target":
            raise ConfigError(
                f"relation {relation.name!r} moves its targets, not the queries: build the index over a table of "
                "relation.apply(table.vectors), and search it without a relation"
            )
        if queries.dim != table.dim:
            raise DataError(f"query vectors have {queries.dim} dimensions, the index's {table.dim}")
        if queries.version != table.version and not any_version:
            raise VersionError(
                f"queries are of version {queries.version!r}, the index is of {table.version!r}: "
                "scores across versions mean nothing, unless any_version=True says that the vectors share a space"
            )
        self.index = index
        self.queries = queries
        self.relation = relation

    def __call__(
        self,
        ids: Ids,
        k: int = 100,
        *,
        exclude: pd.DataFrame | None = None,
        allow: "Ids | None" = None,
        exclude_self: bool | None = None,
        unknown: Unknown = "error",
    ) -> pd.DataFrame:
        """Return the best ``k`` candidates of each query.

        Every query gets ``k`` distinct candidates whenever so many are allowed and not excluded, whatever the index.

        Args:
            ids: Query ids; one that comes twice counts once, at its first place.
            k: Candidates per query, at least 1.
            exclude: Pairs that are not to be found, in columns ``query`` and ``candidate``; ids that the tables do not
                have are ignored.
            allow: Candidate ids that may be found; None for all. Ids that the index does not have are ignored.
            exclude_self: Leave out the candidate with the query's own id; by default where both are of one entity type.
            unknown: What to do with query ids that the table does not have: refuse or skip them.

        Returns:
            Columns query, candidate (int64 or strings, as in the tables), score (float32) and rank (int64, from 1), in
            the order of ``ids``, then of rank. Equal scores rank in the order of the candidates' rows.

        Raises:
            DataError: Ids are unknown or of the wrong type, or ``exclude`` lacks a column.
        """
        k = check_k(k)
        rows = self._query_rows(ids, unknown)
        excluded = self._excluded(rows, exclude, exclude_self)
        among = None
        if allow is not None:
            among = np.unique(self.index.table.rows(allow))
            among = among[among >= 0]
        parts = []
        step = max(1, _ROWS_BLOCK // k)
        for start in range(0, max(1, len(rows)), step):
            at = np.arange(start, min(start + step, len(rows)))
            found, scores = search_filtered(
                self.index, self._vectors(rows[at]), k, exclude=excluded.take(at), among=among
            )
            parts.append((rows[at], found, scores))
        return self._frame(parts)

    def _query_rows(self, ids: Ids, unknown: Unknown) -> Rows:
        """Return the distinct rows of query ids, in their order."""
        if unknown not in get_args(Unknown):
            raise ConfigError(f"unknown={unknown!r} is no choice; {closest(str(unknown), get_args(Unknown))}")
        asked = id_array(ids, "query ids")
        rows = self.queries.rows(asked)
        if unknown == "error" and (missing := np.flatnonzero(rows < 0)).size:
            first = asked.take(pa.array(missing[:3])).to_pylist()
            raise DataError(
                f"{missing.size} of {rows.size} query ids are not in the {self.queries.entity!r} table, such as "
                f"{', '.join(map(repr, first))}; unknown='skip' leaves them out"
            )
        rows = rows[rows >= 0]
        return rows[np.sort(np.unique(rows, return_index=True)[1])]

    def _vectors(self, rows: Rows) -> NDArray[np.float32]:
        vectors = self.queries.vectors[rows].astype(np.float32, copy=False)
        return vectors if self.relation is None else self.relation.apply(vectors)

    def _excluded(self, rows: Rows, exclude: pd.DataFrame | None, exclude_self: bool | None) -> Pairs:
        table = self.index.table
        positions, candidates = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        if exclude is not None:
            if missing := [name for name in ("query", "candidate") if name not in exclude]:
                raise DataError(f"exclude has no column {missing[0]!r}; its columns are {list(map(str, exclude))}")
            if len(exclude):  # an empty column has no type to check
                position = _positions(rows, self.queries.rows(exclude["query"]))
                asked = position >= 0
                positions.append(position[asked])
                candidates.append(table.rows(exclude["candidate"][asked]))
        if exclude_self or (exclude_self is None and self.queries.entity == table.entity):
            positions.append(np.arange(len(rows)))
            candidates.append(rows if self.queries is table else table.rows(self.queries.ids_at(rows)))
        return Pairs.of(
            np.concatenate(positions), np.concatenate(candidates), num_queries=len(rows), num_rows=table.count
        )

    def _frame(self, parts: list[tuple[Rows, Rows, Scores]]) -> pd.DataFrame:
        queries, candidates, scores, ranks = [], [], [], []
        for rows, found, score in parts:
            present = found >= 0  # on the left of each row
            queries.append(self.queries.ids_at(np.repeat(rows, present.sum(axis=1))))
            candidates.append(self.index.table.ids_at(found[present]))
            scores.append(score[present])
            ranks.append(np.nonzero(present)[1] + 1)
        return pd.DataFrame(
            {
                "query": pa.chunked_array(queries).to_pandas(),
                "candidate": pa.chunked_array(candidates).to_pandas(),
                "score": np.concatenate(scores),
                "rank": np.concatenate(ranks),
            }
        )


def _positions(rows: Rows, asked: Rows) -> Rows:
    """Return where each of ``asked`` stands in the distinct ``rows``, -1 where it does not."""
    if not len(rows):
        return np.full(len(asked), -1)
    order = np.argsort(rows)
    at = order[np.minimum(np.searchsorted(rows, asked, sorter=order), len(rows) - 1)]
    return np.where(rows[at] == asked, at, -1)
