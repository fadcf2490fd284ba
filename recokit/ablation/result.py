"""The result of an ablation: tables in the shape of TwHIN's Tables 2 and 3, a picture, a report."""

__all__ = ["Ablation", "Cell"]

import math
import os
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from recokit.errors import ConfigError, MissingDependencyError, closest
from recokit.report import Report, markdown_table, write_text

if TYPE_CHECKING:
    from rich.table import Table

What = Literal["values", "differences"]

_LOWER = ("ne", "log_loss")  # is better
_DECIMALS = {"rce": 3}  # it is in percent


@dataclass(frozen=True)
class Cell:
    """One metric of one set.

    Attributes:
        ranker: Its name, "" where there is one without a name.
        part: The label or segment that it is about, None for all rows of one label.
        metric: Which metric.
        set: Which set of features.
        values: The metric for each seed, on the test rows.
        by_seed: Each seed's difference to the baseline of that seed.
        difference: Their mean.
        low: Lower end of its interval; NaN without resamples.
        high: Upper end.
        seeds_beyond: Of how many seeds the interval excludes 0, to either side.
    """

    ranker: str
    part: str | None
    metric: str
    set: str
    values: tuple[float, ...]
    by_seed: tuple[float, ...]
    difference: float
    low: float
    high: float
    seeds_beyond: int

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """The standard deviation over seeds; NaN of one seed, and where a seed has no value."""
        there = len(self.values) > 1 and all(map(math.isfinite, self.values))
        return statistics.stdev(self.values) if there else math.nan

    @property
    def sure(self) -> bool:
        """Whether the interval excludes 0, and every seed's difference lies to that side of it."""
        return (self.low > 0.0 and min(self.by_seed) > 0.0) or (self.high < 0.0 and max(self.by_seed) < 0.0)

    @property
    def goodness(self) -> float:
        """The mean as a number of which more is better; NaN stays NaN."""
        if self.metric == "calibration":
            return -abs(math.log(self.mean)) if self.mean > 0.0 else math.nan
        return -self.mean if self.metric in _LOWER else self.mean


@dataclass(frozen=True, eq=False)
class Ablation:
    """The result of ``ablate``.

    Attributes:
        report: Every seed's metrics, differences, and the differences' means over seeds, with their protocols.
        sets: The name of each set to the features that it adds to those that are always there.
        always: The latter.
        baseline: The set that the others are compared with.
        seeds: The seeds.
        cells: What the tables show, by ranker, part, metric and set.
        leaks: Warnings that rows are edges that frozen vectors were trained on.
    """

    report: Report
    sets: Mapping[str, tuple[str, ...]]
    always: tuple[str, ...]
    baseline: str
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    leaks: tuple[str, ...]

    def __str__(self) -> str:
        return self.to_markdown()

    def to_frame(self) -> pd.DataFrame:
        """One row per cell: its fields, and the mean and deviation over seeds."""
        return pd.DataFrame([{**asdict(cell), "mean": cell.mean, "deviation": cell.deviation} for cell in self.cells])

    def cell(self, set: str, metric: str, *, ranker: str | None = None, part: str | None = None) -> Cell:
        """Return the one cell of a set and a metric; several or none is a ConfigError.

        Without ``part``, the cell of all rows goes before those of segments.
        """
        found = [
            cell
            for cell in self.cells
            if (cell.set, cell.metric) == (set, metric) and ranker in (None, cell.ranker) and part in (None, cell.part)
        ]
        if len(found) > 1 and part is None:
            found = [cell for cell in found if cell.part is None] or found
        if len(found) != 1:
            hint = self._hint(found, set, metric, ranker, part)
            raise ConfigError(f"{len(found)} cells of set {set!r} and metric {metric!r}, expected one; {hint}")
        return found[0]

    def _hint(self, found: list[Cell], set: str, metric: str, ranker: str | None, part: str | None) -> str:
        """Say what would name one cell: the nearest names where none was found, else what tells those found apart."""
        if not found:
            known: dict[str, tuple[str | None, list[str | None]]] = {
                "set": (set, [cell.set for cell in self.cells]),
                "metric": (metric, [cell.metric for cell in self.cells]),
                "ranker": (ranker, [cell.ranker for cell in self.cells]),
                "part": (part, [cell.part for cell in self.cells]),
            }
            for field, (asked, there) in known.items():
                if asked is not None and asked not in there:
                    return f"of {field} {asked!r}: {closest(asked, {name for name in there if name is not None})}"
            return "no cell has all of these"
        several = {
            "ranker": dict.fromkeys(cell.ranker for cell in found),
            "part": dict.fromkeys(str(cell.part) for cell in found),
        }
        return "choose the " + ", the ".join(
            f"{field} ({', '.join(of)})" for field, of in several.items() if len(of) > 1
        )

    def table(self, what: What = "values") -> str:
        """Return a Markdown table as TwHIN's Tables 2 and 3: sets across, rankers or metrics down.

        ``"values"``: mean ± deviation over seeds, the best of a row in bold, starred where the
        difference to the baseline is sure. ``"differences"``: those differences, their intervals, and of how many
        seeds the interval excludes 0.
        """
        head, rows = self._rows(what)
        return markdown_table(head, [[label, *(shown.markdown for shown in cells)] for label, cells in rows])

    def to_rich(self, what: What = "values") -> "Table":
        """Return the same for a terminal."""
        from rich.table import Table
        from rich.text import Text

        head, rows = self._rows(what)
        table = Table(title=Text(self.title(what)), title_justify="left")
        for place, cell in enumerate(head):
            table.add_column(Text(cell), justify="right" if place else "left", overflow="fold")
        for label, cells in rows:
            table.add_row(
                Text(label), *(Text(shown.text + shown.mark, "bold" if shown.bold else "") for shown in cells)
            )
        return table

    def title(self, what: What = "values") -> str:
        """Say what a table is of, and what all its rows have in common."""
        shared = [column[0] for column in zip(*self._by_row(), strict=True) if len(set(column)) == 1 and column[0]]
        said = {"values": "on the test rows", "differences": f"difference to {self.baseline}"}[what]
        return ", ".join([*shared, said])

    @property
    def notes(self) -> list[str]:
        """How to read the tables, a sentence each."""
        several = len(self.seeds) > 1
        notes = [f"± is the standard deviation over {len(self.seeds)} seeds."] if several else ["There is one seed."]
        if len(self.sets) > 1 and not all(math.isnan(cell.low) for cell in self.cells):
            agree = ", and all seeds agree" if several else ""
            notes.append(f"A star: the 95 % interval of the difference to {self.baseline!r} excludes 0{agree}.")
            notes.append(
                "Intervals are a paired bootstrap of the test rows"
                + ("; behind them stands of how many seeds the own one excludes 0." if several else ".")
                + " What other seeds would change is not in them."
            )
        notes.append("Bold is the best of a row on the test rows, so that its own value is a little too good.")
        return notes + [f"Careful: {leak}." for leak in self.leaks]

    def to_markdown(self) -> str:
        """Return the page for people: both tables, how to read them, and the sets."""
        chosen = [f"- always there: {', '.join(self.always) or 'nothing'}"]
        chosen += [f"- {name}: {', '.join(features) or 'nothing added'}" for name, features in self.sets.items()]
        parts = [f"{self.title()}:", self.table()]
        if len(self.sets) > 1:
            parts += [f"{self.title('differences')}:", self.table("differences")]
        return "\n\n".join([*parts, "\n".join(chosen), "\n".join(f"- {note}" for note in self.notes)]) + "\n"

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``report.json`` (every number with its protocol) and ``ablation.md`` (the tables) into a folder."""
        target = Path(folder)
        self.report.save(target / "report.json")
        write_text(target / "ablation.md", self.to_markdown())
        return target

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw the differences to the baseline with their intervals, a panel for each row of the table.

        The format is the name's: .png, .svg, .pdf.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingDependencyError(
                "matplotlib", extra="examples", needed_for="the plot of an ablation"
            ) from error
        shown = [name for name in self.sets if name != self.baseline]
        if not shown:
            raise ConfigError(f"there is no set but {self.baseline!r}: nothing to draw")
        rows = self._by_row()
        figure = Figure(figsize=(7.0, 0.8 + len(rows) * (0.6 + 0.3 * len(shown))), layout="constrained")
        for axes, (key, cells) in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows.items(), strict=True):
            axes.axvline(0.0, color="0.6", linewidth=1)
            for place, name in enumerate(reversed(shown)):
                cell = cells[name]
                axes.hlines(place, cell.low, cell.high, color="C0", linewidth=2)
                axes.plot(cell.difference, place, "o", color="C0")
                axes.plot(cell.by_seed, [place] * len(cell.by_seed), "|", color="0.3", markersize=9)
            axes.set_yticks(range(len(shown)), list(reversed(shown)))
            axes.set_ylim(-0.6, len(shown) - 0.4)
            axes.set_title(" ".join(word for word in key if word), loc="left", fontsize="medium")
        axes.set_xlabel(f"difference to {self.baseline} (line: 95 % interval of the mean; ticks: seeds)")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=150)
        return target

    def _by_row(self) -> dict[tuple[str, str, str], dict[str, Cell]]:
        rows: dict[tuple[str, str, str], dict[str, Cell]] = {}
        for cell in self.cells:
            rows.setdefault((cell.ranker, cell.part or "", cell.metric), {})[cell.set] = cell
        return rows

    def _rows(self, what: What) -> "tuple[list[str], list[tuple[str, list[_Shown]]]]":
        """Head of the table, and its rows: what each is called, and its cells."""
        if what not in ("values", "differences"):
            raise ConfigError(f"there is no table of {what!r}; {closest(str(what), ('values', 'differences'))}")
        keys = self._by_row()
        vary = [len(set(column)) > 1 for column in zip(*keys, strict=True)]
        vary[2] |= not any(vary)
        named = [word for word, varies in zip(("model", "part", "metric"), vary, strict=True) if varies]
        chosen = [name for name in self.sets if what == "values" or name != self.baseline]
        rows = []
        for key, cells in keys.items():
            label = " ".join(word for word, varies in zip(key, vary, strict=True) if varies and word)
            best = max((c.goodness for c in cells.values() if not math.isnan(c.goodness)), default=math.nan)
            shown = [_Shown.value(cells[name], best) for name in chosen]
            rows.append((label, shown if what == "values" else [_Shown.difference(cells[name]) for name in chosen]))
        return [", ".join(named), *chosen], rows


@dataclass(frozen=True)
class _Shown:
    """The text of a cell."""

    text: str
    mark: str = ""
    bold: bool = False

    @classmethod
    def value(cls, cell: Cell, best: float) -> "_Shown":
        places = _DECIMALS.get(cell.metric, 4)
        spread = f" ± {cell.deviation:.{places}f}" if len(cell.values) > 1 else ""
        return cls(f"{cell.mean:.{places}f}{spread}", " *" if cell.sure else "", cell.goodness == best)

    @classmethod
    def difference(cls, cell: Cell) -> "_Shown":
        places = _DECIMALS.get(cell.metric, 4)
        if math.isnan(cell.low):
            return cls(f"{cell.difference:+.{places}f}")
        count = f" ({cell.seeds_beyond}/{len(cell.values)})" if len(cell.values) > 1 else ""
        return cls(f"{cell.difference:+.{places}f} [{cell.low:+.{places}f}, {cell.high:+.{places}f}]{count}")

    @property
    def markdown(self) -> str:
        return (f"**{self.text}**" if self.bold else self.text) + self.mark
