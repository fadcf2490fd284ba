"""The rows of a drift report that are about one table: each for all common ids, then for each tenth by degree."""

__all__ = ["Compared"]

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.drift.common import TablePair, Tenth, degrees_of, pair_tables, tenths_of
from recokit.drift.deviation import determines_rotation, deviations, fit_rotation, residuals
from recokit.drift.mixtures import match_components
from recokit.index.scoring import Rows
from recokit.metrics import bootstrap_mean
from recokit.report import Result
from recokit.table import PQTable, Version

_LEAST = 100  # ids, for tenths of ten


@dataclass(frozen=True, eq=False)
class Compared:
    """A table of both versions, its tenths, and what the protocol of every row says of it."""

    pair: TablePair
    tenths: list[Tenth]  # none of few ids, or where the old version keeps no degrees
    said: dict[str, Any]

    @classmethod
    def of(cls, old: Version, new: Version, name: str) -> "Compared":
        """Open a table of both versions."""
        pair = pair_tables(old, new, name)
        degrees = degrees_of(old, pair) if pair.count else None
        said: dict[str, Any] = {"old": old.name, "new": new.name, "entity": pair.old.entity, "table": _described(pair)}
        if pair.apart is not None:
            said["not compared"] = pair.apart
            return cls(pair, [], said)
        if degrees is None:
            said["degrees"] = f"version {old.name} keeps none of these ids"
        elif pair.count < _LEAST:
            said["degrees"] = f"{pair.count} common ids are too few for tenths, which take {_LEAST}"
        if not pair.same_space:
            said["vectors"] = f"dim {pair.old.dim}, then {pair.new.dim}: neither difference nor rotation"
        elif not determines_rotation(pair):
            said["no rotation"] = f"{pair.count} common ids do not determine a rotation of {pair.old.dim} dimensions"
        return cls(pair, [] if degrees is None or pair.count < _LEAST else tenths_of(degrees), said)

    def ids(self) -> list[Result]:
        """Count whom both know; say whether codes share a codebook."""
        pair = self.pair
        kept, added, removed = pair.count, pair.new.count - pair.count, pair.old.count - pair.count
        counted = {
            "ids kept": float(kept),
            "ids added": float(added),
            "ids removed": float(removed),
            "added share": added / max(1, pair.new.count),
            "removed share": removed / max(1, pair.old.count),
        }
        if isinstance(pair.old, PQTable) and isinstance(pair.new, PQTable):
            counted["same codebook"] = float(pair.old.codebook_sha256 == pair.new.codebook_sha256)
        protocol = {**self.said, "shares": "added of the new version's ids, removed of the old one's"}
        return [Result(pair.name, metric, value, protocol=protocol) for metric, value in counted.items()]

    def deviations(self) -> Iterator[Result]:
        """Yield medians, means and quantiles of what each id's vector, or mixture, did."""
        measured = deviations(self.pair) | match_components(self.pair)
        how = {"statistic": "median over ids, or what the metric's name says", "relative": "to the old vector"}
        for group, members, said in self._groups(how):
            for metric, values in measured.items():
                yield from self._spread(metric, values[members], group, said)

    def rotation(self, seed: int) -> Iterator[Result]:
        """Yield what is left of the deviation after the best rotation; nothing where the ids do not determine one."""
        if not determines_rotation(self.pair):
            return
        rotation = fit_rotation(self.pair, seed=seed)
        left = residuals(self.pair, rotation)
        fitted = int(rotation.fitted.sum())
        how = {
            "rotation": f"orthogonal Procrustes, {'centred' if rotation.centred else 'about the origin'}, fitted on "
            f"{fitted} ids and measured on the others"
        }
        for group, members, said in self._groups(how):
            mine = members[~rotation.fitted[members]]
            if not mine.size:
                continue
            whole = float(left.whole[mine].sum())
            for metric, squares in (("unrotated residual", left.unrotated), ("procrustes residual", left.rotated)):
                value = float(np.sqrt(squares[mine].sum() / whole)) if whole else float("nan")
                yield self._row(metric, value, group, said, n=mine.size)
            median, n = _median(left.cosine[mine])
            yield self._row("procrustes cosine", median, group, said, n=n)

    def overlaps(
        self, metric: str, sampled: Rows, kept: NDArray[np.float64] | None, among: str, seed: int
    ) -> Iterator[Result]:
        """Yield means of shares (Q,) of sampled ids, with bootstrap intervals over ids."""
        if kept is None:
            return
        how = {"neighbors": among, "ties": "any ids that tie for the old list's last place"}
        for group, members, said in self._groups(how):
            mine = kept[np.isin(sampled, members)]
            if mine.size:
                value, low, high = bootstrap_mean(mine, seed=seed)
                yield self._row(metric, value, group, said, n=mine.size, low=low, high=high)

    def _groups(self, how: dict[str, Any]) -> Iterator[tuple[str | None, Rows, dict[str, Any]]]:
        """Yield all ids, then each tenth: its name, its members, what the protocol says; ``how`` of all ids alone."""
        yield None, np.arange(self.pair.count), {**self.said, **how}
        for tenth in self.tenths:
            yield tenth.label, tenth.members, {**self.said, **tenth.protocol}

    def _spread(
        self, metric: str, values: NDArray[np.float64], group: str | None, said: dict[str, Any]
    ) -> Iterator[Result]:
        known = values[~np.isnan(values)]
        found = dict.fromkeys(("", " mean", " p5", " p95"), float("nan"))
        if known.size:
            low, median, high = np.quantile(known, (0.05, 0.5, 0.95)).tolist()
            found = {"": median, " mean": float(known.mean()), " p5": low, " p95": high}
        for ending, value in found.items():
            yield self._row(f"{metric}{ending}", value, group, said, n=known.size)

    def _row(
        self,
        metric: str,
        value: float,
        group: str | None,
        said: dict[str, Any],
        *,
        n: int,
        low: float | None = None,
        high: float | None = None,
    ) -> Result:
        return Result(self.pair.name, metric, value, low=low, high=high, n=n, group=group, protocol=said)


def _described(pair: TablePair) -> str:
    both = [(table.kind, f"dim {table.dim}", table.comparator) for table in (pair.old, pair.new)]
    return ", ".join(" then ".join(dict.fromkeys(each)) for each in zip(*both, strict=True))


def _median(values: NDArray[np.float64]) -> tuple[float, int]:
    known = values[~np.isnan(values)]
    return (float(np.median(known)) if known.size else float("nan")), int(known.size)
