"""Several metrics of one thing, with their values under the same resamples: what becomes the rows of a report.

Two of them subtract, resample by resample, because resamples depend on nothing but the seed and the number of units.
Shapes: M metrics, S resamples, n units.
"""

__all__ = ["Measured", "mean_of", "measure", "said_of_intervals"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recokit.errors import ConfigError, DataError
from recokit.metrics import Interval, bootstrap_samples, interval
from recokit.metrics.arrays import Floats, Ints
from recokit.report import Result

LEVEL = 0.95
SEED = 0


@dataclass(frozen=True, eq=False)
class Measured:
    """M metrics and what resampling makes of them.

    Attributes:
        metrics: Names.
        counts: Queries, groups or rows that each is over.
        values: Their values, (M,).
        drawn: Their values under resamples, (S, M); S is 0 where no intervals were asked for.
    """

    metrics: tuple[str, ...]
    counts: tuple[int, ...]
    values: Floats
    drawn: Floats

    def __sub__(self, other: "Measured") -> "Measured":
        if (self.metrics, self.counts) != (other.metrics, other.counts):
            raise DataError("only metrics of the same queries or rows can be compared")
        return replace(self, values=self.values - other.values, drawn=self.drawn - other.drawn)

    def intervals(self) -> list[Interval]:
        """Return each metric with its interval, whose ends are NaN where there are no resamples."""
        return [
            interval(value, drawn, level=LEVEL) for value, drawn in zip(self.values.tolist(), self.drawn.T, strict=True)
        ]

    def results(
        self, name: str, *, protocol: Mapping[str, Any], seed: int | None, group: str | None = None
    ) -> list[Result]:
        """One row per metric."""
        rows = []
        for metric, n, (value, low, high) in zip(self.metrics, self.counts, self.intervals(), strict=True):
            ends = {"low": low, "high": high} if len(self.drawn) else {}
            rows.append(Result(name, metric, value, **ends, n=n, seed=seed, group=group, protocol=dict(protocol)))
        return rows


def measure(
    statistic: Callable[[Floats], Floats],
    n: int,
    *,
    metrics: Sequence[str],
    counts: Sequence[int],
    samples: int,
    groups: Ints | None = None,
) -> Measured:
    """Compute ``statistic``, a function of the multiplicities (n,) of its units, for all units and for resamples."""
    if samples < 0:
        raise ConfigError(f"bootstrap has to be a number of resamples, or 0 for none, not {samples}")
    values = statistic(np.ones(n))
    drawn = np.zeros((0, len(values)))
    if samples:
        drawn = bootstrap_samples(statistic, n, groups=groups, samples=samples, seed=SEED)
    return Measured(tuple(metrics), tuple(counts), values, drawn)


def mean_of(runs: Sequence[Measured]) -> Measured:
    """Return the means over several measurements of the same rows, such as the seeds of one ranker.

    Each resample gets a mean of its own, so that the interval is of what the rows leave open about these very runs; how
    much another seed would change is not in it.
    """
    if not runs or len({(run.metrics, run.counts) for run in runs}) > 1:
        raise DataError("only metrics of the same queries or rows have a mean")
    values = np.mean([run.values for run in runs], axis=0)
    return replace(runs[0], values=values, drawn=np.mean([run.drawn for run in runs], axis=0))


def said_of_intervals(unit: str, samples: int) -> str:
    """Name the intervals, for a protocol."""
    return f"{LEVEL:.0%} bootstrap over {unit}, {samples} resamples" if samples else "none"
