"""Training speed of mixtures beside that of one vector with as many numbers, side by side in one run.

C components of dimension n take, against candidates of one component, as many products as one vector of C * n: what
mixtures take on top is pooling, and products of short vectors.  With C components on both sides they take C times as
many.  Every round trains an epoch of each system; a ratio is that of the two epochs of a round.

    python benchmarks/mixture_speed.py
    python benchmarks/mixture_speed.py --components 5 --dim 64 --negatives 500 --json
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peers.launch import commit, machine, versions
from train_speed import engine_speed, random_graph, random_table, spread, usable_cases

import pretrain


@dataclass(frozen=True)
class System:
    """A kind of model: components of sources and of targets, of how many numbers each, and how they are pooled."""

    name: str
    components: tuple[int, int]
    dim: int
    pooling: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--components", type=int, default=4, help="C")
    parser.add_argument("--dim", type=int, default=32, help="n, of a component")
    parser.add_argument("--negatives", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--entities", type=int, default=15_000, help="of each of the two types")
    parser.add_argument("--edges", type=int, default=100_000, help="of every measured epoch")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases, notes = usable_cases()
    result = {
        "benchmark": "mixture_speed",
        "machine": {**machine(sorted(os.sched_getaffinity(0))), "threads": options.threads},
        "versions": versions("recokit", "torch", "numpy"),
        "commit": commit(),
        "settings": {key: value for key, value in vars(options).items() if key not in ("json", "threads")},
        "notes": notes,
        "rows": [row for name, case in cases.items() for row in measure(name, case, options)],
    }
    print(json.dumps(result, indent=2) if options.json else "\n".join(table_of(result)))


def systems(options: argparse.Namespace) -> list[System]:
    """The one vector first, which the others are held against."""
    number, dim = options.components, options.dim
    return [
        System(f"one vector of {number * dim}", (1, 1), number * dim, "smoothmax"),
        System(f"{number} x {dim}, smoothmax", (number, 1), dim, "smoothmax"),
        System(f"{number} x {dim}, max", (number, 1), dim, "max"),
        System(f"{number} x {dim} on both sides, smoothmax", (number, number), dim, "smoothmax"),
    ]


def measure(name: str, case: dict[str, Any], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train an epoch of every system in turn, several times."""
    graph, all_systems = random_graph(options.entities, options.edges), systems(options)
    speeds = []
    for system in all_systems:
        config = pretrain.TrainConfig(
            dim=system.dim,
            components=dict(zip(("left", "right"), system.components, strict=True)),
            pooling=system.pooling,
            batch_size=options.batch_size,
            uniform_negatives=options.negatives,
            sides="target",
            operator="identity",
            **case,
        )
        entities = [("left", 0), ("right", 1)]
        tables = [random_table(options.entities, config.width(entity), seed) for entity, seed in entities]
        states = [torch.zeros(options.entities, *config.state_shape(entity)) for entity, _ in entities]
        speeds.append(engine_speed(graph, config, tables, states))
    rounds = [[speed(time.perf_counter) for speed in speeds] for _ in range(options.runs)]
    for system, found in zip(all_systems, zip(*rounds, strict=True), strict=True):
        ratios = [own / one[0] for own, one in zip(found, rounds, strict=True)]
        yield {
            "engine": name,
            "system": system.name,
            "edges_per_second": spread(found),
            "of_one_vector": spread(ratios),
        }


def table_of(result: dict[str, Any]) -> Iterator[str]:
    """Lines for people."""
    machine_, settings = result["machine"], result["settings"]
    yield f"{machine_['processor']}, {machine_['threads']} threads, commit {result['commit'][:12]}"
    yield (
        f"{settings['negatives']:,} negatives of one side, batches of {settings['batch_size']:,}; medians (min to max) "
        f"of {settings['runs']} rounds"
    )
    yield from (f"note: {note}" for note in result["notes"])
    yield f"{'engine':<26}{'system':<38}{'edges/s':>10}   of one vector's"
    for row in result["rows"]:
        ratio = row["of_one_vector"]
        yield (
            f"{row['engine']:<26}{row['system']:<38}{row['edges_per_second']['median']:>10,.0f}   "
            f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        )


if __name__ == "__main__":
    main()
