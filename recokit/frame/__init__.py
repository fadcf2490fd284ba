"""Interaction logs as pandas frames: reading with checked columns, splits that do not leak, and the frame conventions.

    interactions   source, target[, weight][, time]        any event between two entities
    pairs          query, candidate                        what is relevant, or what is to be excluded
    candidates     query, candidate, score, rank           a list for each query; rank starts at 1

Ids are int64 or strings and never null: an empty cell must not turn a column of integers into floats without a word.
"""

__all__ = [
    "Filtered",
    "SampledNegatives",
    "check_candidates",
    "check_pairs",
    "drop_cold",
    "drop_seen",
    "missing_column",
    "read_frame",
    "sample_negatives",
    "split_by_time",
    "split_per_user",
    "split_random",
]

from recokit.frame.columns import check_candidates, check_pairs, missing_column
from recokit.frame.negatives import SampledNegatives, sample_negatives
from recokit.frame.reading import read_frame
from recokit.frame.splits import Filtered, drop_cold, drop_seen, split_by_time, split_per_user, split_random
