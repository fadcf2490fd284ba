"""Versions of a remote store on this machine: copied whole, checked, and then memory-mapped like any other.

A copy is known by the store's URL, the version's name and the SHA-256 of its ``version.json``: a name that was removed
and published again is another version, and its old copy is never taken for it.
"""

__all__ = ["cached_copy", "default_cache", "keep_copy", "trim_cache"]

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

from recokit.errors import ChecksumError, VersionError
from recokit.store.manifests import Manifest
from recokit.store.places import RemotePlace
from recokit.store.publication import Progress
from recokit.table.folder import new_folder, remove_folder, sha256_of, write_bytes
from recokit.table.version import MANIFEST


def default_cache() -> Path:
    """Return ``$RECOKIT_CACHE/versions``, or ``~/.cache/recokit/versions``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("RECOKIT_CACHE") or Path(home) / "recokit") / "versions"


def cached_copy(place: RemotePlace, manifest: Manifest, cache: Path, progress: Progress | None = None) -> Path:
    """Return the folder of a version's copy, made first where there is none.

    Of several processes that make it at once, all use the one that was complete first.

    Raises:
        VersionError: The version was removed meanwhile.
        ChecksumError: A file came with other bytes than were published.
    """
    target = copy_path(place, manifest, cache)
    if not (target / MANIFEST).is_file():
        try:
            _download(place, manifest, target, progress)
        except VersionError:
            if not (target / MANIFEST).is_file():
                raise
    with suppress(OSError):  # a cache may be read only
        os.utime(target)  # when it was used last, for trim_cache
    return target


def copy_path(place: RemotePlace, manifest: Manifest, cache: Path) -> Path:
    """Return where the copy of a version is, or would be."""
    known_by = "\n".join([place.url, manifest.name, hashlib.sha256(manifest.data).hexdigest()])
    return cache / f"{manifest.name[:100]}-{hashlib.sha256(known_by.encode()).hexdigest()[:32]}"


def keep_copy(place: RemotePlace, manifest: Manifest, cache: Path, folder: Path) -> Path:
    """Move a folder that was published to where its copy would be."""
    target = copy_path(place, manifest, cache)
    try:
        folder.rename(target)
    except OSError:  # there is one
        shutil.rmtree(folder)
    return target


def trim_cache(cache: Path, max_bytes: int) -> list[Path]:
    """Remove the copies that were not used for longest, until the others take ``max_bytes`` at most; return which.

    A version that a process has open stays readable for it, as its memory maps hold the files.
    """
    copies = [path for path in cache.iterdir() if (path / MANIFEST).is_file()] if cache.is_dir() else []
    copies.sort(key=lambda path: path.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in copies}
    total, removed = sum(sizes.values()), []
    for path in copies:
        if total <= max_bytes:
            break
        remove_folder(path)
        total -= sizes[path]
        removed.append(path)
    return removed


def _download(place: RemotePlace, manifest: Manifest, target: Path, progress: Progress | None) -> None:
    done = 0
    with new_folder(target) as folder:
        for file, entry in manifest.files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            where = f"{place.url}/{manifest.name}/{file}"
            try:
                place.download(f"{manifest.name}/{file}", path)
            except FileNotFoundError:
                raise VersionError(f"{where} is not there: the version was removed while it was copied") from None
            if (digest := sha256_of(path)) != entry["sha256"]:
                raise ChecksumError(f"{where} has the sha256 {digest}, expected {entry['sha256']}")
            done += entry["bytes"]
            if progress is not None:
                progress(done, manifest.bytes)
        write_bytes(folder / MANIFEST, manifest.data)
