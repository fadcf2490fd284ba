"""Labels predicted from vectors: topics that users chose, and what is known of them (Embeddings@Twitter 2018).

Both are logistic regressions, one label against the rest, whose cross-validated ROC-AUC says how much of the label a
linear layer can read off the vectors; ``recokit.probes.regression`` has the protocol. Labels must come from elsewhere
than the edges that the version was trained on, or they measure memory.

Shapes: n entities, L labels, D dimension.
"""

__all__ = ["MetadataPrediction", "TopicPrediction"]

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError
from recokit.frame.reading import Source
from recokit.metrics.arrays import Floats, at_least_one
from recokit.probes.degrees import given_degrees
from recokit.probes.labels import Entities, known_entities, read_labels
from recokit.probes.regression import FoldAreas, Penalty, check_penalty, fold_scores, stratified_folds
from recokit.probes.task import Bench, Measure, Outcome, Subject

Cut = Literal["median"] | Sequence[float] | None

_MAX_CLASSES = 50
_SHOWN = 20  # labels named in a protocol


@dataclass(frozen=True)
class TopicPrediction:
    """Which labels an entity has: ROC-AUC of each label against the rest, and their plain mean.

    The entities are the ids that the labels name; one with no label of its own can be named by a row whose label is
    missing. Of each label, all other entities are negatives.

    Attributes:
        name: What the report calls it; the metric is ``"<name> roc_auc"``.
        table: The table of the vectors.
        labels: Columns id and label, a row for each label of an id; a frame or a file.
        columns: What the frame calls them: ``{"id": "user_id"}``.
        min_positives: Labels of fewer entities are left out, and named.
        folds: Of the cross-validation.
        c: scikit-learn's C; of several, the best inside the training folds.
        sample: Entities at most, drawn by the seed.
        degrees: Columns id and degree, where the version keeps no degrees.

    Metrics: one row for each label (``group``; its ``n`` counts the positives), and their mean (``group`` None).
    """

    name: str
    table: str
    labels: Source
    columns: Mapping[str, str] = field(default_factory=dict)
    min_positives: int = 20
    folds: int = 5
    c: Penalty = (0.001, 0.01, 0.1, 1.0)
    sample: int = 100_000
    degrees: "Source | None" = None

    def __post_init__(self) -> None:
        _check_folds(self.name, self.folds, self.min_positives)
        check_penalty(self.c)
        at_least_one(self.sample, "sample")

    def prepare(self, bench: Bench) -> Measure:
        """Read the labels and draw the folds."""
        frame = read_labels(self.labels, ("id", "label"), self.columns, bench, self.table)
        entities = known_entities(frame["id"], bench, self.table, self.sample)
        place = entities.places(frame["id"])
        there = (place >= 0) & frame["label"].notna().to_numpy()
        codes, names = pd.factorize(frame["label"][there], sort=True)
        matrix = np.zeros((len(names), len(entities.ids)), np.bool_)
        matrix[codes, place[there]] = True
        labels, skipped = _frequent(self, dict(zip(map(str, names), matrix, strict=True)), len(entities.ids))
        said = {"task": self.name, "kind": "topic", **entities.protocol, **skipped}
        return _OneVersusRest(self, bench, entities, labels, said).measure


@dataclass(frozen=True)
class MetadataPrediction:
    """One thing that is known of an entity, such as age: ROC-AUC, of each class against the rest where there are many.

    Attributes:
        name: What the report calls it; the metric is ``"<name> roc_auc"``.
        table: The table of the vectors.
        labels: Columns id and ``column``, a row for each id; a frame or a file. An id whose value is missing is left
            out.
        column: The column of the values.
        cut: For numbers: ``"median"`` asks for more than the median; edges ``(25, 40)`` make the classes "under 25",
            "25 to 40" and "40 or more". None takes values as classes.
        columns: What the frame calls ``id`` and the column.
        min_positives: Classes of fewer entities are left out of the classes asked for, and named; they stay negatives.
        folds: Of the cross-validation.
        c: scikit-learn's C; of several, the best inside the training folds.
        sample: Entities at most, drawn by the seed.
        degrees: Columns id and degree, where the version keeps no degrees.

    Metrics: of two classes one row; of several one for each (``group``) and their mean (``group`` None).
    """

    name: str
    table: str
    labels: Source
    column: str
    cut: Cut = None
    columns: Mapping[str, str] = field(default_factory=dict)
    min_positives: int = 20
    folds: int = 5
    c: Penalty = (0.001, 0.01, 0.1, 1.0)
    sample: int = 100_000
    degrees: "Source | None" = None

    def __post_init__(self) -> None:
        _check_folds(self.name, self.folds, self.min_positives)
        check_penalty(self.c)
        at_least_one(self.sample, "sample")
        if isinstance(self.cut, str) and self.cut != "median":
            raise ConfigError(f"{self.name}: cut is {self.cut!r}, expected 'median' or a list of edges")
        if self.cut is not None and not isinstance(self.cut, str) and list(self.cut) != sorted(set(self.cut)):
            raise ConfigError(f"{self.name}: cut is {list(self.cut)}, expected edges in ascending order")

    def prepare(self, bench: Bench) -> Measure:
        """Read the values, make classes of them, and draw the folds."""
        frame = read_labels(self.labels, ("id", self.column), self.columns, bench, self.table)
        if (twice := frame["id"].duplicated()).any():
            raise DataError(
                f"{self.name}: id {frame['id'][twice].iloc[0]!r} is there more than once, expected one value"
            )
        known = frame[frame[self.column].notna()]
        entities = known_entities(known["id"], bench, self.table, self.sample)
        values = known.set_index("id")[self.column].loc[entities.ids]
        classes, said_cut = _classes(values, self.cut, self.name)
        labels, skipped = _frequent(self, classes, len(entities.ids))
        said = {
            "task": self.name,
            "kind": "metadata",
            "column": self.column,
            **said_cut,
            **entities.protocol,
            **skipped,
        }
        if len(known) < len(frame):
            said["without_a_value"] = f"{len(frame) - len(known)} of {len(frame)} ids"
        if len(classes) == 2:  # the area of one class is that of the other
            said["positive"], positive = list(labels.items())[1]
            labels = {said["positive"]: positive}
        return _OneVersusRest(self, bench, entities, labels, said, binary=len(classes) == 2).measure


@dataclass(frozen=True, eq=False)
class _OneVersusRest:
    """Labels of the same entities, their folds drawn: what both tasks measure."""

    task: TopicPrediction | MetadataPrediction
    bench: Bench
    entities: Entities
    labels: Mapping[str, NDArray[np.bool_]]
    protocol: Mapping[str, Any]
    binary: bool = False  # one label is all there is to ask for: it has no group

    def measure(self, subject: Subject) -> Outcome:
        """Measure every label and their mean."""
        task, entities = self.task, self.entities
        degrees = given_degrees(self.bench.table(task.table), task.degrees)
        vectors = subject.vectors(task.table, entities.rows, degrees=degrees)
        areas = []
        for number, positive in enumerate(self.labels.values()):
            seed = [self.bench.seed, 2, number]
            fold = stratified_folds(positive, task.folds, seed)
            areas.append(FoldAreas.of(positive, fold_scores(vectors, positive, fold, task.c, seed=seed), fold))

        def statistic(weight: Floats) -> Floats:
            values = np.array([each.area(weight) for each in areas])
            return values if self.binary else np.append(values, values.mean())

        positives = [int(positive.sum()) for positive in self.labels.values()]
        choices = check_penalty(task.c)
        c = f"C {', '.join(f'{each:g}' for each in choices)}" + ", chosen inside the folds" * (len(choices) > 1)
        said = {
            **self.protocol,
            "model": f"logistic regression, one label against the rest, standardised inside the folds, {c}",
            "split": f"{task.folds} stratified folds",
            "auc": "over pairs of the same fold, ties half",
            "vectors": subject.said(task.table, degrees=degrees),
        }
        return Outcome.of(
            f"{task.name} roc_auc",
            statistic,
            len(entities.ids),
            bench=self.bench,
            groups=[None] if self.binary else [*self.labels, None],
            counts=[len(entities.ids)] if self.binary else [*positives, len(entities.ids)],
            protocol=said,
        )


def _check_folds(name: str, folds: int, min_positives: int) -> None:
    if at_least_one(folds, "folds") < 2:
        raise ConfigError(f"{name}: folds is {folds}, expected at least 2")
    if at_least_one(min_positives, "min_positives") < 2 * folds:
        raise ConfigError(
            f"{name}: min_positives is {min_positives} with {folds} folds, expected at least {2 * folds}: two in a fold"
        )


def _frequent(
    task: TopicPrediction | MetadataPrediction, labels: Mapping[str, NDArray[np.bool_]], count: int
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, str]]:
    """Keep the labels with enough positives and negatives among ``count`` entities, and say which others there were."""
    least = task.min_positives
    kept = {name: label for name, label in labels.items() if least <= label.sum() <= count - least}
    if not kept:
        most = max((int(label.sum()) for label in labels.values()), default=0)
        raise DataError(
            f"{task.name}: none of {len(labels)} labels has min_positives, {least}, positives and as many negatives "
            f"among {count} entities; the most frequent has {most}"
        )
    others = [name for name in labels if name not in kept]
    if not others:
        return kept, {}
    shown = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
    return kept, {"skipped_labels": f"{len(others)} with fewer than {least} positives or negatives: {shown}"}


def _classes(values: "pd.Series[Any]", cut: Cut, name: str) -> tuple[dict[str, NDArray[np.bool_]], dict[str, Any]]:
    """Return who is in which class, by the name of the class, and how the classes were made."""
    if cut is None:
        distinct = sorted(values.unique().tolist(), key=lambda each: (str(type(each)), each))
        if len(distinct) > _MAX_CLASSES:
            hint = "give cut='median' or edges" if pd.api.types.is_numeric_dtype(values) else "they look like ids"
            raise DataError(
                f"{name}: {len(distinct)} different values, expected at most {_MAX_CLASSES} classes: {hint}"
            )
        if len(distinct) < 2:
            raise DataError(f"{name}: every value is {distinct[0]!r}, expected at least two different ones")
        return {str(each): (values == each).to_numpy(bool) for each in distinct}, {}
    if not pd.api.types.is_numeric_dtype(values):
        raise DataError(f"{name}: values are {values.dtype}, expected numbers to cut")
    numbers = values.to_numpy(np.float64)
    if isinstance(cut, str):
        median = float(np.median(numbers))
        above = numbers > median
        return {f"at most {median:g}": ~above, f"above {median:g}": above}, {"cut": f"above the median, {median:g}"}
    edges = [float(edge) for edge in cut]
    number = np.searchsorted(edges, numbers, side="right")
    names = [f"under {edges[0]:g}", *(f"{low:g} to {high:g}" for low, high in itertools.pairwise(edges))]
    names.append(f"{edges[-1]:g} or more")
    return {each: number == at for at, each in enumerate(names)}, {
        "cut": f"at {', '.join(f'{edge:g}' for edge in edges)}"
    }
