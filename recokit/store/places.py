"""Where a store lies: a folder of this machine, or a file system that fsspec reaches by a URL.

A store needs one thing of its place that not every file system has: to create a small file that either is there whole
or not at all, and that only one of many writers creates. Aliases, marks and claims are such files, and ``version.json``
is one on object stores. Locally it is a hard link to a file that is complete; on S3 it is ``If-None-Match: *``, and
Google's and Azure's have the like. For the others fsspec looks first and writes then, which two writers can do at once,
so those places can be read and not written.

Paths are relative to the place, with ``/`` between parts. Listings are never taken from a cache.
"""

__all__ = ["LocalPlace", "Place", "RemotePlace", "Unreadable", "path_of", "place_of"]

import glob
import inspect
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from recokit.errors import ConfigError, MissingDependencyError
from recokit.table.folder import is_url, local_folder, partial_path, sync_folder, write_bytes

Unreadable: TypeAlias = OSError
_MARKER = ".store.json"
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_MEMORY = threading.RLock()  # fsspec's files in memory share one position, and are looked for before they are written
_CONFLICT, _TRIES = "ConditionalRequestConflict", 6  # what S3 answers to one of two writers at once: ask again


class Place(Protocol):
    """Small files by their paths, and what a folder holds."""

    @property
    def url(self) -> str:
        """Where it is, as people type it."""

    def create(self, path: str, data: bytes) -> None:
        """Write a file that is not there yet, whole or not at all; FileExistsError where it is."""

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""

    def read_all(self, paths: Sequence[str]) -> dict[str, bytes | Unreadable]:
        """Return the bytes of the files that are there, or the error of one that cannot be read."""

    def names(self, path: str = "") -> list[str]:
        """Return the names in a folder, sorted; none where it is not there."""

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""


def place_of(root: str | Path, options: Mapping[str, Any] | None = None) -> "LocalPlace | RemotePlace":
    """Return the place of a local folder, of a ``file://`` URL, or of another that fsspec knows.

    Args:
        root: The folder or the URL.
        options: Of fsspec's file system, such as ``{"endpoint_url": ...}``; what is not given comes from the
            environment, as its package documents.

    Raises:
        ConfigError: fsspec does not know the URL, or options are given for a local folder.
        MissingDependencyError: The file system's package is not installed.
    """
    if isinstance(root, str) and "://" in root and is_url(root) and not root.startswith("file://"):
        return RemotePlace(root, options)
    if options:
        raise ConfigError(f"{root} is a local folder, which takes no options; these came: {', '.join(options)}")
    return LocalPlace(local_folder(path_of(root)))


def path_of(root: str | Path) -> Path:
    """Return the path of a local folder, or of a ``file://`` URL; a ConfigError where that names another host."""
    from urllib.parse import unquote, urlsplit

    if not isinstance(root, str) or not root.startswith("file://"):
        return Path(root)
    parts = urlsplit(root)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(f"{root} names the host {parts.netloc!r}: a folder of this machine is file:///path")
    return Path(unquote(parts.path))


class LocalPlace:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self.folder)

    def create(self, path: str, data: bytes) -> None:
        """Write a file aside and give it its name by a link, which fails where the name is taken."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_path(self.folder / target.name)
        write_bytes(partial, data)
        try:
            os.link(partial, target)
        except FileExistsError:
            raise
        except OSError as error:
            raise ConfigError(f"{self.folder} is on a file system without hard links, which a store needs") from error
        finally:
            partial.unlink()
        sync_folder(target.parent)

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        try:
            return (self.folder / path).read_bytes()
        except _ABSENT:
            return None

    def read_all(self, paths: Sequence[str]) -> dict[str, bytes | Unreadable]:
        """Read one after the other."""
        found: dict[str, bytes | Unreadable] = {}
        for path in paths:
            try:
                found[path] = (self.folder / path).read_bytes()
            except _ABSENT:
                continue
            except OSError as error:
                found[path] = error
        return found

    def names(self, path: str = "") -> list[str]:
        """Return the names in a folder, sorted; none where it is not there."""
        try:
            return sorted(entry.name for entry in os.scandir(self.folder / path))
        except _ABSENT:
            return []

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        (self.folder / path).unlink(missing_ok=True)


class RemotePlace:
    """A folder of an object store, or of another file system of fsspec."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self._url = url.rstrip("/")
        self._options = dict(options or {})
        self._root = str(self.fs._strip_protocol(self._url)).rstrip("/")
        self._writable = False

    @property
    def url(self) -> str:
        """The URL."""
        return self._url

    @property
    def fs(self) -> Any:
        """The file system of fsspec; asked for at each use, since it does not outlive a fork."""
        import fsspec

        protocol = self._url.partition("://")[0]
        try:
            return fsspec.filesystem(protocol, **{"use_listings_cache": False, **self._options})
        except ImportError as error:
            if protocol in ("s3", "s3a"):
                raise MissingDependencyError("s3fs", extra="s3", needed_for=f"a store at {protocol}://") from error
            raise ConfigError(f"{self._url} cannot be reached: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{self._url} cannot be reached: {error}") from error

    def at(self, path: str) -> str:
        """Return a path as the file system takes it."""
        return f"{self._root}/{path}" if path else self._root

    def create(self, path: str, data: bytes) -> None:
        """Create an object that is not there; a FileExistsError where another writer's is.

        An answer that is lost is asked for again, and then the object is there already: it is ours if its bytes are,
        which hold something of this writer alone wherever it matters.
        """
        self.check_writable()
        with self._asking():
            self._create(path, data)

    def _create(self, path: str, data: bytes) -> None:
        for attempt in range(_TRIES):
            try:
                self.fs.pipe_file(self.at(path), data, mode="create")
                return
            except FileExistsError:
                if self.read(path) == data:
                    return
                raise
            except OSError as error:
                if _CONFLICT not in f"{error} {error.__cause__}" or attempt == _TRIES - 1:
                    raise
                time.sleep(0.05 * 2**attempt)

    def read(self, path: str) -> bytes | None:
        """Return an object's bytes, or None where there is none."""
        with self._asking():
            try:
                return bytes(self.fs.cat_file(self.at(path)))
            except _ABSENT:
                return None

    def read_all(self, paths: Sequence[str]) -> dict[str, bytes | Unreadable]:
        """Read many objects, at once where the file system can."""
        if not paths:
            return {}
        if glob.has_magic(self._root):  # which fsspec would take for a pattern
            return {path: data for path in paths if (data := self.read(path)) is not None}
        names = {str(self.fs._strip_protocol(self.at(path))): path for path in paths}
        with self._asking():
            found = self.fs.cat(list(names), on_error="return", recursive=False)
        there: dict[str, bytes | Unreadable] = {}
        for name, value in found.items():
            if isinstance(value, bytes):
                there[names[name]] = value
            elif not isinstance(value, _ABSENT):
                there[names[name]] = value if isinstance(value, OSError) else OSError(str(value))
        return there

    def names(self, path: str = "") -> list[str]:
        """Return the names in a folder, sorted; none where it is not there."""
        self.fs.invalidate_cache()
        with self._asking():
            try:
                found = self.fs.ls(self.at(path), detail=False)
            except _ABSENT:
                return []
        own = self.at(path).rstrip("/")
        return sorted({str(name).rstrip("/").rpartition("/")[2] for name in found if str(name).rstrip("/") != own})

    def files(self, path: str) -> dict[str, int]:
        """Return all files below a folder, by their paths from it, with their sizes."""
        self.fs.invalidate_cache()
        with self._asking():
            found = self.fs.find(self.at(path), detail=True)
        start = len(self.at(path)) + 1
        return {name[start:]: int(entry["size"]) for name, entry in found.items() if entry["type"] == "file"}

    def upload(self, source: Path, path: str) -> None:
        """Copy a local file to where there is none; FileExistsError where there is."""
        self.check_writable()
        with self._asking():
            self.fs.put_file(str(source), self.at(path), mode="create")

    def download(self, path: str, target: Path) -> None:
        """Copy a file to this machine and flush it to disk."""
        with self._asking():
            self.fs.get_file(self.at(path), str(target))
        with target.open("rb+") as file:
            os.fsync(file.fileno())

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        with self._asking(), suppress(FileNotFoundError):
            self.fs.rm_file(self.at(path))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Raise what a server's library raises as an OSError that says where; one thread at a time asks the memory."""
        with _MEMORY if self._url.startswith("memory:") else nullcontext():
            try:
                yield
            except (OSError, ConfigError, MissingDependencyError):
                raise
            except Exception as error:  # botocore's, for one, are of no class of Python's own
                raise OSError(f"{self._url}: {error}") from error

    def check_writable(self) -> None:
        """Refuse a place where two writers of one file would both be told that they created it.

        Raises:
            ConfigError: fsspec's file system looks first and writes then, or the server ignores the condition.
        """
        if self._writable:
            return
        if not _creates_exclusively(self.fs):
            raise ConfigError(
                f"{self._url}: {type(self.fs).__name__} cannot create a file that is not there in one step, so that a "
                "store there can be read and not written: write to a local folder, S3, Google Cloud Storage or Azure"
            )
        with self._asking():
            for _ in range(2):  # it may be there, and is never removed: what a kill leaves is what it should be
                with suppress(FileExistsError):
                    self._create(_MARKER, json.dumps({"format": "store/1", "token": uuid.uuid4().hex}).encode())
                    continue
                self._writable = True
                break
        if not self._writable:
            raise ConfigError(
                f"{self._url}: the server overwrites a file that was to be created only where there is none "
                "(If-None-Match), so that publishers there could destroy each other's work"
            )


def _creates_exclusively(fs: Any) -> bool:
    """Whether a class of fsspec has a way of its own to create a file only where there is none."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    kind = type(fs)
    if isinstance(fs, AsyncFileSystem):
        own = kind._pipe_file is not AsyncFileSystem._pipe_file
        return own and "mode" in inspect.signature(kind._pipe_file).parameters
    return kind.pipe_file is not AbstractFileSystem.pipe_file
