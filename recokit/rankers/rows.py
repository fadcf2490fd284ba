"""Where rows come from: a frame in memory, Parquet files, or positives that get other negatives in every epoch.

Rows come in blocks: a frame is one, every row group of the files is one. Files that hold no more rows than the shuffle
buffer are read whole, and are a frame from then on.
"""

__all__ = ["FrameRows", "Rows", "SampledRows", "Source", "columns_of", "open_rows"]

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd

from recokit.errors import ConfigError
from recokit.features import FeatureSpec
from recokit.frame.digest import frame_digest
from recokit.frame.negatives import NegativeSampler
from recokit.frame.reading import source_files
from recokit.rankers.parquet_rows import ParquetRows

Source: TypeAlias = pd.DataFrame | str | Path | Sequence[str | Path]

_NEGATIVES = 3  # makes the draws of negatives independent of those that shuffle (recokit.rankers.batches)


class Rows(Protocol):
    """Rows in blocks of ``sizes`` rows."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many rows each block has."""

    def read(self, blocks: Sequence[int], epoch: int) -> pd.DataFrame:
        """Return the rows of some blocks as an epoch has them, in the order of ``blocks``."""

    def identity(self) -> Any:
        """Return what tells these rows from others, as JSON takes it."""


class FrameRows:
    """The rows of a frame: one block.

    Args:
        frame: The rows.
        columns: Those that matter.
        identity: What tells them from others, where that is known already.
    """

    def __init__(self, frame: pd.DataFrame, columns: Sequence[str], identity: Any = None) -> None:
        self.sizes = (len(frame),)
        self._frame, self._columns, self._identity = frame, columns, identity

    def read(self, blocks: Sequence[int], epoch: int) -> pd.DataFrame:
        """Return the frame."""
        return self._frame

    def identity(self) -> Any:
        """Return the number of rows and a hash of their columns as Arrow writes them."""
        if self._identity is None:
            there = [name for name in self._columns if name in self._frame.columns]
            self._identity = {"rows": len(self._frame), "sha256": frame_digest(self._frame[there])}
        return self._identity


class SampledRows:
    """Positives with negatives that are drawn anew for every epoch.

    Args:
        rows: The positives.
        sampler: Draws the negatives.
        label: The column of labels.
        seed: Of the draws, with the epoch and the block.
    """

    def __init__(self, rows: Rows, sampler: NegativeSampler, label: str, seed: int) -> None:
        self._rows, self._sampler, self._label, self._seed = rows, sampler, label, seed
        self.sizes = tuple(size * sampler.rows_each for size in rows.sizes)

    def read(self, blocks: Sequence[int], epoch: int) -> pd.DataFrame:
        """Return the positives of some blocks, each with its negatives behind it."""
        generator = np.random.default_rng([_NEGATIVES, self._seed, epoch, *blocks[:1]])
        return self._sampler.sample(self._rows.read(blocks, epoch), generator, label=self._label)

    def identity(self) -> Any:
        """Return what tells the positives from others."""
        return self._rows.identity()


def open_rows(
    source: Source, columns: Sequence[str], *, held: int, optional: Collection[str] = (), group: str | None = None
) -> Rows:
    """Return the rows of a frame or of Parquet files; files of at most ``held`` rows are read into memory.

    Args:
        source: A frame; or a Parquet file, a folder or a glob pattern of such files, or several of these.
        columns: What to read.
        held: See above.
        optional: Those of ``columns`` that may be missing.
        group: The column of groups that blocks may not cut.

    Raises:
        ConfigError: It is something else.
        DataError: There is no such file, or a file lacks a column.
        FormatError: A file is not a readable Parquet file.
    """
    if isinstance(source, pd.DataFrame):
        return FrameRows(source, columns)
    several = [source] if isinstance(source, str | Path) else source
    files = [file for each in several for file in source_files(each)]
    for file in files:
        if file.suffix.lower() not in (".parquet", ".pq"):
            raise ConfigError(f"{file} is no Parquet file: recokit.read_frame reads others into memory")
    rows = ParquetRows(files, columns, optional=optional)
    if sum(rows.sizes) <= held:
        return FrameRows(rows.read(range(len(rows.sizes))), columns, rows.identity())
    return rows if group is None else ParquetRows(files, columns, optional=optional, group=group)


def columns_of(features: FeatureSpec) -> list[str]:
    """Return the columns that a spec reads, each once."""
    names: list[str | None] = [feature.column for feature in features.pretrained]
    names += [*features.dense, *features.categorical, *features.hashed]
    names += [name for bag in features.bags for name in (bag.column, bag.weights)]
    names += [*features.labels, features.group, features.weight]
    return list(dict.fromkeys(name for name in names if name is not None))
