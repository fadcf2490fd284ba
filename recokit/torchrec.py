"""Frozen tables beside TorchRec's EmbeddingBagCollection: KeyedJaggedTensor in, KeyedTensor out.

A model that is built on TorchRec keeps its trainable tables where they are, sharded or not, and reads pretrained ones
through a module of the same shape. Row numbers are the values of the KeyedJaggedTensor, -1 for an id that is not in the
table; a list's pooled vector comes from its known ids, each times its weight where the KeyedJaggedTensor has weights.

This is the one module that imports torchrec. Its native part (fbgemm) fails to load when it was built for another
torch, with OSError and not ImportError; both are told as one error that says how to install the pair.
"""

__all__ = ["FrozenEmbeddingBagCollection", "JoinedEmbeddingBagCollection"]

from collections.abc import Mapping
from typing import Any, get_args

from recokit.errors import ConfigError, MissingDependencyError, closest
from recokit.layers import BagPooling, Projection, frozen_embedding, pool, unit_scale
from recokit.table import FeatureTable

try:  # after recokit.layers, which says what to install where torch itself is missing
    import torch
    from torch import Tensor, nn
    from torchrec import EmbeddingBagConfig, JaggedTensor, KeyedJaggedTensor, KeyedTensor, PoolingType
    from torchrec.modules.embedding_modules import get_embedding_names_by_table
except (ImportError, OSError) as error:
    raise MissingDependencyError(
        "torchrec",
        extra="torchrec",
        needed_for="recokit.torchrec",
        hint="and then, on a CPU, pip install --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0 with torch 2.13, or, for "
        f"CUDA, pip install torchrec fbgemm-gpu; the import said: {error}",
    ) from error


class FrozenEmbeddingBagCollection(nn.Module):
    """Pool frozen vectors per key of a KeyedJaggedTensor; buffers only, unless ``dim`` asks for projections.

    Args:
        tables: The table of each key: vectors, codes, which are decoded first, or mixtures, whose weighted mean is
            taken first.
        pooling: ``mean`` or ``sum`` over the known rows of a list, weighted where the KeyedJaggedTensor is; zeros where
            none is known.
        dim: Project every pooled vector to this dimension by a trainable linear map, for models that want one dimension
            throughout (TorchRec's DLRM does); None leaves the tables' own.
    """

    def __init__(
        self, tables: Mapping[str, FeatureTable], *, pooling: BagPooling = "mean", dim: int | None = None
    ) -> None:
        super().__init__()
        if pooling not in get_args(BagPooling):
            raise ConfigError(f"pooling={pooling!r}: {closest(str(pooling), get_args(BagPooling))}")
        if not tables:
            raise ConfigError("a collection of no tables")
        self.pooling: BagPooling = pooling
        self.keys = list(tables)
        # Two keys of one table: it is in memory once, on a GPU too.
        frozen = {id(table): frozen_embedding(table) for table in tables.values()}
        self.embeddings = nn.ModuleList(frozen[id(table)] for table in tables.values())
        self.projections = nn.ModuleList(
            nn.Identity() if dim is None else Projection(table.dim, dim, scale=unit_scale(table))
            for table in tables.values()
        )
        self.lengths = [table.dim if dim is None else dim for table in tables.values()]
        self.counts = [table.count for table in tables.values()]

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Return the pooled vectors, ``keys`` in order; other keys of ``features`` are left alone."""
        vectors = []
        for key, embedding, project in zip(self.keys, self.embeddings, self.projections, strict=True):
            lists = features[key]
            vectors.append(project(_pooled(embedding(lists.values()), lists, self.pooling)))
        return KeyedTensor(self.keys, self.lengths, torch.cat(vectors, dim=1))

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """Describe the tables as TorchRec's own collection does, which its models read."""
        pooling = PoolingType.MEAN if self.pooling == "mean" else PoolingType.SUM
        return [
            EmbeddingBagConfig(name=key, embedding_dim=dim, num_embeddings=count, feature_names=[key], pooling=pooling)
            for key, dim, count in zip(self.keys, self.lengths, self.counts, strict=True)
        ]


class JoinedEmbeddingBagCollection(nn.Module):
    """Several collections as one: what TorchRec's models take where they ask for an EmbeddingBagCollection.

    Args:
        collections: TorchRec's EmbeddingBagCollection and ``FrozenEmbeddingBagCollection``, in any number and order.
    """

    def __init__(self, *collections: nn.Module) -> None:
        super().__init__()
        self.collections = nn.ModuleList(collections)
        configs = [collection.embedding_bag_configs() for collection in collections]  # type: ignore[operator]
        named = [names for part in configs for names in get_embedding_names_by_table(part)]  # as TorchRec names them
        self.keys = [name for names in named for name in names]
        self.lengths = [config.embedding_dim for part in configs for config in part for _ in config.feature_names]
        twice = next((key for key in self.keys if self.keys.count(key) > 1), None)
        if twice is not None:
            raise ConfigError(f"two collections have a feature {twice!r}")

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Return the pooled vectors of all collections, side by side."""
        values = [collection(features).values() for collection in self.collections]
        return KeyedTensor(self.keys, self.lengths, torch.cat(values, dim=1))

    def embedding_bag_configs(self) -> list[Any]:
        """The tables of all collections."""
        return [config for collection in self.collections for config in collection.embedding_bag_configs()]  # type: ignore[operator]


@torch.fx.wrap  # whether there are weights is known when it runs, not when it is traced
def _pooled(vectors: Tensor, lists: JaggedTensor, pooling: BagPooling) -> Tensor:
    return pool(vectors, lists.values() >= 0, lists.offsets(), pooling, lists.weights_or_none())
