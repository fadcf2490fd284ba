"""The id index: from ids to rows with a few NumPy operations per batch and no Python per id.

It is an open-addressing hash table whose entries stand in the order of their 64-bit hashes (ordered hashing, Amble
and Knuth 1974). The home slot of an entry is the top bits of its hash; it stands there, or in the first free slot
behind. Three things follow:

- One sort and one running maximum build the table; nothing is probed.
- A probe ends at the first slot whose hash is not smaller than the one looked for, so that a miss costs what a hit
  costs.
- The table is one array of words without pointers. Written to a file it can be memory-mapped, and a first look-up in
  a hundred million ids touches a few pages instead of building anything.

Integers are hashed by a bijection: an equal hash is an equal id. Strings are hashed eight bytes at a time, and their
bytes are compared after that: a collision costs time and never gives a wrong row.

Words of the array (uint64, little endian), N ids, S slots:

    0..7        layout (1), N, home bits, S, bytes of all strings, 0, 0, 0
    S           hash of each slot, ascending between empty slots, which hold 2**64 - 1
    (S + 1)/2   row of each slot as int32, -1 in empty slots
    strings only: N + 1 offsets into the bytes, then the UTF-8 bytes, padded with zeros to a whole word
"""

__all__ = ["LAYOUT", "IdIndex"]

from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recokit.errors import DataError, FormatError
from recokit.table.ids import ids_of_type

Rows: TypeAlias = NDArray[np.int64]
Words: TypeAlias = NDArray[np.uint64]

LAYOUT = 1
_HEADER = 8
_EMPTY = 2**64 - 1
_MAX_IDS = 2**31 - 1
_CHUNK = 1 << 15  # the temporaries of a chunk stay in the second-level cache
_MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # those of splitmix64
_1, _29, _32, _64 = (np.uint64(number) for number in (1, 29, 32, 64))


class IdIndex:
    """Find the rows of ids among N unique ones.

    Args:
        words: The array that ``build`` made, or the same read from a file.

    Attributes:
        strings: The N ids, where they are strings: an Arrow array over the words, not a copy. None for integers.
    """

    def __init__(self, words: Words) -> None:
        count, bits, num_slots, num_bytes = _read_header(words)
        parts = np.split(words[_HEADER:], np.cumsum([num_slots, (num_slots + 1) // 2]))
        self.words = words
        self._shift = np.uint64(64 - bits)
        self._hashes: Words = parts[0]
        self._rows: NDArray[np.int32] = parts[1].view("<i4")[:num_slots]
        self.strings: pa.Array | None = None
        if parts[2].size:
            offsets, data = pa.py_buffer(parts[2][: count + 1]), pa.py_buffer(parts[2][count + 1 :])
            self.strings = pa.LargeStringArray.from_buffers(count, offsets, data.slice(0, num_bytes))
            if int(parts[2][0]) != 0 or int(parts[2][count]) != num_bytes:
                raise FormatError(f"an id index whose {num_bytes} bytes of strings are not those of its offsets")

    @classmethod
    def build(cls, ids: pa.Array, what: str = "ids") -> "IdIndex":
        """Index the ids of a table, int64 or large_string in row order, without nulls.

        Raises:
            DataError: An id is there twice.
        """
        if len(ids) > _MAX_IDS:
            raise DataError(f"{what}: {len(ids)} ids, at most {_MAX_IDS} can be indexed: split the entity type")
        hashes = _hash_ids(ids)
        order = np.argsort(hashes)
        hashes = hashes.take(order)
        _refuse_duplicates(ids, hashes, order, what)
        bits = max(3, (3 * len(ids) // 2).bit_length())  # a third to two thirds of the slots are taken
        number = np.arange(len(ids))
        # An entry stands at its home, or right behind the entry before it.
        slots = np.maximum.accumulate((hashes >> np.uint64(64 - bits)).astype(np.int64) - number)
        slots += number
        # One empty slot behind the last entry, so that every probe ends inside.
        num_slots = max(1 << bits, int(slots[-1]) + 1 if len(ids) else 0) + 1
        strings = None if pa.types.is_int64(ids.type) else ids
        index = cls(_allocate(len(ids), bits, num_slots, strings))
        index._hashes[slots] = hashes
        index._rows[slots] = order
        index.words.flags.writeable = False
        return index

    def __len__(self) -> int:
        return int(self.words[1])

    def rows(self, ids: pa.Array) -> Rows:
        """Return the row of each id (B,), integers or strings like those indexed; -1 for a null and for no row.

        Raises:
            DataError: The ids are of the other type.
        """
        asked = ids_of_type(ids, "int64" if self.strings is None else "string")
        return np.full(len(ids), -1, np.int64) if asked is None else self.find(asked)

    def find(self, ids: pa.Array) -> Rows:
        """Do what ``rows`` does with ids that are known to be of the right type, not all null."""
        rows = self._rows_of_integers(ids) if self.strings is None else self._rows_of_strings(self.strings, ids)
        if ids.null_count:
            rows[ids.is_null().to_numpy(zero_copy_only=False)] = -1
        return rows

    def _rows_of_integers(self, ids: pa.Array) -> Rows:
        values, rows = _int64_values(ids), np.empty(len(ids), np.int64)
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            rows[part] = self._find(_hash_integers(values[part]))[0]
        return rows

    def _rows_of_strings(self, strings: pa.Array, ids: pa.Array) -> Rows:
        rows = np.empty(len(ids), np.int64)
        for start in range(0, len(rows), _CHUNK):
            queries = ids.slice(start, _CHUNK)
            hashes = _hash_strings(queries)
            found, slots = self._find(hashes)
            doubtful = np.flatnonzero(found >= 0)
            while doubtful.size:
                candidates = strings.take(pa.array(found.take(doubtful)))
                asked = queries if doubtful.size == len(queries) else queries.take(pa.array(doubtful))
                equal = pc.equal(candidates, asked)
                if equal.true_count == len(equal):
                    break
                # A null, or two strings with one hash (one pair in 2**64, so hardly ever): go on in the next slot.
                doubtful = doubtful[~equal.to_numpy(zero_copy_only=False).astype(bool)]
                slots[doubtful] += 1
                found[doubtful] = self._rows_at(hashes[doubtful], slots[doubtful])
                doubtful = doubtful[found[doubtful] >= 0]
            rows[start : start + _CHUNK] = found
        return rows

    def _find(self, hashes: Words) -> tuple[NDArray[np.int32], Rows]:
        """Return the row of the first slot with each hash, -1 where there is none, and the slot."""
        slots = (hashes >> self._shift).astype(np.int64)
        seen = self._hashes.take(slots)
        late = np.flatnonzero(seen < hashes)
        while late.size:
            following = slots.take(late)
            following += 1
            slots[late] = following
            there = self._hashes.take(following)
            seen[late] = there
            late = late[there < hashes.take(late)]
        return np.where(seen == hashes, self._rows.take(slots), np.int32(-1)), slots

    def _rows_at(self, hashes: Words, slots: Rows) -> NDArray[np.int32]:
        return np.where(self._hashes.take(slots) == hashes, self._rows.take(slots), np.int32(-1))


def _allocate(count: int, bits: int, num_slots: int, strings: pa.Array | None) -> Words:
    """Return the words of an index without entries; strings are copied in."""
    start = _HEADER + num_slots + (num_slots + 1) // 2
    offsets = np.zeros(0, np.int64) if strings is None else _offsets(strings)
    num_bytes = int(offsets[-1] - offsets[0]) if strings is not None else 0
    words = np.empty(start + len(offsets) + (num_bytes + 7) // 8, np.dtype("<u8"))
    words[:_HEADER] = (LAYOUT, count, bits, num_slots, num_bytes, 0, 0, 0)
    words[_HEADER:start] = _EMPTY
    if strings is not None:
        data = start + len(offsets)
        words[start:data] = offsets - offsets[0]
        words[data:] = _string_words(strings)[: len(words) - data]
    return words


def _read_header(words: Words) -> tuple[int, int, int, int]:
    """Return count, bits, num_slots and num_bytes, if the array is as long as they say."""
    if words.ndim != 1 or words.dtype != np.dtype("<u8") or len(words) < _HEADER or words[0] != LAYOUT:
        raise FormatError(f"this is not an id index of layout {LAYOUT}: {words.dtype} {words.shape} {words[:1]}")
    count, bits, num_slots, num_bytes = (int(word) for word in words[1:5])
    integers = _HEADER + num_slots + (num_slots + 1) // 2
    strings = integers + count + 1 + (num_bytes + 7) // 8
    if len(words) not in (integers, strings) or not 3 <= bits < 64 or num_slots <= 1 << bits:
        raise FormatError(f"an id index of {count} ids and {num_slots} slots cannot have {len(words)} words")
    return count, bits, num_slots, num_bytes


def _refuse_duplicates(ids: pa.Array, hashes: Words, order: Rows, what: str) -> None:
    same = hashes[1:] == hashes[:-1]
    if not same.any():
        return
    suspects = np.unique(np.concatenate([order[1:][same], order[:-1][same]]))  # few collide without being equal
    names = ids.take(pa.array(suspects)).to_pylist()
    places: dict[int | str, list[int]] = {}
    for name, row in zip(names, suspects, strict=True):
        places.setdefault(name, []).append(int(row))
    repeated = {name: rows for name, rows in places.items() if len(rows) > 1}
    if repeated:
        name, rows = next(iter(repeated.items()))
        raise DataError(
            f"{what}: {len(repeated)} are there more than once, the first is {name!r} at rows {rows[0]} and {rows[1]}"
        )


def _hash_ids(ids: pa.Array) -> Words:
    hashes = np.empty(len(ids), np.uint64)
    integers = pa.types.is_int64(ids.type)
    for start in range(0, len(ids), _CHUNK):
        part = ids.slice(start, _CHUNK)
        hashes[start : start + _CHUNK] = _hash_integers(_int64_values(part)) if integers else _hash_strings(part)
    return hashes


def _mix(words: Words) -> Words:
    """Carry every bit to the top bits, in place, by a bijection."""
    words ^= words >> _32
    words *= _MULTIPLIERS[0]
    words ^= words >> _29
    words *= _MULTIPLIERS[1]
    return words


def _hash_integers(ids: Rows) -> Words:
    return _mix(ids.astype(np.uint64))


def _hash_strings(strings: pa.Array) -> Words:
    """Return h(length, words): h starts as the length; every eight bytes, the last padded with zeros, are mixed in."""
    offsets = _offsets(strings)
    lengths = offsets[1:] - offsets[:-1]
    starts = offsets[:-1] - offsets[:1]
    words = _string_words(strings)
    hashes = lengths.astype(np.uint64)
    shortest, longest = (int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 0)
    for done in range(0, longest, 8):
        which = slice(None) if shortest > done else np.flatnonzero(lengths > done)
        hashes[which] = _mix(hashes[which] ^ _gather(words, starts[which] + done, lengths[which] - done))
    return hashes


def _gather(words: Words, starts: Rows, lengths: Rows) -> Words:
    """Return the eight bytes from byte ``starts`` on, zeros from byte ``lengths`` on."""
    at, shift = starts >> 3, ((starts & 7) << 3).view(np.uint64)
    out = words.take(at) >> shift
    out |= words.take(at + 1) << (_64 - shift)  # NumPy: shifted by all 64 bits, nothing is left
    num_bits = (np.minimum(lengths, 8) << 3).view(np.uint64)
    out &= (_1 << num_bits) - _1
    return out


def _offsets(strings: pa.Array) -> Rows:
    """Return the N + 1 offsets of a large_string array."""
    if not len(strings):
        return np.zeros(1, np.int64)
    return np.frombuffer(strings.buffers()[1], np.int64, len(strings) + 1, 8 * strings.offset)


def _string_words(strings: pa.Array) -> Words:
    """Return the bytes of all strings, from the first one's on, as words, with a word to spare for gathers."""
    first, last = (int(offset) for offset in _offsets(strings)[[0, -1]])
    words = np.zeros((last - first + 7) // 8 + 1, np.uint64)
    if last > first:
        words.view(np.uint8)[: last - first] = np.frombuffer(strings.buffers()[2], np.uint8, last - first, first)
    return words


def _int64_values(array: pa.Array) -> Rows:
    """Return the values of an int64 array, whatever stands at nulls."""
    if not len(array):
        return np.zeros(0, np.int64)
    return np.frombuffer(array.buffers()[1], np.int64, len(array), 8 * array.offset)
