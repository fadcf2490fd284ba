"""The best items of users by the products of two tables, and the recall of such lists.

Shapes: U users, I items, D dimension, B users asked at once.
"""

__all__ = ["recall", "top"]

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

_SCORES = 2**23  # held at once


def top(
    queries: NDArray[np.float32],
    candidates: NDArray[np.float32],
    users: NDArray[np.int64],
    k: int,
    *,
    exclude: pd.DataFrame,
) -> pd.DataFrame:
    """Return the ``k`` items of the greatest product for each user, without pairs of ``exclude``.

    Args:
        queries: Vectors (U, D).
        candidates: Vectors (I, D).
        users: Rows to ask for.
        k: Length of a list.
        exclude: Columns user, item: rows.

    Returns:
        Columns user, item.
    """
    shape = (len(queries), len(candidates))
    seen = sparse.csr_matrix((np.ones(len(exclude), bool), (exclude["user"], exclude["item"])), shape)
    lists = []
    step = max(1, _SCORES // len(candidates))
    for at in range(0, len(users), step):
        asked = users[at : at + step]
        scores = queries[asked] @ candidates.T  # (B, I)
        scores[seen[asked].nonzero()] = -np.inf
        lists.append(np.argpartition(-scores, k - 1, axis=1)[:, :k])
    return pd.DataFrame({"user": np.repeat(users, k), "item": np.concatenate(lists).ravel()})


def recall(lists: pd.DataFrame, relevant: pd.DataFrame) -> float:
    """Return the mean over users of the share of their relevant items that their lists hold (columns user, item)."""
    found = relevant[["user", "item"]].merge(lists[["user", "item"]].drop_duplicates(), how="left", indicator=True)
    return float((found["_merge"] == "both").groupby(found["user"]).mean().mean())
