"""Ciao (Tang et al. 2012): who trusts whom on a review site, and which products of which category they rated.

    rating.mat    key "rating": user, item, category, rating of 0 to 5, helpfulness
    trust.mat     key "trustnetwork": two columns of users

Traps. The numbers may be uint16, which arithmetic overflows, and are widened here. A user may rate an item twice
(the last row counts), an item may stand in several categories. And the direction: the files' README says that the
first column trusts the second, but it is the second whose count stops at exactly 100, which is how many members one
could trust on Ciao: in another crawl of the site (CiaoDVD, http://konect.cc/networks/librec-ciaodvd-trust) 100 is the
greatest out-degree, while one user is trusted by 361. So the second column is taken for the one who trusts;
``documented=True`` reads the files as their README does.
"""

__all__ = ["Ciao", "load"]

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from scipy.io import loadmat

from recokit.errors import DataError


@dataclass(frozen=True)
class Ciao:
    """The tables, ids as int64.

    Attributes:
        trust: Columns source, target: source trusts target; no pair twice, no self-loops.
        ratings: Columns user, item, category, rating; no (user, item) twice.
    """

    trust: pd.DataFrame
    ratings: pd.DataFrame


def load(folder: str | Path, *, documented: bool = False) -> Ciao:
    """Read ``rating.mat`` and ``trust.mat``; ``documented`` takes the direction of trust from the files' README."""
    trust = _table(
        Path(folder) / "trust.mat", "trustnetwork", ["source", "target"] if documented else ["target", "source"]
    )
    trust = trust[trust["source"] != trust["target"]].drop_duplicates()[["source", "target"]]
    ratings = _table(Path(folder) / "rating.mat", "rating", ["user", "item", "category", "rating", "helpfulness"])
    ratings = ratings.drop_duplicates(["user", "item"], keep="last").drop(columns="helpfulness")
    return Ciao(trust.reset_index(drop=True), ratings.reset_index(drop=True))


def _table(path: Path, key: str, columns: list[str]) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} is not there; Ciao's files are rating.mat and trust.mat")
    content = loadmat(path)
    if key not in content or content[key].ndim != 2 or content[key].shape[1] != len(columns):
        shapes = {name: value.shape for name, value in content.items() if not name.startswith("__")}
        raise DataError(f"{path} holds {shapes}, expected {key!r} with {len(columns)} columns")
    return pd.DataFrame(content[key].astype("int64"), columns=columns)
