"""Requests that wait are answered by one call, in threads beside the event loop.

No request waits for others to come: a thread that becomes free takes all that is queued of the oldest kind.  Alone, a
request is worked on at once; under load, calls become as large as the load makes them.  A search for 32 ids takes about
as long as two searches for one (docs/serving.md has figures), so this is where the throughput comes from.
"""

__all__ = ["Batcher", "QueueFullError"]

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from recokit.errors import RecokitError

Call = Callable[[Sequence[Any]], Sequence[Any]]


class QueueFullError(RecokitError):
    """More requests wait than may."""


@dataclass(eq=False, slots=True)
class _Job:
    item: Any
    size: int
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    call: Call
    abandoned: bool = False  # nobody waits for it any more


class Batcher:
    """A queue of jobs, and threads that work on all of one kind at once.

    Args:
        threads: How many calls run side by side.
        queue: Jobs that may wait.
        most: The largest sum of sizes of a call of several jobs.
        observe: Takes the number of jobs of each call.
    """

    def __init__(
        self, *, threads: int, queue: int, most: int, observe: Callable[[int], None] = lambda number: None
    ) -> None:
        self._queue, self._most, self._observe = queue, most, observe
        self._waiting: OrderedDict[Hashable, deque[_Job]] = OrderedDict()  # by kind, the oldest first
        self._count = 0
        self._stopped = True
        self._changed = threading.Condition()
        self._number = threads
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads."""
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"serve-{number}", daemon=True) for number in range(self._number)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what is queued, and end the threads."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def waiting(self) -> int:
        """The number of jobs that no thread has taken yet."""
        return self._count

    async def run(self, kind: Hashable, call: Call, item: Any, *, size: int, timeout: float) -> Any:
        """Return what ``call`` makes of ``item``, alone or among others of its kind.

        Args:
            kind: Jobs of equal kinds may be answered by the ``call`` of one of them.
            call: Takes items and returns as many results; where it raises for several, each is tried alone.
            item: What it is called with.
            size: How much it asks for.
            timeout: Seconds to wait.

        Raises:
            QueueFullError: Too many jobs wait.
            TimeoutError: It took too long; where it was still queued, it is not worked on any more.
        """
        loop = asyncio.get_running_loop()
        job = _Job(item, size, loop.create_future(), loop, call)
        with self._changed:
            if self._count >= self._queue or self._stopped:
                raise QueueFullError(f"{self._count} requests wait already")
            self._waiting.setdefault(kind, deque()).append(job)
            self._count += 1
            self._changed.notify()
        try:
            async with asyncio.timeout(timeout):
                return await job.future
        finally:
            job.abandoned = True

    def _work(self) -> None:
        while (jobs := self._next()) is not None:
            self._answer(jobs)
            del jobs  # they hold the version that answered, which may be replaced before the next ones come

    def _answer(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        self._observe(len(jobs))
        results = _called(jobs)
        for loop in {job.loop for job in jobs}:
            mine = [pair for pair in zip(jobs, results, strict=True) if pair[0].loop is loop]
            loop.call_soon_threadsafe(_deliver, mine)

    def _next(self) -> list[_Job] | None:
        """Wait for jobs and take those of the oldest kind, as many as fit one call; None is the end."""
        with self._changed:
            while not self._waiting:
                if self._stopped:
                    return None
                self._changed.wait()
            kind, jobs = next(iter(self._waiting.items()))
            taken: list[_Job] = []
            size = 0
            while jobs and (not taken or size + jobs[0].size <= self._most):
                job = jobs.popleft()
                self._count -= 1
                if not job.abandoned:
                    taken.append(job)
                    size += job.size
            if jobs:
                self._waiting.move_to_end(kind)
            else:
                del self._waiting[kind]
            return taken


def _called(jobs: Sequence[_Job]) -> list[Any]:
    """Return the result of each job, or what it raised."""
    try:
        return list(jobs[0].call([job.item for job in jobs]))
    except Exception as error:  # what one request does wrong is not the others' matter
        if len(jobs) == 1:
            return [error]
    return [_called([job])[0] for job in jobs]


def _deliver(pairs: Sequence[tuple[_Job, Any]]) -> None:
    for job, result in pairs:
        if job.future.done():
            continue
        if isinstance(result, BaseException):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
