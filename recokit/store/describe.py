"""What a version holds, and what differs between two: read from manifests and reports, without opening tables."""

__all__ = ["describe", "difference", "difference_of_ids", "summarize"]

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recokit.store.manifests import Manifest, json_report
from recokit.store.marks import retirement
from recokit.store.places import Place
from recokit.table.folder import manifest_value
from recokit.table.version import Version

_TABLE_FIELDS = ("count", "dim", "dtype", "comparator", "codec", "sub_quantizers", "num_components")
_SAME = ("entity", "kind", "count", "dim", "dtype", "comparator", "codec", "sub_quantizers", "num_components")


def summarize(manifest: Manifest, aliases: Mapping[str, str], retired: bool) -> dict[str, Any]:
    """Return what a list of versions says of one."""
    return {
        "version": manifest.name,
        "created": manifest.created.isoformat(),
        "parent": manifest.parent,
        "bytes": manifest.bytes,
        "tables": [table.get("name") for table in manifest.content.get("tables", ())],
        "aliases": [alias for alias, version in aliases.items() if version == manifest.name],
        "retired": retired,
    }


def describe(place: Place, manifest: Manifest, aliases: list[str]) -> dict[str, Any]:
    """Return what there is to know of a version: names, times, sizes, tables, reports."""
    retired = retirement(place, manifest.name)
    lineage = json_report(place, manifest, "lineage.json") or {}
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
        "meta": manifest.content.get("meta"),
    }


def difference(place: Place, old: Manifest, new: Manifest) -> dict[str, Any]:
    """Return what differs between two versions, as far as manifests and reports tell."""
    before, after = (json_report(place, each, "lineage.json") or {} for each in (old, new))
    tables = _tables(place, old), _tables(place, new)
    code = before.get("code"), after.get("code")
    return {
        "old": old.name,
        "new": new.name,
        "relation": _relation(old, new),
        "created": {"old": old.created.isoformat(), "new": new.created.isoformat()},
        "bytes": {"old": old.bytes, "new": new.bytes},
        "code": None if code[0] == code[1] else {"old": code[0], "new": code[1]},
        "config": _changed(_flat(before.get("config") or {}), _flat(after.get("config") or {})),
        "inputs": _came_and_went(before.get("inputs") or {}, after.get("inputs") or {}),
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
    import json

    data = place.read(path)
    try:
        content = None if data is None else json.loads(data)
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {}


def _relation(old: Manifest, new: Manifest) -> str:
    if new.parent == old.name:
        return f"{new.name} started from {old.name}"
    if old.parent == new.name:
        return f"{old.name} started from {new.name}"
    if old.parent is not None and old.parent == new.parent:
        return f"both started from {old.parent}"
    return f"{old.name} started from {old.parent or 'scratch'}, {new.name} from {new.parent or 'scratch'}"


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted names; tables of an array are told apart by their names, or counted."""
    return dict(_leaves(content, prefix))


def _leaves(content: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list) and content and all(isinstance(each, dict) for each in content):
        for number, each in enumerate(content):
            yield from _leaves(each, f"{prefix}[{each.get('name', number)}]")
    else:
        yield prefix, content


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    keys = [*old, *(key for key in new if key not in old)]
    return {
        key: {"old": old.get(key), "new": new.get(key)}
        for key in keys
        if old.get(key) != new.get(key) or (key in old) != (key in new)
    }


def _came_and_went(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        "added": sorted(set(new) - set(old)),
        "removed": sorted(set(old) - set(new)),
        "changed": sorted(
            name for name in set(old) & set(new) if (old[name] or {}).get("sha256") != (new[name] or {}).get("sha256")
        ),
    }


def _metrics(place: Place, manifest: Manifest, lineage: Mapping[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return what was measured of a version, by what it is: of its benchmarks, or else of its lineage."""
    report = json_report(place, manifest, "benchmarks.json") or {}
    rows = report.get("results") or lineage.get("metrics") or []
    return {(_subject(row, manifest), row.get("metric"), row.get("group"), row.get("seed")): row for row in rows}


def _subject(row: Mapping[str, Any], manifest: Manifest) -> Any:
    """Return what a row is about, with the version's own name left out, which two versions do not share."""
    name = row.get("name")
    return name.replace(manifest.name, "").strip(" ./:") or "this version" if isinstance(name, str) else name


def _compared(
    old: Mapping[tuple[Any, ...], Mapping[str, Any]], new: Mapping[tuple[Any, ...], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return metrics side by side; ``beyond`` says whether the two intervals do not meet, None where one is missing."""
    rows = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key, {}), new.get(key, {})
        was, now = before.get("value"), after.get("value")
        rows.append(
            {
                "name": key[0],
                "metric": key[1],
                "group": key[2],
                "seed": key[3],
                "old": was,
                "new": now,
                "difference": None if was is None or now is None else now - was,
                "beyond": _beyond(before, after),
            }
        )
    return rows


def _beyond(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool | None:
    old_low, old_high, new_low, new_high = (each.get(key) for each in (old, new) for key in ("low", "high"))
    if old_low is None or old_high is None or new_low is None or new_high is None:
        return None
    return bool(old_high < new_low or new_high < old_low)
