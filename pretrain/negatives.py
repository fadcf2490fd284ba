"""Negative samples: entities of the right type, one block shared by a whole batch.

Uniform negatives are drawn from all entities of the type, prevalence negatives in proportion to a power of their
occurrences at that end of the edges (TwHIN 4.1), in-batch negatives are the batch's own entities of that side.  Sharing
one block among the batch turns scoring into one matrix product.  A negative that is the positive's own entity is
accidental and masked by its id; ``KnownPositives`` finds those that are any known edge.
"""

__all__ = ["KnownPositives", "NegativeSampler"]

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recokit.errors import ConfigError


class NegativeSampler:
    """Draw the negatives of one side.

    Args:
        degrees: Occurrences (N,) of every entity of the type at this end of the edges.
        uniform: How many to draw evenly; ``"all"`` takes every entity once, and nothing else.
        prevalence: How many to draw in proportion to ``degrees ** power``.
        in_batch: How many of the batch's own entities to take.
        power: See ``prevalence``.
        log_q: Tell how often the draw gives each negative.
        device: Where the drawn rows should lie.

    Raises:
        ConfigError: There would be none, or ``"all"`` and others.
    """

    def __init__(
        self,
        degrees: np.ndarray,
        *,
        uniform: int | Literal["all"],
        prevalence: int = 0,
        in_batch: int = 0,
        power: float = 1.0,
        log_q: bool = False,
        device: torch.device,
    ) -> None:
        if uniform == "all" and (prevalence or in_batch):
            raise ConfigError('uniform_negatives="all" takes every entity once: set the other counts to 0')
        if not (uniform or prevalence or in_batch):
            raise ConfigError("there are no negatives: without them nothing is learned")
        self.num_entities, self._device = len(degrees), device
        self._all = torch.arange(len(degrees), device=device) if uniform == "all" else None
        self._uniform, self._prevalence, self._in_batch = 0 if uniform == "all" else uniform, prevalence, in_batch
        # Of the draw (N,), and of each in-batch negative (N,).
        self._expected: tuple[Tensor, Tensor] | None = None
        log_q = log_q and uniform != "all"
        if not (prevalence or log_q):
            return  # nobody asks for counts, which take time and memory in large tables
        counts = degrees.astype(np.float64)
        share = counts / max(counts.sum(), 1.0)
        weights = np.where(counts > 0, (counts / max(counts.max(initial=0.0), 1.0)) ** power, 0.0)  # no power overflows
        # Inverse transform sampling: position of a uniform number among the cumulated weights.
        self._cumulated = torch.from_numpy(np.cumsum(weights)).to(device)
        if log_q:
            drawn = self._uniform / max(len(degrees), 1) + prevalence * weights / max(weights.sum(), 1e-300)
            self._expected = torch.from_numpy(drawn).to(device), torch.from_numpy(share).to(device)

    def draw(self, own: Tensor, generator: torch.Generator) -> Tensor:
        """Rows (N,) int64: uniform, then prevalence, then the first of ``own`` (the order in a batch is random)."""
        if self._all is not None:
            return self._all
        rows = [torch.randint(self.num_entities, (self._uniform,), generator=generator, device=self._device)]
        if self._prevalence:
            at = torch.rand(self._prevalence, generator=generator, device=self._device, dtype=torch.float64)
            popular = torch.searchsorted(self._cumulated, at * self._cumulated[-1], right=True)
            rows.append(popular.clamp_max_(self.num_entities - 1))
        if self._in_batch:
            rows.append(own[: self._in_batch])
        return torch.cat(rows) if len(rows) > 1 else rows[0]

    def log_expected(self, rows: Tensor, batch_size: int) -> Tensor | None:
        """Log (N,) float32 of how often a draw for ``batch_size`` edges gives each of ``rows`` in the mean.

        None without ``log_q``, and for ``"all"``, which needs no correction.
        """
        if self._expected is None:
            return None
        drawn, share = self._expected
        return (drawn[rows] + min(self._in_batch, batch_size) * share[rows]).log().float()


class KnownPositives:
    """The known answers of every question (anchor, relation), to be left out of its negatives.

    Args:
        anchors: Rows (E,) of the given ends of all known edges.
        relations: Rows (E,) of their relations.
        answers: Rows (E,) of the asked ends.
        num_relations: How many relations there are.
    """

    def __init__(self, anchors: Tensor, relations: Tensor, answers: Tensor, num_relations: int) -> None:
        self._num_relations = num_relations
        keys, order = (anchors * num_relations + relations).sort()
        self._keys, self._answers = keys, answers[order]

    def find(self, anchors: Tensor, relations: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Find known answers of the edges (B,) among the ``drawn`` rows (N,).

        Returns:
            Pairs (2, A) of a distinct question and the place of a negative, and the question (B,) of every edge: those
            of an anchor with many answers are spelled out once, however many edges of a batch it has.
        """
        keys, which = torch.unique(anchors * self._num_relations + relations, return_inverse=True)  # (U,), (B,)
        first = torch.searchsorted(self._keys, keys)
        questions, at = _ranges(first, torch.searchsorted(self._keys, keys, right=True))
        known = self._answers[at]
        ordered, order = drawn.sort()
        first = torch.searchsorted(ordered, known)
        found, at = _ranges(first, torch.searchsorted(ordered, known, right=True))
        return torch.stack([questions[found], order[at]]), which


def _ranges(first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Spell out ranges: which one (A,) and every position in it (A,)."""
    lengths = end - first
    which = torch.repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    return which, torch.arange(len(which), device=first.device) - before[which] + first[which]
