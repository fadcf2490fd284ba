"""The TOML file of ``recokit pipeline``: the keys of ``recokit pretrain``, and tables of its own.

Strings may hold ``{date}``, the day that the version is of (in UTC), and ``{date-90}``, so many days before it: one
file describes every night. Who else reads a table is named there: ``[[benchmark]]`` is checked by ``recokit.probes``.
"""

__all__ = ["PipelineSettings", "load_pipeline"]

import dataclasses
import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pretrain.config import TrainConfig, check_choice
from pretrain.pipeline.gate_tables import read_gates
from pretrain.pipeline.gates import Gate
from pretrain.pipeline.tables import (
    Drifts,
    Publication,
    Quantization,
    Selection,
    read_drift,
    read_publish,
    read_quantize,
    read_selection,
    tables_of,
    types_of,
)
from pretrain.pipeline.work import Work
from pretrain.settings import Settings, read_settings
from recokit.errors import ConfigError
from recokit.table.folder import check_name
from recokit.toml_file import TomlFile

_OWN = ("work", "start", "selection", "warm", "benchmark", "gate", "drift", "quantize", "publish")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DATE = re.compile(r"\{date(?:([+-])([0-9]+))?\}")


@dataclasses.dataclass(frozen=True)
class PipelineSettings:
    """What a configuration file asks for.

    Attributes:
        file: The file, dates filled in.
        template: Its content as it was written.
        date: The day that the version is of.
        version: Its name.
        store: The store: an absolute path, or a URL.
        work: The folder that the pipeline works in.
        previous: ``"latest"``, ``"none"``, or a name, an alias or a path.
        start: ``"warm"`` from the previous version, or ``"cold"``: then it is only compared with.
        training: The keys of ``recokit pretrain``.
        warm: Fields of ``TrainConfig`` that differ where training starts from a previous version.
        selection: ``[selection]``.
        benchmarks: The ``[[benchmark]]`` tables as they were written.
        gates: The ``[[gate]]`` tables.
        drift: ``[drift]``.
        quantize: ``[quantize]``; None for no codes.
        publish: ``[publish]``.
    """

    file: TomlFile
    template: Mapping[str, Any]
    date: date
    version: str
    store: str
    work: Path
    previous: str
    start: Literal["warm", "cold"]
    training: Settings
    warm: Mapping[str, Any]
    selection: Selection
    benchmarks: tuple[Mapping[str, Any], ...]
    gates: tuple[Gate, ...]
    drift: Drifts
    quantize: Quantization | None
    publish: Publication

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self.file.path.parent.absolute()


def load_pipeline(
    path: str | Path, *, version: str | None = None, day: date | None = None, work: str | Path | None = None
) -> PipelineSettings:
    """Read the configuration of a pipeline.

    Args:
        path: The file; its relative paths start at its own folder.
        version: The version to make, in place of the file's.
        day: What ``{date}`` stands for; today in UTC, where it is not given.
        work: The folder to work in, in place of the file's.

    Raises:
        ConfigError: The file cannot be read, or a key or value is wrong; the message starts with file and line.
    """
    written = TomlFile.read(path)
    given, day = day, day or datetime.now(UTC).date()
    file = dataclasses.replace(written, content=_dated(written, written.content, day))
    content = dict(file.content)
    _check_numbers(file, content, "")
    named = _text(file, content, "version") if version is None else check_name(version, "--version")
    folder = Path(work).absolute() if work is not None else _work(file, content)
    begun = Work(folder).run(named).get("date", day.isoformat())
    if given is None and begun != day.isoformat():  # a version that was begun yesterday stays yesterday's
        return load_pipeline(path, version=named, day=date.fromisoformat(begun), work=work)
    if named == "latest":
        raise ConfigError("a version cannot be called 'latest': that is what a store calls its newest one")
    store = _text(file, content, "output")
    if not _URL.match(store):
        store = str(file.path.parent.absolute() / store)
        if Path(store).exists() and not Path(store).is_dir():
            raise file.error("", "output", f"output is {content['output']!r}, which is a file, expected a folder")
    # What a training run alone would take as folders is the store's to find here.
    own = {"version": named, "output": "store"}
    plain = {key: value for key, value in content.items() if key != "previous"}
    training = read_settings(dataclasses.replace(file, content={**plain, **own}), more=_OWN)
    if training.tune:
        raise file.error(
            "tune", None, "a pipeline tunes nothing: `recokit pretrain` does, and its choice goes into [train]"
        )
    return PipelineSettings(
        file=file,
        template=dict(written.content),
        date=day,
        version=named,
        store=store,
        work=folder,
        previous=_text(file, content, "previous") if "previous" in content else "latest",
        start=_start(file, content),
        training=training,
        warm=_warm(file, training.train),
        selection=read_selection(file, training),
        benchmarks=tuple(file.rows("benchmark")),
        gates=read_gates(
            file,
            entities=types_of(training),
            tables=tables_of(training),
            relations=[relation.name for relation in training.relations],
        ),
        drift=read_drift(file),
        quantize=read_quantize(file, training) if "quantize" in content else None,
        publish=read_publish(file, named, tables_of(training)),
    )


def _dated(file: TomlFile, value: Any, day: date) -> Any:
    """Fill the date into all strings of a document."""
    if isinstance(value, str):
        return _DATE.sub(lambda found: _day(file, found, day).isoformat(), value)
    if isinstance(value, Mapping):
        return {key: _dated(file, each, day) for key, each in value.items()}
    return [_dated(file, each, day) for each in value] if isinstance(value, list) else value


def _day(file: TomlFile, found: re.Match[str], day: date) -> date:
    try:
        return day + timedelta(days=int(f"{found[1] or '+'}{found[2] or 0}"))
    except OverflowError:
        line = next((at for at, text in enumerate(file.lines, start=1) if found[0] in text), 1)
        raise ConfigError(f"{file.path}:{line}: {found[0]} is in no year from 1 to 9999") from None


def _check_numbers(file: TomlFile, table: Mapping[str, Any], section: str, number: int | None = None) -> None:
    """Refuse nan and inf, which keys and lineages have no text for."""
    for key, value in table.items():
        inner = f"{section}.{key}" if section else key
        if isinstance(value, Mapping):
            _check_numbers(file, value, inner)
        rows = value if isinstance(value, list) else []
        for at, row in enumerate(rows):
            if isinstance(row, Mapping):
                _check_numbers(file, row, inner, at)
        if any(isinstance(each, float) and not math.isfinite(each) for each in (value, *rows)):
            raise file.error(section, key, f"{key} is {value!r}, expected finite numbers", number)


def _text(file: TomlFile, content: Mapping[str, Any], key: str) -> str:
    if key not in content:
        raise ConfigError(f"{file.path}: {key!r} is missing")
    if not isinstance(content[key], str) or not content[key]:
        raise file.error("", key, f"{key} must be a non-empty string, got {content[key]!r}")
    return str(content[key])


def _work(file: TomlFile, content: Mapping[str, Any]) -> Path:
    name = _text(file, content, "work") if "work" in content else f".{file.path.stem}.pipeline"
    return file.path.parent.absolute() / name


def _start(file: TomlFile, content: Mapping[str, Any]) -> Literal["warm", "cold"]:
    start: Literal["warm", "cold"] = content.get("start", "warm")
    with file.at("", "start"):
        check_choice("a pipeline", "start", start, ("warm", "cold"))
    return start


def _warm(file: TomlFile, train: TrainConfig) -> dict[str, Any]:
    fields = tuple(field.name for field in dataclasses.fields(TrainConfig))
    table = file.content.get("warm", {})
    if not isinstance(table, dict):
        raise file.error("", "warm", f"[warm] must be a table, got {table!r}")
    file.check_keys(table, fields, "warm")
    with file.at("warm", tuple(table)):
        warm = dataclasses.replace(train, **table)
    for key in ("dim", "components"):
        if getattr(warm, key) != getattr(train, key):
            message = (
                f"{key} is {getattr(warm, key)} here and {getattr(train, key)} in [train]: vectors keep their shape"
            )
            raise file.error("warm", key, message)
    return table
