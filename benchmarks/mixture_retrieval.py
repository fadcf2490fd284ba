"""Candidates of users that are mixtures: users per second, recall, and where the time goes.

    python benchmarks/mixture_retrieval.py [--items 20000] [--queries 500] [--components 5] [--k 100] [--indexes FOLDER]
                                           [--json]

The vectors are planted: unit vectors in clusters of about 500 items, in a latent space of 16 dimensions, compared by
cosine. Each component of a user is at home in a cluster of its own. For each index the smallest setting is taken that
finds 95 % of the exact best k of the components. Everything runs on one thread, times are the best of three, and what
is inside is the time in hnswlib's and faiss's own searches. With ``--indexes`` built indexes are kept in a folder.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # before NumPy

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recokit.candidates import CandidateGenerator
from recokit.candidates.allocation import Allocation
from recokit.index import ExactIndex, FaissIndex, HNSWIndex, load_index, recall
from recokit.table import EmbeddingTable, Mixture

Approximate = HNSWIndex | FaissIndex

RECALL = 0.95
JUDGED = 200  # users whose exact lists are computed


def planted(items: int, users: int, components: int, dim: int, seed: int) -> tuple[NDArray[Any], ...]:
    """Return items (N, D), users' components (Q, C, D) and weights (Q, C)."""
    rng = np.random.default_rng(seed)
    clusters = max(components, items // 500)
    centers = rng.normal(size=(clusters, 16)).astype(np.float32)
    basis = (rng.normal(size=(16, dim)) / 4).astype(np.float32)

    def draw(cluster: NDArray[Any]) -> NDArray[Any]:
        latent = centers[cluster] + np.float32(0.5) * rng.standard_normal((len(cluster), 16), np.float32)
        x = latent @ basis + np.float32(0.1) * rng.standard_normal((len(cluster), dim), np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    vectors = draw(rng.integers(clusters, size=items))
    home = rng.integers(clusters, size=users * components)
    return vectors, draw(home).reshape(users, components, dim), rng.dirichlet(np.ones(components), users)


def built(name: str, table: EmbeddingTable, folder: Path | None) -> tuple[Approximate, float | None]:
    """Return an index and the seconds that it took to build, None where it was kept from an earlier run."""
    path = None if folder is None else folder / f"{name.split(maxsplit=1)[0]}-{table.count}"
    if path is not None and path.exists():
        index: Any = load_index(path, table)
        index._threads = 1
        return index, None
    start = time.perf_counter()
    if name.startswith("hnsw"):
        index = HNSWIndex.build(table, m=16, ef_construction=100, threads=1)
    else:
        index = FaissIndex.build(table, threads=1)
    seconds = time.perf_counter() - start
    if path is not None:
        index.save(path)
    return index, seconds


def set_effort(index: Approximate, effort: int) -> None:
    if isinstance(index, HNSWIndex):
        index.ef = effort
    else:
        index.settings["nprobe"] = min(effort, index.settings["nlist"])


def tune(index: Approximate, vectors: NDArray[Any], k: int, exact: Any) -> tuple[int, float]:
    """Set the smallest effort that finds enough of each component's best ``k``, and return it with its recall."""
    efforts = (100, 120, 150, 200, 300, 400, 600) if isinstance(index, HNSWIndex) else (2, 4, 6, 8, 12, 16, 32, 64, 128)
    found = 0.0
    for effort in efforts:
        set_effort(index, effort)
        found = recall(index, vectors, k, exact=exact)
        if found >= RECALL:
            break
    return effort, found


class Precomputed:
    """Exact search that remembers, for the yardstick is the slowest of all."""

    exact = True

    def __init__(self, table: EmbeddingTable) -> None:
        self.table = table
        self._found: dict[bytes, Any] = {}

    def search(self, vectors: NDArray[Any], k: int) -> Any:
        """Search as ``ExactIndex`` does, once."""
        key = vectors.tobytes() + str(k).encode()
        if key not in self._found:
            self._found[key] = ExactIndex(self.table).search(vectors, k)
        return self._found[key]

    def save(self, path: str | Path) -> Path:
        """Write the exact index."""
        return ExactIndex(self.table).save(path)


@contextmanager
def time_inside(index: Approximate) -> Iterator[list[float]]:
    """Add the seconds of every search of the library itself to a list."""
    attribute, method = ("_graph", "knn_query") if isinstance(index, HNSWIndex) else ("_index", "search")
    library, spent = getattr(index, attribute), [0.0]

    class Timed:
        def __getattr__(self, name: str) -> Any:
            found = getattr(library, name)
            if name != method:
                return found

            def timed(*arguments: Any, **options: Any) -> Any:
                start = time.perf_counter()
                try:
                    return found(*arguments, **options)
                finally:
                    spent[0] += time.perf_counter() - start

            return timed

    setattr(index, attribute, Timed())
    try:
        yield spent
    finally:
        setattr(index, attribute, library)


def measure(index: Approximate, generate: Callable[[], pd.DataFrame], queries: int) -> dict[str, float]:
    """Return users per second, and the share of the time outside the library, of the best of three runs."""
    runs = []
    for _ in range(3):
        with time_inside(index) as spent:
            start = time.perf_counter()
            generate()
            seconds = time.perf_counter() - start
        runs.append((seconds, spent[0]))
    seconds, inside = min(runs)
    return {"users_per_s": queries / seconds, "inside_us": inside / queries * 1e6, "outside": 1 - inside / seconds}


def list_recall(found: pd.DataFrame, best: pd.DataFrame) -> float:
    """Return the share of the exact lists that was found."""
    return len(best.merge(found, on=["query", "candidate"])) / len(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("items", 20_000), ("queries", 500), ("components", 5), ("k", 100), ("dim", 64), ("seed", 0),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--indexes", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    vectors, components, weights = planted(
        arguments.items, arguments.queries, arguments.components, arguments.dim, arguments.seed
    )
    names = {"entity": "item", "version": "planted", "comparator": "cos"}
    table = EmbeddingTable.from_arrays(np.arange(arguments.items), vectors, **names)
    ids = np.arange(arguments.queries)
    mixture = Mixture.from_components(ids, components, weights, entity="user", version="planted")
    heaviest = components[ids, weights.argmax(axis=1)]
    single = EmbeddingTable.from_arrays(ids, heaviest, entity="user", version="planted", comparator="cos")
    judged, exact = ids[:JUDGED], Precomputed(table)
    judged_vectors = np.ascontiguousarray(components[:JUDGED].reshape(-1, arguments.dim))
    results = []
    for name in ("hnswlib m=16", "faiss ivf_flat"):
        index, build = built(name, table, arguments.indexes)
        effort, component_recall = tune(index, judged_vectors, arguments.k, exact)
        shared = {"index": name, "build_s": build, "effort": effort, "component_recall": component_recall}
        for allocation in ("single", *get_args(Allocation)):
            queries = single if allocation == "single" else mixture
            choice = {} if allocation == "single" else {"allocation": allocation}
            generate = CandidateGenerator(index, queries, **choice)
            best = CandidateGenerator(exact, queries, **choice)(judged, arguments.k)
            row = {"allocation": allocation, "list_recall": list_recall(generate(judged, arguments.k), best)}
            speed = measure(index, lambda: generate(ids, arguments.k), arguments.queries)  # noqa: B023
            results.append(shared | row | speed)
    if arguments.json:
        settings = {name: value for name, value in vars(arguments).items() if name not in ("indexes", "json")}
        print(json.dumps({"settings": settings, "results": results}))
        return
    with pd.option_context("display.width", 200, "display.max_columns", 20, "display.float_format", "{:,.3f}".format):
        print(pd.DataFrame(results).to_string(index=False))


if __name__ == "__main__":
    main()
