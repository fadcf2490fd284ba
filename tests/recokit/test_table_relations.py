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
    ],
)
def test_entries_that_do_not_fit_are_refused(change, message, tmp_path):
    write_relations(tmp_path / "relations", [relation("translation", [1, 2])])
    path = tmp_path / "relations/relations.json"
    path.write_text(json.dumps([json.loads(path.read_text())[0] | change]))
    with pytest.raises(FormatError, match=message):
        read_relations(tmp_path / "relations")
