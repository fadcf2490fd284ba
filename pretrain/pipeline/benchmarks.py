"""Benchmarks of a version that was trained, the same of its parent, and the drift between the two.

    benchmarks.json    rows of this version, of the baselines, and of the parent measured tonight, by their names
    drift.json         where there is a parent
    notes.json         {"held_out": [benchmark, ...], "seen": {benchmark: why}, "parent": {benchmark: why not},
                        "memory": {benchmark: why}}

In a ``[[benchmark]]`` table, ``"held_out"`` stands for the file of the night's held-out pairs of the table's relation,
and ``"known"`` for that of the pairs that are not held out; ``"held_out:clicks"`` says which relation.
"""

__all__ = ["check_benchmarks", "measure_version", "remembered", "with_parts"]

import dataclasses
import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.pipeline.inputs import check_columns
from pretrain.pipeline.parent import seen_edges
from pretrain.pipeline.settings import PipelineSettings
from pretrain.pipeline.tables import tables_of
from recokit.errors import ConfigError, RecokitError, closest
from recokit.report import Report
from recokit.table import Version
from recokit.table.folder import write_json
from recokit.toml_file import TomlFile

if TYPE_CHECKING:
    from recokit.probes import Task

_PARTS = {"held_out": "held_out", "known": "known_pairs"}
_ANSWERS = ("labels", "sets", "pairs")


def check_benchmarks(settings: PipelineSettings) -> None:
    """Refuse, before a night goes into it, ``[[benchmark]]`` tables that could not be measured.

    Raises:
        ConfigError: A key or value is wrong, with its line; or the version has the name of a baseline.
    """
    if settings.benchmarks:
        from recokit.probes import read_tasks
        from recokit.probes.subjects import REFERENCES

        if settings.version in REFERENCES:
            raise ConfigError(f"the version is called {settings.version!r}, as a baseline is: {', '.join(REFERENCES)}")
        relations = [relation.name for relation in settings.training.relations]
        named = {str(row.get("relation")) for row in settings.benchmarks}
        file, _ = with_parts(settings, {name: Path(name) for name in relations or named})
        tasks = read_tasks(file, section="benchmark")
        for number, (task, row) in enumerate(zip(tasks, settings.benchmarks, strict=True)):
            _check_places(settings, row, number)
            _check_metrics(settings, task, row["kind"])


def _columns(row: Mapping[str, Any], key: str) -> tuple[list[str], list[str]]:
    """Return the columns that a task reads of a file, by the names that they have there, and which of them are ids."""
    pair = ("query", "candidate")
    names, ids = {
        "labels": (("id", "label" if row["kind"] == "topic" else str(row.get("column"))), ("id",)),
        "degrees": (("id", "degree"), ("id",)),
        "sets": (pair, pair[:1]),
    }.get(key, (pair, pair))
    called = {} if key == "degrees" else dict(row.get("columns", {}))
    return [str(called.get(name, name)) for name in names], [str(called.get(name, name)) for name in ids]


def _check_places(settings: PipelineSettings, row: Mapping[str, Any], number: int) -> None:
    """Refuse files that are not there or lack a column, and tables that there will not be."""
    from recokit.frame.reading import source_files

    for key in ("labels", "degrees", "sets", "exclude", "pairs"):
        text = row.get(key)
        if not isinstance(text, str) or text.partition(":")[0] in _PARTS:
            continue
        path = settings.folder / text
        if not path.exists() and not glob.glob(str(path), recursive=True):  # noqa: PTH207, a pattern with a root
            raise settings.file.error("benchmark", key, f"{key} is {text!r}: there is no such file", number)
        columns, ids = _columns(row, key)
        with settings.file.at("benchmark", key, number):
            for file in source_files(path):
                check_columns(file, columns, ids)
    known = tables_of(settings.training)
    codes = "" if settings.quantize is None else "; benchmarks are of the tables that were trained, not of codes"
    for key in ("table", "source", "target"):
        if key in row and row[key] not in known:
            message = f"there will be no table {row[key]!r}; {closest(str(row[key]), known)}{codes}"
            raise settings.file.error("benchmark", key, message, number)


def _check_metrics(settings: PipelineSettings, task: "Task", kind: str) -> None:
    """Refuse gates on figures that a benchmark will not have."""
    cuts = getattr(task, "cuts", ())
    known = {
        "link": [f"recall@{cut}" for cut in cuts],
        "stability": [f"{task.name}@{getattr(task, 'k', '')}"],
        "jaccard": [f"{task.name} spearman"],
    }.get(kind, [f"{task.name} roc_auc"])
    rows = settings.file.rows("gate")
    for number, gate in enumerate(rows):
        metric = gate.get("metric")
        if gate.get("benchmark") != task.name or metric is None:
            continue
        if metric not in known and f"{task.name} {metric}" not in known:
            message = f"benchmark {task.name!r} has no metric {metric!r}; {closest(str(metric), known)}"
            raise settings.file.error("gate", "metric", message, number)


def remembered(
    settings: PipelineSettings, trained_on: Mapping[str, str], measured: Mapping[str, str]
) -> dict[str, str]:
    """Say which benchmarks ask for what the version was trained on: their answers are a relation's own file.

    Those that say ``known = true`` are left out.

    Args:
        settings: The ``[[benchmark]]`` tables.
        trained_on: SHA-256 of the files of edges, by their paths from the configuration's folder.
        measured: The same of the files that benchmarks read.
    """
    from recokit.frame.reading import source_files

    edges = {digest: path for path, digest in trained_on.items()}
    said = {}
    for row in settings.benchmarks:
        for key in () if row.get("known") is True else _ANSWERS:
            text = row.get(key)
            if not isinstance(text, str) or text.partition(":")[0] in _PARTS:
                continue
            for path in source_files(settings.folder / text):
                name = os.path.relpath(path, settings.folder)
                if measured.get(name) in edges:
                    said[str(row["name"])] = f"its {key}, {name}, are edges that it was trained on"
    return said


def with_parts(settings: PipelineSettings, files: Mapping[str, Path]) -> tuple[TomlFile, dict[str, set[str]]]:
    """Put the files of the night's parts where ``[[benchmark]]`` tables name them.

    Args:
        settings: The tables.
        files: Relation to the name of its file in the folder of each part.

    Returns:
        The configuration with paths, and benchmark to the relations whose held-out pairs it measures on.

    Raises:
        ConfigError: A part is named and there is no ``[split]``, or no such relation.
    """
    rows: list[dict[str, Any]] = []
    held_out: dict[str, set[str]] = {}
    for number, row in enumerate(settings.benchmarks):
        filled = {}
        for key, value in row.items():
            part, _, relation = value.partition(":") if isinstance(value, str) else ("", "", "")
            if key == "known" and row.get("kind") != "jaccard":  # which has a known of its own, that says the same
                if not isinstance(value, bool):
                    raise settings.file.error("benchmark", key, f"known is {value!r}, expected true or false", number)
                continue
            if key == "name" or part not in _PARTS:
                filled[key] = value
                continue
            filled[key] = str(_part_file(settings, row, (part, relation), files, (key, number)))
            if part == "held_out":
                held_out.setdefault(str(row.get("name")), set()).add(relation or str(row.get("relation")))
        rows.append(filled)
    content = {**settings.file.content, "benchmark": rows}
    return dataclasses.replace(settings.file, content=content), held_out


def _part_file(
    settings: PipelineSettings,
    row: Mapping[str, Any],
    part: tuple[str, str],
    files: Mapping[str, Path],
    place: tuple[str, int],
) -> Path:
    key, number = place
    relation = part[1] or row.get("relation")
    if not settings.training.split:
        message = f"{key} is {row[key]!r}, but nothing is held out: there is no [split]"
        raise settings.file.error("benchmark", key, message, number)
    if relation not in files:
        message = f"{key} is {row[key]!r} of the relation {relation!r}; {closest(str(relation), files)}"
        raise settings.file.error("benchmark", key, message, number)
    folder = files[str(relation)].parent / _PARTS[part[0]]
    return folder / files[str(relation)].name


def measure_version(
    settings: PipelineSettings,
    version: Version,
    parent: Version | None,
    files: Mapping[str, Path],
    folder: Path,
    *,
    memory: Mapping[str, str] | None = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Measure a version, its parent and the drift between them.

    Args:
        settings: ``[[benchmark]]`` and ``[drift]``.
        version: What was trained tonight.
        parent: The previous version.
        files: Relation to ``<prepared>/<its file>``; parts are folders beside.
        folder: An empty folder.
        memory: What ``remembered`` has found.
        progress: Called with how many are done and of how many.

    Returns:
        What should be known: which benchmarks are of held-out edges, and of which the parent is no yardstick.
    """
    file, held_out = with_parts(settings, files)
    seen = {} if parent is None else _seen(parent, held_out, files)
    report = Report([])
    unmeasured: dict[str, str] = {}
    if settings.benchmarks:
        from recokit.probes import read_tasks, run_probes

        tasks = read_tasks(file, section="benchmark")
        report = run_probes(version, tasks, name=version.name, previous=parent, progress=progress)
        if parent is not None:
            of_parent, unmeasured = _of_parent(parent, tasks, seen)
            report |= of_parent
    report.save(folder / "benchmarks.json")
    if parent is not None:
        _drift(settings, parent, version).save(folder / "drift.json")
    notes = {"held_out": sorted(held_out), "seen": seen, "parent": unmeasured, "memory": dict(memory or {})}
    write_json(folder / "notes.json", notes)
    return notes


def _seen(parent: Version, held_out: Mapping[str, set[str]], files: Mapping[str, Path]) -> dict[str, str]:
    """Say of which benchmarks the parent has seen the answers."""
    asked = sorted({relation for relations in held_out.values() for relation in relations})
    paths = {name: files[name].parent / "held_out" / files[name].name for name in asked}
    shares = seen_edges(parent, {name: path for name, path in paths.items() if path.is_file()})
    said = {}
    for benchmark, relations in held_out.items():
        for relation in sorted(relations & shares.keys()):
            said[benchmark] = (
                f"{shares[relation]:.0%} of tonight's held-out edges of {relation!r} were training edges of version "
                f"{parent.name}"
            )
    return said


def _of_parent(parent: Version, tasks: Sequence[Any], seen: Mapping[str, str]) -> tuple[Report, dict[str, str]]:
    """Measure the parent on the same data, task by task: what it has no table for is left out."""
    from recokit.probes import LinkPrediction, run_probes

    report = Report([])
    unmeasured: dict[str, str] = {}
    for task in tasks:
        if task.name in seen:
            continue
        try:
            alone = dataclasses.replace(task, floors=False) if isinstance(task, LinkPrediction) else task
            report |= run_probes(parent, [alone], name=parent.name, baselines=())
        except RecokitError as error:
            unmeasured[str(task.name)] = " ".join(str(error).split())
    for number, result in enumerate(report.results):
        protocol = {**result.protocol, "measured": "tonight, as the previous version"}
        report.results[number] = dataclasses.replace(result, protocol=protocol)
    return report, unmeasured


def _drift(settings: PipelineSettings, parent: Version, version: Version) -> Report:
    from recokit.drift import measure_drift

    asked, impressions = settings.drift, None
    if asked.ranker is not None and asked.impressions is not None:
        from recokit.drift.ranker import load_own
        from recokit.scored_frames import read_rows

        # With the types that the ranker asks for: ids such as 007 are text, and integers may be missing.
        impressions = read_rows(str(asked.impressions), load_own(asked.ranker, parent).features)
    return measure_drift(
        parent,
        version,
        k=asked.k,
        sample=asked.sample,
        seed=asked.seed,
        ranker=asked.ranker,
        impressions=impressions,
    )
