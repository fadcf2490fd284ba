"""Garbage collection: retired versions go for good once nothing names them, and so does what killed publishers left.

Nothing else is touched: a folder without ``version.json`` that no claim and no mark tells of may be anybody's.
"""

__all__ = ["Collected", "collect", "give_up", "ranker_folders"]

import glob
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recokit.errors import ConfigError, VersionError
from recokit.store.claims import Claim, claimed_versions, current_claim, release, take_claim
from recokit.store.marks import COLLECTING, collecting_mark, retired_names, retirement, unmark_retired
from recokit.store.places import LocalPlace, Place, RemotePlace
from recokit.store.publication import remove_remains
from recokit.store.records import author, now, process_of, read_record, this_process, time_of, write_record
from recokit.table.folder import PARTIAL, is_url, remove_folder
from recokit.table.version import MANIFEST

_QUIET = timedelta(hours=1)  # since the last change of what a living publisher of this machine may be writing
_UPLOAD = timedelta(days=1)  # since another machine's publisher began


@dataclass(frozen=True)
class Collected:
    """What was removed, or would be.

    Attributes:
        removed: Retired versions.
        kept: Retired versions that stay, with why.
        leftovers: What killed publishers and collectors left.
    """

    removed: tuple[str, ...]
    kept: Mapping[str, str]
    leftovers: tuple[str, ...]


def collect(place: Place, needed: Callable[[], Mapping[str, str]], *, grace: timedelta, dry_run: bool) -> Collected:
    """Remove what can go.

    Args:
        place: The store's.
        needed: Returns the versions that something names, with what does; asked again before each removal.
        grace: How long a version has to have been retired.
        dry_run: Only say what would go.
    """
    leftovers = [] if dry_run else _stale_marks(place, grace)
    removed, kept = [], {}
    named = needed()
    for version in sorted(retired_names(place)):
        found = retirement(place, version)
        if found is None:
            continue
        if version in named:
            kept[version] = f"{named[version]} names it"
        elif _age(found.retired) < grace:
            days = grace.total_seconds() / 86400
            kept[version] = f"retired on {found.retired:%Y-%m-%d %H:%M} UTC, less than {days:g} days ago"
        elif dry_run or _remove(place, version, needed):
            removed.append(version)
        else:
            kept[version] = "something came to name it, or somebody else is removing it"
    leftovers += _publishers_leftovers(place, grace, dry_run)
    return Collected(tuple(removed), kept, tuple(leftovers))


def ranker_folders(rankers: Sequence[str | Path]) -> list[str]:
    """Return the folders that paths and patterns such as ``rankers/*`` stand for.

    Raises:
        ConfigError: A pattern fits nothing: what it was meant to keep would be removed.
    """
    folders: list[str] = []
    for ranker in map(str, rankers):
        if is_url(ranker) or not glob.has_magic(ranker):
            folders.append(ranker)
            continue
        found = [path for path in sorted(glob.glob(ranker)) if Path(path).is_dir()]  # noqa: PTH207, absolute ones too
        if not found:
            raise ConfigError(f"{ranker!r} fits no folder: which rankers are to keep their versions?")
        folders += found
    return folders


def _remove(place: Place, version: str, needed: Callable[[], Mapping[str, str]]) -> bool:
    """Mark a version, look once more whether it may go, and remove it; whether it went."""
    mark = collecting_mark(version)
    try:
        write_record(place, mark, COLLECTING, {**asdict(this_process()), "since": now(), "by": author()})
    except FileExistsError:
        return False
    if version in needed() or retirement(place, version) is None:
        place.remove(mark)
        return False
    if isinstance(place, LocalPlace):
        with suppress(FileNotFoundError):
            remove_folder(place.folder / version)
    elif isinstance(place, RemotePlace):
        place.remove(f"{version}/{MANIFEST}")  # first: without it there is no version
        for file in place.files(version):
            place.remove(f"{version}/{file}")
    unmark_retired(place, version)
    place.remove(mark)
    return True


def _stale_marks(place: Place, grace: timedelta) -> list[str]:
    """Remove the marks of collectors that were killed: their versions are looked at as if nobody had begun."""
    stale = []
    for name in place.names(".collecting"):
        path = f".collecting/{name}"
        record = read_record(place, path, COLLECTING) if name.endswith(".json") else None
        if record is None:
            continue
        if process_of(record).is_dead() or _age(time_of(record, "since", f"{place.url}/{path}")) > max(grace, _QUIET):
            place.remove(path)
            stale.append(path)
    return stale


def _publishers_leftovers(place: Place, grace: timedelta, dry_run: bool) -> list[str]:
    if isinstance(place, LocalPlace):
        return _partial_folders(place.folder, max(grace, _QUIET), dry_run)
    return _claimed_remains(place, max(grace, _UPLOAD), dry_run) if isinstance(place, RemotePlace) else []


def _partial_folders(root: Path, grace: timedelta, dry_run: bool) -> list[str]:
    """Remove what writers left beside the versions and nobody has changed for a while."""
    left = []
    for path in sorted(root.glob(f"{PARTIAL}*")):
        try:
            changed = max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
        except FileNotFoundError:  # its writer is at work
            continue
        if time.time() - changed < grace.total_seconds():
            continue
        left.append(path.name)
        if not dry_run:
            # Renamed first: a writer that is only slow, after all, fails, and never publishes half of its files.
            (remove_folder if path.is_dir() else Path.unlink)(path)
    return left


def _claimed_remains(place: RemotePlace, grace: timedelta, dry_run: bool) -> list[str]:
    left = []
    for version in claimed_versions(place):
        claim = current_claim(place, version)
        if claim is None or not (claim.process.is_dead() or _age(claim.since) > grace):
            continue
        left.append(f"{version} of {claim.by}, {claim.since:%Y-%m-%d %H:%M} UTC")
        if not dry_run:
            with suppress(VersionError):  # a publisher took its place first
                give_up(place, claim)
    return left


def give_up(place: RemotePlace, of: Claim) -> int:
    """Take a publisher's place, remove what it uploaded unless the version is complete, and release the claim."""
    claim = take_claim(place, of.version, over=of)
    complete = place.read(f"{of.version}/{MANIFEST}") is not None
    number = 0 if complete else remove_remains(place, claim)
    release(place, claim)
    return number


def _age(moment: datetime) -> timedelta:
    return datetime.now(UTC) - moment
