"""What a version's ``lineage.json`` tells: gates, metrics, edges, and why it was published although a gate failed.

Others write these files too: what has another shape than expected is passed over.
"""

__all__ = [
    "LINEAGE",
    "ancestor",
    "despite_of",
    "edges_of",
    "gates_of",
    "headline",
    "json_object",
    "objects",
    "own_rows",
]

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from recokit.store.manifests import Manifest, json_report
from recokit.store.marks import retirement
from recokit.store.places import Place

LINEAGE = "lineage.json"
_COUNTS = "counts"  # the name of rows that count entities and edges, and measure nothing


def despite_of(place: Place, manifests: Sequence[Manifest]) -> dict[str, str]:
    """Return why versions were published although a gate failed, by their names, of those that were."""
    paths = {f"{each.name}/reports/{LINEAGE}": each.name for each in manifests if f"reports/{LINEAGE}" in each.files}
    found = {paths[path]: json_object(data) for path, data in place.read_all(list(paths)).items()}
    return {name: str(lineage["despite"]) for name, lineage in found.items() if lineage.get("despite")}


def ancestor(place: Place, name: str, manifest: Manifest | None) -> dict[str, Any]:
    """Return what a line of ancestors says of one version; ``manifest`` is None where it is not there any more."""
    if manifest is None:
        return {"version": name, "created": None, "gates": {}, "despite": None, "state": "removed"}
    lineage = json_report(place, manifest, LINEAGE)
    return {
        "version": name,
        "created": manifest.created.isoformat(),
        "gates": dict(Counter(gate["status"] for gate in gates_of(lineage))),
        "despite": lineage.get("despite"),
        "state": None if retirement(place, name) is None else "retired",
    }


def edges_of(manifest: Manifest, lineage: Mapping[str, Any]) -> dict[str, int]:
    """Return the edges that each relation was trained on, as far as the lineage, or else the version, says."""
    rows = [row for row in objects(lineage.get("metrics")) if row.get("name") == _COUNTS]
    found = {str(row.get("group")): row.get("value") for row in rows if row.get("metric") == "edges"}
    if not found:
        meta = manifest.content.get("meta")
        edges = meta.get("edges") if isinstance(meta, dict) else None
        found = edges if isinstance(edges, dict) else {}
    return {name: count for name, count in found.items() if isinstance(count, int)}


def gates_of(lineage: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the bounds of a version, each with its name, ``passed``, ``failed`` or ``skipped``, and why."""
    return [
        {
            "name": str(gate.get("name")),
            "status": str(gate.get("status") or ("passed" if gate.get("passed") else "failed")),
            "message": str(gate.get("message") or ""),
        }
        for gate in objects(lineage.get("gates"))
    ]


def own_rows(place: Place, manifest: Manifest, lineage: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was measured of a version itself, by task: of its lineage, or else of its benchmarks."""
    rows = [row for row in objects(lineage.get("metrics")) if row.get("name") != _COUNTS]
    if not rows:
        results = objects(json_report(place, manifest, "benchmarks.json").get("results"))
        rows = [{**row, "name": _task(row)} for row in results if row.get("name") == manifest.name]
    keys = ("name", "metric", "group", "seed", "value", "low", "high")
    return [{key: row.get(key) for key in keys} for row in rows]


def _task(row: Mapping[str, Any]) -> Any:
    protocol = row.get("protocol")
    return protocol.get("task", row.get("name")) if isinstance(protocol, dict) else row.get("name")


def headline(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows to read first: those over all groups; where there is none, as of links, each group's."""
    whole = {(row.get("name"), row.get("metric")) for row in rows if row.get("group") is None}
    return [row for row in rows if row.get("group") is None or (row.get("name"), row.get("metric")) not in whole]


def objects(content: Any) -> list[dict[str, Any]]:
    """Return the objects of a list; none of anything else."""
    return [each for each in content if isinstance(each, dict)] if isinstance(content, list) else []


def json_object(data: bytes | OSError | None) -> Mapping[str, Any]:
    """Return the JSON object in a file's bytes; an empty one where there is none."""
    try:
        content = json.loads(data) if isinstance(data, bytes) else None
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {}
