"""The endpoints, and what OpenAPI says of them."""

__all__ = ["VERSION_HEADER", "build_app"]

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version as package_version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from recokit.errors import ConfigError, DataError, MissingDependencyError, RecokitError, VersionError
from recokit.serve.answers import BINARY, Answer
from recokit.serve.batching import QueueFullError
from recokit.serve.follow import source_of
from recokit.serve.guard import Guard, problem
from recokit.serve.models import (
    CandidatesRequest,
    Health,
    ListsAnswer,
    NeighborsRequest,
    Problem,
    Ready,
    RelationCard,
    TableCard,
    VectorsAnswer,
    VectorsRequest,
    VersionCard,
    Versions,
)
from recokit.serve.service import NotReadyError, Service
from recokit.serve.serving import Serving
from recokit.serve.settings import ServeSettings
from recokit.table import Mixture

VERSION_HEADER = "X-Recokit-Version"

_INDEX_PACKAGES = {"hnsw": "hnswlib", "faiss": "faiss"}
_WORDS = {400: "invalid", 404: "not_found", 405: "method_not_allowed"}
_VERSION_HEADER_CARD = {VERSION_HEADER: {"description": "The version that answered.", "schema": {"type": "string"}}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No token, or a wrong one."},
    408: {"model": Problem, "description": "The body did not come in time."},
    413: {"model": Problem, "description": "The body is too large."},
    415: {"model": Problem, "description": "The body is compressed."},
    422: {"model": Problem, "description": "The request asks for what is not there, or for too much."},
    503: {
        "model": Problem,
        "description": "No version yet, or too many requests wait: ask again after Retry-After seconds.",
        "headers": {"Retry-After": {"schema": {"type": "integer"}}},
    },
}
_BINARY_CARD = {
    "description": "float32, little endian, in C order: vectors; of mixtures, weights; then one byte for each id, 1 if "
    "it is known. X-Recokit-Shape is the shape of the vectors.",
    "schema": {"type": "string", "format": "binary"},
}


def build_app(source: str | Path, settings: ServeSettings) -> FastAPI:
    """Return the service as an application."""
    package = _INDEX_PACKAGES.get(settings.index)
    if package is not None and find_spec(package) is None:
        raise MissingDependencyError(package, extra=settings.index, needed_for=f"index {settings.index!r}")
    service = Service(source_of(source, settings), settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.stop)

    app = FastAPI(
        title="recokit",
        summary="Embeddings of one version at a time: vectors, neighbours, candidates.",
        version=package_version("recokit"),
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = service
    _add_state(app, service)
    _add_work(app, service)
    _add_problems(app, service)
    endpoints = [path for route in app.routes if isinstance(path := getattr(route, "path", None), str)]
    app.add_middleware(Guard, settings=settings, metrics=service.metrics, endpoints=endpoints)
    return app


def _add_state(app: FastAPI, service: Service) -> None:
    """Add what says how the service is."""

    @app.get("/healthz", tags=["state"], summary="Does the process answer?")
    async def healthz() -> Health:
        return Health()

    @app.get("/readyz", tags=["state"], summary="Is a version served?", responses={503: _PROBLEMS[503]})
    async def readyz(response: Response) -> Ready:
        serving = service.serving
        response.headers[VERSION_HEADER] = serving.name
        return Ready(version=serving.name, problem=service.follower.problem)

    @app.get("/metrics", tags=["state"], summary="Counters in Prometheus's text format.", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/version", tags=["versions"], summary="What is served?", responses={503: _PROBLEMS[503]})
    async def version(response: Response) -> VersionCard:
        serving = service.serving
        response.headers[VERSION_HEADER] = serving.name
        return _version_card(serving, service.source.title)

    @app.get("/v1/versions", tags=["versions"], summary="What does the store hold?", responses={503: _PROBLEMS[503]})
    async def versions() -> Versions:
        current = service.follower.current
        try:
            names = await asyncio.to_thread(service.source.versions)
        except (OSError, RecokitError) as error:
            raise HTTPException(503, f"the store cannot be read: {error}") from error
        return Versions(version=None if current is None else current.name, versions=names)


def _add_work(app: FastAPI, service: Service) -> None:
    """Add what the service is there for."""
    ok: dict[int | str, dict[str, Any]] = {200: {"headers": _VERSION_HEADER_CARD}}
    binary: dict[int | str, dict[str, Any]] = {
        200: {"headers": _VERSION_HEADER_CARD, "content": {BINARY: _BINARY_CARD}}
    }

    @app.post(
        "/v1/vectors", tags=["work"], summary="Vectors of ids", response_model=VectorsAnswer,
        responses=_PROBLEMS | binary,
    )  # fmt: skip
    async def vectors(asked: VectorsRequest, request: Request) -> Response:
        serving = _begin(service, request)
        as_bytes = BINARY in request.headers.get("accept", "").lower()
        return _response(serving, await service.vectors(serving, asked, binary=as_bytes))

    @app.post(
        "/v1/neighbors", tags=["work"], summary="The nearest to ids or vectors", response_model=ListsAnswer,
        responses=_PROBLEMS | ok,
    )  # fmt: skip
    async def neighbors(asked: NeighborsRequest, request: Request) -> Response:
        serving = _begin(service, request)
        return _response(serving, await service.neighbors(serving, asked))

    @app.post(
        "/v1/candidates", tags=["work"], summary="Candidates for ids", response_model=ListsAnswer,
        responses=_PROBLEMS | ok,
    )  # fmt: skip
    async def candidates(asked: CandidatesRequest, request: Request) -> Response:
        serving = _begin(service, request)
        return _response(serving, await service.candidates(serving, asked))


def _add_problems(app: FastAPI, service: Service) -> None:
    """Turn errors into answers of one form."""

    def answer(
        request: Request, status: int, error: str, detail: str, more: Mapping[str, str] | None = None
    ) -> Response:
        headers = {"Retry-After": "1"} if status == 503 else dict(more or {})
        current = service.follower.current
        if (name := getattr(request.state, "version", None) or (current.name if current else None)) is not None:
            headers[VERSION_HEADER] = name
        return problem(status, error, detail, headers)

    async def invalid(request: Request, error: Exception) -> Response:
        return answer(request, 422, "invalid", " ".join(str(error).split()))

    async def malformed(request: Request, error: Exception) -> Response:
        wrong = error.errors() if isinstance(error, RequestValidationError) else []
        return answer(request, 422, "invalid", _said(wrong))

    async def not_ready(request: Request, error: Exception) -> Response:
        return answer(request, 503, "not_ready", str(error))

    async def busy(request: Request, error: Exception) -> Response:
        return answer(request, 503, "busy", str(error))

    async def late(request: Request, error: Exception) -> Response:
        return answer(request, 503, "timeout", f"no answer within {service.settings.timeout:g} s")

    async def other(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        word = _WORDS.get(error.status_code, "unavailable" if error.status_code == 503 else "refused")
        return answer(request, error.status_code, word, error.detail, error.headers)  # which may say what is allowed

    for kind in (ConfigError, DataError, VersionError):
        app.add_exception_handler(kind, invalid)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(NotReadyError, not_ready)
    app.add_exception_handler(QueueFullError, busy)
    app.add_exception_handler(TimeoutError, late)
    app.add_exception_handler(HTTPException, other)


def _begin(service: Service, request: Request) -> Serving:
    """Return the version that a request is answered from, from here to its end."""
    serving = service.serving
    request.state.version = serving.name
    return serving


def _response(serving: Serving, answer: Answer) -> Response:
    headers = {VERSION_HEADER: serving.name, **answer.headers}
    return Response(answer.body, headers=headers, media_type=answer.media_type)


def _said(errors: Any) -> str:
    """Return the first thing that is wrong with a body; what came is not repeated."""
    if not errors:
        return "the body is not what was expected"
    first = errors[0]
    place = [str(part) for part in first["loc"]]
    match first["type"]:
        case "json_invalid":
            return f"the body is not JSON: {first['ctx']['error']} at character {place[-1]}"
        case "model_attributes_type":
            return "the body is no JSON object that was sent with Content-Type: application/json"
    for part, said in (
        ("list[int]", "expected integers or strings, and not both"),
        ("int", "expected an integer or a string"),
    ):
        if part in place:  # what a union says of each of its types helps nobody
            return f"{'.'.join(place[: place.index(part)])}: {said}"
    return f"{'.'.join(place)}: {first['msg'].removeprefix('Value error, ')}"


def _version_card(serving: Serving, following: str) -> VersionCard:
    return VersionCard(
        version=serving.name,
        created=serving.version.created,
        loaded=serving.loaded,
        parent=serving.version.parent,
        following=following,
        index=serving.index,
        tables=[
            TableCard(
                name=name,
                entity=table.entity,
                kind=table.kind,
                count=table.count,
                dim=table.dim,
                components=table.num_components if isinstance(table, Mixture) else None,
                ids=table.id_type,
                comparator=table.comparator,
            )
            for name, table in serving.tables.items()
        ],
        relations=[
            RelationCard(name=each.name, source=each.source, target=each.target, operator=each.operator)
            for each in serving.relations.values()
        ],
    )
