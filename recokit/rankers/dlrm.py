"""DLRM, the deep learning recommendation model (Naumov et al. 2019, arXiv:1906.00091), with pretrained features.

Shapes: B batch, F features besides the dense ones, T labels, dim the common dimension.
"""

__all__ = ["DLRM"]

from collections.abc import Sequence
from itertools import pairwise
from operator import index

import torch
from torch import Tensor, nn

from recokit.errors import ConfigError
from recokit.features import Batch, FeatureSpec
from recokit.rankers.base import Ranker, seeded
from recokit.rankers.encoder import Encoder


class DLRM(Ranker):
    """Dense features through a bottom network, the dot products of all pairs of vectors, a top network.

    x_0 = bottom(dense), x_1 .. x_F the feature vectors, logit = top([x_0, x_i · x_j for i < j]) + bias. Without dense
    features x_0 is one learned vector, through which a single feature still has a say of its own.

    Args:
        features: What to read.
        dim: The common dimension of the vectors.
        bottom: Hidden layers of the bottom network; a layer to ``dim`` follows, and ReLU after each.
        top: Hidden layers of the top network, with ReLU; a linear layer to the logits follows.
        seed: Of the initial weights.
    """

    kind = "dlrm"
    pairs: Tensor

    def __init__(
        self,
        features: FeatureSpec,
        *,
        dim: int = 32,
        bottom: Sequence[int] = (64,),
        top: Sequence[int] = (64, 32),
        seed: int = 0,
    ) -> None:
        try:  # NumPy's integers too, as the plain ones that a checkpoint holds
            dim, seed, bottom, top = index(dim), index(seed), tuple(map(index, bottom)), tuple(map(index, top))
        except TypeError as error:
            raise ConfigError(
                f"dim={dim!r} and seed={seed!r} have to be integers, bottom={bottom!r} and top={top!r} lists of them"
            ) from error
        if min(dim, *bottom, *top) < 1:
            raise ConfigError(f"layers of dim={dim}, bottom={bottom}, top={top}: every size is at least 1")
        super().__init__(features, {"dim": dim, "bottom": list(bottom), "top": list(top), "seed": seed})
        with seeded(seed):
            self.encoder = Encoder(features, dim)
            self.bottom = _relu_layers(features.dense_width, *bottom, dim) if features.dense else _Constant(dim)
            pairs = torch.triu_indices(len(self.encoder.names) + 1, len(self.encoder.names) + 1, offset=1)
            self.register_buffer("pairs", pairs, persistent=False)  # (2, (F + 1) * F / 2)
            sizes = (dim + pairs.shape[1], *top)
            self.top = nn.Sequential(_relu_layers(*sizes), nn.Linear(sizes[-1], len(features.labels), bias=False))

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return the logits (B,) of the label, or (B, T) of several."""
        first = self.bottom(batch.dense)  # (B, dim)
        vectors = torch.cat([first.unsqueeze(1), self.encoder(batch)], dim=1)  # (B, F + 1, dim)
        dots = torch.bmm(vectors, vectors.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]  # (B, pairs)
        logits: Tensor = self.top(torch.cat([first, dots], dim=1)) + self.bias  # (B, T)
        return logits.squeeze(1) if len(self.bias) == 1 else logits


class _Constant(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(dim) / dim**0.5)

    def forward(self, dense: Tensor) -> Tensor:  # (B, 0) -> (B, dim)
        return self.vector.expand(len(dense), -1)


def _relu_layers(*sizes: int) -> nn.Sequential:
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers)
