"""Warm starts: a run begins where an earlier model ended, and may be held near it (TwHIN 7.2).

Vectors, biases and relations are joined by id and name, the optimizer's state with them: a fresh state makes first
steps as long as the learning rate, which undoes much of the start.  Entities that the earlier model has never trained
start as what their neighbours suggest (Eq. 5, direction-aware; ``recokit.inductive``), or, where no neighbour leads to
a trained one, at random.
"""

__all__ = ["carry"]

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from pretrain.config import Relation, TrainConfig
from pretrain.graph import Graph
from pretrain.model import Model, base_name
from pretrain.run import Run, edge_weights
from recokit.errors import ConfigError
from recokit.inductive import NeighborEdges, fill_from_neighbors, median_norm


def carry(previous: Model, run: Run, graph: Graph, *, carry_state: bool = True) -> dict[str, dict[str, int]]:
    """Replace the random start of a run by an earlier model, and hold it there where the settings say so.

    Args:
        previous: The earlier model.
        run: At its start; changed in place.
        graph: What it runs on.
        carry_state: Carry the optimizer's state too.

    Returns:
        Entity type to how many entities were carried, start from neighbours, and start at random.

    Raises:
        ConfigError: The models' dimensions differ.
    """
    if previous.config.dim != run.config.dim:
        raise ConfigError(f"the previous model has the dimension {previous.config.dim}, this run {run.config.dim}")
    for entity in run.vectors:
        numbers = [model.config.components_of(entity) for model in (previous, run)]
        if entity in previous.entities and numbers[0] != numbers[1]:
            raise ConfigError(f"{entity!r} has {numbers[0]} components in the previous model, {numbers[1]} in this run")
    known = {entity: _carry_entities(previous, run, graph, entity, carry_state) for entity in run.vectors}
    _carry_relations(previous, run, carry_state)
    run.stay_near(known, {entity: graph.degrees(entity, weighing=True) for entity in graph.entities})
    filled = _fill(run, graph, known)
    return {
        entity: {
            "carried": int(known[entity].sum()),
            "from neighbours": int((filled[entity] > 0).sum()),
            "at random": int((filled[entity] < 0).sum()),
        }
        for entity in run.vectors
    }


def _carry_entities(previous: Model, run: Run, graph: Graph, entity: str, carry_state: bool) -> NDArray[np.bool_]:
    """Carry one entity type and say which of its rows (N,) were trained before."""
    known = np.zeros(len(run.vectors[entity]), bool)
    if entity not in previous.entities:
        return known
    rows = previous.rows(entity, graph.entities[entity], f"{entity!r}, joined with the previous model's ids")
    known[rows >= 0] = previous.degrees[entity][rows[rows >= 0]] > 0
    here, there = np.flatnonzero(known), rows[known]
    pairs = [(run.vectors, previous.vectors), (run.biases, previous.biases)]
    if carry_state:
        pairs.append((run.bias_state, previous.bias_state))
        if run.config.optimizer == previous.config.optimizer:
            pairs.append((run.vector_state, previous.vector_state))
    for ours, theirs in pairs:
        if entity in ours and entity in theirs:
            carried = theirs[entity].cpu()[torch.from_numpy(there)]
            ours[entity][torch.from_numpy(here).to(run.device)] = carried.to(run.device)
    return known


def _carry_relations(previous: Model, run: Run, carry_state: bool) -> None:
    """Carry the relations that mean the same: their ends, operator and its side."""
    for name, (operator, row) in run.rows.items():
        ours = _meaning(name, run.relations, run.config)
        if name not in previous.parameters or ours != _meaning(name, previous.relations, previous.config):
            continue
        run.blocks[operator][row] = previous.parameters[name].to(run.device)
        if carry_state:
            run.block_state[operator][row] = previous.parameter_state[name].to(run.device)


def _meaning(name: str, relations: Mapping[str, Relation], config: TrainConfig) -> tuple[object, ...]:
    """Return what the parameters of a relation, or of its reciprocal, depend on."""
    forward = name in relations
    relation = relations[name if forward else base_name(name)]
    operator = relation.operator or config.operator
    return forward, relation.source, relation.target, operator, relation.operator_side


def _fill(run: Run, graph: Graph, known: dict[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.int64]]:
    """Start new entities from their neighbours; return how many rounds away each row (N,) is from a carried one.

    Mixtures neither start from neighbours nor lead to any: which of their components would is not known.
    """
    mixed = {entity for entity in run.vectors if run.config.components_of(entity) > 1}
    vectors = {entity: table.cpu().numpy() for entity, table in run.vectors.items() if entity not in mixed}
    rounds = {entity: np.where(known[entity], 0, -1) for entity in mixed}
    known = {entity: known[entity] for entity in vectors}
    ends = {name: (relation.source, relation.target) for name, relation in run.relations.items()}
    norms = None  # under cos lengths mean nothing, and scaling would only make translations weigh less
    if run.config.comparator != "cos":
        norms = {entity: median_norm(table[known[entity]]) for entity, table in vectors.items() if known[entity].any()}
    now = run.model(graph, [], {})
    edges = [_neighbor_edges(run, graph, now, name) for name in run.relations if not mixed.intersection(ends[name])]
    if not vectors:
        return rounds
    longest = max(map(len, vectors.values()))  # no chain is longer
    filled = fill_from_neighbors(
        vectors, known, edges, comparator=run.config.comparator, iterations=longest, norms=norms
    )
    for entity, table in vectors.items():
        run.vectors[entity].copy_(torch.from_numpy(table))
    return rounds | {entity: part.rounds for entity, part in filled.items()}


def _neighbor_edges(run: Run, graph: Graph, now: Model, name: str) -> NeighborEdges:
    edges, relation = graph.edges[name], now.relation_parameters(name)
    reciprocal = None if relation.reciprocal is None else now.relation_parameters(relation.reciprocal)
    weights = edge_weights(run.relations[name], edges, run.config)
    return NeighborEdges(relation, edges.sources, edges.targets, weights, reciprocal)
