"""Edge sketches: do rows overlap with the edges that a table was trained on?"""

import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recokit.errors import ConfigError, DataError, FormatError
from recokit.overlap import LeakCount, Overlap, edge_sketch, estimate_overlap, find_overlaps, merge_sketches
from recokit.table import EmbeddingTable

MASK = 2**64 - 1


def oracle_hash(value: int | str) -> int:
    """The published hash functions, with Python's integers."""
    if isinstance(value, str):
        state = 0xCBF29CE484222325
        for byte in value.encode():
            state = ((state ^ byte) * 0x100000001B3) & MASK
        value = state
    x = (value + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def hashes_of(sketch: dict) -> list[int]:
    import base64

    return np.frombuffer(base64.b64decode(sketch["hashes"]), "<u8").tolist()


@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        (["u1", "ü2", "", "a longer name"], ["i1", "i2", "日本", "i4"]),
        ([1, -5, 2**62, 0], ["a", "b", "c", "d"]),
        ([1, 2, 3, 4], [1, 1, 1, 2**63 - 1]),
    ],
)
def test_hashes_are_the_documented_ones(sources, targets):
    golden = 0x9E3779B97F4A7C15
    expected = sorted(
        oracle_hash((oracle_hash(s) + golden * oracle_hash(t)) & MASK) for s, t in zip(sources, targets, strict=True)
    )
    assert hashes_of(edge_sketch(sources, targets)) == expected
    assert oracle_hash(0) == 0xE220A8397B1DCDAF  # splitmix64's first output for seed 0, as published


def test_the_way_ids_are_held_does_not_change_the_sketch():
    sources, targets = ["u1", "u2", "u1"], [7, 8, 9]
    expected = edge_sketch(sources, targets)
    assert edge_sketch(pd.Series(sources, dtype="category"), np.array(targets)) == expected
    assert edge_sketch(pa.array(sources).dictionary_encode(), pa.array(targets, pa.int32())) == expected
    assert edge_sketch(pa.array(["x", *sources])[1:], pd.Index(targets)) == expected


def test_overlap_is_exact_while_the_edges_fit():
    sketch = edge_sketch(["a", "a", "b"], ["x", "y", "x"])
    pairs = [("a", "x"), ("a", "x"), ("b", "y"), ("x", "a")]  # two hits, an absent pair, a reversed one
    assert estimate_overlap(sketch, *zip(*pairs, strict=True)) == 2 / 4
    assert estimate_overlap(json.loads(json.dumps(sketch)), ["b"], ["x"]) == 1.0
    assert math.isnan(estimate_overlap(sketch, [], []))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_overlap_is_estimated_within_a_few_percent_beyond(share):
    edges = np.arange(200_000)
    known = int(20_000 * share)
    rows = np.concatenate([edges[:known], np.arange(10**6, 10**6 + 20_000 - known)])
    sketch = edge_sketch(edges // 300, edges)
    sampled = 20_000 * 4096 / 200_000
    error = 4 * math.sqrt(share * (1 - share) / sampled)
    assert estimate_overlap(sketch, rows // 300, rows) == pytest.approx(share, abs=error + 1e-12)
    assert sketch["count"] == 200_000
    assert len(json.dumps(sketch)) < 45_000


def test_sketches_of_parts_merge_to_the_sketch_of_the_whole():
    sources, targets = np.arange(30_000) % 97, np.arange(30_000)
    parts = edge_sketch(sources[:9_000], targets[:9_000]), edge_sketch(sources[9_000:], targets[9_000:])
    assert merge_sketches(*parts) == edge_sketch(sources, targets)


def test_repeated_edges_count_once_in_the_set():
    assert hashes_of(edge_sketch([1, 1, 2], [3, 3, 4])) == hashes_of(edge_sketch([2, 1], [4, 3]))


def tables(sketches: list[dict], *, item_version: str = "v1") -> tuple[EmbeddingTable, EmbeddingTable]:
    vectors = np.eye(2, dtype=np.float32)
    users = EmbeddingTable.from_arrays(
        ["u1", "u2"], vectors, entity="user", version="v1", meta={"edge_sketches": sketches}
    )
    return users, EmbeddingTable.from_arrays(["i1", "i2"], vectors, entity="item", version=item_version)


def test_overlaps_name_columns_relation_and_version():
    likes = {"relation": "likes", "source": "user", "target": "item", **edge_sketch(["u1", "u2"], ["i1", "i1"])}
    follows = {"relation": "follows", "source": "user", "target": "user", **edge_sketch(["u1"], ["u2"])}
    users, items = tables([likes, follows], item_version="v2")
    frame = pd.DataFrame({"viewer": ["u1", "u2", "u2", None], "author": ["u2"] * 4, "shown": ["i1", "i1", "i2", "i1"]})
    found = find_overlaps([("viewer", users), ("shown", items), ("author", users)], frame)
    assert set(found) == {
        Overlap("viewer", "shown", "likes", "v1", 2 / 3),
        Overlap("author", "shown", "likes", "v1", 3 / 4),
        Overlap("viewer", "author", "follows", "v1", 1 / 3),
        Overlap("author", "viewer", "follows", "v1", 0.0),
    }
    assert str(found[0]) == "67% of the pairs (viewer, shown) are 'likes' edges that version 'v1' was trained on"


def test_tables_without_sketches_say_nothing():
    users, items = tables([])
    frame = pd.DataFrame({"user": ["u1"], "item": ["i1"]})
    assert find_overlaps([("user", users), ("user", users), ("item", items)], frame) == []


def test_refusals():
    with pytest.raises(DataError, match="2 sources and 1 targets"):
        edge_sketch([1, 2], [1])
    with pytest.raises(DataError, match="1 of 2 ids are missing"):
        edge_sketch([1, None], [1, 2])
    with pytest.raises(ConfigError, match="size 0"):
        edge_sketch([1], [1], size=0)
    with pytest.raises(FormatError, match="'edge-sketch/9'"):
        estimate_overlap({"format": "edge-sketch/9"}, [1], [1])


def test_drawn_negatives_do_not_dilute_a_leak():
    sketch = edge_sketch([1, 2, 3], [7, 8, 9])
    seen = {"relation": "clicks", "source": "user", "target": "item", **sketch}
    vectors = np.ones((3, 2), np.float32)
    users = EmbeddingTable.from_arrays([1, 2, 3], vectors, entity="user", version="v1", meta={"edge_sketches": [seen]})
    items = EmbeddingTable.from_arrays([7, 8, 9], vectors, entity="item", version="v1")
    rows = pd.DataFrame({"user": [1, 2] + [3] * 198, "item": [7, 9] + [7] * 198, "clicked": [1, 1] + [0] * 198})
    for labels, share in (((), None), (("clicked",), 0.5), (("missing",), None)):
        count = LeakCount([("user", users), ("item", items)], labels)
        count.add(rows.iloc[:50])
        count.add(rows.iloc[50:])
        assert [leak.share for leak in count.leaks()] == ([] if share is None else [share])  # 1 of 200, 1 of 2
