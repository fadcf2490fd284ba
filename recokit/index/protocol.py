"""What every index can do; a backend of your own needs no more than this."""

__all__ = ["Index"]

from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from recokit.index.scoring import Rows, Scores
from recokit.table import EmbeddingTable


class Index(Protocol):
    """Finds the rows of a table that score highest with a query vector."""

    @property
    def table(self) -> EmbeddingTable:
        """The table whose rows are found."""

    @property
    def exact(self) -> bool:
        """Whether every search returns the true best rows."""

    def search(self, vectors: NDArray[Any], k: int) -> tuple[Rows, Scores]:
        """Return the best ``k`` rows of each query vector and their scores, best first.

        Args:
            vectors: Query vectors (Q, D), already moved by their relation's operator.
            k: At least 1; may exceed the table's count.

        Returns:
            Rows (Q, k) int64 and scores (Q, k) float32; row -1 and score -inf where the table has fewer than ``k``.
        """

    def save(self, path: str | Path) -> Path:
        """Write the index as a folder, atomically; the table is not part of it."""
