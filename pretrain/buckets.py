"""The order of buckets in an epoch over partitioned tables: two partitions in memory, one exchanged at a time.

Bucket (i, j) holds the edges whose source lies in partition i and whose target in partition j.  While the partitions
{a, b} are in memory, (a, b) and (b, a) are trained, and (a, a) once in the epoch.  That makes P(P-1)/2 stays in
memory, and each after the first loads one partition: P(P-1)/2 + 1 loads an epoch, which no order with two partitions in
memory can go below.

Every walk over the pairs whose neighbours share a partition costs that, and they differ in when they come back.  The
snake over the triangle of pairs trains one partition with all others first and then leaves it for the whole epoch; here
the walk strings together the paths of Walecki (each visits every partition once), so a partition is back after about
P stays, and its vectors never lag far behind the others'.  As in PyTorch-BigGraph's inside-out order, a partition that
comes into memory for the first time always meets one that has been trained, so the vectors of all share one space.

Partitions are relabelled at random in every epoch, but so that its first pair shares one partition, not both, with
the last pair of the epoch before: across epochs, too, one load is enough, and no bucket is trained twice in a row.

Letters: P partitions.
"""

__all__ = ["Stay", "bucket_order"]

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError


class Stay(NamedTuple):
    """The partitions that are in memory together, and the buckets (source's, target's partition) trained meanwhile."""

    partitions: tuple[int, ...]
    buckets: tuple[tuple[int, int], ...]


def bucket_order(partitions: int, seed: int, epoch: int) -> list[Stay]:
    """Return all P² buckets, each once, in the order of an epoch; seed and epoch alone decide it.

    In a stay the partition that was there before comes first, and so does its own bucket, while the other may still be
    on its way; the own bucket of the other one, which mostly stays on, comes last, while the first may leave already.

    >>> [stay.partitions for stay in bucket_order(3, seed=0, epoch=1)]
    [(1, 2), (2, 0), (0, 1)]
    >>> bucket_order(1, seed=0, epoch=1)
    [Stay(partitions=(0,), buckets=((0, 0),))]

    Args:
        partitions: P.
        seed: Of the run.
        epoch: From 1.

    Raises:
        ConfigError: There is no partition, or the epoch or the seed is negative.
    """
    for what, value, low in (("partitions", partitions, 1), ("epoch", epoch, 1), ("seed", seed, 0)):
        if value < low:
            raise ConfigError(f"bucket_order: {what} is {value}, expected at least {low}")
    if partitions == 1:
        return [Stay((0,), ((0, 0),))]
    walk = _walk(partitions)
    own = _own_buckets(partitions)
    names = _names(partitions, seed, epoch)
    reverse_first = _generator(seed, epoch, 1).integers(2, size=len(walk)).astype(bool)
    stays = []
    for (first, second), selves, reverse in zip(walk, own, reverse_first, strict=True):
        a, b = int(names[first]), int(names[second])
        crossing = [(b, a), (a, b)] if reverse else [(a, b), (b, a)]
        before = [(a, a)] if first in selves else []
        after = [(b, b)] if second in selves else []
        stays.append(Stay((a, b), (*before, *crossing, *after)))
    return stays


@lru_cache(maxsize=8)
def _walk(partitions: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs in the order of the walk; the first of a pair is the one that was there before."""
    paired = partitions - partitions % 2
    half = paired // 2
    # Path k zigzags through k, k+1, k-1, k+2, ..., k+half modulo ``paired``; no two of them have a pair in common.
    zigzag = [(step + 1) // 2 if step % 2 else -(step // 2) for step in range(paired)]
    paths = [[(k + offset) % paired for offset in zigzag] for k in range(half)]
    if partitions % 2:
        # One more partition joins the end of each path to the start of the next: an Euler trail.
        trail = [place for path in paths for place in (paired, *path)] + [paired]
        return tuple(pairwise(trail))
    pairs: list[tuple[int, int]] = []
    for k, path in enumerate(paths):
        # Every other path is walked backwards: it then starts where the last pair of the one before it ended or began.
        steps = path[::-1] if k % 2 else path
        pairs += pairwise(steps)
    return tuple(pairs)


@lru_cache(maxsize=8)
def _own_buckets(partitions: int) -> tuple[frozenset[int], ...]:
    """Return, for each pair of the walk, whose own bucket is trained there: evenly spread, one a pair if P > 2."""
    walk = _walk(partitions)
    left = np.bincount(np.array(walk).ravel())  # visits still to come
    waiting, own = set(range(partitions)), []
    for at, pair in enumerate(walk, start=1):
        left[list(pair)] -= 1
        last_chance = {place for place in pair if place in waiting and not left[place]}
        due = partitions * at / len(walk) - (partitions - len(waiting)) >= 0.5
        choice = sorted((place for place in pair if place in waiting), key=lambda place: (left[place], place))
        chosen = last_chance or (set(choice[:1]) if due else set())
        waiting -= chosen
        own.append(frozenset(chosen))
    return tuple(own)


def _names(partitions: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the partition that stands at each place of the walk, at random but for where the last epoch ended."""
    walk = _walk(partitions)
    last = np.array(walk[-1])
    names = np.arange(partitions)
    for number in range(1, epoch + 1):
        ended, generator = names[last], _generator(seed, number, 0)
        names = generator.permutation(partitions)
        if number > 1 and partitions > 2:
            # One of the last pair goes on as the first of the first pair; the other one stays away from it.
            gone, kept = (int(name) for name in generator.permutation(ended))
            first, second = walk[0]
            _swap(names, first, kept)
            if names[second] == gone:
                _swap(names, second, int(names[generator.choice(_others(partitions, first, second))]))
    return names


def _swap(names: NDArray[np.int64], place: int, name: int) -> None:
    """Put ``name`` at a place and what was there where ``name`` was."""
    other = int(np.flatnonzero(names == name)[0])
    names[other], names[place] = names[place], name


def _others(partitions: int, *places: int) -> NDArray[np.int64]:
    return np.setdiff1d(np.arange(partitions), places)


def _generator(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, purpose]))
