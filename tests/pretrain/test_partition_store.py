"""Partitions on disk: what is read is what was written, memory stays, and a store is always at its last commit."""

import contextlib
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain import partition_files, partition_store
from pretrain.buckets import bucket_order
from pretrain.memory import resident_bytes
from pretrain.partition_files import huge_zeros
from pretrain.partition_store import Layout, PartitionStore, normal_start
from recokit.errors import ConfigError, FormatError, VersionError
from recokit.table.folder import write_npy

START = normal_start(seed=7, scale=0.1)
LAYOUT = Layout({"user": 11, "item": 5, "tag": 3}, {"user": 4, "item": 4, "tag": 1}, dim=3, bias=True)


@pytest.fixture(autouse=True)
def quick_sync(monkeypatch):
    """Here no machine loses its power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def whole(store, entity, part="vectors"):
    """A table as one array."""
    chunks = [(rows, chunk.copy()) for rows, chunk in store.table(entity, part)]
    assert [row for rows, _ in chunks for row in rows] == list(range(store.layout.entities[entity]))
    shape = store.layout.shape(part, 0)
    return np.concatenate([np.empty(shape, np.float32), *(chunk for _, chunk in chunks)])


def everything(store):
    return {(e, p): whole(store, e, p).tobytes() for e in store.layout.entities for p in store.layout.parts}


def change(resident, by):
    """Change all numbers so that every order of changes gives other ones."""
    for part in (resident.vectors, resident.state, resident.bias, resident.bias_state):
        if part is not None:
            part.mul_(1.5).add_(by)


# -- starts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [1, 2, 3, 7, 3000])
def test_a_row_starts_the_same_under_any_number_of_partitions(tmp_path, partitions):
    """Block b of 1024 rows is what Philox gives from the counter (0, 0, 0, b) on, under a key of the seed and type."""
    layout = Layout({"user": 2500}, {"user": partitions}, dim=5)
    key = np.random.SeedSequence([7, *b"user"]).generate_state(2, np.uint64)
    expected = np.concatenate(
        [
            np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, block])).standard_normal(
                (1024, 5), np.float32
            )
            for block in range(3)
        ]
    )[:2500] * np.float32(0.1)
    with PartitionStore.create(tmp_path / "store", layout, START) as store:
        assert whole(store, "user").tobytes() == expected.tobytes()
        for number in range(0, partitions, 97):
            resident = store.load([("user", number)])["user", number]
            assert (
                resident.vectors.numpy().tobytes() == expected[slice(resident.rows.start, resident.rows.stop)].tobytes()
            )
            assert not resident.state.any()


def test_starts_are_normal_and_different_by_row_type_and_seed():
    def start(seed, entity, count=4000):
        parts = {"vectors": torch.zeros(count, 8)}
        normal_start(seed, 0.5)(entity, range(count), parts)
        return parts["vectors"].numpy()

    user = start(0, "user")
    assert user.mean() == pytest.approx(0, abs=0.5 * 4 / np.sqrt(user.size))
    assert user.std() == pytest.approx(0.5, rel=0.02)
    assert len(np.unique(user, axis=0)) == 4000
    for other in (
        start(1, "user"),
        start(0, "item"),
        start(0, "User"),
        np.roll(user, 1, axis=0),
        np.roll(user, 1024, 0),
    ):
        assert abs(np.corrcoef(user.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(user.size)


def test_a_start_may_fill_every_part_and_is_given_zeros(tmp_path):
    def start(entity, rows, parts):
        assert set(parts) == {"vectors", "state", "bias", "bias_state"}
        assert not any(part.any() for part in parts.values())
        parts["vectors"][:] = torch.arange(rows.start, rows.stop)[:, None]
        parts["state"][:] = torch.arange(rows.start, rows.stop) + 100
        parts["bias"][:] = len(entity)

    with PartitionStore.create(tmp_path / "store", LAYOUT, start) as store:
        change(store.load([("user", 3)])["user", 3], 5.0)  # its buffers are used again
        store.evict(("user", 3))
        found = store.load([("user", 2)])["user", 2]
        assert found.rows == range(6, 9)
        assert found.vectors.tolist() == [[6] * 3, [7] * 3, [8] * 3]
        assert found.state.tolist() == [106, 107, 108]
        assert found.bias.tolist() == [4, 4, 4]
        assert found.bias_state.tolist() == [0, 0, 0]
        assert whole(store, "item", "state").tolist() == [100, 101, 102, 103, 104]


def test_making_a_store_of_any_size_takes_no_time_and_no_disk(tmp_path):
    layout = Layout({"user": 10**9}, {"user": 512}, dim=128)
    with PartitionStore.create(tmp_path / "store", layout, START):
        assert sum(path.stat().st_size for path in (tmp_path / "store").iterdir()) < 1000


# -- reading and writing ---------------------------------------------------------------------------------------------


def test_partitions_are_slices_of_equal_size_the_last_ones_shorter_or_empty():
    assert [LAYOUT.rows(("user", number)) for number in range(4)] == [range(3), range(3, 6), range(6, 9), range(9, 11)]
    assert [list(LAYOUT.rows(("item", number))) for number in range(4)] == [[0, 1], [2, 3], [4], []]
    assert LAYOUT.keys((2, 0)) == [("user", 2), ("user", 0), ("item", 2), ("item", 0), ("tag", 0)]
    with pytest.raises(ConfigError, match="no partition 4 of the entity type 'user'"):
        LAYOUT.rows(("user", 4))


COURSE = {
    "load": 8,
    "prefetch": 4,
    "evict": 8,
    "unchanged": 2,
    "commit": 1,
    "best": 1,
    "restore": 1,
    "reopen": 1,
    "look": 2,
}


@pytest.mark.parametrize("seed", range(25))
def test_a_store_does_what_arrays_in_memory_would_do(tmp_path, seed):
    """Any course of calls: the oracle is a dictionary of arrays, which is copied at a commit."""
    draw, path = random.Random(seed), tmp_path / "store"
    store = PartitionStore.create(path, LAYOUT, START)
    now = {
        (entity, part): torch.from_numpy(whole(store, entity, part))
        for entity in LAYOUT.entities
        for part in LAYOUT.parts
    }

    def copied(tables):
        return {name: table.clone() for name, table in tables.items()}

    def resident(key):
        rows = LAYOUT.rows(key)
        return partition_store.Resident(
            rows, *(now[key[0], part][rows.start : rows.stop] for part in ("vectors", "state", "bias", "bias_state"))
        )

    loaded, prefetched, committed, best, count = set(), set(), copied(now), None, 0
    for number, what in enumerate(draw.choices(list(COURSE), COURSE.values(), k=120)):
        key = draw.choice(LAYOUT.keys(range(4)))
        if what in ("evict", "unchanged") and loaded | prefetched:
            key = draw.choice(sorted(loaded | prefetched))
        match what:
            case "load":
                found = store.load([key])[key]
                assert found.vectors.tolist() == resident(key).vectors.tolist()
                change(found, number % 5)
                change(resident(key), number % 5)
                loaded.add(key)
                prefetched.discard(key)
            case "prefetch":
                store.prefetch([key])
                prefetched |= {key} - loaded
            case "evict" if key in loaded | prefetched:
                store.evict(key)
                loaded.discard(key)
                prefetched.discard(key)
            case "unchanged" if key in prefetched:
                store.evict(key, changed=False)
                prefetched.discard(key)
            case "commit" | "best":
                count += 1
                store.commit({"count": count}, {"number": np.array([number])}, best=what == "best")
                committed = copied(now)
                best = copied(now) if what == "best" else best
                assert (store.record, store.arrays["number"].tolist()) == ({"count": count}, [number])
            case "restore" if best is not None:
                for key in loaded | prefetched:
                    store.evict(key)
                store.restore_best()
                now, loaded, prefetched = copied(best), set(), set()
            case "reopen":
                store.close()
                store = PartitionStore.open(path, START)
                now, loaded, prefetched = copied(committed), set(), set()
                assert store.record.get("count", 0) == count
            case "look":
                store.release()
                assert whole(store, key[0], "state").tobytes() == now[key[0], "state"].numpy().tobytes()
    assert everything(store) == {name: table.numpy().tobytes() for name, table in now.items()}
    store.close()
    with PartitionStore.open(path, START) as store:
        assert everything(store) == {name: table.numpy().tobytes() for name, table in committed.items()}


def test_what_has_left_and_comes_back_before_another_took_its_place_is_not_read_again(tmp_path, monkeypatch):
    with PartitionStore.create(tmp_path / "store", LAYOUT, START) as store:
        keys = [("user", number) for number in range(3)]
        for resident in store.load(keys).values():
            change(resident, 1.0)
        vectors = {key: resident.vectors.tolist() for key, resident in store.load(keys).items()}
        for key in keys:
            store.evict(key)
        monkeypatch.setattr(store, "_fill", lambda key, parts: pytest.fail(f"{key} is read"))
        for key in reversed(keys):
            assert store.load([key])[key].vectors.tolist() == vectors[key]
        store.evict(keys[1])
        monkeypatch.undo()
        store.load([("user", 3)])  # in the place of 1, and of no other
        assert {key: resident.vectors.tolist() for key, resident in store.load(keys).items()} == vectors


def test_what_has_not_changed_is_not_written(tmp_path):
    with PartitionStore.create(tmp_path / "store", LAYOUT, START) as store:
        store.load([("user", 0)])
        store.evict(("user", 0), changed=False)
        store.commit({})
        assert [file.name for file in store.path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("at_once", [1, 7, 2**28])
def test_numbers_pass_whatever_the_system_takes_at_once(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(partition_files, "_AT_ONCE", at_once)
    layout = Layout({"user": 9}, {"user": 2}, dim=3, optimizer="adagrad")
    values = torch.arange(27, dtype=torch.float32).view(9, 3)
    with PartitionStore.create(tmp_path / "store", layout, START) as store:
        for key, rows in ((("user", 0), values[:5]), (("user", 1), values[5:])):
            resident = store.load([key])[key]
            resident.vectors.copy_(rows)
            resident.state.copy_(-rows)
            store.evict(key)
        store.commit({})
        store.release()
        assert store.load([("user", 1)])["user", 1].state.tolist() == (-values[5:]).tolist()
        assert whole(store, "user").tolist() == values.tolist()


@pytest.mark.parametrize("chunk", [1, 100, 2**26])
def test_a_table_is_one_file_as_the_table_in_memory_would_be(tmp_path, monkeypatch, chunk):
    """One partition is in memory, one written, the others were never drawn; an item's last partition is empty."""
    monkeypatch.setattr(partition_store, "_CHUNK", chunk)
    with PartitionStore.create(tmp_path / "store", LAYOUT, START) as store:
        for key in LAYOUT.keys((1, 2)):
            change(store.load([key])[key], 1.0)
        store.evict(("user", 1))
        assert max(len(rows) for rows, _ in store.table("user")) == min(chunk // 12 + 1, 3)
        for number, (entity, part) in enumerate(itertools.product(LAYOUT.entities, LAYOUT.parts)):
            expected = write_npy(tmp_path / f"{number}-expected.npy", whole(store, entity, part))
            assert store.write_npy(entity, part, tmp_path / f"{number}.npy") == expected
            assert (tmp_path / f"{number}.npy").read_bytes() == (tmp_path / f"{number}-expected.npy").read_bytes()
        assert np.load(tmp_path / "0.npy").shape == (11, 3)
        with pytest.raises(ConfigError, match="no part 'biases' of 'user'; vectors, state, bias, bias_state"):
            next(store.table("user", "biases"))


def test_files_of_a_commit_are_plain_arrays_that_nothing_touches_until_the_next(tmp_path):
    path = tmp_path / "store"
    with PartitionStore.create(path, LAYOUT, START) as store:
        for key in LAYOUT.keys(range(4)):
            change(store.load([key])[key], 2.0)
            store.evict(key)
        vectors = whole(store, "user")
        store.commit({"epoch": 1}, {"block": np.eye(2)})
        committed = {file.name: file.read_bytes() for file in path.iterdir()}
        parts = [np.load(next(path.glob(f"vectors-0-{number}.*.npy"))) for number in range(4)]
        assert np.concatenate(parts).tobytes() == vectors.tobytes()
        assert len(committed) == 9 * 4 + 1 + 1  # partitions of four parts, the block, the manifest
        for _ in range(3):
            for key in LAYOUT.keys(range(4)):
                change(store.load([key])[key], 3.0)
                store.evict(key)
            store.release()
            now = {file.name: file.read_bytes() for file in path.iterdir()}
            assert now.items() >= committed.items()
            assert len(now) == 2 * 36 + 2  # of what is not committed, the newest version alone
        store.commit({"epoch": 2})
        assert len(list(path.iterdir())) == 36 + 1
        assert not committed.keys() - {"manifest.json"} & {file.name for file in path.iterdir()}


# -- memory and threads ----------------------------------------------------------------------------------------------


def test_memory_is_three_partitions_a_type_however_long_it_takes(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(partition_store, "huge_zeros", lambda shape: taken.append(shape) or torch.zeros(shape))
    layout = Layout({"user": 60, "tag": 4}, {"user": 6, "tag": 1}, dim=3, bias=True)
    with PartitionStore.create(tmp_path / "store", layout, START) as store:
        stays = [stay.partitions for epoch in range(1, 5) for stay in bucket_order(6, 0, epoch)]
        for number, (stay, following) in enumerate(zip(stays, [*stays[1:], stays[0]], strict=True)):
            for resident in store.load(layout.keys(stay)).values():
                change(resident, number)
            store.prefetch(layout.keys(following))
            for key in set(layout.keys(stay)) - set(layout.keys(following)):
                store.evict(key)
            if number % 7 == 0:
                store.commit({"stay": number})
        assert sorted(taken) == sorted(3 * [(10, 3), (10,), (10,), (10,)] + [(4, 3), (4,), (4,), (4,)])
        floats = sum(int(np.prod(shape)) for shape in taken)
        predicted = resident_bytes(layout.entities, 3, layout.partitions, bias=True, prefetch=1)
        assert predicted.tables == 4 * floats == 4 * (3 * 60 + 4 * 6)


def test_prefetching_goes_on_in_the_background(tmp_path):
    go_on = threading.Event()

    def start(entity, rows, parts):
        assert go_on.wait(10)
        parts["vectors"][:] = 1.0

    with PartitionStore.create(tmp_path / "store", LAYOUT, start) as store:
        store.prefetch([("user", 0)])
        loading = threading.Thread(target=lambda: loaded.update(store.load([("user", 0)])))
        loaded = {}
        loading.start()
        time.sleep(0.05)
        assert not loaded
        go_on.set()
        loading.join()
        assert loaded["user", 0].vectors.tolist() == [[1.0] * 3] * 3


def test_a_partition_that_comes_back_is_the_same_memory_and_is_not_changed_while_it_is_written(tmp_path, monkeypatch):
    write, go_on, written = partition_store.write_tensor, threading.Event(), []

    def slow_write(path, tensor):
        assert go_on.wait(10)
        written.append(tensor.clone())
        write(path, tensor)

    with PartitionStore.create(tmp_path / "store", LAYOUT, START) as store:
        before = store.load([("user", 0)])["user", 0].vectors
        monkeypatch.setattr(partition_store, "write_tensor", slow_write)
        store.evict(("user", 0))
        back = []
        loading = threading.Thread(target=lambda: back.append(store.load([("user", 0)])["user", 0].vectors.zero_()))
        loading.start()
        time.sleep(0.05)
        assert not back
        go_on.set()
        loading.join()
        assert back[0].data_ptr() == before.data_ptr()
        assert written[0].abs().min() > 0


def test_what_fails_in_the_background_is_raised_by_the_next_call_and_all_after_it(tmp_path):
    path = tmp_path / "store"
    with PartitionStore.create(path, LAYOUT, START) as store:
        change(store.load([("user", 0)])["user", 0], 1.0)
        store.evict(("user", 0))
        store.commit({"epoch": 1})
        store.release()
        file = next(path.glob("state-0-0.*.npy"))
        whole_file = file.read_bytes()
        file.write_bytes(whole_file[:-1])
        store.prefetch([("user", 0)])
        for call in (
            lambda: store.load([("user", 0)]),
            lambda: store.evict(("user", 0)),
            lambda: store.commit({"epoch": 2}),
            lambda: store.prefetch([("user", 1)]),
            lambda: whole(store, "user"),
        ):
            with pytest.raises(FormatError, match=r"state-0-0\.\d\.npy is truncated: it ends 1 bytes too early"):
                call()
    with pytest.raises(FormatError, match=r"state-0-0\.\d\.npy has 139 bytes, expected 140 bytes"):
        PartitionStore.open(path, START)
    file.write_bytes(whole_file)
    with PartitionStore.open(path, START) as store:
        assert store.record == {"epoch": 1}


def test_huge_zeros_are_zeros_at_the_start_of_a_page():
    table = huge_zeros((5000, 256))
    assert (table.shape, table.dtype, int(table.count_nonzero())) == ((5000, 256), torch.float32, 0)
    table[4999] = 2.0
    assert table.sum() == 512
    if sys.platform == "linux":
        assert table.data_ptr() % 2**21 == 0
    assert huge_zeros((0, 3)).shape == (0, 3)
    assert huge_zeros((3,)).tolist() == [0, 0, 0]


# -- what a crash leaves ---------------------------------------------------------------------------------------------


def train(store, steps, *, every=2):
    """Go on from the last commit: every stay changes its partitions; commits come in the middle of epochs, too."""
    layout, done = store.layout, store.record.get("step", 0)
    stays = [stay.partitions for epoch in range(1, 6) for stay in bucket_order(4, 0, epoch)]
    stays *= 1 + steps // len(stays)
    for step in range(done, steps):
        keys = layout.keys(stays[step])
        for key, resident in store.load(keys).items():
            change(resident, step + key[1])
        following = layout.keys(stays[step + 1]) if step + 1 < steps else []
        store.prefetch(following)
        for key in set(keys) - set(following):
            store.evict(key)
        if (step + 1) % every == 0 or step + 1 == steps:
            store.commit({"step": step + 1}, {"block": np.full(3, step + 1.0)}, best=step % 5 == 0)


class Killed(BaseException):
    """What no one catches."""


@contextlib.contextmanager
def dying(monkeypatch, left):
    """Let so many operations on files pass, and none after them; the write that is hit is done by half.

    Yields a list of the operations that passed.
    """
    done = []

    def guarded(name, function, half=None):
        def call(*args, **kwargs):
            if len(done) >= left:
                if half is not None and len(done) == left:
                    half(*args, **kwargs)
                done.append("dead")
                raise Killed
            done.append(name)
            return function(*args, **kwargs)

        return call

    def half_written(path, tensor):
        path.write_bytes(bytes(partition_files.bytes_of(tensor))[: tensor.numel() * 2])

    def half_json(path, content):
        path.write_text(json.dumps(content)[:50])

    with monkeypatch.context() as patch:
        for name, half in (("write_tensor", half_written), ("write_json", half_json), ("sync", None)):
            patch.setattr(partition_store, name, guarded(name, getattr(partition_store, name), half))
        patch.setattr(partition_store, "write_npy", guarded("write_npy", partition_store.write_npy))
        for name in ("replace", "unlink"):
            patch.setattr(Path, name, guarded(name, getattr(Path, name)))
        yield done


def test_a_store_that_dies_at_any_operation_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    steps, layout = 5, Layout({"user": 7, "tag": 2}, {"user": 4, "tag": 1}, dim=2)
    states = {0: None}
    for step in range(1, steps + 1):
        with PartitionStore.create(tmp_path / f"whole-{step}", layout, START) as store:
            train(store, step, every=1 if step % 2 else 2)
            states[step] = everything(store)
    with PartitionStore.create(tmp_path / "counting", layout, START) as store, dying(monkeypatch, 10**6) as done:
        states[0] = everything(store)
        train(store, steps)
    total = len(done)
    assert total > 60
    seen = set()
    for left in range(total):
        path = tmp_path / f"at-{left}"
        store = PartitionStore.create(path, layout, START)
        with dying(monkeypatch, left), pytest.raises(Killed):
            train(store, steps)
        store.close()
        with PartitionStore.open(path, START) as store:
            step = store.record.get("step", 0)
            assert everything(store) == states[step]
            assert store.arrays.get("block", np.zeros(3)).tolist() == [step] * 3
            assert {file.name for file in path.iterdir()} == {"manifest.json", *store._last.sizes}
            seen.add(step)
            train(store, steps)
            assert everything(store) == states[steps]
    assert seen == {0, 2, 4, 5}


CHILD = """
    import os, signal, sys, time
    import torch
    from tests.pretrain.test_partition_store import START, PartitionStore, train

    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # what a killed process has written is not lost
    for line in sys.stdin:
        child = os.fork()  # before there is any thread; an interpreter of its own for each would take seconds
        if not child:
            train(PartitionStore.open(sys.argv[1], START), int(sys.argv[2]))
            os._exit(0)
        time.sleep(float(line))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print("killed", flush=True)
"""


def kill_at_random(tmp_path, kills, seed, steps=3000):
    """Kill a run with signal 9, again and again, and compare what it leaves with one that nobody disturbs.

    Returns:
        The steps of the commits that were found.
    """
    layout = Layout({"user": 4001, "item": 2001, "tag": 3}, {"user": 4, "item": 4, "tag": 1}, dim=16, bias=True)
    draw, path = random.Random(seed), tmp_path / "killed"
    PartitionStore.create(path, layout, START).close()
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(path), str(steps)]
    found = [0]
    with (
        PartitionStore.create(tmp_path / "calm", layout, START) as calm,
        subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child,
    ):
        for _ in range(kills):
            child.stdin.write(f"{draw.random() * 0.3}\n")
            child.stdin.flush()
            assert child.stdout.readline() == "killed\n"
            with PartitionStore.open(path, START) as store:
                found.append(store.record.get("step", 0))
                if found[-1] > found[-2]:
                    train(calm, found[-1])
                assert calm.record.get("step", 0) == found[-1]
                assert everything(store) == everything(calm)
        child.stdin.close()
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_a_process_that_is_killed_leaves_its_last_commit(tmp_path):
    assert len(set(kill_at_random(tmp_path, kills=8, seed=0))) > 3


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_process_that_is_killed_often_leaves_its_last_commit(tmp_path, seed):
    assert len(set(kill_at_random(tmp_path, kills=40, seed=seed))) > 10


def test_a_full_disk_is_told_and_leaves_the_last_commit(tmp_path):
    """A limit on the size of files gives what a full disk gives: a write that is done in part, then an error."""
    resource = pytest.importorskip("resource")
    layout = Layout({"user": 4000, "tag": 10}, {"user": 2, "tag": 1}, dim=16)
    path, before = tmp_path / "store", resource.getrlimit(resource.RLIMIT_FSIZE)
    with PartitionStore.create(path, layout, START) as store:
        change(store.load([("user", 0)])["user", 0], 1.0)
        store.evict(("user", 0))
        store.commit({"epoch": 1})
        expected = everything(store)
        change(store.load([("user", 0)])["user", 0], 1.0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            store.evict(("user", 0))
            told = r"partition 0 of 'user' cannot be written: .*; the last commit stays as it is"
            with pytest.raises(OSError, match=told):
                store.commit({"epoch": 2})
            with pytest.raises(OSError, match=told):
                store.load([("tag", 0)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert {file.name for file in path.iterdir()} == {"manifest.json", *store._last.sizes}
    with PartitionStore.open(path, START) as store:
        assert store.record == {"epoch": 1}
        assert everything(store) == expected


def test_a_commit_that_fails_leaves_the_last_one_and_may_be_tried_again(tmp_path, monkeypatch):
    with PartitionStore.create(tmp_path / "store", LAYOUT, START) as store:
        train(store, 2)

        def full(path, content):
            path.write_text("{")
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(partition_store, "write_json", full)
            with pytest.raises(OSError, match="the commit cannot be written: No space left on device; the last"):
                store.commit({"step": 3})
        assert store.record == {"step": 2}
        store.commit({"step": 4})
    with PartitionStore.open(tmp_path / "store", START) as store:
        assert store.record == {"step": 4}
        assert not [file for file in store.path.iterdir() if file.name.startswith(".")]


# -- refusals --------------------------------------------------------------------------------------------------------


def test_a_store_is_open_once(tmp_path):
    path = tmp_path / "store"
    with PartitionStore.create(path, LAYOUT, START) as store:
        with pytest.raises(VersionError, match="is open in another process, or twice in this one"):
            PartitionStore.open(path, START)
        with pytest.raises(VersionError, match="exists already"):
            PartitionStore.create(path, LAYOUT, START)
    with pytest.raises(ConfigError, match="is closed"):
        store.load([("user", 0)])
    PartitionStore.open(path, START).close()


def test_files_of_others_in_the_folder_stay(tmp_path):
    PartitionStore.create(tmp_path / "store", LAYOUT, START).close()
    ours = ("vectors-0-0.3.npy", "bias_state-12-1000.99.npy", "array-3.4.npy", ".partial-manifest.3.json")
    theirs = ("notes.txt", "vectors.npy", "manifest.json.bak")
    for name in (*ours, *theirs):
        (tmp_path / "store" / name).write_text("x")
    PartitionStore.open(tmp_path / "store", START).close()
    assert {file.name for file in (tmp_path / "store").iterdir()} == {"manifest.json", *theirs}


@pytest.mark.parametrize(
    ("change_manifest", "match"),
    [
        (lambda m: m.update(format="partitions/0"), "has the format 'partitions/0'"),
        (lambda m: m["layout"].update(dim=0), "another release.*dim is 0"),
        (lambda m: m["layout"].pop("dim"), "another release"),
        (lambda m: m.update(partitions=[["user", 0, 99]]), "'files' lacks 'vectors-0-0.99.npy'"),
        (lambda m: m.update(partitions=[["nobody", 0, 1]]), "another release"),
        (lambda m: m["files"].update({"../x": 3}), "not inside its folder"),
        (lambda m: m["files"].update({"gone.npy": 3}), "gone.npy is missing, expected 3 bytes"),
        (lambda m: m.update(arrays={"block": ["array-9.9.npy", 1]}), "'files' lacks 'array-9.9.npy'"),
        (lambda m: m.pop("best"), "another release"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, change_manifest, match):
    with PartitionStore.create(tmp_path / "store", LAYOUT, START) as store:
        train(store, 2)
    path = tmp_path / "store" / "manifest.json"
    manifest = json.loads(path.read_text())
    change_manifest(manifest)
    path.write_text(json.dumps(manifest))
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.parent.iterdir()}
    with pytest.raises(FormatError, match=match):
        PartitionStore.open(tmp_path / "store", START)
    assert files == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.parent.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (({"user": 3}, {"item": 3}, 2), "partitions are given of item, expected those of user"),
        (({"user": 3}, {"user": 0}, 2), "entity type 'user' has 0 partitions, expected at least 1"),
        (({"user": -1}, {"user": 1}, 2), "entity type 'user' has -1 rows"),
        (({"user": 3}, {"user": 1}, 0), "dim is 0, expected at least 1"),
        (({"user": 3}, {"user": 1}, 2, "adam"), "optimizer 'adam' is not known"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(arguments, match):
    with pytest.raises(ConfigError, match=match):
        Layout(*arguments)


def test_what_a_store_cannot_do_is_refused(tmp_path):
    with PartitionStore.create(tmp_path / "store", LAYOUT, START) as store:
        with pytest.raises(ConfigError, match="partition 1 of 'user' is not in memory"):
            store.evict(("user", 1))
        with pytest.raises(ConfigError, match="no commit was the best"):
            store.restore_best()
        with pytest.raises(ConfigError, match="the array 'block' is of complex128, expected float32 or"):
            store.commit({}, {"block": np.zeros(2, complex)})
        store.load([("user", 1)])
        store.commit({}, best=True)
        with pytest.raises(ConfigError, match="partitions are in memory; evict them first"):
            store.restore_best()
    with pytest.raises(FormatError, match="there is no such folder"):
        PartitionStore.open(tmp_path / "nowhere", START)
