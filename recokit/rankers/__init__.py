"""Rankers on pretrained and other features: train, predict, save, load."""

__all__ = ["DLRM", "Batch", "Evaluation", "FitConfig", "FitResult", "LeakWarning", "Ranker", "fit", "load_ranker"]

import recokit.layers  # noqa: F401 (first: it says what to install where torch is missing)
from recokit.features import Batch
from recokit.overlap import LeakWarning
from recokit.rankers.base import Ranker
from recokit.rankers.checkpoint import load_ranker
from recokit.rankers.dlrm import DLRM
from recokit.rankers.training import Evaluation, FitConfig, FitResult, fit
