"""Edges of one relation as row numbers."""

__all__ = ["Edges"]

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class Edges:
    """Edges of one relation; the order is that of the input."""

    sources: NDArray[np.int64]  # (E,) rows of the source's entity type
    targets: NDArray[np.int64]  # (E,) rows of the target's entity type
    weights: NDArray[np.float32] | None = None  # (E,) at least 0
    times: NDArray[Any] | None = None  # (E,) int64 microseconds since 1970 for timestamps, else the column's numbers

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, keep: NDArray[Any]) -> "Edges":
        """Return the edges at positions or under a mask."""
        return Edges(
            self.sources[keep],
            self.targets[keep],
            None if self.weights is None else self.weights[keep],
            None if self.times is None else self.times[keep],
        )
