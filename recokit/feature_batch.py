"""The arrays of some rows: what a spec makes of a frame, and a ranker reads. No torch here.

Shapes: B rows of a batch, F dense features, T labels, V values of all the lists of a bag.
"""

__all__ = ["Batch", "flatten", "take", "unflatten"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = TypeVar("Array")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Batch(Generic[Array]):
    """The arrays of some rows: NumPy's from a spec, torch's in a ranker.

    Row numbers and hashes are -1, codes 0 where an id or a value is unknown or missing.
    """

    rows: Mapping[str, Array]  # (B,) per pretrained feature
    dense: Array  # (B, F), columns as FeatureSpec.dense_names says
    categorical: Mapping[str, Array]  # (B,) codes per column
    bags: Mapping[str, tuple[Array, Array]]  # rows or codes (V,) and offsets (B + 1,)
    labels: Array | None = None  # (B, T)
    group: Array | None = None  # (B,)
    weight: Array | None = None  # (B,)
    hashed: Mapping[str, Array] = field(default_factory=dict)  # (B,) 63-bit hashes of ids per column
    bag_weights: Mapping[str, Array] = field(default_factory=dict)  # (V,) per bag whose values are weighted

    def __len__(self) -> int:
        return len(self.dense)  # type: ignore[arg-type]

    def map(self, function: Callable[[Array], Other]) -> "Batch[Other]":
        """Apply a function to every array, such as the move to a tensor or a device."""
        return Batch(
            rows={name: function(array) for name, array in self.rows.items()},
            dense=function(self.dense),
            categorical={name: function(array) for name, array in self.categorical.items()},
            bags={name: (function(values), function(offsets)) for name, (values, offsets) in self.bags.items()},
            labels=None if self.labels is None else function(self.labels),
            group=None if self.group is None else function(self.group),
            weight=None if self.weight is None else function(self.weight),
            hashed={name: function(array) for name, array in self.hashed.items()},
            bag_weights={name: function(array) for name, array in self.bag_weights.items()},
        )


def flatten(batch: Batch[Array]) -> dict[str, Array]:
    """Name every array that a ranker reads, ``rows.<feature>``, ``bags.<feature>.offsets`` and so on; no labels."""
    named = {f"rows.{name}": array for name, array in batch.rows.items()} | {"dense": batch.dense}
    named |= {f"categorical.{name}": array for name, array in batch.categorical.items()}
    named |= {f"hashed.{name}": array for name, array in batch.hashed.items()}
    for name, (values, offsets) in batch.bags.items():
        named |= {f"bags.{name}.values": values, f"bags.{name}.offsets": offsets}
    return named | {f"bags.{name}.weights": array for name, array in batch.bag_weights.items()}


def unflatten(named: Mapping[str, Array]) -> Batch[Array]:
    """Make the batch again that ``flatten`` took apart."""

    def part(prefix: str, suffix: str = "") -> dict[str, Array]:
        keys = [key for key in named if key.startswith(f"{prefix}.") and key.endswith(suffix)]
        return {key.removeprefix(f"{prefix}.").removesuffix(suffix): named[key] for key in keys}

    values, offsets = part("bags", ".values"), part("bags", ".offsets")
    return Batch(
        rows=part("rows"),
        dense=named["dense"],
        categorical=part("categorical"),
        bags={name: (values[name], offsets[name]) for name in values},
        hashed=part("hashed"),
        bag_weights=part("bags", ".weights"),
    )


def take(batch: Batch[NDArray[Any]], positions: NDArray[np.int64]) -> Batch[NDArray[Any]]:
    """Return the rows of a NumPy batch at ``positions``, in that order."""
    rows = replace(batch, bags={}, bag_weights={}).map(lambda array: array[positions])
    bags, weights = {}, {}
    for name, (values, offsets) in batch.bags.items():
        where, ends = _take_lists(offsets, positions)
        bags[name] = values[where], ends
        if name in batch.bag_weights:
            weights[name] = batch.bag_weights[name][where]
    return replace(rows, bags=bags, bag_weights=weights)


def _take_lists(
    offsets: NDArray[np.int64], positions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Say where the values of the lists at ``positions`` are, one list after the other, and their new offsets."""
    lengths = np.diff(offsets)[positions]
    ends = np.cumsum(lengths)
    # Value v of the result is the (v - start of its list)-th of the old list.
    shift = np.repeat(offsets[positions] - (ends - lengths), lengths)
    return np.arange(len(shift)) + shift, np.concatenate([[0], ends])
