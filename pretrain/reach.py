"""Do the relations' parameters receive gradient at all?

With dot and negatives that replace sources alone, (s + r) · t and (s' + r) · t differ in nothing that knows r: under
the softmax and ranking losses a translation never moves.  Such a choice is an error at the start, not a surprise at
the end.  It is found by trying: one step on random vectors in float64 for every kind of relation.
"""

__all__ = ["check_reach"]

import warnings
from collections.abc import Iterable
from typing import get_args

import torch

from pretrain.comparators import COMPARATORS
from pretrain.config import Relation, Side, TrainConfig
from pretrain.losses import make_loss
from pretrain.movers import forms
from pretrain.operators import start
from pretrain.step import Batch, Sampled, Step
from recokit.errors import ConfigError
from recokit.table import Operator

_DIM, _EDGES, _NEGATIVES = 4, 6, 5


def check_reach(relations: Iterable[Relation], config: TrainConfig) -> None:
    """Raise unless every relation's parameters receive gradient; warn where a part of them does not.

    Raises:
        ConfigError: A relation's parameters would stay at their start; the message says what to change.
    """
    seen = set()
    for relation in relations:
        operator, sides = relation.operator or config.operator, relation.sides or config.sides
        kind = (operator, relation.operator_side, sides)
        if operator == "identity" or kind in seen:
            continue
        seen.add(kind)
        reached = _reached(operator, relation.operator_side, sides, config)
        if not reached.any():
            raise ConfigError(
                f"relation {relation.name!r}: its {operator} would never move: {_why(relation, sides, config)}"
            )
        if not reached.all():
            warnings.warn(
                f"relation {relation.name!r}: a part of its {operator} will never move: "
                f"{_why(relation, sides, config)}",
                UserWarning,
                stacklevel=3,
            )


def _why(relation: Relation, sides: str, config: TrainConfig) -> str:
    other = "target" if sides == "source" else "source"
    return (
        f"with {config.comparator!r}, {config.loss!r} and negatives of the {sides} alone it adds the same to a "
        f"positive and to its negatives; replace both sides or the {other} too, move operator_side from "
        f"{relation.operator_side!r}, or take the operator 'identity'"
    )


def _reached(operator: Operator, operator_side: Side, sides: str, config: TrainConfig) -> torch.Tensor:
    """Say of every parameter (P,) whether it receives gradient from random vectors."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    entering = forms(operator, operator_side, config.comparator, reciprocal=config.reciprocal)
    step = Step(entering["target"], entering["source"], COMPARATORS[config.comparator], make_loss(config))
    own, drawn = torch.arange(_EDGES), Sampled(torch.arange(_EDGES, _EDGES + _NEGATIVES))
    sampled = {side: drawn if sides in ("both", side) else None for side in get_args(Side)}
    block = start(operator, _DIM).double()[None]
    block = block + 0.1 * draw(*block.shape)
    relations = torch.zeros(_EDGES, dtype=torch.int64)
    batch = Batch(own, own, relations, torch.ones(_EDGES).double(), sampled["source"], sampled["target"])
    gradients = step(draw(_EDGES + _NEGATIVES, _DIM), draw(_EDGES + _NEGATIVES, _DIM), block, batch)
    return gradients.relation_grads.abs().amax(0) > 1e-9
