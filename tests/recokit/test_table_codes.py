"""Tables of codes: what they decode to, their files, and their place in a version."""

import json
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recokit.errors import ChecksumError, ConfigError, DataError, FormatError, VersionError
from recokit.table import EmbeddingTable, Mixture, PQTable, as_vectors, load_table, open_version, write_version
from recokit.table.folder import npy_digest

# Two sub-quantizers of three centroids: the first two numbers of a vector, then the last two.
CODEBOOK = np.array([[[1, 2], [3, 4], [5, 6]], [[10, 20], [30, 40], [50, 60]]], np.float32)
CODES = np.array([[0, 2], [2, 1]], np.uint8)
SWAP = np.array([[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]], np.float32)  # first half and second half


def table(codec="pq", **changed):
    given = {"entity": "item", "version": "v1", "codec": codec, "comparator": "cos", "meta": {"why": "test"}}
    rotation = SWAP if codec == "opq" else None
    return PQTable.from_arrays(["a", "b"], CODES, CODEBOOK, **(given | {"rotation": rotation} | changed))


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        ("pq", [[1, 2, 50, 60], [5, 6, 30, 40]]),
        ("opq", [[50, 60, 1, 2], [30, 40, 5, 6]]),
        ("additive", [[1 + 50, 2 + 60], [5 + 30, 6 + 40]]),
    ],
)
def test_a_vector_is_put_together_from_its_centroids(codec, expected):
    codes = table(codec)
    np.testing.assert_array_equal(codes.decode(), expected)
    zero = [0] * codes.dim
    np.testing.assert_array_equal(codes.decode(codes.rows(["b", "never-seen", "b"])), [expected[1], zero, expected[1]])
    assert codes.decode(np.zeros(0, np.int64)).shape == (0, codes.dim)


def test_a_rotation_is_applied_from_the_right():
    turn = np.zeros((4, 4), np.float32)
    turn[[0, 1, 2, 3], [1, 2, 3, 0]] = 1  # e0 -> e1 -> e2 -> e3 -> e0: no symmetric matrix
    assert table("opq", rotation=turn).decode().tolist() == [[60, 1, 2, 50], [40, 5, 6, 30]]


def test_codes_of_256_centroids_do_not_wrap_around():
    codebook = np.arange(3 * 256, dtype=np.float32).reshape(3, 256, 1)
    codes = PQTable.from_arrays([1], np.full((1, 3), 255, np.uint8), codebook, entity="e", version="v")
    assert codes.decode().tolist() == [[255, 511, 767]]


def test_many_rows_decode_as_few_do(monkeypatch):
    monkeypatch.setattr("recokit.table.codes._BLOCK", 3)
    rng = np.random.default_rng(0)
    codes, codebook = rng.integers(0, 4, (10, 2), np.uint8), rng.normal(size=(2, 4, 3)).astype(np.float32)
    made = PQTable.from_arrays(np.arange(10), codes, codebook, entity="e", version="v")
    rows = np.array([9, -1, 0, 3, 3, -1, 7, 8])
    expected = [
        np.zeros(6) if row < 0 else np.concatenate([codebook[part, codes[row, part]] for part in (0, 1)])
        for row in rows
    ]
    np.testing.assert_array_equal(made.decode(rows), np.array(expected, np.float32))


def test_compression_counts_codebook_and_rotation():
    assert table().compression == (2 * 4 * 4) / (2 * 2 + 12 * 4)
    assert table("opq").compression == (2 * 4 * 4) / (2 * 2 + 12 * 4 + 16 * 4)
    assert table("additive").compression == (2 * 2 * 4) / (2 * 2 + 12 * 4)


@pytest.mark.parametrize("codec", ["pq", "opq", "additive"])
def test_a_folder_holds_all_of_it(codec, tmp_path):
    made = table(codec)
    opened = PQTable.load(made.save(tmp_path / "t"), verify=True)
    for name in ("entity", "version", "comparator", "codec", "meta", "dim", "count", "id_type", "fingerprint"):
        assert getattr(opened, name) == getattr(made, name), name
    assert opened.codebook_sha256 == made.codebook_sha256
    assert opened.ids.to_pylist() == ["a", "b"]
    np.testing.assert_array_equal(opened.decode(), made.decode())
    files = ["codebook.npy", "codes.npy", "ids.parquet", *(["rotation.npy"] if codec == "opq" else []), "table.json"]
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == files
    with pytest.raises(VersionError, match="exists already"):
        made.save(tmp_path / "t")


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 7), st.integers(1, 4), st.integers(1, 9), st.integers(1, 256), st.integers(0, 2**32), st.booleans()
)
def test_what_is_written_is_read(tmp_path_factory, count, parts, width, size, seed, additive):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, size, (count, parts)).astype(np.uint8)
    codebook = rng.normal(size=(parts, size, width)).astype(np.float32)
    codec = "additive" if additive else "pq"
    made = PQTable.from_arrays(np.arange(count), codes, codebook, entity="e", version="v", codec=codec)
    folder = made.save(tmp_path_factory.mktemp("codes") / "t")
    np.testing.assert_array_equal(np.load(folder / "codes.npy"), codes)
    manifest = json.loads((folder / "table.json").read_bytes())
    # Codes are written block by block, but are the file that NumPy writes.
    assert manifest["files"]["codes.npy"]["sha256"] == npy_digest(codes)
    assert manifest["files"]["codes.npy"]["bytes"] == (folder / "codes.npy").stat().st_size
    assert PQTable.load(folder, verify=True).fingerprint == made.fingerprint
    np.testing.assert_array_equal(PQTable.load(folder).decode(), made.decode())


def test_the_fingerprint_tells_codes_codebooks_and_rotations_apart():
    others = [
        table(),
        table("opq"),
        table("opq", rotation=SWAP.T @ SWAP),
        PQTable.from_arrays(["a", "b"], CODES[::-1], CODEBOOK, entity="item", version="v1"),
        PQTable.from_arrays(["a", "b"], CODES, CODEBOOK + 1, entity="item", version="v1"),
    ]
    assert len({other.fingerprint for other in others}) == 5
    assert len({other.codebook_sha256 for other in others}) == 4  # other codes have the same codebook
    assert table().fingerprint == table(meta={}).fingerprint


@pytest.mark.parametrize("codec", ["pq", "opq"])
def test_a_worker_gets_the_same_table(codec, tmp_path):
    made = table(codec)
    for sent in (made, PQTable.load(made.save(tmp_path / "t"))):
        got = pickle.loads(pickle.dumps(sent))
        assert (got.path, got.fingerprint, got.meta) == (sent.path, made.fingerprint, made.meta)
        np.testing.assert_array_equal(got.decode(got.rows(["b"])), made.decode(np.array([1])))


@pytest.mark.parametrize("name", ["codebook.npy", "rotation.npy"])
def test_a_codebook_of_another_version_is_refused_though_it_has_the_same_size(name, tmp_path):
    ours, theirs = table("opq").save(tmp_path / "ours"), tmp_path / "theirs"
    PQTable.from_arrays(
        ["a", "b"], CODES, CODEBOOK[:, ::-1], entity="item", version="v1", codec="opq", rotation=SWAP[::-1]
    ).save(theirs)
    assert (theirs / name).stat().st_size == (ours / name).stat().st_size
    shutil.copy(theirs / name, ours / name)
    with pytest.raises(ChecksumError, match=rf"{name} has the sha256 .* of another version, or damaged"):
        PQTable.load(ours)  # without verify


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "pq-table/2"}, "has the format 'pq-table/2'"),
        ({"codec": "lsq"}, "codec 'lsq'"),
        ({"comparator": "euclid"}, "comparator 'euclid'"),
        ({"dim": 5}, "do not fit"),
        ({"num_codes": 300}, "do not fit"),
        ({"sub_quantizers": 0}, "do not fit"),
        ({"sub_quantizers": 4}, "codes.npy holds"),
        ({"num_codes": 4}, "codebook.npy holds"),
        ({"codec": "opq"}, "'files' lacks 'rotation.npy'"),
        ({"count": 3}, "rows, expected 'id' of 3|codes.npy holds"),
    ],
)
def test_a_folder_that_contradicts_itself_is_refused(changed, message, tmp_path):
    folder = table().save(tmp_path / "t")
    manifest = json.loads((folder / "table.json").read_bytes())
    (folder / "table.json").write_text(json.dumps(manifest | changed))
    with pytest.raises(FormatError, match=message):
        PQTable.load(folder)


def test_codes_that_changed_are_found_when_asked(tmp_path):
    folder = table().save(tmp_path / "t")
    content = (folder / "codes.npy").read_bytes()
    (folder / "codes.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    PQTable.load(folder)
    with pytest.raises(ChecksumError, match=r"codes\.npy has the sha256"):
        PQTable.load(folder, verify=True)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"codes": CODES.astype(np.int64)}, DataError, "int64 of shape"),
        ({"codes": CODES[:1]}, DataError, "2 ids, codes"),
        ({"codes": CODES[:, :1]}, DataError, "codebook"),
        ({"codes": CODES + 1}, DataError, "code 3 of a codebook of 3"),
        ({"codebook": CODEBOOK.astype(np.float64)}, DataError, "float64"),
        ({"codebook": CODEBOOK * np.nan}, DataError, "NaN"),
        ({"codebook": np.zeros((2, 257, 2), np.float32)}, DataError, "K from 1 to 256"),
        ({"codec": "PQ"}, ConfigError, "codec 'PQ' does not exist"),
        ({"codec": "opq"}, DataError, "a rotation of shape None"),
        ({"rotation": SWAP}, DataError, "with opq alone"),
        ({"codec": "opq", "rotation": SWAP[:3]}, DataError, r"shape \(3, 4\), expected \(4, 4\)"),
        ({"comparator": "cosine"}, ConfigError, "comparator"),
        ({"ids": ["a", "a"]}, DataError, "a"),
    ],
)
def test_what_does_not_fit_is_refused(changed, error, message):
    arrays = {"ids": ["a", "b"], "codes": CODES, "codebook": CODEBOOK, "entity": "item", "version": "v1"}
    with pytest.raises(error, match=message):
        PQTable.from_arrays(**(arrays | changed))


@pytest.mark.parametrize("rows", [[2], [-2], [0, 5]])
def test_rows_beyond_the_table_are_refused(rows):
    with pytest.raises(DataError, match="expected -1 to 1"):
        table().decode(np.array(rows))


VECTORS = EmbeddingTable.from_arrays(["a", "b"], table().decode(), entity="item", version="v1", comparator="cos")


@pytest.mark.parametrize("path", [None, "t"])
def test_codes_come_block_by_block_in_memory_or_straight_to_disk(path, tmp_path):
    where = None if path is None else tmp_path / path
    made = PQTable.from_blocks(VECTORS, iter([CODES[:1], CODES[1:]]), CODEBOOK, codec="pq", meta={"x": 1}, path=where)
    assert made.path == where
    assert (made.fingerprint, made.comparator, made.meta) == (table().fingerprint, "cos", {"x": 1})
    np.testing.assert_array_equal(made.decode(made.rows(["b"])), [[5, 6, 30, 40]])


@pytest.mark.parametrize("path", [None, "t"])
@pytest.mark.parametrize(
    "blocks", [[CODES[:1]], [CODES, CODES], [CODES[:, :1]], [CODES.astype(np.int64)], [CODES[0]], []]
)
def test_codes_of_other_rows_than_there_are_leave_nothing_behind(blocks, path, tmp_path):
    with pytest.raises(DataError, match="codes came"):
        PQTable.from_blocks(VECTORS, blocks, CODEBOOK, codec="pq", path=path and tmp_path / path)
    assert list(tmp_path.iterdir()) == []


def mixture():
    return Mixture.from_rows(["u"], np.array([[1, 0]]), components=VECTORS, entity="user", name="item")


def test_a_version_holds_all_kinds_and_opens_each(tmp_path):
    tables = {"item": VECTORS, "item-pq": table(), "user": mixture()}
    version = write_version(tmp_path / "v1", tables)
    assert {name: entry.kind for name, entry in version.tables.items()} == {
        "item": "vectors", "item-pq": "codes", "user": "mixture",
    }  # fmt: skip
    assert version.codes("item-pq") is version.codes("item-pq")
    assert [version.open(name).kind for name in tables] == ["vectors", "codes", "mixture"]
    assert [version.open(name).fingerprint for name in tables] == [each.fingerprint for each in tables.values()]
    assert [type(load_table(tmp_path / "v1" / name)) for name in tables] == [EmbeddingTable, PQTable, Mixture]
    np.testing.assert_array_equal(version.codes("item-pq").decode(), VECTORS.vectors)
    open_version(tmp_path / "v1", verify=True)
    with pytest.raises(ConfigError, match="of kind 'codes', expected 'vectors'"):
        version.table("item-pq")
    with pytest.raises(ConfigError, match="of kind 'vectors', expected 'codes'"):
        version.codes("item")
    with pytest.raises(ConfigError, match="did you mean 'item-pq'"):
        version.codes("item-qp")


def test_a_mixture_is_told_apart_by_weights_rows_and_components(tmp_path):
    made = mixture()
    others = [
        made,
        Mixture.from_rows(["u"], np.array([[0, 1]]), components=VECTORS, entity="user", name="item"),
        Mixture.from_rows(["u"], np.array([[1, 0]]), np.array([[1, 3]]), components=VECTORS, entity="user"),
    ]
    assert len({other.fingerprint for other in others}) == 3
    assert Mixture.load(made.save(tmp_path / "m")).fingerprint == made.fingerprint


def test_codes_of_another_version_are_refused_though_they_stand_on_their_own(tmp_path):
    version = write_version(tmp_path / "v1", {"item-pq": table()})
    other = write_version(tmp_path / "v2", {"item-pq": table(version="v2")})
    shutil.rmtree(version.path / "item-pq")
    shutil.copytree(other.path / "item-pq", version.path / "item-pq")
    with pytest.raises(VersionError, match="codes of version 'v2', expected those of 'v1'"):
        open_version(version.path).codes("item-pq")
    with pytest.raises(VersionError, match="is of version 'v2', expected 'v3'"):
        write_version(tmp_path / "v3", {"item-pq": table(version="v2")})


def test_what_needs_vectors_refuses_codes():
    with pytest.raises(ConfigError, match=r"an index: .* holds codes, expected vectors"):
        as_vectors(table(), "an index")
