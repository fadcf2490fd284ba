"""Vectors inferred from neighbours: by hand, and against loops over edges in float64."""

import json
from importlib.metadata import EntryPoint

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recokit import CandidateGenerator, EmbeddingTable, ExactIndex
from recokit.errors import ConfigError, DataError, VersionError
from recokit.inductive import Filled, NeighborEdges, _Half, fill_from_neighbors, inductive_vectors, median_norm
from recokit.overlap import estimate_overlap
from recokit.table import RelationParameters, num_parameters, write_version

OPERATORS = ["identity", "translation", "diagonal", "complex_diagonal", "linear", "affine", "rotation"]
COMPARATORS = ["dot", "cos", "l2", "squared_l2"]


def relation(name, source="user", target="item", operator="identity", parameters=(), **more):
    return RelationParameters(name, source, target, operator, np.asarray(parameters, np.float32), **more)


def by_name(*relations):
    return {one.name: one for one in relations}


def table(entity, vectors, **more):
    """A table of a mapping from id to vector."""
    array = np.array(list(vectors.values()), np.float32)
    return EmbeddingTable.from_arrays(list(vectors), array, entity=entity, version="v1", **more)


def frame(*rows):
    return pd.DataFrame(rows, columns=["source", "target", "weight"][: len(rows[0])])


def inferred(*arguments, rescale=False, **options):
    """The new vectors by id."""
    made = inductive_vectors(*arguments, rescale=rescale, **options).table
    return {name: made.vectors[row].tolist() for row, name in enumerate(made.ids.to_pylist())}


ITEMS = {"a": [1, 0], "b": [0, 3]}
TRANSLATION = by_name(relation("r", operator="translation", parameters=[10, 20]))


def test_equation_5_of_twhin_for_a_new_target():
    """θ_v = 1/|N_v| Σ (θ_v' + θ_r), over edges that come in."""
    users = table("user", {"u": [1, 2], "w": [3, 6]})
    found = inferred({"user": users}, TRANSLATION, {"r": frame(("u", "new"), ("w", "new"))}, entity="item")
    assert found == {"new": [(1 + 10 + 3 + 10) / 2, (2 + 20 + 6 + 20) / 2]}


def test_a_new_source_goes_against_the_translation():
    edges = {"r": frame(("new", "a"), ("new", "b"))}
    found = inferred({"item": table("item", ITEMS)}, TRANSLATION, edges, entity="user")
    assert found == {"new": [(1 - 10 + 0 - 10) / 2, (0 - 20 + 3 - 20) / 2]}


def test_a_new_source_takes_what_the_reciprocal_makes_of_targets():
    relations = by_name(
        relation("r", operator="translation", parameters=[10, 20], reciprocal="r^-1"),
        relation("r^-1", "item", "user", "diagonal", [3, 5], reciprocal="r"),
    )
    edges = frame(("new", "a"), ("new", "b"))
    found = inferred({"item": table("item", ITEMS)}, relations, {"r": edges}, entity="user")
    assert found == {"new": [3 * (1 + 0) / 2, 5 * (0 + 3) / 2]}
    # A new target is reached by the relation itself.
    users = table("user", {"u": [1, 2]})
    assert inferred({"user": users}, relations, {"r": frame(("u", "new"))}, entity="item") == {"new": [11, 22]}


def test_an_operator_on_targets_turns_both_directions_round():
    relations = by_name(relation("r", operator="translation", parameters=[10, 20], side="target"))
    users = table("user", {"u": [1, 2]})
    found = inferred({"item": table("item", ITEMS)}, relations, {"r": frame(("new", "a"))}, entity="user")
    assert found == {"new": [1 + 10, 0 + 20]}
    assert inferred({"user": users}, relations, {"r": frame(("u", "new"))}, entity="item") == {"new": [1 - 10, 2 - 20]}


def test_edges_weigh_their_weight_times_that_of_their_relation():
    relations = by_name(relation("r"), relation("q", operator="translation", parameters=[1, 1]))
    edges = {"r": frame(("new", "a", 1.0), ("new", "b", 0.5), ("other", "a", 0.0)), "q": frame(("new", "b"))}
    found = inductive_vectors(
        {"item": table("item", ITEMS)}, relations, edges, entity="user", relation_weights={"r": 4}, rescale=False
    )
    a, b, moved = np.array([1, 0]), np.array([0, 3]), np.array([0 - 1, 3 - 1])
    np.testing.assert_allclose(found.table.vectors, [(4 * a + 4 * 0.5 * b + 1 * moved) / (4 + 2 + 1)], rtol=1e-6)
    assert found.origins.to_dict("list") == {"id": ["new", "other"], "round": [1, -1], "neighbors": [3, 0]}
    alone = inferred({"item": table("item", ITEMS)}, relations, edges, entity="user", relation_weights={"q": 0})
    np.testing.assert_allclose(alone["new"], (a + 0.5 * b) / 1.5, rtol=1e-6)


def test_an_edge_twice_is_one_neighbour_of_twice_the_weight():
    edges = {"r": frame(("new", "a"), ("new", "b"), ("new", "a"))}
    found = inductive_vectors(
        {"item": table("item", ITEMS)}, by_name(relation("r")), edges, entity="user", rescale=False
    )
    np.testing.assert_allclose(found.table.vectors, [[2 / 3, 3 / 3]], rtol=1e-6)
    assert found.origins["neighbors"].tolist() == [2]


def test_under_cos_neighbours_count_by_their_direction():
    items = table("item", {"a": [10, 0], "b": [0, 0.1], "zero": [0, 0]}, comparator="cos")
    edges = {"r": frame(("new", "a"), ("new", "b"), ("nought", "zero"))}
    assert inferred({"item": items}, by_name(relation("r")), edges, entity="user", rescale=True) == {
        "new": [0.5, 0.5],
        "nought": [0, 0],
    }


def test_chains_of_new_entities_are_followed_round_by_round():
    """known -> n1 -> n2 -> n3, and n1 -> n3's neighbour back: a vector is made once, from the nearest round."""
    relations = by_name(relation("follows", "user", "user", "translation", [1, 10]))
    users = table("user", {"known": [100, 0]})
    edges = {"follows": frame(("known", "n1"), ("n1", "n2"), ("n3", "n2"), ("n3", "n1"), ("x", "y"))}
    found = inductive_vectors({"user": users}, relations, edges, entity="user", rescale=False)
    expected = {
        "n1": [100 + 1, 0 + 10],
        "n2": [101 + 1, 10 + 10],  # not of n3, which is filled in the same round
        "n3": [101 - 1, 10 - 10],
    }
    assert dict(zip(found.table.ids.to_pylist(), found.table.vectors.tolist(), strict=True)) == expected
    assert found.origins.to_dict("list") == {
        "id": ["n1", "n2", "n3", "x", "y"],
        "round": [1, 2, 2, -1, -1],
        "neighbors": [1, 1, 1, 0, 0],
    }
    assert found.table.meta["rounds"] == {"1": 1, "2": 2}
    assert found.table.meta["asked"] == 5
    once = inductive_vectors({"user": users}, relations, edges, entity="user", iterations=1)
    assert once.table.ids.to_pylist() == ["n1"]


def test_both_directions_of_a_relation_of_a_type_with_itself():
    relations = by_name(relation("follows", "user", "user", "translation", [1, 10]))
    users = table("user", {"p": [100, 0], "q": [200, 0]})
    edges = {"follows": frame(("p", "new"), ("new", "q"), ("new", "new"))}
    found = inferred({"user": users}, relations, edges, entity="user")
    assert found == {"new": [(100 + 1 + 200 - 1) / 2, (0 + 10 + 0 - 10) / 2]}


def test_new_entities_of_several_types():
    """A new user reads a new article, which is of a known topic; there is no table of articles at all."""
    relations = by_name(
        relation("reads", "user", "article", "translation", [1, 1]),
        relation("about", "article", "topic", "translation", [5, 7]),
    )
    edges = {"reads": frame(("new", "text")), "about": frame(("text", "sport"))}
    found = inferred({"topic": table("topic", {"sport": [10, 10]})}, relations, edges, entity="user")
    assert found == {"new": [10 - 5 - 1, 10 - 7 - 1]}


@pytest.mark.parametrize("comparator", ["dot", "l2", "squared_l2"])
def test_new_vectors_have_the_median_norm_of_their_type(comparator):
    users = table("user", {"u": [3, 4], "v": [0, 1], "w": [6, 8]}, comparator=comparator)  # norms 5, 1, 10
    items = table("item", ITEMS, comparator=comparator)
    edges = {"r": frame(("new", "a"), ("new", "b"))}
    found = inferred({"user": users, "item": items}, by_name(relation("r")), edges, entity="user", rescale=True)
    mean = np.array([0.5, 1.5])
    np.testing.assert_allclose(found["new"], 5 * mean / np.hypot(*mean), rtol=1e-6)


def test_the_median_norm_is_that_of_numpy():
    vectors = np.random.default_rng(0).normal(size=(70_001, 3)).astype(np.float16)
    assert median_norm(vectors) == pytest.approx(np.median(np.sqrt((vectors.astype(float) ** 2).sum(1))), rel=1e-6)
    assert np.isnan(median_norm(vectors[:0]))


def test_ids_that_are_asked_for_are_inferred_even_where_they_are_trained():
    users = table("user", {"u": [7, 7], "v": [8, 8]})
    tables = {"user": users, "item": table("item", ITEMS)}
    relations = by_name(relation("r"), relation("follows", "user", "user"))
    edges = {"r": frame(("u", "a"), ("new", "b")), "follows": frame(("v", "u"), ("u", "new"))}
    found = inductive_vectors(tables, relations, edges, entity="user", ids=["u", "nobody", "u"], rescale=False)
    assert found.table.ids.to_pylist() == ["u"]
    assert found.table.vectors.tolist() == [[(1 + 8) / 2, (0 + 8) / 2]]  # of a and v, not of its own [7, 7]
    assert found.origins.to_dict("list") == {"id": ["u", "nobody"], "round": [1, -1], "neighbors": [2, 0]}


def random_graph(operator, comparator, seed=0, dim=4):
    """Half of the entities are new; a relation has a reciprocal, one joins users, one has its operator on targets."""
    rng = np.random.default_rng(seed)

    def made(name, source, target, **more):
        parameters = rng.normal(size=num_parameters(operator, dim))
        return relation(name, source, target, operator, parameters, **more)

    relations = by_name(
        made("buys", "user", "item", reciprocal="bought"),
        made("bought", "item", "user", reciprocal="buys"),
        made("follows", "user", "user"),
        made("shown", "item", "user", side="target"),
    )
    sizes = {"user": 30, "item": 20}
    tables = {
        entity: EmbeddingTable.from_arrays(
            np.arange(size), rng.normal(size=(size, dim)).astype(np.float32), entity=entity, version="v1",
            comparator=comparator,
        )
        for entity, size in sizes.items()
    }  # fmt: skip
    edges = {}
    for name in ("buys", "follows", "shown"):
        source, target = relations[name].source, relations[name].target
        edges[name] = pd.DataFrame(
            {
                "source": rng.integers(2 * sizes[source], size=60),
                "target": rng.integers(2 * sizes[target], size=60),
                "weight": rng.random(60),
            }
        )
    return tables, relations, edges


def naive(tables, relations, edges, comparator, iterations):
    """Loops over edges in float64: entity type to id to (vector, round)."""
    have = {
        entity: {i: (one.vectors[row].astype(float), 0) for row, i in enumerate(one.ids.to_pylist())}
        for entity, one in tables.items()
    }
    norms = {entity: np.median(np.linalg.norm(one.vectors, axis=1)) for entity, one in tables.items()}
    for number in range(1, iterations + 1):
        suggested = {}
        for name, rows in edges.items():
            r = relations[name]
            for s, t, w in rows.itertuples(index=False):
                ways = []
                if s in have[r.source] and t not in have[r.target]:
                    x = have[r.source][s][0]
                    ways.append((r.target, t, r.apply(x) if r.side == "source" else r.pull(x, comparator)))
                if t in have[r.target] and s not in have[r.source]:
                    y = have[r.target][t][0]
                    back = relations[r.reciprocal].apply(y) if r.reciprocal else None
                    if back is None:
                        back = r.pull(y, comparator) if r.side == "source" else r.apply(y)
                    ways.append((r.source, s, back))
                for entity, i, vector in ways:
                    length = np.linalg.norm(vector) if comparator == "cos" else 1
                    suggested.setdefault((entity, i), []).append((w, vector / length))
        for (entity, i), parts in suggested.items():
            mean = sum(w * vector for w, vector in parts) / sum(w for w, _ in parts)
            if comparator != "cos":
                mean *= norms[entity] / np.linalg.norm(mean)
            have[entity][i] = (mean, number)
    return have


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("comparator", COMPARATORS)
def test_agrees_with_a_naive_loop(operator, comparator):
    tables, relations, edges = random_graph(operator, comparator)
    expected = naive(tables, relations, edges, comparator, iterations=3)
    for entity in tables:
        found = inductive_vectors(tables, relations, edges, entity=entity)
        new = {i: value for i, value in expected[entity].items() if value[1] > 0}
        assert found.table.ids.to_pylist() == sorted(new)
        assert {2, 1} <= set(found.origins["round"])
        rounds = found.origins.set_index("id")["round"]
        for row, i in enumerate(found.table.ids.to_pylist()):
            np.testing.assert_allclose(found.table.vectors[row], new[i][0], rtol=1e-3, atol=1e-4)
            assert rounds[i] == new[i][1]


def test_the_order_of_edges_and_relations_changes_rounding_alone():
    tables, relations, edges = random_graph("affine", "dot")
    first = inductive_vectors(tables, relations, edges, entity="user")
    turned = {name: edges[name].sample(frac=1, random_state=1) for name in reversed(edges)}
    second = inductive_vectors(tables, relations, turned, entity="user")
    assert first.origins.equals(second.origins)
    np.testing.assert_allclose(first.table.vectors, second.table.vectors, rtol=1e-5, atol=1e-6)
    again = inductive_vectors(tables, relations, edges, entity="user")
    assert first.table.vectors.tobytes() == again.table.vectors.tobytes()


def test_a_long_chain_looks_at_each_edge_once_a_direction(monkeypatch):
    seen = []
    take = _Half.take
    monkeypatch.setattr(_Half, "take", lambda half, edges: seen.append(len(half.rows[edges])) or take(half, edges))
    count = 200
    vectors = {"user": np.zeros((count + 1, 1), np.float32)}
    known = {"user": np.arange(count + 1) == 0}
    vectors["user"][0] = 1
    step = relation("r", target="user", operator="translation", parameters=[1])
    edges = [NeighborEdges(step, np.arange(count), np.arange(1, count + 1))]
    filled = fill_from_neighbors(vectors, known, edges, comparator="dot", iterations=count)
    assert vectors["user"][:, 0].tolist() == list(range(1, count + 2))
    assert filled["user"].rounds.tolist() == list(range(count + 1))
    # An edge is gathered once where its neighbour was filled, and used at most once.
    assert sum(seen) <= 2 * 2 * count


@pytest.mark.parametrize("scale", [1e308, 1e-308])
def test_weights_of_any_size_count_by_their_proportions(scale):
    edges = {"r": frame(("new", "a", scale), ("new", "b", scale / 2), ("new", "b", scale), ("other", "b", 1.0))}
    found = inferred({"item": table("item", ITEMS)}, by_name(relation("r")), edges, entity="user")
    np.testing.assert_allclose(found["new"], (np.array([1, 0]) + 1.5 * np.array([0, 3])) / 2.5, rtol=1e-6)
    assert found["other"] == [0, 3]


def test_weights_that_are_not_finite_are_refused():
    edges = {"r": frame(("new", "a", 1.0), ("new", "b", 1e308))}
    with pytest.raises(DataError, match="relation 'r': edge 1 has the weight inf, expected a finite number"):
        inferred(
            {"item": table("item", ITEMS)}, by_name(relation("r")), edges, entity="user", relation_weights={"r": 10}
        )
    vectors, known = {"user": np.ones((2, 1), np.float32)}, {"user": np.array([True, False])}
    for weight in (-1.0, np.nan):
        bad = [NeighborEdges(relation("r", target="user"), np.array([0]), np.array([1]), np.array([weight]))]
        with pytest.raises(DataError, match="edge 0 has the weight"):
            fill_from_neighbors(vectors, known, bad, comparator="dot")


def test_rows_are_filled_in_place():
    vectors = {"user": np.full((3, 2), -7, np.float32), "item": np.array([[1, 0], [0, 3]], np.float32)}
    known = {"user": np.array([True, False, False]), "item": np.array([True, True])}
    edges = [NeighborEdges(relation("r"), np.array([1, 1]), np.array([0, 1]))]
    filled = fill_from_neighbors(vectors, known, edges, comparator="dot", norms={"user": 2.0})
    length = np.hypot(0.5, 1.5)
    np.testing.assert_allclose(vectors["user"], [[-7, -7], [2 * 0.5 / length, 2 * 1.5 / length], [-7, -7]], rtol=1e-6)
    assert vectors["item"].tolist() == [[1, 0], [0, 3]]
    assert isinstance(filled["user"], Filled)
    assert filled["user"].rounds.tolist() == [0, 1, -1]
    assert filled["user"].neighbors.tolist() == [0, 2, 0]
    assert filled["item"].rounds.tolist() == [0, 0]


def test_the_table_is_of_the_version_and_knows_its_edges():
    items = table("item", ITEMS)
    users = table("user", {"u": [1, 1]}, bias=np.array([0.5], np.float32))
    edges = {"r": pa.table({"source": ["new"], "target": ["b"]})}
    made = inductive_vectors({"item": items, "user": users}, by_name(relation("r")), edges, entity="user").table
    assert (made.version, made.entity, made.comparator) == ("v1", "user", "dot")
    assert made.bias.tolist() == [0.5]
    assert made.meta["source"] == "inductive"
    (sketch,) = made.meta["edge_sketches"]
    assert (sketch["relation"], sketch["source"], sketch["target"]) == ("r", "user", "item")
    assert estimate_overlap(sketch, ["new", "new"], ["b", "a"]) == 0.5
    lists = CandidateGenerator(ExactIndex.build(items), made, relation("r"))(["new"], k=1)
    assert lists["candidate"].tolist() == ["b"]


def test_without_edges_nothing_is_made():
    items = EmbeddingTable.from_arrays([1, 2], np.eye(2, dtype=np.float32), entity="item", version="v1")
    empty = {"r": pd.DataFrame({"source": [], "target": []})}
    found = inductive_vectors({"item": items}, by_name(relation("r")), empty, entity="user")
    assert (len(found.table), len(found.origins)) == (0, 0)
    found = inductive_vectors({"item": items}, by_name(relation("r")), empty, entity="user", ids=["x"])
    assert found.origins.to_dict("list") == {"id": ["x"], "round": [-1], "neighbors": [0]}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"edges": {"rr": frame(("n", "a"))}}, ConfigError, "edges of 'rr', which is no relation; did you mean 'r'"),
        ({"entity": "usr"}, ConfigError, "no relation of the edges has 'usr' at an end; did you mean 'user'"),
        ({"tables": {}}, ConfigError, "no table of 'user' or 'item'"),
        ({"iterations": 0}, ConfigError, "iterations has to be at least 1, not 0"),
        ({"comparator": "cosine"}, ConfigError, "comparator 'cosine' does not exist"),
        ({"relation_weights": {"q": 1}}, ConfigError, "relation_weights names 'q', which has no edges"),
        ({"relation_weights": {"r": -1}}, ConfigError, "'r' has -1, expected a number of 0 or more"),
        ({"edges": {"r": pd.DataFrame({"source": ["n"]})}}, DataError, "no column 'target'"),
        ({"edges": {"r": frame(("n", "a", 1.0), ("n", "a", -2.0))}}, DataError, "1 of 2 .* the first is -2.0 in row 1"),
        ({"edges": {"r": frame(("n", "a", np.nan))}}, DataError, "the first is nan in row 0"),
        ({"edges": {"r": frame(("n", "a", "heavy"))}}, DataError, "edges of 'r': weights are .*, expected numbers"),
        ({"edges": {"r": frame(("n", 1))}}, DataError, "edges of 'r', target: got int64 ids, expected string"),
        ({"ids": [3]}, DataError, "ids: got int64 ids, expected string"),
        ({"ids": ["n", None]}, DataError, "ids: 1 of 2 are null"),
        ({"relations": by_name(relation("r", reciprocal="q"))}, ConfigError, "reciprocal 'q', which is not there"),
        (
            {"relations": by_name(relation("r", reciprocal="q"), relation("q"))},
            ConfigError,
            "'q', the reciprocal of 'r', does not go from 'item' to 'user'",
        ),
        (
            {"relations": by_name(relation("r", operator="translation", parameters=[1]))},
            DataError,
            r"relation 'r' \(translation\) has 1 parameters, expected 2 for dim 2",
        ),
    ],
)
def test_bad_input_is_refused(change, error, message):
    arguments = {
        "tables": {"user": table("user", {"u": [1, 1]}), "item": table("item", ITEMS)},
        "relations": by_name(relation("r")),
        "edges": {"r": frame(("n", "a"))},
        "entity": "user",
    }
    with pytest.raises(error, match=message):
        inductive_vectors(**(arguments | change))


def test_tables_that_do_not_fit_together_are_refused():
    items, relations, edges = table("item", ITEMS), by_name(relation("r")), {"r": frame(("n", "a"))}
    vectors = np.ones((1, 2), np.float32)
    other = EmbeddingTable.from_arrays(["u"], vectors, entity="user", version="v2")
    with pytest.raises(VersionError, match=r"different versions: {'user': 'v2', 'item': 'v1'}"):
        inductive_vectors({"item": items, "user": other}, relations, edges, entity="user")
    longer = EmbeddingTable.from_arrays(["u"], np.ones((1, 3), np.float32), entity="user", version="v1")
    with pytest.raises(DataError, match=r"different lengths: {'user': 3, 'item': 2}"):
        inductive_vectors({"item": items, "user": longer}, relations, edges, entity="user")
    cosine = EmbeddingTable.from_arrays(["u"], vectors, entity="user", version="v1", comparator="cos")
    with pytest.raises(ConfigError, match=r"different comparators: .*; say which with comparator="):
        inductive_vectors({"item": items, "user": cosine}, relations, edges, entity="user")
    made = inductive_vectors({"item": items, "user": cosine}, relations, edges, entity="user", comparator="cos")
    assert made.table.comparator == "cos"


@pytest.fixture
def recokit(run_cli, monkeypatch, tmp_path):
    """Run the command in a folder with a version ``v1`` of users 1, 2 and items ``007``, ``8``."""
    point = EntryPoint("inductive", "recokit.inductive_cli:inductive", "recokit.commands")
    monkeypatch.setattr("recokit.cli.entry_points", lambda group: [point])
    monkeypatch.chdir(tmp_path)
    users = EmbeddingTable.from_arrays([1, 2], np.eye(2, dtype=np.float32), entity="user", version="v1")
    items = table("item", {"007": [1, 0], "8": [0, 3]})
    relations = [relation("clicks"), relation("follows", "user", "user")]
    write_version("v1", {"user": users, "item": items}, relations=relations)
    (tmp_path / "clicks.csv").write_text("user_id,item_id,hours\n1,8,1\n3,8,1\n3,007,2\n4,none,1\n")
    frame((5, 3)).to_parquet("follows.parquet")
    clicks = ["clicks=clicks.csv", "--columns", "clicks=user_id,item_id,hours"]
    return lambda *words: run_cli("inductive", "v1", *clicks, *words)


def test_the_command_writes_a_table(recokit, tmp_path):
    ran = recokit("follows=follows.parquet", "--entity", "user", "--output", "new")
    assert ran.code == 0, ran.err
    made = EmbeddingTable.load(tmp_path / "new", verify=True)
    assert made.ids.to_pylist() == [3, 5]
    expected = np.array([2 / 3, 3 / 3]) / np.hypot(2 / 3, 3 / 3)  # the median norm of users is 1
    np.testing.assert_allclose(made.vectors, [expected, expected], rtol=1e-6)
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["│", "asked", "│", "3", "│"] in lines
    assert ["│", "from", "trained", "neighbours", "│", "1", "│"] in lines
    assert ["│", "from", "those", "of", "round", "1", "│", "1", "│"] in lines
    assert ["│", "without", "a", "vector", "│", "1", "│"] in lines


def test_the_command_for_machines_and_for_all(recokit):
    ran = recokit("--entity", "user", "--output", "new", "--all", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == {
        "output": "new",
        "entity": "user",
        "version": "v1",
        "asked": 3,
        "rounds": {"1": 2},
        "without": 1,
    }
    assert EmbeddingTable.load("new").ids.to_pylist() == [1, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--entity", "user", "--output", "v1"], "v1 exists already"),
        (["--entity", "usr", "--output", "new"], "has 'usr' at an end; did you mean 'user'?"),
        (["click=x.csv", "--entity", "user", "--output", "new"], "no relation 'click'; did you mean 'clicks'?"),
        (["clicks.csv", "--entity", "user", "--output", "new"], "edges: got 'clicks.csv', expected a relation and"),
        (["clicks=x.csv", "--entity", "user", "--output", "new"], "edges: 'clicks' is there twice"),
        (["--columns", "follows=a,b", "--entity", "user", "--output", "new"], "names 'follows', which has no edges"),
        (["follows=f.parquet", "--columns", "follows=a", "--entity", "user", "--output", "new"], "got 'a', expected"),
    ],
)
def test_the_command_refuses_in_one_line(recokit, words, message):
    ran = recokit(*words)
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1
