"""Export: trained models become an embedding version that anybody can read without torch, and training can go on from.

An entity without a training edge was never moved from its random start, so it is left out: for those who look it up it
is unknown, which is the truth.  The meta records where the edges came from and a sketch of them, so that a ranker can
tell whether it trains on rows that the vectors have seen.  Several networks stand side by side: the table of users of
the network "follow" is called "user-follow", and relations likewise, since each network has spaces of its own
(TwHIN 4.3).
"""

__all__ = ["check_networks", "export", "load_exported", "load_previous", "recorded_of", "with_meta"]

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.config import Relation, TrainConfig
from pretrain.model import Model, reverse_name
from recokit.errors import ConfigError, FormatError, closest
from recokit.table import (
    EmbeddingTable,
    Mixture,
    RelationParameters,
    TableLike,
    Version,
    open_version,
    vectors_or_mixture,
    write_version,
)
from recokit.table.folder import check_name


def export(
    model: Model | Mapping[str, Model],
    path: str | Path,
    *,
    parent: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Version:
    """Write one table per entity type, the relations and the optimizer's state as the version that ``path`` names.

    An entity type whose entities have several components becomes a mixture, with a table ``<entity>-components`` of
    their vectors beside it. Its weights are the model's: ``dataclasses.replace(model, mixture_weights=...)`` with
    those of one task, say, exports others.

    Args:
        model: What ``train`` returned, or several networks by name, as ``train_networks`` returns them.
        path: The version's folder; its last part is the version's name.
        parent: The version that this one came from.
        meta: Added to what the version records of itself (settings, edges, sources, splits).

    Returns:
        The version, opened.

    Raises:
        VersionError: It exists already.
        ConfigError: Its name, or that of an entity type or a network, is no safe folder name, or tables or networks
            clash.
    """
    networks = {"": model} if isinstance(model, Model) else dict(model)
    check_networks(
        {name: part.entities for name, part in networks.items()},
        {name: part.parameters for name, part in networks.items()},
    )
    version = Path(path).name
    tables: dict[str, TableLike] = {}
    network_of: dict[str, str] = {}
    relations: list[RelationParameters] = []
    state: dict[str, NDArray[Any]] = {}
    for network, part in networks.items():
        for entity in part.entities:
            of_entity = _tables(part, entity, _named(entity, network), version)
            for name in of_entity.keys() & tables.keys():
                raise ConfigError(f"export: {name!r} would be both an entity's table and one of components: rename one")
            tables |= of_entity
            if network:
                network_of |= dict.fromkeys(of_entity, network)
        relations += [_relation(part, name, network) for name in part.parameters]
        state |= {_named(name, network): array for name, array in _state(part).items()}
    recorded = {network: recorded_of(part) for network, part in networks.items()}
    return write_version(
        path,
        tables,
        relations=relations,
        parent=parent,
        networks=network_of,
        state=state,
        meta=with_meta(recorded.get("", {"networks": recorded}), meta),
    )


def with_meta(recorded: Mapping[str, Any], meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """Add what a user wants known to what a version records of its training; ConfigError where both have a key."""
    for key in meta or {}:
        if key in recorded:
            raise ConfigError(f"export: meta has {key!r}, which the version records of its training: call it otherwise")
    return {**recorded, **(meta or {})}


def check_networks(entities: Mapping[str, Iterable[str]], relations: Mapping[str, Iterable[str]]) -> None:
    """Refuse networks that one version cannot hold.

    Args:
        entities: Network to its entity types; a single network may be called ``""``.
        relations: Network to its relations.

    Raises:
        ConfigError: There is none, a name is no safe folder name, or two would give a table or relation one name.
    """
    if not entities:
        raise ConfigError("there is no network")
    for kind, of_networks in (("table", entities), ("relation", relations)):
        taken: dict[str, str] = {}
        for network, names in of_networks.items():
            if list(of_networks) != [""]:
                check_name(network, "a network's name")
            for name in dict.fromkeys(names):
                other = taken.setdefault(_named(name, network), network)
                if other != network:
                    raise ConfigError(
                        f"the networks {other!r} and {network!r} would both have a {kind} {_named(name, network)!r}: "
                        "rename one of them"
                    )


def _named(name: str, network: str) -> str:
    return f"{name}-{network}" if network else name


def _trained(model: Model, entity: str) -> NDArray[np.int64]:
    """Return the rows of the entities that have been trained."""
    return np.flatnonzero(model.degrees[entity] > 0)


def _tables(model: Model, entity: str, name: str, version: str) -> dict[str, TableLike]:
    """Return the table of an entity type, or its mixture and the table of its components."""
    rows, number = _trained(model, entity), model.config.components_of(entity)
    ids = model.entities[entity].take(pa.array(rows))
    vectors = model.vectors[entity].cpu().numpy()[rows]
    bias = model.biases[entity].cpu().numpy()[rows] if model.biases else None
    sketches = model.meta.get("edge_sketches", ())
    meta = {"edge_sketches": [each for each in sketches if entity in (each["source"], each["target"])]}
    if number == 1:
        table = EmbeddingTable.from_arrays(
            ids,
            vectors,
            entity=entity,
            version=version,
            comparator=model.config.comparator,
            bias=bias,
            meta=meta,
        )
        return {name: table}
    mixture = Mixture.from_components(
        ids,
        vectors.reshape(len(rows), number, model.config.dim),
        model.mixture_weights[entity][rows],
        entity=entity,
        version=version,
        comparator=model.config.comparator,
        bias=None if bias is None else np.repeat(bias[:, None], number, 1),
        name=f"{name}-components",
        meta=meta,
    )
    return {mixture.components_name: mixture.components, name: mixture}


def _relation(model: Model, name: str, network: str) -> RelationParameters:
    """Return a relation of the model, or a reciprocal one, as it stands in a version."""
    found = model.relation_parameters(name)
    if not network:
        return found
    reciprocal = None if found.reciprocal is None else _named(found.reciprocal, network)
    return dataclasses.replace(found, name=_named(name, network), reciprocal=reciprocal)


def _state(model: Model) -> dict[str, NDArray[Any]]:
    """Return what a warm start carries beside vectors and parameters: accumulators and degrees."""
    state: dict[str, NDArray[Any]] = {}
    for entity in model.entities:
        rows = _trained(model, entity)
        state[f"vectors-{entity}"] = model.vector_state[entity].cpu().numpy()[rows]
        state[f"degrees-{entity}"] = model.degrees[entity][rows]
        if model.biases:
            state[f"bias-{entity}"] = model.bias_state[entity].cpu().numpy()[rows]
    for operator, names in model.blocks().items():
        state[f"relations-{operator}"] = torch.stack([model.parameter_state[name] for name in names]).cpu().numpy()
    return state


def recorded_of(model: Model) -> dict[str, Any]:
    """Return what a version says of the training: settings, relations, and what the model knows but the sketches."""
    return {
        "config": dataclasses.asdict(model.config),
        "relations": [dataclasses.asdict(relation) for relation in model.relations.values()],
        **{key: value for key, value in model.meta.items() if key != "edge_sketches"},
    }


def _recorded_in(version: Version, network: str | None) -> Mapping[str, Any]:
    """Return what a version says of the training of one network."""
    networks = version.meta.get("networks", {})
    if network is None and not networks:
        return version.meta
    if network is None:
        raise ConfigError(f"version {version.name!r} holds networks: name one of {', '.join(networks)}")
    if network not in networks:
        known = closest(network, networks) if networks else "it has none"
        raise ConfigError(f"version {version.name!r} has no network {network!r}; {known}")
    return dict(networks[network])


def load_previous(path: str | Path, *, network: str | None = None) -> Model:
    """Read what a warm start begins from: a model folder, or a version that ``export`` wrote."""
    if (Path(path) / "model.json").is_file():
        return Model.load(path)
    return load_exported(path, network=network)


def load_exported(version: Version | str | Path, *, network: str | None = None) -> Model:
    """Read a version that ``export`` wrote back as a model, for a warm start from what was published.

    Args:
        version: The version, or its folder.
        network: Which network, where it holds several.

    Returns:
        The model of the exported entities, on the CPU.

    Raises:
        ConfigError: The version holds several networks and none of them is named, or it has none of that name.
        FormatError: It was not written by ``export``, or by another release.
    """
    version = version if isinstance(version, Version) else open_version(version)
    recorded, suffix = _recorded_in(version, network), network or ""
    try:
        config = TrainConfig(**recorded["config"])
        relations = {row["name"]: Relation(**row) for row in recorded["relations"]}
        entities = list(dict.fromkeys(end for r in relations.values() for end in (r.source, r.target)))
        opened = {entity: version.open(_named(entity, suffix)) for entity in entities}
        tables = {entity: vectors_or_mixture(table, "a warm start") for entity, table in opened.items()}
    except (KeyError, TypeError, ConfigError) as error:
        raise FormatError(f"{version.path} was not written by this release's export: {error}") from error

    def kept(kind: str, like: Tensor) -> Tensor:
        array = version.state.get(_named(kind, suffix))
        if array is None or array.shape != tuple(like.shape):
            raise FormatError(f"{version.path}: the state {kind!r} is missing or of another shape than {like.shape}")
        return torch.from_numpy(np.array(array))

    vectors, biases, weights = {}, {}, {}
    for name, table in tables.items():
        numbers = table.components if isinstance(table, Mixture) else table
        vectors[name] = torch.from_numpy(np.array(numbers.vectors, np.float32)).view(len(table), config.width(name))
        if numbers.bias is not None:
            of_components = np.array(numbers.bias).reshape(len(table), config.components_of(name))
            biases[name] = torch.from_numpy(of_components[:, 0].copy())
        if isinstance(table, Mixture):
            weights[name] = np.array(table.weights)
    parameters: dict[str, Tensor] = {}
    names = [each for name in relations for each in (name, reverse_name(name))]
    for name in names:
        if (found := version.relations.get(_named(name, suffix))) is not None:
            parameters[name] = torch.from_numpy(np.array(found.parameters))
    sketches = {each["relation"]: each for table in tables.values() for each in table.meta.get("edge_sketches", ())}
    counts = {name: torch.zeros(len(table)) for name, table in vectors.items()}
    model = Model(
        config=config,
        relations=relations,
        entities={name: table.ids for name, table in tables.items()},
        vectors=vectors,
        biases=biases,
        parameters=parameters,
        vector_state={
            name: kept(f"vectors-{name}", torch.empty(len(count), *config.state_shape(name)))
            for name, count in counts.items()
        },
        bias_state={name: kept(f"bias-{name}", bias) for name, bias in biases.items()},
        parameter_state={},
        degrees={name: kept(f"degrees-{name}", count).numpy() for name, count in counts.items()},
        epochs=[],
        meta={"edge_sketches": list(sketches.values())},
        mixture_weights=weights,
    )
    state: dict[str, Tensor] = {}
    for operator, members in model.blocks().items():
        block = torch.stack([parameters[name] for name in members])
        state |= dict(zip(members, kept(f"relations-{operator}", block), strict=True))
    return dataclasses.replace(model, parameter_state=state)
