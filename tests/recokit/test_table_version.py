"""Versions and the store: what is published, in which order, and what is refused."""

import hashlib
import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from recokit.errors import ChecksumError, ConfigError, DataError, FormatError, VersionError
from recokit.store import EmbeddingStore
from recokit.table import EmbeddingTable, RelationParameters, open_version, write_version
from recokit.table import folder as folder_module
from recokit.table.folder import new_folder, write_json


def table(version="v1", entity="user", count=2):
    vectors = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    return EmbeddingTable.from_arrays(range(count), vectors, entity=entity, version=version)


RELATION = RelationParameters("clicks", "user", "item", "translation", np.array([1, 2], np.float32))
JUNE = datetime(2026, 6, 1, 12, tzinfo=UTC)


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_version_json_says_all_that_the_format_promises(tmp_path):
    version = write_version(
        tmp_path / "v1",
        {"user": table(), "item-engagement": table(entity="item", count=3)},
        relations=[RELATION],
        parent="v0",
        meta={"split": "2026-05-25"},
        networks={"item-engagement": "engagement"},
        created=JUNE,
    )
    manifest = json.loads((tmp_path / "v1/version.json").read_text())
    files = manifest.pop("files")
    shared = {"kind": "vectors", "components": None}
    assert manifest == {
        "format": "embedding-version/1",
        "version": "v1",
        "created": "2026-06-01T12:00:00Z",
        "parent": "v0",
        "tables": [
            {"name": "user", "path": "user", "entity": "user", "network": None, **shared},
            {
                "name": "item-engagement",
                "path": "item-engagement",
                "entity": "item",
                "network": "engagement",
                **shared,
            },
        ],
        "meta": {"split": "2026-05-25"},
    }
    there = [p.relative_to(tmp_path / "v1").as_posix() for p in (tmp_path / "v1").rglob("*") if p.is_file()]
    assert sorted([*files, "version.json"]) == sorted(there)
    for name, entry in files.items():
        data = (tmp_path / "v1" / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert (version.name, version.parent, version.created, version.meta) == ("v1", "v0", JUNE, {"split": "2026-05-25"})
    assert list(version.tables) == ["user", "item-engagement"]
    assert version.tables["item-engagement"].network == "engagement"
    assert version.table("item-engagement").vectors.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert version.relations["clicks"].apply(version.table("user").vectors).tolist() == [[1, 3], [3, 5]]


def test_the_state_of_a_training_stands_beside_the_tables(tmp_path):
    state = {"vectors-user": np.float32([1, 2]), "degrees-user": np.array([3, 4])}
    written = write_version(tmp_path / "v1", {"user": table()}, state=state)
    for version in (written, open_version(tmp_path / "v1", verify=True)):
        assert {name: array.tolist() for name, array in version.state.items()} == {
            "vectors-user": [1, 2],
            "degrees-user": [3, 4],
        }
        assert version.state["degrees-user"].dtype == np.int64
    files = json.loads((tmp_path / "v1/version.json").read_text())["files"]
    data = (tmp_path / "v1/state/vectors-user.npy").read_bytes()
    assert files["state/vectors-user.npy"] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (tmp_path / "v1/state/vectors-user.npy").write_bytes(data[:-1])
    with pytest.raises(FormatError, match=r"vectors-user.npy has \d+ bytes, expected \d+"):
        open_version(tmp_path / "v1")
    assert write_version(tmp_path / "v2", {"user": table("v2")}).state == {}
    with pytest.raises(ConfigError, match="the name of a state is 'a/b'"):
        write_version(tmp_path / "v3", {"user": table("v3")}, state={"a/b": np.zeros(1)})
    with pytest.raises(ConfigError, match="a table cannot be called 'state'"):
        write_version(tmp_path / "v3", {"state": table("v3")})
    assert not (tmp_path / "v3").exists()


def test_the_files_of_a_table_are_hashed_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(folder_module.hashlib, "file_digest", lambda file, name: read.append(file.name))
    monkeypatch.setattr("recokit.table.folder.sha256_of", lambda path: read.append(path.name) or "0" * 64)
    write_version(tmp_path / "v1", {"user": table()}, relations=[RELATION])
    assert read == ["table.json"]


def test_created_is_kept_in_utc(tmp_path):
    at = datetime(2026, 6, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert write_version(tmp_path / "a", {"user": table("a")}, created=at).created.isoformat() == (
        "2026-05-31T23:00:00+00:00"
    )
    before = datetime.now(UTC)
    assert before <= write_version(tmp_path / "b", {"user": table("b")}).created <= datetime.now(UTC)
    with pytest.raises(ConfigError, match="expected a time with a time zone"):
        write_version(tmp_path / "c", {"user": table("c")}, created=datetime(2026, 6, 1))


def test_a_version_without_relations(tmp_path):
    assert write_version(tmp_path / "v1", {"user": table()}).relations == {}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tables": {"user": table("v2")}}, VersionError, "table 'user' is of version 'v2', expected 'v1'"),
        ({"tables": {"a/b": table()}}, ConfigError, "a table's name is 'a/b': expected 1 to 200 of the letters"),
        ({"tables": {"..": table()}}, ConfigError, "a table's name is '..'"),
        ({"tables": {"relations": table()}}, ConfigError, "a table cannot be called 'relations'"),
        ({"networks": {"usr": "follow"}}, ConfigError, "networks names the table 'usr'; did you mean 'user'"),
        ({"meta": {"a": float("nan")}}, DataError, "meta of version 'v1' cannot be written as JSON"),
        ({"relations": [RELATION, RELATION]}, DataError, "relation 'clicks' is there 2 times"),
    ],
)
def test_what_cannot_be_a_version_is_refused_and_leaves_nothing(change, error, message, tmp_path):
    arguments = {"tables": {"user": table()}} | change
    with pytest.raises(error, match=message):
        write_version(tmp_path / "v1", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", ".hidden", "-x", "ä", "x" * 201, "a:b"])
def test_names_that_no_folder_can_have_everywhere(name, tmp_path):
    with pytest.raises(ConfigError, match="the version's name is"):
        EmbeddingStore(tmp_path).publish(name, {"user": table(name)})


def test_a_table_is_opened_once(tmp_path):
    version = write_version(tmp_path / "v1", {"user": table()})
    assert version.table("user") is version.table("user")


@pytest.mark.parametrize("use", [open_version, EmbeddingTable.load, table().save])
def test_urls_are_refused_rather_than_taken_for_folders(use):
    with pytest.raises(ConfigError, match="s3://bucket/v1 is a URL: only local folders are supported"):
        use("s3://bucket/v1")
    with pytest.raises(ConfigError, match="s3:/bucket/v1 is a URL: only local folders are supported"):
        use(Path("s3://bucket/v1"))


def test_what_only_looks_a_little_like_a_url_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folder_module.local_folder("C:/tables") == tmp_path / "C:/tables"
    assert folder_module.local_folder("/a/s3:/b") == Path("/a/s3:/b")
    assert folder_module.local_folder("a:b/c") == tmp_path / "a:b/c"


def test_relative_paths_outlive_a_change_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = write_version("v1", {"user": table()}, relations=[RELATION])
    version, store, loaded = open_version("v1"), EmbeddingStore("."), EmbeddingTable.load("v1/user")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert loaded.ids.to_pylist() == [0, 1]
    assert loaded.path == tmp_path / "v1/user"
    for each in (written, version, store.open("v1")):
        assert each.table("user").rows([1, 5]).tolist() == [1, -1]
        assert list(each.relations) == ["clicks"]


def test_a_table_that_is_not_there(tmp_path):
    version = write_version(tmp_path / "v1", {"user": table()})
    with pytest.raises(ConfigError, match="version 'v1' has no table 'usr'; did you mean 'user'"):
        version.table("usr")


@dataclass
class Mixture:
    """A table of another kind: a version holds it as long as it can save itself."""

    entity: str = "user"
    version: str = "v1"
    kind: str = "mixture"

    def save(self, path):
        with new_folder(path) as folder:
            write_json(folder / "table.json", {"format": "mixture-table/1", "components": "item", "files": {}})
        return path


def test_tables_of_other_kinds(tmp_path):
    version = write_version(tmp_path / "v1", {"user-interests": Mixture(), "item": table(entity="item")})
    entry = version.tables["user-interests"]
    assert (entry.kind, entry.components, entry.path) == ("mixture", "item", tmp_path / "v1/user-interests")
    with pytest.raises(ConfigError, match="table 'user-interests' of version 'v1' is of kind 'mixture'"):
        version.table("user-interests")


def test_unknown_fields_of_a_table_are_kept(tmp_path):
    path = write_version(tmp_path / "v1", {"user": table()}).path / "version.json"
    entry = json.loads(path.read_text())["tables"][0]
    edit(path, tables=[entry | {"kind": "hashes", "buckets": 7}], later=[])
    opened = open_version(tmp_path / "v1").tables["user"]
    assert (opened.kind, opened.extra) == ("hashes", {"buckets": 7})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "embedding-version/2"}, "this release of recokit reads 'embedding-version/1'"),
        ({"created": "yesterday"}, "'created' is 'yesterday', expected an ISO 8601 time"),
        ({"tables": [{"name": "user"}]}, "'path' is None, expected a string"),
        ({"tables": [5]}, "'tables' holds 5, expected objects"),
        (
            {"tables": [{"name": "user", "path": "../v0/user", "entity": "user", "kind": "vectors"}]},
            "names the path '../v0/user', which is not inside its folder",
        ),
        ({"files": {"../x": {"bytes": 1, "sha256": "0" * 64}}}, "'../x', which is not inside its folder"),
    ],
)
def test_a_manifest_that_does_not_fit(fields, message, tmp_path):
    path = write_version(tmp_path / "v1", {"user": table()}).path
    edit(path / "version.json", **fields)
    with pytest.raises(FormatError, match=message):
        open_version(path)


def test_a_damaged_version(tmp_path):
    path = write_version(tmp_path / "v1", {"user": table()}, relations=[RELATION]).path
    block = path / "relations/translation.npy"
    data = bytearray(block.read_bytes())
    data[-1] ^= 1
    block.write_bytes(data)
    open_version(path)
    with pytest.raises(ChecksumError, match=r"translation.npy has the sha256"):
        open_version(path, verify=True)
    block.write_bytes(data[:-1])
    with pytest.raises(FormatError, match=r"translation.npy has 135 bytes, expected 136"):
        open_version(path)


class TestStore:
    def test_versions_are_in_the_order_of_their_making_and_ties_of_their_names(self, tmp_path):
        store = EmbeddingStore(tmp_path / "embeddings")
        assert (store.versions(), store.latest()) == ([], None)
        for name, hours in (("b", 1), ("a", 2), ("d", 0), ("c", 1)):
            store.publish(name, {"user": table(name)}, created=JUNE + timedelta(hours=hours))
        assert store.versions() == ["d", "b", "c", "a"]
        assert store.latest().name == "a"
        assert store.open("b", verify=True).table("user").version == "b"

    def test_a_name_is_published_once(self, tmp_path):
        store = EmbeddingStore(tmp_path)
        store.publish("v1", {"user": table()})
        with pytest.raises(VersionError, match="v1 exists already, and what is written is never changed"):
            store.publish("v1", {"user": table(count=5)})
        assert store.latest().table("user").count == 2

    def test_of_many_publishers_one_wins_and_its_version_is_whole(self, tmp_path):
        store, barrier, outcomes = EmbeddingStore(tmp_path), threading.Barrier(8), []

        def publish(count):
            barrier.wait()
            try:
                store.publish("v1", {"user": table(count=count)})
                outcomes.append(count)
            except VersionError:
                outcomes.append(None)

        threads = [threading.Thread(target=publish, args=(count,)) for count in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [count for count in outcomes if count]
        assert len(outcomes) == 8
        assert store.open("v1", verify=True).table("user").count == winner
        assert [p.name for p in tmp_path.iterdir()] == ["v1"]

    def test_what_is_no_version_is_not_seen(self, tmp_path):
        store = EmbeddingStore(tmp_path)
        store.publish("v1", {"user": table()})
        store.publish("v2", {"user": table("v2")})
        (tmp_path / "v2/version.json").unlink()  # as on an object store before the commit
        (tmp_path / "notes.txt").write_text("")
        (tmp_path / "production").symlink_to("v1")  # an alias
        (tmp_path / ".partial-v3-0").mkdir()
        (tmp_path / ".partial-v3-0/version.json").write_text("{")  # killed before the rename
        assert store.versions() == ["v1"]
        assert store.latest().name == "v1"
        assert open_version(tmp_path / "production").name == "v1"
        with pytest.raises(VersionError, match="has no version 'v2'; known: v1"):
            store.open("v2")
        with pytest.raises(VersionError, match="v2 exists already"):
            store.publish("v2", {"user": table("v2")})

    @pytest.mark.parametrize(
        ("text", "message"),
        [('{"format": "embedding-version/2"}', "embedding-version/2"), ("{", "is not JSON"), ("[]", "format None")],
    )
    def test_a_folder_that_cannot_be_read_is_passed_over_with_a_warning(self, text, message, tmp_path):
        store = EmbeddingStore(tmp_path)
        store.publish("v1", {"user": table()})
        (store.publish("v2", {"user": table("v2")}).path / "version.json").write_text(text)
        with pytest.warns(UserWarning, match=f"v2 is passed over: .*{message}"):
            assert store.versions() == ["v1"]
        with pytest.warns(UserWarning, match="v2 is passed over"):
            assert store.latest().name == "v1"
        with pytest.raises(FormatError, match=message):
            store.open("v2")

    def test_a_table_of_an_unknown_kind_leaves_the_others_readable(self, tmp_path):
        store = EmbeddingStore(tmp_path)
        store.publish("v1", {"new": Mixture(kind="hologram"), "item": table(entity="item")})
        assert store.versions() == ["v1"]
        version = store.latest()
        assert version.tables["new"].kind == "hologram"
        assert version.table("item").rows([1]).tolist() == [1]
        with pytest.raises(ConfigError, match="kind 'hologram', expected 'vectors'"):
            version.table("new")
