"""Ranker checkpoints: a folder of plain files that names its tables and does not swallow them.

    ranker.json            {"format": "ranker/1", "kind", "settings", "features", "statistics", "tables", "files"}
    weights/<name>.npy     one array per tensor of the state dict

The vectors of frozen tables are not in it. ``tables`` holds each one's entity, version, fingerprint and, relative to
the checkpoint, the path it was loaded from; a table of another version or of other bytes is refused.
"""

__all__ = ["load_ranker", "save_ranker"]

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from recokit.errors import ConfigError, FormatError, VersionError
from recokit.feature_columns import Vocabulary
from recokit.features import Bag, FeatureSpec, Pretrained, Statistics, Values
from recokit.rankers.base import Ranker, Tables
from recokit.rankers.dlrm import DLRM
from recokit.table import EmbeddingStore, EmbeddingTable, Version
from recokit.table.folder import check_files, file_entries, load_npy, new_folder, read_manifest, write_json, write_npy
from recokit.table.ids import id_array

FORMAT = "ranker/1"
_MANIFEST = "ranker.json"
_KINDS: dict[str, type[DLRM]] = {"dlrm": DLRM}


def save_ranker(ranker: Ranker, path: str | Path) -> Path:
    """Write a checkpoint folder, whole or not at all.

    Raises:
        VersionError: ``path`` exists.
        ConfigError: the ranker has not been fitted.
    """
    target = Path(path)
    if ranker.features.statistics is None:
        raise ConfigError("the ranker has not been fitted, so that it cannot read a frame: fit(ranker, train, valid)")
    with new_folder(target) as folder:
        (folder / "weights").mkdir()
        files = {
            f"weights/{name}.npy": write_npy(folder / "weights" / f"{name}.npy", tensor.cpu().numpy())
            for name, tensor in ranker.state_dict().items()
        }
        manifest = {
            "format": FORMAT,
            "kind": ranker.kind,
            "settings": ranker.settings,
            "features": _features_to_json(ranker.features),
            "statistics": _statistics_to_json(ranker.features.statistics),
            "tables": [_reference(table, target) for table in ranker.features.tables],
            "files": files,
        }
        write_json(folder / _MANIFEST, manifest)
    return target


def load_ranker(path: str | Path, tables: Tables | None = None, *, verify: bool = False) -> Ranker:
    """Read a checkpoint.

    Args:
        path: The folder.
        tables: Where its tables are: a table or its path, several, a version, a store, or None for the paths they were
            loaded from.
        verify: Whether to check checksums too; sizes are always checked.

    Raises:
        FormatError: the folder is damaged or of another format.
        ConfigError: ``tables`` is none of these.
        VersionError: a table is of another version, or of other bytes, than the ranker was trained with; or it is
            neither among those given nor where it was.
    """
    folder = Path(path)
    manifest = read_manifest(folder, _MANIFEST, FORMAT)
    files = file_entries(folder, manifest, _MANIFEST)
    check_files(folder, files, verify=verify)
    kind = manifest.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise FormatError(f"{folder} holds a ranker of kind {kind!r}; this release reads {sorted(_KINDS)}")
    given = _given_tables(tables)
    try:
        found = [_find(reference, given, folder) for reference in manifest["tables"]]
        features = _features_from_json(manifest["features"], manifest["statistics"], found)
        ranker = _KINDS[kind](features, **manifest["settings"])
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise FormatError(f"{folder / _MANIFEST} does not describe a ranker: {error!r}") from error
    expected = {name: f"weights/{name}.npy" for name in ranker.state_dict()}
    if odd := set(expected.values()) ^ set(files):
        raise FormatError(f"{folder}: its weights are not those of the ranker it describes, see {min(odd)}")
    for name, tensor in ranker.state_dict().items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        array = load_npy(folder / expected[name], dtypes=(dtype,), shape=tuple(tensor.shape))
        tensor.copy_(torch.tensor(array))
    return ranker.eval()


def _reference(table: EmbeddingTable, checkpoint: Path) -> dict[str, Any]:
    path = None if table.path is None else os.path.relpath(table.path, checkpoint)
    return {"entity": table.entity, "version": table.version, "fingerprint": table.fingerprint, "path": path}


def _given_tables(tables: Tables | None) -> Sequence[EmbeddingTable] | EmbeddingStore | None:
    if tables is None or isinstance(tables, EmbeddingStore):
        return tables
    if isinstance(tables, Version):
        return _vectors_of(tables)
    several = [tables] if isinstance(tables, EmbeddingTable | str | Path) else tables
    if not isinstance(several, list | tuple):
        raise ConfigError(f"tables is a {type(tables).__name__}, expected tables or their paths, a version, or a store")
    for table in several:
        if not isinstance(table, EmbeddingTable | str | Path):
            raise ConfigError(f"tables holds {table!r}, expected tables or their paths")
    return [table if isinstance(table, EmbeddingTable) else EmbeddingTable.load(table) for table in several]


def _vectors_of(version: Version) -> list[EmbeddingTable]:
    return [version.table(name) for name, entry in version.tables.items() if entry.kind == "vectors"]


def _find(
    reference: dict[str, Any], tables: Sequence[EmbeddingTable] | EmbeddingStore | None, checkpoint: Path
) -> EmbeddingTable:
    """Return the table that a checkpoint names: by entity, version and fingerprint."""
    entity = reference["entity"]
    candidates = [table for table in _tables_around(reference, tables, checkpoint) if table.entity == entity]
    for table in candidates:
        if table.version == reference["version"] and table.fingerprint == reference["fingerprint"]:
            return table
    came = " and ".join(f"version {table.version!r} ({table.fingerprint[:8]})" for table in candidates) or "none"
    raise VersionError(
        f"{checkpoint} was trained with table {entity!r} of version {reference['version']!r} "
        f"({reference['fingerprint'][:8]}), what is here is {came}: pass that table, load_ranker(path, tables=[...])"
    )


def _tables_around(
    reference: dict[str, Any], tables: Sequence[EmbeddingTable] | EmbeddingStore | None, checkpoint: Path
) -> Sequence[EmbeddingTable]:
    """The tables among which one is looked for: those given, a store's version, or what lies where it was."""
    if isinstance(tables, EmbeddingStore):
        return _vectors_of(tables.open(reference["version"]))
    if tables is not None:
        return tables
    path = None if reference["path"] is None else Path(os.path.normpath(checkpoint / reference["path"]))
    return [EmbeddingTable.load(path)] if path is not None and (path / "table.json").is_file() else []


def _features_to_json(features: FeatureSpec) -> dict[str, Any]:
    numbers = {id(table): number for number, table in enumerate(features.tables)}
    return {
        "pretrained": [
            {
                "column": feature.column,
                "name": feature.name,
                "usage": feature.usage,
                "unknown": feature.unknown,
                "table": numbers[id(feature.table)],
            }
            for feature in features.pretrained
        ],
        "dense": list(features.dense),
        "categorical": {name: _values_to_json(values) for name, values in features.categorical.items()},
        "bags": [
            {"column": bag.column, "name": bag.name, "pooling": bag.pooling}
            | (
                {"table": numbers[id(bag.table)]}
                if bag.table is not None
                else {"values": _values_to_json(bag.vocabulary)}
            )
            for bag in features.bags
        ],
        "label": features.label if isinstance(features.label, str) else list(features.labels),
        "group": features.group,
        "weight": features.weight,
        "missing": features.missing,
    }


def _features_from_json(
    content: dict[str, Any], statistics: dict[str, Any], tables: Sequence[EmbeddingTable]
) -> FeatureSpec:
    bags = [dict(bag) for bag in content["bags"]]
    return FeatureSpec(
        **{
            **content,
            "pretrained": [Pretrained(**{**entry, "table": tables[entry["table"]]}) for entry in content["pretrained"]],
            "bags": [
                Bag(values=tables[bag.pop("table")] if "table" in bag else bag.pop("values"), **bag) for bag in bags
            ],
        },
        statistics=Statistics(
            mean=tuple(statistics["mean"]),
            std=tuple(statistics["std"]),
            vocabularies={name: Vocabulary(values) for name, values in statistics["vocabularies"].items()},
        ),
    )


def _statistics_to_json(statistics: Statistics) -> dict[str, Any]:
    vocabularies = {name: vocabulary.values.to_pylist() for name, vocabulary in statistics.vocabularies.items()}
    return {"mean": statistics.mean, "std": statistics.std, "vocabularies": vocabularies}


def _values_to_json(values: Values | None) -> int | list[Any] | None:
    return values if values is None or isinstance(values, int) else id_array(values).to_pylist()
