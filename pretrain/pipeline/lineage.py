"""Lineage: what a version was made of and by, for whoever asks in a year.

    {"format": "lineage/1", "config": the TOML as it was written, "config_sha256", "date",
     "code": {"recokit", "commit"}, "inputs": {path: {"bytes", "sha256"}}, "parent",
     "steps": [{"name", "key", "seconds", "skipped"}],
     "gates": [{"name", "passed", "message", "status"}],
     "metrics": [{"name", "metric", "group", "value", "low", "high"}]}

A metric's name is that of its benchmark, not of the version, so that those of two nights stand side by side.
"""

__all__ = ["lineage_of", "notes_of", "passed"]

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pretrain.pipeline.settings import PipelineSettings
from pretrain.pipeline.work import canonical
from recokit.report import Report, Result, gather_provenance


def lineage_of(
    settings: PipelineSettings,
    inputs: Mapping[str, Mapping[str, Any]],
    *,
    parent: str | None,
    steps: Sequence[Mapping[str, Any]],
    gates: Sequence[Mapping[str, Any]],
    benchmarks: Report,
    counts: Mapping[str, Mapping[str, int]],
    despite: str | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the content of ``lineage.json``.

    Args:
        settings: The configuration.
        inputs: Path of a file that was read, from the configuration's folder, to its bytes and SHA-256.
        parent: The previous version.
        steps: name, key, seconds and skipped of each.
        gates: What ``check_gates`` found, as dicts.
        benchmarks: Tonight's rows.
        counts: Of entities and edges.
        despite: Why the version is published although a gate failed.
        notes: What else should be known, a line each.
    """
    provenance = gather_provenance()
    content = canonical(settings.template)
    document = {
        "format": "lineage/1",
        "config": json.loads(content),
        "config_sha256": hashlib.sha256(content.encode()).hexdigest(),
        "date": settings.date.isoformat(),
        "code": {"recokit": provenance["versions"].get("recokit"), "commit": provenance["commit"]},
        "inputs": {path: dict(file) for path, file in inputs.items()},
        "parent": parent,
        "steps": [dict(step) for step in steps],
        "gates": [
            {
                "name": f"{gate['gate']}, {gate['bound']}",
                "passed": gate["status"] != "failed",
                "message": gate["reason"],
                "status": gate["status"],
            }
            for gate in gates
        ],
        "metrics": [*_of_benchmarks(benchmarks, settings.version), *_of_counts(counts)],
    }
    document |= {"notes": list(notes)} if notes else {}
    return document if despite is None else {**document, "despite": despite}


def notes_of(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what people should know of the benchmarks and the codes of a night, a line each.

    Args:
        facts: Step to what is known of it.
    """
    lines = [
        f"careful: benchmark {name!r} measures memory: {why}"
        for name, why in facts.get("benchmark", {}).get("memory", {}).items()
    ]
    for table, codes in facts.get("quantize", {}).items():
        if "left out" in codes:
            lines.append(f"there is no {table}: {codes['left out']}")
        if "codebook" in codes:
            lines.append(f"the codebook of {table} is {codes['codebook']}")
    return lines


def passed(gates: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether no gate has failed."""
    return all(gate["status"] != "failed" for gate in gates)


def _of_benchmarks(report: Report, version: str) -> list[dict[str, Any]]:
    return [_metric(row) for row in report.results if row.name == version]


def _metric(row: Result) -> dict[str, Any]:
    numbers = {"value": row.value, "low": row.low, "high": row.high}
    known = {key: None if value is None or not math.isfinite(value) else value for key, value in numbers.items()}
    return {"name": str(row.protocol.get("task", row.name)), "metric": row.metric, "group": row.group, **known}


def _of_counts(counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    return [
        {"name": "counts", "metric": kind, "group": name, "value": count, "low": None, "high": None}
        for kind, of_kind in counts.items()
        for name, count in of_kind.items()
    ]
