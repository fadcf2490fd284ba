"""A planted network that grows from night to night, and the configuration of its pipeline.

120 users and 60 items in 4 groups; a user clicks on items of the own group, and follows two others of it.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd

CONFIG = """
version = "{date}"
output = "store"
work = "work"

[[relation]]
name = "clicks"
source = "user"
target = "item"
path = "clicks/*.parquet"

[[relation]]
name = "follows"
source = "user"
target = "user"
path = "follows.csv"

[split]
fraction = 0.15

[train]
dim = 8
epochs = 12
learning_rate = 0.1
uniform_negatives = 20
temperature = 0.2
batch_size = 256

[warm]
epochs = 2

[[benchmark]]
kind = "link"
name = "links"
relation = "clicks"
pairs = "held_out"
exclude = "known"

[drift]
sample = 30

[[gate]]
benchmark = "links"
min = 0.5

[[gate]]
benchmark = "links"
max_drop = "noise"

[[gate]]
drift = "user"
metric = "relative l2"
max = 0.8

[[gate]]
edges = "clicks"
max_drop = 0.3

[publish]
aliases = ["production"]
page = false
"""


def clicks(night: int) -> pd.DataFrame:
    """What happened on one night: source, target, time."""
    rng = np.random.default_rng(night)
    users = np.repeat(np.arange(120), 5)
    items = users % 4 + 4 * rng.integers(0, 15, len(users))
    time = pd.Timestamp("2026-06-01") + pd.to_timedelta(night * 24 * 60 + rng.integers(0, 1000, len(users)), "min")
    return pd.DataFrame({"source": [f"u{user}" for user in users], "target": items, "time": time})


def follows() -> pd.DataFrame:
    """Who follows whom."""
    users = np.repeat(np.arange(120), 2)
    others = (users + 4 * np.tile([1, 3], 120)) % 120
    return pd.DataFrame({"source": [f"u{user}" for user in users], "target": [f"u{user}" for user in others]})


def write_nights(folder: Path, nights: int, config: str = CONFIG) -> Path:
    """Write the edges of so many nights, and the configuration; return its path."""
    (folder / "clicks").mkdir(parents=True, exist_ok=True)
    for night in range(nights):
        clicks(night).to_parquet(folder / "clicks" / f"{night}.parquet", index=False)
    follows().to_csv(folder / "follows.csv", index=False)
    path = folder / "pipeline.toml"
    path.write_text(config)
    return path


def files_of(folder: Path, version: str) -> dict[str, str]:
    """What a version holds, but for what says when: digests by file."""
    import json

    manifest = json.loads((folder / "store" / version / "version.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest["files"].items() if not name.startswith("reports/")}


def kill_often(folder: Path, version: str, points: list[float], by: str) -> None:
    """Run the pipeline in one process after another, kill each with SIGKILL, and let the last one end.

    Args:
        folder: Of ``write_nights``.
        version: What to make.
        points: When to kill: the number of the fsync that does not happen any more, or seconds.
        by: ``"fsync"`` or ``"seconds"``.

    Writes to the standard output how many were killed.
    """
    import signal
    import threading

    import torch

    from pretrain.pipeline import load_pipeline, run_pipeline

    torch.set_num_threads(1)
    killed = 0
    for point in [*points, None]:
        pid = os.fork()  # before anything of the parent has run on several threads
        if pid == 0:
            code = 1
            try:
                if by == "fsync" and point is not None:
                    _kill_at(int(point))
                if by == "seconds" and point is not None:
                    timer = threading.Timer(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
                    timer.daemon = True
                    timer.start()
                outcome = run_pipeline(load_pipeline(folder / "pipeline.toml", version=version), checkpoint_seconds=0)
                code = 0 if outcome.published else 3
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            killed += 1
        elif os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit(f"a run ended with {status}")
        shown = sorted(each.name for each in (folder / "store").glob("[!.]*"))
        for name in shown:  # whatever is to be seen is whole
            from recokit import open_version

            open_version(folder / "store" / name, verify=True)
    sys.stdout.write(f"{killed}\n")


def _kill_at(number: int) -> None:
    import signal

    plain, left = os.fsync, [number]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(descriptor)

    os.fsync = fsync


if __name__ == "__main__":
    kill_often(Path(sys.argv[1]), sys.argv[2], [float(each) for each in sys.argv[4:]], sys.argv[3])
