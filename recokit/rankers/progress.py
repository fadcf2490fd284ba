"""Progress of a ranker's training on a terminal; nothing where nobody looks."""

__all__ = ["fit_progress"]

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def fit_progress(what: str, console: Console | None = None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a callback for ``fit`` that draws a bar: steps, steps a second, the losses last seen.

    Args:
        what: Names the run in front of the bar.
        console: Where to draw, standard error by default; nothing is drawn unless it is a terminal.
    """
    console = Console(stderr=True) if console is None else console
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("steps  {task.fields[speed]}{task.fields[losses]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None, speed="", losses="")
        first: list[float] = []  # the step and the time of the first one heard of: a resumed run does not begin at 1

        def callback(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                first[:] = first or [event["step"], time.perf_counter()]
                seconds = time.perf_counter() - first[1]
                speed = f"{(event['step'] - first[0]) / seconds:,.0f} steps/s" if event["step"] > first[0] else ""
                bar.update(task, total=event["num_steps"], completed=event["step"], speed=speed)
            else:
                valid = "" if math.isnan(event["valid_log_loss"]) else f", valid {event['valid_log_loss']:.4f}"
                bar.update(task, losses=f"  loss {event['train_log_loss']:.4f}{valid}")

        yield callback
