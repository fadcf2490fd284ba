"""Export by pieces of tables, against ``export`` of the same model in memory."""

import dataclasses
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from pretrain import Model, Relation, TrainConfig, export, load_exported, partition_store, partitioned_export, prepare
from pretrain.partitioned import train_partitioned
from pretrain.partitioned_export import export_partitioned
from pretrain.train import edges_meta
from recokit.errors import ConfigError, DataError, VersionError
from recokit.table import id_column, open_version

CONFIG = TrainConfig(dim=6, epochs=2, batch_size=32, uniform_negatives=5, seed=3)
RELATIONS = [
    Relation("likes", "user", "item", weight=0.5),
    Relation("follows", "user", "user", operator="rotation"),
    Relation("made by", "item", "user", operator="diagonal", operator_side="target"),
]


def prepared_of(folder, *, partitions=3, relations=RELATIONS, seed=0):
    """Edges of thirty users, whose ids are strings, and forty items; of some all edges are held out."""
    rng = np.random.default_rng(seed)
    users, items = np.array([f"u{number}é" for number in range(30)]), np.arange(40) * 7 - 100
    files = {}
    for number, relation in enumerate(relations):
        ends = {"source": relation.source, "target": relation.target}
        frame = {end: rng.choice(users if entity == "user" else items, 60) for end, entity in ends.items()}
        files[relation.name] = folder / f"{number}.parquet"
        pd.DataFrame(frame).to_parquet(files[relation.name])
    settings = {"whole_below": 0, "held_out": 0.4, "chunk_edges": 7, "memory": "3GB", "seed": seed}
    return prepare(folder / "prepared", relations, files=files, partitions=partitions, **settings)


def trained(tmp_path, config=CONFIG, **settings):
    return train_partitioned(prepared_of(tmp_path, **settings), config, path=tmp_path / "run")


def in_memory(model):
    """The model in memory, with the sketches that one which is trained there has."""
    whole = model.to_model()
    sketches = edges_meta(model.prepared.to_graph("known"))["edge_sketches"]
    return dataclasses.replace(whole, meta={**whole.meta, "edge_sketches": sketches})


def by_id(model):
    """All that a model has learned, of every id; the order of rows is left out."""
    found = {}
    for entity, ids in model.entities.items():
        parts = [part[entity].tolist() for part in (model.vectors, model.vector_state)]
        parts += [part[entity].tolist() for part in (model.biases, model.bias_state) if part]
        rows = zip(*parts, model.degrees[entity].tolist(), strict=True)
        found[entity] = dict(zip(ids.to_pylist(), rows, strict=True))
    for name, row in model.parameters.items():
        found[name] = row.tolist(), model.parameter_state[name].tolist()
    return found


def of_trained(model):
    """Without the entities that have no training edge."""
    found = by_id(model)
    for entity in model.entities:
        found[entity] = {id_: row for id_, row in found[entity].items() if row[-1] > 0}
    return found


SETTINGS = [
    {},
    {"bias": True, "optimizer": "adagrad", "comparator": "l2"},
    {"reciprocal": True, "operator": "linear", "bias": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("partitions", [1, 3])
def test_a_version_reads_back_as_the_model_in_memory(tmp_path, monkeypatch, settings, partitions):
    monkeypatch.setattr(partition_store, "_CHUNK", 64)
    relations = RELATIONS[:2] if "reciprocal" in settings else RELATIONS
    model = trained(tmp_path, dataclasses.replace(CONFIG, **settings), partitions=partitions, relations=relations)
    version, whole = export_partitioned(model, tmp_path / "v1"), in_memory(model)
    left_out = sum(int((degrees == 0).sum()) for degrees in whole.degrees.values())
    assert left_out > 0
    read, wanted = load_exported(version), load_exported(export(whole, tmp_path / "memory" / "v1"))
    assert by_id(read) == by_id(wanted) == of_trained(whole)
    assert (read.config, read.relations, list(read.parameters)) == (
        model.config,
        whole.relations,
        list(whole.parameters),
    )
    assert read.blocks() == whole.blocks()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_its_files_are_those_of_a_model_whose_rows_stand_in_this_order(tmp_path, settings):
    relations = RELATIONS[:2] if "reciprocal" in settings else RELATIONS
    model = trained(tmp_path, dataclasses.replace(CONFIG, **settings), relations=relations)
    whole = in_memory(model)
    ids = {entity: model.prepared.ids(entity) for entity in whole.entities}
    rows = {entity: whole.rows(entity, ids[entity]) for entity in ids}

    def moved(part):
        return {entity: tensor[torch.from_numpy(rows[entity])] for entity, tensor in part.items()}

    same = dataclasses.replace(
        whole,
        entities=ids,
        degrees={entity: degrees[rows[entity]] for entity, degrees in whole.degrees.items()},
        **{name: moved(getattr(whole, name)) for name in ("vectors", "biases", "vector_state", "bias_state")},
    )
    export(same, tmp_path / "a" / "v1", parent="v0", meta={"note": "x"})
    export_partitioned(model, tmp_path / "b" / "v1", parent="v0", meta={"note": "x"})
    assert_same_files(tmp_path / "a", tmp_path / "b")
    open_version(tmp_path / "b" / "v1", verify=True)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["v1"]  # nothing is left beside it


def assert_same_files(first, second):
    """The same bytes, but for the time of the making and the order in which files are listed."""
    found = [{path.relative_to(side) for path in side.rglob("*") if path.is_file()} for side in (first, second)]
    assert found[0] == found[1]
    assert len(found[0]) > 9
    for file in found[0]:
        contents = [(side / file).read_bytes() for side in (first, second)]
        if file.name == "version.json":
            contents = [json.loads(content) | {"created": None} for content in contents]
        assert contents[0] == contents[1], file


def test_sketches_are_those_of_the_edges_in_one_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(partitioned_export, "SKETCH_SIZE", 20)
    monkeypatch.setattr(sys.modules["pretrain.train"], "SKETCH_SIZE", 20)
    monkeypatch.setattr(partitioned_export, "_SKETCHED", 3)
    relations = [*RELATIONS, Relation("twins", "item", "item")]
    for few in (1, 10**9):  # whole partitions are encoded, or ids that occur
        monkeypatch.setattr(partitioned_export, "_FEW", few)
        (tmp_path / str(few)).mkdir()
        prepared = prepared_of(tmp_path / str(few), relations=relations)
        sketches = partitioned_export._sketches(prepared)
        assert sketches == edges_meta(prepared.to_graph("known"))["edge_sketches"]
        assert [sketch["count"] for sketch in sketches] == list(prepared.num_edges.values())
    tables = {
        entity: [s["relation"] for s in sketches if entity in (s["source"], s["target"])] for entity in ("user", "item")
    }
    assert tables == {"user": ["likes", "follows", "made by"], "item": ["likes", "made by", "twins"]}


def test_edges_are_walked_once_in_rows_of_their_partitions(tmp_path):
    prepared = prepared_of(tmp_path)
    found = {name: [] for name in ("follows", "likes")}
    for part in partitioned_export.walk_edges(prepared, set(found)):
        sources, targets = part.sources + part.source_rows.start, part.targets + part.target_rows.start
        found[part.relation] += zip(sources.tolist(), targets.tolist(), strict=True)
    graph = prepared.to_graph("known")
    for name, pairs in found.items():
        ends = prepared.relations[name]
        sources, targets = prepared.ids(ends.source).to_pylist(), prepared.ids(ends.target).to_pylist()
        known = graph.pairs(name)
        wanted = sorted(zip(known["query"], known["candidate"], strict=True))
        assert sorted((sources[source], targets[target]) for source, target in pairs) == wanted


def test_a_large_table_has_its_index(tmp_path, monkeypatch):
    monkeypatch.setattr(id_column, "_INDEXED_FROM", 10)
    model = trained(tmp_path)
    version = export_partitioned(model, tmp_path / "v1")
    users = version.table("user")
    assert (version.path / "user" / "ids.index.npy").is_file()
    kept = np.flatnonzero(model.prepared.degrees("user") > 0)
    ids = model.prepared.ids("user").take(kept)
    assert users.ids.to_pylist() == ids.to_pylist()
    assert users.rows(ids).tolist() == list(range(len(kept)))


def test_the_version_records_how_it_was_made(tmp_path):
    model = trained(tmp_path)
    version = export_partitioned(model, tmp_path / "2026-06-01", parent="2026-05-25", meta={"note": "tiny"})
    assert (version.name, version.parent) == ("2026-06-01", "2026-05-25")
    assert version.meta["config"] == dataclasses.asdict(CONFIG)
    assert version.meta["relations"] == [dataclasses.asdict(relation) for relation in RELATIONS]
    assert version.meta["edges"] == dict(model.prepared.num_edges)
    assert version.meta["history"] == model.prepared.history()
    assert (version.meta["partitions"], version.meta["note"]) == (3, "tiny")
    assert "edge_sketches" not in version.meta
    with pytest.raises(ConfigError, match="meta has 'edges', which the version records"):
        export_partitioned(model, tmp_path / "v2", meta={"edges": 1})


def test_what_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    model, target = trained(tmp_path), tmp_path / "versions" / "v1"
    export_partitioned(model, target)
    with monkeypatch.context() as patch:  # refused before any work
        patch.setattr(partitioned_export, "_sketches", None)
        with pytest.raises(VersionError, match="v1 exists already"):
            export_partitioned(model, target)
        with pytest.raises(ConfigError, match="'-v2'"):
            export_partitioned(model, target.with_name("-v2"))
    with monkeypatch.context() as patch:

        def full(self, name):
            if name.startswith("relations-"):  # the last ones
                raise OSError(28, "the disk is full")
            return get(self, name)

        get = partitioned_export._State.__getitem__
        patch.setattr(partitioned_export._State, "__getitem__", full)
        with pytest.raises(OSError, match="the disk is full"):
            export_partitioned(model, target.with_name("v2"))
    assert [path.name for path in target.parent.iterdir()] == ["v1"]
    for key in model.store.layout.keys([1]):
        model.store.load([key])[key].vectors[2, 3] = torch.inf
        model.store.evict(key)
    with pytest.raises(DataError, match="vectors of the 'user' table: NaN or infinity in rows 1"):
        export_partitioned(model, target.with_name("v3"))
    assert [path.name for path in target.parent.iterdir()] == ["v1"]


def test_no_more_than_a_chunk_of_a_table_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(partition_store, "_CHUNK", 64)
    model = trained(tmp_path, dataclasses.replace(CONFIG, optimizer="adagrad"))
    sizes, write = [], partitioned_export.stream_npy

    def spy(path, shape, chunks):
        def seen():
            for chunk in chunks:
                sizes.append(len(chunk))
                yield chunk

        return write(path, shape, seen())

    monkeypatch.setattr(partitioned_export, "stream_npy", spy)
    monkeypatch.setattr(Model, "save", None)
    export_partitioned(model, tmp_path / "v1")
    assert sum(sizes) == 2 * sum(int((model.prepared.degrees(entity) > 0).sum()) for entity in ("user", "item"))
    assert max(sizes) <= 64 // (4 * CONFIG.dim) + 1
