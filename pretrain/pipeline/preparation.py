"""Preparation: selected edges that are trained on, and those that are held out.

    known/<relation>.parquet         source, target[, weight][, time]: all edges that are not held out
    train/, validation/              known edges, parted, where there is a [validation]
    held_out/<relation>.parquet      query, candidate, source, target: distinct pairs
    known_pairs/<relation>.parquet   the same of the known edges, of relations with a held-out pair
    prepared.json                    counts

A fraction is drawn by hashing each pair of ids, with the seed and the relation: a pair that is held out tonight is held
out on all nights of the same seed, also among more edges. Drawn anew every night, it would be among the edges that the
previous version was trained on, and the version that starts from that one would be asked what it has seen.
Shapes: E edges of a relation.
"""

__all__ = ["prepare_edges", "stable_split"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pretrain.edges import Edges
from pretrain.graph import Graph, check_seed
from pretrain.pipeline.selection import read_relations
from pretrain.settings import Settings
from recokit.errors import ConfigError, DataError
from recokit.id_hash import GOLDEN, hash_ids, splitmix64
from recokit.table.folder import read_json, write_json

_ROWS = 1 << 20  # edges turned into ids at a time


def prepare_edges(selected: Path, training: Settings, folder: Path) -> dict[str, Any]:
    """Write the parts that selected edges fall into.

    Args:
        selected: The folder that ``select_edges`` has filled.
        training: ``min_count``, ``split`` and ``validation``.
        folder: An empty folder.

    Returns:
        Counts: of edges by relation and part, of entities by type, and what was read.

    Raises:
        DataError: A part that is asked for has no edge, or training has none of a relation.
    """
    relations, files = read_relations(selected, training)
    names = dict.fromkeys(end for each in relations for end in (each.source, each.target))
    asked = {entity: count for entity, count in training.min_count.items() if entity in names}
    graph = Graph.from_files(files, relations, min_count=asked)
    known, held_out = _split(graph, training.split, "[split]")
    trained, validation = _split(known, training.validation, "[validation]")
    parts = {"known": known, "held_out": held_out}
    if validation is not None:
        parts |= {"train": trained, "validation": validation}
    of_files = read_json(selected / "relations.json")["files"]
    for part, edges in parts.items():
        if edges is not None and part != "held_out":
            _write_edges(edges, folder / part, of_files)
    if held_out is not None:
        asked_for = {name for name, edges in held_out.edges.items() if len(edges)}
        _write_pairs(held_out, folder / "held_out", of_files, asked_for)
        _write_pairs(known, folder / "known_pairs", of_files, asked_for)
    counts = {
        "read": list(graph.summary.rows),
        "entities": {name: len(ids) for name, ids in graph.entities.items()},
        "edges": {part: _lengths(edges) for part, edges in parts.items() if edges is not None},
    }
    write_json(folder / "prepared.json", counts)
    return counts


def stable_split(graph: Graph, fraction: float, seed: int, part: str) -> tuple[Graph, Graph]:
    """Split edges into a known and a held-out part, by a hash of their ids.

    Edges between the same two entities of a relation go together, whatever their direction within a type; whether they
    are held out depends on nothing but their ids, the relation's name, ``seed`` and ``part``.

    Args:
        graph: The edges.
        fraction: Share of each relation's pairs to hold out, in expectation.
        seed: Of the draw.
        part: What the draw is for; two draws of different parts have nothing to do with each other.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"{part}: fraction must lie between 0 and 1, got {fraction}")
    check_seed(seed)
    limit = np.uint64(min(int(fraction * 2.0**64), 2**64 - 1))
    hashes = {entity: hash_ids(ids) for entity, ids in graph.entities.items()}
    known, held = {}, {}
    for name, relation in graph.relations.items():
        edges = graph.edges[name]
        first = hashes[relation.source][edges.sources]  # (E,)
        second = hashes[relation.target][edges.targets]
        if relation.source == relation.target:
            first, second = np.minimum(first, second), np.maximum(first, second)
        salt = splitmix64(hash_ids([f"{part}/{name}"]) + np.uint64(seed))
        out = splitmix64(splitmix64(first + GOLDEN * second) + salt) < limit
        known[name], held[name] = edges.take(~out), edges.take(out)
    rule = {"fraction": fraction, "seed": seed, "drawn": "by a hash of the ids"}
    return _with(graph, known, rule, "known"), _with(graph, held, rule, "held out")


def _with(graph: Graph, edges: Mapping[str, Edges], rule: Mapping[str, Any], part: str) -> Graph:
    history = (*graph.history, {"split": dict(rule), "part": part})
    return Graph(graph.relations, graph.entities, edges, history=history, relation_ids=graph.relation_ids)


def _split(graph: Graph, rule: Mapping[str, Any], part: str) -> tuple[Graph, Graph | None]:
    if not rule:
        return graph, None
    if "fraction" in rule:
        known, held_out = stable_split(graph, rule["fraction"], rule.get("seed", 0), part)
    else:
        known, held_out = graph.split(**rule)
    if not any(map(len, held_out.edges.values())):
        raise DataError(f"{part} {dict(rule)} holds out no edge")
    return known, held_out


def _lengths(graph: Graph) -> dict[str, int]:
    return {name: len(edges) for name, edges in graph.edges.items()}


def _write_edges(graph: Graph, folder: Path, files: Mapping[str, str]) -> None:
    """Write a file a relation that has edges, in their order."""
    folder.mkdir()
    for name, edges in graph.edges.items():
        if not len(edges):
            continue
        schema = _taken(graph, name, edges.take(np.arange(0))).schema
        with pq.ParquetWriter(folder / files[name], schema, compression="zstd") as writer:
            for start in range(0, len(edges), _ROWS):
                writer.write_table(_taken(graph, name, edges.take(np.arange(start, min(start + _ROWS, len(edges))))))


def _taken(graph: Graph, name: str, edges: Edges) -> pa.Table:
    relation = graph.relations[name]
    columns: dict[str, Any] = {
        "source": graph.entities[relation.source].take(pa.array(edges.sources)),
        "target": graph.entities[relation.target].take(pa.array(edges.targets)),
    }
    for role, values in (("weight", edges.weights), ("time", edges.times)):
        if values is not None:
            columns[role] = pa.array(values)
    return pa.table(columns)


def _write_pairs(graph: Graph, folder: Path, files: Mapping[str, str], asked: set[str]) -> None:
    """Write the distinct pairs of relations, under the names that edges have and those that pairs have."""
    folder.mkdir()
    for name in graph.relations:
        if name in asked:
            edges = graph.edges[name]
            pairs = _taken(graph, name, Edges(*_distinct(edges)))
            both = pa.table({"query": pairs["source"], "candidate": pairs["target"], **_columns(pairs)})
            pq.write_table(both, folder / files[name], compression="zstd")


def _columns(table: pa.Table) -> dict[str, Any]:
    return {name: table[name] for name in table.column_names}


def _distinct(edges: Edges) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of the pairs of entities that edges join, each once."""
    width = int(edges.targets.max(initial=0)) + 1
    pairs = np.unique(edges.sources * width + edges.targets)
    return pairs // width, pairs % width
