"""Serves the page and a sample's values, as the master would: for tests of the page alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import elasticdl.dashboard
from tests.dashboard.sample import Sample

PAGE = Path(elasticdl.dashboard.__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PageServer:
    """A server in threads, until `close`.

    Attributes:
      requests: what was asked for so far.
      has_room: whether another page may listen to the stream.
      changed: what states of the stream have instead of all epochs; None: all of them.
      before_stream: is called when a stream is open and before it tells what is new since then.
    """

    def __init__(self, sample: Sample, port: int = 0) -> None:
        self.sample = sample
        self.requests: list[str] = []
        self.has_room = True
        self.changed: list[dict[str, Any]] | None = None
        self.before_stream: Callable[[], None] = lambda: None
        self._ended = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(self.path)
                server.answer(self)

            def log_message(self, *words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """End, and every stream with it, as a master's death does."""
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path)
        if path.path == "/api/stream" and self.has_room:
            return self._stream(request)
        kind, body = self._found(path.path, parse_qs(path.query))
        request.send_response(404 if body is None else 200)
        request.send_header("Content-Type", f"{kind}; charset=utf-8")
        request.send_header("Content-Security-Policy", POLICY)
        request.end_headers()
        request.wfile.write(body or b"nothing here")
        return None

    def _found(self, path: str, query: dict[str, list[str]]) -> tuple[str, bytes | None]:
        values: dict[str, Any] | None = None
        if path == "/api/state":
            values = self.sample.state()
        elif path in ("/api/job", "/api/history"):
            values = self.sample.values[path.removeprefix("/api/")]
        elif path == "/api/events":
            after, limit = int(query["after"][0]), int(query["limit"][0])
            told = self.sample.values["events"]
            some = [one for one in told["events"] if one["number"] > after]
            values = {"events": some[:limit], "last": told["last"]}
        elif path.startswith("/api/logs/"):
            values = self.sample.logs.get(
                f"{path.removeprefix('/api/logs/')}/{query['incarnation'][0]}"
            )
        else:
            file = PAGE / (path.removeprefix("/") or "index.html")
            if file.parent == PAGE and file.suffix in TYPES and file.exists():
                return TYPES[file.suffix], file.read_bytes()
        return "application/json", None if values is None else json.dumps(values).encode()

    def _stream(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        request.wfile.flush()
        self.before_stream()
        sent = self.sample.values["events"]["last"]
        try:
            while True:
                told = self.sample.values["events"]
                new = [one for one in told["events"] if one["number"] > sent]
                if new:
                    sent = told["last"]
                    self._send(request, "events", {"events": new, "last": sent})
                state = self.sample.state()
                if self.changed is not None:
                    del state["progress"]["epochs"]
                    state["progress"]["epochs_changed"] = self.changed
                self._send(request, "state", state)
                if self._ended.wait(0.2):
                    return
        except OSError:
            return

    def _send(self, request: BaseHTTPRequestHandler, kind: str, values: dict[str, Any]) -> None:
        request.wfile.write(f"event: {kind}\ndata: {json.dumps(values)}\n\n".encode())
        request.wfile.flush()
