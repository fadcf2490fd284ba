"""How often the entities of a table occur in the edges that its version was trained on."""

__all__ = ["degrees_of"]

import numpy as np
from numpy.typing import NDArray

from recokit.table.version import Version


def degrees_of(version: Version, name: str) -> NDArray[np.int64] | None:
    """Return the training edges of each row of a table, (N,), or None where the version keeps none for them.

    Its state counts them for the table that was trained, in ``degrees-<entity>``; codes of it and mixtures are matched
    by their ids, and an id that was not trained has none.
    """
    entry = version.tables[name]
    trained = f"{entry.entity}-{entry.network}" if entry.network else entry.entity
    counts = version.state.get(f"degrees-{trained}")
    if counts is None or trained not in version.tables:
        return None
    base, table = version.open(trained), version.open(name)
    if counts.shape != (base.count,) or base.id_type != table.id_type:
        return None
    if name == trained:
        return counts.astype(np.int64)
    rows = base.rows(table.ids)
    if not (rows >= 0).any():
        return None
    return np.where(rows >= 0, counts[rows], 0).astype(np.int64)
