"""Vectors of tables of any kind, and the stand-ins that a vector has to beat.

    random      numbers that know nothing: what a task gives for free
    degree      how often an entity occurs: what popularity alone gives
    shuffled    the version's own vectors, given to other ids: what their distribution alone gives, and what leaks
                through the order of ids

Shapes: N rows of a table, B rows asked for, C components, D dimension.
"""

__all__ = [
    "BASELINES",
    "FLOOR_NAMES",
    "REFERENCES",
    "Baseline",
    "permutation",
    "plain_vectors",
    "random_vectors",
    "said_of_table",
]

import hashlib
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recokit.table import FeatureTable, Mixture, PQTable

Baseline = Literal["random", "degree", "shuffled"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
FLOOR_NAMES = ("ItemKNN", "EASE")
REFERENCES = (*BASELINES, *FLOOR_NAMES)  # rows of a report that are of no version

_BLOCK = 1 << 12  # rows of random numbers that have a seed of their own
_GATHERED = 1 << 16  # rows of a mixture pooled at a time


def plain_vectors(table: FeatureTable, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return one vector for each row, (B, D) float32: decoded codes, components averaged by weight."""
    if isinstance(table, PQTable):
        return table.decode(rows)
    if not isinstance(table, Mixture):
        taken: NDArray[np.float32] = table.vectors[rows].astype(np.float32)
        return taken
    pooled = np.empty((len(rows), table.dim), np.float32)
    for start in range(0, len(rows), _GATHERED):
        part = rows[start : start + _GATHERED]
        weights = np.where(table.component_rows[part] >= 0, table.weights[part], 0)
        pooled[start : start + _GATHERED] = np.einsum("bc,bcd->bd", weights, table.vectors_at(part))
    return pooled


def random_vectors(rows: NDArray[np.int64], dim: int, key: str) -> NDArray[np.float32]:
    """Return standard normal numbers (B, D), which depend on the row and ``key`` alone.

    Rows have their numbers by blocks, so that no table of all of them is made for a few.
    """
    out = np.empty((len(rows), dim), np.float32)
    number, within = np.divmod(rows, _BLOCK)
    order = np.argsort(number, kind="stable")
    blocks, starts = np.unique(number[order], return_index=True)
    for block, at in zip(blocks.tolist(), np.split(order, starts[1:]), strict=True):
        drawn = _generator(f"random {key} {block}").standard_normal((_BLOCK, dim), np.float32)
        out[at] = drawn[within[at]]
    return out


def permutation(count: int, name: str, seed: int) -> NDArray[np.int64]:
    """Return a permutation of the rows of a table, (N,)."""
    return _generator(f"shuffled {seed} {name}").permutation(count)


def said_of_table(name: str, table: FeatureTable) -> str:
    """Say what the vectors of a table are."""
    how = {"codes": "codes, decoded", "mixture": "components, averaged by weight"}.get(table.kind, table.kind)
    return f"{name}: {how}, {table.dim} dimensions"


def _generator(key: str) -> np.random.Generator:
    """Return a generator of its own for a key: seeds that differ by one must not share numbers."""
    digest: Any = hashlib.sha256(key.encode()).digest()[:8]
    return np.random.default_rng(int.from_bytes(digest, "little"))
