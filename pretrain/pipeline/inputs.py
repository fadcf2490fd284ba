"""The files that a pipeline reads: their contents are part of its steps' keys, and of a version's lineage."""

__all__ = ["check_columns", "check_store", "edge_files", "measured_files", "page_files"]

import glob
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.pipeline.settings import PipelineSettings
from pretrain.pipeline.tables import page_file
from recokit.errors import DataError, FormatError, MissingDependencyError


def check_store(settings: PipelineSettings) -> None:
    """Refuse, before a night goes into it, a store that cannot be written.

    Raises:
        ConfigError: Says so, with the line of ``output``.
    """
    from recokit.store.places import LocalPlace, place_of

    try:
        place = place_of(settings.store)
        if isinstance(place, LocalPlace):
            there = next(path for path in (place.folder, *place.folder.parents) if path.exists())
            with tempfile.TemporaryFile(dir=there):
                return
        name = f".write-check-{uuid.uuid4().hex}"
        place.create(name, b"")
        place.remove(name)
    except MissingDependencyError:
        raise
    except Exception as error:  # file systems of fsspec raise what they like
        output = settings.file.content["output"]
        raise settings.file.error("", "output", f"output is {output!r}, which cannot be written: {error}") from error


def check_columns(file: Path, columns: Sequence[str], ids: Sequence[str]) -> None:
    """Refuse a frame that lacks a column, or a Parquet file that says that ids are null; no row is read.

    Args:
        file: A Parquet, CSV or TSV file.
        columns: Those that have to be there.
        ids: Those of them that hold ids.

    Raises:
        DataError: Names the file and the column.
        FormatError: The file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    text = {".csv", ".tsv"} & {suffix.lower() for suffix in file.suffixes}
    nulls: dict[str, int] = {}
    try:
        if text:
            parse = csv.ParseOptions(delimiter="\t" if ".tsv" in text else ",", newlines_in_values=True)
            with pa.input_stream(str(file), compression="detect") as stream:
                there = csv.open_csv(stream, parse_options=parse).schema.names
        else:
            with pq.ParquetFile(file) as opened:
                there = opened.schema_arrow.names
                nulls = _nulls(opened.metadata)
    except (OSError, pa.ArrowException) as error:
        raise FormatError(f"{file} cannot be read: {error}") from error
    for name in columns:
        if name not in there:
            raise DataError(f"{file} has no column {name!r}; it has: {', '.join(map(str, there))}")
    for name in ids:
        if nulls.get(name):
            raise DataError(f"{file}: {nulls[name]:,} ids in column {name!r} are null, expected none")


def _nulls(metadata: Any) -> dict[str, int]:
    """Return the nulls of each column of a Parquet file, as its footer counts them."""
    found: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            if column.is_stats_set and column.statistics.has_null_count:
                found[column.path_in_schema] = found.get(column.path_in_schema, 0) + column.statistics.null_count
    return found


def edge_files(settings: PipelineSettings) -> list[Path]:
    """Return the files of edges, and those of ids to keep or drop, sorted.

    Raises:
        DataError: A pattern fits no file.
    """
    training = settings.training
    patterns = [training.triples["data"]] if training.triples else list(training.paths.values())
    found = [path for pattern in patterns for path in _fitting(Path(pattern).absolute())]
    return _once([*found, *settings.selection.keep.values(), *settings.selection.drop.values()])


def measured_files(settings: PipelineSettings) -> list[Path]:
    """Return the files that benchmarks and drift read, beside the night's own edges.

    Which keys of a benchmark are paths is its own matter: whatever names a file is one.
    """
    found: list[Path] = []
    for row in settings.benchmarks:
        for text in _strings({key: value for key, value in row.items() if key not in ("name", "kind")}):
            path = settings.folder / text
            if path.is_file():
                found.append(path)
            elif "*" in text or ("/" in text and path.is_dir()):
                found += _matches(path if "*" in text else path / "*")
    for place in (settings.drift.ranker, settings.drift.impressions):
        if place is not None:
            found += place.rglob("*") if place.is_dir() else [place]
    return _once(path for path in found if path.is_file())


def page_files(settings: PipelineSettings) -> list[Path]:
    """Return the files of names and labels that the page reads."""
    publish = settings.publish
    texts = [*publish.names.values(), *publish.labels.values()]
    return _once(page_file(settings.folder, text) for text in texts)


def _fitting(pattern: Path) -> list[Path]:
    files = [path for path in _matches(pattern) if path.is_file()]
    if not files:
        raise DataError(f"{pattern}: there is no such file")
    return files


def _matches(pattern: Path) -> list[Path]:
    return [Path(each) for each in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207, a pattern with a root


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _strings(each)]


def _once(paths: Iterable[Path]) -> list[Path]:
    return sorted(set(paths))
