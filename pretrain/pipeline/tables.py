"""The tables of a pipeline's configuration that say what is selected, measured, quantized and published.

``[selection]``, ``[drift]``, ``[quantize]`` and ``[publish]``: what they hold, and how they are read and checked, every
complaint with its line. What names a table or an entity type is looked for among those that the training will make.
"""

__all__ = [
    "Drifts",
    "Periods",
    "Publication",
    "Quantization",
    "Selection",
    "page_file",
    "read_drift",
    "read_publish",
    "read_quantize",
    "read_selection",
    "tables_of",
    "types_of",
    "vectors_of",
]

import dataclasses
import re
from collections.abc import Collection, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pretrain.graph import check_seed
from pretrain.settings import Settings
from recokit.errors import ConfigError, closest
from recokit.table.folder import check_name
from recokit.toml_file import Kinds, TomlFile

_LEAST_SWEPT = 8  # the least size that recokit.pq.compression_sweep measures; half the dimensions at most
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
    "codebook": (str, "new or previous"),
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
        codebook: ``"new"`` every night, or the ``"previous"`` version's where it still fits.
        sweep: Measure what other codecs and sizes would cost.
        queries: Of the sweep: rows asked for their neighbours.
    """

    tables: tuple[str, ...] = ()
    sub_quantizers: int | None = None
    codec: str | None = None
    seed: int = 0
    codebook: Literal["new", "previous"] = "new"
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


def read_selection(file: TomlFile, training: Settings) -> Selection:
    """Read ``[selection]``."""
    relations = [relation.name for relation in training.relations]
    types = types_of(training)
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


def read_drift(file: TomlFile) -> Drifts:
    """Read ``[drift]``."""
    table = file.section("drift", _DRIFT)
    _at_least_one(file, table, "drift", ("k", "sample"))
    _check_seed(file, table, "drift")
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


def read_quantize(file: TomlFile, training: Settings) -> Quantization:
    """Read ``[quantize]``."""
    table = file.section("quantize", _QUANTIZE)
    _at_least_one(file, table, "quantize", ("sub_quantizers", "queries"))
    _check_seed(file, table, "quantize")
    if "codec" in table and table["codec"] not in (codecs := ("additive", "opq", "pq")):
        raise file.error("quantize", "codec", f"no codec {table['codec']!r}; {closest(table['codec'], codecs)}")
    if (asked := table.get("codebook", "new")) not in (codebooks := ("new", "previous")):
        raise file.error("quantize", "codebook", f"no codebook {asked!r}; {closest(asked, codebooks)}")
    size, dim = table.get("sub_quantizers", 16), training.train.dim
    divides = table.get("codec", "pq") == "additive" or dim % size == 0
    if size > dim or not divides:
        least = f"at most the dim, {dim}" if size > dim else f"a divisor of the dim, {dim}, or the codec 'additive'"
        said = "sub_quantizers is" if "sub_quantizers" in table else "without sub_quantizers, it is"
        raise file.error("quantize", "sub_quantizers", f"{said} {size}, expected {least}")
    if table.get("sweep") and dim < 2 * _LEAST_SWEPT:
        raise file.error("quantize", "sweep", f"a sweep is of codes of 8 bytes or more, too many for the dim, {dim}")
    names = _names(file, table, "quantize", "tables")
    for name in names:
        if name not in (known := vectors_of(training)):
            raise file.error("quantize", "tables", f"there will be no table {name!r}; {closest(name, known)}")
    return Quantization(**{**table, "tables": names})


def read_publish(file: TomlFile, version: str, tables: Collection[str]) -> Publication:
    """Read ``[publish]``, of a version of this name with these tables."""
    table = file.section("publish", _PUBLISH)
    _at_least_one(file, table, "publish", ("keep",))
    aliases = _names(file, table, "publish", "aliases")
    with file.at("publish", "aliases"):
        for alias in aliases:
            check_name(alias, "an alias")
            if alias in ("latest", version):
                what = "what a store calls its newest version" if alias == "latest" else "what the version is called"
                raise ConfigError(f"an alias cannot be called {alias!r}: that is {what}")
    for key in ("names", "labels"):
        for entity, path in table.get(key, {}).items():
            if entity not in tables:
                message = f"{key} are given of {entity!r}; {closest(entity, tables)}"
                raise file.error("publish", key, message)
            if not isinstance(path, str):
                raise file.error("publish", key, f"{key} of {entity!r} is {path!r}, expected a file")
            if not page_file(file.path.parent.absolute(), path).is_file():
                raise file.error("publish", key, f"there is no file {path!r}, whose {key} {entity!r} would get")
    return Publication(**{**table, "aliases": aliases})


def page_file(folder: Path, text: str) -> Path:
    """Return the file of ``movies.csv:id,title``, whose columns may stand behind it."""
    return folder / re.sub(r":[^:/\\]*$", "", text)


def types_of(training: Settings) -> list[str]:
    """Return the entity types of a training."""
    ends = dict.fromkeys(end for each in training.relations for end in (each.source, each.target))
    return list(ends) or [str(training.triples.get("entity", "entity"))]


def tables_of(training: Settings) -> list[str]:
    """Return what tables are called by: entity types, what networks call theirs, and components of mixtures."""
    types = types_of(training)
    names = [*types, *(f"{entity}-{network}" for entity in types for network in training.networks)]
    return [*names, *(name for name in vectors_of(training) if name not in names)]


def _tables(file: TomlFile, table: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    tables = table.get(key, {})
    if not isinstance(tables, dict) or not all(isinstance(each, dict) for each in tables.values()):
        raise file.error("selection", key, f"rules of a {key} are written as [selection.{key}.NAME] tables")
    return tables


def _periods(file: TomlFile, table: Mapping[str, Any], section: str, default: Periods) -> Periods:
    file.check(table, _PERIOD, section)
    _at_least_one(file, table, section, ("max_edges",))
    return dataclasses.replace(default, **table)


def vectors_of(training: Settings) -> dict[str, str]:
    """Return the entity type of each table of vectors, by its name; a mixture has one of its components."""
    several = {each for each in types_of(training) if training.train.components_of(each) > 1}
    networks = list(training.networks) or [""]
    tables = [(each, f"{each}-{network}" if network else each) for each in types_of(training) for network in networks]
    return {f"{table}-components" if entity in several else table: entity for entity, table in tables}


def _names(file: TomlFile, table: Mapping[str, Any], section: str, key: str) -> tuple[str, ...]:
    names = table.get(key, [])
    if not all(isinstance(name, str) and name for name in names):
        raise file.error(section, key, f"{key} is {names!r}, expected a list of names")
    return tuple(names)


def _check_seed(file: TomlFile, table: Mapping[str, Any], section: str) -> None:
    with file.at(section, "seed"):
        check_seed(table.get("seed", 0))


def _at_least_one(file: TomlFile, table: Mapping[str, Any], section: str, keys: Collection[str]) -> None:
    for key in keys:
        if key in table and table[key] < 1:
            raise file.error(section, key, f"{key} must be at least 1, got {table[key]!r}")
