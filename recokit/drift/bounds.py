"""Bounds: how much a refresh may change before somebody should look at it, for schedulers and gates."""

__all__ = ["Bounds"]

import re
from dataclasses import dataclass, fields
from typing import ClassVar

from recokit.errors import ConfigError
from recokit.report import Report

_OF_VECTORS = ("max_relative_l2", "max_residual", "min_cosine")  # of one length in both versions


@dataclass(frozen=True)
class Bounds:
    """Limits of the rows of all ids of every table that was measured; None bounds nothing.

    Attributes:
        max_relative_l2: Of the median ``relative l2``.
        max_residual: Of the ``procrustes residual``; tables whose ids do not determine a rotation are not held to it.
        max_removed: Of the ``removed share``.
        max_relation_change: Of each relation's ``relative change``.
        max_score_shift: Of a ranker's mean ``score shift |p|``, or ``|score|``.
        min_cosine: Of the median ``cosine``.
        min_overlap: Of ``overlap@k``, and of that of each relation.
    """

    max_relative_l2: float | None = None
    max_residual: float | None = None
    max_removed: float | None = None
    max_relation_change: float | None = None
    max_score_shift: float | None = None
    min_cosine: float | None = None
    min_overlap: float | None = None

    METRICS: ClassVar[dict[str, str]] = {
        "max_relative_l2": r"relative l2",
        "max_residual": r"procrustes residual",
        "max_removed": r"removed share",
        "max_relation_change": r"relative change",
        "max_score_shift": r"score shift \|(p|score)\|",
        "min_cosine": r"cosine",
        "min_overlap": r"(.+ )?overlap@\d+",
    }

    def exceeded(self, report: Report) -> list[str]:
        """Return one line for each row of ``report`` that is beyond its bound, or has no value.

        A table that could not be compared, for want of common ids or of vectors of one length, is beyond a bound too.

        Raises:
            ConfigError: A bound is given for what the report has no row of.

        >>> from recokit.report import Result
        >>> Bounds(max_relative_l2=0.2).exceeded(Report([Result("user", "relative l2", 1.4)], {}))
        ['user: relative l2 is 1.4, at most 0.2 is allowed']
        """
        lines = []
        for name in (field.name for field in fields(self)):
            bound: float | None = getattr(self, name)
            if bound is None:
                continue
            rows = [
                row
                for row in report.results
                if re.fullmatch(self.METRICS[name], row.metric)
                and (row.name == "relations" or "tenth" not in row.protocol)
            ]
            missing = _unmeasured(name, report)
            lines += missing
            if not rows and not missing:
                raise ConfigError(f"{name} is {bound}, but nothing that it bounds was measured{_why_not(name, report)}")
            for row in rows:
                inside = row.value <= bound if name.startswith("max_") else row.value >= bound
                if not inside:  # a NaN is inside nothing
                    who = row.name if row.group is None else f"{row.name}, {row.group}"
                    least = "at most" if name.startswith("max_") else "at least"
                    lines.append(f"{who}: {row.metric} is {row.value:.4g}, {least} {bound:g} is allowed")
        return lines


def _why_not(bound: str, report: Report) -> str:
    """Return what the report says of the tables that have no rotation, where that is what is bounded."""
    reasons = [row.protocol["no rotation"] for row in report.results if "no rotation" in row.protocol]
    return f": {reasons[0]}" if reasons and bound == "max_residual" else ""


def _unmeasured(bound: str, report: Report) -> list[str]:
    """Return a line for each table without what is bounded, because of what became of it."""
    reasons = {"not compared": (*_OF_VECTORS, "min_overlap"), "vectors": _OF_VECTORS}
    return [
        f"{row.name}: {bound} bounds what could not be measured: {row.protocol[reason]}"
        for row in report.results
        if row.metric == "ids kept"
        for reason, bounds in reasons.items()
        if reason in row.protocol and bound in bounds
    ]
