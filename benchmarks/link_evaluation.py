"""Time of link prediction, beside the time of the matrix products alone that it cannot do without.

A planted random graph of the shape of FB15k-237 (14,541 entities, 237 relations of very unequal size, 272,115 training
and 20,466 held-out edges); both sides, filtered, all entities as candidates.  The products of every relation's queries
with all candidates are measured before and after every evaluation, with the same threads and as many queries at a
time, so that a change of the machine's speed cancels.

    python benchmarks/link_evaluation.py
    python benchmarks/link_evaluation.py --comparator l2 --candidates uniform:1000 --threads 1 --json
"""

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import torch

import pretrain
from pretrain.edges import Edges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=14_541)
    parser.add_argument("--relations", type=int, default=237)
    parser.add_argument("--edges", type=int, default=272_115, help="training edges, which are filtered")
    parser.add_argument("--held-out", type=int, default=20_466, help="edges")
    parser.add_argument("--dim", type=int, default=200)
    parser.add_argument("--operator", default="translation")
    parser.add_argument("--comparator", default="dot")
    parser.add_argument("--candidates", default="all", help="all, uniform:K or prevalence:K")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    known, held_out = random_graph(arguments.edges, arguments), random_graph(arguments.held_out, arguments, seed=1)
    # What the vectors are makes no difference to the time: next to no training.
    config = pretrain.TrainConfig(
        dim=arguments.dim,
        operator=arguments.operator,
        comparator=arguments.comparator,
        epochs=1,
        uniform_negatives=1,
    )
    model = pretrain.train(known, config, device=arguments.device)
    runs = [measure(model, known, held_out, arguments) for _ in range(arguments.runs)]
    questions = 2 * sum(map(len, held_out.edges.values()))
    result = {
        "benchmark": "link_evaluation",
        "machine": {"processor": platform.machine(), "threads": arguments.threads, "device": arguments.device},
        "versions": {package: version(package) for package in ("recokit", "torch", "numpy")},
        "shape": {key: getattr(arguments, key) for key in ("entities", "relations", "edges", "held_out", "dim")},
        "settings": {key: getattr(arguments, key) for key in ("operator", "comparator", "candidates")},
        "questions": questions,
        "seconds": statistics.median(seconds for seconds, _ in runs),
        "questions_per_second": questions / statistics.median(seconds for seconds, _ in runs),
        "product_seconds": statistics.median(products for _, products in runs),
        "fraction": statistics.median(products / seconds for seconds, products in runs),
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{questions:,} questions about {arguments.entities:,} entities, D={arguments.dim}, {arguments.operator}, "
        f"{arguments.comparator}, candidates {arguments.candidates}, {arguments.threads} threads on {arguments.device}"
    )
    print(
        f"{result['seconds']:.1f} s, {result['questions_per_second']:,.0f} questions/s; the matrix products alone of "
        f"all candidates {result['product_seconds']:.1f} s, a fraction of {result['fraction']:.2f}   (medians)"
    )


def random_graph(edges: int, arguments: argparse.Namespace, seed: int = 0) -> pretrain.Graph:
    """Draw edges whose relations and ends follow power laws, in numbers that do not depend on the seed."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, arguments.relations + 1)
    ends = np.diff((shares.cumsum() / shares.sum() * edges).round().astype(int), prepend=0)
    names = [f"relation {number}" for number in range(arguments.relations)]

    def rows(count: int) -> np.ndarray:
        return (arguments.entities * rng.random(count) ** 2).astype(np.int64)

    return pretrain.Graph(
        {name: pretrain.Relation(name, "entity", "entity") for name in names},
        {"entity": pa.array(range(arguments.entities))},
        {name: Edges(rows(count), rows(count)) for name, count in zip(names, ends.tolist(), strict=True)},
    )


def measure(
    model: pretrain.Model, known: pretrain.Graph, held_out: pretrain.Graph, arguments: argparse.Namespace
) -> tuple[float, float]:
    """Seconds of an evaluation, and of its matrix products around it."""
    before = product_seconds(held_out, arguments)
    started = time.perf_counter()
    pretrain.evaluate(model, held_out, known=known, candidates=arguments.candidates)
    seconds = time.perf_counter() - started
    return seconds, (before + product_seconds(held_out, arguments)) / 2


def product_seconds(held_out: pretrain.Graph, arguments: argparse.Namespace) -> float:
    """Seconds of the products of every relation's queries with all candidates, on both sides."""
    candidates = torch.randn(arguments.entities, arguments.dim, device=arguments.device)
    most = max(16, (1 << (22 if arguments.device == "cpu" else 28)) // arguments.entities)  # as evaluate
    queries = torch.randn(most, arguments.dim, device=arguments.device)
    out = torch.empty(most, arguments.entities, device=arguments.device)
    sizes = [min(most, len(edges) - at) for edges in held_out.edges.values() for at in range(0, len(edges), most)]
    started = time.perf_counter()
    for size in sizes * 2:
        torch.mm(queries[:size], candidates.T, out=out[:size])
    if arguments.device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
