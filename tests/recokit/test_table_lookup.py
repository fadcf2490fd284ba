"""Ids of every kind, and the index that finds their rows: held against a Python dictionary."""

import doctest

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recokit.errors import DataError, FormatError
from recokit.table import lookup, vectors
from recokit.table.ids import id_array
from recokit.table.lookup import IdIndex

INT64 = st.integers(-(2**63), 2**63 - 1)
EDGES = [0, -1, 2**63 - 1, -(2**63), 1, 2**32, -(2**32)]
# Short ones collide in their prefixes, and the multiples of eight bytes are where words end.
TEXT = st.one_of(st.text(max_size=9), st.text("ab\0é", max_size=26), st.sampled_from(["x" * n for n in (7, 8, 9, 16)]))
MASK = 2**64 - 1
MULTIPLIERS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def naive_mix(word):
    word ^= word >> 32
    word = word * MULTIPLIERS[0] & MASK
    word ^= word >> 29
    return word * MULTIPLIERS[1] & MASK


def naive_unmix(word):
    """Undo naive_mix: multiply by the inverses, and undo each x ^= x >> s (2 * s > 63 but for 29, which needs more)."""
    word = word * pow(MULTIPLIERS[1], -1, 2**64) & MASK
    word = word ^ (word >> 29) ^ (word >> 58)
    word = word * pow(MULTIPLIERS[0], -1, 2**64) & MASK
    return word ^ (word >> 32)


def naive_hash(text):
    data = text.encode()
    word = len(data)
    for start in range(0, len(data), 8):
        word = naive_mix(word ^ int.from_bytes(data[start : start + 8], "little"))
    return word


def naive_rows(ids, asked):
    places = {id_: row for row, id_ in enumerate(ids)}
    return [places.get(id_, -1) for id_ in asked]


@given(st.lists(INT64 | st.sampled_from(EDGES), unique=True), st.lists(INT64 | st.sampled_from(EDGES)))
def test_rows_of_integers_are_those_of_a_dictionary(ids, others):
    asked = [*others, *ids[::2], *ids]
    assert IdIndex.build(id_array(ids)).rows(id_array(asked)).tolist() == naive_rows(ids, asked)


@given(st.lists(TEXT, unique=True), st.lists(TEXT))
def test_rows_of_strings_are_those_of_a_dictionary(ids, others):
    asked = [*others, *ids[::2], *ids, ""]
    ids_array = id_array(pa.array(ids, pa.large_string()))
    assert IdIndex.build(ids_array).rows(id_array(asked)).tolist() == naive_rows(ids, asked)


@pytest.mark.parametrize("count", [70_000, 3 * 2**15])
def test_batches_of_several_chunks(count):
    rng = np.random.default_rng(0)
    ids = rng.choice(10**12, count, replace=False) - 5 * 10**11
    asked = np.concatenate([rng.permutation(ids), ids + 10**13])
    expected = naive_rows(ids.tolist(), asked.tolist())
    assert IdIndex.build(pa.array(ids)).rows(pa.array(asked)).tolist() == expected
    texts, asked_texts = id_array([f"user-{i}" for i in ids]), id_array([f"user-{i}" for i in asked])
    assert IdIndex.build(texts).rows(asked_texts).tolist() == expected


@given(st.lists(st.text("ab", max_size=12), unique=True, max_size=40), st.integers(1, 5), st.data())
@settings(max_examples=50)
def test_a_hash_collision_never_gives_a_wrong_row(ids, num_hashes, data):
    asked = data.draw(st.lists(st.text("ab", max_size=12), max_size=20)) + ids

    def few_hashes(strings):
        return (np.array([len(s) for s in strings.to_pylist()], np.uint64) % np.uint64(num_hashes)) << np.uint64(60)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "_hash_strings", few_hashes)
        rows = IdIndex.build(id_array(pa.array(ids, pa.string()))).rows(id_array(asked or pa.array([], pa.string())))
    assert rows.tolist() == naive_rows(ids, asked)


def test_the_integer_whose_hash_looks_like_an_empty_slot():
    signed = naive_unmix(MASK) - 2**64 if naive_unmix(MASK) >= 2**63 else naive_unmix(MASK)
    assert lookup._hash_integers(np.array([signed])).tolist() == [MASK]
    assert IdIndex.build(id_array([5, signed])).rows(id_array([signed, 5])).tolist() == [1, 0]
    assert IdIndex.build(id_array([5])).rows(id_array([signed, 5])).tolist() == [-1, 0]


@given(st.lists(TEXT, min_size=1), INT64)
def test_hashes_are_those_of_the_formula(texts, number):
    assert lookup._hash_strings(id_array(texts)).tolist() == [naive_hash(text) for text in texts]
    assert lookup._hash_integers(np.array([number])).tolist() == [naive_mix(number & MASK)]


@given(st.lists(INT64, unique=True, min_size=1, max_size=200))
def test_entries_stand_in_the_order_of_their_hashes_at_home_or_right_behind(ids):
    index = IdIndex.build(id_array(ids))
    bits = int(index.words[2])
    used = index._rows >= 0
    hashes = index._hashes[used]
    assert (np.diff(hashes.astype(object)) > 0).all()
    for slot, hash_ in zip(np.flatnonzero(used), hashes, strict=True):
        home = int(hash_) >> (64 - bits)
        assert home <= slot
        assert used[home:slot].all()
    assert not used[-1]  # so that every probe ends inside


@pytest.mark.parametrize("ids", [[4, -7, 2**40], ["a", "", "zwölf Boxkämpfer"]])
def test_the_words_are_the_index(ids, tmp_path):
    index = IdIndex.build(id_array(ids))
    np.save(tmp_path / "index.npy", index.words)
    mapped = IdIndex(np.load(tmp_path / "index.npy", mmap_mode="r"))
    assert mapped.rows(id_array(ids[::-1])).tolist() == [2, 1, 0]
    assert (mapped.strings.to_pylist() if mapped.strings is not None else ids) == ids


@given(st.lists(TEXT, unique=True, min_size=1) | st.lists(INT64, unique=True, min_size=1), st.data())
def test_a_reader_written_from_the_documented_layout_finds_the_same_rows(ids, data):
    asked = ids + data.draw(st.lists(TEXT if isinstance(ids[0], str) else INT64))
    index = IdIndex.build(id_array(ids))
    words = index.words.tolist()
    layout, count, bits, num_slots, num_bytes = words[:5]
    hashes, rest = words[8 : 8 + num_slots], words[8 + num_slots :]
    rows = np.array(rest[: (num_slots + 1) // 2], "<u8").view("<i4").tolist()
    rest = rest[(num_slots + 1) // 2 :]
    offsets, text = rest[: count + 1], np.array(rest[count + 1 :], "<u8").tobytes()
    assert (layout, count) == (1, len(ids))
    assert num_bytes == sum(len(id_.encode()) for id_ in ids if isinstance(id_, str))

    def row_of(id_):
        hash_ = naive_hash(id_) if isinstance(id_, str) else naive_mix(id_ & MASK)
        slot = hash_ >> (64 - bits)
        while hashes[slot] < hash_:
            slot += 1
        while hashes[slot] == hash_ and rows[slot] >= 0:
            row = rows[slot]
            if not isinstance(id_, str) or text[offsets[row] : offsets[row + 1]] == id_.encode():
                return row
            slot += 1
        return -1

    assert [row_of(id_) for id_ in asked] == index.rows(id_array(asked)).tolist() == naive_rows(ids, asked)


def test_words_of_another_length_or_layout_are_refused():
    words = IdIndex.build(id_array([1, 2])).words.copy()
    with pytest.raises(FormatError, match="an id index of 2 ids and 9 slots cannot have 21 words"):
        IdIndex(words[:-1])
    words[0] = 2
    with pytest.raises(FormatError, match="not an id index of layout 1"):
        IdIndex(words)
    words = IdIndex.build(id_array(["a", "b"])).words.copy()
    words[-2] = 1  # the end of the last of the two
    with pytest.raises(FormatError, match="whose 2 bytes of strings are not those of its offsets"):
        IdIndex(words)


@pytest.mark.parametrize(
    ("held", "asked", "message"),
    [
        (pa.array([1, 2]), pa.array(["1", "2"], pa.large_string()), "got string ids, expected int64"),
        (pa.array([1, 2]), pa.array(["1"]), "got string ids, expected int64"),
        (pa.array(["a", "b"], pa.large_string()), pa.array([1, 2, 3]), "got int64 ids, expected string"),
        (pa.array(["a", "b"], pa.large_string()), pa.array([1.0]), "got double"),
    ],
)
def test_ids_of_the_other_type_are_refused(held, asked, message):
    with pytest.raises(DataError, match=message):
        IdIndex.build(held).rows(asked)


def test_narrower_types_are_read_as_what_they_are():
    assert IdIndex.build(pa.array(["a", "b"], pa.large_string())).rows(pa.array(["b", "c"])).tolist() == [1, -1]
    assert IdIndex.build(pa.array([5, 7])).rows(pa.array([7, 5, None], pa.int16())).tolist() == [1, 0, -1]
    assert IdIndex.build(pa.array(["a"], pa.large_string())).rows(pa.nulls(2)).tolist() == [-1, -1]


def test_slices_and_nulls():
    index = IdIndex.build(id_array(["a", "b", "c"]).slice(1))
    assert index.rows(id_array(pa.array(["x", "a", None, "c", "b"])).slice(1)).tolist() == [-1, -1, 1, 0]
    index = IdIndex.build(id_array([7, 8, 9]).slice(1))
    assert index.rows(id_array(pa.array([8, 7, None, 9])).slice(1)).tolist() == [-1, -1, 1]


def test_duplicates_are_named():
    with pytest.raises(DataError, match=r"ids: 2 are there more than once, the first is 5 at rows 0 and 3"):
        IdIndex.build(id_array([5, 6, 7, 5, 7, 5]))
    with pytest.raises(DataError, match=r"users: 1 are there more than once, the first is 'b' at rows 1 and 2"):
        IdIndex.build(id_array(["a", "b", "b"]), "users")


@pytest.mark.parametrize(
    "held",
    [
        list,
        tuple,
        np.array,
        pd.Series,
        pd.Index,
        lambda x: pd.Series(x, dtype=object),
        lambda x: pd.Series(x, dtype="category"),
        pd.CategoricalIndex,
        pa.array,
        lambda x: pa.chunked_array([x[:1], x[1:]]),
        lambda x: pa.array(x).dictionary_encode(),
        lambda x: pa.chunked_array([x[:1], x[1:]]).dictionary_encode(),
        lambda x: np.array([x, x]).T[:, 0],
    ],
)
@pytest.mark.parametrize("ids", [[3, -1, 2**63 - 1], ["b", "", "zwölf"]])
def test_every_way_to_hold_ids(held, ids):
    array = id_array(held(ids))
    assert array.to_pylist() == ids
    assert array.type == (pa.int64() if ids[0] == 3 else pa.large_string())


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (np.array([1, 2], np.uint8), [1, 2]),
        (np.array([3], np.uint64), [3]),
        (np.array([1, 2], ">i4"), [1, 2]),
        (np.arange(6)[::2], [0, 2, 4]),
        (range(2, 8, 3), [2, 5]),
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pd.Series(["a", None]), ["a", None]),
        (pd.Series(["a"], dtype="string"), ["a"]),
        (["a", float("nan"), None], ["a", None, None]),
        (pa.array(["a"], pa.string_view()), ["a"]),
        ([], []),
        (np.array([]), []),
        (pa.chunked_array([], type=pa.string()), []),
    ],
)
def test_other_types_of_ids(ids, expected):
    assert id_array(ids).to_pylist() == expected


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.0], "ids: got double, expected integers or strings; missing values turn"),
        (pd.Series([1, None]), "ids: got double"),
        (np.array([True]), "ids: got bool"),
        ([1, True], r"position 1 holds True \(bool\)"),
        (["a", "b", 3], r"position 2 holds 3 \(int\)"),
        ([1, "a"], r"position 1 holds 'a' \(str\)"),
        ([1, 2**63], "position 1 holds 9223372036854775808"),
        (np.array([1, 2**63, 2**64 - 1], np.uint64), "2 are beyond .* the first is 9223372036854775808 at position 1"),
        ([b"x"], "got binary"),
        ("abc", r"got 'abc' \(str\), expected a sequence"),
        ({1, 2}, "expected a sequence"),
        (5, r"got 5 \(int\)"),
        (np.zeros((2, 2), int), "only handle 1-dimensional arrays"),
        (["\ud800"], "surrogates not allowed"),
        (pd.Series(pd.date_range("2026-01-01", periods=1)), "got timestamp"),
    ],
)
def test_what_is_no_id_is_refused(ids, message):
    with pytest.raises(DataError, match=message):
        id_array(ids)


@pytest.mark.parametrize("module", [lookup, vectors])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0
