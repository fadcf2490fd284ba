"""Rows of Parquet files, of which a few row groups at a time are in memory.

Decisions:
- A block, which is what is read at once, is a row group. Files want row groups well below ``shuffle_rows`` (pandas and
  Arrow write a million rows in one, DuckDB 122,880).
- Only the columns that are asked for are read, and stay Arrow's arrays: strings never become Python objects.
- For batches of whole groups a block ends where a group ends: the first rows of a row group go to the block before
  when they belong to its last group. That, and whether every group stands in one place, takes one pass over the column.
"""

__all__ = ["ParquetRows"]

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recokit.errors import DataError, FormatError
from recokit.frame.columns import missing_column
from recokit.table.ids import id_array, refuse_nulls


@dataclass(frozen=True)
class _Piece:
    """Rows [start, stop) of a row group."""

    path: Path
    group: int
    start: int
    stop: int
    size: int  # of the row group


class ParquetRows:
    """The rows of Parquet files: a block for each row group.

    Args:
        files: The files, in order.
        columns: What to read.
        optional: Those of ``columns`` that all files may lack.
        group: The column of groups that blocks may not cut.

    Raises:
        DataError: A file lacks a column or has it of another type, or the rows of a group do not stand together.
        FormatError: A file cannot be read.
    """

    def __init__(
        self, files: Sequence[Path], columns: Sequence[str], *, optional: Collection[str] = (), group: str | None = None
    ) -> None:
        self._digest = hashlib.sha256()
        self._columns = list(columns)
        pieces: list[_Piece] = []
        schemas: list[pa.Schema] = []
        for path in files:
            footer = self._footer(path)
            schema = footer.schema.to_arrow_schema()
            if not schemas:
                self._columns = [name for name in columns if name in schema.names or name not in optional]
            schemas.append(_plain(path, schema, self._columns))
            sizes = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
            pieces += [_Piece(path, number, 0, size, size) for number, size in enumerate(sizes) if size]
        self._schema = _unified(files, schemas)
        self._blocks = [(piece,) for piece in pieces] if group is None else self._whole_groups(pieces, group)
        self.sizes = tuple(sum(piece.stop - piece.start for piece in block) for block in self._blocks)

    def read(self, blocks: Sequence[int], epoch: int = 0) -> pd.DataFrame:
        """Return the rows of some blocks, one after the other."""
        tables = [self._read(piece, self._columns) for block in blocks for piece in self._blocks[block]]
        table = pa.concat_tables([self._schema.empty_table(), *tables])
        frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
        return frame

    def identity(self) -> Any:
        """Return the number of rows and a hash of names, sizes and footers, which hold the extremes of every column."""
        return {"rows": sum(self.sizes), "sha256": self._digest.hexdigest()}

    def _footer(self, path: Path) -> Any:
        import pyarrow.parquet as pq

        try:
            with path.open("rb") as file:
                size = file.seek(-8, 2) + 8
                length = int.from_bytes(file.read(4), "little")
                file.seek(size - 8 - min(length, size - 8))
                self._digest.update(json.dumps([path.name, size]).encode() + file.read())
            return pq.read_metadata(path)
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"{path} is not a readable Parquet file: {error}") from error

    def _read(self, piece: _Piece, columns: list[str]) -> pa.Table:
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(piece.path) as file:
                is_head = piece.start == 0 and piece.stop < piece.size
                table = _head(file, piece, columns) if is_head else file.read_row_group(piece.group, columns=columns)
            schema = pa.schema([self._schema.field(name) for name in columns])
            return table.slice(piece.start, piece.stop - piece.start).select(columns).cast(schema)
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"{piece.path} cannot be read: {error}") from error

    def _whole_groups(self, pieces: list[_Piece], group: str) -> list[tuple[_Piece, ...]]:
        """Return blocks that end where a group ends."""
        blocks: list[list[_Piece]] = []
        firsts: list[pa.Array] = []  # the group of every run of rows
        last: Any = None
        for piece in pieces:
            values = id_array(self._read(piece, [group]).column(0), f"{piece.path}, column {group!r}")
            refuse_nulls(values, f"{piece.path}, column {group!r}")
            changes = pc.not_equal(values.slice(1), values.slice(0, len(values) - 1)).to_numpy(zero_copy_only=False)
            begins = np.flatnonzero(np.append(values[0] != last, changes))
            head = int(begins[0]) if len(begins) else piece.size
            if head:  # what goes on from the row group before
                blocks[-1].append(_Piece(piece.path, piece.group, 0, head, piece.size))
            if head < piece.size:
                blocks.append([_Piece(piece.path, piece.group, head, piece.size, piece.size)])
            firsts.append(values.take(pa.array(begins)))
            last = values[-1]
        _refuse_scattered(firsts, group)
        return [tuple(block) for block in blocks]


def _head(file: Any, piece: _Piece, columns: list[str]) -> pa.Table:
    """Decode the first rows of a row group alone: they are read with the block before."""
    parts: list[pa.RecordBatch] = []
    for part in file.iter_batches(batch_size=piece.stop, row_groups=[piece.group], columns=columns):
        parts.append(part)
        if sum(map(len, parts)) >= piece.stop:
            break
    return pa.Table.from_batches(parts)


def _plain(path: Path, schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    """Return the fields of ``columns``, dictionaries as their values, booleans as 0 and 1; a missing one is refused."""
    fields = []
    for name in columns:
        if name not in schema.names:
            raise missing_column(str(path), name, schema.names)
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else pa.int8() if pa.types.is_boolean(kind) else kind
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def _unified(files: Sequence[Path], schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return types that hold the columns of all files, such as int64 for int32 and int64."""
    whole = schemas[0]
    for path, schema in zip(files[1:], schemas[1:], strict=True):
        try:
            whole = pa.unify_schemas([whole, schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(f"{path} has a column of another type than {files[0]}: {error}") from error
    return whole


def _refuse_scattered(firsts: Sequence[pa.Array], group: str) -> None:
    """Refuse a group that begins more than once; ``firsts`` holds the group of every run of rows."""
    if not firsts:
        return
    counts = pc.value_counts(pa.chunked_array(firsts))
    again = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(again):
        value, places = again.field("values")[0].as_py(), again.field("counts")[0].as_py()
        raise DataError(
            f"the rows of {group} {value!r} stand in {places} places of the files, expected one: batches hold whole "
            f"groups, so sort the files by {group!r}"
        )
