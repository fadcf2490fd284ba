"""Settings are checked when they are made, and the message names what came and what was expected."""

import dataclasses

import pytest

from pretrain import Relation, TrainConfig
from recokit.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operator": "transaltion"}, "TrainConfig: operator 'transaltion' is not known; did you mean 'translation'"),
        ({"comparator": "cosine"}, "comparator 'cosine' is not known; did you mean 'cos'"),
        ({"loss": "bce"}, "loss 'bce' is not known; known: logistic, ranking, softmax"),
        ({"loss": "rank"}, "loss 'rank' is not known; did you mean 'ranking'"),
        ({"comparator": "squared_l1"}, "comparator 'squared_l1' is not known; did you mean 'squared_l2'"),
        ({"negative_reduction": "avg"}, "negative_reduction 'avg' is not known; known: mean, sum"),
        ({"optimizer": "adagard"}, "optimizer 'adagard' is not known; did you mean 'adagrad'"),
        ({"relation_init": "zero"}, "relation_init 'zero' is not known; known: identity, random"),
        ({"restarts": 0}, "restarts must be a whole number of at least 1, got 0"),
        ({"schedule": "cosin"}, "schedule 'cosin' is not known; did you mean 'cosine'"),
        ({"sides": "targets"}, "sides 'targets' is not known; did you mean 'target'"),
        ({"precision": "float16"}, "precision 'float16' is not known; did you mean 'float32'"),
        ({"dim": 0}, "dim must be a whole number of at least 1, got 0"),
        ({"dim": 64.0}, "dim must be a whole number of at least 1, got 64.0"),
        ({"dim": None}, "dim must be a whole number of at least 1, got None"),
        ({"seed": 2**63}, r"seed must be below 2\*\*63, got 9223372036854775808"),
        ({"uniform_negatives": None}, "uniform_negatives must be a whole number of at least 0, got None"),
        ({"uniform_negatives": "every"}, "uniform_negatives must be .* got 'every'"),
        ({"prevalence_negatives": "all"}, "prevalence_negatives must be a whole number of at least 0, got 'all'"),
        ({"evaluate_every": 0}, "evaluate_every must be a whole number of at least 1, got 0"),
        ({"patience": -1}, "patience must be a whole number of at least 0, got -1"),
        ({"margin": -1.0}, "margin must be a number of at least 0, got -1.0"),
        ({"n3": float("nan")}, "n3 must be a number of at least 0, got nan"),
        ({"l2": -0.1}, "l2 must be a number of at least 0, got -0.1"),
        ({"max_norm": float("inf")}, "max_norm must be a number of at least 0, got inf"),
        ({"degree_power": "0.5"}, "degree_power must be a number of at least 0, got '0.5'"),
        ({"prevalence_power": True}, "prevalence_power must be a number of at least 0, got True"),
        ({"warmup": 1.0}, "warmup must be below 1, a share of the steps, got 1.0"),
        ({"score_offset": float("nan"), "loss": "logistic"}, "score_offset must be a number, got nan"),
        ({"alpha": -1.0}, "alpha of every entity type must be a number of at least 0, got -1.0"),
        ({"alpha": {"user": 0.5, "item": "1"}}, "alpha of item must be a number of at least 0, got '1'"),
        ({"metric": "hits@0"}, "metric 'hits@0' is not known; mrr or hits@k"),
        ({"bias": 1}, "bias must be true or false, got 1"),
        ({"reciprocal": "yes"}, "reciprocal must be true or false, got 'yes'"),
        ({"log_q": True, "loss": "logistic"}, "log_q has no effect under the loss 'logistic'; it goes with softmax"),
        ({"score_offset": 3.0, "loss": "ranking"}, "score_offset has no effect under the loss 'ranking'"),
        ({"adversarial": 0.5}, "adversarial has no effect under the loss 'softmax'; .* logistic and ranking"),
        ({"epochs": True}, "epochs must be a whole number of at least 1, got True"),
        ({"batch_size": "1024"}, "batch_size must be a whole number of at least 1, got '1024'"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"uniform_negatives": -5}, "uniform_negatives must be a whole number of at least 0, got -5"),
        ({"temperature": 0.0}, "temperature must be a number above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0, got nan"),
        ({"relation_learning_rate": float("inf")}, "relation_learning_rate must be a number above 0, got inf"),
        ({"init_scale": "0.1"}, "init_scale must be a number above 0, got '0.1'"),
        ({"deterministic": 1}, "deterministic must be true or false, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": ""}, "relation '': name must be a non-empty string"),
        ({"source": None}, "relation 'r': source must be a non-empty string, got None"),
        ({"weight": 0.0}, "relation 'r': weight must be a number above 0, got 0.0"),
        ({"operator": "diag"}, "relation 'r': operator 'diag' is not known"),
        ({"sides": "left"}, "relation 'r': sides 'left' is not known"),
        ({"operator_side": "both"}, "relation 'r': operator_side 'both' is not known; known: source, target"),
        ({"uniform_negatives": "some"}, "relation 'r': uniform_negatives must be .* got 'some'"),
        ({"in_batch_negatives": 1.5}, "relation 'r': in_batch_negatives must be a whole number of at least 0, got 1.5"),
    ],
)
def test_relations_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Relation(**({"name": "r", "source": "a", "target": "b"} | settings))


def test_what_has_an_effect_is_accepted():
    assert TrainConfig(loss="softmax", log_q=True, uniform_negatives="all").uniform_negatives == "all"
    assert TrainConfig(loss="ranking", adversarial=1, margin=0).margin == 0
    assert TrainConfig(loss="logistic", score_offset=-3, alpha={"user": 0}, metric="hits@100").score_offset == -3
    assert Relation("r", "a", "b", uniform_negatives="all", operator_side="target").operator_side == "target"


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().dim = 3
    with pytest.raises(ConfigError, match="dim"):
        dataclasses.replace(TrainConfig(), dim=-3)
