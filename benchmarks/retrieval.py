"""Retrieval on one thread: build time, size, recall and queries per second of every index, and the generator's cost.

    python benchmarks/retrieval.py [--count 30000] [--dim 64] [--queries 1000] [--json]

The vectors are planted: clusters in a latent space of 16 dimensions, with norms that vary, compared by dot product.
All indexes see the same vectors, queries and machine in one run; times are the best of three.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # before NumPy

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recokit.candidates import CandidateGenerator
from recokit.index import ExactIndex, FaissIndex, HNSWIndex, Index, recall
from recokit.table import EmbeddingTable


def planted(count: int, num_queries: int, dim: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(200, 16))
    basis = rng.normal(size=(16, dim)) / 4
    cluster = rng.integers(0, 200, count + num_queries)
    latent = centers[cluster] + 0.5 * rng.normal(size=(count + num_queries, 16))
    vectors = latent @ basis + 0.1 * rng.normal(size=(count + num_queries, dim))
    vectors[:count] *= rng.lognormal(0, 0.5, size=(count, 1))
    return vectors[:count].astype(np.float32), vectors[count:].astype(np.float32)


def seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """Return the best wall time of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def saved_mib(index: Index) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return sum(file.stat().st_size for file in index.save(Path(folder) / "index").iterdir()) / 2**20


def measure_indexes(table: EmbeddingTable, queries: NDArray[Any]) -> tuple[list[dict[str, Any]], dict[str, Index]]:
    builds: dict[str, tuple[Callable[[], Any], tuple[int | None, ...]]] = {
        "exact": (lambda: ExactIndex.build(table), (None,)),
        "hnswlib m=32": (lambda: HNSWIndex.build(table, threads=1), (50, 200)),
        "faiss ivf_flat": (lambda: FaissIndex.build(table, threads=1), (8, 16, None)),
        "faiss hnsw m=32": (lambda: FaissIndex.build(table, kind="hnsw", threads=1), (50, 200)),
        "faiss flat": (lambda: FaissIndex.build(table, kind="flat", threads=1), (None,)),
    }
    results, indexes = [], {}
    for name, (build, settings) in builds.items():
        start = time.perf_counter()
        index = indexes[name] = build()
        row = {"index": name, "build_s": time.perf_counter() - start, "saved_mib": saved_mib(index)}
        for setting in settings:
            if isinstance(index, HNSWIndex) and setting:
                index.ef = setting
            elif isinstance(index, FaissIndex) and setting:
                index.settings["nprobe" if index.kind == "ivf_flat" else "ef"] = setting
            elif isinstance(index, FaissIndex) and index.kind == "ivf_flat":
                index.settings["nprobe"] = max(16, index.settings["nlist"] // 16)
            tuned = index.ef if isinstance(index, HNSWIndex) else getattr(index, "settings", {})
            row["search"] = f"ef={tuned}" if isinstance(tuned, int) else " ".join(f"{k}={v}" for k, v in tuned.items())
            for k in (10, 100):
                row[f"recall@{k}"] = recall(index, queries, k)
                row[f"qps@{k}"] = len(queries) / seconds(partial(index.search, queries, k))
            results.append(dict(row))
    return results, indexes


def measure_generator(indexes: dict[str, Index], queries: NDArray[Any], k: int) -> list[dict[str, Any]]:
    """Compare the frame of candidates with the bare search, with and without 50 excluded pairs a query."""
    results = []
    for name, index in indexes.items():
        users = EmbeddingTable.from_arrays(
            [f"user-{i}" for i in range(len(queries))], queries, entity="user", version=index.table.version
        )
        ids, generate = users.ids, CandidateGenerator(index, users)
        likely = index.search(queries, 2 * k)[0][:, ::4]  # what a user has seen scores high
        seen = pd.DataFrame(
            {
                "query": users.ids_at(np.repeat(np.arange(len(queries)), likely.shape[1])).to_pandas(),
                "candidate": index.table.ids_at(likely.ravel()).to_pandas(),
            }
        )
        search = seconds(partial(index.search, queries, k))
        frame = seconds(partial(generate, ids, k))
        excluding = seconds(partial(generate, ids, k, exclude=seen))
        per_query = 1e6 / len(queries)
        results.append(
            {
                "index": name,
                "search_us": search * per_query,
                "candidates_us": frame * per_query,
                "excluding_us": excluding * per_query,
                "overhead": frame / search - 1,
            }
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("count", 30_000), ("dim", 64), ("queries", 1000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    vectors, queries = planted(arguments.count, arguments.queries, arguments.dim, arguments.seed)
    table = EmbeddingTable.from_arrays(np.arange(arguments.count), vectors, entity="item", version="planted")
    indexes, built = measure_indexes(table, queries)
    generator = measure_generator(built, queries, k=100)
    if arguments.json:
        print(json.dumps({"settings": vars(arguments), "indexes": indexes, "generator_k100": generator}))
        return
    with pd.option_context("display.width", 200, "display.max_columns", 20, "display.float_format", "{:,.3f}".format):
        print(pd.DataFrame(indexes).to_string(index=False))
        print(pd.DataFrame(generator).to_string(index=False))


if __name__ == "__main__":
    main()
