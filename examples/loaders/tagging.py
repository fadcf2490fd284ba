"""Personalised search on HetRec 2011 Last.FM: a user asks for a tag on a day and picks artists to give it to.

Who tags an artist has searched for the tag's artists and picked this one: not how it happened, but of the same shape as
a search log: a user, a query, what was picked. All times are of the tags; listens and friendships have none.

The parts follow each other in time, so that vectors are frozen before a ranker trains, and a ranker before it is asked:

    network  ->  ranker  ->  validation  ->  test

What the network must not know is a pair of user and artist that a later part holds: neither its listen, which has no
date, nor an earlier tag of it. Such pairs are taken out, and what the network does know of a user is no candidate for
that user, so that neither being known nor having been taken out tells a pick from what was not picked.
"""

__all__ = ["CUTS", "PARTS", "Tagging", "sessions", "split"]

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from loaders.lastfm import LastFm, leak_free_tags

from recokit.errors import DataError
from recokit.frame import drop_seen

PARTS = ("ranker", "validation", "test")
CUTS = tuple(map(pd.Timestamp, ("2005-01-01", "2009-11-01", "2010-06-01", "2010-08-01")))  # absurd dates lie before
PAIR = ("user", "artist")
QUERY = ("user", "tag", "time")


@dataclass(frozen=True)
class Tagging:
    """What the network may know, and the picks of the parts after it.

    Attributes:
        tags: Columns user, artist, tag, time: the network's rows.
        listens: Columns user, artist, count, without those of later picks.
        friends: Columns user, friend, every friendship once.
        picks: Part to its rows, columns user, artist, tag, time.
        tag_names: Columns tag, name.
        history: All tags with a date that can be, those of the picks and those taken out too.
        removed: How many tags and how many listens were taken out for later picks.
    """

    tags: pd.DataFrame
    listens: pd.DataFrame
    friends: pd.DataFrame
    picks: Mapping[str, pd.DataFrame]
    tag_names: pd.DataFrame
    history: pd.DataFrame
    removed: tuple[int, int]

    @property
    def known(self) -> pd.DataFrame:
        """Columns user, artist: every pair that an edge of the network may stand for, once."""
        pairs = pd.concat([self.tags[list(PAIR)], self.listens[list(PAIR)]])
        return pairs.drop_duplicates(ignore_index=True)


def split(data: LastFm, cuts: tuple[pd.Timestamp, ...] = CUTS) -> Tagging:
    """Split the tags by time, and take later picks out of what the network knows.

    Tags before the first cut are left out.

    Raises:
        DataError: A part has no rows.
    """
    ends = (*cuts[1:], pd.Timestamp.max)
    rows = [
        data.tags[(data.tags["time"] >= start) & (data.tags["time"] < end)]
        for start, end in zip(cuts, ends, strict=True)
    ]
    for name, part in zip(("network", *PARTS), rows, strict=True):
        if part.empty:
            raise DataError(
                f"the {name} part has no tags; the parts start at {', '.join(f'{cut:%Y-%m-%d}' for cut in cuts)}"
            )
    known, *later = rows
    tags = leak_free_tags(known, *later)
    listens = drop_seen(data.listens, pd.concat(later), on=PAIR).frame
    return Tagging(
        tags=tags,
        listens=listens,
        friends=data.friends,
        picks=dict(zip(PARTS, later, strict=True)),
        tag_names=data.tag_names,
        history=pd.concat(rows),
        removed=(len(known) - len(tags), len(data.listens) - len(listens)),
    )


def sessions(data: Tagging, part: str, *, num: int, depth: int) -> pd.DataFrame:
    """Return what a search shows at every query of a part: the artists that the network has most often under the tag.

    Not among them are the artists that the network knows of the user, by a listen or any tag, and those that the user
    gave the very tag earlier, which are never picked again. Of artists as often under the tag the one with more tags
    altogether comes first, then the one with the smaller id.

    Args:
        data: The parts.
        part: The part whose queries are asked.
        num: Artists a query, at most: tags that are rare have fewer, unknown ones none.
        depth: How far down a tag's artists are looked through for them.

    Returns:
        Columns session, user, tag, time, artist, place (1 is the first), count (users who gave it the tag) and picked
        (0 or 1); sessions of which nothing was picked are not among them.
    """
    counts = data.tags.groupby(["tag", "artist"], as_index=False).size().rename(columns={"size": "count"})
    counts["overall"] = counts.groupby("artist")["count"].transform("sum")
    counts = counts.sort_values(["tag", "count", "overall", "artist"], ascending=[True, False, False, True])
    top = counts[counts.groupby("tag").cumcount() < depth].drop(columns="overall")
    asked = data.picks[part][list(QUERY)].drop_duplicates(ignore_index=True)
    asked.insert(0, "session", asked.index)
    shown = drop_seen(asked.merge(top, on="tag"), data.known, on=PAIR).frame
    given = data.history.rename(columns={"time": "given"})  # a user gives an artist a tag once
    shown = shown.merge(given, on=["user", "artist", "tag"], how="left")
    shown = shown[~(shown["given"] < shown["time"])]
    place = shown.groupby("session").cumcount() + 1
    shown = shown.assign(place=place, picked=(shown["given"] == shown["time"]).astype("int64"))[place <= num]
    some = shown.groupby("session")["picked"].transform("max") > 0
    return shown.loc[some].drop(columns="given").reset_index(drop=True)
