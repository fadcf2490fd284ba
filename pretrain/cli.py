"""The subcommand ``recokit pretrain``: a configuration file in, an embedding version out."""

__all__ = ["pretrain"]

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pretrain.evaluate import Evaluation
from pretrain.evaluate import evaluate as evaluate_model
from pretrain.export import export
from pretrain.graph import Graph
from pretrain.progress import training_progress
from pretrain.settings import load_settings
from pretrain.train import train
from recokit.cli import JsonFlag, text_table
from recokit.errors import DataError, VersionError
from recokit.table.folder import new_folder


def pretrain(
    config: Annotated[Path, typer.Argument(help="A TOML file; examples/pretrain.toml shows what it says.")],
    save_model: Annotated[Path | None, typer.Option(help="Keep the model folder too, for pretrain.Model.load.")] = None,
    save_split: Annotated[
        Path | None, typer.Option(help="Write the held-out and the known edges here, a Parquet file a relation.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; a GPU if there is one by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train embeddings of a network and export them as a version."""
    settings = load_settings(config)
    target = settings.output / settings.version
    for path in (target, save_model, save_split):  # before the work, not after it
        if path is not None and path.exists():
            raise VersionError(f"{path} exists already, and a version is never changed: choose another name")
    settings.output.mkdir(parents=True, exist_ok=True)  # what cannot be written should not be trained first
    console = Console(stderr=as_json, markup=False, highlight=False)
    graph = settings.graph()
    console.print(_summary(graph))
    console.print("entities: " + ", ".join(f"{len(ids):,} {name}" for name, ids in graph.entities.items()))
    known, held_out = graph.split(**settings.split) if settings.split else (graph, None)
    if held_out is not None and not any(map(len, held_out.edges.values())):
        raise DataError(f"{config}: [split] {settings.split} holds out no edge")
    started = time.perf_counter()
    with training_progress(f"training {settings.version}", console) as callback:
        model = train(known, settings.train, device=device, callback=callback)
    seconds = time.perf_counter() - started
    console.print(
        f"trained {settings.train.epochs} epochs in {seconds:.1f} s, last loss {model.epochs[-1]['loss']:.4f}"
    )
    if save_split is not None and held_out is not None:
        with new_folder(save_split) as folder:
            _write_edges(held_out, folder / "held_out")
            _write_edges(known, folder / "known")
    if save_model is not None:
        model.save(save_model)
    version = export(model, target)
    untrained = sum(int((degrees == 0).sum()) for degrees in model.degrees.values())
    left_out = f"; {untrained:,} entities without a training edge are left out" if untrained else ""
    console.print(f"exported {', '.join(version.tables)} to {target}{left_out}")
    evaluation = None if held_out is None else evaluate_model(model, held_out, known=known, name=settings.version)
    if evaluation is not None:
        console.print(_evaluation_table(evaluation))
    if as_json:
        typer.echo(json.dumps(_document(graph, target, seconds, model.epochs, evaluation), indent=2, allow_nan=False))


def _write_edges(graph: Graph, folder: Path) -> None:
    folder.mkdir()
    for name in graph.relations:
        pairs = graph.pairs(name).rename(columns={"query": "source", "candidate": "target"})
        pairs.to_parquet(folder / f"{name}.parquet", index=False)


def _document(graph: Graph, path: Path, seconds: float, epochs: Any, evaluation: Evaluation | None) -> dict[str, Any]:
    return {
        "version": str(path),
        "read": list(graph.summary.rows),
        "entities": {name: len(ids) for name, ids in graph.entities.items()},
        "seconds": seconds,
        "epochs": list(epochs),
        "results": [] if evaluation is None else list(evaluation.results),
    }


def _summary(graph: Graph) -> Table:
    rows = [
        [row["relation"], *(f"{row[key]:,}" for key in ("read", "null", "below_min_count", "edges"))]
        for row in graph.summary.rows
    ]
    return text_table("edges read", ("relation", "read", "without an end", "below min_count", "edges"), rows)


def _evaluation_table(evaluation: Evaluation) -> Table:
    frame = evaluation.to_frame()
    rows = [
        [str(relation), *(f"{v:,.0f}" if name == "questions" else f"{v:.4f}" for name, v in row.items())]
        for relation, row in frame.iterrows()
    ]
    return text_table("held-out edges, filtered rank among all entities", ("relation", *frame.columns), rows)
