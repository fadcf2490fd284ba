"""What happens to every request before and after its endpoint: token, size and time of its body, metrics, failures."""

__all__ = ["Guard", "problem"]

import asyncio
import hmac
import logging
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from recokit.serve.metrics import Metrics
from recokit.serve.settings import ServeSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)

# A body up to so many times too large is taken and thrown away: most clients read no answer before they have sent all
# of it, and would see a broken connection in its place.
_DRAINED = 16
_GONE = 499  # counted, never sent: who asked did not wait for the answer
_OPEN = ("/healthz",)  # a probe that asks whether the process lives has no secrets


def problem(status: int, error: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer that says why there is none."""
    body = to_json({"error": error, "detail": detail}, bytes_mode="utf8")
    return Response(body, status, headers=dict(headers or {}), media_type="application/json")


class Guard:
    """Middleware around all endpoints.

    Args:
        app: What it guards.
        settings: The token and the limits.
        metrics: Where requests are counted.
        endpoints: Paths that are counted under their names; all others are ``"other"``.
    """

    def __init__(
        self, app: "ASGIApp", *, settings: ServeSettings, metrics: Metrics, endpoints: Collection[str]
    ) -> None:
        self.app, self.settings, self.metrics, self.endpoints = app, settings, metrics, frozenset(endpoints)
        self._expected = None if settings.token is None else settings.token.encode()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        endpoint = scope["path"] if scope["path"] in self.endpoints else "other"
        started, status = time.perf_counter(), 0

        async def noting(message: "Message") -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.metrics.in_flight.inc()
        try:
            await self._answer(scope, receive, noting)
        except Exception as error:
            fields = {"endpoint": endpoint, "method": scope["method"], "error": type(error).__name__}
            _log.exception("request failed", extra={"fields": fields})
            if status:  # half an answer is out: the connection has to break
                raise
            await problem(500, "internal", "the service failed; its log says why")(scope, receive, noting)
        finally:
            self.metrics.in_flight.dec()
            self.metrics.requests.labels(endpoint, str(status or _GONE)).inc()
            self.metrics.seconds.labels(endpoint).observe(time.perf_counter() - started)

    async def _answer(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        headers = dict(scope["headers"])
        if not self._may_enter(scope["path"], headers.get(b"authorization", b"")):
            refused = problem(
                401, "unauthorized", "expected Authorization: Bearer <token>", {"WWW-Authenticate": "Bearer"}
            )
            await refused(scope, receive, send)
            return
        if (encoding := headers.get(b"content-encoding", b"identity").strip().lower()) not in (b"identity", b""):
            said = f"the body has Content-Encoding {encoding.decode('latin-1')}, expected one that is not compressed"
            await problem(415, "unsupported", said, {"Accept-Encoding": "identity"})(scope, receive, send)
            return
        most = self.settings.max_body
        try:
            async with asyncio.timeout(self.settings.timeout):
                body = await _read(receive, headers, most)
        except TimeoutError:
            late = problem(408, "timeout", "the body did not come in time", {"Connection": "close"})
            await late(scope, receive, send)
            return
        except ClientDisconnect:
            return
        if body is None:
            large = problem(413, "too_large", f"the body has more than {most} bytes", {"Connection": "close"})
            await large(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # the server sends the head alone
            scope = {**scope, "method": "GET"}
        await self.app(scope, _replay(body, receive), send)

    def _may_enter(self, path: str, authorization: bytes) -> bool:
        if self._expected is None or path in _OPEN:
            return True
        scheme, _, token = authorization.partition(b" ")
        return hmac.compare_digest(token.strip(), self._expected) and scheme.lower() == b"bearer"


async def _read(receive: "Receive", headers: Mapping[bytes, bytes], most: int) -> bytes | None:
    """Return a request's body, or None where it is too large; ClientDisconnect where it does not come to its end."""
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > _DRAINED * most:
        return None
    parts, size, more = [], 0, True
    while more and size <= _DRAINED * most:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size <= most:
            parts.append(part)
        more = message.get("more_body", False)
    return None if size > most else b"".join(parts)


def _replay(body: bytes, receive: "Receive") -> "Receive":
    """Return a ``receive`` that gives the body first."""
    given = False

    async def again() -> "Message":
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
