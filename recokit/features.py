"""What a ranker reads: columns of a frame, through which tables, as which arrays. No torch here.

Decisions:
- A spec is a value. ``spec.fit(train)`` returns a new one that carries what was learned from the training rows (means,
  standard deviations, vocabularies), and a checkpoint keeps it: what serves reads exactly what trained.
- Dense features are standardised, because a ranker's layers expect numbers of about 1. A NaN is refused; with
  ``missing="indicator"`` it stands at the mean and a second 0/1 column per feature says so.
- ``categorical={"country": 200}`` keeps the 200 most frequent values of the training rows; a sequence instead of a
  number is the vocabulary itself. Code 0 is every other value, missing ones included.
- Bags (columns of lists) are values and offsets, not padded: long lists cost nobody else anything, and it is the layout
  of Arrow's lists, torch's ``embedding_bag`` and TorchRec's KeyedJaggedTensor.

Shapes: B rows of a batch, F dense features, T labels, V values of all the lists of a bag.
"""

__all__ = ["Bag", "Batch", "FeatureSpec", "Pretrained", "Statistics", "take"]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, Generic, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, closest
from recokit.feature_columns import (
    Vocabulary,
    dense_columns,
    group_column,
    label_columns,
    list_column,
    naming,
    value_column,
    weight_column,
)
from recokit.table import EmbeddingTable, as_vectors

Usage = Literal["concat", "sum", "init"]
Unknown = Literal["zero", "learned"]
Pooling = Literal["mean", "sum"]
Values: TypeAlias = int | Sequence[int] | Sequence[str]
Array = TypeVar("Array")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Pretrained:
    """An id column whose vectors come from a table.

    Args:
        column: The id column.
        table: Where its ids are looked up.
        name: The feature's name, the column's by default; needed where one column carries several tables.
        usage: ``concat``, a feature of its own; ``sum``, added to the trainable vector of the same categorical column;
            ``init``, a trainable feature that starts from the table.
        unknown: What an id that is not in the table gets: zeros, or one ``learned`` vector.
    """

    column: str
    table: EmbeddingTable
    name: str | None = None
    usage: Usage = "concat"
    unknown: Unknown = "zero"

    def __post_init__(self) -> None:
        as_vectors(self.table, f"the feature {self.key!r}")
        _check_choice(self.key, "usage", self.usage, get_args(Usage))
        _check_choice(self.key, "unknown", self.unknown, get_args(Unknown))

    @property
    def key(self) -> str:
        """The feature's name in a batch."""
        return self.name or self.column


@dataclass(frozen=True)
class Bag:
    """A column of lists, pooled to one vector: the last ten clicks through a table, or genres through a vocabulary.

    Args:
        column: The column of lists.
        values: The table of their ids; or a vocabulary, or its size, for trainable vectors.
        name: The feature's name, the column's by default.
        pooling: ``mean`` or ``sum`` over the known values of a list.
    """

    column: str
    values: EmbeddingTable | Values
    name: str | None = None
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        _check_choice(self.key, "pooling", self.pooling, get_args(Pooling))
        if not isinstance(self.values, EmbeddingTable):
            object.__setattr__(self, "values", _checked_values(self.key, self.values))

    @property
    def key(self) -> str:
        """The feature's name in a batch."""
        return self.name or self.column

    @property
    def table(self) -> EmbeddingTable | None:
        """The table of a bag of ids."""
        return self.values if isinstance(self.values, EmbeddingTable) else None

    @property
    def vocabulary(self) -> Values | None:
        """The vocabulary of a bag with trainable vectors, or its size."""
        return None if isinstance(self.values, EmbeddingTable) else self.values


@dataclass(frozen=True)
class Batch(Generic[Array]):
    """The arrays of some rows: NumPy's from a spec, torch's in a ranker.

    Row numbers are -1 and codes 0 where an id or a value is unknown.
    """

    rows: Mapping[str, Array]  # (B,) per pretrained feature
    dense: Array  # (B, F), or (B, 2F) with indicators
    categorical: Mapping[str, Array]  # (B,) codes per column
    bags: Mapping[str, tuple[Array, Array]]  # rows or codes (V,) and offsets (B + 1,)
    labels: Array | None = None  # (B, T)
    group: Array | None = None  # (B,)
    weight: Array | None = None  # (B,)

    def __len__(self) -> int:
        return len(self.dense)  # type: ignore[arg-type]

    def map(self, function: Callable[[Array], Other]) -> "Batch[Other]":
        """Apply a function to every array, such as the move to a tensor or a device."""
        return Batch(
            rows={name: function(array) for name, array in self.rows.items()},
            dense=function(self.dense),
            categorical={name: function(array) for name, array in self.categorical.items()},
            bags={name: (function(values), function(offsets)) for name, (values, offsets) in self.bags.items()},
            labels=None if self.labels is None else function(self.labels),
            group=None if self.group is None else function(self.group),
            weight=None if self.weight is None else function(self.weight),
        )


def take(batch: Batch[NDArray[Any]], positions: NDArray[np.int64]) -> Batch[NDArray[Any]]:
    """Return the rows of a NumPy batch at ``positions``, in that order."""
    rows = replace(batch, bags={}).map(lambda array: array[positions])
    return replace(rows, bags={name: _take_lists(*bag, positions) for name, bag in batch.bags.items()})


@dataclass(frozen=True)
class Statistics:
    """What a spec has learned from training rows."""

    mean: tuple[float, ...] = ()  # (F,)
    std: tuple[float, ...] = ()  # (F,); 1 for a constant feature
    vocabularies: Mapping[str, Vocabulary] = field(default_factory=dict)  # by categorical column and by bag


@dataclass(frozen=True)
class FeatureSpec:
    """The features, labels, groups and weights that a ranker reads from a frame.

    Args:
        pretrained: Id columns with their tables.
        dense: Numeric columns.
        categorical: Columns of integers or strings with trainable vectors: how many values to keep, or which.
        bags: Columns of lists.
        label: The column of labels (0 or 1), or several.
        group: The column that metrics group by, such as a user or a session.
        weight: The column of row weights.
        missing: What a NaN among the dense features is: an error, or worth an indicator.
        statistics: What ``fit`` has learned; nobody else sets it.
    """

    pretrained: Sequence[Pretrained] = ()
    dense: Sequence[str] = ()
    categorical: Mapping[str, Values] = field(default_factory=dict)
    bags: Sequence[Bag] = ()
    label: str | Sequence[str] | None = None
    group: str | None = None
    weight: str | None = None
    missing: Literal["error", "indicator"] = "error"
    statistics: Statistics | None = None

    def __post_init__(self) -> None:
        _check_choice("the spec", "missing", self.missing, ("error", "indicator"))
        if isinstance(self.dense, str):
            raise ConfigError(f"dense={self.dense!r} is one name, expected a list of names")
        categorical = {column: _checked_values(column, values) for column, values in self.categorical.items()}
        object.__setattr__(self, "categorical", categorical)
        self._check_names()
        for feature in self.pretrained:
            if feature.usage == "sum" and feature.column not in self.categorical:
                raise ConfigError(
                    f"pretrained feature {feature.key!r} is to be summed with the trainable vector of column "
                    f"{feature.column!r}, which is not among the categorical ones: add it, or use 'concat'"
                )
        if self.statistics is None and not self.dense and not self._sizes():
            object.__setattr__(self, "statistics", Statistics(vocabularies=self._given()))

    @property
    def labels(self) -> tuple[str, ...]:
        """The label columns: none, one or several."""
        return () if self.label is None else (self.label,) if isinstance(self.label, str) else tuple(self.label)

    @property
    def tables(self) -> tuple[EmbeddingTable, ...]:
        """Every table that a feature reads, each once."""
        tables = [feature.table for feature in self.pretrained]
        tables += [bag.table for bag in self.bags if bag.table is not None]
        return tuple({id(table): table for table in tables}.values())

    @property
    def dense_width(self) -> int:
        """How many columns ``Batch.dense`` has."""
        return len(self.dense) * (2 if self.missing == "indicator" else 1)

    def num_codes(self, name: str) -> int:
        """How many codes a categorical column or a bag with a vocabulary can have, the unknown 0 included."""
        values = self._vocabularies()[name]
        return 1 + (values if isinstance(values, int) else len(values))

    def fit(self, frame: pd.DataFrame) -> "FeatureSpec":
        """Learn means, standard deviations and vocabularies from training rows; a new spec carries them."""
        if frame.empty:
            raise DataError("the training frame has no rows")
        dense = self._raw_dense(frame)
        for position, name in enumerate(self.dense):
            if np.isnan(dense[:, position]).all():
                raise DataError(f"column {name!r} is missing in every training row")
        columns = {bag.key: bag.column for bag in self.bags}
        vocabularies = self._given()
        for name, size in self._sizes().items():
            values = list_column(frame, columns[name])[0] if name in columns else value_column(frame, name)
            if values.null_count == len(values):
                raise DataError(f"column {columns.get(name, name)!r} is missing in every training row")
            vocabularies[name] = Vocabulary.most_frequent(values, size)
        mean = np.nanmean(dense, axis=0)
        statistics = Statistics(
            mean=tuple(mean.tolist()),
            std=tuple(_spread(dense, mean).tolist()),
            vocabularies=vocabularies,
        )
        return replace(self, statistics=statistics)

    def batch(self, frame: pd.DataFrame, *, labels: bool = True) -> Batch[NDArray[Any]]:
        """Turn rows of a frame into arrays.

        Args:
            frame: The rows.
            labels: Whether to read labels, groups and weights too; a frame to predict for has none.

        Raises:
            DataError: a column is missing or does not hold what it has to.
            ConfigError: the spec has not been fitted.
        """
        if self.statistics is None:
            raise ConfigError("the spec knows neither statistics nor vocabularies yet: spec = spec.fit(train)")
        vocabularies = self.statistics.vocabularies
        names = self.labels if labels else ()
        return Batch(
            rows={feature.key: _rows(feature, frame) for feature in self.pretrained},
            dense=self._standardise(self._raw_dense(frame), self.statistics),
            categorical={
                name: _codes(vocabularies[name], value_column(frame, name), name) for name in self.categorical
            },
            bags={bag.key: _bag(bag, frame, vocabularies) for bag in self.bags},
            labels=label_columns(frame, names) if names else None,
            group=group_column(frame, self.group) if labels and self.group else None,
            weight=weight_column(frame, self.weight) if labels and self.weight else None,
        )

    def coverage(self, frame: pd.DataFrame) -> dict[str, float]:
        """Return the share of rows whose id is in the table, per pretrained feature; NaN of no rows."""
        rows = {feature.key: _rows(feature, frame) for feature in self.pretrained}
        return {key: float(np.mean(known >= 0)) if len(known) else math.nan for key, known in rows.items()}

    def _check_names(self) -> None:
        columns = {f.column for f in self.pretrained}
        keys = [f.key for f in self.pretrained] + [b.key for b in self.bags] + list(self.dense)
        keys += [name for name in self.categorical if name not in columns]  # both at once is what "sum" needs
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ConfigError(f"two features are called {twice!r}: give each a name of its own, name=...")
        if not keys:
            raise ConfigError("the spec reads no feature at all")
        leak = {*columns, *(bag.column for bag in self.bags), *self.dense, *self.categorical}.intersection(self.labels)
        if leak:
            raise ConfigError(f"column {min(leak)!r} is a label and a feature at once")

    def _vocabularies(self) -> dict[str, Values]:
        return {**self.categorical, **{bag.key: bag.vocabulary for bag in self.bags if bag.vocabulary is not None}}

    def _sizes(self) -> dict[str, int]:
        """Vocabularies still to be learned."""
        return {name: values for name, values in self._vocabularies().items() if isinstance(values, int)}

    def _given(self) -> dict[str, Vocabulary]:
        given = {name: values for name, values in self._vocabularies().items() if not isinstance(values, int)}
        return {name: Vocabulary(values, f"the vocabulary of {name!r}") for name, values in given.items()}

    def _raw_dense(self, frame: pd.DataFrame) -> NDArray[np.float64]:  # (B, F)
        dense = dense_columns(frame, self.dense)
        gaps = np.isnan(dense).sum(axis=0)
        if self.missing == "error" and gaps.any():
            first = int(np.flatnonzero(gaps)[0])
            raise DataError(
                f"column {self.dense[first]!r} is missing in {gaps[first]} of {len(frame)} rows: fill it, or let "
                "FeatureSpec(missing='indicator') put the mean there and add a 0/1 feature"
            )
        return dense

    def _standardise(self, dense: NDArray[np.float64], statistics: Statistics) -> NDArray[np.float32]:
        scaled = (dense - np.asarray(statistics.mean)) / np.asarray(statistics.std)
        gaps = np.isnan(dense)
        columns = [np.where(gaps, 0.0, scaled), gaps] if self.missing == "indicator" else [scaled]
        return np.concatenate(columns, axis=1, dtype=np.float32)


def _spread(dense: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:  # (B, F), (F,) -> (F,)
    """Standard deviations, 1 for a constant feature: rounding alone gives 1000 rows of 0.1 a deviation of 1e-17."""
    std: NDArray[np.float64] = np.nanstd(dense, axis=0)
    constant = (np.nanmax(dense, axis=0) == np.nanmin(dense, axis=0)) | (std <= 1e-13 * np.abs(mean))
    return np.where(constant, 1.0, std)


def _rows(feature: Pretrained, frame: pd.DataFrame) -> NDArray[np.int64]:
    ids = value_column(frame, feature.column)
    with naming(feature.column):
        return feature.table.rows(ids)


def _codes(vocabulary: Vocabulary, values: pa.Array, column: str) -> NDArray[np.int64]:
    with naming(column):
        return vocabulary.codes(values)


def _bag(
    bag: Bag, frame: pd.DataFrame, vocabularies: Mapping[str, Vocabulary]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # (V,), (B + 1,)
    values, offsets = list_column(frame, bag.column)
    with naming(bag.column):
        return (bag.table.rows(values) if bag.table is not None else vocabularies[bag.key].codes(values)), offsets


def _take_lists(
    values: NDArray[Any], offsets: NDArray[np.int64], positions: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Take the lists at ``positions``: their values one after the other, and the new offsets."""
    lengths = np.diff(offsets)[positions]
    ends = np.cumsum(lengths)
    # Value v of the result is the (v - start of its list)-th of the old list.
    shift = np.repeat(offsets[positions] - (ends - lengths), lengths)
    return values[np.arange(len(shift)) + shift], np.concatenate([[0], ends])


def _check_choice(feature: str, what: str, choice: str, known: tuple[str, ...]) -> None:
    if choice not in known:
        raise ConfigError(f"{what} of {feature!r} is {choice!r}; {closest(str(choice), known)}")


def _checked_values(name: str, values: Any) -> Values:
    is_number = isinstance(values, Integral) and not isinstance(values, bool)  # NumPy's integers are numbers, too
    checked: Values = int(values) if is_number else values
    if isinstance(values, bool | str) or (checked if isinstance(checked, int) else len(checked)) < 1:
        raise ConfigError(f"the vocabulary of {name!r} is {values!r}: give values, or how many to keep (at least 1)")
    return checked
