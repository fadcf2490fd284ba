"""The subcommand ``recokit pretrain``: a configuration file in, an embedding version out."""

__all__ = ["pretrain"]

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pretrain.config import TrainConfig
from pretrain.evaluate import Evaluation
from pretrain.evaluate import evaluate as evaluate_model
from pretrain.export import export, load_previous
from pretrain.graph import Graph
from pretrain.model import Model
from pretrain.networks import train_networks
from pretrain.progress import training_progress
from pretrain.settings import Settings, load_settings
from pretrain.stopped import may_begin, write_once
from pretrain.tables import evaluation_table, protocol_line, read_table, usage_table
from recokit.cli import JsonFlag
from recokit.errors import ConfigError, DataError
from recokit.overlap import TOLERATED, estimate_overlap
from recokit.table import open_version
from recokit.table.folder import check_name, new_folder, remove_folder, write_json


def pretrain(
    config: Annotated[Path, typer.Argument(help="A TOML file; examples/pretrain.toml shows what it says.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that was stopped.")] = False,
    checkpoint_seconds: Annotated[float, typer.Option(help="Time between two checkpoints of the run.", min=0)] = 60.0,
    save_model: Annotated[Path | None, typer.Option(help="Keep the model folder too, for pretrain.Model.load.")] = None,
    save_split: Annotated[
        Path | None, typer.Option(help="Write the held-out and the known edges here, a Parquet file a relation.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; a GPU if there is one by default.")] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Train on disk within so much memory, such as 4GB: tables by partitions, on the CPU."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train embeddings of a network and export them as a version."""
    settings = load_settings(config)
    if memory is None:
        _in_memory(
            settings,
            str(config),
            resume=resume,
            checkpoint_seconds=checkpoint_seconds,
            save_model=save_model,
            save_split=save_split,
            device=device,
            as_json=as_json,
        )
        return
    for option, value in (("--save-model", save_model), ("--save-split", save_split), ("--device", device)):
        if value is not None:
            raise ConfigError(f"{option} does not go with --memory: leave one of them out")
    from pretrain.partitioned_cli import pretrain_within

    pretrain_within(
        settings, memory, what=str(config), resume=resume, commit_seconds=checkpoint_seconds, as_json=as_json
    )


def _in_memory(
    settings: Settings,
    config: str,
    *,
    resume: bool,
    checkpoint_seconds: float,
    save_model: Path | None,
    save_split: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Train a network that is in memory whole."""
    target = settings.output / settings.version
    checkpoint = settings.output / f".{settings.version}.checkpoint"
    written = [path for path in (target, save_model, save_split) if path is not None]
    if not may_begin((checkpoint,), written, resume=resume, as_json=as_json):
        return
    console = Console(stderr=as_json, markup=False, highlight=False)
    graph = settings.graph()
    console.print(read_table(graph.summary.rows))
    console.print("entities: " + ", ".join(f"{len(ids):,} {name}" for name, ids in graph.entities.items()))
    known, held_out = _split(graph, settings.split, f"{config}: [split]")
    trained, validation = _split(known, settings.validation, f"{config}: [validation]")
    networks = settings.networks or {"": tuple(graph.relations)}
    previous, parent = _previous(settings, networks)
    for line in _seen(previous, held_out) if held_out is not None else ():
        console.print(f"careful: {line}, so what is measured on them says little")
    if settings.train.bias and settings.train.comparator != "dot":
        console.print(f"careful: indexes search biases under 'dot' alone, not under {settings.train.comparator!r}")
    started = time.perf_counter()
    with training_progress(f"training {settings.version}", console) as callback:
        models = train_networks(
            trained,
            networks,
            _train_config(settings, graph),
            device=device,
            callback=lambda _, event: callback(event),
            previous=previous,
            validation=validation,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            resume=resume,
        )
    seconds = time.perf_counter() - started
    for name, model in models.items():
        console.print(_told(name, model))
        if usage := model.meta.get("components"):
            console.print(usage_table(usage, name))
    console.print(f"trained in {seconds:.1f} s")
    if save_split is not None and held_out is not None:
        write_once(save_split, lambda path: _write_split(known, held_out, path), console)
    if save_model is not None:
        write_once(save_model, lambda path: _save_models(models, path), console)
    write_once(target, lambda path: export(models.get("", models), path, parent=parent), console)
    untrained = sum(int((degrees == 0).sum()) for model in models.values() for degrees in model.degrees.values())
    left_out = f"; {untrained:,} entities without a training edge are left out" if untrained else ""
    console.print(f"exported {', '.join(open_version(target).tables)} to {target}{left_out}")
    evaluations = {}
    for name, model in models.items():
        asked = [r for r in model.relations if held_out is not None and len(held_out.edges[r])]
        if held_out is not None and asked:
            what = _named(settings.version, name)
            evaluations[name] = evaluate_model(model, held_out, known=known, relations=asked, name=what)
            console.print(evaluation_table(evaluations[name], name))
            console.print(protocol_line(evaluations[name]))
    if as_json:
        document = _document(graph, target, seconds, models, evaluations)
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
    remove_folder(checkpoint)  # at once: the half of the checkpoints would be taken for a damaged run


def _train_config(settings: Settings, graph: Graph) -> TrainConfig:
    """Return the settings of the run, with the penalty of each entity type where some have their own."""
    config = settings.train
    if not settings.alpha:
        return config
    rest = config.alpha if isinstance(config.alpha, Mapping) else dict.fromkeys(graph.entities, config.alpha)
    return dataclasses.replace(config, alpha={**rest, **settings.alpha})


def _named(version: str, network: str) -> str:
    return f"{version} {network}" if network else version


def _split(graph: Graph, rule: Mapping[str, Any], what: str) -> tuple[Graph, Graph | None]:
    if not rule:
        return graph, None
    known, held_out = graph.split(**rule)
    if not any(map(len, held_out.edges.values())):
        raise DataError(f"{what} {dict(rule)} holds out no edge")
    return known, held_out


def _previous(settings: Settings, networks: Mapping[str, Any]) -> tuple[dict[str, Model], str | None]:
    """Read what every network starts from, model folders or a version that ``export`` wrote, and the version's name."""
    path = settings.previous
    if path is None:
        return {}, None
    if networks and all((path / name / "model.json").is_file() for name in networks):
        return {name: load_previous(path / name) for name in networks}, None
    parent = None if (path / "model.json").is_file() else open_version(path).name
    return {name: load_previous(path, network=name or None) for name in networks}, parent


def _seen(previous: Mapping[str, Model], held_out: Graph) -> list[str]:
    """Say which held-out edges the previous models were trained on: what they already know is no test."""
    lines = []
    for name, model in previous.items():
        for sketch in model.meta.get("edge_sketches", ()):
            if not len(held_out.edges.get(sketch["relation"], ())):
                continue
            edges = held_out.pairs(sketch["relation"])
            share = estimate_overlap(sketch, edges["query"], edges["candidate"])
            if share > TOLERATED:
                what = f"{sketch['relation']!r} of {name!r}" if name else repr(sketch["relation"])
                lines.append(f"{share:.0%} of the held-out edges of {what} were training edges of the previous version")
    return lines


def _told(network: str, model: Model) -> str:
    epochs = model.epochs
    said = f"{network + ': ' if network else ''}{len(epochs)} epochs, last loss {epochs[-1]['loss']:.4f}"
    if "best_epoch" in model.meta:
        said += f", best epoch {model.meta['best_epoch']}"
    for entity, counts in model.meta.get("start", {}).items():
        said += f"; {entity}: " + ", ".join(f"{count:,} {how}" for how, count in counts.items())
    return said


def _save_models(models: Mapping[str, Model], path: Path) -> None:
    if "" in models:
        models[""].save(path)
        return
    with new_folder(path) as folder:
        for name, model in models.items():
            model.save(folder / name)


def _write_split(known: Graph, held_out: Graph, path: Path) -> None:
    with new_folder(path) as folder:
        _write_edges(held_out, folder / "held_out")
        _write_edges(known, folder / "known")


def _write_edges(graph: Graph, folder: Path) -> None:
    """Write a file a relation, called like it or, where no file can be, by its number; and which is which."""
    folder.mkdir()
    files = {}
    for number, name in enumerate(graph.relations):
        try:
            files[name] = f"{check_name(name, 'a relation')}.parquet"
        except ConfigError:
            files[name] = f"relation-{number}.parquet"
        pairs = graph.pairs(name).rename(columns={"query": "source", "candidate": "target"})
        pairs.to_parquet(folder / files[name], index=False)
    write_json(folder / "relations.json", files)


def _trained(model: Model) -> dict[str, Any]:
    usage = {"components": model.meta["components"]} if "components" in model.meta else {}
    return {"epochs": list(model.epochs), **usage}


def _document(
    graph: Graph, path: Path, seconds: float, models: Mapping[str, Model], evaluations: Mapping[str, Evaluation]
) -> dict[str, Any]:
    return {
        "version": str(path),
        "read": list(graph.summary.rows),
        "entities": {name: len(ids) for name, ids in graph.entities.items()},
        "seconds": seconds,
        **(
            _trained(models[""])
            if "" in models
            else {"networks": {name: _trained(model) for name, model in models.items()}}
        ),
        "results": [row for evaluation in evaluations.values() for row in evaluation.results],
    }
