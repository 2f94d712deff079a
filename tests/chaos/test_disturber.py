"""The disturber itself: what it may not do to a job that is to be resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from elasticdl.api.supervisor import FILE_NAME
from tests.chaos.disturber import Disturber, belongs_to
from tests.chaos.schedule import Disturbance
from tests.job.real_jobs import wait_until


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_what_was_stopped_goes_on_and_nobody_is_disturbed_where_the_supervisor_is_gone(tmp_path):
    code = "import sys; sys.stdin.read()"
    command = [sys.executable, "-c", code, f"--job_dir={tmp_path}"]
    supervisor, server = (subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(2))
    try:
        # The command line of a program that has begun this moment may be empty still.
        wait_until(
            "them", lambda: all(belongs_to(one.pid, tmp_path) for one in (supervisor, server))
        )
        description = {"pid": supervisor.pid, "processes": {"ps-0.1": server.pid}, "spares": {}}
        (tmp_path / FILE_NAME).write_text(json.dumps(description))
        schedule = [
            Disturbance(0.0, "ps", 0.0, stopped_s=1e6),
            Disturbance(0.0, "supervisor", 0.0),
            Disturbance(3.0, "ps", 0.0),  # A process that is killed ends a moment later.
        ]
        disturber = Disturber(tmp_path, schedule, may_begin=lambda: True)
        disturber.start()
        assert supervisor.wait(20.0) == -signal.SIGKILL
        wait_until("the stopped process to go on", lambda: state_of(server.pid) != "T", 20.0)
        disturber.close()
        assert server.poll() is None
        assert disturber.counts == {"ps stopped": 1, "supervisor killed": 1}
    finally:
        for process in (supervisor, server):
            process.kill()
            process.wait()
            process.stdin.close()
