"""Wide & Deep (Cheng et al. 2016, arXiv:1606.07792), with pretrained features in the deep part.

Shapes: B batch, T labels, K codes of a column, V values of all the lists of a bag.
"""

__all__ = ["WideDeep"]

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recokit.errors import ConfigError, closest
from recokit.features import Bag, Batch, FeatureSpec
from recokit.layers import pool
from recokit.rankers.base import Ranker, seeded
from recokit.rankers.blocks import mlp, plain_sizes, zero_linear
from recokit.rankers.encoder import Encoder

_PRIME = 2**31 - 1
_MULTIPLIER = 1_583_458_089  # any large number below the prime


class WideDeep(Ranker):
    """A linear model that remembers, beside a network that generalises; their logits are added.

    logit = wide + mlp([x_1 .. x_F, dense]) + bias. ``wide`` sums one weight for each code of each categorical column
    and of each bag with a vocabulary (pooled as the bag is), one for each crossed value, and a linear term of the dense
    features. All of it starts from 0; values that are not known weigh nothing. Both parts are trained by one optimizer,
    where the paper has FTRL with an L1 penalty for the wide one.

    Args:
        features: What to read.
        dim: The dimension of the deep part's vectors.
        hidden: Hidden layers of the deep part, with ReLU; a linear layer to the logits follows.
        crosses: Groups of categorical columns whose values together get a weight, such as ``("country", "device")``; a
            row in which one of them is unknown has none.
        cross_size: How many weights each cross has. Pairs are told apart as long as there are no more of them than
            that; else they are hashed.
        seed: Of the initial weights.
    """

    kind = "wide_deep"

    def __init__(
        self,
        features: FeatureSpec,
        *,
        dim: int = 32,
        hidden: Sequence[int] = (64, 32),
        crosses: Sequence[Sequence[str]] = (),
        cross_size: int = 10_000,
        seed: int = 0,
    ) -> None:
        settings = plain_sizes({"dim": dim, "cross_size": cross_size}, {"hidden": hidden}, seed)
        settings["crosses"] = _checked_crosses(crosses, features)
        super().__init__(features, settings)
        num_labels = len(features.labels)
        trainable = [*features.categorical, *(bag.key for bag in _vocabulary_bags(features))]
        with seeded(settings["seed"]):
            self.encoder = Encoder(features, settings["dim"])
            self.deep = mlp(self.encoder.width, *settings["hidden"], num_labels)
            self.wide = nn.ModuleList(_weights(features.num_codes(name), num_labels) for name in trainable)
            self.crosses = nn.ModuleList(
                _Cross([features.num_codes(name) for name in cross], settings["cross_size"], num_labels)
                for cross in settings["crosses"]
            )
            self.linear = zero_linear(features.dense_width, num_labels)

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return the logits (B,) of the label, or (B, T) of several."""
        outputs: Tensor = self.deep(self.encoder.flat(batch))
        return self.with_bias(outputs + self.wide_part(batch))

    def wide_part(self, batch: Batch[Tensor]) -> Tensor:
        """Return what the wide part adds to the logits, (B, T)."""
        spec = self.features
        parts = [batch.dense.new_zeros(len(batch), len(self.bias)) if self.linear is None else self.linear(batch.dense)]
        columns, lists = self.wide[: len(spec.categorical)], self.wide[len(spec.categorical) :]
        for name, weights in zip(spec.categorical, columns, strict=True):
            parts.append(weights(batch.categorical[name]))
        for bag, weights in zip(_vocabulary_bags(spec), lists, strict=True):
            codes, offsets = batch.bags[bag.key]
            parts.append(pool(weights(codes), codes > 0, offsets, bag.pooling, batch.bag_weights.get(bag.key)))
        for columns_of, cross in zip(self.settings["crosses"], self.crosses, strict=True):
            parts.append(cross([batch.categorical[name] for name in columns_of]))
        return torch.stack(parts).sum(dim=0)  # (B, T)


class _Cross(nn.Module):
    """One weight for each combination of codes, 0 where one of them is unknown."""

    def __init__(self, num_codes: Sequence[int], size: int, num_labels: int) -> None:
        super().__init__()
        self.num_codes, self.size = list(num_codes), size
        self.hashed = math.prod(count - 1 for count in num_codes) > size
        self.weights = _weights(size + 1, num_labels)

    def forward(self, columns: Sequence[Tensor]) -> Tensor:  # (B,) each -> (B, T)
        known, number = torch.ones_like(columns[0], dtype=torch.bool), torch.zeros_like(columns[0])
        for count, codes in zip(self.num_codes, columns, strict=True):
            known = known & (codes > 0)
            value = (codes - 1).clamp(min=0)
            # A polynomial modulo a prime: the products stay below 2^62, so that nothing overflows on any backend.
            number = (number * _MULTIPLIER + value + 1) % _PRIME if self.hashed else number * (count - 1) + value
        if self.hashed:
            number = number * _MULTIPLIER % _PRIME % self.size
        weights: Tensor = self.weights(torch.where(known, number + 1, 0))
        return weights


def _vocabulary_bags(features: FeatureSpec) -> list[Bag]:
    return [bag for bag in features.bags if bag.vocabulary is not None]


def _weights(num_codes: int, num_labels: int) -> nn.Embedding:
    """One weight for each code and label, from 0; that of code 0, the unknown, stays there."""
    layer = nn.Embedding(num_codes, num_labels, padding_idx=0)
    nn.init.zeros_(layer.weight)
    return layer


def _checked_crosses(crosses: Sequence[Sequence[str]], features: FeatureSpec) -> list[list[str]]:
    for cross in crosses:
        if isinstance(cross, str) or len(cross) < 2:
            raise ConfigError(f"crosses has {cross!r}, expected two or more categorical columns")
        for name in cross:
            if name not in features.categorical:
                raise ConfigError(
                    f"the cross {tuple(cross)} names {name!r}, which is no categorical column; "
                    f"{closest(name, features.categorical)}"
                )
    return [list(cross) for cross in crosses]
