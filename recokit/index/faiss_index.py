"""Inverted lists, a graph, or a plain scan, by faiss.

``ivf_flat`` builds in a fraction of a graph's time and is the one to take up to some millions of rows. Lists and
graphs work on Euclidean distances (:mod:`recokit.index.lift`): inner products would send every query to the lists of
the longest centroids. The graph takes its rows by falling norm, in batches, because faiss shuffles the rows of
one, and equal ones once (:mod:`recokit.index.groups`).
"""

__all__ = ["FaissIndex", "FaissKind"]

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, FormatError, closest
from recokit.index import folder
from recokit.index.exact import ExactIndex
from recokit.index.faiss_library import faiss_for, faiss_threads
from recokit.index.groups import Groups
from recokit.index.lift import Lift, blocks
from recokit.index.scoring import Rows, Scores, search_proposed
from recokit.index.settings import available_cpus, check_not_empty, check_settings
from recokit.table import EmbeddingTable

FaissKind = Literal["ivf_flat", "hnsw", "flat"]

_FILE = "index.faiss"
_SETTINGS: dict[str, tuple[str, ...]] = {
    "ivf_flat": ("nlist", "nprobe"),
    "hnsw": ("m", "ef_construction", "ef"),
    "flat": (),
}
_GRAPH_DEFAULTS = {"m": 32, "ef_construction": 200, "ef": 200}
_POINTS_PER_LIST = 39  # below, k-means leaves lists empty (faiss warns); it samples 256
_GRAPH_BATCHES = 128
_MARGIN = 16  # rows that a scan proposes beyond k, so that float32 rounding at the cut seldom shows


class FaissIndex:
    """A faiss index of one of three kinds.

    Attributes:
        table: The table whose rows are found.
        kind: ``"ivf_flat"``, ``"hnsw"`` or ``"flat"``.
        settings: The kind's settings: ``nlist`` and ``nprobe``, or ``m``, ``ef_construction`` and ``ef``; ``nprobe``
            and ``ef`` can be set between searches.
        seed: What it was built with.
    """

    def __init__(
        self,
        table: EmbeddingTable,
        index: Any,
        lift: Lift,
        groups: Groups | None,
        *,
        kind: FaissKind,
        settings: dict[str, int],
        seed: int,
        threads: int | None,
    ) -> None:
        self.table = table
        self.kind: FaissKind = kind
        self.settings = settings
        self.seed = seed
        self._index, self._lift, self._groups = index, lift, groups
        self._threads = threads or available_cpus()

    @property
    def exact(self) -> bool:
        """Whether it scans every row; then the result is exact up to the rounding of float32."""
        return self.kind == "flat"

    @classmethod
    def build(
        cls,
        table: EmbeddingTable,
        *,
        kind: FaissKind = "ivf_flat",
        nlist: int | None = None,
        nprobe: int | None = None,
        m: int | None = None,
        ef_construction: int | None = None,
        ef: int | None = None,
        seed: int = 0,
        threads: int | None = None,
        deterministic: bool = True,
    ) -> "FaissIndex":
        """Build an index over a table; its vectors are copied as float32.

        Args:
            table: The table.
            kind: ``ivf_flat`` scans the nearest ``nprobe`` of ``nlist`` lists, ``hnsw`` is a graph, ``flat`` scans all.
            nlist: Lists; by default 4 sqrt(N), less where a list would be trained on fewer than 39 rows.
            nprobe: Lists searched; by default nlist / 16, at least 16.
            m: Links of a row in the graph; by default 32.
            ef_construction: Candidates kept while a row's links are chosen; by default 200.
            ef: Candidates kept while searching, at least ``k``; by default 200.
            seed: Draws the lists' training rows and first centroids, or the rows' layers.
            threads: For building and searching; None for all that this process may use.
            deterministic: Build a graph with one thread: same seed, same bytes. Lists need no such thing.

        Raises:
            ConfigError: A setting is out of range, or of another kind.
            DataError: The table is empty.
            MissingDependencyError: faiss is not installed.
        """
        given = {"nlist": nlist, "nprobe": nprobe, "m": m, "ef_construction": ef_construction, "ef": ef}
        check_not_empty(table)
        settings = _settings(kind, given, table.count)
        check_settings({"threads": threads})
        check_settings({"seed": seed}, at_least=0)
        lift = Lift.of(table)
        if kind == "flat":
            lift = Lift(table, lift.bound, appended=False)
        threads = threads or available_cpus()
        groups = Groups.of(table) if kind == "hnsw" else None
        with faiss_threads(faiss_for("FaissIndex"), 1 if deterministic and kind == "hnsw" else threads):
            if groups is not None:
                index = _build_graph(lift, groups, settings, seed)
            else:
                index = _build_flat(lift) if kind == "flat" else _build_lists(lift, settings, seed)
        if groups is not None and groups.count == table.count:  # no copies: what the graph finds is the row itself
            groups = None
        return cls(table, index, lift, groups, kind=kind, settings=settings, seed=seed, threads=threads)

    def search(self, vectors: NDArray[Any], k: int) -> tuple[Rows, Scores]:
        """Return rows (Q, k) and scores (Q, k) of about the best ``k`` rows of each query vector (Q, D), best first."""
        return search_proposed(self.table, vectors, k, propose=self._propose, exact=ExactIndex(self.table).search)

    def _propose(self, vectors: NDArray[np.float32], k: int) -> Rows:
        faiss = faiss_for("FaissIndex")
        parameters = None
        if self.kind == "ivf_flat":
            parameters = faiss.SearchParametersIVF(nprobe=self.settings["nprobe"])
        elif self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(k, self.settings["ef"]))
        else:
            k = min(k + _MARGIN, self.table.count)
        amount = k if self._groups is None else min(k, self._groups.count)
        with faiss_threads(faiss_for("FaissIndex"), self._threads):
            _, found = self._index.search(self._lift.queries(vectors), amount, params=parameters)
        rows: Rows = found
        return rows if self._groups is None else self._groups.expand(rows, k)

    def save(self, path: str | Path) -> Path:
        """Write the index as a folder, atomically."""
        faiss = faiss_for("FaissIndex")
        return folder.save(
            path,
            kind="faiss",
            table=self.table,
            parameters={"kind": self.kind, "seed": self.seed, **self.settings, **self._lift.parameters()},
            write=(_FILE, lambda file: faiss.write_index(self._index, file)),
        )

    @classmethod
    def load(cls, path: str | Path, table: EmbeddingTable, *, threads: int | None = None) -> "FaissIndex":
        """Load a saved index over the table that it was built from.

        Raises:
            FormatError: The folder is damaged or of another kind.
            VersionError: ``table`` is not the table that the index was built from.
        """
        check_settings({"threads": threads})
        saved = folder.load(path, kind="faiss", table=table, file=_FILE)
        kind = saved.get("kind")
        if kind not in _SETTINGS:
            raise FormatError(f"{path} holds a faiss index of kind {kind!r}: {closest(str(kind), _SETTINGS)}")
        folder.check_parameters(
            path, saved, {"kind": str, "seed": int, **dict.fromkeys(_SETTINGS[kind], int), **Lift.PARAMETERS}
        )
        lift = Lift(table, saved["bound"], saved["appended"])
        try:
            index = faiss_for("FaissIndex").read_index(str(Path(path) / _FILE))
        except RuntimeError as error:
            raise FormatError(f"{Path(path) / _FILE} cannot be read by faiss: {error}") from error
        groups = Groups.of(table) if kind == "hnsw" and index.ntotal != table.count else None
        count = table.count if groups is None else groups.count
        if (index.ntotal, index.d) != (count, lift.dim):
            raise FormatError(f"{Path(path) / _FILE} holds {index.ntotal} x {index.d}, expected {count} x {lift.dim}")
        settings = {name: saved[name] for name in _SETTINGS[kind]}
        return cls(table, index, lift, groups, kind=kind, settings=settings, seed=saved["seed"], threads=threads)


def _settings(kind: FaissKind, given: dict[str, int | None], count: int) -> dict[str, int]:
    """Return the settings of a kind, the defaults filled in."""
    if kind not in get_args(FaissKind):
        raise ConfigError(f"faiss index kind {kind!r} does not exist; {closest(str(kind), get_args(FaissKind))}")
    check_settings(given)
    check_settings({"m": given["m"]}, at_least=2)
    if alien := [name for name, value in given.items() if value is not None and name not in _SETTINGS[kind]]:
        raise ConfigError(f"a faiss index of kind {kind!r} has no {alien[0]!r}; it has {list(_SETTINGS[kind])}")
    if kind != "ivf_flat":
        return {name: given[name] or _GRAPH_DEFAULTS[name] for name in _SETTINGS[kind]}
    nlist = given["nlist"] or max(1, min(int(4 * count**0.5), count // _POINTS_PER_LIST))
    if nlist > count:
        raise ConfigError(f"nlist is {nlist}, expected at most the {count} rows of the table")
    return {"nlist": nlist, "nprobe": min(given["nprobe"] or max(16, nlist // 16), nlist)}


def _build_lists(lift: Lift, settings: dict[str, int], seed: int) -> Any:
    faiss = faiss_for("FaissIndex")
    count, nlist = lift.table.count, settings["nlist"]
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(lift.dim), lift.dim, nlist, faiss.METRIC_L2)
    index.cp.seed = seed
    index.cp.min_points_per_centroid = 1  # a warning less: _settings chooses, or the caller did
    sample = np.random.default_rng(seed).choice(count, min(count, 256 * nlist), replace=False)
    index.train(lift.rows(np.sort(sample)))
    for part in blocks(count):
        index.add(lift.rows(part))
    return index


def _build_graph(lift: Lift, groups: Groups, settings: dict[str, int], seed: int) -> Any:
    faiss = faiss_for("FaissIndex")
    graph = faiss.IndexHNSWFlat(lift.dim, settings["m"])
    graph.hnsw.efConstruction = settings["ef_construction"]
    graph.hnsw.rng = faiss.RandomGenerator(seed)
    index = faiss.IndexIDMap(graph)
    order = groups.firsts_of(lift.by_norm())
    for rows in np.array_split(order, min(_GRAPH_BATCHES, len(order))):
        index.add_with_ids(lift.rows(rows), rows)
    return index


def _build_flat(lift: Lift) -> Any:
    faiss = faiss_for("FaissIndex")
    product = lift.table.comparator in ("dot", "cos")
    index = faiss.IndexFlatIP(lift.dim) if product else faiss.IndexFlatL2(lift.dim)
    for part in blocks(lift.table.count):
        index.add(lift.rows(part))
    return index
