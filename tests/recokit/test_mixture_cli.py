"""``recokit mixture``, end to end."""

import json
from importlib.metadata import EntryPoint

import numpy as np
import pandas as pd
import pytest

from recokit import EmbeddingTable, Mixture, RelationParameters, write_version
from recokit.mixture import InterestClusters

pytest.importorskip("faiss")

# Two directions, three items each.
VECTORS = np.array([[1, 0], [1, 0.1], [1, -0.1], [0, 1], [0.1, 1], [-0.1, 1]], np.float32)
LOG = """user_id,item_id,event,when
u1,1,1.0,2026-03-01T00:00:00
u1,2,1.0,2026-03-01T00:00:00
u1,4,2.0,2026-02-27T00:00:00
u2,5,1.0,2026-03-01T00:00:00
u3,99,1.0,2026-03-01T00:00:00
"""
COLUMNS = ("--columns", "user_id,item_id,event,when")


@pytest.fixture
def mixture(tmp_path, monkeypatch, run_cli):
    point = EntryPoint("mixture", "recokit.mixture_cli:mixture", "recokit.commands")
    monkeypatch.setattr("recokit.cli.entry_points", lambda group: [point])
    monkeypatch.chdir(tmp_path)
    tables = {
        "item": EmbeddingTable.from_arrays(
            [str(n) for n in range(1, 7)], VECTORS, entity="item", version="v1", comparator="cos"
        ),
        "number": EmbeddingTable.from_arrays(np.arange(1, 7), VECTORS, entity="item", version="v1", comparator="cos"),
        "reader": EmbeddingTable.from_arrays(["7"], VECTORS[:1], entity="reader", version="v1", comparator="cos"),
    }
    write_version("v1", tables, relations=[RelationParameters("clicks", "user", "item", "identity", np.zeros(0))])
    (tmp_path / "log.csv").write_text(LOG)
    return lambda *words: run_cli("mixture", "v1", *words)


def of(path):
    """Id to [(component's id, weight), ...]."""
    loaded = Mixture.load(path, verify=True)
    names = loaded.components.ids.to_pylist()
    return {
        source: [(names[row], round(float(weight), 6)) for row, weight in zip(rows, weights, strict=True) if row >= 0]
        for source, rows, weights in zip(loaded.ids.to_pylist(), loaded.component_rows, loaded.weights, strict=True)
    }


BASE = ("log.csv", "--items", "item", *COLUMNS, "--clusters", "2")


def test_a_log_becomes_a_mixture_with_its_clusters(mixture):
    ran = mixture(*BASE, "--output", "m", "--json", "--save-clusters", "c", "--relation", "clicks")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out) == {
        "output": "m",
        "entity": "user",
        "version": "v1",
        "method": "clusters",
        "sources": 2,
        "missing": 1,
        "interactions": 5,
        "unused_interactions": 1,
        "interests": {"1": 1, "2": 1},
        "first_weight": {"mean": 0.75, "median": 0.75},
        "largest": [
            {"medoid": "4", "sources": 2, "share": 0.75},
            {"medoid": "1", "sources": 1, "share": 0.25},
        ],
    }
    assert {name: dict(found) for name, found in of("m").items()} == {"u1": {"1": 0.5, "4": 0.5}, "u2": {"4": 1.0}}
    assert Mixture.load("m").meta["edge_sketches"][0]["relation"] == "clicks"
    assert sorted(InterestClusters.load("c").centroids.ids.to_pylist()) == ["1", "4"]


def test_recency_medoids_and_clusters_that_are_there(mixture):
    assert mixture(*BASE, "--output", "m", "--save-clusters", "c").code == 0
    ran = mixture(
        "log.csv",
        "--items",
        "number",
        *COLUMNS,
        *("--use-clusters", "c", "--vectors", "medoid", "--half-life", "1d", "--output", "again"),
    )
    assert (ran.code, ran.err) == (0, "")
    # 1 + 1 beside 2 / 2**2.
    assert of("again") == {"u1": [("1", 0.8), ("4", 0.2)], "u2": [("4", 1.0)]}
    np.testing.assert_array_equal(Mixture.load("again").vectors_at(np.array([0]))[0, :2], VECTORS[[0, 3]])


def test_people_see_a_table(mixture):
    out = mixture(*BASE, "--output", "m", "--top", "1").out
    assert "user mixtures for version v1, in m" in out
    for line in ("with a mixture 2", "missing: no known item 1", "of 1 interest 2", "interactions not used 1"):
        assert line in " ".join(out.replace("│", " ").replace("┃", " ").split()), line
    assert "largest interests, by their medoids" in out


def test_pinnersage(mixture):
    ran = mixture("log.csv", "--items", "item", *COLUMNS, "--method", "pinnersage", "--output", "m", "--top", "2")
    assert (ran.code, ran.err) == (0, "")
    assert of("m") == {"u1": [("1", 0.5), ("4", 0.5)], "u2": [("5", 1.0)]}
    assert Mixture.load("m").components_name == "item"
    ran = mixture(
        *("log.csv", "--items", "item", *COLUMNS, "--method", "pinnersage", "--output", "n", "--top", "2"),
        *("--half-life", "1d", "--threshold", "0.5", "--json"),
    )
    assert of("n")["u1"] == [("1", 0.8), ("4", 0.2)]
    assert json.loads(ran.out)["method"] == "pinnersage"


def test_ids_take_the_types_of_the_version(mixture, tmp_path):
    pd.DataFrame({"source": [7, 8], "target": [1, 4]}).to_parquet(tmp_path / "log.parquet")
    assert mixture("log.parquet", "--items", "item", "--clusters", "2", "--output", "m").code == 0
    assert list(of("m")) == [7, 8]
    ran = mixture(
        "log.parquet", "--items", "item", "--clusters", "2", "--output", "n", "--entity", "reader", "--top", "1"
    )
    assert ran.code == 0
    assert of("n") == {"7": [("1", 1.0)], "8": [("4", 1.0)]}
    nobody = pd.DataFrame({"source": ["x"], "target": ["unknown"]})
    nobody.to_parquet(tmp_path / "nobody.parquet")
    ran = mixture("nobody.parquet", "--items", "item", "--clusters", "2", "--output", "o", "--json")
    assert ran.code == 2
    assert "nobody.parquet: of its 1 interactions none is with an id of the table 'item'" in ran.err


def test_ids_take_the_type_of_a_mixture_of_the_version(mixture, run_cli, tmp_path):
    users = Mixture.from_components(["1"], np.ones((1, 2, 2), np.float32), entity="user", version="v2")
    items = EmbeddingTable.from_arrays(["7", "8"], np.eye(2, dtype=np.float32), entity="item", version="v2")
    write_version(tmp_path / "v2", {"user": users, "item": items})
    (tmp_path / "numbers.csv").write_text("source,target\n1,7\n2,8\n")
    words = ("--items", "item", "--clusters", "2", "--output", "q")
    assert run_cli("mixture", "v2", "numbers.csv", *words).code == 0
    assert Mixture.load(tmp_path / "q").ids.to_pylist() == ["1", "2"]


def test_no_clusters_and_a_relation_of_other_ends_are_refused(mixture):
    ran = mixture("log.csv", *COLUMNS, "--items", "item", "--clusters", "0", "--output", "m")
    assert (ran.code, "clusters is 0, expected an integer of at least 1" in ran.err) == (2, True)
    words = ("--items", "item", "--entity", "reader", "--relation", "clicks", "--output", "m")
    ran = mixture("log.csv", *COLUMNS, *words)
    assert ran.code == 2
    assert "--relation 'clicks' goes from 'user' to 'item', the log from 'reader' to 'item'" in ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output", "v1"), "v1 exists already"),
        (("--output", "m", "--save-clusters", "v1"), "v1 exists already"),
        (("--output", "m", "--half-life", "soon"), "half_life is 'soon'"),
        (("--output", "m", "--columns", "user_id"), "--columns: got 'user_id', expected the names of source"),
        (("--output", "m", "--columns", "user_id,item"), "has no column 'item'; did you mean"),
        (("--output", "m", "--items", "items"), "has no table 'items'; did you mean 'item'"),
        (("--output", "m", "--relation", "likes"), "has no relation 'likes'"),
        (("--output", "m", "--clusters", "7"), "clusters is 7, expected at most the 6 items"),
        (("--output", "m", "--use-clusters", "c"), "--use-clusters takes clusters that are there"),
        (("--output", "m", "--threshold", "1"), "--threshold says nothing to --method clusters"),
        (("--output", "m", "--method", "pinnersage"), "--clusters says nothing to --method pinnersage"),
    ],
)
def test_bad_input_ends_in_one_line(mixture, tmp_path, words, message):
    ran = mixture(*BASE, *words)
    assert ran.code == 2
    assert message in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert not (tmp_path / "m").exists()
