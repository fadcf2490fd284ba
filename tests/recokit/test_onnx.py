"""Exported rankers: onnxruntime says what torch says, with tables inside or as inputs."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from ranker_oracle import LABELS, frame, spec

from recokit.errors import ConfigError, DataError, FormatError, VersionError
from recokit.features import FeatureSpec, Pretrained
from recokit.onnx_ranker import OnnxRanker
from recokit.rankers import DLRM, ESMM, DCNv2, LinearProbe, MMoE, SearchRanker, SharedBottom, WideDeep
from recokit.rankers.export import export_onnx
from recokit.table import EmbeddingTable, PQTable

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

CROSSES = [("user", "country"), ("country", "device", "user")]


def trained(ranker):
    """Weights of a size that training gives, and an offset."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 10)
        ranker.offset.copy_(torch.log(torch.tensor([0.25, 0.5])[: len(ranker.offset)]))
    return ranker.eval()


def assert_same(ranker, path, **settings) -> OnnxRanker:
    export_onnx(ranker, path, **settings)
    served = OnnxRanker.load(path, list(ranker.features.tables), threads=1, verify=True)
    rows = frame()
    for part in (rows, rows.iloc[:1], rows.iloc[3:8]):
        expected = ranker.predict(part)
        np.testing.assert_allclose(served.predict(part), expected, rtol=0, atol=1e-5)
        assert served.predict(part).shape == expected.shape
    return served


@pytest.mark.parametrize("tables", [pytest.param("initializers", marks=pytest.mark.slow), "inputs"])
def test_every_kind_of_feature_gives_the_probabilities_of_torch(tmp_path, tables):
    ranker = trained(DLRM(spec(label=LABELS, hashed=["item"]).fit(frame()), dim=5, bottom=(4,), top=(4,)))
    served = assert_same(ranker, tmp_path / "exported", tables=tables)
    assert set(served.given) == ({"vectors.user", "vectors.item.1", "codes.item.2"} if tables == "inputs" else set())


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: WideDeep(spec().fit(frame()), dim=3, hidden=(6, 4), crosses=CROSSES, cross_size=7),
        lambda: DCNv2(spec().fit(frame()), dim=3),
        lambda: SharedBottom(spec(label=LABELS).fit(frame()), dim=3),
        lambda: MMoE(spec(label=LABELS).fit(frame()), dim=3),
        lambda: ESMM(spec(label=LABELS).fit(frame()), dim=3),
        lambda: SearchRanker(spec().fit(frame()), dim=3),
        lambda: LinearProbe(spec(pretrained=[], label="clicked").fit(frame())),
    ],
)
def test_every_ranker_gives_the_probabilities_of_torch(tmp_path, make):
    assert_same(trained(make()), tmp_path / "exported", tables="inputs")


# --- what a request costs ------------------------------------------------------------------------------------------


COUNT, DIM, BYTES = 4000, 16, 4


@pytest.fixture(scope="module")
def coded():
    """A ranker of a user's and an item's codes."""
    rng = np.random.default_rng(0)

    def codes(entity: str) -> PQTable:
        book = rng.standard_normal((BYTES, 256, DIM // BYTES), dtype=np.float32)
        drawn = rng.integers(0, 256, (COUNT, BYTES), dtype=np.uint8)
        return PQTable.from_arrays(np.arange(COUNT), drawn, book, entity=entity, version="v1")

    features = FeatureSpec(pretrained=[Pretrained("user", codes("user")), Pretrained("item", codes("item"))], label="y")
    return trained(DLRM(features, dim=4, top=(4,)))


@pytest.fixture(scope="module")
def folders(coded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    settings = {"initializers": {}, "inputs": {"tables": "inputs"}, "folded": {"fold": True}}
    return {name: export_onnx(coded, folder / name, **each) for name, each in settings.items()}


def request() -> dict:
    return {"user": [7] * 5 + [-1], "item": [1, 2, 3999, 2, 10**6, 1]}


@pytest.mark.parametrize("form", ["initializers", "inputs", "folded"])
def test_codes_inside_as_inputs_and_folded_say_the_same(coded, folders, form):
    import pandas as pd

    served = OnnxRanker.load(folders[form], list(coded.features.tables), threads=1)
    rows = pd.DataFrame(request())
    np.testing.assert_allclose(served.predict(rows), coded.predict(rows), rtol=1e-5)


def test_codes_come_with_the_request_and_the_users_once(coded, folders):
    import pandas as pd

    users, items = coded.features.tables
    served = OnnxRanker.load(folders["inputs"], [users, items], threads=1)
    arrays = {
        "rows.user": np.array([0, 0, 0, 0, 0, -1]),
        "rows.item": np.array([0, 1, 2, 1, -1, 0]),
        "dense": np.zeros((6, 0), np.float32),
        "codes.user": np.asarray(users.codes[[7]]),
        "codes.item": np.asarray(items.codes[[1, 2, 3999]]),
    }
    np.testing.assert_allclose(served.run(arrays), coded.predict(pd.DataFrame(request())), rtol=1e-5)


def test_a_model_whose_codes_come_with_requests_does_not_hold_them(folders):
    sizes = {name: (folder / "model.onnx").stat().st_size for name, folder in folders.items()}
    assert sizes["initializers"] - sizes["inputs"] > 2 * COUNT * BYTES * 0.9
    assert sizes["inputs"] < 2 * 256 * DIM * 4 + 60_000  # the codebooks, and the rest


def test_serving_needs_no_torch(coded, folders):
    program = (
        "import sys, numpy as np\nfrom recokit.onnx_ranker import OnnxRanker\n"
        "assert 'torch' not in sys.modules, 'torch'\nprint('fine')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


# --- refusals ------------------------------------------------------------------------------------------------------


def test_other_codes_are_refused(coded, folders):
    users, items = coded.features.tables
    book = np.array(items.codebook) + np.float32(1)
    other = PQTable.from_arrays(items.ids, items.codes, book, entity="item", version="v1")
    with pytest.raises(VersionError, match="'item' of version 'v1'"):
        OnnxRanker.load(folders["inputs"], [users, other])


def test_missing_and_unknown_inputs_are_named(coded, folders):
    served = OnnxRanker.load(folders["inputs"], list(coded.features.tables))
    with pytest.raises(DataError, match=r"needs 'rows.user' too"):
        served.run({"rows.item": np.zeros(1, np.int64)})
    with pytest.raises(DataError, match=r"no input 'rows.usr'; did you mean 'rows.user'"):
        served.run({"rows.usr": np.zeros(1, np.int64)})
    arrays = {"rows.user": np.zeros(1), "rows.item": np.zeros(1), "dense": np.zeros((1, 0))}
    codes = {f"codes.{entity}": np.zeros((1, BYTES), np.uint8) for entity in ("user", "item")}
    with pytest.raises(DataError, match="onnxruntime refuses the inputs"):
        served.run(arrays | codes)  # float64 rows


def test_a_damaged_model_is_refused(coded, folders, tmp_path):
    import shutil

    broken = shutil.copytree(folders["inputs"], tmp_path / "broken")
    with (broken / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(FormatError, match=r"model.onnx has \d+ bytes"):
        OnnxRanker.load(broken, list(coded.features.tables))


def test_rankers_that_cannot_be_exported_are_refused(coded, tmp_path):
    table = EmbeddingTable.from_arrays([1], np.ones((1, 2), np.float32), entity="item", version="v1")
    unfitted = DLRM(FeatureSpec(pretrained=[Pretrained("item", table)], dense=["age"], label="y"), dim=2)
    with pytest.raises(ConfigError, match="has not been fitted"):
        export_onnx(unfitted, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"tables='input'.*'inputs'"):
        export_onnx(coded, tmp_path / "out", tables="input")
    (tmp_path / "out").mkdir()
    with pytest.raises(VersionError, match="exists already"):
        export_onnx(coded, tmp_path / "out")


def renewed(table: PQTable, version: str = "v2", shift: float = 0.0) -> PQTable:
    """Other codes of the same codebook, unless that is shifted."""
    codes, book = np.array(table.codes)[::-1], np.array(table.codebook) + np.float32(shift)
    return PQTable.from_arrays(table.ids, codes, book, entity=table.entity, version=version)


def test_a_later_version_of_the_codes_is_read_where_that_is_asked_for(coded, folders):
    import pandas as pd

    from recokit.rankers import load_ranker

    users, items = coded.features.tables
    later, rows = renewed(items), pd.DataFrame(request())
    with pytest.raises(VersionError, match="allow_drift=True"):
        OnnxRanker.load(folders["inputs"], [users, later])
    served = OnnxRanker.load(folders["inputs"], [users, later], allow_drift=True)
    coded.save(folders["inputs"].parent / "checkpoint")
    expected = load_ranker(folders["inputs"].parent / "checkpoint", [users, later], allow_drift=True).predict(rows)
    np.testing.assert_allclose(served.predict(rows), expected, rtol=1e-5)
    assert np.abs(expected - coded.predict(rows)).max() > 1e-3
    assert served.codebooks == {"codes.user": users.codebook_sha256, "codes.item": items.codebook_sha256}
    with pytest.raises(VersionError, match=r"another codebook than the model .* for 'codes.item'"):
        OnnxRanker.load(folders["inputs"], [users, renewed(items, shift=1.0)], allow_drift=True)
    with pytest.raises(VersionError, match="of another version inside: export"):
        OnnxRanker.load(folders["initializers"], [users, later], allow_drift=True)


def test_a_mixtures_target_that_trains_on_a_copy_keeps_its_rows(tmp_path):
    from ranker_oracle import tables

    made = tables()
    pretrained = [
        Pretrained("item", made["item"], usage="init"),
        Pretrained("item", made["item"], name="frozen"),
        Pretrained("user", made["interests"], pooling="attention", target="item"),
    ]
    assert_same(
        trained(DLRM(FeatureSpec(pretrained, label="clicked"), dim=3, top=(4,))), tmp_path / "x", tables="inputs"
    )
