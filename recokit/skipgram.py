"""Skip-gram with negative sampling on sequences of items (word2vec, Mikolov et al. 2013), trained by gensim.

The "Follow-Sequence SkipGram" of TwHIN's Table 1: a sentence is what one user followed, a word is an account. Accounts
that stand in the same follows get similar vectors.

    table = skipgram_table(follows, group="query", item="candidate", dim=64, seed=0)
    users = skipgram_queries(table, follows, group="query", item="candidate")
    CandidateGenerator(ExactIndex.build(table), users)(["ann"], exclude=follows)

Decisions: one thread, and sequences in the order of their groups' ids, so that one seed gives one table whatever the
order of groups or PYTHONHASHSEED is. No item is too rare for a vector. A window is at most ``window`` items to either
side, of a width that is drawn anew for every centre; where the order means nothing, let it span whole sequences.
"""

__all__ = ["skipgram_queries", "skipgram_table"]

import math

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, MissingDependencyError
from recokit.metrics.arrays import as_pairs, at_least_one
from recokit.table import EmbeddingTable, id_array
from recokit.table.ids import id_type_of

_LONGEST = 10_000  # gensim drops what stands behind it in a sentence


def skipgram_table(
    sequences: pd.DataFrame,
    *,
    group: str = "query",
    item: str = "candidate",
    time: str | None = None,
    dim: int = 64,
    window: int = 10,
    negatives: int = 5,
    epochs: int = 10,
    learning_rate: float = 0.025,
    power: float = 0.75,
    subsample: float = 0.0,
    seed: int = 0,
    entity: str = "item",
    version: str = "skipgram",
) -> EmbeddingTable:
    """Train skip-gram on the sequence of each group and return the items' vectors, compared by cosine.

    Args:
        sequences: One row per item of a sequence.
        group: Column of whose sequence it is.
        item: Column of the items.
        time: Column that orders a group's rows; without it the order of the rows.
        dim: D, length of a vector.
        window: Items to either side that count as context, at most.
        negatives: Negatives drawn for each pair.
        epochs: Passes over the sequences.
        learning_rate: At the start; it falls linearly to almost 0.
        power: Negatives are drawn in proportion to count to this power; recommenders may want it negative
            (Caselles-Dupre et al. 2018).
        subsample: Threshold from which frequent items are dropped at random; 0 drops none.
        seed: Of the first vectors, the windows and the negatives.
        entity: Entity type of the table.
        version: Version of the table.

    Raises:
        MissingDependencyError: gensim is not installed.
        DataError: A column or an id is missing, or there are no rows.
        ConfigError: A number is out of range.
    """
    for name, value in {"dim": dim, "window": window, "negatives": negatives, "epochs": epochs}.items():
        at_least_one(value, name)
    if not 0.0 < learning_rate < math.inf:
        raise ConfigError(f"learning_rate has to be positive and finite, not {learning_rate}")
    if not math.isfinite(power):
        raise ConfigError(f"power has to be finite, not {power}")
    if not 0.0 <= subsample < math.inf:
        raise ConfigError(f"subsample has to be 0 or more and finite, not {subsample}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed has to be an integer from 0 to 2**32 - 1, not {seed!r}")
    try:
        from gensim.models import Word2Vec
    except ImportError as error:
        raise MissingDependencyError("gensim", extra="word2vec", needed_for="skipgram_table") from error
    rows = as_pairs(sequences, "sequences", [group, item] + ([time] if time else []))
    if not len(rows):
        raise DataError("sequences has no rows: there is nothing to learn from")
    codes, items = pd.factorize(rows[item], sort=True)
    model = Word2Vec(
        vector_size=dim,
        window=window,
        sg=1,
        negative=negatives,
        ns_exponent=power,
        sample=subsample,
        alpha=learning_rate,
        min_count=1,
        seed=seed,
        workers=1,
    )
    sentences = _sentences(codes, rows[group], rows[time] if time else None)
    model.build_vocab(sentences)
    model.train(sentences, total_examples=model.corpus_count, epochs=epochs)
    vectors = model.wv[[str(code) for code in range(len(items))]]
    return EmbeddingTable.from_arrays(
        pa.array(items), np.ascontiguousarray(vectors), entity=entity, version=version, comparator="cos"
    )


def skipgram_queries(
    table: EmbeddingTable,
    sequences: pd.DataFrame,
    *,
    group: str = "query",
    item: str = "candidate",
    own: bool = True,
) -> EmbeddingTable:
    """Vectors for those who ask: their own as an item, or the mean of their items' vectors at length 1.

    Args:
        table: What ``skipgram_table`` returned.
        sequences: Their items; of those that the table does not have nothing is taken.
        group: Column of who asks.
        item: Column of the items.
        own: Take the group's own vector where it is an item itself, as TwHIN queries accounts with accounts; groups
            whose ids are of another type than the items' are none. False takes the mean for all; a group without any
            item of the table is then left out.

    Returns:
        A table of the same entity, version and comparator, of the groups in ascending order.
    """
    rows = as_pairs(sequences, "sequences", [group, item]).drop_duplicates()
    code, groups = pd.factorize(rows[group], sort=True)
    at = table.rows(rows[item])
    code, at = code[at >= 0], at[at >= 0]
    unit = table.vectors / np.maximum(np.linalg.norm(table.vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    summed = np.zeros((len(groups), table.dim), np.float32)
    np.add.at(summed, code, unit[at])
    count = np.bincount(code, minlength=len(groups))
    vectors = summed / np.maximum(count, 1)[:, None].astype(np.float32)
    known = count > 0
    if own and id_type_of(id_array(groups)) == table.id_type:
        mine = table.rows(groups)
        vectors[mine >= 0] = table.vectors[mine[mine >= 0]]
        known |= mine >= 0
    return EmbeddingTable.from_arrays(
        pa.array(groups[known]), vectors[known], entity=table.entity, version=table.version, comparator="cos"
    )


def _sentences(codes: NDArray[np.int64], group: pd.Series, time: pd.Series | None) -> list[list[str]]:
    """One list of words a group, in the order of groups, then of time, then of rows; long ones in pieces."""
    number = pd.factorize(group, sort=True)[0]
    keys = [number] if time is None else [time.rank(method="dense").to_numpy(), number]
    order = np.lexsort((np.arange(len(codes)), *keys))
    starts = np.flatnonzero(np.diff(number[order])) + 1
    words = [part.astype(str).tolist() for part in np.split(codes[order], starts)]
    return [sentence[at : at + _LONGEST] for sentence in words for at in range(0, len(sentence), _LONGEST)]
