"""Rankers against labels: any object with ``predict(frame)`` and ``features.label``; no library is imported for it.

Shapes: n rows, G groups, M metrics.
"""

__all__ = ["Ranker", "compare_rankers", "evaluate_ranker"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import xlogy

from recokit.errors import ConfigError, DataError
from recokit.evaluate.measured import Measured, measure, said_of_intervals
from recokit.metrics import GroupAUC, Rankings, ScoreOrder, average_precision_at_k, cross_entropy, group_auc
from recokit.metrics.arrays import Floats, Ints, as_labels, as_pairs, as_predictions, as_weight
from recokit.report import Report, gather_provenance


class Ranker(Protocol):
    """What is asked of a ranker: any model, in any library."""

    @property
    def features(self) -> Any:
        """Has ``label``, the column of labels or several; ``group`` and ``weight`` name columns where they exist."""

    def predict(self, frame: pd.DataFrame) -> npt.NDArray[np.floating]:
        """Return probabilities, (rows,) or (rows, labels)."""


def evaluate_ranker(
    ranker: Ranker,
    frame: pd.DataFrame,
    *,
    group: str | None = None,
    name: str = "ranker",
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    bootstrap: int = 1000,
    data: Mapping[str, str] | None = None,
) -> Report:
    """Evaluate probabilities: RCE, NE, log loss, ROC-AUC, PR-AUC, calibration; with groups, AUC and MAP in them.

    Each label column is evaluated by itself, against its own prior; where there are several, ``Result.group`` names
    it. Rows weigh what the column ``features.weight`` says, where the frame has it; groups do not.

    Args:
        ranker: ``predict(frame)`` gives probabilities, ``features.label`` the label column or columns.
        frame: Rows with features and labels.
        group: Column of the user or session: AUC and MAP within groups are reported, and whole groups are resampled.
            Without it ``features.group``, where the frame has it.
        name: Of the ranker, in the report.
        protocol: What only the caller knows, such as the split.
        seed: Seed of the training run.
        bootstrap: Number of resamples of groups, or of rows where there are none.
        data: Hashes of the data, for the provenance.
    """
    results = []
    for label, scored in _score(ranker, frame, group).items():
        said = {**scored.protocol(bootstrap), **(protocol or {})}
        part = None if isinstance(ranker.features.label, str) else label
        results += scored.measure(bootstrap).results(name, protocol=said, seed=seed, group=part)
    return Report(results, gather_provenance(data))


def compare_rankers(
    a: Ranker,
    b: Ranker,
    frame: pd.DataFrame,
    *,
    group: str | None = None,
    names: tuple[str, str] = ("a", "b"),
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    bootstrap: int = 1000,
    data: Mapping[str, str] | None = None,
) -> Report:
    """Differences ``a - b`` of the metrics of ``evaluate_ranker``, on the same rows and resamples."""
    first, second = _score(a, frame, group), _score(b, frame, group)
    if first.keys() != second.keys():
        raise DataError(f"rankers of the same labels can be compared, not of {list(first)} and {list(second)}")
    results = []
    for label, scored in first.items():
        difference = scored.measure(bootstrap) - second[label].measure(bootstrap)
        said = {**scored.protocol(bootstrap), "difference": "paired", **(protocol or {})}
        part = None if isinstance(a.features.label, str) else label
        results += difference.results(" - ".join(names), protocol=said, seed=seed, group=part)
    return Report(results, gather_provenance(data))


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
    def of(cls, label: Floats, probability: Floats, groups: "pd.Series[Any]") -> "_Grouped":
        code = pd.factorize(groups)[0].astype(np.int64)
        row = np.zeros(int(code.max()) + 1, dtype=np.int64)
        row[code] = np.arange(len(code))
        auc = group_auc(label, probability, code)
        lists = Rankings.from_scores(label, probability, code)
        values = average_precision_at_k(lists)
        return cls(str(groups.name), code, auc, row[auc.groups], values, row[lists.queries], lists.skipped)

    def __call__(self, multiplicity: Floats) -> list[float]:
        times = multiplicity[self.auc_row]
        means = [
            _average(self.auc.values, times * self.auc.weights(by)) for by in ("uniform", "positives", "impressions")
        ]
        return [*means, _average(self.average_precision, multiplicity[self.average_precision_row])]

    def counts(self) -> list[int]:
        return [len(self.auc.values)] * 3 + [len(self.average_precision)]


@dataclass(frozen=True, eq=False)
class _Scored:
    """Predictions for one label; calling it gives all metrics under the multiplicities of rows."""

    label: Floats  # (n,)
    probability: Floats
    weight: Floats
    loss: Floats
    order: ScoreOrder
    groups: _Grouped | None

    METRICS = ("rce", "ne", "log_loss", "auc", "pr_auc", "calibration")

    @classmethod
    def of(cls, label: Floats, probability: Floats, weight: Floats, groups: "pd.Series[Any] | None") -> "_Scored":
        # Rows and groups keep the order of the frame, so that a resample is the same one for every ranker.
        grouped = None if groups is None else _Grouped.of(label, probability, groups)
        loss, order = cross_entropy(label, probability), ScoreOrder.of(label, probability)
        return cls(label, probability, weight, loss, order, grouped)

    def __call__(self, multiplicity: Floats) -> Floats:
        w = self.weight * multiplicity
        loss, share, predicted = (_average(x, w) for x in (self.loss, self.label, self.probability))
        roc_auc, pr_auc = self.order.areas(w)
        prior = float(-xlogy(share, share) - xlogy(1.0 - share, 1.0 - share))
        ne = loss / prior if 0.0 < share < 1.0 else float("nan")
        calibration = predicted / share if share > 0.0 else float("nan")
        pooled = [100.0 * (1.0 - ne), ne, loss, roc_auc, pr_auc, calibration]
        return np.array(pooled + (self.groups(multiplicity) if self.groups else []))

    def measure(self, samples: int) -> Measured:
        n = len(self.label)
        metrics, counts, code = list(self.METRICS), [n] * len(self.METRICS), None
        if self.groups:
            metrics, counts, code = [*metrics, *self.groups.METRICS], counts + self.groups.counts(), self.groups.code
        return measure(self, n, metrics=metrics, counts=counts, samples=samples, groups=code)

    def protocol(self, samples: int) -> dict[str, Any]:
        said: dict[str, Any] = {
            "prior": _average(self.label, self.weight),
            "reference": "prior of the evaluated rows",
            "weight": "none" if (self.weight == 1.0).all() else "by column",
            "ties": "half in AUC, one threshold in PR-AUC, expected value in MAP",
            "interval": said_of_intervals("groups" if self.groups else "rows", samples),
        }
        if self.groups:
            said["group"] = self.groups.column
            said["groups_without_both_classes"] = self.groups.auc.skipped
            said["groups_without_positives"] = self.groups.without_positives
        return said


def _score(ranker: Ranker, frame: pd.DataFrame, group: str | None) -> dict[str, _Scored]:
    """Predict once, and score each label column."""
    label = ranker.features.label
    labels = [label] if isinstance(label, str) else list(label or ())
    if not labels:
        raise ConfigError("the ranker's features name no label: there is nothing to evaluate against")
    if group is None and getattr(ranker.features, "group", None) in frame.columns:
        group = ranker.features.group
    as_pairs(frame, "the frame", [*labels, *([group] if group else [])])
    if not len(frame):
        raise DataError("the frame has no rows: there is nothing to evaluate")
    predicted = np.asarray(ranker.predict(frame), dtype=np.float64)
    columns = predicted[:, None] if predicted.ndim == 1 else predicted
    if columns.shape != (len(frame), len(labels)):
        raise DataError(f"predict gave the shape {predicted.shape} for {len(frame)} rows and the labels {labels}")
    weight = _weight(ranker, frame)
    return {
        label: _Scored.of(
            as_labels(frame[label]),
            as_predictions(probability, len(frame), logits=False),
            weight,
            frame[group] if group else None,
        )
        for label, probability in zip(labels, columns.T, strict=True)
    }


def _weight(ranker: Ranker, frame: pd.DataFrame) -> Floats:
    column = getattr(ranker.features, "weight", None)
    weight = as_weight(frame[column] if column in frame.columns else None, len(frame))
    if not weight.sum() > 0.0:
        raise DataError(f"the weights in column {column!r} sum to 0")
    return weight


def _average(values: Floats, weight: Floats) -> float:
    total = weight.sum()
    return float(np.einsum("i,i", values, weight) / total) if total > 0.0 else float("nan")
