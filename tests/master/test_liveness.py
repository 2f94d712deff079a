"""Whether a master lives, as a kubelet asks."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

import pytest

from elasticdl.master.liveness import LivenessServer


def asked(server: LivenessServer, path: str = "/healthz", timeout_s: float = 30.0) -> bytes:
    url = f"http://127.0.0.1:{server.port}{path}"
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:
        return bytes(answer.read())


def test_a_master_lives_unless_its_work_hangs() -> None:
    server = LivenessServer(("127.0.0.1", 0))
    goes_on = threading.Event()
    try:
        assert asked(server) == b"ok\n"
        server.look = lambda: goes_on.wait() and None
        with pytest.raises(TimeoutError):
            asked(server, timeout_s=0.5)
        goes_on.set()
        assert asked(server) == b"ok\n"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            asked(server, "/metrics")
    finally:
        goes_on.set()
        server.stop()
