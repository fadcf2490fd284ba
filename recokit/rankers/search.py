"""A ranker of search results for a person: user, candidate and query vectors (TwHIN, El-Kishky et al. 2022, 6.2).

Shapes: B batch, F features besides the dense ones, P pairs of features.
"""

__all__ = ["SearchRanker"]

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from recokit.errors import ConfigError, closest
from recokit.features import Batch, FeatureSpec
from recokit.rankers.base import Ranker, seeded
from recokit.rankers.blocks import mlp, plain_sizes
from recokit.rankers.encoder import Encoder
from recokit.rankers.losses import listwise_loss

Loss = Literal["pointwise", "listwise"]
Products = Literal["dot", "hadamard"]


class SearchRanker(Ranker):
    """A network on the vectors, on the products of their pairs, and on the dense features.

    logit = mlp([x_1 .. x_F, x_i · x_j for i < j, dense]) + bias. User and author are pretrained features, and so is the
    query: ``recokit.text.text_table`` makes a table of texts. What makes a session, such as a user and a query, is the
    spec's ``group``.

    Args:
        features: What to read.
        dim: The dimension that all vectors are projected to.
        hidden: Hidden layers, with ReLU; a linear layer to the logits follows.
        loss: ``pointwise``, the log loss of rows; ``listwise``, the softmax cross-entropy of whole sessions
            (``recokit.rankers.losses.listwise_loss``), for which batches hold whole sessions. What ``predict`` gives
            after that ranks within a session, and is no probability.
        products: Of a pair of vectors: their ``dot`` product, or ``hadamard``, all ``dim`` products of their numbers.
        seed: Of the initial weights.
    """

    kind = "search"
    pairs: Tensor

    def __init__(
        self,
        features: FeatureSpec,
        *,
        dim: int = 32,
        hidden: Sequence[int] = (64, 32),
        loss: Loss = "pointwise",
        products: Products = "dot",
        seed: int = 0,
    ) -> None:
        for name, choice, known in (("loss", loss, Loss), ("products", products, Products)):
            if choice not in get_args(known):
                raise ConfigError(f"{name}={choice!r}: {closest(str(choice), get_args(known))}")
        if loss == "listwise" and (features.group is None or len(features.labels) > 1):
            raise ConfigError(
                f"loss='listwise' takes one label and the column of the session, FeatureSpec(label=..., group=...); "
                f"came labels {list(features.labels)} and group {features.group!r}"
            )
        settings = plain_sizes({"dim": dim}, {"hidden": hidden}, seed)
        super().__init__(features, {**settings, "loss": loss, "products": products})
        self.batches_by_group = loss == "listwise"
        self.predicts = "scores" if loss == "listwise" else "probabilities"
        self.products: Products = products
        with seeded(settings["seed"]):
            self.encoder = Encoder(features, settings["dim"])
            count = len(self.encoder.names)
            pairs = torch.triu_indices(count, count, offset=1)
            self.register_buffer("pairs", pairs, persistent=False)  # (2, P)
            width = self.encoder.width + pairs.shape[1] * (1 if products == "dot" else settings["dim"])
            self.network = mlp(width, *settings["hidden"], len(features.labels))

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return the logits (B,) of the label, or (B, T) of several."""
        vectors = self.encoder(batch)  # (B, F, dim)
        products = vectors[:, self.pairs[0]] * vectors[:, self.pairs[1]]  # (B, P, dim)
        products = products.sum(dim=2) if self.products == "dot" else products.flatten(1)
        return self.with_bias(self.network(torch.cat([vectors.flatten(1), products, batch.dense], dim=1)))

    def loss(self, logits: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Return the log loss of rows, or the softmax cross-entropy of sessions."""
        return listwise_loss(logits, batch) if self.batches_by_group else super().loss(logits, batch)
