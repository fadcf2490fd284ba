"""Reading edges: DuckDB counts and selects; ids become rows in streamed batches.

Edges come one relation at a time, or many together that a column tells apart.  Either way they become a view of
([relation, ]source, target[, weight][, time]), which is scanned a number of times that does not depend on how many
relations it holds: to count, for the ids of each entity type and end, and to map the edges, sorted by relation then.
Shapes: B rows of a batch, E edges of a view, R relations of a view.
"""

__all__ = ["TRIPLES", "Reader", "Selection", "View", "bad_values", "by_text"]

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pretrain.config import Relation
from pretrain.edges import Edges, without_unused
from pretrain.scans import (
    Columns,
    Scan,
    converted,
    id_kind,
    literal,
    readable,
    scan_file,
    scan_frame,
    with_exact_ids,
    with_header,
)
from recokit.errors import ConfigError, DataError, closest
from recokit.table.id_column import IdColumn

# What source, relation and target are called where nobody says; the last are the columns of a file without a header.
TRIPLES = tuple(
    dict(zip(("source", "relation", "target"), names, strict=True))
    for names in (
        ("source", "relation", "target"),
        ("h", "r", "t"),
        ("head", "relation", "tail"),
        ("column0", "column1", "column2"),
    )
)
_ROLES = ("source", "target", "weight", "time")
_ENDS = ("source", "target")
_BAD = {"weight": "weights are negative, missing or not finite", "time": "rows have no time"}
_INTEGER = re.compile(r"-?[0-9]+")
_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Selection:
    """What a reader made of its input."""

    entities: dict[str, pa.Array]  # entity type to sorted ids
    edges: dict[str, Edges]  # relation to edges
    counts: tuple[dict[str, Any], ...]  # a row per relation: what was read and dropped


@dataclasses.dataclass(frozen=True)
class View:
    """Edges of one relation, or of all those that its column ``relation`` tells apart."""

    name: str
    what: str  # for messages
    roles: tuple[str, ...]  # those of _ROLES that have a column
    kinds: Mapping[str, str]  # source and target to integers or strings
    mixed: bool
    relations: Mapping[str, str]  # what the column ``relation`` says, to the relation's name
    counts: Mapping[str | None, tuple[int, int]]  # rows, and rows without an end, by what the column says

    def edges(self, relations: Collection[str]) -> str:
        """SQL of the edges that have both ends and whose column ``relation`` says one of these."""
        some = f"FROM {self.name} WHERE source IS NOT NULL AND target IS NOT NULL"
        if self.counts.keys() <= set(relations):
            return some
        return f"{some} AND relation IN ({', '.join(map(literal, relations))})"


class Reader:
    """DuckDB's side of a graph: views of edges are added, then built into entities and edges.

    Args:
        db: A connection, closed with the reader; by default one that keeps all in memory, and the edges' order.
    """

    def __init__(self, db: duckdb.DuckDBPyConnection | None = None) -> None:
        self.db = duckdb.connect() if db is None else db
        if db is None:
            self.db.execute("SET preserve_insertion_order = true")
        self.db.execute("SET enable_progress_bar = false")  # DuckDB draws one where Python is interactive
        self.views: list[View] = []

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self.db.close()

    def add_frame(self, name: str, frame: pd.DataFrame | pa.Table, columns: Columns) -> None:
        """Take a relation's edges from a frame."""
        what = f"relation {name!r} (its frame)"
        read = _read(_names(frame), columns, _ROLES, what)
        self._add(self._scan_frame(frame, read, what), read, {name: name})

    def add_file(self, name: str, path: str | Path, columns: Columns) -> None:
        """Take a relation's edges from Parquet or CSV."""
        scan = scan_file(self.db, path, f"relation {name!r} ({path})")
        self._add(scan, _read(scan.types, columns, _ROLES, scan.what), {name: name})

    def add_mixed(
        self,
        data: str | Path | pd.DataFrame | pa.Table,
        columns: Columns,
        relations: Mapping[str, str] | None,
        *,
        header: bool | None = None,
        as_text: Collection[str] = (),
        drop_unknown: bool = False,
    ) -> list[str]:
        """Take the edges of many relations from rows that say which one is theirs.

        Args:
            data: A frame, or a path or glob of Parquet or CSV.
            columns: Role to column, where they are not called like any of TRIPLES.
            relations: What rows say to the relation's name; None names each relation what rows say.
            header: Whether the first row of a text file names the columns; by default, if the names are known.
            as_text: Ends whose ids are strings, even if those of a text file look like integers.
            drop_unknown: Leave rows out whose relation is not among ``relations``, instead of refusing them.

        Returns:
            What rows say, in order.
        """
        roles = (*_ROLES, "relation")
        if isinstance(data, pd.DataFrame | pa.Table):
            read = _read(_names(data), _triple_columns(_names(data), columns), roles, "the frame")
            scan = self._scan_frame(data, read, "the frame")
        else:
            scan = scan_file(self.db, data, str(data))
            if scan.is_text:
                usual = [{**names, **columns}.values() for names in TRIPLES]
                scan = with_header(scan, True if columns and header is None else header, usual)
            read = _read(scan.types, _triple_columns(scan.types, columns), roles, scan.what)
        view = self._add(scan, read, relations, as_text=("relation", *as_text))
        unknown = {text: rows for text, (rows, _) in view.counts.items() if text not in view.relations}
        if unknown and not drop_unknown:
            raise DataError(f"{scan.what}: {_said_of(unknown, view)}")
        return list(view.relations)

    def _scan_frame(self, frame: pd.DataFrame | pa.Table, read: Columns, what: str) -> Scan:
        return scan_frame(self.db, f"frame_{len(self.views)}", frame, read, what)

    def _add(
        self, scan: Scan, read: Columns, relations: Mapping[str, str] | None, *, as_text: Collection[str] = ()
    ) -> View:
        """Make a view of a scan and count its rows."""
        scan = with_exact_ids(scan, read, as_text)
        selected = [f"{converted(role, c, scan.types[c], scan.what)} AS {role}" for role, c in read.items()]
        view = f"edges_{len(self.views)}"
        self.db.execute(f"CREATE VIEW {view} AS SELECT {', '.join(selected)} FROM {scan.sql}")
        mixed = "relation" in read
        counted = "count(*), count(*) FILTER (source IS NULL OR target IS NULL)"
        said = "relation" if mixed else literal(next(iter(relations or ())))
        with readable(scan.what):
            rows = self.db.sql(
                f"SELECT {said}, {counted} FROM {view} {'GROUP BY relation' if mixed else ''}"
            ).fetchall()
        counts: dict[str | None, tuple[int, int]] = {text: (read, null) for text, read, null in rows}
        if relations is None:
            relations = {text: text for text in _in_order(counts)}
        kinds = {role: id_kind(scan.types[read[role]]) for role in _ENDS}
        roles = tuple(role for role in _ROLES if role in read)
        self.views.append(View(view, scan.what, roles, kinds, mixed, relations, counts))
        return self.views[-1]

    def build(
        self,
        relations: Sequence[Relation],
        min_count: Mapping[str, int],
        *,
        like: Mapping[str, pa.Array] | None = None,
        may_be_empty: bool = False,
    ) -> Selection:
        """Count, select and map the edges of the relations that were added.

        Args:
            relations: All of them.
            min_count: Entity type to the number of edges below which an entity is left out.
            like: Entity type to ids of the type, integers or strings, that these must have too.
            may_be_empty: Whether a relation may have no edges.
        """
        by_name = self.checked(relations, min_count)
        types = dict.fromkeys(end for r in relations for end in (r.source, r.target))
        entities = {entity: self._selected_ids(entity, by_name, min_count.get(entity, 1)) for entity in types}
        columns = {entity: IdColumn.of(ids) for entity, ids in entities.items()}
        mapped: dict[str, Edges] = {}
        for view in self.views:
            with readable(view.what):
                mapped |= self._mapped(view, by_name, columns)
        edges = {name: mapped[name] for name in by_name}
        counts = self.summary({name: len(part) for name, part in edges.items()}, may_be_empty=may_be_empty)
        entities, edges = without_unused(by_name, entities, edges)
        entities = {entity: _of_type(ids, (like or {}).get(entity), entity) for entity, ids in entities.items()}
        return Selection(entities, edges, counts)

    def checked(self, relations: Sequence[Relation], min_count: Mapping[str, int]) -> dict[str, Relation]:
        """Return relations by name, if they are those of the views and ``min_count`` names types of theirs."""
        by_name = {relation.name: relation for relation in relations}
        if not relations:
            raise ConfigError("a graph needs at least one relation")
        if len(by_name) < len(relations):
            twice = sorted({r.name for r in relations if sum(o.name == r.name for o in relations) > 1})
            raise ConfigError(f"relation names must be unique, got twice: {', '.join(twice)}")
        given = dict.fromkeys(name for view in self.views for name in view.relations.values())
        for name in given:
            if name not in by_name:
                raise ConfigError(f"edges are given for {name!r}, which is no relation; {closest(name, by_name)}")
        for name in by_name:
            if name not in given:
                raise ConfigError(f"relation {name!r} has no edges given; given: {', '.join(given)}")
        types = {end for r in relations for end in (r.source, r.target)}
        for entity, count in min_count.items():
            if entity not in types:
                raise ConfigError(f"min_count names the entity type {entity!r}; {closest(entity, types)}")
            if count < 1:
                raise ConfigError(f"min_count of {entity!r} must be at least 1, got {count}")
        return by_name

    def occurring(self, entity: str, relations: Mapping[str, Relation], min_count: int) -> str:
        """SQL of the ids of a type, in no order, that occur at least ``min_count`` times."""
        kinds, occurrences = {}, []
        for view in self.views:
            for role in _ENDS:
                said = [text for text, name in view.relations.items() if getattr(relations[name], role) == entity]
                if said:
                    kinds[view.kinds[role]] = f"{role} of {view.relations[said[0]]!r}"
                    occurrences.append(f"SELECT {role} AS id, count(*) AS n {view.edges(said)} GROUP BY {role}")
        if len(kinds) > 1:
            listed = ", ".join(f"{kind} as {where}" for kind, where in kinds.items())
            raise DataError(f"ids of entity type {entity!r} must be all integers or all strings, got {listed}")
        counted = " UNION ALL ".join(occurrences)
        return f"SELECT id FROM ({counted}) GROUP BY id HAVING sum(n) >= {int(min_count)}"

    def _selected_ids(self, entity: str, relations: Mapping[str, Relation], min_count: int) -> pa.Array:
        """Return the sorted ids of a type that occur at least ``min_count`` times."""
        query = f"{self.occurring(entity, relations, min_count)} ORDER BY id"
        with readable(f"entity type {entity!r}"):
            ids = self.db.sql(query).to_arrow_table().column("id").combine_chunks()
        return ids if pa.types.is_integer(ids.type) else ids.cast(pa.large_string())

    def _mapped(
        self, view: View, relations: Mapping[str, Relation], columns: Mapping[str, IdColumn]
    ) -> dict[str, Edges]:
        """Stream a view's edges, turn their ids into rows and part them by relation."""
        names = list(view.relations.values())
        numbers = IdColumn.of(pa.array(view.relations, pa.large_string())) if view.mixed else None
        ends = {role: _End([getattr(relations[name], role) for name in names], columns) for role in _ENDS}
        roles = (*view.roles, "relation") if view.mixed else view.roles
        query = f"SELECT {', '.join(roles)} {view.edges(view.relations)}"
        parts: dict[str, list[NDArray[Any]]] = {role: [] for role in (*view.roles, "relation")}
        num_bad = {role: np.zeros(len(names), np.int64) for role in _BAD if role in view.roles}
        for batch in self.db.sql(query).to_arrow_reader(1 << 18):
            relation = np.zeros(len(batch), np.int64) if numbers is None else numbers.rows(batch["relation"])  # (B,)
            values = {role: end.rows(batch[role], relation) for role, end in ends.items()} | {"relation": relation}
            for role in num_bad:
                values[role] = batch[role].to_numpy(zero_copy_only=False)
                num_bad[role] += np.bincount(relation[_is_bad(role, values[role])], minlength=len(names))
            keep = (values["source"] >= 0) & (values["target"] >= 0)
            for role, part in parts.items():
                part.append(values[role][keep])
        for role, counts in num_bad.items():
            for number in np.flatnonzero(counts)[:1]:
                raise bad_values(names[number], int(counts[number]), role)
        joined = {role: np.concatenate(part) if part else np.empty(0, np.int64) for role, part in parts.items()}
        return _parted(names, joined)

    def summary(self, kept: Mapping[str, int], *, may_be_empty: bool = False) -> tuple[dict[str, Any], ...]:
        """Say of every relation what was read and dropped; those that were not asked for share a row.

        Args:
            kept: Relation to the number of its edges that are left.
            may_be_empty: Whether a relation may have none.
        """
        counts = {name: view.counts.get(text, (0, 0)) for view in self.views for text, name in view.relations.items()}
        rows = [(name, *counts[name], edges) for name, edges in kept.items()]
        summary: list[dict[str, Any]] = [
            {"relation": name, "read": read, "null": null, "below_min_count": read - null - edges, "edges": edges}
            for name, read, null, edges in rows
        ]
        for row in summary:
            if not row["edges"] and not may_be_empty:
                raise DataError(
                    f"relation {row['relation']!r} has no edges: {row['read']} read, {row['null']} without an end, "
                    f"{row['below_min_count']} below min_count"
                )
        unknown = [view.counts[text] for view in self.views for text in view.counts.keys() - view.relations.keys()]
        if unknown:
            read, null = map(sum, zip(*unknown, strict=True))
            left_out = f"({len(unknown)} not configured)"
            summary.append({"relation": left_out, "read": read, "null": null, "below_min_count": 0, "edges": 0})
        return tuple(summary)


def by_text(relations: Mapping[int | str, Relation] | Sequence[Relation]) -> dict[str, Relation]:
    """Return what triples call each relation, to the relation."""
    said = relations if isinstance(relations, Mapping) else [relation.name for relation in relations]
    texts = [str(text) for text in said]
    twice = sorted(text for text, count in Counter(texts).items() if count > 1)
    if twice:
        raise ConfigError(f"relation names must be unique, got twice: {', '.join(twice)}")
    return dict(zip(texts, relations.values() if isinstance(relations, Mapping) else relations, strict=True))


def bad_values(relation: str, count: int, role: str) -> DataError:
    """Return the error for weights or times that cannot be."""
    return DataError(f"relation {relation!r}: {count} {_BAD[role]}")


class _End:
    """Ids at one end of a view's edges to rows, each of the entity type that its relation has there.

    Args:
        types: Entity type of each relation (R,).
        columns: Entity type to its ids.
    """

    def __init__(self, types: Sequence[str], columns: Mapping[str, IdColumn]) -> None:
        number = {entity: position for position, entity in enumerate(dict.fromkeys(types))}
        self._columns = [columns[entity] for entity in number]
        self._type_of = np.array([number[entity] for entity in types])  # (R,)

    def rows(self, ids: pa.Array, relation: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each id (B,), -1 where it was left out."""
        if len(self._columns) == 1:
            return self._columns[0].rows(ids)
        rows = np.empty(len(ids), np.int64)
        types = self._type_of[relation]  # (B,)
        for number, column in enumerate(self._columns):
            own = np.flatnonzero(types == number)
            rows[own] = column.rows(ids.take(pa.array(own)))
        return rows


def _parted(names: Sequence[str], values: Mapping[str, NDArray[Any]]) -> dict[str, Edges]:
    """Part the edges of several relations (E,), each relation's in their order."""
    relation = values["relation"]
    values = {role: value for role, value in values.items() if role != "relation"}
    if "weight" in values:
        values["weight"] = values["weight"].astype(np.float32)
    if len(names) > 1:
        order = np.argsort(
            relation.astype(np.min_scalar_type(len(names))), kind="stable"
        )  # few bits sort in linear time
        relation, values = relation[order], {role: value[order] for role, value in values.items()}
    bounds = np.searchsorted(relation, np.arange(len(names) + 1))
    edges = {}
    for name, start, end in zip(names, bounds, bounds[1:], strict=False):
        part = {role: value[start:end] for role, value in values.items()}
        edges[name] = Edges(part["source"], part["target"], part.get("weight"), part.get("time"))
    return edges


def _read(found: Collection[str], columns: Columns, roles: Sequence[str], what: str) -> dict[str, str]:
    """Return role to column, for the roles that have a column."""
    for role in columns:
        if role not in roles:
            raise ConfigError(f"{what}: columns has {role!r}; {closest(role, roles)}")
    read = {role: columns.get(role, role) for role in roles}
    for role, column in read.items():
        if column not in found and (role not in ("weight", "time") or role in columns):
            raise DataError(f"{what}: no column {column!r} for the {role}; it has: {', '.join(map(str, found))}")
        if list(found).count(column) > 1:
            raise DataError(f"{what}: several columns are named {column!r}, expected one for the {role}")
    return {role: column for role, column in read.items() if column in found}


def _triple_columns(found: Collection[str], columns: Columns) -> dict[str, str]:
    """Add the first names of TRIPLES that are there to the columns that were named."""
    usual = [{**names, **columns} for names in TRIPLES]
    return next((names for names in usual if set(names.values()) <= set(found)), usual[0])


def _names(frame: pd.DataFrame | pa.Table) -> list[str]:
    return list(frame.columns) if isinstance(frame, pd.DataFrame) else list(frame.column_names)


def _in_order(texts: Iterable[str | None]) -> list[str]:
    """Sort as numbers if all are, else as strings; a missing one is left out."""
    there = [text for text in texts if text is not None]
    return sorted(there, key=int) if all(_INTEGER.fullmatch(text) for text in there) else sorted(there)


def _said_of(unknown: Mapping[str | None, int], view: View) -> str:
    """Say how many relations are not configured, and which one the first of them may be."""
    if None in unknown:
        return f"{unknown[None]:,} rows have no relation"
    first = _in_order(unknown)[0]
    near = difflib.get_close_matches(first, view.relations, n=10, cutoff=0.0)
    return (
        f"{len(unknown):,} of {len(view.counts):,} relations ({sum(unknown.values()):,} rows) are not configured; the "
        f"first is {first!r}; {closest(first, near)}"
    )


def _of_type(ids: pa.Array, like: pa.Array | None, entity: str) -> pa.Array:
    """Return the ids if another graph's are of their type; no ids are of any type."""
    if like is None or ids.type == like.type:
        return ids
    if len(ids):
        raise DataError(f"ids of entity type {entity!r} are {ids.type}, and {like.type} in the other graph")
    return ids.cast(like.type)


def _is_bad(role: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Find the values that a weight or a time cannot have; missing ones are NaN here."""
    # Not in SQL: DuckDB believes Parquet's minima and maxima, which leave NaN out.
    good = (values >= 0) & (values <= _LARGEST) if role == "weight" else np.isfinite(values)
    return np.asarray(~good)
