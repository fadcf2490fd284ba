"""kNN-Embed's smoothing: by hand, and against dense NumPy."""

import numpy as np
import pandas as pd
import pytest

from recokit import EmbeddingTable, ExactIndex
from recokit.errors import ConfigError, DataError
from recokit.mixture import InterestClusters, Smoothing

AXES = np.eye(3, dtype=np.float32)


def vectors_of(entity, ids, vectors, comparator="cos"):
    return EmbeddingTable.from_arrays(
        ids, np.asarray(vectors, np.float32), entity=entity, version="v1", comparator=comparator
    )


CLUSTERS = InterestClusters(vectors_of("item-cluster", ["A", "B", "C"], AXES))
ITEMS = vectors_of("item", ["a", "b", "c"], AXES)


def frame(*rows):
    return pd.DataFrame(rows, columns=["source", "target"])


def dense(mixture, count=3):
    """Source to its weights (count,) of clusters."""
    found = {}
    for name, rows, weights in zip(mixture.ids.to_pylist(), mixture.component_rows, mixture.weights, strict=True):
        found[name] = np.zeros(count)
        found[name][rows[rows >= 0]] = weights[rows >= 0]
    return found


def same(mixture, expected):
    found = dense(mixture)
    assert list(found) == sorted(expected)
    for name, weights in expected.items():
        np.testing.assert_allclose(found[name], weights, atol=1e-6, err_msg=name)


USERS = vectors_of("user", ["u", "v", "w", "cold", "far"], [[1, 0], [1, 0.1], [1, 0.3], [0, 1], [-1, 0]])
LOG = frame(("u", "a"), ("v", "b"), ("v", "b"), ("v", "c"), ("v", "c"), ("w", "c"), ("guest", "b"))


def test_by_hand():
    mixture = CLUSTERS.transform(LOG, ITEMS, smoothing=Smoothing(USERS, neighbors=2, share=0.6))
    a, b, c = np.eye(3)
    v = 0.5 * b + 0.5 * c
    expected = {
        "u": 0.6 * a + 0.4 * (v + c) / 2,
        "v": 0.6 * v + 0.4 * (a + c) / 2,
        "w": 0.6 * c + 0.4 * (a + v) / 2,
        "cold": (c + v) / 2,  # has no log: the mean of the two nearest
        "far": (c + v) / 2,
        "guest": b,  # is not among the users: nobody is near
    }
    same(mixture, expected)
    assert mixture.meta["smoothing"] == {"neighbors": 2, "share": 0.6}
    assert (mixture.meta["sources"], mixture.meta["missing"]) == (6, 0)


def test_smoothing_comes_before_the_few_largest_are_kept():
    """u's own first is A; of its top one after smoothing, C is the largest."""
    log = frame(("u", "a"), ("v", "c"), ("w", "c"))
    mixture = CLUSTERS.transform(log, ITEMS, top=1, smoothing=Smoothing(USERS, neighbors=2, share=0.4))
    assert mixture.components.ids_at(mixture.component_rows[mixture.rows(["u"]), 0]).to_pylist() == ["C"]
    # And it is the whole distributions that are averaged, not what is left of them.
    log = frame(("u", "a"), *[("v", "b")] * 3, *[("v", "c")] * 2, *[("w", "c")] * 3, *[("w", "b")] * 2)
    mixture = CLUSTERS.transform(log, ITEMS, top=2, smoothing=Smoothing(USERS, neighbors=2, share=0.5))
    assert dense(mixture)["u"] == pytest.approx([2 / 3, 1 / 3, 0], abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_of_ones_own_or_nothing_of_it(share):
    plain = dense(CLUSTERS.transform(LOG, ITEMS))
    found = dense(CLUSTERS.transform(LOG, ITEMS, smoothing=Smoothing(USERS, neighbors=1, share=share)))
    if share:
        for name, weights in plain.items():
            np.testing.assert_allclose(found[name], weights, atol=1e-7)
    else:
        np.testing.assert_allclose(found["u"], plain["v"], atol=1e-7)
        np.testing.assert_allclose(found["guest"], plain["guest"])
    np.testing.assert_allclose(found["cold"], plain["w"], atol=1e-7)


def test_without_anybodys_engagement_everybody_is_missing():
    mixture = CLUSTERS.transform(frame(("u", "unknown"), ("guest", "unknown")), ITEMS, smoothing=Smoothing(USERS))
    assert (len(mixture), mixture.meta["sources"], mixture.meta["missing"]) == (0, 6, 6)


@pytest.mark.parametrize("engaged", [1.0, 0.4])
@pytest.mark.parametrize("comparator", ["cos", "dot", "l2"])
def test_agrees_with_dense_numpy(comparator, engaged, monkeypatch):
    monkeypatch.setattr("recokit.mixture.smoothing._USERS", 37)  # several blocks
    rng = np.random.default_rng(0)
    clusters = InterestClusters(vectors_of("item-cluster", range(20), rng.normal(size=(20, 5))))
    items = vectors_of("item", range(200), rng.normal(size=(200, 5)))
    vectors = rng.normal(size=(120, 5)).astype(np.float32)
    users = vectors_of("user", rng.permutation(120), vectors, comparator)
    active = rng.permutation(140)[: int(140 * engaged)]  # some of them have no vector
    log = frame(*zip(rng.choice(active, 900), rng.integers(0, 200, 900), strict=True))
    k, share = 6, 0.7
    mixture = clusters.transform(log, items, top=20, smoothing=Smoothing(users, neighbors=k, share=share))

    p = np.zeros((140, 20))
    np.add.at(p, (log["source"], clusters.assign(items.vectors)[log["target"]]), 1)
    has = p.sum(axis=1) > 0
    p[has] /= p[has].sum(axis=1, keepdims=True)
    by_id = np.float64(vectors)[np.argsort(users.ids.to_numpy())]
    if comparator == "cos":
        by_id /= np.linalg.norm(by_id, axis=1, keepdims=True)
    scores = by_id @ by_id.T
    if comparator == "l2":
        scores = -((by_id[:, None] - by_id) ** 2).sum(axis=-1)
    scores[:, ~has[:120]] = -np.inf
    np.fill_diagonal(scores, -np.inf)
    expected = {}
    for user in range(140):
        near = np.argsort(-scores[user], kind="stable")[:k] if user < 120 else []
        if len(near) and has[user]:
            expected[user] = share * p[user] + (1 - share) * p[near].mean(axis=0)
        elif len(near) or has[user]:
            expected[user] = p[near].mean(axis=0) if len(near) else p[user]
    found = dense(mixture, 20)
    assert sorted(found) == sorted(expected)
    for user, weights in expected.items():
        np.testing.assert_allclose(found[user], weights, atol=1e-6)


def test_any_index_finds_the_neighbours():
    pytest.importorskip("faiss")
    from recokit import FaissIndex

    expected = dense(CLUSTERS.transform(LOG, ITEMS, smoothing=Smoothing(USERS, neighbors=2)))
    for index in (ExactIndex(USERS), FaissIndex.build(USERS, kind="flat"), FaissIndex.build(USERS, nlist=1)):
        found = dense(CLUSTERS.transform(LOG, ITEMS, smoothing=Smoothing(index, neighbors=2)))
        assert list(found) == list(expected)
        for name, weights in expected.items():
            np.testing.assert_allclose(found[name], weights, atol=1e-7)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="neighbors is 0"):
        Smoothing(USERS, neighbors=0)
    for share in (-0.1, 1.5, float("nan"), True):
        with pytest.raises(ConfigError, match="share is .*, expected 0 to 1".replace(".*", str(share))):
            Smoothing(USERS, share=share)
    with pytest.raises(DataError, match="the log's sources are int64 ids, those of the 'user' table string"):
        CLUSTERS.transform(frame((1, "a")), ITEMS, smoothing=Smoothing(USERS))
