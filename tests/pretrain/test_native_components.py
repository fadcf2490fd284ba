"""The compiled kernels against the step in torch, in float64, where entities have several components."""

import ctypes
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_native import FIELDS, LOSSES, assert_agree, config_of, instructions, run, threads

from pretrain.movers import forms
from pretrain.native import bindings as native
from pretrain.native.bindings import library
from pretrain.native.step import NativeStep
from pretrain.step import Batch, Sampled, Step
from recokit.table import num_parameters

__all__ = ["instructions", "threads"]  # fixtures

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels were not built: no C++ compiler")

POOLINGS = [
    {"pooling": "smoothmax", "pooling_form": "normalized", "pooling_temperature": 0.3, "pooling_regularization": 0.1},
    {"pooling": "smoothmax", "pooling_form": "printed", "pooling_temperature": 1.0, "pooling_regularization": 0.4},
    {"pooling": "max", "pooling_form": "normalized", "pooling_regularization": 0.2},
    {"pooling": "max", "pooling_form": "printed", "pooling_regularization": 0.0},
]


def mixed(operator, comparator, loss, pooling, **others):
    return config_of(operator, comparator, loss, components={"user": 2}, **POOLINGS[pooling], **others)


def steps(config, direction="source", threads=1):
    """The same step twice: in torch, and by the kernels."""
    side, reciprocal = ("source", True) if direction == "reciprocal" else (direction, False)
    both = forms(config.operator, side, config.comparator, reciprocal=reciprocal, offsets=False)
    return Step.of(config, both["target"], both["source"]), NativeStep(both["target"], both["source"], config, threads)


def problem(config, components, *, size, negatives, seed, num_relations=3, biases=True, log_q=False, known=False,
            sides="both"):  # fmt: skip
    """Tables, parameters and a batch with duplicates and accidental positives."""
    draw = torch.Generator().manual_seed(seed)
    entities = max(3, size // 2), max(3, size // 3)

    def rows(count, below):
        return torch.randint(below, (count,), generator=draw)

    def numbers(*shape):
        return torch.randn(shape, generator=draw)

    def sampled(side):
        drawn = rows(negatives, entities[side])
        found = torch.stack([rows(size // 2, size), rows(size // 2, negatives)]) if known and negatives else None
        return Sampled(drawn, numbers(negatives) if log_q else None, found, rows(size, size) if known else None)

    batch = Batch(
        rows(size, entities[0]),
        rows(size, entities[1]),
        rows(size, num_relations),
        numbers(size).abs(),
        sampled(0) if sides != "target" else None,
        sampled(1) if sides != "source" else None,
        rows(size, num_relations),
    )
    tables = [numbers(count, each * config.dim) for count, each in zip(entities, components, strict=True)]
    block = numbers(num_relations, num_parameters(config.operator, config.dim))
    return tables, block, batch, [numbers(count) if biases else None for count in entities]


def check(config, components, tolerance, *, direction="source", threads=1, **others):
    plain, ours = steps(config, direction, threads)
    asked = problem(config, components, **others)
    assert_agree(run(ours, asked, torch.float32), run(plain, asked, torch.float64), tolerance)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("comparator", ["cos", "dot"])
@pytest.mark.parametrize(
    "operator", ["identity", "translation", "diagonal", "complex_diagonal", "rotation", "linear", "affine"]
)
def test_kernels_agree_with_torch_in_float64(operator, comparator, loss):
    shapes = itertools.cycle([(5, 1), (1, 3), (2, 3), (3, 3)])
    for number, (direction, sides, pooling) in enumerate(
        itertools.product(("source", "target", "reciprocal"), ("both", "target", "source"), range(2))
    ):
        config = mixed(operator, comparator, loss, (2 * pooling + number // 2) % 4, dim=6, temperature=0.8)
        extras = {"biases": number % 2 == 0, "log_q": loss == "softmax", "known": number % 3 == 0}
        relations = 1 if number % 4 == 0 else 3
        check(
            config, next(shapes), 1e-4, direction=direction, size=11, negatives=5, seed=number,
            num_relations=relations, sides=sides, **extras,
        )  # fmt: skip


@pytest.mark.parametrize("pooling", range(4))
@pytest.mark.parametrize("components", [(64, 1), (1, 64), (33, 2), (21, 5), (8, 8), (64, 3)])
def test_as_many_components_as_a_tile_holds(components, pooling, instructions):
    config = mixed("translation", "cos", "softmax", pooling, dim=7, temperature=0.7)
    check(config, components, 1e-4, size=23, negatives=17, seed=1)


@pytest.mark.parametrize("negatives", [0, 1, 17])
@pytest.mark.parametrize("dim", [1, 7, 18, 64])
def test_odd_dimensions_and_few_negatives(dim, negatives, instructions):
    for number, components in enumerate([(5, 1), (1, 3), (2, 3)]):
        loss = ("softmax", "logistic", "ranking")[(number + dim) % 3]
        config = mixed("translation", ("cos", "dot")[number % 2], loss, 0, dim=dim, temperature=2.0)
        check(config, components, 2e-4, size=29, negatives=negatives, seed=dim, known=True)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40).map(lambda n: 2 * n),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 150),
    st.integers(1, 70),
    st.sampled_from(["cos", "dot"]),
    st.sampled_from(list(LOSSES)),
    st.sampled_from(["translation", "complex_diagonal", "diagonal", "linear"]),
    st.sampled_from(["source", "target", "reciprocal"]),
    st.integers(0, 3),
    st.integers(0, 10**6),
)
def test_kernels_agree_in_every_shape(
    dim, components, size, negatives, comparator, loss, operator, direction, pooling, seed
):
    loaded = library()
    config = mixed(operator, comparator, loss, pooling, dim=dim, temperature=0.8)
    plain, ours = steps(config, direction)
    tables, block, *rest = problem(config, components, size=size, negatives=negatives, seed=seed)
    # Of ordinary size: what a smoothmax makes of a product's rounding grows with the product over the temperature.
    asked = [table * dim**-0.5 for table in tables], block * dim**-0.5, *rest
    wanted = run(plain, asked, torch.float64)
    try:
        for number in range(len(native.instructions())):
            loaded.recokit_choose(ctypes.c_int64(number))
            assert_agree(run(ours, asked, torch.float32), wanted, 1e-4)
    finally:
        loaded.recokit_choose(ctypes.c_int64(0))


@pytest.mark.parametrize("components", [(5, 1), (2, 3)])
def test_any_number_of_threads_gives_the_same_to_rounding_and_twice_the_same_bytes(components, threads, instructions):
    config = mixed("translation", "cos", "softmax", 0, dim=20, temperature=0.5)
    plain, ours = steps(config, threads=threads)
    asked = problem(config, components, size=130, negatives=37, seed=1)
    first, second = run(ours, asked, torch.float32), run(ours, asked, torch.float32)
    assert_agree(first, run(plain, asked, torch.float64), 1e-4)
    for field in FIELDS:
        assert torch.equal(getattr(first, field), getattr(second, field))


@pytest.mark.skipif(not native.has_bfloat16(), reason="this machine has no bfloat16 products")
@pytest.mark.parametrize("dim", [1, 16, 31, 100])
@pytest.mark.parametrize("components", [(5, 1), (1, 3), (2, 3)])
@pytest.mark.parametrize("comparator", ["dot", "cos"])
def test_bfloat16_products_are_as_near_as_bfloat16_numbers_are(comparator, components, dim):
    config = mixed("translation", comparator, "softmax", 1, dim=dim, temperature=0.5, precision="auto")
    plain, ours = steps(config, threads=1 + dim % 3)
    tables, *rest = problem(config, components, size=90, negatives=45, seed=dim, biases=False)
    asked = [table * dim**-0.5 for table in tables], *rest
    wanted, got = (run(step, asked, dtype) for step, dtype in ((plain, torch.float64), (ours, torch.float32)))
    assert_agree(got, wanted, 0.02)
    exact = mixed("translation", comparator, "softmax", 1, dim=dim, temperature=0.5)
    assert not torch.equal(got.source_grads, run(steps(exact)[1], asked, torch.float32).source_grads)  # they were taken


@pytest.mark.parametrize("pooling", range(4))
@pytest.mark.parametrize("size", [1e-3, 1.0, 80.0, 1e4])
def test_scores_of_any_size_give_finite_losses_and_gradients(size, pooling, instructions):
    config = mixed("identity", "dot", "ranking", pooling, dim=4, temperature=1.0)
    tables, *rest = problem(config, (2, 3), size=40, negatives=21, seed=3, biases=False)
    got = run(steps(config)[1], ([tables[0] * size, tables[1]], *rest), torch.float32)
    for field in FIELDS[:3]:
        assert torch.isfinite(getattr(got, field)).all()


@pytest.mark.parametrize("engine", range(2))
def test_a_cold_smoothmax_of_opposite_cosines_is_their_maximum(engine, instructions):
    """γ .001: an anchor's components along and against the candidates; the loss is a margin less the positive's 1."""
    config = config_of(
        "identity", "cos", "ranking", dim=2, temperature=1.0, components={"user": 2}, pooling_temperature=1e-3,
        pooling_regularization=0.0,
    )  # fmt: skip
    anchors, items = torch.tensor([[1.0, 0.0, -1.0, 0.0]]), torch.tensor([[2.0, 0.0], [-3.0, 0.0], [0.0, 1.0]])
    batch = Batch(
        torch.tensor([0]), torch.tensor([0]), torch.tensor([0]), torch.ones(1), None, Sampled(torch.tensor([1, 2]))
    )
    got = steps(config)[engine](anchors, items, torch.zeros(1, 0), batch)
    # The margin is .4; negatives score 1 (against the second component) and 0.
    assert got.losses.tolist() == [pytest.approx(0.4 - 1 + 1)]
    assert torch.isfinite(got.source_grads).all()
    # Only along the negative that lies at a right angle could a cosine change, and that one is no rival.
    assert got.target_grads.abs().max().item() < 1e-5


@pytest.mark.parametrize("pooling", range(4))
def test_vectors_of_zeros_have_the_cosine_0_and_no_nan(pooling, instructions):
    config = mixed("identity", "cos", "softmax", pooling, dim=6, temperature=1.0)
    tables, *rest = problem(config, (2, 3), size=12, negatives=7, seed=3, biases=False)
    tables[0][:, 6:] = 0.0  # of every anchor the second component
    plain, ours = steps(config)
    wanted, got = (run(step, (tables, *rest), t) for step, t in ((plain, torch.float64), (ours, torch.float32)))
    if config.pooling == "smoothmax":  # which of equal zeros is the largest is a matter of rounding
        assert_agree(got, wanted, 1e-5)
    assert torch.isfinite(got.source_grads).all()
    assert got.losses.tolist() == pytest.approx(wanted.losses.tolist(), rel=1e-5)


@pytest.mark.parametrize("components", [(3, 1), (1, 3), (2, 2)])
def test_of_equal_similarities_the_first_alone_is_the_largest(components, instructions):
    """Components that are one and the same, in whole numbers: exact ties, of which one component gets all."""
    config = mixed("identity", "dot", "softmax", 3, dim=5, temperature=1.0)
    tables, *rest = problem(config, (1, 1), size=20, negatives=9, seed=2, biases=False)
    tables = [table.round().repeat(1, number) for table, number in zip(tables, components, strict=True)]
    plain, ours = steps(config)
    got, wanted = (run(step, (tables, *rest), t) for step, t in ((ours, torch.float32), (plain, torch.float64)))
    assert_agree(got, wanted, 1e-5)
    for grads in (got.source_grads, got.target_grads):
        assert grads[:, :5].any()
        assert not grads[:, 5:].any()


def test_one_component_each_is_the_plain_step(instructions):
    """To the byte: a relation between single vectors is pooled nowhere, whatever the regularization."""
    asked = problem(config_of("translation", "cos", "softmax", dim=9), (1, 1), size=40, negatives=13, seed=0)
    plain = run(steps(config_of("translation", "cos", "softmax", dim=9))[1], asked, torch.float32)
    for pooling in range(4):
        got = run(steps(mixed("translation", "cos", "softmax", pooling, dim=9))[1], asked, torch.float32)
        for field in FIELDS:
            assert torch.equal(getattr(got, field), getattr(plain, field))


def test_the_pool_by_hand():
    config = config_of("identity", "cos", "softmax", components=3, pooling_temperature=0.25, pooling_regularization=0.5)
    step = steps(config)[1]
    pool = step.pool(2, 3)
    assert (pool.anchor, pool.candidate, pool.smooth, pool.sharpness) == (2, 3, 1, 4.0)
    assert (pool.even, pool.rest) == (pytest.approx(0.5 / 6), 0.5)
    assert (step.pool(1, 1).even, step.pool(1, 1).rest) == (0.0, 1.0)
    printed = steps(mixed("identity", "cos", "softmax", 1))[1].pool(2, 3)
    assert (printed.even, printed.rest) == (pytest.approx(0.4), pytest.approx(0.6))
    assert steps(mixed("identity", "cos", "softmax", 2))[1].pool(2, 3).smooth == 0
