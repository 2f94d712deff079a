"""Launches a job and stays with it until it has ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from elasticdl.api import supervisor
from elasticdl.api.cleaning import clean_up
from elasticdl.api.forks import can_fork
from elasticdl.api.profile import write_profile
from elasticdl.api.result import JobResult, JobStatus
from elasticdl.api.tensorboard import tensorboard
from elasticdl.credentials import JOB_NAME_FILE, TOKEN_FILE, Credentials
from elasticdl.dashboard.address import open_dashboard, url_of
from elasticdl.data.shards import SHARDS_FILE, save_shards
from elasticdl.errors import JobError, UsageError, UserCodeError
from elasticdl.instance import child_environment
from elasticdl.job_spec import JOB_FILE, JobSpec
from elasticdl.logs.files import LOGS
from elasticdl.master.exits import describe_exit
from elasticdl.master.file_lock import own_file
from elasticdl.master.job_files import RESULT_FILE
from elasticdl.proto import master_pb2
from elasticdl.rpc import Client, GrpcTransport, RpcError

LAUNCHER_LOCK = "launcher.lock"
POLL_S = 0.25
# Others look for a moment whether a job runs (`is_owned`).
LOOK_S = 0.5
STOP_S = 40.0
SPEED_WINDOW_S = 10.0
MOST_SAID = 2000

CHECKING = "checking the model"
PHASE_WORDS = {
    "check": CHECKING,
    "initialize": "starting",
    "training": "training",
    "evaluation": "evaluating",
    "summarize": "evaluating",
    "prediction": "predicting",
    "export": "exporting",
    "merge": "writing predictions",
}


class JobProcess:
    """The process that is to run a job, its supervisor; ended, with all of its own, by `end`.

    Until `begin` nothing is written.

    Args:
      spec: the job, whose directory may not be there so far.
      early: whether its first instances may already import what they need.

    Raises:
      UsageError: the job's page cannot be served where the job wants it.

    Attributes:
      dashboard: the URL of the job's page; None where it has none.
      zygote: to what `preflight` has the check forked by; None where nothing is forked.
    """

    def __init__(self, spec: JobSpec, early: bool = False) -> None:
        arguments = [f"--job_dir={spec.job_dir}", f"--keras={spec.keras or '3'}"]
        inherited: list[int] = []
        self.dashboard: str | None = None
        listening = open_dashboard(spec)
        if listening is not None:
            self.dashboard = url_of(listening, spec.dashboard_host)
            inherited.append(listening.detach())
            arguments.append(f"--dashboard={inherited[-1]}")
        self.zygote: socket.socket | None = None
        self._temporary: str | None = None
        if early:
            arguments += [f"--early_ps={spec.num_ps}", f"--early_workers={spec.num_workers}"]
        if early and can_fork():
            self.zygote, theirs = socket.socketpair()
            inherited.append(theirs.detach())
            self._temporary = tempfile.mkdtemp(prefix="elasticdl-check-")
            arguments += [f"--check={inherited[-1]}", f"--temporary={self._temporary}"]
        # Until there is a directory for logs.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", supervisor.__name__, *arguments],
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            env=child_environment(spec.keras),
            pass_fds=inherited,
            start_new_session=True,
        )
        for each in inherited:
            os.close(each)

    def begin(self) -> None:
        """Run the job, which is in its directory."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # It has died: that is found by waiting for it.
            self._process.stdin.write(supervisor.BEGIN)
            self._process.stdin.flush()

    def has_ended(self, wait_s: float = 0.0) -> bool:
        """Whether it has, or does so in time."""
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> str:
        """Ask for the job's end, make sure of it, and say how the process ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        deadline = time.monotonic() + STOP_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                time.sleep(0.02)
            except KeyboardInterrupt:  # Pressed again: do not wait for a tidy end.
                break
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)  # Its children die with it.
        if self.zygote is not None and self._temporary is not None:
            self.zygote.close()
            shutil.rmtree(self._temporary, ignore_errors=True)  # If it was killed.
        return describe_exit(self._process.wait())

    def last_words(self) -> str:
        """What it said before it began, if it said anything."""
        self._said.seek(0)
        text = self._said.read().decode(errors="replace")[-MOST_SAID:].strip()
        return f":\n{text}" if text else ""


@contextlib.contextmanager
def early_process(spec: JobSpec) -> Iterator[JobProcess | None]:
    """Start what is to run a job that may come to nothing; None if it runs in this process."""
    if spec.num_workers == 0:
        yield None
        return
    process = JobProcess(spec, early=True)
    try:
        yield process
    finally:
        process.end()


def launch(
    spec: JobSpec,
    on_status: Callable[[JobStatus], None],
    process: JobProcess | None,
    declared_shards: Mapping[str, Any] | None = None,
) -> JobResult:
    """Run a job to its end.

    Args:
      spec: the job, validated.
      on_status: called several times a second with where the job stands.
      process: what is to run it; None if it runs in this process.
      declared_shards: by option, what the user's own reader declared, if the model has one.

    Raises:
      UsageError: the job's directory holds a job already.
      UserCodeError: the model's code raised.
      JobError: the job failed; KeyboardInterrupt where the user pressed Ctrl-C. Either way nothing
        is left running.
    """
    create_job_dir(spec, declared_shards)
    with _only_launcher(spec):
        return _run(spec, on_status, process)


def resume(spec: JobSpec, on_status: Callable[[JobStatus], None]) -> JobResult:
    """Go on with a job that was stopped, failed, or lost all its processes, to its end.

    Args:
      spec: the job, as its directory has it.
      on_status: called several times a second with where the job stands.

    Raises:
      UsageError: it still runs, or it has succeeded: nothing was launched.
      UserCodeError, JobError, KeyboardInterrupt: as `launch`.
    """
    with _only_launcher(spec):
        set_result_aside(spec)
        on_status(JobStatus(state="resuming", message=f"job {spec.job_name} goes on"))
        (Path(spec.job_dir) / supervisor.FILE_NAME).unlink(missing_ok=True)  # Of another master.
        clean_up(spec)
        process = JobProcess(spec) if spec.num_workers else None
        if process is not None and process.dashboard is not None:
            on_status(JobStatus(state="starting", message=f"dashboard: {process.dashboard}"))
        return _run(spec, on_status, process)


def _run(
    spec: JobSpec, on_status: Callable[[JobStatus], None], process: JobProcess | None
) -> JobResult:
    told: deque[str] = deque()

    def show(status: JobStatus) -> None:
        while told:
            on_status(_with_message(status, told.popleft()))
        on_status(status)

    try:
        with tensorboard(spec, told.append):
            if process is not None:
                _run_supervised(spec, show, process)
            else:
                from elasticdl.api.in_process import run_in_process

                try:
                    run_in_process(spec, show)
                finally:
                    clean_up(spec)
    finally:
        if spec.profile:
            write_profile(spec.job_dir)
    return read_result(spec)


@contextlib.contextmanager
def _only_launcher(spec: JobSpec) -> Iterator[None]:
    """Be the only one that runs a job.

    Raises:
      UsageError: another process does.
    """
    launcher = own_file(Path(spec.job_dir) / LAUNCHER_LOCK, LOOK_S)
    # Of a job whose launcher was killed, the rest is about to end, too.
    before = launcher and own_file(Path(spec.job_dir) / supervisor.LOCK_FILE, STOP_S)
    try:
        if launcher is None or before is None:
            raise UsageError(
                f"job '{spec.job_name}': it still runs; elasticdl jobs stop {spec.known_as} ends it"
            )
        before.close()
        yield
    finally:
        for lock in (launcher, before):
            if lock is not None:
                lock.close()


def set_result_aside(spec: JobSpec) -> None:
    """Make room for the result of a job that goes on.

    Raises:
      UsageError: it has succeeded.
    """
    path = Path(spec.job_dir) / RESULT_FILE
    if not path.exists():
        return
    if supervisor.state_in(path) == "succeeded":
        raise UsageError(f"job '{spec.job_name}': it has succeeded; there is nothing to resume")
    number = 1
    while (aside := path.with_name(f"result-{number}.json")).exists():
        number += 1
    path.rename(aside)


def create_job_dir(spec: JobSpec, declared_shards: Mapping[str, Any] | None = None) -> None:
    """Make the job's directory with its token, its declared shards, and its description last.

    Raises:
      UsageError: it holds a job already, or cannot be made; then nothing of it is left.
    """
    directory = Path(spec.job_dir)
    if (directory / JOB_FILE).exists():
        raise UsageError(
            f"job directory '{directory}': holds a job already; "
            "give another --job_name or --job_dir"
        )
    with contextlib.ExitStack() as undo:
        try:
            is_new = not directory.exists()
            directory.mkdir(parents=True, exist_ok=True)
            if is_new:
                undo.callback(shutil.rmtree, directory, ignore_errors=True)
            path = directory / TOKEN_FILE
            token = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            undo.callback(path.unlink, missing_ok=True)
            with os.fdopen(token, "w") as file:
                file.write(secrets.token_hex(16))
            with (directory / JOB_NAME_FILE).open("x") as name:  # Not into a file that is there.
                undo.callback((directory / JOB_NAME_FILE).unlink, missing_ok=True)
                name.write(spec.job_name)
            if declared_shards:
                undo.callback((directory / SHARDS_FILE).unlink, missing_ok=True)
                save_shards(directory, declared_shards)
            spec.save(directory)
        except OSError as error:
            raise UsageError(
                f"job directory '{directory}': {error.strerror}; give one that can be written"
            ) from None
        undo.pop_all()


def _run_supervised(
    spec: JobSpec, on_status: Callable[[JobStatus], None], process: JobProcess
) -> None:
    directory = Path(spec.job_dir)
    unwritten: str | None = None
    try:
        process.begin()
        _follow(spec, process, on_status)
    finally:
        how = process.end()
        if not (directory / RESULT_FILE).exists():  # The supervisor was killed: do its last duties.
            has_log = (directory / LOGS / supervisor.LOG_FILE).exists()
            error = f"the supervisor was lost ({how}){'' if has_log else process.last_words()}"
            lost = {"state": "failed", "error": error, "traceback": ""}
            try:
                supervisor.write_json(directory / RESULT_FILE, lost)
            except OSError as failure:  # The disk is full, for one.
                unwritten = f"{error}; {RESULT_FILE} cannot be written: {failure.strerror}"
            clean_up(spec)
    if unwritten is not None:
        raise JobError(unwritten)


def _follow(spec: JobSpec, process: JobProcess, on_status: Callable[[JobStatus], None]) -> None:
    following: Following | None = None
    while not process.has_ended(POLL_S):
        if following is None:
            master = connect_to_master(Path(spec.job_dir))
            if master is not None:
                following = Following(master, process.dashboard, on_status)
        if following is not None:
            with contextlib.suppress(RpcError):  # It is starting or ending.
                following.look()
    if following is not None:
        following.close()


class Following:
    """Tells again and again where a job stands, and all that its master says meanwhile.

    Args:
      master: who is asked.
      dashboard: the URL of the job's page, if it has one.
      on_status: called with what was found.
    """

    def __init__(
        self, master: Client, dashboard: str | None, on_status: Callable[[JobStatus], None]
    ) -> None:
        self._master = master
        self._dashboard = dashboard
        self._on_status = on_status
        self._after_message = 0
        self._speed = _Speed()

    def look(self) -> JobStatus:
        """Ask once; return what was said.

        Raises:
          RpcError: there is no answer.
        """
        request = master_pb2.StatusRequest(after_message=self._after_message)
        reply = self._master.call("GetStatus", request, timeout_s=2.0)
        speed = self._speed.after(reply.records_done + reply.records_repeated)
        status = to_status(reply, speed, self._dashboard)
        for message in reply.messages:
            self._after_message = message.number
            self._on_status(_with_message(status, message.text))
        self._on_status(status)
        return status

    def close(self) -> None:
        """Ask no more."""
        self._master.close()


def connect_to_master(job_dir: Path) -> Client | None:
    """A client of the job's master; None while the job has not started so far."""
    try:
        address = json.loads((job_dir / supervisor.FILE_NAME).read_text())["master_address"]
        credentials = Credentials.of_directory(job_dir)
    except (OSError, ValueError, KeyError):
        return None
    service = master_pb2.DESCRIPTOR.services_by_name["Master"]
    return Client(service, GrpcTransport(address, credentials), f"the master ({address})")


class _Speed:
    """Records per second over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def after(self, records: int) -> float:
        now = time.monotonic()
        # A relaunched master may not know of the last ones; or all goes on from a checkpoint.
        if self._samples and records < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now, records))
        while self._samples[0][0] < now - SPEED_WINDOW_S:
            self._samples.popleft()
        then, before = self._samples[0]
        return (records - before) / (now - then) if now > then else 0.0


def to_status(
    reply: master_pb2.JobStatus, records_per_s: float = 0.0, dashboard: str | None = None
) -> JobStatus:
    """Make what people are shown of what the master says."""
    alive = [one for one in reply.instances if one.state in ("running", "stopping")]
    return JobStatus(
        state=PHASE_WORDS.get(reply.phase, "ending") if reply.state == "running" else "ending",
        epoch=reply.epoch + 1 if reply.phase == "training" else 0,
        num_epochs=reply.num_epochs,
        records_done=reply.records_done,
        records_expected=reply.records_expected,
        records_to_repeat=reply.records_to_repeat,
        loss=reply.loss if reply.has_loss else None,
        records_per_s=records_per_s,
        workers=sum(one.instance.role == "worker" for one in alive),
        num_workers=reply.target_workers,
        ps=sum(one.instance.role == "ps" for one in alive),
        instances=tuple(
            (one.instance.role, one.instance.index, one.instance.incarnation, one.state)
            for one in reply.instances
        ),
        dashboard=dashboard or "",
    )


def status_of(state: Mapping[str, Any]) -> JobStatus:
    """Make what people are shown of what a job's page says of its state."""
    progress, phase = state["progress"], state["phase"]
    alive = Counter(
        one["role"] for one in state["instances"] if one["state"] in ("running", "stopping")
    )
    return JobStatus(
        state=PHASE_WORDS.get(phase, "ending"),
        epoch=progress["epoch"] if phase == "training" else 0,
        num_epochs=progress["num_epochs"],
        records_done=progress["records_done"],
        records_expected=progress["records_expected"],
        records_to_repeat=progress["records_to_repeat"],
        loss=state["loss"],
        records_per_s=progress["records_per_s"],
        workers=alive["worker"],
        num_workers=state["workers_wanted"],
        ps=alive["ps"],
    )


def _with_message(status: JobStatus, text: str) -> JobStatus:
    return dataclasses.replace(status, message=text)


def read_result(spec: JobSpec) -> JobResult:
    """Read how an ended job ended.

    Raises:
      UserCodeError: the model's code raised.
      JobError: the job failed otherwise.
    """
    path = Path(spec.job_dir) / RESULT_FILE
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        raise JobError(
            f"the job ended without a result; its logs are in {path.parent / LOGS}"
        ) from None
    if result["state"] != "succeeded":
        if result.get("traceback"):
            raise UserCodeError(result["error"], result["traceback"])
        raise JobError(result["error"])
    return JobResult(
        job_name=spec.job_name,
        job_dir=spec.job_dir,
        metrics=result["metrics"],
        history=result["history"],
        output=result["output"],
        audit=result["audit"],
        seconds=result["seconds"],
        training_seconds=result["training_seconds"],
        records_per_s=result["records_per_s"],
        figures=result.get("figures", {}),
    )
