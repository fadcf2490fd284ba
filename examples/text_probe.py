"""Does it help to know who wrote a text?  Table 4 of TwHIN (El-Kishky et al. 2022), where the answer is known.

    python examples/text_probe.py [--data CIAO] [--seeds 3] [--json FILE] [--markdown FILE] [--plot FILE]

Needs the extras pretrain, rank and examples. A linear probe tells the label of a text from the text's vector, without
and with the vector of its author; the author's vector was trained on who follows whom, and on nothing else.

Four collections. Three are planted (see loaders/planted_texts.py), and say nothing about real data:

mixed       A fifth of the labels are 1, in some communities of authors 2 %, in others 60 %. The best answer is a sum of
            what the words and what the community say, so that a linear probe can find it.
offensive   Two thirds of the labels are 1, in all communities alike: authors tell nothing. TwHIN's explanation of why
            its second collection did not gain is that most of it is offensive.
turned      The same words speak for label 1 in one half of the communities and against it in the other. No sum can be
            right: a linear probe has to fail, with the author too, and a ranker that multiplies (DLRM) has not.
reviews     With --data, the folder of Ciao's rating.mat and trust.mat: is a review found helpful (3 or more of 7)?  No
            text was published, so that its content is the category and the stars; authors trust each other. Who trusts
            whom is not dated, and some trust will have come of helpful reviews, as follows do of posts.

split       Of the authors 10 % are validated on and 20 % tested on alone, so that nothing labelled is known of them
            (new authors); of the others' texts 10 % and 20 %. Each seed draws collection, network and split anew.
text        TF-IDF and singular vectors of the training texts, in 32 and in 128 numbers: any encoder would do.
floors      The author's number of follows and followers; the share of 1 among the author's own training texts, and
            among those of the authors around, both smoothed and never with the text in question; random vectors; the
            trained vectors, dealt out to the wrong authors.
ceilings    Of planted texts: the exact posterior given the text, and given text and community, on the same test texts.
PR-AUC      Average precision. Intervals are over resampled authors, paired.
gain        The difference, in percent of the value that it is a difference from. TwHIN's average relative gain of
            9.09 % is 100 * (0.5161 - 0.4692) / 0.5161, in percent of the value with authors; in percent of that without
            them it is 10.00, and of the second collection -1.37.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from loaders import ciao, ciao_reviews
from loaders.planted_texts import Collection, Communities, ceilings, planted_communities, planted_texts
from numpy.typing import NDArray
from outputs import add_outputs, save, show
from rich.console import Console

from pretrain import Graph, Relation, TrainConfig, export, train
from recokit import EmbeddingTable, FeatureSpec, Report
from recokit.features import Pretrained
from recokit.metrics import ScoreOrder, bootstrap_samples, interval
from recokit.rankers import DLRM, FitConfig, LinearProbe, Ranker, fit
from recokit.report import Result, seed_table
from recokit.text import text_table

Floats = NDArray[np.float64]
Scores = dict[str, Floats]  # of the test rows, by system

PRIOR = (0.02, 0.04, 0.06, 0.08, 0.1, 0.14, 0.2, 0.28, 0.4, 0.6)  # of label 1 in each community
COLLECTIONS = (
    Collection("mixed", PRIOR, lean=0.5),
    Collection("offensive", (0.65,) * len(PRIOR), lean=0.5),
    Collection("turned", (0.3,) * len(PRIOR), lean=0.8, turned=frozenset(range(0, len(PRIOR), 2))),
)
AUTHORS, TEXTS = 6000, 30_000
SIZES = (32, 128)  # of text vectors; the last one is the one that authors are added to
HELPFUL = 3
METRICS = ("pr_auc", "auc")
SHOWN = (*METRICS, "gain")
KNOWN, NEW = ", known authors", ", new authors"
BOOTSTRAP = 500  # resamples of authors

TEXT, AUTHOR = "text", "text + author"
CEILING, BOTH_CEILING = "ceiling of text", "ceiling of text and community"
COMPARED = (
    (AUTHOR, TEXT),
    (AUTHOR, "text + degrees"),
    (AUTHOR, "text + author's texts"),
    (AUTHOR, "text + neighbours' texts"),
    ("text + all of these", "text + all but vectors"),
    (CEILING, TEXT),
    (BOTH_CEILING, AUTHOR),
)

# Chosen on the validation part of seed 100 (average precision, mixed and reviews together), among
#   vectors     8 to 128 dimensions, temperatures .1 to .7, identity and translation, one side and both, cos and dot,
#               15 to 60 epochs, constant and falling learning rates, random and spectral starts
#   probe       learning rates .003, .01, .03; weight decay .01, .3
FOLLOWS = TrainConfig(
    dim=32, operator="identity", comparator="cos", loss="softmax", temperature=0.5, sides="both", epochs=15,
    uniform_negatives=500, precision="auto",
)  # fmt: skip
PROBE = FitConfig(epochs=60, batch_size=1024, learning_rate=0.003, weight_decay=0.01, patience=3)
MULTIPLIED = FitConfig(epochs=20, batch_size=512, learning_rate=0.002, weight_decay=0.1, patience=3)
SMOOTHING = 5.0  # texts' worth of the prior in a share
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # of scikit-learn's logistic regression, one of which the validation part chooses


@dataclass(frozen=True, eq=False)
class Task:
    """A collection and what a probe may read.

    Attributes:
        name: Of the collection.
        rows: Columns text, author, label; part, "train", "valid" or "test"; the dense floors.
        tables: By name: text vectors of each size, author vectors and what stands in for them.
        ceilings: What nothing passes, of the test rows; empty where that is not known.
        protocol: How all this came about.
    """

    name: str
    rows: pd.DataFrame
    tables: Mapping[str, EmbeddingTable]
    ceilings: Scores
    protocol: dict[str, str]

    def part(self, name: str) -> pd.DataFrame:
        """The rows of a part."""
        return self.rows[self.rows["part"] == name]

    @property
    def segments(self) -> dict[str, NDArray[np.bool_]]:
        """Which test rows each group of results is about."""
        test, known = self.part("test"), self.part("train")["author"].unique()
        of_known = test["author"].isin(known).to_numpy()
        return {self.name: of_known | True, self.name + KNOWN: of_known, self.name + NEW: ~of_known}


@dataclass(frozen=True)
class System:
    """What a probe reads: tables by column, and dense columns."""

    tables: Mapping[str, str]
    dense: tuple[str, ...] = ()


DEGREES = ("followers", "follows")
OWN = ("own_share", "own_texts")
AROUND = ("neighbours_share",)
CONTENT = {"text": "text"}
SYSTEMS: Mapping[str, System] = {
    f"text, {SIZES[0]} numbers": System({"text": f"text {SIZES[0]}"}),
    TEXT: System(CONTENT),
    "text + random vectors": System({**CONTENT, "author": "random"}),
    "text + shuffled vectors": System({**CONTENT, "author": "shuffled"}),
    "text + degrees": System(CONTENT, DEGREES),
    "text + author's texts": System(CONTENT, OWN),
    "text + neighbours' texts": System(CONTENT, AROUND),
    "text + all but vectors": System(CONTENT, (*DEGREES, *OWN, *AROUND)),
    AUTHOR: System({**CONTENT, "author": "author"}),
    "text + all of these": System({**CONTENT, "author": "author"}, (*DEGREES, *OWN, *AROUND)),
    "text + planted community": System({**CONTENT, "author": "community"}),
}
MULTIPLYING = {f"{name}, DLRM": SYSTEMS[name] for name in (TEXT, AUTHOR)}


def split(authors: NDArray[np.int64], seed: int) -> NDArray[Any]:
    """Say of each text, by its author, which part it is in; see the top of this file."""
    rng = np.random.default_rng(seed)
    shares, parts = (0.1, 0.3), np.array(["valid", "test", "train"])
    names, of = np.unique(authors, return_inverse=True)
    of_author = np.searchsorted(shares, rng.random(len(names)), side="right")[of]
    of_text = np.searchsorted(shares, rng.random(len(authors)), side="right")
    return parts[np.where(of_author < 2, of_author, of_text)]


def with_floors(rows: pd.DataFrame, follows: pd.DataFrame) -> pd.DataFrame:
    """Add the dense floors, made of the training part's labels and of the network."""
    train = rows["part"] == "train"
    known = rows[train].groupby("author")["label"].agg(["sum", "size"])
    prior = float(rows.loc[train, "label"].mean())
    ones, texts = (rows["author"].map(known[name]).fillna(0).to_numpy(float) for name in ("sum", "size"))
    ones, texts = ones - train * rows["label"], texts - train  # never with the text in question
    return rows.assign(
        followers=np.log1p(rows["author"].map(follows["target"].value_counts()).fillna(0.0)),
        follows=np.log1p(rows["author"].map(follows["source"].value_counts()).fillna(0.0)),
        own_share=_log_odds(ones, texts, prior),
        own_texts=np.log1p(texts),
        neighbours_share=_neighbours(rows["author"], known, follows, prior),
    )


def _neighbours(authors: pd.Series, known: pd.DataFrame, follows: pd.DataFrame, prior: float) -> Floats:
    """Log odds of label 1 in the training texts of those whom an author follows or is followed by."""
    ends = follows[["source", "target"]]
    both = pd.concat([ends, ends[["target", "source"]].set_axis(["source", "target"], axis=1)]).drop_duplicates()
    around = both.join(known, on="target", how="inner").groupby("source")[["sum", "size"]].sum()
    ones, texts = (authors.map(around[name]).fillna(0.0).to_numpy(float) for name in ("sum", "size"))
    return _log_odds(ones, texts, prior)


def _log_odds(ones: Floats, texts: Floats, prior: float) -> Floats:
    share = (np.asarray(ones) + SMOOTHING * prior) / (np.asarray(texts) + SMOOTHING)
    return np.log(share) - np.log1p(-share)


def encoder(texts: Sequence[str], size: int) -> Callable[[list[str]], NDArray[np.float32]]:
    """Fit TF-IDF and singular vectors, each of deviation 1, to training texts."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = TfidfVectorizer(min_df=3, sublinear_tf=True), TruncatedSVD(size, random_state=0), StandardScaler()
    fitted = make_pipeline(*steps).fit(texts)
    return lambda batch: fitted.transform(batch).astype(np.float32)


def author_vectors(follows: pd.DataFrame, seed: int) -> EmbeddingTable:
    """Train the network of who follows whom, which has seen no text and no label."""
    graph = Graph.from_frames({"follows": follows}, [Relation("follows", "author", "author")])
    with tempfile.TemporaryDirectory() as folder:
        table = export(train(graph, replace(FOLLOWS, seed=seed)), Path(folder) / "follows").table("author")
        return _like(table, np.array(table.vectors), "follows")


def stand_ins(table: EmbeddingTable, seed: int) -> dict[str, EmbeddingTable]:
    """Author vectors and those that can say nothing: random ones, and the trained ones of other authors."""
    rng = np.random.default_rng(seed)
    return {
        "author": table,
        "random": _like(table, rng.normal(size=table.vectors.shape), "random"),
        "shuffled": _like(table, table.vectors[rng.permutation(table.count)], "shuffled"),
    }


def _like(table: EmbeddingTable, vectors: NDArray[Any], version: str) -> EmbeddingTable:
    return EmbeddingTable.from_arrays(table.ids, vectors.astype(np.float32), entity="author", version=version)


def one_hot(ids: NDArray[np.int64], *codes: NDArray[np.int64], entity: str) -> EmbeddingTable:
    """A 1 for each of the codes of an id."""
    parts = [np.eye(int(code.max()) + 1, dtype=np.float32)[code] for code in codes]
    return EmbeddingTable.from_arrays(ids, np.concatenate(parts, axis=1), entity=entity, version="one-hot")


def planted_tasks(seed: int) -> Iterator[Task]:
    """Make the planted collections, of one network and the same authors."""
    world = planted_communities(authors=AUTHORS, communities=len(PRIOR), seed=seed)
    authors = stand_ins(author_vectors(world.follows, seed), seed)
    authors["community"] = one_hot(np.arange(AUTHORS), world.community, entity="author")
    for collection in COLLECTIONS:
        yield planted_task(collection, world, authors, seed)


def planted_task(collection: Collection, world: Communities, authors: Mapping[str, EmbeddingTable], seed: int) -> Task:
    """Make the texts of a collection, encode them, and split them."""
    author = np.random.default_rng([seed, COLLECTIONS.index(collection)]).integers(0, AUTHORS, TEXTS)
    made = planted_texts(collection, author, world.community, seed=seed)
    rows = pd.DataFrame({"text": np.arange(TEXTS), "author": author, "label": made.label, "part": split(author, seed)})
    train, test = (np.flatnonzero(rows["part"] == part) for part in ("train", "test"))
    texts = {}
    for size in SIZES:
        encode = encoder([made.words[row] for row in train], size)
        texts[f"text {size}"] = text_table(dict(enumerate(made.words)), encode, entity="text", version=f"{size}")
    known = ceilings(collection, made, world.community)
    return Task(
        collection.name,
        with_floors(rows, world.follows),
        {**texts, "text": texts[f"text {SIZES[-1]}"], **authors},
        {CEILING: known.text[test], BOTH_CEILING: known.both[test]},
        {"data": "planted: says nothing about real data; made anew by every seed", **_said()},
    )


def review_task(folder: Path, seed: int) -> Task:
    """Ciao's reviews; see the top of this file."""
    reviews, trust = ciao_reviews.load(folder), ciao.load(folder).trust[["source", "target"]]
    rows = pd.DataFrame(
        {
            "text": reviews["category"] * 10 + reviews["rating"],
            "author": reviews["user"],
            "label": (reviews["helpfulness"] >= HELPFUL).astype(int),
            "part": split(reviews["user"].to_numpy(), seed),
        }
    )
    contents = np.unique(rows["text"])
    content = one_hot(contents, contents // 10, contents % 10, entity="text")
    return Task(
        "reviews",
        with_floors(rows, trust),
        {"text": content, **stand_ins(author_vectors(trust, seed), seed)},
        {},
        {"data": "Ciao: helpful reviews by category, stars and who trusts whom", **_said()},
    )


def _said() -> dict[str, str]:
    return {
        "split": "10 % of the authors and of the others' texts are validated on, 20 % and 20 % tested on",
        "author vectors": f"of who follows whom alone, {FOLLOWS.dim} numbers",
        "pr_auc": "average precision",
        "interval": f"95 % over {BOOTSTRAP} resamples of authors, paired",
    }


def probe(task: Task, system: System, seed: int) -> Floats:
    """Fit a linear probe and return the probabilities of the test rows."""
    return _fitted(LinearProbe(features(task, system)), task, replace(PROBE, seed=seed))


def multiply(task: Task, system: System, seed: int) -> Floats:
    """The same of a ranker that takes dot products of text and author."""
    return _fitted(DLRM(features(task, system), dim=16, top=(32,), seed=seed), task, replace(MULTIPLIED, seed=seed))


def features(task: Task, system: System) -> FeatureSpec:
    """What a probe reads, as a spec."""
    pretrained = [Pretrained(column, task.tables[name]) for column, name in system.tables.items()]
    return FeatureSpec(pretrained=pretrained, dense=system.dense, label="label")


def _fitted(ranker: Ranker, task: Task, config: FitConfig) -> Floats:
    fit(ranker, task.part("train"), task.part("valid"), config)
    return ranker.predict(task.part("test"))


def logistic(task: Task, system: System) -> Floats:
    """Scikit-learn's logistic regression on the same numbers: an independent check of the probe."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    spec = features(task, system).fit(task.part("train"))
    arrays, labels = {}, {}
    for part in ("train", "valid", "test"):
        batch = spec.batch(task.part(part))
        vectors = [_vectors(task.tables[name], batch.rows[column]) for column, name in system.tables.items()]
        arrays[part], labels[part] = np.concatenate([*vectors, batch.dense], axis=1), task.part(part)["label"]
    fitted = [
        LogisticRegression(C=penalty, max_iter=1000).fit(arrays["train"], labels["train"]) for penalty in PENALTIES
    ]
    losses = [log_loss(labels["valid"], each.predict_proba(arrays["valid"])[:, 1]) for each in fitted]
    best: Floats = fitted[int(np.argmin(losses))].predict_proba(arrays["test"])[:, 1]
    return best


def _vectors(table: EmbeddingTable, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Vectors in units of their root mean square, zeros for what is unknown."""
    vectors = np.asarray(table.vectors)
    scaled: NDArray[np.float32] = vectors[rows] * (rows >= 0)[:, None] / np.sqrt(np.mean(vectors**2))
    return scaled


def run(task: Task, seed: int) -> Scores:
    """Score the test texts by every system that the task has the tables for."""
    able = {name: of for name, of in SYSTEMS.items() if set(of.tables.values()) <= set(task.tables)}
    scores = {name: probe(task, system, seed) for name, system in able.items()}
    scores |= {f"{name}, scikit-learn": logistic(task, SYSTEMS[name]) for name in (TEXT, AUTHOR)}
    scores |= {name: multiply(task, system, seed) for name, system in MULTIPLYING.items()}
    return {**scores, **task.ceilings}


def measure_task(task: Task, scores: Scores, seed: int) -> list[Result]:
    """Average precision and ROC-AUC of every system and the differences that matter, for all authors and in parts."""
    test, results = task.part("test"), []
    for group, rows in task.segments.items():
        label, author = test["label"].to_numpy()[rows], test["author"].to_numpy()[rows]
        orders = [ScoreOrder.of(label, of[rows]) for of in scores.values()]

        def areas(weight: Floats, orders: Sequence[ScoreOrder] = orders) -> Floats:
            return np.array([order.areas(weight)[::-1] for order in orders])  # (systems, PR and ROC)

        values = areas(np.ones(len(label)))
        drawn = bootstrap_samples(areas, len(label), groups=author, samples=BOOTSTRAP, seed=seed)
        said: dict[str, Any] = {"n": len(label), "seed": seed, "group": group}
        said["protocol"] = {**task.protocol, "share of 1": float(label.mean())}
        of = {name: (values[at], drawn[:, at]) for at, name in enumerate(scores)}
        for name, (value, samples) in of.items():
            results += [Result(name, *each, **said) for each in _intervals(value, samples)]
        for first, second in COMPARED:
            if first in of and second in of:
                (a, many_a), (b, many_b) = of[first], of[second]
                both = [*_intervals(a - b, many_a - many_b)]
                both.append(("gain", *interval(*_gain(a[0], b[0], many_a[:, 0], many_b[:, 0]))))
                results += [Result(f"{first} - {second}", *each, **said) for each in both]
    return results


def _intervals(values: Floats, drawn: Floats) -> list[tuple[str, float, float, float]]:
    return [(metric, *interval(float(values[at]), drawn[:, at])) for at, metric in enumerate(METRICS)]


def _gain(a: float, b: float, many_a: Floats, many_b: Floats) -> tuple[float, Floats]:
    """Percent of ``b`` that ``a`` is above it."""
    return 100.0 * (a - b) / b, 100.0 * (many_a - many_b) / many_b


def measure(*, seeds: Iterable[int], data: Path | None = None, console: Console | None = None) -> Report:
    """Run everything once a seed."""
    results: list[Result] = []
    for seed in seeds:
        tasks = [*planted_tasks(seed), *([review_task(data, seed)] if data else [])]
        for task in tasks:
            results += measure_task(task, run(task, seed), seed)
            if console:
                console.print(f"seed {seed}, {task.name}: done")
    return Report(results)


def tables(report: Report) -> dict[str, list[tuple[str, ...]]]:
    """One table a collection: all authors, then average precision of those known and of those new."""
    names = dict.fromkeys(str(row.group).partition(",")[0] for row in report.results)
    return {name: _joined(report, name) for name in names}


def _joined(report: Report, name: str) -> list[tuple[str, ...]]:
    parts = []
    for segment, metrics in (("", SHOWN), (KNOWN, METRICS[:1]), (NEW, METRICS[:1])):
        group = [row for row in report.results if row.group == name + segment]
        head, *rows = seed_table(replace(report, results=group), metrics)
        parts.append([head if not segment else (head[0], *(cell + segment for cell in head[1:])), *rows])
    return [sum((row[1:] for row in rows[1:]), rows[0]) for rows in zip(*parts, strict=True)]


def plot(report: Report, path: Path) -> None:
    """Bars of average precision in each collection: what authors add for those known and for new ones."""
    from matplotlib.figure import Figure

    rows = report.to_frame()
    rows = rows[(rows["metric"] == "pr_auc") & ~rows["name"].str.contains(" - ")]
    names = [group for group in dict.fromkeys(rows["group"]) if not group.endswith((KNOWN, NEW))]
    figure = Figure(figsize=(5 * len(names), 6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        part = rows[rows["group"] == name].groupby("name", sort=False)["value"].agg(["mean", "std"]).fillna(0.0)[::-1]
        axes.barh(part.index, part["mean"], xerr=part["std"], color="tab:blue", ecolor="0.3")
        axes.set_title(f"{name}: PR-AUC")
    figure.savefig(path, dpi=150)


def main(words: Sequence[str] | None = None) -> Report:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of Ciao's rating.mat and trust.mat")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    add_outputs(parser, "json", "markdown", "plot")
    options = parser.parse_args(words)
    console = Console()
    seeds = range(options.first, options.first + options.seeds)
    report = measure(seeds=seeds, data=options.data, console=console)
    made = tables(report)
    for title, rows in made.items():
        show(console, title, rows, {})
    for key, value in report.results[0].protocol.items():
        if key != "share of 1":
            console.print(f"{key}: {value}")
    save(options, report, *made.values())
    if options.plot:
        plot(report, options.plot)
    return report


if __name__ == "__main__":
    main()
