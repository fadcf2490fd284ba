"""Mixtures as files: values, refusals, in versions, nested or beside their components, damaged."""

import json
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recokit import (
    CandidateGenerator,
    EmbeddingTable,
    ExactIndex,
    HNSWIndex,
    Mixture,
    RelationParameters,
    inductive_vectors,
    open_version,
    write_version,
)
from recokit.errors import ChecksumError, ConfigError, DataError, FormatError, VersionError

VECTORS = np.array([[[1, 0], [0, 1], [9, 9]], [[2, 0], [0, 2], [3, 3]]], np.float32)
CENTROIDS = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)


def components(vectors=CENTROIDS, version="v1", **more):
    return EmbeddingTable.from_arrays(
        [f"c{row}" for row in range(len(vectors))], vectors, entity="item-cluster", version=version, **more
    )


def shared(table=None, **more):
    table = components(comparator="cos") if table is None else table
    weights = [[1.0, 3.0], [2.0, 7.0], [0.0, 0.0]]
    return Mixture.from_rows(
        ["a", "b", "c"], np.array([[2, 0], [1, -1], [0, 1]]), np.array(weights), components=table, entity="user", **more
    )


def own(**more):
    return Mixture.from_components(
        [7, 5], VECTORS, np.array([[2, 1, 1], [0, 0, 0]]), entity="user", version="v1", **more
    )


def test_weights_are_normalised_over_the_components_that_are_there():
    mixture = shared()
    # 7 stands beside row -1 and counts nothing; nothing but zeros is the same for all.
    assert mixture.weights.tolist() == [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]
    assert mixture.component_rows.tolist() == [[2, 0], [1, -1], [0, 1]]
    assert mixture.vectors_at(np.array([1, 0])).tolist() == [[[0, 1], [0, 0]], [[-1, 0], [1, 0]]]
    assert (mixture.count, len(mixture), mixture.num_components, mixture.dim) == (3, 3, 2, 2)
    assert (mixture.kind, mixture.comparator, mixture.version) == ("mixture", "cos", "v1")
    assert mixture.components_name == "user-components"
    assert repr(mixture) == "Mixture(3 'user' of version 'v1', up to 2 of 3 components of dim 2, cos)"


def test_components_of_ones_own_are_rows_of_a_table_of_all():
    mixture = own()
    assert mixture.component_rows.tolist() == [[0, 1, 2], [3, 4, 5]]
    np.testing.assert_array_equal(mixture.weights, np.array([[0.5, 0.25, 0.25], [1 / 3] * 3], np.float32))
    np.testing.assert_array_equal(mixture.vectors_at(np.array([1, 0])), VECTORS[::-1])
    assert mixture.components.entity == "user-component"
    assert Mixture.from_components([7], VECTORS[:1], entity="user", version="v1").weights[0].sum() == pytest.approx(1)


def test_huge_and_tiny_weights_keep_their_proportions():
    weights = np.array([[1e308, 1e308, 0], [1e-320, 3e-320, 0]])
    mixture = Mixture.from_components([1, 2], VECTORS, weights, entity="user", version="v1")
    np.testing.assert_allclose(mixture.weights, [[0.5, 0.5, 0], [0.25, 0.75, 0]], rtol=1e-3)


def test_ids_are_looked_up_and_read_back():
    mixture = own()
    assert mixture.id_type == "int64"
    assert mixture.rows([5, 6, 7]).tolist() == [1, -1, 0]
    assert mixture.ids_at(np.array([1, -1])).to_pylist() == [5, None]
    with pytest.raises(DataError, match="looked up in the 'user' mixture: got string ids, expected int64"):
        mixture.rows(["5"])


@pytest.mark.parametrize(
    ("rows", "weights", "message"),
    [
        ([[0, 3]], None, "rows of the 'user' mixture run from 0 to 3, expected -1 to 2"),
        ([[-2, 0]], None, "run from -2 to 0"),
        ([[-1, -1]], None, "1 of 1 entities have no component, the first is number 0"),
        ([[0.5]], None, "dtype float64, expected integers"),
        ([[0], [1]], None, r"shape \(2, 1\), expected \(1, components\)"),
        ([0], None, r"shape \(1,\)"),
        ([[0, 1]], [[1.0]], r"weights of the 'user' mixture: shape \(1, 1\), expected \(1, 2\)"),
        ([[0, 1]], [[1.0, -1.0]], "1 of 1 entities have some that are no number of 0 or more"),
        ([[0, 1]], [[1.0, np.nan]], "no number of 0 or more"),
        ([[0, 1]], [[1.0, np.inf]], "no number of 0 or more"),
    ],
)
def test_what_does_not_fit_is_refused(rows, weights, message):
    weights = None if weights is None else np.array(weights)
    with pytest.raises(DataError, match=message):
        Mixture.from_rows(["a"], np.array(rows), weights, components=components(), entity="user")


def test_ids_vectors_names_and_meta_are_checked():
    with pytest.raises(DataError, match="ids of the 'user' mixture"):
        Mixture.from_rows(["a", "a"], np.zeros((2, 1), int), components=components(), entity="user")
    with pytest.raises(DataError, match=r"components of 'user': shape \(2, 2\), expected \(ids, components, dim\)"):
        Mixture.from_components([1, 2], np.eye(2, dtype=np.float32), entity="user", version="v1")
    with pytest.raises(ConfigError, match="the name of the table of components is 'a/b'"):
        shared(name="a/b")
    with pytest.raises(DataError, match="meta of the 'user' mixture cannot be written as JSON"):
        shared(meta={"x": np.nan})


def test_a_mixture_cannot_be_changed():
    mixture = shared()
    for array in (mixture.component_rows, mixture.weights):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def same(one, other):
    assert one.ids.equals(other.ids)
    np.testing.assert_array_equal(one.component_rows, other.component_rows)
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.components.vectors, other.components.vectors)
    for what in ("entity", "version", "comparator", "components_name", "meta", "num_components"):
        assert getattr(one, what) == getattr(other, what), what


@pytest.mark.parametrize("make", [shared, own])
def test_saved_alone_it_holds_its_components(tmp_path, make):
    mixture = make(meta={"made": "by hand"}, name="parts")
    loaded = Mixture.load(mixture.save(tmp_path / "m"), verify=True)
    same(loaded, mixture)
    assert loaded.path == tmp_path / "m"
    files = json.loads((tmp_path / "m" / "table.json").read_text())["files"]
    assert {"parts/vectors.npy", "parts/ids.parquet", "parts/table.json"} < set(files)
    with pytest.raises(VersionError, match="exists already"):
        mixture.save(tmp_path / "m")


def test_the_files_are_those_of_the_format(tmp_path):
    shared().save(tmp_path / "m")
    rows, weights = np.load(tmp_path / "m" / "rows.npy"), np.load(tmp_path / "m" / "weights.npy")
    assert (rows.dtype.str, weights.dtype.str, rows.shape) == ("<i8", "<f4", (3, 2))
    manifest = json.loads((tmp_path / "m" / "table.json").read_text())
    del manifest["files"]
    assert manifest == {
        "format": "mixture-table/1",
        "entity": "user",
        "count": 3,
        "num_components": 2,
        "dim": 2,
        "version": "v1",
        "comparator": "cos",
        "components": "user-components",
        "components_sha256": components().fingerprint,
        "meta": {},
    }


def test_beside_its_components_it_refers_to_them(tmp_path):
    table = components(comparator="cos")
    table.save(tmp_path / "clusters")
    mixture = shared(table, name="clusters")
    mixture.save(tmp_path / "m")
    assert sorted(file.name for file in (tmp_path / "m").iterdir()) == [
        "ids.parquet",
        "rows.npy",
        "table.json",
        "weights.npy",
    ]
    same(Mixture.load(tmp_path / "m", verify=True), mixture)
    same(Mixture.load(tmp_path / "m", components=table), mixture)
    # Another table of that name beside it: its own go inside.
    components(2 * CENTROIDS).save(tmp_path / "other" / "clusters")
    mixture.save(tmp_path / "other" / "m")
    assert (tmp_path / "other" / "m" / "clusters").is_dir()
    same(Mixture.load(tmp_path / "other" / "m"), mixture)


def test_other_components_are_refused(tmp_path):
    shared(name="clusters").save(tmp_path / "m")
    with pytest.raises(VersionError, match="other components than those of the table 'clusters' of version 'v1'"):
        Mixture.load(tmp_path / "m", components=components(2 * CENTROIDS))
    with pytest.raises(VersionError, match="version 'v2': take the table of version 'v1'"):
        Mixture.load(tmp_path / "m", components=components(version="v2"))


def damaged(path, **fields):
    manifest = json.loads((path / "table.json").read_text())
    (path / "table.json").write_text(json.dumps(manifest | fields))


def test_damage_is_seen(tmp_path):
    def saved(name):
        return shared(name="clusters").save(tmp_path / name)

    where = saved("missing")
    (where / "rows.npy").unlink()
    with pytest.raises(FormatError, match=r"rows.npy is missing, expected 176 bytes"):
        Mixture.load(where)
    where = saved("short")
    (where / "weights.npy").write_bytes((where / "weights.npy").read_bytes()[:-1])
    with pytest.raises(FormatError, match="truncated or damaged"):
        Mixture.load(where)
    where = saved("changed")
    content = bytearray((where / "weights.npy").read_bytes())
    content[-1] ^= 1
    (where / "weights.npy").write_bytes(content)
    Mixture.load(where)
    with pytest.raises(ChecksumError, match=r"weights.npy has the sha256"):
        Mixture.load(where, verify=True)
    where = saved("inside")
    vectors = where / "clusters" / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-4])
    with pytest.raises(FormatError, match=r"vectors.npy has 148 bytes, expected 152"):
        Mixture.load(where)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "mixture-table/2"}, "reads 'mixture-table/1'"),
        ({"count": 4}, r"rows.npy holds <i8 \(3, 2\), expected <i8 \(4, 2\)"),
        ({"num_components": 3}, r"rows.npy holds <i8 \(3, 2\), expected <i8 \(3, 3\)"),
        ({"components": "../clusters"}, "'components' is '../clusters': expected 1 to 200"),
        ({"components": "nowhere"}, "rows of a table 'nowhere', which is neither in the folder nor beside it"),
        ({"components": None}, "'components' is None, expected a string"),
        ({"files": {}}, "'files' lacks 'ids.parquet'"),
    ],
)
def test_a_manifest_that_promises_something_else_is_refused(tmp_path, fields, message):
    where = shared().save(tmp_path / "m")
    damaged(where, **fields)
    with pytest.raises(FormatError, match=message):
        Mixture.load(where)


def test_a_version_holds_mixtures_beside_or_with_their_components(tmp_path):
    table = components(comparator="cos")
    tables = {"user-interests": shared(table, name="item-clusters"), "item-clusters": table, "user": own()}
    version = write_version(tmp_path / "v1", tables)
    assert version.tables["user-interests"].kind == "mixture"
    assert version.tables["user-interests"].components == "item-clusters"
    assert not (tmp_path / "v1" / "user-interests" / "item-clusters").exists()
    opened = open_version(tmp_path / "v1", verify=True)
    same(opened.mixture("user-interests"), tables["user-interests"])
    assert opened.mixture("user-interests") is opened.mixture("user-interests")
    assert opened.mixture("user-interests").components is opened.table("item-clusters")
    same(opened.mixture("user"), tables["user"])
    with pytest.raises(ConfigError, match="of kind 'mixture', expected 'vectors'"):
        opened.table("user")
    with pytest.raises(ConfigError, match="of kind 'vectors', expected 'mixture'"):
        opened.mixture("item-clusters")
    with pytest.raises(VersionError, match="table 'user' is of version 'v1', expected 'v2'"):
        write_version(tmp_path / "v2", {"user": own()})


def test_an_empty_mixture_is_a_mixture(tmp_path):
    mixture = Mixture.from_rows(
        pa.array([], pa.large_string()), np.zeros((0, 2), int), components=components(), entity="user"
    )
    loaded = Mixture.load(mixture.save(tmp_path / "m"))
    assert (len(loaded), loaded.num_components, loaded.rows(["a"]).tolist()) == (0, 2, [-1])


def test_row_minus_one_has_no_vectors_and_rows_beyond_are_refused():
    mixture = own()
    assert mixture.vectors_at(mixture.rows([5, 99])).tolist() == [VECTORS[1].tolist(), [[0, 0]] * 3]
    with pytest.raises(DataError, match="rows run from 0 to 2, expected -1 to 1"):
        mixture.vectors_at(np.array([0, 2]))
    with pytest.raises(DataError, match="rows of the 'user' mixture run from 0 to 18446744073709551615"):
        Mixture.from_rows(["a"], np.array([[0, 2**64 - 1]], np.uint64), components=components(), entity="user")


def test_a_mixture_travels_to_other_processes(tmp_path):
    apart = shared().save(tmp_path / "m")
    (tmp_path / "t").mkdir()
    (tmp_path / "m" / "user-components").rename(tmp_path / "t" / "elsewhere")
    for mixture in (shared(), Mixture.load(own().save(tmp_path / "n")), own()):
        again = pickle.loads(pickle.dumps(mixture))
        assert again.component_rows.tolist() == mixture.component_rows.tolist()
        assert again.weights.tolist() == mixture.weights.tolist()
        assert again.path == mixture.path
    with pytest.raises(FormatError):
        Mixture.load(apart)


def test_where_vectors_are_expected_a_mixture_is_refused():
    mixture, said = own(), "is a mixture, expected a table of vectors"
    for build in (ExactIndex.build, HNSWIndex.build):
        with pytest.raises(ConfigError, match=f"an index: .* {said}"):
            build(mixture)
    relation = RelationParameters("clicks", "user", "item", "identity", np.zeros(0))
    edges = {"clicks": pd.DataFrame({"source": [7], "target": [1]})}
    with pytest.raises(ConfigError, match=f"vectors inferred from 'user': .* {said}"):
        inductive_vectors({"user": mixture}, {"clicks": relation}, edges, entity="item")
    with pytest.raises(ConfigError, match=r"is no index: build one over its components, and give it as items"):
        CandidateGenerator(mixture, mixture)
