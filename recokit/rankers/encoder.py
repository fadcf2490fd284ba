"""A batch as one vector per feature: what the rankers' interactions start from.

Every feature that a spec names gets its layer here, so no table can be given and not be read.
Shapes: B batch, F features, V values of all the lists of a bag, D dimension of a table, dim the common one.
"""

__all__ = ["Encoder"]

import math
from typing import Literal

import torch
from torch import Tensor, nn

from recokit.feature_kinds import MixturePooling
from recokit.features import Bag, Batch, FeatureSpec, Pretrained
from recokit.layers import (
    DeepHashEmbedding,
    LearnedUnknown,
    Projection,
    TableLayer,
    TunedEmbedding,
    frozen_embedding,
    pool,
    unit_scale,
)
from recokit.table import EmbeddingTable, FeatureTable, PQTable, as_vectors


class Encoder(nn.Module):
    """Turn pretrained, categorical, bag and hashed features into vectors of one dimension.

    A pretrained vector x becomes ``project(x / rms)``, rms the root mean square of its table's numbers (trainers leave
    them anywhere between 0.01 and 10) and project a linear map without bias: the zeros of an unknown id stay zeros and
    say nothing. A categorical vector is looked up, a hashed one computed; what is pretrained with usage ``sum`` is
    added to it.

    Args:
        features: The spec.
        dim: The common dimension.

    Attributes:
        width: How many numbers ``flat`` makes of a row.
    """

    def __init__(self, features: FeatureSpec, dim: int) -> None:
        super().__init__()
        self.features, self.dim = features, dim
        layers = _Layers()
        targets = {feature.key: feature.table for feature in features.pretrained}
        # Lists in the order of the spec and not dicts: a ModuleDict does not take every column's name.
        self.pretrained = nn.ModuleList(
            _pretrained(feature, dim, layers)
            if feature.target is None
            else _Targeted(feature, layers, layers.of(targets[feature.target]), _projection(feature.table, dim))
            for feature in features.pretrained
        )
        self.categorical = nn.ModuleList(_trainable(features.num_codes(name), dim) for name in features.categorical)
        self.bags = nn.ModuleList(
            _TrainableBag(_trainable(features.num_codes(bag.key), dim), bag)
            if bag.table is None
            else _FrozenBag(layers.of(bag.table), _projection(bag.table, dim), bag)
            for bag in features.bags
        )
        self.hashed = nn.ModuleList(_Hashed(dim) for _ in features.hashed)
        self.width = dim * len(self.names) + features.dense_width

    @property
    def names(self) -> tuple[str, ...]:
        """The features in the order of their vectors."""
        spec = self.features
        own = [feature.key for feature in spec.pretrained if feature.usage != "sum"]
        return (*own, *spec.categorical, *(bag.key for bag in spec.bags), *spec.hashed)

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return the vectors (B, F, dim) of the features ``names``."""
        vectors = self.each(batch)
        return torch.stack(vectors, dim=1) if vectors else batch.dense.new_zeros(len(batch), 0, self.dim)

    def each(self, batch: Batch[Tensor]) -> list[Tensor]:
        """Return the vectors (B, dim) of the features ``names``, one by one."""
        spec = self.features
        vectors: list[Tensor] = []
        summed: dict[str, list[Tensor]] = {name: [] for name in (*spec.categorical, *spec.hashed)}
        for feature, layer in zip(spec.pretrained, self.pretrained, strict=True):
            rows = [batch.rows[key] for key in (feature.key, feature.target) if key is not None]
            (summed[feature.column] if feature.usage == "sum" else vectors).append(layer(*rows))
        for name, layer in zip(spec.categorical, self.categorical, strict=True):
            vectors.append(sum(summed[name], layer(batch.categorical[name])))
        for bag, layer in zip(spec.bags, self.bags, strict=True):
            vectors.append(layer(*batch.bags[bag.key], batch.bag_weights.get(bag.key)))
        for name, layer in zip(spec.hashed, self.hashed, strict=True):
            vectors.append(sum(summed[name], layer(batch.hashed[name])))
        return vectors

    def flat(self, batch: Batch[Tensor]) -> Tensor:
        """Return the vectors and the dense features of a row side by side, (B, width)."""
        return torch.cat([*self.each(batch), batch.dense], dim=1)


class _Layers:
    """One frozen layer for each table (and pooling of a mixture), whoever reads it: in memory once, on a GPU too."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], TableLayer] = {}

    def of(self, table: FeatureTable, feature: Pretrained | None = None) -> TableLayer:
        pooling: MixturePooling = "mean" if feature is None else feature.pooling
        temperature = 1.0 if feature is None else feature.temperature
        key = (id(table), pooling, temperature)
        if key not in self._made:
            self._made[key] = frozen_embedding(table, pooling=pooling, temperature=temperature)
        return self._made[key]


class _Targeted(nn.Module):
    """A mixture whose components are weighed by how they fit another feature's vector."""

    def __init__(self, feature: Pretrained, layers: _Layers, target: TableLayer, project: Projection) -> None:
        super().__init__()
        self.mixture = _with_unknown(layers.of(feature.table, feature), feature)
        self.target, self.project = target, project

    def forward(self, rows: Tensor, target_rows: Tensor) -> Tensor:  # (B,), (B,) -> (B, dim)
        projected: Tensor = self.project(self.mixture(rows, self.target(target_rows)))
        return projected


class _FrozenBag(nn.Module):
    def __init__(self, embedding: TableLayer, project: Projection, bag: Bag) -> None:
        super().__init__()
        self.embedding, self.project, self.pooling = embedding, project, bag.pooling

    def forward(self, rows: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:  # (V,), (B + 1,) -> (B, dim)
        known = self.embedding.known(rows)
        projected: Tensor = self.project(pool(self.embedding(rows), known, offsets, self.pooling, weights))
        return projected


class _TrainableBag(nn.Module):
    def __init__(self, embedding: nn.Embedding, bag: Bag) -> None:
        super().__init__()
        self.embedding, self.pooling = embedding, bag.pooling

    def forward(self, codes: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:  # (V,), (B + 1,) -> (B, dim)
        return pool(self.embedding(codes), codes > 0, offsets, self.pooling, weights)


class _Hashed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        seed = int(torch.randint(2**31, ()))  # from the ranker's own, another one for each column
        self.embedding = DeepHashEmbedding(dim, seed=seed)

    def forward(self, hashes: Tensor) -> Tensor:  # (B,) -> (B, dim); -1, a missing id, gives zeros
        vectors: Tensor = self.embedding(hashes) * (hashes >= 0).unsqueeze(1)
        return vectors


def _pretrained(feature: Pretrained, dim: int, layers: _Layers) -> nn.Sequential:
    if feature.usage != "init":
        layer = _with_unknown(layers.of(feature.table, feature), feature)
        return nn.Sequential(layer, _projection(feature.table, dim))
    unknown: Literal["zero", "learned"] = "learned" if feature.unknown == "learned" else "zero"
    tuned = TunedEmbedding(_decoded(feature.table), unknown=unknown, scale=unit_scale(feature.table))
    return nn.Sequential(tuned, Projection(feature.table.dim, dim))


def _with_unknown(layer: TableLayer, feature: Pretrained) -> TableLayer | LearnedUnknown:
    return LearnedUnknown(layer) if feature.unknown == "learned" else layer


def _decoded(table: FeatureTable) -> EmbeddingTable:
    if not isinstance(table, PQTable):
        return as_vectors(table, "a feature that starts from a table")
    return EmbeddingTable.from_arrays(table.ids, table.decode(), entity=table.entity, version=table.version)


def _projection(table: FeatureTable, dim: int) -> Projection:
    return Projection(table.dim, dim, scale=unit_scale(table))


def _trainable(num_codes: int, dim: int) -> nn.Embedding:
    """Start from U(-1/sqrt(n), 1/sqrt(n)) (Naumov et al. 2019); the unknown value from zeros."""
    layer = nn.Embedding(num_codes, dim)
    with torch.no_grad():
        layer.weight.uniform_(-1 / math.sqrt(num_codes), 1 / math.sqrt(num_codes))
        layer.weight[0] = 0.0
    return layer
