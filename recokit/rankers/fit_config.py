"""How to train a ranker."""

__all__ = ["FitConfig", "Metric"]

import math
from dataclasses import dataclass
from typing import Literal, get_args

from recokit.errors import ConfigError, closest

Metric = Literal["log_loss", "auc"]


@dataclass(frozen=True)
class FitConfig:
    """How to train.

    Args:
        epochs: Passes over the training rows, at most.
        batch_size: Rows a step.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW, decoupled.
        evaluate_every: Steps between evaluations; None for once an epoch. Rankers with many ids are often at their best
            within the first epoch.
        patience: Stop after so many evaluations in a row that did not improve what the validation rows say.
        seed: Of the order of rows.
        device: Where to train and leave the ranker, such as ``"cuda"``; None for where it is.
        shuffle_rows: Rows that are in memory to be shuffled together, where files hold more (see
            ``recokit.rankers.batches`` for what that does to the order).
        negative_rate: The share of the negatives that were kept: probabilities are then those of the whole population,
            ``p / (p + (1 - p) / negative_rate)`` (He et al. 2014, 6.3). For rankers of one label, and for ESMM, whose
            negatives are impressions without a click. Validation rows have to be sampled alike: losses are those of
            sampled rows. With R negatives for each positive, drawn from what was not clicked, where a share b of all
            impressions is positive, the rate is R b / (1 - b), which may be more than 1. Negatives that are drawn from
            everything, positives that nobody logged among them, stand for the population and not for its negatives: of
            them R b p / (1 - p) is the probability, and no rate gives it.
        metric: What is to improve: the ranker's own loss (``log_loss``), or the ROC-AUC over all rows (``auc``).
    """

    epochs: int = 10
    batch_size: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    evaluate_every: int | None = None
    patience: int = 2
    seed: int = 0
    device: str | None = None
    shuffle_rows: int = 1_000_000
    negative_rate: float = 1.0
    metric: Metric = "log_loss"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluate_every", "patience"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise ConfigError(
                f"learning_rate {self.learning_rate} has to be positive, weight_decay {self.weight_decay} not negative"
            )
        if self.shuffle_rows < self.batch_size:
            raise ConfigError(f"shuffle_rows is {self.shuffle_rows}, expected a batch of {self.batch_size} at least")
        if not 0 < self.negative_rate < math.inf:
            raise ConfigError(f"negative_rate is {self.negative_rate}, expected a share of the negatives, more than 0")
        if self.metric not in get_args(Metric):
            raise ConfigError(f"metric is {self.metric!r}; {closest(str(self.metric), get_args(Metric))}")

    @property
    def offset(self) -> float:
        """What the logits of a ranker lack whose negatives were sampled."""
        return math.log(self.negative_rate)
