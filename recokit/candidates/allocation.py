"""How the places of one list are shared among the components of a mixture.

Each component c of a query, of weight w, brings a list of candidates, best first; r is a candidate's rank in it, from
1. Places are dealt out by value, and a candidate that several components found counts once:

    round_robin     w / r            max over c (Instagram's mixtures, 3.5); D'Hondt's divisors
    sainte_lague    w / (r - 1/2)    max over c; kinder to light components
    min_one         w / r            after the first candidate of every component, heaviest component first
    proportional    w k places       TwHIN (El-Kishky et al. 2022, 5.1): Hamilton's quotas
    max_score       the score        the union of the lists, weights left aside

With lists that share nothing, the first k by w / r are the k seats of D'Hondt's method. Choices that the papers leave
open:

- Equal values go to the higher alpha (what ranked the candidate in its list), then to the smaller row. Of two
  components that give a candidate the same value, the one with its higher alpha has found it, then the smaller one.
- ``min_one`` deals one place for one candidate: components whose best is the same candidate share that place.
- ``proportional``: quotas are floor(w k), and the largest remainders take what is left, ties to the smaller component.
  A candidate of several lists belongs to the component where it ranks best (ties: the heavier, then the smaller); the
  others close up and go on to their next. Places that a component cannot fill pass to the candidates left of the
  highest w / (r' - 1/2), r' being the rank in the closed-up list; by this value the result is ordered, too.
- A component of weight 0 brings nothing.

For given lists all but ``proportional`` are prefix-stable: the first 10 of 20 places are those of 10. Hamilton's quotas
are not even monotone, for a component can lose a place when k grows (the Alabama paradox).

Weights are float32 and ranks below 2**28, so that float64 quotients compare as the fractions do.

Shapes: Q queries, C components, L length of a component's list, S = C * L slots, k places.
"""

__all__ = ["Allocation", "Lists", "allocate", "check_allocation", "quotas"]

from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, closest
from recokit.index.scoring import Rows, Scores, pack

Allocation = Literal["round_robin", "proportional", "sainte_lague", "min_one", "max_score"]

T = TypeVar("T", bound=np.generic)

_FIRST = 2.0**200  # lifts a first place above all others: a power of two, so that no weight is rounded


@dataclass(frozen=True, eq=False)
class Lists:
    """What each component of each query found.

    Attributes:
        rows: (Q, C, L) rows of candidates, distinct within a list, best first; -1, at the end, where there are fewer.
        alphas: (Q, C, L) what ranked them: falling along a list, equal ones by row; -inf where the row is -1.
        scores: (Q, C, L) the comparator's scores; the same as ``alphas`` where candidates have one vector.
    """

    rows: Rows
    alphas: Scores
    scores: Scores


def check_allocation(allocation: str) -> Allocation:
    """Return ``allocation`` if it is one of the choices."""
    if allocation not in get_args(Allocation):
        raise ConfigError(f"allocation={allocation!r} is no choice; {closest(str(allocation), get_args(Allocation))}")
    return allocation  # type: ignore[return-value]


def quotas(weights: NDArray[Any], k: int) -> Rows:
    """Return Hamilton's quotas (Q, C) for ``k`` places: floor(w k), then one each to the largest remainders.

    Args:
        weights: (Q, C) of at least 0, some above it; taken in proportion to their sum.
        k: Places.

    >>> quotas(np.array([[0.5, 0.25, 0.25], [0.8, 0.2, 0.0]]), 5)
    array([[3, 1, 1],
           [4, 1, 0]])
    """
    w = np.asarray(weights, np.float64)
    shares = k * w / w.sum(axis=1, keepdims=True)
    seats = np.floor(shares).astype(np.int64)
    remainders = np.where(w > 0, shares - seats, -1.0)
    left = k - seats.sum(axis=1)
    order = np.argsort(-remainders, axis=1, kind="stable")
    place = np.argsort(order, axis=1)  # of each component, by remainder
    total: Rows = seats + (place < left[:, None])
    return total


def allocate(lists: Lists, weights: NDArray[Any], k: int, allocation: Allocation) -> Rows:
    """Choose and order the candidates of each query.

    Args:
        lists: What the components found. Lists of ``k`` candidates, or of all there are, fill ``k`` places wherever
            there are so many candidates; longer ones change no result but that of ``proportional``, by which a
            component that shares most of its list can fill more of its quota from a longer one.
        weights: (Q, C) float32, at least 0.
        k: Places.
        allocation: How places are shared.

    Returns:
        Slots (Q, k) int64, best first: c * L + r - 1 of the component that a candidate is owed to; -1 where there are
        fewer candidates.
    """
    w = np.asarray(weights, np.float64)[:, :, None]  # (Q, C, 1)
    there = (lists.rows >= 0) & (w > 0)  # (Q, C, L)
    if allocation == "proportional":
        return _proportional(lists, weights, k, there)
    if allocation == "max_score":
        order = _by_score(lists.rows, lists.scores, there)
    else:
        values = _values(w, lists.rows.shape[2], allocation)
        order = _by_value(lists, np.where(there, values, -1.0))
    return _first(_distinct(lists.rows, order, there), k)


def _values(w: NDArray[np.float64], length: int, allocation: Allocation) -> NDArray[np.float64]:
    """Return what each slot is worth (Q, C, L)."""
    rank = np.arange(1, length + 1)
    if allocation == "sainte_lague":
        return 2 * w / (2 * rank - 1)
    values = w / rank
    if allocation == "min_one":
        values[:, :, 0] *= _FIRST
    return values


def _proportional(lists: Lists, weights: NDArray[Any], k: int, there: NDArray[np.bool_]) -> Rows:
    """Return the slots (Q, k) within the quotas, and of what is left as many as are needed."""
    _, num_components, length = there.shape
    w = np.asarray(weights, np.float64)
    heavier = np.argsort(np.argsort(-w, axis=1, kind="stable"), axis=1)  # (Q, C) 0 is the heaviest
    by_rank = np.arange(length) * num_components + heavier[:, :, None]  # (Q, C, L) distinct
    owned = _owned(lists.rows, by_rank, there)
    closed_up = np.cumsum(owned, axis=2)  # r', from 1
    values = 2 * w[:, :, None] / (2 * closed_up - 1)
    within = owned & (closed_up <= quotas(w, k)[:, :, None])
    filled = np.where(owned, np.where(within, values * _FIRST, values), -1.0)
    best = _first(_masked(_by_value(lists, filled), owned), k)
    # Where places have passed on, those who took them stand behind all others: they move up to where they belong.
    passed = np.flatnonzero(((best >= 0) & ~np.take_along_axis(_flat(within), best, axis=1)).any(axis=1))
    if passed.size:
        chosen = np.zeros((len(passed), num_components * length + 1), np.bool_)
        np.put_along_axis(chosen, best[passed], True, axis=1)  # -1 is the last column, of no slot
        chosen = chosen[:, :-1].reshape(len(passed), num_components, length)
        some = Lists(lists.rows[passed], lists.alphas[passed], lists.scores[passed])
        order = _by_value(some, np.where(chosen, values[passed], -1.0))
        best[passed] = _first(_masked(order, chosen), k)
    return best


def _owned(rows: Rows, priority: Rows, there: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the slots (Q, C, L) that hold a candidate at its smallest priority; priorities are distinct."""
    slots = np.argsort(_flat(np.where(there, priority, priority.max(initial=0) + 1)), axis=1, kind="stable")
    owned = np.zeros(slots.shape, np.bool_)
    np.put_along_axis(owned, slots, _is_first(np.take_along_axis(_flat(rows), slots, axis=1)), axis=1)
    return owned.reshape(rows.shape) & there


def _by_score(rows: Rows, scores: Scores, there: NDArray[np.bool_]) -> Rows:
    """Return all slots (Q, S) by (score descending, row ascending, component ascending)."""
    keys = pack(np.where(there, scores, np.float32(-np.inf)), np.where(there, rows, -1))
    return np.argsort(_flat(keys), axis=1, kind="stable")


def _by_value(lists: Lists, values: NDArray[np.float64]) -> Rows:
    """Return all slots (Q, S) by (value descending, alpha descending, row ascending, component ascending)."""
    falling = -_flat(values)
    by_value = np.argsort(falling, axis=1, kind="stable")
    sorted_values = np.take_along_axis(falling, by_value, axis=1)
    tied = np.zeros(by_value.shape, np.bool_)
    tied[:, 1:] = (sorted_values[:, 1:] == sorted_values[:, :-1]) & (sorted_values[:, 1:] < 0)
    at = np.flatnonzero(tied.any(axis=1))
    if at.size:
        group = np.cumsum(~tied[at], axis=1)
        finer = _flat(pack(lists.alphas[at], lists.rows[at]))
        by_alpha = np.argsort(finer, axis=1, kind="stable")
        groups = np.empty_like(group)
        np.put_along_axis(groups, by_value[at], group, axis=1)
        # One number for both orders: the group in front, the place by alpha behind.
        bits = int(by_value.shape[1]).bit_length()
        keys = np.take_along_axis(groups, by_alpha, axis=1) << bits | np.arange(by_value.shape[1])
        keys.sort(axis=1)
        by_value[at] = np.take_along_axis(by_alpha, keys & ((1 << bits) - 1), axis=1)
    return by_value


def _distinct(rows: Rows, slots: Rows, there: NDArray[np.bool_]) -> Rows:
    """Return slots (Q, S), -1 where an earlier slot of the query holds the same candidate, or none is there."""
    held = np.take_along_axis(rows.reshape(slots.shape), slots, axis=1)
    return np.where(_is_first(held), _masked(slots, there), -1)


def _is_first(rows: Rows) -> NDArray[np.bool_]:
    """Return which of rows (Q, S) stand left of all that equal them."""
    size = rows.shape[1]
    bits = size.bit_length()
    keys = rows << bits | np.arange(size)
    keys.sort(axis=1)
    new = np.ones(rows.shape, np.bool_)
    new[:, 1:] = (keys[:, 1:] >> bits) != (keys[:, :-1] >> bits)
    first = np.zeros(rows.shape, np.bool_)
    np.put_along_axis(first, keys & ((1 << bits) - 1), new, axis=1)
    return first


def _masked(slots: Rows, there: NDArray[np.bool_]) -> Rows:
    return np.where(np.take_along_axis(there.reshape(slots.shape), slots, axis=1), slots, -1)


def _flat(array: NDArray[T]) -> NDArray[T]:
    """Return an array of all slots (Q, S) of one of (Q, C, L)."""
    return array.reshape(len(array), array.shape[1] * array.shape[2])


def _first(slots: Rows, k: int) -> Rows:
    """Move the slots (Q, S) that are not -1 to the left, in order, and cut or fill to k columns."""
    kept = slots >= 0
    place = np.cumsum(kept, axis=1)
    kept &= place <= k
    out = np.full((len(slots), k), -1)
    query, column = np.nonzero(kept)
    out[query, place[query, column] - 1] = slots[query, column]
    return out
