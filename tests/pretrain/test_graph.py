"""Building graphs: the same edges give the same graph from frames, files and mixed files; what is wrong is refused."""

import time as clock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretrain import Graph, Relation
from recokit.errors import ConfigError, DataError

RELATIONS = [Relation("follows", source="user", target="user"), Relation("clicks", source="user", target="ad")]
# carol only follows, dave only clicks; (ann, x) comes twice; ids of ads are integers
FOLLOWS = pd.DataFrame({"source": ["bob", "ann", "carol"], "target": ["ann", "bob", "ann"]})
CLICKS = pd.DataFrame(
    {
        "source": ["ann", "dave", "ann", "bob"],
        "target": [7, -1, 7, 2**63 - 1],
        "weight": [1.0, 0.5, 2.0, 0.0],
        "time": pd.to_datetime(["2026-01-03", "2026-01-01", "2026-01-02", "2026-01-01"]),
    }
)
DAY = 86_400_000_000
NEW_YEAR = 1_767_225_600_000_000  # microseconds from 1970 to 2026


def edges_of(graph, relation):
    """The edges as ids, with weights and times, in the graph's order."""
    frame, edges = graph.pairs(relation), graph.edges[relation]
    columns = [frame["query"].tolist(), frame["candidate"].tolist()]
    columns += [part.tolist() for part in (edges.weights, edges.times) if part is not None]
    return list(zip(*columns, strict=True))


def one_relation(source, target, **columns):
    frame = pd.DataFrame({"source": source, "target": target, **columns})
    return Graph.from_frames({"r": frame}, [Relation("r", "a", "b")])


def check_the_graph(graph):
    assert {name: ids.to_pylist() for name, ids in graph.entities.items()} == {
        "user": ["ann", "bob", "carol", "dave"],
        "ad": [-1, 7, 2**63 - 1],
    }
    assert edges_of(graph, "follows") == [("bob", "ann"), ("ann", "bob"), ("carol", "ann")]
    assert edges_of(graph, "clicks") == [
        ("ann", 7, 1.0, NEW_YEAR + 2 * DAY),
        ("dave", -1, 0.5, NEW_YEAR),
        ("ann", 7, 2.0, NEW_YEAR + DAY),  # duplicates stay
        ("bob", 2**63 - 1, 0.0, NEW_YEAR),
    ]
    assert graph.edges["clicks"].sources.tolist() == [0, 3, 0, 1]
    assert graph.edges["clicks"].targets.tolist() == [1, 0, 1, 2]
    assert graph.edges["follows"].weights is None
    assert graph.degrees("user").tolist() == [1 + 2 + 2, 2 + 1, 1, 1]
    assert graph.degrees("ad").tolist() == [1, 2, 1]
    assert graph.num_entities("ad") == 3


def test_from_frames():
    graph = Graph.from_frames({"follows": FOLLOWS, "clicks": CLICKS}, RELATIONS)
    check_the_graph(graph)
    assert repr(graph) == "Graph(entities: 4 user, 3 ad; edges: 3 follows, 4 clicks)"
    assert graph.history == ({"sources": {"follows": "frame", "clicks": "frame"}},)


def test_from_arrow_tables_and_categories():
    follows = FOLLOWS.astype("category")
    check_the_graph(Graph.from_frames({"follows": pa.Table.from_pandas(follows), "clicks": CLICKS}, RELATIONS))


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv"])
def test_from_files(tmp_path, kind):
    paths = {name: tmp_path / f"{name}.{kind}" for name in ("follows", "clicks")}
    for path, frame in zip(paths.values(), (FOLLOWS, CLICKS), strict=True):
        if kind == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
    graph = Graph.from_files(paths, RELATIONS)
    check_the_graph(graph)
    assert graph.history[0]["sources"] == {name: str(path) for name, path in paths.items()}


def test_from_a_glob_of_files(tmp_path):
    for number in range(4):
        CLICKS[number : number + 1].to_parquet(tmp_path / f"part-{number}.parquet")
    FOLLOWS.to_parquet(tmp_path / "follows.parquet")
    files = {"follows": tmp_path / "follows.parquet", "clicks": str(tmp_path / "part-*.parquet")}
    check_the_graph(Graph.from_files(files, RELATIONS))


def test_from_parquet_with_a_relation_in_every_row(tmp_path):
    text = CLICKS.astype({"target": str})
    mixed = pd.concat([text.assign(kind="clicks"), FOLLOWS.assign(kind="follows", weight=3.0, time=CLICKS["time"][0])])
    mixed.sample(frac=1.0, random_state=0).rename(columns={"source": "from"}).to_parquet(tmp_path / "edges.parquet")
    columns = {"relation": "kind", "source": "from"}
    graph = Graph.from_parquet(tmp_path / "edges.parquet", RELATIONS, columns=columns)
    expected = Graph.from_frames({"follows": FOLLOWS, "clicks": text}, RELATIONS)
    for name in ("user", "ad"):
        assert graph.entities[name].equals(expected.entities[name])
    assert sorted(edges_of(graph, "clicks")) == sorted(edges_of(expected, "clicks"))
    assert sorted(edge[:2] for edge in edges_of(graph, "follows")) == sorted(edges_of(expected, "follows"))
    assert graph.edges["follows"].weights.tolist() == [3.0] * 3


def test_columns_can_have_other_names():
    renamed = CLICKS.rename(columns={"source": "who", "target": "what", "weight": "how much", "time": 'the "when"'})
    columns = {"source": "who", "target": "what", "weight": "how much", "time": 'the "when"'}
    graph = Graph.from_frames({"follows": FOLLOWS, "clicks": renamed}, RELATIONS, columns={"clicks": columns})
    check_the_graph(graph)


def test_rows_do_not_depend_on_the_order_of_the_input():
    shuffled = {"clicks": CLICKS[::-1], "follows": FOLLOWS.sample(frac=1.0, random_state=1)}
    graph = Graph.from_frames({"follows": FOLLOWS, "clicks": CLICKS}, RELATIONS)
    again = Graph.from_frames(shuffled, RELATIONS[::-1])
    for entity, ids in graph.entities.items():
        assert again.entities[entity].equals(ids)
    assert edges_of(again, "clicks") == edges_of(graph, "clicks")[::-1]


def test_ids_of_every_integer_type_and_sign_sort_as_numbers():
    graph = one_relation(np.array([200, 3], np.uint8), [2**63 - 1, -(2**63)])
    assert graph.entities["a"].equals(pa.array([3, 200], pa.int64()))
    assert graph.entities["b"].equals(pa.array([-(2**63), 2**63 - 1], pa.int64()))


def test_strings_are_kept_as_they_are_and_sort_by_their_bytes():
    strings = ["01", "1", "", "Z", "a", "é", "日本", "a b", "a\0b", 'q"']
    graph = one_relation(strings, range(10))
    assert graph.entities["a"].to_pylist() == sorted(strings, key=str.encode)
    assert graph.pairs("r")["query"].tolist() == strings


def test_codes_with_leading_zeros_stay_strings_in_csv(tmp_path):
    (tmp_path / "r.csv").write_text("source,target\n007,1\n012,2\n")
    graph = Graph.from_files({"r": tmp_path / "r.csv"}, [Relation("r", "a", "b")])
    assert graph.entities["a"].to_pylist() == ["007", "012"]


def test_min_count_is_counted_once_over_all_relations():
    relations = [Relation("r", "a", "b"), Relation("s", "a", "a")]
    r = pd.DataFrame({"source": [1, 1, 2, 3, 3], "target": [10, 11, 10, 10, 12]})
    s = pd.DataFrame({"source": [1, 2, 1], "target": [1, 1, 4]})
    # occurrences of a: 1 has 2 + 2 (a loop counts at both ends) + 1 + 1, 2 has 1 + 1, 3 has 2, 4 has 1; of b: 10 has 3
    graph = Graph.from_frames({"r": r, "s": s}, relations, min_count={"a": 2, "b": 2})
    assert graph.entities["a"].to_pylist() == [1, 2, 3]
    assert graph.entities["b"].to_pylist() == [10]
    assert edges_of(graph, "r") == [(1, 10), (2, 10), (3, 10)]
    assert edges_of(graph, "s") == [(1, 1), (2, 1)]
    assert graph.summary.rows == (
        {"relation": "r", "read": 5, "null": 0, "below_min_count": 2, "edges": 3},
        {"relation": "s", "read": 3, "null": 0, "below_min_count": 1, "edges": 2},
    )
    assert graph.summary.to_frame()["edges"].tolist() == [3, 2]


def test_entities_that_lost_all_their_edges_go_and_rows_close_up():
    # b 20 and 21 are rare; a 1 and 3 occur often enough, but only together with them
    frame = pd.DataFrame({"source": [1, 1, 2, 2, 3, 4], "target": [20, 21, 30, 30, 22, 30]})
    graph = Graph.from_frames({"r": frame}, [Relation("r", "a", "b")], min_count={"b": 2})
    assert graph.entities["a"].to_pylist() == [2, 4]
    assert graph.entities["b"].to_pylist() == [30]
    assert graph.edges["r"].sources.tolist() == [0, 0, 1]
    assert graph.edges["r"].targets.tolist() == [0, 0, 0]
    assert graph.degrees("a").tolist() == [2, 1]


def test_edges_without_an_end_are_counted_and_dropped():
    source, target = pd.array([1, None, 3, None], "Int64"), ["x", "y", None, None]
    graph = one_relation(source, target, weight=[1.0, 2.0, 3.0, 4.0])
    assert edges_of(graph, "r") == [(1, "x", 1.0)]
    assert graph.entities["b"].to_pylist() == ["x"]  # y occurs in no edge
    assert graph.summary.rows == ({"relation": "r", "read": 4, "null": 3, "below_min_count": 0, "edges": 1},)


def test_edges_without_an_end_do_not_count_for_min_count():
    frame = pd.DataFrame({"source": [1, 1, 2, 2], "target": ["x", None, "x", "y"]})
    graph = Graph.from_frames({"r": frame}, [Relation("r", "a", "b")], min_count={"a": 2})
    assert graph.entities["a"].to_pylist() == [2]


@pytest.fixture
def new_york(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    clock.tzset()
    yield
    monkeypatch.undo()
    clock.tzset()


@pytest.mark.usefixtures("new_york")
@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pd.to_datetime(["2026-01-01 00:00:00.000001"]), NEW_YEAR + 1),
        (pd.to_datetime(["2026-01-01 02:00:00+02:00"]), NEW_YEAR),  # an instant, wherever this runs
        (pd.to_datetime(["2026-01-01"]).tz_localize("Asia/Tokyo"), NEW_YEAR - 9 * 3600 * 10**6),
        (pd.to_datetime(["2026-01-01"]).astype("datetime64[s]"), NEW_YEAR),
        (pd.to_datetime(["2026-01-01"]).astype("datetime64[ns]"), NEW_YEAR),
        (pd.to_datetime(["2026-01-01"]).date, NEW_YEAR),
        (np.array([12], np.int32), 12),
        (np.array([881250949.0]), 881250949),
    ],
    ids=["micro", "offset", "zone", "seconds", "nano", "DATE", "int32", "float"],
)
def test_times_are_microseconds_or_the_columns_integers(times, expected):
    assert one_relation([1], [2], time=times).edges["r"].times.tolist() == [expected]


@pytest.mark.parametrize("bad", [-0.5, np.nan, np.inf, 1e39])
def test_weights_that_training_cannot_use_are_refused(tmp_path, bad):
    frame = pd.DataFrame({"source": [1, 2, 3], "target": [1, 2, 3], "weight": [1.0, bad, bad]})
    message = "relation 'r': 2 weights are negative, missing or not finite"
    with pytest.raises(DataError, match=message):
        one_relation(**frame)
    pq.write_table(pa.table(dict(frame)), tmp_path / "r.parquet")  # NaN stays NaN here, and is in no minimum or maximum
    with pytest.raises(DataError, match=message):
        Graph.from_files({"r": tmp_path / "r.parquet"}, [Relation("r", "a", "b")])


def test_missing_weights_and_times_are_refused():
    with pytest.raises(DataError, match="relation 'r': 1 weights are negative, missing or not finite"):
        one_relation([1, 2], [1, 2], weight=pd.array([1, None], "Int64"))
    with pytest.raises(DataError, match="relation 'r': 1 rows have no time"):
        one_relation([1, 2], [1, 2], time=pd.to_datetime(["2026-01-01", None]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sourc": [1], "target": [2]}, "its frame.: no column 'source' for the source; it has: sourc, target"),
        ({"source": [1.0, np.nan], "target": [1, 2]}, "'source' is DOUBLE; ids must be .*; missing values turn"),
        ({"source": [1], "target": [True]}, "the target column 'target' is BOOLEAN; ids must be integers or strings"),
        ({"source": [1], "target": [b"x"]}, "the target column 'target' is BLOB"),
        ({"source": [1, "x"], "target": [1, 2]}, "the source column 'source': .* position 1 holds 'x' .str."),
        ({"source": np.array([2**63], np.uint64), "target": [1]}, "column 'source' holds 9223372036854775808; .*"),
        ({"source": [1], "target": [1], "weight": ["much"]}, "relation 'r' .its frame. cannot be read: .*'much'"),
        ({"source": [1], "target": [1], "time": ["today"]}, "the time column 'time' is VARCHAR; expected timestamps"),
        ({"source": [1], "target": [1], "time": [np.inf]}, "relation 'r': 1 rows have no time"),
        ({"source": np.array([], int), "target": np.array([], int)}, "relation 'r' has no edges: 0 read"),
    ],
)  # fmt: skip
def test_frames_that_hold_something_else_are_refused(columns, message):
    with pytest.raises(DataError, match=message):
        Graph.from_frames({"r": pd.DataFrame(columns)}, [Relation("r", "a", "b")])


def test_ids_of_a_type_are_all_integers_or_all_strings():
    relations = [Relation("r", "a", "b"), Relation("s", "b", "c")]
    r = pd.DataFrame({"source": [1], "target": [1]})
    s = pd.DataFrame({"source": ["1"], "target": [1]})
    message = "'b' must be all integers or all strings, got integers as target of 'r', strings as source of 's'"
    with pytest.raises(DataError, match=message):
        Graph.from_frames({"r": r, "s": s}, relations)


def test_a_relation_whose_edges_are_all_below_min_count_is_refused():
    frame = pd.DataFrame({"source": [1, 2], "target": [3, None]})
    message = "relation 'r' has no edges: 2 read, 1 without an end, 1 below min_count"
    with pytest.raises(DataError, match=message):
        Graph.from_frames({"r": frame.astype("Int64")}, [Relation("r", "a", "b")], min_count={"a": 2})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_count": {"usr": 2}}, "min_count names the entity type 'usr'; did you mean 'user'"),
        ({"min_count": {"user": 0}}, "min_count of 'user' must be at least 1, got 0"),
        ({"relations": RELATIONS[:1]}, "edges are given for 'clicks', which is no relation; known: follows"),
        ({"relations": [*RELATIONS, Relation("x", "a", "b")]}, "relation 'x' has no edges given; given: follows"),
        ({"relations": [*RELATIONS, RELATIONS[0]]}, "relation names must be unique, got twice: follows"),
        ({"relations": []}, "a graph needs at least one relation"),
        ({"columns": {"clicks": {"sorce": "x"}}}, "'clicks' .its frame.: columns has 'sorce'; did you mean 'source'"),
        ({"columns": {"click": {"weight": "x"}}}, "columns are given for 'click', .* did you mean 'clicks'"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(arguments, message):
    arguments = {"frames": {"follows": FOLLOWS, "clicks": CLICKS}, "relations": RELATIONS} | arguments
    with pytest.raises(ConfigError, match=message):
        Graph.from_frames(**arguments)


def test_a_column_that_was_named_must_be_there():
    with pytest.raises(DataError, match="no column 'score' for the weight; it has: source, target"):
        Graph.from_frames({"r": FOLLOWS}, [Relation("r", "a", "b")], columns={"r": {"weight": "score"}})


def test_a_relation_in_the_file_that_is_not_configured_is_refused(tmp_path):
    path = tmp_path / "edges.parquet"
    pd.DataFrame({"relation": ["clicks", "click"], "source": [1, 2], "target": [1, 2]}).to_parquet(path)
    with pytest.raises(DataError, match=r"1 of 2 relations .1 rows. are not .* 'click'; did you mean 'clicks'"):
        Graph.from_parquet(path, [Relation("clicks", "a", "b")])
    with pytest.raises(DataError, match=r"edges.parquet: no column 'kind' for the relation; it has: relation, so"):
        Graph.from_parquet(path, [Relation("clicks", "a", "b")], columns={"relation": "kind"})


def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path):
    good = tmp_path / "good.parquet"
    pd.DataFrame({"source": range(9), "target": range(9)}).to_parquet(good)
    (tmp_path / "cut.parquet").write_bytes(good.read_bytes()[:-20])
    (tmp_path / "ragged.csv").write_text("source,target\n" + "1,2\n" * 30_000 + "1,2,3,4\n")
    (tmp_path / "late.csv").write_text("source,target\n" + "1,2\n" * 30_000 + "x,2\n")
    for name, message in {
        "cut.parquet": "cut.parquet. cannot be read: ",
        "none.parquet": "none.parquet. cannot be read: .*No files found",
        "ragged.csv": "ragged.csv. cannot be read: .*Line: 30002.*1,2,3,4 Expected Number of Columns: 2",
        "late.csv": "late.csv. cannot be read: .*Line: 30002.*x,2",
    }.items():
        with pytest.raises(DataError, match=message) as caught:
            Graph.from_files({"r": tmp_path / name}, [Relation("r", "a", "b")])
        assert "\n" not in str(caught.value)


def test_pairs_of_an_unknown_relation_are_refused():
    graph = Graph.from_frames({"follows": FOLLOWS, "clicks": CLICKS}, RELATIONS)
    with pytest.raises(ConfigError, match="relation 'click' is not in the graph; did you mean 'clicks'"):
        graph.pairs("click")


def test_a_selection_is_the_graph_of_its_relations():
    relations = [*RELATIONS, Relation("buys", "user", "item")]
    frames = {"follows": FOLLOWS, "clicks": CLICKS, "buys": pd.DataFrame({"source": ["eve"], "target": [1]})}
    graph = Graph.from_frames(frames, relations)
    part = graph.select(["clicks"])
    assert {name: ids.to_pylist() for name, ids in part.entities.items()} == {
        "user": ["ann", "bob", "dave"],  # carol only follows, eve only buys
        "ad": [-1, 7, 2**63 - 1],
    }
    assert list(part.relations) == ["clicks"]
    assert edges_of(part, "clicks") == edges_of(graph, "clicks")
    assert part.edges["clicks"].sources.tolist() == [0, 2, 0, 1]
    assert part.history == graph.history
    assert [row["relation"] for row in part.summary.rows] == ["clicks"]
    check_the_graph(graph.select(["clicks", "follows"]))
    assert list(graph.select(["clicks", "follows"]).relations) == ["follows", "clicks"]


def test_a_selection_of_a_part_keeps_how_the_part_came_about():
    known, _ = Graph.from_frames({"follows": FOLLOWS, "clicks": CLICKS}, RELATIONS).split(fraction=0.3)
    part = known.select(["follows"])
    assert part.history == known.history
    assert edges_of(part, "follows") == edges_of(known, "follows")
    assert (part.degrees("user") > 0).all()


@pytest.mark.parametrize(
    ("relations", "message"),
    [(["click"], "select: relation 'click' is not in the graph; did you mean 'clicks'"), ([], "at least one relation")],
)
def test_selections_that_do_not_fit_are_refused(relations, message):
    graph = Graph.from_frames({"follows": FOLLOWS, "clicks": CLICKS}, RELATIONS)
    with pytest.raises(ConfigError, match=message):
        graph.select(relations)


def test_folders_named_like_columns_do_not_overwrite_them(tmp_path):
    folder = tmp_path / "source=web"
    folder.mkdir()
    pd.DataFrame({"source": ["a", "b"], "target": [1, 2]}).to_parquet(folder / "e.parquet")
    graph = Graph.from_files({"r": f"{tmp_path}/*/e.parquet"}, [Relation("r", "user", "item")])
    assert graph.entities["user"].to_pylist() == ["a", "b"]


def test_a_weight_that_the_first_of_many_files_lacks_is_not_lost(tmp_path):
    pd.DataFrame({"source": [1], "target": [1]}).to_parquet(tmp_path / "0.parquet")
    pd.DataFrame({"source": [2], "target": [2], "weight": [3.0]}).to_parquet(tmp_path / "1.parquet")
    with pytest.raises(DataError, match="1 weights are negative, missing or not finite"):
        Graph.from_files({"r": f"{tmp_path}/*.parquet"}, [Relation("r", "user", "item")])


def test_fractions_of_a_time_count_in_a_split():
    frame = pd.DataFrame({"source": range(4), "target": range(4), "time": [0.4, 0.6, 1.2, 1.5]})
    graph = Graph.from_frames({"r": frame}, [Relation("r", "user", "item")])
    known, held_out = graph.split(at=1.2)
    assert known.edges["r"].times.tolist() == [0.4, 0.6]
    assert held_out.edges["r"].times.tolist() == [1.2, 1.5]


def test_a_second_header_of_another_width_is_refused(tmp_path):
    (tmp_path / "r.csv").write_text("source,target\n1,2\n3,4\nsource,target,weight\n5,6,1\n")
    with pytest.raises(DataError, match=r"r.csv. cannot be read: .*Line: 4 .*Expected Number of Columns: 2 Found: 3"):
        Graph.from_files({"r": tmp_path / "r.csv"}, [Relation("r", "user", "item")])
