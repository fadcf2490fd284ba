"""Versions: what is published, compared and retired as one.

    version.json    name, creation time, parent, tables, files with checksums; without it there is no version
    <table>/        one folder for each table
    relations/      operators and their parameters
    state/          what training needs to go on from it
    reports/        what was measured of it: files of any kind

A version appears by one rename and is never changed.
"""

__all__ = [
    "MANIFEST",
    "TableEntry",
    "TableLike",
    "Version",
    "check_table_name",
    "created_of",
    "extend_version",
    "open_version",
    "write_version",
]

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, FormatError, VersionError, closest
from recokit.table.codes import PQTable
from recokit.table.folder import (
    FileEntry,
    check_files,
    check_inside,
    check_name,
    entries_within,
    file_entries,
    json_object,
    local_folder,
    manifest_value,
    new_folder,
    read_json,
    read_manifest,
    sync_folder,
    write_bytes,
    write_json,
    write_npy,
)
from recokit.table.mixtures import FeatureTable, Mixture
from recokit.table.relations import RelationParameters, Side, read_relations, write_relations
from recokit.table.vectors import EmbeddingTable

FORMAT = "embedding-version/1"
MANIFEST = "version.json"
_ENTRY_FIELDS = ("name", "path", "entity", "kind", "network", "components")


class TableLike(Protocol):
    """What a version can hold: vectors, codes, mixtures. ``save`` writes a folder with a ``table.json``."""

    @property
    def entity(self) -> str:
        """The entity type."""

    @property
    def version(self) -> str:
        """The version that the table belongs to."""

    @property
    def kind(self) -> str:
        """``"vectors"``, ``"codes"`` or ``"mixture"``."""

    def save(self, path: str | Path) -> Path:
        """Write the table as a new folder whose ``table.json`` lists ``files`` with bytes and sha256."""


@dataclass(frozen=True)
class TableEntry:
    """What a version says of one of its tables.

    Attributes:
        name: Its name, unique in the version.
        path: Its folder.
        entity: The entity type.
        kind: ``"vectors"``, ``"codes"``, ``"mixture"``, or what a later release adds.
        network: The network that it comes from, where a version holds several.
        components: For a mixture, the table that its rows point into.
        extra: Fields that this release does not know.
    """

    name: str
    path: Path
    entity: str
    kind: str
    network: str | None = None
    components: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Version:
    """A published version; made by ``open_version`` and ``write_version``.

    Attributes:
        name: Its name, that of its folder when it was written.
        created: When, in UTC.
        parent: The version that its training started from, or None.
        meta: What the producer wants known, such as the edges that were used.
        path: Its folder.
        tables: Its tables by name.
    """

    name: str
    created: datetime
    parent: str | None
    meta: Mapping[str, Any]
    path: Path
    tables: Mapping[str, TableEntry]
    _has_relations: bool = False
    _state_names: tuple[str, ...] = ()
    _report_names: tuple[str, ...] = ()
    _opened: dict[str, EmbeddingTable] = field(default_factory=dict, repr=False, compare=False)
    _mixtures: dict[str, Mixture] = field(default_factory=dict, repr=False, compare=False)
    _codes: dict[str, PQTable] = field(default_factory=dict, repr=False, compare=False)

    def table(self, name: str) -> EmbeddingTable:
        """Open the table ``name``, of kind ``"vectors"``, memory-mapped; asked again, the same object."""
        entry = self._entry(name, "vectors")
        if name not in self._opened:
            self._opened[name] = EmbeddingTable.load(entry.path)
        return self._opened[name]

    def mixture(self, name: str) -> Mixture:
        """Open the table ``name``, of kind ``"mixture"``, memory-mapped; asked again, the same object."""
        entry = self._entry(name, "mixture")
        if name not in self._mixtures:
            # A mixture may hold its components inside; then a table of their name in the version is another one.
            shared = entry.components in self.tables and not (entry.path / str(entry.components)).is_dir()
            components = self.table(str(entry.components)) if shared else None
            self._mixtures[name] = Mixture.load(entry.path, components=components)
        return self._mixtures[name]

    def codes(self, name: str) -> PQTable:
        """Open the table ``name``, of kind ``"codes"``, memory-mapped; asked again, the same object.

        Raises:
            VersionError: Its folder holds codes of another version.
        """
        entry = self._entry(name, "codes")
        if name not in self._codes:
            table = PQTable.load(entry.path)
            if table.version != self.name:
                raise VersionError(
                    f"{entry.path} holds codes of version {table.version!r}, expected those of {self.name!r}"
                )
            self._codes[name] = table
        return self._codes[name]

    def open(self, name: str) -> FeatureTable:
        """Open the table ``name``, of whichever kind."""
        entry = self.tables.get(name)
        kind = "vectors" if entry is None else entry.kind
        if kind == "mixture":
            return self.mixture(name)
        return self.codes(name) if kind == "codes" else self.table(name)

    def _entry(self, name: str, kind: str) -> TableEntry:
        if name not in self.tables:
            raise ConfigError(f"version {self.name!r} has no table {name!r}; {closest(name, self.tables)}")
        entry = self.tables[name]
        if entry.kind != kind:
            raise ConfigError(
                f"table {name!r} of version {self.name!r} is of kind {entry.kind!r}, expected {kind!r}; open({name!r}) "
                "opens any kind"
            )
        return entry

    def table_of(
        self, relation: str, side: Side, *, kinds: Sequence[Literal["vectors", "mixture"]] = ("vectors",)
    ) -> str | None:
        """Return the name of the table of a relation's sources or targets, of its own network; None if there is none.

        Networks name their relations ``<relation>-<network>``, as they name their tables.
        """
        entity = getattr(self.relations[relation], side)
        entries = [each for each in self.tables.values() if each.entity == entity and each.kind in kinds]
        own = [each for each in entries if each.network and relation.endswith(f"-{each.network}")]
        plain = [each for each in entries if each.name == entity]
        found = max(own, key=lambda each: len(each.network or ""), default=None) or next(iter(plain), None)
        return None if found is None else found.name

    @cached_property
    def state(self) -> Mapping[str, NDArray[Any]]:
        """What training needs to go on from this version, by name, memory-mapped; empty where it keeps nothing."""
        folder = self.path / "state"
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in self._state_names}

    @property
    def reports(self) -> Mapping[str, Path]:
        """What was measured of this version and published with it, by the names of the files."""
        return {name: self.path / "reports" / name for name in self._report_names}

    @cached_property
    def relations(self) -> Mapping[str, RelationParameters]:
        """The relations by name; read at first use."""
        return read_relations(self.path / "relations") if self._has_relations else {}


def open_version(path: str | Path, *, verify: bool = False) -> Version:
    """Open a version: read its manifest and compare the sizes of its files.

    Args:
        path: Its folder.
        verify: Read every file and compare its SHA-256.

    Raises:
        FormatError: The folder is no version, is damaged, or of a format that this release does not read.
        ChecksumError: With ``verify``, a file's bytes have changed.
    """
    folder = local_folder(path)
    manifest = read_manifest(folder, MANIFEST, FORMAT)
    files = file_entries(folder, manifest, MANIFEST)
    check_files(folder, files, verify=verify)
    tables = [_table_entry(folder, entry) for entry in manifest_value(folder / MANIFEST, manifest, "tables", list)]
    return Version(
        name=manifest_value(folder / MANIFEST, manifest, "version", str),
        created=created_of(folder / MANIFEST, manifest),
        parent=manifest.get("parent"),
        meta=manifest_value(folder / MANIFEST, manifest, "meta", dict),
        path=folder,
        tables={table.name: table for table in tables},
        _has_relations="relations/relations.json" in files,
        _state_names=tuple(
            name.removeprefix("state/").removesuffix(".npy") for name in files if name.startswith("state/")
        ),
        _report_names=tuple(name.removeprefix("reports/") for name in files if name.startswith("reports/")),
    )


def write_version(
    path: str | Path,
    tables: Mapping[str, TableLike],
    *,
    relations: Sequence[RelationParameters] = (),
    parent: str | None = None,
    meta: Mapping[str, Any] | None = None,
    networks: Mapping[str, str] | None = None,
    state: Mapping[str, NDArray[Any]] | None = None,
    reports: Mapping[str, str | bytes] | None = None,
    created: datetime | None = None,
) -> Version:
    """Write a version as a folder, which appears whole or not at all.

    Args:
        path: The folder to make; its name is the version's name.
        tables: Tables by name, all of this version.
        relations: What the tables were trained with.
        parent: The version that training started from.
        meta: What should be known, such as the edges that were used; JSON.
        networks: The network that a table comes from, by table name.
        state: What training needs to go on from this version, as arrays by name; readers of tables ignore it.
        reports: What was measured of it: contents by the names of files, such as ``"benchmarks.json"``.
        created: When the version was made; now, where it is not given.

    Raises:
        VersionError: The path exists, or a table belongs to another version.
        ConfigError: A name cannot be a folder's, or a network is given for no table.
    """
    target, networks = local_folder(path), dict(networks or {})
    _check_tables(target.name, tables, networks)
    created = datetime.now(UTC) if created is None else created
    if created.tzinfo is None:
        raise ConfigError(f"created is {created}, expected a time with a time zone")
    meta = json_object(meta or {}, f"meta of version {target.name!r}")
    with new_folder(target) as folder:
        entries, files = _write_tables(folder, tables, networks)
        if relations:
            written = write_relations(folder / "relations", relations)
            files |= {f"relations/{file}": entry for file, entry in written.items()}
        for name, array in (state or {}).items():
            (folder / "state").mkdir(exist_ok=True)
            file = f"state/{check_name(name, 'the name of a state')}.npy"
            files[file] = write_npy(folder / file, array)
        files |= _write_reports(folder, reports or {})
        version = {
            "format": FORMAT,
            "version": target.name,
            "created": created.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "parent": parent,
            "tables": entries,
            "files": files,
            "meta": meta,
        }
        write_json(folder / MANIFEST, version)
    return open_version(target)


def extend_version(
    path: str | Path,
    base: Version,
    *,
    tables: Mapping[str, TableLike] | None = None,
    networks: Mapping[str, str] | None = None,
    reports: Mapping[str, str | bytes] | None = None,
) -> Version:
    """Write a version that holds all that another one of its name holds, and more, without reading what is there.

    The files of ``base`` are linked, with the digests that its manifest has of them, or copied where the file system
    is another one. Creation time, parent and meta are those of ``base``.

    Args:
        path: The folder to make; its name is that of both versions.
        base: The version, which stays as it is.
        tables: More tables by name, such as codes, of this version.
        networks: The network that one of them comes from, by table name.
        reports: More reports: contents by the names of files.

    Raises:
        VersionError: The path exists, or ``base`` or a table is of another version.
        ConfigError: The version has a table or a report of that name.
        ChecksumError: A file of ``base`` had to be copied, and is not what its manifest says.
    """
    target, tables, networks = local_folder(path), dict(tables or {}), dict(networks or {})
    if base.name != target.name:
        raise VersionError(
            f"{base.path} is version {base.name!r}, expected {target.name!r}, as its folder will be called"
        )
    _check_tables(target.name, tables, networks)
    for kind, more, there in (("table", tables, base.tables), ("report", reports or {}, base.reports)):
        for name in more:
            if name in there:
                raise ConfigError(f"version {base.name!r} has a {kind} {name!r} already")
    manifest = read_manifest(base.path, MANIFEST, FORMAT)
    linked = file_entries(base.path, manifest, MANIFEST)
    with new_folder(target) as folder:
        for file, entry in linked.items():
            _link(base.path / file, folder / file, entry)
        for inner in {place for place in folder.rglob("*") if place.is_dir()}:
            sync_folder(inner)
        entries, files = _write_tables(folder, tables, networks)
        files |= _write_reports(folder, reports or {})
        manifest |= {"tables": [*manifest["tables"], *entries], "files": {**linked, **files}}
        write_json(folder / MANIFEST, manifest)
    return open_version(target)


def _write_tables(
    folder: Path, tables: Mapping[str, TableLike], networks: Mapping[str, str]
) -> tuple[list[dict[str, Any]], dict[str, FileEntry]]:
    """Save tables; return what the manifest says of them, and of their files."""
    for name in sorted(tables, key=lambda each: tables[each].kind == "mixture"):
        tables[name].save(folder / name)  # mixtures last: they refer to tables that are there
    entries: list[dict[str, Any]] = []
    files: dict[str, FileEntry] = {}
    for name, table in tables.items():
        manifest = read_json(folder / name / "table.json")
        files |= entries_within(folder, name, manifest)
        entry = {"name": name, "path": name, "entity": table.entity, "kind": table.kind}
        entries.append(entry | {"network": networks.get(name), "components": manifest.get("components")})
    return entries, files


def _write_reports(folder: Path, reports: Mapping[str, str | bytes]) -> dict[str, FileEntry]:
    files = {}
    for name, content in reports.items():
        (folder / "reports").mkdir(exist_ok=True)
        file = f"reports/{check_name(name, 'the name of a report')}"
        files[file] = write_bytes(folder / file, content.encode() if isinstance(content, str) else content)
    return files


def _link(source: Path, target: Path, entry: FileEntry) -> None:
    """Make a file appear in a second place: the same bytes on disk, or a copy that is checked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=True)
        return
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    check_files(target.parent, {target.name: entry}, verify=True)


def check_table_name(name: str, what: str = "a table's name") -> str:
    """Return ``name`` if a version can hold a table under it: a folder's name that it does not keep for itself."""
    if check_name(name, what) in ("relations", "state", "reports", MANIFEST):
        raise ConfigError(
            f"{what} is {name!r}, which is a folder of every version or its manifest: a table cannot be called {name!r}"
        )
    return name


def _check_tables(version: str, tables: Mapping[str, TableLike], networks: Mapping[str, str]) -> None:
    check_name(version, "the version's name")
    for name, table in tables.items():
        check_table_name(name)
        if table.version != version:
            raise VersionError(f"table {name!r} is of version {table.version!r}, expected {version!r}")
    for name in networks:
        if name not in tables:
            raise ConfigError(f"networks names the table {name!r}; {closest(name, tables)}")


def _table_entry(folder: Path, entry: Any) -> TableEntry:
    path = folder / MANIFEST
    if not isinstance(entry, dict):
        raise FormatError(f"{path}: 'tables' holds {entry!r}, expected objects")
    name, where, entity, kind = (manifest_value(path, entry, key, str) for key in ("name", "path", "entity", "kind"))
    return TableEntry(
        name=name,
        path=folder / check_inside(path, where),
        entity=entity,
        kind=kind,
        network=entry.get("network"),
        components=entry.get("components"),
        extra={key: value for key, value in entry.items() if key not in _ENTRY_FIELDS},
    )


def created_of(path: Path, manifest: Mapping[str, Any]) -> datetime:
    """Return when a version was made, in UTC."""
    text = manifest_value(path, manifest, "created", str)
    try:
        created = datetime.fromisoformat(text)
    except ValueError as error:
        raise FormatError(f"{path}: 'created' is {text!r}, expected an ISO 8601 time") from error
    return created.replace(tzinfo=UTC) if created.tzinfo is None else created.astimezone(UTC)
