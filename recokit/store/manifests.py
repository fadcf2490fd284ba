"""The manifests of a store's versions, read without opening a table."""

__all__ = ["Manifest", "json_report", "manifest_of", "read_manifests"]

import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from recokit.errors import FormatError
from recokit.store.places import Place
from recokit.store.records import record_of
from recokit.table.folder import FileEntry, file_entries, manifest_value
from recokit.table.version import FORMAT, MANIFEST, created_of


@dataclass(frozen=True)
class Manifest:
    """What ``version.json`` says.

    Attributes:
        name: The version's.
        created: When, in UTC.
        parent: The version that it came from, or None.
        files: Its files by path.
        content: All of it.
        data: Its bytes.
    """

    name: str
    created: datetime
    parent: str | None
    files: dict[str, FileEntry]
    content: dict[str, Any]
    data: bytes

    @property
    def bytes(self) -> int:
        """The size of the version."""
        return len(self.data) + sum(entry["bytes"] for entry in self.files.values())


def manifest_of(data: bytes, where: str) -> Manifest:
    """Read the bytes of a ``version.json``.

    Raises:
        FormatError: They are none, or of another format.
    """
    content = record_of(data, where, FORMAT)
    path = Path(where)
    name = manifest_value(path, content, "version", str)
    files = file_entries(path.parent, content, MANIFEST)
    for table in manifest_value(path, content, "tables", list):
        if not isinstance(table, dict) or not all(isinstance(table.get(key), str) for key in ("name", "path")):
            raise FormatError(f"{where}: 'tables' holds {table!r}, expected an object with a name and a path")
    return Manifest(name, created_of(path, content), content.get("parent"), files, content, data)


def read_manifests(place: Place, names: Iterable[str]) -> list[Manifest]:
    """Return the manifests of complete versions among folders, oldest first, ties by name.

    A folder whose name is not the version's is no version; one that cannot be read is passed over with a warning.
    """
    found = []
    for path, data in place.read_all([f"{name}/{MANIFEST}" for name in names]).items():
        name = path.partition("/")[0]
        try:
            if isinstance(data, OSError):
                raise data
            manifest = manifest_of(data, f"{place.url}/{path}")
        except (FormatError, OSError) as error:
            warnings.warn(f"{place.url}/{name} is passed over: {error}", stacklevel=4)
            continue
        if manifest.name == name:
            found.append(manifest)
    return sorted(found, key=lambda manifest: (manifest.created, manifest.name))


def json_report(place: Place, manifest: Manifest, name: str) -> dict[str, Any]:
    """Return the object in a JSON file among a version's reports; an empty one where there is no such file."""
    path = f"{manifest.name}/reports/{name}"
    data = place.read(path) if f"reports/{name}" in manifest.files else None
    if data is None:
        return {}
    try:
        content = json.loads(data)
    except ValueError as error:
        raise FormatError(f"{place.url}/{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise FormatError(f"{place.url}/{path} holds {type(content).__name__}, expected an object")
    return content
