"""The demo on a small planted network: the whole path, its honesty about the data, and its disjoint rows."""

import dataclasses
import json
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

from pretrain import demo as demo_module
from pretrain import experiments
from pretrain.experiments import Ranking, Retrieval, Workshop
from pretrain.movienet import LIKED, movie_graph, recency_weights
from pretrain.planted import planted_movies
from recokit.errors import DataError
from recokit.features import FeatureSpec, Pretrained
from recokit.overlap import LeakWarning
from recokit.rankers import DLRM, FitConfig, fit
from recokit.report import Report

QUICK = dataclasses.replace(experiments.CONFIG, dim=16, epochs=8, uniform_negatives=200)


@contextmanager
def silent(name):
    yield None


@pytest.fixture(scope="module")
def data():
    return planted_movies(users=200, movies=150, seed=0)


def test_recency_weights_by_hand():
    likes = pd.DataFrame({"source": [1, 2, 1, 1], "time": [30, 5, 10, 20]}, index=[9, 8, 7, 6])
    ages = np.array([0, 0, 2, 1])
    expected = np.exp(-ages / 2.0) + 0.5
    np.testing.assert_allclose(recency_weights(likes, scale=2.0, floor=0.5), expected / expected.mean())


def test_the_network_holds_likes_and_what_is_known(data):
    graph = movie_graph(data, data.ratings)
    assert len(graph.edges[LIKED]) == int((data.ratings["rating"] >= 4).sum())
    assert {"has_genre", "has_occupation"} < set(graph.relations)
    assert list(movie_graph(data, data.ratings, likes_only=True).relations) == [LIKED]


def test_retrieval_beats_popularity_and_says_what_it_ran_on(data, tmp_path):
    retrieval = Retrieval(data, Workshop(tmp_path, silent, QUICK))
    report = retrieval.floors() | retrieval.run(0)
    recall = {r.name: r.value for r in report.results if r.metric == "recall@10"}
    assert set(recall) >= {"popularity", "ItemKNN", "EASE", "EASE, recency", "HIN", "likes alone", "HIN - popularity"}
    assert recall["HIN"] > recall["popularity"] + 0.02
    assert recall["HIN - popularity"] == pytest.approx(recall["HIN"] - recall["popularity"])
    assert all(r.protocol["data"].startswith("planted synthetic network") for r in report.results)
    known = set(zip(retrieval.seen["query"], retrieval.seen["candidate"], strict=True))
    for lists in retrieval.lists.values():
        assert not known & set(zip(lists["query"], lists["candidate"], strict=True))


def test_rows_of_network_ranker_and_test_are_disjoint_and_a_leak_is_noticed(data, tmp_path):
    ranking = Ranking(data, Workshop(tmp_path, silent, QUICK))
    parts = [ranking.network, ranking.train, ranking.test]
    pairs = [set(zip(part["user"], part["movie"], strict=True)) for part in parts]
    assert not pairs[0] & pairs[1]
    assert not pairs[0] & pairs[2]
    assert not pairs[1] & pairs[2]
    assert sum(map(len, pairs)) == len(data.ratings)
    for user, rows in ranking.train.groupby("user"):
        before = ranking.network.loc[ranking.network["user"] == user, "time"]
        after = ranking.test.loc[ranking.test["user"] == user, "time"]
        assert before.max() <= rows["time"].min()
        assert rows["time"].max() <= after.min()

    report = ranking.run(0)  # warnings are errors: the disjoint rows give none
    assert {"DLRM", "DLRM, network's rows too", "DLRM + HIN vectors"} <= {r.name for r in report.results}
    assert {"rce", "auc"} <= {r.metric for r in report.results if r.name == "DLRM + HIN vectors - DLRM"}
    version = ranking.workshop.output / "embeddings/ranking-0"
    from recokit.table import open_version

    tables = open_version(version)
    features = FeatureSpec(
        pretrained=[Pretrained("user", tables.table("user")), Pretrained("movie", tables.table("movie"))],
        dense=["age"],
        label="liked",
    )
    with pytest.warns(LeakWarning, match="likes"):
        fit(DLRM(features, dim=4), ranking.network, config=FitConfig(epochs=1))


def test_without_the_real_data_the_demo_says_so_and_goes_on(data, tmp_path, monkeypatch, run_cli):
    def unreachable(*_):
        raise DataError("recbole==1.2.1 cannot be downloaded and the cache has none: no route to host")

    monkeypatch.setattr(demo_module, "load_movielens", unreachable)
    monkeypatch.setattr(demo_module, "planted_movies", lambda: data)
    monkeypatch.setattr(demo_module, "Workshop", lambda output, progress: Workshop(output, progress, QUICK))
    ran = run_cli("demo", "--output", tmp_path / "out", "--seeds", "1")
    assert ran.code == 0, ran.err
    assert ran.out.count("no real data") == 1
    assert "no route to host" in ran.out
    report = Report.load(tmp_path / "out/report.json")
    assert all(r.protocol["data"] == data.source for r in report.results)
    page = (tmp_path / "out/report.md").read_text()
    assert f"Data: {data.source}." in page
    assert (tmp_path / "out/rankers/dlrm-0/ranker.json").is_file()
    # Once more over the same folder: what the demo made is made anew, the rest stays.
    (tmp_path / "out/embeddings/mine").mkdir()
    again = run_cli("demo", "--output", tmp_path / "out", "--seeds", "1", "--json")
    assert again.code == 0, again.err
    assert (tmp_path / "out/embeddings/mine").is_dir()
    values = {(r["name"], r["metric"]): r["value"] for r in json.loads(again.out)["results"]}
    first = {(r.name, r.metric): r.value for r in report.results}
    assert values[("HIN", "recall@10")] == first[("HIN", "recall@10")]
