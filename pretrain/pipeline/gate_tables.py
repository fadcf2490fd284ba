"""The ``[[gate]]`` tables of a configuration: read and checked, every complaint with its line."""

__all__ = ["read_gates"]

import re
from collections.abc import Sequence
from typing import Any, get_args

from pretrain.pipeline.gates import Against, Gate
from recokit.errors import closest
from recokit.toml_file import Kinds, TomlFile

_SUBJECTS = ("benchmark", "drift", "entities", "edges")
_NUMBER: tuple[tuple[type, ...], str] = ((int, float), "a number")
_KINDS: Kinds = {
    "benchmark": (str, "the name of a [[benchmark]]"),
    "drift": (str, "the name of a table"),
    "entities": (str, "an entity type"),
    "edges": (str, "a relation"),
    "metric": (str, "the name of a metric"),
    "group": (str, "a label, a relation or a part"),
    "min": _NUMBER,
    "max": _NUMBER,
    "max_drop": ((int, float, str), 'a number, "noise", or a multiple such as "2 noise"'),
    "against": (str, "parent, published or both"),
}
_OF_SUBJECT = {
    "benchmark": ("benchmark", "metric", "group", "min", "max", "max_drop", "against"),
    "drift": ("drift", "metric", "group", "min", "max"),
    "entities": ("entities", "min", "max_drop"),
    "edges": ("edges", "min", "max_drop"),
}
_NOISE = re.compile(r"(?:([0-9]+(?:\.[0-9]+)?) ?)?noise")


def read_gates(file: TomlFile) -> tuple[Gate, ...]:
    """Read the ``[[gate]]`` tables of a configuration.

    Raises:
        ConfigError: A key or value is wrong, with its line.
    """
    benchmarks = [str(row.get("name")) for row in file.rows("benchmark")]
    return tuple(_gate(file, row, number, benchmarks) for number, row in enumerate(file.rows("gate")))


def _gate(file: TomlFile, row: dict[str, Any], number: int, benchmarks: Sequence[str]) -> Gate:
    file.check(row, _KINDS, "gate", number)
    subjects = [key for key in _SUBJECTS if key in row]
    if len(subjects) != 1:
        raise file.error("gate", None, f"a gate is about one of {', '.join(_SUBJECTS)}, got {len(subjects)}", number)
    subject = subjects[0]
    for key in row:
        if key not in _OF_SUBJECT[subject]:
            raise file.error(
                "gate", key, f"a gate about {subject} has no {key!r}; {closest(key, _OF_SUBJECT[subject])}", number
            )
    name = row[subject]
    if subject == "benchmark" and name not in benchmarks:
        raise file.error("gate", subject, f"there is no [[benchmark]] {name!r}; {closest(name, benchmarks)}", number)
    if subject == "drift" and "metric" not in row:
        raise file.error("gate", None, "'metric' is missing: which figure of the drift", number)
    if not {"min", "max", "max_drop"} & row.keys():
        raise file.error("gate", None, "a gate needs a bound: min, max or max_drop", number)
    if "against" in row and (row["against"] not in get_args(Against) or "max_drop" not in row):
        message = f"against is {row['against']!r}, expected parent, published or both, beside a max_drop"
        raise file.error("gate", "against", message, number)
    drop, noise = row.get("max_drop"), None
    if isinstance(drop, str):
        found = _NOISE.fullmatch(drop)
        if found is None or subject in ("entities", "edges"):
            raise file.error("gate", "max_drop", f"max_drop is {drop!r}, expected {_KINDS['max_drop'][1]}", number)
        drop, noise = None, float(found[1] or 1)
    elif drop is not None and (drop < 0 or (subject in ("entities", "edges") and drop > 1)):
        most = "a share between 0 and 1" if subject in ("entities", "edges") else "a number of at least 0"
        raise file.error("gate", "max_drop", f"max_drop is {drop!r}, expected {most}", number)
    rest = {key: row.get(key) for key in ("metric", "group", "min", "max", "against")}
    return Gate(subject, name, **rest, max_drop=drop, noise=noise)
