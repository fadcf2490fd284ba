"""What compression costs: neighbours of decoded vectors against the exact ones, over codecs and code sizes.

TwHIN (El-Kishky et al. 2022, Fig. 4a) draws a quality against the compression factor. The factor here is the true one:
bytes of the float32 vectors over those of codes, codebook and rotation, which is far less than D * 4 / M for small
tables. Two plain formats stand beside the codecs: half precision, and one byte a number with a scale for each row.

Shapes: N rows, D dimension, M sub-quantizers, Q queries, k neighbours.
"""

__all__ = ["compression_sweep"]

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError
from recokit.index.exact import ExactIndex
from recokit.index.lift import blocks
from recokit.index.pairs import Pairs
from recokit.index.scoring import Rows, Scores, check_comparator, check_k, score_lists, unit
from recokit.index.settings import check_settings
from recokit.metrics import bootstrap_mean
from recokit.pq.codebook import check_sub_quantizers
from recokit.pq.encoding import quantize
from recokit.report import Report, Result, gather_provenance
from recokit.table import EmbeddingTable
from recokit.table.codes import Codec, check_codec

_SIZES = (8, 16, 32, 64)
_BLOCK = 1 << 14  # rows compared at a time
_SCORES = 1 << 22  # of lists in memory at a time


def compression_sweep(
    table: EmbeddingTable,
    sub_quantizers: Sequence[int] | None = None,
    codecs: Sequence[Codec] = ("pq", "opq", "additive"),
    *,
    queries: int = 1000,
    k: int = 10,
    seed: int = 0,
    references: bool = True,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure neighbour recall, error and time of codecs at several code sizes (TwHIN 6.2, Fig. 4a).

    ``neighbor_recall@k`` is the share of a row's k nearest others, by the table's comparator and exact search, that are
    among its k nearest after compression, both ends decoded; the mean over sampled rows, with a bootstrap interval.
    Of rows that tie for the last place of the exact list any will do; rows whose decoded scores tie for the last place
    count by the chance that a random order has them in. ``relative_squared_error`` is sum |x - decoded|**2 / sum |x|**2
    over all rows, under cos of rows at unit length.

    The decoded table is in memory as float32, 4 * N * D bytes.

    Args:
        table: The vectors.
        sub_quantizers: Code sizes in bytes; those of 8, 16, 32 and 64 that divide D, up to D / 2, if not given.
        codecs: Those to compare.
        queries: How many rows to ask for their neighbours.
        k: How many neighbours.
        seed: Of the queries, the codebooks and the bootstrap.
        references: Add float16 and int8 with a scale for each row.
        threads: For encoding.
        progress: Called with how many settings are done, and of how many.

    Returns:
        A report with one name for each setting, the codec first: ``"opq 16 bytes"``.

    Raises:
        ConfigError: A codec does not exist, or a code size does not fit it.
        DataError: The table has fewer than two rows, or too few to train on.
    """
    check_comparator(table)
    check_settings({"queries": queries, "threads": threads})
    if table.count < 2:
        raise DataError(f"the {table.entity!r} table has {table.count} rows: a row needs another as its neighbour")
    settings = _settings(table, sub_quantizers, codecs)
    truth = _Truth.of(table, queries, check_k(k), seed)
    protocol = {
        "table": f"{table.entity} of version {table.version}, {table.count} rows, dim {table.dim}, {table.comparator}",
        "neighbors": "decoded rows among decoded rows against exact search among the original ones, without the row",
        "ties": "any rows that tie for the exact list's last place; decoded ties in random order, expected value",
        "compression": "float32 bytes over bytes of codes, codebook and rotation",
    }
    results: list[Result] = []
    made = _all_coded(table, settings, seed=seed, threads=threads, references=references)
    for done, coded in enumerate(made, start=1):
        results += _measured(table, coded, truth, seed, protocol)
        if progress is not None:
            progress(done, len(settings) + 2 * references)
    return Report(results, gather_provenance({f"{table.entity} vectors": table.fingerprint}))


@dataclass(frozen=True, eq=False)
class _Coded:
    """Vectors after compression, and what they took."""

    name: str  # the codec first
    vectors: NDArray[np.float32]  # (N, D) decoded
    compression: float
    row_bytes: int
    seconds: dict[str, float]  # by metric


@dataclass(frozen=True, eq=False)
class _Truth:
    """The exact neighbours of some rows: what a found row has to score to be one of them."""

    table: EmbeddingTable
    rows: Rows  # (Q,)
    k: int
    cut: Scores  # (Q,) of the last neighbour
    above: Rows  # (Q,) neighbours that do not tie with it

    @classmethod
    def of(cls, table: EmbeddingTable, queries: int, k: int, seed: int) -> "_Truth":
        k = min(k, table.count - 1)
        drawn = np.random.default_rng(seed).choice(table.count, min(queries, table.count), replace=False)
        rows = np.sort(drawn)
        _, scores = _nearest(table, rows, k)
        return cls(table, rows, k, scores[:, -1], (scores > scores[:, -1:]).sum(axis=1))

    def recall(self, decoded: EmbeddingTable) -> NDArray[np.float64]:
        """Return, for each query, the expected share (Q,) of its neighbours that the decoded table finds."""
        values = np.empty(len(self.rows))
        for at, found, scores in _tied_lists(decoded, self.rows, self.k):
            last = scores[:, self.k - 1, None]
            inside, tied = scores > last, scores == last
            places = self.k - inside.sum(axis=1, keepdims=True)
            chance = inside + tied * (places / tied.sum(axis=1, keepdims=True))  # (q, width)
            true = score_lists(self.table, self.table.vectors[self.rows[at]].astype(np.float32), found)
            better, level = true > self.cut[at, None], true == self.cut[at, None]
            fill = np.minimum((chance * level).sum(axis=1), self.k - self.above[at])
            values[at] = ((chance * better).sum(axis=1) + fill) / self.k
        return values


def _tied_lists(table: EmbeddingTable, rows: Rows, k: int) -> Iterator[tuple[Rows, Rows, Scores]]:
    """Yield positions of queries (q,), and rows and scores (q, width) of their lists, k long and all that ties with it.

    Few lists have many ties, so they are searched again, longer, until something does not tie.
    """
    left, width = np.arange(len(rows)), min(2 * k, table.count - 1)
    while left.size:
        longer = []
        for part in blocks(len(left), max(1, _SCORES // width)):
            at = left[part]
            found, scores = _nearest(table, rows[at], width)
            whole = (scores[:, -1] < scores[:, k - 1]) | (width == table.count - 1)
            yield at[whole], found[whole], scores[whole]
            longer.append(at[~whole])
        left, width = np.concatenate(longer), min(4 * width, table.count - 1)


def _nearest(table: EmbeddingTable, rows: Rows, k: int) -> tuple[Rows, Scores]:
    """Return the nearest rows (Q, k) of rows (Q,), which are not their own neighbours."""
    own = Pairs.of(np.arange(len(rows)), rows, num_queries=len(rows), num_rows=table.count)
    return ExactIndex.build(table).search(table.vectors[rows], k, exclude=own)


def _settings(
    table: EmbeddingTable, sub_quantizers: Sequence[int] | None, codecs: Sequence[Codec]
) -> list[tuple[Codec, int]]:
    """Return codecs with code sizes, all checked before the first is trained."""
    sizes = sub_quantizers or [size for size in _SIZES if table.dim % size == 0 and size <= table.dim // 2]
    settings = [(check_codec(codec), size) for codec in codecs for size in sizes]
    if not settings:
        raise ConfigError(f"codecs {list(codecs)}, sub_quantizers {list(sizes)}: nothing to measure at dim {table.dim}")
    for codec, size in settings:
        check_sub_quantizers(size, table.dim, codec)
    return settings


def _all_coded(
    table: EmbeddingTable,
    settings: Sequence[tuple[Codec, int]],
    *,
    seed: int,
    threads: int | None,
    references: bool,
) -> Iterator[_Coded]:
    if references:
        yield _plain(table, "float16", 2 * table.dim, lambda x: x.astype(np.float16).astype(np.float32))
        yield _plain(table, "int8", table.dim + 4, _through_int8)
    for codec, size in settings:
        yield _coded(table, codec, size, seed, threads)


def _coded(table: EmbeddingTable, codec: Codec, size: int, seed: int, threads: int | None) -> _Coded:
    times = [time.perf_counter()]
    codes = quantize(
        table,
        size,
        codec=codec,
        seed=seed,
        threads=threads,
        progress=lambda done, of: times.append(time.perf_counter()),
    )
    seconds = {"train_seconds": times[1] - times[0], "encode_seconds": times[-1] - times[1]}
    return _Coded(f"{codec} {size} bytes", codes.decode(), codes.compression, size, seconds)


def _plain(
    table: EmbeddingTable, name: str, row_bytes: int, through: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> _Coded:
    started = time.perf_counter()
    vectors = np.concatenate([through(_original(table, part)) for part in blocks(table.count, _BLOCK)])
    seconds = {"encode_seconds": time.perf_counter() - started}
    return _Coded(name, vectors, 4 * table.dim / row_bytes, row_bytes, seconds)


def _through_int8(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to 255 levels, from minus the largest number of a row to plus it."""
    scale = np.abs(vectors).max(axis=1, keepdims=True) / np.float32(127)
    rounded: NDArray[np.float32] = np.rint(vectors / np.where(scale > 0, scale, 1)) * scale
    return rounded


def _original(table: EmbeddingTable, part: slice) -> NDArray[np.float32]:
    """Return rows as the codecs see them."""
    vectors = table.vectors[part].astype(np.float32)
    return unit(vectors) if table.comparator == "cos" else vectors


def _measured(table: EmbeddingTable, coded: _Coded, truth: _Truth, seed: int, protocol: dict[str, Any]) -> list[Result]:
    decoded = EmbeddingTable.from_arrays(
        np.arange(table.count),
        coded.vectors,
        entity=table.entity,
        version=table.version,
        comparator=table.comparator,
        bias=table.bias,
    )
    recall = bootstrap_mean(truth.recall(decoded), seed=seed)
    rows = [Result(coded.name, f"neighbor_recall@{truth.k}", *recall, n=len(truth.rows), seed=seed, protocol=protocol)]
    values = {
        "relative_squared_error": _relative_error(table, coded.vectors),
        "compression": coded.compression,
        "bytes_per_row": float(coded.row_bytes),
        **coded.seconds,
    }
    return rows + [Result(coded.name, name, value, seed=seed, protocol=protocol) for name, value in values.items()]


def _relative_error(table: EmbeddingTable, decoded: NDArray[np.float32]) -> float:
    lost = whole = 0.0
    for part in blocks(table.count, _BLOCK):
        exact = _original(table, part).astype(np.float64)
        difference = exact - decoded[part]
        lost += float(np.einsum("nd,nd->", difference, difference))
        whole += float(np.einsum("nd,nd->", exact, exact))
    return lost / whole if whole else 0.0
