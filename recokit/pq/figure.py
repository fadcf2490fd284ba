"""The figure of a compression sweep (TwHIN, El-Kishky et al. 2022, Fig. 4a): neighbour recall against compression."""

__all__ = ["matplotlib_figure", "plot_sweep"]

from pathlib import Path
from typing import TYPE_CHECKING

from recokit.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from recokit.report import Report


def plot_sweep(report: "Report", path: str | Path) -> Path:
    """Draw neighbour recall and relative squared error against the compression factor, a line a codec.

    Bars are the intervals of the recall. The format is that of the name: ``.png``, ``.svg``, ``.pdf``.

    Raises:
        DataError: The report has no compression factors: it is not of ``compression_sweep``.
        MissingDependencyError: matplotlib is not installed.
    """
    rows = report.to_frame()
    rows["codec"] = rows["name"].str.split().str[0]
    values = rows.pivot_table(index=["codec", "name"], columns="metric", values="value", sort=False)
    if "compression" not in values:
        raise DataError("the report has no metric 'compression', expected one of compression_sweep")
    recall = next(metric for metric in map(str, values) if metric.startswith("neighbor_recall@"))
    ends = rows[rows["metric"] == recall].set_index(["codec", "name"])[["low", "high"]]
    figure = matplotlib_figure()(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for codec, points in values.join(ends).sort_values("compression").groupby(level="codec", sort=False):
        bars = (points[recall] - points["low"]).clip(0), (points["high"] - points[recall]).clip(0)
        left.errorbar(points["compression"], points[recall], yerr=bars, marker="o", capsize=2, label=codec)
        right.plot(points["compression"], points["relative_squared_error"], marker="o", label=codec)
    for axes, title in ((left, recall.replace("_", " ")), (right, "relative squared error")):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}x")
        axes.set_xlabel("compression, codebook and rotation included")
        axes.set_title(title)
    left.set_ylim(0, 1.02)
    left.legend()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def matplotlib_figure() -> "type[Figure]":
    """Import what figures are drawn with.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", extra="examples", needed_for="the figure of a sweep") from error
    return Figure
