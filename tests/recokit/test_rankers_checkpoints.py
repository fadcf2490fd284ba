"""Checkpoints of every ranker: the same predictions, other tables refused, checkpoints of the first format."""

import json

import numpy as np
import pytest
from ranker_oracle import LABELS, frame, spec

from recokit.errors import FormatError, VersionError
from recokit.features import FeatureSpec
from recokit.rankers import (
    DLRM,
    ESMM,
    DCNv2,
    FitConfig,
    LinearProbe,
    MMoE,
    Ranker,
    SearchRanker,
    SharedBottom,
    WideDeep,
    fit,
    load_ranker,
)
from recokit.rankers.checkpoint import KINDS
from recokit.table import PQTable

SETTINGS = {
    DLRM: {"dim": 3, "bottom": [4], "top": []},
    WideDeep: {"dim": 3, "hidden": [4], "crosses": [["user", "country"]], "cross_size": 5},
    DCNv2: {"dim": 3, "cross_layers": 1, "rank": 2, "hidden": [4], "structure": "parallel"},
    SharedBottom: {"dim": 3, "bottom": [5], "tower": []},
    MMoE: {"dim": 3, "experts": 2, "expert": [4], "tower": [2]},
    ESMM: {"dim": 3, "tower": [4]},
    SearchRanker: {"dim": 3, "hidden": [4], "loss": "listwise", "products": "hadamard"},
    LinearProbe: {"l2": 0.25},
}


pytestmark = pytest.mark.usefixtures("one_thread")


def features_of(ranker_type: type[Ranker]) -> FeatureSpec:
    linear = [f for f in spec().pretrained if f.unknown != "learned" and f.usage != "init"]
    changes = {"pretrained": linear} if ranker_type is LinearProbe else {}
    changes |= {"label": LABELS} if ranker_type in (SharedBottom, MMoE, ESMM) else {}
    return spec(**changes, group="country")


@pytest.fixture(params=SETTINGS, ids=lambda each: each.kind)
def trained(request) -> Ranker:
    ranker = request.param(features_of(request.param), **SETTINGS[request.param])
    fit(ranker, frame(), None, FitConfig(epochs=2, batch_size=16, learning_rate=0.05))
    return ranker


def test_every_ranker_comes_back_as_it_was(trained, tmp_path):
    trained.offset.fill_(-0.5)
    path, tables, rows = trained.save(tmp_path / "ranker"), list(trained.features.tables), frame(seed=1)
    loaded = type(trained).load(path, tables)
    assert type(load_ranker(path, tables, verify=True)) is type(trained)
    np.testing.assert_array_equal(loaded.predict(rows), trained.predict(rows))
    np.testing.assert_array_equal(loaded.offset, trained.offset)
    settings = SETTINGS[type(trained)]
    assert {name: loaded.settings[name] for name in settings} == settings == {n: trained.settings[n] for n in settings}
    assert json.loads((path / "ranker.json").read_text())["kind"] == trained.kind
    fit(loaded, frame(), None, FitConfig(epochs=1, learning_rate=1e-3))  # and trains on
    if isinstance(trained, ESMM):
        again = ESMM.load(path, tables)
        np.testing.assert_array_equal(again.conversion_after_click(rows), trained.conversion_after_click(rows))


def test_every_ranker_refuses_other_tables_and_other_kinds(trained, tmp_path):
    path = trained.save(tmp_path / "ranker")
    changed = [
        PQTable.from_arrays(t.ids, t.codes, t.codebook + 1, entity=t.entity, version=t.version)
        if isinstance(t, PQTable)
        else t
        for t in trained.features.tables
    ]
    with pytest.raises(VersionError, match="was trained with code table 'item' of version 'v1'"):
        load_ranker(path, changed)
    other = DLRM if type(trained) is not DLRM else ESMM
    with pytest.raises(FormatError, match=f"holds a ranker of kind '{trained.kind}', not '{other.kind}'"):
        other.load(path, list(trained.features.tables))


def test_every_kind_is_known():
    assert {ranker_type.kind: ranker_type for ranker_type in SETTINGS} == dict(KINDS)


def test_predictions_have_the_offset_and_training_has_not(trained):
    rows = frame(seed=2)
    before = trained.predict(rows)
    trained.offset.fill_(np.log(0.1))
    after = trained.predict(rows)
    first = (slice(None), 0) if after.ndim == 2 else slice(None)
    p = before[first]
    np.testing.assert_allclose(after[first], p / (p + (1 - p) / 0.1), rtol=1e-6)
    assert "offset" not in dict(trained.named_parameters())


@pytest.fixture
def of_the_first_format(tmp_path):
    """A checkpoint as recokit 0.1.0 wrote it: one kind of table, no offset, no field that came later."""
    features = FeatureSpec(
        [feature for feature in spec().pretrained if feature.key in ("user", "added")],
        dense=["age"],
        categorical={"user": 3},
        bags=[bag for bag in spec().bags if bag.key == "sums"],
        missing="indicator",
        label="clicked",
    )
    ranker = DLRM(features, dim=3)
    fit(ranker, frame(), None, FitConfig(epochs=1))
    path = ranker.save(tmp_path / "old")
    manifest = json.loads((path / "ranker.json").read_text())
    manifest["format"] = "ranker/1"
    del manifest["files"]["weights/offset.npy"], manifest["features"]["hashed"]
    for table in manifest["tables"]:
        del table["kind"]
    for feature in manifest["features"]["pretrained"]:
        del feature["pooling"], feature["target"], feature["temperature"]
    for bag in manifest["features"]["bags"]:
        del bag["weights"]
    (path / "ranker.json").write_text(json.dumps(manifest))
    (path / "weights" / "offset.npy").unlink()
    return ranker, path


def test_checkpoints_of_the_first_format_are_read(of_the_first_format):
    ranker, path = of_the_first_format
    loaded = load_ranker(path, list(ranker.features.tables))
    np.testing.assert_array_equal(loaded.predict(frame(seed=1)), ranker.predict(frame(seed=1)))
    assert loaded.offset.tolist() == [0.0]


def test_a_checkpoint_of_this_format_without_its_offset_is_damaged(of_the_first_format):
    ranker, path = of_the_first_format
    manifest = json.loads((path / "ranker.json").read_text())
    (path / "ranker.json").write_text(json.dumps(manifest | {"format": "ranker/2"}))
    with pytest.raises(FormatError, match=r"its weights are not those .* weights/offset.npy"):
        load_ranker(path, list(ranker.features.tables))
    (path / "ranker.json").write_text(json.dumps(manifest | {"format": "ranker/3"}))
    with pytest.raises(FormatError, match="has the format 'ranker/3'; this release of recokit reads 'ranker/2'"):
        load_ranker(path)
