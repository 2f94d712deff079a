"""A service that has to answer fast, and who asks it: `serve` and `load`.

    python -m benchmarks.latency_service serve --port=8080
    python -m benchmarks.latency_service load --url=http://10.96.0.7:8080 --per_s=20 --secs=60

Who asks does so at times that are drawn beforehand, whether it has been answered or not, and counts
from then: an answer that keeps others waiting is slow for all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import urlsplit

WORK_KIB = 2048
"""What is hashed for each answer: some milliseconds of one core."""
TIMEOUT_S = 10.0
_DRAIN_S = 2.0
_ASKING = 32


class _Handler(BaseHTTPRequestHandler):
    timeout = 1.0
    disable_nagle_algorithm = True  # Else the body waits until the header is acknowledged: 40 ms.
    work = bytes(WORK_KIB << 10)

    def do_GET(self) -> None:
        answer = hashlib.sha256(self.work).hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Say nothing of each request."""


class _Server(HTTPServer):
    """One thread: who asks waits for it once, and not for another thread's beginning as well."""

    request_queue_size = 128


def serve(port: int) -> None:
    """Answer until SIGTERM, and for a moment more: nodes learn later that it leaves."""
    server = _Server(("0.0.0.0", port), _Handler)

    def drain(*_: Any) -> None:
        threading.Timer(_DRAIN_S, server.shutdown).start()

    signal.signal(signal.SIGTERM, drain)
    server.serve_forever(poll_interval=0.1)


def load(url: str, per_s: float, secs: float, seed: int) -> dict[str, Any]:
    """Ask at random times, so many a second; return how long each answer took, and errors.

    Returns:
      `latencies`: for each answer when it was asked for, in seconds since the epoch, and how long
      that took, in ms; `errors`: what went wrong otherwise.
    """
    host = urlsplit(url).netloc
    chance = random.Random(seed)
    times, at = [], chance.expovariate(per_s)
    while at < secs:
        times.append(at)
        at += chance.expovariate(per_s)
    due: queue.SimpleQueue[float | None] = queue.SimpleQueue()
    latencies: list[tuple[float, float]] = []
    errors: list[str] = []
    epoch, began = time.time(), time.monotonic()

    def ask() -> None:
        while (at := due.get()) is not None:
            try:
                connection = http.client.HTTPConnection(host, timeout=TIMEOUT_S)
                with closing(connection):
                    connection.request("GET", "/")
                    connection.getresponse().read()
            except (OSError, http.client.HTTPException) as error:
                errors.append(str(error))
            else:
                took_s = time.monotonic() - began - at
                latencies.append((epoch + at, 1000 * took_s))

    asking = [threading.Thread(target=ask, daemon=True) for _ in range(_ASKING)]
    for one in asking:
        one.start()
    for at in times:
        time.sleep(max(0.0, began + at - time.monotonic()))
        due.put(at)
    for _ in asking:
        due.put(None)
    for one in asking:
        one.join(2 * TIMEOUT_S)
    return {"latencies": sorted(latencies), "errors": errors}


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("serve")
    one.add_argument("--port", type=int, required=True)
    one = commands.add_parser("load")
    one.add_argument("--url", required=True)
    one.add_argument("--per_s", type=float, required=True)
    one.add_argument("--secs", type=float, required=True)
    one.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.command == "serve":
        serve(given.port)
    else:
        json.dump(load(given.url, given.per_s, given.secs, given.seed), sys.stdout)


if __name__ == "__main__":
    main()
