"""How often entities occur: the feature that a vector must beat to be worth its space.

The edges that a version was trained on are counted in its state (``degrees-<entity>``); degrees of other tables come
from a frame.

Shapes: N rows of a table.
"""

__all__ = ["Degrees", "UnknownDegrees", "degrees_of", "given_degrees"]

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recokit.errors import DataError
from recokit.frame.reading import Source, read_frame
from recokit.metrics.arrays import Floats
from recokit.table import FeatureTable, Version
from recokit.table import degrees_of as trained_degrees


class UnknownDegrees(DataError):
    """Nobody says how often the entities of a table occur."""


@dataclass(frozen=True, eq=False)
class Degrees:
    """The degrees of a table's entities, (N,), and where they come from."""

    values: Floats
    said: str


def degrees_of(version: Version | Mapping[str, FeatureTable], name: str) -> Degrees:
    """Return the degrees that a version keeps of the entities of one of its tables.

    Raises:
        UnknownDegrees: It keeps none.
    """
    if isinstance(version, Version) and name in version.tables:
        counts = trained_degrees(version, name)
        if counts is not None:
            return Degrees(counts.astype(np.float64), "of the edges that the version was trained on")
    raise UnknownDegrees(f"the degrees of {name!r} are not known: no version keeps them, and no frame was given")


def given_degrees(table: FeatureTable, source: "Source | None") -> Degrees | None:
    """Return the degrees of a frame with the columns id and degree, or None where none is given.

    An id that the frame lacks has degree 0.

    Raises:
        DataError: A degree is negative or not a number, or an id is there twice.
    """
    if source is None:
        return None
    frame = read_frame(source, ("id", "degree"), ids=("id",), id_type=table.id_type)
    counts = frame["degree"].to_numpy(np.float64)
    if frame["id"].duplicated().any() or not (counts >= 0).all():
        raise DataError("degrees: an id is there twice, or a degree is no number of at least 0")
    values = np.zeros(table.count)
    rows = table.rows(pa.array(frame["id"]))
    values[rows[rows >= 0]] = counts[rows >= 0]
    return Degrees(values, "from the frame given")
