"""The step's loss and its gradients by hand against loops, finite differences and autograd."""

import dataclasses
import itertools
import math

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pretrain.comparators import COMPARATORS
from pretrain.config import TrainConfig
from pretrain.losses import LOSSES, make_loss
from pretrain.movers import Form, forms
from pretrain.operators import OPERATORS
from pretrain.step import Batch, Sampled, Step
from recokit.table import num_parameters

DIM, NUM_SOURCES, NUM_TARGETS, NUM_RELATIONS = 4, 4, 5, 3
CHOICES = list(itertools.product(OPERATORS, COMPARATORS))
DIRECTIONS = ("source", "target", "reciprocal")  # what the operator moves

# Row 1 is a source three times; negatives repeat rows and hit the edges' own ends (accidental positives).
BOTH_SIDES = naive.Edges([1, 1, 0, 1], [2, 0, 0, 2], [1.0, 0.5, 2.0, 0.0], [3, 1, 3, 0, 2], [4, 2, 0])
BATCHES = {
    "both": BOTH_SIDES,
    "target": dataclasses.replace(BOTH_SIDES, negative_sources=[]),
    "source": dataclasses.replace(BOTH_SIDES, negative_targets=[]),
    "in-batch": dataclasses.replace(BOTH_SIDES, negative_sources=[1, 1, 0, 1], negative_targets=[2, 0, 0, 2]),
    "one edge, all masked": naive.Edges([1], [2], [1.5], [1], [2, 2]),
    "known": dataclasses.replace(BOTH_SIDES, known=frozenset({(1, 0, 4), (3, 0, 2), (1, 0, 0), (1, 0, 2)})),
}
MIXED = [0, 2, 1, 2]  # relations of the four edges

# ---- a third way, by torch's own functions and autograd


def complex_of(x):
    return torch.view_as_complex(torch.stack(x.chunk(2, -1), -1).contiguous())


def real_of(z):
    return torch.cat([z.real, z.imag], -1)


def operate(operator, x, p):
    """Vectors x (N, D) moved with parameters p (P,)."""
    dim = x.shape[-1]
    return {
        "identity": lambda: x,
        "translation": lambda: x + p,
        "diagonal": lambda: x * p,
        "complex_diagonal": lambda: real_of(complex_of(x) * complex_of(p)),
        "rotation": lambda: real_of(complex_of(x) * torch.polar(torch.ones_like(p), p)),
        "linear": lambda: functional.linear(x, p.reshape(dim, dim)),
        "affine": lambda: functional.linear(x, p[: dim * dim].reshape(dim, dim), p[dim * dim :]),
    }[operator]()


def compare(comparator, a, b):
    """Scores of all pairs (N, M) of a (N, D) and b (M, D)."""
    return {
        "dot": lambda: a @ b.T,
        "cos": lambda: functional.cosine_similarity(a[:, None], b[None], dim=2),
        "l2": lambda: -torch.linalg.vector_norm(a[:, None] - b[None], dim=2),
        "squared_l2": lambda: -(a[:, None] - b[None]).square().sum(2),
    }[comparator]()


def all_scores(tables, setting, relation, asked):
    """Scores (sources, targets) of every pair under one relation."""
    if setting.reciprocal and asked == "source":
        moved = operate(setting.operator, tables.targets, tables.reverse[relation])
        scores = compare(setting.comparator, moved, tables.sources).T
    elif setting.operator_side == "target" and not setting.reciprocal:
        moved = operate(setting.operator, tables.targets, tables.parameters[relation])
        scores = compare(setting.comparator, tables.sources, moved)
    else:
        moved = operate(setting.operator, tables.sources, tables.parameters[relation])
        scores = compare(setting.comparator, moved, tables.targets)
    if tables.source_biases is not None:
        scores = scores + tables.source_biases[:, None] + tables.target_biases
    return scores / setting.temperature


def edge_loss(setting, positive, negatives):
    if setting.loss == "softmax":
        return functional.cross_entropy(torch.cat([positive[None], negatives])[None], torch.zeros(1, dtype=torch.int64))
    shares = torch.ones_like(negatives)
    if setting.adversarial:
        shares = torch.softmax(setting.adversarial * negatives.detach(), 0)
    elif setting.negative_reduction == "mean":
        shares = shares / max(len(negatives), 1)
    if setting.loss == "ranking":
        return (shares * functional.relu(setting.margin - positive + negatives)).sum()
    scores = torch.cat([positive[None], negatives]) + setting.score_offset
    labels = torch.cat([positive.new_ones(1), torch.zeros_like(negatives)])
    shares = torch.cat([positive.new_ones(1), shares])
    return functional.binary_cross_entropy_with_logits(scores, labels, shares, reduction="sum")


def autograd_loss(tables, batch, setting):
    """The loss of ``naive.batch_loss`` of tables that are tensors: one matrix of all pairs, then picked from."""
    total = tables.sources.new_zeros(())
    relations = batch.relations or [0] * len(batch.sources)
    for s, r, t, weight in zip(batch.sources, relations, batch.targets, batch.weights, strict=True):
        for asked, own, drawn, counts in (
            ("target", t, batch.negative_targets, batch.log_counts_targets),
            ("source", s, batch.negative_sources, batch.log_counts_sources),
        ):
            if not drawn:
                continue
            scores = all_scores(tables, setting, r, asked)
            line = scores[s] if asked == "target" else scores[:, t]
            masked = {own} | {k[2] for k in batch.known if asked == "target" and k[:2] == (s, r)}
            masked |= {k[0] for k in batch.known if asked == "source" and k[1:] == (r, t)}
            kept = [j for j, n in enumerate(drawn) if n not in masked]
            negatives = line[torch.tensor([drawn[j] for j in kept], dtype=torch.int64)]
            if counts:
                negatives = negatives - torch.tensor([counts[j] for j in kept], dtype=negatives.dtype)
            total = total + weight * edge_loss(setting, scores[s, t], negatives)
    return total


# ---- the engine


def random_tables(setting, *, bias=False, one_type=False, seed=0):
    """Numbers to learn, float64 arrays; with ``one_type`` both ends are one table."""
    rng = np.random.default_rng(seed)
    size = len(naive.identity_parameters(setting.operator, DIM))
    sources, source_biases = rng.normal(size=(NUM_SOURCES, DIM)), rng.normal(size=NUM_SOURCES)
    targets, target_biases = rng.normal(size=(NUM_TARGETS, DIM)), rng.normal(size=NUM_TARGETS)
    return naive.Tables(
        sources=sources,
        targets=sources if one_type else targets,
        parameters=rng.normal(size=(NUM_RELATIONS, size)),
        reverse=rng.normal(size=(NUM_RELATIONS, size)) if setting.reciprocal else None,
        source_biases=source_biases if bias else None,
        target_biases=(source_biases if one_type else target_biases) if bias else None,
    )


def as_tensors(tables, *, dtype=torch.float64, requires_grad=False):
    """Copies as tensors; arrays that are shared stay shared."""
    made = {
        id(array): torch.tensor(array, dtype=dtype, requires_grad=requires_grad) for array in tables.arrays().values()
    }
    values = {field.name: getattr(tables, field.name) for field in dataclasses.fields(tables)}
    return naive.Tables(**{name: None if array is None else made[id(array)] for name, array in values.items()})


def both_forms(setting, *, pulled=True):
    """How the relation enters the two questions; without ``pulled`` the operator's end is what moves."""
    found = forms(setting.operator, setting.operator_side, setting.comparator, reciprocal=setting.reciprocal)
    if not pulled and not setting.reciprocal:
        other = "source" if setting.operator_side == "target" else "target"
        found[setting.operator_side] = Form(found[other].mover, "candidates")
    return found["target"], found["source"]


def engine_loss(setting):
    names = ("loss", "margin", "score_offset", "negative_reduction", "adversarial")
    return make_loss(TrainConfig(**{name: getattr(setting, name) for name in names}))


def engine_batch(batch, setting, dtype=torch.float64):
    relations = batch.relations or [0] * len(batch.sources)
    triples = list(zip(batch.sources, relations, batch.targets, strict=True))

    def sampled(asked, drawn, counts):
        if not drawn:
            return None
        corrupted = [[(s, r, n) if asked == "target" else (n, r, t) for n in drawn] for s, r, t in triples]
        known = [(i, j) for i, row in enumerate(corrupted) for j, triple in enumerate(row) if triple in batch.known]
        return Sampled(
            torch.tensor(drawn),
            torch.tensor(counts, dtype=dtype) if counts else None,
            torch.tensor(known, dtype=torch.int64).reshape(-1, 2).T if batch.known else None,
        )

    return Batch(
        torch.tensor(batch.sources),
        torch.tensor(batch.targets),
        torch.tensor(relations),
        torch.tensor(batch.weights, dtype=dtype),
        sampled("source", batch.negative_sources, batch.log_counts_sources),
        sampled("target", batch.negative_targets, batch.log_counts_targets),
        torch.tensor(relations) + NUM_RELATIONS if setting.reciprocal else None,
    )


def run_step(setting, tables, batch, *, dtype=torch.float64, pulled=True):
    """The engine's loss and the dense gradient of every array, by name; of shared arrays the sum of both ends."""
    given = as_tensors(tables, dtype=dtype)
    comparator, loss = COMPARATORS[setting.comparator], engine_loss(setting)
    step = Step(*both_forms(setting, pulled=pulled), comparator, loss, setting.temperature)
    block = given.parameters if given.reverse is None else torch.cat([given.parameters, given.reverse])
    before = [tensor.clone() for tensor in (*given.arrays().values(), block)]
    result = step(
        given.sources, given.targets, block, engine_batch(batch, setting, dtype),
        source_bias=given.source_biases, target_bias=given.target_biases,
    )  # fmt: skip
    assert all(map(torch.equal, before, (*given.arrays().values(), block))), "the tables were written to"
    dense = {name: torch.zeros_like(tensor) for name, tensor in given.arrays().items()}
    for name, fallback, rows, grads in (
        ("sources", "sources", result.source_rows, result.source_grads),
        ("targets", "sources", result.target_rows, result.target_grads),
        ("source_biases", "source_biases", result.source_rows, result.source_bias_grads),
        ("target_biases", "source_biases", result.target_rows, result.target_bias_grads),
    ):
        if grads is not None:
            dense[name if name in dense else fallback].index_add_(0, rows, grads)
    of_block = torch.zeros_like(block).index_add_(0, result.relation_rows, result.relation_grads)
    dense["parameters"] = of_block[:NUM_RELATIONS]
    if given.reverse is not None:
        dense["reverse"] = of_block[NUM_RELATIONS:]
    return result.losses.sum(), dense


def check_against_autograd(setting, tables, batch, *, pulled=True, what=""):
    leaves = as_tensors(tables, requires_grad=True)
    expected = autograd_loss(leaves, batch, setting)
    if expected.requires_grad:
        expected.backward()
    value, grads = run_step(setting, tables, batch, pulled=pulled)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-9, msg=lambda m: f"{what}: {m}")
    for name, grad in grads.items():
        leaf = getattr(leaves, name)
        wanted = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        torch.testing.assert_close(grad, wanted, rtol=1e-8, atol=1e-8, msg=lambda m, name=name: f"{what} {name}: {m}")


def check_against_loops(setting, tables, batch, rng, *, pulled=True, what=""):
    """The value, and the slope of every array along two directions (every entry counts in a random one)."""
    value, grads = run_step(setting, tables, batch, pulled=pulled)
    constants = {}
    expected = naive.batch_loss(tables, batch, setting, constants)
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-9), what
    for name, array in tables.arrays().items():
        for _ in range(2):
            direction, kept, ends = rng.normal(size=array.shape), array.copy(), []
            for step in (1e-6, -1e-6):
                array[...] = kept + step * direction
                ends.append(naive.batch_loss(tables, batch, setting, constants))
                array[...] = kept
            slope = (grads[name].numpy() * direction).sum()
            assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-6), f"{what} {name}"


def make_setting(operator, comparator, loss, direction, **others):
    return naive.Setting(
        operator, comparator, loss, "target" if direction == "target" else "source", direction == "reciprocal", **others
    )


def variants(loss):
    """What else a loss may be told."""
    return {
        "softmax": [{}],
        "logistic": [{"score_offset": 0.7}, {"negative_reduction": "mean"}, {"adversarial": 0.6, "score_offset": -0.5}],
        "ranking": [{"margin": 0.4}, {"negative_reduction": "mean"}, {"adversarial": 0.6}],
    }[loss]


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_loss_and_gradients_agree_with_loops_and_finite_differences(choice):
    """Every loss and direction on every kind of batch, with biases, variants and temperatures by lot."""
    rng = np.random.default_rng(CHOICES.index(choice))
    for loss, direction, kind in itertools.product(LOSSES, DIRECTIONS, BATCHES):
        other = variants(loss)[rng.integers(len(variants(loss)))]
        setting = make_setting(*choice, loss, direction, temperature=rng.choice([1.0, 0.2, 3.0]), **other)
        tables = random_tables(setting, bias=rng.random() < 0.5, seed=rng.integers(2**31))
        check_against_loops(setting, tables, BATCHES[kind], rng, pulled=rng.random() < 0.7, what=f"{setting} {kind}")


@st.composite
def batches(draw, setting, num_targets):
    size = draw(st.integers(1, 5))
    source, target = st.integers(0, NUM_SOURCES - 1), st.integers(0, num_targets - 1)
    relation = st.integers(0, NUM_RELATIONS - 1)
    side = draw(st.sampled_from(["both", "source", "target"]))
    in_batch = draw(st.booleans())
    edges = [draw(st.lists(rows, min_size=size, max_size=size)) for rows in (source, target)]
    negatives = [
        (draw(st.lists(rows, min_size=1, max_size=6)) + (own if in_batch else [])) if side in ("both", s) else []
        for s, rows, own in zip(("source", "target"), (source, target), edges, strict=True)
    ]
    counts = [
        draw(st.lists(st.sampled_from([-2.0, 0.0, 0.5]), min_size=len(drawn), max_size=len(drawn)))
        for drawn in negatives
    ]
    return naive.Edges(
        *edges,
        draw(st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.0]), min_size=size, max_size=size)),
        *negatives,
        draw(st.lists(relation, min_size=size, max_size=size)),
        frozenset(draw(st.lists(st.tuples(source, relation, target), max_size=8))),
        *(counts if setting.loss == "softmax" and draw(st.booleans()) else (None, None)),
    )


@st.composite
def problems(draw, operator, comparator):
    loss = draw(st.sampled_from(sorted(LOSSES)))
    setting = make_setting(
        operator, comparator, loss, draw(st.sampled_from(DIRECTIONS)),
        temperature=draw(st.sampled_from([0.1, 1.0, 7.0])), **draw(st.sampled_from([{}, *variants(loss)])),
    )  # fmt: skip
    one_type = draw(st.booleans())
    tables = random_tables(setting, bias=draw(st.booleans()), one_type=one_type, seed=draw(st.integers(0, 99)))
    return setting, tables, draw(batches(setting, NUM_SOURCES if one_type else NUM_TARGETS))


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_gradients_of_random_batches_agree_with_autograd(choice, data):
    """Mixed relations, biases, masks, corrections, one table on both ends: whatever comes together."""
    check_against_autograd(*data.draw(problems(*choice)))


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_an_entity_type_on_both_ends_gets_the_sum_of_both(choice):
    batch = naive.Edges([0, 1, 2, 3], [1, 0, 2, 1], [1.0, 2.0, 1.0, 0.5], [0, 3, 1], [2, 1])  # a twin, a loop
    for loss, direction in itertools.product(LOSSES, DIRECTIONS):
        setting = make_setting(*choice, loss, direction, temperature=0.5)
        check_against_autograd(setting, random_tables(setting, bias=True, one_type=True), batch, what=str(setting))


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_moved_anchors_and_moved_candidates_are_the_same_question(choice):
    for loss, direction in itertools.product(LOSSES, ("source", "target")):
        setting = make_setting(*choice, loss, direction, temperature=0.5)
        tables, batch = random_tables(setting, bias=True), dataclasses.replace(BOTH_SIDES, relations=MIXED)
        value, grads = run_step(setting, tables, batch)
        expected, expected_grads = run_step(setting, tables, batch, pulled=False)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, expected_grads[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_a_batch_of_many_relations_is_the_sum_of_batches_of_one(choice):
    for loss, direction in itertools.product(LOSSES, DIRECTIONS):
        setting = make_setting(*choice, loss, direction, temperature=0.5)
        tables = random_tables(setting, bias=True)
        value, grads = run_step(setting, tables, dataclasses.replace(BOTH_SIDES, relations=MIXED))
        parts = []
        for relation in range(NUM_RELATIONS):
            own = [i for i, r in enumerate(MIXED) if r == relation]
            picked = {name: [getattr(BOTH_SIDES, name)[i] for i in own] for name in ("sources", "targets", "weights")}
            part = dataclasses.replace(BOTH_SIDES, **picked, relations=[relation] * len(own))
            parts.append(run_step(setting, tables, part, pulled=relation > 0))
        torch.testing.assert_close(value, sum(part[0] for part in parts))
        for name, grad in grads.items():
            torch.testing.assert_close(grad, sum(part[1][name] for part in parts))


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice[0] != "identity"], ids="-".join)
def test_a_thousand_relations_in_a_batch_cost_what_each_costs_alone(choice):
    setting = make_setting(*choice, "logistic", "reciprocal", temperature=0.5)
    rng, size = np.random.default_rng(0), 1000
    block = torch.from_numpy(rng.normal(size=(2 * size, num_parameters(choice[0], DIM))))
    tables = [torch.from_numpy(rng.normal(size=(50, DIM))) for _ in range(2)]
    own = [torch.from_numpy(rng.integers(50, size=size)) for _ in range(2)]
    weights, drawn = torch.from_numpy(rng.random(size)), [Sampled(torch.arange(7)), Sampled(torch.arange(40, 49))]
    step = Step(*both_forms(setting), COMPARATORS[setting.comparator], engine_loss(setting), setting.temperature)
    relations = torch.from_numpy(rng.permutation(size))
    every = step(*tables, block, Batch(*own, relations, weights, *drawn, relations + size))
    grads = torch.zeros_like(block).index_add_(0, every.relation_rows, every.relation_grads)
    for i in (0, 1, 77, 999):
        part = slice(i, i + 1)
        batch = Batch(own[0][part], own[1][part], relations[part], weights[part], *drawn, relations[part] + size)
        alone = step(*tables, block, batch)
        torch.testing.assert_close(every.losses[part], alone.losses)
        assert alone.relation_rows.tolist() == [relations[i], relations[i] + size]
        torch.testing.assert_close(grads[alone.relation_rows], alone.relation_grads)
        torch.testing.assert_close(every.source_grads[part], alone.source_grads[:1])
        torch.testing.assert_close(every.target_grads[part], alone.target_grads[:1])


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_float32_agrees_and_results_keep_the_type_of_the_tables(choice):
    for loss, direction in itertools.product(LOSSES, DIRECTIONS):
        setting = make_setting(*choice, loss, direction, temperature=0.5)
        tables = random_tables(setting, bias=True)
        exact, exact_grads = run_step(setting, tables, BOTH_SIDES)
        value, grads = run_step(setting, tables, BOTH_SIDES, dtype=torch.float32)
        assert {tensor.dtype for tensor in (value, *grads.values())} == {torch.float32}
        torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-4)
        for name, grad in grads.items():
            torch.testing.assert_close(grad.double(), exact_grads[name], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_an_edge_of_weight_zero_and_an_absent_edge_are_the_same(choice):
    rest = {name: getattr(BOTH_SIDES, name)[:3] for name in ("sources", "targets", "weights")}
    for loss, direction in itertools.product(LOSSES, DIRECTIONS):
        setting = make_setting(*choice, loss, direction, temperature=0.2)
        tables = random_tables(setting, bias=True)
        value, grads = run_step(setting, tables, BOTH_SIDES)
        expected, expected_grads = run_step(setting, tables, dataclasses.replace(BOTH_SIDES, **rest))
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, expected_grads[name], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_masked_negatives_and_absent_negatives_are_the_same(choice):
    """Rows 3 and 4 are known answers of the only edge; its own end is one in any case."""
    masked = naive.Edges([1], [2], [1.0], [3, 1, 0, 3], [4, 2, 0, 1], [2], frozenset({(1, 2, 4), (3, 2, 2)}))
    absent = dataclasses.replace(masked, negative_sources=[0], negative_targets=[0, 1], known=frozenset())
    of_others = dataclasses.replace(absent, known=frozenset({(1, 0, 0), (0, 1, 2), (0, 2, 1), (2, 2, 1), (1, 2, 2)}))
    for loss, direction in itertools.product(LOSSES, DIRECTIONS):
        for other in [{}, *variants(loss)]:
            setting = make_setting(*choice, loss, direction, temperature=0.7, **other)
            tables = random_tables(setting, bias=True)
            expected, expected_grads = run_step(setting, tables, absent)
            for batch in (masked, of_others):
                value, grads = run_step(setting, tables, batch)
                torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
                for name, grad in grads.items():
                    torch.testing.assert_close(grad, expected_grads[name], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_loss_and_gradients_are_in_proportion_to_the_weights(choice, loss):
    setting = make_setting(*choice, loss, "source", temperature=0.2)
    tables = random_tables(setting, bias=True)
    tripled = dataclasses.replace(BOTH_SIDES, weights=[3 * weight for weight in BOTH_SIDES.weights])
    (value, grads), (thrice, thrice_grads) = (run_step(setting, tables, batch) for batch in (BOTH_SIDES, tripled))
    torch.testing.assert_close(3 * value, thrice)
    for name, grad in grads.items():
        torch.testing.assert_close(3 * grad, thrice_grads[name])


@pytest.mark.parametrize("loss", ["softmax", "ranking"])
def test_biases_that_cancel_get_no_gradient_not_even_that_of_rounding(loss):
    """Of differences the bias of who is asked is no part; Adagrad would make full steps of what rounding leaves."""
    for operator, asked in itertools.product(("translation", "identity"), ("target", "source")):
        setting = naive.Setting(operator, "dot", loss, temperature=0.3)
        _, grads = run_step(setting, random_tables(setting, bias=True), BATCHES[asked], dtype=torch.float32)
        anchors, others = (
            ("source_biases", "target_biases") if asked == "target" else ("target_biases", "source_biases")
        )
        assert not grads[anchors].any()
        assert grads[others].any()
        if operator == "translation":  # (s + r) · t - (s' + r) · t does not know r
            assert grads["parameters"].any() == (asked == "target")


@pytest.mark.parametrize("loss", LOSSES)
def test_a_zero_vector_has_cosine_zero_and_no_nan(loss):
    setting = naive.Setting("identity", "cos", loss)
    tables = random_tables(setting)
    tables.sources[1] = 0.0
    tables.targets[2] = 0.0
    value, grads = run_step(setting, tables, BOTH_SIDES, dtype=torch.float32)
    assert value.item() == pytest.approx(naive.batch_loss(tables, BOTH_SIDES, setting), rel=1e-5)
    assert all(torch.isfinite(grad).all() for grad in grads.values())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("comparator", ["l2", "squared_l2"])
def test_equal_vectors_are_at_distance_zero_and_no_nan(loss, comparator):
    setting = naive.Setting("identity", comparator, loss)
    tables = random_tables(setting)
    tables.targets[[0, 2, 4]] = tables.sources[1]  # positives and negatives at the distance 0
    value, grads = run_step(setting, tables, BOTH_SIDES, dtype=torch.float32)
    assert value.item() == pytest.approx(naive.batch_loss(tables, BOTH_SIDES, setting), rel=1e-4)
    leaves = as_tensors(tables, requires_grad=True)
    autograd_loss(leaves, BOTH_SIDES, setting).backward()  # torch's norm has the slope 0 at 0, too
    if loss != "ranking":  # equal scores and a margin of 1: no kink is near
        for name in ("sources", "targets"):
            torch.testing.assert_close(grads[name].double(), getattr(leaves, name).grad, rtol=1e-3, atol=1e-3)
    assert all(torch.isfinite(grad).all() for grad in grads.values())


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
        ("ranking", 1e4, -1e4, 0.0),
        ("ranking", -1e4, 1e4, 2e4 + 1),
        ("ranking", 1e4, 1e4, 1.0),
        ("ranking", -1e4, -1e4, 1.0),
    ],
)
def test_extreme_scores_stay_finite(loss, positive, negative, expected):
    targets = np.array([[positive / 100], [negative / 100]])
    tables = naive.Tables(np.array([[100.0]]), targets, np.zeros((NUM_RELATIONS, 0)))
    batch = naive.Edges([0], [0], [1.0], [], [1])
    value, grads = run_step(naive.Setting(loss=loss), tables, batch, dtype=torch.float32)
    assert value.item() == pytest.approx(expected, abs=1e-6)
    # d/ds of the loss is slope_positive * t_0 + slope_negative * t_1, the slopes being -1, -1/2 or 0 and 0, 1/2 or 1.
    if loss == "logistic":
        slopes = [-1.0 if positive < 0 else 0.0, 1.0 if negative > 0 else 0.0]
    else:
        slope = {2.0: 0.0, -2.0: 1.0, 0.0: 0.5 if loss == "softmax" else 1.0}[(positive - negative) / 1e4]
        slopes = [-slope, slope]
    assert grads["targets"].flatten().tolist() == [100 * slope for slope in slopes]
    assert torch.isfinite(grads["sources"]).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_without_questions_costs_nothing(loss):
    setting = make_setting("affine", "l2", loss, "source")
    batch = dataclasses.replace(BOTH_SIDES, negative_sources=[], negative_targets=[])
    value, grads = run_step(setting, random_tables(setting, bias=True), batch)
    assert value.item() == 0.0
    assert not any(grad.any() for grad in grads.values())
