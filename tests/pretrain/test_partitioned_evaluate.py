"""Link prediction by pieces of tables, against ``evaluate`` of the same model in memory, question by question."""

import dataclasses
import functools

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest
import torch

from pretrain import Relation, TrainConfig, evaluate, partition_store, partitioned_evaluate, prepare
from pretrain.comparators import COMPARATORS
from pretrain.edges import Edges
from pretrain.operators import OPERATORS
from pretrain.partitioned import train_partitioned
from pretrain.partitioned_evaluate import evaluate_partitioned
from recokit.errors import ConfigError, DataError

CONFIG = TrainConfig(dim=4, epochs=1, batch_size=32, uniform_negatives=5, comparator="dot", seed=3)
RELATIONS = (
    Relation("likes", "user", "item"),
    Relation("follows", "user", "user", operator="identity"),
    Relation("made by", "item", "user", operator="diagonal", operator_side="target"),
    Relation("at", "user", "place", weight=0.5),
)
SIZES = {"user": 40, "item": 29, "place": 4}


def frames_of(relations=RELATIONS, *, seed=0, num_edges=150):
    """Edges with duplicates, loops and hubs; users are strings."""
    rng = np.random.default_rng(seed)

    def draw(entity):
        rows = np.floor(SIZES[entity] * rng.random(num_edges) ** 2).astype(int)
        return [f"u{row}" for row in rows] if entity == "user" else rows

    return {each.name: pd.DataFrame({"source": draw(each.source), "target": draw(each.target)}) for each in relations}


@pytest.fixture(scope="module")
def prepared_of(tmp_path_factory):
    """Return what prepares random edges, the same ones once."""

    @functools.cache
    def prepared(*, partitions=2, relations=RELATIONS, seed=0):
        folder, files = tmp_path_factory.mktemp("edges"), {}
        for number, (name, frame) in enumerate(frames_of(relations, seed=seed).items()):
            files[name] = folder / f"{number}.parquet"
            frame.to_parquet(files[name])
        settings = {"whole_below": 10, "held_out": 0.3, "chunk_edges": 60, "memory": "3GB", "seed": seed}
        return prepare(folder / "prepared", relations, files=files, partitions=partitions, **settings)

    return prepared


@pytest.fixture
def trained(tmp_path, prepared_of):
    """Return what trains on random edges."""
    return lambda config=CONFIG, **settings: train_partitioned(prepared_of(**settings), config, path=tmp_path / "run")


def whole_numbers(model, *, seed=0):
    """Overwrite what was learned with small whole numbers, so that sums are exact and scores tie; none is 0.

    A vector of zeros ties, under the cosine, with what is at right angles, where a rounding error decides.
    """
    rng = np.random.default_rng(seed)

    def draw(shape):
        return torch.from_numpy(rng.choice(np.array([-2, -1, 1, 2], np.float32), shape))

    store = model.store
    for key in store.layout.keys(range(model.prepared.partitions)):
        resident = store.load([key])[key]
        for tensor in (resident.vectors, resident.bias):
            if tensor is not None:
                tensor.copy_(draw(tensor.shape))
        store.evict(key)
    store.release()
    for block in model.run.blocks.values():
        block.copy_(draw(block.shape))


@pytest.fixture
def tiny(monkeypatch):
    """Tables in chunks of five rows, groups of three questions, pieces of two candidates, and several walks."""
    monkeypatch.setattr(partition_store, "_CHUNK", 64)
    monkeypatch.setattr(partitioned_evaluate, "_SCORES", 6)
    monkeypatch.setattr(partitioned_evaluate, "_QUESTIONS", 3)
    monkeypatch.setattr(partitioned_evaluate, "_WALK_QUESTIONS", 100)
    monkeypatch.setattr(partitioned_evaluate, "_WALK_ANSWERS", 200)


def row_of(prepared, entity):
    """Row of the prepared graph to that of the model in memory."""
    return np.argsort(pc.sort_indices(prepared.ids(entity)).to_numpy())


def expected(model, **settings):
    """What ``evaluate`` finds."""
    prepared = model.prepared
    return evaluate(model.to_model(), prepared.to_graph("held_out"), known=prepared.to_graph("known"), **settings)


def assert_same(found, wanted, prepared):
    """The same questions in the same order, the same ranks, the same metrics."""
    ranks = found.ranks.copy()
    for (relation, side), part in ranks.groupby(["relation", "side"]):
        ends = prepared.relations[relation]
        given, asked = (ends.source, ends.target) if side == "target" else (ends.target, ends.source)
        ranks.loc[part.index, "query"] = row_of(prepared, given)[part["query"]]
        ranks.loc[part.index, "true"] = row_of(prepared, asked)[part["true"]]
    pd.testing.assert_frame_equal(ranks, wanted.ranks)
    assert found.results == wanted.results


@pytest.mark.parametrize("ties", ["mean", "pessimistic", "optimistic"])
@pytest.mark.parametrize("comparator", COMPARATORS)
@pytest.mark.parametrize("extras", [{}, {"bias": True}, {"reciprocal": True}], ids=str)
def test_ranks_are_those_of_the_model_in_memory(trained, tiny, comparator, extras, ties):
    # Reciprocal relations always move the given end.
    relations = tuple(each for each in RELATIONS if each.operator_side == "source" or "reciprocal" not in extras)
    model = trained(dataclasses.replace(CONFIG, comparator=comparator, **extras), relations=relations)
    whole_numbers(model)
    assert_same(evaluate_partitioned(model, ties=ties), expected(model, ties=ties), model.prepared)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("comparator", ["dot", "cos"])
def test_every_operator_moves_anchors_or_candidates(trained, tiny, operator, side, comparator):
    relations = tuple(dataclasses.replace(each, operator=operator, operator_side=side) for each in RELATIONS[:2])
    model = trained(dataclasses.replace(CONFIG, comparator=comparator), relations=relations)
    whole_numbers(model, seed=1)
    assert_same(evaluate_partitioned(model), expected(model), model.prepared)


@pytest.mark.parametrize("partitions", [1, 2, 5])
@pytest.mark.parametrize("sizes", ["tiny", "ordinary"])
def test_neither_partitions_nor_pieces_change_a_rank(tmp_path, prepared_of, request, partitions, sizes):
    if sizes == "tiny":
        request.getfixturevalue("tiny")
    for seed in (0, 1):
        prepared = prepared_of(partitions=partitions, seed=seed)
        assert prepared.partitions == partitions
        model = train_partitioned(prepared, CONFIG, path=tmp_path / f"run{seed}")
        assert_same(evaluate_partitioned(model), expected(model), prepared)


@pytest.mark.parametrize(
    "settings", [{"sides": "target"}, {"sides": "source"}, {"filter": False}, {"k": (2,)}], ids=str
)
def test_settings_mean_what_they_mean_in_memory(trained, tiny, settings):
    model = trained()
    whole_numbers(model)
    relations = ["at", "likes", "at"]
    found = evaluate_partitioned(model, relations=relations, name="m", **settings)
    assert_same(found, expected(model, relations=relations, name="m", **settings), model.prepared)


def test_a_hub_takes_a_walk_to_itself(trained, monkeypatch, tiny):
    model = trained()
    whole_numbers(model)
    monkeypatch.setattr(partitioned_evaluate, "_WALK_ANSWERS", 4)
    walks = []
    rank = partitioned_evaluate._rank
    monkeypatch.setattr(partitioned_evaluate, "_rank", lambda m, w, a, t: (walks.append([*w]), rank(m, w, a, t)))
    assert_same(evaluate_partitioned(model), expected(model), model.prepared)
    answers = [sum(group.about for group in walk) for walk in walks]
    assert max(answers) > 4
    assert all(len(walk) == 1 for walk, count in zip(walks, answers, strict=True) if count > 4)
    for walk in walks:
        for group in walk:
            known = model.prepared.occurrences(
                group.part.relation, "source" if group.part.side == "target" else "target"
            )
            assert group.about == sum(1 + known[row] for row in set(group.anchors.tolist()))


def test_a_sample_asks_some_of_the_same_questions(trained, tiny):
    model = trained()
    whole_numbers(model)
    every = evaluate_partitioned(model).ranks
    found = evaluate_partitioned(model, questions=7, seed=5)
    assert found.ranks.groupby(["relation", "side"]).size().tolist() == [7] * 8
    columns = [name for name in every.columns if name != "rank"]
    known = every.groupby(columns)["rank"].agg(["min", "max"])
    for row in found.ranks.itertuples(index=False):
        low, high = known.loc[tuple(getattr(row, name) for name in columns)]
        assert low == row.rank == high
    by_side = dict(iter(found.ranks[found.ranks["relation"] == "likes"].groupby("side")))
    assert by_side["source"]["true"].tolist() == by_side["target"]["query"].tolist()
    assert found.results[0]["protocol"]["edges"] == "at most 7 of a relation, drawn with seed 5"
    again, other = (evaluate_partitioned(model, questions=7, seed=seed).ranks for seed in (5, 6))
    assert again.equals(found.ranks)
    assert not other.equals(found.ranks)
    # What else is asked about changes no draw.
    likes = evaluate_partitioned(model, questions=7, seed=5, relations=["likes"]).ranks
    assert likes.equals(found.ranks[found.ranks["relation"] == "likes"].reset_index(drop=True))
    most = evaluate_partitioned(model, questions=10**6)
    assert most.ranks.equals(every)


def test_other_edges_may_be_asked_about_and_the_held_out_ones_stay_true(trained, tiny):
    model = trained()
    whole_numbers(model)
    own = model.prepared.held_out()
    some = {"likes": own["likes"].take(np.arange(5))}
    found, every = evaluate_partitioned(model, some), evaluate_partitioned(model, relations=["likes"])
    assert len(found.ranks) == 10
    for side in ("target", "source"):
        ranks = [each.ranks[each.ranks["side"] == side]["rank"].tolist() for each in (found, every)]
        assert ranks[0] == ranks[1][:5]
    assert found.results[0]["protocol"]["split"] == []


def test_a_rank_by_hand(tmp_path):
    """Scores of items 4 to 0 are 9, 5, 5, 3, 1 for the user; the item of 9 is known, so 5 has one tie and 1 is last."""
    frame = pd.DataFrame({"source": ["a"] * 2 + ["b"] * 5, "target": [4, 3, 0, 1, 2, 3, 4]})
    frame.to_parquet(tmp_path / "likes.parquet")
    files = {"likes": tmp_path / "likes.parquet"}
    relation = [Relation("likes", "user", "item", operator="identity")]
    prepared = prepare(tmp_path / "p", relation, files=files, partitions=2, whole_below=0, memory="3GB")
    model = train_partitioned(prepared, dataclasses.replace(CONFIG, dim=1), path=tmp_path / "run")
    numbers = {"a": 1.0, "b": 1.0, 0: 1.0, 1: 3.0, 2: 5.0, 3: 5.0, 4: 9.0}
    for key in model.store.layout.keys(range(2)):
        resident = model.store.load([key])[key]
        ids = prepared.ids(*key).to_pylist()
        resident.vectors.copy_(torch.tensor([[numbers[each]] for each in ids]))
        model.store.evict(key)
    rows = {each: row for entity in ("user", "item") for row, each in enumerate(prepared.ids(entity).to_pylist())}
    asked = {"likes": Edges(np.array([rows["a"]] * 2), np.array([rows[2], rows[0]]))}
    found = evaluate_partitioned(model, asked, sides="target")
    # User a knows 4 and 3, so that 2 has no rival left above, none that ties, and is itself true when 0 is asked for.
    assert found.ranks["rank"].tolist() == [1.0, 2.0]
    assert found.ranks["candidates"].tolist() == [2, 2]  # 0 and 1 beside 2; 1 beside 0
    raw = evaluate_partitioned(model, asked, sides="target", filter=False)
    assert raw.ranks["rank"].tolist() == [2.5, 5.0]
    assert raw.value("mrr") == pytest.approx((1 / 2.5 + 1 / 5) / 2)


def test_a_score_that_is_no_number_takes_the_last_rank(trained, tiny):
    model = trained()
    for key in model.store.layout.keys(range(2)):
        model.store.load([key])[key].vectors.fill_(torch.nan)
        model.store.evict(key)
    ranks = evaluate_partitioned(model).ranks
    assert (ranks["rank"] == ranks["candidates"]).all()


def test_what_cannot_be_asked_is_refused(trained):
    model = trained()
    none = np.zeros(0, np.int64)
    refused = [
        ({"sides": "left"}, ConfigError, "'left'"),
        ({"ties": "best"}, ConfigError, "'best'"),
        ({"k": (0,)}, ConfigError, "k must be whole numbers of at least 1"),
        ({"questions": 0}, ConfigError, "questions must be a whole number of at least 1, got 0"),
        ({"seed": -1}, ConfigError, "seed must be a whole number of at least 0, got -1"),
        ({"relations": ["like"]}, ConfigError, "relation 'like' is not held out"),
        ({"held_out": {"hates": Edges(none, none)}}, ConfigError, "the graph has no relation 'hates'"),
        ({"held_out": {"likes": Edges(none, none)}}, DataError, "there is no held-out edge to ask about"),
        (
            {"held_out": {"likes": Edges(np.array([3, 99]), np.array([0, 0]))}},
            DataError,
            "'likes' has rows 3 to 99 of 'user', expected 0 to",
        ),
    ]
    for settings, kind, message in refused:
        with pytest.raises(kind, match=message):
            evaluate_partitioned(model, **settings)
