"""Look-ups of ids a second: EmbeddingTable.rows beside pandas and Arrow, one thread, half hits and half misses.

    python benchmarks/table_lookup.py --count 1000000 --queries 1000000 [--json]

pandas and recokit have built their index before the clock starts. Arrow's index_in keeps none: its time includes
building one, every time.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recokit.table import EmbeddingTable


def seconds(run: Callable[[], object], repeat: int) -> float:
    """Return the shortest time of ``repeat`` runs, after one that builds and warms what there is."""
    run()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="ids in the table")
    parser.add_argument("--queries", type=int, default=1_000_000, help="ids looked up at once")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pa.set_cpu_count(1)

    rng = np.random.default_rng(options.seed)
    everything = rng.permutation(rng.integers(-(2**63), 2**63 - 1, 2 * options.count))
    integers = everything[: options.count]
    asked = rng.choice(everything, options.queries)
    vectors = np.zeros((options.count, 1), np.float32)
    results = []
    for kind in ("int64", "string"):
        if kind == "int64":
            ids, queries = pa.array(integers), pa.array(asked)
        else:
            ids, queries = (pa.array([f"user-{i}" for i in values.tolist()]) for values in (integers, asked))
        table = EmbeddingTable.from_arrays(ids, vectors, entity="user", version="benchmark")
        index, pandas_queries = pd.Index(ids.to_pandas()), pd.Index(queries.to_pandas())
        expected = table.rows(queries)
        runs: dict[str, Callable[[], object]] = {
            "recokit": lambda table=table, queries=queries: table.rows(queries),
            "pandas get_indexer": lambda index=index, queries=pandas_queries: index.get_indexer(queries),
            "arrow index_in": lambda ids=ids, queries=queries: pc.index_in(queries, value_set=ids),
        }
        for name, run in runs.items():
            found = run()
            rows = found.fill_null(-1).to_numpy() if isinstance(found, pa.Array) else found
            if not np.array_equal(rows, expected):
                raise SystemExit(f"{name} found other rows than recokit")
            rate = options.queries / seconds(run, options.repeat)
            results.append({"name": name, "ids": kind, "lookups_per_second": round(rate)})
        for size in (1, 1000):
            batch = queries.slice(0, size).to_pylist()
            microseconds = (
                1e6 * seconds(lambda table=table, batch=batch: [table.rows(batch) for _ in range(200)], 3) / 200
            )
            results.append({"name": f"recokit, list of {size}", "ids": kind, "microseconds": round(microseconds, 1)})

    if options.json:
        about = {"count": options.count, "queries": options.queries, "machine": platform.processor(), "threads": 1}
        print(json.dumps({**about, "results": results}))
        return
    for result in results:
        rate = result.get("lookups_per_second")
        figure = f"{rate / 1e6:8.1f} M look-ups/s" if rate else f"{result['microseconds']:8.1f} us"
        print(f"{result['ids']:7} {result['name']:22} {figure}")


if __name__ == "__main__":
    main()
