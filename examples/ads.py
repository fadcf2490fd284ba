"""TwHIN's Table 2 on public data: what are pretrained vectors worth to a model that predicts clicks on ads?

    python examples/ads.py --data FOLDER [--negatives uniform|popular] [--seeds 3] [--part validation]
        [--json FILE] [--markdown FILE] [--plot FILE]

FOLDER holds train.txt, test.txt, u.user and u.item (examples/loaders/taobao.py). Needs the extra demo, and examples for
the plot. El-Kishky et al. (2022, 6.2) add vectors of the user (U), the advertiser (A) and the target (T) to models of
ads and report relative cross entropy (RCE). Here T is the ad; the data name no advertisers, so that A is the ad's brand
and its category. What is measured:

rows        The clicks of each user are split by chance, anew by every seed: NETWORK_SHARE of those in train.txt make
            the network, the others are the ranker's, a tenth of these for validation. test.txt is the test part. No
            pair of user and ad is in two parts, so that the ranker is neither trained nor tested on what its frozen
            vectors have seen.
negatives   There are clicks alone. Each gets RATIO negatives of the same user: ads drawn from the whole catalog
            ("uniform"), or the ads of other clicks of the same part ("popular"), so that positives and negatives are
            equally popular and only who clicks decides. A negative is no click of the user in its own or an earlier
            part (network, ranker, validation, test). Of later parts nothing is known: to leave out a test click would
            tell the ranker of it. (Where a rival trains on the network's rows, these count as the ranker's.) RCE
            depends on all of this; what is drawn for the test part is the same in all runs.
baseline    A DLRM of the eight codes of the profile, of category, brand and price, and of how often ad, category and
            brand were clicked. Clicks are counted in the network's rows, never in those that the ranker is trained on,
            where every positive would count itself.
rivals      What the same clicks do without pretrained vectors: trainable vectors of users and ads ("ids"), from the
            ranker's rows, and from the network's as well; hand-made features of the user's clicks in the network's rows
            ("history": how many in the category, in the brand, ItemKNN's cosines); and all of this together. Rows of
            the network are described by folds, each by the clicks of the others.
floors      Logistic regressions of one or a few scores, fitted on the validation rows: from the popularity of the
            ad; from that of its category and brand among users of the same group; from co-occurrence (ItemKNN's
            cosine); from the network's cosine alone. All but the last count the network's and the ranker's rows.

All rankers stop early on the validation rows. Differences are paired by user: means over seeds, with the interval that
resampled users give these means.
"""

import argparse
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from loaders import taobao
from numpy.typing import NDArray
from outputs import add_outputs, save, show
from rich.console import Console
from scipy import sparse

from pretrain import Graph, Relation, TrainConfig, export, train
from recokit import FeatureSpec, Pretrained, Report
from recokit.evaluate.measured import Measured, mean_of
from recokit.evaluate.scored import score
from recokit.frame import sample_negatives, split_random
from recokit.rankers import DLRM, FitConfig, LeakWarning, fit
from recokit.report import seed_table
from recokit.table import Version

Floats = NDArray[np.float64]

RATIO = 4  # negatives of each click
DISTRIBUTIONS: Mapping[str, Literal["uniform", "popularity"]] = {"uniform": "uniform", "popular": "popularity"}
METRICS = ("rce", "auc", "group_auc", "pr_auc", "calibration")
BOOTSTRAP = 200
LABEL, CLICKS = "clicked", "clicks"

# Chosen on --part validation of seed 0; the grids stand in docs/log.md.
NETWORK_SHARE = 0.8
CONFIG = TrainConfig(
    dim=64, comparator="cos", loss="softmax", temperature=0.25, uniform_negatives=500, epochs=20,
    schedule="linear", init="spectral", precision="auto",
)  # fmt: skip
WEIGHTS = {"has": 1.0, "is": 0.1}  # of relations, by the first part of their names
SIDE_NEGATIVES = 200
DIM = 64
CO_SCALE = 100.0  # of co-occurrence, before its logarithm: most cosines are small
FIT = FitConfig(epochs=10, batch_size=1024, learning_rate=0.003, evaluate_every=50, patience=10)
IDS_LEARNING_RATE = 0.01  # of rankers with trainable vectors of users and ads

COUNTED = {name: f"{name}_clicks" for name in ("ad", "category", "brand")}
HISTORY = ("same_category", "same_brand", "co_occurrence")
VECTORS: Mapping[str, tuple[str, ...]] = {"U": ("user",), "A": ("brand", "category"), "T": ("ad",)}
PAIRED = "paired by user; mean over seeds, taken inside each resample"


@dataclass(frozen=True)
class Parts:
    """Clicks of four parts, columns user and ad: no pair is in two of them."""

    network: pd.DataFrame
    train: pd.DataFrame
    valid: pd.DataFrame
    test: pd.DataFrame

    @classmethod
    def of(cls, data: taobao.TaobaoAds, seed: int) -> "Parts":
        """Split the clicks; see the top of this file."""
        network, rest = taobao.split(data.train, NETWORK_SHARE, seed)
        train_part, valid = split_random(rest, 0.1, seed)
        return cls(network, train_part, valid, data.test)


def draw(clicks: pd.DataFrame, earlier: pd.DataFrame, ads: pd.DataFrame, negatives: str, seed: int) -> pd.DataFrame:
    """Return clicks and their negatives: columns user, those of ``ads``, and the label."""
    return sample_negatives(
        clicks, ads, column="ad", query="user", ratio=RATIO, seed=seed, distribution=DISTRIBUTIONS[negatives],
        exclude=earlier, label=LABEL,
    )  # fmt: skip


def describe(rows: pd.DataFrame, data: taobao.TaobaoAds, counted: pd.DataFrame) -> pd.DataFrame:
    """Add the profile, logarithms of rates, and what the user has clicked, all counted in the clicks ``counted``."""
    clicks = counted.merge(data.ads, on="ad")
    found = rows.merge(data.users, on="user", how="left")
    for name, column in COUNTED.items():
        found[column] = log_rate(found[name], clicks[name])
    for name in ("category", "brand"):
        known = clicks[clicks[name] != taobao.NO_BRAND] if name == "brand" else clicks
        found[f"same_{name}"] = np.log1p(num_clicks(found, known, ["user", name]))
    return found.assign(co_occurrence=np.log1p(CO_SCALE * co_occurrence(found, counted)))


def cross_described(rows: pd.DataFrame, data: taobao.TaobaoAds, parts: Parts) -> pd.DataFrame:
    """Describe the network's rows in folds of about the size of the ranker's part, each by all clicks of the others.

    So a row of the network is described by as many clicks as one of the ranker, and never by its own. The clicks are
    folded, and negatives go with theirs.
    """
    num_folds = max(2, round(len(parts.network) / len(parts.train)))
    fold = np.random.default_rng(0).permutation(len(parts.network)) % num_folds
    of_row = np.repeat(fold, RATIO + 1)
    found = [
        describe(rows[of_row == number], data, pd.concat([parts.network[fold != number], parts.train]))
        for number in range(num_folds)
    ]
    return pd.concat(found, ignore_index=True)


def log_rate(values: pd.Series, clicked: pd.Series) -> Floats:
    """Return the logarithm of the share of clicks that each value has, as if there were one more of every value."""
    counts = clicked.value_counts()
    known = np.asarray(counts.reindex(values).fillna(0), dtype=np.float64)
    return np.asarray(np.log((known + 1.0) / (len(clicked) + len(counts))))


def num_clicks(rows: pd.DataFrame, clicks: pd.DataFrame, on: list[str]) -> Floats:
    """Count the clicks that agree with each row in the columns ``on``."""
    counts = clicks.groupby(on).size()
    return np.asarray(counts.reindex(pd.MultiIndex.from_frame(rows[on])).fillna(0), dtype=np.float64)


def co_occurrence(rows: pd.DataFrame, clicks: pd.DataFrame) -> Floats:
    """Sum the cosines of the row's ad with the ads that its user has clicked, as ItemKNN with all neighbours does.

    Rows are none of ``clicks``, so that no ad is its own neighbour.
    """
    shape = (int(max(rows["user"].max(), clicks["user"].max())) + 1, int(max(rows["ad"].max(), clicks["ad"].max())) + 1)
    matrix = sparse.csr_matrix((np.ones(len(clicks)), (clicks["user"], clicks["ad"])), shape)
    lengths = np.sqrt(np.maximum(np.asarray(matrix.sum(axis=0)).ravel(), 1.0))
    units = matrix @ sparse.diags(1.0 / lengths)
    scores = (matrix @ (units.T @ units)).tocsr()
    return np.asarray(scores[rows["user"].to_numpy(), rows["ad"].to_numpy()], dtype=np.float64).ravel()


def network(data: taobao.TaobaoAds, clicks: pd.DataFrame) -> Graph:
    """The network of some clicks, and of what ads have and users are: the brand 0 ties nothing together."""
    with_brand = data.ads[data.ads["brand"] != taobao.NO_BRAND]
    of_ads = {("has", "ad", "category"): data.ads, ("has", "ad", "brand"): with_brand}
    of_users = {("is", "user", code): data.users for code in taobao.PROFILE}
    frames = {CLICKS: clicks.set_axis(["source", "target"], axis=1)}
    relations = [Relation(CLICKS, "user", "ad", sides="target")]
    for (verb, source, target), frame in (of_ads | of_users).items():
        name, weight = f"{verb}_{target}", WEIGHTS[verb]
        frames[name] = frame[[source, target]].set_axis(["source", "target"], axis=1)
        relations.append(Relation(name, source, target, weight=weight, uniform_negatives=SIDE_NEGATIVES))
    return Graph.from_frames(frames, relations)


def publish(data: taobao.TaobaoAds, parts: Parts, seed: int, folder: Path) -> Version:
    """Train the network of its rows and export it."""
    model = train(network(data, parts.network), replace(CONFIG, seed=seed))
    said = {"data": "Taobao ads", "split": f"{NETWORK_SHARE:.0%} of each user's clicks in train.txt, seed {seed}"}
    return export(model, folder / f"ads-{seed}", meta=said)


@dataclass(frozen=True)
class Task:
    """What one seed trains on and is asked.

    Attributes:
        data: The tables.
        parts: Clicks of all parts.
        train: The ranker's rows, as ``describe`` has them by the network's clicks.
        valid: Rows for validation, likewise.
        test: The rows to be predicted, likewise.
        rival: The network's rows, as ``cross_described`` has them.
        version: The network's vectors.
    """

    data: taobao.TaobaoAds
    parts: Parts
    train: pd.DataFrame
    valid: pd.DataFrame
    test: pd.DataFrame
    rival: pd.DataFrame
    version: Version

    @property
    def known(self) -> pd.DataFrame:
        """The clicks that floors count."""
        return pd.concat([self.parts.network, self.parts.train])


def make_task(data: taobao.TaobaoAds, negatives: str, seed: int, part: str, folder: Path) -> Task:
    """Split, draw and train the network; with the part "validation" its rows stand for those of the test."""
    parts = Parts.of(data, seed)
    known = pd.concat([parts.network, parts.train])
    # (seed, number) are the seeds of what is drawn: one draw a part, and the test part's the same for all seeds.
    sampled = partial(draw, ads=data.ads, negatives=negatives)
    described = partial(describe, data=data, counted=parts.network)
    valid = described(sampled(parts.valid, known, seed=3 * seed + 3))
    return Task(
        data=data,
        parts=parts,
        train=described(sampled(parts.train, parts.network, seed=3 * seed + 1)),
        valid=valid,
        test=valid if part == "validation" else described(sampled(parts.test, data.train, seed=0)),
        rival=cross_described(sampled(parts.network, parts.train, seed=3 * seed + 2), data, parts),
        version=publish(data, parts, seed, folder),
    )


@dataclass(frozen=True)
class System:
    """What a ranker gets beside the baseline's features.

    Attributes:
        vectors: Keys of ``VECTORS``.
        ids: Trainable vectors of users and ads.
        history: The hand-made features ``HISTORY``.
        rival: The network's rows to train on, beside the ranker's own.
    """

    vectors: str = ""
    ids: bool = False
    history: bool = False
    rival: bool = False

    def features(self, task: Task) -> FeatureSpec:
        """The spec, with vectors from the task's version."""
        names = [name for key in self.vectors for name in VECTORS[key]]
        sizes = {name: int(task.data.users[name].nunique()) for name in taobao.PROFILE}
        sizes |= {name: int(task.data.ads[name].nunique()) for name in ("category", "brand", "price")}
        if self.ids:
            sizes |= {"user": len(task.data.users), "ad": len(task.data.ads)}
        return FeatureSpec(
            pretrained=[Pretrained(name, task.version.table(name), name=f"{name}_vector") for name in names],
            dense=[*COUNTED.values(), *(HISTORY if self.history else ())],
            categorical=sizes,
            label=LABEL,
        )


SYSTEMS: Mapping[str, System] = {
    "baseline": System(),
    "U": System("U"),
    "U+A": System("UA"),
    "U+T": System("UT"),
    "U+A+T": System("UAT"),
    "ids": System(ids=True),
    "ids, network's rows too": System(ids=True, rival=True),
    "history": System(history=True),
    "ids, history, network's rows too": System(ids=True, history=True, rival=True),
    "U+A+T, ids": System("UAT", ids=True),
    "U+A+T, history": System("UAT", history=True),
}
PAIRS = (
    *((name, "baseline") for name in ("U", "U+A", "U+T", "U+A+T")),
    ("U+A+T", "U+T"),
    ("U+A+T", "ids"),
    ("U+A+T", "ids, network's rows too"),
    ("U+A+T", "history"),
    ("U+A+T, history", "ids, history, network's rows too"),
    ("U+A+T, ids", "ids"),
    ("U+A+T, history", "history"),
    ("U+A+T", "floor: all of these"),
)


def rank(task: Task, system: System, seed: int) -> Floats:
    """Train a ranker, stopped by the validation rows, and predict the test rows."""
    rows = pd.concat([task.rival, task.train], ignore_index=True) if system.rival else task.train
    ranker = DLRM(system.features(task), dim=DIM, seed=seed)
    config = replace(FIT, seed=seed, learning_rate=IDS_LEARNING_RATE if system.ids else FIT.learning_rate)
    with warnings.catch_warnings():
        # Most rows have a brand and a category that the network knows the ad to be of. That is no click.
        warnings.filterwarnings("ignore", message=r".*'has_(brand|category)' edges", category=LeakWarning)
        fit(ranker, rows, task.valid, config)
    return ranker.predict(task.test)


def floors(task: Task) -> Iterator[tuple[str, Floats]]:
    """Yield what a few scores give that are calibrated on the validation rows."""
    valid, test = (floor_scores(rows, task) for rows in (task.valid, task.test))
    labels = task.valid[LABEL].to_numpy(dtype=np.float64)
    popularity = ["ad_clicks"]
    groups = [*popularity, "group_category", "group_brand"]
    history = [*popularity, "same_category", "same_brand"]
    chosen = {
        "popularity": popularity,
        "popularity in the group": groups,
        "own categories and brands": history,
        "co-occurrence": [*popularity, "co_occurrence", "co_occurs"],
        "all of these": [*groups, *history[1:], "co_occurrence", "co_occurs"],
        "cosine of the network": [*popularity, "cosine"],
    }
    for name, columns in chosen.items():
        yield f"floor: {name}", logistic_regression(valid[columns], labels, test[columns])


def floor_scores(rows: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return the rows by all known clicks, with how much more often groups click categories and brands than others."""
    counted = task.known
    plain = rows[["user", *task.data.ads.columns]]
    found = describe(plain, task.data, counted)
    clicks = counted.merge(task.data.ads, on="ad").merge(task.data.users, on="user")
    for name in ("category", "brand"):
        of_all = log_rate(found[name], clicks[name])
        expected = np.exp(of_all) * num_clicks(found, clicks, ["group"])
        found[f"group_{name}"] = np.log((num_clicks(found, clicks, ["group", name]) + 1.0) / (expected + 1.0))
    return found.assign(co_occurs=found["co_occurrence"] > 0, cosine=cosine(rows, task.version))


def cosine(rows: pd.DataFrame, version: Version) -> Floats:
    """Compare user and ad as the network does, which knows all of them by their profiles and categories."""
    users, ads = version.table("user"), version.table("ad")
    ends = []
    for table, ids in ((users, rows["user"]), (ads, rows["ad"])):
        vectors = table.vectors[table.rows(ids)]
        ends.append(version.relations[CLICKS].apply(vectors) if table is users else vectors)
    lengths = np.prod([np.linalg.norm(end, axis=1) for end in ends], axis=0)
    return np.asarray(np.einsum("nd,nd->n", *ends) / np.maximum(lengths, 1e-9), dtype=np.float64)


def logistic_regression(scores: pd.DataFrame, labels: Floats, asked: pd.DataFrame) -> Floats:
    """Fit labels to scores and their squares by Newton's method, and return the probabilities of what is asked."""
    x, new = (frame.to_numpy(dtype=np.float64) for frame in (scores, asked))
    mean, spread = x.mean(axis=0), x.std(axis=0)
    x, new = ((each - mean) / np.where(spread > 0, spread, 1.0) for each in (x, new))
    x, new = (np.column_stack([np.ones(len(each)), each, each**2]) for each in (x, new))
    weights = np.zeros(x.shape[1])
    damping = 1e-3 * np.eye(len(weights))  # the square of a 0/1 score is no news
    for _ in range(30):
        p = 1.0 / (1.0 + np.exp(-x @ weights))
        weights += np.linalg.solve((x.T * (p * (1.0 - p))) @ x + damping, x.T @ (labels - p))
    return np.asarray(1.0 / (1.0 + np.exp(-new @ weights)))


def systems(task: Task, seed: int) -> Iterator[tuple[str, Floats]]:
    """Yield the name and the predictions of all floors and rankers."""
    yield from floors(task)
    for name, system in SYSTEMS.items():
        yield name, rank(task, system, seed)


def measure(
    data: taobao.TaobaoAds, *, negatives: str, seeds: int, part: str = "test", console: Console | None = None
) -> Report:
    """Train and predict once a seed; report every seed, and the means over seeds of paired differences."""
    report, measured, protocol = Report([]), dict[str, list[Measured]](), {}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            task = make_task(data, negatives, seed, part, Path(folder))
            for name, predicted in systems(task, seed):
                ((_, scored, _),) = score(task.test, predicted, label=LABEL, group="user", weight=None)
                found = scored.measure(BOOTSTRAP, METRICS)
                measured.setdefault(name, []).append(found)
                protocol = {**scored.protocol(BOOTSTRAP), **said(negatives, part)}
                report.results += found.results(name, protocol=protocol, seed=seed)
                if console:
                    figures = zip(METRICS, found.values, strict=True)
                    console.print(f"seed {seed}, {name}: " + ", ".join(f"{m} {value:.4f}" for m, value in figures))
    for a, b in PAIRS:
        difference = mean_of([x - y for x, y in zip(measured[a], measured[b], strict=True)])
        report.results += difference.results(f"{a} - {b}", protocol={**protocol, "difference": PAIRED}, seed=None)
    return report


def said(negatives: str, part: str) -> dict[str, str]:
    """Say in the protocol what the rows are."""
    drawn = {"uniform": "uniform over all ads", "popular": "ads of other clicks of the same part"}[negatives]
    return {
        "split": f"each user's clicks: {NETWORK_SHARE:.0%} network, the rest ranker and validation; {part} part",
        "negatives": f"{RATIO} of each click, {drawn}, never a click of the user in the same or an earlier part",
    }


def plot(report: Report, path: Path) -> None:
    """Bars of RCE and of the AUC within users; the lines on them are deviations over seeds."""
    from matplotlib.figure import Figure

    rows = report.to_frame()
    rows = rows[~rows["name"].str.contains(" - ", regex=False)]
    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("rce", "group_auc"), strict=True):
        found = rows[rows["metric"] == metric].groupby("name", sort=False)["value"].agg(["mean", "std"])[::-1]
        colors = ["0.7" if name not in SYSTEMS else "tab:orange" if "U" in name else "tab:blue" for name in found.index]
        axes.barh(found.index, found["mean"], xerr=found["std"].fillna(0.0), color=colors, ecolor="0.2")
        axes.set_title(metric)
    axes.set_xlim(left=0.5)
    figure.savefig(path, dpi=150)


def main(words: Sequence[str] | None = None) -> Report:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the four files")
    parser.add_argument("--negatives", choices=tuple(DISTRIBUTIONS), default="uniform")
    parser.add_argument("--part", choices=("test", "validation"), default="test", help="validation: of one seed")
    parser.add_argument("--seeds", type=int, default=3)
    add_outputs(parser, "json", "markdown", "plot")
    options = parser.parse_args(words)
    console = Console()
    report = measure(
        taobao.load(options.data),
        negatives=options.negatives,
        seeds=options.seeds if options.part == "test" else 1,  # every seed has validation rows of its own
        part=options.part,
        console=console,
    )
    rows = seed_table(report, METRICS)
    title = f"Taobao ads, {options.negatives} negatives, {options.part} part"
    show(console, title, rows, {**report.results[0].protocol, "difference": PAIRED})
    save(options, report, rows)
    if options.plot:
        plot(report, options.plot)
    return report


if __name__ == "__main__":
    main()
