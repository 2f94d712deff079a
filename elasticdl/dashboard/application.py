"""What a dashboard answers: the page, the values behind it, and the metrics; nothing changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from elasticdl.dashboard.address import is_own_name
from elasticdl.dashboard.feed import Feed, to_json
from elasticdl.dashboard.metrics import CONTENT_TYPE, exposition
from elasticdl.dashboard.source import MOST_EVENTS, MOST_LOG_BYTES, Source, Values
from elasticdl.master.instances import Role

LOG_BYTES = 16_384
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


def make_application(source: Source, feed: Feed, in_thread: InThread, host: str) -> ASGIApp:
    """Return what answers requests.

    Args:
      source: the job.
      feed: its streams.
      in_thread: calls in another thread what may take a while.
      host: that it listens on, as it was given.
    """

    def values(find: Callable[[Request], Values]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            text = await in_thread(lambda: to_json(find(request)))
            return Response(text, media_type="application/json")

        return answer

    async def stream(request: Request) -> Response:
        if feed.is_full:
            return PlainTextResponse("too many pages are open", 503)
        return StreamingResponse(feed.stream(), media_type="text/event-stream")

    async def metrics(request: Request) -> Response:
        text = await in_thread(lambda: exposition(source))
        return Response(text, media_type=CONTENT_TYPE)

    async def targets(request: Request) -> Response:
        found = await in_thread(lambda: source.counters().get("targets", []))
        return JSONResponse(found)

    def events(request: Request) -> Values:
        after = _number(request, "after", 0)
        limit = min(_number(request, "limit", 1000), MOST_EVENTS)
        return source.events(after, limit, with_tasks=_number(request, "all", 0) == 1)

    def log(request: Request) -> Values:
        role, index = request.path_params["role"], request.path_params["index"]
        if role not in {one.value for one in Role}:
            raise HTTPException(404, f"no role '{role}'")
        incarnation = _number(request, "incarnation", 0) or None
        num_bytes = min(_number(request, "bytes", LOG_BYTES), MOST_LOG_BYTES)
        found = source.log(role, index, incarnation, num_bytes)
        if not found["tail"]:
            known = {(one["role"], one["index"]) for one in source.state()["instances"]}
            if (role, index) not in known:
                raise HTTPException(404, f"no {role} {index}")
        return found

    routes = [
        Route("/api/job", values(lambda request: source.job())),
        Route("/api/state", values(lambda request: source.state())),
        Route("/api/history", values(lambda request: source.history())),
        Route("/api/events", values(events)),
        Route("/api/logs/{role}/{index:int}", values(log)),
        Route("/api/stream", stream),
        Route("/metrics", metrics),
        Route("/api/targets", targets),
        *_page(),
    ]
    return _Guard(Starlette(routes=routes), host)


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise HTTPException(400, f"{name}='{text[:40]}': not a number from 0 on")
    return int(text)


def _page() -> list[Route]:
    """The page's files, each of which is read now."""
    routes = []
    for file in resources.files("elasticdl.dashboard").joinpath("page").iterdir():
        kind = _KINDS.get(f".{file.name.rpartition('.')[2]}")
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/{file.name}"
            routes.append(Route(path, _file(file.read_bytes(), f"{kind}; charset=utf-8")))
    return routes


def _file(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


class _Guard:
    """Lets only those in who read, and who know whom they ask; see `is_own_name`."""

    def __init__(self, application: ASGIApp, host: str) -> None:
        self._application = application
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_RAW_HEADERS]}
            await send(message)

        application = self._application
        if scope["type"] != "http":
            return
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if scope["method"] not in ("GET", "HEAD"):
            headers = {"Allow": "GET, HEAD"}
            application = PlainTextResponse("only GET is answered\n", 405, headers)
        elif len(hosts) != 1 or not is_own_name(hosts[0].decode("latin-1"), self._host):
            application = PlainTextResponse("not the name of this dashboard\n", 403)
        await application(scope, receive, send_with_headers)
