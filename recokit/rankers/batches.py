"""Batches of rows, in an order that depends on the seed alone.

Rows that are in memory whole are shuffled whole, in every epoch anew. Of others a buffer is: blocks (row groups) are
taken in a random order until they hold ``shuffle_rows`` rows, those rows are shuffled, and batches go across buffers.
So any two blocks may meet in a batch, but a batch mixes the rows of one buffer (or two neighbours), about
``shuffle_rows / rows of a block`` blocks. Of files that are sorted by time a batch then holds that many moments: with
buffers of ten row groups and more that is as good as a full shuffle for most purposes; with one or two, shuffle the
files. Memory holds two buffers of arrays: a thread prepares the next while batches are taken from the current one.

By groups, batches hold whole groups, in random order and about ``batch_size`` rows of them.
"""

__all__ = ["Batches", "Buffer", "Place", "ahead"]

import math
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recokit.errors import DataError
from recokit.features import Batch, FeatureSpec, take
from recokit.rankers.rows import Rows

T = TypeVar("T")
_Arrays: TypeAlias = Batch[NDArray[Any]]
_Positions: TypeAlias = NDArray[np.int64]

_BLOCKS, _ROWS = 1, 2  # what a generator is for; recokit.rankers.rows has another
_END: Any = object()


@dataclass(frozen=True, order=True)
class Place:
    """Where a run stands in the rows: the batch that comes next.

    Attributes:
        epoch: From 1.
        buffer: Of the epoch, from 0.
        batch: Of the buffer, from 0.
    """

    epoch: int = 1
    buffer: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Buffer:
    """Rows in memory, and the batches that are made of them.

    Attributes:
        arrays: The rows.
        order: Their positions (N,), batch after batch.
        ends: Where in the order each batch but the last ends.
    """

    arrays: _Arrays
    order: _Positions
    ends: _Positions

    def batches(self, first: int = 0) -> Iterator[_Arrays]:
        """Yield the batches from the ``first`` on."""
        bounds = [0, *self.ends.tolist(), len(self.order)] if len(self.order) else []
        for start, end in list(pairwise(bounds))[first:]:
            yield take(self.arrays, self.order[start:end])


class Batches:
    """The batches of all epochs.

    Args:
        rows: Where they come from.
        features: What is read; fitted.
        batch_size: Rows of a batch.
        shuffle_rows: Rows of a buffer.
        seed: Of the order; None for the rows' own.
        by_group: Whether batches hold whole groups.
        resampled: Whether the rows of one epoch are not those of the next.
    """

    def __init__(
        self,
        rows: Rows,
        features: FeatureSpec,
        *,
        batch_size: int,
        shuffle_rows: int,
        seed: int | None,
        by_group: bool = False,
        resampled: bool = False,
    ) -> None:
        self.num_rows = sum(rows.sizes)
        self._rows, self._features, self._batch_size, self._shuffle_rows = rows, features, batch_size, shuffle_rows
        self._seed, self._by_group = seed, by_group
        # One permutation of all rows after the other, where they are in memory whole.
        self._generator, self._epochs_drawn = None if seed is None else np.random.default_rng(seed), 0
        self._drawn: _Positions = np.empty(0, np.int64)
        self._held = None if resampled or len(rows.sizes) != 1 else self._arrays(rows.read([0], 0))

    @property
    def num_batches(self) -> int:
        """Batches of an epoch; by groups, about as many."""
        return math.ceil(self.num_rows / self._batch_size)

    def epoch(self, start: Place) -> Iterator[tuple[Place, _Arrays]]:
        """Yield the batches of an epoch from ``start`` on, each with the place after it."""
        first = start.batch
        for number, buffer in ahead(self.buffers(start.epoch, start.buffer)):
            for at, batch in enumerate(buffer.batches(first), start=first + 1):
                yield Place(start.epoch, number, at), batch
            first = 0

    def buffers(self, epoch: int = 0, first: int = 0) -> Iterator[tuple[int, Buffer]]:
        """Yield the buffers of an epoch from the ``first`` on, each with its number."""
        plan = self._plan(epoch)
        # Rows of the epoch before each buffer; what is left of them after the last full batch begins the next buffer.
        before = np.cumsum([0] + [sum(self._rows.sizes[block] for block in blocks) for blocks in plan])
        left = np.zeros_like(before) if self._by_group else before % self._batch_size
        left[-1] = 0
        carried: pd.DataFrame | None = None
        for number in range(max(first - 1, 0) if left[first] else first, len(plan)):
            if self._held is not None:
                yield number, self._buffer(self._held, epoch, number, 0)
                continue
            frame = self._rows.read(plan[number], epoch)
            order = self._order(epoch, number, len(frame)) if left[number + 1] else np.empty(0, np.int64)
            if number >= first:
                whole = frame if carried is None else pd.concat([carried, frame], ignore_index=True)
                num_carried = 0 if carried is None else len(carried)
                yield number, self._buffer(self._arrays(whole), epoch, number, num_carried, int(left[number + 1]))
            carried = frame.iloc[order[len(order) - left[number + 1] :]] if left[number + 1] else None

    def _plan(self, epoch: int) -> list[list[int]]:
        """Return the blocks of each buffer."""
        sizes = self._rows.sizes
        order = np.arange(len(sizes))
        if self._seed is not None and len(sizes) > 1:
            order = np.random.default_rng([_BLOCKS, self._seed, epoch]).permutation(len(sizes))
        plan: list[list[int]] = []
        filled = self._shuffle_rows
        for block in order.tolist():
            if filled >= self._shuffle_rows:
                plan.append([])
                filled = 0
            plan[-1].append(block)
            filled += sizes[block]
        return plan

    def _arrays(self, frame: pd.DataFrame) -> _Arrays:
        arrays = self._features.batch(frame)
        if self._by_group and arrays.group is not None and (arrays.group < 0).any():
            missing = int((arrays.group < 0).sum())
            raise DataError(
                f"{missing} of {len(arrays)} rows have no {self._features.group!r}, so they are of no group"
            )
        return arrays

    def _buffer(self, arrays: _Arrays, epoch: int, number: int, carried: int, left: int = 0) -> Buffer:
        """Order rows of which the first ``carried`` come first and the last ``left`` are for the next buffer."""
        if self._by_group:
            return Buffer(arrays, *self._by_groups(arrays, epoch, number))
        order = self._order(epoch, number, len(arrays) - carried)
        if carried:
            order = np.concatenate([np.arange(carried), order + carried])
        order = order[: len(order) - left]
        return Buffer(arrays, order, np.arange(self._batch_size, len(order), self._batch_size))

    def _by_groups(self, arrays: _Arrays, epoch: int, number: int) -> tuple[_Positions, _Positions]:
        """Order whole groups, and cut them into batches of about one size."""
        groups: _Positions = np.empty(0, np.int64) if arrays.group is None else arrays.group
        sizes = np.bincount(groups)  # they are numbered in the order of their first rows
        order = self._order(epoch, number, len(sizes))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        ends = np.cumsum(sizes[order])
        num_batches = math.ceil(len(groups) / self._batch_size)
        batch = (ends - sizes[order]) * num_batches // max(len(groups), 1)  # of each group, by where it begins
        return np.argsort(rank[groups], kind="stable"), ends[np.flatnonzero(np.diff(batch))]

    def _order(self, epoch: int, number: int, size: int) -> _Positions:
        """Return a permutation of the rows or groups of a buffer."""
        if self._generator is None or self._seed is None:
            return np.arange(size)
        if len(self._rows.sizes) > 1:
            return np.random.default_rng([_ROWS, self._seed, epoch, number]).permutation(size)
        while self._epochs_drawn < epoch:
            self._drawn = self._generator.permutation(size)
            self._epochs_drawn += 1
        return self._drawn


def ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """Yield items while a thread prepares the next one, in the same order."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, iterator, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, iterator, _END)
            yield item
