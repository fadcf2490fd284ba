"""Skip-gram: planted neighbours are found, one seed is one table, and queries are what arithmetic says."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recokit import skipgram
from recokit.candidates import CandidateGenerator
from recokit.errors import ConfigError, DataError, MissingDependencyError
from recokit.index import ExactIndex
from recokit.skipgram import skipgram_queries, skipgram_table
from recokit.table import EmbeddingTable

ROOT = Path(__file__).resolve().parents[2]


def sequences(seed=0, groups=60, items=30):
    """Each group walks through items of its own kind, which is its number modulo 3, as theirs is."""
    rng = np.random.default_rng(seed)
    rows = [(group, item) for group in range(groups) for item in rng.permutation(np.arange(group % 3, items, 3))[:8]]
    return pd.DataFrame(rows, columns=["query", "candidate"])


def trained(frame=None, **settings):
    pytest.importorskip("gensim")
    return skipgram_table(sequences() if frame is None else frame, **{"dim": 16, "epochs": 20, **settings})


def test_items_of_the_same_sequences_become_neighbours():
    table = trained()
    assert (table.comparator, table.dim, table.ids.to_pylist()) == ("cos", 16, list(range(30)))
    found = CandidateGenerator(ExactIndex.build(table), table)(range(30), k=5)
    assert (found["query"] % 3 == found["candidate"] % 3).mean() == 1.0


def test_one_seed_is_one_table_whatever_the_hash_seed_and_the_order_of_groups():
    frame = sequences()
    table = trained(frame)
    backwards = pd.concat([rows for _, rows in reversed(list(frame.groupby("query")))])
    assert trained(backwards).fingerprint == table.fingerprint
    assert trained(frame, seed=1).fingerprint != table.fingerprint
    program = (
        "import pandas as pd; from recokit.skipgram import skipgram_table\n"
        f"frame = pd.DataFrame({frame.to_dict('list')!r})\n"
        "print(skipgram_table(frame, dim=16, epochs=20).fingerprint)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert answer.stdout.strip() == table.fingerprint


def test_time_orders_a_sequence_and_a_narrow_window_sees_the_order():
    # Two halves that never stand side by side but for one place: by rows they alternate, by time they do not.
    items = [item for pair in zip(range(10), range(10, 20), strict=True) for item in pair]
    frame = pd.concat([pd.DataFrame({"query": group, "candidate": items}) for group in range(80)])
    frame = frame.assign(when=frame["candidate"] * 1.5)
    in_time = trained(frame.sort_values(["query", "when"])[["query", "candidate"]], window=1)
    assert trained(frame, window=1, time="when").fingerprint == in_time.fingerprint
    assert trained(frame, window=1).fingerprint != in_time.fingerprint


def test_sentences_are_whole_sequences_and_long_ones_come_in_pieces(monkeypatch):
    # What gensim would drop without a word stands in a sentence of its own.
    monkeypatch.setattr(skipgram, "_LONGEST", 2)
    group, time = pd.Series(["b", "a", "b", "b", "a"]), pd.Series([5, 1, 3, 4, 1])
    codes = np.array([0, 1, 2, 3, 4])
    assert skipgram._sentences(codes, group, None) == [["1", "4"], ["0", "2"], ["3"]]
    assert skipgram._sentences(codes, group, time) == [["1", "4"], ["2", "3"], ["0"]]


def test_queries_are_own_vectors_or_the_mean_at_length_one():
    vectors = np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]], np.float32)
    table = EmbeddingTable.from_arrays([1, 2, 3], vectors, entity="user", version="v", comparator="cos")
    follows = pd.DataFrame({"query": [1, 9, 9, 9, 7, 8], "candidate": [2, 1, 2, 2, 3, 5]})
    own = skipgram_queries(table, follows)
    assert own.ids.to_pylist() == [1, 7, 9]  # 8 follows nobody of the table and is not in it
    np.testing.assert_allclose(own.vectors, [[3.0, 4.0], [0.0, 0.0], [0.3, 0.9]], atol=1e-7)
    mean = skipgram_queries(table, follows, own=False)
    assert mean.ids.to_pylist() == [1, 7, 9]
    np.testing.assert_allclose(mean.vectors[0], [0.0, 1.0], atol=1e-7)
    assert (own.entity, own.version, own.comparator) == ("user", "v", "cos")


@pytest.mark.parametrize(("users", "items"), [(["u", "u", "w"], [1, 2, 3]), ([7, 7, 8], ["a", "b", "c"])])
def test_queries_whose_ids_are_of_another_type_have_no_vector_of_their_own(users, items):
    vectors = np.array([[3.0, 4.0], [0.0, 2.0], [0.0, -5.0]], np.float32)
    table = EmbeddingTable.from_arrays(items, vectors, entity="item", version="v", comparator="cos")
    queries = skipgram_queries(table, pd.DataFrame({"query": users, "candidate": items}))
    assert queries.ids.to_pylist() == [users[0], users[2]]
    np.testing.assert_allclose(queries.vectors, [[0.3, 0.9], [0.0, -1.0]], atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": np.inf}, "learning_rate has to be positive and finite, not inf"),
        ({"power": np.nan}, "power has to be finite, not nan"),
        ({"power": -np.inf}, "power has to be finite, not -inf"),
        ({"subsample": -1}, "subsample has to be 0 or more and finite, not -1"),
        ({"subsample": np.nan}, "subsample has to be 0 or more and finite, not nan"),
        ({"seed": -1}, r"seed has to be an integer from 0 to 2\*\*32 - 1, not -1"),
        ({"seed": 2**32}, r"seed has to be .*, not 4294967296"),
        ({"seed": 1.5}, r"seed has to be .*, not 1.5"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        skipgram_table(sequences(), **settings)


def test_what_cannot_be_trained_is_refused(monkeypatch):
    frame = sequences()
    with pytest.raises(ConfigError, match="window has to be at least 1, not 0"):
        skipgram_table(frame, window=0)
    with pytest.raises(ConfigError, match="learning_rate has to be positive and finite, not 0"):
        skipgram_table(frame, learning_rate=0)
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(MissingDependencyError, match=r"skipgram_table needs .*'gensim'.*recokit\[word2vec\]"):
        skipgram_table(frame)
    monkeypatch.undo()
    pytest.importorskip("gensim")
    with pytest.raises(DataError, match="sequences has no rows"):
        skipgram_table(frame.iloc[:0])
    with pytest.raises(DataError, match=r"sequences lacks the columns \['account'\]"):
        skipgram_table(frame, item="account")
