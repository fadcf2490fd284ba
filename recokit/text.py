"""Vectors of texts as an embedding table: queries, titles, posts. Any encoder does, and none is brought along.

Shapes: N texts, D dimension.
"""

__all__ = ["text_table"]

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError
from recokit.feature_columns import column_of
from recokit.table import Comparator, EmbeddingTable


def text_table(
    texts: Mapping[Any, str] | pd.DataFrame,
    encoder: Callable[[list[str]], Any],
    *,
    entity: str,
    version: str,
    comparator: Comparator = "cos",
    batch_size: int = 1024,
) -> EmbeddingTable:
    """Encode texts and make a table of their vectors, which a ranker reads as it reads any other.

    Args:
        texts: Texts by id, or a frame with the columns ``id`` and ``text``.
        encoder: Takes a list of n texts and returns (n, D) numbers: an array, a tensor on the CPU, or a sparse matrix.
            What it learns, it has learned before: of texts that the ranker may know.
        entity: The entity type, such as ``"query"``.
        version: The version's name.
        comparator: What makes a score of two of the vectors.
        batch_size: Texts that the encoder gets at once.

    Raises:
        DataError: A text is missing or no text, an id is there twice, or what the encoder returns does not fit.

    The transform of scikit-learn's vectorisers is an encoder, and so is the ``encode`` of sentence-transformers:

    >>> from sklearn.feature_extraction.text import HashingVectorizer
    >>> words = HashingVectorizer(n_features=64)
    >>> text_table({"q1": "red shoes", "q2": "blue suede shoes"}, words.transform, entity="query", version="v1").dim
    64

    >>> from sklearn.decomposition import TruncatedSVD
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> pieces = make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)), TruncatedSVD(2))
    >>> tags = {7: "punk rock", 9: "post punk", 12: "hip hop"}
    >>> pieces.fit(list(tags.values())) is pieces
    True
    >>> text_table(tags, pieces.transform, entity="tag", version="v1").rows([9, 8])
    array([ 1, -1])
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, expected at least 1")
    if not isinstance(texts, Mapping | pd.DataFrame):
        raise ConfigError(
            f"texts is a {type(texts).__name__}, expected texts by id or a frame with columns id and text"
        )
    given: Any = encoder  # what a caller's types say is not what comes
    if not callable(given):
        hint = ": pass its .transform" if hasattr(given, "transform") else ""
        raise ConfigError(f"encoder is a {type(encoder).__name__}, expected a function of a list of texts{hint}")
    ids, content = _ids_and_texts(texts)
    for key, text in zip(ids, content, strict=True):
        if not isinstance(text, str):
            raise DataError(f"the text of {entity} {key!r} is {text!r}, expected a string")
    if not content:
        raise DataError(f"there are no texts to make a table {entity!r} of")
    parts = [
        _vectors(encoder, content[start : start + batch_size], entity) for start in range(0, len(content), batch_size)
    ]
    if len({part.shape[1] for part in parts}) > 1:
        raise DataError(f"the encoder of {entity!r} returns vectors of several sizes: {parts[0].shape[1]} and others")
    return EmbeddingTable.from_arrays(ids, np.concatenate(parts), entity=entity, version=version, comparator=comparator)


def _ids_and_texts(texts: Mapping[Any, str] | pd.DataFrame) -> tuple[list[Any], list[Any]]:
    if isinstance(texts, pd.DataFrame):
        return column_of(texts, "id").tolist(), column_of(texts, "text").tolist()
    return list(texts), list(texts.values())


def _vectors(encoder: Callable[[list[str]], Any], texts: list[str], entity: str) -> NDArray[np.float32]:
    found = encoder(texts)
    array = np.asarray(found.toarray() if hasattr(found, "toarray") else found)  # a sparse matrix or an array
    if array.ndim != 2 or len(array) != len(texts) or array.dtype.kind not in "fiu":
        raise DataError(
            f"the encoder of {entity!r} makes {array.dtype} of shape {array.shape} of {len(texts)} texts, expected "
            f"numbers of shape ({len(texts)}, dim)"
        )
    return array.astype(np.float32)
