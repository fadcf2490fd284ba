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
        ({"loss": "bce"}, "loss 'bce' is not known; known: logistic, softmax"),
        ({"sides": "targets"}, "sides 'targets' is not known; did you mean 'target'"),
        ({"precision": "float16"}, "precision 'float16' is not known; did you mean 'float32'"),
        ({"dim": 0}, "dim must be a whole number of at least 1, got 0"),
        ({"dim": 64.0}, "dim must be a whole number of at least 1, got 64.0"),
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
        ({"in_batch_negatives": 1.5}, "relation 'r': in_batch_negatives must be a whole number of at least 0, got 1.5"),
    ],
)
def test_relations_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Relation(**({"name": "r", "source": "a", "target": "b"} | settings))


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().dim = 3
    with pytest.raises(ConfigError, match="dim"):
        dataclasses.replace(TrainConfig(), dim=-3)
