"""64-bit hashes of ids that stay what they are: on any machine, in any library's version, in any order.

int64 ids go through splitmix64, strings (UTF-8) through FNV-1a and then splitmix64.
Shapes: N ids.
"""

__all__ = ["GOLDEN", "Hashes", "hash_ids", "splitmix64"]

from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import DataError
from recokit.table import Ids
from recokit.table.ids import arrow_of, id_array

Hashes: TypeAlias = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio


def hash_ids(ids: Ids) -> Hashes:  # (N,)
    """Hash each id; of dictionary-encoded ids each distinct one once.

    Raises:
        DataError: An id is missing, or they are neither integers nor strings.

    >>> hash_ids([7]), hash_ids(["7"])
    (array([7191089600892374487], dtype=uint64), array([13302734068903788416], dtype=uint64))
    """
    encoded = arrow_of(ids)
    if isinstance(encoded, pa.DictionaryArray) and not encoded.null_count:
        hashes: Hashes = hash_ids(encoded.dictionary)[encoded.indices.to_numpy()]
        return hashes
    array = id_array(encoded)
    if array.null_count:
        raise DataError(f"{array.null_count} of {len(array)} ids are missing")
    if array.type == pa.int64():
        return splitmix64(array.to_numpy().view(np.uint64))
    return splitmix64(_fnv1a(array))


def splitmix64(x: Hashes) -> Hashes:
    """Mix the bits of each number (Steele et al. 2014): neighbouring ids land far apart."""
    x = x + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _fnv1a(strings: pa.LargeStringArray) -> Hashes:
    """FNV-1a of the UTF-8 bytes, all strings at once: one step per byte position, longest strings first."""
    _, offset_buffer, byte_buffer = strings.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[strings.offset :][: len(strings) + 1]
    text = np.frombuffer(byte_buffer or b"", dtype=np.uint8)
    starts, lengths = offsets[:-1], np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")
    longer = len(order) - np.cumsum(np.bincount(lengths))  # how many strings are longer than each position
    hashes = np.full(len(order), 0xCBF29CE484222325, dtype=np.uint64)
    for position, alive in enumerate(longer[:-1]):
        rows = order[:alive]
        hashes[rows] = (hashes[rows] ^ text[starts[rows] + position]) * np.uint64(0x100000001B3)
    return hashes
