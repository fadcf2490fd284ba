"""``recokit pretrain --memory``: edges prepared on disk, tables by partitions, a version at the end."""

__all__ = ["pretrain_within"]

import functools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from pretrain.config import Relation
from pretrain.memory import parse_size, process_bytes
from pretrain.partitioned import check_partitioned, plan_partitions, train_partitioned
from pretrain.partitioned_evaluate import evaluate_partitioned
from pretrain.partitioned_export import export_partitioned
from pretrain.preparation import prepare
from pretrain.prepared import PreparedGraph
from pretrain.progress import preparation_progress, training_progress
from pretrain.settings import Settings
from pretrain.stopped import may_begin, write_once
from pretrain.tables import evaluation_table, protocol_line, read_table
from recokit.errors import ConfigError
from recokit.table import open_version
from recokit.table.folder import remove_folder

_SLACK = 50_000_000  # bytes that the process keeps of the preparation
_QUESTIONS = 5_000  # of each relation: more make the measured values no surer than they need be


def pretrain_within(
    settings: Settings, memory: str, *, what: str, resume: bool, commit_seconds: float, as_json: bool
) -> None:
    """Train in a given amount of memory; see ``recokit pretrain --help``.

    Args:
        settings: What to train.
        memory: What the process may take, such as ``"4GB"``.
        what: The configuration file, for messages.
        resume: Go on with the run that was stopped.
        commit_seconds: Time between two commits.
        as_json: Print a JSON document at the end.
    """
    parse_size(memory)
    _check(settings, what)
    target = settings.output / settings.version
    edges, run = (settings.output / f".{settings.version}.{part}" for part in ("edges", "partitions"))
    if not may_begin((edges, run), (target,), resume=resume, as_json=as_json):
        return
    console = Console(stderr=as_json, markup=False, highlight=False)
    prepared = PreparedGraph.open(edges) if edges.exists() else _prepare(settings, memory, edges, console)
    console.print(read_table(prepared.summary.rows))
    counts = {entity: prepared.num_entities(entity) for entity in prepared.entity_types}
    console.print("entities: " + ", ".join(f"{count:,} {entity}" for entity, count in counts.items()))
    console.print(f"partitions: {prepared.partitions}")
    started = time.perf_counter()
    with training_progress(f"training {settings.version}", console) as callback:
        model = train_partitioned(
            prepared, settings.train, path=run, callback=callback, commit_seconds=commit_seconds, resume=resume
        )
    seconds = time.perf_counter() - started
    console.print(f"{len(model.epochs)} epochs, last loss {model.epochs[-1]['loss']:.4f}, trained in {seconds:.1f} s")
    write_once(target, lambda path: export_partitioned(model, path), console)
    console.print(f"exported {', '.join(open_version(target).tables)} to {target}")
    results: list[Mapping[str, Any]] = []
    if settings.split:
        evaluation = evaluate_partitioned(model, questions=_QUESTIONS, name=settings.version)
        console.print(evaluation_table(evaluation, ""))
        console.print(protocol_line(evaluation))
        results = list(evaluation.results)
    model.close()
    if as_json:
        document = {
            "version": str(target),
            "read": list(prepared.summary.rows),
            "entities": counts,
            "partitions": prepared.partitions,
            "seconds": seconds,
            "epochs": list(model.epochs),
            "results": results,
        }
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
    for path in (run, edges):
        remove_folder(path)


def _check(settings: Settings, what: str) -> None:
    """Refuse what partitions cannot do yet, before the work."""
    given = {
        "[[network]] tables": settings.networks,
        "previous": settings.previous,
        "[validation]": settings.validation,
        "[entity] alpha": settings.alpha,
        "[split] at": "at" in settings.split,
        "[triples] without [[relation]] tables": settings.triples and "relations" not in settings.triples,
        "[triples] unknown": settings.triples.get("unknown", "refuse") != "refuse",
    }
    for name, value in given.items():
        if value:
            raise ConfigError(f"{what}: {name}: not together with --memory in this release; leave one of them out")
    check_partitioned(_relations(settings), settings.train)


def _relations(settings: Settings) -> list[Relation]:
    return list(settings.relations or settings.triples["relations"].values())


def _prepare(settings: Settings, memory: str, path: Path, console: Console) -> PreparedGraph:
    source: dict[str, Any] = {"files": settings.paths, "columns": settings.columns}
    relations: Any = settings.relations
    if settings.triples:
        source = {"triples": settings.triples["data"]}
        source |= {key: settings.triples[key] for key in ("columns", "header") if key in settings.triples}
        relations = settings.triples["relations"]
    with preparation_progress(console) as callback:
        return prepare(
            path,
            relations,
            **source,
            min_count=settings.min_count,
            # What the database holds while it asks is given back before training begins.
            partitions=functools.partial(_cut, settings, memory, process_bytes() + _SLACK),
            held_out=settings.split.get("fraction", 0.0),
            seed=settings.split.get("seed", 0),
            memory=memory,
            callback=callback,
        )


def _cut(settings: Settings, memory: str, held: int, entities: Mapping[str, int], edges: int) -> tuple[int, int]:
    return plan_partitions(memory, entities, edges, settings.train, _relations(settings), baseline=held)
