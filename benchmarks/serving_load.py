"""The service under load: requests a second and latencies, beside the bare call, and while versions switch.

    python benchmarks/serving_load.py [--entities 20000] [--index exact] [--requests 300] [--seconds 3] [--json]

Needs the extra serve. A planted version of users and items (200 groups, dimension 64) is served by a second process on
loopback; this process sends prepared bytes over connections that stay open, and reads no more of an answer than its
status, its version and its length, so that it takes little of the machine's time. Each line is one endpoint, batch and
number of clients, of which each sends its next request when the last one is answered. "bare" is the same call on the
same index in this process with nothing else running: the look-up, or ``CandidateGenerator``; and, of neighbours,
``index.search`` alone. Then new versions are published while clients ask for neighbours: no request may fail, and the
latencies of the requests answered within half a second of a switch stand beside the others. Publishing copies a version
on the same machine, which is part of what those latencies show.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np

from recokit import CandidateGenerator, EmbeddingTable, ExactIndex, FaissIndex, HNSWIndex, RelationParameters, Version
from recokit.index import Index
from recokit.table import write_version

DIM, GROUPS, K = 64, 200, 10
BODIES = 200  # prepared requests, sent in turn


def publish(store: Path, name: str, entities: int, seed: int) -> Version:
    """Write a version of users and items that lie around the same centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((GROUPS, DIM), dtype=np.float32)
    tables = {}
    for entity, ids in (("user", [f"u{n}" for n in range(entities)]), ("item", range(entities))):
        vectors = centres[rng.integers(0, GROUPS, entities)]
        vectors += 0.3 * rng.standard_normal((entities, DIM), dtype=np.float32)
        tables[entity] = EmbeddingTable.from_arrays(list(ids), vectors, entity=entity, version=name, comparator="cos")
    relation = RelationParameters("clicks", "user", "item", "translation", np.zeros(DIM, np.float32))
    return write_version(store / name, tables, relations=[relation])


@contextmanager
def service(store: Path, index: str, threads: int) -> Iterator[str]:
    """Run the service and yield its URL when it is ready."""
    command = [sys.executable, "-m", "recokit", "serve", str(store), "--port", "0", "--json", "--poll", "200ms"]
    process = subprocess.Popen(
        [*command, "--index", index, "--threads", str(threads)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        said = process.stdout.readline() if process.stdout else ""
        if not said:
            raise SystemExit("the service did not start")
        url = str(json.loads(said)["url"])
        for _ in range(3000):
            try:
                urlopen(f"{url}/readyz").close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@dataclass(frozen=True)
class Answered:
    """One request: when it was answered, how long that took, its status, and the version that answered."""

    at: float
    seconds: float
    status: int
    version: bytes


class Client(asyncio.Protocol):
    """One connection, which sends its next request when the last one is answered, until ``more`` says no."""

    def __init__(self, requests: Iterator[bytes], more: Callable[[], bool], answered: list[Answered]) -> None:
        self.requests, self.more, self.answered = requests, more, answered
        self.done = asyncio.get_running_loop().create_future()
        self.received, self.wanted = bytearray(), -1

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self.received.clear()
        self.wanted = -1
        self.started = time.perf_counter()
        self.transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        """Take part of an answer."""
        self.received += data
        if self.wanted < 0 and (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.received[:end]).lower()
            self.status = int(head[9:12])
            self.version = head.partition(b"x-recokit-version: ")[2].partition(b"\r\n")[0]
            self.wanted = end + 4 + int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if 0 <= self.wanted <= len(self.received):
            now = time.perf_counter()
            self.answered.append(Answered(now, now - self.started, self.status, self.version))
            if self.more():
                self._send()
            else:
                self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Note a request that was never answered."""
        if self.more():
            self.answered.append(Answered(time.perf_counter(), 0.0, 0, b""))
        if not self.done.done():
            self.done.set_result(None)


def drive(url: str, requests: Sequence[bytes], clients: int, more: Callable[[list[Answered]], bool]) -> list[Answered]:
    """Send requests from several clients for as long as ``more`` says so."""
    answered: list[Answered] = []

    async def all_clients() -> None:
        loop, turn, place = asyncio.get_running_loop(), cycle(requests), urlsplit(url)
        host, port = place.hostname or "", place.port or 80
        made = [
            await loop.create_connection(lambda: Client(turn, lambda: more(answered), answered), host, port)
            for _ in range(clients)
        ]
        await asyncio.gather(*(client.done for _, client in made))

    asyncio.run(all_clients())
    return answered


def request(path: str, body: dict[str, Any], accept: str = "application/json") -> bytes:
    """Return the bytes of one request."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: {accept}\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def requests_of(work: str, batch: int, entities: int) -> list[bytes]:
    """Prepare requests of one kind, each for ids of its own."""
    rng = np.random.default_rng(batch)
    made = []
    for _ in range(BODIES):
        rows = rng.integers(0, entities, batch).tolist()
        users = [f"u{row}" for row in rows]
        if work == "candidates":
            made.append(request("/v1/candidates", {"relation": "clicks", "ids": users, "k": K}))
        elif work == "neighbors":
            made.append(request("/v1/neighbors", {"table": "item", "ids": rows, "k": K}))
        else:
            accept = "application/octet-stream" if work == "vectors, binary" else "application/json"
            made.append(request("/v1/vectors", {"table": "item", "ids": rows}, accept))
    return made


def bare_calls(version: Version, index: Index) -> dict[str, dict[str, Callable[[list[int]], Any]]]:
    """Return what answers each kind of request, without a service."""
    users, items = version.table("user"), version.table("item")
    near = CandidateGenerator(index, items)
    liked = CandidateGenerator(index, users, version.relations["clicks"])

    def look_up(rows: list[int]) -> Any:
        return items.vectors[items.rows(rows)].astype(np.float32)

    return {
        "vectors": {"bare": look_up},
        "vectors, binary": {"bare": look_up},
        "neighbors": {"bare": lambda rows: near(rows, K), "search": lambda rows: index.search(look_up(rows), K)},
        "candidates": {"bare": lambda rows: liked([f"u{row}" for row in rows], K)},
    }


def timed(call: Callable[[list[int]], Any], batch: int, entities: int) -> float:
    """Return the median milliseconds of a call."""
    rng = np.random.default_rng(0)
    seconds = []
    for turn in range(25):
        rows = rng.integers(0, entities, batch).tolist()
        start = time.perf_counter()
        call(rows)
        if turn >= 5:
            seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds))


def summary(answered: Sequence[Answered]) -> dict[str, float]:
    """Return the rate and the latencies of requests that were answered."""
    times = 1e3 * np.array([each.seconds for each in answered if each.status == 200] or [np.nan])
    first = min(each.at - each.seconds for each in answered)
    return {
        "requests": len(answered),
        "failed": sum(each.status != 200 for each in answered),
        "per second": len(answered) / (max(each.at for each in answered) - first),
        "p50": float(np.percentile(times, 50)),
        "p99": float(np.percentile(times, 99)),
        "max": float(times.max()),
    }


def measure_load(url: str, version: Version, index: Index, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure each kind of request, batch and number of clients."""
    lines: list[dict[str, Any]] = []
    for work, calls in bare_calls(version, index).items():
        for batch in asked.batches:
            bare = {name: timed(call, batch, asked.entities) for name, call in calls.items()}
            requests = requests_of(work, batch, asked.entities)
            drive(url, requests, 4, lambda answered: len(answered) < 40)  # warm
            for clients in asked.clients:
                end = time.perf_counter() + asked.seconds
                found = drive(
                    url,
                    requests,
                    clients,
                    lambda answered, end=end: len(answered) < asked.requests and time.perf_counter() < end,  # type: ignore[misc]
                )
                lines.append({"work": work, "batch": batch, "clients": clients, **summary(found), **bare})
    return lines


def measure_switch(url: str, store: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Publish versions while clients ask, and return what the clients saw."""
    command = [sys.executable, __file__, "--publish", str(store), "--entities", str(asked.entities)]
    publisher = subprocess.Popen([*command, "--switches", str(asked.switches)])
    last = f"v{asked.switches + 1}".encode()
    deadline = time.perf_counter() + 60 + 20 * asked.switches
    after = float("inf")

    def more(answered: list[Answered]) -> bool:
        nonlocal after
        now = time.perf_counter()
        if after == float("inf") and answered and answered[-1].version == last:
            after = now + 1
        return bool(now < min(after, deadline))

    answered = drive(url, requests_of("neighbors", 1, asked.entities), 8, more)
    if publisher.wait(60):
        raise SystemExit("the publisher failed")
    answered.sort(key=lambda each: each.at)
    seen = [each for each in answered if each.status == 200]
    switches = [b.at for a, b in pairwise(seen) if a.version != b.version]
    near = [each for each in answered if any(abs(each.at - at) < 0.5 for at in switches)]
    far = [each for each in answered if not any(abs(each.at - at) < 0.5 for at in switches)]
    return {
        "versions": sorted({each.version.decode() for each in seen}),
        "switches": len(switches),
        "around a switch": summary(near),
        "otherwise": summary(far),
    }


def markdown(asked: argparse.Namespace, lines: list[dict[str, Any]], switch: dict[str, Any]) -> str:
    """Return both tables."""
    out = [
        f"{asked.entities:,} users and items, dimension {DIM}, k = {K}, index {asked.index}\n",
        "| work | ids | clients | requests/s | ids/s | p50, ms | p99, ms | bare call, ms | index alone, ms | failed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in lines:
        rate, search = row["per second"], row.get("search")
        out.append(
            f"| {row['work']} | {row['batch']} | {row['clients']} | {rate:,.0f} | {rate * row['batch']:,.0f} "
            f"| {row['p50']:.1f} | {row['p99']:.1f} | {row['bare']:.2f} | {'' if search is None else f'{search:.2f}'} "
            f"| {row['failed']} |"
        )
    out += [
        f"\nwhile {switch['switches']} versions took their places, 8 clients, neighbors of 1 id:\n",
        "| requests | answered | failed | p50, ms | p99, ms | max, ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in ("around a switch", "otherwise"):
        row = switch[name]
        out.append(
            f"| {name} | {row['requests']:,} | {row['failed']} | {row['p50']:.1f} | {row['p99']:.1f} "
            f"| {row['max']:.1f} |"
        )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=20_000)
    parser.add_argument("--index", choices=("exact", "hnsw", "faiss"), default="exact")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--requests", type=int, default=300, help="of each line, at most")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each line, at most")
    parser.add_argument("--switches", type=int, default=3)
    parser.add_argument("--publish", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.publish is not None:
        for number in range(asked.switches):
            publish(asked.publish, f"v{number + 2}", asked.entities, seed=number + 2)
            time.sleep(2)
        return
    kinds: dict[str, Callable[[EmbeddingTable], Index]] = {
        "exact": ExactIndex.build,
        "hnsw": HNSWIndex.build,
        "faiss": FaissIndex.build,
    }
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        version = publish(store, "v1", asked.entities, seed=1)
        index: Index = kinds[asked.index](version.table("item"))
        with service(store, asked.index, asked.threads) as url:
            lines = measure_load(url, version, index, asked)
            switch = measure_switch(url, store, asked)
    print(json.dumps({"load": lines, "switch": switch}) if asked.json else markdown(asked, lines, switch))
    failed = sum(row["failed"] for row in [*lines, switch["around a switch"], switch["otherwise"]])
    if failed:
        raise SystemExit(f"{failed} requests failed, expected none")


if __name__ == "__main__":
    main()
