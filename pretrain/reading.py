"""Reading edges: DuckDB scans, checks, counts and selects; ids become rows in streamed batches.

Every relation becomes a view of (source, target[, weight][, time]); ids are brought to BIGINT or VARCHAR there.
"""

__all__ = ["Columns", "Reader", "Selection"]

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pretrain.config import Relation
from pretrain.edges import Edges
from recokit.errors import ConfigError, DataError, closest
from recokit.table.id_column import IdColumn

Columns = Mapping[str, str]  # a role, such as "source", to the name of its column
_ROLES = ("source", "target", "weight", "time")
_LARGEST = float(np.finfo(np.float32).max)
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"}


@dataclasses.dataclass(frozen=True)
class Selection:
    """What a reader made of its input."""

    entities: dict[str, pa.Array]  # entity type to sorted ids
    edges: dict[str, Edges]  # relation to edges
    counts: tuple[dict[str, Any], ...]  # a row per relation: what was read and dropped


class Reader:
    """DuckDB's side of a graph: one relation of (source, target, weight, time) per name, then counts and streams."""

    def __init__(self) -> None:
        self._db = duckdb.connect()
        self._db.execute("SET preserve_insertion_order = true")
        self._views: dict[str, str] = {}  # relation name to a view of source, target, weight, time
        self._sources: dict[str, str] = {}  # relation name to where its edges come from, for messages
        self._types: dict[str, tuple[str, str]] = {}  # relation name to the id types of its ends
        self._has: dict[str, set[str]] = {}  # relation name to the roles that have a column

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def add_frame(self, name: str, frame: pd.DataFrame | pa.Table, columns: Columns) -> None:
        """Take a relation's edges from a frame."""
        with _readable(f"relation {name!r}: its frame"):
            read = {role: columns.get(role, role) for role in _ROLES}
            if isinstance(frame, pd.DataFrame) and {read["source"], read["target"]} <= set(frame.columns):
                # The columns that matter alone: the others may be anything, also what Arrow has no type for.
                frame = frame[[column for column in frame.columns if column in read.values()]]
            table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame, preserve_index=False)
        raw = f"frame_{len(self._views)}"
        self._db.register(raw, table)
        self._add(name, raw, columns, where="", source="its frame")

    def add_file(self, name: str, path: str | Path, columns: Columns) -> None:
        """Take a relation's edges from Parquet or CSV."""
        self._add(name, self._scan(path), columns, where="", source=str(path))

    def add_mixed(self, path: str | Path, columns: Columns, relations: Sequence[Relation]) -> None:
        """Take every relation's edges from files that name the relation in each row."""
        scan = self._scan(path)
        column = columns.get("relation", "relation")
        found = self._column_types(scan)
        if column not in found:
            raise DataError(f"{path}: no column {column!r}; {closest(column, found)}")
        with _readable(str(path)):
            names = [str(n) for (n,) in self._db.sql(f"SELECT DISTINCT {_quoted(column)} FROM {scan}").fetchall()]
        known = {relation.name for relation in relations}
        for name in sorted(set(names) - known):
            raise DataError(f"{path}: relation {name!r} is not configured; {closest(name, known)}")
        ends = {role: c for role, c in columns.items() if role != "relation"}
        for name in sorted(known):
            where = f"WHERE CAST({_quoted(column)} AS VARCHAR) = {_literal(name)}"
            self._add(name, scan, ends, where=where, source=str(path))

    def _scan(self, path: str | Path) -> str:
        text = str(path)
        reader = "read_csv" if text.endswith((".csv", ".tsv", ".csv.gz", ".txt")) else "read_parquet"
        # Folders named like ``source=web`` must not overwrite columns, and a column that one file lacks is not lost.
        scan = f"{reader}({_literal(text)}, hive_partitioning = false, union_by_name = true)"
        with _readable(text):
            self._db.sql(f"SELECT 1 FROM {scan} LIMIT 1").fetchall()
        return scan

    def _column_types(self, relation: str) -> dict[str, str]:
        described = self._db.sql(f"DESCRIBE SELECT * FROM {relation}").fetchall()
        return {row[0]: row[1] for row in described}

    def _add(self, name: str, raw: str, columns: Columns, *, where: str, source: str) -> None:
        what = f"relation {name!r} ({source})"
        for role in columns:
            if role not in _ROLES:
                raise ConfigError(f"{what}: columns has {role!r}; {closest(role, _ROLES)}")
        found = self._column_types(raw)
        selected, types = [], {}
        for role in _ROLES:
            column = columns.get(role, role)
            if column not in found:
                if role in ("source", "target") or role in columns:
                    raise DataError(f"{what}: no column {column!r} for the {role}; it has: {', '.join(found)}")
                continue
            types[role] = found[column]
            selected.append(f"{_converted(role, column, found[column], what)} AS {role}")
        view = f"edges_{len(self._views)}"
        self._db.execute(f"CREATE VIEW {view} AS SELECT {', '.join(selected)} FROM {raw} {where}")
        self._views[name], self._has[name], self._sources[name] = view, set(types), source
        self._types[name] = (_id_kind(types["source"]), _id_kind(types["target"]))

    def build(self, relations: Sequence[Relation], min_count: Mapping[str, int]) -> Selection:
        """Count, select and map the edges of the relations that were added."""
        by_name = {relation.name: relation for relation in relations}
        self._check_names(relations, by_name, min_count)
        entities = {
            entity: self._selected_ids(entity, by_name, min_count.get(entity, 1))
            for entity in dict.fromkeys(e for r in relations for e in (r.source, r.target))
        }
        columns = {entity: IdColumn.of(ids) for entity, ids in entities.items()}
        edges, rows = {}, []
        for name, relation in by_name.items():
            with _readable(f"relation {name!r} ({self._sources[name]})"):
                edges[name], counts = self._mapped(name, columns[relation.source], columns[relation.target])
            rows.append({"relation": name, **counts, "edges": len(edges[name])})
            if not len(edges[name]):
                raise DataError(
                    f"relation {name!r} has no edges: {counts['read']} read, {counts['null']} without an end, "
                    f"{counts['below_min_count']} below min_count"
                )
        entities, edges = _without_unused(by_name, entities, edges)
        return Selection(entities, edges, tuple(rows))

    def _check_names(
        self, relations: Sequence[Relation], by_name: Mapping[str, Relation], min_count: Mapping[str, int]
    ) -> None:
        if not relations:
            raise ConfigError("a graph needs at least one relation")
        if len(by_name) < len(relations):
            twice = sorted({r.name for r in relations if sum(o.name == r.name for o in relations) > 1})
            raise ConfigError(f"relation names must be unique, got twice: {', '.join(twice)}")
        for name in self._views:
            if name not in by_name:
                raise ConfigError(f"edges are given for {name!r}, which is no relation; {closest(name, by_name)}")
        for name in by_name:
            if name not in self._views:
                raise ConfigError(f"relation {name!r} has no edges given; given: {', '.join(self._views)}")
        types = {end for r in relations for end in (r.source, r.target)}
        for entity, count in min_count.items():
            if entity not in types:
                raise ConfigError(f"min_count names the entity type {entity!r}; {closest(entity, types)}")
            if count < 1:
                raise ConfigError(f"min_count of {entity!r} must be at least 1, got {count}")

    def _ends(self, entity: str, relations: Mapping[str, Relation]) -> Iterator[tuple[str, str]]:
        """Yield (relation name, role) wherever an entity type takes part."""
        for name, relation in relations.items():
            for role, end in (("source", relation.source), ("target", relation.target)):
                if end == entity:
                    yield name, role

    def _selected_ids(self, entity: str, relations: Mapping[str, Relation], min_count: int) -> pa.Array:
        """Return the sorted ids of a type that occur at least ``min_count`` times."""
        ends = list(self._ends(entity, relations))
        kinds = {self._types[name][role == "target"]: f"{role} of {name!r}" for name, role in ends}
        if len(kinds) > 1:
            said = ", ".join(f"{kind} as {where}" for kind, where in kinds.items())
            raise DataError(f"ids of entity type {entity!r} must be all integers or all strings, got {said}")
        occurrences = " UNION ALL ".join(
            f"SELECT {role} AS id, count(*) AS n FROM {self._views[name]} "
            f"WHERE source IS NOT NULL AND target IS NOT NULL GROUP BY {role}"
            for name, role in ends
        )
        query = f"SELECT id FROM ({occurrences}) GROUP BY id HAVING sum(n) >= {int(min_count)} ORDER BY id"
        where = ", ".join(dict.fromkeys(self._sources[name] for name, _ in ends))
        with _readable(f"entity type {entity!r} ({where})"):
            ids = self._db.sql(query).to_arrow_table().column("id").combine_chunks()
        return ids if pa.types.is_integer(ids.type) else ids.cast(pa.large_string())

    def _mapped(self, name: str, sources: IdColumn, targets: IdColumn) -> tuple[Edges, dict[str, int]]:
        """Stream a relation's edges and turn its ids into rows; count what is dropped."""
        view, has = self._views[name], self._has[name]
        read, null = self._db.sql(
            f"SELECT count(*), count(*) FILTER (WHERE source IS NULL OR target IS NULL) FROM {view}"
        ).fetchall()[0]
        roles = [role for role in _ROLES if role in has]
        query = f"SELECT {', '.join(roles)} FROM {view} WHERE source IS NOT NULL AND target IS NOT NULL"
        parts: dict[str, list[NDArray[Any]]] = {role: [] for role in roles}
        num_bad = dict.fromkeys(roles, 0)
        for batch in self._db.sql(query).to_arrow_reader(1 << 18):
            rows = {"source": sources.rows(batch["source"]), "target": targets.rows(batch["target"])}
            keep = (rows["source"] >= 0) & (rows["target"] >= 0)
            for role in roles:
                column = rows[role] if role in rows else batch[role].to_numpy(zero_copy_only=False)
                parts[role].append(column[keep])
                num_bad[role] += _num_bad(role, batch[role])
        for role, what in (("weight", "weights are negative, missing or not finite"), ("time", "rows have no time")):
            if num_bad.get(role):
                raise DataError(f"relation {name!r}: {num_bad[role]} {what}")
        joined = {role: np.concatenate(part) if part else np.empty(0, np.int64) for role, part in parts.items()}
        weights, times = joined.get("weight"), joined.get("time")
        edges = Edges(
            joined["source"],
            joined["target"],
            None if weights is None else weights.astype(np.float32),
            times,
        )
        return edges, {"read": read, "null": null, "below_min_count": read - null - len(edges)}


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turn what DuckDB and Arrow raise on unreadable data into a DataError of one line."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).splitlines()[:3])  # of a CSV file: the place, the line, the matter
        raise DataError(f"{what} cannot be read: {reason}") from error


def _without_unused(
    relations: Mapping[str, Relation], entities: Mapping[str, pa.Array], edges: Mapping[str, Edges]
) -> tuple[dict[str, pa.Array], dict[str, Edges]]:
    """Drop entities that lost all their edges because the other ends were dropped."""
    used = {entity: np.zeros(len(ids), bool) for entity, ids in entities.items()}
    for name, relation in relations.items():
        used[relation.source][edges[name].sources] = True
        used[relation.target][edges[name].targets] = True
    if all(mask.all() for mask in used.values()):
        return dict(entities), dict(edges)
    new_row = {entity: np.cumsum(mask) - 1 for entity, mask in used.items()}
    kept = {entity: ids.filter(pa.array(used[entity])) for entity, ids in entities.items()}
    moved = {
        name: dataclasses.replace(
            part,
            sources=new_row[relations[name].source][part.sources],
            targets=new_row[relations[name].target][part.targets],
        )
        for name, part in edges.items()
    }
    return kept, moved


def _converted(role: str, column: str, kind: str, what: str) -> str:
    """SQL that brings a column to int64 or varchar (ids), double (weight), int64 or double (time)."""
    name = _quoted(column)
    if role == "weight":
        return f"CAST({name} AS DOUBLE)"
    if role == "time":
        if kind == "TIMESTAMP WITH TIME ZONE":  # a cast to TIMESTAMP would depend on the machine's time zone
            return f"epoch_us({name})"
        if kind.startswith("TIMESTAMP") or kind == "DATE":
            return f"epoch_us(CAST({name} AS TIMESTAMP))"
        if kind in _INTEGERS or kind in ("DOUBLE", "FLOAT"):
            return f"CAST({name} AS {'BIGINT' if kind in _INTEGERS else 'DOUBLE'})"
        raise DataError(f"{what}: the time column {column!r} is {kind}; expected timestamps or numbers")
    if kind in _INTEGERS:
        return f"CAST({name} AS BIGINT)"
    if kind == "VARCHAR" or kind.startswith("ENUM"):
        return f"CAST({name} AS VARCHAR)"
    hint = "; missing values turn integers into floats in pandas" if kind in ("DOUBLE", "FLOAT") else ""
    raise DataError(f"{what}: the {role} column {column!r} is {kind}; ids must be integers or strings{hint}")


def _id_kind(kind: str) -> str:
    return "integers" if kind in _INTEGERS else "strings"


def _num_bad(role: str, column: pa.Array) -> int:
    """Count the values that a weight or a time cannot have."""
    # Not in SQL: DuckDB believes Parquet's minima and maxima, which leave NaN out.
    if role != "weight":
        lost = pa.types.is_floating(column.type) and ~np.isfinite(column.to_numpy(zero_copy_only=False))
        return int(np.count_nonzero(lost) or column.null_count)
    weights = column.to_numpy(zero_copy_only=False)
    return int(np.count_nonzero(~((weights >= 0) & (weights <= _LARGEST))))


def _quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
