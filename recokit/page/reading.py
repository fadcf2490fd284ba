"""What the page reads beside the tables: reports of a version, names and labels of entities.

A report is looked for in the version itself first, then among the files given. Names and labels are one text for each
id: a mapping, or a file and two of its columns, written ``movies.csv:id,title``.
"""

__all__ = ["Reports", "Texts", "read_reports", "texts_for"]

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from recokit.errors import ConfigError, DataError, FormatError, closest
from recokit.frame import read_frame
from recokit.report import Report
from recokit.table import FeatureTable, Version

Texts: TypeAlias = "Mapping[Any, str] | str"

_ROWS = ("benchmarks.json", "drift.json", "compression.json")
_TREES = {"training.json": "training/1", "lineage.json": "lineage/1"}


@dataclass(frozen=True, eq=False)
class Reports:
    """What was measured of a version and recorded of its making; None where it was not.

    Attributes:
        benchmarks: Probes and their baselines.
        drift: Changes since an earlier version.
        compression: Neighbours found after quantization.
        training: ``training/1``, one record an epoch for each network.
        lineage: ``lineage/1``, configuration, code, inputs, steps, gates.
    """

    benchmarks: Report | None = None
    drift: Report | None = None
    compression: Report | None = None
    training: Mapping[str, Any] | None = None
    lineage: Mapping[str, Any] | None = None


def read_reports(version: Version, source: str | Path | Mapping[str, str | Path] | None = None) -> Reports:
    """Read the reports of a version.

    Args:
        version: The version; what was published with it comes first.
        source: More of them: a folder, one ``report/1`` file of benchmarks, drift or compression, or paths by the
            names ``benchmarks.json``, ``drift.json``, ``compression.json``, ``training.json`` and
            ``lineage.json``.

    Raises:
        ConfigError: A name is none of these.
        DataError: The folder or file does not exist, or holds none of them.
        FormatError: A file is damaged or of another format.
    """
    paths = {**_given(source), **{name: path for name, path in version.reports.items() if name in (*_ROWS, *_TREES)}}
    rows = {name: Report.load(paths[name]) for name in _ROWS if name in paths}
    trees = {name: _tree(paths[name], wanted) for name, wanted in _TREES.items() if name in paths}
    return Reports(**{name.removesuffix(".json"): content for name, content in {**rows, **trees}.items()})  # type: ignore[arg-type]


def texts_for(given: Mapping[str, Texts], name: str, table: FeatureTable, what: str) -> dict[Any, str]:
    """Return the text of each id of a table: those given under its name, or under its entity type; else none.

    Where a file has an id several times, its first text stays.

    Raises:
        DataError: None of the ids given is in the table, or a column is missing.
    """
    key = name if name in given else table.entity
    if key not in given:
        return {}
    source = given[key]
    if isinstance(source, Mapping):
        texts = {_plain(id_): str(text) for id_, text in source.items() if not pd.isna(text)}
    else:
        texts = _from_file(source, table.id_type == "int64", f"{what} of {key!r}")
    texts = {id_: text for id_, text in texts.items() if text.strip()}
    if texts and table.count and not (table.rows(list(texts)) >= 0).any():
        theirs, ours = list(texts)[:3], table.ids_at(np.arange(min(3, table.count))).to_pylist()
        raise DataError(
            f"{what} of {key!r}: none of the {len(texts)} ids is in the table {name!r}: {theirs}, its own {ours}"
        )
    return texts


def check_texts(given: Mapping[str, Texts], version: Version, what: str) -> None:
    """Refuse names or labels of what the version does not have."""
    known = {*version.tables, *(entry.entity for entry in version.tables.values())}
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{what} of {key!r}: version {version.name!r} has no such table or type; {closest(key, known)}"
            )


def _given(source: str | Path | Mapping[str, str | Path] | None) -> dict[str, Path]:
    """Return paths by the names of reports."""
    known = (*_ROWS, *_TREES)
    if source is None:
        return {}
    if isinstance(source, Mapping):
        for name in source:
            if name not in known:
                raise ConfigError(f"reports: {name!r} is no report that the page reads; {closest(name, known)}")
        return {name: Path(path) for name, path in source.items()}
    path = Path(source)
    if path.is_file():
        return {_kind(path): path}
    found = {name: path / name for name in known if (path / name).is_file()}
    if not found:
        raise DataError(f"reports: {path} is no file, and no folder that holds one of {', '.join(known)}")
    return found


def _kind(path: Path) -> str:
    """Return the name under which a report file belongs: its own, or what its metrics say."""
    if path.name in (*_ROWS, *_TREES):
        return path.name
    metrics = {result.metric for result in Report.load(path).results}
    if "compression" in metrics:
        return "compression.json"
    return "drift.json" if any("l2" in metric or "procrustes" in metric for metric in metrics) else "benchmarks.json"


def _tree(path: Path, wanted: str) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is not JSON: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != wanted:
        raise FormatError(f"{path} is of format {found!r}, not {wanted!r}")
    known = {key: value for key, value in content.items() if value is not None}
    for key, fits in _PARTS.items():
        if key in known and not fits(known[key]):
            raise FormatError(f"{path}: {key!r} is {str(known[key])[:80]!r}, which {wanted} does not hold")
    return known


def _is_epoch(record: Any) -> bool:
    epoch, losses = (record.get("epoch"), record.get("losses")) if isinstance(record, dict) else ("", None)
    return (epoch is None or _is_number(epoch)) and isinstance(losses, dict | None)


def _is_step(step: Any) -> bool:
    return isinstance(step, dict) and (step.get("seconds") is None or _is_number(step["seconds"]))


def _is_input(entry: Any) -> bool:
    return isinstance(entry, dict) and _is_number(entry.get("bytes", 0))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


_PARTS: dict[str, Callable[[Any], bool]] = {
    "networks": lambda networks: (
        isinstance(networks, dict)
        and all(isinstance(epochs, list) and all(map(_is_epoch, epochs)) for epochs in networks.values())
    ),
    "config": lambda config: isinstance(config, dict),
    "code": lambda code: isinstance(code, dict),
    "inputs": lambda inputs: isinstance(inputs, dict) and all(map(_is_input, inputs.values())),
    "steps": lambda steps: isinstance(steps, list) and all(map(_is_step, steps)),
    "gates": lambda gates: isinstance(gates, list) and all(isinstance(gate, dict) for gate in gates),
}


def _from_file(source: str, integers: bool, what: str) -> dict[Any, str]:
    path, columns = _split(source)
    if len(columns) not in (0, 2):
        raise ConfigError(f"{what}: {source!r} names {len(columns)} columns, expected an id and a text: FILE:id,title")
    id_type = "int64" if integers else "string"
    if columns:
        frame = read_frame(path, {"id": columns[0], "text": columns[1]}, ids=("id",), id_type=id_type)  # type: ignore[arg-type]
    else:
        frame = read_frame(path, ids=("id",), id_type=id_type)  # type: ignore[arg-type]
        if "id" not in frame or len(frame.columns) < 2:
            raise DataError(
                f"{what}: {path} has columns {list(frame)}, expected id and a text; or name two: FILE:id,title"
            )
        frame = frame.rename(columns={next(name for name in frame if name != "id"): "text"})
    frame = frame.dropna(subset=["text"]).drop_duplicates("id")
    return dict(zip(frame["id"].tolist(), map(_text, frame["text"].tolist()), strict=True))


def _split(source: str) -> tuple[str, list[str]]:
    """Split ``FILE:id,title``; a drive letter's colon is none of ours."""
    path, colon, columns = source.rpartition(":")
    if not colon or "," not in columns:
        return source, []
    return path, [column.strip() for column in columns.split(",")]


def _text(value: Any) -> str:
    """Return a cell as people wrote it: a column of integers with a gap was read as floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _plain(id_: Any) -> Any:
    make: Callable[[], Any] | None = getattr(id_, "item", None)
    return id_ if make is None else make()
