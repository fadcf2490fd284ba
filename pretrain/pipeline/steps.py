"""What each step makes, in an empty folder that becomes its result; and what should be known of it.

Each is a line or two around the function that does the work, imported here: a step that is skipped loads nothing.
"""

__all__ = ["build_step"]

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.pipeline.gates import Measured, check_gates
from pretrain.pipeline.lineage import lineage_of, notes_of, passed
from pretrain.pipeline.night import Night
from pretrain.pipeline.parent import counts_of, published_report, shares_of
from recokit.report import Report
from recokit.table import open_version
from recokit.table.folder import read_json, write_json

Facts = Mapping[str, Any]
Before = Sequence[Mapping[str, Any]]  # the steps before this one, as an outcome has them


def build_step(step: str, night: Night, folder: Path, before: Before) -> Facts:
    """Fill a folder with what a step makes.

    Args:
        step: Its name.
        night: What it is of; the steps that it stands on have been made.
        folder: An empty folder.
        before: The steps before it, for the lineage.

    Returns:
        What should be known of it; JSON.
    """
    return _BUILDS[step](night, folder, before)


def _select(night: Night, folder: Path, before: Before) -> Facts:
    from pretrain.pipeline.selection import select_edges

    return {"relations": select_edges(night.settings.training, night.settings.selection, folder)}


def _prepare(night: Night, folder: Path, before: Before) -> Facts:
    from pretrain.pipeline.preparation import prepare_edges

    return prepare_edges(night.folder("select"), night.settings.training, folder)


def _train(night: Night, folder: Path, before: Before) -> Facts:
    from pretrain.pipeline.quantization import check_prepared
    from pretrain.pipeline.training import train_version

    check_prepared(night.settings, night.folder("prepare"))
    with night.bars.training(f"training {night.settings.version}") as callback:
        return train_version(
            night.settings,
            night.folder("select"),
            night.folder("prepare"),
            night.parent,
            folder,
            checkpoint=night.folder("train").with_name(f"{night.key('train')}.checkpoint"),
            checkpoint_seconds=night.checkpoint_seconds,
            callback=lambda _, event: callback(event),
        )


def _benchmark(night: Night, folder: Path, before: Before) -> Facts:
    from pretrain.pipeline.benchmarks import measure_version, remembered

    memory = remembered(night.settings, night.edges_read(), night.keyed["benchmark"]["files"])
    with night.bars.counting("benchmarks") as progress:
        files = night.relation_files()
        return measure_version(
            night.settings, night.trained, night.parent, files, folder, memory=memory, progress=progress
        )


def _quantize(night: Night, folder: Path, before: Before) -> Facts:
    from pretrain.pipeline.quantization import check_rows, quantize_version

    tables = night.trained.tables
    named = () if night.settings.quantize is None else night.settings.quantize.tables
    check_rows(night.settings, {name: night.trained.table(name).count for name in named if name in tables})
    return quantize_version(night.trained, night.settings.quantize, folder, parent=night.parent)


def _gates(night: Night, folder: Path, before: Before) -> Facts:
    found = [checked.to_dict() for checked in check_gates(night.settings.gates, _measured(night))]
    write_json(folder / "gates.json", found)
    return {"gates": len(found), "failed": sum(gate["status"] == "failed" for gate in found)}


def _measured(night: Night) -> Measured:
    folder, parent = night.folder("benchmark"), night.parent
    notes, drift = read_json(folder / "notes.json"), folder / "drift.json"
    return Measured(
        version=night.settings.version,
        parent=night.parent_name,
        tonight=Report.load(folder / "benchmarks.json"),
        published=None if parent is None else published_report(parent),
        drift=Report.load(drift) if drift.is_file() else None,
        counts=counts_of(night.trained),
        parent_counts={} if parent is None else counts_of(parent),
        held_out=frozenset(notes["held_out"]),
        seen=notes["seen"],
        memory=notes.get("memory", {}),
        shares=shares_of(night.trained),
        parent_shares={} if parent is None else shares_of(parent),
    )


def _page(night: Night, folder: Path, before: Before) -> Facts:
    from pretrain.pipeline.publication import stage_version

    gates = read_json(night.folder("gates") / "gates.json")
    reports = {
        "benchmarks.json": night.folder("benchmark") / "benchmarks.json",
        "drift.json": night.folder("benchmark") / "drift.json",
        "compression.json": night.folder("quantize") / "compression.json",
        "training.json": night.folder("train") / "training.json",
    }
    lineage = lineage_of(
        night.settings,
        night.inputs(),
        parent=night.parent_name,
        steps=[{key: step[key] for key in ("name", "key", "seconds", "skipped")} for step in before],
        gates=gates,
        benchmarks=Report.load(reports["benchmarks.json"]),
        counts=counts_of(night.trained),
        despite=None if passed(gates) else night.despite,
        notes=notes_of({step["name"]: step["facts"] for step in before}),
    )
    quantized = open_version(night.folder("quantize") / night.settings.version)
    there = {name: path for name, path in reports.items() if path.is_file()}
    return stage_version(night.settings, quantized, folder, reports=there, lineage=lineage, parent=night.parent)


def _publish(night: Night, folder: Path, before: Before) -> Facts:
    from pretrain.pipeline.publication import compose_version

    return {"sha256": compose_version(night.folder("page"), night.settings.version, folder)}


_BUILDS: Mapping[str, Callable[[Night, Path, Before], Facts]] = {
    "select": _select,
    "prepare": _prepare,
    "train": _train,
    "benchmark": _benchmark,
    "quantize": _quantize,
    "gates": _gates,
    "page": _page,
    "publish": _publish,
}
