"""Training rows in Parquet files: which rows a batch holds, in which order, and what of the files is refused."""

from itertools import chain, pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import training_data as data

from recokit.errors import ConfigError, DataError, FormatError
from recokit.features import FeatureSpec
from recokit.rankers import FitConfig, fit
from recokit.rankers.batches import Batches, Place, ahead
from recokit.rankers.rows import FrameRows, open_rows

pytestmark = pytest.mark.usefixtures("one_thread")


# --- which rows, in which order ------------------------------------------------------------------------------------

NUMBERS = FeatureSpec(dense=["number"], label="label")


def numbered(folder, sizes=(70, 30, 55, 1, 44), rows_each=20):
    """Files of rows that are numbered through; returns how many there are."""
    first = 0
    for file, size in enumerate(sizes):
        frame = pd.DataFrame({"number": np.arange(first, first + size, dtype=float), "label": 1, "unread": "x"})
        data.write(frame, folder / f"{file}.parquet", rows_each)
        first += size
    return first


def batches_of(source, *, batch_size=8, shuffle_rows=50, seed=3):
    rows = open_rows(source, ["number", "label"], held=shuffle_rows)
    fitted = NUMBERS.fit(pd.DataFrame({"number": [-1.0, 1.0]}))  # mean 0, deviation 1: numbers stay what they are
    return Batches(rows, fitted, batch_size=batch_size, shuffle_rows=shuffle_rows, seed=seed)


def taken(batches, place):
    return [(after, batch.dense[:, 0].astype(int).tolist()) for after, batch in batches.epoch(place)]


@pytest.mark.parametrize("batch_size", [1, 8, 50])
def test_an_epoch_takes_every_row_once_in_batches_of_one_size(tmp_path, batch_size):
    num_rows = numbered(tmp_path)
    batches = batches_of(tmp_path, batch_size=batch_size)
    epochs = [[numbers for _, numbers in taken(batches, Place(epoch))] for epoch in (1, 2)]
    for epoch in epochs:
        assert sorted(chain(*epoch)) == list(range(num_rows))
        assert len(epoch) == batches.num_batches
        assert {len(numbers) for numbers in epoch[:-1]} == {batch_size}
    assert epochs[0] != epochs[1]


def test_the_order_depends_on_the_seed_alone(tmp_path):
    numbered(tmp_path)
    first, again, other = (taken(batches_of(tmp_path, seed=seed), Place()) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_every_epoch_and_every_seed_has_an_order_of_its_own(tmp_path):
    numbered(tmp_path, sizes=(100,), rows_each=50)  # two blocks, each a buffer
    epochs = [taken(batches_of(tmp_path), Place(epoch)) for epoch in range(1, 7)]
    assert len({tuple(chain(*(numbers for _, numbers in epoch))) for epoch in epochs}) == 6
    firsts = [taken(batches_of(tmp_path, seed=seed), Place())[0][1] for seed in range(8)]
    assert {numbers[0] // 50 for numbers in firsts} == {0, 1}


def test_a_frame_is_shuffled_whole_by_one_generator():
    frame = pd.DataFrame({"number": np.arange(30.0), "label": 1})
    generator = np.random.default_rng(3)
    expected = [generator.permutation(30).tolist() for _ in range(3)]
    batches = batches_of(frame)
    for epoch, order in enumerate(expected, start=1):
        assert list(chain(*(numbers for _, numbers in taken(batches, Place(epoch))))) == order
    assert list(chain(*(numbers for _, numbers in taken(batches_of(frame), Place(3, 0, 2))))) == expected[2][16:]


def test_an_epoch_goes_on_from_every_place_as_if_it_had_not_stopped(tmp_path):
    numbered(tmp_path)
    whole = taken(batches_of(tmp_path), Place(2))
    for done, (after, _) in enumerate(whole, start=1):
        assert taken(batches_of(tmp_path), after) == whole[done:]


def test_a_batch_mixes_row_groups_and_a_buffer_holds_no_more_than_it_should(tmp_path, monkeypatch):
    num_rows = numbered(tmp_path, sizes=(400,), rows_each=10)
    batches = batches_of(tmp_path, batch_size=40, shuffle_rows=100)
    largest, original = [], FeatureSpec.batch
    monkeypatch.setattr(FeatureSpec, "batch", lambda spec, frame: largest.append(len(frame)) or original(spec, frame))
    blocks = [{number // 10 for number in numbers} for _, numbers in taken(batches, Place())]
    assert min(map(len, blocks)) > 5  # of 10 in the buffer
    assert len(set.union(*blocks)) == num_rows / 10
    assert max(largest) < 100 + 40  # the buffer and what the one before left over


def test_without_a_seed_rows_come_as_they_stand(tmp_path):
    num_rows = numbered(tmp_path)
    epoch = taken(batches_of(tmp_path, seed=None), Place(0))
    assert list(chain(*(numbers for _, numbers in epoch))) == list(range(num_rows))


def test_what_is_prepared_ahead_comes_in_order_and_so_do_errors():
    def numbers():
        yield from range(3)
        raise DataError("the file is gone")

    coming = ahead(numbers())
    assert [next(coming), next(coming), next(coming)] == [0, 1, 2]
    with pytest.raises(DataError, match="the file is gone"):
        next(coming)


# --- training ------------------------------------------------------------------------------------------------------


def trained(train, valid, **settings):
    ranker = data.ranker()
    result = fit(ranker, train, valid, FitConfig(**{"epochs": 2, "batch_size": 64, "learning_rate": 1e-2} | settings))
    return ranker, result


def test_files_that_fit_into_the_buffer_give_the_bytes_of_the_frame(tmp_path):
    train, valid = data.rows(700), data.rows(200, seed=1)
    parts = [data.write(part, tmp_path / f"{n}.parquet", 100) for n, part in enumerate((train[:300], train[300:]))]
    held_out = data.write(valid, tmp_path / "valid.pq", 50)
    expected, result = trained(train, valid)
    for source in (parts, [str(path) for path in parts], tmp_path / "[0-9].parquet"):
        ranker, found = trained(source, held_out)
        assert data.weights(ranker) == data.weights(expected)
        assert ranker.features.statistics.mean == expected.features.statistics.mean
        assert [e.valid_log_loss for e in found.history] == [e.valid_log_loss for e in result.history]
        assert found.coverage == result.coverage


def test_files_larger_than_the_buffer_teach_the_same(tmp_path):
    train, valid = data.rows(6000), data.rows(1500, seed=1)
    train.loc[:599, "item"] = 10**6  # one row in ten is unknown
    path, held_out = data.write(train, tmp_path / "t.parquet", 200), data.write(valid, tmp_path / "v.parquet", 100)
    expected, whole = trained(train, valid, epochs=4)
    ranker, result = trained(path, held_out, epochs=4, shuffle_rows=1000)
    assert result.coverage == {"user": 1.0, "item": 0.9}
    start = np.mean([np.log(2)])  # half of the rows are clicked
    assert whole.best.valid_log_loss < start - 0.1
    assert result.best.valid_log_loss == pytest.approx(whole.best.valid_log_loss, abs=0.02)
    values = [v.values.to_pylist() for v in ranker.features.statistics.vocabularies.values()]
    assert values == [v.values.to_pylist() for v in expected.features.statistics.vocabularies.values()]
    np.testing.assert_allclose(ranker.features.statistics.mean, expected.features.statistics.mean, rtol=1e-12)
    np.testing.assert_allclose(ranker.features.statistics.std, expected.features.statistics.std, rtol=1e-12)
    # The same seed gives the same bytes, and the validation loss is that of the frame.
    assert data.weights(trained(path, held_out, epochs=4, shuffle_rows=1000)[0]) == data.weights(ranker)
    in_memory = fit(ranker, train, valid, FitConfig(epochs=1, learning_rate=1e-12))
    assert in_memory.best.valid_log_loss == pytest.approx(result.best.valid_log_loss, rel=1e-6)


def test_only_the_columns_of_the_spec_are_read(tmp_path):
    num_rows = numbered(tmp_path)
    rows = open_rows(tmp_path, ["number", "label"], held=0)
    assert rows.read(range(len(rows.sizes)), 0).columns.tolist() == ["number", "label"]
    assert sum(rows.sizes) == num_rows


def test_integers_booleans_dictionaries_and_nulls_are_read_as_in_a_frame(tmp_path):
    table = pa.table(
        {
            "user": pa.array(["u1", None, "u3"]).dictionary_encode(),
            "item": pa.array([1, 2, None], pa.int32()),
            "age": pa.array([1, 2, 3], pa.int8()),
            "country": pa.array(["at", "be", None]),
            "genres": pa.array([["g1"], None, []]),
            "clicked": pa.array([True, False, True]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    # A second file in which types are wider, and nothing is known of the genres
    wider = table.set_column(1, "item", table["item"].cast(pa.int64())).set_column(4, "genres", pa.nulls(3))
    pq.write_table(wider.set_column(0, "user", table["user"].cast(pa.string())), tmp_path / "b.parquet")
    spec = data.spec()
    frame = open_rows(tmp_path, table.column_names, held=0).read([0, 1], 0)
    batch = spec.fit(frame).batch(frame)
    assert batch.rows["user"].tolist() == [1, -1, 3] * 2
    assert batch.rows["item"].tolist() == [1, 2, -1] * 2
    np.testing.assert_allclose(batch.dense[:, 0], np.array([-1, 0, 1] * 2) / (2 / 3) ** 0.5, rtol=1e-6)
    assert batch.categorical["country"].tolist() == [1, 2, 0] * 2
    assert [part.tolist() for part in batch.bags["genres"]] == [[1], [0, 1, 1, 1, 1, 1, 1]]
    assert batch.labels.ravel().tolist() == [1, 0, 1] * 2


def test_what_cannot_be_read_is_refused_and_the_file_named(tmp_path):
    frame = data.rows(50)
    data.write(frame, tmp_path / "a.parquet", 10)
    data.write(frame.drop(columns="age"), tmp_path / "b.parquet", 10)
    with pytest.raises(DataError, match=r"b\.parquet has no column 'age'.*country"):
        trained(tmp_path, None)
    data.write(frame.assign(item="i1"), tmp_path / "b.parquet", 10)
    with pytest.raises(DataError, match=r"b\.parquet has a column of another type than .*a\.parquet.*item"):
        trained(tmp_path, None)
    (tmp_path / "b.parquet").write_bytes(b"PAR1, or so it says")
    with pytest.raises(FormatError, match=r"b\.parquet is not a readable Parquet file"):
        trained(tmp_path, None)
    frame.to_csv(tmp_path / "c.csv")
    with pytest.raises(ConfigError, match=r"c\.csv is no Parquet file.*read_frame"):
        trained(tmp_path / "c.csv", None)
    with pytest.raises(DataError, match="no file here"):
        trained(tmp_path / "*.pq", None)
    with pytest.raises(ConfigError, match="train is a list, expected a DataFrame or paths"):
        trained([frame], None)
    with pytest.raises(DataError, match="there are no validation rows"):
        trained(frame, data.write(frame.head(0), tmp_path / "empty.pq", 10))
    with pytest.raises(ConfigError, match="shuffle_rows is 10, expected a batch of 64"):
        FitConfig(batch_size=64, shuffle_rows=10)


def test_a_leak_is_seen_in_files_too(tmp_path):
    from recokit.features import Pretrained
    from recokit.overlap import LeakWarning, edge_sketch
    from recokit.rankers import DLRM

    frame = data.rows(400)
    edges = frame.head(100)  # a quarter of the rows, all in the first blocks
    seen = {"relation": "clicks", "source": "user", "target": "item", **edge_sketch(edges["user"], edges["item"])}
    users, items = data.table("user", edge_sketches=[seen]), data.table("item")
    spec = FeatureSpec(pretrained=[Pretrained("user", users), Pretrained("item", items)], label="clicked")
    with pytest.warns(LeakWarning) as told:
        fit(DLRM(spec, dim=2), frame, None, FitConfig(epochs=1))
    path = data.write(frame, tmp_path / "t.parquet", 50)
    with pytest.warns(LeakWarning) as told_of_files:
        fit(DLRM(spec, dim=2), path, None, FitConfig(epochs=1, batch_size=64, shuffle_rows=64))
    assert [str(w.message) for w in told_of_files] == [str(w.message) for w in told]
    assert told_of_files[0].filename == told[0].filename == __file__


# --- what a spec learns, chunk by chunk ----------------------------------------------------------------------------


def test_a_spec_learns_from_many_frames_what_it_learns_from_one():
    random = np.random.default_rng(0)
    frame = data.rows(3000).assign(
        wide=np.exp(random.normal(0, 3, 3000)),
        late=1.7e9 + random.random(3000),
        same=0.1,
        gaps=np.where(np.arange(3000) < 500, np.nan, random.normal(size=3000)),
    )
    dense = ["age", "wide", "late", "same", "gaps"]
    spec = data.spec(dense=dense, categorical={"country": 3, "session": 7, "user": 40}, missing="indicator")
    whole = spec.fit(frame).statistics
    bounds = [0, 1, 100, 100, 450, 2999, 3000]
    parts = spec.fit(frame.iloc[a:b] for a, b in pairwise(bounds)).statistics
    for name, vocabulary in whole.vocabularies.items():
        assert parts.vocabularies[name].values.to_pylist() == vocabulary.values.to_pylist()
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    exact = frame[dense].to_numpy(np.longdouble)
    deviations = np.where(np.array(dense) == "same", 1, np.nanstd(exact, axis=0)).astype(float)
    # That of times around 1.7e9 is known to the digits that doubles have behind the point.
    np.testing.assert_allclose(np.delete(parts.std, 2), np.delete(deviations, 2), rtol=1e-12)
    assert parts.std[2] == pytest.approx(deviations[2], rel=1e-9)
    # One frame in a list is one frame: the bytes of NumPy's own.
    alone = spec.fit([frame]).statistics
    assert (alone.mean, alone.std) == (whole.mean, whole.std)
    assert whole.mean == tuple(np.nanmean(np.ascontiguousarray(frame[dense]), axis=0).tolist())


def test_equally_frequent_values_are_taken_in_their_own_order_whatever_the_frames():
    values = ["b", "a", "c", "a", "c", "b", "d", None]
    frames = [pd.DataFrame({"x": [value]}) for value in values]
    fitted = FeatureSpec(categorical={"x": 3}).fit(frames)
    assert fitted.statistics.vocabularies["x"].values.to_pylist() == ["a", "b", "c"]


def test_frames_that_do_not_go_together_are_refused():
    spec = FeatureSpec(categorical={"x": 3}, dense=["y"], missing="indicator")
    with pytest.raises(DataError, match="column 'x' holds int64 in some rows and large_string in others"):
        spec.fit([pd.DataFrame({"x": [1], "y": 1.0}), pd.DataFrame({"x": ["a"], "y": 1.0})])
    with pytest.raises(DataError, match="'y' is missing in every training row"):
        spec.fit([pd.DataFrame({"x": [1], "y": np.nan})] * 2)
    with pytest.raises(DataError, match="no rows"):
        spec.fit(iter([]))


def test_frames_are_told_apart_by_the_columns_that_matter():
    frame = data.rows(20)
    columns = ["user", "genres", "clicked"]
    own = FrameRows(frame, columns).identity()
    assert FrameRows(frame.copy().assign(other=1), columns).identity() == own
    assert FrameRows(frame.iloc[::-1], columns).identity() != own
    changed = frame.copy()
    changed.at[3, "genres"] = ["g9"]
    assert FrameRows(changed, columns).identity() != own
