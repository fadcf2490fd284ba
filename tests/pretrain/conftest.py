"""What the tests of pretraining share."""

from collections.abc import Callable, Iterator

import pytest
import torch

from pretrain.native.step import NativeStep
from pretrain.step import Step


@pytest.fixture
def watch_steps(monkeypatch) -> Callable[[Callable[..., None]], None]:
    """Show a function what every step is called with, whichever engine trains."""

    def watch(see):
        for kind in (Step, NativeStep):

            def spy(self, sources, targets, block, batch, step=kind.__call__, **others):
                see(sources, targets, block, batch)
                return step(self, sources, targets, block, batch, **others)

            monkeypatch.setattr(kind, "__call__", spy)

    return watch


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Same seed, same number of threads, same bytes; and small products are fastest on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
