"""The subcommand ``recokit report``: a version as one HTML page."""

__all__ = ["report"]

import time
from pathlib import Path
from typing import Annotated

import typer

from recokit.cli import JsonFlag, emit, progress, text_table
from recokit.errors import ConfigError


def report(
    source: Annotated[str, typer.Argument(metavar="VERSION", help="A version: a folder, STORE@NAME, or a URL.")],
    *,
    output: Annotated[Path, typer.Option(help="The page, .html.")],
    previous: Annotated[str | None, typer.Option(help="The version to compare with.")] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE=FILE:ID,NAME", help="Names of entities: a Parquet, CSV or TSV file, two columns."),
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option(metavar="TABLE=FILE:ID,LABEL", help="What the map colours entities by.")
    ] = None,
    reports: Annotated[
        Path | None, typer.Option(help="Reports that are not in the version: a folder, or one report's file.")
    ] = None,
    entities: Annotated[int, typer.Option(help="How many entities get lists, the most connected ones.")] = 20_000,
    map_sample: Annotated[int, typer.Option(help="Entities on a map; 0 for no map.")] = 2_000,
    k: Annotated[int, typer.Option("-k", help="Neighbours in a list.")] = 10,
    seed: Annotated[int, typer.Option(help="Of samples and maps.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write one HTML page about a version that opens anywhere, without a network."""
    from recokit.page import write_page
    from recokit.page.formats import size
    from recokit.store import open_source

    if output.suffix not in (".html", ".htm"):
        raise ConfigError(f"--output is {output.name!r}, expected a name that ends in .html")
    started = time.perf_counter()
    version = open_source(source)
    with progress("lists") as advance:
        written = write_page(
            version,
            output,
            previous=None if previous is None else open_source(previous),
            names=_named(names, "--names"),
            labels=_named(labels, "--labels"),
            reports=reports,
            entities=entities,
            map_sample=map_sample,
            k=k,
            seed=seed,
            progress=advance,
        )
    taken = written.stat().st_size
    document = {
        "output": str(written),
        "version": version.name,
        "bytes": taken,
        "seconds": round(time.perf_counter() - started, 3),
    }
    shown = [
        ("page", str(written)),
        ("version", version.name),
        ("size", size(taken)),
        ("seconds", f"{document['seconds']}"),
    ]
    emit(document, as_json, text_table("report", ("what", "value"), shown))


def _named(given: list[str] | None, option: str) -> dict[str, str]:
    """Return sources by the table before the equals sign."""
    found: dict[str, str] = {}
    for text in given or []:
        name, equals, source = text.partition("=")
        if not (equals and name and source):
            raise ConfigError(f"{option} is {text!r}, expected TABLE=FILE:ID,TEXT, such as movie=movies.csv:id,title")
        if name in found:
            raise ConfigError(f"{option} names {name!r} twice, expected once")
        found[name] = source
    return found
