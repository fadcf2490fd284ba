"""Training speed, and quality for time, beside PyTorch-BigGraph: the same edges and cores, in turn, in one run.

    python benchmarks/against_bigraph.py --bigraph CLONE --python ENV/bin/python
    python benchmarks/against_bigraph.py ... --graphs communities --entities 1000000 --edges 10000000 --json
    python benchmarks/against_bigraph.py ... --graphs codex --data FOLDER --parts quality

CLONE is a checkout of github.com/facebookresearch/PyTorch-BigGraph, which stays as it is; ENV has what it needs:

    python -m venv ENV
    ENV/bin/pip install torch h5py attrs tqdm "setuptools<81"

Graphs: ``knowledge`` is planted and of FB15k-237's size, ``communities`` is planted, of one relation and any size,
``codex`` is what lies in FOLDER (train.txt, valid.txt, test.txt).

speed     Both train the same model, ComplEx with relations for either question or the plain product where there is one
          relation, under the softmax, with as many negatives a side: half from the batch, half uniform.  BigGraph has
          a worker a core, each of one thread; ours has a thread a core.  Only the epochs are timed: for BigGraph the
          permutation and its workers' batches, once all workers are up.  Medians over rounds in which both take turns.
quality   MRR, filtered, both sides, by our evaluator for both: among all entities, or among 1,000 drawn ones where
          there are more than 50,000.  BigGraph keeps its embeddings of some epochs of a run; ours, whose rates may
          fall to zero, trains anew for each number of epochs.  Settings are chosen on the validation part.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from peers import graphs
from peers.curves import Point, best, frontier, said, seconds_to_reach, time_ratio
from peers.graphs import Parts
from peers.launch import commit, launch, machine, share_cores, versions
from peers.models import Graphs, graphs_of, model_of, mrr, train_timed

from pretrain import Model, TrainConfig

OURS, THEIRS = "recokit", "BigGraph"
PRECISIONS = ("float32", "auto")  # of ours; BigGraph's is float32
OPERATORS = {"none": "identity", "complex_diagonal": "complex_diagonal", "translation": "translation"}  # theirs: ours


@dataclass(frozen=True)
class Quality:
    """Settings that were the best of a handful on the validation part, and the epochs to look at.

    Attributes:
        theirs: Name to BigGraph's settings; ``operator`` is the relation's.
        ours: Name to ours.
        their_epochs: After which its embeddings are looked at.
        our_epochs: Of runs of their own.
    """

    theirs: dict[str, dict[str, Any]]
    ours: dict[str, dict[str, Any]]
    their_epochs: tuple[int, ...]
    our_epochs: tuple[int, ...]


THEIR_COMPLEX = {"operator": "complex_diagonal", "num_batch_negs": 50, "num_uniform_negs": 950, "batch_size": 1000}
OUR_COMPLEX = {
    "operator": "complex_diagonal",
    "uniform_negatives": 500,
    "batch_size": 512,
    "reciprocal": True,
    "n3": 0.02,
    "relation_init": "random",
    "init_scale": 1e-3,
    "optimizer": "adagrad",
    "relation_learning_rate": 0.1,
}
TRIPLES = Quality(
    theirs={
        "ComplEx, 50 + 950, N3 .01": THEIR_COMPLEX | {"regularization_coef": 0.01},
        "ComplEx, 50 + 250, N3 .01": THEIR_COMPLEX | {"regularization_coef": 0.01, "num_uniform_negs": 250},
        "translation, 50 + 50": THEIR_COMPLEX | {"operator": "translation", "num_uniform_negs": 50},
    },
    ours={
        "ComplEx, 500": OUR_COMPLEX,
        "ComplEx, 100": OUR_COMPLEX | {"uniform_negatives": 100, "batch_size": 1024, "learning_rate": 0.05},
    },
    their_epochs=(1, 2, 4, 8, 16),
    our_epochs=(1, 2, 4, 8),
)
THEIR_PRODUCT = {"operator": "none", "num_batch_negs": 50, "num_uniform_negs": 50, "batch_size": 1000}
OUR_PRODUCT = {"operator": "identity", "uniform_negatives": 100, "init_scale": 1e-3, "learning_rate": 0.05}
FOLLOWS = Quality(
    theirs={
        "dot, 50 + 50, lr .1": THEIR_PRODUCT,
        "dot, 50 + 50, lr .03": THEIR_PRODUCT | {"lr": 0.03},
        "dot, 50 + 250, lr .03": THEIR_PRODUCT | {"lr": 0.03, "num_uniform_negs": 250},
    },
    ours={
        "dot, 100, lr .1": OUR_PRODUCT | {"learning_rate": 0.1},
        "dot, 100, lr .05": OUR_PRODUCT,
        "dot, 100, lr .03": OUR_PRODUCT | {"learning_rate": 0.03},
    },
    their_epochs=(1, 2, 4, 8),
    our_epochs=(1, 2, 4, 8),
)
QUALITY = {"knowledge": TRIPLES, "communities": FOLLOWS, "codex": TRIPLES}


@dataclass(frozen=True)
class TheirRun:
    """Seconds of BigGraph's epochs, and of all that its process did."""

    epoch_seconds: list[float]
    wall_seconds: float


@dataclass(frozen=True)
class Bench:
    """Where and how both train.

    Attributes:
        clone: Of BigGraph.
        python: Of the environment with what it needs.
        folder: For its files.
        threads: Cores, its workers and our threads.
        seed: Of both; BigGraph seeds its workers by their process numbers all the same.
    """

    clone: Path
    python: str
    folder: Path
    threads: int
    seed: int
    their_versions: dict[str, str] = field(default_factory=dict)

    def theirs(self, parts: Parts, config: dict[str, Any], *, exported: Sequence[int] = ()) -> TheirRun:
        """Train with BigGraph; epochs that are ``exported`` leave their embeddings."""
        relation = {"name": "all", "lhs": "all", "rhs": "all", "operator": config["operator"]}
        task = {
            "entities": parts.entities,
            "relations": parts.relations,
            "exported": list(exported),
            "seed": self.seed,
            "config": {
                "relations": [relation],
                "dynamic_relations": parts.relations > 1,
                "global_emb": False,
                "workers": self.threads,
                **{key: value for key, value in config.items() if key != "operator"},
            },
        }
        arrays = {"edges": parts.train}
        clone = str(self.clone)
        result = launch(self.python, "run_bigraph", self.folder, task, arrays, clone, threads=self.threads)
        self.their_versions.update(result["versions"])
        return TheirRun(result["epoch_seconds"], result["wall_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bigraph", type=Path, required=True, help="a checkout of PyTorch-BigGraph")
    parser.add_argument("--python", required=True, help="interpreter of an environment with what it needs")
    parser.add_argument("--graphs", nargs="+", choices=tuple(QUALITY), default=["knowledge", "communities"])
    parser.add_argument("--parts", nargs="+", choices=("speed", "quality"), default=["speed", "quality"])
    parser.add_argument("--data", type=Path, help="folder of train.txt, valid.txt and test.txt, for codex")
    parser.add_argument("--entities", type=int, default=100_000, help="of communities")
    parser.add_argument("--edges", type=int, default=1_000_000, help="of communities")
    parser.add_argument("--dims", type=int, nargs="+", default=[100, 128])
    parser.add_argument("--negatives", type=int, nargs="+", default=[100, 1000], help="a side, for the speed")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1000, 5000], help="for the speed")
    parser.add_argument("--speed-edges", type=int, default=500_000, help="trained at most a round, for the speed")
    parser.add_argument("--rounds", type=int, default=3, help="in which both take turns, for the speed")
    parser.add_argument(
        "--seed", type=int, default=0, help="of planted graphs and of training, as far as BigGraph's has one"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    cores = share_cores(arguments.threads)
    speeds: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            arguments.bigraph.resolve(), arguments.python, Path(folder) / "peer", arguments.threads, arguments.seed
        )
        for name in arguments.graphs:
            parts = make(name, arguments)
            if "speed" in arguments.parts:
                speeds += measure_speed(bench, parts, arguments)
            if "quality" in arguments.parts:
                curves.append(measure_quality(bench, parts, QUALITY[name], arguments.dims[0]))
    if arguments.json:
        result = {
            "benchmark": "against_bigraph",
            "commit": commit(),
            "machine": machine(cores),
            "versions": {**versions("recokit", "torch", "numpy"), THEIRS: bench.their_versions},
            "settings": {
                key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()
            },
            "speed": speeds,
            "quality": curves,
        }
        print(json.dumps(result, indent=2))
        return
    show(speeds, curves)


def make(name: str, arguments: argparse.Namespace) -> Parts:
    if name == "knowledge":
        return graphs.knowledge(seed=arguments.seed)
    if name == "communities":
        groups = max(arguments.entities // 500, 2)
        return graphs.communities(
            entities=arguments.entities, edges=arguments.edges, groups=groups, seed=arguments.seed
        )
    if arguments.data is None:
        raise SystemExit("codex needs --data, the folder of train.txt, valid.txt and test.txt")
    return graphs.codex(arguments.data)


def measure_speed(bench: Bench, parts: Parts, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for every dimension, number of negatives and batch size."""
    cut = Parts(parts.name, parts.entities, parts.relations, parts.train[: arguments.speed_edges], *2 * [parts.valid])
    graph = graphs_of(cut).train
    for dim in arguments.dims:
        for negatives in arguments.negatives:
            for batch_size in arguments.batch_sizes:
                case = {"dim": dim, "negatives": negatives, "batch_size": batch_size}
                theirs: list[float] = []
                ours: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
                for _ in range(arguments.rounds):
                    seconds = bench.theirs(cut, their_speed_config(parts, **case)).epoch_seconds
                    theirs.append(len(cut.train) * len(seconds) / sum(seconds))
                    for precision, rates in ours.items():
                        config = replace(our_speed_config(parts, **case), precision=precision)
                        trained = train_timed(graph, config)
                        rates.append(len(cut.train) * len(trained.edges_per_second) / trained.seconds)
                for precision, rates in ours.items():
                    yield {
                        "graph": parts.name,
                        "edges": len(cut.train),
                        "entities": parts.entities,
                        **case,
                        "precision": precision,
                        OURS: statistics.median(rates),
                        THEIRS: statistics.median(theirs),
                        "ratio": statistics.median(rates) / statistics.median(theirs),
                        "rounds": {OURS: rates, THEIRS: theirs},
                    }


def their_speed_config(parts: Parts, *, dim: int, negatives: int, batch_size: int) -> dict[str, Any]:
    return {
        "operator": "complex_diagonal" if parts.relations > 1 else "none",
        "comparator": "dot",
        "loss_fn": "softmax",
        "lr": 0.1,
        "dimension": dim,
        "num_epochs": 2,
        "batch_size": batch_size,
        "num_batch_negs": negatives // 2,
        "num_uniform_negs": negatives - negatives // 2,
    }


def our_speed_config(parts: Parts, *, dim: int, negatives: int, batch_size: int) -> TrainConfig:
    return TrainConfig(
        operator="complex_diagonal" if parts.relations > 1 else "identity",
        comparator="dot",
        loss="softmax",
        temperature=1.0,
        reciprocal=parts.relations > 1,
        learning_rate=0.1,
        dim=dim,
        epochs=2,
        batch_size=batch_size,
        in_batch_negatives=negatives // 2,
        uniform_negatives=negatives - negatives // 2,
    )


@dataclass(frozen=True, eq=False)
class Case:
    """A graph, as both take it, and how models of it are judged."""

    parts: Parts
    graphs: Graphs
    dim: int
    candidates: str

    def judge(self, model: Model) -> list[float]:
        """Return the MRR on the validation and on the test part."""
        return [mrr(model, self.graphs, part, self.candidates) for part in ("valid", "test")]


def measure_quality(bench: Bench, parts: Parts, quality: Quality, dim: int) -> dict[str, Any]:
    """Train both under their settings and return the curves and what follows."""
    case = Case(parts, graphs_of(parts), dim, "all" if parts.entities <= 50_000 else "uniform:1000")
    theirs, ours = [*their_points(bench, case, quality)], [*our_points(case, quality, bench.seed)]
    goal = best(theirs)
    return {
        "graph": parts.name,
        "entities": parts.entities,
        "edges": len(parts.train),
        "dim": dim,
        "metric": f"filtered MRR, both sides, candidates {case.candidates}",
        "best": {OURS: asdict(best(ours)), THEIRS: asdict(goal)},
        "seconds_to_their_best": {OURS: seconds_to_reach(ours, goal.valid), THEIRS: goal.seconds},
        "time_ratio": time_ratio(ours, theirs),
        "time_ratio_to_99_percent": time_ratio(ours, theirs, 0.99),
        "points": [asdict(point) for point in (*theirs, *ours)],
        "frontier": {OURS: [asdict(point) for point in frontier(ours)]},
    }


def their_points(bench: Bench, case: Case, quality: Quality) -> Iterator[Point]:
    for name, setting in quality.theirs.items():
        config = {"loss_fn": "softmax", "comparator": "dot", "lr": 0.1, "dimension": case.dim} | setting
        epochs = quality.their_epochs
        run = bench.theirs(case.parts, {**config, "num_epochs": max(epochs)}, exported=epochs)
        for epoch in epochs:
            with np.load(bench.folder / f"epoch-{epoch}.npz") as arrays:
                operator, comparator = OPERATORS[config["operator"]], config["comparator"]
                model = model_of(case.graphs.train, arrays, operator=operator, comparator=comparator)
            spent = sum(run.epoch_seconds[:epoch])
            yield Point(THEIRS, name, epoch, spent, run.wall_seconds, *case.judge(model))


def our_points(case: Case, quality: Quality, seed: int) -> Iterator[Point]:
    for name, setting in quality.ours.items():
        for epochs in quality.our_epochs:
            config = TrainConfig(
                **{"dim": case.dim, "comparator": "dot", "temperature": 1.0, "precision": "auto", **setting},
                epochs=epochs,
                seed=seed,
            )
            trained = train_timed(case.graphs.train, config)
            yield Point(OURS, name, epochs, trained.seconds, trained.wall_seconds, *case.judge(trained.model))


def show(speeds: Sequence[dict[str, Any]], curves: Sequence[dict[str, Any]]) -> None:
    if speeds:
        print(
            f"{'graph':<12} {'dim':>4} {'negatives':>9} {'batch':>6} {'products':>9} {OURS:>10} {THEIRS:>10} "
            f"{'ratio':>6}   (edges/s)"
        )
    for row in speeds:
        print(
            f"{row['graph']:<12} {row['dim']:>4} {row['negatives']:>9} {row['batch_size']:>6} "
            f"{row['precision']:>9} {row[OURS]:>10,.0f} {row[THEIRS]:>10,.0f} {row['ratio']:>6.2f}"
        )
    for curve in curves:
        print(f"\n{curve['graph']}: {curve['metric']}; dim {curve['dim']}")
        print(f"{'':<10} {'setting':<40} {'epochs':>6} {'seconds':>8} {'valid':>7} {'test':>7}")
        for point in curve["points"]:
            print(
                f"{point['trainer']:<10} {point['setting']:<40} {point['epochs']:>6} {point['seconds']:>8.1f} "
                f"{point['valid']:>7.4f} {point['test']:>7.4f}"
            )
        reached = curve["seconds_to_their_best"]
        print(f"to {THEIRS}'s best: {said(reached[OURS], reached[THEIRS])}")
        print(f"to 99 % of it: ratio {curve['time_ratio_to_99_percent']}")


if __name__ == "__main__":
    main()
