"""What is a feature worth to a ranker? Train with it and without it, over seeds, and compare on the same test rows.

    vectors = [Pretrained("user", users), Pretrained("ad", ads)]
    features = FeatureSpec(pretrained=vectors, dense=["age"], label="clicked")
    found = ablate(
        features, {"baseline": [], "U": ["user"], "U+A": ["user", "ad"]}, train, valid, test,
        ranker=lambda features, seed: DLRM(features, dim=16, seed=seed), folder="ablations/ads",
    )
    print(found.to_markdown())

The tables have the shape of TwHIN's Tables 2 and 3 (El-Kishky et al. 2022): sets of features go across, models or
metrics down. Beside each value stands what the paper does not say: the deviation over seeds, and the interval of the
difference to the baseline. ``recokit ablate`` does the same from a file (docs/ablations.md).
"""

__all__ = ["Ablation", "Cell", "ablate", "compare_sets", "feature_sets", "find_leaks"]

from recokit.ablation.comparison import compare_sets
from recokit.ablation.result import Ablation, Cell
from recokit.ablation.sets import feature_sets
from recokit.ablation.training import ablate, find_leaks
