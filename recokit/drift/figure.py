"""The figure of a drift report (TwHIN, El-Kishky et al. 2022, Fig. 4c): deviation against degree."""

__all__ = ["check_figure_name", "plot_drift"]

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recokit.errors import ConfigError, DataError
from recokit.pq.figure import matplotlib_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from recokit.report import Report

_FORMATS = (".png", ".svg", ".pdf")
_UNCHANGED = 1e-12  # of float64 arithmetic: no point on a logarithmic scale


def plot_drift(report: "Report", path: str | Path) -> Path:
    """Draw |v - v'| / |v| and 1 - cosine against the degree, both scales logarithmic, a line a table.

    Points are medians of tenths, bands run from the 5th to the 95th percentile; what did not change at all is not on
    a logarithmic scale. The format is that of the name: ``.png``, ``.svg``, ``.pdf``.

    Raises:
        ConfigError: The name says another format.
        DataError: The report has no tenths: it is not of ``measure_drift``, or the old version keeps no degrees.
        MissingDependencyError: matplotlib is not installed.
    """
    figure_type, path = matplotlib_figure(), check_figure_name(path)
    rows = report.to_frame()
    rows = rows[[("degree_median" in each) for each in rows["protocol"]]]
    values = rows[rows["metric"].str.fullmatch(r"(relative l2|cosine)( p5| p95)?")]
    if values.empty:
        raise DataError("the report has no deviations by degree: the old version has to keep degrees in its state")
    values = values.assign(degree=[each["degree_median"] for each in values["protocol"]])
    points = values.pivot_table(index=["name", "degree"], columns="metric", values="value", sort=False)
    figure = figure_type(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, tenths in points.groupby(level="name", sort=False):
        table = tenths.droplevel("name").sort_index()
        _line(left, str(name), table["relative l2"], table["relative l2 p5"], table["relative l2 p95"])
        _line(right, str(name), 1 - table["cosine"], 1 - table["cosine p95"], 1 - table["cosine p5"])
    for axes, title in ((left, "|v - v'| / |v|"), (right, "1 - cosine of v and v'")):
        if any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
            # Who had no edges yet has degree 0, which has no logarithm.
            least = min(min(line.get_xdata()) for line in axes.lines)
            axes.set_xscale("log") if least > 0 else axes.set_xscale("symlog", linthresh=1)
            axes.set_yscale("log")
        axes.set_xlabel("degree in the old version, median of a tenth")
        axes.set_title(title)
    left.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def check_figure_name(path: str | Path) -> Path:
    """Return the path of a figure whose format is written.

    Raises:
        ConfigError: The name says another format, or none.
    """
    if Path(path).suffix not in _FORMATS:
        raise ConfigError(f"a figure is saved as {', '.join(_FORMATS)}, not as {Path(path).name!r}")
    return Path(path)


def _line(axes: "Axes", name: str, middle: "pd.Series[Any]", low: "pd.Series[Any]", high: "pd.Series[Any]") -> None:
    shown = middle.where(middle > _UNCHANGED)
    (line,) = axes.plot(shown.index, shown, marker="o", label=name)
    if shown.notna().any():
        color = line.get_color()
        axes.fill_between(shown.index, low.clip(_UNCHANGED).where(shown.notna()), high, color=color, alpha=0.15)
