"""Nearest-neighbour search in an embedding table: one protocol, three backends.

    ExactIndex     every row, NumPy; the yardstick
    HNSWIndex      a graph (hnswlib)
    FaissIndex     inverted lists, a graph, or every row (faiss)

A backend only proposes rows; one function computes the comparator's scores from the table and puts the rows in order
(:mod:`recokit.index.scoring`). So a row has the same score whichever backend found it: dot, cos, -distance for l2,
-distance**2 for squared_l2, plus the bias where the table has one; higher is better, ties in the order of rows.
"""

__all__ = [
    "ExactIndex",
    "FaissIndex",
    "FaissKind",
    "HNSWIndex",
    "Index",
    "Pairs",
    "load_index",
    "recall",
    "search_filtered",
]

from collections.abc import Callable
from pathlib import Path

from recokit.errors import FormatError, closest
from recokit.index.exact import ExactIndex
from recokit.index.faiss_index import FaissIndex, FaissKind
from recokit.index.filtered import search_filtered
from recokit.index.folder import kind_of
from recokit.index.hnsw import HNSWIndex
from recokit.index.pairs import Pairs
from recokit.index.protocol import Index
from recokit.index.recall import recall
from recokit.table import EmbeddingTable
from recokit.table.folder import local_folder

_LOADERS: dict[str, Callable[[Path, EmbeddingTable], Index]] = {
    "exact": ExactIndex.load,
    "hnsw": HNSWIndex.load,
    "faiss": FaissIndex.load,
}


def load_index(path: str | Path, table: EmbeddingTable) -> Index:
    """Load a saved index of whichever kind, over the table that it was built from.

    Raises:
        VersionError: ``table`` is not the table that the index was built from.
        FormatError: the folder is damaged, or of a kind that this release does not know.
    """
    path = local_folder(path)
    kind = kind_of(path)
    if kind not in _LOADERS:
        raise FormatError(f"{path} holds an index of kind {kind!r}: {closest(kind, _LOADERS)}")
    return _LOADERS[kind](path, table)
