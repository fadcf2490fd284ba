"""A heterogeneous network: typed entities, relations between them, edges as row numbers.

Edges come from pandas, Arrow, Parquet or CSV.  DuckDB reads, checks and counts them, so that an edge file is never
held as Python objects; ids become rows through the same index that embedding tables use.  An entity type's ids are
int64 or strings, sorted, so that the same edges give the same rows whatever order they came in.
Shapes: N entities of a type, E edges of a relation.
"""

__all__ = ["Edges", "Graph", "GraphSummary", "Unknown", "check_seed"]

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pretrain.config import Relation, check_choice
from pretrain.edges import Edges, without_unused
from pretrain.reading import Reader, Selection, by_text
from pretrain.scans import Columns
from recokit.errors import ConfigError, DataError, closest
from recokit.table.folder import npy_digest
from recokit.table.ids import ids_digest

Unknown = Literal["refuse", "drop"]


@dataclasses.dataclass(frozen=True)
class GraphSummary:
    """What was read and what was dropped, one row a relation: relation, read, null, below_min_count, edges."""

    rows: tuple[dict[str, Any], ...]

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a frame."""
        return pd.DataFrame(self.rows)


class Graph:
    """Typed entities and the edges between them; made by ``from_frames``, ``from_files``, ``from_triples``.

    Attributes:
        relations: Name to ``Relation``.
        entities: Entity type to its ids, a sorted Arrow array of int64 or large_string; row i is entity i.
        edges: Relation name to ``Edges``.
        summary: What was read and what was dropped.
        history: How this graph came about (sources, splits), for the meta of what is trained on it.
        relation_ids: Relation name to what triples call it, where that is not its name.
    """

    def __init__(
        self,
        relations: Mapping[str, Relation],
        entities: Mapping[str, pa.Array],
        edges: Mapping[str, Edges],
        *,
        summary: GraphSummary | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        relation_ids: Mapping[str, str] | None = None,
    ) -> None:
        self.relations, self.entities, self.edges = dict(relations), dict(entities), dict(edges)
        self.summary = summary or GraphSummary(())
        self.history = tuple(history)
        self.relation_ids = {name: text for name, text in (relation_ids or {}).items() if name in self.relations}

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

        ``from_triples`` with relations that files call by their names; a relation in the file that ``relations`` does
        not name is an error, so that a typing error never drops edges in silence.
        """
        return cls.from_triples(path, columns=columns, relations=relations, min_count=min_count)

    @classmethod
    def from_triples(
        cls,
        data: str | Path | pd.DataFrame | pa.Table,
        *,
        columns: Columns | None = None,
        header: bool | None = None,
        entity: str = "entity",
        relations: Mapping[int | str, Relation] | Sequence[Relation] | None = None,
        like: "Graph | None" = None,
        unknown: Unknown = "refuse",
        min_count: Mapping[str, int] | None = None,
    ) -> "Graph":
        """Build a graph from edges that say their relation: (source, relation, target), also called triples.

        Ids are integers up to 2**63 - 1 or strings and stay exactly what they are; relations are too, and are told
        apart by their text (17 is "17"). The data are scanned a fixed number of times, however many relations there
        are.

        >>> edges = pd.DataFrame({"h": [661027446241361930], "r": [17], "t": [974519864045756446]})
        >>> Graph.from_triples(edges, relations={17: Relation("user_in_guild", "user", "guild")})
        Graph(entities: 1 user, 1 guild; edges: 1 user_in_guild)

        Args:
            data: A frame, or a path or glob of Parquet, or of CSV or TSV (.csv, .tsv, .txt; also .gz).
                Columns are parted by tabs in .tsv, else by what the first line holds: in .csv a comma, else a
                semicolon, tab or bar; in .txt a tab, else a comma, semicolon, bar or space. Rows of another width
                are an error.
            columns: The names of the columns source, relation, target[, weight][, time], such as
                ``{"source": "user_id"}``. Where none are given, source, relation, target are also found as h, r, t or
                as head, relation, tail; without a header the first three are column0, column1, column2.
            header: Whether the first row of a text file names the columns. By default it does if it holds the names
                of ``columns`` (which is an error if it does not), or the usual ones; a header of other words needs
                ``columns``.
            entity: The entity type of every end, where neither ``relations`` nor ``like`` says more.
            relations: What the data call a relation to the ``Relation`` that it is, or relations that they call by
                their names. By default each relation found is one, named by its text, with ends of type ``entity``.
            like: A graph of triples, whose relations and entity types these are too: further files of one data set,
                such as those to validate and test on. Entities that it lacks have rows here, relations that are not
                in these data have no edges, and ids join the two.
            unknown: What to do with relations that neither ``relations`` nor ``like`` has: refuse them, or leave
                them out (``"drop"``; counted in the summary).
            min_count: As in ``from_frames``.

        Raises:
            DataError: As in ``from_frames``; or a relation is unknown, or missing though ``relations`` has it; or an
                id is beyond 64 bits, or a text file mixes integers with others (007, 1e3).
            ConfigError: As in ``from_frames``, or both ``relations`` and ``like`` are given.
        """
        check_choice("from_triples", "unknown", unknown, get_args(Unknown))
        if relations is not None and like is not None:
            raise ConfigError("from_triples takes either relations= or like=: like has relations of its own")
        if like is not None:
            relations = {like.relation_ids.get(name, name): relation for name, relation in like.relations.items()}
        given = by_text(relations) if relations is not None else None
        with Reader() as reader:
            found = reader.add_mixed(
                data,
                columns or {},
                None if given is None else {text: relation.name for text, relation in given.items()},
                header=header,
                as_text=() if like is None else like._ends_of_strings(),
                drop_unknown=unknown == "drop",
            )
            named = given or {text: Relation(text, entity, entity) for text in found}
            if not named:
                raise DataError(f"{_source(data)}: there are no edges")
            selection = reader.build(
                list(named.values()),
                min_count or {},
                like=None if like is None else like.entities,
                may_be_empty=like is not None or given is None,
            )
        return cls._of(
            selection,
            list(named.values()),
            {"*": _source(data)},
            {relation.name: text for text, relation in named.items() if relation.name != text},
        )

    @classmethod
    def _of(
        cls,
        selection: Selection,
        relations: Sequence[Relation],
        sources: Mapping[str, str],
        relation_ids: Mapping[str, str] | None = None,
    ) -> "Graph":
        return cls(
            {relation.name: relation for relation in relations},
            selection.entities,
            selection.edges,
            summary=GraphSummary(selection.counts),
            history=({"sources": dict(sources)},),
            relation_ids=relation_ids,
        )

    def _ends_of_strings(self) -> set[str]:
        """Return source, target or both: where some relation has string ids."""
        ends = [(end, getattr(r, end)) for r in self.relations.values() for end in ("source", "target")]
        return {end for end, entity in ends if not pa.types.is_integer(self.entities[entity].type)}

    def select(self, relations: Sequence[str]) -> "Graph":
        """Return the network of some relations: their edges, and the entities that have one.

        Rows are numbered anew; relations keep their order, and the graph keeps its history.

        Args:
            relations: Names of relations of the graph.

        Raises:
            ConfigError: A name is unknown, or there is none.
        """
        for name in relations:
            if name not in self.relations:
                raise ConfigError(f"select: relation {name!r} is not in the graph; {closest(name, self.relations)}")
        kept = {name: relation for name, relation in self.relations.items() if name in set(relations)}
        if not kept:
            raise ConfigError("select: a graph needs at least one relation")
        entities, edges = without_unused(kept, self.entities, self.edges)
        return Graph(
            kept,
            entities,
            edges,
            summary=GraphSummary(tuple(row for row in self.summary.rows if row["relation"] in kept)),
            history=self.history,
            relation_ids=self.relation_ids,
        )

    def num_entities(self, entity: str) -> int:
        """Entities of a type, N."""
        return len(self.entities[entity])

    def digest(self) -> str:
        """SHA-256 of all entities' ids and all edges: two graphs of the same digest train alike."""
        digest = hashlib.sha256()
        for ids in self.entities.values():
            digest.update(ids_digest(ids).encode())
        for edges in self.edges.values():
            for array in (edges.sources, edges.targets, edges.weights):
                digest.update(b"none" if array is None else npy_digest(array).encode())
        return digest.hexdigest()

    def degrees(self, entity: str, *, weighing: bool = False) -> NDArray[np.int64]:
        """Occurrences (N,) of every entity of a type over all relations and both ends; a self-loop counts twice.

        Args:
            entity: The entity type.
            weighing: Leave out edges with a weight of 0, which train nothing.
        """
        rows = [np.empty(0, np.int64)]
        for name, relation in self.relations.items():
            edges = self.edges[name]
            if weighing and edges.weights is not None:
                edges = edges.take(edges.weights > 0)
            rows += [edges.sources] if relation.source == entity else []
            rows += [edges.targets] if relation.target == entity else []
        return np.bincount(np.concatenate(rows), minlength=len(self.entities[entity]))

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
            ConfigError: Neither or both of fraction and at, a fraction not between 0 and 1, or a seed below 0.
            DataError: No relation has times, ``at`` is no time, or all times lie on one side of it.
        """
        if (fraction is None) == (at is None):
            raise ConfigError("split needs either fraction= (by chance) or at= (by time)")
        if fraction is not None and not 0 < fraction < 1:
            raise ConfigError(f"split: fraction must lie between 0 and 1, got {fraction}")
        check_seed(seed)
        if at is not None and all(edges.times is None for edges in self.edges.values()):
            raise DataError(f"split at {at!r}: no relation has a time column")
        cut = 0 if at is None else _time_number(at)
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
                out = first[pair] >= (_whole(cut) if edges.times.dtype.kind == "i" else float(cut))
            known[name], held[name] = edges.take(~out), edges.take(out)
        if at is not None:
            _check_cut(at, known, held)
        rule = {"fraction": fraction, "seed": seed} if at is None else {"at": str(at)}
        return tuple(  # type: ignore[return-value]
            Graph(
                self.relations,
                self.entities,
                part,
                history=(*self.history, {"split": rule, "part": side}),
                relation_ids=self.relation_ids,
            )
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


def _source(data: str | Path | pd.DataFrame | pa.Table) -> str:
    return str(data) if isinstance(data, str | Path) else "frame"


def check_seed(seed: int) -> None:
    """Raise a ConfigError unless it is a whole number of at least 0."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"seed must be a whole number of at least 0, got {seed!r}")


def _time_number(at: str | float | date) -> float:
    """Return a time as times are compared: integers stay what they are, since floats round them above 2**53."""
    try:
        if isinstance(at, str | date):
            return round(pd.Timestamp(at).timestamp() * 1e6)  # without a time zone: UTC, as in the columns
        number = float(at)
        return int(at) if isinstance(at, int | np.integer) else number
    except (ValueError, OverflowError):
        raise DataError(f"split at {at!r}: not a date such as '2026-05-25' and not a number") from None


def _whole(cut: float) -> float:
    """Return the first integer that is not below a number; integers are at or after either at the same time."""
    return math.ceil(cut) if math.isfinite(cut) else cut


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
