"""Where jobs are: on this machine, or wherever else somebody looks after them.

`elasticdl jobs` asks a `JobPlace` for a job, and the job for its directory, its master, what its
instances log and what happened to it. Everything else it says is made of these, wherever the job
runs.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from elasticdl.api.launcher import LAUNCHER_LOCK, connect_to_master, resume
from elasticdl.api.result import JobResult, JobStatus
from elasticdl.api.supervisor import FILE_NAME, LOCK_FILE
from elasticdl.dashboard.events import JobEvent, JobEvents
from elasticdl.errors import JobError
from elasticdl.job_spec import JOB_FILE, JobSpec, jobs_home, resolve_job_dir
from elasticdl.logs.files import find_logs
from elasticdl.logs.line import LogLine
from elasticdl.master.file_lock import is_owned
from elasticdl.master.master import RESULT_FILE
from elasticdl.rpc import Client, DeadlinePassed, RpcError


class LogFollower(Protocol):
    """Reads a log as it grows."""

    def read(self) -> Iterator[LogLine]:
        """Yield whole lines that are new, from the log's beginning at first."""
        ...

    def rest(self) -> Iterator[LogLine]:
        """Yield a last line that has no end, once the instance has ended."""
        ...

    def close(self) -> None:
        """Read no more."""
        ...


class Log(Protocol):
    """What one instance said."""

    @property
    def role(self) -> str: ...
    @property
    def index(self) -> int: ...
    @property
    def incarnation(self) -> int: ...

    def lines(self) -> Iterator[LogLine]:
        """All lines that are there, in order."""
        ...

    def first_error(self) -> LogLine | None:
        """The first error it told of."""
        ...

    def follower(self) -> LogFollower:
        """Reads it as it grows."""
        ...


class PlacedJob(Protocol):
    """One job, running or ended."""

    @property
    def known_as(self) -> str:
        """As it was asked for."""
        ...

    @property
    def directory(self) -> Path:
        """Its description, journal and result."""
        ...

    def is_running(self) -> bool:
        """Whether anything runs it, also while it starts or has no master."""
        ...

    def connect(self) -> Client | None:
        """Connect to its master; None where it has none."""
        ...

    def dashboard(self) -> str | None:
        """The URL of its page while it runs; None if it has none."""
        ...

    def logs(self, role: str | None = None, index: int | None = None) -> Sequence[Log]:
        """The logs of its instances, of one role and index or all."""
        ...

    def events(self) -> Iterator[JobEvent]:
        """What happened to it so far, in order; JobError where that cannot be read."""
        ...

    def resume(self, spec: JobSpec, on_status: Callable[[JobStatus], None]) -> JobResult:
        """Go on with it where it does not run, to its end; see `elasticdl.api.launcher.resume`."""
        ...


class JobPlace(Protocol):
    """A place where jobs are."""

    def find(self, job: str) -> PlacedJob:
        """Find a job; UsageError if there is no such job."""
        ...

    def jobs(self) -> Sequence[PlacedJob]:
        """All jobs of this person, the latest first."""
        ...


class LocalJob:
    """A job of this machine, by its directory."""

    def __init__(self, known_as: str, directory: Path) -> None:
        self.known_as = known_as
        self.directory = directory

    def is_running(self) -> bool:
        return is_owned(self.directory / LAUNCHER_LOCK) or is_owned(self.directory / LOCK_FILE)

    def connect(self) -> Client | None:
        return connect_to_master(self.directory)

    def dashboard(self) -> str | None:
        try:
            return json.loads((self.directory / FILE_NAME).read_text()).get("dashboard")
        except (OSError, ValueError):
            return None

    def logs(self, role: str | None = None, index: int | None = None) -> Sequence[Log]:
        return find_logs(self.directory, role, index)

    def events(self) -> Iterator[JobEvent]:
        return JobEvents(self.directory).read()

    def resume(self, spec: JobSpec, on_status: Callable[[JobStatus], None]) -> JobResult:
        return resume(spec, on_status)


class ThisMachine:
    """The jobs of this person on this machine."""

    def find(self, job: str) -> LocalJob:
        return LocalJob(job, resolve_job_dir(job))

    def jobs(self) -> list[LocalJob]:
        found = sorted(jobs_home().glob(f"*/{JOB_FILE}"), key=os.path.getmtime, reverse=True)
        return [LocalJob(path.parent.name, path.parent) for path in found]


PLACE: JobPlace = ThisMachine()


@contextlib.contextmanager
def master_of(job: PlacedJob) -> Iterator[Client]:
    """Give the master of a running job, for the length of a block.

    Raises:
      JobError: the job does not run, or its master does not answer.
    """
    client = None if result_of(job) else job.connect()
    if client is None:
        raise JobError(f"job '{job.known_as}': it does not run (any more)")
    try:
        yield client
    except (RpcError, DeadlinePassed) as error:
        raise JobError(f"job '{job.known_as}': its master does not answer: {error}") from None
    finally:
        client.close()


def result_of(job: PlacedJob) -> dict[str, Any]:
    """How a job ended, as its result's file has it; empty before that, and where it was lost."""
    try:
        result = json.loads((job.directory / RESULT_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) and "state" in result else {}
