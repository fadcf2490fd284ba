"""Training on tables larger than memory (TwHIN, Algorithm 1; PyTorch-BigGraph): two partitions of every type at a time.

Edges come from a ``PreparedGraph``, bucket by bucket; vectors and the optimizer's state live in a ``PartitionStore``,
which reads the next partitions while a bucket trains and writes those that leave.  Negatives come from the partition at
hand; as partitions are random and meet anew in every epoch, that costs no quality that could be told from noise.
Partitions between which there is no edge do not meet.  Between two buckets the run may be committed; one that was
killed goes on from its last commit and ends with the same bytes.
Letters: P partitions, R relations.
"""

__all__ = [
    "SPARE",
    "PartitionedModel",
    "Plan",
    "check_partitioned",
    "chunk_edge_bytes",
    "partitioned_memory",
    "plan_partitions",
    "train_partitioned",
]

import copy
import dataclasses
import itertools
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from pretrain.buckets import bucket_order
from pretrain.config import Relation, TrainConfig
from pretrain.edges import Edges
from pretrain.memory import (
    MOST_PARTITIONS,
    Memory,
    fewest_partitions,
    parse_size,
    process_bytes,
    resident_bytes,
    workspace_bytes,
)
from pretrain.model import Model
from pretrain.partition_store import Key, Layout, Part, PartitionStore, normal_start
from pretrain.prepared import BucketEdges, PreparedGraph
from pretrain.reach import check_reach
from pretrain.run import Run, seed_of
from pretrain.train import Callback, epoch_record, float32_products, is_finite, memory_errors, rate_of
from recokit.errors import ConfigError, DataError, VersionError

_UNSUPPORTED = ("degree_power", "alpha", "patience")
# Bytes that were seen to be taken for an edge of the chunk that is trained, and by what finds known positives.
_OF_EDGE, _OF_KNOWN = 100, 90
_SHARE_OF_EDGES = 8  # a chunk takes at most one part in so many of what there is for edges and tables
_FEWEST, _MOST = 100_000, 20_000_000  # edges of a chunk: below, it costs more to set up than to train
_OF_SAMPLER, _OF_SAMPLERS = 8, 40  # bytes of a row: of every sampler, of the one that is being made
SPARE = 32_000_000  # bytes: what threads, large pages and first calls take on top


class Plan(NamedTuple):
    """How a graph is prepared so that training fits into memory."""

    partitions: int
    chunk_edges: int


def plan_partitions(
    memory: str | int,
    entities: Mapping[str, int],
    edges: int,
    config: TrainConfig,
    relations: Iterable[Relation] = (),
    *,
    whole_below: int = 10_000,
    baseline: int | None = None,
) -> Plan:
    """Return the fewest partitions, and the largest chunks of edges, with which training stays within ``memory``.

    Args:
        memory: Bytes that the process may hold, or a size such as ``"4GB"``.
        entities: Entity type to its number of entities.
        edges: Of all relations.
        config: The settings.
        relations: All of them; what they say of negatives counts, and each kind of them has samplers of its own.
        whole_below: See ``pretrain.prepare``.
        baseline: Bytes that the process holds when training begins; those that it holds now if not given.

    Raises:
        ConfigError: No number of partitions is enough.
    """
    held = process_bytes() if baseline is None else baseline
    kinds = {dataclasses.replace(relation, name="any", weight=1.0) for relation in relations}
    negatives = max(_negatives(relation, config, entities) for relation in kinds or (None,))
    workspace = workspace_bytes(config.batch_size, negatives, config.dim)
    share = (parse_size(memory) - held - workspace) // _SHARE_OF_EDGES // chunk_edge_bytes(config)
    chunk_edges = min(max(share, _FEWEST), _MOST)

    def predicted(partitions: int) -> Memory:
        cut = {entity: partitions if count >= whole_below else 1 for entity, count in entities.items()}
        memory, samplers = partitioned_memory(
            entities, cut, min(chunk_edges, edges), config, kinds, workspace=workspace, baseline=held
        )
        return dataclasses.replace(memory, edges=memory.edges + samplers)

    everything = any(_counts(relation, config)[0] == "all" for relation in kinds or (None,))
    most = 1 if everything else max(entities.values(), default=1)
    least, cuttable = fewest_partitions(memory, most, predicted), [n for n in entities.values() if n >= whole_below]
    # Where there is none that leaves no partition empty, it is for ``prepare`` to say so.
    fits = (p for p in range(least, MOST_PARTITIONS + 1) if not any(_leaves_empty(count, p) for count in cuttable))
    return Plan(next(fits, least), chunk_edges)


def chunk_edge_bytes(config: TrainConfig) -> int:
    """Return the bytes that an edge of a chunk takes while it is trained."""
    return _OF_EDGE + (_OF_KNOWN if config.filter_positives else 0)


def partitioned_memory(
    entities: Mapping[str, int],
    partitions: Mapping[str, int],
    chunk_edges: int,
    config: TrainConfig,
    relations: Iterable[Relation] = (),
    *,
    workspace: int,
    baseline: int,
) -> tuple[Memory, int]:
    """Predict the memory at the peak of training by partitions, and beside it that of the samplers of negatives.

    Args:
        entities: Entity type to its number of entities.
        partitions: Entity type to its number of partitions.
        chunk_edges: Edges in memory.
        config: The settings.
        relations: Each has samplers of its own; without any, one sampler a type is counted.
        workspace: Bytes that a step works with.
        baseline: Bytes that the process holds before.
    """
    rows = {entity: -(-count // partitions[entity]) for entity, count in entities.items()}
    ends = [rows[end] for relation in relations for end in (relation.source, relation.target)]
    samplers = (3 if config.log_q else 1) * _OF_SAMPLER * sum(ends or rows.values())
    memory = resident_bytes(
        entities,
        config.dim,
        partitions,
        optimizer=config.optimizer,
        bias=config.bias,
        edges=chunk_edge_bytes(config) * chunk_edges,
        workspace=workspace,
        baseline=baseline + SPARE,
    )
    return memory, samplers + _OF_SAMPLERS * max(rows.values(), default=0)


def _leaves_empty(count: int, partitions: int) -> bool:
    """Say whether so many partitions of equal size are more than are needed for so many rows."""
    return count > 0 and -(-count // -(-count // partitions)) < partitions


def _counts(relation: Relation | None, config: TrainConfig) -> tuple[Any, ...]:
    """Return the negatives of a side: uniform, prevalence, in-batch."""
    fields = ("uniform_negatives", "prevalence_negatives", "in_batch_negatives")
    own = [None if relation is None else getattr(relation, field) for field in fields]
    return tuple(getattr(config, field) if own is None else own for field, own in zip(fields, own, strict=True))


def _negatives(relation: Relation | None, config: TrainConfig, entities: Mapping[str, int]) -> int:
    uniform, *others = _counts(relation, config)
    if uniform == "all":
        ends = entities if relation is None else (relation.source, relation.target)
        uniform = max(entities[entity] for entity in ends)
    return int(uniform + sum(others))


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
        config: The settings; see ``pretrain.train``. Positives that ``filter_positives`` leaves out are those of the
            chunk at hand, in proportion to whose occurrences prevalence negatives are drawn.
        path: Folder of the run: partitions, and the commits that it can go on from. It stays when the run has ended.
        callback: See ``pretrain.train``.
        commit_seconds: Time between two commits, each of which writes what is in memory; 0 commits every bucket.
        resume: Go on from the last commit in ``path``, if there is one.

    Raises:
        ConfigError: The settings do not go with the graph or with partitions.
        DataError: There is no edge, or loss or vectors are no longer finite.
        VersionError: ``path`` holds another run, or one and ``resume`` is not asked for.
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
    else:
        store = PartitionStore.create(path, layout, start)
    try:
        _check_run(store, layout, identity)
        with float32_products(config.precision), memory_errors():
            training = _Training(prepared, config, store, callback, commit_seconds=commit_seconds, identity=identity)
            training.go_on()
    except BaseException:
        store.close()
        raise
    return PartitionedModel(prepared, config, store, training.run, tuple(training.history))


def check_partitioned(relations: Iterable[Relation], config: TrainConfig) -> None:
    """Raise a ConfigError where settings cannot be trained by partitions, or leave a relation nothing to learn."""
    for field in _UNSUPPORTED:
        if getattr(config, field):
            raise ConfigError(f"{field} does not go with partitions: it needs the whole graph at once; leave it out")
    if config.init == "spectral":
        raise ConfigError('init="spectral" does not go with partitions: it needs the whole graph at once; leave it out')
    if config.has_mixtures:
        raise ConfigError("components do not go with partitions, whose tables are all of one width; leave them out")
    if config.restarts > 1:
        raise ConfigError("restarts do not go with partitions: train once")
    check_reach(list(relations), config)


def _check(prepared: PreparedGraph, config: TrainConfig) -> None:
    if not sum(prepared.num_edges.values()):
        raise DataError("train: the graph has no edges")
    check_partitioned(prepared.relations.values(), config)
    counts = [config.uniform_negatives, *(r.uniform_negatives for r in prepared.relations.values())]
    if "all" in counts and prepared.partitions > 1:
        raise ConfigError('uniform_negatives="all" does not go with partitions, of which two are there: give a number')


def _check_run(store: PartitionStore, layout: Layout, identity: Mapping[str, Any]) -> None:
    """Refuse a folder of other settings or edges; where nothing was committed yet, the tables must be as large."""
    said = []
    if store.record:
        run = store.record.get("run", {})
        theirs, ours = ({**of.get("config", {}), "graph": of.get("graph")} for of in (run, identity))
        said = [
            "its edges are others"
            if key == "graph"
            else f"its {key} is {theirs.get(key)!r}, this run's {ours.get(key)!r}"
            for key in {**ours, **theirs}
            if theirs.get(key) != ours.get(key)
        ]
    elif store.layout != layout:
        said = ["its tables have other sizes"]
    if said:
        raise VersionError(f"{store.path} is of another run: {'; '.join(said)}")


class _Place(NamedTuple):
    """A bucket, and the partitions that are in memory while it is trained."""

    partitions: tuple[int, ...]
    bucket: tuple[int, int]


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
        self.total = _counted(prepared)
        if not self.total:
            raise DataError("train: every edge of the graph has the weight 0")
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
        self.store.release()
        if not self.store.record.get("finished"):
            self._check_finite()
            self._commit(finished=True)

    def _train_epoch(self) -> None:
        started, before = time.perf_counter(), self.done
        places = self._places(self.epoch)
        for number in range(self.bucket, len(places)):  # those before it were trained before the run was killed
            self._change(self.store.layout.keys(places[number].partitions))
            self.store.prefetch(self._coming(places[number:]))
            self._train_bucket(*places[number].bucket)
            self._end_bucket(last=number + 1 == len(places))
        self._end_epoch((self.done - before) / (time.perf_counter() - started))

    def _places(self, epoch: int) -> list[_Place]:
        """Return the buckets of an epoch that have edges, in order."""
        stays = bucket_order(self.prepared.partitions, self.config.seed, epoch)
        found = [_Place(stay.partitions, bucket) for stay in stays for bucket in stay.buckets]
        return [place for place in found if self.prepared.chunks(*place.bucket)]

    def _coming(self, places: list[_Place]) -> list[Key]:
        """Return what to read while the first of these places is trained: one partition of a type at most."""
        now, after = set(places[0].partitions), list(places)
        if self.epoch < self.config.epochs:
            after += self._places(self.epoch + 1)
        coming = next((place.partitions for place in after if set(place.partitions) != now), ())
        # Where buckets are empty, the next place may share no partition with this one; memory has room for one.
        return self.store.layout.keys([*(p for p in coming if p in now), *[p for p in coming if p not in now][:1]])

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
        def tables(relation: Relation) -> tuple[str, str]:
            ends = ((relation.source, i), (relation.target, j))
            source, target = (
                _table(entity, at if self.prepared.num_partitions(entity) > 1 else 0) for entity, at in ends
            )
            return source, target

        for chunk in range(self.prepared.chunks(i, j)):
            # Pages of a file that is mapped would count as this process's memory.
            edges = _by_relation(self.prepared, self.prepared.edges(i, j, chunk, mapped=False))
            self.run.groups = self.run.make_groups(edges, tables)
            del edges
            self.weights += self.run.weight_of_relations()
            self._train_groups(i, j, chunk)
            self.run.groups = []  # before the next ones are made

    def _train_groups(self, *numbers: int) -> None:
        run, config = self.run, self.config
        run.sampler_generator.manual_seed(seed_of(config.seed, self.epoch, *numbers, 1))
        before, size = (self.epoch - 1) * self.total, config.batch_size
        steps = math.ceil(config.epochs * self.total / size)  # full ones: how many there will be is not known
        with run.engine.at_work():
            for group, positions in run.batches(self.epoch, *numbers):
                rate = rate_of(config, (before + self.done) // size, steps)
                run.step(group, positions, self.losses, rate)
                self.done += len(positions)
                if self.callback:
                    event = {"event": "step", "epoch": self.epoch, "epochs": config.epochs}
                    self.callback({**event, "done": self.done, "edges": self.total})

    def _end_bucket(self, *, last: bool) -> None:
        if not math.isfinite(float(self.losses.sum())):
            raise DataError(f"train: the loss is not finite in epoch {self.epoch}; try a lower learning_rate")
        self.bucket += 1
        if not last and time.monotonic() - self._committed >= self.commit_seconds:
            self._commit()

    def _end_epoch(self, speed: float) -> None:
        self.history.append(epoch_record(self.run, self.epoch, self.losses, self.weights, self.total))
        if self.callback:
            event = {"event": "epoch", "epochs": self.config.epochs, "edges_per_second": speed}
            self.callback({**event, **copy.deepcopy(self.history[-1])})
        self.epoch, self.bucket, self.done = self.epoch + 1, 0, 0
        self.losses.zero_()
        self.weights[:] = 0.0
        if self.epoch <= self.config.epochs and time.monotonic() - self._committed >= self.commit_seconds:
            self._commit()

    def _check_finite(self) -> None:
        """Refuse what is no number in the end; the last steps have no loss to tell."""
        learned = [*self.run.blocks.items(), *self.run.block_state.items()]
        finite = {name: is_finite(block) for name, block in learned}
        for entity, part in itertools.product(self.prepared.entity_types, self.store.layout.parts):
            finite[entity] = all(np.isfinite(chunk).all() for _, chunk in self.store.table(entity, part))
            if not finite[entity]:
                break
        for name, fine in finite.items():
            if not fine:
                raise DataError(f"train: what was learned of {name!r} is not finite; try a lower learning_rate")

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


def _counted(prepared: PreparedGraph) -> int:
    """Return the edges whose weight is above 0: each has two ends."""
    if not prepared.is_weighted:
        return sum(prepared.num_edges.values())
    return sum(int(prepared.degrees(entity).sum()) for entity in prepared.entity_types) // 2


def _by_relation(prepared: PreparedGraph, chunk: BucketEdges) -> dict[str, Edges]:
    """Return relation to its edges in a chunk, as rows of the partitions; a chunk is sorted by relation."""
    ends = np.searchsorted(chunk.relation, np.arange(len(prepared.relations) + 1))
    sources, targets = chunk.sources.astype(np.int64), chunk.targets.astype(np.int64)
    parts = (slice(*part) for part in itertools.pairwise(ends))
    return {
        name: Edges(sources[part], targets[part], None if chunk.weights is None else chunk.weights[part])
        for name, part in zip(prepared.relations, parts, strict=True)
    }


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
        return dataclasses.replace(
            self.without_entities(),
            entities={entity: prepared.ids(entity).take(pa.array(places)) for entity, places in order.items()},
            vectors=whole["vectors"],
            biases=whole.get("bias", {}),
            vector_state=whole["state"],
            bias_state=whole.get("bias_state", {}),
            degrees={entity: prepared.degrees(entity)[places] for entity, places in order.items()},
        )

    def without_entities(self) -> Model:
        """Return the relations and their parameters as a model that has no entity."""
        run = self.run
        learned, state = run.parameters(run.blocks), run.parameters(run.block_state)
        return Model(
            self.config, self.prepared.relations, {}, {}, {}, learned, {}, {}, state, {}, self.epochs, self.meta()
        )

    def meta(self) -> dict[str, Any]:
        """Return where the edges came from, as ``Model.meta`` says it."""
        history: list[dict[str, Any]] = [dict(entry) for entry in self.prepared.history()]
        return {"history": history, "edges": dict(self.prepared.num_edges), "partitions": self.prepared.partitions}

    def _whole(self, entity: str, part: Part) -> NDArray[np.float32]:
        return np.concatenate([chunk.copy() for _, chunk in self.store.table(entity, part)])
