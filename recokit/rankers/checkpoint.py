"""Ranker checkpoints: a folder of plain files that names its tables and does not swallow them.

    ranker.json            {"format": "ranker/2", "kind", "settings", "features", "statistics", "tables", "files"}
    weights/<name>.npy     one array per tensor of the state dict

The vectors of frozen tables are not in it: ``recokit.feature_files`` describes the spec and names its tables. Format
``ranker/1``, which is read too, had no ``offset`` among the weights and knew one kind of table.
"""

__all__ = ["KINDS", "load_ranker", "save_ranker"]

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from recokit.errors import ConfigError, FormatError
from recokit.feature_files import Tables, features_from_json, features_to_json
from recokit.rankers.ads import ESMM, MMoE, SharedBottom
from recokit.rankers.base import Ranker
from recokit.rankers.dcn import DCNv2
from recokit.rankers.dlrm import DLRM
from recokit.rankers.probe import LinearProbe
from recokit.rankers.search import SearchRanker
from recokit.rankers.wide_deep import WideDeep
from recokit.table.folder import (
    FileEntry,
    check_files,
    file_entries,
    load_npy,
    new_folder,
    read_manifest,
    write_json,
    write_npy,
)

FORMAT = "ranker/2"
_FIRST = "ranker/1"
_MANIFEST = "ranker.json"
_RANKERS: tuple[type[Ranker], ...] = (DLRM, WideDeep, DCNv2, SharedBottom, MMoE, ESMM, SearchRanker, LinearProbe)
KINDS: Mapping[str, Callable[..., Ranker]] = {ranker.kind: ranker for ranker in _RANKERS}


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
            **features_to_json(ranker.features, target),
            "files": files,
        }
        write_json(folder / _MANIFEST, manifest)
    return target


def load_ranker(
    path: str | Path, tables: Tables | None = None, *, verify: bool = False, allow_drift: bool = False
) -> Ranker:
    """Read a checkpoint.

    Args:
        path: The folder.
        tables: Where its tables are: a table or its path, several, a version, a store, or None for the paths they were
            loaded from.
        verify: Whether to check checksums too; sizes are always checked.
        allow_drift: Whether a table of another version may take a table's place, if it is the only one of its kind and
            entity; what the ranker says of it, nobody has measured.

    Raises:
        FormatError: the folder is damaged or of another format.
        ConfigError: ``tables`` is none of these.
        VersionError: a table is of another version, or of other bytes, than the ranker was trained with; or it is
            neither among those given nor where it was.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    files = file_entries(folder, manifest, _MANIFEST)
    check_files(folder, files, verify=verify)
    kind = manifest.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise FormatError(f"{folder} holds a ranker of kind {kind!r}; this release reads {sorted(KINDS)}")
    features = features_from_json(manifest, tables, folder, allow_drift=allow_drift)
    try:
        ranker = KINDS[kind](features, **manifest["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{folder / _MANIFEST} does not describe a ranker: {error!r}") from error
    _read_weights(ranker, folder, files, first=manifest["format"] == _FIRST)
    return ranker.eval()


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        return read_manifest(folder, _MANIFEST, FORMAT)
    except FormatError:
        with suppress(FormatError):
            return read_manifest(folder, _MANIFEST, _FIRST)
        raise


def _read_weights(ranker: Ranker, folder: Path, files: Mapping[str, FileEntry], *, first: bool) -> None:
    tensors = {f"weights/{name}.npy": tensor for name, tensor in ranker.state_dict().items()}
    if first:
        del tensors["weights/offset.npy"]  # the zeros that it starts from
    if odd := set(tensors) ^ set(files):
        raise FormatError(f"{folder}: its weights are not those of the ranker it describes, see {min(odd)}")
    for file, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        array = load_npy(folder / file, dtypes=(dtype,), shape=tuple(tensor.shape))
        tensor.copy_(torch.tensor(array))
