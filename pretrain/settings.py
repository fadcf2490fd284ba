"""The TOML file of ``recokit pretrain``: read, checked, every complaint with its line.

Unknown keys are errors that name the nearest known one: a typing error must not become a default.
"""

__all__ = ["Settings", "load_settings"]

import dataclasses
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from pretrain.config import Relation, TrainConfig
from pretrain.graph import Graph
from recokit.errors import ConfigError, RecokitError, closest
from recokit.table.folder import check_name, local_path
from recokit.table.version import check_table_name

_TOP = ("version", "output", "relation", "entity", "train", "split")
_RELATION = (*(field.name for field in dataclasses.fields(Relation)), "path", "columns")
_ENTITY = ("min_count",)
_SPLIT: dict[str, type | tuple[type, ...]] = {"fraction": float, "at": (str, int, float, date), "seed": int}
_SAID = {"fraction": "a number between 0 and 1", "at": "a date or a number", "seed": "a whole number"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a configuration file asks for.

    Attributes:
        version: Name of the version to export.
        output: The store, a folder of versions.
        relations: The relations of the network.
        paths: Relation to its edge files, a glob of Parquet or CSV.
        columns: Relation to the names of its columns.
        min_count: Entity type to the number of edges that an entity needs.
        train: The settings of the run.
        split: ``fraction`` (and ``seed``) or ``at``: edges to hold out and evaluate on; empty for none.
    """

    version: str
    output: Path
    relations: tuple[Relation, ...]
    paths: Mapping[str, Path]
    columns: Mapping[str, Mapping[str, str]]
    min_count: Mapping[str, int]
    train: TrainConfig
    split: Mapping[str, Any]

    def graph(self) -> Graph:
        """Read the network."""
        return Graph.from_files(self.paths, self.relations, columns=self.columns, min_count=self.min_count)


def load_settings(path: str | Path) -> Settings:
    """Read a configuration file; its relative paths start at its own folder.

    Raises:
        ConfigError: The file cannot be read, or a key or value is wrong; the message starts with file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return _Reading(path, text).settings(content)


class _Reading:
    """One file on its way to ``Settings``; knows where each key stands."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.lines = path, text.split("\n")

    def settings(self, content: dict[str, Any]) -> Settings:
        self._check_keys(content, _TOP, "")
        for key in ("version", "output", "relation"):
            if key not in content:
                raise ConfigError(f"{self.path}: {key!r} is missing")
        rows = content["relation"]
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            raise self._error("relation", None, "relations are written as [[relation]] tables")
        relations, paths, columns = [], {}, {}
        for number, row in enumerate(rows):
            relation = self._relation(row, number)
            relations.append(relation)
            paths[relation.name] = self.path.parent / self._text(row, "path", "relation", number)
            columns[relation.name] = self._columns(row, number)
        self._check_names(content, rows)
        split = self._table(content, "split", tuple(_SPLIT))
        if split and ("fraction" in split) == ("at" in split):
            raise self._error("split", None, "give either fraction or at")
        for key, kinds in _SPLIT.items():
            if key in split and (isinstance(split[key], bool) or not isinstance(split[key], kinds)):
                raise self._error("split", key, f"{key} is {split[key]!r}, expected {_SAID[key]}")
        return Settings(
            version=content["version"],
            output=self.path.parent / content["output"],
            relations=tuple(relations),
            paths=paths,
            columns=columns,
            min_count=self._min_counts(content.get("entity", {})),
            train=self._train(content),
            split=split,
        )

    def _check_names(self, content: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """Refuse now what could not be a folder after the training: the version, the store, the entity types."""
        with self._at("", "version"):
            check_name(self._text(content, "version"), "version")
        with self._at("", "output"):
            local_path(self._text(content, "output"))
        for number, row in enumerate(rows):
            for end in ("source", "target"):
                with self._at("relation", end, number):
                    check_table_name(row[end], end)

    @contextmanager
    def _at(self, section: str, key: str | Mapping[str, Any], number: int | None = None) -> Iterator[None]:
        """Say where it stands when something inside refuses a key, or one of a table's keys that its message names."""
        try:
            yield
        except RecokitError as error:
            named = key if isinstance(key, str) else self._named_key(str(error), key)
            raise self._error(section, named, str(error), number) from error

    def _relation(self, row: dict[str, Any], number: int) -> Relation:
        self._check_keys(row, _RELATION, "relation", number)
        for key in ("name", "source", "target", "path"):
            self._text(row, key, "relation", number)
        fields = {key: value for key, value in row.items() if key not in ("path", "columns")}
        with self._at("relation", fields, number):
            return Relation(**fields)

    def _columns(self, row: dict[str, Any], number: int) -> dict[str, str]:
        columns = row.get("columns", {})
        if not isinstance(columns, dict) or not all(isinstance(name, str) for name in columns.values()):
            raise self._error("relation", "columns", 'columns are written as { source = "a_column" }', number)
        return columns

    def _train(self, content: dict[str, Any]) -> TrainConfig:
        table = self._table(content, "train", [field.name for field in dataclasses.fields(TrainConfig)])
        with self._at("train", table):
            return TrainConfig(**table)

    def _min_counts(self, entities: Any) -> dict[str, int]:
        counts = {}
        if not isinstance(entities, dict) or not all(isinstance(table, dict) for table in entities.values()):
            raise self._error("", "entity", "entity types are written as [entity.NAME] tables")
        for name, table in entities.items():
            self._check_keys(table, _ENTITY, f"entity.{name}")
            count = table.get("min_count", 1)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                message = f"min_count must be a whole number of at least 1, got {count!r}"
                raise self._error(f"entity.{name}", "min_count", message)
            counts[name] = count
        return counts

    def _table(self, content: dict[str, Any], name: str, known: Sequence[str]) -> dict[str, Any]:
        table = content.get(name, {})
        if not isinstance(table, dict):
            raise self._error("", name, f"[{name}] must be a table, got {table!r}")
        self._check_keys(table, known, name)
        return table

    def _text(self, table: Mapping[str, Any], key: str, section: str = "", number: int | None = None) -> str:
        if key not in table:
            raise self._error(section, None, f"{key!r} is missing", number)
        if not isinstance(table[key], str) or not table[key]:
            raise self._error(section, key, f"{key} must be a non-empty string, got {table[key]!r}", number)
        return str(table[key])

    def _check_keys(
        self, table: Mapping[str, Any], known: Sequence[str], section: str, number: int | None = None
    ) -> None:
        for key in table:
            if key not in known:
                raise self._error(section, key, f"unknown key {key!r}; {closest(key, known)}", number)

    @staticmethod
    def _named_key(message: str, table: Mapping[str, Any]) -> str | None:
        """Return the key of a table that a message speaks of."""
        return next((key for key in table if re.search(rf"\b{re.escape(key)}\b", message)), None)

    def _error(self, section: str, key: str | None, message: str, number: int | None = None) -> ConfigError:
        return ConfigError(f"{self.path}:{self._line(section, key, number)}: {message}")

    def _line(self, section: str, key: str | None, number: int | None) -> int:
        """Return the line of a key, of its section's head where it has none of its own, or 1."""
        here, seen, head = "", -1, 1
        for at, line in enumerate(self.lines, start=1):
            heading = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?$", line)
            if heading:
                here = heading[1].replace('"', "").replace("'", "")
                seen += here == section
                if here == section and number in (None, seen):
                    head = at
                    if key is None:
                        return at
                elif not section and key == here.split(".")[0]:
                    return at
                continue
            stands_here = here == section and number in (None, seen) and key is not None
            if stands_here and re.match(rf"\s*[\"']?{re.escape(str(key))}[\"']?\s*(=|\.)", line):
                return at
        return head
