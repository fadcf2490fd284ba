"""The command ``recokit``: look at tables and versions, ask for neighbours, evaluate.

Commands that train come from whoever registers them in the entry-point group ``recokit.commands`` (``pretrain`` does),
so that this package needs no trainer.  People get tables, machines get ``--json``; bad input ends with one line on
standard error and exit code 2.
"""

__all__ = ["app", "emit", "end_table", "find_relation", "main", "progress", "text_table", "typed"]

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recokit.errors import ConfigError, DataError, FormatError, MissingDependencyError, RecokitError, closest

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from recokit.candidates import CandidateGenerator
    from recokit.table import EmbeddingTable, FeatureTable, Mixture, RelationParameters, Version
    from recokit.table.relations import Side

_NUMBER = re.compile(r"[-+]?[\d.,]+( [^A-Za-z]*| [A-Za-z/%]{1,5}| x [0-9]+)?")  # 0.2 ± 0.1, 3 GB

_ALLOCATION = (
    "How the components of a mixture share a list: round_robin, proportional, sainte_lague, min_one, max_score."
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


app = typer.Typer(no_args_is_help=True, add_completion=False)


def main() -> None:
    """Run the command line; end with code 2 and one line where the input is bad."""
    try:
        _add_registered(sys.argv[1:])
        app()
    except (RecokitError, OSError, MemoryError) as error:
        line = " ".join(str(error).split())
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"recokit: {line}")
        sys.exit(2)


def _add_registered(arguments: list[str]) -> None:
    """Import the command that is asked for, or all of them where help is; an import of a trainer takes a second."""
    asked = next((word for word in arguments if not word.startswith("-")), None)
    if "--version" in arguments and asked is None:
        return
    for point in entry_points(group="recokit.commands"):
        if asked not in (None, point.name):
            continue
        try:
            command = point.load()
            if isinstance(command, typer.Typer):  # a group of commands
                app.add_typer(command, name=point.name)
            else:
                app.command(name=point.name)(command)
        except ImportError as error:
            if asked == point.name:
                package = (error.name or str(error)).split(".")[0]
                raise MissingDependencyError(package, extra="demo", needed_for=f"`recokit {point.name}`") from error


def text_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, lines: bool = False) -> Table:
    """Return a table of plain text for a terminal; columns of numbers stand to the right."""
    rows = list(rows)
    table = Table(title=Text(title), title_justify="left", show_lines=lines)
    for column, cells in zip(head, zip(*rows, strict=True) if rows else [()] * len(head), strict=True):
        numeric = all(_NUMBER.fullmatch(cell) for cell in cells)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")  # ids stay whole
    for row in rows:
        table.add_row(*map(Text, row))  # ids and names are no markup
    return table


def emit(content: Any, as_json: bool, *tables: Table) -> None:
    """Print a JSON document for machines, or rich tables for people."""
    if as_json:
        typer.echo(json.dumps(content, indent=2, default=str, allow_nan=False))
        return
    console = Console()
    for table in tables:
        console.print(table)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"recokit {package_version('recokit')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Interaction logs to entity embeddings, and embeddings to work in retrieval and ranking."""


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="A version, also a URL or STORE@NAME; a table; a store of versions.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check the SHA-256 of every file.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show what a version, a table or a store holds."""
    from recokit.store import EmbeddingStore, open_source
    from recokit.table import load_table

    folder = Path(path)
    if (folder / "table.json").is_file():
        row = _table_card(folder.name, load_table(folder, verify=verify))
        emit(row, as_json, _records(path, [row]))
    elif folder.is_dir() and not (folder / "version.json").is_file():
        rows = [
            {"version": row["version"], "tables": ", ".join(row["tables"])} for row in EmbeddingStore(path).summaries()
        ]
        if not rows:
            raise FormatError(f"{path} holds no version.json, no table.json and no versions")
        emit(rows, as_json, _records(f"store {path}, oldest first", rows))
    else:
        _inspect_version(open_source(path, verify=verify), verify, as_json)


def _inspect_version(opened: "Version", verified: bool, as_json: bool) -> None:
    tables = [_table_card(name, opened.open(name)) for name in opened.tables]
    relations = [
        {"relation": r.name, "source": r.source, "target": r.target, "operator": r.operator}
        for r in opened.relations.values()
    ]
    card = {
        "version": opened.name,
        "created": opened.created.isoformat(),
        "parent": opened.parent,
        "tables": tables,
        "relations": relations,
        "reports": sorted(opened.reports),
        "meta": dict(opened.meta),
    }
    checked = f", {sum(1 for file in opened.path.rglob('*') if file.is_file())} files verified" if verified else ""
    created = f"{opened.created:%Y-%m-%d %H:%M} UTC"
    title = f"version {opened.name}, created {created}, from {opened.parent or 'scratch'}{checked}"
    shown = [{key: value for key, value in table.items() if key != "version"} for table in tables]
    emit(card, as_json, _records(title, shown), *([_records("relations", relations)] if relations else []))


@app.command()
def neighbors(
    path: Annotated[str, typer.Argument(metavar="VERSION", help="A version: its folder or URL, or STORE@NAME.")],
    ids: Annotated[list[str], typer.Argument(help="Ids of the table.")],
    table: Annotated[str, typer.Option(help="The table that the ids are in.")],
    relation: Annotated[
        str | None, typer.Option(help="Follow this relation to the targets that fit; else look in the same table.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Neighbours of each id.")] = 10,
    allocation: Annotated[str, typer.Option(help=_ALLOCATION)] = "round_robin",
    as_json: JsonFlag = False,
) -> None:
    """List the nearest entities of some ids, by exact search."""
    from recokit.store import open_source
    from recokit.table import vectors_or_mixture

    opened = open_source(path)
    queries = vectors_or_mixture(opened.open(table), "neighbors")
    chosen = None
    if relation is not None:
        chosen = find_relation(opened, relation)
        if chosen.source != queries.entity:
            raise ConfigError(f"{relation!r} starts at {chosen.source!r}, but table {table!r} holds {queries.entity!r}")
    target = queries if chosen is None else end_table(opened, chosen.name, "target")
    found = _generator(queries, target, chosen, allocation)(_typed_ids(ids, queries.id_type), k=min(k, len(target)))
    rows = [{str(key): value for key, value in row.items()} for row in found.to_dict("records")]
    shown = [{**row, "score": f"{row['score']:.4f}"} for row in rows]
    emit(rows, as_json, _records(f"neighbors in {target.entity!r} of version {opened.name}", shown))


@app.command()
def evaluate(
    path: Annotated[str, typer.Argument(metavar="VERSION", help="A version: its folder or URL, or STORE@NAME.")],
    pairs: Annotated[Path, typer.Argument(help="Held-out pairs of the relation: Parquet or CSV.")],
    relation: Annotated[str, typer.Option(help="The relation that the pairs belong to.")],
    source: Annotated[str, typer.Option(help="Column of the sources.")] = "source",
    target: Annotated[str, typer.Option(help="Column of the targets.")] = "target",
    seen: Annotated[Path | None, typer.Option(help="Pairs that are not recommended again, in the same form.")] = None,
    k: Annotated[list[int] | None, typer.Option("-k", help="Cut-offs; may be given several times.")] = None,
    allocation: Annotated[str, typer.Option(help=_ALLOCATION)] = "round_robin",
    floors: Annotated[
        bool, typer.Option("--floors", help="Popularity, ItemKNN and EASE of the seen pairs too.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write the report here too: .json, .md or .html.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure how well a version retrieves held-out pairs, by exact search over all targets."""
    from recokit.evaluate import evaluate_candidates
    from recokit.floors import EASE, ItemKNN, Popularity
    from recokit.frame import read_frame
    from recokit.overlap import TOLERATED, find_overlaps
    from recokit.store import open_source

    opened = open_source(path)
    ends = find_relation(opened, relation)
    columns = {"query": source, "candidate": target}
    queries, items = end_table(opened, relation, "source"), end_table(opened, relation, "target")
    types = {"query": queries.id_type, "candidate": items.id_type}
    # As text first: ids such as 007 are strings to the table, whatever they look like.
    relevant = typed(read_frame(pairs, columns, id_type="string"), types, pairs)
    excluded = None if seen is None else typed(read_frame(seen, columns, id_type="string"), types, seen)
    shares = [
        o.share for o in find_overlaps([("query", queries), ("candidate", items)], relevant) if o.relation == relation
    ]
    protocol = {"filter": "none" if excluded is None else f"pairs of {seen} are not searched for"}
    if shares:
        protocol["trained_on"] = f"{shares[0]:.0%} of the pairs are training edges of the version"
    if excluded is not None and (lost := len(relevant.merge(excluded, on=["query", "candidate"]))):
        raise DataError(f"{lost} of the {len(relevant)} held-out pairs are in {seen} too and could never be found")
    asked = relevant["query"].drop_duplicates()
    known = asked[queries.rows(asked) >= 0]
    if known.empty:
        raise DataError(f"{pairs}: none of its {len(asked)} sources is in the table {ends.source!r}")
    cuts = sorted({min(cut, len(items)) for cut in k or [10, 100]})
    generate = _generator(queries, items, ends, allocation)
    report = evaluate_candidates(
        generate(known, k=cuts[-1], exclude=excluded),
        relevant,
        k=tuple(cuts),
        name=opened.name,
        catalog=items,
        protocol=protocol,
    )
    if floors:
        if excluded is None:
            raise ConfigError("--floors need --seen: the pairs that they learn from")
        fitted = (
            ("popularity", Popularity.fit(excluded)),
            ("ItemKNN", ItemKNN.fit(excluded)),
            ("EASE", EASE.fit(excluded)),
        )
        for name, floor in fitted:
            lists = floor.recommend(asked, k=cuts[-1], exclude=excluded)
            report |= evaluate_candidates(lists, relevant, k=tuple(cuts), name=name, catalog=items, protocol=protocol)
    if shares and shares[0] > TOLERATED:
        Console(stderr=True).print(f"[yellow]careful[/]: {protocol['trained_on']}; these figures say little")
    if output is not None:
        report.save(output)
    emit(json.loads(report.to_json()), as_json, report.to_rich())


def find_relation(version: "Version", name: str) -> "RelationParameters":
    """Return a relation of a version by name; a ConfigError names the nearest."""
    if name not in version.relations:
        raise ConfigError(f"version {version.name!r} has no relation {name!r}; {closest(name, version.relations)}")
    return version.relations[name]


def end_table(version: "Version", relation: str, side: "Side") -> "EmbeddingTable | Mixture":
    """Open the table or mixture of a relation's sources or targets; a ConfigError says which is missing."""
    from recokit.table import vectors_or_mixture

    name = version.table_of(relation, side, kinds=("vectors", "mixture"))
    if name is None:
        entity = getattr(version.relations[relation], side)
        raise ConfigError(f"version {version.name!r} has no table of {entity!r}, the {side} of {relation!r}")
    return vectors_or_mixture(version.open(name), f"the {side} of {relation!r}")


@contextmanager
def progress(what: str, total: int | None = None) -> "Iterator[Callable[[int, int], None]]":
    """Yield a function of how much is done, and of how much; nothing is drawn unless there is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn(what), BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _generator(
    queries: "EmbeddingTable | Mixture",
    items: "EmbeddingTable | Mixture",
    relation: "RelationParameters | None",
    allocation: str,
) -> "CandidateGenerator":
    """Search exactly, in vectors or components."""
    from recokit.candidates import CandidateGenerator

    return CandidateGenerator.exact(queries, items, relation, allocation=allocation)  # type: ignore[arg-type]


def _typed_ids(ids: list[str], id_type: str) -> list[Any]:
    if id_type == "string":
        return ids
    try:
        return [int(value) for value in ids]
    except ValueError as error:
        raise DataError(f"the table's ids are integers: {error}") from error


def typed(frame: "pd.DataFrame", types: "Mapping[str, str]", source: str | Path) -> "pd.DataFrame":
    """Bring the columns of ids, read as text, to the types of their tables."""
    for column, kind in types.items():
        if kind == "int64":
            try:
                frame[column] = frame[column].astype("int64")
            except ValueError as error:
                raise DataError(f"{source}: the version's ids are integers: {error}") from error
    return frame


def _table_card(name: str, table: "FeatureTable") -> dict[str, Any]:
    card = {
        "table": name,
        "entity": table.entity,
        "kind": table.kind,
        "count": table.count,
        "dim": f"{table.num_components} x {table.dim}" if table.kind == "mixture" else table.dim,
        "dtype": _dtype(table),
        "ids": table.id_type,
        "comparator": table.comparator,
        "version": table.version,
    }
    if table.kind == "codes":
        compression = round(table.compression, 2)
        card |= {"codec": table.codec, "bytes_per_row": table.sub_quantizers, "compression": compression}
    return card


def _dtype(table: "FeatureTable") -> str:
    if table.kind == "codes":
        return str(table.codes.dtype)
    return str((table.components if table.kind == "mixture" else table).vectors.dtype)


def _records(title: str, rows: list[dict[str, Any]]) -> Table:
    head = list(dict.fromkeys(key for row in rows for key in row))
    shown = [[f"{row[key]:,}" if key == "count" else str(row.get(key, "")) for key in head] for row in rows]
    return text_table(title, head, shown)
