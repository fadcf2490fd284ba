"""What the page's script works on: lists and maps, packed so that thousands of entities stay a few megabytes.

Row numbers become positions in the page's own lists of ids, 16 or 32 bits each; scores become 16 bits between the
lowest and the highest of their list. All of it is one JSON document, compressed with gzip and written in base64, in
which no id can be taken for HTML.
"""

__all__ = ["explorer_of", "pack", "packed_json", "plane_of"]

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.page.lists import Found, Lists, Rows
from recokit.page.plane import Plane

_MISSING = 0xFFFF_FFFF
_LEVELS = 0xFFFF


def explorer_of(
    lists: Sequence[Lists], names: Mapping[str, Mapping[Any, str]], labels: Mapping[str, Mapping[Any, str]]
) -> list[dict[str, Any]]:
    """Return the tables of the explorer: ids (those with lists first), names, labels, degrees, lists."""
    position = {part.name: at for at, part in enumerate(lists)}
    shown = {part.name: _shown(part, lists) for part in lists}
    tables = []
    for part in lists:
        ids = part.table.ids_at(shown[part.name]).to_pylist()
        local = {other.name: shown[other.name] for other in lists}
        degrees = None if part.degrees is None else part.degrees[shown[part.name]].tolist()
        tables.append(
            {
                "name": part.name,
                "entity": part.table.entity,
                "count": part.table.count,
                "listed": len(part.rows),
                "ids": [str(id_) for id_ in ids],
                "names": _texts(ids, names.get(part.name, {})),
                "labels": _texts(ids, labels.get(part.name, {})),
                "degrees": degrees,
                "lists": [_list(found, position[found.table], local[found.table]) for found in part.found],
            }
        )
    return tables


def plane_of(plane: Plane) -> dict[str, Any]:
    """Return a map, its points in 16 bits each."""
    levels = np.round((plane.points.astype(np.float64) + 1) / 2 * _LEVELS).astype("<u2")
    groups = list(dict.fromkeys(sorted(plane.groups)))
    at = {group: number for number, group in enumerate(groups)}
    return {
        "title": plane.title,
        "method": plane.method,
        "groups": groups,
        "group": [at[group] for group in plane.groups],
        "tables": plane.tables.tolist(),
        "places": plane.places.tolist(),
        "points": _base64(levels.tobytes()),
    }


def pack(content: bytes) -> str:
    """Compress with gzip, the same bytes for the same content, and write in base64."""
    return _base64(gzip.compress(content, compresslevel=9, mtime=0))


def packed_json(content: Any) -> str:
    """Return a JSON document, packed."""
    return pack(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())


def _shown(part: Lists, lists: Sequence[Lists]) -> Rows:
    """Return the rows of a table that the page names: those with lists, then those that lists lead to."""
    led = [found.rows.ravel() for other in lists for found in other.found if found.table == part.name]
    reached = np.unique(np.concatenate(led)) if led else np.zeros(0, np.int64)
    return np.concatenate([part.rows, np.setdiff1d(reached[reached >= 0], part.rows)])


def _list(found: Found, table: int, shown: Rows) -> dict[str, Any]:
    order = np.argsort(shown)
    there = found.rows >= 0
    local = np.full(found.rows.shape, _MISSING, np.uint32)
    local[there] = order[np.searchsorted(shown, found.rows[there], sorter=order)]
    low, high, levels = _levels(found.scores, there)
    narrow = len(shown) < _LEVELS
    return {
        "kind": found.kind,
        "relation": found.relation,
        "table": table,
        "k": int(found.rows.shape[1]),
        "bits": 16 if narrow else 32,
        "found": _base64(local.astype("<u2" if narrow else "<u4").tobytes()),  # the missing one becomes 0xFFFF
        "low": low,
        "high": high,
        "scores": _base64(levels.tobytes()),
    }


def _levels(scores: NDArray[np.float32], there: NDArray[np.bool_]) -> tuple[float, float, NDArray[np.uint16]]:
    values = scores[there].astype(np.float64)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    span = high - low or 1.0
    levels = np.round((np.where(there, scores, low).astype(np.float64) - low) / span * _LEVELS)
    return low, high, levels.astype("<u2")


def _texts(ids: Sequence[Any], texts: Mapping[Any, str]) -> list[str | None] | None:
    found = [texts.get(id_) for id_ in ids]
    return found if any(text is not None for text in found) else None


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
