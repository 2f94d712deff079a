"""`python -m elasticdl.api.pod_master`: a job's master, in a pod of its own.

What a supervisor does for a master of local processes, the cluster and this do: it takes the claim
to be the job's one master, goes on from the journal, has the model checked where that was not done,
and cleans up when the result is written. Its exit code says to the Job whether to start it again: 0
means that the result is written, whatever it is.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elasticdl.api.pod import ENDED_VARIABLE, STEPPED_DOWN
from elasticdl.dashboard.address import open_dashboard
from elasticdl.data.filesystems import PATIENCE_S, file_system, is_remote, use_stores_of
from elasticdl.data.shards import save_shards
from elasticdl.errors import JobError
from elasticdl.instance import (
    InstanceArguments,
    die_with_parent,
    on_sigterm,
    parse_arguments,
    start_logging,
)
from elasticdl.job_spec import JobSpec
from elasticdl.master.__main__ import run as run_master
from elasticdl.master.cluster.kubernetes.backend import KubernetesBackend
from elasticdl.master.cluster.kubernetes.check import (
    Check,
    CheckServicer,
    MeanwhileServicer,
    read_checked,
    save_checked,
)
from elasticdl.master.cluster.kubernetes.claim import Claim, Replaced
from elasticdl.master.cluster.kubernetes.client import KubeClient, KubeError
from elasticdl.master.cluster.kubernetes.last_acts import (
    end_job,
    is_of_job,
    read_result,
    save_result,
)
from elasticdl.master.cluster.kubernetes.names import (
    RESUMES_ANNOTATION,
    master_service_name,
    object_name,
)
from elasticdl.master.cluster.kubernetes.objects import (
    HEALTH_PORT,
    PORT,
    LaunchedBy,
    Owner,
    claim_map,
    page_port,
)
from elasticdl.master.cluster.kubernetes.pod_state import OUT_OF_MEMORY_EXIT_CODE
from elasticdl.master.exits import Cause, End
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.job_files import RESULT_FILE, failed, write_result
from elasticdl.master.journal_mirror import copy_journal, last_master, root_of
from elasticdl.master.liveness import LivenessServer
from elasticdl.master.master import Master
from elasticdl.master.recovery import last_incarnation, last_session
from elasticdl.phases import PHASES
from elasticdl.pod_rules import JOB_DIR_OF_POD
from elasticdl.proto import check_pb2, master_pb2
from elasticdl.rpc import Server, Service
from elasticdl.trace_file import trace_instance

logger = logging.getLogger(__name__)

TASKS_S = 5.0
AGAIN_S = 2.0
FIRST_S = 60.0
"""For how long a job's first master waits for a store: it may be named wrongly."""
LAST_ACTS_S = 300.0
"""How long the last acts are tried for; the next master does them."""


@dataclass(frozen=True)
class OwnPod:
    """Who this master is, as its template has it told."""

    name: str
    uid: str
    job_uid: str

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> OwnPod:
        """Read it.

        Raises:
          KeyError: this is no pod of a job's master.
        """
        return cls(
            environment["ELASTICDL_POD_NAME"],
            environment["ELASTICDL_POD_UID"],
            environment["ELASTICDL_JOB_UID"],
        )


class OneMaster:
    """A claim as a tenure: who was replaced waits for its process to end."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim

    @property
    def incarnation(self) -> int:
        return self._claim.incarnation

    def is_sure(self) -> bool:
        return self._claim.is_sure()

    def wait_until_sure(self) -> None:
        try:
            self._claim.wait_until_sure()
        except Replaced:
            threading.Event().wait()

    def release(self) -> None:
        self._claim.release()


class MasterPod:
    """One master from the start of its process to its end.

    Args:
      own: who it is.
      client: of its cluster.
    """

    def __init__(self, arguments: InstanceArguments, own: OwnPod, client: KubeClient) -> None:
        self._arguments = arguments
        self._state = arguments.state
        self._spec = arguments.spec
        self._own = own
        self._client = client
        self._owner = Owner(object_name(self._spec.job_name), own.job_uid)
        made = claim_map(self._spec, self._owner)
        self._claim = Claim(client, made, own.name, own.uid, _leave_at_once)

    def run(self, ended: End | None, liveness: LivenessServer) -> int:
        """Be the job's master until its result is written; return the exit code.

        Args:
          ended: how the process before this one ended, in the same container.
        """
        failure = self._claim.begin(ended)
        failure = self._wait(failure) or failure
        result = self._result(is_sure=not failure)
        if result is None and failure:
            result = self._failed(failure)
        if result is None:
            result = self._work(liveness)
        if result is None:
            return STEPPED_DOWN
        self._end(result)
        return 0

    def _wait(self, failure: str) -> str:
        """Wait until this is the one master; return why the job fails at once, else nothing.

        Args:
          failure: why it fails anyway: then nothing is read.

        Raises:
          OSError: its directory cannot be read, though that of a master before this one could.
        """
        is_first = self._is_first
        problem: OSError | None = None

        def last() -> int:
            nonlocal problem
            try:
                return 0 if failure or problem else self._last_incarnation()
            except OSError as error:
                if not is_first:
                    raise
                problem = error
                return 0

        use_stores_of(self._spec, FIRST_S if is_first else PATIENCE_S)
        self._claim.wait(last)
        if problem is not None:
            return f"job_dir '{self._spec.job_dir}': {problem.strerror or problem}"
        try:
            if not is_remote(self._spec.job_dir):
                Path(self._spec.job_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:  # Whoever writes there says more.
            logger.warning("%s", error)
        return ""

    @property
    def _is_first(self) -> bool:
        """Whether no master has begun before: others crash where a store is silent, and go on."""
        return self._claim.incarnation == 1

    def _last_incarnation(self) -> int:
        if self._state:
            return last_master(root_of(self._spec.job_dir))
        return last_incarnation(self._spec.job_dir)

    def _last_session(self) -> str:
        """The session of the master before; empty where there was none.

        Raises:
          JobError: the journal cannot be read.
          OSError: it cannot be read now.
        """
        if not self._state:
            return last_session(self._spec.job_dir)
        is_there = copy_journal(root_of(self._spec.job_dir), self._state)
        return last_session(self._state) if is_there else ""

    def leave(self) -> None:
        """Give the claim back, where the job's own master has not begun: nobody need wait."""
        self._claim.release()
        _leave_at_once()

    def _work(self, liveness: LivenessServer) -> dict[str, Any] | None:
        """Run the job to its end; return its result, which is written; None: it has not ended.

        Raises:
          OSError: what a master before this one wrote cannot be read now; or the job has succeeded,
            which its journal says, and the result cannot be written now.
        """
        incarnation = self._claim.incarnation
        try:
            former = self._last_session()
        except (OSError, JobError) as error:
            if not self._state or (isinstance(error, OSError) and not self._is_first):
                raise
            said = getattr(error, "strerror", None) or error
            return self._failed(f"job_dir '{self._spec.job_dir}': {said}")
        is_new = not former.startswith(f"{self._own.job_uid}.")
        session = f"{self._own.job_uid}.{incarnation}" if is_new else former
        by = LaunchedBy(self._owner, self._spec.image, self._address(), incarnation, session)
        sure = self._claim.wait_until_sure
        backend = KubernetesBackend(self._spec, self._client, by, sure, self._own.name)
        try:
            spec = self._checked(by, former, backend)
        except KubeError:
            raise
        except JobError as error:
            backend.close()
            return self._failed(str(error), getattr(error, "traceback_text", ""))
        arguments = dataclasses.replace(
            self._arguments,
            spec=spec,
            incarnation=incarnation,
            session=session,
            credentials=dataclasses.replace(self._arguments.credentials, session=session),
            dashboard=_page_of(spec),
        )

        masters: list[Master] = []

        def begun(master: Master) -> None:
            masters.append(master)
            liveness.look = lambda: self._look(master)
            watching = threading.Thread(target=self._wait_for_task, args=(master,), daemon=True)
            watching.start()

        if self._claim.former is not None:
            backend.tell_of_master(*self._claim.former)
        try:
            outcome = run_master(
                arguments, backend, OneMaster(self._claim), True, _leave_at_once, begun
            )
        except OSError as error:  # Its directory cannot be written any more, for one.
            if not masters and not self._is_first:
                raise
            if masters and _has_succeeded(masters[0]):
                raise
            return self._failed(f"the job's directory cannot be written, or read: {error}")
        return None if outcome is None else self._result()

    def _look(self, master: Master) -> None:
        """Take the lock that everything needs, unless it is right to wait."""
        if self._claim.is_sure():
            master.coordinator.look(lambda *_: None)

    def _wait_for_task(self, master: Master) -> None:
        """Forget how masters before this one ended once a task is done."""
        before = _tasks_done(master)
        while not master.coordinator.ended.wait(TASKS_S):
            if _tasks_done(master) != before:
                self._claim.task_done()
                return

    def _address(self) -> str:
        """Where pods reach the job's master, whichever pod it is."""
        name = master_service_name(self._owner.name)
        service = self._again(lambda: self._client.get("Service", name))
        return f"{service['spec']['clusterIP']}:{PORT}"

    def _checked(self, by: LaunchedBy, former: str, backend: KubernetesBackend) -> JobSpec:
        """The job as the check has resolved it, which is made where none was.

        Args:
          former: the session of the master before; empty where nothing is left of one. A directory
            that was lost with its pod had what the check wrote beside the options.
          backend: has the first parameter servers start meanwhile.
        """
        resolved = self._again(lambda: read_checked(self._spec, self._client))
        if not former and self._spec.job_dir == JOB_DIR_OF_POD:
            resolved = {}
        if not resolved:
            servicer = CheckServicer()
            services = [
                Service(check_pb2.DESCRIPTOR.services_by_name["Check"], servicer),
                Service(master_pb2.DESCRIPTOR.services_by_name["Master"], MeanwhileServicer()),
            ]
            credentials = dataclasses.replace(
                self._arguments.credentials,
                session=by.session,
                master_incarnation=by.incarnation,
            )
            listen = self._arguments.listen
            server = Server(services, credentials, listen, on_replaced=_leave_at_once)
            if not former:
                partitions = range(self._spec.num_ps)
                backend.launch_early([InstanceSpec(Role.PS, index, 1) for index in partitions])
            try:
                sure = self._claim.wait_until_sure
                resumes = bool(former) and self._resumes()
                check = Check(self._spec, self._client, by, servicer, sure, _say, resumes)
                found = check.run()
            finally:
                server.stop()
            for warning in found["report"]["warnings"]:
                logger.warning("the check of the model: %s", warning)
            if found["report"]["declared_shards"]:
                save_shards(self._spec.job_dir, found["report"]["declared_shards"])
            resolved = found["resolved"]
            self._again(lambda: save_checked(self._spec, self._client, by, resolved))
        return JobSpec.of_options(
            self._spec.command, {**self._spec.to_options(), **resolved}
        ).model_copy(update={"job_dir": self._spec.job_dir})

    def _resumes(self) -> bool:
        """Whether the job was submitted to go on with what is in its directory."""
        job = self._again(lambda: self._client.get("Job", self._owner.name))
        return RESUMES_ANNOTATION in (job["metadata"].get("annotations") or {})

    def _result(self, is_sure: bool = False) -> dict[str, Any] | None:
        """The result, if some master of this Job has written it.

        Args:
          is_sure: where a store does not say, raise OSError: who has one must not go on.
        """
        try:
            files, path = file_system(self._result_path())
            read: dict[str, Any] = json.loads(files.read(path))
            if is_of_job(read, self._own.job_uid):
                return read
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("the result cannot be read: %s", error)
            if is_sure and self._state and isinstance(error, OSError):
                raise
        kept = self._again(lambda: read_result(self._spec, self._client))
        return kept if kept is not None and is_of_job(kept, self._own.job_uid) else None

    def _failed(self, error: str, traceback: str = "") -> dict[str, Any]:
        """Write that the job failed before anything was launched, or as no master stays."""
        session = f"{self._own.job_uid}.{self._claim.incarnation}"
        result = failed(session, error, traceback)
        self._claim.wait_until_sure()
        try:
            write_result(self._spec.job_dir, result)
        except OSError as failure:
            logger.error("the result cannot be written: %s", failure)
            self._again(lambda: save_result(self._spec, self._client, result))
        logger.error("the job failed: %s", error)
        return result

    def _result_path(self) -> str:
        return os.path.join(self._spec.job_dir, RESULT_FILE)

    def _end(self, result: dict[str, Any]) -> None:
        self._claim.wait_until_sure()
        if result.get("state") == "succeeded":
            self._remove_parts()
        self._again(lambda: end_job(self._spec, self._client, self._owner, result))
        self._claim.release()

    def _remove_parts(self) -> None:
        """Remove what the predictions were joined of."""
        if self._spec.command != "predict":
            return
        try:
            files, path = file_system(self._spec.parts_root, patience_s=0.0)
            files.delete_directory(path)
        except OSError as error:
            logger.warning("the parts of the predictions stay: %s", error)

    def _again(self, what: Any) -> Any:
        """Ask again where the apiserver is away."""
        end = LAST_ACTS_S
        while True:
            try:
                return what()
            except KubeError as error:
                end -= AGAIN_S
                if end < 0:
                    raise
                logger.warning("once more in %.0f s: %s", AGAIN_S, error)
                threading.Event().wait(AGAIN_S)


def _tasks_done(master: Master) -> int:
    return master.coordinator.look(lambda ledger, _: ledger.num_done)


def _has_succeeded(master: Master) -> bool:
    outcome = master.coordinator.outcome
    return outcome is not None and outcome.state == "succeeded"


def _page_of(spec: JobSpec) -> int | None:
    """Listen where the job's page is to be served: on loopback, unless a service opens it."""
    host = "127.0.0.1" if spec.dashboard_service == "none" else "0.0.0.0"
    place = {"dashboard_host": host, "dashboard_port": page_port(spec)}
    listening = open_dashboard(spec.model_copy(update=place))
    return None if listening is None else listening.detach()


def _say(why: str) -> None:
    logger.info("the check of the model %s", f"waits: {why}" if why else "runs")


def _leave_at_once() -> None:
    logger.warning("this master ends: another one goes on")
    logging.shutdown()
    os._exit(STEPPED_DOWN)


def _ended_before(environment: Mapping[str, str] = os.environ) -> End | None:
    """How the master before this one ended, if it was a process of this container's parent."""
    told = environment.get(ENDED_VARIABLE)
    if told is None:
        return None
    if int(told) == OUT_OF_MEMORY_EXIT_CODE:
        return End(Cause.OUT_OF_MEMORY, -signal.SIGKILL)
    return End.of_exit_code(int(told))


def main() -> int:
    """Entry point."""
    die_with_parent()
    arguments = parse_arguments("master")
    start_logging("master", arguments)
    liveness = LivenessServer(("0.0.0.0", HEALTH_PORT))
    pod = MasterPod(arguments, OwnPod.of_environment(), KubeClient.in_cluster())
    on_sigterm(pod.leave)
    if arguments.spec.profile:
        trace_instance(arguments.spec.job_dir, "master", 0, arguments.incarnation)
    try:
        return pod.run(_ended_before(), liveness)
    except Replaced as error:
        logger.warning("%s", error)
        return STEPPED_DOWN
    finally:
        PHASES.close()


if __name__ == "__main__":
    sys.exit(main())
