"""What the tests of indexes and candidates compare with: tables, and search as a plain loop in float64."""

import numpy as np

from recokit.table import EmbeddingTable

COMPARATORS = ("dot", "cos", "l2", "squared_l2")


def make_table(vectors, comparator="dot", bias=None, version="v1"):
    vectors = np.asarray(vectors)
    vectors = vectors if vectors.dtype == np.float16 else vectors.astype(np.float32)
    bias = None if bias is None else np.asarray(bias, np.float32)
    return EmbeddingTable.from_arrays(
        np.arange(len(vectors)), vectors, entity="item", version=version, comparator=comparator, bias=bias
    )


def all_scores(table, queries):
    """The comparator's scores of every query with every row, pair by pair in float64."""
    out = np.empty((len(queries), table.count), np.float64)
    for i, q in enumerate(np.asarray(queries, np.float32).astype(np.float64)):
        for j, x in enumerate(table.vectors.astype(np.float64)):
            norms = np.sqrt((q * q).sum() * (x * x).sum())
            out[i, j] = {
                "dot": (q * x).sum(),
                "cos": (q * x).sum() / norms if norms else 0.0,
                "l2": -np.sqrt(((q - x) ** 2).sum()),
                "squared_l2": -((q - x) ** 2).sum(),
            }[table.comparator]
            out[i, j] += 0.0 if table.bias is None else table.bias[j]
    return out.astype(np.float32)


def naive_search(table, queries, k, *, among=None, exclude=()):
    scores = all_scores(table, queries)
    rows, best = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32)
    for i in range(len(queries)):
        allowed = [j for j in range(table.count) if (among is None or j in among) and (i, j) not in exclude]
        for place, j in enumerate(sorted(allowed, key=lambda j: (-scores[i, j], j))[:k]):
            rows[i, place], best[i, place] = j, scores[i, j]
    return rows, best
