"""MovieLens, ml-latest-small (Harper and Konstan 2015): who rated which movie when, and the movies' genres.

    ratings.csv    userId, movieId, rating (0.5 to 5), timestamp (seconds since 1970)
    movies.csv     movieId, title, genres, separated by |

From https://grouplens.org/datasets/movielens/latest/; its README has the terms. 610 users, every one with 20 ratings or
more, 100,836 ratings, 9,742 movies.

A rating of 4 stars or more is a positive (48,580 of them): the network is made of those, and those of the held-out
parts are to be found. A lower rating is no sign of interest; but who gave it has seen the movie, so earlier ratings of
any height are left out of a user's lists. The split is by time within each user: the last tenth of the ratings is
for testing, the tenth before it for validation. It is made of all ratings, before low ones are dropped, so that the
parts do not depend on what users liked. Genres are the categories that diversity is measured with; IMAX, a format, is
left in, as the file has it.

Counted on the real files: 4,634 test positives of 559 users, 4,429 validation positives of 555 users. Half of the users
gave all their ratings within an hour and a half, in the order in which the site showed the movies: time tells little
there. Candidates are all movies but those that the user rated in an earlier part.
"""

__all__ = ["LIKED", "MovieLens", "exclude_pairs", "load", "positive_pairs", "split"]

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from recokit.errors import DataError, closest

LIKED = 4.0  # stars from which a rating is a positive

_RATINGS = {"userId": "user", "movieId": "movie", "rating": "rating", "timestamp": "time"}
_MOVIES = {"movieId": "movie", "title": "title", "genres": "genres"}
_NONE = "(no genres listed)"


@dataclass(frozen=True)
class MovieLens:
    """The tables, ids and times as int64.

    Attributes:
        ratings: user, movie, rating, time.
        movies: movie, title.
        genres: candidate, category: a row for each genre of a movie, none for a movie without.
    """

    ratings: pd.DataFrame
    movies: pd.DataFrame
    genres: pd.DataFrame


def load(folder: str | Path) -> MovieLens:
    """Read ``ratings.csv`` and ``movies.csv``.

    Raises:
        DataError: A file or a column is missing.
    """
    ratings, movies = _table(Path(folder) / "ratings.csv", _RATINGS), _table(Path(folder) / "movies.csv", _MOVIES)
    genres = movies.assign(category=movies["genres"].str.split("|")).explode("category")
    genres = genres.loc[~genres["category"].isin([_NONE, ""]), ["movie", "category"]]
    return MovieLens(
        ratings=ratings.astype({"rating": "float64"}),
        movies=movies[["movie", "title"]],
        genres=genres.rename(columns={"movie": "candidate"}).reset_index(drop=True),
    )


def split(ratings: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Split each user's ratings by time: train, validation, test.

    Of n ratings the last ``n // 10`` are test and the ``n // 10`` before them validation, but at least one each where
    n is 3 or more. Of ratings of the same second, the one that stands later in the frame is the later one. Rows stay in
    the order of the frame.
    """
    ordered = ratings.sort_values(["user", "time"], kind="stable")
    behind = ordered.groupby("user").cumcount(ascending=False).reindex(ratings.index)  # 0 for the last one
    size = ratings.groupby("user")["movie"].transform("size")
    tenth = (size // 10).where(size >= 10, (size >= 3).astype("int64"))
    return ratings[behind >= 2 * tenth], ratings[(behind >= tenth) & (behind < 2 * tenth)], ratings[behind < tenth]


def positive_pairs(ratings: pd.DataFrame) -> pd.DataFrame:
    """Pairs rated with 4 stars or more: columns query and candidate."""
    return _named(ratings[ratings["rating"] >= LIKED])


def exclude_pairs(*known: pd.DataFrame) -> pd.DataFrame:
    """What no list may hold: every rated pair of the known parts, liked or not. Columns query and candidate."""
    return _named(pd.concat(known))


def _named(ratings: pd.DataFrame) -> pd.DataFrame:
    pairs = ratings[["user", "movie"]].drop_duplicates(ignore_index=True)
    return pairs.rename(columns={"user": "query", "movie": "candidate"})


def _table(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """Read the named columns of one file under their new names."""
    if not path.is_file():
        raise DataError(f"{path} is not there; the data set is at https://grouplens.org/datasets/movielens/latest/")
    frame = pd.read_csv(path, keep_default_na=False)
    for column in columns:
        if column not in frame.columns:
            raise DataError(f"{path} has no column {column!r}; {closest(column, frame.columns)}")
    return frame[list(columns)].rename(columns=columns)
