"""Read interactions, pairs and candidates from Parquet, CSV, TSV, pandas and Arrow."""

__all__ = ["read_frame", "source_files"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import pyarrow as pa

from recokit.errors import ConfigError, DataError, FormatError, closest
from recokit.frame.columns import missing_column, with_ids
from recokit.table.folder import local_path
from recokit.table.ids import IdType
from recokit.table.imports import csv_table, integers_if_canonical

Source: TypeAlias = "str | Path | pd.DataFrame | pa.Table"
Columns: TypeAlias = Sequence[str] | Mapping[str, str]

_ID_COLUMNS = ("source", "target", "query", "candidate")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_PARQUET = (".parquet", ".pq")
_COMPRESSED = (".gz", ".bz2", ".zst")


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
        id_type: What ids have to be. Without it, those of CSV and TSV are integers where all of a column are written
            as such, and strings where one is not: ``007``.

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
        text = set(ids) if wanted is None else {wanted[name] for name in ids if name in wanted}
        files = source_files(source)
        read = [_read_file(path, wanted, optional, set() if id_type == "int64" else text) for path in files]
        table = _concatenated(read, source)
        if id_type is None and _suffix(files[0]) in _SEPARATORS:
            for position, name in enumerate(table.column_names):
                if name in text:
                    table = table.set_column(position, name, integers_if_canonical(table.column(position)))
        frame = table.to_pandas()
    if wanted is not None:
        frame = frame.rename(columns={old: new for new, old in wanted.items()})
    return with_ids(frame.reset_index(drop=True), [name for name in ids if name in frame.columns], id_type)


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


def source_files(source: str | Path) -> list[Path]:
    """Return the files that a path, a folder or a glob pattern names, in the order of their names."""
    path = local_path(source)
    if path.is_file():
        return [path]
    found = path.iterdir() if path.is_dir() else Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    files = [file for file in sorted(found) if _suffix(file) and file.is_file() and not file.name.startswith(".")]
    if not files and not path.exists() and not set("*?[") & set(str(path)):
        raise DataError(f"{source} does not exist")
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
