"""What may import what: the promises of the package's layout."""

import importlib
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "torchrec", "faiss", "hnswlib", "duckdb", "sklearn", "matplotlib")


def modules_after(code):
    """Run code in a fresh interpreter and return which heavy modules it brought along."""
    program = f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    return result.stdout.split()


@pytest.mark.parametrize(
    "code",
    [
        "import recokit",
        "import recokit.cli",
        "import recokit.floors, recokit.metrics, recokit.overlap",
        "from recokit import EmbeddingTable, CandidateGenerator, ExactIndex, FeatureSpec, evaluate_candidates",
        "from recokit import OnnxRanker, PQTable, quantize",
        "import recokit.drift, recokit.exports, recokit.page, recokit.probes, recokit.serve, recokit.store",
    ],
)
def test_the_toolkit_imports_without_heavy_packages(code):
    assert modules_after(code) == []


def test_the_layers_bring_torch_and_nothing_else_heavy():
    pytest.importorskip("torch")
    assert modules_after("import recokit.layers, recokit.rankers") == ["torch"]


@pytest.mark.parametrize(
    "name",
    [
        "recokit",
        "recokit.table",
        "recokit.metrics",
        "recokit.frame",
        "recokit.index",
        "recokit.mixture",
        "recokit.pq",
        "recokit.ablation",
        "recokit.drift",
        "recokit.exports",
        "recokit.page",
        "recokit.probes",
        "recokit.serve",
        "recokit.store",
        "pretrain.pipeline",
    ],
)
def test_every_public_name_is_there_and_sorted(name):
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(set(module.__all__))
    assert [public for public in module.__all__ if not hasattr(module, public)] == []


@pytest.mark.parametrize("name", ["recokit.layers", "recokit.rankers"])
def test_every_public_name_of_what_needs_torch_is_there(name):
    pytest.importorskip("torch")
    module = importlib.import_module(name)
    assert len(module.__all__) == len(set(module.__all__))
    assert [public for public in module.__all__ if not hasattr(module, public)] == []


def test_every_public_name_of_pretrain_is_there():
    pytest.importorskip("torch")
    module = importlib.import_module("pretrain")
    assert [public for public in module.__all__ if not hasattr(module, public)] == []


def test_the_commands_that_train_are_registered_and_load():
    pytest.importorskip("torch")
    points = {point.name: point for point in entry_points(group="recokit.commands")}
    assert {"pretrain", "demo"} <= set(points)
    assert all(callable(point.load()) for point in points.values())
