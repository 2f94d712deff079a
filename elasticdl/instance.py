"""What every instance does first: read its arguments, tie its life to its parent's, log."""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import elasticdl
from elasticdl.credentials import Credentials
from elasticdl.early import EARLY
from elasticdl.job_spec import JobSpec
from elasticdl.logs.files import log_path
from elasticdl.logs.writing import keep_small, start_log

PARENT_VARIABLE = "ELASTICDL_PARENT_PID"
STUCK_EXIT_CODE = 75
"""Of a worker whose model code hung; EX_TEMPFAIL of sysexits.h."""
ORPHAN_EXIT_CODE = 76
"""Of an instance whose master never came back: nobody's fault; EX_PROTOCOL of sysexits.h."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class InstanceArguments:
    """How an instance is told who it is; `supervisor`, and its session, only where there is one.

    listen: where it is to be reached, where that is told; port 0 is any. advertise: where others
    are to reach it, if that is elsewhere. master_incarnation: of the master that launched it, where
    that is told: no older one is heard. state: of a master, where its journal is, if not in the
    job's directory but mirrored there. dashboard: of a master, the descriptor of the socket that
    its page is served at, if it is.
    """

    spec: JobSpec
    index: int
    incarnation: int
    listen: str
    advertise: str
    master: str
    master_incarnation: int
    supervisor: str
    session: str
    credentials: Credentials
    state: str
    dashboard: int | None


def allow_many_connections() -> None:
    """Raise how many descriptors this process may have open to what the system allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def parse_arguments(role: str, arguments: Sequence[str] | None = None) -> InstanceArguments:
    """Read the command line of `python -m elasticdl.<role>`."""
    parser = argparse.ArgumentParser(prog=f"python -m elasticdl.{role}")
    parser.add_argument("--job_dir", required=True, help="where the job writes what is its own")
    parser.add_argument("--description", default="", help="directory with job.yaml; else job_dir")
    parser.add_argument("--credentials", default="", help="directory with the job token; job_dir")
    parser.add_argument("--listen", default="", help="address to listen at, host:port")
    parser.add_argument("--advertise", default="", help="address at which others reach it")
    parser.add_argument("--index", type=int, default=0, help="which instance of the role")
    parser.add_argument("--incarnation", type=int, default=1, help="which life of it")
    parser.add_argument("--master", default="", help="address of the master, host:port")
    parser.add_argument("--master_incarnation", type=int, default=0, help="who launched it")
    parser.add_argument("--supervisor", default="", help="address of the supervisor, host:port")
    parser.add_argument("--session", default="", help="which life of the supervisor")
    parser.add_argument("--state", default="", help="directory of this pod for the journal")
    parser.add_argument("--dashboard", type=int, help="socket that the page is served at")
    parser.add_argument(EARLY, action="store_true", help="started before its job was there")
    given = parser.parse_args(arguments)
    return InstanceArguments(
        spec=JobSpec.load(given.description or given.job_dir, given.job_dir),
        index=given.index,
        incarnation=given.incarnation,
        listen=given.listen,
        advertise=given.advertise,
        master=given.master,
        master_incarnation=given.master_incarnation,
        supervisor=given.supervisor,
        session=given.session,
        credentials=dataclasses.replace(
            Credentials.of_directory(given.credentials or given.job_dir), session=given.session
        ),
        state=given.state,
        dashboard=given.dashboard,
    )


def child_environment(keras: str | None) -> dict[str, str]:
    """The environment of a process of a job.

    It finds this package, has the job's Keras, and dies with this process.

    Args:
      keras: as the job's description has it.
    """
    home = str(Path(elasticdl.__file__).parents[1])
    paths = [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",
        "TF_USE_LEGACY_KERAS": "1" if keras == "legacy" else "0",
        PARENT_VARIABLE: str(os.getpid()),
    }


def resident_bytes() -> int:
    """How much memory this process has; 0 where that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        # In KiB, and the most it ever had; macOS counts bytes.
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    return pages * resource.getpagesize()


def on_sigterm(action: Callable[[], None]) -> None:
    """Call `action` in a thread of its own when SIGTERM comes.

    A signal handler runs between any two instructions of the main thread and may take no lock that
    the main thread could hold, so it only writes to a pipe.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)

    def wait() -> None:
        os.read(told, 1)
        action()

    threading.Thread(target=wait, name="sigterm", daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: os.write(tell, b"!"))


def die_with_parent() -> None:
    """End this process, by SIGKILL, when the process that launched it ends, however it ends.

    Where the kernel cannot do that, a thread watches for the parent's death.
    """
    parent = int(os.environ.get(PARENT_VARIABLE, "0"))
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # It died before the line above.
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants of this process whose own parents end. Linux only."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        threading.Event().wait(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def start_logging(role: str, arguments: InstanceArguments) -> None:
    """Write this instance's events to its log, one line each."""
    spec, who = arguments.spec, (role, arguments.index, arguments.incarnation)
    start_log(*who, level=getattr(logging, spec.log_level))
    keep_small(log_path(spec.job_dir, *who), spec.log_mb << 20)
