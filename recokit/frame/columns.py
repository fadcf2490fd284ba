"""Columns that are what they have to be: there, without nulls, ids of one type; and the two frames of retrieval."""

__all__ = ["check_candidates", "check_columns", "check_pairs", "missing_column", "refuse_missing", "with_ids"]

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import DataError, closest
from recokit.table.ids import IdType, id_array, id_type_of


def check_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` with ids in ``query`` and ``candidate``; further columns stay.

    Raises:
        DataError: A column is missing, or an id is null or neither integer nor string.
    """
    check_columns(frame, ("query", "candidate"))
    return with_ids(frame, ("query", "candidate"), None)


def check_candidates(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` if it is a candidate frame: ids, scores that are numbers, ranks 1, 2, ... for each query.

    Raises:
        DataError: A column is missing, a type is wrong, a score is NaN, a candidate is there twice for a query, or the
            ranks of a query are not 1 to the number of its candidates.
    """
    check_columns(frame, ("query", "candidate", "score", "rank"))
    frame = with_ids(frame, ("query", "candidate"), None)
    if frame["score"].dtype.kind not in "fiu" or frame["rank"].dtype.kind not in "iu":
        raise DataError(
            f"candidates: score is {frame['score'].dtype} and rank {frame['rank'].dtype}, expected numbers and integers"
        )
    _refuse_rows(frame, frame["score"].isna().to_numpy(), "a score that is NaN")
    _refuse_rows(frame, frame.duplicated(["query", "candidate"]).to_numpy(), "a candidate that its query has already")
    _refuse_rows(frame, frame.duplicated(["query", "rank"]).to_numpy(), "a rank that its query has already")
    size = frame.groupby("query", sort=False)["rank"].transform("size")
    outside = (frame["rank"] < 1) | (frame["rank"] > size)
    _refuse_rows(frame, outside.to_numpy(), "a rank that is not among 1 to the number of its query's candidates")
    return frame


def check_columns(frame: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise a DataError for the first of ``columns`` that the frame does not have."""
    for column in columns:
        if column not in frame.columns:
            raise missing_column("the frame", column, frame.columns)


def missing_column(what: str, name: str, there: Iterable[object]) -> DataError:
    """Return the error for a column that is not there: its name, the nearest one, and what is there."""
    names = [str(column) for column in there]
    near = closest(name, names)
    known = "" if near.startswith("known") else f" It has: {', '.join(names)}"
    return DataError(f"{what} has no column {name!r}; {near}{known}")


def refuse_missing(values: "pd.Series[Any]", column: str) -> None:
    """Raise a DataError that counts the nulls and names the first row, if there are any."""
    missing = np.flatnonzero(values.isna().to_numpy())
    if len(missing):
        raise DataError(f"column {column!r}: {len(missing)} of {len(values)} are null, the first in row {missing[0]}")


def with_ids(frame: pd.DataFrame, columns: Iterable[str], id_type: IdType | None) -> pd.DataFrame:
    """Return ``frame`` with int64 or string ids in ``columns``."""
    changed = {}
    for column in columns:
        refuse_missing(frame[column], column)  # before the type: it is what makes floats of integers
        array = id_array(frame[column], f"column {column!r}")
        if id_type is not None and id_type_of(array) != id_type:
            array = _cast(array, id_type, column)
        if frame[column].dtype != np.int64 or id_type_of(array) != "int64":
            changed[column] = pd.Series(array.to_pandas().array, index=frame.index)
    return frame.assign(**changed)


def _cast(array: pa.Array, id_type: IdType, column: str) -> pa.Array:
    try:
        return array.cast(pa.int64() if id_type == "int64" else pa.large_string())
    except pa.ArrowInvalid as error:
        raise DataError(f"column {column!r}: ids are not {id_type}: {error}") from error


def _refuse_rows(frame: pd.DataFrame, bad: NDArray[np.bool_], what: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        first = frame[["query", "candidate", "score", "rank"]].iloc[[row]].to_dict("records")[0]
        raise DataError(
            f"candidates: {int(bad.sum())} of {len(frame)} rows have {what}, the first is row {row}: {first}"
        )
