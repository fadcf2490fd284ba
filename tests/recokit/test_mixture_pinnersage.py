"""PinnerSage: by hand, against scikit-learn's Ward, and what is kept of a long log."""

import numpy as np
import pandas as pd
import pytest

from recokit import EmbeddingTable, Mixture
from recokit.errors import ConfigError, DataError
from recokit.mixture import pinnersage

LINE = [0.0, 1.0, 2.0, 10.0, 11.0, 20.0]


def table(vectors, comparator="l2", ids=None):
    vectors = np.asarray(vectors, np.float32)
    ids = [f"i{row}" for row in range(len(vectors))] if ids is None else ids
    return EmbeddingTable.from_arrays(ids, vectors, entity="item", version="v1", comparator=comparator)


ITEMS = table([[x, 0.0] for x in LINE])


def frame(*rows):
    return pd.DataFrame(rows, columns=["source", "target", "weight", "time"][: len(rows[0])])


def interests(mixture):
    names = mixture.components.ids.to_pylist()
    return {
        source: [(names[row], round(float(weight), 6)) for row, weight in zip(rows, weights, strict=True) if row >= 0]
        for source, rows, weights in zip(mixture.ids.to_pylist(), mixture.component_rows, mixture.weights, strict=True)
    }


ALL = frame(*(("u", f"i{row}") for row in range(6)))


def test_by_hand():
    """0 1 2, 10 11 and 20 on a line: medoids 1, the smaller row of 10 and 11, and 20."""
    mixture = pinnersage(ALL, ITEMS, threshold=4.0)
    assert interests(mixture) == {"u": [("i1", 0.5), ("i3", round(1 / 3, 6)), ("i5", round(1 / 6, 6))]}
    assert mixture.components is ITEMS
    assert mixture.components_name == "item"
    assert mixture.component_rows.tolist() == [[1, 3, 5]]
    # Into two: 10 11 joins 20, whose mean 41 / 3 is nearest to 11.
    assert interests(pinnersage(ALL, ITEMS, top=2)) == {"u": [("i1", 0.5), ("i4", 0.5)]}
    # A threshold first makes clusters, of which the most important are kept.
    assert interests(pinnersage(ALL, ITEMS, top=2, threshold=4.0)) == {"u": [("i1", 0.6), ("i3", 0.4)]}
    assert interests(pinnersage(ALL, ITEMS, top=1)) == {"u": [("i3", 1.0)]}


def test_the_threshold_is_wards_distance():
    """Of 0 and 1 it is 1; of {0, 1} and 2 it is sqrt(2 * 2 * 1 / 3) * 1.5 = sqrt(3)."""
    log = frame(("u", "i0"), ("u", "i1"), ("u", "i2"))

    def sizes(threshold):
        return [round(3 * weight) for _, weight in interests(pinnersage(log, ITEMS, threshold=threshold))["u"]]

    assert sizes(0.999) == [1, 1, 1]
    assert sizes(1.0) == [2, 1]
    assert sizes(3**0.5 - 1e-9) == [2, 1]
    assert sizes(3**0.5 + 1e-9) == [3]


def test_importance_falls_with_age():
    """Item 20 is ten units younger than the three around 1."""
    log = frame(("u", "i0", 1.0, 0), ("u", "i1", 1.0, 0), ("u", "i2", 1.0, 0), ("u", "i5", 1.0, 10))
    decayed = pinnersage(log, ITEMS, top=2, decay=0.2)
    old = 3 * np.exp(-0.2 * 10)
    assert interests(decayed) == {"u": [("i5", round(1 / (1 + old), 6)), ("i1", round(old / (1 + old), 6))]}
    assert interests(pinnersage(log, ITEMS, top=2)) == {"u": [("i1", 0.75), ("i5", 0.25)]}
    weighted = log.assign(weight=[1.0, 1.0, 1.0, 9.0])
    assert interests(pinnersage(weighted, ITEMS, top=2)) == {"u": [("i5", 0.75), ("i1", 0.25)]}
    with pytest.raises(DataError, match="no column 'time'"):
        pinnersage(ALL, ITEMS, decay=0.1)
    with pytest.raises(DataError, match=r"1 of 4 interactions are later than now, 9"):
        pinnersage(log, ITEMS, now=9)


def test_directions_count_under_cos():
    items = table([[1, 0], [100, 1], [0, 3], [0, 0.1], [0, 0]], "cos")
    log = frame(*(("u", f"i{row}") for row in range(5)), ("v", "i4"))
    mixture = pinnersage(log, items, top=2)
    assert interests(mixture) == {"u": [("i0", 0.5), ("i2", 0.5)]}
    assert (mixture.meta["unused_interactions"], mixture.meta["missing"]) == (2, 1)


def test_an_item_twice_is_two_points_and_never_two_interests():
    log = frame(("u", "i0"), ("u", "i0"), ("u", "i0"), ("u", "i2"))
    for top in (2, 4, 5):
        assert interests(pinnersage(log, ITEMS, top=top)) == {"u": [("i0", 0.75), ("i2", 0.25)]}
    # The medoid leans to what is there often.
    log = frame(("u", "i0"), ("u", "i1"), *[("u", "i2")] * 5)  # 4 + 1 is less than 1 + 5
    assert interests(pinnersage(log, ITEMS, top=1)) == {"u": [("i2", 1.0)]}


def test_of_a_long_log_the_latest_count():
    log = frame(("u", "i5", 1.0, 9), ("u", "i0", 1.0, 1), ("u", "i1", 1.0, 5), ("v", "i3", 1.0, 0))
    assert interests(pinnersage(log, ITEMS, most=2)) == {"u": [("i1", 0.5), ("i5", 0.5)], "v": [("i3", 1.0)]}
    # Without times, those further down are later.
    without = log.drop(columns="time")
    assert interests(pinnersage(without, ITEMS, most=2))["u"] == [("i0", 0.5), ("i1", 0.5)]
    assert pinnersage(log, ITEMS, most=2).meta["unused_interactions"] == 1


@pytest.mark.parametrize("comparator", ["cos", "l2"])
def test_clusters_are_those_of_scikit_learn(comparator):
    sklearn = pytest.importorskip("sklearn.cluster")
    rng = np.random.default_rng(0)
    items = table(rng.normal(size=(300, 4)), comparator)
    log = frame(*((user, f"i{item}") for user in range(8) for item in rng.choice(300, 40, replace=False)))
    found = interests(pinnersage(log, items, top=6))
    cut = interests(pinnersage(log, items, top=40, threshold=1.5))
    for user, rows in log.groupby("source")["target"]:
        own = np.sort([int(name[1:]) for name in rows])
        points = np.float64(items.vectors[own])
        if comparator == "cos":
            points /= np.linalg.norm(points, axis=1, keepdims=True)
        for result, options in ((found, {"n_clusters": 6}), (cut, {"n_clusters": None, "distance_threshold": 1.5})):
            labels = sklearn.AgglomerativeClustering(linkage="ward", **options).fit_predict(points)
            expected = {}
            for label in np.unique(labels):
                inside = np.flatnonzero(labels == label)
                spread = [((points[inside] - points[one]) ** 2).sum() for one in inside]
                expected[f"i{own[inside[np.argmin(spread)]]}"] = round(len(inside) / 40, 6)
            assert dict(result[user]) == expected
            assert [weight for _, weight in result[user]] == sorted(expected.values(), reverse=True)


def test_the_order_of_a_log_changes_nothing():
    rng = np.random.default_rng(1)
    items = table(rng.normal(size=(50, 3)))
    log = frame(*((f"u{u}", f"i{i}", 1.0, t) for t, (u, i) in enumerate(rng.integers(0, [5, 50], (150, 2)))))
    one = pinnersage(log, items, decay=0.01, most=20)
    other = pinnersage(log.sample(frac=1, random_state=3), items, decay=0.01, most=20)
    np.testing.assert_array_equal(one.component_rows, other.component_rows)
    np.testing.assert_array_equal(one.weights, other.weights)


def test_unknown_items_progress_and_files(tmp_path):
    log = frame(("u", "i0"), ("w", "never-seen"), ("v", "i5"), ("v", "never-seen"))
    heard = []
    mixture = pinnersage(log, ITEMS, progress=lambda done, total: heard.append((done, total)), relation="clicks")
    assert interests(mixture) == {"u": [("i0", 1.0)], "v": [("i5", 1.0)]}
    assert heard == [(3, 3)]
    meta = mixture.meta
    assert (meta["sources"], meta["missing"], meta["interactions"], meta["unused_interactions"]) == (3, 1, 4, 2)
    assert meta["edge_sketches"][0]["count"] == 4
    ITEMS.save(tmp_path / "item")
    mixture.save(tmp_path / "user-interests")
    assert not (tmp_path / "user-interests" / "item").exists()
    assert interests(Mixture.load(tmp_path / "user-interests")) == interests(mixture)
    assert len(pinnersage(log[1:2], ITEMS)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top is 0"),
        ({"most": 0}, "most is 0"),
        ({"threshold": -1.0}, r"threshold is -1\.0, expected a number of 0 or more"),
        ({"decay": float("nan")}, "decay is nan"),
        ({"decay": float("inf")}, "decay is inf"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        pinnersage(ALL, ITEMS, **options)
