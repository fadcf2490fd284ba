"""Training on tables larger than memory (TwHIN, Algorithm 1; PyTorch-BigGraph): two partitions of every type at a time.

Edges come from a ``PreparedGraph``, bucket by bucket; vectors and the optimizer's state live in a ``PartitionStore``,
which reads the next partitions while a bucket trains and writes those that leave.  Negatives come from the partition at
hand; as partitions are random and meet anew in every epoch, that costs no quality that could be told from noise.
Between two buckets the run may be committed; one that was killed goes on from its last commit and ends with the same
bytes.
Letters: P partitions, R relations.
"""

__all__ = ["PartitionedModel", "train_partitioned"]

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from pretrain.buckets import Stay, bucket_order
from pretrain.config import Relation, TrainConfig
from pretrain.edges import Edges
from pretrain.model import Model
from pretrain.partition_store import Key, Layout, Part, PartitionStore, normal_start
from pretrain.prepared import BucketEdges, PreparedGraph
from pretrain.reach import check_reach
from pretrain.run import Run, seed_of
from pretrain.train import Callback, matmul_precision, memory_errors, rate_of
from recokit.errors import ConfigError, DataError, VersionError

_UNSUPPORTED = ("degree_power", "alpha", "patience")


def train_partitioned(
    prepared: PreparedGraph,
    config: TrainConfig | None = None,
    *,
    path: str | Path,
    callback: Callback | None = None,
    commit_seconds: float = 300.0,
    resume: bool = False,
) -> "PartitionedModel":
    """Learn vectors of all entities of a prepared graph, with two of its P partitions a type in memory.

    Args:
        prepared: The edges, in buckets.
        config: The settings; see ``pretrain.train``.
        path: Folder of the run: partitions, and the commits that it can go on from. It stays when the run has ended.
        callback: See ``pretrain.train``.
        commit_seconds: Time between two commits, each of which writes what is in memory; 0 commits every bucket.
        resume: Go on from the last commit in ``path``, if there is one.

    Raises:
        ConfigError: The settings do not go with the graph or with partitions.
        DataError: There is no edge, or loss or vectors are no longer finite.
        VersionError: ``path`` holds another run, or ``resume`` is not asked for.
    """
    config = config or TrainConfig()
    _check(prepared, config)
    path, identity = Path(path), {"config": dataclasses.asdict(config), "graph": prepared.digest()}
    entities = {entity: prepared.num_entities(entity) for entity in prepared.entity_types}
    layout = Layout(
        entities,
        {entity: prepared.num_partitions(entity) for entity in entities},
        config.dim,
        config.optimizer,
        config.bias,
    )
    start = normal_start(config.seed, config.init_scale)
    if path.exists():
        if not resume:
            raise VersionError(f"{path} holds a run: go on with it (resume), or remove the folder")
        store = PartitionStore.open(path, start)
        if store.record and store.record.get("run") != identity:
            store.close()
            raise VersionError(f"{path} is of another run: its settings or edges differ")
    else:
        store = PartitionStore.create(path, layout, start)
    with matmul_precision(config.precision), memory_errors():
        training = _Training(prepared, config, store, callback, commit_seconds=commit_seconds, identity=identity)
        try:
            training.go_on()
        except BaseException:
            store.close()
            raise
    return PartitionedModel(prepared, config, store, training.run, tuple(training.history))


def _check(prepared: PreparedGraph, config: TrainConfig) -> None:
    if not sum(prepared.num_edges.values()):
        raise DataError("train: the graph has no edges")
    for field in _UNSUPPORTED:
        if getattr(config, field):
            raise ConfigError(f"{field} does not go with partitions: it needs the whole graph at once; leave it out")
    if config.restarts > 1:
        raise ConfigError("restarts do not go with partitions: train once")
    counts = [config.uniform_negatives, *(r.uniform_negatives for r in prepared.relations.values())]
    if "all" in counts and prepared.partitions > 1:
        raise ConfigError('uniform_negatives="all" does not go with partitions, of which two are there: give a number')
    check_reach(prepared.relations.values(), config)


class _Training:
    """The epochs of a run, bucket by bucket, and where in them it stands."""

    def __init__(
        self,
        prepared: PreparedGraph,
        config: TrainConfig,
        store: PartitionStore,
        callback: Callback | None,
        *,
        commit_seconds: float,
        identity: Mapping[str, Any],
    ) -> None:
        self.prepared, self.config, self.store = prepared, config, store
        self.callback, self.commit_seconds, self.identity = callback, commit_seconds, identity
        self.run = Run(prepared.relations, config, torch.device("cpu"))
        self.total = sum(prepared.num_edges.values())
        record = store.record
        self.epoch, self.bucket = record.get("epoch", 1), record.get("bucket", 0)  # the next bucket to train
        self.done = record.get("done", 0)  # edges of the epoch
        self.history: list[dict[str, Any]] = record.get("history", [])
        self.losses = torch.tensor(record.get("losses", [0.0] * len(prepared.relations)), dtype=torch.float64)
        self.weights = np.array(record.get("weights", [0.0] * len(prepared.relations)))
        for operator in self.run.blocks:
            if f"block/{operator}" in store.arrays:
                self.run.blocks[operator].copy_(torch.from_numpy(store.arrays[f"block/{operator}"]))
                self.run.block_state[operator].copy_(torch.from_numpy(store.arrays[f"state/{operator}"]))
        self.resident: set[Key] = set()
        self._committed = time.monotonic()

    def go_on(self) -> None:
        """Train to the end, and commit it."""
        while self.epoch <= self.config.epochs:
            self._train_epoch()
        self._change(())
        if not self.store.record.get("finished"):
            self._check_finite()
            self._commit(finished=True)
        self.store.release()

    def _train_epoch(self) -> None:
        started, before = time.perf_counter(), self.done
        stays = bucket_order(self.prepared.partitions, self.config.seed, self.epoch)
        place = 0
        for number, stay in enumerate(stays):
            for bucket in stay.buckets:
                if place >= self.bucket:  # the others were trained before the run was killed
                    self._change(self.store.layout.keys(stay.partitions))
                    self.store.prefetch(self.store.layout.keys(self._next(stays, number)))
                    self._train_bucket(*bucket)
                    self._end_bucket(last=place + 1 == self.prepared.partitions**2)
                place += 1
        self._end_epoch((self.done - before) / (time.perf_counter() - started))

    def _next(self, stays: list[Stay], number: int) -> tuple[int, ...]:
        """Return the partitions of the stay after this one."""
        if number + 1 < len(stays):
            return stays[number + 1].partitions
        if self.epoch < self.config.epochs:
            return bucket_order(self.prepared.partitions, self.config.seed, self.epoch + 1)[0].partitions
        return ()

    def _change(self, keys: Iterable[Key]) -> None:
        """Let the partitions go that are not among these, and load these."""
        keys, run = list(keys), self.run
        for key in self.resident - set(keys):
            self.store.evict(key)
        for tables in (run.vectors, run.vector_state, run.biases, run.bias_state):
            tables.clear()
        for key, found in self.store.load(keys).items():
            name = _table(*key)
            run.vectors[name], run.vector_state[name] = found.vectors, found.state
            if found.bias is not None and found.bias_state is not None:
                run.biases[name], run.bias_state[name] = found.bias, found.bias_state
        self.resident = set(keys)

    def _train_bucket(self, i: int, j: int) -> None:
        run, config, prepared = self.run, self.config, self.prepared

        def tables(relation: Relation) -> tuple[str, str]:
            ends = ((relation.source, i), (relation.target, j))
            source, target = (_table(entity, at if prepared.num_partitions(entity) > 1 else 0) for entity, at in ends)
            return source, target

        for chunk in range(prepared.chunks(i, j)):
            run.groups = run.make_groups(_by_relation(prepared, prepared.edges(i, j, chunk)), tables)
            self.weights += run.weight_of_relations()
            run.sampler_generator.manual_seed(seed_of(config.seed, self.epoch, i, j, chunk, 1))
            before = (self.epoch - 1) * self.total
            with run.engine.at_work():
                for group, positions in run.batches(self.epoch, i, j, chunk):
                    rate = rate_of(config, before + self.done, config.epochs * self.total)
                    run.step(group, positions, self.losses, rate)
                    self.done += len(positions)
                    if self.callback:
                        event = {"event": "step", "epoch": self.epoch, "epochs": config.epochs}
                        self.callback({**event, "done": self.done, "edges": self.total})
        run.groups = []

    def _end_bucket(self, *, last: bool) -> None:
        if not math.isfinite(float(self.losses.sum())):
            raise DataError(f"train: the loss is not finite in epoch {self.epoch}; try a lower learning_rate")
        self.bucket += 1
        if not last and time.monotonic() - self._committed >= self.commit_seconds:
            self._commit()

    def _end_epoch(self, speed: float) -> None:
        per_relation = self.losses.numpy() / np.where(self.weights > 0, self.weights, 1.0)
        loss = float(self.losses.sum()) / self.total
        losses = dict(zip(self.prepared.relations, per_relation.tolist(), strict=True))
        self.history.append({"epoch": self.epoch, "loss": loss, "losses": losses})
        if self.callback:
            event = {"event": "epoch", "epochs": self.config.epochs, "edges_per_second": speed}
            self.callback({**event, **self.history[-1]})
        self.epoch, self.bucket, self.done = self.epoch + 1, 0, 0
        self.losses.zero_()
        self.weights[:] = 0.0
        if self.epoch <= self.config.epochs and time.monotonic() - self._committed >= self.commit_seconds:
            self._commit()

    def _check_finite(self) -> None:
        """Refuse what is no number in the end; the last steps have no loss to tell."""
        for entity in self.prepared.entity_types:
            if not all(np.isfinite(chunk.sum()) for _, chunk in self.store.table(entity)):
                raise DataError(f"train: what was learned of {entity!r} is not finite; try a lower learning_rate")

    def _commit(self, *, finished: bool = False) -> None:
        run = self.run
        record = {
            "run": self.identity,
            "finished": finished,
            "epoch": self.epoch,
            "bucket": self.bucket,
            "done": self.done,
            "history": self.history,
            "losses": self.losses.tolist(),
            "weights": self.weights.tolist(),
        }
        arrays = {f"block/{operator}": block.numpy() for operator, block in run.blocks.items()}
        arrays |= {f"state/{operator}": block.numpy() for operator, block in run.block_state.items()}
        self.store.commit(record, arrays)
        self._committed = time.monotonic()


def _table(entity: str, partition: int) -> str:
    """Return what a run calls a partition's table."""
    return f"{entity}/{partition}"


def _by_relation(prepared: PreparedGraph, edges: BucketEdges) -> dict[str, Edges]:
    """Part the edges of a chunk, which come sorted by relation."""
    ends = np.searchsorted(edges.relation, np.arange(len(prepared.relations) + 1))
    parts = {}
    for name, first, last in zip(prepared.relations, ends, ends[1:], strict=False):
        sources, targets = (rows[first:last].astype(np.int64) for rows in (edges.sources, edges.targets))
        parts[name] = Edges(sources, targets, None if edges.weights is None else np.array(edges.weights[first:last]))
    return parts


@dataclasses.dataclass(frozen=True, eq=False)
class PartitionedModel:
    """What ``train_partitioned`` learned, on disk.

    Attributes:
        prepared: The graph; its rows are the tables'.
        config: The settings.
        store: Vectors and the optimizer's state.
        run: Relations and their parameters.
        epochs: A record an epoch; see ``Model``.
    """

    prepared: PreparedGraph
    config: TrainConfig
    store: PartitionStore
    run: Run
    epochs: tuple[Mapping[str, Any], ...]

    def close(self) -> None:
        """Let go of the folder."""
        self.store.close()

    def to_model(self) -> Model:
        """Return the model in memory, its entities in the order of their ids, as that of ``prepared.to_graph()``."""
        prepared, whole = self.prepared, {}
        order = {entity: pc.sort_indices(prepared.ids(entity)).to_numpy() for entity in prepared.entity_types}
        for part in self.store.layout.parts:
            whole[part] = {entity: torch.from_numpy(self._whole(entity, part)[order[entity]]) for entity in order}
        return Model(
            config=self.config,
            relations=prepared.relations,
            entities={entity: prepared.ids(entity).take(pa.array(places)) for entity, places in order.items()},
            vectors=whole["vectors"],
            biases=whole.get("bias", {}),
            parameters=self.run.parameters(self.run.blocks),
            vector_state=whole["state"],
            bias_state=whole.get("bias_state", {}),
            parameter_state=self.run.parameters(self.run.block_state),
            degrees={entity: prepared.degrees(entity)[places] for entity, places in order.items()},
            epochs=self.epochs,
            meta=self.meta(),
        )

    def meta(self) -> dict[str, Any]:
        """Return where the edges came from, as ``Model.meta`` says it."""
        history: list[dict[str, Any]] = [dict(entry) for entry in self.prepared.history()]
        return {"history": history, "edges": dict(self.prepared.num_edges), "partitions": self.prepared.partitions}

    def _whole(self, entity: str, part: Part) -> NDArray[np.float32]:
        return np.concatenate([chunk.copy() for _, chunk in self.store.table(entity, part)])
