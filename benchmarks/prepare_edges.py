"""From an edge file to buckets on disk: seconds, edges per second, peak memory and disk, in a fresh process.

    python benchmarks/prepare_edges.py
    python benchmarks/prepare_edges.py --edges 100_000_000 --entities 5_000_000 --partitions 8 --memory 6GB --threads 2

Two entity types, each of as many entities, whose degrees fall like 1 / rank (Zipf); every entity has an edge.  The
Parquet file is made first, in batches, and is not counted; nor is importing.  The peak is VmHWM, which Linux tells; it
includes what the imports take (about 400 MB, most of it torch).
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pretrain import Relation
from pretrain.memory import process_bytes
from pretrain.preparation import prepare

_BATCH = 2_000_000
_ODD = {"source": np.uint64(0x9E3779B97F4A7C15), "target": np.uint64(0xC2B2AE3D27D4EB4F)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--entities", type=int, help="of each of the two types; a twentieth of the edges if not given")
    parser.add_argument("--ids", choices=["int64", "string"], default="int64")
    parser.add_argument("--weights", action="store_true", help="edges have weights")
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--held-out", type=float, default=0.0)
    parser.add_argument("--min-count", type=int, default=1)
    parser.add_argument("--memory", default="6GB")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="where to put the files; a temporary folder where not given")
    parser.add_argument("--keep", type=Path, help="an edge file that is made if it is not there, and kept")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # the fresh process
    options = parser.parse_args()
    options.entities = options.entities or options.edges // 20
    if options.measure:
        print(json.dumps(measure(options, options.measure)))
        return

    root = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        file = options.keep or root / "edges.parquet"
        if not file.exists():
            write_edges(file, options)
        command = [sys.executable, __file__, *sys.argv[1:], "--folder", str(root), "--measure", str(file)]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    finally:
        shutil.rmtree(root)
    settings = ("edges", "entities", "ids", "weights", "partitions", "held_out", "min_count", "memory", "threads")
    result = {
        "benchmark": "prepare_edges",
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[1]},
        "versions": {package: version(package) for package in ("recokit", "duckdb", "numpy", "pyarrow")},
        **{name: getattr(options, name) for name in settings},
        **figures,
    }
    print(json.dumps(result) if options.json else "\n".join(f"{name:18} {value}" for name, value in result.items()))


def write_edges(file: Path, options: argparse.Namespace) -> None:
    """Write the edges: those that give every entity one first, then ranks drawn in proportion to 1 / rank."""
    draw = np.random.default_rng(0)
    names = {end: ids_of(options.entities, end, options.ids) for end in ("source", "target")}
    writer = None
    for start in range(0, options.edges, _BATCH):
        count = min(_BATCH, options.edges - start)
        rows = {}
        for end, ids in names.items():
            ranks = np.exp(draw.random(count) * np.log(options.entities)).astype(np.int64)
            first = np.arange(start, min(start + count, options.entities))
            ranks[: len(first)] = first if end == "source" else options.entities - 1 - first
            rows[end] = ids.take(pa.array(ranks))
        if options.weights:
            rows["weight"] = pa.array(draw.random(count))
        table = pa.table(rows)
        writer = writer or pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def ids_of(count: int, end: str, kind: str) -> pa.Array:
    """Distinct ids whose order says nothing: multiplying by an odd number permutes the integers of 64 bits."""
    numbers = (np.arange(1, count + 1, dtype=np.uint64) * _ODD[end]).view(np.int64)
    return pa.array(numbers) if kind == "int64" else pa.array(f"{end}-{number:x}" for number in numbers.tolist())


def measure(options: argparse.Namespace, file: Path) -> dict[str, Any]:
    """Prepare the edges in this process."""
    folder, phases, before = options.folder / "prepared", {}, process_bytes()
    started = time.perf_counter()
    disk = Disk(options.folder)

    def tell(event: Any) -> None:
        phases.setdefault(event["phase"], time.perf_counter() - started)
        disk.look()

    prepared = prepare(
        folder,
        [Relation("edges", "left", "right")],
        files={"edges": file},
        partitions=options.partitions,
        held_out=options.held_out,
        min_count={"left": options.min_count, "right": options.min_count} if options.min_count > 1 else None,
        memory=options.memory,
        threads=options.threads,
        callback=tell,
    )
    seconds = time.perf_counter() - started
    ends = [*list(phases.values())[1:], seconds]
    status = Path("/proc/self/status").read_text()
    return {
        "seconds": round(seconds, 1),
        "edges_per_second": round(options.edges / seconds),
        "phases": {name: round(end - start, 1) for (name, start), end in zip(phases.items(), ends, strict=True)},
        "peak_mb": round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6),
        "imports_mb": round(before / 1e6),
        "input_mb": round(file.stat().st_size / 1e6),
        "output_mb": round(sum(size_of(folder)) / 1e6),
        "disk_peak_mb": round(disk.peak / 1e6),
        "kept": sum(prepared.num_edges.values()),
        "buckets": len(prepared.buckets),
        "chunks": sum(prepared.chunks(*bucket) for bucket in prepared.buckets),
        "digest": prepared.digest()[:16],
    }


class Disk:
    """The most bytes that a folder was seen to hold."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.peak = folder, 0

    def look(self) -> None:
        """Look now."""
        self.peak = max(self.peak, sum(size_of(self._folder)))


def size_of(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "edges.parquet":
            yield path.stat().st_size


if __name__ == "__main__":
    main()
