"""The main job, end to end, on real data: ``recokit demo``.

From a log of ratings to a network, embeddings, published versions, an index, candidates, a ranker, and a report in
which every number stands beside honest floors.  Two questions are answered, each on three seeds:

retrieval   The likes of each user, in time order: the first 80 % are the network's, the last 20 % are to be found
            among all movies that the user has not liked before.
ranking     The ratings of each user, in time order: the first 50 % are the network's, the next 30 % train the ranker,
            the last 20 % test it.  No row is used twice, so that the frozen vectors leak nothing.
"""

__all__ = ["demo"]

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from pretrain.config import TrainConfig
from pretrain.export import export
from pretrain.graph import Graph
from pretrain.movielens import MovieData, load_movielens
from pretrain.movienet import LIKED, POSITIVE, movie_graph, recency_weights
from pretrain.planted import planted_movies
from pretrain.progress import training_progress
from pretrain.train import train
from recokit.candidates import CandidateGenerator
from recokit.cli import JsonFlag
from recokit.errors import MissingDependencyError, RecokitError
from recokit.evaluate import compare_candidates, compare_rankers, evaluate_candidates, evaluate_ranker
from recokit.features import Bag, FeatureSpec, Pretrained
from recokit.floors import EASE, ItemKNN, Popularity
from recokit.frame import split_per_user, split_random
from recokit.index import ExactIndex, FaissIndex, HNSWIndex, Index, recall
from recokit.rankers import DLRM, FitConfig, fit
from recokit.report import Report
from recokit.table import EmbeddingTable, Version

K = (10, 100)
_SHOWN = ("recall@10", "ndcg@10", "mrr")
_SHOWN_RANKING = ("rce", "auc", "log_loss", "calibration")

# Chosen on a validation part (the last 20 % of each user's known likes), never on the test part: docs/log.md.
_CONFIG = TrainConfig(
    dim=128, comparator="cos", loss="softmax", temperature=0.2, epochs=20, uniform_negatives=1500, precision="auto"
)


def demo(
    output: Annotated[Path, typer.Option(help="Folder of the versions and the report; made anew.")] = Path("demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Runs, each with a seed of its own.")] = 3,
    planted: Annotated[bool, typer.Option("--planted", help="Use the planted network, not the real data.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run the main job on MovieLens-100k: network, embeddings, candidates, ranker, report."""
    console = Console(stderr=as_json)
    data = planted_movies() if planted else _data(console)
    console.print(f"[bold]data[/]  {data.source}: {len(data.ratings):,} ratings, {len(data.knowledge):,} facts")
    _clear(output)
    retrieval = _Retrieval(data, output, console)
    report = retrieval.floors()
    for seed in range(seeds):
        report |= retrieval.run(seed)
    ranking = _Ranking(data, output, console)
    for seed in range(seeds):
        report |= ranking.run(seed)
    report.save(output / "report.json")
    report.save(output / "report.md")
    if as_json:
        typer.echo(report.to_json())
        return
    _show(report, retrieval, console)
    console.print(f"[bold]written[/]  {output}/report.md, {output}/report.json, {output}/embeddings, {output}/rankers")


def _data(console: Console) -> MovieData:
    try:
        return load_movielens()
    except RecokitError as error:
        console.print(f"[yellow]no real data[/] ({error}); going on with a planted synthetic network", soft_wrap=True)
        return planted_movies()


def _clear(output: Path) -> None:
    """Remove what an earlier demo left, and nothing else."""
    for name in ("embeddings", "rankers"):
        shutil.rmtree(output / name, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)


def _train(graph: Graph, name: str, seed: int, output: Path, console: Console) -> Version:
    """Train a network and publish it as the version ``name-seed``."""
    config = dataclasses.replace(_CONFIG, seed=seed)
    with training_progress(f"{name}, seed {seed}", console) as callback:
        model = train(graph, config, callback=callback)
    return export(model, output / "embeddings" / f"{name}-{seed}")


class _Retrieval:
    """Find each user's last likes among all movies that they have not liked before."""

    def __init__(self, data: MovieData, output: Path, console: Console) -> None:
        self.data, self.output, self.console = data, output, console
        likes = data.ratings[data.ratings["rating"] >= POSITIVE]
        self.known, held_out = split_per_user(likes, 0.2, by="time", user="user")
        names = {"user": "query", "movie": "candidate"}
        self.seen = self.known[["user", "movie"]].rename(columns=names)
        self.relevant = held_out[["user", "movie"]].rename(columns=names)
        self.users = self.relevant["query"].drop_duplicates()
        self.catalog = pd.Index(data.ratings["movie"].unique())
        self.protocol = {
            "data": data.source,
            "split": "last 20 % of each user's likes (ratings of 4 and 5), by time",
            "filter": "likes of the first 80 % are left out of the lists",
        }
        self.graphs = {
            "HIN": movie_graph(data, self.known),
            "likes alone": movie_graph(data, self.known, likes_only=True),
        }
        self.lists: dict[str, pd.DataFrame] = {}
        self.version: Version | None = None
        console.print(_summary(self.graphs["HIN"]))

    def floors(self) -> Report:
        """Measure popularity, ItemKNN and EASE, and EASE with the history weighted as the network's likes are."""
        history = self.known.rename(columns={"user": "source"}).assign(query=self.known["user"])
        weighted = self.seen.assign(weight=recency_weights(history))
        ease = EASE.fit(self.seen, l2=100)
        floors = {
            "popularity": Popularity.fit(self.seen),
            "ItemKNN": ItemKNN.fit(self.seen, neighbors=100),
            "EASE": ease,
            "EASE, recency": EASE.fit(self.seen, l2=200).with_history(weighted, weight="weight"),
        }
        report = Report([])
        for name, floor in floors.items():
            self.lists[name] = floor.recommend(self.users, k=K[-1], exclude=self.seen)
            report |= self._measure(self.lists[name], name, None)
        return report

    def run(self, seed: int) -> Report:
        """Train both networks with a seed and compare their lists with the floors'."""
        report = Report([])
        for name, graph in self.graphs.items():
            version = _train(graph, name.lower().replace(" ", "-"), seed, self.output, self.console)
            lists, how = self._recommend(version)
            report |= self._measure(lists, name, seed, how)
            self.lists[name] = lists
            if name == "HIN" and self.version is None:
                self.version = version
        for other in [name for name in self.lists if name != "HIN"]:
            report |= compare_candidates(
                self.lists["HIN"], self.lists[other], self.relevant, k=K, names=("HIN", other), seed=seed,
                protocol=self.protocol,
            )  # fmt: skip
        return report

    def _measure(self, lists: pd.DataFrame, name: str, seed: int | None, how: str = "exact") -> Report:
        protocol = {**self.protocol, "search": how}
        return evaluate_candidates(
            lists, self.relevant, k=K, name=name, catalog=self.catalog, seed=seed, protocol=protocol
        )

    def _recommend(self, version: Version) -> tuple[pd.DataFrame, str]:
        movies, users = version.table("movie"), version.table("user")
        relation = version.relations[LIKED]
        index = _index(movies)
        asked = self.users[users.rows(self.users) >= 0]
        lists = CandidateGenerator(index, users, relation)(asked, k=K[-1], exclude=self.seen)
        sample = relation.apply(users.vectors[:200])
        return lists, f"{type(index).__name__}, recall@10 against exact {recall(index, sample, 10):.3f}"

    def examples(self, count: int = 3) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield a user, their last known likes, and what the first HIN version recommends."""
        titles = self.data.movies.set_index("movie")["title"]
        lists, _ = self._recommend(self.version) if self.version else (self.lists["HIN"], "")
        for user in self.users.sample(count, random_state=0):
            liked = self.known[self.known["user"] == user].sort_values("time", kind="stable")["movie"].tail(5)
            found = lists[lists["query"] == user].head(5)["candidate"]
            yield f"user {user}", [str(titles[m]) for m in liked], [str(titles[m]) for m in found]


def _index(table: EmbeddingTable) -> Index:
    """Build the best index that is installed: HNSW, else faiss, else exact search."""
    for build in (HNSWIndex.build, FaissIndex.build):
        try:
            return build(table)
        except MissingDependencyError:
            continue
    return ExactIndex.build(table)


class _Ranking:
    """Predict whether a user likes a rated movie, without and with pretrained vectors."""

    def __init__(self, data: MovieData, output: Path, console: Console) -> None:
        self.data, self.output, self.console = data, output, console
        rest, self.test = split_per_user(self._rows(data), 0.2, by="time", user="user")
        self.network, self.train = split_per_user(rest, 0.375, by="time", user="user")  # 30 % of all
        self.graph = movie_graph(data, self.network)
        self.protocol = {
            "data": data.source,
            "split": "each user's ratings by time: 50 % network, 30 % ranker, 20 % test",
            "label": f"rating of at least {POSITIVE:g}",
        }

    @staticmethod
    def _rows(data: MovieData) -> pd.DataFrame:
        genres = data.genres.groupby("movie")["genre"].agg(list).rename("genres")
        rows = data.ratings.merge(data.users, on="user").merge(genres, on="movie", how="left")
        rows["genres"] = rows["genres"].map(lambda value: value if isinstance(value, list) else [])
        return rows.assign(liked=(rows["rating"] >= POSITIVE).astype("int64"))

    def run(self, seed: int) -> Report:
        """Train the network and both rankers with a seed; compare them on the test rows."""
        version = _train(self.graph, "ranking", seed, self.output, self.console)
        vectors = [Pretrained("user", version.table("user")), Pretrained("movie", version.table("movie"))]
        plain = self._fit([], seed)
        informed = self._fit(vectors, seed)
        informed.save(self.output / "rankers" / f"dlrm-{seed}")
        report = Report([])
        for name, ranker in (("DLRM", plain), ("DLRM + HIN vectors", informed)):
            report |= evaluate_ranker(
                ranker, self.test, group="user", name=name, seed=seed, protocol=self.protocol, bootstrap=200
            )
        return report | compare_rankers(
            informed, plain, self.test, group="user", names=("DLRM + HIN vectors", "DLRM"), seed=seed,
            protocol=self.protocol, bootstrap=200,
        )  # fmt: skip

    def _fit(self, vectors: list[Pretrained], seed: int) -> DLRM:
        features = FeatureSpec(
            pretrained=vectors,
            dense=["age"],
            categorical={"user": 2000, "movie": 2000, "gender": 10, "occupation": 50},
            bags=[Bag("genres", values=50)],
            label="liked",
            group="user",
        )
        rows, valid = split_random(self.train, 0.1, seed=seed)
        ranker = DLRM(features, dim=16, seed=seed)
        fit(ranker, rows, valid, FitConfig(epochs=10, batch_size=256, evaluate_every=30, patience=5, seed=seed))
        return ranker


def _summary(graph: Graph) -> Table:
    table = Table(title="the network", title_justify="left")
    for column in ("relation", "source", "target"):
        table.add_column(column)
    table.add_column("edges", justify="right")
    for name, relation in graph.relations.items():
        table.add_row(name, relation.source, relation.target, f"{len(graph.edges[name]):,}")
    return table


def _show(report: Report, retrieval: _Retrieval, console: Console) -> None:
    rows = report.to_frame()
    for title, metrics, marker in (
        ("retrieval: each user's last 20 % of likes, among all movies", _SHOWN, "recall@10"),
        ("ranking: will this user like this movie? network, ranker and test rows are disjoint", _SHOWN_RANKING, "rce"),
    ):
        names = rows.loc[rows["metric"] == marker, "name"].drop_duplicates()
        console.print(_figures(title, rows, list(names), metrics))
    table = Table(title="recommended", title_justify="left", show_lines=True)
    for column in ("user", "liked last", "recommended"):
        table.add_column(column)
    for user, liked, found in retrieval.examples():
        table.add_row(user, "\n".join(liked), "\n".join(found))
    console.print(table)


def _figures(title: str, rows: pd.DataFrame, names: list[str], metrics: tuple[str, ...]) -> Table:
    """Means over seeds; with several, ± their standard deviation, and the range of the intervals for differences."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for metric in metrics:
        table.add_column(metric, justify="right")
    for name in names:
        cells = []
        for metric in metrics:
            part: Any = rows[(rows["name"] == name) & (rows["metric"] == metric)]
            text = f"{part['value'].mean():.4f}" + (f" ± {part['value'].std():.4f}" if len(part) > 1 else "")
            cells.append(text + (f"  [{part['low'].min():.4f}, {part['high'].max():.4f}]" if " - " in name else ""))
        table.add_row(name, *cells)
    return table
