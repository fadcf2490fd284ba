"""What the tests of stores share: small tables, versions, rankers, and where stores can lie."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import store_server  # noqa: F401, which registers a file system

from recokit.store import EmbeddingStore
from recokit.table import EmbeddingTable

JUNE = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOW = timedelta(0)
KINDS = ("folder", "memory", "objects")


def empty_store(kind, tmp_path):
    """Return an empty store: in a folder, in memory, or of objects in a folder."""
    roots = {
        "folder": tmp_path / "store",
        "memory": f"memory://{uuid.uuid4().hex}/store",
        "objects": f"objects://{tmp_path}/objects",
    }
    return EmbeddingStore(roots[kind], cache=tmp_path / "cache")


def table(version, count=2, entity="user", start=0):
    """Return a table of the vectors [0, 1], [2, 3], ..."""
    vectors = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    return EmbeddingTable.from_arrays(range(start, start + count), vectors, entity=entity, version=version)


def publish(store, *names, **options):
    """Publish small versions, an hour apart."""
    for number, name in enumerate(names):
        store.publish(name, {"user": table(name)}, created=JUNE + timedelta(hours=number), **options)


def ranker(folder, *versions, format_name="ranker/2"):
    """Write as much of a ranker's checkpoint as stores read."""
    folder.mkdir(parents=True)
    content = {"format": format_name, "tables": [{"kind": "vectors", "version": version} for version in versions]}
    (folder / "ranker.json").write_text(json.dumps(content))
    return folder
