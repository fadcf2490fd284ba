"""Areas under curves: ROC-AUC pooled and per group, and PR-AUC, which here is average precision.

Ties count half in ROC-AUC, and are one threshold in PR-AUC. One class only gives NaN.

Shapes: n rows, P of them positive and N negative, T distinct scores of positives, G groups that have both classes.
"""

__all__ = ["GroupAUC", "GroupWeight", "ScoreOrder", "group_auc", "pr_auc", "roc_auc"]

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from recokit.errors import ConfigError, closest
from recokit.metrics.arrays import Floats, Ints, as_labels, as_scores, as_weight
from recokit.metrics.ranking import Rankings

GroupWeight = Literal["uniform", "positives", "impressions"]


@dataclass(frozen=True, eq=False)
class ScoreOrder:
    """Rows sorted once by descending score: their areas under any row weights then cost no further sort.

    Attributes:
        positive: Rows of label 1, by descending score, (P,).
        negative: Rows of label 0, by descending score, (N,).
        start: Where in ``positive`` each distinct score of a positive starts, (T,).
        ahead: How many negatives score higher than that, (T,).
        upto: How many negatives score at least that, (T,).
    """

    positive: Ints
    negative: Ints
    start: Ints
    ahead: Ints
    upto: Ints

    @classmethod
    def of(cls, labels: npt.ArrayLike, scores: npt.ArrayLike) -> "ScoreOrder":
        """Sort ``labels`` and ``scores``, (n,) each."""
        label = as_labels(labels)
        score = as_scores(scores, len(label))
        order = np.argsort(-score)
        positive, negative = order[label[order] == 1.0], order[label[order] == 0.0]
        levels = -score[positive]
        start = np.flatnonzero(np.concatenate([[True], levels[1:] != levels[:-1]])[: len(levels)])
        below = -score[negative]
        ahead = np.searchsorted(below, levels[start], side="left")
        return cls(positive, negative, start, ahead, np.searchsorted(below, levels[start], side="right"))

    def areas(self, weight: Floats) -> tuple[float, float]:
        """ROC-AUC and average precision of the rows under ``weight`` (n,), given in the rows' own order."""
        false = np.concatenate([[0.0], np.cumsum(weight[self.negative])])
        step = np.add.reduceat(weight[self.positive], self.start) if len(self.start) else np.zeros(1)
        true = np.cumsum(step)  # weight of positives down to each threshold, (T,)
        positives, negatives = float(true[-1]), float(false[-1])
        if not (positives > 0.0 and negatives > 0.0):
            return float("nan"), float("nan")
        # Mann-Whitney: a positive wins over the negatives below it, and half over those tied with it.
        won = step * (negatives - (false[self.ahead] + false[self.upto]) / 2.0)
        precision = np.divide(true, true + false[self.upto], out=np.zeros_like(true), where=step > 0.0)
        return float(won.sum() / (positives * negatives)), float((step * precision).sum() / positives)


def roc_auc(labels: npt.ArrayLike, scores: npt.ArrayLike, *, weight: npt.ArrayLike | None = None) -> float:
    """ROC-AUC over all rows: ``P(score+ > score-) + P(score+ = score-) / 2`` (Mann-Whitney).

    A pair of rows weighs the product of its weights. NaN where all labels (of positive weight) are of one class.

    >>> roc_auc([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.1])
    0.875
    """
    order = ScoreOrder.of(labels, scores)
    return order.areas(as_weight(weight, np.size(labels)))[0]


def pr_auc(labels: npt.ArrayLike, scores: npt.ArrayLike, *, weight: npt.ArrayLike | None = None) -> float:
    """Area under the precision-recall curve, as average precision: ``sum over thresholds of (R_t - R_t-1) P_t``.

    Not the trapezoid rule, which is too high (Davis and Goadrich 2006). Rows of one score are one threshold, as in
    scikit-learn: of four tied rows with one positive it is 0.25, the share of positives. The expectation over the
    orders of a tie, which is what MAP uses, is another number: ``average_precision_at_k`` gives it.
    NaN where all labels (of positive weight) are of one class.
    """
    order = ScoreOrder.of(labels, scores)
    return order.areas(as_weight(weight, np.size(labels)))[1]


@dataclass(frozen=True, eq=False)
class GroupAUC:
    """ROC-AUC within each of G groups.

    Attributes:
        groups: Ids of the groups that have both classes, (G,).
        values: Their ROC-AUC, (G,).
        positives: Rows of label 1 in each, (G,).
        impressions: Rows in each, (G,).
        skipped: Groups without a value, because their labels are of one class.
    """

    groups: pd.Index
    values: Floats
    positives: Ints
    impressions: Ints
    skipped: int

    def weights(self, weight: GroupWeight = "uniform") -> Floats:
        """What each group weighs in the mean, (G,): 1, its positives, or its impressions."""
        if weight not in get_args(GroupWeight):
            raise ConfigError(f"unknown weight of groups {weight!r}: {closest(weight, get_args(GroupWeight))}")
        if weight == "uniform":
            return np.ones(len(self.values))
        return (self.positives if weight == "positives" else self.impressions).astype(np.float64)

    def mean(self, weight: GroupWeight = "uniform") -> float:
        """Mean over groups; NaN without groups.

        ``"uniform"`` is the session-averaged ROC of TwHIN, ``"positives"`` RecBole's GAUC, ``"impressions"`` Alibaba's
        (Zhou et al. 2018, DIN).
        """
        return float(np.average(self.values, weights=self.weights(weight))) if len(self.values) else float("nan")


def group_auc(labels: npt.ArrayLike, scores: npt.ArrayLike, groups: npt.ArrayLike | pd.Series) -> GroupAUC:
    """ROC-AUC within each group (session): pairs of rows are compared inside a group only.

    A group whose predictions are all equal counts 0.5: to skip it, as torchrec does, hides a broken model. A group
    with labels of one class has no value and is counted as skipped.

    >>> sessions = group_auc([1, 0, 1, 0, 0], [0.9, 0.1, 0.5, 0.5, 0.5], ["a", "a", "b", "b", "b"])
    >>> sessions.values, sessions.mean(), round(sessions.mean("impressions"), 3)
    (array([1. , 0.5]), 0.75, 0.7)
    """
    lists = Rankings.from_scores(labels, scores, groups)
    negatives = lists.num_listed - lists.num_relevant
    tied = lists.size - lists.relevant
    ahead = lists.ahead - lists.relevant_ahead()  # negatives above each block
    lost = lists.total(lists.relevant * (ahead + tied / 2.0))
    both = negatives > 0
    values = 1.0 - lost[both] / (lists.num_relevant[both] * negatives[both])
    return GroupAUC(
        lists.queries[both],
        values,
        lists.num_relevant[both],
        lists.num_listed[both],
        lists.skipped + int((~both).sum()),
    )
