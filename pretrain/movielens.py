"""The demo's data: MovieLens-100k with the film part of Freebase, out of a package on the Python registry.

The wheel of ``recbole`` carries the ratings (Harper and Konstan 2015) linked to a knowledge graph (KB4Rec, Zhao et al.
2019).  pip downloads it once (2 MB) into the user's cache; the tables are read from inside the wheel and never copied
out of it.  The ratings are for research use and may not be redistributed.
"""

__all__ = ["MovieData", "load_movielens"]

import dataclasses
import io
import zipfile
from pathlib import Path

import pandas as pd

from pretrain.wheels import cached_wheel

_WHEEL = "recbole-1.2.1-py3-none-any.whl"
_REQUIREMENT = "recbole==1.2.1"
_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_FOLDER = "recbole/dataset_example/ml-100k/ml-100k."

# Eighteen of the graph's relations are nine exact inverse pairs and one is a near-inverse: the side that starts at the
# film stays. Both sides of a pair in one network would put an edge and its twin into different parts of a split.
_INVERSES = frozenset(
    {
        "film.actor.film",
        "film.cinematographer.film",
        "film.content_rating.film",
        "film.director.film",
        "film.film.prequel",
        "film.film_genre.films_in_this_genre",
        "film.film_subject.films",
        "film.producer.film",
        "film.production_company.films",
        "film.writer.film",
    }
)


@dataclasses.dataclass(frozen=True)
class MovieData:
    """Ratings of movies and what is known of both ends; ids are int64 but for the knowledge's entities.

    Attributes:
        source: Where the data comes from, in words, for every result.
        ratings: user, movie, rating (1 to 5), time (seconds since 1970).
        users: user, age, gender, occupation.
        movies: movie, title.
        genres: movie, genre.
        knowledge: movie, relation, entity; one of each inverse pair of relations.
    """

    source: str
    ratings: pd.DataFrame
    users: pd.DataFrame
    movies: pd.DataFrame
    genres: pd.DataFrame
    knowledge: pd.DataFrame


def load_movielens(cache: str | Path | None = None) -> MovieData:
    """Read MovieLens-100k and its knowledge graph, downloading the wheel if the cache has none.

    Args:
        cache: Folder of the wheel; ``$RECOKIT_CACHE`` or ``~/.cache/recokit`` if not given.

    Raises:
        DataError: The wheel is not there and cannot be downloaded.
        ChecksumError: The wheel is not the one that was published.
    """
    with zipfile.ZipFile(cached_wheel(_REQUIREMENT, _WHEEL, _SHA256, cache)) as wheel:
        tables = {name: _table(wheel, name) for name in ("inter", "user", "item", "kg", "link")}
    ratings = tables["inter"].rename(columns={"user_id": "user", "item_id": "movie", "timestamp": "time"})
    items = tables["item"].rename(columns={"item_id": "movie", "movie_title": "title"})
    items["movie"] = items["movie"].astype("int64")
    genres = items.assign(genre=items["class"].str.split()).explode("genre").dropna(subset=["genre"])
    links = tables["link"].assign(movie=tables["link"]["item_id"].astype("int64"))
    triples = tables["kg"].rename(columns={"head_id": "entity_id", "relation_id": "relation", "tail_id": "entity"})
    knowledge = triples[~triples["relation"].isin(_INVERSES)].merge(links, on="entity_id")
    users = tables["user"].rename(columns={"user_id": "user"}).astype({"user": "int64", "age": "int64"})
    return MovieData(
        source="MovieLens-100k with its Freebase knowledge graph (recbole 1.2.1)",
        ratings=ratings.astype({"user": "int64", "movie": "int64"}).astype({"rating": "float64", "time": "float64"}),
        users=users[["user", "age", "gender", "occupation"]],
        movies=items[["movie", "title"]],
        genres=genres[["movie", "genre"]].reset_index(drop=True),
        knowledge=knowledge[["movie", "relation", "entity"]].drop_duplicates().reset_index(drop=True),
    )


def _table(wheel: zipfile.ZipFile, name: str) -> pd.DataFrame:
    """Read one tab-separated table; its header says ``name:type``."""
    frame = pd.read_csv(io.BytesIO(wheel.read(_FOLDER + name)), sep="\t", dtype=str)
    return frame.rename(columns={column: column.split(":")[0] for column in frame.columns})
