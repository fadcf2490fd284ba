"""A store: versions, aliases that move between them, and what keeps or removes them."""

__all__ = ["EmbeddingStore"]

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import EllipsisType
from typing import Any

from numpy.typing import NDArray

from recokit.errors import ConfigError, VersionError, closest
from recokit.store.aliases import AliasMove, alias_history, current_move, earlier_moves, move_alias, take_back
from recokit.store.cache import cached_copy, default_cache, keep_copy
from recokit.store.claims import current_claim, release
from recokit.store.collection import Collected, collect, give_up, ranker_folders
from recokit.store.describe import describe, difference, difference_of_ids, summarize
from recokit.store.lineage import ancestor, despite_of
from recokit.store.lookup import (
    LATEST,
    all_manifests,
    check_free,
    current_aliases,
    find_manifest,
    needed,
    read_version,
    why_not,
)
from recokit.store.manifests import Manifest, manifest_of, read_manifests
from recokit.store.marks import (
    Protection,
    collecting_mark,
    mark_retired,
    protect_ranker,
    protections,
    retired_names,
    retirement,
    unmark_retired,
)
from recokit.store.places import RemotePlace, path_of, place_of
from recokit.store.publication import Progress, publish_locally, publish_remotely
from recokit.table.folder import check_name, local_folder
from recokit.table.relations import RelationParameters
from recokit.table.version import MANIFEST, TableLike, Version, open_version, write_version

GRACE = timedelta(days=7)


class EmbeddingStore:
    """A folder of versions, on this machine or at a URL that fsspec knows.

    A folder without ``version.json`` is no version yet and not seen; nor is a folder, such as a link called
    ``production``, whose name is not that of the version in it. A folder whose ``version.json`` cannot be read, such as
    one of a later format, is passed over with a warning; opened by name, it raises.

    Args:
        root: The folder, or its URL, such as ``"s3://bucket/embeddings"``.
        cache: Where copies of a remote store's versions are kept; ``$RECOKIT_CACHE/versions`` or
            ``~/.cache/recokit/versions`` if not given.
        options: Of fsspec's file system, such as ``{"endpoint_url": "http://localhost:9000"}``.

    Attributes:
        root: The folder as a Path, or the URL.
        cache: The folder of copies.

    Raises:
        ConfigError: fsspec does not know the URL.
        MissingDependencyError: The package for the URL is not installed.
    """

    def __init__(
        self, root: str | Path, *, cache: str | Path | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self._place = place_of(root, options)
        self.root: Path | str = self._place.url if isinstance(self._place, RemotePlace) else self._place.folder
        self.cache = default_cache() if cache is None else local_folder(cache)

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.root)!r})"

    def versions(self) -> list[str]:
        """Return the names of the complete versions that are not retired, oldest first, ties by name."""
        return [manifest.name for manifest in all_manifests(self._place)]

    def retired(self) -> list[str]:
        """Return the names of the retired versions, sorted."""
        return sorted(retired_names(self._place))

    def summaries(self, *, retired: bool = False) -> list[dict[str, Any]]:
        """Return a line for each version, oldest first: version, created, parent, bytes, tables, aliases, ...

        ``retired`` is whether it is, ``despite`` why it was published although a gate failed.

        Args:
            retired: Retired versions too.
        """
        hidden, aliases = set(self.retired()), self.aliases()
        found = all_manifests(self._place)
        if retired:
            found = sorted([*found, *read_manifests(self._place, hidden)], key=lambda each: (each.created, each.name))
        despite = despite_of(self._place, found)
        return [summarize(each, aliases, each.name in hidden, despite.get(each.name)) for each in found]

    def latest(self) -> Version | None:
        """Open the newest complete version, or return None where there is none."""
        names = self.versions()
        return self.open(names[-1]) if names else None

    def resolve(self, name: str) -> str:
        """Return the name of the version that a name, an alias or ``"latest"`` stands for.

        Raises:
            VersionError: There is none, or it is retired.
        """
        return find_manifest(self._place, name).name

    def open(self, name: str, *, verify: bool = False, progress: Progress | None = None) -> Version:
        """Open a version by its name, an alias or ``"latest"``.

        A remote version is copied to the cache once, whole and checked, and memory-mapped there.

        Args:
            name: What it is called.
            verify: Read every file and compare its SHA-256.
            progress: Called with the bytes that are copied, and of how many.

        Raises:
            VersionError: There is none of this name, or it is retired.
            FormatError: It is damaged, or of a format that this release does not read.
        """
        manifest = find_manifest(self._place, name)
        if isinstance(self._place, RemotePlace):
            return open_version(cached_copy(self._place, manifest, self.cache, progress), verify=verify)
        return open_version(self._place.folder / manifest.name, verify=verify)

    def publish(
        self,
        name: str,
        tables: Mapping[str, TableLike],
        *,
        relations: Sequence[RelationParameters] = (),
        parent: str | None = None,
        meta: Mapping[str, Any] | None = None,
        networks: Mapping[str, str] | None = None,
        state: Mapping[str, NDArray[Any]] | None = None,
        reports: Mapping[str, str | bytes] | None = None,
        created: datetime | None = None,
    ) -> Version:
        """Write a new version into the store, as ``write_version`` does."""
        check_free(self._place, check_name(name, "the version's name"))

        def write(folder: Path) -> Version:
            return write_version(
                folder,
                tables,
                relations=relations,
                parent=parent,
                meta=meta,
                networks=networks,
                state=state,
                reports=reports,
                created=created,
            )

        if not isinstance(self._place, RemotePlace):
            return write(self._place.folder / name)
        if self._place.read(f"{name}/{MANIFEST}") is not None:
            raise VersionError(f"{self.root} has a version {name!r}, and what is published is never changed")
        self.cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix="publishing-", dir=self.cache))
        try:
            folder = write(aside / name).path
            manifest = manifest_of((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
            publish_remotely(self._place, folder, manifest)
            return open_version(keep_copy(self._place, manifest, self.cache, folder))
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def publish_folder(
        self, folder: str | Path, *, name: str | None = None, progress: Progress | None = None
    ) -> Version:
        """Publish a complete version that was written elsewhere; the folder stays as it is.

        Published already, byte for byte, it is simply opened: a publisher that was killed can do it all again.

        Args:
            folder: A folder of this machine, as ``write_version`` makes it.
            name: What it has to be called, if that matters.
            progress: Called with the bytes that are done, and of how many.

        Raises:
            VersionError: Another version of its name is there or being published, it is there and retired, or its name
                is not ``name``.
            ChecksumError: A file is not what its manifest says.
            FormatError: The folder is no complete version.
            ChecksumError: A file that was copied is not what ``version.json`` says.
        """
        source = local_folder(folder)
        version = open_version(source)
        if name is not None and version.name != name:
            raise VersionError(f"{source} is version {version.name!r}, expected {name!r}")
        manifest = manifest_of((source / MANIFEST).read_bytes(), str(source / MANIFEST))
        check_free(self._place, check_name(manifest.name, "the version's name"))
        if self._place.read(f"{manifest.name}/{MANIFEST}") == manifest.data:
            if (problem := why_not(self._place, manifest.name)) is not None:
                raise VersionError(problem)
            if isinstance(self._place, RemotePlace):
                self._forget_dead(manifest.name)
        elif isinstance(self._place, RemotePlace):
            publish_remotely(self._place, source, manifest, progress)
        else:
            publish_locally(source, manifest, self._place.folder / manifest.name, progress)
        return version if isinstance(self._place, RemotePlace) else open_version(self._place.folder / manifest.name)

    def abandon(self, name: str) -> int:
        """Clear what a publisher on another machine left of a version when it ended; return how many files there were.

        Should that publisher be alive after all, its publication fails.

        Raises:
            VersionError: Nobody is publishing the version.
        """
        claim = current_claim(self._place, name)
        if not isinstance(self._place, RemotePlace) or claim is None:
            raise VersionError(f"nobody is publishing a version {name!r} to {self.root}")
        return give_up(self._place, claim)

    def show(self, name: str) -> dict[str, Any]:
        """Return what there is to know of a version, retired ones too, without opening a table."""
        manifest = find_manifest(self._place, name, retired=True)
        named = [alias for alias, version in self.aliases().items() if version == manifest.name]
        return describe(self._place, manifest, named)

    def diff(self, old: str, new: str, *, ids: bool = False) -> dict[str, Any]:
        """Return what differs between two versions, retired ones too: settings, inputs, code, tables and metrics.

        Args:
            old: A version, an alias or ``"latest"``.
            new: Another one.
            ids: Also count the ids that came and went, table by table; this opens the tables.
        """
        before, after = (find_manifest(self._place, name, retired=True) for name in (old, new))
        found = difference(self._place, before, after)
        return {**found, "ids": difference_of_ids(self._opened(before), self._opened(after))} if ids else found

    def lineage(self, name: str) -> list[str]:
        """Return a version, the one that its training started from, and so on to the first, or to one that is gone."""
        manifest: Manifest | None = find_manifest(self._place, name, retired=True)
        names: list[str] = []
        while manifest is not None and manifest.name not in names:
            names.append(manifest.name)
            parent = manifest.parent
            manifest = read_version(self._place, parent) if isinstance(parent, str) and parent not in names else None
            if manifest is None and isinstance(parent, str) and parent not in names:
                names.append(parent)
        return names

    def ancestry(self, name: str) -> list[dict[str, Any]]:
        """Return a line for each version of ``lineage``: version, created, gates, despite, state.

        ``gates`` counts those that passed, failed and were skipped; ``despite`` is why it was published although one
        failed; ``state`` is ``"retired"``, ``"removed"`` of one that is not there, or None.
        """
        names = self.lineage(name)
        return [ancestor(self._place, each, read_version(self._place, each)) for each in names]

    def aliases(self) -> dict[str, str]:
        """Return the version of every alias, sorted by alias."""
        return current_aliases(self._place)

    def alias_history(self, alias: str) -> list[AliasMove]:
        """Return all moves of an alias, the first one first; empty where there was none."""
        return alias_history(self._place, check_name(alias, "the alias"))

    def set_alias(
        self, alias: str, version: str, *, expected: str | EllipsisType | None = ..., reason: str | None = None
    ) -> AliasMove:
        """Move an alias in one step, for all readers at once.

        Args:
            alias: Its name, such as ``"production"``; new ones are made.
            version: Where to: a version, another alias or ``"latest"``.
            expected: Where it has to be before, None for nowhere; anywhere, where it is not given.
            reason: Why; its history keeps it.

        Returns:
            The move; the last one, where the alias is there already.

        Raises:
            VersionError: The version is not there or is retired, or the alias is not where it was expected.
            ConfigError: The alias is called like a version, or ``"latest"``.
        """
        if check_name(alias, "the alias") == LATEST or read_version(self._place, alias) is not None:
            raise ConfigError(f"an alias cannot be called {alias!r}, which {self.root} knows as a version")
        target = self.resolve(version)
        last = current_move(self._place, alias)
        if last is not None and last.version == target and expected in (..., target):
            return last
        move = move_alias(self._place, alias, target, expected=expected, reason=reason)
        return self._kept(alias, target, move)

    def roll_back(self, alias: str, reason: str | None = None) -> AliasMove:
        """Move an alias to the version where it was before; done again, it goes further back.

        Versions that were gone back from are not gone to again, and those that are retired or removed are passed over.

        Args:
            alias: Its name.
            reason: Why; its history keeps it.

        Returns:
            The move; its ``back`` is the number of the move that it goes back to.

        Raises:
            VersionError: There is no such alias, or no earlier version that it could go to.
        """
        moves = self.alias_history(alias)
        if not moves or moves[-1].version is None:
            raise VersionError(f"{self.root} has no alias {alias!r}; {closest(alias, self.aliases())}")
        here, earlier = moves[-1].version, earlier_moves(moves)
        for to in earlier:
            if to.version is not None and why_not(self._place, to.version) is None:
                move = move_alias(self._place, alias, to.version, expected=here, back=to.number, reason=reason)
                return self._kept(alias, to.version, move)
        before = ", ".join(dict.fromkeys(str(move.version) for move in earlier))
        raise VersionError(
            f"alias {alias!r} is at {here}, and was at "
            + (f"{before} before, which are retired or removed" if before else "no other version before")
        )

    def remove_alias(self, alias: str, *, expected: str | EllipsisType = ..., reason: str | None = None) -> AliasMove:
        """Remove an alias; its history stays.

        Raises:
            VersionError: There is none, or it is not where it was expected.
        """
        last = current_move(self._place, check_name(alias, "the alias"))
        if last is None or last.version is None:
            raise VersionError(f"{self.root} has no alias {alias!r}; {closest(alias, self.aliases())}")
        return move_alias(self._place, alias, None, expected=expected, reason=reason)

    def retire(
        self, name: str, *, reason: str | None = None, force: bool = False, rankers: Sequence[str | Path] = ()
    ) -> None:
        """Hide a version: it is no longer listed or opened, and ``collect`` removes it in time.

        Args:
            name: Its name.
            reason: Why; readers are told.
            force: Also where it is the latest version.
            rankers: Folders of rankers, or patterns such as ``"rankers/*"``, besides those that are protected.

        Raises:
            VersionError: An alias or a ranker names it, it is the latest version, or it is retired already.
        """
        manifest = find_manifest(self._place, name)
        if manifest.name != name:
            raise VersionError(f"{name!r} stands for version {manifest.name!r}: retire that one by its own name")
        folders = ranker_folders(rankers)
        self._refuse_needed(name, folders, force)
        try:
            mark_retired(self._place, name, reason)
        except FileExistsError:
            raise VersionError(f"version {name!r} of {self.root} is retired already") from None
        try:
            self._refuse_needed(name, folders, force)
        except BaseException:
            unmark_retired(self._place, name)
            raise

    def restore(self, name: str) -> None:
        """Bring a retired version back.

        Raises:
            VersionError: It is not retired, or is being removed.
        """
        found = retirement(self._place, check_name(name, "the version's name"))
        if found is None:
            raise VersionError(f"{self.root} has no retired version {name!r}; {closest(name, self.retired())}")
        unmark_retired(self._place, name)
        if self._place.read(collecting_mark(name)) is not None or read_version(self._place, name) is None:
            with suppress(FileExistsError):
                mark_retired(self._place, name, found.reason, found.retired.isoformat())
            raise VersionError(f"version {name!r} of {self.root} is being removed, and cannot be restored")

    def protect(self, ranker: str | Path) -> Protection:
        """Keep the versions that a ranker names: they cannot be retired or removed.

        Args:
            ranker: The folder of a checkpoint or an exported ranker, or its URL.

        Raises:
            FormatError: It is no ranker.
            VersionError: A version that it names is retired, or none of them is in the store.
        """
        protection = protect_ranker(self._place, ranker)
        there = [version for version in protection.versions if self._place.read(f"{version}/{MANIFEST}") is not None]
        problems = [problem for version in there if (problem := why_not(self._place, version)) is not None]
        if not there:
            problems = [f"it names the versions {', '.join(protection.versions)}, and {self.root} has none of them"]
        if problems:
            self._place.remove(protection.path)
            raise VersionError(f"the ranker {ranker} cannot be protected: {problems[0]}")
        return protection

    def protections(self) -> list[Protection]:
        """Return which rankers are protected, with the versions that they name."""
        return protections(self._place)

    def unprotect(self, ranker: str | Path) -> None:
        """Forget a ranker that was protected from here, or else one of that path that other hosts protected.

        Raises:
            VersionError: It was not.
        """
        url = str(ranker) if isinstance(place_of(ranker), RemotePlace) else str(local_folder(path_of(ranker)))
        found = [each for each in self.protections() if each.ranker == url.rstrip("/")]
        if not found:
            known = [each.ranker for each in self.protections()]
            raise VersionError(f"{self.root} protects no ranker {url}; {closest(url, known)}")
        own = [each for each in found if each.is_here]
        for each in own or found:
            self._place.remove(each.path)

    def collect(
        self, *, rankers: Sequence[str | Path] = (), grace: timedelta = GRACE, dry_run: bool = False
    ) -> Collected:
        """Remove versions that have been retired for a while and that nothing names, and what killed publishers left.

        A process that has a version open goes on reading it where files that are open outlive their names, as on every
        POSIX system; a remote version is read from its copy.

        Args:
            rankers: Folders of rankers whose versions stay, or patterns such as ``"rankers/*"``, besides those that are
                protected.
            grace: How long a version has to have been retired.
            dry_run: Remove nothing, only say what would go.

        Raises:
            VersionError: A ranker cannot be read, so that nobody knows which versions it needs; nothing is removed.
            ConfigError: A pattern fits no folder.
        """
        folders = ranker_folders(rankers)
        return collect(self._place, lambda: needed(self._place, folders), grace=grace, dry_run=dry_run)

    def _kept(self, alias: str, target: str, move: AliasMove) -> AliasMove:
        """Return a move, or take it back where its version has been retired or removed meanwhile."""
        problem = why_not(self._place, target)  # whoever removes it looks for aliases after marking it
        if problem is not None:
            take_back(self._place, alias, move, lambda version: why_not(self._place, version) is None)
            raise VersionError(f"alias {alias!r} was not moved: {problem}")
        return move

    def _refuse_needed(self, name: str, rankers: Sequence[str], force: bool) -> None:
        if (by := needed(self._place, rankers).get(name)) is not None:
            raise VersionError(f"version {name!r} of {self.root} is needed: {by} names it")
        if force:
            return
        newest = read_manifests(self._place, {*self.versions(), name})
        if newest and newest[-1].name == name:
            raise VersionError(
                f"version {name!r} is the latest of {self.root}: --force (force=True) retires it nonetheless"
            )

    def _opened(self, manifest: Manifest) -> Version:
        if isinstance(self._place, RemotePlace):
            return open_version(cached_copy(self._place, manifest, self.cache))
        return open_version(self._place.folder / manifest.name)

    def _forget_dead(self, name: str) -> None:
        """Remove the claim of a publisher that was killed after its version was complete."""
        claim = current_claim(self._place, name)
        if claim is not None and claim.process.is_dead():
            release(self._place, claim)
