"""Columns of a frame as the arrays that features are made of; what cannot be read is refused here, by name.

Ids and categories are int64 or strings (booleans count as 0 and 1). A missing id is unknown, a missing label is an
error, a missing dense value is up to the caller: it comes back as NaN.
Shapes: N rows of the frame, V values of all its lists, F columns, T labels.
"""

__all__ = [
    "Vocabulary",
    "column_of",
    "dense_columns",
    "group_column",
    "hash_column",
    "label_columns",
    "list_column",
    "list_weights",
    "naming",
    "value_column",
    "weight_column",
]

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recokit.errors import DataError, closest
from recokit.id_hash import hash_ids
from recokit.table import Ids
from recokit.table.id_column import IdColumn
from recokit.table.ids import id_array


class Vocabulary:
    """The known values of a category: code 1 is the first, code 0 is everything else.

    Args:
        values: Integers or strings, unique, none missing.
        what: What an error calls them.
    """

    def __init__(self, values: Ids, what: str = "the vocabulary") -> None:
        self.values = id_array(values, what)
        if self.values.null_count:
            raise DataError(f"{what} has {self.values.null_count} missing values")
        self._column = IdColumn.of(self.values, what)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Vocabulary(<{len(self)} values>)"

    def codes(self, values: pa.Array) -> NDArray[np.int64]:
        """Return the code of each value, 0 where it is unknown or missing."""
        return self._column.rows(values, "values") + 1


@contextmanager
def naming(column: str) -> Iterator[None]:
    """Say which column it was when something inside refuses its content."""
    try:
        yield
    except DataError as error:
        raise DataError(f"column {column!r}: {error}") from error


def column_of(frame: pd.DataFrame, name: str) -> "pd.Series[Any]":
    """Return the one column of that name, or say which one there is instead."""
    if name not in frame.columns:
        raise DataError(f"the frame has no column {name!r}; {closest(name, map(str, frame.columns))}")
    if (count := list(frame.columns).count(name)) > 1:
        raise DataError(f"the frame has {count} columns called {name!r}: give each a name of its own")
    return frame[name]


def value_column(frame: pd.DataFrame, name: str) -> pa.Array:  # (N,)
    """Read a column of ids or categories as int64 or large_string, missing ones null."""
    series = column_of(frame, name)
    return id_array(series.astype("Int64") if pd.api.types.is_bool_dtype(series) else series, f"column {name!r}")


def hash_column(frame: pd.DataFrame, name: str) -> NDArray[np.int64]:  # (N,)
    """Read a column of ids as 63-bit hashes (the upper bits of ``hash_ids``), -1 where one is missing."""
    ids = value_column(frame, name)
    there = ids.is_valid().to_numpy(zero_copy_only=False)
    hashes = np.full(len(ids), -1, np.int64)
    hashes[there] = (hash_ids(ids.drop_null()) >> np.uint64(1)).astype(np.int64)
    return hashes


def list_column(frame: pd.DataFrame, name: str) -> tuple[pa.Array, NDArray[np.int64]]:
    """Read a column of lists as their values (V,) and offsets (N + 1,); a missing list is an empty one."""
    values, offsets = _lists(frame, name, "integers or of strings", pa.int64())
    return id_array(values, f"column {name!r}"), offsets


def list_weights(frame: pd.DataFrame, name: str, offsets: NDArray[np.int64], column: str) -> NDArray[np.float32]:
    """Read lists of weights (V,): one for each value of the lists of ``column``, finite and not negative."""
    values, own = _lists(frame, name, "numbers", pa.float64())
    if not np.array_equal(own, offsets):
        row = int(np.flatnonzero(np.diff(own) != np.diff(offsets))[0])
        raise DataError(
            f"column {name!r} has {np.diff(own)[row]} weights in row {row}, column {column!r} {np.diff(offsets)[row]} "
            "values: expected as many"
        )
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise DataError(f"column {name!r} holds lists of {values.type}, expected lists of numbers")
    return _checked_weights(values.cast(pa.float64()).to_numpy(zero_copy_only=False), name)


def dense_columns(frame: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float64]:  # (N, F)
    """Read numeric columns; a missing value is NaN, an infinite one is refused."""
    out = np.empty((len(frame), len(names)))
    for position, name in enumerate(names):
        out[:, position] = _numbers(frame, name)
        if np.isinf(out[:, position]).any():
            raise DataError(f"column {name!r} has {int(np.isinf(out[:, position]).sum())} infinite values")
    return out


def label_columns(frame: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float32]:  # (N, T)
    """Read columns of labels: 0 or 1, none missing."""
    out = np.empty((len(frame), len(names)), dtype=np.float32)
    for position, name in enumerate(names):
        values = _numbers(frame, name)
        wrong = values[(values != 0) & (values != 1)]
        if len(wrong):
            raise DataError(f"label {name!r} has {len(wrong)} values that are neither 0 nor 1, such as {wrong[0]:g}")
        out[:, position] = values
    return out


def weight_column(frame: pd.DataFrame, name: str) -> NDArray[np.float32]:  # (N,)
    """Read the weights of rows: finite and not negative."""
    return _checked_weights(_numbers(frame, name), name)


def group_column(frame: pd.DataFrame, name: str) -> NDArray[np.int64]:  # (N,)
    """Number the groups of a frame in the order of their first row; -1 for rows of none."""
    return pd.factorize(column_of(frame, name))[0].astype(np.int64)


def _numbers(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    series = column_of(frame, name)
    if not pd.api.types.is_numeric_dtype(series):
        raise DataError(f"column {name!r} is {series.dtype}, expected numbers")
    return series.to_numpy(dtype=np.float64, na_value=np.nan)


def _checked_weights(values: NDArray[np.float64], name: str) -> NDArray[np.float32]:
    wrong = values[~(np.isfinite(values) & (values >= 0))]
    if len(wrong):
        raise DataError(
            f"weight {name!r} has {len(wrong)} values that are negative or not finite, such as {wrong[0]:g}"
        )
    return values.astype(np.float32)


def _lists(
    frame: pd.DataFrame, name: str, content: str, empty: pa.DataType
) -> tuple[pa.Array | pa.ChunkedArray, NDArray[np.int64]]:
    """Return the values (V,) of a column of lists of ``content`` and their offsets (N + 1,)."""
    series = column_of(frame, name)
    try:
        array = pa.array(series, from_pandas=True)
    except pa.ArrowException as error:
        raise DataError(f"column {name!r} has to hold lists of {content}: {error}") from error
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_null(array.type):
        array = array.cast(pa.list_(empty))
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        raise DataError(f"column {name!r} holds {array.type}, a bag needs a list in every row")
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    values = array.flatten()
    values = values.cast(empty) if pa.types.is_null(values.type) else values  # every list is empty
    return values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
