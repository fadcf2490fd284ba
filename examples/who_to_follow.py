"""Whom should a user follow?  Table 1 of TwHIN (El-Kishky et al. 2022) on public data, in a few minutes on two cores.

    python examples/who_to_follow.py --data PATH_TO_CIAO [--json table1.json] [--markdown table1.md] [--plot table1.png]

PATH_TO_CIAO holds rating.mat and trust.mat of Ciao; to trust is to follow. Needs the extras pretrain and word2vec,
and examples for the plot. What is measured:

split       A random 10 % of each user's follows are the test part and 10 % the validation part, rounded down, so that
            users with fewer than 10 follows have neither.
twins       Of the accounts that a user follows about half follow back, and a list of one's own followers finds them
            all. So the twin of a held-out edge (the same two users, the other way) is not known either, as in
            ``Graph.split``. ``--twins known`` leaves it in, and adds that list as a floor.
candidates  All accounts of the trust network but the user and those whom they follow by any edge that is not held out.
known       For the test part, all edges but the test part's, validation edges too; for ``--part validation``, on which
            every setting below was chosen, neither part's.

TwHIN-Follow is the network of the follows alone; with low-coverage relations it has the ratings (user rates item) and
the categories (item in category) too, as TwHIN 4.3 has it.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from loaders import ciao
from outputs import add_outputs, save, show
from rich.console import Console

from pretrain import Graph, Relation, TrainConfig, export, train
from recokit import (
    CandidateGenerator,
    EmbeddingTable,
    ExactIndex,
    RelationParameters,
    Report,
    compare_candidates,
    evaluate_candidates,
)
from recokit.floors import EASE, FollowCosine, ItemKNN, Popularity
from recokit.frame import drop_seen, split_per_user
from recokit.report import seed_table
from recokit.skipgram import skipgram_queries, skipgram_table

CUTOFFS = (10, 50)
LENGTH = 100  # of the lists, and so of MRR
METRICS = ("recall@10", "recall@50", "mrr")
HIN = "TwHIN-Follow + ratings, categories"

# Chosen by recall@10 of --part validation, one seed: the best, or within .002 of it at less cost, among
#   ItemKNN     50 to 1000 neighbours
#   EASE        l2 of 50 to 300
#   skip-gram   windows of 5 to 100; 10 to 100 epochs; learning rates .025 to .2; subsampling from 1e-6 to none;
#               negatives by counts to the power -.5 to 1.25
#   TwHIN       cos and dot; softmax and logistic loss; temperatures .1 to .3; translation, identity, linear, affine;
#               500 to 1500 negatives, with or without known follows among them, and by prevalence; one side, both, and
#               reciprocal; 64 and 128 dimensions; batches of 256 and 1024; weights .05 to .5 of the ratings
NEIGHBORS = 1000
L2 = 100.0
SKIPGRAM = {"dim": 64, "window": 100, "epochs": 50, "learning_rate": 0.1, "subsample": 1e-4, "power": 1.0}
CONFIG = TrainConfig(
    dim=64, comparator="cos", loss="softmax", temperature=0.15, sides="target", epochs=20, uniform_negatives=1000,
    filter_positives=True, precision="auto",
)  # fmt: skip
MIN_RATINGS = 3  # of an item in the network
SIDE_WEIGHT, SIDE_NEGATIVES = 0.2, 200


@dataclass(frozen=True)
class Task:
    """What is known and what is to be found.

    Attributes:
        known: Columns query, candidate: query follows candidate.
        relevant: The held-out follows, likewise.
        exclude: What no list may hold: the follows that are not held out, and the user.
        accounts: Ids of all candidates.
        ratings: Columns user, item, category, rating.
        protocol: How all this came about.
    """

    known: pd.DataFrame
    relevant: pd.DataFrame
    exclude: pd.DataFrame
    accounts: pd.Index
    ratings: pd.DataFrame
    protocol: dict[str, str]

    @property
    def users(self) -> pd.Series:
        """Those for whom there is something to be found."""
        return self.relevant["query"].drop_duplicates()


def make_task(data: ciao.Ciao, *, part: str = "test", twins: str = "out", seed: int = 0) -> Task:
    """Split the follows; see the top of this file."""
    follows = data.trust.rename(columns={"source": "query", "target": "candidate"})
    drawn = follows.assign(draw=np.random.default_rng(seed).random(len(follows)))
    rest, test = split_per_user(drawn, 0.1, by="draw", user="query")
    known, validation = split_per_user(rest, 1 / 9, by="draw", user="query")
    if part == "test":
        known, relevant, hidden = rest, test, test
    else:
        relevant, hidden = validation, pd.concat([validation, test])
    pairs = ["query", "candidate"]
    users = relevant["query"].unique()
    exclude = pd.concat([known[pairs], pd.DataFrame({"query": users, "candidate": users})])
    if twins == "out":
        known = drop_seen(known, reverse(hidden), on=pairs).frame
    return Task(
        known=known[pairs],
        relevant=relevant[pairs],
        exclude=exclude,
        accounts=pd.Index(np.unique(follows[pairs])),
        ratings=data.ratings,
        protocol={
            "split": f"random 10 % of each user's follows, seed {seed}, {part} part",
            "twins": "the reverse of a held-out follow is not known either" if twins == "out" else "known",
            "candidates": f"all {follows[pairs].stack().nunique():,} accounts but the user and their other follows",
        },
    )


def reverse(follows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"query": follows["candidate"], "candidate": follows["query"]})


def floors(task: Task, *, twins: str = "out") -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the name and the lists of what has no seed."""
    known = task.known
    fitted = {
        "popularity": Popularity.fit(known),
        "sparse follows, cosine": FollowCosine.fit(known),
        "sparse followers, cosine": FollowCosine.fit(known, query_vector="followers", candidate_vector="followers"),
        "follows of follows, cosine": FollowCosine.fit(known, candidate_vector="followers"),
        "ItemKNN": ItemKNN.fit(known, neighbors=NEIGHBORS),
        "EASE": EASE.fit(known, l2=L2, dtype="float32"),
    }
    for name, floor in fitted.items():
        yield name, floor.recommend(task.users, k=LENGTH, exclude=task.exclude)
    if twins == "known":
        yield "follow back", follow_back(task)


def follow_back(task: Task) -> pd.DataFrame:
    """List the followers of each user, the most followed first."""
    count = task.known["candidate"].value_counts()
    lists = drop_seen(reverse(task.known), task.exclude, on=("query", "candidate")).frame
    lists = lists.assign(score=lists["candidate"].map(count).fillna(0.0))
    lists = lists.sort_values(["query", "score", "candidate"], ascending=[True, False, True])
    lists = lists.assign(rank=lists.groupby("query").cumcount() + 1)
    return lists[lists["rank"] <= LENGTH]


def skipgrams(task: Task, seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield name and lists of a skip-gram, asked with the user's own vector and with the mean of the follows'."""
    table = skipgram_table(task.known, seed=seed, entity="user", **SKIPGRAM)
    for name, own in (("skip-gram of follows", True), ("skip-gram of follows, mean", False)):
        yield name, search(task, table, skipgram_queries(table, task.known, own=own))


def follow_graph(task: Task, *, low_coverage: bool) -> Graph:
    """The network of the known follows, alone or with ratings and categories."""
    frames = {"follows": task.known.set_axis(["source", "target"], axis=1)}
    relations = [Relation("follows", "user", "user")]
    if low_coverage:
        rated = task.ratings[task.ratings.groupby("item")["user"].transform("size") >= MIN_RATINGS]
        frames["rates"] = rated[["user", "item"]].set_axis(["source", "target"], axis=1)
        categories = rated[["item", "category"]].drop_duplicates()
        frames["in_category"] = categories.set_axis(["source", "target"], axis=1)
        relations += [
            Relation(name, source, target, weight=SIDE_WEIGHT, sides="both", uniform_negatives=SIDE_NEGATIVES)
            for name, source, target in (("rates", "user", "item"), ("in_category", "item", "category"))
        ]
    return Graph.from_frames(frames, relations)


def twhin(task: Task, graph: Graph, config: TrainConfig) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        version = export(train(graph, config), Path(folder) / "twhin")
        users = version.table("user")
        return search(task, users, users, version.relations["follows"])


def search(
    task: Task,
    table: EmbeddingTable,
    queries: EmbeddingTable,
    relation: RelationParameters | None = None,
    *,
    any_version: bool = False,
) -> pd.DataFrame:
    generate = CandidateGenerator(ExactIndex.build(table), queries, relation, any_version=any_version)
    return generate(task.users, k=LENGTH, exclude=task.exclude, allow=task.accounts, unknown="skip")


def measure(task: Task, *, seeds: int, twins: str = "out", console: Console | None = None) -> Report:
    """Run everything and compare the network with each of the others, paired by user."""
    lists: dict[str, pd.DataFrame] = {}
    report = Report([])

    def add(name: str, found: pd.DataFrame, seed: int | None) -> Report:
        lists[name] = found
        rows = evaluate(task, found, name, seed)
        if console:
            console.print(f"{name}{'' if seed is None else f', seed {seed}'}: recall@10 {rows.value('recall@10'):.4f}")
        return rows

    for name, found in floors(task, twins=twins):
        report |= add(name, found, None)
    networks = {"TwHIN-Follow": follow_graph(task, low_coverage=False), HIN: follow_graph(task, low_coverage=True)}
    for seed in range(seeds):
        for name, found in skipgrams(task, seed):
            report |= add(name, found, seed)
        for name, graph in networks.items():
            report |= add(name, twhin(task, graph, replace(CONFIG, seed=seed)), seed)
        for other in [name for name in lists if name != HIN]:
            report |= compare(task, lists[HIN], lists[other], ("HIN", other), seed)
    return report


def evaluate(task: Task, lists: pd.DataFrame, name: str, seed: int | None) -> Report:
    return evaluate_candidates(lists, task.relevant, k=CUTOFFS, name=name, seed=seed, protocol=task.protocol)


def compare(task: Task, a: pd.DataFrame, b: pd.DataFrame, names: tuple[str, str], seed: int | None) -> Report:
    return compare_candidates(a, b, task.relevant, k=CUTOFFS, names=names, seed=seed, protocol=task.protocol)


def plot(report: Report, path: Path) -> None:
    """Bars of recall@10 and MRR; the lines on them are 95 % intervals over users, means over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    rows = report.to_frame()
    rows = rows[~rows["name"].str.contains(" - ")]
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("recall@10", "mrr"), strict=True):
        means = rows[rows["metric"] == metric].groupby("name", sort=False)[["value", "low", "high"]].mean()[::-1]
        ends = np.abs(means[["low", "high"]].to_numpy().T - means["value"].to_numpy())
        axes.barh(means.index, means["value"], xerr=ends, color="tab:blue", ecolor="0.3")
        axes.set_title(metric if metric != "mrr" else f"MRR of lists of {LENGTH}")
    figure.savefig(path, dpi=150)


def main(words: Sequence[str] | None = None) -> Report:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of rating.mat and trust.mat")
    parser.add_argument(
        "--documented", action="store_true", help="read the direction of trust as the files' README does"
    )
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--twins", choices=("out", "known"), default="out")
    parser.add_argument("--seeds", type=int, default=3)
    add_outputs(parser, "json", "markdown", "plot")
    options = parser.parse_args(words)
    console = Console()
    task = make_task(ciao.load(options.data, documented=options.documented), part=options.part, twins=options.twins)
    console.print(
        f"{len(task.known):,} known follows of {len(task.accounts):,} accounts; "
        f"{len(task.relevant):,} to be found for {len(task.users):,} users"
    )
    report = measure(task, seeds=options.seeds, twins=options.twins, console=console)
    rows = seed_table(report, METRICS)
    show(console, "Who to follow", rows, task.protocol)
    save(options, report, rows)
    if options.plot:
        plot(report, options.plot)
    return report


if __name__ == "__main__":
    main()
