"""The example of compression: its arithmetic, and a run on small planted files in the data set's own format."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recokit.errors import DataError
from recokit.metrics import bootstrap_statistic, rce, roc_auc
from recokit.report import Report
from recokit.table import EmbeddingTable, PQTable

pytest.importorskip("torch")
pytest.importorskip("duckdb")
pytest.importorskip("faiss")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
USERS, ADS, KINDS = 240, 96, 4


@pytest.fixture
def script(monkeypatch):
    """Import it as ``python examples/compression.py`` would find its neighbours, with settings for few rows."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("compression")
    monkeypatch.setattr(module, "DIM", 8)
    for name in ("OF_NEIGHBORS", "OF_RANKERS"):
        monkeypatch.setattr(module, name, {"pq": (4, 1), "additive": (2,)})
    monkeypatch.setattr(module, "CONTROL", ("pq", 4))
    monkeypatch.setattr(module, "BOOTSTRAP", 20)
    network = replace(module.ads.CONFIG, epochs=20, batch_size=128, uniform_negatives=50, learning_rate=0.3)
    monkeypatch.setattr(module.ads, "CONFIG", network)
    fit = replace(module.ads.FIT, epochs=6, batch_size=128, learning_rate=0.01, evaluate_every=None)
    monkeypatch.setattr(module.ads, "FIT", fit)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Users click ads of their own kind, which neither profiles nor categories nor brands tell."""
    path, rng = tmp_path_factory.mktemp("taobao"), np.random.default_rng(0)
    train, test = [], []
    for user in range(USERS):
        own = user % KINDS + KINDS * rng.permutation(ADS // KINDS)[:14]
        train.append([user, *own[:10]])
        test.append([user, *own[10:]])
    users = np.column_stack([np.arange(USERS), rng.integers(0, 3, (USERS, 8))])
    items = np.column_stack([np.arange(ADS), rng.integers(0, 5, (ADS, 2)), rng.integers(0, 2, ADS)])
    for name, lines in (("train.txt", train), ("test.txt", test), ("u.user", users), ("u.item", items)):
        (path / name).write_text("".join(" ".join(map(str, line)) + "\r\n" for line in lines), encoding="ascii")
    return path


def table_of(entity, count, dim, seed=0):
    numbers = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    ids = np.arange(count) + 100
    return EmbeddingTable.from_arrays(ids, numbers, entity=entity, version="v1", comparator="cos")


def test_compression_counts_all_bytes_of_all_tables(script):
    rng = np.random.default_rng(0)
    codes = {}
    for entity, count in (("user", 1000), ("ad", 50)):
        codebook = rng.normal(size=(2, 256, 4)).astype(np.float32)
        numbers = rng.integers(0, 256, (count, 2)).astype(np.uint8)
        codes[entity] = PQTable.from_arrays(np.arange(count), numbers, codebook, entity=entity, version="v1")
    whole = 4 * 8 * (1000 + 50)
    assert script.compression(codes) == pytest.approx(whole / (2 * (1000 + 50) + 2 * (2 * 256 * 4 * 4)))
    # Small tables are larger with their codebooks than without.
    alone = script.compression({"ad": codes["ad"]})
    assert alone == pytest.approx(4 * 8 * 50 / (2 * 50 + 2 * 256 * 4 * 4))
    assert alone < 1


def test_shuffled_codes_are_those_of_other_ids(script):
    codes = script.quantize(table_of("user", 200, 8), 2, codec="opq")
    wrong = script.shuffled(codes, 3)
    order = np.random.default_rng(3).permutation(200)
    assert wrong.ids.equals(codes.ids)
    np.testing.assert_allclose(wrong.decode(), codes.decode()[order], atol=1e-6)
    assert (wrong.entity, wrong.version, wrong.codec) == (codes.entity, codes.version, codes.codec)
    assert wrong.fingerprint != codes.fingerprint
    assert wrong.compression == codes.compression


def test_settings_differ_in_their_vectors_alone(script):
    tables = {"user": table_of("user", 300, 8), "ad": table_of("ad", 200, 8, seed=1)}
    made = {setting.name: setting for setting in script.settings(tables, 0)}
    assert list(made) == [
        "float32", "float32, other seed", "float16", "pq 4 bytes", "shuffled codes", "pq 1 bytes", "additive 2 bytes",
        "no vectors",
    ]  # fmt: skip
    assert made["float32"].tables == tables == made["float32, other seed"].tables
    assert [name for name, setting in made.items() if setting.other_seed] == ["float32, other seed"]
    halved = made["float16"].tables["ad"].vectors
    np.testing.assert_array_equal(halved, tables["ad"].vectors.astype(np.float16))
    assert [made[name].row_bytes for name in ("float32", "float16", "pq 1 bytes", "no vectors")] == [32.0, 16.0, 1.0, 0]
    expected = script.quantize(tables["ad"], 4, codec="pq", seed=0)
    np.testing.assert_array_equal(made["pq 4 bytes"].tables["ad"].codes, expected.codes)
    for one, other in zip(made["shuffled codes"].tables.values(), made["pq 4 bytes"].tables.values(), strict=True):
        assert sorted(map(bytes, one.codes)) == sorted(map(bytes, other.codes))
        assert (one.codes != other.codes).any()
    assert made["no vectors"].tables == {}


def test_quality_agrees_with_the_metrics_of_the_toolkit(script):
    rng = np.random.default_rng(0)
    label, users = rng.integers(0, 2, 300).astype(float), rng.integers(0, 40, 300)
    predictions = [rng.uniform(0.05, 0.95, 300), np.clip(0.2 + 0.6 * label + rng.normal(0, 0.1, 300), 0.01, 0.99)]
    found = script.Quality.of(label, users, predictions)
    for row, p in enumerate(predictions):
        assert found.values[row] == pytest.approx([rce(label, p), roc_auc(label, p)])
        for column, metric in enumerate((rce, roc_auc)):
            expected = bootstrap_statistic(metric, label, p, groups=users, samples=20)
            ends = script.interval(float(found.values[row, column]), found.drawn[:, row, column])
            assert ends == pytest.approx(expected)
    twice = script.Quality.mean([found, replace(found, values=found.values + 2, drawn=found.drawn + 4)])
    np.testing.assert_allclose(twice.values, found.values + 1)
    np.testing.assert_allclose(twice.drawn, found.drawn + 2)


def test_differences_are_from_the_first_and_paired(script):
    rng = np.random.default_rng(0)
    label, users = rng.integers(0, 2, 300).astype(float), rng.integers(0, 40, 300)
    p = rng.uniform(0.05, 0.95, 300)
    better = np.where(label == 1, p + 0.04, p - 0.04)
    quality = script.Quality.of(label, users, [p, p, better])
    rows = {(row.name, row.metric): row for row in script.differences(quality, ["a", "b", "c"], {})}
    assert list(rows) == [("b - a", "rce"), ("b - a", "auc"), ("c - a", "rce"), ("c - a", "auc")]
    same, gain = rows["b - a", "rce"], rows["c - a", "rce"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert gain.value == pytest.approx(rce(label, better) - rce(label, p))
    assert 0 < gain.low < gain.value < gain.high


def test_rankers_read_the_codes_that_they_are_given(script, folder):
    data = script.taobao.load(folder)
    tables = {"user": table_of("user", USERS, 8), "ad": table_of("ad", ADS, 8)}
    task = script.Task(data, pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), tables)
    codes = {entity: script.quantize(of, 4) for entity, of in tables.items()}
    spec = script.features(task, codes)
    assert [(feature.column, feature.table) for feature in spec.pretrained] == list(codes.items())
    plain = script.features(task, {})
    assert replace(spec, pretrained=[]) == plain
    assert set(plain.categorical) == {*script.taobao.PROFILE, "category", "brand", "price"}


def test_rows_of_the_ranker_are_not_of_the_network(script, folder, monkeypatch):
    seen = []
    monkeypatch.setattr(script, "vectors", lambda data, clicks, seed: seen.append(clicks) or {})
    data = script.taobao.load(folder)
    task = script.make_task(data, 0)
    known = set(map(tuple, seen[0][["user", "ad"]].to_numpy().tolist()))
    for rows in (task.train, task.valid, task.test):
        clicked = rows.loc[rows["clicked"] == 1, ["user", "ad"]].to_numpy().tolist()
        assert known.isdisjoint(map(tuple, clicked))
        assert rows["clicked"].mean() == pytest.approx(1 / (1 + script.ads.RATIO))
    assert len(task.test) == (1 + script.ads.RATIO) * len(data.test)
    other = script.make_task(data, 1)
    pd.testing.assert_frame_equal(task.test[["user", "ad"]], other.test[["user", "ad"]])  # what means over seeds need


def test_the_example_runs_and_finds_what_vectors_are_worth(script, folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("COLUMNS", "200")
    paths = [tmp_path / name for name in ("out.json", "out.md", "out.png")]
    words = [f"{word}={path}" for word, path in zip(("--json", "--markdown", "--plot"), paths, strict=True)]
    report = script.main(["--data", str(folder), "--seeds", "1", *words])
    rows = report.to_frame().set_index(["name", "metric"])
    found = rows.loc[rows["group"].isna(), "value"]
    whole, nothing = found["float32", "auc"], found["no vectors", "auc"]
    assert whole > nothing + 0.2
    assert found["float16", "auc"] == pytest.approx(whole, abs=0.005)
    assert found["pq 4 bytes", "auc"] > nothing + 0.8 * (whole - nothing)
    assert found["shuffled codes", "auc"] < nothing + 0.3 * (whole - nothing)
    recall = rows[rows["group"] == "ad"]["value"]
    assert recall["float16", script.RECALL] > recall["pq 4 bytes", script.RECALL] > recall["pq 1 bytes", script.RECALL]
    assert found["pq 4 bytes", "bytes_per_row"] == 4
    assert all(path.stat().st_size for path in paths)
    assert "shuffled codes - float32" in capsys.readouterr().out
    assert len(Report.load(paths[0]).results) == len(report.results)


def test_missing_files_are_named(script, tmp_path):
    with pytest.raises(DataError, match=r"train.txt is not there"):
        script.main(["--data", str(tmp_path)])
