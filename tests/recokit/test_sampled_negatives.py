"""Sampled negatives: who can be drawn, how often, in which context, and what is refused."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from recokit.errors import ConfigError, DataError
from recokit.frame import SampledNegatives, sample_negatives

NAMES = {"column": "item", "query": "user"}


def likes(**columns) -> pd.DataFrame:
    return pd.DataFrame({"user": ["u", "u", "v"], "item": [1, 2, 3], **columns})


def test_a_negative_is_its_positive_with_another_item_and_that_items_attributes():
    catalog = pd.DataFrame({"item": [1, 2, 3, 4], "genre": ["a", "b", "c", "d"], "year": [10, 20, 30, 40]})
    positives = likes(hour=[7, 8, 9], year=[11, 21, 31])  # the year as it was then
    found = sample_negatives(positives, catalog, **NAMES, ratio=2, seed=0)
    assert found.columns.tolist() == ["user", "item", "hour", "year", "genre", "label"]
    assert found["label"].tolist() == [1, 0, 0] * 3
    assert found["user"].tolist() == ["u"] * 6 + ["v"] * 3
    assert found["hour"].tolist() == [7] * 3 + [8] * 3 + [9] * 3
    positive = found[found["label"] == 1]
    assert positive["item"].tolist() == [1, 2, 3]
    assert positive["year"].tolist() == [11, 21, 31]
    assert positive["genre"].tolist() == ["a", "b", "c"]  # only the catalog knows it
    negative = found[found["label"] == 0]
    assert negative["year"].tolist() == [10 * item for item in negative["item"]]
    assert negative["genre"].tolist() == ["abcd"[item - 1] for item in negative["item"]]
    assert set(negative.loc[negative["user"] == "u", "item"]) <= {3, 4}
    assert set(negative.loc[negative["user"] == "v", "item"]) <= {1, 2, 4}


def planted(num_users=40, num_items=30, seed=1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    liked = random.random((num_users, num_items)) < np.linspace(0.02, 0.6, num_items)
    user, item = np.nonzero(liked)
    return pd.DataFrame({"user": user, "item": item})


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
def test_no_known_positive_is_ever_drawn_and_the_others_as_often_as_they_should(distribution):
    positives = planted()
    settings = {"distribution": distribution, "power": 0.75}
    found = sample_negatives(positives, range(30), **NAMES, ratio=300, seed=3, **settings)
    popularity = np.bincount(positives["item"], minlength=30)
    weights = popularity**0.75 if distribution == "popularity" else np.ones(30)
    negatives = found[found["label"] == 0]
    for user, rows in negatives.groupby("user"):
        allowed = weights.copy()
        allowed[positives.loc[positives["user"] == user, "item"]] = 0
        expected = allowed / allowed.sum()
        counts = np.bincount(rows["item"], minlength=30)
        assert counts[expected == 0].sum() == 0
        # Six standard deviations of a binomial share
        spread = 6 * np.sqrt(expected * (1 - expected) / len(rows))
        assert (np.abs(counts / len(rows) - expected) <= spread + 1e-12).all()


def test_the_seed_alone_decides_the_draws():
    positives = planted()
    draw = [sample_negatives(positives, range(30), **NAMES, ratio=3, seed=seed) for seed in (5, 5, 6)]
    pd.testing.assert_frame_equal(draw[0], draw[1])
    assert (draw[0]["item"] != draw[2]["item"]).any()


def test_further_known_positives_are_left_out_too_but_are_not_popular_by_it():
    positives, more = likes(), pd.DataFrame({"user": ["v", "v", "w"], "item": [1, 2, 4]})
    found = sample_negatives(positives, [1, 2, 3, 4], **NAMES, ratio=50, seed=0, exclude=more)
    assert set(found.loc[found["label"].eq(0) & found["user"].eq("v"), "item"]) == {4}
    for power in (1, 0):
        popular = {"distribution": "popularity", "power": power}
        found = sample_negatives(positives, [1, 2, 3, 4], **NAMES, ratio=50, seed=0, **popular)
        assert set(found.loc[found["label"].eq(0) & found["user"].eq("u"), "item"]) == {3}  # nobody likes 4


def test_a_query_that_likes_nearly_everything_gets_what_is_left():
    positives = pd.DataFrame({"user": 0, "item": range(2000)})
    found = sample_negatives(positives, range(2003), **NAMES, ratio=1, seed=0)
    drawn = found.loc[found["label"] == 0, "item"]
    assert set(drawn) == {2000, 2001, 2002}
    assert drawn.value_counts().between(667 - 130, 667 + 130).all()  # six standard deviations of 21


def test_a_query_that_likes_everything_is_refused():
    with pytest.raises(DataError, match="user 'u' has all 2 items that could be drawn"):
        sample_negatives(likes(), [1, 2], **NAMES, ratio=1, seed=0)
    only = pd.DataFrame({"user": ["u", "v"], "item": [1, 1]})
    with pytest.raises(DataError, match="'u' has all 1 items"):  # 2 has no positive, so popularity never draws it
        sample_negatives(only, [1, 2], **NAMES, ratio=1, seed=0, distribution="popularity")


def test_a_sampler_that_has_read_several_frames_knows_the_positives_of_all():
    positives = planted()
    parts = [positives.iloc[:100], positives.iloc[100:]]
    settings = SampledNegatives(range(30), **NAMES, ratio=2, distribution="popularity")
    whole, piecewise = settings.sampler([positives]), settings.sampler(parts)
    for part in parts:
        pd.testing.assert_frame_equal(
            *(sampler.sample(part, np.random.default_rng(0), label="y") for sampler in (whole, piecewise))
        )


@pytest.mark.parametrize("dtype", ["object", "string", "category", "str", "string[pyarrow]"])
def test_strings_of_every_dtype_will_do(dtype):
    positives = pd.DataFrame({"user": [1, 1, 2], "item": ["a", "b", "a"]}).astype({"item": dtype})
    found = sample_negatives(positives, ["a", "b", "c"], **NAMES, ratio=4, seed=0)
    assert found["item"].iloc[[0, 5, 10]].tolist() == ["a", "b", "a"]
    assert set(found.loc[found["user"].eq(1) & found["label"].eq(0), "item"]) == {"c"}
    assert set(found.loc[found["user"].eq(2) & found["label"].eq(0), "item"]) == {"b", "c"}


def test_empty_positives_give_an_empty_frame():
    found = sample_negatives(likes().head(0), [1, 2], **NAMES, ratio=2, seed=0)
    assert found.columns.tolist() == ["user", "item", "label"]
    assert len(found) == 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"ratio": 0}, ConfigError, "ratio is 0"),
        ({"power": -1}, ConfigError, "power is -1"),
        ({"distribution": "popular"}, ConfigError, "did you mean 'popularity'"),
        ({"query": "item"}, ConfigError, "query and column are both 'item'"),
        ({"query": "users"}, DataError, "no column 'users'.*'user'"),
        ({"catalog": []}, DataError, "the catalog has no items"),
        ({"catalog": [1, 1]}, DataError, "catalog's column 'item'.*1"),
        ({"catalog": ["a"]}, DataError, "column 'item': got int64 ids, expected string"),
        ({"catalog": [7, 8], "distribution": "popularity"}, DataError, "no item of the catalog has a positive"),
        (
            {"catalog": pd.DataFrame({"item": [1, 8, 9], "genre": list("xyz")})},
            DataError,
            "item 2 is not in the catalog",
        ),
        ({"exclude": pd.DataFrame({"user": ["u"]})}, DataError, "no column 'item'"),
        ({"exclude": pd.DataFrame({"user": [1], "item": [1]})}, DataError, "'user' holds int64 in some rows"),
        ({"positives": likes(label=[1, 0, 1])}, DataError, "1 of 3 rows .* have a 'label' that is not 1"),
        ({"positives": likes().assign(item=[1, None, 2])}, DataError, "'item': 1 of 3 are null"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(changes, error, message):
    settings = {"positives": likes(), "catalog": [1, 2, 3, 4], **NAMES, "ratio": 1, "seed": 0} | changes
    with pytest.raises(error, match=message):
        sample_negatives(settings.pop("positives"), settings.pop("catalog"), **settings)


def test_two_samplings_are_told_apart():
    base = SampledNegatives([1, 2], **NAMES)
    others = [
        SampledNegatives([1, 3], **NAMES),
        SampledNegatives([1, 2], **NAMES, ratio=3),
        SampledNegatives([1, 2], **NAMES, exclude=likes()),
        SampledNegatives([1, 2], **NAMES, power=0.5),
    ]
    assert all(other.identity() != base.identity() for other in others)
    assert SampledNegatives(np.array([1, 2]), **NAMES).identity() == base.identity()


def test_drawing_needs_no_torch():
    code = "import sys, recokit.frame.negatives; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_catalog_with_the_querys_column_is_refused():
    likes = pd.DataFrame({"user": [1, 1, 2], "movie": [10, 11, 12]})
    with pytest.raises(ConfigError, match="the catalog has the query's column 'user'"):
        sample_negatives(likes, likes, column="movie", query="user", ratio=1, seed=0)


def test_attributes_of_the_catalog_tell_negatives_apart():
    catalog = pd.DataFrame({"movie": [10, 11, 12], "price": [1.0, 2.0, 3.0]})
    settings = {"column": "movie", "query": "user"}
    mine = SampledNegatives(catalog, **settings).identity()
    assert mine == SampledNegatives(catalog.copy(), **settings).identity()
    assert mine != SampledNegatives(catalog.assign(price=[1.0, 2.0, 4.0]), **settings).identity()
