"""What a frozen ranker says when it is fed a later version: nobody retrains every consumer the night vectors change.

The ranker scores the same impressions twice, with the tables that it was trained with and with the later version's in
their place. A table is replaced by the one of its name where the old version has it, else by the only one of its kind
and entity type, or, of several, by the one that is called as its folder; what is in neither version stays, and so does
what the ranker trained further (usage ``init``).

This is the one module of the package that imports torch, when it is asked.

Shapes: n impressions, T labels, G groups.
"""

__all__ = ["load_own", "score_shift"]

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logit
from scipy.stats import rankdata

from recokit.errors import DataError, VersionError
from recokit.evaluate.measured import LEVEL
from recokit.evaluate.scored import score
from recokit.metrics import bootstrap_mean, bootstrap_samples, interval
from recokit.report import Result
from recokit.table import FeatureTable, Version

if TYPE_CHECKING:
    from recokit.features import FeatureSpec
    from recokit.rankers import Ranker

_SAMPLES = 1000
_FURTHEST = float(logit(1 - np.finfo(np.float64).eps))  # a probability of 1 has a logit of infinity
_COMPARED = {"probabilities": ("rce", "auc"), "scores": ("auc",)}


def score_shift(
    old: Version, new: Version, ranker: "Ranker | str | Path", impressions: pd.DataFrame, *, k: int = 10, seed: int = 0
) -> list[Result]:
    """Compare a ranker's scores of impressions with its own tables and with those of ``new``.

    Args:
        old: The version that the ranker was trained with, or another; its tables' names say what takes their place.
        new: The later version.
        ranker: A fitted ranker, or the folder of one.
        impressions: Rows with its features; with its labels too, RCE and AUC are compared.
        k: Of the share of each group's first ``k`` that stay.
        seed: Of the bootstrap.

    Raises:
        DataError: There are no rows, or ``new`` has no table that the ranker could be fed.
        VersionError: The ranker's tables are nowhere, or ``new`` has several that could take one's place.
    """
    if impressions.empty:
        raise DataError("there are no impressions to score")
    own = load_own(ranker, old)
    fed, exchanged = _fed(own, old, new)
    name = ranker.kind if not isinstance(ranker, str | Path) else Path(ranker).name
    spec = own.features
    coverage = {
        key: [share, fed.features.coverage(impressions)[key]] for key, share in spec.coverage(impressions).items()
    }
    protocol = {
        "old": old.name,
        "new": new.name,
        "ranker": f"{own.kind}, frozen; the same impressions with both versions' tables",
        "tables": exchanged,
        "known ids, old and new": coverage,
    }
    before, after = (_columns(each.predict(impressions)) for each in (own, fed))  # (n, T)
    grouped = spec.group if spec.group in impressions.columns else None
    groups = None if grouped is None else impressions[grouped]
    results: list[Result] = []
    for number, label in enumerate(spec.labels):
        group = label if len(spec.labels) > 1 else None
        shift = _Shift(before[:, number], after[:, number], own.predicts, groups)
        rows = list(shift.rows(min(k, len(impressions)), seed))
        results += [
            Result(name, f"score shift {row.metric}", *row.interval, n=row.n, group=group, protocol=protocol)
            for row in rows
        ]
    if set(spec.labels) <= set(impressions.columns):
        judged = _against_labels(own, (before, after), impressions, protocol)
        results += [replace(row, name=name, metric=f"score shift {row.metric}") for row in judged]
    return results


def load_own(ranker: "Ranker | str | Path", old: Version) -> "Ranker":
    """Load a ranker with the tables that it was trained with: those of ``old``, or those that lie where they were."""
    from recokit.rankers import load_ranker

    if not isinstance(ranker, str | Path):
        return ranker
    try:
        return load_ranker(ranker, old)
    except VersionError:
        return load_ranker(ranker)  # trained with another version, or with tables of none


@dataclass(frozen=True)
class _Row:
    metric: str
    interval: tuple[float, float | None, float | None]
    n: int


@dataclass(frozen=True, eq=False)
class _Shift:
    """One label's scores of n impressions, before and after."""

    before: NDArray[np.float64]  # (n,)
    after: NDArray[np.float64]
    predicts: Literal["probabilities", "scores"]
    groups: "pd.Series[Any] | None"

    def rows(self, k: int, seed: int) -> Iterator[_Row]:
        """Yield each metric with its interval; whole groups are resampled where there are."""
        columns = self._differences()
        n = len(self.before)
        values = np.stack(list(columns.values()), axis=1)  # (n, M)
        drawn = bootstrap_samples(
            lambda weight: np.einsum("i,im->m", weight, values) / weight.sum(),
            n,
            groups=self.groups,
            samples=_SAMPLES,
            seed=seed,
        )
        for metric, value, own in zip(columns, values.mean(axis=0).tolist(), drawn.T, strict=True):
            yield _Row(metric, interval(value, own, level=LEVEL), n)
        yield _Row("spearman", (_spearman(self.before, self.after), None, None), n)
        if self.groups is not None:
            kept = _kept_in_groups(self.before, self.after, self.groups, k)
            if len(kept):
                yield _Row(f"top@{k} overlap", bootstrap_mean(kept, seed=seed), len(kept))

    def _differences(self) -> dict[str, NDArray[np.float64]]:
        moved = self.after - self.before
        if self.predicts == "scores":
            return {"|score|": np.abs(moved), "mean score": moved}
        logits = np.clip(logit(self.after), -_FURTHEST, _FURTHEST) - np.clip(logit(self.before), -_FURTHEST, _FURTHEST)
        return {"|p|": np.abs(moved), "|logit|": np.abs(logits), "mean p": moved}


def _against_labels(
    ranker: "Ranker",
    predicted: tuple[NDArray[np.float64], NDArray[np.float64]],
    frame: pd.DataFrame,
    protocol: Mapping[str, Any],
) -> list[Result]:
    """Return RCE and AUC before, after, and their difference on the same resamples, for each label."""
    spec, wanted = ranker.features, _COMPARED[ranker.predicts]
    group, weight = (each if each in frame.columns else None for each in (spec.group, spec.weight))
    scored = (
        score(
            frame,
            each if each.shape[1] > 1 else each[:, 0],
            label=spec.labels if each.shape[1] > 1 else spec.labels[0],
            group=group,
            weight=weight,
            kind=ranker.predicts,
        )
        for each in predicted
    )
    results: list[Result] = []
    for (label, first, added), (_, second, _) in zip(*scored, strict=True):
        old, new = first.measure(_SAMPLES, wanted), second.measure(_SAMPLES, wanted)
        said = {**protocol, **first.protocol(_SAMPLES), **added}
        for what, measured in (("old", old), ("new", new), ("change", new - old)):
            found = measured.results(ranker.kind, protocol=said, seed=None, group=label)
            results += [replace(row, metric=f"{row.metric} {what}") for row in found]
    return results


def _fed(own: "Ranker", old: Version, new: Version) -> tuple["Ranker", dict[str, str]]:
    """Return the same ranker over the new version's tables, and which table took which one's place."""
    from recokit.rankers.checkpoint import KINDS

    exchanged: dict[int, FeatureTable] = {}
    said: dict[str, str] = {}
    for table in own.features.tables:
        taken = _replacement(table, old, new)
        what = f"{table.entity} ({table.kind}) of {table.version}"
        said[what] = "stays" if taken is None else f"{taken} of {new.name}"
        if taken is not None:
            exchanged[id(table)] = new.open(taken)
    if not exchanged:
        raise DataError(
            f"version {new.name!r} has none of the tables that the ranker reads: {', '.join(said)}; it has "
            f"{', '.join(new.tables) or 'none'}"
        )
    fed = KINDS[own.kind](_with_tables(own.features, exchanged), **own.settings)
    try:
        fed.load_state_dict(own.state_dict())
    except RuntimeError as error:
        raise VersionError(f"the ranker does not fit the tables of version {new.name!r}: {error}") from error
    return fed.to(own.bias.device).eval(), said


def _replacement(table: FeatureTable, old: Version, new: Version) -> str | None:
    """Return the name of the new version's table that takes a table's place, or None where there is none."""
    known = [
        name
        for name, entry in old.tables.items()
        if (entry.kind, entry.entity) == (table.kind, table.entity)
        and name in new.tables
        and new.tables[name].kind == table.kind
        and (old.name, old.open(name).fingerprint) == (table.version, table.fingerprint)
    ]
    if known:
        return known[0]
    alike = [name for name, entry in new.tables.items() if (entry.kind, entry.entity) == (table.kind, table.entity)]
    if len(alike) > 1 and table.path is not None and table.path.name in alike:
        return table.path.name  # of a version before the old one: networks of one entity have several
    if len(alike) > 1:
        raise VersionError(
            f"the ranker reads {table.kind} {table.entity!r} of version {table.version!r}, which is not among those of "
            f"version {old.name!r}; in version {new.name!r} {', '.join(alike)} could take its place"
        )
    return alike[0] if alike else None


def _with_tables(spec: "FeatureSpec", exchanged: Mapping[int, FeatureTable]) -> "FeatureSpec":
    return replace(
        spec,
        pretrained=[
            feature
            if feature.usage == "init"  # trained further, row by row: no longer the version's
            else replace(feature, table=exchanged.get(id(feature.table), feature.table))
            for feature in spec.pretrained
        ],
        bags=[bag if bag.table is None else replace(bag, values=exchanged.get(id(bag.table), bag.table))
              for bag in spec.bags],
    )  # fmt: skip


def _kept_in_groups(
    before: NDArray[np.float64], after: NDArray[np.float64], groups: "pd.Series[Any]", k: int
) -> NDArray[np.float64]:
    """Return the share (G,) of each group's first ``k`` that stay, of groups with more rows than that."""
    code = pd.factorize(groups)[0]
    counts = np.bincount(code)
    first = []
    for scores in (before, after):
        order = np.lexsort((-scores, code))  # stable: tied rows in their order, the same before and after
        place = np.empty(len(code), np.int64)
        place[order] = np.arange(len(code)) - np.repeat(np.cumsum(counts) - counts, counts)
        first.append(place < k)
    kept = np.bincount(code, weights=first[0] & first[1], minlength=len(counts))
    return kept[counts > k] / k


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    x, y = (rankdata(each) - (len(each) + 1) / 2 for each in (a, b))
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else float("nan")


def _columns(predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    return predicted[:, None] if predicted.ndim == 1 else predicted
