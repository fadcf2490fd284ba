"""Evaluation in one call: candidate lists against relevant pairs, rankers against labels.

    report = evaluate_candidates(candidates, held_out, catalog=items) | evaluate_ranker(ranker, test, group="user")
    print(report)

Every result carries its interval and a protocol: what was filtered, how ties count, what is in the denominator, who
was left out. The ``compare_`` functions give differences on the same queries or rows, resample by resample, so that
what is hard for both cancels. Intervals are percentile bootstraps (``recokit.metrics.bootstrap``) with a fixed seed;
``bootstrap=0`` leaves them out.
"""

from recokit.evaluate.candidates import compare_candidates, evaluate_candidates
from recokit.evaluate.rankers import Ranker, compare_rankers, evaluate_predictions, evaluate_ranker

__all__ = [
    "Ranker",
    "compare_candidates",
    "compare_rankers",
    "evaluate_candidates",
    "evaluate_predictions",
    "evaluate_ranker",
]
