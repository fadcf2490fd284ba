"""Sampled negatives: other items in the same context, for logs that hold positives alone.

    sample_negatives(clicks, movies, column="movie", query="user", ratio=4, seed=0)
    fit(ranker, clicks, valid, negatives=SampledNegatives(movies, column="movie", query="user", ratio=4))

Decisions:
- A negative takes the columns that the catalog has (the item and its attributes) from the drawn item, and all others
  (the query, its attributes, the time) from its positive.
- It is never a known positive of its query: draws that are get drawn again, all at once, round after round; what
  is left after some rounds is drawn from what remains of the catalog.
- An item may be drawn twice for one positive, as independent draws are.

Shapes: P positives, R negatives of each, N items, K known pairs.
"""

__all__ = ["Distribution", "NegativeSampler", "SampledNegatives", "sample_negatives"]

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, closest
from recokit.frame.columns import check_columns, refuse_missing
from recokit.frame.digest import frame_digest
from recokit.table.id_column import IdColumn
from recokit.table.ids import Ids, id_array, ids_digest

Distribution = Literal["uniform", "popularity"]
_Codes: TypeAlias = NDArray[np.int64]

_ROUNDS = 30  # of a query that knows half of the catalog, one draw in 10^9 is left then


@dataclass(frozen=True, eq=False)
class SampledNegatives:
    """How to draw negatives: what ``sample_negatives`` does once, ``fit`` does anew in every epoch.

    Args:
        catalog: The items that can be drawn, unique: a frame with their attributes, or ids alone.
        column: The column of items, in the catalog and among the positives.
        query: The column whose values have known positives, such as a user.
        ratio: Negatives of each positive.
        distribution: ``uniform`` over the catalog, or by ``popularity``: in proportion to the number of an item's
            positives.
        power: Of that number; 0.75 draws popular items less often than they come (Mikolov et al. 2013).
        exclude: Further known positives, in columns of the same two names.
    """

    catalog: "pd.DataFrame | Ids"
    column: str
    query: str
    ratio: int = 4
    distribution: Distribution = "uniform"
    power: float = 1.0
    exclude: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        if hasattr(self.catalog, "ids"):
            raise ConfigError(
                f"catalog is {self.catalog!r}, expected a frame or ids: take its .ids, or their attributes"
            )
        if self.distribution not in get_args(Distribution):
            choices = closest(str(self.distribution), get_args(Distribution))
            raise ConfigError(f"distribution is {self.distribution!r}; {choices}")
        if isinstance(self.ratio, bool) or not isinstance(self.ratio, int | np.integer) or self.ratio < 1:
            raise ConfigError(f"ratio is {self.ratio!r}, expected a number of negatives of at least 1")
        if not 0 <= self.power < np.inf:
            raise ConfigError(f"power is {self.power}, expected at least 0")
        if self.query == self.column:
            raise ConfigError(
                f"query and column are both {self.query!r}: one is whose positives they are, one the item"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the catalog brings."""
        return tuple(self.catalog.columns) if isinstance(self.catalog, pd.DataFrame) else (self.column,)

    def sampler(self, positives: Iterable[pd.DataFrame]) -> "NegativeSampler":
        """Read the known positives of all frames, one after the other, and return what draws negatives for them.

        Raises:
            DataError: A column is missing, an id is null or of another type than the catalog's, or the catalog is empty
                or has an item twice.
        """
        return NegativeSampler(self, positives)

    def identity(self) -> dict[str, Any]:
        """Return what tells these negatives from others, as JSON takes it."""
        catalog = _catalog(self)
        excluded = (
            None if self.exclude is None else [ids_digest(_ids(self.exclude, n)) for n in (self.query, self.column)]
        )
        return {
            "items": ids_digest(_ids(catalog, self.column)),
            "attributes": {str(name): frame_digest(catalog[[name]]) for name in catalog.columns if name != self.column},
            "column": self.column,
            "query": self.query,
            "ratio": int(self.ratio),
            "distribution": self.distribution,
            "power": float(self.power),
            "exclude": excluded,
        }


class NegativeSampler:
    """Draws negatives; made by ``SampledNegatives.sampler``.

    Attributes:
        rows_each: Rows that come of one positive: itself and its negatives.
    """

    def __init__(self, settings: SampledNegatives, positives: Iterable[pd.DataFrame]) -> None:
        self._settings, self._catalog = settings, _catalog(settings)
        self.rows_each = 1 + int(settings.ratio)
        if settings.query in self._catalog.columns:
            raise ConfigError(
                f"the catalog has the query's column {settings.query!r}, which a negative would take from the drawn "
                "item: leave it out of the catalog"
            )
        self._items = IdColumn.of(_ids(self._catalog, settings.column), f"the catalog's column {settings.column!r}")
        count = self._items.count
        if not count:
            raise DataError("the catalog has no items")
        pairs = [self._pairs(frame) for frame in positives]
        popularity = sum((np.bincount(items[items >= 0], minlength=count) for _, items in pairs), np.zeros(count))
        self._weights = popularity**settings.power if settings.distribution == "popularity" else np.ones(count)
        if settings.distribution == "popularity":
            self._weights[popularity == 0] = 0.0  # whatever the power
        self._drawable = np.flatnonzero(self._weights)
        self._cumulated = np.cumsum(self._weights[self._drawable])
        if settings.exclude is not None:
            pairs.append(self._pairs(settings.exclude))
        self._queries, self._keys = self._known(pairs)
        # How many of the items that could be drawn each query knows already.
        drawable = self._keys[self._weights[self._keys % count] > 0] // count
        self._num_known = np.bincount(drawable, minlength=self._queries.count)

    def sample(self, positives: pd.DataFrame, generator: np.random.Generator, *, label: str = "label") -> pd.DataFrame:
        """Return each positive, labelled 1, followed by its negatives, labelled 0.

        Args:
            positives: Rows (P,) of which a column of labels, if there is one, holds 1 alone.
            generator: Where the draws come from.
            label: The column of labels.

        Raises:
            DataError: A query knows all items, so that there is no negative of it, or an item whose attributes the
                positives lack is not in the catalog.
        """
        if label in positives.columns and not (positives[label] == 1).all():
            wrong = int((positives[label] != 1).sum())
            raise DataError(f"{wrong} of {len(positives)} rows to draw negatives for have a {label!r} that is not 1")
        queries = self._queries.rows(_ids(positives, self._settings.query), "queries")  # (P,)
        self._refuse_full(positives, queries)
        drawn = self._draw_unknown(np.repeat(queries, self.rows_each - 1), generator)  # (P * R,)
        return self._joined(positives, drawn, label)

    def _pairs(self, frame: pd.DataFrame) -> tuple[pa.Array, _Codes]:
        """Return queries and the rows of their items; -1 for one that is not in the catalog."""
        queries = _ids(frame, self._settings.query)
        return queries, self._items.rows(_ids(frame, self._settings.column), f"column {self._settings.column!r}")

    def _known(self, pairs: list[tuple[pa.Array, _Codes]]) -> tuple[IdColumn, _Codes]:
        """Return the queries and the sorted keys (K,) of known pairs: query * N + item."""
        types = sorted({str(queries.type) for queries, _ in pairs if len(queries)})
        if len(types) > 1:
            raise DataError(f"column {self._settings.query!r} holds {types[0]} in some rows and {types[1]} in others")
        queries = pa.chunked_array([queries for queries, _ in pairs if len(queries)] or [pa.array([], pa.int64())])
        column = IdColumn.of(queries.unique(), "queries")
        codes = [
            column.rows(each)[items >= 0] * self._items.count + items[items >= 0] for each, items in pairs if len(each)
        ]
        return column, np.unique(np.concatenate([*codes, np.empty(0, np.int64)]))

    def _refuse_full(self, positives: pd.DataFrame, queries: _Codes) -> None:
        if not len(self._drawable):
            raise DataError("no item of the catalog has a positive, so that none can be drawn by popularity")
        known = self._num_known[queries[queries >= 0]]
        if (known >= len(self._drawable)).any():
            row = np.flatnonzero(queries >= 0)[int(np.argmax(known >= len(self._drawable)))]
            query = positives[self._settings.query].iloc[[row]].tolist()[0]
            raise DataError(
                f"{self._settings.query} {query!r} has all {len(self._drawable)} items that could be drawn among its "
                "known positives: leave its rows out, or give a larger catalog"
            )

    def _draw_unknown(self, queries: _Codes, generator: np.random.Generator) -> _Codes:
        """Draw an item for each of ``queries`` (P * R,) that is not among its known ones."""
        items = self._draw(len(queries), generator)
        known = np.flatnonzero(self._is_known(queries, items))
        for _ in range(_ROUNDS):
            items[known] = self._draw(len(known), generator)
            known = known[self._is_known(queries[known], items[known])]
            if not len(known):
                return items
        for query in np.unique(queries[known]):  # those that know nearly everything: from what remains, one by one
            rows = known[queries[known] == query]
            ends = np.searchsorted(self._keys, [query * self._items.count, (query + 1) * self._items.count])
            weights = self._weights.copy()
            weights[self._keys[slice(*ends)] % self._items.count] = 0.0
            items[rows] = generator.choice(len(weights), len(rows), p=weights / weights.sum())
        return items

    def _draw(self, size: int, generator: np.random.Generator) -> _Codes:
        if self._settings.distribution == "uniform":
            return generator.integers(self._items.count, size=size)
        # Inverse transform sampling: the place of a uniform number among the cumulated weights.
        at = np.searchsorted(self._cumulated, generator.random(size) * self._cumulated[-1], side="right")
        items: _Codes = self._drawable[np.minimum(at, len(self._drawable) - 1)]
        return items

    def _is_known(self, queries: _Codes, items: _Codes) -> NDArray[np.bool_]:
        keys = queries * self._items.count + items  # negative for a query without known positives
        at = np.searchsorted(self._keys, keys)
        found: NDArray[np.bool_] = np.append(self._keys, -1)[at] == keys
        return found & (queries >= 0)

    def _joined(self, positives: pd.DataFrame, drawn: _Codes, label: str) -> pd.DataFrame:
        """Put positives and negatives together, in blocks of a positive and its negatives."""
        num, each = len(positives), self.rows_each
        place = np.arange(num * each)
        # Where each row of the result stands among the positives' values with the drawn ones behind.
        source = np.where(place % each == 0, place // each, num + place // each * (each - 1) + place % each - 1)
        own = self._attributes(positives)
        columns: dict[Any, pd.Series[Any]] = {}
        for name in dict.fromkeys([*positives.columns, *self._catalog.columns]):
            if name == label:
                continue
            if name in self._catalog.columns:
                values = pd.concat([own[name], self._catalog[name].iloc[drawn]], ignore_index=True)
                columns[name] = values.iloc[source].reset_index(drop=True)
            else:
                columns[name] = positives[name].iloc[place // each].reset_index(drop=True)
        columns[label] = pd.Series((place % each == 0).astype(np.int64))
        return pd.DataFrame(columns)

    def _attributes(self, positives: pd.DataFrame) -> pd.DataFrame:
        """Return what the catalog brings for the positives themselves: their own columns first."""
        lacking = [name for name in self._catalog.columns if name not in positives.columns]
        if not lacking:
            return positives
        items = self._items.rows(_ids(positives, self._settings.column))
        if (items < 0).any():
            item = positives[self._settings.column].iloc[[int(np.argmax(items < 0))]].tolist()[0]
            raise DataError(
                f"{self._settings.column} {item!r} is not in the catalog, which alone has column {lacking[0]!r}"
            )
        return positives.assign(**{name: self._catalog[name].iloc[items].array for name in lacking})


def sample_negatives(
    positives: pd.DataFrame,
    catalog: "pd.DataFrame | Ids",
    *,
    column: str,
    query: str,
    ratio: int,
    seed: int,
    distribution: Distribution = "uniform",
    power: float = 1.0,
    exclude: pd.DataFrame | None = None,
    label: str = "label",
) -> pd.DataFrame:
    """Return every positive, labelled 1, followed by ``ratio`` negatives in the same context, labelled 0.

    A negative is its positive with another item: what the catalog has stands for the drawn item, all else is the
    positive's. No negative is a known positive of its query, those of ``positives`` and ``exclude``. The same seed
    draws the same items.

    Args:
        positives: Rows (P,), positives all.
        catalog: The items that can be drawn, unique: a frame with their attributes, or ids alone.
        column: The column of items.
        query: The column whose values have known positives, such as a user.
        ratio: Negatives of each positive, R.
        seed: Of the draws.
        distribution: ``uniform`` over the catalog, or in proportion to an item's positives (``popularity``).
        power: Of that popularity; such as 0.75.
        exclude: Further known positives, in the columns ``query`` and ``column`` name.
        label: The column of labels, made or overwritten.

    Returns:
        A frame (P * (1 + R),): the columns of the positives, those that only the catalog has, the label.

    Raises:
        ConfigError: A setting is out of range.
        DataError: A column is missing, an id is null or of another type than the catalog's, the catalog has an item
            twice, or a query knows all items.

    >>> likes = pd.DataFrame({"user": ["u", "v"], "movie": [1, 2]})
    >>> sample_negatives(likes, [1, 2], column="movie", query="user", ratio=1, seed=0)
      user  movie  label
    0    u      1      1
    1    u      2      0
    2    v      2      1
    3    v      1      0
    """
    settings = SampledNegatives(
        catalog, column, query, ratio=ratio, distribution=distribution, power=power, exclude=exclude
    )
    return settings.sampler([positives]).sample(positives, np.random.default_rng(seed), label=label)


def _catalog(settings: SampledNegatives) -> pd.DataFrame:
    catalog = settings.catalog
    if isinstance(catalog, pd.DataFrame):
        return catalog.reset_index(drop=True)
    return pd.DataFrame({settings.column: id_array(catalog, "the catalog").to_pandas()})


def _ids(frame: pd.DataFrame, column: str) -> pa.Array:
    check_columns(frame, (column,))
    refuse_missing(frame[column], column)
    return id_array(frame[column], f"column {column!r}")
