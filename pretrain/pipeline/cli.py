"""The subcommand ``recokit pipeline``: every night's version by one command, or step by step.

Exit codes, for schedulers: 0 done, or nothing to do; 2 bad input; 3 a gate failed, nothing is published and all that
was made is kept; 4 another run works in the folder.
"""

__all__ = ["BUSY", "REFUSED", "pipeline"]

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pretrain.pipeline.lineage import notes_of
from pretrain.pipeline.night import Bars
from pretrain.pipeline.run import Outcome, run_pipeline, show_status
from pretrain.pipeline.settings import PipelineSettings, load_pipeline
from pretrain.pipeline.work import BusyError
from recokit.cli import JsonFlag, emit, progress, text_table

REFUSED, BUSY = 3, 4

Config = Annotated[Path, typer.Argument(help="A TOML file; examples/pipeline.toml shows what it says.")]
Name = Annotated[str | None, typer.Option("--version", help="The version to make, in place of the file's.")]
Day = Annotated[
    datetime | None, typer.Option("--date", formats=["%Y-%m-%d"], help="What {date} stands for; today in UTC.")
]
Folder = Annotated[Path | None, typer.Option("--work", help="The folder to work in, in place of the file's.")]
Force = Annotated[str | None, typer.Option(metavar="STEP", help="Run this step again, and all behind it.")]
Despite = Annotated[
    str | None, typer.Option(metavar="REASON", help="Publish although a gate fails; the reason is written down.")
]
Backwards = Annotated[
    bool, typer.Option("--move-aliases", help="Move aliases although they are at a version of a later day.")
]
Seconds = Annotated[float, typer.Option(help="Time between two checkpoints of the training.", min=0)]

pipeline = typer.Typer(
    no_args_is_help=True, help="Make, measure and publish a version: all steps by one command, or one by one."
)


@pipeline.command()
def run(
    config: Config,
    version: Name = None,
    date: Day = None,
    work: Folder = None,
    force: Force = None,
    despite: Despite = None,
    move_aliases: Backwards = False,
    checkpoint_seconds: Seconds = 60.0,
    as_json: JsonFlag = False,
) -> None:
    """Bring a version up to date, through all steps, and publish it if its gates pass.

    What is there and unchanged is skipped; what was killed goes on.
    """
    settings = _settings(config, version, date, work)
    given = {"force": force, "despite": despite, "move_aliases": move_aliases}
    _until("publish", settings, as_json, **given, checkpoint_seconds=checkpoint_seconds)


def _command(step: str, text: str) -> None:
    """Add the command of one step, which brings those up to date that it stands on."""

    def command(
        config: Config,
        version: Name = None,
        date: Day = None,
        work: Folder = None,
        checkpoint_seconds: Seconds = 60.0,
        as_json: JsonFlag = False,
    ) -> None:
        settings = _settings(config, version, date, work)
        _until(step, settings, as_json, checkpoint_seconds=checkpoint_seconds)

    pipeline.command(name=step, help=f"{text} Steps that it stands on are brought up to date first.")(command)


_command("select", "Write the edges that are used, and how many were left out and why.")
_command("prepare", "Leave rare entities out, and hold edges out.")
_command("train", "Train, from the previous version where there is one.")
_command("benchmark", "Measure the version, the previous one, and the drift between them.")
_command("quantize", "Add codes.")
_command("gates", "Check the gates; exit code 3 where one fails.")
_command("page", "Put the version and its reports together, and write its page.")
_command("publish", "Publish the version if its gates pass, and move the aliases.")


@pipeline.command()
def status(
    config: Config, version: Name = None, date: Day = None, work: Folder = None, as_json: JsonFlag = False
) -> None:
    """Show which steps of a version have been made; nothing is run."""
    outcome = show_status(_settings(config, version, date, work))
    rows = [
        (
            step["name"],
            "to do" if not step["made"] else "failed" if step["name"] == "gates" and not outcome.passed else "made",
            f"{step['seconds']:.1f}" if step["made"] else "",
            step.get("ended", ""),
            step["key"][:12],
        )
        for step in outcome.steps
    ]
    state = "published" if outcome.published else "not published"
    if outcome.despite is not None:
        state += f" despite failed gates: {outcome.despite}"
    title = f"version {outcome.version}, from {outcome.parent or 'scratch'}, {state}"
    emit(outcome.to_dict(), as_json, text_table(title, ("step", "state", "seconds", "ended", "key"), rows))


def _settings(config: Path, version: str | None, date: datetime | None, work: Path | None) -> PipelineSettings:
    return load_pipeline(config, version=version, day=None if date is None else date.date(), work=work)


def _until(step: str, settings: PipelineSettings, as_json: bool, **options: Any) -> None:
    """Run up to a step, show what came of it, and exit with its code."""
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    tell: Callable[[str], None] = console.print if not as_json or console.is_terminal else lambda line: None
    try:
        outcome = run_pipeline(settings, until=step, tell=tell, bars=_TerminalBars(console), **options)
    except BusyError as error:
        console.print(f"recokit: {error}")
        raise typer.Exit(BUSY) from None
    if as_json:
        typer.echo(json.dumps(outcome.to_dict(), indent=2, default=str, allow_nan=False))
    else:
        _show(outcome, settings)
    if not outcome.passed and not outcome.published:
        failed = [gate for gate in outcome.gates if gate["status"] == "failed"]
        console.print(
            f"recokit: {outcome.version} is not published: {len(failed)} of {len(outcome.gates)} bounds are not kept; "
            f"{failed[0]['gate']}: {failed[0]['reason']}. All that was made is kept in {settings.work}; "
            "`recokit pipeline run --despite REASON` publishes it as it is"
        )
        raise typer.Exit(REFUSED)


def _show(outcome: Outcome, settings: PipelineSettings) -> None:
    """Show tables for people: what was selected, the gates, where things are."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    facts = {step["name"]: step.get("facts", {}) for step in outcome.steps}
    if facts.get("select"):
        from pretrain.pipeline.selection import selection_table

        console.print(text_table("edges", *selection_table(facts["select"]["relations"])))
    if outcome.gates:
        rows = [(gate["gate"], gate["bound"], gate["status"], gate["reason"]) for gate in outcome.gates]
        console.print(text_table("gates", ("gate", "bound", "status", "why"), rows))
    notes = facts.get("benchmark") or {}
    for benchmark, why in notes.get("seen", {}).items():
        console.print(f"careful: {why}: as {benchmark!r} measures it, that version is no yardstick")
    for benchmark, why in notes.get("parent", {}).items():
        console.print(f"version {outcome.parent} could not be measured by {benchmark!r}: {why}")
    for line in notes_of({name: found for name, found in facts.items() if found}):
        console.print(line)
    for line in outcome.lines:
        console.print(line)
    if outcome.published:
        console.print(f"version {outcome.version} is in {settings.store}")
    elif outcome.steps:
        console.print(f"{outcome.steps[-1]['name']}: {outcome.steps[-1]['folder']}")


class _TerminalBars(Bars):
    """Progress bars on a terminal; nothing where nobody looks."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def training(self, what: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        from pretrain.progress import training_progress

        with training_progress(what, self._console) as callback:
            yield callback

    def counting(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
        return progress(what)
