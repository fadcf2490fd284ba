"""Frozen layers: the table's vectors, exactly, and nothing that trains."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from recokit.errors import ConfigError, DataError
from recokit.layers import FrozenEmbedding, Projection, TunedEmbedding, frozen_embedding, unit_scale
from recokit.table import EmbeddingTable, Mixture, PQTable


def table(vectors: np.ndarray) -> EmbeddingTable:
    return EmbeddingTable.from_arrays(np.arange(len(vectors)), vectors, entity="item", version="v1")


@pytest.fixture
def saved(tmp_path) -> EmbeddingTable:
    vectors = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    return EmbeddingTable.load(table(vectors).save(tmp_path / "item"))


def test_rows_give_the_vectors_of_the_table(saved):
    rows = torch.tensor([[3, 49], [0, 3]])
    np.testing.assert_array_equal(FrozenEmbedding(saved)(rows).numpy(), saved.vectors[rows.numpy()])


def test_an_unknown_row_gives_zeros():
    layer = FrozenEmbedding(table(np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)))
    assert layer(torch.tensor([1, -1])).tolist() == [[3.0, 4.0], [0.0, 0.0]]
    assert layer.known(torch.tensor([1, -1])).tolist() == [True, False]


def test_nothing_trains_and_nothing_is_saved(saved):
    layer = FrozenEmbedding(saved)
    assert list(layer.parameters()) == []
    assert layer.state_dict() == {}


def test_the_layer_reads_the_memory_map_itself(saved):
    layer = FrozenEmbedding(saved)
    assert layer.vectors.data_ptr() == saved.vectors.ctypes.data


def test_an_optimizer_leaves_the_table_alone(saved):
    before = saved.vectors.copy()
    model = nn.Sequential(FrozenEmbedding(saved), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        model(torch.arange(50)).square().sum().backward()
        optimizer.step()
    np.testing.assert_array_equal(saved.vectors, before)


def test_float16_stays_float16_and_comes_out_as_float32():
    vectors = np.array([[0.1, -2.5]], dtype=np.float16)
    layer = FrozenEmbedding(table(vectors))
    assert layer.vectors.dtype == torch.float16
    found = layer(torch.tensor([0]))
    assert found.dtype == torch.float32
    assert found.tolist() == vectors.astype(np.float32).tolist()


def test_float16_holds_a_float32_table_in_half_the_memory(saved):
    layer = FrozenEmbedding(saved, dtype="float16")
    assert layer.vectors.nbytes * 2 == saved.vectors.nbytes
    found = layer(torch.tensor([7, -1]))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found[0].numpy(), saved.vectors[7].astype(np.float16).astype(np.float32))
    assert found[1].tolist() == [0.0] * 8
    with pytest.raises(ConfigError, match="dtype='float64'"):
        FrozenEmbedding(saved, dtype="float64")


def test_layers_of_one_table_share_its_memory(saved):
    zeros, learned = FrozenEmbedding(saved), FrozenEmbedding(saved, unknown="learned")
    assert zeros.vectors.data_ptr() == learned.vectors.data_ptr()


def test_a_learned_unknown_starts_from_zeros_and_is_all_that_trains(saved):
    layer = FrozenEmbedding(saved, unknown="learned")
    rows = torch.tensor([-1, 4, -1])
    assert layer(rows)[0].tolist() == [0.0] * 8
    layer(rows).sum().backward()
    ((name, vector),) = layer.named_parameters()
    assert name == "unknown"
    assert vector.grad.tolist() == [2.0] * 8  # two unknown rows, each with a gradient of one
    assert list(layer.state_dict()) == ["unknown"]


def test_a_tuned_embedding_starts_from_the_table_and_trains(saved):
    layer = TunedEmbedding(saved, scale=2.0)
    rows = torch.tensor([5, -1, 5])
    np.testing.assert_array_equal(layer(rows)[0].detach().numpy(), 2 * saved.vectors[5])
    layer(rows).sum().backward()
    assert layer.vectors.grad[5].tolist() == [2.0] * 8
    assert layer.vectors.grad.sum() == 16.0  # the unknown row touches no vector
    assert saved.vectors[5].tolist() != layer.vectors[5].tolist()


def test_vectors_of_any_scale_are_projected_at_the_scale_of_one():
    tiny = table(np.full((30, 4), 1e-3, dtype=np.float32))
    assert unit_scale(tiny) == pytest.approx(1000)
    assert unit_scale(table(np.zeros((2, 4), dtype=np.float32))) == 1.0
    layer = Projection(4, 2, scale=unit_scale(tiny))
    expected = layer.linear.weight.sum(dim=1)  # a vector of ones
    torch.testing.assert_close(layer(torch.from_numpy(tiny.vectors[:1]))[0], expected)
    assert layer(torch.zeros(1, 4)).tolist() == [[0.0, 0.0]]


def test_the_scale_of_codes_and_of_mixtures_is_that_of_their_vectors():
    vectors = np.random.default_rng(2).standard_normal((30, 4)).astype(np.float32)
    codes = np.arange(30, dtype=np.uint8)[:, None]
    quantized = PQTable.from_arrays(np.arange(30), codes, vectors[None], entity="item", version="v1")
    mixture = Mixture.from_rows(["u"], np.array([[3, -1]]), components=table(vectors), entity="user")
    expected = 1 / np.sqrt(np.mean(vectors.astype(np.float64) ** 2))
    assert unit_scale(quantized) == pytest.approx(expected)
    assert unit_scale(mixture) == pytest.approx(expected)


def test_a_table_of_any_kind_has_its_layer():
    vectors = np.array([[4.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    codes = np.array([[0], [1]], dtype=np.uint8)
    quantized = PQTable.from_arrays([7, 8], codes, vectors[None], entity="item", version="v1")
    mixture = Mixture.from_rows(["u"], np.array([[0, 1]]), components=table(vectors), entity="user")
    rows = torch.tensor([0, -1])
    assert frozen_embedding(table(vectors))(rows).tolist() == [[4.0, 0.0], [0.0, 0.0]]
    assert frozen_embedding(quantized)(rows).tolist() == [[4.0, 0.0], [0.0, 0.0]]
    assert frozen_embedding(mixture)(rows).tolist() == [[2.0, 1.0], [0.0, 0.0]]
    best = frozen_embedding(mixture, pooling="max", unknown="learned")
    assert best(rows, torch.tensor([[0.0, 1.0], [0.0, 1.0]])).tolist() == [[0.0, 2.0], [0.0, 0.0]]
    sharp = frozen_embedding(mixture, pooling="smoothmax", temperature=0.5)
    share = np.exp(1.0 / 0.5) / (np.exp(0.0) + np.exp(1.0 / 0.5))  # of the second, whose score is 2 * 0.5
    expected = torch.tensor([[4 * (1 - share), 2 * share]], dtype=torch.float32)
    torch.testing.assert_close(sharp(rows[:1], torch.tensor([[0.0, 0.5]])), expected)
    with pytest.raises(ConfigError, match="pooling='max' of EmbeddingTable"):
        frozen_embedding(table(vectors), pooling="max")


def test_refusals(saved):
    with pytest.raises(DataError, match="row 50 of a table 'item' of 50 rows"):
        FrozenEmbedding(saved)(torch.tensor([0, 50]))
    with pytest.raises(ConfigError, match="unknown='mean'"):
        FrozenEmbedding(saved, unknown="mean")


def test_where_torch_is_missing_the_pip_line_is_named():
    code = "import sys; sys.modules['torch'] = None; import recokit.rankers"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "pip install 'recokit[rank]'" in done.stderr.splitlines()[-1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_same_vectors(saved):
    rows = torch.tensor([3, -1, 49])
    torch.testing.assert_close(FrozenEmbedding(saved).cuda()(rows.cuda()).cpu(), FrozenEmbedding(saved)(rows))
