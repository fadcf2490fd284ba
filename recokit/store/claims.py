"""Claims: who is publishing a version to an object store, where files of one name from two publishers would mix.

    .publishing/<version>/000001.json   {"format": "claim/1", "node", "pid", "started", "since": UTC, "by", "token"}

The highest number owns the version's folder until ``version.json`` is there or its process has ended. Whoever takes a
dead process's place creates the next number.
"""

__all__ = ["Claim", "claimed_versions", "current_claim", "release", "take_claim"]

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from recokit.errors import VersionError
from recokit.store.places import Place
from recokit.store.records import (
    Process,
    author,
    now,
    numbered,
    numbers_in,
    process_of,
    read_record,
    this_process,
    time_of,
    write_record,
)

FORMAT = "claim/1"
_FOLDER = ".publishing"


@dataclass(frozen=True)
class Claim:
    """Who publishes a version.

    Attributes:
        version: Its name.
        number: From 1.
        token: What no other claim has.
        process: The publisher.
        since: When it was made, in UTC.
        by: User and host.
    """

    version: str
    number: int
    token: str
    process: Process
    since: datetime
    by: str


def claimed_versions(place: Place) -> list[str]:
    """Return the versions that somebody publishes, or published when the process ended."""
    return [name for name in place.names(_FOLDER) if not name.startswith(".")]


def current_claim(place: Place, version: str) -> Claim | None:
    """Return the claim that counts, or None."""
    for number in reversed(_numbers(place, version)):
        path = _path(version, number)
        record = read_record(place, path, FORMAT)
        if record is not None:  # else it was released since the names were read
            return _claim(version, number, record, f"{place.url}/{path}")
    return None


def take_claim(place: Place, version: str, *, over: Claim | None = None) -> Claim:
    """Claim a version's folder.

    Args:
        place: The store's.
        version: Its name.
        over: A claim whose place is taken even though its process may live.

    Raises:
        VersionError: Somebody publishes it, and is not known to have ended.
    """
    last = current_claim(place, version)
    if last is not None and last != over and not last.process.is_dead():
        raise VersionError(
            f"{version!r} is being published to {place.url} by {last.by}, process {last.process.pid}, since "
            f"{last.since:%Y-%m-%d %H:%M:%S} UTC; if that process has ended, `recokit store abandon` clears its remains"
        )
    number = 1 if last is None else last.number + 1
    record = {**asdict(this_process()), "since": now(), "by": author()}
    try:
        write_record(place, _path(version, number), FORMAT, record)
    except FileExistsError:
        raise VersionError(f"{version!r} is being published to {place.url} by somebody who came first") from None
    claim = current_claim(place, version)
    if claim is None or claim.number != number:
        raise VersionError(f"{version!r} of {place.url} was claimed by somebody else in between: try again")
    return claim


def check_owned(place: Place, claim: Claim) -> None:
    """Raise a VersionError where somebody has taken the claim's place."""
    found = current_claim(place, claim.version)
    if found is None or found.token != claim.token:
        raise VersionError(f"{claim.version!r} of {place.url}: its publication was given up, or taken over by another")


def release(place: Place, claim: Claim) -> None:
    """Remove a claim and those before it."""
    for number in _numbers(place, claim.version):
        if number <= claim.number:
            place.remove(_path(claim.version, number))


def _claim(version: str, number: int, record: dict[str, Any], where: str) -> Claim:
    since = time_of(record, "since", where)
    return Claim(version, number, str(record.get("token")), process_of(record), since, str(record.get("by")))


def _numbers(place: Place, version: str) -> list[int]:
    return numbers_in(place, f"{_FOLDER}/{version}")


def _path(version: str, number: int) -> str:
    return numbered(f"{_FOLDER}/{version}", number)
