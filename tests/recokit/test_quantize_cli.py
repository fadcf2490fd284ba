"""``recokit quantize``, end to end, and what ``recokit inspect`` shows of codes."""

import json
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from recokit import EmbeddingTable, PQTable, Report, quantize, write_version

pytest.importorskip("faiss")

VECTORS = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
TABLE = EmbeddingTable.from_arrays(np.arange(200), VECTORS, entity="item", version="v1", comparator="cos")


@pytest.fixture
def command(tmp_path, monkeypatch, run_cli):
    point = EntryPoint("quantize", "recokit.quantize_cli:quantize", "recokit.commands")
    monkeypatch.setattr("recokit.cli.entry_points", lambda group: [point])
    monkeypatch.chdir(tmp_path)
    write_version("v1", {"item": TABLE, "item-pq": quantize(TABLE, 2)})
    return run_cli


def test_a_table_of_a_version_becomes_codes(command):
    words = ("--sub-quantizers", 4, "--codec", "opq", "--seed", 3, "--output", "o", "--json")
    ran = command("quantize", "v1", "--table", "item", *words)
    assert (ran.code, ran.err) == (0, "")
    expected = quantize(TABLE, 4, codec="opq", seed=3)
    assert PQTable.load("o", verify=True).fingerprint == expected.fingerprint
    said = json.loads(ran.out)
    assert said.pop("seconds") >= 0
    assert said == {
        "output": "o",
        "entity": "item",
        "version": "v1",
        "count": 200,
        "dim": 8,
        "codec": "opq",
        "bytes_per_row": 4,
        "num_codes": 16,
        "compression": round(200 * 32 / (200 * 4 + 16 * 8 * 4 + 8 * 8 * 4), 3),
        "codebook_sha256": expected.codebook_sha256,
    }


def test_a_folder_of_vectors_will_do_and_a_codebook_is_taken(command):
    ran = command("quantize", "v1/item", "--codebook", "v1/item-pq", "--output", "o")
    assert (ran.code, ran.err) == (0, "")
    assert "codes of item" in ran.out
    old = PQTable.load("v1/item-pq")
    new = PQTable.load("o")
    assert new.codebook_sha256 == old.codebook_sha256
    np.testing.assert_array_equal(new.codes, old.codes)
    assert new.meta["quantization"]["codebook_of"] == "v1"


def test_a_sweep_is_shown_written_and_drawn(command, tmp_path):
    pytest.importorskip("matplotlib")
    words = ("--sub-quantizers", 2, "--sub-quantizers", 4, "--codec", "pq", "--codec", "additive", "--queries", 30)
    ran = command(
        "quantize", "v1", "--table", "item", "--sweep", *words, "-k", 5, "--output", "r.json", "--plot", "f.png"
    )
    assert (ran.code, ran.err) == (0, "")
    lines = [line for line in ran.out.splitlines() if "bytes" in line or "int8" in line]
    assert [line.split("│")[1].strip() for line in lines] == [
        "int8", "pq 2 bytes", "pq 4 bytes", "additive 2 bytes", "additive 4 bytes",
    ]  # fmt: skip
    report = Report.load("r.json")
    recall = report.value("neighbor_recall@5", name="pq 4 bytes")
    assert lines[2].split("│")[2].strip() == f"{recall:.3f}"
    assert report.results[0].n == 30
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"
    again = command("quantize", "v1", "--table", "item", "--sweep", *words, "-k", 5, "--json")
    rows = {(row["name"], row["metric"]): row["value"] for row in json.loads(again.out)["results"]}
    assert rows["pq 4 bytes", "neighbor_recall@5"] == recall


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("v1", "--output", "o"), "--table is missing: which one of version 'v1'; known: item"),
        (("v1", "--table", "items", "--output", "o"), "did you mean 'item'"),
        (("v1", "--table", "item-pq", "--output", "o"), "holds codes, expected vectors"),
        (("v1/item", "--table", "item", "--output", "o"), "--table goes with a version, which v1/item is not"),
        (("v1/item",), "--output is missing"),
        (("v1/item", "--output", "v1"), "v1 exists already"),
        (
            ("v1/item", "--output", "o", "--sub-quantizers", "3"),
            "3 sub_quantizers do not divide the dim 8; take 2 or 4",
        ),
        (("v1/item", "--output", "o", "--sub-quantizers", "2", "--sub-quantizers", "4"), "several go with --sweep"),
        (("v1/item", "--output", "o", "--codec", "opc"), "codec 'opc' does not exist; did you mean 'opq'"),
        (("v1/item", "--output", "o", "--plot", "f.png"), "--plot goes with --sweep alone"),
        (("v1/item", "--output", "o", "-k", "0"), "-k goes with --sweep alone"),
        (("v1/item", "--sweep", "--codebook", "v1/item-pq"), "--codebook does not go with --sweep"),
        (("v1/item", "--sweep", "--queries", "0"), "queries is 0"),
        (("v1/item", "--sweep", "--output", "r.txt"), "a report is saved as .json, .md or .html, not as 'r.txt'"),
        (("nowhere", "--output", "o"), "there is no such folder"),
    ],
)
def test_bad_input_is_one_line_and_code_2(words, message, command, tmp_path):
    ran = command("quantize", *words)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_a_sweep_is_not_begun_where_its_figure_cannot_be_drawn(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr("recokit.pq.compression_sweep", lambda *_, **__: pytest.fail("begun"))
    ran = command("quantize", "v1/item", "--sweep", "--plot", "f.png")
    assert ran.code == 2
    assert "pip install 'recokit[examples]'" in ran.err
    assert command("quantize", "v1/item", "--sweep", "--output", "r.txt").code == 2


def test_inspect_shows_codes_beside_vectors(command):
    shown = json.loads(command("inspect", "v1", "--json").out)
    codes = {
        "table": "item-pq", "entity": "item", "kind": "codes", "count": 200, "dim": 8, "dtype": "uint8", "ids": "int64",
        "comparator": "cos", "version": "v1", "codec": "pq", "bytes_per_row": 2,
        "compression": round(200 * 32 / (200 * 2 + 16 * 8 * 4), 2),
    }  # fmt: skip
    assert shown["tables"][1] == codes
    assert "codec" not in shown["tables"][0]
    text = command("inspect", "v1", "--verify").out
    assert "bytes_per_row" in text
    assert "7.02" in text
    assert json.loads(command("inspect", "v1/item-pq", "--json").out) == codes
