"""What a frozen ranker says of a later version, against predictions by hand."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

torch = pytest.importorskip("torch")

from recokit import EmbeddingTable, FeatureSpec, PQTable, write_version  # noqa: E402
from recokit.drift import measure_drift  # noqa: E402
from recokit.errors import DataError, VersionError  # noqa: E402
from recokit.features import Bag, Pretrained  # noqa: E402
from recokit.metrics import rce, roc_auc  # noqa: E402
from recokit.rankers import DLRM, LinearProbe, SearchRanker, SharedBottom  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT, DIM, ROWS = 30, 4, 200
RANDOM = np.random.default_rng(0)
VECTORS = {name: RANDOM.normal(size=(COUNT, DIM)).astype(np.float32) for name in ("user", "item", "user-engage")}
LATER = {name: x + 0.5 * RANDOM.normal(size=x.shape).astype(np.float32) for name, x in VECTORS.items()}
CODES = RANDOM.integers(0, 8, (COUNT, 2), dtype=np.uint8)
BOOK = RANDOM.normal(size=(2, 8, 2)).astype(np.float32)


def table(name, vectors, version, ids=None):
    entity = name.split("-")[0]
    return EmbeddingTable.from_arrays(np.arange(COUNT) if ids is None else ids, vectors, entity=entity, version=version)


@pytest.fixture
def versions(tmp_path):
    """Version b has later vectors, its rows in another order, one user fewer and the same codes."""
    order = np.random.default_rng(1).permutation(COUNT)
    made = {"a": {}, "b": {}}
    for name, vectors in VECTORS.items():
        made["a"][name] = table(name, vectors, "a")
        kept = order[order != 3] if name == "user" else order
        made["b"][name] = table(name, LATER[name][kept], "b", kept)
    for name, tables in made.items():
        tables["item-pq"] = PQTable.from_arrays(np.arange(COUNT), CODES, BOOK, entity="item", version=name)
    return [write_version(tmp_path / name, tables) for name, tables in made.items()]


@pytest.fixture
def impressions():
    rng = np.random.default_rng(2)
    frame = pd.DataFrame(
        {
            "user": rng.integers(0, COUNT, ROWS),
            "item": rng.integers(0, COUNT + 5, ROWS),  # some are nobody's
            "session": rng.integers(0, 25, ROWS),
        }
    )
    return frame.assign(clicked=rng.integers(0, 2, ROWS), bought=rng.integers(0, 2, ROWS))


def probe(spec):
    made = LinearProbe(spec)
    with torch.no_grad():
        torch.manual_seed(0)
        for weight in made.penalised():
            weight.normal_()
        made.bias.fill_(-0.3)
    return made


def by_hand(model, frame, vectors, without=()):
    """Logits in float64: the weights and scales of the model with any vectors."""
    total = np.full(len(frame), model.bias.item())
    for feature, layers in zip(model.features.pretrained, model.encoder.pretrained, strict=True):
        weight = layers[1].linear.weight.detach().double().numpy()[0] * float(layers[1].scale)
        for row, one in enumerate(frame[feature.column]):
            if one < COUNT and (feature.key, one) not in without:
                total[row] += float(vectors[feature.key][one].astype(np.float64) @ weight)
    return total


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def values(report):
    return {row.metric.removeprefix("score shift "): row for row in report.results if "score shift" in row.metric}


def test_scores_move_as_predictions_by_hand_do(versions, impressions, tmp_path):
    old, new = versions
    made = probe(
        FeatureSpec(
            pretrained=[Pretrained("user", old.table("user")), Pretrained("item", old.table("item"))],
            label="clicked",
            group="session",
        )
    )
    folder = made.save(tmp_path / "probe-1")
    before = by_hand(made, impressions, VECTORS)
    after = by_hand(made, impressions, LATER, without={("user", 3)})
    p, q = sigmoid(before), sigmoid(after)
    for ranker in (made, folder):
        report = measure_drift(old, new, tables=["user"], ranker=ranker, impressions=impressions, k=3)
        rows = values(report)
        assert {row.name for row in rows.values()} == {"linear_probe" if ranker is made else "probe-1"}
        expected = {
            "|p|": np.abs(q - p).mean(),
            "|logit|": np.abs(after - before).mean(),
            "mean p": (q - p).mean(),
            "spearman": scipy.stats.spearmanr(before, after).statistic,
            "auc old": roc_auc(impressions["clicked"], before),
            "auc new": roc_auc(impressions["clicked"], after),
            "auc change": roc_auc(impressions["clicked"], after) - roc_auc(impressions["clicked"], before),
            "rce old": rce(impressions["clicked"], p),
            "rce new": rce(impressions["clicked"], q),
            "rce change": rce(impressions["clicked"], q) - rce(impressions["clicked"], p),
        }
        assert {name: rows[name].value for name in expected} == pytest.approx(expected, rel=1e-5)
        for name in ("|p|", "|logit|", "mean p", "auc change", "rce change", "top@3 overlap"):
            assert rows[name].low < rows[name].value < rows[name].high
        shares = []
        for _, part in impressions.reset_index(drop=True).groupby("session"):
            if len(part) > 3:
                lists = [set(sorted(part.index, key=lambda row: (-x[row], row))[:3]) for x in (before, after)]
                shares.append(len(lists[0] & lists[1]) / 3)
        assert rows["top@3 overlap"].value == pytest.approx(np.mean(shares))
        assert rows["top@3 overlap"].n == len(shares)
        known = [float(np.mean(impressions["user"].isin(ids))) for ids in (range(COUNT), set(range(COUNT)) - {3})]
        assert rows["|p|"].protocol["known ids, old and new"]["user"] == pytest.approx(known)
    unlabelled = measure_drift(old, new, tables=["user"], ranker=made, impressions=impressions[["user", "item"]])
    assert set(values(unlabelled)) == {"|p|", "|logit|", "mean p", "spearman"}


def test_a_copy_moves_no_score(versions, impressions, tmp_path):
    old = versions[0]
    copy = write_version(tmp_path / "copy", {name: table(name, x, "copy") for name, x in VECTORS.items()})
    made = probe(FeatureSpec(pretrained=[Pretrained("item", old.table("item"))], label="clicked", group="session"))
    rows = values(measure_drift(old, copy, ranker=made, impressions=impressions))
    for name in ("|p|", "|logit|", "mean p", "auc change", "rce change"):
        assert (rows[name].value, rows[name].low, rows[name].high) == (0.0, 0.0, 0.0)
    assert rows["spearman"].value == pytest.approx(1.0)
    assert rows["top@10 overlap"].value == 1.0


def test_each_network_is_replaced_by_its_own(versions, impressions, tmp_path):
    """Two tables of users: each takes its successor's vectors, though both are of one entity type."""
    old, new = versions
    both = [Pretrained("user", old.table(name), name) for name in ("user", "user-engage")]
    made = probe(FeatureSpec(pretrained=both, label="clicked"))
    after = by_hand(made, impressions, LATER, without={("user", 3)})
    expected = np.abs(sigmoid(after) - sigmoid(by_hand(made, impressions, VECTORS))).mean()
    for ranker in (made, made.save(tmp_path / "two")):
        rows = values(measure_drift(old, new, tables=["user"], ranker=ranker, impressions=impressions))
        assert rows["|p|"].value == pytest.approx(expected, rel=1e-5)


def test_only_what_has_a_successor_is_replaced(versions, impressions):
    """What was trained further belongs to the ranker, and a table of neither version stays."""
    old, new = versions
    outside = EmbeddingTable.from_arrays(np.arange(COUNT), VECTORS["item"], entity="text", version="t")
    frame = impressions.assign(history=[[1, 2, 40]] * ROWS)
    made = DLRM(
        FeatureSpec(
            pretrained=[
                Pretrained("user", old.table("user"), usage="init"),
                Pretrained("item", old.codes("item-pq")),
                Pretrained("item", outside, "text"),
            ],
            bags=[Bag("history", old.table("item"))],
            label="clicked",
        ),
        dim=4,
        bottom=(4,),
        top=(4,),
    )
    rows = values(measure_drift(old, new, tables=["user"], ranker=made, impressions=frame))
    assert rows["|p|"].value > 0  # of the bag alone
    said = rows["|p|"].protocol["tables"]
    assert said["text (vectors) of t"] == "stays"
    assert said["item (codes) of a"] == "item-pq of b"
    without_bag = FeatureSpec(pretrained=made.features.pretrained, label="clicked")
    made = DLRM(without_bag, dim=4, bottom=(4,), top=(4,))
    rows = values(measure_drift(old, new, tables=["user"], ranker=made, impressions=frame))
    assert rows["|p|"].value == 0.0  # the codes are the same, the others stayed


def test_several_labels_are_told_apart(versions, impressions):
    old, new = versions
    spec = FeatureSpec(pretrained=[Pretrained("user", old.table("user"))], label=["clicked", "bought"])
    made = SharedBottom(spec, dim=4, bottom=[4], tower=[])
    report = measure_drift(old, new, tables=["user"], ranker=made, impressions=impressions)
    fed = SharedBottom(
        FeatureSpec(pretrained=[Pretrained("user", new.table("user"))], label=["clicked", "bought"]),
        dim=4,
        bottom=[4],
        tower=[],
    )
    fed.load_state_dict(made.state_dict())
    before, after = made.predict(impressions), fed.predict(impressions)
    for number, label in enumerate(("clicked", "bought")):
        moved = np.abs(after - before)[:, number].mean()
        assert report.value("score shift |p|", group=label) == pytest.approx(moved)
        assert report.value("score shift auc new", group=label) == roc_auc(impressions[label], after[:, number])


def test_scores_that_only_rank_have_no_probabilities(versions, impressions):
    old, new = versions
    names = ("user", "author", "query")
    frame = impressions.assign(author=impressions["item"], query=impressions["user"])
    features = [
        Pretrained(name, old.table(table), name) for name, table in zip(names, ("user", "item", "user"), strict=True)
    ]
    made = SearchRanker(
        FeatureSpec(pretrained=features, label="clicked", group="session"), dim=4, hidden=[4], loss="listwise"
    )
    rows = values(measure_drift(old, new, tables=["user"], ranker=made, impressions=frame))
    assert {"|score|", "mean score", "spearman", "auc old", "auc change"} <= set(rows)
    assert not {"|p|", "|logit|", "rce old"} & set(rows)


def test_a_ranker_of_an_earlier_version_is_fed_the_network_that_it_reads(versions, impressions, tmp_path):
    old, new = versions
    first = write_version(
        tmp_path / "z", {name: table(name, 2 * VECTORS[name], "z") for name in ("user", "user-engage")}
    )
    expected = []
    for name in ("user", "user-engage"):
        made = probe(FeatureSpec(pretrained=[Pretrained("user", first.table(name))], label="clicked"))
        report = measure_drift(old, new, tables=["item"], ranker=made, impressions=impressions)
        row = next(row for row in report.results if row.metric == "score shift |p|")
        assert row.protocol["tables"] == {"user (vectors) of z": f"{name} of b"}
        expected.append(row.value)
    assert expected[0] != expected[1]


def test_rankers_that_cannot_be_fed_are_refused(versions, impressions, tmp_path):
    old, new = versions
    made = probe(FeatureSpec(pretrained=[Pretrained("user", old.table("user"))], label="clicked"))
    items = write_version(tmp_path / "c", {"item": table("item", VECTORS["item"], "c")})
    with pytest.raises(DataError, match=r"version 'c' has none of the tables that the ranker reads: user \(vectors\)"):
        measure_drift(old, items, tables=["item"], ranker=made, impressions=impressions)
    other = EmbeddingTable.from_arrays(np.arange(COUNT), LATER["user"], entity="user", version="elsewhere")
    unknown = probe(FeatureSpec(pretrained=[Pretrained("user", other)], label="clicked"))
    with pytest.raises(VersionError, match="in version 'b' user, user-engage could take its place"):
        measure_drift(old, new, tables=["user"], ranker=unknown, impressions=impressions)
    with pytest.raises(DataError, match="no impressions"):
        measure_drift(old, new, tables=["user"], ranker=made, impressions=impressions.iloc[:0])
    wide = write_version(tmp_path / "d", {"user": table("user", np.tile(VECTORS["user"], 2), "d")})
    with pytest.raises(VersionError, match="does not fit the tables of version 'd'"):
        measure_drift(old, wide, ranker=made, impressions=impressions)
