"""The ``[[gate]]`` tables of a configuration: read and checked, every complaint with its line."""

__all__ = ["read_gates"]

import re
from collections.abc import Collection, Mapping
from typing import Any, get_args

from pretrain.pipeline.gates import Against, Gate
from recokit.errors import closest
from recokit.toml_file import Kinds, TomlFile

_SUBJECTS = ("benchmark", "drift", "entities", "edges", "share")
_NUMBER: tuple[tuple[type, ...], str] = ((int, float), "a number")
_KINDS: Kinds = {
    "benchmark": (str, "the name of a [[benchmark]]"),
    "drift": (str, "the name of a table"),
    "entities": (str, "an entity type"),
    "edges": (str, "a relation"),
    "share": (str, "an entity type"),
    "metric": (str, "the name of a metric"),
    "group": (str, "a label, a relation or a part"),
    "min": _NUMBER,
    "max": _NUMBER,
    "max_drop": ((int, float, str), 'a number, "noise", or a multiple such as "2 noise"'),
    "max_rise": _NUMBER,
    "against": (str, "parent, published or both"),
}
_OF_SUBJECT = {
    "benchmark": ("benchmark", "metric", "group", "min", "max", "max_drop", "against"),
    "drift": ("drift", "metric", "group", "min", "max"),
    "entities": ("entities", "min", "max_drop"),
    "edges": ("edges", "min", "max_drop"),
    "share": ("share", "max", "max_rise"),
}
# What recokit.drift calls its figures, and what may stand behind: p5, the k of neighbours, what a ranker scores.
_DRIFT = (
    *("ids kept", "ids added", "ids removed", "added share", "removed share", "l2", "relative l2", "cosine"),
    *("unrotated residual", "procrustes residual", "procrustes cosine", "component cosine", "weight shift"),
    *("same codebook", "relative change", "score shift"),
)
_NOISE = re.compile(r"(?:([0-9]+(?:\.[0-9]+)?) ?)?noise")


def read_gates(
    file: TomlFile,
    *,
    entities: Collection[str] = (),
    tables: Collection[str] = (),
    relations: Collection[str] = (),
) -> tuple[Gate, ...]:
    """Read the ``[[gate]]`` tables of a configuration.

    Args:
        file: The configuration.
        entities: The entity types that there will be; nothing is known of them where it is empty.
        tables: The tables, likewise.
        relations: The relations, likewise.

    Raises:
        ConfigError: A key or value is wrong, with its line.
    """
    benchmarks = [str(row["name"]) for row in file.rows("benchmark") if "name" in row]
    # Drift has rows of its own for relations, and for what a ranker scores.
    drift = [*tables, "relations"] if tables and "ranker" not in file.content.get("drift", {}) else []
    known = {"entities": entities, "edges": relations, "drift": drift, "share": entities}
    return tuple(
        _gate(file, row, number, benchmarks, {key: names for key, names in known.items() if names})
        for number, row in enumerate(file.rows("gate"))
    )


def _gate(
    file: TomlFile, row: dict[str, Any], number: int, benchmarks: Collection[str], known: Mapping[str, Collection[str]]
) -> Gate:
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
    if name not in known.get(subject, (name,)):
        what = {"edges": "relation", "drift": "table"}.get(subject, "entity type")
        raise file.error("gate", subject, f"there is no {what} {name!r}; {closest(name, known[subject])}", number)
    if subject == "drift" and "metric" not in row:
        raise file.error("gate", None, "'metric' is missing: which figure of the drift", number)
    if subject == "drift" and not row["metric"].startswith(_DRIFT) and "overlap@" not in row["metric"]:
        message = f"drift has no metric {row['metric']!r}; {closest(row['metric'], (*_DRIFT, 'overlap@10'))}"
        raise file.error("gate", "metric", message, number)
    _check_bounds(file, row, number, subject)
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
    rest = {key: row.get(key) for key in ("metric", "group", "min", "max", "max_rise", "against")}
    return Gate(subject, name, **rest, max_drop=drop, noise=noise)


def _check_bounds(file: TomlFile, row: Mapping[str, Any], number: int, subject: str) -> None:
    """Refuse a gate without a bound, and shares that are none."""
    if not {"min", "max", "max_drop", "max_rise"} & row.keys():
        bounds = "max or max_rise" if subject == "share" else "min, max or max_drop"
        raise file.error("gate", None, f"a gate needs a bound: {bounds}", number)
    for key in ("max", "max_rise") if subject == "share" else ():
        if not 0 <= row.get(key, 0) <= 1:
            raise file.error("gate", key, f"{key} is {row[key]!r}, expected a share between 0 and 1", number)
