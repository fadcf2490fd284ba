"""A linear probe: what can be read off pretrained vectors without any layer in between.

Shapes: B batch, F features, T labels.
"""

__all__ = ["LinearProbe"]

import math

from torch import Tensor, nn

from recokit.errors import ConfigError
from recokit.features import Batch, FeatureSpec
from recokit.rankers.base import Ranker, seeded
from recokit.rankers.blocks import plain_sizes, zero_linear
from recokit.rankers.encoder import Encoder


class LinearProbe(Ranker):
    """logit = Σ_f w_f · (scale_f x_f) + w · dense + bias, and nothing else: logistic regression.

    scale_f is 1 / root mean square of the table's numbers, so that one penalty suits vectors of any size. A categorical
    value or a value of a bag has one weight of its own. Weights start from 0. The loss is

        log loss + l2 / 2 · Σ w²

    with the bias free, which is scikit-learn's ``LogisticRegression(C=1 / (l2 * rows))``; ``FitConfig(weight_decay=0)``
    leaves the penalty to ``l2`` alone. Losses outside training, such as that of validation rows, leave it out.

    Args:
        features: What to read; no vectors that train themselves (hashed columns, usage ``init``, unknown ``learned``).
        l2: The penalty.
        seed: As every ranker takes one; the weights start from zeros, whatever it is.
    """

    kind = "linear_probe"

    def __init__(self, features: FeatureSpec, *, l2: float = 0.0, seed: int = 0) -> None:
        odd = [f.key for f in features.pretrained if f.usage == "init" or f.unknown == "learned"] + list(
            features.hashed
        )
        if odd:
            raise ConfigError(f"a probe is linear in its weights; feature {odd[0]!r} has trainable vectors of its own")
        if not (l2 >= 0 and math.isfinite(l2)):
            raise ConfigError(f"l2 is {l2}, expected a number of at least 0")
        super().__init__(features, {"l2": float(l2), **plain_sizes({}, {}, seed)})
        self.l2 = float(l2)
        num_labels = len(features.labels)
        with seeded(0):  # what is drawn here is replaced by zeros
            self.encoder = Encoder(features, num_labels)
            self.linear = zero_linear(features.dense_width, num_labels)
        for weight in self.penalised():
            nn.init.zeros_(weight)

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return the logits (B,) of the label, or (B, T) of several."""
        outputs = self.encoder(batch).sum(dim=1)  # (B, F, T) -> (B, T)
        return self.with_bias(outputs if self.linear is None else outputs + self.linear(batch.dense))

    def loss(self, logits: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Return the log loss, in training with the penalty."""
        loss = super().loss(logits, batch)
        if not self.training or not self.l2:
            return loss
        return loss + self.l2 / 2 * sum(weight.square().sum() for weight in self.penalised())

    def penalised(self) -> list[nn.Parameter]:
        """Return all weights but the bias."""
        return [parameter for name, parameter in self.named_parameters() if name != "bias"]
