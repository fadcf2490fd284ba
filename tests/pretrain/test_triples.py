"""Triples: ids of 64 bits and relation ids in one table, read exactly, and parted by relation in few scans."""

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pretrain import Graph, Relation, TrainConfig, evaluate, export, train
from pretrain.settings import load_settings
from recokit.errors import ConfigError, DataError
from recokit.table import EmbeddingTable

USER, GUILD, OTHER = 661027446241361930, 974519864045756446, 560127830160048128
LARGEST = 2**63 - 1
TRIPLES = pd.DataFrame({"h": [USER, 5, USER, LARGEST, 5], "r": [17, 17, 2, 2, 17], "t": [GUILD, OTHER, 5, USER, GUILD]})
TYPED = {17: Relation("user_in_guild", "user", "guild"), 2: Relation("friends", "user", "user")}


def edges_of(graph):
    """Relation to its edges as ids, in the graph's order."""
    return {name: list(graph.pairs(name).itertuples(index=False, name=None)) for name in graph.relations}


def written(frame, folder, kind):
    """Write a frame as a file of a kind, such as "tsv" or "bare.tsv.gz" (without a header)."""
    path = folder / f"triples.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        sep = "," if "csv" in kind else "\t"
        frame.to_csv(path, sep=sep, index=False, header="bare" not in kind)
    return path


FORMS = ["frame", "arrow", "parquet", "csv", "bare.csv", "tsv", "bare.tsv", "bare.txt", "csv.gz", "bare.tsv.gz"]


@pytest.mark.parametrize("form", FORMS)
def test_untyped_triples_have_one_entity_type_and_relations_named_by_their_ids(tmp_path, form):
    data = {"frame": TRIPLES, "arrow": pa.Table.from_pandas(TRIPLES)}.get(form)
    graph = Graph.from_triples(written(TRIPLES, tmp_path, form) if data is None else data)
    assert graph.relations == {"2": Relation("2", "entity", "entity"), "17": Relation("17", "entity", "entity")}
    assert graph.entities["entity"].equals(pa.array([5, OTHER, USER, GUILD, LARGEST], pa.int64()))
    assert edges_of(graph) == {
        "2": [(USER, 5), (LARGEST, USER)],
        "17": [(USER, GUILD), (5, OTHER), (5, GUILD)],  # in the order of the input
    }
    assert graph.degrees("entity").tolist() == [1 + 2, 1, 1 + 1 + 1, 2, 1]
    assert [(row["relation"], row["read"], row["edges"]) for row in graph.summary.rows] == [("2", 2, 2), ("17", 3, 3)]


def test_relations_can_be_named_and_typed():
    graph = Graph.from_triples(TRIPLES, relations=TYPED)
    assert list(graph.relations) == ["user_in_guild", "friends"]
    assert graph.entities["user"].to_pylist() == [5, USER, LARGEST]
    assert graph.entities["guild"].to_pylist() == [OTHER, GUILD]
    assert edges_of(graph) == {
        "user_in_guild": [(USER, GUILD), (5, OTHER), (5, GUILD)],
        "friends": [(USER, 5), (LARGEST, USER)],
    }
    assert edges_of(Graph.from_triples(TRIPLES.astype({"r": str}), relations=TYPED)) == edges_of(graph)


def test_one_id_is_two_entities_where_it_has_two_types():
    relations = {"a": Relation("a", "x", "y"), "b": Relation("b", "y", "z")}
    data = pd.DataFrame({"source": [7, 8, 7], "relation": ["a", "b", "b"], "target": [8, 7, 9]})
    graph = Graph.from_triples(data, relations=relations)
    assert {name: ids.to_pylist() for name, ids in graph.entities.items()} == {"x": [7], "y": [7, 8], "z": [7, 9]}
    assert edges_of(graph) == {"a": [(7, 8)], "b": [(8, 7), (7, 9)]}
    assert graph.edges["b"].sources.tolist() == [1, 0]


@pytest.mark.parametrize("names", [("source", "relation", "target"), ("h", "r", "t"), ("head", "relation", "tail")])
def test_usual_names_are_found_and_others_are_given(tmp_path, names):
    frame = TRIPLES.set_axis(names, axis=1)
    assert edges_of(Graph.from_triples(frame)) == edges_of(Graph.from_triples(TRIPLES))
    other = frame.set_axis(["subject", "predicate", "object"], axis=1).assign(strength=[1.0, 2.0, 3.0, 4.0, 5.0])
    columns = {"source": "subject", "relation": "predicate", "target": "object", "weight": "strength"}
    for data in (other, written(other, tmp_path, "csv")):
        graph = Graph.from_triples(data, columns=columns)
        assert edges_of(graph) == edges_of(Graph.from_triples(TRIPLES))
        assert graph.edges["2"].weights.tolist() == [3.0, 4.0]
        assert graph.edges["17"].weights.tolist() == [1.0, 2.0, 5.0]


def test_strings_that_look_like_dates_and_booleans_stay_what_they_are(tmp_path):
    (tmp_path / "kg.tsv").write_text("t\tborn\t2001-01-01\nf\ttrue\t2001-01-02\n")
    graph = Graph.from_triples(tmp_path / "kg.tsv")
    assert edges_of(graph) == {"born": [("t", "2001-01-01")], "true": [("f", "2001-01-02")]}


def test_relation_ids_keep_their_zeros_in_text(tmp_path):
    (tmp_path / "kg.tsv").write_text("1\t7\t2\n" * 30_000 + "1\t007\t2\n")
    graph = Graph.from_triples(tmp_path / "kg.tsv")
    assert {name: len(edges) for name, edges in graph.edges.items()} == {"7": 30_000, "007": 1}


@pytest.mark.parametrize("late", ["007", "7e3", "1.0"])
def test_text_that_would_become_another_integer_is_refused(tmp_path, late):
    path = tmp_path / "triples.csv"
    path.write_text("h,r,t\n" + "1,2,3\n" * 30_000 + f"{late},2,3\n")  # far behind the rows that types are guessed from
    with pytest.raises(DataError, match=f"triples.csv: the column 'h' holds '{late}' among integers"):
        Graph.from_triples(path)


@pytest.mark.parametrize("kind", ["frame", "parquet", "csv"])
def test_ids_beyond_int64_are_named(tmp_path, kind):
    frame = pd.DataFrame({"h": np.array([1, 2**63], np.uint64), "r": 1, "t": 2})
    with pytest.raises(DataError, match=r"the source column 'h' holds 9223372036854775808; .* given as strings"):
        Graph.from_triples(frame if kind == "frame" else written(frame, tmp_path, kind))


def test_a_late_id_beyond_int64_is_named_with_its_line(tmp_path):
    (tmp_path / "triples.csv").write_text("h,r,t\n" + "1,2,3\n" * 30_000 + "9223372036854775808,2,3\n")
    with pytest.raises(DataError, match=r"cannot be read: .*Line: 30002 .*9223372036854775808"):
        Graph.from_triples(tmp_path / "triples.csv")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"h": [1, "a"], "r": [1, 1], "t": [1, 1]}, "the frame: the source column 'h': .* position 1 holds 'a' .str."),
        ({"h": [1], "r": [1], "t": ["1"]}, "'entity' must be all integers or all strings, got integers as source of "),
        ({"h": [1.0], "r": [1], "t": [1]}, "the source column 'h' is DOUBLE; ids must be integers or strings"),
        ({"h": [1], "r": [1.0], "t": [1]}, "the relation column 'r' is DOUBLE"),
        ({"h": [1], "r": pd.array([None], "Int64"), "t": [1]}, "the frame: 1 rows have no relation"),
        ({"h": np.array([], int), "r": np.array([], int), "t": np.array([], int)}, "frame: there are no edges"),
        ({"h": [], "r": [], "t": []}, "the source column 'h' is DOUBLE"),
        ({"subject": [1], "r": [1], "t": [1]}, "no column 'source' for the source; it has: subject, r, t"),
        ({"h": [1, 2], "r": [7, 8], "t": [1, 2], "weight": [1.0, -1.0]}, "relation '8': 1 weights are negative"),
        ({"h": [1, 2, 3], "r": [7, 8, 8], "t": [1, 2, 3], "time": [1.0, np.nan, np.nan]}, "'8': 2 rows have no time"),
    ],
)  # fmt: skip
def test_triples_that_hold_something_else_are_refused(columns, message):
    with pytest.raises(DataError, match=message):
        Graph.from_triples(pd.DataFrame(columns))


def test_a_header_of_unusual_words_is_no_edge(tmp_path):
    path = tmp_path / "triples.csv"
    path.write_text("who,how,whom\n1,2,3\n")
    with pytest.raises(DataError, match=r"its first row \(who, how, whom\) looks like a header"):
        Graph.from_triples(path)
    columns = {"source": "who", "relation": "how", "target": "whom"}
    assert edges_of(Graph.from_triples(path, columns=columns)) == {"2": [(1, 3)]}
    path.write_text("4,5,6\n1,2,3\n")
    with pytest.raises(DataError, match="no column 'who' for the source; it has: 4, 5, 6"):
        Graph.from_triples(path, columns=columns)
    by_place = {"source": "column2", "relation": "column1", "target": "column0"}
    assert edges_of(Graph.from_triples(path, columns=by_place, header=False)) == {"2": [(3, 1)], "5": [(6, 4)]}


def test_unknown_relations_are_refused_with_the_nearest_or_left_out_and_counted():
    relations = {17: TYPED[17], 22: TYPED[2]}
    with pytest.raises(
        DataError, match=r"the frame: 1 of 2 relations .2 rows. are not .* first is '2'; did you mean '22'"
    ):
        Graph.from_triples(TRIPLES, relations=relations)
    with pytest.raises(DataError, match="relation 'friends' has no edges: 0 read"):
        Graph.from_triples(TRIPLES, relations=relations, unknown="drop")
    graph = Graph.from_triples(TRIPLES, relations={17: TYPED[17]}, unknown="drop")
    assert graph.entities["user"].to_pylist() == [5, USER]  # LARGEST has left-out edges only
    assert edges_of(graph) == {"user_in_guild": [(USER, GUILD), (5, OTHER), (5, GUILD)]}
    assert graph.summary.rows == (
        {"relation": "user_in_guild", "read": 3, "null": 0, "below_min_count": 0, "edges": 3},
        {"relation": "(1 not configured)", "read": 2, "null": 0, "below_min_count": 0, "edges": 0},
    )


def test_rows_without_a_relation_or_an_end(tmp_path):
    (tmp_path / "triples.tsv").write_text("h\tr\tt\n1\t7\t2\n1\t7\t\n\t8\t2\n3\t\t2\n")
    with pytest.raises(DataError, match=r"triples.tsv: 1 rows have no relation"):
        Graph.from_triples(tmp_path / "triples.tsv")
    graph = Graph.from_triples(tmp_path / "triples.tsv", unknown="drop")
    assert edges_of(graph) == {"7": [(1, 2)], "8": []}
    assert [tuple(row.values()) for row in graph.summary.rows] == [
        ("7", 2, 1, 0, 1),
        ("8", 1, 1, 0, 0),
        ("(1 not configured)", 1, 0, 0, 0),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unknown": "dorp"}, "from_triples: unknown 'dorp' is not known; did you mean 'drop'"),
        ({"relations": {17: TYPED[17], "17": TYPED[2]}}, "relation names must be unique, got twice: 17"),
        ({"relations": {17: TYPED[2], 2: TYPED[2]}}, "relation names must be unique, got twice: friends"),
        ({"relations": TYPED, "like": Graph.from_triples(TRIPLES)}, "takes either relations= or like="),
        ({"columns": {"sorce": "h"}}, "the frame: columns has 'sorce'; did you mean 'source'"),
        ({"min_count": {"entty": 2}}, "min_count names the entity type 'entty'; did you mean 'entity'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Graph.from_triples(TRIPLES, **arguments)


def test_min_count_counts_over_all_relations():
    graph = Graph.from_triples(TRIPLES, min_count={"entity": 2})
    # occurrences: 5 three times, USER three times, GUILD twice, OTHER and LARGEST once
    assert graph.entities["entity"].to_pylist() == [5, USER, GUILD]
    assert edges_of(graph) == {"2": [(USER, 5)], "17": [(USER, GUILD), (5, GUILD)]}


def test_many_relations_are_parted_as_a_loop_parts_them():
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.integers(0, 50, (3000, 3)), columns=["h", "r", "t"]).assign(time=np.arange(3000))
    relations = {r: Relation(f"r{r}", f"type{r % 3}", f"type{r % 2}") for r in range(50)}
    graph = Graph.from_triples(frame, relations=relations)
    for r in range(50):
        part = frame[frame["r"] == r]
        assert edges_of(graph)[f"r{r}"] == list(part[["h", "t"]].itertuples(index=False, name=None))
        assert graph.edges[f"r{r}"].times.tolist() == part["time"].tolist()
    for number in range(3):
        sources = frame.loc[frame["r"] % 3 == number, "h"]
        targets = frame.loc[frame["r"] % 2 == number, "t"]
        assert graph.entities[f"type{number}"].to_pylist() == sorted({*sources, *targets})


def test_the_number_of_scans_does_not_depend_on_the_number_of_relations(monkeypatch):
    def num_queries(num_relations):
        frame = pd.DataFrame({"h": range(100), "r": np.arange(100) % num_relations, "t": range(100)})
        asked = []
        monkeypatch.setattr("pretrain.reading.duckdb.connect", lambda: _Counting(connect(), asked))
        Graph.from_triples(frame)
        return len(asked)

    import duckdb

    connect = duckdb.connect
    assert num_queries(100) == num_queries(1)


class _Counting:
    """A connection that notes what it is asked."""

    def __init__(self, connection, asked):
        self._connection, self._asked = connection, asked

    def sql(self, query):
        self._asked.append(query)
        return self._connection.sql(query)

    def __getattr__(self, name):
        return getattr(self._connection, name)


def test_ids_are_exact_from_triples_to_the_exported_table(tmp_path):
    graph = Graph.from_triples(written(TRIPLES, tmp_path, "bare.tsv"), relations=TYPED)
    model = train(graph, TrainConfig(dim=4, epochs=2, uniform_negatives=2))
    export(model, tmp_path / "v1")
    users, guilds = (EmbeddingTable.load(tmp_path / "v1" / name) for name in ("user", "guild"))
    assert users.rows([USER, USER + 1, 17, LARGEST, LARGEST - 1]).tolist() == [1, -1, -1, 2, -1]
    assert guilds.rows([GUILD, GUILD - 1, OTHER]).tolist() == [1, -1, 0]
    np.testing.assert_array_equal(users.vectors, model.vectors["user"].numpy())


def test_further_files_share_relations_and_types_and_join_by_id(tmp_path):
    known = Graph.from_triples(TRIPLES, relations=TYPED)
    more = pd.DataFrame({"h": [5, 99], "r": [17, 17], "t": [GUILD, GUILD]})  # 99 is new, relation 2 is missing
    for part in (known, known.split(fraction=0.3)[0], known.select(["user_in_guild"])):
        held_out = Graph.from_triples(written(more, tmp_path, "bare.tsv"), like=part)
        assert held_out.relations == part.relations
        assert held_out.entities["user"].to_pylist() == [5, 99]
        assert held_out.entities["guild"].to_pylist() == [GUILD]
        assert edges_of(held_out)["user_in_guild"] == [(5, GUILD), (99, GUILD)]
        assert edges_of(held_out).get("friends", []) == []
    again = Graph.from_triples(more[:1], like=Graph.from_triples(more, like=known))
    assert edges_of(again) == {"user_in_guild": [(5, GUILD)], "friends": []}
    model = train(known, TrainConfig(dim=4, epochs=1, uniform_negatives=2))
    assert len(evaluate(model, again, known=known).ranks) == 2  # one edge, two sides


def test_a_further_file_of_numbers_is_read_as_the_strings_that_the_ids_are(tmp_path):
    known = Graph.from_triples(pd.DataFrame({"h": ["007", "b"], "r": [1, 1], "t": ["1", "2"]}))
    (tmp_path / "test.tsv").write_text("7\t1\t1\n007\t1\t2\n")
    graph = Graph.from_triples(tmp_path / "test.tsv", like=known)
    assert edges_of(graph) == {"1": [("7", "1"), ("007", "2")]}
    with pytest.raises(DataError, match="ids of entity type 'entity' are int64, and large_string in the other graph"):
        Graph.from_triples(pd.DataFrame({"h": [7], "r": [1], "t": [1]}), like=known)


def test_a_further_file_may_lack_a_whole_entity_type_but_no_relation_may_be_new():
    known = Graph.from_triples(TRIPLES, relations=TYPED)
    graph = Graph.from_triples(TRIPLES[TRIPLES["r"] == 2], like=known)
    assert graph.entities["guild"].equals(pa.array([], pa.int64()))
    assert edges_of(graph) == {"user_in_guild": [], "friends": [(USER, 5), (LARGEST, USER)]}
    with pytest.raises(
        DataError, match=r"1 of 3 relations .2 rows. are not configured; the first is '16'; known: 17, 2"
    ):
        Graph.from_triples(pd.concat([TRIPLES, TRIPLES[:2].assign(r=16)]), like=known)


TOML = """\
version = "v1"
output = "store"

[triples]
path = "triples.bare.tsv"

[train]
dim = 4
"""


def test_ten_lines_of_toml_read_triples(tmp_path):
    written(TRIPLES, tmp_path, "bare.tsv")
    (tmp_path / "c.toml").write_text(TOML)
    graph = load_settings(tmp_path / "c.toml").graph()
    assert edges_of(graph) == edges_of(Graph.from_triples(TRIPLES))
    assert graph.history == ({"sources": {"*": str(tmp_path / "triples.bare.tsv")}},)


def test_codex_s_is_read_as_it_comes():
    folder = os.environ.get("RECOKIT_DATA")
    if not folder or not (Path(folder) / "codex-s").is_dir():
        pytest.skip("RECOKIT_DATA names no folder that holds codex-s")
    parts = {name: Path(folder) / "codex-s" / f"{name}.txt" for name in ("train", "valid", "test")}
    known = Graph.from_triples(parts["train"])
    lines = {name: [line.split("\t") for line in path.read_text().splitlines()] for name, path in parts.items()}
    assert known.entities["entity"].to_pylist() == sorted({e for h, _, t in lines["train"] for e in (h, t)})
    for name, path in parts.items():
        graph = Graph.from_triples(path, like=known)
        for relation in known.relations:
            assert edges_of(graph)[relation] == [(h, t) for h, r, t in lines[name] if r == relation]


ROWS = [f"x{number}\tr\ty{number}" for number in range(1000)]


@pytest.mark.parametrize("suffix", ["tsv", "txt", "csv", "tsv.gz"])
@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([*ROWS, "a\tr\tb\tc"], 1001),
        ([*ROWS, "a\tb"], 1001),
        ([*ROWS[:500], "a", *ROWS[500:]], 501),
        (["a\tb", "a\tb", *ROWS], 3),
        (["a\tr\tb\tc", *ROWS], 2),
        (["# a comment", *ROWS], 2),
    ],
)
def test_rows_of_another_width_are_refused_with_their_line(tmp_path, suffix, lines, line):
    path = tmp_path / f"triples.{suffix}"
    text = "\n".join(lines) + "\n"
    with gzip.open(path, "wt") if suffix.endswith("gz") else path.open("w") as file:
        file.write(text.replace("\t", ",") if suffix == "csv" else text)
    with pytest.raises(DataError, match=rf"cannot be read: .*Line: {line} .*Expected Number of Columns") as raised:
        Graph.from_triples(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("suffix", ["tsv", "tsv.gz", "txt"])
def test_tabs_part_the_columns_where_ids_hold_commas(tmp_path, suffix):
    edges = [(f"Smith{number}, Al", f"Jones{number}; Bo") for number in range(10)]
    path = tmp_path / f"kg.{suffix}"
    with gzip.open(path, "wt") if suffix.endswith("gz") else path.open("w") as file:
        file.writelines(f"{source}\tknows well\t{target}\n" for source, target in edges)
    assert edges_of(Graph.from_triples(path)) == {"knows well": edges}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("kg.csv", '"a;b, c",r,d;e\n', ("a;b, c", "d;e")),
        ("kg.csv", '"a, b";r;d\n', ("a, b", "d")),
        ("kg.csv", "a b\tr\td e\n", ("a b", "d e")),
        ("kg.txt", "a b,r,d e\n", ("a b", "d e")),
        ("kg.txt", "a;r;d e\n", ("a", "d e")),
        ("kg.txt", "a r d\n", ("a", "d")),
        ("kg.txt", "\n\na\tr\td, e\n", ("a", "d, e")),
    ],
)
def test_the_first_line_says_what_parts_the_columns(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert edges_of(Graph.from_triples(tmp_path / name)) == {"r": [expected]}


@pytest.mark.parametrize("column", ["h", "r", "t"])
def test_lone_surrogates_are_refused(column):
    frame = pd.DataFrame({"h": ["a"], "r": ["r"], "t": ["b"]}, dtype=object)
    frame[column] = pd.Series(["\ud800"], dtype=object)
    with pytest.raises(DataError, match=f"column '{column}'.*surrogates not allowed"):
        Graph.from_triples(frame)


def test_two_columns_of_one_name_are_refused():
    rows = pd.DataFrame([[1, 2, 3, 4]], columns=["h", "r", "t", "t"])
    for data in (rows, pa.table([[1], [2], [3], [4]], names=["h", "r", "t", "t"])):
        with pytest.raises(DataError, match="the frame: several columns are named 't', expected one for the target"):
            Graph.from_triples(data)
