"""What can be asked of a job, running or ended; JOB is a name or a directory everywhere."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from elasticdl.api.launcher import connect_to_master, to_status
from elasticdl.api.supervisor import state_in
from elasticdl.errors import JobError, UsageError
from elasticdl.job_spec import JOB_FILE, jobs_home, resolve_job_dir
from elasticdl.master.audit import audit_of_journal
from elasticdl.master.job_figures import FILE_NAME as FIGURES_FILE
from elasticdl.master.job_figures import read_figures
from elasticdl.master.journal import read_journal
from elasticdl.master.master import RESULT_FILE
from elasticdl.master.recorded_ledger import MASTER
from elasticdl.proto import master_pb2
from elasticdl.rpc import Client, DeadlinePassed, RpcError

DEADLINE_S = 10.0


def audit(job: str) -> dict[str, Any]:
    """The job's audit: the final one, as it stands while the job runs, or as its journal has it.

    The journal's has `as_of`: when that was.

    Raises:
      UsageError: there is no such job.
      JobError: it did not get so far that there is anything to audit.
    """
    directory = resolve_job_dir(job)
    has_ended = (directory / RESULT_FILE).exists()
    if has_ended:
        found = _final_audit(directory)
        if found:
            return found
    else:
        with contextlib.suppress(JobError), _Master(directory, job) as master:
            return json.loads(master.call("GetAudit", master_pb2.JobAuditRequest(), 60.0).audit)
    try:
        return audit_of_journal(directory)
    except JobError as error:
        how = f"it {state_in(directory / RESULT_FILE) or 'ended'}" if has_ended else "it was lost"
        raise JobError(f"job '{job}': {how} before there was anything to audit ({error})") from None


def _final_audit(directory: Path) -> dict[str, Any]:
    """What the last master found at the job's end; empty where it did not come to that."""
    with contextlib.suppress(JobError):
        results = list(read_journal(directory, "result"))
        masters = [entry.number for entry in read_journal(directory, MASTER)]
        if results and results[-1].number > max(masters, default=0):
            return results[-1].body.get("audit", {})
    return {}


def status(job: str) -> dict[str, Any]:
    """Where a job stands and what its time goes into, running or ended.

    Returns:
      ``name``; ``state``: ``running``, ``lost``, or how it ended; while it runs ``progress``, a
      `JobStatus` as plain values, and ``instances``; ``error`` where it failed; ``recent`` and
      ``total``: the time, lately and in all, as `elasticdl.master.job_figures.summary` makes them.

    Raises:
      UsageError: there is no such job.
    """
    directory = resolve_job_dir(job)
    found: dict[str, Any] = {"name": directory.name}
    figures = read_figures(directory / FIGURES_FILE)
    try:
        result = json.loads((directory / RESULT_FILE).read_text())
        found |= {"state": result["state"], "error": result.get("error", "")}
    except (OSError, ValueError, KeyError):
        found["state"] = "lost"
        with contextlib.suppress(JobError), _Master(directory, job) as master:
            request = master_pb2.StatusRequest(with_figures=True)
            reply = master.call("GetStatus", request, DEADLINE_S)
            found["state"] = reply.state
            found["progress"] = dataclasses.asdict(to_status(reply))
            found["instances"] = [_instance(one) for one in reply.instances]
            figures = json.loads(reply.figures)
    empty: dict[str, Any] = {}
    recent = figures.get("recent", empty) if found["state"] == "running" else empty
    return {**found, "recent": recent, "total": figures.get("total", empty)}


def _instance(one: master_pb2.InstanceStatus) -> dict[str, Any]:
    return {
        "role": one.instance.role,
        "index": one.instance.index,
        "incarnation": one.instance.incarnation,
        "state": one.state,
        "process": one.pid or None,
    }


def scale(job: str, num_workers: int | None = None, num_ps: int | None = None) -> None:
    """Run another number of workers, or of parameter servers, from now on; None: as many as now.

    Raises:
      UsageError: there is no such job, or it cannot have so few.
      JobError: the job does not run, or refuses.
    """
    for name, number in (("num_workers", num_workers), ("num_ps", num_ps)):
        if number is not None and number < 1:
            raise UsageError(f"{name}={number}: a job that runs has at least 1; give 1 or more")
    with _Master(resolve_job_dir(job), job) as master:
        request = master_pb2.ScaleRequest(num_workers=num_workers or 0, num_ps=num_ps or 0)
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
