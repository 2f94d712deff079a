"""Serves the metrics of one worker or parameter server, where a job wants that: `--metrics`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

from elasticdl.exposition import CONTENT_TYPE, Exposition
from elasticdl.instance import resident_bytes
from elasticdl.phases import PHASES
from elasticdl.refusals import REFUSALS

HOST = "127.0.0.1"
TIMEOUT_S = 5.0


class MetricsServer:
    """Answers `GET /metrics` on a port of its own, one request at a time, until `stop`.

    Args:
      job_name: of the job.
      role, index, incarnation: of the instance.
      add: adds what only its role has.

    Attributes:
      address: host:port.
    """

    def __init__(
        self,
        job_name: str,
        role: str,
        index: int,
        incarnation: int,
        add: Callable[[Exposition], None] = lambda metrics: None,
    ) -> None:
        def text() -> bytes:
            metrics = Exposition(job_name=job_name, role=role, index=index)
            told = "Which life of the instance this is, from 1."
            metrics.gauge("own_incarnation", told, incarnation)
            metrics.gauge("own_memory_bytes", "Memory of this process.", resident_bytes())
            told = "Processor time of this process."
            metrics.counter("own_cpu_seconds_total", told, time.process_time())
            for phase, spent in PHASES.figures(role).phases.items():
                told = "Spent by this instance."
                metrics.counter("own_phase_seconds_total", told, spent.ns / 1e9, phase=phase.value)
                told = "How often it was."
                metrics.counter("own_phase_count_total", told, spent.count, phase=phase.value)
            for reason, count in REFUSALS.counts().items():
                told = "Calls of others that it refused, or had answered before."
                metrics.counter("own_refusals_total", told, count, reason=reason.value)
            add(metrics)
            return metrics.text().encode()

        class Handler(BaseHTTPRequestHandler):
            timeout = TIMEOUT_S

            def do_GET(self) -> None:
                is_known = self.path == "/metrics"
                body = text() if is_known else b"only /metrics is here\n"
                self.send_response(200 if is_known else 404)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                pass

        self._server = HTTPServer((HOST, 0), Handler)
        self.address = f"{HOST}:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Answer no more, and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
