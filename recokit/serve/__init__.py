"""A version, or what a store calls its newest or an alias, behind HTTP: vectors, neighbours, candidates.

    settings    what the service may be told
    serving     one version in memory: look-ups and searches, many requests at once; no HTTP
    follow      the version that is served, and how the next one takes its place
    batching    requests that wait are answered by one call, in threads beside the event loop
    metrics     what is counted
    models      bodies of requests and answers
    answers     answers as bytes
    service     all of these together
    guard       what happens to every request: token, size, time, failures
    app         the endpoints

From ``metrics`` on they need the extra ``serve``.
"""

__all__ = ["ServeSettings", "create_app"]

from pathlib import Path
from typing import TYPE_CHECKING

from recokit.errors import MissingDependencyError
from recokit.serve.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI


def create_app(source: str | Path, *, settings: ServeSettings | None = None) -> "FastAPI":
    """Return the service as an ASGI application, for ``recokit serve`` or a server of your own.

    Args:
        source: The folder or URL of a version, or of a store, of which the newest version, or ``settings.alias``, is
            followed.
        settings: How to serve; the defaults where not given.

    Raises:
        FormatError: ``source`` is neither a version nor a store.
        ConfigError: ``settings`` name an alias or a version, and ``source`` is no store.
        MissingDependencyError: FastAPI or the Prometheus client is not installed.
    """
    try:
        from recokit.serve.app import build_app
    except ImportError as error:
        package = (error.name or str(error)).split(".")[0]
        raise MissingDependencyError(package, extra="serve", needed_for="the service") from error
    return build_app(source, settings or ServeSettings())
