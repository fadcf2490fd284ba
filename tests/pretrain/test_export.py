"""Exports: what a reader without torch gets is what the model says."""

import dataclasses
import json

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from untrained import untrained_model

from pretrain import Graph, Model, Relation, TrainConfig, export, load_exported, train
from pretrain.comparators import COMPARATORS
from pretrain.operators import OPERATORS
from pretrain.planted import planted_blocks
from recokit.candidates import CandidateGenerator
from recokit.errors import ConfigError, FormatError, VersionError
from recokit.index import ExactIndex
from recokit.overlap import estimate_overlap
from recokit.table import EmbeddingTable, open_version, write_version

CONFIG = TrainConfig(dim=6, epochs=1, batch_size=16, uniform_negatives=3)
EDGES = pd.DataFrame({"source": [3, 1, 2, 1], "target": ["x", "y", "z", "x"]})


def graph(operator=None):
    twins = pd.DataFrame({"source": ["x"], "target": ["y"]})
    return Graph.from_frames(
        {"clicks": EDGES, "next": twins},
        [Relation("clicks", "user", "item", operator=operator), Relation("next", "item", "item", operator="identity")],
    )


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("comparator", COMPARATORS)
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


FULL = {"bias": True, "reciprocal": True, "operator": "rotation", "comparator": "dot"}


def test_biases_reciprocal_relations_and_the_state_are_exported(tmp_path):
    model = untrained_model(graph(), dataclasses.replace(CONFIG, **FULL), seed=2)
    version = export(model, tmp_path / "v1")
    for entity in ("user", "item"):
        assert version.table(entity).bias.tolist() == model.biases[entity].tolist()
        assert version.state[f"vectors-{entity}"].tolist() == model.vector_state[entity].tolist()
        assert version.state[f"bias-{entity}"].tolist() == model.bias_state[entity].tolist()
        assert version.state[f"degrees-{entity}"].tolist() == model.degrees[entity].tolist()
    assert list(version.relations) == ["clicks", "clicks^-1", "next", "next^-1"]
    back = version.relations["clicks^-1"]
    assert (back.source, back.target, back.operator, back.side) == ("item", "user", "rotation", "source")
    assert (back.reciprocal, version.relations["clicks"].reciprocal) == ("clicks", "clicks^-1")
    assert back.parameters.tolist() == model.parameters["clicks^-1"].tolist()
    state = [model.parameter_state[name].tolist() for name in ("clicks", "clicks^-1")]
    assert version.state["relations-rotation"].tolist() == state
    assert version.state["relations-identity"].shape == (2, 0)


def test_the_side_of_an_operator_is_exported(tmp_path):
    moved = [Relation("clicks", "user", "item", operator="diagonal", operator_side="target")]
    model = untrained_model(Graph.from_frames({"clicks": EDGES}, moved), CONFIG)
    version = export(model, tmp_path / "v1")
    users, items, relation = version.table("user"), version.table("item"), version.relations["clicks"]
    assert relation.side == "target"
    moved = relation.apply(items.vectors[items.rows(EDGES["target"])])
    scores = [
        naive.compare("cos", a, b) for a, b in zip(users.vectors[users.rows(EDGES["source"])], moved, strict=True)
    ]
    assert model.score("clicks", EDGES["source"], EDGES["target"]).tolist() == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{"comparator": "dot", "bias": True}, {"comparator": "cos"}, {"comparator": "l2"}, {"comparator": "squared_l2"}],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
@pytest.mark.parametrize("reciprocal", [False, True])
def test_candidates_from_the_version_are_those_of_the_model(tmp_path, settings, reciprocal):
    known = planted_blocks(users=20, items=30, degree=6)
    config = dataclasses.replace(CONFIG, epochs=3, reciprocal=reciprocal, **settings)
    model = train(known, config)
    version = export(model, tmp_path / "v1")
    users, items = version.table("user"), version.table("item")
    generate = CandidateGenerator(ExactIndex.build(items), users, version.relations["likes"])
    frame = generate(users.ids, k=30)
    scores = model.score("likes", frame["query"], frame["candidate"])
    own = model.biases["user"].numpy()[model.rows("user", frame["query"])] if config.bias else 0.0
    np.testing.assert_allclose(frame["score"], scores - own, atol=1e-5)  # a query's own bias changes no order
    assert len(frame) == 20 * 30
    if not reciprocal:
        return
    back = CandidateGenerator(ExactIndex.build(users), items, version.relations["likes^-1"])
    frame = back(["i3"], k=20)
    question = model.question("likes", "source", torch.from_numpy(model.rows("item", ["i3"])))
    expected = COMPARATORS[config.comparator].block(question.queries, question.candidates)[0][0]
    expected = expected + question.bias if config.bias else expected
    order = model.rows("user", frame["candidate"])
    np.testing.assert_allclose(frame["score"], expected.numpy()[order], atol=1e-5)


def learned(model):
    fields = ("vectors", "biases", "parameters", "vector_state", "bias_state", "parameter_state")
    return {f"{field} {name}": part.tolist() for field in fields for name, part in getattr(model, field).items()}


@pytest.mark.parametrize("settings", [{}, FULL])
def test_an_exported_version_reads_back_as_the_model(tmp_path, settings):
    config = dataclasses.replace(CONFIG, alpha={"user": 0.5}, **settings)
    model = untrained_model(graph(), config, seed=3)
    version = export(model, tmp_path / "v1")
    for read in (load_exported(version), load_exported(tmp_path / "v1"), load_exported(str(tmp_path / "v1"))):
        assert learned(read) == learned(model)
        assert (read.config, read.relations, list(read.parameters)) == (config, model.relations, list(model.parameters))
        assert {name: ids.to_pylist() for name, ids in read.entities.items()} == {
            name: ids.to_pylist() for name, ids in model.entities.items()
        }
        assert read.degrees["item"].tolist() == model.degrees["item"].tolist()
    again = export(load_exported(version), tmp_path / "again" / "v1")
    assert learned(load_exported(again)) == learned(model)
    model.save(tmp_path / "model")
    assert learned(Model.load(tmp_path / "model")) == learned(read)


def test_what_was_not_exported_is_no_model(tmp_path):
    version = export(untrained_model(graph(), CONFIG), tmp_path / "v1")
    relations = list(version.relations.values())
    foreign = write_version(tmp_path / "v2", {"user": table_of("v2")}, relations=relations)
    with pytest.raises(FormatError, match="v2 was not written by this release's export: 'config'"):
        load_exported(foreign)
    tables = {name: table_of("v3", version.table(name)) for name in version.tables}
    stateless = write_version(tmp_path / "v3", tables, relations=relations, meta=version.meta)
    with pytest.raises(FormatError, match="the state 'vectors-user' is missing or of another shape"):
        load_exported(stateless)
    fewer = write_version(tmp_path / "v4", {"user": table_of("v4")}, meta=version.meta)
    with pytest.raises(FormatError, match=r"v4 was not written by this release's export: .*no table 'item'"):
        load_exported(fewer)
    changed = dict(version.meta) | {"config": dict(version.meta["config"]) | {"warmth": 1}}
    later = write_version(tmp_path / "v5", {"user": table_of("v5")}, meta=changed)
    with pytest.raises(FormatError, match=r"v5 was not written by this release's export: .*'warmth'"):
        load_exported(later)


def table_of(version, like=None):
    ids, vectors = ([1, 2, 3], np.ones((3, 6), np.float32)) if like is None else (like.ids, like.vectors)
    return EmbeddingTable.from_arrays(ids, vectors, entity="user" if like is None else like.entity, version=version)


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
