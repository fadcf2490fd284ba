"""Planted interests: the network is what it says, and the measures give what loops and arithmetic give."""

import numpy as np
import pandas as pd
import pytest

from pretrain import Graph, Relation
from pretrain.interests import (
    component_interests,
    interest_coverage,
    interest_recall,
    planted_interests,
    planted_places,
    purity,
)
from recokit.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def planted():
    return planted_interests(users=3000, items=2000, topics=20, seed=1)


def pairs(frame):
    return set(frame[["source", "target"]].itertuples(index=False, name=None))


def counts_by_topic(planted, frames):
    counts = np.zeros(planted.weights.shape, dtype=int)
    edges = pd.concat(frames)
    np.add.at(counts, (edges["source"], planted.topic[edges["target"]]), 1)
    return counts


def test_users_have_one_to_five_weighted_interests(planted):
    num = planted.interests.sum(axis=1)
    assert np.bincount(num)[1:] == pytest.approx([600] * 5, abs=4 * np.sqrt(3000 * 0.2 * 0.8))
    np.testing.assert_allclose(planted.weights.sum(axis=1), 1.0, atol=1e-12)
    assert planted.weights[planted.interests].min() >= 0.1 - 1e-12
    for size in (2, 5):
        largest = planted.weights[num == size].max(axis=1)
        # Of n uniform parts of the simplex the largest has the mean (1 + 1/2 + ... + 1/n) / n.
        mean = 0.1 + (1 - 0.1 * size) * sum(1 / i for i in range(1, size + 1)) / size
        assert largest.mean() == pytest.approx(mean, abs=0.02)


def test_topics_are_independent_of_each_other(planted):
    together = planted.interests.T.astype(int) @ planted.interests  # users by pair of topics
    others = together[~np.eye(20, dtype=bool)]
    expected = 3000 * (0 + 2 + 6 + 12 + 20) / 5 / (20 * 19)
    assert others.mean() == pytest.approx(expected, rel=0.1)
    assert abs(others - expected).max() < 5 * np.sqrt(expected)
    assert np.bincount(planted.topic).tolist() == [100] * 20


def test_edges_follow_weights_and_noise(planted):
    counts = counts_by_topic(planted, [planted.known, planted.held_out])
    assert counts.sum(axis=1).tolist() == [40] * 3000
    astray = np.where(planted.interests, 0, counts).sum() / counts.sum()
    # Noise hits an interest too, of 20 topics three on average, but not the items that the user has of it already.
    assert 0.05 * (1 - 3 / 20) < astray < 0.05
    clean = planted_interests(users=500, items=2000, noise=0.0, seed=2)
    counts = counts_by_topic(clean, [clean.known, clean.held_out])
    assert (abs(counts - 40 * clean.weights) < 1).all()  # rounded up or down
    assert (counts[~clean.interests] == 0).all()
    assert (counts - 40 * clean.weights)[clean.interests].mean() == pytest.approx(0.0, abs=0.02)


def test_known_and_held_out_edges_are_apart_and_show_every_interest(planted):
    assert not pairs(planted.known) & pairs(planted.held_out)
    assert len(pairs(planted.known)) + len(pairs(planted.held_out)) == len(planted.known) + len(planted.held_out)
    assert planted.known["source"].value_counts().unique().tolist() == [32]
    assert planted.held_out["source"].value_counts().unique().tolist() == [8]
    known = counts_by_topic(planted, [planted.known])
    assert known[planted.interests].min() >= 2
    held_out = counts_by_topic(planted, [planted.held_out])
    # Of an interest of n edges floor(n / 5) or one more is held out; n is known but for noise that hits the topic.
    assert (held_out[planted.interests] <= (known + held_out)[planted.interests] / 5 + 2).all()
    odd = planted_interests(users=200, items=200, topics=10, degree=7, held_out=0.3, seed=4)
    assert set(odd.held_out["source"].value_counts()) <= {2, 3}
    assert len(odd.held_out) == pytest.approx(0.3 * (len(odd.held_out) + len(odd.known)), rel=0.05)
    assert not len(planted_interests(users=20, items=100, topics=10, held_out=0.0).held_out)


def test_popularity_falls_by_a_power_of_the_rank():
    # Few edges a topic, so that hardly any item is drawn twice by a user.
    planted = planted_interests(
        users=40000, items=1000, topics=10, most=1, degree=3, least=1.0, noise=0.0, exponent=0.5, held_out=0.0, seed=3
    )
    counts = np.bincount(planted.known["target"], minlength=1000)
    ranked = np.sort(np.stack([counts[planted.topic == topic] for topic in range(10)]), axis=1)[:, ::-1].sum(axis=0)
    expected = np.arange(1, 101) ** -0.5
    # Sorting makes the last ones a little rarer than they are.
    np.testing.assert_allclose(ranked[:90] / ranked.sum(), expected[:90] / expected.sum(), rtol=0.1)
    flat = planted_interests(users=4000, items=100, topics=10, degree=3, exponent=0.0, held_out=0.0, seed=3)
    assert np.bincount(flat.known["target"]).std() < 0.15 * np.bincount(flat.known["target"]).mean()


def test_the_seed_decides_and_ids_are_rows(planted):
    again = planted_interests(users=3000, items=2000, topics=20, seed=1)
    for name in ("known", "held_out"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(planted, name))
    assert (again.weights == planted.weights).all()
    assert (again.topic == planted.topic).all()
    assert planted.source == "planted interests (seed 1)"
    assert pairs(planted_interests(users=3000, items=2000, topics=20, seed=2).known) != pairs(planted.known)
    graph = Graph.from_frames({"likes": planted.known}, [Relation("likes", "user", "item")])
    assert pairs(graph.pairs("likes").rename(columns={"query": "source", "candidate": "target"})) == pairs(
        planted.known
    )


def test_small_topics_give_what_they_have():
    tiny = planted_interests(users=50, items=6, topics=2, most=1, degree=10, least=1.0, noise=0.0, held_out=0.0)
    assert (tiny.known.groupby("source").size() <= 3).all()
    assert (planted_interests(users=1, items=1, topics=1, most=1, degree=1, held_out=0.0).weights == 1.0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"users": 0}, "users is 0, expected 1 or more"),
        ({"most": 5, "topics": 4}, "most, topics and items are 5, 4 and 2000"),
        ({"items": 10, "topics": 20}, "most, topics and items are 5, 20 and 10"),
        ({"noise": 1.0}, "noise is 1.0, expected 0 or more and less than 1"),
        ({"held_out": -0.1}, "held_out is -0.1"),
        ({"least": 0.3}, "least is 0.3: 5 interests of that weight"),
        ({"least": 0.0}, "least is 0.0: 5 interests of that weight"),
    ],
)
def test_impossible_networks_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        planted_interests(**settings)


@pytest.fixture(scope="module")
def near():
    return planted_places(users=600, items=1000, seed=1)


def test_users_have_one_to_five_places_on_the_sphere(near):
    there = near.weights > 0
    assert np.bincount(there.sum(axis=1))[1:] == pytest.approx([120] * 5, abs=4 * np.sqrt(600 * 0.2 * 0.8))
    np.testing.assert_allclose(near.weights.sum(axis=1), 1.0, atol=1e-12)
    assert near.weights[there].min() >= 0.1 - 1e-12
    np.testing.assert_allclose(np.linalg.norm(near.places, axis=2), there, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(near.positions, axis=1), 1.0, atol=1e-12)
    # Even: along an axis the heights of points of a sphere of three dimensions are uniform from -1 to 1.
    for points in (near.places[there], near.positions):
        tenths = np.stack([np.histogram(points[:, axis], 10, (-1, 1))[0] for axis in range(3)])
        np.testing.assert_allclose(tenths, len(points) / 10, atol=5 * np.sqrt(len(points) / 10))


def naive_chances(near, user, width, noise, popularity):
    """p(i) of the docstring, one item after the other."""
    chances = [noise * each / sum(popularity) for each in popularity]
    for weight, place in zip(near.weights[user], near.places[user], strict=True):
        if weight > 0:
            bell = [
                np.exp(-((position - place) ** 2).sum() / (2 * width**2)) * each
                for position, each in zip(near.positions, popularity, strict=True)
            ]
            chances = [chance + (1 - noise) * weight * b / sum(bell) for chance, b in zip(chances, bell, strict=True)]
    return np.array(chances)


def test_items_are_drawn_by_place_and_popularity():
    """One edge a user: over users, every item comes as often as the sum of its chances says."""
    settings = {"items": 30, "degree": 1, "width": 0.5, "held_out": 0.0, "cells": 4, "seed": 5}
    near = planted_places(**settings, users=3000, exponent=1.0, noise=0.2)
    # The same seed draws the same popularities, which all but noise alone shows.
    popularity = np.bincount(planted_places(**settings, users=100000, exponent=1.0, noise=0.9999).known["target"])
    chances = np.stack([naive_chances(near, user, 0.5, 0.2, popularity) for user in range(3000)])
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)
    taken, expected = np.bincount(near.known["target"], minlength=30), chances.sum(axis=0)
    assert (abs(taken - expected) < 4 * np.sqrt((chances * (1 - chances)).sum(axis=0)) + 0.02 * expected).all()
    # And by user: mean log chance of what was taken is what these chances expect, which others would not.
    logs = np.log(chances)
    mean = (chances * logs).sum(axis=1)
    spread = np.sqrt(((chances * logs**2).sum(axis=1) - mean**2).sum()) / 3000
    assert abs(logs[near.known["source"], near.known["target"]].mean() - mean.mean()) < 4 * spread


def test_popularity_of_items_is_a_power_of_a_rank_that_knows_no_position():
    near = planted_places(
        users=40000, items=50, degree=1, width=0.3, noise=0.999, exponent=1.0, held_out=0.0, cells=5, seed=2
    )
    taken = np.sort(np.bincount(near.known["target"], minlength=50))[::-1]
    expected = 40000 * np.arange(1, 51) ** -1.0 / (np.arange(1, 51) ** -1.0).sum()
    np.testing.assert_allclose(taken, expected, atol=5 * np.sqrt(expected.max()), rtol=0.1)


def test_edges_of_places_are_near_them_but_for_noise(near):
    edges = pd.concat([near.known, near.held_out])
    assert edges["source"].value_counts().unique().tolist() == [40]
    assert not edges.duplicated().any()
    # Far from any place, 4 widths, there is noise alone: .03 of the draws, of which most are that far.
    far = np.linalg.norm(
        near.positions[edges["target"]][:, None] - near.places[edges["source"]], axis=2
    ).min(axis=1) > 4 * 0.12  # fmt: skip
    several = (near.weights[edges["source"]] > 0).sum(axis=1) == 5
    assert 0.01 < far[several].mean() < 0.05
    clean = planted_places(users=100, items=1000, noise=0.0, seed=3)
    nearest = (clean.positions[clean.known["target"]][:, None] * clean.places[clean.known["source"]]).sum(axis=2)
    assert np.quantile(np.arccos(nearest.max(axis=1)), 0.95) < 4 * 0.12


def test_edges_of_every_place_are_held_out_alike(near):
    assert near.known["source"].value_counts().unique().tolist() == [32]
    assert near.held_out["source"].value_counts().unique().tolist() == [8]

    def of_place(frame):
        user = frame["source"].to_numpy()
        inner = np.where(
            near.weights[user] > 0, (near.places[user] * near.positions[frame["target"]][:, None]).sum(axis=2), -2.0
        )
        counts = np.zeros(near.weights.shape)
        np.add.at(counts, (user, inner.argmax(axis=1)), 1)
        return counts

    known, held_out = of_place(near.known), of_place(near.held_out)
    assert (known[near.weights > 0] >= 1).mean() > 0.99
    # A fifth of each place's, were it not for edges between two places and for noise, which are of another group.
    apart = abs(held_out - (known + held_out) / 5)[near.weights > 0]
    assert (apart <= 1).mean() > 0.95
    assert apart.max() < 3


def test_cells_part_the_items_and_are_the_interests_of_places(near):
    assert near.topic.tolist() == [int(np.argmax([x @ cell for cell in near.cells])) for x in near.positions]
    sizes = np.bincount(near.topic, minlength=20)
    assert sizes.sum() == 1000
    assert 20 < sizes.min() <= sizes.max() < 100  # of 50 on average
    for cell in range(20):  # k-means: centers are means of their items, cut to length 1
        mean = near.positions[near.topic == cell].mean(axis=0)
        np.testing.assert_allclose(near.cells[cell], mean / np.linalg.norm(mean), atol=0.05)
    expected = np.zeros((600, 20), dtype=bool)
    for user in range(600):
        for weight, place in zip(near.weights[user], near.places[user], strict=True):
            if weight > 0:
                expected[user, int(np.argmin(((near.cells - place) ** 2).sum(axis=1)))] = True
    assert (near.interests == expected).all()


def test_planted_places_reach_the_limit_of_the_measures(near):
    """Purity and recall of the places themselves; a mean of a user's places is about one of them at most."""
    majority, share = component_interests(near.places.reshape(-1, 3), near.positions, near.topic)
    rows = np.where(near.weights > 0, np.arange(3000).reshape(600, 5), -1)
    assert 0.75 < purity(share, rows, near.weights).mean() < 0.85
    assert 0.9 < interest_recall(near.interests, majority, rows, near.weights).mean() < 0.97
    majority, _ = component_interests((near.weights[:, :, None] * near.places).sum(axis=1), near.positions, near.topic)
    one = interest_recall(near.interests, majority, np.arange(600)[:, None], np.ones((600, 1)))
    assert (one <= 1 / near.interests.sum(axis=1)).all()
    assert one[near.interests.sum(axis=1) > 2].mean() < 0.25


def test_the_seed_decides_places_and_memory_does_not(near, monkeypatch):
    monkeypatch.setattr("pretrain.interests._NUMBERS", 7 * 5 * 1000)  # seven users at a time
    again = planted_places(users=600, items=1000, seed=1)
    for name in ("known", "held_out"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(near, name))
    for name in ("weights", "places", "positions", "cells", "topic"):
        np.testing.assert_array_equal(getattr(again, name), getattr(near, name))
    assert near.source == "planted places (seed 1)"
    assert pairs(planted_places(users=600, items=1000, seed=2).known) != pairs(near.known)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"items": 0}, "items is 0, expected 1 or more"),
        ({"items": 30}, "degree is 40, expected at most the 30 items"),
        ({"items": 50, "cells": 60}, "cells is 60, expected at most the 50 items"),
        ({"latent": 1}, "latent is 1, expected 2 or more"),
        ({"width": 0.0}, "width is 0.0, expected more than 0"),
        ({"held_out": 1.0}, "held_out is 1.0, expected 0 or more and less than 1"),
        ({"least": 0.3}, "least is 0.3: 5 interests of that weight"),
    ],
)
def test_impossible_places_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        planted_places(**settings)


# Three topics along three axes, four items each, a little apart.
ITEMS = np.repeat(np.eye(3), 4, axis=0) + 0.01 * np.tile(np.arange(4), 3)[:, None]
TOPIC = np.repeat([5, 2, 9], 4)


def test_the_interest_of_a_component_is_the_majority_of_its_neighbours():
    components = np.array([[3.0, 0, 0], [0, 1e-3, 0], [1.0, 0.9, 0], [0.0, 0, 0]])
    majority, share = component_interests(components, ITEMS, TOPIC, nearest=4)
    assert majority.tolist()[:2] == [5, 2]
    assert share.tolist()[:2] == [4 / 4, 4 / 4]
    assert majority[3] == 5  # all items are as near, so the first four are
    # The 8 nearest of the third: four of either topic, of which 2 is smaller; the 6 nearest: most of the nearer one.
    majority, share = component_interests(components[2:3], ITEMS, TOPIC, nearest=8)
    assert (majority.tolist(), share.tolist()) == ([2], [4 / 8])
    majority, share = component_interests(components[2:3], ITEMS, TOPIC, nearest=6)
    assert (majority.tolist(), share.tolist()) == ([5], [4 / 6])


def test_neighbours_agree_with_a_loop():
    rng = np.random.default_rng(0)
    items, components = rng.standard_normal((60, 3)), rng.standard_normal((1500, 3)).astype(np.float32)
    topic = rng.integers(0, 6, 60)
    majority, share = component_interests(components, items, topic, nearest=7)
    for row, component in enumerate(components.astype(np.float64)):
        cosines = [component @ item / np.sqrt((component @ component) * (item @ item)) for item in items]
        near = topic[np.argsort(cosines)[-7:]].tolist()
        best = max(sorted(set(near)), key=near.count)
        assert (majority[row], share[row]) == (best, near.count(best) / 7)


def test_ties_of_neighbours_go_to_the_smaller_rows():
    items = np.eye(2)[[1, 0, 0, 0, 0]]
    majority, share = component_interests(np.array([[1.0, 0.0]]), items, np.array([0, 3, 3, 1, 1]), nearest=3)
    assert (majority.tolist(), share.tolist()) == ([3], [2 / 3])


def test_purity_is_weighted_by_the_mixture():
    share = np.array([1.0, 0.5, 0.25])
    rows = np.array([[0, 1], [2, -1], [1, 0]])
    weights = np.array([[0.75, 0.25], [1.0, 0.0], [3.0, 1.0]])
    expected = [0.75 * 1.0 + 0.25 * 0.5, 0.25, (3 * 0.5 + 1 * 1.0) / 4]
    np.testing.assert_allclose(purity(share, rows, weights), expected)
    np.testing.assert_allclose(purity(share, np.array([[2, -1]]), np.array([[1.0, 7.0]])), [0.25])


def test_recall_counts_interests_that_a_component_of_some_weight_has():
    interests = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]], dtype=bool)
    majority = np.array([0, 1, 2, 3])
    rows = np.array([[0, 1, 2], [3, 3, -1], [2, 0, 1]])
    weights = np.array([[0.9, 0.06, 0.04], [0.5, 0.5, 0.0], [0.4, 0.3, 0.3]])
    assert interest_recall(interests, majority, rows, weights).tolist() == [2 / 2, 1 / 4, 0 / 1]
    assert interest_recall(interests, majority, rows, weights, least=0.1).tolist() == [1 / 2, 1 / 4, 0 / 1]
    exactly = np.array([[0.9, 0.05, 0.05]])
    for weights in (exactly, exactly.astype(np.float32)):
        assert interest_recall(interests[:1], majority, rows[:1], weights).tolist() == [2 / 2]
    # A single vector; and the last row is never taken for "no component".
    assert interest_recall(interests, majority, np.array([[0], [1], [3]]), np.ones((3, 1))).tolist() == [0.5, 0.25, 1.0]
    assert interest_recall(
        interests[2:], majority, np.array([[0, -1]]), np.array([[0.5, 0.5]]), least=0.0
    ).tolist() == [0.0]


def test_coverage_of_a_list_counts_each_interest_once():
    interests = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1]], dtype=bool)
    topic = np.array([0, 0, 1, 2])
    rows = [(1, 0, 1), (1, 1, 2), (1, 3, 3), (0, 2, 1), (0, 3, 2), (2, 3, 11)]
    candidates = pd.DataFrame(rows, columns=["query", "candidate", "rank"])
    assert interest_coverage(interests, topic, candidates).to_dict() == {0: 1 / 2, 1: 2 / 3, 2: 0.0}
    assert interest_coverage(interests, topic, candidates, k=2).to_dict() == {0: 1 / 2, 1: 1 / 3, 2: 0.0}
    assert interest_coverage(interests, topic, candidates, k=11)[2] == 1.0
    with pytest.raises(DataError, match="'candidate' has to hold rows from 0 to 2, it holds int64 from 0 to 3"):
        interest_coverage(interests, topic[:3], candidates)
    with pytest.raises(DataError, match="'query' has to hold rows from 0 to 2, it holds"):
        interest_coverage(interests, topic, candidates.astype({"query": str}))


def test_mixtures_find_what_a_single_vector_cannot(planted):
    """With the true vectors: a component a topic finds all, the mean of a user's topics finds the heaviest."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((20, 16))
    items = topics[planted.topic] + 0.3 * rng.standard_normal((2000, 16))
    majority, share = component_interests(topics, items, planted.topic)
    assert majority.tolist() == list(range(20))
    order = np.argsort(-planted.weights, axis=1)[:, :5]
    weights = np.take_along_axis(planted.weights, order, axis=1)
    rows = np.where(weights > 0, order, -1)
    assert purity(share, rows, weights).min() > 0.95
    assert (interest_recall(planted.interests, majority, rows, weights) == 1.0).all()
    one = np.arange(3000)[:, None]
    majority, _ = component_interests(planted.weights @ topics, items, planted.topic)
    recall = interest_recall(planted.interests, majority, one, np.ones((3000, 1)))
    num = planted.interests.sum(axis=1)
    assert (recall <= 1 / num).all()
    assert recall[num == 1].mean() == 1.0
    assert 0.12 < recall[num == 5].mean() <= 0.2


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match=r"components \(2, 3\) and items \(12, 2\) have to be rows of one dimension"):
        component_interests(np.ones((2, 3)), ITEMS[:, :2], TOPIC)
    with pytest.raises(DataError, match=r"topics \(12,\) of items \(12, 3\) have to be one each, and at least 20"):
        component_interests(np.ones((2, 3)), ITEMS, TOPIC)
    with pytest.raises(ConfigError, match="nearest is 0"):
        component_interests(np.ones((2, 3)), ITEMS, TOPIC, nearest=0)
    with pytest.raises(DataError, match="rows run from -1 to 3, expected -1 to 2"):
        purity(np.ones(3), np.array([[3, -1]]), np.ones((1, 2)))
    with pytest.raises(DataError, match=r"rows \(1, 2\) and weights \(1, 1\)"):
        purity(np.ones(3), np.array([[2, -1]]), np.ones((1, 1)))
    with pytest.raises(DataError, match="1 of 2 users have no component with a weight, the first is 1"):
        purity(np.ones(3), np.array([[2, -1], [-1, -1]]), np.ones((2, 2)))
    with pytest.raises(DataError, match=r"interests \(2, 4\) and components \(1, 1\)"):
        interest_recall(np.ones((2, 4), dtype=bool), np.array([0]), np.array([[0]]), np.ones((1, 1)))
