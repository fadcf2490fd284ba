"""Metrics with stated ties, empties and denominators, in NumPy float64.

- ``ranking``: recall, precision, hit, reciprocal rank, NDCG and average precision, per query
- ``auc``: ROC-AUC, pooled and per group, and PR-AUC
- ``classification``: log loss, NE, RCE, NRCE, calibration
- ``lists``: catalog coverage; diversity: similarity within lists, categories and interests covered, overlap of lists
- ``bootstrap``: intervals, of means over queries, of paired differences, of any weighted statistic

Ranking metrics are arrays with one value per query; their mean is the metric that papers print, and the array is what
a paired bootstrap needs.

>>> import pandas as pd
>>> candidates = pd.DataFrame({"query": ["u", "u"], "candidate": ["a", "b"], "rank": [1, 2]})
>>> relevant = pd.DataFrame({"query": ["u"], "candidate": ["b"]})
>>> float(reciprocal_rank(Rankings.from_candidates(candidates, relevant)).mean())
0.5
"""

from recokit.metrics.auc import GroupAUC, GroupWeight, ScoreOrder, group_auc, pr_auc, roc_auc
from recokit.metrics.bootstrap import (
    Interval,
    bootstrap_mean,
    bootstrap_samples,
    bootstrap_statistic,
    interval,
    paired_bootstrap,
)
from recokit.metrics.classification import (
    calibration,
    cross_entropy,
    log_loss,
    normalized_entropy,
    nrce,
    prior_log_loss,
    rce,
    reliability_table,
    undo_downsampling,
)
from recokit.metrics.lists import (
    CandidateLists,
    Categories,
    catalog_coverage,
    categories_covered,
    category_entropy,
    interest_entropy,
    intra_list_distance,
    intra_list_similarity,
    list_overlap,
    relevant_interests_covered,
)
from recokit.metrics.ranking import (
    Norm,
    Rankings,
    TieRule,
    average_precision_at_k,
    hit_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
)

__all__ = [
    "CandidateLists",
    "Categories",
    "GroupAUC",
    "GroupWeight",
    "Interval",
    "Norm",
    "Rankings",
    "ScoreOrder",
    "TieRule",
    "average_precision_at_k",
    "bootstrap_mean",
    "bootstrap_samples",
    "bootstrap_statistic",
    "calibration",
    "catalog_coverage",
    "categories_covered",
    "category_entropy",
    "cross_entropy",
    "group_auc",
    "hit_at_k",
    "interest_entropy",
    "interval",
    "intra_list_distance",
    "intra_list_similarity",
    "list_overlap",
    "log_loss",
    "ndcg_at_k",
    "normalized_entropy",
    "nrce",
    "paired_bootstrap",
    "pr_auc",
    "precision_at_k",
    "prior_log_loss",
    "rce",
    "recall_at_k",
    "reciprocal_rank",
    "relevant_interests_covered",
    "reliability_table",
    "roc_auc",
    "undo_downsampling",
]
