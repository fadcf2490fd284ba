"""SearchRanker and the losses: formulas row by row and session by session, and a person's own order of results."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from ranker_oracle import Oracle, frame, spec

from recokit.errors import ConfigError, DataError
from recokit.features import Batch, FeatureSpec, Pretrained
from recokit.rankers import FitConfig, SearchRanker, fit
from recokit.rankers.base import to_tensors
from recokit.rankers.losses import listwise_loss, log_loss
from recokit.table import EmbeddingTable

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("products", ["dot", "hadamard"])
def test_the_ranker_equals_the_formula_row_by_row(products):
    rows = frame()
    ranker = SearchRanker(spec().fit(rows), dim=3, hidden=(6, 5), products=products, seed=1)
    with torch.no_grad():
        ranker.bias.fill_(0.4)
    batch, oracle = ranker.features.batch(rows), Oracle(ranker)
    expected = []
    for b in range(len(rows)):
        x = oracle.encode(batch, b)
        pairs = [x[i] * x[j] for i in range(len(x)) for j in range(i + 1, len(x))]
        pairs = [[pair.sum()] for pair in pairs] if products == "dot" else pairs
        expected.append(oracle.mlp("network", np.concatenate([*x, *pairs, batch.dense[b]]))[0] + 0.4)
    found = ranker(to_tensors(batch, CPU)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


# --- losses --------------------------------------------------------------------------------------------------------


def sessions(seed: int = 0, num_rows: int = 60) -> Batch:
    random = np.random.default_rng(seed)
    return Batch(
        rows={},
        dense=torch.zeros(num_rows, 0),
        categorical={},
        bags={},
        labels=torch.from_numpy((random.random((num_rows, 1)) < 0.3).astype(np.float32)),
        group=torch.from_numpy(random.integers(-1, 20, num_rows)),
        weight=torch.from_numpy(random.random(num_rows).astype(np.float32)),
    )


def by_loop(scores: np.ndarray, batch: Batch) -> float:
    total = weights = 0.0
    for session in range(20):
        at = np.flatnonzero(batch.group.numpy() == session)
        y = batch.labels.numpy()[at, 0].astype(float)
        if len(at) < 2 or not y.sum():
            continue
        log_softmax = scores[at] - np.log(np.exp(scores[at]).sum())
        weight = 1.0 if batch.weight is None else float(batch.weight.numpy()[at].mean())
        total += weight * -(y * log_softmax).sum() / y.sum()
        weights += weight
    return total / weights


def test_the_listwise_loss_equals_a_loop_over_sessions():
    scores = 3 * np.random.default_rng(1).standard_normal(60)
    for batch in (sessions(), replace(sessions(), weight=None)):
        found = listwise_loss(torch.from_numpy(scores), batch)
        assert found.item() == pytest.approx(by_loop(scores, batch), rel=1e-6)


def test_scores_of_any_size_and_shift_are_the_same_to_the_listwise_loss():
    scores = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shift = torch.randn(21, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[sessions().group]
    torch.testing.assert_close(listwise_loss(scores + 1e3 * shift, sessions()), listwise_loss(scores, sessions()))
    large = (1e4 * scores).float().requires_grad_()
    listwise_loss(large, sessions()).backward()
    assert torch.isfinite(large.grad).all()


def test_sessions_that_say_nothing_are_left_out():
    """Two rows of one session: -log(e / (e + 1)); a lone positive, a session without one, and a row of none do not."""
    labels = torch.tensor([[1.0], [0.0], [1.0], [0.0], [0.0], [1.0]])
    group = torch.tensor([5, 5, 2, 3, 3, -1])
    batch = Batch(rows={}, dense=torch.zeros(6, 0), categorical={}, bags={}, labels=labels, group=group)
    scores = torch.tensor([1.0, 0.0, 9.0, 4.0, 4.0, 7.0], requires_grad=True)
    loss = listwise_loss(scores, batch)
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-1)))
    loss.backward()
    p = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(scores.grad, [p - 1, 1 - p, 0, 0, 0, 0], rtol=1e-6)
    nothing = listwise_loss(scores, replace(batch, labels=torch.zeros(6, 1)))
    assert nothing.item() == 0.0
    assert listwise_loss(scores, replace(batch, group=torch.full((6,), -1))).item() == 0.0
    for lacking, what in ((replace(batch, labels=None), "labels"), (replace(batch, group=None), "groups")):
        with pytest.raises(DataError, match=f"the batch has no {what}"):
            listwise_loss(scores, lacking)


def test_the_log_loss_is_that_of_each_label():
    batch = replace(sessions(), labels=torch.tensor([[1.0, 0.0]] * 60), weight=None)
    logits = torch.tensor([[np.log(3.0), 0.0]] * 60)  # p = 3/4 and 1/2
    assert log_loss(logits, batch).item() == pytest.approx((np.log(4 / 3) + np.log(2)) / 2)


# --- what training finds -------------------------------------------------------------------------------------------


def searches(num_sessions: int, seed: int) -> pd.DataFrame:
    """Each user has a taste of 4 numbers, each author a place; of 6 results the best fitting is picked, mostly."""
    random = np.random.default_rng(seed)
    user = np.repeat(random.integers(0, 100, num_sessions), 6)
    author = random.integers(0, 150, num_sessions * 6)
    fit_of = 2 * (USERS.vectors[user] * AUTHORS.vectors[author]).sum(axis=1)
    gumbel = random.gumbel(size=fit_of.shape)
    best = (fit_of + gumbel).reshape(-1, 6).argmax(axis=1)
    picked = (np.arange(6) == best[:, None]).ravel()
    return pd.DataFrame(
        {"user": user, "author": author, "picked": picked, "session": np.repeat(np.arange(num_sessions), 6)}
    )


def _table(entity: str, count: int, seed: int) -> EmbeddingTable:
    vectors = np.random.default_rng(seed).standard_normal((count, 4), dtype=np.float32)
    return EmbeddingTable.from_arrays(np.arange(count), vectors, entity=entity, version="v1")


USERS, AUTHORS = _table("user", 100, 1), _table("author", 150, 2)


def mean_average_precision(rows: pd.DataFrame, scores: np.ndarray) -> float:
    """One pick a session: the mean of 1 / its rank."""
    table = scores.reshape(-1, 6)
    picked = table[rows["picked"].to_numpy().reshape(-1, 6)]
    return float(np.mean(1 / (1 + (table > picked[:, None]).sum(axis=1))))


@pytest.mark.parametrize("loss", ["pointwise", "listwise"])
def test_a_persons_own_order_is_found(loss):
    features = FeatureSpec([Pretrained("user", USERS), Pretrained("author", AUTHORS)], label="picked", group="session")
    train, test = searches(1500, 0), searches(500, 1)
    ranker = SearchRanker(features, dim=8, hidden=(16,), loss=loss)
    assert ranker.batches_by_group == (loss == "listwise")
    fit(ranker, train, None, FitConfig(epochs=15, batch_size=300, learning_rate=0.01))
    best = mean_average_precision(test, (USERS.vectors[test["user"]] * AUTHORS.vectors[test["author"]]).sum(axis=1))
    chance = np.mean([1 / rank for rank in range(1, 7)])
    gained = (mean_average_precision(test, ranker.predict(test)) - chance) / (best - chance)
    assert gained > 0.9


def test_choices_that_do_not_fit_are_refused():
    features = spec(group="user").fit(frame())
    with pytest.raises(ConfigError, match="loss='listwsie': did you mean 'listwise'"):
        SearchRanker(features, loss="listwsie")
    with pytest.raises(ConfigError, match="products='outer': known: dot, hadamard"):
        SearchRanker(features, products="outer")
    with pytest.raises(ConfigError, match=r"loss='listwise' takes one label.*group None"):
        SearchRanker(spec().fit(frame()), loss="listwise")
    with pytest.raises(ConfigError, match=r"labels \['clicked', 'bought'\]"):
        SearchRanker(spec(label=["clicked", "bought"], group="user"), loss="listwise")
