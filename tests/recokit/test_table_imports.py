"""Vectors of other trainers: word2vec's text format and CSV."""

import gzip

import numpy as np
import pytest

from recokit.errors import DataError, FormatError
from recokit.table import EmbeddingTable, imports

NAMES = {"entity": "item", "version": "v1"}


@pytest.mark.parametrize(
    "text",
    [
        "2 3\na 1 2 3\nb 4 -5e-1 6\n",
        "a 1 2 3\nb 4 -5e-1 6\n",
        "2 3\r\na 1 2 3 \r\nb 4 -5e-1 6",  # word2vec ends lines with a space
    ],
)
def test_word2vec(text, tmp_path):
    (tmp_path / "w.txt").write_bytes(text.encode())
    table = EmbeddingTable.from_word2vec(tmp_path / "w.txt", **NAMES)
    assert table.ids.to_pylist() == ["a", "b"]
    assert table.vectors.tolist() == [[1, 2, 3], [4, -0.5, 6]]
    assert (table.comparator, table.dtype, table.entity, table.version) == ("cos", np.float32, "item", "v1")


def test_word2vec_ids_may_hold_spaces_and_other_separators(tmp_path):
    (tmp_path / "w.txt").write_text("2 2\nnew york 1 2\na\u00a0b\u2028c 3 4\n", encoding="utf-8")
    assert EmbeddingTable.from_word2vec(tmp_path / "w.txt", **NAMES).ids.to_pylist() == [
        "new york",
        "a\u00a0b\u2028c",
    ]


def test_word2vec_in_several_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "_LINES", 3)
    (tmp_path / "w.txt").write_text("7 1\n" + "".join(f"{n} {n / 2}\n" for n in range(7)))
    table = EmbeddingTable.from_word2vec(tmp_path / "w.txt", **NAMES, id_type="int64")
    assert table.ids.to_pylist() == [0, 1, 2, 3, 4, 5, 6]
    assert table.vectors.tolist() == [[0], [0.5], [1], [1.5], [2], [2.5], [3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 2\na 1 2\nb 1\n", r"w.txt, line 3: 2 fields, expected an id and 2 numbers"),
        ("a 1 2\n\nb 1 2\n", "line 2: 0 fields"),
        ("2 2\na 1 2\nb 1 x\n", r"line 3 \(id 'b'\): could not convert string to float: 'x'"),
        ("3 2\na 1 2\nb 1 2\n", "2 vectors, its first line promises 3: it is truncated"),
        ("", "line 1: '', expected 'count dim'"),
        ("word\n", "line 1: 'word', expected"),
    ],
)
def test_malformed_word2vec(text, message, tmp_path):
    (tmp_path / "w.txt").write_text(text)
    with pytest.raises(FormatError, match=message):
        EmbeddingTable.from_word2vec(tmp_path / "w.txt", **NAMES)


def test_word2vec_with_other_ids_or_numbers(tmp_path):
    (tmp_path / "w.txt").write_text("a 1 nan\n")
    with pytest.raises(DataError, match="NaN or infinity in 1 of 1 rows, the first is row 0, id 'a'"):
        EmbeddingTable.from_word2vec(tmp_path / "w.txt", **NAMES)
    with pytest.raises(DataError, match=r"w.txt: ids are not integers: .*'a'"):
        EmbeddingTable.from_word2vec(tmp_path / "w.txt", **NAMES, id_type="int64")


def test_csv(tmp_path):
    (tmp_path / "v.csv").write_text("x,id,y\n1,007,2\n3,8,4.5\n")
    table = EmbeddingTable.from_csv(tmp_path / "v.csv", **NAMES, comparator="l2")
    assert table.ids.to_pylist() == ["007", "8"]
    assert EmbeddingTable.from_csv(tmp_path / "v.csv", **NAMES, id_type="int64").ids.to_pylist() == [7, 8]
    assert table.vectors.tolist() == [[1, 2], [3, 4.5]]
    assert table.comparator == "l2"
    kept = EmbeddingTable.from_csv(tmp_path / "v.csv", **NAMES, id_type="string", columns=["y", "x"])
    assert kept.ids.to_pylist() == ["007", "8"]
    assert kept.vectors.tolist() == [[2, 1], [4.5, 3]]


def test_csv_with_tabs_in_gzip(tmp_path):
    with gzip.open(tmp_path / "v.tsv.gz", "wt") as file:
        file.write("key\tx\nNA\t1\n")
    table = EmbeddingTable.from_csv(tmp_path / "v.tsv.gz", **NAMES, id_column="key", separator="\t")
    assert (table.ids.to_pylist(), table.vectors.tolist()) == (["NA"], [[1]])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("key,x\na,1\n", DataError, "v.csv has no column 'id'; known: key, x"),
        ("id,x\na,one\n", DataError, "column 'x' is string, expected numbers"),
        ("id\na\n", DataError, "no column besides 'id'"),
        ("id,x\na,1\nb\n", FormatError, "Row #3: Expected 2 columns, got 1"),
        ("id,x\na,\nb,2\n", DataError, "NaN or infinity in 1 of 2 rows, the first is row 0, id 'a'"),
        ("id,x\n1.5,1\n", DataError, "column 'id': got double"),
        ("id,x\n1,1\n,2\n", DataError, "1 of 2 are null, the first at position 1"),
    ],
)
def test_csv_that_is_no_table(text, error, message, tmp_path):
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(error, match=message):
        EmbeddingTable.from_csv(tmp_path / "v.csv", **NAMES)
