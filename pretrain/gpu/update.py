# ruff: noqa: PLR0917 (the arguments of a kernel are pointers)
# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Adagrad on the rows that a batch touched, as ``pretrain.optimizer`` does it, without waiting for the device.

``torch.unique`` tells the host how many rows there are, which waits for the device and cannot be captured.  Here the
rows are sorted, and the program of a place that holds the first of its row adds up the gradients of all the places that
follow with the same row, in their order, and updates it; the other programs end at once.  Rows with very many places
(popular entities, relations) would keep one program busy: places are cut into chunks, a first kernel sums those chunks
that lie inside one row, and the program of the row takes such a sum in one go.  No atomics: the same numbers in give
the same bytes out.

In memory, per place: 12 bytes of a sort's key and value a few times over, 4 D read (a gradient); per distinct row
8 D + 8 read and written (the row and its accumulator).
Shapes: T places, N rows of the table, D dimension.
"""

__all__ = ["update_"]

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_EPSILON = tl.constexpr(1e-10)  # as in pretrain.optimizer
_TINY = tl.constexpr(1e-7)  # as in torch.renorm
_CHUNK = 64  # places
_MAX_COLUMNS = 1024  # of one program; wider rows are updated in pieces where pieces know nothing of each other


def update_(
    table: Tensor,
    state: Tensor,
    parts: Sequence[tuple[Tensor, Tensor]],
    learning_rate: float | Tensor,
    *,
    max_norm: float = 0.0,
) -> None:
    """Update a table (N, D) in place by parts of (rows (T,), gradients (T, D)) that count as one.

    Args:
        table: Vectors (N, D) float32, contiguous; D at most 8192, or any where the state is (N, D) and there is no
            ``max_norm``.
        state: Its form says which it is: (N,) row-wise, (N, D) element by element.
        parts: A row may come many times.
        learning_rate: A number, or a tensor () float32 on the device, which a captured graph reads anew.
        max_norm: Cut updated rows to it, if above 0.
    """
    rows, grads = parts[0] if len(parts) == 1 else (torch.cat(part) for part in zip(*parts, strict=True))
    _update(table, state, rows, grads, learning_rate, max_norm, each=state.dim() == 2)


def _update(
    table: Tensor,
    state: Tensor,
    rows: Tensor,
    grads: Tensor,
    learning_rate: float | Tensor,
    max_norm: float,
    *,
    each: bool,
) -> None:
    places, dim = grads.shape
    if not places or not dim:
        return
    if not isinstance(learning_rate, Tensor):
        learning_rate = torch.full((), learning_rate, device=table.device)
    rows, order = torch.sort(rows.int(), stable=True)  # int32 keys: half the passes of a radix sort
    grads = grads.contiguous()
    chunks = triton.cdiv(places, _CHUNK)
    sums = torch.empty((chunks, dim), device=table.device)
    pieces = triton.cdiv(dim, _MAX_COLUMNS) if each and not max_norm else 1
    block = triton.next_power_of_2(triton.cdiv(dim, pieces))
    lines = max(1, min(_CHUNK, 1024 // block))  # gradients that a program loads at a time
    warps = max(1, min(8, block * lines // 1024))
    _chunks_kernel[(chunks, pieces)](
        rows, order, grads, sums, places, dim, CHUNK=_CHUNK, LINES=lines, BLOCK_D=block, num_warps=warps,
        enable_fp_fusion=True,
    )  # fmt: skip
    _rows_kernel[(places, pieces)](
        table, state, rows, order, grads, sums, learning_rate, places, dim, max_norm,
        EACH=each, CUT=max_norm > 0, CHUNK=_CHUNK, LINES=lines, BLOCK_D=block, num_warps=warps,
        enable_fp_fusion=True,
    )  # fmt: skip


@triton.jit
def _chunks_kernel(
    rows, order, grads, sums, places, dim, CHUNK: tl.constexpr, LINES: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Sum the chunks that lie in one row that began earlier; nobody asks for the others."""
    first = tl.program_id(0) * CHUNK
    if first == 0 or first + CHUNK > places:
        return
    row = tl.load(rows + first)
    if tl.load(rows + first - 1) != row or tl.load(rows + first + CHUNK - 1) != row:
        return
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros([LINES, BLOCK_D], tl.float32)
    for start in range(0, CHUNK, LINES):
        at = tl.load(order + first + start + tl.arange(0, LINES))
        total += tl.load(grads + at[:, None] * dim + d[None, :], mask=(d < dim)[None, :], other=0.0)
    tl.store(sums + tl.program_id(0).to(tl.int64) * dim + d, tl.sum(total, 0), mask=d < dim)


@triton.jit
def _rows_kernel(
    table, state, rows, order, grads, sums, learning_rate, places, dim, max_norm,
    EACH: tl.constexpr, CUT: tl.constexpr, CHUNK: tl.constexpr, LINES: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Update the row that begins at a place."""
    first = tl.program_id(0)
    row = tl.load(rows + first)
    if first > 0:  # noqa: SIM102 (`and` would load in front of the first place)
        if tl.load(rows + first - 1) == row:
            return
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    in_d = d < dim
    lines = tl.arange(0, LINES)
    total = tl.zeros([LINES, BLOCK_D], tl.float32)
    whole = tl.zeros([BLOCK_D], tl.float32)
    place = first
    going = True
    while going:
        at_chunk = (place % CHUNK == 0) & (place > first) & (place + CHUNK <= places)
        whole_chunk = False
        if at_chunk:
            whole_chunk = tl.load(rows + place + CHUNK - 1) == row
        if whole_chunk:
            whole += tl.load(sums + (place // CHUNK).to(tl.int64) * dim + d, mask=in_d, other=0.0)
            place += CHUNK
        else:
            # Up to the end of the chunk at most, so that the next look is at the start of one.
            end = tl.minimum((place // CHUNK + 1) * CHUNK, places)
            at = place + lines
            mine = (at < end) & (tl.load(rows + at, mask=at < end, other=-1) == row)
            source = tl.load(order + at, mask=mine, other=0)
            total += tl.load(grads + source[:, None] * dim + d[None, :], mask=mine[:, None] & in_d[None, :], other=0.0)
            place = tl.minimum(place + LINES, end)
        going = False
        if place < places:
            going = tl.load(rows + place) == row
    grad = whole + tl.sum(total, 0)

    at = row.to(tl.int64) * dim + d
    if EACH:
        grown = tl.load(state + at, mask=in_d, other=0.0) + grad * grad
        tl.store(state + at, grown, mask=in_d)
    else:
        grown = tl.load(state + row) + tl.sum(grad * grad, 0) / dim
        tl.store(state + row, grown)
    vector = tl.load(table + at, mask=in_d, other=0.0)
    vector -= tl.load(learning_rate) * grad / (tl.sqrt_rn(grown) + _EPSILON)
    if CUT:
        norm = tl.sqrt_rn(tl.sum(vector * vector, 0))
        vector *= tl.where(norm > max_norm, max_norm / (norm + _TINY), 1.0)
    tl.store(table + at, vector, mask=in_d)
