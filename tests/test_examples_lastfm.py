"""The Last.FM example, on a small planted network in the data set's own files."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recokit.errors import DataError
from recokit.report import Report

pytest.importorskip("torch")
pytest.importorskip("duckdb")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
USERS, ARTISTS, KINDS = 30, 45, 3


@pytest.fixture
def example(monkeypatch):
    """Import a module as ``python examples/lastfm.py`` would find its neighbours."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Users of three kinds listen to ten of their kind's fifteen artists; line ends and encodings as in the original.

    Half of the listens are tagged by the same user with the kind, and every user tags an artist without a listen.
    """
    path, rng = tmp_path_factory.mktemp("lastfm"), np.random.default_rng(0)
    listens, tagged, friends = [], [], []
    for user in range(2, USERS + 2):
        artists = rng.permutation(ARTISTS // KINDS)[:10] * KINDS + user % KINDS + 1
        listens += [(user, artist, 10 ** (place % 5)) for place, artist in enumerate(artists)]
        tagged += [(user, artist, user % KINDS + 1, 1, 4, 1956 + user) for artist in artists[::2]]
        tagged.append((user, 999, 4, 1, 1, 2009))  # nobody listens to it
        friends += [(user, user + KINDS), (user + KINDS, user)] if user + KINDS < USERS + 2 else []
    names = [(artist, 'Sigur "Rós', f"http://a/{artist}", "") for artist in (*range(1, ARTISTS + 1), 999)]
    tags = [(1, "metal"), (2, "null"), (3, "électro"), (4, "seen live")]
    write(path / "user_artists.dat", ["userID", "artistID", "weight"], listens, "\r\n")
    write(path / "user_friends.dat", ["userID", "friendID"], friends, "\r\n")
    write(path / "user_taggedartists.dat", ["userID", "artistID", "tagID", "day", "month", "year"], tagged, "\n")
    write(path / "artists.dat", ["id", "name", "url", "pictureURL"], names, "\n")
    write(path / "tags.dat", ["tagID", "tagValue"], tags, "\r\n", encoding="latin-1")
    return path


def write(path, head, rows, end, *, encoding="utf-8"):
    text = "".join("\t".join(map(str, row)) + end for row in (head, *rows))
    path.write_bytes(text.encode(encoding))


def pairs(frame, columns=("user", "artist")):
    return set(frame[list(columns)].itertuples(index=False, name=None))


def test_the_files_are_read_as_they_are(example, folder):
    data = example("loaders.lastfm").load(folder)
    assert len(data.listens) == 10 * USERS
    assert data.listens["count"].sum() == USERS * 2 * 11111
    assert pairs(data.friends, ("user", "friend")) == {(user, user + KINDS) for user in range(2, USERS + 2 - KINDS)}
    assert len(data.friends) == USERS - KINDS  # every friendship once
    assert len(data.tags) == 6 * USERS
    assert data.tags["time"].min() == pd.Timestamp(1956 + 2, 4, 1)
    assert data.tag_names["name"].tolist() == ["metal", "null", "électro", "seen live"]
    assert set(data.artists["name"]) == {'Sigur "Rós'}
    for frame in (data.listens, data.friends, data.tags[["user", "artist", "tag"]]):
        assert (frame.dtypes == "int64").all()


def test_what_is_no_lastfm_is_refused(example, folder, tmp_path):
    lastfm = example("loaders.lastfm")
    with pytest.raises(DataError, match=r"user_friends.dat is not there; the data set is at https://grouplens.org"):
        lastfm.load(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write(tmp_path / "user_artists.dat", ["userID", "artistId", "weight"], [(1, 2, 3)], "\r\n")
    with pytest.raises(DataError, match=r"user_artists.dat has no column 'artistID'; did you mean 'artistId'"):
        lastfm.load(tmp_path)


@pytest.mark.parametrize(
    ("num", "expected"),
    [
        (1, (1, 0, 0)),
        (2, (2, 0, 0)),
        (3, (1, 1, 1)),
        (9, (7, 1, 1)),
        (10, (8, 1, 1)),
        (29, (25, 2, 2)),
        (50, (40, 5, 5)),
    ],
)
def test_the_split_is_eight_to_one_to_one_within_each_user(example, num, expected):
    lastfm = example("loaders.lastfm")
    listens = pd.DataFrame({"user": np.repeat([7, 8], num), "artist": np.tile(np.arange(num), 2), "count": 1})
    parts = lastfm.split(listens, seed=0)
    for part, size in zip(parts, expected, strict=True):
        assert part["user"].value_counts().to_dict() == ({7: size, 8: size} if size else {})
    assert pairs(pd.concat(parts)) == pairs(listens)
    assert sum(map(len, parts)) == len(listens)
    for part, again in zip(parts, lastfm.split(listens, seed=0), strict=True):
        pd.testing.assert_frame_equal(part, again)
    if num >= 10:
        assert pairs(lastfm.split(listens, seed=1)[2]) != pairs(parts[2])


@pytest.mark.parametrize("part", ["test", "validation"])
def test_no_relation_knows_of_a_held_out_listen(example, folder, part):
    script, data = example("lastfm"), example("loaders.lastfm").load(folder)
    known, validation, test = example("loaders.lastfm").split(data.listens, 3)
    task = script.make_task(data, seed=3, part=part)
    hidden = pairs(validation) | pairs(test)
    assert pairs(task.known) == pairs(known)
    assert pairs(task.relevant, ("query", "candidate")) == pairs(test if part == "test" else validation)
    seen = pairs(known) | (pairs(validation) if part == "test" else set())
    assert pairs(task.exclude, ("query", "candidate")) == seen
    # Some held-out listens are tagged, all their tags are gone, and nothing else is.
    assert pairs(data.tags) & hidden
    kept = data.tags[[pair not in hidden for pair in data.tags[["user", "artist"]].itertuples(index=False, name=None)]]
    assert pairs(task.tags, ("user", "artist", "tag")) == pairs(kept, ("user", "artist", "tag"))
    graph = script.network(task, script.NETWORKS[script.HIN])
    assert pairs(graph.pairs("listens"), ("query", "candidate")) == pairs(known)
    for name, end in (("user_tag", "user"), ("artist_tag", "artist")):
        assert pairs(graph.pairs(name), ("query", "candidate")) == pairs(kept, (end, "tag"))
    assert pairs(graph.pairs("friends"), ("query", "candidate")) == pairs(data.friends, ("user", "friend"))


def test_what_held_out_pairs_are_tagged_with_changes_nothing(example, folder):
    script, data = example("lastfm"), example("loaders.lastfm").load(folder)
    _, validation, test = example("loaders.lastfm").split(data.listens, 0)
    extra = pd.concat([validation, test])[["user", "artist"]].assign(tag=77, time=pd.Timestamp(2010, 1, 1))
    other = replace(data, tags=pd.concat([data.tags, extra], ignore_index=True))
    graphs = [script.network(script.make_task(each), script.NETWORKS[script.HIN]) for each in (data, other)]
    for name in graphs[0].relations:
        pd.testing.assert_frame_equal(graphs[0].pairs(name), graphs[1].pairs(name))
        np.testing.assert_array_equal(graphs[0].edges[name].weights, graphs[1].edges[name].weights)


def test_weights_are_logarithms_with_mean_one_for_every_user(example):
    user = pd.Series([4, 4, 4, 5])
    weights = example("lastfm").log_weights(pd.Series([1, 3, 7, 99]), user)  # log 2, 2 log 2, 3 log 2; and log 100
    np.testing.assert_allclose(weights, [0.5, 1.0, 1.5, 1.0])


def test_the_example_runs_and_finds_the_kinds(example, folder, tmp_path, monkeypatch, capsys):
    script = example("lastfm")
    tiny = {"dim": 8, "epochs": 30, "batch_size": 64, "uniform_negatives": 20, "prevalence_negatives": 20}
    monkeypatch.setattr(script, "CONFIG", replace(script.CONFIG, **tiny))
    paths = {name: tmp_path / f"out.{end}" for name, end in (("json", "json"), ("markdown", "md"), ("plot", "png"))}
    pytest.importorskip("matplotlib")
    words = ["--data", str(folder), "--seeds", "2", *(str(w) for n, p in paths.items() for w in (f"--{n}", p))]
    report = script.main(words)
    assert "published" in capsys.readouterr().out
    rows = Report.load(paths["json"]).to_frame()
    assert len(rows) == len(report.results)
    found = rows[rows["metric"] == "recall@10"].groupby("name")["value"].mean()
    # One of a kind's fifteen artists is asked for and nine are excluded: a list of ten that knows the kind finds it.
    assert found[script.HIN] > 0.9
    assert found[script.HIN] > found["popularity"] + 0.2
    difference = rows[(rows["name"] == "all - EASE") & (rows["metric"] == "recall@10")]
    np.testing.assert_allclose(difference["value"].mean(), found[script.HIN] - found["EASE"], atol=1e-12)
    assert difference["seed"].tolist() == [0, 1]
    assert json.loads(paths["json"].read_text(encoding="utf-8"))["results"][0]["protocol"]["tags"]
    assert "| LightGCN, published | .2064 | .1972 |".replace(" .", " 0.") in paths["markdown"].read_text(
        encoding="utf-8"
    )
    assert paths["plot"].read_bytes().startswith(b"\x89PNG")
