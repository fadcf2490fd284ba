"""The example of benchmarks: labels by arithmetic, nothing that is asked in a network, and a run of tiny networks."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recokit.probes import read_tasks, run_probes
from recokit.report import Report
from recokit.table import EmbeddingTable, RelationParameters, write_version
from recokit.toml_file import TomlFile

pytest.importorskip("torch")
pytest.importorskip("gensim")
pytest.importorskip("sklearn")

from pretrain.planted import planted_movies

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def script(monkeypatch):
    """Import it as ``python examples/probes.py`` would find its neighbours."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("probes")


def listening(users=60, artists=45):
    """Users of three kinds: listens, friends and tags of their own kind."""
    from loaders.lastfm import LastFm

    rng = np.random.default_rng(0)
    listens = [(u, 100 + 3 * a + u % 3, 5) for u in range(users) for a in rng.permutation(artists // 3)[:10]]
    tags = [(u, a, u % 3 if rng.random() < 0.8 else 7) for u, a, _ in listens if a % 2]
    friends = [(u, v) for u in range(users) for v in range(u + 3, users, 3) if rng.random() < 0.3]
    return LastFm(
        listens=pd.DataFrame(listens, columns=["user", "artist", "count"]),
        friends=pd.DataFrame(friends, columns=["user", "friend"]),
        tags=pd.DataFrame(tags, columns=["user", "artist", "tag"]),
        artists=pd.DataFrame({"artist": range(100, 100 + artists), "name": "x"}),
        tag_names=pd.DataFrame({"tag": [0, 1, 2, 7], "name": ["metal", "jazz", "folk", "seen live"]}),
    )


def test_topics_are_the_genres_whose_share_is_above_the_median(script, monkeypatch):
    monkeypatch.setattr(script, "MIN_HELD_OUT", 2)
    genres = pd.DataFrame({"movie": [1, 1, 2, 3], "genre": ["a", "b", "a", "b"]})
    likes = pd.DataFrame({"user": [7, 7, 8, 8, 9, 9, 5], "movie": [1, 2, 1, 3, 2, 2, 3]})
    shares = script.genre_shares(likes, genres)
    assert shares.loc[7].to_dict() == {"a": (0.5 + 1) / 2, "b": 0.5 / 2}
    found = script.favourites(likes, genres)  # medians of 7, 8 and 9: a 3/4, b 1/4; user 5 has one like
    assert found.fillna("none").to_numpy().tolist() == [[9, "a"], [8, "b"], [7, "none"]]


def test_nothing_that_is_asked_of_movies_is_in_a_network(script):
    data = planted_movies(users=80, movies=60)
    study = script.movielens(data, seed=0)
    asked = {task.name: task for task in study.tasks}
    likes = asked["later likes"]
    both = likes.pairs.merge(likes.exclude, on=["query", "candidate"])
    assert both.empty
    assert "has_occupation" not in study.graphs[script.HIN].relations
    assert {"likes", "has_genre"} < set(study.graphs[script.HIN].relations)
    assert list(study.graphs[script.ALONE].relations) == ["likes"]
    num_likes = len(study.graphs[script.HIN].edges["likes"])
    assert num_likes == len(likes.exclude)
    counts = likes.pairs["query"].value_counts()
    assert set(asked["genre"].labels["id"]) == set(counts.index[counts >= script.MIN_HELD_OUT])


def test_nothing_that_is_asked_of_listeners_is_in_a_network(script):
    data = listening()
    study = script.last_fm(data, seed=0)
    tag, friends, listens, links = study.tasks
    graph = study.graphs[script.HIN]
    users = graph.entities["user"].to_pylist()
    taggers = {users[row] for row in graph.edges["user_tag"].sources}
    asked = set(tag.labels["id"])
    assert asked
    assert not asked & taggers
    edges = graph.edges["friends"]
    known = {tuple(sorted((users[s], users[t]))) for s, t in zip(edges.sources, edges.targets, strict=True)}
    held_out = {tuple(sorted(pair)) for pair in friends.sets.itertuples(index=False, name=None)}
    assert not known & held_out
    assert known | held_out == set(data.friends.itertuples(index=False, name=None))
    assert len(friends.sets) == 2 * len(held_out)  # both directions
    assert links.pairs.merge(links.exclude, on=["query", "candidate"]).empty
    assert listens.sets.equals(links.pairs)
    assert set(tag.labels["label"].dropna()) <= {"metal", "jazz", "folk", "seen live"}


@pytest.fixture
def tiny(script, monkeypatch):
    """Networks of a few rows, a few tasks, and few resamples."""
    monkeypatch.setattr(script, "BOOTSTRAP", 20)
    whole = script.last_fm

    def study(data, seed):
        made = whole(data, seed)
        config = replace(made.config, dim=8, epochs=2, uniform_negatives=10, prevalence_negatives=10)
        tag, friends, _, links = made.tasks
        return replace(made, config=config, tasks=[replace(tag, min_positives=4, folds=2, c=0.1), friends, links])

    monkeypatch.setattr(script, "last_fm", study)
    monkeypatch.setattr(script.lastfm, "load", lambda folder: listening())


def test_a_run_compares_systems_on_the_same_users(script, tiny, tmp_path):
    out = tmp_path / "out.json"
    markdown = tmp_path / "out.md"
    report = script.main(["--data", "x", "--seeds", "1", "--json", str(out), "--markdown", str(markdown)])
    names = {row.name for row in report.results if row.metric == "friends jaccard spearman"}
    systems = {"one relation", "skip-gram", "raw shares", "random", "degree", "shuffled"}
    assert names == {"HIN", *systems, *(f"HIN - {name}" for name in systems)}
    rows = report.to_frame().set_index(["name", "metric", "group", "seed"])["value"]
    assert rows["HIN - skip-gram", "tag roc_auc", "metal", 0] == pytest.approx(
        rows["HIN", "tag roc_auc", "metal", 0] - rows["skip-gram", "tag roc_auc", "metal", 0]
    )
    assert not {"raw shares"} & {row.name for row in report.results if row.metric == "recall@10"}
    assert len({row.n for row in report.results if row.metric == "recall@10"}) == 1
    assert Report.load(out).results[0].seed == 0
    head, first = markdown.read_text().split("\n")[0], script.table(report)[1]
    assert head == "|  | tag roc_auc | friends jaccard spearman | recall@10 |"
    assert first[:2] == ("HIN", f"{report.value('tag roc_auc', name='HIN'):.4f}")
    assert json.loads(out.read_text())["results"][0]["protocol"]["data"] == "HetRec 2011 Last.FM"


def test_the_configuration_runs_on_a_version_of_these_edges(tmp_path):
    tasks = read_tasks(TomlFile.read(EXAMPLES / "probes.toml"))
    assert [task.name for task in tasks] == ["follows", "later clicks", "stability"]
    follows, clicks = (pd.read_csv(EXAMPLES / "edges" / f"{name}.csv") for name in ("follows", "clicks"))
    rng = np.random.default_rng(0)
    users, ads = sorted(set(follows.iloc[:, 0]) | set(clicks["user_id"])), sorted(set(clicks["ad_id"]))
    tables = {
        name: EmbeddingTable.from_arrays(
            ids, rng.standard_normal((len(ids), 8)).astype(np.float32), entity=name, version="v1"
        )
        for name, ids in (("user", users), ("ad", ads))
    }
    relation = RelationParameters("clicks", "user", "ad", "translation", np.zeros(8, np.float32))
    version = write_version(tmp_path / "v1", tables, relations=[relation])
    report = run_probes(version, tasks, previous=version, bootstrap=0)
    assert report.value("stability@10", name="v1") == 1.0
    said = next(row for row in report.results if row.metric == "recall@10").protocol
    assert said["coverage"] == "43 of 43 queries are in user, 52 of 52 pairs have their candidate in ad"
    assert {row.protocol["sets"] for row in report.results if row.metric == "follows spearman"} == {"trained on"}
