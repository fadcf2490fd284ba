"""``recokit candidates``, end to end: what is written is what the generator finds, also after a kill."""

import json
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recokit import (
    CandidateGenerator,
    EmbeddingTable,
    ExactIndex,
    FaissIndex,
    Mixture,
    RelationParameters,
    open_version,
)
from recokit.table import write_version

USERS = [f"u{n}" for n in range(7)]


@pytest.fixture
def version(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)

    def table(ids, entity, shape):
        vectors = rng.normal(size=shape).astype(np.float32)
        return EmbeddingTable.from_arrays(ids, vectors, entity=entity, version="v1", comparator="cos")

    def mixture(ids, entity, shape):
        vectors, weights = rng.normal(size=shape).astype(np.float32), rng.random(shape[:2])
        return Mixture.from_components(ids, vectors, weights, entity=entity, version="v1", name=f"{entity}-parts")

    interests = mixture(USERS, "user", (7, 3, 4))
    albums = mixture(np.arange(9), "item", (9, 2, 4))
    tables = {
        "user": table(USERS, "user", (7, 4)),
        "item": table(np.arange(20), "item", (20, 4)),
        "user-parts": interests.components,
        "interests": interests,
        "item-parts": albums.components,
        "albums": albums,
    }
    relations = [
        RelationParameters("clicks", "user", "item", "translation", rng.normal(size=4).astype(np.float32)),
        RelationParameters("buys", "user", "shop", "identity", np.zeros(0)),
    ]
    return write_version("v1", tables, relations=relations)


@pytest.fixture
def run(version, monkeypatch, run_cli):
    point = EntryPoint("candidates", "recokit.candidates_cli:candidates", "recokit.commands")
    monkeypatch.setattr("recokit.cli.entry_points", lambda group: [point])
    return lambda *words: run_cli("candidates", "v1", *words)


def exact(version, queries, items, relation=None, **choices):
    table = items.components if isinstance(items, Mixture) else items
    chosen = None if relation is None else version.relations[relation]
    more = {"items": items} if isinstance(items, Mixture) else {}
    return CandidateGenerator(ExactIndex.build(table), queries, chosen, **more, **choices)


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


BASE = ("--queries", "interests", "--relation", "clicks", "--all", "-k", "5")


def test_all_of_a_mixture_in_parts(run, version):
    ran = run(*BASE, "--allocation", "min_one", "--chunk", "3", "--output", "out", "--json")
    assert (ran.code, ran.err) == (0, "")
    summary = json.loads(ran.out)
    assert summary.pop("seconds") > 0
    assert summary == {
        "output": "out", "version": "v1", "queries": "interests", "items": "item", "relation": "clicks", "k": 5,
        "allocation": "min_one", "asked": 7, "unknown": 0, "candidates": 35, "parts": 3, "resumed": 0,
    }  # fmt: skip
    generate = exact(version, version.mixture("interests"), version.table("item"), "clicks", allocation="min_one")
    pd.testing.assert_frame_equal(pd.read_parquet("out"), generate(USERS, 5))
    files = names("out")
    assert files == ["_candidates.json", "part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    manifest = json.loads(Path("out/_candidates.json").read_text())
    assert manifest["complete"] is True
    assert list(manifest["files"]) == files[1:]
    assert manifest["settings"]["allocation"] == "min_one"


def test_some_of_a_table_in_one_file_without_what_is_excluded(run, version):
    pd.DataFrame({"id": ["u5", "u1", "u5", "nobody"]}).to_csv("ids.csv", index=False)
    pd.DataFrame({"query": ["u1", "u1", "u5", "u9"], "candidate": [3, 4, 99, 1]}).to_csv("seen.csv", index=False)
    words = ("--queries", "user", "--items", "item", "--ids", "ids.csv", "--exclude", "seen.csv", "-k", "18")
    ran = run(*words, "--output", "out.parquet")
    assert ran.code == 2
    assert "ids.csv: 1 of 4 ids are not in 'user', such as 'nobody'; --skip-unknown leaves them out" in ran.err
    ran = run(*words, "--skip-unknown", "--output", "out.parquet", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert (json.loads(ran.out)["unknown"], json.loads(ran.out)["asked"]) == (1, 2)
    seen = pd.DataFrame({"query": ["u1", "u1"], "candidate": [3, 4]})
    expected = exact(version, version.table("user"), version.table("item"))(["u5", "u1"], 18, exclude=seen)
    found = pd.read_parquet("out.parquet")
    pd.testing.assert_frame_equal(found, expected)
    assert not set(found["candidate"][found["query"] == "u1"]) & {3, 4}
    assert [name for name in names(".") if name.startswith(".partial")] == []


def test_mixtures_on_both_sides(run, version):
    words = ("--queries", "interests", "--items", "albums", "--all", "-k", "4")
    assert run(*words, "--aggregate", "max", "--missing", "floor", "--output", "out").code == 0
    generate = exact(version, version.mixture("interests"), version.mixture("albums"), aggregate="max", missing="floor")
    pd.testing.assert_frame_equal(pd.read_parquet("out"), generate(USERS, 4))


def test_a_mixture_that_stands_elsewhere(run, version):
    mixture = Mixture.from_rows(["new"], np.array([[1, 5]]), components=version.table("item"), entity="user")
    mixture.save("new-users")
    assert run("--queries", "new-users", "--items", "item", "--all", "-k", "3", "--output", "out.parquet").code == 0
    found = pd.read_parquet("out.parquet")
    assert found[["query", "component"]].values.tolist() == [["new", 0], ["new", 1], ["new", 0]]
    assert found["candidate"].tolist()[:2] == [1, 5]


def test_the_three_ways_to_search(run, version):
    FaissIndex.build(version.table("item"), kind="flat").save("index")
    for name, words in (("a", ["--exact"]), ("b", ["--hnsw"]), ("c", ["--index", "index"])):
        ran = run(*BASE, *words, "--output", name)
        assert (ran.code, ran.err) == (0, "")
    first = pd.read_parquet("a")
    pd.testing.assert_frame_equal(pd.read_parquet("b"), first)  # of 20 rows an HNSW index finds all
    pd.testing.assert_frame_equal(pd.read_parquet("c"), first)


KILLED = """
import os, signal, sys
from importlib.metadata import EntryPoint
import recokit.cli, recokit.candidates.files as files
point = EntryPoint("candidates", "recokit.candidates_cli:candidates", "recokit.commands")
recokit.cli.entry_points = lambda group: [point]
written, write = [], files._write
class Dying:
    def __getattr__(self, name):
        return getattr(os, name)
    def fsync(self, number):
        if len(written) == 1:  # the second part, written and not yet renamed
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(number)
files.os = Dying()
recokit.cli.main()
"""


def test_a_killed_run_goes_on(run):
    words = [*BASE, "--chunk", "2"]
    dead = subprocess.run([sys.executable, "-c", KILLED, "candidates", "v1", *words, "--output", "out"], check=False)
    assert dead.returncode == -signal.SIGKILL
    left = names("out")
    assert "part-00000.parquet" in left
    assert "part-00001.parquet" not in left
    assert sum(name.startswith(".partial-part-00001.parquet") for name in left) == 1
    before = Path("out/part-00000.parquet").stat().st_mtime_ns
    ran = run(*words, "--output", "out")
    assert ran.code == 2
    assert "out exists already: choose another name, or go on with it by --resume" in ran.err
    for other, name in (
        (["-k", "6"], "k 5, this run has 6"),
        (["--allocation", "min_one"], "allocation 'round_robin'"),
    ):
        ran = run(*words, *other, "--output", "out", "--resume")
        assert ran.code == 2
        assert f"was begun with {name}" in ran.err
        assert len(ran.err.splitlines()) == 1
    ran = run(*words, "--output", "out", "--resume", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["resumed"] == 1
    assert Path("out/part-00000.parquet").stat().st_mtime_ns == before
    assert run(*words, "--output", "whole").code == 0
    assert names("out") == names("whole")
    for name in names("out"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes(), name


def test_another_version_or_other_pairs_are_refused(run, version, tmp_path):
    assert run(*BASE, "--output", "out").code == 0
    assert run(*BASE, "--output", "out.parquet").code == 0
    (tmp_path / "old").mkdir()
    (tmp_path / "v1").rename(tmp_path / "old" / "v1")
    old = open_version("old/v1")
    tables = {"interests": old.mixture("interests"), "item": old.table("item")}
    write_version("v1", tables, relations=list(old.relations.values()), meta={"other": True})
    for output in ("out", "out.parquet"):
        ran = run(*BASE, "--output", output, "--resume")
        assert ran.code == 2
        assert "was begun with version_sha256" in ran.err
    assert run(*BASE, "--output", "new").code == 0
    pd.DataFrame({"query": ["u1"], "candidate": [3]}).to_parquet("seen.parquet")
    ran = run(*BASE, "--exclude", "seen.parquet", "--output", "new", "--resume")
    assert ran.code == 2
    assert "was begun with exclude_sha256 None" in ran.err


def test_what_is_complete_is_left_alone(run):
    for output in ("out", "out.parquet"):
        assert run(*BASE, "--output", output, "--resume").code == 0
        first = pd.read_parquet(output)
        ran = run(*BASE, "--output", output, "--resume", "--json")
        assert json.loads(ran.out)["resumed"] == 1
        pd.testing.assert_frame_equal(pd.read_parquet(output), first)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--queries", "user", "--items", "item"], "whose candidates? expected either --ids FILE or --all"),
        (["--queries", "user", "--all", "--ids", "x.csv"], "whose candidates? expected either --ids FILE or --all"),
        (["--queries", "usr", "--all"], "version 'v1' has no table 'usr'; did you mean 'user'?"),
        (["--queries", "interests", "--all"], "candidates for the mixture 'interests' of what? expected --relation or"),
        (["--queries", "user", "--all", "--relation", "click"], "no relation 'click'; did you mean 'clicks'?"),
        (["--queries", "user", "--all", "--relation", "buys"], "version 'v1' has no table of 'shop': say which with"),
        (["--queries", "item", "--all", "--relation", "clicks"], "relation 'clicks' goes from 'user' to 'item'"),
        (["--queries", "user", "--all", "--exact", "--hnsw"], "--index, --exact and --hnsw are three ways to search"),
        (["--queries", "user", "--all", "--chunk", "0"], "--chunk is 0, expected at least 1"),
        (["--queries", "user", "--all", "-k", "0"], "k is 0, expected an integer of at least 1"),
        (["--queries", "user", "--all", "--allocation", "fair"], "allocation='fair' is no choice; known: max_score"),
        (["--queries", "user", "--all", "--chunk", "2", "--output", "x.parquet"], "x.parquet is a file, which holds"),
        (["--queries", "user", "--all", "--index", "nowhere"], "nowhere"),
        (["--queries", "user", "--ids", "bad.csv"], "no column 'id'"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_one_line(run, tmp_path, words, message):
    (tmp_path / "bad.csv").write_text("user\nu1\n")
    ran = run("--output", "out", *words)
    assert ran.code == 2
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
