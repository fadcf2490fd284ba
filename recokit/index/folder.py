"""A saved index: a folder with its backend's file and a manifest that ties both to one table.

    index.json   {"format": "index/1", "kind": "exact" | "hnsw" | "faiss", "parameters": {...}, "entity", "version",
                  "comparator", "count", "dim", "fingerprint": sha256 of the table's vectors.npy,
                  "bias": sha256 of its bias.npy or null, "ids": sha256 of its ids,
                  "files": {"index.hnsw": {"bytes", "sha256"}}}
    index.*      as hnswlib or faiss writes it; none for exact search

The backends' readers trust their files, so checksums are verified on every load, before they see them.
"""

__all__ = ["check_parameters", "kind_of", "load", "save"]

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recokit.errors import FormatError, VersionError
from recokit.table import EmbeddingTable
from recokit.table.folder import (
    FileEntry,
    check_files,
    file_entries,
    local_folder,
    manifest_value,
    new_folder,
    npy_digest,
    read_manifest,
    sha256_of,
    write_json,
)

FORMAT = "index/1"
_MANIFEST = "index.json"


def save(
    path: str | Path,
    *,
    kind: str,
    table: EmbeddingTable,
    parameters: Mapping[str, Any],
    write: tuple[str, Callable[[str], object]] | None = None,
) -> Path:
    """Write an index as a folder that appears whole or not at all.

    Args:
        path: The folder to make; it must not exist.
        kind: Which class can load it.
        table: The table that it was built from.
        parameters: What the class needs to load it, as JSON.
        write: The name of the backend's file, and the function that writes it to a path.

    Raises:
        VersionError: ``path`` exists.
    """
    target = local_folder(path)
    with new_folder(target) as folder:
        files: dict[str, FileEntry] = {}
        if write is not None:
            name, function = write
            function(str(folder / name))
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())
            files[name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        manifest = {"format": FORMAT, "kind": kind, "parameters": dict(parameters), **_identity(table), "files": files}
        write_json(folder / _MANIFEST, manifest)
    return target


def load(path: str | Path, *, kind: str, table: EmbeddingTable, file: str | None = None) -> dict[str, Any]:
    """Check that a folder holds a sound index of a kind over a table, and return its parameters.

    Args:
        path: The folder.
        kind: The kind expected.
        table: The table that the index should have been built from.
        file: The backend's file expected.

    Raises:
        FormatError: It is not an index of this kind, or damaged.
        VersionError: It was built from another table.
    """
    folder = local_folder(path)
    manifest = read_manifest(folder, _MANIFEST, FORMAT)
    if manifest.get("kind") != kind:
        raise FormatError(f"{folder} holds an index of kind {manifest.get('kind')!r}, expected {kind!r}")
    for key, value in _identity(table).items():
        if manifest.get(key) != value:
            raise VersionError(
                f"{folder} was built from another table: its {key} is {manifest.get(key)!r}, the table's is {value!r}"
            )
    files = file_entries(folder, manifest, _MANIFEST)
    if list(files) != ([] if file is None else [file]):
        raise FormatError(f"{folder / _MANIFEST} lists the files {sorted(files)}, expected {file or 'none'}")
    check_files(folder, files, verify=True)
    return manifest_value(folder / _MANIFEST, manifest, "parameters", dict)


def check_parameters(path: str | Path, found: Mapping[str, Any], expected: Mapping[str, type]) -> None:
    """Check that a manifest has the parameters expected, of their types, and no others."""
    if {name: type(value) for name, value in found.items()} != dict(expected):
        types = {name: kind.__name__ for name, kind in expected.items()}
        raise FormatError(f"{Path(path) / _MANIFEST} has the parameters {dict(found)}, expected {types}")


def kind_of(path: Path) -> str:
    """Return the kind of a saved index."""
    return str(read_manifest(path, _MANIFEST, FORMAT).get("kind"))


def _identity(table: EmbeddingTable) -> dict[str, Any]:
    return {
        "entity": table.entity,
        "version": table.version,
        "comparator": table.comparator,
        "count": table.count,
        "dim": table.dim,
        "fingerprint": table.fingerprint,
        "bias": None if table.bias is None else npy_digest(table.bias),
        "ids": table.ids_sha256,
    }
