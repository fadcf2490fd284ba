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
def run(run_cli, store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # a host's name may be long

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
    assert [each["version"] for each in json.loads(run("lineage", "v2", "--json"))] == ["v2", "v1"]
    assert [cells[:2] for cells in cells_of(run("lineage", "v2"))] == [
        ["v2", "2026-06-02 12:00"],
        ["v1", "2026-06-01 12:00"],
    ]


@pytest.fixture
def nights(run_cli, tmp_path, monkeypatch):
    """A version whose parent is gone, that was published despite a gate, with parts and floors, and one after it."""
    monkeypatch.setenv("COLUMNS", "200")
    store = EmbeddingStore(tmp_path / "nights")

    def rows(name, shift):
        figures = [
            (name, "recall@10", "likes", 0.25 + shift),
            (name, "roc_auc", None, 0.5 + shift),
            (name, "roc_auc", "Drama", 0.625),
            (name, "roc_auc", "Action", 0.75 + shift),
            ("random", "roc_auc", None, 0.5),
        ]
        keys = ("name", "metric", "group", "value", "low", "high")
        return [dict(zip(keys, (*row, row[-1] - 0.01, row[-1] + 0.01), strict=True)) for row in figures]

    for number, name in enumerate(("n2", "n3")):
        own = [{**row, "name": "links" if row["group"] == "likes" else "genres"} for row in rows(name, 0.125 * number)]
        counts = {"name": "counts", "metric": "edges", "group": "likes", "value": 1000 * (number + 1)}
        gates = [
            {"name": "bound a", "passed": True, "message": "held", "status": "passed"},
            {"name": "bound b", "passed": False, "message": "fell", "status": "failed"},
        ]
        lineage = {
            "metrics": [*own[:4], counts],
            "inputs": {f"day-{day}.parquet": {"bytes": 1000, "sha256": "0"} for day in range(10)},
        }
        lineage |= {"gates": gates, "despite": "a holiday"} if name == "n2" else {"gates": gates[:1]}
        store.publish(
            name,
            {"user": table(name)},
            parent=f"n{number + 1}",
            reports={
                "lineage.json": json.dumps(lineage),
                "benchmarks.json": json.dumps({"results": rows(name, 0.125 * number)}),
            },
            created=JUNE + timedelta(days=number),
        )
    return lambda command, *words: run_cli("store", command, store.root, *words).out


def test_what_people_see_of_a_version(nights):
    shown = [cell for cells in cells_of(nights("show", "n2")) for cell in cells]
    assert "10 files, 10.0 kB: day-0.parquet" in " ".join(shown)
    assert "and 2 more" in " ".join(shown)
    lines = cells_of(nights("show", "n2"))
    assert ["links", "recall@10", "likes", "0.2500", "0.2400 to 0.2600"] in lines
    assert ["genres", "roc_auc", "", "0.5000", "0.4900 to 0.5100"] in lines
    assert not any("Drama" in line or "counts" in line for line in lines)
    assert [line for line in lines if line[0].startswith("bound")] == [
        ["bound a", "passed", "held"],
        ["bound b", "failed", "fell"],
    ]
    assert "gates: 1 passed, 1 failed; published despite: a holiday" in " ".join(nights("show", "n2").split())


def test_what_was_published_despite_a_gate_is_marked(nights):
    assert [line[-1] for line in cells_of(nights("list"))] == ["a holiday", ""]
    assert [row["despite"] for row in json.loads(nights("list", "--json"))] == ["a holiday", None]
    assert cells_of(nights("lineage", "n3")) == [
        ["n3", "2026-06-02 12:00", "1 passed", ""],
        ["n2", "2026-06-01 12:00", "1 passed, 1 failed; published despite: a holiday", ""],
        ["n1", "", "", "removed"],
    ]


def test_a_difference_shows_main_figures_and_what_is_beyond_noise(nights):
    lines = cells_of(nights("diff", "n2", "n3"))
    assert ["edges of likes", "1,000", "2,000"] in lines
    assert [line[:3] for line in lines if line[0] in ("this version", "random")] == [
        ["this version", "recall@10", "likes"],
        ["this version", "roc_auc", ""],
        ["this version", "roc_auc", "Action"],  # a part, and beyond noise
    ]
    assert "2 more that are parts or within noise: --all" in " ".join(nights("diff", "n2", "n3").split())
    assert len([line for line in cells_of(nights("diff", "n2", "n3", "--all")) if len(line) == 7]) == 5


def test_a_difference(run):
    found = json.loads(run("diff", "v1", "v2", "--ids", "--json"))
    assert found["config"] == {"train.dim": {"old": 64, "new": 128}}
    assert found["ids"] == {"user": {"common": 1000, "added": 1000, "removed": 0}}
    shown = run("diff", "v1", "v2", "--ids")
    for part in ("v2 started from v1", "train.dim", "user.count", "1,000 added", "recall@10", "0.2500", "no"):
        assert part in shown


def test_long_settings_are_told_whole(run_cli, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    store = EmbeddingStore(tmp_path)
    key = "a_setting." + "of_a_long_name." * 6 + "that_ends_in_what_matters"
    for name, value in (("v1", 1), ("v2", 2)):
        reports = {"lineage.json": json.dumps({"config": {key: value}})}
        store.publish(name, {"user": table(name)}, reports=reports)
    shown = cells_of(run_cli("store", "diff", tmp_path, "v1", "v2").out)
    assert key in "".join(cells[0] for cells in shown)


def test_a_store_that_is_not_there_is_a_slip_unless_one_publishes(run_cli, tmp_path):
    done = run_cli("store", "list", tmp_path / "stroe")
    assert (done.code, "there is no such folder" in " ".join(done.err.split())) == (2, True)
    folder = write_version(tmp_path / "work/v1", {"user": table("v1")}).path
    assert run_cli("store", "publish", tmp_path / "new", folder).code == 0
    assert EmbeddingStore(tmp_path / "new").versions() == ["v1"]


def test_why_a_version_was_retired_is_shown(run, store):
    run("retire", "v1", "--reason", "a bad [/red] night")
    assert ": a bad [/red] night" in run("show", "v1")


def test_aliases(run, store):
    run("alias", "production", "v1")
    run("alias", "production", "latest", "--expected", "v1")
    assert json.loads(run("alias", "--json")) == {"production": "v2"}
    assert "at v2, expected v1" in run("alias", "production", "v1", "--expected", "v1", code=2)
    moves = json.loads(run("alias", "production", "--back", "--json"))
    assert [move["version"] for move in moves] == ["v1", "v2", "v1"]
    lines = cells_of(run("alias", "production"))
    assert [[cells[column] for column in (0, 2, 4)] for cells in lines] == [
        ["1", "v1", ""],
        ["2", "v2", ""],
        ["3", "v1", "1"],
    ]
    assert "is at v1, and was at no other version" in run("alias", "production", "--back", code=2)
    moved = run("alias", "production", "v2", "--reason", "as planned")
    assert moved.splitlines()[0] == "production: v1 -> v2"
    assert "as planned" in run("alias", "production")
    assert run("alias", "production", "--back").splitlines()[0] == "production: v2 -> v1"
    assert "--reason says why an alias moves" in run("alias", "production", "--reason", "none", code=2)
    run("alias", "production", "--remove")
    assert store.aliases() == {}
    assert "one of VERSION, --back and --remove" in run("alias", "production", "v1", "--back", code=2)
    assert "has no alias 'other'" in run("alias", "other", "--back", code=2)
    assert "has no alias 'prod'" in run("alias", "prod", code=2)
    for words in (["--back"], ["--remove"]):
        assert "--back and --remove need an ALIAS" in run("alias", *words, code=2)
    assert "--expected says where an alias is" in run("alias", "production", "--expected", "v1", code=2)


def test_what_goes_and_what_stays(run, store, tmp_path):
    assert "is the latest of" in (said := run("retire", "v2", code=2))
    assert "--force" in said
    assert run("retire", "v1", "--reason", "poisoned").startswith("v1 is retired")
    assert run("restore", "v1") == "v1 is restored\n"
    run("retire", "v1", "--reason", "poisoned")
    size = store.show("v1")["bytes"]
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
    assert "longer than time is counted" in run("gc", "--grace", "99999999999w", code=2)
    shown = run("gc", "--grace", "0d")
    ((name, went, freed, why),) = cells_of(shown)
    assert (name, went, freed) == ("v1", "removed", f"{size / 1000:.1f} kB")
    assert why.endswith(": poisoned")
    assert f"{size / 1000:.1f} kB freed" in " ".join(shown.split())
    assert store.retired() == []


def test_rankers_that_are_protected(run, store, tmp_path):
    (tmp_path / "ranker.json").write_text(json.dumps({"format": "ranker/2", "tables": [{"version": "v1"}]}))
    run("protect", tmp_path)
    assert [each["versions"] for each in json.loads(run("protect", "--json"))] == [["v1"]]
    assert "is needed: the ranker" in run("retire", "v1", code=2)
    assert "--remove needs the RANKER" in run("protect", "--remove", code=2)
    assert json.loads(run("protect", tmp_path, "--remove", "--json")) == []


def test_a_folder_is_published_with_its_aliases(run, store, tmp_path):
    folder = write_version(tmp_path / "work/v3", {"user": table("v3")}).path
    assert "is version 'v3', expected 'v4'" in run("publish", folder, "--name", "v4", code=2)
    assert "--alias is 'a b'" in run("publish", folder, "--alias", "a b", code=2)
    assert store.versions() == ["v1", "v2"]
    card = json.loads(run("publish", folder, "--alias", "production", "--alias", "staging", "--json"))
    assert (card["version"], card["aliases"]) == ("v3", ["production", "staging"])
    assert "v3" in run("publish", folder)
    assert store.aliases() == {"production": "v3", "staging": "v3"}
    assert "nobody is publishing a version 'v3'" in run("abandon", "v3", code=2)
