"""Training speed as a fraction of this machine's float32 matrix-product rate, both measured in the same run.

An edge with N negatives on each of 2 sides and D dimensions costs 6 * 2 * N * D floating-point operations: a product
for the scores and two for their gradients.  The rate of torch's float32 products is measured right before and after
every run, with the same threads, so that a change of the machine's speed cancels; bfloat16 products are held against
the float32 rate too.  The engines take turns, as do tables that fit in the cache and, with ``--large``, tables of ten
million vectors of which every edge and negative takes any: then next to nothing that a step reads is in the cache.
Beside them stands what a step costs in plain torch that does less (``torch_sketch.py``).  On a machine that others use
too, ``--processor-time`` counts the seconds that the process had, a thread, in place of those that went by.

    python benchmarks/train_speed.py
    python benchmarks/train_speed.py --large                      # 5 GB of memory more
    python benchmarks/train_speed.py --processor-time             # while other programs run
    python benchmarks/train_speed.py --negatives 1000 --dim 128 --threads 1 --json
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from peers.launch import commit, machine, versions
from torch import Tensor
from torch_sketch import Sketch

import pretrain
from pretrain.edges import Edges
from pretrain.native.bindings import has_bfloat16, instructions
from pretrain.run import Run, large_empty

Clock = Callable[[], float]
Speed = Callable[[Clock], float]  # edges a second of an epoch; the next call takes the next epoch

SKETCH = "plain torch sketch"
CASES: dict[str, dict[str, Any]] = {
    "native float32": {"engine": "native"},
    "native bfloat16 products": {"engine": "native", "precision": "auto"},
    "torch": {"engine": "torch"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--negatives", type=int, nargs="+", default=[100, 1000], help="negatives a side")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--entities", type=int, default=15_000, help="of each of the two types")
    parser.add_argument("--large", action="store_true", help="measure tables of --large-entities too")
    parser.add_argument("--large-entities", type=int, default=5_000_000, help="of each of the two types")
    parser.add_argument("--edges", type=int, default=300_000, help="of every measured epoch")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processor-time", action="store_true", help="count no time that others had the cores")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cases, notes = usable_cases()
    sizes = [arguments.entities, *([arguments.large_entities] if arguments.large else [])]
    tables = {size: [random_table(size, arguments.dim, seed) for seed in (0, 1)] for size in sizes}
    rows = [row for negatives in arguments.negatives for row in measure(negatives, cases, tables, arguments)]
    result = {
        "benchmark": "train_speed",
        "machine": {**machine(sorted(os.sched_getaffinity(0))), "threads": arguments.threads},
        "versions": versions("recokit", "torch", "numpy"),
        "commit": commit(),
        "instructions": instructions(),
        "settings": {key: value for key, value in vars(arguments).items() if key not in ("json", "threads")},
        "notes": notes,
        "rows": rows,
    }
    print(json.dumps(result, indent=2) if arguments.json else "\n".join(table_of(result)))


def usable_cases() -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the cases that this machine can run, and why the others are left out."""
    cases, notes = dict(CASES), []
    if not instructions():
        notes.append("the native engine was not built: there was no C++ compiler")
        cases = {name: case for name, case in cases.items() if case["engine"] != "native"}
    elif not has_bfloat16():
        notes.append("no bfloat16 products: this processor lacks AVX512_BF16")
        del cases["native bfloat16 products"]
    return cases, notes


def measure(
    negatives: int, cases: dict[str, dict[str, Any]], tables: dict[int, list[Tensor]], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Train an epoch of every case and size in turn, several times, each between two rates of matrix products."""
    speeds = {
        (size, name): speed
        for size, both in tables.items()
        for name, speed in speeds_of(negatives, cases, both, arguments)
    }
    clock = (lambda: time.process_time() / arguments.threads) if arguments.processor_time else time.perf_counter
    found: dict[tuple[int, str], list[Measured]] = {key: [] for key in speeds}
    for _ in range(arguments.runs):
        for key, speed in speeds.items():
            before = matmul_rate("cpu", clock=clock)
            measured = speed(clock)
            found[key].append(Measured(measured, (before + matmul_rate("cpu", clock=clock)) / 2))
    flops = 6 * 2 * negatives * arguments.dim
    rows = []
    for (size, name), runs in found.items():
        row: dict[str, Any] = {"negatives": negatives, "entities": size, "case": name}
        row["edges_per_second"] = spread([run.speed for run in runs])
        row["gflops"] = spread([run.speed * flops / 1e9 for run in runs])
        row["matmul_gflops"] = spread([run.products / 1e9 for run in runs])
        row["fraction"] = spread([run.speed * flops / run.products for run in runs])
        if size != min(tables):  # both as parts of the products' rate of their own moment
            cached = found[min(tables), name]
            pairs = zip(runs, cached, strict=True)
            row["of_cached"] = spread([(a.speed / a.products) / (b.speed / b.products) for a, b in pairs])
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Measured:
    """One run: its edges a second, and the operations a second of products around it."""

    speed: float
    products: float


def speeds_of(
    negatives: int, cases: dict[str, dict[str, Any]], tables: Sequence[Tensor], arguments: argparse.Namespace
) -> Iterator[tuple[str, Speed]]:
    """Make every case ready, and warm; all of them train the same tables."""
    graph = random_graph(len(tables[0]), arguments.edges)
    states = tuple(torch.zeros(len(table)) for table in tables)
    for name, case in cases.items():
        config = pretrain.TrainConfig(
            dim=arguments.dim, batch_size=arguments.batch_size, uniform_negatives=negatives, **case
        )
        yield name, engine_speed(graph, config, tables, states)
    edges = graph.edges["links"]
    ends = torch.from_numpy(edges.sources), torch.from_numpy(edges.targets)
    sketch = Sketch((tables[0], tables[1]), (states[0], states[1]), negatives)
    yield SKETCH, sketch_speed(sketch, *ends, arguments.batch_size)


def engine_speed(
    graph: pretrain.Graph, config: pretrain.TrainConfig, tables: Sequence[Tensor], states: Sequence[Tensor]
) -> Speed:
    """Return what trains an epoch as ``pretrain.train`` does, on tables that are there already."""
    run = Run(graph.relations, config, torch.device("cpu"))
    run.vectors = dict(zip(("left", "right"), tables, strict=True))
    run.vector_state = dict(zip(("left", "right"), states, strict=True))
    run.groups = run.make_groups(graph.edges)
    losses, epochs = torch.zeros(len(run.relations), dtype=torch.float64), iter(range(1, 10**9))

    def train(clock: Clock, share: float = 1.0) -> float:
        started, done = clock(), 0
        batches = run.batches(next(epochs))
        with run.engine.at_work():
            for group, positions in batches[: max(1, round(share * len(batches)))]:
                run.step(group, positions, losses)
                done += len(positions)
        return done / (clock() - started)

    train(time.perf_counter, 0.1)
    return train


def sketch_speed(sketch: Sketch, sources: Tensor, targets: Tensor, batch_size: int) -> Speed:
    """Return what trains an epoch by the sketch."""

    def train(clock: Clock, share: float = 1.0) -> float:
        started, done = clock(), 0
        for at in torch.randperm(len(sources))[: max(1, round(share * len(sources)))].split(batch_size):
            sketch(sources[at], targets[at])
            done += len(at)
        return done / (clock() - started)

    train(time.perf_counter, 0.1)
    return train


def random_graph(entities: int, edges: int) -> pretrain.Graph:
    """Edges between any of ``entities`` of the type left and as many of the type right."""
    draw = np.random.default_rng(0)
    ids = pa.array(np.arange(entities))
    links = Edges(draw.integers(entities, size=edges), draw.integers(entities, size=edges))
    return pretrain.Graph(
        {"links": pretrain.Relation("links", "left", "right")}, {"left": ids, "right": ids}, {"links": links}
    )


def random_table(entities: int, dim: int, seed: int) -> Tensor:
    return large_empty(entities, dim).normal_(generator=torch.Generator().manual_seed(seed)).mul_(0.1)


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def table_of(result: dict[str, Any]) -> Iterator[str]:
    """Lines for people."""
    machine_, settings = result["machine"], result["settings"]
    yield f"{machine_['processor']}, {machine_['threads']} threads, commit {result['commit'][:12]}"
    if settings["processor_time"]:
        yield "seconds are those that the process had, a thread"
    yield (
        f"D={settings['dim']}, both sides, batches of {settings['batch_size']:,}; medians (min to max) of "
        f"{settings['runs']} runs; fraction and products: of and by torch's float32 matrix products"
    )
    yield from (f"note: {note}" for note in result["notes"])
    yield f"{'negatives':>9} {'entities':>10}  {'':<25}{'edges/s':>9} {'GFLOP/s':>8} {'products':>8}   fraction"
    for row in result["rows"]:
        fraction, ratio = row["fraction"], row.get("of_cached")
        yield (
            f"{row['negatives']:>9,} {2 * row['entities']:>10,}  {row['case']:<25}"
            f"{row['edges_per_second']['median']:>9,.0f} {row['gflops']['median']:>8.1f} "
            f"{row['matmul_gflops']['median']:>8.1f}   "
            f"{fraction['median']:.2f} ({fraction['min']:.2f} to {fraction['max']:.2f})"
            + ("" if ratio is None else f", {ratio['median']:.2f} of that in the cache")
        )


def last_epoch_speed(graph: pretrain.Graph, config: pretrain.TrainConfig, device: str) -> float:
    """Edges a second of the last epoch of a whole training."""
    speeds: list[float] = []
    pretrain.train(
        graph,
        config,
        device=device,
        callback=lambda event: speeds.append(event["edges_per_second"]) if event["event"] == "epoch" else None,
    )
    return speeds[-1]


def matmul_rate(device: str, size: int = 2048, seconds: float = 0.5, *, clock: Clock = time.perf_counter) -> float:
    """Floating-point operations a second of large float32 products, at torch's default precision."""
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    synchronize()
    started, count = clock(), 0
    while clock() - started < seconds:
        torch.mm(a, b, out=out)
        synchronize()
        count += 1
    return count * 2 * size**3 / (clock() - started)


if __name__ == "__main__":
    main()
