"""EmbeddingTable: what it says, what it refuses, and the bytes of its folder."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recokit.errors import ChecksumError, ConfigError, DataError, FormatError, VersionError
from recokit.table import EmbeddingTable, id_column
from recokit.table import vectors as vectors_module
from recokit.table.folder import new_folder
from recokit.table.lookup import IdIndex


def make(ids=("a", "b", "c"), dim=2, dtype=np.float32, **more):
    vectors = np.arange(len(ids) * dim, dtype=dtype).reshape(len(ids), dim)
    return EmbeddingTable.from_arrays(ids, vectors, **({"entity": "item", "version": "v1"} | more))


def edit(path, **fields):
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | fields))


def replace_file(folder, name, write):
    """Write another file, and make the manifest agree with it."""
    write(folder / name)
    data = (folder / name).read_bytes()
    files = json.loads((folder / "table.json").read_text())["files"]
    files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(folder / "table.json", files=files)


@pytest.fixture
def saved(tmp_path):
    return make(bias=np.array([1, 2, 3], np.float32), meta={"seed": 7}).save(tmp_path / "item")


class TestRows:
    def test_rows_and_ids_at_are_inverse(self):
        table = make()
        assert table.rows(["c", "never-seen", "a", None]).tolist() == [2, -1, 0, -1]
        assert table.ids_at(np.array([2, -1, 0])).to_pylist() == ["c", None, "a"]

    def test_categories_are_looked_up_once_each(self):
        table = make()
        column = pd.Series(["c", None, "x", "c", "a", "c"], dtype="category")
        assert table.rows(column).tolist() == [2, -1, -1, 2, 0, 2]

    def test_integers(self):
        table = make([5, -3, 2**63 - 1])
        assert table.id_type == "int64"
        assert table.rows(np.array([2**63 - 1, 5, 4])).tolist() == [2, 0, -1]
        assert table.rows(pd.Series([-3, None], dtype="Int64")).tolist() == [1, -1]

    def test_nothing_looked_up(self):
        assert make().rows([]).tolist() == []
        assert make().rows(pd.Series([None, None])).tolist() == [-1, -1]
        assert make([]).rows([4]).tolist() == [-1]

    def test_ids_of_the_other_type_are_refused(self):
        with pytest.raises(DataError, match="looked up in the 'item' table: got int64 ids, expected string"):
            make().rows([1])
        with pytest.raises(DataError, match="got string ids, expected int64"):
            make([1]).rows(["1"])

    def test_a_row_beyond_the_table_is_refused(self):
        with pytest.raises(DataError, match="the 'item' table: row 3 is beyond the 3 rows"):
            make().ids_at(np.array([0, 3]))
        with pytest.raises(DataError, match="rows are float64"):
            make().ids_at(np.array([0.5]))


class TestFromArrays:
    def test_fields(self):
        table = make(comparator="cos", meta={"sources": ("x",)})
        assert (table.count, table.dim, len(table), table.dtype) == (3, 2, 3, np.float32)
        assert (table.entity, table.version, table.comparator, table.kind) == ("item", "v1", "cos", "vectors")
        assert table.meta == {"sources": ["x"]}  # as JSON will have it
        assert table.path is None
        assert table.bias is None
        assert "entity='item', version='v1', count=3, dim=2" in repr(table)

    def test_vectors_cannot_be_written_through_the_table(self):
        with pytest.raises(ValueError, match="read-only"):
            make().vectors[0, 0] = 1

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"ids": ["a", "b", "a"]}, DataError, "'item' table: 1 are there more than once, .* 'a' at rows 0 and 2"),
            ({"ids": ["a", None, None]}, DataError, "2 of 3 are null, the first at position 1"),
            ({"ids": ["a", "b"]}, DataError, r"vectors of the 'item' table: shape \(3, 2\), expected \(2, dim\)"),
            ({"ids": [1.0, 2.0, 3.0]}, DataError, "ids of the 'item' table: got double"),
            ({"vectors": np.zeros(3, np.float32)}, DataError, r"shape \(3,\), expected \(3, dim\)"),
            ({"vectors": np.zeros((3, 0), np.float32)}, DataError, r"shape \(3, 0\)"),
            ({"vectors": np.zeros((3, 2))}, DataError, r"dtype float64, expected float32 or float16; .astype"),
            ({"vectors": np.zeros((3, 2), int)}, DataError, "dtype int64, expected float32"),
            (
                {"vectors": np.array([[0, 0], [0, np.nan], [np.inf, 0]], np.float32)},
                DataError,
                "NaN or infinity in 2 of 3 rows, the first is row 1, id 'b'",
            ),
            ({"bias": np.zeros(2, np.float32)}, DataError, r"bias of the 'item' table: shape \(2,\), expected \(3,\)"),
            ({"bias": np.array([0, 0, -np.inf], np.float32)}, DataError, "bias .* in 1 of 3 rows, .* row 2, id 'c'"),
            ({"meta": {"when": {1, 2}}}, DataError, "meta of the 'item' table cannot be written as JSON"),
            ({"comparator": "cosine"}, ConfigError, "comparator 'cosine' does not exist; did you mean 'cos'"),
            ({"version": ""}, ConfigError, "version is '', expected a name"),
        ],
    )
    def test_what_cannot_be_a_table_is_refused(self, change, error, message):
        arguments = {"ids": ["a", "b", "c"], "vectors": np.zeros((3, 2), np.float32), "entity": "item", "version": "v"}
        arguments |= change
        with pytest.raises(error, match=message):
            EmbeddingTable.from_arrays(arguments.pop("ids"), arguments.pop("vectors"), **arguments)

    def test_a_bad_vector_far_behind_is_found(self):
        vectors = np.zeros((70_000, 1), np.float16)
        vectors[69_999] = np.nan
        with pytest.raises(DataError, match="in 1 of 70000 rows, the first is row 69999, id 69999"):
            EmbeddingTable.from_arrays(range(70_000), vectors, entity="item", version="v1")


class TestFolder:
    def test_another_reader_finds_what_the_format_promises(self, saved):
        manifest = json.loads((saved / "table.json").read_text())
        files = manifest.pop("files")
        assert manifest == {
            "format": "embedding-table/1",
            "entity": "item",
            "count": 3,
            "dim": 2,
            "dtype": "float32",
            "version": "v1",
            "comparator": "dot",
            "meta": {"seed": 7},
        }
        assert sorted(files) == ["bias.npy", "ids.parquet", "vectors.npy"]
        for name, entry in files.items():
            data = (saved / name).read_bytes()
            assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        assert sorted(p.name for p in saved.iterdir()) == sorted([*files, "table.json"])
        assert pq.read_table(saved / "ids.parquet").to_pydict() == {"id": ["a", "b", "c"]}
        data = (saved / "vectors.npy").read_bytes()
        assert data[:8] == b"\x93NUMPY\x01\x00"
        assert data[10:].startswith(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }")
        assert data[128:] == np.array([0, 1, 2, 3, 4, 5], "<f4").tobytes()
        assert np.load(saved / "bias.npy").tolist() == [1, 2, 3]

    def test_three_vectors_of_64_take_896_bytes(self, tmp_path):
        make(dim=64).save(tmp_path / "t")
        assert json.loads((tmp_path / "t/table.json").read_text())["files"]["vectors.npy"]["bytes"] == 896
        assert 896 == 128 + 3 * 64 * 4

    @given(
        hnp.arrays(
            st.sampled_from([np.float32, np.float16]),
            st.tuples(st.integers(0, 5), st.integers(1, 4)),
            elements=st.floats(-1000, 1000, width=16),
        ),
        st.booleans(),
        st.sampled_from(["dot", "cos", "l2", "squared_l2"]),
    )
    @settings(max_examples=25, deadline=None)
    def test_round_trip(self, tmp_path_factory, vectors, strings, comparator):
        ids = pa.array(
            [f"i{n}" if strings else -n for n in range(len(vectors))], pa.string() if strings else pa.int64()
        )
        path = tmp_path_factory.mktemp("t") / "table"
        table = EmbeddingTable.from_arrays(
            ids, vectors, entity="e", version="v", comparator=comparator, bias=vectors[:, 0]
        )
        table.save(path)
        loaded = EmbeddingTable.load(path, verify=True)
        assert loaded.ids.to_pylist() == ids.to_pylist()
        assert loaded.vectors.tobytes() == vectors.tobytes()
        assert loaded.dtype == vectors.dtype
        assert loaded.bias.tobytes() == np.ascontiguousarray(vectors[:, 0]).tobytes()
        assert (loaded.comparator, loaded.id_type) == (comparator, table.id_type)
        assert loaded.rows(ids).tolist() == list(range(len(ids)))

    @pytest.mark.parametrize(
        "vectors",
        [
            np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2)),
            np.arange(12, dtype=np.float32).reshape(3, 4)[:, 1:3],
            np.arange(6, dtype=">f4").reshape(3, 2),
        ],
        ids=["fortran order", "some columns", "big endian"],
    )
    def test_other_layouts_become_c_order_and_little_endian(self, vectors, tmp_path):
        EmbeddingTable.from_arrays([1, 2, 3], vectors, entity="e", version="v").save(tmp_path / "t")
        data = (tmp_path / "t/vectors.npy").read_bytes()
        assert data[10:].startswith(b"{'descr': '<f4', 'fortran_order': False")
        assert data[128:] == vectors.astype("<f4").tobytes("C")

    def test_the_fingerprint_is_that_of_the_file(self, saved):
        digest = hashlib.sha256((saved / "vectors.npy").read_bytes()).hexdigest()
        assert make().fingerprint == digest
        assert EmbeddingTable.load(saved).fingerprint == digest

    def test_loading_maps_and_reads_no_ids(self, saved):
        table = EmbeddingTable.load(saved)
        assert isinstance(table.vectors.base, np.memmap)
        assert type(table.vectors) is np.ndarray
        assert not table.vectors.flags.writeable
        assert not {"ids", "index"} & set(vars(table._column))

    def test_a_loaded_table_can_be_saved_again(self, saved, tmp_path):
        EmbeddingTable.load(saved).save(tmp_path / "again")
        for name in ("vectors.npy", "bias.npy", "table.json"):
            assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()

    def test_unknown_keys_are_kept_or_passed_over(self, saved):
        edit(saved / "table.json", meta={"of": {"a later": ["release"]}}, later=1)
        assert EmbeddingTable.load(saved).meta == {"of": {"a later": ["release"]}}

    def test_a_pickled_loaded_table_carries_its_path_only(self, saved):
        table = EmbeddingTable.load(saved)
        table.rows(["a"])
        data = pickle.dumps(table)
        assert len(data) < 500
        assert pickle.loads(data).rows(["c"]).tolist() == [2]

    def test_a_pickled_table_in_memory_carries_its_arrays(self):
        again = pickle.loads(pickle.dumps(make(bias=np.ones(3, np.float16), meta={"k": 1}, comparator="l2")))
        assert again.vectors.tolist() == [[0, 1], [2, 3], [4, 5]]
        assert (again.meta, again.comparator, again.bias.tolist()) == ({"k": 1}, "l2", [1, 1, 1])


class TestIndexFile:
    @pytest.fixture(params=[["a", "bb", ""], [7, -7, 0]])
    def indexed(self, request, tmp_path, monkeypatch):
        monkeypatch.setattr(id_column, "_INDEXED_FROM", 3)
        return make(request.param).save(tmp_path / "t"), request.param

    def test_many_ids_bring_their_index(self, indexed, monkeypatch):
        path, ids = indexed
        assert "ids.index.npy" in json.loads((path / "table.json").read_text())["files"]
        monkeypatch.setattr(IdIndex, "build", None)  # it is read, not built
        table = EmbeddingTable.load(path, verify=True)
        assert table.rows(ids[::-1]).tolist() == [2, 1, 0]
        assert table.ids.to_pylist() == ids

    def test_the_index_of_other_ids_is_refused(self, indexed):
        path, ids = indexed
        other = IdIndex.build(pa.array([1, 2, 3, 4]))
        replace_file(path, "ids.index.npy", lambda file: np.save(file, other.words))
        with pytest.raises(FormatError, match=r"ids.index.npy indexes 4 ids, expected 3 of type"):
            EmbeddingTable.load(path).rows(ids)

    def test_an_index_of_a_later_layout_is_passed_over(self, indexed):
        path, ids = indexed
        words = np.load(path / "ids.index.npy")
        words[0] = 2
        replace_file(path, "ids.index.npy", lambda file: np.save(file, words[:9]))
        assert EmbeddingTable.load(path).rows(ids[::-1]).tolist() == [2, 1, 0]
        assert EmbeddingTable.load(path).ids.to_pylist() == ids

    def test_few_ids_do_not(self, saved):
        assert not (saved / "ids.index.npy").exists()


class TestDamage:
    @pytest.mark.parametrize("name", ["vectors.npy", "ids.parquet", "bias.npy"])
    def test_truncated(self, saved, name):
        size = (saved / name).stat().st_size
        with (saved / name).open("rb+") as file:
            file.truncate(size - 1)
        with pytest.raises(FormatError, match=f"{name} has {size - 1} bytes, expected {size}: it is truncated"):
            EmbeddingTable.load(saved)

    def test_grown(self, saved):
        with (saved / "vectors.npy").open("ab") as file:
            file.write(b"x")
        with pytest.raises(FormatError, match=r"vectors.npy has 153 bytes, expected 152"):
            EmbeddingTable.load(saved)

    def test_missing(self, saved):
        (saved / "vectors.npy").unlink()
        with pytest.raises(FormatError, match=r"vectors.npy is missing, expected 152 bytes"):
            EmbeddingTable.load(saved)

    def test_a_flipped_bit_is_found_by_verify(self, saved):
        data = bytearray((saved / "vectors.npy").read_bytes())
        data[-1] ^= 1
        (saved / "vectors.npy").write_bytes(data)
        EmbeddingTable.load(saved)
        with pytest.raises(ChecksumError, match=r"vectors.npy has the sha256 [0-9a-f]{64}, expected [0-9a-f]{64}"):
            EmbeddingTable.load(saved, verify=True)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {"format": "embedding-table/2"},
                "format 'embedding-table/2'; this release of recokit reads 'embedding-tab",
            ),
            ({"format": None}, "format None"),
            ({"count": 4}, r"holds <f4 \(3, 2\), expected <f4 \(4, 2\)"),
            ({"count": "3"}, "'count' is '3', expected an integer"),
            ({"count": True}, "'count' is True"),
            ({"dim": -2}, "'dim' is -2, expected an integer of 0 or more"),
            ({"dtype": "float16"}, r"holds <f4 \(3, 2\), expected <f2"),
            ({"dtype": "object"}, "dtype 'object', .* does not exist in embedding-table/1"),
            ({"dim": 0}, "dim 0, .* does not exist in embedding-table/1"),
            ({"comparator": "cosine"}, "comparator 'cosine': one of these does not exist"),
            ({"entity": None}, "'entity' is None, expected a string"),
            ({"meta": []}, "'meta' is \\[\\], expected an object"),
            ({"files": {}}, "'files' lacks 'ids.parquet'"),
            ({"files": None}, "'files' is None"),
        ],
    )
    def test_a_manifest_that_does_not_fit(self, saved, fields, message):
        edit(saved / "table.json", **fields)
        with pytest.raises(FormatError, match=message):
            EmbeddingTable.load(saved)

    @pytest.mark.parametrize("name", ["../vectors.npy", "/etc/hostname", "a/../../b", "..\\b", "C:b", ""])
    def test_a_path_that_leaves_the_folder(self, saved, name):
        files = json.loads((saved / "table.json").read_text())["files"]
        edit(saved / "table.json", files=files | {name: files["vectors.npy"]})
        with pytest.raises(FormatError, match="which is not inside its folder"):
            EmbeddingTable.load(saved)

    @pytest.mark.parametrize("entry", [5, {}, {"bytes": "3", "sha256": "0" * 64}, {"bytes": 3, "sha256": "x"}])
    def test_an_entry_without_size_or_digest(self, saved, entry):
        files = json.loads((saved / "table.json").read_text())["files"]
        edit(saved / "table.json", files=files | {"extra": entry})
        with pytest.raises(FormatError, match=r"files\['extra'\] is .* expected its bytes and its sha256"):
            EmbeddingTable.load(saved)

    def test_pickled_objects_are_never_read(self, saved):
        objects = np.array([[1, 2], [3, 4], [5, 6]], dtype=object)
        replace_file(saved, "vectors.npy", lambda path: np.save(path, objects, allow_pickle=True))
        with pytest.raises(FormatError, match=r"vectors.npy is not a readable .npy file"):
            EmbeddingTable.load(saved)

    @pytest.mark.parametrize(
        ("vectors", "message"),
        [
            (np.zeros((3, 2), ">f4"), r"holds >f4 \(3, 2\), expected <f4"),
            (np.asfortranarray(np.ones((3, 2), "<f4")), "is in Fortran order, expected C order"),
        ],
    )
    def test_another_layout(self, saved, vectors, message):
        replace_file(saved, "vectors.npy", lambda path: np.save(path, vectors))
        with pytest.raises(FormatError, match=message):
            EmbeddingTable.load(saved)

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            ({"id": ["a", "b"]}, r"columns \['id'\] of 2 rows, expected 'id' of 3"),
            ({"key": ["a", "b", "c"]}, r"columns \['key'\] of 3 rows"),
            ({"id": [1.0, 2.0, 3.0]}, "ids are double, expected int64 or string"),
        ],
    )
    def test_other_ids_are_refused_when_loading(self, saved, ids, message):
        replace_file(saved, "ids.parquet", lambda path: pq.write_table(pa.table(ids), path))
        with pytest.raises(FormatError, match=message):
            EmbeddingTable.load(saved)

    @pytest.mark.parametrize(
        ("ids", "message"),
        [(["a", "b", "a"], "'a' at rows 0 and 2"), (["a", None, "b"], "3 ids, 1 of them null")],
    )
    def test_ids_that_are_none_are_refused_when_looked_up(self, saved, ids, message):
        replace_file(saved, "ids.parquet", lambda path: pq.write_table(pa.table({"id": ids}), path))
        with pytest.raises(FormatError, match=message):
            EmbeddingTable.load(saved).rows(["a"])

    def test_what_is_no_table(self, tmp_path):
        with pytest.raises(FormatError, match="is not a table: there is no such folder"):
            EmbeddingTable.load(tmp_path / "nothing")
        with pytest.raises(FormatError, match=r"is not a table: it has no table.json"):
            EmbeddingTable.load(tmp_path)
        (tmp_path / "table.json").write_text("{")
        with pytest.raises(FormatError, match=r"table.json is not JSON"):
            EmbeddingTable.load(tmp_path)
        (tmp_path / "table.json").write_text("[]")
        with pytest.raises(FormatError, match="has the format None"):
            EmbeddingTable.load(tmp_path)

    def test_parquet_damaged_within_its_size(self, saved):
        size = (saved / "ids.parquet").stat().st_size
        replace_file(saved, "ids.parquet", lambda path: path.write_bytes(b"\0" * size))
        with pytest.raises(FormatError, match=r"ids.parquet is not a readable Parquet file"):
            EmbeddingTable.load(saved)


class TestAtomicity:
    def test_an_existing_path_is_refused_and_left_alone(self, saved):
        before = (saved / "table.json").read_bytes()
        with pytest.raises(VersionError, match="item exists already, and what is written is never changed"):
            make().save(saved)
        assert (saved / "table.json").read_bytes() == before

    @pytest.mark.parametrize("exists", ["file", "empty folder", "dangling link"])
    def test_whatever_it_is(self, tmp_path, exists):
        path = tmp_path / "x"
        if exists == "file":
            path.write_text("")
        elif exists == "empty folder":
            path.mkdir()
        else:
            path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(VersionError, match="exists already"):
            make().save(path)

    def test_the_slower_of_two_writers_is_refused(self, tmp_path):
        path = tmp_path / "t"

        def write_slowly():
            with new_folder(path) as folder:
                (folder / "mine").touch()
                make().save(path)

        with pytest.raises(VersionError, match="exists already"):
            write_slowly()
        assert EmbeddingTable.load(path, verify=True).count == 3
        assert [p.name for p in tmp_path.iterdir()] == ["t"]

    def test_an_error_leaves_nothing(self, tmp_path, monkeypatch):
        def fail(path, array):
            raise OSError("disk full")

        monkeypatch.setattr(vectors_module, "write_npy", fail)
        with pytest.raises(OSError, match="disk full"):
            make().save(tmp_path / "t")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
    def test_a_process_killed_while_saving_leaves_no_table(self, tmp_path):
        # Killed before the vectors are written, before the manifest is, and when all is there but the rename.
        script = f"""
            import os, pathlib, signal
            import numpy as np
            from recokit.table import EmbeddingTable, vectors

            def die(*arguments):
                os.kill(os.getpid(), signal.SIGKILL)

            table = EmbeddingTable.from_arrays(["a"], np.ones((1, 2), np.float32), entity="item", version="v1")
            for where, name in ((vectors, "write_npy"), (vectors, "write_json"), (pathlib.Path, "rename")):
                pid = os.fork()
                if pid == 0:
                    setattr(where, name, die)
                    table.save({str(tmp_path)!r} + "/" + name)
                status = os.waitpid(pid, 0)[1]
                if os.WTERMSIG(status) != signal.SIGKILL:
                    raise SystemExit("not killed")
        """
        root = Path(vectors_module.__file__).parents[2]
        subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=root, timeout=60)
        left = sorted(tmp_path.iterdir())
        assert len(left) == 3
        assert all(folder.name.startswith(".partial-") for folder in left)
        assert [len(list(folder.iterdir())) for folder in left] == [3, 2, 1]  # rename, write_json, write_npy
        for folder in left:
            with pytest.raises(FormatError, match="is what an interrupted write left, not a table: delete it"):
                EmbeddingTable.load(folder)
        for name in ("write_npy", "write_json", "rename"):
            with pytest.raises(FormatError, match="there is no such folder"):
                EmbeddingTable.load(tmp_path / name)
            make().save(tmp_path / name)  # and the name is still free
