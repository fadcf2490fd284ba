"""What the runs of an ablation say: values over seeds, and paired differences to the baseline.

The difference of a set is its mean over seeds minus the baseline's, and its interval is that of this very number under
resamples of the test rows (of whole groups where there are): the mean over seeds is taken inside each resample. It
says what the choice of test rows leaves open; how much the seeds do, the deviation beside the values says, and how many
seeds have an interval of their own that excludes 0.
"""

__all__ = ["compare_sets"]

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from recokit.ablation.result import Ablation, Cell
from recokit.evaluate.measured import Measured, mean_of
from recokit.report import Report, Result, gather_provenance

# (ranker, set) to part to one for each seed
Runs: TypeAlias = Mapping[tuple[str, str], Mapping[str | None, Sequence[Measured]]]


def compare_sets(
    runs: Runs,
    *,
    sets: Mapping[str, Sequence[str]],
    always: Sequence[str],
    baseline: str,
    seeds: Sequence[int],
    protocol: Mapping[str | None, Mapping[str, Any]],
    leaks: Sequence[str],
    data: Mapping[str, str] | None = None,
) -> Ablation:
    """Make an Ablation of measured runs.

    Args:
        runs: What was measured, in the order of the tables.
        sets: The name of each set to the features that it adds.
        always: The features that every set has.
        baseline: One of the sets.
        seeds: Of the runs.
        protocol: How each part was measured.
        leaks: Warnings to be kept.
        data: Hashes of the data, for the provenance.
    """
    results: list[Result] = []
    cells: list[Cell] = []
    for (ranker, name), parts in runs.items():
        base = runs[ranker, baseline]
        title = f"{ranker}: {name}" if ranker else name
        for part, measured in parts.items():
            said = {**protocol[part], "adds": ", ".join(sets[name]) or "nothing"}
            differences = [mine - other for mine, other in zip(measured, base[part], strict=True)]
            mean = mean_of(differences)
            for seed, each in zip(seeds, measured, strict=True):
                results += each.results(title, protocol=said, seed=seed, group=part)
            if name != baseline:
                results += _difference_rows(f"{title} - {baseline}", part, seeds, (differences, mean), said)
            cells += _cells(ranker, part, name, measured, (differences, mean))
    chosen = {name: tuple(features) for name, features in sets.items()}
    report = Report(results, gather_provenance(data))
    return Ablation(report, chosen, tuple(always), baseline, tuple(seeds), _in_rows(cells), tuple(leaks))


def _difference_rows(
    name: str,
    part: str | None,
    seeds: Sequence[int],
    differences: tuple[Sequence[Measured], Measured],
    said: Mapping[str, Any],
) -> list[Result]:
    """Rows of a report: the paired difference of each seed, then their mean, which has its own name."""
    each, mean = differences
    paired = {**said, "difference": "paired"}
    rows = []
    for seed, difference in zip(seeds, each, strict=True):
        rows += difference.results(name, protocol=paired, seed=seed, group=part)
    averaged = {**paired, "mean": f"over {len(seeds)} seeds, inside each resample"}
    for row, beyond in zip(
        mean.results(f"{name}, mean", protocol=averaged, seed=None, group=part), _beyond(each), strict=True
    ):
        row.protocol["seeds_whose_interval_excludes_0"] = beyond
        rows.append(row)
    return rows


def _cells(
    ranker: str,
    part: str | None,
    name: str,
    measured: Sequence[Measured],
    differences: tuple[Sequence[Measured], Measured],
) -> list[Cell]:
    each, mean = differences
    values, by_seed = (np.stack([run.values for run in runs], axis=1).tolist() for runs in (measured, each))
    return [
        Cell(ranker, part, metric, name, tuple(own), tuple(differing), *interval, seeds_beyond=beyond)
        for metric, own, differing, interval, beyond in zip(
            mean.metrics, values, by_seed, mean.intervals(), _beyond(each), strict=True
        )
    ]


def _beyond(differences: Sequence[Measured]) -> list[int]:
    """Count, for each metric, the runs whose interval excludes 0."""
    runs = zip(*(difference.intervals() for difference in differences), strict=True)
    return [sum(low > 0.0 or high < 0.0 for _, low, high in run) for run in runs]


def _in_rows(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Order cells as the tables do: the sets of a ranker, part and metric side by side."""
    rows: dict[tuple[str, str | None, str], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.ranker, cell.part, cell.metric), []).append(cell)
    return tuple(cell for row in rows.values() for cell in row)
