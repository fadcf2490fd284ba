"""Selection: which edges are used, and so what gets a vector.

Edges stream from their files through the rules into one Parquet file a relation, in their order, with the columns
source, target[, weight][, time]; each edge that is left out counts for the first rule that it breaks.

    relations.json    {"relations": [{"name", "source", "target"}], "files": {relation: file}}
    selection.json    [{"relation", "read", "without an end", "before since", ..., "selected"}]

Times are microseconds since 1970 where the column holds timestamps, else its numbers.
Shapes: B edges of a batch.
"""

__all__ = ["REASONS", "read_relations", "select_edges", "selection_table"]

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pretrain.config import Relation
from pretrain.pipeline.tables import Periods, Selection
from pretrain.reading import Reader, View, by_text
from pretrain.scans import literal, readable, scan_file
from pretrain.settings import Settings
from recokit.errors import ConfigError, DataError
from recokit.table.folder import check_name, read_json, write_json
from recokit.table.id_column import IdColumn

# In the order in which they are asked.
REASONS = ("without an end", "before since", "at or after until", "source not kept", "target not kept", "beyond max")
_BATCH = 1 << 18


def select_edges(training: Settings, rules: Selection, folder: Path) -> list[dict[str, Any]]:
    """Write the edges that are used.

    Args:
        training: Where edges come from.
        rules: Which of them are used.
        folder: An empty folder.

    Returns:
        A row a relation: how many edges were read, left out for each reason, and selected.

    Raises:
        DataError: Edges cannot be read, a rule is about times and there are none, or a relation has no edge left.
    """
    with _reader(folder) as reader:
        relations = _add(reader, training)
        files = {relation.name: _file_name(relation.name, number) for number, relation in enumerate(relations)}
        rows = []
        about_times = (rules.default.since, rules.default.until) != (None, None)
        if about_times and not any("time" in view.roles for view in reader.views):
            raise DataError("no relation has times, which the since and until of [selection] are about")
        for view in reader.views:
            kind = _kind_of_times(reader, training, view)
            rows += _Selecting(view, {each.name: each for each in relations}, rules, reader, kind).write(folder, files)
    by_name = {row["relation"]: row for row in rows}
    rows = [by_name[relation.name] for relation in relations]
    ends = [{"name": each.name, "source": each.source, "target": each.target} for each in relations]
    write_json(folder / "relations.json", {"relations": ends, "files": files})
    write_json(folder / "selection.json", rows)
    (folder / "spill").rmdir()
    return rows


def read_relations(folder: Path, training: Settings) -> tuple[list[Relation], dict[str, Path]]:
    """Return the relations that were selected, as the configuration has them, and the file of each."""
    written = read_json(folder / "relations.json")
    named = {relation.name: relation for relation in training.relations}
    relations = [named.get(row["name"]) or Relation(**row) for row in written["relations"]]
    return relations, {name: folder / file for name, file in written["files"].items()}


def _reader(folder: Path) -> Reader:
    """Return a reader that spills to the folder what does not fit into memory."""
    (folder / "spill").mkdir()
    db = duckdb.connect()
    db.execute("SET preserve_insertion_order = true")
    db.execute(f"SET temp_directory = {literal(str(folder / 'spill'))}")
    return Reader(db)


def _add(reader: Reader, training: Settings) -> list[Relation]:
    """Give the reader its files, and return the relations that they hold."""
    if not training.triples:
        for relation in training.relations:
            name = relation.name
            reader.add_file(name, training.paths[name], training.columns.get(name, {}))
        reader.checked(training.relations, training.min_count)
        return list(training.relations)
    asked = dict(training.triples)
    entity, given = asked.get("entity", "entity"), asked.get("relations")
    named = None if given is None else by_text(given)
    found = reader.add_mixed(
        asked["data"],
        asked.get("columns", {}),
        None if named is None else {text: relation.name for text, relation in named.items()},
        header=asked.get("header"),
        drop_unknown=asked.get("unknown") == "drop",
    )
    return list((named or {text: Relation(text, entity, entity) for text in found}).values())


def _kind_of_times(reader: Reader, training: Settings, view: View) -> str | None:
    """Say what the times of a view are in its file, ``"dates"`` or ``"numbers"``; None where there are none."""
    if "time" not in view.roles:
        return None
    path, columns = training.triples.get("data"), training.triples.get("columns", {})
    if path is None:
        (name,) = view.relations.values()
        path, columns = training.paths[name], training.columns.get(name, {})
    kind = scan_file(reader.db, path, view.what).types.get(columns.get("time", "time"))
    return None if kind is None else "dates" if kind == "DATE" or kind.startswith("TIMESTAMP") else "numbers"


def _file_name(relation: str, number: int) -> str:
    """Return the name of a relation's file: its own, where a file can have it."""
    try:
        return f"{check_name(relation, 'a relation')}.parquet"
    except ConfigError:
        return f"relation-{number}.parquet"


class _Selecting:
    """One view of edges on its way through the rules."""

    def __init__(
        self, view: View, relations: Mapping[str, Relation], rules: Selection, reader: Reader, times: str | None
    ) -> None:
        self.view, self.db, self.rules, self.times = view, reader.db, rules, times
        self.relations = {name: relations[name] for name in view.relations.values()}
        types = {end for each in self.relations.values() for end in (each.source, each.target)}
        kinds = {
            entity: view.kinds[role]
            for each in self.relations.values()
            for role, entity in (("source", each.source), ("target", each.target))
        }
        self.keep = {e: _ids(self.db, path, kinds[e]) for e, path in rules.keep.items() if e in types}
        self.drop = {e: _ids(self.db, path, kinds[e]) for e, path in rules.drop.items() if e in types}
        self.limits = {name: self._limits(rules.of(name), name) for name in self.relations}

    def write(self, folder: Path, files: Mapping[str, str]) -> list[dict[str, Any]]:
        """Write a file a relation; return a row of counts for each."""
        counts = {name: np.zeros(len(REASONS) + 1, np.int64) for name in self.relations}
        roles = [*self.view.roles, *(["relation"] if self.view.mixed else [])]
        where = f" WHERE relation IN ({', '.join(map(literal, self.view.relations))})" if self.view.mixed else ""
        partial = {name: folder / f"{file}.all" for name, file in files.items() if name in self.relations}
        with ExitStack() as stack, readable(self.view.what):
            writers: dict[str, pq.ParquetWriter] = {}
            query = self.db.sql(f"SELECT {', '.join(roles)} FROM {self.view.name}{where}")
            for batch in query.to_arrow_reader(_BATCH):
                for name, part in self._parted(batch):
                    reason = self._reasons(name, part)  # (B,)
                    counts[name] += np.bincount(reason, minlength=len(REASONS) + 1)
                    if name not in writers:
                        writer = pq.ParquetWriter(partial[name], part.schema, compression="zstd")
                        writers[name] = stack.enter_context(writer)
                    writers[name].write_batch(part.filter(pa.array(reason == len(REASONS))))
        rows = []
        for name in self.relations:
            if partial[name].exists():
                kept = int(counts[name][-1])
                left = self._newest(name, partial[name], folder / files[name], kept)
                counts[name][-2:] = (kept - left, left)
            rows.append(self._row(name, counts[name]))
        return rows

    def _parted(self, batch: pa.RecordBatch) -> list[tuple[str, pa.RecordBatch]]:
        """Part a batch by relation; ids keep the type that they have in their files."""
        if not self.view.mixed:
            return [(next(iter(self.relations)), batch)]
        plain = batch.drop_columns(["relation"])
        return [
            (self.view.relations[text], plain.filter(pc.equal(batch["relation"], text)))
            for text in sorted(each for each in pc.unique(batch["relation"]).to_pylist() if each is not None)
        ]

    def _reasons(self, name: str, batch: pa.RecordBatch) -> NDArray[np.int64]:
        """Return the first rule that each edge (B,) breaks, by its place in REASONS; what breaks none is behind."""
        relation, (since, until) = self.relations[name], self.limits[name]
        broken = [self._null(batch)]
        if since is None and until is None:
            broken += [np.zeros(len(batch), bool)] * 2
        else:
            time = batch["time"].to_numpy(zero_copy_only=False)  # missing ones are NaN, which nothing leaves out here
            before = time < since if since is not None else np.zeros(len(batch), bool)
            behind = time >= until if until is not None else np.zeros(len(batch), bool)
            broken += [before, behind]
        for role, entity in (("source", relation.source), ("target", relation.target)):
            broken.append(self._not_kept(batch[role], entity))
        stacked = np.stack(broken)  # (reasons, B)
        return np.where(stacked.any(0), stacked.argmax(0), len(REASONS))

    def _null(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        missing = pc.or_(pc.is_null(batch["source"]), pc.is_null(batch["target"]))
        return np.asarray(missing.to_numpy(zero_copy_only=False), bool)

    def _not_kept(self, ids: pa.Array, entity: str) -> NDArray[np.bool_]:
        out = np.zeros(len(ids), bool)
        if entity not in self.keep and entity not in self.drop:
            return out
        there = np.asarray(pc.is_valid(ids).to_numpy(zero_copy_only=False), bool)
        known = ids.filter(pa.array(there))
        found = np.zeros(len(known), bool)
        if entity in self.keep:
            found |= self.keep[entity].rows(known) < 0
        if entity in self.drop:
            found |= self.drop[entity].rows(known) >= 0
        out[there] = found
        return out

    def _limits(self, periods: Periods, name: str) -> tuple[float | None, float | None]:
        if "time" not in self.view.roles:
            general = self.rules.default
            if (periods.since, periods.until) != (general.since, general.until):
                raise DataError(f"relation {name!r} has no times, which its since and until are about")
            return None, None
        for key, at in (("since", periods.since), ("until", periods.until)):
            meant = "dates" if isinstance(at, str | date) else "numbers"
            if at is not None and self.times not in (None, meant):  # else one would be 1970 to the other
                raise DataError(
                    f"selection: {key} of relation {name!r} is {at!r}, and its file has {self.times} as times; "
                    f"[selection.relation.{name}] may say another one than [selection]"
                )
        return tuple(None if at is None else _number(at) for at in (periods.since, periods.until))  # type: ignore[return-value]

    def _newest(self, name: str, partial: Path, target: Path, kept: int) -> int:
        """Keep so many edges of each source; return how many there are then."""
        most = self.rules.of(name).max_edges
        if most is None:
            partial.rename(target)
            return kept
        time = "time DESC, " if "time" in self.view.roles else ""
        ranked = (
            f"SELECT *, row_number() OVER (PARTITION BY source ORDER BY {time}file_row_number DESC) AS place "
            f"FROM read_parquet({literal(str(partial))}, file_row_number = true)"
        )
        chosen = f"SELECT {', '.join(self.view.roles)} FROM ({ranked}) WHERE place <= {most} ORDER BY file_row_number"
        self.db.execute(f"COPY ({chosen}) TO {literal(str(target))} (FORMAT parquet, COMPRESSION zstd)")
        partial.unlink()
        return int(pq.read_metadata(target).num_rows)

    def _row(self, name: str, counts: NDArray[np.int64]) -> dict[str, Any]:
        row = {"relation": name, "read": int(counts.sum())}
        row |= dict(zip((*REASONS, "selected"), map(int, counts), strict=True))
        if not row["selected"]:
            why = ", ".join(f"{row[reason]:,} {reason}" for reason in REASONS if row[reason])
            raise DataError(f"relation {name!r} has no edge left: {row['read']:,} read, {why or 'none left out'}")
        return row


def _ids(db: duckdb.DuckDBPyConnection, path: Path, kind: str) -> IdColumn:
    """Read a file of ids: its column ``id``, or one id a line."""
    if path.suffix == ".txt":
        texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        scan = scan_file(db, path, str(path))
        if "id" not in scan.types:
            raise DataError(f"{path} has no column 'id'; it has: {', '.join(scan.types)}")
        scan = scan.as_text(["id"]) if scan.is_text else scan
        texts = [str(row[0]) for row in scan.rows("id", "WHERE id IS NOT NULL")]
    texts = [text for text in dict.fromkeys(texts) if text]
    if not texts:
        raise DataError(f"{path} holds no id")
    if kind == "strings":
        return IdColumn.of(pa.array(sorted(texts), pa.large_string()))
    try:
        return IdColumn.of(pa.array(sorted(set(map(int, texts))), pa.int64()))
    except ValueError as error:
        raise DataError(f"{path}: ids of this entity type are integers: {error}") from error


def _number(at: str | float | date) -> float:
    """Return a time as columns have it: microseconds since 1970 for dates, a number as it is."""
    if isinstance(at, str | date):
        try:
            return round(pd.Timestamp(at).timestamp() * 1e6)  # without a time zone: UTC, as in the columns
        except (ValueError, OverflowError):
            raise DataError(f"selection: {at!r} is not a date such as '2026-05-25' and not a number") from None
    return at


def selection_table(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return head and cells for people: reasons that no edge was left out for are not shown."""
    total = Counter[str]()
    for row in rows:
        total.update({key: value for key, value in row.items() if key != "relation"})
    head = ("relation", "read", *(reason for reason in REASONS if total[reason]), "selected")
    return head, [(str(row["relation"]), *(f"{row[key]:,}" for key in head[1:])) for row in rows]
