"""Tables for other systems: Parquet for warehouses, a SQLite file that answers nearest-neighbour queries, and Feast.

What an export holds is one version, and says which; the version itself stays where it is.
"""

__all__ = ["SqliteSpace", "export_parquet", "export_sqlite", "register_feast"]

from recokit.exports.feast import register_feast
from recokit.exports.parquet import export_parquet
from recokit.exports.sqlite import SqliteSpace, export_sqlite
