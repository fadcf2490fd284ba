"""The subcommand ``recokit tune``: the configuration of ``recokit pretrain`` in, its best settings out."""

__all__ = ["tune"]

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pretrain.config import TrainConfig
from pretrain.settings import Settings, load_settings
from pretrain.tune import Space, Tuning, default_space, require_optuna
from pretrain.tune import tune as search
from recokit.cli import JsonFlag, text_table
from recokit.errors import ConfigError, DataError, VersionError

_VALIDATION = {"fraction": 0.1, "seed": 1}  # where the file does not say
_SHOWN = 10  # trials in the table


def tune(
    config: Annotated[Path, typer.Argument(help="A TOML file, as for `recokit pretrain`; [tune] may say what to try.")],
    trials: Annotated[int | None, typer.Option(help="How many settings to try.", min=1)] = None,
    seconds: Annotated[float | None, typer.Option(help="Begin no trial after this time.", min=0)] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an earlier search, or add trials to it.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; a GPU if there is one by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Search for good settings of a training run, on edges held out for validation."""
    require_optuna()
    settings = load_settings(config)
    base, space = _asked(settings, config)
    journal = settings.output / f".{settings.version}.tune"
    if journal.exists() and not resume:
        raise VersionError(f"{journal} holds a search: go on with it (--resume), or remove the file")
    settings.output.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=as_json, markup=False, highlight=False)
    graph = settings.graph()
    # The held-out part of [split] is for the last evaluation: nothing here looks at it.
    known = graph.split(**settings.split)[0] if settings.split else graph
    rule = settings.validation or _VALIDATION
    trained, validation = known.split(**rule)
    if not any(map(len, validation.edges.values())):
        raise DataError(f"{config}: [validation] {dict(rule)} holds out no edge")
    count = trials or settings.tune.get("trials", 20)
    with _progress(console, count, base.metric) as callback:
        found = search(
            trained,
            validation,
            base,
            space=space,
            trials=count,
            seconds=settings.tune.get("seconds") if seconds is None else seconds,
            journal=journal,
            device=device,
            callback=callback,
        )
    _tell(console, found, settings, list(space))
    console.print(f"\nthe search is kept in {journal}; --resume with more --trials goes on with it", soft_wrap=True)
    if as_json:
        best = {name: getattr(found.config, name) for name in space}
        document = {"metric": base.metric, "value": found.value, "settings": best, "trials": _rows(found.trials)}
        typer.echo(json.dumps(document, indent=2, allow_nan=False))


def _asked(settings: Settings, config: Path) -> tuple[TrainConfig, Space]:
    """Return the settings that every trial has and those to try."""
    for key, there in (("previous", settings.previous), ("[[network]]", settings.networks)):
        if there:
            raise ConfigError(f"{config}: a search trains one network, from its start: leave out {key}")
    base = dataclasses.replace(settings.train, metric=settings.tune.get("metric", settings.train.metric))
    return base, settings.tune.get("space") or default_space(base)


def _tell(console: Console, found: Tuning, settings: Settings, names: list[str]) -> None:
    console.print(_table(found.trials, names))
    failed = found.trials[found.trials["state"] == "failed"]
    for number, error in zip(failed["trial"], failed["error"], strict=True):
        console.print(f"trial {number} failed: {error}", soft_wrap=True)
    metric = found.config.metric
    console.print(f"best {metric} {found.value:.4f}; to train with these settings, say in the file:\n", soft_wrap=True)
    console.print(_toml(found.config, settings, names), soft_wrap=True)


def _toml(best: TrainConfig, settings: Settings, names: list[str]) -> str:
    """Return what the file has to say for `recokit pretrain` to repeat the best trial."""
    if best.metric != settings.train.metric:
        names = [*names, "metric"]
    lines = ["[train]", *(f"{name} = {json.dumps(getattr(best, name))}" for name in names)]
    if not settings.validation:
        lines += ["", "[validation]", *(f"{key} = {json.dumps(value)}" for key, value in _VALIDATION.items())]
    return "\n".join(lines)


def _rows(trials: pd.DataFrame) -> list[dict[str, Any]]:
    rows = trials.to_dict(orient="records")
    return [{str(key): None if pd.isna(value) else value for key, value in row.items()} for row in rows]


def _table(trials: pd.DataFrame, names: list[str]) -> Table:
    columns = [str(column) for column in trials.columns if column not in (*names, "error")] + names
    rows = [["" if row[c] is None else _cell(row[c]) for c in columns] for row in _rows(trials.head(_SHOWN))]
    table = text_table(f"{len(trials)} trials, the best first", columns, rows)
    for column in table.columns:
        column.overflow = "fold"
    return table


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def _progress(console: Console, trials: int, metric: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
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
        said = ""

        def callback(event: Mapping[str, Any]) -> None:
            nonlocal said
            if event["event"] == "epoch":
                state = f"{said}trial {event['trial']} epoch {event['epoch']}/{event['epochs']}"
                bar.update(task, completed=event["trial"], state=state)
            else:
                value = "" if event["value"] is None else f" {metric} {event['value']:.4f}"
                said = f"trial {event['trial']} {event['state']}{value}; "
                bar.update(task, completed=event["trial"] + 1, state=said)

        yield callback
