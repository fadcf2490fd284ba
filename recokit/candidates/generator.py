"""Candidates for queries, as one frame: query, candidate, score, rank.

A relation's operator moves the query vectors, an index finds the rows that score highest with them, and what may not
be recommended (seen pairs, the query itself, all that is not on an allow-list) is left out without making any list
shorter than it has to be. No step runs in Python per query.

Queries and candidates can be mixtures. Each component of a query brings a list, from which an allocation deals out the
places (:mod:`recokit.candidates.allocation`); of candidates that are mixtures, the index holds the components
(:mod:`recokit.candidates.items`). A component that many queries share is searched once
(:mod:`recokit.candidates.search`).

Shapes: Q queries, C components of a query, P pairs of a query and a component, D dimension.
"""

__all__ = ["CandidateGenerator"]

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recokit.candidates.allocation import Allocation, Lists, allocate, check_allocation
from recokit.candidates.items import Aggregate, ItemRows, Missing, check_aggregate, check_missing
from recokit.candidates.search import SharedSearch, num_found
from recokit.errors import ConfigError, DataError, VersionError, closest
from recokit.index import ExactIndex, Index, Pairs, search_filtered
from recokit.index.scoring import Rows, Scores, check_k
from recokit.table import EmbeddingTable, Ids, Mixture, RelationParameters
from recokit.table.ids import id_array

Unknown = Literal["error", "skip"]

_ROWS_BLOCK = 1 << 20  # rows found at a time
_SHARED_BLOCK = 4 << 20  # rows found of components that queries share, kept for a whole call


class CandidateGenerator:
    """Finds the best candidates for queries of one entity type among the rows of an index.

    Args:
        index: An index over the table of candidates, or over the components of ``items``; its table's comparator makes
            the scores.
        queries: The table of query vectors, or a mixture of several for each query; for item-to-item it is the index's
            own table.
        relation: Its operator is applied to query vectors, of every component alike; None to use them as they are.
        allocation: How places are shared among the components of a query (:mod:`recokit.candidates.allocation`). A
            query of one vector has nothing to share; its list is in the order of alpha, or of score under
            ``"max_score"``.
        items: The mixture whose components the index holds, where candidates are mixtures.
        aggregate: How rows found of an item's components add up: the ``"sum"`` of weight times score, or the ``"max"``
            score, under which items of many components are not diluted; see :mod:`recokit.candidates.items`.
        missing: What a component not found counts: ``"zero"``, the default under cos, where scores are brought to
            (1 + cos) / 2, or ``"floor"``, the default and only choice elsewhere: the score of the last row found is 0.
        any_version: Allow tables of different versions. Their spaces have nothing to do with each other unless one was
            made in the other's, such as vectors inferred for new users.

    Raises:
        ConfigError: The relation has other ends than these tables, or its operator moves targets; a choice does not
            exist or has no meaning here.
        DataError: The tables have vectors of different lengths.
        VersionError: The tables are of different versions, or the index is over another table than the components of
            ``items``.
    """

    @classmethod
    def exact(
        cls,
        queries: EmbeddingTable | Mixture,
        items: EmbeddingTable | Mixture,
        relation: RelationParameters | None = None,
        *,
        allocation: Allocation = "round_robin",
    ) -> "CandidateGenerator":
        """Search all of a table, or all components of a mixture; errors are those of the class."""
        if isinstance(items, Mixture):
            return cls(ExactIndex.build(items.components), queries, relation, allocation=allocation, items=items)
        return cls(ExactIndex.build(items), queries, relation, allocation=allocation)

    def __init__(
        self,
        index: Index,
        queries: EmbeddingTable | Mixture,
        relation: RelationParameters | None = None,
        *,
        allocation: Allocation = "round_robin",
        items: Mixture | None = None,
        aggregate: Aggregate = "sum",
        missing: Missing | None = None,
        any_version: bool = False,
    ) -> None:
        if isinstance(index, Mixture):
            raise ConfigError(f"{index!r} is no index: build one over its components, and give it as items")
        table = index.table
        candidates: EmbeddingTable | Mixture = table if items is None else items
        if relation is not None and (relation.source, relation.target) != (queries.entity, candidates.entity):
            raise ConfigError(
                f"relation {relation.name!r} goes from {relation.source!r} to {relation.target!r}, "
                f"the tables from {queries.entity!r} to {candidates.entity!r}"
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
        if items is not None and not _same_table(items.components, table):
            raise VersionError(
                f"the index is over the {table.entity!r} table of version {table.version!r}, expected one over the "
                f"components of {items!r}: build it over items.components"
            )
        self.index = index
        self.queries = queries
        self.relation = relation
        self.allocation = check_allocation(allocation)
        self.items = items
        self.aggregate = check_aggregate(aggregate)
        self.missing = check_missing(missing, table.comparator)

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
        Of a mixture's components, those of weight 0 bring none; they are never needed to fill a list.

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

            Where queries are a mixture, one more: component (int64), the place in the query's mixture, from 0, of the
            component that the candidate is owed to. The score is the comparator's, of that component, moved by the
            relation, and the candidate, or the best row found of the candidate's components. Ranks are those of the
            allocation, and of an item's alpha where candidates are mixtures, so scores need not fall with them.

        Raises:
            DataError: Ids are unknown or of the wrong type, or ``exclude`` lacks a column.
        """
        k = min(check_k(k), max(1, self._candidates.count))
        rows = self._query_rows(ids, unknown)
        excluded = self._excluded(rows, exclude, exclude_self)
        among = None
        if allow is not None:
            among = np.unique(self._candidates.rows(allow))
            among = among[among >= 0]
        if isinstance(self.queries, EmbeddingTable) and self.items is None:
            return self._frame(list(self._single(self.queries, rows, k, excluded, among)))
        return self._frame(list(self._mixed(rows, k, excluded, among)))

    @property
    def _candidates(self) -> EmbeddingTable | Mixture:
        return self.index.table if self.items is None else self.items

    @cached_property
    def _item_rows(self) -> ItemRows | None:
        return None if self.items is None else ItemRows.of(self.items)

    def _single(
        self, queries: EmbeddingTable, rows: Rows, k: int, excluded: Pairs, among: Rows | None
    ) -> Iterator["_Part"]:
        """Search with one vector a query."""
        step = max(1, _ROWS_BLOCK // k)
        for start in range(0, max(1, len(rows)), step):
            at = np.arange(start, min(start + step, len(rows)))
            found, scores = search_filtered(
                self.index, self._vectors(queries, rows[at]), k, exclude=excluded.take(at), among=among
            )
            yield _Part(rows[at], found, scores, np.zeros_like(found))

    def _mixed(self, rows: Rows, k: int, excluded: Pairs, among: Rows | None) -> Iterator["_Part"]:
        """Search with every component of the queries, sum up by item where candidates are mixtures, and allocate."""
        components, weights = self._components(rows)
        held, excluded_rows, among_rows, depth = self._item_rows, excluded, among, k
        if held is not None and self.items is not None:
            depth = k * self.items.num_components
            excluded_rows, among_rows = held.excluded(excluded, among), held.allowed(among)
        step = max(1, _ROWS_BLOCK // (depth * components.shape[1]))
        shared = _Wanted.of(components)
        size = num_found(depth, shared.which, excluded_rows.counts[shared.query], len(shared.distinct))
        search = None
        if size <= _SHARED_BLOCK and len(rows) > step:
            search = self._search(shared, depth, excluded_rows, among_rows)
        first = 0
        for start in range(0, max(1, len(rows)), step):
            at = np.arange(start, min(start + step, len(rows)))
            wanted = _Wanted.of(components[at])
            numbers = np.arange(len(wanted.which))
            if search is None:
                found, scores = self._search(wanted, depth, excluded_rows.take(at), among_rows).take(numbers)
            else:
                found, scores = search.take(first + numbers)
            first += len(numbers)
            lists = self._lists(wanted, found, scores, k, excluded=excluded.take(at), among=among)
            yield self._allocated(rows[at], lists, weights[at], k)

    def _components(self, rows: Rows) -> tuple[Rows, NDArray[np.float32]]:
        """Return the rows (Q, C) of the vectors of queries, -1 where one brings nothing, and their weights."""
        if isinstance(self.queries, EmbeddingTable):
            return rows[:, None], np.ones((len(rows), 1), np.float32)
        components, weights = self.queries.component_rows[rows], self.queries.weights[rows]
        there = (components >= 0) & (weights > 0)
        return np.where(there, components, -1), np.where(there, weights, np.float32(0))

    def _search(self, wanted: "_Wanted", k: int, exclude: Pairs, among: Rows | None) -> SharedSearch:
        table = self.queries if isinstance(self.queries, EmbeddingTable) else self.queries.components
        vectors = self._vectors(table, wanted.distinct)
        return SharedSearch(self.index, vectors, wanted.which, k, query=wanted.query, exclude=exclude, among=among)

    def _lists(
        self, wanted: "_Wanted", found: Rows, scores: Scores, k: int, *, excluded: Pairs, among: Rows | None
    ) -> Lists:
        """Lay what was found for each pair out by query and component, items in place of their rows."""
        alphas = scores
        if self._item_rows is not None:
            found, alphas, scores = self._item_rows.aggregate(
                found,
                scores,
                k,
                exclude=excluded.take(wanted.query),
                among=among,
                aggregate=self.aggregate,
                missing=self.missing,
            )
        if wanted.there.all():  # nothing to fill
            shape = (*wanted.there.shape, k)
            return Lists(found.reshape(shape), alphas.reshape(shape), scores.reshape(shape))
        rows = np.full((*wanted.there.shape, k), -1)
        laid = np.full((2, *rows.shape), -np.inf, np.float32)
        rows[wanted.there], laid[0, wanted.there], laid[1, wanted.there] = found, alphas, scores
        return Lists(rows, laid[0], laid[1])

    def _allocated(self, rows: Rows, lists: Lists, weights: NDArray[np.float32], k: int) -> "_Part":
        slots = allocate(lists, weights, k, self.allocation)
        flat = (len(rows), lists.rows.shape[1] * k)
        found = np.where(slots >= 0, np.take_along_axis(lists.rows.reshape(flat), slots, axis=1), -1)
        scores = np.take_along_axis(lists.scores.reshape(flat), slots, axis=1)
        return _Part(rows, found, scores, slots // k)

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

    def _vectors(self, table: EmbeddingTable, rows: Rows) -> NDArray[np.float32]:
        vectors = table.vectors[rows].astype(np.float32, copy=False)
        return vectors if self.relation is None else self.relation.apply(vectors)

    def _excluded(self, rows: Rows, exclude: pd.DataFrame | None, exclude_self: bool | None) -> Pairs:
        table = self._candidates
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

    def _frame(self, parts: list["_Part"]) -> pd.DataFrame:
        queries, candidates, scores, ranks, components = [], [], [], [], []
        for part in parts:
            present = part.found >= 0  # on the left of each row
            queries.append(self.queries.ids_at(np.repeat(part.queries, present.sum(axis=1))))
            candidates.append(self._candidates.ids_at(part.found[present]))
            scores.append(part.scores[present])
            ranks.append(np.nonzero(present)[1] + 1)
            components.append(part.components[present])
        frame = pd.DataFrame(
            {
                "query": pa.chunked_array(queries).to_pandas(),
                "candidate": pa.chunked_array(candidates).to_pandas(),
                "score": np.concatenate(scores),
                "rank": np.concatenate(ranks),
            }
        )
        if isinstance(self.queries, Mixture):
            frame["component"] = np.concatenate(components)
        return frame


@dataclass(frozen=True, eq=False)
class _Part:
    """The lists of some queries."""

    queries: Rows  # (Q,)
    found: Rows  # (Q, k)
    scores: Scores  # (Q, k)
    components: Rows  # (Q, k)


@dataclass(frozen=True, eq=False)
class _Wanted:
    """The pairs of a query and a component that bring something, and the vectors that they stand on."""

    there: NDArray[np.bool_]  # (Q, C)
    query: Rows  # (P,)
    distinct: Rows  # (U,) rows of vectors
    which: Rows  # (P,) into distinct

    @classmethod
    def of(cls, components: Rows) -> "_Wanted":
        there = components >= 0
        distinct, which = np.unique(components[there], return_inverse=True)
        return cls(there, np.nonzero(there)[0], distinct, which)


def _positions(rows: Rows, asked: Rows) -> Rows:
    """Return where each of ``asked`` stands in the distinct ``rows``, -1 where it does not."""
    if not len(rows):
        return np.full(len(asked), -1)
    order = np.argsort(rows)
    at = order[np.minimum(np.searchsorted(rows, asked, sorter=order), len(rows) - 1)]
    return np.where(rows[at] == asked, at, -1)


def _same_table(a: EmbeddingTable, b: EmbeddingTable) -> bool:
    return a is b or (a.version, a.count, a.fingerprint) == (b.version, b.count, b.fingerprint)
