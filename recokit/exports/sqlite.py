"""A version as one SQLite file that answers nearest-neighbour queries, through the extension sqlite-vec.

    recokit_version    name, created, parent, meta
    recokit_tables     name, entity, kind, count, dim, ids, comparator, fingerprint, space
    user               vec0: id, vector. SELECT id, distance FROM user WHERE vector MATCH ? AND k = 10
    item-pq            id, codes (BLOB); item-pq.codebook: sub_quantizer, code, centroid; with opq, item-pq.rotation
    interests          id, component, weight, component_id, vector (BLOB)

Decisions:
- cos is the extension's cosine metric, l2 and squared_l2 its L2. It has no dot product: those vectors are lifted, by
  one number each, to where L2 has the order of the dot product (Bachrach et al. 2014; ``recokit.index.lift``), and so
  are queries, by ``SqliteSpace.query``. The first ``dim`` numbers of such a row are the vector as it was.
- A zero vector has no cosine, and the extension takes its distance, NULL, for the smallest: tables that hold one are
  lifted too, so that its score is 0 as everywhere in recokit. So are tables with vectors whose squares float32 cannot
  hold. Such rows are brought to length 1 first, as queries of cosines are.
- The extension compares all rows, in float32: where scores lie closer together than that tells apart, their order is
  its own.
- apsw and not Python's own module, many builds of which load no extensions.
"""

__all__ = ["SqliteSpace", "export_sqlite"]

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, MissingDependencyError, VersionError
from recokit.exports.rows import block_rows, blocks, table_names, ticker
from recokit.table import Comparator, EmbeddingTable, FeatureTable, Mixture, PQTable, Version
from recokit.table.folder import local_folder, partial_path

_CREATE = """
CREATE TABLE recokit_version (name TEXT, created TEXT, parent TEXT, meta TEXT);
CREATE TABLE recokit_tables (name TEXT PRIMARY KEY, entity TEXT, kind TEXT, count INTEGER, dim INTEGER, ids TEXT,
                             comparator TEXT, fingerprint TEXT, space TEXT);
"""
_MAX_DIM = 8192  # of sqlite-vec
_SQUARES = (1e-30, 1e36)  # of vectors of which it has a cosine: float32 has digits enough for their squares


@dataclass(frozen=True)
class SqliteSpace:
    """How a table's vectors lie in its file: what a query has to become, and what a distance says.

    Kept as JSON in the column ``space`` of ``recokit_tables``; ``SqliteSpace(**json.loads(text))`` reads it.

    Attributes:
        comparator: What makes a score of two vectors.
        metric: ``"cosine"`` or ``"l2"``, the extension's.
        dim: D, the length of a query.
        width: The length of a row: D, and one more for a bias, and for what makes rows equally long.
        bound: B, the length that lifted rows have; 0 where none are.
        biased: Whether a bias is among the numbers of a row.
    """

    comparator: Comparator
    metric: Literal["cosine", "l2"]
    dim: int
    width: int
    bound: float = 0.0
    biased: bool = False

    def query(self, vector: NDArray[Any]) -> bytes:
        """Return what ``MATCH`` takes for a query vector (D,).

        Raises:
            DataError: It is of another length, or its numbers are not finite; or all are zero, where that has no order.
        """
        vector = np.asarray(vector, np.float32)
        if vector.shape != (self.dim,) or not np.isfinite(vector).all():
            raise DataError(f"a query of shape {vector.shape}, expected {self.dim} finite numbers")
        if self.comparator == "cos" and not vector.any():
            raise DataError("a query of zeros has no cosine with anything")
        row = np.zeros(self.width, np.float32)
        row[: self.dim] = vector
        return self._lifted(row).tobytes()

    def score(self, vector: NDArray[Any], distance: float) -> float:
        """Return the score of a query (D,) and a row at that distance from it; higher is better, as everywhere."""
        if self.metric == "cosine":
            return 1.0 - distance
        if self.comparator in ("l2", "squared_l2"):
            return -distance if self.comparator == "l2" else -(distance**2)
        if not self.bound:  # rows of zeros
            return 0.0
        # |row - query|^2 = 2 B^2 - 2 B (q . x) / |q|
        of_unit = (2 * self.bound**2 - distance**2) / (2 * self.bound)
        return of_unit if self.comparator == "cos" else of_unit * self._norm(np.asarray(vector, np.float64))

    def _lifted(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        length = 1.0 if self.metric == "cosine" else self.bound
        if not length:
            return row
        row[self.dim : self.dim + self.biased] = 1.0
        norm = float(np.sqrt(np.square(row, dtype=np.float64).sum()))
        return (row.astype(np.float64) * (length / norm if norm else 0.0)).astype(np.float32)

    def _norm(self, vector: NDArray[np.float64]) -> float:
        return float(np.sqrt(np.square(vector).sum() + self.biased))


def export_sqlite(
    version: Version,
    path: str | Path,
    *,
    tables: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the tables of a version as one SQLite file, which appears whole or not at all.

    Args:
        version: The version.
        path: The file to make, such as ``"2026-06-01.db"``.
        tables: Names of tables; all where not given.
        progress: Called with how many ids are written, and how many there are.

    Raises:
        ConfigError: A table does not exist, or cannot stand in SQLite under its name or with its dimension.
        VersionError: ``path`` exists.
        MissingDependencyError: apsw or sqlite-vec is not installed.
    """
    apsw, loadable = _extension()
    target = local_folder(path)
    _refuse_existing(target)
    opened = {name: version.open(name) for name in table_names(version, tables)}
    tick = ticker(progress, sum(table.count for table in opened.values()))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(target)
    try:
        connection = apsw.Connection(str(partial))
        try:
            connection.enable_load_extension(True)
            connection.load_extension(loadable)
            connection.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")  # nobody sees half of it
            with connection:
                _write(connection, version, opened, tick, apsw.Error)
        finally:
            connection.close()
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        _refuse_existing(target)  # somebody else may have been quicker
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return target


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise VersionError(f"{target} exists already, and what is written is never changed: choose another name")


def _extension() -> tuple[Any, str]:
    """Return the module apsw and the path of the extension."""
    try:
        import apsw
        import sqlite_vec
    except ImportError as error:
        package = str(error.name or "sqlite_vec")
        raise MissingDependencyError(package, extra="sqlite", needed_for="an export to SQLite") from error
    return apsw, str(sqlite_vec.loadable_path())


def _write(
    connection: Any,
    version: Version,
    tables: dict[str, FeatureTable],
    tick: Callable[[int], None],
    refused: type[Exception],
) -> None:
    connection.execute(_CREATE)
    meta = json.dumps(dict(version.meta), ensure_ascii=False)
    said = (version.name, version.created.isoformat().replace("+00:00", "Z"), version.parent, meta)
    connection.execute("INSERT INTO recokit_version VALUES (?, ?, ?, ?)", said)
    for name, table in tables.items():
        try:
            space = _write_table(connection, name, table, tick)
        except refused as error:
            raise ConfigError(f"table {name!r} of version {version.name!r} cannot be exported: {error}") from error
        row = (name, table.entity, table.kind, table.count, table.dim, table.id_type, table.comparator)
        row += (table.fingerprint, space)  # type: ignore[assignment]
        connection.execute("INSERT INTO recokit_tables VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def _write_table(connection: Any, name: str, table: FeatureTable, tick: Callable[[int], None]) -> str | None:
    """Write one table, and return its space as JSON where it is searched."""
    if isinstance(table, PQTable):
        _write_codes(connection, name, table, tick)
        return None
    if isinstance(table, Mixture):
        _write_mixture(connection, name, table, tick)
        return None
    return json.dumps(asdict(_write_vectors(connection, name, table, tick)))


def _write_vectors(connection: Any, name: str, table: EmbeddingTable, tick: Callable[[int], None]) -> SqliteSpace:
    from recokit.index.lift import Lift

    lift = Lift.of(table)
    as_they_are = table.comparator in ("l2", "squared_l2") or (table.comparator == "cos" and _has_cosines(table))
    metric: Literal["cosine", "l2"] = "cosine" if table.comparator == "cos" and as_they_are else "l2"
    width, bound = (table.dim, 0.0) if as_they_are else (lift.dim, lift.bound)
    if width > _MAX_DIM:
        raise ConfigError(f"table {name!r} has vectors of {width} numbers, sqlite-vec takes {_MAX_DIM}")
    key = f"id {_sql_type(table)} PRIMARY KEY"
    connection.execute(
        f"CREATE VIRTUAL TABLE {_quoted(name)} USING vec0({key}, vector float[{width}] distance_metric={metric})"
    )

    def rows() -> Iterator[tuple[Any, bytes]]:
        for part in blocks(table.count, block_rows(4 * width), tick):
            x = table.vectors[part].astype(np.float32, copy=False) if as_they_are else lift.rows(part)
            yield from zip(_ids(table, part), map(np.ndarray.tobytes, x), strict=True)

    connection.executemany(f"INSERT INTO {_quoted(name)}(id, vector) VALUES (?, ?)", rows())
    return SqliteSpace(table.comparator, metric, table.dim, width, bound, table.bias is not None)


def _has_cosines(table: EmbeddingTable) -> bool:
    """Whether the extension, which squares in float32, has a cosine of every vector."""
    for part in blocks(table.count, block_rows(8 * table.dim), lambda _: None):
        squares = np.square(table.vectors[part], dtype=np.float64).sum(axis=1)
        if not ((squares > _SQUARES[0]) & (squares < _SQUARES[1])).all():
            return False
    return True


def _write_codes(connection: Any, name: str, table: PQTable, tick: Callable[[int], None]) -> None:
    def rows() -> Iterator[tuple[Any, bytes]]:
        for part in blocks(table.count, block_rows(table.sub_quantizers), tick):
            yield from zip(_ids(table, part), map(np.ndarray.tobytes, table.codes[part]), strict=True)

    _fill(connection, name, f"id {_sql_type(table)} PRIMARY KEY, codes BLOB", 2, rows())
    centroids = (
        (part, code, centroid.tobytes())
        for part, book in enumerate(table.codebook)
        for code, centroid in enumerate(book)
    )
    _fill(connection, f"{name}.codebook", "sub_quantizer INTEGER, code INTEGER, centroid BLOB", 3, centroids)
    if table.rotation is not None:
        rotation = ((row, vector.tobytes()) for row, vector in enumerate(table.rotation))
        _fill(connection, f"{name}.rotation", "row INTEGER PRIMARY KEY, vector BLOB", 2, rotation)


def _write_mixture(connection: Any, name: str, table: Mixture, tick: Callable[[int], None]) -> None:
    components = table.components

    def rows() -> Iterator[tuple[Any, ...]]:
        for part in blocks(table.count, block_rows(4 * table.dim * table.num_components), tick):
            ids, held, weights = _ids(table, part), table.component_rows[part], table.weights[part]
            entity, position = np.nonzero(held >= 0)
            at = held[entity, position]
            vectors = components.vectors[at].astype(np.float32, copy=False)
            yield from zip(
                (ids[number] for number in entity),
                position.tolist(),
                weights[entity, position].tolist(),
                components.ids_at(at).to_pylist(),
                map(np.ndarray.tobytes, vectors),
                strict=True,
            )

    columns = (
        f"id {_sql_type(table)}, component INTEGER, weight REAL, component_id {_sql_type(components)}, vector BLOB, "
        "PRIMARY KEY (id, component)"
    )
    _fill(connection, name, columns, 5, rows())


def _fill(connection: Any, name: str, columns: str, count: int, rows: Iterator[tuple[Any, ...]]) -> None:
    connection.execute(f"CREATE TABLE {_quoted(name)} ({columns})")
    connection.executemany(f"INSERT INTO {_quoted(name)} VALUES ({', '.join('?' * count)})", rows)


def _ids(table: FeatureTable, part: slice) -> list[Any]:
    ids: list[Any] = table.ids.slice(part.start, part.stop - part.start).to_pylist()
    return ids


def _sql_type(table: FeatureTable) -> str:
    return "INTEGER" if table.id_type == "int64" else "TEXT"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
