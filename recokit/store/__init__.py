"""Stores of versions: publication, aliases, lineage, and what removes what nobody needs any more (docs/store.md).

A store is a folder on this machine or at a URL that fsspec knows. Whatever it keeps besides versions lies in folders
whose names start with a dot; their formats are in docs/format.md.
"""

__all__ = [
    "AliasMove",
    "Collected",
    "EmbeddingStore",
    "Protection",
    "Retirement",
    "default_cache",
    "open_source",
    "trim_cache",
]

from recokit.store.aliases import AliasMove
from recokit.store.cache import default_cache, trim_cache
from recokit.store.collection import Collected
from recokit.store.marks import Protection, Retirement
from recokit.store.source import open_source
from recokit.store.store import EmbeddingStore
