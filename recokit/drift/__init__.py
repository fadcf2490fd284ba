"""Drift: what changed between two versions of the same entities (TwHIN, El-Kishky et al. 2022, 7.2).

    measure_drift    deviations, neighbours kept, what remains after the best rotation, a frozen ranker's scores
    plot_drift       deviation against degree (Fig. 4c)
    Bounds           what a refresh may change at most, and which rows of a report exceed it

>>> import tempfile
>>> import numpy as np
>>> from recokit import EmbeddingTable, open_version, write_version
>>> vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
>>> with tempfile.TemporaryDirectory() as folder:
...     for name, scale in (("v1", 1.0), ("v2", 0.5)):
...         table = EmbeddingTable.from_arrays(np.arange(50), np.float32(scale) * vectors, entity="item", version=name)
...         _ = write_version(f"{folder}/{name}", {"item": table})
...     report = measure_drift(open_version(f"{folder}/v1"), open_version(f"{folder}/v2"))
>>> report.value("relative l2"), report.value("overlap@10")
(0.5, 1.0)
"""

__all__ = ["Bounds", "measure_drift", "plot_drift"]

from recokit.drift.bounds import Bounds
from recokit.drift.figure import plot_drift
from recokit.drift.measure import measure_drift
