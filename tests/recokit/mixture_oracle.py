"""Mixtures as the papers have them, one query at a time, in dictionaries and fractions: what fast versions must equal.

A list is [(item, alpha, score), ...], best first.
"""

from fractions import Fraction

import numpy as np
from index_oracle import all_scores


def component_lists(scores, holders, k, most, *, excluded=(), allowed=None, kernel=None, largest=False):
    """Section 3.5 up to alpha(c), for one component of a query.

    scores: {row: score}; holders: {item: {row: weight}}; most: C_d; kernel: None for items of one vector.
    """
    wanted = [item for item in holders if item not in excluded and (allowed is None or item in allowed)]
    searched = {row for item in wanted for row in holders[item]}
    retrieved = sorted(searched, key=lambda row: (-scores[row], row))[: k * most]
    found = {}
    for item in wanted:
        mine = [row for row in retrieved if row in holders[item]]
        if not mine:
            continue
        best = scores[mine[0]]
        if kernel is None:
            found[item] = (best, best)
            continue
        floor = float(scores[retrieved[-1]])
        alpha = {"zero": lambda s: (1 + float(s)) / 2, "floor": lambda s: float(s) - floor}[kernel]  # noqa: B023
        if largest:
            value = max(alpha(scores[row]) if holders[item][row] > 0 else 0.0 for row in mine)
        else:
            value = sum(float(holders[item][row]) * alpha(scores[row]) for row in mine)
        found[item] = (np.float32(value), best)
    ranked = sorted(found, key=lambda item: (-found[item][0], item))[:k]
    return [(item, *found[item]) for item in ranked]


def allocated(lists, weights, k, allocation):
    """Return [(item, score, component)], of lists of components; an item is its row."""
    weights = [Fraction(float(w)) for w in weights]
    live = {c: found for c, found in enumerate(lists) if weights[c] > 0}
    if allocation == "proportional":
        return proportional(live, weights, k)
    best = {}
    for c, found in live.items():
        for r, (item, alpha, score) in enumerate(found, start=1):
            value = {
                "round_robin": lambda: (weights[c] / r,),  # noqa: B023
                "sainte_lague": lambda: (weights[c] / (r - Fraction(1, 2)),),  # noqa: B023
                "min_one": lambda: (r == 1, weights[c] / r),  # noqa: B023
                "max_score": lambda: (score,),  # noqa: B023
            }[allocation]()
            tie = 0 if allocation == "max_score" else -alpha
            key = (*(-v for v in map(Fraction, map(float, value[:-1]))), -value[-1], tie, item, c)
            best[item] = min(best.get(item, (key, score)), (key, score))
    return [(key[-2], score, key[-1]) for key, score in sorted(best.values())[:k]]


def hamilton(weights, k):
    total = sum(weights)
    shares = [k * w / total for w in weights]
    seats = [int(share) for share in shares]
    by_remainder = sorted((c for c in range(len(weights)) if weights[c] > 0), key=lambda c: (seats[c] - shares[c], c))
    for c in by_remainder[: k - sum(seats)]:
        seats[c] += 1
    return seats


def proportional(live, weights, k):
    seats = hamilton(weights, k)
    owner = {}
    for c, found in live.items():
        for r, (item, _, _) in enumerate(found, start=1):
            owner[item] = min(owner.get(item, (r, -weights[c], c)), (r, -weights[c], c))
    own = {c: [each for each in found if owner[each[0]][2] == c] for c, found in live.items()}
    taken, left = [], []
    for c, found in own.items():
        for place, (item, alpha, score) in enumerate(found, start=1):
            key = (-weights[c] / (place - Fraction(1, 2)), -alpha, item)
            (taken if place <= seats[c] else left).append((key, item, score, c))
    taken += sorted(left)[: k - len(taken)]
    return [(item, score, c) for _, item, score, c in sorted(taken)]


def dictionary_mixtures(queries, table, holders, k, *, most=1, excluded=None, allowed=None, kernel=None, **choices):
    """Return the records of a frame without ids: (query, item, score, rank, component).

    queries: [(vectors (C, D), weights (C,))], without the components that are not there.
    """
    allocation, largest = choices.get("allocation", "round_robin"), choices.get("aggregate") == "max"
    records = []
    for query, (vectors, weights) in enumerate(queries):
        lists = [
            component_lists(
                dict(enumerate(row)),
                holders,
                k,
                most,
                excluded=() if excluded is None else excluded[query],
                allowed=allowed,
                kernel=kernel,
                largest=largest,
            )
            for row in all_scores(table, vectors)
        ]
        found = allocated(lists, weights, k, allocation)
        records += [(query, item, score, rank, c) for rank, (item, score, c) in enumerate(found, start=1)]
    return records
