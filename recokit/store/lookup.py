"""What a name stands for in a store, and what may be done with it."""

__all__ = [
    "LATEST",
    "all_manifests",
    "check_free",
    "current_aliases",
    "find_manifest",
    "needed",
    "read_version",
    "why_not",
]

from collections.abc import Sequence
from contextlib import suppress

from recokit.errors import FormatError, VersionError, closest
from recokit.store.aliases import alias_history, alias_names, current_move
from recokit.store.manifests import Manifest, manifest_of, read_manifests
from recokit.store.marks import check_ranker, collecting_mark, named_by_rankers, retired_names, retirement
from recokit.store.places import Place
from recokit.table.folder import check_name
from recokit.table.version import MANIFEST

LATEST = "latest"


def all_manifests(place: Place) -> list[Manifest]:
    """Return the manifests of the complete versions that are not retired, oldest first."""
    hidden = retired_names(place)
    return read_manifests(place, [name for name in place.names() if not name.startswith(".") and name not in hidden])


def current_aliases(place: Place) -> dict[str, str]:
    """Return the version of every alias, sorted by alias."""
    moves = {alias: current_move(place, alias) for alias in alias_names(place)}
    return {alias: move.version for alias, move in moves.items() if move is not None and move.version is not None}


def read_version(place: Place, name: str) -> Manifest | None:
    """Return the manifest of a complete version, retired or not, or None."""
    data = place.read(f"{name}/{MANIFEST}")
    return None if data is None else manifest_of(data, f"{place.url}/{name}/{MANIFEST}")


def find_manifest(place: Place, name: str, *, retired: bool = False) -> Manifest:
    """Return the manifest of a version, of where an alias is, or of the latest one.

    Raises:
        VersionError: There is none; or it is retired, unless ``retired`` says that this does not matter.
    """
    if check_name(name, "the version's name") == LATEST:
        found = all_manifests(place)
        if not found:
            raise VersionError(f"{place.url} has no versions")
        return found[-1]
    said, manifest = "", read_version(place, name)
    if manifest is None:
        move = current_move(place, name)
        if move is None or move.version is None:
            if move is None and (trace := _trace(place, name)) is not None:
                raise VersionError(trace)
            known = [*(each.name for each in all_manifests(place)), *current_aliases(place)]
            raise VersionError(f"{place.url} has no version {name!r}; {closest(name, known)}")
        said, manifest = f"alias {name!r}: ", read_version(place, move.version)
        if manifest is None:
            raise VersionError(f"{said}version {move.version!r} of {place.url} is gone")
    elif manifest.name != name and place.read(f"{manifest.name}/{MANIFEST}") != manifest.data:  # else it is a link
        raise VersionError(
            f"{place.url}/{name} holds a version called {manifest.name!r}: the folder has to be called so too"
        )
    if not retired and (problem := _hidden(place, manifest.name)) is not None:
        raise VersionError(said + problem)
    return manifest


def why_not(place: Place, version: str) -> str | None:
    """Say why nothing new may name a version, or return None where it may."""
    if place.read(collecting_mark(version)) is not None:
        return f"version {version!r} of {place.url} is being removed"
    if (problem := _hidden(place, version)) is not None:
        return problem
    return None if read_version(place, version) is not None else f"version {version!r} of {place.url} is gone"


def check_free(place: Place, name: str) -> None:
    """Refuse to publish under a name that means something else; whether it is published, the publisher looks later.

    Raises:
        VersionError: It is, or was, an alias; or a version of this name is being removed.
    """
    if name == LATEST or current_move(place, name) is not None:
        raise VersionError(f"a version cannot be called {name!r}: to {place.url} that is an alias")
    # A version that is removed loses its folder first and its marks last, so that its folder is looked for first.
    if place.read(f"{name}/{MANIFEST}") is not None:
        return
    if name in retired_names(place) or place.read(collecting_mark(name)) is not None:
        raise VersionError(
            f"a version {name!r} of {place.url} was retired and is gone or going; `recokit store gc` frees its name"
        )


def needed(place: Place, rankers: Sequence[str]) -> dict[str, str]:
    """Return the versions that an alias or a ranker names, with which one does.

    Raises:
        VersionError: A ranker cannot be read.
    """
    found = {version: f"the ranker {ranker}" for version, ranker in named_by_rankers(place).items()}
    for ranker in rankers:
        found |= dict.fromkeys(check_ranker(ranker), f"the ranker {ranker}")
    return found | {version: f"alias {alias!r}" for alias, version in current_aliases(place).items()}


def _trace(place: Place, version: str) -> str | None:
    """Say that a version was here, where an alias was at it once; None where no alias was."""
    for alias in alias_names(place):
        with suppress(FormatError, OSError):  # this only makes an error clearer
            for move in alias_history(place, alias):
                if move.version == version:
                    return (
                        f"version {version!r} of {place.url} has been removed: alias {alias!r} came to it on "
                        f"{move.moved:%Y-%m-%d %H:%M} UTC, and `recokit store gc` removes what was retired"
                    )
    return None


def _hidden(place: Place, version: str) -> str | None:
    found = retirement(place, version)
    if found is None:
        return None
    why = f" ({found.reason})" if found.reason else ""
    return (
        f"version {version!r} of {place.url} was retired on {found.retired:%Y-%m-%d %H:%M} UTC by {found.by}{why}; "
        f"`recokit store restore {place.url} {version}` brings it back"
    )
