"""Quality against seconds beside PyKEEN and implicit: the same data, parts, evaluation and cores, in one run.

    python benchmarks/quality_for_time.py --python ENV/bin/python --graphs codex --codex FOLDER
    python benchmarks/quality_for_time.py --python ENV/bin/python --graphs lastfm planted --lastfm FOLDER --plot c.png

ENV has the peers; --python tells where it is:

    python -m venv ENV
    ENV/bin/pip install torch pykeen implicit

codex     Link prediction on train.txt, valid.txt and test.txt of FOLDER, beside PyKEEN's ComplEx and TransE.  Filtered
          MRR among all entities, both sides, mean ranks for ties, by our evaluator for both; PyKEEN's own evaluator
          judges one of its models too, and both figures are in the result.
lastfm    Recall@20 on the listens of HetRec 2011 Last.FM, split as in examples/lastfm.py, beside implicit's ALS and BPR
          and the floors.  Both have 128 factors; what a user is known to have is in no list.
planted   The same on planted users and items, 1 million pairs.

Every row is a setting after some epochs or iterations: seconds of training (ours with all that comes before the first
epoch, a spectral start too; the peers' epochs or iterations alone), quality on the validation part, by which alone
rows are chosen, and on the test part.  PyKEEN and implicit are looked at in the middle of a run; ours,
whose rates fall to zero, trains anew for each number of epochs.  The last lines say how soon ours is as good as a
peer's best.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from peers import graphs
from peers.curves import Point, best, frontier, said, seconds_to_reach, time_ratio
from peers.graphs import Parts
from peers.launch import commit, launch, machine, share_cores, versions
from peers.lists import recall, top
from peers.models import graphs_of, model_of, mrr, train_timed

from pretrain import Graph, Model, Relation, TrainConfig
from recokit.floors import EASE, ItemKNN, Popularity

OURS = "recokit"
K = 20
EXAMPLES = Path(__file__).parents[1] / "examples"

# Chosen on the validation parts; see docs/log.md.
COMPLEX = TrainConfig(
    dim=256, operator="complex_diagonal", comparator="dot", loss="softmax", temperature=1.0, uniform_negatives=500,
    reciprocal=True, n3=0.02, relation_init="random", init_scale=1e-3, optimizer="adagrad",
    relation_learning_rate=0.1, batch_size=512, precision="auto",
)  # fmt: skip
TRANSE = TrainConfig(
    dim=128, operator="translation", comparator="l2", loss="softmax", temperature=0.7, uniform_negatives=500,
    filter_positives=True, reciprocal=True, relation_init="random", relation_learning_rate=0.1, schedule="linear",
    batch_size=512, precision="auto",
)  # fmt: skip
OUR_TRIPLES: Mapping[str, tuple[TrainConfig, tuple[int, ...]]] = {
    "TransE 128": (TRANSE, (2, 5, 10, 20)),
    "ComplEx 256": (COMPLEX, (2, 4, 8)),
    "ComplEx 512": (replace(COMPLEX, dim=512), (4, 8)),
    "ComplEx 1024, all": (replace(COMPLEX, dim=1024, uniform_negatives="all"), (6, 12)),
}
PRODUCT_INIT = {"entity_initializer": "xavier_normal_", "relation_initializer": "xavier_normal_"}
PYKEEN: Mapping[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    f"ComplEx {2 * size}, LCWA": (
        {
            "model": "ComplEx",
            "model_kwargs": {"embedding_dim": size, **PRODUCT_INIT},  # complex numbers
            "inverse": True,
            "loop": "lcwa",
            "loss": "crossentropy",
            "optimizer": "adagrad",
            "lr": 0.1,
            "batch_size": 512,
        },
        (2, 5, 10, 20),
    )
    for size in (32, 128)
} | {
    "TransE 64, sLCWA, 32 negatives": (
        {
            "model": "TransE",
            "model_kwargs": {"embedding_dim": 64, "scoring_fct_norm": 2},
            "inverse": False,
            "loop": "slcwa",
            "loop_kwargs": {"negative_sampler_kwargs": {"num_negs_per_pos": 32}},
            "loss": "nssa",
            "loss_kwargs": {"margin": 9.0, "adversarial_temperature": 1.0},
            "optimizer": "adam",
            "lr": 0.01,
            "batch_size": 512,
        },
        (5, 10, 20, 40),
    ),
}
OPERATORS = {"ComplEx": ("complex_diagonal", "dot"), "TransE": ("translation", "l2")}

LISTENS = TrainConfig(
    dim=128, operator="identity", comparator="dot", loss="softmax", temperature=1.0, l2=0.1, log_q=True,
    uniform_negatives=500, prevalence_negatives=1000, prevalence_power=0.5, learning_rate=0.3, schedule="linear",
    sides="target", precision="auto",
)  # fmt: skip
EVEN = replace(LISTENS, log_q=False, prevalence_negatives=0)
SPECTRAL = replace(LISTENS, init="spectral", batch_size=256, learning_rate=0.1)
NEAR = replace(EVEN, init="spectral", uniform_negatives=100, batch_size=256, learning_rate=0.01, l2=0.0)
LADDER = (3, 5, 10, 20)
OUR_PAIRS: Mapping[str, Mapping[str, tuple[TrainConfig, tuple[int, ...]]]] = {
    "lastfm": {
        "spectral start, 150 + 350, logQ": (
            replace(SPECTRAL, uniform_negatives=150, prevalence_negatives=350, init_scale=0.2),
            (1, 2, 3, 4, 6, 10),
        ),
        "spectral start, 100 uniform, rate .01": (replace(NEAR, init_scale=0.2), (1, 2, 4)),
        "500 uniform + 1,000 by prevalence, logQ": (LISTENS, LADDER),
        "300 uniform, batches of 256": (replace(EVEN, uniform_negatives=300, batch_size=256), (3, 4, 5, 10)),
        "150 + 350, batches of 256": (
            replace(LISTENS, uniform_negatives=150, prevalence_negatives=350, batch_size=256),
            LADDER,
        ),
    },
    "planted": {
        "spectral start, 100 uniform, rate .01": (replace(NEAR, init_scale=0.4), (1, 2, 4)),
        "spectral start, 150 + 350, logQ": (
            replace(SPECTRAL, uniform_negatives=150, prevalence_negatives=350, init_scale=0.4, learning_rate=0.01),
            (1, 4),
        ),
        "200 uniform, batches of 256": (replace(EVEN, uniform_negatives=200, batch_size=256), LADDER),
        "500 uniform": (EVEN, LADDER),
        "500 uniform + 1,000 by prevalence, logQ": (LISTENS, LADDER),
    },
}
# Grids of either, all of which is run: the best is chosen on the validation part.
ALS_ITERATIONS, BPR_ITERATIONS = (1, 2, 4, 8, 15), (10, 30, 100, 200)
IMPLICIT: Mapping[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    f"ALS, alpha {alpha:g}, regularization {regularization:g}": (
        "als",
        {"factors": 128, "alpha": alpha, "regularization": regularization},
        ALS_ITERATIONS,
    )
    for alpha in (1.0, 4.0, 16.0)
    for regularization in (1.0, 10.0, 50.0)
} | {
    f"BPR, learning rate {rate:g}, regularization {regularization:g}": (
        "bpr",
        {"factors": 127, "learning_rate": rate, "regularization": regularization},  # and one for the bias
        BPR_ITERATIONS,
    )
    for rate in (0.01, 0.05)
    for regularization in (0.001, 0.01)
}


@dataclass(frozen=True)
class Bench:
    """Where and how the peers train.

    Attributes:
        python: Of the environment that has them.
        folder: For their files.
        threads: Cores.
        versions: Theirs, once they have run.
    """

    python: str
    folder: Path
    threads: int
    versions: dict[str, str] = field(default_factory=dict)

    def run(self, adapter: str, task: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Run an adapter and return what it found."""
        task = {"threads": self.threads, **task}
        result = launch(self.python, adapter, self.folder, task, arrays, threads=self.threads)
        self.versions.update(result["versions"])
        return result

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Return what an adapter left in a file."""
        with np.load(self.folder / f"{name}.npz") as arrays:
            return dict(arrays)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Users and items as rows, and three parts of their pairs: columns user, item, the training part's also weight."""

    name: str
    users: int
    items: int
    train: pd.DataFrame
    valid: pd.DataFrame
    test: pd.DataFrame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of an environment with pykeen and implicit")
    parser.add_argument("--graphs", nargs="+", choices=("codex", "lastfm", "planted"), default=["planted"])
    parser.add_argument("--codex", type=Path, help="folder of train.txt, valid.txt and test.txt")
    parser.add_argument("--lastfm", type=Path, help="folder of the five files of HetRec 2011 Last.FM")
    parser.add_argument("--pairs", type=int, default=1_000_000, help="of planted")
    parser.add_argument("--users", type=int, default=40_000, help="of planted")
    parser.add_argument("--items", type=int, default=10_000, help="of planted")
    parser.add_argument("--seed", type=int, default=0, help="of split and training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="settings whose names hold one of these words alone")
    parser.add_argument("--plot", type=Path, help="a PNG of the curves")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    cores = share_cores(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments.python, Path(folder) / "peer", arguments.threads)
        curves = [measure(name, bench, arguments) for name in arguments.graphs]
    if arguments.plot:
        plot(curves, arguments.plot)
    if arguments.json:
        result = {
            "benchmark": "quality_for_time",
            "commit": commit(),
            "machine": machine(cores),
            "versions": {**versions("recokit", "torch", "numpy"), "peers": bench.versions},
            "settings": {
                key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()
            },
            "curves": curves,
        }
        print(json.dumps(result, indent=2))
        return
    for curve in curves:
        show(curve)


def measure(name: str, bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    def wanted(setting: str) -> bool:
        return not arguments.only or any(word in setting for word in arguments.only)

    if name == "codex":
        if arguments.codex is None:
            raise SystemExit("codex needs --codex, the folder of train.txt, valid.txt and test.txt")
        return measure_triples(graphs.codex(arguments.codex), bench, wanted, arguments.seed)
    if name == "planted":
        pairs = planted(arguments)
    elif arguments.lastfm is None:
        raise SystemExit("lastfm needs --lastfm, the folder of the five files")
    else:
        pairs = listens(arguments.lastfm, arguments.seed)
    return measure_pairs(pairs, bench, wanted, arguments.seed)


# -- link prediction -------------------------------------------------------------------------------------------------


def measure_triples(parts: Parts, bench: Bench, wanted: Callable[[str], bool], seed: int) -> dict[str, Any]:
    made, points, agreements = graphs_of(parts), [], {}
    for name, (config, ladder) in OUR_TRIPLES.items():
        for epochs in ladder if wanted(name) else ():
            trained = train_timed(made.train, replace(config, epochs=epochs, seed=seed))
            found = [mrr(trained.model, made, part) for part in ("valid", "test")]
            points.append(Point(OURS, name, epochs, trained.wall_seconds, trained.wall_seconds, *found, seed=seed))
    counts = {"entities": parts.entities, "relations": parts.relations}
    for name, (settings, ladder) in PYKEEN.items():
        if not wanted(name):
            continue
        task = {**counts, "exported": ladder, "agreement": True, "seed": seed, "settings": settings}
        result = bench.run("run_pykeen", task, {"train": parts.train, "valid": parts.valid})
        for epochs in ladder:
            operator, comparator = OPERATORS[settings["model"]]
            arrays = bench.arrays(f"epoch-{epochs}")
            model = model_of(made.train, arrays, operator=operator, comparator=comparator)
            found = [mrr(model, made, part) for part in ("valid", "test")]
            points.append(Point("PyKEEN", name, epochs, result["seconds"][str(epochs)], result["wall_seconds"], *found))
        agreements[name] = {"PyKEEN's evaluator": result["own_mrr"], "ours": found[0]}
    return {"agreement": agreements, **summary(parts.name, "filtered MRR, both sides", points, ["PyKEEN"])}


# -- lists -----------------------------------------------------------------------------------------------------------


def listens(folder: Path, seed: int) -> Pairs:
    """Return the listens of Last.FM; listens of the training part weigh the logarithm of their counts."""
    sys.path.insert(0, str(EXAMPLES))
    from lastfm import log_weights
    from loaders import lastfm

    data = lastfm.load(folder).listens.rename(columns={"artist": "item"})
    data["user"], data["item"] = pd.factorize(data["user"], sort=True)[0], pd.factorize(data["item"], sort=True)[0]
    train, valid, test = (
        part.rename(columns={"artist": "item"}) for part in lastfm.split(data.rename(columns={"item": "artist"}), seed)
    )
    train = train.assign(weight=log_weights(train["count"], train["user"]))
    return Pairs("lastfm", data["user"].max() + 1, data["item"].max() + 1, train, valid, test)


def planted(arguments: argparse.Namespace) -> Pairs:
    """Return planted pairs, of which a tenth is the validation and a tenth the test part."""
    pairs = graphs.interactions(
        users=arguments.users, items=arguments.items, pairs=arguments.pairs, seed=arguments.seed
    )
    tenth = len(pairs) // 10  # they are in random order
    train = pairs[2 * tenth :].assign(weight=1.0)
    return Pairs("planted", arguments.users, arguments.items, train, pairs[tenth : 2 * tenth], pairs[:tenth])


def measure_pairs(pairs: Pairs, bench: Bench, wanted: Callable[[str], bool], seed: int) -> dict[str, Any]:
    points: list[Point] = []
    graph = pairs_graph(pairs)
    for name, (config, ladder) in OUR_PAIRS[pairs.name].items():
        for epochs in ladder if wanted(name) else ():
            trained = train_timed(graph, replace(config, epochs=epochs, seed=seed))
            found = judge(pairs, *factors(trained.model, graph, pairs))
            points.append(Point(OURS, name, epochs, trained.wall_seconds, trained.wall_seconds, *found, seed=seed))
    columns = {"users": "user", "items": "item", "weights": "weight"}
    arrays = {name: pairs.train[column].to_numpy() for name, column in columns.items()}
    arrays["weights"] = arrays["weights"].astype(np.float32)
    for name, (kind, settings, ladder) in IMPLICIT.items():
        if not wanted(name):
            continue
        task = {"model": kind, "exported": ladder, "seed": seed, "settings": settings}
        result = bench.run("run_implicit", task, arrays)
        for iterations in ladder:
            left = bench.arrays(f"iteration-{iterations}")
            found = judge(pairs, left["queries"], left["candidates"])
            seconds = result["seconds"][str(iterations)]
            points.append(Point(kind.upper(), name, iterations, seconds, result["wall_seconds"], *found, seed=seed))
    points += floors(pairs)
    return summary(pairs.name, f"recall@{K}", points, ["ALS", "BPR"])


def pairs_graph(pairs: Pairs) -> Graph:
    frame = pairs.train[["user", "item", "weight"]].rename(columns={"user": "source", "item": "target"})
    return Graph.from_frames({"pairs": frame}, [Relation("pairs", "user", "item", sides="target")])


def factors(model: Model, graph: Graph, pairs: Pairs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return our vectors of all users and items; who is not in the training part gets zeros."""
    tables = []
    for entity, count in (("user", pairs.users), ("item", pairs.items)):
        table = np.zeros((count, model.config.dim), np.float32)
        table[graph.entities[entity].to_numpy()] = model.vectors[entity].numpy()
        norms = np.linalg.norm(table, axis=1, keepdims=True)
        tables.append(table / np.maximum(norms, 1e-12) if model.config.comparator == "cos" else table)
    return tables[0], tables[1]


def judge(pairs: Pairs, queries: NDArray[np.float32], candidates: NDArray[np.float32]) -> list[float]:
    """Return the recall on the validation part, and on the test part, whose lists leave the validation part out too."""
    known = [pairs.train, pairs.valid]
    return [
        recall(top(queries, candidates, part["user"].unique(), K, exclude=pd.concat(known[:number])), part)
        for number, part in ((1, pairs.valid), (2, pairs.test))
    ]


def floors(pairs: Pairs) -> Iterator[Point]:
    """Yield the floors, as points of one iteration."""
    known = pairs.train.rename(columns={"user": "query", "item": "candidate"})
    fits: dict[str, Callable[[], Popularity | ItemKNN | EASE]] = {
        "Popularity": lambda: Popularity.fit(known),
        "ItemKNN": lambda: ItemKNN.fit(known, neighbors=1000),
        "EASE": lambda: EASE.fit(known, l2=100.0, weight="weight", dtype="float32"),
    }
    for name, fit in fits.items():
        started = time.perf_counter()
        floor = fit()
        seconds = time.perf_counter() - started
        found = []
        for number, part in ((1, pairs.valid), (2, pairs.test)):
            seen = pd.concat([pairs.train, pairs.valid][:number])[["user", "item"]]
            seen = seen.set_axis(["query", "candidate"], axis=1)
            lists = floor.recommend(part["user"].unique(), k=K, exclude=seen)
            found.append(recall(lists.rename(columns={"query": "user", "candidate": "item"}), part))
        yield Point("floor", name, 1, seconds, seconds, *found)


# -- results ---------------------------------------------------------------------------------------------------------


def summary(name: str, metric: str, points: Sequence[Point], peers: Sequence[str]) -> dict[str, Any]:
    by_trainer: dict[str, list[Point]] = {}
    for point in points:
        by_trainer.setdefault(point.trainer, []).append(point)
    ours = by_trainer.get(OURS, [])
    against = {}
    for peer in peers:
        if peer in by_trainer and ours:
            goal = best(by_trainer[peer])
            against[peer] = {
                "best": asdict(goal),
                "our_seconds": seconds_to_reach(ours, goal.valid),
                "seconds": goal.seconds,
                "time_ratio": time_ratio(ours, by_trainer[peer]),
                "time_ratio_to_99_percent": time_ratio(ours, by_trainer[peer], 0.99),
            }
    return {
        "graph": name,
        "metric": metric,
        "best": {trainer: asdict(best(of)) for trainer, of in by_trainer.items()},
        "frontier": {trainer: [asdict(point) for point in frontier(of)] for trainer, of in by_trainer.items()},
        "against": against,
        "points": [asdict(point) for point in points],
    }


def show(curve: Mapping[str, Any]) -> None:
    print(f"\n{curve['graph']}: {curve['metric']}")
    print(f"{'':<8} {'setting':<42} {'epochs':>6} {'seconds':>8} {'valid':>7} {'test':>7}")
    for point in curve["points"]:
        print(
            f"{point['trainer']:<8} {point['setting']:<42} {point['epochs']:>6} {point['seconds']:>8.2f} "
            f"{point['valid']:>7.4f} {point['test']:>7.4f}"
        )
    for name, figures in curve.get("agreement", {}).items():
        print(f"{name}: " + ", ".join(f"{key} {value:.6f}" for key, value in figures.items()))
    for peer, figures in curve["against"].items():
        nearly = figures["time_ratio_to_99_percent"]
        print(
            f"to {peer}'s best ({figures['best']['valid']:.4f} on the validation part): "
            f"{said(figures['our_seconds'], figures['seconds'])}; to 99 % of it: "
            + ("never" if nearly is None else f"ratio {nearly:.3f}")
        )


def plot(curves: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw each trainer's best so far against seconds; floors are lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(curves), 4), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        for trainer, points in curve["frontier"].items():
            if trainer != "floor":
                axes.plot([p["seconds"] for p in points], [p["test"] for p in points], "o-", label=trainer)
        for point in curve["points"]:
            if point["trainer"] == "floor":
                axes.axhline(point["test"], color="0.6", linestyle=":")
                axes.annotate(point["setting"], (1, point["test"]), xycoords=("axes fraction", "data"), ha="right")
        axes.set(title=curve["graph"], xlabel="seconds of training", ylabel=f"{curve['metric']}, test", xscale="log")
        axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
