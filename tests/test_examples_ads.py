"""The ads example, on small planted clicks in the data set's own files, and on the real files where they are."""

import importlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from recokit.errors import DataError
from recokit.overlap import estimate_overlap
from recokit.report import Report

pytest.importorskip("torch")
pytest.importorskip("duckdb")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
REAL = Path(os.environ.get("RECOKIT_DATA", "")) / "taobao-ads"
NO_DATA = pytest.mark.skipif(
    "RECOKIT_DATA" not in os.environ or not REAL.is_dir(), reason="RECOKIT_DATA names no folder that holds taobao-ads/"
)
USERS, ADS, KINDS = 60, 120, 3


@pytest.fixture(scope="module")
def example():
    """Import a module as ``python examples/ads.py`` would find its neighbours, with settings for few clicks."""
    tiny = {"dim": 8, "epochs": 20, "batch_size": 256, "uniform_negatives": 20, "init": "random"}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        script = importlib.import_module("ads")
        patch.setattr(script, "NETWORK_SHARE", 0.6)
        patch.setattr(script, "CONFIG", replace(script.CONFIG, **tiny))
        patch.setattr(script, "FIT", replace(script.FIT, epochs=8, batch_size=128, evaluate_every=10))
        patch.setattr(script, "SIDE_NEGATIVES", 5)
        patch.setattr(script, "DIM", 8)
        patch.setattr(script, "BOOTSTRAP", 20)
        yield importlib.import_module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Users of three kinds click 14 ads of their kind, the last 4 for testing; nothing in the files names the kind.

    A kind has four categories and four brands; every fourth ad has no brand, and ad 0 nobody clicks.
    """
    path, rng = tmp_path_factory.mktemp("taobao"), np.random.default_rng(0)
    train, test = [], []
    for user in range(USERS):
        clicked = [KINDS * at + user % KINDS for at in 1 + rng.permutation(ADS // KINDS - 1)[:14]]
        train.append([user, *clicked[:10]])
        test.append([user, *clicked[10:]])
    codes = rng.integers(0, 3, (USERS, 8))
    ads = [(ad, ad % 12, 0 if ad % 4 == 0 else 1 + ad % 12, ad % 2) for ad in range(ADS)]
    write(path / "train.txt", train)
    write(path / "test.txt", test)
    write(path / "u.user", [[user, *codes[user]] for user in range(USERS)], end=" \r\n")
    write(path / "u.item", ads)
    return path


@pytest.fixture(scope="module")
def data(example, folder):
    return example("loaders.taobao").load(folder)


def write(path, rows, end="\r\n"):
    path.write_bytes("".join(" ".join(map(str, row)) + end for row in rows).encode("ascii"))


def pairs(frame, columns=("user", "ad")):
    return set(frame[list(columns)].itertuples(index=False, name=None))


def test_the_files_are_read_as_they_are(example, folder, data):
    taobao = example("loaders.taobao")
    assert (len(data.train), len(data.test), len(data.users), len(data.ads)) == (10 * USERS, 4 * USERS, USERS, ADS)
    first = (folder / "train.txt").read_text().split("\n")[3].split()
    assert data.train.loc[data.train["user"] == 3, "ad"].tolist() == [int(ad) for ad in first[1:]]
    last = (folder / "u.user").read_text().splitlines()[USERS - 1].split()
    assert data.users.columns.tolist() == ["user", *taobao.PROFILE]
    assert data.users.iloc[-1].tolist() == [int(code) for code in last]
    assert data.ads[data.ads["ad"] == 17].to_dict("records") == [{"ad": 17, "category": 5, "brand": 6, "price": 1}]
    for frame in (data.train, data.test, data.users, data.ads):
        assert (frame.dtypes == "int64").all()
    assert not pairs(data.train) & pairs(data.test)


def test_what_is_no_taobao_is_refused(example, folder, tmp_path):
    taobao = example("loaders.taobao")
    with pytest.raises(DataError, match=r"train.txt is not there; the data set is a sample of https://tianchi"):
        taobao.load(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write(tmp_path / "u.item", [(0, 1, 2, 1), (1, 2, 3)])
    with pytest.raises(DataError, match=r"u.item:2 has 3 fields, expected 4: ad, category, brand, price"):
        taobao.load(tmp_path)
    write(tmp_path / "u.item", [(ad, 1, 1, 1) for ad in range(ADS)])
    write(tmp_path / "test.txt", [(0, ADS + 1)])
    with pytest.raises(DataError, match=rf"test.txt has the ad {ADS + 1}, of which nothing is known"):
        taobao.load(tmp_path)


@pytest.mark.parametrize(
    ("num", "share", "expected"), [(1, 0.3, 1), (2, 0.6, 1), (4, 0.6, 2), (5, 0.5, 3), (9, 0.9, 8)]
)
def test_the_split_takes_its_share_of_each_user(example, num, share, expected):
    taobao = example("loaders.taobao")
    clicks = pd.DataFrame({"user": np.repeat([7, 8], num), "ad": np.tile(np.arange(num), 2)})
    drawn, rest = taobao.split(clicks, share, seed=0)
    assert drawn["user"].value_counts().to_dict() == {7: expected, 8: expected}
    assert pairs(drawn) | pairs(rest) == pairs(clicks)
    assert len(drawn) + len(rest) == 2 * num
    pd.testing.assert_frame_equal(drawn, taobao.split(clicks, share, seed=0)[0])
    if num == 9:
        assert any(pairs(taobao.split(clicks, share, seed=seed)[1]) != pairs(rest) for seed in (1, 2))


@pytest.fixture(scope="module", params=["uniform", "popular"])
def task(request, example, data, tmp_path_factory):
    return example("ads").make_task(data, request.param, 1, "test", tmp_path_factory.mktemp("versions"))


def test_no_click_is_in_two_parts_and_no_relation_knows_of_a_later_one(example, data, task):
    parts = (task.parts.network, task.parts.train, task.parts.valid, task.parts.test)
    known = [pairs(part) for part in parts]
    assert set.union(*known) == pairs(data.train) | pairs(data.test)
    assert sum(map(len, known)) == len(data.train) + len(data.test)
    assert known[3] == pairs(data.test)
    assert all(known)
    graph = example("ads").network(data, task.parts.network)
    edges = pairs(graph.pairs("clicks"), ("query", "candidate"))
    assert edges == known[0]
    for rows in (task.train, task.valid, task.test):
        assert not edges & pairs(rows)  # negatives included: a click of the network is no negative of its user
    # All other relations are of ads and of users alone.
    of_both = [
        name for name, relation in graph.relations.items() if {relation.source, relation.target} >= {"user", "ad"}
    ]
    assert of_both == ["clicks"]
    assert pairs(graph.pairs("has_brand"), ("query", "candidate")) == {(ad, 1 + ad % 12) for ad in range(ADS) if ad % 4}
    group = data.users.set_index("user")["group"]
    assert pairs(graph.pairs("is_group"), ("query", "candidate")) == set(group.items())


def test_the_vectors_have_seen_the_networks_clicks_alone(task):
    sketches = {sketch["relation"]: sketch for sketch in task.version.table("user").meta["edge_sketches"]}
    assert sketches["clicks"]["count"] == len(task.parts.network)
    shares = [
        estimate_overlap(sketches["clicks"], rows["user"], rows["ad"])
        for rows in (task.parts.network, task.train, task.valid, task.test)
    ]
    assert shares == [1.0, 0.0, 0.0, 0.0]


def test_features_of_the_rankers_rows_count_the_networks_clicks(example, task):
    script, clicks = example("ads"), task.parts.network
    for rows in (task.train, task.valid, task.test):
        np.testing.assert_allclose(rows["ad_clicks"], script.log_rate(rows["ad"], clicks["ad"]))
        expected = np.log1p(script.CO_SCALE * script.co_occurrence(rows, clicks))
        np.testing.assert_allclose(rows["co_occurrence"], expected, atol=1e-12)


def test_rows_of_the_network_are_described_by_the_clicks_of_other_folds(example, data):
    script = example("ads")
    clicks = pd.DataFrame({"user": np.arange(10), "ad": 7 * np.arange(10)})  # every ad once
    parts = script.Parts(clicks[:8], clicks[8:], clicks[:0], clicks[:0])  # four folds of two clicks
    rows = script.draw(parts.network, parts.train, data.ads, "popular", 0)
    found = script.cross_described(rows, data, parts)
    assert sorted(pairs(found)) == sorted(pairs(rows))
    # By eight clicks on eight ads, never the own one; some negatives are of an ad of their fold, the most are not.
    of_clicks, of_negatives = (found.loc[found["clicked"] == label, "ad_clicks"] for label in (1, 0))
    np.testing.assert_allclose(of_clicks, np.log(1 / 16))
    assert set(np.round(16 * np.exp(of_negatives))) == {1, 2}
    assert (16 * np.exp(of_negatives)).mean() > 1.5


def test_negatives_are_no_clicks_of_their_part_or_an_earlier_one(task):
    parts = task.parts
    earlier = [pairs(parts.network), pairs(parts.train), pairs(parts.valid), pairs(parts.test)]
    for number, rows in enumerate((task.train, task.valid, task.test), start=1):
        clicked = rows["clicked"] == 1
        assert pairs(rows[clicked]) == earlier[number]
        assert (rows.groupby("user")["clicked"].mean() == 1 / 5).all()
        assert not pairs(rows[~clicked]) & set.union(*earlier[: number + 1])
    rival = task.rival[task.rival["clicked"] == 0]
    assert not pairs(rival) & (earlier[0] | earlier[1])
    # Nothing is known of later parts: some of their clicks are drawn as negatives.
    assert (pairs(rival) | pairs(task.train[task.train["clicked"] == 0])) & (earlier[2] | earlier[3])


def test_popular_negatives_are_ads_of_other_clicks_of_their_part(example, data):
    script = example("ads")
    parts = script.Parts.of(data, 0)
    few = parts.test[parts.test["user"] < 20]
    popular = script.draw(few, data.train, data.ads, "popular", 0)
    uniform = script.draw(few, data.train, data.ads, "uniform", 0)
    assert set(popular["ad"]) == set(few["ad"])
    assert len(set(uniform["ad"]) - set(few["ad"])) > 20
    frame = popular.merge(data.ads, on="ad")
    assert (frame["category_x"] == frame["category_y"]).all()


def test_the_test_clicks_change_nothing_but_the_test_rows(example, data, tmp_path):
    script = example("ads")
    other = replace(data, test=data.test.assign(ad=(data.test["ad"] + 1) % ADS))
    tasks = [
        script.make_task(each, "uniform", 0, "test", tmp_path / name) for each, name in ((data, "a"), (other, "b"))
    ]
    for name in ("train", "valid", "rival"):
        pd.testing.assert_frame_equal(getattr(tasks[0], name), getattr(tasks[1], name))
    np.testing.assert_array_equal(*(task.version.table("user").vectors for task in tasks))
    assert pairs(tasks[0].test) != pairs(tasks[1].test)


def test_the_test_rows_are_the_same_for_all_seeds(example, data, tmp_path):
    script = example("ads")
    tasks = [script.make_task(data, "popular", seed, "test", tmp_path / str(seed)) for seed in (0, 1)]
    columns = ["user", "ad", "clicked"]
    pd.testing.assert_frame_equal(*(task.test[columns] for task in tasks))
    assert pairs(tasks[0].parts.network) != pairs(tasks[1].parts.network)


def test_features_count_the_clicks_that_they_are_given_and_no_others(example, data):
    script = example("ads")
    counted = pd.DataFrame({"user": [0, 0, 0, 1, 1], "ad": [1, 13, 4, 1, 2]})  # categories 1, 1, 4, 1, 2
    rows = data.ads[data.ads["ad"].isin([25, 4, 2, 1])].assign(user=[1, 0, 0, 0])[["user", *data.ads.columns]]
    found = script.describe(rows, data, counted).set_index("ad")  # ads 1, 2, 4, 25 of users 1, 0, 0, 0
    # Of 5 clicks on 4 ads: ad 1 two, ads 2 and 4 one, ad 25 none; categories 1, 2 and 4 have three, one and one.
    np.testing.assert_allclose(found["ad_clicks"], np.log([3 / 9, 2 / 9, 2 / 9, 1 / 9]))
    np.testing.assert_allclose(found["category_clicks"], np.log([4 / 8, 2 / 8, 2 / 8, 4 / 8]))
    np.testing.assert_allclose(found["same_category"], np.log1p([1, 0, 1, 2]))
    np.testing.assert_allclose(found["same_brand"], np.log1p([1, 0, 0, 2]))  # ad 4 has no brand
    assert found["group"].tolist() == data.users.set_index("user")["group"].reindex([1, 0, 0, 0]).tolist()


def test_co_occurrence_is_a_sum_of_cosines(example):
    script, rng = example("ads"), np.random.default_rng(0)
    matrix = (rng.random((9, 7)) < 0.4).astype(float)
    matrix[1:, 3] = 0.0
    matrix[:2, 3] = 1.0, 0.0  # one click
    user, ad = np.nonzero(matrix)
    clicks = pd.DataFrame({"user": user, "ad": ad})
    asked = pd.DataFrame(np.argwhere(matrix == 0), columns=["user", "ad"])
    expected = []
    for u, i in asked.itertuples(index=False, name=None):
        lengths = np.sqrt((matrix[:, i] @ matrix[:, i]) * (matrix**2).sum(axis=0))
        cosines = np.divide(matrix[:, i] @ matrix, lengths, out=np.zeros(7), where=lengths > 0)
        expected.append(matrix[u] @ cosines)
    np.testing.assert_allclose(script.co_occurrence(asked, clicks), expected, atol=1e-12)


def test_the_logistic_regression_agrees_with_scikit_learn(example):
    script, rng = example("ads"), np.random.default_rng(0)
    x = pd.DataFrame({"a": rng.normal(size=500), "b": rng.random(500) < 0.3})
    y = (rng.random(500) < 1 / (1 + np.exp(1 - x["a"] - x["b"]))).astype(float)
    found = script.logistic_regression(x, y.to_numpy(), x[:7])
    z = (x - x.mean()) / x.std(ddof=0)
    squares = np.column_stack([z, z**2])
    theirs = LogisticRegression(C=1e3, max_iter=1000, tol=1e-9).fit(squares, y).predict_proba(squares[:7])[:, 1]
    np.testing.assert_allclose(found, theirs, atol=1e-4)


def test_the_cosine_is_the_networks_own(example, task):
    script, version = example("ads"), task.version
    rows = task.test.head(50)
    user, ad, relation = version.table("user"), version.table("ad"), version.relations["clicks"]
    expected = []
    for u, a in rows[["user", "ad"]].itertuples(index=False, name=None):
        s = relation.apply(user.vectors[user.rows([u])])[0].astype(float)
        t = ad.vectors[ad.rows([a])[0]].astype(float)
        expected.append(s @ t / np.sqrt((s @ s) * (t @ t)))
    np.testing.assert_allclose(script.cosine(rows, version), expected, atol=1e-5)


def test_floors_do_not_see_the_rows_that_they_are_tested_on(example, task):
    script = example("ads")
    flipped = replace(task, test=task.test.assign(clicked=1 - task.test["clicked"]))
    first, second = (dict(script.floors(each)) for each in (task, flipped))
    assert len(first) == 6
    for name, predicted in first.items():
        np.testing.assert_array_equal(predicted, second[name])
    known = pd.concat([task.parts.network, task.parts.train])
    scores = script.floor_scores(task.valid, task)
    np.testing.assert_allclose(scores["ad_clicks"], script.log_rate(task.valid["ad"], known["ad"]))
    # How often the row's group clicks its category, beside how often it would at the rate of all.
    clicks = known.merge(task.data.ads, on="ad").merge(task.data.users, on="user")
    row = scores.iloc[5]
    of_group, of_category = clicks["group"] == row["group"], clicks["category"] == row["category"]
    rate = (of_category.sum() + 1) / (len(clicks) + clicks["category"].nunique())
    expected = np.log(((of_group & of_category).sum() + 1) / (of_group.sum() * rate + 1))
    np.testing.assert_allclose(row["group_category"], expected)


@pytest.mark.filterwarnings("error")
def test_the_example_runs_and_finds_the_kinds(example, folder, tmp_path, monkeypatch, capsys):
    script = example("ads")
    pytest.importorskip("matplotlib")
    few = ("baseline", "U", "U+A+T", "ids, network's rows too", "U+A+T, history")
    monkeypatch.setattr(script, "SYSTEMS", {name: script.SYSTEMS[name] for name in few})
    monkeypatch.setattr(script, "PAIRS", (("U+A+T", "baseline"), ("U+A+T", "floor: popularity")))
    paths = {name: tmp_path / f"out.{end}" for name, end in (("json", "json"), ("markdown", "md"), ("plot", "png"))}
    words = ["--data", str(folder), "--seeds", "2", *(str(w) for n, p in paths.items() for w in (f"--{n}", p))]
    report = script.main(words)
    assert "4 of each click, uniform over all ads" in capsys.readouterr().out
    rows = Report.load(paths["json"]).to_frame()
    assert len(rows) == len(report.results)
    found = rows[rows["metric"] == "rce"].groupby("name")["value"].mean()
    # The kind decides: among three kinds of equally many ads a perfect model has an AUC of .83 within users.
    assert found["U+A+T"] > found["baseline"] + 10
    assert found["U+A+T"] > 20
    assert found["floor: popularity"] < 5
    difference = rows[(rows["name"] == "U+A+T - baseline") & (rows["metric"] == "rce")]
    np.testing.assert_allclose(difference["value"], found["U+A+T"] - found["baseline"], atol=1e-9)
    assert (difference["low"] < difference["value"]).all()
    assert difference["seed"].isna().all()
    assert set(rows.loc[rows["name"] == "U", "seed"]) == {0, 1}
    assert "| U+A+T | " in paths["markdown"].read_text(encoding="utf-8")
    assert paths["plot"].read_bytes().startswith(b"\x89PNG")


@NO_DATA
def test_the_real_files_hold_what_the_loader_says(example):
    data = example("loaders.taobao").load(REAL)
    assert (len(data.train), len(data.test), len(data.users), len(data.ads)) == (227_108, 54_723, 33_932, 24_624)
    assert data.train["ad"].nunique() == 24_224
    assert (data.ads["brand"] == 0).sum() == 8_631
    parts = example("ads").Parts.of(data, 0)
    known = [pairs(part) for part in (parts.network, parts.train, parts.valid, parts.test)]
    assert sum(map(len, known)) == len(set.union(*known)) == 227_108 + 54_723
