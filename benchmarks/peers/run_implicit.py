"""Factorise with implicit on the CPU and leave the factors after some iterations; see ``peers``.

    python run_implicit.py FOLDER

FOLDER holds task.json (model: als or bpr, exported: iterations whose factors are wanted, seed, threads, settings: what
its model takes) and users.npy, items.npy (E,) int64, weights.npy (E,) float32.  Left behind are iteration-K.npz
(queries (U, D), candidates (I, D), whose products are the scores) and result.json (the seconds up to each iteration).

The seconds are those of ``fit`` less what is spent on writing factors here.  BLAS has one thread, as implicit asks for;
its own threads share the work.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # before NumPy

import implicit
import numpy as np
from scipy import sparse

MODELS = {
    "als": implicit.cpu.als.AlternatingLeastSquares,
    "bpr": implicit.cpu.bpr.BayesianPersonalizedRanking,
}


def main(folder: Path) -> None:
    began = time.perf_counter()
    task = json.loads((folder / "task.json").read_text())
    users, items, weights = (np.load(folder / f"{name}.npy") for name in ("users", "items", "weights"))
    matrix = sparse.csr_matrix((weights, (users, items)))
    model = MODELS[task["model"]](
        iterations=max(task["exported"]),
        num_threads=task["threads"],
        random_state=task["seed"],
        **task["settings"],
    )
    spent: dict[str, float] = {}
    started, away, done = time.perf_counter(), 0.0, 0

    def watch(*_: Any) -> None:
        nonlocal away, done
        now = time.perf_counter()
        done += 1
        if done in task["exported"]:
            spent[str(done)] = now - started - away
            factors = {"queries": model.user_factors, "candidates": model.item_factors}
            np.savez(folder / f"iteration-{done}.npz", **factors)
        away += time.perf_counter() - now

    model.fit(matrix, show_progress=False, callback=watch)
    result = {
        "seconds": spent,
        "wall_seconds": time.perf_counter() - began,
        "versions": {package: version(package) for package in ("implicit", "scipy", "numpy")},
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
