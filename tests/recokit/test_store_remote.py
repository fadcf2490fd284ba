"""Stores of objects: claims of publishers, copies of readers, and what a file system has to be able to do."""

import os
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from store_helpers import NOW, publish, table
from store_server import shared_server

from recokit import store as store_module
from recokit.errors import ChecksumError, ConfigError, MissingDependencyError, VersionError
from recokit.store import EmbeddingStore, claims, collection, places, records, trim_cache
from recokit.store.places import LocalPlace, RemotePlace, place_of
from recokit.table import write_version


class TestClaims:
    """Publication to an object store, where files of one name from two publishers would mix."""

    @pytest.fixture
    def remote(self, tmp_path):
        return EmbeddingStore(f"memory://{uuid.uuid4().hex}", cache=tmp_path / "cache")

    @pytest.fixture
    def made(self, tmp_path):
        return write_version(tmp_path / "work/v1", {"user": table("v1")}).path

    def elsewhere(self, monkeypatch):
        other = records.Process("other-host boot pid:[1]", 17, "1")
        monkeypatch.setattr(claims, "this_process", lambda: other)

    def test_a_second_publisher_is_told_who_came_first(self, remote, made, monkeypatch):
        self.elsewhere(monkeypatch)
        claims.take_claim(remote._place, "v1")
        monkeypatch.undo()
        said = rf"'v1' is being published to memory://.* by {records.author()}, process 17, since .* `recokit store aba"
        with pytest.raises(VersionError, match=said):
            remote.publish_folder(made)
        remote._place.create("v1/user/half.npy", b"1")
        assert remote.versions() == []
        assert remote.abandon("v1") == 1
        with pytest.raises(VersionError, match="nobody is publishing a version 'v1'"):
            remote.abandon("v1")
        assert remote.publish_folder(made).name == "v1"
        assert sorted(remote._place.files("")) == [
            ".store.json",
            "v1/user/ids.parquet",
            "v1/user/table.json",
            "v1/user/vectors.npy",
            "v1/version.json",
        ]

    def test_a_publisher_that_was_given_up_fails_and_removes_nothing(self, remote, made, monkeypatch):
        upload, done = RemotePlace.upload, []

        def given_up(place, source, path):
            upload(place, source, path)
            if path.endswith("vectors.npy") and not done:
                done.append(remote.abandon("v1"))
                assert remote.publish_folder(made).name == "v1"

        monkeypatch.setattr(RemotePlace, "upload", given_up)
        with pytest.raises(VersionError):
            remote.publish_folder(made)
        monkeypatch.undo()
        assert done == [2]
        assert remote.open("v1", verify=True).table("user").count == 2
        assert remote._place.names(".publishing/v1") == []

    def test_a_publisher_whose_place_was_taken_does_not_commit(self, remote, made, monkeypatch):
        upload, taken = RemotePlace.upload, []

        def take(place, source, path):
            upload(place, source, path)
            if path.endswith("table.json"):  # the last one; whoever takes its place has removed nothing yet
                taken.append(claims.take_claim(place, "v1", over=claims.current_claim(place, "v1")))

        monkeypatch.setattr(RemotePlace, "upload", take)
        with pytest.raises(VersionError, match="its publication was given up, or taken over by another"):
            remote.publish_folder(made)
        assert (remote.versions(), len(remote._place.files("v1"))) == ([], 3)  # they are the other one's to remove
        assert claims.current_claim(remote._place, "v1") == taken[0]

    def test_a_claim_is_taken_over_only_while_it_counts(self, remote):
        first = claims.take_claim(remote._place, "v1")
        second = claims.take_claim(remote._place, "v1", over=first)
        with pytest.raises(VersionError, match="is being published"):
            claims.take_claim(remote._place, "v1", over=first)
        assert (first.number, second.number) == (1, 2)
        claims.release(remote._place, second)
        assert claims.current_claim(remote._place, "v1") is None

    def test_what_a_dead_publisher_uploaded_is_never_taken_for_ones_own(self, remote, made, monkeypatch):
        claims.take_claim(remote._place, "v1")
        remote._place.create("v1/user/ids.parquet", b"half")
        remote._place.create("v1/user/odd.npy", b"of another try")
        monkeypatch.setattr(records, "_started", lambda pid: "another")
        remote.publish_folder(made)
        assert remote.open("v1", verify=True).table("user").ids.to_pylist() == [0, 1]
        assert len(remote._place.files("v1")) == 4

    def test_what_an_error_interrupts_is_removed_again(self, remote, made, monkeypatch):
        upload = RemotePlace.upload

        def failing(place, source, path):
            if path.endswith("table.json"):
                raise OSError("connection lost")
            upload(place, source, path)

        monkeypatch.setattr(RemotePlace, "upload", failing)
        with pytest.raises(OSError, match="connection lost"):
            remote.publish_folder(made)
        assert list(remote._place.files("")) == [".store.json"]

    def test_a_dead_publishers_claim_goes_with_the_garbage(self, remote, made, monkeypatch):
        claims.take_claim(remote._place, "v1")
        remote._place.create("v1/user/half.npy", b"1")
        claims.take_claim(remote._place, "v2")
        assert remote.collect(grace=NOW).leftovers == ()  # this process is alive
        monkeypatch.setattr(records, "_started", lambda pid: "another")
        found = remote.collect(grace=NOW)
        assert [each.partition(" of ")[0] for each in found.leftovers] == ["v1", "v2"]
        assert list(remote._place.files("")) == [".store.json"]

    def test_another_machines_claim_is_left_alone_for_a_day(self, remote, monkeypatch):
        self.elsewhere(monkeypatch)
        claim = claims.take_claim(remote._place, "v1")
        monkeypatch.undo()
        assert remote.collect(grace=NOW).leftovers == ()
        old = replace(claim, since=claim.since - timedelta(hours=25))
        monkeypatch.setattr(collection, "current_claim", lambda *_: old)
        assert len(remote.collect(grace=NOW).leftovers) == 1

    def test_a_publisher_killed_after_the_commit_is_done(self, remote, made):
        remote.publish_folder(made)
        dead = records.Process(records.this_process().node, 2**22 + 1, "1")
        assert dead.is_dead()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(claims, "this_process", lambda: dead)
            claims.take_claim(remote._place, "v1")
        assert remote.publish_folder(made).name == "v1"
        assert remote._place.names(".publishing/v1") == []

    def test_who_is_dead(self):
        alive = records.this_process()
        assert not alive.is_dead()
        assert replace(alive, pid=2**22 + 1).is_dead()
        assert replace(alive, started="1").is_dead()  # its number was given again
        assert not replace(alive, pid=2**22 + 1, node="other-host").is_dead()
        assert not replace(alive, pid=2**22 + 1, node=None).is_dead()

    def test_a_name_that_is_taken_while_files_are_uploaded_stays_the_others(self, remote, made, monkeypatch):
        upload = RemotePlace.upload

        def taken(place, source, path):
            if path.endswith("table.json"):
                place.create("v1/version.json", b"{}")
            upload(place, source, path)

        monkeypatch.setattr(RemotePlace, "upload", taken)
        with pytest.raises(VersionError, match="v1"):
            remote.publish_folder(made)
        assert remote._place.read("v1/version.json") == b"{}"


class TestCopies:
    def test_a_version_is_copied_once_and_checked(self, tmp_path):
        url = f"memory://{uuid.uuid4().hex}"
        publish(EmbeddingStore(url, cache=tmp_path / "a"), "v1")
        store, done = EmbeddingStore(url, cache=tmp_path / "b"), []
        first = store.open("v1", progress=lambda *at: done.append(at))
        total = store.show("v1")["bytes"]
        assert [of for _, of in done] == [total] * 3
        assert store.open("v1", progress=lambda *at: done.append(at)).path == first.path
        assert len(done) == 3
        assert len(list((tmp_path / "b").iterdir())) == 1

    def test_a_name_that_was_published_again_is_another_version(self, tmp_path):
        store = EmbeddingStore(f"memory://{uuid.uuid4().hex}", cache=tmp_path)
        publish(store, "v1", "v2")
        old = store.open("v1").table("user")
        store.retire("v1")
        store.collect(grace=NOW)
        store.publish("v1", {"user": table("v1", count=7)})
        assert (store.open("v1").table("user").count, old.count) == (7, 2)

    def test_what_comes_damaged_is_refused_and_not_kept(self, tmp_path, monkeypatch):
        store = EmbeddingStore(f"memory://{uuid.uuid4().hex}", cache=tmp_path / "a")
        publish(store, "v1")
        other = EmbeddingStore(store.root, cache=tmp_path / "b")
        path = other._place.at("v1/user/vectors.npy")
        data = other._place.fs.cat_file(path)
        other._place.fs.pipe_file(path, data[:-1] + b"\7")
        with pytest.raises(ChecksumError, match=r"memory://.*/v1/user/vectors.npy has the sha256 \w+, expected"):
            other.open("v1")
        other._place.remove("v1/user/vectors.npy")
        with pytest.raises(
            VersionError, match=r"vectors.npy is not there: the version was removed while it was copied"
        ):
            other.open("v1")
        assert list((tmp_path / "b").iterdir()) == []

    def test_of_many_readers_all_use_one_copy(self, tmp_path):
        url, paths, barrier = f"memory://{uuid.uuid4().hex}", [], threading.Barrier(6)
        publish(EmbeddingStore(url, cache=tmp_path / "a"), "v1")

        def read():
            barrier.wait()
            paths.append(EmbeddingStore(url, cache=tmp_path / "b").open("v1", verify=True).path)

        threads = [threading.Thread(target=read) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert paths == [paths[0]] * 6
        assert list((tmp_path / "b").iterdir()) == [paths[0]]

    def test_the_cache_is_trimmed_from_what_was_used_longest_ago(self, tmp_path):
        store = EmbeddingStore(f"memory://{uuid.uuid4().hex}", cache=tmp_path)
        publish(store, "v1", "v2", "v3")
        for age, name in ((3, "v2"), (2, "v3"), (1, "v1")):
            os.utime(store.open(name).path, (time.time() - age,) * 2)
        size = store.show("v1")["bytes"]
        assert [path.name[:2] for path in trim_cache(tmp_path, 2 * size + 8)] == ["v2"]
        store.open("v3")  # the one used last
        assert [path.name[:2] for path in trim_cache(tmp_path, size + 8)] == ["v1"]
        assert trim_cache(tmp_path / "none", 0) == []

    def test_a_cache_that_is_read_only_serves_what_it_has(self, tmp_path, monkeypatch):
        store = EmbeddingStore(f"memory://{uuid.uuid4().hex}/store", cache=tmp_path)
        publish(store, "v1")

        def refuse(*_):
            raise PermissionError("read only")

        monkeypatch.setattr(os, "utime", refuse)
        assert store.open("v1").table("user").count == 2

    def test_where_it_is(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RECOKIT_CACHE", str(tmp_path))
        assert store_module.default_cache() == tmp_path / "versions"
        monkeypatch.delenv("RECOKIT_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert EmbeddingStore("memory://x").cache == tmp_path / "recokit/versions"


class TestPlaces:
    @pytest.fixture(params=["folder", "memory", "objects", "bucket"])
    def place(self, request, tmp_path):
        if request.param == "folder":
            return LocalPlace(tmp_path)
        if request.param == "bucket":
            server = shared_server()
            server.make_bucket(name := f"b{uuid.uuid4().hex[:20]}")
            return place_of(f"s3://{name}/a", server.options)
        return place_of({"memory": f"memory://{uuid.uuid4().hex}", "objects": f"objects://{tmp_path}"}[request.param])

    def test_small_files(self, place):
        assert (place.read("a/b.json"), place.names("a"), place.read_all(["a/b.json"])) == (None, [], {})
        place.create("a/b.json", b"1")
        place.create("a/c/d.json", b"2")
        with pytest.raises(FileExistsError):
            place.create("a/b.json", b"3")
        assert (place.read("a/b.json"), place.read("a"), place.names("a")) == (b"1", None, ["b.json", "c"])
        assert place.read_all(["a/b.json", "a/x.json", "a/c/d.json"]) == {"a/b.json": b"1", "a/c/d.json": b"2"}
        place.remove("a/b.json")
        place.remove("a/b.json")
        assert (place.read("a/b.json"), place.names("a")) == (None, ["c"])

    def test_of_many_creators_one_has_created(self, place):
        for number in range(5):
            won, barrier = [], threading.Barrier(6)

            def create(who, number=number, won=won, barrier=barrier):
                barrier.wait()
                with suppress(FileExistsError):
                    place.create(f"{number}.json", f"{who}".encode() * 1000)
                    won.append(who)

            threads = [threading.Thread(target=create, args=(who,)) for who in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert [f"{who}".encode() * 1000 for who in won] == [place.read(f"{number}.json")]

    def test_an_answer_that_was_lost_is_no_refusal(self, monkeypatch):
        place = place_of(f"memory://{uuid.uuid4().hex}")
        place.create("a.json", b"mine")
        place.create("a.json", b"mine")  # as a client does whose first answer did not come
        with pytest.raises(FileExistsError):
            place.create("a.json", b"others")

    def test_a_conflict_is_asked_again(self, monkeypatch):
        place, asked = place_of(f"memory://{uuid.uuid4().hex}"), []
        place.check_writable()
        pipe = type(place.fs).pipe_file

        def conflicting(fs, *arguments, **options):
            asked.append(1)
            if len(asked) < 3:
                raise OSError(5, "ConditionalRequestConflict")
            return pipe(fs, *arguments, **options)

        monkeypatch.setattr(type(place.fs), "pipe_file", conflicting)
        monkeypatch.setattr(places.time, "sleep", lambda _: None)
        place.create("a.json", b"1")
        assert (len(asked), place.read("a.json")) == (3, b"1")

    def test_a_place_without_exclusive_creation_is_read_and_not_written(self, tmp_path):
        publish(EmbeddingStore(tmp_path / "store"), "v1")
        store = EmbeddingStore(f"local://{tmp_path}/store", cache=tmp_path / "cache")
        assert store.open("latest", verify=True).table("user").count == 2
        for use in (
            lambda: publish(store, "v2"),
            lambda: store.set_alias("a", "v1"),
            lambda: store.retire("v1", force=True),
        ):
            with pytest.raises(ConfigError, match="LocalFileSystem cannot create a file that is not there in one step"):
                use()
        assert [path.name for path in (tmp_path / "store").iterdir()] == ["v1"]

    def test_a_server_that_ignores_the_condition_is_found_out(self, tmp_path, monkeypatch):
        place = place_of(f"memory://{uuid.uuid4().hex}")
        pipe = type(place.fs).pipe_file
        monkeypatch.setattr(type(place.fs), "pipe_file", lambda fs, path, value, mode: pipe(fs, path, value))
        with pytest.raises(
            ConfigError, match="the server overwrites a file that was to be created only where there is"
        ):
            place.create("a.json", b"1")
        assert place.read("a.json") is None

    def test_what_cannot_be_reached_is_said(self, monkeypatch, tmp_path):
        with pytest.raises(ConfigError, match="nope://x cannot be reached: Protocol not known: nope"):
            EmbeddingStore("nope://x")
        with pytest.raises(ConfigError, match="is a local folder, which takes no options; these came: key"):
            EmbeddingStore(tmp_path, options={"key": "x"})
        monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
        options = {"endpoint_url": "http://127.0.0.1:9", "key": "a", "secret": "b"}
        nobody = EmbeddingStore("s3://bucket/x", options={**options, "config_kwargs": {"retries": {"max_attempts": 0}}})
        with pytest.raises(OSError, match=r"s3://bucket/x: .*[Cc]onnect"):
            nobody.versions()
        monkeypatch.setattr("fsspec.filesystem", lambda *_, **__: (_ for _ in ()).throw(ImportError("Install s3fs")))
        with pytest.raises(MissingDependencyError, match=r"pip install 'recokit\[s3\]'"):
            EmbeddingStore("s3://bucket/x")
        with pytest.raises(ConfigError, match="gs://bucket/x cannot be reached: Install s3fs"):
            EmbeddingStore("gs://bucket/x")

    def test_a_file_system_without_links_says_so(self, tmp_path, monkeypatch):
        def none(*_):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(places.os, "link", none)
        with pytest.raises(ConfigError, match="is on a file system without hard links, which a store needs"):
            LocalPlace(tmp_path).create("a.json", b"1")
        assert list(tmp_path.iterdir()) == []
