"""Candidates that are mixtures: rows of components in, items out (Instagram's mixtures, 3.5).

The index stands over the components of items. The best k * C rows of a query's component are summed up by item,

    alpha(d) = sum over l of w_l * kernel(score of row l)        over the rows found; a row not found counts 0

which needs kernels of at least 0, the larger the closer: (1 + cos) / 2 (``missing="zero"``), or the score above that of
the last row found (``missing="floor"``), which any comparator allows. A sum is at most the weighted mean of the item's
kernels, so an item with one good component of five ranks below one with a single fair one; ``aggregate="max"`` takes
the best kernel of a component of positive weight, without its weight, instead. alpha is a float64 sum in the order of
the rows found, rounded once to float32; items rank by alpha, then by row.

k * C rows hold k distinct items at least, because none has more than C. With k, more rows are found and sums (and the
floor) change, so a list of 10 need not be the start of one of 20. Rows may be shared between items: a row is
left out of a search only where all the items that hold it are, and what it brings beyond them is dropped afterwards.

Shapes: R rows of components, N items, C components of an item, P lists, L rows found, k items wanted.
"""

__all__ = ["Aggregate", "ItemRows", "Missing", "check_aggregate", "check_missing"]

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, closest
from recokit.index import Pairs
from recokit.index.pairs import in_sorted
from recokit.index.scoring import EMPTY, Rows, Scores, pack, unpack
from recokit.table import Comparator, Mixture

Aggregate = Literal["sum", "max"]
Missing = Literal["zero", "floor"]

_PAIR_BLOCK = 1 << 20  # (row found, item) pairs in memory at a time


def check_aggregate(aggregate: str) -> Aggregate:
    """Return ``aggregate`` if it is one of the choices."""
    if aggregate not in get_args(Aggregate):
        raise ConfigError(f"aggregate={aggregate!r} is no choice; {closest(str(aggregate), get_args(Aggregate))}")
    return aggregate  # type: ignore[return-value]


def check_missing(missing: str | None, comparator: Comparator) -> Missing:
    """Return the choice for a comparator: ``"zero"`` for cos and ``"floor"`` for the others, where None is given."""
    if missing is None:
        return "zero" if comparator == "cos" else "floor"
    if missing not in get_args(Missing):
        raise ConfigError(f"missing={missing!r} is no choice; {closest(str(missing), get_args(Missing))}")
    if missing == "zero" and comparator != "cos":
        raise ConfigError(
            f"missing='zero' needs scores of at least 0, which only 'cos' can be brought to: the components are "
            f"compared by {comparator!r}, so expected 'floor'"
        )
    return missing  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class ItemRows:
    """Which items hold each row of components: row r is held by ``items[starts[r] : starts[r + 1]]``, ascending."""

    mixture: Mixture
    starts: Rows  # (R + 1,)
    items: Rows
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, mixture: Mixture) -> "ItemRows":
        """Turn a mixture around, once. A row that an item has twice counts once, with both weights."""
        item, component = np.nonzero(np.asarray(mixture.component_rows) >= 0)
        row = np.asarray(mixture.component_rows)[item, component]
        weight = np.asarray(mixture.weights)[item, component].astype(np.float64)
        keys, inverse = np.unique(row * mixture.count + item, return_inverse=True)
        row, item = np.divmod(keys, max(1, mixture.count))
        weights = np.bincount(inverse, weight, minlength=len(keys)).astype(np.float32)
        return cls(mixture, np.searchsorted(row, np.arange(mixture.components.count + 1)), item, weights)

    def allowed(self, among: Rows | None) -> Rows | None:
        """Return the rows (ascending) that an allowed item holds; None for all there are."""
        owners = self._owners(among)
        return None if among is None and (owners > 0).all() else np.flatnonzero(owners > 0)

    def excluded(self, exclude: Pairs, among: Rows | None) -> Pairs:
        """Return, for pairs of query and excluded item, the rows that only excluded items hold of the allowed ones."""
        if among is not None:
            exclude = exclude.within(among)
        rows = np.sort(np.asarray(self.mixture.component_rows[exclude.rows]), axis=1)  # (pairs, C)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
        num_rows = self.mixture.components.count
        keys = (exclude.positions[:, None] * num_rows + rows)[rows >= 0]
        keys, holders = np.unique(keys, return_counts=True)
        position, row = np.divmod(keys, max(1, num_rows))
        gone = holders == self._owners(among)[row]
        num_queries = len(exclude.starts) - 1
        return Pairs.of(position[gone], row[gone], num_queries=num_queries, num_rows=num_rows)

    def aggregate(
        self,
        rows: Rows,
        scores: Scores,
        k: int,
        *,
        exclude: Pairs,
        among: Rows | None,
        aggregate: Aggregate,
        missing: Missing,
    ) -> tuple[Rows, Scores, Scores]:
        """Return the best ``k`` items of each list of rows, their alphas, and the scores of their best rows.

        Args:
            rows: (P, L) rows of components, best first, -1 at the end.
            scores: (P, L) the comparator's scores.
            k: Items of a list.
            exclude: For each of the P lists, items that are not to be found.
            among: The items allowed, ascending and distinct; None for all.
            aggregate: What is made of the kernels of an item's rows.
            missing: The kernel.

        Returns:
            Items (P, k) int64, alphas (P, k) and scores (P, k) float32; -1 and -inf where there are fewer.
        """
        items = np.full((len(rows), k), -1)
        alphas, best = np.full((len(rows), k), -np.inf, np.float32), np.full((len(rows), k), -np.inf, np.float32)
        kernels = _kernels(rows, scores, missing)
        for part in self._parts(rows):
            place, item, weight, at = self._pairs(rows[part])
            kept = ~_contains(exclude.take(np.arange(part.start, part.stop)), place, item)
            if among is not None:
                kept &= in_sorted(among, item)
            place, item, weight, at = place[kept], item[kept], weight[kept], at[kept]
            kernel = kernels[part].ravel()[at]
            terms = weight * kernel if aggregate == "sum" else np.where(weight > 0, kernel, 0.0)
            order, first = _groups(place * self.mixture.count + item)
            if not len(first):
                continue
            sums = (np.add if aggregate == "sum" else np.maximum).reduceat(terms[order], first)
            found = order[first]  # an item's best row comes first
            items[part], alphas[part], best[part] = _ranked(
                place[found],
                item[found],
                sums.astype(np.float32),
                scores[part].ravel()[at[found]],
                num_lists=len(rows[part]),
                k=k,
            )
        return items, alphas, best

    def _owners(self, among: Rows | None) -> Rows:
        """Return how many allowed items hold each row (R,)."""
        if among is None:
            return np.diff(self.starts)
        allowed = np.concatenate([[0], np.cumsum(in_sorted(among, self.items))])
        return np.diff(allowed[self.starts])

    def _parts(self, rows: Rows) -> Iterator[slice]:
        """Cut lists into runs of a bounded number of pairs."""
        counts = np.where(rows >= 0, np.diff(self.starts)[rows], 0).sum(axis=1)
        number = (np.cumsum(counts) - counts) // _PAIR_BLOCK
        edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(rows)]
        return (slice(start, stop) for start, stop in pairwise(edges) if stop > start)

    def _pairs(self, rows: Rows) -> tuple[Rows, Rows, NDArray[np.float64], Rows]:
        """Return list, item, weight and position in ``rows`` of each item that holds a row found."""
        flat = np.flatnonzero(rows >= 0)
        row = rows.ravel()[flat]
        counts = self.starts[row + 1] - self.starts[row]
        held = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - self.starts[row], counts)
        at = np.repeat(flat, counts)
        return at // max(1, rows.shape[1]), self.items[held], self.weights[held].astype(np.float64), at


def _kernels(rows: Rows, scores: Scores, missing: Missing) -> NDArray[np.float64]:
    """Return what each row found (P, L) adds to its item for a weight of 1."""
    wide = scores.astype(np.float64)
    if missing == "zero":
        return (1 + wide) / 2
    last = np.maximum((rows >= 0).sum(axis=1) - 1, 0)
    return wide - np.where(rows[:, :1] >= 0, np.take_along_axis(wide, last[:, None], axis=1), 0.0)


def _contains(pairs: Pairs, place: Rows, item: Rows) -> NDArray[np.bool_]:
    return in_sorted(pairs.positions * pairs.num_rows + pairs.rows, place * pairs.num_rows + item)


def _groups(keys: Rows) -> tuple[Rows, Rows]:
    """Return an order that brings equal keys together, in their old order, and where each group starts."""
    bits = len(keys).bit_length()
    if int(keys.max(initial=0)) >= 1 << (62 - bits):
        order = np.argsort(keys, kind="stable")
    else:  # one number for key and place sorts in a tenth of the time
        packed = np.sort(keys << bits | np.arange(len(keys)))
        order = packed & ((1 << bits) - 1)
    return order, np.flatnonzero(np.diff(keys[order], prepend=-1))


def _ranked(
    place: Rows, item: Rows, alphas: Scores, scores: Scores, *, num_lists: int, k: int
) -> tuple[Rows, Scores, Scores]:
    """Lay items, by list, out as rows of ``k``, best first."""
    counts = np.bincount(place, minlength=num_lists)
    column = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (num_lists, max(k, int(counts.max(initial=0))))
    keys, laid = np.full(shape, EMPTY), np.full(shape, -np.inf, np.float32)
    keys[place, column], laid[place, column] = pack(alphas, item), scores
    order = np.argsort(keys, axis=1)[:, :k]  # equal keys are empty ones
    items, best = unpack(np.take_along_axis(keys, order, axis=1))
    return items, best, np.take_along_axis(laid, order, axis=1)
