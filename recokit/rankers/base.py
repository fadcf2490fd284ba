"""What every ranker is: a module from a batch to logits that knows which columns and tables it reads.

Shapes: B batch, N rows of a frame, T labels.
"""

__all__ = ["Ranker", "Tables", "seeded", "to_tensors"]

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recokit.errors import ConfigError, FormatError
from recokit.feature_files import Tables
from recokit.features import Batch, FeatureSpec
from recokit.rankers.losses import log_loss


class Ranker(nn.Module):
    """A model that scores impressions: ``fit`` trains it, a checkpoint keeps it, reports evaluate it.

    Args:
        features: What it reads; ``fit`` puts the fitted spec in its place.
        settings: The other arguments of the constructor, as JSON takes them: a checkpoint builds the ranker with them.

    Attributes:
        bias: (T,), part of the logits.
        offset: (T,), added to the logits by ``predict`` and not in training: zeros, or, where the ranker was trained on
            a share of the negatives, the log of that share, so that probabilities are those of the whole population.
        batches_by_group: Whether the loss needs whole groups in a batch.
        predicts: What ``predict`` gives: ``scores`` only rank, and are evaluated so.
    """

    kind: ClassVar[str]
    batches_by_group: bool = False
    predicts: Literal["probabilities", "scores"] = "probabilities"
    offset: Tensor

    def __init__(self, features: FeatureSpec, settings: dict[str, Any]) -> None:
        super().__init__()
        if not features.labels:
            raise ConfigError("the spec names no label, so there is nothing to learn: FeatureSpec(label=...)")
        self.features, self.settings = features, settings
        self.bias = nn.Parameter(torch.zeros(len(features.labels)))  # (T,)
        self.register_buffer("offset", torch.zeros(len(features.labels)))  # (T,)

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return the logits (B,) of the label, or (B, T) of several."""
        raise NotImplementedError

    def loss(self, logits: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Return what training minimises, a scalar: the log loss, unless a ranker has its own."""
        return log_loss(logits, batch)

    def calibrated(self, logits: Tensor) -> Tensor:
        """Return what ``predict`` takes the sigmoid of: logits (B,) or (B, T) with the offset."""
        return logits + self.offset.to(logits.dtype)

    def with_bias(self, outputs: Tensor) -> Tensor:
        """Make logits (B,) or (B, T) of the outputs (B, T) of the last layer."""
        logits = outputs + self.bias
        return logits.squeeze(1) if len(self.bias) == 1 else logits

    def start_bias(self, shares: NDArray[np.float64]) -> None:
        """Start the bias from the shares of positives (T,), between 0 and 1: no training step is spent on them."""
        with torch.no_grad():
            self.bias.copy_(torch.from_numpy(np.log(shares / (1 - shares))))

    def predict(self, frame: pd.DataFrame, *, batch_size: int = 16_384) -> NDArray[np.float64]:
        """Return the probability of the label (N,), or of each label (N, T), for every row of a frame."""
        # float64: a probability rounded to 1 would be a log loss of infinity
        return self._predict(frame, batch_size, lambda batch: torch.sigmoid(self.calibrated(self(batch).double())))

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint: weights, spec and the names, versions and fingerprints of the tables, not their bytes.

        Raises:
            VersionError: ``path`` exists.
        """
        from recokit.rankers.checkpoint import save_ranker  # it knows every kind, this one included

        return save_ranker(self, path)

    @classmethod
    def load(cls, path: str | Path, tables: Tables | None = None) -> Self:
        """Read a checkpoint of this kind of ranker; see ``load_ranker``."""
        from recokit.rankers.checkpoint import load_ranker

        ranker = load_ranker(path, tables)
        if not isinstance(ranker, cls):
            raise FormatError(f"{path} holds a ranker of kind {ranker.kind!r}, not {cls.kind!r}")
        return ranker

    def _predict(
        self, frame: pd.DataFrame, batch_size: int, answer: Callable[[Batch[Tensor]], Tensor]
    ) -> NDArray[np.float64]:
        """Return what ``answer`` gives for every row of a frame, batch by batch, as the ranker serves."""
        parts, was_training = [], self.training
        self.eval()
        try:
            with torch.inference_mode():
                for start in range(0, max(len(frame), 1), batch_size):
                    batch = self.features.batch(frame.iloc[start : start + batch_size], labels=False)
                    parts.append(answer(to_tensors(batch, self.bias.device)).cpu().numpy())
        finally:
            self.train(was_training)
        return np.concatenate(parts)


def to_tensors(batch: Batch[NDArray[Any]], device: torch.device) -> Batch[Tensor]:
    """Make tensors of a NumPy batch, on the CPU over the same memory."""
    return batch.map(lambda array: torch.from_numpy(array).to(device))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from a seed, and leave torch's own stream of random numbers where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
