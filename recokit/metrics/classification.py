"""Metrics of predicted probabilities: log loss and what it is relative to, calibration.

Everything is float64. Probabilities are clipped to ``[eps, 1 - eps]`` before the logarithm, with float64's own eps
(2.2e-16) unless told otherwise: one probability of 0 on a positive costs 36 nats, where float32's eps would make it
16. Logits, taken with ``logits=True``, need no clipping.

Rules, for all of them: ``weight`` multiplies rows, in every sum; without rows, or with weights that sum to 0, the
value is NaN; relative entropies of labels of one class are NaN, never 0 or -inf, because their reference is 0.
"""

__all__ = [
    "calibration",
    "cross_entropy",
    "log_loss",
    "normalized_entropy",
    "nrce",
    "prior_log_loss",
    "rce",
    "reliability_table",
    "undo_downsampling",
]

from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, xlogy

from recokit.errors import ConfigError
from recokit.metrics.arrays import Floats, as_labels, as_predictions, as_weight, at_least_one

EPS = float(np.finfo(np.float64).eps)


def cross_entropy(
    labels: npt.ArrayLike, predictions: npt.ArrayLike, *, logits: bool = False, eps: float = EPS
) -> Floats:
    """Cross entropy of every row in nats, (n,): ``-y log p - (1 - y) log(1 - p)``.

    Of a logit z it is ``log(1 + exp(-z))`` for a positive and ``log(1 + exp(z))`` for a negative.

    >>> cross_entropy([1, 0], [0.5, 0.75]).round(4)
    array([0.6931, 1.3863])
    """
    label = as_labels(labels)
    values = as_predictions(predictions, len(label), logits=logits)
    if logits:
        return np.logaddexp(0.0, np.where(label == 1.0, -values, values))
    likelihood: Floats = np.clip(np.where(label == 1.0, values, 1.0 - values), eps, 1.0 - eps)
    return -np.log(likelihood)


def log_loss(
    labels: npt.ArrayLike,
    predictions: npt.ArrayLike,
    *,
    weight: npt.ArrayLike | None = None,
    logits: bool = False,
    eps: float = EPS,
) -> float:
    """Log loss: the weighted mean of the rows' cross entropy, ``sum w CE / sum w``, in nats."""
    return _mean(cross_entropy(labels, predictions, logits=logits, eps=eps), weight)


def prior_log_loss(labels: npt.ArrayLike, *, weight: npt.ArrayLike | None = None, prior: float | None = None) -> float:
    """Log loss of a constant prediction.

    By default the share of positives among these very rows, ``ȳ = sum w y / sum w``: their entropy
    ``-ȳ log ȳ - (1 - ȳ) log(1 - ȳ)``. With ``prior``, such as the share of positives in training,
    ``-ȳ log prior - (1 - ȳ) log(1 - prior)``.
    """
    label = as_labels(labels)
    if prior is not None and not 0.0 < prior < 1.0:
        raise ConfigError(f"prior has to lie between 0 and 1, not {prior}")
    share = _mean(label, weight)
    constant = share if prior is None else prior
    return float(-xlogy(share, constant) - xlogy(1.0 - share, 1.0 - constant))


def normalized_entropy(
    labels: npt.ArrayLike,
    predictions: npt.ArrayLike,
    *,
    weight: npt.ArrayLike | None = None,
    logits: bool = False,
    prior: float | None = None,
    eps: float = EPS,
) -> float:
    """Normalized entropy, NE: log loss over the log loss of the prior (He et al. 2014). Lower is better.

    NaN where all labels (of positive weight) are of one class. ``prior`` as in ``prior_log_loss``: a value that used
    one is of another reference, and is to be labelled so.
    """
    label = as_labels(labels)
    share = _mean(label, weight)
    if not 0.0 < share < 1.0:
        return float("nan")
    loss = log_loss(label, predictions, weight=weight, logits=logits, eps=eps)
    return loss / prior_log_loss(label, weight=weight, prior=prior)


def rce(
    labels: npt.ArrayLike,
    predictions: npt.ArrayLike,
    *,
    weight: npt.ArrayLike | None = None,
    logits: bool = False,
    prior: float | None = None,
    eps: float = EPS,
) -> float:
    """Relative cross entropy in percent: ``100 * (CE(prior) - CE(model)) / CE(prior)`` = ``100 * (1 - NE)``.

    What the model saves over predicting the prior, by TwHIN's equation 4 as Twitter computes it
    (the-algorithm-ml, metrics/rce.py): 0 for the prior itself, negative for worse, 100 for certainty. The prior is
    that of the evaluated rows themselves, so the RCE of batches does not average to the RCE of all. Points of RCE are
    not ratios: report the log loss as well. NaN where all labels are of one class.

    >>> rce([1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25])
    0.0
    """
    return 100.0 * (1.0 - normalized_entropy(labels, predictions, weight=weight, logits=logits, prior=prior, eps=eps))


def nrce(
    labels: npt.ArrayLike,
    predictions: npt.ArrayLike,
    *,
    weight: npt.ArrayLike | None = None,
    logits: bool = False,
    eps: float = EPS,
) -> float:
    """RCE with miscalibration taken out: of ``p * mean(y) / mean(p)``, clipped to ``[eps, 1 - eps]``.

    Both means are weighted and over all rows at once; Twitter's streaming metric divides by running means, and so
    depends on the order of batches.
    """
    label = as_labels(labels)
    values = as_predictions(predictions, len(label), logits=logits)
    probabilities = expit(values) if logits else values
    ratio = calibration(label, probabilities, weight=weight)
    if not ratio > 0.0:
        return float("nan")
    return rce(label, np.minimum(probabilities / ratio, 1.0), weight=weight, eps=eps)


def calibration(
    labels: npt.ArrayLike, predictions: npt.ArrayLike, *, weight: npt.ArrayLike | None = None, logits: bool = False
) -> float:
    """Calibration: predicted positives over observed ones, ``sum w p / sum w y``; 1 is right, NaN without positives."""
    label = as_labels(labels)
    values = as_predictions(predictions, len(label), logits=logits)
    observed = _mean(label, weight)
    return _mean(expit(values) if logits else values, weight) / observed if observed > 0.0 else float("nan")


def reliability_table(
    labels: npt.ArrayLike,
    predictions: npt.ArrayLike,
    *,
    bins: int = 10,
    by: Literal["width", "count"] = "width",
    weight: npt.ArrayLike | None = None,
    logits: bool = False,
) -> pd.DataFrame:
    """Predicted and observed rates in bins of the prediction.

    Args:
        labels: 0 or 1, (n,).
        predictions: Probabilities, or logits where ``logits`` says so, (n,).
        bins: How many, at most.
        by: ``"width"``: equal parts of [0, 1]. ``"count"``: quantiles of the predictions, equal ones in one bin.
        weight: Of rows, in the two means.
        logits: Take ``predictions`` as logits.

    Returns:
        One row for each bin that is not empty: ``low`` (inclusive), ``high`` (exclusive but for the last), ``n``,
        ``predicted`` and ``observed`` (weighted means of p and y), ``calibration`` (their ratio).
    """
    label = as_labels(labels)
    values = as_predictions(predictions, len(label), logits=logits)
    p = expit(values) if logits else values
    parts = np.linspace(0.0, 1.0, at_least_one(bins, "bins") + 1)
    edges = parts if by == "width" or not len(p) else np.unique(np.quantile(p, parts))
    last = max(len(edges) - 2, 0)
    rows = pd.DataFrame({"bin": np.clip(np.searchsorted(edges, p, side="right") - 1, 0, last)})
    rows["n"] = 1
    rows["w"] = as_weight(weight, len(label))
    rows["p"], rows["y"] = rows["w"] * p, rows["w"] * label
    sums = rows.groupby("bin").sum()
    observed = sums["y"] / sums["w"]
    predicted = sums["p"] / sums["w"]
    return pd.DataFrame(
        {
            "low": edges[sums.index],
            "high": edges[np.minimum(sums.index + 1, len(edges) - 1)],
            "n": sums["n"],
            "predicted": predicted,
            "observed": observed,
            "calibration": predicted / observed.where(observed > 0.0),
        }
    ).reset_index(drop=True)


def undo_downsampling(predictions: npt.ArrayLike, kept: float) -> Floats:
    """Correct the probabilities of a model that was trained on a share ``kept`` of the negatives.

    ``p / (p + (1 - p) / kept)``, to be applied before any metric of this module (He et al. 2014, section 6.3).

    >>> undo_downsampling([0.5], kept=0.1).round(4)
    array([0.0909])
    """
    if not 0.0 < kept <= 1.0:
        raise ConfigError(f"kept has to be a share of the negatives in (0, 1], not {kept}")
    p = as_predictions(predictions, np.size(predictions), logits=False)
    return p / (p + (1.0 - p) / kept)


def _mean(values: Floats, weight: npt.ArrayLike | None) -> float:
    w = as_weight(weight, len(values))
    total = w.sum()
    return float((values * w).sum() / total) if total > 0.0 else float("nan")
