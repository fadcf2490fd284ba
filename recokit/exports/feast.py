"""Versions in a Feast feature store: Parquet that it reads, and what it has to know of it.

    REPO/feature_store.yaml                     made where there is none: local provider, offline files, online SQLite
    REPO/data/embeddings/<table>/<version>.parquet
         <entity>_id, event_timestamp, version, then vector[, bias] | codes | components, weights, vectors
    REPO/data/codebooks/<table>/<version>.npy   of codes; with opq, <version>.rotation.npy too

Registered are, for each table, an Entity of the entity type with the join key ``<entity>_id``, a FeatureView of the
table's name over the Parquet of all its versions, and for each version a FeatureService ``embeddings-<version>``.
Views are tables of databases, and join keys columns: in those names all but letters and digits becomes ``_``.

Decisions:
- ``event_timestamp`` is when the version was created, so that a point-in-time join gives each training row the vectors
  that were there at its time: Feast takes the newest version at or before it.
- ``version`` is a feature like others: who reads vectors online sees which version they are of, and that those of a
  user and an item are of the same.
- Codes are bytes; their codebook lies beside them, by version, and the tags of the view say where the newest is and
  what its SHA-256 is (a model that reads codes holds their codebook; TwHIN, El-Kishky et al. 2022, 7.1).
- A mixture is a row of lists: the components' ids, their weights, and their vectors one behind the other.
- Feast wants a pandas of its own age, so it lives in an environment of its own; nothing else of recokit imports it.
"""

__all__ = ["register_feast"]

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import ConfigError, MissingDependencyError, VersionError
from recokit.exports.rows import (
    binary_array,
    block_rows,
    blocks,
    id_type,
    ids_of,
    plain_ids,
    table_names,
    ticker,
    write_batches,
)
from recokit.table import EmbeddingTable, FeatureTable, Mixture, PQTable, Version
from recokit.table.folder import local_folder, npy_digest, partial_path

_YAML = """project: {project}
provider: local
registry: data/registry.db
online_store:
  type: sqlite
  path: data/online_store.db
offline_store:
  type: file
entity_key_serialization_version: 3
"""
_FOLDER = "data/embeddings"
_CODEBOOKS = "data/codebooks"
_CONTENTS = b"recokit.contents"


def register_feast(
    version: Version,
    repo: str | Path,
    *,
    tables: Sequence[str] | None = None,
    project: str = "embeddings",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """Write a version's tables where a Feast repository reads them, and register them there.

    Register every version in turn: point-in-time joins need all of them. Tags say what the newest is.

    Args:
        version: The version.
        repo: The folder of the repository; made where there is none.
        tables: Names of tables; all where not given.
        project: What the repository is called where it is made: letters, digits and ``_``.
        progress: Called with how many ids are written, and how many there are.

    Returns:
        What is registered: the names of the feature views, then that of the feature service.

    Raises:
        ConfigError: A table does not exist, two tables of one entity type differ in the type of their ids, or the
            version and what is in the repository do.
        VersionError: The version is registered there already, with other contents.
        MissingDependencyError: Feast is not installed.
    """
    feast = _feast()
    folder, names = local_folder(repo), table_names(version, tables)
    opened = {name: version.open(name) for name in names}
    _make_repository(folder, project)
    store = feast.FeatureStore(repo_path=str(folder))
    entities = _entities(feast, store, opened)
    known = {view.name: view for view in store.list_feature_views()}
    views: dict[str, Any] = {}  # by their own names
    for name, table in opened.items():
        view = _view(version, name, table, entity=entities[table.entity], known=known.get(_plain(name)))
        if view.name in views:
            raise ConfigError(f"table {name!r} and another would both be the feature view {view.name!r}: leave one out")
        views[view.name] = view
    tick = ticker(progress, sum(table.count for table in opened.values()))
    for name, table in opened.items():
        _write_table(folder / _FOLDER / name / f"{version.name}.parquet", version, table, tick)
    service = feast.FeatureService(
        name=f"embeddings-{version.name}",
        features=list(views.values()),
        tags={"version": version.name, "created": version.created.isoformat(), "parent": version.parent or ""},
    )
    store.apply([*entities.values(), *views.values(), service])
    return (*views, service.name)


def _feast() -> Any:
    try:
        import feast
    except ImportError as error:
        hint = "in an environment of its own: Feast wants an older pandas; `make test-feast` shows how"
        raise MissingDependencyError("feast", extra="feast", needed_for="register_feast", hint=hint) from error
    return feast


def _make_repository(folder: Path, project: str) -> None:
    if (folder / "feature_store.yaml").is_file():
        return
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", project):
        raise ConfigError(f"project is {project!r}, expected letters, digits and '_', the first no '_'")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(_YAML.format(project=project))


def _plain(name: str) -> str:
    """Return a name that is one in SQL."""
    return re.sub(r"\W", "_", name)


def _join_key(entity: str) -> str:
    return f"{_plain(entity)}_id"


def _entities(feast: Any, store: Any, tables: Mapping[str, FeatureTable]) -> dict[str, Any]:
    """Return an entity of each type; one that is registered with ids of another type is refused."""
    types: dict[str, str] = {}
    for name, table in tables.items():
        if types.setdefault(table.entity, table.id_type) != table.id_type:
            raise ConfigError(f"table {name!r} has {table.id_type} ids, others of {table.entity!r} have not")
    value = {"int64": feast.ValueType.INT64, "string": feast.ValueType.STRING}
    there = {entity.name: entity for entity in store.list_entities()}
    for entity, kind in types.items():
        if entity in there and there[entity].value_type != value[kind]:
            raise ConfigError(
                f"the entity {entity!r} is registered with ids of {there[entity].value_type.name}, not {kind}"
            )
    return {
        entity: feast.Entity(name=entity, join_keys=[_join_key(entity)], value_type=value[kind])
        for entity, kind in types.items()
    }


def _view(version: Version, name: str, table: FeatureTable, *, entity: Any, known: Any) -> Any:
    """Return the feature view of a table; ``known`` is the one that is registered, or None."""
    feast = _feast()
    fields = [feast.Field(name=_join_key(table.entity), dtype=_feast_type(id_type(table)))]
    fields += [feast.Field(name=field.name, dtype=_feast_type(field.type)) for field in _fields(table)]
    tags = _tags(version, name, table)
    if known is not None:
        for what in ("table", "entity", "kind"):
            if (came := known.tags.get(what)) != tags[what]:
                raise ConfigError(
                    f"the feature view {known.name!r} is registered with the {what} {came!r}, not {tags[what]!r}: name "
                    "the table otherwise, or register it in another repository"
                )
        if datetime.fromisoformat(known.tags["created"]) > version.created:  # an older one is added
            tags = dict(known.tags)
    source = feast.FileSource(
        name=f"{_plain(name)}_parquet",
        path=f"{_FOLDER}/{name}",
        timestamp_field="event_timestamp",
        tags={"table": name},
    )
    # A time to live of 0: vectors do not expire, the next version replaces them.
    return feast.FeatureView(
        name=_plain(name), entities=[entity], schema=fields, source=source, ttl=timedelta(0), online=True, tags=tags
    )


def _feast_type(kind: pa.DataType) -> Any:
    from feast.types import Array, Bytes, Float32, Int64, String

    plain = {pa.int64(): Int64, pa.string(): String, pa.binary(): Bytes, pa.float32(): Float32}
    return Array(plain[kind.value_type]) if pa.types.is_list(kind) else plain[kind]


def _tags(version: Version, name: str, table: FeatureTable) -> dict[str, str]:
    tags = {
        "table": name,
        "version": version.name,
        "created": version.created.isoformat(),
        "entity": table.entity,
        "kind": table.kind,
        "comparator": table.comparator,
        "dim": str(table.dim),
        "fingerprint": table.fingerprint,
    }
    if isinstance(table, PQTable):
        tags |= {"codec": table.codec, "codebook_sha256": table.codebook_sha256}
        tags["codebook"] = f"{_CODEBOOKS}/{name}/{version.name}.npy"
    return tags


def _fields(table: FeatureTable) -> list[pa.Field]:
    """Return the features of a table."""
    vectors = pa.list_(pa.float32())
    if isinstance(table, PQTable):
        own = [pa.field("codes", pa.binary())]
    elif isinstance(table, Mixture):
        own = [
            pa.field("components", pa.list_(id_type(table.components))),
            pa.field("weights", vectors),
            pa.field("vectors", vectors),
        ]
    else:
        own = [pa.field("vector", vectors), *([] if table.bias is None else [pa.field("bias", pa.float32())])]
    return [pa.field("version", pa.string()), *own]


def _write_table(path: Path, version: Version, table: FeatureTable, tick: Callable[[int], None]) -> None:
    """Write the rows of a table, unless they are there already."""
    import pyarrow.parquet as pq

    if path.is_file():
        written, wanted = (pq.read_schema(path).metadata or {}).get(_CONTENTS, b"").decode(), _contents(version, table)
        if written != wanted:
            raise VersionError(
                f"{path} holds other contents ({written[:8]}) than those of {version.name!r} ({wanted[:8]}): "
                "a version is never changed, publish it under another name"
            )
        tick(table.count)
        return
    key = pa.field(_join_key(table.entity), id_type(table))
    when = pa.field("event_timestamp", pa.timestamp("us", tz="UTC"))
    schema = pa.schema([key, when, *_fields(table)], {_CONTENTS: _contents(version, table).encode()})

    def batches() -> Iterator[pa.RecordBatch]:
        for part in blocks(table.count, block_rows(_row_bytes(table)), tick):
            ids = ids_of(table, part)
            same = [pa.repeat(pa.scalar(version.created, when.type), len(ids)), pa.repeat(version.name, len(ids))]
            yield pa.RecordBatch.from_arrays([ids, *same, *_columns(table, part)], schema=schema)

    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(table, PQTable):
        _write_codebook(path, table)
    partial = partial_path(path)
    try:
        write_batches(partial, schema, batches(), dictionaries=("event_timestamp", "version"))
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _contents(version: Version, table: FeatureTable) -> str:
    """Return a digest of all that is written of a table: its fingerprint says nothing of ids and biases."""
    parts = [version.created.isoformat(), table.fingerprint, table.ids_sha256]
    if isinstance(table, Mixture):
        parts.append(table.components.ids_sha256)
    beside = table.bias if isinstance(table, EmbeddingTable) else table.rotation if isinstance(table, PQTable) else None
    if beside is not None:
        parts.append(npy_digest(beside))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _write_codebook(path: Path, table: PQTable) -> None:
    """Write the codebook of the codes that are about to be written to ``path``; the same once more does no harm."""
    folder = path.parents[2] / Path(_CODEBOOKS).name / path.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{path.stem}.npy", table.codebook, allow_pickle=False)
    if table.rotation is not None:
        np.save(folder / f"{path.stem}.rotation.npy", table.rotation, allow_pickle=False)


def _row_bytes(table: FeatureTable) -> int:
    if isinstance(table, PQTable):
        return table.sub_quantizers
    return 4 * table.dim * (table.num_components if isinstance(table, Mixture) else 1)


def _columns(table: FeatureTable, part: slice) -> list[pa.Array]:
    """Return the columns of ``_fields`` behind the version, of some rows."""
    if isinstance(table, PQTable):
        return [binary_array(table.codes[part])]
    if isinstance(table, EmbeddingTable):
        flat = pa.array(table.vectors[part].astype(np.float32).reshape(-1))
        return [
            _ragged(flat, np.full(part.stop - part.start, table.dim)),
            *([] if table.bias is None else [pa.array(table.bias[part].astype(np.float32))]),
        ]
    held = table.component_rows[part]  # (n, C)
    there = held >= 0
    counts, rows = there.sum(axis=1), held[there]
    components = table.components
    vectors = pa.array(components.vectors[rows].astype(np.float32).reshape(-1))
    return [
        _ragged(plain_ids(components.ids_at(rows)), counts),
        _ragged(pa.array(table.weights[part][there]), counts),
        _ragged(vectors, counts * table.dim),
    ]


def _ragged(values: pa.Array, counts: NDArray[np.int64]) -> pa.Array:
    """Return lists of ``counts`` (n,) values each."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
