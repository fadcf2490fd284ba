"""The search for settings: what it tries, what it keeps, and that a search that was stopped is none the worse."""

import dataclasses
import itertools
import json
import math
import shutil
import statistics
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pretrain.config import TrainConfig
from pretrain.planted import planted_blocks
from pretrain.settings import load_settings
from pretrain.train import train
from pretrain.tune import check_space, default_space, tune
from recokit.errors import ConfigError, DataError, FormatError, MissingDependencyError, VersionError
from recokit.store import EmbeddingStore

pytest.importorskip("optuna")

GRAPH, VALIDATION = planted_blocks(users=24, items=24, blocks=3, degree=6).split(fraction=0.2, seed=1)
CONFIG = TrainConfig(dim=4, epochs=3, uniform_negatives=5)
SPACE = {"learning_rate": {"low": 0.01, "high": 1.0, "log": True}, "dim": [2, 4, 8]}


def settings_of(found):
    """The table but for the time that it took, as it compares."""
    return found.trials.drop(columns="seconds").astype(object).where(found.trials.notna(), None).to_dict("records")


def pretend(monkeypatch, curve):
    """Replace training by the metric (E,) that ``curve`` gives for the settings; return the settings trained."""
    trained = []

    def fake(graph, config, *, callback, **_):
        trained.append(config)
        for epoch, value in enumerate(curve(config), start=1):
            callback({"event": "epoch", "epoch": epoch, "epochs": config.epochs, config.metric: value})

    monkeypatch.setattr("pretrain.tune.train", fake)
    return trained


# -- what is found ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, TrainConfig(dim=4, epochs=3, uniform_negatives=5, metric="hits@3")])
def test_training_with_the_best_settings_gives_the_value_of_the_table(config):
    found = tune(GRAPH, VALIDATION, config, space=SPACE, trials=4)
    best = found.trials.iloc[0]
    assert (found.config.learning_rate, found.config.dim) == (best["learning_rate"], best["dim"])
    model = train(GRAPH, found.config, validation=VALIDATION)
    assert found.value == best[config.metric] == max(record[config.metric] for record in model.epochs)
    assert best["epoch"] == model.meta["best_epoch"]
    assert found.trials[config.metric].is_monotonic_decreasing
    assert sorted(found.trials["trial"]) == [0, 1, 2, 3]


def test_the_seed_decides_what_is_tried():
    first, again = (tune(GRAPH, VALIDATION, CONFIG, space=SPACE, trials=3) for _ in range(2))
    assert settings_of(first) == settings_of(again)
    other = tune(
        GRAPH, VALIDATION, TrainConfig(dim=4, epochs=3, uniform_negatives=5, seed=2**40), space=SPACE, trials=3
    )
    assert set(other.trials["learning_rate"]).isdisjoint(first.trials["learning_rate"])


def test_the_search_comes_near_the_best_learning_rate(monkeypatch):
    pretend(monkeypatch, lambda config: [-(math.log10(config.learning_rate / 0.1) ** 2)] * 3)
    space = {"learning_rate": {"low": 1e-5, "high": 10.0, "log": True}}
    assert 0.05 < tune(GRAPH, VALIDATION, CONFIG, space=space, trials=40).config.learning_rate < 0.2


def test_a_range_gives_whole_numbers_to_whole_settings_alone_and_both_its_ends(monkeypatch):
    trained = pretend(monkeypatch, lambda config: [0.5])
    space = {
        "dim": {"low": 2, "high": 4},
        "batch_size": {"low": 1, "high": 1000, "log": True},
        "margin": {"low": 1, "high": 3},
        "loss": ["ranking"],
    }
    tune(GRAPH, VALIDATION, CONFIG, space=space, trials=40)
    assert {config.dim for config in trained} == {2, 3, 4}
    assert all(type(config.batch_size) is int and 1 <= config.batch_size <= 1000 for config in trained)
    # By its logarithm half of the draws lie under the root of the range; evenly, 3 % of them would.
    assert sum(config.batch_size < 32 for config in trained) > 10
    assert all(1 <= config.margin <= 3 for config in trained)
    assert len({config.margin for config in trained}) == 40


def test_lists_alone_are_tried_once_each_and_then_the_search_ends(monkeypatch, tmp_path):
    trained = pretend(monkeypatch, lambda config: [config.dim / 100])
    space = {"dim": [2, 4, 8], "log_q": [True, False]}
    tune(GRAPH, VALIDATION, CONFIG, space=space, trials=4, journal=tmp_path / "j")
    found = tune(GRAPH, VALIDATION, CONFIG, space=space, trials=20, journal=tmp_path / "j")
    assert {(config.dim, config.log_q) for config in trained} == {(d, q) for d in (2, 4, 8) for q in (True, False)}
    assert found.config.dim == 8
    fresh = len(trained)
    assert len(tune(GRAPH, VALIDATION, CONFIG, space=space, trials=20).trials) == len(trained) - fresh == 6


# -- trials that do not come to an end -------------------------------------------------------------------------------


def test_a_trial_under_the_median_is_stopped_and_counts_as_a_trial(monkeypatch):
    config = TrainConfig(dim=4, epochs=9)
    pretend(monkeypatch, lambda config: [config.learning_rate * epoch for epoch in range(1, 10)])
    records = []
    found = tune(
        GRAPH,
        VALIDATION,
        config,
        space={"learning_rate": {"low": 0.1, "high": 1.0}},
        trials=20,
        callback=lambda event: event["event"] == "trial" and records.append(event),
    )
    complete = []
    for record in records:
        rate, curve = record["settings"]["learning_rate"], dict(record["curve"])
        if len(complete) >= 5 and rate < statistics.median(complete):  # every curve is its rate times the epoch
            assert (record["state"], list(curve)) == ("pruned", [1, 2, 3])
        else:
            assert (record["state"], list(curve)) == ("complete", list(range(1, 10)))
            complete.append(rate)
        assert record["value"] == rate * len(curve)
    assert len(records) == len(found.trials) == 20
    assert 5 <= len(complete) < 20
    assert list(found.trials["state"]) == ["complete"] * len(complete) + ["pruned"] * (20 - len(complete))
    assert found.config.learning_rate == max(complete)


def test_a_trial_that_fails_is_told_and_the_search_goes_on():
    config = TrainConfig(dim=4, epochs=3, uniform_negatives=5, comparator="dot")
    found = tune(GRAPH, VALIDATION, config, space={"learning_rate": [0.1, 1e30]}, trials=2)
    assert list(found.trials["state"]) == ["complete", "failed"]
    assert found.config.learning_rate == 0.1
    assert pd.isna(found.trials["error"][0])
    assert found.trials["error"][1].startswith("train: ")


def test_too_little_memory_is_a_failure_of_the_trial_alone(monkeypatch):
    def curve(config):
        if config.dim == 8:
            raise MemoryError("too large")
        return [0.5]

    pretend(monkeypatch, curve)
    found = tune(GRAPH, VALIDATION, CONFIG, space={"dim": [4, 8]}, trials=2)
    assert found.config.dim == 4
    assert found.trials[["dim", "state", "error"]].to_numpy().tolist()[1] == [8, "failed", "too large"]


def test_a_search_whose_trials_all_fail_says_why():
    config = TrainConfig(dim=4, epochs=3, operator="complex_diagonal", uniform_negatives=5)
    with pytest.raises(DataError, match=r"none of 2 trials came to an end; the last: .*\bdim"):
        tune(GRAPH, VALIDATION, config, space={"dim": [3, 5]}, trials=2)
    with pytest.raises(DataError, match="none of 0 trials"):
        tune(GRAPH, VALIDATION, config, trials=2, seconds=0)


def test_restarts_are_one_trial_whose_epochs_are_told_apart():
    config = TrainConfig(dim=4, epochs=3, uniform_negatives=5, restarts=2)
    records = []
    found = tune(
        GRAPH,
        VALIDATION,
        config,
        space={"learning_rate": [0.01, 0.3]},
        trials=2,
        callback=lambda event: event["event"] == "trial" and records.append(event),
    )
    for record in records:
        values = []
        for seed in (0, 1):
            one = TrainConfig(dim=4, epochs=3, uniform_negatives=5, seed=seed, **record["settings"])
            values += [epoch["mrr"] for epoch in train(GRAPH, one, validation=VALIDATION).epochs]
        assert [step for step, _ in record["curve"]] == [1, 2, 3, 4, 5, 6]
        assert [best for _, best in record["curve"]] == np.maximum.accumulate(values).tolist()
        assert record["value"] == max(values)
    assert found.value == max(record["value"] for record in records)


# -- the journal -----------------------------------------------------------------------------------------------------


def test_a_search_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    whole = tune(GRAPH, VALIDATION, CONFIG, space=SPACE, trials=7)

    def stop(event):
        if event["event"] == "epoch" and (event["trial"], event["epoch"]) == (3, 2):
            raise KeyboardInterrupt

    journal = tmp_path / "journal"
    with pytest.raises(KeyboardInterrupt):
        tune(GRAPH, VALIDATION, CONFIG, space=SPACE, trials=7, journal=journal, callback=stop)
    assert [trial["trial"] for trial in json.loads(journal.read_text())["trials"]] == [0, 1, 2]
    (tmp_path / "journal.partial").write_text('{"half of')  # what a machine that stops while it writes leaves behind
    begun = []
    resumed = tune(
        GRAPH,
        VALIDATION,
        CONFIG,
        space=SPACE,
        trials=7,
        journal=journal,
        callback=lambda event: event["event"] == "trial" and begun.append(event["trial"]),
    )
    assert begun == [3, 4, 5, 6]
    assert settings_of(resumed) == settings_of(whole)
    assert (resumed.config, resumed.value) == (whole.config, whole.value)
    assert list(tmp_path.iterdir()) == [journal]


def test_a_journal_that_has_all_trials_is_read_and_nothing_is_trained(tmp_path, monkeypatch):
    journal = tmp_path / "journal"
    found = tune(GRAPH, VALIDATION, CONFIG, space=SPACE, trials=3, journal=journal)
    trained = pretend(monkeypatch, lambda config: [0.0])
    # That the best settings stand in the configuration by now makes no difference: they are searched.
    again = tune(GRAPH, VALIDATION, found.config, space=SPACE, trials=2, journal=journal)
    assert (again.value, again.config, trained) == (found.value, found.config, [])
    pd.testing.assert_frame_equal(again.trials, found.trials)


def test_the_journal_of_another_search_is_refused(tmp_path, monkeypatch):
    pretend(monkeypatch, lambda config: [0.5])
    journal = tmp_path / "journal"
    tune(GRAPH, VALIDATION, CONFIG, space=SPACE, trials=1, journal=journal)
    longer = TrainConfig(dim=4, epochs=4, uniform_negatives=5)
    with pytest.raises(VersionError, match="of another search: epochs was 3 and is 4"):
        tune(GRAPH, VALIDATION, longer, space=SPACE, trials=2, journal=journal)
    with pytest.raises(VersionError, match="of another search: space was"):
        tune(GRAPH, VALIDATION, CONFIG, space={**SPACE, "dim": [2, 4]}, trials=2, journal=journal)
    with pytest.raises(VersionError, match="of another search: validation edges was"):
        tune(GRAPH, GRAPH, CONFIG, space=SPACE, trials=2, journal=journal)
    journal.write_text("no journal")
    with pytest.raises(FormatError, match="is not JSON"):
        tune(GRAPH, VALIDATION, CONFIG, space=SPACE, trials=2, journal=journal)


@pytest.mark.parametrize(
    "change",
    [
        lambda trial: {},
        lambda trial: "trial",
        lambda trial: {key: value for key, value in trial.items() if key != "state"},
        lambda trial: trial | {"state": "done"},
        lambda trial: trial | {"trial": 3},
        lambda trial: trial | {"value": None},
        lambda trial: trial | {"settings": {"dim": 4}},
        lambda trial: trial | {"curve": [1, 2]},
    ],
)
def test_a_damaged_trial_of_the_journal_is_named(tmp_path, monkeypatch, change):
    pretend(monkeypatch, lambda config: [0.5])
    journal = tmp_path / "journal"
    tune(GRAPH, VALIDATION, CONFIG, space=SPACE, trials=2, journal=journal)
    content = json.loads(journal.read_text())
    content["trials"][1] = change(content["trials"][1])
    journal.write_text(json.dumps(content))
    with pytest.raises(FormatError, match=r"journal: trials\[1\] is .*, expected trial 1 with state, value"):
        tune(GRAPH, VALIDATION, CONFIG, space=SPACE, trials=3, journal=journal)


def test_a_journal_that_cannot_be_written_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    trained = pretend(monkeypatch, lambda config: [0.5])
    with pytest.raises(ConfigError, match=r"there is no folder .*/none to keep the journal j in"):
        tune(GRAPH, VALIDATION, CONFIG, space=SPACE, trials=1, journal=tmp_path / "none" / "j")
    with pytest.raises(FormatError, match="is a folder, not the journal"):
        tune(GRAPH, VALIDATION, CONFIG, space=SPACE, trials=1, journal=tmp_path)
    assert trained == []


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"dmi": [4]}, "there is no setting 'dmi'; did you mean 'dim'"),
        ({"dim": []}, "dim needs a list of choices or a range of low and high, got"),
        ({"dim": 4}, "dim needs a list of choices"),
        ({"operator": "identity"}, "operator needs a list of choices"),
        ({"dim": [4, 0]}, "dim must be a whole number of at least 1, got 0"),
        ({"dim": {"low": 1.5, "high": 3}}, "dim must be a whole number of at least 1, got 1.5"),
        ({"dim": {"low": 2, "hgih": 3}}, "the range of dim has 'hgih'; did you mean 'high'"),
        ({"l2": {"low": 0.1}}, "the range of l2 goes from low = 0.1 to high = None"),
        ({"l2": {"low": 0.1, "high": 0.1}}, "the range of l2 goes from low = 0.1 to high = 0.1"),
        ({"l2": {"low": 0, "high": 0.1, "log": True}}, "l2 is drawn by its logarithm, so low must be above 0, got 0"),
        ({"l2": {"low": 0.1, "high": math.inf}}, "l2 must be a number of at least 0, got inf"),
        ({"bias": {"low": 0, "high": 1}}, "bias must be true or false, got 0"),
        ({"operator": ["identity", "rotated"]}, "operator 'rotated' is not known"),
        ({"alpha": [{"user": 1.0}]}, "alpha has the choice {'user': 1.0}"),
        ({"metric": ["mrr"]}, "metric is what trials are compared by"),
        ({"evaluate_every": [1, 4]}, "evaluate_every is 4, so 3 epochs show no value"),
        ({"log_q": [True, False], "loss": ["softmax", "ranking"]}, "log_q has no effect under the loss 'ranking'"),
    ],
)
def test_a_bad_space_is_refused_before_anything_is_trained(monkeypatch, space, message):
    trained = pretend(monkeypatch, lambda config: [0.5])
    with pytest.raises(ConfigError) as raised:
        tune(GRAPH, VALIDATION, CONFIG, space=space, trials=3)
    assert message in str(raised.value)
    assert trained == []


def test_values_that_go_together_need_not_go_with_the_settings_they_replace(monkeypatch):
    trained = pretend(monkeypatch, lambda config: [0.5])  # score_offset has no effect under CONFIG's softmax
    tune(GRAPH, VALIDATION, CONFIG, space={"score_offset": [1.0], "loss": ["logistic"]}, trials=1)
    assert [(config.score_offset, config.loss) for config in trained] == [(1.0, "logistic")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"dim": [4, 8, 0]}, "dim must be a whole number of at least 1, got 0"),
        ({"loss": ["softmax", "logistic"], "log_q": [False, True]}, "log_q has no effect under the loss 'logistic'"),
        ({"epochs": [5, 4, 3], "evaluate_every": [1, 2, 4]}, "evaluate_every is 4, so 3 epochs show no value"),
    ],
)
def test_a_space_of_more_combinations_than_can_be_spelled_out_is_checked_and_searched(monkeypatch, change, message):
    trained = pretend(monkeypatch, lambda config: [0.5])
    numbers = {name: [0.1, 0.2, 0.3, 0.4, 0.5] for name in ("l2", "n3", "max_norm", "degree_power", "temperature")}
    counts = {name: [1, 2, 3, 4, 5] for name in ("batch_size", "restarts", "patience", "prevalence_negatives")}
    more = {"learning_rate": [0.1, 0.2, 0.3], "warmup": [0.1, 0.2, 0.3], "init_scale": [0.1, 0.2, 0.3]}
    space = {**numbers, **counts, **more, **change}  # 5**9 * 3**3 combinations, and more
    if message is None:
        assert len(tune(GRAPH, VALIDATION, CONFIG, space=space, trials=2).trials) == len(trained) == 2
    else:
        with pytest.raises(ConfigError, match=message):
            tune(GRAPH, VALIDATION, CONFIG, space=space, trials=2)


def test_whatever_a_combination_would_be_refused_for_a_pair_of_its_values_is():
    space = {
        "loss": ["softmax", "logistic", "ranking"],
        "margin": [1.0, 2.0],
        "log_q": [False, True],
        "epochs": [2, 6],
        "evaluate_every": [1, 3],
    }
    for lengths in itertools.product((1, 2), repeat=len(space)):
        for turn in (1, -1):
            part = {name: values[::turn][:n] for (name, values), n in zip(space.items(), lengths, strict=True)}
            assert refused(check_space, part, CONFIG) == any(refused(alone, chosen) for chosen in every(part))


def every(space):
    return [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*space.values())]


def alone(settings):
    """Raise as training with the settings would, or where no epoch has a validation."""
    config = dataclasses.replace(CONFIG, **settings)
    if config.evaluate_every > config.epochs:
        raise ConfigError("no validation")


def refused(function, *arguments):
    try:
        function(*arguments)
    except ConfigError:
        return True
    return False


def test_the_default_space_is_one_of_each_configuration(monkeypatch):
    pretend(monkeypatch, lambda config: [0.5])
    for config, names in (
        (CONFIG, {"learning_rate", "uniform_negatives", "temperature"}),
        (TrainConfig(comparator="dot", uniform_negatives="all"), {"learning_rate", "l2"}),
        (TrainConfig(comparator="dot", operator="complex_diagonal"), {"learning_rate", "uniform_negatives", "n3"}),
    ):
        assert set(default_space(config)) == names
        assert names <= set(tune(GRAPH, VALIDATION, config, trials=1).trials.columns)


def test_without_optuna_the_pip_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependencyError, match=r"'optuna'.*pip install 'recokit\[tune\]'"):
        tune(GRAPH, VALIDATION, CONFIG)


# -- the command -----------------------------------------------------------------------------------------------------

FILE = """\
version = "v1"
output = "store"
[[relation]]
name = "clicks"
source = "user"
target = "ad"
path = "clicks.csv"
[split]
fraction = 0.1
[tune]
metric = "hits@5"
[tune.space]
learning_rate = { low = 1e-7, high = 1.0, log = true }
operator = ["identity", "translation"]
[train]
dim = 4
epochs = 3
uniform_negatives = 5
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a configuration and its edges; the working folder."""
    draw = np.random.default_rng(0)
    rows = pd.DataFrame({"source": draw.integers(20, size=150), "target": draw.integers(15, size=150)})
    rows.to_csv(tmp_path / "clicks.csv", index=False)
    (tmp_path / "c.toml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_pretraining_with_what_is_printed_gives_the_value_that_is_printed(project, run_cli):
    ran = run_cli("tune", "c.toml", "--trials", "4", "--json")
    document = json.loads(ran.out)
    assert [row["hits@5"] for row in document["trials"]] == sorted(
        (r["hits@5"] for r in document["trials"]), reverse=True
    )
    assert document["settings"].items() <= document["trials"][0].items()
    printed = ran.err[ran.err.index("[train]") : ran.err.index("the search is kept in store/.v1.tune")]
    said = tomllib.loads(printed)
    assert said["train"] == {**document["settings"], "metric": "hits@5"}
    assert said["validation"] == {"fraction": 0.1, "seed": 1}
    train_table, validation_table = printed.split("[validation]")
    text = FILE.replace("[train]\n", train_table) + "[validation]" + validation_table
    (project / "best.toml").write_text(text)
    best = load_settings(project / "best.toml")
    assert {name: getattr(best.train, name) for name in document["settings"]} == document["settings"]
    epochs = json.loads(run_cli("pretrain", "best.toml", "--json").out)["epochs"]
    assert max(epoch["hits@5"] for epoch in epochs) == document["value"]
    assert EmbeddingStore("store").versions() == ["v1"]


def test_a_search_that_is_there_is_gone_on_with_only_when_asked(project, run_cli):
    first = json.loads(run_cli("tune", "c.toml", "--trials", "2", "--json").out)
    assert EmbeddingStore("store").versions() == []
    refused = run_cli("tune", "c.toml")
    assert refused.code == 2
    assert "store/.v1.tune holds a search: go on with it (--resume), or remove the file" in refused.err
    more = json.loads(run_cli("tune", "c.toml", "--trials", "3", "--resume", "--json").out)
    assert len(more["trials"]) == 3
    assert all(row in more["trials"] for row in first["trials"])
    no_time = json.loads(run_cli("tune", "c.toml", "--seconds", "0", "--resume", "--json").out)
    assert no_time == more


def test_failed_trials_are_told_in_a_line_each(project, run_cli):
    text = FILE.replace("{ low = 1e-7, high = 1.0, log = true }", "[0.1, 1e30]")
    (project / "c.toml").write_text(text + 'comparator = "dot"\n')
    ran = run_cli("tune", "c.toml", "--trials", "4")
    assert ran.code == 0
    assert ran.out.count(" failed: train: ") == 2
    assert "learning_rate" in ran.out
    assert "Traceback" not in ran.err + ran.out


def test_the_example_is_searched(tmp_path, run_cli):
    shutil.copytree(Path(__file__).parents[2] / "examples", tmp_path / "examples")
    document = json.loads(run_cli("tune", tmp_path / "examples/tune.toml", "--trials", "1", "--json").out)
    assert set(document["settings"]) == {"learning_rate", "temperature", "uniform_negatives", "operator"}
    assert document["metric"] == "hits@10"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('["identity", "translation"]', '["identity", 3]', "c.toml:14: TrainConfig: operator 3 is not known"),
        (
            "high = 1.0",
            "high = 1e-9",
            "c.toml:13: tune: the range of learning_rate goes from low = 1e-07 to high = 1e-09",
        ),
        (
            "learning_rate =",
            "learning_rat =",
            "c.toml:13: tune: there is no setting 'learning_rat'; did you mean 'learning_rate'",
        ),
        ('"hits@5"', '"hits"', "metric 'hits' is not known"),
        ('output = "store"', 'output = "store"\nprevious = "store/v0"', "leave out previous"),
    ],
)
def test_bad_settings_get_one_line_before_any_edge_is_read(project, run_cli, old, new, message):
    (project / "c.toml").write_text(FILE.replace(old, new))
    (project / "clicks.csv").unlink()
    ran = run_cli("tune", "c.toml")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert message in ran.err
