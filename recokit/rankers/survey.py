"""What is learned from the rows before the first step: shares of labels, known ids, and edges that the vectors knew.

Shapes: N rows, T labels.
"""

__all__ = ["Survey", "survey"]

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recokit.errors import DataError
from recokit.feature_columns import label_columns, weight_column
from recokit.features import FeatureSpec
from recokit.overlap import LeakCount, LeakWarning
from recokit.rankers.rows import Rows


@dataclass(frozen=True)
class Survey:
    """What the training rows say.

    Attributes:
        shares: The weighted share of positives of each label, between 0 and 1.
        coverage: The share of rows whose id is in the table, per pretrained feature.
    """

    shares: tuple[float, ...]
    coverage: dict[str, float]


def survey(features: FeatureSpec, rows: Rows, what: str) -> Survey:
    """Read labels, weights and ids of all rows once, block by block.

    Args:
        features: What is read.
        rows: The rows.
        what: What messages call them, such as "training".

    Raises:
        DataError: A label is neither 0 nor 1, or there are no rows, or none that weighs anything.

    Warns:
        LeakWarning: More than 1 % of the rows, or of the positive ones, are edges that the frozen vectors were trained
            on.
    """
    num_rows, weight = 0, 0.0
    positives: NDArray[np.float64] = np.zeros(len(features.labels))  # (T,)
    negatives: NDArray[np.float64] = np.zeros(len(features.labels))  # summed too: a rounded share of 1 hides none
    known = dict.fromkeys((feature.key for feature in features.pretrained), 0)
    count = LeakCount([(feature.column, feature.table) for feature in features.pretrained], features.labels)
    for block in range(len(rows.sizes)):
        frame = rows.read([block], 0)
        if frame.empty:
            continue
        weights = _weights(features, frame)
        labels = label_columns(frame, features.labels)
        positives += weights @ labels
        negatives += weights @ (1 - labels)
        weight += float(weights.sum())
        num_rows += len(frame)
        for key, share in features.coverage(frame).items():
            known[key] += round(share * len(frame))
        # Bags and categories are not compared: a history of past clicks, or an attribute such as an occupation, is an
        # input that the network may know too, not what the label is about.
        count.add(frame)
    if not weight > 0:
        raise DataError(f"there are no {what} rows, or none that weighs anything")
    for leak in count.leaks():
        warnings.warn(
            f"{what} rows leak through frozen vectors: {leak}. Train the vectors on other rows than the ranker, "
            "earlier ones or a disjoint split; test on rows that neither has seen",
            LeakWarning,
            stacklevel=4,
        )
    shares = np.where(positives == 0, 0.0, np.where(negatives == 0, 1.0, positives / weight))
    return Survey(tuple(shares.tolist()), {key: number / num_rows for key, number in known.items()})


def _weights(features: FeatureSpec, frame: pd.DataFrame) -> NDArray[np.float64]:  # (N,)
    return np.ones(len(frame)) if features.weight is None else weight_column(frame, features.weight).astype(np.float64)
