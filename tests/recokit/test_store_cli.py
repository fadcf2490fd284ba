"""`recokit store`: what people see, and what machines get."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from recokit.store import EmbeddingStore
from recokit.table import EmbeddingTable, write_version

JUNE = datetime(2026, 6, 1, 12, tzinfo=UTC)


def table(version, count=2):
    return EmbeddingTable.from_arrays(range(count), np.ones((count, 2), np.float32), entity="user", version=version)


def cells_of(shown):
    """Return the cells of a table's lines."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]


@pytest.fixture
def store(tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    for number, name in enumerate(("v1", "v2")):
        lineage = {"config": {"train": {"dim": 64 * (number + 1)}}, "code": {"recokit": "0.1", "commit": f"c{number}"}}
        metric = {
            "name": name,
            "metric": "recall@10",
            "value": 0.25 * (number + 1),
            "low": 0.2,
            "high": 0.3,
            "group": None,
        }
        store.publish(
            name,
            {"user": table(name, 1000 * (number + 1))},
            parent=None if number == 0 else "v1",
            reports={"lineage.json": json.dumps(lineage | {"metrics": [metric]})},
            created=JUNE + timedelta(days=number),
        )
    return store


@pytest.fixture
def run(run_cli, store):
    def run(command, *words, code=0):
        done = run_cli("store", command, store.root, *words)
        assert (done.code, done.err if code == 0 else "") == (code, ""), done.err
        return " ".join(done.err.split()) if code else done.out

    return run


def test_the_list(run, store):
    store.set_alias("production", "v1")
    first, second = cells_of(run("list"))
    assert [first[column] for column in (0, 1, 2, 4, 5)] == ["v1", "2026-06-01 12:00", "", "user", "production"]
    assert [second[column] for column in (0, 2, 5)] == ["v2", "v1", ""]
    assert first[3] == f"{store.show('v1')['bytes'] / 1000:.1f} kB"
    rows = json.loads(run("list", "--json"))
    assert [(row["version"], row["parent"], row["tables"], row["aliases"]) for row in rows] == [
        ("v1", None, ["user"], ["production"]),
        ("v2", "v1", ["user"], []),
    ]
    assert [row["bytes"] for row in rows] == [store.show(name)["bytes"] for name in ("v1", "v2")]
    store.set_alias("production", "v2")
    run("retire", "v1", "--reason", "poisoned")
    assert [row["version"] for row in json.loads(run("list", "--json"))] == ["v2"]
    rows = json.loads(run("list", "--retired", "--json"))
    assert [(row["version"], row["retired"]) for row in rows] == [("v1", True), ("v2", False)]
    assert "retired" in run("list", "--retired")
    run("restore", "v1")
    assert store.versions() == ["v1", "v2"]


def test_a_version(run):
    card = json.loads(run("show", "latest", "--json"))
    assert (card["version"], card["tables"][0]["count"], card["reports"]) == ("v2", 2000, ["lineage.json"])
    shown = run("show", "v2")
    assert "2,000" in shown
    assert "recokit 0.1, commit c1" in shown
    assert json.loads(run("lineage", "v2", "--json")) == ["v2", "v1"]
    assert "v1" in run("lineage", "v2")


def test_a_difference(run):
    found = json.loads(run("diff", "v1", "v2", "--ids", "--json"))
    assert found["config"] == {"train.dim": {"old": 64, "new": 128}}
    assert found["ids"] == {"user": {"common": 1000, "added": 1000, "removed": 0}}
    shown = run("diff", "v1", "v2", "--ids")
    for part in ("v2 started from v1", "train.dim", "user.count", "1,000 added", "recall@10", "0.2500", "no"):
        assert part in shown


def test_aliases(run, store):
    run("alias", "production", "v1")
    run("alias", "production", "latest", "--expected", "v1")
    assert json.loads(run("alias", "--json")) == {"production": "v2"}
    assert "at v2, expected v1" in run("alias", "production", "v1", "--expected", "v1", code=2)
    moves = json.loads(run("alias", "production", "--back", "--json"))
    assert [move["version"] for move in moves] == ["v1", "v2", "v1"]
    assert [cells[1] for cells in cells_of(run("alias", "production"))] == ["v1", "v2", "v1"]
    run("alias", "production", "--remove")
    assert store.aliases() == {}
    assert "one of VERSION, --back and --remove" in run("alias", "production", "v1", "--back", code=2)
    assert "was at no other version" in run("alias", "other", "--back", code=2)


def test_what_goes_and_what_stays(run, store, tmp_path):
    assert "is the latest of" in run("retire", "v2", code=2)
    run("retire", "v1")
    assert "less than 7 days ago" in run("gc")
    assert json.loads(run("gc", "--grace", "0s", "--dry-run", "--json"))["removed"] == ["v1"]
    assert "would go" in run("gc", "--grace", "0s", "--dry-run")
    folder = tmp_path / "rankers/a"
    folder.mkdir(parents=True)
    (folder / "ranker.json").write_text(json.dumps({"format": "ranker/2", "tables": [{"version": "v1"}]}))
    pattern = str(tmp_path / "rankers/*")
    assert json.loads(run("gc", "--grace", "0s", "--rankers", pattern, "--json"))["removed"] == []
    assert store.retired() == ["v1"]
    assert "--grace is 'soon', expected a number and one of s, m, h, d, w" in run("gc", "--grace", "soon", code=2)
    assert "removed" in run("gc", "--grace", "0d")
    assert store.retired() == []


def test_rankers_that_are_protected(run, store, tmp_path):
    (tmp_path / "ranker.json").write_text(json.dumps({"format": "ranker/2", "tables": [{"version": "v1"}]}))
    run("protect", tmp_path)
    assert [each["versions"] for each in json.loads(run("protect", "--json"))] == [["v1"]]
    assert "is needed: the ranker" in run("retire", "v1", code=2)
    assert json.loads(run("protect", tmp_path, "--remove", "--json")) == []


def test_a_folder_is_published_with_its_aliases(run, store, tmp_path):
    folder = write_version(tmp_path / "work/v3", {"user": table("v3")}).path
    assert "is version 'v3', expected 'v4'" in run("publish", folder, "--name", "v4", code=2)
    card = json.loads(run("publish", folder, "--alias", "production", "--alias", "staging", "--json"))
    assert (card["version"], card["aliases"]) == ("v3", ["production", "staging"])
    assert "v3" in run("publish", folder)
    assert store.aliases() == {"production": "v3", "staging": "v3"}
    assert "nobody is publishing a version 'v3'" in run("abandon", "v3", code=2)
