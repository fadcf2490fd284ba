"""Splits into what is known and what is held out, and the filters that keep an evaluation honest.

A split returns ``known, held_out`` in the order of the frame's rows and with its index.
"""

__all__ = ["Filtered", "drop_cold", "drop_seen", "split_by_time", "split_per_user", "split_random"]

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError
from recokit.frame.columns import check_columns, refuse_missing
from recokit.table.ids import id_array, id_type_of


class Filtered(NamedTuple):
    """What a filter kept, and how many rows it dropped."""

    frame: pd.DataFrame
    num_dropped: int


def split_by_time(
    frame: pd.DataFrame, *, at: float | str | datetime, time: str = "time"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split into the rows before ``at`` and those at it or later.

    Args:
        frame: Interactions.
        at: A date or time for a column of times (of its own time zone, where it names none); a number for numbers.
        time: The column of times.
    """
    values = time_column(frame, time)
    if pd.api.types.is_numeric_dtype(values):
        if isinstance(at, (bool, np.timedelta64)) or not isinstance(at, (int, float, np.integer, np.floating)):
            raise DataError(
                f"column {time!r} holds numbers ({values.dtype}), at is {at!r}: give a number of their unit"
            )
        if np.isnan(at):
            raise DataError(f"at is {at!r}, expected a number of the unit of column {time!r}")
        limit: Any = at
    else:
        limit = timestamp_of(at, values, time)
    later = (values >= limit).to_numpy(dtype=bool)
    return frame[~later], frame[later]


def split_per_user(
    frame: pd.DataFrame, fraction: float = 0.2, *, by: str = "time", user: str = "source"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hold out the last ``floor(n * fraction)`` of each user's n rows, by time.

    Of rows with the same time, the one that stands later in the frame is the later one.
    """
    _check_fraction(fraction)
    check_columns(frame, (user, by))
    codes = _codes(frame[user], user)
    order = np.lexsort((np.arange(len(frame)), time_column(frame, by).rank(method="dense").to_numpy(), codes))
    sizes = np.bincount(codes, minlength=1)
    # How many rows of its user stand behind each row: 0 for the last one.
    ends = np.cumsum(sizes)
    behind = np.empty(len(frame), np.int64)
    behind[order] = ends[codes[order]] - 1 - np.arange(len(frame))
    held_out = behind < _share(sizes, fraction)[codes]
    return frame[~held_out], frame[held_out]


def split_random(
    frame: pd.DataFrame, fraction: float, seed: int, *, unit: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hold out ``floor(n * fraction)`` of the n rows, or of the n values of ``unit`` with all their rows."""
    _check_fraction(fraction)
    if unit is None:
        codes = np.arange(len(frame))
    else:
        check_columns(frame, (unit,))
        codes = _codes(frame[unit], unit)
    num_units = int(codes.max(initial=-1)) + 1
    drawn = np.zeros(num_units, dtype=bool)
    drawn[np.random.default_rng(seed).permutation(num_units)[: _share(num_units, fraction)]] = True
    return frame[~drawn[codes]], frame[drawn[codes]]


def drop_seen(held_out: pd.DataFrame, known: pd.DataFrame, on: Sequence[str] = ("source", "target")) -> Filtered:
    """Drop the rows of ``held_out`` whose values in the columns ``on`` stand together in a row of ``known``."""
    for frame in (held_out, known):
        check_columns(frame, on)
    split = len(known)
    keys = np.zeros(split + len(held_out), np.int64)
    for column in on:
        _same_id_type(held_out[column], known[column], column)
        codes = _codes(pd.concat([known[column], held_out[column]], ignore_index=True), column)
        # Renumbered after every column, so that products stay small.
        keys = pd.factorize(keys * (int(codes.max(initial=0)) + 1) + codes)[0]
    return _filtered(held_out, ~np.isin(keys[split:], keys[:split]))


def drop_cold(
    held_out: pd.DataFrame,
    known: pd.DataFrame,
    columns: Sequence[str] | Mapping[str, Sequence[str]] = ("source", "target"),
) -> Filtered:
    """Drop the rows of ``held_out`` with an entity that ``known`` does not have.

    Args:
        held_out: The rows to filter.
        known: The rows that a model has seen.
        columns: The columns whose values have to stand in the same column of ``known``; or, for each column, those of
            ``known`` that count: ``{"source": ["source", "target"]}`` where both ends are of one entity type.
    """
    places = dict(columns) if isinstance(columns, Mapping) else {column: [column] for column in columns}
    keep = np.ones(len(held_out), dtype=bool)
    for column, known_columns in places.items():
        check_columns(held_out, (column,))
        check_columns(known, known_columns)
        for known_column in known_columns:
            _same_id_type(held_out[column], known[known_column], column)
        keep &= held_out[column].isin(pd.concat([known[name] for name in known_columns])).to_numpy()
    return _filtered(held_out, keep)


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction <= 1:
        raise ConfigError(f"fraction is {fraction}, expected 0 to 1")


def _share(num: Any, fraction: float) -> Any:
    """Return floor(num * fraction), undisturbed by how floats round: 0.29 of 100 is 29."""
    return np.floor(np.asarray(num) * fraction + 1e-9).astype(np.int64)


def _codes(values: "pd.Series[Any]", column: str) -> NDArray[np.int64]:
    """Number the distinct values in the order in which they appear; nulls are refused."""
    refuse_missing(values, column)
    return pd.factorize(values)[0].astype(np.int64, copy=False)


def time_column(frame: pd.DataFrame, time: str) -> "pd.Series[Any]":
    """Return a column of numbers or times without nulls."""
    check_columns(frame, (time,))
    values = frame[time]
    dates = isinstance(values.dtype, pd.ArrowDtype) and pa.types.is_date(values.dtype.pyarrow_dtype)
    if pd.api.types.is_bool_dtype(values) or not (
        dates or pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values)
    ):
        raise DataError(f"column {time!r} is {values.dtype}, expected numbers or times (pandas.to_datetime makes them)")
    refuse_missing(values, time)
    return values.astype(pd.ArrowDtype(pa.timestamp("ms"))) if dates else values


def timestamp_of(at: object, values: "pd.Series[Any]", time: str) -> pd.Timestamp:
    """Return ``at`` as a time that can be compared with ``values``."""
    if isinstance(at, (int, float, np.number)):
        raise DataError(f"column {time!r} holds times, at is the number {at!r}: give a date or time")
    try:
        stamp = pd.Timestamp(at)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise DataError(f"at is {at!r}, expected a date or time: {error}") from error
    if pd.isna(stamp):
        raise DataError(f"at is {at!r}, expected a date or time")
    zone = values.dt.tz
    if zone is None and stamp.tzinfo is not None:
        raise DataError(f"at is {at!r}, with a time zone, but column {time!r} has none")
    if zone is None or stamp.tzinfo is not None:
        return stamp
    local: Any = stamp.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    if pd.isna(local):
        raise DataError(
            f"at is {at!r}, which the clocks of {zone} show twice or never: give it with an offset, such as +00:00"
        )
    return local  # type: ignore[no-any-return]


def _same_id_type(left: "pd.Series[Any]", right: "pd.Series[Any]", column: str) -> None:
    """Refuse integers on one side and strings on the other, between which nothing would ever be equal."""
    if len(left) and len(right):
        types = [id_type_of(id_array(values, f"column {column!r}")) for values in (left, right)]
        if types[0] != types[1]:
            raise DataError(f"column {column!r}: held-out ids are {types[0]}, known ones {types[1]}")


def _filtered(frame: pd.DataFrame, keep: NDArray[np.bool_]) -> Filtered:
    return Filtered(frame[keep], int((~keep).sum()))
