"""How a complete local folder becomes a version of a store: at once, or not at all.

Locally its files are linked, or copied where it lies on another file system, into a folder that appears by one rename.
On an object store a claim is taken, what a dead publisher left is removed, every file is created where there is none,
and ``version.json``, created last, is the commit.
"""

__all__ = ["Progress", "publish_locally", "publish_remotely", "remove_remains"]

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from recokit.errors import ChecksumError, VersionError
from recokit.store.claims import Claim, check_owned, release, take_claim
from recokit.store.manifests import Manifest
from recokit.store.places import RemotePlace
from recokit.table.folder import FileEntry, new_folder, sha256_of, sync_folder
from recokit.table.version import MANIFEST

Progress: TypeAlias = Callable[[int, int], None]  # bytes that are done, and of how many


def publish_locally(folder: Path, manifest: Manifest, target: Path, progress: Progress | None = None) -> None:
    """Make a version's folder of the files of another one, which stays as it is.

    Raises:
        VersionError: ``target`` exists.
        ChecksumError: A file is not what its manifest says.
    """
    done = 0
    with new_folder(target) as new:
        for file, entry in manifest.files.items():
            path = new / file
            path.parent.mkdir(parents=True, exist_ok=True)
            source = (folder / file).resolve()  # a link to a symbolic link would lead wherever that one does
            try:
                os.link(source, path)
            except OSError:
                _copy(source, path)
            _check(path, entry, folder / file)
            done += entry["bytes"]
            if progress is not None:
                progress(done, manifest.bytes)
        for inner in {path for path in new.rglob("*") if path.is_dir()}:
            sync_folder(inner)
        _write(new / MANIFEST, manifest.data)


def publish_remotely(place: RemotePlace, folder: Path, manifest: Manifest, progress: Progress | None = None) -> None:
    """Upload a version; what an exception interrupts is removed again, what a kill does, by whoever comes next.

    Raises:
        VersionError: The version is there, or somebody else is publishing it.
        ChecksumError: A file is not what its manifest says.
    """
    place.check_writable()
    claim = take_claim(place, manifest.name)
    try:
        if place.read(f"{manifest.name}/{MANIFEST}") is not None:
            raise VersionError(f"{place.url} has a version {manifest.name!r}, and what is published is never changed")
        remove_remains(place, claim)
        _upload(place, folder, manifest, progress)
        check_owned(place, claim)
        try:
            place.create(f"{manifest.name}/{MANIFEST}", manifest.data)
        except FileExistsError:
            raise VersionError(f"{place.url}: another publisher's version {manifest.name!r} came first") from None
    except BaseException:
        _clean_up(place, claim)
        raise
    with suppress(OSError):  # the version is there; a claim that stays is a dead process's soon
        release(place, claim)


def remove_remains(place: RemotePlace, claim: Claim) -> int:
    """Remove the files of a version without ``version.json``, as the owner of the claim; return how many there were."""
    files = place.files(claim.version)
    for file in files:
        check_owned(place, claim)
        place.remove(f"{claim.version}/{file}")
    return len(files)


def _clean_up(place: RemotePlace, claim: Claim) -> None:
    """Remove what was uploaded, unless the version is another's now; a claim that stays tells of what stays."""
    with suppress(OSError, VersionError):
        check_owned(place, claim)
        if place.read(f"{claim.version}/{MANIFEST}") is None:
            remove_remains(place, claim)
        release(place, claim)


def _upload(place: RemotePlace, folder: Path, manifest: Manifest, progress: Progress | None) -> None:
    done = 0
    for file, entry in manifest.files.items():
        _check(folder / file, entry)
        try:
            place.upload(folder / file, f"{manifest.name}/{file}")
        except FileExistsError:
            raise VersionError(
                f"{place.url}/{manifest.name}/{file} was written by another publisher: try again"
            ) from None
        done += entry["bytes"]
        if progress is not None:
            progress(done, manifest.bytes)
    expected = {file: entry["bytes"] for file, entry in manifest.files.items()}
    if (found := place.files(manifest.name)) != expected:
        odd = sorted(set(found.items()) ^ set(expected.items()))
        raise VersionError(f"{place.url}/{manifest.name} is not what was uploaded, see {odd[0][0]!r}: try again")


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _check(path: Path, entry: FileEntry, known_as: Path | None = None) -> None:
    if (digest := sha256_of(path)) != entry["sha256"]:
        raise ChecksumError(
            f"{known_as or path} has the sha256 {digest}, expected {entry['sha256']}: its bytes have changed"
        )


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
