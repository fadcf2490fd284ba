"""Every comparator as a Euclidean distance, so that a graph or a clustering sees a metric.

The dot product is none: a row can be nearer to another than to itself, and a graph built on it can be walked to the
wrong place (measured: recall 0.00 where all scores are negative). Appending one number makes all rows equally long,

    row    x  ->  [x, sqrt(B**2 - |x|**2)]        B the largest norm
    query  q  ->  [q, 0] * B / |q|

and then |row - query|**2 = 2 B**2 - 2 B q . x / |q| falls as the dot product rises (Bachrach et al. 2014; Neyshabur
and Srebro 2015). Scaling the query changes no order; it keeps small queries out of the rounding of B**2 and lets a
clustering choose its cells better. A bias is one more number of the row, against a 1 in the query. cos is the dot
product of normalised vectors. Distances stay as they are.

Shapes: N rows, Q queries, D dimension, L lifted dimension: D, plus 1 with a bias, plus 1 where norms differ.
"""

__all__ = ["Lift", "blocks"]

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from recokit.index.scoring import Rows, check_comparator, unit
from recokit.table import EmbeddingTable

_BLOCK_ROWS = 1 << 14


@dataclass(frozen=True)
class Lift:
    """The map from a table's vectors and its queries to points whose Euclidean order is the comparator's."""

    table: EmbeddingTable
    bound: float  # B; 0 for distances, which need none
    appended: bool  # whether norms differ

    PARAMETERS: ClassVar[dict[str, type]] = {"bound": float, "appended": bool}

    @classmethod
    def of(cls, table: EmbeddingTable) -> "Lift":
        """Measure a table."""
        check_comparator(table)
        if table.comparator in ("l2", "squared_l2"):
            return cls(table, 0.0, False)
        norms = _norms(table)
        bound = float(norms.max(initial=0.0))
        return cls(table, bound, bool((norms < bound * (1 - 1e-6)).any()))

    @property
    def dim(self) -> int:
        """L, the length of a lifted vector."""
        return self.table.dim + (self.table.bias is not None) + self.appended

    def parameters(self) -> dict[str, Any]:
        """Return what has to be saved beside the table."""
        return {"bound": self.bound, "appended": self.appended}

    def by_norm(self) -> Rows:
        """Return all rows (N,), by falling norm where norms differ.

        A graph has to take them in this order: points far out get few links from the crowd if they come late, and they
        are the answers. Measured on 10 000 x 32 with Pareto-distributed norms and m=32, recall@10: 0.37 in the order of
        rows, 1.00 by falling norm.
        """
        return np.argsort(-_norms(self.table), kind="stable") if self.appended else np.arange(self.table.count)

    def rows(self, rows: Rows | slice) -> NDArray[np.float32]:
        """Return lifted rows (n, L)."""
        x = _flat(self.table, rows)
        if self.appended:
            rest = np.sqrt(np.maximum(self.bound**2 - _squares(x), 0.0))
            x = np.concatenate([x, rest[:, None].astype(np.float32)], axis=1)
        return np.ascontiguousarray(x)

    def queries(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return lifted query vectors (Q, L); a zero vector stays zero."""
        if self.table.comparator in ("l2", "squared_l2"):
            return np.ascontiguousarray(vectors)
        lifted = np.zeros((len(vectors), self.dim), np.float32)
        lifted[:, : self.table.dim] = vectors
        if self.table.bias is not None:
            lifted[:, self.table.dim] = 1.0
        norms = np.sqrt(_squares(lifted))[:, None]
        return lifted * np.divide(self.bound, norms, out=np.zeros_like(norms), where=norms > 0).astype(np.float32)


def blocks(count: int, size: int = _BLOCK_ROWS) -> Iterator[slice]:
    """Return slices that cover ``count`` rows, ``size`` at a time."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _flat(table: EmbeddingTable, rows: Rows | slice) -> NDArray[np.float32]:
    """Return rows as float32 vectors whose dot product with a query is, up to its norm, the score."""
    x: NDArray[Any] = table.vectors[rows].astype(np.float32, copy=False)
    if table.comparator == "cos":
        return unit(x)
    if table.bias is not None:
        return np.concatenate([x, table.bias[rows].astype(np.float32)[:, None]], axis=1)
    return x


def _norms(table: EmbeddingTable) -> NDArray[np.float64]:
    parts = [np.sqrt(_squares(_flat(table, part))) for part in blocks(table.count)]
    return np.concatenate([np.zeros(0), *parts])


def _squares(x: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.einsum("nd,nd->n", x, x, dtype=np.float64)  # type: ignore[no-any-return]
