"""The subcommand ``recokit serve``: a version, or what a store calls its newest or an alias, behind HTTP."""

__all__ = ["serve"]

import json
import logging
import signal
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recokit.cli import JsonFlag
from recokit.errors import ConfigError, MissingDependencyError
from recokit.serve.settings import TOKEN_VARIABLE, ServeSettings, is_loopback, read_token

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI


def serve(
    source: Annotated[str, typer.Argument(metavar="STORE|VERSION", help="A store (folder or URL), or a version.")],
    *,
    alias: Annotated[str | None, typer.Option(help="Follow this alias of the store (default: the newest).")] = None,
    version: Annotated[str | None, typer.Option(help="Serve this version of the store, and no other.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; all but loopback ask for a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 8080,
    token_file: Annotated[
        Path | None, typer.Option(help=f"A file with the token that clients show (default: ${TOKEN_VARIABLE}).")
    ] = None,
    poll: Annotated[str, typer.Option(help="Time between looks at the store: 5s, 500ms, 2m.")] = "5s",
    index: Annotated[str, typer.Option(help="exact, hnsw or faiss.")] = "exact",
    index_table: Annotated[
        list[str] | None, typer.Option(help="Tables that get the index; may be given several times (default: all).")
    ] = None,
    max_k: Annotated[int, typer.Option(help="The largest k.")] = ServeSettings.max_k,
    max_ids: Annotated[int, typer.Option(help="The most ids of a request.")] = ServeSettings.max_ids,
    max_results: Annotated[int, typer.Option(help="The most ids times k.")] = ServeSettings.max_results,
    max_body: Annotated[int, typer.Option(help="The most bytes of a request.")] = ServeSettings.max_body,
    queue: Annotated[int, typer.Option(help="Requests that may wait.")] = ServeSettings.queue,
    timeout: Annotated[str, typer.Option(help="Time for a request, and for a stop.")] = "10s",
    threads: Annotated[int, typer.Option(help="Threads that search.")] = ServeSettings.threads,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log every request.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Answer requests for vectors, neighbours and candidates, and follow the store to new versions."""
    from recokit.serve import create_app
    from recokit.serve.follow import refuse_unknown

    token = read_token(token_file)
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"--host is {host!r}, which other machines may reach, and there is no token: set --token-file or "
            f"{TOKEN_VARIABLE}, or listen at 127.0.0.1"
        )
    settings = ServeSettings(
        alias=alias,
        version=version,
        index=index,  # type: ignore[arg-type]  # checked there
        index_tables=None if index_table is None else tuple(index_table),
        poll=_seconds(poll, "--poll"),
        max_k=max_k,
        max_ids=max_ids,
        max_results=max_results,
        max_body=max_body,
        queue=queue,
        timeout=_seconds(timeout, "--timeout"),
        threads=threads,
        token=token,
    )
    _log_as_json()
    app = create_app(source, settings=settings)
    refuse_unknown(app.state.service.source)
    server = _server(app, settings, access_log)
    with _listening(host, port) as bound:
        url = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
        title = app.state.service.source.title
        document = {"url": url, "following": title, "openapi": f"{url}/openapi.json"}
        typer.echo(json.dumps(document) if as_json else f"serving {title} at {url} ({url}/openapi.json says what)")
        _run(server, bound)


class JsonLines(logging.Formatter):
    """One line of JSON for each record; ``extra={"fields": {...}}`` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _log_as_json() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name, level in (("recokit.serve", logging.INFO), ("uvicorn", logging.WARNING), ("py.warnings", logging.INFO)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    logging.captureWarnings(True)


def _listening(host: str, port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off for connections of sockets that say TCP, which those of socket.create_server
    # do not: head and body go out apart, and every answer would wait 40 ms for the client's acknowledgement.
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(2048)  # who comes now, once the address is printed, is served when the service has started
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen at {host!r}, port {port}: {error}") from error
    return bound


def _server(app: "FastAPI", settings: ServeSettings, access_log: bool) -> "uvicorn.Server":
    try:
        import uvicorn
    except ImportError as error:
        raise MissingDependencyError("uvicorn", extra="serve", needed_for="`recokit serve`") from error
    if access_log:
        logging.getLogger("uvicorn").setLevel(logging.INFO)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=access_log,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.timeout)),
    )
    return uvicorn.Server(config)


def _run(server: "uvicorn.Server", bound: socket.socket) -> None:
    """Serve until a signal comes; what has begun is finished first."""
    # uvicorn raises the signal again after its clean end, which would make an error of it; and one that comes before
    # uvicorn has begun is not lost.
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        server.run(sockets=[bound])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _seconds(text: str, option: str) -> float:
    """Return a duration such as ``5s`` or ``500ms`` in seconds; a bare number is seconds."""
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("", 1.0)):
        if text.endswith(unit):
            try:
                return float(text.removesuffix(unit)) * factor
            except ValueError:
                break
    raise ConfigError(f"{option} is {text!r}, expected a time such as 5s, 500ms or 2m")
