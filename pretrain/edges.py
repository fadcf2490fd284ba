"""Edges of one relation as row numbers, and what follows for the entities when edges go."""

__all__ = ["Edges", "without_unused"]

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pretrain.config import Relation


@dataclasses.dataclass(frozen=True, eq=False)
class Edges:
    """Edges of one relation; the order is that of the input."""

    sources: NDArray[np.int64]  # (E,) rows of the source's entity type
    targets: NDArray[np.int64]  # (E,) rows of the target's entity type
    weights: NDArray[np.float32] | None = None  # (E,) at least 0
    times: NDArray[Any] | None = None  # (E,) int64 microseconds since 1970 for timestamps, else the column's numbers

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, keep: NDArray[Any]) -> "Edges":
        """Return the edges at positions or under a mask."""
        return Edges(
            self.sources[keep],
            self.targets[keep],
            None if self.weights is None else self.weights[keep],
            None if self.times is None else self.times[keep],
        )


def without_unused(
    relations: Mapping[str, Relation], entities: Mapping[str, pa.Array], edges: Mapping[str, Edges]
) -> tuple[dict[str, pa.Array], dict[str, Edges]]:
    """Return the entities that have an edge of these relations, and the edges with their new rows."""
    types = dict.fromkeys(end for relation in relations.values() for end in (relation.source, relation.target))
    used = {entity: np.zeros(len(entities[entity]), bool) for entity in types}
    for name, relation in relations.items():
        used[relation.source][edges[name].sources] = True
        used[relation.target][edges[name].targets] = True
    if all(mask.all() for mask in used.values()):
        return {entity: entities[entity] for entity in types}, {name: edges[name] for name in relations}
    new_row = {entity: np.cumsum(mask) - 1 for entity, mask in used.items()}
    moved = {
        name: dataclasses.replace(
            edges[name],
            sources=new_row[relation.source][edges[name].sources],
            targets=new_row[relation.target][edges[name].targets],
        )
        for name, relation in relations.items()
    }
    return {entity: entities[entity].filter(pa.array(mask)) for entity, mask in used.items()}, moved
