"""Coverage and similarity of lists against loops and arithmetic."""

import itertools

import numpy as np
import pandas as pd
import pytest

from recokit.errors import DataError
from recokit.metrics import catalog_coverage, intra_list_similarity
from recokit.table import EmbeddingTable


def lists(rows):
    return pd.DataFrame(rows, columns=["query", "candidate", "rank"])


def table(ids, vectors):
    return EmbeddingTable.from_arrays(ids, np.asarray(vectors, dtype=np.float32), entity="item", version="v1")


def test_coverage_is_the_share_of_the_catalog_that_anyone_gets():
    candidates = lists([("u", "a", 1), ("u", "b", 2), ("v", "a", 1), ("v", "outside", 2)])
    catalog = ["a", "b", "c", "d", "d"]
    assert catalog_coverage(candidates, catalog) == 2 / 4
    assert catalog_coverage(candidates, catalog, k=1) == 1 / 4
    assert catalog_coverage(candidates, table(["a", "b", "c"], np.eye(3))) == 2 / 3
    assert catalog_coverage(candidates.iloc[:0], catalog) == 0.0
    with pytest.raises(DataError, match="needs a catalog"):
        catalog_coverage(candidates, [])


def test_similarity_is_the_mean_cosine_of_the_pairs():
    items = table([1, 2, 3], [[1, 0], [2, 2], [0, 5]])
    candidates = lists([(7, 1, 1), (7, 2, 2), (7, 3, 3), (8, 1, 1), (8, 3, 2)])
    similarity = intra_list_similarity(candidates, items)
    assert similarity.index.tolist() == [7, 8]
    assert similarity[7] == pytest.approx((np.sqrt(0.5) + 0.0 + np.sqrt(0.5)) / 3)
    assert similarity[8] == pytest.approx(0.0, abs=1e-12)
    assert intra_list_similarity(candidates, items, k=2)[7] == pytest.approx(np.sqrt(0.5))


def test_similarity_agrees_with_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((30, 5)).astype(np.float32)
    items = table(np.arange(100, 130), vectors)
    chosen = {q: rng.permutation(30)[: rng.integers(2, 9)] for q in range(12)}
    candidates = lists([(q, 100 + i, rank) for q, rows in chosen.items() for rank, i in enumerate(rows, 1)])
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    naive = [np.mean([unit[i] @ unit[j] for i, j in itertools.combinations(rows, 2)]) for rows in chosen.values()]
    np.testing.assert_allclose(intra_list_similarity(candidates, items), naive, atol=1e-7)


def test_candidates_without_a_direction_are_left_out():
    items = table(["a", "b", "zero"], [[1, 0], [1, 1], [0, 0]])
    candidates = lists([("u", "a", 1), ("u", "zero", 2), ("u", "unknown", 3), ("u", "b", 4), ("v", "a", 1)])
    similarity = intra_list_similarity(candidates, items)
    assert similarity["u"] == pytest.approx(np.sqrt(0.5))
    assert np.isnan(similarity["v"])
