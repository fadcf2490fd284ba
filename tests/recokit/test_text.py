"""Texts as a table: what the encoder says, whatever it returns, and what cannot be encoded."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer

from recokit.errors import ConfigError, DataError
from recokit.text import text_table

TEXTS = {"q1": "red shoes", "q2": "blue suede shoes", "q3": ""}


def lengths(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), len(text.split())] for text in texts])


def test_the_table_holds_what_the_encoder_says():
    table = text_table(TEXTS, lengths, entity="query", version="v1")
    assert table.vectors.tolist() == [[9, 2], [16, 3], [0, 0]]
    assert table.vectors.dtype == np.float32
    assert (table.entity, table.version, table.comparator, table.ids.to_pylist()) == ("query", "v1", "cos", list(TEXTS))
    numbered = text_table(
        pd.DataFrame({"text": ["a b"], "id": [7]}), lengths, entity="query", version="v1", comparator="dot"
    )
    assert (numbered.rows([7]).tolist(), numbered.vectors.tolist(), numbered.comparator) == ([0], [[3, 2]], "dot")


def test_encoders_of_scikit_learn_fit_as_they_are():
    texts = list(TEXTS.values())
    for vectorizer in (HashingVectorizer(n_features=32), TfidfVectorizer().fit(texts)):
        expected = vectorizer.transform(texts).toarray()
        for batch_size in (1, 2, 100):
            table = text_table(TEXTS, vectorizer.transform, entity="query", version="v1", batch_size=batch_size)
            np.testing.assert_allclose(table.vectors, expected, rtol=1e-6)


def test_texts_come_in_batches():
    asked = []

    def encoder(texts: list[str]) -> csr_matrix:
        asked.append(texts)
        return csr_matrix(lengths(texts))

    text_table(TEXTS, encoder, entity="query", version="v1", batch_size=2)
    assert asked == [["red shoes", "blue suede shoes"], [""]]


@pytest.mark.parametrize(
    ("texts", "encoder", "message"),
    [
        ({"q1": "a", "q2": None}, lengths, "the text of query 'q2' is None, expected a string"),
        (pd.DataFrame({"id": [1, 2], "text": ["a", np.nan]}), lengths, "the text of query 2 is nan"),
        (pd.DataFrame({"id": [1, 1], "text": ["a", "b"]}), lengths, "more than once|twice"),
        (pd.DataFrame({"id": [1], "texts": ["a"]}), lengths, "no column 'text'; did you mean 'texts'"),
        ({}, lengths, "no texts to make a table 'query' of"),
        (TEXTS, lambda texts: np.zeros(3), r"makes float64 of shape \(3,\) of 3 texts, expected .*\(3, dim\)"),
        (TEXTS, lambda texts: np.zeros((2, 4)), r"of shape \(2, 4\) of 3 texts"),
        (TEXTS, lambda texts: np.array([["a"]] * 3), "makes <U1 of shape"),
        (TEXTS, lambda texts: np.full((3, 2), np.nan), "NaN or infinity in 3 of 3 rows"),
    ],
)
def test_what_cannot_be_encoded_is_refused_by_name(texts, encoder, message):
    with pytest.raises(DataError, match=message):
        text_table(texts, encoder, entity="query", version="v1")


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="batch_size is 0"):
        text_table(TEXTS, lengths, entity="query", version="v1", batch_size=0)
    sizes = iter([2, 3])
    with pytest.raises(DataError, match="vectors of several sizes: 2 and others"):
        text_table(
            {"a": "x", "b": "y"},
            lambda texts: np.zeros((1, next(sizes))),
            entity="query",
            version="v1",
            batch_size=1,
        )


def test_texts_need_neither_torch_nor_an_encoder_of_their_own():
    code = "import sys, recokit.text; sys.exit(any(name in sys.modules for name in ('torch', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
