"""Several networks of one graph (TwHIN 4.3): each has its own spaces, in which its relations share tables.

A high-coverage relation (follows) lends what it knows to low-coverage ones (ad clicks) that are embedded with it, and
is not disturbed by another high-coverage relation (Tweet engagements), which gets a network of its own.  The entities
of a network are those with an edge in it: others are neither its negatives nor candidates of its evaluation.
"""

__all__ = ["train_networks"]

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from pretrain.config import TrainConfig
from pretrain.export import check_networks
from pretrain.graph import Graph
from pretrain.model import Model
from pretrain.train import check_entities, train
from recokit.errors import ConfigError, closest

Callback = Callable[[str, Mapping[str, Any]], None]
T = TypeVar("T")


def train_networks(
    graph: Graph,
    networks: Mapping[str, Sequence[str]],
    config: TrainConfig | None = None,
    *,
    device: str | torch.device | None = None,
    callback: Callback | None = None,
    previous: Mapping[str, Model] | None = None,
    validation: Graph | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    resume: bool = False,
) -> dict[str, Model]:
    """Train one model a network, for ``export`` to write side by side.

    Args:
        graph: All relations.
        networks: Network to the relations that it embeds together; a relation may be in several.
        config: The settings of every network; where some start from a model, ``alpha`` holds for those.
        device: See ``train``.
        callback: Called with the network's name and what ``train`` reports.
        previous: Network to the model that it starts from; others start anew.
        validation: Held-out edges; a network looks at those of its relations.
        checkpoint: A folder, with one of its own for each network.
        checkpoint_seconds: See ``train``.
        resume: See ``train``; networks that had ended are read back.

    Returns:
        Network to its model.

    Raises:
        ConfigError: A network names an unknown relation, or none; two networks would export tables of one name; a
            network has no validation edges and needs some; otherwise as ``train``.
    """
    config = config or TrainConfig()
    _check(graph, networks, config, previous or {}, validation)
    models = {}
    for name, relations in networks.items():
        part = graph if set(relations) == set(graph.relations) else graph.select(relations)
        held_out = _held_out(validation, relations)
        models[name] = train(
            part,
            dataclasses.replace(
                config,
                components=_of_part(config.components, part),
                alpha=_alpha(config, part, name, previous),
            ),
            device=device,
            callback=None if callback is None else _named(callback, name),
            previous=(previous or {}).get(name),
            validation=None if validation is None or not held_out else validation.select(held_out),
            checkpoint=None if checkpoint is None else Path(checkpoint) / name,
            checkpoint_seconds=checkpoint_seconds,
            resume=resume,
        )
    return models


def _check(
    graph: Graph,
    networks: Mapping[str, Sequence[str]],
    config: TrainConfig,
    previous: Mapping[str, Model],
    validation: Graph | None,
) -> None:
    """Refuse before the first network is trained what a later one, or the export, would be refused for."""
    for name in previous:
        if name not in networks:
            raise ConfigError(f"previous names the network {name!r}; {closest(name, networks)}")
    check_entities(graph, config)
    for name, relations in networks.items():
        if not relations:
            raise ConfigError(f"network {name!r} has no relations")
        for relation in relations:
            if relation not in graph.relations:
                raise ConfigError(f"network {name!r}: no relation {relation!r}; {closest(relation, graph.relations)}")
        if (config.patience or config.restarts > 1) and not _held_out(validation, relations):
            what = f"network {name!r} has" if name else "there are"
            raise ConfigError(f"{what} no validation edges, which patience and restarts look at: hold some out")
    ends = {
        name: {end for each in relations for end in (graph.relations[each].source, graph.relations[each].target)}
        for name, relations in networks.items()
    }
    check_networks(ends, networks)


def _held_out(validation: Graph | None, relations: Sequence[str]) -> list[str]:
    """Return the relations with validation edges."""
    return [] if validation is None else [name for name in relations if len(validation.edges.get(name, ()))]


def _alpha(config: TrainConfig, part: Graph, name: str, previous: Mapping[str, Model] | None) -> Any:
    """Return the penalties of a network, which may start anew where others do not."""
    if not previous:
        return config.alpha
    return _of_part(config.alpha, part) if name in previous else 0.0


def _of_part(of_types: T | Mapping[str, T], part: Graph) -> T | dict[str, T]:
    """Return what one network, which has a part of the entity types, takes of a setting of all or of each."""
    if not isinstance(of_types, Mapping):
        return of_types
    return {entity: value for entity, value in of_types.items() if entity in part.entities}


def _named(callback: Callback, network: str) -> Callable[[Mapping[str, Any]], None]:
    return lambda event: callback(network, event)
