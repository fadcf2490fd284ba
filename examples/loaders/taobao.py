"""Taobao ads: who clicked which display ad, with codes of the users' profiles and of the ads.

    train.txt   a user and the ads that the user clicked, a line each, separated by spaces
    test.txt    the same users and their held-out clicks
    u.user      user and eight codes: cms_segid, cms_group_id, final_gender_code, age_level, pvalue_level,
                shopping_level, occupation, new_user_class_level
    u.item      ad, category, brand, price

A sample of Alibaba's public log of display ads (https://tianchi.aliyun.com/dataset/56), ids renumbered from 0. The
files end their lines with CR LF, and those of ``u.user`` with a space before it.

Counted on the files: 33,932 users with 4 to 69 clicks for training (227,108 in all) and 1 to 17 for testing (54,723),
drawn at random by who made the files; no pair stands in both. 24,624 ads of 1,079 categories and 7,565 brands, of which
24,224 are clicked in the training part; 8,631 ads have the brand 0, by far the most, which seems to mean that the brand
is not known. The price is a bucket, 0 or 1. There are clicks and nothing else: no impressions, dates or advertisers.
"""

__all__ = ["NO_BRAND", "PROFILE", "TaobaoAds", "load", "split"]

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recokit.errors import DataError

PROFILE = ("segment", "group", "gender", "age", "consumption", "shopping", "occupation", "city_class")
NO_BRAND = 0  # the code of ads whose brand is not known

_AD = ("category", "brand", "price")
_SOURCE = "the data set is a sample of https://tianchi.aliyun.com/dataset/56"


@dataclass(frozen=True)
class TaobaoAds:
    """The tables, everything as int64.

    Attributes:
        train: user, ad: clicks, a pair once.
        test: user, ad: held-out clicks.
        users: user and the codes ``PROFILE``.
        ads: ad, category, brand, price.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    users: pd.DataFrame
    ads: pd.DataFrame


def load(folder: str | Path) -> TaobaoAds:
    """Read the four files.

    Raises:
        DataError: A file is missing, a row has another number of fields, or a clicked ad or its user has no row.
    """
    folder = Path(folder)
    data = TaobaoAds(
        train=_clicks(folder / "train.txt"),
        test=_clicks(folder / "test.txt"),
        users=_table(folder / "u.user", ("user", *PROFILE)),
        ads=_table(folder / "u.item", ("ad", *_AD)),
    )
    for name, clicks in (("train.txt", data.train), ("test.txt", data.test)):
        for column, table in (("user", data.users), ("ad", data.ads)):
            if unknown := sorted(set(clicks[column]) - set(table[column])):
                raise DataError(f"{folder / name} has the {column} {unknown[0]}, of which nothing is known")
    return data


def split(clicks: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw ``round(n * share)`` of the n clicks of each user, at least one; the others come second.

    Rows stay in the order of the frame.
    """
    rank = clicks.sample(frac=1.0, random_state=seed).groupby("user").cumcount().reindex(clicks.index)
    size = clicks.groupby("user")["ad"].transform("size")
    drawn = rank < np.floor(size * share + 0.5).clip(lower=1)
    return clicks[drawn], clicks[~drawn]


def _clicks(path: Path) -> pd.DataFrame:
    """Read lines of a user and ads."""
    pairs = [(line[0], ad) for line in _lines(path) for ad in line[1:]]
    frame = pd.DataFrame(pairs, columns=["user", "ad"]).astype("int64")
    return frame.drop_duplicates(ignore_index=True)


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    lines = _lines(path)
    for number, line in enumerate(lines, start=1):
        if len(line) != len(columns):
            raise DataError(f"{path}:{number} has {len(line)} fields, expected {len(columns)}: {', '.join(columns)}")
    return pd.DataFrame(lines, columns=list(columns)).astype("int64")


def _lines(path: Path) -> list[list[str]]:
    if not path.is_file():
        raise DataError(f"{path} is not there; {_SOURCE}")
    return [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
