"""Mixtures: several weighted vectors for one entity, as rows of a table of components.

    table.json       what is here: entity, version, the name and the checksum of the table of components
    ids.parquet      one column ``id``, int64 or string, unique
    rows.npy         (N, C) int64, rows of the table of components; -1 where an entity has fewer
    weights.npy      (N, C) float32, summing to 1 for each entity; 0 where the row is -1
    <components>/    the table of components, unless a table of that name stands beside the mixture

Trained mixtures have components of their own, those of TwHIN (El-Kishky et al. 2022, 4.4) share the centroids of item
clusters: both are weighted rows of a table.

Shapes: N entities, C components of an entity, D dimension, B batch.
"""

__all__ = ["FeatureTable", "Mixture", "as_vectors", "load_table", "vectors_or_mixture"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, FormatError, VersionError
from recokit.table.codes import FORMAT as CODES_FORMAT
from recokit.table.codes import PQTable, joined_digests
from recokit.table.folder import (
    check_files,
    check_name,
    entries_within,
    file_entries,
    json_object,
    load_npy,
    local_folder,
    manifest_value,
    new_folder,
    npy_digest,
    read_json,
    read_manifest,
    write_json,
    write_npy,
)
from recokit.table.id_column import IdColumn, WithIds
from recokit.table.ids import Ids, IdType
from recokit.table.vectors import Comparator, EmbeddingTable

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from recokit.frame.reading import Source
    from recokit.mixture import InterestClusters, Smoothing

FORMAT = "mixture-table/1"
_MANIFEST = "table.json"


@dataclass(frozen=True, eq=False, repr=False)
class Mixture(WithIds):
    """Weighted rows of a table of components for each entity of a type; immutable.

    Made by ``from_components``, ``from_rows``, ``from_engagement`` or ``load``.

    Attributes:
        entity: The entity type, such as ``"user"``.
        version: The name of the version that it belongs to, that of its components.
        components: The table of the components' vectors.
        components_name: What that table is called in a version.
        component_rows: (N, C) int64, rows of ``components``, -1 where an entity has fewer than C.
        weights: (N, C) float32, at least 0, summing to 1 for each entity.
        meta: Whatever the producer wants known; kept as it is.
        path: The folder it was loaded from, or None.

    >>> vectors = np.array([[[1, 0], [0, 1]]], dtype=np.float32)
    >>> mixture = Mixture.from_components(["u1"], vectors, np.array([[3.0, 1.0]]), entity="user", version="v1")
    >>> mixture.weights
    array([[0.75, 0.25]], dtype=float32)
    """

    entity: str
    version: str
    components: EmbeddingTable
    components_name: str
    component_rows: NDArray[np.int64]
    weights: NDArray[np.float32]
    meta: dict[str, Any]
    path: Path | None
    _column: IdColumn
    _called: ClassVar[str] = "mixture"
    _fingerprint: str | None = None

    @property
    def kind(self) -> Literal["mixture"]:
        """What a version calls tables like this one."""
        return "mixture"

    @property
    def num_components(self) -> int:
        """C, the most components that an entity has."""
        return int(self.component_rows.shape[1])

    @property
    def dim(self) -> int:
        """D, the length of a component's vector."""
        return self.components.dim

    @property
    def comparator(self) -> Comparator:
        """What makes a score of a component and another vector."""
        return self.components.comparator

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the digests of rows, weights and the components' vectors, in hexadecimal."""
        if self._fingerprint is not None:
            return self._fingerprint
        return joined_digests(npy_digest(self.component_rows), npy_digest(self.weights), self.components.fingerprint)

    def __repr__(self) -> str:
        return (
            f"Mixture({self.count:,} {self.entity!r} of version {self.version!r}, up to {self.num_components} of "
            f"{self.components.count:,} components of dim {self.dim}, {self.comparator})"
        )

    def __reduce__(self) -> tuple[Callable[..., "Mixture"], tuple[Any, ...]]:
        # A worker process maps the same files instead of receiving their bytes.
        if self.path is not None and _places_of_components(self.path, self.components_name):
            return Mixture.load, (self.path.absolute(),)
        make = partial(
            Mixture.from_rows,
            components=self.components,
            entity=self.entity,
            name=self.components_name,
            meta=self.meta,
        )
        return make, (self.ids, self.component_rows, self.weights)

    def vectors_at(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Return the components' vectors (B, C, D) float32 of rows (B,); zeros for row -1, or where there are fewer."""
        rows = np.asarray(rows)
        if rows.size and (rows.min() < -1 or rows.max() >= self.count):
            raise DataError(f"rows run from {rows.min()} to {rows.max()}, expected -1 to {self.count - 1}")
        at = np.full((len(rows), self.num_components), -1)  # (B, C)
        at[rows >= 0] = self.component_rows[rows[rows >= 0]]
        vectors: NDArray[np.float32] = self.components.vectors[np.maximum(at, 0)].astype(np.float32)
        vectors[at < 0] = 0.0
        return vectors

    @classmethod
    def from_components(
        cls,
        ids: Ids,
        vectors: NDArray[Any],
        weights: NDArray[Any] | None = None,
        *,
        entity: str,
        version: str,
        comparator: Comparator = "cos",
        bias: NDArray[Any] | None = None,
        name: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> "Mixture":
        """Make a mixture of components that belong to one entity each.

        Args:
            ids: N ids, unique.
            vectors: (N, C, D) float32 or float16.
            weights: (N, C) of at least 0, in any proportion; equal ones where not given, or where all of an entity's
                are 0.
            entity: The entity type.
            version: The version's name.
            comparator: What makes a score of a component and another vector.
            bias: (N, C) of the components, or None.
            name: What a version calls the table of components; ``<entity>-components`` where not given.
            meta: What should be known; JSON.

        Raises:
            DataError: Shapes do not fit, or a number is negative or not finite where it must not be.
        """
        vectors = np.asarray(vectors)
        if vectors.ndim != 3 or 0 in vectors.shape[1:]:
            raise DataError(f"components of {entity!r}: shape {vectors.shape}, expected (ids, components, dim)")
        count, num_components, dim = vectors.shape
        components = EmbeddingTable.from_arrays(
            np.arange(count * num_components),
            vectors.reshape(count * num_components, dim),
            entity=f"{entity}-component",
            version=version,
            comparator=comparator,
            bias=None if bias is None else np.asarray(bias).reshape(-1),
        )
        rows = np.arange(count * num_components).reshape(count, num_components)
        return cls.from_rows(ids, rows, weights, components=components, entity=entity, name=name, meta=meta)

    @classmethod
    def from_rows(
        cls,
        ids: Ids,
        rows: NDArray[Any],
        weights: NDArray[Any] | None = None,
        *,
        components: EmbeddingTable,
        entity: str,
        name: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> "Mixture":
        """Make a mixture of rows of a table, which entities may share.

        Args:
            ids: N ids, unique.
            rows: (N, C) rows of ``components``, -1 where an entity has fewer than C, but at least one.
            weights: (N, C) of at least 0, in any proportion; see ``from_components``.
            components: The table, whose version is the mixture's.
            entity: The entity type.
            name: What a version calls ``components``; ``<entity>-components`` where not given.
            meta: What should be known; JSON.

        Raises:
            DataError: An id is null or there twice, an entity has no component or a row that the table lacks, or
                weights do not fit.
        """
        what = f"the {entity!r} mixture"
        column = IdColumn.of(ids, f"ids of {what}")
        rows = _checked_rows(np.asarray(rows), column.count, components, what)
        kept = _normalized(rows, weights, what)
        for array in (rows, kept):
            array.flags.writeable = False
        return cls(
            entity=entity,
            version=components.version,
            components=components,
            components_name=check_name(name or f"{entity}-components", "the name of the table of components"),
            component_rows=rows,
            weights=kept,
            meta=json_object(meta or {}, f"meta of {what}"),
            path=None,
            _column=column,
        )

    @classmethod
    def from_engagement(
        cls,
        log: "Source",
        items: EmbeddingTable,
        clusters: "int | InterestClusters" = 1000,
        *,
        top: int = 5,
        vectors: Literal["centroid", "medoid"] = "centroid",
        columns: Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
        half_life: "float | str | timedelta | None" = None,
        now: "float | str | datetime | None" = None,
        smoothing: "Smoothing | None" = None,
        entity: str = "user",
        id_type: IdType | None = None,
        relation: str | None = None,
        seed: int = 0,
        iterations: int = 25,
        threads: int | None = None,
    ) -> "Mixture":
        """Make a mixture of each source's most engaged clusters of items (TwHIN, El-Kishky et al. 2022, 4.4, Eq. 3).

        Items are clustered by k-means, and a source's mixture is the share of its engagement that went to its ``top``
        clusters. Nothing is trained: any source with a log has one. ``recokit.mixture`` has the parts of this, such as
        clusters that are fitted once and used for every new log.

        Args:
            log: Interactions: a frame, a Parquet or CSV file, or several; columns source, target[, weight][, time].
                Those with items that are not in ``items`` are passed over; a source without any other gets no row.
                ``meta`` counts both.
            items: The vectors of the log's targets.
            clusters: How many clusters of items, or clusters that were fitted before.
            top: How many clusters a mixture keeps.
            vectors: What stands for a cluster: its centroid, or its medoid, which is a real item.
            columns: What the log calls its columns, where that is something else: ``{"source": "user_id"}``.
            weights: What an interaction weighs by the content of the column weight, which then names its type.
            half_life: An interaction counts half as much with every half-life that it is older: a number in the unit of
                the column time (seconds, where that holds times), or a duration such as ``"30d"``.
            now: The time at which this is asked: a log that knows what comes later is refused.
            smoothing: Lean on the nearest users before the top clusters are kept (kNN-Embed).
            entity: The entity type of the sources.
            id_type: What the ids of the sources have to be; what they are, where not given.
            relation: The relation that the log holds edges of: a sketch of them is kept in ``meta``.
            seed: Of k-means; same seed, same bytes. This and what follows say nothing where clusters are given.
            iterations: Of k-means.
            threads: Of k-means; None for all that this process may use.

        Returns:
            A mixture whose components are the clusters' vectors, each named by its medoid, ids in ascending order.

        Raises:
            ConfigError: A setting is out of range, or there are fewer items than clusters.
            DataError: The log is not one, or an interaction is later than ``now``.
            VersionError: The clusters are of another version than the items.
            MissingDependencyError: Clusters have to be fitted, and faiss is not installed.
        """
        from recokit.mixture import InterestClusters

        if not isinstance(clusters, InterestClusters):
            clusters = InterestClusters.fit(items, clusters, seed=seed, iterations=iterations, threads=threads)
        return clusters.transform(
            log,
            items,
            top=top,
            vectors=vectors,
            columns=columns,
            weights=weights,
            half_life=half_life,
            now=now,
            smoothing=smoothing,
            entity=entity,
            id_type=id_type,
            relation=relation,
        )

    @classmethod
    def load(cls, path: str | Path, *, components: EmbeddingTable | None = None, verify: bool = False) -> "Mixture":
        """Open a folder; rows, weights and vectors are memory-mapped, ids are read at first use.

        Args:
            path: The folder.
            components: The table of components, where it is open already; else it is found in the folder or beside it.
            verify: Read every file and compare its SHA-256. Sizes are always compared.

        Raises:
            FormatError: The folder is no mixture, damaged, or its components are nowhere.
            VersionError: The table of components is not the one that it was made of.
            ChecksumError: With ``verify``, a file's bytes have changed.
        """
        folder = local_folder(path)
        manifest = read_manifest(folder, _MANIFEST, FORMAT)
        files = file_entries(folder, manifest, _MANIFEST, required=("ids.parquet", "rows.npy", "weights.npy"))
        check_files(folder, files, verify=verify)
        value = partial(manifest_value, folder / _MANIFEST, manifest)
        shape = (value("count", int), value("num_components", int))
        name = value("components", str)
        if components is None:
            components = EmbeddingTable.load(_find_components(folder, name), verify=verify)
        if (components.fingerprint, components.version) != (value("components_sha256", str), value("version", str)):
            raise VersionError(
                f"{folder} is made of other components than those of the table {name!r} of version "
                f"{components.version!r}: take the table of version {manifest['version']!r} that was written with it"
            )
        return cls(
            entity=value("entity", str),
            version=manifest["version"],
            components=components,
            components_name=name,
            component_rows=load_npy(folder / "rows.npy", dtypes=("int64",), shape=shape),
            weights=load_npy(folder / "weights.npy", dtypes=("float32",), shape=shape),
            meta=value("meta", dict),
            path=folder,
            _column=IdColumn.stored(folder, files, shape[0]),
            _fingerprint=joined_digests(
                files["rows.npy"]["sha256"], files["weights.npy"]["sha256"], components.fingerprint
            ),
        )

    def save(self, path: str | Path) -> Path:
        """Write the mixture as a folder, which appears whole or not at all.

        Its components are referred to where the same table stands beside ``path`` under their name, as in a version;
        else they are written into the folder.

        Raises:
            VersionError: ``path`` exists.
        """
        target = local_folder(path)
        with new_folder(target) as folder:
            files = self._column.write(folder)
            files["rows.npy"] = write_npy(folder / "rows.npy", self.component_rows)
            files["weights.npy"] = write_npy(folder / "weights.npy", self.weights)
            if not _is_table(target.parent / self.components_name, self.components):
                inside = self.components.save(folder / self.components_name)
                files |= entries_within(folder, self.components_name, read_json(inside / _MANIFEST))
            manifest = {
                "format": FORMAT,
                "entity": self.entity,
                "count": self.count,
                "num_components": self.num_components,
                "dim": self.dim,
                "version": self.version,
                "comparator": self.comparator,
                "components": self.components_name,
                "components_sha256": self.components.fingerprint,
                "files": files,
                "meta": self.meta,
            }
            write_json(folder / _MANIFEST, manifest)
        return target


FeatureTable: TypeAlias = EmbeddingTable | PQTable | Mixture


def as_vectors(table: FeatureTable, what: str) -> EmbeddingTable:
    """Return a table if it holds one vector for each id; ``what`` it is wanted for says the ConfigError otherwise."""
    table = vectors_or_mixture(table, what)
    if isinstance(table, Mixture):
        raise ConfigError(f"{what}: {table!r} is a mixture, expected a table of vectors, such as its components")
    return table


def vectors_or_mixture(table: FeatureTable, what: str) -> EmbeddingTable | Mixture:
    """Return a table if it holds vectors, not codes; ``what`` it is wanted for says the ConfigError otherwise."""
    if isinstance(table, PQTable):
        raise ConfigError(f"{what}: {table!r} holds codes, expected vectors, such as those that they were made of")
    return table


def load_table(path: str | Path, *, verify: bool = False) -> FeatureTable:
    """Open a table's folder, of vectors, codes or mixtures, as its ``table.json`` says.

    Raises:
        FormatError: The folder is no table, damaged, or of a format that this release does not read.
        ChecksumError: With ``verify``, a file's bytes have changed; without, the codebook of codes.
    """
    try:
        content = read_json(local_folder(path) / _MANIFEST)
    except (OSError, FormatError):
        content = None  # what is wrong with it is for the reader of tables to say
    found = content.get("format") if isinstance(content, dict) else None
    if found == FORMAT:
        return Mixture.load(path, verify=verify)
    return PQTable.load(path, verify=verify) if found == CODES_FORMAT else EmbeddingTable.load(path, verify=verify)


def _checked_rows(rows: NDArray[Any], count: int, components: EmbeddingTable, what: str) -> NDArray[np.int64]:
    if rows.ndim != 2 or rows.shape[0] != count or not rows.shape[1]:
        raise DataError(f"rows of {what}: shape {rows.shape}, expected ({count}, components)")
    if rows.dtype.kind not in "iu":
        raise DataError(f"rows of {what}: dtype {rows.dtype.name}, expected integers")
    if rows.size and (rows.min() < -1 or rows.max() >= components.count):
        raise DataError(f"rows of {what} run from {rows.min()} to {rows.max()}, expected -1 to {components.count - 1}")
    rows = np.array(rows, np.int64)
    if (empty := np.flatnonzero((rows < 0).all(axis=1))).size:
        raise DataError(f"{what}: {empty.size} of {count} entities have no component, the first is number {empty[0]}")
    return rows


def _normalized(rows: NDArray[np.int64], weights: NDArray[Any] | None, what: str) -> NDArray[np.float32]:
    """Return weights that sum to 1 over the components that are there."""
    there = rows >= 0
    given = there.astype(np.float64) if weights is None else np.array(weights, np.float64)
    if given.shape != rows.shape:
        raise DataError(f"weights of {what}: shape {given.shape}, expected {rows.shape}, that of the rows")
    if (bad := np.flatnonzero(~((given >= 0) & (given < np.inf)).all(axis=1))).size:
        raise DataError(
            f"weights of {what}: {bad.size} of {len(rows)} entities have some that are no number of 0 or more, the "
            f"first is number {bad[0]}"
        )
    given[~there] = 0.0
    largest = given.max(axis=1, initial=0.0)
    given = np.where(largest[:, None] > 0, given / np.where(largest > 0, largest, 1)[:, None], there)
    normalized: NDArray[np.float32] = (given / given.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalized


def _is_table(folder: Path, table: EmbeddingTable) -> bool:
    """Whether a folder holds this very table."""
    try:
        manifest = read_json(folder / _MANIFEST)
        written = (manifest["files"]["vectors.npy"]["sha256"], manifest["version"], manifest["count"])
    except (OSError, FormatError, KeyError, TypeError):
        return False
    return bool(written == (table.fingerprint, table.version, table.count))


def _find_components(folder: Path, name: str) -> Path:
    try:
        check_name(name, f"{folder / _MANIFEST}: 'components'")
    except ConfigError as error:  # what a file says is no setting
        raise FormatError(str(error)) from error
    for place in _places_of_components(folder, name):
        return place
    raise FormatError(f"{folder} is made of rows of a table {name!r}, which is neither in the folder nor beside it")


def _places_of_components(folder: Path, name: str) -> list[Path]:
    """Return where a table of components is, the first to be taken: in the folder of the mixture, or beside it."""
    return [place for place in (folder / name, folder.parent / name) if (place / _MANIFEST).is_file()]
