"""What are the vectors of a network good for?  The benchmarks of Embeddings@Twitter (2018) on two public data sets.

    python examples/probes.py [--data FOLDER] [--seeds 3] [--json FILE] [--markdown FILE]

Without --data, MovieLens-100k with its film knowledge, which pip brings; FOLDER holds the five files of HetRec Last.FM
(examples/lastfm.py). Needs the extras pretrain, word2vec and probe. Nothing that is asked was in a network:

MovieLens   The network has each user's first 60 % of likes and what is known of films; occupations, which the demo's
            network has, are left out. Asked are gender, age and occupation; topics, which are the genres that a user's
            last 40 % of likes are richer in than those of the median user; the Jaccard index of those last likes; and
            the last likes themselves.
Last.FM     The network has 8 of 10 listens, half of the friendships, and the tags that half of the users gave. Asked
            are the tags that the other half used; the Jaccard index of the friends in the other half of the
            friendships, and of the test part of the listens; and the test listens themselves.

Systems are the whole network (HIN), the one relation of likes or listens alone, skip-gram on the same likes or listens,
of which a user's vector is the mean of the items', and raw shares: of genres among known likes, of tags among known
listens, without any training. Every one is measured on the same users, folds and pairs, and so are the baselines.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import lastfm as listening
import numpy as np
import pandas as pd
from loaders import lastfm
from outputs import add_outputs, save, show
from rich.console import Console

from pretrain import Graph, TrainConfig, export, train
from pretrain.experiments import CONFIG
from pretrain.movielens import MovieData, load_movielens
from pretrain.movienet import POSITIVE, movie_graph
from recokit import EmbeddingTable, RelationParameters, Report, Version, write_version
from recokit.frame import split_per_user, split_random
from recokit.probes import (
    Baseline,
    Bench,
    LinkPrediction,
    MetadataPrediction,
    Outcome,
    SetJaccard,
    Skipped,
    Subject,
    Task,
    TopicPrediction,
)
from recokit.report import gather_provenance, seed_table
from recokit.skipgram import skipgram_queries, skipgram_table

HIN, ALONE, SKIPGRAM, SHARES = "HIN", "one relation", "skip-gram", "raw shares"
BASELINES: tuple[Baseline, ...] = ("random", "degree", "shuffled")
BOOTSTRAP = 1000
MIN_HELD_OUT = 5  # likes of a user, of which shares are taken
TOPICS = 30  # tags asked for

Tables: TypeAlias = Version | dict[str, EmbeddingTable]


@dataclasses.dataclass(frozen=True)
class Study:
    """One seed of a data set.

    Attributes:
        tasks: What is asked.
        graphs: The networks by system.
        config: What they are trained with.
        known: Columns query and candidate, in time order where there is one: what skip-gram learns from.
        shares: The raw shares of users.
        relation: The relation that links are found through.
        protocol: How all this came about.
    """

    tasks: list[Task]
    graphs: dict[str, Graph]
    config: TrainConfig
    known: pd.DataFrame
    shares: EmbeddingTable
    relation: RelationParameters
    protocol: dict[str, str]


def movielens(data: MovieData, seed: int) -> Study:
    """The likes by time: 60 % of each user's make the network, 40 % the topics, the sets and the pairs."""
    likes = data.ratings[data.ratings["rating"] >= POSITIVE].sort_values("time", kind="stable")
    known, later = split_per_user(likes, 0.4, by="time", user="user")
    pairs, exclude = (each[["user", "movie"]].set_axis(["query", "candidate"], axis=1) for each in (later, known))
    users = data.users.rename(columns={"user": "id"})
    # An occupation that is asked for must not be an edge: without users' rows the network has no such relation.
    blind = dataclasses.replace(data, users=data.users.iloc[:0])
    sets = pairs[pairs.groupby("query")["candidate"].transform("size") >= MIN_HELD_OUT]
    return Study(
        tasks=[
            MetadataPrediction("gender", "user", users, "gender"),
            MetadataPrediction("age", "user", users, "age", cut="median"),
            MetadataPrediction("occupation", "user", users, "occupation", min_positives=40),
            TopicPrediction("genre", "user", favourites(later, data.genres), min_positives=50),
            SetJaccard("later likes jaccard", "user", sets, known=False),
            LinkPrediction("later likes", "likes", pairs, exclude=exclude),
        ],
        graphs={HIN: movie_graph(blind, known), ALONE: movie_graph(blind, known, likes_only=True)},
        config=dataclasses.replace(CONFIG, seed=seed),
        known=exclude,
        shares=share_table(genre_shares(known, data.genres)),
        relation=identity("likes", "movie"),
        protocol={
            "data": data.source,
            "split": "network: the first 60 % of each user's likes, by time; asked: the last 40 %",
            "left out": "the relation of users and occupations",
        },
    )


def genre_shares(likes: pd.DataFrame, genres: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each genre (columns) among each user's likes (rows); a like of two genres is half each."""
    rows = likes[["user", "movie"]].merge(genres, on="movie")
    rows["weight"] = 1.0 / rows.groupby(["user", "movie"])["genre"].transform("size")
    counts = rows.pivot_table(index="user", columns="genre", values="weight", aggfunc="sum", fill_value=0.0)
    return counts.div(counts.sum(axis=1), axis=0)


def favourites(likes: pd.DataFrame, genres: pd.DataFrame) -> pd.DataFrame:
    """Return id and label: the genres whose share among a user's likes is above the median of users.

    Of users with at least ``MIN_HELD_OUT`` likes; one without any such genre has a row without a label.
    """
    enough = likes[likes.groupby("user")["movie"].transform("size") >= MIN_HELD_OUT]
    shares = genre_shares(enough, genres)
    rows = (shares > shares.median()).melt(ignore_index=False, value_name="above").reset_index()
    labels = rows[rows["above"]][["user", "genre"]].set_axis(["id", "label"], axis=1)
    without = shares.index.difference(pd.Index(labels["id"]))
    return pd.concat([labels, pd.DataFrame({"id": without, "label": None})], ignore_index=True)


def last_fm(data: lastfm.LastFm, seed: int) -> Study:
    """8 of 10 listens, half of the friendships and the tags of half of the users make the network."""
    listens, _, test = lastfm.split(data.listens, seed)
    near, far = split_random(data.friends, 0.5, seed)
    asked = pd.Index(data.listens["user"].unique()).to_series().sample(frac=0.5, random_state=seed)
    tags = lastfm.leak_free_tags(data.tags[~data.tags["user"].isin(asked)], test)
    known, pairs = (each[["user", "artist"]].set_axis(["query", "candidate"], axis=1) for each in (listens, test))
    task = dataclasses.replace(listening.make_task(data, seed=seed), friends=near, tags=tags)
    friends = pd.concat([far.set_axis(["query", "candidate"], axis=1), far.set_axis(["candidate", "query"], axis=1)])
    return Study(
        tasks=[
            TopicPrediction("tag", "user", used_tags(data, asked), min_positives=40),
            SetJaccard("friends jaccard", "user", friends, known=False),
            SetJaccard("test listens jaccard", "user", pairs, known=False),
            LinkPrediction("test listens", listening.LISTENS, pairs, exclude=known),
        ],
        graphs={
            HIN: listening.network(task, ("friends", "artist_tag", "user_tag")),
            ALONE: listening.network(task, ()),
        },
        config=dataclasses.replace(listening.CONFIG, seed=seed),
        known=known,
        shares=share_table(tag_shares(listens, tags)),
        relation=identity(listening.LISTENS, "artist"),
        protocol={
            "data": "HetRec 2011 Last.FM",
            "split": "random 8:1:1 of each user's listens, half of the friendships, tags of half of the users",
            "left out": "tags of the users who are asked for theirs",
        },
    )


def used_tags(data: lastfm.LastFm, users: pd.Series) -> pd.DataFrame:
    """Return id and label: which of the ``TOPICS`` tags of most users each of ``users`` has used, of those who tag."""
    used = data.tags[data.tags["user"].isin(users)][["user", "tag"]].drop_duplicates()
    frequent = used["tag"].value_counts().index[:TOPICS]
    names = data.tag_names.set_index("tag")["name"]
    labels = used.assign(label=used["tag"].map(names).where(used["tag"].isin(frequent)))
    return labels.rename(columns={"user": "id"})[["id", "label"]]


def tag_shares(listens: pd.DataFrame, tags: pd.DataFrame, top: int = 50) -> pd.DataFrame:
    """Return the share of each of the ``top`` tags (columns) in what others said of the artists of each user (rows)."""
    frequent = tags[tags["tag"].isin(tags["tag"].value_counts().index[:top])]
    of_artist = frequent.groupby(["artist", "tag"]).size().unstack(fill_value=0)
    of_artist = of_artist.div(of_artist.sum(axis=1), axis=0)
    rows = listens[["user", "artist"]].merge(of_artist, left_on="artist", right_index=True)
    return rows.drop(columns="artist").groupby("user").mean().reindex(listens["user"].unique(), fill_value=0.0)


def share_table(shares: pd.DataFrame) -> EmbeddingTable:
    """Shares as a table of users."""
    vectors = np.ascontiguousarray(shares.to_numpy(np.float32))
    return EmbeddingTable.from_arrays(shares.index, vectors, entity="user", version="shares", comparator="cos")


def identity(name: str, target: str) -> RelationParameters:
    """A relation that moves nothing, for vectors of users and items of one space."""
    return RelationParameters(name, "user", target, "identity", np.zeros(0, np.float32))


def systems(study: Study, folder: Path, seed: int) -> Iterator[tuple[str, Tables]]:
    """Yield the name and the tables of each system."""
    for name, graph in study.graphs.items():
        yield name, export(train(graph, study.config), folder / name.replace(" ", "-"))
    yield SKIPGRAM, skipgram_version(study, folder / SKIPGRAM, seed)
    yield SHARES, {"user": study.shares}


def skipgram_version(study: Study, path: Path, seed: int) -> Version:
    """Skip-gram on the whole sequences of users' items, its settings not tuned; a user is the mean of the items."""
    target = study.relation.target
    items = skipgram_table(
        study.known, dim=study.config.dim, window=100, epochs=50, learning_rate=0.1, power=1.0, seed=seed,
        entity=target, version=path.name,
    )  # fmt: skip
    mean = skipgram_queries(items, study.known, own=False)
    users = EmbeddingTable.from_arrays(
        mean.ids, mean.vectors, entity="user", version=path.name, comparator=mean.comparator
    )
    degrees = study.known["query"].value_counts().reindex(mean.ids.to_pylist()).to_numpy()
    return write_version(
        path, {"user": users, target: items}, relations=[study.relation], state={"degrees-user": degrees}
    )


def measure(study: Study, seed: int, console: Console | None = None) -> Report:
    """Measure every system on the same users, folds and pairs, and the differences of the HIN to the others."""
    with TemporaryDirectory() as folder:
        made = dict(systems(study, Path(folder), seed))
        report = Report([], gather_provenance())
        for task in study.tasks:
            outcomes = dict(_outcomes(task, made, seed))
            for name, outcome in outcomes.items():
                report.results += outcome.results(name, seed=seed, protocol=study.protocol)
            for name in [name for name in outcomes if name != HIN]:
                difference = (outcomes[HIN] - outcomes[name]).results(f"{HIN} - {name}", seed=seed)
                report.results += [dataclasses.replace(row, protocol=study.protocol) for row in difference]
            if console:
                figures = (f"{name} {_overall(outcome):.4f}" for name, outcome in outcomes.items())
                console.print(f"seed {seed}, {task.name}: {', '.join(figures)}")
        return report


def _outcomes(task: Task, made: dict[str, Tables], seed: int) -> Iterator[tuple[str, Outcome]]:
    """Yield the outcomes of a task: of the systems that have what it needs, then of the HIN's baselines."""
    for name, tables in made.items():
        if isinstance(task, LinkPrediction) and not isinstance(tables, Version):
            continue
        bench = Bench(tables, seed=seed, bootstrap=BOOTSTRAP)
        prepared = task.prepare(bench)
        if isinstance(prepared, Skipped):
            continue
        yield name, prepared(Subject(name, "version", bench))
        if name == HIN:
            for baseline in BASELINES:
                yield baseline, prepared(Subject(baseline, baseline, bench))


def _overall(outcome: Outcome) -> float:
    """The value over all groups, or the first where there is none."""
    at = outcome.groups.index(None) if None in outcome.groups else 0
    return float(outcome.measured.values[at])


def table(report: Report) -> list[tuple[str, ...]]:
    """Means ± deviations over seeds, then the differences of the HIN with their intervals; no single labels."""
    overall = [row for row in report.results if row.group is None or row.metric.startswith("recall")]
    metrics = list(dict.fromkeys(row.metric for row in overall))
    rows = seed_table(Report([dataclasses.replace(row, group=None) for row in overall], {}), metrics)
    order = [HIN, ALONE, SKIPGRAM, SHARES, *BASELINES]
    place = {name: at for at, name in enumerate([*order, *(f"{HIN} - {name}" for name in order)])}
    return [rows[0], *sorted(rows[1:], key=lambda row: place[row[0]])]


def main(words: Sequence[str] | None = None) -> Report:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of HetRec Last.FM; MovieLens-100k without it")
    parser.add_argument("--seeds", type=int, default=3)
    add_outputs(parser, "json", "markdown")
    options = parser.parse_args(words)
    console = Console()
    report = Report([])
    for seed in range(options.seeds):
        study = movielens(load_movielens(), seed) if options.data is None else last_fm(lastfm.load(options.data), seed)
        report |= measure(study, seed, console)
    rows = table(report)
    show(console, study.protocol["data"], rows, study.protocol)
    save(options, report, rows)
    return report


if __name__ == "__main__":
    main()
