"""What thousands of relations cost beside ten: the same edges, trained under both, in one run.

A trainer that makes batches of one relation trains 5,000 relations of 20 edges in 5,000 small steps an epoch.  Here
relations that differ in their parameters alone share batches, so the ratio should be near 1.  Where the vectors of the
candidates have to be moved by the relation (cosine or distances with an operator that scales, both sides) they cannot,
and reciprocal relations are the way out.

    python benchmarks/many_relations.py
    python benchmarks/many_relations.py --relations 10 5000 --edges 100000 --threads 1 --json
"""

import argparse
import json
import platform
import statistics
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from train_speed import last_epoch_speed

import pretrain

CASES = {
    "translation, dot": {"operator": "translation", "comparator": "dot"},
    "translation, l2": {"operator": "translation", "comparator": "l2"},
    "diagonal, dot": {"operator": "diagonal", "comparator": "dot"},
    "complex_diagonal, dot": {"operator": "complex_diagonal", "comparator": "dot"},
    "rotation, l2": {"operator": "rotation", "comparator": "l2"},
    "linear, dot": {"operator": "linear", "comparator": "dot"},
    "translation, cos, reciprocal": {"operator": "translation", "comparator": "cos", "reciprocal": True},
    "translation, cos": {"operator": "translation", "comparator": "cos"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--relations", type=int, nargs=2, default=[10, 5000], metavar=("FEW", "MANY"))
    parser.add_argument("--edges", type=int, default=50_000)
    parser.add_argument("--entities", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=500, help="negatives a side")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    graphs = [random_graph(arguments.entities, arguments.edges, count) for count in arguments.relations]
    rows = [measure(name, case, graphs, arguments) for name, case in CASES.items()]
    if arguments.json:
        result = {
            "benchmark": "many_relations",
            "machine": {"processor": platform.machine(), "threads": arguments.threads},
            "versions": {package: version(package) for package in ("recokit", "torch", "numpy")},
            "settings": {key: value for key, value in vars(arguments).items() if key != "json"},
            "rows": rows,
        }
        print(json.dumps(result, indent=2))
        return
    few, many = arguments.relations
    print(
        f"edges/s with {few:,} and {many:,} relations, the same {arguments.edges:,} edges, {arguments.threads} threads"
    )
    for row in rows:
        print(f"{row['case']:<30} {row['few']:>9,.0f} {row['many']:>9,.0f}   ratio {row['ratio']:.2f}")


def random_graph(entities: int, edges: int, relations: int) -> pretrain.Graph:
    draw = np.random.default_rng(0)
    ends = {"h": draw.integers(entities, size=edges), "t": draw.integers(entities, size=edges)}
    return pretrain.Graph.from_triples(pd.DataFrame({**ends, "r": np.arange(edges) % relations}))


def measure(name: str, case: dict[str, object], graphs: list[pretrain.Graph], arguments: argparse.Namespace) -> dict:
    """Train both graphs in turn, several times, and compare the medians of their last epochs."""
    config = pretrain.TrainConfig(
        dim=arguments.dim, epochs=2, batch_size=1000, uniform_negatives=arguments.negatives, **case
    )
    speeds = [[last_epoch_speed(graph, config, "cpu") for graph in graphs] for _ in range(arguments.runs)]
    few, many = (statistics.median(run[at] for run in speeds) for at in (0, 1))
    return {"case": name, "few": few, "many": many, "ratio": statistics.median(run[1] / run[0] for run in speeds)}


if __name__ == "__main__":
    main()
