"""HetRec 2011 Last.FM (Cantador et al. 2011): who listened to whom, who is a friend of whom, who tagged whom with what.

The files come from https://grouplens.org/datasets/hetrec-2011/, for non-commercial use and not to be redistributed.
They are tab-separated with a header; line ends and encodings differ from file to file.
"""

__all__ = ["LastFm", "leak_free_tags", "load", "split"]

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recokit.errors import DataError, closest
from recokit.frame import drop_seen

_LISTENS = {"userID": "user", "artistID": "artist", "weight": "count"}
_FRIENDS = {"userID": "user", "friendID": "friend"}
_TAGGED = {"userID": "user", "artistID": "artist", "tagID": "tag", "year": "year", "month": "month", "day": "day"}


@dataclass(frozen=True)
class LastFm:
    """The relations, ids as int64.

    Attributes:
        listens: user, artist, count; a pair once.
        friends: user, friend; every friendship once, the smaller id first.
        tags: user, artist, tag, time. Some times are absurd (1956) and stay as they are.
        artists: artist, name.
        tag_names: tag, name.
    """

    listens: pd.DataFrame
    friends: pd.DataFrame
    tags: pd.DataFrame
    artists: pd.DataFrame
    tag_names: pd.DataFrame


def load(folder: str | Path) -> LastFm:
    """Read the five files of the data set from a folder.

    Raises:
        DataError: A file or a column is missing.
    """
    folder = Path(folder)
    friends = np.sort(_table(folder / "user_friends.dat", _FRIENDS).to_numpy(), axis=1)  # both directions are there
    tags = _table(folder / "user_taggedartists.dat", _TAGGED)
    time = pd.to_datetime(tags[["year", "month", "day"]])
    return LastFm(
        listens=_table(folder / "user_artists.dat", _LISTENS),
        friends=pd.DataFrame(friends, columns=["user", "friend"]).drop_duplicates(ignore_index=True),
        tags=tags[["user", "artist", "tag"]].assign(time=time),
        artists=_table(folder / "artists.dat", {"id": "artist", "name": "name"}),
        tag_names=_table(folder / "tags.dat", {"tagID": "tag", "tagValue": "name"}, encoding="latin-1"),
    )


def split(listens: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Split 8:1:1 by chance within each user, as RecBole does: train, validation, test.

    Of n listens ``n // 10`` are test and as many validation, but at least one each where n is 3 or more.
    """
    rank = listens.sample(frac=1.0, random_state=seed).groupby("user").cumcount().reindex(listens.index)
    size = listens.groupby("user")["artist"].transform("size")
    tenth = (size // 10).where(size >= 10, (size >= 3).astype("int64"))
    return listens[rank >= 2 * tenth], listens[(rank >= tenth) & (rank < 2 * tenth)], listens[rank < tenth]


def leak_free_tags(tags: pd.DataFrame, *held_out: pd.DataFrame) -> pd.DataFrame:
    """Drop what a user said of an artist that is held out for that user: who tags an artist has listened to it.

    Args:
        tags: Columns user, artist and more.
        held_out: Frames with the columns user and artist.
    """
    kept: pd.DataFrame = drop_seen(tags, pd.concat(held_out), on=("user", "artist")).frame
    return kept


def _table(path: Path, columns: dict[str, str], *, encoding: str = "utf-8") -> pd.DataFrame:
    """Read the named columns of one file under their new names; line ends may be of either kind."""
    if not path.is_file():
        raise DataError(f"{path} is not there; the data set is at https://grouplens.org/datasets/hetrec-2011/")
    frame = pd.read_csv(path, sep="\t", encoding=encoding, quoting=3, keep_default_na=False)
    for column in columns:
        if column not in frame.columns:
            raise DataError(f"{path} has no column {column!r}; {closest(column, frame.columns)}")
    return frame[list(columns)].rename(columns=columns)
