"""Planted networks: made up with a structure that training has to find again.

For where no real data can be had, and for tests: what a right implementation must recover is known, because it was
planted.  Nothing that is measured on them says anything about real data, and their ``source`` says so.
Shapes: U users, M movies, T tastes.
"""

__all__ = ["planted_blocks", "planted_movies"]

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pretrain.config import Relation
from pretrain.graph import Graph
from pretrain.movielens import MovieData
from recokit.errors import ConfigError

_GENRES = (
    "Drama", "Comedy", "Action", "Thriller", "Romance", "Adventure",
    "Children's", "Crime", "Sci-Fi", "Horror", "War", "Documentary",
)  # fmt: skip
_OCCUPATIONS = (
    "student", "educator", "administrator", "engineer", "programmer", "librarian",
    "writer", "executive", "scientist", "artist", "technician", "lawyer",
)  # fmt: skip
_TASTES = len(_GENRES)  # one genre and one occupation lean towards each taste
_START = 874_724_710  # 20 September 1997, MovieLens-100k's first second
_DAY = 86_400


def planted_movies(*, users: int = 600, movies: int = 500, seed: int = 0) -> MovieData:
    """Make up users with tastes and movies that meet them, as the tables that ``load_movielens`` reads.

    A movie belongs to one of twelve tastes and its popularity falls with a power of its rank.  A user has one to three
    tastes, meets them one after the other (so that order matters), watches eight times as readily what meets one of
    them, and rates it about two stars higher.  Genres, occupations, directors and actors lean towards a taste;
    languages do not.

    Args:
        users: Number of users, U.
        movies: Number of movies, M; at least 40, since every user rates 20 or more.
        seed: Of everything drawn; the same seed gives the same tables.

    Raises:
        ConfigError: Too few users or movies.
    """
    if users < 1 or movies < 40:
        raise ConfigError(f"planted_movies needs at least 1 user and 40 movies, got {users} and {movies}")
    rng = np.random.default_rng(seed)
    movie_taste = rng.permutation(movies) % _TASTES  # (M,)
    popularity: NDArray[np.float64] = np.power(1.0 + rng.permutation(movies), -0.8)  # (M,)
    tastes = rng.random((users, _TASTES)).argsort(axis=1)[:, :3]  # (U, 3) in the order in which a user meets them
    num_tastes = rng.integers(1, 4, users)  # (U,)
    ratings = _ratings(rng, tastes, num_tastes, movie_taste, popularity)
    numbers = np.arange(1, movies + 1)
    return MovieData(
        source=f"planted synthetic network (seed {seed})",
        ratings=ratings,
        users=pd.DataFrame(
            {
                "user": np.arange(1, users + 1),
                "age": rng.integers(16, 70, users),
                "gender": np.array(["F", "M"])[rng.integers(0, 2, users)],
                "occupation": np.array(_OCCUPATIONS)[_leaning(rng, tastes[:, 0], _TASTES, 0.6)],
            }
        ),
        movies=pd.DataFrame({"movie": numbers, "title": [f"Film {number}" for number in numbers]}),
        genres=_genres(rng, numbers, movie_taste),
        knowledge=_knowledge(rng, numbers, movie_taste),
    )


def planted_blocks(
    *, users: int = 80, items: int = 80, blocks: int = 4, degree: int = 10, noise: float = 0.05, seed: int = 0
) -> Graph:
    """Make up a network of one relation, ``likes``, in which users like the items of their own block.

    User i and item i belong to block i mod ``blocks``; all items are about equally popular, so that only the blocks
    tell anything.

    Args:
        users: Number of users ``"u0"``, ``"u1"``, ...
        items: Number of items ``"i0"``, ``"i1"``, ...
        blocks: Number of blocks.
        degree: Edges of each user, to different items.
        noise: Share of the edges that go to an item of any block.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    user, item = np.arange(users), np.arange(items)
    same = (user % blocks)[:, None] == item % blocks  # (U, M)
    chance = np.where(same, (1 - noise) / same.sum(1, keepdims=True), noise / items)
    targets = _draw(rng, chance, np.full(users, min(degree, items)))
    edges = pd.DataFrame({"source": [f"u{u}" for u, _ in targets], "target": [f"i{i}" for _, i in targets]})
    return Graph.from_frames({"likes": edges}, [Relation("likes", "user", "item")])


def _draw(rng: np.random.Generator, chance: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw ``counts`` (U,) different columns of each row of ``chance`` (U, M); pairs (row, column) (E, 2)."""
    keys = np.log(chance) + rng.gumbel(size=chance.shape)  # the largest keys are a draw without replacement
    rank = (-keys).argsort(axis=1).argsort(axis=1)
    return np.argwhere(rank < counts[:, None])


def _ratings(
    rng: np.random.Generator,
    tastes: NDArray[np.int64],
    num_tastes: NDArray[np.int64],
    movie_taste: NDArray[np.int64],
    popularity: NDArray[np.float64],
) -> pd.DataFrame:
    users, movies = len(tastes), len(movie_taste)
    matches = tastes[:, :, None] == movie_taste  # (U, 3, M)
    matches &= (np.arange(3) < num_tastes[:, None])[:, :, None]
    chance = popularity * np.where(matches.any(1), 8.0, 1.0)  # (U, M)
    counts = np.clip(rng.lognormal(3.9, 0.6, users).astype(np.int64), 20, movies // 2)
    user, movie = _draw(rng, chance, counts).T  # (E,) each
    match, turn = matches[user, :, movie].any(1), matches[user, :, movie].argmax(1)
    # A taste has its turn in the user's life; what meets none of them may come at any time.
    phase = np.where(match, (turn + rng.normal(0.5, 0.3, len(user))) / num_tastes[user], rng.random(len(user)))
    order = np.lexsort((phase, user))
    user, movie, match = user[order], movie[order], match[order]
    stars = np.clip(np.round(2.3 + 1.9 * match + rng.normal(0.0, 0.8, len(user))), 1, 5)
    gaps = 1 + rng.exponential(_DAY, len(user)).astype(np.int64)
    elapsed = np.cumsum(gaps)
    first = np.flatnonzero(np.diff(user, prepend=-1))  # the position at which each user begins
    joined = rng.integers(0, 150 * _DAY, users)
    time = _START + joined[user] + elapsed - elapsed[first][user]
    frame = pd.DataFrame({"user": user + 1, "movie": movie + 1, "rating": stars, "time": time.astype(np.float64)})
    return frame.sort_values(["time", "user"], ignore_index=True)


def _leaning(rng: np.random.Generator, taste: NDArray[np.int64], choices: int, faithful: float) -> NDArray[np.int64]:
    """Choose one of ``choices`` for each taste: with probability ``faithful`` one whose number is the taste mod T."""
    own = taste + _TASTES * rng.integers(0, choices // _TASTES, len(taste))
    return np.where(rng.random(len(taste)) < faithful, own, rng.integers(0, choices, len(taste)))


def _genres(rng: np.random.Generator, movies: NDArray[np.int64], taste: NDArray[np.int64]) -> pd.DataFrame:
    first, second = _leaning(rng, taste, _TASTES, 0.85), rng.integers(0, _TASTES, len(movies))
    both = rng.random(len(movies)) < 0.5
    names = np.array(_GENRES)
    frame = pd.DataFrame(
        {
            "movie": np.concatenate([movies, movies[both]]),
            "genre": np.concatenate([names[first], names[second[both]]]),
        }
    )
    return frame.drop_duplicates().sort_values("movie", kind="stable", ignore_index=True)


def _knowledge(rng: np.random.Generator, movies: NDArray[np.int64], taste: NDArray[np.int64]) -> pd.DataFrame:
    parts = []
    for relation, kind, per_movie, choices, faithful in (
        ("film.film.directed_by", "director", 1, 10 * _TASTES, 0.8),
        ("film.film.actor", "actor", 4, 40 * _TASTES, 0.7),
        ("film.film.language", "language", 1, _TASTES, 0.0),
    ):
        number = _leaning(rng, np.repeat(taste, per_movie), choices, faithful)
        entity = [f"{kind}.{n}" for n in number]
        parts.append(pd.DataFrame({"movie": np.repeat(movies, per_movie), "relation": relation, "entity": entity}))
    return pd.concat(parts, ignore_index=True).drop_duplicates(ignore_index=True)
