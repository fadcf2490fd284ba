"""Training: known edges become a version in the work folder, from the parent where there is one.

    <version>/        as ``pretrain.export`` writes it
    training.json     {"format": "training/1", "networks": {"": [{"epoch": 1, "loss": ...}, ...]}}

A run that is killed goes on from its checkpoint, which lies beside, and ends with the same bytes.
"""

__all__ = ["night_config", "read_part", "train_version"]

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretrain.config import TrainConfig
from pretrain.export import export, load_exported
from pretrain.graph import Graph
from pretrain.model import Model
from pretrain.networks import train_networks
from pretrain.pipeline.selection import read_relations
from pretrain.pipeline.settings import PipelineSettings
from pretrain.settings import Settings
from recokit.errors import ConfigError, DataError, FormatError, VersionError
from recokit.table import Version
from recokit.table.folder import write_json

Callback = Callable[[str, Mapping[str, Any]], None]


def night_config(settings: PipelineSettings, entities: Mapping[str, Any], *, warm: bool) -> TrainConfig:
    """Return the settings of a night: without a parent nothing can be held near it, with one nothing starts anew.

    Args:
        settings: ``[train]``, ``[warm]`` and the ``alpha`` of entity types.
        entities: The entity types of the network.
        warm: Whether there is a parent.
    """
    train, own = settings.training.train, dict(settings.training.alpha)
    if not warm:
        return dataclasses.replace(train, alpha=0.0)
    train = dataclasses.replace(train, **settings.warm)
    if train.init == "spectral":
        train = dataclasses.replace(train, init="random")
    if own:
        rest = train.alpha if isinstance(train.alpha, Mapping) else dict.fromkeys(entities, train.alpha)
        train = dataclasses.replace(train, alpha={**rest, **own})
    return train


def read_part(training: Settings, selected: Path, prepared: Path, part: str) -> tuple[Graph, list[str]]:
    """Read edges that ``prepare_edges`` has written.

    Args:
        training: What relations are.
        selected: The folder of the selection.
        prepared: The folder of the preparation.
        part: ``"known"``, ``"train"`` or ``"validation"``.

    Returns:
        The graph, and the names of the relations that this part has no edge of.
    """
    relations, files = read_relations(selected, training)
    there = {name: prepared / part / file.name for name, file in files.items()}
    empty = [name for name, path in there.items() if not path.is_file()]
    kept = [relation for relation in relations if relation.name not in empty]
    graph = Graph.from_files({relation.name: there[relation.name] for relation in kept}, kept)
    return graph, empty


def train_version(
    settings: PipelineSettings,
    selected: Path,
    prepared: Path,
    parent: Version | None,
    folder: Path,
    *,
    checkpoint: Path,
    checkpoint_seconds: float = 60.0,
    callback: Callback | None = None,
) -> dict[str, Any]:
    """Train and export.

    Args:
        settings: What to train.
        selected: The folder of the selection.
        prepared: The folder of the preparation.
        parent: What to start from.
        folder: An empty folder.
        checkpoint: Where the run is written down; gone on from, and removed at the end.
        checkpoint_seconds: Time between two checkpoints.
        callback: See ``train_networks``.

    Returns:
        What should be known: epochs, the last loss, and how many entities started from what.
    """
    training = settings.training
    validates = bool(training.validation)
    graph, empty = read_part(training, selected, prepared, "train" if validates else "known")
    graph.history = _history(settings)
    if empty:
        raise DataError(f"relation {empty[0]!r} has no edge to train on: all that were selected are held out")
    validation = read_part(training, selected, prepared, "validation")[0] if validates else None
    networks = training.networks or {"": tuple(graph.relations)}
    previous = {} if parent is None or settings.start == "cold" else _models(parent, networks)
    config = night_config(settings, graph.entities, warm=bool(previous))
    with _started_from(parent if previous else None):
        models = train_networks(
            graph,
            networks,
            config,
            callback=callback,
            previous=previous,
            validation=validation,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            resume=True,
        )
    export(models.get("", models), folder / settings.version, parent=parent.name if previous and parent else None)
    epochs = {name: list(model.epochs) for name, model in models.items()}
    write_json(folder / "training.json", {"format": "training/1", "networks": epochs})
    shutil.rmtree(checkpoint, ignore_errors=True)
    return {
        "parent": parent.name if previous and parent is not None else None,
        "networks": {
            name: {
                "epochs": len(model.epochs),
                "loss": model.epochs[-1]["loss"] if model.epochs else None,
                "start": model.meta.get("start", {}),
            }
            for name, model in models.items()
        },
    }


def _models(parent: Version, networks: Mapping[str, Any]) -> dict[str, Model]:
    """Read what networks start from; a network that the parent does not have starts anew."""
    there = parent.meta.get("networks")
    names = [name for name in networks if there is None or name in there] if "" not in networks else [""]
    with _started_from(parent):
        return {name: load_exported(parent, network=name or None) for name in names}


@contextmanager
def _started_from(parent: Version | None) -> Iterator[None]:
    """Say, where a version cannot be gone on from, how a night does without."""
    try:
        yield
    except (ConfigError, DataError, FormatError, VersionError) as error:
        if parent is None:
            raise
        message = f'{error} (training started from version {parent.name!r}; `start = "cold"` trains anew)'
        raise DataError(message) from error


def _history(settings: PipelineSettings) -> tuple[dict[str, Any], ...]:
    """Say where edges come from, as the configuration does: the work folder means nothing to others."""
    training, content = settings.training, settings.file.content
    sources = {row["name"]: row["path"] for row in content.get("relation", ()) if "path" in row}
    history: list[dict[str, Any]] = [{"sources": sources or {"*": str(content.get("triples", {}).get("path"))}}]
    if "selection" in content:
        history.append({"selection": content["selection"]})
    for name, part in (("split", training.split), ("validation", training.validation)):
        if part:
            drawn = {"drawn": "by a hash of the ids"} if "fraction" in part else {}
            history.append({name: {**part, **drawn}, "part": "known" if name == "split" else "train"})
    return tuple({key: _plain(value) for key, value in entry.items()} for entry in history)


def _plain(value: Any) -> Any:
    """Return what JSON can hold: dates as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return value if isinstance(value, str | int | float | bool | list | None) else str(value)
