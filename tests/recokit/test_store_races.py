"""Stores that many write to at once, and writers that are killed: no half version is seen, and nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from store_helpers import NOW, table
from store_server import shared_server

from recokit.store import EmbeddingStore
from recokit.table import write_version

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")

HERE = Path(__file__).parent


@pytest.fixture
def where(request, tmp_path):
    """Return the root and options of an empty store: a folder, objects in a folder, or a bucket."""
    if request.param == "folder":
        return {"root": str(tmp_path / "store"), "cache": str(tmp_path / "cache")}
    if request.param == "objects":
        return {"root": f"objects://{tmp_path}/store", "cache": str(tmp_path / "cache")}
    server = shared_server()
    server.make_bucket(bucket := f"bucket-{abs(hash(tmp_path.name)) % 10**9}")
    return {"root": f"s3://{bucket}/store", "cache": str(tmp_path / "cache"), "options": server.options}


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Return what gives a job to the program of workers, which starts once."""
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path_factory.mktemp("aside")),
    }
    command = [sys.executable, str(HERE / "store_workers.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as program:

        def run(work, where, **job):
            program.stdin.write(json.dumps({"work": work, **where, **job}) + "\n")
            program.stdin.flush()
            return json.loads(program.stdout.readline())

        yield run
        program.stdin.close()


def open_store(where):
    return EmbeddingStore(where["root"], cache=where["cache"], options=where.get("options"))


def made(tmp_path, name="v1", count=4):
    return str(write_version(tmp_path / f"made-{count}" / name, {"user": table(name, count)}).path)


def check(rounds):
    for each in rounds:
        between, again, after = each["then"]
        assert between in ({}, {"v1": 4})  # not there, or there whole
        assert (again, after) == ("v1", {"v1": 4})


def check_steps(rounds, *, at_least):
    assert [each["killed"] for each in rounds] == [True] * (len(rounds) - 1) + [False]
    assert len(rounds) > at_least
    check(rounds)


@pytest.mark.parametrize(
    ("where", "stride", "at_least"),
    [("folder", 1, 7), ("objects", 5, 7), pytest.param("objects", 1, 30, marks=pytest.mark.slow)],
    indirect=["where"],
)
def test_killed_at_any_step_a_publisher_leaves_nothing_to_see_and_the_next_one_finishes(
    workers, where, stride, at_least, tmp_path
):
    check_steps(workers("killed_at_steps", where, folder=made(tmp_path), stride=stride), at_least=at_least)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["bucket"], indirect=True)
def test_killed_at_any_step_of_an_upload_to_a_bucket(workers, where, tmp_path):
    check_steps(workers("killed_at_steps", where, folder=made(tmp_path), stride=1), at_least=20)


@pytest.mark.parametrize("where", ["bucket"], indirect=True)
def test_killed_at_random_moments_of_an_upload_to_a_bucket(workers, where, tmp_path):
    rounds = workers("killed_at_random", where, folder=made(tmp_path), kills=3, seed=0)
    check(rounds)
    assert sum(each["killed"] for each in rounds) == 3
    for number in range(len(rounds)):
        store = EmbeddingStore(f"{where['root']}/{number}", cache=where["cache"], options=where["options"])
        store.collect(grace=NOW)
        assert [name for name in store._place.names() if name.startswith(".")] == [".store.json"]  # no claim


@pytest.mark.slow
@pytest.mark.parametrize(("where", "kills"), [("folder", 60), ("objects", 60), ("bucket", 40)], indirect=["where"])
def test_killed_at_many_random_moments(workers, where, kills, tmp_path):
    rounds = workers("killed_at_random", where, folder=made(tmp_path), kills=kills, seed=1)
    check(rounds)
    assert sum(each["killed"] for each in rounds) == kills


@pytest.mark.parametrize(
    ("where", "times"),
    [("folder", 20), ("objects", 10), pytest.param("bucket", 10, marks=pytest.mark.slow)],
    indirect=["where"],
)
def test_of_movers_of_an_alias_none_undoes_another_unseen(workers, where, times, tmp_path):
    store = open_store(where)
    for name in ("start", "w0", "w1", "w2"):
        store.publish(name, {"user": table(name)})
    store.set_alias("production", "start", expected=None)
    assert workers("moving", where, workers=3, times=times) == [times] * 3
    history = store.alias_history("production")
    assert [move.number for move in history] == list(range(1, 3 * times + 2))
    places = [move.version for move in history]
    assert places[::2] == ["start"] * len(places[::2])  # each mover started from where the one before had put it
    assert set(places[1::2]) <= {"w0", "w1", "w2"}
    assert store.aliases() == {"production": places[-1]}


@pytest.mark.parametrize(
    ("where", "number"),
    [("folder", 6), ("objects", 6), pytest.param("bucket", 8, marks=pytest.mark.slow)],
    indirect=["where"],
)
def test_of_publishers_of_one_name_one_wins_and_those_of_other_names_all_do(workers, where, number, tmp_path):
    folders = [made(tmp_path, count=count) for count in range(1, number + 1)]
    own = [made(tmp_path, name=f"own-{count}", count=count) for count in range(1, number + 1)]
    outcomes = workers("publishing", where, workers=number, folders=folders, own=own)
    assert [each[1] for each in outcomes] == ["published"] * number
    winners = [count for count, each in enumerate(outcomes, start=1) if each[0] == "published"]
    losers = [each[0] for each in outcomes if each[0] != "published"]
    assert len(winners) == 1
    assert all(each.startswith("VersionError: ") for each in losers)
    store = open_store(where)
    assert set(store.versions()) == {"v1", *(f"own-{count}" for count in range(1, number + 1))}
    assert store.open("v1", verify=True).table("user").count == winners[0]
    for count in range(1, number + 1):
        assert store.open(f"own-{count}", verify=True).table("user").count == count
