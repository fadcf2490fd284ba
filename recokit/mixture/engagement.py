"""A log of engagements as numbers: who, with which item, how much, how long ago.

Decisions: sources are numbered in ascending order of their ids, so that what is made of a log does not depend on the
order of its rows. An interaction weighs its ``weight``; with a half-life, it is halved with every half-life that it is
older. As mixtures are normalised for each source, age is counted from the source's own latest interaction: that changes
no proportion, and nobody who left long ago vanishes in rounding. ``now`` therefore only says what must not be there.

Shapes: E interactions, S sources, N items.
"""

__all__ = ["Engagements", "Times", "counts_of", "half_life_of", "number_ids", "read_engagements", "sketches_of"]

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, closest
from recokit.frame import read_frame
from recokit.frame.columns import with_ids
from recokit.frame.reading import Source
from recokit.frame.splits import time_column, timestamp_of
from recokit.index.scoring import Rows
from recokit.table import EmbeddingTable, IdType
from recokit.table.ids import id_array

Times = Literal["needed", "optional", "unused"]

_COLUMNS = ("source", "target", "weight", "time")
_SECONDS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"([0-9]+(?:[.][0-9]*)?(?:e[+-]?[0-9]+)?) ?(s|min|h|d|w|)", re.IGNORECASE)
_SPAN = 4  # integers are numbered by address while they span at most this many times as many as there are


@dataclass(frozen=True, eq=False)
class Engagements:
    """The interactions of a log that count: their weights are more than 0.

    Attributes:
        ids: The ids of all sources in the log (S,), ascending; also of those without an interaction here.
        sources: (E,) rows of ``ids``.
        items: (E,) rows of a table of items, -1 where the item is not there.
        weights: (E,) finite, more than 0; None where all are 1.
        ages: (E,) how much older than its source's latest one an interaction is, in seconds for a column of times, in
            its unit for one of numbers; None where times were not asked for.
        asked: How many interactions the log has, those of weight 0 too.
    """

    ids: pa.Array
    sources: NDArray[np.int32]
    items: Rows
    weights: NDArray[np.float64] | None
    ages: NDArray[np.float64] | None
    asked: int

    def decayed(self, half_life: float | None) -> NDArray[np.float64]:
        """Return the weights (E,), halved with every half-life of age."""
        weights = np.ones(len(self.sources)) if self.weights is None else self.weights
        return weights if half_life is None or self.ages is None else weights * np.exp2(-self.ages / half_life)

    def take(self, which: NDArray[Any]) -> "Engagements":
        """Return some of the interactions, by a mask or by positions; the sources stay."""
        return Engagements(
            self.ids,
            self.sources[which],
            self.items[which],
            None if self.weights is None else self.weights[which],
            None if self.ages is None else self.ages[which],
            self.asked,
        )


def read_engagements(
    log: Source,
    items: EmbeddingTable,
    *,
    columns: Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
    times: Times = "unused",
    now: float | str | datetime | None = None,
    id_type: IdType | None = None,
) -> tuple[Engagements, pd.DataFrame]:
    """Read a log and look its targets up.

    Args:
        log: Whatever ``read_frame`` reads.
        items: The table of the targets.
        columns: What the log calls ``source``, ``target``, ``weight`` and ``time``, where it calls them otherwise.
        weights: What an interaction weighs by the content of the column ``weight``, such as ``{"view": 1, "buy": 5}``.
        times: Whether to read times and count ages: always, where the column is there, or only to compare with ``now``.
        now: No interaction may be later; the column of times has to be there.
        id_type: What the ids of sources have to be.

    Returns:
        The engagements, and the frame of all interactions with the columns source and target.

    Raises:
        DataError: A column is missing, a weight or a time is not one, an interaction is later than ``now``, or the
            targets' ids are of another type than the items'.
    """
    frame = _read(log, columns or {}, "needed" if now is not None else times, typed=weights is not None)
    if id_type is not None:
        frame = with_ids(frame, ("source",), id_type)
    amounts = _weights(frame, weights)
    clock = _times(frame, now) if "time" in frame else None
    ids, sources = number_ids(id_array(frame["source"]))
    engagements = Engagements(ids, sources, items.rows(frame["target"]), amounts, None, len(frame))
    if clock is not None and times != "unused":
        ages = _ages(*clock, sources, len(ids))
        engagements = Engagements(ids, sources, engagements.items, amounts, ages, len(frame))
    if amounts is not None and not amounts.all():
        engagements = engagements.take(amounts > 0)
    return engagements, frame


def half_life_of(value: float | str | timedelta | None) -> float | None:
    """Return a half-life as a number: seconds where a duration such as ``"30d"`` is given.

    >>> half_life_of("30d")
    2592000.0
    """
    if value is None:
        return None
    number = math.nan
    if isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.timedelta64)):
        number = float(value)
    elif isinstance(value, str):
        number = _number(value)
    elif isinstance(value, (timedelta, np.timedelta64)):
        number = pd.Timedelta(value).total_seconds()
    if not 0 < number < math.inf:
        raise ConfigError(
            f"half_life is {value!r}, expected more than 0: a number, or a duration in s, min, h, d or w: '30d'"
        )
    return number


def counts_of(engagements: Engagements, kept: Engagements, asked: int, made: int) -> dict[str, int]:
    """Count, for ``meta``, what a mixture was made of and what had to be passed over."""
    return {
        "interactions": engagements.asked,
        "unused_interactions": engagements.asked - len(kept.sources),
        "sources": asked,
        "missing": asked - made,
    }


def sketches_of(frame: Any, relation: str | None, entity: str, target: str) -> dict[str, Any]:
    """Sketch the edges of a log, for ``meta``; nothing where they are of no relation."""
    if relation is None:
        return {}
    from recokit.overlap import SKETCH_SIZE, edge_sketch

    sketch = edge_sketch(frame["source"], frame["target"], size=SKETCH_SIZE)
    return {"edge_sketches": [{"relation": relation, "source": entity, "target": target, **sketch}]}


def number_ids(ids: pa.Array) -> tuple[pa.Array, NDArray[np.int32]]:
    """Return the distinct ids in ascending order, and the number (E,) of each id among them; there are no nulls."""
    if pa.types.is_int64(ids.type) and len(ids):
        values = ids.to_numpy()
        first, last = int(values.min()), int(values.max())
        if last - first < max(_SPAN * len(values), 1 << 16):  # by address, which is ten times as fast as hashing
            there = np.zeros(last - first + 1, np.bool_)
            there[values - first] = True
            numbers = np.cumsum(there, dtype=np.int32) - np.int32(1)
            return pa.array(np.flatnonzero(there) + first), numbers[values - first]
    encoded = ids.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    numbers = np.empty(len(order), np.int32)
    numbers[order] = np.arange(len(order), dtype=np.int32)
    return encoded.dictionary.take(pa.array(order)), numbers[encoded.indices.to_numpy()]


def _read(log: Source, columns: Mapping[str, str], times: Times, *, typed: bool) -> pd.DataFrame:
    """Read source, target, the weight where there is one or it has to be, and the time as asked for."""
    for name in columns:
        if name not in _COLUMNS:
            raise ConfigError(f"columns names {name!r}; {closest(name, _COLUMNS)}")
    wanted = {name: columns.get(name, name) for name in _COLUMNS if times != "unused" or name != "time"}
    optional = [] if typed or "weight" in columns else ["weight"]
    if times == "optional" and "time" not in columns:
        optional.append("time")
    return read_frame(log, wanted, optional=optional)


def _weights(frame: pd.DataFrame, types: Mapping[str, float] | None) -> NDArray[np.float64] | None:
    """Return the weights (E,), or None where all are 1."""
    if "weight" not in frame:
        return None
    if types is not None:
        return _weights_of_types(frame["weight"], types)
    try:
        weights = frame["weight"].to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"the log's weights are {frame['weight'].dtype}, expected numbers; weights= says what each type weighs"
        ) from error
    if len(bad := np.flatnonzero(~((weights >= 0) & (weights < np.inf)))):
        raise DataError(
            f"{len(bad)} of {len(weights)} weights of the log are no number of 0 or more, the first is "
            f"{weights[bad[0]]} in row {bad[0]}"
        )
    # By a power of two, which rounds nothing: sums of the largest floats stay finite.
    largest = float(weights.max(initial=0.0))
    return np.ldexp(weights, -np.frexp(largest)[1]) if largest > 1e100 else weights


def _weights_of_types(values: "pd.Series[Any]", types: Mapping[str, float]) -> NDArray[np.float64]:
    for name, weight in types.items():
        if isinstance(weight, bool) or not 0 <= weight < math.inf:
            raise ConfigError(f"weights: {name!r} weighs {weight!r}, expected a number of 0 or more")
    codes, found = pd.factorize(values, use_na_sentinel=False)
    for code, name in enumerate(found):
        if name not in types:
            row = int(np.flatnonzero(codes == code)[0])
            raise DataError(f"the log's row {row} is of the type {name!r}, which weights= lacks; known: {list(types)}")
    return np.array([types[name] for name in found], np.float64)[codes]


def _times(frame: pd.DataFrame, now: float | str | datetime | None) -> tuple[NDArray[Any], float]:
    """Return the times (E,) as numbers, and how many seconds one is, or 1 for a column of numbers."""
    values = time_column(frame, "time")
    numeric = pd.api.types.is_numeric_dtype(values)
    if now is not None:
        limit = _number_now(now) if numeric else timestamp_of(now, values, "time")
        if len(late := np.flatnonzero((values > limit).to_numpy(np.bool_))):
            raise DataError(
                f"{len(late)} of {len(values)} interactions are later than now, {limit}, the first is of "
                f"{values.iloc[late[0]]} in row {late[0]}: leave them out (split_by_time), or say a later now"
            )
    if numeric:
        times = values.to_numpy(np.float64 if values.dtype.kind == "f" else np.int64)
        if times.dtype.kind == "f" and not np.isfinite(times).all():
            raise DataError(f"column 'time' has {(~np.isfinite(times)).sum()} values that are infinite")
        return times, 1.0
    stamps: Any = values.dt.tz_convert("UTC").dt.tz_localize(None) if values.dt.tz is not None else values
    array = stamps.to_numpy(dtype="datetime64[us]")
    return array.view(np.int64), 1e-6


def _ages(times: NDArray[Any], seconds: float, sources: NDArray[np.int32], count: int) -> NDArray[np.float64]:
    lowest = np.iinfo(np.int64).min if times.dtype.kind == "i" else -np.inf
    latest = np.full(count, lowest, times.dtype)
    np.maximum.at(latest, sources, times)
    ages: NDArray[np.float64] = (latest[sources] - times) * seconds
    return ages


def _number_now(now: object) -> float:
    if isinstance(now, bool) or not isinstance(now, (int, float, np.number)) or math.isnan(now):
        raise DataError(f"column 'time' holds numbers, now is {now!r}: give a number of their unit")
    return float(now)


def _number(text: str) -> float:
    """Return a number, or the seconds of a duration; NaN where a text is neither."""
    match = _DURATION.fullmatch(text.strip())
    return math.nan if match is None else float(match[1]) * _SECONDS[match[2].lower()]
