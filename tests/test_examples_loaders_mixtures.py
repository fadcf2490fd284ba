"""Loaders of the mixture examples, on small files of the data sets' own form, and on the real ones where they are."""

import importlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recokit.errors import ConfigError, DataError

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NO_DATA = pytest.mark.skipif(
    "RECOKIT_DATA" not in os.environ, reason="RECOKIT_DATA names no folder that holds retailrocket/, ml-latest-small/"
)
HOUR = 3600


@pytest.fixture
def loader(monkeypatch):
    """Import a loader as a script in examples/ would find it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return lambda name: importlib.import_module(f"loaders.{name}")


def pairs(frame, columns=("query", "candidate")):
    return set(frame[list(columns)].itertuples(index=False, name=None))


def events(rows):
    return pd.DataFrame(rows, columns=["user", "item", "behavior", "time"])


def test_retailrocket_is_read_as_it_is(loader, tmp_path):
    text = "user\titem\tbehavior\ttimestamp\n7\t30\tbuy\t1433222501\n5\t31\tview\t1433222323\n7\t30\tcart\t1433222400\n"
    (tmp_path / "events.tsv").write_text(text)
    frame = loader("retailrocket").load(tmp_path)
    rows = [(7, 30, "buy", 1433222501), (5, 31, "view", 1433222323), (7, 30, "cart", 1433222400)]
    assert frame.values.tolist() == [list(row) for row in rows]
    assert frame.columns.tolist() == ["user", "item", "behavior", "time"]
    assert (frame[["user", "item", "time"]].dtypes == "int64").all()


def test_what_is_no_retailrocket_is_refused(loader, tmp_path):
    retailrocket = loader("retailrocket")
    with pytest.raises(DataError, match=r"events\.tsv is not there"):
        retailrocket.load(tmp_path)
    (tmp_path / "events.tsv").write_text("user\titem\tbehaviour\ttimestamp\n1\t2\tview\t3\n")
    with pytest.raises(DataError, match=r"events\.tsv has no column 'behavior'; did you mean 'behaviour'\?"):
        retailrocket.load(tmp_path)
    (tmp_path / "events.tsv").write_text("user\titem\tbehavior\ttimestamp\n1\t2\tsell\t3\n1\t2\t\t3\n")
    with pytest.raises(DataError, match=r"behaviors \['', 'sell'\], expected view, cart, buy"):
        retailrocket.load(tmp_path)
    with pytest.raises(ConfigError, match="unknown behavior 'buys': did you mean 'buy'"):
        retailrocket.new_pairs(events([]), events([]), behavior="buys")
    with pytest.raises(ConfigError, match=r"fraction is 0\.5, expected 0 or more and less than 0\.5"):
        retailrocket.split(events([(1, 2, "view", 3)]), fraction=0.5)


@pytest.mark.parametrize(
    ("num", "expected"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (9, (7, 1, 1)), (10, (6, 2, 2)), (15, (9, 3, 3))],
)
def test_whole_visits_are_held_out_by_time(loader, num, expected):
    # Two users, each visit of two events 1,800 seconds apart, which is still the same visit; the next is later.
    rows = [
        (user, 100 * visit + i, "view", 2 * HOUR * visit + 1800 * i + user)
        for user in (1, 2)
        for visit in range(num)
        for i in range(2)
    ]
    frame = events(rows).sample(frac=1.0, random_state=0)
    parts = loader("retailrocket").split(frame)
    begin = 0
    for part, size in zip(parts, expected, strict=True):
        visits = range(begin, begin + size)
        assert pairs(part, ("user", "item")) == {(u, 100 * v + i) for u in (1, 2) for v in visits for i in range(2)}
        assert part.index.tolist() == [row for row in frame.index if row in set(part.index)]
        begin += size
    # With a shorter pause every event is a visit of its own.
    sizes = [len(part) / 2 for part in loader("retailrocket").split(frame, pause=1799)]
    tenth = max(1, 2 * num // 5)
    assert sizes == ([2 * num - 2 * tenth, tenth, tenth] if num > 1 else [1, 0, 1])


def test_new_pairs_are_those_that_the_user_has_in_no_way(loader):
    retailrocket = loader("retailrocket")
    train = events([(1, 10, "view", 0), (1, 11, "buy", 0), (2, 12, "cart", 0)])
    validation = events([(1, 13, "cart", 9)])
    test = events(
        [
            (1, 10, "buy", 20),  # viewed before
            (1, 13, "buy", 20),  # in the cart in the validation part
            (1, 12, "buy", 20),  # another user's
            (1, 99, "buy", 20),
            (1, 99, "buy", 21),
            (1, 98, "view", 20),
            (2, 11, "buy", 20),
            (3, 10, "buy", 20),  # nothing is known of this user
        ]
    )
    assert pairs(retailrocket.new_pairs(test, train, validation, behavior="buy")) == {(1, 12), (1, 99), (2, 11)}
    assert len(retailrocket.new_pairs(test, train, validation, behavior="buy")) == 3
    assert pairs(retailrocket.new_pairs(test, train, behavior="buy")) == {(1, 12), (1, 13), (1, 99), (2, 11)}
    assert pairs(retailrocket.new_pairs(test, train, behavior="view")) == {(1, 98)}
    assert pairs(retailrocket.exclude_pairs(train, validation)) == {(1, 10), (1, 11), (2, 12), (1, 13)}


@NO_DATA
def test_the_counts_of_retailrocket_are_those_of_its_loader(loader):
    retailrocket = loader("retailrocket")
    frame = retailrocket.load(Path(os.environ["RECOKIT_DATA"]) / "retailrocket")
    assert frame["behavior"].value_counts().to_dict() == {"view": 75374, "cart": 12456, "buy": 9551}
    assert (frame["user"].nunique(), frame["item"].nunique()) == (2174, 29905)
    train, validation, test = retailrocket.split(frame)
    assert (len(train), len(validation), len(test)) == (63633, 16569, 17179)
    last = {part: frame.groupby("user")["time"] for part, frame in enumerate((train, validation, test))}
    for earlier, later in ((0, 1), (1, 2), (0, 2)):
        gap = (last[later].min() - last[earlier].max()).dropna()
        assert len(gap) > 900
        assert gap.min() > 1800
    expected = {"view": (1117, 13101, 10134), "cart": (374, 1719, 1398), "buy": (318, 1324, 1106)}
    validated = {"view": (837, 12934, 9476), "cart": (365, 1763, 1351), "buy": (252, 1246, 984)}
    for counts, held_out, known in ((expected, test, [train, validation]), (validated, validation, [train])):
        items = pd.concat(known)["item"].unique()
        for behavior, count in counts.items():
            found = retailrocket.new_pairs(held_out, *known, behavior=behavior)
            assert (found["query"].nunique(), len(found), int(found["candidate"].isin(items).sum())) == count
            assert not pairs(found) & pairs(retailrocket.exclude_pairs(*known))
    # Two in five of those who buy in the test part buy nothing new.
    assert 1 - 318 / test[test["behavior"] == "buy"]["user"].nunique() == pytest.approx(2 / 5, abs=0.01)


@pytest.fixture
def movies(tmp_path):
    """Three movies; titles with commas and quotes, as in the original."""
    lines = [
        "movieId,title,genres",
        '1,"American President, The (1995)",Comedy|Drama|Romance',
        '2,"Misérables, Les (1995)",Drama',
        "3,NA,(no genres listed)",
    ]
    (tmp_path / "movies.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ratings = ["userId,movieId,rating,timestamp", "1,3,4.0,964982703", "1,1,3.5,964981247", "2,2,0.5,964981300"]
    (tmp_path / "ratings.csv").write_text("\n".join(ratings) + "\n")
    return tmp_path


def test_movielens_is_read_as_it_is(loader, movies):
    data = loader("movielens").load(movies)
    assert data.ratings.columns.tolist() == ["user", "movie", "rating", "time"]
    assert data.ratings.values.tolist() == [[1, 3, 4.0, 964982703], [1, 1, 3.5, 964981247], [2, 2, 0.5, 964981300]]
    assert data.ratings.dtypes.astype(str).tolist() == ["int64", "int64", "float64", "int64"]
    assert data.movies["title"].tolist() == ["American President, The (1995)", "Misérables, Les (1995)", "NA"]
    genres = [[1, "Comedy"], [1, "Drama"], [1, "Romance"], [2, "Drama"]]
    assert data.genres.columns.tolist() == ["candidate", "category"]
    assert data.genres.values.tolist() == genres


def test_what_is_no_movielens_is_refused(loader, movies):
    movielens = loader("movielens")
    (movies / "ratings.csv").write_text("userId,movieId,ratings,timestamp\n1,2,3,4\n")
    with pytest.raises(DataError, match=r"ratings\.csv has no column 'rating'; did you mean 'ratings'\?"):
        movielens.load(movies)
    (movies / "movies.csv").unlink()
    (movies / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3,4\n")
    with pytest.raises(DataError, match=r"movies\.csv is not there; the data set is at https://grouplens\.org"):
        movielens.load(movies)


@pytest.mark.parametrize(
    ("num", "expected"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (20, (16, 2, 2)), (29, (25, 2, 2))]
)
def test_the_last_ratings_are_held_out(loader, num, expected):
    time = np.arange(num) // 3  # of three in one second the later row is the later one
    frame = pd.DataFrame({"user": np.repeat([4, 9], num), "movie": np.tile(np.arange(num), 2), "rating": 4.0})
    frame["time"] = np.tile(time, 2)
    mixed = frame.sort_values(["time", "movie", "user"], ascending=[False, True, True])
    parts = loader("movielens").split(mixed)
    begin = 0
    for part, size in zip(parts, expected, strict=True):
        assert pairs(part, ("user", "movie")) == {(user, begin + i) for user in (4, 9) for i in range(size)}
        begin += size


def test_positives_have_four_stars_and_whatever_was_rated_is_excluded(loader):
    movielens = loader("movielens")
    rows = [(1, 10, 4.0, 0), (1, 11, 3.5, 1), (2, 10, 5.0, 2)]
    ratings = pd.DataFrame(rows, columns=["user", "movie", "rating", "time"])
    assert pairs(movielens.positive_pairs(ratings)) == {(1, 10), (2, 10)}
    assert pairs(movielens.exclude_pairs(ratings.iloc[:1], ratings.iloc[1:])) == {(1, 10), (1, 11), (2, 10)}


@NO_DATA
def test_the_counts_of_movielens_are_those_of_its_loader(loader):
    movielens = loader("movielens")
    data = movielens.load(Path(os.environ["RECOKIT_DATA"]) / "ml-latest-small")
    assert (len(data.ratings), data.ratings["user"].nunique(), len(data.movies)) == (100836, 610, 9742)
    assert (data.genres["category"].nunique(), data.genres["candidate"].nunique()) == (19, 9742 - 34)
    train, validation, test = movielens.split(data.ratings)
    assert (len(train), len(validation), len(test)) == (81200, 9818, 9818)
    assert len(movielens.positive_pairs(data.ratings)) == 48580
    for part, count in ((test, (4634, 559)), (validation, (4429, 555))):
        found = movielens.positive_pairs(part)
        assert (len(found), found["query"].nunique()) == count
    for earlier, later in ((train, validation), (validation, test)):
        gap = later.groupby("user")["time"].min() - earlier.groupby("user")["time"].max()
        assert gap.min() >= 0
