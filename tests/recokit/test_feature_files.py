"""Specs as JSON: what is written is read again, tables are named, and others are refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
from ranker_oracle import frame, spec, tables

from recokit.errors import ConfigError, FormatError, VersionError
from recokit.feature_files import features_from_json, features_to_json
from recokit.features import Bag, FeatureSpec, Pretrained
from recokit.store import EmbeddingStore
from recokit.table import EmbeddingTable, Mixture, PQTable


@pytest.fixture
def store(tmp_path) -> EmbeddingStore:
    """A version with a table of each kind, under names of their own."""
    made = tables()
    mixture = made["interests"]
    store = EmbeddingStore(tmp_path / "embeddings")
    store.publish(
        "v1",
        {
            "people": made["user"],
            mixture.components_name: made["item"],
            "item-pq": made["codes"],
            "tastes": mixture,
        },
    )
    return store


def published_spec(store: EmbeddingStore) -> FeatureSpec:
    version = store.open("v1")
    mixture, codes, items = version.mixture("tastes"), version.codes("item-pq"), version.table("user-components")
    return FeatureSpec(
        pretrained=[
            Pretrained("user", version.table("people"), unknown="indicator"),
            Pretrained("user", mixture, name="tastes", pooling="smoothmax", target="item", temperature=0.5),
            Pretrained("item", items, unknown="learned"),
            Pretrained("item", codes, name="coded", usage="sum"),
        ],
        dense=["age"],
        categorical={"item": 5, "country": ["US", "DE"]},
        bags=[Bag("history", codes, weights="recency"), Bag("genres", 2, name="g", pooling="sum")],
        hashed=["device"],
        label=["clicked", "bought"],
        group="user",
        weight="age",
        missing="indicator",
    )


def through_json(features: FeatureSpec, given, folder) -> FeatureSpec:
    return features_from_json(json.loads(json.dumps(features_to_json(features, folder))), given, folder)


def flat(batch) -> dict[str, np.ndarray]:
    arrays = {"dense": batch.dense, "labels": batch.labels, "group": batch.group, "weight": batch.weight}
    arrays |= batch.rows | batch.hashed | {f"code {name}": codes for name, codes in batch.categorical.items()}
    for name, (values, offsets) in batch.bags.items():
        arrays |= {f"{name} values": values, f"{name} offsets": offsets}
    return arrays | {f"{name} weights": weights for name, weights in batch.bag_weights.items()}


@pytest.mark.parametrize("where", ["paths", "store", "version", "tables", "folders"])
def test_a_spec_is_read_again_with_tables_of_every_kind(store, tmp_path, where):
    rows = frame().assign(age=30.0)
    features = published_spec(store).fit(rows)
    version = store.open("v1")
    given = {
        "paths": None,
        "store": store,
        "version": version,
        "tables": list(features.tables),
        "folders": [str(version.tables[name].path) for name in version.tables],
    }[where]
    again = through_json(features, given, tmp_path / "rankers" / "a")
    assert [type(table) for table in again.tables] == [EmbeddingTable, Mixture, EmbeddingTable, PQTable]
    expected, found = flat(features.batch(rows)), flat(again.batch(rows))
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert again.pretrained[1].temperature == 0.5
    assert (again.hashed, again.group, again.missing) == (["device"], "user", "indicator")
    assert features_to_json(again, tmp_path / "rankers" / "a") == features_to_json(features, tmp_path / "rankers" / "a")


def test_a_spec_that_has_not_been_fitted_stays_so(store, tmp_path):
    features = published_spec(store)
    again = through_json(features, None, tmp_path)
    assert (features.statistics, again.statistics) == (None, None)
    assert again.fit(frame()).statistics.mean == features.fit(frame()).statistics.mean


def test_what_is_written_names_each_table_once_and_relative_to_the_folder(store, tmp_path):
    features = published_spec(store)
    content = features_to_json(features, tmp_path / "rankers" / "a")
    assert [(each["kind"], each["entity"], each["version"], each["path"]) for each in content["tables"]] == [
        ("vectors", "user", "v1", "../../embeddings/v1/people"),
        ("mixture", "user", "v1", "../../embeddings/v1/tastes"),
        ("vectors", "item", "v1", "../../embeddings/v1/user-components"),
        ("codes", "item", "v1", "../../embeddings/v1/item-pq"),
    ]
    assert [each["fingerprint"] for each in content["tables"]] == [table.fingerprint for table in features.tables]
    assert [entry["table"] for entry in content["features"]["pretrained"]] == [0, 1, 2, 3]
    assert content["features"]["bags"][0]["table"] == 3


def test_tables_of_other_kinds_versions_or_bytes_are_refused(store, tmp_path):
    content = features_to_json(published_spec(store), tmp_path)
    version = store.open("v1")
    user, tastes, item, codes = (version.open(name) for name in ("people", "tastes", "user-components", "item-pq"))
    other_codes = PQTable.from_arrays(codes.ids, codes.codes[::-1].copy(), codes.codebook, entity="item", version="v1")
    other_book = PQTable.from_arrays(codes.ids, codes.codes, codes.codebook * 2, entity="item", version="v1")
    for given in ([user, tastes, item], [user, tastes, item, item]):
        with pytest.raises(VersionError, match=r"code table 'item' of version 'v1' .* what is here is none"):
            features_from_json(content, given, tmp_path)
    for wrong in (other_codes, other_book):
        message = rf"code table 'item' .*\({codes.fingerprint[:8]}\), .*'v1' \({wrong.fingerprint[:8]}\)"
        with pytest.raises(VersionError, match=message):
            features_from_json(content, [user, tastes, item, wrong], tmp_path)
    other_weights = Mixture.from_rows(
        tastes.ids, tastes.component_rows, tastes.weights[:, ::-1] + 0.5, components=item, entity="user"
    )
    with pytest.raises(VersionError, match=rf"mixture 'user' .*\({other_weights.fingerprint[:8]}\)"):
        features_from_json(content, [user, other_weights, item, codes], tmp_path)
    # The same numbers under another version's name
    renamed = EmbeddingTable.from_arrays(user.ids, user.vectors, entity="user", version="v2")
    with pytest.raises(VersionError, match=r"table 'user' of version 'v1' .* what is here is version 'v2'"):
        features_from_json(content, [renamed, tastes, item, codes], tmp_path)
    with pytest.raises(VersionError, match="has no version 'v1'"):
        features_from_json(content, EmbeddingStore(tmp_path / "empty"), tmp_path)


def test_drift_takes_the_table_of_the_same_name_where_networks_have_several(tmp_path):
    """Version v2 has the tables of both networks; tables given by hand, which lie nowhere, have no names."""
    store = EmbeddingStore(tmp_path / "embeddings")
    for number, version in enumerate(("v1", "v2"), 1):
        made = {
            name: EmbeddingTable.from_arrays(
                [1, 2], np.full((2, 3), number * size, np.float32), entity="user", version=version
            )
            for name, size in (("user-follow", 1), ("user-engage", 10))
        }
        store.publish(version, made, networks={name: name.removeprefix("user-") for name in made})
    old, new = store.open("v1"), store.open("v2")
    tables_read = [old.table("user-engage"), old.table("user-follow")]
    features = FeatureSpec(
        pretrained=[Pretrained("user", each, name=f"u{place}") for place, each in enumerate(tables_read)], label="y"
    )
    content = json.loads(json.dumps(features_to_json(features, tmp_path / "ranker")))
    for given in (new, [new.path / "user-follow", new.path / "user-engage"]):
        with pytest.raises(VersionError, match="was trained with table 'user' of version 'v1'"):
            features_from_json(content, given, tmp_path / "ranker")
        taken = features_from_json(content, given, tmp_path / "ranker", allow_drift=True).tables
        assert [table.vectors[0, 0] for table in taken] == [20.0, 2.0]
    nameless = [
        EmbeddingTable.from_arrays(each.ids, each.vectors, entity="user", version="v2") for each in map(new.table, made)
    ]
    with pytest.raises(VersionError, match=r"'v2' \(.*\) and version 'v2'"):
        features_from_json(content, nameless, tmp_path / "ranker", allow_drift=True)


def test_what_is_no_description_is_refused(store, tmp_path):
    content = features_to_json(published_spec(store).fit(frame().assign(age=1.0)), tmp_path)
    for changes in (
        {"features": {}},
        {"features": content["features"] | {"colour": "red"}},
        {"statistics": {"mean": [0.0]}},
        {"tables": content["tables"][:1]},
        {"tables": [content["tables"][0] | {"kind": "cubes"}]},
        {"features": content["features"] | {"pretrained": [{"column": "user", "table": 9}]}},
    ):
        with pytest.raises(FormatError, match="does not describe features"):
            features_from_json(content | changes, None, tmp_path)
    for wrong, message in (({"user": 1}, "tables is a dict"), ([3], "tables holds 3")):
        with pytest.raises(ConfigError, match=message):
            features_from_json(content, wrong, tmp_path)


def test_every_kind_of_feature_of_the_rankers_tests_survives(tmp_path):
    fitted = spec().fit(frame())
    again = through_json(fitted, list(fitted.tables), tmp_path)
    expected, found = fitted.batch(frame(seed=1)), again.batch(frame(seed=1))
    np.testing.assert_array_equal(found.dense, expected.dense)
    assert [repr(feature) for feature in again.pretrained] == [repr(feature) for feature in fitted.pretrained]
    assert repr(again) == repr(fitted)


def test_no_torch_is_needed():
    code = "import sys, recokit.feature_files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
