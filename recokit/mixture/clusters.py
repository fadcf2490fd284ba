"""Interests as clusters of items, and users as their most engaged ones (TwHIN, El-Kishky et al. 2022, 4.4, Eq. 3).

    clusters = InterestClusters.fit(items, 1000)
    mixture = clusters.transform(clicks, items, top=5)

Shapes: N items, K clusters, S sources of a log, C components kept, B batch, D dimension.
"""

__all__ = ["InterestClusters"]

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, FormatError, VersionError, closest
from recokit.frame.reading import Source
from recokit.index.scoring import Rows
from recokit.index.settings import available_cpus, check_settings
from recokit.mixture.engagement import counts_of, half_life_of, read_engagements, sketches_of
from recokit.mixture.kmeans import fit_centroids, medoids_of
from recokit.mixture.nearest import Centroids
from recokit.mixture.shares import keep_top, share_matrix
from recokit.mixture.smoothing import Smoothing
from recokit.table import EmbeddingTable, IdType, Mixture, as_vectors
from recokit.table.folder import local_folder, new_folder

Vectors = Literal["centroid", "medoid"]

_BLOCK = 1 << 16  # items assigned at a time


@dataclass(frozen=True, eq=False)
class InterestClusters:
    """Clusters of items, each named by its medoid: the id of the member nearest to its centroid.

    Attributes:
        centroids: A table of K centroids, whose ids are those of the medoids.
        medoids: A table of the medoids' own vectors, with the same ids; None where they are not wanted.
    """

    centroids: EmbeddingTable
    medoids: EmbeddingTable | None = None

    def __post_init__(self) -> None:
        if not len(self.centroids):
            raise DataError("the table of centroids is empty, expected one cluster or more")
        if self.medoids is None:
            return
        for what in ("version", "dim", "comparator", "ids"):
            one, other = getattr(self.centroids, what), getattr(self.medoids, what)
            if not (one.equals(other) if what == "ids" else one == other):
                raise DataError(f"centroids and medoids differ in {what}, expected two tables of the same clusters")

    @classmethod
    def fit(
        cls,
        items: EmbeddingTable,
        clusters: int = 1000,
        *,
        seed: int = 0,
        iterations: int = 25,
        sample: int = 256,
        weights: NDArray[Any] | None = None,
        threads: int | None = None,
    ) -> "InterestClusters":
        """Cluster the vectors of items by k-means (faiss).

        Under cos, vectors are compared by their angle and centroids have length 1 (spherical k-means); zero vectors
        belong to no cluster. Under dot, l2 and squared_l2, it is the Euclidean distance: a centroid is the mean of its
        members, so that under dot its score with a query is the mean of theirs. A bias is not carried over.

        After the iterations, which look at a sample, all items are assigned, the centroids become the means of their
        members, and all items are assigned again; clusters without members are dropped.

        Args:
            items: The items.
            clusters: How many clusters, at most as many as there are items.
            seed: Draws the sample and the first centroids; same seed, same bytes.
            iterations: Of Lloyd's algorithm.
            sample: Items per cluster that the iterations look at; all where there are fewer.
            weights: (N,) of at least 0, what each item counts in a mean, such as its popularity.
            threads: Of faiss; None for all that this process may use.

        Raises:
            ConfigError: A setting is out of range, or there are fewer items than clusters.
            DataError: ``weights`` do not fit.
            MissingDependencyError: faiss is not installed.
        """
        items = as_vectors(items, "items to cluster")
        check_settings({"clusters": clusters, "iterations": iterations, "sample": sample, "threads": threads})
        check_settings({"seed": seed}, at_least=0)
        spherical = items.comparator == "cos"
        usable = items.vectors.any(axis=1) if spherical else np.ones(len(items), np.bool_)
        amounts = None if weights is None else _checked_weights(np.asarray(weights), len(items))
        if amounts is not None:
            usable &= amounts > 0
        if clusters > (count := int(usable.sum())):
            beyond = "" if count == len(items) else f" with a vector and a weight other than 0 (of {len(items)})"
            raise ConfigError(f"clusters is {clusters}, expected at most the {count} items{beyond}")
        centroids, members = fit_centroids(
            items.vectors,
            clusters,
            spherical=spherical,
            seed=seed,
            iterations=iterations,
            sample=sample,
            weights=amounts,
            threads=threads or available_cpus(),
        )
        rows, closeness = medoids_of(items.vectors, members, Centroids(centroids, spherical=spherical))
        inside = closeness[members >= 0]
        meta = {
            "source": "k-means",
            "items": len(items),
            "clusters": clusters,
            "seed": seed,
            "iterations": iterations,
            "sample": sample,
            "mean_cosine" if spherical else "mean_squared_distance": float(abs(inside.mean())),
        }
        ids = items.ids_at(rows)
        make = partial(
            EmbeddingTable.from_arrays,
            ids,
            entity=f"{items.entity}-cluster",
            version=items.version,
            comparator=items.comparator,
            meta=meta,
        )
        return cls(make(centroids), make(items.vectors[rows]))

    def __len__(self) -> int:
        return len(self.centroids)

    def __repr__(self) -> str:
        centroids = self.centroids
        return (
            f"InterestClusters({len(self):,} of {centroids.entity!r}, version {centroids.version!r}, "
            f"dim {centroids.dim}, {centroids.comparator})"
        )

    def assign(self, vectors: NDArray[Any]) -> Rows:
        """Return the row of the cluster whose centroid is nearest to each vector (B, D); see ``fit`` for what near is.

        Exactly, and of equally near ones the smaller row; -1 for a zero vector under cos.

        Raises:
            DataError: The vectors are of another length than the centroids, or not finite.
        """
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.centroids.dim:
            raise DataError(f"vectors have shape {vectors.shape}, expected (vectors, {self.centroids.dim})")
        if not np.isfinite(vectors).all():
            raise DataError("some of the vectors to assign are not finite")
        return self._nearest.nearest(vectors)

    def transform(
        self,
        log: Source,
        items: EmbeddingTable,
        *,
        top: int = 5,
        vectors: Vectors = "centroid",
        columns: Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
        half_life: float | str | timedelta | None = None,
        now: float | str | datetime | None = None,
        smoothing: Smoothing | None = None,
        entity: str = "user",
        id_type: IdType | None = None,
        relation: str | None = None,
        any_version: bool = False,
    ) -> Mixture:
        """Make a mixture of each source's most engaged clusters (Eq. 3).

            P(c | u) = count(u, c) / sum of count(u, c') over the clusters c' of M(u)

        count is the sum of the weights of u's interactions with items of cluster c, and M(u) are the ``top`` clusters
        where it is largest, the smaller cluster first among equal ones. Sources need not have been trained on, nor
        items have been there when the clusters were fitted. Interactions with items that are not in ``items`` are
        passed over; a source without any other gets no row. ``meta`` counts both.

        Args:
            log: Interactions: a frame, a Parquet or CSV file, or several; columns source, target[, weight][, time].
            items: The targets' vectors, in the space of the clusters.
            top: How many clusters a mixture keeps.
            vectors: What stands for a cluster: its centroid, or its medoid, which is a real item.
            columns: What the log calls its columns, where that is something else: ``{"source": "user_id"}``.
            weights: What an interaction weighs by the content of the column weight, which then names its type:
                ``columns={"weight": "event"}, weights={"view": 1, "buy": 5}``.
            half_life: An interaction counts half as much with every half-life that it is older: a number in the unit
                of the column time (seconds, where that holds times), or a duration such as ``"30d"``, for which
                numbers are taken as seconds. Proportions do not depend on when one asks: no other time is needed.
            now: The time at which this is asked: a log that knows what comes later is refused.
            smoothing: Lean on the nearest users before the top clusters are kept.
            entity: The entity type of the sources.
            id_type: What the ids of the sources have to be; what they are, where not given.
            relation: The relation that the log holds edges of: a sketch of them is kept in ``meta``, so that a ranker
                that trains on the same rows is warned.
            any_version: Take items of another version than the clusters'.

        Returns:
            A mixture whose components are the clusters, ids in ascending order.

        Raises:
            ConfigError: A setting is out of range.
            DataError: The log is not one (``recokit.read_frame``), an interaction is later than ``now``, or the items
                do not fit the clusters.
            VersionError: The items are of another version than the clusters.
        """
        check_settings({"top": top})
        components = self._components(vectors)
        decay = half_life_of(half_life)
        self._check_items(items, any_version)
        engagements, frame = read_engagements(
            log,
            items,
            columns=columns,
            weights=weights,
            times="needed" if decay is not None else "unused",
            now=now,
            id_type=id_type,
        )
        clusters = self._clusters_of(engagements.items, items)
        counted = clusters >= 0
        kept = engagements if counted.all() else engagements.take(counted)
        matrix = share_matrix(
            kept.sources,
            clusters if kept is engagements else clusters[counted],
            kept.decayed(decay),
            (len(kept.ids), len(self)),
        )
        if smoothing is None:
            ids, (found, sums) = engagements.ids, keep_top(matrix, top)
        else:
            ids, found, sums = smoothing.keep_top(engagements.ids, matrix, top)
        known = found[:, 0] >= 0
        if not known.all():
            ids, found, sums = ids.take(pa.array(np.flatnonzero(known))), found[known], sums[known]
        meta = {
            "source": "engagement",
            "method": "clusters",
            "vectors": vectors,
            "top": top,
            "half_life": decay,
            "now": None if now is None else str(now),
            "smoothing": None if smoothing is None else {"neighbors": smoothing.neighbors, "share": smoothing.share},
            **counts_of(engagements, kept, len(known), len(ids)),
            **sketches_of(frame, relation, entity, items.entity),
        }
        return Mixture.from_rows(
            ids,
            found,
            sums,
            components=components,
            entity=entity,
            name=f"{components.entity}s",
            meta=meta,
        )

    def save(self, path: str | Path) -> Path:
        """Write the clusters as a folder of the tables ``centroids`` and ``medoids``, whole or not at all.

        Raises:
            VersionError: ``path`` exists.
        """
        target = local_folder(path)
        with new_folder(target) as folder:
            self.centroids.save(folder / "centroids")
            if self.medoids is not None:
                self.medoids.save(folder / "medoids")
        return target

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = False) -> "InterestClusters":
        """Open clusters that were saved.

        Args:
            path: The folder.
            verify: Read every file and compare its SHA-256.

        Raises:
            FormatError: The folder holds no clusters, or is damaged.
            ChecksumError: With ``verify``, a file's bytes have changed.
        """
        folder = local_folder(path)
        if not (folder / "centroids").is_dir():
            raise FormatError(f"{folder} holds no clusters: there is no folder 'centroids' in it")
        there = (folder / "medoids").is_dir()
        centroids = EmbeddingTable.load(folder / "centroids", verify=verify)
        medoids = EmbeddingTable.load(folder / "medoids", verify=verify) if there else None
        try:
            return cls(centroids, medoids)
        except DataError as error:
            raise FormatError(f"{folder}: {error}") from error

    @cached_property
    def _nearest(self) -> Centroids:
        return Centroids(self.centroids.vectors, spherical=self.centroids.comparator == "cos")

    def _components(self, vectors: str) -> EmbeddingTable:
        if vectors not in get_args(Vectors):
            raise ConfigError(f"vectors is {vectors!r}; {closest(str(vectors), get_args(Vectors))}")
        if vectors == "centroid":
            return self.centroids
        if self.medoids is None:
            raise ConfigError("vectors is 'medoid', but these clusters were made without medoids: expected 'centroid'")
        return self.medoids

    def _check_items(self, items: EmbeddingTable, any_version: bool) -> None:
        mine = self.centroids
        if (items.dim, items.comparator) != (mine.dim, mine.comparator):
            raise DataError(
                f"the {items.entity!r} table has dim {items.dim} and {items.comparator}, the clusters have dim "
                f"{mine.dim} and {mine.comparator}: they are of different spaces"
            )
        if items.version != mine.version and not any_version:
            raise VersionError(
                f"the {items.entity!r} table is of version {items.version!r}, the clusters are of {mine.version!r}"
            )

    def _clusters_of(self, rows: Rows, items: EmbeddingTable) -> NDArray[np.int32]:
        """Return the cluster of each item in ``rows`` (E,), -1 for none; each distinct item is assigned once."""
        if len(rows) * 16 < len(items):  # a request or a few: nothing as long as the table
            distinct, position = np.unique(rows, return_inverse=True)
            found = np.full(len(distinct), -1, np.int32)
            found[distinct >= 0] = self._nearest.nearest(items.vectors[distinct[distinct >= 0]])
            return found[position]
        of_item = np.full(len(items) + 1, -1, np.int32)  # row -1 reads the last
        there = np.zeros(len(items) + 1, np.bool_)
        there[rows] = True
        distinct = np.flatnonzero(there[:-1])
        for start in range(0, len(distinct), _BLOCK):
            part = distinct[start : start + _BLOCK]
            of_item[part] = self._nearest.nearest(items.vectors[part])
        return of_item[rows]


def _checked_weights(weights: NDArray[Any], count: int) -> NDArray[np.float64]:
    if weights.shape != (count,) or weights.dtype.kind not in "fiu":
        raise DataError(f"weights are {weights.dtype} {weights.shape}, expected a number for each of the {count} items")
    amounts = weights.astype(np.float64)
    if len(bad := np.flatnonzero(~((amounts >= 0) & (amounts < np.inf)))):
        raise DataError(f"weights: {amounts[bad[0]]} in row {bad[0]}, expected numbers of 0 or more")
    return amounts
