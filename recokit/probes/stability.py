"""How many of an entity's nearest neighbours are the same in another version: the next night's, or another seed's.

Shapes: n ids that both versions have, Q of them asked, k neighbours.
"""

__all__ = ["NeighborStability"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError
from recokit.index import ExactIndex, Pairs
from recokit.metrics.arrays import Floats, Ints, at_least_one
from recokit.probes.subjects import plain_vectors, said_of_table
from recokit.probes.task import Bench, Measure, Outcome, Skipped, Subject
from recokit.table import Comparator, EmbeddingTable


@dataclass(frozen=True)
class NeighborStability:
    """Share of the k nearest neighbours of an id that are also its k nearest in the previous version.

    Neighbours are found by exact search with the table's own comparator, without its bias, among the ids that both
    versions have, so that newcomers push nobody out. To compare two seeds or two halves of the data, give the one as
    the version and the other as ``previous``.

    Attributes:
        name: What the report calls it; the metric is ``"<name>@<k>"``, its ``group`` the table.
        table: A table that both versions have.
        k: Neighbours of each id.
        queries: Ids asked, drawn by the seed.
        among: Ids searched at most, drawn by the seed.
    """

    name: str
    table: str
    k: int = 10
    queries: int = 2000
    among: int = 100_000

    def __post_init__(self) -> None:
        for value, what in ((self.k, "k"), (self.queries, "queries"), (self.among, "among")):
            at_least_one(value, what)
        if self.among <= self.k:
            raise ConfigError(f"{self.name}: among is {self.among}, expected more than k, {self.k}")

    def prepare(self, bench: Bench) -> Measure | Skipped:
        """Match the ids of both versions and find the previous neighbours."""
        said: dict[str, Any] = {"task": self.name, "kind": "stability", "table": self.table}
        if bench.previous is None:
            return Skipped(f"{self.name}@{self.k}", "there is no previous version", self.table, said)
        if self.table not in bench.previous.tables:
            why = f"the previous version, {bench.previous.name}, has no table {self.table!r}"
            return Skipped(f"{self.name}@{self.k}", why, self.table, said)
        new, old = bench.table(self.table), bench.previous.open(self.table)
        old_rows = old.rows(new.ids)
        common = np.flatnonzero(old_rows >= 0)
        if len(common) <= self.k:
            raise DataError(
                f"{self.name}: {len(common)} of the {new.count} ids of {self.table!r} are in version "
                f"{bench.previous.name!r} too, expected more than k, {self.k}"
            )
        rng = np.random.default_rng([bench.seed, 4])
        shared = f"{len(common)} of {new.count} ids are in both versions"
        if len(common) > self.among:
            common = np.sort(rng.choice(common, self.among, replace=False))
            shared += f", {len(common)} of them searched"
        asked = np.sort(rng.choice(len(common), min(self.queries, len(common)), replace=False))
        before = _nearest(plain_vectors(old, old_rows[common]), asked, self.k, old.comparator)
        said |= {
            "previous": f"version {bench.previous.name}, {said_of_table(self.table, old)}",
            "coverage": shared,
            "neighbors": "exact search, without the id itself; ties in the order of rows",
        }
        return _Trial(self, bench, common, asked, before, said).measure


@dataclass(frozen=True, eq=False)
class _Trial:
    task: NeighborStability
    bench: Bench
    rows: Ints  # (n,)
    asked: Ints  # (Q,) places among them
    before: Ints  # (Q, k) places of the previous neighbours
    protocol: Mapping[str, Any]

    def measure(self, subject: Subject) -> Outcome:
        """Find the neighbours of a subject and count those that were there before."""
        table, k = self.task.table, self.task.k
        now = _nearest(subject.vectors(table, self.rows), self.asked, k, subject.comparator(table))
        return Outcome.mean(
            f"{self.task.name}@{k}",
            shared_share(now, self.before),
            bench=self.bench,
            group=table,
            unit="ids",
            protocol={**self.protocol, "vectors": subject.said(table)},
        )


def shared_share(a: Ints, b: Ints) -> Floats:
    """Return the share (Q,) of the k numbers of each row of ``a`` that are also in that row of ``b``, both (Q, k)."""
    both = np.sort(np.concatenate([a, b], axis=1), axis=1)  # within a row of either, no number is there twice
    share: Floats = (both[:, 1:] == both[:, :-1]).sum(axis=1) / a.shape[1]
    return share


def _nearest(vectors: NDArray[np.float32], asked: Ints, k: int, comparator: Comparator) -> Ints:
    table = EmbeddingTable.from_arrays(
        np.arange(len(vectors)), vectors, entity="neighbor", version="probe", comparator=comparator
    )
    own = Pairs.of(np.arange(len(asked)), asked, num_queries=len(asked), num_rows=len(vectors))
    return ExactIndex.build(table).search(vectors[asked], k, exclude=own)[0]
