"""The subcommand ``recokit inductive``: edges of new entities in, a table of their vectors out."""

__all__ = ["inductive"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from recokit.cli import JsonFlag, emit, find_relation, text_table
from recokit.errors import ConfigError, VersionError, closest

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("source", "target", "weight")


def inductive(
    path: Annotated[str, typer.Argument(metavar="VERSION", help="A version: its folder or URL, or STORE@NAME.")],
    edges: Annotated[
        list[str],
        typer.Argument(metavar="RELATION=FILE", help="Edges: Parquet or CSV, columns source, target[, weight]."),
    ],
    *,
    entity: Annotated[str, typer.Option(help="The entity type that vectors are wanted of.")],
    output: Annotated[Path, typer.Option(help="The folder of the new table.")],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RELATION=SOURCE,TARGET[,WEIGHT]", help="How the columns of a relation's file are called."
        ),
    ] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="Of all entities in the edges, as if none were in the version yet.")
    ] = False,
    iterations: Annotated[int, typer.Option(help="The longest chain of new entities that is followed.")] = 3,
    as_json: JsonFlag = False,
) -> None:
    """Infer vectors of entities that a version lacks from their edges, without training."""
    import pandas as pd

    from recokit.inductive import inductive_vectors
    from recokit.store import open_source
    from recokit.table.relations import Side

    if output.exists():  # before the work, not after it
        raise VersionError(f"{output} exists already, and a table is never changed: choose another name")
    version = open_source(path)
    files, renamed = _pairs(edges, "edges"), _pairs(columns or [], "--columns")
    for name in renamed:
        if name not in files:
            raise ConfigError(f"--columns names {name!r}, which has no edges; {closest(name, files)}")
    tables, frames, asked = {}, {}, []
    for name, file in files.items():
        relation = find_relation(version, name)
        frames[name] = frame = _read_edges(file, renamed.get(name))
        for side in get_args(Side):
            end = getattr(relation, side)
            if (table := version.table_of(name, side)) is not None:
                tables[end] = version.table(table)
                if tables[end].id_type == "string":  # what a file writes as numbers
                    frame[side] = frame[side].astype(str)
            if end == entity:
                asked.append(frame[side])
    result = inductive_vectors(
        tables,
        version.relations,
        frames,
        entity=entity,
        ids=pd.concat(asked).drop_duplicates().sort_values() if everyone and asked else None,
        iterations=iterations,
    )
    result.table.save(output)
    rounds = {int(number): count for number, count in result.table.meta["rounds"].items()}
    document = {
        "output": str(output),
        "entity": entity,
        "version": version.name,
        "asked": len(result.origins),
        "rounds": rounds,
        "without": len(result.origins) - len(result.table),
    }
    rows = [
        ("asked", document["asked"]),
        *((f"from {'trained neighbours' if k == 1 else f'those of round {k - 1}'}", n) for k, n in rounds.items()),
        ("without a vector", document["without"]),
    ]
    title = f"{entity} vectors for version {version.name}, in {output}"
    emit(document, as_json, text_table(title, ("entities", "count"), [(what, f"{n:,}") for what, n in rows]))


def _pairs(words: list[str], what: str) -> dict[str, str]:
    """Split words such as ``clicks=clicks.parquet``."""
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals or not value:
            raise ConfigError(f"{what}: got {word!r}, expected a relation and its value, such as clicks=clicks.parquet")
        if name in pairs:
            raise ConfigError(f"{what}: {name!r} is there twice, expected once (a value may be a glob pattern)")
        pairs[name] = value
    return pairs


def _read_edges(file: str, columns: str | None) -> "pd.DataFrame":
    """Read source, target and, where there is one, weight."""
    from recokit.frame import read_frame

    if columns is None:
        return read_frame(file, _COLUMNS, optional=("weight",))
    names = columns.split(",")
    if len(names) not in (2, 3):
        raise ConfigError(f"--columns: got {columns!r}, expected the names of source, target[, weight]")
    return read_frame(file, dict(zip(_COLUMNS, names, strict=False)))
