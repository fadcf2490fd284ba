"""A TOML file whose complaints name the line: what stands where is found again in the text."""

__all__ = ["Kinds", "TomlFile"]

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from recokit.errors import ConfigError, RecokitError, closest

Kinds: TypeAlias = Mapping[str, tuple[type | tuple[type, ...], str]]  # a key to the types of its value, and their name


@dataclass(frozen=True, eq=False)
class TomlFile:
    """A configuration: ``[section]`` and ``[[section]]`` tables; the number of the latter counts from 0."""

    path: Path
    content: Mapping[str, Any]
    lines: tuple[str, ...]

    @classmethod
    def read(cls, path: str | Path) -> "TomlFile":
        """Read a file.

        Raises:
            ConfigError: It cannot be read, or is not TOML.
        """
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
            return cls(file, tomllib.loads(text), tuple(text.split("\n")))
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
        except RecursionError as error:
            raise ConfigError(f"{file} is not a configuration: its values are nested too deeply") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} is not TOML: {error}") from error

    def error(self, section: str, key: str | None, message: str, number: int | None = None) -> ConfigError:
        """Return an error that names the line of a key, or of its section where it has none of its own."""
        return ConfigError(f"{self.path}:{_line_of(self.lines, section, key, number)}: {message}")

    @contextmanager
    def at(self, section: str, keys: str | Sequence[str], number: int | None = None) -> Iterator[None]:
        """Say where it stands when something inside refuses a key, or one of several: the one its message names."""
        try:
            yield
        except RecokitError as error:
            several = () if isinstance(keys, str) else keys
            named = (key for key in several if re.search(rf"\b{re.escape(key)}\b", str(error)))
            key = keys if isinstance(keys, str) else next(named, None)
            raise self.error(section, key, str(error), number) from error

    def section(self, name: str, kinds: Kinds, needed: Sequence[str] = ()) -> dict[str, Any]:
        """Return the table ``[name]``, whose keys and their types are checked; empty where it is not there."""
        table = self.content.get(name, {})
        if not isinstance(table, dict):
            raise self.error("", name, f"[{name}] must be a table, got {table!r}")
        self.check(table, kinds, name, needed=needed)
        return dict(table)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the tables ``[[name]]``, none where there are none; their content is not checked."""
        rows = self.content.get(name, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self.error(name, None, f"{name}s are written as [[{name}]] tables")
        return rows

    def check_keys(
        self, table: Mapping[str, Any], known: Sequence[str], section: str, number: int | None = None
    ) -> None:
        """Refuse a key that is unknown: a typing error must not become a default."""
        for key in table:
            if key not in known:
                raise self.error(section, key, f"unknown key {key!r}; {closest(key, known)}", number)

    def check(
        self,
        table: Mapping[str, Any],
        kinds: Kinds,
        section: str,
        number: int | None = None,
        *,
        needed: Sequence[str] = (),
    ) -> None:
        """Refuse unknown keys, values of other types, and the lack of a key that is needed."""
        self.check_keys(table, tuple(kinds), section, number)
        for key in needed:
            if key not in table:
                raise self.error(section, None, f"{key!r} is missing" + (f" in [{section}]" if section else ""), number)
        for key, value in table.items():
            kind, said = kinds[key]
            types = kind if isinstance(kind, tuple) else (kind,)
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise self.error(section, key, f"{key} is {value!r}, expected {said}", number)


def _line_of(lines: Sequence[str], section: str, key: str | None, number: int | None = None) -> int:
    """Return the line of a key, of its section's head where it has none of its own, or 1.

    Args:
        lines: Of the file.
        section: ``""`` for what stands before all tables; ``entity.user`` for a table in a table.
        key: None for the section itself.
        number: Which of several ``[[section]]`` tables, from 0.
    """
    here, seen, head = "", -1, None
    full = f"{section}.{key}" if section else str(key)
    for at, line in enumerate(lines, start=1):
        heading = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?$", line)
        if heading:
            here = heading[1].replace('"', "").replace("'", "")
            seen += here == section
            if here == section and number in (None, seen):
                head = at
                if key is None:
                    return at
            elif key is not None and (here == full or here.startswith(f"{full}.")):
                return at
            continue
        stands_here = here == section and number in (None, seen) and key is not None
        if stands_here and re.match(rf"\s*[\"']?{re.escape(str(key))}[\"']?\s*(=|\.)", line):
            return at
    parent, _, name = section.rpartition(".")
    return _line_of(lines, parent, name) if head is None and parent else head or 1
