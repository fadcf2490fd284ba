"""Exact search agrees with a few lines of float64 NumPy: rows, scores and ties, in every block size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_oracle import COMPARATORS, make_table, naive_search

from recokit.errors import ConfigError, DataError
from recokit.index import ExactIndex, Pairs
from recokit.index.scoring import EMPTY, pack, unpack
from recokit.table import EmbeddingTable


def pairs_of(pairs, num_queries, num_rows):
    position, row = np.array(sorted(pairs), np.int64).reshape(-1, 2).T
    return Pairs.of(position, row, num_queries=num_queries, num_rows=num_rows)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_exact_search_agrees_with_the_naive_loop(data):
    """Also with equal rows, near-equal rows, zero rows, masks, exclusions, and blocks that cut anywhere."""
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, dim, num_queries = draw(st.integers(1, 40)), draw(st.integers(1, 20)), draw(st.integers(0, 7))
    comparator = draw(st.sampled_from(COMPARATORS))
    vectors = rng.normal(size=(count, dim)) + draw(st.sampled_from([0, 0, 30, 1000]))
    if draw(st.booleans()):  # few distinct rows
        vectors = vectors[rng.integers(0, min(count, draw(st.integers(1, 3))), count)]
    vectors[rng.random(count) < 0.1] = 0
    queries = vectors[rng.integers(0, count, num_queries)] + rng.choice([0, 1], size=(num_queries, 1)) * rng.normal(
        size=(num_queries, dim)
    )
    queries = queries.astype(np.float32)
    bias = rng.normal(size=count) if comparator == "dot" and draw(st.booleans()) else None
    table = make_table(vectors.astype(draw(st.sampled_from([np.float32, np.float16]))), comparator, bias)
    among = None
    if draw(st.booleans()):
        among = np.flatnonzero(rng.random(count) < 0.5)
    exclude = {(i, j) for i in range(num_queries) for j in range(count) if rng.random() < 0.2}
    k = draw(st.integers(1, count + 3))

    index = ExactIndex.build(table, block_rows=draw(st.sampled_from([1, 3, 7, 1000])))
    rows, scores = index.search(queries, k, among=among, exclude=pairs_of(exclude, num_queries, count))

    expected_rows, expected_scores = naive_search(table, queries, k, among=among, exclude=exclude)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)


def test_scores_are_the_comparators_own():
    queries = np.array([[3.0, 4.0]], np.float32)
    for comparator, bias, expected in (
        ("dot", None, 3 * 1 + 4 * 2),
        ("dot", [0.5], 3 * 1 + 4 * 2 + 0.5),
        ("cos", None, 11 / (5 * 5**0.5)),
        ("l2", None, -(((3 - 1) ** 2 + (4 - 2) ** 2) ** 0.5)),
        ("squared_l2", None, -((3 - 1) ** 2 + (4 - 2) ** 2)),
    ):
        _, scores = ExactIndex.build(make_table([[1, 2]], comparator, bias)).search(queries, 1)
        assert scores[0, 0] == np.float32(expected)


def test_ties_at_the_cut_go_to_the_lower_rows():
    index = ExactIndex.build(make_table([[1], [2], [2], [2], [3]]), block_rows=2)
    assert index.search(np.array([[1.0]]), 3)[0].tolist() == [[4, 1, 2]]
    assert index.search(np.array([[-1.0]]), 3)[0].tolist() == [[0, 1, 2]]
    assert index.search(np.array([[0.0]]), 3)[0].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("dim", [17, 64, 100])
@pytest.mark.parametrize("num_queries", [1, 7, 64])
def test_equal_vectors_tie_wherever_they_stand(dim, num_queries):
    """BLAS gives them unequal products, depending on their column; which products differ depends on the numbers."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(50, dim))
        vectors[1::2] = vectors[1]
        queries = np.repeat(vectors[[1]], num_queries, axis=0)
        rows, scores = ExactIndex.build(make_table(vectors)).search(queries, 3)
        assert np.unique(rows, axis=0).tolist() == [[1, 3, 5]]
        assert len(np.unique(scores)) == 1


def test_distances_far_from_the_origin_are_not_drowned():
    """At 10 000 from the origin, |x|^2 - 2 q x + |q|^2 in float32 is off by 8; the distances here are about 0.1."""
    rng = np.random.default_rng(0)
    vectors = (10_000 + 0.05 * rng.normal(size=(300, 8))).astype(np.float32)
    table = make_table(vectors, "l2")
    rows, scores = ExactIndex.build(table, block_rows=64).search(vectors[:20], 5)
    expected_rows, expected_scores = naive_search(table, vectors[:20], 5)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert (scores[:, 0] == 0).all()
    assert not np.signbit(scores[:, 0]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_memory_mapped_tables_are_searched_in_place(tmp_path, dtype):
    rng = np.random.default_rng(0)
    table = make_table(rng.normal(size=(200, 5)).astype(dtype))
    table.save(tmp_path / "item")
    mapped = EmbeddingTable.load(tmp_path / "item")
    queries = rng.normal(size=(4, 5)).astype(np.float32)
    rows, scores = ExactIndex.build(mapped, block_rows=64).search(queries, 9)
    expected_rows, expected_scores = naive_search(table, queries, 9)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_a_mask_and_row_numbers_say_the_same():
    index = ExactIndex.build(make_table(np.arange(5)[:, None]))
    mask = np.array([True, False, True, True, False])
    for among in (mask, [3, 0, 2, 2], np.array([0, 2, 3], np.uint8)):
        assert index.search(np.ones((1, 1)), 4, among=np.asarray(among))[0].tolist() == [[3, 2, 0, -1]]
    assert index.search(np.ones((1, 1)), 2, among=np.array([], np.int64))[0].tolist() == [[-1, -1]]


def test_an_empty_table_has_nothing_to_find():
    rows, scores = ExactIndex.build(make_table(np.zeros((0, 3)), "l2")).search(np.ones((2, 3)), 2)
    assert rows.tolist() == [[-1, -1], [-1, -1]]
    assert np.isneginf(scores).all()


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "3"])
def test_k_is_a_positive_integer(k):
    with pytest.raises(ConfigError, match="expected an integer of at least 1"):
        ExactIndex.build(make_table(np.eye(2))).search(np.eye(2), k)


def test_wrong_inputs_are_refused_by_name():
    index = ExactIndex.build(make_table(np.eye(3)))
    with pytest.raises(DataError, match=r"shape \(2, 4\), expected \(queries, 3\)"):
        index.search(np.ones((2, 4)), 1)
    with pytest.raises(DataError, match=r"shape \(3,\), expected \(queries, 3\)"):
        index.search(np.ones(3), 1)
    with pytest.raises(DataError, match="1 query vectors are not finite, the first at position 1"):
        index.search(np.array([[0, 0, 0], [0, np.nan, 0]]), 1)
    with pytest.raises(DataError, match="rows run from 1 to 3, expected 0 to 2"):
        index.search(np.eye(3), 1, among=np.array([1, 3]))
    with pytest.raises(DataError, match=r"mask of rows has shape \(2,\), expected \(3,\)"):
        index.search(np.eye(3), 1, among=np.array([True, False]))
    with pytest.raises(DataError, match="expected integers or a mask"):
        index.search(np.eye(3), 1, among=np.array([0.5]))
    with pytest.raises(ConfigError, match="bias goes with 'dot' only"):
        ExactIndex.build(make_table(np.eye(2), "cos", bias=[1, 2]))
    with pytest.raises(ConfigError, match="block_rows is 0"):
        ExactIndex.build(make_table(np.eye(2)), block_rows=0)


@given(
    st.lists(
        st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(0, 2**32 - 2)), min_size=1
    )
)
def test_packed_keys_sort_by_score_then_row_and_unpack(entries):
    scores = np.array([score for score, _ in entries], np.float32)
    rows = np.array([row for _, row in entries], np.int64)
    keys = pack(scores, rows)
    assert (keys < EMPTY).all()
    order = sorted(range(len(entries)), key=lambda i: (-scores[i], rows[i]))
    assert np.sort(keys).tolist() == keys[order].tolist()
    unpacked_rows, unpacked_scores = unpack(keys)
    assert unpacked_rows.tolist() == rows.tolist()
    assert unpacked_scores.tolist() == scores.tolist()


def test_the_empty_key_is_no_row_at_minus_infinity():
    assert int(pack(np.array([-np.inf], np.float32), np.array([-1]))[0]) == int(EMPTY)
    rows, scores = unpack(np.array([EMPTY]))
    assert (rows.tolist(), scores.tolist()) == ([-1], [-np.inf])
