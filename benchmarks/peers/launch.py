"""Run an adapter in another environment on the same cores, and say where and with what a benchmark ran."""

__all__ = ["commit", "launch", "machine", "share_cores"]

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_HERE = Path(__file__).parent


def share_cores(threads: int) -> list[int]:
    """Bind this process, and so every adapter that it starts, to the first ``threads`` cores that it may use."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)
    return cores


def launch(
    python: str,
    adapter: str,
    folder: Path,
    task: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    *words: str,
    threads: int,
) -> dict[str, Any]:
    """Hand a task to an adapter in a folder made anew, wait for it, and return its result.json.

    Raises:
        SystemExit: The adapter failed; the message ends with what it said last.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps(task))
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads)), "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTHONPATH", None)
    # Where the adapter stands, files of this folder would be found before installed packages: -P.
    command = [python, "-P", str(_HERE / f"{adapter}.py"), str(folder), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{adapter} failed under {python}:\n{(done.stdout + done.stderr)[-3000:]}")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def machine(cores: Sequence[int]) -> dict[str, Any]:
    """Return what the benchmark runs on."""
    return {"processor": _processor(), "architecture": platform.machine(), "cores": list(cores)}


def commit() -> str:
    """Return the commit of the checkout that this file is in, or ``unknown``."""
    command = ["git", "-C", str(_HERE), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of installed packages."""
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
