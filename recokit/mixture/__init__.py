"""Inductive mixtures: several weighted vectors for whoever has a log of engagements, without training.

    InterestClusters     k-means of the items; a user is their most engaged clusters (TwHIN, El-Kishky et al. 2022, 4.4)
    Smoothing            a share of what a user's nearest users engage with (kNN-Embed, El-Kishky et al. 2022)
    pinnersage           clusters of one user's own items, each an item (PinnerSage, Pal et al. 2020)

All return a ``recokit.Mixture``. A log is a frame or a file with the columns source, target[, weight][, time].
"""

__all__ = ["InterestClusters", "Smoothing", "pinnersage"]

from recokit.mixture.clusters import InterestClusters
from recokit.mixture.pinnersage import pinnersage
from recokit.mixture.smoothing import Smoothing
