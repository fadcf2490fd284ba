"""What is lost when vectors become codes?  TwHIN's Fig. 4a and 4b (El-Kishky et al. 2022, 7.1) on public data.

    python examples/compression.py --data FOLDER [--seeds 3] [--part neighbors|ranker|all]
        [--json FILE] [--markdown FILE] [--plot FILE]

FOLDER holds Taobao's ads, as for examples/ads.py, whose rows, network and features these are. Needs the extras demo and
examples. Users (33,932) and ads (24,624) have vectors of 256 numbers, trained once a seed; then the same is asked of
them again and again, each time through other codes:

neighbors   Fig. 4a: of the ten users nearest to a user, and of the ten ads nearest to an ad, how many are still among
            the ten nearest when all are decoded from their codes? Vectors of the first seed.
ranker      Fig. 4b: how well does a ranker of clicks predict that is trained and asked with codes in the model, decoded
            by a codebook lookup? The users' and the ads' vectors are all that the settings differ in. Relative cross
            entropy (RCE) and AUC on the test clicks and four sampled negatives of each.

compression Bytes of the float32 vectors over bytes of codes, codebooks and rotations, all of both tables. A codebook is
            256 * 256 numbers, or M times that where the codec is additive: in tables as small as these it takes as much
            as the codes do, and an additive one far more. In tables of millions the bytes of a row are what counts.
controls    float16; float32 with another seed of the ranker, which shows how much chance there is in one run; codes
            of 16 bytes, dealt out to the wrong users and ads; and no vectors at all. The last two are where a ranker
            stands that gets nothing from vectors: what stays far above them with codes does use what codes say.

Settings were not chosen by this script's figures: those of network and ranker are those of examples/ads.py, but for the
number of dimensions. Differences are from float32, paired by user: means over seeds, with the interval that resampled
users give these means.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ads
import numpy as np
import pandas as pd
from loaders import taobao
from numpy.typing import NDArray
from outputs import add_outputs, save, show
from rich.console import Console

from pretrain import export, train
from recokit import EmbeddingTable, FeatureSpec, Pretrained, Report
from recokit.metrics import ScoreOrder, bootstrap_samples, cross_entropy, interval
from recokit.pq import compression_sweep, quantize
from recokit.rankers import DLRM, fit
from recokit.report import Result, seed_table
from recokit.table import FeatureTable, PQTable
from recokit.table.codes import Codec

Floats = NDArray[np.float64]
Tables = dict[str, FeatureTable]  # by entity type

DIM = 256
ENTITIES = ("user", "ad")
Sizes = Mapping[Codec, tuple[int, ...]]  # bytes of a row
OF_NEIGHBORS: Sizes = {"pq": (128, 64, 32, 16, 8), "opq": (32, 8), "additive": (16, 8, 4, 2)}
OF_RANKERS: Sizes = {"pq": (64, 32, 16, 8), "opq": (16,), "additive": (8, 4, 2)}
TRAIN_ROWS = 16_384  # of the rankers' codebooks, since the rotation of opq takes half a minute of all of them
CONTROL = ("pq", 16)  # whose codes are dealt out to others
WHOLE, AGAIN, HALF, SHUFFLED, NONE = "float32", "float32, other seed", "float16", "shuffled codes", "no vectors"
METRICS = ("rce", "auc")
SHOWN = ("compression", "bytes_per_row", *METRICS)
RECALL = "neighbor_recall@10"
BOOTSTRAP = 200


@dataclass(frozen=True)
class Task:
    """What rankers of one seed train on and are asked.

    Attributes:
        data: Taobao's tables.
        train: Rows with features and labels.
        valid: Those that training stops by.
        test: Those that are predicted.
        tables: Vectors of users and ads.
    """

    data: taobao.TaobaoAds
    train: pd.DataFrame
    valid: pd.DataFrame
    test: pd.DataFrame
    tables: dict[str, EmbeddingTable]


def make_task(data: taobao.TaobaoAds, seed: int) -> Task:
    """Split the clicks as examples/ads.py does, draw negatives from the whole catalog, and train the network."""
    parts = ads.Parts.of(data, seed)
    known = pd.concat([parts.network, parts.train])
    drawn = {
        "train": (parts.train, parts.network, 3 * seed + 1),
        "valid": (parts.valid, known, 3 * seed + 3),
        "test": (parts.test, data.train, 0),
    }
    rows = {
        name: ads.describe(ads.draw(clicks, earlier, data.ads, "uniform", of_draw), data, parts.network)
        for name, (clicks, earlier, of_draw) in drawn.items()
    }
    return Task(data, **rows, tables=vectors(data, parts.network, seed))


def vectors(data: taobao.TaobaoAds, clicks: pd.DataFrame, seed: int) -> dict[str, EmbeddingTable]:
    """Train the network of examples/ads.py with more dimensions, and keep users and ads in memory."""
    model = train(ads.network(data, clicks), replace(ads.CONFIG, dim=DIM, seed=seed))
    with tempfile.TemporaryDirectory() as folder:
        version = export(model, Path(folder) / f"ads-{seed}")
        return {entity: with_vectors(of := version.table(entity), np.array(of.vectors)) for entity in ENTITIES}


def with_vectors(table: EmbeddingTable, numbers: NDArray[Any]) -> EmbeddingTable:
    """The same ids with other vectors."""
    return EmbeddingTable.from_arrays(
        table.ids, numbers, entity=table.entity, version=table.version, comparator=table.comparator
    )


def neighbors(tables: Mapping[str, EmbeddingTable], seed: int) -> list[Result]:
    """Fig. 4a, for every table; the group of a result is the table's entity type."""
    results = []
    for entity, table in tables.items():
        for at, (codec, sizes) in enumerate(OF_NEIGHBORS.items()):
            of_codec = compression_sweep(table, sizes, (codec,), seed=seed, references=at == 0)
            results += [replace(row, group=entity) for row in of_codec.results]
    return results


@dataclass(frozen=True, eq=False)
class Setting:
    """Tables for the ranker, and what they take.

    Attributes:
        name: What it is called.
        tables: By entity type; none where the ranker gets no vectors.
        compression: Of all of them together.
        row_bytes: Bytes of a row, without codebooks.
        other_seed: Whether the ranker starts from another seed.
    """

    name: str
    tables: Tables
    compression: float
    row_bytes: float
    other_seed: bool = False


def settings(tables: dict[str, EmbeddingTable], seed: int) -> Iterator[Setting]:
    """Yield what the rankers get, float32 first."""
    yield Setting(WHOLE, dict(tables), 1.0, 4.0 * DIM)
    yield Setting(AGAIN, dict(tables), 1.0, 4.0 * DIM, other_seed=True)
    halved = {entity: with_vectors(of, of.vectors.astype(np.float16)) for entity, of in tables.items()}
    yield Setting(HALF, dict(halved), 2.0, 2.0 * DIM)
    for codec, sizes in OF_RANKERS.items():
        for size in sizes:
            codes = {
                entity: quantize(of, size, codec=codec, seed=seed, train_rows=TRAIN_ROWS)
                for entity, of in tables.items()
            }
            factor = compression(codes)
            yield Setting(f"{codec} {size} bytes", dict(codes), factor, float(size))
            if (codec, size) == CONTROL:
                wrong = {entity: shuffled(of, seed) for entity, of in codes.items()}
                yield Setting(SHUFFLED, dict(wrong), factor, float(size))
    yield Setting(NONE, {}, np.nan, 0.0)


def compression(codes: Mapping[str, PQTable]) -> float:
    """Bytes of the float32 vectors of all tables over all that their codes need."""
    whole = {entity: 4.0 * of.count * of.dim for entity, of in codes.items()}
    return sum(whole.values()) / sum(whole[entity] / of.compression for entity, of in codes.items())


def shuffled(codes: PQTable, seed: int) -> PQTable:
    """The same codes, each with another's id."""
    order = np.random.default_rng(seed).permutation(codes.count)
    return PQTable.from_arrays(
        codes.ids, codes.codes[order], codes.codebook, entity=codes.entity, version=codes.version, codec=codes.codec,
        comparator=codes.comparator, rotation=codes.rotation,
    )  # fmt: skip


def rank(task: Task, setting: Setting, seed: int) -> Floats:
    """Train a ranker and return the probabilities of the test rows."""
    seed = seed + 1000 if setting.other_seed else seed
    ranker = DLRM(features(task, setting.tables), dim=ads.DIM, seed=seed)
    fit(ranker, task.train, task.valid, replace(ads.FIT, seed=seed))
    return ranker.predict(task.test)


def features(task: Task, tables: Tables) -> FeatureSpec:
    """The baseline of examples/ads.py, and vectors of users and ads."""
    sizes = {name: int(task.data.users[name].nunique()) for name in taobao.PROFILE}
    sizes |= {name: int(task.data.ads[name].nunique()) for name in ("category", "brand", "price")}
    return FeatureSpec(
        pretrained=[Pretrained(entity, table, name=f"{entity}_vector") for entity, table in tables.items()],
        dense=list(ads.COUNTED.values()),
        categorical=sizes,
        label=ads.LABEL,
    )


@dataclass(frozen=True, eq=False)
class Quality:
    """Both metrics of several settings on the same rows; they subtract and have means, resample by resample.

    Attributes:
        values: (settings, metrics).
        drawn: Under resampled users, (samples, settings, metrics).
    """

    values: Floats
    drawn: Floats

    @classmethod
    def of(cls, label: Floats, users: NDArray[np.int64], predictions: Sequence[Floats]) -> "Quality":
        """Measure probabilities (n,) of every setting against labels (n,)."""
        losses = [cross_entropy(label, of) for of in predictions]
        orders = [ScoreOrder.of(label, of) for of in predictions]

        def both(weight: Floats) -> Floats:
            share = float(np.average(label, weights=weight))
            prior = -share * np.log(share) - (1.0 - share) * np.log(1.0 - share)
            rce = [100.0 * (1.0 - np.average(loss, weights=weight) / prior) for loss in losses]
            return np.array([rce, [order.areas(weight)[0] for order in orders]]).T

        drawn = bootstrap_samples(both, len(label), groups=users, samples=BOOTSTRAP)
        return cls(both(np.ones(len(label))), drawn)

    @classmethod
    def mean(cls, runs: Sequence["Quality"]) -> "Quality":
        """The means over runs on the same rows."""
        return cls(*(np.mean([getattr(run, name) for run in runs], axis=0) for name in ("values", "drawn")))


def ranking(data: taobao.TaobaoAds, seeds: Sequence[int], console: Console | None = None) -> list[Result]:
    """Fig. 4b: train and ask a ranker with every setting, once a seed."""
    results: list[Result] = []
    runs: list[Quality] = []
    for seed in seeds:
        task = make_task(data, seed)
        label, users = task.test[ads.LABEL].to_numpy(dtype=np.float64), task.test["user"].to_numpy()
        predictions: dict[str, Floats] = {}
        said: dict[str, Any] = {"seed": seed, "n": len(label), "protocol": protocol(task)}
        for setting in settings(task.tables, seed):
            predictions[setting.name] = rank(task, setting, seed)
            about = {"compression": setting.compression, "bytes_per_row": setting.row_bytes}
            results += [Result(setting.name, metric, value, **said) for metric, value in about.items()]
            if console:
                console.print(f"seed {seed}, {setting.name}: done")
        runs.append(Quality.of(label, users, list(predictions.values())))
        results += [
            Result(name, metric, float(runs[-1].values[row, column]), **said)
            for row, name in enumerate(predictions)
            for column, metric in enumerate(METRICS)
        ]
    return results + differences(Quality.mean(runs), list(predictions), {**said, "seed": None})


def differences(quality: Quality, names: Sequence[str], said: Mapping[str, Any]) -> list[Result]:
    """What every setting but the first loses or wins beside the first."""
    results = []
    for row, name in enumerate(names[1:], start=1):
        values, drawn = (of[..., row, :] - of[..., 0, :] for of in (quality.values, quality.drawn))
        for column, metric in enumerate(METRICS):
            ends = interval(float(values[column]), drawn[:, column])
            results.append(Result(f"{name} - {names[0]}", metric, *ends, **said))
    return results


def protocol(task: Task) -> dict[str, Any]:
    """How rankers are asked, for every result."""
    return {
        "rows": f"{len(task.train):,} to train on, none of the network's; the given test clicks",
        "negatives": f"{ads.RATIO} of each click, from the whole catalog",
        "vectors": f"{DIM} numbers of {len(task.tables['user']):,} users and {len(task.tables['ad']):,} ads",
        "share of clicks": float(task.test[ads.LABEL].mean()),
        "interval": f"95 % over {BOOTSTRAP} resamples of users, of means over seeds",
    }


def tables(report: Report) -> dict[str, list[tuple[str, ...]]]:
    """Tables by title, those of which there is something to show."""
    made = {}
    for entity in ENTITIES:
        if part := [row for row in report.results if row.group == entity]:
            metrics = ("compression", "bytes_per_row", RECALL, "relative_squared_error")
            made[f"{entity}: neighbours"] = seed_table(replace(report, results=part), metrics)
    if part := [row for row in report.results if row.group is None]:
        made["ranker of clicks"] = seed_table(replace(report, results=part), SHOWN)
    return made


def plot(report: Report, path: Path) -> None:
    """Fig. 4a and 4b side by side: a line a codec against the compression factor; dotted are the controls."""
    from matplotlib.figure import Figure

    rows = report.to_frame()
    found = rows.groupby([rows["group"].fillna("ranker"), "name", "metric"], sort=False)["value"].agg(["mean", "std"])
    present = list(found.index.unique(0))
    figure = Figure(figsize=(5.5 * len(present), 4.5), layout="constrained")
    for axes, group in zip(figure.subplots(1, len(present), squeeze=False)[0], present, strict=True):
        part, metric = found.loc[group], RECALL if group in ENTITIES else "rce"
        for codec in OF_RANKERS:
            names = [name for name in part.index.unique(0) if name.startswith(codec) and " - " not in name]
            x, y = (part.loc[[(name, of) for name in names]] for of in ("compression", metric))
            axes.errorbar(
                x["mean"], y["mean"], yerr=y["std"].fillna(0.0).to_numpy(), marker="o", capsize=2, label=codec
            )
        for name, side in ((WHOLE, 1.0), (NONE, 1.0), (SHUFFLED, 0.4)):
            if (name, metric) in part.index:
                height = float(part.loc[(name, metric), "mean"])
                axes.axhline(height, color="0.5", linestyle=":")
                axes.annotate(name, (side, height), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        if metric == RECALL:
            axes.set_ylim(0.0, 1.02)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}x")
        axes.set_xlabel("compression, codebooks and rotations included")
        axes.set_title(f"{group}: {metric}".replace("_", " "))
        axes.legend()
    figure.savefig(path, dpi=150)


def measure(
    data: taobao.TaobaoAds, *, seeds: Sequence[int], part: str = "all", console: Console | None = None
) -> Report:
    """Draw both figures, or one."""
    results: list[Result] = []
    if part != "ranker":
        first = ads.Parts.of(data, seeds[0]).network
        results += neighbors(vectors(data, first, seeds[0]), seeds[0])
        if console:
            console.print("neighbours: done")
    if part != "neighbors":
        results += ranking(data, seeds, console)
    return Report(results)


def main(words: Sequence[str] | None = None) -> Report:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of train.txt, test.txt, u.user and u.item")
    parser.add_argument("--part", choices=("neighbors", "ranker", "all"), default="all")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    add_outputs(parser, "json", "markdown", "plot")
    options = parser.parse_args(words)
    console = Console()
    seeds = range(options.first, options.first + options.seeds)
    report = measure(taobao.load(options.data), seeds=seeds, part=options.part, console=console)
    made = tables(report)
    for title, rows in made.items():
        show(console, title, rows, {})
    for key, value in report.results[-1].protocol.items():
        console.print(f"{key}: {value}")
    save(options, report, *made.values())
    if options.plot:
        plot(report, options.plot)
    return report


if __name__ == "__main__":
    main()
