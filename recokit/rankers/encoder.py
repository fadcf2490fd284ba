"""A batch as one vector per feature: what the rankers' interactions start from.

Every feature that a spec names gets its layer here, so no table can be given and not be read.
Shapes: B batch, F features, V values of all the lists of a bag, D dimension of a table, dim the common one.
"""

__all__ = ["Encoder"]

import math

import torch
from torch import Tensor, nn

from recokit.features import Batch, FeatureSpec, Pooling, Pretrained
from recokit.layers import FrozenEmbedding, Projection, TunedEmbedding, pool, unit_scale
from recokit.table import EmbeddingTable


class Encoder(nn.Module):
    """Turn pretrained, categorical and bag features into vectors of one dimension.

    A pretrained vector x becomes ``project(x / rms)``, rms the root mean square of its table's numbers (trainers leave
    them anywhere between 0.01 and 10) and project a linear map without bias: the zeros of an unknown id stay zeros and
    say nothing. A categorical vector is looked up; what is pretrained with usage ``sum`` is added to it.

    Args:
        features: The spec.
        dim: The common dimension.
    """

    def __init__(self, features: FeatureSpec, dim: int) -> None:
        super().__init__()
        self.features, self.dim = features, dim
        # Viewer and author read one table: it is in memory once, on a GPU too.
        frozen = {id(table): FrozenEmbedding(table) for table in features.tables}
        # Lists in the order of the spec and not dicts: a ModuleDict does not take every column's name.
        self.pretrained = nn.ModuleList(
            _pretrained(feature, dim, frozen[id(feature.table)]) for feature in features.pretrained
        )
        self.categorical = nn.ModuleList(_trainable(features.num_codes(name), dim) for name in features.categorical)
        self.bags = nn.ModuleList(
            _TrainableBag(_trainable(features.num_codes(bag.key), dim), bag.pooling)
            if bag.table is None
            else _FrozenBag(frozen[id(bag.table)], _projection(bag.table, dim), bag.pooling)
            for bag in features.bags
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The features in the order of their vectors."""
        own = [feature.key for feature in self.features.pretrained if feature.usage != "sum"]
        return (*own, *self.features.categorical, *(bag.key for bag in self.features.bags))

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return the vectors (B, F, dim) of the features ``names``."""
        vectors: list[Tensor] = []
        summed: dict[str, list[Tensor]] = {name: [] for name in self.features.categorical}
        for feature, layer in zip(self.features.pretrained, self.pretrained, strict=True):
            (summed[feature.column] if feature.usage == "sum" else vectors).append(layer(batch.rows[feature.key]))
        for name, layer in zip(self.features.categorical, self.categorical, strict=True):
            vectors.append(sum(summed[name], layer(batch.categorical[name])))
        for bag, layer in zip(self.features.bags, self.bags, strict=True):
            vectors.append(layer(*batch.bags[bag.key]))
        return torch.stack(vectors, dim=1) if vectors else batch.dense.new_zeros(len(batch), 0, self.dim)


class _FrozenBag(nn.Module):
    def __init__(self, embedding: FrozenEmbedding, project: Projection, pooling: Pooling) -> None:
        super().__init__()
        self.embedding, self.project, self.pooling = embedding, project, pooling

    def forward(self, rows: Tensor, offsets: Tensor) -> Tensor:  # (V,), (B + 1,) -> (B, dim)
        projected: Tensor = self.project(pool(self.embedding(rows), self.embedding.known(rows), offsets, self.pooling))
        return projected


class _TrainableBag(nn.Module):
    def __init__(self, embedding: nn.Embedding, pooling: Pooling) -> None:
        super().__init__()
        self.embedding, self.pooling = embedding, pooling

    def forward(self, codes: Tensor, offsets: Tensor) -> Tensor:  # (V,), (B + 1,) -> (B, dim)
        return pool(self.embedding(codes), codes > 0, offsets, self.pooling)


def _pretrained(feature: Pretrained, dim: int, frozen: FrozenEmbedding) -> nn.Sequential:
    table, unknown = feature.table, feature.unknown
    if feature.usage == "init":
        tuned = TunedEmbedding(table, unknown=unknown, scale=unit_scale(table))
        return nn.Sequential(tuned, Projection(table.dim, dim))
    layer = frozen if unknown == "zero" else FrozenEmbedding(table, unknown=unknown)
    return nn.Sequential(layer, _projection(table, dim))


def _projection(table: EmbeddingTable, dim: int) -> Projection:
    return Projection(table.dim, dim, scale=unit_scale(table))


def _trainable(num_codes: int, dim: int) -> nn.Embedding:
    """Start from U(-1/sqrt(n), 1/sqrt(n)) (Naumov et al. 2019); the unknown value from zeros."""
    layer = nn.Embedding(num_codes, dim)
    with torch.no_grad():
        layer.weight.uniform_(-1 / math.sqrt(num_codes), 1 / math.sqrt(num_codes))
        layer.weight[0] = 0.0
    return layer
