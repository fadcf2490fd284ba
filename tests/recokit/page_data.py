"""A small version with reports, one of whose ids attacks the page that shows it."""

import json
from datetime import UTC, datetime

import numpy as np

from recokit import EmbeddingTable, RelationParameters, Report, write_version
from recokit.report import Result

ATTACK = '</script><img src=x onerror="window.attacked=1"><b>%2F/&amp;'
ITEMS = [*(f"i{number:02d}" for number in range(39)), "I38", ATTACK]
PROBE = {"task": "topic", "kind": "topic", "auc": "mean over labels"}


def vectors(count, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def make_version(path, *, seed=0, parent=None, reports=None, meta=None):
    name = path.name
    users = EmbeddingTable.from_arrays(np.arange(30) * 3, vectors(30, seed=seed), entity="user", version=name)
    items = EmbeddingTable.from_arrays(ITEMS, vectors(41, seed=seed + 1), entity="item", version=name)
    relation = RelationParameters("clicks", "user", "item", "translation", vectors(1, seed=seed + 2)[0])
    state = {"degrees-user": np.arange(30)[::-1] + 1, "degrees-item": np.arange(41) + 1}
    return write_version(
        path,
        {"user": users, "item": items},
        relations=[relation],
        parent=parent,
        state=state,
        meta={"config": {"dim": 8, "epochs": 3}, "edges": {"clicks": 400}, **(meta or {})},
        reports=reports,
        created=datetime(2026, 6, 1, 4, 30, tzinfo=UTC),
    )


def reports():
    """What a pipeline publishes with a version; every figure is one that tests know."""
    rows = [
        ("v2", 0.8, 0.78, 0.82),
        ("random", 0.5, 0.45, 0.55),
        ("v2 - random", 0.3, 0.25, 0.35),
        ("v1", 0.75, 0.72, 0.78),
    ]
    topic = [Result(name, "topic roc_auc", value, low, high, 100, protocol=PROBE) for name, value, low, high in rows]
    part = [Result("v2", "topic roc_auc", 0.9, 0.85, 0.95, 100, group=ATTACK, protocol=PROBE)]
    link = {"task": "links", "kind": "link"}
    links = [Result("v2", "recall@10", 0.25, 0.2, 0.3, 50, group="clicks", protocol=link)]
    tenth = {"entity": "user", "tenth": 1}
    drift = [Result("user", "l2", 0.3), Result("user", "procrustes residual", 0.1, n=30)]
    for median, value in ((2.0, 0.4), (8.0, 0.2)):
        of = {**tenth, "degree_median": median}
        drift.append(Result("user", "l2", value, group=f"degree {median:g}", protocol=of))
        drift.append(Result("user", "cosine", 1 - value / 10, 0.9, 0.99, group=f"degree {median:g}", protocol=of))
        drift.append(Result("user", "clicks overlap@10", 0.5, 0.4, 0.6, group=f"degree {median:g}", protocol=of))
    codes = []
    for size, factor, recall in ((4, 7.5, 0.6), (2, 14.0, 0.3)):
        name = f"pq {size} bytes"
        codes.append(Result(name, "neighbor_recall@10", recall, recall - 0.1, recall + 0.1))
        codes.append(Result(name, "compression", factor))
    epochs = [{"epoch": at, "loss": 2.0 / at, "losses": {"clicks": 4.0 / at, ATTACK: 1.0}} for at in (1, 2, 3)]
    lineage = {
        "format": "lineage/1",
        "config": {"train": {"dim": 8, "epochs": 3}, "relation": [{"name": "clicks", "weight": 2.0}]},
        "config_sha256": "c" * 64,
        "code": {"recokit": "0.1.0", "commit": "abcdef0123456789"},
        "inputs": {"edges/clicks.parquet": {"bytes": 2048, "sha256": "d" * 64}},
        "parent": "v1",
        "steps": [{"name": "training", "key": "k", "seconds": 1.5, "skipped": False}],
        "gates": [{"name": "links recall@10, min 0.2", "passed": True, "status": "passed", "message": "0.25"}],
        "metrics": [],
    }
    return {
        "benchmarks.json": Report([*topic, *part, *links], {}, "2026-06-01").to_json(),
        "drift.json": Report(drift, {}, "2026-06-01").to_json(),
        "compression.json": Report(codes, {}, "2026-06-01").to_json(),
        "training.json": json.dumps({"format": "training/1", "networks": {"": epochs}}),
        "lineage.json": json.dumps(lineage),
    }
