"""A user's interests as a few of the user's own items (PinnerSage, Pal et al. 2020).

The items that a user engaged with are clustered by Ward's method, each cluster is represented by its medoid, and its
importance is what is left of its interactions:

    medoid(C) = argmin over i in C of the sum over j in C of |x_i - x_j|**2
    importance(C) = sum over i in C of weight_i * exp(-decay * (now - time_i))

Decisions: an item that was engaged with twice is two points, as in the paper. Vectors have length 1 under cos; zero
vectors are passed over. Of a user with more than ``most`` interactions, the latest count: Ward's method needs memory in
proportion to their square. Importances are normalised over the clusters that are kept, so that ages may be counted from
the user's own latest interaction. Nothing depends on the order of the log, but for which of equally old interactions
are the latest.

Shapes: E interactions, n those of one user, D dimension.
"""

__all__ = ["pinnersage"]

import math
from collections.abc import Callable, Mapping
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, ward
from scipy.spatial.distance import pdist, squareform

from recokit.errors import ConfigError
from recokit.frame.reading import Source
from recokit.index.scoring import Rows, unit
from recokit.index.settings import check_settings
from recokit.mixture.engagement import Engagements, Times, counts_of, read_engagements, sketches_of
from recokit.table import EmbeddingTable, IdType, Mixture, as_vectors


def pinnersage(
    log: Source,
    items: EmbeddingTable,
    *,
    top: int = 5,
    threshold: float | None = None,
    decay: float = 0.0,
    most: int = 1000,
    columns: Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
    now: float | str | datetime | None = None,
    entity: str = "user",
    id_type: IdType | None = None,
    relation: str | None = None,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Mixture:
    """Make a mixture of each source's own items: the medoids of its clusters, by their importance.

    Args:
        log: Interactions: a frame, a Parquet or CSV file, or several; columns source, target[, weight][, time]. Without
            times, those further down are the later ones.
        items: The targets' vectors; the mixture's components.
        top: How many clusters a mixture keeps.
        threshold: Clusters grow while Ward's distance sqrt(2 |A| |B| / (|A| + |B|)) * |mean A - mean B|, which is the
            Euclidean distance for two points, is at most this (the paper's alpha); then the ``top`` most important are
            kept. Where not given, they grow until there are at most ``top``.
        decay: The paper's lambda, 0 or more: for each second where the column time holds times (0.01 a day is
            0.01 / 86400), for each unit where it holds numbers. 0 counts interactions.
        most: How many of a source's latest interactions are clustered.
        columns: What the log calls its columns, where that is something else.
        weights: What an interaction weighs by the content of the column weight, which then names its type.
        now: The time at which this is asked: a log that knows what comes later is refused.
        entity: The entity type of the sources.
        id_type: What the ids of the sources have to be.
        relation: The relation that the log holds edges of: a sketch of them is kept in ``meta``.
        name: What a version calls ``items``; its entity type where not given.
        progress: Called now and then with how many sources are done, and of how many.

    Returns:
        A mixture of rows of ``items``, ids in ascending order; the most important first, of equals the smaller row.

    Raises:
        ConfigError: A setting is out of range.
        DataError: The log is not one, or an interaction is later than ``now``.
    """
    items = as_vectors(items, "items")
    check_settings({"top": top, "most": most})
    for what, value in (("threshold", threshold), ("decay", decay)):
        if value is not None and (isinstance(value, bool) or not 0 <= value < math.inf):
            raise ConfigError(f"{what} is {value!r}, expected a number of 0 or more")
    times: Times = "needed" if decay else "optional"
    engagements, frame = read_engagements(
        log, items, columns=columns, weights=weights, times=times, now=now, id_type=id_type
    )
    kept = engagements.take(_usable(engagements.items, items))
    kept, starts = _latest(kept, most)
    count = len(kept.ids)
    top = min(top, most)
    rows, sums = np.full((count, top), -1), np.zeros((count, top))
    importance = kept.decayed(math.log(2) / decay if decay else None)
    for number in range(count):
        mine = slice(starts[number], starts[number + 1])
        if mine.start < mine.stop:
            medoids, amounts = _interests(items, kept.items[mine], importance[mine], top, threshold)
            rows[number, : len(medoids)], sums[number, : len(medoids)] = medoids, amounts
        if progress is not None and ((number + 1) % 1000 == 0 or number + 1 == count):
            progress(number + 1, count)
    width = max(1, int((rows >= 0).sum(axis=1).max(initial=0)))
    rows, sums = rows[:, :width], sums[:, :width]
    known = rows[:, 0] >= 0
    meta = {
        "source": "engagement",
        "method": "pinnersage",
        "top": top,
        "threshold": threshold,
        "decay": decay,
        "most": most,
        "now": None if now is None else str(now),
        **counts_of(engagements, kept, count, int(known.sum())),
        **sketches_of(frame, relation, entity, items.entity),
    }
    return Mixture.from_rows(
        kept.ids.take(pa.array(np.flatnonzero(known))),
        rows[known],
        sums[known],
        components=items,
        entity=entity,
        name=name or items.entity,
        meta=meta,
    )


def _usable(rows: Rows, items: EmbeddingTable) -> NDArray[np.bool_]:
    """Return which interactions are with an item that has a vector, and under cos a direction."""
    usable: NDArray[np.bool_] = rows >= 0
    if items.comparator == "cos":
        distinct = np.unique(rows[usable])
        zero = distinct[~items.vectors[distinct].any(axis=1)]
        usable &= ~np.isin(rows, zero)
    return usable


def _latest(engagements: Engagements, most: int) -> tuple[Engagements, Rows]:
    """Return the latest interactions of each source, by source and item, and where each source's begin (S + 1,)."""
    sources, count = engagements.sources, len(engagements.sources)
    ages = np.zeros(count) if engagements.ages is None else engagements.ages
    order = np.lexsort((-np.arange(count), ages, sources))
    starts = np.searchsorted(sources[order], np.arange(len(engagements.ids) + 1))
    late = np.zeros(count, np.bool_)
    late[order[np.arange(count) - starts[sources[order]] < most]] = True
    kept = engagements.take(late)
    order = np.lexsort((kept.items, kept.sources))
    return kept.take(order), np.searchsorted(kept.sources[order], np.arange(len(kept.ids) + 1))


def _interests(
    items: EmbeddingTable, rows: Rows, importance: NDArray[np.float64], top: int, threshold: float | None
) -> tuple[Rows, NDArray[np.float64]]:
    """Return the medoids of one user's most important clusters, and their importances.

    Args:
        items: The items.
        rows: (n,) those of the user, ascending.
        importance: (n,) what is left of each interaction.
        top: How many to return at most.
        threshold: Where clusters stop to grow, or None.
    """
    if len(rows) == 1:
        return rows, importance
    vectors = items.vectors[rows].astype(np.float64)
    distances = pdist(unit(vectors) if items.comparator == "cos" else vectors)
    clusters = _cut(distances, len(rows), top, threshold)
    # Sums over the members of each one's own cluster.
    same = clusters[:, None] == clusters
    spread = np.where(same, squareform(distances) ** 2, 0.0).sum(axis=1)
    amounts = np.bincount(clusters, importance).astype(np.float64)
    order = np.lexsort((rows, spread, clusters))
    medoids = rows[order[np.flatnonzero(np.diff(clusters[order], prepend=-1))]]
    best = np.lexsort((medoids, -amounts))[:top]
    return medoids[best], amounts[best]


def _cut(distances: NDArray[np.float64], count: int, top: int, threshold: float | None) -> Rows:
    """Return the cluster (n,) of each point, from 0."""
    tree = ward(distances)
    if threshold is None:  # at the height of the merge that leaves top; equal points are never parted
        threshold = float(tree[count - top - 1, 2]) if count > top else 0.0
    clusters: Rows = fcluster(tree, threshold, "distance").astype(np.int64) - 1
    return clusters
