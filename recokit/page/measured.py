"""Drift and compression as tables: a row for each table of the version, or for each setting of the codes."""

__all__ = ["compression_grid", "drift_grids", "drift_notes"]

from collections.abc import Sequence

from recokit.page.grids import Cell, Grid, cell
from recokit.report import Report, Result

_BESIDE = (" mean", " p5", " p95")  # beside a median; the report has them
_RELATIONS = "relative change"
_WITHOUT = ("not compared", "vectors", "no rotation", "degrees")  # what a protocol says of tables that lack something


def drift_grids(report: Report | None) -> tuple[Grid, ...]:
    """Return what drifted, of all ids: tables, then relations; means and quantiles stay in the report."""
    rows = report.results if report is not None else []
    tables = [row for row in rows if row.group is None and not row.metric.endswith(_BESIDE)]
    relations = [row for row in rows if row.metric == _RELATIONS and row.group is not None]
    found = [_pivot(tables, "All ids", "table")]
    if relations:
        body = tuple((Cell(str(row.group)), cell(row.value, row.low, row.high)) for row in relations)
        found.append(Grid("Parameters of relations", ("relation", _RELATIONS), body))
    return tuple(grid for grid in found if grid is not None)


def drift_notes(report: Report | None) -> tuple[tuple[str, str], ...]:
    """Return why tables lack some figures of drift: the table and what the report says."""
    counted = [row for row in (report.results if report is not None else []) if row.metric == "ids kept"]
    return tuple((row.name, str(row.protocol[why])) for row in counted for why in _WITHOUT if why in row.protocol)


def compression_grid(report: Report | None) -> Grid | None:
    """Return what each setting of the codes keeps and takes."""
    return _pivot(report.results if report is not None else [], "Settings of the sweep", "codes")


def _pivot(rows: Sequence[Result], caption: str, first: str) -> Grid | None:
    """Return a row for each name and a column for each metric."""
    metrics, names = dict.fromkeys(row.metric for row in rows), dict.fromkeys(row.name for row in rows)
    values = {(row.name, row.metric): cell(row.value, row.low, row.high) for row in reversed(rows)}
    body = [(Cell(name), *(values.get((name, metric), cell(None)) for metric in metrics)) for name in names]
    return Grid(caption, (first, *(metric.replace("_", " ") for metric in metrics)), tuple(body)) if body else None
