"""Eq. 3 of TwHIN: by hand, and against plain dictionaries over random logs."""

import math
from collections import defaultdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recokit import EmbeddingTable, Mixture
from recokit.errors import ConfigError, DataError, VersionError
from recokit.mixture import InterestClusters
from recokit.mixture.engagement import half_life_of, number_ids
from recokit.overlap import estimate_overlap

DAY = 86400
AXES = np.eye(4, dtype=np.float32)


def vectors_of(entity, vectors, ids=None, version="v1", comparator="cos"):
    ids = [f"{entity}{row}" for row in range(len(vectors))] if ids is None else ids
    return EmbeddingTable.from_arrays(
        ids, np.asarray(vectors, np.float32), entity=entity, version=version, comparator=comparator
    )


CLUSTERS = InterestClusters(
    vectors_of("item-cluster", AXES, ["A", "B", "C", "D"]), vectors_of("item-cluster", 2 * AXES, ["A", "B", "C", "D"])
)
# Items a0, a1 of cluster A, and so on; z has no direction.
ITEMS = vectors_of(
    "item",
    np.concatenate([AXES, 3 * AXES + 0.1, np.zeros((1, 4))]),
    ["a0", "b0", "c0", "d0", "a1", "b1", "c1", "d1", "z"],
)


def frame(*rows):
    return pd.DataFrame(rows, columns=["source", "target", "weight", "time"][: len(rows[0])])


def shares(mixture):
    """Source to [(cluster's id, weight), ...] in the mixture's order."""
    names = mixture.components.ids.to_pylist()
    return {
        source: [(names[row], round(float(weight), 6)) for row, weight in zip(rows, weights, strict=True) if row >= 0]
        for source, rows, weights in zip(mixture.ids.to_pylist(), mixture.component_rows, mixture.weights, strict=True)
    }


def by_dictionary(log, items, clusters, *, top, half_life=None, now=None):
    """Equation 3, written straight from the paper, in float64."""
    members = dict(zip(items.ids.to_pylist(), clusters.assign(items.vectors).tolist(), strict=True))
    sums = defaultdict(lambda: defaultdict(float))
    for row in log.to_dict("records"):
        cluster = members.get(row["target"], -1)
        weight = row.get("weight", 1.0)
        if half_life is not None:
            weight *= 2.0 ** -((now - row["time"]) / half_life)
        if cluster >= 0 and weight > 0:
            sums[row["source"]][cluster] += weight
    expected = {}
    for source, of_source in sums.items():
        # Sums that are equal in float32 count as equal.
        largest = max(of_source.values())
        order = sorted(of_source, key=lambda cluster: (-np.float32(of_source[cluster] / largest), cluster))[:top]
        total = math.fsum(of_source[cluster] for cluster in order)
        expected[source] = [(cluster, of_source[cluster] / total) for cluster in order]
    return expected


def assert_same(mixture, expected):
    assert mixture.ids.to_pylist() == sorted(expected)
    for source, rows, weights in zip(mixture.ids.to_pylist(), mixture.component_rows, mixture.weights, strict=True):
        wanted = expected[source]
        assert rows.tolist() == [row for row, _ in wanted] + [-1] * (len(rows) - len(wanted)), source
        np.testing.assert_allclose(weights[: len(wanted)], [weight for _, weight in wanted], rtol=1e-5, atol=1e-9)


def test_equation_3_by_hand():
    log = frame(("u", "a0"), ("u", "b0"), ("u", "a1"), ("u", "c0"), ("u", "b1"), ("u", "a0"), ("v", "d1"))
    mixture = CLUSTERS.transform(log, ITEMS, top=2)
    # u engages with A three times, with B twice, with C once; C is beyond the top two and counts nothing.
    assert shares(mixture) == {"u": [("A", 0.6), ("B", 0.4)], "v": [("D", 1.0)]}
    assert mixture.component_rows.tolist() == [[0, 1], [3, -1]]
    assert (mixture.entity, mixture.version, mixture.components_name) == ("user", "v1", "item-clusters")
    assert mixture.components is CLUSTERS.centroids
    np.testing.assert_array_equal(mixture.vectors_at(np.array([0]))[0], AXES[:2])


def test_medoids_stand_for_clusters_where_they_are_asked_for():
    mixture = CLUSTERS.transform(frame(("u", "b0")), ITEMS, vectors="medoid")
    assert mixture.components is CLUSTERS.medoids
    np.testing.assert_array_equal(mixture.vectors_at(np.array([0]))[0, 0], 2 * AXES[1])
    with pytest.raises(ConfigError, match="made without medoids"):
        InterestClusters(CLUSTERS.centroids).transform(frame(("u", "b0")), ITEMS, vectors="medoid")


def test_ties_go_to_the_smaller_cluster():
    log = frame(("u", "d0"), ("u", "c0"), ("u", "b0"), ("u", "d1"))
    assert shares(CLUSTERS.transform(log, ITEMS, top=2)) == {"u": [("D", round(2 / 3, 6)), ("B", round(1 / 3, 6))]}
    # 0.1 + 0.2 is not 0.3 in binary, and is all the same.
    tied = frame(("u", "c0", 0.1), ("u", "c1", 0.2), ("u", "b0", 0.3), ("u", "d0", 0.3))
    assert shares(CLUSTERS.transform(tied, ITEMS, top=2)) == {"u": [("B", 0.5), ("C", 0.5)]}
    assert shares(CLUSTERS.transform(tied[::-1], ITEMS, top=1)) == {"u": [("B", 1.0)]}


def test_what_is_not_known_is_passed_over_and_counted():
    log = frame(("u", "a0"), ("u", "never-seen"), ("w", "never-seen"), ("x", "z"), ("y", "b0"))
    mixture = CLUSTERS.transform(log, ITEMS)
    assert shares(mixture) == {"u": [("A", 1.0)], "y": [("B", 1.0)]}
    assert mixture.rows(["u", "w", "x", "y", "nobody"]).tolist() == [0, -1, -1, 1, -1]
    counted = {name: mixture.meta[name] for name in ("interactions", "unused_interactions", "sources", "missing")}
    assert counted == {"interactions": 5, "unused_interactions": 3, "sources": 4, "missing": 2}


def test_items_that_came_after_the_fit_are_assigned_by_the_centroids():
    new = vectors_of("item", [[0.1, 0.2, 9, 0.3]], ["new"])
    assert shares(CLUSTERS.transform(frame(("u", "new")), new)) == {"u": [("C", 1.0)]}


def test_weights_count_and_those_of_nought_do_not():
    log = frame(("u", "a0", 1.5), ("u", "b0", 4.5), ("u", "c0", 0.0), ("v", "a0", 0.0))
    mixture = CLUSTERS.transform(log, ITEMS)
    assert shares(mixture) == {"u": [("B", 0.75), ("A", 0.25)]}
    assert (mixture.meta["missing"], mixture.meta["unused_interactions"]) == (1, 2)


def test_huge_and_tiny_weights_keep_their_proportions():
    log = frame(("u", "a0", 1e308), ("u", "a1", 1e308), ("u", "b0", 1e308), ("v", "c0", 1e308))
    assert shares(CLUSTERS.transform(log, ITEMS))["u"] == [("A", 0.666667), ("B", 0.333333)]
    log = frame(("u", "a0", 1e-60), ("u", "b0", 3e-60), ("v", "c0", 1.0))
    assert shares(CLUSTERS.transform(log, ITEMS))["u"] == [("B", 0.75), ("A", 0.25)]


def test_weights_by_type_of_engagement():
    log = pd.DataFrame({"user": ["u"] * 3, "item": ["a0", "b0", "c0"], "event": ["view", "buy", "cart"]})
    columns = {"source": "user", "target": "item", "weight": "event"}
    mixture = CLUSTERS.transform(log, ITEMS, columns=columns, weights={"view": 1, "buy": 5, "cart": 2})
    assert shares(mixture) == {"u": [("B", 0.625), ("C", 0.25), ("A", 0.125)]}
    with pytest.raises(DataError, match=r"row 2 is of the type 'cart', which weights= lacks; known: \['view', 'buy'\]"):
        CLUSTERS.transform(log, ITEMS, columns=columns, weights={"view": 1, "buy": 5})
    with pytest.raises(DataError, match=r"weights are .*, expected numbers; weights= says what each type weighs"):
        CLUSTERS.transform(log, ITEMS, columns=columns)
    with pytest.raises(ConfigError, match="weights: 'view' weighs -1"):
        CLUSTERS.transform(log, ITEMS, columns=columns, weights={"view": -1})


def test_an_interaction_counts_half_with_every_half_life():
    log = frame(("u", "a0", 1.0, 100), ("u", "b0", 4.0, 80), ("u", "b1", 8.0, 70))
    # 1, 4 / 4 and 8 / 8: B is 2 of 3.
    assert shares(CLUSTERS.transform(log, ITEMS, half_life=10)) == {"u": [("B", 0.666667), ("A", 0.333333)]}
    # When one asks changes all counts by one factor, which a mixture does not see.
    assert shares(CLUSTERS.transform(log, ITEMS, half_life=10, now=5000)) == {"u": [("B", 0.666667), ("A", 0.333333)]}
    mixture = CLUSTERS.transform(log, ITEMS, half_life=10, now=5000)
    assert (mixture.meta["half_life"], mixture.meta["now"]) == (10.0, "5000")


def test_times_of_a_calendar():
    stamps = pd.to_datetime(["2026-03-01 00:00", "2026-02-27 00:00", "2026-03-01 12:00"])
    log = pd.DataFrame({"source": ["u", "u", "v"], "target": ["a0", "b0", "c0"], "time": stamps})
    expected = {"u": [("A", 0.8), ("B", 0.2)], "v": [("C", 1.0)]}
    for half_life in ("1d", pd.Timedelta("24h"), np.timedelta64(1, "D"), DAY, str(DAY)):
        assert shares(CLUSTERS.transform(log, ITEMS, half_life=half_life)) == expected
    zoned = log.assign(time=log["time"].dt.tz_localize("Europe/Berlin"))
    assert shares(CLUSTERS.transform(zoned, ITEMS, half_life="1d", now="2026-03-02")) == expected
    with pytest.raises(
        DataError, match=r"1 of 3 interactions are later than now, 2026-03-01 .*2026-03-01 12:00:00 in row 2"
    ):
        CLUSTERS.transform(log, ITEMS, now="2026-03-01")


def test_whoever_left_long_ago_does_not_vanish():
    log = frame(("old", "a0", 1.0, 0), ("old", "b0", 1.0, -1), ("new", "c0", 1.0, 10**9))
    mixture = CLUSTERS.transform(log, ITEMS, half_life=1)
    assert shares(mixture) == {"new": [("C", 1.0)], "old": [("A", 0.666667), ("B", 0.333333)]}


def test_an_interaction_later_than_now_is_refused():
    log = frame(("u", "a0", 1.0, 7), ("u", "b0", 1.0, 8), ("u", "b0", 1.0, 9))
    with pytest.raises(DataError, match=r"2 of 3 interactions are later than now, 7.0, the first is of 8 in row 1"):
        CLUSTERS.transform(log, ITEMS, now=7)
    assert len(CLUSTERS.transform(log, ITEMS, now=9)) == 1
    with pytest.raises(DataError, match="holds numbers, now is '2026-01-01'"):
        CLUSTERS.transform(log, ITEMS, now="2026-01-01")


LOGS = st.lists(
    st.tuples(
        st.integers(-3, 6),
        st.sampled_from(["a0", "b0", "c0", "d0", "a1", "b1", "c1", "d1", "z", "unknown"]),
        st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 3.0]),
        st.integers(0, 50),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(rows=LOGS, top=st.integers(1, 6), half_life=st.none() | st.sampled_from([1.0, 7.5, 100.0]), text=st.booleans())
def test_a_random_log_agrees_with_dictionaries(rows, top, half_life, text):
    log = frame(*rows)
    if text:
        log["source"] = "u" + log["source"].astype(str)
    mixture = CLUSTERS.transform(log, ITEMS, top=top, half_life=half_life)
    assert_same(mixture, by_dictionary(log, ITEMS, CLUSTERS, top=top, half_life=half_life, now=50))
    assert mixture.num_components == min(top, 4)
    asked = sorted(set(log["source"]))
    assert int((mixture.rows(asked) < 0).sum()) == mixture.meta["missing"]
    shuffled = CLUSTERS.transform(log.sample(frac=1, random_state=0), ITEMS, top=top, half_life=half_life)
    np.testing.assert_array_equal(shuffled.component_rows, mixture.component_rows)


@pytest.mark.parametrize("spread", [1, 10**12])
@pytest.mark.parametrize("comparator", ["cos", "dot", "l2"])
def test_a_larger_log_agrees_with_dictionaries(spread, comparator):
    """Many clusters, users of one to hundreds of interactions, ids that lie close and far apart."""
    rng = np.random.default_rng(0)
    items = vectors_of("item", rng.normal(size=(3000, 8)), rng.permutation(3000), comparator=comparator)
    clusters = InterestClusters(vectors_of("item-cluster", rng.normal(size=(150, 8)), comparator=comparator))
    users = np.repeat(rng.integers(-(2**20), 2**20, 300) * spread, rng.geometric(0.03, 300))
    log = pd.DataFrame(
        {
            "source": users,
            "target": rng.integers(-100, 3000, len(users)),
            "weight": rng.random(len(users)),
            "time": rng.random(len(users)),
        }
    ).sample(frac=1, random_state=1)
    mixture = clusters.transform(log, items, top=7, half_life=0.3)
    assert_same(mixture, by_dictionary(log, items, clusters, top=7, half_life=0.3, now=1.0))


def test_a_request_of_one_user_is_its_part_of_a_log_of_many():
    """Few interactions with a large table take a way of their own."""
    rng = np.random.default_rng(4)
    items = vectors_of("item", rng.normal(size=(2000, 4)), range(2000))
    log = pd.DataFrame({"source": rng.integers(0, 40, 600), "target": rng.integers(-300, 2000, 600)})
    log.loc[0] = [0, 0]  # row 0 too
    everybody = CLUSTERS.transform(log, items, top=3)
    for source, row in zip(everybody.ids.to_pylist(), range(len(everybody)), strict=True):
        one = CLUSTERS.transform(log[log["source"] == source], items, top=3)
        assert one.ids.to_pylist() == [source]
        assert one.component_rows.tolist() == everybody.component_rows[[row]].tolist()
        assert one.weights.tolist() == everybody.weights[[row]].tolist()


def test_a_log_can_be_a_file_or_arrow(tmp_path):
    log = frame((1, "a0", 2.0), (1, "b0", 1.0), (20, "c0", 1.0))
    expected = {1: [("A", 0.666667), ("B", 0.333333)], 20: [("C", 1.0)]}
    log.to_parquet(tmp_path / "log.parquet")
    log.to_csv(tmp_path / "log.csv", index=False)
    for source in (log, tmp_path / "log.parquet", str(tmp_path / "log.csv"), pa.Table.from_pandas(log)):
        assert shares(CLUSTERS.transform(source, ITEMS)) == expected
    as_text = CLUSTERS.transform(log, ITEMS, id_type="string")
    assert as_text.ids.to_pylist() == ["1", "20"]


def test_nothing_in_nothing_out():
    empty = pd.DataFrame({"source": pd.Series([], dtype="int64"), "target": pd.Series([], dtype="str")})
    mixture = CLUSTERS.transform(empty, ITEMS)
    assert (len(mixture), mixture.num_components, mixture.meta["missing"]) == (0, 4, 0)
    assert len(CLUSTERS.transform(frame(("u", "never-seen")), ITEMS)) == 0


def test_a_sketch_of_the_edges_is_kept_where_the_relation_is_named():
    log = frame(("u", "a0"), ("v", "b0"))
    (sketch,) = CLUSTERS.transform(log, ITEMS, relation="clicks").meta["edge_sketches"]
    assert (sketch["relation"], sketch["source"], sketch["target"]) == ("clicks", "user", "item")
    assert estimate_overlap(sketch, ["u", "u"], ["a0", "b0"]) == 0.5
    assert "edge_sketches" not in CLUSTERS.transform(log, ITEMS).meta


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"top": 0}, ConfigError, "top is 0, expected an integer of at least 1"),
        ({"vectors": "centre"}, ConfigError, "vectors is 'centre'; did you mean 'centroid'"),
        ({"half_life": 0}, ConfigError, "half_life is 0, expected more than 0"),
        ({"half_life": "soon"}, ConfigError, "half_life is 'soon'"),
        ({"half_life": True}, ConfigError, "half_life is True"),
        ({"half_life": 1}, DataError, "no column 'time'"),
        ({"now": 1}, DataError, "no column 'time'"),
        ({"columns": {"sauce": "source"}}, ConfigError, "columns names 'sauce'; did you mean 'source'"),
        ({"columns": {"source": "user"}}, DataError, "no column 'user'"),
        ({"weights": {"view": 1}}, DataError, "no column 'weight'"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        CLUSTERS.transform(frame(("u", "a0")), ITEMS, **options)


def test_logs_and_items_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="looked up in the 'item' table: got int64 ids, expected string"):
        CLUSTERS.transform(frame(("u", 1)), ITEMS)
    with pytest.raises(
        DataError, match=r"1 of 2 weights of the log are no number of 0 or more, the first is -1.0 in row 1"
    ):
        CLUSTERS.transform(frame(("u", "a0", 1.0), ("u", "a0", -1.0)), ITEMS)
    with pytest.raises(DataError, match="column 'source': 1 of 2 are null"):
        CLUSTERS.transform(frame(("u", "a0"), (None, "a0")), ITEMS)
    with pytest.raises(DataError, match=r"column 'time' is .*, expected numbers or times"):
        CLUSTERS.transform(frame(("u", "a0", 1.0, "soon")), ITEMS, half_life=1)
    with pytest.raises(VersionError, match="table is of version 'v2', the clusters are of 'v1'"):
        CLUSTERS.transform(frame(("u", "a")), vectors_of("item", AXES, version="v2"))
    other = vectors_of("item", AXES, ["a", "b", "c", "d"], version="v2")
    assert len(CLUSTERS.transform(frame(("u", "a")), other, any_version=True)) == 1
    for table in (vectors_of("item", AXES, comparator="dot"), vectors_of("item", AXES[:, :2])):
        with pytest.raises(DataError, match="they are of different spaces"):
            CLUSTERS.transform(frame(("u", "a")), table)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("30d", 30 * DAY),
        ("12h", DAY / 2),
        (5, 5.0),
        ("90", 90.0),
        (None, None),
        (1e9, 1e9),
        ("1.5 W", 10.5 * DAY),
        ("2min", 120),
    ],
)
def test_half_lives(given, expected):
    assert half_life_of(given) == expected


@pytest.mark.parametrize("ids", [[5, -2, 5, 9], [2**62, -(2**62), 2**62], ["b", "a", "b", "é"], list(range(40, 0, -1))])
def test_ids_are_numbered_in_ascending_order(ids):
    distinct, numbers = number_ids(pa.array(ids))
    assert distinct.to_pylist() == sorted(set(ids))
    assert distinct.take(pa.array(numbers)).to_pylist() == ids


def test_fit_and_transform_in_one():
    pytest.importorskip("faiss")
    log = frame(("u", "a0"), ("u", "a1"), ("u", "b0"), ("v", "d0"))
    mixture = Mixture.from_engagement(log, ITEMS, clusters=4, top=2, seed=1)
    fitted = InterestClusters.fit(ITEMS, 4, seed=1)
    np.testing.assert_array_equal(mixture.components.vectors, fitted.centroids.vectors)
    assert sorted(len(each) for each in shares(mixture).values()) == [1, 2]
    assert shares(mixture)["u"][0][1] == pytest.approx(2 / 3, abs=1e-6)
    given = Mixture.from_engagement(log, ITEMS, CLUSTERS, top=1, vectors="medoid", half_life=None, entity="reader")
    assert (given.components is CLUSTERS.medoids, given.entity) == (True, "reader")
    assert shares(given) == {"u": [("A", 1.0)], "v": [("D", 1.0)]}
