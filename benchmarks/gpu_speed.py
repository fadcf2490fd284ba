# ruff: noqa: E402 (imports come after the path that they need)
"""Training speed on a CUDA device as fractions of its measured rates of matrix products and of copies.

Random edges between two types of entities, a translation and the cosine, softmax, negatives on both sides: sampling,
step and update of every batch, replayed as a CUDA graph; beside it the same batches by torch's own operations.  Before
anything is timed, the kernels are compared with torch's step in float64 on the CPU.

An edge with N negatives on each of 2 sides and D dimensions costs 12 N D floating-point operations where scores are
kept (``fraction_of_product`` counts these, at the rate of products of the same precision) and 16 N D as the kernels do
it.  In memory it moves about 60 D + 8 e D bytes with operands of e bytes: 8 D + 2 e D to gather both ends and write
the operands, 24 D + 6 e D in the four kernels, 4 D to sum the relation's gradient, 24 D to read gradients and to read
and write rows; what negatives add is shared by the batch.  With D = 128 and bfloat16 that is 9.7 KB: at 4.3 TB/s 440
million edges a second whatever N, and at N = 1000 the products, 2.05 million operations an edge, allow 380 million at
780 TFLOP/s.  Batches are large because a step of 8192 edges at these speeds lasts no longer than its launches.

    python benchmarks/gpu_speed.py
    python benchmarks/gpu_speed.py --negatives 1000 --batch-sizes 65536 --products bf16 --tune --json
"""

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
if find_spec("pretrain") is None:
    sys.path.insert(0, str(ROOT))
if find_spec("duckdb") is None:  # a machine with torch, Triton and NumPy will do: only the engine is needed
    sys.modules["pretrain"] = types.ModuleType("pretrain")
    sys.modules["pretrain"].__path__ = [str(ROOT / "pretrain")]

from pretrain import optimizer
from pretrain.config import TrainConfig
from pretrain.gpu import Kind, unusable
from pretrain.movers import forms
from pretrain.negatives import NegativeSampler
from pretrain.step import Batch, Sampled, Step

PRODUCTS = ("bf16", "tf32", "tf32x3", "ieee")
TOLERANCE = {"ieee": 1e-4, "tf32x3": 1e-4, "tf32": 1e-2, "bf16": 3e-2}  # of gradients, by norm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--negatives", type=int, nargs="+", default=[1000, 100], help="negatives a side")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8192, 65536])
    parser.add_argument("--products", nargs="+", choices=PRODUCTS, default=["bf16", "tf32", "ieee"])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--entities", type=int, default=1_000_000, help="of each of the two types")
    parser.add_argument("--edges", type=int, default=4_000_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each of the runs")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tune", action="store_true", help="time the question's kernels with other tiles too")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (why := unusable(device)) is not None:
        print(f"nothing to measure: {why}")
        return
    errors = {product: error_against_cpu(product, arguments.dim, device) for product in arguments.products}
    for product, error in errors.items():
        if not error <= TOLERANCE[product]:
            sys.exit(
                f"{product}: gradients are off by {error:.2g} of their norm, expected {TOLERANCE[product]} at most"
            )
    rates = machine_rates(device)
    rows = [
        measure(Setup(product, count, size, arguments, device), rates)
        for count, size in itertools.product(arguments.negatives, arguments.batch_sizes)
        for product in (*arguments.products, "torch")
    ]
    result = {
        "benchmark": "gpu_speed",
        "machine": machine(device),
        "versions": versions(),
        "rates": rates,
        "errors": errors,
        "rows": rows,
        "tiles": tune(arguments, device) if arguments.tune else [],
    }
    print(json.dumps(result, indent=2) if arguments.json else report(result, arguments.dim))


def report(result: dict[str, Any], dim: int) -> str:
    rates = result["rates"]
    lines = [
        f"D={dim}, both sides, on {result['machine']['device']}: products of "
        + ", ".join(f"{rates[name] / 1e12:.0f} ({name})" for name in ("ieee", "tf32", "bf16"))
        + f" TFLOP/s, copies of {rates['copy'] / 1e12:.2f} TB/s",
        f"{'negatives':>9} {'batch':>7} {'product':>7} {'edges/s':>14} {'of product':>10} {'of copy':>8}",
    ]
    lines += [
        f"{row['negatives']:>9} {row['batch_size']:>7} {row['product']:>7} {row['edges_per_second']:>14,.0f} "
        f"{row['fraction_of_product']:>10.2f} {row['fraction_of_copy']:>8.2f}"
        for row in result["rows"]
    ]
    lines += [f"{row['microseconds']:>9.1f} us {row}" for row in result["tiles"]]
    return "\n".join(lines)


# ---- what the machine can do


def machine(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "processor": platform.machine(),
        "device": properties.name,
        "memory": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "capability": list(torch.cuda.get_device_capability(device)),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "cuda": str(torch.version.cuda)}
    for package in ("recokit", "torch", "triton", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine_rates(device: torch.device, size: int = 8192) -> dict[str, float]:
    """Operations a second of large products by precision, and bytes a second, read and written, of a copy."""
    rates = {}
    for name, precision, dtype in (
        ("ieee", "highest", torch.float32), ("tf32", "high", torch.float32), ("bf16", "highest", torch.bfloat16),
    ):  # fmt: skip
        torch.set_float32_matmul_precision(precision)
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        rates[name] = 2 * size**3 / seconds_of(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))
    torch.set_float32_matmul_precision("highest")
    source = torch.empty(2**30, device=device)
    target = torch.empty_like(source)
    rates["copy"] = 2 * 4 * 2**30 / seconds_of(lambda: target.copy_(source))
    rates["tf32x3"] = rates["tf32"]  # of which it needs three
    return rates


def seconds_of(work: Callable[[], object], repeats: int = 20, warm: int = 3) -> float:
    """Return the median time of ``work``, by the device's clock."""
    for _ in range(warm):
        work()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for first, last in events:
        first.record()
        work()
        last.record()
    torch.cuda.synchronize()
    return statistics.median(first.elapsed_time(last) for first, last in events) / 1e3


# ---- what is trained


@dataclass(frozen=True)
class Setup:
    """What is measured."""

    product: str  # or "torch"
    negatives: int
    batch_size: int
    arguments: argparse.Namespace
    device: torch.device


class Training:
    """Tables, edges and samplers, and what one batch does to them."""

    def __init__(self, setup: Setup) -> None:
        arguments, device, dim = setup.arguments, setup.device, setup.arguments.dim
        draw = np.random.default_rng(0)
        self.config = TrainConfig(dim=dim)
        self.step, self.updates = engine(setup.product, self.config)
        self.generator = torch.Generator(device).manual_seed(0)
        self.ends = {
            side: torch.from_numpy(draw.integers(arguments.entities, size=arguments.edges)).to(device)
            for side in ("source", "target")
        }
        self.tables = {side: 0.1 * torch.randn(arguments.entities, dim, device=device) for side in self.ends}
        self.states = {side: torch.zeros(arguments.entities, device=device) for side in self.ends}
        self.block, self.block_state = (torch.zeros(1, dim, device=device) for _ in range(2))
        self.losses = torch.zeros(1, dtype=torch.float64, device=device)
        self.weights = torch.ones(arguments.edges, device=device)
        self.relations = torch.zeros(arguments.edges, dtype=torch.int64, device=device)
        degrees = np.ones(arguments.entities, dtype=np.int64)
        self.sampler = NegativeSampler(degrees, uniform=setup.negatives, device=device)

    def train(self, group: str, positions: Tensor, rate: Tensor) -> None:
        """Train the edges at positions (B,)."""
        own = {side: rows[positions] for side, rows in self.ends.items()}
        sampled = {side: Sampled(self.sampler.draw(rows, self.generator)) for side, rows in own.items()}
        batch = Batch(
            own["source"], own["target"], self.relations[positions], self.weights[positions],
            sampled["source"], sampled["target"],
        )  # fmt: skip
        found = self.step(self.tables["source"], self.tables["target"], self.block, batch)
        self.losses += found.losses.sum(dtype=torch.float64)
        for side, rows, grads in (
            ("source", found.source_rows, found.source_grads),
            ("target", found.target_rows, found.target_grads),
        ):
            self.updates.update_(self.tables[side], self.states[side], [(rows, grads)], rate * 0.1)
        of_relations = [(found.relation_rows, found.relation_grads)]
        self.updates.update_(self.block, self.block_state, of_relations, rate * 0.01)


def engine(product: str, config: TrainConfig) -> tuple[Any, Any]:
    """Return what makes gradients and what applies them."""
    if product == "torch":
        entering = forms("translation", "source", config.comparator)
        return Step.of(config, entering["target"], entering["source"]), optimizer
    from pretrain.gpu import update
    from pretrain.gpu.engine import KernelStep

    return KernelStep(config, Kind("translation", "source", True, ("source", "target")), product), update  # type: ignore[arg-type]


def measure(setup: Setup, rates: dict[str, float]) -> dict[str, Any]:
    from pretrain.gpu.graphs import CudaCapture, Replays

    training, size = Training(setup), setup.batch_size
    batches = [("edges", part) for part in torch.randperm(setup.arguments.edges).split(size) if len(part) == size]
    captured = setup.product != "torch"  # whose step waits for the device
    replays = Replays(
        training.train, size, CudaCapture(setup.device, [training.generator]), setup.device, lambda _: captured
    )
    speeds = []
    for run in range(setup.arguments.runs + 1):  # the first builds and captures
        done, started = 0, time.perf_counter()
        while not done or (run and time.perf_counter() - started < setup.arguments.seconds):
            replays.begin(batches)
            for name, positions in batches:
                replays.step(name, positions)
            torch.cuda.synchronize()
            done += len(batches) * size
        speeds.append(done / (time.perf_counter() - started))
    if not torch.isfinite(training.losses).all():
        sys.exit(f"{setup.product}: the loss is {training.losses.item()}")
    dim, speed = setup.arguments.dim, statistics.median(speeds[1:])
    kind = "ieee" if setup.product == "torch" else setup.product
    operand = 2 if kind == "bf16" else 4
    return {
        "product": setup.product,
        "negatives": setup.negatives,
        "batch_size": size,
        "dim": dim,
        "edges_per_second": speed,
        "slowest": min(speeds[1:]),
        "fastest": max(speeds[1:]),
        "fraction_of_product": speed * 12 * setup.negatives * dim / rates[kind],
        "fraction_of_copy": speed * (60 + 8 * operand) * dim / rates["copy"],
    }


# ---- whether it is right, and which tiles are fast


def error_against_cpu(product: str, dim: int, device: torch.device) -> float:
    """The largest error of a gradient, in its norm, of a batch on the device against float64 on the CPU."""
    draw, config = torch.Generator().manual_seed(0), TrainConfig(dim=dim)
    tables = [torch.randn(300, dim, generator=draw) for _ in range(2)]
    block = torch.randn(1, dim, generator=draw)
    rows = [torch.randint(300, (length,), generator=draw) for length in (500, 500, 130, 130)]
    weights, relations = torch.rand(500, generator=draw), torch.zeros(500, dtype=torch.int64)

    def gradients(step: Any, to: Callable[[Tensor], Tensor]) -> list[Tensor]:
        s, t, ns, nt = map(to, rows)
        batch = Batch(s, t, to(relations), to(weights), Sampled(ns), Sampled(nt))
        found = step(*map(to, tables), to(block), batch)
        parts = (found.source_rows, found.source_grads), (found.target_rows, found.target_grads)
        dense = [
            torch.zeros(300, dim, dtype=torch.float64).index_add_(0, at.cpu(), grads.double().cpu())
            for at, grads in parts
        ]
        return [*dense, found.relation_grads.sum(0).double().cpu(), found.losses.double().cpu()]

    exact = gradients(engine("torch", config)[0], lambda part: part.double() if part.is_floating_point() else part)
    found = gradients(engine(product, config)[0], lambda part: part.to(device))
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True))


def tune(arguments: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Time one question with several tiles, fastest first."""
    from triton.runtime.errors import OutOfResources

    from pretrain.gpu.contrast import Objective, Tiles, contrast, prepare

    found = []
    for product, count, size in itertools.product(arguments.products, arguments.negatives, arguments.batch_sizes):
        prepared = [
            prepare(torch.randn(length, arguments.dim, device=device), normalise=True, product=product)
            for length in (size, size, count)
        ]
        rows = [torch.randint(arguments.entities, (length,), device=device) for length in (size, count)]
        weights = torch.ones(size, device=device)
        for queries, negatives, warps, stages in itertools.product((32, 64, 128), (32, 64, 128), (4, 8), (1, 2, 3)):
            tiles = Tiles(queries, negatives, warps, stages)

            def work(tiles: Any = tiles, product: Any = product, prepared: Any = prepared, rows: Any = rows) -> None:
                contrast(Objective("softmax", 0.2), *prepared, *rows, weights, product=product, tiles=tiles)  # noqa: B023

            try:
                micros = 1e6 * seconds_of(work, repeats=10)
            except OutOfResources:
                continue
            what = {"product": product, "negatives": count, "batch_size": size}
            found.append({**what, "tiles": vars(tiles), "microseconds": micros})
    return sorted(found, key=lambda row: (row["product"], row["negatives"], row["batch_size"], row["microseconds"]))


if __name__ == "__main__":
    main()
