"""Training: reproducible, recovers what was planted, and every setting does what its name says."""

import dataclasses
import itertools
import math
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

from pretrain import Graph, Relation, TrainConfig, evaluate, train
from pretrain.comparators import COMPARATORS
from pretrain.config import LossName
from pretrain.operators import OPERATORS
from pretrain.planted import planted_blocks
from recokit.errors import ConfigError, DataError

LOSSES = get_args(LossName)
# Every operator, and every comparator with every loss; that all have the right gradients is test_gradients' claim.
CHOICES = [
    *((operator, "cos", "softmax") for operator in OPERATORS if operator != "translation"),
    *(("translation", comparator, loss) for comparator, loss in itertools.product(COMPARATORS, LOSSES)),
]
SMALL = TrainConfig(dim=4, epochs=2, batch_size=8, uniform_negatives=5)


def bytes_of(model):
    """Everything that a model has learned, as bytes."""
    fields = ("vectors", "biases", "parameters", "vector_state", "bias_state", "parameter_state")
    return [(field, name, part.numpy().tobytes()) for field in fields for name, part in getattr(model, field).items()]


def two_types(num_edges=30, **relation):
    """A relation from few sources to many targets."""
    edges = pd.DataFrame({"source": np.arange(num_edges) % 3, "target": np.arange(num_edges)})
    return Graph.from_frames({"r": edges}, [Relation("r", "few", "many", **relation)])


@pytest.fixture
def batches(monkeypatch, watch_steps):
    """Every batch that the step is called with, as lists, in order."""
    seen = []

    def see(sources, targets, block, batch):
        fields = {name: getattr(batch, name) for name in ("sources", "targets", "relations", "weights")}
        negatives = {name: getattr(batch, name) for name in ("negative_sources", "negative_targets")}
        rows = {name: [] if side is None else side.rows.tolist() for name, side in negatives.items()}
        seen.append({name: tensor.tolist() for name, tensor in fields.items()} | rows)

    monkeypatch.setitem(train.__globals__, "check_reach", lambda *_: None)  # it tries steps of its own
    watch_steps(see)
    return seen


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    graph = planted_blocks()
    config = dataclasses.replace(SMALL, prevalence_negatives=3, in_batch_negatives=2, batch_size=100, bias=True)
    first, again, other = (train(graph, dataclasses.replace(config, seed=seed)) for seed in (1, 1, 2))
    assert bytes_of(first) == bytes_of(again)
    assert first.epochs == again.epochs
    assert all(a != b for a, b in zip(bytes_of(first), bytes_of(other), strict=True))


def test_the_random_state_of_others_is_neither_used_nor_changed():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = train(two_types(), SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    np.random.seed(6)  # noqa: NPY002
    assert bytes_of(train(two_types(), SMALL)) == bytes_of(first)


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_planted_blocks_are_found_again(choice):
    operator, comparator, loss = choice
    graph = planted_blocks()
    known, held_out = graph.split(fraction=0.2, seed=0)
    temperature = 1.0 if comparator == "dot" else 0.2
    config = TrainConfig(
        dim=8, epochs=40, batch_size=64, uniform_negatives=5, operator=operator, comparator=comparator, loss=loss,
        temperature=temperature,
    )  # fmt: skip
    model = train(known, config)
    losses = [epoch["loss"] for epoch in model.epochs]
    assert losses[-1] < 0.7 * losses[0]
    assert sorted(losses[::20], reverse=True) == losses[::20]
    # A user's block has 20 items, 8 of them known: who knows the block alone finds the true one among the first ten of
    # the remaining 12 or so. By chance it is 10 / 70, and popularity says nothing: all items are equally popular.
    hits = evaluate(model, held_out, known=known, sides="target").value("hits@10")
    by_popularity = popularity_hits(known, held_out)
    assert hits > 0.5
    assert by_popularity < 0.25


def popularity_hits(known, held_out):
    """Filtered hits@10 of held-out targets if candidates are ranked by their known degree."""
    popularity, answers = known.degrees("item"), set()
    for part in (known, held_out):
        answers |= set(zip(part.edges["likes"].sources, part.edges["likes"].targets, strict=True))
    hits = []
    for source, target in zip(held_out.edges["likes"].sources, held_out.edges["likes"].targets, strict=True):
        rivals = [popularity[i] for i in range(len(popularity)) if (source, i) not in answers]
        hits.append(1 + sum(p > popularity[target] for p in rivals) <= 10)
    return np.mean(hits)


def test_an_epoch_sees_every_edge_once_in_batches_of_relations_with_the_same_ends(batches):
    edges = pd.DataFrame({"source": np.arange(20), "target": np.arange(20), "weight": np.arange(1.0, 21)})
    relations = [Relation("r", "a", "b"), Relation("s", "b", "a", weight=100.0)]
    train(Graph.from_frames({"r": edges, "s": edges[:10]}, relations), dataclasses.replace(SMALL, epochs=1))
    assert sorted(len(batch["sources"]) for batch in batches) == [2, 4, 8, 8, 8]  # 8 + 8 + 4 and 8 + 2
    of_s = [batch for batch in batches if max(batch["weights"]) >= 100]
    of_r = [batch for batch in batches if max(batch["weights"]) < 100]
    for part, weight, count in ((of_r, 1, 20), (of_s, 100, 10)):
        rows = [row for batch in part for row in batch["sources"]]
        assert sorted(rows) == list(range(count))
        assert rows != sorted(rows)
        assert [w for batch in part for w in batch["weights"]] == [weight * (row + 1) for row in rows]
        assert [row for batch in part for row in batch["targets"]] == rows


def test_relations_that_differ_in_their_parameters_alone_share_batches(batches):
    edges = pd.DataFrame({"source": np.arange(12), "target": np.arange(12)})
    relations = [Relation("r", "a", "b", weight=2.0), Relation("s", "a", "b"), Relation("t", "a", "b", sides="target")]
    config = dataclasses.replace(SMALL, epochs=1, comparator="dot")
    train(Graph.from_frames(dict.fromkeys("rst", edges), relations), config)
    weight_of = {0: 2.0, 1: 1.0, 2: 1.0}
    shared = [set(batch["relations"]) for batch in batches]
    assert sorted(len(batch["sources"]) for batch in batches) == [4, 8, 8, 8, 8]  # 24 of r and s, 12 of t
    assert sum(relations == {2} for relations in shared) == 2
    assert {0, 1} in shared
    for batch in batches:
        assert batch["weights"] == [weight_of[relation] for relation in batch["relations"]]


def test_an_edge_without_weight_is_none(batches):
    edges = pd.DataFrame({"source": np.arange(9), "target": np.arange(9), "weight": [0.0, 1, 1, 0, 1, 1, 1, 0, 1]})
    graph = Graph.from_frames({"r": edges}, [Relation("r", "a", "b")])
    model = train(graph, dataclasses.replace(SMALL, epochs=1))
    assert sorted(row for batch in batches for row in batch["sources"]) == [1, 2, 4, 5, 6, 8]
    assert model.degrees["a"].tolist() == [0, 1, 1, 0, 1, 1, 1, 0, 1]


def test_the_order_changes_from_epoch_to_epoch(batches):
    train(two_types(), SMALL)
    half = len(batches) // 2
    first, second = ([row for batch in part for row in batch["targets"]] for part in (batches[:half], batches[half:]))
    assert sorted(first) == sorted(second)
    assert first != second


def test_the_batches_of_all_relations_come_in_random_order(batches):
    edges = pd.DataFrame({"source": np.arange(80), "target": np.arange(80)})
    relations = [Relation("r", "a", "b"), Relation("s", "a", "b", weight=2.0)]
    train(Graph.from_frames({"r": edges, "s": edges}, relations), dataclasses.replace(SMALL, epochs=1))
    order = [batch["weights"][0] for batch in batches]
    assert sorted(order) == [1.0] * 10 + [2.0] * 10
    changes = sum(before != after for before, after in itertools.pairwise(order))
    assert changes > 3  # one after the other would be 1; by chance it is about 10


def test_the_seed_decides_on_the_negatives_too(batches):
    drawn = []
    for seed in (1, 1, 2):
        batches.clear()
        train(two_types(), dataclasses.replace(SMALL, seed=seed))
        drawn.append([batch["negative_targets"] for batch in batches])
    assert drawn[0] == drawn[1]
    assert all(one != other for one, other in zip(drawn[0], drawn[2], strict=True))


def test_negatives_are_of_the_type_that_they_replace(batches):
    config = dataclasses.replace(SMALL, uniform_negatives=50, prevalence_negatives=20, in_batch_negatives=4)
    train(two_types(), config)
    for batch in batches:
        size = min(4, len(batch["sources"]))
        assert set(batch["negative_sources"]) == {0, 1, 2}
        assert len(batch["negative_sources"]) == len(batch["negative_targets"]) == 70 + size
        assert batch["negative_targets"][70:] == batch["targets"][:size]
        assert batch["negative_sources"][70:] == batch["sources"][:size]
    assert {row for batch in batches for row in batch["negative_targets"]} == set(range(30))
    assert batches[0]["negative_targets"] != batches[1]["negative_targets"]


def test_prevalence_negatives_are_the_ends_of_the_relation_itself(batches):
    r = pd.DataFrame({"source": [0] * 10, "target": [5] * 9 + [6]})
    s = pd.DataFrame({"source": [1] * 10, "target": range(10)})
    relations = [Relation("r", "a", "b", uniform_negatives=0, prevalence_negatives=99), Relation("s", "a", "b")]
    graph = Graph.from_frames({"r": r, "s": s}, relations)
    train(graph, SMALL)
    of_r = [batch for batch in batches if batch["sources"][0] == 0]
    drawn = [graph.entities["b"][row].as_py() for batch in of_r for row in batch["negative_targets"]]
    assert set(drawn) == {5, 6}
    assert np.mean(np.array(drawn) == 5) == pytest.approx(0.9, abs=0.08)


@pytest.mark.parametrize("where", ["run", "relation"])
@pytest.mark.parametrize("sides", ["source", "target", "both"])
def test_only_the_sides_that_were_asked_for_are_corrupted(batches, sides, where):
    if where == "run":
        train(two_types(), dataclasses.replace(SMALL, sides=sides))
    else:
        train(two_types(sides=sides), dataclasses.replace(SMALL, sides="target" if sides != "target" else "both"))
    for batch in batches:
        assert bool(batch["negative_sources"]) == (sides != "target")
        assert bool(batch["negative_targets"]) == (sides != "source")


@pytest.mark.parametrize("comparator", COMPARATORS)
@pytest.mark.parametrize("loss", LOSSES)
def test_translations_learn_under_one_sided_target_corruption(comparator, loss):
    model = train(two_types(), dataclasses.replace(SMALL, sides="target", comparator=comparator, loss=loss))
    # Adagrad's first step alone is as long as the learning rate in every component.
    assert model.parameters["r"].abs().max().item() > 0.005
    assert model.parameter_state["r"].min().item() > 0


def test_in_batch_negatives_alone_are_enough():
    known, held_out = planted_blocks().split(fraction=0.2, seed=0)
    config = TrainConfig(dim=8, epochs=40, batch_size=64, uniform_negatives=0, in_batch_negatives=64)
    model = train(known, config)
    assert evaluate(model, held_out, known=known, sides="target").value("hits@10") > 0.6


def test_a_relation_without_weight_moves_nothing():
    r = pd.DataFrame({"source": [1, 2, 3], "target": [10, 20, 30], "weight": [0.0] * 3})
    s = pd.DataFrame({"source": [1, 2], "target": [100, 200]})
    graph = Graph.from_frames({"r": r, "s": s}, [Relation("r", "a", "b"), Relation("s", "a", "c")])
    config = dataclasses.replace(SMALL, epochs=5, uniform_negatives=9)
    model, start = train(graph, config), train(graph, dataclasses.replace(config, learning_rate=1e-30))
    assert model.vectors["b"].equal(start.vectors["b"])
    assert model.parameters["r"].tolist() == [0.0] * 4
    assert model.epochs[-1]["losses"]["r"] == 0.0
    assert not (model.vectors["c"] == start.vectors["c"]).all(1).any()
    assert model.degrees["b"].tolist() == [0, 0, 0]  # never trained, so never exported


def test_the_weight_of_a_relation_is_the_weight_of_all_its_edges():
    edges = pd.DataFrame({"source": np.arange(20) % 4, "target": np.arange(20) % 7, "weight": np.arange(20) / 8})
    heavy = Graph.from_frames({"r": edges}, [Relation("r", "a", "b", weight=4.0)])
    same = Graph.from_frames({"r": edges.assign(weight=4 * edges["weight"])}, [Relation("r", "a", "b")])
    light = Graph.from_frames({"r": edges}, [Relation("r", "a", "b")])
    of_heavy, of_same, of_light = (train(graph, SMALL) for graph in (heavy, same, light))
    assert bytes_of(of_heavy) == bytes_of(of_same)
    # Adagrad cancels a common factor of all gradients, but the accumulators show it, and so does the loss.
    assert of_heavy.epochs[0]["loss"] == pytest.approx(4 * of_light.epochs[0]["loss"], rel=0.01)
    ratio = of_heavy.vector_state["a"] / of_light.vector_state["a"]
    assert ratio.numpy() == pytest.approx(16.0, rel=0.05)


def test_heavy_edges_win_over_light_ones():
    # Every source is pulled to two targets; the weights say to which of them more.
    rows = np.arange(40)
    edges = pd.DataFrame({"source": np.repeat(rows, 2), "target": np.stack([rows, (rows + 1) % 40], 1).ravel()})
    edges["weight"] = np.tile([1.0, 0.05], 40)
    graph = Graph.from_frames({"r": edges}, [Relation("r", "a", "b")])
    model = train(graph, TrainConfig(dim=8, epochs=30, batch_size=20, uniform_negatives=10))
    heavy = model.score("r", edges["source"][0::2], edges["target"][0::2])
    light = model.score("r", edges["source"][1::2], edges["target"][1::2])
    assert heavy.mean() > light.mean() + 0.1


def test_a_relation_overrides_the_operator_of_the_run():
    edges = pd.DataFrame({"source": range(9), "target": range(9)})
    relations = [Relation("r", "a", "b"), Relation("s", "a", "b", operator="identity")]
    model = train(Graph.from_frames({"r": edges, "s": edges}, relations), SMALL)
    assert (model.operator_name("r"), model.operator_name("s")) == ("translation", "identity")
    assert (len(model.parameters["r"]), len(model.parameters["s"])) == (4, 0)


def test_degrees_say_who_was_trained_and_those_who_were_not_keep_their_start():
    graph = planted_blocks(users=12, items=12, blocks=2, degree=2)
    known, _ = graph.split(fraction=0.6, seed=1)
    config = dataclasses.replace(SMALL, uniform_negatives=0, in_batch_negatives=8)
    model, start = train(known, config), train(known, dataclasses.replace(config, learning_rate=1e-30))
    assert (model.degrees["item"] == 0).any()
    for entity in ("user", "item"):
        assert model.degrees[entity].tolist() == known.degrees(entity).tolist()
        assert len(model.vectors[entity]) == graph.num_entities(entity)
        same = (model.vectors[entity] == start.vectors[entity]).all(1).numpy()
        assert same.tolist() == (model.degrees[entity] == 0).tolist()


def test_the_start_is_normal_with_the_scale_asked_for():
    config = dataclasses.replace(SMALL, dim=64, init_scale=0.3, learning_rate=1e-30, epochs=1, batch_size=1000)
    vectors = train(two_types(1000), config).vectors["many"].numpy()
    assert vectors.std() == pytest.approx(0.3, rel=0.02)
    assert vectors.mean() == pytest.approx(0.0, abs=0.01)
    assert len(np.unique(vectors)) > 60_000


def test_a_relation_whose_edges_are_all_held_out_is_no_obstacle():
    edges = pd.DataFrame({"source": range(9), "target": range(9), "time": range(9)})
    late = edges.assign(time=99)
    graph = Graph.from_frames({"r": edges, "s": late}, [Relation("r", "a", "b"), Relation("s", "b", "c")])
    model = train(graph.split(at=50)[0], SMALL)
    assert model.epochs[-1]["losses"]["s"] == 0.0
    assert model.degrees["c"].tolist() == [0] * 9


def test_callbacks_hear_of_every_step_and_every_epoch():
    heard = []
    model = train(two_types(20), SMALL, callback=lambda event: heard.append(dict(event)))
    assert [event["event"] for event in heard] == ["step", "step", "step", "epoch"] * 2
    steps = [event for event in heard if event["event"] == "step"]
    assert [step["epoch"] for step in steps] == [1, 1, 1, 2, 2, 2]
    assert [step["done"] for step in steps][2::3] == [20, 20]
    assert all(step["edges"] == 20 and step["epochs"] == 2 for step in steps)
    assert all(later["done"] > step["done"] for step, later in itertools.pairwise(steps[:3]))
    epochs = [event for event in heard if event["event"] == "epoch"]
    assert [(epoch["epoch"], epoch["loss"]) for epoch in epochs] == [(e["epoch"], e["loss"]) for e in model.epochs]
    assert all(epoch["edges_per_second"] > 0 and epoch["epochs"] == 2 for epoch in epochs)
    assert all(epoch["losses"] == {"r": pytest.approx(epoch["loss"])} for epoch in epochs)  # weights are 1


def test_what_a_callback_raises_ends_the_training():
    heard = []

    def stop(event):
        heard.append(event["event"])
        if event["event"] == "epoch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(two_types(8), dataclasses.replace(SMALL, epochs=50), callback=stop)
    assert heard == ["step", "epoch"]


@pytest.mark.parametrize("settings", [{"init_scale": 1e25}, {"learning_rate": 1e30}])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_that_is_not_finite_is_an_error(settings, loss):
    config = dataclasses.replace(SMALL, comparator="dot", loss=loss, epochs=3, **settings)
    with pytest.raises(DataError, match=r"the loss is (nan|inf) after epoch [12]; try a lower learning_rate"):
        train(two_types(), config)


def test_vectors_that_are_not_finite_are_an_error_though_the_loss_was():
    config = dataclasses.replace(SMALL, epochs=1, batch_size=100, learning_rate=1e39)
    with pytest.raises(DataError, match="what was learned of 'vectors/few' is not finite; try a lower learning_rate"):
        train(two_types(), config)


EARLY = TrainConfig(dim=4, epochs=12, batch_size=32, uniform_negatives=5, learning_rate=0.3, metric="hits@3")


@pytest.fixture(scope="module")
def parts():
    return planted_blocks(users=24, items=24, blocks=3, degree=6, seed=2).split(fraction=0.3)


def test_a_validation_is_what_evaluate_says_and_changes_nothing(parts):
    known, validation = parts
    for metric in ("mrr", "hits@3"):
        seen = train(known, dataclasses.replace(EARLY, epochs=4, metric=metric), validation=validation)
        assert [record["epoch"] for record in seen.epochs] == [1, 2, 3, 4]
        for number, record in enumerate(seen.epochs, start=1):
            alone = train(known, dataclasses.replace(EARLY, epochs=number, metric=metric))
            assert record[metric] == evaluate(alone, validation, known=known, k=(3,)).value(metric)
            assert {key: record[key] for key in ("epoch", "loss", "losses")} == alone.epochs[-1]


@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("every", [1, 2])
def test_the_best_epoch_is_returned_and_training_ends_when_patience_does(parts, patience, every):
    known, validation = parts
    config = dataclasses.replace(EARLY, patience=patience, evaluate_every=every)
    full = train(known, dataclasses.replace(config, patience=0), validation=validation)
    values = {record["epoch"]: record["hits@3"] for record in full.epochs if "hits@3" in record}
    assert list(values) == list(range(every, 13, every))
    best, waited, last = 0, 0, 12
    for epoch, value in values.items():
        if value > values.get(best, -1.0):
            best, waited = epoch, 0
        else:
            waited += 1
        if waited == patience and patience:
            last = epoch
            break
    model = train(known, config, validation=validation)
    assert model.epochs == full.epochs[:last]
    assert model.meta["best_epoch"] == best
    assert best < 12  # the last is not the best, so that something was chosen
    until_then = train(known, dataclasses.replace(config, patience=0, epochs=best))
    assert bytes_of(model) == bytes_of(until_then)


def test_restarts_keep_the_best_of_their_seeds(parts):
    known, validation = parts
    config = dataclasses.replace(EARLY, epochs=2, seed=4)
    models = [train(known, dataclasses.replace(config, seed=seed), validation=validation) for seed in (4, 5, 6)]
    values = [max(record["hits@3"] for record in model.epochs) for model in models]
    best = train(known, dataclasses.replace(config, restarts=3), validation=validation)
    assert len(set(values)) > 1
    assert bytes_of(best) == bytes_of(models[int(np.argmax(values))])


def test_a_validation_that_is_needed_has_to_be_given(parts):
    for settings in ({"patience": 1}, {"restarts": 2}):
        with pytest.raises(ConfigError, match="patience and restarts need a validation graph"):
            train(parts[0], dataclasses.replace(EARLY, **settings))


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_the_precision_of_other_products_is_put_back(precision):
    def stop(event):
        during.append(torch.get_float32_matmul_precision())
        raise KeyboardInterrupt

    before, during = torch.get_float32_matmul_precision(), []
    with pytest.raises(KeyboardInterrupt):
        train(two_types(), dataclasses.replace(SMALL, precision=precision), callback=stop)
    assert during == ["highest" if precision == "float32" else "medium"]
    assert torch.get_float32_matmul_precision() == before


def test_a_graph_without_edges_and_a_relation_without_negatives_are_refused():
    graph = two_types()
    nothing = {"r": graph.edges["r"].take(np.zeros(30, bool))}
    with pytest.raises(DataError, match="the graph has no edges"):
        train(Graph(graph.relations, graph.entities, nothing), SMALL)
    with pytest.raises(ConfigError, match="relation 'r': there are no negatives"):
        train(two_types(uniform_negatives=0), SMALL)


def test_the_meta_says_where_the_edges_came_from():
    known, _ = two_types().split(fraction=0.2, seed=7)
    model = train(known, SMALL)
    assert model.meta["edges"] == {"r": 24}
    assert model.meta["history"] == [
        {"sources": {"r": "frame"}},
        {"split": {"fraction": 0.2, "seed": 7}, "part": "known"},
    ]
    (sketch,) = model.meta["edge_sketches"]
    assert (sketch["relation"], sketch["source"], sketch["target"], sketch["count"]) == ("r", "few", "many", 24)


def test_the_default_settings_train():
    model = train(two_types())
    assert model.config == TrainConfig()
    assert math.isfinite(model.epochs[-1]["loss"])
    assert len(model.epochs) == 10


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_the_callers_default_dtype_changes_nothing(engine):
    config = dataclasses.replace(SMALL, engine=engine)
    rows = np.arange(40)
    edges = pd.DataFrame({"source": rows % 3, "target": rows})
    graph = Graph.from_frames({"r": edges}, [Relation("r", "few", "many")])
    plain = train(graph, config)
    torch.set_default_dtype(torch.float64)
    try:
        again = train(graph, config)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(plain.vectors[name], again.vectors[name]) for name in plain.vectors)
