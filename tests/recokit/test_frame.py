"""Reading, splitting and checking frames."""

import datetime
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recokit.errors import ConfigError, DataError, FormatError
from recokit.frame import (
    check_candidates,
    check_pairs,
    drop_cold,
    drop_seen,
    read_frame,
    split_by_time,
    split_per_user,
    split_random,
)

FOLLOWS = {"follower_id": ["u1", "u2"], "followee_id": ["u3", "u1"], "ts": [5, 6], "device": ["a", "b"]}
RENAMED = {"source": "follower_id", "target": "followee_id", "time": "ts"}


def interactions(*rows):
    return pd.DataFrame(list(rows), columns=["source", "target", "time"])


def rows_of(frame):
    return [tuple(row) for row in frame.itertuples(index=False)]


class TestReading:
    @pytest.fixture(params=["parquet", "csv", "tsv", "csv.gz", "pandas", "arrow", "folder", "glob"])
    def source(self, request, tmp_path):
        frame = pd.DataFrame(FOLLOWS)
        kind = request.param
        if kind == "pandas":
            return frame.set_index("device", drop=False)
        if kind == "arrow":
            return pa.table(FOLLOWS)
        if kind in ("folder", "glob"):
            for number in (1, 0):  # written in the other order
                pq.write_table(pa.table(FOLLOWS).slice(number, 1), tmp_path / f"part-{number}.parquet")
            (tmp_path / "_SUCCESS").touch()
            return tmp_path if kind == "folder" else str(tmp_path / "part-*.parquet")
        path = tmp_path / f"follows.{kind}"
        if kind == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
        return path

    def test_every_source_gives_the_same_frame(self, source):
        frame = read_frame(source, RENAMED)
        assert list(frame.columns) == ["source", "target", "time"]
        assert rows_of(frame) == [("u1", "u3", 5), ("u2", "u1", 6)]
        assert frame["time"].dtype == np.int64
        assert list(frame.index) == [0, 1]

    def test_all_columns_or_some(self, source):
        assert list(read_frame(source).columns) == list(FOLLOWS)
        assert list(read_frame(source, ["ts"]).columns) == ["ts"]

    def test_a_missing_column_is_named_with_what_is_there(self, source):
        message = (
            r"has no column 'folower_id'; did you mean 'follower_id'\? It has: follower_id, followee_id, ts, device"
        )
        with pytest.raises(DataError, match=message):
            read_frame(source, {"source": "folower_id"})
        with pytest.raises(DataError, match="has no column 'xyz'; known: device, followee_id, follower_id, ts"):
            read_frame(source, ["xyz"])

    def test_optional_columns_may_be_missing(self, source):
        frame = read_frame(source, RENAMED | {"weight": "weight"}, optional=["weight", "time"])
        assert list(frame.columns) == ["source", "target", "time"]

    def test_columns_of_a_relation_by_relative_path(self, tmp_path, monkeypatch):
        (tmp_path / "a").mkdir()
        pd.DataFrame(FOLLOWS).to_csv(tmp_path / "a/x.csv", index=False)
        monkeypatch.chdir(tmp_path)
        assert len(read_frame("a/*.csv", RENAMED)) == 2

    def test_files_of_different_widths_of_integers(self, tmp_path):
        pq.write_table(pa.table({"source": pa.array([1], pa.int32())}), tmp_path / "a.parquet")
        pq.write_table(pa.table({"source": pa.array([2**40])}), tmp_path / "b.parquet")
        assert read_frame(tmp_path)["source"].tolist() == [1, 2**40]

    def test_files_of_different_types_are_refused(self, tmp_path):
        (tmp_path / "a.csv").write_text("source,weight\n1,1\n")
        (tmp_path / "b.csv").write_text("source,weight\nu1,much\n")
        with pytest.raises(DataError, match="the files have columns of different types"):
            read_frame(tmp_path)
        assert read_frame(tmp_path, ["source"])["source"].tolist() == ["1", "u1"]

    @pytest.mark.parametrize(
        ("names", "error", "message"),
        [
            ([], DataError, "no file here ends in .parquet, .pq, .csv, .tsv"),
            (["a.csv", "b.parquet"], DataError, "Parquet and text files, expected one format"),
            (["a.parquet"], FormatError, "a.parquet cannot be read"),
        ],
    )
    def test_folders_that_cannot_be_read(self, names, error, message, tmp_path):
        for name in names:
            (tmp_path / name).write_text("source\n1\n")
        with pytest.raises(error, match=message):
            read_frame(tmp_path)

    def test_files_that_cannot_be_read(self, tmp_path):
        (tmp_path / "a.xlsx").touch()
        with pytest.raises(FormatError, match="the name says no format"):
            read_frame(tmp_path / "a.xlsx")
        with pytest.raises(DataError, match=r"nothing.csv does not exist"):
            read_frame(tmp_path / "nothing.csv")
        (tmp_path / "a.csv").write_text("source,target\n1,2\n3\n")
        with pytest.raises(FormatError, match=r"a.csv: CSV parse error: Row #3: Expected 2 columns, got 1"):
            read_frame(tmp_path / "a.csv")

    def test_settings_that_contradict_each_other(self):
        with pytest.raises(
            ConfigError, match="optional names 'wieght', which is not among columns; did you mean 'weig"
        ):
            read_frame(pa.table(FOLLOWS), {"weight": "ts"}, optional=["wieght"])
        with pytest.raises(ConfigError, match="columns reads 'ts' as 'time' and as something else"):
            read_frame(pa.table(FOLLOWS), {"time": "ts", "again": "ts"})


class TestIds:
    @pytest.mark.parametrize(
        "values",
        [
            np.array([1, 2], np.int32),
            pd.array([1, 2], dtype="Int64"),
            pd.Categorical([1, 2]),
            np.array([1, 2], object),
        ],
    )
    def test_integers_become_int64(self, values):
        frame = read_frame(pd.DataFrame({"source": values}))
        assert frame["source"].dtype == np.int64
        assert frame["source"].tolist() == [1, 2]

    @pytest.mark.parametrize("values", [["a", "7"], pd.Categorical(["a", "7"]), np.array(["a", "7"], object)])
    def test_strings_stay_strings(self, values):
        assert read_frame(pd.DataFrame({"source": values}))["source"].tolist() == ["a", "7"]

    def test_an_empty_cell_does_not_turn_ids_into_floats(self, tmp_path):
        (tmp_path / "a.csv").write_text("source,target\n1,2\n3,\n4,\n")
        message = "column 'target': 2 of 3 are null, the first in row 1"
        for source in (tmp_path / "a.csv", pd.read_csv(tmp_path / "a.csv"), pa.table({"target": [2, None, None]})):
            with pytest.raises(DataError, match=message):
                read_frame(source)
        with pytest.raises(
            DataError, match="column 'target': got double, expected integers or strings; missing values"
        ):
            read_frame(pd.DataFrame({"target": [2.0, 3.0]}))

    def test_only_an_empty_cell_is_missing(self, tmp_path):
        (tmp_path / "a.csv").write_text("source,target\nNA,null\nnan,None\n")
        assert rows_of(read_frame(tmp_path / "a.csv")) == [("NA", "null"), ("nan", "None")]

    def test_text_ids_are_integers_where_all_are_written_as_such(self, tmp_path):
        for texts, expected in (
            (["7", "-12", "0"], [7, -12, 0]),
            (["007", "7"], ["007", "7"]),
            (["-0", "0"], ["-0", "0"]),
            (["0x1F", "31"], ["0x1F", "31"]),
            ([str(2**63 - 1), "1"], [2**63 - 1, 1]),
        ):
            (tmp_path / "a.csv").write_text("\n".join(["source", *texts]) + "\n")
            assert read_frame(tmp_path / "a.csv")["source"].tolist() == expected
        (tmp_path / "a.csv").write_text("source\n7\n1\n")
        (tmp_path / "b.csv").write_text("source\n007\n")
        assert read_frame(tmp_path)["source"].tolist() == ["7", "1", "007"]
        (tmp_path / "a.csv").write_text("source\n7.0\n1.0\n")
        with pytest.raises(DataError, match="column 'source': got double, expected integers or strings"):
            read_frame(tmp_path / "a.csv")

    def test_a_column_read_under_another_name_is_no_id(self, tmp_path):
        (tmp_path / "a.csv").write_text("source,x\n05,a\n")
        frame = read_frame(tmp_path / "a.csv", {"source": "x", "time": "source"})
        assert frame.to_dict("records") == [{"source": "a", "time": 5}]

    def test_zeros_in_front_are_kept(self, tmp_path):
        (tmp_path / "a.csv").write_text("user,item\n007,8\n")
        columns = {"source": "user", "target": "item"}
        assert rows_of(read_frame(tmp_path / "a.csv", columns)) == [("007", 8)]
        assert rows_of(read_frame(tmp_path / "a.csv", columns, id_type="int64")) == [(7, 8)]
        assert rows_of(read_frame(tmp_path / "a.csv", columns, id_type="string")) == [("007", "8")]
        assert rows_of(read_frame(tmp_path / "a.csv", columns, ids=["source"], id_type="string")) == [("007", 8)]

    def test_an_id_type_that_ids_cannot_have(self):
        with pytest.raises(DataError, match="column 'source': ids are not int64"):
            read_frame(pd.DataFrame({"source": ["a"]}), id_type="int64")

    def test_columns_that_are_not_ids_are_left_alone(self):
        frame = read_frame(pd.DataFrame({"source": [1, 2], "weight": [0.5, None]}))
        assert frame["weight"].isna().tolist() == [False, True]


class TestSplitByTime:
    def test_at_is_the_first_of_the_held_out(self):
        known, held_out = split_by_time(interactions(("a", "x", 3), ("b", "y", 1), ("a", "z", 2)), at=2)
        assert rows_of(known) == [("b", "y", 1)]
        assert rows_of(held_out) == [("a", "x", 3), ("a", "z", 2)]
        assert list(held_out.index) == [0, 2]

    @pytest.mark.parametrize("at", ["2026-05-25", datetime.datetime(2026, 5, 25), pd.Timestamp("2026-05-25")])
    @pytest.mark.parametrize("zone", [None, "UTC", datetime.timezone(datetime.timedelta(hours=2))])
    def test_dates_are_those_of_the_columns_zone(self, at, zone):
        times = pd.to_datetime(["2026-05-24 23:59", "2026-05-25 00:00"]).tz_localize(zone)
        known, held_out = split_by_time(pd.DataFrame({"n": [1, 2], "ts": times}), at=at, time="ts")
        assert (known["n"].tolist(), held_out["n"].tolist()) == ([1], [2])

    @pytest.mark.parametrize(
        ("times", "at", "message"),
        [
            ([1, 2], "2026-05-25", "holds numbers .* give a number of their unit"),
            (pd.to_datetime(["2026-05-25"]), 5, "holds times, at is the number 5"),
            (pd.to_datetime(["2026-05-25"]), "soon", "at is 'soon', expected a date or time"),
            (pd.to_datetime(["2026-05-25"]), "2026-05-25T00:00Z", "with a time zone, but column 'time' has none"),
            (["2026-05-25"], "2026-05-25", "expected numbers or times"),
            ([1, None, None], 2, "column 'time': 2 of 3 are null, the first in row 1"),
        ],
    )
    def test_times_that_cannot_be_compared_are_refused(self, times, at, message):
        with pytest.raises(DataError, match=message):
            split_by_time(pd.DataFrame({"time": times}), at=at)

    def test_a_missing_column(self):
        with pytest.raises(DataError, match="the frame has no column 'time'; did you mean 'times'"):
            split_by_time(pd.DataFrame({"times": [1]}), at=1)


class TestKindsOfTimes:
    @pytest.mark.parametrize("dtype", ["int64", "Int64", "float64", "Float64", "int64[pyarrow]"])
    def test_numbers_of_every_kind(self, dtype):
        frame = pd.DataFrame({"source": ["a", "a", "a"], "time": pd.Series([3, 1, 2], dtype=dtype)})
        known, held_out = split_by_time(frame, at=np.int64(2))
        assert (known.index.tolist(), held_out.index.tolist()) == ([1], [0, 2])
        assert split_per_user(frame, 0.4)[1].index.tolist() == [0]

    @pytest.mark.parametrize("kind", [pa.date32(), pa.date64(), pa.timestamp("us")])
    def test_dates_of_arrow(self, kind):
        days = pa.array([datetime.date(2026, 6, day) for day in (3, 1, 2)]).cast(kind)
        frame = pd.DataFrame({"source": ["a", "a", "a"], "time": pd.Series(days, dtype=pd.ArrowDtype(kind))})
        known, held_out = split_by_time(frame, at="2026-06-02")
        assert (known.index.tolist(), held_out.index.tolist()) == ([1], [0, 2])
        assert split_per_user(frame, 0.4)[1].index.tolist() == [0]

    def test_python_dates_are_refused(self):
        with pytest.raises(DataError, match="column 'time' is object, expected numbers or times"):
            split_by_time(pd.DataFrame({"time": [datetime.date(2026, 6, 1)]}), at="2026-06-01")

    @pytest.mark.parametrize("at", [15, np.int64(15), np.float32(1.5), np.timedelta64(1, "s"), True])
    def test_a_number_is_no_time(self, at):
        with pytest.raises(DataError, match="column 'time' holds times, at is the number"):
            split_by_time(pd.DataFrame({"time": pd.to_datetime(["2026-06-01"])}), at=at)

    @pytest.mark.parametrize("at", ["", "NaT", pd.NaT, None, np.datetime64("NaT")])
    def test_no_time_at_all(self, at):
        with pytest.raises(DataError, match="expected a date or time"):
            split_by_time(pd.DataFrame({"time": pd.to_datetime(["2026-06-01"])}), at=at)

    @pytest.mark.parametrize("at", [math.nan, np.float64("nan")])
    def test_not_a_number(self, at):
        with pytest.raises(DataError, match="expected a number of the unit of column 'time'"):
            split_by_time(pd.DataFrame({"time": [1, 2]}), at=at)
        with pytest.raises(DataError, match="holds times"):
            split_by_time(pd.DataFrame({"time": pd.to_datetime(["2026-06-01"])}), at=at)

    @pytest.mark.parametrize("at", ["2026-03-29 02:30", "2026-10-25 02:30"])
    def test_hours_that_the_clock_skips_or_repeats(self, at):
        times = pd.to_datetime(["2026-03-29 00:00Z", "2026-10-26 00:00Z"]).tz_convert("Europe/Berlin")
        frame = pd.DataFrame({"time": times})
        with pytest.raises(DataError, match="the clocks of Europe/Berlin show twice or never"):
            split_by_time(frame, at=at)
        known, held_out = split_by_time(frame, at=at + "+02:00")
        assert (len(known), len(held_out)) == (1, 1)


class TestSplitPerUser:
    def test_the_last_fifth_of_each_user_by_hand(self):
        rows = [("a", n, t) for n, t in enumerate([9, 1, 8, 2, 7])] + [("b", n, 0) for n in range(10)] + [("c", 0, 5)]
        known, held_out = split_per_user(interactions(*rows))
        # floor(5 / 5) = 1 of a, its latest; floor(10 / 5) = 2 of b, the last rows of equal times; floor(1 / 5) = 0 of c
        assert rows_of(held_out) == [("a", 0, 9), ("b", 8, 0), ("b", 9, 0)]
        assert len(known) == 16 - 3

    @given(
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=30),
        st.sampled_from([0.0, 0.1, 0.2, 0.29, 0.5, 1.0]),
    )
    @settings(deadline=None)
    def test_agrees_with_a_loop_over_users(self, rows, fraction):
        frame = interactions(*[(user, number, time) for number, (user, time) in enumerate(rows)])
        frame = frame.astype({"time": "int64"})
        expected = []
        for user in "abc":
            own = sorted((time, number) for number, (name, time) in enumerate(rows) if name == user)
            expected += [number for _, number in own[len(own) - math.floor(round(len(own) * fraction, 9)) :]]
        known, held_out = split_per_user(frame, fraction)
        assert held_out["target"].tolist() == sorted(expected)
        assert sorted([*known["target"], *held_out["target"]]) == list(range(len(rows)))

    def test_other_columns_and_times(self):
        frame = pd.DataFrame({"user_id": [1, 1], "day": pd.to_datetime(["2026-02-01", "2026-01-01"]), "n": [1, 2]})
        known, held_out = split_per_user(frame, 0.5, by="day", user="user_id")
        assert (known["n"].tolist(), held_out["n"].tolist()) == ([2], [1])

    def test_29_hundredths_of_a_hundred_are_29(self):
        assert math.floor(100 * 0.29) == 28  # what plain floats say
        frame = interactions(*[("a", n, n) for n in range(100)])
        assert len(split_per_user(frame, 0.29)[1]) == 29

    def test_a_user_that_is_null_is_refused(self):
        with pytest.raises(DataError, match="column 'source': 1 of 2 are null, the first in row 1"):
            split_per_user(interactions(("a", 1, 1), (None, 1, 1)))
        with pytest.raises(ConfigError, match="fraction is 20, expected 0 to 1"):
            split_per_user(interactions(("a", 1, 1)), 20)


class TestSplitRandom:
    FRAME = interactions(*[(f"u{n % 7}", n, n) for n in range(50)])

    def test_the_fraction_of_rows(self):
        known, held_out = split_random(self.FRAME, 0.3, seed=0)
        assert len(held_out) == 15
        assert sorted([*known["target"], *held_out["target"]]) == list(range(50))
        assert held_out["target"].is_monotonic_increasing  # the order of the frame

    def test_of_a_unit_all_rows_go_together(self):
        known, held_out = split_random(self.FRAME, 0.5, seed=0, unit="source")
        assert held_out["source"].nunique() == 3  # floor(7 / 2)
        assert not set(known["source"]) & set(held_out["source"])
        assert len(known) + len(held_out) == 50

    def test_the_seed_decides(self):
        one, same, other = (split_random(self.FRAME, 0.3, seed=seed)[1]["target"].tolist() for seed in (1, 1, 2))
        assert one == same
        assert one != other

    def test_nothing_and_everything(self):
        assert [len(part) for part in split_random(self.FRAME, 0.0, seed=0)] == [50, 0]
        assert [len(part) for part in split_random(self.FRAME, 1.0, seed=0, unit="source")] == [0, 50]
        assert [len(part) for part in split_random(self.FRAME[:0], 0.5, seed=0)] == [0, 0]


class TestFilters:
    KNOWN = interactions(("a", "x", 0), ("b", "y", 0))

    def test_pairs_that_are_known_are_dropped_and_counted(self):
        held_out = interactions(("a", "x", 1), ("a", "y", 1), ("b", "x", 1), ("b", "y", 1), ("c", "z", 1))
        frame, num_dropped = drop_seen(held_out, self.KNOWN)
        assert [row[:2] for row in rows_of(frame)] == [("a", "y"), ("b", "x"), ("c", "z")]
        assert num_dropped == 2
        assert drop_seen(held_out, self.KNOWN, on=["source"]).num_dropped == 4
        assert drop_seen(held_out, self.KNOWN[:0]).num_dropped == 0

    @given(*[st.lists(st.tuples(*[st.integers(-2, 2)] * 3), max_size=20)] * 2)
    def test_agrees_with_a_set_of_tuples(self, held_out, known):
        frames = [pd.DataFrame(rows, columns=list("abc"), dtype="int64") for rows in (held_out, known)]
        assert rows_of(drop_seen(*frames, on=list("abc")).frame) == [row for row in held_out if row not in known]

    def test_rows_with_an_unknown_entity_are_dropped_and_counted(self):
        held_out = interactions(("a", "y", 1), ("c", "x", 1), ("a", "z", 1), ("x", "a", 1))
        assert rows_of(drop_cold(held_out, self.KNOWN).frame) == [("a", "y", 1)]
        assert drop_cold(held_out, self.KNOWN).num_dropped == 3
        assert drop_cold(held_out, self.KNOWN, columns=["target"]).num_dropped == 2
        both = ["source", "target"]
        assert rows_of(drop_cold(held_out, self.KNOWN, columns={"source": both, "target": both}).frame) == [
            ("a", "y", 1),
            ("x", "a", 1),
        ]

    def test_ids_of_different_types_are_refused(self):
        integers = interactions((1, 2, 0))
        with pytest.raises(DataError, match="column 'source': held-out ids are int64, known ones string"):
            drop_seen(integers, self.KNOWN)
        with pytest.raises(DataError, match="column 'source': held-out ids are string, known ones int64"):
            drop_cold(self.KNOWN, integers)


class TestConventions:
    GOOD = pd.DataFrame(
        {"query": ["a", "a", "b"], "candidate": [1, 2, 1], "score": [0.5, 0.1, -1.0], "rank": [1, 2, 1], "component": 0}
    )

    def test_candidates_pass_as_they_are(self):
        pd.testing.assert_frame_equal(check_candidates(self.GOOD), self.GOOD)
        assert len(check_candidates(self.GOOD[:0])) == 0

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"rank": [0, 1, 1]},
                r"1 of 3 rows have a rank that is not among 1 to .* the first is row 0: {'query': 'a'",
            ),
            ({"rank": [1, 3, 1]}, r"row 1: {'query': 'a', 'candidate': 2, 'score': 0.1, 'rank': 3}"),
            ({"rank": [1, 1, 1]}, "1 of 3 rows have a rank that its query has already, the first is row 1"),
            ({"rank": [1.0, 2.0, 1.0]}, "rank float64, expected numbers and integers"),
            ({"score": [0.5, np.nan, np.nan]}, "2 of 3 rows have a score that is NaN, the first is row 1"),
            ({"score": ["x", "y", "z"]}, "candidates: score is"),
            ({"candidate": [1, 1, 1]}, "1 of 3 rows have a candidate that its query has already"),
            ({"candidate": [1.0, 2.0, 1.0]}, "column 'candidate': got double"),
            ({"query": ["a", None, "b"]}, "column 'query': 1 of 3 are null, the first in row 1"),
        ],
    )
    def test_candidates_that_are_none(self, change, message):
        with pytest.raises(DataError, match=message):
            check_candidates(self.GOOD.assign(**change))

    def test_missing_columns(self):
        with pytest.raises(DataError, match="has no column 'rank'; known: candidate, component, query, score"):
            check_candidates(self.GOOD.drop(columns="rank"))
        with pytest.raises(DataError, match="has no column 'candidate'; did you mean 'candidates'"):
            check_pairs(pd.DataFrame({"query": [1], "candidates": [2]}))

    def test_pairs(self):
        pairs = pd.DataFrame({"query": pd.array([1, 2], dtype="Int32"), "candidate": pd.Categorical(["x", "y"])})
        checked = check_pairs(pairs.set_index(pd.Index([8, 9])))
        assert rows_of(checked) == [(1, "x"), (2, "y")]
        assert checked["query"].dtype == np.int64
        assert list(checked.index) == [8, 9]
