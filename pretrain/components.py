"""What has become of the components of mixtures: how much each weighs (Eq. 5), and how they are used.

Training gives components no weights and no order (Brinkman et al. 2020, 3.4); both are computed afterwards from the
similarities of components over the training edges.  Printed, Eq. 5 has ``e^M / γ``: the temperature is meant inside
the exponent, where it is here.
Shapes: N entities of a type, E edges, C_s and C_t components of sources and of targets, n dimension.
"""

__all__ = ["component_usage", "mixture_weights", "similarities"]

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.config import Side, check_choice
from pretrain.edges import Edges
from pretrain.graph import Graph
from pretrain.model import Model
from pretrain.operators import OPERATORS
from pretrain.pooling import Pooled, comparator_of
from recokit.errors import ConfigError, closest

_NUMBERS = 1 << 22  # of gathered vectors and their similarities, at a time


def mixture_weights(
    model: Model,
    graph: Graph,
    *,
    relations: Iterable[str] | None = None,
    temperature: float | Mapping[str, float] | None = None,
    per_edge: Literal["sum", "softmax"] = "sum",
) -> dict[str, NDArray[np.float32]]:
    """Weigh the components of every entity by the edges that they explain.

    ``w_sc ∝ Σ_T Σ_(s,d) in E_T Σ_l e^(M_cl / γ_T)`` over the edges of an entity, whichever end it stands at, summing to
    1 over its components (Brinkman et al. 2020, Eq. 5). An edge of weight w counts w times. An entity without an edge
    of these relations has equal weights.

    Args:
        model: Trained on these entities.
        graph: Its edges; ids are joined.
        relations: The tasks that count; all where not given.
        temperature: γ_T, of all relations or by relation; ``config.weight_temperature`` where not given.
        per_edge: As printed every edge adds its ``"sum"``, so that edges of great similarity count most; under
            ``"softmax"`` every edge adds 1, shared by its entity's components.

    Returns:
        Entity type to weights (N, C) float32, of the types that have more than one component.

    Raises:
        ConfigError: A relation is not there, a temperature is not above 0, or ``per_edge`` is no choice.
    """
    check_choice("mixture_weights", "per_edge", per_edge, ("sum", "softmax"))
    names = _named(model, relations)
    gamma = _temperatures(model, names, temperature)
    totals = {
        entity: _LogSums(len(vectors), model.config.components_of(entity), vectors.device)
        for entity, vectors in model.vectors.items()
        if model.config.components_of(entity) > 1
    }
    for name in names if totals else ():
        ends = model.relations[name]
        for rows, weights, matrix in similarities(model, graph, name):
            scaled = matrix.double() / gamma[name]  # (E, C_s, C_t)
            for side in get_args(Side):
                entity = getattr(ends, side)
                if entity in totals:
                    logs = scaled.logsumexp(2 if side == "source" else 1)  # (E, C)
                    logs = logs.log_softmax(1) if per_edge == "softmax" else logs
                    totals[entity].add(rows[side], logs + weights.double().log()[:, None])
    return {entity: total.shares() for entity, total in totals.items()}


def component_usage(model: Model, graph: Graph) -> dict[str, dict[str, Any]]:
    """Say how the components of mixtures are used by the positive edges, most similar pair by most similar pair.

    Args:
        model: Trained on these entities.
        graph: Its edges.

    Returns:
        Entity type, of those with several components, to

        ``components``          how many an entity has
        ``positives``           edges that were looked at, one between two entities of the type twice
        ``won``                 shares (C,) of the positives that each place wins; places mean nothing across entities,
                                so that even shares are no merit, but one place that wins all is a collapse
        ``won_within``          the same by rank within an entity: what its busiest component wins on average, and so on
        ``effective``           mean over entities of e^H, H the entropy of the shares within an entity
        ``dead``                share of the components that win nothing, of entities with at least as many edges as
                                components
        ``distance``            mean of 1 - cosine of two components of an entity
    """
    found: dict[str, Tensor] = {
        entity: torch.zeros(len(vectors), model.config.components_of(entity), dtype=torch.float64)
        for entity, vectors in model.vectors.items()
        if model.config.components_of(entity) > 1
    }
    for name, ends in model.relations.items():
        for rows, _, matrix in similarities(model, graph, name):
            best = matrix.flatten(1).argmax(1)
            winners = {"source": best // matrix.shape[2], "target": best % matrix.shape[2]}
            for side in get_args(Side):
                if (counts := found.get(getattr(ends, side))) is not None:
                    at = (rows[side] * counts.shape[1] + winners[side]).cpu()
                    counts.view(-1).index_add_(0, at, torch.ones(len(at), dtype=torch.float64))
    return {entity: _usage(model, entity, counts) for entity, counts in found.items()}


def _usage(model: Model, entity: str, counts: Tensor) -> dict[str, Any]:
    number, edges = counts.shape[1], counts.sum(1)
    used = counts[edges > 0]
    shares = (used / used.sum(1, keepdim=True)).sort(1, descending=True).values
    entropy = -(shares * shares.clamp_min(1e-300).log()).sum(1)
    busy = counts[edges >= number]
    parts = model.vectors[entity].view(-1, number, model.config.dim)[(edges > 0).to(model.vectors[entity].device)]
    return {
        "components": number,
        "positives": int(edges.sum()),
        "won": (counts.sum(0) / edges.sum().clamp_min(1)).tolist(),
        "won_within": shares.mean(0).tolist() if len(used) else [],
        "effective": float(entropy.exp().mean()) if len(used) else 0.0,
        "dead": float((busy == 0).double().mean()) if len(busy) else 0.0,
        "distance": _mean_distance(parts),
    }


def _mean_distance(parts: Tensor) -> float:
    """Mean of 1 - cos over the pairs of components of entities (N, C, n), as (|Σ u|² - Σ |u|²) / (C (C - 1))."""
    number, total = parts.shape[1], 0.0
    for part in parts.split(1 << 16):  # type: ignore[no-untyped-call]
        unit = torch.nn.functional.normalize(part.double(), dim=2)
        squares = unit.square().sum((1, 2))  # C, but for vectors of zeros
        total += float(((unit.sum(1).square().sum(1) - squares) / (number * (number - 1))).sum())
    return 1 - total / len(parts) if len(parts) else 0.0


def similarities(model: Model, graph: Graph, relation: str) -> Iterator[tuple[dict[Side, Tensor], Tensor, Tensor]]:
    """Yield, a part of a relation's edges after the other, rows of both ends (E,), weights (E,) and M (E, C_s, C_t).

    M holds the comparator's scores of every component of the source, moved by the relation, with every one of the
    target. Edges of weight 0, or with an end that the model lacks, are left out.
    """
    config, ends = model.config, model.relation(relation)
    edges = graph.edges.get(relation)
    if edges is None:
        return
    here = graph.relations[relation]
    if (here.source, here.target) != (ends.source, ends.target):
        raise ConfigError(
            f"relation {relation!r} goes from {here.source!r} to {here.target!r} in the graph, "
            f"from {ends.source!r} to {ends.target!r} in the model"
        )
    sources, targets = (
        model.rows(entity, graph.entities[entity], f"ids of {entity!r}, joined with the model's")
        for entity in (ends.source, ends.target)
    )
    rows: dict[Side, NDArray[np.int64]] = {
        "source": sources[edges.sources],
        "target": targets[edges.targets],
    }
    weights = _weights(edges)
    kept = np.flatnonzero((rows["source"] >= 0) & (rows["target"] >= 0) & (weights > 0))
    comparator = comparator_of(config)
    inner = comparator.inner if isinstance(comparator, Pooled) else comparator
    operator, block = OPERATORS[model.operator_name(relation)], model.parameters[relation][None]
    pairs = config.components_of(ends.source) * config.components_of(ends.target)
    size = max(1, _NUMBERS // (config.width(ends.source) + config.width(ends.target) + pairs))
    for start in range(0, len(kept), size):
        part = kept[start : start + size]
        prepared: dict[Side, Tensor] = {}
        taken: dict[Side, Tensor] = {}
        for side in get_args(Side):
            table = model.vectors[getattr(ends, side)]
            taken[side] = torch.from_numpy(rows[side][part]).to(table.device)
            each = table[taken[side]].reshape(-1, config.dim)
            if side == ends.operator_side:
                each = operator.forward(each, block, None)
            prepared[side] = inner.prepare(each)[0].view(len(part), -1, config.dim)
        matrix = torch.einsum("ecn,eln->ecl", prepared["source"], prepared["target"])
        yield taken, torch.from_numpy(weights[part]).to(matrix.device), matrix


class _LogSums:
    """Logarithms of sums of exponentials of many numbers per row (N, C), without overflow."""

    def __init__(self, count: int, number: int, device: torch.device) -> None:
        self._top = torch.full((count,), -torch.inf, dtype=torch.float64, device=device)
        self._sums = torch.zeros(count, number, dtype=torch.float64, device=device)

    def add(self, rows: Tensor, logs: Tensor) -> None:
        """Add e^logs (E, C) to the ``rows`` (E,)."""
        top = self._top.scatter_reduce(0, rows, logs.amax(1), "amax")
        shrunk = torch.exp(self._top - top).nan_to_num_(0.0)  # -inf - -inf: nothing there yet
        self._sums *= shrunk[:, None]
        self._sums.index_add_(0, rows, torch.exp(logs - top[rows, None]))
        self._top = top

    def shares(self) -> NDArray[np.float32]:
        """Every row's shares (N, C) of its sum; equal where nothing was added."""
        total = self._sums.sum(1, keepdim=True)
        even = torch.full_like(self._sums, 1 / self._sums.shape[1])
        shares: NDArray[np.float32] = torch.where(total > 0, self._sums / total, even).float().cpu().numpy()
        return shares


def _weights(edges: Edges) -> NDArray[np.float32]:
    return np.ones(len(edges), np.float32) if edges.weights is None else edges.weights


def _named(model: Model, relations: Iterable[str] | None) -> list[str]:
    if isinstance(relations, str):
        raise ConfigError(f"mixture_weights: relations is {relations!r}, expected a list of names")
    names = list(model.relations) if relations is None else list(dict.fromkeys(relations))
    for name in names:
        if name not in model.relations:
            raise ConfigError(
                f"mixture_weights: relation {name!r} is not in the model; {closest(name, model.relations)}"
            )
    if not names:
        raise ConfigError("mixture_weights: relations is empty, expected at least one task")
    return names


def _temperatures(model: Model, names: list[str], temperature: float | Mapping[str, float] | None) -> dict[str, float]:
    default = model.config.weight_temperature
    everywhere = default if temperature is None else temperature
    given = everywhere if isinstance(everywhere, Mapping) else dict.fromkeys(names, everywhere)
    for name, value in given.items():
        if name not in names:
            raise ConfigError(f"mixture_weights: temperature names {name!r}; {closest(name, names)}")
        if not 0 < value < float("inf"):
            raise ConfigError(f"mixture_weights: the temperature of {name!r} is {value!r}, expected a number above 0")
    return {name: float(given.get(name, default)) for name in names}
