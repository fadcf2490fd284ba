"""Planted graphs on which a trainer's quality can be seen, of any size, drawn in seconds.

Entities belong to groups, and within a group some are more popular than others by a power of their rank; an edge goes
from an entity to a member of the group that its own group and the relation say, and sometimes anywhere.  What there is
to be learned is which group goes with which, and who is popular in it.  Nothing measured here says anything of real
data.
Shapes: N entities, E edges, U users, I items, G groups.
"""

__all__ = ["Parts", "codex", "communities", "interactions", "knowledge"]

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Parts:
    """A graph in three parts, edges as rows (E, 3): source, relation, target.

    Attributes:
        name: What it is called.
        entities: N; rows run to it.
        relations: Number of relations.
        train: Edges to train on.
        valid: Edges to choose settings by.
        test: Edges to report.
    """

    name: str
    entities: int
    relations: int
    train: Rows
    valid: Rows
    test: Rows


def knowledge(
    *,
    entities: int = 14_541,
    relations: int = 237,
    edges: int = 272_115,
    held_out: int = 10_000,
    types: int = 12,
    topics: int = 40,
    seed: int = 0,
) -> Parts:
    """Plant a knowledge graph of the size of FB15k-237.

    An entity has a type and a topic.  A relation goes from one type to one type, and to the topic of the source or, a
    third of the relations, to the one that one of three permutations leads to.  Relations are of very unequal size.
    """
    rng = np.random.default_rng(seed)
    popularity = _power(rng, entities, 0.8)
    type_of, topic_of = rng.integers(types, size=entities), rng.integers(topics, size=entities)
    typed = _Members(type_of, types, popularity**0.5)
    members = _Members(type_of * topics + topic_of, types * topics, popularity)
    ends = rng.integers(types, size=(2, relations))
    leads = np.concatenate([np.tile(np.arange(topics), (6, 1)), rng.random((3, topics)).argsort(axis=1)])  # (9, G)
    way = rng.integers(len(leads), size=relations)
    sizes = _power(rng, relations, 0.8)

    def draw(count: int) -> Rows:
        relation = _weighted(rng, sizes, count)
        source = typed.draw(rng, ends[0, relation])
        topic = leads[way[relation], topic_of[source]]
        target = _noisy(rng, members.draw(rng, ends[1, relation] * topics + topic), popularity, 0.1)
        return np.stack([source, relation, target], axis=1)

    return _parts("knowledge", entities, relations, _distinct(rng, draw, edges + 2 * held_out, entities), held_out)


def communities(
    *, entities: int = 1_000_000, edges: int = 10_000_000, held_out: int = 10_000, groups: int = 2_000, seed: int = 0
) -> Parts:
    """Plant a network of one relation: everybody is in two communities and follows the popular of either."""
    rng = np.random.default_rng(seed)
    popularity = _power(rng, entities, 0.7)
    own = rng.integers(groups, size=(2, entities))  # (2, N)
    members = [_Members(each, groups, popularity) for each in own]

    def draw(count: int) -> Rows:
        source = _weighted(rng, popularity**0.5, count)
        drawn = np.stack([each.draw(rng, group[source]) for each, group in zip(members, own, strict=True)])
        target = _noisy(rng, drawn[rng.integers(2, size=count), np.arange(count)], popularity, 0.15)
        return np.stack([source, np.zeros_like(source), target], axis=1)

    return _parts("communities", entities, 1, _distinct(rng, draw, edges + 2 * held_out, entities), held_out)


def codex(folder: Path) -> Parts:
    """Read train.txt, valid.txt and test.txt: source, relation and target parted by tabs, no header."""
    frames = [pd.read_csv(folder / f"{part}.txt", sep="\t", header=None, dtype=str) for part in _PARTS]
    both = pd.concat(frames, keys=_PARTS)
    ends, entities = pd.factorize(pd.concat([both[0], both[2]]), sort=True)
    relation, relations = pd.factorize(both[1], sort=True)
    source, target = np.split(ends.astype(np.int64), 2)
    edges = np.stack([source, relation.astype(np.int64), target], axis=1)
    train, valid, test = np.split(edges, np.cumsum([len(frame) for frame in frames])[:-1])
    return Parts("codex", len(entities), len(relations), train, valid, test)


_PARTS = ("train", "valid", "test")


def interactions(
    *, users: int = 40_000, items: int = 10_000, pairs: int = 1_000_000, topics: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Plant who meets what: columns user, item; a pair once.

    Users have four interests of unequal strength, items two topics; popularity falls with a power of the rank, and
    users differ in how much they meet.
    """
    rng = np.random.default_rng(seed)
    popularity, activity = _power(rng, items, 0.7), rng.lognormal(0.0, 0.8, users)
    members = [_Members(rng.integers(topics, size=items), topics, popularity) for _ in range(2)]
    interests = rng.integers(topics, size=(users, 4))  # (U, 4)

    def draw(count: int) -> Rows:
        user = _weighted(rng, activity, count)
        topic = interests[user, rng.choice(4, size=count, p=[0.4, 0.3, 0.2, 0.1])]
        drawn = np.stack([each.draw(rng, topic) for each in members])
        item = _noisy(rng, drawn[rng.integers(2, size=count), np.arange(count)], popularity, 0.15)
        return np.stack([user, np.zeros_like(user), item], axis=1)

    found = _distinct(rng, draw, pairs, max(users, items), loops=True)
    return pd.DataFrame({"user": found[:, 0], "item": found[:, 2]})


class _Members:
    """Members of every group, to be drawn in proportion to their popularity."""

    def __init__(self, group_of: Rows, groups: int, popularity: NDArray[np.float64]) -> None:
        self.order = np.argsort(group_of, kind="stable")
        self.ends = np.cumsum(np.bincount(group_of, minlength=groups))
        self.cumulated = np.concatenate([[0.0], np.cumsum(popularity[self.order])])

    def draw(self, rng: np.random.Generator, wanted: Rows) -> Rows:
        """Draw a member of each wanted group; of an empty one, a neighbour's."""
        last = self.ends[wanted]
        first = np.where(wanted > 0, self.ends[wanted - 1], 0)
        low, high = self.cumulated[first], self.cumulated[last]
        place = np.searchsorted(self.cumulated, low + rng.random(len(wanted)) * (high - low), side="right") - 1
        return self.order[np.clip(place, first, np.maximum(last - 1, first)).clip(0, len(self.order) - 1)]


def _power(rng: np.random.Generator, count: int, power: float) -> NDArray[np.float64]:
    return (1.0 + rng.permutation(count)) ** -power


def _weighted(rng: np.random.Generator, weights: NDArray[np.float64], count: int) -> Rows:
    cumulated = np.cumsum(weights)
    return np.searchsorted(cumulated, rng.random(count) * cumulated[-1]).clip(0, len(weights) - 1)


def _noisy(rng: np.random.Generator, drawn: Rows, popularity: NDArray[np.float64], share: float) -> Rows:
    return np.where(rng.random(len(drawn)) < share, _weighted(rng, popularity, len(drawn)), drawn)


def _distinct(rng, draw, count: int, entities: int, *, loops: bool = False) -> Rows:  # type: ignore[no-untyped-def]
    """Draw until there are ``count`` different edges, in random order, none from an entity to itself."""
    keys = np.empty(0, np.int64)
    while len(keys) < count:
        source, relation, target = draw(int(1.05 * (count - len(keys))) + 1000).T
        fresh = (relation * entities + source) * entities + target
        keys = np.union1d(keys, fresh if loops else fresh[source != target])
    keys = rng.permutation(keys)[:count]
    return np.stack([keys // entities % entities, keys // entities**2, keys % entities], axis=1)


def _parts(name: str, entities: int, relations: int, edges: Rows, held_out: int) -> Parts:
    train, valid, test = np.split(edges, [len(edges) - 2 * held_out, len(edges) - held_out])
    return Parts(name, entities, relations, train, valid, test)
