"""What to train, as frozen dataclasses: relations and the settings of a training run.

The choices are strings, the same in Python, TOML and the exported tables.  Every value is checked when the object is
made, so that a long run never ends on a typing error.
"""

__all__ = ["LossName", "Relation", "Side", "Sides", "TrainConfig", "check_choice"]

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from recokit.errors import ConfigError, closest
from recokit.table import Comparator, Operator
from recokit.table.relations import Side

LossName = Literal["logistic", "softmax", "ranking"]
Sides = Literal["both", "source", "target"]


@dataclasses.dataclass(frozen=True)
class Relation:
    """A relation of the network: edges from one entity type to another.

    Args:
        name: Unique among the relations.
        source: Entity type of the source.
        target: Entity type of the target; may be the source's.
        weight: Multiplies the loss of its edges (not their sampling).
        operator: Overrides the operator of the run.
        operator_side: The end that the operator moves: score = comparator(operator(s), t), or comparator(s,
            operator(t)) for ``"target"``.
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
    operator_side: Side = "source"
    sides: Sides | None = None
    uniform_negatives: int | Literal["all"] | None = None
    prevalence_negatives: int | None = None
    in_batch_negatives: int | None = None

    def __post_init__(self) -> None:
        what = f"relation {self.name!r}"
        for field in ("name", "source", "target"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value:
                raise ConfigError(f"{what}: {field} must be a non-empty string, got {value!r}")
        _check_numbers(self, what, positive=("weight",), counts=_NEGATIVES, optional=_NEGATIVES)
        check_choice(what, "operator_side", self.operator_side, get_args(Side))
        if self.operator is not None:
            check_choice(what, "operator", self.operator, get_args(Operator))
        if self.sides is not None:
            check_choice(what, "sides", self.sides, get_args(Sides))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; the defaults retrieve well on graphs of users and items.

    TwHIN as printed (Eq. 1 and 2) is ``TrainConfig(comparator="dot", loss="logistic", temperature=1.0,
    sides="both", uniform_negatives=n, prevalence_negatives=n)``.  A loss is a sum over edges and corrupted sides;
    what each setting means to the digit stands in docs/semantics.md.

    Args:
        dim: Dimension D of every vector.
        operator: What a relation does to a vector before it is compared; all start as the identity.
        comparator: Two vectors to a score, higher is better.
        loss: ``"softmax"`` (sampled softmax), ``"logistic"`` (TwHIN Eq. 2) or ``"ranking"`` (triplet margin).
        temperature: Scores are divided by it before the loss.
        margin: Of the ranking loss, in units of score / temperature.
        score_offset: Added to score / temperature by the logistic loss; distances need one, being at most 0.
        negative_reduction: The logistic and ranking losses ``"sum"`` over an edge's negatives or take their ``"mean"``.
        adversarial: Weighs an edge's negatives by the softmax of this times score / temperature (Sun et al. 2019,
            RotatE, Eq. 5), in place of ``negative_reduction``; 0 is off.
        log_q: Correct the softmax for how often a negative is drawn (Bengio and Senecal 2008).
        components: Vectors of dimension ``dim`` of an entity, per entity type or for all: with more than one it is a
            mixture (Brinkman et al. 2020), whose score with another is pooled over all pairs of components. At most 64.
        pooling: Over pairs of components: their ``"max"``, or ``"smoothmax"`` (Eq. 1).
        pooling_temperature: γ of the smoothmax; towards 0 it is the max.
        pooling_regularization: θ, how much of a positive's score is the average over all pairs (Eq. 2).
        pooling_warmup: Share of the epochs that come first and pool by the mean of all pairs, at full learning rates:
            items find their places before components part; then the optimizer's state starts anew. None of it where a
            run goes on from a previous model.
        pooling_form: Eq. 2 ``"normalized"``, with that average, or as ``"printed"``, with their sum.
        weight_temperature: γ_T of the mixture weights that the training ends with (Eq. 5).
        bias: Learn a number per entity that is added to its scores; indexes search such tables under ``"dot"`` alone.
        reciprocal: Ask for sources with parameters of their own, comparator(operator_r'(t), s) (Lacroix et al. 2018).
        epochs: Passes over all edges.
        batch_size: Edges in a step; they share the step's negatives.
        optimizer: Of the vectors: Adagrad with one accumulator a row, or with one an element, which takes twice the
            memory and fits small knowledge graphs better.
        learning_rate: Of the vectors; the length of a row's first step per component.
        relation_learning_rate: Of Adagrad on the relations' parameters.
        schedule: How the learning rates go from their value: stay, or fall to 0 in a line or half a cosine.
        warmup: Share of all steps in which they rise to it.
        uniform_negatives: Negatives a side, drawn evenly from the entities of the type; ``"all"`` takes each once.
        prevalence_negatives: Negatives a side, drawn in proportion to occurrences; they pull popular entities down.
        prevalence_power: The power of the occurrences that they are drawn in proportion to.
        in_batch_negatives: Negatives a side, taken from the other edges of the batch.
        filter_positives: Leave out negatives that are known edges, not only the edge's own end.
        sides: Which side negatives replace, where a relation does not say.
        l2: An edge of weight w adds w * l2 * (|s|² + |t|² + |relation parameters|²).
        n3: The same with cubed absolute values (of complex numbers their moduli; Lacroix et al. 2018, N3).
        max_norm: Vectors longer than this are cut to it after an update; 0 is off.
        degree_power: Weighs edges by (degree of s * degree of t) to minus this power, at equal total weight.
        alpha: Of the L2 penalty on leaving the previous version, per entity type or for all (TwHIN 7.2).
        alpha_by_degree: Scale that penalty by an entity's degree, so that busy entities stay as well.
        patience: Validations without a better value after which training ends; 0 trains all epochs.
        evaluate_every: Epochs between validations.
        restarts: Train so many times, from seeds one apart, and keep the best on the validation part.
        metric: What a validation looks at: ``"mrr"`` or ``"hits@k"``, filtered, among all entities.
        init: Vectors start at random, or ``"spectral"``: from the largest eigenvectors of the network's matrix, which
            know in a part of an epoch's time what random ones learn in many. See pretrain/spectral.py.
        init_scale: Standard deviation of the first vectors' components.
        init_power: Of the degrees that a spectral start divides edges by; below 0.5 popular entities stay longer.
        relation_init: Relations start as the identity, or at random: normal deviates of ``init_scale``, phases of
            rotations anywhere. Knowledge graphs of many relations prefer the latter.
        engine: ``"native"`` is compiled C++ on the CPU, ``"torch"`` runs everywhere, ``"gpu"`` are Triton kernels for
            CUDA devices (new: not taken by ``"auto"``); ``"auto"`` is native where it can be, else torch.
        precision: ``"float32"``, or ``"auto"``: bfloat16 products with float32 sums where that is faster, but for
            distances.
        deterministic: Same seed, same machine, same number of threads, same bytes.
        seed: Of the initial vectors, the order of the edges and the negatives.

    Raises:
        ConfigError: A value is out of range or no known choice, or a setting has no effect under the loss.
    """

    dim: int = 64
    operator: Operator = "translation"
    comparator: Comparator = "cos"
    loss: LossName = "softmax"
    temperature: float = 0.2
    margin: float = 1.0
    score_offset: float = 0.0
    negative_reduction: Literal["sum", "mean"] = "sum"
    adversarial: float = 0.0
    log_q: bool = False
    components: int | Mapping[str, int] = 1
    pooling: Literal["smoothmax", "max"] = "smoothmax"
    pooling_temperature: float = 0.1
    pooling_regularization: float = 0.05
    pooling_warmup: float = 0.4
    pooling_form: Literal["normalized", "printed"] = "normalized"
    weight_temperature: float = 0.1
    bias: bool = False
    reciprocal: bool = False
    epochs: int = 10
    batch_size: int = 1024
    optimizer: Literal["rowwise_adagrad", "adagrad"] = "rowwise_adagrad"
    learning_rate: float = 0.1
    relation_learning_rate: float = 0.01
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = 0.0
    uniform_negatives: int | Literal["all"] = 500
    prevalence_negatives: int = 0
    prevalence_power: float = 1.0
    in_batch_negatives: int = 0
    filter_positives: bool = False
    sides: Sides = "both"
    l2: float = 0.0
    n3: float = 0.0
    max_norm: float = 0.0
    degree_power: float = 0.0
    alpha: float | Mapping[str, float] = 0.0
    alpha_by_degree: bool = False
    patience: int = 0
    evaluate_every: int = 1
    restarts: int = 1
    metric: str = "mrr"
    init: Literal["random", "spectral"] = "random"
    init_scale: float = 0.1
    init_power: float = 0.3
    relation_init: Literal["identity", "random"] = "identity"
    engine: Literal["auto", "native", "gpu", "torch"] = "auto"
    precision: Literal["float32", "auto"] = "float32"
    deterministic: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        what = "TrainConfig"
        for field, known in _CHOICES.items():
            check_choice(what, field, getattr(self, field), known)
        for field in ("log_q", "bias", "reciprocal", "filter_positives", "alpha_by_degree", "deterministic"):
            if not isinstance(getattr(self, field), bool):
                raise ConfigError(f"{what}: {field} must be true or false, got {getattr(self, field)!r}")
        _check_numbers(
            self,
            what,
            positive=(
                "temperature",
                "learning_rate",
                "relation_learning_rate",
                "init_scale",
                "pooling_temperature",
                "weight_temperature",
            ),
            at_least_zero=(
                "margin",
                "pooling_regularization",
                "pooling_warmup",
                "adversarial",
                "l2",
                "n3",
                "max_norm",
                "degree_power",
                "prevalence_power",
                "init_power",
                "warmup",
            ),
            counts=(*_NEGATIVES, "seed", "patience"),
            at_least_one=("dim", "epochs", "batch_size", "evaluate_every", "restarts"),
        )
        if not _is_number(self.score_offset):
            raise ConfigError(f"{what}: score_offset must be a number, got {self.score_offset!r}")
        if self.warmup >= 1:
            raise ConfigError(f"{what}: warmup must be below 1, a share of the steps, got {self.warmup}")
        self._check_components()
        alphas = self.alpha if isinstance(self.alpha, Mapping) else {"every entity type": self.alpha}
        for entity, alpha in alphas.items():
            if not _is_number(alpha) or alpha < 0:
                raise ConfigError(f"{what}: alpha of {entity} must be a number of at least 0, got {alpha!r}")
        if not re.fullmatch(r"mrr|hits@[1-9]\d*", str(self.metric)):
            raise ConfigError(f"{what}: metric {self.metric!r} is not known; mrr or hits@k, such as hits@10")
        if self.seed >= 2**63:
            raise ConfigError(f"{what}: seed must be below 2**63, got {self.seed}")
        for field, losses in _ONLY_UNDER.items():
            if getattr(self, field) != getattr(type(self), field) and self.loss not in losses:
                raise ConfigError(
                    f"{what}: {field} has no effect under the loss {self.loss!r}; it goes with {' and '.join(losses)}"
                )

    def _check_components(self) -> None:
        what = "TrainConfig"
        each = self.components if isinstance(self.components, Mapping) else {"every entity type": self.components}
        for entity, count in each.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ConfigError(f"{what}: components of {entity} must be a whole number of at least 1, got {count!r}")
            if count > _MOST_COMPONENTS:
                raise ConfigError(
                    f"{what}: components of {entity} must be at most {_MOST_COMPONENTS}, which the kernels hold at "
                    f"once, got {count}"
                )
        if self.pooling_temperature < _COLDEST:
            raise ConfigError(
                f"{what}: pooling_temperature is {self.pooling_temperature}, below {_COLDEST:g}, where float32 ends: "
                'take pooling="max"'
            )
        if self.pooling_warmup >= 1:
            raise ConfigError(
                f"{what}: pooling_warmup must be below 1, a share of the epochs, got {self.pooling_warmup}"
            )
        if self.pooling_regularization > 1:
            raise ConfigError(
                f"{what}: pooling_regularization must be at most 1, a share, got {self.pooling_regularization}"
            )
        if not self.has_mixtures:
            return
        if self.comparator not in ("cos", "dot"):
            raise ConfigError(f"{what}: components are compared by 'cos' or 'dot', not by {self.comparator!r}")
        if self.init == "spectral":
            raise ConfigError(f'{what}: components have to start apart, which init="spectral" gives no way to')
        if self.engine == "gpu":
            raise ConfigError(f"{what}: engine 'gpu' has no components; take 'auto' or 'torch'")

    @property
    def has_mixtures(self) -> bool:
        """Whether any entity type may have more than one component."""
        each = self.components.values() if isinstance(self.components, Mapping) else (self.components,)
        return any(count > 1 for count in each)

    @property
    def epochs_of_means(self) -> int:
        """How many epochs, the first ones, pool components by their mean."""
        return int(self.epochs * self.pooling_warmup + 1e-9) if self.has_mixtures else 0

    def components_of(self, entity: str) -> int:
        """Components of an entity of a type."""
        return self.components.get(entity, 1) if isinstance(self.components, Mapping) else self.components

    def state_shape(self, entity: str) -> tuple[int, ...]:
        """Shape of the optimizer's state of an entity of a type: a number a component, or one for each of its own."""
        if self.optimizer == "adagrad":
            return (self.width(entity),)
        return (self.components_of(entity),) if self.components_of(entity) > 1 else ()

    def width(self, entity: str) -> int:
        """Numbers of an entity of a type: its components' vectors side by side."""
        return self.dim * self.components_of(entity)


_COLDEST = 1e-6
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "operator": get_args(Operator),
    "comparator": get_args(Comparator),
    "loss": get_args(LossName),
    "negative_reduction": ("sum", "mean"),
    "optimizer": ("rowwise_adagrad", "adagrad"),
    "pooling": ("smoothmax", "max"),
    "pooling_form": ("normalized", "printed"),
    "init": ("random", "spectral"),
    "relation_init": ("identity", "random"),
    "schedule": ("constant", "linear", "cosine"),
    "sides": get_args(Sides),
    "engine": ("auto", "native", "gpu", "torch"),
    "precision": ("float32", "auto"),
}
_ONLY_UNDER = {
    "log_q": ("softmax",),
    "score_offset": ("logistic",),
    "margin": ("ranking",),
    "adversarial": ("logistic", "ranking"),
    "negative_reduction": ("logistic", "ranking"),
}
_MOST_COMPONENTS = 64  # TILE of native/contrast.cpp: a tile holds all components of at least one anchor
_NEGATIVES = ("uniform_negatives", "prevalence_negatives", "in_batch_negatives")


def check_choice(what: str, field: str, value: object, known: Iterable[str]) -> None:
    """Raise a ConfigError that names the nearest choice unless ``value`` is one of ``known``."""
    known = tuple(known)
    if value not in known:
        raise ConfigError(f"{what}: {field} {value!r} is not known; {closest(str(value), known)}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_numbers(
    config: Any,
    what: str,
    *,
    positive: Iterable[str] = (),
    at_least_zero: Iterable[str] = (),
    counts: Iterable[str] = (),
    at_least_one: Iterable[str] = (),
    optional: Iterable[str] = (),
) -> None:
    for field in positive:
        value = getattr(config, field)
        if not _is_number(value) or value <= 0:
            raise ConfigError(f"{what}: {field} must be a number above 0, got {value!r}")
    for field in at_least_zero:
        value = getattr(config, field)
        if not _is_number(value) or value < 0:
            raise ConfigError(f"{what}: {field} must be a number of at least 0, got {value!r}")
    for fields, low in ((counts, 0), (at_least_one, 1)):
        for field in fields:
            value = getattr(config, field)
            if (field == "uniform_negatives" and value == "all") or (value is None and field in optional):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ConfigError(f"{what}: {field} must be a whole number of at least {low}, got {value!r}")
