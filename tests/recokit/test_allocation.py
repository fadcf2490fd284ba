"""Places are shared as the papers' words say, in fractions, and as the methods of apportionment do."""

from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixture_oracle import allocated, hamilton

from recokit.candidates.allocation import Allocation, Lists, allocate, check_allocation, quotas
from recokit.errors import ConfigError

ALLOCATIONS = get_args(Allocation)
each_allocation = pytest.mark.parametrize("allocation", ALLOCATIONS)


def lists_of(queries, length):
    """Arrays of [[(item, alpha, score), ...] for each component] for each query."""
    num_components = len(queries[0])
    rows = np.full((len(queries), num_components, length), -1)
    alphas, scores = np.full((2, *rows.shape), -np.inf, np.float32)
    for q, components in enumerate(queries):
        for c, found in enumerate(components):
            for r, (item, alpha, score) in enumerate(found):
                rows[q, c, r], alphas[q, c, r], scores[q, c, r] = item, alpha, score
    return Lists(rows, alphas, scores)


def chosen(lists, weights, k, allocation):
    """[(item, score, component)] of each query."""
    slots = allocate(lists, np.asarray(weights, np.float32), k, allocation)
    length = lists.rows.shape[2]
    return [
        [(int(lists.rows[q].ravel()[s]), lists.scores[q].ravel()[s], int(s) // length) for s in line if s >= 0]
        for q, line in enumerate(slots)
    ]


def disjoint(num_components, length, num_queries=1):
    rows = np.arange(num_queries * num_components * length).reshape(num_queries, num_components, length)
    alphas = np.broadcast_to(-np.arange(length, dtype=np.float32), rows.shape).copy()
    return Lists(rows, alphas, alphas)


def seats(weights, k, allocation):
    found = chosen(disjoint(len(weights), k), [weights], k, allocation)[0]
    return np.bincount([c for _, _, c in found], minlength=len(weights)).tolist()


@st.composite
def shared_lists(draw):
    """Lists that share candidates, with few distinct alphas and scores, some short, and weights that tie or are 0."""
    num_queries, num_components, k = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_items = draw(st.integers(1, 14))
    length = min(k, num_items)
    queries = []
    for _ in range(num_queries):
        components = []
        for _ in range(num_components):
            size = length if draw(st.booleans()) else int(rng.integers(0, length + 1))
            items = rng.permutation(num_items)[:size]
            found = [(int(i), np.float32(rng.integers(-2, 3)), np.float32(rng.integers(-2, 3))) for i in items]
            components.append(sorted(found, key=lambda each: (-each[1], each[0])))
        queries.append(components)
    if draw(st.booleans()):
        weights = rng.integers(0, 4, (num_queries, num_components)).astype(np.float32)
    else:
        weights = rng.dirichlet(np.ones(num_components), num_queries).astype(np.float32)
    weights[weights.sum(axis=1) == 0, 0] = 1
    return queries, weights, k


@each_allocation
@settings(max_examples=80, deadline=None)
@given(case=shared_lists())
def test_allocations_agree_with_the_words(allocation, case):
    queries, weights, k = case
    expected = [allocated(lists, w, k, allocation) for lists, w in zip(queries, weights, strict=True)]
    assert chosen(lists_of(queries, k), weights, k, allocation) == expected


@pytest.mark.parametrize(
    ("allocation", "expected"),
    [
        ("round_robin", ([5, 3, 2], [10, 0, 0, 0, 0], [16, 1, 1, 1, 1])),
        ("proportional", ([5, 3, 2], [8, 1, 1, 0, 0], [16, 1, 1, 1, 1])),
        ("sainte_lague", ([5, 3, 2], [8, 1, 1, 0, 0], [16, 1, 1, 1, 1])),
        ("min_one", ([5, 3, 2], [6, 1, 1, 1, 1], [16, 1, 1, 1, 1])),
    ],
)
def test_seats_of_lists_that_share_nothing(allocation, expected):
    skewed = [0.8, 0.05, 0.05, 0.05, 0.05]
    assert (seats([0.5, 0.3, 0.2], 10, allocation), seats(skewed, 10, allocation), seats(skewed, 20, allocation)) == (
        expected
    )


@pytest.mark.parametrize(("allocation", "divisor"), [("round_robin", 1), ("sainte_lague", Fraction(1, 2))])
@settings(max_examples=60, deadline=None)
@given(weights=st.lists(st.integers(1, 50), min_size=1, max_size=5), k=st.integers(1, 30))
def test_divisor_methods_are_what_they_are_called(allocation, divisor, weights, k):
    """D'Hondt gives the next seat to the highest w / (seats + 1), Sainte-Lague to that of w / (seats + 1/2)."""
    expected = [0] * len(weights)
    for _ in range(k):
        # Equal ones go to the higher alpha, which is that of the component with fewer seats here.
        best = max(range(len(weights)), key=lambda c: (weights[c] / (expected[c] + divisor), -expected[c], -c))
        expected[best] += 1
    assert seats(weights, k, allocation) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any), st.integers(1, 40))
def test_quotas_are_hamiltons(weights, k):
    exact = [Fraction(w) for w in weights]
    power = 1 << (sum(weights) - 1).bit_length()
    weights[weights.index(max(weights))] += power - sum(weights)  # dyadic shares, without rounding
    exact = [Fraction(w, power) for w in weights]
    assert quotas(np.array([weights], np.float32), k)[0].tolist() == hamilton(exact, k)


def test_hamilton_can_take_a_place_away():
    """The Alabama paradox, so that proportional lists are no prefixes of longer ones."""
    weights = np.array([[0.45, 0.45, 0.1]])
    assert [quotas(weights, k)[0].tolist() for k in (3, 4, 5)] == [[2, 1, 0], [2, 2, 0], [2, 2, 1]]
    weights = np.array([[6, 6, 2]])
    assert [quotas(weights, k)[0].tolist() for k in (10, 11)] == [[4, 4, 2], [5, 5, 1]]


@each_allocation
@settings(max_examples=40, deadline=None)
@given(case=shared_lists(), cut=st.integers(1, 9))
def test_all_but_proportional_are_prefix_stable(allocation, case, cut):
    queries, weights, k = case
    cut = min(cut, k)
    lists = lists_of(queries, k)
    longer = chosen(lists, weights, k, allocation)
    if allocation == "max_score":  # its own order is not that of alpha: prefixes are those of score
        lists = Lists(lists.rows, lists.alphas, lists.alphas)
        longer = chosen(lists, weights, k, allocation)
    shorter = chosen(
        Lists(*(a[:, :, :cut] for a in (lists.rows, lists.alphas, lists.scores))), weights, cut, allocation
    )
    if allocation != "proportional":
        assert [line[:cut] for line in longer] == shorter


def test_a_candidate_of_two_components_belongs_where_it_ranks_best():
    lists = lists_of([[[(7, 9, 9), (8, 8, 8), (1, 1, 1)], [(8, 5, 5), (7, 4, 4), (2, 3, 3)]]], 3)
    # 8 is first of component 1, so component 0 goes on to 1; values 2w/(2r'-1): 1.2, .8, .4 (7, 8, 1), .27 (2).
    assert chosen(lists, [[0.6, 0.4]], 3, "proportional") == [[(7, 9, 0), (8, 5, 1), (1, 1, 0)]]
    assert chosen(lists, [[0.6, 0.4]], 2, "round_robin") == [[(7, 9, 0), (8, 5, 1)]]
    assert chosen(lists, [[0.9, 0.1]], 3, "round_robin") == [[(7, 9, 0), (8, 8, 0), (1, 1, 0)]]


def test_places_that_a_component_cannot_fill_pass_on():
    same = [(1, 5, 5), (2, 4, 4), (3, 3, 3), (4, 2, 2)]
    lists = lists_of([[same, same]], 4)
    for weights in ([[0.5, 0.5]], [[0.75, 0.25]]):  # all belong to the heavier, of equals the first
        assert [c for _, _, c in chosen(lists, weights, 4, "proportional")[0]] == [0, 0, 0, 0]
    assert [c for _, _, c in chosen(lists, [[0.25, 0.75]], 4, "proportional")[0]] == [1, 1, 1, 1]


def test_equal_values_go_to_the_higher_alpha_then_the_smaller_row():
    lists = lists_of([[[(5, 1, 1)], [(4, 1, 1)], [(9, 2, 2)]]], 1)
    assert chosen(lists, [[1, 1, 1]], 1, "round_robin") == [[(9, 2, 2)]]
    assert chosen(lists, [[1, 1, 0]], 1, "round_robin") == [[(4, 1, 1)]]
    twice = lists_of([[[(5, 1, 1)], [(5, 3, 3)], [(5, 3, 3)]]], 1)
    assert chosen(twice, [[1, 1, 1]], 1, "round_robin") == [[(5, 3, 1)]]


@each_allocation
def test_nothing_comes_of_no_queries_and_of_no_candidates(allocation):
    assert allocate(disjoint(2, 3, 0), np.zeros((0, 2), np.float32), 3, allocation).shape == (0, 3)
    nothing = lists_of([[[], []]], 3)
    assert allocate(nothing, np.float32([[0.5, 0.5]]), 3, allocation).tolist() == [[-1, -1, -1]]


def test_an_unknown_allocation_is_refused():
    with pytest.raises(ConfigError, match="allocation='round-robin' is no choice; did you mean 'round_robin'"):
        check_allocation("round-robin")
