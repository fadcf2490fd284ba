"""Scoring the candidates of one request: a DLRM in eager torch beside its ONNX export.

    python benchmarks/ranker_serving.py [--items 20000] [--candidates 1 32 256 1024] [--repeats 30] [--json]

Needs the extra onnx. The ranker has 26 categorical columns of dimension 64, 13 dense ones, and two pretrained features
of dimension 256 (a user's and the candidate's), as float32 vectors or as codes of 32 bytes; bottom layers 512-256, top
layers 512-256. All run on one thread on the same arrays, taking turns; times are medians, ratios medians of the ratios
of turns. The exported model comes in three forms: tables inside; tables as inputs, with the request's codes or vectors,
the user's once; and tables inside with codebooks folded into the projections. What is measured is arrays to
probabilities; "from a frame" adds reading the features from a frame and looking ids up, which is the same for all.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # before NumPy

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from recokit import EmbeddingTable, FeatureSpec, Pretrained
from recokit.feature_batch import flatten
from recokit.onnx_ranker import OnnxRanker
from recokit.rankers import DLRM, Ranker
from recokit.rankers.base import to_tensors
from recokit.rankers.export import export_onnx
from recokit.table import PQTable

DIM, CODES, COLUMNS, DENSE, VOCABULARY = 256, 32, 26, 13, 1000


def tables(items: int, codes: bool, seed: int = 0) -> tuple[EmbeddingTable | PQTable, ...]:
    """Return the tables of users and items: random numbers, since nothing here depends on what they are."""
    rng = np.random.default_rng(seed)
    made: list[EmbeddingTable | PQTable] = []
    for entity in ("user", "item"):
        ids = np.arange(items)
        if codes:
            book = rng.standard_normal((CODES, 256, DIM // CODES), dtype=np.float32)
            drawn = rng.integers(0, 256, (items, CODES), dtype=np.uint8)
            made.append(PQTable.from_arrays(ids, drawn, book, entity=entity, version="v1"))
        else:
            vectors = rng.standard_normal((items, DIM), dtype=np.float32)
            made.append(EmbeddingTable.from_arrays(ids, vectors, entity=entity, version="v1"))
    return tuple(made)


def request(candidates: int, items: int, seed: int) -> pd.DataFrame:
    """Return the rows of one user's candidates."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"user": np.full(candidates, int(rng.integers(items)))}
    columns["item"] = rng.integers(0, items, candidates)
    columns |= {f"d{i}": rng.standard_normal(candidates) for i in range(DENSE)}
    columns |= {f"c{i}": rng.integers(0, VOCABULARY, candidates) for i in range(COLUMNS)}
    return pd.DataFrame(columns | {"clicked": np.arange(candidates) % 2})


def built(items: int, codes: bool) -> Ranker:
    """Return an untrained DLRM."""
    users, things = tables(items, codes)
    features = FeatureSpec(
        pretrained=[Pretrained("user", users), Pretrained("item", things)],
        dense=[f"d{i}" for i in range(DENSE)],
        categorical={f"c{i}": VOCABULARY for i in range(COLUMNS)},
        label="clicked",
    ).fit(request(20_000, items, seed=1))
    return DLRM(features, dim=64, bottom=(512, 256), top=(512, 256)).eval()


def taking_turns(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each run, measured in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 3):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= 3:  # the first ones warm up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure(codes: bool, candidates: int, items: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Time one request in every form."""
    ranker, frame = built(items, codes), request(candidates, items, seed=2)
    forms = {"inside": {}, "as inputs": {"tables": "inputs"}, "inside, folded": {"fold": True}}
    exported = {}
    for name, settings in forms.items():
        path = folder / f"{codes}-{name.replace(' ', '-')}"
        if not path.exists():
            export_onnx(ranker, path, **settings)  # type: ignore[arg-type]
        exported[name] = OnnxRanker.load(path, list(ranker.features.tables), threads=1)
    batch = ranker.features.batch(frame, labels=False)
    tensors = to_tensors(batch, torch.device("cpu"))
    arrays = {name: model._with_tables(flatten(batch)) for name, model in exported.items()}

    @torch.inference_mode()
    def eager() -> Any:
        return torch.sigmoid(ranker(tensors))

    expected = eager().numpy()
    runs: dict[str, Callable[[], Any]] = {"eager": eager}
    runs |= {name: lambda model=model, name=name: model.run(arrays[name]) for name, model in exported.items()}
    error = max(float(np.abs(model.run(arrays[name]) - expected).max()) for name, model in exported.items())
    seconds = taking_turns(runs, repeats)
    whole = taking_turns(
        {"eager": lambda: ranker.predict(frame), "inside": lambda: exported["inside"].predict(frame)}, repeats
    )
    ratios = {
        name: statistics.median(a / b for a, b in zip(seconds["eager"], seconds[name], strict=True))
        for name in exported
    }
    return {
        "tables": "codes of 32 bytes" if codes else "float32 vectors",
        "candidates": candidates,
        "ms": {name: 1e3 * statistics.median(times) for name, times in seconds.items()},
        "times as fast as eager": ratios,
        "ms from a frame": {name: 1e3 * statistics.median(times) for name, times in whole.items()},
        "largest difference": error,
        "bytes of a request's tables": {
            name: sum(array.nbytes for key, array in arrays[name].items() if key in exported[name].given)
            for name in exported
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 32, 256, 1024])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = [
            measure(codes, candidates, asked.items, asked.repeats, Path(folder))
            for codes in (False, True)
            for candidates in asked.candidates
        ]
    if asked.json:
        print(json.dumps(results, indent=2))
        return
    print("| tables | candidates | eager, ms | inside | as inputs | inside, folded | from a frame: eager, inside |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in results:
        ms, times, whole = row["ms"], row["times as fast as eager"], row["ms from a frame"]
        cells = [f"{ms[name]:.2f} ({times[name]:.1f} x)" for name in times]
        print(
            f"| {row['tables']} | {row['candidates']:,} | {ms['eager']:.2f} | {' | '.join(cells)} "
            f"| {whole['eager']:.2f}, {whole['inside']:.2f} |"
        )
    print(f"\nlargest difference of a probability: {max(row['largest difference'] for row in results):.1e}")


if __name__ == "__main__":
    main()
