"""Where a version comes from, as people type it: a folder, a store and a name, or a URL of either."""

__all__ = ["open_source"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recokit.errors import FormatError, VersionError
from recokit.store.places import path_of
from recokit.store.publication import Progress
from recokit.store.store import EmbeddingStore
from recokit.table.folder import is_url
from recokit.table.version import MANIFEST, Version, open_version


def open_source(
    source: str | Path,
    *,
    cache: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    verify: bool = False,
    progress: Progress | None = None,
) -> Version:
    """Open a version by its folder, ``path/to/version``, or by a store and a name: ``path/to/store@production``.

    Behind the ``@`` stands a version, an alias or ``latest``; both parts may be a URL:
    ``s3://bucket/embeddings@latest``, ``s3://bucket/embeddings/2026-06-01``.

    Args:
        source: The text.
        cache: Where copies of remote versions are kept, as for ``EmbeddingStore``.
        options: Of fsspec's file system.
        verify: Read every file and compare its SHA-256.
        progress: Called with the bytes of a remote version that are copied, and of how many.

    Raises:
        FormatError: There is no version; the message says what there is.
        VersionError: The store has none of this name, or it is retired.
    """
    text = str(source).rstrip("/")
    remote = isinstance(source, str) and is_url(text) and not text.startswith("file://")
    if not remote:
        path = path_of(text)
        if path.exists() or "@" not in path.name:
            return _open_folder(path, verify)
    store, at, name = text.rpartition("@")
    if not at or "/" in name:  # no name, or an @ inside the URL, such as a user's
        store, _, name = text.rpartition("/")
        if store.endswith(":/"):
            raise FormatError(f"{text} names no version: {text}@latest would be the latest one there")
    try:
        return EmbeddingStore(store, cache=cache, options=options).open(name, verify=verify, progress=progress)
    except VersionError:
        if remote and "@" not in text:
            _refuse_store(EmbeddingStore(text, options=options), text)
        raise


def _open_folder(path: Path, verify: bool) -> Version:
    if path.is_dir() and not (path / MANIFEST).is_file():
        _refuse_store(EmbeddingStore(path), str(path))
    return open_version(path, verify=verify)


def _refuse_store(store: EmbeddingStore, text: str) -> None:
    """Say how to name a version of what turned out to be a store."""
    if names := store.versions():
        raise FormatError(f"{text} is a store, not a version: say which one, {text}@latest or {text}@{names[-1]}")
