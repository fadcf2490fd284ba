"""Exact search: a blocked matrix product that finds what could be among the best, and exact scores that decide.

The float32 product of a block is a filter. Its error is bounded (below), so every row whose product lies within twice
that bound of the k-th best is scored again by :func:`~recokit.index.scoring.score_pairs`, and the result is the best k
by (score descending, row ascending) whatever the block size, the BLAS or its threads: BLAS alone gives equal rows
unequal scores, depending on where they stand. Only a few rows beyond k pass the filter, so it costs little.

For ranking, each comparator is a product with the row, plus a number of the row:

    dot            q . x + bias
    cos            (q / |q|) . (x / |x|)
    l2, squared    (q - m) . (x - m) - |x - m|**2 / 2     for any m; a mean of rows, because far from the origin the
                                                          error bound would let every row pass

Rows are the outer loop, so a memory-mapped table is read once, however many queries there are.

Shapes: Q queries, q queries of a part, b rows of a block, D dimension.
"""

__all__ = ["ExactIndex"]

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError
from recokit.index import folder
from recokit.index.pairs import Pairs
from recokit.index.scoring import (
    EMPTY,
    Rows,
    Scores,
    check_comparator,
    check_k,
    check_vectors,
    pack,
    score_pairs,
    unit,
    unpack,
)
from recokit.table import EmbeddingTable

_PRODUCT = 1 << 20  # products in memory at a time: 4 MiB
_ROUNDOFF = 2.0**-24  # of float32


class ExactIndex:
    """Compares each query with every row; the result is exact, ties included."""

    exact = True

    def __init__(self, table: EmbeddingTable, *, block_rows: int = 8192) -> None:
        check_comparator(table)
        if block_rows < 1:
            raise ConfigError(f"block_rows is {block_rows}, expected at least 1")
        self.table = table
        self.block_rows = block_rows

    @classmethod
    def build(cls, table: EmbeddingTable, *, block_rows: int = 8192) -> "ExactIndex":
        """Return an index over a table; nothing is computed or copied.

        Args:
            table: The table, in memory or memory-mapped, float32 or float16.
            block_rows: Rows read at a time; memory stays at some tens of MiB. The result does not depend on it.
        """
        return cls(table, block_rows=block_rows)

    def search(
        self,
        vectors: NDArray[Any],
        k: int,
        *,
        among: NDArray[Any] | None = None,
        exclude: Pairs | None = None,
    ) -> tuple[Rows, Scores]:
        """Return the best ``k`` rows of each query vector (Q, D) and their scores, best first.

        Args:
            vectors: Query vectors (Q, D).
            k: At least 1.
            among: The rows to search, as row numbers or as a mask of booleans (count,); None for all.
            exclude: Rows that are not to be found, per query.

        Returns:
            Rows (Q, k) int64 and scores (Q, k) float32; row -1 and score -inf where there are fewer than ``k``.
        """
        vectors, k = check_vectors(self.table, vectors), check_k(k)
        rows = None if among is None else _row_numbers(among, self.table.count)
        excluded = _Excluded.of(exclude, rows, self.block_rows)
        center = _center(self.table)
        left = _left(self.table, vectors, center)
        norms = np.sqrt(np.einsum("nd,nd->n", left, left))
        best = _Best.none(self.table, vectors, k)
        for number, block in enumerate(self._blocks(rows, center)):
            step = max(1, _PRODUCT // len(block.rows))
            for start in range(0, len(vectors), step):
                part = slice(start, start + step)
                product = block.product(left[part])  # (q, b)
                excluded.remove(product, number, start)
                slack = 2 * (block.error * norms[part] + block.offset_error)
                best.part(part).merge(product, block.rows, slack)
        return unpack(best.keys)

    def save(self, path: str | Path) -> Path:
        """Write the index as a folder, atomically: only which table it belongs to."""
        return folder.save(path, kind="exact", table=self.table, parameters={"block_rows": self.block_rows})

    @classmethod
    def load(cls, path: str | Path, table: EmbeddingTable) -> "ExactIndex":
        """Open a saved index over the table that it was built from."""
        parameters = folder.load(path, kind="exact", table=table)
        folder.check_parameters(path, parameters, {"block_rows": int})
        return cls(table, block_rows=parameters["block_rows"])

    def _blocks(self, among: Rows | None, center: NDArray[np.float32] | None) -> Iterator["_Block"]:
        count = self.table.count if among is None else len(among)
        for start in range(0, count, self.block_rows):
            stop = min(start + self.block_rows, count)
            rows = np.arange(start, stop) if among is None else among[start:stop]
            vectors = self.table.vectors[slice(start, stop) if among is None else rows]
            yield _Block.of(self.table, rows, vectors.astype(np.float32, copy=False), center)


@dataclass(frozen=True, eq=False)
class _Best:
    """The best rows of each query in the blocks so far; arrays change in place."""

    table: EmbeddingTable
    vectors: NDArray[np.float32]  # (q, D)
    keys: NDArray[np.int64]  # (q, k), packed scores and rows, ascending
    products: NDArray[np.float32]  # (q, k), of the rows in keys

    @classmethod
    def none(cls, table: EmbeddingTable, vectors: NDArray[np.float32], k: int) -> "_Best":
        shape = (len(vectors), k)
        return cls(table, vectors, np.full(shape, EMPTY), np.full(shape, -np.inf, np.float32))

    def part(self, part: slice) -> "_Best":
        return _Best(self.table, self.vectors[part], self.keys[part], self.products[part])

    def merge(self, product: NDArray[np.float32], rows: Rows, slack: NDArray[np.float32]) -> None:
        """Score what the product (q, b) with a block cannot rule out, given its error, and keep the best k."""
        k, b = self.keys.shape[1], len(rows)
        # k earlier rows have at least this product: strictly more is needed, for a later row loses its ties.
        floor = self.products.min(axis=1)
        if b >= k and np.isneginf(floor).any():
            kth = np.partition(product, b - k, axis=1)[:, b - k]
            floor = np.maximum(floor, np.nextafter(kth, np.float32(-np.inf)))
        passed = np.flatnonzero(product > (floor - slack)[:, None])
        if not passed.size:
            return
        position, column = np.divmod(passed, b)
        counts = np.bincount(position, minlength=len(product))
        at = k + np.arange(len(passed)) - np.repeat(np.cumsum(counts) - counts, counts)  # k, k + 1, ... of each query
        shape = (len(product), k + int(counts.max()))
        keys, products = np.full(shape, EMPTY), np.full(shape, -np.inf, np.float32)
        keys[:, :k], products[:, :k] = self.keys, self.products
        keys[position, at] = pack(score_pairs(self.table, self.vectors, position, rows[column]), rows[column])
        products[position, at] = product.ravel()[passed]
        order = np.argsort(keys, axis=1)[:, :k]
        self.keys[:] = np.take_along_axis(keys, order, axis=1)
        self.products[:] = np.take_along_axis(products, order, axis=1)


@dataclass(frozen=True, eq=False)
class _Block:
    """The right side of the product, for some rows."""

    rows: Rows  # (b,)
    vectors: NDArray[np.float32]  # (b, D)
    offset: NDArray[np.float32] | None  # (b,)
    error: float  # bound on the error of q . x, for |q| = 1
    offset_error: float

    @classmethod
    def of(
        cls, table: EmbeddingTable, rows: Rows, vectors: NDArray[np.float32], center: NDArray[np.float32] | None
    ) -> "_Block":
        offset = None
        if table.comparator == "cos":
            vectors = unit(vectors)
        elif center is not None:
            vectors = vectors - center
        squares = np.einsum("nd,nd->n", vectors, vectors)
        if table.bias is not None:
            offset = table.bias[rows].astype(np.float32)
        elif center is not None:
            offset = -0.5 * squares
        # |fl(q . x) - q . x| <= D u |q| |x| in any order of summation (Higham 2002, section 3.1), to first order in u
        # and barring underflow; so for |x|**2. Eight more roundings are those of q, x, and what follows the product.
        relative = (table.dim + 8) * _ROUNDOFF
        largest = 0.0 if offset is None else float(np.abs(offset).max())
        return cls(rows, vectors, offset, relative * float(squares.max()) ** 0.5, relative * largest)

    def product(self, left: NDArray[np.float32]) -> NDArray[np.float32]:
        product: NDArray[np.float32] = left @ self.vectors.T  # (q, b)
        if self.offset is not None:
            product += self.offset
        return product


@dataclass(frozen=True, eq=False)
class _Excluded:
    """Excluded pairs in the order in which blocks meet them: by block, then query."""

    starts: Rows  # (blocks + 1,)
    positions: Rows  # (P,)
    columns: Rows  # (P,) within their block

    @classmethod
    def of(cls, pairs: Pairs | None, among: Rows | None, block_rows: int) -> "_Excluded":
        if pairs is None:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
        if among is not None:
            pairs = pairs.within(among)
        rows = pairs.rows if among is None else np.searchsorted(among, pairs.rows)
        number, column = np.divmod(rows, block_rows)
        order = np.argsort(number, kind="stable")
        starts = np.searchsorted(number[order], np.arange(number.max(initial=-1) + 2))
        return cls(starts, pairs.positions[order], column[order])

    def remove(self, product: NDArray[np.float32], number: int, first: int) -> None:
        """Set the excluded pairs of a block and of the queries from ``first`` on to -inf, which no floor lets pass."""
        if number + 1 < len(self.starts):
            mine = slice(self.starts[number], self.starts[number + 1])
            start, stop = np.searchsorted(self.positions[mine], [first, first + len(product)])
            product[self.positions[mine][start:stop] - first, self.columns[mine][start:stop]] = -np.inf


def _center(table: EmbeddingTable) -> NDArray[np.float32] | None:
    """Return a mean of up to 1000 rows, for distances."""
    if table.comparator in ("dot", "cos") or not table.count:
        return None
    rows = np.linspace(0, table.count - 1, min(table.count, 1000)).astype(np.int64)
    return table.vectors[rows].mean(axis=0, dtype=np.float64).astype(np.float32)  # type: ignore[no-any-return]


def _left(
    table: EmbeddingTable, vectors: NDArray[np.float32], center: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Return the left side of the product."""
    if table.comparator == "cos":
        return unit(vectors)
    return vectors if center is None else vectors - center


def _row_numbers(among: NDArray[Any], count: int) -> Rows:
    """Return distinct row numbers, ascending, of row numbers in any order or of a mask."""
    among = np.asarray(among)
    if among.dtype == np.bool_:
        if among.shape != (count,):
            raise DataError(f"a mask of rows has shape {among.shape}, expected ({count},)")
        return np.flatnonzero(among)
    if among.size and among.dtype.kind not in "iu":
        raise DataError(f"rows are of type {among.dtype}, expected integers or a mask of booleans")
    rows = np.unique(among).astype(np.int64)
    if rows.size and (rows[0] < 0 or rows[-1] >= count):
        raise DataError(f"rows run from {rows[0]} to {rows[-1]}, expected 0 to {count - 1}")
    return rows
