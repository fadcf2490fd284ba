"""A small search over the few settings that matter, on a validation part; Optuna chooses what to try (TPE).

    found = tune(known, validation, TrainConfig(comparator="dot"), trials=30)
    model = train(known, found.config)

A trial that is worse than the median of the others after as many epochs is stopped (``MedianPruner``), though not in
the first third of its epochs: there it would often be the best one, whose learning rate is low.  What is tried next
depends on the seed and the trials before it alone, and with ``journal`` every trial is written down as it ends: a
search that was stopped loses the trial that was running, and goes on as if it never had been.
"""

__all__ = ["Space", "Tuning", "check_space", "default_space", "require_optuna", "tune"]

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from pretrain.config import TrainConfig
from pretrain.graph import Graph
from pretrain.train import train
from recokit.errors import (
    ConfigError,
    DataError,
    FormatError,
    MissingDependencyError,
    RecokitError,
    VersionError,
    closest,
)
from recokit.table.folder import json_object, manifest_value, read_manifest, write_json

if TYPE_CHECKING:
    import optuna

Space = Mapping[str, Sequence[Any] | Mapping[str, Any]]
_Callback = Callable[[Mapping[str, Any]], None]
_FORMAT = "tuning/1"
_FIELDS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
_RANGE_KEYS = ("low", "high", "log")
_STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}  # ours, the best first, to Optuna's
_RECORD: Mapping[str, Any] = {  # what the journal holds of a trial beside its number
    "state": str,
    "value": float | int | None,
    "epoch": int | None,
    "seconds": float | int,
    "error": str | None,
    "settings": dict,
    "curve": list,
}
_STARTUP_TRIALS = 5  # that are drawn by chance, and before which none is stopped
_UNTOUCHED = 1 / 3  # share of the epochs in which a trial is not stopped


@dataclasses.dataclass(frozen=True, eq=False)
class Tuning:
    """What a search found.

    Attributes:
        config: The settings of the best trial.
        value: Its metric on the validation part.
        trials: One row a trial, best first: trial, state (``"complete"``, ``"pruned"``, ``"failed"``), the metric and
            the epoch of its best, seconds, error (why it failed), and the settings tried.
    """

    config: TrainConfig
    value: float
    trials: pd.DataFrame


def default_space(config: TrainConfig) -> Space:
    """Return the settings worth trying for a configuration: learning rate, negatives, and what sets the scale."""
    space: dict[str, Any] = {"learning_rate": {"low": 0.02, "high": 0.5, "log": True}}
    if config.uniform_negatives != "all":
        space["uniform_negatives"] = [100, 300, 1000]
    if config.comparator == "cos":
        space["temperature"] = {"low": 0.05, "high": 0.6, "log": True}
    else:
        space["l2" if config.operator != "complex_diagonal" else "n3"] = {"low": 1e-4, "high": 0.3, "log": True}
    return space


def tune(
    graph: Graph,
    validation: Graph,
    config: TrainConfig | None = None,
    *,
    space: Space | None = None,
    trials: int = 20,
    seconds: float | None = None,
    journal: str | Path | None = None,
    device: str | torch.device | None = None,
    callback: _Callback | None = None,
) -> Tuning:
    """Try settings on a validation part and return the best.

    A trial that fails, because its loss is not finite, its settings do not go with the graph or memory runs out, is a
    bad trial and not the end of the search.  Where the space is of lists alone and has no more combinations than
    ``trials``, each is tried once.

    Args:
        graph: The edges to train on.
        validation: Held-out edges; ``config.metric`` is measured on them, filtered, among all entities, and a trial
            counts by its best epoch (of its best restart).
        config: The settings that are not searched; its seed is that of the choices too.
        space: Setting to a list of choices, or to ``{"low", "high"[, "log"]}``, both ends included, whole numbers for
            settings that are whole; see ``default_space``.
        trials: How many to try, those of an earlier search in the journal included.
        seconds: Begin no trial after this time.
        journal: A file that the search is written to after every trial, and goes on from where it is there.
        device: Where to train.
        callback: Called after every epoch (``event="epoch"``, see ``train``, and the trial's number) and every trial
            (``event="trial"``, trials, and what the journal holds of it: trial, state, value, epoch, seconds, error,
            settings, curve).

    Raises:
        ConfigError: A setting does not exist, values of the space do not go together, or the journal's folder is not
            there.
        DataError: No trial came to an end.
        FormatError: The journal is no journal, or a trial in it is damaged.
        VersionError: The journal is of another search.
        MissingDependencyError: Optuna is not installed.
    """
    require_optuna()
    config = config or TrainConfig()
    space = space or default_space(config)
    check_space(space, config)
    search = _identity(graph, validation, config, space)
    records = [] if journal is None else _read(Path(journal), search)
    every = _combinations(space, trials)
    started = time.monotonic()
    while len(records) < trials and (seconds is None or time.monotonic() - started < seconds):
        left = None
        if every is not None:
            tried = [record["settings"] for record in records]
            left = next((settings for settings in every if settings not in tried), None)
            if left is None:
                break
        trial = _ask(space, records, config.seed, left)
        records.append(_try(trial, graph, validation, config, device=device, callback=callback))
        if journal is not None:
            _write(Path(journal), search, records)
        if callback:
            callback({"event": "trial", "trials": trials, **records[-1]})
    complete = [record for record in records if record["state"] == "complete"]
    if not complete:
        last = f"; the last: {records[-1]['error']}" if records else ""
        raise DataError(f"tune: none of {len(records)} trials came to an end{last}")
    best = max(complete, key=lambda record: (record["value"], -record["trial"]))
    return Tuning(dataclasses.replace(config, **best["settings"]), best["value"], _table(records, config.metric))


def require_optuna() -> None:
    """Raise a MissingDependencyError unless Optuna can be imported."""
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError("optuna", extra="tune", needed_for="tune") from error


# -- the space -------------------------------------------------------------------------------------------------------


def check_space(space: Space, config: TrainConfig) -> None:
    """Raise a ConfigError unless every setting exists and all values of the space go together.

    What a configuration refuses is a value or a pair of values, so each of them is tried once among the first values
    of the other settings, and not every combination.
    """
    ends = {name: _ends(name, values) for name, values in space.items()}
    first = {name: values[0] for name, values in ends.items()}
    for names in itertools.chain(itertools.combinations(ends, 1), itertools.combinations(ends, 2)):
        for chosen in itertools.product(*(ends[name] for name in names)):
            tried = dataclasses.replace(config, **{**first, **dict(zip(names, chosen, strict=True))})  # checks them
            if tried.evaluate_every > tried.epochs:
                raise ConfigError(
                    f"tune: evaluate_every is {tried.evaluate_every}, so {tried.epochs} epochs show no value"
                )


def _ends(name: str, values: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
    """Return the choices of a setting, or the ends of its range: where they can be, all between them can."""
    if name not in _FIELDS:
        raise ConfigError(f"tune: there is no setting {name!r}; {closest(name, _FIELDS)}")
    if name == "metric":
        raise ConfigError("tune: metric is what trials are compared by, it cannot be one of their settings")
    if isinstance(values, Mapping):
        return _range_ends(name, values)
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ConfigError(f"tune: {name} needs a list of choices or a range of low and high, got {values!r}")
    for value in values:
        if not isinstance(value, str | int | float):
            raise ConfigError(f"tune: {name} has the choice {value!r}, expected a string, a number, true or false")
    return list(values)


def _range_ends(name: str, values: Mapping[str, Any]) -> list[Any]:
    for key in values:
        if key not in _RANGE_KEYS:
            raise ConfigError(f"tune: the range of {name} has {key!r}; {closest(key, _RANGE_KEYS)}")
    low, high = values.get("low"), values.get("high")
    if not (isinstance(low, int | float) and isinstance(high, int | float) and low < high):
        raise ConfigError(f"tune: the range of {name} goes from low = {low} to high = {high}, expected two numbers")
    if values.get("log") and low <= 0:
        raise ConfigError(f"tune: {name} is drawn by its logarithm, so low must be above 0, got {low}")
    return [low, high]


def _combinations(space: Space, most: int) -> list[dict[str, Any]] | None:
    """Return all settings that a space of lists alone has; None where there are ranges, or more than ``most``."""
    if any(isinstance(values, Mapping) for values in space.values()) or math.prod(map(len, space.values())) > most:
        return None
    return [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*space.values())]


def _distributions(space: Space) -> "dict[str, optuna.distributions.BaseDistribution]":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    distributions: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, Mapping):
            kind = IntDistribution if isinstance(_FIELDS[name], int) else FloatDistribution
            distributions[name] = kind(values["low"], values["high"], log=bool(values.get("log")))
        else:
            distributions[name] = CategoricalDistribution(list(values))
    return distributions


# -- a trial ---------------------------------------------------------------------------------------------------------


def _ask(
    space: Space, records: Sequence[Mapping[str, Any]], seed: int, settings: dict[str, Any] | None
) -> "optuna.Trial":
    """Return the next trial: of the settings given, or drawn after the earlier ones."""
    import optuna

    own_seed = np.random.SeedSequence([seed, len(records)]).generate_state(1).item()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a study tells that it is there
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(n_startup_trials=_STARTUP_TRIALS, seed=own_seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS),
    )
    optuna.logging.set_verbosity(verbosity)
    distributions = _distributions(space)
    for record in records:
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[_STATES[record["state"]]],
                value=record["value"] if record["state"] == "complete" else None,
                params=record["settings"],
                distributions=distributions,
                intermediate_values=dict(record["curve"]),
            )
        )
    if settings is not None:
        study.enqueue_trial(settings)
    return study.ask(distributions)


def _try(
    trial: "optuna.Trial",
    graph: Graph,
    validation: Graph,
    config: TrainConfig,
    *,
    device: str | torch.device | None,
    callback: _Callback | None,
) -> dict[str, Any]:
    """Train a trial and return what is known of it, as JSON can hold it."""
    import optuna

    chosen = dataclasses.replace(config, **trial.params)
    curve: list[tuple[int, float]] = []  # epochs trained, those of earlier restarts before them, and the best value
    best, best_epoch, restart, epoch = -math.inf, None, 0, 0

    def look(event: Mapping[str, Any]) -> None:
        nonlocal best, best_epoch, restart, epoch
        if event["event"] != "epoch":
            return
        if callback:
            callback({**event, "trial": trial.number})
        restart, epoch = restart + (event["epoch"] <= epoch), event["epoch"]
        if chosen.metric not in event:
            return
        if event[chosen.metric] > best:
            best, best_epoch = event[chosen.metric], epoch
        curve.append((restart * chosen.epochs + epoch, best))
        trial.report(best, curve[-1][0])
        if curve[-1][0] >= chosen.epochs * _UNTOUCHED and trial.should_prune():
            raise optuna.TrialPruned

    started, state, reason = time.monotonic(), "complete", None
    try:
        train(graph, chosen, device=device, validation=validation, callback=look)
    except optuna.TrialPruned:
        state = "pruned"
    except (RecokitError, MemoryError, torch.cuda.OutOfMemoryError) as error:
        state, reason = "failed", " ".join(str(error).split())
    return {
        "trial": trial.number,
        "state": state,
        "value": best if curve else None,
        "epoch": best_epoch,
        "seconds": time.monotonic() - started,
        "error": reason,
        "settings": dict(trial.params),
        "curve": curve,
    }


def _table(records: Sequence[Mapping[str, Any]], metric: str) -> pd.DataFrame:
    order = list(_STATES)
    rows = [
        {
            **{key: record[key] for key in ("trial", "state")},
            metric: record["value"],
            **{key: record[key] for key in ("epoch", "seconds", "error")},
            **record["settings"],
        }
        for record in sorted(records, key=lambda r: (order.index(r["state"]), -(r["value"] or 0.0), r["trial"]))
    ]
    return pd.DataFrame(rows).astype({metric: "float64", "epoch": "Int64"})


# -- the journal -----------------------------------------------------------------------------------------------------


def _identity(graph: Graph, validation: Graph, config: TrainConfig, space: Space) -> dict[str, Any]:
    """Return what makes a search this search: two of the same choose the same, and may be compared."""
    fixed = {name: value for name, value in dataclasses.asdict(config).items() if name not in space}
    relations = [dataclasses.asdict(relation) for relation in graph.relations.values()]
    edges = {"edges": graph.digest(), "validation edges": validation.digest()}
    return json_object({**fixed, "space": dict(space), "relations": relations, **edges}, "what identifies a search")


def _read(journal: Path, search: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the trials of a search that was written down; none where there is no file."""
    if not journal.parent.is_dir():
        raise ConfigError(f"tune: there is no folder {journal.parent} to keep the journal {journal.name} in")
    if not journal.exists():
        return []
    if journal.is_dir():
        raise FormatError(f"{journal} is a folder, not the journal of a search")
    manifest = read_manifest(journal.parent, journal.name, _FORMAT)
    theirs = manifest_value(journal, manifest, "search", dict)
    for key in {**search, **theirs}:
        if search.get(key) != theirs.get(key):
            raise VersionError(
                f"{journal} is of another search: {key} was {theirs.get(key)!r} and is {search.get(key)!r}; "
                "go on with what was, or remove the file"
            )
    records = manifest_value(journal, manifest, "trials", list)
    for number, record in enumerate(records):
        if not _is_record(record, number, search["space"]):
            raise FormatError(
                f"{journal}: trials[{number}] is {record!r}, expected trial {number} with "
                f"{', '.join(_RECORD)} and a value of each setting searched; remove the file"
            )
    return records


def _is_record(record: Any, number: int, names: Iterable[str]) -> bool:
    """Say whether this is what ``_try`` returned for the trial of this number."""
    return (
        isinstance(record, dict)
        and record.keys() == {"trial", *_RECORD}
        and all(isinstance(record[key], kind) for key, kind in _RECORD.items())
        and (record["trial"], record["state"] in _STATES) == (number, True)
        and not (record["state"] == "complete" and record["value"] is None)
        and record["settings"].keys() == set(names)
        and all(isinstance(point, list) and len(point) == 2 for point in record["curve"])
    )


def _write(journal: Path, search: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """Write the whole journal anew: it is small, and there is never half of one."""
    partial = journal.with_name(f"{journal.name}.partial")
    partial.unlink(missing_ok=True)
    write_json(partial, {"format": _FORMAT, "search": search, "trials": records})
    partial.replace(journal)
