"""The arrays and frames that metrics take, checked once at the boundary.

Labels are 0 or 1, scores hold no NaN, weights are not negative: everything is float64 from here on. Query and
candidate ids are integers or strings, and the two frames of one evaluation have to agree on which: ``"1"`` is not
``1``, and a metric that never finds a hit should not be how one learns of it.
"""

__all__ = [
    "Floats",
    "Ints",
    "as_labels",
    "as_pairs",
    "as_predictions",
    "as_ranks",
    "as_scores",
    "as_weight",
    "at_least_one",
    "same_ids",
]

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from recokit.errors import ConfigError, DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def as_labels(labels: npt.ArrayLike) -> Floats:
    """Return 0/1 ``labels`` (n,) as float64; anything else is a DataError."""
    values = _vector(labels, "labels")
    wrong = (values != 0.0) & (values != 1.0)
    if wrong.any():
        raise DataError(
            f"labels have to be 0 or 1; {int(wrong.sum())} of {len(values)} are not, the first is "
            f"{values[wrong.argmax()]} at row {wrong.argmax()}"
        )
    return values


def as_scores(scores: npt.ArrayLike, n: int) -> Floats:
    """Return ``scores`` (n,) as float64; a NaN or another length is a DataError."""
    values = _vector(scores, "scores", n)
    if np.isnan(values).any():
        raise DataError(f"scores have to be numbers; {int(np.isnan(values).sum())} of {n} are NaN")
    return values


def as_predictions(predictions: npt.ArrayLike, n: int, *, logits: bool) -> Floats:
    """Return probabilities (n,), or logits where asked for, as float64; a probability outside [0, 1] is a DataError."""
    values = as_scores(predictions, n)
    outside = (values < 0.0) | (values > 1.0)
    if not logits and outside.any():
        raise DataError(
            f"predictions have to be probabilities; {int(outside.sum())} of {n} lie outside [0, 1], the first is "
            f"{values[outside.argmax()]} (logits are taken with logits=True)"
        )
    return values


def as_weight(weight: npt.ArrayLike | None, n: int) -> Floats:
    """Return ``weight`` (n,) as float64, ones where it is None; a negative or infinite one is a DataError."""
    if weight is None:
        return np.ones(n)
    values = _vector(weight, "weight", n)
    if not (np.isfinite(values) & (values >= 0.0)).all():
        raise DataError("weights have to be finite and not negative")
    return values


def as_pairs(frame: pd.DataFrame, name: str, columns: Sequence[str] = ("query", "candidate")) -> pd.DataFrame:
    """Return ``frame[columns]``; a missing column or a missing id is a DataError that names the frame."""
    if missing := [column for column in columns if column not in frame.columns]:
        raise DataError(f"{name} lacks the columns {missing}; it has {list(map(str, frame.columns))}")
    chosen = frame[list(columns)]
    for column in columns:
        if nulls := int(chosen[column].isna().sum()):
            raise DataError(f"column {column!r} of {name} has {nulls} missing values")
    return chosen


def same_ids(first: pd.Series, second: pd.Series, names: tuple[str, str]) -> None:
    """Refuse to match integer ids with strings: they would never be equal."""
    kinds = (_kind(first), _kind(second))
    if len(first) and len(second) and kinds[0] != kinds[1]:
        raise DataError(
            f"column {str(first.name)!r} holds {kinds[0]} ids in {names[0]} and {kinds[1]} ids in {names[1]}: "
            "they would never match"
        )


def as_ranks(rank: pd.Series) -> Ints:
    """Return the column ``rank`` of a candidate frame as int64, if it holds integers from 1."""
    values = rank.to_numpy()
    if len(values) and not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"column 'rank' of candidates has to hold integers from 1, not {rank.dtype}")
    values = values.astype(np.int64)
    if values.min(initial=1) < 1:
        raise DataError(f"column 'rank' of candidates has to start at 1; it holds {values.min()}")
    return values


def at_least_one(k: int, name: str = "k") -> int:
    """Return ``k``; less than 1, or no integer, is a ConfigError."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise ConfigError(f"{name} has to be an integer of at least 1, not {k!r}")
    if k < 1:
        raise ConfigError(f"{name} has to be at least 1, not {k}")
    return int(k)


def _vector(values: npt.ArrayLike, name: str, n: int | None = None) -> Floats:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} have to be numbers: {error}") from error
    if array.ndim != 1 or (n is not None and len(array) != n):
        raise DataError(f"{name} have to be one-dimensional{f' of length {n}' if n is not None else ''}, "
                        f"not of shape {array.shape}")  # fmt: skip
    return array


def _kind(ids: pd.Series) -> str:
    dtype = ids.dtype.categories.dtype if isinstance(ids.dtype, pd.CategoricalDtype) else ids.dtype
    if pd.api.types.is_integer_dtype(dtype):
        return "integer"
    if pd.api.types.is_object_dtype(dtype):
        return str(pd.api.types.infer_dtype(ids, skipna=True))
    return "string" if pd.api.types.is_string_dtype(dtype) else str(dtype)
