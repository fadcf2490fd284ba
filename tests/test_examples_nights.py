"""The nights of a pipeline: its inputs, and all of it on planted ratings."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")
pytest.importorskip("duckdb")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GENRES = ("Drama", "Comedy", "Horror")


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield importlib.import_module("nights")


@pytest.fixture
def data(example, tmp_path):
    """Users of three kinds like films of one genre each, 40 in 120 days; every fifth rating is low."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(150), 40)
    movie = 3 * rng.integers(0, 110, len(user)) + user % 3
    ratings = pd.DataFrame(
        {"userId": user, "movieId": movie, "rating": np.where(rng.random(len(user)) < 0.2, 2.0, 4.5)}
    )
    ratings["timestamp"] = 1_600_000_000 + rng.integers(0, 120 * 86_400, len(user))
    ratings.drop_duplicates(["userId", "movieId"]).to_csv(tmp_path / "ratings.csv", index=False)
    movies = pd.DataFrame({"movieId": np.arange(330)})
    movies["title"] = "Film " + movies["movieId"].astype(str)
    movies["genres"] = [GENRES[number % 3] for number in movies["movieId"]]
    movies.to_csv(tmp_path / "movies.csv", index=False)
    return example.movielens.load(tmp_path)


def test_a_night_brings_the_likes_before_its_cut_off(example, data, tmp_path):
    days = example.write_inputs(tmp_path, data)
    log = pd.read_parquet(tmp_path / "likes.parquet")
    assert len(log) == (data.ratings["rating"] >= 4).sum()
    assert log["time"].is_monotonic_increasing
    shares = [(log["time"] < pd.Timestamp(day) + pd.Timedelta(days=1)).mean() for day in days]
    np.testing.assert_allclose(shares, example.SHARES, atol=0.01)


def test_damage_moves_films_among_the_newest_likes_alone(example, data, tmp_path):
    example.write_inputs(tmp_path, data)
    before = pd.read_parquet(tmp_path / "likes.parquet")
    example.damage(tmp_path, 0.1)
    after = pd.read_parquet(tmp_path / "likes.parquet")
    first = round(0.9 * len(before))
    pd.testing.assert_frame_equal(after[:first], before[:first])
    assert (after["target"][first:] != before["target"][first:]).mean() > 0.9
    assert sorted(after["target"]) == sorted(before["target"])
    pd.testing.assert_frame_equal(after[["source", "time"]], before[["source", "time"]])


@pytest.mark.slow
def test_three_nights_are_published_and_a_damaged_one_is_stopped(example, data, tmp_path):
    (tmp_path / "work").mkdir()
    lines, report = example.nights(tmp_path / "work", data, kills=1)
    outcomes = {line[0]: line[-1] for line in lines[1:]}
    assert [outcomes[f"night-{number}"] for number in (1, 2, 3)] == ["published"] * 3
    assert outcomes["all-shuffled"].startswith("stopped by links")
    assert [line[1] for line in lines[1:]] == ["-", "night-1", "night-2", "night-2", "night-2"]
    assert report.value("genres roc_auc", name="night-3") > 0.95
    assert {line[0]: line[3] for line in lines[1:]}["night-3"].startswith("0.")
