"""The step's loss and its gradients by hand against loops, finite differences and autograd."""

import itertools
import math

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.comparators import COMPARATORS
from pretrain.losses import LOSSES
from pretrain.operators import OPERATORS
from pretrain.step import Batch, Step

DIM, NUM_SOURCES, NUM_TARGETS = 3, 4, 5
CHOICES = list(itertools.product(OPERATORS, COMPARATORS, LOSSES))


def make_batch(sources, targets, weights, negative_sources, negative_targets):
    return {
        "sources": list(sources),
        "targets": list(targets),
        "weights": list(weights),
        "negative_sources": list(negative_sources),
        "negative_targets": list(negative_targets),
    }


# Row 1 is a source three times; negatives repeat rows and hit the edges' own ends (accidental positives).
BOTH_SIDES = make_batch([1, 1, 0, 1], [2, 0, 0, 2], [1.0, 0.5, 2.0, 0.0], [3, 1, 3, 0, 2], [4, 2, 0])
BATCHES = {
    "both": BOTH_SIDES,
    "target": BOTH_SIDES | {"negative_sources": []},
    "source": BOTH_SIDES | {"negative_targets": []},
    "in-batch": BOTH_SIDES | {"negative_sources": [1, 1, 0, 1], "negative_targets": [2, 0, 0, 2]},
    "one edge, all masked": make_batch([1], [2], [1.5], [1], [2, 2]),
}


def tensors(batch, dtype=torch.float64):
    rows = (torch.tensor(batch[name], dtype=torch.int64) for name in ("sources", "targets"))
    negatives = (torch.tensor(batch[name], dtype=torch.int64) for name in ("negative_sources", "negative_targets"))
    return Batch(*rows, torch.tensor(batch["weights"], dtype=dtype), *negatives)


def run_step(choice, temperature, sources, targets, parameters, batch):
    """The engine's loss, gradient of each table (dense) and of the parameters."""
    operator, comparator, loss = choice
    step = Step(OPERATORS[operator], COMPARATORS[comparator], LOSSES[loss], temperature)
    result = step(sources, targets, parameters, tensors(batch, sources.dtype))
    dense_sources = torch.zeros_like(sources).index_add_(0, result.source_rows, result.source_grads)
    dense_targets = torch.zeros_like(targets).index_add_(0, result.target_rows, result.target_grads)
    return result.loss, dense_sources, dense_targets, result.parameter_grad


def autograd_loss(choice, temperature, sources, targets, parameters, batch):
    """The same loss by torch's own functions, for autograd: one score matrix of all pairs, then picked from."""
    operator, comparator, loss = choice
    operated = sources + parameters if operator == "translation" else sources
    scores = operated @ targets.T
    if comparator == "cos":
        scores = torch.nn.functional.cosine_similarity(operated[:, None], targets[None], dim=2)
    scores = scores / temperature
    total = torch.zeros((), dtype=sources.dtype)
    for s, t, weight in zip(batch["sources"], batch["targets"], batch["weights"], strict=True):
        for side, drawn in (("target", batch["negative_targets"]), ("source", batch["negative_sources"])):
            if not drawn:
                continue
            negatives = [scores[s, n] for n in drawn if n != t]
            if side == "source":
                negatives = [scores[n, t] for n in drawn if n != s]
            every = torch.stack([scores[s, t], *negatives])
            if loss == "softmax":
                total = total - weight * torch.log_softmax(every, 0)[0]
            else:
                signs = torch.tensor([1.0] + [-1.0] * len(negatives), dtype=sources.dtype)
                total = total - weight * torch.nn.functional.logsigmoid(signs * every).sum()
    return total


def tables(seed=0, *, parameters=DIM):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in ((4, DIM), (5, DIM), (parameters,))]


def parameters_of(operator):
    return OPERATORS[operator].num_parameters(DIM)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_loss_and_gradients_agree_with_loops_and_finite_differences(choice, kind, temperature):
    operator, comparator, loss = choice
    sources, targets, parameters = tables(parameters=parameters_of(operator))
    batch = BATCHES[kind]
    value, *grads = run_step(choice, temperature, sources, targets, parameters, batch)
    arrays = [sources.numpy().copy(), targets.numpy().copy(), parameters.numpy().copy()]

    def expected():
        return naive.batch_loss(
            *arrays, batch, operator=operator, comparator=comparator, loss=loss, temperature=temperature
        )

    assert value.item() == pytest.approx(expected(), rel=1e-12, abs=1e-12)
    for grad, array in zip(grads, arrays, strict=True):
        np.testing.assert_allclose(grad.numpy(), naive.slopes(expected, array), rtol=1e-6, atol=1e-7)


@st.composite
def batches(draw):
    size = draw(st.integers(1, 5))
    source, target = st.integers(0, NUM_SOURCES - 1), st.integers(0, NUM_TARGETS - 1)
    side = draw(st.sampled_from(["both", "source", "target"]))
    in_batch = draw(st.booleans())
    edges = [draw(st.lists(rows, min_size=size, max_size=size)) for rows in (source, target)]
    weights = draw(st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.0]), min_size=size, max_size=size))
    negatives = [
        draw(st.lists(rows, min_size=1, max_size=6)) + (own if in_batch else [])
        for rows, own in zip((source, target), edges, strict=True)
    ]
    return make_batch(
        *edges,
        weights,
        *(n if side in ("both", s) else [] for s, n in zip(("source", "target"), negatives, strict=True)),
    )


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
@settings(max_examples=40, deadline=None)
@given(batch=batches(), seed=st.integers(0, 99), temperature=st.sampled_from([0.1, 1.0, 7.0]))
def test_gradients_of_random_batches_agree_with_autograd(choice, batch, seed, temperature):
    inputs = [t.requires_grad_() for t in tables(seed, parameters=parameters_of(choice[0]))]
    expected = autograd_loss(choice, temperature, *inputs, batch)
    if expected.requires_grad:
        expected.backward()
    with torch.no_grad():
        value, *grads = run_step(choice, temperature, *inputs, batch)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=1e-10)
    for grad, tensor in zip(grads, inputs, strict=True):
        torch.testing.assert_close(grad, torch.zeros_like(tensor) if tensor.grad is None else tensor.grad)


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_an_entity_type_on_both_ends_gets_the_sum_of_both(choice):
    table, _, parameters = tables(parameters=parameters_of(choice[0]))
    table.requires_grad_()
    batch = make_batch([0, 1, 2, 3], [1, 0, 2, 1], [1.0, 2.0, 1.0, 0.5], [0, 3, 1], [2, 1])  # a twin, a loop
    autograd_loss(choice, 0.5, table, table, parameters, batch).backward()
    _, as_source, as_target, _ = run_step(choice, 0.5, table.detach(), table.detach(), parameters, batch)
    torch.testing.assert_close(as_source + as_target, table.grad)


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32_agrees_and_results_keep_the_type_of_the_tables(choice, dtype):
    inputs = tables(parameters=parameters_of(choice[0]))
    exact = run_step(choice, 0.2, *inputs, BOTH_SIDES)
    for value, expected in zip(run_step(choice, 0.2, *(t.to(dtype) for t in inputs), BOTH_SIDES), exact, strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_the_tables_are_not_written_to(choice):
    inputs = tables(parameters=parameters_of(choice[0]))
    before = [tensor.clone() for tensor in inputs]
    run_step(choice, 0.2, *inputs, BATCHES["in-batch"])
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_an_edge_of_weight_zero_and_an_absent_edge_are_the_same(choice):
    inputs = tables(parameters=parameters_of(choice[0]))
    rest = BOTH_SIDES | {name: BOTH_SIDES[name][:3] for name in ("sources", "targets", "weights")}
    for with_it, without in zip(
        run_step(choice, 0.2, *inputs, BOTH_SIDES), run_step(choice, 0.2, *inputs, rest), strict=True
    ):
        torch.testing.assert_close(with_it, without, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_loss_and_gradients_are_in_proportion_to_the_weights(choice):
    inputs = tables(parameters=parameters_of(choice[0]))
    tripled = BOTH_SIDES | {"weights": [3 * weight for weight in BOTH_SIDES["weights"]]}
    for once, thrice in zip(
        run_step(choice, 0.2, *inputs, BOTH_SIDES), run_step(choice, 0.2, *inputs, tripled), strict=True
    ):
        torch.testing.assert_close(3 * once, thrice)


@pytest.mark.parametrize("loss", LOSSES)
def test_translation_moves_under_one_sided_target_corruption(loss):
    """The operator stands on the source, so a translation does not cancel between a positive and its negatives."""
    sources, targets, parameters = tables()
    _, _, _, dot = run_step(("translation", "dot", loss), 1.0, sources, targets, parameters, BATCHES["target"])
    _, _, _, cos = run_step(("translation", "cos", loss), 1.0, sources, targets, parameters, BATCHES["target"])
    assert dot.abs().min() > 0.01
    assert cos.abs().min() > 0.01


@pytest.mark.parametrize("loss", LOSSES)
def test_a_zero_vector_has_cosine_zero_and_no_nan(loss):
    sources, targets, parameters = (t.float() for t in tables(parameters=0))
    sources[1] = 0.0
    targets[2] = 0.0
    value, *grads = run_step(("identity", "cos", loss), 1.0, sources, targets, parameters, BOTH_SIDES)
    expected = naive.batch_loss(
        sources.numpy(),
        targets.numpy(),
        None,
        BOTH_SIDES,
        operator="identity",
        comparator="cos",
        loss=loss,
        temperature=1.0,
    )
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize(
    ("loss", "positive", "negative", "expected"),
    [
        ("softmax", 1e4, -1e4, 0.0),
        ("softmax", -1e4, 1e4, 2e4),
        ("softmax", 1e4, 1e4, math.log(2)),
        ("softmax", -1e4, -1e4, math.log(2)),
        ("logistic", 1e4, -1e4, 0.0),
        ("logistic", -1e4, 1e4, 2e4),
        ("logistic", 1e4, 1e4, 1e4),
        ("logistic", -1e4, -1e4, 1e4),
    ],
)
def test_extreme_scores_stay_finite(loss, positive, negative, expected):
    sources = torch.tensor([[100.0]])
    targets = torch.tensor([[positive / 100], [negative / 100]])
    batch = make_batch([0], [0], [1.0], [], [1])
    value, *grads = run_step(("identity", "dot", loss), 1.0, sources, targets, torch.zeros(0), batch)
    assert value.item() == pytest.approx(expected, abs=1e-6)
    # d/ds of the loss is slope_positive * t_0 + slope_negative * t_1, the slopes being -1, -1/2 or 0 and 0, 1/2 or 1.
    difference = (positive - negative) / 1e4
    if loss == "softmax":
        slope = {2.0: 0.0, -2.0: -1.0, 0.0: -0.5}[difference]
        expected_slopes = [slope, -slope]
    else:
        expected_slopes = [-1.0 if positive < 0 else 0.0, 1.0 if negative > 0 else 0.0]
    assert grads[1].flatten().tolist() == [100 * slope for slope in expected_slopes]
    assert torch.isfinite(grads[0]).all()
