"""Operators and comparators one by one: values in loops and in NumPy, gradients by autograd, and what they preserve."""

import math

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.comparators import COMPARATORS
from pretrain.movers import forms
from pretrain.operators import OPERATORS, start
from recokit.errors import ConfigError
from recokit.table import RelationParameters, num_parameters

DIM = 6
NAMES = ("identity", "translation", "diagonal", "complex_diagonal", "linear", "affine", "rotation")
DISTANCES = ("l2", "squared_l2")
# Where comparator(operator(x), y) = comparator(x, operator'(y)) + number(y): what scores of every pair allow.
PULLED = {
    *((operator, comparator) for operator in ("identity", "rotation") for comparator in COMPARATORS),
    *(("translation", comparator) for comparator in DISTANCES),
    *((operator, "dot") for operator in NAMES),
}


def problem(operator, *, size=7, relations=3, seed=0):
    """Random vectors (B, D), a block (R, P) and the row of every vector, float64."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (size, DIM), (relations, num_parameters(operator, DIM))
    vectors, block = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return vectors, block, torch.randint(relations, (size,), generator=generator)


def in_loops(operator, vectors, block, which):
    rows = [0] * len(vectors) if which is None else which.tolist()
    moved = [naive.operate(operator, v.numpy(), block[row].numpy()) for v, row in zip(vectors, rows, strict=True)]
    return np.array(moved).reshape(-1, DIM)


def test_these_are_all():
    assert set(OPERATORS) == set(NAMES)
    assert set(COMPARATORS) == {"dot", "cos", *DISTANCES}


@pytest.mark.parametrize("operator", NAMES)
def test_values_agree_with_loops_and_with_the_tables(operator):
    vectors, block, which = problem(operator)
    mixed = OPERATORS[operator].forward(vectors, block, which)
    np.testing.assert_allclose(mixed, in_loops(operator, vectors, block, which), rtol=1e-12, atol=1e-12)
    for row in range(len(block)):
        one = OPERATORS[operator].forward(vectors, block[row : row + 1], None)
        parameters = block[row].float()  # a table's parameters are float32
        table = RelationParameters("r", "a", "b", operator, parameters.numpy()).apply(vectors.numpy())
        np.testing.assert_allclose(one, in_loops(operator, vectors, block[row : row + 1], None), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(one, table, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(mixed[which == row], one[which == row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", NAMES)
def test_every_operator_starts_as_the_identity(operator):
    first = start(operator, DIM)
    assert first.tolist() == naive.identity_parameters(operator, DIM).tolist()
    assert first.shape == (num_parameters(operator, DIM),)
    vectors = torch.randn(5, DIM, generator=torch.Generator().manual_seed(0))
    assert torch.equal(OPERATORS[operator].forward(vectors, first[None], None), vectors)
    which = torch.tensor([1, 0, 1, 1, 0])
    assert torch.equal(OPERATORS[operator].forward(vectors, first.repeat(2, 1), which), vectors)
    table = RelationParameters("r", "a", "b", operator, first.numpy())
    np.testing.assert_array_equal(table.apply(vectors.numpy()), vectors)


@pytest.mark.parametrize("operator", ["complex_diagonal", "rotation"])
def test_complex_numbers_need_an_even_dimension(operator):
    with pytest.raises(ConfigError, match="needs an even dim, got 5"):
        start(operator, 5)


def test_a_quarter_turn_and_a_shear_by_hand():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)  # 1 + 3i and 2 + 4i
    quarter = torch.tensor([[math.pi / 2, 0.0]], dtype=torch.float64)
    assert OPERATORS["rotation"].forward(x, quarter, None)[0].tolist() == pytest.approx([-3.0, 2.0, 1.0, 4.0])
    times = torch.tensor([[0.0, 2.0, 1.0, 0.0]], dtype=torch.float64)  # i and 2
    assert OPERATORS["complex_diagonal"].forward(x, times, None)[0].tolist() == [-3.0, 4.0, 1.0, 8.0]
    shear = torch.tensor([[1.0, 5.0, 0.0, 1.0, 7.0, -1.0]], dtype=torch.float64)  # W = ((1, 5), (0, 1)), then t
    assert OPERATORS["affine"].forward(x[:, :2], shear, None)[0].tolist() == [1 + 5 * 2 + 7, 2 - 1]
    assert OPERATORS["linear"].forward(x[:, :2], shear[:, :4], None)[0].tolist() == [11.0, 2.0]


def test_complex_diagonal_with_dot_is_the_complex_score():
    rng = np.random.default_rng(0)
    s, r, t = rng.normal(size=(3, 4, DIM // 2)) + 1j * rng.normal(size=(3, 4, DIM // 2))
    expected = (s * r * t.conj()).sum(1).real  # Re⟨s, r, conj(t)⟩
    s, r, t = (torch.from_numpy(np.concatenate([z.real, z.imag], 1)) for z in (s, r, t))
    moved = OPERATORS["complex_diagonal"].forward(s, r, torch.arange(4))
    np.testing.assert_allclose(COMPARATORS["dot"].pairs(moved, t)[0], expected, rtol=1e-12)


def test_rotations_keep_norms_and_distances_and_add_up():
    vectors, block, which = problem("rotation")
    forward = OPERATORS["rotation"].forward
    once = forward(vectors, block, which)
    torch.testing.assert_close(once.norm(dim=1), vectors.norm(dim=1), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.cdist(forward(vectors, block[:1], None), forward(vectors, block[:1], None)), torch.cdist(vectors, vectors)
    )
    torch.testing.assert_close(forward(once, block, which), forward(vectors, 2 * block, which))
    torch.testing.assert_close(forward(once, -block, which), vectors)
    torch.testing.assert_close(forward(vectors, block + 2 * math.pi, which), once)


@settings(max_examples=60, deadline=None)
@given(
    operator=st.sampled_from(NAMES), mixed=st.booleans(), size=st.integers(0, 6), relations=st.integers(1, 4),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_gradients_agree_with_autograd_of_the_values(operator, mixed, size, relations, seed):
    vectors, block, which = problem(operator, size=size, relations=relations if mixed else 1, seed=seed)
    which = which if mixed else None
    grad = torch.randn(size, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    inputs = [vectors.clone().requires_grad_(), block.clone().requires_grad_()]
    # The values are right (above); torch's way back through them must be the way back by hand.
    value = (OPERATORS[operator].forward(*inputs, which) * grad).sum()
    expected = [torch.zeros_like(tensor) for tensor in inputs]
    if value.requires_grad:
        expected = torch.autograd.grad(value, inputs, materialize_grads=True)
    ours = OPERATORS[operator].backward(vectors, block, which, grad.clone())
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", NAMES)
def test_thousands_of_relations_at_once_are_one_relation_at_a_time(operator):
    vectors, block, which = problem(operator, size=4000, relations=2000)
    vectors, block = vectors.float(), block.float()
    grad = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
    moved = OPERATORS[operator].forward(vectors, block, which)
    own, grad_block = OPERATORS[operator].backward(vectors, block, which, grad)
    for row in (0, 1, 2, 77, 1999):
        rows, one = which == row, block[row : row + 1]
        torch.testing.assert_close(moved[rows], OPERATORS[operator].forward(vectors[rows], one, None))
        expected = OPERATORS[operator].backward(vectors[rows], one, None, grad[rows])
        torch.testing.assert_close(own[rows], expected[0])
        torch.testing.assert_close(grad_block[row], expected[1][0], rtol=1e-5, atol=1e-5)
    absent = np.setdiff1d(np.arange(2000), which)
    assert len(absent) > 100
    assert not grad_block[absent].any()


@pytest.mark.parametrize("comparator", COMPARATORS)
@pytest.mark.parametrize("operator", NAMES)
def test_who_is_asked_can_be_moved_instead_of_the_candidates(operator, comparator):
    vectors, block, which = problem(operator)
    others = torch.randn(5, DIM, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    form = forms(operator, "target", comparator)["target"]
    assert form.moves == ("anchors" if (operator, comparator) in PULLED else "candidates")
    if form.moves == "candidates":
        return
    pull = form.mover
    expected = [  # the candidates `others` moved by the relation of each vector
        [naive.compare(comparator, naive.operate(operator, x.numpy(), block[r].numpy()), y.numpy()) for x in others]
        for y, r in zip(vectors, which.tolist(), strict=True)
    ]
    inputs = [vectors.requires_grad_(), block.requires_grad_()]
    weights = torch.randn(len(vectors), len(others), generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def scores(moved, offset):
        prepared = [COMPARATORS[comparator].prepare(x)[0] for x in (moved, others)]
        block = COMPARATORS[comparator].block(*prepared)[0]
        return block if offset is None else block + offset[:, None]

    with torch.no_grad():
        moved, offset = pull.forward(vectors, block, which)
        np.testing.assert_allclose(scores(moved, offset), expected, rtol=1e-10, atol=1e-10)
    # Autograd through the values, against the way back by hand from the gradient of the moved vectors and the offset.
    moved, offset = pull.forward(*inputs, which)
    free = [moved.detach().requires_grad_(), torch.zeros(len(vectors), dtype=torch.float64).requires_grad_()]
    seeds = torch.autograd.grad((scores(*free) * weights).sum(), free)
    expected_grads = torch.autograd.grad((scores(moved, offset) * weights).sum(), inputs, materialize_grads=True)
    with torch.no_grad():
        ours = pull.backward(vectors, block, which, *seeds)
    for one, other in zip(ours, expected_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("operator", NAMES)
def test_where_the_operator_stands_on_the_anchor_it_is_the_mover(operator):
    vectors, block, which = problem(operator)
    for comparator in COMPARATORS:
        reciprocal = forms(operator, "source", comparator, reciprocal=True)
        for form in (
            forms(operator, "source", comparator)["target"], forms(operator, "target", comparator)["source"],
            reciprocal["source"], reciprocal["target"],
        ):  # fmt: skip
            moved, offset = form.mover.forward(vectors, block, which)
            assert form.moves == "anchors"
            assert offset is None
            assert torch.equal(moved, OPERATORS[operator].forward(vectors, block, which))


def pairs_and_block(comparator, a, b):
    prepared = [COMPARATORS[comparator].prepare(x)[0] for x in (a, b)]
    return COMPARATORS[comparator].pairs(*prepared)[0], COMPARATORS[comparator].block(*prepared)[0]


@pytest.mark.parametrize("comparator", COMPARATORS)
@settings(max_examples=15, deadline=None)
@given(size=st.integers(1, 6), seed=st.integers(0, 99), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_scores_of_pairs_and_blocks_agree_with_loops(comparator, size, seed, scale):
    rng = np.random.default_rng(seed)
    a, b = scale * rng.normal(size=(2, size, DIM))
    pairs, block = pairs_and_block(comparator, torch.from_numpy(a), torch.from_numpy(b))
    expected = np.array([[naive.compare(comparator, x, y) for y in b] for x in a])
    np.testing.assert_allclose(block, expected, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(pairs, expected.diagonal(), rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("comparator", DISTANCES)
def test_equal_vectors_have_distance_zero_and_gradient_zero(comparator, dtype):
    compare = COMPARATORS[comparator]
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(50, 40, generator=generator, dtype=torch.float64).to(dtype) * torch.logspace(-3, 3, 50)[:, None]
    pairs, cache = compare.pairs(a, a.clone())
    assert not pairs.any()
    assert not any(grad.any() for grad in compare.pairs_backward(a, a.clone(), cache, torch.ones(50, dtype=a.dtype)))
    block, cache = compare.block(a, a.clone())
    assert not block.diagonal().any()
    alone = torch.eye(50, dtype=a.dtype)  # only the gradients of the zero distances
    for grad in compare.block_backward(a, a.clone(), cache, alone):
        # squared: 2 (b - a), the difference of two equal sums; Euclidean: nothing at all, and no NaN
        assert not grad.any()


def test_distances_by_hand():
    a, b = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    pairs, block = pairs_and_block("l2", a, b)
    assert pairs.tolist() == [-5.0, 0.0]
    assert block[0].tolist() == pytest.approx([-5.0, -math.sqrt(2)])
    pairs, block = pairs_and_block("squared_l2", a, b)
    assert pairs.tolist() == [-25.0, 0.0]
    assert block.tolist() == [[-25.0, -2.0], [-13.0, 0.0]]


@pytest.mark.parametrize("comparator", DISTANCES)
def test_close_vectors_far_from_the_origin_lose_no_more_than_rounding(comparator):
    generator = torch.Generator().manual_seed(0)
    a = 10 + torch.randn(30, 16, generator=generator, dtype=torch.float64)
    b = a + 0.1 * torch.randn(30, 16, generator=generator, dtype=torch.float64)
    exact = pairs_and_block(comparator, a, b)[1]
    ours = pairs_and_block(comparator, a.float(), b.float())[1].double()
    squares = (lambda x: x.square()) if comparator == "l2" else torch.abs
    bound = 8 * 1.2e-7 * (a.square().sum(1)[:, None] + b.square().sum(1))
    assert ((squares(ours) - squares(exact)).abs() <= bound).all()


def test_a_zero_vector_has_the_cosine_zero():
    pairs, block = pairs_and_block("cos", torch.zeros(2, 3), torch.eye(2, 3))
    assert pairs.tolist() == [0.0, 0.0]
    assert block.tolist() == [[0.0, 0.0], [0.0, 0.0]]
