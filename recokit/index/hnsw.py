"""A navigable small-world graph (Malkov and Yashunin 2018), by hnswlib.

The graph is always built on Euclidean distances, and rows go in by falling norm (:mod:`recokit.index.lift` says why),
equal ones once (:mod:`recokit.index.groups`).
"""

__all__ = ["HNSWIndex"]

import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.errors import FormatError, MissingDependencyError
from recokit.index import folder
from recokit.index.exact import ExactIndex
from recokit.index.groups import Groups
from recokit.index.lift import Lift, blocks
from recokit.index.scoring import Rows, Scores, search_proposed
from recokit.index.settings import available_cpus, check_not_empty, check_settings
from recokit.table import EmbeddingTable

_FILE = "index.hnsw"


class HNSWIndex:
    """Walks a graph of near neighbours; approximate.

    Attributes:
        table: The table whose rows are found.
        ef: How many candidates a search keeps; at least ``k`` is used. Can be set between searches.
        parameters: What the graph was built with.
    """

    exact = False

    def __init__(
        self,
        table: EmbeddingTable,
        graph: Any,
        lift: Lift,
        groups: Groups | None,
        parameters: dict[str, int],
        *,
        ef: int,
        threads: int | None,
    ) -> None:
        self.table = table
        self.ef = ef
        self.parameters = parameters
        self._graph, self._lift, self._groups = graph, lift, groups
        self._threads = threads or available_cpus()
        self._lock = threading.Lock()  # ef is the graph's, not a search's

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    @classmethod
    def build(
        cls,
        table: EmbeddingTable,
        *,
        m: int = 32,
        ef_construction: int = 200,
        ef: int = 200,
        seed: int = 0,
        threads: int | None = None,
        deterministic: bool = True,
    ) -> "HNSWIndex":
        """Build a graph over a table.

        Args:
            table: The table; its vectors are copied into the graph as float32.
            m: Links of a row in each layer (twice as many in the lowest), at least 2.
            ef_construction: Candidates kept while a row's links are chosen.
            ef: Candidates kept while searching.
            seed: Draws the rows' layers.
            threads: For searches and for building in parallel; None for all that this process may use.
            deterministic: Build with one thread: same seed, same bytes. Otherwise the links depend on how threads race.

        Raises:
            DataError: The table is empty.
            MissingDependencyError: hnswlib is not installed.
        """
        check_settings({"ef_construction": ef_construction, "ef": ef, "threads": threads})
        check_settings({"m": m}, at_least=2)
        check_settings({"seed": seed}, at_least=0)
        check_not_empty(table)
        lift, groups = Lift.of(table), Groups.of(table)
        index = cls(
            table,
            _hnswlib().Index("l2", lift.dim),
            lift,
            groups if groups.count < table.count else None,
            {"m": m, "ef_construction": ef_construction, "seed": seed},
            ef=ef,
            threads=threads,
        )
        index._graph.init_index(groups.count, M=m, ef_construction=ef_construction, random_seed=seed)
        order = groups.firsts_of(lift.by_norm())
        for part in blocks(groups.count):
            rows = order[part]
            index._graph.add_items(lift.rows(rows), rows, num_threads=1 if deterministic else index._threads)
        return index

    def search(self, vectors: NDArray[Any], k: int) -> tuple[Rows, Scores]:
        """Return rows (Q, k) and scores (Q, k) of about the best ``k`` rows of each query vector (Q, D), best first."""
        return search_proposed(self.table, vectors, k, propose=self._propose, exact=ExactIndex(self.table).search)

    def _propose(self, vectors: NDArray[np.float32], k: int) -> Rows:
        amount = k if self._groups is None else min(k, self._groups.count)
        try:
            with self._lock:
                self._graph.set_ef(max(self.ef, amount))
                found, _ = self._graph.knn_query(self._lift.queries(vectors), amount, num_threads=self._threads)
        except RuntimeError:  # one query reached fewer than k rows, and hnswlib returns nothing for all of them
            if len(vectors) == 1:
                return np.full((1, k), -1)
            half = len(vectors) // 2
            return np.concatenate([self._propose(vectors[:half], k), self._propose(vectors[half:], k)])
        rows: Rows = found.astype(np.int64)
        return rows if self._groups is None else self._groups.expand(rows, k)

    def save(self, path: str | Path) -> Path:
        """Write the index as a folder, atomically."""
        return folder.save(
            path,
            kind="hnsw",
            table=self.table,
            parameters={**self.parameters, "ef": self.ef, "space": "l2", **self._lift.parameters()},
            write=(_FILE, self._graph.save_index),
        )

    @classmethod
    def load(cls, path: str | Path, table: EmbeddingTable, *, threads: int | None = None) -> "HNSWIndex":
        """Load a saved index over the table that it was built from.

        Raises:
            FormatError: The folder is damaged or of another kind.
            VersionError: ``table`` is not the table that the index was built from.
        """
        check_settings({"threads": threads})
        saved = folder.load(path, kind="hnsw", table=table, file=_FILE)
        types = {"m": int, "ef_construction": int, "seed": int, "ef": int, "space": str, **Lift.PARAMETERS}
        folder.check_parameters(path, saved, types)
        lift = Lift(table, saved["bound"], saved["appended"])
        graph = _hnswlib().Index(saved["space"], lift.dim)
        try:
            graph.load_index(str(Path(path) / _FILE))
        except RuntimeError as error:
            raise FormatError(f"{Path(path) / _FILE} cannot be read by hnswlib: {error}") from error
        groups = Groups.of(table) if graph.get_current_count() != table.count else None
        expected = table.count if groups is None else groups.count
        if graph.get_current_count() != expected:
            raise FormatError(f"{Path(path) / _FILE} has {graph.get_current_count()} rows, expected {expected}")
        parameters = {name: saved[name] for name in ("m", "ef_construction", "seed")}
        return cls(table, graph, lift, groups, parameters, ef=saved["ef"], threads=threads)


def _hnswlib() -> ModuleType:
    try:
        import hnswlib
    except ImportError as error:
        raise MissingDependencyError(
            "hnswlib",
            extra="hnsw",
            needed_for="HNSWIndex",
            hint="it has no wheels, so pip compiles it: a C++ compiler is needed, such as g++",
        ) from error
    return hnswlib  # type: ignore[no-any-return]
