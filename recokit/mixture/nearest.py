"""The nearest centroid of each vector, exactly: a float32 product proposes, float64 decides where it could be wrong.

The product's error is bounded as in :mod:`recokit.index.exact`. Where only one centroid lies within that bound of the
best, it is the nearest; the few vectors with several are compared with those again in float64, where equal centroids
are equally near and the smaller row wins. So the answer depends on no block size and no BLAS.

Under cos, near is the angle: vectors and centroids are compared at length 1. Under the other comparators, dot too, it
is the Euclidean distance, for that is what a mean minimises; scores of a centroid under dot are then the mean scores of
its members.

Shapes: B vectors, K centroids, D dimension.
"""

__all__ = ["Centroids"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.index.scoring import Rows, unit

_PRODUCT = 1 << 20  # products in memory at a time: 4 MiB
_PAIRS = 1 << 17  # numbers gathered at a time where float64 decides
_ROUNDOFF = 2.0**-24  # of float32


class Centroids:
    """Centroids (K, D) to which vectors are assigned.

    Args:
        vectors: (K, D), K at least 1, finite; not zero under cos.
        spherical: Compare angles; else distances.
    """

    def __init__(self, vectors: NDArray[Any], *, spherical: bool) -> None:
        self.spherical = spherical
        self._exact = unit(vectors.astype(np.float64)) if spherical else vectors.astype(np.float64)
        # Far from the origin, differences of distances would drown in the rounding of products.
        self._center = None if spherical else self._exact.mean(axis=0)
        moved = self._exact if self._center is None else self._exact - self._center
        self._right = np.ascontiguousarray(moved.T, np.float32)  # (D, K)
        squares = np.einsum("dk,dk->k", self._right, self._right)
        self._offset = None if spherical else -0.5 * squares
        # |fl(q . x) - q . x| <= D u |q| |x| in any order of summation (Higham 2002, section 3.1); eight more roundings
        # are those of q, of x, and of what follows the product.
        relative = (vectors.shape[1] + 8) * _ROUNDOFF
        self._error = relative * float(squares.max()) ** 0.5
        self._offset_error = 0.0 if self._offset is None else relative * float(np.abs(self._offset).max())

    def nearest(self, vectors: NDArray[Any]) -> Rows:
        """Return the row of the nearest centroid of each vector (B, D); -1 for a zero vector under cos."""
        rows = np.empty(len(vectors), np.int64)
        step = max(1, _PRODUCT // self._right.shape[1])
        for start in range(0, len(vectors), step):
            rows[start : start + step] = self._nearest(np.asarray(vectors[start : start + step]))
        return rows

    def closeness(self, vectors: NDArray[Any], rows: Rows) -> NDArray[np.float64]:
        """Return the cosine of each vector (B, D) with the centroid in its row (B,), or -|x - c|**2."""
        exact = unit(vectors.astype(np.float64)) if self.spherical else vectors.astype(np.float64)
        return self._compare(exact, self._exact[rows])

    def _nearest(self, vectors: NDArray[Any]) -> Rows:
        left = self._left(vectors)
        product = left @ self._right  # (b, K)
        if self._offset is not None:
            product += self._offset
        rows: Rows = product.argmax(axis=1)
        best = np.take_along_axis(product, rows[:, None], axis=1)[:, 0]
        norms = np.sqrt(np.einsum("bd,bd->b", left, left))
        near = product >= (best - 2 * (self._error * norms + self._offset_error))[:, None]
        doubtful = np.flatnonzero(near.sum(axis=1) > 1)
        if self.spherical:
            zero = norms == 0
            rows[zero] = -1
            doubtful = doubtful[~zero[doubtful]]
        if doubtful.size:
            rows[doubtful] = self._decide(vectors[doubtful], near[doubtful])
        return rows

    def _left(self, vectors: NDArray[Any]) -> NDArray[np.float32]:
        if self.spherical:
            return unit(vectors)
        moved: NDArray[np.float32] = (vectors - self._center).astype(np.float32)
        return moved

    def _decide(self, vectors: NDArray[Any], near: NDArray[np.bool_]) -> Rows:
        """Return, for each vector (b, D), the nearest of the centroids that ``near`` (b, K) leaves."""
        position, row = np.nonzero(near)
        closeness = np.empty(len(row))
        step = max(1, _PAIRS // vectors.shape[1])
        for start in range(0, len(row), step):
            part = slice(start, start + step)
            closeness[part] = self.closeness(vectors[position[part]], row[part])
        order = np.lexsort((row, -closeness, position))
        firsts = np.flatnonzero(np.diff(position[order], prepend=-1))
        return row[order[firsts]]

    def _compare(self, vectors: NDArray[np.float64], centroids: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.spherical:
            cosines: NDArray[np.float64] = np.einsum("pd,pd->p", vectors, centroids)
            return cosines
        difference = vectors - centroids
        squares: NDArray[np.float64] = np.einsum("pd,pd->p", difference, difference)
        return -squares
