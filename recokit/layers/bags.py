"""Bags: several vectors to one, list by list.

The sums are those of torch's ``embedding_bag``, which does not write down the vectors that it adds: several times as
fast as a gather and a sum, compiled or not. ONNX has nothing like it, so an exported graph gathers and adds.

Shapes: B batch, V values of all the lists of a batch, D dimension, M rows of a bag, P rows of a matrix; ``...`` is any
number of leading dimensions.
"""

__all__ = ["BagPooling", "bag_sum", "gather_rows", "pool"]

from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

BagPooling = Literal["mean", "sum"]


def pool(vectors: Tensor, known: Tensor, offsets: Tensor, pooling: BagPooling, weights: Tensor | None = None) -> Tensor:
    """Pool the known of ``vectors`` (V, D) per list: list b is [offsets[b], offsets[b + 1]); returns (B, D).

    With weights (V,) of at least 0, a sum is Σ w x and a mean Σ w x / Σ w, zeros where Σ w is 0. An unknown id is no
    evidence, so a mean does not count it either: [x, unknown] gives x, not x / 2.
    """
    shares = (known if weights is None else known * weights).to(vectors.dtype)  # (V,)
    sums = _sums_of_lists(vectors, offsets, shares)
    if pooling == "sum":
        return sums
    totals = _sums_of_lists(shares.unsqueeze(1), offsets, torch.ones_like(shares))  # (B, 1)
    return sums / torch.where(totals == 0, 1.0, totals)


def bag_sum(places: Tensor, matrix: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the sums (..., D) of the rows ``places`` (..., M) of a matrix (P, D), each times its weight (..., M)."""
    return _bag_sum(places, matrix, weights)


def gather_rows(places: Tensor, matrix: Tensor) -> Tensor:
    """Return the rows ``places`` (..., M) of a matrix (P, D), as (..., M, D).

    Of many short rows, bags of one row each: 1.3 times as fast as a gather at 8 numbers a row, 1.6 times at 4.
    """
    return _gather_rows(places, matrix)


@torch.fx.wrap
def _gather_rows(places: Tensor, matrix: Tensor) -> Tensor:
    many, short = 1 << 14, 16
    if torch.compiler.is_compiling() or places.device.type != "cpu" or matrix.shape[1] > short or places.numel() < many:
        return F.embedding(places, matrix)
    count = places.numel()
    offsets = _counting(1 << count.bit_length(), places.dtype)[: count + 1]
    return _embedding_bag(places.reshape(-1), matrix, offsets, None).view(*places.shape, matrix.shape[1])


@lru_cache(maxsize=4)
def _counting(size: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # what is kept has to serve outside of it, too
        return torch.arange(size + 1, dtype=dtype)


@torch.fx.wrap  # a symbolic trace sees no shapes
def _bag_sum(places: Tensor, matrix: Tensor, weights: Tensor | None) -> Tensor:
    if _exporting():
        rows = F.embedding(places, matrix)  # (..., M, D)
        return (rows if weights is None else rows * weights.unsqueeze(-1)).sum(-2)
    # With offsets a third faster than with indices in two dimensions.
    offsets = torch.arange(0, places.numel() + 1, places.shape[-1], dtype=places.dtype, device=places.device)
    shares = None if weights is None else weights.reshape(-1)
    sums = _embedding_bag(places.reshape(-1), matrix, offsets, shares)
    return sums.view(*places.shape[:-1], matrix.shape[1])


@torch.fx.wrap
def _sums_of_lists(vectors: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    if not _exporting():
        everything = torch.arange(vectors.shape[0], dtype=offsets.dtype, device=offsets.device)
        return _embedding_bag(everything, vectors, offsets, weights)
    # The list of a value is the number of lists that began at it or before, less one.
    inner = offsets[1:-1]
    begins = torch.zeros_like(vectors[:, 0], dtype=torch.int64)
    begins = torch.cat([begins, begins.new_zeros(1)]).index_add(0, inner, torch.ones_like(inner))
    lists = begins.cumsum(0)[:-1]  # (V,)
    zeros = vectors.new_zeros(offsets.shape[0] - 1, vectors.shape[1])
    return zeros.index_add(0, lists, vectors * weights.unsqueeze(1))


def _embedding_bag(rows: Tensor, matrix: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
    return F.embedding_bag(rows, matrix, offsets, mode="sum", include_last_offset=True, per_sample_weights=weights)


def _exporting() -> bool:
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
