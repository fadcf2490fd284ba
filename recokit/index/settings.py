"""Checks and defaults that the approximate backends share."""

__all__ = ["available_cpus", "check_not_empty", "check_settings"]

import os
from collections.abc import Mapping

from recokit.errors import ConfigError, DataError
from recokit.table import EmbeddingTable, as_vectors


def check_settings(settings: Mapping[str, int | None], *, at_least: int = 1) -> None:
    """Refuse settings that are given and not integers of at least 1, or what is said."""
    for name, value in settings.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < at_least):
            raise ConfigError(f"{name} is {value!r}, expected an integer of at least {at_least}")


def check_not_empty(table: EmbeddingTable) -> None:
    """Refuse to build over no rows, or over mixtures."""
    as_vectors(table, "an index")
    if not table.count:
        raise DataError(f"the {table.entity!r} table of version {table.version!r} is empty: there is nothing to index")


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
