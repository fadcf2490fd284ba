"""How many of a user's interests are found?  One long vector against mixtures, on networks whose interests are planted.

    python examples/interests.py [--seeds 3] [--first 0] [--part networks|allocation|all]
        [--json FILE] [--markdown FILE] [--plot FILE]

Needs the extra pretrain and faiss, and examples for the plot. Nothing that is measured here says anything about real
data: the networks are made up so that it is known what is to be found. What is measured:

networks    Topics: 4,000 users, 4,000 items of 40 topics; a user has one to five, independent of each other. Places:
            3,000 users, 2,000 items on a sphere; a user has one to five places on it and takes the items nearby. See
            pretrain/interests.py. Every seed makes a network of its own.
split       A fifth of each user's edges, of all interests alike, is to be found; the others are known.
candidates  All items but those of the user's known edges, in lists of 100; what a mixture's components find is dealt
            out by round robin, and the first 10 and 50 of those lists are what @10 and @50 are about.
size        A user is C * n numbers: one vector of that length, or C = 5 vectors of n. Items have the vectors' length:
            80 and 20 numbers beside one vector, 16 and 4 beside a mixture.
vectors     Purity and interest recall are about a user's vectors, so that floors have none.
            Of places their limit is what the planted places themselves reach, last in the table; that row looks for
            the nearest items, whatever their popularity, so that its recall of items is no limit.
distance    intra_list_distance is 1 - cosine of the one vector's items, for all systems; the entropy is that of the
            topics, or cells, of a list, in nats.

Purity, interest recall and interest coverage (marked *) were fixed before anything was measured with them. One vector
finds at most one interest of a user, by definition: its interest recall has a limit that is no merit of anybody else,
the mean of 1 / interests, which stands in the table.

The allocations are those of the trained mixture of topics, and differ by how they treat small interests:

smallest_recall     recall of the held-out items of a user's interest of least weight, of users with two or more
smallest_places     places of the list that go to the component of least weight, of those of 0.05 or more; of users
                    with two or more such components
smallest_weight     the weight of that component, for comparison
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from outputs import add_outputs, save, show
from rich.console import Console

from pretrain import Graph, Relation, TrainConfig, export, train
from pretrain.interests import (
    PlantedInterests,
    PlantedPlaces,
    component_interests,
    interest_coverage,
    interest_recall,
    planted_interests,
    planted_places,
    purity,
)
from recokit import (
    CandidateGenerator,
    EmbeddingTable,
    ExactIndex,
    Mixture,
    Report,
    compare_candidates,
    evaluate_candidates,
)
from recokit.candidates.allocation import Allocation
from recokit.floors import EASE, ItemKNN, Popularity
from recokit.metrics import bootstrap_mean
from recokit.mixture import pinnersage
from recokit.report import Result, seed_table

Planted = PlantedInterests | PlantedPlaces
Values = Mapping[str, NDArray[np.float64]]  # of each user, by metric
Rows = list[tuple[str, ...]]

LIKES = "likes"
CUTOFFS = (10, 50, 100)
LENGTH = 100  # of the lists
COVERED = (10, 50)
FIXED = ("purity", "interest_recall", *(f"interest_coverage@{k}" for k in COVERED))
FOUND = ("purity", "interest_recall", *(f"recall@{k}" for k in CUTOFFS))
VARIED = (
    *(f"interest_coverage@{k}" for k in COVERED), "category_entropy@10", "intra_list_distance@10", "catalog_coverage@10"
)  # fmt: skip
ONE, MIXTURE, LIMIT = "one vector", "mixture", "limit of one vector"
COMPARED = (ONE, "EASE")  # with the mixture

ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)  # round robin first
PLACES = (10, 20, 50, 100)  # lists of the allocation part
LEAST = 0.05  # weight of the components that count
SHARED = ("recall", "interest_coverage", "category_entropy", "smallest_recall", "smallest_places", "smallest_weight")

# Chosen by recall@100 of seed 100, a network that no table is about, each for itself: the best, or within .002 of it,
# among
#   ItemKNN         50, 200 and 1000 neighbours
#   EASE            l2 of 10, 30, 100, 300 and 1000
#   one vector      temperatures .05, .1, .15, .25, and of topics .35
#   mixture         the same; 20 and 40 epochs of both
#   item clusters   40, 100, 200 and 400 of them, and of topics 800
BOOTSTRAP = 1000  # resamples of users
CONFIG = TrainConfig(
    operator="identity", comparator="cos", loss="softmax", epochs=40, learning_rate=0.1,
    schedule="linear", sides="target", precision="auto",
)  # fmt: skip


@dataclass(frozen=True)
class Network:
    """A network and how it is trained on.

    Attributes:
        make: Makes one of a seed.
        config: Of the trained models, but for their size and temperature.
        temperatures: Theirs.
        components: Vectors of a user in a mixture, C.
        dim: Their length, n.
        clusters: Of items, whose centroids are the vectors of an inductive mixture.
        neighbors: Of ItemKNN.
        l2: Of EASE.
    """

    make: Callable[..., Planted]
    config: TrainConfig
    temperatures: Mapping[str, float]
    components: int
    dim: int
    clusters: int
    neighbors: int
    l2: float

    def configs(self, seed: int) -> dict[str, TrainConfig]:
        """Settings of the two trained models, by name."""
        sizes = {
            ONE: replace(self.config, dim=self.components * self.dim),
            MIXTURE: replace(self.config, dim=self.dim, components={"user": self.components}),
        }
        return {name: replace(of, temperature=self.temperatures[name], seed=seed) for name, of in sizes.items()}


TOPICS = "topics"
NETWORKS: Mapping[str, Network] = {
    TOPICS: Network(
        partial(planted_interests, users=4000, items=4000, topics=40),
        replace(CONFIG, uniform_negatives=500),
        {ONE: 0.25, MIXTURE: 0.25},
        components=5, dim=16, clusters=400, neighbors=1000, l2=1000.0,
    ),
    "places": Network(
        partial(planted_places, users=3000, items=2000),
        replace(CONFIG, uniform_negatives=300),
        {ONE: 0.25, MIXTURE: 0.1},
        components=5, dim=4, clusters=200, neighbors=50, l2=300.0,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A network, and what is known and to be found of it.

    Attributes:
        planted: The network.
        known: Columns query, candidate: the edges that are known, which no list may hold.
        relevant: The edges to be found, likewise.
        categories: Columns candidate, category: the topics of items.
        protocol: How all this came about.
    """

    planted: Planted
    known: pd.DataFrame
    relevant: pd.DataFrame
    categories: pd.DataFrame
    protocol: dict[str, str]

    @property
    def users(self) -> NDArray[np.int64]:
        """All users."""
        return np.arange(len(self.planted.weights))

    @property
    def items(self) -> NDArray[np.int64]:
        """All items."""
        return np.arange(len(self.planted.topic))

    @property
    def smallest(self) -> pd.DataFrame:
        """Those of the relevant pairs that are of the user's interest of least weight, of users with two or more."""
        weights = np.where(self.planted.weights > 0, self.planted.weights, np.inf)
        several = np.isfinite(weights).sum(axis=1) > 1
        user, topic = self.relevant["query"].to_numpy(), self.planted.topic[self.relevant["candidate"].to_numpy()]
        return self.relevant[several[user] & (weights.argmin(axis=1)[user] == topic)]


@dataclass(frozen=True)
class Vectors:
    """Users and items that are compared with each other.

    Attributes:
        users: Their vectors, one or several.
        items: Theirs.
    """

    users: Mixture
    items: EmbeddingTable


def make_task(network: Network, seed: int) -> Task:
    """Make a network; see the top of this file."""
    planted = network.make(seed=seed)
    return Task(
        planted=planted,
        known=_pairs(planted.known),
        relevant=_pairs(planted.held_out),
        categories=pd.DataFrame({"candidate": np.arange(len(planted.topic)), "category": planted.topic}),
        protocol={
            "network": "planted: says nothing about real data; made anew by every seed",
            "split": "a fifth of each user's edges, of all interests alike, is to be found",
            "candidates": "all items but those of the user's known edges",
            "fixed": "purity, interest recall and interest coverage, before anything was measured with them",
        },
    )


def _pairs(edges: pd.DataFrame) -> pd.DataFrame:
    return edges.set_axis(["query", "candidate"], axis=1)


@contextmanager
def trained(task: Task, network: Network, seed: int) -> Iterator[dict[str, Vectors]]:
    """Train one vector a user, and a mixture, for as long as the files of both are there."""
    graph = Graph.from_frames({LIKES: task.planted.known}, [Relation(LIKES, "user", "item")])
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, config in network.configs(seed).items():
            version = export(train(graph, config), Path(folder) / name.replace(" ", "-"))
            users = version.mixture("user") if config.has_mixtures else _one_each(version.table("user"))
            found[name] = Vectors(users, version.table("item"))
        yield found


def _one_each(table: EmbeddingTable) -> Mixture:
    """A table as a mixture of one vector an entity."""
    return Mixture.from_rows(table.ids, np.arange(len(table))[:, None], components=table, entity=table.entity)


def inductive(task: Task, network: Network, items: EmbeddingTable, seed: int) -> dict[str, Vectors]:
    """Mixtures that are made of the one vector's items: centroids of clusters (TwHIN), own items (PinnerSage)."""
    log = task.planted.known
    clusters = Mixture.from_engagement(log, items, min(network.clusters, len(items)), top=network.components, seed=seed)
    return {
        "item clusters (TwHIN)": Vectors(clusters, items),
        "own items (PinnerSage)": Vectors(pinnersage(log, items, top=network.components), items),
    }


def limit(planted: Planted) -> dict[str, Vectors]:
    """The planted places as a mixture, among the items' positions."""
    if not isinstance(planted, PlantedPlaces):
        return {}
    ids = np.arange(len(planted.topic))
    items = EmbeddingTable.from_arrays(
        ids, planted.positions.astype(np.float32), entity="item", version="planted", comparator="cos"
    )
    users = Mixture.from_components(
        np.arange(len(planted.places)), planted.places.astype(np.float32), planted.weights,
        entity="user", version="planted",
    )  # fmt: skip
    return {"planted places": Vectors(users, items)}


def floors(task: Task, network: Network) -> dict[str, pd.DataFrame]:
    """Lists of what has no vectors."""
    fitted: dict[str, Popularity | ItemKNN | EASE] = {
        "popularity": Popularity.fit(task.known),
        "ItemKNN": ItemKNN.fit(task.known, neighbors=network.neighbors),
        "EASE": EASE.fit(task.known, l2=network.l2, dtype="float32"),
    }
    return {name: floor.recommend(task.users, k=LENGTH, exclude=task.known) for name, floor in fitted.items()}


def recommend(task: Task, vectors: Vectors, *, k: int = LENGTH, allocation: Allocation = "round_robin") -> pd.DataFrame:
    """List the best items of each user by exact search."""
    generate = CandidateGenerator(ExactIndex.build(vectors.items), vectors.users, allocation=allocation)
    return generate(task.users, k=k, exclude=task.known)


def about_vectors(task: Task, vectors: Vectors) -> Values:
    """Purity and interest recall of each user."""
    at = vectors.items.rows(task.items)
    majority, share = component_interests(
        vectors.users.components.vectors, vectors.items.vectors[at[at >= 0]], task.planted.topic[at >= 0]
    )
    rows = vectors.users.rows(task.users)
    components, weights = vectors.users.component_rows[rows], vectors.users.weights[rows]
    return {
        "purity": purity(share, components, weights),
        "interest_recall": interest_recall(task.planted.interests, majority, components, weights, least=LEAST),
    }


def about_lists(task: Task, lists: pd.DataFrame, cutoffs: Iterable[int]) -> Values:
    """Interest coverage of each user."""
    found = {}
    for k in cutoffs:
        covered = interest_coverage(task.planted.interests, task.planted.topic, lists, k=k)
        found[f"interest_coverage@{k}"] = covered.reindex(task.users, fill_value=0.0).to_numpy()
    return found


def means(name: str, values: Values, **said: Any) -> list[Result]:
    """Means over users, with intervals; ``said`` are the seed and the protocol."""
    return [
        Result(name, metric, *bootstrap_mean(column, samples=BOOTSTRAP), n=len(column), **said)
        for metric, column in values.items()
    ]


def measure_network(task: Task, network: Network, vectors: Mapping[str, Vectors], seed: int) -> list[Result]:
    """Everything there is to say of the floors, the vectors and their lists."""
    items = vectors[ONE].items
    vectors = {**vectors, **inductive(task, network, items, seed), **limit(task.planted)}
    lists = {**floors(task, network), **{name: recommend(task, of) for name, of in vectors.items()}}
    values = {
        name: {**(about_vectors(task, vectors[name]) if name in vectors else {}), **about_lists(task, of, COVERED)}
        for name, of in lists.items()
    }
    said: dict[str, Any] = {"seed": seed, "protocol": task.protocol}
    about = {
        "vectors": items, "categories": task.categories, "baseline": lists[ONE], "k": CUTOFFS, "bootstrap": BOOTSTRAP
    }  # fmt: skip
    results = []
    for name, of in lists.items():
        results += evaluate_candidates(of, task.relevant, name=name, catalog=task.items, **about, **said).results
        results += means(name, values[name], **said)
    results += means(LIMIT, {"interest_recall": 1.0 / task.planted.interests.sum(axis=1)}, **said)
    for other in COMPARED:
        names = (MIXTURE, other)
        results += compare_candidates(
            lists[MIXTURE], lists[other], task.relevant, names=names, **about, **said
        ).results  # fmt: skip
        both = values[MIXTURE].keys() & values[other].keys()
        differences = {metric: values[MIXTURE][metric] - values[other][metric] for metric in sorted(both)}
        results += means(" - ".join(names), differences, **said)
    return results


def measure_allocations(task: Task, vectors: Vectors, seed: int) -> list[Result]:
    """What the same components make of the places of a list; differences are from round robin, paired by user."""
    said: dict[str, Any] = {"seed": seed, "protocol": task.protocol}
    results = []
    for k in PLACES:
        lists = {allocation: recommend(task, vectors, k=k, allocation=allocation) for allocation in ALLOCATIONS}
        about = {"k": k, "bootstrap": BOOTSTRAP, **said}
        for name, of in lists.items():
            results += evaluate_candidates(of, task.relevant, name=name, categories=task.categories, **about).results
            results += _smallest(evaluate_candidates(of, task.smallest, name=name, **about), k)
            results += means(name, {**about_lists(task, of, [k]), **about_components(of, vectors.users, k)}, **said)
        for name in ALLOCATIONS[1:]:
            compare = partial(compare_candidates, lists[name], lists[ALLOCATIONS[0]], names=(name, ALLOCATIONS[0]))
            results += compare(task.relevant, **about).results
            results += _smallest(compare(task.smallest, **about), k)
    return results


def _smallest(report: Report, k: int) -> list[Result]:
    """The recall of a report that is about the smallest interests, called so."""
    return [replace(row, metric=f"smallest_{row.metric}") for row in report.results if row.metric == f"recall@{k}"]


def about_components(lists: pd.DataFrame, users: Mixture, k: int) -> Values:
    """What the component of least weight gets of the first ``k`` places, and what it weighs."""
    weights = np.where(users.weights >= LEAST, users.weights, np.inf)
    several = np.flatnonzero(np.isfinite(weights).sum(axis=1) > 1)
    least = weights.argmin(axis=1)
    row = users.rows(lists["query"].to_numpy())
    first = lists["rank"].to_numpy() <= k
    length = np.bincount(row[first], minlength=len(weights))
    owed = np.bincount(row[first & (lists["component"].to_numpy() == least[row])], minlength=len(weights))
    return {
        f"smallest_places@{k}": owed[several] / length[several],
        f"smallest_weight@{k}": weights[several, least[several]].astype(np.float64),
    }


def measure(*, seeds: Iterable[int], part: str = "all", console: Console | None = None) -> Report:
    """Make, train and compare once a seed; the group of a result is its network, or "allocation"."""
    results: list[Result] = []
    for seed in seeds:
        for name, network in NETWORKS.items():
            if part == "allocation" and name != TOPICS:
                continue
            task = make_task(network, seed)
            with trained(task, network, seed) as vectors:
                if part != "allocation":
                    results += _grouped(measure_network(task, network, vectors, seed), name)
                if part != "networks" and name == TOPICS:
                    results += _grouped(measure_allocations(task, vectors[MIXTURE], seed), "allocation")
            if console:
                console.print(f"seed {seed}, {name}: done")
    return Report(results)


def _grouped(results: list[Result], group: str) -> list[Result]:
    return [replace(row, group=group) for row in results]


def _part(report: Report, group: str) -> Report:
    return replace(report, results=[row for row in report.results if row.group == group])


def tables(report: Report) -> dict[str, Rows]:
    """Tables by title, those of which there is something to show."""
    made: dict[str, Rows] = {}
    for name in NETWORKS:
        part = _part(report, name)
        if part.results:
            made[f"{name}: what is found"] = _starred(seed_table(part, FOUND))
            made[f"{name}: how varied lists are"] = _starred(seed_table(part, VARIED))
    part = _part(report, "allocation")
    if part.results:
        rows: Rows = [("", *SHARED)]
        for k in PLACES:
            found = seed_table(part, [f"{metric}@{k}" for metric in SHARED])
            rows += [(f"{row[0]}, {k}", *row[1:]) for row in found[1:]]
        made["topics: allocation, places"] = _starred(rows)
    return made


def _starred(rows: Rows) -> Rows:
    """Mark the measures that were fixed beforehand."""
    fixed = {metric.partition("@")[0] for metric in FIXED}
    return [tuple(f"{cell}*" if cell.partition("@")[0] in fixed else cell for cell in rows[0]), *rows[1:]]


def plot(report: Report, path: Path) -> None:
    """Bars of what is found in each network, with deviations over seeds; lines of the allocations over their places."""
    from matplotlib.figure import Figure

    rows = report.to_frame()
    rows = rows[~rows["name"].str.contains(" - ")]
    groups = [*NETWORKS, "allocation"]
    groups = [group for group in groups if (rows["group"] == group).any()]
    figure = Figure(figsize=(6 * len(groups), 5), layout="constrained")
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        part = rows[rows["group"] == group].groupby(["name", "metric"], sort=False)["value"].agg(["mean", "std"])
        (_lines if group == "allocation" else _bars)(axes, part.fillna(0.0))
        axes.set_title("topics, allocations" if group == "allocation" else group)
    figure.savefig(path, dpi=150)


def _bars(axes, part: pd.DataFrame) -> None:
    shown = ("recall@100", "interest_coverage@10", "interest_recall")
    names = [name for name in part.index.unique("name") if name != LIMIT][::-1]
    for place, metric in enumerate(shown):
        found = part.reindex([(name, metric) for name in names])
        height = np.arange(len(names)) + 0.25 * (1 - place)
        axes.barh(height, found["mean"], 0.22, xerr=found["std"], label=metric, ecolor="0.2")
    axes.set_yticks(range(len(names)), names)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.06), ncols=len(shown))


def _lines(axes, part: pd.DataFrame) -> None:
    for name in part.index.unique("name"):
        recall, covered = (
            part.loc[[(name, f"{metric}@{k}") for k in PLACES]] for metric in ("recall", "interest_coverage")
        )
        axes.errorbar(
            covered["mean"], recall["mean"], xerr=covered["std"], yerr=recall["std"], marker="o", label=name
        )  # fmt: skip
    for k, x, y in zip(PLACES, covered["mean"], recall["mean"], strict=True):
        axes.annotate(f"{k}", (x, y), xytext=(6, -12), textcoords="offset points")
    axes.set_xlabel("interest coverage of the list")
    axes.set_ylabel("recall")
    axes.legend()


def main(words: Sequence[str] | None = None) -> Report:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("networks", "allocation", "all"), default="all")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    add_outputs(parser, "json", "markdown", "plot")
    options = parser.parse_args(words)
    console = Console()
    seeds = range(options.first, options.first + options.seeds)
    report = measure(seeds=seeds, part=options.part, console=console)
    made = tables(report)
    for title, rows in made.items():
        show(console, title, rows, {})
    for key in ("network", "split", "candidates", "fixed"):
        console.print(f"{key}{'*' if key == 'fixed' else ''}: {report.results[0].protocol[key]}")
    save(options, report, *made.values())
    if options.plot:
        plot(report, options.plot)
    return report


if __name__ == "__main__":
    main()
