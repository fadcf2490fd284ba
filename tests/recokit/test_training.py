"""Training by whole sessions, on sampled negatives, on a share of the negatives, by AUC; and its bar."""

import io
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import torch
import training_data as data
from rich.console import Console

from recokit.errors import ConfigError, DataError
from recokit.features import FeatureSpec
from recokit.frame import SampledNegatives, sample_negatives
from recokit.metrics import roc_auc, undo_downsampling
from recokit.rankers import DLRM, ESMM, FitConfig, LinearProbe, SearchRanker, fit
from recokit.rankers.base import to_tensors
from recokit.rankers.batches import Batches, Place
from recokit.rankers.progress import fit_progress
from recokit.rankers.rows import open_rows

pytestmark = pytest.mark.usefixtures("one_thread")


# --- whole sessions ------------------------------------------------------------------------------------------------

SESSIONS = FeatureSpec(dense=["number"], label="label", group="session")


def sessions(num_rows=200, first=0):
    random = np.random.default_rng(2)
    ids = np.repeat(np.arange(num_rows), random.integers(1, 9, num_rows))[:num_rows] + first
    return pd.DataFrame({"number": np.arange(num_rows, dtype=float) + first, "session": ids, "label": 1})


def in_sessions(source, *, batch_size=16, shuffle_rows=60, seed=3):
    rows = open_rows(source, ["number", "session", "label"], held=shuffle_rows, group="session")
    fitted = SESSIONS.fit(pd.DataFrame({"number": [-1.0, 1.0]}))  # mean 0, deviation 1: numbers stay what they are
    return Batches(rows, fitted, batch_size=batch_size, shuffle_rows=shuffle_rows, seed=seed, by_group=True)


def numbers_of(batches, place):
    return [(after, batch.dense[:, 0].astype(int).tolist()) for after, batch in batches.epoch(place)]


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("batch_size", [1, 16, 60])
def test_a_batch_holds_whole_sessions_and_about_as_many_rows_as_it_should(tmp_path, held, batch_size):
    frame = sessions()
    session_of = dict(zip(frame["number"].astype(int), frame["session"], strict=True))
    # Two files whose border, like most of those of the row groups, cuts a session
    data.write(frame[:97], tmp_path / "a.parquet", 10)
    data.write(frame[97:], tmp_path / "b.parquet", 10)
    epochs = [numbers_of(in_sessions(frame if held else tmp_path, batch_size=batch_size), Place(e)) for e in (1, 2)]
    for epoch in epochs:
        batches = [numbers for _, numbers in epoch]
        assert sorted(chain(*batches)) == list(range(200))
        for numbers in batches:
            for session in {session_of[number] for number in numbers}:
                whole = [number for number in numbers if session_of[number] == session]
                assert whole == frame.loc[frame["session"] == session, "number"].tolist()
                at = numbers.index(whole[0])
                assert numbers[at : at + len(whole)] == whole  # one behind the other, as they came
            assert len(numbers) < batch_size + 9
        if held and batch_size > 9:  # in files the last buffer may hold a few rows
            assert min(map(len, batches)) > batch_size / 2 - 9
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("held", [True, False])
def test_an_epoch_of_sessions_goes_on_from_every_place(tmp_path, held):
    source = sessions() if held else data.write(sessions(), tmp_path / "a.parquet", 10)
    whole = numbers_of(in_sessions(source), Place(2))
    for done, (after, _) in enumerate(whole, start=1):
        assert numbers_of(in_sessions(source), after) == whole[done:]


def test_sessions_in_memory_may_lie_scattered_in_files_they_may_not(tmp_path):
    frame = sessions().sample(frac=1, random_state=0)
    assert sorted(chain(*(numbers for _, numbers in numbers_of(in_sessions(frame), Place())))) == list(range(200))
    with pytest.raises(DataError, match=r"rows of session \d+ stand in \d+ places of the files.*sort the files"):
        in_sessions(data.write(frame, tmp_path / "a.parquet", 10))
    data.write(sessions(), tmp_path / "b.parquet", 10)
    data.write(sessions().head(1), tmp_path / "c.parquet", 10)  # far from the others of its session
    with pytest.raises(DataError, match="rows of session 0 stand in 2 places"):
        in_sessions([tmp_path / "b.parquet", tmp_path / "c.parquet"])
    with pytest.raises(DataError, match=r"'session': 1 of 10 are null"):
        in_sessions(data.write(frame.assign(session=[None, *["s"] * 199]), tmp_path / "d.parquet", 10))
    with pytest.raises(DataError, match="1 of 200 rows have no 'session'"):
        in_sessions(frame.assign(session=[None, *[1] * 199]))


@pytest.mark.parametrize("held", [True, False])
def test_a_listwise_ranker_trains_on_whole_sessions(tmp_path, held):
    train, valid = data.rows(900), data.rows(300, seed=1)
    source = train if held else data.write(train, tmp_path / "t.parquet", 50)
    seen = []

    class Watched(SearchRanker):
        def loss(self, logits, batch):
            if self.training:
                seen.append(batch.group.tolist())
            return super().loss(logits, batch)

    ranker = Watched(data.spec(group="session", bags=[]), dim=4, hidden=(8,), loss="listwise")
    config = FitConfig(epochs=2, batch_size=64, learning_rate=1e-2, shuffle_rows=300 if not held else 10**6)
    result = fit(ranker, source, valid, config)
    assert sum(map(len, seen)) == 2 * 900
    assert sum(len(set(groups)) for groups in seen) == 2 * train["session"].nunique()  # no session in two batches
    # The validation loss is that of all sessions at once, whatever the batches: here sessions are written out.
    batch = to_tensors(ranker.features.batch(valid), torch.device("cpu"))
    scores = ranker(batch).detach().double().numpy()
    losses = []
    for _, rows in valid.groupby("session"):
        s, y = scores[rows.index], rows["clicked"].to_numpy(float)
        if len(rows) > 1 and y.sum():
            losses.append(-(y * (s - np.log(np.exp(s).sum()))).sum() / y.sum())
    assert result.best.valid_log_loss == pytest.approx(np.mean(losses), rel=1e-6)


def test_a_ranker_of_sessions_needs_to_know_them():
    class Grouped(DLRM):
        batches_by_group = True

    with pytest.raises(ConfigError, match="whole groups in a batch, and its spec names none"):
        fit(Grouped(data.spec(), dim=2), data.rows(20), None)


# --- negatives -----------------------------------------------------------------------------------------------------


def liked(num_rows=1500, seed=0):
    rows = data.rows(num_rows, seed)
    return rows[rows["clicked"]].drop(columns="clicked").drop_duplicates(["user", "item"]).reset_index(drop=True)


def negatives(**changes):
    return SampledNegatives(**{"catalog": range(data.NUM_IDS), "column": "item", "query": "user", "ratio": 3} | changes)


@pytest.mark.parametrize("held", [True, False])
def test_every_epoch_draws_other_negatives_and_never_a_known_positive(tmp_path, held):
    positives = liked()
    seen = []

    class Watched(DLRM):
        def loss(self, logits, batch):
            seen.append((batch.rows["user"].tolist(), batch.rows["item"].tolist(), batch.labels[:, 0].tolist()))
            return super().loss(logits, batch)

    ranker = Watched(data.spec(), dim=4, bottom=(4,), top=(4,))
    source = positives if held else data.write(positives, tmp_path / "t.parquet", 40)
    fit(ranker, source, None, FitConfig(epochs=2, batch_size=128, shuffle_rows=700), negatives=negatives())
    known = {(int(user[1:]), item) for user, item in zip(positives["user"], positives["item"], strict=True)}
    drawn = []
    steps = len(seen) // 2
    for epoch in (seen[:steps], seen[steps:]):
        users, items, labels = (list(chain(*parts)) for parts in zip(*epoch, strict=True))
        pairs = list(zip(users, items, strict=True))
        assert sorted(pair for pair, label in zip(pairs, labels, strict=True) if label) == sorted(known)
        drawn.append(sorted(pair for pair, label in zip(pairs, labels, strict=True) if not label))
        assert len(drawn[-1]) == 3 * len(known)
        assert not known.intersection(drawn[-1])
        assert sorted(user for user, _ in drawn[-1]) == sorted(3 * [user for user, _ in known])
    assert drawn[0] != drawn[1]


def test_drawn_negatives_teach_what_drawn_rows_do():
    test = sample_negatives(liked(seed=1), range(data.NUM_IDS), column="item", query="user", ratio=3, seed=5)
    test = test.rename(columns={"label": "clicked"})
    ranker = data.ranker()
    config = FitConfig(epochs=8, batch_size=64, learning_rate=1e-2)
    fit(ranker, liked(), test, config, negatives=negatives())
    users = test["user"].str[1:].astype(int)
    planted = (data.VECTORS["user"][users] * data.VECTORS["item"][test["item"]]).sum(axis=1)
    reached, best = roc_auc(test["clicked"], ranker.predict(test)), roc_auc(test["clicked"], planted)
    assert reached - 0.5 > 0.85 * (best - 0.5)
    assert ranker.predict(test).mean() == pytest.approx(0.25, abs=0.03)  # one positive, three negatives


def test_attributes_of_items_come_from_the_catalog():
    catalog = pd.DataFrame({"item": range(data.NUM_IDS), "weight": 1.0 * np.arange(data.NUM_IDS)})
    spec = FeatureSpec(dense=["weight"], categorical={"user": 60}, label="clicked")
    fit(ranker := DLRM(spec, dim=2), liked(), None, FitConfig(epochs=1), negatives=negatives(catalog=catalog))
    expected = sample_negatives(liked(), catalog, column="item", query="user", ratio=3, seed=0)["weight"]
    mean = ranker.features.statistics.mean[0]
    assert mean == pytest.approx(expected.mean(), abs=1.5)  # standardised over negatives, too
    assert abs(mean - catalog["weight"].iloc[liked()["item"]].mean()) > 0


def test_negatives_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"negatives is for a ranker of one label, this one has 2: clicked, old"):
        fit(data.ranker(label=["clicked", "old"]), liked(), None, negatives=negatives())
    with pytest.raises(ConfigError, match="negatives is a dict, expected SampledNegatives"):
        fit(data.ranker(), liked(), None, negatives={})
    with pytest.raises(DataError, match=r"\d+ of \d+ rows to draw negatives for have a 'clicked' that is not 1"):
        fit(data.ranker(), data.rows(50), None, negatives=negatives())
    with pytest.raises(DataError, match="no column 'viewer'"):
        fit(data.ranker(), data.write(liked(), tmp_path / "t.parquet", 99), None, negatives=negatives(query="viewer"))


# --- a share of the negatives ----------------------------------------------------------------------------------------


def test_probabilities_are_those_of_all_impressions_when_a_share_of_the_negatives_was_kept():
    random = np.random.default_rng(0)
    x = random.normal(size=60_000)
    p = 1 / (1 + np.exp(3.5 - x))
    frame = pd.DataFrame({"x": x, "y": random.random(len(x)) < p})
    rate = 0.1
    kept = frame[frame["y"] | (random.random(len(frame)) < rate)]
    spec = FeatureSpec(dense=["x"], label="y")
    config = {"epochs": 6, "batch_size": 256, "learning_rate": 3e-2, "weight_decay": 0.0}
    fit(sampled := LinearProbe(spec, l2=0.0), kept, None, FitConfig(**config))
    fit(corrected := LinearProbe(spec, l2=0.0), kept, None, FitConfig(**config, negative_rate=rate))
    assert sampled.predict(kept).mean() == pytest.approx(kept["y"].mean(), rel=0.05)
    # He et al. 2014, 6.3: p / (p + (1 - p) / rate)
    np.testing.assert_allclose(corrected.predict(frame), undo_downsampling(sampled.predict(frame), rate), rtol=1e-6)
    assert corrected.offset.tolist() == pytest.approx([np.log(rate)])
    assert corrected.predict(frame).sum() / frame["y"].sum() == pytest.approx(1, abs=0.06)  # 2,500 positives
    np.testing.assert_allclose(corrected.predict(frame), p, rtol=0.3)


def test_the_rate_of_drawn_negatives_follows_from_the_base_rate():
    base, ratio, impressions = 0.02, 4, 1_000_000
    positives = base * impressions
    kept = ratio * positives / (impressions - positives)  # of the negatives
    assert kept == pytest.approx(ratio * base / (1 - base))  # what FitConfig says
    assert undo_downsampling([1 / (1 + ratio)], kept) == pytest.approx(base)


def test_impressions_without_a_click_that_were_left_out_do_not_touch_conversions_after_clicks():
    frame = data.rows(400).assign(bought=lambda rows: rows["clicked"] & (rows["age"] > 40))
    spec = data.spec(label=["clicked", "bought"])
    fit(plain := ESMM(spec, dim=2, tower=(4,)), frame, None, FitConfig(epochs=1))
    fit(corrected := ESMM(spec, dim=2, tower=(4,)), frame, None, FitConfig(epochs=1, negative_rate=0.1))
    clicks = undo_downsampling(plain.predict(frame)[:, 0], 0.1)
    bought = clicks * plain.conversion_after_click(frame)
    np.testing.assert_allclose(corrected.predict(frame), np.stack([clicks, bought], axis=1), rtol=1e-5)


def test_rates_that_cannot_be_are_refused():
    for rate in (0, float("inf"), -1, float("nan")):
        with pytest.raises(ConfigError, match=r"negative_rate is .* expected a share"):
            FitConfig(negative_rate=rate)
    with pytest.raises(ConfigError, match="negative_rate is for a ranker of one label, this one has 2"):
        fit(data.ranker(label=["clicked", "old"]), data.rows(9), None, FitConfig(negative_rate=0.5))


# --- what to stop by -------------------------------------------------------------------------------------------------


def test_training_stops_by_the_auc_where_it_should():
    train, valid = data.rows(400), data.rows(300, seed=1).assign(w=np.linspace(0, 1, 300))
    spec = data.spec(categorical={"country": 3, "user": 60}, weight="w")
    ranker = DLRM(spec, dim=4, bottom=(4,), top=(4,))
    config = FitConfig(epochs=30, batch_size=32, learning_rate=0.02, metric="auc", patience=3)
    result = fit(ranker, train.assign(w=1.0), valid, config)
    areas = [seen.valid_auc for seen in result.history]
    assert result.best == result.history[int(np.argmax(areas))]
    assert len(areas) == np.argmax(areas) + 1 + 3
    area = roc_auc(valid["clicked"], ranker.predict(valid), weight=valid["w"])
    assert area == pytest.approx(result.best.valid_auc, abs=1e-6)
    assert np.argmax(areas) != np.argmin([seen.valid_log_loss for seen in result.history])
    with pytest.raises(DataError, match="one class alone"):
        fit(DLRM(spec), train.assign(w=1.0), valid[valid["clicked"]], config)
    with pytest.raises(ConfigError, match="metric is 'AUC'; known: auc, log_loss"):
        FitConfig(metric="AUC")


# --- the bar ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_sees_a_bar_and_nobody_else_anything(is_terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=120)
    with fit_progress("clicks [red]", console) as callback:
        fit(data.ranker(), data.rows(300), data.rows(50, seed=1), FitConfig(epochs=2, batch_size=64), callback=callback)
    assert ("clicks [red]" in out.getvalue()) is is_terminal
    if is_terminal:
        assert "10/10" in out.getvalue()
        assert "valid 0." in out.getvalue()
    else:
        assert out.getvalue() == ""
