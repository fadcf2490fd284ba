"""Vectors of ids without a table: hashes of the id through a small network.

Shapes: J hashes, D dimension; ``...`` is any number of leading dimensions.
"""

__all__ = ["DeepHashEmbedding"]

import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from recokit.errors import ConfigError, closest

_Codes = Literal["uniform", "normal"]


class DeepHashEmbedding(nn.Module):
    """Encode an id as J hashes and turn them into a vector by a network (Kang et al. 2021, deep hash embeddings).

    Any int64 is an id, so there is no vocabulary and no unknown; the network's size is the whole cost. Hash j of id x
    is the number (a_j m(x) + b_j) mod 2^64, read as signed and divided by 2^63: uniform on [-1, 1]. m is a fixed
    permutation of the 64-bit numbers, so that ids in a row do not get codes in a row; a_j is odd. Two ids agree in one
    code, at the 24 bits that float32 keeps, with a probability of about 2^-23, and practically never in all J: unlike
    with one hashed row of a table, no two ids must share a vector. Strings that were made int64 before share what they
    were made: among n of them, about n^2 / 2^65 pairs.

    The network is linear layers and Mish, as in the paper; its batch normalisation is left out, so that a row's vector
    does not depend on its batch. Hashes are buffers in the state dict; the network trains.

    Args:
        dim: D.
        num_hashes: J; the paper finds no gain above 1,024.
        hidden: The widths of the hidden layers.
        codes: ``uniform``, or ``normal``: pairs of hashes through the Box-Muller transform, for an even J.
        seed: Of the hashes. The network starts from torch's own generator.
    """

    multipliers: Tensor
    shifts: Tensor

    def __init__(
        self,
        dim: int,
        *,
        num_hashes: int = 1024,
        hidden: Sequence[int] = (256, 256),
        codes: _Codes = "uniform",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if codes not in get_args(_Codes):
            raise ConfigError(f"codes={codes!r}: {closest(str(codes), get_args(_Codes))}")
        if dim < 1 or num_hashes < 1 or any(width < 1 for width in hidden):
            raise ConfigError(f"dim={dim}, num_hashes={num_hashes}, hidden={tuple(hidden)}: expected at least 1 each")
        if codes == "normal" and num_hashes % 2:
            raise ConfigError(f"num_hashes={num_hashes}: normal codes come in pairs, expected an even number")
        self.dim, self.codes = dim, codes
        drawn = np.random.default_rng(seed).integers(-(2**63), 2**63, (2, num_hashes), dtype=np.int64)
        self.register_buffer("multipliers", torch.from_numpy(drawn[0] | 1))  # (J,)
        self.register_buffer("shifts", torch.from_numpy(drawn[1]))  # (J,)
        widths = [num_hashes, *hidden]
        layers = [part for pair in itertools.pairwise(widths) for part in (nn.Linear(*pair), nn.Mish())]
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], dim))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors (..., D) of ``ids`` (...) int64."""
        vectors: Tensor = self.network(self.encode(ids))
        return vectors

    def encode(self, ids: Tensor) -> Tensor:
        """Return the codes (..., J) float32 of ``ids`` (...)."""
        hashed = _mixed(ids).unsqueeze(-1) * self.multipliers + self.shifts  # int64 arithmetic is modulo 2^64
        # Conversion keeps the high bits, which are the good ones, without the shift that would drag the sign along.
        uniform = hashed.float() * 2.0**-63
        if self.codes == "uniform":
            return uniform
        radius, angle = (0.5 * uniform + 0.5).clamp(min=2.0**-25).chunk(2, dim=-1)
        radius, angle = (-2.0 * radius.log()).sqrt(), 2.0 * math.pi * angle
        return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=-1)

    def extra_repr(self) -> str:
        """Show what is held, as torch's own layers do."""
        return f"num_hashes={len(self.multipliers)}, dim={self.dim}, codes={self.codes!r}"


def _mixed(ids: Tensor) -> Tensor:
    """Permute the 64-bit numbers as SplitMix64's finalizer does (Steele et al. 2014)."""
    ids = (ids ^ _shifted(ids, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    ids = (ids ^ _shifted(ids, 27)) * (0x94D049BB133111EB - 2**64)
    return ids ^ _shifted(ids, 31)


def _shifted(ids: Tensor, bits: int) -> Tensor:
    return (ids >> bits) & ((1 << (64 - bits)) - 1)  # int64 shifts bring copies of the sign: the mask takes them out
