"""The examples of following, on a small planted network in Ciao's own files."""

import importlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recokit.report import Report, Result, seed_table

pytest.importorskip("torch")
scipy_io = pytest.importorskip("scipy.io")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
USERS = 60


@pytest.fixture
def example(monkeypatch):
    """Import an example by name, as ``python examples/NAME.py`` would find its neighbours."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three circles that follow each other within, and rate items of their own category."""
    path = tmp_path_factory.mktemp("ciao")
    rng = np.random.default_rng(0)
    user = np.arange(1, USERS + 1)
    same = user[:, None] % 3 == user % 3
    follows = rng.random((USERS, USERS)) < np.where(same, 0.7, 0.02)
    np.fill_diagonal(follows, False)
    source, target = follows.nonzero()
    trust = np.column_stack([target + 1, source + 1])  # the second column trusts the first
    trust = np.concatenate([trust, trust[:3], [[5, 5]]])  # repeats and a self-loop
    rater = np.repeat(user, 8)
    item = rng.integers(0, 10, len(rater)) * 3 + rater % 3 + 1
    rating = np.column_stack([rater, item, (item - 1) % 3 + 1, rng.integers(0, 6, len(rater)), item % 6])
    scipy_io.savemat(path / "trust.mat", {"trustnetwork": trust.astype(np.uint16)})
    scipy_io.savemat(path / "rating.mat", {"rating": rating.astype(np.uint16)})
    return path


def pairs(frame):
    return set(frame[["query", "candidate"]].itertuples(index=False, name=None))


def test_ciao_is_read_in_both_directions(example, folder):
    ciao = example("loaders.ciao")
    data = ciao.load(folder)
    assert not data.trust.duplicated().any()
    assert not (data.trust["source"] == data.trust["target"]).any()
    other = ciao.load(folder, documented=True).trust
    assert set(map(tuple, other.to_numpy())) == set(map(tuple, data.trust[["target", "source"]].to_numpy()))
    assert (data.trust.dtypes == "int64").all()
    assert (data.ratings.dtypes == "int64").all()
    assert not data.ratings.duplicated(["user", "item"]).any()


def test_what_is_no_ciao_is_refused(example, folder, tmp_path):
    ciao = example("loaders.ciao")
    with pytest.raises(ValueError, match=r"trust.mat is not there; Ciao's files are rating.mat and trust.mat"):
        ciao.load(tmp_path)
    scipy_io.savemat(tmp_path / "trust.mat", {"trust": np.ones((2, 2))})
    with pytest.raises(ValueError, match=r"holds \{'trust': \(2, 2\)\}, expected 'trustnetwork' with 2 columns"):
        ciao.load(tmp_path)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_the_split_keeps_what_it_promises(example, folder, part):
    follow, data = example("who_to_follow"), example("loaders.ciao").load(folder)
    follows = data.trust.rename(columns={"source": "query", "target": "candidate"})
    counts = follows["query"].value_counts()
    tasks = {twins: follow.make_task(data, part=part, twins=twins) for twins in ("out", "known")}
    out, known = tasks["out"], tasks["known"]
    assert pairs(out.relevant) == pairs(known.relevant) <= pairs(follows)
    held = out.relevant["query"].value_counts()
    if part == "test":
        assert held.to_dict() == {user: count // 10 for user, count in counts.items() if count >= 10}
        assert pairs(known.known) == pairs(follows) - pairs(out.relevant)
    assert not pairs(known.known) & pairs(out.relevant)
    assert not pairs(out.known) & (pairs(out.relevant) | pairs(follow.reverse(out.relevant)))
    assert pairs(out.known) < pairs(known.known)
    assert pairs(out.exclude) == pairs(known.exclude) == pairs(known.known) | {(user, user) for user in out.users}


def test_validation_and_test_share_nothing(example, folder):
    follow, data = example("who_to_follow"), example("loaders.ciao").load(folder)
    test, validation = (follow.make_task(data, part=part) for part in ("test", "validation"))
    assert not pairs(test.relevant) & (pairs(validation.relevant) | pairs(validation.known))


def test_followers_are_listed_the_most_followed_first(example):
    follow = example("who_to_follow")
    known = pd.DataFrame({"query": [2, 3, 4, 1, 4, 5], "candidate": [1, 1, 1, 2, 3, 4]})
    exclude = pd.concat([known, pd.DataFrame({"query": [1], "candidate": [1]})])
    task = follow.Task(known, known[:1], exclude, pd.Index([1, 2, 3, 4, 5]), pd.DataFrame(), {})
    found = follow.follow_back(task)
    # 2, 3 and 4 follow 1, who follows 2; 3 and 4 are followed once, so the smaller id is first.
    assert found[["query", "candidate", "rank"]].to_numpy().tolist() == [[1, 3, 1], [1, 4, 2], [3, 4, 1], [4, 5, 1]]


def test_the_summary_is_means_over_seeds():
    rows = [
        Result("b - a", "mrr", value, value - 0.25, value + 0.5, seed=seed) for seed, value in enumerate((0.25, 0.5))
    ]
    rows += [Result("a", "mrr", 0.5), *(Result("b", "mrr", v, seed=s) for s, v in enumerate((0.75, 1.0)))]
    assert seed_table(Report(rows), ["mrr"]) == [
        ("", "mrr"),
        ("a", "0.5000"),
        ("b", "0.8750 ± 0.1768"),  # sqrt(2 * 0.125 ** 2)
        ("b - a", "+0.3750 [+0.1250, +0.8750]"),
    ]


def small(follow, monkeypatch):
    """Settings for seconds."""
    monkeypatch.setattr(follow, "SKIPGRAM", {"dim": 8, "window": 20, "epochs": 5})
    monkeypatch.setattr(
        follow, "CONFIG", follow.replace(follow.CONFIG, dim=8, epochs=20, batch_size=128, uniform_negatives=40)
    )


def test_who_to_follow_runs_and_the_network_finds_the_circles(example, folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("gensim")
    pytest.importorskip("matplotlib")
    follow = example("who_to_follow")
    small(follow, monkeypatch)
    words = ["--data", str(folder), "--seeds", "1", "--twins", "known"]
    report = follow.main([*words, "--json", str(tmp_path / "t.json"), "--markdown", str(tmp_path / "t.md"),
                          "--plot", str(tmp_path / "t.png")])  # fmt: skip
    frame = report.to_frame()
    assert set(frame.loc[frame["name"] == follow.HIN, "seed"]) == {0}
    recall = frame[frame["metric"] == "recall@10"].groupby("name")["value"].mean()
    assert recall[follow.HIN] > 2 * recall["popularity"]
    differences = [name for name in recall.index if name.startswith("HIN - ")]
    assert sorted(differences) == sorted(f"HIN - {name}" for name in recall.index
                                         if " - " not in name and name != follow.HIN)  # fmt: skip
    for name in differences:
        assert recall[name] == pytest.approx(recall[follow.HIN] - recall[name.removeprefix("HIN - ")])
    assert "Who to follow" in capsys.readouterr().out
    assert json.loads((tmp_path / "t.json").read_text())["format"] == "report/1"
    assert f"| {follow.HIN} | {recall[follow.HIN]:.4f} |" in (tmp_path / "t.md").read_text()
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_the_earlier_network_is_a_part_of_the_later_one(example, folder):
    refresh = example("refresh")
    task = example("who_to_follow").make_task(example("loaders.ciao").load(folder))
    before = refresh.earlier(task)
    assert pairs(before.known) < pairs(task.known)
    newcomers = set(task.known[["query", "candidate"]].stack()) - set(before.known[["query", "candidate"]].stack())
    left_out = task.known[~task.known.isin(newcomers).any(axis=1)]
    assert 0 < len(newcomers) < 10
    assert 0.8 < len(before.known) / len(left_out) < 0.97


def test_drift_by_hand(example):
    torch = pytest.importorskip("torch")
    pretrain = pytest.importorskip("pretrain")
    refresh = example("refresh")
    edges = pd.DataFrame({"source": [1, 1], "target": [2, 3]})
    config = pretrain.TrainConfig(dim=2, epochs=1, uniform_negatives=2)
    first = pretrain.train(pretrain.Graph.from_frames({"f": edges}, [pretrain.Relation("f", "user", "user")]), config)
    more = pd.concat([pd.DataFrame({"source": [0], "target": [1]}), edges])
    second = pretrain.train(pretrain.Graph.from_frames({"f": more}, [pretrain.Relation("f", "user", "user")]), config)
    first.vectors["user"].copy_(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]))
    second.vectors["user"].copy_(torch.tensor([[9.0, 9.0], [3.0, 4.0], [0.0, 1.0], [1.0, 2.0]]))
    found = refresh.drift(first, second)
    assert found["degree"].tolist() == [2, 1, 1]
    assert found["drift"].tolist() == pytest.approx([0.0, np.sqrt(2.0), 0.5])
    assert found["cosine"].tolist() == pytest.approx([1.0, 0.0, 2.0 / np.sqrt(5.0)])


def test_tenths_are_medians_in_the_order_of_degree(example):
    refresh = example("refresh")
    frame = pd.DataFrame({"degree": range(20, 0, -1), "drift": np.arange(20) / 10, "cosine": 1.0})
    found = refresh.by_degree(frame)
    assert found["degree"].tolist() == [1.5 + 2 * tenth for tenth in range(10)]
    assert found["drift"].tolist() == pytest.approx([1.85 - 0.2 * tenth for tenth in range(10)])


def test_refresh_runs_and_a_warm_start_stays_where_a_fresh_one_leaves(example, folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    small(example("who_to_follow"), monkeypatch)
    refresh = example("refresh")
    monkeypatch.setattr(refresh, "CONFIG", example("who_to_follow").CONFIG)
    words = ["--data", str(folder), "--seeds", "1", "--json", str(tmp_path / "t.json")]
    report, curves = refresh.main([*words, "--markdown", str(tmp_path / "t.md"), "--plot", str(tmp_path / "t.png")])
    value = {name: {metric: report.value(metric, name=name) for metric in refresh.METRICS} for name in refresh.WAYS}
    warm, fresh, control = (value[name] for name in ("warm start", "warm start, fresh optimizer", "retrained"))
    assert value["warm start, L2"]["drift"] < warm["drift"] < fresh["drift"] < control["drift"]
    assert warm["cosine"] > 0.9 > 0.5 > control["cosine"]
    assert warm["recall@10, mixed"] > control["recall@10, mixed"]
    assert len(curves) == len(refresh.WAYS) * refresh.DECILES
    assert "Refreshing a version" in capsys.readouterr().out
    assert "| warm start |" in (tmp_path / "t.md").read_text()
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
