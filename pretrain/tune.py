"""A small search over the few settings that matter, on a validation part; Optuna chooses what to try (TPE).

    found = tune(known, validation, TrainConfig(comparator="dot"), trials=30)
    model = train(known, found.config)

A trial that does worse than the median of the others after as many epochs is stopped (``MedianPruner``).  With
``journal`` every trial is written down as it ends, and a search that was stopped goes on where it was.
"""

__all__ = ["Space", "Tuning", "default_space", "tune"]

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from pretrain.config import TrainConfig
from pretrain.graph import Graph
from pretrain.train import train
from recokit.errors import ConfigError, DataError, MissingDependencyError, closest

if TYPE_CHECKING:
    import optuna

Space = Mapping[str, Sequence[Any] | Mapping[str, Any]]
_RANGE_KEYS = ("low", "high", "log")
_STARTUP_TRIALS = 5  # that are drawn by chance, and that no trial is compared with before they are done


@dataclasses.dataclass(frozen=True, eq=False)
class Tuning:
    """What a search found.

    Attributes:
        config: The settings of the best trial.
        value: Its metric on the validation part.
        trials: One row a trial, best first: trial, state (``"complete"``, ``"pruned"``, ``"failed"``), the metric,
            epoch (the best one), seconds, and the settings tried.
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
    seed: int = 0,
    device: str | torch.device | None = None,
    callback: Callable[[Mapping[str, Any]], None] | None = None,
) -> Tuning:
    """Try settings on a validation part and return the best.

    Args:
        graph: The edges to train on.
        validation: Held-out edges; ``config.metric`` is measured on them, filtered, among all entities.
        config: The settings that are not searched, and the length of every trial.
        space: Setting to a list of choices, or to ``{"low", "high", "log"}`` (whole numbers stay whole); see
            ``default_space``.
        trials: How many to try, those of an earlier search in the journal included.
        seconds: Begin no trial after this time.
        journal: A file that the search is written to as it goes on, and goes on from.
        seed: Of the choices.
        device: Where to train.
        callback: Called after every epoch (``event="epoch"``, see ``train``, and the trial) and every trial
            (``event="trial"``: trial, trials, state, value, settings).

    Raises:
        ConfigError: A setting does not exist, or cannot have a value of the space.
        DataError: No trial came to an end.
        MissingDependencyError: Optuna is not installed.
    """
    _check_optuna()
    import optuna
    from optuna.storages.journal import JournalFileBackend

    config = config or TrainConfig()
    space = space or default_space(config)
    check_space(space, config)
    storage = None
    if journal is not None:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(
        study_name="tune",
        direction="maximize",
        storage=storage,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS),
    )

    def objective(trial: optuna.Trial) -> float:
        chosen = dataclasses.replace(config, **{name: _chosen(trial, name, values) for name, values in space.items()})
        best = -math.inf

        def look(event: Mapping[str, Any]) -> None:
            nonlocal best
            if callback and event["event"] == "epoch":
                callback({**event, "trial": trial.number})
            if (value := event.get(config.metric)) is None:
                return
            if value > best:
                best = value
                trial.set_user_attr("epoch", event["epoch"])
            trial.report(value, event["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned

        train(graph, chosen, device=device, validation=validation, callback=look)
        return best

    def ended(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if callback:
            state, value = trial.state.name.lower(), _value(trial)
            callback(
                {"event": "trial", "trial": trial.number, "trials": trials, "state": state, "value": value}
                | {"settings": dict(trial.params)}
            )

    done = sum(trial.state.is_finished() for trial in study.trials)
    # The draws of an earlier search are not drawn again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + done, n_startup_trials=_STARTUP_TRIALS)
    # A learning rate far too high ends in a DataError: that is a bad trial, not the end of the search.
    study.optimize(objective, max(trials - done, 0), timeout=seconds, callbacks=[ended], catch=(DataError,))
    complete = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if not complete:
        raise DataError(f"tune: none of {len(study.trials)} trials came to an end")
    best = max(complete, key=lambda trial: (trial.value or -math.inf, -trial.number))
    found = dataclasses.replace(config, **best.params)
    return Tuning(found, float(best.value or 0.0), _table(study.trials, config.metric))


def _check_optuna() -> None:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise MissingDependencyError("optuna", extra="tune", needed_for="tune") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def check_space(space: Space, config: TrainConfig) -> None:
    """Raise a ConfigError unless every setting exists and every value of the space is one that it can have."""
    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    for name, values in space.items():
        if name not in fields:
            raise ConfigError(f"tune: there is no setting {name!r}; {closest(name, fields)}")
        if isinstance(values, Mapping):
            for key in values:
                if key not in _RANGE_KEYS:
                    raise ConfigError(f"tune: the range of {name!r} has {key!r}; {closest(key, _RANGE_KEYS)}")
            if not all(isinstance(values.get(key), int | float) for key in ("low", "high")):
                raise ConfigError(f"tune: the range of {name!r} needs the numbers low and high, got {dict(values)!r}")
            tried = [values["low"], values["high"]]
            if not tried[0] < tried[1] or (values.get("log") and tried[0] <= 0):
                raise ConfigError(f"tune: the range of {name!r} is empty, or not above 0 for log: {dict(values)!r}")
        elif not values or isinstance(values, str):
            raise ConfigError(f"tune: {name!r} needs a list of choices or a range, got {values!r}")
        else:
            tried = list(values)
        for value in tried:
            dataclasses.replace(config, **{name: value})  # checks it


def _chosen(trial: "optuna.Trial", name: str, values: Sequence[Any] | Mapping[str, Any]) -> Any:
    if not isinstance(values, Mapping):
        return trial.suggest_categorical(name, list(values))
    low, high, log = values["low"], values["high"], bool(values.get("log"))
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)


def _value(trial: "optuna.trial.FrozenTrial") -> float | None:
    """Return the metric of a trial, of a pruned one the best that it came to."""
    if trial.value is not None:
        return float(trial.value)
    return max(trial.intermediate_values.values(), default=None)


def _table(trials: "Sequence[optuna.trial.FrozenTrial]", metric: str) -> pd.DataFrame:
    rows = [
        {
            "trial": trial.number,
            "state": {"fail": "failed"}.get(trial.state.name.lower(), trial.state.name.lower()),
            metric: _value(trial),
            "epoch": trial.user_attrs.get("epoch"),
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            **trial.params,
        }
        for trial in trials
    ]
    frame = pd.DataFrame(rows)
    return frame.sort_values(["state", metric, "trial"], ascending=[True, False, True], ignore_index=True)
