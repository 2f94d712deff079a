"""Daemons are gone once all that they held is free."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.cluster.processes import Daemon, wait_until

_FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_runs_until_its_last_thread_has_ended(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, "one")
    daemon.start([sys.executable, "-c", _FIRST_THREAD_ENDS], os.environ)
    try:
        wait_until(lambda: state_of(daemon.pid) == "Z", "its first thread has ended", 30)
        assert daemon.is_running()
    finally:
        daemon.kill()
    assert not daemon.is_running()
