"""A version as Parquet for a warehouse: a file for each table, an entity a row, and a manifest.

    manifest.json               what is here: version, layout, tables, files with checksums; written last
    tables/user.parquet         id, version, created, vector[, bias]
    tables/item-pq.parquet      id, version, created, codes: one byte for each sub-quantizer
    codebooks/item-pq.parquet   sub_quantizer, code, centroid
    rotations/item-pq.parquet   row, vector: where the codec is opq
    tables/interests.parquet    id, version, created, component, weight, component_id, vector: a component a row
    relations.parquet           name, source, target, operator, side, reciprocal, parameters

Decisions:
- ``vector`` is a list of float32 of one size; ``layout="columns"`` makes ``vector_0``, ``vector_1`` ... of it, and
  ``code_0`` ... of codes, for engines that know no lists. float32 numbers are the bytes of the version's.
- ``version`` and ``created`` are columns, so that exports of several nights can be read as one; they cost a few bytes a
  row group. What else is known of a table is in the metadata of its file, and in the manifest.
- Row groups hold 16 MiB: a table is exported within the memory of a few of these, whatever its size.

Shapes: N ids, n rows of a block, C components, M sub-quantizers, K codes in each, D dimension.
"""

__all__ = ["FORMAT", "MANIFEST", "Layout", "export_parquet"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import ConfigError, closest
from recokit.exports.rows import (
    binary_array,
    block_rows,
    blocks,
    id_type,
    ids_of,
    list_array,
    plain_ids,
    table_names,
    ticker,
    wide_vectors,
    write_batches,
)
from recokit.table import EmbeddingTable, FeatureTable, Mixture, PQTable, Version
from recokit.table.folder import local_folder, new_folder, sha256_of, write_json

Layout = Literal["list", "columns"]

FORMAT = "parquet-export/1"
MANIFEST = "manifest.json"
_CONSTANT = ("version", "created")
# The fields of a table behind id and the constant ones, and ids and columns of them, block by block.
_Contents: TypeAlias = tuple[list[pa.Field], Iterator[tuple[pa.Array, list[pa.Array]]]]


def export_parquet(
    version: Version,
    path: str | Path,
    *,
    tables: Sequence[str] | None = None,
    layout: Layout = "list",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the tables and relations of a version as Parquet, into a folder that appears whole or not at all.

    Args:
        version: The version.
        path: The folder to make.
        tables: Names of tables; all where not given.
        layout: Whether a vector is one column of lists, or a column for each dimension.
        progress: Called with how many ids are written, and how many there are.

    Raises:
        ConfigError: A table or a layout does not exist.
        VersionError: ``path`` exists.
    """
    if layout not in get_args(Layout):
        raise ConfigError(f"layout {layout!r} does not exist; {closest(str(layout), get_args(Layout))}")
    target, names = local_folder(path), table_names(version, tables)
    opened = {name: version.open(name) for name in names}
    tick = ticker(progress, sum(table.count for table in opened.values()))
    with new_folder(target) as folder:
        (folder / "tables").mkdir()
        entries = []
        for name, table in opened.items():
            known = _described(version, name, table)
            rows = _write_table(folder / str(known["path"]), version, table, known, layout=layout, tick=tick)
            if isinstance(table, PQTable):
                known |= _write_decoder(folder, name, table)
            entries.append(known | {"rows": rows})
        if version.relations:
            write_batches(folder / "relations.parquet", *_relations(version))
        files = sorted(each for each in folder.rglob("*.parquet"))
        manifest = {
            "format": FORMAT,
            "version": version.name,
            "created": _iso(version.created),
            "parent": version.parent,
            "layout": layout,
            "tables": entries,
            "files": {
                each.relative_to(folder).as_posix(): {"bytes": each.stat().st_size, "sha256": sha256_of(each)}
                for each in files
            },
            "meta": dict(version.meta),
        }
        write_json(folder / MANIFEST, manifest)
    return target


def _described(version: Version, name: str, table: FeatureTable) -> dict[str, Any]:
    """Say what a manifest and the metadata of a file say of a table."""
    entry = version.tables[name]
    known: dict[str, Any] = {
        "name": name,
        "path": f"tables/{name}.parquet",
        "entity": table.entity,
        "kind": table.kind,
        "network": entry.network,
        "comparator": table.comparator,
        "dim": table.dim,
        "ids": table.id_type,
        "count": table.count,
        "fingerprint": table.fingerprint,
    }
    if isinstance(table, PQTable):
        return known | {"codec": table.codec, "codebook_sha256": table.codebook_sha256}
    vectors = table.components if isinstance(table, Mixture) else table
    components = {"components": table.components_name} if isinstance(table, Mixture) else {}
    return known | {"dtype": vectors.dtype.name} | components


def _write_table(
    path: Path,
    version: Version,
    table: FeatureTable,
    known: Mapping[str, Any],
    *,
    layout: Layout,
    tick: Callable[[int], None],
) -> int:
    fields, contents = _contents(table, layout, tick)
    constant = [pa.field("version", pa.string()), pa.field("created", pa.timestamp("us", tz="UTC"))]
    said = {"version": version.name, "created": _iso(version.created), **known}
    metadata = {f"recokit.{name}": str(value) for name, value in said.items() if value is not None and name != "path"}
    schema = pa.schema([pa.field("id", id_type(table), nullable=False), *constant, *fields], metadata)
    values = [pa.scalar(version.name), pa.scalar(version.created, constant[1].type)]

    def batches() -> Iterator[pa.RecordBatch]:
        for ids, columns in contents:
            same = [pa.repeat(value, len(ids)) for value in values]
            yield pa.RecordBatch.from_arrays([ids, *same, *columns], schema=schema)

    return write_batches(path, schema, batches(), dictionaries=_CONSTANT)


def _contents(table: FeatureTable, layout: Layout, tick: Callable[[int], None]) -> _Contents:
    if isinstance(table, EmbeddingTable):
        return _vector_contents(table, layout, tick)
    return _code_contents(table, layout, tick) if isinstance(table, PQTable) else _mixture_contents(table, layout, tick)


def _vector_contents(table: EmbeddingTable, layout: Layout, tick: Callable[[int], None]) -> _Contents:
    fields = _vector_fields("vector", table.dim, layout)
    bias = table.bias

    def parts() -> Iterator[tuple[pa.Array, list[pa.Array]]]:
        for part in blocks(table.count, block_rows(4 * table.dim), tick):
            columns = _vector_columns(table.vectors[part], layout)
            yield ids_of(table, part), columns if bias is None else [*columns, pa.array(bias[part].astype(np.float32))]

    return (fields if bias is None else [*fields, pa.field("bias", pa.float32())]), parts()


def _code_contents(table: PQTable, layout: Layout, tick: Callable[[int], None]) -> _Contents:
    wide = [pa.field(f"code_{number}", pa.uint8()) for number in range(table.sub_quantizers)]

    def parts() -> Iterator[tuple[pa.Array, list[pa.Array]]]:
        for part in blocks(table.count, block_rows(table.sub_quantizers), tick):
            codes = table.codes[part]
            yield ids_of(table, part), [binary_array(codes)] if layout == "list" else wide_vectors(codes)

    return ([pa.field("codes", pa.binary())] if layout == "list" else wide), parts()


def _mixture_contents(table: Mixture, layout: Layout, tick: Callable[[int], None]) -> _Contents:
    components = table.components
    fields = [
        pa.field("component", pa.int32()),
        pa.field("weight", pa.float32()),
        pa.field("component_id", id_type(components)),
        *_vector_fields("vector", table.dim, layout),
    ]

    def parts() -> Iterator[tuple[pa.Array, list[pa.Array]]]:
        for part in blocks(table.count, block_rows(4 * table.dim * table.num_components), tick):
            held = table.component_rows[part]  # (n, C)
            entity, position = np.nonzero(held >= 0)
            rows = held[entity, position]
            columns = [
                pa.array(position.astype(np.int32)),
                pa.array(table.weights[part][entity, position]),
                plain_ids(components.ids_at(rows)),
                *_vector_columns(components.vectors[rows], layout),
            ]
            yield ids_of(table, part).take(pa.array(entity)), columns

    return fields, parts()


def _vector_fields(name: str, dim: int, layout: Layout) -> list[pa.Field]:
    if layout == "list":
        return [pa.field(name, pa.list_(pa.float32(), dim))]
    return [pa.field(f"{name}_{number}", pa.float32()) for number in range(dim)]


def _vector_columns(vectors: NDArray[Any], layout: Layout) -> list[pa.Array]:
    return [list_array(vectors)] if layout == "list" else wide_vectors(vectors)


def _write_decoder(folder: Path, name: str, table: PQTable) -> dict[str, str]:
    """Write what turns codes into vectors, and return where."""
    parts, size, width = table.codebook.shape
    numbers = np.indices((parts, size), dtype=np.int32).reshape(2, -1)
    centroids = list_array(table.codebook.reshape(parts * size, width))
    columns = {"sub_quantizer": pa.array(numbers[0]), "code": pa.array(numbers[1]), "centroid": centroids}
    where = {"codebook": _write_whole(folder / "codebooks" / f"{name}.parquet", columns)}
    if table.rotation is not None:
        columns = {"row": pa.array(np.arange(table.dim, dtype=np.int32)), "vector": list_array(table.rotation)}
        where["rotation"] = _write_whole(folder / "rotations" / f"{name}.parquet", columns)
    return where


def _write_whole(path: Path, columns: Mapping[str, pa.Array]) -> str:
    """Write a small file, and return its path within the export."""
    path.parent.mkdir(exist_ok=True)
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    write_batches(path, batch.schema, [batch])
    return f"{path.parent.name}/{path.name}"


def _relations(version: Version) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    relations = list(version.relations.values())
    columns = {
        name: pa.array([getattr(relation, name) for relation in relations], pa.string())
        for name in ("name", "source", "target", "operator", "side", "reciprocal")
    }
    parameters = pa.array([relation.parameters for relation in relations], pa.list_(pa.float32()))
    batch = pa.RecordBatch.from_arrays([*columns.values(), parameters], names=[*columns, "parameters"])
    return batch.schema, [batch]


def _iso(created: datetime) -> str:
    return created.isoformat().replace("+00:00", "Z")
