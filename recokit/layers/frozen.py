"""Vectors as they are: frozen in their table, or the start of vectors that train.

Shapes: N rows, D dimension; ``...`` is any number of leading dimensions.
"""

__all__ = ["FrozenEmbedding", "Projection", "TunedEmbedding"]

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recokit.errors import ConfigError
from recokit.layers.table_layer import TableLayer, Unknown, add_unknown, all_known, shared
from recokit.table import EmbeddingTable


class FrozenEmbedding(TableLayer):
    """Look vectors up in a table; nothing trains.

    On the CPU the layer reads the table's own memory: a memory-mapped table costs no copy, only the pages that are
    looked up, and must not be written to. ``.to("cuda")`` copies it. Vectors come out as float32.

    Args:
        table: The vectors.
        unknown: What row -1 gives: zeros, or one vector that is learned and starts from zeros.
        dtype: ``float16`` holds a float32 table in half the memory, as a copy; None holds it as it is.

    >>> import numpy as np
    >>> table = EmbeddingTable.from_arrays(["a"], np.ones((1, 2), "float32"), entity="item", version="v1")
    >>> FrozenEmbedding(table)(torch.tensor([0, -1]))
    tensor([[1., 1.],
            [0., 0.]])
    """

    vectors: Tensor

    def __init__(
        self, table: EmbeddingTable, *, unknown: Unknown = "zero", dtype: Literal["float16"] | None = None
    ) -> None:
        super().__init__(table, unknown)
        if dtype not in (None, "float16"):
            raise ConfigError(f"dtype={dtype!r}, expected 'float16' or None, which leaves the table's own")
        vectors = table.vectors if dtype is None else table.vectors.astype(dtype, copy=False)
        self.register_buffer("vectors", shared(vectors), persistent=False)  # (N, D)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the vectors (..., D) of ``rows`` (...).

        Raises:
            DataError: A row is N or more; see ``check``.
        """
        self.check(rows)
        return _look_up(rows, self.vectors, self.unknown)

    def extra_repr(self) -> str:
        """Show what is held, as torch's own layers do."""
        return f"{super().extra_repr()}, {self.vectors.dtype}"


class TunedEmbedding(nn.Module):
    """Look vectors up in a copy of a table that trains on with the ranker, and is saved with it.

    Gradient and optimizer state are dense: about four times the table's memory while it trains.

    Args:
        table: Where training starts from.
        unknown: What row -1 gives: zeros, or one vector that is learned and starts from zeros.
        scale: What the table's vectors are multiplied by first.
    """

    def __init__(self, table: EmbeddingTable, *, unknown: Unknown = "zero", scale: float = 1.0) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.from_numpy(table.vectors.astype(np.float32) * np.float32(scale)))  # (N, D)
        self.unknown = nn.Parameter(torch.zeros(table.dim)) if unknown == "learned" else None

    def forward(self, rows: Tensor) -> Tensor:
        """Return the vectors (..., D) of ``rows`` (...)."""
        return _look_up(rows, self.vectors, self.unknown)


class Projection(nn.Module):
    """A linear map of a table's vectors to another dimension, ``linear(scale * x)``, without bias: zeros stay zeros.

    The scale is part of the state dict, so that it stays what it was when the table is a later version.
    """

    scale: Tensor

    def __init__(self, in_dim: int, dim: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([scale]))
        self.linear = nn.Linear(in_dim, dim, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Project ``vectors`` (..., in_dim) to (..., dim)."""
        projected: Tensor = self.linear(vectors * self.scale)
        return projected


@torch.fx.wrap
def _look_up(rows: Tensor, vectors: Tensor, unknown: Tensor | None) -> Tensor:
    if all_known(rows):
        return add_unknown(F.embedding(rows, vectors).float(), rows, unknown)
    # A table's numbers are finite, so a product is a mask, and takes a quarter of masked_fill's time on the CPU.
    found = F.embedding(rows.clamp(min=0), vectors).float().mul_((rows >= 0).unsqueeze(-1))  # (..., D)
    return add_unknown(found, rows, unknown)
