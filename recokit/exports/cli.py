"""The subcommands ``recokit export parquet``, ``sqlite`` and ``feast``: a version for other systems."""

__all__ = ["export"]

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from recokit.cli import JsonFlag, emit, progress, text_table

export = typer.Typer(no_args_is_help=True, help="Write a version for a warehouse, for SQLite, or for Feast.")

_Version = Annotated[str, typer.Argument(metavar="VERSION", help="A version: a folder, or STORE@NAME.")]
_Tables = Annotated[
    list[str] | None, typer.Option("--table", help="A table; may be given several times (default: all).")
]


@export.command()
def parquet(
    version: _Version,
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make.")],
    *,
    table: _Tables = None,
    layout: Annotated[
        str, typer.Option(help="list or columns: one column of vectors, or a column for each dimension.")
    ] = "list",
    as_json: JsonFlag = False,
) -> None:
    """Write Parquet files, one for each table, and a manifest."""
    from recokit.exports import export_parquet
    from recokit.store import open_source

    started, opened = time.perf_counter(), open_source(version)
    with progress("exporting") as advance:
        made = export_parquet(opened, output, tables=table, layout=layout, progress=advance)  # type: ignore[arg-type]
    size = sum(file.stat().st_size for file in made.rglob("*.parquet"))
    _show(opened.name, {"output": str(output), "tables": table or list(opened.tables), "bytes": size}, started, as_json)


@export.command()
def sqlite(
    version: _Version,
    output: Annotated[Path, typer.Argument(metavar="FILE", help="The file to make, such as v1.db.")],
    *,
    table: _Tables = None,
    as_json: JsonFlag = False,
) -> None:
    """Write one SQLite file that answers nearest-neighbour queries through sqlite-vec."""
    from recokit.exports import export_sqlite
    from recokit.store import open_source

    started, opened = time.perf_counter(), open_source(version)
    with progress("exporting") as advance:
        made = export_sqlite(opened, output, tables=table, progress=advance)
    size = made.stat().st_size
    _show(opened.name, {"output": str(output), "tables": table or list(opened.tables), "bytes": size}, started, as_json)


@export.command()
def feast(
    version: _Version,
    repo: Annotated[Path, typer.Argument(metavar="REPO", help="A Feast repository; made where there is none.")],
    *,
    table: _Tables = None,
    project: Annotated[str, typer.Option(help="What the repository is called where it is made.")] = "embeddings",
    as_json: JsonFlag = False,
) -> None:
    """Write Parquet into a Feast repository and register it: an entity, a view for each table, a service."""
    from recokit.exports import register_feast
    from recokit.store import open_source

    started, opened = time.perf_counter(), open_source(version)
    with progress("exporting") as advance:
        *views, service = register_feast(opened, repo, tables=table, project=project, progress=advance)
    _show(opened.name, {"repo": str(repo), "feature_views": views, "feature_service": service}, started, as_json)


def _show(version: str, said: dict[str, Any], started: float, as_json: bool) -> None:
    document = {"version": version, **said, "seconds": round(time.perf_counter() - started, 3)}
    shown = [
        (name, ", ".join(value) if isinstance(value, list) else f"{value:,}" if isinstance(value, int) else str(value))
        for name, value in document.items()
    ]
    emit(document, as_json, text_table(f"export of {version}", ("what", "value"), shown))
