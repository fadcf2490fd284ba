"""A FeatureSpec as JSON that names its tables and does not swallow them. No torch here.

    {"features": {...}, "statistics": {...} or null,
     "tables": [{"kind", "entity", "version", "fingerprint", "ids", "path"}]}

``tables`` holds what a table is known by: kind, entity, version, fingerprint and a digest of its ids; ``path`` is where
it was loaded from, relative to the folder that the JSON is written into. A table of another version or of other bytes
is refused, unless drift is allowed for.
"""

__all__ = ["Tables", "features_from_json", "features_to_json", "statistics_from_json", "statistics_to_json"]

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from recokit.errors import ConfigError, FormatError, VersionError
from recokit.feature_columns import Vocabulary
from recokit.feature_kinds import Bag, Pretrained, Values
from recokit.features import FeatureSpec, Statistics
from recokit.store import EmbeddingStore
from recokit.table import FeatureTable, Version, load_table
from recokit.table.ids import id_array

Tables: TypeAlias = Sequence[FeatureTable | str | Path] | FeatureTable | str | Path | Version | EmbeddingStore

_NAMES = {"vectors": "table", "codes": "code table", "mixture": "mixture"}  # by kind, in messages


def features_to_json(features: FeatureSpec, folder: str | Path | None = None) -> dict[str, Any]:
    """Describe a spec: ``features``, ``statistics`` and ``tables``, as JSON takes them.

    Args:
        features: The spec, fitted or not.
        folder: The folder that the JSON is for: the tables' paths are relative to it. Without one there are no paths,
            and the description is what tells one spec from another.
    """
    numbers = {id(table): number for number, table in enumerate(features.tables)}
    return {
        "features": {
            "pretrained": [_pretrained_to_json(feature, numbers) for feature in features.pretrained],
            "dense": list(features.dense),
            "categorical": {name: _values_to_json(values) for name, values in features.categorical.items()},
            "bags": [_bag_to_json(bag, numbers) for bag in features.bags],
            "hashed": list(features.hashed),
            "label": features.label if isinstance(features.label, str) else list(features.labels),
            "group": features.group,
            "weight": features.weight,
            "missing": features.missing,
        },
        "statistics": statistics_to_json(features.statistics),
        "tables": [_reference(table, folder) for table in features.tables],
    }


def features_from_json(
    content: Mapping[str, Any], tables: Tables | None, folder: str | Path, *, allow_drift: bool = False
) -> FeatureSpec:
    """Make the spec again that ``features_to_json`` described.

    Args:
        content: What it returned; other keys are left alone.
        tables: Where the tables are: a table or its path, several, a version, a store, or None for the paths that they
            were loaded from.
        folder: The folder that the JSON is in.
        allow_drift: Take a table of another version where the one that is named is not among ``tables``: of the same
            kind and entity, and the only such one, or the only one in a folder of the same name.

    Raises:
        FormatError: ``content`` is no such description.
        ConfigError: ``tables`` is none of these.
        VersionError: A table is of another version, or of other bytes, than the one that the spec names; or it is
            neither among those given nor where it was.
    """
    folder, given = Path(folder), _given_tables(tables)
    try:
        found = [_find(reference, given, folder, allow_drift) for reference in content["tables"]]
        return _spec(content["features"], statistics_from_json(content["statistics"]), found)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise FormatError(f"{folder} does not describe features: {error!r}") from error


def statistics_from_json(content: Mapping[str, Any] | None) -> Statistics | None:
    """Make the statistics again that ``statistics_to_json`` described."""
    if content is None:
        return None
    return Statistics(
        mean=tuple(content["mean"]),
        std=tuple(content["std"]),
        vocabularies={name: Vocabulary(values) for name, values in content["vocabularies"].items()},
    )


def statistics_to_json(statistics: Statistics | None) -> dict[str, Any] | None:
    """Describe what a spec has learned, as JSON takes it; None of one that has not been fitted."""
    if statistics is None:
        return None
    vocabularies = {name: vocabulary.values.to_pylist() for name, vocabulary in statistics.vocabularies.items()}
    return {"mean": list(statistics.mean), "std": list(statistics.std), "vocabularies": vocabularies}


def _pretrained_to_json(feature: Pretrained, numbers: Mapping[int, int]) -> dict[str, Any]:
    names = ("column", "name", "usage", "unknown", "pooling", "target", "temperature")
    return {**{name: getattr(feature, name) for name in names}, "table": numbers[id(feature.table)]}


def _bag_to_json(bag: Bag, numbers: Mapping[int, int]) -> dict[str, Any]:
    values = {"values": _values_to_json(bag.vocabulary)} if bag.table is None else {"table": numbers[id(bag.table)]}
    return {**{name: getattr(bag, name) for name in ("column", "name", "pooling", "weights")}, **values}


def _spec(content: Mapping[str, Any], statistics: Statistics | None, tables: Sequence[FeatureTable]) -> FeatureSpec:
    bags = [dict(bag) for bag in content["bags"]]
    return FeatureSpec(
        **{
            **content,
            "pretrained": [Pretrained(**{**entry, "table": tables[entry["table"]]}) for entry in content["pretrained"]],
            "bags": [
                Bag(values=tables[bag.pop("table")] if "table" in bag else bag.pop("values"), **bag) for bag in bags
            ],
        },
        statistics=statistics,
    )


def _values_to_json(values: Values | None) -> int | list[Any] | None:
    return values if values is None or isinstance(values, int) else id_array(values).to_pylist()


def _reference(table: FeatureTable, folder: str | Path | None) -> dict[str, Any]:
    known_by = {name: getattr(table, name) for name in ("kind", "entity", "version", "fingerprint")}
    known_by["ids"] = table.ids_sha256
    if folder is None:
        return known_by
    return {**known_by, "path": None if table.path is None else os.path.relpath(table.path, folder)}


def _given_tables(tables: Tables | None) -> Sequence[FeatureTable] | Version | EmbeddingStore | None:
    if tables is None or isinstance(tables, EmbeddingStore | Version):
        return tables
    several = [tables] if isinstance(tables, FeatureTable | str | Path) else tables
    if not isinstance(several, list | tuple):
        raise ConfigError(f"tables is a {type(tables).__name__}, expected tables or their paths, a version, or a store")
    for table in several:
        if not isinstance(table, FeatureTable | str | Path):
            raise ConfigError(f"tables holds {table!r}, expected tables or their paths")
    return [load_table(table) if isinstance(table, str | Path) else table for table in several]


def _find(
    reference: Mapping[str, Any],
    given: Sequence[FeatureTable] | Version | EmbeddingStore | None,
    folder: Path,
    allow_drift: bool,
) -> FeatureTable:
    """Return the table that a spec names: by kind, entity, version and fingerprint."""
    kind, entity = reference.get("kind", "vectors"), reference["entity"]  # at first there was one kind
    candidates = [
        table
        for table in _tables_around(reference, kind, given, folder)
        if table.kind == kind and table.entity == entity
    ]
    for table in candidates:
        if (table.version, table.fingerprint) == (reference["version"], reference["fingerprint"]) and (
            "ids" not in reference or table.ids_sha256 == reference["ids"]  # at first they were not written down
        ):
            return table
    if allow_drift:
        alike = candidates if len(candidates) == 1 else [table for table in candidates if _is_called(table, reference)]
        if len(alike) == 1:
            return alike[0]
    came = " and ".join(f"version {table.version!r} ({table.fingerprint[:8]})" for table in candidates) or "none"
    raise VersionError(
        f"{folder} was trained with {_NAMES[kind]} {entity!r} of version {reference['version']!r} "
        f"({reference['fingerprint'][:8]}), what is here is {came}: pass that table, tables=[...], or "
        "allow_drift=True if another version is to take its place"
    )


def _is_called(table: FeatureTable, reference: Mapping[str, Any]) -> bool:
    """Whether a table lies in a folder of the name that the one named had: networks of one entity have several."""
    where = reference["path"]
    return table.path is not None and where is not None and table.path.name == Path(where).name


def _tables_around(
    reference: Mapping[str, Any],
    kind: str,
    given: Sequence[FeatureTable] | Version | EmbeddingStore | None,
    folder: Path,
) -> Iterable[FeatureTable]:
    """The tables among which one is looked for: those given, those of a version, or what lies where it was."""
    version = given.open(reference["version"]) if isinstance(given, EmbeddingStore) else given
    if isinstance(version, Version):
        entries = version.tables.items()
        return [
            version.open(name) for name, entry in entries if (entry.kind, entry.entity) == (kind, reference["entity"])
        ]
    if version is not None:
        return version
    path = None if reference["path"] is None else Path(os.path.normpath(folder / reference["path"]))
    return [load_table(path)] if path is not None and (path / "table.json").is_file() else []
