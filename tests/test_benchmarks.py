"""What the benchmarks beside other trainers share: curves, lists, planted graphs, models of others' numbers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pretrain import TrainConfig

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def point(seconds: float, valid: float, trainer: str = "a"):
    from peers.curves import Point

    return Point(trainer, "s", 1, seconds, seconds, valid, valid)


def test_the_best_of_equals_is_the_soonest():
    from peers.curves import best

    assert best([point(1, 0.2), point(9, 0.5), point(4, 0.5)]).seconds == 4


def test_the_frontier_drops_what_is_later_and_no_better():
    from peers.curves import frontier

    points = [point(4, 0.3), point(1, 0.2), point(3, 0.2), point(2, 0.1), point(4, 0.4)]
    assert [(p.seconds, p.valid) for p in frontier(points)] == [(1, 0.2), (4, 0.4)]


def test_time_ratio_is_our_soonest_as_good_over_their_best():
    from peers.curves import said, time_ratio

    theirs = [point(2, 0.1), point(10, 0.4), point(20, 0.4)]
    assert time_ratio([point(1, 0.3), point(6, 0.45), point(5, 0.4)], theirs) == 5 / 10
    assert time_ratio([point(1, 0.3)], theirs) is None
    assert time_ratio([point(3, 0.1)], [*theirs, point(1, 0.05)], share=0.25) == 3 / 2
    assert said(5, 10) == "5.00 s beside 10.00 s, ratio 0.500"
    assert said(None, 10) == "never, beside 10.00 s"


def test_lists_hold_the_greatest_products_but_the_excluded():
    from peers.lists import recall, top

    items = np.array([[1.0], [3.0], [2.0], [4.0]], np.float32)
    users = np.array([[0.0], [1.0], [-1.0]], np.float32)
    exclude = pd.DataFrame({"user": [1, 0], "item": [3, 3]})
    lists = top(users, items, np.array([1, 2]), 2, exclude=exclude)
    assert sorted(zip(lists["user"], lists["item"], strict=True)) == [(1, 1), (1, 2), (2, 0), (2, 2)]
    relevant = pd.DataFrame({"user": [1, 1, 2, 2, 2, 5], "item": [1, 0, 0, 2, 3, 0]})
    assert recall(lists, relevant) == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)  # a user without a list counts 0


def test_group_members_are_drawn_in_proportion_to_their_popularity():
    from peers.graphs import _Members

    members = _Members(np.array([1, 0, 1, 2]), 3, np.array([3.0, 5.0, 1.0, 2.0]))
    drawn = members.draw(np.random.default_rng(0), np.repeat([0, 1, 2], 4000))
    counts = np.bincount(drawn, minlength=4)
    assert (counts[1], counts[3]) == (4000, 4000)
    assert counts[0] + counts[2] == 4000
    assert counts[0] / 4000 == pytest.approx(3 / 4, abs=0.03)


@pytest.mark.parametrize("make", ["knowledge", "communities"])
def test_planted_parts_are_distinct_edges_that_a_seed_repeats(make: str):
    from peers import graphs

    sizes = {"entities": 300, "edges": 2000, "held_out": 100}
    parts = getattr(graphs, make)(**sizes, **({"groups": 10} if make == "communities" else {"relations": 7}))
    again = getattr(graphs, make)(**sizes, **({"groups": 10} if make == "communities" else {"relations": 7}))
    edges = np.concatenate([parts.train, parts.valid, parts.test])
    assert [len(parts.train), len(parts.valid), len(parts.test)] == [2000, 100, 100]
    assert len(np.unique(edges, axis=0)) == 2200
    assert (edges[:, 0] != edges[:, 2]).all()
    assert edges.min() == 0
    assert edges[:, [0, 2]].max() < 300
    assert edges[:, 1].max() < parts.relations
    np.testing.assert_array_equal(parts.train, again.train)


def test_planted_communities_stay_within_their_groups_but_for_the_noise():
    from peers import graphs

    parts = graphs.communities(entities=2000, edges=30_000, held_out=10, groups=20, seed=1)
    own = _groups(2000, 20, seed=1)
    source, target = parts.train[:, 0], parts.train[:, 2]
    within = (own[:, source] == own[:, target]).any(axis=0).mean()
    assert within == pytest.approx(0.85 + 0.15 * 0.0975, abs=0.02)  # two of 20 groups: 1 - .95 ** 2 of the noise too


def _groups(entities: int, groups: int, *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rng.permutation(entities)  # the popularity
    return rng.integers(groups, size=(2, entities))


def test_graphs_hold_the_edges_of_the_parts():
    from peers import graphs, models

    parts = graphs.Parts(
        "toy", 4, 3, np.array([[0, 2, 1], [3, 0, 2], [1, 2, 0]]), np.array([[2, 1, 3]]), np.empty((0, 3), int)
    )
    made = models.graphs_of(parts)
    edges = [[*zip(each.sources.tolist(), each.targets.tolist(), strict=True)] for each in made.train.edges.values()]
    assert edges == [[(3, 2)], [], [(0, 1), (1, 0)]]
    assert [len(each) for each in made.valid.edges.values()] == [0, 1, 0]
    assert made.test.entities["entity"].to_pylist() == [0, 1, 2, 3]


@pytest.mark.parametrize("reciprocal", [True, False])
def test_a_model_of_our_own_numbers_ranks_as_the_model_itself(reciprocal: bool):
    from peers import graphs, models

    from pretrain.model import reverse_name

    parts = graphs.knowledge(entities=200, relations=5, edges=1500, held_out=80, types=3, topics=4)
    made = models.graphs_of(parts)
    config = TrainConfig(
        dim=8, operator="complex_diagonal", comparator="dot", temperature=1.0, reciprocal=reciprocal, epochs=3,
        uniform_negatives=50, relation_init="random",
    )  # fmt: skip
    trained = models.train_timed(made.train, config)
    ours = trained.model
    arrays = {
        "vectors": ours.vectors["entity"].numpy(),
        "forward": np.stack([ours.parameters[name].numpy() for name in made.train.relations]),
    }
    if reciprocal:
        arrays["backward"] = np.stack([ours.parameters[reverse_name(name)].numpy() for name in made.train.relations])
    other = models.model_of(made.train, arrays, operator="complex_diagonal", comparator="dot")
    assert models.mrr(other, made, "test") == models.mrr(ours, made, "test")
    assert len(trained.edges_per_second) == 3
    assert trained.seconds == pytest.approx(sum(1500 / speed for speed in trained.edges_per_second))
    swapped = models.model_of(
        made.train, arrays | {"forward": arrays["forward"][::-1]}, operator="complex_diagonal", comparator="dot"
    )
    assert models.mrr(swapped, made, "test") != models.mrr(ours, made, "test")


def test_codex_reads_the_three_parts_over_common_rows(tmp_path: Path):
    from peers import graphs

    (tmp_path / "train.txt").write_text("b\tr\ta\na\tq\tc\n")
    (tmp_path / "valid.txt").write_text("c\tr\tb\n")
    (tmp_path / "test.txt").write_text("d\tq\tb\n")
    parts = graphs.codex(tmp_path)
    assert (parts.entities, parts.relations) == (4, 2)
    assert parts.train.tolist() == [[1, 1, 0], [0, 0, 2]]  # a b c d; q r
    assert (parts.valid.tolist(), parts.test.tolist()) == ([[2, 1, 1]], [[3, 0, 1]])


def test_an_adapter_gets_its_task_and_its_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from peers import launch

    (tmp_path / "double.py").write_text(
        "import json, os, sys, pathlib\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "task = json.loads((folder / 'task.json').read_text())\n"
        "if task['n'] < 0: sys.exit('below zero')\n"
        "out = {'n': 2 * task['n'], 'size': (folder / 'x.npy').stat().st_size, 't': os.environ['OMP_NUM_THREADS']}\n"
        "(folder / 'result.json').write_text(json.dumps(out))\n"
    )
    monkeypatch.setattr(launch, "_HERE", tmp_path)
    folder, arrays = tmp_path / "f", {"x": np.arange(4)}
    result = launch.launch(sys.executable, "double", folder, {"n": 3}, arrays, threads=2)
    assert result == {"n": 6, "size": 128 + 4 * 8, "t": "2"}
    with pytest.raises(SystemExit, match="below zero"):
        launch.launch(sys.executable, "double", folder, {"n": -1}, arrays, threads=2)


@pytest.mark.parametrize(
    ("words", "key", "count"),
    [
        ("mixture_retrieval.py --items 2000 --queries 20 --k 10", "results", 12),
        ("inductive_mixtures.py --users 300 --items 500 --clusters 20 --requests 2 --weighted", None, 0),
        ("mixture_speed.py --negatives 20 --edges 500 --entities 50 --batch-size 100 --runs 1", "rows", 0),
        ("pq_layers.py --rows 300 --batch 32 --rounds 1 --calls 1", "fold", 7),
    ],
)
def test_the_benchmarks_of_mixtures_run(words: str, key: str | None, count: int):
    script, *options = words.split()
    command = [sys.executable, BENCHMARKS / script, *options, "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if key is not None:
        assert found[key]
        assert not count or len(found[key]) == count
