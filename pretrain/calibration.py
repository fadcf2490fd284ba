"""What this machine can do, measured in about 20 seconds by the training step itself.

Random edges are trained on tables that lie in the cache, on larger ones, with fewer negatives and in tiny batches, in
turn, so that a machine whose speed changes changes them all.  From the medians follow the three rates of a ``Machine``:
what a batch costs from the tiny ones, products and rows from the two numbers of negatives, and what a row costs more in
larger tables from these.  At the settings that were measured the rates give what was measured.
The disk's rates are rough: a file is written and flushed, its pages are given back, and it is read again; what lies
behind the system, a host's cache say, is not seen.
"""

__all__ = ["Sample", "calibrate", "fitted"]

import dataclasses
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pretrain.config import Relation, TrainConfig
from pretrain.edges import Edges
from pretrain.graph import Graph
from pretrain.machines import PREPARE_ORIGIN, Machine, prepare_rate
from pretrain.memory import process_bytes
from pretrain.plan import Workload
from pretrain.run import Group, Run
from pretrain.train import device_of, float32_products
from recokit.errors import ConfigError

Callback = Callable[[Mapping[str, Any]], None]

_CACHED, _MIDDLE, _LARGE = 8_000_000, 128_000_000, 1_000_000_000  # bytes of tables
_TINY = 16  # edges of a batch that costs what any batch costs
_FEWER = 4  # times fewer negatives, or more where there are few
_ROUNDS = 3
_EDGES = 1_000_000  # drawn, at most: more than a slice trains
_DISK_BYTES = 512_000_000
_BLOCK = 2**23
_UNKNOWN_MEMORY = 8_000_000_000


class Sample(NamedTuple):
    """One measured setting.

    Attributes:
        work: What an edge of it takes.
        tables: Bytes of its tables.
        seconds: An edge.
    """

    work: Workload
    tables: int
    seconds: float

    @property
    def operations(self) -> float:
        """Of the products for an edge."""
        return 6 * self.work.num_sides * self.work.negatives * self.work.config.dim

    @property
    def row_bytes(self) -> float:
        """Of the rows of an edge."""
        negatives = self.work.num_sides * self.work.negatives / self.work.config.batch_size
        return (2 + negatives) * self.work.row_bytes


def calibrate(
    config: TrainConfig,
    *,
    folder: str | Path = ".",
    device: str | torch.device | None = None,
    seconds: float = 14.0,
    largest: int = _LARGE,
    disk_bytes: int = _DISK_BYTES,
    callback: Callback | None = None,
) -> Machine:
    """Measure this machine.

    Args:
        config: The settings of the run that is planned; its kinds of negatives are all drawn uniformly here.
        folder: Where the run will write.
        device: Where it will train; as in ``train``.
        seconds: For the training steps; making tables and the disk take some more.
        largest: Bytes of the largest tables, at most, and at most a quarter of the memory that is free.
        disk_bytes: Bytes of the file that is written and read, at most, and at most a quarter of the free disk.
        callback: Called with ``event="calibration"``, what is measured, and the share that is ``done``.

    Raises:
        ConfigError: The settings have no negatives, or no number of them, or ``seconds`` is not above 0.
        OSError: The folder cannot be written to.
    """
    if not seconds > 0:
        raise ConfigError(f"calibrate: seconds is {seconds!r}, expected a number above 0")
    if config.uniform_negatives == "all":
        raise ConfigError('calibrate: uniform_negatives is "all", expected their number')
    device, process = device_of(device), process_bytes()
    total, available = _memory(device)

    def tell(what: str, done: float) -> None:
        if callback:
            callback({"event": "calibration", "what": what, "done": done})

    tell("disk", 0.0)
    read, write = _disk_rates(Path(folder), disk_bytes)
    samples, tiny = _samples(config, device, min(largest, available // 4), seconds, tell)
    flops, rows = fitted(samples, tiny)
    work = samples[0].work
    cores = os.cpu_count() or 1
    threads = torch.get_num_threads()
    how = f"measured, {_ROUNDS} rounds" + ("" if device.type == "cuda" else f", {threads} threads")
    sizes = ", ".join(f"{size / 1e6:,.0f}" for size, _ in rows)
    return Machine(
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.node()}, {threads} threads",
        device="cuda" if device.type == "cuda" else "cpu",
        cores=cores,
        memory=total or _UNKNOWN_MEMORY,
        process=process,
        flops={config.precision: flops},
        batch_seconds=tiny,
        row_seconds=rows,
        disk_read=read,
        disk_write=write,
        prepare_rate=prepare_rate(cores),
        origin={
            "memory": "of this machine" if total else "assumed, since the system does not tell",
            "flops": how,
            "batch_seconds": f"{how}: batches of {_TINY} edges",
            "row_seconds": f"{how}: tables of {sizes} MB",
            "disk": f"{read / 1e6:,.0f} MB/s read, {write / 1e6:,.0f} written, measured roughly",
            "prepare_rate": PREPARE_ORIGIN,
        },
        settings=work.settings(),
    )


def fitted(samples: Sequence[Sample], tiny: float) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Return the rate of products, and bytes of tables with what a byte of a row costs in them.

    Args:
        samples: The first two of tables in the cache and different numbers of negatives; the others, of larger and
            larger tables, and the first are of the settings that are planned, and are met exactly.
        tiny: What a batch costs in itself, in seconds.
    """
    first, second = samples[:2]
    spent = [max(sample.seconds - tiny / sample.work.config.batch_size, 0.0) for sample in samples]
    # seconds = operations * x + row_bytes * y, twice
    det = first.operations * second.row_bytes - second.operations * first.row_bytes
    x = (spent[0] * second.row_bytes - spent[1] * first.row_bytes) / det
    y = (first.operations * spent[1] - second.operations * spent[0]) / det
    if x <= 0 or y < 0:  # noise: products alone, which most of the time goes into
        x = max(spent[0], 1e-12) / first.operations
    rows = {
        sample.tables: max((seconds - sample.operations * x) / sample.row_bytes, 0.0)
        for sample, seconds in zip(samples, spent, strict=True)
        if sample is not second
    }
    return 1 / x, tuple(sorted(rows.items()))


def _samples(
    config: TrainConfig, device: torch.device, largest: int, seconds: float, tell: Callable[[str, float], None]
) -> tuple[list[Sample], float]:
    """Measure the settings in turn; return them as ``fitted`` wants them, and what a batch costs in itself."""
    number = Workload({"": 1}, 1, config).negatives
    fewer = max(number // _FEWER, 1) if number >= 16 * _FEWER else number * _FEWER
    tell("tables", 0.05)
    probes = [_Probe.of(config, size, number, device) for size in _sizes(largest)]
    few = _Probe.of(config, _CACHED, fewer, device)
    tiny = _Probe.of(dataclasses.replace(config, batch_size=_TINY), _CACHED, _TINY, device)
    turns = [probes[0], few, tiny, *probes[1:]]
    with float32_products(config.precision):
        for probe in turns:  # first touches, first allocations
            probe.train(0.0)
            probe.found.clear()
        for turn in range(_ROUNDS):
            for at, probe in enumerate(turns):
                tell("training steps", 0.2 + 0.8 * (turn * len(turns) + at) / (_ROUNDS * len(turns)))
                probe.train(seconds / (_ROUNDS * len(turns)))
    tell("training steps", 1.0)
    return [probes[0].sample(), few.sample(), *(probe.sample() for probe in probes[1:])], tiny.sample().seconds * _TINY


def _sizes(largest: int) -> list[int]:
    """Return bytes of tables, rising."""
    return sorted({_CACHED, *(min(size, largest) for size in (_MIDDLE, _LARGE) if min(size, largest) > 2 * _CACHED)})


@dataclasses.dataclass(eq=False)
class _Probe:
    """A run on random edges, and the seconds an edge that its slices took."""

    work: Workload
    run: Run
    tables: int
    batches: Iterator[tuple[Group, Tensor]]
    losses: Tensor
    found: list[float] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, config: TrainConfig, tables: int, negatives: int, device: torch.device) -> "_Probe":
        own = dataclasses.replace(
            config, uniform_negatives=negatives, prevalence_negatives=0, in_batch_negatives=0, alpha=0.0
        )
        count = max(tables // (2 * Workload({"": 1}, 1, own).row_bytes), 2)
        edges = max(min(_EDGES, 1024 * own.batch_size) // own.batch_size, 8) * own.batch_size
        draw = np.random.default_rng(0)
        ids = pa.array(np.arange(count))
        ends = Edges(draw.integers(count, size=edges), draw.integers(count, size=edges))
        relations = {"links": Relation("links", "left", "right")}
        graph = Graph(relations, {"left": ids, "right": ids}, {"links": ends})
        run = Run.of(graph, own, device)
        losses = torch.zeros(1, dtype=torch.float64, device=device)
        work = Workload({"left": count, "right": count}, edges, own)
        return cls(work, run, 2 * count * work.row_bytes, _endless(run), losses)

    def train(self, seconds: float) -> None:
        """Train so long, a batch at least."""
        with self.run.engine.at_work():
            started, edges = time.perf_counter(), 0
            while not edges or time.perf_counter() - started < seconds:
                group, positions = next(self.batches)
                self.run.step(group, positions, self.losses)
                edges += len(positions)
            self.losses.sum().item()  # a GPU may have it still to do
            self.found.append((time.perf_counter() - started) / edges)

    def sample(self) -> Sample:
        return Sample(self.work, self.tables, statistics.median(self.found))


def _endless(run: Run) -> Iterator[tuple[Group, Tensor]]:
    epoch = 0
    while True:
        epoch += 1
        yield from run.batches(epoch)


def _disk_rates(folder: Path, size: int) -> tuple[float, float]:
    """Return bytes a second of reading and of writing."""
    size = max(min(size, shutil.disk_usage(folder).free // 4) // _BLOCK, 1) * _BLOCK
    block = np.random.default_rng(0).bytes(_BLOCK)  # that a file system cannot compress
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        started = time.perf_counter()
        for _ in range(0, size, _BLOCK):
            rest = memoryview(block)
            while rest:  # the system may take less than it is given
                rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
        write = size / (time.perf_counter() - started)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        started = time.perf_counter()
        while file.read(_BLOCK):
            pass
        read = size / (time.perf_counter() - started)
    return read, write


def _memory(device: torch.device) -> tuple[int, int]:
    """Return the bytes of memory in all, 0 where nobody tells, and those that are free."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0, _UNKNOWN_MEMORY // 2
    total = min([total, *_container()])
    try:
        said = Path("/proc/meminfo").read_text("ascii").split("MemAvailable:")[1]
        return total, min(total, 1024 * int(said.split()[0]))
    except (OSError, IndexError, ValueError):
        return total, total // 2


def _container() -> list[int]:
    """Return the limit that a container has, where there is one."""
    try:
        return [int(Path("/sys/fs/cgroup/memory.max").read_text("ascii"))]
    except (OSError, ValueError):  # no such file, or "max"
        return []
