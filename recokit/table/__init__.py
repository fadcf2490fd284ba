"""Embedding tables and versions: the files that producers write and everything else reads (docs/format.md)."""

__all__ = [
    "Comparator",
    "EmbeddingStore",
    "EmbeddingTable",
    "IdType",
    "Ids",
    "Mixture",
    "Operator",
    "RelationParameters",
    "TableEntry",
    "TableLike",
    "Version",
    "as_vectors",
    "id_array",
    "load_table",
    "num_parameters",
    "open_version",
    "write_version",
]

from recokit.table.ids import Ids, IdType, id_array
from recokit.table.mixtures import Mixture, as_vectors, load_table
from recokit.table.relations import Operator, RelationParameters, num_parameters
from recokit.table.store import EmbeddingStore
from recokit.table.vectors import Comparator, EmbeddingTable
from recokit.table.version import TableEntry, TableLike, Version, open_version, write_version
