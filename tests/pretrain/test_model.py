"""Models: scores as arithmetic, and folders that come back byte for byte or not at all."""

import dataclasses
import json

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from untrained import untrained_model

from pretrain import Graph, Model, Relation, TrainConfig, evaluate, train
from pretrain.comparators import COMPARATORS
from pretrain.operators import OPERATORS
from recokit.errors import ChecksumError, ConfigError, DataError, FormatError, VersionError

LIKES = pd.DataFrame({"source": ["ann", "bob", "ann"], "target": [5, -3, 2**62]})
NEXT = pd.DataFrame({"source": [5, 5], "target": [-3, 2**62]})
CONFIG = TrainConfig(dim=4, comparator="dot", epochs=2, batch_size=2, uniform_negatives=3)


def graph(operator_side="source"):
    relations = [
        Relation("likes", "user", "item type/0", operator_side=operator_side),
        Relation("next", "item type/0", "item type/0", sides="target", operator_side=operator_side),
    ]
    return Graph.from_frames({"likes": LIKES, "next": NEXT}, relations)


def test_score_spelled_out():
    model = untrained_model(graph(), dataclasses.replace(CONFIG, dim=2, operator="translation"))
    model.vectors["user"][:] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # ann, bob
    model.vectors["item type/0"][:] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, -4.0]])  # -3, 5, 2**62
    model.parameters["likes"][:] = torch.tensor([10.0, 20.0])
    assert model.score("likes", ["ann", "bob", "ann"], [-3, 5, 2**62]).tolist() == [
        (1 + 10) * 1,
        (4 + 20) * 1,
        (1 + 10) * 3 - (2 + 20) * 4,
    ]
    cosine = dataclasses.replace(model, config=dataclasses.replace(model.config, comparator="cos"))
    model.parameters["likes"][:] = torch.tensor([2.0, 2.0])  # ann is moved to (3, 4)
    assert cosine.score("likes", ["ann"], [2**62]).tolist() == pytest.approx([(3 * 3 - 4 * 4) / 25])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("comparator", COMPARATORS)
def test_scores_agree_with_loops(operator, comparator, side, bias):
    config = dataclasses.replace(CONFIG, operator=operator, comparator=comparator, bias=bias)
    model = untrained_model(graph(side), config, seed=1)
    for relation, ends in model.relations.items():
        pairs = [(s, t) for s in range(len(model.entities[ends.source])) for t in range(3)]
        expected = []
        for s, t in pairs:
            vectors = {"source": model.vectors[ends.source][s].numpy(), "target": model.vectors[ends.target][t].numpy()}
            vectors[side] = naive.operate(operator, vectors[side], model.parameters[relation].numpy())
            score = naive.compare(comparator, vectors["source"], vectors["target"])
            offset = float(model.biases[ends.source][s] + model.biases[ends.target][t]) if bias else 0.0
            expected.append(score + offset)
        sources = [model.entities[ends.source][s].as_py() for s, _ in pairs]
        targets = [model.entities[ends.target][t].as_py() for _, t in pairs]
        assert model.score(relation, sources, targets).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_unknown_and_missing_ids_score_nan():
    model = untrained_model(graph(), CONFIG)
    scores = model.score("likes", ["ann", "zoe", "ann", None, "bob"], pd.array([5, 5, 6, 5, None], "Int64"))
    assert np.isnan(scores).tolist() == [False, True, True, True, True]
    assert scores[0] == model.score("likes", ["ann"], [5])[0]


def test_refusals_of_score():
    model = untrained_model(graph(), CONFIG)
    with pytest.raises(ConfigError, match="relation 'like' is not in the model; did you mean 'likes'"):
        model.score("like", ["ann"], [5])
    with pytest.raises(DataError, match=r"sources.*expected integers or strings"):
        model.score("likes", [1.5], [5])


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bias": True, "reciprocal": True, "operator": "rotation"},
        {"alpha": {"user": 0.0}, "loss": "logistic", "score_offset": -1.0, "comparator": "l2"},
    ],
    ids=["plain", "bias-reciprocal", "others"],
)
def test_a_saved_model_comes_back_byte_for_byte(tmp_path, settings):
    model = train(graph().split(fraction=0.4)[0], dataclasses.replace(CONFIG, **settings))
    assert model.save(tmp_path / "model") == tmp_path / "model"
    loaded = Model.load(tmp_path / "model", verify=True)
    assert loaded.config == model.config
    assert loaded.relations == model.relations
    assert list(loaded.relations) == list(model.relations)
    assert loaded.epochs == model.epochs
    assert json.dumps(loaded.meta) == json.dumps(model.meta)
    for entity, ids in model.entities.items():
        assert loaded.entities[entity].equals(ids)
        assert loaded.degrees[entity].tolist() == model.degrees[entity].tolist()
    for field in ("vectors", "vector_state", "biases", "bias_state", "parameters", "parameter_state"):
        ours, theirs = getattr(loaded, field), getattr(model, field)
        assert {name: part.numpy().tobytes() for name, part in ours.items()} == {
            name: part.numpy().tobytes() for name, part in theirs.items()
        }
    assert len(loaded.biases) == (2 if model.config.bias else 0)
    assert ("likes^-1" in loaded.parameters) == model.config.reciprocal
    loaded.save(tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "model")
    assert evaluate(loaded, graph()).ranks.equals(evaluate(model, graph()).ranks)


def test_relations_without_parameters_come_back_too(tmp_path):
    model = untrained_model(graph(), dataclasses.replace(CONFIG, operator="identity"))
    loaded = Model.load(model.save(tmp_path / "model"))
    assert {name: len(parameters) for name, parameters in loaded.parameters.items()} == {"likes": 0, "next": 0}
    assert loaded.score("likes", ["ann"], [5]) == model.score("likes", ["ann"], [5])


@pytest.mark.parametrize(("comparator", "operator"), [("cos", "rotation"), ("cos", "translation"), ("l2", "identity")])
def test_questions_that_share_prepared_vectors_are_the_same(comparator, operator):
    model = untrained_model(graph(), dataclasses.replace(CONFIG, comparator=comparator, operator=operator))
    prepared, anchors = {}, torch.tensor([0, 1])
    for relation, side in [("likes", "target"), ("next", "target"), ("next", "source"), ("likes", "source")]:
        alone = model.question(relation, side, anchors)
        shared = model.question(relation, side, anchors, prepared=prepared)
        assert torch.equal(shared.queries, alone.queries)
        assert torch.equal(shared.candidates, alone.candidates)
    # Candidates that a relation moves are its own.
    assert set(prepared) == {"item type/0"} | ({"user"} if operator != "translation" else set())


def test_an_existing_path_is_refused_and_left_alone(tmp_path):
    model = untrained_model(graph(), CONFIG)
    before = files_of(model.save(tmp_path / "model"))
    with pytest.raises(VersionError, match="model exists already"):
        untrained_model(graph(), CONFIG, seed=5).save(tmp_path / "model")
    assert files_of(tmp_path / "model") == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def edited(change):
    """Damage the manifest: ``change`` its content."""

    def damage(folder):
        manifest = json.loads((folder / "model.json").read_text())
        change(manifest)
        (folder / "model.json").write_text(json.dumps(manifest))

    return damage


def overwritten(name, content):
    """Replace the start of a file, its size kept."""
    return lambda folder: (folder / name).write_bytes(content + (folder / name).read_bytes()[len(content) :])


def truncated(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-3])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated("vectors-0.npy"), r"vectors-0.npy has \d+ bytes, expected \d+"),
        (truncated("ids-1.parquet"), r"ids-1.parquet has \d+ bytes, expected \d+"),
        (truncated("model.json"), "model.json is not JSON"),
        (lambda folder: (folder / "degrees-1.npy").unlink(), "degrees-1.npy is missing"),
        (lambda folder: (folder / "model.json").unlink(), "is not a model: .*no model.json"),
        (overwritten("state-0.npy", b"nonsense"), "state-0.npy is not a readable .npy file"),
        (overwritten("ids-0.parquet", bytes(400)), "ids-0.parquet is not a readable Parquet file of ids"),
        (edited(lambda m: m.update(format="model/9")), "'model/9'; this release of recokit reads 'model/1'"),
        (edited(lambda m: m["config"].update(warmth=1)), "was written by another release: .*'warmth'"),
        (edited(lambda m: m["config"].update(loss="hinge")), "was written by another release: .*'hinge' is not known"),
        (edited(lambda m: m["config"].update(dim=6)), r"translation.npy holds .*\(2, 2, 4\), expected .*\(2, 2, 6\)"),
        (edited(lambda m: m["config"].update(bias=True)), "bias-0.npy is not a readable .npy file"),
        (edited(lambda m: m["relations"][0].update(weight=-1)), "another release: relation 'likes': weight must be"),
        (edited(lambda m: m["entities"].update(user=3)), "ids-0.parquet has 2 ids, expected 3"),
        (
            edited(lambda m: m["blocks"]["translation"].append("x")),
            "another release: block 'translation' has 'x', which",
        ),
        (edited(lambda m: m["blocks"]["translation"].append("next")), "block 'translation' has 'next', which"),
        (edited(lambda m: m["blocks"]["translation"].pop()), "another release: relation 'next' has no parameters"),
        (edited(lambda m: m.update(blocks={})), "another release: relation 'likes' has no parameters"),
        (edited(lambda m: m["blocks"].update(diagonal=m["blocks"].pop("translation"))), "block 'diagonal' has 'likes'"),
        (edited(lambda m: m["blocks"].update(turn=m["blocks"].pop("translation"))), "another release: operator 'turn'"),
        (edited(lambda m: m["blocks"].update(translation=3)), "another release: 'int' object"),
        (edited(lambda m: m["relations"].pop()), "another release: block 'translation' has 'next', which"),
        (
            edited(lambda m: m["relations"][1].update(target="x")),
            "relation 'next' has entities of 'x', which are missing",
        ),
        (edited(lambda m: m["entities"].pop("user")), "relation 'likes' has entities of 'user', which are missing"),
        (edited(lambda m: m.pop("epochs")), "was written by another release: 'epochs'"),
        (edited(lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": "0" * 64}})), "'../x'"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, damage, message):
    folder = untrained_model(graph(), CONFIG).save(tmp_path / "model")
    damage(folder)
    with pytest.raises(FormatError, match=message):
        Model.load(folder)


def test_changed_bytes_are_found_on_request(tmp_path):
    folder = untrained_model(graph(), CONFIG).save(tmp_path / "model")
    content = bytearray((folder / "vectors-0.npy").read_bytes())
    content[-1] ^= 1
    (folder / "vectors-0.npy").write_bytes(content)
    Model.load(folder)
    with pytest.raises(ChecksumError, match=r"vectors-0.npy .*: its bytes have changed"):
        Model.load(folder, verify=True)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(FormatError, match="nowhere is not a model"):
        Model.load(tmp_path / "nowhere")
