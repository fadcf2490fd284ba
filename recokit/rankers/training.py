"""Train a ranker on frames: AdamW on the log loss, early stopping on validation rows, the best weights kept.

Decisions:
- ``fit`` fits the spec too (statistics and vocabularies) and starts the bias from the labels' log odds, once: a ranker
  that has been fitted, or loaded, trains on with what it has.
- Rows are turned into arrays once, and batches are taken from the arrays in an order that depends on the seed alone.
  Same seed, same machine, same number of threads: same bytes on the CPU.
- Before training the rows are compared with the edges that the tables were trained on (``recokit.overlap``).
"""

__all__ = ["Evaluation", "FitConfig", "FitResult", "fit", "log_loss"]

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recokit.errors import ConfigError, DataError
from recokit.features import Batch, FeatureSpec, take
from recokit.overlap import TOLERATED, LeakWarning, find_overlaps
from recokit.rankers.base import Ranker, to_tensors

_Arrays: TypeAlias = Batch[NDArray[Any]]


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
        patience: Stop after so many evaluations in a row that did not improve the validation log loss.
        seed: Of the order of rows.
        device: Where to train and leave the ranker, such as ``"cuda"``; None for where it is.
    """

    epochs: int = 10
    batch_size: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    evaluate_every: int | None = None
    patience: int = 2
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluate_every", "patience"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise ConfigError(
                f"learning_rate {self.learning_rate} has to be positive, weight_decay {self.weight_decay} not negative"
            )


@dataclass(frozen=True)
class Evaluation:
    """One look at the validation rows: log losses in nats a row, the training one over the steps since the last."""

    epoch: int
    step: int
    train_log_loss: float
    valid_log_loss: float
    seconds: float


@dataclass(frozen=True)
class FitResult:
    """How training went.

    Attributes:
        history: The evaluations in order.
        best: The one whose weights the ranker has now.
        coverage: The share of training rows whose id is in the table, per pretrained feature.
    """

    history: tuple[Evaluation, ...]
    best: Evaluation
    coverage: dict[str, float]

    def to_frame(self) -> pd.DataFrame:
        """The history, a row an evaluation."""
        return pd.DataFrame([asdict(evaluation) for evaluation in self.history])


def fit(
    ranker: Ranker,
    train: pd.DataFrame,
    valid: pd.DataFrame | None = None,
    config: FitConfig | None = None,
    *,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> FitResult:
    """Train ``ranker`` in place.

    Args:
        ranker: The ranker; its spec is fitted to ``train`` if it has not been.
        train: Training rows.
        valid: Validation rows for early stopping; without them the last weights stay.
        config: How to train.
        callback: Is told of every step, ``{"event": "step", "epoch", "step", "num_steps"}``, and of every evaluation,
            ``{"event": "evaluation", **fields of Evaluation}``: for a progress bar or a log.

    Raises:
        ConfigError: an argument stands in another's place.
        DataError: a column is missing or wrong, the training labels are all equal, or the loss is not finite.

    Warns:
        LeakWarning: more than 1 % of the rows are edges that the frozen vectors were trained on.
    """
    config = FitConfig() if config is None else config
    if not isinstance(config, FitConfig):
        raise ConfigError(f"config is a {type(config).__name__}, expected a FitConfig: fit(..., config=FitConfig())")
    for rows, name in ((train, "train"), (valid, "valid")):
        if not isinstance(rows, pd.DataFrame) and not (rows is None and name == "valid"):
            hint = ": settings go into config, fit(ranker, train, config=...)" if isinstance(rows, FitConfig) else ""
            raise ConfigError(f"{name} is a {type(rows).__name__}, expected a DataFrame{hint}")
    if ranker.features.statistics is None:
        ranker.features = ranker.features.fit(train)
    arrays = ranker.features.batch(train)
    valid_arrays = None if valid is None else ranker.features.batch(valid)
    for rows, what in ((train, "training"), (valid, "validation")):
        if rows is not None:
            _warn_of_leaks(ranker.features, rows, what)
    _start_bias(ranker, arrays)
    ranker.to(config.device or ranker.bias.device)
    history = _loop(ranker, arrays, valid_arrays, config, callback or (lambda event: None))
    best = history[-1] if valid is None else min(history, key=lambda evaluation: evaluation.valid_log_loss)
    coverage = {name: float((known >= 0).mean()) for name, known in arrays.rows.items()}
    return FitResult(history, best, coverage)


def log_loss(logits: Tensor, batch: Batch[Tensor]) -> Tensor:
    """Return the weighted mean log loss of a batch in nats, over its rows and labels.

    Args:
        logits: (B,) or (B, T).
        batch: With labels (B, T) and, where rows weigh differently, weight (B,).
    """
    if batch.labels is None:
        raise DataError("the batch has no labels")
    losses = F.binary_cross_entropy_with_logits(logits.view_as(batch.labels), batch.labels.to(logits), reduction="none")
    if batch.weight is None:
        return losses.mean()
    return (losses.mean(dim=1) * batch.weight).sum() / batch.weight.sum().clamp(min=torch.finfo(losses.dtype).tiny)


def _loop(
    ranker: Ranker,
    train: _Arrays,
    valid: _Arrays | None,
    config: FitConfig,
    report: Callable[[dict[str, Any]], None],
) -> tuple[Evaluation, ...]:
    """Train until the epochs or the patience are used up, and leave the best weights in ``ranker``."""
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    steps_an_epoch = math.ceil(len(train) / config.batch_size)
    num_steps = config.epochs * steps_an_epoch
    every = config.evaluate_every or steps_an_epoch
    history: list[Evaluation] = []
    best, best_weights = 0, _weights(ranker)
    losses: list[Tensor] = []
    started = time.perf_counter()
    ranker.train()
    for step, batch in enumerate(_batches(train, config, ranker.bias.device), start=1):
        loss = log_loss(ranker(batch), batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
        epoch = math.ceil(step / steps_an_epoch)
        report({"event": "step", "epoch": epoch, "step": step, "num_steps": num_steps})
        if step % every and step < num_steps:
            continue
        train_log_loss, losses = float(torch.stack(losses).double().mean()), []
        if not math.isfinite(train_log_loss):
            raise ConfigError(f"the training loss is {train_log_loss} at step {step}: lower learning_rate")
        valid_log_loss = _evaluate(ranker, valid, config.batch_size) if valid is not None else math.nan
        history.append(Evaluation(epoch, step, train_log_loss, valid_log_loss, time.perf_counter() - started))
        report({"event": "evaluation", **asdict(history[-1])})
        if valid is None or valid_log_loss < history[best].valid_log_loss or len(history) == 1:
            best, best_weights = len(history) - 1, _weights(ranker)
        elif len(history) - 1 - best >= config.patience:
            break
    ranker.load_state_dict(best_weights)
    ranker.eval()
    return tuple(history)


def _start_bias(ranker: Ranker, rows: _Arrays) -> None:
    """Put the labels' log odds into a bias that has never been trained, so that no step is spent on them."""
    weights = np.ones(len(rows)) if rows.weight is None else rows.weight.astype(np.float64)
    if rows.labels is None or not weights.sum() > 0:
        raise DataError("the weights of the training rows sum to 0")
    shares = weights @ rows.labels / weights.sum()  # (T,)
    for name, share in zip(ranker.features.labels, shares, strict=True):
        if share in (0, 1):
            raise DataError(f"label {name!r} is {share:g} in every training row: there is nothing to learn")
    if not ranker.bias.any():
        with torch.no_grad():
            ranker.bias.copy_(torch.from_numpy(np.log(shares / (1 - shares))))


def _batches(rows: _Arrays, config: FitConfig, device: torch.device) -> Iterator[Batch[Tensor]]:
    """Yield the batches of all epochs, each in an order of its own."""
    generator = np.random.default_rng(config.seed)
    for _ in range(config.epochs):
        order = generator.permutation(len(rows))
        for start in range(0, len(rows), config.batch_size):
            yield to_tensors(take(rows, order[start : start + config.batch_size]), device)


def _evaluate(ranker: Ranker, rows: _Arrays, batch_size: int) -> float:
    """Return the log loss of all rows, summed in float64."""
    total = weight = 0.0
    ranker.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            batch = to_tensors(take(rows, np.arange(start, min(start + batch_size, len(rows)))), ranker.bias.device)
            size = float(len(batch) if batch.weight is None else batch.weight.sum())
            total += float(log_loss(ranker(batch).double(), batch)) * size
            weight += size
    ranker.train()
    if not weight > 0:
        raise DataError("there are no validation rows, or none that weighs anything")
    return total / weight


def _weights(ranker: Ranker) -> dict[str, Tensor]:
    """Copy what trains; frozen tables are not part of it."""
    return {name: tensor.detach().clone() for name, tensor in ranker.state_dict().items()}


def _warn_of_leaks(features: FeatureSpec, rows: pd.DataFrame, what: str) -> None:
    # Bags and categories are not compared: a history of past clicks, or an attribute such as an occupation, is an input
    # that the network may know too, not what the label is about.
    tables = [(feature.column, feature.table) for feature in features.pretrained]
    for overlap in find_overlaps(tables, rows):
        if overlap.share > TOLERATED:
            warnings.warn(
                f"{what} rows leak through frozen vectors: {overlap}. Train the vectors on other rows than the ranker, "
                "earlier ones or a disjoint split; test on rows that neither has seen",
                LeakWarning,
                stacklevel=3,
            )
