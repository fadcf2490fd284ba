"""Frames become arrays: rows, codes, standardised numbers, lists."""

import base64
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from recokit.errors import ConfigError, DataError
from recokit.features import Bag, FeatureSpec, Pretrained, take
from recokit.id_hash import hash_ids
from recokit.overlap import edge_sketch
from recokit.table import EmbeddingTable, Mixture, PQTable


def table(ids, entity: str = "user", dim: int = 2) -> EmbeddingTable:
    return EmbeddingTable.from_arrays(ids, np.ones((len(ids), dim), np.float32), entity=entity, version="v1")


USERS, ITEMS = table(["u1", "u2", "u3"]), table([10, 20], "item")
TRAIN = pd.DataFrame(
    {
        "user": ["u3", "nobody", "u1", None],
        "item": pd.array([20, 10, 30, None], dtype="Int64"),
        "age": [10.0, 20.0, 30.0, 40.0],
        "score": [5, 5, 5, 5],
        "country": ["US", "DE", "US", "FR"],
        "genres": [["war", "love"], [], None, ["war"]],
        "clicks": [[20, 99], [10], [], [20, 20]],
        "clicked": [True, False, True, False],
        "session": ["b", "a", "b", None],
        "w": [1.0, 0.0, 2.0, 0.5],
    }
)


def spec(**changes) -> FeatureSpec:
    settings = {
        "pretrained": [Pretrained("user", USERS), Pretrained("item", ITEMS)],
        "dense": ["age", "score"],
        "categorical": {"country": np.int64(2), "item": [30, 20]},
        "bags": [Bag("genres", 1), Bag("clicks", ITEMS, name="history")],
        "label": "clicked",
        "group": "session",
        "weight": "w",
    }
    return FeatureSpec(**settings | changes)


def test_every_kind_of_feature_becomes_the_array_it_should():
    batch = spec().fit(TRAIN).batch(TRAIN)
    assert batch.rows["user"].tolist() == [2, -1, 0, -1]
    assert batch.rows["item"].tolist() == [1, 0, -1, -1]
    # mean 25, variance (15² + 5² + 5² + 15²) / 4 = 125; a constant feature becomes 0 and not NaN
    np.testing.assert_allclose(batch.dense, [[x / 125**0.5, 0] for x in (-15, -5, 5, 15)], rtol=1e-6)
    assert batch.dense.dtype == np.float32
    # US comes twice, of DE and FR the smaller is kept; 30 and 20 in the order of the given vocabulary
    assert batch.categorical["country"].tolist() == [1, 2, 1, 0]
    assert batch.categorical["item"].tolist() == [2, 0, 1, 0]
    assert [part.tolist() for part in batch.bags["genres"]] == [[1, 0, 1], [0, 2, 2, 2, 3]]
    assert [part.tolist() for part in batch.bags["history"]] == [[1, -1, 0, 1, 1], [0, 2, 3, 3, 5]]
    assert batch.labels is not None
    assert batch.labels.tolist() == [[1], [0], [1], [0]]
    assert batch.group is not None
    assert batch.group.tolist() == [0, 1, 0, -1]
    assert batch.weight is not None
    assert batch.weight.tolist() == [1, 0, 2, 0.5]
    assert len(batch) == 4


def test_new_rows_are_read_with_what_was_learned_from_training_rows():
    fitted = spec(bags=[]).fit(TRAIN)
    new = pd.DataFrame({"user": ["u2"], "item": [10], "age": [25.0], "score": [6], "country": ["BR"]})
    batch = fitted.batch(new, labels=False)
    np.testing.assert_allclose(batch.dense, [[0.0, 1.0]])  # (25 - 25) / sqrt(125) and (6 - 5) / 1
    assert batch.categorical["country"].tolist() == [0]
    assert (batch.labels, batch.group, batch.weight) == (None, None, None)


def test_fitting_returns_a_new_spec():
    unfitted = spec()
    assert unfitted.fit(TRAIN).statistics is not None
    assert unfitted.statistics is None
    with pytest.raises(ConfigError, match=r"spec = spec\.fit\(train\)"):
        unfitted.batch(TRAIN)


def test_a_spec_with_nothing_to_learn_is_ready():
    ready = FeatureSpec(pretrained=[Pretrained("user", USERS)], categorical={"country": ["DE"]}, label="clicked")
    assert ready.batch(TRAIN).categorical["country"].tolist() == [0, 1, 0, 0]


def test_missing_numbers_are_refused_or_stand_at_the_mean_beside_an_indicator():
    gaps = TRAIN.assign(age=[10.0, None, 30.0, None])
    with pytest.raises(DataError, match=r"'age' is missing in 2 of 4 rows.*missing='indicator'"):
        spec().fit(gaps)
    fitted = spec(missing="indicator", bags=[]).fit(gaps)
    # mean 20, standard deviation 10; then the indicators of age and of score
    assert fitted.batch(gaps).dense.tolist() == [[-1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    assert fitted.dense_width == 4


def test_one_column_may_carry_several_tables():
    both = FeatureSpec(pretrained=[Pretrained("user", USERS), Pretrained("user", table(["u3"]), name="follow")])
    rows = both.batch(TRAIN).rows
    assert (rows["user"].tolist(), rows["follow"].tolist()) == ([2, -1, 0, -1], [0, -1, -1, -1])
    assert len(both.tables) == 2


def test_coverage_is_the_share_of_known_ids():
    assert spec().coverage(TRAIN) == {"user": 2 / 4, "item": 2 / 4}


@pytest.mark.parametrize("dtype", ["object", "string", "category", "str"])
def test_the_dtype_of_a_string_column_does_not_matter(dtype):
    frame = TRAIN.assign(user=TRAIN["user"].astype(dtype), country=TRAIN["country"].astype(dtype))
    if dtype == "str" and pd.__version__ < "3":
        frame["user"] = TRAIN["user"]  # pandas 2 spells a missing value "None"
    fitted = spec().fit(frame)
    assert fitted.batch(frame).rows["user"].tolist() == [2, -1, 0, -1]
    assert fitted.batch(frame).categorical["country"].tolist() == [1, 2, 1, 0]


def test_taking_rows_of_a_batch_is_the_batch_of_those_rows():
    fitted = spec().fit(TRAIN)
    positions = np.random.default_rng(0).integers(0, len(TRAIN), 50)
    taken, expected = take(fitted.batch(TRAIN), positions), fitted.batch(TRAIN.iloc[positions])
    np.testing.assert_array_equal(taken.dense, expected.dense)
    np.testing.assert_array_equal(taken.labels, expected.labels)
    np.testing.assert_array_equal(taken.rows["item"], expected.rows["item"])
    for name in ("genres", "history"):
        for ours, theirs in zip(taken.bags[name], expected.bags[name], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert [part.tolist() for part in take(taken, np.array([], dtype=int)).bags["history"]] == [[], [0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrained": [Pretrained("user", USERS), Pretrained("user", USERS)]}, "two features are called 'user'"),
        (
            {"pretrained": [Pretrained("user", USERS, usage="sum")]},
            "'user' is to be summed .* not among",
        ),
        ({"dense": ["age", "clicked"]}, "'clicked' is a label and a feature"),
        ({"categorical": {"country": 0}}, "vocabulary of 'country' is 0"),
        ({"categorical": {"country": "DE"}}, "vocabulary of 'country' is 'DE'"),
        ({"dense": "age"}, "'age' is one name"),
        ({"missing": "mean"}, "missing of 'the spec' is 'mean'"),
        ({"pretrained": [], "dense": [], "categorical": {}, "bags": []}, "reads no feature"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        spec(**changes)


def test_choices_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="usage of 'user' is 'summ'; did you mean 'sum'"):
        Pretrained("user", USERS, usage="summ")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown of 'user' is 'mean'"):
        Pretrained("user", USERS, unknown="mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pooling of 'clicks' is 'max'"):
        Bag("clicks", ITEMS, pooling="max")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"the vocabulary of 'country'.*more than once"):
        spec(categorical={"country": ["DE", "DE"]}).fit(TRAIN)
    with pytest.raises(DataError, match="the vocabulary of 'country' has 1 missing"):
        spec(categorical={"country": ["DE", None]}).fit(TRAIN)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (TRAIN.drop(columns="user"), "no column 'user'"),
        (TRAIN.rename(columns={"user": "users"}), "no column 'user'; did you mean 'users'"),
        (TRAIN.assign(user=[1, 2, 3, 4]), "column 'user'.*string"),
        (TRAIN.assign(item=[1.0, 2.0, 3.0, None]), "column 'item'"),
        (TRAIN.assign(country=[1, 2, 3, 4]), "column 'country'.*string"),
        (TRAIN.assign(age=["1", "2", "3", "4"]), "column 'age' is (str|object), expected numbers"),
        (TRAIN.assign(age=[1.0, 2.0, 3.0, np.inf]), "column 'age' has 1 infinite"),
        (TRAIN.assign(genres=["war", "war", "war", "war"]), "column 'genres' holds .*string.* a list"),
        (TRAIN.assign(clicked=[0, 1, 2, 0]), "label 'clicked' has 1 values that are neither 0 nor 1, such as 2"),
        (TRAIN.assign(clicked=[0, 1, None, 0]), "label 'clicked' has 1 values .* such as nan"),
        (TRAIN.assign(w=[1, -1, 1, 1]), "weight 'w' has 1 values that are negative"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(frame, message):
    with pytest.raises(DataError, match=message):
        spec().fit(TRAIN).batch(frame)


def test_training_rows_that_teach_nothing_are_refused():
    with pytest.raises(DataError, match="no rows"):
        spec().fit(TRAIN.head(0))
    with pytest.raises(DataError, match="'country' is missing in every training row"):
        spec().fit(TRAIN.assign(country=None))
    with pytest.raises(DataError, match="'age' is missing in every training row"):
        spec(missing="indicator").fit(TRAIN.assign(age=np.nan))


def test_features_do_not_import_torch():
    code = "import sys, recokit.features, recokit.overlap; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("values", [[0.1] * 1000, [0.3, 0.1 + 0.2] * 500, [0.0] * 4, [np.nan, 0.1, 0.1, 0.1]])
def test_a_constant_feature_has_a_deviation_of_one(values):
    frame = pd.DataFrame({"x": values})
    fitted = FeatureSpec(dense=["x"], missing="indicator").fit(frame)
    assert fitted.statistics.std == (1.0,)
    later = pd.DataFrame({"x": [values[-1] + 0.1]})
    assert fitted.batch(later).dense[0, 0] == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("values", [[1.7e9, 1.7e9 + 1], [1e-30, 3e-30]])
def test_a_small_deviation_is_kept(values):
    fitted = FeatureSpec(dense=["x"]).fit(pd.DataFrame({"x": values}))
    assert fitted.batch(pd.DataFrame({"x": values})).dense.ravel().tolist() == pytest.approx([-1, 1])


@pytest.mark.parametrize("name", ["user", "age", "genres", "country", "clicked", "session", "w"])
def test_two_columns_of_one_name_are_refused(name):
    twice = pd.concat([TRAIN, TRAIN[[name]]], axis=1)
    with pytest.raises(DataError, match=f"2 columns called '{name}'"):
        spec().fit(TRAIN).batch(twice)


# --- tables of other kinds, indicators, weights, hashes ---------------------------------------------------------------


CODES = PQTable.from_arrays(
    [20, 30], np.array([[0, 1], [1, 0]], np.uint8), np.ones((2, 2, 1), np.float32), entity="item", version="v1"
)
MIXTURE = Mixture.from_rows(["u1", "u9"], np.array([[0, 1], [1, -1]]), components=ITEMS, entity="user")


def test_ids_are_looked_up_in_tables_of_every_kind():
    features = FeatureSpec(
        [Pretrained("item", CODES), Pretrained("user", MIXTURE, name="tastes")],
        bags=[Bag("clicks", CODES), Bag("friends", MIXTURE)],
    )
    batch = features.batch(TRAIN.assign(friends=[["u9", "u1"], [], ["x"], None]))
    assert batch.rows["item"].tolist() == [0, -1, 1, -1]
    assert batch.rows["tastes"].tolist() == [-1, -1, 0, -1]
    assert batch.bags["clicks"][0].tolist() == [0, -1, -1, 0, 0]
    assert [part.tolist() for part in batch.bags["friends"]] == [[1, 0, -1], [0, 2, 2, 3, 3]]
    assert features.tables == (CODES, MIXTURE)
    assert features.coverage(TRAIN) == {"item": 2 / 4, "tastes": 1 / 4}


def test_an_indicator_says_which_ids_are_known():
    features = spec(
        pretrained=[
            Pretrained("user", USERS, unknown="indicator"),
            Pretrained("item", CODES, name="i", unknown="indicator"),
        ],
        missing="indicator",
    ).fit(TRAIN)
    assert features.dense_names == (
        *("age", "score", "age is missing", "score is missing"),
        *("user is known", "i is known"),
    )
    assert features.dense_width == 6
    assert features.batch(TRAIN).dense[:, 4:].tolist() == [[1, 1], [0, 0], [1, 1], [0, 0]]
    alone = FeatureSpec([Pretrained("user", USERS, unknown="indicator")])
    assert alone.batch(TRAIN).dense.tolist() == [[1], [0], [1], [0]]


def test_values_of_a_bag_may_weigh_differently():
    rows = TRAIN.assign(recency=[[0.5, 2], [1], [], [0, 3.5]])
    features = FeatureSpec(bags=[Bag("clicks", ITEMS, weights="recency"), Bag("genres", ["war"])])
    batch = features.batch(rows)
    assert {name: weights.tolist() for name, weights in batch.bag_weights.items()} == {"clicks": [0.5, 2, 1, 0, 3.5]}
    assert batch.bag_weights["clicks"].dtype == np.float32
    positions = np.random.default_rng(0).integers(0, 4, 30)
    taken, expected = take(batch, positions), features.batch(rows.iloc[positions])
    np.testing.assert_array_equal(taken.bag_weights["clicks"], expected.bag_weights["clicks"])
    np.testing.assert_array_equal(taken.bags["genres"][0], expected.bags["genres"][0])
    integers = features.batch(TRAIN.assign(recency=[[1, 2], [3], None, [4, 5]]))
    assert integers.bag_weights["clicks"].tolist() == [1, 2, 3, 4, 5]
    assert features.batch(rows.iloc[2:3]).bag_weights["clicks"].tolist() == []


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[1, 2], [1, 1], [], [1, 2]], "column 'recency' has 2 weights in row 1, column 'clicks' 1 values"),
        ([[1, 2], [1], [], [1, -2]], "weight 'recency' has 1 values that are negative or not finite, such as -2"),
        ([[1, 2], [np.nan], [], [1, 2]], "weight 'recency' has 1 values .* such as nan"),
        ([["a", "b"], ["a"], [], ["a", "b"]], "column 'recency' holds lists of string, expected lists of numbers"),
        ([1.0, 1.0, 1.0, 1.0], "column 'recency' holds double"),
    ],
)
def test_weights_that_do_not_fit_their_values_are_refused(weights, message):
    features = FeatureSpec(bags=[Bag("clicks", ITEMS, weights="recency")])
    with pytest.raises(DataError, match=message):
        features.batch(TRAIN.assign(recency=weights))


def test_hashed_ids_need_no_vocabulary_and_never_change():
    features = FeatureSpec(hashed=["item", "user"], label="clicked")
    assert features.statistics is not None
    hashed = features.batch(TRAIN).hashed
    # splitmix64 of 20, 10, 30, and of the FNV-1a of "u3", "nobody", "u1", without the lowest bit; -1 where missing
    assert hashed["item"].tolist() == [_splitmix64(20) >> 1, _splitmix64(10) >> 1, _splitmix64(30) >> 1, -1]
    assert hashed["user"].tolist() == [*(_splitmix64(_fnv1a(name)) >> 1 for name in ("u3", "nobody", "u1")), -1]
    assert take(features.batch(TRAIN), np.array([1, 1])).hashed["item"].tolist() == [hashed["item"][1]] * 2


def _splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def _fnv1a(text: str) -> int:
    x = 0xCBF29CE484222325
    for byte in text.encode():
        x = ((x ^ byte) * 0x100000001B3) % 2**64
    return x


def test_ids_hash_as_the_sketches_of_edges_hash_them():
    """Of one edge: the sketch keeps splitmix64(hash(source) + golden * hash(target))."""
    for source, target in ((3, "a"), ("ü", 2**62)):
        edge = (int(hash_ids([source])[0]) + 0x9E3779B97F4A7C15 * int(hash_ids([target])[0])) % 2**64
        kept = np.frombuffer(base64.b64decode(edge_sketch([source], [target])["hashes"]), "<u8")
        assert kept.tolist() == [_splitmix64(edge)]


def test_reprs_stay_short():
    features = spec(
        pretrained=[Pretrained("user", MIXTURE, name="t", pooling="max", target="item"), Pretrained("item", ITEMS)],
        categorical={"country": ["DE", "FR"], "item": list(range(1000))},
        bags=[Bag("clicks", CODES, weights="w"), Bag("genres", [str(i) for i in range(1000)], pooling="sum")],
        hashed=["ip"],
        weight=None,
    )
    assert repr(features) == (
        "FeatureSpec(pretrained=[Pretrained('user', <mixture 'user' of 'v1': 2 x 2>, name='t', pooling='max', "
        "target='item'), Pretrained('item', <vectors 'item' of 'v1': 2 x 2>)], dense=['age', 'score'], "
        "categorical={'country': ['DE', 'FR'], 'item': <1000 values>}, bags=[Bag('clicks', <codes 'item' of 'v1': "
        "2 x 2>, weights='w'), Bag('genres', <1000 values>, pooling='sum')], hashed=['ip'], label='clicked', "
        "group='session', not fitted)"
    )
    assert len(repr(spec().fit(TRAIN).statistics)) < 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"table": "users"}, "table of feature 'user' is a str, expected an EmbeddingTable, a PQTable or a Mixture"),
        ({"table": USERS, "pooling": "max"}, "has pooling='max'.*which are for mixtures"),
        ({"table": CODES, "target": "item"}, "target='item'.*which are for mixtures"),
        ({"table": MIXTURE, "usage": "init"}, "several vectors for each id"),
        ({"table": MIXTURE, "pooling": "max"}, "the other poolings need one"),
        ({"table": MIXTURE, "target": "item"}, "'mean' takes no target"),
        ({"table": MIXTURE, "pooling": "softmax"}, "pooling of 'user' is 'softmax'; did you mean 'smoothmax'"),
        ({"table": MIXTURE, "pooling": "max", "target": "x", "temperature": 0}, "temperature=0, expected more than 0"),
    ],
)
def test_pretrained_features_that_contradict_themselves_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Pretrained("user", **settings)


def test_features_that_do_not_fit_each_other_are_refused():
    def with_target(target: str, *others: Pretrained) -> FeatureSpec:
        return FeatureSpec([Pretrained("user", MIXTURE, pooling="max", target=target), *others])

    with pytest.raises(ConfigError, match=r"target of 'user' is 'items', which is no pretrained feature.*'item'"):
        with_target("items", Pretrained("item", ITEMS))
    with pytest.raises(ConfigError, match="one vector of dim 2 for each id"):
        with_target("item", Pretrained("item", table([10], "item", dim=3)))
    with pytest.raises(ConfigError, match=r"target of 'user' is 'user'.*one vector of dim 2"):
        with_target("user")
    with pytest.raises(ConfigError, match="'ip' is one name"):
        FeatureSpec(hashed="ip")
    with pytest.raises(ConfigError, match="two features are called 'ip'"):
        FeatureSpec(hashed=["ip"], categorical={"ip": 3})
    with pytest.raises(ConfigError, match="'ip' is a label and a feature"):
        FeatureSpec(hashed=["ip"], label="ip")
    with pytest.raises(ConfigError, match="'w' is a label and a feature"):
        FeatureSpec(bags=[Bag("clicks", ITEMS, weights="w")], label="w")
    FeatureSpec([Pretrained("item", ITEMS, usage="sum")], hashed=["item"])  # a trainable vector to be added to
