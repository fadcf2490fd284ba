"""Popularity, ItemKNN, EASE and FollowCosine against naive dense implementations and small cases by hand."""

import numpy as np
import pandas as pd
import pytest

from recokit.errors import ConfigError, DataError
from recokit.floors import EASE, FollowCosine, ItemKNN, Popularity

FLOORS = [Popularity, ItemKNN, EASE]
CHOICES = [(mine, theirs) for mine in ("follows", "followers") for theirs in ("follows", "followers")]


def interactions(seed, users, items, density=0.2):
    """A frame of planted tastes: users and items of three kinds, and popular items."""
    rng = np.random.default_rng(seed)
    taste = (np.arange(users)[:, None] % 3 == np.arange(items) % 3) * 2.0 * density + 0.02
    matrix = rng.random((users, items)) < taste * np.linspace(0.4, 1.6, items)
    matrix[np.arange(items) % users, np.arange(items)] = True  # every item has someone, every user something
    matrix[np.arange(users), np.arange(users) % items] = True
    user, item = matrix.nonzero()
    return pd.DataFrame({"query": user, "candidate": item}), matrix.astype(np.float64)


def by_pair(candidates):
    return candidates.set_index(["query", "candidate"])["score"]


def naive_frame(scores, k):
    """The k best of each row of a dense matrix, ties by column."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [[int(i) for i in row if np.isfinite(scores[u, i])] for u, row in enumerate(order)]


def lists(candidates, users):
    return [candidates.loc[candidates["query"] == u, "candidate"].tolist() for u in range(users)]


def test_popularity_counts_users_and_breaks_ties_by_id():
    train = pd.DataFrame({"query": ["u", "u", "v", "v", "w"], "candidate": ["b", "c", "b", "a", "b"]})
    floor = Popularity.fit(train)
    found = floor.recommend(["v", "stranger"], k=2, exclude=train)
    assert found.columns.tolist() == ["query", "candidate", "score", "rank"]
    assert found.to_numpy().tolist() == [
        ["v", "c", 1.0, 1],
        ["stranger", "b", 3.0, 1],
        ["stranger", "a", 1.0, 2],
    ]
    assert floor.recommend(["v"], k=10)["candidate"].tolist() == ["b", "a", "c"]


def test_repeats_count_once_and_weights_add_up():
    train = pd.DataFrame({"user": [1, 1, 1, 2], "item": [10, 10, 10, 20], "stars": [1.0, 1.0, 1.0, 5.0]})
    plain = Popularity.fit(train, query="user", candidate="item")
    assert plain.scores.tolist() == [1.0, 1.0]
    weighted = Popularity.fit(train, query="user", candidate="item", weight="stars")
    assert weighted.scores.tolist() == [3.0, 5.0]
    assert weighted.recommend([1], k=2)["candidate"].tolist() == [20, 10]


def naive_knn(matrix, neighbors):
    norm = np.sqrt((matrix**2).sum(axis=0))
    cosine = matrix.T @ matrix / np.outer(norm, norm)
    np.fill_diagonal(cosine, 0.0)
    cosine = cosine.round(12)
    kept = np.zeros_like(cosine)
    for target in range(len(cosine)):
        threshold = np.sort(cosine[target])[::-1][neighbors - 1]
        kept[target] = np.where(cosine[target] >= threshold, cosine[target], 0.0)
    return matrix @ kept.T


@pytest.mark.parametrize("neighbors", [1, 5, 40, 1000])
def test_itemknn_agrees_with_the_dense_definition(neighbors):
    train, matrix = interactions(seed=0, users=50, items=40)
    found = by_pair(ItemKNN.fit(train, neighbors=neighbors).recommend(range(50), k=40))
    naive = naive_knn(matrix, min(neighbors, 40))
    assert len(found) == (naive > 0.0).sum() > 300
    for (user, item), score in found.items():
        assert score == pytest.approx(naive[user, item], abs=1e-9)


def test_itemknn_keeps_neighbours_per_target():
    # a and b share two users, b and c share one. The one neighbour of c is b, though c is not the one of b.
    train = pd.DataFrame({"query": [1, 1, 2, 2, 3, 3], "candidate": ["a", "b", "a", "b", "b", "c"]})
    floor = ItemKNN.fit(pd.concat([train, pd.DataFrame({"query": [4], "candidate": ["b"]})]), neighbors=1)
    found = floor.recommend([4], k=10, exclude=train.assign(query=4).query("candidate == 'b'"))
    assert found["candidate"].tolist() == ["a", "c"]
    assert found["score"].tolist() == pytest.approx([2 / np.sqrt(2 * 4), 1 / np.sqrt(1 * 4)])


def naive_ease_weights(matrix, l2):
    """B of Steck 2019, algorithm 1, line by line."""
    gram = matrix.T @ matrix
    gram[np.diag_indices_from(gram)] += l2
    inverse = np.linalg.inv(gram)
    weights = inverse / (-np.diag(inverse))
    weights[np.diag_indices_from(weights)] = 0.0
    return weights


def naive_ease(matrix, l2):
    return matrix @ naive_ease_weights(matrix, l2)


@pytest.mark.parametrize(("users", "items", "side"), [(60, 30, "items"), (30, 60, "queries")])
def test_both_sides_of_ease_are_the_published_algorithm(users, items, side):
    train, matrix = interactions(seed=1, users=users, items=items)
    floor = EASE.fit(train, l2=7.0)
    naive = naive_ease(matrix, 7.0)
    found = floor.recommend(range(users), k=items)
    assert floor.side == side
    assert len(found) == users * items
    np.testing.assert_allclose(found["score"], naive[found["query"], found["candidate"]], atol=1e-10)
    assert lists(floor.recommend(range(users), k=5), users) == naive_frame(naive, 5)


def test_ease_with_weights_and_in_float32():
    train, matrix = interactions(seed=2, users=20, items=35)
    weight = np.random.default_rng(0).random(len(train)) + 0.5
    weighted = np.zeros_like(matrix)
    weighted[train["query"], train["candidate"]] = weight
    found = EASE.fit(train.assign(w=weight), l2=3.0, weight="w").recommend(range(20), k=35)
    np.testing.assert_allclose(
        found["score"], naive_ease(weighted, 3.0)[found["query"], found["candidate"]], atol=1e-10
    )
    single = EASE.fit(train, l2=3.0, dtype="float32")
    assert single.inverse.dtype == np.float32
    found = single.recommend(range(20), k=35)
    np.testing.assert_allclose(found["score"], naive_ease(matrix, 3.0)[found["query"], found["candidate"]], atol=1e-4)


@pytest.mark.parametrize(("users", "items"), [(60, 30), (30, 60)])
def test_other_histories_are_scored_by_the_weights_that_were_fitted(users, items):
    train, matrix = interactions(seed=8, users=users, items=items)
    recent = train.assign(w=np.random.default_rng(1).random(len(train)) + 0.1)
    weighted = np.zeros_like(matrix)
    weighted[train["query"], train["candidate"]] = recent["w"]
    found = EASE.fit(train, l2=5.0).with_history(recent, weight="w").recommend(range(users), k=items)
    naive = weighted @ naive_ease_weights(matrix, 5.0)
    np.testing.assert_allclose(found["score"], naive[found["query"], found["candidate"]], atol=1e-10)
    with pytest.raises(DataError, match=f"the histories hold {items - 1} items, expected the {items}"):
        EASE.fit(train).with_history(recent[recent["candidate"] > 0], weight="w")


def follows(seed, accounts):
    """A square matrix of follows, no one of themselves, and its frame; the last account follows nobody."""
    matrix = np.random.default_rng(seed).random((accounts, accounts)) < np.linspace(0.05, 0.3, accounts)
    np.fill_diagonal(matrix, False)
    matrix[-1] = False
    source, target = matrix.nonzero()
    return pd.DataFrame({"query": source, "candidate": target}), matrix.astype(np.float64)


def test_follow_cosine_by_hand():
    # 1 follows 3 and 4, 2 follows 3, 5 follows 3 and 4 and 1; 3 follows 2.
    edges = pd.DataFrame({"query": [1, 1, 2, 5, 5, 5, 3], "candidate": [3, 4, 3, 3, 4, 1, 2]})

    def found(*vectors):
        floor = FollowCosine.fit(edges, query_vector=vectors[0], candidate_vector=vectors[1])
        frame = floor.recommend([1, 4], k=9)
        assert frame["rank"].tolist() == [*range(1, len(frame) - frame["query"].eq(4).sum() + 1),
                                          *range(1, frame["query"].eq(4).sum() + 1)]  # fmt: skip
        return {(q, c): s for q, c, s, _ in frame.itertuples(index=False)}

    # Rows: 1 = {3, 4}, 2 = {3}, 3 = {2}, 5 = {3, 4, 1}; 4 follows nobody.
    assert found("follows", "follows") == pytest.approx({(1, 2): 1 / np.sqrt(2), (1, 5): 2 / np.sqrt(6)})
    # Columns: 1 = {5}, 2 = {3}, 3 = {1, 2, 5}, 4 = {1, 5}.
    assert found("followers", "followers") == pytest.approx(
        {(1, 3): 1 / np.sqrt(3), (1, 4): 1 / np.sqrt(2), (4, 1): 1 / np.sqrt(2), (4, 3): 2 / np.sqrt(6)}
    )
    # 1 follows 3, who follows 2.
    assert found("follows", "followers") == pytest.approx({(1, 2): 1 / np.sqrt(2)})


@pytest.mark.parametrize(("mine", "theirs"), CHOICES)
def test_follow_cosine_agrees_with_the_dense_definition(mine, theirs):
    edges, matrix = follows(seed=9, accounts=40)
    x, y = (matrix if vector == "follows" else matrix.T for vector in (mine, theirs))
    norms = np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))
    naive = np.divide(x @ y.T, norms, out=np.zeros((40, 40)), where=norms > 0.0)
    np.fill_diagonal(naive, 0.0)
    naive[matrix > 0.0] = 0.0
    floor = FollowCosine.fit(edges, query_vector=mine, candidate_vector=theirs)
    found = floor.recommend(range(40), k=40, exclude=edges)
    assert len(found) == (naive > 0.0).sum() > 300
    np.testing.assert_allclose(found["score"], naive[found["query"], found["candidate"]], atol=1e-12)
    ranked = np.where(naive > 0.0, naive.round(12), -np.inf)
    assert lists(floor.recommend(range(40), k=5, exclude=edges), 40) == naive_frame(ranked, 5)


def test_follow_cosine_takes_weights_and_ids_of_any_order():
    edges = pd.DataFrame({"from": ["z", "z", "b", "b"], "to": ["c", "a", "c", "a"], "times": [3.0, 4.0, 1.0, 0.0]})
    floor = FollowCosine.fit(edges, query="from", candidate="to", weight="times")
    found = floor.recommend(["z", "a", "stranger"], k=3)
    assert found[["query", "candidate", "rank"]].to_numpy().tolist() == [["z", "b", 1]]
    assert found["score"].tolist() == pytest.approx([3.0 / 5.0])


@pytest.mark.parametrize("floor", FLOORS)
def test_what_is_excluded_is_not_recommended_and_ranks_are_without_gaps(floor):
    train, matrix = interactions(seed=3, users=25, items=30)
    fitted = floor.fit(train)
    everything = fitted.recommend(range(25), k=30)
    found = fitted.recommend(range(25), k=6, exclude=train)
    assert not matrix[found["query"], found["candidate"]].any()
    for user in range(25):
        allowed = [item for item in everything.loc[everything["query"] == user, "candidate"] if not matrix[user, item]]
        mine = found[found["query"] == user]
        assert mine["candidate"].tolist() == allowed[:6]
        assert mine["rank"].tolist() == list(range(1, len(mine) + 1))


@pytest.mark.parametrize("floor", FLOORS)
def test_the_order_of_rows_decides_nothing(floor):
    train, _ = interactions(seed=4, users=30, items=25)
    shuffled = train.sample(frac=1.0, random_state=0)
    a, b = (floor.fit(rows).recommend(range(30), k=10, exclude=rows) for rows in (train, shuffled))
    assert lists(a, 30) == lists(b, 30)


@pytest.mark.parametrize("floor", [ItemKNN, EASE])
def test_planted_tastes_are_recovered_and_popularity_does_not_see_them(floor):
    train, _ = interactions(seed=5, users=120, items=60, density=0.3)

    def share(found):
        return (found["query"] % 3 == found["candidate"] % 3).mean()

    assert share(floor.fit(train).recommend(range(120), k=5, exclude=train)) > 0.9
    assert share(Popularity.fit(train).recommend(range(120), k=5, exclude=train)) < 0.4


@pytest.mark.parametrize("floor", [ItemKNN, EASE])
def test_a_query_without_history_gets_nothing(floor):
    train = pd.DataFrame({"query": ["u", "u", "v", "v"], "candidate": ["a", "b", "a", "c"]})
    found = floor.fit(train).recommend(["stranger", "v", "v"], k=2)
    assert found["query"].unique().tolist() == ["v"]
    assert found["rank"].is_unique
    assert floor.fit(train).recommend(["stranger"], k=2).columns.tolist() == ["query", "candidate", "score", "rank"]


def test_many_items_are_scored_in_chunks(monkeypatch):
    train, _ = interactions(seed=6, users=20, items=30)
    whole = [floor.fit(train).recommend(range(20), k=7, exclude=train) for floor in FLOORS]
    monkeypatch.setattr("recokit.floors.CHUNK", 64)
    for floor, expected in zip(FLOORS, whole, strict=True):
        found = floor.fit(train).recommend(range(20), k=7, exclude=train)
        pd.testing.assert_frame_equal(found, expected)


def test_what_cannot_be_fitted_is_refused():
    train, _ = interactions(seed=7, users=30, items=40)
    with pytest.raises(ConfigError, match=r"inverts a matrix of 30 x 30 .* max_memory is 1e-06 GiB"):
        EASE.fit(train, max_memory=1e-6)
    with pytest.raises(ConfigError, match="l2 of EASE has to be positive, not 0"):
        EASE.fit(train, l2=0)
    with pytest.raises(ConfigError, match="neighbors has to be at least 1"):
        ItemKNN.fit(train, neighbors=0)
    with pytest.raises(ConfigError, match="vector 'folows' does not exist; did you mean 'follows'"):
        FollowCosine.fit(train, candidate_vector="folows")
    with pytest.raises(DataError, match="integer ids in queries and string ids in candidates"):
        FollowCosine.fit(train.assign(candidate=train["candidate"].astype(str)))
    with pytest.raises(ConfigError, match="k has to be at least 1"):
        Popularity.fit(train).recommend([1], k=0)
    with pytest.raises(DataError, match=r"interactions lacks the columns \['user'\]"):
        Popularity.fit(train, query="user")
    with pytest.raises(DataError, match="no rows"):
        EASE.fit(train.iloc[:0])
    with pytest.raises(DataError, match="have no weight at all"):
        ItemKNN.fit(train.assign(w=0.0), weight="w")
    with pytest.raises(DataError, match="string ids in queries and integer ids in the model"):
        EASE.fit(train).recommend(["1"], k=2)
