"""DCN-V2, the improved deep & cross network (Wang et al. 2021, arXiv:2008.13535), with pretrained features.

Shapes: B batch, T labels, W the width of a row's vectors and dense features side by side, R the rank.
"""

__all__ = ["DCNv2"]

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from recokit.errors import ConfigError, closest
from recokit.features import Batch, FeatureSpec
from recokit.rankers.base import Ranker, seeded
from recokit.rankers.blocks import plain_sizes, relu_layers
from recokit.rankers.encoder import Encoder

Structure = Literal["stacked", "parallel"]


class DCNv2(Ranker):
    """Cross layers, each of which raises the degree of the polynomial in the features by one, and a deep network.

    x_0 = [x_1 .. x_F, dense], x_{l+1} = x_0 * (W_l x_l + b_l) + x_l (Eq. 1; * is elementwise). ``stacked`` puts the
    deep network on the last cross layer, ``parallel`` beside the cross layers (Fig. 1); a linear layer gives the logits
    of what comes out.

    Args:
        features: What to read.
        dim: The common dimension of the vectors.
        cross_layers: How many cross layers.
        rank: Of W_l = U_l V_l (Eq. 2), a quarter of the width and less is what the paper uses; None for a full matrix.
        hidden: Hidden layers of the deep network, with ReLU.
        structure: ``stacked`` or ``parallel``.
        seed: Of the initial weights.
    """

    kind = "dcn_v2"

    def __init__(
        self,
        features: FeatureSpec,
        *,
        dim: int = 32,
        cross_layers: int = 2,
        rank: int | None = None,
        hidden: Sequence[int] = (64, 32),
        structure: Structure = "stacked",
        seed: int = 0,
    ) -> None:
        if structure not in get_args(Structure):
            raise ConfigError(f"structure={structure!r}: {closest(str(structure), get_args(Structure))}")
        numbers = {"dim": dim, "cross_layers": cross_layers} | ({} if rank is None else {"rank": rank})
        settings = plain_sizes(numbers, {"hidden": hidden}, seed) | {"structure": structure}
        super().__init__(features, {"rank": None, **settings})
        self.structure: Structure = structure
        with seeded(settings["seed"]):
            self.encoder = Encoder(features, settings["dim"])
            width = self.encoder.width
            self.cross = nn.ModuleList(
                _CrossLayer(width, settings.get("rank")) for _ in range(settings["cross_layers"])
            )
            self.deep = relu_layers(width, *settings["hidden"])
            deep_width = [width, *settings["hidden"]][-1]
            self.last = nn.Linear(
                deep_width + (width if structure == "parallel" else 0), len(features.labels), bias=False
            )

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return the logits (B,) of the label, or (B, T) of several."""
        first = self.encoder.flat(batch)  # (B, W)
        crossed = first
        for layer in self.cross:
            crossed = layer(first, crossed)
        if self.structure == "stacked":
            return self.with_bias(self.last(self.deep(crossed)))
        return self.with_bias(self.last(torch.cat([crossed, self.deep(first)], dim=1)))


class _CrossLayer(nn.Module):
    def __init__(self, width: int, rank: int | None) -> None:
        super().__init__()
        self.down = None if rank is None else nn.Linear(width, rank, bias=False)  # V
        self.up = nn.Linear(width if rank is None else rank, width)  # U or W, and b

    def forward(self, first: Tensor, x: Tensor) -> Tensor:  # (B, W) each -> (B, W)
        crossed: Tensor = first * self.up(x if self.down is None else self.down(x)) + x
        return crossed
