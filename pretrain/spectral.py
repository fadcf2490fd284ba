"""A spectral start: first vectors that know the network before an epoch is trained.

Entities of all types are rows and columns of one symmetric matrix A, the weights of the edges between them, scaled to
``B = d^-p A d^-p`` with the weighted degrees d.  Its eigenvectors of the largest eigenvalues l, times sqrt(l), are the
best vectors of their dimension whose dot products give B back (Eckart and Young 1936); of a bipartite network they are
the singular vectors of the matrix of its two sides.  They are found by subspace iteration from random vectors
(Halko, Martinsson and Tropp 2011): a few products of a sparse with a dense matrix, the time of a part of an epoch.
Powers p below a half leave popular entities longer vectors.

Memory: about four times the table's while it runs, and 32 bytes an edge.
Shapes: N entities of all types, E edges, K columns, D dimension.
"""

__all__ = ["Ends", "spectral_vectors"]

import warnings
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

_ITERATIONS = 6  # quality stops to grow long before the last eigenvectors stand still
_MORE = 16  # columns than are wanted, for the last of these
_LOST = 1e-6  # of the largest: squared lengths of directions that float32 cannot tell from the others


class Ends(NamedTuple):
    """Edges between two entity types, or within one."""

    source: str
    target: str
    sources: Tensor  # (E,) rows
    targets: Tensor  # (E,) rows
    weights: Tensor  # (E,)


def spectral_vectors(
    sizes: Mapping[str, int], edges: Iterable[Ends], dim: int, *, power: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the vectors (N, K) of every entity type: at most ``dim`` columns, in falling order of their eigenvalues.

    Args:
        sizes: Entity type to its number of entities; those without edges get zeros.
        edges: Those of all relations.
        dim: How many columns there may be; a network of few entities has fewer.
        power: Of the degrees that edges are divided by, p.
        generator: Of the random vectors that it begins with.
    """
    edges = [of for of in edges if len(of.weights)]
    if not edges:
        return {entity: torch.zeros(size, 0) for entity, size in sizes.items()}
    matrix = _normalised(sizes, edges, power)
    total = matrix.shape[0]
    found = _orthonormal(torch.randn(total, min(dim + _MORE, total), generator=generator))
    largest = torch.zeros(())
    for iteration in range(_ITERATIONS):
        moved = matrix @ found
        if iteration < 2:  # which know it well enough
            largest = torch.linalg.matrix_norm(moved.T @ moved, 2).sqrt()
        # A bipartite network's eigenvalues come in pairs l and -l: B (B + largest) prefers the positive ones.
        found = _orthonormal(matrix @ (moved + largest * found))
    values, vectors = torch.linalg.eigh((found.T @ (matrix @ found)).double())
    kept = values.argsort(descending=True)[:dim]
    kept = kept[values[kept] > 0]
    found = found @ (vectors[:, kept] * values[kept].sqrt()).float()
    return dict(zip(sizes, found.split(list(sizes.values())), strict=True))


def _normalised(sizes: Mapping[str, int], edges: Iterable[Ends], power: float) -> Tensor:
    """Return B (N, N) as a sparse matrix."""
    first, total = {}, 0
    for entity, size in sizes.items():
        first[entity], total = total, total + size
    ends = [(of.sources + first[of.source], of.targets + first[of.target], of.weights) for of in edges]
    sources, targets, weights = (torch.cat(part).numpy() for part in zip(*ends, strict=True))
    one_way = scipy.sparse.coo_array((weights, (sources, targets)), shape=(total, total)).tocsr()
    matrix = (one_way + one_way.T).tocsr()
    scale = np.maximum(matrix.sum(1, dtype=np.float64), 1e-30) ** -power
    matrix.data *= (scale[matrix.indices] * np.repeat(scale, np.diff(matrix.indptr))).astype(np.float32)
    with warnings.catch_warnings():  # that the layout is a beta of torch's
        warnings.simplefilter("ignore")
        starts, columns, values = map(torch.from_numpy, (matrix.indptr, matrix.indices, matrix.data))
        return torch.sparse_csr_tensor(starts, columns, values, (total, total), check_invariants=False)


def _orthonormal(columns: Tensor) -> Tensor:
    """Return an orthonormal basis (N, K' <= K) of what the columns (N, K) span, by their inner products."""
    values, vectors = torch.linalg.eigh((columns.T @ columns).double())
    kept = values > _LOST * values[-1]
    basis: Tensor = columns @ (vectors[:, kept] / values[kept].sqrt()).float()
    return basis
