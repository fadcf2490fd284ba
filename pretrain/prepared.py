"""A prepared graph: partitions of entities and buckets of edges on disk, memory-mapped; ``prepare`` makes it.

    graph.json             the manifest, written last: format, seed, relations, entity types, chunks, files
    ids-<k>.parquet        ids of the k-th entity type in the order of its rows
    degrees-<k>.npy        (N,) int64: how often each occurs
    relation.npy           (E,) int32: number of the relation    } bucket after bucket, chunk after chunk, then by
    sources.npy            (E,) int32: row within partition i    } relation, source, target, weight
    targets.npy            (E,) int32: row within partition j    }
    weights.npy            (E,) float32, where any relation has weights
    occurrence-rows.npy, occurrence-counts.npy                       (A,) int64, by relation, side, row
    held-out-sources.npy, held-out-targets.npy[, held-out-weights.npy]   (H,) int64, rows of the whole type, by relation

Bucket (i, j) holds the edges whose source lies in partition i of its entity type and whose target in partition j of
its own. Where types have different numbers of partitions, one of the two numbers is 1, so such a type's edges are found
under the partition of the other end and 0.
Letters: N entities of a type, P partitions, E edges.
"""

__all__ = ["BucketEdges", "PreparedGraph"]

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pretrain.config import Relation, check_choice
from pretrain.edges import Edges
from pretrain.graph import Graph, GraphSummary
from recokit.errors import ConfigError, FormatError, closest
from recokit.table.folder import check_files, file_entries, load_npy, local_folder, manifest_value, read_manifest
from recokit.table.relations import Side

FORMAT = "prepared-graph/1"
MANIFEST = "graph.json"
Part = Literal["known", "held_out", "all"]
_SIDES: tuple[Side, ...] = ("source", "target")


@dataclasses.dataclass(frozen=True, eq=False)
class BucketEdges:
    """Edges of one chunk of a bucket, memory-mapped and read-only; their order says nothing."""

    relation: NDArray[np.int32]  # (E,) number of the relation
    sources: NDArray[np.int32]  # (E,) rows within partition i of the source's entity type
    targets: NDArray[np.int32]  # (E,) rows within partition j of the target's
    weights: NDArray[np.float32] | None  # (E,) at least 0; 1 where only other relations have weights

    def __len__(self) -> int:
        return len(self.sources)


@dataclasses.dataclass(frozen=True)
class _Entities:
    """What the manifest says of an entity type."""

    name: str
    id_type: Literal["int64", "string"]
    count: int
    partitions: int
    ids: str
    ids_digest: str
    degrees: str

    @property
    def size(self) -> int:
        return -(-self.count // self.partitions)


class PreparedGraph:
    """Entities and edges in a folder that ``prepare`` has made; ``open`` reads it.

    Attributes:
        path: The folder.
        relations: Name to ``Relation``; a relation's number is its position.
        partitions: P, the number of partitions of every entity type that has more than one.
        summary: What was read and what was dropped; its edges include those held out.
        num_edges: Relation to its edges, without those held out.
        seed: Of the order of rows and of what is held out.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path, self._manifest = path, manifest
        self._files: dict[str, Any] = manifest["files"]
        self._entities = {item["name"]: _Entities(**item) for item in manifest["entities"]}
        kept = ("weighted", "edges", "held_out")
        relations = [{key: item[key] for key in item if key not in kept} for item in manifest["relations"]]
        self.relations = {item["name"]: Relation(**item) for item in relations}
        self._weighted = {item["name"]: bool(item["weighted"]) for item in manifest["relations"]}
        self.num_edges = {item["name"]: int(item["edges"]) for item in manifest["relations"]}
        self._num_held_out = {item["name"]: int(item["held_out"]) for item in manifest["relations"]}
        self.partitions = max(entities.partitions for entities in self._entities.values())
        self.summary = GraphSummary(tuple(manifest["summary"]))
        self.seed, self._held_out_share = int(manifest["seed"]), float(manifest["held_out"])
        self._sources, self._relation_ids = dict(manifest["sources"]), dict(manifest["relation_ids"])
        self._chunks: dict[tuple[int, int], list[slice]] = {}
        for (i, j, size), start in _with_starts(manifest["chunks"]):
            self._chunks.setdefault((i, j), []).append(slice(start, start + size))
        self._occurring = {
            (number, side): slice(start, start + size)
            for (number, side, size), start in _with_starts(manifest["occurrences"])
        }
        self._columns = self._mapped()

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> "PreparedGraph":
        """Open a folder: the sizes of its files are checked, and with ``verify`` their SHA-256.

        Raises:
            FormatError: It is no prepared graph, of another format, or damaged.
            ChecksumError: The bytes of a file have changed.
        """
        folder = local_folder(path)
        manifest = read_manifest(folder, MANIFEST, FORMAT)
        for key in ("entities", "relations", "chunks", "occurrences", "summary"):
            manifest_value(folder / MANIFEST, manifest, key, list)
        check_files(folder, file_entries(folder, manifest, MANIFEST), verify=verify)
        try:
            return cls(folder, manifest)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{folder / MANIFEST} is damaged: {error!r}") from error

    def __repr__(self) -> str:
        entities = ", ".join(f"{entities.count:,} {name}" for name, entities in self._entities.items())
        edges = ", ".join(f"{count:,} {name}" for name, count in self.num_edges.items())
        return f"PreparedGraph(entities: {entities}; edges: {edges}; partitions: {self.partitions})"

    # -- entities ----------------------------------------------------------------------------------------------------

    @property
    def entity_types(self) -> tuple[str, ...]:
        """The entity types."""
        return tuple(self._entities)

    def num_entities(self, entity: str) -> int:
        """Entities of a type, N."""
        return self._type(entity).count

    def num_partitions(self, entity: str) -> int:
        """Partitions of a type: P or 1."""
        return self._type(entity).partitions

    def partition(self, entity: str, number: int) -> range:
        """Rows of a partition of a type."""
        kind = self._type(entity)
        if not 0 <= number < kind.partitions:
            raise ConfigError(f"entity type {entity!r} has partitions 0 to {kind.partitions - 1}, got {number}")
        return range(number * kind.size, min((number + 1) * kind.size, kind.count))

    def ids(self, entity: str, partition: int | None = None) -> pa.Array:
        """Return the ids of a type, or of one of its partitions, in the order of rows: int64 or large_string."""
        file = pq.ParquetFile(self.path / self._type(entity).ids)
        rows = self._rows(entity, partition)
        ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
        first, last = np.searchsorted(
            ends, [rows.start, rows.stop - 1], side="right"
        )  # no group lies in two partitions
        groups = list(range(int(first), int(last) + 1))
        return file.read_row_groups(groups).column("id").combine_chunks()

    def degrees(self, entity: str) -> NDArray[np.int64]:
        """Occurrences (N,) of every entity of a type, memory-mapped: over all relations and both ends.

        As the trainer counts them: edges held out and those with a weight of 0 are left out, a self-loop counts twice.
        """
        kind = self._type(entity)
        return load_npy(self.path / kind.degrees, dtypes=["int64"], shape=(kind.count,))

    def occurrences(self, relation: str, side: Side, partition: int | None = None) -> NDArray[np.int64]:
        """Occurrences (N,) at one end of a relation's edges, of every entity or of those in a partition.

        They are kept without zeros, for the sake of graphs of many relations, and spelled out here. The same edges
        count as for ``degrees``.
        """
        number, ends = self._number(relation), self.relations[relation]
        rows = self._rows(ends.source if side == "source" else ends.target, partition)
        found = self._occurring.get((number, _SIDES.index(side)), slice(0, 0))
        of_rows = self._columns["occurrence-rows.npy"][found]
        first, last = np.searchsorted(of_rows, [rows.start, rows.stop])
        counts = np.zeros(len(rows), np.int64)
        counts[of_rows[first:last] - rows.start] = self._columns["occurrence-counts.npy"][found][first:last]
        return counts

    # -- edges -------------------------------------------------------------------------------------------------------

    @property
    def buckets(self) -> dict[tuple[int, int], int]:
        """Bucket (i, j) to its edges, for those that have any."""
        return {bucket: sum(part.stop - part.start for part in parts) for bucket, parts in self._chunks.items()}

    def chunks(self, i: int, j: int) -> int:
        """Return the number of chunks of bucket (i, j); it is 0 where there is no edge."""
        for number in (i, j):
            if not 0 <= number < self.partitions:
                raise ConfigError(f"bucket ({i}, {j}): partitions are 0 to {self.partitions - 1}")
        return len(self._chunks.get((i, j), ()))

    @property
    def is_weighted(self) -> bool:
        """Whether edges have weights: those of a relation without any are 1 then."""
        return any(self._weighted.values())

    def edges(self, i: int, j: int, chunk: int = 0, *, mapped: bool = True) -> BucketEdges:
        """Return a chunk of bucket (i, j); the chunks of a bucket are a random split of its edges.

        Args:
            i: Partition of the sources.
            j: Partition of the targets.
            chunk: Its number.
            mapped: Map the files; else read the chunk alone into memory.
        """
        if not 0 <= chunk < self.chunks(i, j):
            raise ConfigError(f"bucket ({i}, {j}) has {self.chunks(i, j)} chunks, numbered from 0; got {chunk}")
        part = self._chunks[i, j][chunk]
        column = self._slice_of if mapped else self._read
        relation, sources, targets = (column(f"{name}.npy", part) for name in ("relation", "sources", "targets"))
        return BucketEdges(relation, sources, targets, column("weights.npy", part) if self.is_weighted else None)

    def held_out(self) -> dict[str, Edges]:
        """Return relation to the edges held out, as rows of the whole entity types, in memory."""
        starts = np.cumsum([0, *self._num_held_out.values()])
        parts = {}
        for name, start, stop in zip(self.relations, starts, starts[1:], strict=False):
            sources, targets = (
                self._columns[f"held-out-{end}.npy"][start:stop].copy() for end in ("sources", "targets")
            )
            weights = self._columns["held-out-weights.npy"][start:stop].copy() if self._weighted[name] else None
            parts[name] = Edges(sources, targets, weights)
        return parts

    def to_graph(self, part: Part = "known") -> Graph:
        """Return a graph in memory, whose rows are numbered in the order of ids as in any other ``Graph``.

        Args:
            part: Its edges: those of the buckets, those held out, or both.

        Raises:
            ConfigError: ``part`` is something else.
        """
        check_choice("to_graph", "part", part, get_args(Part))
        ids = {entity: self.ids(entity) for entity in self.entity_types}
        order = {entity: pc.sort_indices(array).to_numpy() for entity, array in ids.items()}
        row_of = {entity: np.argsort(places) for entity, places in order.items()}  # (N,) prepared row to graph's row
        parts = ([self._known()] if part != "held_out" else []) + ([self.held_out()] if part != "known" else [])
        edges = {}
        for name, relation in self.relations.items():
            some = [kept[name] for kept in parts]
            edges[name] = Edges(
                row_of[relation.source][np.concatenate([one.sources for one in some])],
                row_of[relation.target][np.concatenate([one.targets for one in some])],
                np.concatenate([one.weights for one in some]) if self._weighted[name] else None,
            )
        return Graph(
            self.relations,
            {entity: array.take(pa.array(order[entity])) for entity, array in ids.items()},
            edges,
            summary=self.summary,
            history=self.history(part),
            relation_ids=self._relation_ids,
        )

    def history(self, part: Part = "known") -> list[dict[str, Any]]:
        """Say how a part of the edges came about, as ``Graph.history`` does."""
        history: list[dict[str, Any]] = [{"sources": self._sources}]
        if part != "all" and self._held_out_share:
            rule = {"fraction": self._held_out_share, "seed": self.seed, "by": "hash"}
            history.append({"split": rule, "part": part.replace("_", " ")})
        return history

    def digest(self) -> str:
        """SHA-256 of all ids, relations, edges and of how they are cut: two of the same digest train alike."""
        said = {
            "entities": [[kind.name, kind.count, kind.partitions, kind.ids_digest] for kind in self._entities.values()],
            "relations": [dataclasses.asdict(relation) for relation in self.relations.values()],
            "chunks": self._manifest["chunks"],
            "files": {name: entry["sha256"] for name, entry in self._files.items() if name.endswith(".npy")},
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    # -- files -------------------------------------------------------------------------------------------------------

    def _known(self) -> dict[str, Edges]:
        """Relation to the edges of all buckets, as rows of the whole types."""
        size = np.array([[self._type(entity).size for entity in (r.source, r.target)] for r in self.relations.values()])
        relation = self._columns["relation.npy"]
        sources, targets = (self._columns[name].astype(np.int64) for name in ("sources.npy", "targets.npy"))
        for (i, j), parts in self._chunks.items():
            for part in parts:
                sources[part] += i * size[relation[part], 0]
                targets[part] += j * size[relation[part], 1]
        weights = self._columns.get("weights.npy")
        edges = {}
        for number, name in enumerate(self.relations):
            own = relation == number
            kept = weights[own] if weights is not None and self._weighted[name] else None
            edges[name] = Edges(sources[own], targets[own], kept)
        return edges

    def _slice_of(self, name: str, part: slice) -> NDArray[Any]:
        return self._columns[name][part]

    def _read(self, name: str, part: slice) -> NDArray[Any]:
        """Read a part of a column without mapping it."""
        path, column = self.path / name, self._columns[name]
        first = path.stat().st_size - column.nbytes + part.start * column.itemsize
        return np.fromfile(path, column.dtype, count=part.stop - part.start, offset=first)

    def _mapped(self) -> dict[str, NDArray[Any]]:
        """Map the columns of edges and occurrences."""
        known, held = sum(self.num_edges.values()), sum(self._num_held_out.values())
        occurring = sum(size for _, _, size in self._manifest["occurrences"])
        expected = dict.fromkeys(("relation.npy", "sources.npy", "targets.npy"), ("int32", known))
        expected |= dict.fromkeys(("held-out-sources.npy", "held-out-targets.npy"), ("int64", held))
        expected |= dict.fromkeys(("occurrence-rows.npy", "occurrence-counts.npy"), ("int64", occurring))
        if self.is_weighted:
            expected |= {"weights.npy": ("float32", known), "held-out-weights.npy": ("float32", held)}
        return {
            name: load_npy(self.path / name, dtypes=[dtype], shape=(length,))
            for name, (dtype, length) in expected.items()
        }

    def _type(self, entity: str) -> _Entities:
        if entity not in self._entities:
            raise ConfigError(f"entity type {entity!r} is not in the graph; {closest(entity, self._entities)}")
        return self._entities[entity]

    def _number(self, relation: str) -> int:
        if relation not in self.relations:
            raise ConfigError(f"relation {relation!r} is not in the graph; {closest(relation, self.relations)}")
        return list(self.relations).index(relation)

    def _rows(self, entity: str, partition: int | None) -> range:
        return range(self.num_entities(entity)) if partition is None else self.partition(entity, partition)


def _with_starts(parts: list[list[int]]) -> Iterator[tuple[list[int], int]]:
    """Add to each part, whose last number is its size, where it starts."""
    start = 0
    for part in parts:
        yield part, start
        start += part[-1]
