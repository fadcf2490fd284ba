"""Figures of the page as data: series of points with their intervals; the page's script draws them.

Two kinds: ``lines`` (x, y, whiskers along y) and ``dots`` (a value for each name, whiskers along the value).
"""

__all__ = ["Chart", "Series", "benchmark_charts", "compression_charts", "drift_charts", "training_charts"]

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from recokit.page.benchmarks import Task
from recokit.report import Report, Result

# By degree they look like what is drawn, or are quantiles beside a median; tables or the report have them.
_NOT_DRAWN = (" mean", " p5", " p95", "relative l2", " residual", "procrustes cosine")
_LINES = 8
_RESIDUALS = {
    "unrotated residual": ("as it is", "baseline"),
    "procrustes residual": ("after the best rotation", "this"),
}


@dataclass(frozen=True)
class Series:
    """Points of one name.

    Attributes:
        name: As the legend says it.
        x: Along the axis; for ``dots`` the value.
        y: Up the axis; for ``dots`` the name.
        low: Lower ends of the intervals, or None where a point has none.
        high: Upper ends.
        role: ``"this"``, ``"other"`` or ``"baseline"`` where looks should tell them apart.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float | str, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    role: str = ""


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        kind: ``"lines"`` or ``"dots"``.
        title: What it shows.
        x_title: Of the axis along.
        y_title: Of the axis up.
        series: What is drawn.
        log_x: The axis along is logarithmic.
        log_y: The axis up is.
        alt: The figure in a sentence, for those who do not see it.
    """

    kind: Literal["lines", "dots"]
    title: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False
    alt: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds of it."""
        return asdict(self)


def training_charts(training: Mapping[str, Any] | None) -> tuple[Chart, ...]:
    """Draw the loss by epoch, a line a network, and the losses of relations, a figure a network."""
    networks: Mapping[str, Sequence[Mapping[str, Any]]] = (training or {}).get("networks", {})
    series = [
        _curve(name or "all", epochs, [record.get("loss") for record in epochs]) for name, epochs in networks.items()
    ]
    charts = [Chart("lines", "Loss per edge", "epoch", "loss", tuple(filter(None, series)))]
    for name, epochs in networks.items():
        relations = dict.fromkeys(key for record in epochs for key in record.get("losses") or {})
        curves = [
            _curve(key, epochs, [(record.get("losses") or {}).get(key) for record in epochs]) for key in relations
        ]
        of = f" of {name}" if name else ""
        charts.append(Chart("lines", f"Loss by relation{of}", "epoch", "loss", tuple(filter(None, curves))))
    return tuple(chart for chart in charts if chart.series)


def benchmark_charts(tasks: Sequence[Task]) -> tuple[Chart, ...]:
    """Draw each task's main figure for this version, its predecessor and the baselines, with intervals."""
    charts = []
    for task in tasks:
        found = [(name, row) for name in task.subjects if (row := task.main(name)) is not None and _known(row.value)]
        series = tuple(
            replace(_with_ends(name, [row.value], [row]), y=(name,), role=task.role(name)) for name, row in found
        )
        if series:
            charts.append(Chart("dots", task.title, task.metric, "", series, alt=_said(found)))
    return tuple(charts)


def compression_charts(report: Report | None) -> tuple[Chart, ...]:
    """Draw neighbour recall and error against the true compression, a line a codec (TwHIN, Fig. 4a)."""
    tables: dict[str, dict[str, dict[str, Result]]] = {}
    for row in report.results if report is not None else ():
        table = str(row.protocol.get("table", ""))
        tables.setdefault(table, {}).setdefault(row.name, {}).setdefault(row.metric, row)
    charts = []
    for table, settings in tables.items():
        metrics = dict.fromkeys(metric for rows in settings.values() for metric in rows)
        of = f": {table.partition(',')[0]}" if table else ""
        for metric in metrics:
            if metric.startswith("neighbor_recall@") or metric == "relative_squared_error":
                title = metric.replace("_", " ").capitalize() + of
                series = _by_codec(settings, metric)
                charts.append(Chart("lines", title, "times smaller, codebook included", "", series, log_x=True))
    return tuple(chart for chart in charts if chart.series)


def drift_charts(report: Report | None) -> tuple[Chart, ...]:
    """Draw what drifted against the degree, a line a table or relation, and what remains after the best rotation.

    Of more than eight lines in a figure those of the most ids are drawn.
    """
    rows = [row for row in (report.results if report is not None else []) if _known(row.value)]
    figures: dict[str, dict[str, list[Result]]] = {}
    for row in rows:
        if _known(row.protocol.get("degree_median")) and not row.metric.endswith(_NOT_DRAWN):
            relation, _, overlap = row.metric.rpartition(" overlap@")
            metric, name = (
                (f"overlap@{overlap} of targets, by relation", relation) if relation else (row.metric, row.name)
            )
            figures.setdefault(metric, {}).setdefault(name, []).append(row)
    charts = [_against_degree(metric, lines) for metric, lines in figures.items()]
    residuals = [row for row in rows if row.metric in _RESIDUALS and row.group is None]
    largest = {row.name for row in sorted(residuals, key=lambda row: -(row.n or 0))[: _LINES * len(_RESIDUALS)]}
    rotation = tuple(
        Series(called, tuple(row.value for row in found), tuple(row.name for row in found), role=role)
        for metric, (called, role) in _RESIDUALS.items()
        if (found := [row for row in residuals if row.metric == metric and row.name in largest])
    )
    if rotation:
        charts.append(
            Chart("dots", "Residual, as it is and after the best rotation", "relative residual", "", rotation)
        )
    return tuple(charts)


def _against_degree(metric: str, lines: Mapping[str, Sequence[Result]]) -> Chart:
    largest = sorted(lines, key=lambda name: -sum(row.n or 0 for row in lines[name]))[:_LINES]
    flipped = metric.startswith("cosine")
    series = tuple(_by_degree(name, lines[name], flipped) for name in lines if name in largest)
    title = {"l2": "Drift: length of the move", "cosine": "Drift: 1 \N{MINUS SIGN} cosine"}.get(
        metric, metric[0].upper() + metric[1:]
    )
    positive = all(isinstance(y, float) and y > 0 for one in series for y in one.y)
    deviation = (flipped or "l2" in metric) and positive
    return Chart("lines", title, "degree (median of a tenth)", "", series, log_x=True, log_y=deviation)


def _curve(name: str, epochs: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> Series | None:
    points = [
        (float(r["epoch"] if _known(r.get("epoch")) else at), float(v))
        for at, (r, v) in enumerate(zip(epochs, values, strict=True), 1)
        if _known(v)
    ]
    return Series(name, tuple(x for x, _ in points), tuple(y for _, y in points)) if points else None


def _by_codec(settings: Mapping[str, Mapping[str, Result]], metric: str) -> tuple[Series, ...]:
    codecs: dict[str, list[tuple[float, Result]]] = {}
    for name, rows in settings.items():
        if metric in rows and "compression" in rows and all(_known(rows[m].value) for m in (metric, "compression")):
            codecs.setdefault(name.split()[0], []).append((rows["compression"].value, rows[metric]))
    series = []
    for codec, points in codecs.items():
        points.sort(key=lambda point: point[0])
        rows_of = [row for _, row in points]
        series.append(_with_ends(codec, [x for x, _ in points], rows_of))
    return tuple(series)


def _by_degree(name: str, rows: Iterable[Result], flipped: bool) -> Series:
    ordered = sorted(rows, key=lambda row: float(row.protocol["degree_median"]))
    series = _with_ends(name, [float(row.protocol["degree_median"]) for row in ordered], ordered)
    if not flipped:
        return series
    y = tuple(1 - row.value for row in ordered)
    low = tuple(None if end is None else 1 - end for end in series.high)
    return Series(name, series.x, y, low, tuple(None if end is None else 1 - end for end in series.low))


def _with_ends(name: str, x: Sequence[float], rows: Sequence[Result]) -> Series:
    values = tuple(float(row.value) for row in rows)
    low, high = (
        [end if _known(end) else None for end in ends] for ends in zip(*((r.low, r.high) for r in rows), strict=True)
    )
    return Series(name, tuple(x), values, tuple(low), tuple(high))


def _said(found: Sequence[tuple[str, Result]]) -> str:
    return ", ".join(f"{name} {row.value:.3f}" for name, row in found)


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
