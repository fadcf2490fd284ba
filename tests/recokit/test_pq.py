"""Codebooks, codes and what they cost, against faiss's own decoding and brute force."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recokit import EmbeddingTable, Mixture, PQTable, quantize
from recokit.errors import ConfigError, DataError, MissingDependencyError, VersionError
from recokit.index.faiss_library import faiss_threads
from recokit.pq import compression_sweep, plot_sweep
from recokit.pq.codebook import Codebook, encoder, train_codebook
from recokit.pq.encoding import _num_codes
from recokit.pq.sweep import _tied_lists, _Truth

faiss = pytest.importorskip("faiss")

CODECS = ("pq", "opq", "additive")


def clustered(count=1000, dim=8, seed=0):
    """Vectors of 20 clusters, whose numbers are correlated across the parts."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(20, 3))[rng.integers(20, size=count)] + 0.3 * rng.normal(size=(count, 3))
    return (latent @ rng.normal(size=(3, dim)) + 0.05 * rng.normal(size=(count, dim))).astype(np.float32)


def table(vectors=None, comparator="dot", version="v1", **given):
    vectors = clustered() if vectors is None else vectors
    ids = np.arange(len(vectors)) * 10
    return EmbeddingTable.from_arrays(ids, vectors, entity="item", version=version, comparator=comparator, **given)


def squares(vectors):
    return float((vectors.astype(np.float64) ** 2).sum())


def in_faiss(codes: PQTable):
    """Decode with faiss, from our arrays."""
    bits = codes.codebook.shape[1].bit_length() - 1
    packed = faiss.pack_bitstrings(codes.codes.astype(np.int32), bits)
    if codes.codec == "additive":
        quantizer = faiss.ResidualQuantizer(codes.dim, codes.sub_quantizers, bits)
        faiss.copy_array_to_vector(codes.codebook.ravel(), quantizer.codebooks)
        quantizer.is_trained = True
        return quantizer.decode(packed)
    quantizer = faiss.ProductQuantizer(codes.dim, codes.sub_quantizers, bits)
    faiss.copy_array_to_vector(codes.codebook.ravel(), quantizer.centroids)
    decoded = quantizer.decode(packed)
    if codes.rotation is None:
        return decoded
    turn = faiss.LinearTransform(codes.dim, codes.dim, False)
    faiss.copy_array_to_vector(codes.rotation.ravel(), turn.A)
    turn.is_trained = turn.is_orthonormal = True
    return turn.reverse_transform(decoded)


@pytest.mark.parametrize("codec", CODECS)
def test_we_decode_as_faiss_does(codec):
    codes = quantize(table(), 4, codec=codec)
    if codec == "pq":
        np.testing.assert_array_equal(codes.decode(), in_faiss(codes))
    np.testing.assert_allclose(codes.decode(), in_faiss(codes), atol=1e-6)


@pytest.mark.parametrize("width", [4, 8])
def test_pq_is_what_faiss_trains_and_encodes(width):
    vectors = clustered(39 * 16, 2 * width)
    theirs = faiss.ProductQuantizer(2 * width, 2, 4)
    theirs.cp.seed = 7
    theirs.train(vectors)
    ours = quantize(table(vectors), 2, seed=7)
    centroids = faiss.vector_to_array(theirs.centroids).reshape(2, 16, width)
    np.testing.assert_allclose(ours.codebook, centroids, atol=0 if width == 8 else 1e-5)
    np.testing.assert_array_equal(ours.codes, faiss.unpack_bitstrings(theirs.compute_codes(vectors), 2, 4))


@pytest.mark.parametrize("codec", ["pq", "opq"])
def test_each_part_has_the_byte_of_its_nearest_centroid(codec):
    vectors = clustered(300)
    codes = quantize(table(vectors), 4, codec=codec)
    turned = vectors.astype(np.float64) if codec == "pq" else vectors @ codes.rotation.T.astype(np.float64)
    parts = turned.reshape(300, 4, 1, 2)
    distances = ((parts - codes.codebook) ** 2).sum(axis=3)  # (N, M, K)
    chosen = np.take_along_axis(distances, codes.codes[..., None].astype(np.int64), axis=2)[..., 0]
    np.testing.assert_allclose(chosen, distances.min(axis=2), atol=1e-5)


def test_a_rotation_is_orthonormal_and_lessens_the_error():
    vectors = clustered(2000, 16)
    pq, opq = (quantize(table(vectors), 4, codec=codec) for codec in ("pq", "opq"))
    np.testing.assert_allclose(opq.rotation @ opq.rotation.T, np.eye(16), atol=1e-5)
    assert squares(opq.decode() - vectors) < 0.5 * squares(pq.decode() - vectors)


def test_a_beam_finds_better_sums_than_one_centroid_after_the_other():
    vectors = clustered(2000, 16)
    codes = quantize(table(vectors), 4, codec="additive")
    left = vectors.astype(np.float64)
    for part in codes.codebook.astype(np.float64):
        nearest = ((left[:, None] - part) ** 2).sum(axis=2).argmin(axis=1)
        left = left - part[nearest]
    assert squares(codes.decode() - vectors) < 0.97 * squares(left)
    assert squares(codes.decode() - vectors) < 0.5 * squares(quantize(table(vectors), 4).decode() - vectors)


@pytest.mark.parametrize("codec", CODECS)
def test_planted_centroids_decode_to_the_vectors(codec):
    """16 x 16 combinations of centroids, far apart: nothing is lost."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(16, 4)) * 100, rng.normal(size=(16, 4))
    vectors = np.array([[*a, *b] for a in first for b in second], np.float32)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    centroids = np.stack([first, second]).astype(np.float32)
    if codec == "additive":
        wide = np.zeros((2, 16, 8), np.float32)
        wide[0, :, :4], wide[1, :, 4:] = first, second
        book = Codebook("additive", wide)
    else:
        book = Codebook(codec, centroids, turn if codec == "opq" else None)
    given = vectors @ turn if codec == "opq" else vectors
    codes = encoder(book)(given)
    np.testing.assert_array_equal(codes, [[a, b] for a in range(16) for b in range(16)])
    made = PQTable.from_blocks(table(given), [codes], book.centroids, codec=codec, rotation=book.rotation)
    np.testing.assert_allclose(made.decode(), given, atol=1e-3)


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_seed_gives_the_same_bytes_with_any_number_of_threads(codec, monkeypatch):
    monkeypatch.setattr("recokit.pq.codebook._BLOCK_BYTES", 1)  # 256 rows a block: four blocks
    source = table(clustered(900, 32))
    first, again = (quantize(source, 4, codec=codec, seed=3, threads=threads) for threads in (1, 3))
    assert first.fingerprint == again.fingerprint
    assert first.meta == again.meta
    assert quantize(source, 4, codec=codec, seed=4).fingerprint != first.fingerprint


@pytest.mark.parametrize("codec", CODECS)
def test_faiss_works_in_one_thread_of_its_own(codec, monkeypatch):
    """With two, OPQ's rotation has other bytes: BLAS cuts its sums elsewhere."""
    asked = set()

    @contextmanager
    def noted(library, number):
        asked.add(number)
        with faiss_threads(library, number):
            yield

    monkeypatch.setattr("recokit.pq.codebook.faiss_threads", noted)
    quantize(table(), 4, codec=codec, threads=3)
    assert asked == {1}


def test_rows_to_train_on_are_drawn_from_all_of_them():
    vectors = clustered(1200)
    vectors[:600] = 0
    codes = quantize(table(vectors), 4, train_rows=600)
    assert squares(codes.decode() - vectors) < 0.1 * squares(vectors)
    assert quantize(table(vectors), 4, train_rows=1200).fingerprint == quantize(table(vectors), 4).fingerprint


def test_blocks_say_how_far_it_is_and_faiss_keeps_its_threads(monkeypatch):
    monkeypatch.setattr("recokit.pq.codebook._BLOCK_BYTES", 1)
    said, before = [], faiss.omp_get_max_threads()
    codes = quantize(table(clustered(600)), 4, threads=2, progress=lambda done, of: said.append((done, of)))
    assert said == [(0, 600), (256, 600), (512, 600), (600, 600)]
    assert faiss.omp_get_max_threads() == before
    np.testing.assert_array_equal(codes.codes, quantize(table(clustered(600)), 4).codes)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(16, 16), (39 * 16, 16), (39 * 32 - 1, 16), (39 * 32, 32), (39 * 256 - 1, 128), (39 * 256, 256), (10**6, 256)],
)
def test_a_centroid_has_39_rows_where_there_are_that_many(rows, expected):
    assert _num_codes(rows) == expected


@pytest.mark.parametrize("codec", CODECS)
def test_few_rows_get_few_centroids_and_faiss_does_not_complain(codec, capfd):
    codes = quantize(table(clustered(16)), 2, codec=codec)
    assert codes.codebook.shape[1] == 16
    assert codes.codes.max() < 16
    assert squares(codes.decode() - clustered(16)) < 1e-3 * squares(clustered(16))  # a centroid for each row
    assert capfd.readouterr() == ("", "")


def test_meta_says_what_was_done_and_keeps_what_the_table_said():
    source = table(clustered(2000), meta={"edge_sketches": []})
    said = quantize(source, 4, codec="additive", seed=5, train_rows=1500).meta
    assert said == {
        "edge_sketches": [],
        "quantization": {
            "codec": "additive", "seed": 5, "train_rows": 1500, "normalize": False, "beam": 8,
            "source_sha256": source.fingerprint,
        },
    }  # fmt: skip


def test_under_cos_rows_are_brought_to_unit_length():
    vectors = clustered() * np.float32(2) ** (np.arange(1000) % 20)[:, None].astype(
        np.float32
    )  # exactly: the same directions
    units = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    codes = quantize(table(vectors, "cos"), 4)
    assert codes.meta["quantization"]["normalize"] is True
    assert codes.comparator == "cos"
    assert codes.fingerprint == quantize(table(clustered(), "cos"), 4).fingerprint
    assert squares(codes.decode() - units) < 0.2 * squares(units)
    raw = quantize(table(vectors, "cos"), 4, normalize=False)
    assert raw.fingerprint == quantize(table(vectors, "dot"), 4).fingerprint


def test_a_zero_vector_stays_zero_before_it_is_encoded():
    vectors = clustered(200)
    vectors[::2] = 0  # half the rows: a centroid of each part is zero
    codes = quantize(table(vectors, "cos"), 2)
    np.testing.assert_allclose(codes.decode()[::2], 0, atol=1e-6)


def test_half_precision_is_encoded_as_what_it_stands_for():
    half = clustered().astype(np.float16)
    assert quantize(table(half), 4).fingerprint == quantize(table(half.astype(np.float32)), 4).fingerprint


@pytest.mark.parametrize("codec", CODECS)
def test_a_new_version_may_keep_the_codebook(codec):
    old = quantize(table(comparator="cos"), 4, codec=codec)
    moved = table(clustered() + np.float32(0.01), "dot", "v2")
    new = quantize(moved, codebook=old)
    assert (new.version, new.comparator, new.codec) == ("v2", "dot", codec)
    assert new.codebook_sha256 == old.codebook_sha256
    assert new.meta["quantization"]["codebook_of"] == "v1"
    assert new.meta["quantization"]["codebook_sha256"] == old.codebook_sha256
    assert new.meta["quantization"]["normalize"] is True  # as the old rows were
    same = quantize(table(comparator="cos"), 4, codec=codec, codebook=old, seed=99)
    np.testing.assert_array_equal(same.codes, old.codes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"codec": "opq"}, "has the codec 'pq', expected 'opq'"),
        ({"sub_quantizers": 2}, "has the sub_quantizers 4, expected 2"),
        ({"table": table(clustered(dim=12))}, "has the dim 8, expected 12"),
        ({"normalize": True}, "was trained with normalize=False, expected True"),
    ],
)
def test_another_codebook_than_asked_for_is_refused(given, message):
    codebook = quantize(table(), 4)
    with pytest.raises(ConfigError, match=message):
        quantize(**({"table": table(), "codebook": codebook} | given))


def test_codes_go_straight_to_disk(tmp_path):
    in_memory, on_disk = quantize(table(), 4), quantize(table(), 4, path=tmp_path / "codes")
    assert on_disk.path == tmp_path / "codes"
    assert (on_disk.fingerprint, on_disk.meta) == (in_memory.fingerprint, in_memory.meta)
    assert PQTable.load(tmp_path / "codes", verify=True).ids.to_pylist()[:3] == [0, 10, 20]
    with pytest.raises(VersionError, match="exists already"):
        quantize(table(), 4, path=tmp_path / "codes")


def test_what_breaks_off_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("recokit.pq.codebook._BLOCK_BYTES", 1)

    def stop(done, of):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(table(), 4, path=tmp_path / "codes", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_vector_that_is_not_finite_is_named(tmp_path):
    folder = table(clustered(300)).save(tmp_path / "t")
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", mode="r+")
    vectors[123, 2] = np.nan
    vectors.flush()
    with pytest.raises(DataError, match="NaN or infinity, first in row 123"):
        quantize(EmbeddingTable.load(folder), 4)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"sub_quantizers": 3}, ConfigError, "3 sub_quantizers do not divide the dim 8; take 2 or 4"),
        ({"sub_quantizers": 5, "codec": "opq"}, ConfigError, "take 4 or 8, or the codec 'additive'"),
        ({"sub_quantizers": 0}, ConfigError, "from 1 to the dim, 8"),
        ({"sub_quantizers": 9, "codec": "additive"}, ConfigError, "from 1 to the dim, 8"),
        ({"sub_quantizers": 2.0}, ConfigError, "sub_quantizers is 2.0"),
        ({"codec": "rq"}, ConfigError, "codec 'rq' does not exist"),
        ({"train_rows": 0}, ConfigError, "train_rows is 0"),
        ({"train_rows": 15}, DataError, "has 1000 rows, of which 15"),
        ({"threads": 0}, ConfigError, "threads is 0"),
        ({"table": table(clustered(15))}, DataError, "has 15 rows, of which 15"),
        ({"table": quantize(table(), 2)}, ConfigError, "quantize: .* holds codes"),
        ({"table": Mixture.from_rows([1], np.array([[0]]), components=table(), entity="u")}, ConfigError, "mixture"),
    ],
)
def test_what_cannot_be_encoded_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        quantize(**({"table": table(), "sub_quantizers": 2} | given))


def test_without_faiss_the_error_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=re.escape("pip install 'recokit[faiss]'")):
        quantize(table(), 2)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(CODECS), st.integers(1, 3), st.integers(1, 4), st.integers(16, 700), st.integers(0, 2**31 - 1))
def test_whatever_is_encoded_decodes_no_worse_than_the_mean(codec, parts, width, count, seed):
    """k-means with 16 centroids or more leaves less than the variance; a byte never points past the codebook."""
    vectors = np.random.default_rng(seed).normal(3, 1, size=(count, parts * width)).astype(np.float32)
    codes = quantize(table(vectors), parts, codec=codec, seed=seed, threads=1)
    assert codes.codes.shape == (count, parts)
    assert codes.codes.max() < codes.codebook.shape[1]
    assert squares(codes.decode() - vectors) <= squares(vectors - vectors.mean(axis=0)) * 1.0001


@pytest.mark.parametrize("codec", CODECS)
def test_rows_that_are_all_the_same_decode_to_it(codec):
    codes = quantize(table(np.full((100, 8), 2.5, np.float32)), 2, codec=codec)
    np.testing.assert_allclose(codes.decode(), 2.5, atol=1e-3)


def test_fewer_rows_than_dimensions_have_a_rotation_too():
    vectors = clustered(20, 64)
    codes = quantize(table(vectors), 4, codec="opq")
    np.testing.assert_allclose(codes.rotation @ codes.rotation.T, np.eye(64), atol=1e-4)
    assert squares(codes.decode() - vectors) < 0.2 * squares(vectors)


def test_num_codes_of_a_codebook_that_faiss_cannot_encode_with_are_refused():
    with pytest.raises(ConfigError, match="3 centroids a sub-quantizer"):
        encoder(Codebook("pq", np.zeros((2, 3, 4), np.float32)))
    assert train_codebook(clustered(), 2, codec="pq", num_codes=4, seed=0).centroids.shape == (2, 4, 4)


# The sweep.


def brute_recall(exact, decoded, rows, k, comparator):
    """Share of the k best others that are kept, without ties, in plain NumPy."""

    def best(vectors, row):
        x = vectors.astype(np.float64)
        if comparator == "cos":
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
        scores = -((x - x[row]) ** 2).sum(axis=1) if comparator == "l2" else x @ x[row]
        scores[row] = -np.inf
        return set(np.argsort(-scores)[:k].tolist())

    return np.array([len(best(exact, row) & best(decoded, row)) / k for row in rows])


@pytest.mark.parametrize("comparator", ["dot", "cos", "l2"])
def test_recall_is_that_of_brute_force(comparator):
    exact = clustered(200)
    decoded = exact + np.random.default_rng(1).normal(0, 0.3, exact.shape).astype(np.float32)
    truth = _Truth.of(table(exact, comparator), 50, 5, seed=0)
    assert len(set(truth.rows.tolist())) == 50
    expected = brute_recall(exact, decoded, truth.rows, 5, comparator)
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_allclose(truth.recall(table(decoded, comparator)), expected)


def test_ties_count_by_their_chance():
    # From row 0: scores 3, 2, 1, 1, 1, 0; k = 3 takes the first two and any one of the next three.
    exact = np.array([[1, 0], [3, 0], [2, 0], [1, 1], [1, 2], [1, 3], [0, 0]], np.float32)
    truth = _Truth.of(table(exact), 7, 3, seed=0)
    assert truth.recall(table(exact))[0] == 1.0
    # Decoded, row 1 is first, and rows 2 and 6 tie with 3, 4 and 5 for the two places behind it.
    decoded = np.array([[1, 0], [9, 0], [1, 0], [1, 1], [1, 2], [1, 3], [1, 0]], np.float32)
    # Row 1 is a hit; a place has 2/5 of row 2, and 3 * 2/5 of the three of which one is needed: at most 1.
    assert truth.recall(table(decoded))[0] == pytest.approx((1 + 2 / 5 + 1) / 3)
    # Everything ties: 3 of 6 places; 2 of the needed rows at 1/2 each, and the third, at most 1, at 3/2.
    assert truth.recall(table(np.ones_like(decoded)))[0] == pytest.approx((2 / 2 + 1) / 3)


def test_lists_go_on_until_nothing_ties(monkeypatch):
    monkeypatch.setattr("recokit.pq.sweep._SCORES", 100)  # queries in several parts
    vectors = np.repeat(np.arange(1, 6, dtype=np.float32), [1, 1, 1, 30, 67])[:, None]
    tied = table(vectors)
    lists = {
        int(at): (rows, scores)
        for ats, *found in _tied_lists(tied, np.arange(100), 2)
        for at, rows, scores in zip(ats, *found, strict=True)
    }
    assert sorted(lists) == list(range(100))
    rows, scores = lists[0]
    assert set(range(33, 100)) <= set(rows.tolist())  # all 67 of the best score
    assert 0 not in rows
    assert scores[66] == 5.0


def test_a_sweep_reports_true_factors_errors_and_recall():
    source = table(clustered(600), "cos", meta={})
    seen = []
    report = compression_sweep(
        source, (2, 4), ("pq", "opq"), queries=100, k=5, seed=1, threads=1, progress=lambda *at: seen.append(at)
    )
    names = ["float16", "int8", "pq 2 bytes", "pq 4 bytes", "opq 2 bytes", "opq 4 bytes"]
    assert list(dict.fromkeys(result.name for result in report.results)) == names
    assert seen == [(done, 6) for done in range(1, 7)]
    assert report.value("compression", name="float16") == 2
    assert report.value("compression", name="int8") == 4 * 8 / (8 + 4)
    raw = 600 * 8 * 4
    assert report.value("compression", name="pq 4 bytes") == raw / (600 * 4 + 16 * 8 * 4)
    assert report.value("compression", name="opq 2 bytes") == raw / (600 * 2 + 16 * 8 * 4 + 8 * 8 * 4)
    units = source.vectors / np.linalg.norm(source.vectors, axis=1, keepdims=True)
    for size in (2, 4):
        decoded = quantize(source, size, seed=1).decode()
        error = squares(decoded - units) / squares(units)
        assert report.value("relative_squared_error", name=f"pq {size} bytes") == pytest.approx(error, rel=1e-5)
        truth = _Truth.of(source, 100, 5, seed=1)
        recall = report.value("neighbor_recall@5", name=f"pq {size} bytes")
        assert recall == pytest.approx(truth.recall(table(decoded, "cos")).mean())
    assert report.value("relative_squared_error", name="int8") == pytest.approx(
        squares(np.rint(units / (m := np.abs(units).max(1, keepdims=True)) * 127) * m / 127 - units) / 600, rel=1e-3
    )
    assert report.value("neighbor_recall@5", name="float16") > 0.98
    [row] = [r for r in report.results if (r.name, r.metric) == ("opq 4 bytes", "neighbor_recall@5")]
    assert (row.n, row.seed) == (100, 1)
    assert row.low < row.value < row.high


def test_neighbours_of_a_biased_table_follow_its_bias():
    vectors, bias = clustered(100), np.zeros(100, np.float32)
    bias[:6] = 1000  # everybody's nearest
    report = compression_sweep(table(vectors, bias=bias), (2,), ("pq",), queries=50, k=5, references=False)
    assert report.value("neighbor_recall@5") > 0.9


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"sub_quantizers": (2, 3)}, ConfigError, "do not divide the dim 8"),
        ({"codecs": ("pq", "opc")}, ConfigError, "did you mean 'opq'"),
        ({"codecs": ()}, ConfigError, "nothing to measure"),
        ({"queries": 0}, ConfigError, "queries is 0"),
        ({"k": 0}, ConfigError, "k is 0"),
        ({"table": table(clustered(1))}, DataError, "needs another"),
    ],
)
def test_a_sweep_refuses_before_it_trains(given, error, message, monkeypatch):
    monkeypatch.setattr("recokit.pq.sweep.quantize", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(error, match=message):
        compression_sweep(**({"table": table(), "sub_quantizers": (2,), "references": False} | given))


def test_the_figure_is_drawn_or_names_what_it_needs(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    report = compression_sweep(table(), (2, 4), ("pq",), queries=20, threads=1)
    assert "<svg" in plot_sweep(report, tmp_path / "figures" / "f.svg").read_text()
    with pytest.raises(DataError, match="no metric 'compression'"):
        plot_sweep(type(report)([r for r in report.results if r.metric.startswith("neigh")], {}), tmp_path / "g.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=re.escape("pip install 'recokit[examples]'")):
        plot_sweep(report, tmp_path / "g.png")


_STREAM = """
import resource, sys
import numpy as np
from recokit import EmbeddingTable, quantize
from recokit.index.faiss_library import faiss_for

faiss_for("this")
folder, out = sys.argv[1:]
table = EmbeddingTable.load(folder)
kib = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
cap = kib * 1024 + table.vectors.nbytes // 2
resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
try:
    np.array(table.vectors)
except MemoryError:
    codes = quantize(table, 16, codec="opq", path=out, train_rows=5000, threads=2)
    print("encoded", codes.count)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts memory mappings on Linux alone")
def test_a_table_larger_than_memory_is_encoded(tmp_path):
    """1 GiB of vectors, in a process that may take half of that."""
    count, dim = 1 << 20, 256
    folder = table(clustered(16, dim)).save(tmp_path / "t")
    rng = np.random.default_rng(0)
    vectors = np.lib.format.open_memmap(tmp_path / "v.npy", mode="w+", dtype=np.float32, shape=(count, dim))
    for start in range(0, count, 1 << 16):
        vectors[start : start + (1 << 12)] = rng.normal(size=(1 << 12, dim))  # the rest is zeros
    vectors.flush()
    EmbeddingTable.from_arrays(np.arange(count), vectors, entity="e", version="v").save(folder.with_name("big"))
    done = subprocess.run(
        [sys.executable, "-c", _STREAM, folder.with_name("big"), tmp_path / "codes"],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"encoded {count}\n", "")
