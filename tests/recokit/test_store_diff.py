"""What there is to know of a version, and what differs between two."""

import json
from datetime import timedelta

import numpy as np
import pytest
from store_helpers import JUNE, KINDS, empty_store, publish, table

from recokit.errors import FormatError
from recokit.store import EmbeddingStore
from recokit.table import EmbeddingTable


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    return empty_store(request.param, tmp_path)


class TestComparison:
    LINEAGE = {  # noqa: RUF012
        "format": "lineage/1",
        "config": {"train": {"dim": 64, "seed": 0}, "relation": [{"name": "follows", "weight": 1.0}], "version": "v1"},
        "code": {"recokit": "0.1", "commit": "aa"},
        "inputs": {"a.parquet": {"bytes": 1, "sha256": "1"}, "b.parquet": {"bytes": 1, "sha256": "2"}},
    }

    @pytest.fixture
    def compared(self, store):
        changed = {
            **self.LINEAGE,
            "config": {"train": {"dim": 32}, "relation": [{"name": "follows", "weight": 2.0}], "version": "v2"},
            "code": {"recokit": "0.2", "commit": "bb"},
            "inputs": {"a.parquet": {"bytes": 1, "sha256": "9"}, "c.parquet": {"bytes": 1, "sha256": "2"}},
        }
        rows = {
            "v1": [
                ("v1", "topic", 0.70, 0.69, 0.71),
                ("random", "topic", 0.5, 0.4, 0.6),
                ("v1", "age", 0.60, 0.55, 0.65),
                ("v1", "jaccard", 0.90, 0.88, 0.92),
                ("v1", "old", 1.0, None, None),
            ],
            "v2": [
                ("v2", "topic", 0.74, 0.72, 0.76),
                ("random", "topic", 0.5, 0.4, 0.6),
                ("v2", "age", 0.62, 0.60, 0.66),
                ("v2", "jaccard", 0.80, 0.79, 0.81),
                ("v2", "new", 2.0, None, None),
            ],
        }
        for number, (name, lineage) in enumerate((("v1", self.LINEAGE), ("v2", changed))):
            keys = ("name", "metric", "value", "low", "high")
            results = [{**dict(zip(keys, row, strict=True)), "group": None, "seed": None} for row in rows[name]]
            tables = {"user": table(name, count=4, start=number), "item": table(name, count=2 + number, entity="item")}
            tables["only-" + name] = table(name)
            store.publish(
                name,
                tables,
                parent=f"v{number}",
                reports={"lineage.json": json.dumps(lineage), "benchmarks.json": json.dumps({"results": results})},
                created=JUNE + timedelta(hours=number),
            )
        return store

    def test_what_differs(self, compared):
        found = compared.diff("v1", "latest", ids=True)
        assert found["relation"] == "v2 started from v1"
        assert found["code"] == {"old": {"recokit": "0.1", "commit": "aa"}, "new": {"recokit": "0.2", "commit": "bb"}}
        assert found["config"] == {
            "train.dim": {"old": 64, "new": 32},
            "train.seed": {"old": 0, "new": None},
            "relation[follows].weight": {"old": 1.0, "new": 2.0},
            "version": {"old": "v1", "new": "v2"},
        }
        assert found["inputs"] == {"added": ["c.parquet"], "removed": ["b.parquet"], "changed": ["a.parquet"]}
        assert found["tables"] == {
            "added": ["only-v2"],
            "removed": ["only-v1"],
            "changed": {"item": {"count": {"old": 2, "new": 3}}},
        }
        assert found["ids"] == {
            "user": {"common": 3, "added": 1, "removed": 1},
            "item": {"common": 2, "added": 1, "removed": 0},
        }
        metrics = {(row["name"], row["metric"]): row for row in found["metrics"]}
        assert list(metrics) == [
            ("this version", "topic"),
            ("random", "topic"),
            *(("this version", name) for name in ("age", "jaccard", "old", "new")),
        ]
        row = metrics["this version", "topic"]
        assert (row["old"], row["new"], row["beyond"]) == (0.70, 0.74, True)
        assert row["difference"] == pytest.approx(0.04)
        assert metrics["random", "topic"]["beyond"] is False
        assert metrics["this version", "age"]["beyond"] is False  # the intervals meet
        assert metrics["this version", "jaccard"]["beyond"] is True  # it fell
        assert [metrics["this version", name]["difference"] for name in ("old", "new")] == [None, None]
        assert "ids" not in compared.diff("v1", "v2")

    def test_two_that_are_the_same(self, compared):
        found = compared.diff("v1", "v1", ids=True)
        assert (found["config"], found["code"], found["inputs"]) == (
            {},
            None,
            {"added": [], "removed": [], "changed": []},
        )
        assert found["tables"] == {"added": [], "removed": [], "changed": {}}
        assert {row["difference"] for row in found["metrics"]} == {0.0}

    def test_what_there_is_to_know(self, compared):
        compared.set_alias("production", "v1")
        card = compared.show("production")
        manifest = json.loads(compared._place.read("v1/version.json"))
        total = sum(entry["bytes"] for entry in manifest["files"].values()) + len(
            compared._place.read("v1/version.json")
        )
        assert (card["version"], card["parent"], card["aliases"], card["bytes"]) == ("v1", "v0", ["production"], total)
        assert card["created"] == "2026-06-01T12:00:00+00:00"
        user = next(each for each in card["tables"] if each["name"] == "user")
        assert {key: user[key] for key in ("entity", "kind", "count", "dim", "dtype", "comparator")} == {
            "entity": "user",
            "kind": "vectors",
            "count": 4,
            "dim": 2,
            "dtype": "float32",
            "comparator": "dot",
        }
        assert user["bytes"] == sum(
            each["bytes"] for name, each in manifest["files"].items() if name.startswith("user/")
        )
        assert (card["code"], list(card["inputs"])) == (self.LINEAGE["code"], ["a.parquet", "b.parquet"])
        assert sum(each["bytes"] for each in compared.summaries()) == total + compared.show("v2")["bytes"]

    def test_where_it_came_from(self, compared):
        assert compared.lineage("v2") == ["v2", "v1", "v0"]  # v0 was never here
        assert compared.lineage("v1") == ["v1", "v0"]

    def test_ids_of_another_type_are_other_ids(self, tmp_path):
        store = EmbeddingStore(tmp_path)
        publish(store, "v1")
        words = EmbeddingTable.from_arrays(["0", "1"], np.zeros((2, 2), np.float32), entity="user", version="v2")
        store.publish("v2", {"user": words}, parent="v1")
        assert store.diff("v1", "v2", ids=True)["ids"] == {"user": {"common": 0, "added": 2, "removed": 2}}


def reported(store, **reports):
    """Publish v1 and v2 with the same reports and compare them."""
    publish(store, "v1", "v2", reports={f"{name}.json": text for name, text in reports.items()})
    return store.diff("v1", "v2")


def test_settings_begin_with_nothing_and_equal_names_are_told_apart(tmp_path):
    store = EmbeddingStore(tmp_path)
    publish(store, "v0")
    for name, value in (("v1", 1), ("v2", 2)):
        config = {"task": [{"name": "x", "k": value}, {"name": "x", "k": 9}]}
        publish(store, name, reports={"lineage.json": json.dumps({"config": config})})
    assert list(store.diff("v0", "v1")["config"]) == ["task[0].name", "task[0].k", "task[1].name", "task[1].k"]
    assert store.diff("v1", "v2")["config"] == {"task[0].k": {"old": 1, "new": 2}}


@pytest.mark.parametrize("row", ['"value": NaN, "low": "a", "high": 1', '"value": "a"', '"value": null, "group": []'])
def test_what_is_no_number_is_not_compared_and_reads_as_json(tmp_path, row):
    text = f'{{"results": [3, {{"name": "x", "metric": "m", {row}}}]}}'
    found = reported(EmbeddingStore(tmp_path), benchmarks=text)
    (metric,) = json.loads(json.dumps(found["metrics"], allow_nan=False))
    assert [metric[key] for key in ("name", "metric", "old", "difference", "beyond")] == ["x", "m", None, None, None]


def test_a_lineage_of_another_shape_is_refused_or_passed_over(tmp_path):
    odd = json.dumps({"config": None, "inputs": {"a": 3}, "metrics": [3], "code": "x"})
    assert reported(EmbeddingStore(tmp_path / "a"), lineage=odd)["inputs"] == {
        "added": [],
        "removed": [],
        "changed": [],
    }
    with pytest.raises(FormatError, match=r"lineage.json holds list, expected an object"):
        reported(EmbeddingStore(tmp_path / "b"), lineage="[]")


def test_versions_that_came_from_each_other_in_a_circle_end(tmp_path):
    store = EmbeddingStore(tmp_path)
    publish(store, "a", parent="b")
    publish(store, "b", parent="a")
    assert store.lineage("a") == ["a", "b"]
