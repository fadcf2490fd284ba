"""Several networks: spaces of their own, side by side in one version."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from untrained import untrained_model

from pretrain import Graph, Model, Relation, TrainConfig, evaluate, export, load_exported, train, train_networks
from recokit.candidates import CandidateGenerator
from recokit.errors import ConfigError
from recokit.index import ExactIndex
from recokit.table import EmbeddingTable, open_version

CONFIG = TrainConfig(dim=4, comparator="dot", epochs=2, batch_size=16, uniform_negatives=4, bias=True)
NETWORKS = {"follow": ["follows", "clicks"], "engagement": ["clicks", "likes"]}
FIELDS = ("vectors", "biases", "parameters", "vector_state", "bias_state", "parameter_state")


def frames():
    draw = np.random.default_rng(1)
    sizes = {"follows": (20, 20, 50), "clicks": (12, 8, 30), "likes": (25, 15, 60)}  # not everybody does everything
    return {
        name: pd.DataFrame({"source": draw.integers(users, size=edges), "target": draw.integers(others, size=edges)})
        for name, (users, others, edges) in sizes.items()
    }


RELATIONS = [Relation("follows", "user", "user"), Relation("clicks", "user", "ad"), Relation("likes", "user", "tweet")]


@pytest.fixture(scope="module")
def graph():
    return Graph.from_frames(frames(), RELATIONS)


@pytest.fixture(scope="module")
def models(graph):
    return train_networks(graph, NETWORKS, CONFIG)


def assert_equal(first, second):
    for field in FIELDS:
        ours, theirs = getattr(first, field), getattr(second, field)
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_network_is_what_its_relations_give_alone(graph, models):
    assert list(models) == ["follow", "engagement"]
    for name, relations in NETWORKS.items():
        # Read anew from the edges of its relations: entities of the others are not there.
        alone = Graph.from_frames({r: frames()[r] for r in relations}, [r for r in RELATIONS if r.name in relations])
        assert_equal(models[name], train(alone, CONFIG))
    assert {name: list(model.entities) for name, model in models.items()} == {
        "follow": ["user", "ad"],
        "engagement": ["user", "ad", "tweet"],
    }
    users = [set(model.entities["user"].to_pylist()) for model in models.values()]
    assert users[0] != users[1]
    assert not torch.equal(models["follow"].parameters["clicks"], models["engagement"].parameters["clicks"])


def test_all_relations_in_one_network_are_the_graph_itself(graph):
    (model,) = train_networks(graph, {"": list(graph.relations)}, CONFIG).values()
    assert_equal(model, train(graph, CONFIG))


def test_each_network_looks_at_the_validation_edges_of_its_relations(graph):
    known, validation = graph.split(fraction=0.3)
    config = dataclasses.replace(CONFIG, patience=1, epochs=4)
    models = train_networks(known, NETWORKS, config, validation=validation)
    for name, relations in NETWORKS.items():
        alone = train(known.select(relations), config, validation=validation.select(relations))
        assert models[name].epochs == alone.epochs
        assert models[name].meta["best_epoch"] == alone.meta["best_epoch"]


def test_each_network_starts_from_its_own_and_others_anew(graph, models):
    still = dataclasses.replace(CONFIG, learning_rate=1e-30, relation_learning_rate=1e-30, alpha={"tweet": 0.1})
    started = train_networks(graph, NETWORKS, still, previous={"engagement": models["engagement"]})
    for entity, vectors in models["engagement"].vectors.items():
        assert torch.equal(started["engagement"].vectors[entity], vectors)
    assert "start" not in started["follow"].meta
    assert [model.config.alpha for model in started.values()] == [0.0, {"tweet": 0.1}]
    both = train_networks(graph, NETWORKS, still, previous=models)
    assert [model.config.alpha for model in both.values()] == [{}, {"tweet": 0.1}]


def test_callbacks_hear_the_networks_name(graph):
    heard = []
    train_networks(graph, NETWORKS, CONFIG, callback=lambda name, event: heard.append((name, event["event"])))
    assert [name for name, event in heard if event == "epoch"] == ["follow"] * 2 + ["engagement"] * 2


def test_networks_stand_side_by_side_in_a_version(models, tmp_path):
    export(models, tmp_path / "v1", meta={"note": "two"})
    version = open_version(tmp_path / "v1", verify=True)
    assert {name: (table.entity, table.network) for name, table in version.tables.items()} == {
        "user-follow": ("user", "follow"),
        "ad-follow": ("ad", "follow"),
        "user-engagement": ("user", "engagement"),
        "ad-engagement": ("ad", "engagement"),
        "tweet-engagement": ("tweet", "engagement"),
    }
    assert list(version.relations) == ["follows-follow", "clicks-follow", "clicks-engagement", "likes-engagement"]
    assert (version.relations["clicks-follow"].source, version.relations["clicks-follow"].target) == ("user", "ad")
    for network, model in models.items():
        assert version.meta["networks"][network]["config"] == dataclasses.asdict(CONFIG)
        for entity, vectors in model.vectors.items():
            assert version.table(f"{entity}-{network}").vectors.tolist() == vectors.tolist()
        for name, parameters in model.parameters.items():
            assert version.relations[f"{name}-{network}"].parameters.tolist() == parameters.tolist()
        assert_equal(load_exported(version, network=network), model)
        assert load_exported(tmp_path / "v1", network=network).relations == model.relations
    assert version.meta["note"] == "two"


def test_candidates_come_from_one_network(models, tmp_path):
    version = export(models, tmp_path / "v1")
    generate = CandidateGenerator(
        ExactIndex.build(version.table("ad-engagement")),
        version.table("user-engagement"),
        version.relations["clicks-engagement"],
    )
    frame = generate([3], k=8)
    model = models["engagement"]
    scores = model.score("clicks", [3] * 8, frame["candidate"])
    assert (np.diff(scores) <= 0).all()
    assert sorted(frame["candidate"]) == model.entities["ad"].to_pylist()


def test_what_cannot_be_is_refused_before_anything_is_trained(graph, models, tmp_path):
    def refused(networks, message, *, among=graph, **arguments):
        heard = []
        with pytest.raises(ConfigError, match=message):
            train_networks(among, networks, callback=lambda *event: heard.append(event), **arguments)
        assert heard == []

    refused({}, "there is no network")
    refused({"a": ["likes"], "b": []}, "network 'b' has no relations")
    refused({"a": ["likes"], "b": ["clickz"]}, "network 'b': no relation 'clickz'; did you mean 'clicks'")
    refused({"a": ["likes"], "b/c": ["clicks"]}, "a network's name is 'b/c': expected")
    refused({"a": ["likes"], "": ["clicks"]}, "a network's name is '': expected")
    refused({"a": ["likes"]}, "previous names the network 'follow'", previous=models)
    config = dataclasses.replace(CONFIG, alpha={"twet": 1.0})
    refused(NETWORKS, "alpha names the entity type 'twet'; did you mean 'tweet'", config=config, previous=models)
    refused({"a": ["likes"]}, "alpha holds vectors near", config=dataclasses.replace(CONFIG, alpha=1.0))
    known, validation = graph.split(fraction=0.3)
    likes = dict(validation.edges) | {"clicks": validation.edges["clicks"].take(np.zeros(0, int))}
    refused(
        {"a": ["likes"], "b": ["clicks"]},
        "network 'b' has no validation edges, which patience and restarts look at",
        among=known,
        config=dataclasses.replace(CONFIG, patience=1),
        validation=Graph(validation.relations, validation.entities, likes),
    )


def test_names_that_clash_are_refused(graph, tmp_path):
    edges = {"r": pd.DataFrame({"source": [1], "target": [1]}), "s": pd.DataFrame({"source": [1], "target": [1]})}
    clashing = Graph.from_frames(edges, [Relation("r", "user", "item-a"), Relation("s", "user", "item")])
    message = "the networks 'b' and 'a-b' would both have a table 'item-a-b': rename one"
    with pytest.raises(ConfigError, match=message):
        train_networks(clashing, {"b": ["r"], "a-b": ["s"]}, CONFIG)
    models = {"b": untrained_model(clashing.select(["r"]), CONFIG)}
    models["a-b"] = untrained_model(clashing.select(["s"]), CONFIG)
    with pytest.raises(ConfigError, match=message):
        export(models, tmp_path / "v1")
    relations = Graph.from_frames(
        {"r": edges["r"], "r-a": edges["r"]}, [Relation("r", "x", "y"), Relation("r-a", "u", "v")]
    )
    with pytest.raises(ConfigError, match="the networks 'a-b' and 'b' would both have a relation 'r-a-b'"):
        train_networks(relations, {"a-b": ["r"], "b": ["r-a"]}, CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_network_has_to_be_named_where_there_are_several(models, tmp_path):
    export(models, tmp_path / "v1")
    with pytest.raises(ConfigError, match="version 'v1' holds networks: name one of follow, engagement"):
        load_exported(tmp_path / "v1")
    with pytest.raises(ConfigError, match="version 'v1' has no network 'folow'; did you mean 'follow'"):
        load_exported(tmp_path / "v1", network="folow")
    export(models["follow"], tmp_path / "v2")
    with pytest.raises(ConfigError, match="version 'v2' has no network 'follow'; it has none"):
        load_exported(tmp_path / "v2", network="follow")


TOML = """\
version = "v1"
output = "store"
[[relation]]
name = "follows"
source = "user"
target = "user"
path = "follows.csv"
[[relation]]
name = "clicks"
source = "user"
target = "ad"
path = "clicks.csv"
[[relation]]
name = "likes"
source = "user"
target = "tweet"
path = "likes.csv"
[[network]]
name = "follow"
relations = ["follows", "clicks"]
[[network]]
name = "engagement"
relations = ["clicks", "likes"]
[split]
fraction = 0.2
[train]
dim = 4
epochs = 2
batch_size = 16
uniform_negatives = 4
bias = true
"""


def test_the_command_trains_networks_and_starts_from_them(tmp_path, run_cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, frame in frames().items():
        frame.to_csv(f"{name}.csv", index=False)
    (tmp_path / "c.toml").write_text(TOML)
    ran = run_cli("pretrain", "c.toml", "--json", "--save-model", "models")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert {name: len(part["epochs"]) for name, part in document["networks"].items()} == {"follow": 2, "engagement": 2}
    assert {row["name"] for row in document["results"]} == {"v1 follow", "v1 engagement"}
    groups = {(row["name"], row["group"]) for row in document["results"]}
    assert ("v1 follow", "relation: follows") in groups
    assert ("v1 engagement", "relation: follows") not in groups
    known, held_out = Graph.from_files({name: f"{name}.csv" for name in frames()}, RELATIONS).split(fraction=0.2)
    follow = Model.load("models/follow")
    measured = evaluate(follow, held_out, known=known, relations=["follows", "clicks"]).value("mrr")
    (said,) = (
        row["value"]
        for row in document["results"]
        if (row["name"], row["metric"], row["group"]) == ("v1 follow", "mrr", None)
    )
    assert said == measured
    version = open_version("store/v1")
    assert sorted(version.tables) == [
        "ad-engagement",
        "ad-follow",
        "tweet-engagement",
        "user-engagement",
        "user-follow",
    ]
    outputs = {}
    for previous in ("store/v1", "models"):
        held = "[entity.tweet]\nalpha = 0.5\n[split]"
        text = TOML.replace('"v1"', f'"from-{previous.split("/")[0]}"\nprevious = "{previous}"').replace(
            "[split]", held
        )
        (tmp_path / "c.toml").write_text(text)
        ran = run_cli("pretrain", "c.toml")
        assert ran.code == 0, ran.err
        assert "carried" in ran.out
        outputs[previous] = open_version(f"store/from-{previous.split('/')[0]}")
    assert [version.parent for version in outputs.values()] == ["v1", None]
    for network in NETWORKS:
        first, second = (load_exported(version, network=network) for version in outputs.values())
        assert_equal(first, second)
        tweets = {"tweet": 0.5} if network == "engagement" else {}
        assert first.config.alpha == {"user": 0.0, "ad": 0.0} | tweets
    start = outputs["store/v1"].meta["networks"]["follow"]["start"]
    assert start["user"] == {"carried": len(follow.entities["user"]), "from neighbours": 0, "at random": 0}


def test_a_relation_finds_the_tables_of_its_own_network(tmp_path, run_cli, monkeypatch, graph):
    monkeypatch.chdir(tmp_path)
    export(train_networks(graph, NETWORKS, dataclasses.replace(CONFIG, bias=False)), tmp_path / "store" / "v1")
    version = open_version("store/v1")
    assert version.table_of("clicks-follow", "target") == "ad-follow"
    user = version.table("user-engagement").ids[0].as_py()
    words = ("--table", "user-engagement", "--relation", "likes-engagement", "--json")
    ran = run_cli("neighbors", "store/v1", user, *words)
    assert ran.code == 0, ran.err
    assert len(json.loads(ran.out)) == 10
    frames()["clicks"].to_csv("clicks.csv", index=False)
    ran = run_cli("evaluate", "store/v1", "clicks.csv", "--relation", "clicks-follow", "--json")
    assert ran.code == 0, ran.err
    frames()["likes"][:2].assign(source=[900, 901]).to_csv("new.csv", index=False)
    ran = run_cli("inductive", "store/v1", "likes-engagement=new.csv", "--entity", "user", "--output", "new")
    assert ran.code == 0, ran.err
    assert EmbeddingTable.load("new").ids.to_pylist() == [900, 901]
