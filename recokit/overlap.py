"""Does a ranker train on rows that its frozen vectors have seen? A small sketch of the edges answers it years later.

A network that was trained on an edge has pulled the two vectors together, so a ranker that trains on the same rows
learns to trust a match that test rows will not have. The exporter therefore writes, per relation, a sketch of the
edges into the table's meta, and ``fit`` compares its rows with it:

    table.meta["edge_sketches"] = [{"relation": "likes", "source": "user", "target": "movie", **edge_sketch(...)}]

The sketch keeps the ``size`` smallest of the distinct edges' 64-bit hashes (bottom-k, Bar-Yossef et al. 2002): a
uniform sample of the set that any pair can be tested against, at 11 bytes of JSON an edge and at most 44 KB. With fewer
edges than ``size`` it is the whole set and the estimate is exact. A hit is always a real edge (false ones have odds of
2^-64), so what a big graph and few rows cost is precision, never a false alarm: of R rows about R * size / edges fall
into the sketch's range, and n of them give a standard error of sqrt(p * (1 - p) / n).

Hashes depend on the ids alone, not on machine, library or order (``recokit.id_hash``); that of an edge is
splitmix64(hash(source) + 0x9E3779B97F4A7C15 * hash(target)).
Shapes: N edges or pairs, K the size of a sketch.
"""

__all__ = [
    "SKETCH_SIZE",
    "TOLERATED",
    "LeakCount",
    "LeakWarning",
    "Overlap",
    "edge_sketch",
    "estimate_overlap",
    "find_overlaps",
    "merge_sketches",
]

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd

from recokit.errors import ConfigError, DataError, FormatError
from recokit.feature_columns import column_of
from recokit.id_hash import GOLDEN, Hashes, hash_ids, splitmix64
from recokit.table import FeatureTable, Ids

SKETCH_SIZE = (
    1024  # hashes of a relation that is trained: 11 KB in the meta, and an overlap of one in a hundred is seen
)
TOLERATED = 0.01  # share of rows that may be training edges before somebody should be told

_FORMAT = "edge-sketch/1"
_CHUNK = 1 << 16  # edges hashed at a time: half a MiB an array, which stays in the cache


class LeakWarning(UserWarning):
    """A ranker trains on, or is validated with, rows whose edges its frozen vectors were trained on."""


@dataclass(frozen=True)
class Overlap:
    """The share of a frame's rows whose pair of ids is an edge that a table was trained on."""

    source_column: str
    target_column: str
    relation: str
    version: str
    share: float

    def __str__(self) -> str:
        return (
            f"{self.share:.0%} of the pairs ({self.source_column}, {self.target_column}) are {self.relation!r} edges "
            f"that version {self.version!r} was trained on"
        )


def edge_sketch(sources: Ids, targets: Ids, *, size: int = 4096) -> dict[str, Any]:
    """Sketch the set of edges (sources[i], targets[i]): a dict that JSON takes.

    Dictionary-encoded ids (Arrow dictionary, pandas categorical) are hashed once per distinct id, which is what a graph
    of a billion edges wants.

    Args:
        sources: Source ids (N,), int64 or strings.
        targets: Target ids (N,).
        size: How many hashes to keep; the relative error of a share shrinks with its square root.

    >>> edge_sketch(["u1", "u2"], ["i1", "i1"])["count"]
    2
    """
    if size < 1:
        raise ConfigError(f"an edge sketch of size {size} holds nothing: at least 1")
    smallest, count = np.empty(0, dtype=np.uint64), 0
    for hashes in _edge_hashes(sources, targets):
        count += len(hashes)
        smallest = _keep_smallest(smallest, hashes, size)
    return _sketch(smallest, size=size, count=count)


def merge_sketches(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Sketch the union of two sketched sets, as if their edges had come in one call (the smaller size of the two)."""
    size = min(int(first["size"]), int(second["size"]))
    smallest = _keep_smallest(_hashes(first), _hashes(second), size)
    return _sketch(smallest, size=size, count=int(first["count"]) + int(second["count"]))


def estimate_overlap(sketch: Mapping[str, Any], sources: Ids, targets: Ids) -> float:
    """Estimate the share of the pairs (sources[i], targets[i]) that are among the sketched edges.

    Exact where the sketch holds every edge; else the share among those pairs whose hash lies in the sketch's range.
    Pairs that come twice count twice. NaN where no pair lies in that range, so that nothing can be said.
    """
    known = _hashes(sketch)
    complete = len(known) < int(sketch["size"])
    tested = found = 0
    for hashes in _edge_hashes(sources, targets):
        in_range = hashes if complete else hashes[hashes <= known[-1]]
        tested += len(in_range)
        found += int(np.isin(in_range, known).sum())
    return found / tested if tested else math.nan


def find_overlaps(features: Sequence[tuple[str, FeatureTable]], frame: pd.DataFrame) -> list[Overlap]:
    """Compare the rows of ``frame`` with the edges that the tables of its id columns were trained on.

    Args:
        features: Pairs of an id column and the table that its ids are looked up in.
        frame: The rows; a pair in which an id is missing is left out.

    Returns:
        One overlap per pair of columns, version and relation whose sketch can tell; none where the tables carry none.
    """
    found: dict[tuple[str, str, str, str], Overlap] = {}
    for (source_column, source), (target_column, target) in permutations(features, 2):
        for table, sketch in _sketches_between(source, target):
            key = (source_column, target_column, str(sketch["relation"]), table.version)
            if source_column != target_column and key not in found:
                sources, targets = column_of(frame, source_column), column_of(frame, target_column)
                both = sources.notna() & targets.notna()
                found[key] = Overlap(*key, estimate_overlap(sketch, sources[both], targets[both]))
    return [overlap for overlap in found.values() if not math.isnan(overlap.share)]


class LeakCount:
    """Which rows are edges that the tables were trained on, added up over blocks of rows.

    Shares are of all rows and of those with a positive label, whichever is greater: a hundred drawn negatives for each
    positive would dilute the first, and a network may know what was disliked.

    Args:
        features: Pairs of an id column and its table.
        labels: The label columns; a frame may lack them.
    """

    def __init__(self, features: Sequence[tuple[str, FeatureTable]], labels: Sequence[str]) -> None:
        self._features, self._labels = features, labels
        self._shares: dict[Overlap, dict[str, tuple[float, int]]] = {}

    def add(self, frame: pd.DataFrame) -> None:
        """Look at some rows."""
        labels = [name for name in self._labels if name in frame.columns]
        positive = frame[(frame[labels] == 1).any(axis=1)] if labels else frame
        for which, rows in (("all", frame), ("positive", positive)):
            for overlap in find_overlaps(self._features, rows):
                of = self._shares.setdefault(replace(overlap, share=0.0), {})
                edges, count = of.get(which, (0.0, 0))
                of[which] = (edges + overlap.share * len(rows), count + len(rows))

    def leaks(self) -> list[Overlap]:
        """Return the overlaps of more than is tolerated."""
        found = [
            replace(overlap, share=max(edges / count for edges, count in of.values()))
            for overlap, of in self._shares.items()
        ]
        return [overlap for overlap in found if overlap.share > TOLERATED]


def _sketches_between(source: FeatureTable, target: FeatureTable) -> Iterator[tuple[FeatureTable, dict[str, Any]]]:
    """The sketches of edges from ``source``'s entity type to ``target``'s: either vector alone has seen the edge."""
    for table in (source, target):
        for sketch in table.meta.get("edge_sketches", ()):
            if (sketch["source"], sketch["target"]) == (source.entity, target.entity):
                yield table, sketch


def _sketch(hashes: Hashes, *, size: int, count: int) -> dict[str, Any]:
    # Text and not a list of numbers: JSON readers that know only doubles would round 64-bit integers.
    text = base64.b64encode(hashes.astype("<u8").tobytes()).decode("ascii")
    return {"format": _FORMAT, "size": size, "count": count, "hashes": text}


def _hashes(sketch: Mapping[str, Any]) -> Hashes:
    if sketch.get("format") != _FORMAT:
        raise FormatError(f"an edge sketch has format {sketch.get('format')!r}; this release reads {_FORMAT!r}")
    return np.frombuffer(base64.b64decode(sketch["hashes"]), dtype="<u8").astype(np.uint64)


def _keep_smallest(smallest: Hashes, hashes: Hashes, size: int) -> Hashes:
    if len(smallest) == size:  # most of a long stream falls here, before the sort
        hashes = hashes[hashes < smallest[-1]]
    return np.unique(np.concatenate([smallest, hashes]))[:size]


def _edge_hashes(sources: Ids, targets: Ids) -> Iterator[Hashes]:
    left, right = hash_ids(sources), hash_ids(targets)
    if len(left) != len(right):
        raise DataError(f"{len(left)} sources and {len(right)} targets do not make pairs")
    for start in range(0, len(left), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        yield splitmix64(left[chunk] + GOLDEN * right[chunk])
