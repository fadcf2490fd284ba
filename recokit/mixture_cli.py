"""The subcommand ``recokit mixture``: a log of engagements in, a mixture of every source's interests out."""

__all__ = ["mixture"]

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recokit.cli import JsonFlag, emit, find_relation, progress, text_table
from recokit.errors import ConfigError, DataError, VersionError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from recokit.table import Mixture, Version

_COLUMNS = ("source", "target", "weight", "time")
_LARGEST = 10  # interests shown
_CLUSTERS = 1000


def mixture(
    path: Annotated[str, typer.Argument(metavar="VERSION", help="A version: its folder or URL, or STORE@NAME.")],
    log: Annotated[
        str,
        typer.Argument(metavar="LOG", help="Interactions: Parquet or CSV, columns source, target[, weight][, time]."),
    ],
    *,
    items: Annotated[str, typer.Option(help="The table of the targets.")],
    output: Annotated[Path, typer.Option(help="The folder of the new mixture.")],
    entity: Annotated[str, typer.Option(help="The entity type of the sources.")] = "user",
    method: Annotated[
        Literal["clusters", "pinnersage"],
        typer.Option(help="Clusters of all items (TwHIN), or of each source's own (PinnerSage)."),
    ] = "clusters",
    clusters: Annotated[int | None, typer.Option(help=f"Clusters of items; {_CLUSTERS} where not given.")] = None,
    top: Annotated[int, typer.Option(help="Interests that a mixture keeps.")] = 5,
    vectors: Annotated[
        Literal["centroid", "medoid"] | None,
        typer.Option(help="What stands for a cluster; its centroid where not given."),
    ] = None,
    half_life: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|30d", help="The age at which an interaction counts half; a number is in time's unit."
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="For pinnersage: the distance at which clusters stop to grow.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="SOURCE,TARGET[,WEIGHT[,TIME]]", help="What the log calls them; empty for one it lacks."),
    ] = None,
    relation: Annotated[
        str | None, typer.Option(help="The relation that the log holds edges of, noted so that leaks are seen.")
    ] = None,
    save_clusters: Annotated[Path | None, typer.Option(help="Write the clusters to this folder too.")] = None,
    use_clusters: Annotated[Path | None, typer.Option(help="Take the clusters of this folder.")] = None,
    seed: Annotated[int, typer.Option(help="Of k-means.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Make mixtures of interests from a log, without training; for sources that were never trained on too."""
    from recokit.mixture import InterestClusters, pinnersage
    from recokit.mixture.engagement import half_life_of
    from recokit.store import open_source

    only_clusters = {
        "--clusters": clusters,
        "--vectors": vectors,
        "--save-clusters": save_clusters,
        "--use-clusters": use_clusters,
    }
    _check_method(method, only_clusters if method == "pinnersage" else {"--threshold": threshold})
    if use_clusters is not None and (clusters is not None or save_clusters is not None):
        raise ConfigError("--use-clusters takes clusters that are there: leave out --clusters and --save-clusters")
    for folder in (output, save_clusters):  # before the work, not after it
        if folder is not None and folder.exists():
            raise VersionError(f"{folder} exists already, and what is written is never changed: choose another name")
    half = half_life_of(half_life)
    version = open_source(path)
    table = version.table(items)
    if relation is not None:
        ends = find_relation(version, relation)
        if (ends.source, ends.target) != (entity, table.entity):
            raise ConfigError(
                f"--relation {relation!r} goes from {ends.source!r} to {ends.target!r}, the log from {entity!r} to "
                f"{table.entity!r}"
            )
    frame = _read_log(log, columns, {"source": _id_type(version, entity), "target": table.id_type})
    if method == "pinnersage":
        decay = 0.0 if half is None else math.log(2) / half
        with progress("clustering") as advance:
            made = pinnersage(
                frame,
                table,
                top=top,
                threshold=threshold,
                decay=decay,
                entity=entity,
                relation=relation,
                name=items,
                progress=advance,
            )
    else:
        found = (
            InterestClusters.fit(table, _CLUSTERS if clusters is None else clusters, seed=seed)
            if use_clusters is None
            else InterestClusters.load(use_clusters)
        )
        made = found.transform(
            frame, table, top=top, vectors=vectors or "centroid", half_life=half, entity=entity, relation=relation
        )
        if save_clusters is not None:
            found.save(save_clusters)
    if not len(made) and made.meta["interactions"]:
        raise DataError(
            f"{log}: of its {made.meta['interactions']:,} interactions none is with an id of the table {items!r}"
        )
    made.save(output)
    document = {"output": str(output), "entity": entity, "version": version.name, "method": method, **_summary(made)}
    emit(document, as_json, *_tables(document))


def _check_method(method: str, options: dict[str, Any]) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"{name} says nothing to --method {method}: leave it out")


def _id_type(version: "Version", entity: str) -> str | None:
    """Return the type that ids of an entity type have in a version, or None where it has no vectors of them."""
    kinds = ("vectors", "mixture")
    names = [name for name, entry in version.tables.items() if entry.entity == entity and entry.kind in kinds]
    return version.open(names[0]).id_type if names else None


def _read_log(file: str, columns: str | None, types: dict[str, str | None]) -> "pd.DataFrame":
    """Read source, target and, where they are there, weight and time."""
    from recokit.frame import read_frame

    if columns is None:
        frame = read_frame(file, _COLUMNS, optional=("weight", "time"))
    else:
        names = columns.split(",")
        if not 2 <= len(names) <= 4 or "" in names[:2]:
            raise ConfigError(f"--columns: got {columns!r}, expected the names of source, target[, weight[, time]]")
        frame = read_frame(file, {new: old for new, old in zip(_COLUMNS, names, strict=False) if old})
    for column, kind in types.items():
        if kind == "string":  # what a file writes as numbers
            frame[column] = frame[column].astype(str)
    return frame


def _summary(made: "Mixture") -> dict[str, Any]:
    """Return how many there are, how many interests they have, and where those are."""
    import numpy as np

    there = made.component_rows >= 0
    counts = np.bincount(there.sum(axis=1), minlength=1)
    first = made.weights.max(axis=1) if len(made) else np.zeros(0)
    users = np.bincount(made.component_rows[there], minlength=len(made.components))
    mass = np.bincount(made.component_rows[there], made.weights[there], minlength=len(made.components))
    largest = np.argsort(-mass, kind="stable")[:_LARGEST]
    largest = largest[mass[largest] > 0]
    names = made.components.ids_at(largest).to_pylist()
    return {
        "sources": len(made),
        "missing": made.meta["missing"],
        "interactions": made.meta["interactions"],
        "unused_interactions": made.meta["unused_interactions"],
        "interests": {number: int(count) for number, count in enumerate(counts) if number and count},
        "first_weight": {"mean": float(first.mean()), "median": float(np.median(first))} if len(made) else None,
        "largest": [
            {"medoid": name, "sources": int(users[row]), "share": float(mass[row] / len(made))}
            for name, row in zip(names, largest, strict=True)
        ],
    }


def _tables(document: dict[str, Any]) -> "list[Table]":
    first = document["first_weight"]
    rows = [
        ("with a mixture", f"{document['sources']:,}"),
        ("missing: no known item", f"{document['missing']:,}"),
        *((f"of {number} interest{'s' * (number > 1)}", f"{n:,}") for number, n in document["interests"].items()),
        ("weight of the first interest, mean", "-" if first is None else f"{first['mean']:.3f}"),
        ("weight of the first interest, median", "-" if first is None else f"{first['median']:.3f}"),
        ("interactions", f"{document['interactions']:,}"),
        ("interactions not used", f"{document['unused_interactions']:,}"),
    ]
    title = f"{document['entity']} mixtures for version {document['version']}, in {document['output']}"
    largest = [[str(each["medoid"]), f"{each['sources']:,}", f"{each['share']:.2%}"] for each in document["largest"]]
    return [
        text_table(title, (document["entity"], "count"), rows),
        text_table(
            "largest interests, by their medoids", ("medoid", document["entity"], "share of all weight"), largest
        ),
    ]
