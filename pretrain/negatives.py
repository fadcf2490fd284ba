"""Negative samples: entities of the right type, one block shared by a whole batch.

Uniform negatives are drawn from all entities of the type, prevalence negatives in proportion to their occurrences at
that end of the relation's edges (TwHIN 4.1), in-batch negatives are the batch's own entities of that side.  Sharing
one block among the batch turns scoring into one matrix product.  A negative that is the positive's own entity is
accidental and masked by its id.
"""

__all__ = ["NegativeSampler"]

import numpy as np
import torch
from torch import Tensor


class NegativeSampler:
    """Draw negatives of one entity type.

    Args:
        degrees: Occurrences (N,) of every entity of the type at one end of a relation's edges.
        device: Where the drawn rows should lie.
    """

    def __init__(self, degrees: np.ndarray, *, device: torch.device) -> None:
        self.num_entities = len(degrees)
        self._device = device
        # Inverse transform sampling: position of a uniform number among the cumulated occurrences.
        self._cumulated = torch.from_numpy(np.cumsum(degrees, dtype=np.float64)).to(device)

    def draw(self, uniform: int, prevalence: int, generator: torch.Generator) -> Tensor:
        """Rows (uniform + prevalence,) int64."""
        rows = torch.randint(self.num_entities, (uniform,), generator=generator, device=self._device)
        if not prevalence:
            return rows
        at = torch.rand(prevalence, generator=generator, device=self._device, dtype=torch.float64)
        popular = torch.searchsorted(self._cumulated, at * self._cumulated[-1], right=True)
        return torch.cat([rows, popular.clamp_max_(self.num_entities - 1)])
