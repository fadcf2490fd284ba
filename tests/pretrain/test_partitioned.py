"""Training by partitions: against float64 loops, edge by edge, killed and resumed, and within its memory."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections import Counter

import naive
import numpy as np
import pandas as pd
import pytest
import torch

from pretrain import Relation, TrainConfig, evaluate, prepare, train
from pretrain.memory import workspace_bytes
from pretrain.model import reverse_name
from pretrain.partition_store import PartitionStore, normal_start
from pretrain.partitioned import Plan, plan_partitions, train_partitioned
from pretrain.prepared import PreparedGraph
from pretrain.run import Run
from recokit.errors import ConfigError, DataError, VersionError

CONFIG = TrainConfig(
    dim=4, epochs=2, batch_size=6, uniform_negatives=3, temperature=0.5, init_scale=0.5, learning_rate=0.05, seed=3,
    schedule="linear", warmup=0.2, bias=True,
)  # fmt: skip
LIKES, FOLLOWS = Relation("likes", "user", "item", weight=2.0), Relation("follows", "user", "user")


def frames(users=9, items=6, edges=24, seed=0):
    """Every user and item has an edge; a likes of three weighs nothing."""
    draw = np.random.default_rng(seed)
    likes = pd.DataFrame({"source": np.arange(edges) % users, "target": draw.integers(items, size=edges)})
    likes["target"] = np.where(np.arange(edges) < items, np.arange(edges), likes["target"])
    likes["weight"] = np.where(np.arange(edges) % 3, draw.random(edges) + 0.5, 0.0)
    follows = pd.DataFrame({"source": draw.integers(users, size=edges), "target": draw.integers(users, size=edges)})
    return {"likes": likes, "follows": follows}


def prepared_of(folder, partitions, *, tables=None, relations=(LIKES, FOLLOWS), **arguments) -> PreparedGraph:
    tables = frames() if tables is None else tables
    files = {}
    for name, frame in tables.items():
        files[name] = folder / f"{name}.parquet"
        frame.to_parquet(files[name])
    path = folder / f"prepared-{len(list(folder.iterdir()))}"
    arguments = {"whole_below": 0, "memory": "3GB", "threads": 1} | arguments
    return prepare(path, list(relations), files=files, partitions=partitions, **arguments)


@dataclasses.dataclass
class Seen:
    """A step: the tables and the batch that it was called with, copied."""

    source: str
    target: str
    operator: str
    rate: float
    one_table: bool
    sources: list[int]
    targets: list[int]
    relations: list[int]
    reverse: list[int] | None
    weights: list[float]
    negative_sources: list[int]
    negative_targets: list[int]


@pytest.fixture
def steps(monkeypatch, watch_steps) -> list[Seen]:
    """What every step of a run is called with."""
    seen, now = [], {}

    def rows(sampled):
        return [] if sampled is None else sampled.rows.tolist()

    def see(sources, targets, block, batch):
        if not now:  # check_reach tries steps of its own
            return
        seen.append(
            Seen(
                **now,
                one_table=sources.data_ptr() == targets.data_ptr(),
                sources=batch.sources.tolist(),
                targets=batch.targets.tolist(),
                relations=batch.relations.tolist(),
                reverse=None if batch.reverse is None else batch.reverse.tolist(),
                weights=batch.weights.tolist(),
                negative_sources=rows(batch.negative_sources),
                negative_targets=rows(batch.negative_targets),
            )
        )

    step = Run.step

    def spy(run, group, positions, losses, rate=1.0):
        now.update(source=group.source, target=group.target, operator=group.operator, rate=rate)
        return step(run, group, positions, losses, rate)

    monkeypatch.setattr(Run, "step", spy)
    watch_steps(see)
    return seen


def place_of(prepared, table):
    """Return the entity type, and the rows of the partition."""
    entity, number = table.rsplit("/", 1)
    return entity, prepared.partition(entity, int(number))


# -- what is trained ---------------------------------------------------------------------------------------------------


class NaiveRun:
    """The same batches in float64, on whole tables; the start is the store's, everything else is written anew."""

    def __init__(self, prepared, config, run):
        self.prepared, self.config, start = prepared, config, normal_start(config.seed, config.init_scale)
        counts = {entity: prepared.num_entities(entity) for entity in prepared.entity_types}
        drawn = {entity: torch.zeros(count, config.dim) for entity, count in counts.items()}
        for entity, count in counts.items():
            start(entity, range(count), {"vectors": drawn[entity]})
        self.vectors = {entity: table.double().numpy() for entity, table in drawn.items()}
        wide = config.optimizer == "adagrad"
        self.state = {e: np.zeros((n, config.dim) if wide else n) for e, n in counts.items()}
        self.biases = {entity: np.zeros(count) for entity, count in counts.items()}
        self.bias_state = {entity: np.zeros(count) for entity, count in counts.items()}
        self.parameters = {
            name: naive.identity_parameters(operator, config.dim) for name, (operator, _) in run.rows.items()
        }
        self.parameter_state = {name: np.zeros(len(value)) for name, value in self.parameters.items()}
        self.names = {place: name for name, place in run.rows.items()}

    def train(self, step):
        """Train a batch; return its loss."""
        config, prepared, constants = self.config, self.prepared, {}
        (source, at), (target, to) = place_of(prepared, step.source), place_of(prepared, step.target)
        names = [self.names[step.operator, row] for row in step.relations]
        own = sorted(set(names))
        reverse = [] if step.reverse is None else [reverse_name(name) for name in own]
        tables = naive.Tables(
            self.vectors[source], self.vectors[target],
            np.stack([self.parameters[name] for name in own]),
            np.stack([self.parameters[name] for name in reverse]) if reverse else None,
            self.biases[source] if config.bias else None, self.biases[target] if config.bias else None,
        )  # fmt: skip
        batch = naive.Edges(
            sources=[at[row] for row in step.sources],
            targets=[to[row] for row in step.targets],
            weights=step.weights,
            relations=[own.index(name) for name in names],
            negative_sources=[at[row] for row in step.negative_sources],
            negative_targets=[to[row] for row in step.negative_targets],
        )
        same = {field.name for field in dataclasses.fields(naive.Setting)} - {"operator_side"}
        setting = naive.Setting(**{name: getattr(config, name) for name in same if hasattr(config, name)})

        def loss():
            return naive.batch_loss(tables, batch, setting, constants)

        value, grads = loss(), {name: naive.slopes(loss, array) for name, array in tables.arrays().items()}
        touched = {source: set(batch.sources) | set(batch.negative_sources)}
        touched[target] = touched.get(target, set()) | set(batch.targets) | set(batch.negative_targets)
        for end, entity in (("source", source), ("target", target)):
            if f"{end}s" in grads:  # a table of both ends is there once
                self._update(entity, grads[f"{end}s"], touched[entity], step.rate * config.learning_rate)
            if f"{end}_biases" in grads:
                bias, grad = self.biases[entity][:, None], grads[f"{end}_biases"][:, None]
                naive.row_adagrad(
                    bias, self.bias_state[entity], grad, touched[entity], step.rate * config.learning_rate
                )
        for part, named in (("parameters", own), ("reverse", reverse)):
            for number, name in enumerate(named):
                rate = step.rate * config.relation_learning_rate
                naive.adagrad(self.parameters[name], self.parameter_state[name], grads[part][number], rate)
        return value

    def _update(self, entity, grad, rows, rate):
        if self.config.optimizer == "rowwise_adagrad":
            naive.row_adagrad(self.vectors[entity], self.state[entity], grad, rows, rate)
        else:
            for row in rows:
                naive.adagrad(self.vectors[entity][row], self.state[entity][row], grad[row], rate)


CASES = {
    "whole": (1, {}),
    "two": (2, {"operator": "diagonal", "comparator": "dot", "reciprocal": True}),
    "three": (3, {"optimizer": "adagrad"}),
    "users alone": ({"user": 3}, {"loss": "logistic", "comparator": "dot", "bias": False}),
    "torch": (2, {"engine": "torch"}),
}


@pytest.mark.parametrize("case", CASES)
def test_vectors_and_losses_agree_with_loops_over_the_same_batches(case, tmp_path, steps):
    partitions, settings = CASES[case]
    prepared, config = prepared_of(tmp_path, partitions), dataclasses.replace(CONFIG, **settings)
    learned = train_partitioned(prepared, config, path=tmp_path / "run")
    expected = NaiveRun(prepared, config, learned.run)
    losses = [expected.train(step) for step in steps]
    model = learned.to_model()
    learned.close()
    for entity in prepared.entity_types:
        order = np.argsort(prepared.ids(entity).to_numpy())
        np.testing.assert_array_equal(model.entities[entity].to_numpy(), np.arange(len(order)))
        pairs = [(model.vectors, expected.vectors), (model.vector_state, expected.state)]
        if config.bias:
            pairs += [(model.biases, expected.biases), (model.bias_state, expected.bias_state)]
        for got, want in pairs:
            np.testing.assert_allclose(got[entity].numpy(), want[entity][order], rtol=3e-4, atol=5e-5)
    assert set(model.parameters) == set(expected.parameters)
    for name, want in expected.parameters.items():
        np.testing.assert_allclose(model.parameters[name].numpy(), want, rtol=3e-4, atol=5e-5)
    edges = 16 + 24  # of the likes, eight weigh nothing
    half, ends = len(steps) // 2, np.cumsum([len(step.sources) for step in steps])
    assert ends[half - 1] == edges
    assert [e["loss"] for e in model.epochs] == pytest.approx(
        [sum(losses[:half]) / edges, sum(losses[half:]) / edges], rel=1e-4
    )
    follows = sum(loss for loss, step in zip(losses[:half], steps, strict=False) if step.target.startswith("user"))
    assert model.epochs[0]["losses"]["follows"] == pytest.approx(follows / 24, rel=1e-4)
    likes = frames()["likes"]["weight"].sum() * 2
    assert model.epochs[0]["losses"]["likes"] == pytest.approx((sum(losses[:half]) - follows) / likes, rel=1e-4)
    of_follows = [loss for loss, step in zip(losses, steps, strict=True) if step.target.startswith("user")]
    second = sum(of_follows) - follows  # the weights of an epoch are its own
    assert model.epochs[1]["losses"]["follows"] == pytest.approx(second / 24, rel=1e-4)
    done = ends - [len(step.sources) for step in steps]
    rates = [naive.rate(before // 6, 14, schedule="linear", warmup=0.2) for before in done]  # ceil(2 * 40 / 6) = 14
    assert [step.rate for step in steps] == pytest.approx(rates)


def test_every_epoch_and_chunk_draws_negatives_of_its_own(tmp_path, steps):
    """Twelve numbers of nine rows a step come twice by chance once in 9^12 times."""
    prepared = prepared_of(tmp_path, 1, chunk_edges=20)
    config = dataclasses.replace(CONFIG, uniform_negatives=12, bias=False)
    train_partitioned(prepared, config, path=tmp_path / "run").close()
    drawn = [tuple(step.negative_sources) for step in steps]
    assert prepared.chunks(0, 0) == 3
    assert len(set(drawn)) == len(drawn) > 12


def sparse():
    """Relations that most buckets lack, a type of few entities, weights on one of them."""
    draw = np.random.default_rng(5)
    tables = frames(users=25, items=15, edges=60)
    tables["made"] = pd.DataFrame({"source": [3, 7, 9], "target": [1, 1, 2]})
    tables["knows"] = pd.DataFrame({"source": draw.integers(25, size=70), "target": 3})
    return tables


SPARSE = (LIKES, FOLLOWS, Relation("made", "maker", "item", sides="target"), Relation("knows", "user", "user"))


@pytest.mark.parametrize("chunk_edges", [10**6, 7])
@pytest.mark.parametrize("partitions", [1, 2, 3, {"user": 5, "item": 5, "maker": 1}])
def test_every_edge_is_trained_once_an_epoch(partitions, chunk_edges, tmp_path, steps):
    prepared = prepared_of(tmp_path, partitions, tables=sparse(), relations=SPARSE, chunk_edges=chunk_edges)
    config = dataclasses.replace(CONFIG, epochs=3)
    with_chunks = max(prepared.chunks(*bucket) for bucket in prepared.buckets)
    assert (with_chunks > 1) == (chunk_edges == 7)
    model = train_partitioned(prepared, config, path=tmp_path / "run")
    names = {place: name for name, place in model.run.rows.items()}
    ids = {entity: prepared.ids(entity).to_numpy() for entity in prepared.entity_types}
    epochs, drawn, done = [Counter(), Counter(), Counter()], {}, 0
    total = sum(int((frame.get("weight", pd.Series(1.0, frame.index)) > 0).sum()) for frame in sparse().values())
    for step in steps:
        (source, at), (target, to) = place_of(prepared, step.source), place_of(prepared, step.target)
        assert step.one_table == (step.source == step.target)
        for s, r, t, weight in zip(step.sources, step.relations, step.targets, step.weights, strict=True):
            relation = model.run.relations[names[step.operator, r]]
            assert (relation.source, relation.target) == (source, target)
            edge = (relation.name, ids[source][at[s]], ids[target][to[t]], round(weight / relation.weight, 5))
            epochs[done // total][edge] += 1
            done += 1
        for table, rows in ((step.source, step.negative_sources), (step.target, step.negative_targets)):
            drawn.setdefault(table, set()).update(rows)
    graph, expected = prepared.to_graph(), Counter()
    for name, edges in graph.edges.items():
        weights = np.ones(len(edges)) if edges.weights is None else edges.weights
        ends = graph.relations[name]
        rows = (
            graph.entities[ends.source].to_numpy()[edges.sources],
            graph.entities[ends.target].to_numpy()[edges.targets],
        )
        expected.update((name, s, t, round(float(w), 5)) for s, t, w in zip(*rows, weights, strict=True) if w > 0)
    assert expected.total() == total
    assert epochs == [expected] * 3
    for table, rows in drawn.items():  # of the partition at hand, and any of it
        if table.startswith("user"):
            assert rows == set(range(len(place_of(prepared, table)[1])))
        elif rows:
            assert max(rows) < len(place_of(prepared, table)[1])
    assert "maker/0" not in drawn or not drawn["maker/0"]  # sides="target"


@pytest.mark.parametrize("relations", [(LIKES,), (LIKES, FOLLOWS)])
def test_no_more_than_three_partitions_of_a_type_are_in_memory(relations, tmp_path, monkeypatch):
    """Edges between users u and u + 1, and u and u: most of the 49 buckets are empty."""
    rows = np.arange(14)
    tables = {
        "likes": pd.DataFrame({"source": rows, "target": rows % 3}),
        "follows": pd.DataFrame({"source": rows, "target": (rows + 1) % 14}),
    }
    names = [relation.name for relation in relations]
    partitions = {"user": 7, "item": 1} if len(relations) == 1 else 7
    prepared = prepared_of(
        tmp_path, partitions if len(relations) == 1 else {"user": 7, "item": 1},
        tables={name: tables[name] for name in names}, relations=relations,
    )  # fmt: skip
    there, loads, fetch = [], Counter(), PartitionStore._fetch

    def spy(store, key):
        slot = fetch(store, key)
        there.append(Counter(entity for entity, _ in {**store._resident, **store._fetched, key: slot}))
        loads[key] += 1
        return slot

    monkeypatch.setattr(PartitionStore, "_fetch", spy)
    config = dataclasses.replace(CONFIG, epochs=4)
    train_partitioned(prepared, config, path=tmp_path / "run").close()
    assert max(count["user"] for count in there) <= 3
    assert loads["item", 0] == 1
    if len(relations) == 1:  # every other user's partition meets the one of the items once an epoch
        assert sum(loads.values()) - 1 <= 4 * 7


# -- crash safety ------------------------------------------------------------------------------------------------------


class StopError(Exception):
    """Raised by a callback."""


def bytes_of(learned):
    model = learned.to_model()
    learned.close()
    parts = ("vectors", "biases", "parameters", "vector_state", "bias_state", "parameter_state")
    found = {
        f"{part}/{name}": array.numpy().tobytes() for part in parts for name, array in getattr(model, part).items()
    }
    return found | {"epochs": json.dumps(model.epochs), "meta": json.dumps(model.meta)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A graph of three partitions and one of them, and what a run on it ends with."""
    folder = tmp_path_factory.mktemp("tiny")
    prepared = prepared_of(folder, {"user": 3}, chunk_edges=5)
    events = []
    learned = train_partitioned(prepared, CONFIG, path=folder / "run", callback=events.append)
    return prepared, bytes_of(learned), events


@pytest.fixture
def _no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # for speed; here no machine loses its power


def test_same_seed_same_bytes_and_another_seed_others(tiny, tmp_path):
    prepared, expected, _ = tiny

    def spoil(event):  # what a callback is given is its own
        event.get("losses", {}).clear()

    arguments = {"callback": spoil, "commit_seconds": 0}
    assert bytes_of(train_partitioned(prepared, CONFIG, path=tmp_path / "a", **arguments)) == expected
    other = bytes_of(train_partitioned(prepared, dataclasses.replace(CONFIG, seed=4), path=tmp_path / "b"))
    assert all(other[name] != expected[name] for name in expected if name != "meta")


@pytest.mark.usefixtures("_no_fsync")
@pytest.mark.parametrize("commit_seconds", [0.0, 1e9])
def test_stopped_at_any_event_it_ends_with_the_same_bytes(tiny, tmp_path, commit_seconds):
    prepared, expected, all_events = tiny
    resumed_at = []
    for stop in range(len(all_events)):
        folder, seen, again = tmp_path / str(stop), [], []

        def callback(event, stop=stop, seen=seen):
            seen.append(event)
            if len(seen) > stop:
                raise StopError

        with pytest.raises(StopError):
            train_partitioned(prepared, CONFIG, path=folder, callback=callback, commit_seconds=commit_seconds)
        learned = train_partitioned(
            prepared, CONFIG, path=folder, callback=again.append, commit_seconds=commit_seconds, resume=True
        )
        assert bytes_of(learned) == expected
        strip = [{key: event[key] for key in event if key != "edges_per_second"} for event in all_events]
        first = len(all_events) - len(again)
        resumed_at.append(first)
        assert first <= stop
        assert [{key: event[key] for key in event if key != "edges_per_second"} for event in again] == strip[first:]
    if commit_seconds:
        assert set(resumed_at) == {0}
    else:
        assert len(set(resumed_at)) > 8  # after every bucket


@pytest.mark.usefixtures("_no_fsync")
def test_stopped_again_and_again_it_ends_with_the_same_bytes(tiny, tmp_path):
    prepared, expected, _ = tiny
    learned, stops = None, 0
    while learned is None:
        seen = []

        def callback(event, seen=seen):
            seen.append(event)
            if len(seen) > 6:
                raise StopError

        try:
            learned = train_partitioned(
                prepared, CONFIG, path=tmp_path / "run", callback=callback, commit_seconds=0, resume=True
            )
        except StopError:
            stops += 1
    assert stops > 2
    assert bytes_of(learned) == expected
    events = []
    finished = train_partitioned(prepared, CONFIG, path=tmp_path / "run", callback=events.append, resume=True)
    assert bytes_of(finished) == expected
    assert events == []


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from pretrain import TrainConfig
from pretrain.partitioned import train_partitioned
from pretrain.prepared import PreparedGraph
torch.set_num_threads(1)
graph, run, settings, events = sys.argv[1:]
left = int(events)
def callback(event):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
print("ready", flush=True)
config = TrainConfig(**eval(settings))
train_partitioned(PreparedGraph.open(graph), config, path=run, callback=callback, commit_seconds=0, resume=True)
"""


def killed(prepared, run, events):
    command = [sys.executable, "-c", KILLED, str(prepared.path), str(run), repr(vars(CONFIG)), str(events)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("events", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 5, 11, 16, 23))])
def test_killed_by_the_system_it_ends_with_the_same_bytes(tiny, tmp_path, events):
    prepared, expected, _ = tiny
    assert killed(prepared, tmp_path / "run", events).returncode == -signal.SIGKILL
    assert bytes_of(train_partitioned(prepared, CONFIG, path=tmp_path / "run", resume=True)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_any_time_it_ends_with_the_same_bytes(tiny, tmp_path, seed):
    prepared, expected, _ = tiny
    command = [sys.executable, "-c", KILLED, str(prepared.path), str(tmp_path / "run"), repr(vars(CONFIG)), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        try:
            process.wait(0.02 + 0.03 * seed)
        except subprocess.TimeoutExpired:
            process.kill()
    assert bytes_of(train_partitioned(prepared, CONFIG, path=tmp_path / "run", resume=True)) == expected


# -- quality -----------------------------------------------------------------------------------------------------------


def communities(users=900, items=450, groups=9, likes=14_000, follows=5_000):
    draw = np.random.default_rng(0)
    of_user, of_item = draw.integers(groups, size=users), draw.integers(groups, size=items)
    tables = {}
    for name, count, of_target in (("likes", likes, of_item), ("follows", follows, of_user)):
        members = [np.flatnonzero(of_target == group) for group in range(groups)]
        sources = draw.integers(users, size=count)
        inside = np.array([draw.choice(members[group]) for group in of_user[sources]])
        targets = np.where(draw.random(count) < 0.1, draw.integers(len(of_target), size=count), inside)
        tables[name] = pd.DataFrame({"source": sources, "target": targets})
    return tables


def test_partitions_cost_no_quality_that_could_be_told_from_noise(tmp_path):
    """Means over three seeds; the spread of one run is that pooled over all numbers of partitions."""
    relations, values = (Relation("likes", "user", "item"), FOLLOWS), {}
    config = TrainConfig(dim=16, epochs=4, uniform_negatives=50, batch_size=500)
    for partitions in (1, 2, 4, 8):
        prepared = prepared_of(tmp_path, partitions, tables=communities(), relations=relations, held_out=0.1)
        known, held_out = prepared.to_graph("known"), prepared.to_graph("held_out")
        for seed in range(3):
            own = dataclasses.replace(config, seed=seed)
            learned = train_partitioned(prepared, own, path=tmp_path / f"run-{partitions}-{seed}")
            models = {partitions: learned.to_model()} | ({"memory": train(known, own)} if partitions == 1 else {})
            learned.close()
            for name, model in models.items():
                values.setdefault(name, []).append(evaluate(model, held_out, known=known).value("mrr"))
    means = {name: np.mean(found) for name, found in values.items()}
    spread = np.sqrt(np.mean([np.var(found, ddof=1) for found in values.values()]))
    least = 4 * spread * np.sqrt(1 / 3 + 1 / 3)  # four standard errors of a difference of two means of three
    assert least < 0.15 * means["memory"]
    assert means["memory"] > 4 * np.mean(1 / np.arange(1, 451))  # far above chance
    for partitions in (1, 2, 4, 8):
        assert means[partitions] > means["memory"] - least


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"degree_power": 0.5}, ConfigError, "degree_power does not go with partitions"),
        ({"alpha": 0.5}, ConfigError, "alpha does not go with partitions"),
        ({"patience": 2}, ConfigError, "patience does not go with partitions"),
        ({"restarts": 2}, ConfigError, "restarts do not go with partitions"),
        ({"uniform_negatives": "all"}, ConfigError, 'uniform_negatives="all" does not go with partitions'),
        ({"operator": "rotation", "dim": 5, "bias": False}, ConfigError, "dim"),
    ],
)
def test_what_does_not_go_with_partitions_is_named(tiny, tmp_path, settings, error, said):
    with pytest.raises(error, match=said):
        train_partitioned(tiny[0], dataclasses.replace(CONFIG, **settings), path=tmp_path / "run")


def test_a_relation_may_not_ask_for_all_negatives_but_of_whole_tables(tmp_path):
    relations = (dataclasses.replace(LIKES, uniform_negatives="all"), FOLLOWS)
    with pytest.raises(ConfigError, match="of which two are there: give a number"):
        train_partitioned(prepared_of(tmp_path, 2, relations=relations), CONFIG, path=tmp_path / "run")
    train_partitioned(prepared_of(tmp_path, 1, relations=relations), CONFIG, path=tmp_path / "run").close()


@pytest.mark.parametrize("commit_seconds", [0.0, 1e9])
def test_another_run_in_the_folder_is_refused(tiny, tmp_path, commit_seconds):
    prepared, run = tiny[0], tmp_path / "run"

    def callback(event):
        if event["done"] > 20:
            raise StopError

    with pytest.raises(StopError):
        train_partitioned(prepared, CONFIG, path=run, callback=callback, commit_seconds=commit_seconds)
    with pytest.raises(VersionError, match=r"run holds a run: go on with it \(resume\), or remove the folder"):
        train_partitioned(prepared, CONFIG, path=run)
    said = "its dim is 4, this run's 6" if commit_seconds == 0 else "its tables have other sizes"
    with pytest.raises(VersionError, match=f"is of another run: {said}$"):
        train_partitioned(prepared, dataclasses.replace(CONFIG, dim=6), path=run, resume=True)
    if commit_seconds == 0:
        with pytest.raises(
            VersionError, match=r"its learning_rate is 0.05, this run's 0.1; its seed is 3, this run's 1$"
        ):
            train_partitioned(prepared, dataclasses.replace(CONFIG, learning_rate=0.1, seed=1), path=run, resume=True)
        other = prepared_of(tmp_path, {"user": 3}, seed=1)
        with pytest.raises(VersionError, match=r"is of another run: its edges are others$"):
            train_partitioned(other, CONFIG, path=run, resume=True)
    assert bytes_of(train_partitioned(prepared, CONFIG, path=run, resume=True)) == tiny[1]  # nothing was harmed


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": 1e38, "comparator": "dot"}, {"learning_rate": 1e30, "comparator": "dot", "loss": "logistic"}],
)
def test_what_is_no_number_is_told(tiny, tmp_path, settings):
    config = dataclasses.replace(CONFIG, schedule="constant", warmup=0.0, **settings)
    with pytest.raises(DataError, match=r"not finite.*; try a lower learning_rate"):
        train_partitioned(tiny[0], config, path=tmp_path / "run")


def test_the_last_step_is_looked_at_as_well(tmp_path):
    """One step: its loss is finite, what it leaves is not."""
    prepared = prepared_of(tmp_path, 1, tables={"follows": frames()["follows"]}, relations=(FOLLOWS,))
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=100, learning_rate=1e39, schedule="constant", warmup=0.0)
    with pytest.raises(DataError, match=r"what was learned of 'user' is not finite"):
        train_partitioned(prepared, config, path=tmp_path / "run")


def test_edges_that_all_weigh_nothing_are_refused(tmp_path):
    tables = {"likes": frames()["likes"].assign(weight=0.0)}
    prepared = prepared_of(tmp_path, 1, tables=tables, relations=(LIKES,))
    with pytest.raises(DataError, match="every edge of the graph has the weight 0"):
        train_partitioned(prepared, CONFIG, path=tmp_path / "run")


def test_without_a_folder_resuming_starts(tiny, tmp_path):
    assert bytes_of(train_partitioned(tiny[0], CONFIG, path=tmp_path / "run", resume=True)) == tiny[1]


# -- memory ------------------------------------------------------------------------------------------------------------


def test_the_plan_is_arithmetic():
    """Per row 65 numbers of 4 bytes, per edge of a chunk 100, per row of a partition a sampler's 8 and 40."""
    config = TrainConfig(dim=64, batch_size=1000, uniform_negatives=200, in_batch_negatives=50)
    entities, workspace = {"user": 10**7, "item": 5000}, workspace_bytes(1000, 250, 64)
    for memory in (2 * 10**8, 10**9):
        share = (memory - 10**8 - workspace) // 8 // 100
        found = plan_partitions(memory, entities, 10**8, config, baseline=10**8)
        assert found.chunk_edges == max(100_000, share)

        def total(partitions, chunk=found.chunk_edges):
            tables = (min(partitions, 3) * -(-(10**7) // partitions) + 5000) * 65 * 4
            rows = -(-(10**7) // partitions)
            return tables + chunk * 100 + 8 * (rows + 5000) + 40 * rows + workspace + 10**8 + 32 * 10**6

        assert total(found.partitions) <= memory < total(found.partitions - 1)
    few = plan_partitions("10GB", entities, 10**8, config, baseline=10**8)
    assert few == Plan(1, (10**10 - 10**8 - workspace) // 800)
    assert plan_partitions("100GB", entities, 10**8, config, baseline=0).chunk_edges == 20_000_000
    known = plan_partitions("10GB", entities, 10**8, dataclasses.replace(config, filter_positives=True), baseline=0)
    assert known.chunk_edges == (10**10 - workspace) // 8 // 190


def test_the_plan_leaves_no_partition_empty():
    """Of 50 rows eleven partitions of 5 are one too many, and so are twelve; thirteen of 4 are not."""
    config = TrainConfig(dim=64, batch_size=10, uniform_negatives=10)

    def plan(entities, memory):
        return plan_partitions(memory, entities, 100, config, baseline=0, whole_below=40).partitions

    other, fixed = 10**7, workspace_bytes(10, 10, 64) + 32 * 10**6 + 100 * 100
    for_eleven = fixed + (3 * 260 + 56) * -(-other // 11)  # 260 bytes of a row, 56 of its samplers
    assert plan({"user": other}, for_eleven) == 11
    few = (3 * 260 + 8) * 5  # of 50 rows
    assert plan({"user": other, "item": 50}, for_eleven + few) == 13
    assert plan({"user": other, "item": 39}, for_eleven + 39 * 268) == 11  # a type that stays whole
    # Of 45 rows no more than 45 partitions have any: prepare will say so.
    assert plan({"user": other, "item": 45}, fixed + (3 * 260 + 56) * -(-other // 100) + 3 * 260 + 8) == 100


def test_all_negatives_are_planned_in_one_partition():
    entities = {"user": 10**5}
    config = TrainConfig(dim=64, batch_size=10, uniform_negatives="all")
    assert plan_partitions("2GB", entities, 1000, config, baseline=0).partitions == 1
    with pytest.raises(ConfigError, match="up to 1 partition training needs at least"):
        plan_partitions("100MB", entities, 1000, config, baseline=0)
    relations = [Relation("likes", "user", "user", uniform_negatives="all")]
    few = dataclasses.replace(config, uniform_negatives=10)
    with pytest.raises(ConfigError, match="up to 1 partition training needs at least"):
        plan_partitions("100MB", entities, 1000, few, relations, baseline=0)


MEASURED = """
import json, sys, torch
from pathlib import Path
from pretrain import TrainConfig
from pretrain.memory import process_bytes
from pretrain.partitioned import train_partitioned
from pretrain.prepared import PreparedGraph
torch.set_num_threads(1)
before = process_bytes()
if sys.argv[1:]:
    graph, run, settings = sys.argv[1:]
    train_partitioned(PreparedGraph.open(graph), TrainConfig(**eval(settings)), path=run).close()
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"before": before, "peak": peak}))
"""


def graph_of_size(folder, entities, edges, plan):
    """Edges within one type; every entity has one."""
    draw = np.random.default_rng(0)
    sources, targets = draw.permutation(entities), draw.integers(entities, size=edges)
    sources = np.concatenate([sources, draw.integers(entities, size=edges - entities)])
    tables = {"follows": pd.DataFrame({"source": sources, "target": targets})}
    arguments = {"partitions": plan.partitions, "chunk_edges": plan.chunk_edges, "whole_below": 10_000}
    return prepared_of(folder, tables=tables, relations=(FOLLOWS,), **arguments)


def least_memory(plan, *arguments, **named):
    """The bytes below which the plan would have more partitions."""
    low, high = 1, 2**40
    while high - low > 10**5:
        middle = (low + high) // 2
        try:
            fits = plan_partitions(middle, *arguments, **named).partitions <= plan.partitions
        except ConfigError:
            fits = False
        low, high = (low, middle) if fits else (middle, high)
    return high


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is what Linux tells")  # noqa: PTH110
@pytest.mark.parametrize(
    ("entities", "edges", "above", "settings"),
    [
        (250_000, 260_000, 160_000_000, {"dim": 128, "batch_size": 1000}),  # 129 MB
        pytest.param(1_200_000, 1_300_000, 400_000_000, {"dim": 128}, marks=pytest.mark.slow),  # 619 MB
        pytest.param(600_000, 3_000_000, 300_000_000, {"dim": 128, "optimizer": "adagrad"}, marks=pytest.mark.slow),
        pytest.param(900_000, 6_000_000, 220_000_000, {"dim": 64, "filter_positives": True}, marks=pytest.mark.slow),
        pytest.param(3_000_000, 9_000_000, 300_000_000, {"dim": 16, "log_q": True}, marks=pytest.mark.slow),
    ],
)
def test_the_peak_stays_below_the_memory_that_was_given(entities, edges, above, settings, tmp_path):
    """The prediction is at least what is taken, on top of what the process held, and at most 1.6 times that."""
    settings = {"batch_size": 2000, "uniform_negatives": 100, "epochs": 1} | settings
    config = TrainConfig(**settings)
    command = [sys.executable, "-c", MEASURED]
    before = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["before"]
    arguments = ({"user": entities}, edges, config, [FOLLOWS])
    plan = plan_partitions(before + above, *arguments, baseline=before)
    tables = entities * (config.dim + (config.dim if config.optimizer == "adagrad" else 1)) * 4
    assert plan.partitions > 3
    assert tables > 0.6 * above
    prepared = graph_of_size(tmp_path, entities, edges, plan)
    command += [str(prepared.path), str(tmp_path / "run"), repr(settings)]
    peak = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["peak"]
    assert peak < before + above
    predicted = least_memory(plan, *arguments, baseline=before) - before
    assert peak - before <= predicted <= 1.6 * (peak - before)
