"""What two versions have in common: the ids of a table, their rows in both, and tenths of the ids by degree.

Everything after this works on N common ids in the order of the old table's rows, and reads both tables in blocks, so
that memory-mapped tables never are in memory whole.

Shapes: N common ids, b ids of a block, D dimension.
"""

__all__ = ["TablePair", "Tenth", "common_tables", "degrees_of", "pair_tables", "tenths_of"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, closest
from recokit.index.lift import blocks
from recokit.index.scoring import Rows
from recokit.table import EmbeddingTable, FeatureTable, Mixture, Version
from recokit.table import degrees_of as trained_degrees

_BLOCK = 1 << 14  # ids compared at a time: at 64 dimensions some 8 MiB a version
_SHOWN = 3  # examples in a message


@dataclass(frozen=True, eq=False)
class TablePair:
    """One table of two versions, and the rows (N,) of the ids that both have; where there are none, why."""

    name: str
    old: FeatureTable
    new: FeatureTable
    old_rows: Rows
    new_rows: Rows
    apart: str | None = None

    @property
    def count(self) -> int:
        """N, how many ids both have."""
        return len(self.old_rows)

    @property
    def same_space(self) -> bool:
        """Whether the vectors are as long as each other, so that there is a difference at all."""
        return self.old.dim == self.new.dim

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.float64]]]:
        """Yield places among the N ids, old vectors (b, D) and new ones (b, D)."""
        for part in blocks(self.count, _BLOCK):
            yield part, _vectors_at(self.old, self.old_rows[part]), _vectors_at(self.new, self.new_rows[part])


@dataclass(frozen=True, eq=False)
class Tenth:
    """About a tenth of the ids by degree; ids of equal degree are in one tenth.

    Attributes:
        number: From 1, the lowest degrees.
        members: Places among the N ids, ascending.
        low: The lowest degree.
        median: The median degree.
        high: The highest degree.
    """

    number: int
    members: Rows
    low: float
    median: float
    high: float

    @property
    def label(self) -> str:
        """What a report calls it."""
        return f"degree {self.low:g}" if self.low == self.high else f"degree {self.low:g} to {self.high:g}"

    @property
    def protocol(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"tenth": self.number, "degree_low": self.low, "degree_median": self.median, "degree_high": self.high}


def common_tables(old: Version, new: Version, names: Sequence[str] | None) -> list[str]:
    """Return the tables to compare: those asked for, or all that both versions have but the components of mixtures.

    Components are compared through their mixtures: by themselves they are rows of whoever came first. Where they are
    an entity type's own table, as the items of interests may be, they are compared as such too.
    """
    if isinstance(names, str):
        raise ConfigError(f"tables={names!r} is one name, expected a list of names")
    for name in names or ():
        for version in (old, new):
            if name not in version.tables:
                raise ConfigError(f"version {version.name!r} has no table {name!r}; {closest(name, version.tables)}")
    if names:
        return list(dict.fromkeys(names))
    common = [name for name in old.tables if name in new.tables and not (_is_part(old, name) or _is_part(new, name))]
    if not common:
        raise DataError(
            f"versions {old.name!r} and {new.name!r} have no table in common: "
            f"{', '.join(old.tables) or 'none'} in the one, {', '.join(new.tables) or 'none'} in the other"
        )
    return common


def pair_tables(old: Version, new: Version, name: str) -> TablePair:
    """Open a table of both versions and find the ids that both have."""
    first, second = old.open(name), new.open(name)
    none = np.zeros(0, np.int64)
    for was, became in (
        (f"the entity type {first.entity!r}", f"{second.entity!r}"),
        (f"{first.id_type} ids", f"{second.id_type} ids"),
    ):
        if not was.endswith(became):
            why = f"{was} in version {old.name!r} and {became} in version {new.name!r}: nothing says which are the same"
            return TablePair(name, first, second, none, none, why)
    rows = second.rows(first.ids)
    kept = np.flatnonzero(rows >= 0)
    if kept.size:
        return TablePair(name, first, second, kept, rows[kept])
    why = f"no id is in both versions; {old.name!r} has {_examples(first)}, {new.name!r} has {_examples(second)}"
    return TablePair(name, first, second, none, none, why)


def degrees_of(version: Version, pair: TablePair) -> NDArray[np.float64] | None:
    """Return the degrees (N,) that the old version's training counted, or None where it kept none for these ids."""
    counts = trained_degrees(version, pair.name)
    return None if counts is None else counts[pair.old_rows].astype(np.float64)


def tenths_of(degrees: NDArray[np.float64]) -> list[Tenth]:
    """Cut ids into tenths by degree (N,), the lowest first; there are fewer than ten where many degrees are equal.

    A degree's ids go where the middle of them stands, whatever the order of rows.
    """
    _, which, counts = np.unique(degrees, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2  # of each distinct degree, in ids
    tenth_of = (10 * middle / len(degrees)).astype(np.int64)[which]  # (N,)
    tenths = []
    for number in np.unique(tenth_of).tolist():
        members = np.flatnonzero(tenth_of == number)
        own = degrees[members]
        tenths.append(Tenth(number + 1, members, float(own.min()), float(np.median(own)), float(own.max())))
    return tenths


def _is_part(version: Version, name: str) -> bool:
    """Whether a table holds the components of a mixture and nothing else."""
    entry = version.tables[name]
    own = f"{entry.entity}-{entry.network}" if entry.network else entry.entity
    return name != own and name in {each.components for each in version.tables.values()}


def _vectors_at(table: FeatureTable, rows: Rows) -> NDArray[np.float64]:
    """Return vectors (b, D) of rows (b,): codes decoded, of a mixture the weighted mean of its components."""
    if isinstance(table, EmbeddingTable):
        return np.take(table.vectors, rows, axis=0).astype(np.float64)
    if isinstance(table, Mixture):
        mean: NDArray[np.float64] = np.einsum(
            "bc,bcd->bd", table.weights[rows].astype(np.float64), table.vectors_at(rows).astype(np.float64)
        )
        return mean
    return table.decode(rows).astype(np.float64)


def _examples(table: FeatureTable) -> str:
    if not table.count:
        return "none"
    first = table.ids_at(np.arange(min(_SHOWN, table.count))).to_pylist()
    return ", ".join(map(repr, first)) + (", ..." if table.count > _SHOWN else "")
