"""Export: a trained model becomes an embedding version that anybody can read without torch.

An entity without a training edge was never moved from its random start, so it is left out: for those who look it up it
is unknown, which is the truth.  The meta records where the edges came from and a sketch of them, so that a ranker can
tell whether it trains on rows that the vectors have seen.
"""

__all__ = ["export"]

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pretrain.model import Model
from recokit.table import EmbeddingTable, RelationParameters, Version, write_version


def export(
    model: Model,
    path: str | Path,
    *,
    parent: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Version:
    """Write one table per entity type and the relations as the version that ``path`` names.

    Args:
        model: What ``train`` returned.
        path: The version's folder; its last part is the version's name.
        parent: The version that this one came from.
        meta: Added to what the version records of itself (settings, edges, sources, splits).

    Returns:
        The version, opened.

    Raises:
        VersionError: It exists already.
        ConfigError: Its name, or that of an entity type, is no safe folder name.
    """
    version = Path(path).name
    tables = {}
    for entity, ids in model.entities.items():
        trained = np.flatnonzero(model.degrees[entity] > 0)
        tables[entity] = EmbeddingTable.from_arrays(
            ids.take(pa.array(trained)),
            model.vectors[entity].cpu().numpy()[trained],
            entity=entity,
            version=version,
            comparator=model.config.comparator,
            meta={
                "edge_sketches": [
                    sketch
                    for sketch in model.meta.get("edge_sketches", ())
                    if entity in (sketch["source"], sketch["target"])
                ],
            },
        )
    relations = [
        RelationParameters(
            name=name,
            source=relation.source,
            target=relation.target,
            operator=model.operator_name(name),  # type: ignore[arg-type]
            parameters=model.parameters[name].cpu().numpy(),
        )
        for name, relation in model.relations.items()
    ]
    recorded = {key: value for key, value in model.meta.items() if key != "edge_sketches"}
    return write_version(
        path,
        tables,
        relations=relations,
        parent=parent,
        meta={"config": dataclasses.asdict(model.config), **recorded, **(meta or {})},
    )
