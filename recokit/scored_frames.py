"""Frames of any length, scored block by block: read from files, ranked within their groups, written as Parquet.

Decisions:
- Groups stand together, as candidates of a query do: then a group is ranked as soon as its last row is scored, and
  memory holds a block and a group. A frame whose groups do not is refused before anything is scored.
- Of equal scores the row that came first stays first.
- Text has the types that the ranker asks for where it asks: ids such as ``007`` may be strings to a table.

Shapes: N rows.
"""

__all__ = ["FrameFiles", "count_groups", "ranked_groups", "read_columns", "read_rows", "write_parts"]

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recokit.errors import DataError, FormatError, VersionError
from recokit.features import FeatureSpec
from recokit.frame.columns import missing_column
from recokit.frame.reading import source_files
from recokit.table.folder import local_folder, partial_path
from recokit.table.ids import refuse_nulls

_ROWS = 1 << 16  # of a block of Parquet
_CSV_BLOCK = 16 << 20  # bytes, from the first of which the types of columns are taken
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_COMPRESSED = (".gz", ".bz2", ".zst")


@dataclass(frozen=True, eq=False)
class FrameFiles:
    """Files of rows of one schema, read block by block; made by ``open``.

    Attributes:
        files: The files, in the order of their names.
        schema: Of all of them.
        block: How many rows of Parquet a block has.
        count: N, where the files say it: text does not.
        types: What columns of text are read as.
    """

    files: Sequence[Path]
    schema: pa.Schema
    block: int
    count: int | None
    types: Mapping[str, pa.DataType]

    @classmethod
    def open(cls, source: str, features: FeatureSpec, renamed: Mapping[str, str], block: int) -> "FrameFiles":
        """Read the schemas of files.

        Args:
            source: A file, a folder or a pattern.
            features: What the ranker reads.
            renamed: What the frame calls the ranker's columns.
            block: How many rows of Parquet are read at a time.

        Raises:
            DataError: A column of the ranker is not there, or a file lacks one that others have.
            FormatError: A file cannot be read, or a column is of different types.
        """
        import pyarrow.parquet as pq

        files = source_files(source)
        types = _types(features, renamed)
        counts: list[int] | None = None
        try:
            if _is_text(files[0]):
                schemas = [_csv(file, types).schema for file in files]
            else:
                footers = [pq.read_metadata(file) for file in files]
                counts = [footer.num_rows for footer in footers]
                schemas = [_plain(footer.schema.to_arrow_schema()) for footer in footers]
            schema = pa.unify_schemas(schemas, promote_options="permissive").remove_metadata()
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"{source} cannot be read: {error}") from error
        for file, each in zip(files, schemas, strict=True):
            _check_columns(file, each.names, schema.names, renamed)
        return cls(files, schema, block, None if counts is None else sum(counts), types)

    def blocks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield some columns of all rows, in their order; one empty block of no rows."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        came = False
        for file in self.files:
            try:
                for batch in self._batches(file, columns):
                    came = True
                    yield pa.Table.from_batches([batch]).select(columns).cast(schema)
            except (pa.ArrowException, OSError) as error:
                hint = "; Parquet says the types of its columns, text does not" if _is_text(file) else ""
                raise FormatError(f"{file} cannot be read: {error}{hint}") from error
        if not came:
            yield schema.empty_table()

    def _batches(self, file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        if _is_text(file):
            yield from _csv(file, self.types, columns)
            return
        with pq.ParquetFile(file) as opened:
            yield from opened.iter_batches(batch_size=self.block, columns=list(columns))


def read_columns(features: FeatureSpec) -> list[str]:
    """Return the columns that a ranker scores by, each once."""
    names = [feature.column for feature in features.pretrained]
    names += [*features.dense, *features.categorical, *features.hashed]
    names += [name for bag in features.bags for name in (bag.column, bag.weights) if name is not None]
    return list(dict.fromkeys(names))


def read_rows(source: str, features: FeatureSpec) -> pd.DataFrame:
    """Read all rows of files, with the types that a ranker asks for: text too, and integers of which some are missing.

    Raises:
        DataError: A column of the ranker is not there, or a file lacks one that others have.
        FormatError: A file cannot be read, or a column is of different types.
    """
    names = read_columns(features)
    files = FrameFiles.open(source, features, {name: name for name in names}, _ROWS)
    table = pa.concat_tables(files.blocks(files.schema.names))
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    return frame.assign(**{name: table.column(name).to_pandas(types_mapper=pd.ArrowDtype) for name in names})


def ranked_groups(parts: Iterable[pa.Table], group: str, top_k: int | None) -> Iterator[pa.Table]:
    """Yield whole groups, the rows of each by falling score; the last group of a part waits for the next."""
    held: pa.Table | None = None
    for part in parts:
        together = part if held is None else pa.concat_tables([held, part])
        begins = _begins(together.column(group))
        last = int(begins[-1]) if len(begins) else 0
        if last:
            yield _in_order(together.slice(0, last), group, top_k)
        held = together.slice(last)
    if held is not None:
        yield _in_order(held, group, top_k)


def count_groups(frame: FrameFiles, group: str) -> int:
    """Count the groups, and refuse one whose rows do not stand together, before anything is scored."""
    kind = frame.schema.field(group).type
    if pa.types.is_nested(kind):
        raise DataError(f"column {group!r} holds {kind}, expected values that rows can be grouped by")
    firsts: list[pa.Array] = []
    last: Any = None
    for block in frame.blocks([group]):
        values = block.column(0)
        refuse_nulls(values.combine_chunks(), f"column {group!r}")
        begins = _begins(values)
        if len(begins) and firsts and values[0] == last:
            begins = begins[1:]
        last = values[-1] if len(values) else last
        firsts.append(values.take(pa.array(begins)).combine_chunks())
    counts = pc.value_counts(pa.chunked_array(firsts, kind))
    again = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(again):
        value, places = again.field("values")[0].as_py(), again.field("counts")[0].as_py()
        raise DataError(
            f"the rows of {group} {value!r} stand in {places} places of the frame, expected one: sort it by {group!r}"
        )
    return len(counts)


def write_parts(output: str | Path, parts: Iterable[pa.Table]) -> int:
    """Write at least one part as row groups of one Parquet file, whole or not at all; return how many rows it has."""
    import pyarrow.parquet as pq

    target = local_folder(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, rows = partial_path(target), 0
    parts = iter(parts)
    try:
        first = next(parts)
        with partial.open("xb") as file:
            with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
                for part in chain([first], parts):
                    writer.write_table(part, row_group_size=max(1, len(part)))
                    rows += len(part)
            file.flush()
            os.fsync(file.fileno())
        if os.path.lexists(target):  # somebody else was quicker
            raise VersionError(f"{target} exists already, and what is written is never changed: choose another name")
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return rows


def _in_order(part: pa.Table, group: str, top_k: int | None) -> pa.Table:
    """Order the rows of each group by falling score, number them from 1, and keep ``top_k`` of each."""
    begins = _begins(part.column(group))
    sizes = np.diff(np.append(begins, len(part)))
    ranks = np.arange(len(part)) - np.repeat(begins, sizes) + 1
    # lexsort is stable: of equal scores the row that came first stays first.
    order = np.lexsort((-part.column("score").to_numpy(), np.repeat(np.arange(len(begins)), sizes)))
    kept = np.flatnonzero(ranks <= (top_k or len(part)))
    ranked = part.take(pa.array(order[kept])).append_column("rank", pa.array(ranks[kept]))
    first = [name for name in ("query", "candidate", "score", "rank") if name in ranked.column_names]
    return ranked.select([*first, *(name for name in ranked.column_names if name not in first)])


def _begins(values: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the rows at which runs of equal values begin."""
    if not len(values):
        return np.zeros(0, np.int64)
    changes = pc.not_equal(values.slice(1), values.slice(0, len(values) - 1)).to_numpy()
    return np.flatnonzero(np.append(True, changes.astype(bool)))


def _check_columns(file: Path, there: Sequence[str], all_names: Sequence[str], renamed: Mapping[str, str]) -> None:
    for name, column in renamed.items():
        if column not in there:
            error = missing_column(str(file), column, there)
            raise DataError(f"{error}; the ranker reads {name!r}: --columns {name}=COLUMN says what it is called here")
    for column in all_names:
        if column not in there:
            raise missing_column(str(file), column, there)


def _types(features: FeatureSpec, renamed: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Return the types that columns of text have to be read as: ids such as 007 may be strings to a table."""
    types = {renamed[name]: pa.float64() for name in features.dense}
    if features.statistics is not None:
        for name in features.categorical:
            types[renamed[name]] = features.statistics.vocabularies[name].values.type
    for feature in features.pretrained:
        types[renamed[feature.column]] = pa.int64() if feature.table.id_type == "int64" else pa.large_string()
    return types


def _csv(file: Path, types: Mapping[str, pa.DataType], columns: Sequence[str] = ()) -> Any:
    """Open text; an empty cell is missing and nothing else is."""
    from pyarrow import csv

    separator = _SEPARATORS[_format(file)]
    return csv.open_csv(
        file,
        csv.ReadOptions(block_size=_CSV_BLOCK),
        csv.ParseOptions(delimiter=separator),
        csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, include_columns=list(columns)
        ),
    )


def _is_text(file: Path) -> bool:
    return _format(file) in _SEPARATORS


def _format(file: Path) -> str:
    """Return the suffix that says a file's format; one of compression behind it does not count."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _plain(schema: pa.Schema) -> pa.Schema:
    """Return the schema with dictionaries as their values."""
    kinds = [(field.name, field.type) for field in schema]
    return pa.schema([(name, kind.value_type if pa.types.is_dictionary(kind) else kind) for name, kind in kinds])
