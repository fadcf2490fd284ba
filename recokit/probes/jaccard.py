"""User follow Jaccard: do vectors find alike those who follow alike (Embeddings@Twitter 2018)?

The rank correlation (Spearman) of the cosine of two entities' vectors with the Jaccard index of their sets, over pairs
of entities. Nearly all pairs share nothing, so that pairs drawn at random alone would be one long tie: half are drawn
uniformly from all pairs, half uniformly from those that share a member, and each half has a row of its own.

Intervals resample entities, not pairs: a pair counts as often as the product of its two entities' draws (the
pigeonhole bootstrap, Owen 2007), which errs on the wide side where entities stand in few pairs.

Shapes: n entities, P pairs.
"""

__all__ = ["RankCorrelation", "SetJaccard", "cosines", "sample_pairs"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recokit.errors import DataError
from recokit.frame.reading import Source
from recokit.index.scoring import unit
from recokit.metrics.arrays import Floats, Ints, at_least_one
from recokit.probes.degrees import Degrees, UnknownDegrees, degrees_of, given_degrees
from recokit.probes.labels import known_entities, read_labels
from recokit.probes.task import Bench, Measure, Outcome, Subject

_ROUNDS = 50  # of proposals
_LISTED = 5_000_000  # pairs within columns up to which all pairs that share are listed
_CHUNK = 1 << 14  # pairs compared at once


@dataclass(frozen=True)
class SetJaccard:
    """Rank correlation of vectors' cosines with the Jaccard index of sets, over sampled pairs of entities.

    Attributes:
        name: What the report calls it; the metric is ``"<name> spearman"``.
        table: The table of the vectors.
        sets: Columns query and candidate, a row for each member of an entity's set: whom a user follows.
        known: Whether the version was trained on these sets, which only you know; the protocol says it. Held-out sets
            (False) measure foresight, known ones how much of the sets is in the vectors.
        columns: What the frame calls them.
        pairs: How many pairs, half of them among those that share a member.
        sample: Entities at most, drawn by the seed.
        degrees: Columns id and degree, where the version keeps no degrees; else the size of the sets.

    Metrics: all pairs (``group`` None), and the groups ``"uniform pairs"`` and ``"pairs that share"``. The baseline
    ``degree`` is minus the difference of the logarithms of two degrees.
    """

    name: str
    table: str
    sets: Source
    known: bool | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    pairs: int = 10_000
    sample: int = 100_000
    degrees: "Source | None" = None

    def __post_init__(self) -> None:
        at_least_one(self.pairs, "pairs")
        at_least_one(self.sample, "sample")

    def prepare(self, bench: Bench) -> Measure:
        """Read the sets and draw the pairs."""
        frame = read_labels(self.sets, ("query", "candidate"), self.columns, bench, self.table)
        entities = known_entities(frame["query"], bench, self.table, self.sample)
        if len(entities.ids) < 3:
            raise DataError(f"{self.name}: {len(entities.ids)} entities have sets and vectors, expected at least 3")
        place = entities.places(frame["query"])
        members = pd.factorize(frame["candidate"])[0]
        matrix = _sets(place[place >= 0], members[place >= 0], len(entities.ids))
        drawn, sharing = sample_pairs(matrix, self.pairs, np.random.default_rng([bench.seed, 3]))
        truth = jaccard(matrix, drawn)
        degrees = self._degrees(bench, matrix, entities.rows)
        said = {
            "task": self.name,
            "kind": "jaccard",
            **entities.protocol,
            "sets": {None: "not said whether trained on", True: "trained on", False: "held out"}[self.known],
            "pairs": f"{int((~sharing).sum())} uniform, {int(sharing.sum())} among those that share a member",
            "ties": "mean ranks",
        }
        return _Trial(self, bench, entities.rows, drawn, sharing, truth, degrees, said).measure

    def _degrees(self, bench: Bench, matrix: sparse.csr_matrix, rows: Ints) -> Degrees:
        """Return what is known best: a frame's degrees, the version's, or the sizes of the sets."""
        table = bench.table(self.table)
        if (given := given_degrees(table, self.degrees)) is not None:
            return given
        try:
            return degrees_of(bench.version, self.table)
        except UnknownDegrees:
            sizes = np.zeros(table.count)
            sizes[rows] = np.diff(matrix.indptr)
            return Degrees(sizes, "the sizes of the sets")


@dataclass(frozen=True, eq=False)
class _Trial:
    task: SetJaccard
    bench: Bench
    rows: Ints
    pairs: Ints  # (P, 2) places of entities
    sharing: NDArray[np.bool_]
    truth: Floats
    degrees: Degrees
    protocol: Mapping[str, Any]

    def measure(self, subject: Subject) -> Outcome:
        """Measure all pairs and both parts."""
        vectors = subject.vectors(self.task.table, self.rows, degrees=self.degrees)
        similarity = _nearness(vectors, self.pairs) if subject.kind == "degree" else cosines(vectors, self.pairs)
        parts: dict[str | None, NDArray[np.bool_]] = {
            None: np.ones(len(self.pairs), np.bool_),
            "uniform pairs": ~self.sharing,
            "pairs that share": self.sharing,
        }
        used = {name: at for name, at in parts.items() if at.sum() > 2}
        ranks = [(at, RankCorrelation.of(similarity[at], self.truth[at])) for at in used.values()]
        left, right = self.pairs.T

        def statistic(weight: Floats) -> Floats:
            of_pair = weight[left] * weight[right]
            return np.array([each.value(of_pair[at]) for at, each in ranks])

        return Outcome.of(
            f"{self.task.name} spearman",
            statistic,
            len(self.rows),
            bench=self.bench,
            groups=list(used),
            counts=[int(at.sum()) for at in used.values()],
            unit="entities, a pair weighing the product of its two",
            protocol={**self.protocol, "vectors": subject.said(self.task.table, degrees=self.degrees)},
        )


@dataclass(frozen=True, eq=False)
class RankCorrelation:
    """Spearman's rank correlation of two columns under any weights; both sorted once. Ties have their mean rank."""

    levels: tuple[Ints, Ints]  # of each row in each column, (P,), ascending from 0

    @classmethod
    def of(cls, a: npt.ArrayLike, b: npt.ArrayLike) -> "RankCorrelation":
        """Sort two columns, (P,) each."""
        first, second = (np.unique(np.asarray(column), return_inverse=True)[1] for column in (a, b))
        return cls((first.astype(np.int64), second.astype(np.int64)))

    def value(self, weight: Floats) -> float:
        """Return the correlation where row p is there ``weight[p]`` times; NaN where a column is one tie."""
        total = weight.sum()
        if not total > 0.0:
            return float("nan")
        centred = []
        for level in self.levels:
            mass = np.bincount(level, weights=weight)
            rank = np.cumsum(mass) - mass / 2.0  # the middle of each tie
            centred.append(rank[level] - total / 2.0)
        a, b = centred
        square = float((weight * a * a).sum() * (weight * b * b).sum())
        return float((weight * a * b).sum() / np.sqrt(square)) if square > 0.0 else float("nan")


def cosines(vectors: NDArray[Any], pairs: Ints) -> Floats:
    """Return the cosine of each pair (P, 2) of vectors (n, D); 0 where a vector is zero."""
    lengths = unit(np.asarray(vectors, np.float64))
    out = np.empty(len(pairs))
    for start in range(0, len(pairs), _CHUNK):
        left, right = pairs[start : start + _CHUNK].T
        out[start : start + _CHUNK] = np.einsum("pd,pd->p", lengths[left], lengths[right])
    return out


def jaccard(matrix: sparse.csr_matrix, pairs: Ints) -> Floats:
    """Return |A and B| / |A or B| of each pair (P, 2) of rows of a 0/1 matrix; no row is empty."""
    sizes = np.diff(matrix.indptr).astype(np.float64)
    shared = _shared(matrix, pairs)
    left, right = pairs.T
    union: Floats = shared / (sizes[left] + sizes[right] - shared)
    return union


def sample_pairs(matrix: sparse.csr_matrix, count: int, rng: np.random.Generator) -> tuple[Ints, NDArray[np.bool_]]:
    """Draw distinct pairs of rows: half uniformly from all, half uniformly from those that share a column.

    Returns:
        Pairs (P, 2), the smaller row first, and which of them are of the second half. A pair may be in both halves.
        Fewer come where there are not so many, or where they are too rare to be found.
    """
    rows = matrix.shape[0]
    total = rows * (rows - 1)  # ordered pairs
    codes = rng.choice(total, min(count, total), replace=False, shuffle=True)
    first, second = np.divmod(codes, rows - 1)
    uniform = _distinct(np.stack([first, second + (second >= first)], axis=1), rows)[: (count + 1) // 2]
    sharing = _sharing_pairs(matrix, count // 2, rng)
    return np.concatenate([uniform, sharing]), np.repeat([False, True], [len(uniform), len(sharing)])


def _sharing_pairs(matrix: sparse.csr_matrix, count: int, rng: np.random.Generator) -> Ints:
    """Draw distinct pairs of rows that share a column: from all of them where they can be listed, else by proposals."""
    by_column = matrix.tocsc()
    sizes = np.diff(by_column.indptr).astype(np.float64)
    weight = sizes * (sizes - 1.0)  # ordered pairs of rows in each column
    if not count or not weight.any():
        return np.zeros((0, 2), np.int64)
    if weight.sum() > _LISTED:
        return _proposed_pairs(matrix, by_column, weight / weight.sum(), count, rng)
    together = sparse.triu(matrix @ matrix.T, k=1).tocoo()
    every = np.stack([together.row, together.col], axis=1).astype(np.int64)
    drawn: Ints = every[rng.permutation(len(every))[:count]]
    return drawn


def _proposed_pairs(
    matrix: sparse.csr_matrix, by_column: sparse.csc_matrix, chance: Floats, count: int, rng: np.random.Generator
) -> Ints:
    """Draw a column and two of its rows, and keep a pair that shares m columns with probability 1 / m."""
    found = np.zeros((0, 2), np.int64)
    for _ in range(_ROUNDS):
        column = rng.choice(len(chance), size=4 * count, p=chance)
        start, size = by_column.indptr[column].astype(np.int64), np.diff(by_column.indptr)[column].astype(np.int64)
        first, second = rng.integers(size), rng.integers(size - 1)
        second += second >= first
        pairs = np.stack([by_column.indices[start + first], by_column.indices[start + second]], axis=1).astype(np.int64)
        kept = pairs[rng.random(len(pairs)) * _shared(matrix, pairs) < 1.0]
        found = _distinct(np.concatenate([found, kept]), matrix.shape[0])
        if len(found) >= count:
            break
    return found[:count]


def _distinct(pairs: Ints, rows: int) -> Ints:
    """Return each unordered pair once, the smaller row first, in the order in which they came."""
    ordered = np.sort(pairs, axis=1)
    _, first = np.unique(ordered[:, 0] * rows + ordered[:, 1], return_index=True)
    kept: Ints = ordered[np.sort(first)]
    return kept


def _shared(matrix: sparse.csr_matrix, pairs: Ints) -> Floats:
    """Return how many columns each pair of rows has in common."""
    out = np.empty(len(pairs))
    for start in range(0, len(pairs), _CHUNK):
        left, right = pairs[start : start + _CHUNK].T
        out[start : start + _CHUNK] = np.asarray(matrix[left].multiply(matrix[right]).sum(axis=1)).ravel()
    return out


def _sets(place: Ints, member: Ints, rows: int) -> sparse.csr_matrix:
    """Return sets as a 0/1 matrix: a row for each entity, a column for each member."""
    width = int(member.max(initial=-1)) + 1
    matrix = sparse.csr_matrix((np.ones(len(place)), (place, member)), shape=(rows, width))
    matrix.data[:] = 1.0  # a member that is named twice is in the set once
    return matrix


def _nearness(log_degrees: NDArray[np.float32], pairs: Ints) -> Floats:
    left, right = pairs.T
    column = log_degrees[:, 0].astype(np.float64)
    nearness: Floats = -np.abs(column[left] - column[right])
    return nearness
