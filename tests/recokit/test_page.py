"""The page about a version: what it reads, searches and packs, against float64 loops and figures that are known."""

import base64
import gzip
import json
import math
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from page_data import ATTACK, ITEMS, PROBE, make_version, reports, vectors

from recokit import (
    EmbeddingTable,
    ExactIndex,
    Mixture,
    RelationParameters,
    Report,
    open_version,
    quantize,
    write_version,
)
from recokit.drift import measure_drift
from recokit.errors import ConfigError, DataError, FormatError, MissingDependencyError
from recokit.page import write_page
from recokit.page.benchmarks import Change, change_of
from recokit.page.benchmarks import read_tasks as tasks_of
from recokit.page.card import Measured, make_card
from recokit.page.figures import benchmark_charts, compression_charts, drift_charts, training_charts
from recokit.page.formats import interval
from recokit.page.lists import Found, Lists, fair_shares, find_lists
from recokit.page.measured import drift_notes
from recokit.page.payload import explorer_of, pack, plane_of
from recokit.page.plane import draw_planes
from recokit.page.reading import read_reports, texts_for
from recokit.page.samples import sample_lists
from recokit.report import Result

pytest.importorskip("jinja2")
pytest.importorskip("plotly")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    old = make_version(folder / "v1", seed=5)
    return old, make_version(folder / "v2", parent="v1", reports=reports())


@pytest.fixture(scope="module")
def lists(versions):
    return find_lists(versions[1], entities=1000, k=5)


def of(lists, table, kind, relation=None):
    part = next(part for part in lists if part.name == table)
    return part, next(found for found in part.found if (found.kind, found.relation) == (kind, relation))


def best(scores, k, own=None):
    """Rows by falling score, ties by row."""
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    return [row for row in order if row != own][:k]


# --- lists


def test_neighbours_alike_are_those_of_exact_search(versions, lists):
    table = versions[1].table("user")
    part, found = of(lists, "user", "alike")
    rows, scores = ExactIndex.build(table).search(table.vectors[part.rows], 6)
    for at, row in enumerate(part.rows):
        kept = rows[at] != row
        np.testing.assert_array_equal(found.rows[at], rows[at][kept][:5])
        np.testing.assert_array_equal(found.scores[at], scores[at][kept][:5])


def test_targets_and_sources_score_alike_and_agree_with_a_loop(versions, lists):
    users, items = (versions[1].table(name).vectors.astype(np.float64) for name in ("user", "item"))
    shift = versions[1].relations["clicks"].parameters.astype(np.float64)
    scores = np.array([[(user + shift) @ item for item in items] for user in users])
    part, targets = of(lists, "user", "targets", "clicks")
    for at, row in enumerate(part.rows):
        assert targets.rows[at].tolist() == best(scores[row], 5)
        np.testing.assert_allclose(targets.scores[at], scores[row][targets.rows[at]], rtol=1e-5)
    part, sources = of(lists, "item", "sources", "clicks")
    for at, row in enumerate(part.rows):
        assert sources.rows[at].tolist() == best(scores[:, row], 5)
        np.testing.assert_allclose(sources.scores[at], scores[:, row][sources.rows[at]], rtol=1e-5)


@pytest.mark.parametrize("comparator", ["dot", "cos", "l2"])
def test_an_operator_on_the_targets_and_a_reciprocal_are_followed(tmp_path, comparator):
    tables = {
        name: EmbeddingTable.from_arrays(
            np.arange(count), vectors(count, 4, count), entity=name, version="v", comparator=comparator
        )
        for name, count in (("a", 12), ("b", 9))
    }
    scale, back = np.float32([2, 1, -1, 0.5]), np.float32([1, 3, 1, -2])
    relations = [
        RelationParameters("on", "a", "b", "diagonal", scale, side="target"),
        RelationParameters("to", "a", "b", "diagonal", scale, reciprocal="fro"),
        RelationParameters("fro", "b", "a", "diagonal", back, reciprocal="to"),
    ]
    lists = find_lists(write_version(tmp_path / "v", tables, relations=relations), entities=100, k=4)
    a, b = (tables[name].vectors.astype(np.float64) for name in ("a", "b"))

    def score(x, y):
        if comparator == "dot":
            return x @ y
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y) if comparator == "cos" else -np.linalg.norm(x - y)

    on = np.array([[score(x, y * scale) for y in b] for x in a])
    to = np.array([[score(x * scale, y) for y in b] for x in a])
    fro = np.array([[score(y * back, x) for y in b] for x in a])
    expected = {
        ("a", "targets", "on"): on,
        ("b", "sources", "on"): on.T,
        ("a", "targets", "to"): to,
        ("b", "sources", "to"): fro.T,  # by the reciprocal, which has no lists of its own
    }
    assert {(p.name, f.kind, f.relation) for p in lists for f in p.found if f.relation} == set(expected)
    for (name, kind, relation), scores in expected.items():
        found = of(lists, name, kind, relation)[1]
        assert found.rows.tolist() == [best(row, 4) for row in scores]
        np.testing.assert_allclose(found.scores, np.take_along_axis(scores, found.rows, axis=1), rtol=1e-4)


def test_a_bias_counts_for_what_is_found(tmp_path):
    bias = np.linspace(-3, 3, 7, dtype=np.float32)
    tables = {
        name: EmbeddingTable.from_arrays(
            np.arange(7), vectors(7, 4, seed), entity=name, version="v", bias=bias if name == "a" else None
        )
        for seed, name in enumerate("ab")
    }
    shift = vectors(1, 4, 9)[0]
    relation = RelationParameters("to", "a", "b", "translation", shift)
    lists = find_lists(write_version(tmp_path / "v", tables, relations=[relation]), entities=14, k=3)
    a, b = (tables[name].vectors.astype(np.float64) for name in "ab")
    scores = (a + shift) @ b.T + bias[:, None]
    assert of(lists, "b", "sources", "to")[1].rows.tolist() == [best(column, 3) for column in scores.T]


def test_mixtures_are_listed_and_their_components_are_not(tmp_path):
    items = EmbeddingTable.from_arrays(np.arange(20), vectors(20, 4), entity="item", version="v", comparator="cos")
    parts = vectors(6, 4, 3).reshape(3, 2, 4)
    users = Mixture.from_components(
        ["x", "y", "z"], parts, np.full((3, 2), 0.5, np.float32), entity="user", version="v", comparator="cos"
    )
    likes = RelationParameters("likes", "user", "item", "identity", np.zeros(0, np.float32))
    tables = {"item": items, "user-components": users.components, "user": users}
    version = write_version(tmp_path / "v", tables, relations=[likes])
    lists = find_lists(version, entities=100, k=3)
    assert [part.name for part in lists] == ["item", "user"]
    part, found = of(lists, "user", "targets", "likes")
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    cosines = unit(parts.astype(np.float64)) @ unit(items.vectors.astype(np.float64)).T  # (3, 2, 20)
    for at, row in enumerate(part.rows):
        # Two equal components deal alternately: the first place is the best of one of them.
        assert found.rows[at, 0] in cosines[row].argmax(axis=1)
    (plane,) = draw_planes(lists, {}, sample=30, seed=0)
    assert set(plane.groups) == {"item"}  # a mixture has no one place


def test_the_most_connected_are_listed_and_small_tables_in_full(versions):
    lists = find_lists(versions[1], entities=50, k=2)
    assert [len(part.rows) for part in lists] == [25, 25]
    assert lists[0].rows.tolist() == list(range(25))  # users' degrees fall with the row,
    assert lists[1].rows.tolist() == list(range(40, 15, -1))  # items' rise
    assert fair_shares([2, 100, 50], 60) == [2, 29, 29]
    assert fair_shares([5, 5], 100) == [5, 5]
    assert sum(fair_shares([7, 90, 11, 200], 100)) == 100


def test_without_degrees_the_first_are_listed(tmp_path):
    table = EmbeddingTable.from_arrays([1, 2], vectors(2), entity="user", version="v")
    version = write_version(tmp_path / "v", {"user": table}, state={"degrees-user": np.ones(3, np.int64)})
    assert find_lists(version, entities=9, k=1)[0].rows.tolist() == [0, 1]


def test_lists_shorter_than_k_end_in_nothing(tmp_path):
    table = EmbeddingTable.from_arrays(["a", "b", "c"], vectors(3), entity="x", version="v")
    (part,) = find_lists(write_version(tmp_path / "v", {"x": table}), entities=9, k=5)
    assert (part.found[0].rows >= 0).sum(axis=1).tolist() == [2, 2, 2]
    packed = explorer_of([part], {"x": {}}, {"x": {}})[0]
    assert [len(entries) for entries in unpacked(packed, 0)] == [2, 2, 2]


# --- what the script gets


def unpacked(table, number):
    """Read a list as the page's script does: (position, score) of each entry."""
    found = table["lists"][number]
    kind, none = (np.uint16, 0xFFFF) if found["bits"] == 16 else (np.uint32, 0xFFFFFFFF)
    rows = np.frombuffer(base64.b64decode(found["found"]), kind).reshape(-1, found["k"])
    levels = np.frombuffer(base64.b64decode(found["scores"]), np.uint16).reshape(rows.shape)
    scores = found["low"] + (found["high"] - found["low"]) * levels / 0xFFFF
    return [
        [(int(row), float(score)) for row, score in zip(*line, strict=True) if row != none]
        for line in zip(rows, scores, strict=True)
    ]


def test_packed_lists_hold_ids_names_and_scores(versions):
    lists = find_lists(versions[1], entities=20, k=5)
    names = {"user": {}, "item": {"i07": "Seven"}}
    tables = explorer_of(lists, names, {"user": {0: "first"}, "item": {}})
    item = versions[1].table("item")
    assert tables[1]["names"][tables[1]["ids"].index("i07")] == "Seven"
    assert tables[0]["names"] is None
    assert tables[0]["labels"][0] == "first"
    assert [table["listed"] for table in tables] == [10, 10]
    assert tables[0]["ids"][:3] == ["0", "3", "6"]
    assert tables[0]["degrees"][:3] == [30, 29, 28]
    assert [len(table["ids"]) for table in tables] == [len(set(table["ids"])) for table in tables]
    part, targets = of(lists, "user", "targets", "clicks")
    number = part.found.index(targets)
    span = targets.scores.max() - targets.scores.min()
    for at, entries in enumerate(unpacked(tables[0], number)):
        ids = [tables[1]["ids"][row] for row, _ in entries]
        assert ids == item.ids_at(targets.rows[at]).to_pylist()
        np.testing.assert_allclose([score for _, score in entries], targets.scores[at], atol=span / 0xFFFF)


@pytest.mark.parametrize(("count", "bits"), [(65_534, 16), (65_535, 32)])
def test_rows_beyond_sixteen_bits_are_not_cut(count, bits):
    table = EmbeddingTable.from_arrays(np.arange(count), np.ones((count, 1), np.float32), entity="x", version="v")
    rows = np.full((count, 2), -1)
    rows[0] = count - 1, 7
    found = Found("alike", None, "x", rows, np.where(rows >= 0, np.float32([2, 1]), np.nan).astype(np.float32))
    (packed,) = explorer_of([Lists("x", table, np.arange(count), None, (found,))], {}, {})
    assert packed["lists"][0]["bits"] == bits
    assert unpacked(packed, 0)[0] == [(count - 1, 2.0), (7, 1.0)]
    assert unpacked(packed, 0)[1] == []


def test_packing_is_the_same_each_time_and_reads_back():
    text = "ä</script>" * 100
    assert pack(text.encode()) == pack(text.encode())
    assert gzip.decompress(base64.b64decode(pack(text.encode()))).decode() == text
    assert "<" not in pack(text.encode())


def test_a_map_is_the_same_for_a_seed_and_keeps_planted_clusters_apart(tmp_path):
    centres = 10 * np.eye(3, 8)
    kind = np.arange(90) % 3
    points = (centres[kind] + 0.1 * np.random.default_rng(0).normal(size=(90, 8))).astype(np.float32)
    table = EmbeddingTable.from_arrays(np.arange(90), points, entity="x", version="v", comparator="l2")
    lists = find_lists(write_version(tmp_path / "v", {"x": table}), entities=90, k=1)
    labels = {"x": [f"kind {at}" for at in kind]}
    (plane,) = draw_planes(lists, labels, sample=60, seed=3)
    (again,) = draw_planes(lists, labels, sample=60, seed=3)
    np.testing.assert_array_equal(plane.points, again.points)
    assert plane.groups == tuple(f"kind {place % 3}" for place in plane.places)
    assert "60 of 90" in plane.method
    assert "t-SNE with perplexity 19.6667, 500 steps, angle 0.8 (Barnes-Hut), seed 3" in plane.method
    distance = np.linalg.norm(plane.points[:, None] - plane.points[None], axis=2) + 9 * np.eye(60)
    assert all(plane.groups[at] == plane.groups[near] for at, near in enumerate(distance.argmin(axis=1)))
    packed = plane_of(plane)
    back = np.frombuffer(base64.b64decode(packed["points"]), np.uint16).reshape(-1, 2) / 0xFFFF * 2 - 1
    np.testing.assert_allclose(back, plane.points, atol=1.6e-5)
    assert [packed["groups"][at] for at in packed["group"]] == list(plane.groups)


def test_points_of_several_tables_are_those_of_their_entities(tmp_path):
    centres = 10 * np.eye(4, 8)
    kinds = {"a": np.arange(60) // 30, "b": 2 + np.arange(90) // 45}
    noise = np.random.default_rng(0)
    tables = {
        name: EmbeddingTable.from_arrays(
            np.arange(len(kind)),
            (centres[kind] + 0.1 * noise.normal(size=(len(kind), 8))).astype(np.float32),
            entity=name,
            version="v",
            comparator="l2",
        )
        for name, kind in kinds.items()
    }
    lists = find_lists(write_version(tmp_path / "v", tables), entities=150, k=1)
    (plane,) = draw_planes(lists, {}, sample=80, seed=0)
    kind = [kinds["ab"[table]][place] for table, place in zip(plane.tables, plane.places, strict=True)]
    distance = np.linalg.norm(plane.points[:, None] - plane.points[None], axis=2) + 9 * np.eye(80)
    assert all(kind[at] == kind[near] for at, near in enumerate(distance.argmin(axis=1)))


def test_types_share_a_map_and_no_sample_draws_none(lists):
    (plane,) = draw_planes(lists, {}, sample=20, seed=0)
    assert plane.groups == ("user",) * 10 + ("item",) * 10
    assert draw_planes(lists, {}, sample=2, seed=0) == ()


@pytest.mark.parametrize(("rows", "alike"), [(vectors(9, 1), False), (np.ones((9, 4)), True), (np.zeros((9, 1)), True)])
def test_one_dimension_and_equal_vectors_have_a_map(tmp_path, rows, alike):
    table = EmbeddingTable.from_arrays(np.arange(9), rows.astype(np.float32), entity="x", version="v", comparator="cos")
    lists = find_lists(write_version(tmp_path / "v", {"x": table}), entities=9, k=2)
    (plane,) = draw_planes(lists, {}, sample=9, seed=0)
    assert np.isfinite(plane.points).all()
    assert ("all of their vectors are the same" in plane.method) == alike


def test_recommendations_are_the_start_of_the_lists(lists, versions):
    (section,) = sample_lists(lists, {"user": {}, "item": {"i07": "Seven"}}, seed=0)
    assert (section.relation, section.ends, len(section.people)) == ("clicks", "user → item", 6)
    part, targets = of(lists, "user", "targets", "clicks")
    person = section.people[0]
    at = part.table.ids_at(part.rows).to_pylist().index(int(person.id))
    ids = versions[1].table("item").ids_at(targets.rows[at]).to_pylist()
    assert [target.id for target in person.targets] == ids
    assert person.known == f"{30 - at} training edges"
    assert all(target.name == ("Seven" if target.id == "i07" else "") for p in section.people for target in p.targets)


# --- benchmarks and changes


def test_a_task_knows_its_subjects_and_its_main_figure():
    topic, links = tasks()
    assert (topic.title, topic.subjects) == ("topic ROC-AUC", ("v2", "v1", "random"))
    assert [topic.role(name) for name in topic.subjects] == ["this", "other", "baseline"]
    assert topic.main("v2").value == 0.8
    assert links.title == "links: recall@10 (clicks)"
    assert links.main("v2").value == 0.25
    grid = topic.grid()
    assert grid.head == ("part", "v2", "v1", "random", "v2 - random", "n")
    assert [cell.text for cell in grid.rows[0]] == ["all", "0.8000", "0.7500", "0.5000", "0.3000", "100"]
    assert grid.rows[1][0].text == ATTACK


def tasks(extra=(), drop=(), version="v2"):
    content = json.loads(reports()["benchmarks.json"])["results"]
    rows = [Result(**row) for row in content if row["name"] not in drop]
    return tasks_of(Report([*rows, *extra], {}), version)


def test_a_change_is_paired_where_it_can_be_then_on_the_same_data_then_published():
    paired = Result("v2 - v1", "topic roc_auc", 0.05, 0.01, 0.09, protocol=PROBE)
    change = change_of(tasks([paired])[0], "v1", ())
    assert (change.value, change.against) == (0.05, "v1, paired on the same data")
    assert change.noise == pytest.approx(0.04)
    assert change.verdict == "better"
    change = change_of(tasks()[0], "v1", ())
    assert change.value == pytest.approx(0.8 - 0.75)
    assert change.noise == pytest.approx((0.02**2 + 0.03**2) ** 0.5)
    assert change.verdict == "better"
    before = tasks([Result("v1", "topic roc_auc", 0.79, 0.77, 0.81, protocol=PROBE)], ("v1", "v2"), "v1")
    change = change_of(tasks(drop=("v1",))[0], "v1", before)
    assert change.value == pytest.approx(0.01)
    assert (change.verdict, change.against) == ("same", "the figure published with v1")
    assert change_of(tasks(drop=("v1",))[0], "v1", ()) is None


def test_a_fall_beyond_its_noise_is_worse_and_without_noise_nobody_knows():
    assert Change(-0.2, 0.1, "v1").verdict == "worse"
    assert Change(-0.1, 0.1, "v1").verdict == "same"
    assert (Change(-0.2, None, "v1").verdict, Change(-0.2, None, "v1").text) == ("unknown", "−0.2000")
    assert Change(0.05, 0.036, "v1").text == "+0.0500 ± 0.0360"
    assert Change(0.0, 0.036, "v1").text == "0 ± 0.0360"
    assert (Change(0.0, 0.0, "v1").text, Change(0.0, None, "v1").text) == ("no change", "no change")
    assert Change(0.05, 0.00001, "v1").text == "+0.0500"


def test_a_figure_without_a_value_has_no_tile_and_no_change(versions):
    """Stability has none on the first night, and no change on the second."""
    of = {"task": "stability"}

    def measured(version, value):
        rows = [
            Result(version.name, "stability@10", value, group="user", protocol=of),
            Result(version.name, "mrr", 0.5),
        ]
        return Measured(version, tasks_of(Report(rows, {}), version.name))

    titles = [tile.name for tile in make_card(measured(versions[1], math.nan)).tiles]
    assert titles == ["entities", "training edges", "mrr"]
    card = make_card(measured(versions[1], 0.75), measured(versions[0], math.nan))
    (tile,) = [tile for tile in card.tiles if "stability" in tile.name]
    assert (tile.value, tile.change, tile.verdict) == ("0.7500", "", "neutral")


def test_both_ends_of_an_interval_are_written_alike():
    assert interval(0.98765, 1.0) == "0.9877 to 1.0000"
    assert interval(0.0, 0.25) == "0.0000 to 0.2500"
    assert interval(1200, 1300) == "1,200 to 1,300"
    assert (interval(0.99999, 1.0), interval(1.0, 1.0), interval(math.nan, 1.0), interval(None, 1.0)) == ("",) * 4


def test_seeds_of_one_figure_are_averaged():
    seeds = [Result("v2", "mrr", value, value - 0.1, value + 0.1, seed=at) for at, value in enumerate((0.2, 0.4))]
    (task,) = tasks_of(Report(seeds, {}), "v2")
    assert (task.main("v2").value, task.main("v2").low) == (pytest.approx(0.3), pytest.approx(0.2))


# --- figures


def test_figures_hold_the_figures_of_the_reports(versions):
    found = read_reports(versions[1])
    loss, relation = training_charts(found.training)
    assert (loss.series[0].x, loss.series[0].y) == ((1.0, 2.0, 3.0), (2.0, 1.0, 2.0 / 3))
    assert (relation.series[0].name, relation.series[0].y[0]) == ("clicks", 4.0)
    topic, _ = benchmark_charts(tasks_of(found.benchmarks, "v2"))
    assert [(one.name, one.x, one.low, one.high, one.role) for one in topic.series] == [
        ("v2", (0.8,), (0.78,), (0.82,), "this"),
        ("v1", (0.75,), (0.72,), (0.78,), "other"),
        ("random", (0.5,), (0.45,), (0.55,), "baseline"),
    ]
    (recall,) = compression_charts(found.compression)
    assert (recall.series[0].name, recall.series[0].x, recall.series[0].y) == ("pq", (7.5, 14.0), (0.6, 0.3))
    moved, cosine, overlap, residual = drift_charts(found.drift)
    assert (moved.series[0].x, moved.series[0].y, moved.log_x, moved.log_y) == ((2.0, 8.0), (0.4, 0.2), True, True)
    assert cosine.series[0].y == (pytest.approx(0.04), pytest.approx(0.02))
    assert (cosine.series[0].low[0], cosine.series[0].high[0]) == (pytest.approx(0.01), pytest.approx(0.1))
    assert (overlap.title, overlap.series[0].name) == ("Overlap@10 of targets, by relation", "clicks")
    assert (residual.kind, residual.series[0].x, residual.series[0].y) == ("dots", (0.1,), ("user",))


def test_what_drift_could_not_measure_is_said_on_the_page(tmp_path):
    """A version beside itself: of 12 ids and 32 dimensions there is no rotation, and there are no tenths."""
    table = EmbeddingTable.from_arrays(np.arange(12), vectors(12, 32), entity="user", version="v")
    version = write_version(tmp_path / "v", {"user": table}, state={"degrees-user": np.arange(12)})
    report = measure_drift(version, version, k=2)
    assert drift_notes(report) == (
        ("user", "12 common ids do not determine a rotation of 32 dimensions"),
        ("user", "12 common ids are too few for tenths, which take 100"),
    )
    assert drift_notes(None) == drift_charts(report) == ()
    report.save(tmp_path / "drift.json")
    path = write_page(version, tmp_path / "p.html", reports={"drift.json": tmp_path / "drift.json"}, map_sample=0)
    assert "<dt>user</dt><dd>12 common ids do not determine a rotation of 32 dimensions</dd>" in path.read_text("utf-8")


def test_without_reports_there_are_no_figures():
    assert training_charts(None) == compression_charts(None) == drift_charts(None) == benchmark_charts(()) == ()


def test_intervals_and_factors_that_are_no_numbers_are_left_out():
    rows = [Result("pq 4", "neighbor_recall@10", 0.5, math.nan, math.inf), Result("pq 4", "compression", 8.0)]
    rows += [Result("pq 2", "neighbor_recall@10", math.nan), Result("pq 2", "compression", 16.0)]
    rows += [Result("opq 2", "neighbor_recall@10", 0.4), Result("opq 2", "compression", math.nan)]
    (chart,) = compression_charts(Report(rows, {}))
    assert [(one.x, one.y, one.low, one.high) for one in chart.series] == [((8.0,), (0.5,), (None,), (None,))]
    (chart,) = benchmark_charts(tasks_of(Report([Result("v", "m", 0.5, math.nan, 0.6)], {}), "v"))
    assert (chart.series[0].low, chart.series[0].high, chart.series[0].role) == ((None,), (0.6,), "this")


def test_what_is_not_a_number_is_not_drawn():
    epochs = [{"epoch": 1, "loss": None}, {"epoch": 2, "loss": 1.5}]
    (chart,) = training_charts({"networks": {"": epochs}})
    assert (chart.series[0].x, chart.series[0].y) == ((2.0,), (1.5,))
    assert benchmark_charts(tasks_of(Report([Result("v2", "mrr", float("nan"))], {}), "v2")) == ()


# --- the card


def test_the_card_compares_with_the_earlier_version(versions):
    old, new = versions
    found = read_reports(new)
    card = make_card(Measured(new, tasks_of(found.benchmarks, "v2"), found), Measured(old))
    assert (card.version, card.parent, card.previous, card.created) == ("v2", "v1", "v1", "2026-06-01 04:30 UTC")
    assert [(tile.name, tile.value, tile.change) for tile in card.tiles[:3]] == [
        ("entities", "71", "same"),
        ("training edges", "400", "same"),
        ("topic ROC-AUC", "0.8000", "+0.0500 ± 0.0361"),
    ]
    (gate,) = card.gates
    assert (gate.name, gate.status, gate.reason) == ("links recall@10, min 0.2", "passed", "0.25")
    grids = {grid.caption: grid for grid in card.grids}
    assert [cell.text for cell in grids["Relations"].rows[0]] == ["clicks", "user → item", "translation", "400"]
    assert [cell.text for cell in grids["Inputs"].rows[0]] == ["edges/clicks.parquet", "2.0 kB", "d" * 10, ""]
    assert dict(card.facts)["code"] == "recokit 0.1.0, commit abcdef0123"


def test_what_a_report_does_not_hold_is_left_out_and_what_it_may_not_hold_is_refused(tmp_path):
    def measured(name, **parts):
        form = "training/1" if "networks" in parts else "lineage/1"
        report = {f"{form[:-2]}.json": json.dumps({"format": form, **parts})}
        return measured_of(make_version(tmp_path / name, reports=report))

    nothing = measured("a", config=None, gates=None, steps=None, inputs=None, code=None)
    assert (make_card(nothing, measured("b")).gates, training_charts({})) == ((), ())
    assert training_charts(measured("c", networks={"": [{"epoch": None, "loss": 2.0}]}).reports.training)[0].series[
        0
    ].x == (1.0,)
    bad = [{"gates": [3]}, {"steps": [{"seconds": "long"}]}, {"inputs": {"a": {"bytes": None}}}, {"config": []}]
    bad += [{"networks": []}, {"networks": {"": [3]}}, {"networks": {"": [{"epoch": "first"}]}}]
    for number, parts in enumerate(bad):
        with pytest.raises(FormatError, match=f"json: '{next(iter(parts))}' is .* does not hold"):
            measured(f"bad{number}", **parts)


def measured_of(version):
    return Measured(version, (), read_reports(version))


def test_settings_are_compared_like_with_like(tmp_path):
    def lineage(epochs, weight):
        config = {"train": {"epochs": epochs}, "relation": [{"name": "clicks", "weight": weight}]}
        return {"lineage.json": json.dumps({"format": "lineage/1", "config": config, "inputs": {}})}

    old = make_version(tmp_path / "old", reports=lineage(3, 1.0))
    new = make_version(tmp_path / "new", reports=lineage(3, 2.0))
    bare = make_version(tmp_path / "bare", meta={"config": {"dim": 8, "epochs": 4}})
    both = [make_card(Measured(new, (), read_reports(new)), Measured(v, (), read_reports(v))) for v in (old, bare)]
    grids = [next(grid for grid in card.grids if "differs" in grid.caption) for card in both]
    assert grids[0].caption == "Configuration: what differs from old"
    assert [[cell.text for cell in row] for row in grids[0].rows] == [["relation[clicks].weight", "1.0", "2.0"]]
    assert grids[1].caption == "Settings of the training: what differs from bare"
    assert [[cell.text for cell in row] for row in grids[1].rows] == [["epochs", "4", "3"]]
    same = make_card(Measured(new, (), read_reports(new)), Measured(new, (), read_reports(new)))
    assert not [grid.caption for grid in same.grids if "differs" in grid.caption]
    assert dict(same.facts)["settings"] == "as those of new"


def test_what_a_later_lineage_says_is_shown_as_text(tmp_path):
    lineage = {
        "format": "lineage/1",
        "gates": [
            {"name": "links, max_drop noise", "status": "passed", "message": "fine", "share": 0.25, "memory": True}
        ],
        "not_moved": ["latest", "production"],
        "codebook": {"movie-pq": {"previous": "night-1", "new": None}},
        "nothing": [],
        "long": "x" * 400,
    }
    version = make_version(tmp_path / "v", reports={"lineage.json": json.dumps(lineage)})
    card = make_card(Measured(version, (), read_reports(version)))
    assert card.gates[0].reason == "fine; share: 0.2500; memory: yes"
    assert dict(card.facts) | {"code": ""} == {
        "code": "",
        "not moved": "latest, production",
        "codebook": "movie-pq previous night-1, new None",
        "long": "x" * 300 + "…",
    }


def test_an_entity_of_two_networks_counts_once(tmp_path):
    tables = {
        f"user-{network}": EmbeddingTable.from_arrays(np.arange(count), vectors(count), entity="user", version="v")
        for network, count in (("follow", 5), ("engage", 8))
    }
    networks = {name: name.split("-")[1] for name in tables}
    edges = {"networks": {"follow": {"edges": {"follows": 10}}, "engage": {"edges": {"likes": 20}}}}
    card = make_card(Measured(write_version(tmp_path / "v", tables, networks=networks, meta=edges)))
    assert [(tile.name, tile.value) for tile in card.tiles] == [("entities", "8"), ("training edges", "30")]


def test_a_table_that_has_gone_is_named(tmp_path):
    old = make_version(tmp_path / "old")
    table = EmbeddingTable.from_arrays([1], vectors(1), entity="user", version="new")
    card = make_card(Measured(write_version(tmp_path / "new", {"user": table})), Measured(old))
    rows = [[cell.text for cell in row][:3] for row in card.grids[0].rows]
    assert rows == [["user", "vectors", "1"], ["item", "no longer there", "–"]]
    assert card.grids[0].rows[0][2].note == "−96.7 %"


# --- names, labels, reports


def test_names_come_from_a_mapping_or_two_columns_of_a_file(versions, tmp_path):
    (tmp_path / "u.csv").write_text("key,who,id\n0,zero,9\n3,three,8\n3,again,7\n6,,5\n")
    users = versions[1].table("user")
    assert texts_for({"user": f"{tmp_path}/u.csv:key,who"}, "user", users, "names") == {0: "zero", 3: "three"}
    assert texts_for({"user": {np.int64(3): "x"}}, "user", users, "names") == {3: "x"}
    assert texts_for({"item": {"i00": "x"}}, "user", users, "names") == {}
    blank = {0: None, 3: float("nan"), 6: "  ", 9: "nine"}
    assert texts_for({"user": blank}, "user", users, "names") == {9: "nine"}
    assert texts_for({"user": f"{tmp_path}/u.csv:key, who"}, "user", users, "names") == {0: "zero", 3: "three"}
    (tmp_path / "y.csv").write_text("id,year\n0,1995\n3,\n")
    assert texts_for({"user": f"{tmp_path}/y.csv"}, "user", users, "labels") == {0: "1995"}
    with pytest.raises(DataError, match=r"none of the 1 ids .*\[4\], its own \[0, 3, 6\]"):
        texts_for({"user": {4: "x"}}, "user", users, "names")
    with pytest.raises(ConfigError, match="names 3 columns, expected an id and a text"):
        texts_for({"user": f"{tmp_path}/u.csv:key,who,id"}, "user", users, "names")


def test_reports_come_from_the_version_then_from_a_folder_or_a_file(versions, tmp_path):
    old, new = versions
    (tmp_path / "benchmarks.json").write_text(Report([Result("other", "mrr", 0.5)], {}).to_json())
    assert read_reports(old, tmp_path).benchmarks.results[0].name == "other"
    assert read_reports(new, tmp_path).benchmarks.results[0].name == "v2"
    odd = tmp_path / "odd.json"
    odd.write_text(reports()["compression.json"])
    assert read_reports(old, odd).compression.results[0].name == "pq 4 bytes"
    odd.write_text(reports()["drift.json"])
    assert read_reports(old, odd).drift.results[0].value == 0.3
    with pytest.raises(DataError, match="no folder that holds one of"):
        read_reports(old, tmp_path / "none")
    with pytest.raises(ConfigError, match=r"did you mean 'drift.json'"):
        read_reports(old, {"drifts.json": odd})
    (tmp_path / "training.json").write_text('{"format": "training/2"}')
    with pytest.raises(FormatError, match="'training/2', not 'training/1'"):
        read_reports(old, tmp_path)


# --- the file


class Reader(HTMLParser):
    """What a browser would make of a page: elements, attributes, and the text of its scripts by id."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.scripts, self.text, self._in = [], [], {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._in = dict(attrs).get("id", "code") if tag == "script" else None

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in is None:
            self.text.append(data)
        else:
            self.scripts[self._in] = self.scripts.get(self._in, "") + data


@pytest.fixture(scope="module")
def page(versions, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    names = {"item": {ATTACK: ATTACK, "i07": "Seven"}}
    return write_page(versions[1], path, previous=versions[0], names=names, map_sample=12).read_text()


def test_the_page_holds_what_was_measured_and_nothing_from_a_network(page):
    read = Reader(page)
    text = " ".join(read.text)
    for said in ("0.7800 to 0.8200", "+0.0500 ± 0.0361", "links recall@10, min 0.2", "edges/clicks.parquet"):
        assert said in text
    for tag, name, value in read.attributes:
        assert name not in ("srcset", "action", "data", "poster"), (tag, name)
        if name in ("src", "href"):
            assert value.startswith(("#", "data:,")), (tag, value)
    assert "@import" not in page.split("</style>")[0]
    assert "url(" not in page.split("</style>")[0]


def test_hostile_ids_are_text(page):
    read = Reader(page)
    assert "img" not in read.tags
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]
    assert ATTACK in " ".join(read.text)
    assert read.tags.count("script") == 4
    assert json.loads(read.scripts["figures"])["training"][1]["series"][1]["name"] == ATTACK
    data = json.loads(gzip.decompress(base64.b64decode(read.scripts["data"])))
    assert ATTACK in data["tables"][1]["ids"]


def test_the_policy_allows_two_scripts_and_no_request(page):
    import hashlib

    from plotly.offline import get_plotlyjs

    read = Reader(page)
    policy = next(value for tag, name, value in read.attributes if (tag, name) == ("meta", "content"))
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in (read.scripts["code"], get_plotlyjs())
    ]
    assert policy.startswith("default-src 'none'; ")
    assert re.search(r"script-src ([^;]*);", policy)[1] == " ".join(f"'sha256-{digest}'" for digest in digests)
    packed = gzip.decompress(base64.b64decode(read.scripts["plotly"])).decode()
    assert packed == get_plotlyjs()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(versions, tmp_path):
    made = [
        write_page(versions[1], tmp_path / f"{number}.html", map_sample=12, seed=seed).read_bytes()
        for number, seed in enumerate((0, 0, 1))
    ]
    assert made[0] == made[1] != made[2]


def test_a_bare_version_says_how_to_get_what_is_missing(tmp_path):
    table = EmbeddingTable.from_arrays(ITEMS, vectors(41), entity="item", version="v")
    version = write_version(tmp_path / "v", {"item": table})
    page = write_page(open_version(version.path), tmp_path / "p.html", map_sample=0).read_text()
    assert "recokit probe VERSION TASKS.toml" in page
    assert "recokit drift OLD NEW" in page
    for section in ("training", "compression", "recommendations", "map"):
        assert f'<section id="{section}"' not in page
        assert f'href="#{section}"' not in page


def test_a_version_without_vectors_still_has_a_page(tmp_path):
    pytest.importorskip("faiss")
    table = EmbeddingTable.from_arrays(np.arange(300), vectors(300), entity="item", version="v")
    version = write_version(tmp_path / "v", {"item-pq": quantize(table, 2)})
    page = write_page(version, tmp_path / "p.html").read_text()
    assert "codes" in page
    for section in ("recommendations", "explore", "map"):
        assert f'<section id="{section}"' not in page


@pytest.mark.parametrize("package", ["jinja2", "plotly", "sklearn"])
def test_what_is_not_installed_is_named_with_its_extra(versions, tmp_path, monkeypatch, package):
    for name in (package, "plotly.offline", "sklearn.decomposition"):
        if name.startswith(package):
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'recokit\[report\]'"):
        write_page(versions[0], tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entities": 0}, "entities is 0, expected at least 1"),
        ({"k": 0}, "k is 0"),
        ({"names": {"itm": {}}}, "no such table or type; did you mean 'item'"),
        ({"labels": {"x": {}}}, "labels of 'x'"),
    ],
)
def test_bad_settings_are_refused_before_the_search(versions, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        write_page(versions[1], tmp_path / "p.html", **settings)
    assert not (tmp_path / "p.html").exists()
