"""Rankers against labels: any object with ``predict(frame)`` and ``features.label``, or predictions by themselves.

What holds only given another label, such as a conversion given a click, is evaluated on the rows where that label is 1,
with the probability that belongs to them. ESMM (Ma et al. 2018) predicts the click and the conversion of an impression,
so that its conversion of a click is the ratio of the two:

    clicked = test[test["click"] == 1]
    p = esmm.predict(clicked)  # (n, 2)
    report = evaluate_predictions(clicked, p[:, 1] / p[:, 0], label="conversion", protocol={"rows": "clicked"})

Shapes: n rows, T labels.
"""

__all__ = ["Ranker", "compare_rankers", "evaluate_predictions", "evaluate_ranker"]

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from recokit.errors import DataError
from recokit.evaluate.scored import BINS, Kind, Scored, check_rows, score
from recokit.report import Report, Result, gather_provenance


class Ranker(Protocol):
    """What is asked of a ranker: any model, in any library."""

    @property
    def features(self) -> Any:
        """Has ``label``, the column of labels or several; ``group`` and ``weight`` name columns where they exist."""

    def predict(self, frame: pd.DataFrame) -> npt.NDArray[np.floating]:
        """Return probabilities, (rows,) or (rows, labels); or scores, where ``ranker.predicts`` is ``"scores"``."""


def evaluate_ranker(
    ranker: Ranker,
    frame: pd.DataFrame,
    *,
    group: str | None = None,
    segments: str | Sequence[str] = (),
    min_rows: int = 100,
    name: str = "ranker",
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    bootstrap: int = 1000,
    data: Mapping[str, str] | None = None,
) -> Report:
    """Evaluate probabilities: RCE, NE, log loss, ROC-AUC, PR-AUC, calibration; with groups, AUC and MAP in them.

    Each label column is evaluated by itself, against its own prior; where there are several, ``Result.group`` names
    it. So is each segment, under ``column=value``: a model may beat the prior of all rows and of no country, because
    RCE by segment has the segment's own prior in its denominator. Rows weigh what the column ``features.weight`` says,
    where the frame has it; groups do not. ``ece[10]``, the calibration error over tenths of the rows by prediction, has
    no interval: resampled rows always make it larger.

    Args:
        ranker: ``predict(frame)`` gives probabilities, ``features.label`` the label column or columns.
        frame: Rows with features and labels.
        group: Column of the user or session: AUC and MAP within groups are reported, and whole groups are resampled.
            Without it ``features.group``, where the frame has it.
        segments: Columns, such as the country, whose values are evaluated one by one after all rows; numbers are cut
            into ranges first, by ``pandas.cut``. A segment's labels of one class give NaN, and its protocol says so.
        min_rows: Values with fewer rows are joined, as ``column=(other)``.
        name: Of the ranker, in the report.
        protocol: What only the caller knows, such as the split.
        seed: Seed of the training run.
        bootstrap: Number of resamples of groups, or of rows where there are none.
        data: Hashes of the data, for the provenance.
    """
    results = []
    for part in _parts(ranker, frame, group, segments, min_rows):
        results += _results(part, name, protocol or {}, seed, bootstrap)
    return Report(results, gather_provenance(data))


def evaluate_predictions(
    frame: pd.DataFrame,
    predictions: npt.ArrayLike,
    *,
    label: str | Sequence[str],
    kind: Kind = "probabilities",
    group: str | None = None,
    weight: str | None = None,
    segments: str | Sequence[str] = (),
    min_rows: int = 100,
    name: str = "predictions",
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    bootstrap: int = 1000,
    data: Mapping[str, str] | None = None,
) -> Report:
    """Evaluate predictions that are there already, as ``evaluate_ranker`` does those of a ranker.

    Args:
        frame: Rows with labels, n of them.
        predictions: One a row, (n,), or one a row and label, (n, T); higher is better.
        label: The label column, or T of them.
        kind: ``"probabilities"``; ``"logits"``; or ``"scores"``, which only rank: their AUC, PR-AUC and MAP are
            reported, and nothing that compares them with labels as numbers.
        group: Column of the user or session.
        weight: Column of the rows' weights.
        segments: Columns whose values are evaluated one by one too.
        min_rows: Values with fewer rows are joined.
        name: Of what predicted, in the report.
        protocol: What only the caller knows, such as the split.
        seed: Seed of the training run.
        bootstrap: Number of resamples.
        data: Hashes of the data, for the provenance.
    """
    columns = (segments,) if isinstance(segments, str) else tuple(segments)
    predicted = np.asarray(predictions, dtype=np.float64)
    results = []
    for part in score(
        frame, predicted, label=label, group=group, weight=weight, kind=kind, segments=columns, min_rows=min_rows
    ):
        results += _results(part, name, protocol or {}, seed, bootstrap)
    return Report(results, gather_provenance(data))


def compare_rankers(
    a: Ranker,
    b: Ranker,
    frame: pd.DataFrame,
    *,
    group: str | None = None,
    segments: str | Sequence[str] = (),
    min_rows: int = 100,
    names: tuple[str, str] = ("a", "b"),
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    bootstrap: int = 1000,
    data: Mapping[str, str] | None = None,
) -> Report:
    """Differences ``a - b`` of the metrics of ``evaluate_ranker``, on the same rows and resamples, but for the ECE.

    Of a ranker of scores and one of probabilities, the metrics of scores are compared.

    Raises:
        DataError: The rankers have other labels, or the frame has other groups or weights for them.
    """
    if np.atleast_1d(a.features.label).tolist() != np.atleast_1d(b.features.label).tolist():
        raise DataError(
            f"rankers of the same labels can be compared, not of {a.features.label!r} and {b.features.label!r}"
        )
    for what, own, other in zip(("group", "weight"), *(_named(each, frame, group) for each in (a, b)), strict=True):
        if own != other:
            raise DataError(
                f"rankers are compared on the same {what}s: {names[0]} has the {what} {own!r}, {names[1]} has {other!r}"
                + ("; name the column of both by group" if what == "group" else "")
            )
    results = []
    parts = (_parts(ranker, frame, group, segments, min_rows) for ranker in (a, b))
    for (part, first, added), (_, second, _) in zip(*parts, strict=True):
        shared = [metric for metric in first.metrics if metric in second.metrics]
        difference = first.measure(bootstrap, shared) - second.measure(bootstrap, shared)
        measured = {**first.protocol(bootstrap), **second.protocol(bootstrap)}
        said = {**measured, "difference": "paired", **added, **(protocol or {})}
        results += difference.results(" - ".join(names), protocol=said, seed=seed, group=part)
    return Report(results, gather_provenance(data))


def _results(
    part: tuple[str | None, Scored, Mapping[str, Any]],
    name: str,
    protocol: Mapping[str, Any],
    seed: int | None,
    bootstrap: int,
) -> list[Result]:
    group, scored, added = part
    said = {**scored.protocol(bootstrap), **added, **protocol}
    results = scored.measure(bootstrap).results(name, protocol=said, seed=seed, group=group)
    if scored.probability is not None:
        error, n = scored.calibration_error(), len(scored.label)
        results.append(Result(name, f"ece[{BINS}]", error, n=n, seed=seed, group=group, protocol=said))
    return results


def _parts(
    ranker: Ranker, frame: pd.DataFrame, group: str | None, segments: str | Sequence[str], min_rows: int
) -> Iterator[tuple[str | None, Scored, dict[str, Any]]]:
    """Predict once, and score each label column and segment."""
    spec = ranker.features
    group, weight = _named(ranker, frame, group)
    check_rows(frame, spec.label, group)  # before the work of predicting
    return score(
        frame,
        ranker.predict(frame),
        label=spec.label,
        group=group,
        weight=weight,
        kind=getattr(ranker, "predicts", "probabilities"),
        segments=(segments,) if isinstance(segments, str) else tuple(segments),
        min_rows=min_rows,
    )


def _named(ranker: Ranker, frame: pd.DataFrame, group: str | None) -> tuple[str | None, str | None]:
    """Return the columns of groups and of weights: what the ranker's features name, where the frame has it."""
    own, weight = (getattr(ranker.features, name, None) for name in ("group", "weight"))
    own = own if own in frame.columns else None
    return (own if group is None else group), (weight if weight in frame.columns else None)
