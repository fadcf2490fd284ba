"""Bootstrap intervals: percentiles of a statistic over resampled rows, queries or groups (Efron 1979).

A resample of n units with replacement is a vector of n multiplicities, and a statistic of a resample is the same
statistic with those as weights. So nothing is copied, means of many metrics share one resample, and two models are
compared on the same resamples. Rows of one user depend on each other: give ``groups``, and whole groups are resampled.

Same seed, same interval: sums are einsum's, because BLAS splits a long dot product by the number of threads, and is
slower where those are contended. Shapes: n units, S samples, M statistics.
"""

__all__ = ["Interval", "bootstrap_mean", "bootstrap_samples", "bootstrap_statistic", "interval", "paired_bootstrap"]

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from recokit.errors import ConfigError, DataError
from recokit.metrics.arrays import Floats, at_least_one


class Interval(NamedTuple):
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float


def bootstrap_mean(values: npt.ArrayLike, *, samples: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Mean of per-query ``values`` (n,) and its percentile interval over resampled queries.

    >>> bootstrap_mean([0.5, 0.5, 0.5])
    Interval(value=0.5, low=0.5, high=0.5)
    """
    column = _values(values, "values")
    means = bootstrap_samples(
        lambda weight: np.einsum("i,i", weight, column) / len(column), len(column), samples=samples, seed=seed
    )
    return interval(float(column.mean()), means, level=level)


def paired_bootstrap(
    a: npt.ArrayLike, b: npt.ArrayLike, *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean difference ``a - b`` of two systems on the same queries, and its interval.

    Both are arrays (n,) of per-query values in the same order, so a query that is hard for both cancels: the interval
    is narrower than two separate ones suggest. The difference is significant at ``1 - level`` where it excludes 0.
    """
    first, second = _values(a, "a"), _values(b, "b")
    if len(first) != len(second):
        raise DataError(f"a paired bootstrap needs values of the same queries; a has {len(first)} and b {len(second)}")
    return bootstrap_mean(first - second, samples=samples, seed=seed, level=level)


def bootstrap_statistic(
    statistic: Callable[..., float],
    *arrays: npt.ArrayLike,
    groups: npt.ArrayLike | pd.Series | None = None,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Any statistic of rows that takes weights, and its interval over resampled rows or groups.

    Args:
        statistic: Called as ``statistic(*arrays, weight=(n,))``: ``rce``, ``roc_auc`` and the like as they are, or a
            difference of two of them. Resamples without a value (one class only) are left out of the percentiles.
        arrays: Of n rows each.
        groups: The unit that is resampled, (n,), where rows depend on each other; None resamples rows.
        samples: How many resamples.
        seed: Of the resamples.
        level: Probability that the interval is to cover.

    >>> from recokit.metrics import rce
    >>> labels, old, new = [1, 0, 1, 0], [0.6, 0.5, 0.6, 0.4], [0.9, 0.2, 0.8, 0.1]
    >>> gain = bootstrap_statistic(
    ...     lambda y, new, old, weight: rce(y, new, weight=weight) - rce(y, old, weight=weight), labels, new, old
    ... )
    >>> gain.low > 0
    True
    """
    columns = [np.asarray(array) for array in arrays]
    if not columns or len({len(column) for column in columns}) != 1:
        raise DataError(f"a bootstrap needs arrays of equal length, not of {[len(column) for column in columns]}")
    n = len(columns[0])

    def weighted(weight: Floats) -> float:
        return statistic(*columns, weight=weight)

    drawn = bootstrap_samples(weighted, n, groups=groups, samples=samples, seed=seed)
    return interval(float(weighted(np.ones(n))), drawn, level=level)


def bootstrap_samples(
    statistic: Callable[[Floats], npt.ArrayLike],
    n: int,
    *,
    groups: npt.ArrayLike | pd.Series | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Floats:
    """Values of ``statistic`` under ``samples`` resamples of ``n`` rows, (S,) or (S, M).

    ``statistic`` takes the multiplicity of every row, (n,), and returns a number or M of them. With ``groups`` (n,)
    the rows of one group share theirs.
    """
    if n < 1:
        raise DataError("a bootstrap needs at least one value")
    code = None if groups is None else pd.factorize(pd.Series(groups))[0]
    if code is not None and (len(code) != n or (code < 0).any()):
        raise DataError(f"groups have to be {n}, none missing; {len(code)} came, {int((code < 0).sum())} missing")
    units = n if code is None else int(code.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(at_least_one(samples, "samples")):
        multiplicity = np.bincount(rng.integers(units, size=units, dtype=np.int64), minlength=units).astype(np.float64)
        drawn.append(np.asarray(statistic(multiplicity if code is None else multiplicity[code]), dtype=np.float64))
    return np.stack(drawn)


def interval(value: float, drawn: Floats, *, level: float = 0.95) -> Interval:
    """Percentile interval of resampled values ``drawn`` (S,), NaN left out; NaN where nothing is left."""
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level has to lie between 0 and 1, not {level}")
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(value, float(low), float(high))


def _values(values: npt.ArrayLike, name: str) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or np.isnan(column).any():
        raise DataError(f"{name} have to be one-dimensional without NaN, not of shape {column.shape} with "
                        f"{int(np.isnan(column).sum())} NaN")  # fmt: skip
    return column
