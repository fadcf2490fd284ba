"""Embedding tables and versions: the files that producers write and everything else reads (docs/format.md)."""

__all__ = [
    "Comparator",
    "EmbeddingTable",
    "FeatureTable",
    "IdType",
    "Ids",
    "Mixture",
    "Operator",
    "PQTable",
    "RelationParameters",
    "TableEntry",
    "TableLike",
    "Version",
    "as_vectors",
    "degrees_of",
    "id_array",
    "load_table",
    "num_parameters",
    "open_version",
    "vectors_or_mixture",
    "write_version",
]

from recokit.table.codes import PQTable
from recokit.table.degrees import degrees_of
from recokit.table.ids import Ids, IdType, id_array
from recokit.table.mixtures import FeatureTable, Mixture, as_vectors, load_table, vectors_or_mixture
from recokit.table.relations import Operator, RelationParameters, num_parameters
from recokit.table.vectors import Comparator, EmbeddingTable
from recokit.table.version import TableEntry, TableLike, Version, open_version, write_version
