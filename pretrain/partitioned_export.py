"""Export of tables larger than memory: the version that ``export`` writes, from partitions, a few MB at a time.

Rows stand in the order of the prepared graph; entities without a training edge are left out.  In memory are the ids of
a type, with the index that a large table has, and those of the two types whose edges are sketched.  Tables go from
the partitions straight to their place; what training needs to go on is written twice, beside the version and into it.
Shapes: N entities of a type, D dimension, E edges.
"""

__all__ = ["EdgePart", "export_partitioned", "walk_edges"]

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pretrain.export import recorded_of, with_meta
from pretrain.partition_files import stream_npy
from pretrain.partition_store import Part
from pretrain.partitioned import PartitionedModel
from pretrain.prepared import PreparedGraph
from recokit.errors import DataError
from recokit.overlap import SKETCH_SIZE, edge_sketch, merge_sketches
from recokit.table import Version, write_version
from recokit.table.folder import FileEntry, local_folder, new_folder, partial_path, write_json
from recokit.table.id_column import IdColumn
from recokit.table.vectors import FORMAT

_SKETCHED = 1 << 22  # edges at a time
_FEW = 8  # times fewer edges than ids: those that occur are looked for first


def export_partitioned(
    model: PartitionedModel,
    path: str | Path,
    *,
    parent: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Version:
    """Write the version that ``export`` would write of the model in memory, whatever the size of its tables.

    Args:
        model: What ``train_partitioned`` returned.
        path: The version's folder; its last part is the version's name.
        parent: The version that this one came from.
        meta: Added to what the version records of itself (settings, edges, sources, splits).

    Returns:
        The version, opened.

    Raises:
        VersionError: It exists already.
        ConfigError: Its name, or that of an entity type, is no safe folder name, or ``meta`` has what is recorded.
        DataError: A number of a table is not finite.
    """
    whole, target = model.without_entities(), local_folder(path)
    known = with_meta(recorded_of(whole), meta)
    sketches = functools.cache(lambda: _sketches(model.prepared))
    with _aside(target) as aside:
        return write_version(
            target,
            {entity: _Table(model, entity, target.name, sketches) for entity in model.prepared.entity_types},
            relations=[whole.relation_parameters(name) for name in whole.parameters],
            parent=parent,
            state=_State(model, aside),
            meta=known,
        )


@contextlib.contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """Name a folder beside a version, still to be made, that goes in the end, or with what a crash leaves of it."""
    folder = partial_path(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclasses.dataclass(frozen=True, eq=False)
class _Table:
    """The table of an entity type, to be written as ``EmbeddingTable.save`` writes one."""

    model: PartitionedModel
    entity: str
    version: str
    sketches: Callable[[], list[dict[str, Any]]]

    @property
    def kind(self) -> Literal["vectors"]:
        return "vectors"

    def save(self, path: str | Path) -> Path:
        target, model, entity = local_folder(path), self.model, self.entity
        with new_folder(target) as folder:
            files = _write_ids(model.prepared, entity, folder)
            parts: dict[str, Part] = {"vectors.npy": "vectors", **({"bias.npy": "bias"} if model.config.bias else {})}
            files |= {name: _write_part(model, entity, part, folder / name) for name, part in parts.items()}
            manifest = {
                "format": FORMAT,
                "entity": entity,
                "count": _count(model.prepared, entity),
                "dim": model.config.dim,
                "dtype": "float32",
                "version": self.version,
                "comparator": model.config.comparator,
                "files": files,
                "meta": {"edge_sketches": [each for each in self.sketches() if entity in _ends(each)]},
            }
            write_json(folder / "table.json", manifest)
        return target


class _State(Mapping[str, NDArray[Any]]):
    """What training needs to go on, by name; each array is made when it is asked for, and mapped.

    Args:
        model: Its owner.
        folder: Where the arrays are written to; made with the first.
    """

    def __init__(self, model: PartitionedModel, folder: Path) -> None:
        self._model, self._folder = model, folder
        self._blocks = model.without_entities().blocks()
        parts: dict[str, Part] = {"vectors": "state", **({"bias": "bias_state"} if model.config.bias else {})}
        self._parts = {
            f"{kind}-{entity}": (entity, part) for entity in model.prepared.entity_types for kind, part in parts.items()
        }
        self._degrees = {f"degrees-{entity}": entity for entity in model.prepared.entity_types}
        self._names = [*self._parts, *self._degrees, *(f"relations-{operator}" for operator in self._blocks)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name in self._parts:
            self._folder.mkdir(exist_ok=True)
            file = self._folder / f"{self._names.index(name)}.npy"  # a name may be too long with what stands around it
            _write_part(self._model, *self._parts[name], file)
            return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
        if name in self._degrees:
            degrees = self._model.prepared.degrees(self._degrees[name])
            return degrees[degrees > 0]
        state = self._model.without_entities().parameter_state
        names = self._blocks[name.removeprefix("relations-")]
        return torch.stack([state[each] for each in names]).numpy()


def _count(prepared: PreparedGraph, entity: str) -> int:
    """Return how many entities of a type have been trained."""
    return int(np.count_nonzero(prepared.degrees(entity)))


def _write_ids(prepared: PreparedGraph, entity: str, folder: Path) -> dict[str, FileEntry]:
    ids = prepared.ids(entity).filter(pa.array(prepared.degrees(entity) > 0))
    return IdColumn.of(ids, f"ids of the {entity!r} table").write(folder)


def _write_part(model: PartitionedModel, entity: str, part: Part, path: Path) -> FileEntry:
    """Write the rows of a table that have been trained."""
    shape = model.store.layout.shape(part, _count(model.prepared, entity))
    return stream_npy(path, shape, _trained(model, entity, part))


def _trained(model: PartitionedModel, entity: str, part: Part) -> Iterator[NDArray[np.float32]]:
    degrees = model.prepared.degrees(entity)
    for rows, chunk in model.store.table(entity, part):
        kept = degrees[rows.start : rows.stop] > 0
        found = chunk if kept.all() else chunk[kept]
        if not np.isfinite(found).all():
            raise DataError(f"{part} of the {entity!r} table: NaN or infinity in rows {rows.start} to {rows.stop - 1}")
        yield found


# -- edges -----------------------------------------------------------------------------------------------------------


class EdgePart(NamedTuple):
    """Edges of one relation in a chunk of a bucket, mapped; their rows are counted from the first of a partition."""

    relation: str
    source_rows: range  # of the source's partition
    target_rows: range
    sources: NDArray[np.int32]  # (E,)
    targets: NDArray[np.int32]  # (E,)


def walk_edges(prepared: PreparedGraph, relations: Collection[str]) -> Iterator[EdgePart]:
    """Go through the edges of some relations in all buckets, in parts that have any."""
    numbers = [number for number, name in enumerate(prepared.relations) if name in relations]
    names = list(prepared.relations)

    def rows(entity: str, number: int) -> range:
        return prepared.partition(entity, number if prepared.num_partitions(entity) > 1 else 0)

    for i, j in prepared.buckets:
        for chunk in range(prepared.chunks(i, j)):
            edges = prepared.edges(i, j, chunk)  # sorted by relation
            starts, ends = (np.searchsorted(edges.relation, numbers, side=side) for side in ("left", "right"))
            for number, start, end in zip(numbers, starts, ends, strict=True):
                if start < end:
                    ends_of = prepared.relations[names[number]]
                    ranges = rows(ends_of.source, i), rows(ends_of.target, j)
                    yield EdgePart(names[number], *ranges, edges.sources[start:end], edges.targets[start:end])


def _ends(sketch: Mapping[str, Any]) -> tuple[str, str]:
    return sketch["source"], sketch["target"]


def _sketches(prepared: PreparedGraph) -> list[dict[str, Any]]:
    """Sketch the edges of every relation, as the meta of a model in memory has them."""
    empty = np.zeros(0, np.int64)
    found = {name: edge_sketch(empty, empty, size=SKETCH_SIZE) for name in prepared.relations}
    by_ends: dict[tuple[str, str], list[str]] = {}
    for name, relation in prepared.relations.items():
        by_ends.setdefault((relation.source, relation.target), []).append(name)
    for (source, target), names in by_ends.items():  # so that the ids of two types at most are in memory
        sources = prepared.ids(source)
        targets = sources if source == target else prepared.ids(target)
        for part in walk_edges(prepared, names):
            for start in range(0, len(part.sources), _SKETCHED):
                some = slice(start, start + _SKETCHED)
                left = _encoded(part.sources[some], sources, part.source_rows)
                right = _encoded(part.targets[some], targets, part.target_rows)
                found[part.relation] = merge_sketches(found[part.relation], edge_sketch(left, right, size=SKETCH_SIZE))
    return [
        {"relation": name, "source": relation.source, "target": relation.target, **found[name]}
        for name, relation in prepared.relations.items()
    ]


def _encoded(rows: NDArray[Any], ids: pa.Array, partition: range) -> pa.DictionaryArray:
    """Return the ids of rows of a partition, each distinct one once."""
    dictionary = ids.slice(partition.start, len(partition))
    if len(rows) * _FEW < len(dictionary):
        used, rows = np.unique(rows, return_inverse=True)
        dictionary = dictionary.take(pa.array(used))
    return pa.DictionaryArray.from_arrays(pa.array(rows), dictionary)
