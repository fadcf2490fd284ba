"""The knowledge-graph example, on a planted graph in the data sets' own files. No test goes to the network."""

import hashlib
import importlib
import os
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recokit.errors import ChecksumError, DataError

pytest.importorskip("torch")
pytest.importorskip("duckdb")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SIZE = 24
CHANCE = sum(1 / rank for rank in range(1, SIZE + 1)) / SIZE  # MRR of ranks at random
TINY = {"dim": 16, "epochs": 30, "batch_size": 32, "uniform_negatives": "all"}


@pytest.fixture
def example(monkeypatch):
    """Import a module as ``python examples/knowledge_graphs.py`` would find its neighbours."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.fixture
def folder(tmp_path):
    """A ring whose every entity has a next and a previous one: each held-out triple follows from its inverse."""
    triples = [(f"e{i}", "next", f"e{(i + 1) % SIZE}") for i in range(SIZE)]
    triples += [(t, "previous", s) for s, _, t in triples]
    order = np.random.default_rng(0).permutation(SIZE)
    valid, test = (set(order[:4].tolist()), set(order[4:8].tolist()))
    parts = {"valid": [triples[i] for i in sorted(valid)], "test": [triples[i] for i in sorted(test)]}
    parts["train"] = [triple for i, triple in enumerate(triples) if i not in valid | test]
    for name, rows in parts.items():
        (tmp_path / f"{name}.txt").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def test_a_folder_is_read_as_three_graphs_with_the_training_parts_entities(example, folder):
    parts = example("loaders.knowledge_graphs").load("codex-s", folder)
    assert [sum(map(len, part.edges.values())) for part in parts] == [2 * SIZE - 8, 4, 4]
    assert sorted(parts.train.relations) == ["next", "previous"]
    assert all(part.relations == parts.train.relations for part in parts)
    lines = (folder / "test.txt").read_text(encoding="utf-8").splitlines()
    read = parts.test.pairs("next").itertuples(index=False, name=None)
    assert [f"{source}\tnext\t{target}" for source, target in read] == lines


def test_ids_stay_text_however_they_look(example, tmp_path):
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_text('007\tNA\tnull\nnan\tNA\t"a\n', encoding="utf-8")
    train = example("loaders.knowledge_graphs").load("umls", tmp_path).train
    assert sorted(train.entities["entity"].to_pylist()) == ['"a', "007", "nan", "null"]


@pytest.fixture
def cache(example, folder, tmp_path, monkeypatch):
    """A cache that holds a tiny wheel, whose checksum is the expected one."""
    loader = example("loaders.knowledge_graphs")
    path = tmp_path / "cache" / loader._WHEEL
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as wheel:
        for part in ("train", "valid", "test"):
            wheel.write(folder / f"{part}.txt", f"pykeen/datasets/umls/{part}.txt")
    monkeypatch.setattr(loader, "_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setenv("RECOKIT_CACHE", str(path.parent))
    return path


def test_umls_comes_out_of_the_cached_wheel(example, folder, cache):
    loader = example("loaders.knowledge_graphs")
    inside, outside = loader.load("umls").train, loader.load("umls", folder).train
    assert inside.pairs("next").equals(outside.pairs("next"))
    assert inside.entities["entity"].equals(outside.entities["entity"])


def test_another_wheel_is_refused(example, cache):
    with cache.open("ab") as file:
        file.write(b"x")
    with pytest.raises(ChecksumError, match=r"pykeen-1\.11\.1.*delete it"):
        example("loaders.knowledge_graphs").load("umls")


def test_a_wheel_that_cannot_be_had_is_said_so(example, tmp_path, monkeypatch):
    monkeypatch.setenv("RECOKIT_CACHE", str(tmp_path))
    silent = subprocess.CompletedProcess([], 1, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: silent)
    with pytest.raises(DataError, match=r"pykeen==1\.11\.1 cannot be downloaded"):
        example("loaders.knowledge_graphs").load("kinships")


def test_what_is_missing_is_named(example, folder):
    load = example("loaders.knowledge_graphs").load
    with pytest.raises(DataError, match="tsafavi/codex"):
        load("codex-s")
    (folder / "valid.txt").write_text("a\tb\tc\na\tb\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"valid\.txt has 2 columns in line 2"):
        load("codex-s", folder)
    (folder / "valid.txt").unlink()
    with pytest.raises(DataError, match=r"valid\.txt is not there"):
        load("codex-s", folder)


def test_the_table_holds_models_and_published_results(example, folder, tmp_path, monkeypatch, capsys):
    script = example("knowledge_graphs")
    monkeypatch.setattr(script, "models_of", lambda dataset: {"ComplEx": replace(script.PRODUCT, **TINY)})
    monkeypatch.setenv("COLUMNS", "160")
    report = script.main(["umls", "--data", str(folder), "--seeds", "2", "--json", str(tmp_path / "r.json")])
    frame = report.to_frame()
    mrr = frame[frame["metric"] == "mrr"]
    assert mrr["seed"].tolist() == [0, 1]
    assert mrr["n"].tolist() == [8, 8]  # 4 triples, two sides
    assert (mrr["value"] > 0.9).all()  # the inverse of every held-out triple is known
    protocol = mrr["protocol"].iloc[0]
    assert protocol["part"] == "test"
    assert protocol["candidates"].startswith("all")
    assert "2 known" in protocol["filter"]
    printed = capsys.readouterr().out
    assert "ConvE, paper" in printed
    assert "0.94" in printed
    assert (tmp_path / "r.json").is_file()


def test_every_model_of_every_data_set_can_be_trained(example, folder):
    script = example("knowledge_graphs")
    for dataset in ("codex-s", "umls", "kinships"):
        parts = example("loaders.knowledge_graphs").load(dataset, folder)
        models = {name: replace(config, **TINY) for name, config in script.models_of(dataset).items()}
        assert list(models) == ["TransE", "RotatE", "DistMult", "ComplEx"]
        report = script.measure(parts, models, seeds=1)
        assert all(report.value("mrr", name=name) > 1.5 * CHANCE for name in models)


def test_means_and_deviations_over_seeds(example):
    script = example("knowledge_graphs")
    results = [
        script.Result("m", metric, value, seed=seed)
        for metric in (*script.METRICS, script.SECONDS)
        for seed, value in enumerate((0.25, 0.75))
    ]
    rows = script.summary(script.Report(results, {}), {"ConvE": (0.5, 0.25, 0.5, 1.0)})
    deviation = 2**0.5 * 0.25  # of two values half a unit apart: sqrt((.25² + .25²) / (2 - 1))
    assert rows[1][:2] == ("m", f"0.5000 ± {deviation:.4f}")
    assert rows[2] == ("ConvE, paper", "0.5", "0.25", "0.5", "1", "")


def test_validation_does_not_know_the_test_part(example, folder):
    script = example("knowledge_graphs")
    parts = example("loaders.knowledge_graphs").load("umls", folder)
    config = replace(script.PRODUCT, **TINY)
    report = script.measure(parts, {"ComplEx": config}, seeds=1, part="valid")
    assert "1 known" in report.results[0].protocol["filter"]


@pytest.mark.skipif("RECOKIT_DATA" not in os.environ, reason="RECOKIT_DATA names no folder that holds codex-s/")
def test_codex_s_has_its_documented_size(example):
    parts = example("loaders.knowledge_graphs").load("codex-s", Path(os.environ["RECOKIT_DATA"]) / "codex-s")
    assert [sum(map(len, part.edges.values())) for part in parts] == [32888, 1827, 1828]
    assert (parts.train.num_entities("entity"), len(parts.train.relations)) == (2034, 42)
