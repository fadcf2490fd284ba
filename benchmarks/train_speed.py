"""Training speed as a fraction of this machine's float32 matrix-product rate, both measured in the same run.

An edge with N negatives on each of s sides and D dimensions costs 6 * s * N * D floating-point operations: a product
for the scores and two for their gradients.  The rate of matrix products is measured before and after every training
run, with the same threads and precision, so that a change of the machine's speed cancels.

    python benchmarks/train_speed.py
    python benchmarks/train_speed.py --negatives 1000 --dim 128 --threads 1 --json
"""

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch

import pretrain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--negatives", type=int, nargs="+", default=[100, 1000], help="negatives a side")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--entities", type=int, default=15_000, help="of each of the two types")
    parser.add_argument("--edges", type=int, default=60_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    graph = random_graph(arguments.entities, arguments.edges)
    rows = [measure(graph, negatives, arguments) for negatives in arguments.negatives]
    result = {
        "benchmark": "train_speed",
        "machine": {"processor": platform.machine(), "threads": arguments.threads, "device": arguments.device},
        "versions": {package: version(package) for package in ("recokit", "torch", "numpy")},
        "rows": rows,
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"D={arguments.dim}, both sides, {arguments.threads} threads on {arguments.device}")
    print(f"{'negatives':>9} {'edges/s':>10} {'GFLOP/s':>8} {'products':>9} {'fraction':>8}   (medians, min to max)")
    for row in rows:
        print(
            f"{row['negatives']:>9} {row['edges_per_second']:>10,.0f} {row['gflops']:>8.1f} "
            f"{row['matmul_gflops']:>9.1f} {row['fraction']:>8.2f}   "
            f"({row['fraction_min']:.2f} to {row['fraction_max']:.2f})"
        )


def random_graph(entities: int, edges: int) -> pretrain.Graph:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"source": draw.integers(entities, size=edges), "target": draw.integers(entities, size=edges)})
    return pretrain.Graph.from_frames({"links": frame}, [pretrain.Relation("links", "left", "right")])


def measure(graph: pretrain.Graph, negatives: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Train several times, each between two measurements of the matrix-product rate."""
    flops = 6 * 2 * negatives * arguments.dim
    config = pretrain.TrainConfig(
        dim=arguments.dim, epochs=2, batch_size=arguments.batch_size, uniform_negatives=negatives
    )
    speeds, products, fractions = [], [], []
    for _ in range(arguments.runs):
        before = matmul_rate(arguments.device)
        speeds.append(last_epoch_speed(graph, config, arguments.device))
        products.append((before + matmul_rate(arguments.device)) / 2)
        fractions.append(speeds[-1] * flops / products[-1])
    return {
        "negatives": negatives,
        "dim": arguments.dim,
        "edges_per_second": statistics.median(speeds),
        "gflops": statistics.median(speeds) * flops / 1e9,
        "matmul_gflops": statistics.median(products) / 1e9,
        "fraction": statistics.median(fractions),
        "fraction_min": min(fractions),
        "fraction_max": max(fractions),
    }


def last_epoch_speed(graph: pretrain.Graph, config: pretrain.TrainConfig, device: str) -> float:
    speeds: list[float] = []
    pretrain.train(
        graph,
        config,
        device=device,
        callback=lambda event: speeds.append(event["edges_per_second"]) if event["event"] == "epoch" else None,
    )
    return speeds[-1]


def matmul_rate(device: str, size: int = 2048, seconds: float = 0.5) -> float:
    """Floating-point operations a second of large float32 products, at torch's default precision."""
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    synchronize()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        torch.mm(a, b, out=out)
        synchronize()
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
