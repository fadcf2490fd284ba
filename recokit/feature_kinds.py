"""The features that need more than a column's name: id columns with their tables, and columns of lists.

Shapes: B rows of a batch, D dimension of a table.
"""

__all__ = ["Bag", "BagPooling", "MixturePooling", "Pretrained", "Unknown", "Usage", "Values", "check_choice"]

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, TypeAlias, get_args

from recokit.errors import ConfigError, closest
from recokit.table import EmbeddingTable, FeatureTable, Mixture, PQTable

Usage = Literal["concat", "sum", "init"]
Unknown = Literal["zero", "indicator", "learned"]
BagPooling = Literal["mean", "sum"]
MixturePooling = Literal["mean", "max", "smoothmax", "attention"]
Values: TypeAlias = int | Sequence[int] | Sequence[str]


@dataclass(frozen=True, repr=False)
class Pretrained:
    """An id column whose vectors come from a table.

    Args:
        column: The id column.
        table: Where its ids are looked up: vectors, codes, or a mixture.
        name: The feature's name, the column's by default; needed where one column carries several tables.
        usage: ``concat``, a feature of its own; ``sum``, added to the trainable vector of the same column, which is
            then a categorical or a hashed one too; ``init``, a trainable feature that starts from the table (codes are
            decoded; a mixture has no one vector to start from).
        unknown: What an id that is not in the table gets: zeros; zeros and an ``indicator``, a dense column that is 1
            where the id is known and else 0; or one ``learned`` vector.
        pooling: Of a mixture, how its components become one vector; see ``recokit.layers.MixtureEmbedding``.
        target: The name of the pretrained feature whose own vector, as its table has it, the components are scored
            against: needed by every pooling but ``mean``. The two tables' vectors have to be comparable as they are.
        temperature: Of the poolings ``smoothmax`` and ``attention``.
    """

    column: str
    table: FeatureTable
    name: str | None = None
    usage: Usage = "concat"
    unknown: Unknown = "zero"
    pooling: MixturePooling = "mean"
    target: str | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_table(self.key, self.table)
        check_choice(self.key, "usage", self.usage, get_args(Usage))
        check_choice(self.key, "unknown", self.unknown, get_args(Unknown))
        check_choice(self.key, "pooling", self.pooling, get_args(MixturePooling))
        if isinstance(self.table, Mixture):
            self._check_mixture()
        elif self.pooling != "mean" or self.target is not None or self.temperature != 1.0:
            raise ConfigError(
                f"feature {self.key!r} has pooling={self.pooling!r}, target={self.target!r}, temperature="
                f"{self.temperature}, which are for mixtures; {self.table!r} has one vector for each id"
            )

    @property
    def key(self) -> str:
        """The feature's name in a batch."""
        return self.name or self.column

    def __repr__(self) -> str:
        told = _told(self, ("name", "usage", "unknown", "pooling", "target", "temperature"))
        return f"Pretrained({self.column!r}, {_brief(self.table)}{told})"

    def _check_mixture(self) -> None:
        if self.usage == "init":
            raise ConfigError(
                f"feature {self.key!r} is to start from a mixture, which has several vectors for each id: take the "
                "usage 'concat' or 'sum'"
            )
        if (self.pooling == "mean") != (self.target is None):
            raise ConfigError(
                f"feature {self.key!r} has pooling={self.pooling!r} and target={self.target!r}: 'mean' takes no "
                "target, the other poolings need one, the name of a pretrained feature"
            )
        if not self.temperature > 0:
            raise ConfigError(f"feature {self.key!r} has temperature={self.temperature}, expected more than 0")


@dataclass(frozen=True, repr=False)
class Bag:
    """A column of lists, pooled to one vector: the last ten clicks through a table, or genres through a vocabulary.

    Args:
        column: The column of lists.
        values: The table of their ids (of a mixture, the weighted mean of the components counts); or a vocabulary, or
            its size, for trainable vectors.
        name: The feature's name, the column's by default.
        pooling: ``mean`` or ``sum`` over the known values of a list.
        weights: A column of lists of numbers of at least 0, one for each value: the mean is ``sum(w x) / sum(w)``.
    """

    column: str
    values: FeatureTable | Values
    name: str | None = None
    pooling: BagPooling = "mean"
    weights: str | None = None

    def __post_init__(self) -> None:
        check_choice(self.key, "pooling", self.pooling, get_args(BagPooling))
        if self.table is None:
            object.__setattr__(self, "values", checked_values(self.key, self.values))

    @property
    def key(self) -> str:
        """The feature's name in a batch."""
        return self.name or self.column

    @property
    def table(self) -> FeatureTable | None:
        """The table of a bag of ids."""
        return self.values if isinstance(self.values, FeatureTable) else None

    @property
    def vocabulary(self) -> Values | None:
        """The vocabulary of a bag with trainable vectors, or its size."""
        return None if isinstance(self.values, FeatureTable) else self.values

    def __repr__(self) -> str:
        values = _brief(self.values) if isinstance(self.values, FeatureTable) else brief_values(self.values)
        return f"Bag({self.column!r}, {values}{_told(self, ('name', 'pooling', 'weights'))})"


def check_choice(feature: str, what: str, choice: str, known: tuple[str, ...]) -> None:
    """Refuse a choice that does not exist."""
    if choice not in known:
        raise ConfigError(f"{what} of {feature!r} is {choice!r}; {closest(str(choice), known)}")


def checked_values(name: str, values: Any) -> Values:
    """Return a vocabulary, or its size as a plain integer."""
    is_number = isinstance(values, Integral) and not isinstance(values, bool)  # NumPy's integers are numbers, too
    checked: Values = int(values) if is_number else values
    if isinstance(values, bool | str) or (checked if isinstance(checked, int) else len(checked)) < 1:
        raise ConfigError(f"the vocabulary of {name!r} is {values!r}: give values, or how many to keep (at least 1)")
    return checked


def brief_values(values: Values) -> str:
    """Show a vocabulary in a few words."""
    return str(values) if isinstance(values, int) or len(values) <= 3 else f"<{len(values)} values>"


def _check_table(feature: str, table: Any) -> None:
    if not isinstance(table, EmbeddingTable | PQTable | Mixture):
        raise ConfigError(
            f"the table of feature {feature!r} is a {type(table).__name__}, expected an EmbeddingTable, a PQTable or a "
            "Mixture: recokit.table.load_table opens a folder of any of them"
        )


def _told(feature: Pretrained | Bag, names: Sequence[str]) -> str:
    """Show the fields that are not what they are by default."""
    fields = [(name, getattr(feature, name), getattr(type(feature), name)) for name in names]
    return "".join(f", {name}={value!r}" for name, value, usual in fields if value != usual)


def _brief(table: FeatureTable) -> str:
    return f"<{table.kind} {table.entity!r} of {table.version!r}: {table.count:,} x {table.dim}>"
