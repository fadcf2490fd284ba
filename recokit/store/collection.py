"""Garbage collection: retired versions go for good once nothing names them, and so does what killed publishers left.

Nothing else is touched: a folder without ``version.json`` that no claim and no mark tells of may be anybody's.
"""

__all__ = ["Collected", "collect", "give_up", "ranker_folders"]

import glob
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recokit.errors import ConfigError, FormatError, VersionError
from recokit.store.claims import Claim, claimed_versions, current_claim, release, take_claim
from recokit.store.manifests import manifest_of
from recokit.store.marks import COLLECTING, Retirement, collecting_mark, retired_names, retirement, unmark_retired
from recokit.store.places import LocalPlace, Place, RemotePlace
from recokit.store.publication import remove_remains
from recokit.store.records import author, now, process_of, read_record, this_process, time_of, write_record
from recokit.table.folder import PARTIAL, is_url
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
        why: Who retired each of those that were removed, when, and why if it was said.
        freed: Their bytes.
    """

    removed: tuple[str, ...]
    kept: Mapping[str, str]
    leftovers: tuple[str, ...]
    why: Mapping[str, str] = field(default_factory=dict)
    freed: Mapping[str, int] = field(default_factory=dict)


def collect(place: Place, needed: Callable[[], Mapping[str, str]], *, grace: timedelta, dry_run: bool) -> Collected:
    """Remove what can go.

    Args:
        place: The store's.
        needed: Returns the versions that something names, with what does; asked again before each removal.
        grace: How long a version has to have been retired.
        dry_run: Only say what would go.
    """
    leftovers = _stale_marks(place, grace, dry_run)
    kept: dict[str, str] = {}
    why: dict[str, str] = {}
    freed: dict[str, int] = {}
    named = needed()
    for version in sorted(retired_names(place)):
        found = retirement(place, version)
        if found is None:
            continue
        if version in named:
            kept[version] = f"{named[version]} names it"
            continue
        if _age(found.retired) < grace:
            days = grace.total_seconds() / 86400
            kept[version] = f"retired on {found.retired:%Y-%m-%d %H:%M} UTC, less than {days:g} days ago"
            continue
        size = _bytes(place, version)
        if not (dry_run or _remove(place, found, needed)):
            kept[version] = "something came to name it, or somebody else is removing it"
            continue
        why[version] = f"retired on {found.retired:%Y-%m-%d %H:%M} UTC by {found.by}"
        why[version] += f": {found.reason}" if found.reason else ""
        freed[version] = size
    leftovers += _publishers_leftovers(place, grace, dry_run)
    return Collected(tuple(why), kept, tuple(leftovers), why, freed)


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


def _remove(place: Place, retired: Retirement, needed: Callable[[], Mapping[str, str]]) -> bool:
    """Mark a version, look once more whether it may go, and remove it; whether it went."""
    version = retired.version
    mark = collecting_mark(version)
    try:
        write_record(place, mark, COLLECTING, {**asdict(this_process()), "since": now(), "by": author()})
    except FileExistsError:
        return False
    if version in needed() or retirement(place, version) != retired:  # restored, or retired once more since
        place.remove(mark)
        return False
    if isinstance(place, LocalPlace):
        _remove_entry(place.folder, version)
    elif isinstance(place, RemotePlace):
        place.remove(f"{version}/{MANIFEST}")  # first: without it there is no version
        for file in place.files(version):
            place.remove(f"{version}/{file}")
    unmark_retired(place, version)
    place.remove(mark)
    return True


def _remove_entry(root: Path, name: str) -> None:
    """Remove a folder, a file or a link in one rename; what is left of it after a kill is an interrupted write's."""
    aside = root / f"{PARTIAL}{uuid.uuid4().hex}"  # whatever the name: that of what a writer left is long already
    with suppress(FileNotFoundError):
        (root / name).rename(aside)
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink()


def _stale_marks(place: Place, grace: timedelta, dry_run: bool) -> list[str]:
    """Remove the marks of collectors that were killed: their versions are looked at as if nobody had begun."""
    stale = []
    for name in place.names(".collecting"):
        path = f".collecting/{name}"
        record = read_record(place, path, COLLECTING) if name.endswith(".json") else None
        if record is None:
            continue
        if process_of(record).is_dead() or _age(time_of(record, "since", f"{place.url}/{path}")) > max(grace, _QUIET):
            stale.append(path)
            if not dry_run:
                place.remove(path)
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
            _remove_entry(root, path.name)
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


def _bytes(place: Place, version: str) -> int:
    """Return the size of a version; 0 where it does not say."""
    data = place.read(f"{version}/{MANIFEST}")
    with suppress(FormatError):
        return 0 if data is None else manifest_of(data, f"{place.url}/{version}/{MANIFEST}").bytes
    return 0


def _age(moment: datetime) -> timedelta:
    return datetime.now(UTC) - moment
