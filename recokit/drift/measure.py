"""Measuring drift: every table that two versions share, their relations, and a ranker if one is given, as one report.

Rows are named by their table; ``group`` is None for all ids, and ``degree 8 to 15`` for a tenth of them by their degree
in the old version, whose protocol says ``tenth``, ``degree_low``, ``degree_median`` and ``degree_high``. Deviations
are of all common ids, so that they have no interval; neighbours are those of a sample.

    ids kept, ids added, ids removed, added share, removed share      whom the two versions know
    l2, relative l2, cosine            medians; with mean, p5 or p95 behind them, those
    unrotated residual, procrustes residual, procrustes cosine        of the ids that no rotation was fitted on
    overlap@10, follows overlap@10     share of neighbours, or of a relation's best targets, that are kept
    component cosine, weight shift     of mixtures; the vectors of their other rows are weighted means
    same codebook                      of codes: 1 or 0; their vectors are decoded ones
    relative change                    of a relation's parameters; name "relations", group the relation
    score shift ...                    of a ranker, whose name these rows have
"""

__all__ = ["measure_drift"]

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recokit.drift.common import TablePair, common_tables
from recokit.drift.compared import Compared
from recokit.drift.neighbors import kept_neighbors, kept_targets
from recokit.drift.relations import relation_changes
from recokit.errors import ConfigError, DataError
from recokit.index.scoring import Rows, check_k
from recokit.index.settings import check_settings
from recokit.report import Report, Result, gather_provenance
from recokit.table import RelationParameters, Version

if TYPE_CHECKING:
    import pandas as pd

    from recokit.rankers import Ranker


def measure_drift(
    old: Version,
    new: Version,
    *,
    tables: Sequence[str] | None = None,
    k: int = 10,
    sample: int = 2000,
    ranker: "Ranker | str | Path | None" = None,
    impressions: "pd.DataFrame | None" = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure what changed between two versions, on the ids that both have (TwHIN 7.2, Fig. 4c).

    Vectors of another length have neither a difference nor a rotation: of such a table only ids and neighbours are
    reported, and the protocol says so. Of a table that shares no id only ids are. Half of the ids have to be more than
    the dimensions for a rotation, and all of them 100 for tenths. A table is read in blocks; exact search of 2,000 ids
    takes most of the time.

    Args:
        old: The earlier version, whose degrees make the tenths, if it keeps any (those that ``pretrain`` exports do).
        new: The later version.
        tables: Those to compare; all that both have, but the components of mixtures, where not given.
        k: Neighbours of an id.
        sample: How many ids are asked for their neighbours, at most; the same for every table.
        ranker: A fitted ranker, or its folder, that is to be fed the new version.
        impressions: What the ranker scores.
        seed: Of the sample, the halves of the rotation, and the bootstrap.
        progress: Called with how many steps are done, and of how many.

    Raises:
        ConfigError: A table that was asked for does not exist; one of ``ranker`` and ``impressions`` is missing.
        DataError: There is no common table, or none that has a common id.
    """
    check_settings({"sample": sample})
    if (ranker is None) != (impressions is None):
        raise ConfigError("a ranker and the impressions that it scores go together: one of them is missing")
    names = common_tables(old, new, tables)
    work = _Work(old, new, check_k(k), sample, seed)
    steps: list[Callable[[], list[Result]]] = []
    if not any(work.of(name).pair.count for name in names):
        raise DataError("; ".join(f"table {name!r}: {work.of(name).pair.apart}" for name in names))
    for name in names:
        steps += work.parts(name)
    steps.append(work.relations)
    if ranker is not None and impressions is not None:
        from recokit.drift.ranker import score_shift

        steps.append(lambda: score_shift(old, new, ranker, impressions, k=k, seed=seed))
    results: list[Result] = []
    for done, step in enumerate(steps, start=1):
        results += step()
        if progress is not None:
            progress(done, len(steps))
    data = {f"{version.name} {name}": version.open(name).fingerprint for version in (old, new) for name in names}
    return Report(results, gather_provenance(data))


@dataclass(frozen=True, eq=False)
class _Work:
    """The settings of a comparison, and the tables that are open."""

    old: Version
    new: Version
    k: int
    sample: int
    seed: int
    opened: dict[str, Compared] = field(default_factory=dict)

    def parts(self, name: str) -> list[Callable[[], list[Result]]]:
        """Return the steps of a table: ids, deviations, the rotation, neighbours by each way."""
        compared = self.of(name)
        steps: list[Callable[[], list[Result]]] = [compared.ids]
        if not compared.pair.count:
            return steps
        if compared.pair.same_space:
            steps += [lambda: list(compared.deviations()), lambda: list(compared.rotation(self.seed))]
        steps.append(lambda: self.neighbors(compared))
        for relations in self._relations_from(name):
            steps.append(lambda relations=relations: self.targets(compared, relations))  # type: ignore[misc]
        return steps

    def of(self, name: str) -> Compared:
        """Open a table of both versions, once."""
        if name not in self.opened:
            self.opened[name] = Compared.of(self.old, self.new, name)
        return self.opened[name]

    def neighbors(self, compared: Compared) -> list[Result]:
        sampled = self._sampled(compared.pair)
        kept = kept_neighbors(compared.pair, sampled, self.k)
        among = f"nearest others among the {compared.pair.count} ids of both versions, exact search in each"
        return list(compared.overlaps(f"overlap@{self.k}", sampled, kept, among, self.seed))

    def targets(self, compared: Compared, relations: tuple[RelationParameters, RelationParameters]) -> list[Result]:
        name = relations[0].name
        found = self.of(str(self.old.table_of(name, "target")))
        sampled = self._sampled(compared.pair)
        kept = kept_targets(compared.pair, found.pair, relations, sampled, self.k)
        among = f"best targets of {name} among the {found.pair.count} ids of both versions, exact search in each"
        return list(compared.overlaps(f"{name} overlap@{self.k}", sampled, kept, among, self.seed))

    def relations(self) -> list[Result]:
        """Return how far each relation's parameters moved."""
        changes, without = relation_changes(self.old, self.new)
        protocol: dict[str, Any] = {"old": self.old.name, "new": self.new.name, "change": "|p - p'| / |p|"}
        if without:
            protocol["not compared"] = without
        return [
            Result("relations", "relative change", value, group=name, protocol=protocol)
            for name, value in changes.items()
        ]

    def _relations_from(self, table: str) -> Iterator[tuple[RelationParameters, RelationParameters]]:
        """Yield the relations of both versions whose sources are in a table; of two directions, the first."""
        seen: set[str | None] = set()
        for name, before in self.old.relations.items():
            if before.reciprocal in seen or name not in self.new.relations:
                continue
            seen.add(name)
            ends = {
                tuple(version.table_of(name, side) for side in ("source", "target")) for version in (self.old, self.new)
            }
            source, target = ends.pop()
            if not ends and source == table and target is not None:
                yield before, self.new.relations[name]

    def _sampled(self, pair: TablePair) -> Rows:
        drawn = np.random.default_rng(self.seed).choice(pair.count, min(self.sample, pair.count), replace=False)
        return np.sort(drawn)
