"""Stores: what a name stands for, what is published, and how aliases move."""

import json
import threading
import uuid
from datetime import UTC, datetime, timedelta

import fsspec
import pytest
from store_helpers import KINDS, NOW, empty_store, publish, table
from store_server import shared_server

from recokit.errors import ChecksumError, ConfigError, FormatError, VersionError
from recokit.store import EmbeddingStore, open_source, records
from recokit.table import open_version, write_version


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    return empty_store(request.param, tmp_path)


def test_a_bucket_holds_a_store(tmp_path):
    server = shared_server()
    server.make_bucket("bucket")
    store = EmbeddingStore("s3://bucket/embeddings/", cache=tmp_path / "cache", options=server.options)
    assert (store.versions(), store.latest(), store.root) == ([], None, "s3://bucket/embeddings")
    publish(store, "v1", "v2")
    other = EmbeddingStore("s3://bucket/embeddings", cache=tmp_path / "other", options=server.options)
    assert other.versions() == ["v1", "v2"]
    assert other.open("latest", verify=True).table("user").vectors.tolist() == [[0, 1], [2, 3]]
    other.set_alias("production", "v1", expected=None)
    assert store.aliases() == {"production": "v1"}
    with pytest.raises(VersionError, match="at v1, expected v2"):
        store.set_alias("production", "v2", expected="v2")
    with pytest.raises(VersionError, match="s3://bucket/embeddings has a version 'v1', and what is published is never"):
        store.publish("v1", {"user": table("v1")})
    store.set_alias("production", "latest")
    store.retire("v1")
    assert store.collect(grace=NOW).removed == ("v1",)
    fs = fsspec.filesystem("s3", **server.options)
    assert sorted(path.removeprefix("bucket/embeddings/").split("/")[0] for path in fs.find("bucket")) == [
        *[".aliases"] * 2,
        ".store.json",
        *["v2"] * 4,
    ]
    options = {"options": server.options, "cache": tmp_path / "other"}
    assert open_source("s3://bucket/embeddings@production", **options).name == "v2"
    assert open_source("s3://bucket/embeddings/v2", **options).name == "v2"


class TestNames:
    def test_a_name_an_alias_and_latest(self, store):
        assert (store.versions(), store.latest(), store.aliases(), store.retired()) == ([], None, {}, [])
        with pytest.raises(VersionError, match="has no versions"):
            store.open("latest")
        publish(store, "b", "a")
        store.set_alias("production", "b")
        assert store.versions() == ["b", "a"]
        assert [store.resolve(name) for name in ("b", "production", "latest")] == ["b", "b", "a"]
        opened = store.open("production", verify=True)
        assert (opened.name, opened.table("user").vectors.tolist()) == ("b", [[0, 1], [2, 3]])
        with pytest.raises(VersionError, match=r"has no version 'productoin'; did you mean 'production'\?"):
            store.resolve("productoin")
        with pytest.raises(ConfigError, match=r"the version's name is '../a'"):
            store.open("../a")

    def test_reports_are_published_with_a_version(self, store):
        store.publish("v1", {"user": table("v1")}, reports={"benchmarks.json": "{}"}, parent="v0")
        opened = store.open("v1")
        assert opened.reports["benchmarks.json"].read_text() == "{}"
        assert (opened.parent, store.show("v1")["reports"]) == ("v0", ["benchmarks.json"])

    def test_an_alias_and_a_version_never_share_a_name(self, store):
        publish(store, "v1", "v2")
        store.set_alias("production", "v1")
        for name in ("v2", "latest"):
            with pytest.raises(ConfigError, match=f"an alias cannot be called '{name}'"):
                store.set_alias(name, "v1")
        for name in ("production", "latest"):
            with pytest.raises(VersionError, match=f"a version cannot be called '{name}'"):
                publish(store, name)

    def test_a_manifest_that_cannot_be_read_is_passed_over_and_told_of(self, tmp_path):
        store = EmbeddingStore(f"memory://{uuid.uuid4().hex}", cache=tmp_path)
        publish(store, "v1")
        store._place.create("v2/version.json", b"{")
        store._place.create("v3/user/table.json", b"{}")  # an upload that is under way
        with pytest.warns(UserWarning, match=r"v2 is passed over: .*v2/version.json is not JSON"):
            assert store.versions() == ["v1"]
        with pytest.raises(FormatError, match="is not JSON"):
            store.open("v2")

    def test_a_folder_called_otherwise_than_its_version_is_none(self, tmp_path):
        publish(EmbeddingStore(tmp_path), "v1")
        (tmp_path / "copy").symlink_to("v1")
        assert EmbeddingStore(tmp_path).versions() == ["v1"]

    def test_a_folder_of_another_name_stands_for_its_version_only_where_that_is_there(self, tmp_path):
        store = EmbeddingStore(tmp_path)
        publish(store, "v1")
        (tmp_path / "copy").symlink_to("v1")
        assert store.open("copy").path == tmp_path / "v1"
        (tmp_path / "copy").unlink()
        (tmp_path / "v1").rename(tmp_path / "copy")
        with pytest.raises(VersionError, match=r"copy holds a version called 'v1': the folder has to be called so"):
            store.open("copy")

    def test_a_folder_whose_name_looks_like_a_pattern_is_none(self, tmp_path):
        store = EmbeddingStore(f"memory://{uuid.uuid4().hex}/a[b]*", cache=tmp_path)
        publish(store, "v1", "v2")
        assert store.versions() == ["v1", "v2"]

    @pytest.mark.parametrize("tables", [[3], [{"name": "user"}], [{"path": "user", "name": 3}]])
    def test_a_manifest_without_proper_tables_is_passed_over(self, tmp_path, tables):
        store = EmbeddingStore(tmp_path)
        publish(store, "v1", "v2")
        path = tmp_path / "v2/version.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "tables": tables}))
        with pytest.warns(UserWarning, match="v2 is passed over: .*'tables' holds"):
            assert [row["version"] for row in store.summaries()] == ["v1"]

    def test_a_file_url_is_a_folder(self, tmp_path):
        publish(EmbeddingStore(f"file://{tmp_path}/a%20b"), "v1")
        store = EmbeddingStore(tmp_path / "a b")
        assert store.versions() == ["v1"]
        assert store.root == tmp_path / "a b"
        for text in ("@latest", "/v1"):
            assert open_source(f"file://{tmp_path}/a%20b{text}").path == tmp_path / "a b/v1"


class TestSource:
    def test_a_version_by_its_folder_or_by_a_store_and_a_name(self, tmp_path, monkeypatch):
        store = EmbeddingStore(tmp_path / "me@home/store")
        publish(store, "v1", "v2")
        store.set_alias("production", "v1")
        texts = {"store/v1": "v1", "store@v2": "v2", "store@production": "v1", "store@latest": "v2", "store/v2/": "v2"}
        for text, name in texts.items():
            assert open_source(str(tmp_path / "me@home" / text)).name == name
            assert open_source(tmp_path / "me@home" / text).name == name
        monkeypatch.chdir(tmp_path / "me@home")
        assert open_source("store@latest").path == tmp_path / "me@home/store/v2"

    def test_at_a_url(self, tmp_path):
        url = f"memory://me@{uuid.uuid4().hex}/store"  # an @ that is none of ours
        publish(EmbeddingStore(url, cache=tmp_path), "v1")
        for text in ("@latest", "/v1", "@v1", "/v1/"):
            assert open_source(url + text, cache=tmp_path).table("user").ids.to_pylist() == [0, 1]

    def test_what_is_none_is_refused_with_what_there_is(self, tmp_path):
        publish(EmbeddingStore(tmp_path / "store"), "v1")
        with pytest.raises(
            FormatError, match=r"is a store, not a version: say which one, .*store@latest or .*store@v1"
        ):
            open_source(tmp_path / "store")
        with pytest.raises(FormatError, match=r"no such folder; STORE@NAME is opened by recokit\.store\.open_source"):
            open_version(f"{tmp_path}/store@latest")
        with pytest.raises(FormatError, match=r"there is no such folder$"):
            open_source(tmp_path / "nothing")
        with pytest.raises(VersionError, match="has no version 'v2'; known: v1"):
            open_source(f"{tmp_path}/store@v2")
        url = f"memory://{uuid.uuid4().hex}/store"
        publish(EmbeddingStore(url, cache=tmp_path), "v1")
        with pytest.raises(FormatError, match=f"{url} is a store, not a version: say which one, {url}@latest or"):
            open_source(url, cache=tmp_path)
        for url in ("s3://bucket", "memory://place/"):
            with pytest.raises(FormatError, match=f"names no version: {url.rstrip('/')}@latest"):
                open_source(url)
        with pytest.raises(ConfigError, match=r"file://tmp/store@latest names the host 'tmp': .* is file:///path"):
            open_source("file://tmp/store@latest")


class TestPublishedFolders:
    def test_a_folder_is_published_and_stays(self, store, tmp_path):
        made = write_version(tmp_path / "work/v1", {"user": table("v1")}, reports={"card.md": "# v1"})
        done = []
        published = store.publish_folder(made.path, name="v1", progress=lambda *at: done.append(at))
        size = sum(file.stat().st_size for file in made.path.rglob("*") if file.is_file())
        assert published.table("user").vectors.tolist() == [[0, 1], [2, 3]]
        assert {total for _, total in done} == {size}
        assert done[-1][0] == size - (made.path / "version.json").stat().st_size
        assert store.open("v1", verify=True).reports["card.md"].read_text() == "# v1"
        assert open_version(made.path, verify=True).name == "v1"
        assert store.publish_folder(made.path).name == "v1"  # it is there, byte for byte
        assert store.versions() == ["v1"]

    def test_what_was_retired_is_not_published_by_doing_it_again(self, store, tmp_path):
        made = write_version(tmp_path / "work/v1", {"user": table("v1")})
        store.publish_folder(made.path)
        store.retire("v1", force=True)
        with pytest.raises(VersionError, match=r"version 'v1' of .* was retired on .* brings it back"):
            store.publish_folder(made.path)

    def test_bytes_that_have_changed_are_not_published_though_their_number_has_not(self, store, tmp_path):
        made = write_version(tmp_path / "work/v1", {"user": table("v1")})
        path = made.path / "user/vectors.npy"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(ChecksumError, match=r"work/v1/user/vectors.npy has the sha256"):
            store.publish_folder(made.path)
        assert store.versions() == []

    def test_of_a_symbolic_link_what_it_leads_to_is_published(self, store, tmp_path):
        made = write_version(tmp_path / "work/v1", {"user": table("v1")})
        path = made.path / "user/vectors.npy"
        path.rename(tmp_path / "blob")
        path.symlink_to("../../../blob")
        published = store.publish_folder(made.path)
        (tmp_path / "blob").unlink()
        assert store.open("v1").table("user").vectors.tolist() == [[0, 1], [2, 3]]
        assert not (published.path / "user/vectors.npy").is_symlink() or published.path == made.path

    def test_another_one_of_its_name_is_refused(self, store, tmp_path):
        publish(store, "v1")
        made = write_version(tmp_path / "work/v1", {"user": table("v1", count=5)})
        with pytest.raises(VersionError, match=r"v1.* and what is (published|written) is never changed"):
            store.publish_folder(made.path)
        with pytest.raises(VersionError, match="is version 'v1', expected 'v2'"):
            store.publish_folder(made.path, name="v2")
        assert store.open("v1").table("user").count == 2

    def test_a_damaged_folder_is_refused_and_nothing_stays(self, tmp_path):
        made = write_version(tmp_path / "work/v1", {"user": table("v1")}).path
        file = made / "user/vectors.npy"
        file.write_bytes(file.read_bytes()[:-1] + b"\7")
        store = EmbeddingStore(f"memory://{uuid.uuid4().hex}", cache=tmp_path)
        with pytest.raises(
            ChecksumError, match=r"vectors.npy has the sha256 \w+, expected \w+: its bytes have changed"
        ):
            store.publish_folder(made)
        assert list(store._place.files("")) == [".store.json"]
        file.write_bytes(b"")
        with pytest.raises(FormatError, match=r"vectors.npy has 0 bytes"):
            store.publish_folder(made)

    def test_files_are_linked_on_one_file_system_and_copied_and_checked_on_two(self, tmp_path, monkeypatch):
        made = write_version(tmp_path / "work/v1", {"user": table("v1")}).path
        EmbeddingStore(tmp_path / "a").publish_folder(made)
        assert (tmp_path / "a/v1/user/vectors.npy").samefile(made / "user/vectors.npy")

        def other_device(*_, **__):
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr("recokit.store.publication.os.link", other_device)
        copied = EmbeddingStore(tmp_path / "b").publish_folder(made)
        assert not (copied.path / "user/vectors.npy").samefile(made / "user/vectors.npy")
        assert open_version(copied.path, verify=True).table("user").vectors.tolist() == [[0, 1], [2, 3]]
        file = made / "user/vectors.npy"
        data = file.read_bytes()
        file.write_bytes(data[:-1] + b"\7")
        with pytest.raises(ChecksumError, match="its bytes have changed"):
            EmbeddingStore(tmp_path / "c").publish_folder(made)
        assert list((tmp_path / "c").iterdir()) == []


class TestAliases:
    def test_every_move_stays_on_record(self, store):
        publish(store, "v1", "v2")
        before = datetime.now(UTC) - timedelta(seconds=1)
        store.set_alias("production", "v1", expected=None)
        store.set_alias("production", "v2", expected="v1")
        assert store.set_alias("production", "v2").number == 2  # it is there
        store.set_alias("production", "v1")
        store.remove_alias("production", expected="v1")
        history = store.alias_history("production")
        assert [(move.number, move.version) for move in history] == [(1, "v1"), (2, "v2"), (3, "v1"), (4, None)]
        assert all(before < move.moved < datetime.now(UTC) + timedelta(seconds=1) for move in history)
        assert {move.by for move in history} == {records.author()}
        assert (store.aliases(), store.alias_history("other")) == ({}, [])
        with pytest.raises(VersionError, match="has no alias 'production'"):
            store.remove_alias("production")
        store.set_alias("production", "v2", expected=None)
        assert store.alias_history("production")[-1].number == 5

    def test_only_from_where_it_is_expected(self, store):
        publish(store, "v1", "v2")
        with pytest.raises(VersionError, match=r"alias 'production' of .* is at no version, expected v1"):
            store.set_alias("production", "v2", expected="v1")
        store.set_alias("production", "v1")
        with pytest.raises(VersionError, match="is at v1, expected None"):
            store.set_alias("production", "v2", expected=None)
        with pytest.raises(VersionError, match="is at v1, expected v2"):
            store.remove_alias("production", expected="v2")
        assert store.aliases() == {"production": "v1"}

    def test_back_goes_further_back_each_time(self, store):
        publish(store, "v24", "v25", "v26", "v27")
        for name in ("v24", "v25", "v26", "v27"):
            store.set_alias("production", name)
        move = store.roll_back("production", "a bad night")
        assert (move.version, move.back, move.reason) == ("v26", 3, "a bad night")
        assert store.roll_back("production").version == "v25"
        store.set_alias("production", "v27", reason="mended")
        assert store.roll_back("production").version == "v25"  # from where it went on
        assert store.roll_back("production").version == "v24"
        with pytest.raises(VersionError, match="is at v24, and was at no other version before"):
            store.roll_back("production")
        history = [(move.version, move.back, move.reason) for move in store.alias_history("production")]
        assert history[3:] == [
            ("v27", None, None),
            ("v26", 3, "a bad night"),
            ("v25", 2, None),
            ("v27", None, "mended"),
            ("v25", 2, None),
            ("v24", 1, None),
        ]
        with pytest.raises(VersionError, match=r"has no alias 'prodution'; did you mean 'production'\?"):
            store.roll_back("prodution")

    def test_back_passes_over_what_is_retired(self, store):
        publish(store, "v1", "v2", "v3")
        for name in ("v1", "v2", "v3"):
            store.set_alias("production", name)
        store.retire("v2")
        assert store.roll_back("production").version == "v1"
        store.set_alias("production", "v3")
        store.retire("v1")
        with pytest.raises(VersionError, match="is at v3, and was at v1 before, which are retired or removed"):
            store.roll_back("production")
        store.remove_alias("production", reason="moved house")
        assert store.alias_history("production")[-1].reason == "moved house"
        with pytest.raises(VersionError, match="has no alias 'production'"):
            store.roll_back("production")

    def test_a_version_that_was_removed_is_told_as_such(self, store):
        publish(store, "v1", "v2")
        store.set_alias("production", "v1")
        store.set_alias("production", "v2")
        store.retire("v1")
        store.collect(grace=timedelta(0))
        with pytest.raises(VersionError, match=r"'v1' of .* has been removed: alias 'production' came to it on 20"):
            store.open("v1")
        with pytest.raises(VersionError, match="has no version 'v0'; known: production, v2"):
            store.open("v0")

    def test_moves_without_back_and_reason_are_moves_on(self, tmp_path):
        store = EmbeddingStore(tmp_path)
        publish(store, "v1", "v2")
        folder = tmp_path / ".aliases/production"
        folder.mkdir(parents=True)
        for number in (1, 2):
            entry = {"format": "alias-move/1", "version": f"v{number}", "moved": "2026-06-01T00:00:00Z", "by": "me"}
            (folder / f"00000{number}.json").write_text(json.dumps(entry))
        assert [(move.back, move.reason) for move in store.alias_history("production")] == [(None, None)] * 2
        assert (store.roll_back("production").version, store.aliases()) == ("v1", {"production": "v1"})

    def test_moves_past_the_millionth_are_in_order(self, tmp_path):
        store = EmbeddingStore(tmp_path)
        publish(store, "v1", "v2")
        folder = tmp_path / ".aliases/production"
        folder.mkdir(parents=True)
        entry = {"format": "alias-move/1", "version": "v1", "moved": "2026-06-01T00:00:00Z", "by": "me"}
        (folder / "999999.json").write_text(json.dumps(entry))
        (folder / "notes.txt").write_text("")
        assert store.set_alias("production", "v2").number == 1_000_000
        assert store.aliases() == {"production": "v2"}

    def test_threads_lose_no_move(self, store):
        publish(store, "v0", "v1", "v2", "v3")
        barrier = threading.Barrier(3)

        def move(worker):
            barrier.wait()
            for _ in range(5):
                store.set_alias("production", f"v{worker}")
                store.set_alias("production", "v0")

        threads = [threading.Thread(target=move, args=(worker,)) for worker in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        history = store.alias_history("production")
        assert [move.number for move in history] == list(range(1, len(history) + 1))
        assert [sum(move.version == f"v{worker}" for move in history) for worker in (1, 2, 3)] == [5, 5, 5]
