"""The TorchRec adapter: frozen tables beside TorchRec's own, and a clear word where torchrec is missing."""

import importlib
import importlib.abc
import sys
import warnings

import numpy as np
import pytest
import torch

from recokit.errors import ConfigError, MissingDependencyError
from recokit.table import EmbeddingTable, Mixture, PQTable

with warnings.catch_warnings():
    # fbgemm's own modules import what fbgemm has deprecated.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"fbgemm_gpu|torchrec")
    torchrec = pytest.importorskip("torchrec", exc_type=(ImportError, OSError))
    from torchrec.fx import symbolic_trace
    from torchrec.models.dlrm import DLRM

    from recokit.torchrec import FrozenEmbeddingBagCollection, JoinedEmbeddingBagCollection

RNG = np.random.default_rng(0)


def table(count: int, dim: int, entity: str = "item") -> EmbeddingTable:
    vectors = RNG.standard_normal((count, dim)).astype(np.float32)
    return EmbeddingTable.from_arrays(np.arange(count), vectors, entity=entity, version="v1")


USERS, ITEMS = table(7, 3, "user"), table(9, 5)
CODES = PQTable.from_arrays(
    np.arange(9),
    RNG.integers(0, 256, (9, 3), dtype=np.uint8),
    RNG.standard_normal((3, 256, 2)).astype(np.float32),
    entity="item",
    version="v1",
)
INTERESTS = Mixture.from_rows(
    np.arange(7), np.array([[0, 3], [1, -1], [2, 2], [8, 0], [5, 6], [7, 1], [4, -1]]), RNG.random((7, 2)),
    components=ITEMS, entity="user",
)  # fmt: skip


def jagged(weights: list[float] | None = None, **lists: list[list[int]]) -> "torchrec.KeyedJaggedTensor":
    values = [value for rows in lists.values() for row in rows for value in row]
    lengths = [len(row) for rows in lists.values() for row in rows]
    weights_ = None if weights is None else torch.tensor(weights)
    return torchrec.KeyedJaggedTensor(list(lists), torch.tensor(values), weights_, lengths=torch.tensor(lengths))


FEATURES = {"clicks": [[1, 8, 1], [], [-1, 4], [-1]], "genre": [[0], [1, 2], [], [3]], "user": [[6], [0], [-1], [2]]}


def naive(vectors: np.ndarray, rows: list[list[int]], pooling: str) -> np.ndarray:
    lists = [vectors[[row for row in part if row >= 0]] for part in rows]
    pooled = [part.mean(axis=0) if pooling == "mean" and len(part) else part.sum(axis=0) for part in lists]
    return np.stack(pooled)


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_pooled_vectors_equal_a_loop_over_lists(pooling):
    collection = FrozenEmbeddingBagCollection({"user": USERS, "clicks": ITEMS}, pooling=pooling)
    pooled = collection(jagged(**FEATURES))
    assert pooled.keys() == ["user", "clicks"]
    np.testing.assert_allclose(pooled["user"], naive(USERS.vectors, FEATURES["user"], pooling), rtol=1e-6)
    np.testing.assert_allclose(pooled["clicks"], naive(ITEMS.vectors, FEATURES["clicks"], pooling), rtol=1e-6)
    assert list(collection.parameters()) == []
    assert collection.state_dict() == {}


def test_codes_and_mixtures_pool_as_their_vectors_do():
    collection = FrozenEmbeddingBagCollection({"clicks": CODES, "user": INTERESTS})
    pooled = collection(jagged(**FEATURES))
    means = (INTERESTS.weights[..., None] * INTERESTS.vectors_at(np.arange(7))).sum(axis=1)
    np.testing.assert_allclose(pooled["clicks"], naive(CODES.decode(), FEATURES["clicks"], "mean"), rtol=1e-6)
    np.testing.assert_allclose(pooled["user"], naive(means, FEATURES["user"], "mean"), rtol=1e-6, atol=1e-7)
    assert pooled.length_per_key() == [6, 5]
    assert list(collection.parameters()) == []
    assert collection.state_dict() == {}


def test_a_weighted_list_pools_by_its_weights():
    features = jagged(weights=[1.0, 3.0, 5.0, 0.0], clicks=[[1, 8, -1], [], [4]])
    vectors = ITEMS.vectors
    total = vectors[1] + 3 * vectors[8]
    found = FrozenEmbeddingBagCollection({"clicks": ITEMS})(features)["clicks"]
    np.testing.assert_allclose(found, [total / 4, np.zeros(5), np.zeros(5)], rtol=1e-6)
    found = FrozenEmbeddingBagCollection({"clicks": ITEMS}, pooling="sum")(features)["clicks"]
    np.testing.assert_allclose(found, [total, np.zeros(5), np.zeros(5)], rtol=1e-6)


def test_two_keys_of_one_table_have_one_layer():
    collection = FrozenEmbeddingBagCollection({"clicks": CODES, "user": CODES})
    assert collection.embeddings[0] is collection.embeddings[1]


def trainable(dim: int = 4) -> "torchrec.EmbeddingBagCollection":
    config = torchrec.EmbeddingBagConfig(name="genre", embedding_dim=dim, num_embeddings=4, feature_names=["genre"])
    return torchrec.EmbeddingBagCollection(tables=[config])


def test_agrees_with_torchrecs_own_collection_of_the_same_vectors():
    config = torchrec.EmbeddingBagConfig(
        name="clicks", embedding_dim=5, num_embeddings=9, feature_names=["clicks"], pooling=torchrec.PoolingType.MEAN
    )
    theirs = torchrec.EmbeddingBagCollection(tables=[config])
    with torch.no_grad():
        theirs.embedding_bags["clicks"].weight.copy_(torch.from_numpy(ITEMS.vectors))
    known = jagged(clicks=[[1, 8, 1], [], [4, 0]])
    ours = FrozenEmbeddingBagCollection({"clicks": ITEMS})
    torch.testing.assert_close(ours(known).values(), theirs(known).values())
    ((mine,), (yours,)) = ours.embedding_bag_configs(), theirs.embedding_bag_configs()
    for field in ("name", "embedding_dim", "num_embeddings", "feature_names", "pooling"):
        assert getattr(mine, field) == getattr(yours, field)


def test_frozen_and_trainable_tables_stand_side_by_side():
    ebc, frozen = trainable(), FrozenEmbeddingBagCollection({"user": USERS, "clicks": ITEMS})
    features = jagged(**FEATURES)
    joined = JoinedEmbeddingBagCollection(ebc, frozen)(features)
    assert joined.keys() == ["genre", "user", "clicks"]
    expected = torch.cat([ebc(features).values(), frozen(features).values()], dim=1)  # (B, 4 + 3 + 5)
    torch.testing.assert_close(joined.values(), expected)


def dlrm() -> DLRM:
    torch.manual_seed(0)
    frozen = FrozenEmbeddingBagCollection({"clicks": CODES, "user": INTERESTS}, dim=4)
    vectors = FrozenEmbeddingBagCollection({"author": ITEMS}, dim=4)
    joined = JoinedEmbeddingBagCollection(trainable(), frozen, vectors)
    return DLRM(joined, dense_in_features=2, dense_arch_layer_sizes=[4], over_arch_layer_sizes=[8, 1])


BATCH = FEATURES | {"author": [[4], [-1], [0], [3]]}


def test_torchrecs_dlrm_trains_on_codes_mixtures_vectors_and_its_own_tables():
    model = dlrm()
    names = [name for name, _ in model.named_parameters()]
    assert not any(part in name for name in names for part in ("vectors", "codes", "codebook", "weights"))
    assert sum(name.endswith("linear.weight") and "projections" in name for name in names) == 3
    features, dense, labels = jagged(**BATCH), torch.randn(4, 2), torch.tensor([1.0, 0.0, 1.0, 0.0])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses, before = [], [ITEMS.vectors.copy(), CODES.decode(), INTERESTS.weights.copy()]
    for _ in range(50):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(dense, features).squeeze(1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    for now, then in zip([ITEMS.vectors, CODES.decode(), INTERESTS.weights], before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("weights", [None, [0.5 + number for number in range(18)]])
def test_torchrecs_symbolic_trace_sees_through_all(weights):
    model, dense, features = dlrm(), torch.randn(4, 2), jagged(weights, **BATCH)
    torch.testing.assert_close(symbolic_trace(model)(dense, features), model(dense, features))


def test_refusals():
    frozen = FrozenEmbeddingBagCollection({"genre": ITEMS})
    with pytest.raises(ConfigError, match="two collections have a feature 'genre'"):
        JoinedEmbeddingBagCollection(trainable(), frozen)
    with pytest.raises(ConfigError, match="pooling='max'"):
        FrozenEmbeddingBagCollection({"genre": ITEMS}, pooling="max")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no tables"):
        FrozenEmbeddingBagCollection({})


class Broken(importlib.abc.MetaPathFinder):
    """Makes ``import torchrec`` fail as a missing package or as a native part built for another torch."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchrec":
            raise self.error


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'torchrec'"), OSError("fbgemm_gpu.so: undefined symbol: _ZN3c10")]
)
def test_where_torchrec_is_missing_its_module_alone_says_so(monkeypatch, error):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchrec" or name == "recokit.torchrec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path])
    with pytest.raises(MissingDependencyError, match=r"recokit\.torchrec needs") as caught:
        importlib.import_module("recokit.torchrec")
    message = str(caught.value)
    assert "pip install 'recokit[torchrec]'" in message
    assert "pip install --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0" in message
    assert "pip install torchrec fbgemm-gpu" in message
    assert str(error) in message


@pytest.mark.parametrize("module", ["recokit.torchrec", "recokit.layers", "recokit.rankers"])
def test_where_torch_is_missing_a_pip_line_says_what_brings_it(module):
    import subprocess

    code = (
        f"import sys; sys.modules['torch'] = None\ntry:\n import {module}\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.startswith("MissingDependencyError")
    assert "pip install 'recokit[rank]'" in found


def test_layers_and_rankers_do_not_import_torchrec():
    import subprocess

    code = "import sys, recokit.layers, recokit.rankers; sys.exit('torchrec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
