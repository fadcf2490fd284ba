"""The files that a pipeline reads: their contents are part of its steps' keys, and of a version's lineage."""

__all__ = ["edge_files", "measured_files", "page_files"]

import glob
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pretrain.pipeline.settings import PipelineSettings, page_file
from recokit.errors import DataError


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
