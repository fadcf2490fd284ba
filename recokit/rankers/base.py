"""What every ranker is: a module from a batch to logits that knows which columns and tables it reads.

Shapes: B batch, N rows of a frame, T labels.
"""

__all__ = ["Ranker", "Tables", "seeded", "to_tensors"]

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recokit.errors import ConfigError, FormatError
from recokit.features import Batch, FeatureSpec
from recokit.table import EmbeddingStore, EmbeddingTable, Version

Tables: TypeAlias = Sequence[EmbeddingTable | str | Path] | EmbeddingTable | str | Path | Version | EmbeddingStore


class Ranker(nn.Module):
    """A model that scores impressions: ``fit`` trains it, a checkpoint keeps it, reports evaluate it.

    Args:
        features: What it reads; ``fit`` puts the fitted spec in its place.
        settings: The other arguments of the constructor, as JSON takes them: a checkpoint builds the ranker with them.
    """

    kind: ClassVar[str]

    def __init__(self, features: FeatureSpec, settings: dict[str, Any]) -> None:
        super().__init__()
        if not features.labels:
            raise ConfigError("the spec names no label, so there is nothing to learn: FeatureSpec(label=...)")
        self.features, self.settings = features, settings
        self.bias = nn.Parameter(torch.zeros(len(features.labels)))  # (T,); fit starts it from the labels' log odds

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return the logits (B,) of the label, or (B, T) of several."""
        raise NotImplementedError

    def predict(self, frame: pd.DataFrame, *, batch_size: int = 16_384) -> NDArray[np.float64]:
        """Return the probability of the label (N,), or of each label (N, T), for every row of a frame."""
        parts, was_training = [], self.training
        self.eval()
        try:
            with torch.inference_mode():
                for start in range(0, max(len(frame), 1), batch_size):
                    batch = self.features.batch(frame.iloc[start : start + batch_size], labels=False)
                    # float64: a probability rounded to 1 would be a log loss of infinity
                    parts.append(torch.sigmoid(self(to_tensors(batch, self.bias.device)).double()).cpu().numpy())
        finally:
            self.train(was_training)
        return np.concatenate(parts)

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


def to_tensors(batch: Batch[NDArray[Any]], device: torch.device) -> Batch[Tensor]:
    """Make tensors of a NumPy batch, on the CPU over the same memory."""
    return batch.map(lambda array: torch.from_numpy(array).to(device))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from a seed, and leave torch's own stream of random numbers where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
