"""Tasks from a configuration file: one table each, every complaint with its line.

[[probe]]
kind = "topic"                              # topic, metadata, jaccard, link, stability
name = "interests"
table = "user"
labels = "interests.parquet"                # relative to the configuration file
columns = { id = "user_id", label = "topic" }
"""

__all__ = ["TASK_KINDS", "read_tasks"]

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from recokit.errors import closest
from recokit.probes.jaccard import SetJaccard
from recokit.probes.link import LinkPrediction
from recokit.probes.prediction import MetadataPrediction, TopicPrediction
from recokit.probes.stability import NeighborStability
from recokit.probes.task import Task
from recokit.table.folder import local_path
from recokit.toml_file import Kinds, TomlFile

TASK_KINDS: Mapping[str, type[Any]] = {
    "topic": TopicPrediction,
    "metadata": MetadataPrediction,
    "jaccard": SetJaccard,
    "link": LinkPrediction,
    "stability": NeighborStability,
}

_NAME = (str, "a name")
_PATH = (str, "a path")
_COUNT = (int, "a whole number")
_KINDS: Kinds = {
    "kind": _NAME,
    "name": _NAME,
    "table": (str, "the name of a table"),
    "labels": _PATH,
    "column": (str, "the name of a column"),
    "cut": ((str, list), "'median' or a list of edges"),
    "columns": (dict, 'a table such as { id = "user_id" }'),
    "min_positives": _COUNT,
    "folds": _COUNT,
    "c": ((int, float, list), "a number above 0, or a list of them"),
    "sample": _COUNT,
    "degrees": _PATH,
    "sets": _PATH,
    "known": (bool, "true or false"),
    "pairs": ((str, int), "a path, or for jaccard a whole number"),
    "relation": (str, "the name of a relation"),
    "exclude": _PATH,
    "k": ((int, list), "a whole number, or a list of them"),
    "source": (str, "the name of a table"),
    "target": (str, "the name of a table"),
    "queries": _COUNT,
    "among": _COUNT,
    "floors": (bool, "true or false"),
}
_PATHS = ("labels", "degrees", "sets", "exclude", "pairs")


def read_tasks(file: TomlFile, section: str = "probe") -> tuple[Task, ...]:
    """Read the ``[[section]]`` tables of a configuration file as tasks; none where there are none.

    Relative paths start at the file's folder; the files are read when the tasks run.

    Raises:
        ConfigError: A key or a value is wrong; the message starts with file and line.
    """
    tasks: list[Task] = []
    for number, row in enumerate(file.rows(section)):
        task = _task(file, section, row, number)
        if task.name in [each.name for each in tasks]:
            raise file.error(section, "name", f"name is {task.name!r}, as that of another [[{section}]]", number)
        tasks.append(task)
    return tuple(tasks)


def _task(file: TomlFile, section: str, row: Mapping[str, Any], number: int) -> Task:
    kind = row.get("kind")
    if "kind" not in row:
        raise file.error(section, None, f"'kind' is missing: one of {', '.join(TASK_KINDS)}", number)
    if not isinstance(kind, str) or kind not in TASK_KINDS:
        raise file.error(section, "kind", f"kind is {kind!r}; {closest(str(kind), TASK_KINDS)}", number)
    made = TASK_KINDS[kind]
    known = {each.name: _KINDS[each.name] for each in fields(made)}
    needed = [each.name for each in fields(made) if each.default is MISSING and each.default_factory is MISSING]
    file.check(row, {"kind": _NAME, **known}, section, number, needed=needed)
    values = {key: _value(file.path.parent, kind, key, value) for key, value in row.items() if key != "kind"}
    with file.at(section, tuple(row), number):
        make: Callable[..., Task] = made
        return make(**values)


def _value(folder: Path, kind: str, key: str, value: Any) -> Any:
    if key in _PATHS and isinstance(value, str):
        return folder / local_path(value)
    return tuple(value) if isinstance(value, list) else value
