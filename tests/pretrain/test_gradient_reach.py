"""Relation parameters that could never learn are refused before the training; those that can do learn."""

import itertools
import warnings

import naive
import numpy as np
import pandas as pd
import pytest
import torch

from pretrain import Graph, Relation, TrainConfig, train
from pretrain.comparators import COMPARATORS
from pretrain.losses import LOSSES
from pretrain.operators import OPERATORS
from pretrain.reach import check_reach
from recokit.errors import ConfigError

SIDES = ("both", "source", "target")
DIRECTIONS = ("source", "target", "reciprocal")
CANCELS = {("dot", "softmax"), ("dot", "ranking")}


def verdict(relation, config):
    """What ``check_reach`` says: moves, a part moves, or never moves."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_reach([relation], config)
        except ConfigError:
            return "never"
    return "in part" if caught else "moves"


def slopes_of_parameters(operator, comparator, loss, direction, sides):
    """The size of the slope of every parameter, by finite differences of the loops on random vectors."""
    rng = np.random.default_rng(0)
    start = naive.identity_parameters(operator, 2)[None]
    tables = naive.Tables(
        *rng.normal(size=(2, 6, 2)),
        start + 0.3 * rng.normal(size=start.shape),
        start + 0.3 * rng.normal(size=start.shape) if direction == "reciprocal" else None,
    )
    drawn = [[3, 4, 5] if sides in ("both", side) else [] for side in ("source", "target")]
    batch = naive.Edges([0, 1, 2], [0, 1, 2], [1.0] * 3, *drawn)
    setting = naive.Setting(
        operator, comparator, loss, "target" if direction == "target" else "source", direction == "reciprocal"
    )  # fmt: skip
    arrays = [tables.parameters] if tables.reverse is None else [tables.parameters, tables.reverse]
    return sum(np.abs(naive.slopes(lambda: naive.batch_loss(tables, batch, setting), array)) for array in arrays)[0]


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_verdict_agrees_with_finite_differences_of_loops(operator):
    for comparator, loss, direction, sides in itertools.product(COMPARATORS, LOSSES, DIRECTIONS, SIDES):
        reached = slopes_of_parameters(operator, comparator, loss, direction, sides) > 1e-6
        expected = "moves" if reached.all() else "in part" if reached.any() else "never"
        relation = Relation("r", "a", "b", sides=sides, operator_side="target" if direction == "target" else "source")
        config = TrainConfig(
            operator=operator, comparator=comparator, loss=loss, reciprocal=direction == "reciprocal"
        )  # fmt: skip
        assert verdict(relation, config) == expected, (comparator, loss, direction, sides)
        # What is known by hand: a shift on the end that is replaced, alone, under a dot product and a difference.
        cancels = (comparator, loss) in CANCELS and direction == sides
        by_hand = {"translation": "never", "affine": "in part"}.get(operator, "moves") if cancels else "moves"
        assert expected == by_hand, (comparator, loss, direction, sides)


def test_the_message_says_what_to_change():
    config = TrainConfig(operator="translation", comparator="dot", sides="source")
    with pytest.raises(ConfigError, match=r"relation 'r': its translation would never move.*operator_side"):
        check_reach([Relation("s", "a", "b", sides="both"), Relation("r", "a", "b")], config)
    with pytest.warns(UserWarning, match="relation 'r': a part of its affine will never move"):
        check_reach([Relation("r", "a", "b", operator="affine")], config)


def test_overrides_of_the_relation_count():
    config = TrainConfig(operator="translation", comparator="dot", sides="source")
    check_reach([Relation("r", "a", "b", operator="identity")], config)
    check_reach([Relation("r", "a", "b", sides="target")], config)
    check_reach([Relation("r", "a", "b", operator_side="target")], config)
    with pytest.raises(ConfigError, match="relation 'r'"):
        check_reach([Relation("r", "a", "b", sides="target", operator_side="target")], config)


@pytest.mark.parametrize("fine", [{"operator_side": "target"}, {"sides": "both"}, {"operator": "rotation"}])
def test_every_relation_is_looked_at(fine):
    """Those that differ from an earlier one, which is fine, in one thing alone."""
    config = TrainConfig(operator="translation", comparator="dot", sides="source")
    with pytest.raises(ConfigError, match="relation 'r'"):
        check_reach([Relation("fine", "a", "b", **fine), Relation("r", "a", "b")], config)


def test_training_refuses_before_it_starts():
    edges = pd.DataFrame({"source": [0, 1, 2], "target": [0, 1, 2]})
    graph = Graph.from_frames({"r": edges}, [Relation("r", "a", "b", sides="source")])
    with pytest.raises(ConfigError, match="would never move"):
        train(graph, TrainConfig(dim=4, comparator="dot", operator="translation"))


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - {"identity"}))
def test_what_is_accepted_moves_in_training(operator, reciprocal):
    """Every parameter of every relation, of one whose edges weigh nothing none."""
    edges = pd.DataFrame({"source": [0, 1, 2, 3, 1], "target": [0, 1, 2, 0, 2], "weight": 1.0})
    relations = [Relation(name, "a", "b") for name in ("r", "s", "empty")]
    graph = Graph.from_frames({"r": edges, "s": edges[1:], "empty": edges.assign(weight=0.0)}, relations)
    for comparator in COMPARATORS:
        config = TrainConfig(
            dim=4, operator=operator, comparator=comparator, reciprocal=reciprocal, epochs=1, batch_size=3,
            uniform_negatives=4,
        )  # fmt: skip
        model = train(graph, config)
        start = torch.tensor(naive.identity_parameters(operator, 4), dtype=torch.float32)
        assert set(model.parameters) == {"r", "s", "empty"} | ({"r^-1", "s^-1", "empty^-1"} if reciprocal else set())
        for name, parameters in model.parameters.items():
            moved = (parameters != start).tolist()
            assert moved == [not name.startswith("empty")] * len(moved), (comparator, name)
