"""Codes decoded where they are used: N * M bytes instead of N * D floats.

Shapes: B batch, N rows, D dimension, M sub-quantizers, K codes in each; ``...`` is any number of leading dimensions.
"""

__all__ = ["PQEmbedding", "places_of"]

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recokit.layers.bags import bag_sum, gather_rows
from recokit.layers.table_layer import TableLayer, Unknown, add_unknown, all_known, shared
from recokit.table import PQTable


class PQEmbedding(TableLayer):
    """Hold codes, decode on lookup (Jegou et al. 2010); nothing trains.

    The codebook is one flat matrix, so that a batch is decoded by one gather: code k of sub-quantizer m is its row
    m * K + k. One more row of zeros stands at its end; the codes of an unknown row all point there, which costs M
    integers and not D floats.

    Args:
        table: Codes and codebook, of any codec.
        unknown: What row -1 gives: zeros, or one vector that is learned and starts from zeros.

    >>> codebook = np.array([[[1.0], [2.0]], [[10.0], [20.0]]], dtype=np.float32)
    >>> codes = np.array([[0, 1]], dtype=np.uint8)
    >>> table = PQTable.from_arrays(["a"], codes, codebook, entity="item", version="v1")
    >>> PQEmbedding(table)(torch.tensor([0, -1]))
    tensor([[ 1., 20.],
            [ 0.,  0.]])
    """

    codes: Tensor
    codebook: Tensor
    offsets: Tensor
    rotation: Tensor | None

    def __init__(self, table: PQTable, *, unknown: Unknown = "zero") -> None:
        super().__init__(table, unknown)
        self.codec = table.codec
        self.sub_quantizers, size, width = table.codebook.shape
        flat = np.concatenate([table.codebook.reshape(-1, width), np.zeros((1, width), np.float32)])
        offsets = torch.arange(self.sub_quantizers, dtype=torch.int32) * size
        rotation = None if table.rotation is None else shared(table.rotation)
        self.register_buffer("codes", shared(table.codes), persistent=False)  # (N, M) uint8
        self.register_buffer("codebook", torch.from_numpy(flat), persistent=False)  # (M * K + 1, D / M), or (.., D)
        self.register_buffer("offsets", offsets, persistent=False)  # (M,)
        self.register_buffer("rotation", rotation, persistent=False)  # (D, D)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the vectors (..., D) of ``rows`` (...).

        Raises:
            DataError: A row is N or more; see ``check``.
        """
        self.check(rows)
        places = places_of(rows, self.codes, self.offsets, self.codebook.shape[0] - 1)
        return add_unknown(self._decoded(places), rows, self.unknown)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the vectors (..., D) of codes (..., M) uint8 that come from elsewhere, such as a feature store."""
        return self._decoded(codes.int() + self.offsets)

    def extra_repr(self) -> str:
        """Show what is held, as torch's own layers do."""
        return f"{super().extra_repr()}, {self.codec}, sub_quantizers={self.sub_quantizers}"

    def _decoded(self, places: Tensor) -> Tensor:
        if self.codec == "additive":
            return bag_sum(places, self.codebook)
        joined = gather_rows(places, self.codebook).flatten(-2)  # (..., M, D / M) -> (..., D)
        return joined if self.rotation is None else joined @ self.rotation


def places_of(rows: Tensor, codes: Tensor, offsets: Tensor, nowhere: int) -> Tensor:
    """Return the rows (..., M) int32 of a flat codebook that make the vectors of ``rows`` (...).

    Args:
        rows: Rows of the table, -1 for one that is not there.
        codes: (N, M) uint8.
        offsets: (M,) int32, where each sub-quantizer begins in the flat codebook.
        nowhere: The row of the flat codebook that all codes of row -1 point to.
    """
    return _places_of(rows, codes, offsets, nowhere)


@torch.fx.wrap  # a symbolic trace sees no values
def _places_of(rows: Tensor, codes: Tensor, offsets: Tensor, nowhere: int) -> Tensor:
    # int32 before the sum: uint8 would overflow, and int64 takes twice the time.
    if all_known(rows):
        return _gathered(codes, rows).int().add_(offsets)
    places = _gathered(codes, rows.clamp(min=0)).int().add_(offsets)
    return places.masked_fill_((rows < 0).unsqueeze(-1), nowhere)


def _gathered(codes: Tensor, rows: Tensor) -> Tensor:
    # torch.compile would merge this gather with the decoding into one loop, in which every row waits for memory alone.
    # A view of another width keeps them apart, for half the time; graphs that are exported stay without it.
    if torch.compiler.is_dynamo_compiling() and codes.shape[1] % 8 == 0:
        return F.embedding(rows, codes.view(torch.int64)).view(torch.uint8)
    return F.embedding(rows, codes)
