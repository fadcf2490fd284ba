"""What a training run will take, from counts alone: memory, partitions, time and disk.

A run keeps its tables and all edges in memory where they fit.  Where they do not, edges are prepared on disk and tables
are cut into as few partitions as the memory allows, two of which are trained while a third is read.

Time of an epoch, of E edges in batches of B with N negatives on each of s sides, dimension D:
products of matrices, 6 s N D operations an edge (one product for the scores, two for their gradients);
rows, 2 an edge and s N a batch, each at what a byte costs in tables of the size that is trained at a time;
what a batch costs in itself; and partitions on their way, as far as training does not hide them.
Letters: N entities of a type, too; P partitions; E edges; D dimension; B batch.
"""

__all__ = ["Figure", "Plan", "Workload", "plan"]

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pretrain.config import TrainConfig
from pretrain.machines import Machine
from pretrain.memory import Memory, parse_size, workspace_bytes
from pretrain.partitioned import SPARE, chunk_edge_bytes, partitioned_memory, plan_partitions
from recokit.errors import ConfigError

Unit = Literal["bytes", "seconds", "count", "per second"]

_FLOAT = 4  # bytes
_USABLE = 0.8  # of the machine's memory; the rest is the system's, and its file cache's
_PRODUCTS = 6  # operations for an edge, a negative and a dimension
# Bytes an edge in memory: the two int64 rows of the graph; the run's copy of them with relation, its number and weight;
# the order of an epoch; and what was seen on the way to them.
_GRAPH_EDGE, _RUN_EDGE, _ORDER, _MAKING = 16, 36, 8, 12
_WHOLE = 10_000  # entities of a type that is cut
_COUNTS = 24  # bytes an entity of a run in memory: its id, its degree, its share among the negatives
_PREPARED_EDGE = 12  # bytes: relation and two rows, int32
_WEIGHT = 4
_PREPARED_ENTITY = 32  # bytes: id, degree, and row and count of an occurrence
_PREPARING = 2.5  # times its size, while a prepared graph is made
_ID = 8  # bytes of an exported id, before compression; strings take their length


@dataclass(frozen=True)
class Workload:
    """What is to be trained.

    Args:
        entities: Entity type to N.
        edges: E, of all relations together.
        config: The settings of the run.
        weighted: Whether edges have weights of their own.

    Raises:
        ConfigError: A count is out of range, or there are no negatives.
    """

    entities: Mapping[str, int]
    edges: int
    config: TrainConfig
    weighted: bool = False

    def __post_init__(self) -> None:
        if not self.entities:
            raise ConfigError("there is no entity type: give at least one count of entities, such as user=1_000_000")
        for what, count in {f"entity type {name!r}": number for name, number in self.entities.items()}.items():
            if type(count) is not int or count < 1:
                raise ConfigError(f"{what} has {count!r} entities, expected a whole number of at least 1")
        if type(self.edges) is not int or self.edges < 1:
            raise ConfigError(f"edges is {self.edges!r}, expected a whole number of at least 1")
        if not self.negatives:
            raise ConfigError("there are no negatives: without them nothing is learned")
        if self.config.has_mixtures:
            raise ConfigError("components are not planned for: plan one vector of their length, which takes the memory")

    @property
    def negatives(self) -> int:
        """Negatives a side."""
        config = self.config
        if config.uniform_negatives == "all":
            return max(self.entities.values())
        return config.uniform_negatives + config.prevalence_negatives + config.in_batch_negatives

    @property
    def num_sides(self) -> int:
        """Sides that negatives replace."""
        return 2 if self.config.sides == "both" else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a table with the optimizer's state."""
        config = self.config
        state = config.dim if config.optimizer == "adagrad" else 1
        return _FLOAT * (config.dim + state + (2 if config.bias else 0))

    def settings(self) -> dict[str, Any]:
        """Return what the rates of a step depend on."""
        names = ("dim", "batch_size", "sides", "precision", "optimizer", "comparator", "operator", "loss", "bias")
        return {"negatives": self.negatives, **{name: getattr(self.config, name) for name in names}}


@dataclass(frozen=True)
class Figure:
    """One prediction.

    Attributes:
        key: For machines.
        what: For people.
        value: In its unit.
        unit: What it counts.
        origin: What it follows from.
    """

    key: str
    what: str
    value: float
    unit: Unit
    origin: str

    @property
    def text(self) -> str:
        """The value with its unit."""
        match self.unit:
            case "bytes":
                return _size(self.value)
            case "seconds":
                return _time(self.value)
            case "count":
                return f"{self.value:,.0f}"
            case "per second":
                return f"{self.value:,.0f} /s"


@dataclass(frozen=True)
class Plan:
    """The predictions, in the order in which they are read, and what else to know."""

    figures: tuple[Figure, ...]
    notes: tuple[str, ...]

    def __getitem__(self, key: str) -> float:
        return next(figure.value for figure in self.figures if figure.key == key)

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"format": "plan/1", "figures": [asdict(figure) for figure in self.figures], "notes": list(self.notes)}


def plan(
    work: Workload,
    machine: Machine,
    *,
    memory: str | int | None = None,
    checkpoint_seconds: float = 60.0,
) -> Plan:
    """Predict what a run takes on a machine.

    Args:
        work: The run.
        machine: The machine.
        memory: What the process may hold, bytes or a size such as ``"8GB"``; 80 % of the machine's if not given.
        checkpoint_seconds: Time between two checkpoints.

    Raises:
        ConfigError: The machine has not so much memory, no number of partitions makes the run fit, or the machine's
            rates are of another precision.
    """
    config = work.config
    if config.precision not in machine.flops:
        raise ConfigError(
            f"machine {machine.name!r} has rates of precision {', '.join(machine.flops)}, not {config.precision!r}: "
            "measure it with these settings"
        )
    if not (checkpoint_seconds > 0 and math.isfinite(checkpoint_seconds)):
        raise ConfigError(f"checkpoint_seconds is {checkpoint_seconds!r}, expected a number above 0")
    limit, limit_origin = _limit(machine, memory)
    room = _room(work, machine, limit)
    epoch = _epoch(work, machine, room)
    runs = _run(work, machine, room, epoch, checkpoint_seconds)
    disk = _disk(work, room)
    where = "GPU memory" if machine.device == "cuda" else "memory"
    figures = (
        Figure("limit", f"{where} to use", limit, "bytes", limit_origin),
        *_memory_figures(work, machine, room, where),
        *_epoch_figures(work, machine, room, epoch),
        *_run_figures(work, machine, room, runs, checkpoint_seconds),
        *_disk_figures(work, room, disk),
    )
    return Plan(figures, _notes(work, machine, room))


# -- memory ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Room:
    """Where tables and edges lie.

    Attributes:
        whole: Whether all tables and edges are in memory.
        partitions: P.
        peak: Bytes in memory.
        counts: Bytes of ids, counts and samplers in memory.
        tables: Bytes of all tables with their state.
        trained: Bytes of the tables that batches reach at a time.
        moved: Bytes of one partition of every entity type that is cut.
    """

    whole: bool
    partitions: int
    peak: Memory
    counts: int
    tables: int
    trained: int
    moved: int

    @property
    def total(self) -> int:
        return self.peak.total + self.counts


def _limit(machine: Machine, memory: str | int | None) -> tuple[int, str]:
    if memory is None:
        return int(_USABLE * machine.memory), f"{_USABLE:.0%} of {_size(machine.memory)}, {machine.origin['memory']}"
    limit = parse_size(memory)
    if limit > machine.memory:
        raise ConfigError(f"memory is {_size(limit)}, but machine {machine.name!r} has {_size(machine.memory)}")
    return limit, "given"


def _room(work: Workload, machine: Machine, limit: int) -> _Room:
    config, on_gpu = work.config, machine.device == "cuda"
    workspace = workspace_bytes(min(config.batch_size, work.edges), work.negatives, config.dim)
    total = sum(work.entities.values())
    host_edge = 0 if on_gpu else _GRAPH_EDGE + _MAKING + (_WEIGHT if work.weighted else 0)
    edges = work.edges * (host_edge + _RUN_EDGE + _ORDER)
    tables = total * work.row_bytes
    counts = 0 if on_gpu else total * _COUNTS
    whole = Memory(tables, edges, workspace, machine.process + SPARE)
    if whole.total + counts <= limit:
        return _Room(True, 1, whole, counts, tables, tables, 0)
    cut = plan_partitions(limit, work.entities, work.edges, config, whole_below=_WHOLE, baseline=machine.process)
    parts = {entity: _cut(count, cut.partitions) for entity, count in work.entities.items()}
    rows = {entity: -(-count // parts[entity]) for entity, count in work.entities.items()}
    chunk = min(cut.chunk_edges, work.edges)
    peak, samplers = partitioned_memory(
        work.entities, parts, chunk, config, workspace=workspace, baseline=machine.process
    )
    moved = work.row_bytes * sum(rows[entity] for entity, count in work.entities.items() if count >= _WHOLE)
    stays = work.row_bytes * sum(rows[entity] for entity, count in work.entities.items() if count < _WHOLE)
    return _Room(False, cut.partitions, peak, samplers, tables, stays + min(cut.partitions, 2) * moved, moved)


def _cut(count: int, partitions: int) -> int:
    """Return the partitions of an entity type."""
    return partitions if count >= _WHOLE else 1


def _memory_figures(work: Workload, machine: Machine, room: _Room, where: str) -> list[Figure]:
    config, process = work.config, "measured" if machine.settings else "assumed"
    if room.whole:
        how = "tables and all edges fit into it"
        tables = (
            f"{sum(work.entities.values()):,} rows of {work.row_bytes} B: {config.dim} numbers and {config.optimizer}"
        )
        edges = f"{work.edges:,} edges, {room.peak.edges // work.edges} B each: rows, relation, weight, order"
        counts = f"{_COUNTS} B an entity" if room.counts else "not on the device"
    else:
        how = "the fewest that fit, with the edges on disk: `recokit pretrain --memory`"
        resident = min(room.partitions, 3)
        tables = f"{resident} of {room.partitions} partitions of {_size(room.moved)}"
        if small := room.trained - min(room.partitions, 2) * room.moved:
            tables += f", and {_size(small)} of small entity types"
        edges = f"a chunk of them, {chunk_edge_bytes(config)} B each"
        counts = "samplers of the partitions; ids stay on disk"
    return [
        Figure("partitions", "partitions", room.partitions, "count", how),
        Figure("memory", f"{where} at the peak", room.total, "bytes", "the sum of:"),
        Figure("memory_tables", "  tables and optimizer", room.peak.tables, "bytes", tables),
        Figure("memory_edges", "  edges", room.peak.edges, "bytes", edges),
        Figure("memory_counts", "  ids and counts", room.counts, "bytes", counts),
        Figure(
            "memory_workspace",
            "  a batch",
            room.peak.workspace,
            "bytes",
            f"at most, for {config.batch_size:,} edges and {work.negatives:,} negatives a side",
        ),
        Figure("memory_process", "  Python and libraries", room.peak.baseline, "bytes", process),
    ]


# -- time ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Epoch:
    """Seconds of an epoch, by what takes them.

    Attributes:
        products: Of matrices.
        rows: Picked from tables and written back.
        batches: What each costs whatever is in it.
        num_batches: How many there are.
        loads: Partitions read, of all types together, and as many written.
        moving: Their reading and writing, in the background.
        waiting: What of it training does not hide.
    """

    products: float
    rows: float
    batches: float
    num_batches: int
    loads: int
    moving: float
    waiting: float

    @property
    def training(self) -> float:
        return self.products + self.rows + self.batches

    @property
    def seconds(self) -> float:
        return self.training + self.waiting


def _epoch(work: Workload, machine: Machine, room: _Room) -> _Epoch:
    config, buckets = work.config, room.partitions**2
    num_batches = buckets * -(-work.edges // (buckets * config.batch_size))
    operations = _PRODUCTS * work.num_sides * work.negatives * config.dim * work.edges
    rows = 2 * work.edges + num_batches * work.num_sides * work.negatives
    products = operations / machine.flops[config.precision]
    row_seconds = rows * work.row_bytes * machine.row_cost(room.trained)
    batch_seconds = num_batches * machine.batch_seconds
    if room.partitions == 1:
        return _Epoch(products, row_seconds, batch_seconds, num_batches, 0, 0.0, 0.0)
    stays = room.partitions * (room.partitions - 1) // 2
    loads = stays + 1
    load = room.moved / machine.disk_read + room.moved / machine.disk_write  # one thread does one after the other
    stay = (products + row_seconds + batch_seconds) / stays
    waiting = loads * max(load - stay, 0.0)
    return _Epoch(products, row_seconds, batch_seconds, num_batches, loads, loads * load, waiting)


def _epoch_figures(work: Workload, machine: Machine, room: _Room, epoch: _Epoch) -> list[Figure]:
    config = work.config
    rate = machine.flops[config.precision]
    same = all(work.settings()[name] == value for name, value in machine.settings.items())
    scaled = "" if same or not machine.settings else f", at {_said(machine.settings)}, and scaled"
    operations = _PRODUCTS * work.num_sides * work.negatives * config.dim
    cost = machine.row_cost(room.trained) * work.row_bytes
    largest = machine.row_seconds[-1][0]
    beyond = (
        f", beyond the largest of {_size(largest)}" if room.trained > largest and len(machine.row_seconds) > 1 else ""
    )
    figures = [
        Figure("epoch", "an epoch", epoch.seconds, "seconds", "the sum of:"),
        Figure(
            "epoch_products",
            "  products",
            epoch.products,
            "seconds",
            f"{operations:,} operations an edge at {rate / 1e9:,.1f} GFLOP/s ({machine.origin['flops']}{scaled})",
        ),
        Figure(
            "epoch_rows",
            "  rows of the tables",
            epoch.rows,
            "seconds",
            f"{cost * 1e9:,.0f} ns a row of tables of {_size(room.trained)}{beyond} "
            f"({machine.origin['row_seconds']}{scaled})",
        ),
        Figure(
            "epoch_batches",
            "  batches",
            epoch.batches,
            "seconds",
            f"{epoch.num_batches:,} at {machine.batch_seconds * 1e3:.2f} ms ({machine.origin['batch_seconds']})",
        ),
    ]
    if room.partitions > 1:
        moved = f"{epoch.loads} partitions read and written in {_time(epoch.moving)}, the rest behind training"
        figures.append(
            Figure(
                "epoch_waiting",
                "  waiting for partitions",
                epoch.waiting,
                "seconds",
                f"{moved} ({machine.origin['disk']})",
            )
        )
    speed = work.edges / epoch.seconds
    figures.append(Figure("edges_per_second", "edges a second", speed, "per second", "edges / an epoch"))
    return figures


@dataclass(frozen=True)
class _Seconds:
    """Seconds of a whole run, by what takes them."""

    prepare: float
    epochs: float
    checkpoints: float
    num_checkpoints: int
    export: float

    @property
    def total(self) -> float:
        return self.prepare + self.epochs + self.checkpoints + self.export


def _run(work: Workload, machine: Machine, room: _Room, epoch: _Epoch, checkpoint_seconds: float) -> _Seconds:
    epochs = work.config.restarts * work.config.epochs * epoch.seconds
    number = 1 + int(epochs / checkpoint_seconds)  # the last is that of the end
    written = room.tables if room.whole else room.trained  # partitions that have left are written already
    return _Seconds(
        prepare=work.edges / machine.prepare_rate,
        epochs=epochs,
        checkpoints=number * written / machine.disk_write,
        num_checkpoints=number,
        export=_export_bytes(work) / machine.disk_write,
    )


def _run_figures(
    work: Workload, machine: Machine, room: _Room, seconds: _Seconds, checkpoint_seconds: float
) -> list[Figure]:
    each = _size(room.tables if room.whole else room.trained)
    restarts = f", {work.config.restarts} times" if work.config.restarts > 1 else ""
    return [
        Figure("run", "the whole run", seconds.total, "seconds", "the sum of:"),
        Figure(
            "run_prepare",
            "  reading the edges" if room.whole else "  preparing the edges",
            seconds.prepare,
            "seconds",
            machine.origin["prepare_rate"],
        ),
        Figure("run_epochs", "  epochs", seconds.epochs, "seconds", f"{work.config.epochs:,} of them{restarts}"),
        Figure(
            "run_checkpoints",
            "  checkpoints",
            seconds.checkpoints,
            "seconds",
            f"{seconds.num_checkpoints:,} of {each}, one every {checkpoint_seconds:g} s and at the end "
            f"({machine.origin['disk']})",
        ),
        Figure("run_export", "  export", seconds.export, "seconds", "writing the version"),
    ]


# -- disk ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Disk:
    """Bytes on disk."""

    prepared: int
    tables: int
    export: int

    @property
    def peak(self) -> int:
        return max(int(_PREPARING * self.prepared), self.prepared + self.tables + self.export)


def _prepared_edge(work: Workload) -> int:
    return _PREPARED_EDGE + (_WEIGHT if work.weighted else 0)


def _export_bytes(work: Workload) -> int:
    return sum(work.entities.values()) * (work.row_bytes + _ID)


def _disk(work: Workload, room: _Room) -> _Disk:
    prepared = work.edges * _prepared_edge(work) + sum(work.entities.values()) * _PREPARED_ENTITY
    return _Disk(0 if room.whole else prepared, 2 * room.tables, _export_bytes(work))


def _disk_figures(work: Workload, room: _Room, disk: _Disk) -> list[Figure]:
    made = f", {_PREPARED_ENTITY} an entity; {_PREPARING} times that while it is made"
    made = f"{_prepared_edge(work)} B an edge{made}" if disk.prepared else "none: edges stay in memory"
    return [
        Figure("disk", "disk at the peak", disk.peak, "bytes", "of:"),
        Figure("disk_prepared", "  prepared edges", disk.prepared, "bytes", made),
        Figure(
            "disk_tables",
            "  tables of the run",
            disk.tables,
            "bytes",
            f"twice {_size(room.tables)}: the next checkpoint is written beside the last",
        ),
        Figure("disk_export", "  the exported version", disk.export, "bytes", "vectors, optimizer, ids"),
    ]


# -- in words --------------------------------------------------------------------------------------------------------


def _notes(work: Workload, machine: Machine, room: _Room) -> tuple[str, ...]:
    notes = []
    if machine.settings.get("comparator", work.config.comparator) != work.config.comparator:
        notes.append(f"the machine was measured with the comparator {machine.settings['comparator']!r}")
    if machine.device == "cuda" and not room.whole:
        notes.append("this does not fit into the GPU's memory, and partitions are trained on the CPU in this release")
    notes.append(
        "a run with validation keeps the best epoch's tables as well; popular rows stay in the cache, so that real "
        "edges train somewhat faster than random ones"
    )
    return tuple(notes)


def _said(settings: Mapping[str, Any]) -> str:
    named = (("dim", "dim"), ("negatives", "negatives"), ("batch_size", "batch"))
    return ", ".join(f"{name} {settings[key]}" for key, name in named if key in settings)


def _size(size: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}" if size < 999.5 * factor else f"{size / factor:,.0f} {unit}"
    return f"{size:.0f} B"


def _time(seconds: float) -> str:
    for unit, factor in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds:.3g} s"
