"""Tables of the page: cells of text, each with the number that it sorts by."""

__all__ = ["Cell", "Grid", "cell"]

import math
from dataclasses import dataclass

from recokit.page.formats import interval, number


@dataclass(frozen=True)
class Cell:
    """What a cell shows.

    Attributes:
        text: The text.
        key: The number that it sorts by; None to sort by the text.
        note: Smaller, behind it: an interval, a unit.
        mark: A class of its looks: ``"added"``, ``"gone"``, ``"worse"`` ..., or nothing.
    """

    text: str
    key: float | None = None
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        caption: What it holds, in a line.
        head: The columns.
        rows: As many cells each; the first names its row.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers alone, and stand to the right."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.head)
        return tuple(any(cell.key is not None for cell in column) for column in columns)


def cell(value: float | None, low: float | None = None, high: float | None = None, *, mark: str = "") -> Cell:
    """Return a number as a cell, with its interval behind it."""
    known = value is not None and math.isfinite(value)
    return Cell(number(value), value if known else -math.inf, interval(low, high), mark)
