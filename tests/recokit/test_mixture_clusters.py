"""Interest clusters: means of their members, medoids, exact assignment, planted clusters, files."""

import sys

import numpy as np
import pytest

from recokit import EmbeddingTable
from recokit.errors import ChecksumError, ConfigError, DataError, FormatError, MissingDependencyError, VersionError
from recokit.mixture import InterestClusters
from recokit.mixture.nearest import Centroids

COMPARATORS = ["cos", "dot", "l2", "squared_l2"]


def table(vectors, comparator="cos", ids=None, version="v1"):
    vectors = np.asarray(vectors, np.float32) if np.asarray(vectors).dtype != np.float16 else vectors
    ids = [f"i{row}" for row in range(len(vectors))] if ids is None else ids
    return EmbeddingTable.from_arrays(ids, vectors, entity="item", version=version, comparator=comparator)


def random_items(count=400, dim=6, comparator="cos", seed=0):
    rng = np.random.default_rng(seed)
    return table(rng.normal(size=(count, dim)) * rng.lognormal(0, 0.5, (count, 1)), comparator)


def lengthened(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def nearest_by_loop(vectors, centroids, comparator):
    """The first of the nearest centroids, in float64."""
    vectors, centroids = np.float64(vectors), np.float64(centroids)
    found = []
    for vector in vectors:
        if comparator == "cos":
            far = [-(vector @ c) / np.linalg.norm(vector) / np.linalg.norm(c) for c in centroids]
        else:
            far = [((vector - c) ** 2).sum() for c in centroids]
        found.append(int(np.argmin(far)))
    return found


@pytest.mark.parametrize("comparator", COMPARATORS)
def test_at_convergence_centroids_are_the_means_of_their_members(comparator):
    items = random_items(comparator=comparator)
    clusters = InterestClusters.fit(items, 12, iterations=200, sample=1000)
    members = clusters.assign(items.vectors)
    assert members.tolist() == nearest_by_loop(items.vectors, clusters.centroids.vectors, comparator)
    points = lengthened(np.float64(items.vectors)) if comparator == "cos" else np.float64(items.vectors)
    means = np.array([points[members == row].mean(axis=0) for row in range(12)])
    if comparator == "cos":
        means = lengthened(means)
        np.testing.assert_allclose(np.linalg.norm(clusters.centroids.vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(clusters.centroids.vectors, means, atol=1e-6)
    name = "mean_cosine" if comparator == "cos" else "mean_squared_distance"
    spread = (points * means[members]).sum() if comparator == "cos" else ((points - means[members]) ** 2).sum()
    assert clusters.centroids.meta[name] == pytest.approx(spread / 400, rel=1e-5)


def test_weighted_means_lean_on_heavy_items():
    items = table([[0, 0], [1, 0], [10, 0], [14, 0]], "l2")
    for seed in range(6):
        clusters = InterestClusters.fit(items, 2, weights=np.array([3, 1, 1, 0]), seed=seed)
        # The item of weight 0 starts no cluster, and is a member all the same.
        assert sorted(clusters.centroids.vectors.tolist()) == [[(3 * 0 + 1 * 1) / 4, 0], [10, 0]]
        assert sorted(clusters.centroids.ids.to_pylist()) == ["i0", "i2"]
        assert len(set(clusters.assign(items.vectors).tolist())) == 2


def test_the_sample_is_drawn_from_items_that_count():
    items = random_items(500, comparator="l2")
    weights = np.zeros(500)
    weights[[3, 77, 400]] = 1, 2, 3
    clusters = InterestClusters.fit(items, 3, sample=1, weights=weights)
    expected = items.vectors[[3, 77, 400]].tolist()
    assert sorted(clusters.centroids.vectors.tolist()) == sorted(expected)
    assert sorted(clusters.centroids.ids.to_pylist()) == ["i3", "i400", "i77"]


@pytest.mark.parametrize("comparator", COMPARATORS)
def test_a_cluster_is_named_by_the_member_nearest_to_its_centroid(comparator):
    items = random_items(comparator=comparator, seed=3)
    clusters = InterestClusters.fit(items, 20, iterations=5)
    members = clusters.assign(items.vectors)
    centroids = np.float64(clusters.centroids.vectors)
    for row, name in enumerate(clusters.centroids.ids.to_pylist()):
        inside = np.flatnonzero(members == row)
        points = np.float64(items.vectors[inside])
        if comparator == "cos":
            far = -lengthened(points) @ centroids[row]
        else:
            far = ((points - centroids[row]) ** 2).sum(axis=1)
        assert name == f"i{inside[np.argmin(far)]}"
        np.testing.assert_array_equal(clusters.medoids.vectors[row], items.vectors[int(name[1:])])
    assert clusters.medoids.ids.equals(clusters.centroids.ids)
    for made in (clusters.centroids, clusters.medoids):
        assert (made.entity, made.version, made.comparator) == ("item-cluster", "v1", comparator)
    assert repr(clusters).startswith("InterestClusters(20 of 'item-cluster', version 'v1', dim 6")


def test_planted_clusters_are_recovered():
    rng = np.random.default_rng(0)
    topics = rng.integers(0, 10, 2000)
    items = table(rng.normal(size=(10, 16))[topics] + 0.1 * rng.normal(size=(2000, 16)))
    members = InterestClusters.fit(items, 60, seed=2).assign(items.vectors)
    for row in np.unique(members):  # more clusters than topics: each lies within one
        assert len(np.unique(topics[members == row])) == 1


@pytest.mark.parametrize("comparator", ["cos", "l2"])
def test_the_fit_is_about_as_good_as_that_of_scikit_learn(comparator):
    sklearn = pytest.importorskip("sklearn.cluster")
    items = random_items(1500, 8, comparator)
    points = lengthened(np.float64(items.vectors)) if comparator == "cos" else np.float64(items.vectors)
    theirs = sklearn.KMeans(30, n_init=1, random_state=0).fit(points).inertia_ / 1500
    meta = InterestClusters.fit(items, 30).centroids.meta
    # |x - c|**2 of unit vectors; their means are shorter than 1, which makes them a little nearer.
    ours = 2 - 2 * meta["mean_cosine"] if comparator == "cos" else meta["mean_squared_distance"]
    assert ours < theirs * (1.25 if comparator == "cos" else 1.08)


def test_the_same_seed_gives_the_same_bytes():
    items = random_items(3000)
    one, other = (InterestClusters.fit(items, 8, seed=5, sample=50) for _ in range(2))
    assert one.centroids.vectors.tobytes() == other.centroids.vectors.tobytes()
    assert one.centroids.ids.equals(other.centroids.ids)
    for sample in (50, 10**6):  # the sample and the first centroids are drawn
        drawn = [InterestClusters.fit(items, 8, seed=seed, sample=sample).centroids.ids for seed in (5, 6)]
        assert not drawn[0].equals(drawn[1])


def test_empty_clusters_are_dropped():
    items = table([[1, 0]] * 5 + [[0, 2]] * 5, "l2")
    clusters = InterestClusters.fit(items, 4)
    assert sorted(clusters.centroids.vectors.tolist()) == [[0, 2], [1, 0]]
    assert sorted(clusters.centroids.ids.to_pylist()) == ["i0", "i5"]
    assert clusters.centroids.meta["clusters"] == 4


def test_zero_vectors_have_no_direction():
    items = table([[0, 0], [1, 0], [2, 0], [0, 3], [0, 1]])
    clusters = InterestClusters.fit(items, 2)
    assert sorted(clusters.centroids.vectors.tolist()) == [[0, 1], [1, 0]]
    assert clusters.assign(np.zeros((1, 2))).tolist() == [-1]
    with pytest.raises(ConfigError, match=r"clusters is 5, expected at most the 4 items with a vector .* \(of 5\)"):
        InterestClusters.fit(items, 5)
    # Under a distance, zero is a point like any other.
    assert len(InterestClusters.fit(table(items.vectors, "l2"), 5)) == 5


def test_half_precision_items_are_taken_as_they_are():
    vectors = np.array([[1, 0], [2, 0], [0, 3], [0, 1]], np.float16)
    clusters = InterestClusters.fit(table(vectors), 2)
    assert sorted(clusters.centroids.vectors.tolist()) == [[0, 1], [1, 0]]
    assert clusters.medoids.dtype == np.float16
    assert clusters.centroids.dtype == np.float32


@pytest.mark.parametrize("comparator", COMPARATORS)
def test_assignment_is_that_of_a_loop(comparator):
    rng = np.random.default_rng(1)
    centroids = rng.normal(size=(37, 5))
    items = rng.normal(size=(500, 5)).astype(np.float32) * 3
    clusters = InterestClusters(table(centroids, comparator))
    assert clusters.assign(items).tolist() == nearest_by_loop(items, clusters.centroids.vectors, comparator)
    assert clusters.assign(items[:1]).tolist() == clusters.assign(items)[:1].tolist()
    assert clusters.assign(np.zeros((0, 5))).tolist() == []


@pytest.mark.parametrize("comparator", COMPARATORS)
def test_of_equal_centroids_the_smaller_row_is_the_nearest(comparator):
    rng = np.random.default_rng(2)
    centroids = rng.normal(size=(9, 33)).astype(np.float32)
    twice = np.concatenate([centroids, centroids, centroids])
    vectors = rng.normal(size=(300, 33)).astype(np.float32)
    rows = InterestClusters(table(twice, comparator)).assign(vectors)
    assert rows.max() < 9
    assert rows.tolist() == InterestClusters(table(centroids, comparator)).assign(vectors).tolist()


def test_float64_decides_where_a_float32_product_cannot():
    """Far from the origin and a hair apart: products round the difference away."""
    far = 3000.0
    centroids = np.array([[far, 0], [far, 0.001], [far, 0.002], [-far, 0]])
    vectors = np.array([[far, 0.0004], [far, 0.0006], [far, 0.0016], [-far, 5]])
    assert Centroids(centroids, spherical=False).nearest(vectors).tolist() == [0, 1, 2, 3]
    angles = np.array([0, 1e-5, 2e-5])
    turned = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    asked = np.array([[1.0, 0.4e-5], [1.0, 0.6e-5], [1.0, 1.6e-5]])
    assert Centroids(turned, spherical=True).nearest(asked).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 0}, "clusters is 0, expected an integer of at least 1"),
        ({"clusters": 4}, "clusters is 4, expected at most the 3 items"),
        ({"iterations": 0}, "iterations is 0"),
        ({"sample": 0}, "sample is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"weights": [1, 0, 0], "clusters": 2}, "at most the 1 items with a vector and a weight other than 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        InterestClusters.fit(table(np.eye(3)), **{"clusters": 2, **options})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], "expected a number for each of the 3 items"),
        ([1, -1, 2], "-1.0 in row 1"),
        ([1, 2, np.nan], "nan in row 2"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(DataError, match=message):
        InterestClusters.fit(table(np.eye(3)), 2, weights=weights)


def test_vectors_and_tables_that_do_not_fit_are_refused():
    clusters = InterestClusters(table(np.eye(3)))
    with pytest.raises(DataError, match=r"vectors have shape \(1, 2\), expected \(vectors, 3\)"):
        clusters.assign(np.ones((1, 2)))
    with pytest.raises(DataError, match="not finite"):
        clusters.assign(np.full((1, 3), np.nan))
    with pytest.raises(DataError, match="table of centroids is empty"):
        InterestClusters(table(np.zeros((0, 3))))
    for other, what in [
        (table(np.eye(3), version="v2"), "version"),
        (table(np.eye(3), "dot"), "comparator"),
        (table(np.eye(3)[:, :2]), "dim"),
        (table(np.eye(3), ids=["x", "y", "z"]), "ids"),
    ]:
        with pytest.raises(DataError, match=f"centroids and medoids differ in {what}"):
            InterestClusters(table(np.eye(3)), other)


def test_without_faiss_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        MissingDependencyError, match=r"InterestClusters.fit needs the package 'faiss'.*recokit\[faiss\]"
    ):
        InterestClusters.fit(table(np.eye(3)), 2)


def test_saved_and_loaded_they_are_the_same(tmp_path):
    items = random_items()
    clusters = InterestClusters.fit(items, 10, iterations=3)
    loaded = InterestClusters.load(clusters.save(tmp_path / "c"), verify=True)
    for name in ("centroids", "medoids"):
        one, other = getattr(clusters, name), getattr(loaded, name)
        np.testing.assert_array_equal(one.vectors, other.vectors)
        assert (one.ids.equals(other.ids), one.meta == other.meta) == (True, True)
    assert loaded.assign(items.vectors).tolist() == clusters.assign(items.vectors).tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]
    with pytest.raises(VersionError, match="exists already"):
        clusters.save(tmp_path / "c")
    alone = InterestClusters.load(InterestClusters(clusters.centroids).save(tmp_path / "alone"))
    assert alone.medoids is None


def test_folders_that_are_no_clusters_are_refused(tmp_path):
    with pytest.raises(FormatError, match="holds no clusters"):
        InterestClusters.load(tmp_path)
    table(np.eye(3)).save(tmp_path / "c" / "centroids")
    table(np.eye(3), version="v2").save(tmp_path / "c" / "medoids")
    with pytest.raises(FormatError, match="centroids and medoids differ in version"):
        InterestClusters.load(tmp_path / "c")
    where = InterestClusters(table(np.eye(3))).save(tmp_path / "d") / "centroids" / "vectors.npy"
    content = bytearray(where.read_bytes())
    content[-1] ^= 1
    where.write_bytes(content)
    with pytest.raises(ChecksumError, match="its bytes have changed"):
        InterestClusters.load(tmp_path / "d", verify=True)
