"""How far do embeddings drift when they are refreshed?  Table 5 and Figure 4c of TwHIN (El-Kishky et al. 2022).

    python examples/refresh.py --data PATH_TO_CIAO [--json table5.json] [--markdown table5.md] [--plot figure4c.png]

PATH_TO_CIAO holds rating.mat and trust.mat of Ciao; to trust is to follow. Needs the extra pretrain, and examples for
the plot. Ciao has no dates, so the growth is planted: version 1 is trained for 30 epochs on a network without 5 % of
the accounts and without 10 % of the follows among the others, both drawn at random; version 2 on all known follows:

retrained                30 epochs from another random start
warm start               5 more epochs from version 1, the optimizer's state carried, newcomers from their neighbours
..., fresh optimizer     the same without the state
..., L2                  with the penalty alpha |v - v'|² an entity and epoch on leaving version 1
..., L2 by degree        with the penalty times the entity's degree

The held-out follows, candidates and twins are those of ``who_to_follow.py``'s test part. Drift is measured on the
accounts of both versions, by tenths of their degree in version 1: |v - v'| / |v'| and the cosine of v and v', medians.
``recall@10, mixed`` asks version 2's accounts with version 1's vectors, as a system does that has not caught up.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from loaders import ciao
from outputs import add_outputs, save
from rich.console import Console
from who_to_follow import CONFIG, Task, compare, evaluate, follow_graph, make_task
from who_to_follow import search as follow_search

from pretrain import Graph, Model, TrainConfig, export, train
from recokit import Report, Version
from recokit.cli import text_table
from recokit.report import Result, seed_table

EPOCHS, MORE = 30, 5
# Of 10, 100, 1000 and of 1, 10: the strongest that cost no recall@10 on --part validation.
ALPHA, ALPHA_BY_DEGREE = 100.0, 1.0
CONTROL = "retrained"
METRICS = ("recall@10", "mrr", "recall@10, mixed", "drift", "cosine")
DECILES = 10


@dataclass(frozen=True)
class Way:
    """One way to version 2: what differs from ``CONFIG``, and from what it starts."""

    changes: dict[str, float]
    warm: bool = True
    carry_state: bool = True


WAYS = {
    CONTROL: Way({"epochs": EPOCHS}, warm=False),
    "warm start": Way({"epochs": MORE}),
    "warm start, fresh optimizer": Way({"epochs": MORE}, carry_state=False),
    "warm start, L2": Way({"epochs": MORE, "alpha": ALPHA}),
    "warm start, L2 by degree": Way({"epochs": MORE, "alpha": ALPHA_BY_DEGREE, "alpha_by_degree": True}),
}


def earlier(task: Task, *, seed: int = 0) -> Task:
    """The task with the follows that version 1 knows."""
    rng = np.random.default_rng(seed)
    newcomers = task.accounts[rng.random(len(task.accounts)) < 0.05]
    there = ~task.known.isin(newcomers).any(axis=1)
    return replace(task, known=task.known[there & (rng.random(len(task.known)) >= 0.1)])


def refresh(graph: Graph, first: Model, way: Way, config: TrainConfig) -> Model:
    config = replace(config, seed=config.seed + 1000, **way.changes)  # the first version's numbers are not drawn again
    return train(graph, config, previous=first if way.warm else None, carry_state=way.carry_state)


def drift(first: Model, second: Model) -> pd.DataFrame:
    """Columns degree, drift, cosine of the users that version 1 trained."""
    ids, degree = first.entities["user"], first.degrees["user"]
    before, after = first.vectors["user"], second.vectors["user"][second.rows("user", ids)]
    frame = pd.DataFrame(
        {
            "degree": degree,
            "drift": ((after - before).norm(dim=1) / before.norm(dim=1)).cpu(),
            "cosine": ((after * before).sum(dim=1) / (after.norm(dim=1) * before.norm(dim=1))).cpu(),
        }
    )
    return frame[frame["degree"] > 0]


def by_degree(drifts: pd.DataFrame) -> pd.DataFrame:
    """Medians of degree, drift and cosine by tenths of the degree."""
    tenth = pd.qcut(drifts["degree"].rank(method="first"), DECILES, labels=False)
    return drifts.groupby(tenth).median()


def measure(task: Task, *, seeds: int, console: Console | None = None) -> tuple[Report, pd.DataFrame]:
    """Run everything; returns the report and, by way, seed and tenth, degree, drift and cosine."""
    graphs = [follow_graph(part, low_coverage=False) for part in (earlier(task), task)]
    report, curves = Report([]), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            config = replace(CONFIG, seed=seed)
            first = train(graphs[0], replace(config, epochs=EPOCHS))
            old = export(first, Path(folder) / f"first-{seed}")
            lists = {"version 1, not refreshed": search(task, old, old)}
            for number, (name, way) in enumerate(WAYS.items()):
                second = refresh(graphs[1], first, way, config)
                new = export(second, Path(folder) / f"second-{seed}-{number}")
                lists[name] = search(task, new, new)
                mixed = evaluate(task, search(task, old, new), name, seed)
                drifts = drift(first, second)
                curves.append(by_degree(drifts).assign(way=name, seed=seed))
                for metric, value in {
                    "recall@10, mixed": mixed.value("recall@10"),
                    "drift": drifts["drift"].median(),
                    "cosine": drifts["cosine"].median(),
                }.items():
                    report |= Report([Result(name, metric, float(value), seed=seed, protocol=task.protocol)])
                if console:
                    console.print(f"{name}, seed {seed}: median drift {drifts['drift'].median():.4f}")
            for name, found in lists.items():
                report |= evaluate(task, found, name, seed)
            for name in [name for name in lists if name != CONTROL]:
                report |= compare(task, lists[name], lists[CONTROL], (name, CONTROL), seed)
    return report, pd.concat(curves).rename_axis("tenth").reset_index()


def search(task: Task, asking: Version, asked: Version) -> pd.DataFrame:
    """Lists of one version's accounts for the users of this or another."""
    return follow_search(
        task, asked.table("user"), asking.table("user"), asking.relations["follows"], any_version=asking is not asked
    )


def plot(curves: pd.DataFrame, path: Path) -> None:
    """Figure 4c: deviation against degree, one line a way, the mean over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    curves = curves.assign(angle=1.0 - curves["cosine"])
    left, right = figure.subplots(1, 2)
    for axes, column in ((left, "drift"), (right, "angle")):
        for way, rows in curves.groupby("way", sort=False):
            means = rows.groupby("tenth")[["degree", column]].mean()
            axes.plot(means["degree"], means[column], marker="o", label=way)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("degree in version 1, median of a tenth")
    left.set_title("|v - v'| / |v'|")
    right.set_title("1 - cosine of v and v'")
    left.legend()
    figure.savefig(path, dpi=150)


def main(words: Sequence[str] | None = None) -> tuple[Report, pd.DataFrame]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of rating.mat and trust.mat")
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--seeds", type=int, default=3)
    add_outputs(parser, "json", "markdown", "plot")
    options = parser.parse_args(words)
    console = Console()
    task = make_task(ciao.load(options.data), part=options.part)
    report, curves = measure(task, seeds=options.seeds, console=console)
    rows = seed_table(report, METRICS)
    tenths = curves.pivot_table(index="tenth", columns="way", values="drift", sort=False)
    head = ("degree", *map(str, tenths.columns))
    degrees = curves.groupby("tenth")["degree"].mean()
    lines = [
        (f"{degrees[tenth]:.0f}", *(f"{value:.3f}" for value in values))
        for tenth, values in zip(tenths.index, tenths.to_numpy(), strict=True)
    ]
    console.print(text_table("Refreshing a version", rows[0], rows[1:]), text_table("Drift by degree", head, lines))
    save(options, report, rows, [head, *lines])
    if options.plot:
        plot(curves, options.plot)
    return report, curves


if __name__ == "__main__":
    main()
