"""One version follows another: what serves goes on serving until the next one is ready; and the queue before both."""

import asyncio
import errno
import gc
import json
import logging
import shutil
import threading
import time
import weakref

import numpy as np
import pytest

from recokit import EmbeddingStore, EmbeddingTable
from recokit.errors import ConfigError, DataError, VersionError
from recokit.serve import ServeSettings
from recokit.serve.batching import Batcher, QueueFullError
from recokit.serve.follow import Follower, refuse_unknown, source_of
from recokit.serve.serving import Serving

SETTINGS = ServeSettings()


def publish(root, number):
    """Publish a version whose vectors are all its number."""
    vectors = np.full((5, 2), number, np.float32)
    table = EmbeddingTable.from_arrays(np.arange(5), vectors, entity="item", version=f"v{number}")
    return EmbeddingStore(root).publish(f"v{number}", {"item": table})


def following(root, settings=SETTINGS, **more):
    return Follower(source_of(root, settings), lambda version: Serving.load(version, settings), poll=0.01, **more)


def number(serving):
    return serving.vectors("item", [[0]])[0].vectors[0, 0]


def test_the_newest_version_takes_its_place(tmp_path):
    loaded = []
    follower = following(tmp_path, loaded=lambda serving, seconds: loaded.append(serving.name))
    assert not follower.check()
    assert follower.problem == f"{tmp_path}@latest has no version yet"
    for each in (1, 2):
        publish(tmp_path, each)
        assert follower.check()
        assert (follower.current.name, number(follower.current), follower.problem) == (f"v{each}", each, None)
        assert not follower.check()
    assert loaded == ["v1", "v2"]
    EmbeddingStore(tmp_path).retire("v2", force=True)
    assert follower.check()
    assert follower.current.name == "v1"


def test_a_store_that_loses_what_is_followed_is_complained_of_and_the_old_one_serves_on(tmp_path, caplog):
    failures, store = [], EmbeddingStore(tmp_path)
    publish(tmp_path, 1)
    store.set_alias("production", "v1")
    newest = following(tmp_path, failed=lambda error: failures.append(str(error)))
    alias = following(f"{tmp_path}@production", failed=lambda error: failures.append(str(error)))
    assert [newest.check(), alias.check()] == [True, True]
    store.remove_alias("production")
    store.retire("v1", force=True)
    with caplog.at_level(logging.ERROR, "recokit.serve"):
        for _ in range(2):
            assert [newest.check(), alias.check()] == [False, False]
    lost = f"{tmp_path}@latest has no version any more, v1 is served on"
    assert newest.problem == f"the store does not say what to serve: {lost}"
    assert "has no version 'production'" in alias.problem
    assert [number(each.current) for each in (newest, alias)] == [1, 1]
    assert (len(failures), len(caplog.records)) == (4, 2)  # each look counts, each thing is said once
    store.restore("v1")
    assert (newest.check(), newest.problem) == (False, None)


def test_the_url_of_a_version_serves_that_version_and_that_of_a_store_the_newest(tmp_path, monkeypatch):
    monkeypatch.setenv("RECOKIT_CACHE", str(tmp_path))
    one, newest = following("memory://serve-url/store/v1"), following("memory://serve-url/store/")
    assert [one.check(), newest.check()] == [False, False]  # nothing is there, and either may come
    for each in (1, 2):
        publish("memory://serve-url/store", each)
    assert [one.check(), newest.check()] == [True, True]
    assert [number(each.current) for each in (one, newest)] == [1, 2]
    assert [each.source.title for each in (one, newest)] == [
        f"memory://serve-url/store@{name}" for name in ("v1", "latest")
    ]
    assert (one.check(), one.source.versions()) == (False, ["v1", "v2"])


def test_a_full_disk_under_the_copies_leaves_the_old_version_serving(tmp_path, monkeypatch):
    monkeypatch.setenv("RECOKIT_CACHE", str(tmp_path))
    publish("memory://serve-full", 1)
    follower = following("memory://serve-full")
    assert follower.check()
    publish("memory://serve-full", 2)
    for copy in (tmp_path / "versions").glob("v2-*"):
        shutil.rmtree(copy)  # that of who published it

    def full(self, path, target):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("recokit.store.places.RemotePlace.download", full)
        assert not follower.check()
    assert (number(follower.current), "No space left" in follower.problem) == (1, True)
    assert [path.name[:3] for path in (tmp_path / "versions").iterdir()] == ["v1-"]  # no half of a copy
    time.sleep(0.02)
    assert (follower.check(), number(follower.current)) == (True, 2)


def test_an_alias_is_followed_wherever_it_goes(tmp_path):
    store = EmbeddingStore(tmp_path)
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    followers = [following(tmp_path, ServeSettings(alias="production")), following(f"{tmp_path}@production")]
    assert not followers[0].check()
    assert "production" in followers[0].problem
    for name in ("v1", "v2", "v1"):
        store.set_alias("production", name)
        assert [follower.check() for follower in followers] == [True, True]
        assert [follower.current.name for follower in followers] == [name, name]
    pinned = following(tmp_path, ServeSettings(version="v1"))
    publish(tmp_path, 3)
    assert (pinned.check(), pinned.check(), pinned.current.name) == (True, False, "v1")


def test_a_name_that_a_store_here_does_not_know_is_a_slip(tmp_path):
    nowhere = source_of(tmp_path, ServeSettings(alias="prodction"))
    refuse_unknown(nowhere)  # a store without versions may get them
    publish(tmp_path, 1)
    EmbeddingStore(tmp_path).set_alias("production", "v1")
    with pytest.raises(VersionError, match=r"has no version 'prodction'; did you mean 'production'\?"):
        refuse_unknown(nowhere)
    for known in (tmp_path, f"{tmp_path}@production", f"{tmp_path}@v1", f"{tmp_path}@latest", tmp_path / "v1"):
        refuse_unknown(source_of(known, SETTINGS))
    remote = EmbeddingStore("memory://slips/store")
    remote.publish("v1", {"item": EmbeddingStore(tmp_path).open("v1").table("item")})
    refuse_unknown(source_of("memory://slips/store@production", SETTINGS))  # followed until it is there


def test_a_version_is_a_source_of_its_own_and_latest_is_no_alias(tmp_path):
    version = publish(tmp_path, 1)
    follower = following(version.path)
    assert (follower.check(), follower.check(), follower.current.name) == (True, False, "v1")
    assert follower.source.versions() == ["v1"]
    assert source_of(f"{tmp_path}@latest", SETTINGS).target() == "v1"
    assert source_of(f"file://{tmp_path}", SETTINGS).target() == "v1"
    spaced = publish(tmp_path / "a store", 7).path.parent.as_uri()
    assert (spaced.endswith("a%20store"), source_of(spaced, SETTINGS).target()) == (True, "v7")
    memory = source_of("memory://nothing-here@production", SETTINGS)
    assert memory.title.endswith("nothing-here@production")
    with pytest.raises(ConfigError, match="names 'v1', and 'v2' is given too"):
        source_of(f"{tmp_path}@v1", ServeSettings(version="v2"))


def test_a_remote_store_is_followed_through_copies_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("RECOKIT_CACHE", str(tmp_path))
    follower = following("memory://serve-follow@production")
    store = EmbeddingStore("memory://serve-follow")
    for each in (1, 2):
        publish("memory://serve-follow", each)
        store.set_alias("production", f"v{each}")
        assert follower.check()
        assert (follower.current.name, number(follower.current)) == (f"v{each}", each)


def test_a_damaged_version_leaves_the_old_one_serving_and_is_tried_again(tmp_path, caplog, monkeypatch):
    failures, clock = [], [100.0]
    monkeypatch.setattr("recokit.serve.follow.time.monotonic", lambda: clock[0])
    publish(tmp_path, 1)
    follower = following(tmp_path, failed=lambda error: failures.append(str(error)))
    follower.check()
    vectors = publish(tmp_path, 2).path / "item" / "vectors.npy"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-1])
    with caplog.at_level(logging.ERROR, "recokit.serve"):
        assert not follower.check()
        for tries, pause in enumerate((0.01, 0.02, 0.04), start=1):
            clock[0] += 0.9 * pause  # too soon to be tried again
            assert (follower.check(), len(failures)) == (False, tries)
            clock[0] += 0.2 * pause
            assert (follower.check(), len(failures)) == (False, tries + 1)
    assert (number(follower.current), follower.problem.startswith("v2 cannot be loaded: ")) == (1, True)
    assert [record.fields["version"] for record in caplog.records] == ["v2"]  # one line, however often it is tried
    vectors.write_bytes(whole)
    clock[0] += 1
    assert follower.check()
    assert (number(follower.current), follower.problem) == (2, None)


def test_another_version_does_not_wait_for_one_that_failed(tmp_path):
    publish(tmp_path, 1)
    follower = following(tmp_path)
    follower.check()
    (publish(tmp_path, 2).path / "item" / "vectors.npy").write_bytes(b"")
    follower.check()
    publish(tmp_path, 3)
    assert follower.check()
    assert number(follower.current) == 3


def test_what_a_request_holds_is_let_go_with_it_and_its_files_may_be_gone(tmp_path):
    import shutil

    old = publish(tmp_path, 1)
    follower = following(tmp_path)
    follower.check()
    held, seen = follower.current, weakref.ref(follower.current)
    publish(tmp_path, 2)
    follower.check()
    shutil.rmtree(old.path)
    search = held.search("item", None, None, k=3)
    assert held.vectors("item", [[4, 9]])[0].vectors.tolist() == [[1, 1], [0, 0]]
    assert held.nearest(search, [np.ones((1, 2), np.float32)])[0].scores == [[2.0, 2.0, 2.0]]
    del held
    gc.collect()
    assert seen() is None


def test_the_thread_looks_again_and_again(tmp_path):
    follower = following(tmp_path)
    follower.start()
    for each in (1, 2):
        publish(tmp_path, each)
        for _ in range(500):
            if follower.current is not None and follower.current.name == f"v{each}":
                break
            time.sleep(0.01)
        assert number(follower.current) == each
    follower.stop()
    assert "serve-follow" not in [thread.name for thread in threading.enumerate()]


def test_log_lines_are_json():
    from recokit.serve.cli import JsonLines

    record = logging.makeLogRecord({"msg": "load failed", "levelname": "ERROR", "fields": {"version": "v2"}})
    line = json.loads(JsonLines().format(record))
    assert (line["level"], line["event"], line["version"]) == ("error", "load failed", "v2")


class Worker:
    """Calls that can be held up, and what each was called with."""

    def __init__(self):
        self.calls, self.free = [], threading.Event()

    def __call__(self, items):
        self.calls.append(list(items))
        self.free.wait(10)
        if "bad" in items:
            raise DataError("bad")
        return [item * 2 for item in items]


async def begun(jobs):
    """Start jobs in turn, each after the one before it stands in the queue."""
    tasks = []
    for job in jobs:
        tasks.append(asyncio.ensure_future(job))
        await asyncio.sleep(0.01)
    return tasks


def batching(scenario, **settings):
    batcher = Batcher(**{"threads": 1, "queue": 10, "most": 10} | settings)
    batcher.start()
    try:
        return asyncio.run(scenario(batcher))
    finally:
        batcher.stop()


def test_what_waits_is_answered_by_one_call_of_its_kind():
    worker, sizes = Worker(), []

    async def scenario(batcher):
        def job(kind, item):
            return batcher.run(kind, worker, item, size=4, timeout=5)

        tasks = await begun([job("a", 0), job("a", 1), job("b", 2), job("a", 3), job("a", 4), job("b", 5)])
        worker.free.set()
        return await asyncio.gather(*tasks)

    assert batching(scenario, observe=sizes.append) == [0, 2, 4, 6, 8, 10]
    assert worker.calls == [[0], [1, 3], [2, 5], [4]]  # the first alone; then two of size 4 within 10, kinds in turn
    assert sizes == [1, 2, 2, 1]


def test_what_one_request_does_wrong_is_not_the_others_matter():
    worker = Worker()

    async def scenario(batcher):
        jobs = [batcher.run("a", worker, item, size=1, timeout=5) for item in ("x", "y", "bad", "z")]
        tasks = await begun(jobs)
        worker.free.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    got = batching(scenario)
    assert (got[:2], got[3], str(got[2])) == (["xx", "yy"], "zz", "bad")


def test_a_full_queue_refuses_and_who_has_gone_is_not_worked_for():
    worker = Worker()

    async def scenario(batcher):
        first = await begun([batcher.run("a", worker, 0, size=1, timeout=5)])
        with pytest.raises(TimeoutError):
            await batcher.run("a", worker, 1, size=1, timeout=0.02)
        waiting = await begun([batcher.run("a", worker, 2, size=1, timeout=5)])
        with pytest.raises(QueueFullError, match="2 requests wait already"):
            await batcher.run("b", worker, 3, size=1, timeout=5)
        worker.free.set()
        return await asyncio.gather(*first, *waiting)

    assert batching(scenario, queue=2) == [0, 4]
    assert worker.calls == [[0], [2]]


def test_what_has_been_answered_is_let_go_before_more_is_asked():
    async def scenario(batcher):
        worker = Worker()
        worker.free.set()
        seen = weakref.ref(worker)
        assert await batcher.run("a", worker, 1, size=1, timeout=5) == 2
        del worker
        for _ in range(100):
            gc.collect()
            if seen() is None:
                return True
            await asyncio.sleep(0.01)
        return False

    assert batching(scenario)
