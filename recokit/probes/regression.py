"""How well a logistic regression reads labels off vectors: cross-validated ROC-AUC (Embeddings@Twitter 2018).

Features are standardised with the mean and deviation of the training folds. The penalty is scikit-learn's C, fixed, or
chosen among several by cross-validation inside the training folds, on 10,000 entities at most, up to half of them of
the rarer kind: more would not choose better. Folds are stratified, and the same for every
subject. The area is over pairs of one positive and one negative *of the same fold*: scores of different folds come
from different models, and comparing them would cost what the models' intercepts differ by. With folds of one size that
is the mean of the folds' areas.

Shapes: n entities, D dimension, F folds.
"""

__all__ = ["FoldAreas", "Penalty", "check_penalty", "fold_scores", "stratified_folds"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from recokit.errors import ConfigError, MissingDependencyError
from recokit.metrics import ScoreOrder
from recokit.metrics.arrays import Floats, Ints

Penalty: TypeAlias = float | Sequence[float]

_INNER = 3  # folds in which C is chosen
_CHOOSING = 10_000  # entities on which it is


def check_penalty(c: Penalty) -> tuple[float, ...]:
    """Return the values of C to choose from."""
    values = tuple(float(each) for each in (c if isinstance(c, Sequence) else (c,)))
    if not values or not all(0.0 < each < float("inf") for each in values):
        raise ConfigError(f"c is {c!r}, expected a number above 0, or several to choose from")
    return values


def stratified_folds(positive: NDArray[np.bool_], folds: int, seed: Sequence[int]) -> Ints:
    """Return the fold of each entity, (n,): positives and negatives are dealt out in turn, each in a random order."""
    rng = np.random.default_rng(seed)
    fold = np.empty(len(positive), np.int64)
    for members in (np.flatnonzero(positive), np.flatnonzero(~positive)):
        fold[rng.permutation(members)] = np.arange(len(members)) % folds
    return fold


def fold_scores(
    vectors: NDArray[Any], positive: NDArray[np.bool_], fold: Ints, c: Penalty, *, seed: Sequence[int]
) -> Floats:
    """Return the score of each entity (n,) by the model that was trained on the other folds."""
    scores = np.empty(len(positive))
    for each in np.unique(fold):
        train, test = fold != each, fold == each
        x, mean, deviation = _standardised(vectors[train])
        model = _chosen(x, positive[train], check_penalty(c), [*seed, int(each)])
        scores[test] = model.decision_function((vectors[test] - mean) / deviation)
    return scores


@dataclass(frozen=True, eq=False)
class FoldAreas:
    """ROC-AUC over the pairs of the same fold, under any weights of the entities; sorted once."""

    members: tuple[Ints, ...]
    orders: tuple[ScoreOrder, ...]

    @classmethod
    def of(cls, positive: npt.ArrayLike, scores: npt.ArrayLike, fold: Ints) -> "FoldAreas":
        """Sort labels, scores and folds, (n,) each."""
        label, score = np.asarray(positive, np.float64), np.asarray(scores, np.float64)
        members = tuple(np.flatnonzero(fold == each) for each in np.unique(fold))
        return cls(members, tuple(ScoreOrder.of(label[at], score[at]) for at in members))

    def area(self, weight: Floats) -> float:
        """Return the share of pairs (positive, negative) of one fold in which the positive scores higher; ties half.

        A pair weighs the product of its entities' weights; NaN where there is no pair.
        """
        won = pairs = 0.0
        for at, order in zip(self.members, self.orders, strict=True):
            here = weight[at]
            size = float(here[order.positive].sum() * here[order.negative].sum())
            if size > 0.0:
                won += size * order.areas(here)[0]
                pairs += size
        return won / pairs if pairs else float("nan")


def _standardised(vectors: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    x = np.asarray(vectors, np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation = np.where(deviation > 0.0, deviation, 1.0)
    return (x - mean) / deviation, mean, deviation


def _chosen(x: Floats, positive: NDArray[np.bool_], choices: Sequence[float], seed: Sequence[int]) -> Any:
    """Fit with the C whose models score best on folds inside these entities, the smallest of equals."""
    if len(choices) == 1:
        return _fitted(x, positive, choices[0])
    at = _some(positive, seed)
    some, label = x[at], positive[at]
    fold = stratified_folds(label, _INNER, seed)
    areas = []
    for c in sorted(choices):
        scores = np.empty(len(label))
        for each in range(_INNER):
            inside = fold != each
            scores[~inside] = _fitted(some[inside], label[inside], c).decision_function(some[~inside])
        areas.append(FoldAreas.of(label, scores, fold).area(np.ones(len(label))))
    return _fitted(x, positive, sorted(choices)[int(np.argmax(areas))])


def _some(positive: NDArray[np.bool_], seed: Sequence[int]) -> Ints:
    """Return the entities on which C is chosen, all where they are few."""
    rng = np.random.default_rng([*seed, 1])
    ones, zeros = (rng.permutation(np.flatnonzero(each)) for each in (positive, ~positive))
    fewer = min(len(ones), len(zeros), _CHOOSING // 2)
    return np.sort(np.concatenate([each[: max(_CHOOSING - fewer, _CHOOSING // 2)] for each in (ones, zeros)]))


def _fitted(x: Floats, positive: NDArray[np.bool_], c: float) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingDependencyError("sklearn", extra="probe", needed_for="a logistic regression") from error
    # Of standardised features lbfgs needs some ten steps: a fifth of the time of newton-cholesky at 80,000 x 64.
    return LogisticRegression(C=c, tol=1e-6, max_iter=1000).fit(x, positive)
