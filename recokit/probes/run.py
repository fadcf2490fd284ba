"""Every task on every subject: the version, and what its vectors have to beat."""

__all__ = ["run_probes"]

from collections.abc import Callable, Iterator, Mapping, Sequence

from recokit.errors import ConfigError, closest
from recokit.probes.degrees import UnknownDegrees
from recokit.probes.subjects import BASELINES, FLOOR_NAMES, Baseline
from recokit.probes.task import Bench, Outcome, Rivals, Skipped, Subject, Task
from recokit.report import Report, Result, gather_provenance
from recokit.table import FeatureTable, Version


def run_probes(
    version: Version | Mapping[str, FeatureTable],
    tasks: Sequence[Task],
    *,
    name: str | None = None,
    baselines: Sequence[Baseline] = BASELINES,
    previous: Version | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure what a version's vectors are good for, beside what needs no vectors (Embeddings@Twitter 2018).

    The report has, for each metric and group: a row of the version, one of each baseline, and the difference of the
    two, ``"<name> - random"``, paired: both are measured on the same entities, folds and resamples. An interval of a
    difference that excludes 0 is one at the 5 % level.

    Args:
        version: The version, or its tables by name (such as those of another trainer).
        tasks: What to measure.
        name: What the rows call the version; its own name where not given.
        baselines: ``"random"``, ``"degree"``, ``"shuffled"``. One that a task cannot have, such as degrees that
            nobody knows, is left out, and the version's row says so.
        previous: The version before, for tasks that compare with it.
        seed: Of folds, pairs, samples and baselines; in the report, the seed of the rows.
        bootstrap: Resamples for intervals; 0 for none.
        progress: Called with how many measurements are done, and of how many.

    Raises:
        ConfigError: A baseline does not exist, there is no task, or two would give rows of one name.
        DataError: A task's labels do not fit the tables.
        MissingDependencyError: A logistic regression is asked for, and scikit-learn is not installed.
    """
    _check(tasks, baselines)
    bench = Bench(version, previous, seed, bootstrap)
    called = name or _name_of(version)
    subjects = [Subject(called, "version", bench), *(Subject(each, each, bench) for each in baselines)]
    if called in (*baselines, *FLOOR_NAMES):
        raise ConfigError(f"the version is called {called!r} like a baseline: give it another name")
    results: list[Result] = []
    for number, task in enumerate(tasks):
        rows: list[Result] = []
        for done, part in enumerate(_measured(task, subjects), start=1):
            rows += part
            if progress is not None:
                progress(number * len(subjects) + min(done, len(subjects)), len(tasks) * len(subjects))
        taken = {(row.metric, row.group) for row in results} & {(row.metric, row.group) for row in rows}
        for metric, group in sorted(taken, key=str):
            raise ConfigError(f"task {task.name!r} measures {metric!r} of {group!r}, as another one does: rename one")
        results += rows
    return Report(results, gather_provenance(_fingerprints(version)))


def _measured(task: Task, subjects: Sequence[Subject]) -> Iterator[list[Result]]:
    """Yield the rows of one task: the version's, then each baseline's and rival's with the difference to it."""
    mine, *others = subjects
    seed = mine.bench.seed
    measure = task.prepare(mine.bench)
    if isinstance(measure, Skipped):
        said = {**measure.protocol, "skipped": measure.why}
        yield [Result(mine.name, measure.metric, float("nan"), seed=seed, group=measure.group, protocol=said)]
        yield from ([] for _ in others)
        return
    rivals: Mapping[str, Callable[[], Outcome]] = {}
    if isinstance(measure, Rivals):
        rivals = measure.rivals
        measure = measure.measure
    own = measure(mine)
    first = own.results(mine.name, seed=seed)
    yield first
    for subject in others:
        try:
            outcome = measure(subject)
        except UnknownDegrees as error:
            for row in first:
                row.protocol[f"no_{subject.kind}"] = str(error)
            yield []
            continue
        yield _beside(own, mine.name, outcome, subject.name, seed)
    for name, rival in rivals.items():
        yield _beside(own, mine.name, rival(), name, seed)


def _beside(own: Outcome, mine: str, outcome: Outcome, name: str, seed: int) -> list[Result]:
    """Return the rows of what the version has to beat, and those of the difference."""
    paired = {"difference": f"paired with {name}: same entities, folds and resamples"}
    return outcome.results(name, seed=seed) + (own - outcome).results(f"{mine} - {name}", seed=seed, protocol=paired)


def _check(tasks: Sequence[Task], baselines: Sequence[Baseline]) -> None:
    if not tasks:
        raise ConfigError("there is no task to run")
    for baseline in baselines:
        if baseline not in BASELINES:
            raise ConfigError(f"baseline {baseline!r} does not exist; {closest(str(baseline), BASELINES)}")
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{names.count(name)} tasks are called {name!r}, expected names that differ")


def _name_of(version: Version | Mapping[str, FeatureTable]) -> str:
    if isinstance(version, Version):
        return version.name
    names = sorted({table.version for table in version.values()})
    if not names:
        raise ConfigError("there is no table to measure")
    return ", ".join(names)


def _fingerprints(version: Version | Mapping[str, FeatureTable]) -> dict[str, str]:
    """Return digests of the tables, which files keep ready."""
    if isinstance(version, Version):
        return {name: version.open(name).fingerprint for name in version.tables}
    return {name: table.fingerprint for name, table in version.items()}
