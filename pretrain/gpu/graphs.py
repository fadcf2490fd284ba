"""Full batches as CUDA graphs: a group's batch is captured once and replayed for all the others.

A replay costs the host one call where a batch in pieces costs it some fifty, which is more time than a large chip
needs to train a small batch.  What changes from batch to batch lies on the device: the order of an epoch's edges, the
place in it, which every replay moves on by itself, the rates of the optimizer, and the state of the generator.  Of
every group the first full batch is trained piece by piece, so that all kernels are built and all buffers of libraries
are there; the second is captured, and replayed from then on.  Batches of another size are trained piece by piece.
Shapes: B edges of a full batch.
"""

__all__ = ["Capture", "CudaCapture", "Replays"]

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

G = TypeVar("G", bound=Hashable)


class Capture(Protocol):
    """Turns work into something that does it again."""

    def warm(self, body: Callable[[], None]) -> None:
        """Do the work once, in pieces, where it will be captured."""
        ...

    def capture(self, body: Callable[[], None]) -> Callable[[], object]:
        """Return what does the work; nothing is done yet."""
        ...


class CudaCapture:
    """CUDA graphs on a stream of their own, with memory in common: they are replayed one after the other.

    Args:
        device: Where the work is done.
        generators: The generators of the device that the work draws from.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator]) -> None:
        self._device, self._generators = device, generators
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, body: Callable[[], None]) -> None:
        """Do the work on the stream, between what came before and what comes after."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), _unfilled():
            body()
        current.wait_stream(self._stream)

    def capture(self, body: Callable[[], None]) -> Callable[[], object]:
        """Capture the work.

        Raises:
            RuntimeError: The work waits for the device, or draws from another generator.
        """
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            _register(graph, generator)
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream), _unfilled():
            body()
        return graph.replay


class Replays(Generic[G]):
    """Trains the batches of an epoch, full ones by replaying.

    Args:
        train: Trains the edges of a group at positions (B,) on the device, with factors () of the learning rates there.
            What it does must depend on the numbers in its tensors alone, and it must not wait for the device.
        batch_size: B.
        capture: What captures.
        device: Where positions and rates should lie.
        capturable: Whether a group's batches may be captured; the others are trained in pieces.
    """

    def __init__(
        self,
        train: Callable[[G, Tensor, Tensor], None],
        batch_size: int,
        capture: Capture,
        device: torch.device,
        capturable: Callable[[G], bool] = lambda group: True,
    ) -> None:
        self._train, self._size, self._capture, self._capturable = train, batch_size, capture, capturable
        self._rate, self._known_rate = torch.ones((), device=device), 1.0
        self._each = torch.arange(batch_size, device=device)
        self._loops: dict[G, _Loop] = {}

    def begin(self, batches: Sequence[tuple[G, Tensor]]) -> None:
        """Put the batches that are about to be trained, in this order, on the device."""
        planned: dict[G, list[Tensor]] = {}
        for group, positions in batches:
            if len(positions) == self._size and self._capturable(group):
                planned.setdefault(group, []).append(positions)
        for loop in self._loops.values():
            loop.planned, loop.done = [], 0
        for group, parts in planned.items():
            order = torch.cat(parts)
            known = self._loops.get(group)
            if known is None or len(known.order) < len(order):  # a longer plan: what was captured reads the old one
                known = self._loops[group] = _Loop.of(order, self._each.device)
            loop = known
            loop.order[: len(order)].copy_(order)
            loop.place.zero_()
            loop.planned, loop.done = parts, 0

    def step(self, group: G, positions: Tensor, rate: float = 1.0) -> None:
        """Train the next batch, which is of this group and has these positions.

        Raises:
            ValueError: It is not the next one of those that ``begin`` was given.
        """
        if rate != self._known_rate:
            self._rate.fill_(rate)
            self._known_rate = rate
        loop = self._loops.get(group)
        if loop is None or len(positions) != self._size:
            self._train(group, positions.to(self._each.device), self._rate)
            return
        if loop.done >= len(loop.planned) or loop.planned[loop.done] is not positions:
            raise ValueError(f"batch {loop.done} of a group is not the one that was planned; begin with the batches")
        loop.done += 1

        def body() -> None:
            self._train(group, loop.order[loop.place + self._each], self._rate)
            loop.place.add_(self._size)

        if not loop.warm:
            self._capture.warm(body)
            loop.warm = True
            return
        if loop.replay is None:
            loop.replay = self._capture.capture(body)
        loop.replay()


@dataclasses.dataclass(eq=False)
class _Loop:
    """The full batches of one group."""

    order: Tensor  # positions of all of them, one after the other
    place: Tensor  # () where the next one begins
    planned: list[Tensor]
    done: int = 0
    warm: bool = False
    replay: Callable[[], object] | None = None

    @classmethod
    def of(cls, order: Tensor, device: torch.device) -> "_Loop":
        return cls(torch.empty_like(order, device=device), torch.zeros((), dtype=torch.int64, device=device), [])


def _register(graph: torch.cuda.CUDAGraph, generator: torch.Generator) -> None:
    """Let a graph draw from a generator; newer releases of torch notice by themselves and say so."""
    register = getattr(graph, "register_generator_state", None)
    if register is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            register(generator)


@contextlib.contextmanager
def _unfilled() -> Iterator[None]:
    """Leave new memory as it is: under deterministic algorithms torch writes NaN into all of it first."""
    settings: Any = torch.utils.deterministic  # a module with properties, which its types do not know
    before = settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        settings.fill_uninitialized_memory = before
