# ruff: noqa: PLR0912, PLR0915, PLR0917 (a kernel is one function, and its arguments are pointers)
# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Scores, losses and gradients of one question in Triton, without the matrix (B, N) of scores.

Two kernels read tiles of queries and negatives and make the scores of a tile pair when they need them (as
FlashAttention does; Dao et al. 2022).  The first walks over the negatives for a tile of queries: losses and, because
the gradient of a query is a weighted sum of negatives, that too in the same pass.  The second walks over the queries
for a tile of negatives.  Its queries are cut into shares that do not depend on the device, every share is written
down, and a third kernel adds them in order: no atomics, so that the same numbers in give the same bytes out.
Masks come from the rows: a negative that is the edge's own entity does not count.  Sums and everything that is not an
operand of a matrix product are float32.

Per edge and side, with N negatives: 8 N D floating-point operations (each kernel makes the scores, 2 N D, and one
product of their gradients, 2 N D), 2 N exponentials, and in memory, with operands of e bytes: 3 D e read (query and
own candidate by the first kernel, the query by the second), 8 D written (two gradients), and the shares of the second,
at most ceil(B / 256) of them, 8 N D / B each, in the cache of a large chip.  The 6 N D of a step that keeps the
scores would move 4 N bytes for every pass over them.
Shapes: B edges, N negatives, D dimension.
"""

__all__ = ["MAX_DIM", "Contrast", "Objective", "Prepared", "Product", "Tiles", "contrast", "default_tiles", "prepare"]

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from pretrain.config import TrainConfig

Product = Literal["ieee", "tf32x3", "tf32", "bf16"]

# Above, a tile of rows with its gradient no longer fits the registers.
MAX_DIM: Mapping[Product, int] = {"ieee": 128, "tf32x3": 256, "tf32": 256, "bf16": 256}

_SOFTMAX, _LOGISTIC, _RANKING = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
# The interpreter multiplies the bits of bfloat16 as if they were integers; as float32 they give what a GPU would.
_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")
_NUMBERS = {"softmax": 0, "logistic": 1, "ranking": 2}
_FLOOR = tl.constexpr(1e-12)  # as in pretrain.comparators
_LAUNCH: Mapping[str, Any] = {"enable_fp_fusion": True}  # said, because the default is about to change
_WORK = 264  # programs that the second kernel should have at least: two for each multiprocessor of a large chip
_SHARE = 256  # queries of a share at least


@dataclasses.dataclass(frozen=True)
class Objective:
    """What the kernels minimise.

    Args:
        loss: Its name in ``pretrain.losses``.
        temperature: Scores are divided by it.
        margin: Of the ranking loss.
        score_offset: Of the logistic loss.
        mean: Negatives are divided by how many of them count.
    """

    loss: Literal["softmax", "logistic", "ranking"] = "softmax"
    temperature: float = 1.0
    margin: float = 1.0
    score_offset: float = 0.0
    mean: bool = False

    @classmethod
    def of(cls, config: TrainConfig) -> "Objective":
        """Return what a configuration minimises; adversarial weights are not among it."""
        mean = config.negative_reduction == "mean" and config.loss != "softmax"
        return cls(config.loss, config.temperature, config.margin, config.score_offset, mean)

    @property
    def sees_offsets(self) -> bool:
        """Whether a number added to all scores of an edge changes its loss."""
        return self.loss == "logistic"


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """Vectors as they enter the products, and what the way back needs."""

    vectors: Tensor  # (B, D) float32 or bfloat16
    inverse: Tensor | None  # (B,) one over the norms, where they were normalised


@dataclasses.dataclass(frozen=True, eq=False)
class Contrast:
    """Losses and gradients of one question; those of vectors are of the vectors before ``prepare``."""

    losses: Tensor  # (B,)
    queries: Tensor  # (B, D)
    own: Tensor  # (B, D)
    negatives: Tensor  # (N, D)
    offsets: Tensor | None = None  # (B,) where offsets were given; None where the loss does not see them
    own_biases: Tensor | None = None  # (B,) where biases were given
    negative_biases: Tensor | None = None  # (N,)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Rows of a tile, warps of a program and stages of its pipeline."""

    queries: int
    negatives: int
    warps: int
    stages: int


def default_tiles(product: Product, dim: int) -> Tiles:
    """Return tiles that fit the shared memory of compute capabilities 8.0 and 9.0.

    In bfloat16 at D = 128 the inner loops compile for 9.0 without spilling a register. They are fixed, not tuned:
    tiles decide the order of sums, and the same seed should give the same bytes.
    """
    if product == "ieee":  # no tensor cores: each thread holds its part of both operands
        return Tiles(32, 32, 8, 1)
    if product == "bf16":
        return Tiles(64, 64, 4, 3) if dim <= 128 else Tiles(64, 64, 8, 2)
    return Tiles(64, 64, 4, 2) if dim <= 128 else Tiles(64, 32, 8, 2)


def prepare(
    table: Tensor,
    rows: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    normalise: bool,
    product: Product,
) -> Prepared:
    """Gather rows of a table, add a shift and make operands of them, in one pass.

    Args:
        table: Vectors (T, D) float32.
        rows: Which of them (B,); all of them in their order if not given.
        shift: Parameters (D,) of a translation.
        normalise: Divide by the norm, as cosine does; a zero vector stays one.
        product: Decides the type of the operands.
    """
    table = table.contiguous()
    size, dim = table.shape[0] if rows is None else rows.shape[0], table.shape[1]
    vectors = torch.empty((size, dim), device=table.device, dtype=_operand(product))
    inverse = torch.empty(size, device=table.device) if normalise else None
    if size:
        block = _block(dim)
        per_program = max(1, 1024 // block)
        _prepare_kernel[(triton.cdiv(size, per_program),)](
            table, rows, None if shift is None else shift.contiguous(), vectors, inverse, size, dim,
            HAS_ROWS=rows is not None, HAS_SHIFT=shift is not None, NORMALISE=normalise,
            ROWS=per_program, BLOCK_D=block, num_warps=4, **_LAUNCH,
        )  # fmt: skip
    return Prepared(vectors, inverse)


def contrast(
    objective: Objective,
    queries: Prepared,
    own: Prepared,
    negatives: Prepared,
    own_rows: Tensor,
    negative_rows: Tensor,
    weights: Tensor,
    *,
    offsets: Tensor | None = None,
    biases: tuple[Tensor, Tensor] | None = None,
    log_expected: Tensor | None = None,
    product: Product = "ieee",
    into: tuple[Tensor, Tensor] | None = None,
    add: bool = False,
    tiles: Tiles | None = None,
) -> Contrast:
    """Ask every query for its own candidate among the negatives, and go all the way back.

    ``score = (query · candidate + offset + bias) / temperature``, for negatives minus ``log_expected``; then the loss
    of ``pretrain.losses``.

    Args:
        objective: The loss.
        queries: Prepared queries (B, D), D at most ``MAX_DIM[product]``.
        own: Prepared own candidates (B, D).
        negatives: Prepared negatives (N, D).
        own_rows: Rows (B,) of the own candidates; a negative of the same row is left out.
        negative_rows: Rows (N,) of the negatives.
        weights: Weights (B,) of the edges.
        offsets: What the scores of a query have on top (B,).
        biases: What those of the own candidates (B,) and of the negatives (N,) have on top.
        log_expected: Logarithms (N,) taken from the scores of the negatives.
        product: How matrix products are made; the operands were prepared for it.
        into: Where the gradients (B, D) of queries and own candidates go, contiguous float32; new ones otherwise.
        add: Add to what stands there.
        tiles: Instead of ``default_tiles``.
    """
    size, dim = queries.vectors.shape
    tiles = tiles or default_tiles(product, dim)
    scale, shift = 1.0 / objective.temperature, objective.score_offset if objective.loss == "logistic" else 0.0
    offsets = offsets if objective.sees_offsets else None  # else it cancels, and a rounded sum of its gradient does not
    own_add, row_add, col_add = _addends(offsets, biases, log_expected, scale)
    of_queries, of_own = into or (_like(queries), _like(own))
    floats = torch.empty((5, size), device=weights.device)
    losses, tops, factors, of_positives, of_rows = floats.unbind(0)
    count = negatives.vectors.shape[0]
    fixed: dict[str, Any] = {
        "LOSS": _NUMBERS[objective.loss],
        "HAS_ROW": row_add is not None,
        "HAS_COL": col_add is not None,
        "PRECISION": "ieee" if product == "bf16" else product,  # of float32 operands; bfloat16 has but one way
        "BLOCK_B": tiles.queries,
        "BLOCK_N": tiles.negatives,
        "BLOCK_D": _block(dim),
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
        **_LAUNCH,
    }
    if size:
        _queries_kernel[(triton.cdiv(size, tiles.queries),)](
            queries.vectors, own.vectors, negatives.vectors, own_rows, negative_rows, weights.contiguous(),
            own_add, row_add, col_add, queries.inverse, own.inverse,
            of_queries, of_own, losses, tops, factors, of_positives, of_rows,
            size, count, dim, scale, shift, objective.margin,
            MEAN=objective.mean, HAS_OWN=own_add is not None, NORMALISED=queries.inverse is not None,
            ADD=add, **fixed,
        )  # fmt: skip
    wants_biases = biases is not None
    of_negatives, of_columns = _negative_gradients(
        queries,
        negatives,
        own_rows,
        negative_rows,
        (tops, factors, row_add, col_add),
        (scale, shift),
        wants_biases,
        fixed,
    )
    return Contrast(
        losses,
        of_queries,
        of_own,
        of_negatives,
        (of_positives + of_rows) * scale if offsets is not None else None,
        of_positives * scale if wants_biases else None,
        of_columns,
    )


def _negative_gradients(
    queries: Prepared,
    negatives: Prepared,
    own_rows: Tensor,
    negative_rows: Tensor,
    vectors: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    affine: tuple[float, float],
    wants_biases: bool,
    fixed: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of the negatives (N, D) and, where wanted, of their biases (N,)."""
    (size, dim), count, device = queries.vectors.shape, negatives.vectors.shape[0], queries.vectors.device
    out = _like(negatives)
    columns = torch.empty(count, device=device) if wants_biases else None
    if not count:
        return out, columns
    shares = max(1, min(triton.cdiv(size, _SHARE), triton.cdiv(_WORK, triton.cdiv(count, 128))))
    per_share = triton.cdiv(triton.cdiv(size, shares), fixed["BLOCK_B"]) * fixed["BLOCK_B"]
    partial = torch.empty((shares, count, dim), device=device)
    partial_columns = torch.empty((shares, count), device=device) if wants_biases else None
    (tops, factors, row_add, col_add), (scale, shift) = vectors, affine
    _negatives_kernel[(triton.cdiv(count, fixed["BLOCK_N"]), shares)](
        queries.vectors, negatives.vectors, own_rows, negative_rows, tops, factors, row_add, col_add,
        partial, partial_columns, size, count, dim, per_share, scale, shift, WANTS_COLUMNS=wants_biases, **fixed,
    )  # fmt: skip
    block = _block(dim)
    _finish_kernel[(count,)](
        partial, partial_columns, negatives.vectors, negatives.inverse, out, columns, count, dim, shares, scale,
        NORMALISED=negatives.inverse is not None, WANTS_COLUMNS=wants_biases,
        SHARES=max(1, 4096 // block), BLOCK_D=block, num_warps=4, **_LAUNCH,
    )  # fmt: skip
    return out, columns


def _addends(
    offsets: Tensor | None,
    biases: tuple[Tensor, Tensor] | None,
    log_expected: Tensor | None,
    scale: float,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return what is added to divided products: of own candidates (B,), of a row's negatives (B,), of a column (N,)."""
    row = None if offsets is None else offsets * scale
    if biases is None:
        return row, row, None if log_expected is None else -log_expected
    own = biases[0] * scale if row is None else biases[0] * scale + row
    column = biases[1] * scale
    return own, row, column if log_expected is None else column - log_expected


def _like(prepared: Prepared) -> Tensor:
    return torch.empty(prepared.vectors.shape, device=prepared.vectors.device)


def _operand(product: Product) -> torch.dtype:
    return torch.bfloat16 if product == "bf16" else torch.float32


def _block(dim: int) -> int:
    """Return the columns of a tile: a power of two, and no less than a matrix product takes."""
    return max(16, int(triton.next_power_of_2(dim)))


@triton.jit
def _prepare_kernel(
    table, rows, shift, vectors, inverse, size, dim,
    HAS_ROWS: tl.constexpr, HAS_SHIFT: tl.constexpr, NORMALISE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    in_b = b < size
    there = in_b[:, None] & (d < dim)[None, :]
    row = b.to(tl.int64)
    if HAS_ROWS:
        row = tl.load(rows + b, mask=in_b, other=0)
    vector = tl.load(table + row[:, None] * dim + d[None, :], mask=there, other=0.0)
    if HAS_SHIFT:
        vector += tl.load(shift + d, mask=d < dim, other=0.0)[None, :]
    if NORMALISE:
        norm = tl.sqrt_rn(tl.sum(vector * vector, 1))
        one_over = 1.0 / tl.where(norm < _FLOOR, 1.0, norm)
        vector *= one_over[:, None]
        tl.store(inverse + b, one_over, mask=in_b)
    out = vectors + b.to(tl.int64)[:, None] * dim + d[None, :]
    tl.store(out, vector.to(vectors.dtype.element_ty), mask=there)


@triton.jit
def _product(a, b, to, PRECISION: tl.constexpr):
    """Return the float32 product of two tiles, plus ``to``."""
    if _INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, to, input_precision=PRECISION)


@triton.jit
def _projected(grad, prepared, inverse):
    """Take the way back through the normalisation, of gradients (B, D)."""
    along = tl.sum(grad * prepared, 1)
    return (grad - along[:, None] * prepared) * inverse[:, None]


@triton.jit
def _queries_kernel(
    queries, own, negatives, own_rows, negative_rows, weights,
    own_add, row_add, col_add, inverse_queries, inverse_own,
    of_queries, of_own, losses, tops, factors, of_positives, of_rows,
    size, count, dim, scale, shift, margin,
    LOSS: tl.constexpr, MEAN: tl.constexpr, HAS_OWN: tl.constexpr, HAS_ROW: tl.constexpr, HAS_COL: tl.constexpr,
    NORMALISED: tl.constexpr, ADD: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = tl.arange(0, BLOCK_D)
    in_b, in_d = b < size, d < dim
    tile, there = b.to(tl.int64)[:, None] * dim + d[None, :], in_b[:, None] & in_d[None, :]
    query = tl.load(queries + tile, mask=there, other=0.0)
    candidate = tl.load(own + tile, mask=there, other=0.0)
    own_row = tl.load(own_rows + b, mask=in_b, other=-1).to(tl.int32)
    positive = tl.sum(query.to(tl.float32) * candidate.to(tl.float32), 1) * scale + shift
    if HAS_OWN:
        positive += tl.load(own_add + b, mask=in_b, other=0.0)
    if HAS_ROW:
        row_addend = tl.load(row_add + b, mask=in_b, other=0.0)

    top = positive  # softmax: the largest score so far; sums are of e^(score - top), and the own one is 1 at first
    total = tl.zeros([BLOCK_B], tl.float32)  # of what the negatives add to the loss
    if LOSS == _SOFTMAX:
        total += 1.0
    counted, steep = tl.zeros([BLOCK_B], tl.float32), tl.zeros([BLOCK_B], tl.float32)  # how many, and their slopes
    weighted = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)  # negatives times slopes
    for start in range(0, count, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        in_n = n < count
        negative = tl.load(
            negatives + n.to(tl.int64)[:, None] * dim + d[None, :], mask=in_n[:, None] & in_d[None, :], other=0.0
        )
        negative_row = tl.load(negative_rows + n, mask=in_n, other=-1).to(tl.int32)
        counts = in_n[None, :] & (own_row[:, None] != negative_row[None, :])
        score = _product(query, tl.trans(negative), None, PRECISION) * scale + shift
        if HAS_COL:
            score += tl.load(col_add + n, mask=in_n, other=0.0)[None, :]
        if HAS_ROW:
            score += row_addend[:, None]
        if LOSS == _SOFTMAX:
            score = tl.where(counts, score, float("-inf"))
            highest = tl.maximum(top, tl.max(score, 1))
            slope = tl.exp(score - highest[:, None])
            shrink = tl.exp(top - highest)
            total = total * shrink + tl.sum(slope, 1)
            weighted *= shrink[:, None]
            top = highest
        elif LOSS == _LOGISTIC:
            small = tl.exp(-tl.abs(score))
            slope = tl.where(counts, tl.where(score >= 0, 1.0, small) / (1.0 + small), 0.0)
            total += tl.sum(tl.where(counts, tl.maximum(score, 0.0) + tl.log(1.0 + small), 0.0), 1)
        else:
            excess = tl.where(counts, tl.maximum(score + (margin - positive)[:, None], 0.0), 0.0)
            slope = tl.where(excess > 0, 1.0, 0.0)
            total += tl.sum(excess, 1)
        if LOSS != _SOFTMAX:
            steep += tl.sum(slope, 1)
        if MEAN:
            counted += tl.sum(counts.to(tl.float32), 1)
        weighted = _product(slope.to(negative.dtype), negative, weighted, PRECISION)

    weight = tl.load(weights + b, mask=in_b, other=0.0)
    factor = weight  # of the slopes, to be gradients of the scores
    if MEAN:
        factor = weight / tl.maximum(counted, 1.0)
    if LOSS == _SOFTMAX:
        loss = (tl.log(total) + (top - positive)) * weight  # in this order: large scores cancel before a small sum
        factor = weight / total
        of_positive = tl.exp(positive - top) * factor - weight
    elif LOSS == _LOGISTIC:
        small = tl.exp(-tl.abs(positive))
        loss = (tl.maximum(-positive, 0.0) + tl.log(1.0 + small)) * weight + total * factor
        of_positive = -tl.where(positive >= 0, small, 1.0) / (1.0 + small) * weight
        top = tl.zeros([BLOCK_B], tl.float32)
    else:
        loss = total * factor
        of_positive = -steep * factor
        top = positive - margin
    tl.store(losses + b, loss, mask=in_b)
    tl.store(tops + b, top, mask=in_b)
    tl.store(factors + b, factor, mask=in_b)
    tl.store(of_positives + b, of_positive, mask=in_b)
    tl.store(of_rows + b, steep * factor, mask=in_b)

    # The vectors are loaded again, under other hints so that no pass merges the loads: kept through the loop above,
    # they would push its accumulators out of the registers.
    candidate = tl.load(own + tile, mask=there, other=0.0, eviction_policy="evict_first").to(tl.float32)
    of_query = (weighted * factor[:, None] + of_positive[:, None] * candidate) * scale
    query = tl.load(queries + tile, mask=there, other=0.0, eviction_policy="evict_last").to(tl.float32)
    if NORMALISED:
        of_query = _projected(of_query, query, tl.load(inverse_queries + b, mask=in_b, other=0.0))
    if ADD:
        of_query += tl.load(of_queries + tile, mask=there, other=0.0)
    tl.store(of_queries + tile, of_query, mask=there)
    of_candidate = of_positive[:, None] * query * scale
    if NORMALISED:
        of_candidate = _projected(of_candidate, candidate, tl.load(inverse_own + b, mask=in_b, other=0.0))
    if ADD:
        of_candidate += tl.load(of_own + tile, mask=there, other=0.0)
    tl.store(of_own + tile, of_candidate, mask=there)


@triton.jit
def _negatives_kernel(
    queries, negatives, own_rows, negative_rows, tops, factors, row_add,
    col_add, partial, partial_columns,
    size, count, dim, per_share, scale, shift,
    WANTS_COLUMNS: tl.constexpr, LOSS: tl.constexpr, HAS_ROW: tl.constexpr, HAS_COL: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    share = tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    in_n, in_d = n < count, d < dim
    there = in_n[:, None] & in_d[None, :]
    negative = tl.load(negatives + n.to(tl.int64)[:, None] * dim + d[None, :], mask=there, other=0.0)
    negative_row = tl.load(negative_rows + n, mask=in_n, other=-1).to(tl.int32)
    if HAS_COL:
        col_addend = tl.load(col_add + n, mask=in_n, other=0.0)
    weighted = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    columns = tl.zeros([BLOCK_N], tl.float32)
    for start in range(share * per_share, tl.minimum(share * per_share + per_share, size), BLOCK_B):
        b = start + tl.arange(0, BLOCK_B)
        in_b = b < size
        query = tl.load(
            queries + b.to(tl.int64)[:, None] * dim + d[None, :], mask=in_b[:, None] & in_d[None, :], other=0.0
        )
        own_row = tl.load(own_rows + b, mask=in_b, other=-1).to(tl.int32)
        top = tl.load(tops + b, mask=in_b, other=0.0)
        factor = tl.load(factors + b, mask=in_b, other=0.0)
        counts = in_n[:, None] & in_b[None, :] & (negative_row[:, None] != own_row[None, :])
        score = _product(negative, tl.trans(query), None, PRECISION) * scale + shift  # (N, B)
        if HAS_COL:
            score += col_addend[:, None]
        if HAS_ROW:
            score += tl.load(row_add + b, mask=in_b, other=0.0)[None, :]
        if LOSS == _SOFTMAX:
            slope = tl.exp(tl.where(counts, score - top[None, :], float("-inf")))
        elif LOSS == _LOGISTIC:
            small = tl.exp(-tl.abs(score))
            slope = tl.where(counts, tl.where(score >= 0, 1.0, small) / (1.0 + small), 0.0)
        else:
            slope = tl.where(counts & (score > top[None, :]), 1.0, 0.0)
        slope *= factor[None, :]
        if WANTS_COLUMNS:
            columns += tl.sum(slope, 1)
        weighted = _product(slope.to(query.dtype), query, weighted, PRECISION)
    line = share.to(tl.int64) * count + n
    tl.store(partial + line[:, None] * dim + d[None, :], weighted, mask=there)
    if WANTS_COLUMNS:
        tl.store(partial_columns + line, columns, mask=in_n)


@triton.jit
def _finish_kernel(
    partial, partial_columns, negatives, inverse, out, columns,
    count, dim, shares, scale,
    NORMALISED: tl.constexpr, WANTS_COLUMNS: tl.constexpr, SHARES: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0)
    d = tl.arange(0, BLOCK_D)
    in_d = d < dim
    grad, column = tl.zeros([SHARES, BLOCK_D], tl.float32), tl.zeros([SHARES], tl.float32)
    for start in range(0, shares, SHARES):
        share = start + tl.arange(0, SHARES)
        line = share.to(tl.int64) * count + n
        there = (share < shares)[:, None] & in_d[None, :]
        grad += tl.load(partial + line[:, None] * dim + d[None, :], mask=there, other=0.0)
        if WANTS_COLUMNS:
            column += tl.load(partial_columns + line, mask=share < shares, other=0.0)
    summed = tl.sum(grad, 0) * scale
    at = n.to(tl.int64) * dim + d
    if NORMALISED:
        prepared = tl.load(negatives + at, mask=in_d, other=0.0).to(tl.float32)
        along = tl.sum(summed * prepared, 0)
        summed = (summed - along * prepared) * tl.load(inverse + n)
    tl.store(out + at, summed, mask=in_d)
    if WANTS_COLUMNS:
        tl.store(columns + n, tl.sum(column, 0) * scale)
