"""The subcommand ``recokit drift``: what changed between two versions, and whether that is too much."""

__all__ = ["drift"]

import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from recokit.cli import JsonFlag, emit, progress, text_table
from recokit.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from recokit.report import Report, Result
    from recokit.table import Version

_LEFT_OUT = re.compile(
    r"l2 .*|.* (mean|share)|relative l2 p5|cosine p95|procrustes cosine"
)  # of what people are shown; reports have them
_SHORT = re.compile(r"ids kept|relative l2|cosine|overlap@\d+|procrustes residual")  # in this order
_BRIEF = {"procrustes residual": "residual"}
_WITHOUT = (
    "not compared",
    "vectors",
    "no rotation",
)  # what a protocol says of tables that were not measured, or not wholly
_BY_DEGREE = re.compile(r"(relative )?l2|cosine|overlap@\d+|weight shift")


def drift(
    old: Annotated[str, typer.Argument(help="The earlier version: its folder, or STORE@NAME.")],
    new: Annotated[str, typer.Argument(help="The later version.")],
    *,
    table: Annotated[
        list[str] | None, typer.Option(help="A table to compare; may be given several times (all).")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Neighbours of an id.")] = 10,
    sample: Annotated[int, typer.Option(help="Ids that are asked for their neighbours, at most.")] = 2000,
    ranker: Annotated[Path | None, typer.Option(help="A ranker to feed the later version; with --impressions.")] = None,
    impressions: Annotated[
        str | None, typer.Option(help="What the ranker scores: Parquet, CSV or TSV, with labels or without.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample, the rotation's halves and the bootstrap.")] = 0,
    max_relative_l2: Annotated[float | None, typer.Option(help="Bound of the median |v - v'| / |v|.")] = None,
    max_residual: Annotated[float | None, typer.Option(help="Bound of what the best rotation leaves.")] = None,
    max_removed: Annotated[float | None, typer.Option(help="Bound of the share of ids that are gone.")] = None,
    max_relation_change: Annotated[float | None, typer.Option(help="Bound of any relation's change.")] = None,
    max_score_shift: Annotated[float | None, typer.Option(help="Bound of the ranker's mean |p - p'|.")] = None,
    min_cosine: Annotated[float | None, typer.Option(help="Bound of the median cosine.")] = None,
    min_overlap: Annotated[float | None, typer.Option(help="Bound of the share of neighbours kept.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the report here too: .json, .md or .html.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw deviation against degree: .png or .svg.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Print every metric, and the tenths by degree, not the summary.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure what changed between two versions; exit with code 1 where a bound is exceeded."""
    from recokit.drift import Bounds, measure_drift, plot_drift
    from recokit.drift.figure import check_figure_name
    from recokit.pq.figure import matplotlib_figure
    from recokit.store import open_source

    bounds = Bounds(
        max_relative_l2=max_relative_l2,
        max_residual=max_residual,
        max_removed=max_removed,
        max_relation_change=max_relation_change,
        max_score_shift=max_score_shift,
        min_cosine=min_cosine,
        min_overlap=min_overlap,
    )
    if output is not None and output.suffix not in (".json", ".md", ".html"):  # before the work, not after it
        raise ConfigError(f"a report is saved as .json, .md or .html, not as {output.name!r}")
    if plot is not None:
        check_figure_name(plot)
        matplotlib_figure()
    if (ranker is None) != (impressions is None):
        raise ConfigError("--ranker and --impressions go together: one of them is missing")
    before, after = open_source(old), open_source(new)
    frame = None if impressions is None or ranker is None else _impressions(impressions, ranker, before)
    with progress("drift") as advance:
        report = measure_drift(
            before,
            after,
            tables=table,
            k=k,
            sample=sample,
            ranker=ranker,
            impressions=frame,
            seed=seed,
            progress=advance,
        )
    if output is not None:
        report.save(output)
    if plot is not None:
        plot_drift(report, plot)
    exceeded = bounds.exceeded(report)
    emit({**json.loads(report.to_json()), "exceeded": exceeded}, as_json, *_tables(report, everything=everything))
    if exceeded:
        if not as_json:
            Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print("\n".join(exceeded))
        raise typer.Exit(1)


def _impressions(source: str, ranker: Path, old: "Version") -> "pd.DataFrame":
    """Read what a ranker is to score; in text files the ids are what its tables have."""
    from recokit.drift.ranker import load_own
    from recokit.scored_frames import read_rows

    return read_rows(source, load_own(ranker, old).features)


def _tables(report: "Report", *, everything: bool = False) -> "list[Table]":
    """Return what people are shown: a line for each table and each relation, or every metric and tenth; the ranker."""
    rows = [row for row in report.results if not row.metric.startswith("score shift ")]
    title = "drift from {old} to {new}".format(**rows[0].protocol)
    tables = list(dict.fromkeys(row.name for row in rows if "entity" in row.protocol))
    whole = [row for row in rows if row.name in tables and row.group is None]
    shown = _in_full(title, tables, rows) if everything else _in_short(title, whole, rows)
    scores = [row for row in report.results if row.metric.startswith("score shift ")]
    cells = [(row.metric.removeprefix("score shift "), row.group or "value", row) for row in scores]
    shown += _pivot(f"scores of {scores[0].name}" if scores else "", "shift", cells)
    counted = [row for row in whole if row.metric == "ids kept"]
    without = [(row.name, row.protocol[why]) for row in counted for why in _WITHOUT if why in row.protocol]
    return [*shown, text_table("not measured", ("table", "because"), without)] if without else shown


def _in_short(title: str, whole: "list[Result]", rows: "list[Result]") -> "list[Table]":
    """Return a line for each table, and one for each relation."""
    ordered = sorted((row for row in whole if _SHORT.fullmatch(row.metric)), key=lambda row: _place(row.metric))
    shown = _pivot(title, "table", [(row.name, _BRIEF.get(row.metric, row.metric), row) for row in ordered])
    relations = [(row.metric.rpartition(" ")[0], row.metric.rpartition(" ")[2], row) for row in whole
                 if " overlap@" in row.metric]  # fmt: skip
    changes = [(str(row.group), row.metric, row) for row in rows if row.name == "relations"]
    return shown + _pivot("relations", "relation", relations + changes)


def _in_full(title: str, tables: list[str], rows: "list[Result]") -> "list[Table]":
    """Return tables side by side, then each by degree, and relations."""
    kept = [row for row in rows if not _LEFT_OUT.fullmatch(row.metric)]
    shown = _pivot(
        title, "metric", [(row.metric, row.name, row) for row in kept if row.name in tables and row.group is None]
    )
    for name in tables:
        tenths = [row for row in kept if row.name == name and row.group and _BY_DEGREE.fullmatch(row.metric)]
        cells = [(str(row.group).removeprefix("degree "), row.metric, row) for row in tenths]
        shown += _pivot(f"{name} by degree", "degree", cells)
    changes = [(str(row.group), row.metric, row) for row in kept if row.name == "relations"]
    return shown + _pivot("parameters of relations", "relation", changes)


def _place(metric: str) -> int:
    """Return where a metric stands in a line: the order in which _SHORT names them."""
    return next(at for at, each in enumerate(_SHORT.pattern.split("|")) if re.fullmatch(each, metric))


def _pivot(title: str, corner: str, cells: "list[tuple[str, str, Result]]") -> "list[Table]":
    """Return lines by columns; as several tables, one below the other, where the terminal is too narrow for one."""
    columns = list(dict.fromkeys(column for _, column, _ in cells))
    lines: dict[str, dict[str, str]] = {}
    for line, column, row in cells:
        lines.setdefault(line, {})[column] = _shown(row)
    widths = {name: max(len(name), *(len(each.get(name, "")) for each in lines.values())) + 3 for name in columns}
    first = max(map(len, (corner, *lines))) + 4  # frames and margins included
    shown = []
    while columns:
        ends = itertools.accumulate((widths[column] for column in columns), initial=first)
        fit = max(1, sum(end <= Console().width for end in ends) - 1)
        taken, columns = columns[:fit], columns[fit:]
        rows = [[line, *(values.get(column, "") for column in taken)] for line, values in lines.items()]
        table = text_table(title, [corner, *taken], [row for row in rows if any(row[1:])])
        for cells_of in table.columns[1:]:
            cells_of.justify = "right"  # where nothing was measured too
        shown.append(table)
    return shown


def _shown(row: "Result") -> str:
    if row.metric.startswith("ids "):
        return f"{row.value:,.0f}"
    if row.low is None or row.high is None:
        return f"{row.value:.4f}"
    return f"{row.value:.4f} ± {max(row.high - row.value, row.value - row.low):.4f}"
