"""The files of a prepared graph, each written from its start to its end, from tables of DuckDB.

Edges lie in one array per column, bucket after bucket and chunk after chunk, so a chunk is a slice of each: any number
of buckets makes four files.  How often entities occur lies in two arrays, relation after relation, without zeros,
because a knowledge graph has many relations and few of its entities have edges of each.
"""

__all__ = ["BucketFiles", "Cut"]

import dataclasses
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from pretrain.edge_tables import EdgeTables
from recokit.table.folder import FileEntry, sha256_of
from recokit.table.ids import id_type_of, ids_digest

_ID_GROUP = 1 << 20  # ids in a row group of Parquet, and in memory


@dataclasses.dataclass(frozen=True)
class Cut:
    """How the rows of an entity type are cut into partitions.

    Args:
        count: Rows.
        partitions: Partitions; all but the last have ceil(rows / partitions) rows.
    """

    count: int
    partitions: int

    @property
    def size(self) -> int:
        """Rows in a partition."""
        return -(-self.count // self.partitions)

    def ranges(self) -> list[range]:
        """Rows of each partition that has any."""
        return [range(start, min(start + self.size, self.count)) for start in range(0, self.count, self.size)]


class BucketFiles:
    """Writes the files of a prepared graph into a folder.

    Args:
        folder: Where to.
        tables: The graph.
        cut: Entity type to how it is cut, in the tables' order.
    """

    def __init__(self, folder: Path, tables: EdgeTables, cut: Mapping[str, Cut]) -> None:
        self._folder, self._tables, self._cut = folder, tables, dict(cut)
        self._files: dict[str, FileEntry] = {}

    def write(
        self, counts: Mapping[str, tuple[int, int]], chunk_edges: int, tell: Callable[[float], None]
    ) -> dict[str, Any]:
        """Write all files.

        Args:
            counts: Relation to its edges, and those that are held out among them.
            chunk_edges: See ``prepare``.
            tell: Called with the share of the known edges that is written.

        Returns:
            What the manifest says of the files.
        """
        tell(0.0)
        tables = self._tables
        held = {name: held for name, (_, held) in counts.items()}
        known = {name: edges - held[name] for name, (edges, _) in counts.items()}
        return {
            "entities": [self._entity(number, *item) for number, item in enumerate(self._cut.items())],
            "relations": [
                {
                    **dataclasses.asdict(relation),
                    "weighted": name in tables.weighted,
                    "edges": known[name],
                    "held_out": held[name],
                }
                for name, relation in tables.relations.items()
            ],
            "occurrences": self._occurrences(),
            "chunks": self._edges(sum(known.values()), chunk_edges, tell),
            "files": self._held_out(sum(held.values())),
        }

    def _entity(self, number: int, entity: str, cut: Cut) -> dict[str, Any]:
        """Write the ids of an entity type, and how often each occurs."""
        ids, degrees = f"ids-{number}.parquet", f"degrees-{number}.npy"
        starts = [start for rows in cut.ranges() for start in range(rows.start, rows.stop, _ID_GROUP)]
        digest, writer = hashlib.sha256(), None
        for start, stop in itertools.pairwise([*starts, cut.count]):
            group = self._tables.ids(number, start, stop)
            digest.update(ids_digest(group).encode())
            table = pa.table({"id": group})
            if writer is None:
                writer = pq.ParquetWriter(self._folder / ids, table.schema, use_dictionary=False, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()
        self._files[ids] = _entry(self._folder / ids)
        with _Columns(self._folder, {degrees: "<i8"}, cut.count, self._files) as file:
            # Every entity has an edge, so there are no gaps.
            query = f"SELECT sum(counted)::BIGINT FROM ends WHERE type = {number} GROUP BY row ORDER BY row"
            for batch in self._tables.batches(query):
                file.append(batch)
        return {
            "name": entity,
            "id_type": id_type_of(group),
            "count": cut.count,
            "partitions": cut.partitions,
            "ids": ids,
            "ids_digest": digest.hexdigest(),
            "degrees": degrees,
        }

    def _occurrences(self) -> list[list[int]]:
        """Write how often entities occur at each end of each relation; return (relation, side, number of entities)."""
        counted = "FROM ends WHERE counted > 0"
        ends = self._tables.rows(f"SELECT relation, side, count(*) {counted} GROUP BY ALL ORDER BY ALL")
        columns = {"occurrence-rows.npy": "<i8", "occurrence-counts.npy": "<i8"}
        with _Columns(self._folder, columns, sum(count for _, _, count in ends), self._files) as file:
            for batch in self._tables.batches(f"SELECT row, counted {counted} ORDER BY relation, side, row"):
                file.append(batch)
        return [list(end) for end in ends]

    def _edges(self, known: int, chunk_edges: int, tell: Callable[[float], None]) -> list[list[int]]:
        """Write the known edges; return (i, j, edges) of every chunk."""
        arranged = f"FROM ({self._tables.arranged([cut.size for cut in self._cut.values()])})"
        buckets = self._tables.rows(f"SELECT i, j, count(*) {arranged} WHERE NOT held GROUP BY i, j ORDER BY i, j")
        num_chunks = np.array([-(-edges // chunk_edges) for _, _, edges in buckets], np.int64)
        first = np.cumsum(num_chunks) - num_chunks
        self._tables.create(
            "places",
            {"i": [i for i, _, _ in buckets], "j": [j for _, j, _ in buckets], "first": first, "n": num_chunks},
        )
        # Rows are in random order, so their sum modulo the number of chunks is a draw; it depends on nothing else.
        place = "CAST(first + (source + target) % n AS INTEGER) AS place"
        values = "CAST(source AS INTEGER) AS source, CAST(target AS INTEGER) AS target"
        query = (
            f"SELECT {place}, relation, {values}{{}} {arranged} JOIN places USING (i, j) WHERE NOT held ORDER BY ALL"
        )
        columns = {"relation.npy": "<i4", "sources.npy": "<i4", "targets.npy": "<i4"}
        sizes = np.zeros(num_chunks.sum(), np.int64)
        done = 0
        with _Columns(self._folder, columns | self._weights("weights.npy"), known, self._files) as file:
            for batch in self._tables.batches(query.format(", weight" if self._tables.weighted else "")):
                sizes += np.bincount(_values(batch, 0), minlength=len(sizes))
                file.append(batch.select(range(1, batch.num_columns)))
                done += len(batch)
                tell(done / known)
        bucket_of = np.repeat(np.arange(len(buckets)), num_chunks)
        return [[*buckets[bucket][:2], int(size)] for bucket, size in zip(bucket_of, sizes, strict=True) if size]

    def _held_out(self, held_out: int) -> dict[str, FileEntry]:
        """Write the edges that are held out; return what was written in all."""
        arranged = self._tables.arranged([max(cut.count, 1) for cut in self._cut.values()])  # rows of the whole type
        weight = ", weight" if self._tables.weighted else ""
        query = f"SELECT relation, source, target{weight} FROM ({arranged}) WHERE held ORDER BY ALL"
        columns = {"held-out-sources.npy": "<i8", "held-out-targets.npy": "<i8"} | self._weights("held-out-weights.npy")
        with _Columns(self._folder, columns, held_out, self._files) as file:
            for batch in self._tables.batches(query):
                file.append(batch.select(range(1, batch.num_columns)))
        return self._files

    def _weights(self, name: str) -> dict[str, str]:
        return {name: "<f4"} if self._tables.weighted else {}


class _Columns:
    """Arrays of a known length as .npy files that grow together.

    Args:
        folder: Where to.
        dtypes: File to dtype, in the order of the columns of what is appended.
        length: Of each array.
        files: Receives what the manifest says of each.
    """

    def __init__(self, folder: Path, dtypes: Mapping[str, str], length: int, files: dict[str, FileEntry]) -> None:
        self._folder, self._dtypes, self._files = folder, dtypes, files
        self._hashes = {name: hashlib.sha256() for name in dtypes}
        self._open = {name: (folder / name).open("xb") for name in dtypes}
        for name, dtype in dtypes.items():
            header = io.BytesIO()
            write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": (length,)})
            self._write(name, header.getbuffer())

    def __enter__(self) -> "_Columns":
        return self

    def append(self, batch: pa.RecordBatch) -> None:
        """Write a column to each file."""
        for position, (name, dtype) in enumerate(self._dtypes.items()):
            values = _values(batch, position)
            if values.dtype.kind == "f":
                values = np.abs(values)  # no weight is below 0, but -0 has bytes of its own
            self._write(name, np.ascontiguousarray(values, dtype).data.cast("B"))

    def _write(self, name: str, data: memoryview) -> None:
        self._hashes[name].update(data)
        self._open[name].write(data)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for name, file in self._open.items():
            with file:
                file.flush()
                os.fsync(file.fileno())
            size = (self._folder / name).stat().st_size
            self._files[name] = {"bytes": size, "sha256": self._hashes[name].hexdigest()}


def _values(batch: pa.RecordBatch, position: int) -> NDArray[Any]:
    return np.asarray(batch.column(position).to_numpy(zero_copy_only=False))


def _entry(path: Path) -> FileEntry:
    """Flush a file that somebody else wrote to disk, and say what the manifest says of it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
