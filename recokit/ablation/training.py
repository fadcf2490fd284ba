"""Train every set with every seed, score the test rows once each, compare.

Decisions:
- The validation rows choose when training stops. The test rows choose nothing: each run scores them once, at its end.
- Within a seed, all sets see the rows in the same order; across seeds both the order and the initial weights change.
- What a run depends on is written beside its predictions, and a folder of other settings is refused.
- Leaks are looked for once, with all pretrained features and in the test rows too, and stay in the protocol.
"""

__all__ = ["MakeRanker", "ablate", "find_leaks"]

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recokit.ablation.comparison import compare_sets
from recokit.ablation.result import Ablation
from recokit.ablation.runs import Run, RunFolder
from recokit.ablation.sets import always_there, feature_sets
from recokit.errors import ConfigError, closest
from recokit.evaluate.measured import Measured
from recokit.evaluate.scored import Kind, check_rows, metrics_of, score
from recokit.feature_files import features_to_json
from recokit.features import FeatureSpec
from recokit.frame.negatives import SampledNegatives
from recokit.metrics.arrays import at_least_one
from recokit.overlap import LeakCount, LeakWarning

if TYPE_CHECKING:
    from recokit.rankers import FitConfig, Ranker
    from recokit.rankers.rows import Source

MakeRanker: TypeAlias = "Callable[[FeatureSpec, int], Ranker]"
Callback: TypeAlias = Callable[[dict[str, Any]], None]


def ablate(
    features: FeatureSpec,
    sets: Mapping[str, Sequence[str]],
    train: "Source",
    valid: "Source | None",
    test: pd.DataFrame,
    *,
    ranker: "MakeRanker | Mapping[str, MakeRanker]",
    config: "FitConfig | None" = None,
    seeds: Sequence[int] = (0, 1, 2),
    baseline: str = "baseline",
    metrics: Sequence[str] = ("rce",),
    group: str | None = None,
    negatives: SampledNegatives | None = None,
    segments: str | Sequence[str] = (),
    min_rows: int = 100,
    bootstrap: int = 1000,
    folder: str | Path | None = None,
    protocol: Mapping[str, Any] | None = None,
    data: Mapping[str, str] | None = None,
    callback: Callback | None = None,
) -> Ablation:
    """Train a ranker on each set of features with each seed, and compare the sets on the same test rows.

    Args:
        features: The full spec. What no set names is always there.
        sets: The name of a column of the table to the features that it has: ``{"baseline": [], "U": ["user"]}``.
        train: Training rows, as ``fit`` takes them: a frame, or Parquet files that may be larger than memory.
        valid: Validation rows, likewise, which alone decide on early stopping; None for none.
        test: Test rows, scored once a run.
        ranker: Makes a ranker of a spec and a seed; several by name make several rows of the table.
        config: How to train; each run has its own seed in place of ``config.seed``.
        seeds: One run each.
        baseline: The set that the others are compared with.
        metrics: Which, among those of ``evaluate_ranker``: ``rce``, ``auc``, ``map``, ``group_auc``, ...
        group: The column of sessions or users: its metrics are there, and whole groups are resampled. Without it
            ``features.group``, where the test rows have it.
        negatives: What ``fit`` draws for ``train``, which then holds positives alone.
        segments: Columns whose values are compared one by one too.
        min_rows: Values with fewer rows are joined.
        bootstrap: Number of resamples; 0 for no intervals.
        folder: Where finished runs are kept, so that a killed ablation goes on; None keeps none.
        protocol: What only the caller knows, such as the split.
        data: Hashes of the data, for the provenance.
        callback: Is told of every run that begins and ends, ``{"event": "run" | "finished", "run", "number", "of",
            ...}``; of leaks, ``{"event": "leak", "message"}``; and of what ``fit`` says in between.

    Raises:
        ConfigError: A set, a metric or a setting is not one.
        DataError: The rows cannot be read.
        VersionError: ``folder`` holds a run of other settings.

    Warns:
        LeakWarning: Rows are edges that frozen vectors were trained on.
    """
    from recokit.rankers import FitConfig

    specs, columns = feature_sets(features, sets), (segments,) if isinstance(segments, str) else tuple(segments)
    if baseline not in specs:
        raise ConfigError(f"the baseline is the set {baseline!r}; {closest(baseline, specs)}")
    seeds = _seeds(seeds)
    group = features.group if group is None and features.group in test.columns else group
    labels = check_rows(test, features.label, group)
    makers = ranker if isinstance(ranker, Mapping) else {"": ranker}
    kinds: dict[str, Kind] = {name: make(specs[baseline], seeds[0]).predicts for name, make in makers.items()}
    for name, kind in kinds.items():
        _check_metrics(metrics, group, kind, name)
    if bootstrap < 0:
        raise ConfigError(f"bootstrap has to be a number of resamples, or 0 for none, not {bootstrap}")
    parts = partial(
        score,
        test,
        label=features.label or (),
        group=group,
        weight=features.weight,
        segments=columns,
        min_rows=at_least_one(min_rows, "min_rows"),
    )
    for _ in parts(np.zeros((len(test), len(labels)))):
        pass  # rows or segments that cannot be scored are told before anything is trained
    tell = callback or (lambda event: None)
    leaks = find_leaks(features, {"training": train, "validation": valid, "test": test})
    for leak in leaks:
        tell({"event": "leak", "message": leak})
        warnings.warn(leak, LeakWarning, stacklevel=2)
    work = _Work(
        (train, valid, test),
        config or FitConfig(),
        negatives,
        len(labels),
        _identities(features, {"train": train, "valid": valid, "test": test}, negatives),
        RunFolder.at(folder),
        tell,
    )
    measured: dict[tuple[str, str], dict[str | None, list[Measured]]] = {}
    said: dict[str | None, dict[str, Any]] = {}
    planned = [Run(name, chosen, seed) for name in makers for chosen in specs for seed in seeds]
    for number, run in enumerate(planned, start=1):
        predictions = work.predictions(run, makers[run.ranker], specs[run.set], {"number": number, "of": len(planned)})
        for part, scored, added in parts(predictions, kind=kinds[run.ranker]):
            of_set = measured.setdefault((run.ranker, run.set), {})
            of_set.setdefault(part, []).append(scored.measure(bootstrap, metrics))
            if part not in said:
                said[part] = {**scored.protocol(bootstrap), **added, **_selection(valid, leaks), **(protocol or {})}
                if len(set(kinds.values())) > 1:
                    ranking = [name for name, kind in kinds.items() if kind == "scores"]
                    said[part]["predictions"] = f"those of {', '.join(ranking)} are scores: their order alone counts"
    chosen = {name: list(dict.fromkeys(added)) for name, added in sets.items()}
    always = always_there(features, sets)
    return compare_sets(
        measured, sets=chosen, always=always, baseline=baseline, seeds=seeds, protocol=said, leaks=leaks, data=data
    )


def find_leaks(features: FeatureSpec, rows: "Mapping[str, Source | None]") -> list[str]:
    """Say which rows are edges that the tables of ``features`` were trained on: one line for each, none where none is.

    A set with one of two tables is judged by both: its vectors have seen the edge as well.
    """
    from recokit.rankers.rows import open_rows

    tables = [(feature.column, feature.table) for feature in features.pretrained]
    if not any(table.meta.get("edge_sketches") for _, table in tables):
        return []
    columns = list(dict.fromkeys(column for column, _ in tables))
    leaks = []
    for name, source in rows.items():
        if source is None:
            continue
        there = [label for label in features.labels if not isinstance(source, pd.DataFrame) or label in source.columns]
        blocks = open_rows(source, [*columns, *there], held=0, optional=features.labels)
        count = LeakCount(tables, features.labels)
        for block in range(len(blocks.sizes)):
            count.add(blocks.read([block], 0))
        leaks += [f"{name} rows leak through frozen vectors: {leak}" for leak in count.leaks()]
    return leaks


@dataclass(frozen=True, eq=False)
class _Work:
    """What all runs share: rows, how to train, and where finished runs are kept."""

    rows: "tuple[Source, Source | None, pd.DataFrame]"
    config: "FitConfig"
    negatives: SampledNegatives | None
    num_labels: int
    identities: Mapping[str, Any]
    folder: RunFolder
    tell: Callback

    def predictions(
        self, run: Run, make: MakeRanker, features: FeatureSpec, place: Mapping[str, int]
    ) -> NDArray[np.float64]:  # (n,) or (n, T)
        """Return what a run says of the test rows: what is kept of it, or what training it gives."""
        told = {"run": str(run), **place}
        self.tell({"event": "run", **told})
        ranker, config = make(features, run.seed), replace(self.config, seed=run.seed)
        settings = _settings(ranker, features, config, self.identities)
        if self.negatives is not None:
            settings["negatives"] = self.negatives.identity()
        test = self.rows[2]
        shape = (len(test), *([self.num_labels] if self.num_labels > 1 else []))
        kept = self.folder.predictions(run, settings, shape)
        if kept is not None:
            self.tell({"event": "finished", **told, "kept": True})
            return kept
        training = self._fit(ranker, config)
        predicted: NDArray[np.float64] = np.asarray(ranker.predict(test), dtype=np.float64).reshape(shape)
        self.folder.keep(run, settings, training, predicted)
        self.tell({"event": "finished", **told, "kept": False, **training})
        return predicted

    def _fit(self, ranker: "Ranker", config: "FitConfig") -> dict[str, Any]:
        """Train, and return what a run says of it, as JSON takes it."""
        from recokit.rankers import fit

        train, valid, _ = self.rows
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeakWarning)  # has been said, of all runs
            result = fit(ranker, train, valid, config, negatives=self.negatives, callback=self.tell)
        best = {name: None if pd.isna(value) else value for name, value in asdict(result.best).items()}
        return {"best": best, "evaluations": len(result.history), "coverage": result.coverage}


def _settings(
    ranker: "Ranker", features: FeatureSpec, config: "FitConfig", identities: Mapping[str, Any]
) -> dict[str, Any]:
    """All that the predictions of a run depend on."""
    described = features_to_json(features)
    return {
        "features": described["features"],
        "tables": described["tables"],
        "ranker": {"kind": ranker.kind, **ranker.settings},
        "fit": asdict(config),
        "rows": dict(identities),
    }


def _identities(
    features: FeatureSpec, rows: "Mapping[str, Source | None]", negatives: SampledNegatives | None
) -> dict[str, Any]:
    """What tells the rows from others, as JSON takes it; what negatives are drawn for is in the training rows."""
    from recokit.rankers.rows import columns_of, open_rows

    columns = columns_of(features)
    drawn = [] if negatives is None else [negatives.query, negatives.column]
    identities: dict[str, Any] = {}
    for name, source in rows.items():
        wanted = list(dict.fromkeys([*columns, *drawn])) if name == "train" else columns
        identities[name] = open_rows(source, wanted, held=0, optional=wanted).identity() if source is not None else None
    return identities


def _selection(valid: object, leaks: Sequence[str]) -> dict[str, Any]:
    chosen = "early stopping on the validation rows" if valid is not None else "none, all epochs are trained"
    said: dict[str, Any] = {"selection": f"{chosen}; the test rows are scored once, at the end of a run"}
    return said | ({"leak": "; ".join(leaks)} if leaks else {})


def _seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(seeds)
    if not chosen or len(set(chosen)) != len(chosen) or not all(_is_seed(seed) for seed in chosen):
        raise ConfigError(f"seeds are {list(chosen)}, expected different whole numbers of at least 0")
    return tuple(map(int, chosen))


def _is_seed(seed: Any) -> bool:
    return isinstance(seed, int | np.integer) and not isinstance(seed, bool) and int(seed) >= 0


def _check_metrics(metrics: Sequence[str], group: str | None, kind: Kind, ranker: str) -> None:
    known = metrics_of(kind, grouped=group is not None)
    if isinstance(metrics, str) or not metrics:
        raise ConfigError(f"metrics is {metrics!r}, expected a list of some of: {', '.join(known)}")
    for metric in metrics:
        if metric in metrics_of(grouped=True) and metric not in known:
            if metric in metrics_of(grouped=group is not None):
                named = f"ranker {ranker!r}" if ranker else "the ranker"
                raise ConfigError(
                    f"metric {metric!r} is of probabilities, and {named} predicts scores; known: {', '.join(known)}"
                )
            raise ConfigError(f"metric {metric!r} needs groups: name their column by group")
        if metric not in known:
            raise ConfigError(f"there is no metric {metric!r}; {closest(str(metric), known)}")
