"""Entity embeddings at work: tables and versions, retrieval, features of rankers, evaluation.

Everything here imports NumPy, pandas and Arrow alone.  What needs torch stands in ``recokit.layers`` and
``recokit.rankers``; floors, metrics and the other parts have modules of their own.
"""

__all__ = [
    "Bag",
    "CandidateGenerator",
    "EmbeddingStore",
    "EmbeddingTable",
    "ExactIndex",
    "FaissIndex",
    "FeatureSpec",
    "HNSWIndex",
    "LeakWarning",
    "Mixture",
    "OnnxRanker",
    "PQTable",
    "Pretrained",
    "RecokitError",
    "RelationParameters",
    "Report",
    "Version",
    "compare_candidates",
    "compare_rankers",
    "evaluate_candidates",
    "evaluate_predictions",
    "evaluate_ranker",
    "inductive_vectors",
    "load_index",
    "open_version",
    "quantize",
    "read_frame",
    "write_version",
]

from recokit.candidates import CandidateGenerator
from recokit.errors import RecokitError
from recokit.evaluate import (
    compare_candidates,
    compare_rankers,
    evaluate_candidates,
    evaluate_predictions,
    evaluate_ranker,
)
from recokit.features import Bag, FeatureSpec, Pretrained
from recokit.frame import read_frame
from recokit.index import ExactIndex, FaissIndex, HNSWIndex, load_index
from recokit.inductive import inductive_vectors
from recokit.onnx_ranker import OnnxRanker
from recokit.overlap import LeakWarning
from recokit.pq import quantize
from recokit.report import Report
from recokit.store import EmbeddingStore
from recokit.table import (
    EmbeddingTable,
    Mixture,
    PQTable,
    RelationParameters,
    Version,
    open_version,
    write_version,
)
