"""Drift between versions against loops in float64: deviations, rotations, neighbours, mixtures, relations."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg

from recokit import EmbeddingTable, Mixture, PQTable, open_version, write_version
from recokit.drift import Bounds, measure_drift
from recokit.drift.common import TablePair, tenths_of
from recokit.drift.deviation import fit_rotation, residuals
from recokit.errors import ConfigError, DataError
from recokit.table import RelationParameters

COUNT, DIM = 300, 6
RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(COUNT, DIM)).astype(np.float32)
DEGREES = RANDOM.geometric(0.15, COUNT)  # 1 to about 30, with many equal ones
ROTATION = np.linalg.qr(RANDOM.normal(size=(DIM, DIM)))[0].astype(np.float32)


def table(vectors, *, version, ids=None, entity="user", comparator="dot", bias=None):
    ids = [f"u{i}" for i in range(len(vectors))] if ids is None else ids
    made = np.ascontiguousarray(vectors, np.float32)
    return EmbeddingTable.from_arrays(ids, made, entity=entity, version=version, comparator=comparator, bias=bias)


@pytest.fixture
def versions(tmp_path):
    """Two versions of one table: VECTORS, with degrees, and what is given."""

    def make(vectors, *, ids=None, comparator="dot", new_comparator=None):
        first = table(VECTORS, version="a", comparator=comparator)
        second = table(vectors, version="b", ids=ids, comparator=new_comparator or comparator)
        old = write_version(tmp_path / "a", {"user": first}, state={"degrees-user": DEGREES})
        return old, write_version(tmp_path / "b", {"user": second}, parent="a")

    return make


def nearest(vectors, k, comparator):
    """Every row's best k others, in float64."""
    if comparator == "l2":
        scores = -np.linalg.norm(vectors[:, None] - vectors, axis=2)
    else:
        rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if comparator == "cos" else vectors
        scores = rows @ rows.T
    np.fill_diagonal(scores, -np.inf)
    return [set(row[:k].tolist()) for row in np.argsort(-scores, axis=1)]


def dot(a, b):
    return float(np.dot(a.astype(np.float64), b.astype(np.float64)))


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def test_a_copy_has_not_drifted_whatever_the_order_of_its_rows(versions):
    order = np.random.default_rng(1).permutation(COUNT)
    report = measure_drift(*versions(VECTORS[order], ids=[f"u{i}" for i in order]), sample=COUNT)
    for name, value in (("l2", 0), ("relative l2", 0), ("relative l2 p95", 0), ("cosine", 1), ("cosine p5", 1)):
        assert report.value(name) == value
    assert report.value("overlap@10") == 1.0
    assert report.value("unrotated residual") == 0.0
    assert report.value("procrustes residual") < 1e-12
    assert [report.value(name) for name in ("ids kept", "ids added", "ids removed")] == [COUNT, 0, 0]


def test_deviations_are_those_of_a_loop(versions):
    changed = VECTORS + 0.3 * np.random.default_rng(2).normal(size=VECTORS.shape).astype(np.float32)
    report = measure_drift(*versions(changed), sample=20)
    pairs = [(v.astype(np.float64), w.astype(np.float64)) for v, w in zip(VECTORS, changed, strict=True)]
    moved = [math.sqrt(sum((a - b) ** 2 for a, b in zip(v, w, strict=True))) for v, w in pairs]
    relative = [m / math.sqrt(sum(a * a for a in v)) for m, (v, _) in zip(moved, pairs, strict=True)]
    angles = [cosine(v, w) for v, w in pairs]
    for metric, values in (("l2", moved), ("relative l2", relative), ("cosine", angles)):
        ordered = sorted(values)
        assert report.value(metric) == pytest.approx((ordered[149] + ordered[150]) / 2)
        assert report.value(f"{metric} mean") == pytest.approx(sum(values) / COUNT)
        for percent in (5, 95):
            place = percent / 100 * (COUNT - 1)
            low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
            expected = low + (place - math.floor(place)) * (high - low)
            assert report.value(f"{metric} p{percent}") == pytest.approx(expected)


def test_noise_of_a_known_size_is_found(versions):
    noise = np.random.default_rng(3).normal(size=VECTORS.shape)
    noise *= 0.25 * np.linalg.norm(VECTORS, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    report = measure_drift(*versions(VECTORS + noise), sample=20)
    for metric in ("relative l2", "relative l2 p5", "relative l2 p95"):
        assert report.value(metric) == pytest.approx(0.25, rel=1e-5)


def test_a_rotated_copy_moved_far_and_means_the_same(versions):
    report = measure_drift(*versions(VECTORS @ ROTATION), sample=COUNT)
    assert report.value("relative l2") > 0.5
    assert report.value("unrotated residual") > 0.5
    assert report.value("procrustes residual") < 1e-6
    assert report.value("procrustes cosine") == pytest.approx(1.0)
    assert report.value("overlap@10") > 0.995  # float32 may turn a pair of near ties


def test_a_shuffled_copy_is_another_one(versions):
    report = measure_drift(*versions(np.random.default_rng(4).permutation(VECTORS)), sample=COUNT)
    row = next(r for r in report.results if r.metric == "overlap@10" and r.group is None)
    assert row.value == pytest.approx(10 / (COUNT - 1), abs=0.02)
    assert row.low < row.value < row.high
    assert row.n == COUNT
    assert report.value("procrustes residual") > 0.9
    assert report.value("cosine") == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize("comparator", ["dot", "l2"])
def test_the_rotation_is_scipys_and_is_judged_on_ids_that_it_has_not_seen(versions, comparator):
    changed = VECTORS @ ROTATION + 0.2 * np.random.default_rng(5).normal(size=VECTORS.shape) + 3.0
    old, new = versions(changed.astype(np.float32), comparator=comparator)
    rows = np.arange(COUNT)
    pair = TablePair("user", old.table("user"), new.table("user"), rows, rows)
    rotation = fit_rotation(pair, seed=7)
    fitted = rotation.fitted
    assert fitted.sum() == COUNT // 2
    v, w = (each.table("user").vectors.astype(np.float64) for each in (old, new))
    plain = v - w
    if comparator == "l2":  # distances do not know where the origin is
        v, w = v - v[fitted].mean(axis=0), w - w[fitted].mean(axis=0)
    expected, _ = scipy.linalg.orthogonal_procrustes(v[fitted], w[fitted])
    np.testing.assert_allclose(rotation.matrix, expected, atol=1e-9)
    np.testing.assert_allclose(rotation.matrix @ rotation.matrix.T, np.eye(DIM), atol=1e-12)
    left = residuals(pair, rotation)
    assert np.isnan(left.rotated[fitted]).all()
    np.testing.assert_allclose(left.rotated[~fitted], ((v @ expected - w)[~fitted] ** 2).sum(axis=1))
    report = measure_drift(old, new, seed=7, sample=5)
    size = np.linalg.norm(w[~fitted])
    assert report.value("procrustes residual") == pytest.approx(np.linalg.norm((v @ expected - w)[~fitted]) / size)
    assert report.value("unrotated residual") == pytest.approx(np.linalg.norm(plain[~fitted]) / size)
    said = next(r for r in report.results if r.metric == "procrustes residual").protocol
    assert ("centred" in said["rotation"]) == (comparator == "l2")


def test_unrelated_vectors_of_many_dimensions_are_not_called_a_rotation(tmp_path):
    first, second = np.random.default_rng(6).normal(size=(2, 28, 12)).astype(np.float32)
    for name, vectors in (("a", first), ("b", second)):
        write_version(tmp_path / name, {"user": table(vectors, version=name)})
    report = measure_drift(open_version(tmp_path / "a"), open_version(tmp_path / "b"))
    # 14 ids fix 12 dimensions nearly perfectly; the other 14 show that it means nothing.
    assert report.value("procrustes residual") > 0.8
    assert "degrees" in report.results[0].protocol


@pytest.mark.parametrize(("count", "rotated"), [(12, False), (64, False), (65, True)])
def test_few_ids_have_no_rotation_and_no_tenths(tmp_path, count, rotated):
    """Of 12 ids, 6 leave most turns of 32 dimensions open: a version would be far from itself."""
    made = table(np.random.default_rng(8).normal(size=(count, 32)), version="a")
    old = write_version(tmp_path / "a", {"user": made}, state={"degrees-user": DEGREES[:count]})
    report = measure_drift(old, old, k=3)
    residuals_of = [row.value for row in report.results if row.metric == "procrustes residual"]
    assert residuals_of == ([pytest.approx(0, abs=1e-6)] if rotated else [])
    assert {row.group for row in report.results} == {None}
    said = report.results[0].protocol
    assert said["degrees"] == f"{count} common ids are too few for tenths, which take 100"
    why = f"{count} common ids do not determine a rotation of 32 dimensions"
    assert said.get("no rotation") == (None if rotated else why)
    assert Bounds(max_relative_l2=0.1).exceeded(report) == []
    if rotated:
        assert Bounds(max_residual=0.1).exceeded(report) == []
    else:
        with pytest.raises(ConfigError, match=f"nothing that it bounds was measured: {why}"):
            Bounds(max_residual=0.1).exceeded(report)


@pytest.mark.parametrize("comparator", ["dot", "cos", "l2"])
def test_neighbours_kept_are_those_of_a_loop(versions, comparator):
    changed = VECTORS + 0.4 * np.random.default_rng(8).normal(size=VECTORS.shape).astype(np.float32)
    # The new version lacks some ids and has others: neither is a neighbour.
    there = np.arange(20, COUNT)
    ids = [f"u{i}" for i in there] + ["new-1", "new-2"]
    vectors = np.concatenate([changed[there], 5 * VECTORS[:2]])
    report = measure_drift(*versions(vectors, ids=ids, comparator=comparator), k=4, sample=COUNT)
    lists = [nearest(x.astype(np.float64), 4, comparator) for x in (VECTORS[there], changed[there])]
    shares = [len(before & after) / 4 for before, after in zip(*lists, strict=True)]
    assert report.value("overlap@4") == pytest.approx(sum(shares) / len(shares))
    counts = {name: report.value(name) for name in ("ids kept", "ids added", "ids removed")}
    assert counts == {"ids kept": 280, "ids added": 2, "ids removed": 20}
    assert report.value("added share") == 2 / 282
    assert report.value("removed share") == 20 / 300


def test_ties_for_the_last_place_are_no_drift(tmp_path):
    # Everybody is everybody's equal neighbour, and rows stand in another order.
    vectors = np.ones((30, 2), np.float32)
    for name, order in (("a", np.arange(30)), ("b", np.arange(30)[::-1])):
        write_version(tmp_path / name, {"user": table(vectors, version=name, ids=order)})
    assert measure_drift(open_version(tmp_path / "a"), open_version(tmp_path / "b")).value("overlap@10") == 1.0


def test_tenths_hold_everybody_once_and_never_part_equal_degrees():
    tenths = tenths_of(DEGREES.astype(np.float64))
    assert sorted(np.concatenate([tenth.members for tenth in tenths]).tolist()) == list(range(COUNT))
    ranges = [(tenth.low, tenth.high) for tenth in tenths]
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(ranges))
    assert [tenth.number for tenth in tenths] == sorted({tenth.number for tenth in tenths})
    apart = tenths_of(np.random.default_rng(0).permutation(200).astype(np.float64))
    assert [len(tenth.members) for tenth in apart] == [20] * 10
    assert [apart[0].label, apart[9].label, apart[0].median] == ["degree 0 to 19", "degree 180 to 199", 9.5]
    assert [tenth.label for tenth in tenths_of(np.full(7, 3.0))] == ["degree 3"]


def test_rows_by_degree_are_those_of_their_members(versions):
    changed = VECTORS * (1 + 1 / DEGREES[:, None])  # the fewer edges, the further
    report = measure_drift(*versions(changed), sample=COUNT)
    rows = [row for row in report.results if row.metric == "relative l2" and row.group is not None]
    assert [row.protocol["tenth"] for row in rows] == sorted(row.protocol["tenth"] for row in rows)
    assert sum(row.n for row in rows) == COUNT
    for row in rows:
        said = row.protocol
        inside = (said["degree_low"] <= DEGREES) & (said["degree_high"] >= DEGREES)
        assert row.n == inside.sum()
        assert said["degree_median"] == np.median(DEGREES[inside])
        assert row.value == pytest.approx(np.median(1 / DEGREES[inside]), rel=1e-5)
        assert said["entity"] == "user"
    for metric in ("overlap@10", "procrustes residual"):
        parts = [row for row in report.results if row.metric == metric and row.group is not None]
        whole = next(row for row in report.results if row.metric == metric and row.group is None)
        assert sum(row.n for row in parts) == whole.n
        if metric == "overlap@10":
            assert sum(row.n * row.value for row in parts) / whole.n == pytest.approx(whole.value)


def test_degrees_follow_the_table_that_was_trained(tmp_path):
    """A network's table has a state of its own, and codes of it take its degrees by id."""
    order = np.random.default_rng(9).permutation(COUNT)
    book = np.tile(np.arange(1, 65, dtype=np.float32)[:, None], (2, 1, 3))  # code c is (c + 1, c + 1, c + 1)
    opened = []
    for name, moved in (("a", 0), ("b", DEGREES[order])):
        codes = np.zeros((COUNT, 2), np.uint8)
        codes[:, 0] = moved
        coded = PQTable.from_arrays([f"u{i}" for i in order], codes, book, entity="user", version=name)
        tables = {"user-follow": table(VECTORS, version=name), "user-pq": coded}
        networks = {"user-follow": "follow", "user-pq": "follow"}
        state = {"degrees-user-follow": DEGREES}
        opened.append(write_version(tmp_path / name, tables, networks=networks, state=state))
    report = measure_drift(*opened, sample=10)
    rows = [row for row in report.results if row.name == "user-pq" and row.metric == "relative l2" and row.group]
    assert len(rows) > 5
    assert [row.value for row in rows] == pytest.approx([row.protocol["degree_median"] / 2**0.5 for row in rows])
    groups = {row.group for row in report.results if row.name == "user-follow" and row.metric == "relative l2"}
    assert groups == {None, *(row.group for row in rows)}


def test_zeros_have_no_angle_and_nothing_is_relative_to_them(tmp_path):
    vectors = np.array([[0, 0], [3, 4], [1, 0], [0, 2]], np.float32)
    for name, shift in (("a", 0), ("b", 1)):
        moved = vectors + np.float32(shift) * np.array([0, 1], np.float32)
        write_version(tmp_path / name, {"user": table(moved, version=name)})
    report = measure_drift(open_version(tmp_path / "a"), open_version(tmp_path / "b"))
    rows = {row.metric: row for row in report.results}
    assert (rows["l2"].value, rows["l2"].n) == (1.0, 4)
    assert (rows["relative l2"].value, rows["relative l2"].n) == (0.5, 3)  # of .2, 1 and .5
    assert rows["cosine"].n == 3


def test_codes_are_decoded_and_their_codebooks_compared(tmp_path):
    rng = np.random.default_rng(10)
    codes = rng.integers(0, 8, (40, 2), dtype=np.uint8)
    books = [rng.normal(size=(2, 8, 3)).astype(np.float32)]
    books.append(books[0] + np.float32(0.1))
    opened = {}
    for name, book in (("a", books[0]), ("b", books[0]), ("c", books[1])):
        made = PQTable.from_arrays(np.arange(40), codes, book, entity="item", version=name)
        opened[name] = write_version(tmp_path / name, {"item-pq": made})
    same = measure_drift(opened["a"], opened["b"], k=3)
    assert [same.value(m) for m in ("same codebook", "l2", "overlap@3")] == [1.0, 0.0, 1.0]
    other = measure_drift(opened["a"], opened["c"], k=3)
    assert other.value("same codebook") == 0.0
    assert other.value("l2") == pytest.approx(0.1 * math.sqrt(6), rel=1e-5)
    decoded = [np.concatenate([book[part][codes[:, part]] for part in range(2)], axis=1) for book in books]
    shares = []
    for row in range(40):
        scores = [np.array([dot(each[row], x) for x in each]) for each in decoded]
        for each in scores:
            each[row] = -np.inf
        cut = np.sort(scores[0])[-3]
        lists = np.argsort(-scores[1], kind="stable")[:3]
        free = 3 - (scores[0] > cut).sum()
        kept = (scores[0][lists] > cut + 1e-9).sum() + min((np.abs(scores[0][lists] - cut) <= 1e-9).sum(), free)
        shares.append(kept / 3)
    assert other.value("overlap@3") == pytest.approx(np.mean(shares), abs=0.02)


def test_components_are_matched_whatever_their_order(tmp_path):
    rng = np.random.default_rng(11)
    vectors = rng.normal(size=(25, 3, 5)).astype(np.float32)
    weights = rng.dirichlet(np.ones(3), 25)
    order = [2, 0, 1]
    moved = vectors + 0.3 * rng.normal(size=vectors.shape).astype(np.float32)
    later = rng.dirichlet(np.ones(3), 25)
    opened = {}
    for name, x, w in (("a", vectors, weights), ("b", vectors[:, order], weights[:, order]), ("c", moved, later)):
        made = Mixture.from_components(np.arange(25), x, w, entity="user", version=name)
        opened[name] = write_version(tmp_path / name, {"user-components": made.components, "user": made})
    same = measure_drift(opened["a"], opened["b"])
    assert {row.name for row in same.results} == {"user"}  # components are rows of whoever came first
    assert same.value("component cosine p5") == pytest.approx(1.0)
    assert same.value("weight shift p95") == pytest.approx(0.0, abs=1e-7)
    assert same.value("relative l2 p95") == pytest.approx(0.0, abs=1e-6)
    assert not [row for row in same.results if "overlap" in row.metric]

    other = measure_drift(opened["a"], opened["c"])
    gains, shifts, means = [], [], []
    for x, w, y, v in zip(vectors, weights, moved, later, strict=True):
        best = max(
            itertools.permutations(range(3)),
            key=lambda p: sum((w[c] + v[p[c]]) / 2 * cosine(x[c], y[p[c]]) for c in range(3)),
        )
        gains.append(sum((w[c] + v[best[c]]) / 2 * cosine(x[c], y[best[c]]) for c in range(3)))
        shifts.append(sum(abs(w[c] - v[best[c]]) for c in range(3)) / 2)
        means.append(np.linalg.norm(w @ x.astype(np.float64) - v @ y.astype(np.float64)))
    assert other.value("component cosine mean") == pytest.approx(np.mean(gains), rel=1e-5)
    assert other.value("weight shift mean") == pytest.approx(np.mean(shifts), rel=1e-5)
    assert other.value("l2 mean") == pytest.approx(np.mean(means), rel=1e-5)


def test_weight_that_changed_hands_is_no_other_component(tmp_path):
    """Two interests that swapped their weights stay themselves; one that went leaves its weight unmatched."""
    axes = np.eye(3, dtype=np.float32)
    for name, x, w in (("a", axes[None, :2], [[0.9, 0.1]]), ("b", axes[None], [[0.1, 0.6, 0.3]])):
        made = Mixture.from_components(["u"], x, np.array(w), entity="user", version=name)
        write_version(tmp_path / name, {"user-components": made.components, "user": made})
    report = measure_drift(open_version(tmp_path / "a"), open_version(tmp_path / "b"))
    assert report.value("component cosine") == pytest.approx((0.9 + 0.1) / 2 + (0.1 + 0.6) / 2)
    assert report.value("weight shift") == pytest.approx((0.8 + 0.5 + 0.3) / 2)


def test_relations_change_by_their_parameters_and_keep_their_targets(tmp_path):
    rng = np.random.default_rng(12)
    items = rng.normal(size=(60, DIM)).astype(np.float32)
    moved = items + 0.2 * rng.normal(size=items.shape).astype(np.float32)
    people = [VECTORS[:50], VECTORS[:50] + 0.3 * rng.normal(size=(50, DIM)).astype(np.float32)]
    parameters = rng.normal(size=(2, DIM)).astype(np.float32)
    phases = rng.normal(size=DIM // 2).astype(np.float32)
    opened = []
    for name, vectors, shift, phase in (
        ("a", items, parameters[0], phases),
        ("b", moved, parameters[1], phases + np.float32(2 * np.pi)),
    ):
        own = people[len(opened)]
        tables = {"user": table(own, version=name), "item": table(vectors, version=name, entity="item")}
        relations = [
            RelationParameters("likes", "user", "item", "translation", shift, reciprocal="likes^-1"),
            RelationParameters("likes^-1", "item", "user", "translation", -shift, reciprocal="likes"),
            RelationParameters("made", "user", "item", "translation", shift, side="target"),
            RelationParameters("knows", "user", "user", "rotation", phase),
            RelationParameters("is", "user", "item", "identity", np.zeros(0, np.float32)),
            RelationParameters(f"only-{name}", "user", "item", "translation", shift),
            RelationParameters("other", "user", "item", "translation" if name == "a" else "diagonal", shift),
        ]
        opened.append(write_version(tmp_path / name, tables, relations=relations))
    report = measure_drift(*opened, k=5)
    change = np.linalg.norm(parameters[0].astype(float) - parameters[1]) / np.linalg.norm(parameters[0].astype(float))
    for name in ("likes", "likes^-1", "made"):
        assert report.value("relative change", group=name) == pytest.approx(change)
    assert report.value("relative change", group="knows") < 1e-6  # a whole turn
    row = next(row for row in report.results if row.name == "relations")
    assert row.protocol["not compared"] == {
        "only-a": "gone in b",
        "only-b": "new in b",
        "other": "translation of the sources, then diagonal of the sources",
    }

    def kept(queries, found, exclude_self=False):
        """The share of the 5 best that both versions have, by a loop: queries and found of each version."""
        shares = []
        for row in range(50):
            lists = []
            for asked, things in zip(queries, found, strict=True):
                scored = sorted((-dot(asked[row], x), n) for n, x in enumerate(things) if not exclude_self or n != row)
                lists.append({place for _, place in scored[:5]})
            shares.append(len(lists[0] & lists[1]) / 5)
        return sum(shares) / 50

    moved_people = [users + shift for users, shift in zip(people, parameters, strict=True)]
    assert report.value("likes overlap@5", name="user") == pytest.approx(kept(moved_people, [items, moved]))
    moved_items = [x + shift for x, shift in zip((items, moved), parameters, strict=True)]
    assert report.value("made overlap@5", name="user") == pytest.approx(kept(people, moved_items))
    turn = np.exp(1j * phases)
    turned = [(users[:, :3] + 1j * users[:, 3:]) * turn for users in people]
    turned = [np.concatenate([users.real, users.imag], axis=1) for users in turned]
    assert report.value("knows overlap@5", name="user") == pytest.approx(kept(turned, people, exclude_self=True))
    measured = {row.metric for row in report.results if "overlap" in row.metric and row.name == "item"}
    assert measured == {"overlap@5"}  # the other direction of likes is not searched again


def test_vectors_of_another_length_have_neighbours_only(tmp_path):
    longer = np.concatenate([VECTORS, np.zeros((COUNT, 2), np.float32)], axis=1)
    old = write_version(tmp_path / "a", {"user": table(VECTORS, version="a")})
    new = write_version(tmp_path / "b", {"user": table(longer, version="b")})
    report = measure_drift(old, new, sample=COUNT)
    assert report.value("overlap@10") == 1.0
    assert {row.metric for row in report.results} == {
        *("ids kept", "ids added", "ids removed", "added share", "removed share", "overlap@10")
    }
    assert report.results[0].protocol["vectors"] == "dim 6, then 8: neither difference nor rotation"
    assert Bounds(min_overlap=0.9).exceeded(report) == []
    assert Bounds(min_cosine=0.9).exceeded(report) == [
        "user: min_cosine bounds what could not be measured: dim 6, then 8: neither difference nor rotation"
    ]


def test_a_table_that_shares_no_id_stops_no_other(tmp_path):
    """Rows say so, and whoever bounds its drift hears of it."""
    ids, empty = np.arange(COUNT), np.zeros((0, DIM), np.float32)
    both = {
        "a": {
            "user": table(VECTORS, version="a", ids=ids),
            "other": table(VECTORS, version="a", ids=ids, entity="item"),
            "typed": table(VECTORS, version="a", ids=ids, entity="page"),
            "gone": table(VECTORS, version="a", ids=ids, entity="query"),
            "kind": table(VECTORS, version="a", ids=ids, entity="person"),
        },
        "b": {
            "user": table(2 * VECTORS, version="b", ids=ids),
            "other": table(VECTORS, version="b", ids=ids + 7000, entity="item"),
            "typed": table(VECTORS, version="b", ids=[f"p{i}" for i in ids], entity="page"),
            "gone": table(empty, version="b", ids=ids[:0], entity="query"),
            "kind": table(VECTORS, version="b", ids=ids, entity="place"),
        },
    }
    opened = [
        write_version(
            tmp_path / name, tables, relations=[RelationParameters("likes", "user", "other", "identity", empty[:0, 0])]
        )
        for name, tables in both.items()
    ]
    report = measure_drift(*opened, sample=20)
    rows = {name: {row.metric: row for row in report.results if row.name == name} for name in both["a"]}
    assert rows["user"]["relative l2"].value == pytest.approx(1.0)
    counted = ("ids kept", "ids added", "ids removed", "added share", "removed share")
    for name, values in (
        ("other", (0, COUNT, COUNT, 1, 1)),
        ("typed", (0, COUNT, COUNT, 1, 1)),
        ("gone", (0, 0, COUNT, 0, 1)),
        ("kind", (0, COUNT, COUNT, 1, 1)),
    ):
        assert {metric: row.value for metric, row in rows[name].items()} == dict(zip(counted, values, strict=True))
    why = {name: rows[name]["ids kept"].protocol.get("not compared") for name in rows}
    assert why["user"] is None
    assert why["other"] == "no id is in both versions; 'a' has 0, 1, 2, ..., 'b' has 7000, 7001, 7002, ..."
    assert why["typed"].startswith("int64 ids in version 'a' and string ids in version 'b'")
    assert why["gone"] == "no id is in both versions; 'a' has 0, 1, 2, ..., 'b' has none"
    assert why["kind"].startswith("the entity type 'person' in version 'a' and 'place' in version 'b'")
    said = Bounds(max_relative_l2=2.0).exceeded(report)
    assert said == [
        f"{name}: max_relative_l2 bounds what could not be measured: {why[name]}"
        for name in ("other", "typed", "gone", "kind")
    ]
    assert len(Bounds(max_removed=0.5, min_overlap=0.0).exceeded(report)) == 8
    with pytest.raises(DataError, match=r"table 'other': no id is in both .*; table 'gone': no id is in both"):
        measure_drift(*opened, tables=["other", "gone"])


def test_the_table_of_an_entity_is_compared_though_a_mixture_is_made_of_it(tmp_path):
    opened = []
    for name, factor in (("a", 1.0), ("b", 3.0)):
        items = table(factor * VECTORS[:9], version=name, ids=np.arange(9), entity="item")
        mixture = Mixture.from_rows([1, 2], [[0, 1], [2, 3]], components=items, entity="user", name="item")
        opened.append(write_version(tmp_path / name, {"item": items, "user": mixture}))
    report = measure_drift(*opened)
    assert report.value("relative l2", name="item") == pytest.approx(2.0)
    assert report.value("relative l2", name="user") == pytest.approx(2.0)


def test_what_cannot_be_compared_is_refused(tmp_path):
    made = {
        "a": {"user": table(VECTORS, version="a")},
        "b": {"user": table(VECTORS, version="b", ids=np.arange(COUNT))},
        "c": {"user": table(VECTORS, version="c", ids=[f"x{i}" for i in range(COUNT)])},
        "d": {"item": table(VECTORS, version="d", entity="item")},
    }
    opened = {name: write_version(tmp_path / name, tables) for name, tables in made.items()}
    with pytest.raises(DataError, match="'user': string ids in version 'a' and int64 ids in version 'b'"):
        measure_drift(opened["a"], opened["b"])
    with pytest.raises(DataError, match=r"no id is in both versions; 'a' has 'u0', 'u1', 'u2', \.\.\., 'c' has 'x0'"):
        measure_drift(opened["a"], opened["c"])
    with pytest.raises(DataError, match="'a' and 'd' have no table in common: user in the one, item in the other"):
        measure_drift(opened["a"], opened["d"])
    with pytest.raises(ConfigError, match="version 'a' has no table 'usr'; did you mean 'user'"):
        measure_drift(opened["a"], opened["a"], tables=["usr"])
    with pytest.raises(ConfigError, match="tables='user' is one name, expected a list of names"):
        measure_drift(opened["a"], opened["a"], tables="user")
    with pytest.raises(ConfigError, match="sample is 0"):
        measure_drift(opened["a"], opened["a"], sample=0)
    with pytest.raises(ConfigError, match="go together"):
        measure_drift(opened["a"], opened["a"], ranker="somewhere")


def test_the_same_seed_gives_the_same_report_and_blocks_do_not_matter(versions, monkeypatch):
    changed = VECTORS + 0.3 * np.random.default_rng(13).normal(size=VECTORS.shape).astype(np.float32)
    old, new = versions(changed)
    steps = []
    reports = [measure_drift(old, new, sample=50, seed=3, progress=lambda *s: steps.append(s)) for _ in range(2)]
    assert reports[0]["results"] == reports[1]["results"]
    assert steps[: len(steps) // 2] == [(n, len(steps) // 2) for n in range(1, len(steps) // 2 + 1)]
    monkeypatch.setattr("recokit.drift.common._BLOCK", 7)
    again = measure_drift(old, new, sample=50, seed=3)
    for before, after in zip(reports[0].results, again.results, strict=True):
        assert (before.metric, before.group, before.n) == (after.metric, after.group, after.n)
        assert after.value == pytest.approx(before.value, rel=1e-12)
    other = measure_drift(old, new, sample=50, seed=4)
    assert other.value("overlap@10") != reports[0].value("overlap@10")
