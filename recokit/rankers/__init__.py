"""Rankers on pretrained and other features: train, predict, save, load."""

__all__ = [
    "DLRM",
    "ESMM",
    "Batch",
    "DCNv2",
    "Evaluation",
    "FitConfig",
    "FitResult",
    "LeakWarning",
    "LinearProbe",
    "MMoE",
    "Ranker",
    "SampledNegatives",
    "SearchRanker",
    "SharedBottom",
    "WideDeep",
    "export_onnx",
    "fit",
    "fit_progress",
    "load_ranker",
]

import recokit.layers  # noqa: F401 (first: it says what to install where torch is missing)
from recokit.features import Batch
from recokit.frame import SampledNegatives
from recokit.overlap import LeakWarning
from recokit.rankers.ads import ESMM, MMoE, SharedBottom
from recokit.rankers.base import Ranker
from recokit.rankers.checkpoint import load_ranker
from recokit.rankers.dcn import DCNv2
from recokit.rankers.dlrm import DLRM
from recokit.rankers.export import export_onnx
from recokit.rankers.probe import LinearProbe
from recokit.rankers.progress import fit_progress
from recokit.rankers.search import SearchRanker
from recokit.rankers.training import Evaluation, FitConfig, FitResult, fit
from recokit.rankers.wide_deep import WideDeep
