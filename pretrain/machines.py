"""What a machine can do, as a plan of a training run needs it: measured, from a datasheet, or as somebody says.

A step spends its time on three things, and a machine has a rate of each: products of matrices, rows of tables picked at
random, which cost more the larger the table is, and what every batch costs whatever is in it.  ``origin`` says of each
figure where it comes from, because a plan is worth no more than they are.
"""

__all__ = ["GPUS", "PREPARE_ORIGIN", "Gpu", "Machine", "machine_of_cores", "machine_of_gpu", "prepare_rate"]

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from recokit.errors import ConfigError, FormatError, closest
from recokit.table.folder import read_json

Device = Literal["cpu", "cuda"]

_FORMAT = "machine/1"
_PRECISIONS = ("float32", "auto")
_ORIGINS = ("memory", "flops", "batch_seconds", "row_seconds", "disk", "prepare_rate")

# What was seen on a virtual machine of two cores; for a machine that is described and not measured.
_PREPARED_A_CORE = 375_000.0  # edges a second
_PREPARING_CORES = 8  # more have not been tried
PREPARE_ORIGIN = f"{_PREPARED_A_CORE:,.0f} edges/s a core, seen on 2 cores; {_PREPARING_CORES} cores at most"
_CORE_FLOPS = 50e9  # of float32 products with AVX2; the newest cores reach three times that
_CORE_BANDWIDTH = 16e9  # bytes a second of copies
_CORE_MEMORY = 4_000_000_000
_PROCESS = 400_000_000  # Python with torch, DuckDB and pyarrow
_CPU_BATCH = 0.2e-3  # seconds, seen 0.14
_STEP_SHARE = 0.7  # of the rate of large products: what the engine's smaller ones reach
_PASSES = 3  # a row is read for the step, then read and written for the update
_CACHED, _LARGE = 8_000_000, 1_000_000_000  # bytes of tables
_CACHED_SHARE, _LARGE_SHARE = 0.4, 0.15  # of the bandwidth of copies, where rows are picked at random
_DISK_READ, _DISK_WRITE = 500e6, 300e6  # bytes a second
# A GPU's kernels are held up by exponentials and by memory, not by products alone.
_GPU_SHARES = {"float32": 0.4, "auto": 0.15}
_GPU_ROW_SHARE = 0.4
_GPU_BATCH = 0.5e-3
_GPU_PROCESS = 1_000_000_000  # what CUDA and its libraries take on the device


class Gpu(NamedTuple):
    """A datasheet: dense peaks without sparsity."""

    float32: float  # operations a second
    bfloat16: float  # with float32 sums
    memory: int  # bytes
    bandwidth: float  # bytes a second


GPUS: Mapping[str, Gpu] = {
    "H200": Gpu(67e12, 989e12, 141_000_000_000, 4.8e12),
    "H100": Gpu(67e12, 989e12, 80_000_000_000, 3.35e12),
    "A100": Gpu(19.5e12, 312e12, 80_000_000_000, 2.04e12),
    "A100-40GB": Gpu(19.5e12, 312e12, 40_000_000_000, 1.56e12),
    "L40S": Gpu(91.6e12, 362e12, 48_000_000_000, 0.864e12),
    "L4": Gpu(30.3e12, 121e12, 24_000_000_000, 0.3e12),
    "A10": Gpu(31.2e12, 125e12, 24_000_000_000, 0.6e12),
    "RTX-4090": Gpu(82.6e12, 165e12, 24_000_000_000, 1.01e12),
}


@dataclasses.dataclass(frozen=True)
class Machine:
    """Rates and sizes of a machine.

    Attributes:
        name: For people.
        device: What trains, a CPU or a CUDA device.
        cores: Of the CPU.
        memory: Bytes of it, of the device where that is a GPU.
        process: Bytes that training holds before it holds any table or edge.
        flops: Precision, as ``TrainConfig`` says it, to operations a second of the step's products.
        batch_seconds: What a batch costs, however small it is.
        row_seconds: Bytes of tables, rising, and the seconds that a byte of a row costs that a step picks at random
            from tables so large, for all that a step does with it.
        disk_read: Bytes a second.
        disk_write: Bytes a second.
        prepare_rate: Edges a second from files to buckets.
        origin: Where the figures come from: of memory, flops, batch_seconds, row_seconds, disk, prepare_rate.
        settings: What was measured: dim, negatives, sides, batch_size, ...; empty where nothing was.

    Raises:
        ConfigError: A number is out of range, or an origin is missing.
    """

    name: str
    device: Device
    cores: int
    memory: int
    process: int
    flops: Mapping[str, float]
    batch_seconds: float
    row_seconds: tuple[tuple[int, float], ...]
    disk_read: float
    disk_write: float
    prepare_rate: float
    origin: Mapping[str, str]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.device not in get_args(Device):
            raise ConfigError(f"machine {self.name!r}: device is {self.device!r}, expected cpu or cuda")
        for field, low in (("cores", 1), ("memory", 1), ("process", 0)):
            value = getattr(self, field)
            if type(value) is not int or value < low:
                raise ConfigError(
                    f"machine {self.name!r}: {field} is {value!r}, expected a whole number of at least {low}"
                )
        rates = {field: getattr(self, field) for field in ("disk_read", "disk_write", "prepare_rate")}
        rates |= {f"flops of {precision}": rate for precision, rate in self.flops.items()}
        for field, value in rates.items():
            if not _is_number(value) or value <= 0:
                raise ConfigError(f"machine {self.name!r}: {field} is {value!r}, expected a number above 0")
        if not self.flops or not self.flops.keys() <= set(_PRECISIONS):
            raise ConfigError(f"machine {self.name!r}: flops are those of {list(self.flops)}, expected {_PRECISIONS}")
        if not _is_number(self.batch_seconds) or self.batch_seconds < 0:
            raise ConfigError(f"machine {self.name!r}: batch_seconds is {self.batch_seconds!r}, expected at least 0")
        self._check_rows()
        for field in _ORIGINS:
            if not isinstance(self.origin.get(field), str):
                raise ConfigError(f"machine {self.name!r}: origin does not say where {field} comes from")

    def _check_rows(self) -> None:
        sizes = [size for size, _ in self.row_seconds]
        rising = all(type(size) is int for size in sizes) and all(a < b for a, b in itertools.pairwise([0, *sizes]))
        if not sizes or not rising or not all(_is_number(cost) and cost >= 0 for _, cost in self.row_seconds):
            raise ConfigError(
                f"machine {self.name!r}: row_seconds is {self.row_seconds!r}, expected rising bytes of tables and "
                "seconds a byte of at least 0"
            )

    def row_cost(self, tables: int) -> float:
        """Return the seconds of a byte of a random row from tables of so many bytes.

        Between measured sizes it is a line over the logarithm of the size; beyond the largest one that line goes on,
        since address translation goes on becoming more expensive; below the smallest one it is constant.
        """
        points = self.row_seconds
        if tables <= points[0][0] or len(points) == 1:
            return points[0][1]
        number = next((at for at, (size, _) in enumerate(points) if size >= tables), len(points) - 1)
        (low, before), (high, after) = points[number - 1 : number + 1]
        return max(before + (after - before) * math.log(tables / low) / math.log(high / low), 0.0)

    def save(self, path: str | Path) -> None:
        """Write a JSON file, in the place of one that is there."""
        content = {"format": _FORMAT, **dataclasses.asdict(self)}
        Path(path).write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Machine":
        """Read what ``save`` wrote.

        Raises:
            FormatError: It is no such file, or damaged.
        """
        content = read_json(Path(path))
        found = content.pop("format", None) if isinstance(content, dict) else None
        if found != _FORMAT:
            raise FormatError(f"{path} has the format {found!r}; this release of recokit reads {_FORMAT!r}")
        try:
            rows = tuple((size, cost) for size, cost in content.pop("row_seconds"))
            return cls(**content, row_seconds=rows)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} does not describe a machine: {error}") from error


def machine_of_cores(
    cores: int,
    *,
    gflops: float | None = None,
    memory: int | None = None,
    bandwidth: float | None = None,
    disk_read: float | None = None,
    disk_write: float | None = None,
) -> Machine:
    """Describe a machine without a GPU; what is not given is assumed from its cores.

    Args:
        cores: Of the CPU.
        gflops: 10⁹ operations a second of large float32 products, of all cores; benchmarks/train_speed.py measures it.
        memory: Bytes.
        bandwidth: Bytes a second of copies, of all cores.
        disk_read: Bytes a second.
        disk_write: Bytes a second.
    """
    _check_given(cores=cores, gflops=gflops, bandwidth=bandwidth, disk_read=disk_read, disk_write=disk_write)
    products = cores * _CORE_FLOPS if gflops is None else gflops * 1e9
    copies = cores * _CORE_BANDWIDTH if bandwidth is None else bandwidth
    return Machine(
        name=f"{cores} cores",
        device="cpu",
        cores=cores,
        memory=cores * _CORE_MEMORY if memory is None else memory,
        process=_PROCESS,
        flops=dict.fromkeys(_PRECISIONS, _STEP_SHARE * products),
        batch_seconds=_CPU_BATCH,
        row_seconds=(
            (_CACHED, _PASSES / (_CACHED_SHARE * copies)),
            (_LARGE, _PASSES / (_LARGE_SHARE * copies)),
        ),
        **_disk(disk_read, disk_write),
        prepare_rate=prepare_rate(cores),
        origin={
            "memory": "given" if memory is not None else f"assumed: {_CORE_MEMORY / 1e9:.0f} GB a core",
            "flops": f"{_STEP_SHARE:.0%}, assumed, of {products / 1e9:,.0f} GFLOP/s, "
            + ("assumed: 50 a core" if gflops is None else "given"),
            "batch_seconds": f"assumed: {_CPU_BATCH * 1e3} ms a batch",
            "row_seconds": f"{_CACHED_SHARE:.0%} in cache to {_LARGE_SHARE:.0%} at 1 GB, assumed, of "
            f"{copies / 1e9:,.0f} GB/s, " + ("assumed: 16 a core" if bandwidth is None else "given"),
            "disk": _disk_origin(disk_read, disk_write),
            "prepare_rate": PREPARE_ORIGIN,
        },
    )


def machine_of_gpu(
    name: str,
    *,
    cores: int = 8,
    disk_read: float | None = None,
    disk_write: float | None = None,
) -> Machine:
    """Describe a machine with one GPU of ``GPUS``, from its datasheet and shares of it that are assumed.

    Raises:
        ConfigError: The name is not known, or a number is out of range.
    """
    known = {gpu.lower(): gpu for gpu in GPUS}
    if name.lower() not in known:
        raise ConfigError(f"GPU {name!r} is not known; {closest(name, GPUS)}")
    _check_given(cores=cores, disk_read=disk_read, disk_write=disk_write)
    gpu, name = GPUS[known[name.lower()]], known[name.lower()]
    sheet = "from datasheet, not measured"
    return Machine(
        name=name,
        device="cuda",
        cores=cores,
        memory=gpu.memory,
        process=_GPU_PROCESS,
        flops={"float32": _GPU_SHARES["float32"] * gpu.float32, "auto": _GPU_SHARES["auto"] * gpu.bfloat16},
        batch_seconds=_GPU_BATCH,
        row_seconds=((_LARGE, _PASSES / (_GPU_ROW_SHARE * gpu.bandwidth)),),
        **_disk(disk_read, disk_write),
        prepare_rate=prepare_rate(cores),
        origin={
            "memory": sheet,
            "flops": f"{sheet}: {_GPU_SHARES['float32']:.0%} of {gpu.float32 / 1e12:g} TFLOP/s float32, "
            f"{_GPU_SHARES['auto']:.0%} of {gpu.bfloat16 / 1e12:g} bfloat16, shares assumed",
            "batch_seconds": f"assumed: {_GPU_BATCH * 1e3} ms a batch",
            "row_seconds": f"{sheet}: {_GPU_ROW_SHARE:.0%}, assumed, of {gpu.bandwidth / 1e12:g} TB/s",
            "disk": _disk_origin(disk_read, disk_write),
            "prepare_rate": PREPARE_ORIGIN,
        },
    )


def prepare_rate(cores: int) -> float:
    """Return the edges a second that so many cores bring from files to buckets, as far as was tried."""
    return _PREPARED_A_CORE * min(cores, _PREPARING_CORES)


def _check_given(**numbers: float | None) -> None:
    """Refuse what is no number above 0; None is not given."""
    for what, number in numbers.items():
        if number is not None and not (_is_number(number) and number > 0):
            raise ConfigError(f"{what} is {number!r}, expected a number above 0")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _disk(read: float | None, write: float | None) -> dict[str, Any]:
    return {"disk_read": _DISK_READ if read is None else read, "disk_write": _DISK_WRITE if write is None else write}


def _disk_origin(read: float | None, write: float | None) -> str:
    named = (("read", read, _DISK_READ), ("write", write, _DISK_WRITE))
    return ", ".join(
        f"{what} {(usual if rate is None else rate) / 1e6:,.0f} MB/s {'assumed' if rate is None else 'given'}"
        for what, rate, usual in named
    )
