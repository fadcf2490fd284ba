"""Reports: what is written is what is read, and views say what the rows say."""

import io
import json
import os
import platform
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from recokit.errors import ConfigError, DataError, FormatError
from recokit.report import Report, Result, _commit, gather_provenance

FIELDS = ["name", "metric", "value", "low", "high", "n", "seed", "group", "protocol"]


def example():
    return Report(
        [
            Result("hin", "recall@10", 0.25, 0.2, 0.3, n=938, protocol={"split": "by time", "filter": "train"}),
            Result("hin", "map@10[rel]", 0.125, n=938, protocol={"split": "by time", "filter": "train"}),
            Result("floor", "recall@10", 0.0665, n=938, protocol={"split": "by time"}),
        ],
        {"commit": "abc"},
        created="2026-06-01T00:00:00+00:00",
    )


def test_results_are_rows_and_rows_are_the_whole_of_it():
    report = example()
    frame = pd.DataFrame(report["results"])
    assert frame.columns.tolist() == FIELDS
    assert frame["value"].tolist() == [0.25, 0.125, 0.0665]
    assert report["format"] == "report/1"
    assert list(report.to_dict()) == ["format", "created", "provenance", "results"]
    pd.testing.assert_frame_equal(report.to_frame()[["name", "metric", "value"]], frame[["name", "metric", "value"]])
    assert Report([]).to_frame().columns.tolist() == FIELDS


def test_json_round_trip_keeps_everything_and_writes_nan_as_null(tmp_path):
    report = example() | Report([Result("flat", "rce", float("nan"), seed=3, group="clicked")], {})
    path = report.save(tmp_path / "deep" / "r.json")
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["results"][-1]["value"] is None
    loaded = Report.load(path)
    assert loaded.results[:3] == report.results[:3]
    assert np.isnan(loaded.results[3].value)
    assert loaded.results[3].group == "clicked"
    assert loaded.to_json() == report.to_json()


def test_numpy_values_in_results_and_protocols_are_numbers_in_json():
    result = Result("a", "m", np.float32(0.5), n=np.int64(3), protocol={"k": np.arange(2), "p": np.float64(0.25)})
    row = json.loads(Report([result], {}).to_json())["results"][0]
    assert (row["value"], row["n"], row["protocol"]) == (0.5, 3, {"k": [0, 1], "p": 0.25})
    with pytest.raises(DataError, match="what JSON can hold: set is not JSON"):
        Report([Result("a", "m", 0.5, protocol={"k": {1}})], {}).to_json()


def test_union_keeps_equal_rows_once_and_differing_provenance_side_by_side():
    a = Report([Result("a", "m", 0.5)], {"commit": "x", "versions": {"numpy": "1", "torch": "2"}, "data": {"t": "h"}})
    b = Report([Result("a", "m", 0.5), Result("b", "m", 0.25)], {"commit": "y", "versions": {"numpy": "1"}})
    both = a | b | b
    assert [result.name for result in both.results] == ["a", "b"]
    assert both.provenance == {
        "commit": ["x", "y"],
        "versions": {"numpy": "1", "torch": "2"},
        "data": {"t": "h"},
    }
    assert both.created == max(a.created, b.created)
    assert len(a) == 1


def test_one_value_is_found_by_its_name():
    report = example()
    assert report.value("map@10[rel]") == 0.125
    assert report.value("recall@10", name="floor") == 0.0665
    with pytest.raises(DataError, match=r"2 results for metric 'recall@10'"):
        report.value("recall@10")
    with pytest.raises(DataError, match="did you mean 'recall@10'"):
        report.value("recall@11")


def test_markdown_pivots_and_says_the_protocols():
    assert example().to_markdown() == (
        "| name | recall@10 | map@10[rel] |\n"
        "| --- | ---: | ---: |\n"
        "| hin | 0.2500 [0.2000, 0.3000] | 0.1250 |\n"
        "| floor | 0.0665 |  |\n"
        "\n"
        "- hin. split: by time; filter: train\n"
        "- floor. split: by time\n"
    )
    assert str(example()) == example().to_markdown()


def test_names_without_a_common_metric_stand_in_tables_of_their_own():
    rows = [
        Result("hin", "mrr", 0.5),
        Result("dlrm", "rce", 2.0),
        Result("floor", "mrr", 0.25),
        Result("w&d", "rce", 1.0),
    ]
    retrieval, ranking = Report(rows, {}).to_markdown().split("\n\n")
    assert retrieval == "| name | mrr |\n| --- | ---: |\n| hin | 0.5000 |\n| floor | 0.2500 |"
    assert ranking == "| name | rce |\n| --- | ---: |\n| dlrm | 2.000 |\n| w&d | 1.000 |\n"


def test_seeds_are_summarised_and_other_repetitions_are_not():
    seeds = [Result("hin", "rce", value, seed=seed) for seed, value in enumerate([10.0, 11.0, 15.0])]
    # Mean 36 / 3; deviation sqrt((4 + 1 + 9) / 2).
    assert "| hin | 12.00 ± 2.646 (3) |" in Report(seeds, {}).to_markdown()
    unseeded = [Result("hin", "rce", 10.0), Result("hin", "rce", 12.0, 11.0, 13.0)]
    assert "| hin | 10.00 / 12.00 [11.00, 13.00] |" in Report(unseeded, {}).to_markdown()


def test_a_protocol_of_some_metrics_names_them_and_groups_are_rows_of_their_own():
    report = Report(
        [
            Result("r", "auc", 0.75, group="like", protocol={"ties": "half"}),
            Result("r", "auc", 0.5, group="follow", protocol={"ties": "half"}),
            Result("r", "rce", -414.4159, group="like", protocol={"prior": 0.03}),
            Result("r", "rce", float("nan"), group="follow", protocol={"prior": 0.0}),
        ],
        {},
    )
    text = report.to_markdown()
    assert "| r · like | 0.7500 | -414.4 |" in text
    assert "| r · follow | 0.5000 | nan |" in text
    assert "- r (auc). ties: half\n- r (rce). prior: 0.0300\n- r (rce). prior: 0.0000\n" in text


def test_the_terminal_shows_brackets_of_metric_names():
    from rich.console import Console

    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(example())
    text = console.export_text()
    assert "map@10[rel]" in text
    assert "0.2500 [0.2000, 0.3000]" in text
    assert "hin. split: by time; filter: train" in text


def test_html_is_one_escaped_page(tmp_path):
    report = Report([Result("<b>bold</b>", "recall@10", 0.25, protocol={"note": "a < b"})], {"commit": "<x>"})
    page = report.to_html(tmp_path / "r.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "a &lt; b" in page
    assert "&lt;x&gt;" in page
    assert "<td>0.2500</td>" in page
    assert "http" not in page
    assert report.save(tmp_path / "s.html").read_text() == page


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = example().save(tmp_path / "r.json")
    before = path.read_text()

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        Report([Result("other", "m", 1.0)], {}).save(path)
    assert path.read_text() == before
    assert [found.name for found in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "is not JSON"),
        ('{"format": "report/2", "results": []}', "is of format 'report/2', not 'report/1'"),
        ("[]", "is of format None"),
        ('{"format": "report/1", "created": "", "provenance": {}}', "not a complete report/1: 'results'"),
        (
            '{"format": "report/1", "created": "", "provenance": {}, "results": [{"name": "a", "value": 1, "x": 2}]}',
            "not a complete report/1: .*'x'",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path, text, message):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        Report.load(path)


def test_other_kinds_of_file_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"saved as \.json, \.md or \.html, not as 'r\.csv'"):
        example().save(tmp_path / "r.csv")
    assert example().save(tmp_path / "r.md").read_text() == example().to_markdown()


def test_provenance_says_versions_machine_data_and_commit(tmp_path, monkeypatch):
    found = gather_provenance({"train": "sha256:12"})
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["numpy"] == np.__version__
    assert found["machine"]["architecture"] == platform.machine()
    assert found["machine"]["cpus"] == os.cpu_count()
    assert found["data"] == {"train": "sha256:12"}

    monkeypatch.chdir(tmp_path)
    assert gather_provenance()["commit"] == found["commit"]  # recokit's, wherever the process works


def test_the_commit_is_that_of_the_checkout_that_tracks_the_code(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    package = tmp_path / "recokit"
    package.mkdir()
    (code := package / "report.py").write_text("one")
    commit = _commit.__wrapped__
    assert commit(code) is None  # no checkout
    git = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e@example.org"]
    try:
        subprocess.run([*git, "init", "-q"], check=True)
    except OSError:
        pytest.skip("git is not installed")
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    assert commit(code) is None  # somebody's repository, with the package in an environment of its own
    subprocess.run([*git, "add", code], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "two"], check=True)
    subprocess.run([*git, "tag", "-a", "v1", "-m", "a release"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert (commit(code), len(head)) == (head, 40)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as hooks of another repository set it
    (tmp_path / "notes.txt").write_text("untracked")
    assert commit(code) == head
    code.write_text("another")
    assert commit(code) == f"{head}-dirty"


def test_neither_reports_nor_metrics_import_torch_or_scikit_learn():
    code = (
        "import sys, recokit.metrics, recokit.floors, recokit.evaluate, recokit.report as r; r.Report([]);"
        "sys.exit(','.join(m for m in ('torch', 'sklearn', 'faiss', 'duckdb') if m in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stderr.strip() == ""


def test_the_terminal_keeps_the_first_column_whole():
    from rich.console import Console

    metrics = ["catalog_coverage@10", "map@10[rel|]", "recall@10"]
    rows = [Result(name, m, 0.25, 0.2, 0.3) for name in ("a", "b") for m in metrics]
    rows += [Result(name * 9, m, 0.25, 0.2, 0.3) for name in ("long ", "longer ") for m in metrics[:2]]
    for report in (Report(rows[:6], {}), Report([r for r in rows if r.metric != "recall@10"], {})):
        console = Console(file=io.StringIO(), width=80, record=True)
        console.print(report)
        text = console.export_text()
        first = {line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")}
        assert first >= (set(metrics) if len(report) == 6 else {("longer " * 9).strip()})


def test_protocols_that_are_nearly_equal_are_said_once():
    same = {"split": "by time", "filter": "train", "k": 10, "ties": "half"}
    rows = [
        Result("EASE, recency", "mrr", 0.5, protocol=same | {"trained": "a week"}),
        Result("floor", "mrr", 0.25, protocol=same),
        Result("hin", "mrr", 0.125, protocol=same | {"trained": "a day", "k": 20}),
        Result("other", "mrr", 0.0625, protocol={"split": "random", "filter": "none", "k": 10, "ties": "half"}),
    ]
    notes = Report(rows, {}).to_markdown().split("\n\n")[1]
    assert notes == (
        '- "EASE, recency"; floor; hin. split: by time; filter: train; ties: half\n'
        '- of these: "EASE, recency". k: 10; trained: a week\n'
        "- of these: floor. k: 10\n"
        "- of these: hin. k: 20; trained: a day\n"
        "- other. split: random; filter: none; k: 10; ties: half\n"
    )


def test_names_in_a_note_are_kept_apart():
    rows = [Result(name, "mrr", 0.5, protocol={"k": 10}) for name in ("EASE, recency", "floor")]
    assert '- "EASE, recency"; floor. k: 10\n' in Report(rows, {}).to_markdown()


def test_a_repr_is_one_short_line():
    assert repr(example()) == "Report(3 results of 'hin', 'floor')"
    assert repr(Report([], {})) == "Report(0 results)"
    many = Report([Result(str(n), "m", 0.5) for n in range(7)], {})
    assert repr(many) == "Report(7 results of '0', '1', '2', '3', '4', ...)"


@pytest.mark.parametrize(("key", "wrong"), [("value", "zz"), ("value", True), ("low", "zz"), ("n", [1])])
def test_values_that_are_no_numbers_are_damage(tmp_path, key, wrong):
    content = example().to_dict()
    content["results"][0][key] = wrong
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match=f"not a complete report/1: '{key}' is .*expected a number or null"):
        Report.load(path)


def test_seeds_of_which_one_has_no_value_have_no_deviation():
    report = Report([Result("a", "auc", value, seed=seed) for seed, value in enumerate([0.5, float("nan")])], {})
    assert "nan ± nan (2)" in report.to_markdown()
