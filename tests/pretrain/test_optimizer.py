"""Row-wise Adagrad: duplicates are summed first, one accumulator a row, everything else stays as it was."""

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


def test_parameters_agree_with_float64_loops():
    rng = np.random.default_rng(0)
    parameters, state = rng.normal(size=5), np.zeros(5)
    ours, our_state = torch.from_numpy(parameters.copy()), torch.zeros(5, dtype=torch.float64)
    for _ in range(3):
        grad = rng.normal(size=5) * [1, 1e-3, 0, 10, 1]
        naive.adagrad(parameters, state, grad, 0.01)
        adagrad_(ours, our_state, torch.from_numpy(grad), 0.01)
    np.testing.assert_allclose(ours, parameters, rtol=1e-12)
    np.testing.assert_allclose(our_state, state, rtol=1e-12)


def test_every_parameter_has_its_own_first_step():
    parameters, state = torch.zeros(3), torch.zeros(3)
    adagrad_(parameters, state, torch.tensor([1e-3, -5.0, 0.0]), 0.01)
    assert parameters.tolist() == pytest.approx([-0.01, 0.01, 0.0])
