"""The supervisor: owns every process of one job on one machine, and leaves none behind.

`python -m elasticdl.api.supervisor --job_dir=DIR` waits for `BEGIN` on its standard input: then the
job is in its directory. Meanwhile the first instances may import what they need (`--early_ps`,
`--early_workers`), and so may the process that the check and workers are forked from (`--check`).
Then it launches the master, and whatever the master asks for. It ends when the master has ended,
when it is told to by SIGTERM, or when its standard input closes, which is how it notices the death
of whoever launched the job. Its children die with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from elasticdl.api.cleaning import TEMPORARY, clean_up
from elasticdl.api.early_instances import EarlyInstances
from elasticdl.api.forks import ForkedProcess, Forks
from elasticdl.api.spares import Spares, kill_group
from elasticdl.credentials import Credentials
from elasticdl.dashboard.address import url_of
from elasticdl.instance import adopt_orphans, child_environment, on_sigterm
from elasticdl.job_spec import JobSpec
from elasticdl.logs.files import LOGS, end_of_log, log_path
from elasticdl.logs.line import fields, instance_name
from elasticdl.logs.writing import keep_small, start_log
from elasticdl.master.cluster.local import from_message, to_message
from elasticdl.master.exits import describe_exit, is_crash
from elasticdl.master.file_lock import own_file
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.job_files import RESULT_FILE
from elasticdl.master.journal import last_number
from elasticdl.master.recovery import last_incarnation
from elasticdl.proto import master_pb2, supervisor_pb2
from elasticdl.rpc import Server, Service

logger = logging.getLogger(__name__)

FILE_NAME = "supervisor.json"
LOCK_FILE = "supervisor.lock"
LOG_FILE = "supervisor.log"
SPARES_LOG = "spares.log"
BEGIN = b"begin\n"
CANNOT_LAUNCH = 126
MOST_SAID_BEFORE = 1 << 20
LOCK_S = 10.0
MASTER_GRACE_S = 20.0
# Of masters in a row, with no task done between, that fail the job.
MOST_CRASHES = 5
MOST_DEATHS = 25
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 4.0
GRACE_S = 3.0
HOST = "127.0.0.1"


@dataclass
class _Child:
    spec: InstanceSpec
    process: subprocess.Popen[bytes] | ForkedProcess
    log_path: Path
    kill_at: float | None = None


Commands = queue.Queue[Callable[[], None]]


class Lifetime:
    """What instances are told of one life of the supervisor: where it and the masters listen.

    Both ports are reserved from now on.

    Args:
      job_dir: the job's directory, there or not yet.
      keras: which Keras the job uses.
      dashboard: listens for whoever wants to see the job's page; None: nobody may.
    """

    def __init__(
        self, job_dir: Path, keras: str | None, dashboard: socket.socket | None = None
    ) -> None:
        self._dashboard = dashboard
        self.session = secrets.token_hex(8)
        self._job_dir = job_dir
        self._keras = keras
        self._sockets = [_reserve_port() for _ in range(2)]
        self.master_address, self.address = (
            f"{HOST}:{one.getsockname()[1]}" for one in self._sockets
        )

    def command(self, spec: InstanceSpec) -> list[str]:
        """The command of an instance."""
        return [
            *(sys.executable, "-P", "-m", f"elasticdl.{spec.role.value}"),
            *self.arguments(spec),
        ]

    def zygote_command(self) -> list[str]:
        """The command of what workers are forked from; it has the arguments of one to be seen."""
        return [
            *(sys.executable, "-P", "-m", "elasticdl.api.zygote"),
            *self.arguments(InstanceSpec(Role.WORKER, 0, 1)),
            f"--keras={self._keras or '3'}",
        ]

    def inherited(self, spec: InstanceSpec) -> tuple[int, ...]:
        """The descriptors that an instance gets: every master gets the same socket."""
        is_master = spec.role is Role.MASTER
        return (self._dashboard.fileno(),) if self._dashboard is not None and is_master else ()

    def dashboard_url(self, host: str) -> str | None:
        """The URL of the job's page, listened for at this host; None where there is none."""
        return None if self._dashboard is None else url_of(self._dashboard, host)

    def arguments(self, spec: InstanceSpec) -> list[str]:
        """The arguments of an instance's command."""
        return [
            f"--job_dir={self._job_dir}",
            f"--index={spec.index}",
            f"--incarnation={spec.incarnation}",
            f"--master={self.master_address}",
            f"--supervisor={self.address}",
            f"--session={self.session}",
            *(f"--dashboard={one}" for one in self.inherited(spec)),
        ]

    def environment(self) -> dict[str, str]:
        """The environment of all."""
        return {
            **child_environment(self._keras),
            "PYTHONFAULTHANDLER": "1",
            "TMPDIR": str(self._job_dir / TEMPORARY),
        }

    def end(self) -> None:
        """Free the ports."""
        for one in self._sockets:
            one.close()
        if self._dashboard is not None:
            self._dashboard.close()


class Supervisor:
    """The processes of one job.

    Launches happen in the thread that calls `run`: the kernel ends children with the thread that
    made them.

    Args:
      spec: the job; its directory holds its description and token.
      lifetime: what its instances are told.
      commands: what that thread is to call.
      early: instances that are there already.
      forks: what makes workers, if there is anything.
    """

    def __init__(
        self,
        spec: JobSpec,
        lifetime: Lifetime,
        commands: Commands,
        early: EarlyInstances,
        forks: Forks,
    ) -> None:
        self._spec = spec
        self._job_dir = Path(spec.job_dir)
        self._lifetime = lifetime
        self._commands = commands
        self._early = early
        self._forks = forks
        self._children: dict[InstanceSpec, _Child] = {}
        self._events: list[supervisor_pb2.InstanceEvent] = []
        self._events_changed = threading.Condition()
        self._known: set[InstanceSpec] = set()
        self._stopping = False
        self._has_workers = False
        self._master = InstanceSpec(Role.MASTER, 0, 1)
        # Once the job is over: how its last master ended.
        self._master_code: int | None = None
        self._deaths = self._crashes = 0
        self._last_done = 0
        self._relaunch_at: float | None = None
        self._spares = Spares(
            spec.warm_spares,
            self._job_dir,
            self._job_dir / LOGS / SPARES_LOG,
            lifetime.environment,
            call=self._commands.put,
            on_change=self._write_processes,
        )
        service = Service(supervisor_pb2.DESCRIPTOR.services_by_name["Supervisor"], self)
        self._server = Server([service], Credentials.of_directory(self._job_dir), lifetime.address)

    # ------------------------------------------------------------ the service

    def launch(self, request: master_pb2.InstanceId) -> master_pb2.Ack:
        """Start an instance; a repeat changes nothing."""
        spec = from_message(request)
        self._commands.put(lambda: self._launch(spec))
        return master_pb2.Ack(accepted=True)

    def stop_instance(self, request: supervisor_pb2.StopInstanceRequest) -> master_pb2.Ack:
        """End an instance, politely or at once."""
        spec = from_message(request.instance)
        self._commands.put(lambda: self._stop(spec, request.grace_s))
        return master_pb2.Ack(accepted=True)

    def watch(self, request: supervisor_pb2.WatchRequest) -> supervisor_pb2.WatchReply:
        """Events after `after`, as soon as there are some."""
        with self._events_changed:
            if len(self._events) <= request.after:
                self._events_changed.wait(min(request.wait_s, 10.0))
            return supervisor_pb2.WatchReply(events=self._events[request.after :])

    # -------------------------------------------------------------- processes

    def _launch(self, spec: InstanceSpec) -> None:
        if spec in self._known or self._stopping:
            return
        self._known.add(spec)
        log = log_path(self._job_dir, *_who(spec))
        try:
            process = self._process_of(spec, log)
        except OSError as error:  # No room for another process: as if it had ended at once.
            logger.warning("%s cannot be launched: %s", spec, error)
            exited = supervisor_pb2.InstanceEvent.EXITED
            self._tell(spec, exited, 0, CANNOT_LAUNCH, log)
            if spec.role is Role.MASTER:
                self._master_ended(CANNOT_LAUNCH)
            return
        child = self._children[spec] = _Child(spec, process, log)
        self._tell(spec, supervisor_pb2.InstanceEvent.STARTED, process.pid, 0, log)
        self._write_processes()
        threading.Thread(target=self._wait_for, args=(child,), daemon=True).start()
        if spec.role is Role.WORKER:
            self._has_workers = True

    def _process_of(self, spec: InstanceSpec, log: Path) -> subprocess.Popen[bytes] | ForkedProcess:
        """Start a process, unless it was started early; make a worker of a spare, or fork it."""
        early = self._early.hand_over(spec, log)
        if early is not None:
            return early
        if spec.role is Role.WORKER:
            arguments = self._lifetime.arguments(spec)
            spare = self._spares.hand_over(arguments, log)
            worker = spare or self._forks.fork(arguments, log)
            if worker is not None:
                return worker
        with log.open("ab") as output:
            return subprocess.Popen(
                self._lifetime.command(spec),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._lifetime.environment(),
                pass_fds=self._lifetime.inherited(spec),
                start_new_session=True,
            )

    def _write_processes(self) -> None:
        """Keep the file by which others find the master, and people the processes."""
        write_json(
            self._job_dir / FILE_NAME,
            {
                "pid": os.getpid(),
                "address": self._server.address,
                "master_address": self._lifetime.master_address,
                "dashboard": self._lifetime.dashboard_url(self._spec.dashboard_host),
                "processes": {
                    instance_name(*_who(spec)): child.process.pid
                    for spec, child in self._children.items()
                },
                "spares": self._spares.describe(),
                "zygote": self._forks.pid,
            },
        )

    def _wait_for(self, child: _Child) -> None:
        code = child.process.wait()
        kill_group(child.process.pid)  # What the instance itself may have launched.
        self._commands.put(lambda: self._exited(child, code))
        with contextlib.suppress(ChildProcessError):  # Until all that was adopted of it has ended.
            while True:
                os.waitpid(-child.process.pid, 0)

    def _exited(self, child: _Child, code: int) -> None:
        del self._children[child.spec]
        role, index, incarnation = _who(child.spec)
        said = fields(instance=instance_name(role, index, incarnation), exit_code=code)
        logger.info("%s ended: %s", child.spec, describe_exit(code), extra=said)
        self._tell(
            child.spec, supervisor_pb2.InstanceEvent.EXITED, child.process.pid, code, child.log_path
        )
        self._write_processes()
        if child.spec.role is Role.MASTER:
            self._master_ended(code)

    def _master_ended(self, code: int) -> None:
        """Launch the next master, at once the first time, unless the job is over with this one."""
        result = self._job_dir / RESULT_FILE
        if result.exists():
            self._master_code = 0 if state_in(result) == "succeeded" else code or 1
            return
        last_done = last_number(self._job_dir, "done")
        if last_done > self._last_done:
            self._deaths = self._crashes = 0
        self._last_done = last_done
        self._deaths += 1
        self._crashes += is_crash(code)
        if self._stopping or self._crashes >= MOST_CRASHES or self._deaths >= MOST_DEATHS:
            self._master_code = code
            return
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self._deaths - 2))
        self._relaunch_at = time.monotonic() + (pause_s if self._deaths > 1 else 0.0)

    def _relaunch_master(self) -> None:
        if self._relaunch_at is not None and time.monotonic() >= self._relaunch_at:
            self._relaunch_at = None
            incarnation = self._master.incarnation + 1
            self._master = InstanceSpec(Role.MASTER, 0, incarnation)
            self._launch(self._master)

    def _tell(
        self,
        spec: InstanceSpec,
        kind: supervisor_pb2.InstanceEvent.Kind,
        pid: int,
        exit_code: int,
        log_path: Path,
    ) -> None:
        with self._events_changed:
            self._events.append(
                supervisor_pb2.InstanceEvent(
                    number=len(self._events) + 1,
                    instance=to_message(spec),
                    kind=kind,
                    pid=pid,
                    exit_code=exit_code,
                    log_path=str(log_path),
                )
            )
            self._events_changed.notify_all()

    def _stop(self, spec: InstanceSpec, grace_s: float) -> None:
        child = self._children.get(spec)
        if child is None:
            return
        if grace_s <= 0:
            kill_group(child.process.pid)
            return
        child.process.terminate()
        child.kill_at = time.monotonic() + grace_s

    def _kill_overdue(self) -> None:
        for child in self._children.values():
            if child.kill_at is not None and time.monotonic() >= child.kill_at:
                kill_group(child.process.pid)

    # -------------------------------------------------------------------- life

    def run(self) -> int:
        """Run the job to its end; return 0 where it succeeded, else 1."""
        with own_file(self._job_dir / LOCK_FILE, LOCK_S) or contextlib.nullcontext() as owned:
            if owned is None:
                logger.error("another supervisor runs this job")
                return 1
            return self._run()

    def _run(self) -> int:
        before = last_incarnation(self._job_dir)
        self._last_done = last_number(self._job_dir, "done")
        self._master = InstanceSpec(Role.MASTER, 0, before + 1)
        (self._job_dir / LOGS).mkdir(exist_ok=True)
        (self._job_dir / TEMPORARY).mkdir(exist_ok=True)
        self._launch(self._master)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # The launcher's to answer.
        on_sigterm(lambda: self._commands.put(self.shut_down))
        while self._master_code is None:
            self._take_command(0.5 if self._relaunch_at is None else 0.02)
            self._relaunch_master()
            if self._has_workers:
                self._spares.keep()
        was_stopped = self._stopping
        self._end_children()
        self._server.stop()
        self._lifetime.end()
        clean_up(self._spec)
        self._write_result(self._master_code, was_stopped)
        return 0 if self._master_code == 0 else 1

    def shut_down(self) -> None:
        """Let the master end the job; it tells the others."""
        if self._stopping:
            return
        self._stopping = True
        self._early.end()
        self._forks.end()
        self._spares.end()
        self._stop(self._master, MASTER_GRACE_S)
        if self._relaunch_at is not None:  # There is none right now.
            self._relaunch_at, self._master_code = None, -signal.SIGTERM

    def _take_command(self, timeout_s: float) -> None:
        try:
            command = self._commands.get(timeout=timeout_s)
        except queue.Empty:
            command = None
        if command is not None:
            command()
        self._kill_overdue()

    def _end_children(self) -> None:
        self._stopping = True
        self._early.end()
        self._forks.end()
        self._spares.end()
        for spec in list(self._children):
            self._stop(spec, GRACE_S)
        while self._children:
            self._take_command(0.05)

    def _write_result(self, code: int, was_stopped: bool) -> None:
        """Say how the job ended where the master no longer could."""
        path = self._job_dir / RESULT_FILE
        if path.exists():
            return
        if was_stopped:
            write_json(path, {"state": "stopped", "error": "the job was stopped", "traceback": ""})
            return
        told = end_of_log(log_path(self._job_dir, Role.MASTER.value, 0, 0))
        error = f"the master was lost ({describe_exit(code)}){told}"
        write_json(path, {"state": "failed", "error": error, "traceback": ""})


def state_in(result: Path) -> str:
    """How a job ended by its result's file; empty where that cannot be read."""
    try:
        return json.loads(result.read_text())["state"]
    except (OSError, ValueError, KeyError):
        return ""


def _reserve_port() -> socket.socket:
    """Bind, but never listen on, a free port: the master, and its successors, listen on it."""
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((HOST, 0))
    return reserved


def _who(spec: InstanceSpec) -> tuple[str, int, int]:
    return spec.role.value, spec.index, spec.incarnation


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Replace a file by another at once."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(unfinished, path)


class Launcher:
    """Whoever launched this process, at the other end of its standard input.

    Args:
      call: has the thread that launches call something.
    """

    def __init__(self, call: Callable[[Callable[[], None]], None]) -> None:
        self.has_begun = False
        self.is_gone = False
        self.on_gone: Callable[[], None] = lambda: None
        self._call = call
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        said = b""
        while more := os.read(0, 4096):
            said += more
            if said.startswith(BEGIN):
                self._call(self._begins)
        self._call(self._goes)

    def _begins(self) -> None:
        self.has_begun = True

    def _goes(self) -> None:
        self.is_gone = True
        self.on_gone()


def own_log(path: Path) -> None:
    """Write standard output and error to a file from now on, and first what was said before."""
    path.parent.mkdir(exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    with contextlib.suppress(OSError):  # Where it is no file that can be read.
        os.write(log, os.pread(1, MOST_SAID_BEFORE, 0))
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m elasticdl.api.supervisor")
    parser.add_argument("--job_dir", required=True, help="the job's directory, there or not yet")
    parser.add_argument("--keras", default="3", help="which Keras the job uses")
    parser.add_argument("--early_ps", type=int, default=0, help="parameter servers started early")
    parser.add_argument("--early_workers", type=int, default=0, help="workers started early")
    parser.add_argument("--check", type=int, help="have workers forked; socket for the check")
    parser.add_argument("--temporary", default="", help="directory for the check's files")
    parser.add_argument("--dashboard", type=int, help="socket that the job's page is served at")
    given = parser.parse_args()
    start_log("supervisor", 0, 0, logging.INFO)
    job_dir = Path(given.job_dir)
    dashboard = None if given.dashboard is None else socket.socket(fileno=given.dashboard)
    if dashboard is not None:
        dashboard.set_inheritable(False)
    lifetime = Lifetime(job_dir, given.keras, dashboard)
    commands: Commands = queue.Queue()
    forks = _start_forks(lifetime, commands.put, given.check, given.temporary)
    launched = 0 if given.check is not None else given.early_workers
    numbers = ((Role.MASTER, 1), (Role.PS, given.early_ps), (Role.WORKER, launched))
    first = [InstanceSpec(role, index, 1) for role, number in numbers for index in range(number)]
    wanted = first if given.early_workers else ()
    early = EarlyInstances(
        wanted, lifetime.command, lifetime.environment(), lifetime.inherited, commands.put
    )
    launcher = Launcher(commands.put)
    while not (launcher.has_begun or launcher.is_gone):
        early.start()
        commands.get()()
    if given.temporary:
        shutil.rmtree(given.temporary, ignore_errors=True)
    if launcher.is_gone:
        early.end()
        forks.end()
        lifetime.end()
        return 0
    own_log(job_dir / LOGS / LOG_FILE)
    spec = JobSpec.load(job_dir)
    keep_small(job_dir / LOGS / LOG_FILE, spec.log_mb << 20)
    supervisor = Supervisor(spec, lifetime, commands, early, forks)
    launcher.on_gone = supervisor.shut_down
    return supervisor.run()


def _start_forks(
    lifetime: Lifetime,
    call: Callable[[Callable[[], None]], None],
    check: int | None,
    temporary: str,
) -> Forks:
    """Start what workers are forked from, if the launcher has given a socket for its check."""
    if check is None:
        return Forks((), {}, call)
    adopt_orphans()
    command = [*lifetime.zygote_command(), f"--check={check}", f"--temporary={temporary}"]
    forks = Forks(command, lifetime.environment(), call, inherited=[check])
    forks.start()
    return forks


if __name__ == "__main__":
    sys.exit(main())
