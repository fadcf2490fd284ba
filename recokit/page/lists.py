"""Neighbours of a version's most connected entities, by exact search over whole tables.

For each entity of a table: the nearest of its own table, and for each relation the targets that fit it best as a
source, and the sources that fit it best as a target. The score of a relation is comparator(operator(source), target),
so sources are found among all sources as the operator moves them; where a relation has a reciprocal, by that one. Edges
that were trained on are not left out: a version does not hold them.

Shapes: E entities of a table that get lists, k neighbours, N rows.
"""

__all__ = ["Found", "Lists", "fair_shares", "find_lists"]

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recokit.candidates import CandidateGenerator
from recokit.table import EmbeddingTable, Mixture, RelationParameters, Version, degrees_of
from recokit.table.relations import Side

Rows = NDArray[np.int64]
Searched = EmbeddingTable | Mixture
Progress = Callable[[int, int], None]
Making = Callable[[], CandidateGenerator]

_PART = 4096  # queries at a time


@dataclass(frozen=True, eq=False)
class Found:
    """One list for each entity of a table.

    Attributes:
        kind: Where it leads: entities alike, targets, or sources.
        relation: The relation, or None for entities alike.
        table: The name of the table that the rows are of.
        rows: (E, k) rows, best first; -1 where there are fewer.
        scores: (E, k) float32; NaN where there are fewer.
    """

    kind: Literal["alike", "targets", "sources"]
    relation: str | None
    table: str
    rows: Rows
    scores: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Lists:
    """The entities of one table that the page lists, and what they lead to.

    Attributes:
        name: The table's name in the version.
        table: The table.
        rows: (E,) their rows, most connected first.
        degrees: (N,) training edges of every row, or None where the version does not keep them.
        found: The lists.
    """

    name: str
    table: Searched
    rows: Rows
    degrees: Rows | None
    found: tuple[Found, ...]


@dataclass(frozen=True, eq=False)
class _Search:
    """One kind of list to make."""

    kind: Literal["alike", "targets", "sources"]
    relation: str | None
    queries: str
    table: str
    generator: Making


def find_lists(version: Version, *, entities: int, k: int, progress: Progress | None = None) -> tuple[Lists, ...]:
    """Search for the neighbours of a version's most connected entities.

    Args:
        version: The version; its vectors and mixtures are searched, codes and the components of mixtures are not.
        entities: How many entities get lists, over all tables: equal shares, and what small tables leave goes to the
            larger ones.
        k: Neighbours in a list.
        progress: Called with how many lists are made, and of how many.

    Returns:
        The tables in the version's order.
    """
    parts = {entry.components for entry in version.tables.values()}
    opened = {name: version.open(name) for name in version.tables if name not in parts}
    searched: dict[str, Searched] = {
        name: table for name, table in opened.items() if isinstance(table, EmbeddingTable | Mixture) and table.count
    }
    counts = fair_shares([table.count for table in searched.values()], entities)
    degrees = {name: degrees_of(version, name) for name in searched}
    rows = {name: _chosen(degrees[name], count) for name, count in zip(searched, counts, strict=True)}
    searches = list(_searches(version, searched))
    total, done = sum(len(rows[search.queries]) for search in searches), 0
    found: dict[str, list[Found]] = {name: [] for name in searched}
    for search in searches:
        ends = searched[search.queries], searched[search.table]
        mine = rows[search.queries]
        generator = search.generator()  # here, so that one moved table is in memory at a time
        lists = np.full((len(mine), k), -1), np.full((len(mine), k), np.nan, np.float32)
        for start in range(0, len(mine), _PART):
            part = slice(start, start + _PART)
            lists[0][part], lists[1][part] = _listed(generator, ends, mine[part], k)
            done += len(mine[part])
            if progress is not None:
                progress(done, total)
        found[search.queries].append(Found(search.kind, search.relation, search.table, *lists))
    return tuple(Lists(name, table, rows[name], degrees[name], tuple(found[name])) for name, table in searched.items())


def fair_shares(sizes: Sequence[int], total: int) -> list[int]:
    """Deal ``total`` places out: equal shares, but no more than its size to each; the larger ones take what is left.

    >>> fair_shares([2, 100, 50], 60)
    [2, 29, 29]
    """
    shares = [0] * len(sizes)
    left = total
    order = sorted(range(len(sizes)), key=lambda at: sizes[at])
    for place, at in enumerate(order):
        shares[at] = min(sizes[at], left // (len(order) - place))
        left -= shares[at]
    return shares


def _chosen(degrees: Rows | None, count: int) -> Rows:
    """Return the rows of the highest degrees, ties by row; the first rows where there are no degrees."""
    if degrees is None:
        return np.arange(count)
    return np.argsort(-degrees, kind="stable")[:count]


def _searches(version: Version, tables: dict[str, Searched]) -> Iterator[_Search]:
    for name, table in tables.items():
        yield _Search("alike", None, name, name, lambda table=table: CandidateGenerator.exact(table, table))  # type: ignore[misc]
    backward = {relation.reciprocal for relation in version.relations.values()}
    told: set[str] = set()
    for relation in version.relations.values():
        if relation.name in backward and relation.reciprocal in (None, *told):
            continue  # it is the other direction of one that has its turn
        told.add(relation.name)
        yield from _of_relation(version, relation, tables)


def _of_relation(version: Version, relation: RelationParameters, tables: dict[str, Searched]) -> Iterator[_Search]:
    source, target = _end(version, relation.name, "source", tables), _end(version, relation.name, "target", tables)
    if source is None or target is None:
        return
    name, s, t = relation.name, tables[source], tables[target]
    if (forward := _targets(relation, s, t)) is not None:
        yield _Search("targets", name, source, target, forward)
    if relation.reciprocal is not None:
        backward = _targets(version.relations[relation.reciprocal], t, s)
    else:
        backward = _sources(relation, s, t)
    if backward is not None:
        yield _Search("sources", name, target, source, backward)


def _targets(relation: RelationParameters, source: Searched, target: Searched) -> Making | None:
    """Return what finds a source's targets; None for mixtures whose relation moves the targets."""
    if isinstance(source, EmbeddingTable) and isinstance(target, EmbeddingTable):
        return lambda: CandidateGenerator.exact(*_moved(relation, source, target))
    return (lambda: CandidateGenerator.exact(source, target, relation)) if relation.side == "source" else None


def _sources(relation: RelationParameters, source: Searched, target: Searched) -> Making | None:
    """Return what finds a target's sources among all of them as the operator moves them; None for mixtures."""
    if isinstance(source, EmbeddingTable) and isinstance(target, EmbeddingTable):
        return lambda: CandidateGenerator.exact(*_moved(relation, source, target)[::-1])
    return None


def _end(version: Version, relation: str, side: Side, tables: dict[str, Searched]) -> str | None:
    name = version.table_of(relation, side, kinds=("vectors", "mixture"))
    return name if name in tables else None


def _moved(
    relation: RelationParameters, source: EmbeddingTable, target: EmbeddingTable
) -> tuple[EmbeddingTable, EmbeddingTable]:
    """Return both ends so that their comparator alone is the relation's score."""
    if relation.operator == "identity":
        return source, target
    table = source if relation.side == "source" else target
    moved = table.with_vectors(relation.apply(table.vectors).astype(np.float32, copy=False))
    return (moved, target) if relation.side == "source" else (source, moved)


def _listed(
    generator: CandidateGenerator, ends: tuple[Searched, Searched], rows: Rows, k: int
) -> tuple[Rows, NDArray[np.float32]]:
    """Return the rows found (E, k) and their scores."""
    queries, candidates = ends
    frame = generator(queries.ids_at(rows), k=k)
    place = np.full(queries.count, -1)
    place[rows] = np.arange(len(rows))
    at = place[queries.rows(frame["query"])], frame["rank"].to_numpy() - 1
    found, scores = np.full((len(rows), k), -1), np.full((len(rows), k), np.nan, np.float32)
    found[at], scores[at] = candidates.rows(frame["candidate"]), frame["score"].to_numpy()
    return found, scores
