"""The demo's network: who liked what, and what is known of movies and users, as a ``Graph``.

Ratings of 4 and 5 are the edges of ``likes``; genres, occupations and the film knowledge are low-weight relations that
tie together movies and users that few likes connect (TwHIN 4.3's high- and low-coverage relations).
"""

__all__ = ["LIKED", "POSITIVE", "movie_graph", "recency_weights"]

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pretrain.config import Relation
from pretrain.graph import Graph
from pretrain.movielens import MovieData

POSITIVE = 4.0  # ratings from here on are likes
LIKED = "likes"

_SIDE_WEIGHT = 0.05
_SIDE_NEGATIVES = 200
_MIN_COUNT = 2  # an actor of one movie connects nothing
_MIN_EDGES = 50  # knowledge relations with fewer edges that connect say too little


def movie_graph(data: MovieData, ratings: pd.DataFrame, *, likes_only: bool = False) -> Graph:
    """Build the network of some ratings and, unless ``likes_only``, of what is known of users and movies.

    Args:
        data: The tables; its own ratings are not looked at.
        ratings: Those that the network may know: user, movie, rating, time.
        likes_only: The user-movie relation alone, to see what the others add.
    """
    liked = ratings[ratings["rating"] >= POSITIVE].rename(columns={"user": "source", "movie": "target"})
    liked = liked.assign(weight=recency_weights(liked))
    frames = {LIKED: liked[["source", "target", "weight", "time"]]}
    relations = [Relation(LIKED, "user", "movie", sides="target")]
    if likes_only:
        return Graph.from_frames(frames, relations)
    known = {
        "has_genre": ("movie", "genre", data.genres),
        "has_occupation": ("user", "occupation", data.users),
        **{_short(str(name)): ("movie", "entity", rows) for name, rows in data.knowledge.groupby("relation")},
    }
    min_count = {}
    for name, (source, column, rows) in known.items():
        if rows[column].duplicated(keep=False).sum() < _MIN_EDGES:
            continue
        target = column if column != "entity" else name
        frames[name] = rows[[source, column]].rename(columns={source: "source", column: "target"})
        relations.append(
            Relation(name, source, target, weight=_SIDE_WEIGHT, sides="both", uniform_negatives=_SIDE_NEGATIVES)
        )
        min_count[target] = _MIN_COUNT
    return Graph.from_frames(frames, relations, min_count=min_count)


def recency_weights(likes: pd.DataFrame, *, scale: float = 5.0, floor: float = 0.1) -> NDArray[np.float64]:
    """Weight each user's edges by how recent they are: ``exp(-n / scale) + floor``, n likes later, with mean 1.

    Tastes drift, so the next likes resemble the last ones.

    Args:
        likes: Columns source and time, any order; of equal times the later row is the later like.
        scale: How many likes it takes to forget.
        floor: What is never forgotten.
    """
    in_time = likes.reset_index(drop=True).sort_values("time", kind="stable")
    age = in_time.groupby("source").cumcount(ascending=False).sort_index()
    weight = np.exp(-age.to_numpy() / scale) + floor
    return np.asarray(weight / weight.mean())


def _short(relation: str) -> str:
    """Name a Freebase relation by its last part: ``film.film.directed_by`` is ``film_directed_by``."""
    return "film_" + relation.rsplit(".", 1)[-1]
