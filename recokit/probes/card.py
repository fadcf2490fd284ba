"""The card of a version: what it is, what it was trained on, what was measured of it, and what that does not say.

Markdown for people, made of the version's manifest and a report of ``run_probes``; nothing in it is measured anew.
"""

__all__ = ["benchmark_rows", "version_card"]

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from recokit.probes.subjects import REFERENCES
from recokit.report import Report, Result, markdown_table
from recokit.table import FeatureTable, Mixture, Version

_KINDS = {
    "topic": "topics predicted",
    "metadata": "metadata predicted",
    "jaccard": "similarity of sets",
    "link": "links found",
    "stability": "neighbours kept",
}
_LIMITS = {  # what a protocol can say that a reader of the numbers has to know
    "coverage": "Coverage",
    "missing_ids": "Ids without a vector",
    "skipped_labels": "Labels left out",
    "without_a_value": "Without a value",
    "sampled": "Sampled",
    "trained_on": "Overlap with training",
    "sets": "Sets",
    "skipped": "Not measured",
    "no_degree": "No baseline of degrees",
}
_RESERVED = ("config", "relations", "history", "edges", "times", "networks", "edge_sketches", "components")


def version_card(version: Version, report: Report) -> str:
    """Write the card of a version in Markdown.

    Args:
        version: The version.
        report: What ``run_probes`` measured of it; reports of several seeds may be joined.
    """
    parts = [
        f"# {version.name}",
        _origin(version),
        "## Tables",
        markdown_table(("table", "entity", "kind", "ids", "dimensions", "comparator"), _tables(version), numbers=False),
        "## Training data",
        _training(version),
        "## Benchmarks",
        *_benchmarks(report),
        "## Limits",
        _limits(report),
    ]
    return "\n\n".join(parts) + "\n"


def benchmark_rows(report: Report) -> list[tuple[str, ...]]:
    """Return head and rows of text: a task's metric and group each, the version beside its baselines.

    A value of the version stands with its interval, or over several seeds with their deviation. An asterisk marks a
    baseline that it does not beat: the interval of the paired difference, the mean of its ends over seeds, does not lie
    above 0.
    """
    subjects = [name for name in dict.fromkeys(row.name for row in report.results) if " - " not in name]
    mine = [name for name in subjects if name not in REFERENCES]
    shown = [*mine, *(name for name in REFERENCES if name in subjects)]
    cells: dict[tuple[str, str, str | None], dict[str, list[Result]]] = {}
    for row in report.results:
        key = (str(row.protocol.get("task", "")), row.metric, row.group)
        cells.setdefault(key, {}).setdefault(row.name, []).append(row)
    first = list(dict.fromkeys((task, metric) for task, metric, _ in cells))
    lines: list[tuple[str, ...]] = [("metric", *shown)]
    for task, metric, group in sorted(cells, key=lambda key: first.index(key[:2])):
        found = cells[task, metric, group]
        label = metric if metric.startswith(task) else f"{task} {metric}"
        label = label if group is None else f"{label} · {group}"
        lines.append((label, *(_cell(found, name, mine) for name in shown)))
    return lines


def _origin(version: Version) -> str:
    since = f"started from **{version.parent}**" if version.parent else "trained from scratch"
    return f"Version {version.name}, made on {version.created.astimezone(UTC):%Y-%m-%d %H:%M} UTC, {since}."


def _tables(version: Version) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, entry in version.tables.items():
        table = version.open(name)
        kind = f"{entry.kind} ({entry.network})" if entry.network else entry.kind
        rows.append((name, entry.entity, kind, f"{table.count:,}", _dimensions(table), table.comparator))
    return rows


def _dimensions(table: FeatureTable) -> str:
    return f"{table.num_components} x {table.dim}" if isinstance(table, Mixture) else str(table.dim)


def _training(version: Version) -> str:
    networks = version.meta.get("networks")
    recorded = networks if isinstance(networks, Mapping) else {"": version.meta}
    parts = []
    for network, meta in recorded.items():
        lines = [f"Network **{network}**:"] if network else []
        lines += [f"- {line}" for line in _recorded(meta)]
        parts.append("\n".join(lines) if lines else "")
    others = {key: value for key, value in version.meta.items() if key not in _RESERVED and _is_plain(value)}
    parts.append("\n".join(f"- {key}: {_flat(value)}" for key, value in others.items()))
    text = "\n\n".join(part for part in parts if part)
    return text or "The version does not say what it was trained on."


def _recorded(meta: Mapping[str, Any]) -> list[str]:
    """What training records of itself: settings, edges by relation with their times, sources and splits."""
    lines = []
    edges, times = meta.get("edges"), meta.get("times", {})
    if isinstance(edges, Mapping):
        for relation, count in edges.items():
            span = times.get(relation) if isinstance(times, Mapping) else None
            lines.append(
                f"`{relation}`: {_number(count)} edges"
                + (f", from {_time(span[0])} to {_time(span[1])}" if span else "")
            )
    for entry in meta.get("history", ()):
        if isinstance(entry, Mapping):
            lines += [f"{key}: {_flat(value)}" for key, value in entry.items()]
    config = meta.get("config")
    if isinstance(config, Mapping):
        lines.append(
            "settings: " + ", ".join(f"{key} {_flat(value)}" for key, value in config.items() if value is not None)
        )
    return lines


def _benchmarks(report: Report) -> list[str]:
    if not report.results:
        return ["Nothing was measured."]
    rows = benchmark_rows(report)
    seeds = {row.seed for row in report.results}
    spread = f"the mean over {len(seeds)} seeds ± their standard deviation" if len(seeds) > 1 else "a 95 % interval"
    reading = (
        f"The version's own values stand with {spread}. Beside them what needs no training: random vectors, the degree "
        "alone, and the version's vectors given to other ids. An asterisk marks a baseline that the version does not "
        "beat: the interval of the paired difference is not above 0."
    )
    return [reading, markdown_table(rows[0], rows[1:])]


def _cell(found: Mapping[str, Sequence[Result]], name: str, mine: Sequence[str]) -> str:
    rows = found.get(name, [])
    if not rows:
        return ""
    value = sum(row.value for row in rows) / len(rows)
    if name in REFERENCES:
        return f"{value:.3f}" + ("" if all(_beaten(found.get(f"{each} - {name}", [])) for each in mine) else " *")
    if math.isnan(value):
        return "not measured"
    if len(rows) > 1:
        deviation = math.sqrt(sum((row.value - value) ** 2 for row in rows) / (len(rows) - 1))
        return f"{value:.3f} ± {deviation:.3f}"
    low, high = rows[0].low, rows[0].high
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _beaten(differences: Sequence[Result]) -> bool:
    """Whether the interval of a difference lies above 0; without intervals, whether the difference does."""
    if not differences:
        return True
    ends = [row.value if row.low is None else row.low for row in differences]
    return sum(ends) / len(ends) > 0.0


def _limits(report: Report) -> str:
    """Return what a reader of the numbers has to know, task by task; of several versions, of which one."""
    found: dict[str, dict[str, list[str]]] = {}  # by task and what is said, of whom
    rows = [row for row in report.results if row.name not in REFERENCES and " - " not in row.name]
    for row in rows:
        said = " ".join(f"{_LIMITS[key]}: {row.protocol[key]}." for key in _LIMITS if key in row.protocol)
        kind = _KINDS.get(str(row.protocol.get("kind")), str(row.protocol.get("kind", "own task")))
        if said:
            task = f"{row.protocol.get('task', row.metric)} ({kind})"
            found.setdefault(task, {}).setdefault(said, []).append(row.name)
    several = len({row.name for row in rows}) > 1
    lines = [
        f"- {task}{', ' + ', '.join(dict.fromkeys(names)) if several else ''}. {said}"
        for task, texts in found.items()
        for said, names in texts.items()
    ]
    lines.append(
        "- A linear probe says what a linear layer can read; a ranker may find more, and a value of one task says "
        "nothing of another."
    )
    return "\n".join(lines)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool)) or (isinstance(value, (list, dict)) and len(str(value)) < 400)


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(each)}" for key, each in value.items())
    return ", ".join(map(_flat, value)) if isinstance(value, list) else str(value)


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _time(value: Any) -> str:
    """Show microseconds or seconds since 1970 as a date, another number as it is."""
    if isinstance(value, int) and value > 10**14:
        return f"{datetime.fromtimestamp(value / 1e6, UTC):%Y-%m-%d}"
    if isinstance(value, (int, float)) and 10**8 < value < 10**11:
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d}"
    return str(value)
