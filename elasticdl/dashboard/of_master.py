"""The dashboard of a master: begins once the job's instances are on their way."""

from __future__ import annotations

import socket
import threading
import time

from elasticdl.dashboard.live_source import LiveSource
from elasticdl.dashboard.server import DashboardServer
from elasticdl.job_spec import JobSpec
from elasticdl.master.instances import State
from elasticdl.master.master import Master

LAUNCHED_S = 5.0
"""So long the job's instances come first, at most."""


def dashboard_of(
    spec: JobSpec, master: Master, incarnation: int, listening: socket.socket
) -> DashboardServer:
    """Return what serves a master's dashboard, to be started.

    Args:
      spec: the job.
      master: which has begun.
      incarnation: of it.
      listening: where.
    """
    paused = threading.Event()
    deadline = time.monotonic() + LAUNCHED_S

    def may_begin() -> bool:
        """Wait while instances are launched: importing a web framework takes their time."""
        while time.monotonic() < deadline and not master.coordinator.ended.is_set():
            instances = master.coordinator.snapshot().instances
            if not any(one.state is State.LAUNCHING for one in instances):
                break
            paused.wait(0.1)
        return True

    source = LiveSource(spec, master, incarnation)
    return DashboardServer(source, listening, spec.dashboard_host, may_begin)
