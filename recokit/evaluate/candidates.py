"""Candidate lists against relevant pairs, and what lists are like: how diverse, and how much like other lists.

A new metric is a line in ``_metrics``, or in ``_Aspects.metrics`` where it needs more than where the relevant
candidates stand. Shapes: Q queries, M metrics.
"""

__all__ = ["compare_candidates", "evaluate_candidates"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recokit.errors import DataError
from recokit.evaluate.measured import Measured, measure, said_of_intervals
from recokit.frame import drop_seen
from recokit.metrics import (
    CandidateLists,
    Categories,
    Rankings,
    average_precision_at_k,
    catalog_coverage,
    categories_covered,
    category_entropy,
    hit_at_k,
    interest_entropy,
    intra_list_distance,
    list_overlap,
    ndcg_at_k,
    recall_at_k,
    reciprocal_rank,
    relevant_interests_covered,
)
from recokit.metrics.arrays import Floats, as_pairs, at_least_one, same_ids
from recokit.metrics.lists import catalog_ids
from recokit.report import Report, Result, gather_provenance

if TYPE_CHECKING:
    from recokit.metrics.lists import Catalog
    from recokit.table import EmbeddingTable


def evaluate_candidates(
    candidates: pd.DataFrame,
    relevant: pd.DataFrame,
    *,
    k: int | Sequence[int] = (10, 100),
    name: str = "candidates",
    catalog: "Catalog | None" = None,
    seen: pd.DataFrame | None = None,
    vectors: "EmbeddingTable | None" = None,
    categories: pd.DataFrame | None = None,
    baseline: pd.DataFrame | None = None,
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    bootstrap: int = 1000,
    data: Mapping[str, str] | None = None,
) -> Report:
    """Evaluate candidate lists: recall, hit, NDCG, MAP at each ``k``, MRR, and the coverage of the catalog.

    Means over all queries of ``relevant``: a query without candidates counts 0, one without relevant candidates is
    skipped, and relevant candidates that no list holds stay in the denominators. ``mrr`` is over the lists as they
    come, whose greatest length the protocol says.

    More is said of the lists where there is something to say it with, at each ``k`` and over the same queries:

    - with ``vectors``, ``intra_list_distance``: the mean of 1 - cosine over the pairs of a list
    - with ``categories``, ``categories`` (how many a list covers), ``category_entropy`` (in nats), and
      ``relevant_interests_covered``: the share of the categories of a query's relevant candidates that it covers
    - with a column ``component``, ``interest_entropy``: how evenly the components of a query share its list, in nats
    - with ``baseline``, ``overlap``: the share of a list that is also in the query's baseline list

    A query without a value (a list of one has no pairs, an empty list no entropy) is left out of these means and of
    their resamples; ``n`` says how many queries have one, and the protocol how many of which metric have none.

    Args:
        candidates: Columns query, candidate and rank, and component where they come from a mixture.
        relevant: Pairs query, candidate.
        k: Cut-offs.
        name: Of the system, in the report.
        catalog: Ids of all items, or their EmbeddingTable; without it no coverage. Coverage has no interval: resampled
            queries always reach fewer items.
        seen: Pairs query, candidate that are left out of the lists, whose ranks close up; never out of ``relevant``.
        vectors: Vectors of candidates, whose distances count; any table of them, of whatever version.
        categories: Columns candidate and category, a row for each category (genre, cluster) that a candidate is in.
        baseline: Other lists of these queries, such as a single vector's: columns query, candidate and rank. Seen
            pairs are left out of them too.
        protocol: What only the caller knows, such as ``{"split": "last 20 % by time"}``.
        seed: Seed of the training run.
        bootstrap: Number of resamples of queries.
        data: Hashes of the data, for the provenance.
    """
    cutoffs = _cutoffs(k)
    items = None if catalog is None else catalog_ids(catalog)
    lists, filtered = _without(candidates, seen)
    rankings = _rankings(lists, relevant)
    measured = _measure(_metrics(rankings, cutoffs), len(rankings), bootstrap)
    said = {**_protocol(rankings, filtered, bootstrap), **_outside(relevant, items), **(protocol or {})}
    results = measured.results(name, protocol=said, seed=seed)
    aspects = _Aspects.of(vectors, categories, baseline, seen)
    numbered = aspects.numbered(lists)
    if values := aspects.metrics(numbered, relevant, rankings.queries, cutoffs):
        more = {**said, **aspects.protocol(numbered), **_left_out(values)}
        results += _measure(values, len(rankings), bootstrap).results(name, protocol=more, seed=seed)
    if items is not None:
        listed = CandidateLists.of(lists) if numbered is None else numbered  # once, for all cut-offs
        for cutoff in cutoffs:
            share = catalog_coverage(listed, items, k=cutoff)
            results.append(Result(name, f"catalog_coverage@{cutoff}", share, n=len(items), seed=seed, protocol=said))
    return Report(results, gather_provenance(data))


def compare_candidates(
    a: pd.DataFrame,
    b: pd.DataFrame,
    relevant: pd.DataFrame,
    *,
    k: int | Sequence[int] = (10, 100),
    names: tuple[str, str] = ("a", "b"),
    seen: pd.DataFrame | None = None,
    vectors: "EmbeddingTable | None" = None,
    categories: pd.DataFrame | None = None,
    baseline: pd.DataFrame | None = None,
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    bootstrap: int = 1000,
    data: Mapping[str, str] | None = None,
) -> Report:
    """Differences ``a - b`` of the metrics of ``evaluate_candidates``, paired by query.

    An interval that excludes 0 is a difference at the 5 % level; the two systems' own intervals may overlap even so. A
    metric of diversity is over the queries for which both have a value; ``interest_entropy`` needs the column
    component in both frames; of ``overlap`` it is the difference of each system's overlap with ``baseline``.
    """
    cutoffs = _cutoffs(k)
    (lists_a, filtered_a), (lists_b, filtered_b) = _without(a, seen), _without(b, seen)
    rankings_a, rankings_b = _rankings(lists_a, relevant), _rankings(lists_b, relevant)
    queries = len(rankings_a)
    difference = _measure(_metrics(rankings_a, cutoffs), queries, bootstrap) - _measure(
        _metrics(rankings_b, cutoffs), queries, bootstrap
    )
    said_a, said_b = _protocol(rankings_a, filtered_a, bootstrap), _protocol(rankings_b, filtered_b, bootstrap)
    said = {**_both(said_a, said_b), "difference": "paired by query", **(protocol or {})}
    results = difference.results(" - ".join(names), protocol=said, seed=seed)
    aspects = _Aspects.of(vectors, categories, baseline, seen)
    numbered = [aspects.numbered(lists) for lists in (lists_a, lists_b)]
    values_a, values_b = _paired(*(aspects.metrics(lists, relevant, rankings_a.queries, cutoffs) for lists in numbered))
    if values_a:
        more = {**said, **_both(*map(aspects.protocol, numbered)), **_left_out(values_a)}
        difference = _measure(values_a, queries, bootstrap) - _measure(values_b, queries, bootstrap)
        results += difference.results(" - ".join(names), protocol=more, seed=seed)
    return Report(results, gather_provenance(data))


@dataclass(frozen=True, eq=False)
class _Aspects:
    """What there is to say of lists with, besides the relevant pairs."""

    vectors: "EmbeddingTable | None"
    categories: Categories | None
    baseline: CandidateLists | None

    @classmethod
    def of(
        cls,
        vectors: "EmbeddingTable | None",
        categories: pd.DataFrame | None,
        baseline: pd.DataFrame | None,
        seen: pd.DataFrame | None,
    ) -> "_Aspects":
        return cls(
            vectors,
            None if categories is None else Categories.of(categories),
            None if baseline is None else CandidateLists.of(_without(baseline, seen, "baseline")[0]),
        )

    def numbered(self, candidates: pd.DataFrame) -> CandidateLists | None:
        """The lists, or None where there is nothing to say of them."""
        given = any(each is not None for each in (self.vectors, self.categories, self.baseline))
        return CandidateLists.of(candidates) if given or "component" in candidates.columns else None

    def metrics(
        self, lists: CandidateLists | None, relevant: pd.DataFrame, queries: pd.Index, cutoffs: Sequence[int]
    ) -> dict[str, Floats]:
        """Values per query, (Q,), by metric name; NaN for a query without one."""
        if lists is None:
            return {}
        made: dict[str, Callable[..., pd.Series[float]]] = {}
        if self.vectors is not None:
            made["intra_list_distance"] = partial(intra_list_distance, lists, self.vectors)
        if self.categories is not None:
            made["categories"] = partial(categories_covered, lists, self.categories)
            made["category_entropy"] = partial(category_entropy, lists, self.categories)
            made["relevant_interests_covered"] = partial(relevant_interests_covered, lists, relevant, self.categories)
        if lists.component is not None:
            made["interest_entropy"] = partial(interest_entropy, lists)
        if self.baseline is not None:
            made["overlap"] = partial(list_overlap, lists, self.baseline)
        values: dict[str, Floats] = {}
        for name, metric in made.items():
            empty = 0.0 if name == "categories" else np.nan  # no list covers no category, but has no entropy
            for k in cutoffs:
                values[f"{name}@{k}"] = np.asarray(metric(k=k).reindex(queries, fill_value=empty), np.float64)
        return values

    def protocol(self, lists: CandidateLists | None) -> dict[str, Any]:
        """What the metrics were made with, and how many listed candidates that did not know."""
        if lists is None:
            return {}
        said: dict[str, Any] = {}
        if self.vectors is not None:
            without = int((np.asarray(self.vectors.rows(lists.candidates)) < 0).sum())
            named = f"{self.vectors.entity} of version {self.vectors.version}"
            said["vectors"] = f"{named}, without {without} of {len(lists.candidates)} listed candidates"
        if self.categories is not None:
            without = int((np.diff(self.categories.of_candidates(lists.candidates).indptr) == 0).sum())
            num, listed = len(self.categories.names), len(lists.candidates)
            said["categories"] = f"{num}, with {without} of {listed} listed candidates in none"
        if self.baseline is not None:
            said["baseline"] = f"lists of at most {int(self.baseline.length.max(initial=0))}"
        return said


def _cutoffs(k: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(at_least_one(cutoff) for cutoff in (k if np.iterable(k) else (k,))))


def _rankings(candidates: pd.DataFrame, relevant: pd.DataFrame) -> Rankings:
    rankings = Rankings.from_candidates(candidates, relevant)
    if not len(rankings):
        raise DataError("relevant has no pairs: there is nothing to evaluate")
    return rankings


def _metrics(rankings: Rankings, cutoffs: Sequence[int]) -> dict[str, Floats]:
    """Values per query, (Q,), by metric name."""
    return {
        **{f"recall@{k}": recall_at_k(rankings, k) for k in cutoffs},
        **{f"hit@{k}": hit_at_k(rankings, k) for k in cutoffs},
        **{f"ndcg@{k}": ndcg_at_k(rankings, k) for k in cutoffs},
        **{f"map@{k}[rel]": average_precision_at_k(rankings, k) for k in cutoffs},
        "mrr": reciprocal_rank(rankings),
    }


def _measure(values: Mapping[str, Floats], queries: int, samples: int) -> Measured:
    """Means of values per query, (Q,), by metric name; a query without a value is left out of that metric's mean."""
    matrix = np.stack(list(values.values()))  # (M, Q)
    there = ~np.isnan(matrix)
    partly = np.flatnonzero(~there.all(axis=1))  # metrics that not every query has
    present = there[partly].astype(np.float64)
    matrix[partly] = np.where(there[partly], matrix[partly], 0.0)

    def means(multiplicity: Floats) -> Floats:
        summed: Floats = np.einsum("q,mq->m", multiplicity, matrix)
        size = np.full(len(matrix), float(queries))
        size[partly] = np.einsum("q,mq->m", multiplicity, present)
        mean: Floats = np.divide(summed, size, out=np.full(len(matrix), np.nan), where=size > 0.0)
        return mean

    return measure(means, queries, metrics=list(values), counts=there.sum(axis=1).tolist(), samples=samples)


def _paired(a: Mapping[str, Floats], b: Mapping[str, Floats]) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Keep the metrics that both systems have, and of those the queries for which both have a value."""
    shared = [metric for metric in a if metric in b]
    missing = {metric: np.isnan(a[metric]) | np.isnan(b[metric]) for metric in shared}
    first, second = ({metric: np.where(missing[metric], np.nan, of[metric]) for metric in shared} for of in (a, b))
    return first, second


def _without(candidates: pd.DataFrame, seen: pd.DataFrame | None, name: str = "candidates") -> tuple[pd.DataFrame, str]:
    """Leave the seen pairs out of the lists, and say so."""
    if seen is None:
        return candidates, "none"
    pair = ("query", "candidate")
    listed, pairs = as_pairs(candidates, name, pair), as_pairs(seen, "seen", pair)
    for column in pair:
        same_ids(listed[column], pairs[column], (name, "seen"))
    lists, num_dropped = drop_seen(candidates, pairs, on=pair)
    return lists, f"seen pairs left out of the lists ({num_dropped} of {len(candidates)} rows)"


def _protocol(rankings: Rankings, filtered: str, samples: int) -> dict[str, Any]:
    return {
        "candidates": f"lists of at most {int(rankings.num_listed.max())}",
        "filter": filtered,
        "ties": "none, by rank",
        "denominator": "all relevant candidates, listed or not",
        "relevant_per_query": float(rankings.num_relevant.mean()),
        "skipped_queries": rankings.skipped,
        "queries_without_candidates": int((rankings.num_listed == 0).sum()),
        "interval": said_of_intervals("queries", samples),
    }


def _both(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """What two protocols with the same keys say: once where they agree."""
    return {key: value if value == b[key] else f"{value} - {b[key]}" for key, value in a.items()}


def _left_out(values: Mapping[str, Floats]) -> dict[str, str]:
    """Count the queries that are in no mean, for the metrics that have some."""
    without = {metric: int(np.isnan(of).sum()) for metric, of in values.items()}
    said = ", ".join(f"{metric} {num}" for metric, num in without.items() if num)
    return {"queries_without_a_value": said} if said else {}


def _outside(relevant: pd.DataFrame, items: pd.Index | None) -> dict[str, Any]:
    """Count the relevant pairs that no list can hold: misses for everybody."""
    if items is None:
        return {}
    pairs = relevant[["query", "candidate"]].drop_duplicates()
    same_ids(pairs["candidate"], pd.Series(items), ("relevant", "the catalog"))
    outside = items.get_indexer(pd.Index(pairs["candidate"])) < 0
    return {"relevant_outside_catalog": f"{int(outside.sum())} of {len(pairs)} pairs"}
