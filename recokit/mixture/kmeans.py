"""k-means by faiss, ended by one exact step over all items: the centroids are means of members, and none is empty.

Shapes: N items, K clusters, D dimension.
"""

__all__ = ["fit_centroids", "medoids_of", "members"]

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recokit.index.faiss_library import faiss_for, faiss_threads
from recokit.index.lift import blocks
from recokit.index.scoring import Rows, unit
from recokit.mixture.nearest import Centroids

_BLOCK = 1 << 16  # items read at a time, so that a memory-mapped table never is in memory whole


def fit_centroids(
    vectors: NDArray[Any],
    clusters: int,
    *,
    spherical: bool,
    seed: int,
    iterations: int,
    sample: int,
    weights: NDArray[np.float64] | None,
    threads: int,
) -> tuple[NDArray[np.float32], Rows]:
    """Return centroids (K, D) and the cluster of each item (N,); K may be less than ``clusters``.

    Args:
        vectors: (N, D), at least ``clusters`` of them usable.
        clusters: How many to look for.
        spherical: Of directions: vectors are scaled to length 1, and so are centroids. Zero vectors are left out.
        seed: Draws the sample and the first centroids.
        iterations: Of Lloyd's algorithm, over the sample.
        sample: Items per cluster in the sample.
        weights: (N,) what each item counts in a mean.
        threads: Of faiss.
    """
    drawn = _sample(vectors, clusters * sample, seed, spherical, weights)
    trained = unit(vectors[drawn].astype(np.float32)) if spherical else vectors[drawn].astype(np.float32)
    centroids = _lloyd(
        trained,
        clusters,
        spherical=spherical,
        seed=seed,
        iterations=iterations,
        weights=None if weights is None else weights[drawn],
        threads=threads,
    )
    centroids = centroids[_lengths(centroids) > 0] if spherical else centroids
    centroids = _means(vectors, Centroids(centroids, spherical=spherical), centroids, weights)
    found = members(vectors, Centroids(centroids, spherical=spherical))
    taken = np.unique(found[found >= 0])  # a mean may end up with no member of its own
    return centroids[taken], np.where(found < 0, -1, np.searchsorted(taken, found))


def members(vectors: NDArray[Any], centroids: Centroids) -> Rows:
    """Return the cluster of each vector (N, D), read block by block."""
    found = [centroids.nearest(vectors[part]) for part in blocks(len(vectors), _BLOCK)]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def medoids_of(vectors: NDArray[Any], found: Rows, centroids: Centroids) -> tuple[Rows, NDArray[np.float64]]:
    """Return the row of the member nearest to each centroid (K,), and how near each item is to its own (N,).

    Of equally near members, the smaller row.
    """
    closeness = np.full(len(vectors), -np.inf)
    for part in blocks(len(vectors), _BLOCK):
        inside = np.flatnonzero(found[part] >= 0) + part.start
        closeness[inside] = centroids.closeness(vectors[inside], found[inside])
    order = np.lexsort((-closeness, found))  # stable: rows ascend among equals
    order = order[np.searchsorted(found[order], 0) :]
    firsts = np.flatnonzero(np.diff(found[order], prepend=-1))
    return order[firsts], closeness


def _sample(vectors: NDArray[Any], size: int, seed: int, spherical: bool, weights: NDArray[np.float64] | None) -> Rows:
    """Draw the rows to train on, ascending."""
    usable = np.arange(len(vectors))
    if weights is not None:
        usable = usable[weights > 0]
    if spherical:
        usable = usable[np.concatenate([_lengths(vectors[part]) > 0 for part in blocks(len(vectors), _BLOCK)])[usable]]
    if len(usable) <= size:
        return usable
    return np.sort(np.random.default_rng(seed).choice(usable, size, replace=False))


def _lloyd(
    vectors: NDArray[np.float32],
    clusters: int,
    *,
    spherical: bool,
    seed: int,
    iterations: int,
    weights: NDArray[np.float64] | None,
    threads: int,
) -> NDArray[np.float32]:
    faiss = faiss_for("InterestClusters.fit")
    settings = faiss.ClusteringParameters()
    settings.niter, settings.seed, settings.spherical = iterations, seed, spherical
    settings.min_points_per_centroid = 1  # faiss warns below 39; the caller chose
    settings.max_points_per_centroid = max(1, len(vectors))  # the sample is drawn already
    dim = vectors.shape[1]
    clustering = faiss.Clustering(dim, clusters, settings)
    with faiss_threads(faiss, threads):
        index = faiss.IndexFlatIP(dim) if spherical else faiss.IndexFlatL2(dim)
        clustering.train(vectors, index, None if weights is None else weights.astype(np.float32))
    centroids: NDArray[np.float32] = faiss.vector_to_array(clustering.centroids).reshape(clusters, dim)
    return centroids


def _means(
    vectors: NDArray[Any], nearest: Centroids, centroids: NDArray[np.float32], weights: NDArray[np.float64] | None
) -> NDArray[np.float32]:
    """Return the weighted means of the centroids' members, those without members left out."""
    sums, mass, counts = np.zeros(centroids.shape), np.zeros(len(centroids)), np.zeros(len(centroids), np.int64)
    for part in blocks(len(vectors), _BLOCK):
        block = vectors[part].astype(np.float64)
        found = nearest.nearest(vectors[part])
        inside = np.flatnonzero(found >= 0)
        amount = np.ones(len(block)) if weights is None else weights[part]
        if nearest.spherical:
            block = unit(block)
        by_cluster = sparse.csr_matrix((amount[inside], (found[inside], inside)), (len(centroids), len(block)))
        sums += by_cluster @ block
        mass += np.asarray(by_cluster.sum(axis=1)).ravel()
        counts += np.bincount(found[inside], minlength=len(centroids))
    moved = np.divide(sums, mass[:, None], out=centroids.astype(np.float64), where=mass[:, None] > 0)
    if nearest.spherical:  # members that cancel out have no direction: their centroid stays
        moved = unit(np.where(_lengths(moved)[:, None] > 0, moved, centroids))
    return moved[counts > 0].astype(np.float32)


def _lengths(vectors: NDArray[Any]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    return lengths
