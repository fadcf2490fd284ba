"""Codebooks, trained by faiss and kept as arrays: a code is the same byte and decodes to the same vector as in faiss.

Training runs in one thread, whatever the machine has: the rotation of OPQ has other bytes with two, because BLAS cuts
its sums elsewhere. Encoding may use many threads, each with blocks of its own, whose size depends on nothing but the
codebook, so codes do not depend on them either.

Residual codebooks are trained greedily, one candidate a row, and searched with a beam: on clustered vectors of 256
dimensions, 16 sub-quantizers, a beam of 5 in training left 20 % more error on other rows and took four times as long,
while a beam of 8 in the search leaves 30 % less than none.

The rotation of OPQ starts from the eigenvectors of the covariance, dealt out so that all parts get their share of
variance. From a random start 50 iterations left 7 to 48 % more error, and took minutes.

Shapes: B rows of a block, D dimension, M sub-quantizers, K codes in each.
"""

__all__ = ["Codebook", "block_rows", "check_sub_quantizers", "encoder", "train_codebook"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError
from recokit.index.faiss_library import faiss_for, faiss_threads
from recokit.table.codes import Codec

Encoder: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.uint8]]

BEAM = 8  # candidates of a row while it is encoded
_RESIDUAL_ITERATIONS = 10  # of k-means; 25 left 1 % less error and took twice the time
_FAST_WIDTH = 8  # faiss 1.15 takes nine times as long for k-means of 1 to 7 dimensions as for 8
_ROTATION_ITERATIONS = 10  # 50 left the same error
_ROTATION_ROWS = 1 << 14
_LOOKUP_PARTS = 32  # the products of all pairs of centroids take 128 MiB at 32 sub-quantizers, and grow with the square
_BLOCK_BYTES = 1 << 25  # of what faiss holds for a block of rows
_WHAT = "recokit.quantize"


@dataclass(frozen=True, eq=False)
class Codebook:
    """What encodes and decodes.

    Attributes:
        codec: How centroids make a vector.
        centroids: (M, K, D / M) float32, or (M, K, D) where the codec is ``additive``.
        rotation: (D, D) float32 where the codec is ``opq``.
    """

    codec: Codec
    centroids: NDArray[np.float32]
    rotation: NDArray[np.float32] | None = None

    @property
    def dim(self) -> int:
        """D, the length of a vector."""
        parts, _, width = self.centroids.shape
        return int(width if self.codec == "additive" else parts * width)


def check_sub_quantizers(sub_quantizers: int, dim: int, codec: Codec) -> None:
    """Refuse more parts than a vector has numbers, and for pq and opq what does not divide them.

    Raises:
        ConfigError: It is out of range; the message names the nearest that are not.
    """
    if isinstance(sub_quantizers, bool) or not isinstance(sub_quantizers, int) or not 1 <= sub_quantizers <= dim:
        raise ConfigError(f"sub_quantizers is {sub_quantizers!r}, expected an integer from 1 to the dim, {dim}")
    if codec != "additive" and dim % sub_quantizers:
        divisors = [number for number in range(1, dim + 1) if dim % number == 0]
        near = [max(n for n in divisors if n < sub_quantizers), min(n for n in divisors if n > sub_quantizers)]
        raise ConfigError(
            f"{codec} cuts vectors into equal parts: {sub_quantizers} sub_quantizers do not divide the dim {dim}; "
            f"take {near[0]} or {near[1]}, or the codec 'additive'"
        )


def train_codebook(
    vectors: NDArray[np.float32], sub_quantizers: int, *, codec: Codec, num_codes: int, seed: int
) -> Codebook:
    """Train a codebook on vectors (B, D); ``num_codes`` is a power of two from 2 to 256.

    Raises:
        ConfigError: ``sub_quantizers`` does not fit the codec.
        MissingDependencyError: faiss is not installed.
    """
    check_sub_quantizers(sub_quantizers, vectors.shape[1], codec)
    faiss = faiss_for(_WHAT)
    vectors = np.ascontiguousarray(vectors, np.float32)
    with faiss_threads(faiss, 1):
        if codec == "additive":
            return _train_residual(faiss, vectors, sub_quantizers, num_codes, seed)
        rotation = None
        if codec == "opq":
            turn = _train_rotation(faiss, vectors, sub_quantizers, num_codes, seed)
            rotation = faiss.vector_to_array(turn.A).reshape(turn.d_out, turn.d_in)  # x -> rotation @ x
            vectors = turn.apply(vectors)
        parts = np.split(vectors, sub_quantizers, axis=1)
        centroids = np.stack([_train_part(faiss, part, num_codes, seed) for part in parts])
    return Codebook(codec, centroids, rotation)


def encoder(codebook: Codebook) -> Encoder:
    """Return what encodes vectors (B, D) float32 as codes (B, M); several threads may call it at once."""
    faiss = faiss_for(_WHAT)
    parts, size, _ = codebook.centroids.shape
    bits = size.bit_length() - 1
    if 1 << bits != size or not bits:
        raise ConfigError(f"the codebook has {size} centroids a sub-quantizer; faiss encodes with powers of two")
    turn = None if codebook.rotation is None else _rotation(faiss, codebook.rotation)
    if codebook.codec == "additive":
        quantizer = _residual_quantizer(faiss, codebook.dim, parts, bits, BEAM)
        faiss.copy_array_to_vector(codebook.centroids.ravel(), quantizer.codebooks)
        quantizer.max_mem_distances = _BLOCK_BYTES
        quantizer.is_trained = True
        if quantizer.use_beam_LUT:
            quantizer.compute_codebook_tables()
    else:
        quantizer = faiss.ProductQuantizer(codebook.dim, parts, bits)
        faiss.copy_array_to_vector(codebook.centroids.ravel(), quantizer.centroids)

    def encode(vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
        with faiss_threads(faiss, 1):  # this thread's
            packed = quantizer.compute_codes(vectors if turn is None else turn.apply(vectors))
        if bits == 8:
            return packed  # type: ignore[no-any-return]
        return faiss.unpack_bitstrings(packed, parts, bits).astype(np.uint8)  # type: ignore[no-any-return]

    return encode


def block_rows(codebook: Codebook) -> int:
    """Return how many rows are encoded at once, so that their distances to all centroids take some MiB."""
    parts, size, _ = codebook.centroids.shape
    rows: int = _BLOCK_BYTES // (4 * (parts * size + codebook.dim))
    return max(256, rows)


def _train_part(faiss: Any, vectors: NDArray[np.float32], num_codes: int, seed: int) -> NDArray[np.float32]:
    """Return the centroids (K, D / M) of one part of the vectors, as faiss's ProductQuantizer trains them."""
    count, width = vectors.shape
    padded = np.zeros((count, max(width, _FAST_WIDTH)), np.float32)
    padded[:, :width] = vectors
    settings = faiss.ClusteringParameters()
    _settle(settings, seed, count)
    clustering = faiss.Clustering(padded.shape[1], num_codes, settings)
    clustering.train(padded, faiss.IndexFlatL2(padded.shape[1]))
    centroids: NDArray[np.float32] = faiss.vector_to_array(clustering.centroids).reshape(num_codes, -1)
    return centroids[:, :width]


def _train_rotation(faiss: Any, vectors: NDArray[np.float32], parts: int, num_codes: int, seed: int) -> Any:
    """Start where Gaussian data would end (Ge et al. 2013, 3.2), and improve that on the rows (3.1)."""
    dim = vectors.shape[1]
    # With fewer rows than D faiss writes past its arrays (OPQMatrix, faiss 1.15); repeated, they say the same.
    vectors = np.tile(vectors, (-(-dim // len(vectors)), 1))
    principal = faiss.PCAMatrix(dim, dim)
    principal.train(vectors)
    directions = faiss.vector_to_array(principal.PCAMat).reshape(dim, dim)
    order = _allocated(faiss.vector_to_array(principal.eigenvalues), parts)
    turn = faiss.OPQMatrix(dim, parts)
    faiss.copy_array_to_vector(directions[order].ravel(), turn.A)
    inner = faiss.ProductQuantizer(dim, parts, num_codes.bit_length() - 1)
    _settle(inner.cp, seed, len(vectors))
    turn.pq = inner
    inner.thisown = True  # the assignment gave it away, and nobody would free it
    turn.niter, turn.max_train_points = _ROTATION_ITERATIONS, _ROTATION_ROWS
    turn.train(vectors)
    return turn


def _allocated(variances: NDArray[np.float32], parts: int) -> NDArray[np.int64]:
    """Return an order of directions, D / M for each part, such that the parts' products of variances are alike.

    Directions come by falling variance; each goes to the part with the smallest product that has room.
    """
    width = len(variances) // parts
    floor = max(float(variances.max()) * 1e-10, 1e-30)
    logarithms = np.log(np.maximum(variances, floor) / floor)  # at least 0, so that products grow
    groups: list[list[int]] = [[] for _ in range(parts)]
    products = np.zeros(parts)
    for direction, logarithm in enumerate(logarithms):
        part = int(products.argmin())
        groups[part].append(direction)
        products[part] += logarithm if len(groups[part]) < width else np.inf  # full
    return np.concatenate(groups).astype(np.int64)


def _train_residual(faiss: Any, vectors: NDArray[np.float32], parts: int, num_codes: int, seed: int) -> Codebook:
    quantizer = _residual_quantizer(faiss, vectors.shape[1], parts, num_codes.bit_length() - 1, 1)
    quantizer.train_type = faiss.ResidualQuantizer.Train_default | faiss.ResidualQuantizer.Skip_codebook_tables
    quantizer.cp.niter = _RESIDUAL_ITERATIONS
    _settle(quantizer.cp, seed, len(vectors))
    quantizer.train(vectors)
    return Codebook("additive", faiss.vector_to_array(quantizer.codebooks).reshape(parts, num_codes, -1))


def _residual_quantizer(faiss: Any, dim: int, parts: int, bits: int, beam: int) -> Any:
    quantizer = faiss.ResidualQuantizer(dim, parts, bits)
    quantizer.max_beam_size = beam
    quantizer.use_beam_LUT = int(beam > 1 and parts <= _LOOKUP_PARTS)  # twice as fast
    return quantizer


def _settle(clustering: Any, seed: int, count: int) -> None:
    clustering.seed = seed
    clustering.min_points_per_centroid = 1  # faiss warns below 39: num_codes was chosen for the rows that there are
    clustering.max_points_per_centroid = count  # the rows were drawn already


def _rotation(faiss: Any, rotation: NDArray[np.float32]) -> Any:
    turn = faiss.LinearTransform(rotation.shape[1], rotation.shape[0], False)
    faiss.copy_array_to_vector(rotation.ravel(), turn.A)
    turn.is_trained = True
    return turn
