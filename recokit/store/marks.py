"""What keeps a version from being seen, and what keeps it from being removed.

    .retired/<version>.json      {"format": "retired/1", "retired": UTC, "by", "reason"}     hidden; can be restored
    .collecting/<version>.json   {"format": "collecting/1", "since": UTC, "by", process}     being removed for good
    .protected/<digest>.json     {"format": "protected/1", "ranker", "node", "versions": [...], "since": UTC, "by"}

Aliases and protections are written first and look for marks then; marks are written first and look for aliases and
protections then. Of two that come at once, one at least sees the other and steps back.
"""

__all__ = [
    "COLLECTING",
    "Protection",
    "Retirement",
    "check_ranker",
    "collecting_mark",
    "mark_retired",
    "named_by_rankers",
    "protect_ranker",
    "protections",
    "ranker_versions",
    "retired_names",
    "retirement",
    "unmark_retired",
]

import hashlib
import json
import platform
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from recokit.errors import FormatError, VersionError
from recokit.store.places import Place, RemotePlace, place_of
from recokit.store.records import author, now, read_record, record_of, time_of, write_record

RETIRED, COLLECTING, PROTECTED = "retired/1", "collecting/1", "protected/1"
_RANKER = "ranker.json"
_RANKER_FORMATS = ("ranker/", "onnx-ranker/")


@dataclass(frozen=True)
class Retirement:
    """That a version is retired.

    Attributes:
        version: Its name.
        retired: When, in UTC.
        by: User and host.
        reason: Why, if it was said.
    """

    version: str
    retired: datetime
    by: str
    reason: str | None


@dataclass(frozen=True)
class Protection:
    """That a ranker needs versions.

    Attributes:
        ranker: Its folder.
        node: The host that the folder is on; None for a URL.
        versions: Those that it named when it was protected.
        path: The record's, in the store.
    """

    ranker: str
    node: str | None
    versions: tuple[str, ...]
    path: str

    @property
    def is_here(self) -> bool:
        """Whether this host can read the ranker: its folder is on it, or at a URL."""
        return self.node in (None, platform.node())


def retired_names(place: Place) -> set[str]:
    """Return the names of the retired versions."""
    return {name.removesuffix(".json") for name in place.names(".retired") if name.endswith(".json")}


def retirement(place: Place, version: str) -> Retirement | None:
    """Return since when a version is retired, or None."""
    path = _retired(version)
    record = read_record(place, path, RETIRED)
    if record is None:
        return None
    retired = time_of(record, "retired", f"{place.url}/{path}")
    return Retirement(version, retired, str(record.get("by")), record.get("reason"))


def mark_retired(place: Place, version: str, reason: str | None, retired: str | None = None) -> None:
    """Mark a version; a FileExistsError where it is marked."""
    write_record(place, _retired(version), RETIRED, {"retired": retired or now(), "by": author(), "reason": reason})


def unmark_retired(place: Place, version: str) -> None:
    """Remove a version's mark."""
    place.remove(_retired(version))


def collecting_mark(version: str) -> str:
    """Return the path of the mark of a version that is being removed."""
    return f".collecting/{version}.json"


def ranker_versions(folder: str | Path) -> tuple[str, ...]:
    """Return the versions that a ranker's checkpoint, or an exported ranker, names, sorted.

    Raises:
        FormatError: The folder holds no ranker, or one that does not say.
    """
    data = place_of(folder).read(_RANKER)
    if data is None:
        raise FormatError(f"{folder} is not a ranker: it has no {_RANKER}")
    try:
        content = json.loads(data)
        if not str(content["format"]).startswith(_RANKER_FORMATS):
            raise FormatError(f"{folder}/{_RANKER} has the format {content['format']!r}, which is no ranker's")
        versions = [table["version"] for table in content["tables"]]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{folder}/{_RANKER} does not say which tables the ranker needs: {error!r}") from error
    if not all(isinstance(version, str) for version in versions):
        raise FormatError(f"{folder}/{_RANKER} names the versions {versions}, expected texts")
    return tuple(sorted(set(versions)))


def protect_ranker(place: Place, ranker: str | Path) -> Protection:
    """Write down which versions a ranker names; written twice, it is there once."""
    of = place_of(ranker)
    versions = ranker_versions(ranker)
    node = None if isinstance(of, RemotePlace) else platform.node()
    digest = hashlib.sha256("\n".join([node or "", of.url, *versions]).encode()).hexdigest()[:32]
    path = f".protected/{digest}.json"
    record = {"ranker": of.url, "node": node, "versions": list(versions), "since": now(), "by": author()}
    with suppress(FileExistsError):
        write_record(place, path, PROTECTED, record)
    return Protection(of.url, node, versions, path)


def protections(place: Place) -> list[Protection]:
    """Return all protections."""
    paths = [f".protected/{name}" for name in place.names(".protected") if name.endswith(".json")]
    return [_protection(place, path, data) for path, data in place.read_all(paths).items()]


def named_by_rankers(place: Place) -> dict[str, str]:
    """Return the versions that protected rankers name, each with a ranker that does.

    A ranker's folder may have been replaced since: what it names now counts too.

    Raises:
        VersionError: A ranker of this host, or one at a URL, cannot be read any more, so that nobody knows.
    """
    named: dict[str, str] = {}
    for protection in protections(place):
        names: Iterable[str] = protection.versions
        if protection.is_here:
            names = {*names, *check_ranker(protection.ranker)}
        named |= dict.fromkeys(names, protection.ranker)
    return named


def check_ranker(ranker: str) -> tuple[str, ...]:
    """Return what a ranker names, or say that nothing is removed while that is unknown."""
    try:
        return ranker_versions(ranker)
    except (FormatError, OSError) as error:
        raise VersionError(
            f"the ranker {ranker} cannot be read, so nobody knows which versions it needs, and none is removed or "
            f"retired: {error}; if the ranker is gone for good, `recokit store protect --remove` drops it"
        ) from error


def _protection(place: Place, path: str, data: bytes | OSError) -> Protection:
    if isinstance(data, OSError):
        raise data
    record = record_of(data, f"{place.url}/{path}", PROTECTED)
    ranker, node, versions = record.get("ranker"), record.get("node"), record.get("versions")
    if not isinstance(ranker, str) or not _texts(versions):
        raise FormatError(f"{place.url}/{path} does not say which ranker needs which versions")
    return Protection(ranker, node, tuple(versions or ()), path)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _retired(version: str) -> str:
    return f".retired/{version}.json"
