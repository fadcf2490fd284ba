"""The version that a night starts from and is compared with: found once, then pinned.

A rerun after a kill starts from the same parent, whatever has been published since: the first run of a version writes
down which one it found, and the SHA-256 of its manifest, and later runs open that one or refuse.
"""

__all__ = [
    "Pinned",
    "counts_of",
    "days_of",
    "find_parent",
    "open_pinned",
    "pin",
    "published_report",
    "seen_edges",
    "shares_of",
]

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from pretrain.pipeline.settings import PipelineSettings
from recokit.errors import FormatError, VersionError
from recokit.overlap import TOLERATED, estimate_overlap
from recokit.report import Report
from recokit.table import Version, degrees_of
from recokit.table.folder import sha256_of
from recokit.table.version import MANIFEST


@dataclasses.dataclass(frozen=True)
class Pinned:
    """Which version is the parent.

    Attributes:
        name: Its name.
        source: Where it is opened from: a path, a URL, or ``<store>@<name>``.
        sha256: Of its ``version.json``.
    """

    name: str
    source: str
    sha256: str


def days_of(root: str) -> dict[str, date]:
    """Return the day that each version of a store is of, the earliest first; of one day in the order of their making.

    It is the ``date`` of a version's lineage; a version without one is of the day, in UTC, on which it was created.
    """
    from recokit.store.lookup import all_manifests
    from recokit.store.places import place_of

    place = place_of(root)
    manifests = all_manifests(place)
    lineages = place.read_all([f"{each.name}/reports/lineage.json" for each in manifests])
    days = {}
    for each in manifests:
        said = _said_day(lineages.get(f"{each.name}/reports/lineage.json"))
        days[each.name] = each.created.date() if said is None else said
    return dict(sorted(days.items(), key=lambda item: item[1]))  # stable: manifests come oldest first


def _said_day(lineage: object) -> date | None:
    """Return the date of the bytes of a lineage; None where it has none that can be read."""
    try:
        return date.fromisoformat(json.loads(lineage)["date"]) if isinstance(lineage, bytes) else None
    except (KeyError, TypeError, ValueError):
        return None


def find_parent(settings: PipelineSettings) -> Version | None:
    """Open what ``previous`` names; None where it is ``"none"``, or the store has no version yet.

    ``"latest"`` is the newest version by the day that it is of, among those that are not of a later day than this one:
    a night that is made up for does not start from its own future.
    Without versions, ``"latest"`` and an alias that this pipeline moves stand for none: the first night makes them.

    Raises:
        ConfigError: The configuration's line, where there is no such version.
    """
    from recokit.store import EmbeddingStore, open_source

    asked = settings.previous
    if asked == "none":
        return None
    with settings.file.at("", "previous"):
        if _is_place(settings, asked):
            return open_source(str(settings.folder / asked) if "://" not in asked else asked)
        store = EmbeddingStore(settings.store)
        if asked == "latest":
            earlier = [name for name, day in days_of(settings.store).items() if day <= settings.date]
            return store.open(earlier[-1]) if earlier else None
        if asked in settings.publish.aliases and not store.versions():
            return None
        return store.open(asked)


def pin(settings: PipelineSettings, parent: Version) -> Pinned:
    """Return what finds the same version again."""
    asked = settings.previous
    source = f"{settings.store}@{parent.name}"
    if "://" in asked:
        source = f"{_store_of(asked)}@{parent.name}"
    elif _is_place(settings, asked):
        source = str(parent.path)
    return Pinned(parent.name, source, sha256_of(parent.path / MANIFEST))


def _is_place(settings: PipelineSettings, asked: str) -> bool:
    """Say whether ``previous`` is a path or a URL, and no name in the store."""
    return "/" in asked or "@" in asked or (settings.folder / asked / MANIFEST).is_file()


def _store_of(url: str) -> str:
    """Return the store of ``url@name`` or ``url/name``; an @ before the last slash is part of the URL."""
    store, at, name = url.rstrip("/").rpartition("@")
    return store if at and "/" not in name else url.rstrip("/").rpartition("/")[0]


def open_pinned(pinned: Pinned) -> Version:
    """Open the version that was pinned.

    Raises:
        VersionError: There is another one in its place.
    """
    from recokit.store import open_source

    version = open_source(pinned.source)
    found = sha256_of(version.path / MANIFEST)
    if found != pinned.sha256:
        raise VersionError(
            f"{pinned.source} is not the version that this run began from: its manifest has the sha256 {found}, "
            f"expected {pinned.sha256}; make a version of another name"
        )
    return version


def published_report(version: Version, name: str = "benchmarks.json") -> Report | None:
    """Return a report that was published with a version; None where there is none that can be read."""
    path = version.reports.get(name)
    try:
        return None if path is None else Report.load(path)
    except (OSError, FormatError):
        return None


def counts_of(version: Version) -> dict[str, dict[str, int]]:
    """Return how many entities of each type and training edges of each relation a version has.

    An entity type that has a table a network counts its largest one; so does a relation.
    """
    entities: dict[str, int] = {}
    for name, entry in version.tables.items():
        if entry.kind in ("vectors", "mixture") and not _inside(version, name):
            entities[entry.entity] = max(entities.get(entry.entity, 0), _rows(entry.path))
    edges: dict[str, int] = {}
    for recorded in [version.meta, *version.meta.get("networks", {}).values()]:
        for relation, count in recorded.get("edges", {}).items():
            edges[relation] = max(edges.get(relation, 0), int(count))
    return {"entities": entities, "edges": edges}


def shares_of(version: Version) -> dict[str, float]:
    """Return the largest share that one entity of each type has in the training edges of the type's relations.

    Of a type that has a table a network the largest counts; one whose degrees the version does not keep has none.
    """
    shares: dict[str, float] = {}
    for name, entry in version.tables.items():
        if entry.kind not in ("vectors", "mixture") or _inside(version, name):
            continue
        recorded = version.meta if entry.network is None else version.meta.get("networks", {}).get(entry.network, {})
        behind = f"-{entry.network}" if entry.network else ""
        edges = sum(
            int(count)
            for relation, count in recorded.get("edges", {}).items()
            if (known := version.relations.get(f"{relation}{behind}")) and entry.entity in (known.source, known.target)
        )
        degrees = degrees_of(version, name)
        if degrees is not None and edges:
            share = int(degrees.max(initial=0)) / edges
            shares[entry.entity] = max(shares.get(entry.entity, 0.0), share)
    return shares


def _inside(version: Version, name: str) -> bool:
    """Say whether a table holds the components of a mixture."""
    return any(entry.components == name for entry in version.tables.values())


def _rows(path: Path) -> int:
    return int(json.loads((path / "table.json").read_bytes())["count"])


def seen_edges(version: Version, held_out: Mapping[str, Path]) -> dict[str, float]:
    """Return the share of held-out pairs that a version was trained on, for relations where it is too much.

    Args:
        version: Its tables carry sketches of the edges.
        held_out: Relation to a Parquet file of pairs, columns query and candidate.
    """
    import pyarrow.parquet as pq

    sketches: dict[str, list[Mapping[str, Any]]] = {}
    for name, entry in version.tables.items():
        if entry.kind in ("vectors", "mixture"):
            for sketch in version.open(name).meta.get("edge_sketches", ()):
                sketches.setdefault(sketch["relation"], []).append(sketch)
    shares = {}
    for relation, path in held_out.items():
        if relation in sketches:
            pairs = pq.read_table(path, columns=["query", "candidate"])
            ends = (pairs["query"].combine_chunks(), pairs["candidate"].combine_chunks())
            found = [estimate_overlap(sketch, *ends) for sketch in sketches[relation]]
            share = max((each for each in found if not math.isnan(each)), default=0.0)
            if share > TOLERATED:
                shares[relation] = share
    return shares
