"""The rows of a table of any kind as Arrow batches, a few megabytes at a time, and as Parquet files of those.

Vectors that are float16 become float32, which every reader knows and which holds them exactly; ids that are strings
have 32-bit offsets, for the same reason. A batch is a row group of the file, so that a table of any size is written
within the memory of one batch.

Shapes: N ids, n rows of a block, C components, M sub-quantizers, D dimension.
"""

__all__ = [
    "binary_array",
    "block_rows",
    "blocks",
    "id_type",
    "ids_of",
    "list_array",
    "plain_ids",
    "table_names",
    "ticker",
    "wide_vectors",
    "write_batches",
]

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import ConfigError, closest
from recokit.table import FeatureTable, Version

_BLOCK_BYTES = 16 << 20
_MOST_ROWS = 1 << 17  # of a row group: what DuckDB writes


def table_names(version: Version, tables: Sequence[str] | None) -> list[str]:
    """Return the tables that are asked for, all of a version where none are; an unknown one is refused."""
    if isinstance(tables, str):
        raise ConfigError(f"tables={tables!r} is one name, expected a list of names")
    for name in tables or ():
        if name not in version.tables:
            raise ConfigError(f"version {version.name!r} has no table {name!r}; {closest(name, version.tables)}")
    return list(version.tables if tables is None else dict.fromkeys(tables))


def block_rows(row_bytes: int) -> int:
    """Return how many rows of that size are written at once."""
    return max(1, min(_MOST_ROWS, _BLOCK_BYTES // max(1, row_bytes)))


def blocks(count: int, size: int, tick: Callable[[int], None]) -> Iterator[slice]:
    """Yield slices that cover ``count`` rows, ``size`` at a time, and tick for each once the next is asked for."""
    for start in range(0, count, size):
        stop = min(start + size, count)
        yield slice(start, stop)
        tick(stop - start)


def ticker(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    """Return what adds up how many rows are done and tells ``progress`` how many of ``total`` they are."""
    done = 0

    def tick(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, total)

    return tick


def ids_of(table: FeatureTable, part: slice) -> pa.Array:
    """Return the ids of some rows in a type that every reader of Parquet knows."""
    return plain_ids(table.ids.slice(part.start, part.stop - part.start))


def plain_ids(ids: pa.Array) -> pa.Array:
    """Return ids with 32-bit offsets, where they are strings."""
    return ids.cast(pa.string()) if pa.types.is_large_string(ids.type) else ids


def id_type(table: FeatureTable) -> pa.DataType:
    """Return the type of ``ids_of``."""
    return pa.int64() if table.id_type == "int64" else pa.string()


def list_array(vectors: NDArray[Any]) -> pa.Array:
    """Return vectors (n, D) as lists of one size, float32; the memory of float32 ones is not copied."""
    flat = np.ascontiguousarray(vectors, np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])


def wide_vectors(vectors: NDArray[Any]) -> list[pa.Array]:
    """Return vectors (n, D) as D columns, float32; integers stay what they are."""
    kind = np.float32 if vectors.dtype.kind == "f" else vectors.dtype
    return [pa.array(np.ascontiguousarray(vectors[:, column], kind)) for column in range(vectors.shape[1])]


def binary_array(codes: NDArray[np.uint8]) -> pa.Array:
    """Return codes (n, M) as n strings of M bytes."""
    count, width = codes.shape
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    data = pa.py_buffer(np.ascontiguousarray(codes))
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), data])


def write_batches(
    path: Path,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    *,
    dictionaries: Sequence[str] = (),
) -> int:
    """Write a new Parquet file, a row group for each batch, and flush it to disk; return how many rows it has.

    Args:
        path: The file.
        schema: Of every batch.
        batches: The rows.
        dictionaries: Columns of few values. Vectors and ids get no dictionary, which would be dead weight.
    """
    import pyarrow.parquet as pq

    rows = 0
    with path.open("xb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=list(dictionaries)) as writer:
            for batch in batches:
                writer.write_batch(batch, row_group_size=max(1, batch.num_rows))
                rows += batch.num_rows
        file.flush()
        os.fsync(file.fileno())
    return rows
