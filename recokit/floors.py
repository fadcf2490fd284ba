"""Floors: recommenders that a trained one has to beat, with nothing to tune but one choice each.

``Popularity`` is what everyone likes, ``ItemKNN`` what people who liked the same also liked, ``EASE`` a ridge
regression of every item on all others; ``FollowCosine`` compares the follows of users where users are what is
recommended. Many published networks do not reach them (Ferrari Dacrema et al. 2019).

    floor = EASE.fit(train)                                     # columns query, candidate[, weight]
    floor.recommend(users, k=100, exclude=train)                # query, candidate, score, rank

Decisions: a pair that occurs several times counts once, or with the sum of its weights where ``weight`` names a column.
Equal scores stand in the order of ``items``, which is ascending by id, so that no order of rows decides a tie. A query
without history gets no candidates from any but ``Popularity``; they are not popularity in disguise.

Shapes: U queries (users) with interactions, I items, X the matrix of their interactions (U, I).
"""

__all__ = ["EASE", "FollowCosine", "FollowVector", "ItemKNN", "Popularity"]

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from recokit.errors import ConfigError, DataError, closest
from recokit.metrics.arrays import as_pairs, as_weight, at_least_one, same_ids

Scores = npt.NDArray[np.floating]
Rows = npt.NDArray[np.int64]
FollowVector = Literal["follows", "followers"]

CHUNK = 2**23  # scores held at once: 64 MiB of float64


@dataclass(frozen=True, eq=False)
class Popularity:
    """The same list for everybody: items by the number of queries that had them (or by their summed weight).

    Attributes:
        items: Ids, ascending.
        scores: Popularity of each, (I,).
    """

    items: pd.Index
    scores: Scores

    @classmethod
    def fit(
        cls,
        interactions: pd.DataFrame,
        *,
        query: str = "query",
        candidate: str = "candidate",
        weight: str | None = None,
    ) -> "Popularity":
        """Count ``interactions``; ``query``, ``candidate`` and ``weight`` name its columns."""
        _, items, matrix = _matrix(interactions, query, candidate, weight)
        return cls(items, np.asarray(matrix.sum(axis=0), dtype=np.float64).ravel())

    def recommend(self, queries: Iterable[Any], k: int, exclude: pd.DataFrame | None = None) -> pd.DataFrame:
        """Recommend the ``k`` most popular items that ``exclude`` (query, candidate) does not hold for a query."""
        ids = _distinct(queries)
        counts = [] if exclude is None else as_pairs(exclude, "exclude")["query"].value_counts().to_list()
        longest = max(counts, default=0)
        best = np.sort(np.argsort(-self.scores, kind="stable")[: at_least_one(k) + longest])  # no list reaches further
        return _recommend(
            ids,
            np.arange(len(ids)),
            self.items.take(best),
            lambda rows: np.tile(self.scores[best], (len(rows), 1)),
            k=k,
            exclude=exclude,
        )


@dataclass(frozen=True, eq=False)
class ItemKNN:
    """Item-based nearest neighbours by cosine (Sarwar et al. 2001; Deshpande and Karypis 2004).

    ``score(u, i) = sum over the kept neighbours j of i of x_uj cos(i, j)``, with ``cos(i, j) = x_i·x_j / (|x_i||x_j|)``
    of the columns of X. Every target i keeps its own ``neighbors`` most similar items, and those that tie with the
    last of them; to keep them per item of the history instead favours popular targets. Only items with a positive score
    are recommended, so a list can be shorter than k.

    Attributes:
        queries: Ids with a history, ascending.
        items: Ids, ascending.
        matrix: X, sparse (U, I).
        similarity: Row i holds the kept neighbours of item i, sparse (I, I).
    """

    queries: pd.Index
    items: pd.Index
    matrix: sparse.csr_matrix
    similarity: sparse.csr_matrix

    @classmethod
    def fit(
        cls,
        interactions: pd.DataFrame,
        *,
        neighbors: int = 100,
        query: str = "query",
        candidate: str = "candidate",
        weight: str | None = None,
    ) -> "ItemKNN":
        """Find the ``neighbors`` most similar items of each item; the other names are columns of ``interactions``."""
        at_least_one(neighbors, "neighbors")
        queries, items, matrix = _matrix(interactions, query, candidate, weight)
        columns = matrix.tocsc()
        squared = np.asarray(matrix.power(2).sum(axis=0)).ravel()
        work = np.cumsum(matrix.T @ np.diff(matrix.indptr))  # products that the cosines of an item need, at most
        parts = []
        for rows in np.split(np.arange(len(items)), np.flatnonzero(np.diff(work // CHUNK)) + 1):
            cosine = (columns[:, rows].T @ columns).tocoo()
            # One root of one product: cosines that are equal stay equal.
            cosine.data /= np.sqrt(squared[rows[cosine.row]] * squared[cosine.col])
            cosine.data[rows[cosine.row] == cosine.col] = 0.0
            parts.append(_keep_best(cosine.tocsr(), neighbors))
        return cls(queries, items, matrix, sparse.vstack(parts, format="csr"))

    def recommend(self, queries: Iterable[Any], k: int, exclude: pd.DataFrame | None = None) -> pd.DataFrame:
        """Recommend up to ``k`` items of positive score that ``exclude`` (query, candidate) does not hold."""
        ids = _distinct(queries)

        def score(rows: Rows) -> Scores:
            dense: Scores = (self.matrix[rows] @ self.similarity.T).toarray()
            dense[dense <= 0.0] = -np.inf
            return dense

        return _recommend(ids, _known(ids, self.queries), self.items, score, k=k, exclude=exclude)


@dataclass(frozen=True, eq=False)
class EASE:
    """EASE, a linear autoencoder in closed form (Steck 2019): ``score(u) = x_u B`` with zero diagonal of B.

    With ``P = (XᵀX + l2 I)⁻¹`` the paper's ``B = I - P diag(1 / diag P)`` (equation 8), hence

        score(u) = x_u - (x_u P) / diag P.

    P is items by items. Where queries are fewer than items the same numbers come from ``K = (XXᵀ + l2 I)⁻¹``, queries
    by queries, by the push-through and Woodbury identities:

        X P = K X,        diag P_j = (1 - x_jᵀ K x_j) / l2,

    so 100 000 items by 7 000 users take 400 MB, not 80 GB. ``fit`` takes the smaller side.

    Attributes:
        queries: Ids with a history, ascending.
        items: Ids, ascending.
        matrix: X, sparse (U, I).
        side: What ``inverse`` is indexed by: ``"items"`` (P) or ``"queries"`` (K).
        inverse: P (I, I) or K (U, U).
        diagonal: diag P, (I,).
        l2: The ridge.
        history: What is scored instead of X, sparse (U', I), or None.
    """

    queries: pd.Index
    items: pd.Index
    matrix: sparse.csr_matrix
    side: str
    inverse: Scores
    diagonal: Scores
    l2: float
    history: sparse.csr_matrix | None = None

    @classmethod
    def fit(
        cls,
        interactions: pd.DataFrame,
        *,
        l2: float = 100.0,
        query: str = "query",
        candidate: str = "candidate",
        weight: str | None = None,
        dtype: npt.DTypeLike = np.float64,
        max_memory: float = 16.0,
    ) -> "EASE":
        """Solve for B.

        Args:
            interactions: One row per interaction.
            l2: The ridge.
            query: Column of the users.
            candidate: Column of the items.
            weight: Column of weights, or None.
            dtype: float64, or float32 for half the memory.
            max_memory: GiB that the inversion may take; three matrices of the smaller side.

        Raises:
            ConfigError: The inversion would take more than ``max_memory``, or ``l2`` is not positive.
        """
        if not l2 > 0.0:
            raise ConfigError(f"l2 of EASE has to be positive, not {l2}")
        queries, items, matrix = _matrix(interactions, query, candidate, weight, dtype=dtype)
        side = "items" if len(items) <= len(queries) else "queries"
        _check_memory(min(len(items), len(queries)), matrix.dtype.itemsize, max_memory)
        gram = (matrix.T @ matrix if side == "items" else matrix @ matrix.T).toarray()
        gram[np.diag_indices_from(gram)] += l2
        inverse: Scores = np.linalg.inv(gram)
        if side == "items":
            return cls(queries, items, matrix, side, inverse, np.diagonal(inverse).copy(), l2)
        explained = np.zeros(len(items), dtype=inverse.dtype)  # x_jᵀ K x_j
        for rows in _chunks(len(queries), len(items)):
            explained += np.asarray(matrix[rows].multiply((matrix.T @ inverse[:, rows]).T).sum(axis=0)).ravel()
        return cls(queries, items, matrix, side, inverse, (1.0 - explained) / inverse.dtype.type(l2), l2)

    def with_history(
        self, interactions: pd.DataFrame, *, query: str = "query", candidate: str = "candidate", weight: str
    ) -> "EASE":
        """Score from other histories than those fitted, such as the same ones weighted by recency; B stays.

        Args:
            interactions: One row per interaction, of the items fitted.
            query: Column of the users.
            candidate: Column of the items.
            weight: Column of weights.

        Raises:
            DataError: An item was not fitted, or one that was is missing.
        """
        queries, items, matrix = _matrix(interactions, query, candidate, weight, dtype=self.matrix.dtype)
        if not items.equals(self.items):
            raise DataError(f"the histories hold {len(items)} items, expected the {len(self.items)} that were fitted")
        return replace(self, queries=queries, history=matrix)

    def recommend(self, queries: Iterable[Any], k: int, exclude: pd.DataFrame | None = None) -> pd.DataFrame:
        """Recommend ``k`` items that ``exclude`` (query, candidate) does not hold for a query."""
        ids = _distinct(queries)

        def score(rows: Rows) -> Scores:
            history = self.matrix if self.history is None else self.history
            if self.side == "items":
                projected = history[rows] @ self.inverse
            elif self.history is None:
                projected = (self.matrix.T @ self.inverse[:, rows]).T  # K is symmetric
            else:  # x P = (x - x Xᵀ K X) / l2
                explained = self.matrix.T @ (self.inverse @ (self.matrix @ history[rows].T).toarray())  # (I, B)
                projected = (history[rows].toarray() - explained.T) / self.l2
            dense: Scores = history[rows].toarray() - projected / self.diagonal
            return dense

        return _recommend(ids, _known(ids, self.queries), self.items, score, k=k, exclude=exclude)


@dataclass(frozen=True, eq=False)
class FollowCosine:
    """Cosine of sparse users, where queries and candidates are accounts of one kind (TwHIN 6.1, "Sparse-Follow").

    The paper says no more than "sparse user representation based on account follows". Of an account a this knows two
    vectors over all A accounts: those that a follows, row a of X, and those that follow a, column a of X. With one
    chosen for the queries u and one for the candidates c,

        score(u, c) = <x_u, y_c> / (|x_u| |y_c|),

    two choices read the paper's words, and a third is often better:

        follows, follows        they follow the same accounts: the user representation, the same on both sides
        followers, followers    the same accounts follow them: ``ItemKNN``'s cosine, of the query itself
        follows, followers      paths of two steps: those whom u follows, follow c

    Only accounts of positive score are recommended, and never the query itself.

    Attributes:
        accounts: Ids that follow or are followed, ascending.
        queries: The vectors x of the accounts as queries, sparse (A, A).
        candidates: The vectors y of the accounts as candidates, sparse (A, A).
    """

    accounts: pd.Index
    queries: sparse.csr_matrix
    candidates: sparse.csr_matrix

    @classmethod
    def fit(
        cls,
        interactions: pd.DataFrame,
        *,
        query_vector: FollowVector = "follows",
        candidate_vector: FollowVector = "follows",
        query: str = "query",
        candidate: str = "candidate",
        weight: str | None = None,
    ) -> "FollowCosine":
        """Choose the vectors of both sides.

        Args:
            interactions: One row per follow; both ends are accounts.
            query_vector: What stands for an account that asks.
            candidate_vector: What stands for an account that may be recommended.
            query: Column of those who follow.
            candidate: Column of those whom they follow.
            weight: Column of weights, or None.

        Raises:
            ConfigError: A choice of vector does not exist.
            DataError: The two columns hold ids of different types, or what ``Popularity`` refuses.
        """
        queries, items, matrix = _matrix(interactions, query, candidate, weight)
        same_ids(queries.to_series(name=query), items.to_series(name=candidate), ("queries", "candidates"))
        accounts = queries.union(items)
        coordinates = matrix.tocoo()
        row, column = accounts.get_indexer(queries)[coordinates.row], accounts.get_indexer(items)[coordinates.col]
        square = sparse.csr_matrix((coordinates.data, (row, column)), shape=(len(accounts),) * 2)
        return cls(accounts, _rows_of(square, query_vector), _rows_of(square, candidate_vector))

    def recommend(self, queries: Iterable[Any], k: int, exclude: pd.DataFrame | None = None) -> pd.DataFrame:
        """Recommend up to ``k`` other accounts of positive score that ``exclude`` (query, candidate) does not hold."""
        ids = _distinct(queries)
        squared = [np.asarray(side.power(2).sum(axis=1)).ravel() for side in (self.queries, self.candidates)]  # (A,)

        def score(rows: Rows) -> Scores:
            dense: Scores = (self.queries[rows] @ self.candidates.T).toarray()
            dense[np.arange(len(rows)), rows] = 0.0
            listed = dense > 0.0  # an empty vector has no cosine
            # The root of one quotient: cosines that are equal stay equal.
            square = np.divide(dense**2, np.outer(squared[0][rows], squared[1]), out=dense, where=listed)
            return np.where(listed, np.sqrt(square), -np.inf)

        return _recommend(ids, _known(ids, self.accounts), self.accounts, score, k=k, exclude=exclude)


def _rows_of(square: sparse.csr_matrix, vector: FollowVector) -> sparse.csr_matrix:
    """Take the rows of a square matrix for the follows, its columns for the followers."""
    if vector not in get_args(FollowVector):
        raise ConfigError(f"vector {vector!r} does not exist; {closest(str(vector), get_args(FollowVector))}")
    return square if vector == "follows" else square.T.tocsr()


def _matrix(
    interactions: pd.DataFrame, query: str, candidate: str, weight: str | None, dtype: npt.DTypeLike = np.float64
) -> tuple[pd.Index, pd.Index, sparse.csr_matrix]:
    """Ids of queries and items, ascending, and X (U, I): 1 for a pair, or the sum of its weights."""
    pairs = as_pairs(interactions, "interactions", [query, candidate] + ([weight] if weight else []))
    if not len(pairs):
        raise DataError("interactions has no rows: there is nothing to fit")
    row, queries = pd.factorize(pairs[query], sort=True)
    column, items = pd.factorize(pairs[candidate], sort=True)
    value = as_weight(pairs[weight] if weight else None, len(pairs))
    matrix = sparse.csr_matrix((value, (row, column)), shape=(len(queries), len(items)))  # sums repeated pairs
    if weight is None:
        matrix.data[:] = 1.0
    empty = np.flatnonzero(np.asarray(matrix.sum(axis=0)).ravel() == 0.0)
    if len(empty):
        raise DataError(f"{len(empty)} items have no weight at all, such as {items[empty[0]]}: leave their rows out")
    return pd.Index(queries), pd.Index(items), matrix.astype(dtype)


def _recommend(
    queries: pd.Index,
    known: Rows,
    items: pd.Index,
    score: Callable[[Rows], Scores],
    *,
    k: int,
    exclude: pd.DataFrame | None,
) -> pd.DataFrame:
    """Candidate frame of the best ``k`` items of each query whose row in the model, ``known``, is not -1."""
    at_least_one(k)
    excluded = _excluded(exclude, queries, items)
    served = np.flatnonzero(known >= 0)
    parts: list[tuple[Rows, Rows, Scores]] = []
    for chunk in _chunks(len(served), len(items)):
        scores = score(known[served[chunk]])
        scores[excluded[served[chunk]].nonzero()] = -np.inf
        row, column, value = _top_k(scores, k)
        parts.append((served[chunk][row], column, value))
    row = np.concatenate([np.zeros(0, dtype=np.int64), *(part[0] for part in parts)])
    column = np.concatenate([np.zeros(0, dtype=np.int64), *(part[1] for part in parts)])
    value = np.concatenate([np.zeros(0), *(part[2] for part in parts)])
    first = np.searchsorted(row, row)
    return pd.DataFrame(
        {
            "query": queries.take(row),
            "candidate": items.take(column),
            "score": value,
            "rank": np.arange(len(row)) - first + 1,
        }
    )


def _top_k(scores: Scores, k: int) -> tuple[Rows, Rows, Scores]:
    """Row, column and value of the ``k`` best finite scores of each row (B, I), best first, ties by column."""
    width = scores.shape[1]
    k = min(k, width)
    threshold = np.partition(scores, width - k, axis=1)[:, width - k, None]  # the k-th best, (B, 1)
    chosen = (scores >= threshold) & (scores > -np.inf)
    crowded = np.flatnonzero(chosen.sum(axis=1) > k)  # more ties with the k-th than places: the first columns get them
    tied = scores[crowded] == threshold[crowded]
    room = k - (chosen[crowded] & ~tied).sum(axis=1, keepdims=True)
    chosen[crowded] &= ~tied | (np.cumsum(tied, axis=1) <= room)
    row, column = chosen.nonzero()
    value = scores[row, column]
    order = np.lexsort((-value, row))  # stable, and the columns are ascending
    return row[order], column[order], value[order]


def _keep_best(similarity: sparse.csr_matrix, neighbors: int) -> sparse.csr_matrix:
    """Set to zero what is below the ``neighbors``-th best of its row."""
    for row in np.flatnonzero(np.diff(similarity.indptr) > neighbors):
        values = similarity.data[similarity.indptr[row] : similarity.indptr[row + 1]]  # a view
        values[values < np.partition(values, -neighbors)[-neighbors]] = 0.0
    similarity.eliminate_zeros()
    return similarity


def _excluded(exclude: pd.DataFrame | None, queries: pd.Index, items: pd.Index) -> sparse.csr_matrix:
    """Mark the pairs to leave out, sparse (queries, items); pairs of other queries or items do not matter."""
    shape = (len(queries), len(items))
    if exclude is None:
        return sparse.csr_matrix(shape, dtype=bool)
    pairs = as_pairs(exclude, "exclude")
    same_ids(pairs["query"], queries.to_series(name="query"), ("exclude", "queries"))
    same_ids(pairs["candidate"], items.to_series(name="candidate"), ("exclude", "the model"))
    row, column = queries.get_indexer(pd.Index(pairs["query"])), items.get_indexer(pd.Index(pairs["candidate"]))
    both = (row >= 0) & (column >= 0)
    return sparse.csr_matrix((np.ones(int(both.sum()), dtype=bool), (row[both], column[both])), shape=shape)


def _distinct(queries: Iterable[Any]) -> pd.Index:
    """Return the queries in the order given, each once."""
    ids = queries if isinstance(queries, (pd.Index, pd.Series, np.ndarray, Sequence)) else list(queries)
    return pd.Index(pd.Index(ids).unique())


def _known(ids: pd.Index, queries: pd.Index) -> Rows:
    same_ids(ids.to_series(name="query"), queries.to_series(name="query"), ("queries", "the model"))
    return np.asarray(queries.get_indexer(ids), dtype=np.int64)


def _chunks(rows: int, width: int) -> list[Rows]:
    step = max(1, CHUNK // max(width, 1))
    return [np.arange(start, min(start + step, rows)) for start in range(0, rows, step)]


def _check_memory(side: int, itemsize: int, max_memory: float) -> None:
    needed = 3 * side * side * itemsize / 2**30
    if needed > max_memory:
        raise ConfigError(
            f"EASE inverts a matrix of {side:,} x {side:,} (the smaller of queries and items), which takes about "
            f"{needed:.0f} GiB; max_memory is {max_memory:g} GiB: raise it, drop rare items, or use dtype='float32'"
        )
