"""Several vectors of a user against one of as many numbers, on three public data sets.

    python examples/mixtures.py --data FOLDER --set retailrocket|lastfm|movielens [--seeds 3]
        [--part validation|test] [--json FILE] [--markdown FILE] [--plot FILE]

FOLDER holds what examples/loaders/SET.py reads. Needs the extras pretrain and faiss, and examples for the plot. The
claim under test is that of Brinkman et al. (2020, 2.1): a mixture of C components of n dimensions is better than one
vector of C * n, "even though the two models have the same degrees of freedom". That is so of users alone where items
have one component of n dimensions; so there is more than one way to be fair, and the first table says the numbers that
each system has:

    one vector                   64 numbers of a user, 64 of an item
    2 x 32, 4 x 16 users         as many of a user, fewer of an item
    4 x 16 users, 4 x 16 items   as many of both
    4 x 64 users                 more of a user, as many of an item
    one vector of 256            as many of a user as those, more of an item: what more numbers do without a mixture
    clusters                     inductive: a user is the most engaged clusters of the one vector's items (TwHIN 4.4)
    PinnerSage                   inductive: a user is a few of the user's own items, vectors as before

What is measured:

split       As the loaders say: by time within each user, or for Last.FM by chance, drawn anew by every seed. The test
            part is asked of what was fitted on the training and the validation part, but for Last.FM, whose published
            protocol leaves the validation part out (see examples/lastfm.py). Known pairs are in no list.
lists       100 candidates by exact search, those of mixtures allocated by max_score (weights left aside, the pooling
            that training comes near to) and by round_robin. Items of several components score as their best one does.
diversity   Distances within lists, by the item vectors of the one vector for all systems, so that one measure judges
            all; categories are genres, or, where a set has none, k-means clusters of those same vectors. Distances and
            clusters are so the one vector's own view of items.
differences Every mixture minus the one vector, paired by user: the mean over seeds, and of how many seeds the 95 %
            interval is above 0 or below. Where the split is fixed, seeds share their users, and are no new evidence
            about users.
tasks       Retailrocket has three: view, cart and buy, a relation each. Networks of buys alone are compared with
            networks of all three, of equal weights or of others. A network of buys alone has nobody who has not bought,
            so that "buy, of buyers" asks only of those who have; the weights of components (Eq. 5) come from all tasks
            or from buys.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lastfm import make_task as lastfm_task
from loaders import lastfm, movielens, retailrocket
from outputs import Rows, add_outputs, save, show
from rich.console import Console

from pretrain import Graph, Model, Relation, TrainConfig, export, train
from pretrain.components import mixture_weights
from recokit import CandidateGenerator, ExactIndex, Mixture, Report, compare_candidates, evaluate_candidates
from recokit.floors import EASE, ItemKNN, Popularity
from recokit.mixture import InterestClusters, pinnersage
from recokit.report import Result, gather_provenance, seed_table
from recokit.table import EmbeddingTable, Version

CUTOFFS = (10, 50, 100)
LENGTH = max(CUTOFFS)  # of the lists
RECALLS = tuple(f"recall@{k}" for k in CUTOFFS)
ACCURACY = (*RECALLS, "ndcg@10")
DIVERSITY = ("intra_list_distance@50", "categories@50", "category_entropy@50", "catalog_coverage@50", "overlap@50")
ALLOCATIONS = ("max_score", "round_robin")
EFFECTIVE, DEAD = "components in use", "dead components"
SPARSE, ALONE, TASKS, BY_SPARSE = "buy", "buys alone", "task weights", "weighed by buys"

CONFIG = TrainConfig(
    operator="identity", comparator="cos", loss="softmax", sides="target", uniform_negatives=500, epochs=20,
    schedule="linear", precision="auto",
)  # fmt: skip
# Chosen on --part validation of seed 0: the same grid for the one vector and for mixtures, each kind its own best.
GRID: Mapping[str, tuple[float, ...]] = {
    "temperature": (0.08, 0.12, 0.16, 0.2, 0.3),
    "learning_rate": (0.05, 0.1, 0.2),
    "epochs": (20, 40, 80),  # of Retailrocket, at temperatures of .12 and .16; 20 of the others
    "neighbors": (50, 100, 200, 500, 1000),
    "l2": (50, 100, 200, 400, 800, 1600, 3200),
    "clusters": (50, 100, 200, 500, 1000, 2000),  # of more, most would hold an item or two
    "top": (3, 5, 10),
}
SETTINGS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "movielens": {
        "one": {"temperature": 0.16, "learning_rate": 0.1},
        "mixture": {"temperature": 0.16, "learning_rate": 0.2},
        "floors": {"neighbors": 500, "l2": 100.0},
        "clusters": {"clusters": 2000, "top": 10},
        "pinnersage": {"top": 5},
    },
    "lastfm": {
        "one": {"temperature": 0.16, "learning_rate": 0.2},
        "mixture": {"temperature": 0.16, "learning_rate": 0.2},
        "floors": {"neighbors": 1000, "l2": 100.0},
        "clusters": {"clusters": 2000, "top": 3},
        "pinnersage": {"top": 3},
    },
    "retailrocket": {
        "one": {"temperature": 0.16, "learning_rate": 0.1, "epochs": 80},
        "mixture": {"temperature": 0.12, "learning_rate": 0.1, "epochs": 80},
        "floors": {"neighbors": 100, "l2": 200.0},
        "clusters": {"clusters": 1000, "top": 3},
        "pinnersage": {"top": 3},
        # A network of buys alone has a tenth of the edges; among 20 to 200 epochs, batches of 256 and 1024 edges,
        # temperatures of .1 to .3, learning rates of .1 and .3.
        ALONE: {"temperature": 0.1, "learning_rate": 0.1, "epochs": 60, "batch_size": 256},
    },
}
# Of edges: each task a third of the loss; among (1, 2, 2), (1, 3, 5), (.3, 1, 3), (1, 1, 5), (1, 1, 10).
TASK_WEIGHTS = {"view": 1.0, "cart": 6.0, "buy": 8.0}
CATEGORIES = 100  # clusters of items, where a set has no genres


@dataclass(frozen=True)
class Shape:
    """How many components, and of how many dimensions; one of each is no mixture."""

    users: int
    items: int
    dim: int


ONE, WIDE, MIXTURE, LARGE = "one vector", "one vector of 256", "4 x 16 users", "4 x 64 users"
SHAPES: Mapping[str, Shape] = {
    ONE: Shape(1, 1, 64),
    "2 x 32 users": Shape(2, 1, 32),
    MIXTURE: Shape(4, 1, 16),
    "4 x 16 users, 4 x 16 items": Shape(4, 4, 16),
    LARGE: Shape(4, 1, 64),
    WIDE: Shape(1, 1, 256),
}


@dataclass(frozen=True)
class Target:
    """What is to be found.

    Attributes:
        name: The group of its results.
        relation: The relation that candidates are ranked with.
        relevant: Columns query, candidate.
    """

    name: str
    relation: str
    relevant: pd.DataFrame


@dataclass(frozen=True)
class Task:
    """What is known and what is to be found.

    Attributes:
        item: Entity type of the candidates.
        edges: Relation to its edges: source (users), target (items) and, where they weigh, weight.
        exclude: Columns query, candidate: what no list may hold.
        catalog: Ids of all items, whether anything is known of them or not.
        targets: What is to be found.
        genres: Columns candidate, category; None where there are none.
        protocol: How all this came about.
    """

    item: str
    edges: Mapping[str, pd.DataFrame]
    exclude: pd.DataFrame
    catalog: pd.Index
    targets: tuple[Target, ...]
    genres: pd.DataFrame | None = None
    protocol: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> pd.DataFrame:
        """Columns source, target: every known pair once, whatever its relations."""
        return pd.concat(self.edges.values())[["source", "target"]].drop_duplicates(ignore_index=True)

    def users(self, relation: str) -> pd.Series:
        """Those for whom there is something to be found by a relation."""
        asked = [target.relevant["query"] for target in self.targets if target.relation == relation]
        return pd.concat(asked).drop_duplicates()

    def graph(self, weights: Mapping[str, float]) -> Graph:
        """The network of the relations that ``weights`` names."""
        relations = [Relation(name, "user", self.item, weight=weight) for name, weight in weights.items()]
        return Graph.from_frames({name: self.edges[name] for name in weights}, relations)


def movielens_part(data: movielens.MovieLens, seed: int, part: str) -> Task:
    """Liked movies; ``seed`` draws nothing here."""
    known, held_out = _parts(movielens.split(data.ratings), part)
    return Task(
        item="movie",
        edges={"likes": _as_edges(movielens.positive_pairs(known))},
        exclude=movielens.exclude_pairs(known),
        catalog=pd.Index(data.movies["movie"]),
        targets=(Target("likes", "likes", movielens.positive_pairs(held_out)),),
        genres=data.genres,
        protocol=_protocol("the last tenth of each user's ratings, those of 4 stars or more", part, "genres"),
    )


def lastfm_part(data: lastfm.LastFm, seed: int, part: str) -> Task:
    """Listens, as examples/lastfm.py has them."""
    task = lastfm_task(data, seed=seed, part=part)
    edges = task.known.rename(columns={"user": "source", "artist": "target"})
    return Task(
        item="artist",
        edges={"listens": edges[["source", "target", "weight"]]},
        exclude=task.exclude,
        catalog=task.artists,
        targets=(Target("listens", "listens", task.relevant),),
        protocol=_protocol("random 8:1:1 of each user's listens, drawn anew by every seed", part, "clusters"),
    )


def retailrocket_part(events: pd.DataFrame, seed: int, part: str) -> Task:
    """Views, carts and buys; ``seed`` draws nothing here."""
    known, held_out = _parts(retailrocket.split(events), part)
    edges = {
        name: _as_edges(known.loc[known["behavior"] == name, ["user", "item"]].drop_duplicates())
        for name in retailrocket.BEHAVIORS
    }
    targets = [
        Target(name, name, retailrocket.new_pairs(held_out, known, behavior=name)) for name in retailrocket.BEHAVIORS
    ]
    buys = targets[-1].relevant
    buyers = buys[buys["query"].isin(edges[SPARSE]["source"])]
    return Task(
        item="item",
        edges=edges,
        exclude=retailrocket.exclude_pairs(known),
        catalog=pd.Index(events["item"].unique()),
        targets=(*targets, Target(f"{SPARSE}, of buyers", SPARSE, buyers)),
        protocol=_protocol("the last fifth of each user's visits, pairs that are new to the user", part, "clusters"),
    )


def _parts(parts: Sequence[pd.DataFrame], part: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what is known and what is held out."""
    training, validation, test = parts
    return (pd.concat([training, validation]), test) if part == "test" else (training, validation)


def _as_edges(pairs: pd.DataFrame) -> pd.DataFrame:
    return pairs.set_axis(["source", "target"], axis=1)


def _protocol(split: str, part: str, categories: str) -> dict[str, str]:
    clusters = f"{CATEGORIES} of the one vector's items, by k-means"
    return {
        "split": f"{split}, {part} part",
        "candidates": "all items but the user's other known ones",
        "category": "genres of the data set" if categories == "genres" else clusters,
        "distance": "1 - cosine of the one vector's items, for all systems",
    }


@dataclass(frozen=True)
class DataSet:
    """How a data set is read and split; ``drawn`` where every seed splits it anew."""

    load: Callable[[Path], Any]
    part: Callable[[Any, int, str], Task]
    drawn: bool = False


SETS: Mapping[str, DataSet] = {
    "retailrocket": DataSet(retailrocket.load, retailrocket_part),
    "lastfm": DataSet(lastfm.load, lastfm_part, drawn=True),
    "movielens": DataSet(movielens.load, movielens_part),
}

Lists = Mapping[str, pd.DataFrame]  # by relation


def floors(task: Task, *, neighbors: int, l2: float) -> Iterator[tuple[str, Lists]]:
    """Yield the name and the lists of what has no seed of its own."""
    known = task.log.set_axis(["query", "candidate"], axis=1)
    # EASE inverts a matrix of the smaller side: there are fewer than 2,200 users in each of the sets.
    fitted: dict[str, Popularity | ItemKNN | EASE] = {
        "popularity": Popularity.fit(known),
        "ItemKNN": ItemKNN.fit(known, neighbors=neighbors),
        "EASE": EASE.fit(known, l2=l2, dtype="float32"),
    }
    if SPARSE in task.edges:
        buys = task.edges[SPARSE].set_axis(["query", "candidate"], axis=1)
        fitted[f"popularity, {ALONE}"] = Popularity.fit(buys)
    for name, floor in fitted.items():
        yield name, _by_relation(task, lambda _, users, floor=floor: floor.recommend(users, LENGTH, task.exclude))


def train_all(task: Task, settings: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Model]:
    """Train every shape on all relations, and where there are several what they are compared with."""
    graph = task.graph(dict.fromkeys(task.edges, 1.0))
    models = {name: fit(graph, shape, settings, seed, item=task.item) for name, shape in SHAPES.items()}
    if SPARSE not in task.edges:
        return models
    for name in (ONE, MIXTURE):
        models[f"{name}, {ALONE}"] = fit(task.graph({SPARSE: 1.0}), SHAPES[name], settings, seed, item=task.item)
        models[f"{name}, {TASKS}"] = fit(task.graph(TASK_WEIGHTS), SHAPES[name], settings, seed, item=task.item)
    by_buys = mixture_weights(models[MIXTURE], graph, relations=[SPARSE])
    models[f"{MIXTURE}, {BY_SPARSE}"] = replace(models[MIXTURE], mixture_weights=by_buys)
    return models


def fit(graph: Graph, shape: Shape, settings: Mapping[str, Mapping[str, Any]], seed: int, *, item: str) -> Model:
    """Train one network with the settings of its kind."""
    several = max(shape.users, shape.items) > 1
    components = {"user": shape.users, item: shape.items} if several else 1
    chosen = settings["mixture" if several else "one"]
    if list(graph.relations) == [SPARSE]:
        chosen = {**chosen, **settings[ALONE]}
    return train(graph, replace(CONFIG, dim=shape.dim, components=components, seed=seed, **chosen))


def recommend(task: Task, version: Version, allocation: str) -> Lists:
    """List the best items of each user by a trained version."""
    users, items = _opened(version, "user"), _opened(version, task.item)
    several = isinstance(items, Mixture)
    index = ExactIndex.build(items.components if several else items)

    def lists(relation: str, ids: pd.Series) -> pd.DataFrame:
        # A network of buys alone ranks views and carts by what it has.
        chosen = version.relations.get(relation, version.relations[next(iter(version.relations))])
        generate = CandidateGenerator(
            index, users, chosen, allocation=allocation, items=items if several else None, aggregate="max"
        )
        return generate(ids, k=LENGTH, exclude=task.exclude, unknown="skip")

    return _by_relation(task, lists)


def recommend_inductive(task: Task, items: EmbeddingTable, users: Mixture, allocation: str) -> Lists:
    """List the items nearest to the components of users, which are in the items' space: no relation moves them."""
    generate = CandidateGenerator(ExactIndex.build(items), users, allocation=allocation)
    return _by_relation(task, lambda _, ids: generate(ids, k=LENGTH, exclude=task.exclude, unknown="skip"))


def _opened(version: Version, name: str) -> EmbeddingTable | Mixture:
    return version.mixture(name) if version.tables[name].kind == "mixture" else version.table(name)


def _by_relation(task: Task, lists: Callable[[str, pd.Series], pd.DataFrame]) -> Lists:
    relations = dict.fromkeys(target.relation for target in task.targets)
    return {relation: lists(relation, task.users(relation)) for relation in relations}


def inductive(
    task: Task, items: EmbeddingTable, settings: Mapping[str, Mapping[str, Any]], seed: int
) -> dict[str, Mixture]:
    """Mixtures of the one vector's items, by every known pair, without training."""
    chosen = dict(settings["clusters"])
    clusters = InterestClusters.fit(items, min(chosen.pop("clusters"), len(items)), seed=seed)
    return {
        "clusters": clusters.transform(task.log, items, **chosen),
        "PinnerSage": pinnersage(task.log, items, **settings["pinnersage"]),
    }


def systems(
    task: Task, models: Mapping[str, Model], settings: Mapping[str, Mapping[str, Any]], seed: int, folder: Path
) -> tuple[dict[str, Lists], EmbeddingTable]:
    """Return the lists of all that is trained or made of it, and the items of the one vector."""
    found: dict[str, Lists] = {}
    versions = {name: export(model, folder / f"v{number}") for number, (name, model) in enumerate(models.items())}
    for name, version in versions.items():
        if not models[name].config.has_mixtures:
            found[name] = recommend(task, version, "max_score")  # nothing to allocate
        else:
            # The weights of components say nothing to max_score: its lists are those of the mixture as it was.
            allocations = ALLOCATIONS[1:] if name.endswith(BY_SPARSE) else ALLOCATIONS
            found |= {f"{name}, {each}": recommend(task, version, each) for each in allocations}
    items = versions[ONE].table(task.item)
    for name, users in inductive(task, items, settings, seed).items():
        found |= {f"{name}, {each}": recommend_inductive(task, items, users, each) for each in ALLOCATIONS}
    return found, items


@dataclass(frozen=True)
class Yardstick:
    """What lists are judged by, besides what is to be found; all of it the one vector's of the same seed, but genres.

    Attributes:
        items: Vectors, for distances.
        categories: Columns candidate, category: genres, or else clusters of the vectors.
        lists: By relation, for overlaps.
    """

    items: EmbeddingTable
    categories: pd.DataFrame
    lists: Lists

    @classmethod
    def of(cls, task: Task, items: EmbeddingTable, lists: Lists, seed: int) -> "Yardstick":
        """Cluster the vectors where the task has no genres."""
        if task.genres is not None:
            return cls(items, task.genres, lists)
        clusters = InterestClusters.fit(items, min(CATEGORIES, len(items)), seed=seed)
        ids = items.ids_at(np.arange(len(items))).to_pandas()
        return cls(items, pd.DataFrame({"candidate": ids, "category": clusters.assign(items.vectors)}), lists)


def evaluate(task: Task, name: str, lists: Lists, by: Yardstick, seed: int | None) -> Iterator[Result]:
    """Yield the metrics that are shown, for each target."""
    for target in task.targets:
        rows = evaluate_candidates(
            lists[target.relation], target.relevant, k=CUTOFFS, name=name, catalog=task.catalog, vectors=by.items,
            categories=by.categories, baseline=by.lists[target.relation], seed=seed, protocol=task.protocol,
        )  # fmt: skip
        yield from _shown(rows, (*ACCURACY, *DIVERSITY), target.name)


def compare(task: Task, a: Lists, b: Lists, names: tuple[str, str], seed: int) -> Iterator[Result]:
    """Yield the differences of recall, for each target."""
    for target in task.targets:
        lists = (a[target.relation], b[target.relation])
        rows = compare_candidates(*lists, target.relevant, k=CUTOFFS, names=names, seed=seed, protocol=task.protocol)
        yield from _shown(rows, RECALLS, target.name)


def _shown(report: Report, metrics: Sequence[str], group: str) -> Iterator[Result]:
    return (replace(result, group=group) for result in report.results if result.metric in metrics)


def pairs_of(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield which system is compared with which: mixtures with the one vector, and what differs in tasks alone."""
    variants = (ALONE, TASKS, BY_SPARSE)
    yield from (
        (name, ONE) for name in names if name.endswith(ALLOCATIONS) and not any(said in name for said in variants)
    )
    yield from ((name, WIDE) for name in names if name.startswith(LARGE) and WIDE in names)
    for said in variants:
        pairs = [(f"{ONE}, {said}", ONE)]
        for each in ALLOCATIONS:
            mixture = f"{MIXTURE}, {said}, {each}"
            pairs += [(mixture, f"{MIXTURE}, {each}"), (mixture, f"{ONE}, {said}")]
        yield from ((a, b) for a, b in pairs if a in names and b in names)


def usage(models: Mapping[str, Model], seed: int) -> Iterator[Result]:
    """Yield how many components of a user win positives, and what share of the components wins none."""
    for name, model in models.items():
        used = model.meta.get("components", {}).get("user")
        if used is not None:
            yield Result(name, EFFECTIVE, used["effective"], seed=seed)
            yield Result(name, DEAD, used["dead"], seed=seed)


def measure(name: str, data: Any, *, seeds: int, part: str = "test", console: Console | None = None) -> Report:
    """Fit, recommend and compare once a seed; what has no seed is fitted once for each split."""
    of, settings, results = SETS[name], SETTINGS[name], []
    for seed in range(seeds):
        task = of.part(data, seed, part)
        models = train_all(task, settings, seed)
        results += usage(models, seed)
        with tempfile.TemporaryDirectory() as folder:
            found, items = systems(task, models, settings, seed, Path(folder))
            by = Yardstick.of(task, items, found[ONE], seed)
            numbered: list[tuple[str, Lists, int | None]] = [(key, lists, seed) for key, lists in found.items()]
            if of.drawn or seed == 0:
                of_floors = floors(task, **settings["floors"])
                numbered += [(key, lists, seed if of.drawn else None) for key, lists in of_floors]
            for key, lists, of_seed in numbered:
                rows = list(evaluate(task, key, lists, by, of_seed))
                results += rows
                if console:
                    console.print(f"seed {seed}, {key}: {_recalls(rows)}")
        for a, b in pairs_of(list(found)):
            results += compare(task, found[a], found[b], (a, b), seed)
    return Report(results, gather_provenance())


def _recalls(rows: Sequence[Result]) -> str:
    return ", ".join(f"{row.group} {row.metric} {row.value:.4f}" for row in rows if row.metric == RECALLS[0])


def numbers_table(report: Report) -> Rows:
    """Numbers of a user and an item, and how the components of users are used, means over seeds."""
    rows = report.to_frame()
    used = rows[rows["metric"].isin([EFFECTIVE, DEAD])].groupby(["name", "metric"])["value"].mean()
    table = [("", "numbers of a user", "of an item", f"{EFFECTIVE}", DEAD)]
    for name, shape in SHAPES.items():
        spent = str(shape.users * shape.dim), str(shape.items * shape.dim)
        if (name, EFFECTIVE) in used:
            table.append((name, *spent, f"{used[name, EFFECTIVE]:.2f} of {shape.users}", f"{used[name, DEAD]:.1%}"))
        else:
            table.append((name, *spent, "", ""))
    return table


def systems_table(report: Report, group: str, metrics: Sequence[str]) -> Rows:
    """Systems of a target, means and deviations over seeds."""
    of_group = [row for row in report.results if row.group == group and " - " not in row.name]
    return seed_table(Report(of_group, report.provenance), metrics)


def differences_table(report: Report, group: str) -> Rows:
    """Differences of a target, from the one vector where not said: means, and how many seeds' intervals exclude 0."""
    rows = report.to_frame()
    rows = rows[(rows["group"] == group) & rows["name"].str.contains(" - ", regex=False)]
    table: list[tuple[str, ...]] = [(f"minus {ONE} (above 0, below)", *RECALLS)]
    for name, of_name in rows.groupby("name", sort=False):
        cells = []
        for metric in RECALLS:
            part = of_name[of_name["metric"] == metric]
            above, below = int((part["low"] > 0).sum()), int((part["high"] < 0).sum())
            cells.append(f"{part['value'].mean():+.4f} ({above}, {below} of {len(part)})")
        table.append((str(name).removesuffix(f" - {ONE}"), *cells))
    return table


def plot(report: Report, path: Path) -> None:
    """Bars of recall@50, with deviations over seeds, and the same against the distance within lists; by target."""
    from matplotlib.figure import Figure

    rows = report.to_frame()
    rows = rows[rows["group"].notna() & ~rows["name"].str.contains(" - ", regex=False)]
    groups = list(dict.fromkeys(rows["group"]))
    height = 0.22 * rows["name"].nunique() + 1
    figure = Figure(figsize=(13, height * len(groups)), layout="constrained")
    for (bars, points), group in zip(figure.subplots(len(groups), 2, squeeze=False), groups, strict=True):
        part = rows[rows["group"] == group]
        recall = part[part["metric"] == "recall@50"].groupby("name", sort=False)["value"].agg(["mean", "std"])[::-1]
        distance = part[part["metric"] == DIVERSITY[0]].groupby("name")["value"].mean().reindex(recall.index)
        colors = ["tab:orange" if name == ONE else "tab:blue" for name in recall.index]
        names = [f"{name}  {len(recall) - place}" for place, name in enumerate(recall.index)]
        bars.barh(names, recall["mean"], xerr=recall["std"].fillna(0.0), color=colors, ecolor="0.2")
        bars.set_title(f"{group}: recall@50")
        points.scatter(distance, recall["mean"], color=colors)
        for place, name in enumerate(recall.index):
            points.annotate(str(len(recall) - place), (distance[name], recall["mean"][name]))
        points.set(xlabel=DIVERSITY[0], ylabel="recall@50")
    figure.savefig(path, dpi=150)


def main(words: Sequence[str] | None = None) -> Report:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set's files")
    parser.add_argument("--set", choices=tuple(SETS), required=True)
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--seeds", type=int, default=3)
    add_outputs(parser, "json", "markdown", "plot")
    options = parser.parse_args(words)
    console = Console()
    report = measure(
        options.set, SETS[options.set].load(options.data), seeds=options.seeds, part=options.part, console=console
    )
    title = f"{options.set}, {options.part} part"
    tables = {f"{title}: what is trained": numbers_table(report)}
    for group in dict.fromkeys(row.group for row in report.results if row.group):
        tables[f"{title}, {group}: what is found"] = systems_table(report, group, ACCURACY)
        tables[f"{title}, {group}: what the lists are like"] = systems_table(report, group, DIVERSITY)
        tables[f"{title}, {group}: differences"] = differences_table(report, group)
    for name, rows in tables.items():
        show(console, name, rows, {})
    protocol = next(row.protocol for row in report.results if row.group)
    for key in ("split", "candidates", "category", "distance", "interval"):
        console.print(f"{key}: {protocol[key]}")
    save(options, report, *tables.values())
    if options.plot:
        plot(report, options.plot)
    return report


if __name__ == "__main__":
    main()
