"""Benchmarks of a version beside baselines and its predecessor: figures, tables, and what changed.

A change is paired where the report has it (``this - that`` measured on the same data). Otherwise it is the difference
of two figures, and its interval combines theirs in squares, as of independent ones.
"""

__all__ = ["Change", "Task", "change_of", "read_tasks"]

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from recokit.page.formats import number, signed
from recokit.page.grids import Cell, Grid, cell
from recokit.probes.subjects import REFERENCES
from recokit.report import Report, Result

_BASELINES = (*REFERENCES, "popularity")


@dataclass(frozen=True)
class Task:
    """All rows of one metric of one task.

    Attributes:
        name: The task's name, or the metric's where the protocol names no task.
        metric: The metric.
        this: The name of what is measured.
        rows: Its rows: subjects, and differences with `` - `` in their names.
        protocol: How it was measured, without what names the task.
    """

    name: str
    metric: str
    this: str
    rows: tuple[Result, ...]
    protocol: dict[str, Any]

    @property
    def title(self) -> str:
        """The task and the metric, which mostly begins with it, and the part where there is only one."""
        said = self.metric if self.metric.startswith(self.name) else f"{self.name}: {self.metric}"
        said = said.replace("roc_auc", "ROC-AUC").replace("_", " ")
        part = "" if any(row.group is None for row in self.rows) else self.groups[0]
        return said if part in ("", self.name) else f"{said} ({part})"

    @property
    def subjects(self) -> tuple[str, ...]:
        """Who was measured: this version, other versions, baselines; otherwise in the report's order."""
        names = dict.fromkeys(row.name for row in self.rows if " - " not in row.name)
        return tuple(sorted(names, key=lambda name: ("this", "other", "baseline").index(self.role(name))))

    @property
    def groups(self) -> tuple[str, ...]:
        """The parts that were measured on their own."""
        return tuple(dict.fromkeys(row.group for row in self.rows if row.group is not None))

    def of(self, name: str, group: str | None = None) -> Result | None:
        """Return the row of a subject or difference; the means of value and ends, where seeds gave several."""
        return _mean([row for row in self.rows if (row.name, row.group) == (name, group)])

    def main(self, name: str) -> Result | None:
        """Return the row that stands for the task: that of everything, or of the first part where there is none."""
        return self.of(name, None if any(row.group is None for row in self.rows) else self.groups[0])

    def role(self, name: str) -> str:
        """Return ``"this"``, ``"baseline"`` or ``"other"``."""
        return "this" if name == self.this else "baseline" if name in _BASELINES else "other"

    def grid(self) -> Grid:
        """Return values by part and subject, with paired differences where there are any."""
        differences = tuple(dict.fromkeys(row.name for row in self.rows if " - " in row.name))
        parts = [None] if any(row.group is None for row in self.rows) else []
        rows = []
        for group in [*parts, *self.groups]:
            found = [self.of(name, group) for name in (*self.subjects, *differences)]
            counts = [row.n for row in found if row is not None and row.n is not None]
            values = [Cell("–", -math.inf) if row is None else cell(row.value, row.low, row.high) for row in found]
            rows.append((Cell("all" if group is None else group), *values, cell(max(counts) if counts else None)))
        return Grid(self.title, ("part", *self.subjects, *differences, "n"), tuple(rows))

    def said(self) -> tuple[tuple[str, str], ...]:
        """Return the protocol as pairs of text."""
        return tuple((key, str(value)) for key, value in self.protocol.items() if key not in ("task",))


@dataclass(frozen=True)
class Change:
    """How a figure moved.

    Attributes:
        value: By how much.
        noise: Half the width of its interval, or None where none is known.
        against: What it is compared with.
    """

    value: float
    noise: float | None
    against: str

    @property
    def verdict(self) -> str:
        """``"better"`` or ``"worse"`` beyond its noise, ``"same"`` within it, ``"unknown"`` without any."""
        if self.noise is None:
            return "unknown"
        return "same" if abs(self.value) <= self.noise else "better" if self.value > 0 else "worse"

    @property
    def text(self) -> str:
        """The change with its noise; ``no change`` where both are nothing, as of a copy."""
        moved, noise = signed(self.value), "" if self.noise is None else number(self.noise)
        known = noise.strip("0.") != ""
        return f"{moved} ± {noise}" if known else "no change" if moved == "0" else moved


def read_tasks(report: Report | None, version: str) -> tuple[Task, ...]:
    """Group a report's rows by task and metric, in the report's order."""
    rows: dict[tuple[str, str], list[Result]] = {}
    for result in report.results if report is not None else ():
        task = str(result.protocol.get("task", result.metric.partition(" ")[0]))
        rows.setdefault((task, result.metric), []).append(result)
    return tuple(
        Task(name, metric, _this(found, version), tuple(found), dict(found[0].protocol))
        for (name, metric), found in rows.items()
    )


def change_of(task: Task, parent: str | None, earlier: Sequence[Task]) -> Change | None:
    """Return how a task's main figure moved since the parent or previous version, or None where nothing says."""
    change = _change_of(task, parent, earlier)
    return change if change is not None and math.isfinite(change.value) else None


def _change_of(task: Task, parent: str | None, earlier: Sequence[Task]) -> Change | None:
    mine = task.main(task.this)
    if mine is None:
        return None
    for name in (parent, "previous"):
        if name is None:
            continue
        if (paired := task.main(f"{task.this} - {name}")) is not None:
            return Change(paired.value, paired.half_width, f"{name}, paired on the same data")
        if (theirs := task.main(name)) is not None:
            return _difference(mine, theirs, f"{name}, on the same data")
    same = [other for other in earlier if (other.name, other.metric) == (task.name, task.metric)]
    before = same[0].main(same[0].this) if same else None
    return None if before is None else _difference(mine, before, f"the figure published with {parent or 'previous'}")


def _mean(rows: Sequence[Result]) -> Result | None:
    if len(rows) < 2:
        return rows[0] if rows else None
    ends = [[getattr(row, end) for row in rows] for end in ("low", "high")]
    low, high = (None if None in each else fmean(each) for each in ends)
    return replace(rows[0], value=fmean(row.value for row in rows), low=low, high=high, seed=None)


def _difference(new: Result, old: Result, against: str) -> Change:
    halves = new.half_width, old.half_width
    noise = math.hypot(*halves) if None not in halves else None  # type: ignore[arg-type]
    return Change(new.value - old.value, noise, against)


def _this(rows: Sequence[Result], version: str) -> str:
    """Return the name of the version among those of the rows."""
    names = list(dict.fromkeys(row.name for row in rows if " - " not in row.name))
    for matches in (lambda n: n == version, lambda n: n == "this version", lambda n: n not in _BASELINES):
        if found := [name for name in names if matches(name)]:
            return found[0]
    return names[0] if names else version
