"""Labels of entities: read, checked, and matched with the rows of a table.

Shapes: n entities that have labels and a row.
"""

__all__ = ["Entities", "known_entities", "read_labels", "said_ids"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recokit.errors import DataError
from recokit.frame.reading import Source, read_frame
from recokit.metrics.arrays import Ints
from recokit.probes.task import Bench

_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Entities:
    """The entities of a task: those that a table has, at most as many as asked for, ids ascending.

    So two versions that have the same ids have the same folds and pairs, whatever the order of their rows.

    Attributes:
        ids: (n,).
        rows: Of the table, (n,).
        protocol: How many of the ids given these are, and which are missing.
    """

    ids: pd.Index
    rows: Ints
    protocol: Mapping[str, Any]

    def places(self, ids: "pd.Series[Any]") -> Ints:
        """Return the place of each id among these, -1 for one that is not among them."""
        return np.asarray(self.ids.get_indexer(pd.Index(ids)), np.int64)


def read_labels(
    source: Source, columns: Iterable[str], renamed: Mapping[str, str], bench: Bench, table: str
) -> pd.DataFrame:
    """Read a frame of labels whose first column holds ids of a table's type.

    Args:
        source: The frame, or its file.
        columns: What the task needs.
        renamed: What the frame calls them, where that is something else.
        bench: Where the table is.
        table: Its name.
    """
    names = list(columns)
    wanted = {name: renamed.get(name, name) for name in names}
    return read_frame(source, wanted, ids=names[:1], id_type=bench.table(table).id_type)


def known_entities(ids: "pd.Series[Any]", bench: Bench, table: str, sample: int) -> Entities:
    """Match ids with the rows of a table; ids may repeat.

    Raises:
        DataError: The table has none of them; the message shows some of both.
    """
    opened = bench.table(table)
    distinct = pd.Index(ids).unique().sort_values()
    rows = opened.rows(distinct)
    if not len(distinct) or not (rows >= 0).any():
        raise DataError(
            f"the table {table!r} has none of the {len(distinct)} ids: they are like {said_ids(distinct)}, "
            f"the table's like {said_ids(opened.ids.slice(0, _SHOWN).to_pylist())}"
        )
    missing = distinct[rows < 0]
    found = np.flatnonzero(rows >= 0)
    if len(found) > sample:
        found = np.sort(np.random.default_rng([bench.seed, 1]).choice(found, sample, replace=False))
    coverage = f"{int((rows >= 0).sum())} of {len(distinct)} ids are in the table"
    protocol: dict[str, Any] = {"table": table, "coverage": coverage}
    if len(missing):
        protocol["missing_ids"] = f"{len(missing)}, such as {said_ids(missing)}"
    if len(found) < int((rows >= 0).sum()):
        protocol["sampled"] = f"{len(found)} of them"
    return Entities(distinct[found], rows[found].astype(np.int64), protocol)


def said_ids(ids: Iterable[Any]) -> str:
    """Show the first few of some ids."""
    shown = [each for each, _ in zip(ids, range(_SHOWN), strict=False)]
    return ", ".join(repr(each.item() if isinstance(each, np.generic) else each) for each in shown)
