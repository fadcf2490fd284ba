"""Edges on their way from files to buckets, in tables of DuckDB: what is larger than memory is on disk there.

Rows are numbered in the order of a hash of the ids, so that slices of them are random and the order of the input does
not matter.  MD5 is that hash because it is the same in every release and outside of DuckDB; its lower 64 bits count.
An edge is held out by the hash of its two ids, whatever else there is in the graph.
Tables: ``entities_k`` (id, row) of the k-th entity type; ``mapped_g`` (relation, source, target, weight, held) of the
g-th pair of entity types, with rows of the whole type; ``ends`` (type, relation, side, row, edges, counted).
"""

__all__ = ["EdgeTables"]

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pretrain.config import Relation
from pretrain.reading import Reader, View, bad_values
from pretrain.scans import literal, readable

_ENDS = ("source", "target")
_LARGEST = float(np.finfo(np.float32).max)


class EdgeTables:
    """The tables of a graph in the making.

    Args:
        reader: Has the views of the edges, and the database.
        relations: All relations by name; their numbers are their positions.
        seed: Of the order of rows and of what is held out.
        held_out: Share of each relation's distinct pairs of ends to hold out.
    """

    def __init__(self, reader: Reader, relations: Mapping[str, Relation], *, seed: int, held_out: float) -> None:
        self._db, self._reader = reader.db, reader
        self.relations, self._seed, self._held_out = dict(relations), seed, held_out
        self._number = {name: number for number, name in enumerate(relations)}
        ends = [(relation.source, relation.target) for relation in relations.values()]
        self.types = list(dict.fromkeys(entity for pair in ends for entity in pair))
        self.pairs = list(dict.fromkeys(ends))
        self.weighted = {name for view in reader.views if "weight" in view.roles for name in view.relations.values()}
        self._pair_of = [self.pairs.index(pair) for pair in ends]  # (R,)
        self.create("pair_of", {"relation": range(len(ends)), "pair": self._pair_of})
        for pair in range(len(self.pairs)):
            columns = "relation INTEGER, source BIGINT, target BIGINT, weight FLOAT, held BOOLEAN"
            self._db.execute(f"CREATE TABLE mapped_{pair} ({columns})")

    def add_entities(self, entity: str, min_count: int) -> None:
        """Give the ids of a type that occur at least ``min_count`` times their rows."""
        ids = self._reader.occurring(entity, self.relations, min_count)
        order = f"md5_number_lower(concat_ws('/', {literal(f'{self._seed}/{entity}')}, id)), id"
        rows = f"SELECT id, row_number() OVER (ORDER BY {order}) - 1 AS row FROM ({ids})"
        with readable(f"entity type {entity!r}"):
            self._db.execute(f"CREATE TABLE entities_{self.types.index(entity)} AS {rows}")

    def add_edges(self, view: View) -> None:
        """Map a view's edges to rows; those that lost an end to ``min_count`` go.

        Raises:
            DataError: A weight is negative, missing or not finite.
        """
        names = list(view.relations.values())
        numbers = [self._number[name] for name in names]
        with readable(view.what):
            if view.mixed:
                self.create(
                    f"said_{view.name}",
                    {"said": list(view.relations), "name": names, "number": numbers},
                )
            self._check_weights(view)
            for pair in dict.fromkeys(self._pair_of[number] for number in numbers):
                self._db.execute(f"INSERT INTO mapped_{pair} {self._mapped(view, pair)}")

    def _mapped(self, view: View, pair: int) -> str:
        """SQL of a view's edges between a pair of entity types."""
        source, target = self.pairs[pair]
        if view.mixed:
            said = f"JOIN said_{view.name} AS r ON e.relation = r.said JOIN pair_of AS p ON p.relation = r.number"
            chosen, number, name = f"WHERE p.pair = {pair}", "r.number", "r.name"
        else:
            only = next(iter(view.relations.values()))
            said, chosen, number, name = "", "", str(self._number[only]), literal(only)
        weight = "CAST(e.weight AS FLOAT)" if "weight" in view.roles else "1.0"
        ends = "least(e.source, e.target), greatest(e.source, e.target)" if source == target else "e.source, e.target"
        drawn = f"md5_number_lower(concat_ws('/', {literal(f'{self._seed}/held out')}, {name}, {ends}))"
        held = f"{drawn} < {int(self._held_out * 2**64)}" if self._held_out else "false"
        return (
            f"SELECT {number}, s.row, t.row, {weight}, {held} FROM {view.name} AS e {said} "
            f"JOIN entities_{self.types.index(source)} AS s ON e.source = s.id "
            f"JOIN entities_{self.types.index(target)} AS t ON e.target = t.id {chosen}"
        )

    def _check_weights(self, view: View) -> None:
        if "weight" not in view.roles:
            return
        bad = f"weight IS NULL OR NOT isfinite(weight) OR weight < 0 OR weight > {_LARGEST!r}"
        said = "relation" if view.mixed else literal(next(iter(view.relations)))
        there = "source IS NOT NULL AND target IS NOT NULL"
        # Not under WHERE: DuckDB believes Parquet's minima and maxima there, which leave NaN out.
        counted = f"SELECT {said} AS said, count(*) FILTER ({bad}) FROM {view.name} WHERE {there} GROUP BY said"
        found = dict(self._db.sql(counted).fetchall())
        for text, name in view.relations.items():
            if found.get(text):
                raise bad_values(name, found[text], "weight")

    def count_ends(self) -> None:
        """Count how often every entity is the source (side 0) and the target (1) of each relation."""
        kinds = "relation INTEGER, side INTEGER, row BIGINT, edges BIGINT, counted BIGINT"
        self._db.execute(f"CREATE OR REPLACE TABLE ends (type INTEGER, {kinds})")
        counts = "count(*), count(*) FILTER (NOT held AND weight > 0)"
        for pair, entities in enumerate(self.pairs):
            for side, end in enumerate(_ENDS):
                kept = f"{self.types.index(entities[side])}, relation, {side}, {end}"
                counted = f"SELECT {kept}, {counts} FROM mapped_{pair} GROUP BY relation, {end}"
                self._db.execute(f"INSERT INTO ends {counted}")

    def drop_unused(self) -> None:
        """Leave out entities that have no edge left, number the others anew in the same order, and count again."""
        for number in range(len(self.types)):
            used = f"SELECT DISTINCT row FROM ends WHERE type = {number}"
            if self._count(f"({used})") == self.num_entities(number):
                continue
            moved = f"SELECT row AS old, row_number() OVER (ORDER BY row) - 1 AS new FROM ({used})"
            self._db.execute(f"CREATE TABLE moved_{number} AS {moved}")
            self._move(f"entities_{number}", "row", number)
            for pair, ends in enumerate(self.pairs):
                for end, entity in zip(_ENDS, ends, strict=True):
                    if entity == self.types[number]:
                        self._move(f"mapped_{pair}", end, number)
        self.count_ends()

    def _move(self, table: str, column: str, number: int) -> None:
        moved = (
            f"SELECT a.* REPLACE (m.new AS {column}) FROM {table} AS a JOIN moved_{number} AS m ON a.{column} = m.old"
        )
        self._db.execute(f"CREATE OR REPLACE TABLE {table} AS {moved}")

    def num_entities(self, number: int) -> int:
        """Entities of the ``number``-th type."""
        return self._count(f"entities_{number}")

    def num_edges(self) -> dict[str, tuple[int, int]]:
        """Relation to its edges, and those that are held out among them."""
        counts = dict.fromkeys(range(len(self.relations)), (0, 0))
        for pair in range(len(self.pairs)):
            counted = f"SELECT relation, count(*), count(*) FILTER (held) FROM mapped_{pair} GROUP BY relation"
            counts |= {number: (edges, held) for number, edges, held in self._db.sql(counted).fetchall()}
        return {name: counts[number] for name, number in self._number.items()}

    def arranged(self, sizes: Sequence[int]) -> str:
        """SQL of all edges as (relation, i, j, source, target, weight, held).

        Args:
            sizes: Rows in a partition of each entity type; source and target are rows within their partitions i, j.
        """
        parts = []
        for pair, ends in enumerate(self.pairs):
            of_source, of_target = (sizes[self.types.index(entity)] for entity in ends)
            places = f"CAST(source // {of_source} AS INTEGER) AS i, CAST(target // {of_target} AS INTEGER) AS j"
            rows = f"source % {of_source} AS source, target % {of_target} AS target"
            parts.append(f"SELECT relation, {places}, {rows}, weight, held FROM mapped_{pair}")
        return " UNION ALL ".join(parts)

    def ids(self, number: int, start: int, stop: int) -> pa.Array:
        """Return the ids of a type's rows from ``start`` to before ``stop``: int64 or large_string."""
        some = f"SELECT id FROM entities_{number} WHERE row >= {start} AND row < {stop} ORDER BY row"
        ids = self._db.sql(some).to_arrow_table().column("id").combine_chunks()
        return ids if pa.types.is_integer(ids.type) else ids.cast(pa.large_string())

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """Stream a query's rows."""
        yield from self._db.sql(query).to_arrow_reader(1 << 20)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return a few rows."""
        return list(self._db.sql(query).fetchall())

    def create(self, name: str, columns: Mapping[str, object]) -> None:
        """Make a table of columns."""
        self._db.register("given", pa.table({column: pa.array(values) for column, values in columns.items()}))
        self._db.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
        self._db.unregister("given")

    def _count(self, table: str) -> int:
        return int(self._db.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0])
