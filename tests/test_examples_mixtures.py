"""The example of mixtures, on small planted networks in the data sets' own files, and on real data where it is."""

import importlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recokit import EmbeddingTable, Mixture
from recokit.report import Report, Result

pytest.importorskip("torch")
pytest.importorskip("duckdb")
pytest.importorskip("faiss")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NO_DATA = pytest.mark.skipif(
    "RECOKIT_DATA" not in os.environ, reason="RECOKIT_DATA names no folder that holds retailrocket/, ml-latest-small/"
)
KINDS, ITEMS, USERS = 4, 60, 40
TINY = {"epochs": 20, "batch_size": 64, "uniform_negatives": 20}
HOUR = 3600


@pytest.fixture
def example(monkeypatch):
    """Import the example as ``python examples/mixtures.py`` would find its neighbours, with settings for few edges."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    script = importlib.import_module("mixtures")
    small = {
        "one": {"learning_rate": 0.3}, "mixture": {"learning_rate": 0.3}, "floors": {"neighbors": 10, "l2": 10.0},
        "clusters": {"clusters": 12, "top": 2}, "pinnersage": {"top": 2}, script.ALONE: {},
    }  # fmt: skip
    monkeypatch.setattr(script, "CONFIG", replace(script.CONFIG, temperature=0.2, **TINY))
    monkeypatch.setattr(script, "SETTINGS", dict.fromkeys(script.SETS, small))
    monkeypatch.setattr(script, "CATEGORIES", KINDS)
    return script


def interests(user):
    """Two of four kinds of items; an item's kind is its number modulo 4."""
    return user % KINDS, (user + 1 + user // KINDS % (KINDS - 1)) % KINDS


def liked(user, rng):
    """Ten items of each of a user's two kinds, in an order of chance."""
    items = [kind + KINDS * rng.permutation(ITEMS // KINDS)[:10] for kind in interests(user)]
    return rng.permutation(np.concatenate(items)).tolist()


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    """Users like 20 movies of two genres, one second after another, and dislike one before."""
    path, rng = tmp_path_factory.mktemp("movielens"), np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        chosen = liked(user, rng)
        other = next(item for item in range(ITEMS) if item % KINDS not in interests(user))
        rows += [(user, movie, 2.5 if place == 0 else 4.5, place) for place, movie in enumerate([other, *chosen])]
    pd.DataFrame(rows, columns=["userId", "movieId", "rating", "timestamp"]).to_csv(path / "ratings.csv", index=False)
    genres = [(item, f"Movie {item}", f"genre {item % KINDS}|all") for item in range(ITEMS + 1)]  # one nobody rated
    pd.DataFrame(genres, columns=["movieId", "title", "genres"]).to_csv(path / "movies.csv", index=False)
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Users view 20 items of two kinds on as many days, put every second into a cart, and buy every fourth."""
    path, rng = tmp_path_factory.mktemp("retailrocket"), np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        for place, item in enumerate(liked(user, rng)):
            steps = ("view", *(["cart"] if place % 2 else []), *(["buy"] if place % 4 == 3 else []))
            rows += [(user, item, step, place * 24 * HOUR + at) for at, step in enumerate(steps)]
    columns = ["user", "item", "behavior", "timestamp"]
    pd.DataFrame(rows, columns=columns).to_csv(path / "events.tsv", sep="\t", index=False)
    return path


@pytest.fixture(scope="module")
def listens(tmp_path_factory):
    """Users listen to 20 artists of two kinds; nothing is tagged, and two are friends."""
    path, rng = tmp_path_factory.mktemp("lastfm"), np.random.default_rng(0)
    rows = [(user, artist, 1 + place) for user in range(USERS) for place, artist in enumerate(liked(user, rng))]
    tagged = ["userID", "artistID", "tagID", "day", "month", "year"]
    for name, columns, of in (
        ("user_artists", ["userID", "artistID", "weight"], rows),
        ("user_friends", ["userID", "friendID"], [(0, 1), (1, 0)]),
        ("user_taggedartists", tagged, [(0, 999, 1, 1, 1, 2009)]),
        ("artists", ["id", "name"], [(0, "a")]),
        ("tags", ["tagID", "tagValue"], [(1, "t")]),
    ):
        pd.DataFrame(of, columns=columns).to_csv(path / f"{name}.dat", sep="\t", index=False)
    return path


def pairs(frame, columns=("query", "candidate")):
    return set(frame[list(columns)].itertuples(index=False, name=None))


def edges(frame):
    return pairs(frame, ("source", "target"))


def task_of(script, name, folder, *, seed=0, part="validation"):
    of = script.SETS[name]
    return of.part(of.load(folder), seed, part)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_movielens_knows_what_was_liked_before_and_asks_for_what_was_liked_later(example, movies, part):
    task = task_of(example, "movielens", movies, part=part)
    rows = pd.read_csv(movies / "ratings.csv")  # 21 a user: the last 2 are the test part, the 2 before the validation
    last = 18 if part == "test" else 16
    known, held_out = rows[rows["timestamp"] <= last], rows[rows["timestamp"].between(last + 1, last + 2)]
    good = known[known["rating"] > 4]
    assert edges(task.edges["likes"]) == pairs(good, ("userId", "movieId"))
    assert len(task.log) == last * USERS
    assert pairs(task.exclude) == pairs(known, ("userId", "movieId"))  # the disliked one too
    assert pairs(task.targets[0].relevant) == pairs(held_out, ("userId", "movieId"))
    assert len(task.catalog) == ITEMS + 1
    assert pairs(task.genres, ("candidate", "category")) >= {(5, "genre 1"), (5, "all"), (ITEMS, "genre 0")}


@pytest.mark.parametrize("part", ["validation", "test"])
def test_lastfm_is_what_its_own_example_has(example, listens, part):
    task = task_of(example, "lastfm", listens, seed=3, part=part)
    data = example.lastfm.load(listens)
    known, validation, test = example.lastfm.split(data.listens, 3)
    assert edges(task.edges["listens"]) == pairs(known, ("user", "artist"))  # never the validation part
    np.testing.assert_allclose(task.edges["listens"].groupby("source")["weight"].mean(), 1.0)
    assert pairs(task.targets[0].relevant) == pairs(test if part == "test" else validation, ("user", "artist"))
    seen = pd.concat([known, validation]) if part == "test" else known
    assert pairs(task.exclude) == pairs(seen, ("user", "artist"))
    other = task_of(example, "lastfm", listens, seed=4, part=part)
    assert edges(other.edges["listens"]) != edges(task.edges["listens"])  # drawn anew


def test_retailrocket_has_a_relation_a_task_and_asks_buyers_alone_too(example):
    day = 24 * HOUR
    rows = [
        (1, 10, "view", 0), (1, 10, "buy", 1), (1, 11, "view", day), (1, 12, "buy", 2 * day), (1, 10, "buy", 2 * day),
        (2, 11, "view", 0), (2, 11, "view", 5), (2, 13, "cart", day), (2, 12, "buy", 2 * day),
    ]  # fmt: skip
    events = pd.DataFrame(rows, columns=["user", "item", "behavior", "time"])
    # Three visits each: one for training, one for validation, one for testing.
    task = example.retailrocket_part(events, 0, "test")
    assert edges(task.edges["view"]) == {(1, 10), (1, 11), (2, 11)}
    assert len(task.edges["view"]) == 3
    assert edges(task.edges["cart"]) == {(2, 13)}
    assert edges(task.edges["buy"]) == {(1, 10)}
    assert edges(task.log) == {(1, 10), (1, 11), (2, 11), (2, 13)}
    assert len(task.log) == 4
    found = {target.name: (target.relation, pairs(target.relevant)) for target in task.targets}
    assert found == {
        "view": ("view", set()),
        "cart": ("cart", set()),
        "buy": ("buy", {(1, 12), (2, 12)}),  # not the known pair (1, 10)
        "buy, of buyers": ("buy", {(1, 12)}),
    }
    assert sorted(task.users("buy")) == [1, 2]
    validation = example.retailrocket_part(events, 0, "validation")
    assert edges(validation.log) == {(1, 10), (2, 11)}
    assert pairs(validation.targets[0].relevant) == {(1, 11)}
    assert pairs(validation.targets[1].relevant) == {(2, 13)}


def test_networks_have_the_relations_and_weights_that_they_are_asked_for(example, shop):
    task = task_of(example, "retailrocket", shop)
    whole = task.graph(example.TASK_WEIGHTS)
    assert {name: relation.weight for name, relation in whole.relations.items()} == example.TASK_WEIGHTS
    alone = task.graph({"buy": 1.0})
    assert list(alone.relations) == ["buy"]
    assert pairs(alone.pairs("buy")) == edges(task.edges["buy"])
    assert len(alone.entities["item"]) == task.edges["buy"]["target"].nunique()


def test_settings_are_of_the_grid_and_kinds_are_taken_for_what_they_are(monkeypatch, example, shop):
    script, grid = example, example.GRID
    monkeypatch.undo()  # to the settings as they are
    for of_set in script.SETTINGS.values():
        for kind in ("one", "mixture", "floors", "clusters", "pinnersage"):
            assert all(value in grid[name] for name, value in of_set[kind].items())
        assert script.replace(script.CONFIG, **of_set["one"]).has_mixtures is False
    settings = {
        "one": {"temperature": 0.5}, "mixture": {"temperature": 0.25}, script.ALONE: {"epochs": 2, "temperature": 0.75},
    }  # fmt: skip
    monkeypatch.setattr(script, "CONFIG", replace(script.CONFIG, **{**TINY, "epochs": 1}))
    task = task_of(script, "retailrocket", shop)
    models = script.train_all(task, settings, seed=5)
    said = {name: (model.config.temperature, model.config.epochs, model.config.dim) for name, model in models.items()}
    assert said == {
        "one vector": (0.5, 1, 64),
        "2 x 32 users": (0.25, 1, 32),
        "4 x 16 users": (0.25, 1, 16),
        "4 x 16 users, 4 x 16 items": (0.25, 1, 16),
        "4 x 64 users": (0.25, 1, 64),
        "one vector of 256": (0.5, 1, 256),
        "one vector, buys alone": (0.75, 2, 64),
        "4 x 16 users, buys alone": (0.75, 2, 16),
        "one vector, task weights": (0.5, 1, 64),
        "4 x 16 users, task weights": (0.25, 1, 16),
        "4 x 16 users, weighed by buys": (0.25, 1, 16),
    }
    assert {model.config.seed for model in models.values()} == {5}
    both = models["4 x 16 users, 4 x 16 items"].config
    assert [both.components_of(entity) for entity in ("user", "item")] == [4, 4]
    # The same vectors; weights of components by buys, which are equal for users who bought nothing.
    plain, by_buys = models["4 x 16 users"], models["4 x 16 users, weighed by buys"]
    assert by_buys.vectors is plain.vectors
    assert not np.allclose(by_buys.mixture_weights["user"], plain.mixture_weights["user"])
    assert list(models["one vector, task weights"].relations) == ["view", "cart", "buy"]


def test_numbers_are_what_the_top_of_the_example_says(example):
    numbers = {name: (shape.users * shape.dim, shape.items * shape.dim) for name, shape in example.SHAPES.items()}
    assert numbers == {
        "one vector": (64, 64),
        "2 x 32 users": (64, 32),
        "4 x 16 users": (64, 16),
        "4 x 16 users, 4 x 16 items": (64, 64),
        "4 x 64 users": (256, 64),
        "one vector of 256": (256, 256),
    }
    rows = [Result("4 x 16 users", metric, value, seed=seed) for seed in (0, 1) for metric, value in
            ((example.EFFECTIVE, 2.0 + seed), (example.DEAD, 0.1 + 0.2 * seed))]  # fmt: skip
    table = example.numbers_table(Report(rows))
    assert table[1] == ("one vector", "64", "64", "", "")
    assert table[3] == ("4 x 16 users", "64", "16", "2.50 of 4", "20.0%")


def test_lists_of_trained_mixtures_are_those_of_the_best_pair_of_components(example, movies, tmp_path, monkeypatch):
    monkeypatch.setattr(example, "LENGTH", 5)
    task = task_of(example, "movielens", movies)
    graph, settings = task.graph({"likes": 1.0}), example.SETTINGS["movielens"]
    known = task.exclude.groupby("query")["candidate"].agg(set)
    for number, shape in enumerate((example.Shape(1, 1, 8), example.Shape(2, 1, 8), example.Shape(3, 2, 8))):
        model = example.fit(graph, shape, settings, 0, item="movie")
        version = example.export(model, tmp_path / f"v{number}")
        found = example.recommend(task, version, "max_score")["likes"]
        vectors = {  # (N, C, n), of length 1
            entity: table / np.linalg.norm(table, axis=2, keepdims=True)
            for entity, count in (("user", shape.users), ("movie", shape.items))
            for table in [model.vectors[entity].numpy().astype(np.float64).reshape(-1, count, 8)]
        }
        ids = {entity: model.entities[entity].to_pylist() for entity in vectors}
        for user, rows in found.groupby("query"):
            own = vectors["user"][ids["user"].index(user)]
            scores = np.einsum("cn,ikn->ick", own, vectors["movie"]).max(axis=(1, 2))
            best = [
                ids["movie"][at] for at in np.argsort(-scores, kind="stable") if ids["movie"][at] not in known[user]
            ]
            assert rows["candidate"].tolist() == best[:5]
            listed = [ids["movie"].index(candidate) for candidate in rows["candidate"]]
            np.testing.assert_allclose(rows["score"], scores[listed], atol=1e-5)
        assert set(found["query"]) == set(task.users("likes"))


def test_round_robin_follows_the_weights_that_a_version_has(example, movies, tmp_path):
    task = task_of(example, "movielens", movies)
    shape = example.Shape(2, 1, 8)
    model = example.fit(task.graph({"likes": 1.0}), shape, example.SETTINGS["movielens"], 0, item="movie")
    for first in (0.9, 0.1):
        weights = np.tile(np.float32([first, 1 - first]), (len(model.entities["user"]), 1))
        weighed = replace(model, mixture_weights={"user": weights})
        version = example.export(weighed, tmp_path / f"v{first}")
        rows = example.recommend(task, version, "round_robin")["likes"]
        ten = rows[rows["rank"] <= 10]["component"]
        heavy = 0 if first == 0.9 else 1
        assert (ten == heavy).mean() > 0.8  # nine places of ten by weight / rank; more where both find the same


def test_inductive_mixtures_know_both_interests(example):
    # Items 0 to 9 lie east, 10 to 19 north, 20 to 29 west; user 1 knows three of the east and one of the north.
    angle = np.repeat([0.0, np.pi / 2, np.pi], 10) + np.tile(np.linspace(-0.1, 0.1, 10), 3)
    items = EmbeddingTable.from_arrays(
        np.arange(30), np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32), entity="item", version="v"
    )
    log = pd.DataFrame({"source": [1, 1, 1, 1, 2], "target": [3, 4, 5, 14, 25]})
    known = log.set_axis(["query", "candidate"], axis=1)
    relevant = pd.DataFrame({"query": [1, 2], "candidate": [6, 26]})
    task = example.Task(
        "item", {"likes": log}, known, pd.Index(range(30)), (example.Target("likes", "likes", relevant),)
    )
    settings = {"clusters": {"clusters": 3, "top": 2}, "pinnersage": {"top": 2}}
    mixtures = example.inductive(task, items, settings, seed=0)
    assert list(mixtures) == ["clusters", "PinnerSage"]
    for users in mixtures.values():
        assert isinstance(users, Mixture)
        np.testing.assert_allclose(users.weights, [[0.75, 0.25], [1.0, 0.0]])
        lists = example.recommend_inductive(task, items, users, "round_robin")["likes"]
        first = lists[(lists["query"] == 1) & (lists["rank"] <= 8)]["candidate"]
        # By weight / rank: .75, .375, .25 of both, .1875, .15, .125 of both
        assert (first < 10).sum() == 6
        assert first.between(10, 19).sum() == 2
        assert not pairs(lists) & pairs(known)
        alone = lists[(lists["query"] == 2) & (lists["rank"] <= 9)]["candidate"]
        assert sorted(alone) == [20, 21, 22, 23, 24, 26, 27, 28, 29]
    medoids = mixtures["PinnerSage"].components.ids_at(mixtures["PinnerSage"].component_rows[0]).to_pylist()
    assert medoids == [4, 14]


def test_categories_are_genres_or_else_clusters_of_the_items(example, monkeypatch):
    angle = np.repeat([0.0, np.pi], 4) + np.tile(np.linspace(-0.1, 0.1, 4), 2)  # four items each east and west
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    items = EmbeddingTable.from_arrays(np.arange(100, 108), vectors, entity="item", version="v")
    monkeypatch.setattr(example, "CATEGORIES", 2)
    task = example.Task("item", {}, pd.DataFrame(), pd.Index([]), ())
    found = example.Yardstick.of(task, items, {}, 0).categories
    groups = found.groupby("category")["candidate"].agg(list).tolist()
    assert sorted(groups) == [[100, 101, 102, 103], [104, 105, 106, 107]]
    genres = pd.DataFrame({"candidate": [100], "category": ["drama"]})
    assert example.Yardstick.of(replace(task, genres=genres), items, {}, 0).categories is genres


def test_differences_are_read_over_seeds(example):
    ends = [(0.03, 0.01, 0.05), (0.02, -0.01, 0.05), (-0.11, -0.2, -0.02)]
    rows = [Result("m - one vector", "recall@10", *each, seed=seed, group="g") for seed, each in enumerate(ends)]
    rows += [Result("m - one vector", metric, 0.5, 0.4, 0.6, seed=0, group="g") for metric in example.RECALLS[1:]]
    rows += [Result("m, x - m", metric, 0.0, 0.0, 0.0, seed=0, group="g") for metric in example.RECALLS]
    rows += [Result("m - one vector", "recall@10", 9.0, 8.0, 10.0, seed=0, group="other")]
    rows += [Result("m", "recall@10", 9.0, 8.0, 10.0, seed=0, group="g")]
    table = example.differences_table(Report(rows), "g")
    assert table[1:] == [
        ("m", "-0.0200 (1, 1 of 3)", "+0.5000 (1, 0 of 1)", "+0.5000 (1, 0 of 1)"),
        ("m, x - m", *["+0.0000 (0, 0 of 1)"] * 3),
    ]


def test_what_is_compared_with_what(example):
    mixture = "4 x 16 users"
    names = [
        "one vector", f"{mixture}, max_score", f"{mixture}, round_robin", "PinnerSage, max_score", "EASE",
        "one vector, buys alone", f"{mixture}, buys alone, max_score", f"{mixture}, weighed by buys, round_robin",
    ]  # fmt: skip
    large = ["one vector", "one vector of 256", "4 x 64 users, max_score"]
    assert list(example.pairs_of(large)) == [(large[2], large[0]), (large[2], large[1])]
    assert list(example.pairs_of(names)) == [
        *((name, "one vector") for name in names[1:4]),
        ("one vector, buys alone", "one vector"),
        (f"{mixture}, buys alone, max_score", f"{mixture}, max_score"),
        (f"{mixture}, buys alone, max_score", "one vector, buys alone"),
        (f"{mixture}, weighed by buys, round_robin", f"{mixture}, round_robin"),
    ]


def test_the_example_runs_and_finds_the_kinds(example, movies, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    paths = {name: tmp_path / f"out.{end}" for name, end in (("json", "json"), ("markdown", "md"), ("plot", "png"))}
    words = ["--data", str(movies), "--set", "movielens", "--seeds", "2", "--part", "test"]
    report = example.main([*words, *(str(word) for name, path in paths.items() for word in (f"--{name}", path))])
    assert "test part" in capsys.readouterr().out
    rows = Report.load(paths["json"]).to_frame()
    assert len(rows) == len(report.results)
    mean = rows[rows["group"] == "likes"].groupby(["name", "metric"])["value"].mean()
    # Two movies are asked for, of 12 of the user's kinds that are not known: who knows the kinds finds 10 of 12.
    for name in ("one vector", "4 x 64 users, max_score", "EASE"):
        assert mean[name, "recall@10"] > 0.7
        assert mean[name, "recall@10"] > mean["popularity", "recall@10"] + 0.3
    assert mean["one vector", "overlap@50"] == 1.0
    assert mean["one vector", "categories@50"] == KINDS + 1  # with the genre "all"
    assert mean["popularity", "catalog_coverage@50"] <= ITEMS / (ITEMS + 1)
    for name in ("2 x 32 users, round_robin", "PinnerSage, max_score"):
        for k in (10, 50, 100):
            difference = mean[f"{name} - one vector", f"recall@{k}"]
            assert difference == pytest.approx(mean[name, f"recall@{k}"] - mean["one vector", f"recall@{k}"], abs=1e-12)
    seeds = rows.groupby("name")["seed"].agg(lambda column: sorted(column.dropna().unique()))
    assert seeds["EASE"] == []  # the split is fixed, and so are its lists
    assert rows[rows["name"] == "EASE"]["metric"].value_counts().max() == 1
    assert seeds["clusters, max_score"] == [0, 1]
    assert set(rows["metric"]) == {*example.ACCURACY, *example.DIVERSITY, example.EFFECTIVE, example.DEAD}
    effective = rows[rows["metric"] == example.EFFECTIVE].set_index("name")["value"]
    assert (effective["2 x 32 users"] > 1).all()
    text = paths["markdown"].read_text(encoding="utf-8")
    assert "| 4 x 16 users, 4 x 16 items | 64 | 64 |" in text
    assert "| 2 x 32 users, max_score |" in text
    assert paths["plot"].read_bytes().startswith(b"\x89PNG")


def test_floors_are_of_all_known_pairs_and_popularity_of_buys_too(example):
    views = pd.DataFrame({"source": [1, 2, 3, 4, 4], "target": [10, 10, 10, 11, 12]})
    buys = pd.DataFrame({"source": [1, 1, 2, 3], "target": [10, 11, 11, 12]})
    asked = example.Target("buy", "buy", pd.DataFrame({"query": [9], "candidate": [10]}))
    exclude = pd.DataFrame({"query": [9], "candidate": [12]})
    task = example.Task("item", {"view": views, "buy": buys}, exclude, pd.Index([10, 11, 12]), (asked,))
    found = {name: lists["buy"]["candidate"].tolist() for name, lists in example.floors(task, neighbors=2, l2=1.0)}
    # 10 is known of users 1, 2, 3, and 11 of 1, 2, 4; equal ones rank by id. Of buys, 11 has two. 12 is excluded.
    assert found["popularity"] == [10, 11]
    assert found["popularity, buys alone"] == [11, 10]
    assert found["ItemKNN"] == found["EASE"] == []  # nothing is known of user 9


@pytest.mark.slow
def test_tasks_are_measured_one_by_one(example, shop):
    report = example.measure("retailrocket", example.retailrocket.load(shop), seeds=1, part="test")
    rows = report.to_frame()
    mean = rows.set_index(["group", "name", "metric"])["value"]
    assert set(rows["group"].dropna()) == {"view", "cart", "buy", "buy, of buyers"}
    for group in ("view", "cart", "buy"):
        assert mean[group, "one vector", "recall@10"] > mean[group, "popularity", "recall@10"] + 0.2
    names = set(rows["name"])
    assert "4 x 16 users, weighed by buys, round_robin" in names
    assert "4 x 16 users, weighed by buys, max_score" not in names
    assert "popularity, buys alone" in names
    assert "one vector, buys alone - one vector" in names
    # All users have bought, so that both targets are the same pairs.
    assert mean["buy", "EASE", "recall@50"] == mean["buy, of buyers", "EASE", "recall@50"]
    assert mean["buy", "one vector, buys alone", "catalog_coverage@50"] <= 1.0


@pytest.mark.slow
def test_a_split_that_is_drawn_by_seeds_has_floors_of_every_seed(example, listens, monkeypatch):
    monkeypatch.setattr(example, "SHAPES", {name: example.SHAPES[name] for name in (example.ONE, "2 x 32 users")})
    rows = example.measure("lastfm", example.lastfm.load(listens), seeds=2, part="validation").to_frame()
    found = rows[(rows["name"] == "EASE") & (rows["metric"] == "recall@10")]
    assert found["seed"].tolist() == [0, 1]
    assert found["value"].nunique() == 2
    entropy = rows[(rows["name"] == "one vector") & (rows["metric"] == "categories@50")]["value"]
    assert (entropy <= KINDS).all()  # clusters, where there are no genres


@NO_DATA
def test_counts_and_figures_of_the_real_files(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    script, data = importlib.import_module("mixtures"), Path(os.environ["RECOKIT_DATA"])
    shop = task_of(script, "retailrocket", data / "retailrocket", part="test")
    sizes = {target.name: (target.relevant["query"].nunique(), len(target.relevant)) for target in shop.targets}
    assert sizes["view"] == (1117, 13101)
    assert sizes["cart"] == (374, 1719)
    assert sizes["buy"] == (318, 1324)
    task = task_of(script, "movielens", data / "ml-latest-small")
    relevant = task.targets[0].relevant
    lists = dict(script.floors(task, **script.SETTINGS["movielens"]["floors"]))
    ease = script.evaluate_candidates(lists["EASE"]["likes"], relevant, k=10, bootstrap=2)
    assert ease.value("recall@10") == pytest.approx(0.112, abs=0.003)
    assert (relevant["query"].nunique(), len(relevant)) == (555, 4429)
