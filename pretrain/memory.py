"""How much memory partitioned training takes, and how many partitions a given amount asks for.

In memory are, of every entity type, the two partitions of the bucket and those that are being prefetched or written;
the edges of the bucket; what a step works with; and what the process held before.
Letters: N entities of a type, D dimension, P partitions.
"""

__all__ = [
    "MOST_PARTITIONS",
    "Memory",
    "choose_partitions",
    "fewest_partitions",
    "parse_size",
    "process_bytes",
    "resident_bytes",
    "workspace_bytes",
]

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recokit.errors import ConfigError

MOST_PARTITIONS = 1024

_FLOAT = 4  # bytes
_UNITS: dict[str, int] = {"": 1, "b": 1} | {
    f"{letter}{middle}b": int(base**power)
    for power, letter in enumerate("kmgt", start=1)
    for middle, base in (("", 1000), ("i", 1024))
}
# What a step was seen to hold at its peak is at most this, for every loss, comparator and operator without a matrix.
_SCORES = 5  # numbers for each of the B * K scores of a question
_VECTORS = 24  # vectors for each of the B + K rows of a question


@dataclass(frozen=True)
class Memory:
    """Predicted bytes at the peak, by what takes them."""

    tables: int
    edges: int
    workspace: int
    baseline: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.tables + self.edges + self.workspace + self.baseline

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {_said(size)}" for name, size in vars(self).items())
        return f"{_said(self.total)} ({parts})"


def parse_size(size: str | int) -> int:
    """Return the bytes that a size means: kB, MB, GB and TB are powers of 1000, KiB, MiB, GiB and TiB of 1024.

    >>> parse_size("4GB"), parse_size("1.5 GiB"), parse_size(512)
    (4000000000, 1610612736, 512)

    Raises:
        ConfigError: It is no size, or none above 0.
    """
    expected = "expected such as '4GB', '512MB', '2GiB', or a whole number of bytes above 0"
    if isinstance(size, bool) or not isinstance(size, str | int):
        raise ConfigError(f"a size of memory is {size!r}; {expected}")
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(size).lower())
    if not found or found[2] not in _UNITS:
        raise ConfigError(f"a size of memory is {size!r}; {expected}")
    whole, _, fraction = found[1].partition(".")
    count = int(whole + fraction) * _UNITS[found[2]] // int(10 ** len(fraction))
    if count < 1:
        raise ConfigError(f"a size of memory is {size!r}; {expected}")
    return count


def process_bytes() -> int:
    """Return the memory that this process holds now (its resident set); where that is not told, the most it held."""
    try:
        resident = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        if sys.platform == "win32":
            return 0
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return int(resident) * os.sysconf("SC_PAGE_SIZE")


def workspace_bytes(batch_size: int, negatives: int, dim: int) -> int:
    """Return the bytes that a step works with, at most.

    Args:
        batch_size: Edges.
        negatives: Of all kinds together, on the side that has more.
        dim: D.
    """
    return _FLOAT * (_SCORES * batch_size * negatives + _VECTORS * (batch_size + negatives) * dim)


def resident_bytes(
    entities: Mapping[str, int],
    dim: int,
    partitions: int | Mapping[str, int],
    *,
    optimizer: Literal["rowwise_adagrad", "adagrad"] = "rowwise_adagrad",
    bias: bool = False,
    prefetch: int = 1,
    edges: int = 0,
    workspace: int = 0,
    baseline: int = 0,
) -> Memory:
    """Predict the memory at the peak: of a type of P partitions min(P, 2 + prefetch) are there, ceil(N / P) rows each.

    Args:
        entities: Entity type to N.
        dim: D.
        partitions: P, of all types or by type.
        optimizer: Its state is a number a row, or under ``"adagrad"`` D.
        bias: Whether rows have a bias, with its state.
        prefetch: Partitions a type that are read ahead; while they are not, the same place is used for writing.
        edges: Bytes of the edges in memory.
        workspace: Bytes that a step works with; see ``workspace_bytes``.
        baseline: Bytes that the process holds before; see ``process_bytes``.
    """
    row = dim + (dim if optimizer == "adagrad" else 1) + (2 if bias else 0)
    tables = 0
    for entity, count in entities.items():
        number = partitions if isinstance(partitions, int) else partitions[entity]
        tables += min(number, 2 + prefetch) * -(-count // number) * row * _FLOAT
    return Memory(tables, edges, workspace, baseline)


def choose_partitions(
    memory: str | int,
    entities: Mapping[str, int],
    dim: int,
    *,
    optimizer: Literal["rowwise_adagrad", "adagrad"] = "rowwise_adagrad",
    bias: bool = False,
    prefetch: int = 1,
    edges: int | Callable[[int], int] = 0,
    workspace: int = 0,
    baseline: int | None = None,
) -> int:
    """Return the smallest P with which the predicted peak is at most ``memory``; see ``resident_bytes``.

    Args:
        memory: Bytes that the process may hold, or a size such as ``"4GB"``.
        entities: Entity type to N.
        dim: D.
        optimizer: That of the run.
        bias: Whether rows have a bias.
        prefetch: Partitions a type that are read ahead.
        edges: Bytes of the edges in memory, or what gives them for a P.
        workspace: Bytes that a step works with.
        baseline: Bytes that the process holds before; those that it holds now if not given.

    Raises:
        ConfigError: No P up to ``MOST_PARTITIONS`` is enough.
    """
    held = process_bytes() if baseline is None else baseline

    def predicted(partitions: int) -> Memory:
        return resident_bytes(
            entities,
            dim,
            partitions,
            optimizer=optimizer,
            bias=bias,
            prefetch=prefetch,
            edges=edges if isinstance(edges, int) else edges(partitions),
            workspace=workspace,
            baseline=held,
        )

    return fewest_partitions(memory, max(entities.values(), default=1), predicted)


def fewest_partitions(memory: str | int, most: int, predicted: Callable[[int], Memory]) -> int:
    """Return the smallest P up to ``most`` with which the predicted peak is at most ``memory``.

    Args:
        memory: Bytes that the process may hold, or a size such as ``"4GB"``.
        most: Partitions that there may be; more than ``MOST_PARTITIONS`` there never are.
        predicted: What a P takes.

    Raises:
        ConfigError: None is enough.
    """
    allowed, most = parse_size(memory), max(1, min(MOST_PARTITIONS, most))
    least = predicted(1)
    for partitions in range(1, most + 1):
        need = predicted(partitions)
        if need.total <= allowed:
            return partitions
        least = min(least, need, key=lambda found: found.total)
    count = f"{most} partition{'s' if most > 1 else ''}"
    raise ConfigError(
        f"memory is {_said(allowed)}, but up to {count} training needs at least {least}: "
        "give more memory, or take a smaller dim, batch_size or number of negatives"
    )


def _said(size: int) -> str:
    """Return a size that is nowhere too small: ``parse_size`` of it is at least ``size``."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{-(-size * 100 // factor) / 100:.2f} {unit}"
    return f"{size} B"
