"""What a benchmark is made of: a task, the vectors that it measures, and what came out.

A task reads its labels once (``prepare``), and then measures one subject after another: the version itself, and
baselines that a vector has to beat. All subjects look alike to it: ``subject.vectors(table, rows)``. So a task of
your own has every baseline, and paired differences to each, without a line about them:

    @dataclass(frozen=True)
    class NearestAgrees:
        name: str
        table: str
        genres: pd.DataFrame  # columns id, genre

        def prepare(self, bench):
            rows = bench.table(self.table).rows(self.genres["id"])

            def measure(subject):
                vectors = unit(subject.vectors(self.table, rows))
                nearest = (vectors @ vectors.T - 2 * np.eye(len(rows))).argmax(axis=1)
                genre = self.genres["genre"].to_numpy()
                return Outcome.mean(f"{self.name} agrees", genre[nearest] == genre, bench=bench)

            return measure

Outcomes of two subjects subtract resample by resample, because resamples depend on nothing but the number of units.

Shapes: N rows of a table, B rows asked for, D dimension, M metrics, S resamples, n units.
"""

__all__ = ["Baseline", "Bench", "Measure", "Outcome", "Rivals", "Skipped", "Subject", "Task", "UnknownDegrees"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, closest
from recokit.evaluate.measured import Measured, measure, said_of_intervals
from recokit.metrics.arrays import Floats
from recokit.probes.degrees import Degrees, UnknownDegrees, degrees_of
from recokit.probes.subjects import Baseline, permutation, plain_vectors, random_vectors, said_of_table
from recokit.report import Result
from recokit.table import Comparator, FeatureTable, Version


@dataclass(frozen=True, eq=False)
class Bench:
    """What is measured, and how.

    Attributes:
        version: The version, or its tables by name.
        previous: The version before it, where there is one.
        seed: Of folds, of pairs, of samples, and of the baselines.
        bootstrap: Resamples for intervals; 0 for none.
    """

    version: Version | Mapping[str, FeatureTable]
    previous: Version | None = None
    seed: int = 0
    bootstrap: int = 1000
    _permuted: dict[str, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    def table(self, name: str) -> FeatureTable:
        """Open a table of any kind; a ConfigError names the nearest where there is none of this name."""
        if isinstance(self.version, Version):
            return self.version.open(name)
        if name not in self.version:
            raise ConfigError(f"there is no table {name!r}; {closest(name, self.version)}")
        return self.version[name]

    def permuted(self, name: str) -> NDArray[np.int64]:
        """Return which row's vector each row of a table gets in the baseline ``shuffled``, (N,)."""
        if name not in self._permuted:
            self._permuted[name] = permutation(self.table(name).count, name, self.seed)
        return self._permuted[name]


@dataclass(frozen=True, eq=False)
class Subject:
    """Vectors to measure: those of the version, or a baseline that stands in for them.

    Attributes:
        name: What rows of the report call it.
        kind: ``"version"``, ``"random"``, ``"degree"`` or ``"shuffled"``.
        bench: Where the tables are.
    """

    name: str
    kind: Literal["version"] | Baseline
    bench: Bench

    def vectors(self, table: str, rows: NDArray[Any], *, degrees: Degrees | None = None) -> NDArray[np.float32]:
        """Return the vectors (B, D) of rows (B,) of a table: float32.

        Of codes, what they decode to; of a mixture, the mean of its components by weight; under ``"random"``, standard
        normal numbers, the same for a row whenever it is asked for; under ``"shuffled"``, those of other rows; under
        ``"degree"``, log(1 + degree) as the one number, (B, 1).

        Args:
            table: Its name.
            rows: Rows from 0; an id that the table lacks has none.
            degrees: Of the table's entities; those that the version keeps, where not given.

        Raises:
            DataError: A row is -1.
            UnknownDegrees: There are none, and they are asked for; ``run_probes`` leaves this baseline out and says so.
        """
        opened, rows = self.bench.table(table), np.asarray(rows, np.int64)
        if (missing := int((rows < 0).sum())) > 0:
            raise DataError(f"{missing} of {len(rows)} rows of {table!r} are -1, ids that it lacks: leave them out")
        if self.kind == "random":
            return random_vectors(rows, opened.dim, f"{self.bench.seed} {table}")
        if self.kind == "degree":
            known = degrees or degrees_of(self.bench.version, table)
            logs: NDArray[np.float32] = np.log1p(known.values[rows]).astype(np.float32)[:, None]
            return logs
        return plain_vectors(opened, self.bench.permuted(table)[rows] if self.kind == "shuffled" else rows)

    def comparator(self, table: str) -> Comparator:
        """Return what makes a score of two of these vectors: the table's own, or the distance of two degrees."""
        return "l2" if self.kind == "degree" else self.bench.table(table).comparator

    def said(self, table: str, *, degrees: Degrees | None = None) -> str:
        """Say what the vectors are, for a protocol."""
        if self.kind == "random":
            return f"standard normal numbers, {self.bench.table(table).dim} dimensions"
        if self.kind == "degree":
            return f"log(1 + degree), {(degrees or degrees_of(self.bench.version, table)).said}"
        said = said_of_table(table, self.bench.table(table))
        return f"{said}, given to other ids" if self.kind == "shuffled" else said


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a task measured of one subject.

    Attributes:
        measured: M metrics and their values under resamples.
        groups: The label, relation or part that each is about, (M,); None for all.
        protocol: How this subject was measured, on top of what the task says of all.
    """

    measured: Measured
    groups: tuple[str | None, ...]
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        metric: str | Sequence[str],
        statistic: Callable[[Floats], Floats],
        units: int,
        *,
        bench: Bench,
        groups: Sequence[str | None] = (None,),
        counts: Sequence[int] | None = None,
        unit: str = "entities",
        protocol: Mapping[str, Any] | None = None,
    ) -> "Outcome":
        """Measure a statistic, one number for each of ``groups``, and its resamples.

        Args:
            metric: Its name, or those of M of them.
            statistic: From how often each unit is drawn, (n,), to values (M,), NaN where there is none.
            units: n, how many entities, queries or whatever is resampled there are.
            bench: Says how many resamples.
            groups: M of them.
            counts: What each value is over; the units where not given.
            unit: What is resampled, for the protocol.
            protocol: What the report should say of it.
        """
        counts = [units] * len(groups) if counts is None else counts
        names = [metric] * len(groups) if isinstance(metric, str) else metric
        measured = measure(statistic, units, metrics=names, counts=counts, samples=bench.bootstrap)
        said = {**(protocol or {}), "interval": said_of_intervals(unit, bench.bootstrap)}
        return cls(measured, tuple(groups), said)

    @classmethod
    def mean(
        cls,
        metric: str,
        values: npt.ArrayLike,
        *,
        bench: Bench,
        group: str | None = None,
        unit: str = "entities",
        protocol: Mapping[str, Any] | None = None,
    ) -> "Outcome":
        """Measure the mean of one number for each unit, (n,), and what other draws of the units would give."""
        column = np.asarray(values, np.float64)
        if column.ndim != 1 or not len(column) or np.isnan(column).any():
            raise DataError(f"{metric}: values of shape {column.shape}, expected one number for each unit, none NaN")
        return cls.of(
            metric,
            lambda weight: np.atleast_1d(weight @ column / len(column)),
            len(column),
            bench=bench,
            groups=(group,),
            unit=unit,
            protocol=protocol,
        )

    def __sub__(self, other: "Outcome") -> "Outcome":
        return replace(self, measured=self.measured - other.measured)

    def results(self, name: str, *, seed: int | None, protocol: Mapping[str, Any] | None = None) -> list[Result]:
        """One row for each metric and group; those over all groups first."""
        said = {**self.protocol, **(protocol or {})}
        rows = self.measured.results(name, protocol=said, seed=seed)
        grouped = [replace(row, group=group) for row, group in zip(rows, self.groups, strict=True)]
        return sorted(grouped, key=lambda row: row.group is not None)


@dataclass(frozen=True)
class Skipped:
    """A task that cannot be measured here: its rows have no value, and their protocol says why."""

    metric: str
    why: str
    group: str | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)


Measure: TypeAlias = Callable[[Subject], Outcome]


@dataclass(frozen=True)
class Rivals:
    """What measures one subject, and systems without vectors that this task has to compare with, by their names."""

    measure: Measure
    rivals: Mapping[str, Callable[[], Outcome]]


class Task(Protocol):
    """A benchmark: the five of this package, or one of your own."""

    @property
    def name(self) -> str:
        """What the report calls it; unique among the tasks of a run."""

    def prepare(self, bench: Bench) -> Measure | Rivals | Skipped:
        """Read what the task needs and return what measures one subject.

        Called once. What depends on chance, such as folds, is drawn here, so that it is the same for all subjects.
        """
