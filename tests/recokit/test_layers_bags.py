"""Pooled lists against a loop over lists."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recokit.layers import bag_sum, pool


def lists(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(0, 5, count))])
    values = offsets[-1]
    weights = generator.integers(0, 3, values) * generator.random(values)
    return generator.standard_normal((values, 3)), generator.random(values) < 0.7, offsets, weights


def naive(vectors, known, offsets, pooling, weights) -> np.ndarray:
    pooled = np.zeros((len(offsets) - 1, vectors.shape[1]))
    for number in range(len(pooled)):
        total = 0.0
        for value in range(offsets[number], offsets[number + 1]):
            weight = float(known[value]) * (1.0 if weights is None else weights[value])
            pooled[number] += weight * vectors[value]
            total += weight
        if pooling == "mean" and total:
            pooled[number] /= total
    return pooled


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "sum"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 12))
def test_pooling_equals_a_loop_over_lists(pooling, weighted, seed, count):
    vectors, known, offsets, weights = lists(seed, count)
    weights = weights if weighted else None
    given_ = [torch.from_numpy(array) for array in (vectors, known, offsets)]
    found = pool(*given_, pooling, None if weights is None else torch.from_numpy(weights))
    expected = naive(vectors, known, offsets, pooling, weights)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_a_weighted_mean_is_the_sum_over_the_known_weights():
    vectors = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, 80.0]])
    known = torch.tensor([True, True, False, True])
    weights, offsets = torch.tensor([1.0, 3.0, 5.0, 0.0]), torch.tensor([0, 3, 3, 4])
    mean = pool(vectors, known, offsets, "mean", weights)
    assert mean.tolist() == [[(1 * 1 + 3 * 2) / 4, (1 * 10 + 3 * 20) / 4], [0.0, 0.0], [0.0, 0.0]]
    assert pool(vectors, known, offsets, "sum", weights).tolist() == [[7.0, 70.0], [0.0, 0.0], [0.0, 0.0]]


def test_gradients_are_those_of_a_loop():
    vectors, known, offsets, weights = (torch.from_numpy(array) for array in lists(3))
    vectors.requires_grad_()
    above = torch.from_numpy(np.random.default_rng(4).standard_normal((40, 3)))
    (pool(vectors, known, offsets, "mean", weights) * above).sum().backward()
    expected = torch.zeros_like(vectors)
    for number, (begin, end) in enumerate(pairwise(offsets)):
        shares = (known * weights)[begin:end]
        if shares.sum():
            expected[begin:end] = (shares / shares.sum()).unsqueeze(1) * above[number]
    torch.testing.assert_close(vectors.grad, expected)


def test_bag_sums_add_weighted_rows_of_a_matrix():
    matrix = torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    places = torch.tensor([[[0, 2], [1, 1]]], dtype=torch.int32)
    assert bag_sum(places, matrix).tolist() == [[[101.0, 202.0], [20.0, 40.0]]]
    assert bag_sum(places, matrix, torch.tensor([[[0.5, 0.0], [1.0, 2.0]]])).tolist() == [[[0.5, 1.0], [30.0, 60.0]]]
