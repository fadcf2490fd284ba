"""Gates: bounds that a version has to keep to be published.

A gate is about a benchmark, about drift, about how much the network has shrunk, or (``share = "user"``, with ``max`` or
``max_rise``) about the largest share that one entity has in the training edges of its type's relations:

    [[gate]]                       [[gate]]                       [[gate]]
    benchmark = "links"            drift = "user"                 edges = "clicks"
    metric = "recall@10"           metric = "relative l2"         max_drop = 0.2
    min = 0.1                      max = 0.5
    max_drop = "noise"

``max_drop`` compares with the previous version. Its noise is sqrt(a² + b²) of the half widths a and b of the two
intervals, 3/n where an interval has none; "2 noise" is twice that. Intervals say what other queries or entities would
give, not what another seed of the training would. There are two comparisons, and ``against`` says which count:

    parent       The previous version was measured tonight, on the same data as this one. Data that are damaged tonight
                 damage both figures alike, and this comparison does not see it.
    published    This version's figure and the one that was published with the previous version, each on the data of its
                 night, if their protocols agree in what matters. It sees damaged data, and also that nights differ.
    both         Each of the two that can be made.

Not said, it is both for benchmarks on the night's own held-out edges, and parent for others. A version that was trained
on tonight's held-out edges is no yardstick on them: then ``published`` alone is compared.

A gate whose figure is missing, is NaN, or has no interval where noise is asked for, fails: what was not measured has
not passed. Without a previous version, comparisons pass and say so.
"""

__all__ = ["Against", "Checked", "Gate", "Measured", "check_gates"]

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from recokit.errors import closest
from recokit.report import Report, Result

Against = Literal["parent", "published", "both"]
Status = Literal["passed", "failed", "skipped"]

# What has to agree for two nights' figures to be of one kind; sizes and names of files may differ.
_PROTOCOL = ("task", "kind", "column", "cut", "positive", "model", "auc", "candidates", "filter", "ties", "search")


@dataclass(frozen=True)
class Gate:
    """One bound, or several of the same figure.

    Attributes:
        subject: ``"benchmark"``, ``"drift"``, ``"entities"``, ``"edges"`` or ``"share"``.
        name: Of the benchmark, the table, the entity type, the relation.
        metric: Which figure of a benchmark or of drift; None for its only one.
        group: Which label, relation or part; None for all.
        min: The least that passes.
        max: The most that passes.
        max_drop: How far it may fall below the previous version's: in units of the metric, for counts as a share.
        noise: The same in noises.
        against: Which comparisons count; None for what fits the benchmark.
        max_rise: How far a share may rise above the previous version's.
    """

    subject: str
    name: str
    metric: str | None = None
    group: str | None = None
    min: float | None = None
    max: float | None = None
    max_drop: float | None = None
    noise: float | None = None
    against: Against | None = None
    max_rise: float | None = None

    def __str__(self) -> str:
        said = [f"{self.subject} {self.name}", self.metric or "", f"[{self.group}]" if self.group else ""]
        return " ".join(part for part in said if part)


@dataclass(frozen=True)
class Checked:
    """What became of one bound of a gate; ``reason`` is a sentence for people."""

    gate: str
    bound: str
    status: Status
    reason: str
    value: float | None = None
    reference: float | None = None
    noise: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``gates.json`` has it."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """What gates look at.

    Attributes:
        version: The version's name.
        parent: The previous version's name; None without one.
        tonight: Benchmarks of tonight: rows of both versions, by their names, and of baselines.
        published: What was published with the previous version; None for nothing.
        drift: Drift from the previous version; None without one.
        counts: ``{"entities": {type: n}, "edges": {relation: n}}``.
        parent_counts: The same of the previous version.
        held_out: Benchmarks on the night's own held-out edges.
        seen: Benchmark to why the previous version is no yardstick tonight.
        memory: Benchmark to why it asks what the version was trained on.
        shares: Entity type to the largest share of one entity in the training edges of its relations.
        parent_shares: The same of the previous version.
    """

    version: str
    parent: str | None
    tonight: Report
    published: Report | None = None
    drift: Report | None = None
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    parent_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    held_out: frozenset[str] = frozenset()
    seen: Mapping[str, str] = field(default_factory=dict)
    memory: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    parent_shares: Mapping[str, float] = field(default_factory=dict)


def check_gates(gates: Iterable[Gate], measured: Measured) -> list[Checked]:
    """Check every bound of every gate.

    Args:
        gates: The gates.
        measured: What was measured.

    Returns:
        One or more for each gate, in their order; a version passes if none has failed.
    """
    checked: list[Checked] = []
    for gate in gates:
        if gate.subject in ("entities", "edges"):
            checked += _check_counts(gate, measured)
        elif gate.subject == "drift":
            checked += _check_drift(gate, measured)
        elif gate.subject == "share":
            checked += _check_share(gate, measured)
        else:
            checked += [_remembered(each, gate, measured) for each in _check_benchmark(gate, measured)]
    return checked


def _remembered(checked: Checked, gate: Gate, measured: Measured) -> Checked:
    """Say of what is asked of training edges that it is."""
    why = measured.memory.get(gate.name)
    return checked if why is None else replace(checked, reason=f"{checked.reason} (careful, measures memory: {why})")


def _check_share(gate: Gate, measured: Measured) -> list[Checked]:
    now = measured.shares.get(gate.name)
    if now is None:
        reason = f"the version keeps no degrees of {gate.name!r}; {closest(gate.name, measured.shares)}"
        return [Checked(str(gate), "measured", "failed", reason)]
    checked = _within(gate, now)
    if gate.max_rise is None:
        return checked
    bound = f"max_rise {gate.max_rise:g}"
    if measured.parent is None:
        return [*checked, _without_parent(gate, bound, now)]
    before = measured.parent_shares.get(gate.name)
    if before is None:
        reason = f"version {measured.parent} keeps no degrees of {gate.name!r}"
        return [*checked, Checked(str(gate), bound, "skipped", reason, now)]
    status: Status = "passed" if now - before <= gate.max_rise else "failed"
    reason = (
        f"one {gate.name} has {now:.4f} of the training edges, {before:.4f} in version {measured.parent}; "
        f"a rise of {gate.max_rise:g} is allowed"
    )
    return [*checked, Checked(str(gate), bound, status, reason, now, before)]


def _check_counts(gate: Gate, measured: Measured) -> list[Checked]:
    now = measured.counts.get(gate.subject, {}).get(gate.name)
    if now is None:
        known = closest(gate.name, measured.counts.get(gate.subject, {}))
        return [Checked(str(gate), "present", "failed", f"there are no {gate.subject} of {gate.name!r}; {known}")]
    checked = _within(gate, float(now))
    if gate.max_drop is None:
        return checked
    bound = f"max_drop {gate.max_drop:g}"
    if measured.parent is None:
        return [*checked, _without_parent(gate, bound, float(now))]
    before = measured.parent_counts.get(gate.subject, {}).get(gate.name)
    if before is None:
        reason = f"version {measured.parent} does not say how many it has"
        return [*checked, Checked(str(gate), bound, "skipped", reason, float(now))]
    drop = 1 - now / before if before else 0.0
    status: Status = "passed" if drop <= gate.max_drop else "failed"
    moved = "unchanged" if drop == 0 else f"fell by {drop:.1%}" if drop > 0 else f"grew by {-drop:.1%}"
    reason = f"{now:,} after {before:,} in version {measured.parent}: {moved}, a fall of {gate.max_drop:.1%} is allowed"
    return [*checked, Checked(str(gate), bound, status, reason, float(now), float(before))]


def _check_drift(gate: Gate, measured: Measured) -> list[Checked]:
    bounds = " ".join(f"{key} {getattr(gate, key):g}" for key in ("min", "max") if getattr(gate, key) is not None)
    if measured.parent is None:
        return [_without_parent(gate, bounds, None)]
    row, why = _row(measured.drift, gate, gate.name, lambda result: True)
    if row is None:
        return [Checked(str(gate), bounds, "failed", why)]
    return _within(gate, row.value)


def _check_benchmark(gate: Gate, measured: Measured) -> list[Checked]:
    row, why = _row(measured.tonight, gate, measured.version, lambda result: _task(result) == gate.name)
    if row is None:
        return [Checked(str(gate), "measured", "failed", why)]
    if measured.parent is None and row.protocol.get("kind") == "stability":  # its figure compares by itself
        bounds = " ".join(f"{key} {getattr(gate, key):g}" for key in ("min", "max") if getattr(gate, key) is not None)
        return [_without_parent(gate, bounds or _said_drop(gate), None)]
    checked = _within(gate, row.value)
    if gate.max_drop is None and gate.noise is None:
        return checked
    return [*checked, *_compared(gate, row, measured)]


def _compared(gate: Gate, row: Result, measured: Measured) -> list[Checked]:
    """Compare a figure with the previous version's, in the ways that are asked for and can be made."""
    if measured.parent is None:
        return [_without_parent(gate, _said_drop(gate), row.value)]
    asked = gate.against or ("both" if gate.name in measured.held_out else "parent")
    checked, reasons = [], []
    if asked != "published":
        if gate.name in measured.seen:
            reasons.append(measured.seen[gate.name])
        else:
            other, _ = _row(measured.tonight, gate, measured.parent, lambda result: _task(result) == gate.name)
            if other is None or math.isnan(other.value):
                reasons.append(f"version {measured.parent} could not be measured tonight")
            else:
                checked.append(_drop(gate, row, other, f"version {measured.parent} on the same data tonight"))
    if asked != "parent" or not checked:
        other, _ = _row(measured.published, gate, measured.parent, lambda result: _task(result) == gate.name)
        differing = [] if other is None else _differing(row, other)
        if other is None or math.isnan(other.value):
            reasons.append(f"version {measured.parent} was published without this figure")
        elif differing:
            reasons.append(f"what version {measured.parent} published was measured otherwise ({', '.join(differing)})")
        else:
            checked.append(_drop(gate, row, other, f"version {measured.parent} as it was published"))
    if not checked:
        return [
            Checked(str(gate), _said_drop(gate), "skipped", f"nothing to compare with: {'; '.join(reasons)}", row.value)
        ]
    return checked


def _drop(gate: Gate, row: Result, other: Result, what: str) -> Checked:
    fallen = other.value - row.value
    if gate.noise is None:
        allowed, noise = gate.max_drop or 0.0, None
    else:
        widths = [_half_width(each) for each in (row, other)]
        if any(width is None for width in widths):
            reason = f"{row.metric} has no interval, so that its noise is not known: give max_drop as a number"
            return Checked(str(gate), _said_drop(gate), "failed", reason, row.value, other.value)
        noise = math.hypot(*(width for width in widths if width is not None))
        allowed = gate.noise * noise
    status: Status = "passed" if fallen <= allowed else "failed"
    moved = f"{fallen:.4f} below" if fallen > 0 else f"{abs(fallen):.4f} above"
    reason = f"{row.value:.4f} is {moved} the {other.value:.4f} of {what}; {allowed:.4f} below is allowed"
    return Checked(str(gate), _said_drop(gate), status, reason, row.value, other.value, noise)


def _within(gate: Gate, value: float) -> list[Checked]:
    checked = []
    for key, bound in (("min", gate.min), ("max", gate.max)):
        if bound is None:
            continue
        passed = value >= bound if key == "min" else value <= bound  # NaN is neither
        said = f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.0f}"
        reason = f"{said}, at {'least' if key == 'min' else 'most'} {bound:g} is asked for"
        known = None if math.isnan(value) else value
        checked.append(Checked(str(gate), f"{key} {bound:g}", "passed" if passed else "failed", reason, known))
    return checked


def _without_parent(gate: Gate, bound: str, value: float | None) -> Checked:
    return Checked(str(gate), bound, "skipped", "there is no previous version to compare with", value)


def _said_drop(gate: Gate) -> str:
    if gate.noise is None:
        return f"max_drop {gate.max_drop:g}"
    return "max_drop noise" if gate.noise == 1 else f"max_drop {gate.noise:g} noise"


def _half_width(result: Result) -> float | None:
    half = result.half_width
    if half is None or half > 0:
        return half
    # All n questions gave the same, so that resamples cannot differ; of others, 3 in n may (the rule of three).
    return 3 / result.n if result.n else None


def _task(result: Result) -> str | None:
    task = result.protocol.get("task")
    return None if task is None else str(task)


def _row(report: Report | None, gate: Gate, name: str, is_meant: Any) -> tuple[Result | None, str]:
    """Find the one row that a gate is about, or say why there is none."""
    rows = [] if report is None else [row for row in report.results if row.name == name and is_meant(row)]
    metrics = list(dict.fromkeys(row.metric for row in rows))
    if not rows:
        return None, f"nothing was measured of {gate.subject} {gate.name!r} in {name!r}"
    wanted = (gate.metric, f"{gate.name} {gate.metric}")
    found = [row for row in rows if gate.metric is None or row.metric in wanted]
    if not found:
        return None, f"it has no metric {gate.metric!r}; {closest(str(gate.metric), metrics)}"
    if gate.metric is None and len(metrics) > 1:
        return None, f"it has several metrics, and the gate names none: {', '.join(metrics)}"
    groups = [row for row in found if row.group == gate.group]
    if gate.group is None and not groups and len(found) == 1:
        groups = found  # a benchmark of one relation names it as its group
    if not groups:
        known = ", ".join(repr(row.group) for row in found)
        return None, f"{found[0].metric} has no group {gate.group!r}; there are: {known}"
    return groups[0], ""


def _differing(row: Result, other: Result) -> list[str]:
    """Return what two protocols disagree in, of what matters."""
    return [key for key in _PROTOCOL if _said(row, key) != _said(other, key)]


def _said(row: Result, key: str) -> str:
    """Return what a protocol says; how many pairs a filter has differs from night to night."""
    said = str(row.protocol.get(key))
    return re.sub(r"[0-9]+", "#", said) if key == "filter" else said
