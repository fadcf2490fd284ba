"""The training loop, in the order in which it runs, and what of it a checkpoint holds.

Between two batches the run may be written down, and looked at: both leave its numbers as they are, so that the same
seed gives the same bytes on the CPU, killed and resumed or not.
"""

__all__ = ["Evaluation", "Training"]

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from recokit.errors import ConfigError, DataError
from recokit.features import Batch
from recokit.rankers.base import Ranker, to_tensors
from recokit.rankers.batches import Batches, Place, ahead
from recokit.rankers.fit_config import FitConfig
from recokit.rankers.resume import (
    Checkpoints,
    of_state,
    optimizer_state,
    random_state,
    restore_optimizer,
    restore_random,
    to_arrays,
)
from recokit.rankers.validation import evaluate


@dataclass(frozen=True)
class Evaluation:
    """One look at the validation rows.

    Attributes:
        epoch: Of the last step before it.
        step: How many steps were before it.
        train_log_loss: The mean loss of the steps since the last look: the log loss in nats a row, or what else the
            ranker minimises.
        valid_log_loss: The same of the validation rows; NaN without them.
        seconds: Since training began.
        valid_auc: Their ROC-AUC, the mean over labels; NaN unless training stops by it.
    """

    epoch: int
    step: int
    train_log_loss: float
    valid_log_loss: float
    seconds: float
    valid_auc: float = math.nan


class Training:
    """A run: the ranker, where in the rows it stands, what was seen on the way, and the best weights so far.

    Args:
        ranker: Trained in place.
        train: The training rows.
        valid: The validation rows.
        config: How to train.
        report: Is told of every step and evaluation.
        checkpoints: Where the run is written down.
    """

    def __init__(
        self,
        ranker: Ranker,
        train: Batches,
        valid: Batches | None,
        config: FitConfig,
        *,
        report: Callable[[dict[str, Any]], None],
        checkpoints: Checkpoints | None,
    ) -> None:
        self.ranker, self.train, self.valid, self.config = ranker, train, valid, config
        self.report, self.checkpoints = report, checkpoints
        self.device = ranker.bias.device
        self.optimizer = torch.optim.AdamW(
            ranker.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.place, self.step = Place(), 0
        self.history: list[Evaluation] = []
        self.best = 0  # its number in the history
        self.best_weights: dict[str, Tensor] = {}
        self.losses = torch.zeros((), dtype=torch.float64, device=self.device)  # summed since the last evaluation
        self.num_losses = 0
        self.seconds_before = 0.0  # of the run that this one goes on with
        self.started = time.perf_counter()

    def run(self) -> tuple[Evaluation, ...]:
        """Train until the epochs or the patience are used up, and leave the best weights in the ranker."""
        with _seeded(self.config.seed, self.device):
            self._resume()
            self.ranker.train()
            while self.place.epoch <= self.config.epochs and not self._out_of_patience():
                self._train_epoch()
            self._checkpoint()
        if self.valid is not None:
            self.ranker.load_state_dict(self.best_weights)
        self.ranker.eval()
        return tuple(self.history)

    def _train_epoch(self) -> None:
        every, num_steps = self.config.evaluate_every, self.config.epochs * self.train.num_batches
        with closing(ahead(self.train.epoch(self.place))) as batches:
            for place, arrays in batches:
                self._train_batch(to_tensors(arrays, self.device))
                self.place, self.step = place, self.step + 1
                self.report({"event": "step", "epoch": place.epoch, "step": self.step, "num_steps": num_steps})
                if every and self.step % every == 0:
                    self._evaluate(place.epoch)
                    if self._out_of_patience():
                        return
                if self.checkpoints and self.step % self.checkpoints.every == 0:
                    self._checkpoint()
        self._end_epoch()

    def _train_batch(self, batch: Batch[Tensor]) -> None:
        loss = self.ranker.loss(self.ranker(batch), batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.losses += loss.detach()
        self.num_losses += 1

    def _end_epoch(self) -> None:
        epoch = self.place.epoch
        due = self.config.evaluate_every is None or epoch == self.config.epochs
        if due and self.num_losses:  # else the last step has been looked at already
            self._evaluate(epoch)
        self.place = Place(epoch + 1)
        self._checkpoint()

    def _evaluate(self, epoch: int) -> None:
        train_log_loss = float(self.losses) / self.num_losses
        self.losses.zero_()
        self.num_losses = 0
        if not math.isfinite(train_log_loss):
            raise ConfigError(f"the training loss is {train_log_loss} at step {self.step}: lower learning_rate")
        valid_log_loss = valid_auc = math.nan
        if self.valid is not None:
            valid_log_loss, valid_auc = evaluate(self.ranker, self.valid, auc=self.config.metric == "auc")
            if math.isnan(valid_log_loss):
                raise DataError(
                    f"the validation loss is NaN at step {self.step}: a row there is far outside of what the training "
                    "rows hold"
                )
        seconds = self.seconds_before + time.perf_counter() - self.started
        self.history.append(Evaluation(epoch, self.step, train_log_loss, valid_log_loss, seconds, valid_auc))
        if self.valid is None:
            self.best = len(self.history) - 1
        elif len(self.history) == 1 or self._value(-1) > self._value(self.best):
            self.best = len(self.history) - 1
            self.best_weights = {name: tensor.detach().clone() for name, tensor in self.ranker.state_dict().items()}
        self.report({"event": "evaluation", **asdict(self.history[-1])})

    def _value(self, number: int) -> float:
        """Return what is to be large."""
        seen = self.history[number]
        return seen.valid_auc if self.config.metric == "auc" else -seen.valid_log_loss

    def _out_of_patience(self) -> bool:
        return self.valid is not None and len(self.history) - 1 - self.best >= self.config.patience

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        if self.checkpoints is None:
            return
        arrays = to_arrays(
            ranker=self.ranker.state_dict(),
            best=self.best_weights,
            optimizer=optimizer_state(self.optimizer),
            random=random_state(self.device),
            sums={"losses": self.losses},
        )
        record = {
            "place": asdict(self.place),
            "step": self.step,
            "best": self.best,
            "num_losses": self.num_losses,
            "seconds": self.seconds_before + time.perf_counter() - self.started,
            "history": [_without_nan(asdict(evaluation)) for evaluation in self.history],
        }
        self.checkpoints.save(self.place.epoch, self.step, record, arrays)

    def _resume(self) -> None:
        found = None if self.checkpoints is None else self.checkpoints.load()
        if found is None:
            return
        record, arrays = found
        self.place, self.step = Place(**record["place"]), record["step"]
        self.best, self.num_losses, self.seconds_before = record["best"], record["num_losses"], record["seconds"]
        self.history = [Evaluation(**{**entry, **_with_nan(entry)}) for entry in record["history"]]
        self.ranker.load_state_dict(of_state(arrays, "ranker"))
        self.best_weights = of_state(arrays, "best")
        self.losses.copy_(of_state(arrays, "sums")["losses"])
        restore_optimizer(self.optimizer, of_state(arrays, "optimizer"))
        restore_random(of_state(arrays, "random"), self.device)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let layers such as dropout draw from the seed, and leave torch's own streams of numbers where they were."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []), torch.cuda.device(device if on_gpu else -1):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed(seed)
        yield


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}


def _with_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {name: math.nan for name, value in values.items() if value is None}
