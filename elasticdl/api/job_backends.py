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
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from elasticdl.api.kubernetes.record import PREFIX, is_submitted
from elasticdl.api.launcher import LAUNCHER_LOCK, connect_to_master, resume
from elasticdl.api.result import JobResult, JobStatus
from elasticdl.api.supervisor import FILE_NAME, LOCK_FILE
from elasticdl.dashboard.events import JobEvent, JobEvents
from elasticdl.errors import JobError, UsageError
from elasticdl.job_spec import JOB_FILE, JobSpec, jobs_home, resolve_job_dir
from elasticdl.logs.files import find_logs
from elasticdl.logs.line import LogLine
from elasticdl.master.file_lock import is_owned
from elasticdl.master.job_files import RESULT_FILE
from elasticdl.proto import master_pb2
from elasticdl.rpc import Client, DeadlinePassed, RpcError

if TYPE_CHECKING:
    from elasticdl.api.kubernetes.place import Clusters

STOP_S = 10.0


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

    @property
    def job_dir(self) -> str:
        """Where its instances keep its files: that directory, or as they see it."""
        ...

    def is_running(self) -> bool:
        """Whether anything runs it, also while it starts or has no master."""
        ...

    def connect(self) -> Client | None:
        """Connect to its master; None where it has none."""
        ...

    def dashboard(self) -> str | None:
        """The URL of its page while it runs; None if it has none that stays."""
        ...

    def page(self, port: int = 0) -> AbstractContextManager[str | None]:
        """The URL of its page while it runs, for the length of a block; None if it has none.

        Args:
          port: of this machine, where the page is brought here; 0: any.
        """
        ...

    def logs(self, role: str | None = None, index: int | None = None) -> Sequence[Log]:
        """The logs of its instances, of one role and index or all."""
        ...

    def events(self) -> Iterator[JobEvent]:
        """What happened to it so far, in order; JobError where that cannot be read."""
        ...

    def stop(self, now: bool) -> None:
        """End it; JobError where it does not run.

        Args:
          now: without asking its master.
        """
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
        self.job_dir = str(directory)

    def is_running(self) -> bool:
        return is_owned(self.directory / LAUNCHER_LOCK) or is_owned(self.directory / LOCK_FILE)

    def connect(self) -> Client | None:
        return connect_to_master(self.directory)

    def dashboard(self) -> str | None:
        try:
            return json.loads((self.directory / FILE_NAME).read_text()).get("dashboard")
        except (OSError, ValueError):
            return None

    @contextlib.contextmanager
    def page(self, port: int = 0) -> Iterator[str | None]:
        yield self.dashboard()

    def logs(self, role: str | None = None, index: int | None = None) -> Sequence[Log]:
        return find_logs(self.directory, role, index)

    def events(self) -> Iterator[JobEvent]:
        return JobEvents(self.directory).read()

    def resume(self, spec: JobSpec, on_status: Callable[[JobStatus], None]) -> JobResult:
        return resume(spec, on_status)

    def stop(self, now: bool) -> None:
        if now:
            raise UsageError(
                f"--now: is for jobs of pods, and job '{self.known_as}' runs on this machine; "
                "leave it out"
            )
        with master_of(self) as master:
            request = master_pb2.StopRequest(reason="stopped on request")
            master.call_until("Stop", request, STOP_S)


class Places:
    """The jobs of this person: on this machine, and of pods; and pods' jobs of others.

    `k8s:NAMESPACE/NAME` names a job of pods wherever it was submitted.
    """

    def find(self, job: str) -> PlacedJob:
        if job.startswith(PREFIX):
            return _clusters().find(job)
        return self._of_directory(job, resolve_job_dir(job))

    def jobs(self) -> list[PlacedJob]:
        found = sorted(jobs_home().glob(f"*/{JOB_FILE}"), key=os.path.getmtime, reverse=True)
        return [self._of_directory(path.parent.name, path.parent) for path in found]

    def _of_directory(self, known_as: str, directory: Path) -> PlacedJob:
        if is_submitted(directory):
            return _clusters().of_directory(known_as, directory)
        return LocalJob(known_as, directory)


def _clusters() -> Clusters:
    try:
        from elasticdl.api.kubernetes.place import Clusters
    except ImportError as error:
        raise UsageError(
            f"jobs of pods: {error}; what they need is installed by "
            "pip install 'elasticdl[kubernetes]'"
        ) from None
    return Clusters()


PLACE: JobPlace = Places()


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
