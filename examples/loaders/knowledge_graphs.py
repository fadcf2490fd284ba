"""Three small knowledge graphs as graphs to train on, to validate on and to test on.

CoDEx-S (Safavi and Koutra 2020; MIT): train.txt, valid.txt and test.txt of https://github.com/tsafavi/codex, folder
``data/triples/codex-s``.  UMLS and Kinships (Kok and Domingos 2007): out of the wheel of ``pykeen`` 1.11.1 (MIT), which
pip downloads once (.7 MB) into the user's cache.
"""

__all__ = ["DATASETS", "Parts", "load"]

import zipfile
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pretrain import Graph
from pretrain.wheels import cached_wheel
from recokit.errors import DataError

DATASETS = ("codex-s", "umls", "kinships")
_REQUIREMENT = "pykeen==1.11.1"
_WHEEL = "pykeen-1.11.1-py3-none-any.whl"
_SHA256 = "b6cc0ab012fc6ba4f37b58fb7081a409a5c1f04cbbb0e0e9c2256e911757d4ba"


class Parts(NamedTuple):
    """The usual split: entities are those of the training part, ids are strings."""

    train: Graph
    valid: Graph
    test: Graph


def load(dataset: str, folder: str | Path | None = None) -> Parts:
    """Read a data set from a folder of train.txt, valid.txt and test.txt (source, relation, target; tabs, no header).

    Args:
        dataset: One of ``DATASETS``.
        folder: Where the files lie; UMLS and Kinships can do without.

    Raises:
        DataError: A file is missing or no table of three columns, or the wheel cannot be downloaded.
        ChecksumError: The wheel is not the one that was published.
    """
    if folder is None and dataset == "codex-s":
        raise DataError("codex-s comes from https://github.com/tsafavi/codex: name the folder of its train.txt")
    root = zipfile.Path(_wheel(), f"pykeen/datasets/{dataset}/") if folder is None else Path(folder)
    train = Graph.from_triples(_triples(root / "train.txt"))
    return Parts(train, *(Graph.from_triples(_triples(root / f"{part}.txt"), like=train) for part in ("valid", "test")))


def _triples(path: Path | zipfile.Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} is not there; a data set is train.txt, valid.txt and test.txt")
    with path.open(encoding="utf-8") as file:
        lines = [line.rstrip("\n").split("\t") for line in file]
    for number, line in enumerate(lines, 1):
        if len(line) != 3:
            raise DataError(f"{path} has {len(line)} columns in line {number}, expected source, relation, target")
    return pd.DataFrame(lines, columns=["source", "relation", "target"])


def _wheel() -> Path:
    try:
        return cached_wheel(_REQUIREMENT, _WHEEL, _SHA256)
    except DataError as error:
        raise DataError(f"{error}; name a folder of the three files") from error
