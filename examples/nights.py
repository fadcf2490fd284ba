"""Three nights of a pipeline on MovieLens, and two whose input is damaged.

    python examples/nights.py --data FOLDER [--work FOLDER] [--kills N] [--page] [--json FILE] [--markdown FILE]

FOLDER holds ratings.csv and movies.csv of ml-latest-small (examples/loaders/movielens.py). Needs the extra pipeline.
The log grows from night to night: all likes (4 stars or more) before a cut-off; the three cut-offs lie behind 80, 90
and 100 % of them. Each night `recokit pipeline run` selects, prepares, trains from the version of the night before,
measures, checks the gates and publishes:

links    recall@10 of held-out likes among all movies that the user has not liked; the same pairs every night
genres   ROC-AUC of a logistic regression from movies' vectors to their genres, which the network never sees
drift    of users' and movies' vectors from the night before, and how many of a movie's neighbours stay

Then the third night is run again on a damaged log, from the second night's version:

all-shuffled      the movies of all likes are permuted: every user and movie is there as often as before
tenth-shuffled    the movies of the newest tenth of the likes are permuted

``--kills N`` kills each night N times (SIGKILL, at random moments) before it may end.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from loaders import movielens
from outputs import add_outputs, save, show
from rich.console import Console

from recokit import Report
from recokit.report import Result

SHARES = (0.8, 0.9, 1.0)
CONFIG = """
version = "{date}"
output = "embeddings"
work = "work"

[[relation]]
name = "likes"
source = "user"
target = "movie"
path = "likes.parquet"
sides = "target"

[selection.relation.likes]
until = "{date+1}"

[entity.movie]
min_count = 3

[split]
fraction = 0.1

[train]
dim = 64
operator = "identity"
comparator = "cos"
loss = "softmax"
temperature = 0.16
uniform_negatives = "all"
epochs = 20
learning_rate = 0.1
schedule = "linear"
init = "spectral"

[warm]
epochs = 10

[[benchmark]]
kind = "link"
name = "links"
relation = "likes"
pairs = "held_out"
exclude = "known"
k = 10
floors = true

[[benchmark]]
kind = "topic"
name = "genres"
table = "movie"
labels = "genres.parquet"
columns = { id = "candidate", label = "category" }
min_positives = 100
folds = 3
c = 0.01

[[gate]]
benchmark = "links"
max_drop = "noise"

[[gate]]
benchmark = "genres"
metric = "roc_auc"
max_drop = "noise"

[[gate]]
drift = "movie"
metric = "relative l2"
max = 0.6

[[gate]]
edges = "likes"
max_drop = 0.1

[quantize]
sub_quantizers = 8

[publish]
aliases = ["production"]
page = false
names = { movie = "movies.parquet:movie,title" }
"""


def write_inputs(folder: Path, data: movielens.MovieLens, config: str = CONFIG) -> list[str]:
    """Write the log, the genres and the configuration; return the days of the cut-offs."""
    liked = data.ratings[data.ratings["rating"] >= movielens.LIKED].sort_values("time", kind="stable")
    time = pd.to_datetime(liked["time"], unit="s")
    log = pd.DataFrame({"source": liked["user"], "target": liked["movie"], "time": time})
    log.to_parquet(folder / "likes.parquet", index=False)
    data.genres.to_parquet(folder / "genres.parquet", index=False)
    data.movies.to_parquet(folder / "movies.parquet", index=False)
    (folder / "pipeline.toml").write_text(config)
    places = [min(round(share * len(log)), len(log)) - 1 for share in SHARES]
    return [time.iloc[place].date().isoformat() for place in places]


def damage(folder: Path, share: float) -> None:
    """Permute the movies of the newest share of the likes."""
    log = pd.read_parquet(folder / "likes.parquet")
    first = round((1 - share) * len(log))
    targets = log["target"].to_numpy().copy()
    targets[first:] = np.random.default_rng(0).permutation(targets[first:])
    log.assign(target=targets).to_parquet(folder / "likes.parquet", index=False)


def run_night(folder: Path, day: str, version: str, *, kills: int = 0, seconds: float = 20.0) -> dict[str, Any]:
    """Run one night by the command, killed so many times before it may end; return what the command says."""
    words = [folder / "pipeline.toml", "--date", day, "--version", version, "--json"]
    command = [sys.executable, "-m", "recokit", "pipeline", "run", *map(str, words)]
    drawn = random.Random(version)
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(drawn.uniform(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    return {**json.loads(done.stdout), "code": done.returncode}


def measured(folder: Path, said: dict[str, Any]) -> list[Result]:
    """Read what a night measured, whether it was published or not."""
    key = json.loads((folder / "work/runs" / f"{said['version']}.json").read_text())["steps"]["benchmark"]
    made = folder / "work/benchmark" / key
    reports = [Report.load(path) for name in ("benchmarks", "drift") if (path := made / f"{name}.json").is_file()]
    return [row for report in reports for row in report.results]


def night_row(said: dict[str, Any], rows: Sequence[Result]) -> tuple[str, ...]:
    """One line of the table: what the night had, measured and did."""
    failed = dict.fromkeys(gate["gate"].split()[1] for gate in said["gates"] if gate["status"] == "failed")
    facts = {step["name"]: step.get("facts", {}) for step in said["steps"]}
    edges = facts.get("prepare", {}).get("edges", {}).get("known", {}).get("likes")

    def of(name: str, metric: str, group: str | None = None) -> str:
        found = [row for row in rows if (row.name, row.metric) == (name, metric) and row.group in (group, "likes")]
        if not found:
            return "-"
        (row, *_) = found
        if row.low is None or row.high is None:
            return f"{row.value:.3f}"
        return f"{row.value:.3f} ± {(row.high - row.low) / 2:.3f}"

    return (
        said["version"],
        said["parent"] or "-",
        "-" if edges is None else f"{edges:,}",
        of(said["version"], "recall@10"),
        of(said["parent"], "recall@10"),
        of("degree", "recall@10"),
        of("EASE", "recall@10"),
        of(said["version"], "genres roc_auc"),
        of("movie", "relative l2"),
        of("movie", "overlap@10"),
        "published" if said["published"] else f"stopped by {' and '.join(failed)}",
    )


HEAD: tuple[str, ...] = (
    "version",
    "from",
    "likes",
    "recall@10",
    "of the one before",
    "popularity",
    "EASE",
    "genres AUC",
    "drift",
    "overlap@10",
    "outcome",
)


def nights(
    folder: Path, data: movielens.MovieLens, *, kills: int = 0, config: str = CONFIG
) -> tuple[list[tuple[str, ...]], Report]:
    """Run the three nights and the two damaged ones; return the table and all that was measured."""
    days = write_inputs(folder, data, config)
    lines, report = [HEAD], Report([])
    for number, day in enumerate(days, start=1):
        said = run_night(folder, day, f"night-{number}", kills=kills)
        rows = measured(folder, said)
        lines.append(night_row(said, rows))
        report |= Report(rows)
    store = folder / "embeddings"
    for name, share in (("all-shuffled", 1.0), ("tenth-shuffled", 0.1)):
        aside = folder / name
        for place in (aside, aside / "embeddings"):
            place.mkdir()
        for each in ("likes.parquet", "genres.parquet", "movies.parquet"):
            shutil.copy(folder / each, aside / each)
        shutil.copytree(store / "night-2", aside / "embeddings/night-2")
        (aside / "pipeline.toml").write_text(config)
        damage(aside, share)
        said = run_night(aside, days[-1], name, kills=kills)
        lines.append(night_row(said, measured(aside, said)))
        report |= Report(measured(aside, said))
    return lines, report


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="keep what is made here, in a new folder")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="write report pages into the versions")
    add_outputs(parser, "json", "markdown")
    options = parser.parse_args(words)
    config = CONFIG.replace("page = false", "page = true") if options.page else CONFIG
    data = movielens.load(options.data)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch) / "nights"
        folder.mkdir(parents=True)
        lines, report = nights(folder, data, kills=options.kills, config=config)
    protocol = {"links": "held-out likes, the same pairs every night", "kills": f"{options.kills} of each night"}
    show(Console(soft_wrap=True), "nights", lines, protocol)
    save(options, report, lines)


if __name__ == "__main__":
    main()
