"""Frozen embedding layers: pretrained vectors as features that no optimizer can see.

Row numbers come from ``EmbeddingTable.rows``; -1 means "not in the table". A layer holds its table as a buffer that is
not persistent: a ranker's checkpoint names its tables and does not swallow them.
Shapes: B batch, V values of all the lists of a batch, N entities, D dimension.
"""

__all__ = ["FrozenEmbedding", "Projection", "TunedEmbedding", "pool", "unit_scale"]

import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, MissingDependencyError, closest
from recokit.table import EmbeddingTable

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
except ImportError as error:
    raise MissingDependencyError("torch", extra="rank", needed_for="recokit.layers") from error


class FrozenEmbedding(nn.Module):
    """Look vectors up in a table; nothing trains.

    On the CPU the layer reads the table's own memory: a memory-mapped table costs no copy, only the pages that are
    looked up, and must not be written to. ``.to("cuda")`` copies it. A float16 table stays float16; vectors come out as
    float32.

    Args:
        table: The vectors.
        unknown: What row -1 gives: zeros, or one vector that is learned and starts from zeros.

    >>> import numpy as np
    >>> table = EmbeddingTable.from_arrays(["a"], np.ones((1, 2), "float32"), entity="item", version="v1")
    >>> FrozenEmbedding(table)(torch.tensor([0, -1]))
    tensor([[1., 1.],
            [0., 0.]])
    """

    vectors: Tensor

    def __init__(self, table: EmbeddingTable, *, unknown: Literal["zero", "learned"] = "zero") -> None:
        super().__init__()
        if unknown not in ("zero", "learned"):
            raise ConfigError(f"unknown={unknown!r}: {closest(str(unknown), ('zero', 'learned'))}")
        if not table.count:
            raise DataError(f"{table!r} is empty")
        self.entity, self.version, self.count, self.dim = table.entity, table.version, table.count, table.dim
        self.register_buffer("vectors", _shared(table.vectors), persistent=False)  # (N, D)
        self.unknown = nn.Parameter(torch.zeros(table.dim)) if unknown == "learned" else None

    def forward(self, rows: Tensor) -> Tensor:
        """Return the vectors (..., D) of ``rows`` (...).

        Raises:
            DataError: a row is N or more. Told on the CPU in eager mode, for microseconds; elsewhere it is torch's
                own (device-side) assertion.
        """
        _refuse_beyond(rows, self.count, self.entity)
        return _look_up(rows, self.vectors, self.unknown)

    def known(self, rows: Tensor) -> Tensor:
        """Return which rows (...) are in the table."""
        return rows >= 0

    def extra_repr(self) -> str:
        """Show what is held, as torch's own layers do."""
        return f"{self.entity!r}, version={self.version!r}, count={self.count}, dim={self.dim}, {self.vectors.dtype}"


class TunedEmbedding(nn.Module):
    """Look vectors up in a copy of a table that trains on with the ranker, and is saved with it.

    Gradient and optimizer state are dense: about four times the table's memory while it trains.

    Args:
        table: Where training starts from.
        unknown: What row -1 gives: zeros, or one vector that is learned and starts from zeros.
        scale: What the table's vectors are multiplied by first.
    """

    def __init__(
        self, table: EmbeddingTable, *, unknown: Literal["zero", "learned"] = "zero", scale: float = 1.0
    ) -> None:
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


def unit_scale(table: EmbeddingTable) -> float:
    """Return 1 / root mean square of a table's numbers, from about 10,000 rows evenly spread; 1 if all are zero.

    Trainers leave vectors at anything between 0.01 and 10 a number; a layer above learns at one pace from all of them
    only when they come at about 1.
    """
    sample = table.vectors[:: max(1, table.count // 10_000)].astype(np.float64)
    rms = float(np.sqrt(np.mean(sample**2)))
    return 1.0 / rms if rms > 0 else 1.0


def pool(vectors: Tensor, known: Tensor, offsets: Tensor, pooling: Literal["mean", "sum"]) -> Tensor:
    """Pool the known of ``vectors`` (V, D) per list: list b is [offsets[b], offsets[b + 1]); returns (B, D).

    An unknown id is no evidence, so a mean does not count it either: [x, unknown] gives x, not x / 2.
    """
    lengths = offsets.diff()  # (B,)
    count, (num_values, dim) = lengths.shape[0], vectors.shape
    lists = torch.arange(count, device=offsets.device).repeat_interleave(lengths, output_size=num_values)
    weights = known.to(vectors.dtype)  # (V,)
    sums = vectors.new_zeros(count, dim).index_add(0, lists, vectors * weights.unsqueeze(1))
    if pooling == "sum":
        return sums
    counts = weights.new_zeros(count).index_add(0, lists, weights)
    return sums / counts.clamp(min=1.0).unsqueeze(1)


@torch.fx.wrap  # TorchRec's pipelines trace their models symbolically: there this is one call and not a branch
def _refuse_beyond(rows: Tensor, count: int, entity: str) -> None:
    if rows.device.type == "cpu" and not torch.compiler.is_compiling() and rows.numel() and int(rows.max()) >= count:
        raise DataError(f"row {int(rows.max())} of a table {entity!r} of {count} rows: rows of another table?")


def _look_up(rows: Tensor, vectors: Tensor, unknown: Tensor | None) -> Tensor:
    # A table's numbers are finite, so a product is a mask, and takes a quarter of masked_fill's time on the CPU.
    known = (rows >= 0).unsqueeze(-1)
    found = F.embedding(rows.clamp(min=0), vectors).float().mul_(known)  # (..., D)
    return found if unknown is None else found + ~known * unknown


def _shared(array: NDArray[Any]) -> Tensor:
    """Make a tensor over an array's own memory, which may be read-only, as a memory map is."""
    with warnings.catch_warnings():
        # torch warns that writing to it is undefined behaviour; nothing here writes.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ", category=UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array))
