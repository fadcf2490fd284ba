"""Tables larger than memory, from edge files to held-out ranks: seconds, peak memory and disk of every phase.

    python benchmarks/larger_than_memory.py
    python benchmarks/larger_than_memory.py --entities 100_000 --edges 1_000_000 --memory 700MB
    python benchmarks/larger_than_memory.py --entities 20_000_000 --edges 200_000_000 --memory 8GB --folder /data --json

The network is planted: one type of entities in communities of 200, whose edges go to a member of the source's community
in proportion to 1 / rank, but one in ten, which goes anywhere.  Every phase is a process of its own, so that its peak
(VmHWM, which Linux tells) is its own; importing is in the peak and not in the seconds.

write       the Parquet file, in pieces
prepare     partitions and buckets; ``plan_partitions`` says how many, for the memory that is given
train       ``--epochs`` passes; with ``--kill`` (the default) a process is killed by SIGKILL half way, and another one
            resumes
evaluate    held-out edges, both ends asked for, ranked among all entities; beside the order by number of edges, and
            chance
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from peers.launch import commit, machine, versions

from pretrain import Relation, TrainConfig, prepare
from pretrain.memory import parse_size, process_bytes
from pretrain.partition_store import PartitionStore
from pretrain.partitioned import PartitionedModel, plan_partitions, train_partitioned
from pretrain.partitioned_evaluate import evaluate_partitioned
from pretrain.prepared import PreparedGraph

RELATION = Relation("follows", "member", "member")
GROUP = 200  # members of a community
NOISE = 0.1
_BATCH = 2_000_000  # edges of a piece
_ODD = np.uint64(0x9E3779B97F4A7C15)  # multiplying by an odd number permutes the integers of 64 bits
_AGAIN = 0.2  # seconds between two looks at the folder


def main() -> None:
    options = parsed()
    if options.phase:
        print(json.dumps(PHASES[options.phase](options)))
        return
    root = Path(tempfile.mkdtemp(dir=options.folder, prefix="larger-than-memory-"))
    options.root = root
    try:
        result = {
            "benchmark": "larger_than_memory",
            "machine": machine(sorted(os.sched_getaffinity(0))),
            "load": round(os.getloadavg()[1], 1),
            "versions": versions("recokit", "torch", "numpy", "pyarrow", "duckdb"),
            "commit": commit(),
            "settings": {name: getattr(options, name) for name in SETTINGS},
            **phases(options),
        }
    finally:
        if not options.keep:
            shutil.rmtree(root)
    print(json.dumps(result) if options.json else said(result))


SETTINGS = ("entities", "edges", "dim", "negatives", "batch_size", "epochs", "memory", "threads", "seed", "questions")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--edges", type=int, default=1_000_000, help="at least as many as entities")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--negatives", type=int, default=100, help="a side")
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--memory", default="8GB", help="what every process but the writer may take")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0, help="of the network and of training")
    parser.add_argument("--held-out", type=float, default=0.005, help="share of the edges")
    parser.add_argument("--questions", type=int, default=2000, help="held-out edges that are asked about")
    parser.add_argument("--commit-seconds", type=float, default=60.0)
    parser.add_argument("--kill", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--folder", type=Path, help="where to put the files; a temporary folder where not given")
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--phase", choices=tuple(PHASES), help=argparse.SUPPRESS)  # a process of its own
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--baseline", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--kill-at", type=int, help=argparse.SUPPRESS)  # edges
    options = parser.parse_args()
    if options.edges < options.entities:
        parser.error("every entity has an edge: --edges is below --entities")
    return options


def phases(options: argparse.Namespace) -> dict[str, Any]:
    """Run all phases and put together what they say."""
    found: dict[str, Any] = {}
    with Disk(options.root) as disk:
        for phase in ("write", "prepare"):
            found[phase] = launch(phase, options, **({"--baseline": baseline(options)} if phase == "prepare" else {}))
            found[phase]["disk_peak_mb"] = disk.taken()
        known = found["prepare"]["edges"]
        tables = options.entities * (options.dim + 1) * 4
        found["tables_mb"], found["memory_mb"] = round(tables / 1e6), round(parse_size(options.memory) / 1e6)
        if options.kill:
            found["killed"] = launch("train", options, **{"--kill-at": options.epochs * known // 2})
            found["killed"]["disk_peak_mb"] = disk.taken()
        found["train"] = launch("train", options)
        found["train"]["disk_peak_mb"] = disk.taken()
        found["evaluate"] = launch("evaluate", options)
    return found


def baseline(options: argparse.Namespace) -> int:
    """Return what a process holds that has imported all this."""
    return int(launch("import", options)["bytes"])


def launch(phase: str, options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Run a phase in a process of its own; one that is killed has said what it had done in a file."""
    words = [word for pair in more.items() for word in map(str, pair)]
    command = [sys.executable, __file__, *sys.argv[1:], "--phase", phase, "--root", str(options.root), *words]
    killed = options.root / "killed.json"
    started = time.perf_counter()
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode and not ("--kill-at" in more and killed.exists()):
        raise SystemExit(f"the phase {phase} failed with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1] if done.returncode == 0 else killed.read_text())
    return {**found, "wall_seconds": round(time.perf_counter() - started, 1)}


class Disk:
    """Watches how many bytes a folder holds."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._peak, self._ended = folder, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Disk":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def taken(self) -> int:
        """Return the most MB since the last call."""
        peak, self._peak = self._peak, 0
        return round(peak / 1e6)

    def _watch(self) -> None:
        while not self._ended.wait(_AGAIN):
            self._peak = max(self._peak, sum(sizes(self._folder)))


def sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it may just have been removed
            yield path.stat().st_size if path.is_file() else 0


def peak_mb() -> int:
    """Return the most that this process has held."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)


# -- phases ------------------------------------------------------------------------------------------------------------


def imported(options: argparse.Namespace) -> dict[str, Any]:
    return {"bytes": process_bytes()}


def write(options: argparse.Namespace) -> dict[str, Any]:
    """Write the edges: every entity is the source of one, then sources are drawn evenly."""
    draw, started = np.random.default_rng(options.seed), time.perf_counter()
    schema = pa.schema({"source": pa.int64(), "target": pa.int64()})
    with pq.ParquetWriter(options.root / "edges.parquet", schema) as writer:
        for start in range(0, options.edges, _BATCH):
            count = min(_BATCH, options.edges - start)
            sources = draw.integers(options.entities, size=count)
            first = np.arange(start, min(start + count, options.entities))
            sources[: len(first)] = first
            ends = (sources, targets_of(sources, options.entities, draw))
            writer.write_table(pa.table([pa.array(ids_of(rows)) for rows in ends], schema=schema))
    return {"seconds": round(time.perf_counter() - started, 1), "peak_mb": peak_mb()}


def targets_of(sources: NDArray[np.int64], entities: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """Draw a target for each source: members of a community are numbered one after the other, in its ranking."""
    first = sources - sources % GROUP
    members = np.minimum(entities - first, GROUP)
    inside = first + (np.exp(draw.random(len(sources)) * np.log(members + 1)) - 1).astype(np.int64)
    anywhere = draw.integers(entities, size=len(sources))
    return np.where(draw.random(len(sources)) < NOISE, anywhere, inside)


def ids_of(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distinct ids whose order says nothing."""
    return ((rows + 1).astype(np.uint64) * _ODD).view(np.int64)


def prepared_in(options: argparse.Namespace) -> dict[str, Any]:
    config, started = config_of(options), time.perf_counter()
    prepared = prepare(
        options.root / "prepared",
        [RELATION],
        files={"follows": options.root / "edges.parquet"},
        partitions=lambda entities, edges: plan_partitions(
            options.memory, entities, edges, config, [RELATION], baseline=options.baseline
        ),
        held_out=options.held_out,
        seed=options.seed,
        memory=options.memory,
        threads=options.threads,
    )
    (options.root / "edges.parquet").unlink()
    seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 1),
        "edges_per_second": round(options.edges / seconds),
        "peak_mb": peak_mb(),
        "partitions": prepared.partitions,
        "chunks": sum(prepared.chunks(*bucket) for bucket in prepared.buckets),
        "edges": sum(prepared.num_edges.values()),
    }


def trained(options: argparse.Namespace) -> dict[str, Any]:
    """Train, or go on; where it is to be killed, it does that itself, once so many edges are trained."""
    first = committed_edges(options)
    loads, started, done = count_loads(), time.perf_counter(), [first]

    def said() -> dict[str, Any]:
        seconds = time.perf_counter() - started
        return {
            "seconds": round(seconds, 1),
            "from_edge": first,
            "edges": done[0] - first,
            "edges_per_second": round((done[0] - first) / seconds),
            "peak_mb": peak_mb(),
            "loads": sum(loads),
        }

    def callback(event: Any) -> None:
        if event["event"] != "step":
            return
        done[0] = (event["epoch"] - 1) * event["edges"] + event["done"]
        if options.kill_at and done[0] >= options.kill_at:
            (options.root / "killed.json").write_text(json.dumps(said()))
            os.kill(os.getpid(), 9)

    with learned(options, callback) as model:
        return {**said(), "loss": round(model.epochs[-1]["loss"], 4)}


def committed_edges(options: argparse.Namespace) -> int:
    """Return how many edges had been trained at the last commit."""
    manifest, edges = options.root / "run" / "manifest.json", PreparedGraph.open(options.root / "prepared").num_edges
    record = json.loads(manifest.read_text())["record"] if manifest.exists() else {}
    return int((record.get("epoch", 1) - 1) * sum(edges.values()) + record.get("done", 0))


def count_loads() -> list[int]:
    """Count the partitions that are read or drawn from now on."""
    loads, fill = [], PartitionStore._fill

    def counted(store: PartitionStore, *arguments: Any) -> None:
        loads.append(1)
        fill(store, *arguments)

    PartitionStore._fill = counted  # type: ignore[method-assign]
    return loads


def evaluated(options: argparse.Namespace) -> dict[str, Any]:
    """Rank the held-out ends; the same questions by the order of occurrences, and by chance."""
    with learned(options) as model:
        started, prepared = time.perf_counter(), model.prepared
        evaluation = evaluate_partitioned(model, questions=options.questions, seed=options.seed)
        seconds = time.perf_counter() - started
    rows = evaluation.ranks["true"].to_numpy()
    degrees = np.sort(np.asarray(prepared.degrees("member")))
    own = np.asarray(prepared.degrees("member"))[rows]
    below, upto = np.searchsorted(degrees, own), np.searchsorted(degrees, own, side="right")
    by_degree = len(degrees) - upto + (upto - below + 1) / 2  # the mean of its ties
    chance = (np.log(len(degrees)) + np.euler_gamma) / len(degrees)
    return {
        "seconds": round(seconds, 1),
        "peak_mb": peak_mb(),
        "ranks": len(rows),
        "mrr": round(evaluation.value("mrr"), 4),
        "hits@10": round(evaluation.value("hits@10"), 4),
        "mrr_by_popularity": round(float((1 / by_degree).mean()), 6),
        "mrr_by_chance": round(float(chance), 6),
    }


PHASES = {"import": imported, "write": write, "prepare": prepared_in, "train": trained, "evaluate": evaluated}


def config_of(options: argparse.Namespace) -> TrainConfig:
    return TrainConfig(
        dim=options.dim,
        epochs=options.epochs,
        batch_size=options.batch_size,
        uniform_negatives=options.negatives,
        seed=options.seed,
    )


@contextlib.contextmanager
def learned(options: argparse.Namespace, callback: Any = None) -> Iterator[PartitionedModel]:
    """Train to the end from wherever the run stands."""
    torch.set_num_threads(options.threads)
    prepared = PreparedGraph.open(options.root / "prepared")
    arguments = {"commit_seconds": options.commit_seconds, "resume": True, "callback": callback}
    model = train_partitioned(prepared, config_of(options), path=options.root / "run", **arguments)
    try:
        yield model
    finally:
        model.close()


def said(result: dict[str, Any]) -> str:
    rows = [(key, value) for key, value in result.items() if not isinstance(value, dict)]
    rows += [
        (f"{key} {name}", value)
        for key, part in result.items()
        if isinstance(part, dict)
        for name, value in part.items()
    ]
    return "\n".join(f"{name:28} {value}" for name, value in rows)


if __name__ == "__main__":
    main()
