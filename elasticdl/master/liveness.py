"""Says over HTTP that a master lives: whoever asks and hears nothing starts another one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATH = "/healthz"
TIMEOUT_S = 5.0


class LivenessServer:
    """Answers `GET /healthz` and nothing else, until `stop`.

    Args:
      address: where to listen; port 0 picks a free one.
      look: returns if the master does its work; where it hangs, so does this.

    Raises:
      OSError: the address cannot be listened at.

    Attributes:
      port: where it listens.
    """

    def __init__(self, address: tuple[str, int], look: Callable[[], None] = lambda: None) -> None:
        self.look = look
        liveness = self

        class Handler(BaseHTTPRequestHandler):
            timeout = TIMEOUT_S

            def do_GET(self) -> None:
                is_known = self.path == PATH
                if is_known:
                    liveness.look()
                body = b"ok\n" if is_known else b"only /healthz is here\n"
                self.send_response(200 if is_known else 404)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                pass

        # Whoever asks while it hangs must not keep the next one from asking.
        self._server = ThreadingHTTPServer(address, Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="liveness", daemon=True).start()

    def stop(self) -> None:
        """Answer no more, and free the port."""
        self._server.shutdown()
        self._server.server_close()
