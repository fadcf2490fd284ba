"""A store: a folder of versions."""

__all__ = ["EmbeddingStore"]

import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from recokit.errors import FormatError, VersionError, closest
from recokit.table.folder import check_name, local_folder, read_manifest
from recokit.table.relations import RelationParameters
from recokit.table.version import FORMAT, MANIFEST, TableLike, Version, created_of, open_version, write_version


class EmbeddingStore:
    """A folder of versions.

    A folder without ``version.json`` is none yet and not seen; nor is a folder, such as a link called ``production``,
    whose name is not that of the version in it. A folder whose ``version.json`` cannot be read, such as one of a later
    format, is passed over with a warning; opened by name, it raises.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = local_folder(root)

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.root)!r})"

    def versions(self) -> list[str]:
        """Return the names of the complete versions, oldest first, ties by name."""
        found = []
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            if folder.name.startswith(".") or not (folder / MANIFEST).is_file():
                continue
            try:
                manifest = read_manifest(folder, MANIFEST, FORMAT)
                if manifest.get("version") == folder.name:
                    found.append((created_of(folder / MANIFEST, manifest), folder.name))
            except (FormatError, OSError) as error:
                warnings.warn(f"{folder} is passed over: {error}", stacklevel=2)
        return [name for _, name in sorted(found)]

    def latest(self) -> Version | None:
        """Open the newest complete version, or return None where there is none."""
        names = self.versions()
        return self.open(names[-1]) if names else None

    def open(self, name: str, *, verify: bool = False) -> Version:
        """Open a version by name.

        Raises:
            VersionError: There is none of this name.
        """
        if not (self.root / check_name(name, "the version's name") / MANIFEST).is_file():
            raise VersionError(f"{self.root} has no version {name!r}; {closest(name, self.versions())}")
        return open_version(self.root / name, verify=verify)

    def publish(
        self,
        name: str,
        tables: Mapping[str, TableLike],
        *,
        relations: Sequence[RelationParameters] = (),
        parent: str | None = None,
        meta: Mapping[str, Any] | None = None,
        networks: Mapping[str, str] | None = None,
        state: Mapping[str, NDArray[Any]] | None = None,
        created: datetime | None = None,
    ) -> Version:
        """Write a new version into the store, as ``write_version`` does."""
        target = self.root / check_name(name, "the version's name")
        return write_version(
            target,
            tables,
            relations=relations,
            parent=parent,
            meta=meta,
            networks=networks,
            state=state,
            created=created,
        )
