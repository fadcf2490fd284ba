# ruff: noqa: E402 (Triton is told to interpret before its kernels are defined)
"""Triton's kernels against torch's step in float64 and written-out formulas; CUDA graphs where there is a device.

Without a CUDA device Triton's interpreter runs the kernels on the CPU, so that their arithmetic, masks and loops are
tested here too; what it cannot show (the compiled code, the capture) is marked ``gpu``.
"""

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.cuda.is_available()
if not CUDA:
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("triton was imported before it could be told to interpret", allow_module_level=True)
    os.environ["TRITON_INTERPRET"] = "1"  # read when kernels are defined: Triton's own at its import, ours at ours
pytest.importorskip("triton", reason="triton is not installed: the GPU engine is not tested")

from pretrain import optimizer
from pretrain.config import Side, TrainConfig
from pretrain.gpu import Kind, unusable, update
from pretrain.gpu import contrast as kernels
from pretrain.gpu.contrast import Objective, Tiles, contrast, default_tiles, prepare
from pretrain.gpu.engine import KernelStep, make_step, product_of, refusal
from pretrain.gpu.graphs import CudaCapture, Replays
from pretrain.movers import forms
from pretrain.negatives import NegativeSampler
from pretrain.operators import OPERATORS
from pretrain.step import Batch, Gradients, Sampled, Step
from recokit.table import num_parameters

ROOT = Path(__file__).resolve().parents[2]
DEVICE = torch.device("cuda" if CUDA else "cpu")
SMALL = Tiles(16, 16, 4, 1)  # so that small shapes have several tiles
LOSSES = ("softmax", "logistic", "ranking")
gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not CUDA, reason="needs a CUDA device, and there is none"),
]


def normal(seed, *shape, scale=1.0):
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(DEVICE)


def double(tensor):
    return tensor.double() if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() else tensor


# ---- scores, losses, gradients


def unit(vectors):
    """Vectors over their norms; those below 1e-12 stay."""
    squares = vectors.square().sum(1, keepdim=True)
    return vectors / torch.where(squares < 1e-24, 1.0, squares).sqrt()


@dataclasses.dataclass
class Problem:
    """One question: vectors and what goes with them."""

    objective: Objective
    queries: torch.Tensor  # (B, D)
    own: torch.Tensor
    negatives: torch.Tensor  # (N, D)
    own_rows: torch.Tensor
    negative_rows: torch.Tensor
    weights: torch.Tensor
    offsets: torch.Tensor | None = None
    biases: tuple[torch.Tensor, torch.Tensor] | None = None
    log_expected: torch.Tensor | None = None
    normalise: bool = False

    def answer(self, product="ieee", tiles=SMALL, **others):
        prepared = [
            prepare(part, normalise=self.normalise, product=product)
            for part in (self.queries, self.own, self.negatives)
        ]
        return contrast(
            self.objective, *prepared, self.own_rows, self.negative_rows, self.weights, offsets=self.offsets,
            biases=self.biases, log_expected=self.log_expected, product=product, tiles=tiles, **others,
        )  # fmt: skip

    def expected(self, rounded=None):
        """Losses and gradients by the formulas and autograd, in float64, with ``rounded`` operands if given."""
        leaves = [double(part).requires_grad_() for part in (self.queries, self.own, self.negatives)]
        offsets = torch.zeros_like(self.weights) if self.offsets is None else self.offsets
        biases = self.biases or (torch.zeros_like(self.weights), self.negatives.new_zeros(len(self.negatives)))
        extras = [double(part).clone().requires_grad_() for part in (offsets, *biases)]
        q, o, n = (unit(leaf) if self.normalise else leaf for leaf in leaves)
        if rounded is not None:
            q, o, n = (exact + (double(part) - exact).detach() for exact, part in zip((q, o, n), rounded, strict=True))
        offset, own_bias, negative_bias = extras
        positive = ((q * o).sum(1) + offset + own_bias) / self.objective.temperature
        scores = (q @ n.T + offset[:, None] + negative_bias) / self.objective.temperature
        if self.log_expected is not None:
            scores = scores - double(self.log_expected)
        counts = self.own_rows[:, None] != self.negative_rows
        number = counts.sum(1).clamp_min(1) if self.objective.mean else 1
        if self.objective.loss == "softmax":
            every = torch.cat([positive[:, None], scores.masked_fill(~counts, -torch.inf)], 1)
            losses = every.logsumexp(1) - positive
        elif self.objective.loss == "logistic":
            shift = self.objective.score_offset
            of_negatives = functional.softplus(scores + shift).where(counts, 0.0).sum(1) / number
            losses = functional.softplus(-positive - shift) + of_negatives
        else:
            excess = (self.objective.margin - positive[:, None] + scores).clamp_min(0.0)
            losses = excess.where(counts, 0.0).sum(1) / number
        losses = losses * double(self.weights)
        losses.sum().backward()
        return losses.detach(), [leaf.grad for leaf in leaves], [extra.grad for extra in extras]


def check(problem, answer, *, rtol=2e-5, atol=2e-6):
    losses, vectors, (offsets, *biases) = problem.expected()
    scale = max(1.0, float(problem.weights.max()))
    # What is left of a gradient across a short vector is rounding over its length.
    parts = (problem.queries, problem.own, problem.negatives) if problem.normalise else ()
    short = min((float(norms[norms >= 1e-12].min()) for norms in (part.norm(dim=1) for part in parts)), default=1.0)
    torch.testing.assert_close(double(answer.losses), losses, rtol=rtol, atol=atol * scale)
    found = [answer.queries, answer.own, answer.negatives]
    if problem.offsets is not None and problem.objective.sees_offsets:
        found, vectors = [*found, answer.offsets], [*vectors, offsets]
    if problem.biases is not None:
        found, vectors = [*found, answer.own_biases, answer.negative_biases], [*vectors, *biases]
    for at, (ours, wanted) in enumerate(zip(found, vectors, strict=True)):
        size = scale * max(1.0, 1.0 / short if at < 3 else 1.0, float(wanted.abs().max()))
        torch.testing.assert_close(double(ours), wanted, rtol=rtol, atol=atol * size, msg=lambda m, at=at: f"{at}: {m}")


@st.composite
def problems(draw):
    loss = draw(st.sampled_from(LOSSES))
    size, count, dim = draw(st.integers(1, 36)), draw(st.integers(1, 36)), draw(st.sampled_from([1, 7, 16, 20]))
    seed, rows = draw(st.integers(0, 2**20)), draw(st.sampled_from([1, 2, 10, 1000]))  # 1: every negative is masked
    scale = draw(st.sampled_from([1e-3, 0.3, 1.0, 4.0]))
    rng = np.random.default_rng(seed)

    def ints(length):
        return torch.from_numpy(rng.integers(rows, size=length)).to(DEVICE)

    objective = Objective(
        loss, draw(st.sampled_from([1.0, 0.2, 3.0])), draw(st.sampled_from([0.0, 0.7])),
        draw(st.sampled_from([0.0, -0.6])) if loss == "logistic" else 0.0,
        loss != "softmax" and draw(st.booleans()),
    )  # fmt: skip
    biased = draw(st.booleans())
    weights = torch.from_numpy(rng.choice([0.0, 0.25, 1.0, 3.0], size)).float().to(DEVICE)
    return Problem(
        objective,
        *(normal(seed + at, length, dim, scale=scale) for at, length in enumerate((size, size, count))),
        ints(size),
        ints(count),
        weights,
        normal(seed + 3, size) if biased or draw(st.booleans()) else None,
        (normal(seed + 4, size), normal(seed + 5, count)) if biased else None,
        normal(seed + 6, count) if loss == "softmax" and draw(st.booleans()) else None,
        draw(st.booleans()),
    )


@settings(max_examples=30, deadline=None)
@given(problem=problems())
def test_losses_and_gradients_agree_with_formulas_and_autograd(problem):
    check(problem, problem.answer())


def a_problem(loss, size=50, count=70, dim=24, **others):
    rows = torch.arange(size + count, device=DEVICE) % 37
    vectors = [normal(at, length, dim) for at, length in enumerate((size, size, count))]
    return Problem(Objective(loss, 0.5), *vectors, rows[:size], rows[size:], normal(3, size).abs(), **others)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("tiles", [Tiles(16, 64, 4, 1), Tiles(64, 16, 4, 2), Tiles(128, 128, 8, 1), None])
def test_tiles_change_nothing_but_rounding(loss, tiles):
    problem = a_problem(loss, normalise=True)
    check(problem, problem.answer(tiles=tiles))


@pytest.mark.parametrize("loss", LOSSES)
def test_many_shares_of_queries_add_up(loss):
    """Three shares of 256 queries each for the gradients of the negatives, and one that is empty."""
    problem = a_problem(loss, size=700, count=5, dim=8, biases=(normal(8, 700), normal(9, 5)))
    check(problem, problem.answer(tiles=Tiles(256, 16, 4, 1)), atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("normalise", [True, False])
def test_bfloat16_rounds_the_operands_and_sums_in_float32(loss, normalise):
    problem = a_problem(loss, normalise=normalise)
    parts = problem.queries, problem.own, problem.negatives
    rounded = [prepare(part, normalise=normalise, product="bf16").vectors for part in parts]
    for part, vectors in zip(parts, rounded, strict=True):
        exact = unit(part) if normalise else part
        torch.testing.assert_close(vectors, exact.bfloat16(), rtol=2**-7, atol=0)  # the interpreter cuts, a GPU rounds
    answer = problem.answer("bf16")
    losses, wanted, _ = problem.expected(rounded)
    torch.testing.assert_close(double(answer.losses), losses, rtol=2e-5, atol=2e-5)
    for ours, theirs in zip((answer.queries, answer.own, answer.negatives), wanted, strict=True):
        assert (double(ours) - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize("product", ["ieee", "bf16"])
def test_large_scores_give_what_arithmetic_gives(product):
    """Queries 128 e, candidates ±128 e and 0: scores ±16384 and 0, which both types hold."""
    e = torch.tensor([[128.0, 0.0]], device=DEVICE)
    rows = torch.tensor([0], device=DEVICE), torch.tensor([1, 2], device=DEVICE)

    def losses(own, *negatives, loss="softmax", **others):
        problem = Problem(
            Objective(loss, **others),
            e,
            own * e,
            torch.cat([n * e for n in negatives]),
            *rows,
            torch.ones(1).to(DEVICE),
        )
        return problem.answer(product).losses.item()

    assert losses(1, -1, -1) == 0.0
    assert losses(1, 1, -1) == pytest.approx(math.log(2))
    assert losses(-1, 1, 1) == pytest.approx(2 * 16384 + math.log(2))
    assert losses(0, 0, 0) == pytest.approx(math.log(3))
    assert losses(-1, 1, -1, loss="logistic") == pytest.approx(2 * 16384)
    assert losses(1, -1, 0, loss="logistic", mean=True) == pytest.approx(math.log(2) / 2)
    assert losses(0, 1, -1, loss="ranking", margin=0.5) == pytest.approx(16384.5)
    assert losses(0, 1, 0, loss="ranking", margin=0.5, temperature=2.0) == pytest.approx(8192.5 + 0.5)


@pytest.mark.parametrize("loss", LOSSES)
def test_where_every_negative_is_masked_the_positive_is_alone(loss):
    problem = a_problem(loss, size=3, count=20, dim=4)
    problem.own_rows[:], problem.negative_rows[:] = 5, 5
    answer = problem.answer()
    scores = (problem.queries * problem.own).sum(1) * 2  # the temperature is one half
    alone = functional.softplus(-scores) if loss == "logistic" else torch.zeros_like(scores)
    torch.testing.assert_close(answer.losses, alone * problem.weights)
    assert answer.negatives.abs().max() == 0
    if loss != "logistic":
        assert answer.queries.abs().max() == answer.own.abs().max() == 0


def test_zero_vectors_have_the_cosine_0_and_no_nan():
    problem = a_problem("softmax", size=4, count=6, dim=3, normalise=True)
    problem.queries[0], problem.own[1], problem.negatives[2] = 0.0, 0.0, 1e-30
    check(problem, problem.answer())
    assert prepare(problem.queries, normalise=True, product="ieee").inverse[0] == 1.0


def test_gradients_are_added_to_what_is_there():
    problem = a_problem("softmax", normalise=True)
    new = problem.answer()
    there = normal(7, 50, 24), normal(8, 50, 24)
    kept = [part.clone() for part in there]
    problem.answer(into=there, add=True)
    torch.testing.assert_close(list(there), [kept[0] + new.queries, kept[1] + new.own])


@pytest.mark.parametrize("loss", LOSSES)
def test_the_same_numbers_give_the_same_bytes(loss):
    problem = a_problem(loss, size=300)
    first, second = problem.answer(tiles=None), problem.answer(tiles=None)
    for field in ("losses", "queries", "own", "negatives"):
        assert torch.equal(getattr(first, field), getattr(second, field))


def test_prepare_gathers_shifts_and_normalises():
    table, rows, shift = normal(0, 9, 5), torch.tensor([8, 0, 8, 3], device=DEVICE), normal(1, 5)
    found = prepare(table, rows, shift, normalise=True, product="ieee")
    moved = double(table)[rows] + double(shift)
    torch.testing.assert_close(double(found.vectors), moved / moved.norm(dim=1, keepdim=True), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(double(found.inverse), 1 / moved.norm(dim=1), rtol=1e-6, atol=0)
    plain = prepare(table, rows, normalise=False, product="ieee")
    assert torch.equal(plain.vectors, table[rows])
    assert plain.inverse is None


# ---- the optimizer


@pytest.mark.parametrize("name", ["row_adagrad_", "adagrad_"])
@settings(max_examples=15, deadline=None)
@given(
    places=st.integers(1, 200),
    rows=st.sampled_from([1, 2, 7, 500]),
    dim=st.sampled_from([1, 3, 16, 40, 1030]),
    max_norm=st.sampled_from([0.0, 0.8]),
    seed=st.integers(0, 99),
)
def test_updates_agree_with_the_optimizer_in_float64(name, places, rows, dim, max_norm, seed):
    touched = torch.randint(rows, (places,), generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    table, grads = normal(seed, rows, dim), normal(seed + 1, places, dim)
    state = normal(seed + 2, rows, dim).abs() if name == "adagrad_" else normal(seed + 2, rows).abs()
    wanted = [double(table).clone(), double(state).clone()]
    getattr(optimizer, name)(*wanted, touched, double(grads), 0.1, max_norm=max_norm)
    idle = torch.ones(rows, dtype=torch.bool, device=DEVICE)
    idle[touched] = False
    before = table[idle].clone(), state[idle].clone()
    update.update_(table, state, [(touched, grads)], torch.tensor(0.1, device=DEVICE), max_norm=max_norm)
    torch.testing.assert_close(double(state), wanted[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(double(table), wanted[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(table[idle], before[0])
    assert torch.equal(state[idle], before[1])


@pytest.mark.parametrize("before", [0, 1, 63, 64])
@pytest.mark.parametrize("places", [1, 64, 65, 128, 200])
def test_a_row_of_any_length_at_any_place_is_summed_once(before, places):
    """Small integers, which float32 adds exactly: 0 + 1 + ... + (n - 1) = n (n - 1) / 2, whatever the chunks."""
    rows = torch.cat([torch.zeros(before), torch.ones(places), torch.full((3,), 2.0)]).long().to(DEVICE)
    grads = torch.cat([torch.zeros(before), torch.arange(places) % 7, torch.zeros(3)])[:, None].float().to(DEVICE)
    mixed = torch.randperm(len(rows), generator=torch.Generator().manual_seed(places)).to(DEVICE)
    table, state = torch.zeros(3, 1, device=DEVICE), torch.zeros(3, device=DEVICE)
    update.update_(table, state, [(rows[mixed], grads[mixed])], 1.0)
    total = sum(at % 7 for at in range(places))
    assert state.tolist() == [0.0, float(total) ** 2, 0.0]
    assert table[1].item() == pytest.approx(-1.0 if total else 0.0)


def test_the_rate_is_read_from_the_device_and_numbers_are_taken_too():
    moved = []
    for rate in (torch.tensor(0.5, device=DEVICE), 0.5):
        table, state = torch.zeros(2, 2, device=DEVICE), torch.zeros(2, device=DEVICE)
        rows, grads = torch.tensor([1, 1], device=DEVICE), torch.tensor([[3.0, 0.0], [1.0, 2.0]], device=DEVICE)
        update.update_(table, state, [(rows, grads)], rate)
        assert state.tolist() == [0.0, 10.0]  # (4, 2): the mean square of the sum
        moved.append(table[1].tolist())
    assert moved[0] == moved[1] == pytest.approx([-0.5 * 4 / math.sqrt(10), -0.5 * 2 / math.sqrt(10)])


def test_parts_count_as_one_gradient():
    """3 and 1 on the same element: the state is 16 element by element, (16 + 0) / 2 row-wise."""
    first, second = ((torch.tensor([1], device=DEVICE), torch.tensor([[x, 0.0]], device=DEVICE)) for x in (3.0, 1.0))
    for shape, grown in (((2, 2), [[0.0, 0.0], [16.0, 0.0]]), ((2,), [0.0, 8.0])):
        table, state = torch.zeros(2, 2, device=DEVICE), torch.zeros(shape, device=DEVICE)
        update.update_(table, state, [first, second], 0.5)
        assert state.tolist() == grown
        assert table[1].tolist() == pytest.approx([-0.5 * 4 / math.sqrt(16 if state.dim() == 2 else 8), 0.0])


def test_nothing_to_update_is_no_error():
    block, state = torch.zeros(2, 0, device=DEVICE), torch.zeros(2, 0, device=DEVICE)
    update.update_(block, state, [(torch.tensor([1, 0], device=DEVICE), torch.zeros(2, 0, device=DEVICE))], 0.1)
    table = normal(0, 2, 3)
    kept = table.clone()
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    update.update_(table, torch.zeros(2, device=DEVICE), [(none, torch.zeros(0, 3, device=DEVICE))], 0.1)
    assert torch.equal(table, kept)


# ---- the step

NUM_SOURCES, NUM_TARGETS, NUM_RELATIONS, DIM = 11, 12, 4, 6


def a_batch(seed, kind, *, reciprocal=False, log_q=False, size=9, count=7):
    rng = np.random.default_rng(seed)

    def ints(high, length):
        return torch.from_numpy(rng.integers(high, size=length)).to(DEVICE)

    relations = torch.full((size,), 2, device=DEVICE) if kind.one_relation else ints(NUM_RELATIONS, size)
    logs = normal(seed, count) if log_q else None
    return Batch(
        ints(NUM_SOURCES, size),
        ints(NUM_TARGETS, size),
        relations,
        torch.from_numpy(rng.random(size)).float().to(DEVICE),
        Sampled(ints(NUM_SOURCES, count), logs) if "source" in kind.sides else None,
        Sampled(ints(NUM_TARGETS, count), logs) if "target" in kind.sides else None,
        relations + NUM_RELATIONS if reciprocal else None,
    )


def in_double(batch):
    def sampled(part):
        return None if part is None else Sampled(part.rows, double(part.log_expected))

    return dataclasses.replace(
        batch,
        weights=double(batch.weights),
        negative_sources=sampled(batch.negative_sources),
        negative_targets=sampled(batch.negative_targets),
    )


def torch_step(config, kind):
    entering = forms(kind.operator, kind.operator_side, config.comparator, reciprocal=config.reciprocal)
    return Step.of(config, entering["target"], entering["source"])


def dense(found: Gradients, block):
    """Losses and the gradient of every number, in float64."""

    def summed(rows, grads, length):
        empty = torch.zeros((length, *grads.shape[1:]), dtype=torch.float64, device=DEVICE)
        return empty.index_add_(0, rows, double(grads))

    parts = [
        double(found.losses),
        summed(found.source_rows, found.source_grads, NUM_SOURCES),
        summed(found.target_rows, found.target_grads, NUM_TARGETS),
        summed(found.relation_rows, found.relation_grads, len(block)),
    ]
    if found.source_bias_grads is not None and found.target_bias_grads is not None:
        parts.append(summed(found.source_rows, found.source_bias_grads, NUM_SOURCES))
        parts.append(summed(found.target_rows, found.target_bias_grads, NUM_TARGETS))
    return parts


def a_config(rng, loss, **others):
    fields = {"softmax": {}, "logistic": {"score_offset": 0.7}, "ranking": {"margin": 0.4}}[loss]
    if loss != "softmax":
        fields["negative_reduction"] = str(rng.choice(["sum", "mean"]))
    return TrainConfig(dim=DIM, loss=loss, temperature=float(rng.choice([1.0, 0.3])), **fields, **others)


@pytest.mark.parametrize("comparator", ["dot", "cos"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_engine_agrees_with_torchs_step(operator, comparator):
    rng, taken = np.random.default_rng(0), 0
    for loss in LOSSES:
        for direction in ("source", "target", "reciprocal"):
            for one_relation in (True, False):
                sides = [get_args(Side), ("source",), ("target",)][rng.integers(3)]
                reciprocal = direction == "reciprocal"
                config = a_config(rng, loss, operator=operator, comparator=comparator, reciprocal=reciprocal)
                kind = Kind(operator, "target" if direction == "target" else "source", one_relation, sides)
                if refusal(config, kind) is not None:
                    continue
                taken += 1
                seed, log_q = int(rng.integers(2**20)), loss == "softmax" and rng.random() < 0.5
                batch = a_batch(seed, kind, reciprocal=reciprocal, log_q=log_q)
                tables = normal(seed, NUM_SOURCES, DIM), normal(seed + 1, NUM_TARGETS, DIM)
                block = normal(seed + 2, 2 * NUM_RELATIONS, num_parameters(operator, DIM))
                biases = {}
                if rng.random() < 0.5:
                    biases = {
                        "source_bias": normal(seed + 3, NUM_SOURCES),
                        "target_bias": normal(seed + 4, NUM_TARGETS),
                    }
                found = KernelStep.of(config, kind)(*tables, block, batch, **biases)
                wanted = torch_step(config, kind)(
                    *map(double, tables), double(block), in_double(batch),
                    **{name: double(bias) for name, bias in biases.items()},
                )  # fmt: skip
                for ours, theirs in zip(dense(found, block), dense(wanted, block), strict=True):
                    torch.testing.assert_close(
                        ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda m, k=kind, c=config: f"{k} {c}: {m}"
                    )
    assert taken >= 9


def test_a_translation_that_only_adds_an_offset_gets_a_gradient_of_exactly_0():
    """With dot, sources asked for: (s + r) · t less (s' + r) · t knows no r; Adagrad would make steps of rounding."""
    config = TrainConfig(dim=DIM, operator="translation", comparator="dot", loss="softmax", sides="source")
    kind = Kind("translation", "source", True, ("source",))
    batch = a_batch(0, kind)
    tables = normal(0, NUM_SOURCES, DIM), normal(1, NUM_TARGETS, DIM)
    found = KernelStep.of(config, kind)(*tables, normal(2, NUM_RELATIONS, DIM), batch)
    assert found.relation_grads.abs().max() == 0
    assert found.source_grads.abs().max() > 0


@pytest.mark.parametrize(
    ("config", "kind", "message"),
    [
        ({"comparator": "l2"}, {}, "comparator 'l2' has no kernel"),
        ({"dim": 200}, {}, "dim is 200; the kernels take 128 at most"),
        ({"loss": "logistic", "adversarial": 0.5}, {}, "adversarial weights"),
        ({"filter_positives": True}, {}, "filter_positives"),
        (
            {"operator": "linear", "comparator": "dot"},
            {"operator": "linear", "one_relation": False},
            "'linear' are cut",
        ),
        ({}, {"one_relation": False}, "'translation' moves the candidates"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused_with_its_reason(config, kind, message):
    common = {"operator": "translation", "operator_side": "source", "one_relation": True, "sides": get_args(Side)}
    assert message in refusal(TrainConfig(**config), Kind(**{**common, **kind}))


def test_torchs_step_takes_what_the_kernels_cannot():
    config, kind = TrainConfig(comparator="l2"), Kind("identity", "source", True, get_args(Side))
    entering = forms("identity", "source", "l2")
    assert make_step(entering["target"], entering["source"], config, kind) == torch_step(config, kind)
    config = TrainConfig()
    assert make_step(entering["target"], entering["source"], config, kind) == KernelStep(config, kind, "ieee")


def test_what_the_kernels_can_do_is_not_refused():
    kind = Kind("translation", "source", True, get_args(Side))
    assert refusal(TrainConfig(), kind) is None
    assert refusal(TrainConfig(dim=256, precision="auto"), kind) is None
    assert product_of(TrainConfig()) == "ieee"  # float32 means float32
    assert product_of(TrainConfig(precision="auto")) == "bf16"
    assert unusable(torch.device("cpu")) == "the device is cpu, not a CUDA device"


# ---- epochs


class NeverWaits(TorchDispatchMode):
    """Refuses whatever makes the host read a number from the device."""

    WAITING = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "repeat_interleave", "equal", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if any(name.startswith(waiting) for waiting in self.WAITING):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


class Pieces:
    """A capture that replays by doing the work again; counts."""

    def __init__(self):
        self.warmed, self.captured, self.replayed = 0, 0, 0

    def warm(self, body):
        self.warmed += 1
        with NeverWaits():
            body()

    def capture(self, body):
        self.captured += 1

        def replay():
            self.replayed += 1
            with NeverWaits():
                body()

        return replay


class Trained:
    """Vectors, and what trains a batch of their edges; groups are names."""

    def __init__(self, *, engine=True, kind=None, config=None):
        self.kind = kind or Kind("translation", "source", True, get_args(Side))
        self.config = config or TrainConfig(dim=DIM)
        self.step = KernelStep.of(self.config, self.kind) if engine else torch_step(self.config, self.kind)
        self.updates = update if engine else optimizer
        self.generator = torch.Generator(DEVICE).manual_seed(5)
        self.tables = {"source": normal(0, NUM_SOURCES, DIM), "target": normal(1, NUM_TARGETS, DIM)}
        self.states = {side: torch.zeros(len(table), device=DEVICE) for side, table in self.tables.items()}
        self.block = normal(2, NUM_RELATIONS, num_parameters(self.kind.operator, DIM))
        self.block_state = torch.zeros_like(self.block)
        self.losses = torch.zeros((), dtype=torch.float64, device=DEVICE)
        self.edges = {name: a_batch(at, self.kind, size=13) for at, name in enumerate("ab")}
        self.samplers = {
            side: NegativeSampler(
                np.arange(1, len(table) + 1), uniform=2, prevalence=1, in_batch=1, log_q=True, device=DEVICE
            )
            for side, table in self.tables.items()
        }

    def train(self, name, positions, rate):
        edges = self.edges[name]
        own = {"source": edges.sources[positions], "target": edges.targets[positions]}
        sampled = {}
        for side, rows in own.items():
            drawn = self.samplers[side].draw(rows, self.generator)
            sampled[side] = Sampled(drawn, self.samplers[side].log_expected(drawn, len(rows)))
        batch = Batch(
            own["source"], own["target"], edges.relations[positions], edges.weights[positions],
            sampled["source"], sampled["target"],
        )  # fmt: skip
        found = self.step(self.tables["source"], self.tables["target"], self.block, batch)
        self.losses += found.losses.double().sum()
        for side, rows, grads in (
            ("source", found.source_rows, found.source_grads),
            ("target", found.target_rows, found.target_grads),
        ):
            self.updates.update_(self.tables[side], self.states[side], [(rows, grads)], rate * 0.1)
        of_relations = [(found.relation_rows, found.relation_grads)]
        self.updates.update_(self.block, self.block_state, of_relations, rate * 0.01)

    def tensors(self):
        return [*self.tables.values(), *self.states.values(), self.block, self.block_state, self.losses]


def epoch(seed, size=4):
    """Batches of both groups (13 edges each: three full ones and one of a single edge) in random order."""
    generator = torch.Generator().manual_seed(seed)
    jobs = [(name, part) for name in "ab" for part in torch.randperm(13, generator=generator).split(size)]
    return [jobs[at] for at in torch.randperm(len(jobs), generator=generator).tolist()]


def train_epochs(trained, capture, epochs=2, capturable=lambda name: True):
    replays = Replays(trained.train, 4, capture, DEVICE, capturable)
    for number in range(epochs):
        batches = epoch(number)
        replays.begin(batches)
        for at, (name, positions) in enumerate(batches):
            replays.step(name, positions, 1.0 - 0.1 * (at // 3))
    return trained.tensors()


def train_plainly(trained, epochs=2):
    for number in range(epochs):
        for at, (name, positions) in enumerate(epoch(number)):
            trained.train(name, positions.to(DEVICE), torch.tensor(1.0 - 0.1 * (at // 3), device=DEVICE))
    return trained.tensors()


@pytest.mark.slow
def test_replayed_batches_are_the_planned_ones_with_their_rates():
    """In pieces, replayed, and replayed for one group alone: the same bytes; a captured batch never waits."""
    pieces, plain = Pieces(), train_plainly(Trained())
    assert all(map(torch.equal, train_epochs(Trained(), pieces), plain))
    assert (pieces.warmed, pieces.captured, pieces.replayed) == (2, 2, 2 * 3 * 2 - 2)
    half = Pieces()
    assert all(map(torch.equal, train_epochs(Trained(), half, capturable=lambda name: name == "a"), plain))
    assert (half.warmed, half.captured, half.replayed) == (1, 1, 3 * 2 - 1)


@pytest.mark.parametrize(
    ("operator", "one_relation"), [("translation", True), ("rotation", False), ("linear", True), ("identity", False)]
)
def test_epochs_agree_with_torchs_step_and_optimizer(operator, one_relation):
    kind = Kind(operator, "source", one_relation, get_args(Side))
    config = TrainConfig(dim=DIM, operator=operator, comparator="cos" if one_relation else "dot")
    ours = train_epochs(Trained(kind=kind, config=config), Pieces())
    theirs = Trained(engine=False, kind=kind, config=config)
    for number in range(2):
        for at, (name, positions) in enumerate(epoch(number)):
            theirs.train(name, positions.to(DEVICE), 1.0 - 0.1 * (at // 3))
    for a, b in zip(ours, theirs.tensors(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_a_run_that_goes_on_inside_an_epoch_plans_the_rest():
    whole, broken = train_epochs(Trained(), Pieces(), epochs=1), Trained()
    batches = epoch(0)
    for part in (batches[:3], batches[3:]):
        replays = Replays(broken.train, 4, Pieces(), DEVICE)
        replays.begin(part)
        for name, positions in part:
            replays.step(name, positions, 1.0 - 0.1 * ([id(p) for _, p in batches].index(id(positions)) // 3))
    assert all(map(torch.equal, broken.tensors(), whole))


@pytest.mark.slow
def test_a_longer_plan_is_captured_anew():
    trained, pieces = Trained(), Pieces()
    replays = Replays(trained.train, 4, pieces, DEVICE)
    for batches in (epoch(0)[:4], epoch(1)):
        replays.begin(batches)
        for name, positions in batches:
            replays.step(name, positions)
    plain = Trained()
    for name, positions in (*epoch(0)[:4], *epoch(1)):
        plain.train(name, positions.to(DEVICE), torch.tensor(1.0, device=DEVICE))
    assert all(map(torch.equal, trained.tensors(), plain.tensors()))
    assert pieces.warmed > 2


def test_a_batch_that_was_not_planned_is_refused():
    trained = Trained()
    replays = Replays(trained.train, 4, Pieces(), DEVICE)
    batches = [job for job in epoch(0) if len(job[1]) == 4]
    replays.begin(batches)
    name, positions = batches[-1]
    with pytest.raises(ValueError, match="batch 0 of a group is not the one that was planned"):
        replays.step(name, positions.clone())


# ---- what needs the compiler, or a device

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pretrain.gpu import contrast as c, update as u

FLOATS = set("weights own_add row_add col_add inverse_queries inverse_own of_queries of_own losses tops factors"
             " of_positives of_rows partial partial_columns inverse out columns table state grads sums learning_rate"
             " queries own negatives vectors".split())
SCALARS = {"scale", "shift", "margin", "max_norm"}

def build(kernel, operand, constants, warps, stages, capability, **others):
    def kind(name):
        if name in constants:
            return "constexpr"
        if name in others:
            return others[name]
        if name in ("queries", "own", "negatives", "vectors"):
            return "*" + operand
        return "*fp32" if name in FLOATS else "fp32" if name in SCALARS else "*i64" if "rows" in name else "i32"
    signature = {parameter.name: kind(parameter.name) for parameter in kernel.params}
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    return triton.compile(ASTSource(kernel, signature, constants), GPUTarget("cuda", capability, 32), options)

for capability in (80, 90):
    for product in ("ieee", "tf32x3", "tf32", "bf16"):
        for loss in range(3):
            tiles, operand = c.default_tiles(product, 128), "bf16" if product == "bf16" else "fp32"
            common = {"LOSS": loss, "HAS_ROW": True, "HAS_COL": True, "BLOCK_D": 128,
                      "BLOCK_B": tiles.queries, "BLOCK_N": tiles.negatives}
            common["PRECISION"] = "ieee" if product == "bf16" else product
            flags = {"MEAN": loss > 0, "HAS_OWN": True, "NORMALISED": True, "ADD": True}
            rest = operand, tiles.warps, tiles.stages, capability
            for kernel, constants in ((c._queries_kernel, flags), (c._negatives_kernel, {"WANTS_COLUMNS": True})):
                built = build(kernel, operand, common | constants, tiles.warps, tiles.stages, capability)
                tensor_cores = "wgmma" in built.asm["ptx"] or "mma.sync" in built.asm["ptx"]
                assert tensor_cores == (product != "ieee"), (kernel, product)
                assert built.metadata.shared <= (163 if capability == 80 else 227) * 1024, built.metadata.shared
    flags = {"HAS_ROWS": True, "HAS_SHIFT": True, "NORMALISE": True}
    build(c._prepare_kernel, "bf16", flags | {"ROWS": 8, "BLOCK_D": 128}, 4, 3, capability, shift="*fp32")
    build(c._finish_kernel, "bf16", {"NORMALISED": True, "WANTS_COLUMNS": True, "SHARES": 32, "BLOCK_D": 128},
          4, 3, capability)
    sizes, types = {"CHUNK": 64, "LINES": 8, "BLOCK_D": 128}, {"rows": "*i32", "order": "*i64"}
    build(u._chunks_kernel, "fp32", sizes, 1, 3, capability, **types)
    for each in (False, True):
        build(u._rows_kernel, "fp32", sizes | {"EACH": each, "CUT": True}, 1, 3, capability, **types)
print("built")
"""


@pytest.mark.slow
def test_every_kernel_compiles_for_ampere_and_hopper():
    """The compiler needs no device: what the interpreter takes, but it does not, shows here. float32 is no TF32."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert result.stdout == "built\n", result.stderr[-3000:]


class TestOnADevice:
    pytestmark = gpu

    @pytest.mark.parametrize("loss", LOSSES)
    @pytest.mark.parametrize("product", get_args(kernels.Product))
    def test_real_sizes_agree_with_float64(self, loss, product):
        vectors = [normal(at, length, 128) for at, length in enumerate((8192, 8192, 1000))]
        rows = torch.arange(9192, device=DEVICE) % 5000
        problem = Problem(
            Objective(loss, 0.2), *vectors, rows[:8192], rows[8192:], normal(3, 8192).abs(), normalise=True
        )
        answer = problem.answer(product, default_tiles(product, 128))
        if product in ("ieee", "tf32x3"):
            check(problem, answer, rtol=1e-3, atol=1e-4)
            return
        losses, wanted, _ = problem.expected()
        torch.testing.assert_close(double(answer.losses), losses, rtol=0.02, atol=0.02)
        for ours, theirs in zip((answer.queries, answer.own, answer.negatives), wanted, strict=True):
            assert (double(ours) - theirs).norm() / theirs.norm() < 0.05

    def test_graphs_train_what_pieces_train(self):
        trained = Trained()
        capture = CudaCapture(DEVICE, [trained.generator])
        assert all(map(torch.equal, train_epochs(trained, capture), train_plainly(Trained())))

    def test_the_same_seed_gives_the_same_bytes_and_every_replay_draws_anew(self):
        first, second = Trained(), Trained()
        for trained in (first, second):
            train_epochs(trained, CudaCapture(DEVICE, [trained.generator]))
        assert all(map(torch.equal, first.tensors(), second.tensors()))
        drawn, generator = [], torch.Generator(DEVICE).manual_seed(0)
        out, size = torch.zeros(4, dtype=torch.int64, device=DEVICE), 10**9

        def body():
            out.copy_(torch.randint(size, (4,), generator=generator, device=DEVICE))

        capture = CudaCapture(DEVICE, [generator])
        capture.warm(body)
        drawn.append(out.tolist())
        replay = capture.capture(body)
        for _ in range(2):
            replay()
            drawn.append(out.tolist())
        again = torch.Generator(DEVICE).manual_seed(0)
        assert drawn == [torch.randint(size, (4,), generator=again, device=DEVICE).tolist() for _ in range(3)]
