"""Vectors from other trainers' files: word2vec's text format (also GloVe's and fastText's) and CSV."""

__all__ = ["csv_table", "integers_if_canonical", "read_csv", "read_word2vec"]

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recokit.errors import DataError, FormatError, closest
from recokit.table.ids import IdType, id_array

_LINES = 10_000  # parsed into one block of vectors


def read_word2vec(path: str | Path, *, id_type: IdType = "string") -> tuple[pa.Array, NDArray[np.float32]]:
    """Read ``id x1 ... xD``, a line an id, with or without a first line ``count dim``.

    Ids may contain spaces where the header gives ``dim``. A first line of exactly two integers is a header.

    Returns:
        Ids (N,) and vectors (N, D).

    Raises:
        FormatError: A line has another number of fields or a number that is none, or the header's count is another.
    """
    path, ids, blocks = Path(path), list[str](), list[NDArray[np.float32]]()
    with path.open(encoding="utf-8", newline="\n") as file:
        lines: Iterator[tuple[int, str]] = enumerate(file, start=1)
        count, dim, lines = _word2vec_header(path, lines)
        while block := [_word2vec_line(path, number, line, dim) for number, line in islice(lines, _LINES)]:
            ids += [name for name, _ in block]
            blocks.append(np.stack([vector for _, vector in block]))
    if count not in (None, len(ids)):
        raise FormatError(f"{path}: {len(ids)} vectors, its first line promises {count}: it is truncated or damaged")
    vectors = np.concatenate(blocks) if blocks else np.empty((0, dim), np.float32)
    return _typed(path, pa.array(ids, pa.large_string()), id_type), vectors


def read_csv(
    path: str | Path,
    *,
    id_column: str = "id",
    columns: Sequence[str] | None = None,
    id_type: IdType | None = None,
    separator: str = ",",
) -> tuple[pa.Array, NDArray[np.float32]]:
    """Read an id column and numeric columns, all others or ``columns``, of a CSV file with a header.

    Returns:
        Ids (N,) and vectors (N, D).

    Raises:
        FormatError: A line has another number of fields than the header.
        DataError: A column is missing, or holds something else than numbers.
    """
    path = Path(path)
    table = csv_table(path, separator=separator, text=(id_column,))
    names = [name for name in table.column_names if name != id_column] if columns is None else list(columns)
    for name in (id_column, *names):
        if name not in table.column_names:
            raise DataError(f"{path} has no column {name!r}; {closest(name, table.column_names)}")
        kind = table.schema.field(name).type
        if name != id_column and not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise DataError(f"{path}: column {name!r} is {kind}, expected numbers")
    if not names:
        raise DataError(f"{path} has no column besides {id_column!r}, expected one for each dimension")
    vectors = np.empty((len(table), len(names)), np.float32)
    for position, name in enumerate(names):
        vectors[:, position] = table.column(name).to_numpy()
    held = table.column(id_column)
    ids = id_array(integers_if_canonical(held) if id_type is None else held, f"{path}, column {id_column!r}")
    return (ids if id_type is None else _typed(path, ids, id_type)), vectors


def csv_table(path: Path, *, separator: str, text: Iterable[str] = ()) -> pa.Table:
    """Read a CSV file with a header; an empty cell is null and nothing else is; columns in ``text`` stay strings.

    Raises:
        FormatError: A line has another number of fields than the header; the message says which.
    """
    from pyarrow import csv

    parse = csv.ParseOptions(delimiter=separator)
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(text, pa.large_string()), null_values=[""], strings_can_be_null=True
    )
    try:
        return csv.read_csv(path, parse_options=parse, convert_options=convert)
    except pa.ArrowInvalid as error:
        try:  # only one thread can say which line it is
            csv.read_csv(path, csv.ReadOptions(use_threads=False), parse, convert)
        except pa.ArrowInvalid as precise:
            raise FormatError(f"{path}: {precise}") from precise
        raise FormatError(f"{path}: {error}") from error


def integers_if_canonical(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return ids read as text as int64 where each is how its number is written, else as they stand.

    ``007`` and ``7`` are two ids. A column of other numbers, such as ``7.0``, becomes one of floats, which are no ids.
    """
    try:
        integers = texts.cast(pa.int64())
    except pa.ArrowInvalid:
        try:
            return texts.cast(pa.float64())
        except pa.ArrowInvalid:
            return texts
    same = pc.all(pc.equal(integers.cast(pa.large_string()), texts.cast(pa.large_string()))).as_py()
    return texts if same is False else integers


def _word2vec_header(path: Path, lines: Iterator[tuple[int, str]]) -> tuple[int | None, int, Iterator[tuple[int, str]]]:
    """Return the header's count, or None, then dim, and the lines of vectors."""
    number, first = next(lines, (1, ""))
    fields = first.split()
    if len(fields) == 2 and all(field.isascii() and field.isdigit() for field in fields):
        return int(fields[0]), int(fields[1]), lines
    if len(fields) < 2:
        raise FormatError(f"{path}, line 1: {first.rstrip()!r}, expected 'count dim' or an id and its numbers")
    return None, len(fields) - 1, _behind((number, first), lines)


def _behind(first: tuple[int, str], lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from lines


def _word2vec_line(path: Path, number: int, line: str, dim: int) -> tuple[str, NDArray[np.float32]]:
    name, *fields = line.strip(" \r\n").rsplit(" ", dim)
    if len(fields) != dim or not name:
        raise FormatError(f"{path}, line {number}: {len(line.split())} fields, expected an id and {dim} numbers")
    try:
        return name, np.fromiter(map(float, fields), np.float32, dim)
    except ValueError as error:
        raise FormatError(f"{path}, line {number} (id {name!r}): {error}") from error


def _typed(path: Path, ids: pa.Array, id_type: IdType) -> pa.Array:
    if id_type == "string":
        return ids
    try:
        return ids.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: ids are not integers: {error}") from error
