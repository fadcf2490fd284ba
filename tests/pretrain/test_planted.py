"""Planted networks: the tables of the real ones, and the structure that was planted is there to be found."""

import numpy as np
import pandas as pd
import pytest

from pretrain import Graph, Relation, TrainConfig, evaluate, train
from pretrain.planted import planted_blocks, planted_movies
from recokit.errors import ConfigError

TABLES = {
    "ratings": ["user", "movie", "rating", "time"],
    "users": ["user", "age", "gender", "occupation"],
    "movies": ["movie", "title"],
    "genres": ["movie", "genre"],
    "knowledge": ["movie", "relation", "entity"],
}


@pytest.fixture(scope="module")
def movies():
    return planted_movies()


def test_the_tables_are_those_of_the_real_data(movies):
    assert movies.source == "planted synthetic network (seed 0)"
    for name, columns in TABLES.items():
        frame = getattr(movies, name)
        assert frame.columns.tolist() == columns
        assert not frame.isna().any(axis=None)
        ids = [column for column in columns if column in ("user", "movie")]
        assert all(frame[column].dtype == np.int64 for column in ids)
        assert not frame.duplicated(None if name == "knowledge" else columns[:2]).any()
    assert (movies.ratings["rating"].dtype, movies.ratings["time"].dtype) == (np.float64, np.float64)
    assert movies.users["user"].tolist() == list(range(1, 601))
    assert movies.movies["movie"].tolist() == list(range(1, 501))
    assert set(movies.ratings["movie"]) <= set(movies.movies["movie"])
    assert set(movies.ratings["user"]) == set(movies.users["user"])
    assert set(movies.ratings["rating"]) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert set(movies.genres["movie"]) == set(movies.knowledge["movie"]) == set(movies.movies["movie"])


def test_the_seed_decides(movies):
    again, other = planted_movies(seed=0), planted_movies(seed=1)
    for name in TABLES:
        assert getattr(again, name).equals(getattr(movies, name))
    assert other.source == "planted synthetic network (seed 1)"
    assert not other.ratings.equals(movies.ratings)


def test_times_increase_and_every_user_rates_at_least_twenty(movies):
    by_user = movies.ratings.groupby("user")
    assert (by_user["time"].diff().dropna() > 0).all()
    assert by_user.size().min() == 20
    assert movies.ratings["time"].is_monotonic_increasing


def test_popularity_is_heavy_tailed(movies):
    counts = movies.ratings["movie"].value_counts().to_numpy()
    assert counts[:50].sum() > 0.25 * counts.sum()  # a tenth of the movies, more than a quarter of the ratings
    assert counts[0] > 5 * np.median(counts)


def test_other_sizes_work_and_too_small_ones_are_refused():
    small = planted_movies(users=3, movies=40)
    assert (len(small.users), len(small.movies)) == (3, 40)
    assert (small.ratings.groupby("user").size() == 20).all()
    with pytest.raises(ConfigError, match="at least 1 user and 40 movies, got 5 and 39"):
        planted_movies(users=5, movies=39)


def share(counts):
    """The share of the most frequent value, averaged over the groups of a table of counts."""
    return (counts.max(axis=1) / counts.sum(axis=1)).mean()


def test_directors_and_actors_lean_to_a_genre_and_languages_do_not(movies):
    first = movies.genres.drop_duplicates("movie")
    joined = movies.knowledge.merge(first, on="movie")
    leaning = {}
    for relation, part in joined.groupby("relation"):
        often = part.groupby("entity").filter(lambda group: len(group) >= 4)
        leaning[relation.rsplit(".")[-1]] = share(pd.crosstab(often["entity"], often["genre"]))
    assert leaning["directed_by"] > 0.5
    assert leaning["actor"] > 0.5
    assert leaning["language"] < 0.25


def test_order_matters(movies):
    """The next movie of a user is of the same genre more often than any other movie of that user."""
    first = movies.genres.drop_duplicates("movie").set_index("movie")["genre"]
    genre = movies.ratings.assign(genre=movies.ratings["movie"].map(first)).sort_values(["user", "time"])
    following = (genre["genre"] == genre.groupby("user")["genre"].shift(-1)).mean()
    shuffled = genre.sample(frac=1.0, random_state=0).sort_values("user", kind="stable")
    anywhere = (shuffled["genre"] == shuffled.groupby("user")["genre"].shift(-1)).mean()
    assert following > 1.1 * anywhere


def test_training_recovers_the_tastes_of_the_planted_movies(movies):
    liked = movies.ratings[movies.ratings["rating"] >= 4]
    frame = liked.rename(columns={"user": "source", "movie": "target"})[["source", "target"]]
    graph = Graph.from_frames({"likes": frame}, [Relation("likes", "user", "movie", sides="target")])
    known, held_out = graph.split(fraction=0.1, seed=0)
    model = train(known, TrainConfig(dim=32, epochs=5))
    hits = evaluate(model, held_out, known=known, sides="target").value("hits@10")
    popular = np.argsort(-known.degrees("movie"))[:40]  # generous: nobody has seen all of the first thirty
    by_popularity = np.isin(held_out.edges["likes"].targets, popular[:10]).mean()
    assert hits > 0.25
    assert hits > 1.5 * by_popularity


def test_blocks_are_blocks():
    graph = planted_blocks(users=40, items=20, blocks=4, degree=5, noise=0.2, seed=1)
    pairs = graph.pairs("likes")
    assert not pairs.duplicated().any()
    assert (pairs.groupby("query").size() == 5).all()
    user, item = (pairs[column].str[1:].astype(int) for column in ("query", "candidate"))
    # Noise hits the own block too: 0.8 + 0.2 / 4 of the edges stay at home, a little less without replacement.
    assert (user % 4 == item % 4).mean() == pytest.approx(0.8, abs=0.1)
    assert graph.pairs("likes").equals(planted_blocks(users=40, items=20, degree=5, noise=0.2, seed=1).pairs("likes"))
