"""DLRM, the deep learning recommendation model (Naumov et al. 2019, arXiv:1906.00091), with pretrained features.

Shapes: B batch, F features besides the dense ones, T labels, dim the common dimension.
"""

__all__ = ["DLRM"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recokit.features import Batch, FeatureSpec
from recokit.rankers.base import Ranker, seeded
from recokit.rankers.blocks import mlp, plain_sizes, relu_layers
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
        settings = plain_sizes({"dim": dim}, {"bottom": bottom, "top": top}, seed)
        super().__init__(features, settings)
        dim, bottom, top = settings["dim"], settings["bottom"], settings["top"]
        with seeded(settings["seed"]):
            self.encoder = Encoder(features, dim)
            width = features.dense_width
            self.bottom = relu_layers(width, *bottom, dim) if width else _Constant(dim)
            pairs = torch.triu_indices(len(self.encoder.names) + 1, len(self.encoder.names) + 1, offset=1)
            self.register_buffer("pairs", pairs, persistent=False)  # (2, (F + 1) * F / 2)
            self.top = mlp(dim + pairs.shape[1], *top, len(features.labels))

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return the logits (B,) of the label, or (B, T) of several."""
        first = self.bottom(batch.dense)  # (B, dim)
        vectors = torch.stack([first, *self.encoder.each(batch)], dim=1)  # (B, F + 1, dim)
        dots = torch.bmm(vectors, vectors.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]  # (B, pairs)
        return self.with_bias(self.top(torch.cat([first, dots], dim=1)))


class _Constant(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(dim) / dim**0.5)

    def forward(self, dense: Tensor) -> Tensor:  # (B, 0) -> (B, dim)
        return self.vector.expand(len(dense), -1)
