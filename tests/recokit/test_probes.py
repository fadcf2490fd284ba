"""Benchmarks of embeddings: values against scikit-learn, scipy and plain loops; what is planted is found."""

import inspect
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import spearmanr

from recokit.errors import ConfigError, DataError
from recokit.evaluate import evaluate_candidates
from recokit.floors import EASE, ItemKNN, Popularity
from recokit.index.scoring import unit
from recokit.metrics import paired_bootstrap
from recokit.probes import (
    Bench,
    LinkPrediction,
    MetadataPrediction,
    NeighborStability,
    Outcome,
    SetJaccard,
    Subject,
    TopicPrediction,
    run_probes,
)
from recokit.probes.card import benchmark_rows, version_card
from recokit.probes.jaccard import RankCorrelation, cosines, jaccard, sample_pairs
from recokit.probes.regression import FoldAreas, fold_scores, stratified_folds
from recokit.probes.stability import shared_share
from recokit.table import (
    EmbeddingTable,
    Mixture,
    PQTable,
    RelationParameters,
    Version,
    open_version,
    write_version,
)

linear_model = pytest.importorskip("sklearn.linear_model")
from sklearn.metrics import roc_auc_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
USERS, ITEMS, KINDS, DIM = 240, 60, 3, 8
KIND = np.arange(USERS) % KINDS
DEGREES = np.random.default_rng(5).integers(1, 200, USERS)


def planted(version="v1", seed=0, noise=1.0):
    """Vectors of users and items of three kinds; a translation takes a user to the items of its kind."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((KINDS, DIM)) * 1.5
    users = centres[KIND] + noise * rng.standard_normal((USERS, DIM))
    items = centres[np.arange(ITEMS) % KINDS] + 1.0 + noise * rng.standard_normal((ITEMS, DIM))
    order = rng.permutation(USERS)  # rows are not in the order of ids
    ids = np.array([f"u{number}" for number in order])
    return (
        EmbeddingTable.from_arrays(ids, users[order].astype(np.float32), entity="user", version=version),
        EmbeddingTable.from_arrays(np.arange(ITEMS), items.astype(np.float32), entity="item", version=version),
    )


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Version:
    return written(tmp_path_factory.mktemp("probes") / "v1")


def written(path, seed=0) -> Version:
    users, items = planted(path.name, seed)
    numbers = np.array([int(name[1:]) for name in users.ids.to_pylist()])
    likes = RelationParameters("likes", "user", "item", "translation", np.ones(DIM, np.float32))
    state = {"degrees-user": DEGREES[numbers]}
    return write_version(path, {"user": users, "item": items}, relations=[likes], state=state)


def users_frame(**columns):
    return pd.DataFrame({"id": [f"u{number}" for number in range(USERS)], **columns})


def difference(report, metric, baseline, group=None):
    (row,) = [r for r in report.results if (r.name, r.metric, r.group) == (f"v1 - {baseline}", metric, group)]
    return row


# --- areas ------------------------------------------------------------------------------------------------------------


def test_the_area_is_the_share_of_pairs_of_one_fold_that_are_in_order():
    rng = np.random.default_rng(0)
    label, fold = rng.random(60) < 0.3, rng.integers(3, size=60)
    score = rng.integers(8, size=60).astype(float)  # ties
    weight = rng.integers(4, size=60).astype(float)
    won = pairs = 0.0
    for i in range(60):
        for j in range(60):
            if label[i] and not label[j] and fold[i] == fold[j]:
                pairs += weight[i] * weight[j]
                won += weight[i] * weight[j] * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
    assert FoldAreas.of(label, score, fold).area(weight) == pytest.approx(won / pairs, abs=1e-12)
    assert np.isnan(FoldAreas.of(label, score, fold).area(weight * label))  # no negative is left


def test_folds_have_their_share_of_both_classes():
    positive = np.arange(103) < 23
    fold = stratified_folds(positive, 5, [0])
    assert sorted(np.bincount(fold[positive])) == [4, 4, 5, 5, 5]
    assert sorted(np.bincount(fold[~positive])) == [16, 16, 16, 16, 16]
    assert (fold == stratified_folds(positive, 5, [0])).all()
    assert (fold != stratified_folds(positive, 5, [1])).any()


def by_scikit_learn(vectors, positive, fold, c):
    won = pairs = 0.0
    for each in range(fold.max() + 1):
        train, test = fold != each, fold == each
        model = make_pipeline(StandardScaler(), linear_model.LogisticRegression(C=c, solver="lbfgs", tol=1e-9))
        score = model.fit(vectors[train], positive[train]).decision_function(vectors[test])
        size = positive[test].sum() * (~positive[test]).sum()
        won, pairs = won + size * roc_auc_score(positive[test], score), pairs + size
    return won / pairs


def test_topics_are_predicted_as_scikit_learn_predicts_them(version):
    labels = pd.DataFrame(
        [
            (f"u{u}", f"t{kind}")
            for u in range(USERS)
            for kind in range(KINDS)
            if (u * 7 + kind) % 10 < 2 + 5 * (KIND[u] == kind)
        ],
        columns=["id", "label"],
    )
    labels = pd.concat([labels, pd.DataFrame({"id": ["u0", "nobody"], "label": ["rare", "t0"]})])
    report = run_probes(version, [TopicPrediction("topic", "user", labels, c=0.3)], seed=4, bootstrap=20)
    table = version.table("user")
    named = sorted(set(labels["id"]) & set(table.ids.to_pylist()))
    vectors = table.vectors[table.rows(named)].astype(float)
    areas = []
    for number, label in enumerate(["t0", "t1", "t2"]):
        positive = np.isin(named, labels["id"][labels["label"] == label])
        areas.append(by_scikit_learn(vectors, positive, stratified_folds(positive, 5, [4, 2, number]), 0.3))
        row = report.value("topic roc_auc", name="v1", group=label)
        assert row == pytest.approx(areas[-1], abs=1e-6)
    assert report.value("topic roc_auc", name="v1") == pytest.approx(np.mean(areas), abs=1e-6)
    assert np.mean(areas) > 0.6
    protocol = report.results[0].protocol
    assert protocol["coverage"] == f"{len(named)} of {len(named) + 1} ids are in the table"
    assert protocol["missing_ids"] == "1, such as 'nobody'"
    assert protocol["skipped_labels"] == "1 with fewer than 20 positives or negatives: rare"
    assert (protocol["task"], protocol["kind"], protocol["split"]) == ("topic", "topic", "5 stratified folds")


def test_the_penalty_is_chosen_inside_the_training_folds():
    """Many dimensions that say little each: a weak penalty overfits, and the choice must see that by itself."""
    rng = np.random.default_rng(0)
    positive = np.arange(150) % 2 == 0
    x = rng.standard_normal((150, 80)) + 0.2 * positive[:, None]
    fold = stratified_folds(positive, 5, [0])
    area = {
        c: FoldAreas.of(positive, fold_scores(x, positive, fold, c, seed=[0]), fold).area(np.ones(150))
        for c in (0.001, 100.0)
    }
    assert area[0.001] > area[100.0] + 0.03
    chosen = fold_scores(x, positive, fold, (100.0, 0.001), seed=[0])
    np.testing.assert_array_equal(chosen, fold_scores(x, positive, fold, 0.001, seed=[0]))


def test_metadata_of_two_classes_of_many_and_numbers_that_are_cut(version):
    rng = np.random.default_rng(1)
    age = np.where(KIND == 0, 50, 20) + 3 * rng.integers(0, 3, USERS)
    assert (age == np.median(age)).any()  # above the median, not at it
    frame = users_frame(kind=KIND, age=age, sex=np.where(KIND == 1, "f", "m"))
    tasks = [
        MetadataPrediction("sex", "user", frame, "sex", c=1.0),
        MetadataPrediction("age", "user", frame, "age", cut=(30, 55), c=1.0),
        MetadataPrediction("older", "user", frame, "age", cut="median", c=1.0),
        MetadataPrediction("kind", "user", frame, "kind", c=1.0),
    ]
    report = run_probes(version, tasks, baselines=(), bootstrap=0)
    assert [(r.metric, r.group, r.n) for r in report.results] == [
        ("sex roc_auc", None, USERS),
        ("age roc_auc", None, USERS),
        ("age roc_auc", "under 30", 160),
        ("age roc_auc", "30 to 55", int(((age >= 30) & (age < 55)).sum())),
        ("age roc_auc", "55 or more", int((age >= 55).sum())),
        ("older roc_auc", None, USERS),
        ("kind roc_auc", None, USERS),
        *[("kind roc_auc", str(kind), 80) for kind in range(KINDS)],
    ]
    assert report.results[0].protocol["positive"] == "m"
    median = float(np.median(age))
    assert report.results[5].protocol["cut"] == f"above the median, {median:g}"
    table, named = version.table("user"), sorted(frame["id"])
    older = np.array([age[int(name[1:])] > median for name in named])
    vectors = table.vectors[table.rows(named)].astype(float)
    expected = by_scikit_learn(vectors, older, stratified_folds(older, 5, [0, 2, 0]), 1.0)
    assert report.value("older roc_auc") == pytest.approx(expected, abs=1e-6)
    assert report.value("kind roc_auc") > 0.85


def test_an_id_without_a_label_is_a_negative_and_one_without_a_value_is_left_out(version):
    frame = users_frame(label=np.where(KIND == 0, "yes", None), value=np.where(KIND == 0, None, KIND).astype(object))
    tasks = [
        TopicPrediction("topic", "user", frame[["id", "label"]], c=1.0),
        MetadataPrediction("value", "user", frame, "value", c=1.0),
    ]
    report = run_probes(version, tasks, baselines=(), bootstrap=0)
    assert [(r.group, r.n) for r in report.results] == [(None, USERS), ("yes", 80), (None, 160)]
    assert report.results[2].protocol["without_a_value"] == "80 of 240 ids"


# --- baselines --------------------------------------------------------------------------------------------------------


def test_baselines_know_nothing_and_degrees_know_what_degrees_tell(version):
    popular = np.median(DEGREES) < DEGREES
    frame = users_frame(kind=np.where(KIND == 1, "b", "a"), popular=popular.astype(int))
    tasks = [
        MetadataPrediction("kind", "user", frame, "kind", c=1.0),
        MetadataPrediction("popular", "user", frame, "popular", c=1.0),
    ]
    report = run_probes(version, tasks, bootstrap=200)
    rows = {(r.name, r.metric): r for r in report.results}
    for baseline in ("random", "shuffled", "degree"):
        row = rows[baseline, "kind roc_auc"]
        assert row.low - 0.05 < 0.5 < row.high + 0.05
        assert difference(report, "kind roc_auc", baseline).low > 0.2
    assert rows["degree", "popular roc_auc"].value > 0.99
    assert difference(report, "popular roc_auc", "degree").high < -0.3
    assert rows["degree", "kind roc_auc"].protocol["vectors"] == (
        "log(1 + degree), of the edges that the version was trained on"
    )
    assert rows["shuffled", "kind roc_auc"].protocol["vectors"] == "user: vectors, 8 dimensions, given to other ids"
    assert rows["v1 - random", "kind roc_auc"].value == pytest.approx(
        rows["v1", "kind roc_auc"].value - rows["random", "kind roc_auc"].value, abs=1e-12
    )


def test_a_baseline_that_is_not_known_is_left_out_and_the_report_says_so(version):
    tables = {"user": version.table("user")}
    task = MetadataPrediction("kind", "user", users_frame(kind=KIND), "kind", c=1.0)
    report = run_probes(tables, [task], bootstrap=0)
    assert {r.name for r in report.results} == {"v1", "random", "shuffled", "v1 - random", "v1 - shuffled"}
    assert "the degrees of 'user' are not known" in report.results[0].protocol["no_degree"]
    frame = pd.concat([users_frame(degree=DEGREES), pd.DataFrame({"id": ["nobody"], "degree": [10**6]})])
    given = replace(task, degrees=frame)
    with_degrees = run_probes(tables, [given], bootstrap=0)
    assert with_degrees.value("kind roc_auc", name="degree") == run_probes(version, [task], bootstrap=0).value(
        "kind roc_auc", name="degree"
    )
    row = next(r for r in with_degrees.results if r.name == "degree")
    assert row.protocol["vectors"] == "log(1 + degree), from the frame given"


def test_a_subject_has_vectors_of_every_kind_of_table():
    vectors = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    mixture = Mixture.from_components(
        [7, 8, 9], vectors, np.array([[3, 1], [1, 1], [1, 0]]), entity="user", version="v"
    )
    fewer = Mixture.from_rows([7, 8], np.array([[0, -1], [1, 2]]), components=mixture.components, entity="user")
    codebook = np.array([[[1.0], [2.0]], [[10.0], [20.0]]], dtype=np.float32)
    codes = PQTable.from_arrays([7, 8], np.array([[0, 1], [1, 0]], np.uint8), codebook, entity="user", version="v")
    subject = Subject("v", "version", Bench({"m": mixture, "f": fewer, "c": codes}))
    expected = [[0.75 * 0 + 0.25 * 2, 0.75 * 1 + 0.25 * 3], [(4 + 6) / 2, (5 + 7) / 2], [8, 9]]
    np.testing.assert_allclose(subject.vectors("m", np.arange(3)), expected)
    np.testing.assert_allclose(subject.vectors("f", np.arange(2)), [[0, 1], [(2 + 4) / 2, (3 + 5) / 2]])
    np.testing.assert_allclose(subject.vectors("c", np.array([1, 0])), [[2, 10], [1, 20]])
    assert [subject.said(name) for name in "mfc"] == [
        "m: components, averaged by weight, 2 dimensions",
        "f: components, averaged by weight, 2 dimensions",
        "c: codes, decoded, 2 dimensions",
    ]
    with pytest.raises(ConfigError, match="there is no table 'x'; known: c, f, m"):
        subject.vectors("x", np.arange(1))
    with pytest.raises(DataError, match="1 of 2 rows of 'm' are -1"):
        subject.vectors("m", mixture.rows([7, 1]))


def test_baselines_are_the_same_for_a_row_whenever_it_is_asked_for():
    vectors = np.random.default_rng(0).standard_normal((10_000, 3)).astype(np.float32)
    table = EmbeddingTable.from_arrays(np.arange(10_000), vectors, entity="user", version="v")
    bench = Bench({"user": table, "other": table}, seed=1)
    random, shuffled = Subject("r", "random", bench), Subject("s", "shuffled", bench)
    rows = np.array([9_999, 3, 5_000, 3])
    drawn = random.vectors("user", np.arange(10_000))
    np.testing.assert_array_equal(random.vectors("user", rows), drawn[rows])
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02
    assert not np.isin(drawn[:, 0], random.vectors("other", np.arange(10_000))[:, 0]).any()
    assert not np.isin(drawn[:, 0], Subject("r", "random", Bench({"user": table}, seed=2)).vectors("user", rows)).any()
    moved = shuffled.vectors("user", np.arange(10_000))
    np.testing.assert_array_equal(shuffled.vectors("user", rows), moved[rows])
    assert (moved != vectors).any(axis=1).mean() > 0.99
    np.testing.assert_array_equal(np.sort(moved[:, 0]), np.sort(vectors[:, 0]))


def test_degrees_are_matched_with_codes_and_mixtures_by_id(tmp_path):
    ids, vectors = np.array([5, 6, 7]), np.eye(3, dtype=np.float32)
    users = EmbeddingTable.from_arrays(ids, vectors, entity="user", version="v")
    codes = PQTable.from_arrays(
        ids[::-1], np.zeros((3, 1), np.uint8), np.ones((1, 1, 3), np.float32), entity="user", version="v"
    )
    version = write_version(
        tmp_path / "v",
        {"user-follow": users, "user-pq": codes},
        networks={"user-follow": "follow", "user-pq": "follow"},
        state={"degrees-user-follow": np.array([0, 1, 9])},
    )
    subject = Subject("degree", "degree", Bench(version))
    np.testing.assert_allclose(subject.vectors("user-follow", np.arange(3))[:, 0], np.log([1, 2, 10]), rtol=1e-6)
    np.testing.assert_allclose(subject.vectors("user-pq", np.arange(3))[:, 0], np.log([10, 2, 1]), rtol=1e-6)


# --- sets -------------------------------------------------------------------------------------------------------------


def test_the_rank_correlation_is_scipys_with_rows_repeated():
    rng = np.random.default_rng(0)
    a, b = rng.integers(6, size=40), rng.standard_normal(40).round(1)
    weight = rng.integers(4, size=40)
    found = RankCorrelation.of(a, b).value(weight.astype(float))
    assert found == pytest.approx(spearmanr(np.repeat(a, weight), np.repeat(b, weight)).statistic, abs=1e-12)
    assert np.isnan(RankCorrelation.of(a, np.ones(40)).value(np.ones(40)))


def sets_of(version, seed=0, size=8):
    """Users follow mostly items of their kind."""
    rng = np.random.default_rng(seed)
    weight = np.where(KIND[:, None] == np.arange(ITEMS) % KINDS, 10.0, 1.0)
    rows = [
        (f"u{user}", f"i{item}")
        for user in range(USERS)
        for item in rng.choice(ITEMS, size=size, replace=False, p=weight[user] / weight[user].sum())
    ]
    return pd.DataFrame(rows, columns=["query", "candidate"])


def test_jaccard_and_cosine_are_those_of_a_double_loop(version):
    few = [f"u{number}" for number in range(30)]
    sets = sets_of(version)
    sets = sets[sets["query"].isin(few)]
    sets = pd.concat([sets, sets.iloc[:5]])  # named twice, in the set once
    report = run_probes(version, [SetJaccard("jaccard", "user", sets, known=False, pairs=100_000)], bootstrap=0)
    members = {user: set(rows["candidate"]) for user, rows in sets.groupby("query")}
    table = version.table("user")
    cosine, overlap = [], []
    for at, one in enumerate(few):
        for other in few[:at]:
            x, y = (table.vectors[table.rows([user])[0]].astype(float) for user in (one, other))
            cosine.append(x @ y / np.sqrt((x @ x) * (y @ y)))
            overlap.append(len(members[one] & members[other]) / len(members[one] | members[other]))
    expected = spearmanr(cosine, overlap).statistic
    assert report.value("jaccard spearman", name="v1", group="uniform pairs") == pytest.approx(expected, abs=1e-9)
    sharing = np.array(overlap) > 0
    expected = spearmanr(np.array(cosine)[sharing], np.array(overlap)[sharing]).statistic
    assert report.value("jaccard spearman", name="v1", group="pairs that share") == pytest.approx(expected, abs=1e-9)
    said = report.results[0].protocol
    assert said["pairs"] == f"435 uniform, {sharing.sum()} among those that share a member"
    assert said["sets"] == "held out"


@pytest.mark.parametrize("listed", [0, 5_000_000])
def test_pairs_that_share_are_drawn_uniformly(listed, monkeypatch):
    """Rows 0 and 1 share four columns, rows 2 and 3 one; each pair is as likely to come first."""
    monkeypatch.setattr("recokit.probes.jaccard._LISTED", listed)
    matrix = sparse.csr_matrix(np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]], float))
    first = []
    for seed in range(400):
        pairs, sharing = sample_pairs(matrix, 2, np.random.default_rng(seed))
        assert sharing.tolist() == [False, True]
        assert pairs[1].tolist() in ([0, 1], [2, 3])
        first.append(pairs[1, 0] == 0)
    assert abs(np.mean(first) - 0.5) < 0.1  # four standard errors; in proportion to what is shared it would be 0.8
    everything, sharing = sample_pairs(matrix, 100, np.random.default_rng(0))
    assert sorted(map(tuple, everything[~sharing])) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert sorted(map(tuple, everything[sharing])) == [(0, 1), (2, 3)]
    np.testing.assert_allclose(jaccard(matrix, np.array([[0, 1], [0, 2], [2, 3]])), [1, 0, 1])


def test_the_interval_of_a_correlation_resamples_entities(version):
    """By hand: a pair weighs the product of how often its two entities are drawn."""
    sets = sets_of(version)
    report = run_probes(version, [SetJaccard("jaccard", "user", sets, pairs=400)], baselines=("random",), bootstrap=30)
    bench = Bench(version, seed=0, bootstrap=30)
    trial = SetJaccard("jaccard", "user", sets, pairs=400).prepare(bench).__self__
    vectors = version.table("user").vectors[trial.rows]
    for row, part in zip(report.results, (trial.sharing | True, ~trial.sharing, trial.sharing), strict=False):
        values, rng = [], np.random.default_rng(0)
        for _ in range(30):
            drawn = np.bincount(rng.integers(USERS, size=USERS), minlength=USERS)
            times = drawn[trial.pairs[:, 0]] * drawn[trial.pairs[:, 1]] * part
            kept = np.repeat(np.arange(len(times)), times)
            values.append(spearmanr(cosines(vectors, trial.pairs)[kept], trial.truth[kept]).statistic)
        np.testing.assert_allclose([row.low, row.high], np.quantile(values, [0.025, 0.975]), atol=1e-9)
    assert [row.group for row in report.results[:3]] == [None, "uniform pairs", "pairs that share"]
    assert report.results[0].low > 0.2
    assert difference(report, "jaccard spearman", "random").low > 0.1


def test_nearness_of_degrees_stands_for_the_cosine_of_one_number(version):
    """The version's degrees; without a version, the sizes of the sets."""
    sets = pd.DataFrame([(f"u{u}", item) for u in range(USERS) for item in range(1 + DEGREES[u] // 10)])
    sets.columns = ["query", "candidate"]
    report = run_probes(version, [SetJaccard("jaccard", "user", sets, pairs=2000)], bootstrap=0)
    assert report.value("jaccard spearman", name="degree") > 0.75  # the Jaccard index here is min over max of sizes
    alone = run_probes({"user": version.table("user")}, [SetJaccard("jaccard", "user", sets, pairs=2000)], bootstrap=0)
    row = next(r for r in alone.results if r.name == "degree")
    assert row.protocol["vectors"] == "log(1 + degree), the sizes of the sets"
    assert row.value > 0.75


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(3)
    rows = [(f"u{u}", int(KINDS * rng.integers(ITEMS // KINDS) + KIND[u])) for u in range(USERS) for _ in range(4)]
    frame = pd.DataFrame(rows, columns=["query", "candidate"]).drop_duplicates(ignore_index=True)
    return frame.iloc[::2].reset_index(drop=True), frame.iloc[1::2].reset_index(drop=True)


def brute_force(version, sources, seen, k):
    users, items = version.table("user"), version.table("item")
    rows = []
    for source in sources:
        score = (users.vectors[users.rows([source])[0]].astype(float) + 1.0) @ items.vectors.astype(float).T
        score[seen["candidate"][seen["query"] == source]] = -np.inf
        rows += [(source, int(item), rank) for rank, item in enumerate(np.argsort(-score)[:k], 1)]
    return pd.DataFrame(rows, columns=["query", "candidate", "rank"])


def test_links_are_those_of_a_plain_loop_and_stand_beside_popularity(version, pairs):
    known, held_out = pairs
    more = pd.concat([held_out, pd.DataFrame({"query": ["nobody", "u1"], "candidate": [1, 1000]})])
    task = LinkPrediction("clicks", "likes", more, exclude=known, k=(3, 10))
    report = run_probes(version, [task], bootstrap=100)
    sources = [each for each in more["query"].drop_duplicates() if each != "nobody"]
    oracle = evaluate_candidates(brute_force(version, sources, known, 10), more, k=(3, 10), bootstrap=100)
    popular = Popularity.fit(known).recommend(more["query"].drop_duplicates(), 10, exclude=known)
    floor = evaluate_candidates(popular, more, k=(3, 10), bootstrap=100)
    rows = {(r.name, r.metric): r for r in report.results}
    for cut in ("recall@3", "recall@10"):
        expected = next(r for r in oracle.results if r.metric == cut)
        found = rows["v1", cut]
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
        assert (found.group, found.n) == ("likes", expected.n)
        assert rows["degree", cut].value == pytest.approx(floor.value(cut))
    chance = 10 / ITEMS
    assert rows["v1", "recall@10"].value > 2 * chance
    assert abs(rows["random", "recall@10"].value - chance) < 0.07
    assert abs(rows["shuffled", "recall@10"].value - chance) < 0.07
    said = rows["v1", "recall@10"].protocol
    queries = more["query"].nunique()
    assert said["coverage"] == (
        f"{queries - 1} of {queries} queries are in user, "
        f"{len(more) - 1} of {len(more)} pairs have their candidate in item"
    )
    assert said["missing_ids"] == "such as 'nobody', 1000"
    assert rows["degree", "recall@10"].protocol["vectors"].startswith("popularity: how often the excluded pairs")


def test_links_stand_beside_floors_that_learn_from_the_excluded_pairs(version, pairs):
    known, held_out = pairs
    task = LinkPrediction("clicks", "likes", held_out, exclude=known, k=10, floors=True)
    report = run_probes(version, [task], baselines=("random",), bootstrap=50)
    asked = held_out["query"].drop_duplicates()
    for name, floor in (("EASE", EASE), ("ItemKNN", ItemKNN)):
        lists = floor.fit(known).recommend(asked, 10, exclude=known)
        expected = evaluate_candidates(lists, held_out, k=10, bootstrap=0).value("recall@10")
        assert report.value("recall@10", name=name) == pytest.approx(expected)
        difference = report.value("recall@10", name="v1") - expected
        assert report.value("recall@10", name=f"v1 - {name}") == pytest.approx(difference)
    assert {row.name for row in report.results} == {
        "v1", "random", "EASE", "ItemKNN", "v1 - random", "v1 - EASE", "v1 - ItemKNN"
    }  # fmt: skip
    head, first, *_ = benchmark_rows(report)
    assert head == ("metric", "v1", "random", "ItemKNN", "EASE")
    behind = [row.name for row in report.results if " - " in row.name and row.low <= 0]
    assert [cell.endswith(" *") for cell in first[2:]] == [f"v1 - {name}" in behind for name in head[2:]]
    assert "EASE" not in version_card(version, report).split("## Limits")[1]
    with pytest.raises(ConfigError, match="floors need exclude"):
        LinkPrediction("clicks", "likes", held_out, floors=True)
    with pytest.raises(ConfigError, match="called 'EASE' like a baseline"):
        run_probes(version, [task], name="EASE")


def test_links_of_codes_of_mixtures_and_of_targets_that_move(tmp_path, pairs):
    _, held_out = pairs
    users, items = planted()
    codebook = np.unique(items.vectors, axis=0)[None]  # one centroid an item: codes that lose nothing
    codes = np.array([np.flatnonzero((codebook[0] == row).all(axis=1))[0] for row in items.vectors], np.uint8)
    coded = PQTable.from_arrays(items.ids, codes[:, None], codebook, entity="item", version="v1")
    mixture = Mixture.from_components(
        users.ids, users.vectors[:, None], entity="user", version="v1", comparator="dot", name="parts"
    )
    ones, scale = np.ones(DIM, np.float32), np.linspace(-1, 2, DIM).astype(np.float32)
    version = write_version(
        tmp_path / "v1",
        {"user": users, "item": items, "item-pq": coded, "parts": mixture.components, "user-parts": mixture},
        relations=[
            RelationParameters("likes", "user", "item", "translation", ones),
            RelationParameters("liked", "user", "item", "diagonal", scale, side="target"),
        ],
    )
    tasks = [
        LinkPrediction("plain", "likes", held_out, source="user", target="item", k=10),
        LinkPrediction("codes", "likes", held_out, source="user", target="item-pq", k=9),
        LinkPrediction("mixture", "likes", held_out, source="user-parts", target="item", k=11),
        LinkPrediction("moved", "liked", held_out, source="user", target="item", k=10),
    ]
    report = run_probes(version, tasks, baselines=("random", "shuffled"), bootstrap=0)
    none = pd.DataFrame({"query": [], "candidate": []})
    sources = held_out["query"].drop_duplicates()
    for cut in (9, 10, 11):
        expected = evaluate_candidates(brute_force(version, sources, none, cut), held_out, k=cut, bootstrap=0)
        assert report.value(f"recall@{cut}", name="v1", group="likes") == pytest.approx(expected.value(f"recall@{cut}"))
    scores = users.vectors.astype(float) @ (items.vectors * scale).astype(float).T
    best = np.argsort(-scores[users.rows(sources)], axis=1)[:, :10]
    lists = pd.DataFrame({"query": np.repeat(sources.to_numpy(), 10), "candidate": best.ravel()})
    expected = evaluate_candidates(lists.assign(rank=np.tile(np.arange(1, 11), len(sources))), held_out, k=10)
    assert report.value("recall@10", name="v1", group="liked") == pytest.approx(expected.value("recall@10"))
    said = next(r for r in report.results if r.metric == "recall@11").protocol
    assert said["vectors"] == "user-parts: components, searched one by one, item: vectors, 8 dimensions"


def test_links_that_cannot_be_measured_are_refused(version, pairs):
    known, held_out = pairs

    def run(**changes):
        given = {"relation": "likes", "pairs": held_out, "exclude": known, **changes}
        return run_probes(version, [LinkPrediction("clicks", **given)], bootstrap=0)

    with pytest.raises(DataError, match=f"clicks: {len(held_out)} of {len(held_out)} held-out pairs are excluded"):
        run(exclude=held_out)
    with pytest.raises(ConfigError, match="no relation 'like'; did you mean 'likes'"):
        run(relation="like")
    with pytest.raises(DataError, match="has none of the 1 ids: they are like 'x', the table's like 'u"):
        run(pairs=pd.DataFrame({"query": ["x"], "candidate": [1]}))
    with pytest.raises(DataError, match="ids are not int64"):
        run(pairs=held_out.assign(candidate="item"))
    with pytest.raises(ConfigError, match="tables alone came: links need a version"):
        run_probes({"user": version.table("user")}, [LinkPrediction("clicks", "likes", held_out)])


# --- stability --------------------------------------------------------------------------------------------------------


def test_neighbours_kept_are_those_of_a_double_loop(version, tmp_path):
    later = written(tmp_path / "v2", seed=1)
    report = run_probes(later, [NeighborStability("stability", "user", k=5)], previous=version, name="v1", bootstrap=50)

    def nearest(opened):
        table = opened.table("user")
        vectors = {name: table.vectors[row].astype(float) for row, name in enumerate(table.ids.to_pylist())}
        return {
            name: set(sorted((o for o in vectors if o != name), key=lambda o, x=vector: -(x @ vectors[o]))[:5])
            for name, vector in vectors.items()
        }

    old, new = nearest(version), nearest(later)
    values = [len(old[name] & new[name]) / 5 for name in later.table("user").ids.to_pylist()]
    (row,) = [r for r in report.results if r.name == "v1"]
    assert (row.metric, row.group, row.n) == ("stability@5", "user", USERS)
    assert row.value == pytest.approx(np.mean(values))
    assert report.value("stability@5", name="random") == pytest.approx(5 / (USERS - 1), abs=0.02)
    same = run_probes(version, [NeighborStability("stability", "user", k=5, queries=50)], previous=version, bootstrap=0)
    assert same.value("stability@5", name="v1") == 1.0
    np.testing.assert_allclose(shared_share(np.array([[1, 2, 3]]), np.array([[3, 9, 1]])), [2 / 3])


def test_without_a_previous_version_stability_says_so(version):
    (row,) = run_probes(version, [NeighborStability("stability", "user")]).results
    assert np.isnan(row.value)
    assert row.protocol["skipped"] == "there is no previous version"
    assert (row.metric, row.group, row.protocol["kind"]) == ("stability@10", "user", "stability")


def test_newcomers_push_nobody_out(tmp_path):
    """The ids of both versions keep their vectors; a crowd of new ones stands right among them."""
    vectors = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    crowd = np.concatenate([vectors + 1e-3, vectors]).astype(np.float32)
    old, new = (
        write_version(
            tmp_path / name,
            {"user": EmbeddingTable.from_arrays(ids, x, entity="user", version=name, comparator="l2")},
        )
        for name, ids, x in (("v1", np.arange(30), vectors), ("v2", np.arange(-30, 30), crowd))
    )
    report = run_probes(new, [NeighborStability("stability", "user", k=3)], previous=old, bootstrap=0)
    assert report.value("stability@3", name="v2") == 1.0
    assert report.results[0].protocol["coverage"] == "30 of 60 ids are in both versions"


# --- the run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NearestAgrees:
    name: str
    table: str
    genres: pd.DataFrame  # columns id, genre

    def prepare(self, bench):
        rows = bench.table(self.table).rows(self.genres["id"])

        def measure(subject):
            vectors = unit(subject.vectors(self.table, rows))
            nearest = (vectors @ vectors.T - 2 * np.eye(len(rows))).argmax(axis=1)
            genre = self.genres["genre"].to_numpy()
            return Outcome.mean(f"{self.name} agrees", genre[nearest] == genre, bench=bench)

        return measure


def test_the_documentation_has_this_very_task():
    assert inspect.getsource(NearestAgrees) in (ROOT / "docs/benchmarks.md").read_text()
    body = inspect.getsource(NearestAgrees).split("\n", 1)[1]
    assert textwrap.indent(body, "    ") in (ROOT / "recokit/probes/task.py").read_text()


def test_a_task_of_ones_own_has_baselines_and_paired_differences(version):
    genres = pd.DataFrame({"id": np.arange(ITEMS), "genre": np.arange(ITEMS) % KINDS})
    report = run_probes(version, [NearestAgrees("genre", "item", genres)], bootstrap=300)
    vectors = unit(version.table("item").vectors)
    nearest = (vectors @ vectors.T - 2 * np.eye(ITEMS)).argmax(axis=1)
    agrees = (nearest % KINDS == np.arange(ITEMS) % KINDS).astype(float)
    assert report.value("genre agrees", name="v1") == pytest.approx(agrees.mean())
    subject = Subject("random", "random", Bench(version))
    drawn = unit(subject.vectors("item", np.arange(ITEMS)))
    other = (drawn @ drawn.T - 2 * np.eye(ITEMS)).argmax(axis=1) % KINDS == np.arange(ITEMS) % KINDS
    expected = paired_bootstrap(agrees, other, samples=300)
    row = difference(report, "genre agrees", "random")
    assert (row.value, row.low, row.high) == pytest.approx(expected)
    assert row.low > 0.2


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(version):
    frame = users_frame(kind=np.where(KIND == 1, "b", "a"))
    tasks = [
        MetadataPrediction("kind", "user", frame, "kind", c=1.0),
        SetJaccard("jaccard", "user", sets_of(version), pairs=300),
    ]
    first, again, other = (run_probes(version, tasks, seed=seed, bootstrap=20) for seed in (1, 1, 2))
    assert first.results == again.results
    assert first.value("kind roc_auc", name="v1") != other.value("kind roc_auc", name="v1")
    assert {row.seed for row in first.results} == {1}
    seen = []
    run_probes(version, tasks, bootstrap=0, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(done, 8) for done in range(1, 9)]


def test_rows_in_another_order_have_the_same_folds_and_pairs(version):
    table = version.table("user")
    order = np.random.default_rng(0).permutation(USERS)
    ids = [table.ids[int(row)].as_py() for row in order]
    other = EmbeddingTable.from_arrays(ids, table.vectors[order], entity="user", version="v1")
    frame = users_frame(kind=np.where(KIND == 1, "b", "a"))
    tasks = [
        MetadataPrediction("kind", "user", frame, "kind", c=1.0),
        SetJaccard("jaccard", "user", sets_of(version), pairs=300),
    ]
    one, same = (run_probes({"user": each}, tasks, baselines=(), bootstrap=20) for each in (table, other))
    for a, b in zip(one.results, same.results, strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-9)


def test_more_entities_than_asked_for_are_sampled(version):
    frame = users_frame(kind=np.where(KIND == 1, "b", "a"))
    report = run_probes(version, [MetadataPrediction("kind", "user", frame, "kind", sample=100)], bootstrap=0)
    assert report.results[0].n == 100
    assert report.results[0].protocol["sampled"] == "100 of them"


def test_what_cannot_be_run_is_refused(version):
    frame = users_frame(kind=np.where(KIND == 1, "b", "a"), age=np.arange(USERS) * 1.0, one="x")
    task = MetadataPrediction("kind", "user", frame, "kind")
    with pytest.raises(ConfigError, match="there is no task"):
        run_probes(version, [])
    with pytest.raises(ConfigError, match="2 tasks are called 'kind'"):
        run_probes(version, [task, task])
    with pytest.raises(ConfigError, match="baseline 'degrees' does not exist; did you mean 'degree'"):
        run_probes(version, [task], baselines=("degrees",))
    with pytest.raises(ConfigError, match="called 'random' like a baseline"):
        run_probes(version, [task], name="random")
    with pytest.raises(DataError, match="has none of the 1 ids: they are like 'x7', the table's like 'u"):
        run_probes(version, [replace(task, labels=pd.DataFrame({"id": ["x7"], "kind": ["a"]}))])
    with pytest.raises(DataError, match="240 different values, expected at most 50 classes: give cut='median'"):
        run_probes(version, [replace(task, column="age")])
    with pytest.raises(DataError, match="every value is 'x'"):
        run_probes(version, [replace(task, column="one")])
    with pytest.raises(DataError, match=r"values are .*, expected numbers to cut"):
        run_probes(version, [replace(task, cut="median")])
    with pytest.raises(DataError, match="id 'u0' is there more than once"):
        run_probes(version, [replace(task, labels=pd.concat([frame, frame]))])
    with pytest.raises(DataError, match=r"none of 2 labels has min_positives, 121,.* the most frequent has 160"):
        run_probes(version, [replace(task, min_positives=121)])
    with pytest.raises(ConfigError, match="folds is 1, expected at least 2"):
        replace(task, folds=1)
    with pytest.raises(ConfigError, match="min_positives is 9 with 5 folds, expected at least 10"):
        replace(task, min_positives=9)
    with pytest.raises(ConfigError, match="cut is 'mean', expected 'median'"):
        replace(task, cut="mean")
    with pytest.raises(ConfigError, match="c is \\(\\), expected a number above 0"):
        replace(task, c=())
    links = [LinkPrediction(name, "likes", pd.DataFrame({"query": ["u1"], "candidate": [1]})) for name in "ab"]
    with pytest.raises(ConfigError, match="task 'b' measures 'recall@10' of 'likes', as another one does"):
        run_probes(version, links, bootstrap=0)
    few = pd.DataFrame({"query": ["u1", "u2"], "candidate": [1, 1]})
    with pytest.raises(DataError, match="2 entities have sets"):
        run_probes(version, [SetJaccard("j", "user", few)])


def test_a_version_is_not_read_into_memory_to_be_shuffled(version):
    """Only rows that are asked for are gathered."""
    reopened = open_version(version.path)
    subject = Subject("shuffled", "shuffled", Bench(reopened))
    assert subject.vectors("user", np.array([3])).shape == (1, DIM)
    assert isinstance(reopened.table("user").vectors.base, np.memmap)
