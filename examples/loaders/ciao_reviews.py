"""Ciao's reviews: which stars a user gave an item of which category, and how helpful other users found that.

    rating.mat    key "rating": user, item, category, rating of 0 to 5, helpfulness of 1 to 7
    trust.mat     see loaders/ciao.py, which says what is to be known of these files

Of the texts themselves nothing was published. Helpfulness is 1 for 70 % of the reviews, and 3 or more for 5 %.
"""

__all__ = ["load"]

from pathlib import Path

import pandas as pd
from scipy.io import loadmat

from recokit.errors import DataError

_COLUMNS = ["user", "item", "category", "rating", "helpfulness"]


def load(folder: str | Path) -> pd.DataFrame:
    """Read the reviews, int64; of two reviews of an item by one user the last row counts."""
    path = Path(folder) / "rating.mat"
    if not path.is_file():
        raise DataError(f"{path} is not there; Ciao's files are rating.mat and trust.mat")
    table = loadmat(path).get("rating")
    if table is None or table.ndim != 2 or table.shape[1] != len(_COLUMNS):
        raise DataError(f"{path}: expected the key 'rating' with {len(_COLUMNS)} columns")
    reviews = pd.DataFrame(table.astype("int64"), columns=_COLUMNS)  # uint16 in some copies
    return reviews.drop_duplicates(["user", "item"], keep="last").reset_index(drop=True)
