"""How often entities occur in the edges of a training, whatever a table's order and kind."""

import numpy as np
import pytest

from recokit import EmbeddingTable, Mixture, write_version
from recokit.table import degrees_of

COUNTS = np.array([3, 0, 9], np.int32)


def table(version, ids=(10, 20, 30), entity="user"):
    return EmbeddingTable.from_arrays(ids, np.ones((len(ids), 2), np.float32), entity=entity, version=version)


def test_a_trained_table_has_the_counts_of_its_state(tmp_path):
    version = write_version(tmp_path / "v", {"user": table("v")}, state={"degrees-user": COUNTS})
    found = degrees_of(version, "user")
    assert (found.tolist(), found.dtype) == ([3, 0, 9], np.int64)


def test_other_tables_of_the_entity_are_matched_by_id_and_who_was_not_trained_has_none(tmp_path):
    parts = np.ones((3, 1, 2), np.float32)
    mixed = Mixture.from_components([30, 99, 10], parts, np.ones((3, 1), np.float32), entity="user", version="v")
    tables = {"user": table("v"), "mixed-components": mixed.components, "mixed": mixed}
    version = write_version(tmp_path / "v", tables, state={"degrees-user": COUNTS})
    assert degrees_of(version, "mixed").tolist() == [9, 0, 3]  # in the mixture's order, which is as long as the table


@pytest.mark.parametrize(
    ("ids", "state"),
    [((10, 20, 30), None), ((10, 20), COUNTS), (("10", "20", "30"), np.ones((3, 1), np.int64))],
    ids=["no state", "another length", "another shape"],
)
def test_what_does_not_fit_is_none(tmp_path, ids, state):
    kept = None if state is None else {"degrees-user": state}
    assert degrees_of(write_version(tmp_path / "v", {"user": table("v", ids)}, state=kept), "user") is None


def test_ids_of_which_none_was_trained_have_no_degrees(tmp_path):
    for number, ids in enumerate(((1, 2, 3), ("10", "20", "30"))):
        tables = {"user": table(f"v{number}"), "other": table(f"v{number}", ids)}
        version = write_version(tmp_path / f"v{number}", tables, state={"degrees-user": COUNTS})
        assert degrees_of(version, "other") is None
