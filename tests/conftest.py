"""Fixtures of the whole suite."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from recokit.errors import MissingDependencyError


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Skip, saying so, what needs hnswlib where it could not be compiled; everything else is tested all the same."""
    try:
        return (yield)
    except MissingDependencyError as error:
        if "'hnswlib'" in str(error) and find_spec("hnswlib") is None:
            pytest.skip(str(error))
        raise


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def run_cli(monkeypatch):
    """Run ``recokit WORDS...`` in this process."""
    pytest.importorskip("typer")
    from recokit.cli import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["recokit", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "160")
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main()
                code = 0
            except SystemExit as exit_:
                code = exit_.code or 0
        return Ran(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def one_thread():
    """Small batches gain nothing from a second thread of torch, and lose much where the cores are busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
