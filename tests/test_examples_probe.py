"""The example of the content probe: what is planted by other arithmetic, the floors by hand, and runs of small ones."""

import importlib
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit

from recokit.metrics import bootstrap_statistic, pr_auc
from recokit.report import Report

pytest.importorskip("torch")
pytest.importorskip("duckdb")
metrics = pytest.importorskip("sklearn.metrics")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def script(monkeypatch):
    """Import it as ``python examples/text_probe.py`` would find its neighbours."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("text_probe")


@pytest.fixture
def planted(monkeypatch):
    """The module of the planted texts, with few words."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("loaders.planted_texts")
    for name, value in {"TOPICS": 3, "COMMON_WORDS": 5, "TOPIC_WORDS": 4, "LABEL_WORDS": 6}.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.fixture
def small(script, monkeypatch):
    """Collections of 600 authors in four communities, with a tenth as many texts."""
    prior = (0.05, 0.1, 0.3, 0.7)
    collections = (
        replace(script.COLLECTIONS[0], prior=prior),
        replace(script.COLLECTIONS[1], prior=(0.65,) * 4),
        replace(script.COLLECTIONS[2], prior=(0.3,) * 4, turned=frozenset({0, 2})),
    )
    settings = {
        "PRIOR": prior, "COLLECTIONS": collections, "AUTHORS": 600, "TEXTS": 3000, "SIZES": (32, 64),
        "PENALTIES": (0.01, 0.1), "BOOTSTRAP": 20,
        "FOLLOWS": replace(script.FOLLOWS, dim=8, epochs=10, batch_size=256, uniform_negatives=50, learning_rate=0.3),
        "PROBE": replace(script.PROBE, learning_rate=0.02, batch_size=256),
        "MULTIPLIED": replace(script.MULTIPLIED, epochs=2),
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setattr(script, name, value)


COMMUNITY = np.array([0, 1, 2, 0, 1, 0])
PRIOR = (0.1, 0.5, 0.8)


def posterior(collection, texts, row, communities):
    """P(label 1 | text), by the sum over all that the text may have come from, with probabilities in turn."""
    words = np.repeat(np.arange(texts.counts.shape[1]), texts.counts[row].toarray().ravel().astype(int))
    weight = {0: 0.0, 1: 0.0}
    for (community, share), topic, label in product(communities.items(), range(texts.topics.shape[1]), (0, 1)):
        turned = int(community in collection.turned)
        chance = share * texts.topics[community, topic]
        chance *= collection.prior[community] if label else 1 - collection.prior[community]
        for word in words:
            chance *= texts.likelihood[turned, topic, label, word]
        weight[label] += chance
    return weight[1] / (weight[0] + weight[1])


@pytest.mark.parametrize("turned", [frozenset(), frozenset({1})])
def test_ceilings_are_the_posteriors_of_a_plain_sum(planted, turned):
    collection = planted.Collection("by hand", PRIOR, lean=1.0, turned=turned)
    author = np.array([0, 1, 2, 4, 5, 2, 3, 1])
    texts = planted.planted_texts(collection, author, COMMUNITY, seed=3)
    found = planted.ceilings(collection, texts, COMMUNITY)
    shares = {0: 3 / 6, 1: 2 / 6, 2: 1 / 6}
    of_text = [posterior(collection, texts, row, shares) for row in range(len(author))]
    of_both = [posterior(collection, texts, row, {COMMUNITY[author[row]]: 1.0}) for row in range(len(author))]
    np.testing.assert_allclose(found.text, of_text, rtol=1e-9)
    np.testing.assert_allclose(found.both, of_both, rtol=1e-9)
    assert found.author.tolist() == [PRIOR[COMMUNITY[name]] for name in author]


def test_without_turned_communities_the_log_odds_are_a_sum_of_words_and_community(planted):
    collection = planted.Collection("sum", PRIOR, lean=1.0)
    author = np.random.default_rng(0).integers(0, 6, 200)
    texts = planted.planted_texts(collection, author, COMMUNITY, seed=0)
    ratio = np.log(texts.likelihood[0, 0, 1] / texts.likelihood[0, 0, 0])
    np.testing.assert_allclose(ratio[: -planted.LABEL_WORDS], 0.0, atol=1e-12)
    expected = logit(np.array(PRIOR))[COMMUNITY[author]] + texts.counts @ ratio
    np.testing.assert_allclose(logit(planted.ceilings(collection, texts, COMMUNITY).both), expected, atol=1e-9)


def test_where_communities_are_alike_the_author_adds_nothing(planted):
    collection = planted.Collection("alike", (0.65,) * 3, lean=1.0)
    author = np.random.default_rng(0).integers(0, 6, 200)
    texts = planted.planted_texts(collection, author, COMMUNITY, seed=0)
    found = planted.ceilings(collection, texts, COMMUNITY)
    np.testing.assert_allclose(found.both, found.text, rtol=1e-9)


def test_texts_are_drawn_as_the_likelihood_says(planted):
    """Ceilings are calibrated, and spelled words are those that were counted."""
    collection = planted.Collection("turned", PRIOR, lean=1.5, turned=frozenset({2}))
    author = np.random.default_rng(0).integers(0, 6, 8000)
    texts = planted.planted_texts(collection, author, COMMUNITY, seed=1)
    for chance in (found := planted.ceilings(collection, texts, COMMUNITY)).text, found.both:
        for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
            inside = (chance >= low) & (chance < high)
            error = np.sqrt(np.mean(chance[inside] * (1 - chance[inside])) / inside.sum())
            assert texts.label[inside].mean() == pytest.approx(chance[inside].mean(), abs=4 * error)
    assert metrics.roc_auc_score(texts.label, found.both) > metrics.roc_auc_score(texts.label, found.text) + 0.05
    spelled = [int(word[1:]) for word in texts.words[5].split()]
    counted = np.bincount(spelled, minlength=texts.counts.shape[1])
    assert counted.tolist() == texts.counts[5].toarray().ravel().tolist()


def test_authors_follow_their_own_community(planted):
    made = planted.planted_communities(authors=500, communities=5, degree=10, noise=0.25, seed=0)
    source, target = made.follows["source"].to_numpy(), made.follows["target"].to_numpy()
    inside = made.community[source] == made.community[target]
    # 3/4 of the draws are of the own community, and a fifth of the rest; duplicates are more often inside.
    assert inside.mean() == pytest.approx(0.75 + 0.25 / 5, abs=0.03)
    assert not (source == target).any()
    assert not made.follows.duplicated().any()
    again = planted.planted_communities(authors=500, communities=5, degree=10, noise=0.25, seed=0)
    pd.testing.assert_frame_equal(made.follows, again.follows)


def test_new_authors_have_no_text_in_training(script):
    authors = np.random.default_rng(0).integers(0, 2000, 20_000)
    part = script.split(authors, 0)
    whole = pd.DataFrame({"author": authors, "part": part}).groupby("author")["part"].nunique() == 1
    names = pd.Series(part).groupby(authors).first()
    shares = names[whole].value_counts() / 2000
    # 10 % and 20 %, and the few of the others whose texts all fall into one part.
    assert shares["valid"] == pytest.approx(0.1, abs=0.02)
    assert shares["test"] == pytest.approx(0.2, abs=0.03)
    assert np.mean(part == "train") == pytest.approx(0.7 * 0.7, abs=0.02)
    assert (script.split(authors, 0) == part).all()
    rows = pd.DataFrame({"author": authors, "label": 0, "part": part})
    segments = script.Task("t", rows, {}, {}, {}).segments
    known = set(authors[part == "train"])
    assert segments["t, known authors"].tolist() == [author in known for author in authors[part == "test"]]
    assert (segments["t, new authors"] != segments["t, known authors"]).all()
    assert segments["t"].all()


def test_floors_by_hand(script):
    """The first of four authors and the second follow each other, the first follows the third, that one the fourth."""
    rows = pd.DataFrame(
        [(0, 1, "train"), (0, 0, "train"), (1, 1, "train"), (1, 1, "test"), (2, 0, "valid"), (3, 0, "train")],
        columns=["author", "label", "part"],
    )
    follows = pd.DataFrame([(0, 1), (1, 0), (0, 2), (2, 3)], columns=["source", "target"])
    found = script.with_floors(rows, follows)
    prior, weight = 2 / 4, script.SMOOTHING

    def odds(ones, texts):
        share = (ones + weight * prior) / (texts + weight)
        return np.log(share / (1 - share))

    # A training text's own label is not among those that its author is judged by.
    assert found["own_share"].tolist() == pytest.approx(
        [odds(*of) for of in ((0, 1), (1, 1), (0, 0), (1, 1), (0, 0), (0, 0))]
    )
    assert np.expm1(found["own_texts"]).tolist() == pytest.approx([1, 1, 0, 1, 0, 0])
    # Around 0 is 1 (once, though both follow) and 2, who has no training text, as around 3; around 2 are 0 and 3.
    around = [(1, 1), (1, 1), (1, 2), (1, 2), (1, 3), (0, 0)]
    assert found["neighbours_share"].tolist() == pytest.approx([odds(*of) for of in around])
    assert np.expm1(found["follows"]).tolist() == pytest.approx([2, 2, 1, 1, 1, 0])
    assert np.expm1(found["followers"]).tolist() == pytest.approx([1, 1, 1, 1, 1, 1])


def test_the_network_is_of_follows_alone(script, small, monkeypatch):
    seen = []
    monkeypatch.setattr(script, "train", lambda graph, config: seen.append(graph) or train(graph, config))
    from pretrain import train

    follows = pd.DataFrame({"source": [0, 1, 2, 3], "target": [1, 2, 3, 0]})
    script.author_vectors(follows, 0)
    (graph,) = seen
    assert list(graph.relations) == ["follows"]
    assert len(graph.edges["follows"]) == 4
    assert list(graph.entities) == ["author"]


def test_the_encoder_knows_training_texts_alone(script):
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 30, 12)) for _ in range(100)]
    encode = script.encoder(texts, 4)
    vectors = encode(texts)
    np.testing.assert_allclose(vectors.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(vectors.std(axis=0), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(encode(["unheard of"]), encode([""]))


def test_measures_agree_with_scikit_learn_and_differences_are_paired(script, monkeypatch):
    monkeypatch.setattr(script, "BOOTSTRAP", 200)
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"author": rng.integers(0, 60, 400), "label": rng.integers(0, 2, 400), "part": "test"})
    rows.loc[:99, "part"] = "train"
    test = rows[rows["part"] == "test"]
    text = rng.normal(size=300) + test["label"].to_numpy()
    better = text + test["label"].to_numpy()
    scores = {script.TEXT: text, script.AUTHOR: better, script.CEILING: better}
    report = Report(script.measure_task(script.Task("t", rows, {}, {}, {}), scores, seed=0))
    known = test["author"].isin(rows.loc[:99, "author"]).to_numpy()
    for group, part in (("t", slice(None)), ("t, known authors", known), ("t, new authors", ~known)):
        label = test["label"].to_numpy()[part]
        for name, values in scores.items():
            expected = metrics.average_precision_score(label, values[part])
            assert report.value("pr_auc", name=name, group=group) == pytest.approx(expected)
            assert report.value("auc", name=name, group=group) == pytest.approx(
                metrics.roc_auc_score(label, values[part])
            )
        a, b = (metrics.average_precision_score(label, of[part]) for of in (better, text))
        name = "text + author - text"
        assert report.value("pr_auc", name=name, group=group) == pytest.approx(a - b)
        assert report.value("gain", name=name, group=group) == pytest.approx(100 * (a - b) / b)
    rows = {(row.name, row.metric): row for row in report.results if row.group == "t"}
    expected = bootstrap_statistic(pr_auc, test["label"], text, groups=test["author"], samples=200, seed=0)
    found = rows[script.TEXT, "pr_auc"]
    assert (found.value, found.low, found.high) == pytest.approx(expected)
    # The same scores differ by nothing in every resample; what is better in all is never worse.
    alike = rows["ceiling of text - text", "pr_auc"], rows["text + author - text", "pr_auc"]
    assert alike[0].value == alike[1].value
    assert 0 < alike[1].low < alike[1].value < alike[1].high
    separate = [rows[name, "pr_auc"] for name in (script.TEXT, script.AUTHOR)]
    assert alike[1].high - alike[1].low < sum(row.high - row.low for row in separate)


def test_the_papers_relative_gain_is_of_the_value_with_authors(script):
    baseline, with_author = 0.4692, 0.5161
    value, drawn = script._gain(with_author, baseline, np.array([with_author]), np.array([baseline]))
    assert value == drawn[0] == pytest.approx(9.9957, abs=1e-4)
    assert 100 * (with_author - baseline) / with_author == pytest.approx(9.0874, abs=1e-4)
    assert script._gain(0.7174, 0.7274, np.ones(1), np.ones(1))[0] == pytest.approx(-1.3748, abs=1e-4)


def test_reviews_are_read_once_a_pair_and_widened(script, tmp_path):
    from scipy.io import savemat

    table = np.array([[1, 7, 3, 5, 1], [1, 7, 3, 4, 6], [2, 60_000, 28, 0, 2]], dtype=np.uint16)
    savemat(tmp_path / "rating.mat", {"rating": table})
    found = script.ciao_reviews.load(tmp_path)
    assert found.to_numpy().tolist() == [[1, 7, 3, 4, 6], [2, 60_000, 28, 0, 2]]
    assert (found["item"] + found["item"]).max() == 120_000
    with pytest.raises(script.ciao_reviews.DataError, match=r"rating.mat is not there"):
        script.ciao_reviews.load(tmp_path / "elsewhere")


def test_a_small_run_finds_what_is_planted(script, small, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("COLUMNS", "300")
    paths = [tmp_path / name for name in ("out.json", "out.md", "out.png")]
    words = [f"{word}={path}" for word, path in zip(("--json", "--markdown", "--plot"), paths, strict=True)]
    report = script.main(["--seeds", "1", *words])
    frame = report.to_frame()
    found = frame[frame["metric"] == "pr_auc"].set_index(["group", "name"])["value"]
    text, author, known = (found["mixed", name] for name in (script.TEXT, script.AUTHOR, script.CEILING))
    assert author > text + 0.08
    assert text < known + 0.02  # but for the luck of a sample
    assert author < found["mixed", script.BOTH_CEILING] + 0.02
    assert found["mixed, new authors", script.AUTHOR] > found["mixed, new authors", "text + author's texts"] + 0.03
    assert found["mixed", "text + shuffled vectors"] < text + 0.05
    assert found["offensive", script.AUTHOR] == pytest.approx(found["offensive", script.TEXT], abs=0.03)
    assert found["turned", "text + planted community"] < 0.4 < found["turned", script.BOTH_CEILING]
    for name in (script.TEXT, script.AUTHOR):
        assert found["mixed", name] == pytest.approx(found["mixed", f"{name}, scikit-learn"], abs=0.06)
    assert all(path.stat().st_size for path in paths)
    shown = capsys.readouterr().out
    assert "neighbours' texts" in shown
    assert "says nothing about real data" in shown
    assert len(Report.load(paths[0]).results) == len(report.results)


def test_a_small_run_of_reviews(script, small, tmp_path):
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    users, community = np.repeat(np.arange(1, 201), 6), np.arange(201) % 2
    helpful = np.where(rng.random(1200) < 0.1 + 0.6 * community[users], 5, 1)
    reviews = np.stack([users, np.arange(1200), rng.integers(1, 4, 1200), rng.integers(0, 6, 1200), helpful], axis=1)
    one, other = rng.integers(1, 101, (2, 2000)) * 2
    trust = np.concatenate([np.stack([one, other], axis=1), np.stack([one - 1, other - 1], axis=1)])
    savemat(tmp_path / "rating.mat", {"rating": reviews})
    savemat(tmp_path / "trust.mat", {"trustnetwork": trust})
    task = script.review_task(tmp_path, 0)
    assert task.rows["label"].tolist() == (helpful == 5).astype(int).tolist()
    content = np.asarray(task.tables["text"].vectors)[task.tables["text"].rows(task.rows["text"].to_numpy())]
    assert content.sum(axis=1).tolist() == [2.0] * 1200
    assert content.argmax(axis=1).tolist() == reviews[:, 2].tolist()
    scores = {name: script.probe(task, script.SYSTEMS[name], 0) for name in (script.TEXT, script.AUTHOR)}
    label = task.part("test")["label"]
    before, after = (metrics.average_precision_score(label, of) for of in scores.values())
    assert after > before + 0.2
