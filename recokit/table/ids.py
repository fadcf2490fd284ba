"""Ids: int64 or strings, however they are held, as one Arrow array."""

__all__ = ["IdType", "Ids", "arrow_of", "id_array", "id_type_of", "ids_digest", "ids_of_type", "refuse_nulls"]

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recokit.errors import DataError

Ids: TypeAlias = (
    "Sequence[int] | Sequence[str] | NDArray[Any] | pa.Array | pa.ChunkedArray | pd.Series[Any] | pd.Index[Any]"
)
IdType = Literal["int64", "string"]

_DIGESTED = 1 << 16  # ids hashed at once


def id_array(ids: Ids, what: str = "ids") -> pa.Array:
    """Return ids as one Arrow array of int64 or large_string; nulls stay nulls.

    Args:
        ids: A sequence of ``int`` or ``str``, a NumPy array, a pandas series or index, or any Arrow array of integers
            or strings (dictionary, view and chunked ones too).
        what: What they are, for messages.

    Raises:
        DataError: They are something else: floats, booleans, bytes, a mixture, or integers beyond int64.
    """
    array = arrow_of(ids, what)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    kind = array.type
    if str(kind) in ("string", "large_string", "string_view"):
        array = array.cast(pa.large_string())
    elif pa.types.is_integer(kind):
        array = _int64(array, what)
    elif pa.types.is_null(kind) or not len(array):  # an empty array has whatever type its maker gave it
        array = pa.nulls(len(array), pa.int64())
    else:
        hint = "; missing values turn a column of integers into floats" if pa.types.is_floating(kind) else ""
        raise DataError(f"{what}: got {kind}, expected integers or strings{hint}")
    return _in_one(array)


def arrow_of(ids: Ids, what: str = "ids") -> pa.Array | pa.ChunkedArray:
    """Return ids as Arrow data of whatever type they are; categories and dictionaries stay encoded."""
    if isinstance(ids, (pa.Array, pa.ChunkedArray)):
        return ids
    if isinstance(ids, (str, bytes, set, frozenset, Mapping)) or not hasattr(ids, "__len__"):
        raise DataError(f"{what}: got {ids!r} ({type(ids).__name__}), expected a sequence of ids")
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu":
        ids = ids.astype(ids.dtype.newbyteorder("="), copy=False)
    try:
        return pa.array(ids, from_pandas=True)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError) as error:
        raise DataError(f"{what}: expected all integers or all strings{_first_odd(ids)} ({error})") from error


def id_type_of(array: pa.Array) -> IdType:
    """Name the type of what ``id_array`` returned."""
    return "int64" if pa.types.is_int64(array.type) else "string"


def ids_of_type(ids: Ids, id_type: IdType, what: str = "ids") -> pa.Array | None:
    """Return ids to look up as one array of ``id_type``, or None where all are null; the other type is a DataError."""
    array = id_array(ids, what)
    if array.null_count == len(array):
        return None
    if id_type_of(array) != id_type:
        raise DataError(f"{what}: got {id_type_of(array)} ids, expected {id_type}")
    return array


def refuse_nulls(array: pa.Array, what: str) -> None:
    """Raise a DataError that counts the nulls and names the first position, if there are any."""
    if array.null_count:
        first = pc.index(array.is_null(), True).as_py()
        raise DataError(f"{what}: {array.null_count} of {len(array)} are null, the first at position {first}")


def _in_one(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _int64(array: pa.Array | pa.ChunkedArray, what: str) -> pa.Array | pa.ChunkedArray:
    if pa.types.is_int64(array.type):
        return array
    try:
        return array.cast(pa.int64())
    except pa.ArrowInvalid:  # only uint64 has values that int64 has not
        over = pc.greater(array, pa.scalar(2**63 - 1, pa.uint64()))
        position, count = pc.index(over, True).as_py(), pc.sum(over).as_py()
        raise DataError(
            f"{what}: {count} are beyond 2**63 - 1, the largest int64, the first is {array[position].as_py()} at "
            f"position {position}"
        ) from None


def _first_odd(ids: Any) -> str:
    """Name the first item that cannot stand in an id array with those before it."""
    kind: type | None = None
    for position, item in enumerate(ids):
        if item is None or (isinstance(item, float) and math.isnan(item)):  # missing
            continue
        expected = str if isinstance(item, str) else int if isinstance(item, (int, np.integer)) else None
        bad = isinstance(item, bool) or expected is None or (expected is int and not -(2**63) <= item < 2**63)
        if bad or (kind is not None and expected is not kind):
            return f", but position {position} holds {item!r} ({type(item).__name__})"
        kind = expected
    return ""


def ids_digest(ids: pa.Array) -> str:
    """Return the SHA-256 of ids: of their type, then of the int64 values; or of each block's lengths and its bytes.

    Not of their file, whose bytes are up to the release of Arrow that wrote it.
    """
    digest = hashlib.sha256(str(ids.type).encode())
    for start in range(0, len(ids), _DIGESTED):
        block = ids.slice(start, _DIGESTED)
        if pa.types.is_int64(block.type):
            digest.update(block.to_numpy().astype("<i8").tobytes())
        else:
            digest.update(pc.binary_length(block).to_numpy().astype("<i8").tobytes())
            offsets = np.frombuffer(block.buffers()[1], np.int64, len(block) + 1, 8 * block.offset)
            data = block.buffers()[2]
            if data is not None:
                digest.update(data.slice(int(offsets[0]), int(offsets[-1] - offsets[0])))
    return digest.hexdigest()
