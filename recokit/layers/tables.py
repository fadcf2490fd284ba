"""The layer of a table's kind, and the scale of a table's numbers."""

__all__ = ["frozen_embedding", "unit_scale"]

import numpy as np

from recokit.errors import ConfigError
from recokit.layers.codes import PQEmbedding
from recokit.layers.frozen import FrozenEmbedding
from recokit.layers.mixture import MixtureEmbedding, MixturePooling
from recokit.layers.table_layer import Unknown
from recokit.table import EmbeddingTable, FeatureTable, Mixture, PQTable


def frozen_embedding(
    table: FeatureTable, *, unknown: Unknown = "zero", pooling: MixturePooling = "mean", temperature: float = 1.0
) -> FrozenEmbedding | PQEmbedding | MixtureEmbedding:
    """Make the frozen layer of a table of vectors, of codes or of mixtures; pooling and temperature are a mixture's."""
    if isinstance(table, Mixture):
        return MixtureEmbedding(table, pooling=pooling, temperature=temperature, unknown=unknown)
    if pooling != "mean":
        raise ConfigError(f"pooling={pooling!r} of {table!r}: only a mixture has components to pool")
    return (
        PQEmbedding(table, unknown=unknown) if isinstance(table, PQTable) else FrozenEmbedding(table, unknown=unknown)
    )


def unit_scale(table: FeatureTable) -> float:
    """Return 1 / root mean square of a table's numbers, from about 10,000 rows evenly spread; 1 if all are zero.

    Codes are decoded for it; a mixture's numbers are its components'. Trainers leave vectors at anything between 0.01
    and 10 a number; a layer above learns at one pace from all of them only when they come at about 1.
    """
    table = table.components if isinstance(table, Mixture) else table
    step = max(1, table.count // 10_000)
    sample = _vectors(table, step).astype(np.float64)
    rms = float(np.sqrt(np.mean(sample**2)))
    return 1.0 / rms if rms > 0 else 1.0


def _vectors(table: EmbeddingTable | PQTable, step: int) -> np.ndarray[tuple[int, ...], np.dtype[np.floating]]:
    return table.decode(np.arange(0, table.count, step)) if isinstance(table, PQTable) else table.vectors[::step]
