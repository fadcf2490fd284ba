"""Negative samples follow the distribution they are named after."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from pretrain.config import Relation, TrainConfig
from pretrain.negatives import NegativeSampler
from pretrain.train import _Negatives

CPU = torch.device("cpu")
DEGREES = np.array([0, 5, 1, 0, 0, 20, 3, 1, 0])


def draw(uniform, prevalence, *, degrees=DEGREES, seed=0):
    return NegativeSampler(degrees, device=CPU).draw(uniform, prevalence, torch.Generator().manual_seed(seed)).numpy()


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


@pytest.mark.parametrize(
    ("uniform", "prevalence", "in_batch"), [(4, 0, 0), (0, 3, 0), (0, 0, 5), (2, 3, 4), (1, 1, 99)]
)
def test_a_relation_draws_as_many_of_each_kind_as_it_says(uniform, prevalence, in_batch):
    relation = Relation(
        "r", "a", "b", uniform_negatives=uniform, prevalence_negatives=prevalence, in_batch_negatives=in_batch
    )
    sampler = NegativeSampler(np.array([0, 0, 1]), device=CPU)
    own = torch.tensor([7, 8, 9, 7, 6, 5])  # in-batch negatives can be told from the others
    rows = _Negatives.of(relation, TrainConfig()).draw(sampler, own, torch.Generator().manual_seed(0)).tolist()
    assert len(rows[:uniform]) == uniform
    assert rows[uniform : uniform + prevalence] == [2] * prevalence
    assert rows[uniform + prevalence :] == own.tolist()[:in_batch]


def test_a_relation_overrides_the_run_and_zero_is_a_number():
    config = TrainConfig(uniform_negatives=7, prevalence_negatives=2, sides="both")
    counts = _Negatives.of(Relation("r", "a", "b", uniform_negatives=0, sides="target"), config)
    assert (counts.uniform, counts.prevalence, counts.in_batch) == (0, 2, 0)
    assert (counts.of_sources, counts.of_targets) == (False, True)
