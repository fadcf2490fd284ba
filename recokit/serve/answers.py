"""Answers as bytes: JSON, or plain numbers for whoever asks for many vectors.

They are made where the search is made, in a thread, so that the event loop only sends them.
"""

__all__ = ["BINARY", "Answer", "lists_of_ids", "lists_of_vectors", "vectors_as_bytes", "vectors_as_json"]

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from recokit.errors import DataError
from recokit.serve.serving import Found, Id, Query, Rows, Search, Serving

BINARY = "application/octet-stream"


@dataclass(frozen=True, eq=False)
class Answer:
    """The body of an answer, and what is counted of it."""

    body: bytes
    unknown: int
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


def vectors_as_json(serving: Serving, table: str, requests: Sequence[Sequence[Id]]) -> list[Answer]:
    """Look up vectors for several requests."""
    return [_vectors_json(serving, table, rows) for rows in serving.vectors(table, requests)]


def vectors_as_bytes(serving: Serving, table: str, requests: Sequence[Sequence[Id]]) -> list[Answer]:
    """Look up vectors for several requests: float32, little endian, C order; of mixtures, weights; a byte 1 or 0 an id.

    The shape of the vectors is in a header, so that a client can cut the body.
    """
    return [_vectors_bytes(rows) for rows in serving.vectors(table, requests)]


def lists_of_ids(serving: Serving, search: Search, requests: Sequence[Query]) -> list[Answer]:
    """Search for the ids of several requests."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large is refused below, once
        found = serving.candidates(search, requests)
    return [_lists(serving, search, request.ids, lists) for request, lists in zip(requests, found, strict=True)]


def lists_of_vectors(serving: Serving, search: Search, requests: Sequence[NDArray[np.float32]]) -> list[Answer]:
    """Search for the vectors of several requests."""
    found = serving.nearest(search, requests)
    return [
        _lists(serving, search, [None] * len(vectors), lists) for vectors, lists in zip(requests, found, strict=True)
    ]


def _vectors_json(serving: Serving, table: str, rows: Rows) -> Answer:
    content = {
        "version": serving.name,
        "table": table,
        "known": rows.known.tolist(),
        "vectors": rows.vectors.tolist(),
        "weights": None if rows.weights is None else rows.weights.tolist(),
    }
    return Answer(to_json(content), int((~rows.known).sum()))


def _vectors_bytes(rows: Rows) -> Answer:
    parts: list[NDArray[Any]] = [rows.vectors.astype("<f4", copy=False)]
    if rows.weights is not None:
        parts.append(rows.weights.astype("<f4", copy=False))
    body = b"".join(part.tobytes() for part in [*parts, rows.known.astype(np.uint8)])
    shape = ",".join(map(str, rows.vectors.shape))
    return Answer(body, int((~rows.known).sum()), {"X-Recokit-Shape": shape}, BINARY)


def _lists(serving: Serving, search: Search, queries: Sequence[Id | None], found: Found) -> Answer:
    if not np.isfinite(np.fromiter(chain.from_iterable(found.scores), np.float64)).all():
        raise DataError(f"scores in table {search.items!r} are beyond float32, and JSON has no infinity")
    components: Sequence[list[int] | None] = found.components or [None] * len(queries)
    columns = zip(queries, found.known, found.candidates, found.scores, components, strict=True)
    names = ("query", "known", "candidates", "scores", "components")
    content = {
        "version": serving.name,
        "table": search.table,
        "items": search.items,
        "lists": [dict(zip(names, one, strict=True)) for one in columns],
    }
    return Answer(to_json(content), found.known.count(False))
