"""What is published: a version with its reports, put together from links; then the store, then the aliases.

``stage_version`` writes ``<version>/`` with all reports but the page, ``report.html`` beside it. ``publish_version``
puts the page in, gives the whole to the store, and moves the aliases; killed at any place, it goes on from there.
"""

__all__ = ["compose_version", "move_aliases", "retire_older", "stage_version"]

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.pipeline.parent import days_of
from pretrain.pipeline.settings import PipelineSettings
from recokit.errors import ConfigError, VersionError
from recokit.report import Report
from recokit.table import Version, open_version
from recokit.table.folder import sha256_of
from recokit.table.version import MANIFEST, extend_version

if TYPE_CHECKING:
    from recokit.store import EmbeddingStore


def stage_version(
    settings: PipelineSettings,
    version: Version,
    folder: Path,
    *,
    reports: Mapping[str, Path],
    lineage: Mapping[str, Any],
    parent: Version | None,
) -> dict[str, Any]:
    """Put a version and its reports together, and write its page.

    Args:
        settings: ``[publish]``.
        version: Tables and codes.
        folder: An empty folder.
        reports: Files by the names that they get.
        lineage: The content of ``lineage.json``.
        parent: The previous version, for the page.

    Returns:
        What should be known: the bytes of the page.
    """
    from recokit.probes import version_card

    benchmarks = Report.load(reports["benchmarks.json"])
    contents = {name: path.read_bytes() for name, path in reports.items()}
    contents["lineage.json"] = (json.dumps(lineage, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    if not benchmarks.results:
        del contents["benchmarks.json"]
    contents["card.md"] = version_card(version, benchmarks).encode()
    staged = extend_version(folder / version.name, version, reports=contents)
    if not settings.publish.page:
        return {}
    from recokit.page import write_page

    names, labels = ({key: str(settings.folder / text) for key, text in each.items()} for each in _texts(settings))
    page = write_page(staged, folder / "report.html", previous=parent, names=names, labels=labels)
    return {"page_bytes": page.stat().st_size}


def _texts(settings: PipelineSettings) -> tuple[Mapping[str, str], Mapping[str, str]]:
    return settings.publish.names, settings.publish.labels


def compose_version(staged: Path, name: str, folder: Path) -> str:
    """Write the version as it is published, page and all; return the SHA-256 of its manifest."""
    page = staged / "report.html"
    reports = {"report.html": page.read_bytes()} if page.is_file() else {}
    version = extend_version(folder / name, open_version(staged / name), reports=reports)
    return sha256_of(version.path / MANIFEST)


def move_aliases(
    settings: PipelineSettings,
    store: "EmbeddingStore",
    settled: dict[str, Any],
    settle: Callable[[dict[str, Any]], None],
    *,
    backwards: bool = False,
) -> list[str]:
    """Move the aliases that this run has not moved yet.

    An alias stays at a version of a later day: a night that is made up for does not take production back.

    Where an alias stood is written down before it is moved, and that it was moved, afterwards: a run that is killed
    in between moves it from that very place, and one that somebody else has moved meanwhile stays where it is.

    Args:
        settings: ``[publish]``.
        store: Holds the version.
        settled: What the run has written down, ``aliases`` among it.
        settle: Writes it down.
        backwards: Move them from a version of a later day too.

    Returns:
        What happened, a line each.
    """
    lines, days = [], days_of(settings.store) if settings.publish.aliases else {}
    moves: dict[str, Any] = settled.setdefault("aliases", {})
    for alias in settings.publish.aliases:
        now = store.aliases().get(alias)
        if alias not in moves:
            moves[alias] = {"from": now, "done": False}
            settle(settled)
        move = moves[alias]
        if move.get("held") and backwards:
            move = moves[alias] = {"from": now, "done": False}
            settle(settled)
        if move["done"]:
            continue
        if not backwards and (day := days.get(str(now), settings.date)) > settings.date:
            lines.append(
                f"{alias} stays at {now}, which is of {day}, a later day than {settings.date}; "
                "`recokit pipeline run --move-aliases` moves it back"
            )
            move |= {"done": True, "held": True}
            settle(settled)
            continue
        if now != settings.version:
            try:
                store.set_alias(alias, settings.version, expected=move["from"])
                lines.append(f"{alias} is {settings.version}, after {move['from'] or 'nothing'}")
            except VersionError as error:
                if store.aliases().get(alias) == move["from"]:
                    raise
                lines.append(f"{alias} stays where somebody else has put it: {error}")
        move["done"] = True
        settle(settled)
    return lines


def retire_older(settings: PipelineSettings, store: "EmbeddingStore") -> list[str]:
    """Retire all versions but the newest that are kept, by the days that they are of.

    Those that an alias or a ranker names stay, and so does the one that has just been published.

    Returns:
        What happened, a line each.
    """
    keep, lines = settings.publish.keep, []
    for name in [] if keep is None else list(days_of(settings.store))[:-keep]:
        if name == settings.version:
            continue
        try:
            store.retire(name, reason=f"the newest {keep} are kept")
            lines.append(f"{name} is retired")
        except (ConfigError, VersionError) as error:
            lines.append(f"{name} stays: {error}")
    return lines
