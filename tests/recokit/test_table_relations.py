"""Operators against naive float64 loops, and relations on disk."""

import json
import math

import numpy as np
import pytest

from recokit.errors import ConfigError, DataError, FormatError
from recokit.table import RelationParameters, num_parameters
from recokit.table.relations import read_relations, write_relations

OPERATORS = ["identity", "translation", "diagonal", "complex_diagonal", "linear", "affine", "rotation"]


def relation(operator, parameters, name="r", **more):
    return RelationParameters(name, "user", "item", operator, np.asarray(parameters, np.float32), **more)


def naive(operator, p, x):
    """One vector, in Python floats, from the definitions."""
    dim, p, x = len(x), [float(value) for value in p], [float(value) for value in x]
    half = dim // 2
    if operator in ("complex_diagonal", "rotation"):
        z = [complex(x[i], x[half + i]) for i in range(half)]
        if operator == "rotation":
            factors = [complex(math.cos(phase), math.sin(phase)) for phase in p]
        else:
            factors = [complex(p[i], p[half + i]) for i in range(half)]
        products = [a * b for a, b in zip(z, factors, strict=True)]
        return [c.real for c in products] + [c.imag for c in products]
    if operator in ("linear", "affine"):
        shift = p[dim * dim :] or [0.0] * dim
        return [sum(p[row * dim + column] * x[column] for column in range(dim)) + shift[row] for row in range(dim)]
    return {
        "identity": x,
        "translation": [a + b for a, b in zip(x, p, strict=False)],
        "diagonal": [a * b for a, b in zip(x, p, strict=False)],
    }[operator]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dim", [2, 6])
def test_operators_agree_with_a_naive_loop(operator, dim):
    rng = np.random.default_rng(dim)
    parameters = rng.normal(size=num_parameters(operator, dim)).astype(np.float32)
    vectors = rng.normal(size=(5, dim)).astype(np.float32)
    moved = relation(operator, parameters).apply(vectors)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved, [naive(operator, parameters, x) for x in vectors], rtol=2e-6, atol=2e-6)


def test_operators_by_hand():
    x = np.array([[1, 2]], np.float32)
    assert relation("translation", [10, 20]).apply(x).tolist() == [[11, 22]]
    assert relation("diagonal", [10, 20]).apply(x).tolist() == [[10, 40]]
    assert relation("linear", [1, 2, 3, 4]).apply(x).tolist() == [[1 * 1 + 2 * 2, 3 * 1 + 4 * 2]]  # W by rows
    assert relation("affine", [1, 2, 3, 4, 50, 60]).apply(x).tolist() == [[5 + 50, 11 + 60]]
    assert relation("complex_diagonal", [3, 4]).apply(x).tolist() == [[3 - 8, 4 + 6]]  # (1 + 2i)(3 + 4i) = -5 + 10i
    quarter = relation("rotation", [math.pi / 2]).apply(x)  # (1 + 2i) i = -2 + i
    np.testing.assert_allclose(quarter, [[-2, 1]], atol=1e-6)


def test_complex_diagonal_with_dot_is_the_score_of_complex():
    rng = np.random.default_rng(0)
    s, r, t = rng.normal(size=(3, 8)).astype(np.float32)
    as_complex = [v[:4].astype(np.float64) + 1j * v[4:] for v in (s, r, t)]
    expected = np.real(np.sum(as_complex[0] * as_complex[1] * np.conj(as_complex[2])))
    assert relation("complex_diagonal", r).apply(s[None])[0] @ t == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dim", [2, 6])
def test_under_dot_pull_is_the_adjoint_of_the_product(operator, dim):
    """dot(A x, y) = dot(x, pull(y)) for the product A of an operator; A x is the operator less what it makes of 0."""
    rng = np.random.default_rng(dim)
    r = relation(operator, rng.normal(size=num_parameters(operator, dim)))
    x, y = rng.normal(size=(2, 5, dim))
    pulled = r.pull(y, "dot")
    if operator == "translation":
        np.testing.assert_allclose(pulled, y - r.parameters)  # TwHIN Eq. 5 against the direction of the edge
    else:
        product = r.apply(x) - r.apply(np.zeros((1, dim)))
        np.testing.assert_allclose((product * y).sum(1), (x * pulled).sum(1), atol=1e-6)


@pytest.mark.parametrize("comparator", ["cos", "l2", "squared_l2"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_under_other_comparators_pull_takes_back_what_apply_did(operator, comparator):
    rng = np.random.default_rng(0)
    r = relation(operator, rng.normal(size=num_parameters(operator, 6)))
    x = rng.normal(size=(5, 6))
    np.testing.assert_allclose(r.pull(r.apply(x), comparator), x, atol=1e-4)


def test_pull_by_hand():
    y = np.array([[5, 10]], np.float32)
    assert relation("translation", [1, 2]).pull(y, "cos").tolist() == [[4, 8]]
    assert relation("diagonal", [2, 5]).pull(y, "dot").tolist() == [[2 * 5, 5 * 10]]
    np.testing.assert_allclose(relation("diagonal", [2, 5]).pull(y, "l2"), [[5 / 2, 10 / 5]], rtol=1e-6)
    assert relation("linear", [1, 2, 3, 4]).pull(y, "dot").tolist() == [[1 * 5 + 3 * 10, 2 * 5 + 4 * 10]]  # Wᵀ y
    assert relation("affine", [1, 2, 3, 4, 7, 8]).pull(y, "dot").tolist() == [[1 * 5 + 3 * 10, 2 * 5 + 4 * 10]]
    # W⁻¹ (y - t) with W⁻¹ = [[-2, 1], [1.5, -0.5]] and y - t = (4, 8)
    back = relation("affine", [1, 2, 3, 4, 1, 2]).pull(y, "squared_l2")
    np.testing.assert_allclose(back, [[-2 * 4 + 8, 1.5 * 4 - 0.5 * 8]], atol=1e-5)
    assert relation("complex_diagonal", [3, 4]).pull(y, "dot").tolist() == [[15 + 40, 30 - 20]]  # (5 + 10i)(3 - 4i)
    np.testing.assert_allclose(relation("complex_diagonal", [3, 4]).pull(y, "cos"), [[55 / 25, 10 / 25]], rtol=1e-6)
    np.testing.assert_allclose(relation("rotation", [math.pi / 2]).pull(y, "dot"), [[10, -5]], atol=1e-5)  # / i


@pytest.mark.parametrize(
    ("operator", "parameters", "expected"),
    [
        ("diagonal", [100, 0.99, 0, 1.01], [1 / 100, 0, 0, 1 / 1.01]),
        ("linear", np.diag([100, 0.99, 0, 1.01]).ravel(), [1 / 100, 0, 0, 1 / 1.01]),
        ("complex_diagonal", [100, 0.6, 0, 0.6], [1 / 100, 0, 1 / 100, 0]),  # moduli 100 and 0.85
        ("diagonal", [0, 0, 0, 0], [0, 0, 0, 0]),
        ("linear", np.zeros(16), [0, 0, 0, 0]),
    ],
)
def test_what_an_operator_all_but_erases_is_not_blown_up(operator, parameters, expected):
    pulled = relation(operator, parameters).pull(np.ones((1, 4), np.float32), "l2")
    np.testing.assert_allclose(pulled, [expected], rtol=1e-5, atol=1e-7)


def test_pull_refuses_what_apply_refuses():
    with pytest.raises(DataError, match=r"relation 'r' \(linear\) has 4 parameters, expected 9 for dim 3"):
        relation("linear", [1, 2, 3, 4]).pull(np.zeros((1, 3), np.float32), "dot")
    with pytest.raises(ConfigError, match="comparator 'cosine' does not exist"):
        relation("identity", []).pull(np.zeros((1, 3), np.float32), "cosine")


def test_half_precision_is_computed_in_single():
    moved = relation("translation", [1 / 1024]).apply(np.array([[1024]], np.float16))
    assert moved.dtype == np.float32
    assert moved.tolist() == [[1024 + 1 / 1024]]  # float16 would round it away


def test_the_number_of_parameters():
    assert [num_parameters(operator, 4) for operator in OPERATORS] == [0, 4, 4, 4, 4 * 4, 4 * 4 + 4, 2]
    with pytest.raises(ConfigError, match="operator 'transaltion' does not exist; did you mean 'translation'"):
        num_parameters("transaltion", 4)
    with pytest.raises(ConfigError, match="'rotation' needs an even dim, got 3"):
        num_parameters("rotation", 3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (np.zeros((2, 2)), r"relation 'r': parameters are float64 \(2, 2\), expected \(P,\) float32"),
        (np.array(["a"]), r"parameters are <U1 \(1,\)"),
        (np.array([0, np.nan]), "parameter 1 is nan, expected finite"),
    ],
)
def test_parameters_that_are_none_are_refused(parameters, message):
    with pytest.raises(DataError, match=message):
        RelationParameters("r", "user", "item", "translation", parameters)


def test_parameters_of_another_dimension_are_refused():
    with pytest.raises(DataError, match=r"relation 'r' \(linear\) has 4 parameters, expected 9 for dim 3"):
        relation("linear", [1, 2, 3, 4]).apply(np.zeros((1, 3), np.float32))


def test_a_relation_is_a_row_of_its_operators_block(tmp_path):
    relations = [
        relation("translation", [1, 2], "follows", reciprocal="followed by"),
        relation("identity", [], "same"),
        relation("translation", [3, 4], "followed by"),
        relation("translation", [5, 6, 7], "of a wider network"),
    ]
    files = write_relations(tmp_path / "relations", relations)
    assert sorted(files) == ["identity.npy", "relations.json", "translation-3.npy", "translation.npy"]
    assert np.load(tmp_path / "relations/translation.npy").tolist() == [[1, 2], [3, 4]]
    assert np.load(tmp_path / "relations/translation.npy").dtype.str == "<f4"
    assert np.load(tmp_path / "relations/translation-3.npy").tolist() == [[5, 6, 7]]
    assert np.load(tmp_path / "relations/identity.npy").shape == (1, 0)
    ends = {"source": "user", "target": "item"}
    assert json.loads((tmp_path / "relations/relations.json").read_text())[:2] == [
        {
            "name": "follows",
            **ends,
            "operator": "translation",
            "block": "translation",
            "row": 0,
            "reciprocal": "followed by",
        },
        {"name": "same", **ends, "operator": "identity", "block": "identity", "row": 0, "reciprocal": None},
    ]
    read = read_relations(tmp_path / "relations")
    assert list(read) == ["follows", "same", "followed by", "of a wider network"]
    assert read["followed by"].parameters.tolist() == [3, 4]
    assert read["follows"].reciprocal == "followed by"
    assert read["same"].apply(np.ones((1, 2))).tolist() == [[1, 1]]


def test_the_side_is_written_only_where_it_is_not_the_source(tmp_path):
    write_relations(
        tmp_path / "relations", [relation("identity", [], "a"), relation("identity", [], "b", side="target")]
    )
    entries = json.loads((tmp_path / "relations/relations.json").read_text())
    assert "side" not in entries[0]
    assert entries[1]["side"] == "target"
    read = read_relations(tmp_path / "relations")
    assert [read["a"].side, read["b"].side] == ["source", "target"]
    with pytest.raises(ConfigError, match="relation 'r': side is 'left', expected 'source' or 'target'"):
        relation("identity", [], side="left")


@pytest.mark.parametrize(
    ("relations", "message"),
    [
        ([relation("identity", []), relation("identity", [])], "relation 'r' is there 2 times, expected once"),
        ([relation("identity", [], reciprocal="q")], "'r' names the reciprocal 'q', which is not among the relations"),
    ],
)
def test_relations_that_clash_are_refused(relations, message, tmp_path):
    with pytest.raises(DataError, match=message):
        write_relations(tmp_path / "relations", relations)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row": 1}, "row 1 is not in block 'translation'"),
        ({"row": "0"}, "'row' is '0', expected an integer"),
        ({"block": "../../secret"}, "'../../secret', which is not inside its folder"),
        ({"block": "none"}, "none.npy is not a readable"),
        ({"operator": "rotate"}, "operator 'rotate' does not exist"),
        ({"name": None}, "'name' is None, expected a string"),
        ({"side": "both"}, "side is 'both', expected 'source' or 'target'"),
        ({"reciprocal": 5}, "relation 'r' names the reciprocal 5, which is not among the relations"),
        ({"reciprocal": ["r"]}, r"relation 'r' names the reciprocal \['r'\], which is not"),
        ({"reciprocal": "rr"}, "relation 'r' names the reciprocal 'rr', .* did you mean 'r'"),
    ],
)
def test_entries_that_do_not_fit_are_refused(change, message, tmp_path):
    write_relations(tmp_path / "relations", [relation("translation", [1, 2])])
    path = tmp_path / "relations/relations.json"
    path.write_text(json.dumps([json.loads(path.read_text())[0] | change]))
    with pytest.raises(FormatError, match=message):
        read_relations(tmp_path / "relations")
