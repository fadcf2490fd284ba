"""Several labels of one impression: a shared bottom, experts with a gate for each label, and conversions after clicks.

Shapes: B batch, T labels, E experts, W the width of a row's vectors and dense features, H of a hidden layer.
"""

__all__ = ["ESMM", "MMoE", "SharedBottom"]

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from recokit.errors import ConfigError, DataError
from recokit.features import Batch, FeatureSpec
from recokit.rankers.base import Ranker, seeded
from recokit.rankers.blocks import mlp, plain_sizes, relu_layers
from recokit.rankers.encoder import Encoder


class SharedBottom(Ranker):
    """One network below, and a tower for each label on it (Caruana 1997): logit_t = tower_t(bottom(x)) + bias_t.

    Args:
        features: What to read; two labels or more.
        dim: The common dimension of the vectors.
        bottom: Layers of the shared network, with ReLU.
        tower: Hidden layers of each label's tower, with ReLU.
        seed: Of the initial weights.
    """

    kind = "shared_bottom"

    def __init__(
        self,
        features: FeatureSpec,
        *,
        dim: int = 32,
        bottom: Sequence[int] = (64,),
        tower: Sequence[int] = (32,),
        seed: int = 0,
    ) -> None:
        settings = plain_sizes({"dim": dim}, {"bottom": bottom, "tower": tower}, seed)
        _check_several(features, "SharedBottom")
        super().__init__(features, settings)
        with seeded(settings["seed"]):
            self.encoder = Encoder(features, settings["dim"])
            sizes = [self.encoder.width, *settings["bottom"]]
            self.bottom = relu_layers(*sizes)
            self.towers = nn.ModuleList(mlp(sizes[-1], *settings["tower"], 1) for _ in features.labels)

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return the logits (B, T)."""
        shared = self.bottom(self.encoder.flat(batch))
        return self.with_bias(torch.cat([tower(shared) for tower in self.towers], dim=1))


class MMoE(Ranker):
    """Experts that all labels share, weighed by a gate for each label (Ma et al. 2018, 10.1145/3219819.3220007).

    logit_t = tower_t(Σ_e g_te f_e(x)) + bias_t with g_t = softmax(W_t x) over the experts f_e.

    Args:
        features: What to read; two labels or more.
        dim: The common dimension of the vectors.
        experts: How many experts.
        expert: Layers of each expert, with ReLU.
        tower: Hidden layers of each label's tower, with ReLU.
        seed: Of the initial weights.
    """

    kind = "mmoe"

    def __init__(
        self,
        features: FeatureSpec,
        *,
        dim: int = 32,
        experts: int = 4,
        expert: Sequence[int] = (64,),
        tower: Sequence[int] = (32,),
        seed: int = 0,
    ) -> None:
        settings = plain_sizes({"dim": dim, "experts": experts}, {"expert": expert, "tower": tower}, seed)
        _check_several(features, "MMoE")
        super().__init__(features, settings)
        with seeded(settings["seed"]):
            self.encoder = Encoder(features, settings["dim"])
            sizes = [self.encoder.width, *settings["expert"]]
            self.experts = nn.ModuleList(relu_layers(*sizes) for _ in range(settings["experts"]))
            self.gates = nn.ModuleList(nn.Linear(sizes[0], settings["experts"], bias=False) for _ in features.labels)
            self.towers = nn.ModuleList(mlp(sizes[-1], *settings["tower"], 1) for _ in features.labels)

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return the logits (B, T)."""
        x = self.encoder.flat(batch)
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)  # (B, E, H)
        outputs = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            mixed = (gate(x).softmax(dim=1).unsqueeze(2) * experts).sum(dim=1)  # (B, H)
            outputs.append(tower(mixed))
        return self.with_bias(torch.cat(outputs, dim=1))


class ESMM(Ranker):
    """Clicks, and conversions after clicks, learned from all impressions (Ma et al. 2018, arXiv:1804.07931).

    A model of conversions that is trained on clicked rows alone is asked, when it serves, about rows that nobody has
    clicked. Here two towers over the same vectors give pCTR and pCVR, and the loss is the log loss of the click and of
    click-and-conversion, pCTCVR = pCTR * pCVR (Eq. 1), over all impressions: neither label is ever conditional.

    The logits are those of click and of click-and-conversion; ``conversion_after_click`` gives pCVR.

    Args:
        features: What to read; exactly two labels, the click and the conversion. No row may convert without a click.
        dim: The common dimension of the vectors, which both towers share.
        tower: Hidden layers of each tower, with ReLU.
        seed: Of the initial weights.
    """

    kind = "esmm"

    def __init__(self, features: FeatureSpec, *, dim: int = 32, tower: Sequence[int] = (64, 32), seed: int = 0) -> None:
        settings = plain_sizes({"dim": dim}, {"tower": tower}, seed)
        if len(features.labels) != 2:
            raise ConfigError(
                f"ESMM takes two labels, the click and the conversion, label=[click, conversion]; came "
                f"{list(features.labels)}"
            )
        super().__init__(features, settings)
        with seeded(settings["seed"]):
            self.encoder = Encoder(features, settings["dim"])
            self.click = mlp(self.encoder.width, *settings["tower"], 1)
            self.conversion = mlp(self.encoder.width, *settings["tower"], 1)

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return the logits (B, 2) of click and of click-and-conversion."""
        click, conversion = self._towers(batch).unbind(dim=1)
        return torch.stack([click, _logit_of_product(click, conversion)], dim=1)

    def loss(self, logits: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Return the log loss of both labels over all impressions, the mean of Eq. 2's two sums.

        Raises:
            DataError: A row converts without a click.
        """
        if batch.labels is not None and (odd := int((batch.labels[:, 1] > batch.labels[:, 0]).sum())):
            click, conversion = self.features.labels
            raise DataError(f"{odd} of {len(batch)} rows have {conversion!r} without {click!r}, which is to come first")
        return super().loss(logits, batch)

    def calibrated(self, logits: Tensor) -> Tensor:
        """Return logits (B, 2) of which the click has the offset, and pCVR is what it was.

        Of the offset the first number counts: negatives that were left out are impressions without a click, of which
        pCVR knows nothing.
        """
        click, both = logits.unbind(dim=1)
        # Back to pCVR's logit b by e^-b = (e^-both - e^-click) / (1 + e^-click)
        gap = torch.log(-torch.expm1((both - click).clamp(max=0.0)))
        conversion = both - gap + F.softplus(-click)
        click = click + self.offset[0].to(logits.dtype)
        return torch.stack([click, _logit_of_product(click, conversion)], dim=1)

    def start_bias(self, shares: NDArray[np.float64]) -> None:
        """Start the towers from the shares of clicks, and of conversions among them."""
        click, both = shares
        super().start_bias(np.array([click, min(both / click, 1 - 1e-6)]))  # every click may convert

    def conversion_after_click(self, frame: pd.DataFrame, *, batch_size: int = 16_384) -> NDArray[np.float64]:
        """Return pCVR (N,), the probability of a conversion once there is a click, for every row of a frame."""
        return self._predict(frame, batch_size, lambda batch: torch.sigmoid(self._towers(batch)[:, 1].double()))

    def _towers(self, batch: Batch[Tensor]) -> Tensor:  # (B, 2): the logits of pCTR and pCVR
        x = self.encoder.flat(batch)
        return self.with_bias(torch.cat([self.click(x), self.conversion(x)], dim=1))


def _logit_of_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the logit of sigmoid(a) * sigmoid(b).

    The product is 1 / ((1 + e^-a)(1 + e^-b)), its odds are 1 / (e^-a + e^-b + e^(-a-b)): no difference of numbers near
    1 is taken, and no exponential overflows.
    """
    return -torch.logsumexp(torch.stack([-a, -b, -a - b]), dim=0)


def _check_several(features: FeatureSpec, what: str) -> None:
    if len(features.labels) < 2:
        raise ConfigError(f"{what} takes two labels or more, label=[...]; came {list(features.labels)}")
