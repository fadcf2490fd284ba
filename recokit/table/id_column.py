"""The ids of a table, row by row, with their index: in memory, or in files that are read when first asked for.

    ids.parquet      one column ``id``, int64 or string, unique, not null; row order is vector order
    ids.index.npy    the index, where there are many ids: the first rows() maps it instead of building it

Whatever has one row for each id (vectors, codes, mixtures) holds its ids this way.
"""

__all__ = ["IdColumn", "WithIds"]

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import DataError, FormatError
from recokit.table.folder import FileEntry, load_npy, write_npy, write_parquet
from recokit.table.ids import Ids, IdType, arrow_of, id_array, id_type_of, ids_digest, ids_of_type, refuse_nulls
from recokit.table.lookup import LAYOUT, IdIndex

_IDS = "ids.parquet"
_INDEX = "ids.index.npy"
# From here on the index is saved. Building it at the first rows() takes 0.1 to 0.2 s for a million ids, and 4 s
# (integers) to 8 s (strings) for 20 million; mapping it takes a millisecond. Below, nobody notices, and 25 to 60 bytes
# an id would be spent for nothing.
_INDEXED_FROM = 1_000_000


@dataclass(frozen=True, eq=False)
class IdColumn:
    """Unique ids in row order; immutable. Made by ``of`` or ``stored``.

    Attributes:
        type: ``"int64"`` or ``"string"``.
        count: N, how many there are.
    """

    type: IdType
    count: int
    _held: pa.Array | None = None
    _built: IdIndex | None = None
    _folder: Path | None = None
    _mapped: bool = False  # the folder holds an index

    @classmethod
    def of(cls, ids: Ids, what: str = "ids") -> "IdColumn":
        """Hold ids in memory; they are indexed at once, which is how duplicates are found.

        Raises:
            DataError: An id is null, there twice, or neither integer nor string.
        """
        array = id_array(ids, what)
        refuse_nulls(array, what)
        index = IdIndex.build(array, what)
        held = array if index.strings is None else index.strings  # one copy of the strings is enough
        return cls(id_type_of(array), len(array), _held=held, _built=index)

    @classmethod
    def stored(cls, folder: Path, files: Mapping[str, FileEntry], count: int) -> "IdColumn":
        """Open the ids of a folder; no more than the footer of their file is read.

        Raises:
            FormatError: It is not a Parquet file of ``count`` rows with the one column ``id``.
        """
        return cls(_stored_type(folder / _IDS, count), count, _folder=folder, _mapped=_INDEX in files)

    @cached_property
    def ids(self) -> pa.Array:
        """The ids in row order, int64 or large_string."""
        if self._held is not None:
            return self._held
        if self._stored_index is not None and self._stored_index.strings is not None:
            return self._stored_index.strings  # mapped, where Parquet would be decoded into memory
        return _read_ids(self._path(_IDS), self.count)

    @cached_property
    def sha256(self) -> str:
        """The digest of the ids in row order; see ``ids_digest``."""
        return ids_digest(self.ids)

    @cached_property
    def index(self) -> IdIndex:
        """What finds their rows."""
        index = self._built or self._stored_index
        if index is not None:
            return index
        try:
            return IdIndex.build(self.ids)
        except DataError as error:
            raise FormatError(f"{self._path(_IDS)}: {error}") from error

    def rows(self, ids: Ids, what: str = "ids") -> NDArray[np.int64]:
        """Return the row of each id (B,), -1 where it is not there or null.

        Raises:
            DataError: The ids are of the other type, or of none.
        """
        arrow = arrow_of(ids, what)
        if isinstance(arrow, pa.DictionaryArray) and len(arrow.dictionary) < len(arrow):
            # Each distinct id once; position -1, a null, takes the -1 at the end.
            distinct = np.append(self.rows(arrow.dictionary, what), np.int64(-1))
            positions: NDArray[np.int64] = arrow.indices.cast(pa.int64()).fill_null(-1).to_numpy()
            return distinct[positions]
        asked = ids_of_type(arrow, self.type, what)
        return np.full(len(arrow), -1, np.int64) if asked is None else self.index.find(asked)

    def ids_at(self, rows: NDArray[Any], what: str = "ids") -> pa.Array:
        """Return the ids of rows (B,); a negative row gives null."""
        rows = np.asarray(rows)
        if rows.ndim != 1 or (rows.dtype.kind not in "iu" and rows.size):
            raise DataError(f"{what}: rows are {rows.dtype} {rows.shape}, expected one-dimensional integers")
        if rows.size and rows.max() >= self.count:
            raise DataError(f"{what}: row {rows.max()} is beyond the {self.count} rows")
        return self.ids.take(pa.array(rows.astype(np.int64), mask=rows < 0))

    def write(self, folder: Path) -> dict[str, FileEntry]:
        """Write the ids, and their index where it saves time, and return what a manifest says of them."""
        schema = pa.schema([pa.field("id", self.ids.type, nullable=False)])
        files = {_IDS: write_parquet(folder / _IDS, pa.table([self.ids], schema))}
        if self.count >= _INDEXED_FROM:
            files[_INDEX] = write_npy(folder / _INDEX, self.index.words)
        return files

    @cached_property
    def _stored_index(self) -> IdIndex | None:
        return _read_index(self._path(_INDEX), self.count, self.type) if self._mapped else None

    def _path(self, name: str) -> Path:
        return Path(name) if self._folder is None else self._folder / name


def _stored_type(path: Path, count: int) -> IdType:
    """Read a Parquet footer: the type of the ids, if there are ``count`` of them in one column ``id``."""
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(path)
        schema = footer.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path} is not a readable Parquet file: {error}") from error
    if schema.names != ["id"] or footer.num_rows != count:
        raise FormatError(f"{path}: columns {schema.names} of {footer.num_rows} rows, expected 'id' of {count}")
    kind = schema.field("id").type
    if pa.types.is_int64(kind):
        return "int64"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "string"
    raise FormatError(f"{path}: ids are {kind}, expected int64 or string")


def _read_ids(path: Path, count: int) -> pa.Array:
    import pyarrow.parquet as pq

    try:
        array = id_array(pq.read_table(path, columns=["id"]).column("id"))
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path} is not a readable Parquet file: {error}") from error
    if len(array) != count or array.null_count:
        raise FormatError(f"{path}: {len(array)} ids, {array.null_count} of them null, expected {count} and no null")
    return array


def _read_index(path: Path, count: int, id_type: IdType) -> IdIndex | None:
    """Map an index; one of a later layout is None, since the ids say all that it says."""
    words = load_npy(path, dtypes=("uint64",), shape=(-1,))
    if len(words) and words[0] > LAYOUT:
        return None
    index = IdIndex(words)
    if len(index) != count or (index.strings is None) != (id_type == "int64"):
        raise FormatError(f"{path} indexes {len(index)} ids, expected {count} of type {id_type}")
    return index


class WithIds:
    """What a table with one row for each id says of its ids."""

    _called: ClassVar[str]  # in messages
    entity: str
    _column: IdColumn

    @property
    def count(self) -> int:
        """N, the number of ids."""
        return self._column.count

    @property
    def id_type(self) -> IdType:
        """``"int64"`` or ``"string"``."""
        return self._column.type

    @property
    def ids(self) -> pa.Array:
        """The ids in row order, int64 or large_string; read at first use."""
        return self._column.ids

    @property
    def ids_sha256(self) -> str:
        """The digest of the ids in row order, in hexadecimal; computed at first use."""
        return self._column.sha256

    def __len__(self) -> int:
        return self.count

    def rows(self, ids: Ids) -> NDArray[np.int64]:
        """Return the row of each id (B,), -1 where it is not there or null.

        Raises:
            DataError: The ids are of the other type, or of none: integers in a table of strings, floats.
        """
        return self._column.rows(ids, f"ids looked up in the {self.entity!r} {self._called}")

    def ids_at(self, rows: NDArray[Any]) -> pa.Array:
        """Return the ids of rows (B,); a negative row gives null."""
        return self._column.ids_at(rows, f"the {self.entity!r} {self._called}")
