"""Candidate lists against relevant pairs. A new metric is a line in ``_metrics``. Shapes: Q queries, M metrics."""

__all__ = ["compare_candidates", "evaluate_candidates"]

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recokit.errors import DataError
from recokit.evaluate.measured import Measured, measure, said_of_intervals
from recokit.frame import drop_seen
from recokit.metrics import (
    Rankings,
    average_precision_at_k,
    catalog_coverage,
    hit_at_k,
    ndcg_at_k,
    recall_at_k,
    reciprocal_rank,
)
from recokit.metrics.arrays import Floats, as_pairs, at_least_one, same_ids
from recokit.metrics.lists import catalog_ids
from recokit.report import Report, Result, gather_provenance

if TYPE_CHECKING:
    from recokit.metrics.lists import Catalog


def evaluate_candidates(
    candidates: pd.DataFrame,
    relevant: pd.DataFrame,
    *,
    k: int | Sequence[int] = (10, 100),
    name: str = "candidates",
    catalog: "Catalog | None" = None,
    seen: pd.DataFrame | None = None,
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    bootstrap: int = 1000,
    data: Mapping[str, str] | None = None,
) -> Report:
    """Evaluate candidate lists: recall, hit, NDCG, MAP at each ``k``, MRR, and the coverage of the catalog.

    Means over all queries of ``relevant``: a query without candidates counts 0, one without relevant candidates is
    skipped, and relevant candidates that no list holds stay in the denominators. ``mrr`` is over the lists as they
    come, whose greatest length the protocol says.

    Args:
        candidates: Columns query, candidate and rank.
        relevant: Pairs query, candidate.
        k: Cut-offs.
        name: Of the system, in the report.
        catalog: Ids of all items, or their EmbeddingTable; without it no coverage. Coverage has no interval: resampled
            queries always reach fewer items.
        seen: Pairs query, candidate that are left out of the lists, whose ranks close up; never out of ``relevant``.
        protocol: What only the caller knows, such as ``{"split": "last 20 % by time"}``.
        seed: Seed of the training run.
        bootstrap: Number of resamples of queries.
        data: Hashes of the data, for the provenance.
    """
    cutoffs = _cutoffs(k)
    items = None if catalog is None else catalog_ids(catalog)
    lists, filtered = _without(candidates, seen)
    rankings = Rankings.from_candidates(lists, relevant)
    measured = _measure(rankings, cutoffs, bootstrap)
    said = {**_protocol(rankings, filtered, bootstrap), **_outside(relevant, items), **(protocol or {})}
    results = measured.results(name, protocol=said, seed=seed)
    if items is not None:
        for cutoff in cutoffs:
            share = catalog_coverage(lists, items, k=cutoff)
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
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    bootstrap: int = 1000,
    data: Mapping[str, str] | None = None,
) -> Report:
    """Differences ``a - b`` of the metrics of ``evaluate_candidates``, paired by query.

    An interval that excludes 0 is a difference at the 5 % level; the two systems' own intervals may overlap even so.
    """
    cutoffs = _cutoffs(k)
    (lists_a, filtered_a), (lists_b, filtered_b) = _without(a, seen), _without(b, seen)
    rankings_a, rankings_b = Rankings.from_candidates(lists_a, relevant), Rankings.from_candidates(lists_b, relevant)
    difference = _measure(rankings_a, cutoffs, bootstrap) - _measure(rankings_b, cutoffs, bootstrap)
    said_a, said_b = _protocol(rankings_a, filtered_a, bootstrap), _protocol(rankings_b, filtered_b, bootstrap)
    said = {key: value if value == said_b[key] else f"{value} - {said_b[key]}" for key, value in said_a.items()}
    said = {**said, "difference": "paired by query", **(protocol or {})}
    return Report(difference.results(" - ".join(names), protocol=said, seed=seed), gather_provenance(data))


def _cutoffs(k: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(at_least_one(cutoff) for cutoff in (k if np.iterable(k) else (k,))))


def _metrics(rankings: Rankings, cutoffs: Sequence[int]) -> dict[str, Floats]:
    """Values per query, (Q,), by metric name."""
    return {
        **{f"recall@{k}": recall_at_k(rankings, k) for k in cutoffs},
        **{f"hit@{k}": hit_at_k(rankings, k) for k in cutoffs},
        **{f"ndcg@{k}": ndcg_at_k(rankings, k) for k in cutoffs},
        **{f"map@{k}[rel]": average_precision_at_k(rankings, k) for k in cutoffs},
        "mrr": reciprocal_rank(rankings),
    }


def _measure(rankings: Rankings, cutoffs: Sequence[int], samples: int) -> Measured:
    queries = len(rankings)
    if not queries:
        raise DataError("relevant has no pairs: there is nothing to evaluate")
    values = _metrics(rankings, cutoffs)
    matrix = np.stack(list(values.values()))  # (M, Q)

    def means(multiplicity: Floats) -> Floats:
        summed: Floats = np.einsum("q,mq->m", multiplicity, matrix)
        return summed / queries

    return measure(means, queries, metrics=list(values), counts=[queries] * len(values), samples=samples)


def _without(candidates: pd.DataFrame, seen: pd.DataFrame | None) -> tuple[pd.DataFrame, str]:
    """Leave the seen pairs out of the lists, and say so."""
    if seen is None:
        return candidates, "none"
    pair = ("query", "candidate")
    listed, pairs = as_pairs(candidates, "candidates", pair), as_pairs(seen, "seen", pair)
    for column in pair:
        same_ids(listed[column], pairs[column], ("candidates", "seen"))
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


def _outside(relevant: pd.DataFrame, items: pd.Index | None) -> dict[str, Any]:
    """Count the relevant pairs that no list can hold: misses for everybody."""
    if items is None:
        return {}
    pairs = relevant[["query", "candidate"]].drop_duplicates()
    same_ids(pairs["candidate"], pd.Series(items), ("relevant", "the catalog"))
    outside = items.get_indexer(pd.Index(pairs["candidate"])) < 0
    return {"relevant_outside_catalog": f"{int(outside.sum())} of {len(pairs)} pairs"}
