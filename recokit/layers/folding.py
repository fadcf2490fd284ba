"""Codes straight to a layer's output: the linear map is applied to the codebook once, not to every vector.

A linear layer on decoded vectors is a sum of one looked-up row per sub-quantizer (the look-up tables of asymmetric
distances, Jegou et al. 2010): M rows of H numbers are added where D numbers were written and D * H products made.
The tables take M * K * H floats; folding pays while they stay in the processor's cache and M is well below D.

Shapes: N rows, D dimension, M sub-quantizers, K codes in each, H outputs; ``...`` is any number of leading dimensions.
"""

__all__ = ["FoldedEmbedding", "fold", "fold_all"]

from typing import TypeGuard

import torch
from torch import Tensor, nn

from recokit.errors import ConfigError
from recokit.layers.bags import bag_sum
from recokit.layers.codes import PQEmbedding, places_of
from recokit.layers.frozen import Projection
from recokit.layers.table_layer import LearnedUnknown, refuse_beyond


class FoldedEmbedding(nn.Module):
    """A PQEmbedding and the linear layer above it as one look-up; for inference alone. Made by ``fold``.

    It holds buffers, takes no gradient and refuses ``train()``. What it replaces is what is saved: none of the buffers
    is in the state dict.
    """

    codes: Tensor
    offsets: Tensor
    sums: Tensor
    bias: Tensor | None

    def __init__(self, layer: PQEmbedding, sums: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.entity, self.version, self.count, self.dim = layer.entity, layer.version, layer.count, sums.shape[1]
        self.register_buffer("codes", layer.codes, persistent=False)  # (N, M), the layer's own memory
        self.register_buffer("offsets", layer.offsets, persistent=False)  # (M,)
        self.register_buffer("sums", sums, persistent=False)  # (M * K + 1, H)
        self.register_buffer("bias", bias, persistent=False)  # (H,)
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        """Return the outputs (..., H) of ``rows`` (...); the bias alone for row -1, or with the learned vector's image.

        Raises:
            DataError: A row is N or more; see ``TableLayer.check``.
        """
        refuse_beyond(rows, self.count, self.entity)
        return self._added(places_of(rows, self.codes, self.offsets, self.sums.shape[0] - 1))

    def decode(self, codes: Tensor) -> Tensor:
        """Return the outputs (..., H) of codes (..., M) uint8 that come from elsewhere, such as a feature store."""
        return self._added(codes.int() + self.offsets)

    def train(self, mode: bool = True) -> "FoldedEmbedding":
        """Refuse to train.

        Raises:
            ConfigError: ``mode`` is True.
        """
        if mode:
            raise ConfigError(
                f"the folded layer of {self.entity!r} is for inference: its weights are in its tables and get no "
                "gradient; train the model that was folded"
            )
        return super().train(mode)

    def extra_repr(self) -> str:
        """Show what is held, as torch's own layers do."""
        return f"{self.entity!r}, version={self.version!r}, count={self.count}, dim={self.dim}"

    def _added(self, places: Tensor) -> Tensor:
        added = bag_sum(places, self.sums)
        return added if self.bias is None else added + self.bias


@torch.no_grad()
def fold(layer: PQEmbedding | LearnedUnknown, linear: nn.Linear | Projection) -> FoldedEmbedding:
    """Fold ``linear(layer(rows))`` into one look-up, equal to about 1e-6 of the output's size, for inference.

    Rotation, scale, bias and the learned vector of row -1 are folded in. The layer's codes are shared, not copied.
    """
    if isinstance(linear, Projection):
        weight, bias = linear.linear.weight.double() * linear.scale, None
    else:
        weight, bias = linear.weight.double(), linear.bias
    learned = [] if layer.unknown is None else [layer.unknown.double()]
    if isinstance(layer, LearnedUnknown):
        if not isinstance(layer.layer, PQEmbedding):
            raise ConfigError(f"{type(layer.layer).__name__} of {layer.layer.entity!r} has no codebook to fold")
        layer = layer.layer
        learned += [] if layer.unknown is None else [layer.unknown.double()]
    parts = layer.offsets.shape[0]
    image = weight @ sum(learned, weight.new_zeros(layer.dim))  # (H,)
    if layer.rotation is not None:
        weight = weight @ layer.rotation.double().T  # (joined @ R) @ W.T = joined @ (W @ R.T).T
    width = layer.codebook.shape[1]
    books = layer.codebook[:-1].double().view(parts, -1, width)  # (M, K, D / M), or (M, K, D)
    columns = weight.T if layer.codec == "additive" else weight.T.reshape(parts, width, -1)
    sums = (books @ columns).flatten(0, 1)  # (M, K, H) -> (M * K, H)
    # All M codes of an unknown row point to the last one.
    sums = torch.cat([sums, image.unsqueeze(0) / parts]).float()
    return FoldedEmbedding(layer, sums, None if bias is None else bias.detach().clone())


def fold_all(module: nn.Module) -> nn.Module:
    """Replace, in place, every ``nn.Sequential`` of a PQEmbedding and a linear layer by their fold; return the module.

    For a ranker that serves: its other layers stay, and it can no longer be trained or saved.
    """
    pair = 2
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, nn.Sequential) or len(child) != pair:
                continue
            layer, linear = child
            if _has_codes(layer) and isinstance(linear, nn.Linear | Projection):
                setattr(parent, name, fold(layer, linear))
    return module


def _has_codes(layer: nn.Module) -> TypeGuard[PQEmbedding | LearnedUnknown]:
    return isinstance(layer.layer if isinstance(layer, LearnedUnknown) else layer, PQEmbedding)
