"""Train with PyTorch-BigGraph on the CPU and leave the embeddings after every epoch; see ``peers``.

    python run_bigraph.py FOLDER CLONE

FOLDER holds task.json (entities, relations, exported: epochs whose embeddings are wanted, seed, config: what
BigGraph's own configuration holds beside paths and entities) and edges.npy, (E, 3) int64: source, relation, target.
CLONE is a checkout of PyTorch-BigGraph, which stays as it is.  Left behind are epoch-K.npz (vectors, and what moves
either end of a relation) and result.json (the seconds of every epoch and all it took).

The seconds are those of BigGraph's own training of a bucket: the permutation, the workers' batches and the wait for
them.  Evaluation is off; reading, writing checkpoints, and starting the workers are not counted.  What it needs:
torch, h5py, attrs, tqdm and setuptools below 81, whose pkg_resources it imports.  Its C++ extension is for GPUs.
"""

import json
import os
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch


def main(folder: Path, clone: Path) -> None:
    sys.path.insert(0, str(clone))
    began = time.perf_counter()
    task = json.loads((folder / "task.json").read_text())
    edges = np.load(folder / "edges.npy")
    write_graph(folder, task, edges)
    torch.manual_seed(task["seed"])
    seconds = train(folder, task["config"], kept=bool(task["exported"]))
    for epoch in task["exported"]:
        np.savez(folder / f"epoch-{epoch}.npz", **read_epoch(folder / "checkpoint", epoch))
    result = {
        "epoch_seconds": seconds,
        "wall_seconds": time.perf_counter() - began,
        "versions": {"torchbiggraph": (clone / "torchbiggraph" / "VERSION.txt").read_text().strip()}
        | {package: version(package) for package in ("torch", "numpy", "h5py")},
    }
    (folder / "result.json").write_text(json.dumps(result))


def write_graph(folder: Path, task: dict[str, Any], edges: np.ndarray) -> None:
    """Lay entities and edges out as BigGraph reads them: one partition, one bucket."""
    for name in ("entities", "edges"):
        (folder / name).mkdir()
    (folder / "entities" / "entity_count_all_0.txt").write_text(str(task["entities"]))
    (folder / "entities" / "dynamic_rel_count.txt").write_text(str(task["relations"]))
    with h5py.File(folder / "edges" / "edges_0_0.h5", "w") as file:
        file.attrs["format_version"] = 1
        for name, column in zip(("lhs", "rel", "rhs"), edges.T, strict=True):
            file[name] = np.ascontiguousarray(column)


def train(folder: Path, config: dict[str, Any], *, kept: bool) -> list[float]:
    """Train and return the seconds of every epoch, all of whose checkpoints may be kept."""
    from torchbiggraph.config import ConfigSchema
    from torchbiggraph.train_cpu import TrainingCoordinator

    class Timed(TrainingCoordinator):
        """BigGraph's own coordinator with a watch around the training of a bucket."""

        def _coordinate_train(self, *arguments: Any) -> Any:
            started = time.perf_counter()
            stats = super()._coordinate_train(*arguments)
            seconds.append(time.perf_counter() - started)
            return stats

    seconds: list[float] = []
    settings = ConfigSchema.from_dict(
        {
            "entity_path": str(folder / "entities"),
            "edge_paths": [str(folder / "edges")],
            "checkpoint_path": str(folder / "checkpoint"),
            "checkpoint_preservation_interval": 1 if kept else None,
            "entities": {"all": {"num_partitions": 1}},
            "eval_fraction": 0.0,
            **config,
        }
    )
    coordinator = Timed(settings)
    wait_for_workers(coordinator.pool, settings.workers)
    coordinator.train()
    coordinator.close()
    return seconds


def wait_for_workers(pool: Any, workers: int) -> None:
    """Wait until every worker has imported what it needs, so that the first epoch is not charged for it."""
    there: set[int] = set()
    while len(there) < workers:
        there |= set(pool.map(partial(_who, 0.2), range(workers), chunksize=1))


def _who(seconds: float, _: int) -> int:
    import torchbiggraph.train_cpu  # noqa: F401

    time.sleep(seconds)
    return os.getpid()


def read_epoch(checkpoint: Path, epoch: int) -> dict[str, np.ndarray]:
    """Return the vectors (N, D) and, with dynamic relations, what moves sources and targets (R, P)."""
    folder = checkpoint / f"epoch_{epoch}"
    (vectors,), (model,) = folder.glob("embeddings_all_0.v*.h5"), folder.glob("model.v*.h5")
    with h5py.File(vectors, "r") as file:
        arrays = {"vectors": file["embeddings"][:]}
    with h5py.File(model, "r") as file:
        for side, name in (("lhs", "forward"), ("rhs", "backward")):
            operator = file["model"].get(f"relations/0/operator/{side}", {})
            parts = [operator[part][:] for part in ("real", "imag", "diagonals", "translations") if part in operator]
            if parts:
                arrays[name] = np.concatenate(parts, axis=1)
    return arrays


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
