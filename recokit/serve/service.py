"""What stands behind the endpoints: the version that is served, the queue before it, the limits, the counters."""

__all__ = ["NotReadyError", "Service"]

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.errors import DataError, RecokitError
from recokit.serve.answers import Answer, lists_of_ids, lists_of_vectors, vectors_as_bytes, vectors_as_json
from recokit.serve.batching import Batcher
from recokit.serve.follow import Follower, Source
from recokit.serve.metrics import Metrics
from recokit.serve.models import CandidatesRequest, NeighborsRequest, VectorsRequest
from recokit.serve.serving import Query, Serving
from recokit.serve.settings import ServeSettings
from recokit.table import Mixture

_LARGEST = 1e18


class NotReadyError(RecokitError):
    """No version is served yet."""


class Service:
    """One service: ``start`` begins to follow its source and to answer, ``stop`` ends both.

    Args:
        source: What is followed.
        settings: How to serve.
    """

    def __init__(self, source: Source, settings: ServeSettings) -> None:
        self.source, self.settings, self.metrics = source, settings, Metrics()
        self.follower = Follower(
            source,
            lambda version: Serving.load(version, settings),
            poll=settings.poll,
            loaded=self.metrics.now_serving,
            failed=lambda error: self.metrics.failures.inc(),
        )
        self._batcher = Batcher(
            threads=settings.threads,
            queue=settings.queue,
            most=settings.max_results,
            observe=self.metrics.merged.observe,
        )

    def start(self) -> None:
        """Start the threads that follow and search."""
        self._batcher.start()
        self.follower.start()

    def stop(self) -> None:
        """Answer what is queued and end the threads."""
        self.follower.stop()
        self._batcher.stop()

    @property
    def serving(self) -> Serving:
        """The version that is served; a NotReadyError before the first one."""
        if self.follower.current is None:
            raise NotReadyError(self.follower.problem or "the first version is being loaded")
        return self.follower.current

    async def vectors(self, serving: Serving, asked: VectorsRequest, *, binary: bool) -> Answer:
        """Look vectors up."""
        self._check(len(asked.ids), 1)
        table = serving.table(asked.table)  # what does not exist is refused before it waits for others
        # A number is about as long as a result, so that merged answers are no larger here than there.
        width = table.dim * (table.num_components if isinstance(table, Mixture) else 1)
        make = partial(vectors_as_bytes if binary else vectors_as_json, serving, asked.table)
        kind = ("vectors", serving, asked.table, binary)
        return await self._run("/v1/vectors", kind, make, asked.ids, size=len(asked.ids) * width, ids=len(asked.ids))

    async def neighbors(self, serving: Serving, asked: NeighborsRequest) -> Answer:
        """Search near ids or vectors."""
        amount = len(asked.ids or asked.vectors or ())
        k = self._k(asked)
        self._check(amount, k)
        search = serving.search(asked.table, asked.relation, None, k=k)
        size = amount * k
        if asked.ids is not None:
            make, item = partial(lists_of_ids, serving, search), Query(asked.ids)
            return await self._run("/v1/neighbors", ("ids", serving, search), make, item, size=size, ids=amount)
        vectors = _array(asked.vectors or [])
        kind = ("near", serving, search, vectors.shape[1])
        call = partial(lists_of_vectors, serving, search)
        return await self._run("/v1/neighbors", kind, call, vectors, size=size, ids=amount)

    async def candidates(self, serving: Serving, asked: CandidatesRequest) -> Answer:
        """Search for candidates of ids."""
        k = self._k(asked)
        self._check(len(asked.ids), k)
        search = serving.search(asked.table, asked.relation, asked.items, k=k, allocation=asked.allocation)
        make, item = partial(lists_of_ids, serving, search), Query(asked.ids, asked.exclude)
        size, kind = len(asked.ids) * k, ("ids", serving, search)
        return await self._run("/v1/candidates", kind, make, item, size=size, ids=len(asked.ids))

    async def _run(self, endpoint: str, kind: Hashable, call: Any, item: Any, *, size: int, ids: int) -> Answer:
        self.metrics.ids.labels(endpoint).observe(ids)
        answer: Answer = await self._batcher.run(kind, call, item, size=size, timeout=self.settings.timeout)
        if answer.unknown:
            self.metrics.unknown.labels(endpoint).inc(answer.unknown)
        return answer

    def _k(self, asked: NeighborsRequest | CandidatesRequest) -> int:
        """Return how many are asked for; of who does not say, no more than may be."""
        return asked.k if "k" in asked.model_fields_set else min(asked.k, self.settings.max_k)

    def _check(self, ids: int, k: int) -> None:
        limits = self.settings
        if ids > limits.max_ids:
            raise DataError(f"the request has {ids} ids or vectors, expected at most {limits.max_ids}")
        if k > limits.max_k:
            raise DataError(f"k is {k}, expected at most {limits.max_k}")
        if ids * k > limits.max_results:
            raise DataError(f"{ids} lists of {k} are more than the {limits.max_results} results of one request")


def _array(vectors: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    """Return vectors (B, D) as float32, all finite and so small that an index can square them."""
    try:
        with np.errstate(over="ignore"):
            array = np.array(vectors, np.float32)
    except OverflowError as error:  # an integer of hundreds of digits
        raise DataError(f"vectors: {error}") from error
    if not np.isfinite(array).all():
        first = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise DataError(f"vector {first} is not finite")
    if (np.abs(array) > _LARGEST).any():
        first = int(np.flatnonzero((np.abs(array) > _LARGEST).any(axis=1))[0])
        raise DataError(f"vector {first} holds a number beyond {_LARGEST:g}, of which float32 has no square")
    return array
