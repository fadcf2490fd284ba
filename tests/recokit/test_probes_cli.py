"""Tasks from TOML, the card of a version, and ``recokit probe`` end to end."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import EntryPoint

import numpy as np
import pandas as pd
import pytest

from recokit.errors import ConfigError
from recokit.probes import (
    LinkPrediction,
    MetadataPrediction,
    NeighborStability,
    SetJaccard,
    TopicPrediction,
    read_tasks,
    run_probes,
    version_card,
)
from recokit.report import Report, Result
from recokit.table import EmbeddingTable, RelationParameters, write_version
from recokit.toml_file import TomlFile

pytest.importorskip("sklearn")

USERS = 120
KIND = np.arange(USERS) % 2
META = {
    "config": {"dim": 4, "seed": 0, "clip": None},
    "edges": {"likes": 1234, "follows": 5},
    "times": {"likes": [874724710.0, 893286638.0]},
    "history": [{"sources": {"likes": "likes.parquet"}}, {"split": "time", "at": 893286638}],
    "split": "the last week is held out",
}


def write(path, seed=0, **changes):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((2, 4))
    users = (centres[KIND] + 0.7 * rng.standard_normal((USERS, 4))).astype(np.float32)
    items = (centres[np.arange(20) % 2] + 0.7 * rng.standard_normal((20, 4))).astype(np.float32)
    tables = {
        "user": EmbeddingTable.from_arrays(np.arange(USERS), users, entity="user", version=path.name),
        "item": EmbeddingTable.from_arrays(np.arange(20), items, entity="item", version=path.name),
    }
    likes = RelationParameters("likes", "user", "item", "identity", np.zeros(0, np.float32))
    state = {"degrees-user": np.arange(USERS)}
    return write_version(path, tables, relations=[likes], state=state, meta=META, **changes)


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return write(
        tmp_path_factory.mktemp("card") / "2026-06-02",
        parent="2026-06-01",
        created=datetime(2026, 6, 2, 3, 4, tzinfo=UTC),
    )


CONFIG = """
[[probe]]
kind = "topic"
name = "topic"
table = "user"
labels = "topics.csv"
columns = { id = "user", label = "topic" }
c = [0.1, 1]
folds = 4

[[probe]]
kind = "metadata"
name = "age"
table = "user"
labels = "users.csv"
column = "age"
cut = [30.0, 50]
degrees = "degrees.csv"

[[probe]]
kind = "jaccard"
name = "jaccard"
table = "user"
sets = "likes.csv"
known = true
pairs = 300

[[probe]]
kind = "link"
name = "likes"
relation = "likes"
pairs = "held_out.csv"
exclude = "likes.csv"
k = [5, 10]

[[probe]]
kind = "stability"
name = "stability"
table = "user"
k = 5
"""


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "probe.toml").write_text(CONFIG)
    pd.DataFrame({"user": np.arange(USERS), "topic": np.where(KIND == 0, "sport", "music")}).to_csv(
        tmp_path / "topics.csv", index=False
    )
    users = pd.DataFrame({"id": np.arange(USERS), "age": 20 + 30 * KIND + rng.integers(0, 20, USERS)})
    users.to_csv(tmp_path / "users.csv", index=False)
    users.assign(degree=1).to_csv(tmp_path / "degrees.csv", index=False)
    likes = pd.DataFrame([(u, 2 * i + KIND[u]) for u in range(USERS) for i in rng.permutation(10)[:6]])
    likes.columns = ["query", "candidate"]
    likes[likes.index % 3 > 0].to_csv(tmp_path / "likes.csv", index=False)
    likes[likes.index % 3 == 0].to_csv(tmp_path / "held_out.csv", index=False)
    return tmp_path


def test_tasks_are_read_with_paths_from_the_files_folder(folder):
    tasks = read_tasks(TomlFile.read(folder / "probe.toml"))
    assert tasks == (
        TopicPrediction("topic", "user", folder / "topics.csv", {"id": "user", "label": "topic"}, c=(0.1, 1), folds=4),
        MetadataPrediction("age", "user", folder / "users.csv", "age", cut=(30.0, 50), degrees=folder / "degrees.csv"),
        SetJaccard("jaccard", "user", folder / "likes.csv", known=True, pairs=300),
        LinkPrediction("likes", "likes", folder / "held_out.csv", exclude=folder / "likes.csv", k=(5, 10)),
        NeighborStability("stability", "user", k=5),
    )
    text = CONFIG.replace("[[probe]]", "[[benchmark]]")
    (folder / "pipeline.toml").write_text(text)
    assert read_tasks(TomlFile.read(folder / "pipeline.toml"), section="benchmark") == tasks
    assert read_tasks(TomlFile.read(folder / "pipeline.toml")) == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "topic"', 'kind = "topics"', "3: kind is 'topics'; did you mean 'topic'"),
        ('kind = "topic"\n', "", "2: 'kind' is missing: one of topic, metadata, jaccard, link, stability"),
        ('labels = "topics.csv"\n', "", "2: 'labels' is missing in [probe]"),
        ("folds = 4", "fold = 4", "9: unknown key 'fold'; did you mean 'folds'"),
        ("folds = 4", "folds = 1", "9: topic: folds is 1, expected at least 2"),
        ("folds = 4", 'folds = "4"', "9: folds is '4', expected a whole number"),
        ("cut = [30.0, 50]", "cut = [50, 30]", "17: age: cut is [50, 30], expected edges in ascending order"),
        ("known = true", 'known = "yes"', "25: known is 'yes', expected true or false"),
        ("pairs = 300", "pairs = 0", "26: pairs has to be at least 1, not 0"),
        ('name = "age"', 'name = "topic"', "13: name is 'topic', as that of another [[probe]]"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(folder, old, new, said):
    path = folder / "wrong.toml"
    path.write_text(CONFIG.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        read_tasks(TomlFile.read(path))
    assert str(error.value).startswith(f"{path}:{said}")


# --- the card ---------------------------------------------------------------------------------------------------------


def rows(*more):
    said = {"task": "topic", "kind": "topic", "coverage": "9 of 10 ids are in the table"}
    given = [
        ("2026-06-02", 0.75, 0.7, 0.8),
        ("random", 0.5, 0.45, 0.55),
        ("degree", 0.74, 0.7, 0.78),
        ("2026-06-02 - random", 0.25, 0.2, 0.3),
        ("2026-06-02 - degree", 0.01, -0.04, 0.06),
    ]
    return [Result(name, "topic roc_auc", *numbers, seed=0, protocol=said) for name, *numbers in given] + list(more)


def test_the_card_says_what_it_is_what_was_measured_and_what_was_not(version):
    missing = Result(
        "2026-06-02",
        "stability@10",
        float("nan"),
        group="user",
        protocol={"task": "stability", "kind": "stability", "skipped": "there is no previous version"},
    )
    card = version_card(version, Report(rows(missing), {}))
    assert card.startswith(
        "# 2026-06-02\n\nVersion 2026-06-02, made on 2026-06-02 03:04 UTC, started from **2026-06-01**.\n"
    )
    for line in (
        "| user | user | vectors | 120 | 4 | dot |",
        "- `likes`: 1,234 edges, from 1997-09-20 to 1998-04-22",
        "- `follows`: 5 edges",
        "- sources: likes likes.parquet",
        "- settings: dim 4, seed 0",
        "- split: the last week is held out",
        "| metric | 2026-06-02 | random | degree |",
        "| topic roc_auc | 0.750 [0.700, 0.800] | 0.500 | 0.740 * |",
        "| stability@10 · user | not measured |  |  |",
        "- topic (topics predicted). Coverage: 9 of 10 ids are in the table.",
        "- stability (neighbours kept). Not measured: there is no previous version.",
    ):
        assert line in card.split("\n"), line


def test_a_card_of_several_seeds_has_means_and_deviations(version):
    again = [replace(row, value=row.value + 0.02, seed=1) for row in rows()]
    card = version_card(version, Report(rows() + again, {}))
    assert f"| topic roc_auc | 0.760 ± {0.02 / np.sqrt(2):.3f} | 0.510 | 0.750 * |" in card
    assert "the mean over 2 seeds ± their standard deviation" in card


def test_limits_say_of_which_version_they_are_and_rows_of_which_task(version):
    def links(name, task, value, coverage):
        said = {"task": task, "kind": "link", "coverage": coverage}
        return Result(name, "recall@10", value, seed=0, group="clicks", protocol=said)

    given = [
        links("2026-06-02", "links", 0.5, "9 of 9"),
        links("2026-06-01", "links", 0.4, "7 of 9"),
        links("2026-06-02", "new links", 0.25, "3 of 3"),
        links("2026-06-01", "new links", 0.125, "3 of 3"),
    ]
    lines = version_card(version, Report(given, {})).split("\n")
    assert [line for line in lines if "recall@10" in line] == [
        "| links recall@10 · clicks | 0.500 | 0.400 |",
        "| new links recall@10 · clicks | 0.250 | 0.125 |",
    ]
    assert [line for line in lines if "Coverage" in line] == [
        "- links (links found), 2026-06-02. Coverage: 9 of 9.",
        "- links (links found), 2026-06-01. Coverage: 7 of 9.",
        "- new links (links found), 2026-06-02, 2026-06-01. Coverage: 3 of 3.",
    ]


def test_a_card_without_anything_says_so(tmp_path):
    bare = EmbeddingTable.from_arrays([1], np.ones((1, 2), np.float32), entity="user", version="v1")
    card = version_card(write_version(tmp_path / "v1", {"user": bare}), Report([], {}))
    assert "trained from scratch" in card
    assert "The version does not say what it was trained on." in card
    assert "Nothing was measured." in card


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(folder, monkeypatch, run_cli):
    point = EntryPoint("probe", "recokit.probes.cli:probe", "recokit.commands")
    monkeypatch.setattr("recokit.cli.entry_points", lambda group: [point])
    monkeypatch.chdir(folder)
    write(folder / "v1")
    write(folder / "v2", seed=1)
    return run_cli


def test_a_version_is_measured_shown_and_written(command, folder):
    ran = command(
        "probe",
        f"{folder}@v2",
        "probe.toml",
        "--previous",
        "v1",
        "--output",
        "out.json",
        "--card",
        "card.md",
        "--bootstrap",
        50,
    )
    assert (ran.code, ran.err) == (0, "")
    report = Report.load("out.json")
    # fmt: off
    assert {(r.metric, r.group) for r in report.results if r.name == "v2"} == {
        ("topic roc_auc", None), ("topic roc_auc", "music"), ("topic roc_auc", "sport"),
        ("age roc_auc", None), ("age roc_auc", "under 30"), ("age roc_auc", "30 to 50"), ("age roc_auc", "50 or more"),
        ("jaccard spearman", None), ("jaccard spearman", "uniform pairs"), ("jaccard spearman", "pairs that share"),
        ("recall@5", "likes"), ("recall@10", "likes"), ("stability@5", "user"),
    }
    # fmt: on
    assert report.value("topic roc_auc", name="v2") > 0.7
    topic = next(r for r in report.results if r.name == "degree")
    assert topic.protocol["vectors"] == "log(1 + degree), of the edges that the version was trained on"
    assert "jaccard spearman · pairs that share" in ran.out
    card = (folder / "card.md").read_text()
    assert card == version_card(write_again(folder), report)


def write_again(folder):
    from recokit.table import open_version

    return open_version(folder / "v2")


def test_json_and_several_seeds(command, folder):
    (folder / "probe.toml").write_text(CONFIG[: CONFIG.index("[[probe]]", 20)])
    ran = command("probe", "v1", "probe.toml", "--seeds", 2, "--seed", 5, "--bootstrap", 0, "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)["results"]
    assert {row["seed"] for row in found} == {5, 6}
    tasks = read_tasks(TomlFile.read(folder / "probe.toml"))
    from recokit.table import open_version

    expected = run_probes(open_version(folder / "v1"), tasks, seed=6, bootstrap=0)
    assert [row["value"] for row in found if row["seed"] == 6] == [r.value for r in expected.results]


def test_bad_input_ends_with_one_line(command, folder):
    ran = command("probe", "v1", "probe.toml", "--card", "card.html")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "recokit: --card is 'card.html', expected a name that ends in .md\n"
    (folder / "empty.toml").write_text("")
    assert "there is no [[probe]]" in command("probe", "v1", "empty.toml").err
    (folder / "odd.toml").write_text("[[probes]]\n")
    assert "odd.toml:1: unknown key 'probes'; did you mean 'probe'" in command("probe", "v1", "odd.toml").err
