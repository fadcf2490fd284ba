"""The comparators' scores of (query, row) pairs, and the order of rows by score.

Scores are computed in float64 and rounded once to float32, so they do not depend on the backend that proposed a row,
on the batch it came in, or on the order of a sum. Rows are ordered by (score descending, row ascending); both fit one
int64, which sorts, merges and compares as one number.

Shapes: Q queries, P pairs, D dimension.
"""

__all__ = [
    "EMPTY",
    "Rows",
    "Scores",
    "check_k",
    "check_vectors",
    "pack",
    "score_lists",
    "score_pairs",
    "search_proposed",
    "unit",
    "unpack",
]

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError
from recokit.table import EmbeddingTable, as_vectors

Rows: TypeAlias = NDArray[np.int64]
Scores: TypeAlias = NDArray[np.float32]

EMPTY = np.int64(0x7F80_0000_FFFF_FFFF)  # pack(-inf, -1): behind every row that has a score

_PAIR_BLOCK = 1 << 17  # numbers gathered at a time: temporaries stay in the second-level cache
_QUERY_BLOCK = 4096


def check_k(k: int) -> int:
    """Return ``k`` if it is an integer of at least 1."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ConfigError(f"k is {k!r}, expected an integer of at least 1")
    return int(k)


def check_vectors(table: EmbeddingTable, vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return query vectors as float32 (Q, D) if they fit the table and are finite."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[1] != table.dim:
        raise DataError(f"query vectors have shape {vectors.shape}, expected (queries, {table.dim})")
    vectors = np.ascontiguousarray(vectors, np.float32)
    if not np.isfinite(vectors).all():
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        raise DataError(f"{len(wrong)} query vectors are not finite, the first at position {wrong[0]}")
    return vectors


def check_comparator(table: EmbeddingTable) -> None:
    """Refuse mixtures, and a bias where it has no meaning: score = dot + bias is the one model that has it."""
    as_vectors(table, "an index")
    if table.bias is not None and table.comparator != "dot":
        raise ConfigError(
            f"the {table.entity!r} table has a bias and the comparator {table.comparator!r}: bias goes with 'dot' only"
        )


def score_pairs(table: EmbeddingTable, vectors: NDArray[np.float32], positions: Rows, rows: Rows) -> Scores:
    """Return the score of query vector ``positions[p]`` with row ``rows[p]``, for every pair p; -inf for row -1.

    cos is 0 where a vector is zero.
    """
    out = np.empty(len(rows), np.float32)
    step = max(1, _PAIR_BLOCK // table.dim)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        q = np.take(vectors, positions[part], axis=0).astype(np.float64)  # (p, D)
        out[part] = _scores(table, q, rows[part])
    return out


def score_lists(table: EmbeddingTable, vectors: NDArray[np.float32], rows: Rows) -> Scores:
    """Return the scores (Q, k) of each query vector (Q, D) with its own rows (Q, k); -inf for row -1.

    The bytes are those of :func:`score_pairs`, at a third of its time: a query is converted once, not once a row.
    """
    out = np.empty(rows.shape, np.float32)
    width = max(1, _PAIR_BLOCK // table.dim)  # rows in memory at a time
    step = max(1, width // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        q = vectors[part].astype(np.float64)[:, None]  # (q, 1, D)
        for first in range(0, rows.shape[1], width):
            columns = slice(first, first + width)
            out[part, columns] = _scores(table, q, rows[part, columns])
    return out


def _scores(table: EmbeddingTable, q: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
    """Return the scores of queries (p, D) with rows (p,), or (q, 1, D) with (q, k)."""
    row = np.maximum(rows, 0)
    x = np.take(table.vectors, row, axis=0).astype(np.float64)  # a third of the time of table.vectors[row]
    score = _compare(table, q, x)
    if table.bias is not None:
        score += table.bias[row]
    score[rows < 0] = -np.inf
    return score


def _compare(table: EmbeddingTable, q: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    if table.comparator == "dot":
        return _dot(q, x)
    if table.comparator == "cos":
        norms = np.sqrt(_dot(q, q) * _dot(x, x))
        return np.divide(_dot(q, x), norms, out=np.zeros_like(norms), where=norms > 0)
    x -= q
    squares = _dot(x, x)
    return 0.0 - (np.sqrt(squares) if table.comparator == "l2" else squares)  # not -squares, which is -0.0 at zero


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    # Not matmul: BLAS may sum equal rows in different orders.
    return np.einsum("...d,...d->...", a, b)  # type: ignore[no-any-return]


def unit(vectors: NDArray[Any]) -> NDArray[Any]:
    """Return vectors (B, D) at length 1, float32 or float64 like them; zero vectors stay zero."""
    dtype = np.float64 if vectors.dtype == np.float64 else np.float32
    # In float64, where the square of a float32 neither underflows nor overflows.
    norms = np.sqrt(np.einsum("bd,bd->b", vectors, vectors, dtype=np.float64))[:, None]
    out = np.zeros(vectors.shape, dtype)
    np.divide(vectors, norms.astype(dtype), out=out, where=norms > 0)
    return out


def pack(scores: Scores, rows: Rows) -> NDArray[np.int64]:
    """Return one int64 for each (score, row), the smaller the better: score descending, then row ascending.

    Rows take 32 bits, so a table has at most 2**32 - 1 of them.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # + 0 makes -0.0 equal to 0.0
    ascending = bits ^ ((bits >> 31) & 0x7FFF_FFFF)  # IEEE 754: negative numbers run backwards
    return (~ascending).astype(np.int64) << 32 | (rows & 0xFFFF_FFFF)


def unpack(keys: NDArray[np.int64]) -> tuple[Rows, Scores]:
    """Return the rows and scores of packed keys; row -1 and score -inf where a key is ``EMPTY``."""
    ascending = ~(keys >> 32).astype(np.int32)
    scores = (ascending ^ ((ascending >> 31) & 0x7FFF_FFFF)).view(np.float32)
    return np.where(keys >= EMPTY, -1, keys & 0xFFFF_FFFF), scores


def search_proposed(
    table: EmbeddingTable,
    vectors: NDArray[Any],
    k: int,
    *,
    propose: Callable[[NDArray[np.float32], int], Rows],
    exact: Callable[[NDArray[np.float32], int], tuple[Rows, Scores]],
) -> tuple[Rows, Scores]:
    """Search with a backend that proposes rows: score them, order them, and search exactly where it came back short.

    Args:
        table: The table searched.
        vectors: Query vectors (Q, D).
        k: How many rows to return; the backend is never asked for more than the table has.
        propose: Takes vectors (q, D) and k, returns distinct rows (q, k or more) in any order, -1 where there is none.
        exact: An exact search, which never comes back short.
    """
    vectors, k = check_vectors(table, vectors), check_k(k)
    available = min(k, table.count)
    keys = np.full((len(vectors), k), EMPTY)
    for start in range(0, len(vectors) if available else 0, _QUERY_BLOCK):
        part = slice(start, start + _QUERY_BLOCK)
        rows = propose(vectors[part], available)  # (q, available or more)
        found = pack(score_lists(table, vectors[part], rows), rows)
        found.sort(axis=1)
        short = np.flatnonzero(found[:, available - 1] >= EMPTY)
        if short.size:
            exact_rows, exact_scores = exact(vectors[part][short], available)
            found[short, :available] = pack(exact_scores, exact_rows)
        keys[part, :available] = found[:, :available]
    return unpack(keys)
