"""What opening a table costs in a fresh process: milliseconds, resident memory, and the first rows().

    python benchmarks/table_load.py --gigabytes 10 --ids string [--no-index] [--json]

The vectors are a sparse file of zeros, so that a large table needs no disk; opening it does not know the difference.
Importing is not counted. Pages of a mapped index count as resident, although the system may take them back and all
processes share them.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recokit.table import EmbeddingTable
from recokit.table.folder import write_json, write_npy, write_parquet
from recokit.table.ids import id_array
from recokit.table.lookup import IdIndex


def make(folder: Path, count: int, dim: int, ids: str, index: bool) -> None:
    """Write a table of ``count`` zero vectors; the digest of the sparse file is left out."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0).permutation(count) * 7919
    array = pa.array(numbers) if ids == "int64" else id_array([f"user-{number}" for number in numbers.tolist()])
    np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype="<f4", shape=(count, dim))
    files: dict[str, Any] = {
        "ids.parquet": write_parquet(folder / "ids.parquet", pa.table({"id": array})),
        "vectors.npy": {"bytes": (folder / "vectors.npy").stat().st_size, "sha256": "0" * 64},
    }
    if index:
        files["ids.index.npy"] = write_npy(folder / "ids.index.npy", IdIndex.build(array).words)
    manifest = {
        "format": "embedding-table/1",
        "entity": "user",
        "version": "benchmark",
        "comparator": "dot",
        "meta": {},
    }
    write_json(folder / "table.json", {**manifest, "count": count, "dim": dim, "dtype": "float32", "files": files})


def resident() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measure(folder: Path) -> dict[str, float]:
    """Open a table and look up a thousand ids, twice."""
    small = EmbeddingTable.from_arrays([1], np.zeros((1, 1), np.float32), entity="user", version="warm")
    small.save(folder.parent / "warm")  # so that what Python imports at first use is not counted
    EmbeddingTable.load(folder.parent / "warm").rows([1])
    memory, start = resident(), time.perf_counter()
    table = EmbeddingTable.load(folder)
    figures = {"load_ms": 1e3 * (time.perf_counter() - start), "load_mb": resident() - memory}
    numbers = range(0, 7919 * min(1000, table.count), 7919)
    asked = list(numbers) if table.id_type == "int64" else [f"user-{number}" for number in numbers]
    for name in ("first", "second"):
        start = time.perf_counter()
        rows = table.rows(asked)
        figures[f"{name}_rows_ms"] = 1e3 * (time.perf_counter() - start)
    if (rows < 0).any():
        raise SystemExit("an id was not found")
    figures["with_rows_mb"] = resident() - memory
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=0.25, help="size of the vectors")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--ids", choices=["int64", "string"], default="int64")
    parser.add_argument("--no-index", action="store_true", help="leave out ids.index.npy")
    parser.add_argument("--folder", type=Path, help="where to make the table; a temporary folder where not given")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # the fresh process
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return

    count = int(options.gigabytes * 1e9 / (4 * options.dim))
    root = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        make(root / "table", count, options.dim, options.ids, not options.no_index)
        command = [sys.executable, __file__, "--measure", str(root / "table")]
        figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    finally:
        shutil.rmtree(root)
    result = {"count": count, "dim": options.dim, "ids": options.ids, "index": not options.no_index, **figures}
    print(json.dumps(result) if options.json else "\n".join(f"{name:15} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
