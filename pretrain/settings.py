"""The TOML file of ``recokit pretrain``: read, checked, every complaint with its line.

Unknown keys are errors that name the nearest known one: a typing error must not become a default.
"""

__all__ = ["Settings", "load_settings", "read_settings"]

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path
from typing import Any, get_args

from pretrain.config import Relation, TrainConfig, check_choice
from pretrain.graph import Graph, Unknown, check_seed
from pretrain.tune import check_space
from recokit.errors import ConfigError, closest
from recokit.table.folder import check_name, local_path
from recokit.table.version import check_table_name
from recokit.toml_file import Kinds, TomlFile

_TOP = (
    "version",
    "output",
    "previous",
    "triples",
    "relation",
    "network",
    "entity",
    "train",
    "split",
    "validation",
    "tune",
)
_RELATION = tuple(field.name for field in dataclasses.fields(Relation))
_TRAIN = tuple(field.name for field in dataclasses.fields(TrainConfig))
_COLUMNS = 'a table such as { source = "a_column" }'
_TRIPLES: Kinds = {
    "path": (str, "a path"),
    "columns": (dict, _COLUMNS),
    "header": (bool, "true or false"),
    "entity": (str, "the name of an entity type"),
    "unknown": (str, "a string"),
}
_ENTITY: Kinds = {
    "min_count": (int, "a whole number of at least 1"),
    "alpha": ((int, float), "a number of at least 0"),
}
_SPLIT: Kinds = {
    "fraction": (float, "a number between 0 and 1"),
    "at": ((str, int, float, date), "a date or a number"),
    "seed": (int, "a whole number"),
}
_TUNE: Kinds = {
    "trials": (int, "a whole number of at least 1"),
    "seconds": ((int, float), "a number above 0"),
    "metric": (str, "the name of a metric"),
    "space": (dict, "a table [tune.space]"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a configuration file asks for.

    Attributes:
        version: Name of the version to export.
        output: The store, a folder of versions.
        relations: The relations of the network; empty where triples alone say them.
        paths: Relation to its edge files, a glob of Parquet or CSV.
        columns: Relation to the names of its columns.
        min_count: Entity type to the number of edges that an entity needs.
        train: The settings of the run.
        split: ``fraction`` (and ``seed``) or ``at``: edges to hold out and evaluate on; empty for none.
        triples: The arguments of ``Graph.from_triples``, where one file holds all relations; else empty.
        previous: An earlier version or model folder to start from.
        alpha: Entity type to how strongly its vectors are held to the previous ones.
        validation: As ``split``, of the edges that are left then: edges to choose settings and epochs on.
        networks: Network to its relations; empty where all relations are one network.
        tune: ``trials``, ``seconds``, ``metric`` and ``space`` (field of TrainConfig to a list of choices or to
            ``low``, ``high``[, ``log``]); empty for none.
    """

    version: str
    output: Path
    relations: tuple[Relation, ...]
    paths: Mapping[str, Path]
    columns: Mapping[str, Mapping[str, str]]
    min_count: Mapping[str, int]
    train: TrainConfig
    split: Mapping[str, Any]
    triples: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    previous: Path | None = None
    alpha: Mapping[str, float] = dataclasses.field(default_factory=dict)
    validation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    networks: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    tune: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def graph(self) -> Graph:
        """Read the network."""
        if not self.triples:
            return Graph.from_files(self.paths, self.relations, columns=self.columns, min_count=self.min_count)
        graph = Graph.from_triples(**self.triples, min_count=self.min_count)
        for name in self.networks:
            _check_network(name, self.networks, graph.relations)
        return graph


def load_settings(path: str | Path) -> Settings:
    """Read a configuration file; its relative paths start at its own folder.

    Raises:
        ConfigError: The file cannot be read, or a key or value is wrong; the message starts with file and line.
    """
    file = TomlFile.read(path)
    return read_settings(file)


def read_settings(file: TomlFile, *, more: Collection[str] = ()) -> Settings:
    """Check the content of a configuration file, as ``load_settings`` does.

    Args:
        file: The file as it was read.
        more: Keys and tables that stand beside those of a training run and are for others to check.
    """
    return _Reading(file).settings(dict(file.content), more)


class _Reading:
    """One file on its way to ``Settings``; knows where each key stands."""

    def __init__(self, file: TomlFile) -> None:
        self.path = file.path
        self._error, self._check_keys = file.error, file.check_keys
        self._file = file

    def settings(self, content: dict[str, Any], more: Collection[str] = ()) -> Settings:
        self._check_keys(content, (*_TOP, *more), "")
        needed = ("version", "output") if "triples" in content else ("version", "output", "relation")
        for key in needed:
            if key not in content:
                raise ConfigError(f"{self.path}: {key!r} is missing")
        with self._at("", "version"):
            check_name(self._text(content, "version"), "version")
        rows = self._rows(content, "relation")
        mixed = "triples" in content
        relations = tuple(self._relation(row, number, mixed) for number, row in enumerate(rows))
        triples = self._triples(content, relations, rows) if mixed else {}
        types = {end for relation in relations for end in (relation.source, relation.target)}
        entities = self._entities(content, types or {triples.get("entity", "entity")})
        train = self._train(content)
        return Settings(
            version=content["version"],
            output=self._path(content, "output"),
            relations=relations,
            paths={} if mixed else {row["name"]: self.path.parent / row["path"] for row in rows},
            columns={} if mixed else {row["name"]: row.get("columns", {}) for row in rows},
            min_count={name: table["min_count"] for name, table in entities.items() if "min_count" in table},
            train=train,
            split=self._split(content, "split"),
            triples=triples,
            previous=self._path(content, "previous") if "previous" in content else None,
            alpha={name: float(table["alpha"]) for name, table in entities.items() if "alpha" in table},
            validation=self._split(content, "validation"),
            networks=self._networks(content, [relation.name for relation in relations]),
            tune=self._tune(content, train),
        )

    def _path(self, content: dict[str, Any], key: str) -> Path:
        with self._at("", key):
            return self.path.parent / local_path(self._text(content, key))

    def _at(
        self, section: str, key: str | Mapping[str, Any], number: int | None = None
    ) -> AbstractContextManager[None]:
        """Say where it stands when something inside refuses a key, or one of a table's keys that its message names."""
        return self._file.at(section, key if isinstance(key, str) else tuple(key), number)

    def _relation(self, row: dict[str, Any], number: int, mixed: bool) -> Relation:
        own = ("id",) if mixed else ("path", "columns")
        self._check_keys(row, (*_RELATION, *own), "relation", number)
        for key in ("name", "source", "target", *own[: not mixed]):
            self._text(row, key, "relation", number)
        if isinstance(row.get("id"), bool) or not isinstance(row.get("id", 0), int | str):
            raise self._error("relation", "id", f"id must be an integer or a string, got {row['id']!r}", number)
        self._check_columns(row, "relation", number)
        for end in ("source", "target"):  # refused now, since a type could not be a folder after the training
            with self._at("relation", end, number):
                check_table_name(row[end], end)
        fields = {key: value for key, value in row.items() if key not in own}
        with self._at("relation", fields, number):
            return Relation(**fields)

    def _triples(
        self, content: dict[str, Any], relations: Sequence[Relation], rows: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        """Return the arguments of ``Graph.from_triples``."""
        table = self._table(content, "triples", _TRIPLES)
        path = self.path.parent / self._text(table, "path", "triples")
        self._check_columns(table, "triples")
        with self._at("triples", "entity"):
            check_table_name(table.get("entity", "entity"), "entity")
        with self._at("triples", "unknown"):
            check_choice("triples", "unknown", table.get("unknown", "refuse"), get_args(Unknown))
        if relations and "entity" in table:
            message = "entity has no use beside [[relation]] tables: these say the types of their ends"
            raise self._error("triples", "entity", message)
        named = {row.get("id", row["name"]): relation for row, relation in zip(rows, relations, strict=True)}
        said = [str(row.get("id", row["name"])) for row in rows]
        for number, row in enumerate(rows):
            if said[number] in said[:number]:
                message = f"two relations are called {said[number]!r} by the triples, expected one"
                raise self._error("relation", "id" if "id" in row else "name", message, number)
        rest = {key: value for key, value in table.items() if key != "path"}
        return {"data": path, **rest} | ({"relations": named} if named else {})

    def _check_columns(self, table: dict[str, Any], section: str, number: int | None = None) -> None:
        columns = table.get("columns", {})
        if not isinstance(columns, dict) or not all(isinstance(name, str) for name in columns.values()):
            raise self._error(section, "columns", f"columns is {columns!r}, expected {_COLUMNS}", number)

    def _train(self, content: dict[str, Any]) -> TrainConfig:
        table = self._table(content, "train")
        self._check_keys(table, _TRAIN, "train")
        with self._at("train", table):
            return TrainConfig(**table)

    def _split(self, content: dict[str, Any], name: str) -> dict[str, Any]:
        split = self._table(content, name, _SPLIT)
        if split and ("fraction" in split) == ("at" in split):
            raise self._error(name, None, "give either fraction or at")
        with self._at(name, "seed"):
            check_seed(split.get("seed", 0))
        return split

    def _entities(self, content: dict[str, Any], types: Collection[str]) -> dict[str, dict[str, Any]]:
        entities = content.get("entity", {})
        if not isinstance(entities, dict) or not all(isinstance(table, dict) for table in entities.values()):
            raise self._error("", "entity", "entity types are written as [entity.NAME] tables")
        for name, table in entities.items():
            section = f"entity.{name}"
            if name not in types:
                raise self._error(section, None, f"no relation has the entity type {name!r}; {closest(name, types)}")
            self._file.check(table, _ENTITY, section)
            for key, low in (("min_count", 1), ("alpha", 0)):
                if not low <= table.get(key, low) < float("inf"):
                    raise self._error(section, key, f"{key} must be {_ENTITY[key][1]}, got {table[key]!r}")
        return entities

    def _networks(self, content: dict[str, Any], relations: Sequence[str]) -> dict[str, tuple[str, ...]]:
        networks: dict[str, tuple[str, ...]] = {}
        rows = self._rows(content, "network")
        for number, row in enumerate(rows):
            self._check_keys(row, ("name", "relations"), "network", number)
            with self._at("network", "name", number):
                name = check_name(self._text(row, "name", "network", number), "name")
            named = row.get("relations")
            if not isinstance(named, list) or not named or not all(isinstance(relation, str) for relation in named):
                message = f"relations must be a list of names of relations, got {named!r}"
                raise self._error("network", "relations", message, number)
            if name in networks:
                raise self._error("network", "name", f"network {name!r} is there twice", number)
            networks[name] = tuple(named)
        for number, name in enumerate(networks if relations else ()):  # else they are known once triples are read
            with self._at("network", "relations", number):
                _check_network(name, networks, relations)
        return networks

    def _tune(self, content: dict[str, Any], train: TrainConfig) -> dict[str, Any]:
        tune = self._table(content, "tune", _TUNE)
        for key in ("trials", "seconds"):
            if not 0 < tune.get(key, 1) < float("inf"):
                raise self._error("tune", key, f"{key} must be {_TUNE[key][1]}, got {tune[key]!r}")
        space = tune.get("space", {})
        with self._at("tune", "metric"):
            base = dataclasses.replace(train, metric=tune.get("metric", train.metric))
        with self._at("tune.space", space):
            check_space(space, base)
        return tune

    def _rows(self, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
        rows = content.get(key, [])
        if (
            not isinstance(rows, list)
            or not all(isinstance(row, dict) for row in rows)
            or not (rows or key not in content)
        ):
            raise self._error(key, None, f"{key}s are written as [[{key}]] tables")
        return rows

    def _table(self, content: dict[str, Any], name: str, kinds: Kinds | None = None) -> dict[str, Any]:
        table = content.get(name, {})
        if not isinstance(table, dict):
            raise self._error("", name, f"[{name}] must be a table, got {table!r}")
        if kinds is not None:
            self._file.check(table, kinds, name)
        return table

    def _text(self, table: Mapping[str, Any], key: str, section: str = "", number: int | None = None) -> str:
        if key not in table:
            raise self._error(section, None, f"{key!r} is missing", number)
        if not isinstance(table[key], str) or not table[key]:
            raise self._error(section, key, f"{key} must be a non-empty string, got {table[key]!r}", number)
        return str(table[key])


def _check_network(name: str, networks: Mapping[str, Sequence[str]], relations: Collection[str]) -> None:
    """Refuse a network of relations that are not there, and networks that leave some out."""
    for relation in networks[name]:
        if relation not in relations:
            raise ConfigError(f"network {name!r} has the relation {relation!r}; {closest(relation, relations)}")
    lost = [relation for relation in relations if not any(relation in named for named in networks.values())]
    if lost:
        raise ConfigError(f"relation {lost[0]!r} is in no network ({len(lost)} of {len(relations)} are in none)")
