"""Vectors of entities that were not trained, from their edges, without training (TwHIN, El-Kishky et al. 2022, Eq. 5).

A new entity takes the mean of what its neighbours suggest. The equation as printed knows no direction; here a relation
with score = comparator(operator(source), target) suggests operator(source) to a new target, and to a new source what
the relation's reciprocal makes of the target, or, where none was learned, the target pulled back through the operator
(``RelationParameters.pull``).

    new = inductive_vectors(tables, version.relations, {"clicks": frame}, entity="user")
    CandidateGenerator(index, new.table, version.relations["clicks"])(new.table.ids, k=100)

Decisions: each suggestion weighs as much as its edge's weight times its relation's. Under cos, suggestions are
normalised before they are averaged. Means are shorter than what they are means of, so under the other comparators they
are scaled to the median norm of the type's trained vectors; under cos that would only make the relations' translations
weigh less. Round 1 fills what has a trained neighbour, round k what has one that round k - 1 filled: chains of new
entities are followed, and each vector is made once, from the neighbours that are closest to training.

Shapes: N entities of a type, E edges of a relation, D dimension.
"""

__all__ = [
    "Filled",
    "InductiveVectors",
    "NeighborEdges",
    "fill_from_neighbors",
    "inductive_vectors",
    "median_norm",
]

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from recokit.errors import ConfigError, DataError, VersionError, closest
from recokit.frame import read_frame
from recokit.overlap import SKETCH_SIZE, edge_sketch
from recokit.table import Comparator, EmbeddingTable, Ids, RelationParameters, as_vectors, id_array
from recokit.table.ids import IdType, id_type_of, ids_of_type, refuse_nulls
from recokit.table.vectors import check_comparator

Rows = NDArray[np.int64]

_BLOCK = 1 << 16  # rows whose norms are computed at once


@dataclass(frozen=True, eq=False)
class NeighborEdges:
    """The edges of one relation as rows.

    Attributes:
        relation: Its ends name the entity types that the rows belong to.
        sources: (E,) rows.
        targets: (E,) rows.
        weights: (E,) what each edge counts in a mean, 0 or more; 1 where not given.
        reciprocal: The relation that was learned for the reverse direction, from ``relation.target`` to
            ``relation.source``.
    """

    relation: RelationParameters
    sources: Rows
    targets: Rows
    weights: NDArray[Any] | None = None
    reciprocal: RelationParameters | None = None


@dataclass(frozen=True, eq=False)
class Filled:
    """How the vectors of one entity type came about.

    Attributes:
        rounds: (N,) the round that filled a row; 0 where it was known, -1 where it has no vector.
        neighbors: (N,) of how many neighbours it is the mean, a neighbour once for each relation and direction.
    """

    rounds: Rows
    neighbors: Rows


def fill_from_neighbors(
    vectors: Mapping[str, NDArray[np.float32]],
    known: Mapping[str, NDArray[np.bool_]],
    edges: Sequence[NeighborEdges],
    *,
    comparator: Comparator,
    iterations: int = 3,
    norms: Mapping[str, float] | None = None,
) -> dict[str, Filled]:
    """Fill, in place, the rows that are not known with the weighted means of what their neighbours suggest.

    Args:
        vectors: Entity type to (N, D) float32; rows that are not known are written, or left where nothing reaches them.
        known: Entity type to the rows (N,) whose vectors are given.
        edges: The edges between rows.
        comparator: That of the relations.
        iterations: The longest chain of new entities that is followed.
        norms: Entity type to the length that new vectors are scaled to; those of other types stay as long as they come.

    Returns:
        Entity type to how its rows came about.

    Raises:
        ConfigError: ``iterations`` is less than 1, or the comparator does not exist.
        DataError: A weight is negative or not finite.
    """
    if iterations < 1:
        raise ConfigError(f"iterations has to be at least 1, not {iterations}")
    check_comparator(comparator)
    filled = {entity: Filled(np.where(mask, 0, -1), np.zeros(len(mask), np.int64)) for entity, mask in known.items()}
    halves = [
        (half, half.by_neighbor(len(known[half.neighbor]))) for part in edges for half in _halves(part, comparator)
    ]
    # A row without a vector has no neighbour of an earlier round than the last: that would have filled it.
    latest = {entity: np.flatnonzero(mask) for entity, mask in known.items()}
    for number in range(1, iterations + 1):
        # Before anything of this round is filled: no vector depends on the order of types or relations.
        leaving = [half.take(np.sort(edges_of[latest[half.neighbor]].indices)) for half, edges_of in halves]
        unfilled = [half.take(np.flatnonzero(filled[half.entity].rounds[half.rows] < 0)) for half in leaving]
        reached = [half for half in unfilled if len(half.rows)]
        latest = {entity: np.zeros(0, np.int64) for entity in known}
        for entity in {half.entity for half in reached}:
            to_entity = [half for half in reached if half.entity == entity]
            rows, means, counts = _means(to_entity, vectors, comparator)
            if norms is not None and entity in norms:
                means *= norms[entity] / _lengths(means)
            vectors[entity][rows] = means
            filled[entity].rounds[rows] = number
            filled[entity].neighbors[rows] = counts
            latest[entity] = rows
        if not reached:
            break
    return filled


def median_norm(vectors: NDArray[Any]) -> float:
    """Return the median of the lengths of vectors (N, D); NaN where there are none."""
    starts = range(0, len(vectors), _BLOCK)
    norms = [np.linalg.norm(vectors[start : start + _BLOCK].astype(np.float32), axis=1) for start in starts]
    return float(np.median(np.concatenate(norms))) if norms else math.nan


@dataclass(frozen=True, eq=False)
class InductiveVectors:
    """The vectors of new entities, and how each came about.

    Attributes:
        table: Those that have a vector.
        origins: A row for every id asked, in their order: id, round (the length of the chain to trained vectors, from
            1; -1 where nothing leads to one), neighbors (of how many it is the mean).
    """

    table: EmbeddingTable
    origins: pd.DataFrame


def inductive_vectors(
    tables: Mapping[str, EmbeddingTable],
    relations: Mapping[str, RelationParameters],
    edges: Mapping[str, pd.DataFrame | pa.Table],
    *,
    entity: str,
    ids: "Ids | None" = None,
    iterations: int = 3,
    comparator: Comparator | None = None,
    relation_weights: Mapping[str, float] | None = None,
    rescale: bool = True,
) -> InductiveVectors:
    """Infer vectors of entities from their edges to entities that have some.

    Args:
        tables: Entity type to its table, of one version; a type that is new as a whole has none.
        relations: Those of the version.
        edges: Relation name to a frame with the columns source, target[, weight].
        entity: The type that vectors are wanted of; new entities of other types are inferred on the way.
        ids: The entities wanted; their trained vectors, if they have some, are not used. All that are in the edges and
            not in the table if not given, in ascending order.
        iterations: The longest chain of new entities that is followed.
        comparator: That of the tables if not given.
        relation_weights: Relation name to what its edges count; 1 where not given, 0 leaves a relation out.
        rescale: Scale new vectors to the median norm of their type's table; under cos they are never scaled.

    Returns:
        A table of the version of ``tables``, with the median bias where theirs has one, and the origins of all ids.

    Raises:
        ConfigError: A name does not exist, or tables have different comparators and none was given.
        DataError: A column is missing, ids are of another type than their table's, or a weight is negative.
        VersionError: The tables are of different versions.
    """
    ends = _ends(relations, edges, entity)
    version, dim, shared = _shared({name: tables[name] for name in ends if name in tables}, comparator, ends)
    weights = _relation_weights(relation_weights or {}, edges)
    frames = {
        name: read_frame(frame, ("source", "target", "weight"), optional=("weight",)) for name, frame in edges.items()
    }
    nodes = {
        name: _Nodes.of(name, tables.get(name), places, frames, ids if name == entity else None)
        for name, places in ends.items()
    }
    neighbor_edges = [
        NeighborEdges(
            relations[name],
            nodes[relations[name].source].rows[name, "source"],
            nodes[relations[name].target].rows[name, "target"],
            _edge_weights(name, frame, weights[name]),
            _reciprocal(relations, name),
        )
        for name, frame in frames.items()
    ]
    vectors = {name: node.vectors(dim) for name, node in nodes.items()}
    filled = fill_from_neighbors(
        vectors,
        {name: node.known for name, node in nodes.items()},
        neighbor_edges,
        comparator=shared,
        iterations=iterations,
        norms=_norms(nodes) if rescale and shared != "cos" else None,
    )
    origins, made = _origins(nodes[entity], filled[entity])
    rounds = origins["round"][origins["round"] > 0].value_counts(sort=False).sort_index()
    table = EmbeddingTable.from_arrays(
        nodes[entity].ids.take(pa.array(made)),
        vectors[entity][made],
        entity=entity,
        version=version,
        comparator=shared,
        bias=_bias(tables.get(entity), len(made)),
        meta={
            "source": "inductive",
            "asked": len(origins),
            "rounds": {str(number): int(count) for number, count in rounds.items()},
            "edge_sketches": _sketches(entity, relations, frames),
        },
    )
    return InductiveVectors(table, origins)


@dataclass(frozen=True, eq=False)
class _Half:
    """The edges of a relation in one direction: ``move(vectors of neighbours)`` is what they suggest to ``rows``."""

    entity: str
    rows: Rows
    neighbor: str
    neighbor_rows: Rows
    weights: NDArray[np.float64]
    move: Callable[[NDArray[Any]], NDArray[Any]]

    def take(self, edges: Rows) -> "_Half":
        """Return some of the edges, by their positions."""
        rows, others, weights = self.rows[edges], self.neighbor_rows[edges], self.weights[edges]
        return _Half(self.entity, rows, self.neighbor, others, weights, self.move)

    def by_neighbor(self, count: int) -> sparse.csr_matrix:
        """Return a matrix (count, E) whose row of a neighbour has the positions of its edges as columns."""
        edges = np.arange(len(self.rows))
        return sparse.csr_matrix((np.ones(len(edges), np.bool_), (self.neighbor_rows, edges)), (count, len(edges)))


def _halves(edges: NeighborEdges, comparator: Comparator) -> Iterator[_Half]:
    """Cut edges into those that lead to targets and those that lead to sources."""
    relation = edges.relation
    weights = np.ones(len(edges.sources)) if edges.weights is None else np.asarray(edges.weights, np.float64)
    if len(bad := np.flatnonzero(~((weights >= 0) & (weights < np.inf)))):
        raise DataError(
            f"relation {relation.name!r}: edge {bad[0]} has the weight {weights[bad[0]]}, expected a finite number of "
            "0 or more"
        )
    use = weights > 0
    sources, targets, weights = edges.sources[use], edges.targets[use], weights[use]
    to_target, to_source = _moves(relation, comparator)
    if edges.reciprocal is not None:
        to_source = _moves(edges.reciprocal, comparator)[0]
    yield _Half(relation.target, targets, relation.source, sources, weights, to_target)
    yield _Half(relation.source, sources, relation.target, targets, weights, to_source)


def _moves(
    relation: RelationParameters, comparator: Comparator
) -> tuple[Callable[[NDArray[Any]], NDArray[Any]], Callable[[NDArray[Any]], NDArray[Any]]]:
    """Return what a relation makes of sources for a target, and of targets for a source."""
    pull = partial(relation.pull, comparator=comparator)
    return (relation.apply, pull) if relation.side == "source" else (pull, relation.apply)


def _means(
    halves: Sequence[_Half], vectors: Mapping[str, NDArray[np.float32]], comparator: Comparator
) -> tuple[Rows, NDArray[np.float64], Rows]:
    """Return the rows (B,) that the edges lead to, the weighted means (B, D) of what is suggested, and of how many."""
    columns, moved, width = [], [], 0
    for half in halves:
        seen, column = np.unique(half.neighbor_rows, return_inverse=True)
        suggested = half.move(vectors[half.neighbor][seen])
        moved.append(suggested / _lengths(suggested) if comparator == "cos" else suggested)
        columns.append(width + column)
        width += len(seen)
    rows, row = np.unique(np.concatenate([half.rows for half in halves]), return_inverse=True)
    weights = np.concatenate([half.weights for half in halves])
    # Only their proportions count: by a power of two, which rounds nothing, a row's largest comes to 0.5 to 1.
    largest = np.zeros(len(rows))
    np.maximum.at(largest, row, weights)
    weights = np.ldexp(weights, -np.frexp(largest)[1][row])
    # One row an entity, one column a neighbour, relation and direction; parallel edges are summed.
    matrix = sparse.csr_matrix((weights, (row, np.concatenate(columns))), shape=(len(rows), width))
    return (
        rows,
        (matrix @ np.concatenate(moved)) / np.asarray(matrix.sum(axis=1)),
        np.diff(matrix.indptr).astype(np.int64),
    )


def _lengths(vectors: NDArray[Any]) -> NDArray[Any]:
    """Return the norms (B, 1) of vectors (B, D) to divide by: 1 for a zero vector."""
    norms: NDArray[Any] = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[norms == 0] = 1
    return norms


@dataclass(frozen=True, eq=False)
class _Nodes:
    """The entities of one type that the edges or the caller name, as rows of their own.

    Attributes:
        ids: Their distinct ids (N,).
        table: Where the trained ones are.
        trained: Their rows there (N,), -1 for new ones.
        rows: Relation and column to the rows (E,) of the ids in it.
        wanted: The rows that were asked for, or all new ones in ascending order of their ids.
    """

    ids: pa.Array
    table: EmbeddingTable | None
    trained: Rows
    rows: Mapping[tuple[str, str], Rows]
    wanted: Rows

    @classmethod
    def of(
        cls,
        entity: str,
        table: EmbeddingTable | None,
        places: Sequence[tuple[str, str]],
        frames: Mapping[str, pd.DataFrame],
        asked: "Ids | None",
    ) -> "_Nodes":
        """Number the ids in ``places``, pairs of a relation and a column, and those asked for, which count as new."""
        parts = [(f"edges of {name!r}, {column}", id_array(frames[name][column])) for name, column in places]
        if asked is not None:
            parts.append(("ids", id_array(asked, "ids").unique()))
            refuse_nulls(parts[-1][1], "ids")
        encoded = _concatenated(parts, None if table is None else table.id_type).dictionary_encode()
        ids, numbers = encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)
        pieces = np.split(numbers, np.cumsum([len(array) for _, array in parts])[:-1])
        trained = np.full(len(ids), -1) if table is None else table.rows(ids)
        if asked is not None:
            wanted = pieces[-1]
            trained[wanted] = -1
        else:
            wanted = pc.sort_indices(ids).to_numpy().astype(np.int64)
            wanted = wanted[trained[wanted] < 0]
        return cls(ids, table, trained, dict(zip(places, pieces, strict=False)), wanted)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Those whose trained vectors are used (N,)."""
        return self.trained >= 0

    def vectors(self, dim: int) -> NDArray[np.float32]:
        """Return the trained vectors (N, D), zeros for new ones."""
        vectors = np.zeros((len(self.ids), dim), np.float32)
        if self.table is not None:
            vectors[self.known] = self.table.vectors[self.trained[self.known]]
        return vectors


def _concatenated(parts: Sequence[tuple[str, pa.Array]], id_type: IdType | None) -> pa.Array:
    """Return ids of one type, that of the first if it is not given."""
    filled = [(what, array) for what, array in parts if len(array)]  # an empty array has any type
    kind = id_type or (id_type_of(filled[0][1]) if filled else "int64")
    empty = pa.array([], pa.int64() if kind == "int64" else pa.large_string())
    return pa.concat_arrays([empty, *(ids_of_type(array, kind, what) for what, array in filled)])


def _norms(nodes: Mapping[str, _Nodes]) -> dict[str, float]:
    """Return the median norm of the tables of those types that have new entities."""
    tables = {name: node.table for name, node in nodes.items() if not node.known.all()}
    return {name: median_norm(table.vectors) for name, table in tables.items() if table is not None and len(table)}


def _origins(node: _Nodes, filled: Filled) -> tuple[pd.DataFrame, Rows]:
    """Return how the vectors asked for came about, and the rows of those that are there."""
    rows, rounds = node.wanted, filled.rounds[node.wanted]
    ids = node.ids.take(pa.array(rows)).to_pandas()
    return pd.DataFrame({"id": ids, "round": rounds, "neighbors": filled.neighbors[rows]}), rows[rounds > 0]


def _bias(table: EmbeddingTable | None, count: int) -> NDArray[np.float32] | None:
    """Return the median bias of a table for each of its new entities."""
    if table is None or table.bias is None or not len(table):
        return None
    return np.full(count, np.median(table.bias), np.float32)


def _sketches(
    entity: str, relations: Mapping[str, RelationParameters], frames: Mapping[str, pd.DataFrame]
) -> list[dict[str, Any]]:
    """Sketch the edges of an entity type: a vector made of edges knows them, as one that was trained on them does."""
    found = []
    for name, frame in frames.items():
        ends = {"source": relations[name].source, "target": relations[name].target}
        if entity in ends.values():
            sketch = edge_sketch(frame["source"], frame["target"], size=SKETCH_SIZE)
            found.append({"relation": name, **ends, **sketch})
    return found


def _ends(
    relations: Mapping[str, RelationParameters], edges: Mapping[str, Any], entity: str
) -> dict[str, list[tuple[str, str]]]:
    """Return where the ids of each entity type stand: pairs of a relation and a column."""
    ends: dict[str, list[tuple[str, str]]] = {}
    for name in edges:
        if name not in relations:
            raise ConfigError(f"edges of {name!r}, which is no relation; {closest(name, relations)}")
        ends.setdefault(relations[name].source, []).append((name, "source"))
        ends.setdefault(relations[name].target, []).append((name, "target"))
    if entity not in ends:
        raise ConfigError(f"no relation of the edges has {entity!r} at an end; {closest(entity, ends)}")
    return ends


def _shared(
    tables: Mapping[str, EmbeddingTable], comparator: Comparator | None, ends: Mapping[str, Any]
) -> tuple[str, int, Comparator]:
    """Return the version, the dimension and the comparator that all tables have."""
    if not tables:
        raise ConfigError(f"no table of {' or '.join(map(repr, ends))}: there is nothing to infer vectors from")
    for name, table in tables.items():
        as_vectors(table, f"vectors inferred from {name!r}")
    versions, dims = ({name: getattr(table, what) for name, table in tables.items()} for what in ("version", "dim"))
    comparators = {name: table.comparator for name, table in tables.items()}
    if len(set(versions.values())) > 1:
        raise VersionError(f"the tables are of different versions: {versions}")
    if len(set(dims.values())) > 1:
        raise DataError(f"the tables have vectors of different lengths: {dims}")
    if comparator is None and len(set(comparators.values())) > 1:
        raise ConfigError(f"the tables have different comparators: {comparators}; say which with comparator=")
    first = next(iter(tables.values()))
    return first.version, first.dim, first.comparator if comparator is None else check_comparator(comparator)


def _relation_weights(given: Mapping[str, float], edges: Mapping[str, Any]) -> dict[str, float]:
    for name, weight in given.items():
        if name not in edges:
            raise ConfigError(f"relation_weights names {name!r}, which has no edges; {closest(name, edges)}")
        if not 0 <= weight < math.inf:
            raise ConfigError(f"relation_weights: {name!r} has {weight}, expected a number of 0 or more")
    return {name: given.get(name, 1.0) for name in edges}


def _edge_weights(name: str, frame: pd.DataFrame, of_relation: float) -> NDArray[np.float64]:
    """Return the weights (E,) of a relation's edges times the relation's own."""
    if "weight" not in frame:
        return np.full(len(frame), of_relation, np.float64)
    try:
        weights = frame["weight"].to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise DataError(f"edges of {name!r}: weights are {frame['weight'].dtype}, expected numbers") from error
    if len(bad := np.flatnonzero(~((weights >= 0) & (weights < np.inf)))):
        raise DataError(
            f"edges of {name!r}: {len(bad)} of {len(weights)} weights are no number of 0 or more, the first is "
            f"{weights[bad[0]]} in row {bad[0]}"
        )
    with np.errstate(over="ignore"):  # a product that is infinite is refused with all other weights
        return weights * of_relation


def _reciprocal(relations: Mapping[str, RelationParameters], name: str) -> RelationParameters | None:
    """Return the relation that was learned for the reverse direction, if there is one."""
    other = relations[name].reciprocal
    if other is None:
        return None
    if other not in relations:
        raise ConfigError(f"relation {name!r} has the reciprocal {other!r}, which is not there")
    ends = relations[name].target, relations[name].source
    if (relations[other].source, relations[other].target) != ends:
        raise ConfigError(
            f"relation {other!r}, the reciprocal of {name!r}, does not go from {ends[0]!r} to {ends[1]!r}"
        )
    return relations[other]
