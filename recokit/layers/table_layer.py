"""What the frozen layers share: the table's name, rows that are checked, and what an unknown row gives.

Shapes: B batch, D dimension; ``...`` is any number of leading dimensions.
"""

__all__ = ["LearnedUnknown", "TableLayer", "Unknown", "add_unknown", "all_known", "refuse_beyond", "shared"]

import warnings
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recokit.errors import ConfigError, DataError, closest
from recokit.table import FeatureTable

Unknown = Literal["zero", "learned"]


class TableLayer(nn.Module):
    """Rows of a table to vectors: FrozenEmbedding, PQEmbedding and MixtureEmbedding are of this kind.

    Attributes:
        entity: The table's entity type.
        version: The table's version.
        count: N, its rows.
        dim: D, the length of the vectors that come out.
        unknown: (D,) the learned vector of row -1, or None where that gives zeros.
    """

    def __init__(self, table: FeatureTable, unknown: Unknown) -> None:
        super().__init__()
        if unknown not in get_args(Unknown):
            raise ConfigError(f"unknown={unknown!r}: {closest(str(unknown), get_args(Unknown))}")
        if not table.count:
            raise DataError(f"{table!r} is empty")
        self.entity, self.version, self.count, self.dim = table.entity, table.version, table.count, table.dim
        self.unknown = nn.Parameter(torch.zeros(table.dim)) if unknown == "learned" else None

    def known(self, rows: Tensor) -> Tensor:
        """Return which rows (...) are in the table."""
        return rows >= 0

    def check(self, rows: Tensor) -> None:
        """Refuse rows (...) of another table.

        Raises:
            DataError: A row is N or more. Told on the CPU in eager mode, for microseconds; elsewhere it is torch's
                own (device-side) assertion.
        """
        refuse_beyond(rows, self.count, self.entity)

    def extra_repr(self) -> str:
        """Show what is held, as torch's own layers do."""
        return f"{self.entity!r}, version={self.version!r}, count={self.count}, dim={self.dim}"


class LearnedUnknown(nn.Module):
    """A learned vector for row -1 over a layer that gives zeros there, and that others may read as it is.

    What ``unknown="learned"`` is for a layer of one's own: two features of one table have one memory, on a GPU too.
    """

    def __init__(self, layer: TableLayer) -> None:
        super().__init__()
        self.layer = layer
        self.unknown = nn.Parameter(torch.zeros(layer.dim))

    def forward(self, rows: Tensor, *target: Tensor) -> Tensor:
        """Return the vectors (..., D) of ``rows`` (...); ``target`` is passed on."""
        return add_unknown(self.layer(rows, *target), rows, self.unknown)


def refuse_beyond(rows: Tensor, count: int, entity: str) -> None:
    """Refuse rows (...) past the last of a table's ``count``; see ``TableLayer.check``."""
    _refuse_beyond(rows, count, entity)


def all_known(rows: Tensor) -> bool:
    """Return whether no row (...) is -1, where that is quickly seen: on the CPU in eager mode; else False."""
    if rows.device.type != "cpu" or torch.compiler.is_compiling() or not rows.numel():
        return False
    return int(rows.min()) >= 0


def add_unknown(found: Tensor, rows: Tensor, unknown: Tensor | None) -> Tensor:
    """Add the learned vector, where there is one, to ``found`` (..., D), which is zeros where ``rows`` (...) are -1."""
    return found if unknown is None else found + (rows < 0).unsqueeze(-1) * unknown


def shared(array: NDArray[Any]) -> Tensor:
    """Make a tensor over an array's own memory, which may be read-only, as a memory map is."""
    with warnings.catch_warnings():
        # torch warns that writing to it is undefined behaviour; nothing here writes.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ", category=UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array))


@torch.fx.wrap  # TorchRec's pipelines trace their models symbolically: there this is one call and not a branch
def _refuse_beyond(rows: Tensor, count: int, entity: str) -> None:
    if rows.device.type == "cpu" and not torch.compiler.is_compiling() and rows.numel() and int(rows.max()) >= count:
        raise DataError(f"row {int(rows.max())} of a table {entity!r} of {count} rows: rows of another table?")
