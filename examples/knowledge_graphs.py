"""Link prediction on three small knowledge graphs, beside published results, on two cores.

    python examples/knowledge_graphs.py codex-s --data FOLDER   # of CoDEx-S: train.txt, valid.txt, test.txt
    python examples/knowledge_graphs.py umls                    # or kinships; downloaded once, .7 MB
        [--models ComplEx ...] [--seeds 3] [--part valid] [--json FILE] [--markdown FILE]

Every held-out triple is asked for its target and for its source, and the true one is ranked among all entities of the
graph.  Other true answers are left out ("filtered"): those of the training and validation part, and of the test part
for a test; a tie takes the mean rank.  All settings were chosen on ``--part valid``, where the test part is not even
used to filter; the epoch too is the best one there.  UMLS and Kinships take two minutes, CoDEx-S a quarter of an hour,
of which ``--models TransE`` needs three.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from loaders import knowledge_graphs
from loaders.knowledge_graphs import Parts
from outputs import add_outputs, save, show
from rich.console import Console

from pretrain import TrainConfig, evaluate, train
from recokit.report import Report, Result

METRICS = ("mrr", "hits@1", "hits@3", "hits@10")
SECONDS = "train_seconds"

# MRR, hits@1, @3, @10 of the papers: CoDEx (Safavi and Koutra 2020), tuned with LibKGE; ConvE (Dettmers et al. 2018).
PUBLISHED: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "codex-s": {"TransE": (0.354, 0.219, 0.422, 0.634), "ComplEx": (0.465, 0.372, 0.504, 0.646)},
    "umls": {"ConvE": (0.94, 0.92, 0.97, 0.99)},
    "kinships": {"ConvE": (0.83, 0.73, 0.91, 0.98)},
}

# Chosen by the MRR of validation parts: of CoDEx-S, and of UMLS and Kinships for n3. What mattered most for the
# products: an accumulator an element, relations that start at random, a large dimension, N3, and all entities as
# negatives with none left out; for the distances: 500 negatives, of which known edges are left out, and falling rates.
PRODUCT = TrainConfig(
    dim=1024, operator="complex_diagonal", comparator="dot", loss="softmax", temperature=1.0, uniform_negatives="all",
    reciprocal=True, n3=0.02, relation_init="random", init_scale=1e-3, optimizer="adagrad",
    relation_learning_rate=0.1, epochs=15, evaluate_every=3, batch_size=512, precision="auto",
)  # fmt: skip
DISTANCE = TrainConfig(
    dim=128, operator="translation", comparator="l2", loss="softmax", temperature=0.7, uniform_negatives=500,
    filter_positives=True, reciprocal=True, relation_init="random", relation_learning_rate=0.1, schedule="linear",
    epochs=20, evaluate_every=4, batch_size=512, precision="auto",
)  # fmt: skip


def models_of(dataset: str) -> dict[str, TrainConfig]:
    """Return the settings of every model for a data set."""
    product, distance = PRODUCT, DISTANCE
    if dataset != "codex-s":
        product = replace(product, dim=256, batch_size=128, epochs=20, n3=0.005 if dataset == "umls" else 0.02)
        distance = replace(distance, uniform_negatives="all", batch_size=128)
    return {
        "TransE": distance,
        "RotatE": replace(distance, operator="rotation", dim=256),
        "DistMult": replace(product, operator="diagonal", dim=product.dim // 2),
        "ComplEx": product,
    }


def measure(
    parts: Parts, models: Mapping[str, TrainConfig], *, seeds: int, part: str = "test", console: Console | None = None
) -> Report:
    """Train every model ``seeds`` times and rank the triples of a part."""
    report = Report([])
    for name, config in models.items():
        for seed in range(seeds):
            rows = list(_measured(parts, name, replace(config, seed=seed), part))
            report |= Report(rows)
            if console:
                mrr, seconds = rows[0].value, rows[-1].value
                console.print(f"{name}, seed {seed}: MRR {mrr:.4f} after {seconds:.0f} s of training")
    return report


def _measured(parts: Parts, name: str, config: TrainConfig, part: str) -> Iterator[Result]:
    started = time.perf_counter()
    model = train(parts.train, config, validation=parts.valid)
    seconds = time.perf_counter() - started
    held_out, known = (parts.test, [parts.train, parts.valid]) if part == "test" else (parts.valid, [parts.train])
    ranked = evaluate(model, held_out, known=known, k=(1, 3, 10), name=name)
    protocol = ranked.results[0]["protocol"] | {"part": part}
    for metric in METRICS:
        yield Result(name, metric, ranked.value(metric), n=len(ranked.ranks), seed=config.seed, protocol=protocol)
    threads = {"threads": torch.get_num_threads(), "counts": "training with its validations"}
    yield Result(name, SECONDS, seconds, seed=config.seed, protocol=threads)


def summary(report: Report, published: Mapping[str, Sequence[float]]) -> list[tuple[str, ...]]:
    """Head and rows of text: means ± deviations over seeds, then what the papers say."""
    rows = report.to_frame()
    table: list[tuple[str, ...]] = [("", *METRICS, "seconds")]
    for name in rows["name"].unique():
        found = rows[rows["name"] == name].groupby("metric")["value"]
        means, spread = found.mean(), found.std().fillna(0.0)
        values = [f"{means[metric]:.4f} ± {spread[metric]:.4f}" for metric in METRICS]
        table.append((name, *values, f"{means[SECONDS]:.0f}"))
    return table + [(f"{name}, paper", *(f"{value:g}" for value in values), "") for name, values in published.items()]


def main(words: Sequence[str] | None = None) -> Report:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=knowledge_graphs.DATASETS)
    parser.add_argument("--data", type=Path, help="folder of train.txt, valid.txt and test.txt")
    parser.add_argument("--models", nargs="+", choices=tuple(models_of("codex-s")), help="all unless named")
    parser.add_argument("--part", choices=("test", "valid"), default="test")
    parser.add_argument("--seeds", type=int, default=3)
    add_outputs(parser, "json", "markdown")
    options = parser.parse_args(words)
    console = Console()
    parts = knowledge_graphs.load(options.dataset, options.data)
    models = {name: config for name, config in models_of(options.dataset).items() if name in (options.models or [name])}
    report = measure(parts, models, seeds=options.seeds, part=options.part, console=console)
    rows = summary(report, PUBLISHED[options.dataset] if options.part == "test" else {})
    show(console, f"{options.dataset}, {options.part} part", rows, report.results[0].protocol)
    save(options, report, rows)
    return report


if __name__ == "__main__":
    main()
