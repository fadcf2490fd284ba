"""The encoder: every kind of feature as the formulas have it, one layer for each table, silence of unknown ids."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from ranker_oracle import Oracle, frame, spec, tables

from recokit.features import Bag, FeatureSpec, Pretrained
from recokit.layers import TableLayer
from recokit.rankers import (
    DLRM,
    ESMM,
    DCNv2,
    FitConfig,
    LinearProbe,
    MMoE,
    SearchRanker,
    SharedBottom,
    WideDeep,
    fit,
)
from recokit.rankers.base import to_tensors
from recokit.table import Mixture

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


ONE_LABEL = (DLRM, WideDeep, DCNv2, SearchRanker)
RANKERS = (*ONE_LABEL, LinearProbe, SharedBottom, MMoE, ESMM)


def with_random_unknowns(ranker):
    with torch.no_grad():
        for name, parameter in ranker.named_parameters():
            if name.endswith("unknown"):
                parameter.copy_(torch.linspace(-1, 1, len(parameter)))
    return ranker


def test_every_kind_of_feature_equals_the_formulas_row_by_row():
    rows = frame()
    fitted = spec().fit(rows)
    ranker = with_random_unknowns(DLRM(fitted, dim=5, seed=2))
    batch, oracle = fitted.batch(rows), Oracle(ranker)
    found = ranker.encoder(to_tensors(batch, CPU)).detach().numpy()
    expected = np.array([oracle.encode(batch, b) for b in range(len(rows))])
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    assert ranker.encoder.names == (
        *("user", "item", "coded", "fitting", "interests", "tuned"),
        *("user", "country", "device", "history", "sums", "genres", "weighed"),
    )
    flat = ranker.encoder.flat(to_tensors(batch, CPU)).detach().numpy()
    assert flat.shape[1] == ranker.encoder.width == 5 * 13 + 3
    np.testing.assert_array_equal(flat, np.concatenate([found.reshape(40, -1), batch.dense], axis=1))


@pytest.mark.parametrize("pooling", ["max", "smoothmax"])
def test_the_target_decides_which_component_counts(pooling):
    made = tables()
    mixture = made["interests"]
    feature = Pretrained("user", mixture, pooling=pooling, target="item", temperature=1e-6)
    ranker = DLRM(FeatureSpec([feature, Pretrained("item", made["item"])], label="clicked"), dim=4)
    rows = frame(30).assign(user="u1", item=range(30))
    batch = ranker.features.batch(rows)
    components = mixture.vectors_at(np.array([1]))[0][mixture.component_rows[1] >= 0]  # (C, D)
    best = components[(made["item"].vectors @ components.T).argmax(axis=1)]  # (30, D)
    assert len(np.unique(best, axis=0)) > 1
    projection = ranker.encoder.pretrained[0].project
    found = ranker.encoder(to_tensors(batch, CPU))[:, 0]
    np.testing.assert_allclose(found.detach(), projection(torch.from_numpy(best)).detach(), rtol=1e-4, atol=1e-5)


def test_a_table_is_in_memory_once_whoever_reads_it():
    fitted = spec().fit(frame())
    ranker = DLRM(fitted)
    layers = {id(module): module for module in ranker.modules() if isinstance(module, TableLayer)}
    # users, items, codes, and the mixture by each of its poolings; the tuned codes are a parameter
    assert sorted(type(layer).__name__ for layer in layers.values()) == [
        *("FrozenEmbedding", "FrozenEmbedding", "MixtureEmbedding", "MixtureEmbedding", "PQEmbedding"),
    ]
    assert not [name for name in ranker.state_dict() if "codebook" in name or "component" in name]


def test_codes_that_train_on_start_from_what_they_decode_to():
    codes = tables()["codes"]
    ranker = DLRM(FeatureSpec([Pretrained("item", codes, usage="init")], label="clicked"))
    decoded = codes.decode()
    rms = np.sqrt(np.mean(decoded.astype(np.float64) ** 2))
    np.testing.assert_allclose(ranker.encoder.pretrained[0][0].vectors.detach(), decoded / rms, rtol=1e-5)


def test_tables_of_any_size_of_number_come_in_at_about_one():
    made = tables()
    features = [
        Pretrained("user", made["user"]),
        Pretrained("item", made["item"]),
        Pretrained("item", made["codes"], "c"),
    ]
    fitted = FeatureSpec(features, label="clicked")
    scaled = {}
    for feature, module in zip(features, DLRM(fitted).encoder.pretrained, strict=True):
        vectors = module[0](torch.arange(feature.table.count)) * module[1].scale
        scaled[feature.key] = float(vectors.square().mean())
    assert scaled == pytest.approx({"user": 1.0, "item": 1.0, "c": 1.0}, rel=1e-5)


@pytest.mark.parametrize("ranker_type", RANKERS, ids=lambda each: each.kind)
def test_unknown_ids_say_nothing(ranker_type):
    """Whatever the maps behind the tables are, a row of unknown ids has the logit of one without pretrained vectors."""
    made = tables()
    features = [
        Pretrained("user", made["user"]),
        Pretrained("item", made["codes"]),
        Pretrained("user", made["interests"], name="i", pooling="max", target="x"),
        Pretrained("item", made["item"], name="x"),
    ]
    label = ["clicked", "bought"] if ranker_type in (SharedBottom, MMoE, ESMM) else "clicked"
    bags = [Bag("history", made["item"])]
    ranker = ranker_type(FeatureSpec(features, dense=["age"], bags=bags, label=label).fit(frame(3)))
    rows = frame(3).assign(user="nobody", item=10**6, history=[[], [10**6], None])
    before = ranker.predict(rows)
    with torch.no_grad():
        for name, parameter in ranker.named_parameters():
            if "encoder.pretrained" in name or "encoder.bags" in name:
                parameter.mul_(-3).add_(1)
    np.testing.assert_array_equal(ranker.predict(rows), before)
    changed = frame(3).assign(user="u1", item=7, history=[[1]] * 3)
    assert (ranker.predict(changed) != before).all()


@pytest.mark.parametrize("ranker_type", RANKERS, ids=lambda each: each.kind)
def test_initial_weights_come_from_the_seed_alone(ranker_type):
    label = ["clicked", "bought"] if ranker_type in (SharedBottom, MMoE, ESMM) else "clicked"
    fitted = spec(label=label, pretrained=spec().pretrained[1:4]).fit(frame())
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = ranker_type(fitted).state_dict()
    assert torch.equal(torch.rand(3), expected)  # torch's own stream is where it was
    again = ranker_type(fitted).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = ranker_type(fitted, seed=1).state_dict()
    same = all(torch.equal(first[name], other[name]) for name in first)
    assert same == (ranker_type is LinearProbe)  # it starts from zeros


@pytest.mark.parametrize("ranker_type", [ESMM, WideDeep], ids=lambda each: each.kind)
def test_rankers_compile_without_graph_breaks(ranker_type):
    label = ["clicked", "bought"] if ranker_type is ESMM else "clicked"
    crosses = {"crosses": [("user", "country")], "cross_size": 3} if ranker_type is WideDeep else {}
    fitted = spec(label=label).fit(frame())
    ranker, batch = ranker_type(fitted, dim=2, **crosses), to_tensors(fitted.batch(frame(8)), CPU)
    compiled = torch.compile(ranker, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(batch), ranker(batch))


def test_weights_of_bags_reach_the_training():
    fitted, rows = FeatureSpec(bags=[Bag("history", tables()["item"], weights="recency")], label="clicked"), frame()
    ranker = DLRM(fitted)
    batch = to_tensors(fitted.batch(rows), CPU)
    doubled = dataclasses.replace(batch, bag_weights={"history": batch.bag_weights["history"] * 2})
    without = dataclasses.replace(batch, bag_weights={})
    torch.testing.assert_close(ranker(batch), ranker(doubled))  # a weighted mean
    assert not torch.allclose(ranker(batch), ranker(without))


def test_hashed_ids_have_a_vector_each_and_missing_ones_zeros():
    users = tables()["user"]
    spec_of = FeatureSpec(
        [Pretrained("user", users, usage="sum", name="added")], hashed=["user", "item"], label="clicked"
    )
    ranker = DLRM(spec_of, dim=4, seed=1)
    assert ranker.encoder.names == ("user", "item")
    rows = pd.DataFrame({"user": ["u1", "nobody", None], "item": pd.array([7, 7, None], dtype="Int64")})
    batch = to_tensors(spec_of.batch(rows, labels=False), CPU)
    named = zip(("user", "item"), ranker.encoder.hashed, strict=True)
    user, item = (each.embedding(batch.hashed[name]) for name, each in named)
    found = ranker.encoder(batch)
    added = ranker.encoder.pretrained[0](batch.rows["added"])
    torch.testing.assert_close(found[:, 0], torch.stack([user[0] + added[0], user[1], torch.zeros(4)]))
    torch.testing.assert_close(found[:, 1], torch.stack([item[0], item[0], torch.zeros(4)]))
    assert not torch.allclose(user[0], user[1], atol=1e-3)
    # Columns have networks and hashes of their own, and the seed decides both
    first, second = (each.embedding for each in ranker.encoder.hashed)
    assert not torch.equal(first.multipliers, second.multipliers)
    again, other = (DLRM(spec_of, dim=4, seed=seed).encoder.hashed[0].embedding for seed in (1, 2))
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in first.state_dict().items())
    assert not torch.equal(other.multipliers, first.multipliers)


def test_ids_without_a_vocabulary_can_be_learned_and_saved(tmp_path):
    """Thirty ids that are always clicked and thirty that never are, told apart by their hashes alone."""
    rows = pd.DataFrame({"ad": [f"ad-{i}" for i in range(60)] * 10, "clicked": ([1] * 30 + [0] * 30) * 10})
    ranker = SearchRanker(FeatureSpec(hashed=["ad"], label="clicked"), dim=4, hidden=(8,))
    fit(ranker, rows, None, FitConfig(epochs=6, batch_size=100, learning_rate=3e-3))
    probabilities = ranker.predict(rows.head(60))
    assert ((probabilities > 0.5) == rows["clicked"].head(60)).all()
    loaded = SearchRanker.load(ranker.save(tmp_path / "ranker"))
    np.testing.assert_array_equal(loaded.predict(rows.head(60)), probabilities)


def test_mixtures_come_by_their_mean_in_a_bag():
    mixture: Mixture = tables()["interests"]
    fitted = FeatureSpec(bags=[Bag("friends", mixture)], label="clicked")
    rows = frame(2).assign(friends=[["u1", "nobody", "u2"], []])
    ranker = DLRM(fitted, dim=3)
    found = ranker.encoder(to_tensors(fitted.batch(rows), CPU))[:, 0]
    means = (mixture.weights[1:3, :, None] * mixture.vectors_at(np.array([1, 2]))).sum(axis=1)  # (2, D)
    expected = ranker.encoder.bags[0].project(torch.from_numpy(means.mean(axis=0)))
    torch.testing.assert_close(found, torch.stack([expected, torch.zeros(3)]))
