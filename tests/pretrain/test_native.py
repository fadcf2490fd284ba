"""The compiled kernels against the step in torch, in float64: every operator, comparator and loss, on every machine."""

import ctypes
import itertools
import os
import signal
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.comparators import COMPARATORS
from pretrain.config import TrainConfig
from pretrain.movers import forms
from pretrain.native import bindings as native
from pretrain.native.bindings import library
from pretrain.native.step import NativeStep, penalise_, update_
from pretrain.operators import OPERATORS
from pretrain.optimizer import adagrad_, row_adagrad_
from pretrain.regularisers import Factors
from pretrain.regularisers import penalise_ as in_torch
from pretrain.step import Batch, Gradients, Sampled, Step
from recokit.table import num_parameters

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels were not built: no C++ compiler")

LOSSES = {
    "softmax": {},
    "logistic": {"score_offset": 0.3},
    "logistic mean": {"loss": "logistic", "negative_reduction": "mean"},
    "logistic adversarial": {"loss": "logistic", "adversarial": 0.7},
    "ranking": {"margin": 0.4},
    "ranking mean": {"loss": "ranking", "negative_reduction": "mean"},
    "ranking adversarial": {"loss": "ranking", "adversarial": 1.5},
}
FIELDS = ("losses", "source_grads", "target_grads", "relation_grads", "source_bias_grads", "target_bias_grads")


@pytest.fixture(params=native.instructions())
def instructions(request):
    """Each instruction set that this machine has."""
    loaded = library()
    assert loaded.recokit_choose(ctypes.c_int64(native.instructions().index(request.param)))
    yield request.param
    loaded.recokit_choose(ctypes.c_int64(0))


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    return request.param


def config_of(operator, comparator, loss, **others):
    return TrainConfig(operator=operator, comparator=comparator, **{"loss": loss.split()[0], **LOSSES[loss], **others})


def steps(config, direction, threads=1):
    """The same step twice: in torch, and by the kernels."""
    side, reciprocal = ("source", True) if direction == "reciprocal" else (direction, False)
    both = forms(config.operator, side, config.comparator, reciprocal=reciprocal)
    plain = Step.of(config, both["target"], both["source"])
    return plain, NativeStep(both["target"], both["source"], config, threads)


def problem(config, *, size, negatives, seed, num_relations=3, biases=True, log_q=True, known=True, sides="both"):
    """Tables, parameters and a batch with duplicates and accidental positives."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    rows = lambda n, high: torch.randint(high, (n,), generator=generator)  # noqa: E731
    entities = 7, 9

    def sampled(count, high):
        found = torch.stack([rows(3 * size, size), rows(3 * size, count)]) if known and count else None
        return Sampled(rows(count, high), draw(count) if log_q else None, found, rows(size, size) if known else None)

    batch = Batch(
        rows(size, entities[0]),
        rows(size, entities[1]),
        rows(size, num_relations),
        draw(size).abs(),
        sampled(negatives, entities[0]) if sides != "target" else None,
        sampled(negatives, entities[1]) if sides != "source" else None,
        rows(size, num_relations),
    )
    tables = [draw(n, config.dim) for n in entities]
    block = draw(num_relations, num_parameters(config.operator, config.dim))
    bias = [draw(n) if biases else None for n in entities]
    return tables, block, batch, bias


def cast(x, dtype):
    if isinstance(x, torch.Tensor) and x.is_floating_point():
        return x.to(dtype)
    if isinstance(x, Batch | Sampled):
        return type(x)(**{name: cast(value, dtype) for name, value in vars(x).items()})
    return x


def run(step, given, dtype):
    tables, block, batch, bias = given
    tables, bias = [cast(t, dtype) for t in tables], [cast(b, dtype) for b in bias]
    return step(*tables, cast(block, dtype), cast(batch, dtype), source_bias=bias[0], target_bias=bias[1])


def assert_agree(got: Gradients, wanted: Gradients, tolerance: float) -> None:
    for field in FIELDS:
        ours, theirs = getattr(got, field), getattr(wanted, field)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            scale = max(1.0, float(theirs.abs().max()) if theirs.numel() else 1.0)
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=tolerance * scale, err_msg=field)
    for field in ("source_rows", "target_rows", "relation_rows"):
        assert getattr(got, field).tolist() == getattr(wanted, field).tolist()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("operator", "comparator"), list(itertools.product(OPERATORS, COMPARATORS)))
def test_kernels_agree_with_torch_in_float64(operator, comparator, loss):
    for number, (direction, sides, num_relations) in enumerate(
        itertools.product(("source", "target", "reciprocal"), ("both", "target", "source"), (1, 3))
    ):
        config = config_of(operator, comparator, loss, dim=6, temperature=0.8)
        plain, ours = steps(config, direction)
        extras = {"biases": number % 2 == 0, "log_q": loss == "softmax", "known": number % 3 == 0}
        given_ = problem(config, size=11, negatives=5, seed=number, num_relations=num_relations, sides=sides, **extras)
        assert_agree(run(ours, given_, torch.float32), run(plain, given_, torch.float64), 3e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 40).map(lambda n: 2 * n),
    st.integers(1, 200),
    st.integers(1, 120),
    st.sampled_from(list(COMPARATORS)),
    st.sampled_from(list(LOSSES)),
    st.sampled_from(["translation", "complex_diagonal", "rotation", "diagonal"]),
    st.integers(0, 10**6),
)
def test_kernels_agree_in_every_shape(dim, size, negatives, comparator, loss, operator, seed):
    loaded = library()
    try:
        for number in range(len(native.instructions())):
            loaded.recokit_choose(ctypes.c_int64(number))
            config = config_of(operator, comparator, loss, dim=dim, temperature=0.8)
            plain, ours = steps(config, "source")
            given_ = problem(config, size=size, negatives=negatives, seed=seed, log_q=False)
            assert_agree(run(ours, given_, torch.float32), run(plain, given_, torch.float64), 1e-4)
    finally:
        loaded.recokit_choose(ctypes.c_int64(0))


def test_any_number_of_threads_gives_the_same_to_rounding_and_twice_the_same_bytes(threads, instructions):
    config = TrainConfig(dim=20, temperature=0.5)
    plain, ours = steps(config, "source", threads)
    given_ = problem(config, size=230, negatives=37, seed=1, num_relations=1, biases=False)
    first, second = run(ours, given_, torch.float32), run(ours, given_, torch.float32)
    assert_agree(first, run(plain, given_, torch.float64), 1e-4)
    for field in FIELDS[:4]:
        assert torch.equal(getattr(first, field), getattr(second, field))


@pytest.mark.skipif(not native.has_bfloat16(), reason="this machine has no bfloat16 products")
@pytest.mark.parametrize("dim", [2, 16, 31, 100])
@pytest.mark.parametrize("comparator", ["dot", "cos"])
def test_bfloat16_products_are_as_near_as_bfloat16_numbers_are(dim, comparator, threads):
    config = TrainConfig(dim=dim, comparator=comparator, operator="translation", temperature=0.5, precision="auto")
    plain, ours = steps(config, "source", threads)
    given_ = problem(config, size=150, negatives=45, seed=dim, num_relations=3, biases=False)
    tables = [table * dim**-0.5 for table in given_[0]]
    wanted, got = (
        run(step, (tables, *given_[1:]), dtype) for step, dtype in ((plain, torch.float64), (ours, torch.float32))
    )
    assert_agree(got, wanted, 0.02)
    exact = run(
        NativeStep(
            ours.for_target, ours.for_source, config_of("translation", comparator, "softmax", dim=dim, temperature=0.5)
        ),
        (tables, *given_[1:]),
        torch.float32,
    )
    assert not torch.equal(got.source_grads, exact.source_grads)  # they were taken


def test_distances_never_take_bfloat16():
    config = TrainConfig(dim=8, comparator="l2", precision="auto")
    given_ = problem(config, size=9, negatives=5, seed=0)
    plain, ours = steps(config, "source")
    assert_agree(run(ours, given_, torch.float32), run(plain, given_, torch.float64), 3e-5)


@pytest.mark.parametrize("loss", ["softmax", "logistic", "ranking"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 80.0, 1e4, 1e8])
def test_scores_of_any_size_give_finite_losses_and_gradients(loss, size, instructions):
    config = config_of("identity", "dot", loss, dim=4, temperature=1.0)
    plain, ours = steps(config, "source")
    given_ = problem(config, size=40, negatives=21, seed=3, biases=False, log_q=False)
    tables = [given_[0][0] * size, given_[0][1]]
    got, wanted = (run(step, (tables, *given_[1:]), t) for step, t in ((ours, torch.float32), (plain, torch.float64)))
    for field in FIELDS[:3]:
        assert torch.isfinite(getattr(got, field)).all()
        scale = float(getattr(wanted, field).abs().max())
        np.testing.assert_allclose(getattr(got, field), getattr(wanted, field), rtol=0, atol=1e-5 * max(scale, 1))


def test_a_vector_of_zeros_has_the_cosine_0_and_no_nan(instructions):
    config = TrainConfig(dim=6, operator="identity", temperature=1.0)
    plain, ours = steps(config, "source")
    given_ = problem(config, size=12, negatives=7, seed=3, biases=False)
    tables = [torch.zeros_like(given_[0][0]), given_[0][1]]
    got, wanted = (run(step, (tables, *given_[1:]), t) for step, t in ((ours, torch.float32), (plain, torch.float64)))
    assert_agree(got, wanted, 1e-5)


def test_an_edge_whose_negatives_are_all_masked_loses_nothing_to_them(instructions):
    config = TrainConfig(dim=4, operator="identity", temperature=1.0)
    _, ours = steps(config, "source")
    rows = torch.tensor([2, 2, 2])
    batch = Batch(torch.tensor([1]), torch.tensor([2]), torch.tensor([0]), torch.ones(1), None, Sampled(rows))
    got = ours(torch.randn(3, 4), torch.randn(3, 4), torch.zeros(1, 0), batch)
    assert got.losses.tolist() == [0.0]
    assert not got.target_grads.any()


@pytest.mark.parametrize("max_norm", [0.0, 0.6])
@pytest.mark.parametrize("elements", [False, True])
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 70), st.integers(0, 60), st.integers(1, 300), st.integers(0, 10**6))
def test_the_optimizer_agrees_with_torch(elements, max_norm, dim, first, second, seed):
    draw = torch.Generator().manual_seed(seed)
    table, state = torch.randn(50, dim, generator=draw), torch.rand(50, dim, generator=draw)
    state = state if elements else state[:, 0].clone()
    parts = [(torch.randint(50, (n,), generator=draw), torch.randn(n, dim, generator=draw)) for n in (first, second)]
    rows, grads = (torch.cat(part) for part in zip(*parts, strict=True))
    wanted = table.double(), state.double()
    (adagrad_ if elements else row_adagrad_)(*wanted, rows, grads.double(), 0.3, max_norm=max_norm)
    update_(table, state, parts, 0.3, max_norm=max_norm)
    np.testing.assert_allclose(table, wanted[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(state, wanted[1], rtol=2e-5)


def test_the_optimizer_gives_the_same_bytes_on_any_number_of_threads(threads, instructions):
    draw = torch.Generator().manual_seed(0)
    table, state = torch.randn(40, 33, generator=draw), torch.rand(40, generator=draw)
    rows, grads = torch.randint(40, (500,), generator=draw), torch.randn(500, 33, generator=draw)
    alone = table.clone(), state.clone()
    update_(*alone, [(rows, grads)], 0.1)
    update_(table, state, [(rows, grads)], 0.1, threads=threads)
    assert torch.equal(table, alone[0])
    assert torch.equal(state, alone[1])


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 70), st.booleans(), st.integers(0, 20), st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 0.7]),
    st.integers(1, 3), st.integers(0, 10**6),
)  # fmt: skip
def test_penalties_agree_with_torch(half, complex_numbers, size, l2, n3, used, seed):
    draw = torch.Generator().manual_seed(seed)
    table, dim = torch.randn(30, 2 * half, generator=draw), 2 * half
    rows, weights = torch.randint(30, (size,), generator=draw), torch.rand(size, generator=draw)
    losses, grads = torch.randn(size, generator=draw), torch.randn(size, dim, generator=draw)
    wanted = losses.double(), grads.double()
    factors = Factors(l2, n3, complex_numbers)
    in_torch(table.double(), rows, weights.double(), wanted, factors)
    alone = losses.clone(), grads.clone()
    penalise_(table, rows, weights, alone, factors)
    penalise_(table, rows, weights, (losses, grads), factors, threads=used)
    assert torch.equal(losses, alone[0])
    assert torch.equal(grads, alone[1])
    np.testing.assert_allclose(losses, wanted[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grads, wanted[1], rtol=1e-5, atol=1e-5)


def test_penalties_by_hand(instructions):
    table, losses = torch.tensor([[9.0, 9.0], [3.0, -4.0]]), torch.ones(1)
    call = {"table": table, "rows": torch.tensor([1]), "weights": torch.tensor([0.5])}
    grads = torch.tensor([[1.0, 0.0]])
    penalise_(**call, totals=(losses, grads), factors=Factors(l2=2.0, n3=0.0, complex_numbers=False))
    assert (losses.tolist(), grads.tolist()) == ([1 + 0.5 * 2 * 25], [[1 + 0.5 * 2 * 2 * 3, -8.0]])
    grads.zero_(), losses.zero_()
    penalise_(**call, totals=(losses, grads), factors=Factors(l2=0.0, n3=1.0, complex_numbers=False))
    assert (losses.tolist(), grads.tolist()) == ([0.5 * (27 + 64)], [[0.5 * 27, -0.5 * 48]])
    grads.zero_(), losses.zero_()
    penalise_(**call, totals=(losses, grads), factors=Factors(l2=0.0, n3=1.0, complex_numbers=True))  # 3 - 4i
    assert (losses.tolist(), grads.tolist()) == ([0.5 * 125], [[0.5 * 3 * 5 * 3, -0.5 * 3 * 5 * 4]])


def test_a_child_of_a_fork_has_threads_of_its_own():
    table, state, rows, grads = torch.ones(4, 3), torch.zeros(4), torch.tensor([0, 1, 2]), torch.ones(3, 3)
    call = native.Update(table=table.data_ptr(), state=state.data_ptr(), dim=3, rate=0.5, parts=1, threads=3)
    call.rows[0], call.grads[0], call.counts[0] = rows.data_ptr(), grads.data_ptr(), 3
    loaded = library()
    assert loaded.recokit_update(ctypes.byref(call))
    if (child := os.fork()) == 0:  # torch itself does not bear a fork, so the child does without it
        os._exit(7 if loaded.recokit_update(ctypes.byref(call)) else 1)
    deadline = time.monotonic() + 20
    while (found := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    if found[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(found[1]) == 7
    assert table[:3].tolist() == [[0.5] * 3] * 3  # 1 - .5 / sqrt(1); the child's step was its own


def test_threads_that_a_call_does_not_want_stay_out_of_it():
    table, state = torch.zeros(64, 5), torch.zeros(64)
    rows, grads = torch.arange(64), torch.ones(64, 5)
    for number in range(300):  # a thread that works twice for a round would take a step twice
        update_(table, state, [(rows, grads)], 1.0, threads=(7, 2, 3)[number % 3])
    assert state.tolist() == [300.0] * 64
