"""Layers over tables: rows in, vectors out, and nothing that trains but what says so.

Row numbers come from ``table.rows``; -1 means "not in the table" and gives zeros, or one learned vector. A layer holds
its table as buffers that are not persistent: a ranker's checkpoint names its tables and does not swallow them. On the
CPU the buffers are the table's own memory, so a memory-mapped table costs no copy, and several layers of one table one
memory; it must not be written to.
"""

__all__ = [
    "BagPooling",
    "DeepHashEmbedding",
    "FoldedEmbedding",
    "FrozenEmbedding",
    "LearnedUnknown",
    "MixtureEmbedding",
    "MixturePooling",
    "PQEmbedding",
    "Projection",
    "TableLayer",
    "TunedEmbedding",
    "Unknown",
    "bag_sum",
    "fold",
    "fold_all",
    "frozen_embedding",
    "pool",
    "unit_scale",
]

from recokit.errors import MissingDependencyError

try:
    import torch  # noqa: F401 (first: it says what to install where torch is missing)
except ImportError as error:
    raise MissingDependencyError("torch", extra="rank", needed_for="recokit.layers") from error

from recokit.layers.bags import BagPooling, bag_sum, pool
from recokit.layers.codes import PQEmbedding
from recokit.layers.folding import FoldedEmbedding, fold, fold_all
from recokit.layers.frozen import FrozenEmbedding, Projection, TunedEmbedding
from recokit.layers.hashed import DeepHashEmbedding
from recokit.layers.mixture import MixtureEmbedding, MixturePooling
from recokit.layers.table_layer import LearnedUnknown, TableLayer, Unknown
from recokit.layers.tables import frozen_embedding, unit_scale
