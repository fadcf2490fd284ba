"""Progress of a training run on a terminal; nothing where nobody looks."""

__all__ = ["preparation_progress", "training_progress"]

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def training_progress(what: str, console: Console) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a callback for ``pretrain.train`` that draws a bar: epochs, loss, edges per second.

    Args:
        what: Names the run in front of the bar.
        console: Where to draw; nothing is drawn unless it is a terminal.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("epochs  {task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None, state="")

        def callback(event: Mapping[str, Any]) -> None:
            if event["event"] == "epoch":
                state = f"loss {event['loss']:.3f}  {event['edges_per_second'] / 1e3:,.0f} k edges/s"
                bar.update(task, total=event["epochs"], completed=event["epoch"], state=state)
            else:
                finished = event["epoch"] - 1 + event["done"] / event["edges"]
                bar.update(task, total=event["epochs"], completed=round(finished, 1))

        yield callback


@contextmanager
def preparation_progress(console: Console) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a callback for ``pretrain.prepare`` that draws a bar: how far it is, and in which phase."""
    columns = TextColumn("preparing edges"), BarColumn(bar_width=30), TextColumn("{task.fields[phase]}")
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("", total=1.0, phase="")

        def callback(event: Mapping[str, Any]) -> None:
            done = (event["number"] - 1 + event["done"]) / event["phases"]
            bar.update(task, completed=done, phase=event["phase"])

        yield callback
