"""Rows whose label the vectors of user and item decide, in frames and in Parquet files: for the tests of training."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recokit.features import Bag, FeatureSpec, Pretrained
from recokit.rankers import DLRM
from recokit.table import EmbeddingTable

NUM_IDS, DIM = 60, 4
_RANDOM = np.random.default_rng(7)
VECTORS = {entity: _RANDOM.standard_normal((NUM_IDS, DIM)).astype(np.float32) for entity in ("user", "item")}
USERS = np.array([f"u{i}" for i in range(NUM_IDS)])


def table(entity: str, **meta) -> EmbeddingTable:
    ids = USERS if entity == "user" else np.arange(NUM_IDS)
    return EmbeddingTable.from_arrays(ids, VECTORS[entity], entity=entity, version="v1", meta=meta)


def rows(num_rows: int, seed: int = 0) -> pd.DataFrame:
    """P(1) = sigmoid(2 u · i / sqrt(D)); sessions of 1 to 5 rows stand together."""
    random = np.random.default_rng(seed)
    user, item = random.integers(0, NUM_IDS, (2, num_rows))
    logits = 2 * (VECTORS["user"][user] * VECTORS["item"][item]).sum(axis=1) / DIM**0.5
    return pd.DataFrame(
        {
            "user": USERS[user],
            "item": item,
            "age": random.normal(40, 10, num_rows),
            "country": random.choice(["at", "be", "ch", "de"], num_rows, p=[0.4, 0.3, 0.2, 0.1]),
            "genres": [[f"g{g}" for g in random.integers(0, 5, count)] for count in random.integers(0, 4, num_rows)],
            "session": np.repeat(np.arange(num_rows), random.integers(1, 6, num_rows))[:num_rows],
            "clicked": random.random(num_rows) < 1 / (1 + np.exp(-logits)),
        }
    )


def spec(**changes) -> FeatureSpec:
    return FeatureSpec(
        **{
            "pretrained": [Pretrained("user", table("user")), Pretrained("item", table("item"))],
            "dense": ["age"],
            "categorical": {"country": 3},
            "bags": [Bag("genres", 4)],
            "label": "clicked",
        }
        | changes
    )


def ranker(**changes) -> DLRM:
    return DLRM(spec(**changes), dim=4, bottom=(4,), top=(4,))


def write(frame: pd.DataFrame, path: Path, rows_each: int) -> Path:
    """Write a Parquet file with row groups of so many rows."""
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, row_group_size=rows_each)
    return path


def weights(model: DLRM) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
