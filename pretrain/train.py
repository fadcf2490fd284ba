"""The training loop, in the order in which it runs.

An epoch cuts every relation's edges, shuffled, into batches of one relation each and trains the batches of all
relations in random order.  A batch draws one block of negatives a side, the step gives loss and gradients, row-wise
Adagrad applies them.  Everything random comes from one seeded generator, so that the same seed gives the same bytes.
"""

__all__ = ["train"]

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pretrain.comparators import COMPARATORS
from pretrain.config import Relation, TrainConfig
from pretrain.graph import Graph
from pretrain.losses import LOSSES
from pretrain.model import Model
from pretrain.negatives import NegativeSampler
from pretrain.operators import OPERATORS
from pretrain.optimizer import adagrad_, row_adagrad_
from pretrain.step import Batch, Gradients, Step
from recokit.errors import ConfigError, DataError
from recokit.overlap import edge_sketch

_SKETCH_SIZE = 1024  # hashes a relation: 11 KB in the meta; enough to see an overlap of one in a hundred

Callback = Callable[[Mapping[str, Any]], None]


def train(
    graph: Graph,
    config: TrainConfig | None = None,
    *,
    device: str | torch.device | None = None,
    callback: Callback | None = None,
) -> Model:
    """Learn vectors of all entities and parameters of all relations from the edges of a graph.

    Minimises, over the edges (s, r, t) and their corrupted copies, the configured loss of
    ``score = comparator(operator_r(s), t)`` (TwHIN, El-Kishky et al. 2022, Eq. 1 and 2).

    Args:
        graph: The network; train on the known part of a split.
        config: The settings; ``TrainConfig()`` if not given.
        device: Where to train; a CUDA device if there is one, else the CPU.
        callback: Called with a mapping after every step (``event="step"``: epoch, epochs, edges done, edges in the
            epoch) and after every epoch (``event="epoch"``: epoch, epochs, loss, edges_per_second, losses). What it
            raises ends the training.

    Returns:
        The trained model, on the device.

    Raises:
        DataError: The graph has no edges, or loss or vectors are no longer finite (a learning rate far too high).
    """
    config = config or TrainConfig()
    device = _device(device)
    if not any(len(edges) for edges in graph.edges.values()):
        raise DataError("train: the graph has no edges")
    with _matmul_precision(config.precision), _determinism(config.deterministic and device.type == "cuda"):
        return _train(graph, config, device, callback)


def _train(graph: Graph, config: TrainConfig, device: torch.device, callback: Callback | None) -> Model:
    run = _Run(graph, config, device)
    total = sum(len(edges) for edges in graph.edges.values())
    history: list[dict[str, Any]] = []
    for epoch in range(1, config.epochs + 1):
        started, done = time.perf_counter(), 0
        losses = {name: torch.zeros((), device=device) for name in graph.relations}
        for name, edges in run.batches():
            losses[name] += run.step(name, edges)
            done += len(edges)
            if callback:
                callback({"event": "step", "epoch": epoch, "epochs": config.epochs, "done": done, "edges": total})
        per_relation = {name: loss.item() / (run.total_weight(name) or 1.0) for name, loss in losses.items()}
        loss = sum(loss.item() for loss in losses.values()) / total
        if not np.isfinite(loss):
            raise DataError(f"train: the loss is {loss} after epoch {epoch}; try a lower learning_rate")
        record = {
            "epoch": epoch,
            "loss": loss,
            "edges_per_second": total / (time.perf_counter() - started),
            "losses": per_relation,
        }
        # The speed is not part of the model: the same seed gives the same bytes.
        history.append({key: value for key, value in record.items() if key != "edges_per_second"})
        if callback:
            callback({"event": "epoch", "epochs": config.epochs, **record})
    for name, tensor in (*run.vectors.items(), *run.parameters.items()):  # the last steps have no loss to tell
        if not torch.isfinite(tensor).all():
            raise DataError(f"train: what was learned of {name!r} is not finite; try a lower learning_rate")
    return run.model(graph, history, _meta(graph))


def _device(wanted: str | torch.device | None) -> torch.device:
    """Return a device that is there."""
    try:
        device = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"device {wanted!r} does not exist; such as: cpu, cuda, cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {wanted!r} is not one to train on; such as: cpu, cuda, cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {wanted!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


@contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    """Take the deterministic form of every operation on a GPU that has one; on the CPU all of ours have it anyway."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    """Allow bfloat16 inside float32 matrix products under ``"auto"``, for the time of a run."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "auto" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _meta(graph: Graph) -> dict[str, Any]:
    """Record where the edges came from, and a sketch of them that tells later whether others have seen them too."""
    sketches = []
    for name, relation in graph.relations.items():
        edges = graph.edges[name]
        ends = [  # dictionaries, so that every id is hashed once
            pa.DictionaryArray.from_arrays(pa.array(rows), graph.entities[entity])
            for rows, entity in ((edges.sources, relation.source), (edges.targets, relation.target))
        ]
        sketch = edge_sketch(*ends, size=_SKETCH_SIZE)
        sketches.append({"relation": name, "source": relation.source, "target": relation.target, **sketch})
    return {
        "history": [dict(entry) for entry in graph.history],
        "edges": {name: len(edges) for name, edges in graph.edges.items()},
        "times": {  # first and last: microseconds since 1970 for timestamps, else the column's numbers
            name: [edges.times.min().item(), edges.times.max().item()]
            for name, edges in graph.edges.items()
            if edges.times is not None and len(edges)
        },
        "edge_sketches": sketches,
    }


class _Run:
    """State of a training run: tables, accumulators, edges and samplers, all on one device."""

    def __init__(self, graph: Graph, config: TrainConfig, device: torch.device) -> None:
        self.config, self.relations, self.device = config, graph.relations, device
        # Everything is drawn on the CPU first, so that a seed means the same start on every device.
        self.generator = torch.Generator().manual_seed(config.seed)
        # A seed of its own, so that negatives do not repeat the numbers of the first vectors.
        own_seed = int(torch.randint(2**62, (), generator=self.generator))
        self.sampler_generator = torch.Generator(device).manual_seed(own_seed)
        self.degrees = {entity: graph.degrees(entity, weighing=True) for entity in graph.entities}
        self.vectors = {
            entity: (torch.randn(len(ids), config.dim, generator=self.generator) * config.init_scale).to(device)
            for entity, ids in graph.entities.items()
        }
        self.vector_state = {entity: torch.zeros(len(ids), device=device) for entity, ids in graph.entities.items()}
        self.steps, self.parameters, self.negatives, self.samplers = {}, {}, {}, {}
        self.sources, self.targets, self.weights = {}, {}, {}
        for name, relation in graph.relations.items():
            operator = OPERATORS[relation.operator or config.operator]
            self.steps[name] = Step(operator, COMPARATORS[config.comparator], LOSSES[config.loss], config.temperature)
            self.parameters[name] = operator.start(config.dim).to(device)
            self.negatives[name] = _Negatives.of(relation, config)
            edges = graph.edges[name]
            self.sources[name] = torch.tensor(edges.sources, device=device)
            self.targets[name] = torch.tensor(edges.targets, device=device)
            ones = np.ones(len(edges), np.float32)
            weight = (ones if edges.weights is None else edges.weights) * np.float32(relation.weight)
            self.weights[name] = torch.tensor(weight, device=device)
            self.samplers[name] = tuple(
                NegativeSampler(np.bincount(rows, minlength=graph.num_entities(entity)), device=device)
                for rows, entity in ((edges.sources, relation.source), (edges.targets, relation.target))
            )
        self.parameter_state = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    def total_weight(self, name: str) -> float:
        """Sum of the edge weights of a relation."""
        return float(self.weights[name].sum())

    def batches(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (relation, positions of its edges) for one epoch, batches of all relations in random order."""
        jobs = [
            (name, positions)
            for name, sources in self.sources.items()
            for positions in torch.randperm(len(sources), generator=self.generator).split(self.config.batch_size)  # type: ignore[no-untyped-call]
            if len(positions)
        ]
        for job in torch.randperm(len(jobs), generator=self.generator).tolist():
            yield jobs[job][0], jobs[job][1].to(self.device)

    def step(self, name: str, positions: Tensor) -> Tensor:
        """Train one batch and return its loss ()."""
        relation, counts = self.relations[name], self.negatives[name]
        sources, targets = self.sources[name][positions], self.targets[name][positions]
        from_sources, from_targets = self.samplers[name]
        batch = Batch(
            sources,
            targets,
            self.weights[name][positions],
            counts.draw(from_sources, sources, self.sampler_generator) if counts.of_sources else sources[:0],
            counts.draw(from_targets, targets, self.sampler_generator) if counts.of_targets else targets[:0],
        )
        gradients = self.steps[name](
            self.vectors[relation.source], self.vectors[relation.target], self.parameters[name], batch
        )
        self._update(relation, gradients)
        adagrad_(
            self.parameters[name],
            self.parameter_state[name],
            gradients.parameter_grad,
            self.config.relation_learning_rate,
        )
        return gradients.loss

    def _update(self, relation: Relation, gradients: Gradients) -> None:
        parts = [
            (relation.source, gradients.source_rows, gradients.source_grads),
            (relation.target, gradients.target_rows, gradients.target_grads),
        ]
        if relation.source == relation.target:  # one table: both ends count as one gradient
            parts = [(relation.source, torch.cat([parts[0][1], parts[1][1]]), torch.cat([parts[0][2], parts[1][2]]))]
        for entity, rows, grads in parts:
            row_adagrad_(self.vectors[entity], self.vector_state[entity], rows, grads, self.config.learning_rate)

    def model(self, graph: Graph, epochs: list[dict[str, Any]], meta: dict[str, Any]) -> Model:
        """Put the results together."""
        return Model(
            self.config,
            graph.relations,
            graph.entities,
            self.vectors,
            self.parameters,
            self.vector_state,
            self.parameter_state,
            self.degrees,
            epochs,
            meta,
        )


class _Negatives:
    """How many negatives of each kind a relation draws, and for which sides."""

    def __init__(self, uniform: int, prevalence: int, in_batch: int, sides: str) -> None:
        self.uniform, self.prevalence, self.in_batch = uniform, prevalence, in_batch
        self.of_sources, self.of_targets = sides in ("both", "source"), sides in ("both", "target")

    @classmethod
    def of(cls, relation: Relation, config: TrainConfig) -> "_Negatives":
        def chosen(field: str) -> int:
            own = getattr(relation, field)
            return int(getattr(config, field) if own is None else own)

        counts = [chosen(field) for field in ("uniform_negatives", "prevalence_negatives", "in_batch_negatives")]
        if not sum(counts):
            raise ConfigError(f"relation {relation.name!r} has no negatives: without them nothing is learned")
        return cls(counts[0], counts[1], counts[2], relation.sides or config.sides)

    def draw(self, sampler: NegativeSampler, own: Tensor, generator: torch.Generator) -> Tensor:
        """Rows (N,): uniform, then prevalence, then the batch's first edges (the order in a batch is random)."""
        rows = sampler.draw(self.uniform, self.prevalence, generator)
        return torch.cat([rows, own[: self.in_batch]]) if self.in_batch else rows
