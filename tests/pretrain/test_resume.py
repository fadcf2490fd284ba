"""Crash safety: a run that is killed, however often and wherever, ends with the bytes of one that never was."""

import contextlib
import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from pretrain import Graph, Relation, TrainConfig, train, train_networks
from pretrain.run import Run
from recokit.errors import FormatError, VersionError
from recokit.store import EmbeddingStore
from recokit.table import folder as folder_module

CONFIG = TrainConfig(
    dim=4, epochs=8, batch_size=32, learning_rate=0.1, uniform_negatives=4, prevalence_negatives=2, bias=True,
    reciprocal=True, operator="diagonal", schedule="linear", warmup=0.1, patience=2, metric="hits@3",
)  # fmt: skip
FIELDS = ("vectors", "biases", "parameters", "vector_state", "bias_state", "parameter_state")


def frames():
    """Users like the items, and follow the users, whose number leaves the same rest by three."""
    draw, likes = np.random.default_rng(0), pd.DataFrame({"source": np.arange(70) % 14})
    likes["target"] = likes["source"] % 3 + 3 * draw.integers(4, size=70)
    likes["weight"] = draw.random(70)
    follows = pd.DataFrame({"source": np.arange(40) % 14, "target": np.arange(40) % 14 % 3 + 3 * (np.arange(40) // 10)})
    return {"likes": likes, "follows": follows}


@pytest.fixture(scope="module")
def parts():
    """A known and a validation part."""
    relations = [Relation("likes", "user", "item"), Relation("follows", "user", "user", prevalence_negatives=0)]
    return Graph.from_frames(frames(), relations).split(fraction=0.3)


def bytes_of(model):
    learned = {f"{field}/{name}": part.numpy().tobytes() for field in FIELDS for name, part in field_of(model, field)}
    return learned | {"epochs": json.dumps(model.epochs), "meta": json.dumps(model.meta)}


def field_of(model, field):
    return getattr(model, field).items()


class Killed(BaseException):
    """What no one catches."""


class Killer:
    """Lets a number of operations pass (batches, folders made, renamed or removed, writes), and none after them.

    The write that is hit is done by half. What cleans up when an exception comes by cannot: the process is dead.
    """

    def __init__(self, monkeypatch):
        self.left, self.done = None, 0
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # for speed; here no machine loses its power
        for owner, name in ((os, "mkdir"), (os, "rename"), (os, "unlink"), (os, "rmdir"), (Run, "step")):
            monkeypatch.setattr(owner, name, self._guarded(getattr(owner, name)))
        monkeypatch.setattr(folder_module._HashingFile, "write", self._writing(folder_module._HashingFile.write))

    def _guarded(self, function):
        def guarded(*args, **kwargs):
            self._pass()
            return function(*args, **kwargs)

        return guarded

    def _pass(self):
        self.done += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed

    def _writing(self, write):
        def writing(file, data):
            try:
                self._pass()
            except Killed:
                if self.left == -1:
                    write(file, memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
                raise
            return write(file, data)

        return writing

    def run(self, function, operations=None):
        """Call a function and return what it does, or None where it was killed after so many operations."""
        self.left, self.done = operations, 0
        try:
            return function()
        except Killed:
            return None
        finally:
            self.left = None


@pytest.fixture
def killer(monkeypatch):
    return Killer(monkeypatch)


@pytest.fixture
def uninterrupted(parts):
    known, validation = parts
    return bytes_of(train(known, CONFIG, validation=validation))


def run_of(parts, folder, **arguments):
    known, validation = parts
    arguments = {"checkpoint": folder, "checkpoint_seconds": 0, "resume": True} | arguments
    return lambda: train(known, CONFIG, validation=validation, **arguments)


def test_checkpoints_change_nothing_and_the_last_one_stays(parts, uninterrupted, tmp_path, killer):
    model = killer.run(run_of(parts, tmp_path / "c", resume=False))
    assert len(model.epochs) > 2
    assert bytes_of(model) == uninterrupted
    assert [path.name for path in (tmp_path / "c").iterdir()] == [f"{len(model.epochs) + 1}-0"]
    steps = []
    read_back = run_of(parts, tmp_path / "c", callback=steps.append)()
    assert steps == []
    assert bytes_of(read_back) == uninterrupted


@pytest.mark.parametrize("seed", range(6))
def test_killed_again_and_again_it_ends_with_the_same_bytes(parts, uninterrupted, tmp_path, killer, seed):
    draw, kills, model = random.Random(seed), 0, None
    while model is None:
        model = killer.run(run_of(parts, tmp_path / "c"), draw.choice([3, 30, 90, 270]) + draw.randrange(60))
        kills += model is None
    assert kills > 3
    assert bytes_of(model) == uninterrupted
    assert [path.name for path in (tmp_path / "c").iterdir()] == [f"{len(model.epochs) + 1}-0"]


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_point_of_a_checkpoint_it_ends_with_the_same_bytes(parts, uninterrupted, tmp_path, killer, step):
    for operations in range(150, 300, step):  # two checkpoints or so: written, made visible, the last one removed
        folder = tmp_path / str(operations)
        assert killer.run(run_of(parts, folder), operations) is None
        assert bytes_of(run_of(parts, folder)()) == uninterrupted


def killed(parts, folder, killer, operations=700):
    """Kill a run and return its newest checkpoint, if it has any; an earlier one that is still there goes."""
    assert killer.run(run_of(parts, folder), operations) is None
    found = sorted(folder.glob("[0-9]*"), key=lambda path: tuple(map(int, path.name.split("-"))))
    for earlier in found[:-1]:
        shutil.rmtree(earlier)
    return found[-1] if found else None


def test_without_a_checkpoint_it_starts_anew(parts, uninterrupted, tmp_path, killer):
    killed(parts, tmp_path / "c", killer, operations=1)
    assert bytes_of(run_of(parts, tmp_path / "c")()) == uninterrupted


def test_a_checkpoint_is_not_passed_over_in_silence(parts, tmp_path, killer):
    killed(parts, tmp_path / "c", killer)
    with pytest.raises(
        VersionError, match=r"c holds a checkpoint: go on with its run \(resume\), or remove the folder"
    ):
        run_of(parts, tmp_path / "c", resume=False)()
    (tmp_path / "file").write_text("")
    with pytest.raises(VersionError, match="file is no folder of checkpoints"):
        run_of(parts, tmp_path / "file")()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 9}, "its epochs is 8, this run's 9$"),
        ({"learning_rate": 0.2, "seed": 1}, "its learning_rate is 0.1, this run's 0.2; its seed is 0, this run's 1$"),
        ({"comparator": "dot"}, "its comparator is 'cos', this run's 'dot'$"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(parts, tmp_path, killer, change, said):
    killed(parts, tmp_path / "c", killer)
    before = contents(tmp_path)
    known, validation = parts
    with pytest.raises(VersionError, match=f"is a checkpoint of another run: {said}"):
        train(
            known, dataclasses.replace(CONFIG, **change), validation=validation, checkpoint=tmp_path / "c", resume=True
        )
    assert contents(tmp_path) == before


def test_a_checkpoint_of_other_edges_or_another_start_is_refused(parts, tmp_path, killer):
    killed(parts, tmp_path / "c", killer)
    known, validation = parts
    arguments = {"validation": validation, "checkpoint": tmp_path / "c", "resume": True}
    fewer = dict(known.edges) | {"likes": known.edges["likes"].take(np.arange(len(known.edges["likes"])) > 0)}
    with pytest.raises(VersionError, match=r"of another run: its edges are others$"):
        train(Graph(known.relations, known.entities, fewer), CONFIG, **arguments)
    heavier = dict(known.relations) | {"likes": dataclasses.replace(known.relations["likes"], weight=2.0)}
    with pytest.raises(VersionError, match=r"of another run: its relations are others$"):
        train(Graph(heavier, known.entities, known.edges), CONFIG, **arguments)
    with pytest.raises(VersionError, match="of another run: its previous"):
        train(known, CONFIG, previous=train(known, CONFIG, validation=validation), **arguments)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


def edit(folder, key, change):
    """Change a value of the manifest."""
    manifest = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(manifest | {key: change(manifest[key])}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: cut(folder / "0.npy"), r"0.npy has \d+ bytes, expected \d+: it is truncated"),
        (lambda folder: flip(folder / "3.npy"), "3.npy has the sha256 .* its bytes have changed"),
        (lambda folder: (folder / "1.npy").unlink(), "1.npy is missing"),
        (lambda folder: cut(folder / "run.json"), "run.json is not JSON"),
        (lambda folder: (folder / "run.json").unlink(), "it has no run.json"),
        (lambda folder: edit(folder, "run", list), "run.json: 'run' is .*, expected an object"),
        (lambda folder: edit(folder, "arrays", list), "run.json: 'arrays' is .*, expected an object"),
        (
            lambda folder: edit(folder, "record", lambda _: {"epoch": 1}),
            "run.json: 'batch' is None, expected an integer",
        ),
        (lambda folder: edit(folder, "record", lambda old: old | {"epoch": 99}), "run.json has epoch 99 and batch"),
        (lambda folder: edit(folder, "record", lambda old: old | {"history": [3]}), "'history' holds what is no epoch"),
        (
            lambda folder: edit(folder, "arrays", lambda old: old | {"losses": "1"}),
            "'losses' is '1', expected an integer",
        ),
    ],
    ids=["cut", "flipped", "missing", "json", "none", "run", "arrays", "batch", "epoch", "history", "axes"],
)
def test_a_damaged_checkpoint_is_an_error_that_says_what_to_do(parts, tmp_path, killer, damage, message):
    folder = killed(parts, tmp_path / "c", killer)
    damage(folder)
    before = contents(tmp_path)
    with pytest.raises(FormatError, match=f"{message}.*; without the folder {folder} the run goes on from the start"):
        run_of(parts, tmp_path / "c")()
    assert contents(tmp_path) == before


def test_a_damaged_checkpoint_beside_an_earlier_one_says_so(parts, tmp_path, killer, uninterrupted):
    earlier = killed(parts, tmp_path / "c", killer)
    shutil.copytree(earlier, tmp_path / "kept")
    newest = killed(parts, tmp_path / "c", killer, operations=300)
    (tmp_path / "kept").rename(earlier)
    cut(newest / "0.npy")
    with pytest.raises(FormatError, match=f"without the folder {newest} the run goes on from an earlier one"):
        run_of(parts, tmp_path / "c")()
    shutil.rmtree(newest)
    assert bytes_of(run_of(parts, tmp_path / "c")()) == uninterrupted


def test_a_full_disk_leaves_the_last_checkpoint(parts, tmp_path, killer, uninterrupted, monkeypatch):
    last = killed(parts, tmp_path / "c", killer)
    write, room = folder_module._HashingFile.write, [500]

    def full(file, data):
        room[0] -= memoryview(data).nbytes
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(folder_module._HashingFile, "write", full)
        with pytest.raises(OSError, match="No space left on device"):
            run_of(parts, tmp_path / "c")()
    assert last in (tmp_path / "c").iterdir()
    assert bytes_of(run_of(parts, tmp_path / "c")()) == uninterrupted


def test_other_folders_beside_the_checkpoints_are_left_alone(parts, tmp_path, killer):
    for name in ("data", ".partial-v1-" + "0" * 32, "3-4-5"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("work")
    model = killer.run(run_of(parts, tmp_path))
    kept = {"data", ".partial-v1-" + "0" * 32, "3-4-5", f"{len(model.epochs) + 1}-0"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_networks_go_on_where_they_stood(parts, tmp_path, killer):
    known, validation = parts
    networks = {"social": ["follows", "likes"], "taste": ["likes"]}

    def run():
        arguments = {"validation": validation, "checkpoint": tmp_path / "c", "checkpoint_seconds": 0, "resume": True}
        return train_networks(known, networks, CONFIG, **arguments)

    expected = train_networks(known, networks, CONFIG, validation=validation)
    models, kills = None, 0
    while models is None:
        models = killer.run(run, 400 + 90 * kills)
        kills += models is None
    assert kills > 2
    for name, model in expected.items():
        assert bytes_of(models[name]) == bytes_of(model)


# -- the whole command -------------------------------------------------------------------------------------------------

TOML = """\
version = "v1"
output = "store"
[[relation]]
name = "likes"
source = "user"
target = "item"
path = "likes.csv"
[[relation]]
name = "follows"
source = "user"
target = "user"
path = "follows.csv"
prevalence_negatives = 0
[[network]]
name = "social"
relations = ["follows", "likes"]
[[network]]
name = "taste"
relations = ["likes"]
[split]
fraction = 0.1
[validation]
fraction = 0.2
[train]
dim = 4
epochs = 8
batch_size = 32
learning_rate = 0.1
uniform_negatives = 4
prevalence_negatives = 2
bias = true
reciprocal = true
operator = "diagonal"
schedule = "cosine"
patience = 2
metric = "hits@3"
"""
WORDS = (
    "pretrain",
    "c.toml",
    "--checkpoint-seconds",
    "0",
    "--resume",
    "--save-model",
    "model",
    "--save-split",
    "split",
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a configuration and its edges; the working folder."""
    for name, frame in frames().items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "c.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(project):
    """Every file that a run has written, without the time of its making."""
    files = {}
    for folder in ("store", "model", "split"):
        files |= {f"{folder}/{path}": content for path, content in contents(project / folder).items()}
    manifest = json.loads(files["store/v1/version.json"])
    return files | {"store/v1/version.json": {**manifest, "created": None}}


def whole_versions(project):
    """The versions that the store shows, each of which has to be whole."""
    store = EmbeddingStore(project / "store")
    return [store.open(name, verify=True).name for name in store.versions()]


@pytest.fixture
def expected(project, run_cli):
    """What a run that was not killed has written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)  # for speed
        ran = run_cli("pretrain", "c.toml", "--save-model", "model", "--save-split", "split")
    assert ran.code == 0, ran.err
    files = written(project)
    assert {path.name for path in (project / "store").iterdir()} == {"v1"}
    for name in ("store", "model", "split"):
        shutil.rmtree(project / name)
    return files


def test_the_command_killed_again_and_again_writes_the_same_files(project, run_cli, expected, killer):
    draw, kills, ran = random.Random(1), 0, None
    while ran is None:
        ran = killer.run(lambda: run_cli(*WORDS), draw.choice([500, 1500, 3000]) + draw.randrange(500))
        kills += ran is None
        assert whole_versions(project) in ([], ["v1"])
    assert kills > 1
    assert ran.code == 0, ran.err
    assert written(project) == expected
    assert {path.name for path in (project / "store").iterdir()} == {"v1"}


@pytest.mark.parametrize("points", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_the_command_killed_after_its_training_writes_the_same_files(project, run_cli, expected, killer, points):
    """From the last batch on: the split, the model and the version are written, the checkpoints removed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pretrain.cli.write_once", lambda *_: (_ for _ in ()).throw(Killed))
        assert killer.run(lambda: run_cli(*WORDS)) is None
    shutil.copytree(project / "store", project / "trained")
    killer.run(lambda: run_cli(*WORDS))
    operations = killer.done
    assert written(project) == expected
    for kill in range(1, operations + 1, max(1, operations // points)):
        for name in ("store", "model", "split"):
            shutil.rmtree(project / name)
        shutil.copytree(project / "trained", project / "store")
        assert killer.run(lambda: run_cli(*WORDS), operations - kill) is None
        assert whole_versions(project) in ([], ["v1"])
        ran = run_cli(*WORDS)
        assert ran.code == 0, ran.err
        assert written(project) == expected
        assert {path.name for path in (project / "store").iterdir()} == {"v1"}
    assert {path.name for path in project.iterdir()} - {"trained"} == {
        "store", "model", "split", "c.toml", "likes.csv", "follows.csv",
    }  # fmt: skip


# Starts the command once for every line that it reads: says which process it is, and how that ended.
STARTER = """
import os, sys
import duckdb, pretrain.cli
from recokit.cli import main
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        sys.argv, sys.stdout = ["recokit", *line.split()], open(os.devnull, "w")
        main()
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def names(store):
    """The files of a store, some of which may be gone the next moment."""
    return [name for _, folders, files in os.walk(store) for name in (*folders, *files)]


def kill_for_real(project, draw, kills):
    """Start the command and kill it some time after it began to write, again and again; say how often that was."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    killed = 0
    with subprocess.Popen([sys.executable, "-c", STARTER], cwd=project, env=os.environ | threads, **pipes) as starter:
        while True:
            before, until = names(project / "store"), time.monotonic() + 60
            print(*WORDS, file=starter.stdin)
            pid = int(starter.stdout.readline())
            if killed < kills:
                while names(project / "store") == before and time.monotonic() < until:
                    time.sleep(0.002)
                time.sleep(draw.random() ** 2)
                with contextlib.suppress(ProcessLookupError):  # it may have come to its end
                    os.kill(pid, signal.SIGKILL)
            code = int(starter.stdout.readline())
            assert code in (0, -signal.SIGKILL)
            assert whole_versions(project) in ([], ["v1"])
            if code == 0:
                return killed
            killed += 1


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_kill_9_changes_nothing(project, expected, kills):
    draw, left = random.Random(kills), kills
    while left:  # a run may come to its end before it was killed as often as that
        left -= kill_for_real(project, draw, left)
        assert written(project) == expected
        assert {path.name for path in (project / "store").iterdir()} == {"v1"}
        for name in ("store", "model", "split"):
            shutil.rmtree(project / name)
