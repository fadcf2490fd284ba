"""Mixtures of many users from a log: users a minute, where the time goes, k-means, and a request of one user.

    python benchmarks/inductive_mixtures.py [--users 2000000] [--interactions 20] [--items 1000000] [--json]

Users have a few topics of items each, and the log is in the order of time, so that a user's rows are scattered. Ids are
int64; with --strings, they are strings. Steps are timed in one run by wrapping the functions that take them, so that
they add up; what is left is "other". A request is ``transform`` of one user's interactions, with everything that it
does for millions: reading, checks, and the mixture.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recokit.mixture import InterestClusters, clusters, engagement
from recokit.table import EmbeddingTable, Mixture

TOPICS = 500


def planted(arguments: argparse.Namespace) -> tuple[EmbeddingTable, pd.DataFrame]:
    """Items around topics, and users who engage with three topics, half of the time with the first."""
    rng = np.random.default_rng(arguments.seed)
    topic = rng.integers(0, TOPICS, arguments.items)
    centers = rng.normal(size=(TOPICS, arguments.dim)).astype(np.float32)
    vectors = centers[topic] + 0.7 * rng.normal(size=(arguments.items, arguments.dim)).astype(np.float32)
    ids = rng.permutation(arguments.items)
    by_topic = np.argsort(topic, kind="stable")
    starts = np.searchsorted(topic[by_topic], np.arange(TOPICS + 1))
    count = arguments.users * arguments.interactions
    users = rng.permutation(np.repeat(np.arange(arguments.users), arguments.interactions))
    interests = rng.integers(0, TOPICS, (arguments.users, 3))
    chosen = interests[users, np.array([0, 0, 1, 2])[rng.integers(0, 4, count)]]
    drawn = starts[chosen] + (rng.random(count) * np.diff(starts)[chosen]).astype(np.int64)
    targets = ids[by_topic[np.minimum(drawn, arguments.items - 1)]]
    table = EmbeddingTable.from_arrays(
        _names("i", ids, arguments.strings), vectors, entity="item", version="planted", comparator="cos"
    )
    frame = pd.DataFrame(
        {"source": _names("u", users, arguments.strings), "target": _names("i", targets, arguments.strings)}
    )
    if arguments.weighted:
        frame["weight"] = rng.choice([1.0, 3.0, 5.0], count)
        frame["time"] = np.arange(count)
    return table, frame


def _names(letter: str, numbers: NDArray[np.int64], strings: bool) -> Any:
    return pd.Series(np.char.add(letter, numbers.astype(str)), dtype="str") if strings else numbers


@contextmanager
def timed_steps(seconds: dict[str, float]) -> Iterator[None]:
    """Add the wall time of each step's function to ``seconds``."""
    steps: list[tuple[str, Any, str]] = [
        ("read and check", engagement, "read_frame"),
        ("number users", engagement, "number_ids"),
        ("look items up", EmbeddingTable, "rows"),
        ("ages", engagement, "_ages"),
        ("assign items", InterestClusters, "_clusters_of"),
        ("sum by cluster", clusters, "share_matrix"),
        ("keep the top", clusters, "keep_top"),
        ("make the mixture", Mixture, "from_rows"),
    ]

    def wrapped(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - start

        return call

    with ExitStack() as stack:
        for step, owner, name in steps:
            stack.enter_context(mock.patch.object(owner, name, wrapped(step, getattr(owner, name))))
        yield


def request_microseconds(
    fitted: InterestClusters, table: EmbeddingTable, frame: pd.DataFrame, options: dict[str, Any], requests: int
) -> dict[str, float]:
    """Return the median and the 99th percentile of transforms of one user each."""
    some = frame["source"].drop_duplicates().head(requests)
    logs = [part for _, part in frame[frame["source"].isin(some)].groupby("source")]
    fitted.transform(logs[0], table, **options)
    times = []
    for log in logs:
        start = time.perf_counter()
        fitted.transform(log, table, **options)
        times.append(1e6 * (time.perf_counter() - start))
    return {"median": float(np.median(times)), "p99": float(np.percentile(times, 99))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {
        "users": 100_000,
        "interactions": 20,
        "items": 50_000,
        "dim": 64,
        "clusters": 1000,
        "top": 5,
        "requests": 200,
        "seed": 0,
    }
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--iterations", type=int, default=25, help="of k-means")
    parser.add_argument("--strings", action="store_true", help="string ids")
    parser.add_argument("--weighted", action="store_true", help="weights, times and a half-life")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    table, frame = planted(arguments)
    start = time.perf_counter()
    fitted = InterestClusters.fit(table, arguments.clusters, seed=arguments.seed, iterations=arguments.iterations)
    fit_s = time.perf_counter() - start
    options: dict[str, Any] = {"top": arguments.top}
    if arguments.weighted:
        options["half_life"] = len(frame) / 4
    steps: dict[str, float] = {}
    start = time.perf_counter()
    with timed_steps(steps):
        mixture = fitted.transform(frame, table, **options)
    total = time.perf_counter() - start
    steps["other"] = total - sum(steps.values())
    result = {
        "settings": vars(arguments),
        "fit_s": fit_s,
        "clusters": len(fitted),
        "transform_s": total,
        "users_per_minute": 60 * len(mixture) / total,
        "interactions_per_second": len(frame) / total,
        "share": {step: seconds / total for step, seconds in steps.items()},
        "request_us": request_microseconds(fitted, table, frame, options, arguments.requests),
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"k-means of {arguments.items:,} items in {len(fitted):,} clusters: {fit_s:.1f} s")
    print(f"{len(mixture):,} users of {len(frame):,} interactions: {total:.2f} s", end=", ")
    print(f"{result['users_per_minute'] / 1e6:.1f} M users a minute")
    for step, seconds in steps.items():
        print(f"  {step:18}{seconds:8.2f} s {seconds / total:6.1%}")
    print("one user: {median:,.0f} us median, {p99:,.0f} us at the 99th percentile".format(**result["request_us"]))


if __name__ == "__main__":
    main()
