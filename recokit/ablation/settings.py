"""The TOML file of ``recokit ablate``: read, checked, every complaint with its line."""

__all__ = ["AblationSettings", "load_ablation"]

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import pandas as pd

from recokit.ablation.sets import feature_sets
from recokit.errors import DataError, closest
from recokit.features import Bag, FeatureSpec, Pretrained
from recokit.frame import read_frame
from recokit.table import FeatureTable, load_table, open_version
from recokit.table.folder import local_path
from recokit.toml_file import Kinds, TomlFile

if TYPE_CHECKING:
    from recokit.ablation.training import MakeRanker
    from recokit.rankers import FitConfig, Ranker

_TOP = ("ablation", "rows", "features", "pretrained", "ranker", "fit", "sets")
_PATH = (str, "a path")
_NAME = (str, "a name")
_NAMES = (list, "a list of names")
_ROWS: Kinds = {"train": _PATH, "valid": _PATH, "test": _PATH}
_FEATURES: Kinds = {
    "label": ((str, list), "the name of a column, or a list of them"),
    "group": (str, "the name of a column"),
    "weight": (str, "the name of a column"),
    "dense": _NAMES,
    "categorical": (dict, "a table such as { country = 200 }"),
    "hashed": _NAMES,
    "bags": (list, 'a list such as [{ column = "genres", values = 50 }]'),
    "missing": (str, "'error' or 'indicator'"),
}
_BAG = ("column", "name", "pooling", "weights", "values", "table", "version")
_PRETRAINED: Kinds = {
    "column": (str, "the name of a column"),
    "table": (str, "a path, or with version the name of a table in it"),
    "version": _PATH,
    "name": _NAME,
    "usage": _NAME,
    "unknown": _NAME,
    "pooling": _NAME,
    "target": (str, "the name of a pretrained feature"),
    "temperature": ((int, float), "a number above 0"),
}
_ABLATION: Kinds = {
    "baseline": (str, "the name of a set"),
    "seeds": ((int, list), "how many, or a list of whole numbers"),
    "metrics": (list, "a list of names of metrics"),
    "segments": (list, "a list of names of columns"),
    "min_rows": (int, "a whole number of at least 1"),
    "bootstrap": (int, "a whole number of at least 0"),
}


@dataclass(frozen=True, eq=False)
class AblationSettings:
    """What a configuration file asks for.

    Attributes:
        rows: ``train``, ``test`` and, where it is there, ``valid``, to their files.
        features: The full spec, its tables opened.
        rankers: How to make each row of the table.
        fit: How to train.
        sets: The name of a set to its features.
        choices: Other arguments of ``ablate``: baseline, seeds, metrics, segments, min_rows, bootstrap.
    """

    rows: Mapping[str, Path]
    features: FeatureSpec
    rankers: "Mapping[str, MakeRanker]"
    fit: "FitConfig"
    sets: Mapping[str, Sequence[str]]
    choices: Mapping[str, Any]

    def source(self, name: str) -> Path | pd.DataFrame | None:
        """Return where ``fit`` finds the rows ``train`` or ``valid``: Parquet files as they are, others read."""
        path = self.rows.get(name)
        return path if path is not None and path.suffix in (".parquet", ".pq") else self.read(name)

    def read(self, name: str) -> pd.DataFrame | None:
        """Read the rows ``train``, ``valid`` or ``test``: the columns that are needed, ids as their tables have them.

        Raises:
            DataError: A column is missing, or in a text file an id is.
        """
        if name not in self.rows:
            return None
        path, spec = self.rows[name], self.features
        bags = [column for bag in spec.bags for column in (bag.column, bag.weights)]
        wanted = [*(each.column for each in spec.pretrained), *bags, *spec.dense, *spec.categorical, *spec.hashed]
        wanted += [*spec.labels, spec.group, spec.weight, *self.choices.get("segments", ())]
        types = {each.column: each.table.id_type for each in spec.pretrained}
        columns = [column for column in dict.fromkeys(wanted) if column is not None]
        text = any(suffix in (".csv", ".tsv") for suffix in path.suffixes)
        frame = read_frame(path, columns, ids=tuple(types) if text else ())
        for column, kind in types.items() if text else ():
            if kind == "string":
                frame[column] = frame[column].astype(str)
            elif not pd.api.types.is_integer_dtype(frame[column]):
                raise DataError(f"{path}: column {column!r} holds strings, but the ids of its table are integers")
        return frame


def load_ablation(path: str | Path) -> AblationSettings:
    """Read a configuration file, and open the tables that it names; its relative paths start at its own folder.

    Raises:
        ConfigError: The file cannot be read, or a key or value is wrong; the message starts with file and line.
    """
    file = TomlFile.read(path)
    file.check_keys(file.content, _TOP, "")
    rows = file.section("rows", _ROWS, needed=("train", "test"))
    choices = file.section("ablation", _ABLATION)
    features = _features(file)
    sets = file.content.get("sets")
    if not isinstance(sets, dict) or not sets:
        raise file.error("", "sets", "the sets of features are missing: [sets], with lines such as baseline = []")
    with file.at("sets", tuple(sets)):
        feature_sets(features, sets)
    baseline = choices.get("baseline", "baseline")
    if baseline not in sets:
        raise file.error("ablation", "baseline", f"the baseline is the set {baseline!r}; {closest(baseline, sets)}")
    if isinstance(choices.get("seeds"), int):
        choices["seeds"] = range(choices["seeds"])
    config = _fit(file)
    files = {name: file.path.parent / local_path(where) for name, where in rows.items()}
    return AblationSettings(files, features, _rankers(file, features), config, sets, choices)


def _features(file: TomlFile) -> FeatureSpec:
    table = file.section("features", _FEATURES, needed=("label",))
    bags = [_bag(file, bag) for bag in table.pop("bags", [])]
    pretrained = [_pretrained(file, row, number) for number, row in enumerate(file.rows("pretrained"))]
    with file.at("features", tuple(table)):
        return FeatureSpec(pretrained=pretrained, bags=bags, **table)


def _pretrained(file: TomlFile, row: dict[str, Any], number: int) -> Pretrained:
    file.check(row, _PRETRAINED, "pretrained", number, needed=("column", "table"))
    with file.at("pretrained", ("version", "table"), number):
        table = _table(file, row)
    with file.at("pretrained", tuple(row), number):
        return Pretrained(**{**{key: value for key, value in row.items() if key != "version"}, "table": table})


def _bag(file: TomlFile, bag: Any) -> Bag:
    if not isinstance(bag, dict):
        raise file.error("features", "bags", f"bags has {bag!r}, expected {_FEATURES['bags'][1]}")
    for key in bag:
        if key not in _BAG:
            raise file.error("features", "bags", f"unknown key {key!r} of a bag; {closest(key, _BAG)}")
    if "column" not in bag or ("values" in bag) == ("table" in bag):
        raise file.error("features", "bags", f"bag {bag} needs a column, and either values or a table")
    rest = {key: value for key, value in bag.items() if key not in ("table", "version", "values")}
    with file.at("features", "bags"):
        return Bag(values=bag["values"] if "values" in bag else _table(file, bag), **rest)


def _table(file: TomlFile, row: Mapping[str, Any]) -> FeatureTable:
    folder = file.path.parent
    if "version" not in row:
        return load_table(folder / local_path(row["table"]))
    return open_version(folder / local_path(row["version"])).open(row["table"])


def _fit(file: TomlFile) -> "FitConfig":
    from recokit.rankers import FitConfig

    kinds = {name: _kind(hint) for name, hint in get_type_hints(FitConfig).items() if name != "seed"}
    table = file.section("fit", kinds)
    with file.at("fit", tuple(table)):
        return FitConfig(**table)


def _kind(hint: Any) -> tuple[tuple[type, ...], str]:
    """Return the types that a field's annotation allows in TOML, and how they are said; a Literal's choices are str."""
    united = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    given = [get_origin(each) or each for each in united if each is not NoneType]
    types = [each if isinstance(each, type) else str for each in given]
    return tuple(types + [int] * (float in types)), " or ".join(each.__name__ for each in types)


def _rankers(file: TomlFile, features: FeatureSpec) -> "dict[str, MakeRanker]":
    from recokit.rankers.checkpoint import KINDS

    makers: dict[str, MakeRanker] = {}
    rows = file.rows("ranker")
    if not rows:
        raise file.error("", None, f"[[ranker]] is missing: kind = one of {', '.join(sorted(KINDS))}")
    for number, row in enumerate(rows):
        kind = row.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            message = "'kind' is missing" if kind is None else f"there is no ranker of kind {kind!r}"
            raise file.error("ranker", "kind", f"{message}; {closest(str(kind).lower(), KINDS)}", number)
        name = row.get("name", kind if len(rows) > 1 else "")
        if not isinstance(name, str) or name in makers:
            message = f"name is {name!r}, expected one that no other ranker has"
            raise file.error("ranker", "name" if "name" in row else "kind", message, number)
        known = [*inspect.signature(KINDS[kind]).parameters][1:]  # the first is the spec
        file.check_keys(row, ["kind", "name", *(key for key in known if key != "seed")], "ranker", number)
        settings = {key: value for key, value in row.items() if key not in ("kind", "name")}
        makers[name] = partial(_make, KINDS[kind], settings)
        with file.at("ranker", tuple(row), number):
            makers[name](features, 0)  # so that a wrong setting is told before anything is trained
    return makers


def _make(kind: "Callable[..., Ranker]", settings: Mapping[str, Any], features: FeatureSpec, seed: int) -> "Ranker":
    return kind(features, **settings, seed=seed)
