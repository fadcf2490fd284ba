"""A version that is put together from another one, without reading it."""

import json
import os

import numpy as np
import pytest

from pretrain.pipeline.quantization import quantize_version
from pretrain.pipeline.tables import Quantization
from recokit import EmbeddingTable, open_version, quantize, write_version
from recokit.errors import ChecksumError, ConfigError, DataError, VersionError
from recokit.table.version import extend_version


@pytest.fixture
def base(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    table = EmbeddingTable.from_arrays(np.arange(100), vectors, entity="item", version="v1")
    state = {"degrees-item": np.arange(100)}
    reports = {"training.json": "{}"}
    return write_version(tmp_path / "a/v1", {"item": table}, parent="v0", meta={"x": 1}, state=state, reports=reports)


def test_it_has_all_that_was_there_and_more(base, tmp_path):
    codes = quantize(base.table("item"), 2)
    version = extend_version(tmp_path / "b/v1", base, tables={"item-pq": codes}, reports={"card.md": "a card"})
    assert open_version(version.path, verify=True) == version
    assert (version.name, version.parent, version.meta, version.created) == ("v1", "v0", {"x": 1}, base.created)
    assert {name: entry.kind for name, entry in version.tables.items()} == {"item": "vectors", "item-pq": "codes"}
    np.testing.assert_array_equal(version.codes("item-pq").codes, codes.codes)
    np.testing.assert_array_equal(version.table("item").vectors, base.table("item").vectors)
    assert version.state["degrees-item"].tolist() == list(range(100))
    assert {name: path.read_text() for name, path in version.reports.items()} == {
        "training.json": "{}",
        "card.md": "a card",
    }


def test_its_files_are_the_same_bytes_on_disk(base, tmp_path):
    version = extend_version(tmp_path / "b/v1", base)
    file = "item/vectors.npy"
    assert (version.path / file).stat().st_ino == (base.path / file).stat().st_ino
    files = [json.loads((each.path / "version.json").read_text())["files"] for each in (base, version)]
    assert files[0] == files[1]


def test_across_file_systems_they_are_copied_and_checked(base, tmp_path, monkeypatch):
    def no_link(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    version = extend_version(tmp_path / "b/v1", base)
    assert (version.path / "item/vectors.npy").stat().st_ino != (base.path / "item/vectors.npy").stat().st_ino
    with (base.path / "item/vectors.npy").open("r+b") as file:
        file.seek(200)
        file.write(b"\x07")
    with pytest.raises(ChecksumError, match=r"vectors\.npy has the sha256"):
        extend_version(tmp_path / "c/v1", base)
    assert list((tmp_path / "c").iterdir()) == []


def test_what_clashes_is_refused(base, tmp_path):
    with pytest.raises(VersionError, match="is version 'v1', expected 'v2'"):
        extend_version(tmp_path / "v2", base)
    with pytest.raises(ConfigError, match="has a table 'item' already"):
        extend_version(tmp_path / "b/v1", base, tables={"item": base.table("item")})
    with pytest.raises(ConfigError, match=r"has a report 'training\.json' already"):
        extend_version(tmp_path / "b/v1", base, reports={"training.json": ""})


def test_a_table_too_small_for_a_codebook_has_no_codes_unless_it_was_named(base, tmp_path):
    few = EmbeddingTable.from_arrays(np.arange(15), np.ones((15, 4), np.float32), entity="topic", version="v1")
    both = extend_version(tmp_path / "b/v1", base, tables={"topic": few})
    facts = quantize_version(both, Quantization(sub_quantizers=2), tmp_path / "c")
    assert facts["topic-pq"] == {"left out": "15 rows, too few for a codebook"}
    assert set(open_version(tmp_path / "c/v1").tables) == {"item", "topic", "item-pq"}
    with pytest.raises(DataError, match="16"):
        quantize_version(both, Quantization(tables=("topic",), sub_quantizers=2), tmp_path / "d")
