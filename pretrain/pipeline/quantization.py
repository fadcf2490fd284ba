"""Quantization: codes beside the tables, as one more version folder whose other files are links.

<version>/           the trained version, with a table <name>-pq for each table of vectors that is asked for
compression.json     with ``sweep``: what codecs and sizes cost in neighbours, ``recokit.pq.compression_sweep``
"""

__all__ = ["quantize_version"]

from pathlib import Path
from typing import Any

from pretrain.pipeline.settings import Quantization
from recokit.errors import ConfigError, closest
from recokit.report import Report
from recokit.table import Version, as_vectors
from recokit.table.version import extend_version


def quantize_version(version: Version, settings: Quantization | None, folder: Path) -> dict[str, Any]:
    """Add codes to a version.

    Args:
        version: What was trained.
        settings: Which tables, and how; None for no codes.
        folder: An empty folder.

    Returns:
        What should be known: bytes of a row and compression by table.

    Raises:
        ConfigError: The version has no such table, or the size does not fit its dimension.
    """
    if settings is None:
        extend_version(folder / version.name, version)
        return {}
    from recokit.pq import compression_sweep, quantize

    names = _tables(version, settings)
    codes, facts, sweeps = {}, {}, Report([])
    for name in names:
        table = as_vectors(version.open(name), "[quantize]")
        made = quantize(table, settings.sub_quantizers, codec=settings.codec, seed=settings.seed)  # type: ignore[arg-type]
        codes[f"{name}-pq"] = made
        facts[f"{name}-pq"] = {"bytes_per_row": made.sub_quantizers, "compression": round(made.compression, 3)}
        if settings.sweep:
            sweeps |= compression_sweep(table, queries=settings.queries, seed=settings.seed)
    networks = {f"{name}-pq": network for name in names if (network := version.tables[name].network) is not None}
    extend_version(folder / version.name, version, tables=codes, networks=networks)
    if settings.sweep:
        sweeps.save(folder / "compression.json")
    return facts


def _tables(version: Version, settings: Quantization) -> list[str]:
    vectors = [name for name, entry in version.tables.items() if entry.kind == "vectors"]
    for name in settings.tables:
        if name not in vectors:
            raise ConfigError(f"[quantize] tables: there is no table of vectors {name!r}; {closest(name, vectors)}")
    return list(settings.tables) or vectors
