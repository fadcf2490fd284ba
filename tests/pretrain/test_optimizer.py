"""Adagrad: duplicates are summed first, one accumulator a row or an element, everything else stays as it was."""

import math

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.optimizer import adagrad_, row_adagrad_


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.integers(0, 5), min_size=1, max_size=12), seed=st.integers(0, 99), steps=st.integers(1, 3))
def test_rows_agree_with_float64_loops(rows, seed, steps):
    rng = np.random.default_rng(seed)
    table, state = rng.normal(size=(6, 3)), rng.random(6)
    ours, our_state = torch.from_numpy(table.copy()).float(), torch.from_numpy(state.copy()).float()
    for _ in range(steps):
        grads = rng.normal(size=(len(rows), 3))
        summed = np.zeros((6, 3))
        for row, grad in zip(rows, grads, strict=True):
            summed[row] += grad
        naive.row_adagrad(table, state, summed, set(rows), 0.1)
        row_adagrad_(ours, our_state, torch.tensor(rows), torch.from_numpy(grads).float(), 0.1)
    np.testing.assert_allclose(ours, table, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(our_state, state, rtol=1e-5, atol=1e-6)


def test_duplicates_are_summed_before_they_are_squared():
    table, state = torch.zeros(1, 2), torch.zeros(1)
    row_adagrad_(table, state, torch.tensor([0, 0]), torch.tensor([[3.0, 0.0], [1.0, 2.0]]), 0.5)
    # (4, 2): the mean square is (16 + 4) / 2 = 10, where squaring each first would give 9/2 + 5/2 = 7
    assert state.tolist() == [10.0]
    assert table[0].tolist() == pytest.approx([-0.5 * 4 / math.sqrt(10), -0.5 * 2 / math.sqrt(10)])


def test_gradients_that_cancel_leave_the_row_alone():
    table, state = torch.ones(1, 2), torch.zeros(1)
    row_adagrad_(table, state, torch.tensor([0, 0]), torch.tensor([[3.0, 1.0], [-3.0, -1.0]]), 0.5)
    assert table.tolist() == [[1.0, 1.0]]
    assert state.tolist() == [0.0]


def test_rows_that_take_no_part_keep_every_bit():
    table, state = torch.randn(5, 4), torch.rand(5)
    before, state_before = table.clone(), state.clone()
    row_adagrad_(table, state, torch.tensor([1, 3, 1]), torch.randn(3, 4), 0.1)
    for row in (0, 2, 4):
        assert torch.equal(table[row], before[row])
        assert state[row] == state_before[row]
    assert not torch.equal(table[1], before[1])
    assert not torch.equal(table[3], before[3])


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_first_step_has_the_length_of_the_learning_rate_whatever_the_gradient(size):
    table, state = torch.zeros(1, 4), torch.zeros(1)
    row_adagrad_(table, state, torch.tensor([0]), size * torch.tensor([[1.0, -2.0, 0.0, 2.0]]), 0.1)
    assert table.square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-3)


def test_the_second_of_two_equal_steps_is_shorter_by_the_root_of_two():
    table, state = torch.zeros(1, 1), torch.zeros(1)
    for _ in range(2):
        row_adagrad_(table, state, torch.tensor([0]), torch.tensor([[3.0]]), 1.0)
    assert table.item() == pytest.approx(-(1 + 1 / math.sqrt(2)))


def test_epsilon_stands_outside_the_root():
    table, state = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    row_adagrad_(table, state, torch.tensor([0]), torch.tensor([[1e-10]], dtype=torch.float64), 1.0)
    assert table.item() == pytest.approx(-1e-10 / (1e-10 + 1e-10))


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 3), min_size=1, max_size=6), seed=st.integers(0, 99), steps=st.integers(1, 3))
def test_parameters_agree_with_float64_loops(rows, seed, steps):
    """Rows of a block: what comes twice, as it does with one relation in both questions, is summed first."""
    rng = np.random.default_rng(seed)
    block, state = rng.normal(size=(4, 5)), rng.random((4, 5))
    ours, our_state = torch.from_numpy(block.copy()), torch.from_numpy(state.copy())
    for _ in range(steps):
        grads = rng.normal(size=(len(rows), 5)) * [1, 1e-3, 0, 10, 1]
        summed = np.zeros((4, 5))
        for row, grad in zip(rows, grads, strict=True):
            summed[row] += grad
        for row in set(rows):
            naive.adagrad(block[row], state[row], summed[row], 0.01)
        adagrad_(ours, our_state, torch.tensor(rows), torch.from_numpy(grads), 0.01)
    np.testing.assert_allclose(ours, block, rtol=1e-12)
    np.testing.assert_allclose(our_state, state, rtol=1e-12)


def test_every_parameter_has_its_own_first_step():
    block, state = torch.zeros(2, 3), torch.zeros(2, 3)
    adagrad_(block, state, torch.tensor([1]), torch.tensor([[1e-3, -5.0, 0.0]]), 0.01)
    assert block[1].tolist() == pytest.approx([-0.01, 0.01, 0.0])
    assert block[0].tolist() == state[0].tolist() == [0.0] * 3


def test_an_operator_without_parameters_has_nothing_to_update():
    block, state = torch.zeros(2, 0), torch.zeros(2, 0)
    adagrad_(block, state, torch.tensor([1, 0]), torch.zeros(2, 0), 0.01)
    assert block.shape == state.shape == (2, 0)


@pytest.mark.parametrize("update", [row_adagrad_, adagrad_])
@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 5), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_rows_that_were_updated_are_cut_to_the_maximal_norm(update, rows, seed):
    rng = np.random.default_rng(seed)
    table, state, grads = 2 * rng.normal(size=(6, 3)), rng.random((6, 3)), rng.normal(size=(len(rows), 3))
    state = state[:, 0].copy() if update is row_adagrad_ else state
    ours, our_state = torch.from_numpy(table.copy()), torch.from_numpy(state.copy())
    summed = np.zeros((6, 3))
    for row, grad in zip(rows, grads, strict=True):
        summed[row] += grad
    if update is row_adagrad_:
        naive.row_adagrad(table, state, summed, set(rows), 0.5)
    else:
        for row in set(rows):
            naive.adagrad(table[row], state[row], summed[row], 0.5)
    naive.shorten(table, set(rows), 1.5)
    update(ours, our_state, torch.tensor(rows), torch.from_numpy(grads), 0.5, max_norm=1.5)
    np.testing.assert_allclose(ours, table, rtol=1e-6)
    np.testing.assert_allclose(our_state, state, rtol=1e-12)
    assert all(np.linalg.norm(ours[row]) <= 1.5 * (1 + 1e-6) for row in rows)


def test_a_row_of_the_maximal_norm_keeps_its_direction_and_shorter_ones_their_length():
    table, state = torch.tensor([[3.0, 4.0], [0.3, 0.4], [30.0, 40.0]]), torch.zeros(3)
    row_adagrad_(table, state, torch.tensor([0, 1]), torch.zeros(2, 2), 0.1, max_norm=2.0)
    assert table[0].tolist() == pytest.approx([2.0 * 3 / 5, 2.0 * 4 / 5])
    assert table[1].tolist() == pytest.approx([0.3, 0.4])
    assert table[2].tolist() == [30.0, 40.0]  # took no part
