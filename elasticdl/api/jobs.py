"""What can be asked of a job, running or ended; JOB is a name or a directory everywhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from elasticdl.api.launcher import connect_to_master
from elasticdl.errors import JobError
from elasticdl.job_spec import JOB_FILE, jobs_home, resolve_job_dir
from elasticdl.master.journal import read_journal
from elasticdl.master.master import RESULT_FILE
from elasticdl.proto import master_pb2
from elasticdl.rpc import Client, DeadlinePassed, RpcError

DEADLINE_S = 10.0


def audit(job: str) -> dict[str, Any]:
    """The job's audit: the final one, or as it stands while the job runs.

    Raises:
      UsageError: there is no such job.
      JobError: it neither runs nor has ended with an audit.
    """
    directory = resolve_job_dir(job)
    if (directory / RESULT_FILE).exists():
        results = [entry.body for entry in read_journal(directory, "result")]
        if results and results[-1].get("audit"):
            return results[-1]["audit"]
        state = results[-1]["state"] if results else "failed"
        raise JobError(f"job '{job}': it {state} before there was anything to audit")
    with _Master(directory, job) as master:
        return json.loads(master.call("GetAudit", master_pb2.JobAuditRequest(), 60.0).audit)


def scale(job: str, num_workers: int = 0, num_ps: int = 0) -> None:
    """Run another number of workers, or of parameter servers, from now on; 0: as many as now.

    Raises:
      JobError: the job does not run, or refuses.
    """
    with _Master(resolve_job_dir(job), job) as master:
        request = master_pb2.ScaleRequest(num_workers=num_workers, num_ps=num_ps)
        ack = master.call_until("Scale", request, DEADLINE_S)
    if not ack.accepted:
        raise JobError(f"job '{job}': {ack.message}")


def stop(job: str) -> None:
    """End a running job; what it has written so far stays.

    Raises:
      JobError: the job does not run.
    """
    with _Master(resolve_job_dir(job), job) as master:
        master.call_until("Stop", master_pb2.StopRequest(reason="stopped on request"), DEADLINE_S)


def list_jobs() -> list[dict[str, Any]]:
    """The jobs of this person on this machine, the latest first."""
    found = sorted(jobs_home().glob(f"*/{JOB_FILE}"), key=os.path.getmtime, reverse=True)
    return [{"name": path.parent.name, "state": _state(path.parent)} for path in found]


def _state(directory: Path) -> str:
    try:
        return json.loads((directory / RESULT_FILE).read_text())["state"]
    except (OSError, ValueError, KeyError):
        pass
    master = connect_to_master(directory)
    if master is None:
        return "lost"
    try:
        return master.call("GetStatus", master_pb2.StatusRequest(), 2.0).state
    except RpcError:
        return "lost"
    finally:
        master.close()


class _Master:
    """The master of a running job, for the length of a block."""

    def __init__(self, directory: Path, job: str) -> None:
        self._job = job
        self._ended = (directory / RESULT_FILE).exists()
        self._client = None if self._ended else connect_to_master(directory)

    def __enter__(self) -> Client:
        if self._client is None:
            raise JobError(f"job '{self._job}': it does not run (any more)")
        return self._client

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        assert self._client is not None
        self._client.close()
        if isinstance(error, (RpcError, DeadlinePassed)):
            raise JobError(f"job '{self._job}': its master does not answer: {error}") from None
