"""The subcommand ``recokit tune``: the configuration of ``recokit pretrain`` in, its best settings out."""

__all__ = ["tune"]

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pretrain.config import TrainConfig
from pretrain.settings import load_settings
from pretrain.tune import default_space
from pretrain.tune import tune as search
from recokit.cli import JsonFlag, text_table
from recokit.errors import DataError, VersionError

_VALIDATION = {"fraction": 0.1, "seed": 1}  # where the file does not say


def tune(
    config: Annotated[Path, typer.Argument(help="A TOML file, as for `recokit pretrain`; [tune] may say what to try.")],
    trials: Annotated[int | None, typer.Option(help="How many settings to try.", min=1)] = None,
    seconds: Annotated[float | None, typer.Option(help="Begin no trial after this time.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search that was stopped.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; a GPU if there is one by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Search for good settings of a training run, on edges held out for validation."""
    settings = load_settings(config)
    wanted = dict(settings.tune)
    base = dataclasses.replace(settings.train, metric=wanted.get("metric", settings.train.metric))
    space = wanted.get("space") or default_space(base)
    count = trials or wanted.get("trials", 20)
    journal = settings.output / f".{settings.version}.tune"
    if journal.exists() and not resume:
        raise VersionError(f"{journal} holds a search: go on with it (--resume), or remove the file")
    settings.output.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=as_json, markup=False, highlight=False)
    graph = settings.graph()
    # The held-out part of [split] is for the last evaluation: nothing here looks at it.
    known = graph.split(**settings.split)[0] if settings.split else graph
    trained, validation = known.split(**(settings.validation or _VALIDATION))
    if not any(map(len, validation.edges.values())):
        raise DataError(f"{config}: the validation part {dict(settings.validation or _VALIDATION)} has no edge")
    with _progress(console, count, base.metric) as callback:
        found = search(
            trained,
            validation,
            base,
            space=space,
            trials=count,
            seconds=seconds or wanted.get("seconds"),
            journal=journal,
            seed=base.seed,
            device=device,
            callback=callback,
        )
    names = [str(name) for name in found.trials if name in space]
    console.print(_table(found.trials, names))
    console.print(
        f"best {base.metric} {found.value:.4f}; to train with these settings:\n\n{_toml(found.config, names)}"
    )
    if as_json:
        best = {name: getattr(found.config, name) for name in names}
        rows = json.loads(found.trials.to_json(orient="records"))
        document = {"metric": base.metric, "value": found.value, "settings": best, "trials": rows}
        typer.echo(json.dumps(document, indent=2, allow_nan=False))


def _toml(config: TrainConfig, names: list[str]) -> str:
    return "\n".join(["[train]", *(f"{name} = {json.dumps(getattr(config, name))}" for name in names)])


def _table(trials: pd.DataFrame, names: list[str]) -> Table:
    columns = [column for column in trials.columns if column not in names]

    def cell(value: Any) -> str:
        if pd.isna(value):
            return ""
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = [[cell(value) for value in row] for row in trials.head(10)[[*columns, *names]].itertuples(index=False)]
    return text_table(f"the best of {len(trials)} trials", [*columns, *names], rows)


@contextmanager
def _progress(console: Console, trials: int, metric: str) -> Iterator[Any]:
    """Yield a callback for ``pretrain.tune`` that draws a bar; nothing where nobody looks."""
    columns = (
        TextColumn("trying settings"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=trials, state="")
        best = float("-inf")

        def callback(event: Mapping[str, Any]) -> None:
            nonlocal best
            if event["event"] == "trial":
                best = max(best, event["value"] if event["value"] is not None else best)
                bar.update(task, completed=event["trial"] + 1, state=f"best {metric} {best:.4f}")
            else:
                bar.update(task, state=f"best {metric} {best:.4f}  trial {event['trial']} epoch {event['epoch']}")

        yield callback
