"""Edges that need not fit into memory: from Parquet or CSV to buckets on disk, in a bounded amount of memory.

DuckDB does the work out of core: it counts ids, joins edges with the rows of their ids and sorts them by bucket, chunk,
relation, source, target and weight.  Python only sees batches of sorted integers, which it appends to .npy files.
Sorting makes the result the same, byte for byte, whatever order the edges came in, on any number of threads and with
any amount of memory; a chunk is shuffled by who trains on it.
Letters: N entities of a type, P partitions, E edges.
"""

__all__ = ["prepare"]

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from pretrain.bucket_files import BucketFiles, Cut
from pretrain.config import Relation
from pretrain.edge_tables import EdgeTables
from pretrain.graph import check_seed
from pretrain.memory import parse_size, process_bytes
from pretrain.prepared import FORMAT, MANIFEST, PreparedGraph
from pretrain.reading import Reader, by_text
from recokit.errors import ConfigError, DataError, closest
from recokit.table.folder import local_folder, new_folder, write_json

Callback = Callable[[Mapping[str, Any]], None]
Choose = Callable[[Mapping[str, int], int], tuple[int, int]]
_PHASES = ("read", "entities", "edges", "ends", "write")
_MOST_ROWS = 2**31 - 1  # of a partition
_SHARE = 0.75  # of the memory that is left when this begins: what DuckDB may count
_SPARE = 128_000_000  # what it needs at least


def prepare(
    path: str | Path,
    relations: Mapping[int | str, Relation] | Sequence[Relation],
    *,
    files: Mapping[str, str | Path] | None = None,
    triples: str | Path | None = None,
    columns: Mapping[str, Any] | None = None,
    header: bool | None = None,
    min_count: Mapping[str, int] | None = None,
    partitions: int | Mapping[str, int] | Choose = 1,
    whole_below: int = 10_000,
    held_out: float = 0.0,
    chunk_edges: int = 20_000_000,
    seed: int = 0,
    memory: str | int = "2GB",
    threads: int | None = None,
    callback: Callback | None = None,
) -> PreparedGraph:
    """Turn edge files into a folder of partitions and buckets, which appears whole or not at all.

    What is read, refused and left out is as in ``Graph.from_files`` and ``Graph.from_triples``; times are not kept.

    Args:
        path: The folder to make; until it is done, it takes up to about two and a half times its size.
        relations: The relations; of triples also what the file calls a relation to the ``Relation`` that it is.
        files: Relation name to a path or glob of Parquet or CSV. Either this or ``triples``.
        triples: A path or glob of files whose rows say their relation.
        columns: Of triples role to column, of ``files`` relation name to that.
        header: Whether the first row of triples as text names the columns; see ``Graph.from_triples``.
        min_count: Entity type to the number of edges below which an entity is left out.
        partitions: Into how many partitions of ceil(N / P) rows each entity type is cut: P for all types of at least
            ``whole_below`` entities and 1 for the others; or P by type, where types that are not named have 1. No two
            types have different P above 1. Or what gives P and ``chunk_edges``, once they are known, from the number
            of entities of each type and that of edges.
        whole_below: See ``partitions``.
        held_out: Share of each relation's distinct pairs of ends to leave out of the buckets: the pairs whose hash,
            which depends on their ids and ``seed`` alone, is in the lowest share. Duplicates go together, and in a
            relation of an entity type with itself an edge and its reversed twin.
        chunk_edges: A bucket of more edges is cut at random into as many chunks as there are such numbers in it.
        seed: Of the order of rows and of what is held out.
        memory: What the process may take in all, such as ``"6GB"``; DuckDB gets the most of what is left of it.
        threads: Of DuckDB; by default as many as there are cores.
        callback: Called with ``event="phase"``, the phase's name, ``number`` of ``phases``, and the share of it that
            is ``done``, from 0 to 1.

    Raises:
        DataError: As in ``Graph.from_files``, or a partition would have more rows than int32 can number.
        ConfigError: As in ``Graph.from_files``, a setting is out of range, a partition would be empty, or the memory
            does not suffice.
        VersionError: ``path`` exists.
    """
    _check_settings(held_out, chunk_edges, seed, threads)
    if not callable(partitions):
        _check_partitions(partitions)
    folder, limit = local_folder(path), _limit(memory)
    with new_folder(folder) as partial, _enough(memory):
        work = partial / "work"
        work.mkdir()
        with Reader(_connected(work, limit, threads)) as reader:
            tell = _teller(callback)
            tell("read", 0.0)
            named = _read(reader, relations, files, triples, columns, header=header)
            by_name = reader.checked(list(named.values()), min_count or {})
            tables = EdgeTables(reader, by_name, seed=seed, held_out=held_out)
            if isinstance(partitions, Mapping):
                _check_types(partitions, tables.types)
            _fill(tables, reader, min_count or {}, tell)
            counts = tables.num_edges()
            summary = reader.summary({name: edges for name, (edges, _) in counts.items()})
            sizes = [tables.num_entities(number) for number in range(len(tables.types))]
            entities = dict(zip(tables.types, sizes, strict=True))
            if callable(partitions):
                partitions, chunk_edges = partitions(entities, sum(edges for edges, _ in counts.values()))
            cut = _cut(entities, partitions, whole_below)
            written = BucketFiles(partial, tables, cut).write(counts, chunk_edges, lambda done: tell("write", done))
        shutil.rmtree(work)
        manifest = {
            "format": FORMAT,
            "seed": seed,
            "held_out": held_out,
            "chunk_edges": chunk_edges,
            "sources": {"*": str(triples)} if files is None else {name: str(file) for name, file in files.items()},
            "relation_ids": {relation.name: text for text, relation in named.items() if relation.name != text},
            "summary": list(summary),
            **written,
        }
        write_json(partial / MANIFEST, manifest)
    return PreparedGraph.open(folder)


def _read(
    reader: Reader,
    relations: Mapping[int | str, Relation] | Sequence[Relation],
    files: Mapping[str, str | Path] | None,
    triples: str | Path | None,
    columns: Mapping[str, Any] | None,
    *,
    header: bool | None,
) -> dict[str, Relation]:
    """Add the views of the edges; return what files call each relation, to the relation."""
    if (files is None) == (triples is None):
        raise ConfigError("prepare takes either files= (by relation) or triples= (all in one)")
    if files is None:
        named = by_text(relations)
        said = {text: relation.name for text, relation in named.items()}
        reader.add_mixed(str(triples), columns or {}, said, header=header)
        return named
    if isinstance(relations, Mapping):
        raise ConfigError("prepare: files= has one file per relation, so relations are a sequence, not a mapping")
    for name in columns or ():
        if name not in files:
            raise ConfigError(f"columns are given for {name!r}, which has no edges given; {closest(name, files)}")
    for name, file in files.items():
        reader.add_file(name, file, (columns or {}).get(name, {}))
    return by_text(relations)


def _fill(tables: EdgeTables, reader: Reader, min_count: Mapping[str, int], tell: Callable[[str, float], None]) -> None:
    for done, entity in enumerate(tables.types):
        tell("entities", done / len(tables.types))
        tables.add_entities(entity, min_count.get(entity, 1))
    for done, view in enumerate(reader.views):
        tell("edges", done / len(reader.views))
        tables.add_edges(view)
    tell("ends", 0.0)
    tables.count_ends()
    if any(count > 1 for count in min_count.values()):
        tables.drop_unused()


def _cut(counts: Mapping[str, int], partitions: int | Mapping[str, int], whole_below: int) -> dict[str, Cut]:
    """Return how each entity type is cut."""
    if isinstance(partitions, Mapping):
        cut = {entity: Cut(count, partitions.get(entity, 1)) for entity, count in counts.items()}
    else:
        cut = {e: Cut(count, partitions if count >= whole_below else 1) for e, count in counts.items()}
    for entity, how in cut.items():
        if how.size > _MOST_ROWS:
            raise DataError(
                f"entity type {entity!r} has {how.count:,} entities, {how.size:,} in each of {how.partitions} "
                f"partitions; expected at most {_MOST_ROWS:,}: use more partitions"
            )
        if how.count and len(how.ranges()) < how.partitions:
            raise ConfigError(
                f"entity type {entity!r} has {how.count:,} entities: {how.partitions} partitions of {how.size:,} leave "
                "some empty"
            )
    return cut


def _check_settings(held_out: float, chunk_edges: int, seed: int, threads: int | None) -> None:
    check_seed(seed)
    if not 0 <= held_out < 1:
        raise ConfigError(f"prepare: held_out must be at least 0 and below 1, got {held_out}")
    for what, number in (("chunk_edges", chunk_edges), ("threads", threads)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ConfigError(f"prepare: {what} must be a whole number of at least 1, got {number!r}")


def _check_partitions(partitions: int | Mapping[str, int]) -> None:
    """Raise unless they are whole numbers, 1 or the same as all others."""
    numbers = list(partitions.values()) if isinstance(partitions, Mapping) else [partitions]
    for number in numbers:
        if not isinstance(number, int) or number < 1:
            raise ConfigError(f"prepare: partitions must be whole numbers of at least 1, got {number!r}")
    if len(set(numbers) - {1}) > 1:
        raise ConfigError(
            f"prepare: entity types have all the same number of partitions, or 1; got {dict(partitions)}"  # type: ignore[arg-type]
        )


def _check_types(partitions: Mapping[str, int], types: Sequence[str]) -> None:
    for entity in partitions:
        if entity not in types:
            raise ConfigError(f"partitions names the entity type {entity!r}; {closest(entity, types)}")


def _limit(memory: str | int) -> int:
    """Return the bytes that DuckDB may use: what else the process holds, and batches on their way, come on top."""
    resident = process_bytes()
    limit = int(_SHARE * (parse_size(memory) - resident))
    if limit < _SPARE:
        raise ConfigError(
            f"prepare: memory is {memory!r}, and the process takes {resident / 1e6:,.0f} MB already; expected at least "
            f"{(resident + _SPARE / _SHARE) / 1e6:,.0f} MB"
        )
    return limit


def _connected(work: Path, limit: int, threads: int | None) -> duckdb.DuckDBPyConnection:
    """Open a database on disk; the order of rows is nobody's concern until they are sorted."""
    settings = {
        "memory_limit": f"{limit // 1024}KiB",
        "temp_directory": str(work / "spill"),
        "preserve_insertion_order": "false",
    }
    if threads is not None:
        settings["threads"] = str(threads)
    return duckdb.connect(str(work / "edges.duckdb"), config=settings)


@contextmanager
def _enough(memory: str | int) -> Iterator[None]:
    """Turn DuckDB's running out of memory into a ConfigError."""
    try:
        yield
    except (duckdb.Error, DataError) as error:
        cause = error if isinstance(error, duckdb.Error) else error.__cause__
        if isinstance(cause, duckdb.OutOfMemoryException):
            reason = str(cause).splitlines()[0]
            raise ConfigError(
                f"prepare: memory={memory!r} does not suffice: give more, or fewer threads ({reason})"
            ) from error
        raise


def _teller(callback: Callback | None) -> Callable[[str, float], None]:
    """Return what tells a callback how far it is."""

    def tell(phase: str, done: float) -> None:
        if callback:
            number = _PHASES.index(phase) + 1
            callback({"event": "phase", "phase": phase, "number": number, "phases": len(_PHASES), "done": done})

    return tell
