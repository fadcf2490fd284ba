"""The TOML file of ``recokit pipeline``: the keys of ``recokit pretrain``, and tables of its own.

Strings may hold ``{date}``, the day that the version is of (in UTC), and ``{date-90}``, so many days before it: one
file describes every night. Who else reads a table is named there: ``[[benchmark]]`` is checked by ``recokit.probes``.
"""

__all__ = [
    "Drifts",
    "Periods",
    "PipelineSettings",
    "Publication",
    "Quantization",
    "Selection",
    "load_pipeline",
    "page_file",
]

import dataclasses
import re
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pretrain.config import TrainConfig, check_choice
from pretrain.pipeline.gate_tables import read_gates
from pretrain.pipeline.gates import Gate
from pretrain.pipeline.work import Work
from pretrain.settings import Settings, read_settings
from recokit.errors import ConfigError, closest
from recokit.table.folder import check_name
from recokit.toml_file import Kinds, TomlFile

_OWN = ("work", "start", "selection", "warm", "benchmark", "gate", "drift", "quantize", "publish")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DATE = re.compile(r"\{date(?:([+-])([0-9]+))?\}")
_TIME: tuple[tuple[type, ...], str] = ((str, int, float, date), "a date or a number")
_PERIOD: Kinds = {"since": _TIME, "until": _TIME, "max_edges": (int, "a whole number of at least 1")}
_IDS: Kinds = {"keep": (str, "a file of ids"), "drop": (str, "a file of ids")}
_DRIFT: Kinds = {
    "k": (int, "a whole number of at least 1"),
    "sample": (int, "a whole number of at least 1"),
    "seed": (int, "a whole number"),
    "ranker": (str, "the folder of a ranker"),
    "impressions": (str, "a file of impressions"),
}
_QUANTIZE: Kinds = {
    "tables": (list, "a list of tables"),
    "sub_quantizers": (int, "a whole number of at least 1"),
    "codec": (str, "pq, opq or additive"),
    "seed": (int, "a whole number"),
    "sweep": (bool, "true or false"),
    "queries": (int, "a whole number of at least 1"),
}
_PUBLISH: Kinds = {
    "aliases": (list, "a list of names"),
    "keep": (int, "a whole number of at least 1"),
    "page": (bool, "true or false"),
    "names": (dict, 'a table such as { movie = "movies.csv" }'),
    "labels": (dict, 'a table such as { movie = "genres.csv" }'),
}


@dataclasses.dataclass(frozen=True)
class Periods:
    """Which edges of a relation are used.

    Attributes:
        since: Those at or after this time; a date, or a number as the column has them.
        until: Those before this time.
        max_edges: Of each source so many, the newest; without times the last.
    """

    since: str | float | date | None = None
    until: str | float | date | None = None
    max_edges: int | None = None


@dataclasses.dataclass(frozen=True)
class Selection:
    """What gets a vector: ``[selection]``.

    Attributes:
        periods: Of relations that have rules of their own, by name.
        default: Of all others.
        keep: Entity type to a file of the only ids that are used.
        drop: Entity type to a file of ids that are not.
    """

    periods: Mapping[str, Periods] = dataclasses.field(default_factory=dict)
    default: Periods = Periods()
    keep: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    drop: Mapping[str, Path] = dataclasses.field(default_factory=dict)

    def of(self, relation: str) -> Periods:
        """Return the rules of a relation."""
        return self.periods.get(relation, self.default)


@dataclasses.dataclass(frozen=True)
class Drifts:
    """How the drift against the previous version is measured: ``[drift]``; see ``recokit.drift``."""

    k: int = 10
    sample: int = 2000
    seed: int = 0
    ranker: Path | None = None
    impressions: Path | None = None


@dataclasses.dataclass(frozen=True)
class Quantization:
    """Which tables get codes too: ``[quantize]``.

    Attributes:
        tables: Their names; none for all tables of vectors.
        sub_quantizers: Bytes of a row.
        codec: ``"pq"``, ``"opq"`` or ``"additive"``.
        seed: Of the codebooks and of the sweep.
        sweep: Measure what other codecs and sizes would cost.
        queries: Of the sweep: rows asked for their neighbours.
    """

    tables: tuple[str, ...] = ()
    sub_quantizers: int | None = None
    codec: str | None = None
    seed: int = 0
    sweep: bool = False
    queries: int = 1000


@dataclasses.dataclass(frozen=True)
class Publication:
    """What happens to a version that passes: ``[publish]``.

    Attributes:
        aliases: Names in the store that it gets.
        keep: How many versions stay; older ones are retired.
        page: Write a report page into it.
        names: Entity type to a file of ids and names, for the page.
        labels: Entity type to a file of ids and labels, for the page.
    """

    aliases: tuple[str, ...] = ()
    keep: int | None = None
    page: bool = True
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


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
    file = dataclasses.replace(written, content=_dated(written.content, day))
    content = dict(file.content)
    named = _text(file, content, "version") if version is None else check_name(version, "--version")
    folder = Path(work).absolute() if work is not None else _work(file, content)
    begun = Work(folder).run(named).get("date", day.isoformat())
    if given is None and begun != day.isoformat():  # a version that was begun yesterday stays yesterday's
        return load_pipeline(path, version=named, day=date.fromisoformat(begun), work=work)
    store = _text(file, content, "output")
    if not _URL.match(store):
        store = str(file.path.parent.absolute() / store)
    # What a training run alone would take as folders is the store's to find here.
    own = {"version": named, "output": "store"}
    plain = {key: value for key, value in content.items() if key != "previous"}
    training = read_settings(dataclasses.replace(file, content={**plain, **own}), more=_OWN)
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
        selection=_selection(file, training),
        benchmarks=tuple(file.rows("benchmark")),
        gates=read_gates(file),
        drift=_drift(file),
        quantize=_quantize(file) if "quantize" in content else None,
        publish=_publish(file),
    )


def _dated(value: Any, day: date) -> Any:
    """Fill the date into all strings of a document."""
    if isinstance(value, str):
        return _DATE.sub(lambda found: (day + _days(found)).isoformat(), value)
    if isinstance(value, Mapping):
        return {key: _dated(each, day) for key, each in value.items()}
    return [_dated(each, day) for each in value] if isinstance(value, list) else value


def _days(found: re.Match[str]) -> timedelta:
    return timedelta(days=int(f"{found[1] or '+'}{found[2] or 0}"))


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
        dataclasses.replace(train, **table)
    return table


def _selection(file: TomlFile, training: Settings) -> Selection:
    relations = [relation.name for relation in training.relations]
    types = {end for each in training.relations for end in (each.source, each.target)}
    types = types or {str(training.triples.get("entity", "entity"))}
    table = dict(file.content.get("selection", {}) or {})
    named = {key: _tables(file, table, key) for key in ("relation", "entity")}
    rest = {key: value for key, value in table.items() if key not in named}
    known = (*_PERIOD, *named)
    file.check_keys(table, known, "selection")
    default = _periods(file, rest, "selection", Periods())
    periods = {}
    for name, rules in named["relation"].items():
        section = f"selection.relation.{name}"
        if relations and name not in relations:
            raise file.error(section, None, f"there is no relation {name!r}; {closest(name, relations)}")
        periods[name] = _periods(file, rules, section, default)
    files: dict[str, dict[str, Path]] = {"keep": {}, "drop": {}}
    for name, rules in named["entity"].items():
        section = f"selection.entity.{name}"
        if name not in types:
            raise file.error(section, None, f"no relation has the entity type {name!r}; {closest(name, types)}")
        file.check(rules, _IDS, section)
        for key, value in rules.items():
            files[key][name] = file.path.parent.absolute() / value
            if not files[key][name].is_file():
                raise file.error(section, key, f"there is no file {files[key][name]}")
    return Selection(periods, default, files["keep"], files["drop"])


def _tables(file: TomlFile, table: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    tables = table.get(key, {})
    if not isinstance(tables, dict) or not all(isinstance(each, dict) for each in tables.values()):
        raise file.error("selection", key, f"rules of a {key} are written as [selection.{key}.NAME] tables")
    return tables


def _periods(file: TomlFile, table: Mapping[str, Any], section: str, default: Periods) -> Periods:
    file.check(table, _PERIOD, section)
    _at_least_one(file, table, section, ("max_edges",))
    return dataclasses.replace(default, **table)


def _drift(file: TomlFile) -> Drifts:
    table = file.section("drift", _DRIFT)
    _at_least_one(file, table, "drift", ("k", "sample"))
    if ("ranker" in table) != ("impressions" in table):
        missing = "impressions" if "ranker" in table else "ranker"
        raise file.error("drift", None, f"{missing!r} is missing: a ranker's scores need both")
    paths: dict[str, Any] = {
        key: file.path.parent.absolute() / table[key] for key in ("ranker", "impressions") if key in table
    }
    for key, path in paths.items():
        if not path.exists():
            raise file.error("drift", key, f"there is no {path}")
    return Drifts(**{**table, **paths})


def _quantize(file: TomlFile) -> Quantization:
    table = file.section("quantize", _QUANTIZE)
    _at_least_one(file, table, "quantize", ("sub_quantizers", "queries"))
    if "codec" in table and table["codec"] not in (codecs := ("additive", "opq", "pq")):
        raise file.error("quantize", "codec", f"no codec {table['codec']!r}; {closest(table['codec'], codecs)}")
    return Quantization(**{**table, "tables": _names(file, table, "quantize", "tables")})


def _publish(file: TomlFile) -> Publication:
    table = file.section("publish", _PUBLISH)
    _at_least_one(file, table, "publish", ("keep",))
    aliases = _names(file, table, "publish", "aliases")
    with file.at("publish", "aliases"):
        for alias in aliases:
            check_name(alias, "an alias")
    for key in ("names", "labels"):
        for entity, path in table.get(key, {}).items():
            if not isinstance(path, str):
                raise file.error("publish", key, f"{key} of {entity!r} is {path!r}, expected a file")
            if not page_file(file.path.parent.absolute(), path).is_file():
                raise file.error("publish", key, f"there is no file {path!r}, whose {key} {entity!r} would get")
    return Publication(**{**table, "aliases": aliases})


def page_file(folder: Path, text: str) -> Path:
    """Return the file of ``movies.csv:id,title``, whose columns may stand behind it."""
    return folder / re.sub(r":[^:/\\]*$", "", text)


def _names(file: TomlFile, table: Mapping[str, Any], section: str, key: str) -> tuple[str, ...]:
    names = table.get(key, [])
    if not all(isinstance(name, str) and name for name in names):
        raise file.error(section, key, f"{key} is {names!r}, expected a list of names")
    return tuple(names)


def _at_least_one(file: TomlFile, table: Mapping[str, Any], section: str, keys: Collection[str]) -> None:
    for key in keys:
        if key in table and table[key] < 1:
            raise file.error(section, key, f"{key} must be at least 1, got {table[key]!r}")
