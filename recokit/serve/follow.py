"""The version that is served, and how the next one takes its place.

A thread asks the store every few seconds what its newest version is, or where an alias points.  A new one is opened and
its indexes are built beside the one that serves; then one reference is changed.  Requests that have begun keep the
version that they began with, and it is let go with the last of them.  A version that cannot be loaded leaves the old
one where it is and is tried again, each time after twice the pause, up to a minute.
"""

__all__ = ["Follower", "Source", "refuse_unknown", "source_of"]

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from recokit import EmbeddingStore
from recokit.errors import ConfigError, FormatError, RecokitError, VersionError
from recokit.serve.serving import Serving
from recokit.serve.settings import ServeSettings
from recokit.store.places import path_of, place_of
from recokit.table import Version, open_version
from recokit.table.folder import is_url
from recokit.table.version import MANIFEST

_log = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0  # seconds between tries of a version that cannot be loaded


class Source(Protocol):
    """Says which version to serve, and opens it."""

    @property
    def title(self) -> str:
        """What is followed, for people."""

    def target(self) -> str | None:
        """Return the name of the version that should be served now, or None where there is none yet."""

    def open(self, name: str) -> Version:
        """Open it."""

    def versions(self) -> list[str]:
        """Return the names of all versions that there are, oldest first."""


@dataclass(frozen=True)
class _Folder:
    """One version, which never changes."""

    version: Version

    @property
    def title(self) -> str:
        return str(self.version.path)

    def target(self) -> str:
        return self.version.name

    def open(self, name: str) -> Version:
        return self.version

    def versions(self) -> list[str]:
        return [self.version.name]


@dataclass(frozen=True)
class _Store:
    """The newest version of a store, or where one of its names points."""

    store: EmbeddingStore
    name: str | None  # an alias or a version; None for the newest

    @property
    def title(self) -> str:
        return f"{self.store.root}@{self.name or 'latest'}"

    def target(self) -> str | None:
        if self.name is not None:
            return self.store.resolve(self.name)
        names = self.store.versions()
        return names[-1] if names else None

    def open(self, name: str) -> Version:
        return self.store.open(name)

    def versions(self) -> list[str]:
        return self.store.versions()


class _Url:
    """A URL of a store, or of one version in it: which of them, is seen when there is something to be seen."""

    def __init__(self, url: str) -> None:
        self._url, self._seen = url, False
        self._followed = _Store(EmbeddingStore(url), None)

    @property
    def title(self) -> str:
        return self._followed.title

    def target(self) -> str | None:
        if not self._seen and place_of(self._url).read(MANIFEST) is not None:
            store, _, name = self._url.rpartition("/")
            self._followed, self._seen = _Store(EmbeddingStore(store), name), True
        target = self._followed.target()
        self._seen = self._seen or target is not None
        return target

    def open(self, name: str) -> Version:
        return self._followed.open(name)

    def versions(self) -> list[str]:
        return self._followed.versions()


def source_of(source: str | Path, settings: ServeSettings) -> Source:
    """Return what is to be followed: a version's folder, or a name in a store.

    Args:
        source: The folder or the URL of a version or of a store, or a store and a name: ``STORE@NAME``.
        settings: May hold the name.

    Raises:
        FormatError: ``source`` is none of these.
        ConfigError: A name is given twice, or in something that is no store.
    """
    text = str(source).rstrip("/")
    name = settings.alias or settings.version
    local = not is_url(text) or text.startswith("file://")
    folder = path_of(text)
    if (local and (folder.exists() or "@" not in folder.name)) or "@" not in text.rpartition("/")[2]:
        inside = None
    else:
        text, _, inside = text.rpartition("@")
        folder = path_of(text)
    if inside is not None and name is not None:
        raise ConfigError(f"{source} names {inside!r}, and {name!r} is given too: expected one of them")
    named = name or inside
    name = None if named == "latest" else named
    if local and (folder / "version.json").is_file():
        if name is not None:
            raise ConfigError(f"{folder} is one version, in which there is no {name!r}: name its store")
        return _Folder(open_version(folder))
    if local and (not folder.is_dir() or (folder / "table.json").is_file()):
        raise FormatError(f"{folder} is neither a version nor a store of versions")
    return _Url(text) if not local and named is None else _Store(EmbeddingStore(text), name)


def refuse_unknown(source: Source) -> None:
    """Refuse a name that a store on this machine does not know, though it has versions: that is a slip.

    A store without versions may get them, and one at a URL may be out of reach for a while: both are followed.

    Raises:
        VersionError: It knows no such name, and the message has the nearest one; or what it names is retired.
    """
    if not isinstance(source, _Store) or source.name is None or not isinstance(source.store.root, Path):
        return
    with suppress(FormatError, OSError):  # what cannot be read now is tried again
        if source.store.versions():
            source.target()


class Follower:
    """Keeps the version that is served; ``current`` is it, or None before the first.

    Args:
        source: What to follow.
        load: Makes a version ready to serve.
        poll: Seconds between looks.
        loaded: Called with each version that has taken its place, and the seconds that loading took.
        failed: Called with what went wrong.
    """

    def __init__(
        self,
        source: Source,
        load: Callable[[Version], Serving],
        *,
        poll: float,
        loaded: Callable[[Serving, float], None] = lambda serving, seconds: None,
        failed: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self.source = source
        self.current: Serving | None = None
        self.problem: str | None = None
        self._load, self._poll, self._loaded, self._failed = load, poll, loaded, failed
        self._name: str | None = None  # of what failed
        self._pause, self._again = poll, 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look for versions, in a thread."""
        self._stopped.clear()
        self._thread = threading.Thread(target=self._run, name="serve-follow", daemon=True)
        self._thread.start()

    def stop(self, *, wait: float = 1.0) -> None:
        """End the thread; a load that is under way is waited for no longer than ``wait`` seconds."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(wait)

    def check(self) -> bool:
        """Look once, and return whether another version has taken its place."""
        name, started = None, time.perf_counter()
        try:
            name = self.source.target()
            if name is None and self.current is not None:
                raise VersionError(f"{self.source.title} has no version any more, {self.current.name} is served on")
            if name is None:
                self.problem = f"{self.source.title} has no version yet"
                return False
            if self.current is not None and self.current.name == name:
                self.problem = None
                return False
            if name == self._name and time.monotonic() < self._again:
                return False
            serving = self._load(self.source.open(name))
        except Exception as error:  # whatever it is, what serves goes on serving
            self._fail(name, error)
            return False
        before, self.current = self.current, serving
        self.problem, self._name, self._pause = None, None, self._poll
        seconds = time.perf_counter() - started
        _log.info(
            "serving %s",
            name,
            extra={"fields": {"version": name, "seconds": seconds, "before": before and before.name}},
        )
        self._loaded(serving, seconds)
        return True

    def _fail(self, name: str | None, error: Exception) -> None:
        self._pause = min(2 * self._pause, max(_LONGEST_PAUSE, self._poll)) if name == self._name else self._poll
        self._name, self._again = name, time.monotonic() + self._pause
        said = " ".join(str(error).split())
        problem = (
            f"the store does not say what to serve: {said}" if name is None else f"{name} cannot be loaded: {said}"
        )
        if problem != self.problem:  # a line for each thing that is wrong, not for each time that it is seen
            fields = {"version": name, "error": type(error).__name__, "detail": str(error)}
            expected = isinstance(error, (RecokitError, OSError))
            _log.error("load failed", extra={"fields": fields}, exc_info=None if expected else error)
        self.problem = problem
        self._failed(error)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.check()
            self._stopped.wait(self._poll)
