"""Exports: what a reader without torch gets is what the model says."""

import dataclasses
import json

import naive
import numpy as np
import pandas as pd
import pytest
from untrained import untrained_model

from pretrain import Graph, Relation, TrainConfig, export, train
from pretrain.operators import OPERATORS
from pretrain.planted import planted_blocks
from recokit.errors import ConfigError, VersionError
from recokit.overlap import estimate_overlap
from recokit.table import open_version

CONFIG = TrainConfig(dim=6, epochs=1, batch_size=16, uniform_negatives=3)
EDGES = pd.DataFrame({"source": [3, 1, 2, 1], "target": ["x", "y", "z", "x"]})


def graph(operator=None):
    twins = pd.DataFrame({"source": ["x"], "target": ["y"]})
    return Graph.from_frames(
        {"clicks": EDGES, "next": twins},
        [Relation("clicks", "user", "item", operator=operator), Relation("next", "item", "item", operator="identity")],
    )


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("comparator", ["dot", "cos"])
def test_the_exported_version_reproduces_the_models_scores(tmp_path, operator, comparator):
    model = untrained_model(graph(), dataclasses.replace(CONFIG, operator=operator, comparator=comparator), seed=1)
    version = export(model, tmp_path / "v1")
    users, items, relation = version.table("user"), version.table("item"), version.relations["clicks"]
    assert (relation.source, relation.target, relation.operator) == ("user", "item", operator)
    assert users.comparator == items.comparator == comparator
    sources, targets = EDGES["source"], EDGES["target"]
    moved = relation.apply(users.vectors[users.rows(sources)])
    scores = [naive.compare(comparator, a, b) for a, b in zip(moved, items.vectors[items.rows(targets)], strict=True)]
    assert model.score("clicks", sources, targets).tolist() == pytest.approx(scores, rel=1e-6, abs=1e-6)


def test_tables_hold_the_models_vectors_by_id(tmp_path):
    model = untrained_model(graph(), CONFIG)
    version = export(model, tmp_path / "v1")
    assert (version.name, sorted(version.tables)) == ("v1", ["item", "user"])
    for entity, ids in model.entities.items():
        table = version.table(entity)
        assert (table.entity, table.version, table.dim) == (entity, "v1", 6)
        assert table.ids.to_pylist() == ids.to_pylist()
        assert table.vectors.tobytes() == model.vectors[entity].numpy().tobytes()
    for name in ("clicks", "next"):
        assert version.relations[name].parameters.tolist() == model.parameters[name].tolist()
    assert version.relations["next"].operator == "identity"


def test_who_was_never_trained_is_left_out(tmp_path):
    model = untrained_model(graph(), CONFIG)
    model.degrees["user"][1] = 0  # user 2
    version = export(model, tmp_path / "v1")
    users = version.table("user")
    assert users.ids.to_pylist() == [1, 3]
    assert users.rows([1, 2, 3]).tolist() == [0, -1, 1]
    np.testing.assert_array_equal(users.vectors, model.vectors["user"][[0, 2]].numpy())
    assert len(version.table("item")) == 3


def test_the_meta_knows_the_training_edges_and_no_others(tmp_path):
    known, held_out = planted_blocks(users=30, items=30).split(fraction=0.2, seed=3)
    version = export(train(known, CONFIG), tmp_path / "v1")
    for entity in ("user", "item"):
        (sketch,) = version.table(entity).meta["edge_sketches"]
        assert (sketch["relation"], sketch["source"], sketch["target"]) == ("likes", "user", "item")
        trained, unseen = known.pairs("likes"), held_out.pairs("likes")
        assert estimate_overlap(sketch, trained["query"], trained["candidate"]) == 1.0
        assert estimate_overlap(sketch, unseen["query"], unseen["candidate"]) == 0.0


def test_a_table_carries_the_sketches_of_its_own_relations_alone(tmp_path):
    version = export(train(graph(), CONFIG), tmp_path / "v1")
    relations = {
        entity: [sketch["relation"] for sketch in version.table(entity).meta["edge_sketches"]]
        for entity in ("user", "item")
    }
    assert relations == {"user": ["clicks"], "item": ["clicks", "next"]}


def test_the_version_records_how_it_was_made(tmp_path):
    known, _ = planted_blocks(users=30, items=30).split(fraction=0.2, seed=3)
    version = export(train(known, CONFIG), tmp_path / "2026-06-01", parent="2026-05-25", meta={"note": "tiny"})
    again = open_version(tmp_path / "2026-06-01", verify=True)
    assert again.parent == version.parent == "2026-05-25"
    assert again.meta["config"] == dataclasses.asdict(CONFIG)
    assert again.meta["edges"] == {"likes": 240}
    assert again.meta["history"] == [
        {"sources": {"likes": "frame"}},
        {"split": {"fraction": 0.2, "seed": 3}, "part": "known"},
    ]
    assert again.meta["note"] == "tiny"
    assert "edge_sketches" not in again.meta  # they stand with the tables


def test_the_same_model_gives_the_same_files(tmp_path):
    model = train(graph(), CONFIG)
    export(model, tmp_path / "a" / "v1")
    export(model, tmp_path / "b" / "v1")
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert len(files) > 6
    for file in files:
        first, second = ((tmp_path / side / file).read_bytes() for side in ("a", "b"))
        if file.name == "version.json":
            first, second = (json.loads(content) | {"created": None} for content in (first, second))
        assert first == second


def test_an_existing_version_and_unsafe_names_are_refused(tmp_path):
    model = untrained_model(graph(), CONFIG)
    export(model, tmp_path / "v1")
    with pytest.raises(VersionError, match="v1 exists already"):
        export(model, tmp_path / "v1")
    with pytest.raises(ConfigError, match=r"'-v2'"):
        export(model, tmp_path / "-v2")
    unsafe = Graph.from_frames({"r": EDGES}, [Relation("r", "user", "a/b")])
    with pytest.raises(ConfigError, match=r"'a/b'"):
        export(untrained_model(unsafe, CONFIG), tmp_path / "v3")
    assert not (tmp_path / "v3").exists()
