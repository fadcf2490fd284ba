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
from pretrain.pipeline.lineage import passed
from pretrain.pipeline.night import STEPS, Bars, Night, behind
from pretrain.pipeline.publication import move_aliases, retire_older
from pretrain.pipeline.settings import PipelineSettings
from pretrain.pipeline.steps import build_step
from pretrain.pipeline.work import Work
from recokit.errors import ConfigError, VersionError, closest
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
        lines: What else was done: aliases that moved, versions that were retired.
    """

    version: str
    parent: str | None
    steps: tuple[dict[str, Any], ...]
    gates: tuple[dict[str, Any], ...] = ()
    passed: bool = True
    published: bool = False
    lines: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return dataclasses.asdict(self)


def run_pipeline(
    settings: PipelineSettings,
    *,
    until: str = "publish",
    force: str | None = None,
    despite: str | None = None,
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
    work, tell = Work(settings.work), tell or (lambda line: None)
    with work.held(f"{settings.file.path.name}, version {settings.version}"):
        night = Night(settings, work, bars=bars, checkpoint_seconds=checkpoint_seconds, despite=despite)
        night.begin()
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
    steps = []
    for step in STEPS:
        record = night.work.record(step, night.key(step))
        facts = {} if record is None else {key: record[key] for key in ("seconds", "ended", "facts")}
        folder = str(night.folder(step))
        steps.append({"name": step, "key": night.key(step), "made": record is not None, "folder": folder, **facts})
    gates = _gates(night)
    return Outcome(
        settings.version,
        night.parent_name,
        tuple(steps),
        gates,
        passed(gates),
        published=bool(night.settled.get("published")),
    )


def _run(night: Night, until: str, tell: Tell) -> Outcome:
    asked = STEPS[: STEPS.index(until) + 1]
    keys = {**night.settled.get("steps", {}), **{step: night.key(step) for step in asked}}
    if keys != night.settled.get("steps"):
        night.settle({"steps": keys})  # first, so that nothing prunes what is being made
    steps: list[dict[str, Any]] = []
    for step in asked:
        if step == "publish" and not passed(_gates(night)) and night.despite is None:
            break
        steps.append(_step(night, step, steps, tell))
    gates = _gates(night) if "gates" in [step["name"] for step in steps] else ()
    outcome = Outcome(night.settings.version, night.parent_name, tuple(steps), gates, passed(gates))
    if steps[-1]["name"] != "publish":
        return outcome
    if not outcome.passed:
        night.settle({"despite": night.despite})
    return dataclasses.replace(outcome, published=True, lines=tuple(_release(night, tell)))


def _step(night: Night, step: str, before: list[dict[str, Any]], tell: Tell) -> dict[str, Any]:
    """Run a step, or find that it has been."""
    key = night.key(step)
    record = night.work.record(step, key)
    skipped = record is not None
    if record is None:
        tell(f"{step} ...")
        record = night.work.make(step, key, lambda folder: _built(night, step, folder, before), night.keyed[step])
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


def _gates(night: Night) -> tuple[dict[str, Any], ...]:
    path = night.folder("gates") / "gates.json"
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
    lines = move_aliases(settings, store, night.settled, night.settle)
    lines += retire_older(settings, store)
    night.settle({"done": True})
    night.work.prune(_KEPT_RUNS)
    for line in lines:
        tell(line)
    return lines


def _finished(night: Night, force: str | None, tell: Tell) -> Outcome:
    """End what a killed run has left to do behind the publication, or say that nothing is."""
    settings, lines = night.settings, []
    if force is not None:
        raise VersionError(f"version {settings.version!r} is published and never changed: give another --version")
    if not night.settled.get("done"):
        lines = _release(night, tell)
    else:
        tell(f"version {settings.version} is published; there is nothing to do")
        changed = [step for step, key in night.settled["steps"].items() if night.key(step) != key]
        if changed:
            tell(
                f"what its step {changed[0]!r} depends on has changed since: a version is never changed, so give "
                "another --version to use it"
            )
    steps = [
        {"name": step, "key": key, "seconds": 0.0, "skipped": True} for step, key in night.settled["steps"].items()
    ]
    return Outcome(settings.version, night.parent_name, tuple(steps), published=True, lines=tuple(lines))
