"""Frozen layers side by side in one run: codes decoded on look-up, vectors as they are, and codes folded into a layer.

    python benchmarks/pq_layers.py                                  a small table: everything is in the cache
    python benchmarks/pq_layers.py --rows 4000000 --compile         the real one: 6 GB of memory and of disk, minutes

Tables are memory-mapped from a temporary folder and their pages are all in memory, as in a server that has run for a
while; with --in-memory they are arrays of this process, for which NumPy gets huge pages where the system gives them.

One thread, and the processor's time of that thread: what others do in between is not counted. Every call looks up
fresh random rows, so that with millions of rows the table is cold, as it is for a server. The systems take turns of a
few calls within a round, so that each finds the caches as it leaves them itself; a ratio is that of two times of one
round, and what is told is the median of the rounds.

- decode: rows to vectors. A layer also masks unknown rows and refuses those of another table; "bare" is torch's gather
  alone. Ratios are rows a second over those of three systems: the float32 layer, the bare float32 gather, and the
  float32 layer under torch.compile. float16 has a quarter of the rows, which are as cold.
- fold: rows to a linear layer's H outputs, by ``fold`` and by decoding and ``nn.Linear``.
- memory: bytes a row, of the layer's buffers as torch counts them and of the process, which grew by so much when all
  of the table's numbers were read; that means something with millions of rows only.

The C library hands large blocks back to the system when they are freed and is charged a page fault for every 4 KiB of
the next output, with some sizes and not with others. It is told to keep them, for all systems alike.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from peers.launch import commit, machine, versions
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from recokit.layers import FrozenEmbedding, PQEmbedding, TableLayer, fold
from recokit.table import EmbeddingTable, PQTable

Run = Callable[[Tensor], Tensor]
BASES = {"fp32 layer": "of_fp32", "fp32 bare": "of_bare_fp32", "fp32 layer, compiled": "of_compiled_fp32"}
PARTS = (8, 16, 32, 64)
FOLDS = ((8, 64), (16, 64), (16, 256), (32, 64), (32, 256), (32, 1024), (64, 1024))
SIZE = 256  # K


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="N")
    parser.add_argument("--dim", type=int, default=256, help="D")
    parser.add_argument("--batch", type=int, default=4096, help="rows of a call")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=8, help="of a system's turn")
    parser.add_argument("--compile", action="store_true", help="the compiled layers too; half a minute")
    parser.add_argument("--in-memory", action="store_true", help="arrays instead of memory maps")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        layers, memory = make_layers(options, None if options.in_memory else Path(folder))
        keep_freed_memory()
        result = {
            "benchmark": "pq_layers",
            "machine": {**machine(sorted(os.sched_getaffinity(0))), "threads": 1},
            "versions": versions("recokit", "torch", "numpy"),
            "commit": commit(),
            "settings": {key: value for key, value in vars(options).items() if key != "json"},
            "decode": list(measure_decode(layers, options)),
            "fold": list(measure_folds(layers, options)),
            "memory": memory,
        }
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        show(result, Console())


def make_layers(options: argparse.Namespace, folder: Path | None) -> tuple[dict[str, TableLayer], list[dict[str, Any]]]:
    """Make the layers, and say what each takes a row."""
    rows, dim = options.rows, options.dim
    layers: dict[str, TableLayer] = {}
    memory = []

    def add(name: str, shape: tuple[int, int], dtype: str, layer: Callable[[Any], TableLayer]) -> None:
        before = resident()
        numbers = filled(shape, dtype, None if folder is None else folder / f"{name}.npy")
        grown = resident() - before
        layers[name] = layer(numbers)
        buffers = sum(buffer.nbytes for buffer in layers[name].buffers())
        memory.append({"system": name, "buffers": buffers / shape[0], "resident": grown / shape[0]})

    add("fp32 layer", (rows, dim), "float32", vector_layer)
    add("fp16 layer", (rows // 4, dim), "float16", vector_layer)
    for parts in PARTS:
        add(f"pq {parts}", (rows, parts), "uint8", lambda codes: code_layer(codes, dim))
    add("additive 16", (rows, 16), "uint8", lambda codes: code_layer(codes, dim, additive=True))
    return layers, memory


def measure_decode(layers: dict[str, TableLayer], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Look the same number of random rows up in every layer."""
    vectors, codes = layers["fp32 layer"].vectors, layers["pq 32"]
    runs: dict[str, Run] = dict(layers)
    runs["fp32 bare"] = lambda rows: F.embedding(rows, vectors)
    runs["pq 32 bare"] = lambda rows: F.embedding(
        codes.codes.index_select(0, rows).int() + codes.offsets, codes.codebook
    ).flatten(-2)
    if options.compile:
        for name in ("fp32 layer", "fp16 layer", "pq 16", "pq 32", "additive 16"):
            runs[f"{name}, compiled"] = torch.compile(layers[name], fullgraph=True)
    counts = dict.fromkeys(runs, options.rows) | {name: options.rows // 4 for name in runs if name.startswith("fp16")}
    times = take_turns(runs, counts, options)
    for name, found in times.items():
        yield {
            "system": name,
            "microseconds": 1e6 * statistics.median(found),
            "least_microseconds": 1e6 * min(found),
            "rows_per_second": options.batch / statistics.median(found),
            **{key: ratio(times[base], found) for base, key in BASES.items() if base in times},
        }


def measure_folds(layers: dict[str, TableLayer], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows to the outputs of a linear layer, with the codebook folded into it and without."""
    for parts, outputs in FOLDS:
        layer, linear = layers[f"pq {parts}"], nn.Linear(options.dim, outputs)
        runs: dict[str, Run] = {"decode": nn.Sequential(layer, linear), "fold": fold(layer, linear)}
        times = take_turns(runs, dict.fromkeys(runs, options.rows), options)
        yield {
            "sub_quantizers": parts,
            "outputs": outputs,
            "decode_and_linear_microseconds": 1e6 * statistics.median(times["decode"]),
            "fold_microseconds": 1e6 * statistics.median(times["fold"]),
            "times_as_fast": ratio(times["decode"], times["fold"]),
            "table_mib": runs["fold"].sums.nbytes / 2**20,
        }


@torch.no_grad()
def take_turns(runs: dict[str, Run], counts: dict[str, int], options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds a call of every run in every round, after two rounds that warm up (and compile)."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(options.rounds + 2):
        for at in range(len(names)):
            name = names[(at + number) % len(names)]  # nobody always follows the same one
            batches = torch.randint(0, counts[name], (options.calls, options.batch)).unbind()
            start = time.thread_time()
            for rows in batches:
                runs[name](rows)
            times[name].append((time.thread_time() - start) / options.calls)
    return {name: found[2:] for name, found in times.items()}


def ratio(base: list[float], own: list[float]) -> float:
    """The median over rounds of how many times as fast as the base."""
    return statistics.median(theirs / ours for theirs, ours in zip(base, own, strict=True))


def filled(shape: tuple[int, int], dtype: str, path: Path | None) -> NDArray[Any]:
    """Random numbers, the same in every block of rows: what is looked up matters little, where it lies much."""
    numbers = np.empty(shape, dtype) if path is None else np.lib.format.open_memmap(path, "w+", dtype, shape)
    block = min(shape[0], 1 << 14)
    generator = np.random.default_rng(0)
    codes = dtype == "uint8"
    drawn = generator.integers(0, SIZE, (block, shape[1])) if codes else generator.normal(size=(block, shape[1]))
    for begin in range(0, shape[0], block):
        numbers[begin : begin + block] = drawn[: shape[0] - begin]
    if path is None:
        return numbers
    numbers.flush()  # type: ignore[union-attr]
    del numbers
    mapped: NDArray[Any] = np.load(path, mmap_mode="r")
    mapped.reshape(-1)[:: 1024 // mapped.itemsize].sum()  # every page is there before a clock runs
    return mapped


def vector_layer(vectors: NDArray[Any]) -> FrozenEmbedding:
    ids = np.arange(len(vectors))
    return FrozenEmbedding(EmbeddingTable.from_arrays(ids, vectors, entity="item", version="benchmark"))


def code_layer(codes: NDArray[Any], dim: int, *, additive: bool = False) -> PQEmbedding:
    count, parts = codes.shape
    codebook = np.random.default_rng(1).normal(size=(parts, SIZE, dim if additive else dim // parts))
    table = PQTable.from_arrays(
        np.arange(count),
        codes,
        codebook.astype(np.float32),
        entity="item",
        version="benchmark",
        codec="additive" if additive else "pq",
    )
    return PQEmbedding(table)


def resident() -> int:
    """Bytes of this process in memory."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def keep_freed_memory() -> None:
    """Ask glibc not to hand freed memory back, where it is the C library."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, as far up as it goes


def show(result: dict[str, Any], console: Console) -> None:
    """Three tables for people."""
    settings = result["settings"]
    console.print(
        f"{result['machine']['processor']}, one thread; {settings['rows']:,} rows of dim {settings['dim']}, "
        f"{settings['batch']:,} a call; medians of {settings['rounds']} rounds"
    )
    decode = ("decode", "µs", "least", "M rows/s", "of fp32 layer", "of fp32 bare", "of fp32 compiled")
    console.print(
        filled_table(
            decode,
            (
                (
                    row["system"],
                    f"{row['microseconds']:,.0f}",
                    f"{row['least_microseconds']:,.0f}",
                    f"{row['rows_per_second'] / 1e6:.1f}",
                    *(f"{row[key]:.2f}" if key in row else "" for key in BASES.values()),
                )
                for row in result["decode"]
            ),
        )
    )
    console.print(
        filled_table(
            ("fold: M, H", "decode + linear, µs", "fold, µs", "times as fast", "tables, MiB"),
            (
                (
                    f"{row['sub_quantizers']}, {row['outputs']}",
                    f"{row['decode_and_linear_microseconds']:,.0f}",
                    f"{row['fold_microseconds']:,.0f}",
                    f"{row['times_as_fast']:.2f}",
                    f"{row['table_mib']:.1f}",
                )
                for row in result["fold"]
            ),
        )
    )
    console.print(
        filled_table(
            ("memory", "buffers, bytes a row", "process, bytes a row"),
            ((row["system"], f"{row['buffers']:,.1f}", f"{row['resident']:,.1f}") for row in result["memory"]),
        )
    )


def filled_table(names: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Table:
    table = Table(*names)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    return table


if __name__ == "__main__":
    main()
