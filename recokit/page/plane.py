"""A map of a sample of entities: vectors to 50 dimensions by principal components, to 2 by t-SNE.

What lies close together on such a map is likely to be close in the space (van der Maaten and Hinton 2008); distances
between clusters, their sizes and their places mean little (Wattenberg et al. 2016).

Shapes: n entities of the sample, D dimension.
"""

__all__ = ["Plane", "check_installed", "draw_planes"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recokit.errors import DataError, MissingDependencyError
from recokit.index.scoring import unit
from recokit.page.lists import Lists, Rows, fair_shares
from recokit.table import EmbeddingTable

_COMPONENTS = 50
_PERPLEXITY = 30.0
# Half of scikit-learn's steps, with coarser cells: a third of the time, and 10 neighbours kept as well on 2,000 points.
_STEPS = 500
_ANGLE = 0.8
_LEAST = 3  # entities of a map


@dataclass(frozen=True, eq=False)
class Plane:
    """Places of some entities on a map.

    Attributes:
        title: What is on it.
        method: How it came to be, in a sentence.
        tables: (n,) the position of each entity's table among the lists.
        places: (n,) the position of each entity among its table's listed rows.
        points: (n, 2) float32, within -1 and 1.
        groups: (n,) what each is coloured by.
    """

    title: str
    method: str
    tables: Rows
    places: Rows
    points: NDArray[np.float32]
    groups: tuple[str, ...]


def draw_planes(
    lists: Sequence[Lists], labels: Mapping[str, Sequence[str]], *, sample: int, seed: int
) -> tuple[Plane, ...]:
    """Lay samples of the listed entities out on maps: one for each table that has labels, one of all types.

    Args:
        lists: The listed entities.
        labels: By table, the label of each of its listed entities, "" where it has none.
        sample: Entities on a map, at most.
        seed: Of the sample and of the layout; the same seed gives the same map.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    drawable = [at for at, part in enumerate(lists) if isinstance(part.table, EmbeddingTable) and len(part.rows)]
    samples = [
        _Sample.of_labels(lists, at, labels[lists[at].name], sample, seed)
        for at in drawable
        if lists[at].name in labels
    ]
    for dim in dict.fromkeys(lists[at].table.dim for at in drawable):  # networks may differ
        alike = [at for at in drawable if lists[at].table.dim == dim]
        if len(alike) > 1 or lists[alike[0]].name not in labels:
            samples.append(_Sample.of_types(lists, alike, sample, seed))
    return tuple(one.plane(lists, seed) for one in samples if len(one.tables) >= _LEAST)


def check_installed() -> None:
    """Raise a MissingDependencyError where scikit-learn is not installed."""
    try:
        import sklearn.decomposition  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", extra="report", needed_for="the map of entities") from error


@dataclass(frozen=True, eq=False)
class _Sample:
    """Some listed entities: the positions of their tables, ascending, and theirs within them."""

    title: str
    tables: Rows  # (n,)
    places: Rows  # (n,)
    groups: tuple[str, ...]

    @classmethod
    def of_types(cls, lists: Sequence[Lists], of: Sequence[int], sample: int, seed: int) -> "_Sample":
        shares = fair_shares([len(lists[at].rows) for at in of], sample)
        tables = np.repeat(np.array(of), shares)
        places = [_sampled(len(lists[at].rows), share, seed) for at, share in zip(of, shares, strict=True)]
        title = "All types" if len(of) > 1 else lists[of[0]].name
        return cls(title, tables, np.concatenate(places), tuple(lists[at].name for at in tables))

    @classmethod
    def of_labels(cls, lists: Sequence[Lists], at: int, labels: Sequence[str], sample: int, seed: int) -> "_Sample":
        places = _sampled(len(lists[at].rows), sample, seed)
        groups = tuple(labels[place] for place in places)
        return cls(f"{lists[at].name} by label", np.full(len(places), at), places, groups)

    def plane(self, lists: Sequence[Lists], seed: int) -> Plane:
        of = dict.fromkeys(self.tables.tolist())
        vectors = np.concatenate([_vectors(lists[at], self.places[self.tables == at]) for at in of])
        points, method = _layout(vectors, seed)
        said = f"{len(points):,} of {sum(len(lists[at].rows) for at in of):,} listed entities; {method}"
        return Plane(self.title, said, self.tables, self.places, points, self.groups)


def _sampled(count: int, share: int, seed: int) -> Rows:
    """Return ``share`` of ``count`` places, ascending."""
    drawn = np.random.default_rng(seed).choice(count, min(share, count), replace=False)
    return np.sort(drawn).astype(np.int64)


def _vectors(part: Lists, places: Rows) -> NDArray[np.float32]:
    """Return vectors (n, D), at unit length where the comparator does not see lengths."""
    if not isinstance(part.table, EmbeddingTable):
        raise DataError(f"{part.name!r} is a {part.table.kind}, which has no one place on a map")
    vectors: NDArray[np.float32] = part.table.vectors[part.rows[places]].astype(np.float32)
    return unit(vectors) if part.table.comparator == "cos" else vectors


def _layout(vectors: NDArray[np.float32], seed: int) -> tuple[NDArray[np.float32], str]:
    """Return points (n, 2) of vectors (n, D), and how they were found."""
    check_installed()
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if (vectors == vectors[0]).all():
        return np.zeros((len(vectors), 2), np.float32), "all of their vectors are the same"
    if vectors.shape[1] == 1:  # a plane has two dimensions, and t-SNE begins with two components
        vectors = np.pad(vectors, ((0, 0), (0, 1)))
    kept = min(_COMPONENTS, vectors.shape[1], len(vectors))
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # sums in one order: the same seed, the same map
        reduced = PCA(kept, svd_solver="full").fit_transform(vectors.astype(np.float64))
        layout = TSNE(
            2, perplexity=perplexity, init="pca", random_state=seed, method="barnes_hut", max_iter=_STEPS, angle=_ANGLE
        )
        points = layout.fit_transform(reduced.astype(np.float32))
    points = points - points.mean(axis=0)
    method = (
        f"principal components ({kept}), then t-SNE with perplexity {perplexity:g}, {_STEPS} steps, angle {_ANGLE:g} "
        f"(Barnes-Hut), seed {seed}"
    )
    return (points / max(float(np.abs(points).max()), 1e-12)).astype(np.float32), method
