"""How far each id's vector moved, and what remains of that after the best rotation of all.

    l2            |v - v'|
    relative l2   |v - v'| / |v|
    cosine        of v and v'

A version whose space was only turned gives every consumer the same scores and neighbours, though each vector moved:
training from another random start does that much. Orthogonal Procrustes (Schönemann 1966) finds the rotation R,
reflections included, that brings the old vectors nearest to the new ones. It has D * D numbers to choose, which fit D
ids perfectly whatever they are, so R is fitted on one half of the ids and measured on the other:

    procrustes residual   |V R - V'| / |V'|, beside the unrotated residual |V - V'| / |V'|, Frobenius norms

Half of the ids have to be more than D: those of fewer leave directions in which any turn fits as well, and a version
would be far from itself.

Under dot and cos the rotation is about the origin, which is all that leaves their scores alone. Distances do not change
by a shift either, so that under l2 and squared_l2 both halves' vectors are taken from the fitted half's means.

Shapes: N common ids, b ids of a block, D dimension.
"""

__all__ = ["Residuals", "Rotation", "determines_rotation", "deviations", "fit_rotation", "residuals"]

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recokit.drift.common import TablePair

_DISTANCES = ("l2", "squared_l2")


@dataclass(frozen=True, eq=False)
class Rotation:
    """What brings old vectors nearest to new ones: ``(v - old_mean) @ matrix + new_mean``."""

    matrix: NDArray[np.float64]  # (D, D) orthogonal
    old_mean: NDArray[np.float64]  # (D,), zeros where nothing is centred
    new_mean: NDArray[np.float64]
    centred: bool
    fitted: NDArray[np.bool_]  # (N,) the ids that it was fitted on


@dataclass(frozen=True, eq=False)
class Residuals:
    """Squares and cosines of the ids that a rotation was not fitted on; NaN for the others."""

    rotated: NDArray[np.float64]  # (N,) |v R - v'|**2
    unrotated: NDArray[np.float64]  # (N,) |v - v'|**2
    whole: NDArray[np.float64]  # (N,) |v'|**2, from the mean where that is taken away
    cosine: NDArray[np.float64]  # (N,) of v R and v'


def deviations(pair: TablePair) -> dict[str, NDArray[np.float64]]:
    """Return ``l2``, ``relative l2`` and ``cosine`` of every common id, (N,) each, in float64.

    NaN where there is none: of a vector of zeros nothing is relative, and it has no angle.
    """
    found = {metric: np.empty(pair.count) for metric in ("l2", "relative l2", "cosine")}
    for part, old, new in pair.blocks():
        moved, before = _norms(old - new), _norms(old)
        found["l2"][part] = moved
        found["relative l2"][part] = _ratio(moved, before)
        found["cosine"][part] = _cosines(old, new)
    return found


def determines_rotation(pair: TablePair) -> bool:
    """Whether half of the common ids are more than there are dimensions, so that one rotation suits them best."""
    return _half(pair.count) > pair.old.dim


def fit_rotation(pair: TablePair, *, seed: int = 0) -> Rotation:
    """Fit the rotation of old vectors onto new ones on a random half of the ids; of one id alone, on that one."""
    fitted = np.zeros(pair.count, np.bool_)
    fitted[np.random.default_rng(seed).permutation(pair.count)[: _half(pair.count)]] = True
    centred = pair.old.comparator in _DISTANCES and pair.new.comparator in _DISTANCES
    count, dim = int(fitted.sum()), pair.old.dim
    product, sums = np.zeros((dim, dim)), np.zeros((2, dim))
    for part, old, new in pair.blocks():
        mine = fitted[part]
        product += old[mine].T @ new[mine]
        sums += old[mine].sum(axis=0), new[mine].sum(axis=0)
    old_mean, new_mean = sums / count if centred else np.zeros((2, dim))
    if centred:
        product -= count * np.outer(old_mean, new_mean)
    left, _, right = np.linalg.svd(product)
    return Rotation(left @ right, old_mean, new_mean, centred, fitted)


def residuals(pair: TablePair, rotation: Rotation) -> Residuals:
    """Return what the rotation leaves of the ids that it was not fitted on."""
    found = Residuals(*(np.full(pair.count, np.nan) for _ in range(4)))
    for part, old, new in pair.blocks():
        mine = np.flatnonzero(~rotation.fitted[part])
        before, after = old[mine] - rotation.old_mean, new[mine] - rotation.new_mean
        rotated = before @ rotation.matrix
        at = part.start + mine
        found.rotated[at] = _squares(rotated - after)
        found.unrotated[at] = _squares(old[mine] - new[mine])
        found.whole[at] = _squares(after)
        found.cosine[at] = _cosines(rotated, after)
    return found


def _half(count: int) -> int:
    return (count + 1) // 2


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    # Not a product of two roots, which is not quite |v|**2 where the vectors are equal.
    return _ratio(np.einsum("bd,bd->b", a, b), np.sqrt(_squares(a) * _squares(b)))


def _norms(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(_squares(x))


def _squares(x: NDArray[np.float64]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.einsum("bd,bd->b", x, x)
    return squares


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return ratio
