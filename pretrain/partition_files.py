"""Between files and memory without a copy: arrays of float32 in large buffers, and folders that one process holds.

Numbers go straight from a tensor's memory to the file and back; the system's file cache lies between them, and gives
way when memory is asked for.
"""

__all__ = ["bytes_of", "huge_zeros", "lock_folder", "opened", "read_into", "stream_npy", "sync", "write_tensor"]

import contextlib
import hashlib
import io
import math
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from torch import Tensor

from recokit.errors import FormatError, VersionError
from recokit.table.folder import FileEntry

_AT_ONCE = 2**28  # bytes handed to the system in one call, which takes 2 GiB at most
_HUGE = 2**21  # bytes of a huge page


def huge_zeros(shape: tuple[int, ...]) -> Tensor:
    """Return float32 zeros, on huge pages where Linux offers them: random rows of a large table are found faster.

    The memory is taken when it is first written to, and given back when the last tensor on it goes.
    """
    size = 4 * math.prod(shape)
    if size < 2 * _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(shape)
    # Private: what is shared, as is Python's default, lies in the system's file cache, whose pages are small.
    memory = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    offset = -np.frombuffer(memory, np.uint8).ctypes.data % _HUGE
    return torch.frombuffer(memory, dtype=torch.float32, count=size // 4, offset=offset).view(shape)


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a tensor whose rows follow each other."""
    return tensor.numpy().reshape(-1).view(np.uint8).data


def write_tensor(path: Path, tensor: Tensor) -> None:
    """Write a new ``.npy`` file; it is not yet flushed to disk."""
    with path.open("xb", buffering=0) as file:
        for data in (memoryview(_header(tuple(tensor.shape))), bytes_of(tensor)):
            at = 0
            while at < len(data):  # the system may take less than it is given
                at += file.write(data[at : at + _AT_ONCE])


@contextlib.contextmanager
def opened(path: Path, shape: tuple[int, ...]) -> Iterator[io.FileIO]:
    """Open a ``.npy`` file of float32 and this shape at its first number."""
    header = _header(shape)
    with path.open("rb", buffering=0) as file:
        if file.read(len(header)) != header:
            raise FormatError(f"{path} does not begin as an array of float32 {shape} does")
        yield file


def read_into(file: io.FileIO, tensor: Tensor) -> None:
    """Fill a tensor with the next numbers of a file."""
    data, at = bytes_of(tensor), 0
    while at < len(data):
        count = file.readinto(data[at : at + _AT_ONCE])
        if not count:
            raise FormatError(f"{file.name!s} is truncated: it ends {len(data) - at} bytes too early")
        at += count


def stream_npy(path: Path, shape: tuple[int, ...], chunks: Iterable[NDArray[np.float32]]) -> FileEntry:
    """Write the file that ``recokit.table.folder.write_npy`` would write of an array that comes in chunks of rows."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        header = _header(shape)
        digest.update(header)
        size += file.write(header)
        for chunk in chunks:
            data = np.ascontiguousarray(chunk, "<f4").data
            digest.update(data)
            file.write(data)
            size += data.nbytes
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk, where folders can be opened (Windows cannot)."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Hold a folder that no other process, or store of this one, may hold; a process that dies lets go of it.

    Raises:
        VersionError: It is held.
    """
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):  # Windows; no such folder, as its reader will say
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise VersionError(f"{path} is open in another process, or twice in this one") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def _header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    npy_format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()
