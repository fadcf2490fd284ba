"""What lists are made of: how much of a catalog they reach, how alike their candidates are."""

__all__ = ["catalog_coverage", "catalog_ids", "intra_list_similarity"]

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse

from recokit.errors import DataError
from recokit.metrics.arrays import as_pairs, at_least_one, same_ids

if TYPE_CHECKING:
    import pyarrow as pa

    from recokit.table import EmbeddingTable

    Catalog: TypeAlias = EmbeddingTable | Sequence[Any] | np.ndarray | pd.Series | pd.Index | pa.Array | pa.ChunkedArray


def catalog_coverage(candidates: pd.DataFrame, catalog: "Catalog", *, k: int | None = None) -> float:
    """Catalog coverage: the share of the catalog that is recommended to anyone, in the first ``k`` places or at all.

    ``|union of lists ∩ catalog| / |catalog|``; candidates outside the catalog do not count.

    Args:
        candidates: Columns query and candidate, and rank where ``k`` is given.
        catalog: Ids, repeats counted once, or an EmbeddingTable.
        k: Only candidates of rank ``k`` or better.
    """
    items = catalog_ids(catalog)
    if not len(items):
        raise DataError("catalog_coverage needs a catalog, this one is empty")
    listed = _first(candidates, k)["candidate"]
    same_ids(listed, pd.Series(items), ("candidates", "the catalog"))
    reached = items.get_indexer(pd.Index(listed.unique()))
    return float((reached >= 0).sum() / len(items))


def intra_list_similarity(
    candidates: pd.DataFrame, table: "EmbeddingTable", *, k: int | None = None
) -> "pd.Series[float]":
    """Intra-list similarity: the mean cosine over the pairs of each list (Ziegler et al. 2005). Lower is more diverse.

    ``sum over i < j of cos(v_i, v_j) / (n (n - 1) / 2)``, computed as ``(|sum u_i|² - n) / (n (n - 1))`` with unit
    vectors ``u``. Candidates that the table lacks, or whose vector is zero, have no direction and are left out of
    their list; a list with fewer than two others is NaN.

    Returns:
        One value per query, with the query ids as index, in the order of the frame.
    """
    listed = _first(candidates, k)
    query, queries = pd.factorize(listed["query"])
    rows = np.asarray(table.rows(listed["candidate"]))
    used, column = np.unique(rows, return_inverse=True)
    vectors = np.asarray(table.vectors[np.maximum(used, 0)], dtype=np.float64)
    norm = np.linalg.norm(vectors, axis=1)
    norm[used < 0] = 0.0
    unit = np.divide(vectors, norm[:, None], out=np.zeros_like(vectors), where=norm[:, None] > 0.0)
    lists = sparse.csr_matrix((np.ones(len(rows)), (query, column)), shape=(len(queries), len(used)))
    n = lists @ (norm > 0.0).astype(np.float64)
    squared = np.square(lists @ unit).sum(axis=1)  # |sum u|², (Q,)
    similarity = np.divide(squared - n, n * (n - 1.0), out=np.full(len(n), np.nan), where=n > 1.0)
    return pd.Series(similarity, index=pd.Index(queries, name="query"), name="intra_list_similarity")


def catalog_ids(catalog: "Catalog") -> pd.Index:
    """Distinct ids of a catalog, given as ids or as an EmbeddingTable."""
    ids: Any = getattr(catalog, "ids", catalog)
    index: pd.Index = pd.Index(ids.to_pandas() if hasattr(ids, "to_pandas") else ids)
    return index.unique()


def _first(candidates: pd.DataFrame, k: int | None) -> pd.DataFrame:
    if k is None:
        return as_pairs(candidates, "candidates")
    listed = as_pairs(candidates, "candidates", ("query", "candidate", "rank"))
    return listed[listed["rank"] <= at_least_one(k)]
