"""The example on planted interests: its own measures by arithmetic, and a run of tiny networks."""

import importlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pretrain.interests import PlantedInterests
from recokit.metrics import bootstrap_mean
from recokit.report import Report
from recokit.table import Mixture

pytest.importorskip("torch")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def script(monkeypatch):
    """Import it as ``python examples/interests.py`` would find its neighbours."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("interests")


@pytest.fixture
def tiny(script, monkeypatch):
    """Networks of a few hundred users, and lists of no more than half of their items."""
    sizes = {
        "topics": {"users": 200, "items": 240, "topics": 8, "degree": 25},
        "places": {"users": 200, "items": 200, "degree": 20, "width": 0.3},
    }
    networks = {
        name: replace(
            network,
            make=partial(network.make.func, **sizes[name]),
            config=replace(network.config, epochs=20, batch_size=128, uniform_negatives=50),
            dim=8,
            clusters=16,
        )
        for name, network in script.NETWORKS.items()
    }
    monkeypatch.setattr(script, "NETWORKS", networks)
    monkeypatch.setattr(script, "BOOTSTRAP", 20)
    monkeypatch.setattr(script, "PLACES", (10, 20))
    return networks


def make_task(script, weights, topic, relevant):
    """A task of no edges but those to be found."""
    edges = pd.DataFrame(relevant, columns=["source", "target"])
    planted = PlantedInterests("by hand", edges.iloc[:0], edges, np.array(weights), np.array(topic))
    return script.make_task(replace(script.NETWORKS["topics"], make=lambda seed: planted), seed=0)


def test_the_smallest_interest_is_of_users_with_several(script):
    weights = [[0.6, 0.3, 0.1], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]
    relevant = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 1), (2, 2), (0, 3)]
    task = make_task(script, weights, [0, 1, 2, 2], relevant)
    # Of user 0 topic 2, of user 1 none, and of user 2 the first of two that weigh the same.
    assert task.smallest.to_numpy().tolist() == [[0, 2], [2, 1], [0, 3]]


def test_vectors_are_measured_in_the_order_of_ids(script):
    """Two topics along two axes, the rows of both tables shuffled, and one item that is in no table."""
    weights = [[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]
    task = make_task(script, weights, [0] * 20 + [1] * 20 + [1], [(0, 0)])
    order = np.random.default_rng(0).permutation(40)
    axes = np.eye(2, dtype=np.float32)
    items = script.EmbeddingTable.from_arrays(
        order, axes[(order >= 20).astype(int)], entity="item", version="v", comparator="cos"
    )
    # By user: both axes; only the wrong one; both, the right one with too little weight to count.
    vectors = axes[np.array([[0, 1], [1, 1], [0, 1]])]
    mixture = Mixture.from_components(
        [2, 0, 1], vectors[[2, 0, 1]], np.array([[0.96, 0.04], [0.5, 0.5], [0.7, 0.3]]), entity="user", version="v"
    )
    found = script.about_vectors(task, script.Vectors(mixture, items))
    assert found["purity"].tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert found["interest_recall"].tolist() == [2 / 2, 0 / 1, 0 / 1]


def test_a_user_without_a_list_covers_nothing(script):
    task = make_task(script, [[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]], [0, 1, 1], [(0, 0)])
    lists = pd.DataFrame({"query": [0, 0, 2], "candidate": [1, 0, 2], "rank": [1, 2, 1]})
    found = script.about_lists(task, lists, (1, 2))
    assert found["interest_coverage@1"].tolist() == [1 / 2, 0.0, 1.0]
    assert found["interest_coverage@2"].tolist() == [2 / 2, 0.0, 1.0]


def test_places_of_the_least_component_are_counted_by_hand(script):
    weights = np.array([[0.7, 0.2, 0.1], [0.96, 0.04, 0.0], [0.5, 0.46, 0.04]])
    mixture = Mixture.from_components([7, 8, 9], np.ones((3, 3, 2), np.float32), weights, entity="user", version="v")
    rows = [(9, 1, 1), (9, 1, 2), (9, 2, 3), (7, 0, 1), (7, 2, 2), (7, 2, 3), (7, 1, 4), (8, 1, 1), (8, 0, 2)]
    lists = pd.DataFrame(rows, columns=["query", "component", "rank"])
    # Of 7 the third component is the least, of 9 the second: its third weighs too little; of 8 only one counts.
    found = script.about_components(lists, mixture, 3)
    assert found["smallest_places@3"].tolist() == [2 / 3, 2 / 3]
    np.testing.assert_allclose(found["smallest_weight@3"], [0.1, 0.46], rtol=1e-6)
    assert script.about_components(lists, mixture, 1)["smallest_places@1"].tolist() == [0.0, 1.0]


def test_means_have_the_intervals_of_the_bootstrap(script):
    values = np.random.default_rng(0).random(50)
    (row,) = script.means("a - b", {"purity": values}, seed=3, protocol={"split": "none"})
    assert (row.value, row.low, row.high) == tuple(bootstrap_mean(values))
    assert (row.name, row.metric, row.n, row.seed, row.protocol) == ("a - b", "purity", 50, 3, {"split": "none"})


def test_both_models_have_the_same_numbers_a_user(script):
    for network in script.NETWORKS.values():
        single, mixture = network.configs(4).values()
        assert single.width("user") == mixture.width("user") == network.components * network.dim
        assert replace(mixture, dim=single.dim, components=1, temperature=single.temperature) == single
        assert (mixture.components_of("user"), mixture.components_of("item"), mixture.seed) == (5, 1, 4)


def test_the_example_runs_and_finds_the_interests(script, tiny, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("faiss")
    monkeypatch.setenv("COLUMNS", "250")
    paths = {name: tmp_path / f"out.{end}" for name, end in (("json", "json"), ("markdown", "md"), ("plot", "png"))}
    words = ["--seeds", "2", "--first", "5", *(str(w) for n, p in paths.items() for w in (f"--{n}", p))]
    report = script.main(words)
    shown = capsys.readouterr().out
    assert "fixed*: purity, interest recall and interest coverage, before anything was measured with them" in shown
    assert "says nothing about real data" in shown
    rows = Report.load(paths["json"]).to_frame()
    assert len(rows) == len(report.results)
    assert set(rows["group"]) == {"topics", "places", "allocation"}
    assert set(rows["seed"]) == {5, 6}

    def value(group, name, metric):
        found = rows[(rows["group"] == group) & (rows["name"] == name) & (rows["metric"] == metric)]
        assert len(found) == 2
        return found["value"].mean()

    for group in tiny:
        one, mixture = (value(group, name, "interest_recall") for name in ("one vector", "mixture"))
        assert one <= value(group, "limit of one vector", "interest_recall") + 1e-12
        assert mixture > one + 0.1
        assert value(group, "mixture - one vector", "interest_recall") == pytest.approx(mixture - one)
        assert value(group, "mixture - EASE", "recall@10") == pytest.approx(
            value(group, "mixture", "recall@10") - value(group, "EASE", "recall@10")
        )
        assert value(group, "mixture", "recall@10") > value(group, "popularity", "recall@10") + 0.05
    # The 10 first of a list of 100 are a list of 10.
    for metric in ("recall@10", "category_entropy@10", "interest_coverage@10"):
        assert value("allocation", "round_robin", metric) == pytest.approx(value("topics", "mixture", metric))
    coverage = [value("allocation", name, "interest_coverage@10") for name in ("round_robin", "min_one")]
    assert coverage == sorted(coverage)
    names = ("min_one", "round_robin", "min_one - round_robin")
    a, b, difference = (value("allocation", name, "smallest_recall@10") for name in names)
    assert difference == pytest.approx(a - b)
    text = paths["markdown"].read_text(encoding="utf-8")
    assert "| purity* | interest_recall* | recall@10 |" in text
    assert f"| min_one, 10 | {value('allocation', 'min_one', 'recall@10'):.4f} ±" in text
    assert json.loads(paths["json"].read_text(encoding="utf-8"))["results"][0]["protocol"]["split"]
    assert paths["plot"].read_bytes().startswith(b"\x89PNG")


def test_a_part_is_measured_alone(script, tiny, tmp_path):
    report = script.measure(seeds=[0], part="allocation")
    assert {row.group for row in report.results} == {"allocation"}
    pytest.importorskip("matplotlib")
    script.plot(report, tmp_path / "part.png")
    assert (tmp_path / "part.png").read_bytes().startswith(b"\x89PNG")
