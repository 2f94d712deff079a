"""What can be asked of a job, running or ended.

JOB is a name or a directory everywhere, or `k8s:NAMESPACE/NAME` for a job of pods.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
import urllib.request
from pathlib import Path
from typing import Any

from elasticdl.api.job_backends import PLACE, PlacedJob, master_of, result_of
from elasticdl.dashboard.directory_source import DirectorySource
from elasticdl.data.filesystems import use_stores_of
from elasticdl.errors import ElasticDLError, JobError, StillRunning, UsageError
from elasticdl.job_spec import JOB_FILE, JobSpec
from elasticdl.masking import masked
from elasticdl.master.audit import audit_of_journal
from elasticdl.master.history import COLUMNS, read_history
from elasticdl.master.job_figures import FILE_NAME as FIGURES_FILE
from elasticdl.master.job_figures import read_figures
from elasticdl.master.job_view import expected_of
from elasticdl.master.journal import read_journal
from elasticdl.master.plan import plan_of
from elasticdl.master.recorded_ledger import MASTER
from elasticdl.master.recovery import PLAN
from elasticdl.proto import master_pb2

DEADLINE_S = 10.0
LOOK_S = 0.2
# For how long a job is looked at that seems lost: it may be about to start.
LOST_S = 1.0


def audit(job: str) -> dict[str, Any]:
    """The job's audit: the final one, as it stands while the job runs, or as its journal has it.

    The journal's has `as_of`: when that was.

    Raises:
      UsageError: there is no such job.
      JobError: it did not get so far that there is anything to audit.
    """
    placed = PLACE.find(job)
    result = result_of(placed)
    if result:
        found = result.get("audit") or _final_audit(placed.directory)
        if found:
            return found
    else:
        with contextlib.suppress(JobError), master_of(placed) as master:
            return json.loads(master.call("GetAudit", master_pb2.JobAuditRequest(), 60.0).audit)
    use_stores_of(JobSpec.load(placed.directory), patience_s=0)
    try:
        return audit_of_journal(placed.directory)
    except JobError as error:
        how = f"it {result['state']}" if result else "it was lost"
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
      what the job's page says of its state (docs/decisions/watching.md has it), and besides
      ``name``; ``dashboard``: the page's URL, or None; ``recent`` and ``total``: the time, lately
      and in all, as `elasticdl.master.job_figures.summary` makes them. ``state`` is `running`,
      `lost`, or how it ended.

    Raises:
      UsageError: there is no such job.
    """
    placed = PLACE.find(job)
    url = None
    with contextlib.ExitStack() as pages:
        page = None
        if placed.is_running():
            url, page = placed.dashboard(), pages.enter_context(placed.page())
        looked = _looked_at(placed, page)
    found = {"name": placed.directory.name, **looked, "dashboard": url}
    figures = read_figures(placed.directory / FIGURES_FILE)
    with contextlib.suppress(JobError), master_of(placed) as master:
        request = master_pb2.StatusRequest(with_figures=True)
        figures = json.loads(master.call("GetStatus", request, DEADLINE_S).figures)
    empty: dict[str, Any] = {}
    recent = figures.get("recent", empty) if found["state"] == "running" else empty
    return masked({**found, "recent": recent, "total": figures.get("total", empty)})


def _looked_at(job: PlacedJob, url: str | None) -> dict[str, Any]:
    """What the job's page says of its state, or its directory where no page answers."""
    with contextlib.suppress(OSError, ValueError):
        if url is not None:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{url}api/state", timeout=DEADLINE_S) as answer:
                return json.load(answer)
    # Between two masters nobody writes its journal, and it runs all the same.
    state = _state(job)
    source = DirectorySource(job.directory, is_running=state == "running")
    return {**source.state(), "state": state}


def scale(job: str, num_workers: int | None = None, num_ps: int | None = None) -> None:
    """Run another number of workers, or of parameter servers, from now on; None: as many as now.

    Raises:
      UsageError: there is no such job, or it cannot have so few.
      JobError: the job does not run, or refuses.
    """
    for name, number in (("num_workers", num_workers), ("num_ps", num_ps)):
        if number is not None and number < 1:
            raise UsageError(f"{name}={number}: a job that runs has at least 1; give 1 or more")
    placed = PLACE.find(job)
    if JobSpec.load(placed.directory).num_workers == 0:
        raise JobError(
            f"job '{job}': it is one process (--num_workers=0); "
            "give a new job --num_workers=1 or more to have it scaled"
        )
    with master_of(placed) as master:
        request = master_pb2.ScaleRequest(num_workers=num_workers or 0, num_ps=num_ps or 0)
        ack = master.call_until("Scale", request, DEADLINE_S)
    if not ack.accepted:
        raise JobError(f"job '{job}': {ack.message}")


def stop(job: str, now: bool = False) -> None:
    """End a running job; what it has written so far stays. Of a job of pods no object is left.

    Args:
      now: of a job of pods: delete it at once, without asking its master.

    Raises:
      JobError: the job does not run.
    """
    PLACE.find(job).stop(now)


def wait(job: str, timeout_s: float | None = None) -> dict[str, Any]:
    """Wait until a job has ended; return how, as its result says, with its ``name``.

    ``state`` is ``lost`` where it ended without a result; then there is nothing else.

    Raises:
      UsageError: there is no such job.
      StillRunning: it had not ended in time.
    """
    placed = PLACE.find(job)
    ends = None if timeout_s is None else time.monotonic() + timeout_s
    seen = time.monotonic()
    while True:
        is_running = placed.is_running()
        result = result_of(placed)
        now = time.monotonic()
        if is_running:
            seen = now
        elif result or now >= seen + LOST_S:
            return masked({"name": placed.directory.name, "state": "lost"} | result)
        if ends is not None and now >= ends:
            raise StillRunning(f"job '{job}': it has not ended in {timeout_s:g} s")
        time.sleep(LOOK_S)


def list_jobs() -> list[dict[str, Any]]:
    """The jobs of this person on this machine, the latest first.

    Returns:
      of each its ``name``, ``state``, ``command``, when it ``began`` (seconds since 1970), and
      ``records_done`` and ``records_expected``, None where nobody knows.
    """
    return [_summary(one) for one in PLACE.jobs()]


def _summary(job: PlacedJob) -> dict[str, Any]:
    command = None
    with contextlib.suppress(ElasticDLError):
        command = JobSpec.load(job.directory).command
    state = _state(job)
    done = expected = None
    if state == "succeeded":
        done = expected = result_of(job).get("audit", {}).get("records_expected")
    elif state == "running":
        with contextlib.suppress(JobError), master_of(job) as master:
            reply = master.call("GetStatus", master_pb2.StatusRequest(), 2.0)
            state, done, expected = reply.state, reply.records_done, reply.records_expected
    if done is None:
        _, rows = read_history(job.directory)
        done = rows[-1][COLUMNS.index("records_done")] if rows else None
        expected = _planned(job.directory)
    return {
        "name": job.directory.name,
        "state": state,
        "command": command,
        "began": _began(job.directory),
        "records_done": done,
        "records_expected": expected or None,
    }


def _planned(directory: Path) -> int | None:
    """How many records a job was to count, as its journal has it; None where it did not begin."""
    with contextlib.suppress(JobError, sqlite3.Error):
        for entry in read_journal(directory, PLAN):
            return expected_of(plan_of(entry.body))
    return None


def _state(job: PlacedJob) -> str:
    """How a job ended, `running`, `lost`, or `unknown` where its cluster does not answer."""
    try:
        return result_of(job).get("state") or ("running" if job.is_running() else "lost")
    except JobError:
        return "unknown"


def _began(directory: Path) -> float:
    """When a job's first master began, or else when the job was described."""
    with contextlib.suppress(JobError, sqlite3.Error):
        for entry in read_journal(directory):
            return entry.time
    return (directory / JOB_FILE).stat().st_mtime
