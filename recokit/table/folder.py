"""Folders that are there whole or not at all, and the manifest that says what is in them.

A folder is written beside its final place under a name that starts with ``.partial-``, every file and the folder are
flushed to disk, and one rename makes it visible. What a crash leaves behind keeps that name, and no reader opens it.
The manifest (``table.json``, ``version.json``) is written last and lists the other files with their sizes and
SHA-256, which are computed while the bytes are written: nothing is read twice.

Only JSON, ``.npy`` without objects, and Parquet are written; nothing is pickled.
"""

__all__ = [
    "PARTIAL",
    "FileEntry",
    "check_files",
    "check_inside",
    "check_name",
    "entries_within",
    "file_entries",
    "is_url",
    "json_object",
    "load_npy",
    "local_folder",
    "local_path",
    "manifest_value",
    "new_folder",
    "npy_digest",
    "partial_path",
    "read_json",
    "read_manifest",
    "remove_folder",
    "sha256_of",
    "sync_folder",
    "write_bytes",
    "write_json",
    "write_npy",
    "write_parquet",
]

import hashlib
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypedDict, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import ChecksumError, ConfigError, DataError, FormatError, VersionError

T = TypeVar("T")

PARTIAL = ".partial-"
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # Path makes one slash of two; a drive of Windows is one letter
_JSON_NAMES = {int: "an integer of 0 or more", str: "a string", dict: "an object", list: "an array"}


class FileEntry(TypedDict):
    """What a manifest says of one file."""

    bytes: int
    sha256: str


def local_folder(path: str | Path) -> Path:
    """Return an absolute path on this machine, which outlives a change of the working directory."""
    return local_path(path).absolute()


def local_path(path: str | Path) -> Path:
    """Return a path on this machine; a URL is refused, since what is memory-mapped has to lie here."""
    if is_url(path):
        raise ConfigError(
            f"{path} is a URL: only local folders are supported here; recokit.store.open_source copies versions"
        )
    return Path(path)


def is_url(path: str | Path) -> bool:
    """Whether a text is a URL, or was one before it became a Path."""
    return _URL.match(str(path)) is not None


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it can be a folder's name on every file system and object store."""
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name):
        raise ConfigError(
            f"{what} is {name!r}: expected 1 to 200 of the letters a-z and A-Z, digits, '.', '_' and '-', "
            "the first neither '.' nor '-'"
        )
    return name


def json_object(content: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a copy of ``content`` as it will read from JSON: what JSON has no form for is refused."""
    try:
        return dict(json.loads(json.dumps(dict(content), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} cannot be written as JSON: {error}") from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` in one rename when the block ends, and vanishes when it raises.

    Raises:
        VersionError: ``path`` exists, before the block or after it.
    """
    refusal = f"{path} exists already, and what is written is never changed: choose another name"
    if os.path.lexists(path):
        raise VersionError(refusal)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    partial.mkdir()
    try:
        yield partial
        sync_folder(partial)
        try:
            # A rename never replaces a file or a folder that holds something: of two writers, one comes here.
            partial.rename(path)
        except OSError as error:
            if os.path.lexists(path):
                raise VersionError(refusal) from error
            raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder in one rename, so that nobody ever sees half of it; what is left is an interrupted write's."""
    partial = partial_path(path)
    path.rename(partial)
    shutil.rmtree(partial, ignore_errors=True)


def remove_partial(parent: Path, name: str) -> None:
    """Remove what interrupted writes of folders, whose name matches the pattern ``name``, have left in ``parent``."""
    for folder in parent.glob(f"{PARTIAL}*"):
        if re.fullmatch(rf"{re.escape(PARTIAL)}{name}-[0-9a-f]{{32}}", folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def partial_path(path: Path) -> Path:
    """Return a place beside ``path`` for what becomes it by one rename; no reader opens what has such a name."""
    return path.parent / f"{PARTIAL}{path.name}-{uuid.uuid4().hex}"


def write_json(path: Path, content: object) -> FileEntry:
    """Write JSON, indented, in UTF-8."""
    return write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> FileEntry:
    """Write a new file."""
    with _HashingFile(path.open("xb")) as file:
        file.write(content)
    return file.entry


def write_npy(path: Path, array: NDArray[Any]) -> FileEntry:
    """Write an array, little endian and in C order, block by block: a mapped source is never in memory whole."""
    with _HashingFile(path.open("xb")) as file:
        np.save(file, np.ascontiguousarray(array, array.dtype.newbyteorder("<")), allow_pickle=False)
    return file.entry


def npy_digest(array: NDArray[Any]) -> str:
    """Return the SHA-256 of the file that ``write_npy`` would write."""
    file = _HashingFile(None)
    np.save(file, np.ascontiguousarray(array, array.dtype.newbyteorder("<")), allow_pickle=False)
    return file.entry["sha256"]


def entries_within(folder: Path, name: str, manifest: Mapping[str, Any]) -> dict[str, FileEntry]:
    """Return the entries of the files of a table in ``folder / name``, by their paths from ``folder``.

    The table hashed its files when it wrote them, and says so in its ``manifest``, which alone is hashed here.
    """
    path = folder / name / "table.json"
    entries = {f"{name}/{file}": entry for file, entry in manifest["files"].items()}
    return {**entries, f"{name}/table.json": {"bytes": path.stat().st_size, "sha256": sha256_of(path)}}


def write_parquet(path: Path, table: pa.Table) -> FileEntry:
    """Write a Parquet file of unique ids, for which dictionaries would be dead weight."""
    import pyarrow.parquet as pq

    with _HashingFile(path.open("xb")) as file:
        pq.write_table(table, file, use_dictionary=False, compression="zstd")
    return file.entry


def read_json(path: Path) -> Any:
    """Read a JSON file; what is not JSON is a FormatError, what is not there an OSError."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise FormatError(f"{path} is not JSON: {error}") from error


def read_manifest(folder: Path, name: str, format_name: str) -> dict[str, Any]:
    """Read ``folder/name`` and check that it is a manifest of ``format_name``."""
    path, kind = folder / name, name.removesuffix(".json")
    if any(part.startswith(PARTIAL) for part in folder.parts):
        raise FormatError(f"{folder} is what an interrupted write left, not a {kind}: delete it")
    try:
        manifest = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        reason = f"it has no {name}" if folder.is_dir() else "there is no such folder"
        if "@" in folder.name and not folder.is_dir():
            reason += "; STORE@NAME is opened by recokit.store.open_source"
        raise FormatError(f"{folder} is not a {kind}: {reason}") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != format_name:
        raise FormatError(f"{path} has the format {found!r}; this release of recokit reads {format_name!r}")
    return dict(manifest)


def manifest_value(path: Path, manifest: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """Return a field of the manifest at ``path``, if it is there and of its type."""
    value = manifest.get(key)
    if type(value) is not kind or (isinstance(value, int) and value < 0):
        raise FormatError(f"{path}: {key!r} is {value!r}, expected {_JSON_NAMES[kind]}")
    return value


def file_entries(
    folder: Path, manifest: Mapping[str, Any], name: str, *, required: Sequence[str] = ()
) -> dict[str, FileEntry]:
    """Return the ``files`` of the manifest ``folder/name``, if every entry is one and none leaves the folder."""
    path = folder / name
    files = manifest_value(path, manifest, "files", dict)
    for file in required:
        if file not in files:
            raise FormatError(f"{path}: 'files' lacks {file!r}")
    for file, entry in files.items():
        check_inside(path, file)
        size, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if type(size) is not int or not re.fullmatch("[0-9a-f]{64}", str(digest)):
            raise FormatError(f"{path}: files[{file!r}] is {entry!r}, expected its bytes and its sha256")
    return files


def check_inside(manifest: Path, name: object) -> str:
    """Return a path that a manifest names, if it is relative and stays in the manifest's folder.

    A symbolic link inside the folder may still lead out of it: object caches keep files that way.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or parts[0] == "/" or ".." in parts or re.search(r"[\\:\0]", str(name)):
        raise FormatError(f"{manifest} names the path {name!r}, which is not inside its folder")
    return str(name)


def check_files(folder: Path, files: Mapping[str, FileEntry], *, verify: bool) -> None:
    """Check that every file has its size and, with ``verify``, its SHA-256."""
    for name, entry in files.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError:
            raise FormatError(f"{path} is missing, expected {entry['bytes']} bytes") from None
        if size != entry["bytes"]:
            raise FormatError(f"{path} has {size} bytes, expected {entry['bytes']}: it is truncated or damaged")
        if verify and (digest := sha256_of(path)) != entry["sha256"]:
            raise ChecksumError(f"{path} has the sha256 {digest}, expected {entry['sha256']}: its bytes have changed")


def load_npy(path: Path, *, dtypes: Sequence[str], shape: tuple[int, ...]) -> NDArray[Any]:
    """Memory-map an array, read only, and check that it is what its manifest promises; -1 stands for any size."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FormatError(f"{path} is not a readable .npy file: {error}") from error
    expected = [np.dtype(dtype).newbyteorder("<").str for dtype in dtypes]
    fits = array.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, array.shape, strict=True))
    if array.dtype.str not in expected or not fits:
        found = f"{array.dtype.str} {array.shape}"
        raise FormatError(f"{path} holds {found}, expected {' or '.join(expected)} {shape}")
    if not array.flags.c_contiguous:
        raise FormatError(f"{path} is in Fortran order, expected C order")
    return np.asarray(array)  # a plain view: np.memmap would follow every slice and sum around


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _HashingFile(io.BufferedIOBase):
    """Hash and count what is written to a file, which is on disk when this closes; without a file, only hash."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._bytes = 0

    @property
    def entry(self) -> FileEntry:
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._bytes

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._hash.update(data)
        if self._file is not None:
            self._file.write(data)
        self._bytes += size
        return size

    def close(self) -> None:
        if self._file is not None and not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        super().close()


def sync_folder(path: Path) -> None:
    """Flush the entries of a folder to disk, where folders can be opened (Windows cannot)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
