"""What lists are made of: how alike their candidates are, what they cover, how much of a catalog they reach.

All but the coverage of a catalog are one value per query. ``CandidateLists`` numbers the ids of a candidate frame once;
every metric takes it in place of the frame, so that ten metrics of ten million rows number them once. Ranks that a
filter left with gaps close up, as in ``Rankings``: ``k`` always means the first ``k`` candidates that are there.

A value that does not exist is NaN and never 0: the distance within a list of one, the entropy of a list of nothing. A
mean is over the queries that have a value, and has to say how many those are.

Shapes: Q queries, n rows of their lists, U distinct candidates, G categories, D dimension.
"""

__all__ = [
    "CandidateLists",
    "Categories",
    "catalog_coverage",
    "catalog_ids",
    "categories_covered",
    "category_entropy",
    "interest_entropy",
    "intra_list_distance",
    "intra_list_similarity",
    "list_overlap",
    "relevant_interests_covered",
]

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import xlogy

from recokit.errors import DataError
from recokit.metrics.arrays import Floats, Ints, as_pairs, as_ranks, at_least_one, same_ids

if TYPE_CHECKING:
    import pyarrow as pa

    from recokit.table import EmbeddingTable

    Catalog: TypeAlias = EmbeddingTable | Sequence[Any] | np.ndarray | pd.Series | pd.Index | pa.Array | pa.ChunkedArray


@dataclass(frozen=True, eq=False)
class CandidateLists:
    """Q lists, best candidate first, their ids numbered.

    Attributes:
        queries: Ids of the queries, in the order of the frame, (Q,).
        candidates: Ids of the distinct candidates, (U,).
        length: Candidates in each list, (Q,).
        candidate: Numbers of the candidates, list after list, (n,).
        component: Numbers of the components that found them, (n,), or None where the frame does not say.
    """

    queries: pd.Index
    candidates: pd.Index
    length: Ints
    candidate: Ints
    component: Ints | None = None

    @classmethod
    def of(cls, candidates: "pd.DataFrame | CandidateLists", *, ranked: bool = True) -> "CandidateLists":
        """Number the ids of a candidate frame, query, candidate, rank[, component]; lists stay as they are.

        Args:
            candidates: The frame, or lists.
            ranked: Whether the column rank has to be there. Without it, lists have the order of the frame.

        Raises:
            DataError: A candidate stands twice in one list, two candidates of a list share a rank, or a value is
                missing.
        """
        if isinstance(candidates, CandidateLists):
            return candidates
        with_rank, with_component = ranked or "rank" in candidates.columns, "component" in candidates.columns
        columns = ["query", "candidate", *(["rank"] if with_rank else []), *(["component"] if with_component else [])]
        listed = as_pairs(candidates, "candidates", columns)
        query, queries = _numbered(listed["query"])
        candidate, ids = _numbered(listed["candidate"])
        _refuse_twice(query, candidate, queries, ids)
        order = _order(query, listed["rank"] if with_rank else None)
        return cls(
            queries,
            ids,
            length=np.bincount(query, minlength=len(queries)).astype(np.int64),
            candidate=candidate[order],
            component=_numbered(listed["component"])[0][order] if with_component else None,
        )

    def __len__(self) -> int:
        return len(self.queries)

    def first(self, k: int | None) -> "CandidateLists":
        """The first ``k`` candidates of every list; all of them where ``k`` is None."""
        if k is None or int(self.length.max(initial=0)) <= at_least_one(k):
            return self
        start = np.cumsum(self.length) - self.length
        kept = np.arange(len(self.candidate)) - np.repeat(start, self.length) < k
        component = None if self.component is None else self.component[kept]
        return replace(self, length=np.minimum(self.length, k), candidate=self.candidate[kept], component=component)

    def matrix(self) -> sparse.csr_matrix:
        """1 where a list has a candidate, (Q, U)."""
        return self._by_list(self.candidate, len(self.candidates))

    def component_counts(self) -> sparse.csr_matrix:
        """How many candidates of a list each component found, (Q, components).

        Raises:
            DataError: The frame did not say which component found a candidate.
        """
        if self.component is None:
            raise DataError("candidates lacks the column 'component', which says which component found each")
        counts = self._by_list(self.component, int(self.component.max(initial=-1)) + 1)
        counts.sum_duplicates()
        return counts

    def _by_list(self, column: Ints, width: int) -> sparse.csr_matrix:
        start = np.concatenate([[0], np.cumsum(self.length)])
        return sparse.csr_matrix((np.ones(len(column)), column, start), shape=(len(self), width))


@dataclass(frozen=True, eq=False)
class Categories:
    """Which categories (genres, departments, clusters) candidates are in: none, one, or several.

    Attributes:
        candidates: Ids of the candidates that are in any, (N,).
        names: The categories, (G,).
        member: 1 where a candidate is in a category, (N + 1, G); the last row is empty, for unknown candidates.
    """

    candidates: pd.Index
    names: pd.Index
    member: sparse.csr_matrix

    @classmethod
    def of(cls, categories: "pd.DataFrame | Categories") -> "Categories":
        """Number a frame with the columns candidate and category, a row for each category that a candidate is in.

        Rows that are there twice count once; a row without a category says nothing.
        """
        if isinstance(categories, Categories):
            return categories
        rows = as_pairs(categories.dropna(subset=["category"]) if "category" in categories else categories,
                        "categories", ("candidate", "category")).drop_duplicates()  # fmt: skip
        candidate, candidates = _numbered(rows["candidate"])
        category, names = _numbered(rows["category"])
        shape = (len(candidates) + 1, len(names))
        return cls(candidates, names, sparse.csr_matrix((np.ones(len(rows)), (candidate, category)), shape=shape))

    def of_candidates(self, ids: pd.Index) -> sparse.csr_matrix:
        """1 where a candidate is in a category, (U, G); empty rows for candidates that are in none.

        Raises:
            DataError: The ids are integers and those of the categories strings, or the other way round.
        """
        same_ids(
            pd.Series(ids, name="candidate"),
            pd.Series(self.candidates, name="candidate"),
            ("candidates", "categories"),
        )
        return self.member[self.candidates.get_indexer(ids)]  # -1 is the last row


def catalog_coverage(candidates: pd.DataFrame | CandidateLists, catalog: "Catalog", *, k: int | None = None) -> float:
    """Catalog coverage: the share of the catalog that is recommended to anyone, in the first ``k`` places or at all.

    ``|union of lists ∩ catalog| / |catalog|``; candidates outside the catalog do not count.

    Args:
        candidates: Columns query and candidate, and rank where ``k`` is given.
        catalog: Ids, repeats counted once, or an EmbeddingTable.
        k: Only the first ``k`` candidates of each list.
    """
    items = catalog_ids(catalog)
    if not len(items):
        raise DataError("catalog_coverage needs a catalog, this one is empty")
    lists = CandidateLists.of(candidates, ranked=k is not None).first(k)
    listed = pd.Series(lists.candidates[np.unique(lists.candidate)])
    same_ids(listed, pd.Series(items), ("candidates", "the catalog"))
    reached = items.get_indexer(pd.Index(listed))
    return float((reached >= 0).sum() / len(items))


def intra_list_similarity(
    candidates: pd.DataFrame | CandidateLists, table: "EmbeddingTable", *, k: int | None = None
) -> "pd.Series[float]":
    """Intra-list similarity: the mean cosine over the pairs of each list (Ziegler et al. 2005). Lower is more diverse.

    ``sum over i < j of cos(v_i, v_j) / (n (n - 1) / 2)``, computed as ``(|sum u_i|² - n) / (n (n - 1))`` with unit
    vectors ``u``. Candidates that the table lacks, or whose vector is zero, have no direction and are left out of
    their list; a list with fewer than two others is NaN.

    Returns:
        One value per query, with the query ids as index, in the order of the frame.
    """
    lists = CandidateLists.of(candidates, ranked=k is not None).first(k)
    unit = _unit_vectors(lists.candidates, table)
    members = lists.matrix()
    n = members @ unit.any(axis=1).astype(np.float64)
    squared = np.square(members @ unit).sum(axis=1)  # |sum u|², (Q,)
    similarity = np.divide(squared - n, n * (n - 1.0), out=np.full(len(n), np.nan), where=n > 1.0)
    return _per_query(similarity, lists.queries, "intra_list_similarity")


def intra_list_distance(
    candidates: pd.DataFrame | CandidateLists, table: "EmbeddingTable", *, k: int | None = None
) -> "pd.Series[float]":
    """Intra-list distance: the mean of ``1 - cos`` over the pairs of each list (Zhang and Hurley 2008).

    ``1 - intra_list_similarity``, from 0, where all n candidates point the same way, to ``n / (n - 1)``; higher is
    more diverse. A list with fewer than two candidates that have a direction has no pair and is NaN.

    Returns:
        One value per query, with the query ids as index, in the order of the frame.
    """
    distance = 1.0 - intra_list_similarity(candidates, table, k=k)
    return distance.rename("intra_list_distance")


def categories_covered(
    candidates: pd.DataFrame | CandidateLists, categories: pd.DataFrame | Categories, *, k: int | None = None
) -> "pd.Series[float]":
    """Number of distinct categories that the candidates of each list are in; 0 where they are in none.

    Args:
        candidates: Columns query and candidate, and rank where ``k`` is given.
        categories: Columns candidate and category, a row for each category that a candidate is in.
        k: Only the first ``k`` candidates of each list.

    Returns:
        One value per query, with the query ids as index, in the order of the frame.

    >>> listed = pd.DataFrame({"query": ["u", "u"], "candidate": ["a", "b"], "rank": [1, 2]})
    >>> genres = pd.DataFrame({"candidate": ["a", "a", "b"], "category": ["war", "crime", "war"]})
    >>> categories_covered(listed, genres).tolist()
    [2.0]
    """
    lists = CandidateLists.of(candidates, ranked=k is not None).first(k)
    found = lists.matrix() @ Categories.of(categories).of_candidates(lists.candidates)
    return _per_query(np.diff(found.indptr).astype(np.float64), lists.queries, "categories_covered")


def category_entropy(
    candidates: pd.DataFrame | CandidateLists, categories: pd.DataFrame | Categories, *, k: int | None = None
) -> "pd.Series[float]":
    """Shannon entropy of each list's distribution over categories, in nats (natural logarithm).

    ``-sum over c of p_c ln p_c``, from 0 (one category) to ``ln G``. Every candidate that is in a category counts 1,
    in equal shares where it is in several: of ``g`` categories each gets ``1 / g``. Candidates in none are left out; a
    list of nothing else is NaN.

    Args:
        candidates: Columns query and candidate, and rank where ``k`` is given.
        categories: Columns candidate and category, a row for each category that a candidate is in.
        k: Only the first ``k`` candidates of each list.

    Returns:
        One value per query, with the query ids as index, in the order of the frame.
    """
    lists = CandidateLists.of(candidates, ranked=k is not None).first(k)
    member = Categories.of(categories).of_candidates(lists.candidates)
    several = np.maximum(np.diff(member.indptr), 1)
    shares = sparse.diags(1.0 / several).tocsr() @ member  # (U, G)
    return _per_query(_entropy(lists.matrix() @ shares), lists.queries, "category_entropy")


def interest_entropy(candidates: pd.DataFrame | CandidateLists, *, k: int | None = None) -> "pd.Series[float]":
    """Shannon entropy of each list over the query's interests, in nats (natural logarithm).

    ``-sum over c of p_c ln p_c`` with ``p_c`` the share of the list that component ``c`` of the query found: 0 where
    one found them all, ``ln C`` where C components found as many each.

    Args:
        candidates: Columns query, candidate and component, as retrieval from a mixture gives them, and rank where
            ``k`` is given.
        k: Only the first ``k`` candidates of each list.

    Returns:
        One value per query, with the query ids as index, in the order of the frame.
    """
    lists = CandidateLists.of(candidates, ranked=k is not None).first(k)
    return _per_query(_entropy(lists.component_counts()), lists.queries, "interest_entropy")


def relevant_interests_covered(
    candidates: pd.DataFrame | CandidateLists,
    relevant: pd.DataFrame,
    categories: pd.DataFrame | Categories,
    *,
    k: int | None = None,
) -> "pd.Series[float]":
    """Subtopic recall (S-recall, Zhai et al. 2003): the share of a query's relevant categories that its list covers.

    ``|categories of the list ∩ categories of the relevant candidates| / |categories of the relevant candidates|``. A
    category is covered by any candidate that is in it, relevant or not. A query without a list has 0, one whose
    relevant candidates are in no category NaN.

    Args:
        candidates: Columns query and candidate, and rank where ``k`` is given.
        relevant: Pairs query, candidate.
        categories: Columns candidate and category, a row for each category that a candidate is in.
        k: Only the first ``k`` candidates of each list.

    Returns:
        One value per query of ``relevant``, with the query ids as index, in the order of that frame.
    """
    lists = CandidateLists.of(candidates, ranked=k is not None).first(k)
    known = Categories.of(categories)
    pairs = as_pairs(relevant, "relevant").drop_duplicates()
    for column, ids in (("query", lists.queries), ("candidate", lists.candidates)):
        same_ids(pd.Series(ids, name=column), pairs[column], ("candidates", "relevant"))
    wanted = CandidateLists.of(pairs, ranked=False)
    sought = wanted.matrix() @ known.of_candidates(wanted.candidates)  # (Q, G)
    row = lists.queries.get_indexer(wanted.queries)
    listed = np.flatnonzero(row >= 0)
    covered = lists.matrix()[row[listed]] @ known.of_candidates(lists.candidates)
    num_sought, num_covered = np.diff(sought.indptr), np.zeros(len(row))
    num_covered[listed] = np.diff(sought[listed].multiply(covered).tocsr().indptr)
    share = np.divide(num_covered, num_sought, out=np.full(len(row), np.nan), where=num_sought > 0)
    return _per_query(share, wanted.queries, "relevant_interests_covered")


def list_overlap(
    a: pd.DataFrame | CandidateLists, b: pd.DataFrame | CandidateLists, *, k: int | None = None
) -> "pd.Series[float]":
    """Overlap of two lists of each query, whatever their order: the share of candidates that both have.

    ``|A ∩ B| / min(k, max(|A|, |B|))`` of the first ``k`` candidates A and B: over ``k`` where at least one of the
    lists is that long, and over the longer list where both are shorter, so that equal lists always have 1. Where only
    one of them is there it is 0.

    Returns:
        One value per query that has either list, with the query ids as index: those of ``a`` in its order, then the
        others.
    """
    first, second = (CandidateLists.of(lists, ranked=k is not None).first(k) for lists in (a, b))
    for one, other, column in (
        (first.queries, second.queries, "query"),
        (first.candidates, second.candidates, "candidate"),
    ):
        same_ids(pd.Series(one, name=column), pd.Series(other, name=column), ("a", "b"))
    queries = first.queries.append(second.queries.difference(first.queries, sort=False))
    candidates = first.candidates.append(second.candidates.difference(first.candidates, sort=False))
    pairs, longest = [], np.zeros(len(queries), dtype=np.int64)
    for lists in (first, second):
        row = queries.get_indexer(lists.queries)
        longest[row] = np.maximum(longest[row], lists.length)
        number = candidates.get_indexer(lists.candidates)
        pairs.append(np.repeat(row, lists.length) * len(candidates) + number[lists.candidate])
    key = np.sort(np.concatenate(pairs))
    both = key[1:][key[1:] == key[:-1]] // max(len(candidates), 1)
    shared = np.bincount(both, minlength=len(queries))
    return _per_query(shared / longest, queries, "list_overlap")


def catalog_ids(catalog: "Catalog") -> pd.Index:
    """Distinct ids of a catalog, given as ids or as an EmbeddingTable."""
    ids: Any = getattr(catalog, "ids", catalog)
    index: pd.Index = pd.Index(ids.to_pandas() if hasattr(ids, "to_pandas") else ids)
    return index.unique()


def _numbered(column: "pd.Series[Any]") -> tuple[Ints, pd.Index]:
    """Number the distinct values in the order in which they appear."""
    code, names = pd.factorize(column)
    return code.astype(np.int64, copy=False), pd.Index(names)


def _order(query: Ints, rank: "pd.Series[Any] | None") -> NDArray[np.intp] | slice:
    """Positions of the rows by query, then rank; everything as it is where that is the order of the frame."""
    if rank is None:
        return slice(None) if (np.diff(query) >= 0).all() else np.argsort(query, kind="stable")
    values = as_ranks(rank)
    key = query * (int(values.max(initial=0)) + 1) + values
    if (np.diff(key) > 0).all():
        return slice(None)
    order = np.argsort(key)
    if (twice := np.flatnonzero(key[order[1:]] == key[order[:-1]])).size:
        raise DataError(
            f"two candidates of one query share a rank (rank {values[order[twice[0]]]}; {len(twice)} such ranks)"
        )
    return order


def _refuse_twice(query: Ints, candidate: Ints, queries: pd.Index, candidates: pd.Index) -> None:
    pair = np.sort(query * max(len(candidates), 1) + candidate)
    if (twice := np.flatnonzero(pair[1:] == pair[:-1])).size:
        at, what = divmod(int(pair[twice[0]]), len(candidates))
        raise DataError(
            f"candidates has {len(twice)} duplicates: query {queries[at]} lists candidate {candidates[what]} twice"
        )


def _unit_vectors(ids: pd.Index, table: "EmbeddingTable") -> Floats:
    """Vectors of length 1 (U, D); zeros for candidates that the table lacks or has at zero."""
    rows = np.asarray(table.rows(ids))
    unit = np.zeros((len(ids), table.dim))
    unit[rows >= 0] = table.vectors[rows[rows >= 0]]
    norm = np.linalg.norm(unit, axis=1, keepdims=True)
    np.divide(unit, norm, out=unit, where=norm > 0.0)
    return unit


def _entropy(amounts: sparse.csr_matrix) -> Floats:
    """Entropy of each row's amounts, in nats, (Q,); NaN for a row without any."""
    row = np.repeat(np.arange(amounts.shape[0]), np.diff(amounts.indptr))
    total = np.bincount(row, weights=amounts.data, minlength=amounts.shape[0])
    share = amounts.data / total[row]
    entropy = np.bincount(row, weights=-xlogy(share, share), minlength=amounts.shape[0])
    return np.where(total > 0.0, entropy, np.nan)


def _per_query(values: Floats, queries: pd.Index, name: str) -> "pd.Series[float]":
    return pd.Series(values, index=queries.rename("query"), name=name)
