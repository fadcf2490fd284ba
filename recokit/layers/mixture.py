"""Mixtures to one vector: their weighted mean, or the components that fit a target.

Shapes: B batch, N rows, C components of an entity, D dimension; ``...`` is any number of leading dimensions.
"""

__all__ = ["MixtureEmbedding", "MixturePooling"]

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from recokit.errors import ConfigError, DataError, closest
from recokit.layers.bags import bag_sum
from recokit.layers.table_layer import TableLayer, Unknown, add_unknown, shared
from recokit.table import Comparator, Mixture

MixturePooling = Literal["mean", "max", "smoothmax", "attention"]


class MixtureEmbedding(TableLayer):
    """Pool the components x_c of a mixture, of weights w_c and scores s_c = comparator(x_c, target), to Σ a_c x_c.

    ``pooling`` says what a_c is:

    - ``mean``: w_c, the mixture's own weighted mean; there is no target.
    - ``max``: 1 for the greatest s_c, the first of equals, and 0 for the others: the component best for the target.
    - ``smoothmax``: exp(s_c / temperature) over its sum. Scores alone count, the weights do not. Where the comparator
      is ``dot``, the pooled vector's score is the smoothmax of the scores (Eq. 1 of Brinkman et al. 2020).
    - ``attention``: w_c exp(s_c / temperature) over its sum. The weights are the prior that scores correct.

    As the temperature falls, the last two become ``max``; as it rises, ``smoothmax`` becomes the plain mean of the
    components and ``attention`` the weighted one. Components never train. A target that trains gets a gradient through
    ``smoothmax`` and ``attention``, and none through the choice that ``max`` makes.

    Args:
        table: The mixture.
        pooling: See above.
        temperature: What scores are divided by, more than 0.
        unknown: What row -1 gives: zeros, or one vector that is learned and starts from zeros.

    >>> import numpy as np
    >>> components = np.array([[[4, 0], [0, 2]]], dtype=np.float32)
    >>> table = Mixture.from_components(["u"], components, np.array([[3, 1]]), entity="user", version="v1")
    >>> MixtureEmbedding(table)(torch.tensor([0, -1]))
    tensor([[3.0000, 0.5000],
            [0.0000, 0.0000]])
    >>> MixtureEmbedding(table, pooling="max")(torch.tensor([0]), torch.tensor([[0.1, 0.9]]))
    tensor([[0., 2.]])
    """

    component_rows: Tensor
    weights: Tensor
    vectors: Tensor

    def __init__(
        self, table: Mixture, *, pooling: MixturePooling = "mean", temperature: float = 1.0, unknown: Unknown = "zero"
    ) -> None:
        super().__init__(table, unknown)
        if pooling not in get_args(MixturePooling):
            raise ConfigError(f"pooling={pooling!r}: {closest(str(pooling), get_args(MixturePooling))}")
        if not temperature > 0:
            raise ConfigError(f"temperature={temperature}, expected more than 0")
        self.pooling, self.temperature, self.comparator = pooling, temperature, table.comparator
        self.register_buffer("component_rows", shared(table.component_rows), persistent=False)  # (N, C) int64
        self.register_buffer("weights", shared(table.weights), persistent=False)  # (N, C)
        self.register_buffer("vectors", shared(table.components.vectors), persistent=False)  # (components, D)

    def forward(self, rows: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the pooled vectors (..., D) of ``rows`` (...); all poolings but ``mean`` need ``target`` (..., D).

        Raises:
            DataError: A row is N or more, see ``check``; a target is missing, or came where ``mean`` takes none.
        """
        if (target is None) != (self.pooling == "mean"):
            what = "needs a target" if target is None else "takes no target"
            raise DataError(f"the mixture {self.entity!r}: pooling={self.pooling!r} {what}")
        if target is None:
            pooled = self._mean(rows)
        else:
            vectors, weights, present = self.components(rows)
            shares = self._shares(_scores(vectors, target, self.comparator), weights, present)
            pooled = (shares.unsqueeze(-1) * vectors).sum(-2)
        return add_unknown(pooled, rows, self.unknown)

    def components(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the components (..., C, D) of ``rows`` (...), their weights (..., C) and which are there (..., C).

        Where one is not there its weight is 0, and its vector is any of the table's.
        """
        at, weights, present = self._at(rows)
        return F.embedding(at, self.vectors).float(), weights, present

    def extra_repr(self) -> str:
        """Show what is held, as torch's own layers do."""
        return f"{super().extra_repr()}, components={self.weights.shape[1]}, pooling={self.pooling!r}"

    def _at(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.check(rows)
        first = rows.clamp(min=0)
        at = F.embedding(first, self.component_rows)  # (..., C)
        present = (at >= 0) & (rows >= 0).unsqueeze(-1)
        return at.clamp(min=0), F.embedding(first, self.weights) * present, present

    def _mean(self, rows: Tensor) -> Tensor:
        at, weights, _ = self._at(rows)
        if self.vectors.dtype == torch.float32:
            return bag_sum(at, self.vectors, weights)
        return (weights.unsqueeze(-1) * F.embedding(at, self.vectors)).sum(-2)  # sums of float16 want float32

    def _shares(self, scores: Tensor, weights: Tensor, present: Tensor) -> Tensor:  # (..., C) all
        least = torch.finfo(scores.dtype).min  # and not -inf, of which a softmax of nothing else is NaN
        if self.pooling == "max":
            best = scores.masked_fill(~present, least).argmax(-1)
            return F.one_hot(best, scores.shape[-1]) * present
        exponents = scores / self.temperature
        if self.pooling == "attention":
            exponents = exponents + weights.masked_fill(~present, 1.0).log()
        return exponents.masked_fill(~present, least).softmax(-1) * present  # softmax subtracts the greatest itself


def _scores(vectors: Tensor, target: Tensor, comparator: Comparator) -> Tensor:  # (..., C, D), (..., D) -> (..., C)
    target = target.unsqueeze(-2)
    if comparator == "cos":
        vectors, target = F.normalize(vectors, dim=-1), F.normalize(target, dim=-1)
    if comparator in ("dot", "cos"):
        return (vectors * target).sum(-1)
    if comparator == "squared_l2":
        return -(vectors - target).square().sum(-1)
    distances: Tensor = torch.linalg.vector_norm(vectors - target, dim=-1)  # its gradient at 0 is 0, and not NaN
    return -distances
