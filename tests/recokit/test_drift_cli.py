"""``recokit drift``, bounds, the figure, and what refreshes of a trained version come to."""

import dataclasses
import doctest
import importlib
import io
import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from recokit import EmbeddingTable, Report, open_version, write_version
from recokit.drift import Bounds, measure_drift, plot_drift
from recokit.drift.cli import _tables
from recokit.errors import ConfigError, DataError
from recokit.report import Result

COUNT = 120
RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(COUNT, 5)).astype(np.float32)
DEGREES = np.arange(1, COUNT + 1)
IDS = [f"{i:03d}" for i in range(COUNT)]  # which a reader of CSV must not take for numbers


@pytest.fixture
def command(tmp_path, monkeypatch, run_cli):
    point = EntryPoint("drift", "recokit.drift.cli:drift", "recokit.commands")
    monkeypatch.setattr("recokit.cli.entry_points", lambda group: [point])
    monkeypatch.chdir(tmp_path)
    for name, factor, ids in (("v1", 1.0, IDS), ("v2", 1.25, [*IDS[:-6], *"abcdef"]), ("copy", 1.0, IDS)):
        vectors = np.float32(factor) * VECTORS
        made = EmbeddingTable.from_arrays(ids, vectors, entity="user", version=name, comparator="cos")
        write_version(name, {"user": made}, state={"degrees-user": DEGREES})
    return run_cli


def test_people_see_tables_and_reports_are_written(command):
    ran = command("drift", "v1", "v2", "--output", "o.json", "--plot", "p.png", "-k", 5, "--all")
    assert (ran.code, ran.err) == (0, "")
    for words in (
        "drift from v1 to v2",
        "ids removed",
        "user by degree",
        " 1 to 11 ",
        "overlap@5",
        "1.0000 ± 0.0000",
    ):
        assert words in ran.out
    report = Report.load("o.json")
    assert report.value("relative l2") == pytest.approx(0.25)
    assert report.value("overlap@5") == 1.0
    assert report.value("removed share") == 6 / COUNT
    assert Path("p.png").read_bytes()[:4] == b"\x89PNG"


def test_the_summary_is_a_line_for_each_table_and_relation(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    ran = command("drift", "v1", "v2", "-k", 5)
    heads = [line.split("┃")[1:-1] for line in ran.out.splitlines() if line.startswith("┃")]
    assert [[cell.strip() for cell in head] for head in heads] == [
        ["table", "ids kept", "relative l2", "cosine", "overlap@5", "residual"]
    ]
    (line,) = [line.split("│")[1:-1] for line in ran.out.splitlines() if line.startswith("│")]
    assert [cell.strip() for cell in line[:5]] == ["user", "114", "0.2500", "1.0000", "1.0000 ± 0.0000"]
    assert ran.out.count("\n") < 10


def test_the_summary_has_relations_and_says_what_has_no_rotation(monkeypatch):
    said = {"old": "a", "new": "b", "entity": "user", "no rotation": "12 common ids do not determine a rotation"}
    rows = [
        Result("user", "ids kept", 12.0, protocol=said),
        Result("user", "relative l2", 0.5, protocol=said),
        Result("user", "relative l2", 0.7, group="degree 1", protocol=said),
        Result("user", "has bought overlap@10", 0.25, low=0.2, high=0.3, protocol=said),
        Result("relations", "relative change", 0.125, group="has bought", protocol={"old": "a", "new": "b"}),
    ]
    monkeypatch.setenv("COLUMNS", "100")
    console = Console(file=io.StringIO())
    console.print(*_tables(Report(rows, {})))
    lines = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in console.file.getvalue().splitlines()
        if line.startswith("│")
    ]
    assert lines == [
        ["user", "12", "0.5000"],
        ["has bought", "0.2500 ± 0.0500", "0.1250"],
        ["user", "12 common ids do not determine a rotation"],
    ]


@pytest.mark.parametrize(("width", "count"), [(80, 2), (120, 1)])
def test_tables_fit_the_terminal(tmp_path, monkeypatch, width, count):
    """Six tables stand in as few tables of whole cells as there is room for; what was not measured says why."""
    opened = []
    for name in ("w1", "w2"):
        made = {f"network-{n}": EmbeddingTable.from_arrays(IDS, VECTORS, entity="user", version=name) for n in range(5)}
        made["gone"] = EmbeddingTable.from_arrays([name], VECTORS[:1], entity="page", version=name)
        opened.append(write_version(tmp_path / name, made))
    report = measure_drift(*opened, sample=10)
    monkeypatch.setenv("COLUMNS", str(width))
    console = Console(file=io.StringIO())
    console.print(*_tables(report, everything=True))
    text = console.file.getvalue()
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    heads = [line for line in lines if line.startswith("┃ metric")]
    assert len(heads) == count
    assert [each for line in heads for each in line.split() if each.startswith(("network", "gone"))] == list(made)
    assert sum(line.count("1.0000 ± 0.0000") for line in lines if line.startswith("│ overlap@10")) == 5
    assert "no id is in both versions; 'w1' has 'w1', 'w2' has 'w2'" in " ".join(text.replace("│", " ").split())


def test_a_bound_that_is_exceeded_is_exit_code_1_and_says_which(command):
    assert command("drift", "v1", "copy", "--max-relative-l2", 0, "--min-overlap", 1, "--max-removed", 0).code == 0
    ran = command("drift", "v1", "v2", "--max-relative-l2", 0.2, "--max-removed", 0.05, "--min-cosine", 0.99)
    assert ran.code == 1
    assert ran.err == "user: relative l2 is 0.25, at most 0.2 is allowed\n"
    assert "drift from v1 to v2" in ran.out
    ran = command("drift", "v1", "v2", "--max-removed", 0.04, "--json")
    assert (ran.code, ran.err) == (1, "")
    said = json.loads(ran.out)
    assert said["exceeded"] == ["user: removed share is 0.05, at most 0.04 is allowed"]
    assert said["format"] == "report/1"


def test_bad_input_is_exit_code_2_and_one_line(command):
    for words, line in (
        (("v1", "v2", "--table", "usr"), "version 'v1' has no table 'usr'; did you mean 'user'?"),
        (("v1", "nowhere"), "nowhere"),
        (("v1", "v2", "--output", "o.txt"), "a report is saved as .json, .md or .html, not as 'o.txt'"),
        (
            ("v1", "v2", "--output", "early.json", "--plot", "p.jpgg"),
            "a figure is saved as .png, .svg, .pdf, not as 'p.jpgg'",
        ),
        (("v1", "v2", "--ranker", "r"), "--ranker and --impressions go together"),
        (("v1", "v2", "--max-score-shift", 1), "max_score_shift is 1.0, but nothing that it bounds was measured"),
    ):
        ran = command("drift", *words)
        assert ran.code == 2
        assert line in ran.err
        assert ran.err.count("\n") == 1
    assert not Path("early.json").exists()  # before the work, not after it


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("form", ["csv", "CSV.gz", "parquet"])
def test_a_ranker_is_fed_the_later_version(command, form):
    torch = pytest.importorskip("torch")
    from recokit.features import FeatureSpec, Pretrained
    from recokit.rankers import LinearProbe

    made = LinearProbe(FeatureSpec(pretrained=[Pretrained("user", open_version("v1").table("user"))], label="clicked"))
    with torch.no_grad():
        made.encoder.pretrained[0][1].linear.weight.fill_(0.5)
    made.save("probe")
    frame = pd.DataFrame({"user": IDS, "clicked": np.arange(COUNT) % 2})
    frame.to_parquet("rows.parquet") if form == "parquet" else frame.to_csv(f"rows.{form}", index=False)
    words = ("--ranker", "probe", "--impressions", f"rows.{form}", "--max-score-shift", 0.5, "--output", "o.json")
    ran = command("drift", "v1", "v2", *words)
    assert (ran.code, ran.err) == (0, "")
    assert "scores of probe" in ran.out
    scale = 1 / np.sqrt((VECTORS.astype(np.float64) ** 2).mean())
    logits = 0.5 * scale * VECTORS.astype(np.float64).sum(axis=1)
    later = np.where(np.arange(COUNT) < COUNT - 6, 1.25 * logits, 0)
    moved = np.abs(1 / (1 + np.exp(-later)) - 1 / (1 + np.exp(-logits))).mean()
    assert Report.load("o.json").value("score shift |p|") == pytest.approx(moved, rel=1e-5)
    assert command("drift", "v1", "v2", *words[:4], "--max-score-shift", moved / 2).code == 1


def test_bounds_look_at_every_table_and_at_no_tenth():
    rows = [
        Result("user", "relative l2", 0.1),
        Result("user", "relative l2", 0.9, group="degree 1", protocol={"tenth": 1}),
        Result("item", "relative l2", float("nan")),
        Result("user", "overlap@10", 0.8),
        Result("user", "follows overlap@10", 0.4),
        Result("user", "has bought overlap@10", 0.3),
        Result("dlrm", "score shift top@10 overlap", 0.1),
        Result("user", "procrustes residual", 0.3),
        Result("relations", "relative change", 0.7, group="likes"),
        Result("dlrm", "score shift |score|", 0.6, group="clicked"),
    ]
    report = Report(rows, {})
    assert Bounds().exceeded(report) == []
    assert Bounds(max_relative_l2=0.1).exceeded(report) == ["item: relative l2 is nan, at most 0.1 is allowed"]
    assert Bounds(min_overlap=0.8).exceeded(report) == [
        "user: follows overlap@10 is 0.4, at least 0.8 is allowed",
        "user: has bought overlap@10 is 0.3, at least 0.8 is allowed",
    ]
    assert Bounds(max_residual=0.3).exceeded(report) == []
    assert Bounds(max_residual=0.29, max_relation_change=0.5, max_score_shift=0.5).exceeded(report) == [
        "user: procrustes residual is 0.3, at most 0.29 is allowed",
        "relations, likes: relative change is 0.7, at most 0.5 is allowed",
        "dlrm, clicked: score shift |score| is 0.6, at most 0.5 is allowed",
    ]
    with pytest.raises(ConfigError, match=r"min_cosine is 0\.5, but nothing that it bounds was measured"):
        Bounds(min_cosine=0.5).exceeded(report)


def test_the_figure_has_the_medians_of_the_tenths(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    moved = VECTORS * (1 + 1 / DEGREES[:, None]).astype(np.float32)
    for name, vectors in (("a", VECTORS), ("b", moved), ("c", VECTORS)):
        made = EmbeddingTable.from_arrays(IDS, vectors, entity="user", version=name)
        write_version(tmp_path / name, {"user": made}, state={"degrees-user": DEGREES} if name == "a" else None)
    old, new, copy = (open_version(tmp_path / name) for name in "abc")
    drawn = []

    class Figure(matplotlib.figure.Figure):
        def savefig(self, *args, **kwargs):
            super().savefig(*args, **kwargs)
            drawn.append(self)

    monkeypatch.setattr("recokit.drift.figure.matplotlib_figure", lambda: Figure)
    path = plot_drift(measure_drift(old, new, sample=10), tmp_path / "plots" / "drift.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    left, right = drawn[0].axes
    (line,) = left.lines
    places = np.arange(10) * 12
    assert line.get_xdata().tolist() == [np.median(DEGREES[at : at + 12]) for at in places]
    expected = [np.median(1 / DEGREES[at : at + 12]) for at in places]
    assert line.get_ydata().tolist() == pytest.approx(expected, rel=1e-5)
    assert (left.get_xscale(), left.get_yscale()) == ("log", "log")
    assert not np.isfinite(right.lines[0].get_ydata()[0]) or right.lines[0].get_ydata()[0] < 1e-6  # no angle changed
    plot_drift(measure_drift(old, copy, sample=10), tmp_path / "copy.svg")  # nothing to draw is no error
    fresh = EmbeddingTable.from_arrays(IDS, VECTORS, entity="user", version="d")
    unseen = write_version(tmp_path / "d", {"user": fresh}, state={"degrees-user": DEGREES // 40})
    plot_drift(measure_drift(unseen, new, sample=10), tmp_path / "fresh.svg")
    assert (drawn[-1].axes[0].get_xscale(), drawn[-1].axes[0].lines[0].get_xdata()[0]) == ("symlog", 0)
    with pytest.raises(DataError, match="no deviations by degree"):
        plot_drift(measure_drift(copy, new, sample=10), tmp_path / "none.png")


@pytest.mark.parametrize("name", ["recokit.drift", "recokit.drift.bounds"])
def test_the_examples_in_docstrings_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_torch_is_imported_for_rankers_only():
    program = "import sys, recokit.drift, recokit.drift.cli\nprint('torch' in sys.modules, 'matplotlib' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]


@pytest.mark.usefixtures("one_thread")
def test_refreshes_drift_less_than_retraining(tmp_path):
    """The order of TwHIN's Fig. 4c on planted blocks: held near, warm, from another random start."""
    pytest.importorskip("torch")
    from pretrain import TrainConfig, export, train
    from pretrain.planted import planted_blocks

    graph = planted_blocks(users=300, items=200, blocks=4, degree=12)
    known, _ = graph.split(fraction=0.1, seed=0)
    config = TrainConfig(dim=8, epochs=15, seed=0)
    first = train(known, config)
    old = export(first, tmp_path / "v1")
    again, more = (dataclasses.replace(config, seed=1000, epochs=epochs) for epochs in (15, 3))
    reports = {}
    for name, settings, previous in (
        ("retrained", again, None),
        ("warm", more, first),
        ("held", dataclasses.replace(more, alpha=100.0), first),
    ):
        new = export(train(graph, settings, previous=previous), tmp_path / name)
        reports[name] = measure_drift(old, new, tables=["user"], sample=100)
    drifts = {name: report.value("relative l2", name="user") for name, report in reports.items()}
    assert drifts["held"] < 0.7 * drifts["warm"]
    assert drifts["warm"] < 0.3 < 0.9 < drifts["retrained"]
    retrained = reports["retrained"]
    # Much of it is a turn of the whole space, which no neighbour sees.
    assert retrained.value("procrustes residual", name="user") < 0.8 * retrained.value(
        "unrotated residual", name="user"
    )
    assert reports["held"].value("overlap@10", name="user") > retrained.value("overlap@10", name="user")
    row = next(row for row in retrained.results if row.metric == "relative l2" and row.group)
    assert row.protocol["degree_low"] == first.degrees["user"].min()
