"""Which artists will a user listen to?  HetRec 2011 Last.FM: listens, friends and tags as one network.

    python examples/lastfm.py --data FOLDER [--seeds 3] [--part validation]
        [--json FILE] [--markdown FILE] [--plot FILE]

FOLDER holds user_artists.dat, user_friends.dat, user_taggedartists.dat, artists.dat and tags.dat. Needs the extra
pretrain, and examples for the plot. What is measured:

split       Every seed draws 8:1:1 of each user's listens anew: training, validation and test part.
candidates  All 17,632 artists but those of the user's training part, and for the test part those of the validation part
            too. As in RecBole, whose published table is printed beside, nothing is trained on the validation part.
tags        Who tags an artist has listened to it: 22 % of the listens are tagged by the same user. So what a user said
            of an artist that is held out for that user is in no relation.

The networks are the listens alone and with friends, with tags (user has used tag, artist was given tag), with both.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from loaders import lastfm
from outputs import add_outputs, save, show
from rich.console import Console

from pretrain import Graph, Relation, TrainConfig, export, train
from recokit import CandidateGenerator, ExactIndex, Report, compare_candidates, evaluate_candidates
from recokit.floors import EASE, ItemKNN, Popularity
from recokit.report import seed_table

K = 10
METRICS = (f"recall@{K}", f"ndcg@{K}")
LISTENS = "listens"

# RecBole-GNN's table (results/social/lastfm.md), 64 dimensions: the same rule of splitting, but not the same rows.
PUBLISHED = {
    "BPR": (0.1761, 0.1674),
    "NeuMF": (0.1696, 0.1604),
    "NGCF": (0.1960, 0.1898),
    "LightGCN": (0.2064, 0.1972),
    "MHCN, with friends": (0.2123, 0.2068),
    "SEPT, with friends": (0.2127, 0.2057),
}

# Chosen on --part validation of seed 0, among
#   ItemKNN     50 to 1000 neighbours, with weights by counts and without
#   EASE        l2 of 50 to 800, with weights by counts and without
#   networks    cos and dot; temperatures .07 to .25; l2 of .06 to .5; learning rates .03 to .5, constant and falling;
#               15 to 100 epochs; up to 4,000 negatives, uniform and by prevalence, with and without logQ; known listens
#               among them or not; weights by counts and without; weights of the other relations from .1 to 1
NEIGHBORS = 1000
L2 = 100.0
CONFIG = TrainConfig(
    dim=64, operator="identity", comparator="dot", loss="softmax", temperature=1.0, l2=0.1, log_q=True,
    uniform_negatives=500, prevalence_negatives=1000, prevalence_power=0.5, epochs=20, learning_rate=0.3,
    schedule="linear", precision="auto",
)  # fmt: skip
WEIGHTS = {"friends": 0.3, "artist_tag": 0.1, "user_tag": 0.1}
SIDE_NEGATIVES = 200  # of each kind
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "listens": (),
    "listens, friends": ("friends",),
    "listens, tags": ("artist_tag", "user_tag"),
    "listens, friends, tags": ("friends", "artist_tag", "user_tag"),
}
HIN = "listens, friends, tags"


@dataclass(frozen=True)
class Task:
    """What is known and what is to be found.

    Attributes:
        known: Columns user, artist, weight: the training part; listens weigh ``log_weights`` of their counts.
        relevant: Columns query, candidate: the held-out listens.
        exclude: Columns query, candidate: what no list may hold.
        artists: Ids of all candidates.
        friends: Columns user, friend.
        tags: Columns user, artist, tag, without those of held-out pairs.
        protocol: How all this came about.
    """

    known: pd.DataFrame
    relevant: pd.DataFrame
    exclude: pd.DataFrame
    artists: pd.Index
    friends: pd.DataFrame
    tags: pd.DataFrame
    protocol: dict[str, str]

    @property
    def users(self) -> pd.Series:
        """Those for whom there is something to be found."""
        return self.relevant["query"].drop_duplicates()


def make_task(data: lastfm.LastFm, *, seed: int = 0, part: str = "test") -> Task:
    """Split the listens; see the top of this file."""
    known, validation, test = lastfm.split(data.listens, seed)
    relevant, seen = (test, pd.concat([known, validation])) if part == "test" else (validation, known)
    return Task(
        known=known[["user", "artist"]].assign(weight=log_weights(known["count"], known["user"])),
        relevant=_pairs(relevant),
        exclude=_pairs(seen),
        artists=pd.Index(data.listens["artist"].unique()),
        friends=data.friends,
        tags=lastfm.leak_free_tags(data.tags, validation, test),
        protocol={
            "split": f"random 8:1:1 of each user's listens, drawn anew by every seed, {part} part",
            "candidates": "all artists but those of the user's other known listens",
            "tags": "those of held-out pairs of user and artist are in no relation",
        },
    )


def _pairs(listens: pd.DataFrame) -> pd.DataFrame:
    return listens[["user", "artist"]].set_axis(["query", "candidate"], axis=1)


def log_weights(counts: pd.Series, by: pd.Series) -> pd.Series:
    """Return ``log(1 + count)`` with mean 1 for each value of ``by``, so that heavy listeners weigh no more."""
    weight: pd.Series = np.log1p(counts)
    return weight / weight.groupby(by).transform("mean")


def floors(task: Task) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the name and the lists of what has no seed of its own."""
    known = task.known.rename(columns={"user": "query", "artist": "candidate"})
    fitted: dict[str, Popularity | ItemKNN | EASE] = {
        "popularity": Popularity.fit(known),
        "ItemKNN": ItemKNN.fit(known, neighbors=NEIGHBORS),
        "EASE": EASE.fit(known, l2=L2, dtype="float32"),
        "EASE, log counts": EASE.fit(known, l2=L2, weight="weight", dtype="float32"),
    }
    for name, floor in fitted.items():
        yield name, floor.recommend(task.users, k=K, exclude=task.exclude)


def network(task: Task, added: Sequence[str]) -> Graph:
    """The network of the known listens and the relations ``added``, of those in ``WEIGHTS``."""
    frames = {LISTENS: _edges(task.known, "user", "artist")}
    relations = [Relation(LISTENS, "user", "artist", sides="target")]
    for name in added:
        frame, source, target = _side(task, name)
        frames[name] = frame
        relations.append(
            Relation(
                name, source, target, weight=WEIGHTS[name], sides="both",
                uniform_negatives=SIDE_NEGATIVES, prevalence_negatives=SIDE_NEGATIVES,
            )
        )  # fmt: skip
    return Graph.from_frames(frames, relations)


def _side(task: Task, name: str) -> tuple[pd.DataFrame, str, str]:
    """Edges of a relation that is added, and the types of their ends."""
    if name == "friends":
        return task.friends.set_axis(["source", "target"], axis=1), "user", "user"
    end = name.removesuffix("_tag")
    counts = task.tags.groupby([end, "tag"], as_index=False).size()
    weight = np.log1p(counts["size"])
    return _edges(counts.assign(weight=weight / weight.mean()), end, "tag"), end, "tag"


def _edges(frame: pd.DataFrame, source: str, target: str) -> pd.DataFrame:
    return frame[[source, target, "weight"]].rename(columns={source: "source", target: "target"})


def recommend(task: Task, graph: Graph, config: TrainConfig) -> pd.DataFrame:
    """Train a network and list the best artists of each user by exact search."""
    with tempfile.TemporaryDirectory() as folder:
        version = export(train(graph, config), Path(folder) / "lastfm")
        index = ExactIndex.build(version.table("artist"))
        generate = CandidateGenerator(index, version.table("user"), version.relations[LISTENS])
        return generate(task.users, k=K, exclude=task.exclude, allow=task.artists, unknown="skip")


def measure(data: lastfm.LastFm, *, seeds: Iterable[int], part: str = "test", console: Console | None = None) -> Report:
    """Split, recommend and compare once a seed; differences are paired by user."""
    report = Report([])
    for seed in seeds:
        task = make_task(data, seed=seed, part=part)
        lists = dict(floors(task))
        for name, added in NETWORKS.items():
            lists[name] = recommend(task, network(task, added), replace(CONFIG, seed=seed))
        for name, found in lists.items():
            rows = evaluate_candidates(
                found, task.relevant, k=K, name=name, catalog=task.artists, seed=seed, protocol=task.protocol
            )
            report |= rows
            if console:
                figures = ", ".join(f"{metric} {rows.value(metric):.4f}" for metric in METRICS)
                console.print(f"seed {seed}, {name}: {figures}")
        for other in [name for name in lists if name != HIN]:
            report |= compare_candidates(
                lists[HIN], lists[other], task.relevant, k=K, names=("all", other), seed=seed, protocol=task.protocol
            )
    return report


def plot(report: Report, path: Path) -> None:
    """Bars of both metrics; the lines on them are deviations over seeds, the grey bars are published."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    rows = report.to_frame()
    rows = rows[~rows["name"].str.contains(" - ")]
    for place, (axes, metric) in enumerate(zip(figure.subplots(1, 2, sharey=True), METRICS, strict=True)):
        found = rows[rows["metric"] == metric].groupby("name", sort=False)["value"].agg(["mean", "std"])[::-1]
        published = pd.Series({f"{name} (published)": values[place] for name, values in PUBLISHED.items()})[::-1]
        axes.barh(published.index, published, color="0.7")
        axes.barh(found.index, found["mean"], xerr=found["std"].fillna(0.0), color="tab:blue", ecolor="0.2")
        axes.set_title(metric)
    figure.savefig(path, dpi=150)


def main(words: Sequence[str] | None = None) -> Report:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the five files")
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--seeds", type=int, default=3)
    add_outputs(parser, "json", "markdown", "plot")
    options = parser.parse_args(words)
    console = Console()
    report = measure(lastfm.load(options.data), seeds=range(options.seeds), part=options.part, console=console)
    rows = seed_table(report, METRICS)
    if options.part == "test":
        rows += [(f"{name}, published", *(f"{value:.4f}" for value in values)) for name, values in PUBLISHED.items()]
    show(console, f"Last.FM, {options.part} part", rows, report.results[0].protocol)
    save(options, report, rows)
    if options.plot:
        plot(report, options.plot)
    return report


if __name__ == "__main__":
    main()
