"""The demo's two experiments: retrieval and ranking of movies, every number beside floors, one run a seed.

retrieval   The likes of each user, in time order: the first 80 % are the network's, the last 20 % are to be found
            among all movies that the user has not liked before.
ranking     The ratings of each user, in time order: the first 50 % are the network's, the next 30 % train the ranker,
            the last 20 % test it.  No row is used twice, so that the frozen vectors leak nothing.
"""

__all__ = ["MADE", "Ranking", "Retrieval", "Workshop"]

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd

from pretrain.config import TrainConfig
from pretrain.export import export
from pretrain.graph import Graph
from pretrain.movielens import MovieData
from pretrain.movienet import LIKED, POSITIVE, movie_graph, recency_weights
from pretrain.train import Callback, train
from recokit.candidates import CandidateGenerator
from recokit.errors import MissingDependencyError
from recokit.evaluate import compare_candidates, compare_rankers, evaluate_candidates, evaluate_ranker
from recokit.features import Bag, FeatureSpec, Pretrained
from recokit.floors import EASE, ItemKNN, Popularity
from recokit.frame import split_per_user, split_random
from recokit.index import ExactIndex, FaissIndex, HNSWIndex, Index, recall
from recokit.rankers import DLRM, FitConfig, fit
from recokit.report import Report
from recokit.table import EmbeddingTable, Version

K = (10, 100)

# Patterns of all that a demo makes in its folder, besides the reports.
MADE = ("embeddings/hin-*", "embeddings/likes-alone-*", "embeddings/ranking-*", "rankers/dlrm-*")
Progress = Callable[[str], AbstractContextManager[Callback]]  # the name of a run to a callback that shows it

# Chosen on a validation part (the last 20 % of each user's known likes), never on the test part: docs/log.md.
CONFIG = TrainConfig(
    dim=128, comparator="cos", loss="softmax", temperature=0.25, epochs=20, uniform_negatives="all", precision="auto"
)


@dataclasses.dataclass(frozen=True)
class Workshop:
    """Where and how the experiments train and publish."""

    output: Path
    progress: Progress
    config: TrainConfig = CONFIG

    def publish(self, graph: Graph, name: str, seed: int, protocol: Mapping[str, str]) -> Version:
        """Train a network and publish it as the version ``name-seed``, which records its data and split."""
        with self.progress(f"{name}, seed {seed}") as callback:
            model = train(graph, dataclasses.replace(self.config, seed=seed), callback=callback)
        path = self.output / "embeddings" / f"{name.lower().replace(' ', '-')}-{seed}"
        return export(model, path, meta={"data": protocol["data"], "split": protocol["split"]})


class Retrieval:
    """Find each user's last likes among all movies that they have not liked before."""

    def __init__(self, data: MovieData, workshop: Workshop) -> None:
        self.data, self.workshop = data, workshop
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
        self.first: pd.DataFrame | None = None  # the lists of the first HIN

    def floors(self) -> Report:
        """Measure popularity, ItemKNN and EASE, and EASE with the history weighted as the network's likes are."""
        weighted = self.seen.assign(weight=recency_weights(self.known.rename(columns={"user": "source"})))
        floors: dict[str, Popularity | ItemKNN | EASE] = {
            "popularity": Popularity.fit(self.seen),
            "ItemKNN": ItemKNN.fit(self.seen, neighbors=100),
            "EASE": EASE.fit(self.seen, l2=100),
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
            version = self.workshop.publish(graph, name, seed, self.protocol)
            lists, how = self._recommend(version)
            report |= self._measure(lists, name, seed, how)
            self.lists[name] = lists
        if self.first is None:
            self.first = self.lists["HIN"]
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
        lists = self.lists["HIN"] if self.first is None else self.first
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


class Ranking:
    """Predict whether a user likes a rated movie, without and with pretrained vectors."""

    def __init__(self, data: MovieData, workshop: Workshop) -> None:
        self.data, self.workshop = data, workshop
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
        version = self.workshop.publish(self.graph, "ranking", seed, self.protocol)
        vectors = [Pretrained("user", version.table("user")), Pretrained("movie", version.table("movie"))]
        informed = "DLRM + HIN vectors"
        rankers = {
            "DLRM": self._fit(self.train, [], seed),
            # The floor for the vectors: what the ranker makes of the network's rows when it gets them itself.
            "DLRM, network's rows too": self._fit(pd.concat([self.network, self.train]), [], seed),
            informed: self._fit(self.train, vectors, seed),
        }
        rankers[informed].save(self.workshop.output / "rankers" / f"dlrm-{seed}")
        report = Report([])
        for name, ranker in rankers.items():
            report |= evaluate_ranker(
                ranker, self.test, group="user", name=name, seed=seed, protocol=self.protocol, bootstrap=200
            )
        for other in [name for name in rankers if name != informed]:
            report |= compare_rankers(
                rankers[informed], rankers[other], self.test, group="user", names=(informed, other), seed=seed,
                protocol=self.protocol, bootstrap=200,
            )  # fmt: skip
        return report

    def _fit(self, rows: pd.DataFrame, vectors: list[Pretrained], seed: int) -> DLRM:
        features = FeatureSpec(
            pretrained=vectors,
            dense=["age"],
            categorical={"user": 2000, "movie": 2000, "gender": 10, "occupation": 50},
            bags=[Bag("genres", values=50)],
            label="liked",
            group="user",
        )
        train, valid = split_random(rows, 0.1, seed=seed)
        ranker = DLRM(features, dim=16, seed=seed)
        fit(ranker, train, valid, FitConfig(epochs=10, batch_size=256, evaluate_every=30, patience=5, seed=seed))
        return ranker
