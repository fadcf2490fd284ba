"""The subcommand ``recokit ablate``: a configuration file in, tables of what each set of features is worth out."""

__all__ = ["ablate"]

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from recokit.cli import JsonFlag, emit

if TYPE_CHECKING:
    from recokit.ablation.training import Callback


def ablate(
    config: Annotated[Path, typer.Argument(help="A TOML file; examples/ablate.toml shows what it says.")],
    output: Annotated[
        Path, typer.Option(help="Folder of the runs and the report; runs that are finished there are not made again.")
    ] = Path("ablation"),
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each set, in place of what the file says.")] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw the differences too, as ablation.png.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train rankers with and without features, and compare them on the same test rows."""
    from recokit import ablation
    from recokit.ablation.settings import load_ablation
    from recokit.overlap import LeakWarning

    settings = load_ablation(config)
    choices = {**settings.choices, **({} if seeds is None else {"seeds": range(seeds)})}
    train, valid, test = settings.source("train"), settings.source("valid"), settings.read("test")
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    with _progress(console) as callback, warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakWarning)  # the callback says it
        found = ablation.ablate(
            settings.features,
            settings.sets,
            train,  # type: ignore[arg-type]  # the file has to name it
            valid,
            test,  # type: ignore[arg-type]
            ranker=settings.rankers,
            config=settings.fit,
            folder=output / "runs",
            callback=callback,
            **choices,
        )
    found.save(output)
    written = ["report.json", "ablation.md"]
    if plot:
        written.append(found.plot(output / "ablation.png").name)
    emit(json.loads(found.report.to_json()), as_json, *_tables(found))
    for note in found.notes if not as_json else ():
        console.print(note)
    console.print("written: " + ", ".join(str(output / name) for name in written))


def _tables(found: Any) -> list[Any]:
    return [found.to_rich(what) for what in ("values", "differences")[: len(found.sets)]]


@contextmanager
def _progress(console: Console) -> "Iterator[Callback]":
    """Yield a callback of ``ablate`` that prints a line for each run, and on a terminal draws the run's steps."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(event: dict[str, Any]) -> None:
            match event["event"]:
                case "leak":
                    bar.console.print(f"careful: {event['message']}")
                case "run":
                    bar.reset(task, total=None, description=_place(event))
                case "step":
                    bar.update(task, completed=event["step"], total=event["num_steps"])
                case "finished":
                    bar.console.print(f"{_place(event)}: {_said(event)}")

        yield tell


def _place(event: dict[str, Any]) -> str:
    return f"{event['number']}/{event['of']} {event['run']}"


def _said(event: dict[str, Any]) -> str:
    if event["kept"]:
        return "is there"
    best = event["best"]
    loss = best["valid_log_loss"]
    valid = "" if loss is None else f", validation log loss {loss:.4f}"
    return f"best at step {best['step']} of {event['evaluations']} evaluations{valid}, {best['seconds']:.1f} s"
