"""Engines: what computes a batch's gradients and applies them.

All of them take the same steps and agree to rounding: ``native`` is compiled C++ on the CPU, ``gpu`` is Triton's
kernels on CUDA devices, ``torch`` runs everywhere.
"""

__all__ = ["Engine", "choose_engine"]

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pretrain.config import TrainConfig
from pretrain.gpu import Kind, unusable
from pretrain.movers import Form
from pretrain.native.bindings import instructions, library
from pretrain.native.step import NativeStep, uses_bfloat16
from pretrain.native.step import penalise_ as native_penalise_
from pretrain.native.step import update_ as native_update_
from pretrain.optimizer import update_
from pretrain.regularisers import Factors, penalise_
from pretrain.step import Batch, Gradients, Step
from recokit.errors import ConfigError


class StepOf(Protocol):
    """Gives the gradients of a batch; see ``pretrain.step.Step``."""

    def __call__(
        self,
        sources: Tensor,
        targets: Tensor,
        block: Tensor,
        batch: Batch,
        *,
        source_bias: Tensor | None = None,
        target_bias: Tensor | None = None,
    ) -> Gradients:
        """See ``pretrain.step.Step``."""
        ...


class UpdateOf(Protocol):
    """Applies gradients; see ``pretrain.optimizer.update_``."""

    def __call__(
        self,
        table: Tensor,
        state: Tensor,
        parts: Sequence[tuple[Tensor, Tensor]],
        learning_rate: Any,
        *,
        max_norm: float = 0.0,
    ) -> None:
        """See ``pretrain.optimizer.update_``."""
        ...


@dataclass(frozen=True)
class Engine:
    """What trains batches.

    Attributes:
        name: ``"native"``, ``"gpu"`` or ``"torch"``.
        products: The arithmetic of its products, for people.
        make_step: How relations enter the two questions (for the target, for the source), the settings and the kind of
            the edges to a step.
        update_: Applies what the step returns.
        penalise_: Adds penalties to it; see ``pretrain.regularisers.penalise_``.
        has_threads: Whether it has threads of its own, as many as torch had when it was chosen.
    """

    name: str
    products: str
    make_step: Callable[[Form, Form, TrainConfig, Kind], StepOf]
    update_: UpdateOf
    penalise_: Callable[[Tensor, Tensor, Tensor, tuple[Tensor, Tensor], Factors], None] = penalise_
    has_threads: bool = False

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Leave the cores to the engine: torch's threads stay awake for milliseconds after each of their tasks."""
        before = torch.get_num_threads()
        if self.has_threads:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def choose_engine(config: TrainConfig, device: torch.device) -> Engine:
    """Return the engine that the settings ask for, or the fastest that is there.

    Raises:
        ConfigError: The settings ask for one that is not there.
    """
    if config.engine == "native":
        if device.type != "cpu":
            raise ConfigError(f"engine 'native' trains on the CPU, not on {str(device)!r}")
        if library() is None:
            raise ConfigError("engine 'native' was not built: install the package where there is a C++ compiler")
    if config.engine in ("auto", "native") and device.type == "cpu" and library() is not None:
        products, threads = "bfloat16" if uses_bfloat16(config) else "float32", torch.get_num_threads()
        return Engine(
            "native",
            f"{products}, {instructions()[0]}",
            functools.partial(_native_step, threads),
            functools.partial(native_update_, threads=threads),
            functools.partial(native_penalise_, threads=threads),
            has_threads=True,
        )
    if config.engine == "gpu":
        if (why_not := unusable(device)) is not None:
            raise ConfigError(f"engine 'gpu' cannot train here: {why_not}")
        from pretrain.gpu.engine import make_step, product_of
        from pretrain.gpu.update import update_ as gpu_update_

        return Engine("gpu", product_of(config), make_step, gpu_update_)
    return Engine("torch", config.precision, _torch_step, update_)


def _native_step(threads: int, for_target: Form, for_source: Form, config: TrainConfig, kind: Kind) -> StepOf:
    return NativeStep(for_target, for_source, config, threads=threads)


def _torch_step(for_target: Form, for_source: Form, config: TrainConfig, kind: Kind) -> Step:
    return Step.of(config, for_target, for_source)
