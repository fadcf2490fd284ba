"""The pipeline: selection, preparation, training, benchmarks, quantization, gates, page, publication.

Each step has a key that says what its result depends on (``pretrain.pipeline.work``), and is skipped where the folder
of that key is there. A run may stop behind any step, and another goes on. A failed gate stops it before publication;
all that was made stays, page and all, to be looked at.
"""

__all__ = ["Outcome", "Tell", "run_pipeline", "show_status"]

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pretrain.pipeline.benchmarks import check_benchmarks
from pretrain.pipeline.inputs import check_store
from pretrain.pipeline.lineage import passed
from pretrain.pipeline.night import STEPS, Bars, Night, behind
from pretrain.pipeline.parent import days_of
from pretrain.pipeline.publication import move_aliases as moved_aliases
from pretrain.pipeline.publication import retire_older
from pretrain.pipeline.settings import PipelineSettings
from pretrain.pipeline.steps import build_step
from pretrain.pipeline.work import Work
from recokit.errors import ConfigError, DataError, VersionError, closest
from recokit.table.folder import read_json

Tell = Callable[[str], None]
_KEPT_RUNS = 3  # versions whose results stay in the work folder


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        version: The version's name.
        parent: The version that it started from or was compared with, or None.
        steps: name, key, seconds, skipped, folder and facts of each step that was asked for.
        gates: What ``check_gates`` found; empty where the run stopped before.
        passed: Whether no gate has failed.
        published: Whether the version is in the store.
        lines: What else was done: aliases that moved or stayed, versions that were retired.
        despite: Why it was published although a gate failed.
    """

    version: str
    parent: str | None
    steps: tuple[dict[str, Any], ...]
    gates: tuple[dict[str, Any], ...] = ()
    passed: bool = True
    published: bool = False
    lines: tuple[str, ...] = ()
    despite: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return dataclasses.asdict(self)


def run_pipeline(
    settings: PipelineSettings,
    *,
    until: str = "publish",
    force: str | None = None,
    despite: str | None = None,
    move_aliases: bool = False,
    tell: Tell | None = None,
    bars: Bars | None = None,
    checkpoint_seconds: float = 60.0,
) -> Outcome:
    """Bring a version up to date, up to a step.

    Args:
        settings: The configuration.
        until: The last step to run; ``"publish"`` publishes.
        force: A step to run again, with all behind it.
        despite: Publish although a gate fails, for this reason, which is written down.
        move_aliases: Move aliases although they are at a version of a later day.
        tell: Called with a line when something happens.
        bars: Progress.
        checkpoint_seconds: Time between two checkpoints of the training.

    Raises:
        BusyError: Another run works in the folder.
        VersionError: The version is in the store already, and this pipeline did not make it; or it did, and ``force``
            asks for another one.
    """
    for step in (until, force):
        if step is not None and step not in STEPS:
            raise ConfigError(f"there is no step {step!r}; {closest(step, STEPS)}")
    if despite is not None and not despite.strip():
        raise ConfigError("despite is empty, expected the reason to publish although a gate fails")
    work, tell = Work(settings.work), tell or (lambda line: None)
    with work.held(f"{settings.file.path.name}, version {settings.version}"):
        night = Night(
            settings,
            work,
            bars=bars,
            checkpoint_seconds=checkpoint_seconds,
            despite=despite,
            move_aliases=move_aliases,
        )
        if not night.settled.get("published"):
            check_store(settings)
        begun = bool(night.settled)
        night.begin()
        if not begun:
            _say_start(night, tell)
        if night.settled.get("published"):
            return _finished(night, force, tell)
        check_benchmarks(settings)
        if force is not None:
            for step in behind(force):
                work.drop(step, night.key(step))
        return _run(night, until, tell)


def show_status(settings: PipelineSettings) -> Outcome:
    """Say which steps of a version have been made; nothing is changed and no folder held."""
    night = Night(settings, Work(settings.work, look=True))
    night.begin(look=True)
    published = bool(night.settled.get("published"))
    steps = []
    for step in STEPS:  # a published version is what it is, whatever has become of its inputs
        key = night.settled["steps"][step] if published else night.key(step)
        record = night.work.record(step, key)
        facts = {} if record is None else {key: record[key] for key in ("seconds", "ended", "facts")}
        folder = str(night.work.folder(step, key))
        steps.append({"name": step, "key": key, "made": record is not None, "folder": folder, **facts})
    gates = _gates(Path(steps[STEPS.index("gates")]["folder"]))
    despite = None if passed(gates) else night.settled.get("despite")
    return Outcome(
        settings.version,
        night.parent_name,
        tuple(steps),
        gates,
        passed(gates),
        published=published,
        despite=despite,
    )


def _say_start(night: Night, tell: Tell) -> None:
    """Say where a night that is made up for starts from, where that is not its own past."""
    settings, parent = night.settings, night.parent_name
    if settings.previous == "none":
        return
    days = days_of(settings.store)
    if parent is None and days:
        earliest = next(iter(days.values()))
        tell(
            f"{settings.store} has no version of {settings.date} or before, the earliest is of {earliest}: "
            "nothing to start from"
        )
    elif (day := days.get(str(parent), settings.date)) > settings.date:
        tell(f"careful: it starts from version {parent}, which is of {day}, a later day than {settings.date}")


def _run(night: Night, until: str, tell: Tell) -> Outcome:
    asked = STEPS[: STEPS.index(until) + 1]
    keys = {**night.settled.get("steps", {}), **{step: night.key(step) for step in asked}}
    if keys != night.settled.get("steps"):
        night.settle({"steps": keys})  # first, so that nothing prunes what is being made
    steps: list[dict[str, Any]] = []
    for step in asked:
        if step == "publish" and not passed(_gates(night.folder("gates"))) and night.despite is None:
            break
        steps.append(_step(night, step, steps, tell))
    gates = _gates(night.folder("gates")) if "gates" in [step["name"] for step in steps] else ()
    outcome = Outcome(night.settings.version, night.parent_name, tuple(steps), gates, passed(gates))
    if steps[-1]["name"] != "publish":
        return outcome
    if not outcome.passed:
        night.settle({"despite": night.despite})
    despite = None if outcome.passed else night.despite
    return dataclasses.replace(outcome, published=True, lines=tuple(_release(night, tell)), despite=despite)


def _step(night: Night, step: str, before: list[dict[str, Any]], tell: Tell) -> dict[str, Any]:
    """Run a step, or find that it has been."""
    key = night.key(step)
    record = night.work.record(step, key)
    skipped = record is not None
    if record is None:
        tell(f"{step} ...")
        try:
            record = night.work.make(step, key, lambda folder: _built(night, step, folder, before), night.keyed[step])
        except OSError as error:  # such as a full disk, of which the system does not say which
            if error.filename is not None or error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, str(night.folder(step))) from error
    seconds = float(record["seconds"])
    tell(f"{step}: unchanged since {record['ended']}" if skipped else f"{step}: {seconds:.1f} s")
    return {
        "name": step,
        "key": key,
        "seconds": seconds,
        "skipped": skipped,
        "folder": str(night.folder(step)),
        "facts": record["facts"],
    }


def _built(night: Night, step: str, folder: Path, before: list[dict[str, Any]]) -> Mapping[str, Any]:
    facts = build_step(step, night, folder, before)
    night.check_unchanged(step)
    return facts


def _gates(folder: Path) -> tuple[dict[str, Any], ...]:
    path = folder / "gates.json"
    return tuple(read_json(path)) if path.is_file() else ()


def _release(night: Night, tell: Tell) -> list[str]:
    """Publish what was put together, move the aliases, retire, clear up: each is done once, killed or not."""
    from recokit.store import EmbeddingStore

    settings = night.settings
    store = EmbeddingStore(settings.store)
    if not night.settled.get("published"):
        folder = night.folder("publish") / settings.version
        with night.bars.counting("publishing") as progress:
            store.publish_folder(folder, name=settings.version, progress=progress)
        tell(f"published {settings.version} to {settings.store}")
        night.settle({"published": night.work.record("publish", night.key("publish"))["facts"]["sha256"]})  # type: ignore[index]
    lines = moved_aliases(settings, store, night.settled, night.settle, backwards=night.move_aliases)
    lines += retire_older(settings, store)
    night.settle({"done": True})
    night.work.prune(_KEPT_RUNS)
    for line in lines:
        tell(line)
    return lines


def _changed(night: Night) -> str | None:
    """Return the first step of a published version whose inputs have changed since; those that are gone have not."""
    try:
        return next((step for step, key in night.settled["steps"].items() if night.key(step) != key), None)
    except (OSError, DataError):
        return None


def _finished(night: Night, force: str | None, tell: Tell) -> Outcome:
    """End what a killed run has left to do behind the publication, or say that nothing is."""
    settings, lines = night.settings, []
    if force is not None:
        raise VersionError(f"version {settings.version!r} is published and never changed: give another --version")
    held = any(move.get("held") for move in night.settled.get("aliases", {}).values())
    if not night.settled.get("done") or (held and night.move_aliases):
        lines = _release(night, tell)
    else:
        tell(f"version {settings.version} is published; there is nothing to do")
        changed = _changed(night)
        if changed is not None:
            tell(
                f"what its step {changed!r} depends on has changed since: a version is never changed, so give "
                "another --version to use it"
            )
    steps = [
        {"name": step, "key": key, "seconds": 0.0, "skipped": True} for step, key in night.settled["steps"].items()
    ]
    return Outcome(settings.version, night.parent_name, tuple(steps), published=True, lines=tuple(lines))
