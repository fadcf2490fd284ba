"""Deep hash embeddings: the hashes in Python's own integers, their distribution, and what trains."""

import numpy as np
import pytest
import torch
from torch import nn

from recokit.errors import ConfigError
from recokit.layers import DeepHashEmbedding

EXTREMES = [0, 1, -1, 2, 2**63 - 1, -(2**63), 123456789012345678]


def signed(value: int) -> int:
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value


def split_mix(value: int) -> int:
    value %= 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def test_hashes_are_those_of_whole_numbers_modulo_two_to_the_64():
    layer = DeepHashEmbedding(4, num_hashes=6, seed=1)
    expected = [
        [
            np.float32(signed(int(a) * split_mix(value) + int(b))) / np.float32(2.0**63)
            for a, b in zip(layer.multipliers, layer.shifts, strict=True)
        ]
        for value in EXTREMES
    ]
    assert layer.encode(torch.tensor(EXTREMES)).tolist() == [[float(code) for code in row] for row in expected]
    assert (layer.multipliers % 2 != 0).all()


def test_codes_of_ids_in_a_row_are_uniform_and_unrelated():
    codes = DeepHashEmbedding(4, num_hashes=64).encode(torch.arange(20_000)).numpy().astype(np.float64)
    assert np.abs(codes).max() <= 1
    shares = np.histogram(codes, bins=20, range=(-1, 1))[0] / codes.size
    np.testing.assert_allclose(shares, 1 / 20, rtol=0.02)
    np.testing.assert_allclose(codes.mean(axis=0), 0, atol=5 / np.sqrt(3 * 20_000))
    correlation = np.corrcoef(codes.T) - np.eye(64)
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)
    neighbours = np.corrcoef(codes[:-1].ravel(), codes[1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(codes.size)
    assert len(np.unique(codes, axis=0)) == 20_000


def test_normal_codes_have_the_moments_of_a_normal_distribution():
    codes = DeepHashEmbedding(4, num_hashes=64, codes="normal").encode(torch.arange(-10_000, 10_000)).double()
    assert torch.isfinite(codes).all()
    moments = [float((codes**power).mean()) for power in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.02)
    correlation = np.corrcoef(codes.numpy().T) - np.eye(64)  # of the two of a pair, too
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)


def test_one_seed_makes_one_code_and_the_state_dict_carries_it():
    ids = torch.tensor([[3, 4], [5, -6]])
    layer = DeepHashEmbedding(4, num_hashes=8, hidden=(6,), seed=3)
    assert torch.equal(layer.encode(ids), DeepHashEmbedding(4, num_hashes=8, seed=3).encode(ids))
    other = DeepHashEmbedding(4, num_hashes=8, hidden=(6,), seed=4)
    assert not torch.equal(layer.encode(ids), other.encode(ids))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(ids), other(ids))
    assert layer(ids).shape == (2, 2, 4)


def test_the_network_alone_trains_and_tells_ids_apart():
    torch.manual_seed(0)
    layer = DeepHashEmbedding(1, num_hashes=64, hidden=(32,))
    assert {name.split(".")[0] for name, _ in layer.named_parameters()} == {"network"}
    assert [type(part) for part in layer.network] == [nn.Linear, nn.Mish, nn.Linear]
    ids, labels = torch.arange(40), torch.randint(0, 2, (40, 1)).float()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(100):
        loss = nn.functional.binary_cross_entropy_with_logits(layer(ids), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((layer(ids) > 0) == labels.bool()).all()


def test_refusals():
    with pytest.raises(ConfigError, match="codes='gaussian'"):
        DeepHashEmbedding(4, codes="gaussian")
    with pytest.raises(ConfigError, match="num_hashes=7: normal codes come in pairs"):
        DeepHashEmbedding(4, num_hashes=7, codes="normal")
    with pytest.raises(ConfigError, match="dim=0"):
        DeepHashEmbedding(0)
