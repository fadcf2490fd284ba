"""Ranking metrics with binary relevance: one value per query first, then the mean.

Every metric here depends only on where the relevant candidates of a list stand. ``Rankings`` holds just that, as
blocks of tied candidates, and each metric is one closed form over blocks: the expected value over the random orders
of every tie, which for a block of one candidate is the textbook definition. Built from

- candidate frames (query, candidate, rank), where the order is given and nothing is tied, or
- scores and labels in groups (sessions), where ``ties`` says what an equal score means.

Rules, for all of them: a query without relevant candidates has no value, is left out and counted (``skipped``); a
query whose list is empty has the value 0; relevant candidates that are in no list stay in the denominator; duplicates
among the relevant pairs count once. The result is an array (Q,) in the order of ``rankings.queries``.

Shapes: Q queries that have relevant candidates, T blocks of ties that hold at least one of them.
"""

__all__ = [
    "Norm",
    "Rankings",
    "TieRule",
    "average_precision_at_k",
    "hit_at_k",
    "ndcg_at_k",
    "precision_at_k",
    "recall_at_k",
    "reciprocal_rank",
]

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import gammaln

from recokit.errors import ConfigError, DataError, closest
from recokit.metrics.arrays import Floats, Ints, as_labels, as_pairs, as_ranks, as_scores, at_least_one, same_ids

TieRule = Literal["expected", "pessimistic", "optimistic", "order"]
Norm = Literal["relevant", "min", "hits"]


@dataclass(frozen=True, eq=False)
class Rankings:
    """Q ranked lists, reduced to where their relevant candidates stand.

    Attributes:
        queries: Ids of the queries that have relevant candidates, (Q,).
        num_relevant: Relevant candidates of each query, listed or not, (Q,).
        num_listed: Length of each query's list, (Q,).
        query: The list of each block of ties, ascending, (T,).
        ahead: Candidates that stand before the block, (T,); ascending within a list.
        size: Candidates in the block, (T,).
        relevant: Relevant candidates in the block, at least 1, (T,).
        skipped: Lists left out because nothing is relevant to their query.
    """

    queries: pd.Index
    num_relevant: Ints
    num_listed: Ints
    query: Ints
    ahead: Ints
    size: Ints
    relevant: Ints
    skipped: int

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def from_candidates(cls, candidates: pd.DataFrame, relevant: pd.DataFrame) -> "Rankings":
        """Judge candidate lists (query, candidate, rank) by relevant pairs (query, candidate).

        Only the order of ``rank`` within a query counts: the ranks of a frame that was filtered close up.

        Raises:
            DataError: A candidate stands twice in one list, two candidates of a list share a rank, an id is missing,
                or one frame has integer ids and the other strings.

        >>> candidates = pd.DataFrame({"query": [7, 7, 8], "candidate": ["a", "b", "a"], "rank": [1, 2, 1]})
        >>> relevant = pd.DataFrame({"query": [7, 7, 9], "candidate": ["b", "z", "a"]})
        >>> rankings = Rankings.from_candidates(candidates, relevant)
        >>> list(rankings.queries), rankings.skipped, recall_at_k(rankings, 10)
        ([7, 9], 1, array([0.5, 0. ]))
        """
        listed = as_pairs(candidates, "candidates", ("query", "candidate", "rank"))
        wanted = as_pairs(relevant, "relevant").drop_duplicates()
        for column in ("query", "candidate"):
            same_ids(listed[column], wanted[column], ("candidates", "relevant"))

        wanted_query, ids = pd.factorize(wanted["query"])
        queries = pd.Index(ids)
        list_of_row, list_ids = pd.factorize(listed["query"])
        list_of_query = pd.Index(list_ids).get_indexer(queries)  # -1: no list
        length = np.bincount(list_of_row, minlength=len(list_ids))
        query_of_list = np.full(len(list_ids), -1)
        query_of_list[list_of_query[list_of_query >= 0]] = np.flatnonzero(list_of_query >= 0)

        hit = _hits(listed, list_of_row, wanted, list_of_query[wanted_query])
        query, ahead = query_of_list[list_of_row[hit]], _ahead(listed["rank"], list_of_row, length, hit)
        order = np.lexsort((ahead, query))
        ones = np.ones(len(hit), dtype=np.int64)
        return cls(
            queries,
            num_relevant=np.bincount(wanted_query, minlength=len(queries)),
            num_listed=np.where(list_of_query >= 0, np.append(length, 0)[list_of_query], 0),
            query=query[order],
            ahead=ahead[order],
            size=ones,
            relevant=ones,
            skipped=int((query_of_list < 0).sum()),
        )

    @classmethod
    def from_scores(
        cls,
        labels: npt.ArrayLike,
        scores: npt.ArrayLike,
        groups: npt.ArrayLike | pd.Series | None = None,
        *,
        ties: TieRule = "expected",
    ) -> "Rankings":
        """Rank the rows of every group by descending score; a row is relevant where its label is 1.

        Args:
            labels: 0 or 1, (n,).
            scores: Higher is better, (n,).
            groups: The query or session of each row, (n,), in any order; None makes all rows one list.
            ties: ``"expected"``: the mean over all orders of the tied rows. ``"pessimistic"`` and ``"optimistic"``:
                the relevant rows last, or first. ``"order"``: as the rows came, which lets a constant scorer win where
                labels are sorted.
        """
        if ties not in get_args(TieRule):
            raise ConfigError(f"unknown tie rule {ties!r}: {closest(ties, get_args(TieRule))}")
        label = as_labels(labels).astype(np.int64)
        score = as_scores(scores, len(label))
        code, ids = _group_codes(groups, len(label))

        key = code * (len(label) + 1) + _descending_level(score)
        if ties in ("pessimistic", "optimistic"):
            key = key * 2 + (label if ties == "pessimistic" else 1 - label)
        order = np.argsort(key, kind="stable")  # stable: rule "order" is the order of the input
        code, key, label = code[order], key[order], label[order]

        num_listed = np.bincount(code, minlength=len(ids))
        num_relevant = np.bincount(code, weights=label, minlength=len(ids)).astype(np.int64)
        tied = ties == "expected"
        start = np.flatnonzero(np.diff(key, prepend=-1) != 0) if tied else np.flatnonzero(label)
        size = np.diff(start, append=len(key)) if tied else np.ones(len(start), dtype=np.int64)
        relevant = np.add.reduceat(label, start) if tied and len(start) else label[start]
        start, size, relevant = start[relevant > 0], size[relevant > 0], relevant[relevant > 0]

        kept = num_relevant > 0
        first_row = np.cumsum(num_listed) - num_listed
        query = (np.cumsum(kept) - 1)[code[start]]
        return cls(
            ids[kept],
            num_relevant[kept],
            num_listed[kept],
            query,
            start - first_row[code[start]],
            size,
            relevant,
            int((~kept).sum()),
        )

    def relevant_ahead(self) -> Ints:
        """Relevant candidates before each block in its own list, (T,)."""
        before = np.cumsum(self.relevant) - self.relevant
        first = np.searchsorted(self.query, self.query)
        return before - before[first]

    def total(self, values: npt.NDArray[np.floating]) -> Floats:
        """Sum ``values`` (T,) of blocks over each list, (Q,)."""
        sums: Floats = np.bincount(self.query, weights=values, minlength=len(self)).astype(np.float64)
        return sums


def recall_at_k(rankings: Rankings, k: int, *, capped: bool = False) -> Floats:
    """Recall at ``k``: relevant candidates among the first ``k``, over all relevant ones.

    ``|top_k ∩ relevant| / |relevant|``; ``capped`` divides by ``min(k, |relevant|)``, so that a perfect list of ``k``
    reaches 1 (RecPack's calibrated recall), and is to be named ``recall@k[capped]``.
    """
    found = rankings.total(_expected_hits(rankings, at_least_one(k)))
    return found / (np.minimum(rankings.num_relevant, k) if capped else rankings.num_relevant)


def precision_at_k(rankings: Rankings, k: int) -> Floats:
    """Precision at ``k``: ``|top_k ∩ relevant| / k``, also where a list is shorter than ``k``."""
    return rankings.total(_expected_hits(rankings, at_least_one(k))) / k


def hit_at_k(rankings: Rankings, k: int) -> Floats:
    """Hit (success) at ``k``: 1 if a relevant candidate is among the first ``k``.

    Of a tie that straddles ``k``, the probability of it: ``1 - C(size - m, relevant) / C(size, relevant)`` with ``m``
    of its places inside.
    """
    first = _first_blocks(rankings)
    size, relevant = rankings.size[first], rankings.relevant[first]
    inside = np.clip(at_least_one(k) - rankings.ahead[first], 0, size)
    # C(size - m, r) / C(size, r) = [(size - m)! (size - r)!] / [(size - m - r)! size!], which is 0 where size - m < r.
    room = np.maximum(size - inside - relevant, 0)
    log_missed = gammaln(size - inside + 1) + gammaln(size - relevant + 1) - gammaln(room + 1) - gammaln(size + 1)
    missed = np.where(size - inside < relevant, 0.0, np.where(inside == 0, 1.0, np.exp(log_missed)))
    return _place(rankings, first, 1.0 - missed)


def reciprocal_rank(rankings: Rankings, k: int | None = None) -> Floats:
    """Reciprocal rank: 1 / rank of the first relevant candidate, 0 without one; its mean is MRR.

    With ``k``, 0 beyond rank ``k``; its mean is to be named ``mrr@k``. The rank of a tie is its mean rank over all
    orders, ``ahead + (size + 1) / (relevant + 1)``: mid-rank where one of the tied candidates is relevant.
    """
    first = _first_blocks(rankings)
    rank = rankings.ahead[first] + (rankings.size[first] + 1) / (rankings.relevant[first] + 1)
    values = 1.0 / rank
    if k is not None:
        values = np.where(rank <= at_least_one(k), values, 0.0)
    return _place(rankings, first, values)


def ndcg_at_k(rankings: Rankings, k: int | None = None) -> Floats:
    """NDCG at ``k`` with binary gain and log2 discount (Järvelin and Kekäläinen 2002).

    ``sum over hits at rank r <= k of 1 / log2(r + 1)``, over the same sum of a list that has its
    ``min(k, |relevant|)`` relevant candidates first.
    """
    longest = _longest(rankings, k)
    discount = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, longest + 2)))])  # of the first n places
    end = np.minimum(rankings.ahead + rankings.size, longest)
    gain = discount[end] - discount[np.minimum(rankings.ahead, longest)]
    # The difference of two sums loses digits that a block of one need not lose.
    gain = np.where((rankings.size == 1) & (gain > 0.0), 1.0 / np.log2(rankings.ahead + 2), gain)
    ideal: Floats = discount[np.minimum(rankings.num_relevant, longest)]
    return rankings.total(gain * rankings.relevant / rankings.size) / ideal


def average_precision_at_k(rankings: Rankings, k: int | None = None, *, norm: Norm = "relevant") -> Floats:
    """Average precision, to ``k`` where given; its mean is MAP, to be named with its norm: ``map@10[rel]``.

    ``sum over hits at rank r <= k of precision@r``, over what ``norm`` says: ``"relevant"``, all relevant candidates;
    ``"min"``, ``min(k, |relevant|)``; ``"hits"``, the hits found (0 without any).

    A tie of ``size`` candidates behind ``a`` others, ``N`` of them relevant, contributes its expected value (McSherry
    and Najork 2008, section 3): a place is relevant with probability ``relevant / size``, and then of the ``i - 1``
    places before it in the tie a share of ``(relevant - 1) / (size - 1)`` is, so the sum over places ``i`` of

        relevant / size * (N + 1 + (i - 1) * (relevant - 1) / (size - 1)) / (a + i).

    With ``norm="hits"`` a tie that straddles ``k`` gives the ratio of the two expectations.
    """
    if norm not in get_args(Norm):
        raise ConfigError(f"unknown norm {norm!r}: {closest(norm, get_args(Norm))}")
    longest = _longest(rankings, k)
    ahead, size, relevant = rankings.ahead, rankings.size, rankings.relevant
    inside = np.clip(longest - ahead, 0, size)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, longest + 1))])
    within = harmonic[np.minimum(ahead + inside, longest)] - harmonic[np.minimum(ahead, longest)]  # sum 1 / (a + i)
    within = np.where(size == 1, inside / (ahead + 1), within)
    neighbours = inside - (ahead + 1) * within  # sum (i - 1) / (a + i)
    share = (relevant - 1) / np.maximum(size - 1, 1)
    total = rankings.total(relevant / size * ((rankings.relevant_ahead() + 1) * within + share * neighbours))
    if norm == "hits":
        found = rankings.total(_expected_hits(rankings, longest))
        return np.divide(total, found, out=np.zeros_like(total), where=found > 0.0)
    return total / (np.minimum(rankings.num_relevant, k) if norm == "min" and k else rankings.num_relevant)


def _hits(listed: pd.DataFrame, list_of_row: Ints, wanted: pd.DataFrame, list_of_wanted: Ints) -> Ints:
    """Rows of ``listed`` that are wanted pairs; a list of -1 is none."""
    candidate, ids = pd.factorize(listed["candidate"])
    pair = list_of_row * len(ids) + candidate
    order = np.argsort(pair)
    pair = pair[order]
    if (twice := np.flatnonzero(pair[1:] == pair[:-1])).size:
        row = listed.iloc[order[twice[0]]]
        raise DataError(
            f"candidates has {len(twice)} duplicates: query {row['query']} lists candidate {row['candidate']} twice"
        )
    wanted_candidate = pd.Index(ids).get_indexer(pd.Index(wanted["candidate"]))  # -1: in no list
    could_be = (list_of_wanted >= 0) & (wanted_candidate >= 0)
    wanted_pair = np.sort((list_of_wanted * len(ids) + wanted_candidate)[could_be])
    at = np.searchsorted(pair, wanted_pair)  # sorted needles: ten times faster, by the cache
    at, wanted_pair = at[at < len(pair)], wanted_pair[at < len(pair)]
    return np.sort(order[at[pair[at] == wanted_pair]])


def _ahead(rank: pd.Series, list_of_row: Ints, length: Ints, hit: Ints) -> Ints:
    """Count the candidates of better rank in the lists of the rows ``hit``."""
    values = as_ranks(rank)
    key = list_of_row * (int(values.max(initial=0)) + 1) + values
    ordered = np.sort(key)
    if (twice := np.flatnonzero(ordered[1:] == ordered[:-1])).size:
        row = int(np.flatnonzero(key == ordered[twice[0]])[0])
        raise DataError(f"two candidates of one query share a rank (rank {values[row]}; {len(twice)} such ranks)")
    first = np.cumsum(length) - length
    place: Ints = np.searchsorted(ordered, key[hit]) - first[list_of_row[hit]]
    return place


def _group_codes(groups: npt.ArrayLike | pd.Series | None, n: int) -> tuple[Ints, pd.Index]:
    if groups is None:
        return np.zeros(n, dtype=np.int64), pd.Index([0] if n else [], dtype=np.int64)
    column = pd.Series(groups)
    if len(column) != n:
        raise DataError(f"groups have to be as many as labels: {len(column)} and {n}")
    if column.isna().any():
        raise DataError(f"groups have {int(column.isna().sum())} missing values")
    code, ids = pd.factorize(column)
    return code.astype(np.int64), pd.Index(ids)


def _descending_level(score: Floats) -> Ints:
    """Number the distinct scores from the highest, 0, and give every row its number."""
    order = np.argsort(-score)
    ordered = score[order]
    level = np.empty(len(score), dtype=np.int64)
    # Compared, not subtracted: inf - inf is NaN.
    level[order] = np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]])[: len(score)])
    return level


def _expected_hits(rankings: Rankings, k: int) -> Floats:
    return rankings.relevant * np.clip(k - rankings.ahead, 0, rankings.size) / rankings.size


def _first_blocks(rankings: Rankings) -> Ints:
    """Blocks that hold the first relevant candidate of a list."""
    return np.flatnonzero(np.diff(rankings.query, prepend=-1))


def _place(rankings: Rankings, block: Ints, values: Floats) -> Floats:
    placed = np.zeros(len(rankings))
    placed[rankings.query[block]] = values
    return placed


def _longest(rankings: Rankings, k: int | None) -> int:
    """Return ``k``, cut to the longest list or relevant set: no place beyond it can count."""
    longest = max(1, int(rankings.num_listed.max(initial=0)), int(rankings.num_relevant.max(initial=0)))
    return longest if k is None else min(at_least_one(k), longest)
