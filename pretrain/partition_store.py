"""Tables larger than memory: vectors and optimizer state by partition, in a folder that is always at its last commit.

    <path>/manifest.json                                what was last committed: layout, files, a record
           <part>-<type>-<partition>.<version>.npy      rows of one partition; types are numbered
           array-<number>.<version>.npy                 small arrays of the commit

A file that a commit names is never written again: a partition that leaves memory goes to a new version beside it, and
a commit puts the next manifest in the place of the last in one rename, then removes what nobody names any more.
Whenever the machine stops, ``PartitionStore.open`` finds the bytes of the last commit.  On disk stands up to twice the
table in between, and once more where the best commit is kept.

A partition that was never written has no file: it is drawn when it is loaded, so a store of any size is made at once.
One thread reads, draws and writes in the background, in the order in which it is asked: what is read after a write sees
it.  Buffers are reused, so memory holds what is loaded and prefetched and no more, however long a run takes; numbers go
between file and buffer without a copy.  What fails in the background is raised by the next call, and by all after it.

Shapes: N entities of a type, P partitions of ceil(N / P) rows, the last ones shorter; D dimension.
"""

__all__ = ["Key", "Layout", "Part", "PartitionStore", "Resident", "Start", "normal_start"]

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.partition_files import huge_zeros, lock_folder, opened, read_into, stream_npy, sync, write_tensor
from recokit.errors import ConfigError, FormatError
from recokit.table.folder import (
    FileEntry,
    check_inside,
    json_object,
    load_npy,
    local_folder,
    manifest_value,
    new_folder,
    read_manifest,
    write_json,
    write_npy,
)

Part = Literal["vectors", "state", "bias", "bias_state"]
Key = tuple[str, int]  # entity type, partition
Start = Callable[[str, range, Mapping[Part, Tensor]], None]

_FORMAT = "partitions/1"
_MANIFEST = "manifest.json"
_OURS = r"((vectors|state|bias|bias_state)-\d+-\d+|array-\d+)\.\d+\.npy|\.partial-manifest\.\d+\.json"
_ARRAY_DTYPES = ("float32", "float64", "int64", "uint8")
_DRAWN_TOGETHER = 1024  # rows; a change would change every start
_CHUNK = 2**26  # bytes of a table that are in memory while it is walked through


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a store holds.

    Attributes:
        entities: Entity type to its number of rows N.
        partitions: Entity type to its number of partitions P.
        dim: D.
        optimizer: Whether the state is a number a row, or under ``"adagrad"`` one an element.
        bias: Whether there are biases, and their state.

    Raises:
        ConfigError: A number is out of range, or the types of both mappings differ.
    """

    entities: Mapping[str, int]
    partitions: Mapping[str, int]
    dim: int
    optimizer: Literal["rowwise_adagrad", "adagrad"] = "rowwise_adagrad"
    bias: bool = False

    def __post_init__(self) -> None:
        if list(self.entities) != list(self.partitions):
            raise ConfigError(
                f"partitions are given of {', '.join(self.partitions) or 'no type'}, expected those of "
                f"{', '.join(self.entities) or 'no type'}"
            )
        for what, counts, low in (("rows", self.entities, 0), ("partitions", self.partitions, 1)):
            for entity, count in counts.items():
                if type(count) is not int or count < low:
                    raise ConfigError(f"entity type {entity!r} has {count!r} {what}, expected at least {low}")
        if type(self.dim) is not int or self.dim < 1:
            raise ConfigError(f"dim is {self.dim!r}, expected at least 1")
        if self.optimizer not in ("rowwise_adagrad", "adagrad"):
            raise ConfigError(f"optimizer {self.optimizer!r} is not known; rowwise_adagrad or adagrad")

    @property
    def parts(self) -> tuple[Part, ...]:
        """What there is of every partition."""
        return get_args(Part) if self.bias else ("vectors", "state")

    def keys(self, partitions: Iterable[int]) -> list[Key]:
        """Return the keys of these partitions of every type; of a type that has just one, that one."""
        wanted = dict.fromkeys(partitions)
        return [
            (entity, number) for entity, count in self.partitions.items() for number in (wanted if count > 1 else (0,))
        ]

    def rows(self, key: Key) -> range:
        """Return the rows of a partition."""
        entity, number = key
        if entity not in self.entities or not 0 <= number < self.partitions[entity]:
            raise ConfigError(f"there is no partition {number} of the entity type {entity!r}")
        count, size = self.entities[entity], self.partition_size(entity)
        return range(min(number * size, count), min((number + 1) * size, count))

    def partition_size(self, entity: str) -> int:
        """Return the rows of a type's first partition, ceil(N / P)."""
        return -(-self.entities[entity] // self.partitions[entity])

    def shape(self, part: Part, rows: int) -> tuple[int, ...]:
        """Return the shape of a part of so many rows."""
        wide = part == "vectors" or (part == "state" and self.optimizer == "adagrad")
        return (rows, self.dim) if wide else (rows,)

    def zeros(self, rows: int) -> dict[Part, Tensor]:
        """Return all parts of so many rows."""
        return {part: huge_zeros(self.shape(part, rows)) for part in self.parts}

    def file(self, part: Part, key: Key, version: int) -> str:
        """Return the name of a file; entity types may be named in any way, so it has their number."""
        return f"{part}-{list(self.entities).index(key[0])}-{key[1]}.{version}.npy"

    def files(self, versions: Mapping[Key, int]) -> list[str]:
        """Return the names of all files of partitions of these versions."""
        return [self.file(part, key, version) for key, version in versions.items() for part in self.parts]


@dataclasses.dataclass(frozen=True, eq=False)
class Resident:
    """A partition in memory, to be changed in place; rows are counted from the first of ``rows``."""

    rows: range  # of the entity type
    vectors: Tensor  # (N / P, D)
    state: Tensor  # (N / P,), or (N / P, D)
    bias: Tensor | None  # (N / P,)
    bias_state: Tensor | None  # (N / P,)


def normal_start(seed: int, scale: float) -> Start:
    """Return what starts vectors at N(0, scale²) and all else at 0, every row from (seed, type, row) alone.

    The number of partitions makes no difference to it: rows are drawn by the counter of a Philox generator.
    """

    def start(entity: str, rows: range, parts: Mapping[Part, Tensor]) -> None:
        vectors = parts["vectors"].numpy()
        key = np.random.SeedSequence([seed, *entity.encode()]).generate_state(2, np.uint64)
        for at in range(rows.start - rows.start % _DRAWN_TOGETHER, rows.stop, _DRAWN_TOGETHER):
            counter = np.array([0, 0, 0, at // _DRAWN_TOGETHER], np.uint64)
            generator = np.random.Generator(np.random.Philox(counter=counter, key=key))
            first, last = max(at, rows.start), min(at + _DRAWN_TOGETHER, rows.stop)
            target = vectors[first - rows.start : last - rows.start]
            if first == at:
                generator.standard_normal(dtype=np.float32, out=target)
            else:  # what comes before belongs to the partition before
                target[:] = generator.standard_normal((last - at, vectors.shape[1]), np.float32)[first - at :]
            target *= np.float32(scale)

    return start


@dataclasses.dataclass(eq=False)
class _Slot:
    """Buffers for a partition of one type; a partition that has left stays until another one needs them."""

    entity: str
    buffers: dict[Part, Tensor]  # of ceil(N / P) rows
    key: Key | None = None
    job: "Future[None] | None" = None  # the last that was asked for

    def parts(self, rows: int) -> dict[Part, Tensor]:
        """Return its first rows."""
        return {part: buffer[:rows] for part, buffer in self.buffers.items()}


class PartitionStore:
    """Partitions on disk, some of them in memory; made by ``create`` or ``open``, and for one process at a time.

    Attributes:
        path: The folder.
        layout: What it holds.
        record: That of the last commit, as JSON gives it.
        arrays: Its small arrays.
    """

    def __init__(self, path: Path, start: Start) -> None:
        self.path, self._start = path, start
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock_folder(path))
            self.layout, self._last = _read_manifest(path)
            self._clear()
            self._lock = stack.pop_all()
        self.record = self._last.record
        self.arrays = self._last.load_arrays(path)
        self._version = self._last.version  # the last that was given to a file
        self._files = dict(self._last.partitions)  # the newest version of every partition that has one
        self._resident: dict[Key, _Slot] = {}
        self._fetched: dict[Key, _Slot] = {}
        self._idle: list[_Slot] = []  # the longest unused first
        self._closed = False
        self._failure: BaseException | None = None
        self._thread = ThreadPoolExecutor(1, "partitions")

    @classmethod
    def create(cls, path: str | Path, layout: Layout, start: Start) -> "PartitionStore":
        """Make a store whose partitions are still to be drawn.

        Args:
            path: Its folder.
            layout: What it holds.
            start: Called with a type, rows, and the parts of these rows, all zeros, to be filled in place. It is called
                in the background, maybe several times for a row, so its arguments alone decide; see ``normal_start``.

        Raises:
            VersionError: ``path`` exists.
        """
        path = local_folder(path)
        with new_folder(path) as folder:
            write_json(folder / _MANIFEST, _Commit().manifest(layout))
        return cls(path, start)

    @classmethod
    def open(cls, path: str | Path, start: Start) -> "PartitionStore":
        """Open a store as its last commit left it, and remove what was written since.

        Args:
            path: Its folder.
            start: The one that it was made with.

        Raises:
            FormatError: The folder is no store, or a file is damaged.
            VersionError: It is open already.
        """
        return cls(local_folder(path), start)

    def __enter__(self) -> "PartitionStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of memory and folder; what was not committed is lost."""
        self._closed = True
        self._thread.shutdown(cancel_futures=True)
        self._resident, self._fetched, self._idle = {}, {}, []
        self._lock.close()

    # -- partitions in memory ----------------------------------------------------------------------------------------

    def load(self, keys: Iterable[Key]) -> dict[Key, Resident]:
        """Bring partitions into memory, or find them there; they may be changed until ``evict``."""
        keys = list(keys)
        self.prefetch(keys)
        for key in keys:
            if key in self._fetched:
                self._resident[key] = self._fetched.pop(key)
        for key in keys:
            # Also where a partition comes back before it was written: nobody may change what is being written.
            if (job := self._resident[key].job) is not None:
                job.result()
        return {key: self._view(key) for key in keys}

    def prefetch(self, keys: Iterable[Key]) -> None:
        """Begin to read partitions that will be loaded soon; each takes memory from now on."""
        self._check()
        for key in keys:
            if key not in self._resident and key not in self._fetched:
                self._fetched[key] = self._fetch(key)

    def evict(self, key: Key, *, changed: bool = True) -> None:
        """Let a partition go; where it may have changed, it is written in the background.

        Its tensors must not be used any more: other partitions will lie there.
        """
        self._check()
        if key in self._resident:
            slot = self._resident.pop(key)
            if changed:
                self._write_back(key, slot)
        elif key in self._fetched:
            slot = self._fetched.pop(key)
        else:
            raise ConfigError(f"partition {key[1]} of {key[0]!r} is not in memory")
        self._idle.append(slot)

    def release(self) -> None:
        """Give back the memory of partitions that have left; without this it waits for the next ones."""
        self._drain()
        self._idle = []

    def _fetch(self, key: Key) -> _Slot:
        rows = self.layout.rows(key)
        slot = next((slot for slot in self._idle if slot.key == key), None)
        if slot is not None:  # nothing came in its place
            self._idle.remove(slot)
            return slot
        slot = next((slot for slot in self._idle if slot.entity == key[0]), None)
        if slot is None:
            slot = _Slot(key[0], self.layout.zeros(self.layout.partition_size(key[0])))
        else:
            self._idle.remove(slot)
        slot.key = key
        # The thread does one thing after the other: what lies in the slot is written before this overwrites it.
        slot.job = self._submit(lambda: self._fill(key, slot.parts(len(rows))))
        return slot

    def _view(self, key: Key) -> Resident:
        rows = self.layout.rows(key)
        parts = self._resident[key].parts(len(rows))
        return Resident(rows, parts["vectors"], parts["state"], parts.get("bias"), parts.get("bias_state"))

    # -- commits -----------------------------------------------------------------------------------------------------

    def commit(
        self, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None, *, best: bool = False
    ) -> None:
        """Make the state of now the one that ``open`` finds: all of it, or, when anything fails, nothing.

        Args:
            record: Anything that JSON has a form for.
            arrays: Small arrays of float32, float64, int64 or uint8.
            best: Keep these partitions for ``restore_best`` as well, until another commit is the best.
        """
        self._check()
        record, arrays = json_object(record, "the record of a commit"), dict(arrays or {})
        for name, array in arrays.items():
            if array.dtype.name not in _ARRAY_DTYPES:
                known = " or ".join(_ARRAY_DTYPES)
                raise ConfigError(f"commit: the array {name!r} is of {array.dtype}, expected {known}")
        for key, slot in self._resident.items():
            self._write_back(key, slot)
        self._drain()
        files = dict(self._files)
        try:
            self._last = self._written(record, arrays, files, files if best else self._last.best)
        except OSError as error:
            raise self._not_written(error, "the commit") from error
        self.record, self.arrays = record, {name: np.array(array) for name, array in arrays.items()}
        self._clear()

    def _written(
        self,
        record: dict[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        partitions: Mapping[Key, int],
        best: Mapping[Key, int] | None,
    ) -> "_Commit":
        """Write a commit, files first, then the manifest that names them."""
        self._version += 1
        version, named = self._version, {}
        for number, (name, array) in enumerate(arrays.items()):
            named[name] = f"array-{number}.{version}.npy", array.ndim
            write_npy(self.path / named[name][0], array)
        names = {
            *(name for kept in (partitions, best or {}) for name in self.layout.files(kept)),
            *(name for name, _ in named.values()),
        }
        for name in names - self._last.sizes.keys():
            sync(self.path / name)
        sizes = {name: (self.path / name).stat().st_size for name in sorted(names)}
        commit = _Commit(version, record, partitions, best, named, sizes)
        partial = self.path / f".partial-manifest.{version}.json"
        write_json(partial, commit.manifest(self.layout))
        sync(self.path)  # the files' own names, before a manifest names them
        partial.replace(self.path / _MANIFEST)
        sync(self.path)
        return commit

    def restore_best(self) -> None:
        """Go back to the partitions of the best commit.

        Raises:
            ConfigError: No commit was the best, or partitions are in memory.
        """
        if self._last.best is None:
            raise ConfigError("restore_best: no commit was the best")
        if self._resident or self._fetched:
            raise ConfigError("restore_best: partitions are in memory; evict them first")
        self._drain()
        for slot in self._idle:
            slot.key = None
        self._files = dict(self._last.best)

    # -- whole tables ------------------------------------------------------------------------------------------------

    def table(self, entity: str, part: Part = "vectors") -> Iterator[tuple[range, NDArray[np.float32]]]:
        """Go through a table as it stands now, in the order of its rows, with a few MB in memory.

        Yields:
            Rows, and a part of them, which the next ones overwrite.
        """
        if part not in self.layout.parts:
            raise ConfigError(f"there is no part {part!r} of {entity!r}; {', '.join(self.layout.parts)}")
        self._drain()
        keys = [(entity, number) for number in range(self.layout.partitions[entity])]
        size = min(_CHUNK // (4 * math.prod(self.layout.shape(part, 1))) + 1, self.layout.partition_size(entity))
        # Those of which there is no file are drawn, and a start fills all parts.
        drawing = any(key not in self._files and key not in self._resident for key in keys)
        parts = self.layout.parts if drawing else (part,)
        buffers = {each: torch.empty(self.layout.shape(each, size)) for each in parts}
        for key in keys:
            for rows, chunk in self._chunks(key, part, size, buffers):
                yield rows, chunk.numpy()

    def _chunks(
        self, key: Key, part: Part, size: int, buffers: Mapping[Part, Tensor]
    ) -> Iterator[tuple[range, Tensor]]:
        rows = self.layout.rows(key)
        with contextlib.ExitStack() as stack:
            file = None
            if key in self._files and key not in self._resident:
                path = self.path / self.layout.file(part, key, self._files[key])
                file = stack.enter_context(opened(path, self.layout.shape(part, len(rows))))
            for first in range(0, len(rows), size):
                some = rows[first : first + size]
                if key in self._resident:
                    yield some, self._resident[key].buffers[part][first : first + len(some)]
                    continue
                parts = {each: buffer[: len(some)] for each, buffer in buffers.items()}
                if file is None:
                    self._draw(key[0], some, parts)
                else:
                    read_into(file, parts[part])
                yield some, parts[part]

    def write_npy(self, entity: str, part: Part, path: Path) -> FileEntry:
        """Write a table to one file, of the bytes that ``recokit.table.folder.write_npy`` would write."""
        shape = self.layout.shape(part, self.layout.entities[entity])
        return stream_npy(path, shape, (chunk for _, chunk in self.table(entity, part)))

    # -- in the background -------------------------------------------------------------------------------------------

    def _submit(self, job: Callable[[], None]) -> "Future[None]":
        return self._thread.submit(self._guarded, job)

    def _guarded(self, job: Callable[[], None]) -> None:
        if self._failure is not None:
            raise self._failure  # after a write that failed nothing is overwritten
        try:
            job()
        except BaseException as error:
            self._failure = error
            raise

    def _check(self) -> None:
        if self._closed:
            raise ConfigError(f"the store {self.path} is closed")
        if self._failure is not None:
            raise self._failure

    def _drain(self) -> None:
        """Wait for all that was asked for."""
        self._check()
        self._submit(lambda: None).result()

    def _fill(self, key: Key, parts: Mapping[Part, Tensor]) -> None:
        version = self._files.get(key)
        if version is None:
            self._draw(key[0], self.layout.rows(key), parts)
            return
        for part, tensor in parts.items():
            with opened(self.path / self.layout.file(part, key, version), tuple(tensor.shape)) as file:
                read_into(file, tensor)

    def _draw(self, entity: str, rows: range, parts: Mapping[Part, Tensor]) -> None:
        for tensor in parts.values():
            tensor.zero_()
        self._start(entity, rows, parts)

    def _write_back(self, key: Key, slot: _Slot) -> None:
        """Begin to write a partition to its next version."""
        self._version += 1
        version, parts = self._version, slot.parts(len(self.layout.rows(key)))
        slot.job = self._submit(lambda: self._write(key, version, parts))

    def _write(self, key: Key, version: int, parts: Mapping[Part, Tensor]) -> None:
        try:
            for part, tensor in parts.items():
                write_tensor(self.path / self.layout.file(part, key, version), tensor)
        except OSError as error:
            for name in self.layout.files({key: version}):  # the disk may be full
                (self.path / name).unlink(missing_ok=True)
            raise self._not_written(error, f"partition {key[1]} of {key[0]!r}") from error
        earlier = {} if key not in self._files else {key: self._files[key]}
        self._files[key] = version
        for name in self.layout.files(earlier):
            if name not in self._last.sizes:
                (self.path / name).unlink()

    def _not_written(self, error: OSError, what: str) -> OSError:
        reason = f"{self.path}: {what} cannot be written: {error.strerror}; the last commit stays as it is"
        return OSError(error.errno, reason)

    def _clear(self) -> None:
        """Remove what the last commit does not name."""
        for path in self.path.iterdir():
            if path.name not in self._last.sizes and re.fullmatch(_OURS, path.name):
                path.unlink()


@dataclasses.dataclass(frozen=True)
class _Commit:
    """What a manifest says beside the layout."""

    version: int = 0  # the last that was given to a file
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    partitions: Mapping[Key, int] = dataclasses.field(default_factory=dict)  # versions
    best: Mapping[Key, int] | None = None
    arrays: Mapping[str, tuple[str, int]] = dataclasses.field(default_factory=dict)  # file, axes
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)  # of all files, in bytes

    def manifest(self, layout: Layout) -> dict[str, Any]:
        def rows(of: Mapping[Key, int]) -> list[tuple[str, int, int]]:
            return sorted((*key, version) for key, version in of.items())

        return {
            "format": _FORMAT,
            "layout": dataclasses.asdict(layout),
            "version": self.version,
            "record": self.record,
            "partitions": rows(self.partitions),
            "best": None if self.best is None else rows(self.best),
            "arrays": dict(self.arrays),
            "files": dict(self.sizes),
        }

    def load_arrays(self, folder: Path) -> dict[str, NDArray[Any]]:
        return {
            name: np.array(load_npy(folder / file, dtypes=_ARRAY_DTYPES, shape=(-1,) * axes))
            for name, (file, axes) in self.arrays.items()
        }


def _read_manifest(folder: Path) -> tuple[Layout, _Commit]:
    manifest, path = read_manifest(folder, _MANIFEST, _FORMAT), folder / _MANIFEST
    sizes = manifest_value(path, manifest, "files", dict)
    for name, size in sizes.items():
        file = folder / check_inside(path, name)
        found = f"has {file.stat().st_size} bytes" if file.is_file() else "is missing"
        if found != f"has {size} bytes":
            raise FormatError(f"{file} {found}, expected {size} bytes: it is truncated or damaged")
    version, record = manifest_value(path, manifest, "version", int), manifest_value(path, manifest, "record", dict)
    try:
        layout = Layout(**manifest["layout"])
        current, best = (
            None if manifest[kind] is None else {(str(a), int(b)): int(c) for a, b, c in manifest[kind]}
            for kind in ("partitions", "best")
        )
        arrays = {str(name): (str(file), int(axes)) for name, (file, axes) in manifest["arrays"].items()}
        commit = _Commit(version, record, current or {}, best, arrays, sizes)
        names = [
            *layout.files({**commit.partitions}),
            *layout.files(best or {}),
            *(file for file, _ in arrays.values()),
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} was written by another release: {error!r}") from error
    for name in names:
        if name not in sizes:
            raise FormatError(f"{path}: 'files' lacks {name!r}")
    return layout, commit
