"""The pipeline, end to end: what is skipped, what is stopped, what is left after a kill, and what is published."""

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pipeline_nights as nights
import pytest

from pretrain import Graph, Relation, TrainConfig, load_exported, train
from pretrain.pipeline import STEPS, BusyError, load_pipeline, run_pipeline, show_status
from pretrain.pipeline import run as run_module
from pretrain.pipeline.benchmarks import _drift, check_benchmarks, remembered
from pretrain.pipeline.parent import _store_of, days_of
from pretrain.pipeline.publication import move_aliases
from pretrain.pipeline.tables import Drifts
from pretrain.pipeline.work import Work
from recokit import EmbeddingStore, EmbeddingTable, FeatureSpec, open_version, write_version
from recokit.errors import ConfigError, DataError, VersionError
from recokit.features import Pretrained
from recokit.rankers import LinearProbe

KEY = "0123456789abcdef" * 2
TRAIN = TrainConfig(dim=8, epochs=12, learning_rate=0.1, uniform_negatives=20, temperature=0.2, batch_size=256)


@pytest.fixture(scope="module")
def first_night(tmp_path_factory, one_thread) -> Path:
    """A folder in which the version ``one`` has been published."""
    folder = tmp_path_factory.mktemp("first")
    path = nights.write_nights(folder, 2)
    assert run_pipeline(load_pipeline(path, version="one")).published
    return folder


@pytest.fixture
def folder(first_night, tmp_path) -> Path:
    """The same, for a test to go on with."""
    shutil.copytree(first_night, tmp_path / "f")
    return tmp_path / "f"


def run(folder, version, **options):
    return run_pipeline(load_pipeline(folder / "pipeline.toml", version=version), **options)


def edit(folder, old, new):
    path = folder / "pipeline.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def add_night(folder, night):
    nights.clicks(night).to_parquet(folder / "clicks" / f"{night}.parquet", index=False)


def made(outcome):
    return [step["name"] for step in outcome.steps if not step["skipped"]]


class TestANight:
    def test_the_version_is_what_training_alone_makes_of_the_known_edges(self, first_night):
        work, key = (
            first_night / "work",
            json.loads((first_night / "work/runs/one.json").read_text())["steps"]["prepare"],
        )
        known = work / "prepare" / key / "known"
        relations = [Relation("clicks", "user", "item"), Relation("follows", "user", "user")]
        graph = Graph.from_files({each.name: known / f"{each.name}.parquet" for each in relations}, relations)
        model = train(graph, TRAIN)
        version = EmbeddingStore(first_night / "store").open("one")
        for entity in ("user", "item"):
            trained = model.degrees[entity] > 0
            np.testing.assert_array_equal(version.table(entity).vectors, model.vectors[entity].numpy()[trained])

    def test_it_is_published_whole_with_its_reports_and_named(self, first_night):
        store = EmbeddingStore(first_night / "store")
        version = store.open("production", verify=True)
        assert (version.name, version.parent) == ("one", None)
        assert set(version.reports) == {"benchmarks.json", "card.md", "lineage.json", "training.json"}
        lineage = json.loads(version.reports["lineage.json"].read_text())
        assert [step["name"] for step in lineage["steps"]] == [
            "select",
            "prepare",
            "train",
            "benchmark",
            "quantize",
            "gates",
        ]
        assert set(lineage["inputs"]) == {"clicks/0.parquet", "clicks/1.parquet", "follows.csv"}
        assert lineage["config"]["version"] == "{date}"
        counts = {(row["metric"], row["group"]): row["value"] for row in lineage["metrics"] if row["name"] == "counts"}
        assert counts["entities", "user"] == version.table("user").count == 120
        assert counts["edges", "clicks"] == version.meta["edges"]["clicks"]
        training = json.loads(version.reports["training.json"].read_text())
        assert [epoch["epoch"] for epoch in training["networks"][""]] == list(range(1, 13))

    def test_nothing_says_where_it_was_made(self, first_night):
        for path in (first_night / "store/one").rglob("*.json"):
            assert str(first_night) not in path.read_text(), path

    def test_again_there_is_nothing_to_do(self, folder, monkeypatch):
        monkeypatch.setattr(run_module, "build_step", lambda *_: pytest.fail("a step was run"))
        said = []
        assert run(folder, "one", tell=said.append).published
        assert said == ["version one is published; there is nothing to do"]
        add_night(folder, 5)
        run(folder, "one", tell=said.append)
        assert "what its step 'select' depends on has changed since" in said[-1]
        with pytest.raises(VersionError, match="published and never changed"):
            run(folder, "one", force="train")

    def test_the_next_one_starts_from_it_and_is_compared_with_it(self, folder):
        add_night(folder, 2)
        outcome = run(folder, "two")
        assert (outcome.parent, outcome.published) == ("one", True)
        store = EmbeddingStore(folder / "store")
        assert store.aliases() == {"production": "two"}
        assert store.lineage("two") == ["two", "one"]
        facts = {step["name"]: step["facts"] for step in outcome.steps}
        assert facts["train"]["networks"][""]["start"]["user"] == {"carried": 120, "from neighbours": 0, "at random": 0}
        assert facts["train"]["networks"][""]["epochs"] == 2
        gates = [(gate["gate"], gate["status"]) for gate in outcome.gates]
        assert gates.count(("benchmark links", "passed")) == 3  # min, the parent tonight, the parent as published
        rows = json.loads(store.open("two").reports["benchmarks.json"].read_text())["results"]
        assert {"one", "two", "random", "degree", "shuffled"} <= {row["name"] for row in rows}

    def test_a_cold_start_is_compared_all_the_same(self, folder):
        edit(folder, 'work = "work"', 'work = "work"\nstart = "cold"')
        outcome = run(folder, "cold", until="gates")
        facts = {step["name"]: step["facts"] for step in outcome.steps}
        assert facts["train"]["networks"][""] == {
            "epochs": 12,
            "loss": facts["train"]["networks"][""]["loss"],
            "start": {},
        }
        assert outcome.parent == "one"
        assert any(gate["gate"].startswith("drift") and gate["value"] is not None for gate in outcome.gates)


class TestSkipping:
    def test_an_input_that_changes_while_it_is_read_is_refused(self, folder, monkeypatch):
        plain = run_module.build_step

        def overtaken(step, night, *rest):
            facts = plain(step, night, *rest)
            if step == "select":
                nights.clicks(9).to_parquet(folder / "clicks/0.parquet", index=False)
            return facts

        monkeypatch.setattr(run_module, "build_step", overtaken)
        with pytest.raises(DataError, match=r"clicks/0\.parquet has changed while 'select' was running"):
            run(folder, "two", force="select", until="select")
        assert not any((folder / "work/select").glob("[!.]*/step.json"))

    def test_only_what_has_changed_is_run_again(self, folder):
        assert made(run(folder, "two", until="page")) == ["train", "benchmark", "quantize", "gates", "page"]
        assert made(run(folder, "two", until="page")) == []
        follows = folder / "follows.csv"
        os.utime(follows, ns=(1, 1))
        assert made(run(folder, "two", until="page")) == []
        edit(folder, "min = 0.5", "min = 0.6")
        assert made(run(folder, "two", until="page")) == ["gates", "page"]
        edit(folder, "[publish]", "[quantize]\nsub_quantizers = 4\ntables = ['item']\n\n[publish]")
        assert made(run(folder, "two", until="page")) == ["quantize", "page"]
        edit(folder, 'exclude = "known"', 'exclude = "known"\nk = 5')
        assert made(run(folder, "two", until="page")) == ["benchmark", "gates", "page"]
        follows.write_text(follows.read_text().replace("u0,u4\n", "u0,u8\n", 1))
        assert made(run(folder, "two", until="page")) == list(STEPS[:-1])

    def test_a_byte_that_is_changed_at_the_same_size_and_time_is_seen(self, tmp_path):
        path = tmp_path / "edges"
        path.write_text("a")
        os.utime(path, ns=(10**9, 10**9))
        work = Work(tmp_path)
        first = work.sha256(path)
        path.unlink()
        (tmp_path / "other").write_text("")  # takes the inode
        path.write_text("b")
        os.utime(path, ns=(10**9, 10**9))
        assert work.sha256(path) != first
        fresh = tmp_path / "fresh"
        fresh.write_text("a")
        first, at = work.sha256(fresh), fresh.stat().st_mtime_ns
        fresh.write_text("b")
        os.utime(fresh, ns=(at, at))  # as on a clock that stands still: what is fresh is not trusted
        assert work.sha256(fresh) != first

    def test_half_a_step_is_none(self, tmp_path):
        work = Work(tmp_path)

        def half(folder):
            (folder / "file").write_text("half")
            raise KeyboardInterrupt

        with work.held("a test"), pytest.raises(KeyboardInterrupt):
            work.make("select", KEY, half, {})
        assert (work.record("select", KEY), work.folder("select", KEY).exists()) == (None, False)
        with work.held("a test"):
            assert list((tmp_path / "select").iterdir()) == []
            work.make("select", KEY, lambda folder: {"edges": 1}, {"x": 2})
        record = work.record("select", KEY)
        assert (record["facts"], record["inputs"]) == ({"edges": 1}, {"x": 2})

    def test_a_step_that_is_forced_runs_with_all_behind_it(self, folder):
        run(folder, "two", until="gates")
        assert made(run(folder, "two", until="gates", force="benchmark")) == ["benchmark", "gates"]

    def test_the_parent_stays_what_it_was_at_the_first_run(self, folder):
        run(folder, "three", until="select")
        store = EmbeddingStore(folder / "store")
        store.publish(
            "two",
            {"user": EmbeddingTable.from_arrays(["u1"], np.ones((1, 8), np.float32), entity="user", version="two")},
        )
        assert run(folder, "four", until="select").parent == "two"
        assert run(folder, "three", until="train").steps[-1]["facts"]["parent"] == "one"

    def test_a_parent_that_is_another_one_now_is_refused(self, folder):
        run(folder, "two", until="prepare")
        manifest = folder / "store/one/version.json"
        manifest.write_text(manifest.read_text().replace("12", "13", 1))
        with pytest.raises(VersionError, match="not the version that this run began from"):
            run(folder, "two", until="train")

    @pytest.mark.slow
    def test_old_results_go_and_those_of_the_newest_runs_stay(self, folder):
        for name in ("two", "three", "four"):
            assert run(folder, name).published
        assert len(list((folder / "work/train").iterdir())) == 3
        assert len(list((folder / "work/select").iterdir())) == 1
        assert EmbeddingStore(folder / "store").versions() == ["one", "two", "three", "four"]


def poison(folder):
    """Damage the input: clicks keep their users and items, but not who clicked on what."""
    for path in (folder / "clicks").iterdir():
        frame = pd.read_parquet(path)
        frame.assign(target=np.random.default_rng(0).permutation(frame["target"])).to_parquet(path, index=False)


class TestTheWorkFolder:
    def test_what_no_step_has_made_stays_where_it_is(self, tmp_path):
        others = ["train/mine/file", "other/deep/file", "other/old.building/file", f"other/{KEY}/file", "store/v1/file"]
        made = [f"train/{KEY}/step.json", f"page/{KEY}.building/file", f"train/{KEY}.checkpoint/file"]
        for name in (*others, *made):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_text("{}")
        work = Work(tmp_path)  # as with `work = "."`, where the data and the store lie too
        with work.held("a test"):
            assert [name for name in made if not (tmp_path / name).exists()] == made[1:2]
            work.prune(3)
        assert [name for name in others if (tmp_path / name).exists()] == others
        assert [name for name in made if (tmp_path / name).exists()] == []

    def test_the_same_version_of_another_store_or_parent_is_refused(self, folder):
        edit(folder, 'output = "store"', 'output = "shop"')
        with pytest.raises(ConfigError, match="version 'one' was begun with output = 'store', not 'shop', in "):
            run(folder, "one")
        edit(folder, 'output = "shop"', 'output = "store"')
        run(folder, "two", until="select")
        edit(folder, 'work = "work"', 'work = "work"\nprevious = "none"')
        with pytest.raises(ConfigError, match="version 'two' was begun with previous = 'latest', not 'none'"):
            run(folder, "two")
        assert run(folder, "one").published  # what is published is settled

    def test_a_full_disk_says_where(self, folder, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(run_module, "build_step", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*work/train/[0-9a-f]{32}'"):
            run(folder, "two")


class TestParents:
    def test_on_the_first_night_an_alias_that_it_will_make_stands_for_none(self, tmp_path):
        path = nights.write_nights(tmp_path, 1)
        edit(tmp_path, 'work = "work"', 'work = "work"\nprevious = "production"')
        assert run(tmp_path, "one", until="select").parent is None
        path.write_text(path.read_text().replace('"production"', '"prod"', 1))
        with pytest.raises(ConfigError, match=r"pipeline\.toml:5: .* has no version 'prod'"):
            run(tmp_path, "two", until="select")

    def test_another_store_beside_the_configuration_is_found_again(self, folder):
        (folder / "store").rename(folder / "old")
        edit(folder, 'work = "work"', 'work = "work"\nprevious = "old@production"')
        run(folder, "two", until="select")
        assert run(folder, "two", until="train").steps[-1]["facts"]["parent"] == "one"

    def test_urls_of_versions_keep_their_store(self):
        assert _store_of("s3://bucket/shop@production") == "s3://bucket/shop"
        assert _store_of("s3://bucket/shop/one/") == "s3://bucket/shop"
        assert _store_of("ftp://me@host/shop/one") == "ftp://me@host/shop"

    def test_what_cannot_be_gone_on_from_says_how_a_night_does_without(self, folder):
        edit(folder, "dim = 8", "dim = 4")
        with pytest.raises(DataError, match=r'dimension 8, this run 4 \(.* version \'one\'; `start = "cold"` trains'):
            run(folder, "two", until="train")
        edit(folder, 'work = "work"', 'work = "work"\nstart = "cold"')
        assert run(folder, "two", until="train").steps[-1]["facts"]["parent"] is None

    def test_one_that_is_retired_meanwhile_is_named_with_the_way_out(self, folder):
        run(folder, "two", until="prepare")
        store = EmbeddingStore(folder / "store")
        store.remove_alias("production")
        store.retire("one", force=True)
        with pytest.raises(VersionError, match=r"'two' was begun from version 'one', .* retired .* another name"):
            run(folder, "two", until="train")
        assert run(folder, "three", until="select").parent is None


TOPICS = """[[benchmark]]
kind = "topic"
name = "groups"
table = "user"
labels = "{labels}"
columns = {{ id = "source", label = "{label}" }}

[[gate]]
benchmark = "groups"
min = 0.0

[drift]"""


SETS = """[[benchmark]]
kind = "jaccard"
name = "groups"
table = "user"
sets = "who.csv"
columns = { query = "source", candidate = "target" }

[[gate]]
benchmark = "groups"
metric = "spearman"
min = -1.0

[drift]"""


class TestBenchmarksThatLeak:
    def test_what_is_asked_of_the_edges_themselves_is_said_to_measure_memory(self, folder, run_cli):
        (folder / "who.csv").write_bytes((folder / "follows.csv").read_bytes())  # under another name, the same bytes
        edit(folder, "[drift]", SETS)
        ran = run_cli("pipeline", "run", folder / "pipeline.toml", "--version", "two", "--despite", "a test")
        line = "careful: benchmark 'groups' measures memory: its sets, who.csv, are edges that it was trained on"
        assert line in ran.out.splitlines()
        lineage = json.loads((folder / "store/two/reports/lineage.json").read_text())
        assert lineage["notes"] == [line]
        (gate,) = [gate for gate in lineage["gates"] if gate["name"].startswith("benchmark groups")]
        assert gate["message"].endswith(f"(careful, measures memory: {line.partition('memory: ')[2]})")

    def test_a_task_that_knows_says_so(self, folder):
        edit(folder, "[drift]", TOPICS.format(labels="follows.csv", label="target"))
        path, own = folder / "pipeline.toml", {"follows.csv": "1", "clicks/0.parquet": "2"}
        read = {"follows.csv": "1"}
        (said,) = remembered(load_pipeline(path), own, read).items()
        assert said == ("groups", "its labels, follows.csv, are edges that it was trained on")
        assert remembered(load_pipeline(path), own, {"follows.csv": "3"}) == {}
        edit(folder, 'kind = "topic"', 'kind = "topic"\nknown = true')
        check_benchmarks(load_pipeline(path))
        assert remembered(load_pipeline(path), own, read) == {}
        edit(folder, "known = true", 'known = "yes"')
        with pytest.raises(ConfigError, match=r":\d+: known is 'yes', expected true or false"):
            check_benchmarks(load_pipeline(path))

    def test_columns_are_looked_for_before_the_night(self, folder):
        edit(folder, "[drift]", TOPICS.format(labels="labels.parquet", label="topic"))
        frame = pd.DataFrame({"source": ["u1", None, None], "topc": ["a", "b", "c"]})
        frame.to_parquet(folder / "labels.parquet", index=False)
        with pytest.raises(
            ConfigError, match=r"toml:\d+: .*labels.parquet has no column 'topic'; it has: source, topc"
        ):
            run(folder, "two", until="select")
        frame.rename(columns={"topc": "topic"}).to_parquet(folder / "labels.parquet", index=False)
        with pytest.raises(ConfigError, match=r"labels.parquet: 2 ids in column 'source' are null, expected none"):
            run(folder, "two", until="select")
        edit(folder, "labels.parquet", "labels.tsv.gz")
        frame.to_csv(folder / "labels.tsv.gz", sep="\t", index=False)
        with pytest.raises(ConfigError, match=r"labels.tsv.gz has no column 'topic'; it has: source, topc"):
            run(folder, "two", until="select")


class TestCodes:
    def test_tables_that_are_too_small_are_named_before_the_training(self, folder):
        edit(folder, "[publish]", "[quantize]\nsub_quantizers = 4\ntables = ['item']\n\n[publish]")
        for path in (folder / "clicks").iterdir():
            frame = pd.read_parquet(path)
            frame[frame["target"] < 8].to_parquet(path, index=False)
        with pytest.raises(
            ConfigError, match=r"toml:\d+: the table 'item' has 8 rows, and a codebook needs 16 at least"
        ):
            run(folder, "two", until="train")
        edit(folder, "tables = ['item']", "")
        outcome = run(folder, "two", despite="small")
        assert outcome.steps[4]["facts"]["item-pq"] == {"left out": "8 rows, too few for a codebook"}
        assert set(outcome.steps[4]["facts"]) == {"item-pq", "user-pq"}
        lineage = json.loads((folder / "store/two/reports/lineage.json").read_text())
        assert lineage["notes"] == ["there is no item-pq: 8 rows, too few for a codebook"]

    def test_the_previous_codebook_stays_while_it_fits(self, folder):
        edit(folder, "[publish]", "[quantize]\nsub_quantizers = 4\ncodebook = 'previous'\n\n[publish]")
        first = run(folder, "two")
        assert first.steps[4]["facts"]["user-pq"]["codebook"] == "new: version one has no user-pq"
        edit(folder, "[warm]\nepochs = 2", "[warm]\nepochs = 1\nlearning_rate = 0.001")
        second = run(folder, "three")
        facts = second.steps[4]["facts"]["user-pq"]
        assert facts["codebook"].startswith("that of version two: a relative squared error of ")
        store = EmbeddingStore(folder / "store")
        two, three = (store.open(name).codes("user-pq") for name in ("two", "three"))
        np.testing.assert_array_equal(three.codebook, two.codebook)
        assert facts["codebook_sha256"] == two.codebook_sha256
        vectors = store.open("three").table("user").vectors.astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        lost = np.square(vectors - three.decode(np.arange(three.count))).sum() / np.square(vectors).sum()
        assert facts["relative_squared_error"]["previous"] == pytest.approx(lost, rel=1e-6)
        edit(folder, "learning_rate = 0.001", "learning_rate = 2.0")  # away from what it was trained on
        far = run(folder, "four", until="quantize").steps[4]["facts"]["user-pq"]
        assert far["codebook"].startswith("new: that of three has a relative squared error of ")
        assert far["relative_squared_error"]["previous"] > 1.1 * far["relative_squared_error"]["new"]


class TestDrift:
    def test_impressions_are_read_as_the_ranker_asks_for_them(self, tmp_path):
        ids, draw = ["007", "008", "10"], np.random.default_rng(0)
        old, new = (
            write_version(
                tmp_path / name,
                {
                    "user": EmbeddingTable.from_arrays(
                        ids, draw.normal(size=(3, 2)).astype(np.float32), entity="user", version=name
                    )
                },
            )
            for name in ("a", "b")
        )
        spec = FeatureSpec(pretrained=[Pretrained("user", old.table("user"))], label="clicked")
        ranker = LinearProbe(spec).save(tmp_path / "probe")
        (tmp_path / "seen.csv").write_text("user\n007\n008\n10\n")
        asked = Drifts(sample=3, ranker=Path(ranker), impressions=tmp_path / "seen.csv")
        report = _drift(SimpleNamespace(drift=asked), old, new)
        shift = next(row for row in report.results if row.metric == "score shift |p|")
        assert shift.protocol["known ids, old and new"]["user"] == [1.0, 1.0]


class TestNightsThatAreMadeUpFor:
    def night(self, folder, day, **options):
        return run_pipeline(load_pipeline(folder / "pipeline.toml", day=date.fromisoformat(day)), **options)

    @pytest.fixture
    def nights_of(self, tmp_path, one_thread):
        """A folder in which the 24th and the 26th of May have been published."""
        config = nights.CONFIG.replace("epochs = 12", "epochs = 1").replace("min = 0.5", "min = 0.0")
        config = config.replace('max_drop = "noise"', "max_drop = 1.0").replace("max = 0.8", "max = 9.0")
        nights.write_nights(tmp_path, 1, config)
        assert self.night(tmp_path, "2026-05-24").parent is None
        assert self.night(tmp_path, "2026-05-26").parent == "2026-05-24"
        return tmp_path

    def test_they_start_from_the_past_and_do_not_take_production_back(self, nights_of, run_cli):
        store = EmbeddingStore(nights_of / "store")
        ran = run_cli("pipeline", "run", nights_of / "pipeline.toml", "--date", "2026-05-25", "--json")
        outcome = json.loads(ran.out)
        assert (outcome["parent"], outcome["published"]) == ("2026-05-24", True)
        assert store.aliases() == {"production": "2026-05-26"}
        (line,) = outcome["lines"]
        assert line.startswith("production stays at 2026-05-26, which is of 2026-05-26, a later day than 2026-05-25")
        assert store.versions()[-1] == "2026-05-25"
        assert self.night(nights_of, "2026-05-27", until="select").parent == "2026-05-26"
        said = []
        assert self.night(nights_of, "2026-05-23", until="select", tell=said.append).parent is None
        assert said[0].endswith(
            "has no version of 2026-05-23 or before, the earliest is of 2026-05-24: nothing to start from"
        )
        edit(nights_of, 'work = "work"', 'work = "work"\nprevious = "production"')
        self.night(nights_of, "2026-05-22", until="select", tell=said.append)
        assert "careful: it starts from version 2026-05-26, which is of 2026-05-26, a later day than 2026-05-22" in said
        edit(nights_of, '\nprevious = "production"', "")
        assert self.night(nights_of, "2026-05-25").lines == ()
        assert self.night(nights_of, "2026-05-25", move_aliases=True).lines == (
            "production is 2026-05-25, after 2026-05-26",
        )
        assert store.aliases() == {"production": "2026-05-25"}

    def test_what_is_kept_is_the_newest_by_day(self, nights_of):
        edit(nights_of, "page = false", "page = false\nkeep = 1")
        outcome = self.night(nights_of, "2026-05-23")
        assert outcome.lines[1:] == ("2026-05-24 is retired",)  # and not itself, as soon as it is there
        store = EmbeddingStore(nights_of / "store")
        assert (sorted(store.versions()), store.retired()) == (["2026-05-23", "2026-05-26"], ["2026-05-24"])
        assert days_of(str(nights_of / "store")) == {"2026-05-23": date(2026, 5, 23), "2026-05-26": date(2026, 5, 26)}

    def test_a_version_without_a_day_is_of_that_on_which_it_was_made(self, tmp_path):
        store = EmbeddingStore(tmp_path / "s")
        table = EmbeddingTable.from_arrays(["u1"], np.ones((1, 8), np.float32), entity="user", version="v")
        version = store.publish("v", {"user": table}, reports={"lineage.json": '{"date": "soon"}'})
        assert days_of(str(tmp_path / "s")) == {"v": version.created.date()}


class TestInputs:
    def test_a_store_that_cannot_be_written_is_named_with_its_line(self, folder):
        (folder / "file").write_text("")
        edit(folder, 'output = "store"', 'output = "file/store"')
        with pytest.raises(ConfigError, match=r"pipeline\.toml:3: output is 'file/store', which cannot be written: "):
            run(folder, "two", until="select")

    def test_the_lineage_says_what_was_read_whatever_has_become_of_it(self, folder, monkeypatch):
        plain = run_module.build_step
        size = (folder / "clicks/1.parquet").stat().st_size

        def overtaken(step, night, *rest):
            if step == "train":
                (folder / "clicks/0.parquet").unlink()
                nights.clicks(9).to_parquet(folder / "clicks/1.parquet", index=False)
            return plain(step, night, *rest)

        monkeypatch.setattr(run_module, "build_step", overtaken)
        assert run(folder, "two").published
        of = {name: json.loads((folder / f"store/{name}/reports/lineage.json").read_text()) for name in ("one", "two")}
        assert of["two"]["inputs"] == of["one"]["inputs"]
        assert of["two"]["inputs"]["clicks/1.parquet"]["bytes"] == size

    def test_a_published_version_needs_its_inputs_no_more(self, folder):
        shutil.rmtree(folder / "clicks")
        said = []
        assert run(folder, "one", tell=said.append).published
        assert said == ["version one is published; there is nothing to do"]
        assert all(step["made"] for step in show_status(load_pipeline(folder / "pipeline.toml", version="one")).steps)


class TestGates:
    def test_damaged_input_is_stopped_and_all_that_was_made_is_kept(self, folder, run_cli):
        poison(folder)
        ran = run_cli("pipeline", "run", folder / "pipeline.toml", "--version", "bad")
        assert ran.code == 3
        assert "bad is not published: 2 of 5 bounds are not kept" in ran.err
        store = EmbeddingStore(folder / "store")
        assert (store.versions(), store.aliases()) == (["one"], {"production": "one"})
        run_of = json.loads((folder / "work/runs/bad.json").read_text())
        staged = folder / "work/page" / run_of["steps"]["page"] / "bad"
        assert open_version(staged, verify=True).table("user").count == 120
        # The previous version falls as deep on damaged data, so that comparing with it tonight sees nothing.
        gates = json.loads((folder / "work/gates" / run_of["steps"]["gates"] / "gates.json").read_text())
        assert [gate["status"] for gate in gates] == ["failed", "passed", "failed", "passed", "passed"]
        status = run_cli("pipeline", "status", folder / "pipeline.toml", "--version", "bad").out
        assert ["gates", "failed"] in [line.replace("│", " ").split()[:2] for line in status.splitlines()]
        document = json.loads(run_cli("pipeline", "gates", folder / "pipeline.toml", "--version", "bad", "--json").out)
        assert (document["passed"], document["published"]) == (False, False)

    def test_a_reason_publishes_in_spite_of_a_gate(self, folder):
        edit(folder, "min = 0.5", "min = 1.5")
        assert not run(folder, "two").published
        with pytest.raises(ConfigError, match="despite is empty"):
            run(folder, "two", despite=" ")
        assert run(folder, "two", despite="a new yardstick").published
        shown = show_status(load_pipeline(folder / "pipeline.toml", version="two"))
        assert (shown.passed, shown.despite) == (False, "a new yardstick")
        lineage = json.loads((folder / "store/two/reports/lineage.json").read_text())
        assert lineage["despite"] == "a new yardstick"
        assert [gate["passed"] for gate in lineage["gates"]].count(False) == 1

    def test_a_network_that_shrinks_is_stopped(self, folder):
        (folder / "clicks/1.parquet").unlink()
        outcome = run(folder, "small", until="gates")
        (gate,) = [gate for gate in outcome.gates if gate["gate"] == "edges clicks"]
        assert gate["status"] == "failed"
        assert 0.4 < gate["value"] / gate["reference"] < 0.6
        assert f"fell by {1 - gate['value'] / gate['reference']:.1%}, a fall of 30.0% is allowed" in gate["reason"]

    def test_a_log_that_one_entity_floods_is_stopped(self, folder):
        flood = pd.DataFrame({"source": "u7", "target": np.arange(60).repeat(5), "time": pd.Timestamp("2026-06-03")})
        flood.to_parquet(folder / "clicks/2.parquet", index=False)
        edit(folder, "[publish]", "[[gate]]\nshare = 'user'\nmax = 0.9\nmax_rise = 0.05\n\n[publish]")
        outcome = run(folder, "two", until="gates")
        known = Path(outcome.steps[1]["folder"]) / "known"
        clicks, follows = (pd.read_parquet(known / f"{name}.parquet") for name in ("clicks", "follows"))
        degrees = pd.concat([clicks["source"], follows["source"], follows["target"]]).value_counts()
        most, rise = [gate for gate in outcome.gates if gate["gate"] == "share user"]
        assert degrees.idxmax() == "u7"
        assert most["value"] == rise["value"] == pytest.approx(degrees.max() / (len(clicks) + len(follows)))
        assert (most["status"], rise["status"]) == ("passed", "failed")
        assert rise["reference"] < 0.02

    def test_a_parent_that_has_seen_the_held_out_edges_is_no_yardstick(self, folder):
        edit(folder, "fraction = 0.15", "fraction = 0.15\nseed = 7")
        outcome = run(folder, "two", until="gates")
        notes = next(step["facts"] for step in outcome.steps if step["name"] == "benchmark")
        assert "of tonight's held-out edges of 'clicks' were training edges of version one" in notes["seen"]["links"]
        compared = [gate["reason"] for gate in outcome.gates if gate["bound"] == "max_drop noise"]
        assert len(compared) == 1
        assert "as it was published" in compared[0]
        rows = json.loads(Path(outcome.steps[3]["folder"], "benchmarks.json").read_text())["results"]
        assert "one" not in {row["name"] for row in rows}


class TestKills:
    def kill(self, folder, version, points, by):
        helper = [sys.executable, "-W", "error", nights.__file__, folder, version, by, *points]
        done = subprocess.run(list(map(str, helper)), capture_output=True, text=True, timeout=550, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def test_a_run_that_is_killed_ends_with_the_same_bytes(self, folder, tmp_path):
        edit(folder, "[publish]", "[quantize]\nsub_quantizers = 4\n\n[publish]")
        shutil.copytree(folder, tmp_path / "g")
        assert run(tmp_path / "g", "two").published
        # In the selection, the preparation, the training, what is put together, the publication.
        assert self.kill(folder, "two", [3, 12, 40, 50], "fsync") == 4
        assert nights.files_of(folder, "two") == nights.files_of(tmp_path / "g", "two")
        store = EmbeddingStore(folder / "store")
        assert (store.versions(), store.aliases()) == (["one", "two"], {"production": "two"})

    @pytest.mark.slow
    def test_at_any_moment(self, folder, tmp_path):
        edit(folder, "[publish]", "[quantize]\nsub_quantizers = 4\n\n[publish]")
        shutil.copytree(folder, tmp_path / "g")
        rng, killed = np.random.default_rng(0), 0
        for number in range(12):
            name = f"night-{number}"
            add_night(folder, 2 + number)
            add_night(tmp_path / "g", 2 + number)
            begun = time.perf_counter()
            assert run(tmp_path / "g", name).published
            points = rng.uniform(0.01, time.perf_counter() - begun, 8).round(3).tolist()
            killed += self.kill(folder, name, points, "seconds")
            assert nights.files_of(folder, name) == nights.files_of(tmp_path / "g", name)
            assert EmbeddingStore(folder / "store").aliases() == {"production": name}
            if killed >= 30:
                break
        assert killed >= 30

    @pytest.mark.slow
    def test_before_any_file_is_on_disk(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "g")
        assert run(tmp_path / "g", "two").published
        killed = self.kill(folder, "two", list(range(1, 60, 2)), "fsync")
        assert killed >= 25
        assert nights.files_of(folder, "two") == nights.files_of(tmp_path / "g", "two")

    def test_the_alias_moves_after_a_kill_behind_the_publication(self, folder, monkeypatch):
        monkeypatch.setattr(EmbeddingStore, "set_alias", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(folder, "two")
        store = EmbeddingStore(folder / "store")
        assert (store.versions(), store.aliases()) == (["one", "two"], {"production": "one"})
        monkeypatch.undo()
        assert run(folder, "two").lines == ("production is two, after one",)
        assert store.aliases() == {"production": "two"}
        store.set_alias("production", "one")  # somebody goes back, and a rerun leaves it there
        assert run(folder, "two").lines == ()
        assert store.aliases() == {"production": "one"}

    def test_an_alias_that_somebody_else_has_moved_meanwhile_stays(self, folder):
        settings = load_pipeline(folder / "pipeline.toml", version="one")
        store, settled = EmbeddingStore(folder / "store"), {"aliases": {"production": {"from": "zero", "done": False}}}
        store.remove_alias("production")
        (line,) = move_aliases(settings, store, settled, lambda settled: None)
        assert line.startswith("production stays where somebody else has put it")
        assert (store.aliases(), settled["aliases"]["production"]["done"]) == ({}, True)
        assert move_aliases(settings, store, settled, lambda settled: None) == []  # it is settled
        assert store.aliases() == {}


class TestStores:
    def test_one_run_at_a_time(self, folder, run_cli):
        work = Work(folder / "work")
        with work.held("nightly, version two"):
            with pytest.raises(BusyError, match=r"worked in by another run: nightly, version two, process \d+ on "):
                run(folder, "two")
            ran = run_cli("pipeline", "run", folder / "pipeline.toml", "--version", "two")
            assert (ran.code, "worked in by another run" in ran.err) == (4, True)
        assert run(folder, "two", until="select").steps[0]["skipped"]

    def test_a_version_that_is_not_ours_is_refused_before_the_work(self, folder):
        shutil.rmtree(folder / "work")
        with pytest.raises(VersionError, match="'one' that was not made here"):
            run(folder, "one")

    def test_a_remote_store(self, folder, monkeypatch, tmp_path):
        monkeypatch.setenv("RECOKIT_CACHE", str(tmp_path / "cache"))
        edit(folder, 'output = "store"', f'output = "memory://{tmp_path.name}"')
        assert run(folder, "one-remote").published
        outcome = run(folder, "two-remote")
        assert (outcome.published, outcome.parent) == (True, "one-remote")
        store = EmbeddingStore(f"memory://{tmp_path.name}")
        assert (store.versions(), store.aliases()) == (["one-remote", "two-remote"], {"production": "two-remote"})

    @pytest.mark.slow
    def test_older_versions_are_retired_but_for_those_that_are_named(self, folder):
        edit(folder, "page = false", "page = false\nkeep = 1")
        EmbeddingStore(folder / "store").set_alias("champion", "one")
        assert run(folder, "two").published
        lines = run(folder, "three").lines
        assert "two is retired" in lines
        assert any(line.startswith("one stays: ") for line in lines)
        assert EmbeddingStore(folder / "store").versions() == ["one", "three"]

    @pytest.mark.slow
    def test_networks_side_by_side_start_from_their_own(self, folder):
        networks = "".join(f'[[network]]\nname = "{n}"\nrelations = ["clicks", "follows"]\n\n' for n in ("a", "b"))
        edit(folder, "[split]", networks + "[split]")
        edit(folder, 'relation = "clicks"\npairs', 'relation = "clicks-a"\npairs')
        edit(folder, 'pairs = "held_out"\nexclude = "known"', 'pairs = "held_out:clicks"\nexclude = "known:clicks"')
        edit(folder, 'drift = "user"', 'drift = "user-a"')
        edit(folder, 'work = "work"', 'work = "work"\nprevious = "none"')
        assert run(folder, "nets").published
        edit(folder, 'previous = "none"', 'previous = "nets"')
        outcome = run(folder, "nets-2")
        assert outcome.published
        version = EmbeddingStore(folder / "store").open("nets-2")
        assert set(version.tables) == {"user-a", "item-a", "user-b", "item-b"}
        assert load_exported(version, network="b").config.epochs == 2


class TestCommands:
    def test_every_step_alone(self, folder, run_cli):
        words = [folder / "pipeline.toml", "--version", "two", "--json"]
        for number, step in enumerate(STEPS[:-1], start=1):
            document = json.loads(run_cli("pipeline", step, *words).out)
            assert [each["name"] for each in document["steps"]] == list(STEPS[:number])
            assert [each["skipped"] for each in document["steps"][:-1]] == [True] * (number - 1)
        out = run_cli("pipeline", "publish", *words[:-1]).out
        assert "production is two, after one" in out
        assert "│ clicks   │ 1,200 │    1,200 │" in out
        status = json.loads(run_cli("pipeline", "status", *words).out)
        assert (status["published"], [step["made"] for step in status["steps"]]) == (True, [True] * 8)
        again = run_cli("pipeline", "run", *words[:-1])
        assert (again.code, "there is nothing to do" in again.err) == (0, True)

    def test_status_changes_nothing(self, folder):
        before = sorted(folder.rglob("*"))
        outcome = show_status(load_pipeline(folder / "pipeline.toml", version="two"))
        assert [step["made"] for step in outcome.steps] == [True, True] + [False] * 6
        assert sorted(folder.rglob("*")) == before

    def test_bad_input_is_refused_before_the_night(self, folder, run_cli):
        edit(folder, 'pairs = "held_out"', 'pears = "held_out"')
        ran = run_cli("pipeline", "run", folder / "pipeline.toml", "--version", "two")
        assert (ran.code, "unknown key 'pears'; did you mean 'pairs'?" in ran.err) == (2, True)
        assert "pipeline.toml:36:" in ran.err
        edit(folder, 'pears = "held_out"', 'pairs = "held_out:likes"')
        with pytest.raises(ConfigError, match=r"pipeline\.toml:36: pairs is 'held_out:likes' of the relation 'likes'"):
            run(folder, "two")

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ('pairs = "held_out"', 'pairs = "no.csv"', r":36: pairs is 'no\.csv': there is no such file"),
            ('exclude = "known"', 'source = "usr"', r":37: there will be no table 'usr'; did you mean 'user'\?"),
            ('max_drop = "noise"', 'metric = "recall@5"\nmax_drop = 0.1', r":48: benchmark 'links' has no metric"),
        ],
    )
    def test_benchmarks_that_cannot_be_measured_are_refused_before_the_night(self, folder, old, new, message):
        edit(folder, old, new)
        with pytest.raises(ConfigError, match=r"pipeline\.toml" + message):
            run(folder, "two", until="select")

    @pytest.mark.slow
    def test_the_example_runs_with_its_page(self, tmp_path):
        examples = Path(__file__).parents[2] / "examples"
        shutil.copytree(examples / "edges", tmp_path / "edges")
        shutil.copy(examples / "pipeline.toml", tmp_path)
        for name in ("one", "two"):
            assert run(tmp_path, name).published
        version = EmbeddingStore(load_pipeline(tmp_path / "pipeline.toml").store).open("production")
        assert {"report.html", "card.md", "drift.json"} <= set(version.reports)
        assert set(version.tables) == {"user", "ad", "user-pq", "ad-pq"}
