"""What a spec learns from training rows, chunk by chunk: moments of dense features, counts of values. No torch here.

One chunk gives the same bytes as NumPy's ``nanmean`` and ``nanstd`` of the whole. Several are merged as Chan et al.
(1983) merge variances, which never subtracts two large numbers: it agrees with the whole to about 1e-12. Counts are
exact, and of equally frequent values the smaller comes first, so vocabularies do not depend on the chunks at all.

Shapes: N rows of a chunk, F dense features.
"""

__all__ = ["Moments", "ValueCounts"]

import warnings

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recokit.errors import DataError
from recokit.feature_columns import Vocabulary

_Floats = NDArray[np.float64]


class Moments:
    """Counts, means, variances and ranges of columns; NaN is left out.

    Args:
        width: How many columns there are, F.
    """

    def __init__(self, width: int) -> None:
        self.count: _Floats = np.zeros(width)  # (F,), like the others
        self.variance: _Floats = np.zeros(width)
        # The mean is the first chunk's plus an offset: of times such as 1.7e9 a double would hold too few digits of it.
        self._first: _Floats = np.full(width, np.nan)
        self._offset: _Floats = np.zeros(width)
        self._chunks: NDArray[np.int64] = np.zeros(width, np.int64)  # those with a number
        self._smallest: _Floats = np.full(width, np.inf)
        self._largest: _Floats = np.full(width, -np.inf)

    @property
    def mean(self) -> _Floats:
        """Means (F,), NaN where there is no number; of one chunk the very bytes of ``nanmean``."""
        return np.where(self._chunks <= 1, self._first, self._first + self._offset)

    @property
    def spread(self) -> _Floats:
        """Standard deviations (F,), 1 for a constant feature: rounding alone gives 1000 rows of 0.1 one of 1e-17."""
        std: _Floats = np.sqrt(self.variance)
        constant = (self._largest == self._smallest) | (std <= 1e-13 * np.abs(self.mean))
        return np.where(constant, 1.0, std)

    def add(self, chunk: _Floats) -> None:  # (N, F)
        """Take rows into account."""
        count = (~np.isnan(chunk)).sum(axis=0).astype(np.float64)
        there = count > 0
        with warnings.catch_warnings():  # of columns without a number, which are masked below
            warnings.simplefilter("ignore", RuntimeWarning)
            mean, variance = np.nanmean(chunk, axis=0), np.nanvar(chunk, axis=0)
            self._first = np.where(self._chunks == 0, mean, self._first)
            offset = np.nanmean(chunk - self._first, axis=0)
        total = self.count + count
        share = np.divide(count, total, out=np.zeros_like(total), where=there)  # 1 at the first: nothing is rounded
        delta = np.where(there, offset - self._offset, 0.0)
        variance = np.where(there, variance, 0.0)
        between = np.where(share < 1, delta**2 * share * (1 - share), 0.0)
        self._offset = self._offset + delta * share
        self.variance = self.variance * (1 - share) + variance * share + between
        self.count, self._chunks = total, self._chunks + there
        self._smallest = np.fmin(self._smallest, np.fmin.reduce(chunk, axis=0, initial=np.inf))
        self._largest = np.fmax(self._largest, np.fmax.reduce(chunk, axis=0, initial=-np.inf))


class ValueCounts:
    """How often each value of a category comes; memory grows with the distinct values, not with the rows.

    Args:
        column: What errors call it.
    """

    def __init__(self, column: str) -> None:
        self._column = column
        self._counted: pa.Table | None = None
        self._waiting: list[pa.Table] = []

    def add(self, values: pa.Array) -> None:
        """Take values into account, int64 or large_string; missing ones are left out.

        Raises:
            DataError: They are integers, and those before were strings, or the other way round.
        """
        counts = pc.value_counts(values.drop_null())
        if not len(counts):
            return
        table = pa.table({"values": counts.field("values"), "counts": counts.field("counts")})
        first = self._counted if self._counted is not None else table
        if table.schema != first.schema:
            types = [str(each.schema.field("values").type) for each in (first, table)]
            raise DataError(f"column {self._column!r} holds {types[0]} in some rows and {types[1]} in others")
        if self._counted is None:
            self._counted = table
            return
        self._waiting.append(table)
        # Merged when as much waits as is merged already: each value is moved a constant number of times.
        if sum(map(len, self._waiting)) >= len(self._counted):
            self._counted = self._merged()

    def most_frequent(self, size: int) -> Vocabulary:
        """Keep the ``size`` most frequent values, most frequent first; of equally frequent ones the smaller first.

        Raises:
            DataError: There is none.
        """
        if self._counted is None:
            raise DataError(f"column {self._column!r} is missing in every training row")
        table = self._merged()
        order = [("counts", "descending"), ("values", "ascending")]
        return Vocabulary(table.sort_by(order).column("values").slice(0, size))

    def _merged(self) -> pa.Table:
        tables, self._waiting = [self._counted, *self._waiting], []
        if len(tables) == 1:
            return tables[0]
        sums = pa.concat_tables(tables).group_by("values").aggregate([("counts", "sum")])
        return sums.rename_columns(["values", "counts"]).select(["values", "counts"])
