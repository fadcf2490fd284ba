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
- A hashed column has no vocabulary: its ids become 63-bit hashes that depend on the ids alone.

Shapes: B rows of a batch, F dense features, T labels, V values of all the lists of a bag.
"""

__all__ = ["Bag", "Batch", "FeatureSpec", "Pretrained", "Statistics", "take"]

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, closest
from recokit.feature_batch import Batch, take
from recokit.feature_columns import (
    Vocabulary,
    dense_columns,
    group_column,
    hash_column,
    label_columns,
    list_column,
    list_weights,
    naming,
    value_column,
    weight_column,
)
from recokit.feature_kinds import Bag, Pretrained, Values, brief_values, check_choice, checked_values
from recokit.feature_statistics import Moments, ValueCounts
from recokit.table import FeatureTable, Mixture


@dataclass(frozen=True)
class Statistics:
    """What a spec has learned from training rows."""

    mean: tuple[float, ...] = ()  # (F,)
    std: tuple[float, ...] = ()  # (F,); 1 for a constant feature
    vocabularies: Mapping[str, Vocabulary] = field(default_factory=dict)  # by categorical column and by bag


@dataclass(frozen=True, repr=False)
class FeatureSpec:
    """The features, labels, groups and weights that a ranker reads from a frame.

    Args:
        pretrained: Id columns with their tables.
        dense: Numeric columns.
        categorical: Columns of integers or strings with trainable vectors: how many values to keep, or which.
        bags: Columns of lists.
        hashed: Columns of ids without a vocabulary: their trainable vectors are computed from hashes of the ids (see
            ``recokit.layers.DeepHashEmbedding``).
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
    hashed: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_choice("the spec", "missing", self.missing, ("error", "indicator"))
        for what in ("dense", "hashed"):
            if isinstance(getattr(self, what), str):
                raise ConfigError(f"{what}={getattr(self, what)!r} is one name, expected a list of names")
        if not isinstance(self.categorical, Mapping):
            raise ConfigError(
                f"categorical={self.categorical!r}: expected columns with how many values to keep, or which"
            )
        for what in ("group", "weight"):
            if not isinstance(getattr(self, what), str | None):
                raise ConfigError(
                    f"{what}={getattr(self, what)!r}, expected the name of one column: join several to one"
                )
        categorical = {column: checked_values(column, values) for column, values in self.categorical.items()}
        object.__setattr__(self, "categorical", categorical)
        self._check_names()
        self._check_pretrained()
        if self.statistics is None and not self.dense and not self._sizes():
            object.__setattr__(self, "statistics", Statistics(vocabularies=self._given()))

    def __repr__(self) -> str:
        told = [f"{name}={list(getattr(self, name))}" for name in ("pretrained", "dense") if getattr(self, name)]
        if self.categorical:
            values = (f"{name!r}: {brief_values(each)}" for name, each in self.categorical.items())
            told.append(f"categorical={{{', '.join(values)}}}")
        told += [f"{name}={list(getattr(self, name))}" for name in ("bags", "hashed") if getattr(self, name)]
        told += [f"{name}={getattr(self, name)!r}" for name in ("label", "group", "weight") if getattr(self, name)]
        told += [] if self.missing == "error" else [f"missing={self.missing!r}"]
        return f"FeatureSpec({', '.join([*told, 'fitted' if self.statistics is not None else 'not fitted'])})"

    @property
    def labels(self) -> tuple[str, ...]:
        """The label columns: none, one or several."""
        return () if self.label is None else (self.label,) if isinstance(self.label, str) else tuple(self.label)

    @property
    def tables(self) -> tuple[FeatureTable, ...]:
        """Every table that a feature reads, each once."""
        tables = [feature.table for feature in self.pretrained]
        tables += [bag.table for bag in self.bags if bag.table is not None]
        return tuple({id(table): table for table in tables}.values())

    @property
    def dense_width(self) -> int:
        """How many columns ``Batch.dense`` has."""
        return len(self.dense_names)

    @property
    def dense_names(self) -> tuple[str, ...]:
        """What the columns of ``Batch.dense`` are: the dense features, then the 0/1 columns that are asked for."""
        missing = [f"{name} is missing" for name in self.dense if self.missing == "indicator"]
        return (*self.dense, *missing, *(f"{feature.key} is known" for feature in self._indicated()))

    def num_codes(self, name: str) -> int:
        """How many codes a categorical column or a bag with a vocabulary can have, the unknown 0 included."""
        values = self._vocabularies()[name]
        return 1 + (values if isinstance(values, int) else len(values))

    def fit(self, frames: pd.DataFrame | Iterable[pd.DataFrame]) -> "FeatureSpec":
        """Learn means, standard deviations and vocabularies from training rows; a new spec carries them.

        Args:
            frames: The rows, in one frame or in several, of which one at a time is in memory: vocabularies are those of
                the whole, means and deviations agree with them to about 1e-12.

        Raises:
            DataError: There are no rows, or a column is missing or does not hold what it has to.
        """
        columns = {bag.key: bag.column for bag in self.bags}
        moments = Moments(len(self.dense))
        counts = {name: ValueCounts(columns.get(name, name)) for name in self._sizes()}
        num_rows = 0
        for frame in [frames] if isinstance(frames, pd.DataFrame) else frames:
            if frame.empty:
                continue
            num_rows += len(frame)
            moments.add(self._raw_dense(frame))
            for name, values in counts.items():
                values.add(list_column(frame, columns[name])[0] if name in columns else value_column(frame, name))
        if not num_rows:
            raise DataError("the training frame has no rows")
        for name, count in zip(self.dense, moments.count, strict=True):
            if not count:
                raise DataError(f"column {name!r} is missing in every training row")
        learned = {name: counts[name].most_frequent(size) for name, size in self._sizes().items()}
        statistics = Statistics(
            mean=tuple(moments.mean.tolist()),
            std=tuple(moments.spread.tolist()),
            vocabularies={**self._given(), **learned},
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
        rows = {feature.key: _rows(feature, frame) for feature in self.pretrained}
        known = [rows[feature.key] >= 0 for feature in self._indicated()]
        bags = {bag.key: _bag(bag, frame, vocabularies) for bag in self.bags}
        return Batch(
            rows=rows,
            dense=self._standardise(self._raw_dense(frame), self.statistics, known),
            categorical={
                name: _codes(vocabularies[name], value_column(frame, name), name) for name in self.categorical
            },
            bags=bags,
            labels=label_columns(frame, names) if names else None,
            group=group_column(frame, self.group) if labels and self.group else None,
            weight=weight_column(frame, self.weight) if labels and self.weight else None,
            hashed={name: hash_column(frame, name) for name in self.hashed},
            bag_weights={
                bag.key: list_weights(frame, bag.weights, bags[bag.key][1], bag.column)
                for bag in self.bags
                if bag.weights is not None
            },
        )

    def coverage(self, frame: pd.DataFrame) -> dict[str, float]:
        """Return the share of rows whose id is in the table, per pretrained feature; NaN of no rows."""
        rows = {feature.key: _rows(feature, frame) for feature in self.pretrained}
        return {key: float(np.mean(known >= 0)) if len(known) else math.nan for key, known in rows.items()}

    def _check_names(self) -> None:
        columns = {f.column for f in self.pretrained}
        keys = [f.key for f in self.pretrained] + [b.key for b in self.bags] + list(self.dense)
        # A column may be pretrained and trainable at once, which is what "sum" needs.
        keys += [name for name in (*self.categorical, *self.hashed) if name not in columns]
        keys += [name for name in self.hashed if name in self.categorical]
        keys += [bag.key for bag in self.bags if bag.key in {*self.categorical, *self.hashed}]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ConfigError(f"two features are called {twice!r}: give each a name of its own, name=...")
        if not keys:
            raise ConfigError("the spec reads no feature at all")
        read = {*columns, *self.dense, *self.categorical, *self.hashed}
        read |= {column for bag in self.bags for column in (bag.column, bag.weights) if column is not None}
        if leak := read.intersection(self.labels):
            raise ConfigError(f"column {min(leak)!r} is a label and a feature at once")

    def _check_pretrained(self) -> None:
        features = {feature.key: feature for feature in self.pretrained}
        for feature in self.pretrained:
            if feature.usage == "sum" and feature.column not in (*self.categorical, *self.hashed):
                raise ConfigError(
                    f"pretrained feature {feature.key!r} is to be summed with the trainable vector of column "
                    f"{feature.column!r}, which is not among the categorical or hashed ones: add it, or use 'concat'"
                )
            if feature.target is None:
                continue
            if feature.target not in features:
                raise ConfigError(
                    f"the target of {feature.key!r} is {feature.target!r}, which is no pretrained feature; "
                    f"{closest(feature.target, features)}"
                )
            target = features[feature.target].table
            if isinstance(target, Mixture) or target.dim != feature.table.dim:
                raise ConfigError(
                    f"the target of {feature.key!r} is {feature.target!r} of {target!r}, expected a table with one "
                    f"vector of dim {feature.table.dim} for each id"
                )

    def _indicated(self) -> list[Pretrained]:
        return [feature for feature in self.pretrained if feature.unknown == "indicator"]

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

    def _standardise(
        self, dense: NDArray[np.float64], statistics: Statistics, known: Sequence[NDArray[np.bool_]]
    ) -> NDArray[np.float32]:
        scaled = (dense - np.asarray(statistics.mean)) / np.asarray(statistics.std)
        gaps = np.isnan(dense)
        columns = [np.where(gaps, 0.0, scaled), gaps] if self.missing == "indicator" else [scaled]
        return np.concatenate([*columns, *(each[:, np.newaxis] for each in known)], axis=1, dtype=np.float32)


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
