"""What a version holds and how it was made, as tables, each beside the earlier version where there is one."""

__all__ = ["edges_of", "input_grid", "mapping", "relation_grid", "settings_grid", "step_grid", "table_grid", "trained"]

from collections.abc import Mapping
from typing import Any

from recokit.page.formats import relative_change, short, size
from recokit.page.grids import Cell, Grid
from recokit.store.describe import flat
from recokit.table import Version


def table_grid(version: Version, previous: Version | None) -> Grid:
    """Return the tables with their sizes, and how many rows they won or lost."""
    rows: list[tuple[Cell, ...]] = []
    for name, entry in version.tables.items():
        table = version.open(name)
        before = previous.open(name).count if previous is not None and name in previous.tables else None
        taken = sum(file.stat().st_size for file in entry.path.rglob("*") if file.is_file())
        change = "" if previous is None else "new" if before is None else relative_change(table.count, before)
        rows.append(
            (
                Cell(name, note="" if entry.entity == name else entry.entity),
                Cell(entry.kind, note=entry.network or ""),
                Cell(f"{table.count:,}", table.count, note=change),
                Cell(str(table.dim), table.dim),
                Cell(size(taken), taken),
            )
        )
    for name in sorted(set(previous.tables if previous else ()) - set(version.tables)):
        rows.append((Cell(name, mark="gone"), Cell("no longer there"), *[Cell("–", -1)] * 3))
    return Grid("Tables", ("table", "kind", "rows", "dim", "size"), tuple(rows))


def relation_grid(version: Version, previous: Version | None) -> Grid:
    """Return the relations with the edges that they were trained on."""
    edges, before = edges_of(version), edges_of(previous) if previous is not None else {}
    rows = []
    for name, relation in version.relations.items():
        count, old = edges.get(name), before.get(name)
        change = "" if count is None or old is None else relative_change(count, old)
        known = Cell("–", -1) if count is None else Cell(f"{count:,}", count, note=change)
        rows.append((Cell(name), Cell(f"{relation.source} → {relation.target}"), Cell(relation.operator), known))
    return Grid("Relations", ("relation", "from, to", "operator", "training edges"), tuple(rows))


def edges_of(version: Version) -> dict[str, int]:
    """Return the edges that each relation was trained on, as far as the version says."""
    found: dict[str, int] = {}
    for network, meta in {"": version.meta, **mapping(version.meta.get("networks"))}.items():
        for name, count in mapping(mapping(meta).get("edges")).items():
            if isinstance(count, int):
                found[f"{name}-{network}" if network else name] = count
    return found


def settings_grid(
    version: Version, previous: Version | None, lineage: Mapping[str, Any] | None, old: Mapping[str, Any] | None
) -> Grid:
    """Return settings that differ from the earlier ones, if any do; all of them where there are no earlier ones."""
    if previous is None:
        settings = trained(version) if lineage is None else mapping(lineage.get("config"))
        return Grid(
            "Settings", ("setting", "value"), tuple((Cell(key), Cell(value)) for key, value in _flat(settings).items())
        )
    # Like is compared with like: two configurations, or what two versions say of their training.
    configs = (
        (mapping(each.get("config")) for each in (lineage, old)) if lineage is not None and old is not None else None
    )
    now, then = map(_flat, configs or (trained(version), trained(previous)))
    rows = [
        (Cell(key), Cell(then.get(key, "not set"), mark="gone"), Cell(now.get(key, "not set"), mark="added"))
        for key in dict.fromkeys((*now, *then))
        if now.get(key) != then.get(key)
    ]
    title = f"{'Settings of the training' if configs is None else 'Configuration'}: what differs from {previous.name}"
    return Grid(title, ("setting", "then", "now"), tuple(rows))


def trained(version: Version) -> Mapping[str, Any]:
    """Return the settings that the version says it was trained with, by network where there are several."""
    networks = mapping(version.meta.get("networks"))
    found = {name: mapping(part).get("config") for name, part in networks.items()}
    return found or mapping(version.meta.get("config"))


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in flat(dict(settings)).items()}


def input_grid(lineage: Mapping[str, Any] | None, old: Mapping[str, Any] | None) -> Grid:
    """Return the files that went in, and which have changed since the earlier version."""
    before = mapping((old or {}).get("inputs"))
    rows = []
    for path, entry in mapping((lineage or {}).get("inputs")).items():
        digest, bytes_ = str(mapping(entry).get("sha256", "")), mapping(entry).get("bytes", 0)
        then = mapping(before.get(path)).get("sha256")
        change = "" if old is None else "new" if then is None else "same" if then == digest else "changed"
        rows.append((Cell(str(path)), Cell(size(bytes_), bytes_), Cell(short(digest)), Cell(change)))
    return Grid("Inputs", ("file", "size", "SHA-256", "since then"), tuple(rows))


def step_grid(lineage: Mapping[str, Any] | None) -> Grid:
    """Return the steps that made the version, and how long they took."""
    rows = []
    for step in (lineage or {}).get("steps", []):
        skipped = bool(step.get("skipped"))
        seconds = float(step.get("seconds") or 0.0)
        rows.append(
            (Cell(str(step.get("name"))), Cell(f"{seconds:,.1f}", seconds), Cell("taken over" if skipped else "ran"))
        )
    return Grid("Steps", ("step", "seconds", "how"), tuple(rows))


def mapping(value: Any) -> Mapping[str, Any]:
    """Return what should be a JSON object if it is one, else an empty one: a page shows what there is."""
    return value if isinstance(value, Mapping) else {}
