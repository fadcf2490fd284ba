"""What ``recokit plan`` predicts beside what a run takes: seconds of an epoch and memory at the peak.

Right before and right after each run the machine is measured, and the prediction is the mean of both, so that a machine
that changes its speed is no fault of the plan; ``drift`` says how much it changed.  Runs are processes of their own,
whose peak is VmHWM, which Linux tells.  Edges are drawn evenly, as the plan assumes: popular rows, which stay in the
cache, would be faster.  The median of all epochs but the first is compared.

small        200 thousand entities, 2 million edges, D = 64, 100 negatives a side
large        1 million entities, 3 million edges, D = 128, 1000 negatives a side
partitioned  1 million entities, 3 million edges, D = 128, 100 negatives a side, within --memory

    python benchmarks/plan_check.py
    python benchmarks/plan_check.py --runs small --scale 0.1 --seconds 2 --json
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pretrain import Graph, Relation, TrainConfig, train
from pretrain.calibration import calibrate
from pretrain.edges import Edges
from pretrain.memory import process_bytes
from pretrain.partitioned import plan_partitions, train_partitioned
from pretrain.plan import Plan, Workload, plan
from pretrain.preparation import prepare
from pretrain.prepared import PreparedGraph

RUNS: dict[str, dict[str, int]] = {
    "small": {"entities": 200_000, "edges": 2_000_000, "dim": 64, "negatives": 100},
    "large": {"entities": 1_000_000, "edges": 3_000_000, "dim": 128, "negatives": 1000},
    "partitioned": {"entities": 1_000_000, "edges": 3_000_000, "dim": 128, "negatives": 100},
}
LINKS = Relation("links", "left", "right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", choices=[*RUNS], nargs="+", default=[*RUNS])
    parser.add_argument("--scale", type=float, default=1.0, help="of entities and edges")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--precision", choices=["float32", "auto"], default="float32")
    parser.add_argument("--memory", default="900MB", help="of the partitioned run")
    parser.add_argument("--seconds", type=float, default=14.0, help="of the steps of each measurement of the machine")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, help="where to put the files; a temporary folder where not given")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--measure", choices=[*RUNS, "prepare"], help=argparse.SUPPRESS)  # the fresh process
    parser.add_argument("--partitions", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--chunk-edges", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.process = process_bytes()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        options.folder = Path(folder)
        rows = [check(name, options) for name in options.runs]
    result = {
        "benchmark": "plan_check",
        "machine": {"processor": platform.machine(), "threads": options.threads, "load": os.getloadavg()[1]},
        "versions": {package: version(package) for package in ("recokit", "torch", "numpy")},
        "rows": rows,
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'run':12} {'P':>3} {'s an epoch':>11} {'predicted':>10} {'ratio':>6} {'drift':>6}", end="")
    print(f" {'MB':>7} {'predicted':>10} {'ratio':>6}")
    for row in rows:
        print(
            f"{row['run']:12} {row['partitions']:>3} {row['epoch']:>11.2f} {row['epoch_predicted']:>10.2f} "
            f"{row['epoch_ratio']:>6.2f} {row['drift']:>6.2f} {row['memory'] / 1e6:>7,.0f} "
            f"{row['memory_predicted'] / 1e6:>10,.0f} {row['memory_ratio']:>6.2f}"
        )


def check(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Predict, run, predict again."""
    work, memory = workload(name, options), options.memory if name == "partitioned" else None
    words = ["--folder", str(options.folder)]
    partitions = 1
    if memory is not None:  # edges are prepared before the clock starts
        cut = plan_partitions(memory, work.entities, work.edges, work.config, baseline=options.process)
        partitions = cut.partitions
        words += ["--partitions", str(partitions), "--chunk-edges", str(cut.chunk_edges)]
        child("prepare", options, words)
    before = predicted(work, options, memory)
    found = child(name, options, words)
    after = predicted(work, options, memory)
    epoch = statistics.median(found["epochs"][1:] or found["epochs"])
    return {
        "run": name,
        "partitions": partitions,
        "entities": dict(work.entities),
        "edges": work.edges,
        **work.settings(),
        **compared("epoch", epoch, (before["epoch"] + after["epoch"]) / 2),
        **compared("memory", found["memory"], before["memory"]),
        "drift": after["epoch"] / before["epoch"],
        "epochs": found["epochs"],
        "figures": {figure.key: figure.value for figure in before.figures},
    }


def compared(key: str, measured: float, expected: float) -> dict[str, float]:
    return {key: measured, f"{key}_predicted": expected, f"{key}_ratio": measured / expected}


def workload(name: str, options: argparse.Namespace) -> Workload:
    run = RUNS["partitioned" if name == "prepare" else name]
    config = TrainConfig(
        dim=run["dim"],
        uniform_negatives=run["negatives"],
        batch_size=options.batch_size,
        epochs=options.epochs,
        precision=options.precision,
    )
    half = max(int(options.scale * run["entities"]) // 2, 1)
    return Workload({"left": half, "right": half}, max(int(options.scale * run["edges"]), half), config)


def predicted(work: Workload, options: argparse.Namespace, memory: str | None) -> Plan:
    machine = calibrate(work.config, folder=options.folder, device="cpu", seconds=options.seconds)
    # A run is a process of its own: what earlier measurements left in this one does not count.
    return plan(work, dataclasses.replace(machine, process=options.process), memory=memory)


def child(name: str, options: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    settings = ("scale", "epochs", "batch_size", "precision", "memory", "threads")
    said = [word for key in settings for word in (f"--{key.replace('_', '-')}", str(getattr(options, key)))]
    command = [sys.executable, __file__, "--measure", name, *said, *words]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run, in this process; return seconds of its epochs and its peak."""
    work = workload(options.measure, options)
    seconds: list[float] = []

    def callback(event: Any) -> None:
        if event["event"] == "epoch":
            seconds.append(work.edges / event["edges_per_second"])

    prepared = options.folder / "prepared"
    if options.measure == "prepare":
        file = options.folder / "edges.parquet"
        sources, targets = drawn(work)
        pq.write_table(pa.table({"source": sources, "target": targets}), file)
        prepare(
            prepared, [LINKS], files={"links": file}, partitions=options.partitions, chunk_edges=options.chunk_edges
        )
    elif options.measure == "partitioned":
        graph = PreparedGraph.open(prepared)
        train_partitioned(graph, work.config, path=options.folder / "run", callback=callback).close()
    else:
        ids = {entity: pa.array(np.arange(count)) for entity, count in work.entities.items()}
        train(
            Graph({"links": LINKS}, ids, {"links": Edges(*drawn(work))}), work.config, device="cpu", callback=callback
        )
    return {"epochs": seconds, "memory": peak_bytes()}


def drawn(work: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the edges; every entity has one."""
    draw, (left, right) = np.random.default_rng(0), work.entities.values()
    ends = [
        np.concatenate([np.arange(count), draw.integers(count, size=work.edges - count)]) for count in (left, right)
    ]
    return draw.permutation(ends[0]), ends[1]


def peak_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
