"""Graphs of planted parts, models of other trainers' numbers, and the evaluation that all of them go through."""

__all__ = ["Graphs", "Trained", "graphs_of", "model_of", "mrr", "train_timed"]

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

import pretrain
from peers.graphs import Parts
from pretrain.edges import Edges
from pretrain.model import reverse_name

Arrays = Mapping[str, NDArray[Any]]
_ENTITY = "entity"


@dataclasses.dataclass(frozen=True, eq=False)
class Graphs:
    """The three parts as graphs over the same rows."""

    train: pretrain.Graph
    valid: pretrain.Graph
    test: pretrain.Graph


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A model of ours and what it cost.

    Attributes:
        model: The model.
        seconds: Of the epochs alone.
        wall_seconds: Of the whole call, with what comes before and after the epochs.
        edges_per_second: Of every epoch.
    """

    model: pretrain.Model
    seconds: float
    wall_seconds: float
    edges_per_second: list[float]


def graphs_of(parts: Parts) -> Graphs:
    """Return the parts as graphs whose rows are those of the parts."""
    ids = pa.array(np.arange(parts.entities))
    return Graphs(*(_graph(parts, ids, edges) for edges in (parts.train, parts.valid, parts.test)))


def _graph(parts: Parts, ids: pa.Array, edges: NDArray[np.int64]) -> pretrain.Graph:
    edges = edges[np.argsort(edges[:, 1], kind="stable")]
    cuts = np.searchsorted(edges[:, 1], np.arange(1, parts.relations))
    names = [_name(relation) for relation in range(parts.relations)]
    return pretrain.Graph(
        {name: pretrain.Relation(name, _ENTITY, _ENTITY) for name in names},
        {_ENTITY: ids},
        {
            name: Edges(part[:, 0].copy(), part[:, 2].copy())
            for name, part in zip(names, np.split(edges, cuts), strict=True)
        },
    )


def _name(relation: int) -> str:
    return f"relation {relation}"


def train_timed(graph: pretrain.Graph, config: pretrain.TrainConfig) -> Trained:
    """Train with our trainer and time it."""
    speeds: list[float] = []
    edges = sum(map(len, graph.edges.values()))

    def watch(event: Mapping[str, Any]) -> None:
        if event["event"] == "epoch":
            speeds.append(event["edges_per_second"])

    started = time.perf_counter()
    model = pretrain.train(graph, config, device="cpu", callback=watch)
    wall = time.perf_counter() - started
    return Trained(model, sum(edges / speed for speed in speeds), wall, speeds)


def model_of(graph: pretrain.Graph, arrays: Arrays, *, operator: str, comparator: str) -> pretrain.Model:
    """Return a model of numbers that another trainer learned on this graph.

    Args:
        graph: What it was trained on.
        arrays: ``vectors`` (N, D); and, where the operator has parameters, ``forward`` (R, P), which move the source
            of a question for targets, and ``backward`` (R, P), which move the target of a question for sources.
            Without ``backward`` the forward ones answer both.
        operator: Ours.
        comparator: Ours.
    """
    blocks = {} if "backward" not in arrays else {reverse_name: arrays["backward"]}
    blocks |= {str: arrays["forward"]} if "forward" in arrays else {}
    parameters = {
        called(name): torch.tensor(block[row], dtype=torch.float32)
        for called, block in blocks.items()
        for row, name in enumerate(graph.relations)
    } or {name: torch.zeros(0) for name in graph.relations}
    vectors = torch.tensor(arrays["vectors"], dtype=torch.float32)
    return pretrain.Model(
        config=pretrain.TrainConfig(
            dim=vectors.shape[1], operator=operator, comparator=comparator, reciprocal="backward" in arrays
        ),
        relations=graph.relations,
        entities=graph.entities,
        vectors={_ENTITY: vectors},
        biases={},
        parameters=parameters,
        vector_state={_ENTITY: torch.zeros(len(vectors))},
        bias_state={},
        parameter_state={name: torch.zeros_like(values) for name, values in parameters.items()},
        degrees={_ENTITY: graph.degrees(_ENTITY)},
        epochs=[],
        meta={},
    )


def mrr(model: pretrain.Model, graphs: Graphs, part: str, candidates: str = "all") -> float:
    """Filtered MRR of both sides on ``valid`` (other answers known from the training part) or ``test`` (from both)."""
    known = [graphs.train] if part == "valid" else [graphs.train, graphs.valid]
    return pretrain.evaluate(model, getattr(graphs, part), known=known, candidates=candidates).value("mrr")
