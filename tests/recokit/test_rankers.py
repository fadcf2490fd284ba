"""Rankers: the formula, what training finds, what a checkpoint refuses, and leaks that are told."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from recokit.errors import ConfigError, DataError, FormatError, VersionError
from recokit.features import Bag, FeatureSpec, Pretrained
from recokit.overlap import edge_sketch
from recokit.rankers import DLRM, FitConfig, LeakWarning, fit, load_ranker
from recokit.rankers.base import to_tensors
from recokit.rankers.losses import log_loss
from recokit.store import EmbeddingStore
from recokit.table import EmbeddingTable
from recokit.table.ids import ids_digest

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


class Planted:
    """Users and items whose vectors decide the label: P(1) = sigmoid(3 u·i / sqrt(D)), D = 8."""

    def __init__(self, num_ids: int = 600, dim: int = 8) -> None:
        self.random = np.random.default_rng(0)
        self.dim, self.user_ids, self.item_ids = dim, np.array([f"u{i}" for i in range(num_ids)]), np.arange(num_ids)
        self.user_vectors, self.item_vectors = self.random.standard_normal((2, num_ids, dim)).astype(np.float32)

    def table(self, entity: str, version: str = "v1", **meta) -> EmbeddingTable:
        ids, vectors = {"user": (self.user_ids, self.user_vectors), "item": (self.item_ids, self.item_vectors)}[entity]
        return EmbeddingTable.from_arrays(ids, vectors, entity=entity, version=version, meta=meta)

    def rows(self, num_rows: int, first: int, last: int) -> pd.DataFrame:
        users, items = self.random.integers(first, last, (2, num_rows))
        logits = 3 * (self.user_vectors[users] * self.item_vectors[items]).sum(axis=1) / self.dim**0.5
        clicked = self.random.random(num_rows) < 1 / (1 + np.exp(-logits))
        age = self.random.normal(40, 10, num_rows)
        return pd.DataFrame(
            {"user": self.user_ids[users], "item": self.item_ids[items], "age": age, "clicked": clicked}
        )


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def split(planted) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Three sets of rows that share no user and no item."""
    return planted.rows(5000, 0, 300), planted.rows(1000, 300, 400), planted.rows(2000, 400, 600)


def with_vectors(planted, **changes) -> FeatureSpec:
    tables = [Pretrained("user", planted.table("user")), Pretrained("item", planted.table("item"))]
    return FeatureSpec(**{"pretrained": tables, "dense": ["age"], "label": "clicked"} | changes)


def rce(labels: pd.Series, probabilities: np.ndarray) -> float:
    """100 * (1 - CE / CE of the mean), written out."""
    y, mean = labels.to_numpy(float), labels.mean()
    entropy = -np.mean(y * np.log(probabilities) + (1 - y) * np.log(1 - probabilities))
    return 100 * (1 - entropy / -(mean * np.log(mean) + (1 - mean) * np.log(1 - mean)))


# --- the formula -------------------------------------------------------------------------------------------------


def oracle_logits(ranker: DLRM, batch) -> np.ndarray:
    """DLRM row by row, in float64 NumPy, from the paper."""
    weights = {name: tensor.numpy().astype(np.float64) for name, tensor in ranker.state_dict().items()}

    def layers(prefix: str, x: np.ndarray) -> np.ndarray:
        number = 0
        while f"{prefix}{number}.weight" in weights:
            x = np.maximum(weights[f"{prefix}{number}.weight"] @ x + weights[f"{prefix}{number}.bias"], 0)
            number += 2  # a ReLU is between
        return x

    def projected(prefix: str, vector: np.ndarray) -> np.ndarray:
        return weights[f"{prefix}.linear.weight"] @ (weights[f"{prefix}.scale"] * vector)

    def vector_of(table: EmbeddingTable, row: int) -> np.ndarray:
        return table.vectors[row].astype(np.float64) if row >= 0 else np.zeros(table.dim)

    spec, out = ranker.features, []
    for b in range(len(batch)):
        user, item, other = (f.table for f in spec.pretrained)
        summed = projected("encoder.pretrained.2.1", vector_of(other, batch.rows["other"][b]))
        values, offsets = batch.bags["history"]
        history = [vector_of(item, row) for row in values[offsets[b] : offsets[b + 1]] if row >= 0]
        genres, ends = batch.bags["genres"]
        known = [code for code in genres[ends[b] : ends[b + 1]] if code > 0]
        tuned_row = batch.rows["item"][b]
        tuned = weights["encoder.pretrained.1.0.vectors"][tuned_row] if tuned_row >= 0 else np.zeros(item.dim)
        vectors = [
            layers("bottom.", batch.dense[b].astype(np.float64)),
            projected("encoder.pretrained.0.1", vector_of(user, batch.rows["user"][b])),
            projected("encoder.pretrained.1.1", tuned),
            weights["encoder.categorical.0.weight"][batch.categorical["user"][b]] + summed,
            projected("encoder.bags.0.project", np.mean(history, axis=0) if history else np.zeros(item.dim)),
            np.mean(weights["encoder.bags.1.embedding.weight"][known], axis=0)
            if known
            else np.zeros(ranker.encoder.dim),
        ]
        dots = [vectors[i] @ vectors[j] for i in range(6) for j in range(i + 1, 6)]
        hidden = layers("top.0.", np.concatenate([vectors[0], dots]))
        out.append(weights["top.1.weight"][0] @ hidden + weights["bias"][0])
    return np.array(out)


def test_dlrm_equals_the_paper_row_by_row(planted):
    items = planted.table("item")
    rng = np.random.default_rng(3)
    other = EmbeddingTable.from_arrays(
        planted.user_ids[:50], 100 * rng.standard_normal((50, 3)).astype(np.float32), entity="user", version="v7"
    )
    spec = FeatureSpec(
        pretrained=[
            Pretrained("user", planted.table("user")),
            Pretrained("item", items, usage="init"),
            Pretrained("user", other, name="other", usage="sum"),
        ],
        dense=["age"],
        categorical={"user": 20},
        bags=[Bag("history", items), Bag("genres", ["a", "b"])],
        label="clicked",
    )
    frame = planted.rows(40, 0, 60)
    frame["history"] = [list(rng.integers(0, 700, n % 4)) for n in range(40)]
    frame["genres"] = [["a", "b", "c"][: n % 4] for n in range(40)]
    frame.loc[3, "user"] = "nobody"
    frame.loc[4, "item"] = 10**6
    fitted = spec.fit(frame)
    ranker = DLRM(fitted, dim=4, bottom=(5, 3), top=(7,), seed=1)
    with torch.no_grad():
        ranker.bias.fill_(0.3)
    batch = fitted.batch(frame)
    np.testing.assert_allclose(
        ranker(to_tensors(batch, CPU)).detach().numpy(), oracle_logits(ranker, batch), rtol=1e-4, atol=1e-5
    )
    assert ranker.encoder.names == ("user", "item", "user", "history", "genres")


def test_an_unknown_id_contributes_nothing_unless_it_is_to_be_learned(planted):
    for unknown, is_same in (("zero", True), ("learned", False)):
        users = planted.table("user")
        spec = FeatureSpec(pretrained=[Pretrained("user", users, unknown=unknown)], label="clicked")
        ranker = DLRM(spec)
        with torch.no_grad():
            for name, parameter in ranker.named_parameters():
                if name.endswith("unknown"):
                    parameter.fill_(1.0)
        frame = pd.DataFrame({"user": ["nobody"]})
        before = ranker.predict(frame)
        with torch.no_grad():
            ranker.encoder.pretrained[0][1].linear.weight.mul_(2)
        assert (ranker.predict(frame) == before).all() == is_same


def test_log_loss_is_the_weighted_mean_over_rows(planted, split):
    frame = split[0].head(3).assign(clicked=[1, 0, 1], w=[1.0, 2.0, 0.0])
    batch = to_tensors(with_vectors(planted, weight="w").fit(frame).batch(frame), CPU)
    logits = torch.tensor([0.0, np.log(3.0), 5.0])
    # p = 1/2 and 3/4: (1 * ln 2 + 2 * ln 4 + 0) / 3
    assert float(log_loss(logits, batch)) == pytest.approx(5 * np.log(2) / 3)


# --- what training finds -------------------------------------------------------------------------------------------


def test_pretrained_vectors_carry_over_to_ids_never_seen(planted, split):
    train, valid, test = split
    config = FitConfig(epochs=6, batch_size=128, learning_rate=3e-3)
    ranker = DLRM(with_vectors(planted))
    result = fit(ranker, train, valid, config)
    without = DLRM(FeatureSpec(categorical={"user": 600, "item": 600}, dense=["age"], label="clicked"))
    fit(without, train, valid, config)
    probability = 1 / (1 + np.exp(-3 * _dots(planted, test) / 8**0.5))
    best = rce(test["clicked"], probability)
    assert rce(test["clicked"], without.predict(test)) < 1
    assert rce(test["clicked"], ranker.predict(test)) > 0.8 * best
    assert result.best.valid_log_loss == min(e.valid_log_loss for e in result.history)
    assert result.coverage == {"user": 1.0, "item": 1.0}
    assert result.to_frame()["step"].tolist() == [e.step for e in result.history]


def _dots(planted, frame) -> np.ndarray:
    users, items = planted.table("user").rows(frame["user"]), planted.table("item").rows(frame["item"])
    return (planted.user_vectors[users] * planted.item_vectors[items]).sum(axis=1)


def _bytes(ranker: DLRM) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in ranker.state_dict().items()}


def test_the_same_seed_gives_the_same_bytes(planted, split):
    def trained(seed: int) -> dict[str, bytes]:
        ranker = DLRM(with_vectors(planted, categorical={"user": 50}), seed=seed)
        fit(ranker, split[0], split[1], FitConfig(epochs=1, batch_size=512, seed=seed))
        return _bytes(ranker)

    torch.manual_seed(5)
    first = trained(0)
    torch.manual_seed(6)  # torch's own stream plays no part
    assert trained(0) == first
    assert trained(1) != first


def test_building_a_ranker_leaves_torchs_random_numbers_alone(planted):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    DLRM(with_vectors(planted), seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_the_best_weights_are_restored(planted, split):
    train, valid, _ = split
    ids = FeatureSpec(categorical={"user": 600, "item": 600}, label="clicked")  # they overfit at once
    ranker = DLRM(ids)
    result = fit(ranker, train, valid, FitConfig(epochs=50, batch_size=128, learning_rate=1e-2, patience=3))
    assert len(result.history) == result.history.index(result.best) + 1 + 3  # stopped after three evaluations in vain
    probabilities, y = ranker.predict(valid), valid["clicked"].to_numpy(float)
    loss = -np.mean(y * np.log(probabilities) + (1 - y) * np.log(1 - probabilities))
    assert loss == pytest.approx(result.best.valid_log_loss, rel=1e-5)


def test_the_callback_hears_of_every_step_and_evaluation(planted, split):
    events = []
    config = FitConfig(epochs=2, batch_size=1000, evaluate_every=3, patience=99)
    fit(DLRM(with_vectors(planted)), split[0], split[1], config, callback=events.append)
    steps = [e for e in events if e["event"] == "step"]
    assert [e["step"] for e in steps] == list(range(1, 11))
    assert steps[5] == {"event": "step", "epoch": 2, "step": 6, "num_steps": 10}
    assert [e["step"] for e in events if e["event"] == "evaluation"] == [3, 6, 9, 10]


def test_training_goes_on_from_where_it_was(planted, split):
    ranker = DLRM(with_vectors(planted))
    fit(ranker, split[0].head(1000), None, FitConfig(epochs=1))
    spec, bias = ranker.features, ranker.bias.item()
    fit(ranker, split[0].tail(1000), None, FitConfig(epochs=1, learning_rate=1e-6))
    assert ranker.features is spec
    assert ranker.bias.item() == pytest.approx(bias, abs=1e-5)


def test_the_first_prediction_is_the_share_of_positives(planted):
    rare = pd.DataFrame({"user": ["nobody"] * 100, "item": 10**6, "clicked": [1] * 3 + [0] * 97, "w": 1.0})
    spec, config = with_vectors(planted, dense=[], weight="w"), FitConfig(epochs=1, learning_rate=1e-9)
    fit(ranker := DLRM(spec), rare, None, config)
    assert ranker.bias.item() == pytest.approx(np.log(3 / 97), rel=1e-6)
    fit(ranker := DLRM(spec), rare.assign(w=[32.0] * 3 + [0.0] + [1.0] * 96), None, config)
    assert ranker.bias.item() == pytest.approx(0.0, abs=1e-6)  # a weight of 96 on either side


def test_several_labels_give_a_column_each(planted, split):
    frame = split[0].assign(old=lambda f: f["age"] > 40)
    ranker = DLRM(with_vectors(planted, label=["clicked", "old"]))
    fit(ranker, frame, None, FitConfig(epochs=4, batch_size=128, learning_rate=3e-3))
    probabilities = ranker.predict(frame.head(500))
    assert probabilities.shape == (500, 2)
    assert ((probabilities[:, 1] > 0.5) == frame["old"].head(500)).mean() > 0.95


def test_a_prediction_does_not_depend_on_its_batch(planted, split):
    ranker = DLRM(with_vectors(planted).fit(split[0]))
    ranker.train()
    np.testing.assert_allclose(ranker.predict(split[2], batch_size=7), ranker.predict(split[2]), rtol=1e-5)
    assert ranker.training
    assert ranker.predict(split[2].head(0)).shape == (0,)


def test_compiles_without_graph_breaks(planted, split):
    spec = with_vectors(planted).fit(split[0])
    ranker, batch = DLRM(spec), to_tensors(spec.batch(split[1].head(8)), CPU)
    compiled = torch.compile(ranker, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch), ranker(batch))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_trains_on_a_gpu(planted, split):
    train, valid, test = split
    ranker = DLRM(with_vectors(planted))
    fit(ranker, train, valid, FitConfig(epochs=6, batch_size=128, learning_rate=3e-3, device="cuda"))
    assert ranker.bias.is_cuda
    assert rce(test["clicked"], ranker.predict(test)) > 20


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"clicked": 0}, DataError, "'clicked' is 0 in every training row"),
        ({"clicked": 2}, DataError, "neither 0 nor 1"),
    ],
)
def test_labels_that_teach_nothing_are_refused(planted, split, change, error, message):
    with pytest.raises(error, match=message):
        fit(DLRM(with_vectors(planted)), split[0].assign(**change), split[1])


def test_settings_that_cannot_be_are_refused(planted, split):
    with pytest.raises(ConfigError, match="names no label"):
        DLRM(with_vectors(planted, label=None))
    with pytest.raises(ConfigError, match="every size is at least 1"):
        DLRM(with_vectors(planted), top=(0,))
    with pytest.raises(ConfigError, match="batch_size is 0"):
        FitConfig(batch_size=0)
    with pytest.raises(ConfigError, match="learning_rate -1"):
        FitConfig(learning_rate=-1)
    with pytest.raises(ConfigError, match="lower learning_rate"):
        fit(DLRM(with_vectors(planted)), split[0], None, FitConfig(epochs=3, learning_rate=1e30))
    with pytest.raises(DataError, match="no validation rows"):
        fit(DLRM(with_vectors(planted)), split[0], split[1].head(0))


# --- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.fixture
def published(planted, tmp_path) -> EmbeddingStore:
    store = EmbeddingStore(tmp_path / "embeddings")
    store.publish("v1", {"user": planted.table("user"), "item": planted.table("item")})
    return store


@pytest.fixture
def checkpoint(planted, split, published, tmp_path):
    version = published.open("v1")
    users, items = version.table("user"), version.table("item")
    spec = FeatureSpec(
        pretrained=[Pretrained("user", users, unknown="learned"), Pretrained("item", items, usage="sum")],
        dense=["age"],
        categorical={"item": 30, "user": ["u1", "u2"]},
        bags=[Bag("history", items, pooling="sum")],
        label="clicked",
    )
    train = split[0].assign(history=[[1, 2]] * len(split[0]))
    train.loc[:9, "user"] = "nobody"
    ranker = DLRM(spec, dim=8)
    fit(ranker, train, None, FitConfig(epochs=1))
    return ranker, ranker.save(tmp_path / "rankers" / "dlrm-1"), train


def test_a_checkpoint_gives_the_same_predictions(planted, published, checkpoint):
    ranker, path, frame = checkpoint
    frame = pd.concat([frame, frame.tail(1).assign(user="nobody")])
    expected = ranker.predict(frame)
    tables = [planted.table("item"), planted.table("user")]
    paths = [published.root / "v1" / "user", published.root / "v1" / "item"]
    loaded = DLRM.load(path), DLRM.load(path, tables), DLRM.load(path, paths), load_ranker(path, published, verify=True)
    for found in loaded:
        np.testing.assert_array_equal(found.predict(frame), expected)
        assert found.features.statistics.mean == ranker.features.statistics.mean
        assert (found.features.label, found.features.categorical) == ("clicked", {"item": 30, "user": ["u1", "u2"]})
    assert [table.path for table in DLRM.load(path).features.tables] == [t.path for t in ranker.features.tables]


def test_a_checkpoint_names_its_tables_and_does_not_swallow_them(planted, checkpoint):
    _, path, _ = checkpoint
    names = {file.name for file in (path / "weights").iterdir()}
    assert {name for name in names if "vectors" in name} == set()
    manifest = json.loads((path / "ranker.json").read_text())
    users = planted.table("user")
    assert manifest["tables"][0] == {
        "kind": "vectors",
        "entity": "user",
        "version": "v1",
        "fingerprint": users.fingerprint,
        "ids": ids_digest(users.ids),
        "path": "../../embeddings/v1/user",
    }
    assert all(np.load(file, allow_pickle=False).dtype == np.float32 for file in (path / "weights").iterdir())


def test_tables_of_another_version_or_other_bytes_are_refused(planted, checkpoint):
    _, path, _ = checkpoint
    items, users = planted.table("item"), planted.table("user")
    other = EmbeddingTable.from_arrays(users.ids, users.vectors[::-1].copy(), entity="user", version="v1")
    with pytest.raises(VersionError, match=r"'user' of version 'v1' \(.*is version 'v2' \("):
        DLRM.load(path, [items, planted.table("user", "v2")])
    with pytest.raises(VersionError, match=f"'v1' \\({users.fingerprint[:8]}.*'v1' \\({other.fingerprint[:8]}"):
        DLRM.load(path, [items, other])
    with pytest.raises(VersionError, match=r"what is here is none.*tables=\[\.\.\.\]"):
        DLRM.load(path, [items])


def test_a_table_that_has_moved_is_asked_for(checkpoint):
    _, path, _ = checkpoint
    moved = path.rename(path.parent.parent / "moved")
    with pytest.raises(VersionError, match="pass that table"):
        DLRM.load(moved)


def test_damage_is_told(checkpoint, tmp_path):
    ranker, path, _ = checkpoint
    manifest = json.loads((path / "ranker.json").read_text())

    def rewritten(**changes) -> None:
        (path / "ranker.json").write_text(json.dumps(manifest | changes))

    with pytest.raises(VersionError, match="exists already"):
        ranker.save(path)
    for changes, message in (
        ({"format": "ranker/9"}, "'ranker/9'"),
        ({"kind": "forest"}, "kind 'forest'"),
        ({"features": {}}, "does not describe features"),
        ({"features": manifest["features"] | {"dense": []}}, r"its weights are not those .*bottom"),
        ({"settings": {"dim": 9, "bottom": [64], "top": [64, 32], "seed": 0}}, "expected .*9"),
    ):
        rewritten(**changes)
        with pytest.raises(FormatError, match=message):
            DLRM.load(path)
    rewritten()
    (path / "weights" / "bias.npy").write_bytes(b"short")
    with pytest.raises(FormatError, match=r"bias\.npy has 5 bytes"):
        DLRM.load(path)
    with pytest.raises(FormatError, match="is not a ranker"):
        DLRM.load(tmp_path / "nowhere")


def test_manifests_of_other_types_are_damage(checkpoint):
    _, path, _ = checkpoint
    manifest = json.loads((path / "ranker.json").read_text())
    for changes, message in (
        ({"kind": ["dlrm"]}, r"kind \['dlrm'\]"),
        ({"statistics": manifest["statistics"] | {"vocabularies": []}}, "does not describe features"),
        ({"settings": manifest["settings"] | {"dim": 8.5}}, "does not describe a ranker.*dim=8.5"),
    ):
        (path / "ranker.json").write_text(json.dumps(manifest | changes))
        with pytest.raises(FormatError, match=message):
            load_ranker(path)


def test_tables_come_as_a_version_or_one_path_too(published, checkpoint, tmp_path):
    ranker, path, frame = checkpoint
    np.testing.assert_array_equal(load_ranker(path, published.open("v1")).predict(frame), ranker.predict(frame))
    users = ranker.features.pretrained[0].table
    alone = DLRM(FeatureSpec([Pretrained("user", users)], label="clicked"), dim=4)
    fit(alone, frame, None, FitConfig(epochs=1))
    saved = alone.save(tmp_path / "alone")
    for one in (users, users.path, str(users.path)):
        np.testing.assert_array_equal(load_ranker(saved, one).predict(frame), alone.predict(frame))
    with pytest.raises(ConfigError, match="tables is a dict"):
        load_ranker(saved, {"user": users})
    with pytest.raises(ConfigError, match="tables is a int"):
        load_ranker(saved, 3)
    with pytest.raises(ConfigError, match="tables holds 3, expected tables or their paths"):
        load_ranker(saved, [users, 3])


def test_numpys_integers_are_settings(published, checkpoint, tmp_path):
    _, _, frame = checkpoint
    spec = FeatureSpec([Pretrained("user", published.open("v1").table("user"))], label="clicked")
    ranker = DLRM(spec, dim=np.int64(8), bottom=np.array([4]), top=[np.int32(4)], seed=np.int64(3))
    fit(ranker, frame, None, FitConfig(epochs=1))
    loaded = load_ranker(ranker.save(tmp_path / "ranker"))
    assert loaded.settings == {"dim": 8, "bottom": [4], "top": [4], "seed": 3}
    for wrong in ({"dim": 8.0}, {"top": 4}, {"seed": None}):
        with pytest.raises(ConfigError, match="have to be integers"):
            DLRM(spec, **wrong)


def test_arguments_in_each_others_places_are_told(planted, split):
    ranker = DLRM(with_vectors(planted))
    with pytest.raises(ConfigError, match=r"valid is a FitConfig, expected a DataFrame.*config=\.\.\."):
        fit(ranker, split[0], FitConfig())
    with pytest.raises(ConfigError, match="config is a DataFrame, expected a FitConfig"):
        fit(ranker, split[0], split[1], split[1])
    with pytest.raises(ConfigError, match="train is a NoneType, expected a DataFrame"):
        fit(ranker, None)


def test_a_ranker_that_was_never_fitted_cannot_be_saved(planted, tmp_path):
    with pytest.raises(ConfigError, match="has not been fitted"):
        DLRM(with_vectors(planted)).save(tmp_path / "ranker")


# --- leaks ---------------------------------------------------------------------------------------------------------


def test_rows_that_the_vectors_were_trained_on_are_told(planted, split):
    train, valid, _ = split
    seen = {"relation": "clicks", "source": "user", "target": "item", **edge_sketch(train["user"], train["item"])}
    users, items = planted.table("user", edge_sketches=[seen]), planted.table("item")
    spec = FeatureSpec(pretrained=[Pretrained("user", users), Pretrained("item", items)], label="clicked")
    message = r"100% of the pairs \(user, item\) are 'clicks' edges that version 'v1' was trained on"
    with pytest.warns(LeakWarning, match=f"training rows leak .* {message}"):
        fit(DLRM(spec), train, None, FitConfig(epochs=1))
    with pytest.warns(LeakWarning, match="validation rows leak"):
        fit(DLRM(spec), valid, train, FitConfig(epochs=1))


def test_attributes_and_histories_that_the_network_knows_are_no_leak(planted, split):
    train = split[0]
    seen = {"relation": "clicks", "source": "user", "target": "item", **edge_sketch(train["user"], train["item"])}
    users = planted.table("user", edge_sketches=[seen])
    lists = train.assign(history=[[item] for item in train["item"]])
    for spec, rows in (
        (
            FeatureSpec([Pretrained("user", users)], bags=[Bag("history", planted.table("item"))], label="clicked"),
            lists,
        ),
        (FeatureSpec([Pretrained("user", users)], categorical={"item": 50}, label="clicked"), train),
    ):
        fit(DLRM(spec, dim=4), rows, config=FitConfig(epochs=1))  # warnings are errors


def test_disjoint_rows_raise_no_warning(planted, split):
    train, valid, test = split
    seen = {"relation": "clicks", "source": "user", "target": "item", **edge_sketch(test["user"], test["item"])}
    tables = [planted.table(entity, edge_sketches=[seen]) for entity in ("user", "item")]
    spec = FeatureSpec(pretrained=[Pretrained(table.entity, table) for table in tables], label="clicked")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(DLRM(spec), train, valid, FitConfig(epochs=1))
