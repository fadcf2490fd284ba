"""A heterogeneous network: typed entities, relations between them, edges as row numbers.

Edges come from pandas, Arrow, Parquet or CSV.  DuckDB reads, checks and counts them, so that an edge file is never
held as Python objects; ids become rows through the same index that embedding tables use.  An entity type's ids are
int64 or strings, sorted, so that the same edges give the same rows whatever order they came in.
Shapes: N entities of a type, E edges of a relation.
"""

__all__ = ["Edges", "Graph", "GraphSummary"]

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pretrain.config import Relation
from pretrain.edges import Edges
from pretrain.reading import Columns, Reader, Selection
from recokit.errors import ConfigError, DataError, closest


@dataclasses.dataclass(frozen=True)
class GraphSummary:
    """What was read and what was dropped, one row a relation: relation, read, null, below_min_count, edges."""

    rows: tuple[dict[str, Any], ...]

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a frame."""
        return pd.DataFrame(self.rows)


class Graph:
    """Typed entities and the edges between them; made by ``from_frames``, ``from_files`` or ``from_parquet``.

    Attributes:
        relations: Name to ``Relation``.
        entities: Entity type to its ids, a sorted Arrow array of int64 or large_string; row i is entity i.
        edges: Relation name to ``Edges``.
        summary: What was read and what was dropped.
        history: How this graph came about (sources, splits), for the meta of what is trained on it.
    """

    def __init__(
        self,
        relations: Mapping[str, Relation],
        entities: Mapping[str, pa.Array],
        edges: Mapping[str, Edges],
        *,
        summary: GraphSummary | None = None,
        history: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.relations, self.entities, self.edges = dict(relations), dict(entities), dict(edges)
        self.summary = summary or GraphSummary(())
        self.history = tuple(history)

    def __repr__(self) -> str:
        entities = ", ".join(f"{len(ids):,} {name}" for name, ids in self.entities.items())
        edges = ", ".join(f"{len(edges):,} {name}" for name, edges in self.edges.items())
        return f"Graph(entities: {entities}; edges: {edges})"

    @classmethod
    def from_frames(
        cls,
        frames: Mapping[str, pd.DataFrame | pa.Table],
        relations: Sequence[Relation],
        *,
        columns: Mapping[str, Columns] | None = None,
        min_count: Mapping[str, int] | None = None,
    ) -> "Graph":
        """Build a graph from one frame per relation.

        Args:
            frames: Relation name to a frame with the columns source, target[, weight][, time].
            relations: The relations; each needs a frame.
            columns: Relation name to the names of its columns, where they differ: ``{"source": "follower_id"}``.
            min_count: Entity type to the number of edges below which an entity is left out (counted once over all
                relations of the input; an edge that loses an end goes too).

        Raises:
            DataError: A column is missing, ids are neither integers nor strings or change type between relations,
                weights are negative or not finite, or a relation has no edges.
            ConfigError: A frame without a relation, a relation without a frame, or an entity type nobody has.
        """
        _check_columns(columns, frames)
        with Reader() as reader:
            for name, frame in frames.items():
                reader.add_frame(name, frame, (columns or {}).get(name, {}))
            selection = reader.build(relations, min_count or {})
        return cls._of(selection, relations, dict.fromkeys(frames, "frame"))

    @classmethod
    def from_files(
        cls,
        files: Mapping[str, str | Path],
        relations: Sequence[Relation],
        *,
        columns: Mapping[str, Columns] | None = None,
        min_count: Mapping[str, int] | None = None,
    ) -> "Graph":
        """Build a graph from one Parquet or CSV path per relation; a path may be a glob. See ``from_frames``."""
        _check_columns(columns, files)
        with Reader() as reader:
            for name, path in files.items():
                reader.add_file(name, path, (columns or {}).get(name, {}))
            selection = reader.build(relations, min_count or {})
        return cls._of(selection, relations, {name: str(path) for name, path in files.items()})

    @classmethod
    def from_parquet(
        cls,
        path: str | Path,
        relations: Sequence[Relation],
        *,
        columns: Columns | None = None,
        min_count: Mapping[str, int] | None = None,
    ) -> "Graph":
        """Build a graph from files that hold all relations, one named in each row's column ``relation``.

        See ``from_frames``; ``columns`` may rename ``relation`` too. A relation in the file that ``relations`` does
        not name is an error, so that a typing error never drops edges in silence.
        """
        with Reader() as reader:
            reader.add_mixed(path, columns or {}, relations)
            selection = reader.build(relations, min_count or {})
        return cls._of(selection, relations, {"*": str(path)})

    @classmethod
    def _of(cls, selection: Selection, relations: Sequence[Relation], sources: Mapping[str, str]) -> "Graph":
        return cls(
            {relation.name: relation for relation in relations},
            selection.entities,
            selection.edges,
            summary=GraphSummary(selection.counts),
            history=({"sources": dict(sources)},),
        )

    def num_entities(self, entity: str) -> int:
        """Entities of a type, N."""
        return len(self.entities[entity])

    def degrees(self, entity: str, *, weighing: bool = False) -> NDArray[np.int64]:
        """Occurrences (N,) of every entity of a type over all relations and both ends; a self-loop counts twice.

        Args:
            entity: The entity type.
            weighing: Leave out edges with a weight of 0, which train nothing.
        """
        counts = np.zeros(len(self.entities[entity]), np.int64)
        for name, relation in self.relations.items():
            edges = self.edges[name]
            if weighing and edges.weights is not None:
                edges = edges.take(edges.weights > 0)
            for end, rows in ((relation.source, edges.sources), (relation.target, edges.targets)):
                if end == entity:
                    counts += np.bincount(rows, minlength=len(counts))
        return counts

    def pairs(self, relation: str) -> pd.DataFrame:
        """Edges of a relation as ids: a frame with the columns query (source) and candidate (target)."""
        if relation not in self.relations:
            raise ConfigError(f"relation {relation!r} is not in the graph; {closest(relation, self.relations)}")
        ends, edges = self.relations[relation], self.edges[relation]
        query = self.entities[ends.source].take(pa.array(edges.sources)).to_pandas()
        candidate = self.entities[ends.target].take(pa.array(edges.targets)).to_pandas()
        return pd.DataFrame({"query": query, "candidate": candidate})

    def split(
        self, *, fraction: float | None = None, seed: int = 0, at: str | float | date | None = None
    ) -> tuple["Graph", "Graph"]:
        """Split the edges into a known and a held-out part, by chance or by time; give one of the two.

        An edge is in exactly one part. Edges between the same two entities of a relation go together: duplicates,
        and in a relation of an entity type with itself also an edge and its reversed twin. Both parts keep the
        entities of the whole, so that their rows agree.

        Args:
            fraction: Share of each relation's distinct pairs to hold out, drawn with ``seed``.
            seed: Of the draw.
            at: Hold out the pairs whose first edge is at or after this time: a date for timestamp columns, a number
                for numeric ones. Relations without a time stay known.

        Raises:
            ConfigError: Neither or both of fraction and at, or a fraction not between 0 and 1.
            DataError: No relation has times, ``at`` is no time, or all times lie on one side of it.
        """
        if (fraction is None) == (at is None):
            raise ConfigError("split needs either fraction= (by chance) or at= (by time)")
        if fraction is not None and not 0 < fraction < 1:
            raise ConfigError(f"split: fraction must lie between 0 and 1, got {fraction}")
        if at is not None and all(edges.times is None for edges in self.edges.values()):
            raise DataError(f"split at {at!r}: no relation has a time column")
        cut = None if at is None else _time_number(at)
        known, held = {}, {}
        for number, (name, edges) in enumerate(self.edges.items()):
            pair = self._pair_numbers(name)  # (E,)
            if fraction is not None:
                order = np.random.default_rng([seed, number]).permutation(pair.max(initial=-1) + 1)
                out = (order < round(fraction * len(order)))[pair]
            elif edges.times is None:
                out = np.zeros(len(edges), bool)
            else:
                limits = np.finfo if edges.times.dtype.kind == "f" else np.iinfo
                first = np.full(pair.max(initial=-1) + 1, limits(edges.times.dtype).max)
                np.minimum.at(first, pair, edges.times)
                out = first[pair] >= cut
            known[name], held[name] = edges.take(~out), edges.take(out)
        if cut is not None:
            _check_cut(at, known, held)
        rule = {"fraction": fraction, "seed": seed} if at is None else {"at": str(at)}
        return tuple(  # type: ignore[return-value]
            Graph(self.relations, self.entities, part, history=(*self.history, {"split": rule, "part": side}))
            for part, side in ((known, "known"), (held, "held out"))
        )

    def _pair_numbers(self, name: str) -> NDArray[np.int64]:
        """Number (E,) the distinct pairs of entities that a relation's edges join, direction aside within a type."""
        relation, edges = self.relations[name], self.edges[name]
        first, second = edges.sources, edges.targets
        if relation.source == relation.target:
            first, second = np.minimum(first, second), np.maximum(first, second)
        keys = first * len(self.entities[relation.target]) + second
        return np.asarray(np.unique(keys, return_inverse=True)[1])


def _check_columns(columns: Mapping[str, Columns] | None, given: Mapping[str, Any]) -> None:
    for name in columns or ():
        if name not in given:
            raise ConfigError(f"columns are given for {name!r}, which has no edges given; {closest(name, given)}")


def _time_number(at: str | float | date) -> float:
    if not isinstance(at, str | date):
        return float(at)
    try:
        return float(round(pd.Timestamp(at).timestamp() * 1e6))  # without a time zone: UTC, as in the columns
    except ValueError:
        raise DataError(f"split at {at!r}: not a date such as '2026-05-25' and not a number") from None


def _check_cut(at: str | float | date | None, known: Mapping[str, Edges], held: Mapping[str, Edges]) -> None:
    """Refuse a time that separates nothing: most often a date where the times are seconds, or the other way round."""
    times = [[edges.times for edges in part.values() if edges.times is not None] for part in (known, held)]
    before, after = (np.concatenate(part) for part in times)
    if not len(before) or not len(after):
        every = np.concatenate([before, after])
        raise DataError(
            f"split at {at!r} leaves all edges on one side: their times are {every.min()} to {every.max()} "
            "(microseconds since 1970 for timestamps and dates, else the column's numbers)"
        )
