"""Train a ranker: AdamW on its loss, early stopping on validation rows, the best weights kept.

Decisions:
- ``fit`` fits the spec too (statistics and vocabularies) and starts the bias from the labels' log odds, once: a ranker
  that has been fitted, or loaded, trains on with what it has.
- Rows are a frame, or Parquet files of any size; batches come in an order that depends on the seed alone
  (``recokit.rankers.batches``). Same seed, same machine, same number of threads: same bytes on the CPU.
- Before training the rows are compared with the edges that the tables were trained on (``recokit.overlap``).
- A run that is written down (``checkpoint``) goes on where it was killed, and ends with the same bytes.
"""

__all__ = ["Evaluation", "FitConfig", "FitResult", "fit", "log_loss"]

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recokit.errors import ConfigError, DataError
from recokit.feature_files import statistics_from_json, statistics_to_json
from recokit.frame.negatives import SampledNegatives
from recokit.rankers.base import Ranker
from recokit.rankers.batches import Batches
from recokit.rankers.fit_config import FitConfig
from recokit.rankers.loop import Evaluation, Training
from recokit.rankers.losses import log_loss
from recokit.rankers.resume import Checkpoints, identity_of
from recokit.rankers.rows import Rows, SampledRows, Source, columns_of, open_rows
from recokit.rankers.survey import Survey, survey

Callback = Callable[[dict[str, Any]], None]


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
    train: Source,
    valid: Source | None = None,
    config: FitConfig | None = None,
    *,
    negatives: SampledNegatives | None = None,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
) -> FitResult:
    """Train ``ranker`` in place.

    Args:
        ranker: The ranker; its spec is fitted to ``train`` if it has not been.
        train: Training rows: a frame; or a Parquet file, a folder or a glob pattern of such files, or several of these.
            Files may be larger than memory. Where the ranker takes whole groups in a batch, they stand together in the
            files.
        valid: Validation rows for early stopping, with their labels; without them the last weights stay.
        config: How to train.
        negatives: What to draw for ``train``, which then holds positives alone, anew in every epoch.
        callback: Is told of every step, ``{"event": "step", "epoch", "step", "num_steps"}`` (by groups, ``num_steps``
            is about right), and of every evaluation, ``{"event": "evaluation", **fields of Evaluation}``: for a
            progress bar (``recokit.rankers.progress``) or a log. What it raises ends the training.
        checkpoint: A folder to write the run down in; it stays when the run has ended, and then holds its end.
        checkpoint_every: Steps between two checkpoints; there is one at the end of every epoch, too.
        resume: Go on from the checkpoint in the folder, if there is one, with a ranker as it was before the first step.

    Raises:
        ConfigError: an argument stands in another's place.
        DataError: a column is missing or wrong, the training labels are all equal, or the loss is not finite.
        VersionError: the checkpoint is of another run, or there is one and ``resume`` is not asked for.

    Warns:
        LeakWarning: more than 1 % of the rows are edges that the frozen vectors were trained on.
    """
    config = _checked(ranker, train, valid, config, negatives)
    rows = _training_rows(ranker, train, config, negatives)
    valid_rows = None if valid is None else _open(ranker, valid, config, columns_of(ranker.features))
    checkpoints = None
    if checkpoint is not None:
        others = {
            "train": rows.identity(),
            "valid": None if valid_rows is None else valid_rows.identity(),
            "negatives": None if negatives is None else negatives.identity(),
        }
        run = identity_of(ranker, config, others)
        checkpoints = Checkpoints(checkpoint, run, every=checkpoint_every, resume=resume)
    seen = _look(ranker, rows, valid_rows, checkpoints)
    _start(ranker, seen, config)
    training = Training(
        ranker,
        _batches(ranker, rows, config, seed=config.seed, resampled=negatives is not None),
        None if valid_rows is None else _batches(ranker, valid_rows, config, seed=None),
        config,
        report=callback or (lambda event: None),
        checkpoints=checkpoints,
    )
    history = training.run()
    return FitResult(history, history[training.best], seen.coverage)


def _checked(
    ranker: Ranker, train: object, valid: object, config: FitConfig | None, negatives: SampledNegatives | None
) -> FitConfig:
    """Return the settings, if every argument is what it has to be."""
    config = FitConfig() if config is None else config
    if not isinstance(config, FitConfig):
        raise ConfigError(f"config is a {type(config).__name__}, expected a FitConfig: fit(..., config=FitConfig())")
    for rows, name in ((train, "train"), (valid, "valid")):
        several = rows if isinstance(rows, list | tuple) and rows else [rows]
        is_rows = isinstance(rows, pd.DataFrame) or all(isinstance(path, str | Path) for path in several)
        if not is_rows and not (rows is None and name == "valid"):
            hint = ": settings go into config, fit(ranker, train, config=...)" if isinstance(rows, FitConfig) else ""
            raise ConfigError(
                f"{name} is a {type(rows).__name__}, expected a DataFrame or paths of Parquet files{hint}"
            )
    if negatives is not None and not isinstance(negatives, SampledNegatives):
        raise ConfigError(f"negatives is a {type(negatives).__name__}, expected SampledNegatives")
    if ranker.batches_by_group and ranker.features.group is None:
        raise ConfigError("the ranker takes whole groups in a batch, and its spec names none: FeatureSpec(group=...)")
    labels = ranker.features.labels
    # Of several labels an offset is right only where the ranker says what it does to the others, as ESMM does.
    is_offset_of_all = type(ranker).calibrated is Ranker.calibrated
    sampled = {"negatives": negatives is not None, "negative_rate": config.negative_rate != 1 and is_offset_of_all}
    for name, given in sampled.items():
        if given and len(labels) > 1:
            raise ConfigError(f"{name} is for a ranker of one label, this one has {len(labels)}: {', '.join(labels)}")
    return config


def _training_rows(ranker: Ranker, train: Source, config: FitConfig, negatives: SampledNegatives | None) -> Rows:
    """Open the training rows; with negatives, those around the positives."""
    columns = columns_of(ranker.features)
    if negatives is None:
        return _open(ranker, train, config, columns)
    pairs = [negatives.query, negatives.column]
    known = open_rows(train, pairs, held=0)
    sampler = negatives.sampler(_frames(known))
    optional = {*negatives.columns, *ranker.features.labels}.difference(pairs)
    columns = list(dict.fromkeys([*columns, *pairs]))
    rows = _open(ranker, train, config, columns, optional=optional, rows_each=sampler.rows_each)
    return SampledRows(rows, sampler, ranker.features.labels[0], config.seed)


def _open(
    ranker: Ranker,
    source: Source,
    config: FitConfig,
    columns: Sequence[str],
    *,
    optional: Collection[str] = (),
    rows_each: int = 1,
) -> Rows:
    group = ranker.features.group if ranker.batches_by_group else None
    return open_rows(source, columns, held=config.shuffle_rows // rows_each, optional=optional, group=group)


def _look(ranker: Ranker, rows: Rows, valid: Rows | None, checkpoints: Checkpoints | None) -> Survey:
    """Fit the spec and look at all rows before the first step, or remember what a checkpoint knows of them."""
    if checkpoints is not None and checkpoints.start is not None:
        ranker.features = replace(ranker.features, statistics=statistics_from_json(checkpoints.start["statistics"]))
        return Survey(**checkpoints.start["survey"])
    features = ranker.features
    if features.statistics is None:
        features = features.fit(_frames(rows))
    seen = survey(features, rows, "training")
    for name, share in zip(features.labels, seen.shares, strict=True):
        if share in (0, 1):
            raise DataError(f"label {name!r} is {share:g} in every training row: there is nothing to learn")
    if valid is not None:
        survey(features, valid, "validation")
    ranker.features = features  # of rows that can be trained on, and no others
    if checkpoints is not None:
        checkpoints.begin({"statistics": statistics_to_json(features.statistics), "survey": asdict(seen)})
    return seen


def _start(ranker: Ranker, seen: Survey, config: FitConfig) -> None:
    """Put the labels' log odds into a bias that has never been trained, and the ranker where it is to train."""
    if not ranker.bias.any():
        ranker.start_bias(np.array(seen.shares))
    ranker.offset.fill_(config.offset)
    ranker.to(config.device or ranker.bias.device)


def _batches(ranker: Ranker, rows: Rows, config: FitConfig, *, seed: int | None, resampled: bool = False) -> Batches:
    return Batches(
        rows,
        ranker.features,
        batch_size=config.batch_size,
        shuffle_rows=config.shuffle_rows,
        seed=seed,
        by_group=ranker.batches_by_group,
        resampled=resampled,
    )


def _frames(rows: Rows) -> Iterator[pd.DataFrame]:
    """Yield the rows block by block, as no epoch has them where they are sampled."""
    return (rows.read([block], 0) for block in range(len(rows.sizes)))
