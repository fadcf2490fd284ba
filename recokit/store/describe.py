"""What a version holds, and what differs between two: read from manifests and reports, without opening tables."""

__all__ = ["describe", "difference", "difference_of_ids", "flat", "summarize"]

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recokit.errors import FormatError
from recokit.store.lineage import LINEAGE, edges_of, gates_of, headline, json_object, objects, own_rows
from recokit.store.manifests import Manifest, json_report
from recokit.store.marks import retirement
from recokit.store.places import Place
from recokit.table.folder import manifest_value
from recokit.table.version import Version

_TABLE_FIELDS = ("count", "dim", "dtype", "comparator", "codec", "sub_quantizers", "num_components")
_THIS = "this version"
_GROUPED = ("metric", "group", "seed")
_SAME = ("entity", "kind", "count", "dim", "dtype", "comparator", "codec", "sub_quantizers", "num_components")


def summarize(
    manifest: Manifest, aliases: Mapping[str, str], retired: bool, despite: str | None = None
) -> dict[str, Any]:
    """Return what a list of versions says of one."""
    return {
        "version": manifest.name,
        "created": manifest.created.isoformat(),
        "parent": manifest.parent,
        "bytes": manifest.bytes,
        "tables": [table.get("name") for table in manifest.content.get("tables", ())],
        "aliases": [alias for alias, version in aliases.items() if version == manifest.name],
        "retired": retired,
        "despite": despite,
    }


def describe(place: Place, manifest: Manifest, aliases: list[str]) -> dict[str, Any]:
    """Return what there is to know of a version: names, times, sizes, tables, reports."""
    retired = retirement(place, manifest.name)
    lineage = json_report(place, manifest, LINEAGE)
    edges = edges_of(manifest, lineage)
    return {
        "version": manifest.name,
        "created": manifest.created.isoformat(),
        "parent": manifest.parent,
        "aliases": aliases,
        "retired": None if retired is None else {**asdict(retired), "retired": retired.retired.isoformat()},
        "bytes": manifest.bytes,
        "files": len(manifest.files) + 1,
        "tables": list(_tables(place, manifest).values()),
        "reports": [name.removeprefix("reports/") for name in manifest.files if name.startswith("reports/")],
        "code": lineage.get("code"),
        "inputs": lineage.get("inputs"),
        "metrics": lineage.get("metrics"),
        "headline": headline(own_rows(place, manifest, lineage)),
        "gates": gates_of(lineage),
        "despite": lineage.get("despite"),
        "relations": [{**each, "edges": edges.get(str(each["name"]))} for each in _relations(place, manifest)],
        "meta": manifest.content.get("meta"),
    }


def difference(place: Place, old: Manifest, new: Manifest) -> dict[str, Any]:
    """Return what differs between two versions, as far as manifests and reports tell."""
    before, after = (json_report(place, each, LINEAGE) for each in (old, new))
    tables = _tables(place, old), _tables(place, new)
    code = before.get("code"), after.get("code")
    return {
        "old": old.name,
        "new": new.name,
        "relation": _relation(old, new),
        "created": {"old": old.created.isoformat(), "new": new.created.isoformat()},
        "bytes": {"old": old.bytes, "new": new.bytes},
        "code": None if code[0] == code[1] else {"old": code[0], "new": code[1]},
        "config": _changed(*(flat(each.get("config") or {}) for each in (before, after))),
        "inputs": _came_and_went(*(_digests(each.get("inputs")) for each in (before, after))),
        "tables": {
            "added": [name for name in tables[1] if name not in tables[0]],
            "removed": [name for name in tables[0] if name not in tables[1]],
            "changed": {
                name: changes
                for name in tables[0]
                if name in tables[1]
                if (changes := _changed(*({key: each[name].get(key) for key in _SAME} for each in tables)))
            },
        },
        "edges": _changed(edges_of(old, before), edges_of(new, after)),
        "metrics": _compared(_metrics(place, old, before), _metrics(place, new, after)),
    }


def difference_of_ids(old: Version, new: Version) -> dict[str, dict[str, int]]:
    """Count the ids that two versions share, that came and that went, for each table of both."""
    counts = {}
    for name in old.tables:
        if name not in new.tables:
            continue
        before, after = (_ids(each, name) for each in (old, new))
        same_type = before.type == after.type
        common = int(pc.sum(pc.is_in(after, value_set=before)).as_py() or 0) if same_type else 0
        counts[name] = {"common": common, "added": len(after) - common, "removed": len(before) - common}
    return counts


def _ids(version: Version, table: str) -> Any:
    ids = version.open(table).ids
    return ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids


def _tables(place: Place, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Return the tables of a version by name: what its manifest and theirs say, and their bytes."""
    where = Path(manifest.name) / "version.json"
    tables = {}
    for entry in manifest_value(where, manifest.content, "tables", list):
        name, path = (manifest_value(where, entry, key, str) for key in ("name", "path"))
        own = _own_manifest(place, f"{manifest.name}/{path}/table.json")
        sizes = [file["bytes"] for each, file in manifest.files.items() if each.startswith(f"{path}/")]
        known = {key: own[key] for key in _TABLE_FIELDS if key in own}
        tables[name] = {
            **{key: entry.get(key) for key in ("name", "entity", "kind", "network")},
            **known,
            "bytes": sum(sizes),
        }
    return tables


def _own_manifest(place: Place, path: str) -> Mapping[str, Any]:
    return json_object(place.read(path))


def _relations(place: Place, manifest: Manifest) -> list[dict[str, Any]]:
    """Return the names, ends and operators of a version's relations."""
    path = "relations/relations.json"
    data = place.read(f"{manifest.name}/{path}") if path in manifest.files else None
    try:
        found = json.loads(data) if data is not None else []
    except ValueError as error:
        raise FormatError(f"{place.url}/{manifest.name}/{path} is not JSON: {error}") from error
    return [{key: each.get(key) for key in ("name", "source", "target", "operator")} for each in objects(found)]


def _relation(old: Manifest, new: Manifest) -> str:
    if new.parent == old.name:
        return f"{new.name} started from {old.name}"
    if old.parent == new.name:
        return f"{old.name} started from {new.name}"
    if old.parent is not None and old.parent == new.parent:
        return f"both started from {old.parent}"
    return f"{old.name} started from {old.parent or 'scratch'}, {new.name} from {new.parent or 'scratch'}"


def flat(content: Any) -> dict[str, Any]:
    """Return nested settings by dotted names; tables of an array are told apart by their names, or counted.

    >>> flat({"train": {"dim": 8}, "relation": [{"name": "clicks", "weight": 2.0}]})
    {'train.dim': 8, 'relation[clicks].name': 'clicks', 'relation[clicks].weight': 2.0}
    """
    return dict(_leaves(content, "")) if content else {}


def _leaves(content: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list) and content and all(isinstance(each, dict) for each in content):
        names = [str(each.get("name")) for each in content]
        for number, (name, each) in enumerate(zip(names, content, strict=True)):
            told_apart = "name" in each and names.count(name) == 1
            yield from _leaves(each, f"{prefix}[{name if told_apart else number}]")
    else:
        yield prefix, content


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    keys = [*old, *(key for key in new if key not in old)]
    return {
        key: {"old": old.get(key), "new": new.get(key)}
        for key in keys
        if old.get(key) != new.get(key) or (key in old) != (key in new)
    }


def _digests(inputs: Any) -> dict[str, Any]:
    """Return the SHA-256 of each input, None where the lineage has none."""
    if not isinstance(inputs, dict):
        return {}
    return {name: entry.get("sha256") if isinstance(entry, dict) else None for name, entry in inputs.items()}


def _came_and_went(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        "added": sorted(set(new) - set(old)),
        "removed": sorted(set(old) - set(new)),
        "changed": sorted(name for name in set(old) & set(new) if old[name] != new[name]),
    }


def _metrics(place: Place, manifest: Manifest, lineage: Mapping[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return what was measured of a version, by what it is: of its benchmarks, or else of its lineage."""
    rows = json_report(place, manifest, "benchmarks.json").get("results") or lineage.get("metrics")
    return {
        (_subject(row, manifest), *(str(row[key]) if row.get(key) is not None else None for key in _GROUPED)): row
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict)
    }


def _subject(row: Mapping[str, Any], manifest: Manifest) -> Any:
    """Return what a row is about, with the version's own name left out, which two versions do not share."""
    name = row.get("name")
    return name.replace(manifest.name, "").strip(" ./:") or _THIS if isinstance(name, str) else str(name)


def _compared(
    old: Mapping[tuple[Any, ...], Mapping[str, Any]], new: Mapping[tuple[Any, ...], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return metrics side by side; ``beyond`` says whether the two intervals do not meet, None where one is missing."""
    rows = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key, {}), new.get(key, {})
        either = before or after
        was, now = (_number(each, "value") for each in (before, after))
        rows.append(
            {
                "name": key[0],
                **{part: either.get(part) for part in _GROUPED},
                "old": was,
                "new": now,
                "difference": None if was is None or now is None else now - was,
                "beyond": _beyond(before, after),
            }
        )
    main = {id(row) for row in headline([row for row in rows if row["name"] == _THIS])}
    return [{**row, "headline": id(row) in main} for row in rows]


def _beyond(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool | None:
    old_low, old_high, new_low, new_high = (_number(each, key) for each in (old, new) for key in ("low", "high"))
    if old_low is None or old_high is None or new_low is None or new_high is None:
        return None
    return bool(old_high < new_low or new_high < old_low)


def _number(row: Mapping[str, Any], key: str) -> float | None:
    """Return a number of a row; None where there is none that JSON could hold."""
    value = row.get(key)
    return value if isinstance(value, int | float) and math.isfinite(value) else None
