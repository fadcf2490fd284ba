"""The card of a version: what it is, the bounds that it kept, and the figures to look at first."""

__all__ = ["Card", "Gate", "Measured", "Tile", "make_card"]

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from recokit.page.benchmarks import Task, change_of
from recokit.page.formats import interval, number, relative_change, short
from recokit.page.grids import Grid
from recokit.page.making import (
    edges_of,
    input_grid,
    mapping,
    relation_grid,
    settings_grid,
    step_grid,
    table_grid,
    trained,
)
from recokit.page.reading import Reports
from recokit.table import Version

_FIGURES = 12  # key figures of tasks; all of them stand below
_SHOWN = (
    "format",
    "config",
    "config_sha256",
    "date",
    "code",
    "inputs",
    "parent",
    "steps",
    "gates",
    "metrics",
    "despite",
)
_OF_GATES = ("name", "status", "passed", "message")
_LONGEST = 300  # letters of what the page does not know


@dataclass(frozen=True, eq=False)
class Measured:
    """A version with what was measured of it."""

    version: Version
    tasks: tuple[Task, ...] = ()
    reports: Reports = field(default_factory=Reports)


@dataclass(frozen=True)
class Gate:
    """A bound that the version had to keep, whether it ``passed``, ``failed`` or was ``skipped``, and why."""

    name: str
    status: str
    reason: str


@dataclass(frozen=True)
class Tile:
    """A key figure with its interval and change.

    Attributes:
        name: What it is.
        value: The figure.
        interval: Its interval, or nothing.
        change: How it moved, or nothing.
        verdict: ``"better"``, ``"worse"``, ``"same"`` (within noise), ``"unknown"``, ``"neutral"`` for counts.
        against: What the change is against.
    """

    name: str
    value: str
    interval: str = ""
    change: str = ""
    verdict: str = "neutral"
    against: str = ""


@dataclass(frozen=True)
class Card:
    """What stands at the head of the page.

    Attributes:
        version: The version's name.
        created: When, in UTC.
        parent: What its training started from, or None.
        previous: What it is compared with, or None.
        gates: Bounds, and whether they were kept.
        tiles: Key figures.
        grids: Tables, relations, settings that changed, inputs, steps.
        facts: What else is known: code, data, split.
    """

    version: str
    created: str
    parent: str | None
    previous: str | None
    gates: tuple[Gate, ...]
    tiles: tuple[Tile, ...]
    grids: tuple[Grid, ...]
    facts: tuple[tuple[str, str], ...]

    @property
    def against(self) -> tuple[str, ...]:
        """What the changes of the figures are against."""
        return tuple(dict.fromkeys(tile.against for tile in self.tiles if tile.against))


def make_card(new: Measured, old: Measured | None = None) -> Card:
    """Put the card of a version together, compared with an earlier one where there is one."""
    version, previous = new.version, None if old is None else old.version
    lineage, before = new.reports.lineage, None if old is None else old.reports.lineage
    grids = (
        table_grid(version, previous),
        relation_grid(version, previous),
        settings_grid(version, previous, lineage, before),
        input_grid(lineage, before),
        step_grid(lineage),
    )
    return Card(
        version=version.name,
        created=f"{version.created:%Y-%m-%d %H:%M} UTC",
        parent=version.parent,
        previous=None if previous is None else previous.name,
        gates=_gates(lineage),
        tiles=(*_sizes(version, previous), *_figures(new, old)),
        grids=tuple(grid for grid in grids if grid.rows),
        facts=(*_facts(version, lineage), *_same_settings(grids[2], previous)),
    )


def _gates(lineage: Mapping[str, Any] | None) -> tuple[Gate, ...]:
    return tuple(
        Gate(
            str(gate.get("name", "gate")),
            str(gate.get("status") or ("passed" if gate.get("passed") else "failed")),
            "; ".join(filter(None, (str(gate.get("message") or ""), *_unknown(gate, _OF_GATES).values()))),
        )
        for gate in (lineage or {}).get("gates", [])
    )


def _sizes(version: Version, previous: Version | None) -> list[Tile]:
    """Return how many entities and edges there are."""
    counts = {"entities": _entities(version), "training edges": sum(edges_of(version).values())}
    before = {}
    if previous is not None:
        before = {"entities": _entities(previous), "training edges": sum(edges_of(previous).values())}
    return [
        Tile(name, f"{count:,}", change=relative_change(count, before[name]) if before.get(name) else "")
        for name, count in counts.items()
        if count
    ]


def _entities(version: Version) -> int:
    """Count entities, those of several networks once."""
    counts: dict[str, int] = {}
    parts = {entry.components for entry in version.tables.values()}
    for name, entry in version.tables.items():
        if name not in parts:
            counts[entry.entity] = max(counts.get(entry.entity, 0), version.open(name).count)
    return sum(counts.values())


def _figures(new: Measured, old: Measured | None) -> list[Tile]:
    """Return the main figure of each task, with its change."""
    tiles = []
    against = new.version.parent if old is None else old.version.name
    for task in new.tasks:
        row = task.main(task.this)
        if row is None or not math.isfinite(row.value):  # stability has no value on the first night
            continue
        change = change_of(task, against, () if old is None else old.tasks)
        tile = Tile(task.title, number(row.value), interval(row.low, row.high))
        if change is not None:
            tile = replace(tile, change=change.text, verdict=change.verdict, against=change.against)
        tiles.append(tile)
    return tiles[:_FIGURES]


def _facts(version: Version, lineage: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    facts = {key: str(version.meta[key]) for key in ("data", "split") if isinstance(version.meta.get(key), str)}
    if lineage is not None:
        code = mapping(lineage.get("code"))
        commit = f", commit {short(str(code['commit']))}" if code.get("commit") else ""
        facts["code"] = f"recokit {code.get('recokit', '?')}{commit}"
        if lineage.get("config_sha256"):
            facts["configuration"] = f"SHA-256 {short(str(lineage['config_sha256']))}"
        if lineage.get("despite"):
            facts["published despite a failed gate"] = str(lineage["despite"])
        facts |= {name: text.removeprefix(f"{name}: ") for name, text in _unknown(lineage, _SHOWN).items()}
    return tuple(facts.items())


def _same_settings(grid: Grid, previous: Version | None) -> tuple[tuple[str, str], ...]:
    """Say that no setting differs, where there is nothing to list though settings are known."""
    return (
        ()
        if grid.rows or previous is None or not trained(previous)
        else (("settings", f"as those of {previous.name}"),)
    )


def _unknown(entry: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, str]:
    """Return what an entry says beyond what the page knows, as ``name: value``; later versions say more."""
    found = {}
    for key, value in entry.items():
        if key not in known and value not in (None, "", [], {}):
            text = _text(value)
            name = str(key).replace("_", " ")
            found[name] = f"{name}: {text if len(text) <= _LONGEST else text[:_LONGEST] + '…'}"
    return found


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else str(value)
