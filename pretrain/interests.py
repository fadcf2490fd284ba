"""Users with several interests, planted, and measures of how many of them vectors and lists find again.

Vectors that stand for a user's interests can be judged by eye on real data; here they are judged by number, because the
interests are known. Nothing that is measured on these networks says anything about real data.

Two networks; ids are row numbers in both:

- *Topics* (``planted_interests``): items belong to one topic each. A user has one to five topics of different weights,
  drawn independently of each other: no two topics go together, so no point of the space is near all of a user's, and a
  single vector has to choose or to compromise. Where there are about as many dimensions as topics, the compromise is
  cheap: topics lie across each other, and a sum of five of them is nearer to the items of each than to any other.
- *Places* (``planted_places``): items fill a space of few dimensions, the unit sphere of three, and a user has one to
  five places on it, anywhere. What lies between two of a user's places are other items, so that no sum stands for both;
  how many dimensions a single vector needs depends on how small the places are, not on how many there are of them.

    planted = planted_interests(users=2000, items=2000)
    majority, share = component_interests(mixture.components.vectors, items.vectors, planted.topic)
    purity(share, mixture.component_rows, mixture.weights)
    interest_recall(planted.interests, majority, mixture.component_rows, mixture.weights)

(with the rows of tables in the order of the ids, or ``interests`` and ``topic`` in theirs.)

The measures, fixed before anything was measured with them:

- The *interest of a component* (a vector of a user) is the topic of the majority of its 20 nearest items by cosine,
  over all items; its *purity* is the share of that majority among the 20. Purity of a user is the mean of the
  components' purities, weighted by the mixture's weights. (``component_interests``, ``purity``)
- *Interest recall* is the share of a user's planted interests that are the interest of at least one component whose
  weight is 0.05 or more. (``interest_recall``)
- A single vector is a mixture of one component of weight 1, and is measured in the same way.
- *Interest coverage* of a list is the share of a user's planted interests that at least one of its first k items
  belongs to. (``interest_coverage``)
- Of places, the topic of an item is the cell that it lies in, one of ``cells`` that k-means makes of the items'
  positions, and the interests of a user are the cells that the user's places lie in. A place may lie near the border of
  its cell, so that not even the places themselves reach a purity or a recall of 1: what they reach, measured in the
  same way among the items' positions, is the limit that everything else is to be compared with.

Where items are as near, the one with the smaller row comes first; where topics are as frequent, the smaller one is the
majority. Shapes: U users, M items, T topics or cells, N components, C components of a user, P places of a user, D
dimension, L that of positions, B users or components of a block, E edges.
"""

__all__ = [
    "PlantedInterests",
    "PlantedPlaces",
    "component_interests",
    "interest_coverage",
    "interest_recall",
    "planted_interests",
    "planted_places",
    "purity",
]

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK = 1024  # components compared with all items at a time
_NUMBERS = 1 << 21  # of places with items, at a time
_LLOYD = 30  # iterations of k-means
_OVERDRAW = 4  # items drawn for each that is wanted, since popular ones come twice


@dataclass(frozen=True, eq=False)
class PlantedInterests:
    """A network and the interests that it was made of.

    Attributes:
        source: What it is, in words, for every result.
        known: Columns source (user), target (item), int64: the edges to train on; no pair twice.
        held_out: Columns source, target: edges to be found; none of them is known.
        weights: What share of a user's edges each topic has, (U, T); rows sum to 1, 0 where a topic is no interest.
        topic: The topic of each item, (M,).
    """

    source: str
    known: pd.DataFrame
    held_out: pd.DataFrame
    weights: Floats
    topic: Ints

    @property
    def interests(self) -> NDArray[np.bool_]:
        """Whether a topic is an interest of a user, (U, T)."""
        return self.weights > 0.0


@dataclass(frozen=True, eq=False)
class PlantedPlaces:
    """A network and the places that it was made of; vectors have length 1.

    Attributes:
        source: What it is, in words, for every result.
        known: Columns source (user), target (item), int64: the edges to train on; no pair twice.
        held_out: Columns source, target: edges to be found; none of them is known.
        weights: How readily a user takes items of each place, (U, P); rows sum to 1, 0 where a user has fewer places.
        places: Where they are, (U, P, L); those of weight 0 are nowhere, zeros.
        positions: Where the items are, (M, L).
        cells: Centers of the cells, (T, L); the cell of a point is the one whose center is nearest.
        topic: The cell of each item, (M,).
    """

    source: str
    known: pd.DataFrame
    held_out: pd.DataFrame
    weights: Floats
    places: Floats
    positions: Floats
    cells: Floats
    topic: Ints

    @property
    def interests(self) -> NDArray[np.bool_]:
        """Whether a place of a user lies in a cell, (U, T)."""
        user, place = np.nonzero(self.weights > 0.0)
        interests = np.zeros((len(self.weights), len(self.cells)), dtype=bool)
        interests[user, _cell_of(self.places[user, place], self.cells)] = True
        return interests


def planted_interests(
    *,
    users: int = 2000,
    items: int = 2000,
    topics: int = 20,
    most: int = 5,
    degree: int = 40,
    least: float = 0.1,
    exponent: float = 0.8,
    noise: float = 0.05,
    held_out: float = 0.2,
    seed: int = 0,
) -> PlantedInterests:
    """Make up users of 1 to ``most`` interests and the items that meet them.

    A user's interests are ``most`` or fewer topics, every number and every set of topics as likely. Their weights are
    ``least`` each, and the rest is split as a uniform draw from the simplex. Of ``degree`` edges a share ``noise`` goes
    to any item; the others are divided among the interests by weight, each getting its part rounded up or down (so that
    every interest is there to be found). Within a topic items are chosen by popularity, ``rank ** -exponent``. Of each
    user's edges every ``1 / held_out``-th is held out, interest after interest.

    Args:
        users: Number of users, U.
        items: Number of items, M; each topic has ``M / T`` of them, rounded up or down.
        topics: Number of topics, T.
        most: The most interests of a user.
        degree: Edges of a user, to different items; fewer where a topic has not so many, or hardly.
        least: The least weight of an interest.
        exponent: How fast popularity falls with the rank of an item within its topic; 0 makes all alike.
        noise: Share of the edges that go to an item of any topic.
        held_out: Share of the edges that are held out.
        seed: Of everything drawn; the same seed gives the same network.

    Raises:
        ConfigError: A number is out of range, or the interests' least weights sum to more than 1.
    """
    _check(users=users, items=items, topics=topics, most=most, degree=degree)
    if not most <= topics <= items:
        raise ConfigError(f"most, topics and items are {most}, {topics} and {items}, expected none above the next")
    _check_shares(noise, held_out, least, most)
    rng = np.random.default_rng(seed)
    topic = rng.permutation(items) % topics
    weights = _weights(rng, users, topics, most, least)
    user, item = _edges(rng, weights, topic, degree=degree, noise=noise, exponent=exponent)
    hidden = _hidden(rng, user, held_out)
    edges = pd.DataFrame({"source": user, "target": item})
    return PlantedInterests(
        source=f"planted interests (seed {seed})",
        known=edges[~hidden].reset_index(drop=True),
        held_out=edges[hidden].reset_index(drop=True),
        weights=weights,
        topic=topic,
    )


def planted_places(
    *,
    users: int = 3000,
    items: int = 2000,
    latent: int = 3,
    most: int = 5,
    degree: int = 40,
    width: float = 0.12,
    least: float = 0.1,
    exponent: float = 0.5,
    noise: float = 0.03,
    held_out: float = 0.2,
    cells: int = 20,
    seed: int = 0,
) -> PlantedPlaces:
    """Make up users of 1 to ``most`` places on a sphere and the items near them.

    Items and places lie anywhere on the unit sphere, evenly. A user takes ``degree`` different items, drawn one after
    the other without return in proportion to

        p(i) = (1 - noise) * sum over c of w_c g_c(i) + noise * popularity_i / sum of popularities
        g_c(i) = exp(-|x_i - place_c|**2 / (2 width**2)) * popularity_i, divided by its sum over all items

    with weights w as in ``planted_interests`` and popularities ``rank ** -exponent``, which have nothing to do with
    positions. Since a place has only so many items, the shares of a user's edges are evener than the weights. Of each
    user's edges every ``1 / held_out``-th is held out, place after place; an edge is of the place, or the noise, that
    is the largest part of its p.

    Args:
        users: Number of users, U.
        items: Number of items, M.
        latent: Dimensions of the space that the sphere is in, L; its surface has one less.
        most: The most places of a user, P.
        degree: Edges of a user.
        width: How far from a place its items lie, the deviation along each dimension; the sphere has the radius 1.
        least: The least weight of a place.
        exponent: How fast popularity falls with the rank of an item; 0 makes all alike.
        noise: How much of p goes to any item.
        held_out: Share of the edges that are held out.
        cells: Into how many cells the sphere is parted, T; nothing else depends on them.
        seed: Of everything drawn; the same seed gives the same network.

    Raises:
        ConfigError: A number is out of range, or the places' least weights sum to more than 1.
    """
    _check(users=users, items=items, most=most, degree=degree, cells=cells)
    if latent < 2:
        raise ConfigError(f"latent is {latent}, expected 2 or more")
    for name, number in (("degree", degree), ("cells", cells)):
        if number > items:
            raise ConfigError(f"{name} is {number}, expected at most the {items} items")
    if not width > 0.0:
        raise ConfigError(f"width is {width}, expected more than 0")
    _check_shares(noise, held_out, least, most)
    rng = np.random.default_rng(seed)
    positions = _unit(rng.standard_normal((items, latent)))
    popularity = (1.0 + rng.permutation(items)) ** -exponent
    weights = _split(rng, rng.integers(1, most + 1, users), most, least)
    places = _unit(rng.standard_normal((users * most, latent))).reshape(users, most, latent)
    places[weights == 0.0] = 0.0
    user, item = _edges_near(
        rng, weights, places, positions, popularity / popularity.sum(), degree=degree, width=width, noise=noise
    )
    hidden = _hidden(rng, user, held_out)
    edges = pd.DataFrame({"source": user, "target": item})
    centers = _cell_centers(rng, positions, cells)
    return PlantedPlaces(
        source=f"planted places (seed {seed})",
        known=edges[~hidden].reset_index(drop=True),
        held_out=edges[hidden].reset_index(drop=True),
        weights=weights,
        places=places,
        positions=positions,
        cells=centers,
        topic=_cell_of(positions, centers),
    )


def component_interests(
    components: NDArray[np.floating], items: NDArray[np.floating], topic: Ints, *, nearest: int = 20
) -> tuple[Ints, Floats]:
    """The majority topic among the ``nearest`` items of each component, and its share of them.

    Args:
        components: (N, D); a vector of zeros has the cosine 0 with everything.
        items: (M, D), the vectors of all items.
        topic: The topic of each of them, (M,).
        nearest: How many items are asked, K; at most M.

    Returns:
        Topics (N,) and shares (N,), from ``1 / K`` to 1.

    >>> items = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.5], [0.0, 1.0]])
    >>> component_interests(np.array([[2.0, 0.0]]), items, np.array([7, 7, 3, 3]), nearest=3)
    (array([7]), array([0.66666667]))
    """
    components, items, topic = np.asarray(components), np.asarray(items), np.asarray(topic)
    _check(nearest=nearest)
    if components.ndim != 2 or items.ndim != 2 or components.shape[1] != items.shape[1]:
        raise DataError(f"components {components.shape} and items {items.shape} have to be rows of one dimension")
    if topic.shape != items.shape[:1] or len(topic) < nearest:
        raise DataError(f"topics {topic.shape} of items {items.shape} have to be one each, and at least {nearest}")
    unit = _unit(items).T  # (D, M)
    majority, share = np.empty(len(components), dtype=np.int64), np.empty(len(components))
    for start in range(0, len(components), _BLOCK):
        block = slice(start, start + _BLOCK)
        near = _nearest(_unit(components[block]) @ unit, nearest)  # (B, K)
        counts = _counts(topic[near], int(topic.max()) + 1)  # (B, T)
        majority[block] = counts.argmax(axis=1)
        share[block] = counts.max(axis=1) / nearest
    return majority, share


def purity(share: Floats, rows: Ints, weights: NDArray[np.floating]) -> Floats:
    """Mean of the components' purities of each user by weight, ``sum over c of w_c p_c / sum of w_c``, (U,).

    Args:
        share: Purity of each component, (N,), from ``component_interests``.
        rows: Each user's components, (U, C); -1 where there are fewer.
        weights: What they weigh, (U, C).

    Raises:
        DataError: Shapes do not fit, a row is no component's, or a user has no component that weighs anything.
    """
    weights = _weights_of(rows, weights, len(share))
    found: Floats = (weights * share[rows]).sum(axis=1) / weights.sum(axis=1)
    return found


def interest_recall(
    interests: NDArray[np.bool_], majority: Ints, rows: Ints, weights: NDArray[np.floating], *, least: float = 0.05
) -> Floats:
    """The share of each user's planted interests that a component of weight ``least`` or more is about, (U,).

    Args:
        interests: Whether a topic is an interest of a user, (U, T).
        majority: The interest of each component, (N,), from ``component_interests``.
        rows: Each user's components, (U, C); -1 where there are fewer.
        weights: What they weigh, (U, C), as shares of 1.
        least: Components of less weight do not count.

    Raises:
        DataError: Shapes do not fit, or a row is no component's.
    """
    weights = _weights_of(rows, weights, len(majority))
    if interests.shape[0] != len(rows):
        raise DataError(f"interests {interests.shape} and components {rows.shape} have to be of the same users")
    user, place = np.nonzero((rows >= 0) & (weights >= least))
    found = np.zeros((len(interests), max(interests.shape[1], int(majority.max(initial=0)) + 1)), dtype=bool)
    found[user, majority[rows[user, place]]] = True
    return _share_of(interests, found[:, : interests.shape[1]])


def interest_coverage(
    interests: NDArray[np.bool_], topic: Ints, candidates: pd.DataFrame, *, k: int = 10
) -> "pd.Series[float]":
    """The share of each user's planted interests that one of the first ``k`` candidates belongs to.

    Args:
        interests: Whether a topic is an interest of a user, (U, T).
        topic: The topic of each item, (M,).
        candidates: Columns query (users), candidate (items) and rank; ids are row numbers.
        k: Only candidates of rank ``k`` or better.

    Returns:
        One value per user that has a list, with the users as index, ascending; a user whose list has no candidate of
        rank ``k`` or better counts 0.

    Raises:
        DataError: A user or an item does not exist.
    """
    _check(k=k)
    for column, num in (("query", len(interests)), ("candidate", len(topic))):
        ids = candidates[column].to_numpy()
        if len(ids) and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= num):
            raise DataError(f"column {column!r} has to hold rows from 0 to {num - 1}, it holds {ids.dtype} "
                            f"from {ids.min()} to {ids.max()}")  # fmt: skip
    users = np.unique(candidates["query"].to_numpy())
    first = candidates[candidates["rank"] <= k]
    found = np.zeros(interests.shape, dtype=bool)
    found[first["query"].to_numpy(), topic[first["candidate"].to_numpy()]] = True
    share = _share_of(interests[users], found[users])
    return pd.Series(share, index=pd.Index(users, name="query"), name=f"interest_coverage@{k}")


def _weights(rng: np.random.Generator, users: int, topics: int, most: int, least: float) -> Floats:
    """Draw interests and their weights, (U, T)."""
    num = rng.integers(1, most + 1, users)
    chosen = rng.random((users, topics)).argsort(axis=1)[:, :most]  # (U, most)
    weights = np.zeros((users, topics))
    np.put_along_axis(weights, chosen, _split(rng, num, most, least), axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _split(rng: np.random.Generator, num: Ints, most: int, least: float) -> Floats:
    """Draw the weights of the first ``num`` of ``most`` interests: ``least``, and a part of the rest, (U, most)."""
    there = np.arange(most) < num[:, None]
    rest = rng.exponential(size=(len(num), most)) * there
    rest /= rest.sum(axis=1, keepdims=True)  # uniform on the simplex
    weights: Floats = there * (least + (1.0 - least * num[:, None]) * rest)
    return weights


def _edges(
    rng: np.random.Generator, weights: Floats, topic: Ints, *, degree: int, noise: float, exponent: float
) -> tuple[Ints, Ints]:
    """Draw the edges: users (E,) and items (E,), sorted by user and interest, noise last; no pair twice."""
    users, topics = weights.shape
    num_noise = rng.binomial(degree, noise, size=(users, 1))
    # One phase a user, and a step of 1 from there: each interest gets its part of the edges, rounded up or down.
    upto = np.floor(np.cumsum(weights, axis=1) * (degree - num_noise) + rng.random((users, 1)) + 1e-9)
    upto = np.minimum(upto, degree - num_noise)
    wanted = np.hstack([np.diff(upto, axis=1, prepend=0.0), num_noise]).astype(np.int64)  # (U, T + 1)

    order = np.argsort(topic, kind="stable")  # items by topic, (M,); the first of a topic is its most popular one
    first = np.searchsorted(topic[order], np.arange(topics + 1))
    popularity = (1.0 + np.arange(len(order)) - first[topic[order]]) ** -exponent
    mass = np.concatenate([[0.0], np.cumsum(popularity)])
    low = np.append(mass[first[:-1]], 0.0)  # of each topic, and of noise, which is drawn from all
    high = np.append(mass[first[1:]], mass[-1])

    slot = np.repeat(np.arange(wanted.size), wanted.ravel() * _OVERDRAW)  # slots are users times topics
    part = slot % (topics + 1)
    drawn = rng.uniform(low[part], high[part])
    item = order[np.clip(np.searchsorted(mass, drawn, side="right") - 1, 0, len(order) - 1)]
    first_time = _first_of(slot // (topics + 1) * len(order) + item)
    slot, item = slot[first_time], item[first_time]
    place = np.arange(len(slot)) - np.searchsorted(slot, slot)
    kept = place < wanted.ravel()[slot]
    return slot[kept] // (topics + 1), item[kept]


def _edges_near(
    rng: np.random.Generator, weights: Floats, places: Floats, positions: Floats, popularity: Floats, *,
    degree: int, width: float, noise: float,
) -> tuple[Ints, Ints]:  # fmt: skip
    """Draw the edges: users (E,) and items (E,), sorted by user and place, noise last; no pair twice."""
    users, most = weights.shape
    step = max(1, _NUMBERS // (most * len(positions)))
    drawn: list[Ints] = []
    for start in range(0, users, step):
        block = slice(start, start + step)
        # |x - c|² = 2 - 2 x·c; the largest exponent of a place is 0, so that its sum never vanishes.
        inner = places[block] @ positions.T  # (B, P, M)
        near = np.exp((inner - inner.max(axis=2, keepdims=True)) / width**2) * popularity
        near *= ((1.0 - noise) * weights[block] / near.sum(axis=2))[:, :, None]
        whole = near.sum(axis=1) + noise * popularity  # (B, M)
        # The largest of log p + Gumbel noise are a draw without return; items without a chance come last.
        keys = np.log(whole + np.finfo(np.float64).tiny) + rng.gumbel(size=whole.shape)
        item = np.sort(np.argpartition(-keys, degree - 1, axis=1)[:, :degree], axis=1)  # (B, degree)
        parts = np.take_along_axis(near, item[:, None], axis=2)  # (B, P, degree)
        place = np.where(parts.max(axis=1) < noise * popularity[item], most, parts.argmax(axis=1))
        drawn.append(np.take_along_axis(item, np.argsort(place, axis=1, kind="stable"), axis=1))
    return np.repeat(np.arange(users), degree), np.concatenate(drawn).ravel()


def _cell_centers(rng: np.random.Generator, positions: Floats, cells: int) -> Floats:
    """Spherical k-means from random positions, (T, L); a cell without positions keeps its center."""
    centers = positions[rng.choice(len(positions), cells, replace=False)]
    for _ in range(_LLOYD):
        member = _cell_of(positions, centers)[:, None] == np.arange(cells)  # (M, T)
        sums = member.T.astype(np.float64) @ positions
        centers = np.where(sums.any(axis=1, keepdims=True), _unit(sums), centers)
    return centers


def _cell_of(points: Floats, centers: Floats) -> Ints:
    """The nearest center of each of ``points`` (n, L), the smaller of equally near ones, (n,)."""
    cell: Ints = (points @ centers.T).argmax(axis=1)
    return cell


def _hidden(rng: np.random.Generator, user: Ints, share: float) -> NDArray[np.bool_]:
    """Choose every ``1 / share``-th edge of each user, from a random one on, (E,)."""
    place = np.arange(len(user)) - np.searchsorted(user, user)
    phase = rng.random(int(user.max(initial=-1)) + 1)[user]
    hidden: NDArray[np.bool_] = np.floor((place + 1) * share + phase) > np.floor(place * share + phase)
    return hidden


def _first_of(key: Ints) -> Ints:
    """Positions at which values stand for the first time, ascending."""
    order = np.argsort(key, kind="stable")
    new = np.diff(key[order], prepend=-1) != 0
    return np.sort(order[new])


def _nearest(scores: Floats, k: int) -> Ints:
    """Columns of the ``k`` largest scores of each row, (B, k), in any order; of equal ones the smaller columns."""
    least = np.partition(scores, -k, axis=1)[:, -k, None]  # the k-th largest
    above = scores > least
    tied = scores == least
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (tied & (tied.cumsum(axis=1) <= room))
    return np.nonzero(chosen)[1].reshape(len(scores), k)


def _counts(values: Ints, size: int) -> Ints:
    """How often each number stands in each row of ``values`` (B, K), (B, size)."""
    key = np.arange(len(values))[:, None] * size + values
    return np.bincount(key.ravel(), minlength=len(values) * size).reshape(len(values), size)


def _unit(vectors: NDArray[Any]) -> Floats:
    exact = vectors.astype(np.float64)
    norm = np.linalg.norm(exact, axis=1, keepdims=True)
    unit: Floats = np.divide(exact, norm, out=np.zeros_like(exact), where=norm > 0.0)
    return unit


def _weights_of(rows: Ints, weights: NDArray[np.floating], num_components: int) -> Floats:
    """Weights (U, C), 0 where there is no component."""
    if rows.ndim != 2 or rows.shape != weights.shape:
        raise DataError(f"rows {rows.shape} and weights {weights.shape} have to be users by components")
    if rows.size and (rows.min() < -1 or rows.max() >= num_components):
        raise DataError(f"rows run from {rows.min()} to {rows.max()}, expected -1 to {num_components - 1}")
    kept: Floats = np.where(rows >= 0, weights, 0.0).astype(np.float64)
    if (empty := np.flatnonzero(~(kept.sum(axis=1) > 0.0))).size:
        raise DataError(f"{empty.size} of {len(rows)} users have no component with a weight, the first is {empty[0]}")
    return kept


def _share_of(interests: NDArray[np.bool_], found: NDArray[np.bool_]) -> Floats:
    num = interests.sum(axis=1)
    share: Floats = np.divide((interests & found).sum(axis=1), num, out=np.full(len(num), np.nan), where=num > 0)
    return share


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} is {count}, expected 1 or more")


def _check_shares(noise: float, held_out: float, least: float, most: int) -> None:
    for name, share in (("noise", noise), ("held_out", held_out)):
        if not 0.0 <= share < 1.0:
            raise ConfigError(f"{name} is {share}, expected 0 or more and less than 1")
    if not 0.0 < least * most <= 1.0:
        raise ConfigError(f"least is {least}: {most} interests of that weight have to weigh more than 0 and at most 1")
