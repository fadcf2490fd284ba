"""How many of an id's nearest neighbours a new version keeps, by exact search in both.

Each version ranks the ids that both have by its own vectors and comparator; who came or went is no drift. Of ids that
tie for the last place of the old list any will do, so that the order of rows decides nothing. Codes are decoded.

Shapes: Q sampled ids, N ids that are found among, k neighbours, D dimension.
"""

__all__ = ["kept_neighbors", "kept_targets"]

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recokit.drift.common import TablePair
from recokit.index.exact import ExactIndex
from recokit.index.pairs import Pairs
from recokit.index.scoring import Rows, Scores, score_lists
from recokit.table import EmbeddingTable, Mixture, RelationParameters


@dataclass(frozen=True, eq=False)
class _Asked:
    """One version's side of a search."""

    table: EmbeddingTable
    rows: Rows  # (N,) of the ids that both versions have
    queries: NDArray[np.float32]  # (Q, D)
    own: Rows | None  # (Q,) places among the N of the asked ids, which are not their own neighbours

    def nearest(self, k: int) -> tuple[Rows, Scores]:
        """Return places among the N ids (Q, k) and their scores."""
        exclude = None
        if self.own is not None:
            numbers = np.arange(len(self.own))
            count = self.table.count
            exclude = Pairs.of(numbers, self.rows[self.own], num_queries=len(self.own), num_rows=count)
        among = None if len(self.rows) == self.table.count else self.rows
        found, scores = ExactIndex.build(self.table).search(self.queries, k, among=among, exclude=exclude)
        place = np.full(self.table.count, -1)
        place[self.rows] = np.arange(len(self.rows))
        return place[found], scores


def kept_neighbors(pair: TablePair, sampled: Rows, k: int) -> NDArray[np.float64] | None:
    """Return the share (Q,) of the ``k`` nearest others in the same table that sampled ids (Q,) keep.

    None where there is no other id, or no vectors to search: of a mixture.
    """
    sides = [_Asked(table, rows, _at(table, rows[sampled]), sampled) for table, rows in _searchable(pair)]
    return _kept(sides[0], sides[1], min(k, pair.count - 1)) if sides and pair.count > 1 else None


def kept_targets(
    source: TablePair,
    target: TablePair,
    relations: tuple[RelationParameters, RelationParameters],
    sampled: Rows,
    k: int,
) -> NDArray[np.float64] | None:
    """Return the share (Q,) of the ``k`` best targets of a relation that sampled ids (Q,) of its sources keep.

    None where an end is a mixture, or where nothing is left to find.
    """
    itself = sampled if source.name == target.name else None
    sides = []
    for queries, found, relation in zip(_searchable(source), _searchable(target), relations, strict=False):
        vectors = _at(queries[0], queries[1][sampled])
        table = found[0]
        if relation.side == "source":
            vectors = relation.apply(vectors)
        else:
            table = _with_vectors(table, relation.apply(table.vectors[:]))
        sides.append(_Asked(table, found[1], vectors, itself))
    k = min(k, target.count - (itself is not None))
    return _kept(sides[0], sides[1], k) if sides and k > 0 else None


def _kept(old: _Asked, new: _Asked, k: int) -> NDArray[np.float64]:
    _, scores = old.nearest(k)
    places, _ = new.nearest(k)
    again = score_lists(old.table, old.queries, old.rows[places])  # what the old version says of the new lists
    cut = scores[:, -1:]
    free = k - (scores > cut).sum(axis=1)
    kept = (again > cut).sum(axis=1) + np.minimum((again == cut).sum(axis=1), free)
    return kept / k  # type: ignore[no-any-return]


def _searchable(pair: TablePair) -> list[tuple[EmbeddingTable, Rows]]:
    """Return both versions' vectors and the rows of the common ids in them; nothing of a mixture."""
    sides: list[tuple[EmbeddingTable, Rows]] = []
    for table, rows in ((pair.old, pair.old_rows), (pair.new, pair.new_rows)):
        if isinstance(table, Mixture):
            return []
        if isinstance(table, EmbeddingTable):
            sides.append((table, rows))
        else:
            decoded = EmbeddingTable.from_arrays(
                np.arange(len(rows)),
                table.decode(rows),
                entity=table.entity,
                version=table.version,
                comparator=table.comparator,
            )
            sides.append((decoded, np.arange(len(rows))))
    return sides


def _with_vectors(table: EmbeddingTable, vectors: NDArray[np.float32]) -> EmbeddingTable:
    return EmbeddingTable.from_arrays(
        np.arange(table.count),
        np.ascontiguousarray(vectors, np.float32),
        entity=table.entity,
        version=table.version,
        comparator=table.comparator,
        bias=table.bias,
    )


def _at(table: EmbeddingTable, rows: Rows) -> NDArray[np.float32]:
    return np.take(table.vectors, rows, axis=0).astype(np.float32)
