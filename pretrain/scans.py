"""Where edges come from: frames, Parquet and text files as scans of DuckDB, with ids that are exact.

Ids are integers of 64 bits or strings, never floats: what would have to be rounded, cut or guessed is refused.
"""

__all__ = [
    "Columns",
    "Scan",
    "converted",
    "id_kind",
    "literal",
    "readable",
    "scan_file",
    "scan_frame",
    "with_exact_ids",
    "with_header",
]

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa

from recokit.errors import DataError
from recokit.table.ids import arrow_of

Columns = Mapping[str, str]  # a role, such as "source", to the name of its column
_IDS = ("source", "target", "relation")
_TEXT_FILE = re.compile(r"\.(csv|tsv|txt)(\.gz|\.zst)?$")
_DELIMITERS = {"csv": ",;\t|", "tsv": "\t", "txt": "\t,;| "}  # the first of them that a file's first line has
_LARGER = {"UBIGINT", "HUGEINT", "UHUGEINT"}  # integers that int64 may not hold
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", *_LARGER}
_FLOATS = {"FLOAT", "DOUBLE"}


@dataclasses.dataclass(frozen=True)
class Scan:
    """Rows as DuckDB reads them: a table function with its arguments, or a registered frame."""

    db: duckdb.DuckDBPyConnection
    what: str  # for messages
    function: str
    arguments: tuple[str, ...] = ()

    @property
    def sql(self) -> str:
        """What stands behind FROM."""
        return f"{self.function}({', '.join(self.arguments)})" if self.arguments else self.function

    @property
    def is_text(self) -> bool:
        """Whether it is a file of text, whose types are guessed."""
        return self.function == "read_csv"

    def given(self, *arguments: str) -> "Scan":
        """Return the scan with more arguments."""
        return dataclasses.replace(self, arguments=(*self.arguments, *arguments))

    def as_text(self, columns: Collection[str]) -> "Scan":
        """Read these columns of a text file as what is written there, whatever it looks like."""
        types = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in sorted(columns))
        return self.given(f"types = {{{types}}}") if columns else self

    def rows(self, selected: str, rest: str = "") -> list[tuple[object, ...]]:
        """Return a few rows."""
        with readable(self.what):
            found: list[tuple[object, ...]] = self.db.sql(f"SELECT {selected} FROM {self.sql} {rest}").fetchall()
        return found

    @cached_property
    def types(self) -> dict[str, str]:
        """DuckDB's type of every column."""
        with readable(self.what):
            described = self.db.sql(f"DESCRIBE SELECT * FROM {self.sql}").fetchall()
        return {row[0]: row[1] for row in described}


def scan_file(db: duckdb.DuckDBPyConnection, path: str | Path, what: str) -> Scan:
    """Scan a path or a glob of Parquet or of CSV."""
    # Folders named like ``source=web`` must not overwrite columns, and a column that one file lacks is not lost.
    arguments = (literal(str(path)), "hive_partitioning = false", "union_by_name = true")
    text_file = _TEXT_FILE.search(str(path))
    return _scan_text(db, arguments, text_file[1], what) if text_file else Scan(db, what, "read_parquet", arguments)


def _scan_text(db: duckdb.DuckDBPyConnection, arguments: tuple[str, ...], suffix: str, what: str) -> Scan:
    """Scan files of text whose rows are all equally wide; left to itself, DuckDB skips rows until the rest are."""
    # A line as one column: no file of text has the delimiter \x01.
    line = "auto_detect = false, header = false, strict_mode = false, delim = '\x01', quote = '', escape = ''"
    line_of = Scan(db, what, "read_csv", (arguments[0], line, "columns = {'line': 'VARCHAR'}"))
    found = "".join(str(row[0]) for row in line_of.rows("line", "WHERE line IS NOT NULL LIMIT 1"))
    first = re.sub(r'"[^"]*"', "", found)  # what is quoted parts nothing
    candidates = _DELIMITERS[suffix]
    delimiter = next((one for one in candidates if one in first), candidates[0])
    strict = f"delim = {literal(delimiter)}, skip = 0, comment = '', strict_mode = true, null_padding = false"
    quoted = "quote = '\"'"
    scan = Scan(db, what, "read_csv", (*arguments, strict, *([] if delimiter == "\t" else [quoted])))
    with readable(what):
        try:
            db.sql(f"DESCRIBE SELECT * FROM {scan.sql}").fetchall()
        except duckdb.InvalidInputException:  # says that widths differ, but not where: read all as wide as the first
            columns = ", ".join(f"'column{number}': 'VARCHAR'" for number in range(first.count(delimiter) + 1))
            wide = (arguments[0], strict, quoted, f"auto_detect = false, header = false, columns = {{{columns}}}")
            db.sql(f"SELECT count(*) FROM {dataclasses.replace(scan, arguments=wide).sql}").fetchall()
            raise
    return scan


def scan_frame(
    db: duckdb.DuckDBPyConnection, name: str, frame: pd.DataFrame | pa.Table, read: Columns, what: str
) -> Scan:
    """Scan the columns that are read; what else a frame holds may be anything, also what Arrow has no type for."""
    if isinstance(frame, pd.DataFrame):
        with readable(what):
            frame = pa.table(
                {
                    column: arrow_of(frame[column], f"{what}: the {role} column {column!r}")
                    if role in _IDS
                    else pa.array(frame[column], from_pandas=True)
                    for role, column in read.items()
                }
            )
    db.register(name, frame)
    return Scan(db, what, name)


def with_header(scan: Scan, header: bool | None, usual: Collection[Collection[str]]) -> Scan:
    """Settle whether the first row of a text file names its columns: where unsaid, if it holds one of ``usual``.

    Raises:
        DataError: It holds text above integers, but names nothing that is usual.
    """
    named, bare = scan.given("header = true"), scan.given("header = false")
    if header is not None:
        return named if header else bare
    first = [value for row in bare.given("all_varchar = true").rows("*", "LIMIT 1") for value in row]
    if any(set(names) <= set(first) for names in usual):
        return named
    kinds = zip(bare.types.values(), named.types.values(), strict=True)
    if any(with_first == "VARCHAR" and without in _INTEGERS for with_first, without in kinds):
        raise DataError(
            f"{scan.what}: its first row ({', '.join(map(str, first))}) looks like a header, but has none of the usual "
            "names: say which columns are source, relation and target"
        )
    return bare


def with_exact_ids(scan: Scan, read: Columns, as_text: Collection[str] = ()) -> Scan:
    """Let ids be what their file says: refuse what int64 cannot hold, and in text files what types would change.

    Args:
        scan: The rows.
        read: Role to column; source, target and relation hold ids.
        as_text: Roles that are read as strings from a text file, whatever they look like.

    Raises:
        DataError: An id is beyond int64, or is not written as the integer that it would become (007, 1e3).
    """
    types = scan.types
    ids = {role: column for role, column in read.items() if role in _IDS}
    if scan.is_text:
        # Dates and booleans are names that happen to look so.
        odd = {role for role, column in ids.items() if types[column] not in _INTEGERS | _FLOATS}
        written = {column for role, column in ids.items() if role in odd.union(as_text)}
        integers = [column for column in ids.values() if types[column] in _INTEGERS and column not in written]
        _check_written(scan, integers)
        scan = scan.as_text(written)
    for role, column in ids.items():
        if types[column] in _LARGER:
            _check_range(scan, role, column)
    return scan


def _check_written(scan: Scan, columns: Collection[str]) -> None:
    """DuckDB guesses from the first rows that a column holds integers, and reads a later 007 as 7, 1e3 as 1000."""
    if not columns:
        return
    texts = [f"trim({_quoted(column)})" for column in columns]
    first = [f"min({t}) FILTER ({t} <> CAST(TRY_CAST({t} AS HUGEINT) AS VARCHAR))" for t in texts]
    for column, odd in zip(columns, scan.as_text(columns).rows(", ".join(first))[0], strict=True):
        if odd is not None:
            raise DataError(
                f"{scan.what}: the column {column!r} holds {odd!r} among integers; ids are all integers, without "
                "leading zeros or exponents, or all strings"
            )


def _check_range(scan: Scan, role: str, column: str) -> None:
    for value in scan.rows(f"min({_quoted(column)}), max({_quoted(column)})")[0]:
        if value is not None and not -(2**63) <= int(str(value)) < 2**63:
            raise DataError(
                f"{scan.what}: the {role} column {column!r} holds {value}; integer ids lie between -2**63 and "
                f"2**63 - 1 ({2**63 - 1}), others are given as strings"
            )


def converted(role: str, column: str, kind: str, what: str) -> str:
    """SQL of a column as int64 or varchar (ids), varchar (relation), double (weight), int64 or double (time)."""
    name = _quoted(column)
    if role == "weight":
        return f"CAST({name} AS DOUBLE)"
    if role == "time":
        if kind == "TIMESTAMP WITH TIME ZONE":  # a cast to TIMESTAMP would depend on the machine's time zone
            return f"epoch_us({name})"
        if kind.startswith("TIMESTAMP") or kind == "DATE":
            return f"epoch_us(CAST({name} AS TIMESTAMP))"
        if kind in _INTEGERS or kind in _FLOATS:
            return f"CAST({name} AS {'BIGINT' if kind in _INTEGERS else 'DOUBLE'})"
        raise DataError(f"{what}: the time column {column!r} is {kind}; expected timestamps or numbers")
    if kind not in _INTEGERS and kind != "VARCHAR" and not kind.startswith("ENUM"):
        hint = "; missing values turn integers into floats in pandas" if kind in _FLOATS else ""
        raise DataError(f"{what}: the {role} column {column!r} is {kind}; ids must be integers or strings{hint}")
    if role == "relation":
        return f"NULLIF(CAST({name} AS VARCHAR), '')"
    return f"CAST({name} AS {'BIGINT' if kind in _INTEGERS else 'VARCHAR'})"


def id_kind(kind: str) -> str:
    """Say what ids a column of this type holds."""
    return "integers" if kind in _INTEGERS else "strings"


def _quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a string as SQL."""
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn what DuckDB and Arrow raise on unreadable data into a DataError of one line."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError, UnicodeError) as error:
        reason = " ".join(str(error).splitlines()[:3])  # of a CSV file: the place, the line, the matter
        raise DataError(f"{what} cannot be read: {reason}") from error
