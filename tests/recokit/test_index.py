"""Every backend keeps the one contract: the comparator's scores, complete lists, and folders that are checked."""

import hashlib
import json
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
from index_oracle import COMPARATORS, all_scores, make_table

from recokit.errors import ChecksumError, ConfigError, DataError, FormatError, MissingDependencyError, VersionError
from recokit.index import ExactIndex, FaissIndex, HNSWIndex, load_index, recall
from recokit.index import groups as grouping
from recokit.index import lift as lifting
from recokit.index.scoring import search_proposed
from recokit.table import EmbeddingTable

BACKENDS = {
    "exact": lambda table, **settings: ExactIndex.build(table),
    "hnswlib": lambda table, **settings: HNSWIndex.build(table, m=16, ef_construction=100, threads=1, **settings),
    "faiss-ivf_flat": lambda table, **settings: FaissIndex.build(table, kind="ivf_flat", threads=1, **settings),
    "faiss-hnsw": lambda table, **settings: FaissIndex.build(table, kind="hnsw", threads=1, **settings),
    "faiss-flat": lambda table, **settings: FaissIndex.build(table, kind="flat", threads=1, **settings),
}
every_backend = pytest.mark.parametrize("build", BACKENDS.values(), ids=BACKENDS)


def clusters(count=1000, num_queries=50, dim=16, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(30, dim))
    vectors = centers[rng.integers(0, 30, count)] + 0.4 * rng.normal(size=(count, dim))
    queries = centers[rng.integers(0, 30, num_queries)] + 0.4 * rng.normal(size=(num_queries, dim))
    return vectors.astype(np.float32), queries.astype(np.float32)


@every_backend
@pytest.mark.parametrize("comparator", COMPARATORS)
def test_found_rows_have_the_comparators_scores_best_first(build, comparator):
    vectors, queries = clusters(count=600, num_queries=12)
    index = build(make_table(vectors, comparator))
    rows, scores = index.search(queries, 20)
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(scores, np.take_along_axis(all_scores(index.table, queries), rows, axis=1))
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 20 for row in rows.tolist())
    assert recall(index, queries, 20) >= (1.0 if index.exact else 0.95)


@every_backend
def test_a_bias_is_part_of_the_score(build):
    vectors, queries = clusters(count=600, num_queries=12)
    bias = 3 * np.random.default_rng(1).normal(size=600)
    index = build(make_table(vectors, bias=bias))
    rows, scores = index.search(queries, 10)
    np.testing.assert_array_equal(scores, np.take_along_axis(all_scores(index.table, queries), rows, axis=1))
    assert recall(index, queries, 10) >= 0.95
    with pytest.raises(ConfigError, match="bias goes with 'dot' only"):
        build(make_table(vectors, "l2", bias=bias))


@every_backend
def test_more_than_there_is_fills_with_nothing(build):
    index = build(make_table(np.eye(3), "l2"))
    rows, scores = index.search(np.array([[1.0, 0, 0]]), 5)
    assert rows.tolist() == [[0, 1, 2, -1, -1]]
    np.testing.assert_array_equal(scores, np.float32([[0, -(2**0.5), -(2**0.5), -np.inf, -np.inf]]))


@every_backend
@pytest.mark.parametrize("comparator", ["dot", "cos"])
def test_zero_vectors_score_zero(build, comparator):
    vectors, queries = clusters(count=300, num_queries=2)
    vectors[::10], queries[0] = 0, 0
    rows, scores = build(make_table(vectors, comparator)).search(queries, 300)
    assert (scores[0] == 0).all()
    assert set(rows[0]) == set(range(300))
    assert (scores[1, np.isin(rows[1], np.arange(0, 300, 10))] == 0).all()


@every_backend
@pytest.mark.parametrize("k", [0, -3])
def test_no_or_fewer_rows_are_refused(build, k):
    with pytest.raises(ConfigError, match=f"k is {k}, expected an integer of at least 1"):
        build(make_table(np.eye(3))).search(np.eye(3), k)


@every_backend
def test_no_queries_find_nothing(build):
    rows, scores = build(make_table(np.eye(3))).search(np.zeros((0, 3)), 2)
    assert rows.shape == scores.shape == (0, 2)


@pytest.mark.parametrize("name", ["hnswlib", "faiss-ivf_flat", "faiss-hnsw"])
def test_a_search_wider_than_its_settings_is_complete(name):
    """faiss fills with -1 where its lists or its graph end."""
    vectors, queries = clusters(count=500, num_queries=5)
    narrow = {"nprobe": 1} if "ivf" in name else {"ef": 1}
    rows, _ = BACKENDS[name](make_table(vectors, "l2"), **narrow).search(queries, 400)
    assert all(len(set(row)) == 400 and min(row) >= 0 for row in rows.tolist())


def planted_norms(kind):
    vectors, queries = clusters(count=4000, num_queries=100, dim=32)
    if kind == "heavy-tailed":
        return vectors * (1 + np.random.default_rng(1).pareto(1.5, size=(4000, 1))), queries
    if kind == "off-centre":
        return vectors - 3, queries
    return np.abs(vectors) * np.random.default_rng(1).lognormal(size=(4000, 1)), -np.abs(queries)


@pytest.mark.parametrize("name", ["hnswlib", "faiss-ivf_flat", "faiss-hnsw"])
@pytest.mark.parametrize("kind", ["heavy-tailed", "off-centre", "all scores negative"])
def test_dot_products_are_found_whatever_the_norms(name, kind):
    vectors, queries = planted_norms(kind)
    assert recall(BACKENDS[name](make_table(vectors)), queries, 10) >= 0.95


@pytest.mark.parametrize(("kind", "at_most"), [("off-centre", 0.7), ("all scores negative", 0.1)])
def test_the_planted_norms_defeat_a_graph_on_raw_products(kind, at_most):
    """So the test above is one: hnswlib's inner-product space, as it comes, on the same vectors."""
    vectors, queries = planted_norms(kind)
    table = make_table(vectors)
    graph = pytest.importorskip("hnswlib").Index("ip", 32)
    graph.init_index(4000, M=16, ef_construction=100, random_seed=0)
    graph.add_items(table.vectors, np.arange(4000), num_threads=1)
    graph.set_ef(200)
    found, _ = graph.knn_query(queries, 10, num_threads=1)
    exact, _ = ExactIndex.build(table).search(queries, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]) <= at_most


def test_a_graph_in_the_order_of_rows_loses_far_points(monkeypatch):
    """So falling norm is needed beside the lift: heavy-tailed norms, rows as they come."""
    vectors, queries = planted_norms("heavy-tailed")
    table = make_table(vectors[np.argsort(np.linalg.norm(vectors, axis=1))])
    by_norm = HNSWIndex.build(table, m=16, ef_construction=100)
    monkeypatch.setattr(lifting.Lift, "by_norm", lambda lift: np.arange(lift.table.count))
    by_row = HNSWIndex.build(table, m=16, ef_construction=100)
    assert recall(by_norm, queries, 10) >= 0.99
    assert recall(by_row, queries, 10) <= 0.8


@pytest.mark.parametrize("with_bias", [False, True])
def test_the_lift_turns_products_into_distances(with_bias):
    """|row - query|^2 = 2 B^2 - 2 B score / |q|, where |q| counts the 1 that a bias multiplies."""
    rng = np.random.default_rng(0)
    vectors, queries = rng.lognormal(size=(50, 6)), rng.normal(size=(7, 6)).astype(np.float32)
    table = make_table(vectors, bias=rng.normal(size=50) if with_bias else None)
    lift = lifting.Lift.of(table)
    rows = lift.rows(slice(0, 50)).astype(np.float64)
    moved = lift.queries(queries).astype(np.float64)
    squares = ((moved[:, None] - rows) ** 2).sum(axis=2)
    length = np.sqrt((queries.astype(np.float64) ** 2).sum(axis=1, keepdims=True) + with_bias)
    bound = np.sqrt((vectors**2).sum(axis=1) + (0 if table.bias is None else table.bias.astype(np.float64) ** 2)).max()
    expected = 2 * bound**2 - 2 * bound * all_scores(table, queries) / length
    np.testing.assert_allclose(squares, expected, rtol=1e-5, atol=1e-5 * bound**2)
    assert lift.dim == 6 + with_bias + 1


def test_equal_norms_need_no_extra_dimension():
    vectors, _ = clusters(count=100)
    table = make_table(vectors, "cos")
    assert lifting.Lift.of(table).dim == 16
    vectors[3] = 0
    table = make_table(vectors, "cos")
    assert lifting.Lift.of(table).dim == 17


def test_what_a_backend_does_not_find_is_found_exactly():
    """The second query gets nothing from this one, the first gets everything."""
    vectors, queries = clusters(count=100, num_queries=2)
    table = make_table(vectors)
    exact = ExactIndex.build(table)

    def propose(part, k):
        rows = exact.search(part, k)[0][:, ::-1].copy()  # in any order
        rows[1, 3:] = -1
        return rows

    found = search_proposed(table, queries, 10, propose=propose, exact=exact.search)
    for got, expected in zip(found, exact.search(queries, 10), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_islands_in_a_graph_leave_no_list_short():
    """Near copies link to each other only, so a search from elsewhere cannot reach them; hnswlib raises."""
    rng = np.random.default_rng(0)
    vectors = np.repeat(10 * rng.normal(size=(3, 4)), 100, axis=0) + 1e-4 * rng.normal(size=(300, 4))
    index = HNSWIndex.build(make_table(vectors, "l2"), m=2, ef_construction=5, ef=1)
    rows, _ = index.search(rng.normal(size=(3, 4)), 299)
    assert all(len(set(row)) == 299 and min(row) >= 0 for row in rows.tolist())


@pytest.mark.parametrize("name", ["hnswlib", "faiss-hnsw"])
@pytest.mark.parametrize("comparator", [*COMPARATORS, "dot with bias"])
def test_a_graph_finds_through_many_equal_rows(name, comparator, tmp_path):
    vectors, queries = clusters(count=2000)
    vectors[::2] = 0
    vectors[1:400:4] = vectors[1]
    bias = np.repeat([0.5, 0.0], 1000) if "bias" in comparator else None
    table = make_table(vectors, comparator.split()[0], bias=bias)
    index = BACKENDS[name](table)
    queries[:5], queries[5:10] = 0, vectors[1]
    assert recall(index, queries, 10) >= 0.95
    assert recall(index, queries, 300) >= 0.95
    rows, scores = index.search(queries, 1500)
    assert all(len(set(row)) == 1500 and min(row) >= 0 for row in rows.tolist())
    np.testing.assert_array_equal(scores, np.take_along_axis(all_scores(table, queries), rows, axis=1))
    loaded = load_index(index.save(tmp_path / "index"), table)
    for got, expected in zip(loaded.search(queries, 10), index.search(queries, 10), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_groups_are_those_of_equal_rows_whatever_the_hashes(monkeypatch):
    table = make_table([[0.0, 1], [2, 0], [-0.0, 1], [0, 1], [2, 0], [5, 5]], bias=[0, 0, 0, 1, 0, 0])
    groups = grouping.Groups.of(table)
    assert (groups.count, groups.first.tolist()) == (4, [0, 1, 0, 3, 1, 5])
    assert groups.firsts_of(np.array([5, 4, 3, 2, 1, 0])).tolist() == [5, 3, 1, 0]
    assert groups.expand(np.array([[1, 0, 5], [5, -1, -1]]), 3).tolist() == [[1, 4, 0], [5, -1, -1]]
    monkeypatch.setattr(grouping, "_hashes", lambda table, rows: np.zeros(6, np.uint64))
    assert grouping.Groups.of(table).first.tolist() == [0, 1, 0, 3, 4, 5]  # collisions stand alone


def test_threads_that_search_one_graph_get_what_they_ask_for(monkeypatch):
    vectors, queries = clusters(count=600)
    index = HNSWIndex.build(make_table(vectors, "l2"), m=16, ef=10, threads=1)
    amounts = [1, 300, 5, 200] * 8
    expected = {k: index.search(queries[:5], k)[0].tolist() for k in set(amounts)}
    graph = index._graph

    class Slow:
        ef = 0

        def set_ef(self, ef):
            graph.set_ef(ef)
            self.ef = ef
            time.sleep(0.001)

        def knn_query(self, vectors, k, num_threads):
            assert self.ef == max(10, k)  # not another search's
            return graph.knn_query(vectors, k, num_threads=num_threads)

    monkeypatch.setattr(index, "_graph", Slow())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: index.search(queries[:5], k)[0].tolist(), amounts))
    assert found == [expected[k] for k in amounts]
    monkeypatch.undo()
    copied = pickle.loads(pickle.dumps(index))
    assert copied.search(queries[:5], 5)[0].tolist() == expected[5]


@every_backend
@pytest.mark.parametrize("strings", [False, True])
def test_an_index_knows_ids_and_bias_of_its_table(build, strings, tmp_path, monkeypatch):
    vectors = clusters(count=100)[0]
    ids = [f"é{number}" for number in range(100)] if strings else list(range(100))
    bias = np.linspace(0, 1, 100, dtype=np.float32)

    def table(ids, bias):
        return EmbeddingTable.from_arrays(ids, vectors, entity="item", version="v1", bias=bias)

    monkeypatch.chdir(tmp_path)
    build(table(ids, bias)).save("index")
    assert len(load_index("index", EmbeddingTable.load(table(ids, bias).save("table"))).table) == 100
    with pytest.raises(VersionError, match="its ids is"):
        load_index("index", table(ids[::-1], bias))
    for other in (bias[::-1], None):
        with pytest.raises(VersionError, match="its bias is"):
            load_index("index", table(ids, other))
    for path in ("s3://bucket/index", Path("s3://bucket/index")):
        with pytest.raises(ConfigError, match="is a URL"):
            load_index(path, table(ids, bias))


@every_backend
def test_same_seed_same_bytes(build, tmp_path):
    vectors, _ = clusters(count=500)
    digests = []
    for run in ("a", "b"):
        build(make_table(vectors)).save(tmp_path / run)
        digests.append(json.loads((tmp_path / run / "index.json").read_bytes())["files"])
    assert digests[0] == digests[1]


@every_backend
@pytest.mark.parametrize("comparator", ["dot", "cos", "l2"])
def test_a_saved_index_finds_the_same(build, comparator, tmp_path):
    vectors, queries = clusters(count=500)
    index = build(make_table(vectors, comparator))
    assert index.save(tmp_path / "index") == tmp_path / "index"
    loaded = load_index(tmp_path / "index", make_table(vectors, comparator))
    assert type(loaded) is type(index)
    assert vars(loaded).keys() == vars(index).keys()
    for got, expected in zip(loaded.search(queries, 10), index.search(queries, 10), strict=True):
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(VersionError, match="exists already"):
        index.save(tmp_path / "index")


def test_the_manifest_says_what_was_built(tmp_path):
    table = make_table(clusters(count=50)[0])
    HNSWIndex.build(table, m=8, ef_construction=20, ef=30, seed=5).save(tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "index.json").read_bytes())
    bound = manifest["parameters"].pop("bound")
    assert bound == pytest.approx(np.linalg.norm(table.vectors, axis=1).max())
    file = tmp_path / "index" / "index.hnsw"
    assert manifest.pop("files")["index.hnsw"]["bytes"] == file.stat().st_size
    assert manifest == {
        "format": "index/1",
        "kind": "hnsw",
        "parameters": {"m": 8, "ef_construction": 20, "seed": 5, "ef": 30, "space": "l2", "appended": True},
        "entity": "item",
        "version": "v1",
        "comparator": "dot",
        "count": 50,
        "dim": 16,
        "bias": None,
        "fingerprint": table.fingerprint,
        "ids": hashlib.sha256(b"int64" + np.arange(50, dtype="<i8").tobytes()).hexdigest(),
    }


@every_backend
def test_an_index_refuses_another_table(build, tmp_path):
    vectors, _ = clusters(count=100)
    build(make_table(vectors)).save(tmp_path / "index")
    other = vectors.copy()
    other[0, 0] += 1
    for table, difference in (
        (make_table(vectors, version="v2"), "its version is 'v1', the table's is 'v2'"),
        (make_table(vectors, "l2"), "its comparator is 'dot', the table's is 'l2'"),
        (make_table(vectors[:-1]), "its count is 100, the table's is 99"),
        (make_table(other), "its fingerprint is"),
    ):
        with pytest.raises(VersionError, match=difference):
            load_index(tmp_path / "index", table)


@pytest.mark.parametrize("name", ["hnswlib", "faiss-ivf_flat", "faiss-hnsw", "faiss-flat"])
def test_damaged_files_are_refused(name, tmp_path):
    table = make_table(clusters(count=100)[0])
    folder = BACKENDS[name](table).save(tmp_path / "index")
    (file,) = (path for path in folder.iterdir() if path.name != "index.json")
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    with pytest.raises(FormatError, match=f"{len(content) - 100} bytes, expected {len(content)}"):
        load_index(folder, table)
    file.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    with pytest.raises(ChecksumError, match="sha256"):
        load_index(folder, table)
    file.unlink()
    with pytest.raises(FormatError, match=r"missing|no such file"):
        load_index(folder, table)


def edit(folder, **changes):
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_unknown_formats_kinds_and_parameters_are_refused(tmp_path):
    table = make_table(np.eye(4))
    folder = FaissIndex.build(table, kind="flat").save(tmp_path / "index")
    with pytest.raises(FormatError, match="kind 'faiss', expected 'hnsw'"):
        HNSWIndex.load(folder, table)
    edit(folder, parameters={"kind": "flat", "seed": 0, "bound": 1.0, "appended": "no"})
    with pytest.raises(FormatError, match="has the parameters"):
        load_index(folder, table)
    edit(folder, parameters={"kind": "ivf_flatt"})
    with pytest.raises(FormatError, match="did you mean 'ivf_flat'"):
        load_index(folder, table)
    edit(folder, files={})
    with pytest.raises(FormatError, match=r"index\.faiss"):
        load_index(folder, table)
    edit(folder, kind="hnws")
    with pytest.raises(FormatError, match="did you mean 'hnsw'"):
        load_index(folder, table)
    edit(folder, format="index/2")
    with pytest.raises(FormatError, match="index/2"):
        load_index(folder, table)
    with pytest.raises(FormatError, match=r"nowhere is not an? index"):
        load_index(tmp_path / "nowhere", table)


def test_settings_are_checked():
    table = make_table(np.eye(4))
    for settings, message in (
        ({"m": 1}, "m is 1, expected an integer of at least 2"),
        ({"seed": -1}, "seed is -1, expected an integer of at least 0"),
        ({"ef": -1}, "ef is -1"),
        ({"ef_construction": 1.5}, "ef_construction is 1.5"),
        ({"threads": 0}, "threads is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            HNSWIndex.build(table, **settings)
    for settings, message in (
        ({"kind": "ivf_flatt"}, "did you mean 'ivf_flat'"),
        ({"kind": "hnsw", "nprobe": 3}, "'hnsw' has no 'nprobe'"),
        ({"kind": "flat", "m": 3}, "'flat' has no 'm'"),
        ({"nlist": 5}, "nlist is 5, expected at most the 4 rows"),
        ({"nprobe": 0}, "nprobe is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            FaissIndex.build(table, **settings)
    for build in (HNSWIndex.build, FaissIndex.build):
        with pytest.raises(DataError, match="'item' table of version 'v1' is empty"):
            build(make_table(np.zeros((0, 4))))


def test_lists_by_default_are_four_roots_but_large_enough_to_train():
    assert FaissIndex.build(make_table(np.eye(4))).settings == {"nlist": 1, "nprobe": 1}
    vectors, _ = clusters(count=3900)
    assert FaissIndex.build(make_table(vectors)).settings == {"nlist": 100, "nprobe": 16}


def test_ef_and_nprobe_trade_time_for_recall_after_the_build():
    vectors, queries = clusters(count=4000, num_queries=100, dim=32)
    table = make_table(np.random.default_rng(0).normal(size=vectors.shape), "l2")
    graph = HNSWIndex.build(table, m=8, ef_construction=40, ef=10)
    low = recall(graph, queries, 10)
    graph.ef = 500
    assert recall(graph, queries, 10) > low + 0.2
    lists = FaissIndex.build(table, nprobe=2)
    low = recall(lists, queries, 10)
    lists.settings["nprobe"] = lists.settings["nlist"]
    assert recall(lists, queries, 10) == 1.0 > low + 0.2


def test_threads_are_faiss_only_during_its_calls():
    vectors, queries = clusters(count=200)
    before = faiss.omp_get_max_threads()
    index = FaissIndex.build(make_table(vectors), threads=before + 3)
    one, many = (FaissIndex.build(make_table(vectors), threads=n).search(queries, 5)[0] for n in (1, 2))
    index.search(queries, 5)
    assert faiss.omp_get_max_threads() == before
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize(
    ("package", "build", "message"),
    [
        ("hnswlib", HNSWIndex.build, r"HNSWIndex needs .*pip install 'recokit\[hnsw\]'.*C\+\+ compiler"),
        ("faiss", FaissIndex.build, r"FaissIndex needs .*pip install 'recokit\[faiss\]'"),
    ],
)
def test_a_missing_package_names_its_pip_line(package, build, message, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=message):
        build(make_table(np.eye(3)))


def test_importing_indexes_imports_no_backend():
    code = "import sys, recokit.candidates; print({'faiss', 'hnswlib', 'torch', 'duckdb'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


class Fixed:
    """An index that returns what it was given."""

    exact = False

    def __init__(self, table, rows):
        self.table, self.rows = table, np.asarray(rows)

    def search(self, vectors, k):
        return self.rows, np.zeros(self.rows.shape, np.float32)


def test_recall_counts_ties_for_the_last_place_and_no_row_twice():
    table = make_table([[4], [3], [2], [2], [2], [1]])
    queries = np.ones((1, 1))
    for rows, expected in (
        ([[0, 1, 2]], 3 / 3),
        ([[4, 0, 1]], 3 / 3),  # row 4 ties with row 2 for the last place
        ([[4, 3, 2]], 1 / 3),  # there is one place to tie for
        ([[0, 0, 0]], 1 / 3),
        ([[0, 1, 5]], 2 / 3),
        ([[0, -1, -1]], 1 / 3),
    ):
        assert recall(Fixed(table, rows), queries, 3) == pytest.approx(expected)
    assert recall(Fixed(table, [[0, 1, 2, 3, 4, 5, -1, -1]]), queries, 8) == 1.0
    assert recall(Fixed(table, [[0, 1], [0, 5]]), np.ones((2, 1)), 2) == (2 / 2 + 1 / 2) / 2
    with pytest.raises(DataError, match="0 queries over 6 rows"):
        recall(Fixed(table, [[0]]), np.zeros((0, 1)), 1)
