"""One entity type's vectors at one version: a folder that stands on its own, or arrays in memory.

    table.json       what is here: entity, version, comparator, sizes, checksums
    ids.parquet      one column ``id``, int64 or string, unique; row order is vector order
    ids.index.npy    the id index, where there are many ids: the first rows() maps it instead of building it
    vectors.npy      (N, D) float32 or float16
    bias.npy         (N,), where the model has one

Loading reads the manifest and the footer of the ids, compares sizes, and maps the vectors. Ids and index are read at
first use.

Shapes: N ids, D dimension, B batch.
"""

__all__ = ["Comparator", "EmbeddingTable", "check_comparator"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, FormatError, closest
from recokit.table.folder import (
    FileEntry,
    check_files,
    file_entries,
    json_object,
    load_npy,
    local_folder,
    manifest_value,
    new_folder,
    npy_digest,
    read_manifest,
    write_json,
    write_npy,
)
from recokit.table.id_column import IdColumn, WithIds
from recokit.table.ids import Ids, IdType

Comparator = Literal["dot", "cos", "l2", "squared_l2"]

FORMAT = "embedding-table/1"
_MANIFEST = "table.json"
_DTYPES = ("float32", "float16")
_BLOCK = 1 << 16  # rows checked at once


@dataclass(frozen=True, eq=False, repr=False)
class EmbeddingTable(WithIds):
    """Ids and vectors of one entity type at one version; immutable.

    Made by ``from_arrays``, ``from_word2vec``, ``from_csv`` or ``load``.

    Attributes:
        entity: The entity type, such as ``"item"``.
        version: The name of the version that these vectors belong to.
        comparator: What makes a score of two vectors.
        vectors: (N, D) float32 or float16, read only, memory-mapped when loaded.
        bias: (N,) float32 or float16, or None.
        meta: Whatever the producer wants known; kept as it is.
        path: The folder it was loaded from, or None.

    >>> table = EmbeddingTable.from_arrays(["a", "b"], np.eye(2, dtype=np.float32), entity="item", version="v1")
    >>> table.rows(["b", "never-seen"])
    array([ 1, -1])
    """

    entity: str
    version: str
    comparator: Comparator
    vectors: NDArray[Any]
    bias: NDArray[Any] | None
    meta: dict[str, Any]
    path: Path | None
    _column: IdColumn
    _called: ClassVar[str] = "table"
    _files: Mapping[str, FileEntry] = field(default_factory=dict)  # of the folder

    @property
    def kind(self) -> Literal["vectors"]:
        """What a version calls tables like this one."""
        return "vectors"

    @property
    def dim(self) -> int:
        """D, the length of a vector."""
        return int(self.vectors.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The vectors' dtype, float32 or float16."""
        return self.vectors.dtype

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the bytes of ``vectors.npy``, in hexadecimal."""
        entry = self._files.get("vectors.npy")
        return npy_digest(self.vectors) if entry is None else entry["sha256"]

    def __repr__(self) -> str:
        where = f", path={str(self.path)!r}" if self.path else ""
        return (
            f"EmbeddingTable(entity={self.entity!r}, version={self.version!r}, count={self.count}, dim={self.dim}, "
            f"dtype={self.dtype.name!r}, comparator={self.comparator!r}, id_type={self.id_type!r}{where})"
        )

    def __reduce__(self) -> tuple[Callable[..., "EmbeddingTable"], tuple[Any, ...]]:
        # A worker process maps the same files instead of receiving their bytes.
        if self.path is not None:
            return EmbeddingTable.load, (self.path.absolute(),)
        names = ("entity", "version", "comparator", "bias", "meta")
        make = partial(EmbeddingTable.from_arrays, **{name: getattr(self, name) for name in names})
        return make, (self.ids, self.vectors)

    def with_vectors(self, vectors: NDArray[Any]) -> "EmbeddingTable":
        """Return a table of the same ids with other vectors (N, D), such as moved ones, and without meta."""
        return EmbeddingTable.from_arrays(
            self.ids, vectors, entity=self.entity, version=self.version, comparator=self.comparator, bias=self.bias
        )

    @classmethod
    def from_arrays(
        cls,
        ids: Ids,
        vectors: NDArray[Any],
        *,
        entity: str,
        version: str,
        comparator: Comparator = "dot",
        bias: NDArray[Any] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> "EmbeddingTable":
        """Make a table of ids (N,) and vectors (N, D) float32 or float16, which are not copied: do not change them.

        Raises:
            DataError: An id is null or there twice, a vector is not finite, or shapes or types do not fit.
            ConfigError: The comparator does not exist, or a name is empty.
        """
        for what, name in (("entity", entity), ("version", version)):
            if not isinstance(name, str) or not name:
                raise ConfigError(f"{what} is {name!r}, expected a name")
        what = f"the {entity!r} table"
        column = IdColumn.of(ids, f"ids of {what}")
        vectors = _checked(vectors, (column.count, -1), column.ids, f"vectors of {what}")
        if bias is not None:
            bias = _checked(bias, (column.count,), column.ids, f"bias of {what}")
        return cls(
            entity=entity,
            version=version,
            comparator=check_comparator(comparator),
            vectors=vectors,
            bias=bias,
            meta=json_object(meta or {}, f"meta of {what}"),
            path=None,
            _column=column,
        )

    @classmethod
    def from_word2vec(
        cls,
        path: str | Path,
        *,
        entity: str,
        version: str,
        comparator: Comparator = "cos",
        id_type: IdType = "string",
    ) -> "EmbeddingTable":
        """Read word2vec's text format: a line an id, its numbers behind it; with or without a first ``count dim``."""
        from recokit.table.imports import read_word2vec

        ids, vectors = read_word2vec(path, id_type=id_type)
        return cls.from_arrays(ids, vectors, entity=entity, version=version, comparator=comparator)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        entity: str,
        version: str,
        id_column: str = "id",
        columns: list[str] | None = None,
        id_type: IdType | None = None,
        separator: str = ",",
        comparator: Comparator = "dot",
    ) -> "EmbeddingTable":
        """Read a CSV file with a header, an id column, and a column for each dimension.

        Args:
            path: The file; ``.gz`` and its like are decompressed.
            entity: The entity type.
            version: The version's name.
            id_column: The column of the ids.
            columns: The columns of the vectors, in order; all but the id column where not given.
            id_type: Without it, ids are integers where all are written as such, and strings where one is not: ``007``.
            separator: What stands between fields.
            comparator: What makes a score of two vectors.
        """
        from recokit.table.imports import read_csv

        ids, vectors = read_csv(path, id_column=id_column, columns=columns, id_type=id_type, separator=separator)
        return cls.from_arrays(ids, vectors, entity=entity, version=version, comparator=comparator)

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = False) -> "EmbeddingTable":
        """Open a folder; vectors are memory-mapped, ids are read at first use.

        Args:
            path: The folder.
            verify: Read every file and compare its SHA-256. Sizes are always compared.

        Raises:
            FormatError: The folder is no table, damaged, or of a format that this release does not read.
            ChecksumError: With ``verify``, a file's bytes have changed.
        """
        folder = local_folder(path)
        manifest = read_manifest(folder, _MANIFEST, FORMAT)
        files = file_entries(folder, manifest, _MANIFEST, required=("ids.parquet", "vectors.npy"))
        check_files(folder, files, verify=verify)
        value = partial(manifest_value, folder / _MANIFEST, manifest)
        count, dim, dtype = value("count", int), value("dim", int), value("dtype", str)
        if not dim or dtype not in _DTYPES or value("comparator", str) not in get_args(Comparator):
            fields = f"dim {dim}, dtype {dtype!r}, comparator {manifest['comparator']!r}"
            raise FormatError(f"{folder / _MANIFEST}: {fields}: one of these does not exist in {FORMAT}")
        return cls(
            entity=value("entity", str),
            version=value("version", str),
            comparator=manifest["comparator"],
            vectors=load_npy(folder / "vectors.npy", dtypes=(dtype,), shape=(count, dim)),
            bias=load_npy(folder / "bias.npy", dtypes=_DTYPES, shape=(count,)) if "bias.npy" in files else None,
            meta=value("meta", dict),
            path=folder,
            _column=IdColumn.stored(folder, files, count),
            _files=files,
        )

    def save(self, path: str | Path) -> Path:
        """Write the table as a folder, which appears whole or not at all.

        Raises:
            VersionError: ``path`` exists.
        """
        target = local_folder(path)
        with new_folder(target) as folder:
            files = self._column.write(folder)
            files["vectors.npy"] = write_npy(folder / "vectors.npy", self.vectors)
            if self.bias is not None:
                files["bias.npy"] = write_npy(folder / "bias.npy", self.bias)
            manifest = {
                "format": FORMAT,
                "entity": self.entity,
                "count": self.count,
                "dim": self.dim,
                "dtype": self.dtype.name,
                "version": self.version,
                "comparator": self.comparator,
                "files": files,
                "meta": self.meta,
            }
            write_json(folder / _MANIFEST, manifest)
        return target


def check_comparator(comparator: str) -> Comparator:
    """Return a comparator that exists."""
    if comparator not in get_args(Comparator):
        raise ConfigError(f"comparator {comparator!r} does not exist; {closest(str(comparator), get_args(Comparator))}")
    return comparator  # type: ignore[return-value]


def _checked(values: NDArray[Any], shape: tuple[int, ...], ids: pa.Array, what: str) -> NDArray[Any]:
    """Return a read-only view of an array with this shape (-1 stands for any size), if it is finite."""
    array = np.asarray(values)
    if array.ndim != len(shape) or array.shape[0] != shape[0] or 0 in array.shape[1:]:
        raise DataError(f"{what}: shape {array.shape}, expected {str(shape).replace('-1', 'dim')}, as there are ids")
    if array.dtype.name not in _DTYPES:
        hint = "; .astype(numpy.float32) loses nothing that matters" if array.dtype.kind == "f" else ""
        raise DataError(f"{what}: dtype {array.dtype.name}, expected float32 or float16{hint}")
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view()
    array.flags.writeable = False
    starts = range(0, len(array), _BLOCK)
    bad = [start + np.flatnonzero(_not_finite(array[start : start + _BLOCK])) for start in starts]
    if count := sum(map(len, bad)):
        first = int(np.concatenate(bad)[0])
        raise DataError(
            f"{what}: NaN or infinity in {count} of {len(array)} rows, the first is row {first}, "
            f"id {ids[first].as_py()!r}"
        )
    return array


def _not_finite(block: NDArray[Any]) -> NDArray[np.bool_]:
    """Say which rows hold a NaN or an infinity."""
    bad: NDArray[np.bool_] = (~np.isfinite(block)).reshape(len(block), -1).any(axis=1)
    return bad
