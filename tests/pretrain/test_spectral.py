"""A spectral start: against NumPy's eigenvectors, on networks that are known, and in whole runs."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from pretrain import Graph, Relation, TrainConfig, train, train_partitioned
from pretrain.preparation import prepare
from pretrain.run import Run
from pretrain.spectral import Ends, spectral_vectors
from recokit.errors import ConfigError, DataError


def ends(source, target, pairs, weights=None):
    sources, targets = torch.tensor(pairs).T
    return Ends(source, target, sources, targets, torch.ones(len(pairs)) if weights is None else torch.tensor(weights))


def found(sizes, edges, dim, power, seed=0):
    vectors = spectral_vectors(sizes, edges, dim, power=power, generator=torch.Generator().manual_seed(seed))
    return torch.cat(list(vectors.values())).double().numpy()


def dense(total, edges, power):
    """The matrix, written down."""
    matrix = np.zeros((total, total))
    for source, target, weight in edges:
        matrix[source, target] += weight
        matrix[target, source] += weight
    scale = np.array([d**-power if d else 0.0 for d in matrix.sum(1)])
    return matrix * scale[:, None] * scale


def best(matrix, dim):
    """The matrix of its ``dim`` largest positive eigenvalues alone."""
    values, vectors = np.linalg.eigh(matrix)
    kept = np.argsort(-values)[:dim]
    kept = kept[values[kept] > 1e-9]
    return (vectors[:, kept] * values[kept]) @ vectors[:, kept].T


@pytest.mark.parametrize(("power", "dim"), [(0.0, 2), (0.3, 2), (0.0, 5), (0.3, 5), (0.5, 5)])
def test_dot_products_give_the_best_approximation_of_the_matrix(power, dim):
    draw = np.random.default_rng(0)
    # Communities of unequal weight, so that the eigenvalues that count stand apart.
    likes = [(u, i, float(1 + u // 8)) for u in range(30) for i in range(20) if u % 5 == i % 5 and draw.random() < 0.8]
    follows = [(u, v, 0.5) for u in range(30) for v in range(30) if u < v and u % 5 == v % 5]
    sizes = {"user": 30, "item": 20}
    edges = [
        ends("user", "item", [(u, i) for u, i, _ in likes], [w for *_, w in likes]),
        ends("user", "user", [(u, v) for u, v, _ in follows], [w for *_, w in follows]),
    ]
    wanted = best(dense(50, [(u, 30 + i, w) for u, i, w in likes] + follows, power), dim)
    vectors = found(sizes, edges, dim, power)
    np.testing.assert_allclose(vectors @ vectors.T, wanted, atol=2e-3 * np.abs(wanted).max())


def test_columns_come_in_falling_order_of_their_eigenvalues():
    pairs = [(u, i) for u in range(12) for i in range(9) if u % 3 == i % 3] + [(0, 0), (3, 3)]
    vectors = found({"a": 12, "b": 9}, [ends("a", "b", pairs)], 4, 0.2)
    lengths = np.square(vectors).sum(0)  # an eigenvalue each
    matrix = dense(21, [(u, 12 + i, 1.0) for u, i in pairs], 0.2)
    np.testing.assert_allclose(lengths[:3], np.sort(np.linalg.eigvalsh(matrix))[::-1][:3], rtol=1e-4)


def test_one_edge_has_one_direction():
    vectors = found({"a": 2, "b": 1}, [ends("a", "b", [(1, 0)], [4.0])], 8, 0.25)
    assert vectors.shape == (3, 1)  # eigenvalues 4 / (4^.25 * 4^.25) = 2, -2 and 0
    np.testing.assert_allclose(np.abs(vectors[:, 0]), [0.0, 1.0, 1.0], atol=1e-6)
    assert vectors[1, 0] * vectors[2, 0] > 0


def test_without_edges_there_are_no_columns():
    nothing = Ends("a", "b", *torch.empty(3, 0, dtype=torch.int64))
    for edges in ([], [nothing]):
        assert found({"a": 2, "b": 1}, edges, 8, 0.3).shape == (3, 0)
    frame = FRAME.assign(weight=0.0)
    with pytest.raises(DataError, match="every edge of the graph has the weight 0"):
        train(Graph.from_frames({"likes": frame}, [Relation("likes", "user", "item")]), CONFIG)


def test_a_seed_repeats_the_bytes_and_another_one_the_products():
    pairs = [(u, i) for u in range(12) for i in range(9) if u % 3 == i % 3] + [(0, 0), (3, 3), (4, 4)]
    call = {"a": 12, "b": 9}, [ends("a", "b", pairs)], 3, 0.3
    first, again, other = found(*call), found(*call), found(*call, seed=1)
    assert first.tobytes() == again.tobytes()
    np.testing.assert_allclose(first @ first.T, other @ other.T, atol=1e-4)


FRAME = pd.DataFrame(
    [(u, i) for u in range(40) for i in range(30) if u % 4 == i % 4 and (u * i) % 7], columns=["source", "target"]
)
GRAPH = Graph.from_frames({"likes": FRAME}, [Relation("likes", "user", "item")])
CONFIG = TrainConfig(dim=4, init="spectral", init_scale=0.5, epochs=1, uniform_negatives=5)


def start_of(config):
    return Run.of(GRAPH, config, torch.device("cpu"))


def test_a_run_starts_from_them_at_the_scale_that_was_asked_for():
    dots = start_of(dataclasses.replace(CONFIG, comparator="dot")).vectors
    cosines = start_of(CONFIG).vectors
    for entity, table in dots.items():
        assert table.square().mean().sqrt().item() == pytest.approx(0.5)
        assert table.norm(dim=1).std() > 0.01  # who is popular stays longer
        torch.testing.assert_close(cosines[entity].square().mean(1).sqrt(), torch.full((len(table),), 0.5))
    scores = (cosines["user"] @ cosines["item"].T).numpy() / (0.25 * CONFIG.dim)
    same = np.equal.outer(*(GRAPH.entities[entity].to_numpy() % 4 for entity in ("user", "item")))
    assert scores[same].mean() > scores[~same].mean() + 0.5


def test_what_has_no_edge_keeps_its_random_vector():
    frame = FRAME.assign(weight=np.where(FRAME["source"] % 10 == 3, 0.0, 1.0))
    graph = Graph.from_frames({"likes": frame}, [Relation("likes", "user", "item")])
    random, spectral = (
        Run.of(graph, dataclasses.replace(CONFIG, init=init), torch.device("cpu")).vectors["user"]
        for init in ("random", "spectral")
    )
    alone = graph.entities["user"].to_numpy() % 10 == 3
    assert alone.sum() == 4
    assert torch.equal(spectral[alone], random[alone])
    assert not torch.isclose(spectral[~alone], random[~alone]).all(1).any()


def test_training_goes_on_from_there():
    first = {
        init: train(GRAPH, dataclasses.replace(CONFIG, init=init, learning_rate=1e-6)).epochs[0]["loss"]
        for init in ("random", "spectral")
    }
    assert first["spectral"] < 0.75 * first["random"]


def test_a_previous_model_and_partitions_are_refused(tmp_path):
    model = train(GRAPH, TrainConfig(dim=4, epochs=1, uniform_negatives=5))
    with pytest.raises(ConfigError, match="axes of its own"):
        train(GRAPH, CONFIG, previous=model)
    with pytest.raises(ConfigError, match='init="spectral" does not go with partitions'):
        train_partitioned(prepare_here(tmp_path), CONFIG, path=tmp_path / "run")


def prepare_here(folder):
    FRAME.to_parquet(folder / "likes.parquet")
    return prepare(folder / "edges", [Relation("likes", "user", "item")], files={"likes": folder / "likes.parquet"})
