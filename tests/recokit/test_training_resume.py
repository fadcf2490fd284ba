"""Runs that are stopped and gone on with: the same bytes as if they had not been, and no other run's checkpoint."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
import training_data as data
from torch import nn

from recokit.errors import ConfigError, FormatError, VersionError
from recokit.features import FeatureSpec
from recokit.frame import SampledNegatives
from recokit.rankers import DLRM, FitConfig, fit

CONFIG = FitConfig(epochs=3, batch_size=64, learning_rate=1e-2, evaluate_every=4, patience=99)
NEGATIVES = SampledNegatives(range(data.NUM_IDS), column="item", query="user", ratio=2)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("recokit.table.folder.os.fsync", lambda descriptor: None)


class Stopped(Exception):
    """What a callback raises in the middle of a run."""


def stopping_at(step):
    def callback(event):
        if event["event"] == "step" and event["step"] == step:
            raise Stopped

    return callback


class Dropping(DLRM):
    """Draws random numbers at every step."""

    def __init__(self, features):
        super().__init__(features, dim=4, bottom=(4,), top=(4,))
        self.drop = nn.Dropout(0.5)

    def forward(self, batch):
        return super().forward(batch) + self.drop(torch.ones(len(batch)))


def kinds_of_rows(kind, tmp_path):
    """Return what ``fit`` is given: in memory, as a stream, with negatives."""
    train, valid = data.rows(500), data.rows(100, seed=1)
    if kind == "stream":
        config = FitConfig(**{**vars(CONFIG), "shuffle_rows": 150})
        return data.write(train, tmp_path / "train.parquet", 40), valid, config, None
    if kind in {"negatives", "negatives in files"}:
        train = train[train["clicked"]].drop(columns="clicked")
        config = FitConfig(**{**vars(CONFIG), "shuffle_rows": 150})
        rows = data.write(train, tmp_path / "likes.parquet", 20) if kind == "negatives in files" else train
        return rows, valid, config, NEGATIVES
    return train, valid, CONFIG, None


@pytest.mark.parametrize("kind", ["frame", "stream", "negatives", "negatives in files", "dropout"])
def test_a_stopped_run_ends_with_the_bytes_of_one_that_was_not(kind, tmp_path):
    train, valid, config, negatives = kinds_of_rows(kind, tmp_path)
    streams = count()

    def run(callback=None, **settings):
        torch.manual_seed(next(streams))  # torch's own stream plays no part
        ranker = Dropping(data.spec()) if kind == "dropout" else data.ranker()
        result = fit(ranker, train, valid, config, negatives=negatives, callback=callback, **settings)
        history = result.to_frame().drop(columns="seconds")
        return data.weights(ranker), history.to_json(double_precision=15), result.coverage

    settings = {"checkpoint": tmp_path / "run", "checkpoint_every": 3}
    for step in (2, 5, 9, 14):  # before the first checkpoint; between two; in the second epoch
        with pytest.raises(Stopped):
            run(stopping_at(step), **settings, resume=True)
    assert run(**settings, resume=True) == run()
    steps = []
    assert run(steps.append, **settings, resume=True) == run()
    assert steps == []  # it had ended


def test_a_run_that_lost_its_patience_is_over(tmp_path):
    train, valid = data.rows(200), data.rows(100, seed=1)
    config = FitConfig(epochs=50, batch_size=64, learning_rate=0.1, evaluate_every=1, patience=2)
    settings = {"checkpoint": tmp_path / "run", "checkpoint_every": 5}
    first = fit(data.ranker(), train, valid, config, **settings)
    events = []
    ranker = data.ranker()
    second = fit(ranker, train, valid, config, **settings, resume=True, callback=events.append)
    assert events == []
    assert second == first
    assert len(first.history) < 150
    probabilities, labels = ranker.predict(valid), valid["clicked"].to_numpy()
    loss = -np.mean(np.log(np.where(labels, probabilities, 1 - probabilities)))
    assert loss == pytest.approx(first.best.valid_log_loss, rel=1e-5)  # the best weights are back


def test_going_on_reads_nothing_but_the_rows_to_train(tmp_path, monkeypatch):
    train, valid, config, _ = kinds_of_rows("stream", tmp_path)
    settings = {"checkpoint": tmp_path / "run", "checkpoint_every": 1}
    with pytest.raises(Stopped):
        fit(data.ranker(), train, valid, config, callback=stopping_at(3), **settings)
    monkeypatch.setattr(FeatureSpec, "fit", lambda *_: pytest.fail("it was fitted before"))
    monkeypatch.setattr("recokit.rankers.training.survey", lambda *_: pytest.fail("it was looked at before"))
    fit(data.ranker(), train, valid, config, **settings, resume=True)


def test_a_checkpoint_is_plain_files_and_one_at_a_time(tmp_path):
    fit(data.ranker(), data.rows(200), None, CONFIG, checkpoint=tmp_path / "run", checkpoint_every=2)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["4-12", "start"]
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".npy"}
    for path in files:
        assert json.loads(path.read_text()) if path.suffix == ".json" else np.load(path, allow_pickle=False) is not None


@pytest.fixture
def stopped(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        fit(
            data.ranker(), data.rows(200), data.rows(50, seed=1), CONFIG, checkpoint=folder, checkpoint_every=2,
            callback=stopping_at(5),
        )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": FitConfig(**{**vars(CONFIG), "learning_rate": 0.1})}, "its learning_rate is 0.01, this run's 0.1"),
        ({"config": FitConfig(**{**vars(CONFIG), "seed": 1})}, "its seed is 0, this run's 1"),
        ({"train": data.rows(200, seed=9)}, "its train are others"),
        ({"train": data.rows(200).iloc[::-1]}, "its train are others"),
        ({"valid": None}, "its valid are others"),
        ({"ranker": data.ranker(dense=[])}, r"its dense is \['age'\], this run's \[\]; its weights before"),
        ({"ranker": data.ranker(missing="indicator")}, "its missing is 'error', this run's 'indicator'"),
        ({"ranker": DLRM(data.spec(), dim=5, bottom=(4,), top=(4,))}, "its setting dim is 4, this run's 5"),
        ({"ranker": DLRM(data.spec(), dim=4, bottom=(4,), top=(4,), seed=1)}, "its setting seed is 0, this run's 1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_the_difference_told(stopped, changes, message):
    arguments = {"ranker": data.ranker(), "train": data.rows(200), "valid": data.rows(50, seed=1), "config": CONFIG}
    with pytest.raises(VersionError, match=f"run holds another run: .*{message}"):
        fit(**arguments | changes, checkpoint=stopped, resume=True)


def test_files_of_other_rows_are_refused(tmp_path):
    train, valid, config, _ = kinds_of_rows("stream", tmp_path)
    with pytest.raises(Stopped):
        fit(data.ranker(), train, valid, config, checkpoint=tmp_path / "run", callback=stopping_at(1))
    data.write(data.rows(500, seed=5), train, 40)
    with pytest.raises(VersionError, match="its train are others"):
        fit(data.ranker(), train, valid, config, checkpoint=tmp_path / "run", resume=True)


def test_a_run_is_not_gone_on_with_by_accident(stopped, tmp_path):
    arguments = (data.rows(200), data.rows(50, seed=1), CONFIG)
    with pytest.raises(VersionError, match=r"run holds a run: go on with it \(resume=True\)"):
        fit(data.ranker(), *arguments, checkpoint=stopped)
    ranker = data.ranker()
    fit(ranker, *arguments)
    with pytest.raises(VersionError, match="its weights before the first step are others"):
        fit(ranker, *arguments, checkpoint=stopped, resume=True)
    with pytest.raises(ConfigError, match="checkpoint_every is 0"):
        fit(data.ranker(), *arguments, checkpoint=tmp_path / "new", checkpoint_every=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(VersionError, match="is no folder"):
        fit(data.ranker(), *arguments, checkpoint=tmp_path / "file")


def test_damage_is_told(stopped):
    array = max(stopped.glob("*-4/*.npy"), key=lambda path: path.stat().st_size)
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    arguments = {"checkpoint": stopped, "resume": True}
    with pytest.raises(FormatError, match=r"without the folder .*-4 the run goes on from the start"):
        fit(data.ranker(), data.rows(200), data.rows(50, seed=1), CONFIG, **arguments)


def test_checkpoints_without_their_start_are_not_trusted(stopped):
    shutil.rmtree(stopped / "start")
    with pytest.raises(VersionError, match="holds checkpoints of a run whose start is not there"):
        fit(data.ranker(), data.rows(200), data.rows(50, seed=1), CONFIG, checkpoint=stopped, resume=True)


def test_no_thread_is_left_behind(tmp_path):
    before = threading.active_count()
    train, valid, config, _ = kinds_of_rows("stream", tmp_path)
    with pytest.raises(Stopped):
        fit(data.ranker(), train, valid, config, callback=stopping_at(2))
    assert threading.active_count() == before


def test_what_a_crash_left_behind_is_ignored_and_cleared_away(stopped):
    partial = stopped / f".partial-1-4-{'0' * 32}"
    partial.mkdir()
    fit(data.ranker(), data.rows(200), data.rows(50, seed=1), CONFIG, checkpoint=stopped, resume=True)
    assert not partial.exists()


PROGRAM = """
import sys, hashlib
sys.path.insert(0, {here!r})
import torch, training_data as data
from recokit.rankers import FitConfig, fit
torch.set_num_threads(1)
config = FitConfig(epochs=4, batch_size=16, learning_rate=1e-2, shuffle_rows=300, evaluate_every=50, patience=99)
ranker = data.ranker()
fit(ranker, {train!r}, data.rows(100, seed=1), config, checkpoint=sys.argv[1], checkpoint_every=7, resume=True)
print(hashlib.sha256(repr(sorted(data.weights(ranker).items())).encode()).hexdigest())
"""


@pytest.mark.slow
def test_a_killed_process_is_gone_on_with(tmp_path):
    train = data.write(data.rows(3000), tmp_path / "train.parquet", 100)
    program = PROGRAM.format(here=str(Path(__file__).parent), train=str(train))

    def start(folder):
        return subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE, text=True)

    expected = start(str(tmp_path / "whole")).communicate()[0]
    killed = 0
    for wait in (0.05, 0.3, 0.2):  # after the first checkpoint, each time a little further
        process = start(str(tmp_path / "run"))
        before = set((tmp_path / "run").glob("*-*")) if (tmp_path / "run").exists() else set()
        while process.poll() is None and set((tmp_path / "run").glob("*-*")) <= before:
            time.sleep(0.01)
        time.sleep(wait)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed
    assert start(str(tmp_path / "run")).communicate()[0] == expected
    assert len(expected) == 65
