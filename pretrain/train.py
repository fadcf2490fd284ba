"""The training loop, in the order in which it runs.

An epoch cuts the shuffled edges into batches and trains those of all relations in random order.  A batch draws one
block of negatives a side, the step gives loss and gradients, row-wise Adagrad applies them (``pretrain.run``).  Between
batches the run may be written down, after an epoch it may be looked at: both leave its numbers as they are, so that the
same seed gives the same bytes, killed and resumed or not.
"""

__all__ = [
    "Callback",
    "check_entities",
    "device_of",
    "edges_meta",
    "epoch_record",
    "float32_products",
    "is_finite",
    "memory_errors",
    "rate_of",
    "train",
]

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.checkpoint import Checkpoints
from pretrain.components import component_usage, mixture_weights
from pretrain.config import Sides, TrainConfig
from pretrain.evaluate import evaluate
from pretrain.export import load_previous
from pretrain.graph import Graph
from pretrain.model import Model
from pretrain.reach import check_reach
from pretrain.run import Run
from pretrain.warm import carry
from recokit.errors import ConfigError, DataError, closest
from recokit.overlap import SKETCH_SIZE, edge_sketch

Callback = Callable[[Mapping[str, Any]], None]


def train(
    graph: Graph,
    config: TrainConfig | None = None,
    *,
    device: str | torch.device | None = None,
    callback: Callback | None = None,
    previous: Model | str | Path | None = None,
    carry_state: bool = True,
    validation: Graph | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    resume: bool = False,
) -> Model:
    """Learn vectors of all entities and parameters of all relations from the edges of a graph.

    Minimises, over the edges (s, r, t) and their corrupted copies, the configured loss of
    ``score = comparator(operator_r(s), t)`` (TwHIN, El-Kishky et al. 2022, Eq. 1 and 2).

    Args:
        graph: The network; train on the known part of a split.
        config: The settings; ``TrainConfig()`` if not given.
        device: Where to train; a CUDA device if there is one, else the CPU.
        callback: Called with a mapping after every step (``event="step"``: epoch, epochs, edges done, edges in the
            epoch) and after every epoch (``event="epoch"``: epoch, epochs, loss, edges_per_second, losses, and the
            metric where it was validated). What it raises ends the training.
        previous: Start from this model, or from a version's or model's folder (TwHIN 7.2): vectors, relations and the
            optimizer's state are carried by id, new entities start from their neighbours (Eq. 5) or, without any, at
            random.
        carry_state: Carry the optimizer's state too; without it the first steps undo much of the start.
        validation: Held-out edges to look at every ``config.evaluate_every`` epochs; the best epoch's model is
            returned, and with ``config.patience`` training ends early.
        checkpoint: A folder to write the run down in from time to time; it stays when the run has ended, and then
            holds its end.
        checkpoint_seconds: Time between two checkpoints.
        resume: Go on from the checkpoint in the folder, if there is one.

    Returns:
        The trained model, on the device.

    Raises:
        ConfigError: The settings do not go with the graph, a relation's parameters could never learn, or validation
            is needed and not given.
        DataError: The graph has no edges, or loss or vectors are no longer finite (a learning rate far too high).
        VersionError: The checkpoint is of another run, or there is one and ``resume`` is not asked for.
    """
    config = config or TrainConfig()
    device = device_of(device)
    if not any(len(edges) for edges in graph.edges.values()):
        raise DataError("train: the graph has no edges")
    if isinstance(previous, str | Path):
        previous = load_previous(previous)
    if previous is not None and config.has_mixtures:
        config = dataclasses.replace(config, pooling_warmup=0.0)  # its components are apart already
    _check_validation(graph, config, validation)
    check_entities(graph, config)
    if previous is None and any(config.alpha.values() if isinstance(config.alpha, Mapping) else (config.alpha,)):
        raise ConfigError("alpha holds vectors near those of a previous model: give previous")
    if previous is not None and config.init == "spectral":
        raise ConfigError('init="spectral" starts on axes of its own, not on those of the previous model: leave it out')
    check_reach(graph.relations.values(), config)
    identity = None if checkpoint is None else _identity(graph, config, previous, carry_state, validation)
    models = []
    with (
        float32_products(config.precision),
        _determinism(config.deterministic and device.type == "cuda"),
        memory_errors(),
        torch.cuda.device(device) if device.type == "cuda" else nullcontext(),  # where Triton launches kernels
    ):
        for number in range(config.restarts):
            own = dataclasses.replace(config, seed=config.seed + number)
            run = Run.of(graph, own, device)
            if not any(map(len, run.groups)):
                raise DataError("train: every edge of the graph has the weight 0")
            start = {} if previous is None else {"start": carry(previous, run, graph, carry_state=carry_state)}
            checkpoints = None
            if checkpoint is not None and identity is not None:
                folder = Path(checkpoint) / f"restart-{number}" if config.restarts > 1 else checkpoint
                its = {**identity, "seed": own.seed}
                checkpoints = Checkpoints(folder, its, seconds=checkpoint_seconds, resume=resume)
            models.append(_Training(run, graph, callback, validation, checkpoints).model(start))
            if number:  # the best so far alone is kept
                models = [max(models, key=_best_metric)]
    return models[0]


def _best_metric(model: Model) -> float:
    return max((record.get(model.config.metric, -math.inf) for record in model.epochs), default=-math.inf)


def _check_validation(graph: Graph, config: TrainConfig, validation: Graph | None) -> None:
    """Refuse a validation part that would say nothing, before an epoch has gone into it."""
    if validation is None:
        if config.patience or config.restarts > 1:
            raise ConfigError("patience and restarts need a validation graph, whose metric they look at")
        return
    asked = [name for name, edges in validation.edges.items() if len(edges)]
    if not asked:
        raise DataError("train: the validation graph has no edges")
    for name in asked:
        if name not in graph.relations:
            raise ConfigError(
                f"validation has edges of {name!r}, which is not trained; {closest(name, graph.relations)}"
            )
    if config.epochs // config.evaluate_every <= config.epochs_of_means // config.evaluate_every:
        first = f", the first {config.epochs_of_means} by means," if config.epochs_of_means else ""
        raise ConfigError(
            f"evaluate_every is {config.evaluate_every}, so {config.epochs} epochs{first} are never validated"
        )


def check_entities(graph: Graph, config: TrainConfig) -> None:
    """Refuse penalties and components of an entity type that is not there."""
    for field in ("components", "alpha"):
        of_types = getattr(config, field)
        for entity in of_types if isinstance(of_types, Mapping) else ():
            if entity not in graph.entities:
                raise ConfigError(f"{field} names the entity type {entity!r}; {closest(entity, graph.entities)}")


class _Training:
    """The epochs of a run, what was seen after each, and where in them it stands."""

    def __init__(
        self,
        run: Run,
        graph: Graph,
        callback: Callback | None,
        validation: Graph | None,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.run, self.graph = run, graph
        self.callback, self.validation, self.checkpoints = callback, validation, checkpoints
        self.config = run.config
        self.epoch, self.batch = 1, 0  # the next batch to train
        self.history: list[dict[str, Any]] = []
        self.losses = torch.zeros(len(run.relations), dtype=torch.float64, device=run.device)
        self.best: dict[str, Tensor] = {}  # the tensors of the best epoch so far, where they are not the last one's
        self.total = sum(len(group) for group in run.groups)
        self.weight_of = run.weight_of_relations()
        self.replays = _replays(run, self.losses)

    def model(self, meta: Mapping[str, Any]) -> Model:
        """Train to the end and put the results together; ``meta`` is added to what the model knows of itself."""
        self._resume()
        while self.epoch <= self.config.epochs and not self._out_of_patience():
            self._train_epoch()
        self._checkpoint()
        for name, tensor in self.run.tensors().items():
            if name in self.best:
                tensor.copy_(self.best[name])
            if not is_finite(tensor):  # the last steps have no loss to tell
                raise DataError(f"train: what was learned of {name!r} is not finite; try a lower learning_rate")
        engine = self.run.engine
        meta = {**edges_meta(self.graph), "engine": f"{engine.name}: {engine.products}", **meta}
        if self.best:
            meta["best_epoch"] = self._best_epoch()
        model = self.run.model(self.graph, self.history, meta)
        if not self.config.has_mixtures:
            return model
        return dataclasses.replace(
            model,
            mixture_weights=mixture_weights(model, self.graph),
            meta={**model.meta, "components": component_usage(model, self.graph)},
        )

    def _train_epoch(self) -> None:
        run, config = self.run, self.config
        first_epochs = config.epochs_of_means
        run.by_means = self.epoch <= first_epochs
        if self.epoch == first_epochs + 1 and first_epochs and not self.batch:
            run.forget_steps()
        started, total_steps = time.perf_counter(), (config.epochs - first_epochs) * run.num_batches()
        batches = run.batches(self.epoch)
        before = (self.epoch - 1 - first_epochs) * len(batches)
        done = sum(len(positions) for _, positions in batches[: self.batch])
        first = done
        if self.replays is not None:
            self.replays.begin(batches[self.batch :])
        with run.engine.at_work():
            for group, positions in batches[self.batch :]:
                rate = 1.0 if run.by_means else rate_of(config, before + self.batch, total_steps)
                if self.replays is not None:
                    self.replays.step(group, positions, rate)
                else:
                    run.step(group, positions, self.losses, rate)
                self.batch += 1
                done += len(positions)
                if self.callback:
                    event = {"event": "step", "epoch": self.epoch, "epochs": config.epochs}
                    self.callback({**event, "done": done, "edges": self.total})
                if self.checkpoints and self.batch < len(batches) and self.checkpoints.due():
                    self._checkpoint()
        speed = (done - first) / (time.perf_counter() - started)
        self._end_epoch(speed)

    def _end_epoch(self, speed: float) -> None:
        record = epoch_record(self.run, self.epoch, self.losses, self.weight_of, self.total)
        settled = self.epoch > self.config.epochs_of_means  # or what is looked at is not what is trained
        if self.validation is not None and settled and self.epoch % self.config.evaluate_every == 0:
            record[self.config.metric] = self._validate(self.validation)
        self.history.append(record)  # without the speed: the same seed gives the same bytes
        if self.config.metric in record and self._best_epoch() == self.epoch:
            self.best = {name: tensor.clone() for name, tensor in self.run.tensors().items()}
        if self.callback:
            event = {"event": "epoch", "epochs": self.config.epochs, "edges_per_second": speed}
            self.callback({**event, **copy.deepcopy(record)})
        self.epoch, self.batch = self.epoch + 1, 0
        self.losses.zero_()
        if self.checkpoints and self.checkpoints.due():
            self._checkpoint()

    def _validate(self, validation: Graph) -> float:
        """Measure the metric over all questions that the training asks: of each relation, on its own sides."""
        config, graph = self.config, self.graph
        cut = int(config.metric.partition("@")[2] or 10)
        by_sides: dict[Sides, list[str]] = {}
        for name in (name for name, edges in validation.edges.items() if len(edges)):
            by_sides.setdefault(graph.relations[name].sides or config.sides, []).append(name)
        model, total, questions = self.run.model(graph, [], {}), 0.0, 0
        for sides, names in by_sides.items():
            evaluation = evaluate(model, validation, known=graph, k=(cut,), sides=sides, relations=names)
            total += evaluation.value(config.metric) * len(evaluation.ranks)
            questions += len(evaluation.ranks)
        return total / questions

    def _best_epoch(self) -> int:
        """Return the first epoch with the best metric; 0 where there is none."""
        seen = [
            (record[self.config.metric], -record["epoch"]) for record in self.history if self.config.metric in record
        ]
        return -max(seen)[1] if seen else 0

    def _out_of_patience(self) -> bool:
        since = [
            record for record in self.history if record["epoch"] > self._best_epoch() and self.config.metric in record
        ]
        return bool(self.config.patience) and len(since) >= self.config.patience

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        if self.checkpoints is None:
            return
        arrays = {f"run/{name}": tensor for name, tensor in self.run.tensors().items()}
        arrays |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        arrays |= {"losses": self.losses, "generator": self.run.sampler_generator.get_state()}
        numbers = {name: tensor.cpu().numpy() for name, tensor in arrays.items()}
        record = {"epoch": self.epoch, "batch": self.batch, "history": self.history}
        self.checkpoints.save(self.epoch, self.batch, record, numbers)

    def _resume(self) -> None:
        found = None if self.checkpoints is None else self.checkpoints.load()
        if found is None:
            return
        record, numbers = found
        arrays = {name: torch.from_numpy(array) for name, array in numbers.items()}
        self.epoch, self.batch, self.history = record["epoch"], record["batch"], record["history"]
        self.losses.copy_(arrays["losses"])
        self.run.sampler_generator.set_state(arrays["generator"])
        for name, tensor in self.run.tensors().items():
            tensor.copy_(arrays[f"run/{name}"])
        if any(name.startswith("best/") for name in arrays):
            self.best = {name: arrays[f"best/{name}"].to(tensor.device) for name, tensor in self.run.tensors().items()}


def epoch_record(run: Run, epoch: int, losses: Tensor, weights: NDArray[np.float64], edges: int) -> dict[str, Any]:
    """Return what is kept of an epoch.

    Args:
        run: Names the relations.
        epoch: Its number.
        losses: Sum (R,) of the losses of every relation.
        weights: Total weight (R,) of their edges.
        edges: Of all relations.

    Raises:
        DataError: The loss is not finite.
    """
    of_relations = losses.cpu().numpy()
    loss, per_relation = float(of_relations.sum()) / edges, of_relations / np.where(weights > 0, weights, 1.0)
    if not math.isfinite(loss):
        raise DataError(f"train: the loss is {loss} after epoch {epoch}; try a lower learning_rate")
    return {"epoch": epoch, "loss": loss, "losses": dict(zip(run.relations, per_relation.tolist(), strict=True))}


def is_finite(tensor: Tensor) -> bool:
    """Whether there are numbers alone, without a copy of them."""
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def _replays(run: Run, losses: Tensor) -> Any:
    """Return what captures batches as CUDA graphs (``pretrain.gpu.graphs``); None for other engines."""
    if run.engine.name != "gpu":
        return None
    from pretrain.gpu.graphs import CudaCapture, Replays

    return Replays(
        lambda group, positions, rate: run.train(group, positions, losses, rate),
        run.config.batch_size,
        CudaCapture(run.device, [run.sampler_generator]),
        run.device,
        lambda group: not run.waits(group),
    )


def rate_of(config: TrainConfig, step: int, total: int) -> float:
    """Return the factor of the learning rates at a step (from 0) of ``total``."""
    rising = config.warmup * total
    if step < rising:
        return (step + 1) / (rising + 1)
    gone = (step - rising) / max(total - rising, 1)
    match config.schedule:
        case "linear":
            return 1 - gone
        case "cosine":
            return 0.5 + 0.5 * math.cos(math.pi * gone)
        case "constant":
            return 1.0


def _identity(
    graph: Graph, config: TrainConfig, previous: Model | None, carry_state: bool, validation: Graph | None
) -> dict[str, Any]:
    """Return what makes a run this run: its settings, relations, edges and start."""
    return {
        **dataclasses.asdict(config),
        "relations": [dataclasses.asdict(relation) for relation in graph.relations.values()],
        "edges": graph.digest(),
        "validation": None if validation is None else validation.digest(),
        "previous": None if previous is None else previous.digest(),
        "carry_state": carry_state,
    }


def device_of(wanted: str | torch.device | None) -> torch.device:
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
    if not wanted:  # even to leave it as it is imports a good part of torch
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise what torch says of memory on the CPU as the error that it is; a GPU's is told apart already."""
    try:
        yield
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise MemoryError(str(error).strip().splitlines()[-1]) from error


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Compute in float32 for the time of a run, with bfloat16 inside its matrix products under ``"auto"``."""
    before, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    torch.set_float32_matmul_precision("medium" if precision == "auto" else "highest")
    torch.set_default_dtype(torch.float32)  # the caller's may be another
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_default_dtype(dtype)


def edges_meta(graph: Graph) -> dict[str, Any]:
    """Record where the edges came from, and a sketch of them that tells later whether others have seen them too."""
    sketches = []
    for name, relation in graph.relations.items():
        edges = graph.edges[name]
        ends = []
        for rows, entity in ((edges.sources, relation.source), (edges.targets, relation.target)):
            used, codes = np.unique(rows, return_inverse=True)  # a dictionary of these alone: each is hashed once
            ids = graph.entities[entity].take(pa.array(used))
            ends.append(pa.DictionaryArray.from_arrays(pa.array(codes), ids))
        sketch = edge_sketch(*ends, size=SKETCH_SIZE)
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
