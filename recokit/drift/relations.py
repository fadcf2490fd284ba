"""How the operators of two versions' relations changed: |p - p'| / |p| of their parameters p."""

__all__ = ["relation_changes"]

import numpy as np
from numpy.typing import NDArray

from recokit.table import RelationParameters, Version


def relation_changes(old: Version, new: Version) -> tuple[dict[str, float], dict[str, str]]:
    """Return the relative change of each relation that both versions have, and of others why there is none.

    Angles are compared as the complex numbers exp(i phase) that they stand for. NaN where the old parameters are 0.
    """
    changes: dict[str, float] = {}
    without = {name: f"new in {new.name}" for name in new.relations if name not in old.relations}
    for name, before in old.relations.items():
        after = new.relations.get(name)
        if after is None:
            without[name] = f"gone in {new.name}"
        elif (before.operator, before.side) != (after.operator, after.side):
            without[name] = f"{before.operator} of the {before.side}s, then {after.operator} of the {after.side}s"
        elif len(before.parameters) != len(after.parameters):
            without[name] = f"{len(before.parameters)} parameters, then {len(after.parameters)}"
        elif len(before.parameters):
            p, q = _numbers(before), _numbers(after)
            size = float(np.linalg.norm(p))
            changes[name] = float(np.linalg.norm(p - q)) / size if size else float("nan")
    return changes, without


def _numbers(relation: RelationParameters) -> NDArray[np.float64]:
    p = relation.parameters.astype(np.float64)
    return np.concatenate([np.cos(p), np.sin(p)]) if relation.operator == "rotation" else p
