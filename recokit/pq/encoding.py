"""A table's vectors as codes: a codebook is trained on a sample of the rows, then all rows are encoded, block by block.

Vectors are read as they are encoded, and codes go to disk as they come where a path is given: a memory-mapped table may
be larger than memory. Under cos, rows are brought to unit length first, since a codebook spends its centroids where
squares are large and the comparator never looks at lengths.

Shapes: N rows, B rows of a block, D dimension, M sub-quantizers, K codes in each.
"""

__all__ = ["quantize"]

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, VersionError
from recokit.index.lift import blocks
from recokit.index.scoring import Rows, unit
from recokit.index.settings import available_cpus, check_settings
from recokit.pq.codebook import BEAM, Codebook, block_rows, check_sub_quantizers, encoder, train_codebook
from recokit.table import EmbeddingTable, PQTable, as_vectors
from recokit.table.codes import Codec, check_codec

_SUB_QUANTIZERS = 16
_MAX_CODES = 256
_MIN_CODES = 16
_ROWS_PER_CODE = 39  # below, centroids of k-means fit the sample rather than the table; faiss warns there
_LARGEST = 1e17  # squared, and summed over the dimensions, float32 holds it
_TRAIN_ROWS = 1 << 16  # 256 rows for each centroid, faiss's own limit


def quantize(
    table: EmbeddingTable,
    sub_quantizers: int | None = None,
    *,
    codec: Codec | None = None,
    seed: int = 0,
    train_rows: int | None = None,
    normalize: bool | None = None,
    codebook: PQTable | None = None,
    path: str | Path | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PQTable:
    """Encode each vector of a table in ``sub_quantizers`` bytes (Jegou et al. 2010; TwHIN 7.1).

    ``pq`` cuts vectors into parts and gives each the byte of its nearest centroid; ``opq`` turns them first by a
    rotation that is learned (Ge et al. 2013) and costs nothing where a linear layer follows; ``additive`` sums
    centroids of the whole vector, each of what the ones before it left (residual quantization): the least error at a
    size, but a codebook M times as large and slower encoding.

    The same seed gives the same bytes, whatever the number of threads. K is 256, or with fewer than 9,984 rows to
    train on the largest power of two with 39 rows each, but at least 16. ``meta["quantization"]`` says all of this, and
    the table's own ``meta`` is kept beside it. A bias is not encoded. A vector of zeros has codes as any other, and
    decodes to the nearest vector that the codebook has, seldom to zeros.

    Args:
        table: The vectors, in memory or memory-mapped, float32 or float16.
        sub_quantizers: M, the bytes of a row; 16 where not given, or the codebook's. For pq and opq a divisor of D.
        codec: ``"pq"`` where not given, or the codebook's.
        seed: Draws the rows to train on, and the first centroids.
        train_rows: How many rows to train on; 65,536 where not given, or all where there are fewer.
        normalize: Whether rows are brought to unit length first; where the comparator is cos, if not given.
        codebook: Codes of another version, whose codebook is taken as it is: what has the codebook reads the new codes.
        path: A folder to write, which appears whole or not at all; the codes are then memory-mapped from there.
        threads: For encoding; None for all that this process may use. Training takes one.
        progress: Called with 0 and N when the codebook is there, then with the rows that are encoded, and N.

    Returns:
        The code table, of the table's ids, entity, version and comparator.

    Raises:
        ConfigError: A setting is out of range, does not fit D, or is not that of the codebook.
        DataError: A vector is not finite, or there are fewer than 16 rows to train on.
        VersionError: ``path`` exists.
        MissingDependencyError: faiss is not installed.
    """
    table = as_vectors(table, "quantize")
    check_settings({"train_rows": train_rows, "threads": threads})
    if not 0 <= seed < 1 << 31:
        raise ConfigError(f"seed is {seed}, expected 0 to 2147483647")
    if path is not None and Path(path).exists():  # before the work, not after it
        raise VersionError(f"{path} exists already, and what is written is never changed: choose another name")
    if codebook is None:
        codec = check_codec(codec or "pq")
        normalize = table.comparator == "cos" if normalize is None else normalize
        check_sub_quantizers(parts := _SUB_QUANTIZERS if sub_quantizers is None else sub_quantizers, table.dim, codec)
        vectors = _sample(table, train_rows or _TRAIN_ROWS, normalize=normalize, seed=seed)
        made = train_codebook(vectors, parts, codec=codec, num_codes=_num_codes(len(vectors)), seed=seed)
        said: dict[str, Any] = {"seed": seed, "train_rows": len(vectors)}
    else:
        normalize = _normalizes(codebook, normalize)
        made = _taken(table, codebook, sub_quantizers, codec)
        said = {"codebook_of": codebook.version, "codebook_sha256": codebook.codebook_sha256}
    said |= {"codec": made.codec, "normalize": normalize, "source_sha256": table.fingerprint}
    if made.codec == "additive":
        said["beam"] = BEAM
    return PQTable.from_blocks(
        table,
        _encoded(table, made, normalize=normalize, threads=threads or available_cpus(), progress=progress),
        made.centroids,
        codec=made.codec,
        rotation=made.rotation,
        meta={**table.meta, "quantization": said},
        path=path,
    )


def _sample(table: EmbeddingTable, size: int, *, normalize: bool, seed: int) -> NDArray[np.float32]:
    """Return the vectors to train on."""
    rows: Rows = np.arange(min(table.count, size))
    if len(rows) < _MIN_CODES:
        raise DataError(
            f"the {table.entity!r} table has {table.count} rows, of which {len(rows)} are to be trained on: a codebook "
            f"needs {_MIN_CODES} at least, and is worth it from thousands on"
        )
    if size < table.count:  # ascending, as they are on disk
        rows = np.sort(np.random.default_rng(seed).choice(table.count, size, replace=False))
    vectors = _read(table, rows, normalize)
    if (largest := float(np.abs(vectors).max(initial=0.0))) > _LARGEST:
        raise DataError(f"the {table.entity!r} table has numbers of up to {largest:.0e}, whose squares float32 has not")
    return vectors


def _num_codes(rows: int) -> int:
    """Return K for the rows that there are to train on."""
    return min(_MAX_CODES, max(_MIN_CODES, 1 << (rows // _ROWS_PER_CODE).bit_length() >> 1))


def _taken(table: EmbeddingTable, codes: PQTable, sub_quantizers: int | None, codec: Codec | None) -> Codebook:
    """Return the codebook of a code table, if it is what was asked for."""
    for name, asked, has in (
        ("dim", table.dim, codes.dim),
        ("sub_quantizers", sub_quantizers, codes.sub_quantizers),
        ("codec", codec, codes.codec),
    ):
        if asked not in (None, has):
            raise ConfigError(
                f"the codebook of the {codes.entity!r} codes of version {codes.version!r} has the {name} {has!r}, "
                f"expected {asked!r}"
            )
    return Codebook(codes.codec, codes.codebook, codes.rotation)


def _normalizes(codebook: PQTable, asked: bool | None) -> bool:
    """Return whether a codebook was trained on unit vectors, if nothing else is asked for."""
    said = codebook.meta.get("quantization")
    normalizes = bool(said.get("normalize")) if isinstance(said, dict) else codebook.comparator == "cos"
    if asked not in (None, normalizes):
        raise ConfigError(
            f"the codebook of version {codebook.version!r} was trained with normalize={normalizes}, expected {asked}"
        )
    return normalizes


def _read(table: EmbeddingTable, rows: Rows | slice, normalize: bool) -> NDArray[np.float32]:
    """Return vectors (B, D) float32 as they are encoded."""
    vectors = np.ascontiguousarray(table.vectors[rows], np.float32)
    if not np.isfinite(vectors).all():  # faiss would write what it likes
        wrong = np.arange(table.count)[rows][~np.isfinite(vectors).all(axis=1)]
        raise DataError(f"vectors of the {table.entity!r} table: NaN or infinity, first in row {wrong[0]}")
    return unit(vectors) if normalize else vectors


def _encoded(
    table: EmbeddingTable,
    codebook: Codebook,
    *,
    normalize: bool,
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[NDArray[np.uint8]]:
    """Yield the codes of all rows, block by block, in order; some blocks ahead are encoded at the same time."""
    encode = encoder(codebook)
    report = progress or (lambda done, of: None)
    done = 0
    report(done, table.count)
    with ThreadPoolExecutor(threads, "quantize") as pool:
        parts = blocks(table.count, block_rows(codebook))
        for codes in _ahead(pool, lambda part: encode(_read(table, part, normalize)), parts, threads):
            yield codes
            done += len(codes)
            report(done, table.count)


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[slice], NDArray[np.uint8]], parts: Iterable[slice], ahead: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield the results of ``work`` in the order of the parts; at most ``ahead`` wait in memory."""
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    for part in parts:
        waiting.append(pool.submit(work, part))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
