"""What is retired, what is removed, and what aliases and rankers keep."""

import os
import socket
import threading
import time
import uuid
from contextlib import suppress

import pytest
from store_helpers import KINDS, NOW, empty_store, publish, ranker, table

from recokit.errors import ConfigError, FormatError, VersionError
from recokit.store import EmbeddingStore, collection, lookup, marks, records
from recokit.store import store as facade
from recokit.store.places import RemotePlace


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    return empty_store(request.param, tmp_path)


class TestRetirement:
    def test_a_retired_version_is_hidden_and_says_so(self, store):
        publish(store, "v1", "v2")
        store.retire("v1", reason="poisoned")
        assert (store.versions(), store.retired(), store.latest().name) == (["v2"], ["v1"], "v2")
        said = rf"version 'v1' of .* was retired on 20..-..-.. ..:.. UTC by {records.author()} \(poisoned\); `recokit"
        for use in (store.open, store.resolve, lambda name: store.set_alias("production", name), store.retire):
            with pytest.raises(VersionError, match=said):
                use("v1")
        assert store.show("v1")["retired"]["reason"] == "poisoned"
        assert [row["version"] for row in store.summaries(retired=True)] == ["v1", "v2"]
        store.restore("v1")
        assert (store.versions(), store.retired()) == (["v1", "v2"], [])
        assert store.open("v1").name == "v1"
        with pytest.raises(VersionError, match="has no retired version 'v1'"):
            store.restore("v1")

    def test_what_is_needed_is_not_retired(self, store, tmp_path):
        publish(store, "v1", "v2", "v3", "v4")
        store.set_alias("production", "v1")
        store.protect(ranker(tmp_path / "rankers/a", "v2"))
        ranker(tmp_path / "rankers/b", "v3", format_name="onnx-ranker/1")
        for name, by in (("v1", "alias 'production'"), ("v2", f"the ranker {tmp_path}/rankers/a")):
            with pytest.raises(VersionError, match=f"version '{name}' of .* is needed: {by} names it"):
                store.retire(name, force=True)
        with pytest.raises(VersionError, match="rankers/b names it"):
            store.retire("v3", rankers=[str(tmp_path / "rankers/*")])
        with pytest.raises(VersionError, match="version 'v4' is the latest of"):
            store.retire("v4")
        with pytest.raises(VersionError, match="'production' stands for version 'v1': retire that one by its own name"):
            store.retire("production")
        assert store.retired() == []
        store.retire("v3")
        store.retire("v4", force=True)
        assert store.versions() == ["v1", "v2"]

    def test_an_alias_that_comes_while_a_version_is_retired_wins(self, store, monkeypatch):
        publish(store, "v1", "v2")
        mark = facade.mark_retired

        def alias_first(*arguments):
            store.set_alias("production", "v1")  # after retire has looked, before it marks
            mark(*arguments)

        monkeypatch.setattr(facade, "mark_retired", alias_first)
        with pytest.raises(VersionError, match="alias 'production' names it"):
            store.retire("v1")
        assert (store.aliases(), store.versions()) == ({"production": "v1"}, ["v1", "v2"])

    def test_an_alias_that_comes_too_late_goes_back(self, store, monkeypatch):
        publish(store, "v1", "v2")
        store.set_alias("production", "v2")
        move = facade.move_alias

        def retire_first(*arguments, **options):
            store.retire("v1")  # after set_alias has looked, before it moves
            return move(*arguments, **options)

        monkeypatch.setattr(facade, "move_alias", retire_first)
        with pytest.raises(VersionError, match=r"alias 'production' was not moved: version 'v1' .* was retired"):
            store.set_alias("production", "v1")
        assert store.aliases() == {"production": "v2"}
        assert [each.version for each in store.alias_history("production")] == ["v2", "v1", "v2"]
        monkeypatch.undo()
        store.restore("v1")
        monkeypatch.setattr(facade, "move_alias", retire_first)
        with pytest.raises(VersionError, match="was not moved"):
            store.set_alias("new", "v1")
        assert store.aliases() == {"production": "v2"}

    def test_an_alias_never_goes_back_to_what_was_retired_meanwhile(self, store, monkeypatch):
        publish(store, "v1", "v2", "v3")
        store.set_alias("production", "v2")
        move = facade.move_alias

        def retire_both(*arguments, **options):
            store.retire("v1")
            done = move(*arguments, **options)
            store.retire("v2")  # the alias is no longer there
            return done

        monkeypatch.setattr(facade, "move_alias", retire_both)
        with pytest.raises(VersionError, match="was not moved"):
            store.set_alias("production", "v1")
        assert store.aliases() == {}
        assert [each.version for each in store.alias_history("production")] == ["v2", "v1", None]

    def test_an_alias_that_is_there_already_stays_whatever_comes(self, store, monkeypatch):
        publish(store, "v1", "v2")
        store.set_alias("production", "v1")
        store._place.create(".collecting/v1.json", b'{"format": "collecting/1"}')  # marked, and not looked at yet
        assert store.set_alias("production", "v1").number == 1
        assert store.aliases() == {"production": "v1"}


class TestCollection:
    def test_only_what_has_been_retired_long_enough_and_nothing_names_goes(self, store, tmp_path):
        publish(store, "v1", "v2", "v3", "v4")
        for name in ("v1", "v2", "v3"):
            store.retire(name)
        folder = ranker(tmp_path / "rankers/a", "v2")
        found = store.collect(rankers=[folder])
        assert (found.removed, set(found.kept), found.leftovers) == ((), {"v1", "v2", "v3"}, ())
        assert found.kept["v2"] == f"the ranker {folder} names it"
        assert found.kept["v1"].endswith(" UTC, less than 7 days ago")
        assert store.collect(rankers=[folder], grace=NOW, dry_run=True).removed == ("v1", "v3")
        assert store.retired() == ["v1", "v2", "v3"]
        assert store.collect(rankers=[str(tmp_path / "rankers/*")], grace=NOW).removed == ("v1", "v3")
        assert (store.versions(), store.retired()) == (["v4"], ["v2"])
        there = [name for name in ("v1", "v2", "v3", "v4") if store._place.read(f"{name}/user/vectors.npy")]
        assert there == ["v2", "v4"]
        store.restore("v2")
        assert store.open("v2", verify=True).table("user").count == 2
        publish(store, "v1")  # its name is free
        assert store.versions() == ["v1", "v2", "v4"]

    def test_a_process_that_has_it_open_goes_on_reading(self, tmp_path):
        store = EmbeddingStore(tmp_path)
        publish(store, "v1", "v2")
        opened = store.open("v1").table("user")
        store.retire("v1")
        store.collect(grace=NOW)
        assert not (tmp_path / "v1").exists()
        assert opened.vectors.tolist() == [[0, 1], [2, 3]]

    def test_of_a_ranker_that_cannot_be_read_nothing_is_guessed(self, store, tmp_path):
        publish(store, "v1", "v2")
        store.retire("v1")
        (tmp_path / "empty").mkdir()
        bad = ranker(tmp_path / "bad", "v1", format_name="embedding-version/1")
        (tmp_path / "odd").mkdir()
        (tmp_path / "odd/ranker.json").write_text('{"format": "ranker/2"}')
        for folder in (tmp_path / "empty", tmp_path / "gone", bad, tmp_path / "odd"):
            with pytest.raises(VersionError, match=f"the ranker {folder} cannot be read, so nobody knows"):
                store.collect(rankers=[folder], grace=NOW)
        with pytest.raises(ConfigError, match="fits no folder: which rankers"):
            store.collect(rankers=[str(tmp_path / "rnakers/*")], grace=NOW)
        assert store.retired() == ["v1"]

    def test_what_comes_to_name_it_in_the_last_moment_keeps_it(self, store, monkeypatch):
        publish(store, "v1", "v2")
        store.retire("v1")
        write, done = collection.write_record, []

        def restored_first(place, path, *arguments):
            if path.startswith(".collecting") and not done:
                done.append(store.restore("v1"))
            write(place, path, *arguments)

        monkeypatch.setattr(collection, "write_record", restored_first)
        assert store.collect(grace=NOW).removed == ()
        assert (store.versions(), store._place.names(".collecting")) == (["v1", "v2"], [])
        assert store.open("v1", verify=True).name == "v1"

    def test_what_is_being_removed_is_neither_restored_nor_named_nor_published(self, store, monkeypatch, tmp_path):
        publish(store, "v1", "v2")
        store.retire("v1")
        folder, needed = ranker(tmp_path / "a", "v1", "v2"), lookup.needed
        refused, asked = [], []

        def attempt(place, rankers):
            asked.append(1)
            if len(asked) == 2:  # marked for removal, and looked at once more
                for use, of in ((store.restore, "v1"), (store.protect, folder)):
                    with pytest.raises(VersionError) as error:
                        use(of)
                    refused.append(str(error.value).rpartition(": ")[2])
            return needed(place, rankers)

        monkeypatch.setattr(facade, "needed", attempt)
        assert store.collect(grace=NOW).removed == ("v1",)
        assert ["being removed" in each for each in refused] == [True, True]
        assert (store.versions(), store.retired(), store.protections()) == (["v2"], [], [])

    def test_a_collector_that_was_killed_is_taken_over(self, store, monkeypatch):
        publish(store, "v1", "v2")
        store.retire("v1")
        monkeypatch.setattr(collection, "unmark_retired", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.collect(grace=NOW)
        monkeypatch.undo()
        with pytest.raises(VersionError, match="`recokit store gc` frees its name"):
            publish(store, "v1")
        with pytest.raises(VersionError, match="is being removed, and cannot be restored"):
            store.restore("v1")
        assert store.retired() == ["v1"]
        assert store.collect(grace=NOW).removed == ()  # the process that marked it is alive: this one
        monkeypatch.setattr(records, "_started", lambda pid: "another")
        found = store.collect(grace=NOW)
        assert (found.removed, found.leftovers) == (("v1",), (".collecting/v1.json",))
        monkeypatch.undo()
        publish(store, "v1")
        assert store.versions() == ["v1", "v2"]

    @pytest.mark.parametrize("step", range(6))
    def test_a_collector_that_is_killed_at_any_removal_leaves_no_half_version(self, step, tmp_path, monkeypatch):
        store = empty_store("memory", tmp_path)
        publish(store, "v1", "v2")
        store.retire("v1")
        remove, removed = RemotePlace.remove, []

        def killed(place, path):
            if len(removed) == step:
                raise KeyboardInterrupt
            removed.append(path)
            remove(place, path)

        monkeypatch.setattr(RemotePlace, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            store.collect(grace=NOW)
        monkeypatch.undo()
        assert removed[:1] in ([], ["v1/version.json"])
        assert store.versions() == ["v2"]
        with pytest.raises(VersionError, match=r"retired|has no version 'v1'"):
            store.open("v1")
        with pytest.raises(VersionError):
            store.restore("v1")
        with pytest.raises(VersionError):
            publish(store, "v1")
        monkeypatch.setattr(records, "_started", lambda pid: "another")
        store.collect(grace=NOW)
        assert (store.retired(), store._place.names(".collecting")) == ([], [])
        assert {path.partition("/")[0] for path in store._place.files("")} == {".store.json", "v2"}

    def test_what_publishers_left_on_this_machine_goes_once_it_is_quiet(self, tmp_path):
        store = EmbeddingStore(tmp_path)
        publish(store, "v1")
        for name, hours in ((".partial-v2-00", 3), (".partial-v3-00", 0), ("notes", 100)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "vectors.npy").write_bytes(b"1")
            for path in (tmp_path / name / "vectors.npy", tmp_path / name):
                os.utime(path, (time.time() - hours * 3600,) * 2)
        (tmp_path / ".partial-alias-00").write_text("{")
        os.utime(tmp_path / ".partial-alias-00", (0, 0))
        assert store.collect().leftovers == (".partial-alias-00",)  # seven days
        assert store.collect(grace=NOW, dry_run=True).leftovers == (".partial-v2-00",)
        assert (tmp_path / ".partial-v2-00").is_dir()
        assert store.collect(grace=NOW).leftovers == (".partial-v2-00",)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".partial-v3-00", "notes", "v1"]

    def test_remains_of_long_names_and_links_go_and_what_links_lead_to_stays(self, tmp_path):
        store, elsewhere = EmbeddingStore(tmp_path / "store"), EmbeddingStore(tmp_path / "elsewhere")
        publish(elsewhere, "v1")
        publish(store, "v2")
        (tmp_path / "store/v1").symlink_to(tmp_path / "elsewhere/v1")
        partial = tmp_path / "store" / f".partial-{'n' * 200}-{uuid.uuid4().hex}"
        partial.mkdir()
        os.utime(partial, (0, 0))
        store.retire("v1", force=True)
        assert store.collect(grace=NOW).leftovers == (partial.name,)
        assert sorted(path.name for path in store.root.iterdir()) == [".collecting", ".retired", "v2"]
        assert elsewhere.open("v1", verify=True).name == "v1"

    def test_what_was_retired_once_more_meanwhile_stays(self, store, monkeypatch):
        publish(store, "v1", "v2")
        store.retire("v1")
        create = collection.write_record

        def slowly(*arguments):
            store.restore("v1")
            store.retire("v1")
            create(*arguments)

        monkeypatch.setattr(collection, "write_record", slowly)
        assert store.collect(grace=NOW).removed == ()
        monkeypatch.undo()
        assert (store.retired(), store.show("v1")["version"]) == (["v1"], "v1")

    def test_what_nobody_claimed_may_be_anybodys(self, tmp_path):
        store = EmbeddingStore(f"memory://{uuid.uuid4().hex}", cache=tmp_path)
        publish(store, "v1")
        store._place.create("notes/readme.txt", b"hello")
        assert store.collect(grace=NOW) == collection.Collected((), {}, ())
        assert store._place.read("notes/readme.txt") == b"hello"


class TestProtection:
    def test_a_ranker_keeps_its_versions(self, store, tmp_path):
        publish(store, "v1", "v2", "v3")
        folder = ranker(tmp_path / "dlrm", "v1", "v2", "elsewhere")
        for _ in range(2):
            store.protect(folder)
        (found,) = store.protections()
        assert (found.ranker, found.node) == (str(folder), socket.gethostname())
        assert found.versions == ("elsewhere", "v1", "v2")
        with pytest.raises(VersionError, match="dlrm names it"):
            store.retire("v1")
        (folder / "ranker.json").unlink()
        folder.rmdir()
        with pytest.raises(VersionError, match=r"cannot be read, so nobody knows .* `recokit store protect --remove`"):
            store.collect(grace=NOW)
        ranker(folder, "v3")  # another one took its place: both count
        for name in ("v1", "v3"):
            with pytest.raises(VersionError, match="dlrm names it"):
                store.retire(name, force=True)
        store.unprotect(folder)
        assert store.protections() == []
        store.retire("v1")
        with pytest.raises(VersionError, match="protects no ranker"):
            store.unprotect(folder)

    def test_what_another_host_protects_counts_as_it_was_written_down(self, store, tmp_path, monkeypatch):
        publish(store, "v1", "v2", "v3")
        folder = ranker(tmp_path / "dlrm", "v1")
        monkeypatch.setattr(marks.platform, "node", lambda: "elsewhere")
        store.protect(folder)
        monkeypatch.undo()
        (folder / "ranker.json").unlink()
        with pytest.raises(VersionError, match="dlrm names it"):
            store.retire("v1")
        store.retire("v2")

    def test_rankers_of_one_path_on_two_hosts_are_two(self, store, tmp_path, monkeypatch):
        publish(store, "v1", "v2")
        folder = ranker(tmp_path / "dlrm", "v1")
        here = store.protect(folder).node
        monkeypatch.setattr(marks.platform, "node", lambda: "elsewhere")
        store.protect(folder)
        assert sorted(each.node for each in store.protections()) == sorted([here, "elsewhere"])
        monkeypatch.undo()
        store.unprotect(folder)
        assert [each.node for each in store.protections()] == ["elsewhere"]
        store.unprotect(folder)  # that host may be gone
        assert store.protections() == []

    def test_what_cannot_be_kept_is_said_at_once(self, store, tmp_path):
        publish(store, "v1", "v2")
        store.retire("v1")
        with pytest.raises(VersionError, match=r"cannot be protected: version 'v1' of .* was retired"):
            store.protect(ranker(tmp_path / "a", "v1", "v2"))
        with pytest.raises(VersionError, match=r"it names the versions v8, v9, and .* has none of them"):
            store.protect(ranker(tmp_path / "b", "v9", "v8"))
        with pytest.raises(FormatError, match=r"is not a ranker: it has no ranker.json"):
            store.protect(tmp_path)
        assert store.protections() == []


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_aliases_and_collectors_at_once_never_leave_an_alias_without_its_version(kind, tmp_path):
    root = tmp_path / "store" if kind == "folder" else f"memory://{uuid.uuid4().hex}"
    store = EmbeddingStore(root, cache=tmp_path / "cache")
    publish(store, "v0")
    store.publish("zz", {"user": table("zz")})
    outcomes = set()
    for number in range(12):
        name = f"v{number + 1}"
        publish(store, name)
        barrier = threading.Barrier(2)

        def move(name=name, barrier=barrier):
            barrier.wait()
            with suppress(VersionError):
                store.set_alias("production", name)

        mover = threading.Thread(target=move)
        mover.start()
        barrier.wait()
        with suppress(VersionError):
            store.retire(name)
            store.collect(grace=NOW)
        mover.join()
        at = store.aliases().get("production")
        outcomes.add(at == name)
        assert at is None or store.open("production", verify=True).name == at
    assert outcomes  # either may win
