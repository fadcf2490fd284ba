"""One version in memory: look-ups and searches for many requests at once. No HTTP here.

Requests that ask for the same kind of search go through one call of the index, and each gets back what it would have
got alone; so what is merged can only be seen in the time it takes.  Tables are opened and ids indexed when a version
is loaded, not by its first request, and whoever holds a :class:`Serving` can go on with it after the next one has
taken its place: files that are mapped stay readable until they are let go, also where their folder is gone.

Shapes: B ids of a request, C components, D dimension.
"""

__all__ = ["Found", "Query", "Rows", "Search", "Serving"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, pairwise
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recokit.candidates import CandidateGenerator
from recokit.candidates.allocation import Allocation, check_allocation
from recokit.errors import ConfigError, DataError, closest
from recokit.index import ExactIndex, FaissIndex, HNSWIndex, Index
from recokit.serve.settings import ServeSettings
from recokit.table import EmbeddingTable, FeatureTable, Mixture, PQTable, RelationParameters, Version
from recokit.table.mixtures import as_vectors, vectors_or_mixture

Id: TypeAlias = int | str

_KINDS = ("vectors", "codes", "mixture")
_READ_THROUGH = 1 << 30  # bytes of a table that are read once when it is loaded, so that no request waits for the disk


@dataclass(frozen=True)
class Search:
    """What requests have to share to be answered by one call; names are those of the version.

    Attributes:
        table: The table or mixture of the queries.
        items: The table or mixture that is searched.
        relation: Moves the queries.
        k: Candidates of each query.
        allocation: How the components of a query share its list.
    """

    table: str
    items: str
    relation: str | None
    k: int
    allocation: Allocation = "round_robin"


@dataclass(frozen=True, eq=False)
class Query:
    """The ids of one request, and the (query, candidate) pairs that it does not want."""

    ids: Sequence[Id]
    exclude: Sequence[tuple[Id, Id]] = ()


@dataclass(frozen=True, eq=False)
class Rows:
    """Vectors of one request's ids: zeros where an id is not known."""

    known: NDArray[np.bool_]  # (B,)
    vectors: NDArray[np.float32]  # (B, D), or (B, C, D) of a mixture
    weights: NDArray[np.float32] | None = None  # (B, C) of a mixture


@dataclass(frozen=True, eq=False)
class Found:
    """Lists of one request, in the order of its ids or vectors."""

    known: list[bool]
    candidates: list[list[Id]]
    scores: list[list[float]]
    components: list[list[int]] | None = None  # where queries are a mixture


@dataclass(frozen=True, eq=False)
class Serving:
    """A version whose tables are open and whose indexes are built; made by ``load``.

    Attributes:
        version: The version.
        tables: Its tables by name, all that this release can open.
        relations: Its relations by name.
        index: How its tables are searched.
        loaded: When it was ready, in UTC.
    """

    version: Version
    tables: Mapping[str, FeatureTable]
    relations: Mapping[str, RelationParameters]
    index: str
    loaded: datetime
    _indexes: dict[int, Index] = field(default_factory=dict, repr=False)  # by the identity of their table
    _generators: dict[tuple[str, str, str | None, str], CandidateGenerator] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, version: Version, settings: ServeSettings) -> "Serving":
        """Open all tables of a version, index their ids, and build what is to be searched.

        Raises:
            RecokitError: The version is damaged, or a table that an index is wanted of is not there.
        """
        tables = {name: version.open(name) for name, entry in version.tables.items() if entry.kind in _KINDS}
        if unknown := [name for name in settings.index_tables or () if name not in tables]:
            raise ConfigError(f"version {version.name!r} has no table {unknown[0]!r}; {closest(unknown[0], tables)}")
        wanted = tables if settings.index_tables is None else settings.index_tables
        indexes: dict[int, Index] = {}
        for name, table in tables.items():
            table.rows(table.ids_at(np.arange(min(1, table.count))))
            searched = table.components if isinstance(table, Mixture) else table
            if not isinstance(searched, PQTable) and id(searched) not in indexes and _can_be_searched(searched):
                kind = settings.index if name in wanted and searched.count else "exact"
                indexes[id(searched)] = _built(searched, kind, settings.threads)
        return cls(version, tables, version.relations, settings.index, datetime.now(UTC), indexes)

    @property
    def name(self) -> str:
        """The version's name."""
        return self.version.name

    def table(self, name: str) -> FeatureTable:
        """Return a table; a ConfigError names the nearest."""
        if name not in self.tables:
            raise ConfigError(f"version {self.name!r} has no table {name!r}; {closest(name, self.tables)}")
        return self.tables[name]

    def search(
        self, table: str | None, relation: str | None, items: str | None, *, k: int, allocation: str = "round_robin"
    ) -> Search:
        """Return what is asked for by names, those that are not given filled in.

        Args:
            table: The queries; the table of the relation's sources where None.
            relation: What the queries follow.
            items: What is searched; the table of the relation's targets, or the queries' own, where None.
            k: Candidates of each query.
            allocation: How components share a list.

        Raises:
            ConfigError: Something is not there, or does not follow from what is given.
        """
        if relation is not None and relation not in self.relations:
            raise ConfigError(
                f"version {self.name!r} has no relation {relation!r}; {closest(relation, self.relations)}"
            )
        if table is None:
            if relation is None:
                raise ConfigError("whose candidates? expected a table, a relation, or both")
            table = self._end(relation, "source")
        if items is None:
            items = table if relation is None else self._end(relation, "target")
        self.table(table), self.table(items)
        return Search(table, items, relation, k, check_allocation(allocation))

    def vectors(self, table: str, requests: Sequence[Sequence[Id]]) -> list[Rows]:
        """Look up the ids of several requests; of codes, the vectors that they stand for."""
        opened = self.table(table)
        rows = opened.rows(list(chain.from_iterable(requests)))
        known, weights = rows >= 0, None
        if isinstance(opened, Mixture):
            vectors = opened.vectors_at(rows)  # (B, C, D)
            weights = np.where(known[:, None], opened.weights[np.maximum(rows, 0)], np.float32(0))
        elif isinstance(opened, PQTable):
            vectors = opened.decode(rows)
        elif not opened.count:
            vectors = np.zeros((len(rows), opened.dim), np.float32)
        else:
            vectors = opened.vectors[np.maximum(rows, 0)].astype(np.float32)
            vectors[~known] = 0.0
        return [Rows(known[at], vectors[at], None if weights is None else weights[at]) for at in _spans(requests)]

    def candidates(self, search: Search, requests: Sequence[Query]) -> list[Found]:
        """Find candidates for the ids of several requests, as ``CandidateGenerator`` does for one."""
        answers: dict[int, Found] = {}
        for places in _rounds(requests):
            together = [requests[place] for place in places]
            answers.update(zip(places, self._together(search, together), strict=True))
        return [answers[place] for place in range(len(requests))]

    def nearest(self, search: Search, requests: Sequence[NDArray[np.float32]]) -> list[Found]:
        """Find candidates for the vectors (B, D) of several requests, moved by the relation where there is one."""
        index = self._index(as_vectors(self.table(search.items), "neighbours of vectors"))
        vectors = np.concatenate(requests)
        if vectors.shape[1] != index.table.dim:
            raise DataError(f"vectors have {vectors.shape[1]} numbers, expected {index.table.dim}")
        relation = self._relation(search.relation)
        if relation is not None and relation.side == "target":
            raise ConfigError(f"relation {relation.name!r} moves its targets, not the queries: leave it out")
        if relation is not None and (entity := self.table(search.table).entity) != relation.source:
            raise ConfigError(
                f"relation {relation.name!r} moves {relation.source!r}, table {search.table!r} is of {entity!r}"
            )
        moved = vectors if relation is None else relation.apply(vectors)
        rows, scores = index.search(moved, max(1, min(search.k, index.table.count)))
        there = rows >= 0
        ids, flat = index.table.ids_at(rows[there]).to_pylist(), scores[there].tolist()
        edges = list(pairwise([0, *np.cumsum(there.sum(axis=1)).tolist()]))
        lists, numbers = [ids[a:b] for a, b in edges], [flat[a:b] for a, b in edges]
        return [Found([True] * len(lists[at]), lists[at], numbers[at]) for at in _spans(requests)]

    def _together(self, search: Search, requests: Sequence[Query]) -> list[Found]:
        """Answer requests of which none excludes what another one wants."""
        generate = self._generator(search)
        asked = [list(request.ids) for request in requests]
        ids = list(chain.from_iterable(asked))
        known = (generate.queries.rows(ids) >= 0).tolist()
        frame = generate(ids, search.k, exclude=_excluded(requests), unknown="skip")
        starts = np.flatnonzero(frame["rank"].to_numpy() == 1)
        spans = pairwise([*starts.tolist(), len(frame)])
        of = dict(zip(frame["query"].iloc[starts].tolist(), spans, strict=True))
        candidates, scores = frame["candidate"].tolist(), frame["score"].tolist()
        components = frame["component"].tolist() if "component" in frame else None

        def cut(values: list[Any], mine: list[Id]) -> list[list[Any]]:
            return [values[slice(*of.get(each, (0, 0)))] for each in mine]

        return [
            Found(
                known[at],
                cut(candidates, mine),
                cut(scores, mine),
                None if components is None else cut(components, mine),
            )
            for mine, at in zip(asked, _spans(asked), strict=True)
        ]

    def _generator(self, search: Search) -> CandidateGenerator:
        key = (search.table, search.items, search.relation, search.allocation)
        if key not in self._generators:
            queries = vectors_or_mixture(self.table(search.table), "candidates")
            items = vectors_or_mixture(self.table(search.items), "candidates")
            mixed = items if isinstance(items, Mixture) else None
            made = CandidateGenerator(
                self._index(items if not isinstance(items, Mixture) else items.components),
                queries,
                self._relation(search.relation),
                allocation=search.allocation,
                items=mixed,
            )
            self._generators.setdefault(key, made)
        return self._generators[key]

    def _index(self, table: EmbeddingTable) -> Index:
        if id(table) not in self._indexes:
            self._indexes.setdefault(id(table), ExactIndex.build(table))
        return self._indexes[id(table)]

    def _relation(self, name: str | None) -> RelationParameters | None:
        return None if name is None else self.relations[name]

    def _end(self, relation: str, side: Any) -> str:
        found = self.version.table_of(relation, side, kinds=("vectors", "mixture"))
        if found is None:
            entity = getattr(self.relations[relation], side)
            raise ConfigError(f"version {self.name!r} has no table of {entity!r}, the {side} of {relation!r}")
        return found


def _can_be_searched(table: EmbeddingTable) -> bool:
    """Whether an index takes the table; a request for one that it does not take is refused, with the reason."""
    return table.bias is None or table.comparator == "dot"


def _built(table: EmbeddingTable, kind: str, threads: int) -> Index:
    if kind == "hnsw":
        return HNSWIndex.build(table, threads=threads)
    if kind == "faiss":
        return FaissIndex.build(table, threads=threads)
    index = ExactIndex.build(table)
    if table.count and table.vectors.nbytes <= _READ_THROUGH:
        index.search(table.vectors[:1], 1)
    return index


def _spans(requests: Sequence[Any]) -> Iterator[slice]:
    """Return where each request's part is of what was asked for all of them."""
    start = 0
    for request in requests:
        yield slice(start, start + len(request))
        start += len(request)


def _rounds(requests: Sequence[Query]) -> list[list[int]]:
    """Sort requests, by place, into calls: an id stands twice in one call only where nothing is excluded for it."""
    plain = [place for place, request in enumerate(requests) if not request.exclude]
    rounds = [plain] if plain else []
    taken = [set(chain.from_iterable(requests[place].ids for place in plain))] if plain else []
    for place, request in enumerate(requests):
        if not request.exclude:
            continue
        mine = set(request.ids)
        for members, others in zip(rounds, taken, strict=True):
            if others.isdisjoint(mine):
                members.append(place)
                others.update(mine)
                break
        else:
            rounds.append([place])
            taken.append(mine)
    return rounds


def _excluded(requests: Sequence[Query]) -> pd.DataFrame | None:
    """Return the pairs of requests, each for its own ids alone."""
    pairs = [pair for request in requests for ids in [set(request.ids)] for pair in request.exclude if pair[0] in ids]
    if not pairs:
        return None
    queries, candidates = zip(*pairs, strict=True)
    # As objects: of what is no text, the look-up says so, and pandas fails.
    return pd.DataFrame({"query": list(queries), "candidate": list(candidates)}, dtype=object)
