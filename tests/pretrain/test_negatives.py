"""Negative samples follow the distribution they are named after."""

import dataclasses
import itertools
import math

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from pretrain import Graph, Relation, TrainConfig, train
from pretrain.comparators import COMPARATORS
from pretrain.losses import make_loss
from pretrain.movers import forms
from pretrain.negatives import KnownPositives, NegativeSampler
from pretrain.step import Batch, Sampled, Step
from recokit.errors import ConfigError

CPU = torch.device("cpu")
DEGREES = np.array([0, 5, 1, 0, 0, 20, 3, 1, 0])
NONE = torch.zeros(0, dtype=torch.int64)


def sampler(uniform=0, prevalence=0, in_batch=0, *, degrees=DEGREES, **others):
    return NegativeSampler(
        degrees, uniform=uniform, prevalence=prevalence, in_batch=in_batch, device=CPU, **others
    )  # fmt: skip


def draw(uniform, prevalence, *, degrees=DEGREES, seed=0, power=1.0):
    made = sampler(uniform, prevalence, degrees=degrees, power=power)
    return made.draw(NONE, torch.Generator().manual_seed(seed)).numpy()


def test_uniform_negatives_are_uniform_over_all_entities():
    counts = np.bincount(draw(90_000, 0), minlength=9)
    assert chisquare(counts).pvalue > 0.01
    assert counts.sum() == 90_000


def test_prevalence_negatives_are_in_proportion_to_occurrences():
    counts = np.bincount(draw(0, 60_000), minlength=9)
    there = DEGREES > 0
    assert chisquare(counts[there], 60_000 * DEGREES[there] / DEGREES.sum()).pvalue > 0.01


def test_what_never_occurs_is_no_prevalence_negative():
    assert set(draw(0, 20_000)) == {1, 2, 5, 6, 7}
    assert set(draw(0, 2_000, degrees=np.array([0, 0, 7, 0]))) == {2}


def test_the_edges_of_the_intervals_belong_to_entities_that_occur(monkeypatch):
    # Row 1 has [0, 5), row 2 [5, 6), row 5 [6, 26) and so on; a random number may be exactly 0 or at such an edge.
    at = torch.tensor([0.0, 5.0, 6.0, 26.0, 29.0], dtype=torch.float64) / 30
    monkeypatch.setattr(torch, "rand", lambda *_, **__: at)
    assert draw(0, 5).tolist() == [1, 2, 5, 6, 7]


def test_uniform_come_first_then_prevalence():
    only = np.array([0] * 1000 + [1])
    rows = draw(500, 300, degrees=only)
    assert len(rows) == 800
    assert (rows[500:] == 1000).all()
    assert np.mean(rows[:500] == 1000) < 0.05


def test_the_seed_decides():
    assert draw(50, 50, seed=1).tolist() == draw(50, 50, seed=1).tolist()
    assert draw(50, 50, seed=1).tolist() != draw(50, 50, seed=2).tolist()


@pytest.mark.parametrize("power", [0.0, 0.5, 0.75, 2.0])
def test_prevalence_negatives_are_in_proportion_to_a_power_of_occurrences(power):
    counts = np.bincount(draw(0, 60_000, power=power), minlength=9)
    expected = naive.expected_counts(DEGREES, 0, 60_000, power)
    there = DEGREES > 0  # the power 0 draws evenly from what occurs
    assert not counts[~there].any()
    assert chisquare(counts[there], np.array(expected)[there]).pvalue > 0.01


@pytest.mark.parametrize(
    ("uniform", "prevalence", "in_batch"), [(4, 0, 0), (0, 3, 0), (0, 0, 5), (2, 3, 4), (1, 1, 99)]
)
def test_there_are_as_many_of_each_kind_as_asked_for(uniform, prevalence, in_batch):
    own = torch.tensor([7, 8, 9, 7, 6, 5])  # in-batch negatives can be told from the others
    made = sampler(uniform, prevalence, in_batch, degrees=np.array([0, 0, 1]))
    rows = made.draw(own, torch.Generator().manual_seed(0)).tolist()
    assert all(row < 3 for row in rows[:uniform])
    assert rows[uniform : uniform + prevalence] == [2] * prevalence
    assert rows[uniform + prevalence :] == own.tolist()[:in_batch]


def test_all_is_every_entity_once():
    made = sampler("all", log_q=True)
    assert made.draw(torch.tensor([5, 5]), torch.Generator()).tolist() == list(range(9))
    assert made.log_expected(torch.arange(9), 2) is None  # the log of once is 0


@pytest.mark.parametrize("others", [{"prevalence": 1}, {"in_batch": 1}])
def test_all_and_others_are_refused(others):
    with pytest.raises(ConfigError, match='uniform_negatives="all" takes every entity once'):
        sampler("all", **others)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_a_type_without_entities_needs_no_negatives(power):
    made = sampler(2, 3, 1, degrees=np.zeros(0, np.int64), log_q=True, power=power)
    assert made.log_expected(NONE, 4).tolist() == []


def test_relations_of_a_type_without_entities_are_trained_past():
    full = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "b")])
    edges = {"r": full.edges["r"], "s": full.edges["r"].take(np.zeros(0, np.int64))}
    relations = dict(full.relations) | {"s": Relation("s", "a", "c")}
    graph = Graph(relations, dict(full.entities) | {"c": full.entities["b"][:0]}, edges)
    for extras in ({}, {"prevalence_negatives": 2}, {"filter_positives": True}):
        model = train(graph, TrainConfig(dim=4, epochs=1, uniform_negatives=2, log_q=True, **extras))
        assert math.isfinite(model.epochs[0]["loss"])


def test_no_negatives_are_refused():
    with pytest.raises(ConfigError, match="without them nothing is learned"):
        sampler()


@settings(max_examples=30, deadline=None)
@given(
    degrees=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any), uniform=st.integers(0, 5),
    prevalence=st.integers(1, 5), in_batch=st.integers(0, 6), size=st.integers(1, 6),
    power=st.sampled_from([0.0, 0.5, 1.0]),
)  # fmt: skip
def test_expected_counts_agree_with_loops(degrees, uniform, prevalence, in_batch, size, power):
    made = sampler(uniform, prevalence, in_batch, degrees=np.array(degrees), power=power, log_q=True)
    expected = naive.expected_counts(degrees, uniform, prevalence, power)
    # A batch of `size` edges has no more than that many of its own.
    expected = [count + min(in_batch, size) * d / sum(degrees) for count, d in zip(expected, degrees, strict=True)]
    rows = torch.tensor([row for row, count in enumerate(expected) if count > 0])
    ours = made.log_expected(rows, size)
    assert ours.exp().tolist() == pytest.approx([expected[row] for row in rows.tolist()], rel=1e-5)


def test_counts_are_as_expected():
    made = sampler(3, 4, 2, power=0.5, log_q=True)
    generator, own, draws = torch.Generator().manual_seed(0), torch.from_numpy(np.repeat(np.arange(9), DEGREES)), 8000
    counts = torch.zeros(9, dtype=torch.int64)
    for _ in range(draws):
        batch = own[torch.randperm(len(own), generator=generator)[:5]]
        counts += torch.bincount(made.draw(batch, generator), minlength=9)
    expected = made.log_expected(torch.arange(9), 5).double().exp() * draws
    assert expected.sum().item() == pytest.approx(9 * draws)
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all()


def test_without_the_correction_there_is_nothing_to_subtract():
    assert sampler(3, 4, 2).log_expected(torch.arange(9), 5) is None


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_known_positives_are_found_among_the_negatives(data):
    rows, relations = st.integers(0, 4), st.integers(0, 2)
    known = data.draw(st.lists(st.tuples(rows, relations, rows), max_size=12))  # some come twice
    asked = data.draw(st.lists(st.tuples(rows, relations), max_size=6))
    drawn = data.draw(st.lists(rows, max_size=8))
    columns = [torch.tensor([triple[i] for triple in known], dtype=torch.int64) for i in range(3)]
    positives = KnownPositives(*columns, 3)
    questions = [torch.tensor([question[i] for question in asked], dtype=torch.int64) for i in range(2)]
    found, which = positives.find(*questions, torch.tensor(drawn, dtype=torch.int64))
    expected = {
        (question, j) for question in asked for j, row in enumerate(drawn) if (*question, row) in known
    }  # fmt: skip
    places = dict(zip(which.tolist(), asked, strict=True))  # a question has one place, in common to its edges
    assert len(places) == len(set(asked))
    assert [places[place] for place in which.tolist()] == asked
    assert {(places[place], j) for place, j in found.T.tolist()} == expected
    assert found.shape[0] == 2


def test_known_positives_of_a_hub_are_spelled_out_once_for_all_its_edges():
    hub, answers = torch.zeros(50, dtype=torch.int64), torch.arange(50)
    found, which = KnownPositives(hub, hub, answers, 1).find(hub[:20], hub[:20], answers)
    assert sorted(found.T.tolist()) == [[0, answer] for answer in range(50)]
    assert which.tolist() == [0] * 20


EDGES = pd.DataFrame({"source": [0, 1, 1, 2, 0, 3], "target": [5, 0, 1, 2, 3, 4], "weight": [1, 1, 2, 0.5, 1, 1]})
STILL = TrainConfig(
    dim=4, epochs=1, uniform_negatives="all", learning_rate=1e-30, relation_learning_rate=1e-30, init_scale=1.0
)


def in_full(model, config, *, known=frozenset()):
    """The loss per edge of the model, by its own scores: every entity of the type is a candidate."""
    sources, targets = (len(model.entities[entity]) for entity in ("a", "b"))
    pairs = np.array(list(itertools.product(range(sources), range(targets))))
    scores = model.score("r", pairs[:, 0], pairs[:, 1]).reshape(sources, targets).astype(float) / config.temperature
    total = 0.0
    for s, t, weight in zip(*(EDGES[name].tolist() for name in EDGES), strict=True):
        rivals = [scores[s, n] for n in range(targets) if n != t and (s, n) not in known]
        total += weight * naive.edge_loss(config.loss, scores[s, t], rivals)
        rivals = [scores[n, t] for n in range(sources) if n != s and (n, t) not in known]
        total += weight * naive.edge_loss(config.loss, scores[s, t], rivals)
    return total / len(EDGES)


@pytest.mark.parametrize("loss", ["softmax", "logistic", "ranking"])
@pytest.mark.parametrize("comparator", COMPARATORS)
def test_all_entities_as_negatives_are_the_full_loss(comparator, loss):
    graph = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "b")])
    for log_q in (False, True) if loss == "softmax" else (False,):
        config = dataclasses.replace(STILL, comparator=comparator, loss=loss, log_q=log_q)
        model = train(graph, config)
        assert model.epochs[0]["loss"] == pytest.approx(in_full(model, config), rel=1e-5)


def test_the_full_softmax_is_torchs_cross_entropy():
    """Biases and the questions of the model itself, of a model that was trained."""
    graph = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "b")])
    trained = train(graph, dataclasses.replace(STILL, bias=True, learning_rate=0.1, epochs=3, comparator="l2"))
    assert all(bias.abs().min() > 0 for bias in trained.biases.values())
    again = train(graph, dataclasses.replace(STILL, bias=True, comparator="l2"), previous=trained)
    rows = {"target": torch.tensor(graph.edges["r"].sources), "source": torch.tensor(graph.edges["r"].targets)}
    total = 0.0
    for side, answers in (("target", rows["source"]), ("source", rows["target"])):
        question = trained.question("r", side, rows[side])
        scores = COMPARATORS["l2"].block(question.queries, question.candidates)[0] + question.bias
        losses = torch.nn.functional.cross_entropy(scores / STILL.temperature, answers, reduction="none")
        total += (losses * torch.tensor(graph.edges["r"].weights)).sum().item()
    assert again.epochs[0]["loss"] == pytest.approx(total / len(EDGES), rel=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "logistic", "ranking"])
def test_known_edges_are_no_negatives_of_any_edge(loss):
    """Of both sides; the negatives that are left cost as much as if the others were not there."""
    graph = Graph.from_frames({"r": EDGES}, [Relation("r", "a", "b")])
    config = dataclasses.replace(STILL, loss=loss, filter_positives=True)
    model = train(graph, config)
    known = set(zip(EDGES["source"], EDGES["target"], strict=True))
    assert model.epochs[0]["loss"] == pytest.approx(in_full(model, config, known=known), rel=1e-5)
    assert in_full(model, config, known=known) < in_full(model, config)


def test_known_edges_of_another_relation_are_negatives():
    """Two relations in one batch, the second one's edges are those that the first one lacks."""
    every = pd.DataFrame(itertools.product([0, 1], [0, 1, 2]), columns=["source", "target"])
    frames = {"r": every[::2], "s": every[1::2]}
    graph = Graph.from_frames(frames, [Relation(name, "a", "b", sides="target") for name in frames])
    model = train(graph, dataclasses.replace(STILL, filter_positives=True))
    scores = model.score("r", every["source"], every["target"]).reshape(2, 3).astype(float) / STILL.temperature
    for name, frame in frames.items():
        edges = {(int(s), int(t)) for s, t in frame.itertuples(index=False)}
        losses = [
            naive.edge_loss("softmax", scores[s, t], [scores[s, n] for n in range(3) if (s, n) not in edges])
            for s, t in edges
        ]
        assert model.epochs[0]["losses"][name] == pytest.approx(sum(losses) / 3, rel=1e-5)


@pytest.mark.parametrize(("uniform", "prevalence", "power"), [(20, 0, 1.0), (0, 20, 1.0), (0, 20, 0.5), (8, 12, 0.75)])
def test_the_correction_makes_the_sampled_sum_an_estimate_of_the_full_sum(uniform, prevalence, power):
    """The mean over many draws of what stands beside the positive is the sum over all other entities that can come."""
    generator = torch.Generator().manual_seed(4)
    targets = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    source = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    made = sampler(uniform, prevalence, power=power, log_q=True)
    both = forms("identity", "source", "dot")
    step = Step(both["target"], both["source"], COMPARATORS["dot"], make_loss(TrainConfig(loss="softmax")), 2.0)
    zero, own = torch.zeros(1, dtype=torch.int64), torch.tensor([5])
    scores = (source @ targets.T)[0] / 2.0
    sums = []
    for _ in range(1000):
        rows = made.draw(own, generator)
        sampled = Sampled(rows, made.log_expected(rows, 1))
        batch = Batch(zero, own, zero, torch.ones(1, dtype=torch.float64), None, sampled)
        loss = step(source, targets, torch.zeros(1, 0, dtype=torch.float64), batch).losses.item()
        sums.append((math.exp(loss) - 1) * math.exp(scores[5]))
    can_come = [row for row in range(9) if row != 5 and (uniform or DEGREES[row])]
    expected = scores[can_come].exp().sum().item()
    assert np.mean(sums) == pytest.approx(expected, abs=5 * np.std(sums) / math.sqrt(1000))
    assert 5 * np.std(sums) / math.sqrt(1000) < 0.2 * expected


@pytest.mark.parametrize("weights", [[1.0] * 6, [1.0, 1.0, 1.0, 0.0, 0.0, 1.0]])
def test_the_correction_of_whatever_comes_is_finite(weights):
    graph = Graph.from_frames({"r": EDGES.assign(weight=weights)}, [Relation("r", "a", "b")])
    for counts in ((3, 2, 2), (0, 2, 0), (0, 0, 6), (1, 0, 0)):
        uniform, prevalence, in_batch = counts
        config = TrainConfig(
            dim=4, epochs=2, batch_size=4, uniform_negatives=uniform, prevalence_negatives=prevalence,
            in_batch_negatives=in_batch, log_q=True,
        )  # fmt: skip
        assert math.isfinite(train(graph, config).epochs[1]["loss"])


def test_negatives_are_of_the_right_type(watch_steps):
    """Types of different sizes on both ends of relations in both directions; every row that exists is drawn."""
    sizes, seen = {"few": 3, "many": 40}, {}

    def see(sources, targets, block, batch):
        for table, sampled in ((sources, batch.negative_sources), (targets, batch.negative_targets)):
            seen.setdefault(len(table), []).extend(sampled.rows.tolist())

    watch_steps(see)
    edges = pd.DataFrame({"source": np.arange(40) % 3, "target": np.arange(40)})
    back = edges.rename(columns={"source": "target", "target": "source"})
    graph = Graph.from_frames({"r": edges, "s": back}, [Relation("r", "few", "many"), Relation("s", "many", "few")])
    config = TrainConfig(
        dim=4, epochs=2, batch_size=16, uniform_negatives=50, prevalence_negatives=50, in_batch_negatives=16
    )
    train(graph, config)
    for size in sizes.values():
        assert set(seen[size]) == set(range(size))
