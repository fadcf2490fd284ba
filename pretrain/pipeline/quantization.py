"""Quantization: codes beside the tables, as one more version folder whose other files are links.

<version>/           the trained version, with a table <name>-pq for each table of vectors that is asked for
compression.json     with ``sweep``: what codecs and sizes cost in neighbours, ``recokit.pq.compression_sweep``
"""

__all__ = ["check_prepared", "check_rows", "quantize_version"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.pipeline.settings import PipelineSettings
from pretrain.pipeline.tables import Quantization, vectors_of
from recokit.errors import ConfigError, closest
from recokit.report import Report
from recokit.table import EmbeddingTable, PQTable, Version, as_vectors
from recokit.table.folder import read_json
from recokit.table.version import extend_version

_LEAST_ROWS = 16  # of which quantize makes a codebook
_WORSE = 1.1  # so many times the error of a codebook of tonight's own is too much for the previous one
_BLOCK = 1 << 16  # rows whose error is summed at a time


def check_prepared(settings: PipelineSettings, prepared: Path) -> None:
    """Refuse, before the training, codes of a table that will be too small; see ``check_rows``."""
    counts, training = read_json(prepared / "prepared.json")["entities"], settings.training
    rows = {
        name: counts[entity] * training.train.components_of(entity)
        for name, entity in vectors_of(training).items()
        if entity in counts
    }
    check_rows(settings, rows)


def check_rows(settings: PipelineSettings, rows: Mapping[str, int]) -> None:
    """Refuse tables that ``[quantize]`` names and that are too small for a codebook.

    Args:
        settings: ``[quantize]``.
        rows: Of tables, by their names.

    Raises:
        ConfigError: Names the first of them, and the configuration's line.
    """
    for name in () if settings.quantize is None else settings.quantize.tables:
        if rows.get(name, _LEAST_ROWS) < _LEAST_ROWS:
            message = f"the table {name!r} has {rows[name]} rows, and a codebook needs {_LEAST_ROWS} at least"
            raise settings.file.error("quantize", "tables", f"{message}: leave it out")


def quantize_version(
    version: Version, settings: Quantization | None, folder: Path, *, parent: Version | None = None
) -> dict[str, Any]:
    """Add codes to a version.

    Args:
        version: What was trained.
        settings: Which tables, and how; None for no codes.
        folder: An empty folder.
        parent: The previous version, whose codebooks may be taken.

    Returns:
        What should be known: bytes of a row and compression by table, and which codebook it is; and
            why one that nobody named has no codes.

    Raises:
        ConfigError: The version has no such table, or the size does not fit its dimension.
    """
    if settings is None:
        extend_version(folder / version.name, version)
        return {}
    from recokit.pq import compression_sweep

    names = _tables(version, settings)
    codes, facts, sweeps = {}, dict[str, Any](), Report([])
    for name in names:
        table = as_vectors(version.open(name), "[quantize]")
        if table.count < _LEAST_ROWS and not settings.tables:
            facts[f"{name}-pq"] = {"left out": f"{table.count} rows, too few for a codebook"}
            continue
        made, said = _coded(name, table, settings, version, parent)
        codes[f"{name}-pq"] = made
        facts[f"{name}-pq"] = {"bytes_per_row": made.sub_quantizers, "compression": round(made.compression, 3), **said}
        if settings.sweep:
            sweeps |= compression_sweep(table, queries=settings.queries, seed=settings.seed)
    networks = {
        f"{name}-pq": network
        for name in names
        if f"{name}-pq" in codes and (network := version.tables[name].network) is not None
    }
    extend_version(folder / version.name, version, tables=codes, networks=networks)
    if settings.sweep:
        sweeps.save(folder / "compression.json")
    return facts


def _coded(
    name: str, table: EmbeddingTable, settings: Quantization, version: Version, parent: Version | None
) -> tuple[PQTable, dict[str, Any]]:
    """Encode a table, by the codebook that is asked for; and say which it is, where there was a choice."""
    from recokit.pq import quantize

    own = quantize(table, settings.sub_quantizers, codec=settings.codec, seed=settings.seed)  # type: ignore[arg-type]
    if settings.codebook == "new":
        return own, {}
    if parent is None or version.parent != parent.name:  # vectors of two trainings have nothing to do with each other
        return own, {"codebook": "new: the version does not start from a previous one"}
    entry = parent.tables.get(f"{name}-pq")
    if entry is None or entry.kind != "codes":
        return own, {"codebook": f"new: version {parent.name} has no {name}-pq"}
    normalize = bool(own.meta["quantization"]["normalize"])
    try:
        kept = quantize(
            table,
            own.sub_quantizers,
            codec=own.codec,
            normalize=normalize,
            codebook=parent.codes(f"{name}-pq"),
        )
    except ConfigError as error:
        return own, {"codebook": f"new: {error}"}
    errors = {"previous": _relative_error(table, kept, normalize), "new": _relative_error(table, own, normalize)}
    fits = errors["previous"] <= _WORSE * errors["new"]
    figures = f"a relative squared error of {errors['previous']:.4f}, {errors['new']:.4f} with one of tonight's own"
    codebook = f"that of version {parent.name}: {figures}" if fits else f"new: that of {parent.name} has {figures}"
    made = kept if fits else own
    return made, {"codebook": codebook, "codebook_sha256": made.codebook_sha256, "relative_squared_error": errors}


def _relative_error(table: EmbeddingTable, codes: PQTable, normalize: bool) -> float:
    """Return sum |x - decoded|² / sum |x|², of unit vectors where codes are of those."""
    lost = whole = 0.0
    for start in range(0, table.count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, table.count))
        exact = np.asarray(table.vectors[rows], np.float64)  # (B, D)
        if normalize:
            lengths = np.linalg.norm(exact, axis=1, keepdims=True)
            exact = np.divide(exact, lengths, out=exact, where=lengths > 0)
        lost += float(np.square(exact - codes.decode(rows)).sum())
        whole += float(np.square(exact).sum())
    return lost / whole if whole else 0.0


def _tables(version: Version, settings: Quantization) -> list[str]:
    vectors = [name for name, entry in version.tables.items() if entry.kind == "vectors"]
    for name in settings.tables:
        if name not in vectors:
            raise ConfigError(f"[quantize] tables: there is no table of vectors {name!r}; {closest(name, vectors)}")
    return list(settings.tables) or vectors
