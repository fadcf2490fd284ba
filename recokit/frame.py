"""Interaction logs as pandas frames: reading with checked columns, splits that do not leak, and the frame conventions.

    interactions   source, target[, weight][, time]        any event between two entities
    pairs          query, candidate                        what is relevant, or what is to be excluded
    candidates     query, candidate, score, rank           a list for each query; rank starts at 1

Ids are int64 or strings and never null: an empty cell must not turn a column of integers into floats without a word.
Splits return ``known, held_out`` in the order of the frame's rows and with its index.
"""

__all__ = [
    "Filtered",
    "check_candidates",
    "check_pairs",
    "drop_cold",
    "drop_seen",
    "missing_column",
    "read_frame",
    "split_by_time",
    "split_per_user",
    "split_random",
]

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, FormatError, closest
from recokit.table.ids import IdType, id_array, id_type_of
from recokit.table.imports import csv_table

Source: TypeAlias = "str | Path | pd.DataFrame | pa.Table"
Columns: TypeAlias = Sequence[str] | Mapping[str, str]

_ID_COLUMNS = ("source", "target", "query", "candidate")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_PARQUET = (".parquet", ".pq")
_COMPRESSED = (".gz", ".bz2", ".zst")


class Filtered(NamedTuple):
    """What a filter kept, and how many rows it dropped."""

    frame: pd.DataFrame
    num_dropped: int


def read_frame(
    source: Source,
    columns: Columns | None = None,
    *,
    optional: Sequence[str] = (),
    ids: Sequence[str] = _ID_COLUMNS,
    id_type: IdType | None = None,
) -> pd.DataFrame:
    """Read interactions, pairs or candidates, and check their columns.

    Args:
        source: A Parquet, CSV or TSV file, a folder or a glob pattern of such files (read in the order of their
            names), a pandas frame, or an Arrow table. In CSV and TSV, an empty cell is missing and nothing else is.
        columns: What to keep: names, or new names and those they have in the source, such as
            ``{"source": "follower_id"}``. All columns where not given.
        optional: Those of ``columns``, under their new names, that may be missing.
        ids: The columns, under their new names, that hold ids where they are there.
        id_type: ``"string"`` keeps ids such as ``007`` of a CSV file as they stand; without it, what looks like
            integers is read as integers.

    Raises:
        DataError: A column is missing, or an id is null or neither integer nor string.
        FormatError: A file cannot be read, or its name says nothing about its format.
    """
    wanted = _wanted(columns, optional)
    if isinstance(source, pa.Table):
        frame = source.select(_present(source.column_names, wanted, optional, "the table")).to_pandas()
    elif isinstance(source, pd.DataFrame):
        frame = source[_present(list(source.columns), wanted, optional, "the frame")]
    else:
        text = {(wanted or {}).get(name, name) for name in ids} if id_type == "string" else set[str]()
        frame = _concatenated([_read_file(path, wanted, optional, text) for path in _files(source)], source).to_pandas()
    if wanted is not None:
        frame = frame.rename(columns={old: new for new, old in wanted.items()})
    return _with_ids(frame.reset_index(drop=True), [name for name in ids if name in frame.columns], id_type)


def split_by_time(
    frame: pd.DataFrame, *, at: float | str | datetime, time: str = "time"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split into the rows before ``at`` and those at it or later.

    Args:
        frame: Interactions.
        at: A date or time for a column of times (of its own time zone, where it names none); a number for numbers.
        time: The column of times.
    """
    values = _time_column(frame, time)
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iuf":
        if isinstance(at, bool) or not isinstance(at, (int, float, np.integer, np.floating)):
            raise DataError(
                f"column {time!r} holds numbers ({values.dtype}), at is {at!r}: give a number of their unit"
            )
        limit: Any = at
    else:
        limit = _timestamp(at, values, time)
    later = (values >= limit).to_numpy(dtype=bool)
    return frame[~later], frame[later]


def split_per_user(
    frame: pd.DataFrame, fraction: float = 0.2, *, by: str = "time", user: str = "source"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hold out the last ``floor(n * fraction)`` of each user's n rows, by time.

    Of rows with the same time, the one that stands later in the frame is the later one.
    """
    _check_fraction(fraction)
    _check_columns(frame, (user, by))
    codes = _codes(frame[user], user)
    order = np.lexsort((np.arange(len(frame)), _time_column(frame, by).rank(method="dense").to_numpy(), codes))
    sizes = np.bincount(codes, minlength=1)
    # How many rows of its user stand behind each row: 0 for the last one.
    ends = np.cumsum(sizes)
    behind = np.empty(len(frame), np.int64)
    behind[order] = ends[codes[order]] - 1 - np.arange(len(frame))
    held_out = behind < _share(sizes, fraction)[codes]
    return frame[~held_out], frame[held_out]


def split_random(
    frame: pd.DataFrame, fraction: float, seed: int, *, unit: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hold out ``floor(n * fraction)`` of the n rows, or of the n values of ``unit`` with all their rows."""
    _check_fraction(fraction)
    if unit is None:
        codes = np.arange(len(frame))
    else:
        _check_columns(frame, (unit,))
        codes = _codes(frame[unit], unit)
    num_units = int(codes.max(initial=-1)) + 1
    drawn = np.zeros(num_units, dtype=bool)
    drawn[np.random.default_rng(seed).permutation(num_units)[: _share(num_units, fraction)]] = True
    return frame[~drawn[codes]], frame[drawn[codes]]


def drop_seen(held_out: pd.DataFrame, known: pd.DataFrame, on: Sequence[str] = ("source", "target")) -> Filtered:
    """Drop the rows of ``held_out`` whose values in the columns ``on`` stand together in a row of ``known``."""
    for frame in (held_out, known):
        _check_columns(frame, on)
    split = len(known)
    keys = np.zeros(split + len(held_out), np.int64)
    for column in on:
        _same_id_type(held_out[column], known[column], column)
        codes = _codes(pd.concat([known[column], held_out[column]], ignore_index=True), column)
        # Renumbered after every column, so that products stay small.
        keys = pd.factorize(keys * (int(codes.max(initial=0)) + 1) + codes)[0]
    return _filtered(held_out, ~np.isin(keys[split:], keys[:split]))


def drop_cold(
    held_out: pd.DataFrame,
    known: pd.DataFrame,
    columns: Sequence[str] | Mapping[str, Sequence[str]] = ("source", "target"),
) -> Filtered:
    """Drop the rows of ``held_out`` with an entity that ``known`` does not have.

    Args:
        held_out: The rows to filter.
        known: The rows that a model has seen.
        columns: The columns whose values have to stand in the same column of ``known``; or, for each column, those of
            ``known`` that count: ``{"source": ["source", "target"]}`` where both ends are of one entity type.
    """
    places = dict(columns) if isinstance(columns, Mapping) else {column: [column] for column in columns}
    keep = np.ones(len(held_out), dtype=bool)
    for column, known_columns in places.items():
        _check_columns(held_out, (column,))
        _check_columns(known, known_columns)
        for known_column in known_columns:
            _same_id_type(held_out[column], known[known_column], column)
        keep &= held_out[column].isin(pd.concat([known[name] for name in known_columns])).to_numpy()
    return _filtered(held_out, keep)


def check_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` with ids in ``query`` and ``candidate``; further columns stay.

    Raises:
        DataError: A column is missing, or an id is null or neither integer nor string.
    """
    _check_columns(frame, ("query", "candidate"))
    return _with_ids(frame, ("query", "candidate"), None)


def check_candidates(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` if it is a candidate frame: ids, scores that are numbers, ranks 1, 2, ... for each query.

    Raises:
        DataError: A column is missing, a type is wrong, a score is NaN, a candidate is there twice for a query, or the
            ranks of a query are not 1 to the number of its candidates.
    """
    _check_columns(frame, ("query", "candidate", "score", "rank"))
    frame = _with_ids(frame, ("query", "candidate"), None)
    if frame["score"].dtype.kind not in "fiu" or frame["rank"].dtype.kind not in "iu":
        raise DataError(
            f"candidates: score is {frame['score'].dtype} and rank {frame['rank'].dtype}, expected numbers and integers"
        )
    _refuse_rows(frame, frame["score"].isna().to_numpy(), "a score that is NaN")
    _refuse_rows(frame, frame.duplicated(["query", "candidate"]).to_numpy(), "a candidate that its query has already")
    _refuse_rows(frame, frame.duplicated(["query", "rank"]).to_numpy(), "a rank that its query has already")
    size = frame.groupby("query", sort=False)["rank"].transform("size")
    outside = (frame["rank"] < 1) | (frame["rank"] > size)
    _refuse_rows(frame, outside.to_numpy(), "a rank that is not among 1 to the number of its query's candidates")
    return frame


def missing_column(what: str, name: str, there: Iterable[object]) -> DataError:
    """Return the error for a column that is not there: its name, the nearest one, and what is there."""
    names = [str(column) for column in there]
    near = closest(name, names)
    known = "" if near.startswith("known") else f" It has: {', '.join(names)}"
    return DataError(f"{what} has no column {name!r}; {near}{known}")


def _wanted(columns: Columns | None, optional: Sequence[str]) -> dict[str, str] | None:
    """Return the name in the source for each name wanted, or None for all columns."""
    if columns is None:
        wanted = {}
    elif isinstance(columns, Mapping):
        wanted = dict(columns)
    else:
        wanted = {name: name for name in columns}
    for name in optional:
        if name not in wanted:
            raise ConfigError(f"optional names {name!r}, which is not among columns; {closest(name, wanted)}")
    for new, old in wanted.items():
        if list(wanted.values()).count(old) > 1:
            raise ConfigError(f"columns reads {old!r} as {new!r} and as something else, expected once")
    return None if columns is None else wanted


def _present(there: list[str], wanted: Mapping[str, str] | None, optional: Sequence[str], what: str) -> list[str]:
    """Return the wanted columns that are there; one that is not, and is not optional, is refused."""
    if wanted is None:
        return there
    for new, old in wanted.items():
        if old not in there and new not in optional:
            raise missing_column(what, old, there)
    return [old for old in wanted.values() if old in there]


def _files(source: str | Path) -> list[Path]:
    """Return the files that a path, a folder or a glob pattern names, in the order of their names."""
    path = Path(source)
    if path.is_file():
        return [path]
    found = path.iterdir() if path.is_dir() else Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    files = [file for file in sorted(found) if _suffix(file) and file.is_file() and not file.name.startswith(".")]
    if not files:
        raise DataError(f"{source}: no file here ends in {', '.join((*_PARQUET, *_SEPARATORS))}")
    if len({_suffix(file) in _PARQUET for file in files}) > 1:
        raise DataError(f"{source}: Parquet and text files, expected one format: name one by a pattern such as '*.csv'")
    return files


def _suffix(path: Path) -> str | None:
    """Return the suffix that says a file's format, or None; a suffix of compression behind it does not count."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in (*_PARQUET, *_SEPARATORS) else None


def _read_file(path: Path, wanted: Mapping[str, str] | None, optional: Sequence[str], text: set[str]) -> pa.Table:
    """Read the wanted columns of one file; those named in ``text`` are strings, whatever they look like."""
    import pyarrow.parquet as pq

    suffix = _suffix(path)
    if suffix is None:
        raise FormatError(f"{path}: the name says no format, expected {', '.join((*_PARQUET, *_SEPARATORS))}")
    try:
        if suffix in _PARQUET:
            with pq.ParquetFile(path) as file:
                return file.read(_present(file.schema_arrow.names, wanted, optional, str(path)))
        table = csv_table(path, separator=_SEPARATORS[suffix], text=text)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    return table.select(_present(table.column_names, wanted, optional, str(path)))


def _concatenated(tables: list[pa.Table], source: str | Path) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"{source}: the files have columns of different types: {error}") from error


def _with_ids(frame: pd.DataFrame, columns: Iterable[str], id_type: IdType | None) -> pd.DataFrame:
    """Return ``frame`` with int64 or string ids in ``columns``."""
    changed = {}
    for column in columns:
        _refuse_missing(frame[column], column)  # before the type: it is what makes floats of integers
        array = id_array(frame[column], f"column {column!r}")
        if id_type is not None and id_type_of(array) != id_type:
            array = _cast(array, id_type, column)
        if frame[column].dtype != np.int64 or id_type_of(array) != "int64":
            changed[column] = pd.Series(array.to_pandas().array, index=frame.index)
    return frame.assign(**changed)


def _cast(array: pa.Array, id_type: IdType, column: str) -> pa.Array:
    try:
        return array.cast(pa.int64() if id_type == "int64" else pa.large_string())
    except pa.ArrowInvalid as error:
        raise DataError(f"column {column!r}: ids are not {id_type}: {error}") from error


def _check_columns(frame: pd.DataFrame, columns: Iterable[str]) -> None:
    for column in columns:
        if column not in frame.columns:
            raise missing_column("the frame", column, frame.columns)


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction <= 1:
        raise ConfigError(f"fraction is {fraction}, expected 0 to 1")


def _share(num: Any, fraction: float) -> Any:
    """Return floor(num * fraction), undisturbed by how floats round: 0.29 of 100 is 29."""
    return np.floor(np.asarray(num) * fraction + 1e-9).astype(np.int64)


def _codes(values: "pd.Series[Any]", column: str) -> NDArray[np.int64]:
    """Number the distinct values in the order in which they appear; nulls are refused."""
    _refuse_missing(values, column)
    return pd.factorize(values)[0].astype(np.int64, copy=False)


def _refuse_missing(values: "pd.Series[Any]", column: str) -> None:
    missing = np.flatnonzero(values.isna().to_numpy())
    if len(missing):
        raise DataError(f"column {column!r}: {len(missing)} of {len(values)} are null, the first in row {missing[0]}")


def _time_column(frame: pd.DataFrame, time: str) -> "pd.Series[Any]":
    """Return a column of numbers or times without nulls."""
    _check_columns(frame, (time,))
    values = frame[time]
    if pd.api.types.is_bool_dtype(values) or not (
        pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values)
    ):
        raise DataError(f"column {time!r} is {values.dtype}, expected numbers or times (pandas.to_datetime makes them)")
    _refuse_missing(values, time)
    return values


def _timestamp(at: object, values: "pd.Series[Any]", time: str) -> pd.Timestamp:
    """Return ``at`` as a time that can be compared with ``values``."""
    if isinstance(at, (int, float)):
        raise DataError(f"column {time!r} holds times, at is the number {at!r}: give a date or time")
    try:
        stamp = pd.Timestamp(at)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise DataError(f"at is {at!r}, expected a date or time: {error}") from error
    zone = values.dt.tz
    if zone is None and stamp.tzinfo is not None:
        raise DataError(f"at is {at!r}, with a time zone, but column {time!r} has none")
    return stamp.tz_localize(zone) if zone is not None and stamp.tzinfo is None else stamp


def _same_id_type(left: "pd.Series[Any]", right: "pd.Series[Any]", column: str) -> None:
    """Refuse integers on one side and strings on the other, between which nothing would ever be equal."""
    if len(left) and len(right):
        types = [id_type_of(id_array(values, f"column {column!r}")) for values in (left, right)]
        if types[0] != types[1]:
            raise DataError(f"column {column!r}: held-out ids are {types[0]}, known ones {types[1]}")


def _filtered(frame: pd.DataFrame, keep: NDArray[np.bool_]) -> Filtered:
    return Filtered(frame[keep], int((~keep).sum()))


def _refuse_rows(frame: pd.DataFrame, bad: NDArray[np.bool_], what: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        first = frame[["query", "candidate", "score", "rank"]].iloc[[row]].to_dict("records")[0]
        raise DataError(
            f"candidates: {int(bad.sum())} of {len(frame)} rows have {what}, the first is row {row}: {first}"
        )
