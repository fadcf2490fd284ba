"""What to train, as frozen dataclasses: relations and the settings of a training run.

The choices are strings, the same in Python, TOML and the exported tables.  Every value is checked when the object is
made, so that a long run never ends on a typing error.
"""

__all__ = ["Relation", "Sides", "TrainConfig", "check_choice"]

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, get_args

from recokit.errors import ConfigError, closest
from recokit.table import Comparator, Operator

LossName = Literal["logistic", "softmax"]
Sides = Literal["both", "source", "target"]

# What this release trains; the table format knows more operators and comparators than that.
TRAINED_OPERATORS = ("identity", "translation")
TRAINED_COMPARATORS = ("dot", "cos")


@dataclasses.dataclass(frozen=True)
class Relation:
    """A relation of the network: edges from one entity type to another.

    Args:
        name: Unique among the relations.
        source: Entity type of the source.
        target: Entity type of the target; may be the source's.
        weight: Multiplies the loss of its edges (not their sampling).
        operator: Overrides the operator of the run.
        sides: Which side negatives replace: ``"target"`` for retrieval of targets, ``"both"`` for link prediction.
        uniform_negatives: Overrides the run's count.
        prevalence_negatives: Overrides the run's count.
        in_batch_negatives: Overrides the run's count.

    Raises:
        ConfigError: A value is out of range or no known choice.
    """

    name: str
    source: str
    target: str
    weight: float = 1.0
    operator: Operator | None = None
    sides: Sides | None = None
    uniform_negatives: int | None = None
    prevalence_negatives: int | None = None
    in_batch_negatives: int | None = None

    def __post_init__(self) -> None:
        what = f"relation {self.name!r}"
        for field in ("name", "source", "target"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value:
                raise ConfigError(f"{what}: {field} must be a non-empty string, got {value!r}")
        _check_numbers(self, what, positive=("weight",), counts=_NEGATIVES)
        if self.operator is not None:
            check_choice(what, "operator", self.operator, TRAINED_OPERATORS)
        if self.sides is not None:
            check_choice(what, "sides", self.sides, get_args(Sides))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; the defaults retrieve well on graphs of users and items.

    TwHIN as printed (Eq. 1 and 2) is ``TrainConfig(comparator="dot", loss="logistic", temperature=1.0,
    sides="both", uniform_negatives=n, prevalence_negatives=n)``.

    Args:
        dim: Dimension D of every vector.
        operator: What a relation does to the source vector before it is compared.
        comparator: Two vectors to a score; ``"cos"`` normalises, ``"dot"`` does not.
        loss: ``"softmax"`` (sampled softmax) or ``"logistic"`` (TwHIN Eq. 2, negatives summed).
        temperature: Scores are divided by it before the loss.
        epochs: Passes over all edges.
        batch_size: Edges in a step; they share the step's negatives.
        learning_rate: Of row-wise Adagrad on the vectors; the length of a row's first step per component.
        relation_learning_rate: Of Adagrad on the relations' parameters.
        uniform_negatives: Negatives a side, drawn evenly from the entities of the type.
        prevalence_negatives: Negatives a side, drawn in proportion to occurrences; they pull popular entities down.
        in_batch_negatives: Negatives a side, taken from the other edges of the batch.
        sides: Which side negatives replace, where a relation does not say.
        init_scale: Standard deviation of the first vectors' components.
        precision: ``"float32"`` sums as torch does by default; ``"auto"`` may use faster products.
        deterministic: Same seed, same machine, same number of threads, same bytes.
        seed: Of the initial vectors, the order of the edges and the negatives.

    Raises:
        ConfigError: A value is out of range or no known choice.
    """

    dim: int = 64
    operator: Operator = "translation"
    comparator: Comparator = "cos"
    loss: LossName = "softmax"
    temperature: float = 0.2
    epochs: int = 10
    batch_size: int = 1024
    learning_rate: float = 0.1
    relation_learning_rate: float = 0.01
    uniform_negatives: int = 500
    prevalence_negatives: int = 0
    in_batch_negatives: int = 0
    sides: Sides = "both"
    init_scale: float = 0.1
    precision: Literal["float32", "auto"] = "float32"
    deterministic: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        what = "TrainConfig"
        check_choice(what, "operator", self.operator, TRAINED_OPERATORS)
        check_choice(what, "comparator", self.comparator, TRAINED_COMPARATORS)
        check_choice(what, "loss", self.loss, get_args(LossName))
        check_choice(what, "sides", self.sides, get_args(Sides))
        check_choice(what, "precision", self.precision, ("float32", "auto"))
        if not isinstance(self.deterministic, bool):
            raise ConfigError(f"{what}: deterministic must be true or false, got {self.deterministic!r}")
        _check_numbers(
            self,
            what,
            positive=("temperature", "learning_rate", "relation_learning_rate", "init_scale"),
            counts=(*_NEGATIVES, "seed"),
            at_least_one=("dim", "epochs", "batch_size"),
        )
        if self.seed >= 2**63:
            raise ConfigError(f"{what}: seed must be below 2**63, got {self.seed}")


_NEGATIVES = ("uniform_negatives", "prevalence_negatives", "in_batch_negatives")


def check_choice(what: str, field: str, value: object, known: Iterable[str]) -> None:
    """Raise a ConfigError that names the nearest choice unless ``value`` is one of ``known``."""
    known = tuple(known)
    if value not in known:
        raise ConfigError(f"{what}: {field} {value!r} is not known; {closest(str(value), known)}")


def _check_numbers(
    config: Any,
    what: str,
    *,
    positive: Iterable[str] = (),
    counts: Iterable[str] = (),
    at_least_one: Iterable[str] = (),
) -> None:
    for field in positive:
        value = getattr(config, field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ConfigError(f"{what}: {field} must be a number above 0, got {value!r}")
    for fields, low in ((counts, 0), (at_least_one, 1)):
        for field in fields:
            value = getattr(config, field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
                raise ConfigError(f"{what}: {field} must be a whole number of at least {low}, got {value!r}")
