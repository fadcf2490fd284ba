"""Retailrocket: which items the users of a shop viewed, put into their cart and bought, May to September 2015.

    events.tsv    user, item, behavior (view, cart, buy), timestamp (seconds since 1970); tab-separated, rows unsorted

The log is Retailrocket's (https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset, CC BY-NC-SA 4.0), reduced to
2,174 users who bought, each of their (user, item, behavior) once. A ``test.tsv`` beside it holds one more purchase of
each user, without a time; it is not used here.

The split is by time within each user, and by whole visits: the last fifth of a user's visits is for testing, at least
one where there are two, and the fifth before that for validation, at least one where there are three. A visit ends
where half an hour passes without an event. A cut inside a visit would leave the view and the cart that led to a
purchase in the training part, seconds before it; a cut at one date for all leaves about a hundred users whose purchases
can be tested, because most come for a few days only. Other users' later events are known at the time of a user's test:
this measures who wants what, and is no forecast.

What is to be found are *new* pairs: items that the user has viewed, put into a cart or bought in no earlier part. Two
in five of the users who buy in the test part buy nothing else than what they had viewed before, and to find that again
needs no model. Candidates are all 29,905 items of the log but the user's own earlier ones, whatever the behavior was
(``exclude_pairs``). Items that nobody touches before the cut stay in: they are misses for everybody.

Counted on the real file (``known``: pairs whose item stands in an earlier part of any user):

               test users, pairs, known    validation users, pairs, known
    view       1,117      13,101  10,134     837            12,934   9,476
    cart         374       1,719   1,398     365             1,763   1,351
    buy          318       1,324   1,106     252             1,246     984
"""

__all__ = ["BEHAVIORS", "exclude_pairs", "load", "new_pairs", "split"]

from pathlib import Path

import numpy as np
import pandas as pd

from recokit.errors import ConfigError, DataError, closest
from recokit.frame import drop_seen

BEHAVIORS = ("view", "cart", "buy")

_COLUMNS = {"user": "user", "item": "item", "behavior": "behavior", "timestamp": "time"}


def load(folder: str | Path) -> pd.DataFrame:
    """Read ``events.tsv``: columns user, item, behavior, time; ids and times as int64, rows as they come.

    Raises:
        DataError: The file or a column is missing, or a behavior is none of ``BEHAVIORS``.
    """
    path = Path(folder) / "events.tsv"
    if not path.is_file():
        raise DataError(f"{path} is not there; Retailrocket's log is read from events.tsv")
    frame = pd.read_csv(path, sep="\t", keep_default_na=False)
    for column in _COLUMNS:
        if column not in frame.columns:
            raise DataError(f"{path} has no column {column!r}; {closest(column, frame.columns)}")
    events = frame[list(_COLUMNS)].rename(columns=_COLUMNS)
    if unknown := sorted(set(events["behavior"].map(str)) - set(BEHAVIORS)):
        raise DataError(f"{path} has the behaviors {unknown}, expected {', '.join(BEHAVIORS)}")
    return events.astype({"user": "int64", "item": "int64", "time": "int64"})


def split(
    events: pd.DataFrame, *, fraction: float = 0.2, pause: int = 1800
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Split each user's visits by time: train, validation, test; see the top of this file.

    Of n visits ``floor(n * fraction)`` are test and as many validation, but at least one is test where n is 2 or more,
    and one validation where n is 3 or more. Rows stay in the order of the frame.

    Args:
        events: Columns user and time, in seconds.
        fraction: Share of each user's visits, below one half.
        pause: Seconds without an event that end a visit.
    """
    if not 0.0 <= fraction < 0.5:
        raise ConfigError(f"fraction is {fraction}, expected 0 or more and less than 0.5: two parts are held out")
    visit = _visits(events, pause)
    num = visit.groupby(events["user"]).transform("max") + 1
    share = np.floor(num * fraction + 1e-9).astype("int64")
    num_test, num_validation = (share.where(num < least, share.clip(lower=1)) for least in (2, 3))
    behind = num - 1 - visit  # visits of the same user that come later
    is_test = behind < num_test
    is_validation = ~is_test & (behind < num_test + num_validation)
    return events[~is_test & ~is_validation], events[is_validation], events[is_test]


def new_pairs(held_out: pd.DataFrame, *known: pd.DataFrame, behavior: str) -> pd.DataFrame:
    """What is to be found: held-out pairs of a behavior that the user has in none of the known parts, in any behavior.

    Args:
        held_out: Columns user, item, behavior.
        known: Frames with the columns user and item: the training part, and for the test part also validation.
        behavior: One of ``BEHAVIORS``.

    Returns:
        Columns query and candidate, a pair once, without users that no known part has.
    """
    if behavior not in BEHAVIORS:
        raise ConfigError(f"unknown behavior {behavior!r}: {closest(behavior, BEHAVIORS)}")
    seen = pd.concat(known)
    pairs = held_out.loc[(held_out["behavior"] == behavior) & held_out["user"].isin(seen["user"]), ["user", "item"]]
    return _named(drop_seen(pairs, seen, on=("user", "item")).frame)


def exclude_pairs(*known: pd.DataFrame) -> pd.DataFrame:
    """What no list may hold: every pair of the known parts, in any behavior. Columns query and candidate."""
    return _named(pd.concat(known)[["user", "item"]])


def _named(pairs: pd.DataFrame) -> pd.DataFrame:
    return pairs.rename(columns={"user": "query", "item": "candidate"}).drop_duplicates(ignore_index=True)


def _visits(events: pd.DataFrame, pause: int) -> pd.Series:
    """Number each user's visits from 0, in the order of time."""
    ordered = events.sort_values(["user", "time"], kind="stable")
    later = ordered.groupby("user")["time"].diff() > pause  # False for the first event, which has no gap
    visit: pd.Series = later.groupby(ordered["user"]).cumsum().reindex(events.index)
    return visit
