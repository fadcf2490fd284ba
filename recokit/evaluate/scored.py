"""Predictions beside labels, as the units of an evaluation: metrics of them, of segments, under resamples.

Three kinds of predictions: ``probabilities``; ``logits``, whose losses need no clipping; and ``scores``, which only
rank, so that AUC, PR-AUC and MAP are all that is said of them.

Shapes: n rows, G groups, M metrics, T labels.
"""

__all__ = ["BINS", "Kind", "Scored", "check_rows", "metrics_of", "score", "segment_rows"]

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, xlogy

from recokit.errors import ConfigError, DataError, closest
from recokit.evaluate.measured import Measured, measure, said_of_intervals
from recokit.metrics import GroupAUC, Rankings, ScoreOrder, average_precision_at_k, cross_entropy, group_auc
from recokit.metrics.arrays import Floats, Ints, as_labels, as_pairs, as_scores, as_weight, at_least_one

Kind = Literal["probabilities", "logits", "scores"]

BINS = 10  # of the calibration error


@dataclass(frozen=True, eq=False)
class _Grouped:
    """Values within groups, and where to read the multiplicity of a group: at one of its rows."""

    column: str
    code: Ints  # (n,)
    auc: GroupAUC
    auc_row: Ints
    average_precision: Floats
    average_precision_row: Ints
    without_positives: int

    METRICS = ("group_auc", "group_auc[positives]", "group_auc[impressions]", "map")

    @classmethod
    def of(cls, label: Floats, score: Floats, groups: "pd.Series[Any]") -> "_Grouped":
        code = pd.factorize(groups)[0].astype(np.int64)
        row = np.zeros(int(code.max()) + 1, dtype=np.int64)
        row[code] = np.arange(len(code))
        auc = group_auc(label, score, code)
        lists = Rankings.from_scores(label, score, code)
        values = average_precision_at_k(lists)
        return cls(str(groups.name), code, auc, row[auc.groups], values, row[lists.queries], lists.skipped)

    def __call__(self, multiplicity: Floats) -> dict[str, float]:
        times = multiplicity[self.auc_row]
        means = [
            _average(self.auc.values, times * self.auc.weights(by)) for by in ("uniform", "positives", "impressions")
        ]
        precision = _average(self.average_precision, multiplicity[self.average_precision_row])
        return dict(zip(self.METRICS, (*means, precision), strict=True))

    def count(self, metric: str) -> int:
        return len(self.average_precision if metric == "map" else self.auc.values)


@dataclass(frozen=True, eq=False)
class Scored:
    """Predictions for one label: ``values`` gives metrics under the multiplicities of rows.

    Attributes:
        label: 0 or 1, (n,).
        score: What was predicted, (n,); higher is better.
        probability: The same as probabilities, (n,), or None for scores that are none.
        weight: Of rows, (n,).
        loss: Cross entropy of each row, (n,), or None for scores.
        order: The rows by score.
        groups: What there is within groups, or None without them.
    """

    label: Floats
    score: Floats
    probability: Floats | None
    weight: Floats
    loss: Floats | None
    order: ScoreOrder
    groups: _Grouped | None

    ENTROPIES = ("rce", "ne", "log_loss", "calibration")
    AREAS = ("auc", "pr_auc")

    @classmethod
    def of(
        cls, label: Floats, score: Floats, weight: Floats, groups: "pd.Series[Any] | None", kind: Kind = "probabilities"
    ) -> "Scored":
        """Prepare predictions (n,) for a label (n,).

        Rows and groups keep their order, so that a resample is the same one for every ranker of the same rows.
        """
        _check_range(score, kind)
        grouped = None if groups is None else _Grouped.of(label, score, groups)
        loss = None if kind == "scores" else cross_entropy(label, score, logits=kind == "logits")
        probability = {"probabilities": score, "logits": expit(score), "scores": None}[kind]
        return cls(label, score, probability, weight, loss, ScoreOrder.of(label, score), grouped)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what ``values`` can give, in the order of a report."""
        return metrics_of("scores" if self.loss is None else "probabilities", grouped=self.groups is not None)

    def values(self, metrics: Sequence[str], multiplicity: Floats) -> Floats:
        """Return metrics, (M,), of rows that count as often as ``multiplicity`` (n,) says."""
        w = self.weight * multiplicity
        found: dict[str, float] = {}
        if not set(metrics).isdisjoint(self.ENTROPIES):
            found |= self._entropies(w)
        if not set(metrics).isdisjoint(self.AREAS):
            found |= zip(self.AREAS, self.order.areas(w), strict=True)
        if self.groups and not set(metrics).isdisjoint(self.groups.METRICS):
            found |= self.groups(multiplicity)
        return np.array([found[metric] for metric in metrics])

    def measure(self, samples: int, metrics: Sequence[str] | None = None) -> Measured:
        """Return metrics, all by default, with their values under resamples of rows, or of groups where there are."""
        wanted = self.metrics if metrics is None else tuple(metrics)
        for metric in wanted:
            if metric not in self.metrics:
                raise ConfigError(
                    f"there is no metric {metric!r} of these predictions; {closest(metric, self.metrics)}"
                )
        counts = [
            self.groups.count(metric) if self.groups and metric in self.groups.METRICS else len(self.label)
            for metric in wanted
        ]
        return measure(
            partial(self.values, wanted),
            len(self.label),
            metrics=wanted,
            counts=counts,
            samples=samples,
            groups=self.groups.code if self.groups else None,
        )

    def calibration_error(self) -> float:
        """Expected calibration error (Naeini et al. 2015): ``sum over bins of |sum w p - sum w y| / sum w``.

        Bins are tenths of the rows by prediction, where equal predictions share one. Resampled rows always make it
        larger, so that it has no bootstrap interval. NaN of scores that are no probabilities.
        """
        if self.probability is None:
            return float("nan")
        edges = np.unique(np.quantile(self.probability, np.linspace(0.0, 1.0, BINS + 1)))
        code = np.searchsorted(edges[1:-1], self.probability, side="right")
        excess = np.bincount(code, weights=self.weight * (self.probability - self.label))
        total = self.weight.sum()
        return float(np.abs(excess).sum() / total) if total > 0.0 else float("nan")

    def protocol(self, samples: int) -> dict[str, Any]:
        """Say how these predictions are measured."""
        prior = _average(self.label, self.weight)
        said: dict[str, Any] = {
            "prior": None if np.isnan(prior) else prior,  # no row weighs anything
            "reference": "prior of the evaluated rows",
            "weight": "none" if (self.weight == 1.0).all() else "by column",
            "ties": "half in AUC, one threshold in PR-AUC, expected value in MAP",
            "interval": said_of_intervals("groups" if self.groups else "rows", samples),
        }
        if self.loss is None:
            said["predictions"] = "scores that are no probabilities: their order alone counts"
        if self.groups:
            said["group"] = self.groups.column
            said["groups_without_both_classes"] = self.groups.auc.skipped
            said["groups_without_positives"] = self.groups.without_positives
        return said

    def _entropies(self, w: Floats) -> dict[str, float]:
        if self.loss is None or self.probability is None:
            return {}
        loss, share, predicted = (_average(x, w) for x in (self.loss, self.label, self.probability))
        prior = float(-xlogy(share, share) - xlogy(1.0 - share, 1.0 - share))
        ne = loss / prior if 0.0 < share < 1.0 else float("nan")
        calibration = predicted / share if share > 0.0 else float("nan")
        return {"rce": 100.0 * (1.0 - ne), "ne": ne, "log_loss": loss, "calibration": calibration}


def metrics_of(kind: Kind = "probabilities", *, grouped: bool) -> tuple[str, ...]:
    """Return the metrics that there are of a kind of predictions, in the order of a report."""
    pooled = Scored.AREAS if kind == "scores" else ("rce", "ne", "log_loss", *Scored.AREAS, "calibration")
    return pooled + (_Grouped.METRICS if grouped else ())


def score(
    frame: pd.DataFrame,
    predictions: npt.NDArray[np.floating],
    *,
    label: str | Sequence[str],
    group: str | None,
    weight: str | None,
    kind: Kind = "probabilities",
    segments: Sequence[str] = (),
    min_rows: int = 100,
) -> Iterator[tuple[str | None, Scored, dict[str, Any]]]:
    """Yield what is to be evaluated: all rows for each label, then each segment of them.

    Args:
        frame: The n rows.
        predictions: (n,) or (n, T).
        label: The label column, or T of them.
        group: Column of groups.
        weight: Column of weights; one that the frame lacks is none.
        kind: Of predictions.
        segments: Columns whose values part the rows.
        min_rows: Values with fewer rows are joined.

    Yields:
        The name of the part (None for all rows of a label that is no list), its predictions, and what protocols add.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"unknown kind of predictions {kind!r}; {closest(str(kind), get_args(Kind))}")
    labels = check_rows(frame, label, group)
    columns = _columns(predictions, len(frame), labels)
    weights = _weights(frame, weight)
    groups = frame[group] if group else None
    parts = [part for column in dict.fromkeys(segments) for part in segment_rows(frame, column, min_rows)]
    for name_of_label, values in zip(labels, columns.T, strict=True):
        truth, scored = as_labels(frame[name_of_label]), as_scores(values, len(frame))
        whole = None if isinstance(label, str) else name_of_label
        yield whole, Scored.of(truth, scored, weights, groups, kind), {}
        for name, rows, said in parts:
            within = None if groups is None else groups.iloc[rows]
            part = Scored.of(truth[rows], scored[rows], weights[rows], within, kind)
            one_class = (
                {} if np.ptp(part.label) else {"labels": f"all {part.label[0]:g}, so most metrics have no value"}
            )
            yield name if whole is None else f"{whole}, {name}", part, {"segment": name, **said, **one_class}


def check_rows(frame: pd.DataFrame, label: str | Sequence[str] | None, group: str | None) -> tuple[str, ...]:
    """Return the label columns, if there are some, and rows that have them and the group."""
    labels = (label,) if isinstance(label, str) else tuple(label or ())
    if not labels:
        raise ConfigError("the ranker's features name no label: there is nothing to evaluate against")
    as_pairs(frame, "the frame", [*labels, *([group] if group else [])])
    if not len(frame):
        raise DataError("the frame has no rows: there is nothing to evaluate")
    return labels


def segment_rows(frame: pd.DataFrame, column: str, min_rows: int) -> list[tuple[str, Ints, dict[str, str]]]:
    """Part the rows by a column's values: the name ``column=value``, the rows, and what a protocol says.

    Largest first. Values with fewer than ``min_rows`` rows are joined as ``(other)``, which comes last, whatever its
    size; missing values are ``(missing)``.

    Raises:
        DataError: The frame lacks the column, it holds lists, or two segments would have the same name.
    """
    if column not in frame.columns:
        raise DataError(f"segments by column {column!r}, which the frame lacks; {closest(column, map(str, frame))}")
    try:
        code, values = pd.factorize(frame[column], use_na_sentinel=False)
    except TypeError as error:
        raise DataError(f"segments by column {column!r}, whose values are no single ones: {error}") from error
    names = ["(missing)" if missing else str(value) for value, missing in zip(values, pd.isna(values), strict=True)]
    size = np.bincount(code, minlength=len(names))
    rare = size < at_least_one(min_rows, "min_rows")
    rows = np.split(np.argsort(code, kind="stable"), np.cumsum(size)[:-1])  # of each value, in the frame's order
    kept = sorted(np.flatnonzero(~rare), key=lambda at: (-size[at], names[at]))
    parts: list[tuple[str, Ints, dict[str, str]]] = [(f"{column}={names[at]}", rows[at], {}) for at in kept]
    if rare.any():
        joined = np.flatnonzero(rare[code])
        said = f"{rare.sum()} of {len(names)} values, with fewer than {min_rows} rows each, {len(joined)} together"
        parts.append((f"{column}=(other)", joined, {"other": said}))
    _refuse_twins(column, [name for name, _, _ in parts])
    return parts


def _refuse_twins(column: str, names: Sequence[str]) -> None:
    """Refuse segments that a report could not tell apart, such as those of 1 and "1"."""
    twins = [name for name, times in Counter(names).items() if times > 1]
    if twins:
        raise DataError(
            f"segments by column {column!r}: two of its values would both be called {twins[0]!r}; expected values that "
            "differ as text, and none that is '(missing)' or '(other)' beside such rows"
        )


def _columns(predictions: npt.NDArray[np.floating], n: int, labels: Sequence[str]) -> Floats:  # (n, T)
    predicted = np.asarray(predictions, dtype=np.float64)
    columns = predicted[:, None] if predicted.ndim == 1 else predicted
    if columns.shape != (n, len(labels)):
        raise DataError(f"the predictions have the shape {predicted.shape} for {n} rows and the labels {list(labels)}")
    return columns


def _check_range(score: Floats, kind: Kind) -> None:
    outside = (score < 0.0) | (score > 1.0)
    if kind == "probabilities" and outside.any():
        raise DataError(
            f"predictions have to be probabilities; {int(outside.sum())} of {len(score)} lie outside [0, 1], the first "
            f"is {score[outside.argmax()]}: logits, or scores that only rank, are evaluated by "
            "evaluate_predictions(..., kind='logits' or 'scores')"
        )


def _weights(frame: pd.DataFrame, column: str | None) -> Floats:
    weight = as_weight(frame[column] if column in frame.columns else None, len(frame))
    if not weight.sum() > 0.0:
        raise DataError(f"the weights in column {column!r} sum to 0")
    return weight


def _average(values: Floats, weight: Floats) -> float:
    total = weight.sum()
    return float(np.einsum("i,i", values, weight) / total) if total > 0.0 else float("nan")
