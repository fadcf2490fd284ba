"""The subcommand ``recokit plan``: counts and a machine in; memory, partitions, time and disk of a training run out."""

__all__ = ["plan"]

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pretrain.calibration import calibrate
from pretrain.config import TrainConfig
from pretrain.machines import GPUS, Machine, machine_of_cores, machine_of_gpu
from pretrain.memory import parse_size
from pretrain.plan import Plan, Workload
from pretrain.plan import plan as predict
from pretrain.reading import Reader
from pretrain.settings import Settings, load_settings
from recokit.cli import JsonFlag
from recokit.errors import ConfigError

_MACHINE = "Machine"  # panels of the help
_RUN = "Run"


def plan(
    config: Annotated[
        Path | None, typer.Argument(help="A TOML file, as for `recokit pretrain`: its edges are counted.")
    ] = None,
    *,
    entities: Annotated[
        list[str] | None, typer.Option(metavar="TYPE=COUNT", help="Entities of a type, such as user=10_000_000.")
    ] = None,
    edges: Annotated[int | None, typer.Option(help="Of all relations together.", min=1)] = None,
    weighted: Annotated[bool, typer.Option("--weighted", help="Edges have weights of their own.")] = False,
    dim: Annotated[int | None, typer.Option(rich_help_panel=_RUN)] = None,
    negatives: Annotated[int | None, typer.Option(help="A side.", rich_help_panel=_RUN)] = None,
    sides: Annotated[str | None, typer.Option(help="both, source, target.", rich_help_panel=_RUN)] = None,
    batch_size: Annotated[int | None, typer.Option(rich_help_panel=_RUN)] = None,
    epochs: Annotated[int | None, typer.Option(rich_help_panel=_RUN)] = None,
    precision: Annotated[str | None, typer.Option(help="float32, auto.", rich_help_panel=_RUN)] = None,
    optimizer: Annotated[str | None, typer.Option(help="rowwise_adagrad, adagrad.", rich_help_panel=_RUN)] = None,
    memory: Annotated[
        str | None, typer.Option(help="What the run may hold, such as 8GB; most of the machine's if not given.")
    ] = None,
    checkpoint_seconds: Annotated[float, typer.Option(help="Time between two checkpoints.")] = 60.0,
    machine: Annotated[
        Path | None, typer.Option(help="A file of --save-machine, in place of measuring.", rich_help_panel=_MACHINE)
    ] = None,
    save_machine: Annotated[
        Path | None, typer.Option(help="Keep what was measured or described.", rich_help_panel=_MACHINE)
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder whose disk is measured.", rich_help_panel=_MACHINE)] = Path(),
    device: Annotated[
        str | None, typer.Option(help="What is measured: cpu, cuda; a GPU if there is one.", rich_help_panel=_MACHINE)
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help=f"From its datasheet: {', '.join(GPUS)}.", rich_help_panel=_MACHINE)
    ] = None,
    cores: Annotated[int | None, typer.Option(help="Describes a CPU.", rich_help_panel=_MACHINE)] = None,
    gflops: Annotated[
        float | None, typer.Option(help="Of large float32 products, all cores.", rich_help_panel=_MACHINE)
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(help="Of copies in memory, GB/s, all cores.", rich_help_panel=_MACHINE)
    ] = None,
    disk_read: Annotated[float | None, typer.Option(help="MB/s.", rich_help_panel=_MACHINE)] = None,
    disk_write: Annotated[float | None, typer.Option(help="MB/s.", rich_help_panel=_MACHINE)] = None,
    as_json: JsonFlag = False,
) -> None:
    """Predict memory, partitions, time and disk of a training run, on this machine or another."""
    settings = None if config is None else load_settings(config)
    given: dict[str, Any] = {"dim": dim, "sides": sides, "batch_size": batch_size, "epochs": epochs}
    given |= {"precision": precision, "optimizer": optimizer}
    if negatives is not None:
        given |= {"uniform_negatives": negatives, "prevalence_negatives": 0, "in_batch_negatives": 0}
    base = TrainConfig() if settings is None else settings.train
    train = dataclasses.replace(base, **{name: value for name, value in given.items() if value is not None})
    numbers = {"gflops": gflops, "bandwidth": bandwidth, "disk_read": disk_read, "disk_write": disk_write}
    described = _described(gpu, cores, memory, numbers)
    if described is not None and machine is not None:
        raise ConfigError("--machine is a machine already: leave out --gpu and --cores")
    if memory is not None:
        parse_size(memory)  # before the work, not after it
    if settings is None:
        work = Workload(_counts(entities), _needed(edges), train, weighted)
    else:
        if entities or edges is not None or weighted:
            raise ConfigError(f"{config} says what the edges are: leave out --entities, --edges and --weighted")
        work = counted(settings, train)
    if train.uniform_negatives == "all":  # as a number, which can be measured
        work = dataclasses.replace(work, config=dataclasses.replace(train, uniform_negatives=work.negatives))
    console = Console(stderr=as_json, markup=False, highlight=False)
    chosen = described or (Machine.load(machine) if machine else _measured(work, output, device, console))
    if save_machine is not None:
        chosen.save(save_machine)
    found = predict(work, chosen, memory=memory, checkpoint_seconds=checkpoint_seconds)
    if as_json:
        document = {**found.document(), "run": _run_document(work), "machine": dataclasses.asdict(chosen)}
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
        return
    console.print(_table(found, work, chosen))
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True)


def counted(settings: Settings, train: TrainConfig) -> Workload:
    """Count the edges and, approximately, the entities of a configuration's files; min_count is not applied."""
    if settings.networks:
        raise ConfigError("a plan is one of a single network: leave out [[network]]")
    with Reader() as reader:
        if settings.triples:
            relations = _add_triples(reader, settings)
        else:
            for name, path in settings.paths.items():
                reader.add_file(name, path, settings.columns[name])
            relations = {relation.name: (relation.source, relation.target) for relation in settings.relations}
        ends: dict[str, list[str]] = {}
        edges = 0
        for view in reader.views:
            edges += sum(read - null for read, null in view.counts.values())
            for said, name in view.relations.items():
                rows = view.edges([said])
                for side, entity in zip(("source", "target"), relations[name], strict=True):
                    ends.setdefault(entity, []).append(f"SELECT CAST({side} AS VARCHAR) AS id {rows}")
        entities = {
            entity: _one(reader, f"SELECT approx_count_distinct(id) FROM ({' UNION ALL '.join(selects)})")
            for entity, selects in ends.items()
        }
        weighted = any("weight" in view.roles for view in reader.views)
    return Workload(entities, edges, train, weighted)


def _add_triples(reader: Reader, settings: Settings) -> dict[str, tuple[str, str]]:
    """Add the view of a file of all relations; return the entity types of their ends by relation."""
    asked = settings.triples
    named = {str(key): relation for key, relation in asked.get("relations", {}).items()}
    said = {key: relation.name for key, relation in named.items()} or None
    found = reader.add_mixed(
        asked["data"],
        asked.get("columns", {}),
        said,
        header=asked.get("header"),
        drop_unknown=asked.get("unknown") == "drop",
    )
    entity = asked.get("entity", "entity")
    if named:
        return {relation.name: (relation.source, relation.target) for relation in named.values()}
    return dict.fromkeys(found, (entity, entity))


def _one(reader: Reader, query: str) -> int:
    row = reader.db.execute(query).fetchone()
    return 0 if row is None else int(row[0])


def _counts(words: list[str] | None) -> dict[str, int]:
    """Read words such as ``user=10_000_000``."""
    counts: dict[str, int] = {}
    for word in words or ():
        name, _, count = word.partition("=")
        if not name or not re.fullmatch(r"[0-9][0-9_]*", count):
            raise ConfigError(f"--entities: got {word!r}, expected a type and its count, such as user=10_000_000")
        if name in counts:
            raise ConfigError(f"--entities: {name!r} is there twice, expected once")
        counts[name] = int(count.replace("_", ""))
    if not counts:
        raise ConfigError("give a configuration, or --entities TYPE=COUNT for every entity type and --edges COUNT")
    return counts


def _needed(edges: int | None) -> int:
    if edges is None:
        raise ConfigError("--edges is missing: how many there are, of all relations together")
    return edges


def _described(
    gpu: str | None, cores: int | None, memory: str | None, numbers: Mapping[str, float | None]
) -> Machine | None:
    """Return the machine that options describe; None where they describe none."""
    scale = {"gflops": 1.0, "bandwidth": 1e9, "disk_read": 1e6, "disk_write": 1e6}
    rates = {name: number * scale[name] for name, number in numbers.items() if number is not None}
    if gpu is not None:
        for name in ("gflops", "bandwidth"):
            if name in rates:
                raise ConfigError(f"--{name} describes a CPU; what a GPU has is in its datasheet: leave it out")
        return machine_of_gpu(gpu, **({} if cores is None else {"cores": cores}), **_disks(rates))
    if cores is not None:
        products, copies = rates.get("gflops"), rates.get("bandwidth")
        size = None if memory is None else parse_size(memory)
        return machine_of_cores(cores, gflops=products, bandwidth=copies, memory=size, **_disks(rates))
    if rates:
        option = next(iter(rates)).replace("_", "-")
        raise ConfigError(f"--{option} describes a machine that is not measured: give --cores or --gpu with it")
    return None


def _disks(rates: Mapping[str, float]) -> dict[str, Any]:
    return {name: rates[name] for name in ("disk_read", "disk_write") if name in rates}


def _measured(work: Workload, folder: Path, device: str | None, console: Console) -> Machine:
    while not folder.exists():  # the run will make it
        folder = folder.parent
    with _progress(console) as callback:
        return calibrate(work.config, folder=folder, device=device, callback=callback)


def _run_document(work: Workload) -> dict[str, Any]:
    return {
        "entities": dict(work.entities),
        "edges": work.edges,
        "weighted": work.weighted,
        "epochs": work.config.epochs,
        **work.settings(),
    }


def _table(found: Plan, work: Workload, machine: Machine) -> Table:
    entities = ", ".join(f"{count:,} {name}" for name, count in work.entities.items())
    config = work.config
    title = (
        f"{entities}, {work.edges:,} edges; dim {config.dim}, {work.negatives:,} negatives on "
        f"{'both sides' if work.num_sides == 2 else f'the {config.sides}'}, batches of {config.batch_size:,}; "
        f"on {machine.name}"
    )
    table = Table(title=Text(title), title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("prediction", justify="right", no_wrap=True)
    table.add_column("from", overflow="fold")
    for figure in found.figures:
        part = figure.what.startswith(" ")
        if not part:
            table.add_section()
        table.add_row(Text(figure.what), Text(figure.text, style="" if part else "bold"), Text(figure.origin))
    return table


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a callback for ``calibrate`` that draws a bar; nothing where nobody looks."""
    columns = (
        TextColumn("measuring this machine"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[what]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=1.0, what="")
        yield lambda event: bar.update(task, completed=event["done"], what=event["what"])
