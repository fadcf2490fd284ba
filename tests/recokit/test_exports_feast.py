"""Feast reads what is exported: the very vectors online, and those of its time for every training row.

Feast lives in an environment of its own, where ``make test-feast`` runs this file; elsewhere it is skipped.
"""

import json
from datetime import UTC, datetime
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from recokit.errors import ConfigError, MissingDependencyError, VersionError
from recokit.exports import register_feast
from recokit.table import EmbeddingTable, Mixture, PQTable, write_version

feast_is_here = pytest.mark.skipif(find_spec("feast") is None, reason="Feast is in an environment of its own")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Feast and what it brings

NIGHTS = {"2026-06-01": datetime(2026, 6, 1, 4, tzinfo=UTC), "2026-06-02": datetime(2026, 6, 2, 4, tzinfo=UTC)}
ITEMS = np.array([7, -3, 2**40, 11])
USERS = ["u1", "u'2", "ü3"]
QUERY = ["item:vector", "item:version", "item:bias", "user:vector", "item_pq:codes", "interests:weights"]


def version(folder, name, *, kind="vectors"):
    seed = int(name[-1])
    rng = np.random.default_rng(seed)
    about = {"version": name, "comparator": "dot"}
    bias = rng.normal(size=4).astype(np.float16)
    items = EmbeddingTable.from_arrays(
        ITEMS, rng.normal(size=(4, 5)).astype(np.float32), entity="item", bias=bias, **about
    )
    users = EmbeddingTable.from_arrays(USERS, rng.normal(size=(3, 5)).astype(np.float16), entity="user", **about)
    book = rng.normal(size=(2, 4, 3)).astype(np.float32)
    codes = PQTable.from_arrays(ITEMS, rng.integers(0, 4, (4, 2), dtype=np.uint8), book, entity="item", **about)
    mixture = Mixture.from_rows(
        USERS, [[1, 3], [2, -1], [0, 1]], [[1, 3], [1, 0], [1, 1]], components=items, entity="user"
    )
    tables = {"item": items, "user": users, "item-pq": codes, "interests": mixture}
    if kind == "codes":
        tables = {"item": codes}
    return write_version(folder / name, tables, created=NIGHTS.get(name, NIGHTS["2026-06-02"]))


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """Two nights in one repository, the older registered last."""
    from feast import FeatureStore

    folder = tmp_path_factory.mktemp("nights")
    nights = {name: version(folder, name) for name in NIGHTS}
    newest = register_feast(nights["2026-06-02"], folder / "repo", project="shop")
    assert newest == ("item", "user", "item_pq", "interests", "embeddings-2026-06-02")
    register_feast(nights["2026-06-01"], folder / "repo")
    store = FeatureStore(repo_path=str(folder / "repo"))
    assert store.project == "shop"
    return store, nights, folder / "repo"


@feast_is_here
def test_the_newest_vectors_are_online_bit_by_bit(registered):
    store, nights, _ = registered
    store.materialize(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 3, tzinfo=UTC))
    entities = [
        {"item_id": int(item), "user_id": user} for item, user in zip(ITEMS, [*USERS, "never seen"], strict=True)
    ]
    found = store.get_online_features(QUERY, entities, full_feature_names=True).to_dict()
    newest = nights["2026-06-02"]
    np.testing.assert_array_equal(np.array(found["item__vector"], np.float32), newest.table("item").vectors)
    np.testing.assert_array_equal(np.array(found["item__bias"], np.float16), newest.table("item").bias)
    np.testing.assert_array_equal(np.array(found["user__vector"][:3], np.float16), newest.table("user").vectors)
    assert found["user__vector"][3] is None
    assert found["item__version"] == ["2026-06-02"] * 4
    assert found["item_pq__codes"] == [row.tobytes() for row in newest.codes("item-pq").codes]
    assert found["interests__weights"] == [[0.25, 0.75], [1.0], [0.5, 0.5], None]


@feast_is_here
def test_every_training_row_gets_the_vectors_of_its_time(registered):
    store, nights, _ = registered
    rows = pd.DataFrame(
        {
            "item_id": [7, -3, 7, 12345],
            "event_timestamp": pd.to_datetime(
                ["2026-06-01T04:00:00Z", "2026-06-02T03:59:59Z", "2026-06-02T12:00:00Z", "2026-06-02T13:00:00Z"]
            ),
        }
    )
    wanted = ["item:vector", "item:version", "item_pq:codes"]
    job = store.get_historical_features(rows, wanted, full_feature_names=True)
    found = job.to_df().sort_values("event_timestamp").reset_index(drop=True)
    old, new = nights["2026-06-01"], nights["2026-06-02"]
    assert found["item_id"].tolist() == [7, -3, 7, 12345]
    assert found["item__version"][:3].tolist() == ["2026-06-01", "2026-06-01", "2026-06-02"]
    assert pd.isna(found["item__version"][3])
    expected = [old.table("item").vectors[0], old.table("item").vectors[1], new.table("item").vectors[0]]
    np.testing.assert_array_equal(np.array(found["item__vector"][:3].tolist(), np.float32), expected)
    codes = [old.codes("item-pq").codes[0], old.codes("item-pq").codes[1], new.codes("item-pq").codes[0]]
    assert found["item_pq__codes"][:3].tolist() == [row.tobytes() for row in codes]


@feast_is_here
def test_tags_name_the_newest_version_and_its_codebook(registered):
    store, nights, repo = registered
    tags = store.get_feature_view("item_pq").tags
    codes = nights["2026-06-02"].codes("item-pq")
    assert (tags["version"], tags["codec"], tags["codebook_sha256"]) == ("2026-06-02", "pq", codes.codebook_sha256)
    np.testing.assert_array_equal(np.load(repo / tags["codebook"]), codes.codebook)
    assert store.get_feature_view("item").tags["fingerprint"] == nights["2026-06-02"].table("item").fingerprint
    assert store.get_feature_service("embeddings-2026-06-01").tags["version"] == "2026-06-01"


@feast_is_here
def test_mixtures_are_rows_of_lists(registered):
    _, nights, repo = registered
    written = pq.read_table(repo / "data/embeddings/interests/2026-06-01.parquet").to_pylist()
    vectors = nights["2026-06-01"].table("item").vectors
    assert [row["components"] for row in written] == [[-3, 11], [2**40], [7, -3]]
    np.testing.assert_array_equal(np.float32(written[2]["vectors"]), vectors[[0, 1]].reshape(-1))
    np.testing.assert_array_equal(np.float32(written[1]["vectors"]), vectors[2])


@feast_is_here
def test_what_is_there_already_is_kept_or_refused(tmp_path):
    made = version(tmp_path, "2026-06-01")
    register_feast(made, tmp_path / "repo", tables=["item"])
    before = (tmp_path / "repo/data/embeddings/item/2026-06-01.parquet").stat().st_mtime_ns
    assert register_feast(made, tmp_path / "repo", tables=["item"]) == ("item", "embeddings-2026-06-01")
    assert (tmp_path / "repo/data/embeddings/item/2026-06-01.parquet").stat().st_mtime_ns == before
    (tmp_path / "other").mkdir()
    changed = EmbeddingTable.from_arrays(ITEMS, np.ones((4, 5), np.float32), entity="item", version="2026-06-01")
    other = write_version(tmp_path / "other" / "2026-06-01", {"item": changed})
    with pytest.raises(VersionError, match="holds other contents"):
        register_feast(other, tmp_path / "repo")
    with pytest.raises(ConfigError, match="registered with the kind 'vectors', not 'codes'"):
        register_feast(version(tmp_path, "2026-06-03", kind="codes"), tmp_path / "repo")
    same = {name: made.table("item") for name in ("a-b", "a_b")}
    with pytest.raises(ConfigError, match="'a_b' and another would both be the feature view 'a_b'"):
        register_feast(write_version(tmp_path / "twice" / "2026-06-01", same), tmp_path / "repo")
    texts = EmbeddingTable.from_arrays(["a"], np.ones((1, 5), np.float32), entity="item", version="2026-06-04")
    with pytest.raises(ConfigError, match="registered with ids of INT64, not string"):
        register_feast(write_version(tmp_path / "2026-06-04", {"item": texts}), tmp_path / "repo")
    with pytest.raises(ConfigError, match="project is 'a-b'"):
        register_feast(made, tmp_path / "new", project="a-b")


@feast_is_here
def test_the_command_registers(tmp_path, monkeypatch, run_cli):
    from importlib.metadata import EntryPoint

    point = EntryPoint("export", "recokit.exports.cli:export", "recokit.commands")
    monkeypatch.setattr("recokit.cli.entry_points", lambda group: [point])
    version(tmp_path, "2026-06-01")
    ran = run_cli("export", "feast", tmp_path / "2026-06-01", tmp_path / "repo", "--table", "item", "--json")
    assert (ran.code, ran.err) == (0, "")
    said = json.loads(ran.out[ran.out.index("{") :])
    assert (said["feature_views"], said["feature_service"]) == (["item"], "embeddings-2026-06-01")


@pytest.mark.skipif(find_spec("feast") is not None, reason="Feast is here")
def test_without_feast_the_message_says_where_it_lives(tmp_path):
    with pytest.raises(MissingDependencyError, match="environment of its own"):
        register_feast(version(tmp_path, "2026-06-01"), tmp_path / "repo")
    assert not (tmp_path / "repo").exists()
