"""The examples of search ranking, on a small planted log in the data set's own files."""

import importlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recokit.errors import DataError
from recokit.floors import EASE
from recokit.report import Report
from recokit.table import EmbeddingTable, PQTable

pytest.importorskip("torch")
pytest.importorskip("duckdb")
pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
REAL = Path(os.environ.get("RECOKIT_DATA", "")) / "hetrec-lastfm"
NO_DATA = pytest.mark.skipif(
    "RECOKIT_DATA" not in os.environ or not REAL.is_dir(),
    reason="RECOKIT_DATA names no folder that holds hetrec-lastfm/",
)
USERS, KINDS, GENRES, EACH = 40, 3, 4, 5
ARTISTS = KINDS * GENRES * EACH
DATES = {"network": (2009, 1), "ranker": (2010, 1), "validation": (2010, 7), "test": (2010, 9)}
PAIR, TRIPLE = ["user", "artist"], ["user", "artist", "tag"]


@pytest.fixture
def example(monkeypatch):
    """Import a module as ``python examples/search_ranking.py`` would find its neighbours."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.fixture
def script(example):
    return example("search_ranking")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Users of three kinds tag the artists of their kind with their genres: two a genre early, one in every later part.

    A tag has artists of all kinds, so that only who asks says which are picked. Every tenth user asks nothing of the
    ranker's part. Half of the later picks have a listen, and a third an earlier tag of another name: neither may be
    known. Odd artists have one more early tag, every user listens to an artist without a tag, a few dates are absurd.
    """
    path, rng = tmp_path_factory.mktemp("search"), np.random.default_rng(0)
    listens, tagged, friends = [], [], []
    for user in range(2, USERS + 2):
        for genre in range(GENRES):
            own = rng.permutation(EACH) * KINDS * GENRES + genre * KINDS + user % KINDS + 1
            assert {(artist - 1) % KINDS for artist in own} == {user % KINDS}
            for artist, part in zip(own, ("network", "network", "ranker", "validation", "test"), strict=True):
                year, month = DATES[part]
                if part == "ranker" and user % 10 == 0:
                    continue
                tagged.append((user, artist, genre + 1, 1, month, year))
                if part == "network" or rng.random() < 0.5:
                    listens.append((user, artist, 10))
                if part == "network" and artist % 2:
                    tagged.append((user, artist, GENRES + 1, 1, 2, 2009))
                if part != "network" and rng.random() < 0.3:
                    tagged.append((user, artist, GENRES + 1, 1, 2, 2009))
        tagged.append((user, 1 + user % ARTISTS, GENRES + 2, 1, 1, 1956))
        listens.append((user, (user + 1) % KINDS + 1, 1))  # of another kind, and never tagged
        friends += [(user, user + KINDS), (user + KINDS, user)] if user + KINDS < USERS + 2 else []
    names = [(artist, f"artist {artist}", "", "") for artist in range(1, ARTISTS + 1)]
    tags = list(enumerate(("metal", "metalcore", "électro punk", "post punk", "seen live", "alive"), start=1))
    tables = {
        "user_artists": (["userID", "artistID", "weight"], listens),
        "user_friends": (["userID", "friendID"], friends),
        "user_taggedartists": (["userID", "artistID", "tagID", "day", "month", "year"], tagged),
        "artists": (["id", "name", "url", "pictureURL"], names),
        "tags": (["tagID", "tagValue"], tags),
    }
    for name, (head, rows) in tables.items():
        text = "".join("\t".join(map(str, row)) + "\n" for row in (head, *rows))
        (path / f"{name}.dat").write_bytes(text.encode("latin-1" if name == "tags" else "utf-8"))
    return path


@pytest.fixture
def raw(example, folder):
    return example("loaders.lastfm").load(folder)


@pytest.fixture
def data(example, raw):
    return example("loaders.tagging").split(raw)


def rows(frame, columns):
    return set(frame[list(columns)].itertuples(index=False, name=None))


def test_parts_follow_each_other_and_share_no_pair_with_the_network(raw, data):
    sane = raw.tags[raw.tags["time"] >= "2005"]
    assert len(sane) == len(raw.tags) - USERS
    assert data.tags["time"].max() < pd.Timestamp(2009, 11, 1)
    later = pd.concat(data.picks.values())
    expected = {"ranker": (2010, 1), "validation": (2010, 7), "test": (2010, 9)}
    for part, (year, month) in expected.items():
        assert set(data.picks[part]["time"]) == {pd.Timestamp(year, month, 1)}
    assert rows(pd.concat([data.tags, later]), TRIPLE) < rows(sane, TRIPLE)
    hidden = rows(later, PAIR)
    assert rows(raw.listens, PAIR) & hidden  # some picks have a listen, some an earlier tag
    assert rows(sane[sane["time"] < "2009-11"], PAIR) & hidden
    assert not rows(data.known, PAIR) & hidden
    assert rows(data.listens, PAIR) == rows(raw.listens, PAIR) - hidden
    early = sane[sane["time"] < "2009-11"]
    assert data.removed == (len(early) - len(data.tags), len(raw.listens) - len(data.listens))


def test_no_relation_and_no_candidate_knows_of_a_pick(example, script, data):
    later = rows(pd.concat(data.picks.values()), PAIR)
    graph = script.engagement_graph(data)
    for name in ("listens", "tags"):
        pairs = rows(graph.pairs(name), ("query", "candidate"))
        assert pairs == rows(data.listens if name == "listens" else data.tags, PAIR)
        assert not pairs & later
    for end in ("user", "artist"):
        assert rows(graph.pairs(f"{end}_tag"), ("query", "candidate")) == rows(data.tags, (end, "tag"))
    assert set(script.follow_graph(data).relations) == {"friends"}
    for part in data.picks:
        shown = example("loaders.tagging").sessions(data, part, num=50, depth=300)
        assert not rows(shown, PAIR) & rows(data.known, PAIR)


def test_what_later_pairs_were_listened_to_and_tagged_with_changes_nothing(example, script, raw):
    later = raw.tags.loc[raw.tags["time"] >= "2009-11", PAIR].drop_duplicates()
    heard = pd.concat([raw.listens, later.assign(count=99)]).drop_duplicates(PAIR, keep="last")
    named = later.assign(tag=5, time=pd.Timestamp(2008, 1, 1))
    tags = pd.concat([raw.tags, named]).drop_duplicates(TRIPLE, ignore_index=True)
    found, other = (script.prepare(each) for each in (raw, replace(raw, listens=heard, tags=tags)))
    for part in found.rows:
        pd.testing.assert_frame_equal(found.rows[part], other.rows[part])
    for make in (script.follow_graph, script.engagement_graph):
        one, two = make(found.data), make(other.data)
        for name in one.relations:
            pd.testing.assert_frame_equal(one.pairs(name), two.pairs(name))
            np.testing.assert_array_equal(one.edges[name].weights, two.edges[name].weights)


@pytest.mark.parametrize(("part", "num", "depth"), [("ranker", 50, 300), ("test", 4, 300), ("test", 50, 5)])
def test_sessions_are_what_a_plain_search_shows(example, data, part, num, depth):
    found = example("loaders.tagging").sessions(data, part, num=num, depth=depth)
    known = rows(data.tags, PAIR) | rows(data.listens, PAIR)
    given = {tuple(row[:3]): row[3] for row in data.history[[*TRIPLE, "time"]].to_numpy()}
    expected = []
    asked = data.picks[part].drop_duplicates(["user", "tag", "time"])
    for session, (user, tag, time) in enumerate(asked[["user", "tag", "time"]].itertuples(index=False, name=None)):
        counts = data.tags[data.tags["tag"] == tag]["artist"].value_counts()
        overall = data.tags["artist"].value_counts()
        order = sorted(counts.index, key=lambda artist: (-counts[artist], -overall[artist], artist))[:depth]
        new = [artist for artist in order if (user, artist) not in known]
        when = {artist: given.get((user, artist, tag)) for artist in new}
        shown = [artist for artist in new if when[artist] is None or when[artist] >= time][:num]
        picked = [int(when[artist] == time) for artist in shown]
        if any(picked):
            expected += [
                (session, user, tag, artist, place, counts[artist], label)
                for place, (artist, label) in enumerate(zip(shown, picked, strict=True), start=1)
            ]
    columns = ["session", "user", "tag", "artist", "place", "count", "picked"]
    assert list(found[columns].itertuples(index=False, name=None)) == expected
    assert 0 < found["picked"].mean() < 1


def test_a_part_without_tags_is_refused(example, raw):
    early = replace(raw, tags=raw.tags[raw.tags["time"] < "2010-06"])
    with pytest.raises(DataError, match=r"the validation part has no tags; the parts start at 2005-01-01, 2009-11-01"):
        example("loaders.tagging").split(early)


def test_features_are_counts_of_the_network_s_rows(example, script, data):
    query = script.query_vectors(data)
    content = script.content_vectors(data, query)
    shown = example("loaders.tagging").sessions(data, "test", num=50, depth=300)
    found = script.describe(shown, data, query, content)
    tags, listens = data.tags, data.listens
    for row in found.sample(30, random_state=0).itertuples():
        of_artist, of_user = tags[tags["artist"] == row.artist], tags[tags["user"] == row.user]
        expected = {
            "tag_count": np.log1p((of_artist["tag"] == row.tag).sum()),
            "place": np.log(shown.loc[row.Index, "place"]),
            "share_of_artist": (of_artist["tag"] == row.tag).mean(),
            "artist_tags": np.log1p(len(of_artist)),
            "artist_names": np.log1p(of_artist["tag"].nunique()),
            "artist_listeners": np.log1p((listens["artist"] == row.artist).sum()),
            "query_tags": np.log1p((tags["tag"] == row.tag).sum()),
            "user_tags": np.log1p(len(of_user)),
            "user_names": np.log1p(of_user["tag"].nunique()),
            "user_listens": np.log1p((listens["user"] == row.user).sum()),
            "user_query": np.log1p((of_user["tag"] == row.tag).sum()),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(getattr(row, name), value, rtol=1e-12, err_msg=name)
        counts = of_artist["tag"].value_counts()
        text = sum(np.log1p(count) * query.vectors[query.rows([tag])[0]] for tag, count in counts.items())
        own = query.vectors[query.rows([row.tag])[0]]
        np.testing.assert_allclose(row.similarity, own @ text / np.linalg.norm(text), atol=1e-6)
    assert set(expected) | {"similarity"} == set(script.COUNTS)


@pytest.mark.parametrize("transposed", [False, True])  # EASE inverts what is fewer, users or artists
def test_ease_scores_are_those_of_its_lists(script, data, transposed):
    columns = ["candidate", "query"] if transposed else ["query", "candidate"]
    known = data.known.set_axis(columns, axis=1)
    ease = EASE.fit(known, l2=3.0)
    assert ease.side == ("items" if transposed else "queries")
    lists = ease.recommend(known["query"].unique(), 60)
    asked = lists.rename(columns={"query": "user", "candidate": "artist"})
    np.testing.assert_allclose(script.ease_scores(asked, ease), lists["score"], atol=1e-9)
    assert script.ease_scores(pd.DataFrame({"user": [-5], "artist": [1]}), ease).tolist() == [0.0]


def test_cosines_are_zero_where_an_id_is_unknown(script):
    left = EmbeddingTable.from_arrays([1, 2], np.array([[3.0, 4.0], [0.0, 0.0]], np.float32), entity="a", version="v")
    right = EmbeddingTable.from_arrays([7], np.array([[10.0, 0.0]], np.float32), entity="b", version="v")
    pairs = pd.DataFrame({"x": [1, 2, 3, 1], "y": [7, 7, 7, 8]})
    np.testing.assert_allclose(script.cosine(pairs, ("x", left), ("y", right)), [0.6, 0.0, 0.0, 0.0], atol=1e-7)


def made_search(script, sessions, known=()):
    """A search of given sessions: (user, labels)."""
    frame = pd.DataFrame(
        [(number, user, label) for number, (user, labels) in enumerate(sessions) for label in labels],
        columns=["session", "user", "picked"],
    )
    return script.Search(None, {"test": frame, "ranker": pd.DataFrame({"user": list(known)})}, None, None, {})


def test_measures_are_means_over_sessions_and_users_are_resampled(script):
    # Of user 1 AP 1 and 1/2, AUC 1 and 0; of user 2 a tie of three, AP (1 + 1/2 + 1/3) / 3, AUC 1/2; one session has
    # no negatives.
    search = made_search(script, [(1, (1, 0)), (1, (0, 1)), (2, (1, 0, 0)), (2, (1, 1))], known=[1])
    scores = np.array([2.0, 1.0, 2.0, 1.0, 5.0, 5.0, 5.0, 3.0, 1.0])
    found = script.measured(search, "test", scores, samples=200)
    assert list(found) == [None, script.SEEN, script.NEW]
    tied = (1 + 1 / 2 + 1 / 3) / 3
    np.testing.assert_allclose(found[None].values, [(1 + 1 / 2 + tied + 1) / 4, (1 + 0 + 1 / 2) / 3])
    assert found[None].counts == (4, 3)
    np.testing.assert_allclose(found[script.SEEN].values, [3 / 4, 1 / 2])
    np.testing.assert_allclose(found[script.NEW].values, [(tied + 1) / 2, 1 / 2])
    # One user is one unit: resampled, nothing changes. Two give three means.
    assert np.ptp(found[script.SEEN].drawn, axis=0).tolist() == [0.0, 0.0]
    expected = [3 / 4, (1 + 1 / 2 + tied + 1) / 4, (tied + 1) / 2]
    np.testing.assert_allclose(np.unique(found[None].drawn[:, 0].round(9)), sorted(expected), atol=1e-9)
    assert list(script.measured(made_search(script, [(1, (1, 0))]), "test", np.array([1.0, 2.0]))) == [None, script.NEW]


def test_shuffled_vectors_are_the_same_ones_at_other_ids(script):
    table = EmbeddingTable.from_arrays(
        np.arange(50), np.arange(50.0, dtype=np.float32)[:, None], entity="a", version="v"
    )
    other = script.shuffled(table, 0)
    assert other.ids.to_pylist() == table.ids.to_pylist()
    assert sorted(other.vectors[:, 0]) == sorted(table.vectors[:, 0])
    assert (other.vectors[:, 0] == table.vectors[:, 0]).mean() < 0.2


TINY = {"epochs": 30, "batch_size": 64, "uniform_negatives": 20}


@pytest.fixture
def quick(script, monkeypatch):
    """Few edges need small batches."""
    for name in ("FOLLOWS", "ENGAGEMENTS"):
        monkeypatch.setattr(script, name, replace(getattr(script, name), **TINY))
    monkeypatch.setattr(script, "CONFIG", replace(script.CONFIG, batch_size=256, learning_rate=1e-2, evaluate_every=10))
    monkeypatch.setattr(script, "DIM", 16)
    monkeypatch.setattr(script, "SAMPLES", 100)
    for name in (
        "+U_f",
        "+U_e",
        f"{script.FULL}+EASE",
        f"{script.FULL}+U_e · A",
    ):  # they differ by what they read alone
        monkeypatch.delitem(script.SYSTEMS if name in script.SYSTEMS else script.RIVALS, name)
    return script


def test_the_searcher_s_and_the_artist_s_vectors_together_say_who_is_picked(quick, folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    paths = {name: tmp_path / f"out.{end}" for name, end in (("json", "json"), ("markdown", "md"), ("plot", "png"))}
    words = ["--data", str(folder), "--seeds", "1", *(str(w) for name, p in paths.items() for w in (f"--{name}", p))]
    report = quick.main(words)
    frame = Report.load(paths["json"]).to_frame()
    assert len(frame) == len(report.results)
    every = frame[frame["group"].isna() & (frame["metric"] == "group_auc")]
    found = every[~every["name"].str.contains(" - ")].groupby("name")["value"].mean()
    # A tag's artists are of all kinds alike: counts and texts cannot tell, nor can a user's or an artist's side alone.
    for name in (quick.FULL, "+EASE", "+U_e · A", "U_e · A alone"):
        assert found[name] > 0.9, name
    for name in (quick.BASELINE, "+A", f"{quick.FULL}, shuffled", "as shown"):
        assert found[name] < 0.7, name
    difference = every[every["name"] == f"{quick.FULL} - {quick.BASELINE}"]["value"].item()
    np.testing.assert_allclose(difference, found[quick.FULL] - found[quick.BASELINE])
    parts = frame[(frame["name"] == quick.FULL) & (frame["metric"] == "map")].drop_duplicates("group")
    sizes = parts.set_index(parts["group"].fillna("all"))["n"]
    assert sizes.to_dict() == {"all": USERS * GENRES, quick.SEEN: 36 * GENRES, quick.NEW: 4 * GENRES}
    assert "are shown" in capsys.readouterr().out
    assert "| +U_f+U_e+A" in paths["markdown"].read_text(encoding="utf-8")
    assert paths["plot"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["pointwise", "dlrm"])
def test_other_rankers_find_it_too(quick, raw, tmp_path, kind):
    search = quick.prepare(raw)
    tables = quick.networks(search.data, seed=0, dim=16, folder=tmp_path)
    features = quick.spec(search, quick.SYSTEMS[quick.FULL], tables)
    scores = quick.rank(search, features, kind=kind, seed=0, part="test")
    assert quick.measured(search, "test", scores)[None].values[1] > 0.85


def test_floors_of_the_catalogue(example, script, raw):
    rows = [(1, 10, 1, "2009-01-01"), (2, 10, 1, "2009-01-01"), (1, 11, 1, "2009-01-01"), (3, 12, 1, "2009-01-01")]
    rows += [(4, 12, 1, "2010-09-01"), (5, 11, 1, "2010-09-01"), (5, 10, 2, "2010-09-01")]
    tags = pd.DataFrame(rows, columns=[*TRIPLE, "time"]).assign(time=lambda frame: pd.to_datetime(frame["time"]))
    listens = pd.DataFrame({"user": [4], "artist": [12], "count": [1]})
    frame = script.catalogue_floors(replace(raw, tags=tags, listens=listens)).to_frame()
    mrr = frame[frame["metric"] == "mrr"].set_index("name")["value"]
    # The order is 10, 11, 12: the picks stand third and second, tag 2 has no artist; the listen brings 12 to the top.
    np.testing.assert_allclose(mrr, [(1 / 3 + 1 / 2 + 0) / 3, (1 + 1 / 2 + 0) / 3])


def test_compression_counts_all_bytes(example):
    compression = example("search_compression")
    vectors = np.zeros((100, 8), np.float32)
    plain = EmbeddingTable.from_arrays(np.arange(100), vectors, entity="a", version="v")
    codes, codebook = np.zeros((100, 2), np.uint8), np.zeros((2, 16, 4), np.float32)
    pq = PQTable.from_arrays(np.arange(100), codes, codebook, entity="a", version="v")
    turned = PQTable.from_arrays(
        np.arange(100), codes, codebook, entity="a", version="v", codec="opq", rotation=np.eye(8, dtype=np.float32)
    )
    assert compression.stored_bytes(plain) == 3200
    assert compression.stored_bytes(compression.half(plain)) == 1600
    assert compression.stored_bytes(pq) == 200 + 512
    assert compression.stored_bytes(turned) == 200 + 512 + 256
    tables = {"x": plain, "y": plain}
    assert compression.compression(tables, {"x": pq, "y": turned}) == 6400 / (712 + 968)
    assert compression.compression(tables, {}) == float("inf")
    assert [compression.row_bytes(used) for used in ({}, {"x": plain}, {"x": pq})] == [0, 32, 2]
    moved = compression.shuffled_codes(
        PQTable.from_arrays(
            np.arange(100), np.arange(200, dtype=np.uint8).reshape(100, 2) % 16, codebook, entity="a", version="v"
        ),
        0,
    )
    assert sorted(map(tuple, moved.codes)) == sorted((2 * i % 16, (2 * i + 1) % 16) for i in range(100))


def test_a_ranker_with_codes_does_what_it_did_with_vectors(example, quick, folder, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    pytest.importorskip("matplotlib")
    compression = example("search_compression")
    kept = {"pq, 16 bytes": compression.Codes("pq", 16)}
    monkeypatch.setattr(compression, "CODES", kept)
    monkeypatch.setattr(compression, "DIM", 16)
    report = compression.main(["--data", str(folder), "--seeds", "1", "--plot", str(tmp_path / "p.png")])
    frame = report.to_frame()
    every = frame[frame["group"].isna() & (frame["metric"] == "group_auc")]
    found = every[~every["name"].str.contains(" - ")].groupby("name")["value"].mean()
    for name in ("float32", "float16", "pq, 16 bytes"):
        assert found[name] > 0.9, name
    for name in ("baseline", "pq, 16 bytes, shuffled"):
        assert found[name] < 0.7, name
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@NO_DATA
def test_the_real_parts_are_as_large_as_they_should_be(example):
    data = example("loaders.tagging").split(example("loaders.lastfm").load(REAL))
    test = data.picks["test"]
    assert (len(data.history), len(test)) == (186_478 - 5, 38_390)  # five dates are before 1980
    assert len(test.drop_duplicates(["user", "tag"])) == 10_698
    assert len(test.drop_duplicates(["user", "tag", "time"])) == 17_762
    assert not rows(data.known, PAIR) & rows(pd.concat(data.picks.values()), PAIR)
