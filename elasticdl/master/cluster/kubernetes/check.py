"""The check of a job's model in a pod of its own, before any other is launched."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import yaml

from elasticdl.errors import JobError, UserCodeError
from elasticdl.job_spec import CHECKED_FILE, JobSpec
from elasticdl.master.cluster.kubernetes.client import (
    Conflict,
    Forbidden,
    Json,
    KubeClient,
    KubeError,
    NotAsked,
    NotFound,
    Unanswered,
)
from elasticdl.master.cluster.kubernetes.names import (
    CHECK,
    check_pod_name,
    checked_name,
    object_name,
)
from elasticdl.master.cluster.kubernetes.objects import (
    LaunchedBy,
    check_pod,
    checked_map,
)
from elasticdl.master.cluster.kubernetes.pod_state import Runs, Waits, end_of, state_of
from elasticdl.master.cluster.kubernetes.pod_template import MAIN
from elasticdl.master.cluster.kubernetes.resources import memory_limit
from elasticdl.master.exits import Cause, End
from elasticdl.master.instances import Needs
from elasticdl.proto import check_pb2, master_pb2

logger = logging.getLogger(__name__)

POLL_S = 1.0
REFUSED_S = 30.0
MOST_CRASHES = 5
LOG_BYTES = 4000
NUMBERS_PER_MASTER = 1000
"""So many checks a master may make: no other one of the job gives a pod the same name."""


class CheckServicer:
    """Takes the answer of a check. Thread-safe."""

    def __init__(self) -> None:
        self._answers: dict[int, Json] = {}
        self.came = threading.Condition()

    def answer(self, request: check_pb2.CheckAnswer) -> check_pb2.CheckTaken:
        """A check has come to an end; told again, it is the same."""
        with self.came:
            self._answers[request.number] = json.loads(request.answer)
            self.came.notify_all()
        return check_pb2.CheckTaken()

    def of(self, number: int, wait_s: float) -> Json | None:
        """Return the answer of a check; None: it has none so far."""
        with self.came:
            self.came.wait_for(lambda: number in self._answers, wait_s)
            return self._answers.get(number)


class MeanwhileServicer:
    """The Master service while the model is checked: whoever is there already waits."""

    def register(self, request: master_pb2.RegisterRequest) -> master_pb2.RegisterReply:
        """An instance is there; what it is to begin with is told later."""
        return master_pb2.RegisterReply(accepted=True)

    def heartbeat(self, request: master_pb2.HeartbeatRequest) -> master_pb2.HeartbeatReply:
        """A sign of life."""
        return master_pb2.HeartbeatReply(accepted=True)

    def get_status(self, request: master_pb2.StatusRequest) -> master_pb2.JobStatus:
        """It has begun, and nothing is known of it so far."""
        return master_pb2.JobStatus(state="running", phase=CHECK)

    def fetch(self, request: master_pb2.FetchRequest) -> master_pb2.FetchReply:
        """There are no files so far."""
        return master_pb2.FetchReply()

    def fetch_journal(
        self, request: master_pb2.FetchJournalRequest
    ) -> master_pb2.FetchJournalReply:
        """There is no journal so far."""
        return master_pb2.FetchJournalReply(is_all=True)

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        def refuse(request: Any) -> Any:
            raise JobError("the job's model is being checked; ask again")

        return refuse


class Check:
    """One job's check: pods until one of them has answered.

    Args:
      by: what the pods are told of this master.
      servicer: takes their answers, and is served already.
      on_waits: called with why a pod does not run, when that changes.
      resumes: the job goes on with what it has written.
    """

    def __init__(
        self,
        spec: JobSpec,
        client: KubeClient,
        by: LaunchedBy,
        servicer: CheckServicer,
        wait_until_sure: Callable[[], None],
        on_waits: Callable[[str], None] = lambda why: None,
        resumes: bool = False,
    ) -> None:
        self._resumes = resumes
        self._spec = spec
        self._client = client
        self._by = by
        self._servicer = servicer
        self._wait_until_sure = wait_until_sure
        self._on_waits = on_waits
        self._needs = Needs()
        self._why = ""

    def run(self) -> Json:
        """Check the model; return `report`, and `resolved`: options by name.

        Raises:
          UserCodeError: the model's code raised.
          JobError: the job cannot work, or its check crashed again and again.
        """
        crashes = 0
        first = self._by.incarnation * NUMBERS_PER_MASTER
        for number in range(first, first + NUMBERS_PER_MASTER):
            self._create(number)
            found = self._follow(number)
            if not isinstance(found, End):
                self._remove(number)
                return _answered(found)
            logger.warning("the check of the model ended: %s", found.describe())
            if found.cause is Cause.OUT_OF_MEMORY:
                self._give_more(found)
            crashes += found.is_crash or found.cause is Cause.OUT_OF_MEMORY
            if crashes == MOST_CRASHES:
                how = f"the check of the model ended {crashes} times: {found.describe()}"
                raise JobError(f"{how}\n{found.log_tail}".rstrip())
            self._remove(number)
        raise AssertionError("a check ended a thousand times")

    def _create(self, number: int) -> None:
        """Create a pod; Unanswered may have: then it is there when it is looked at."""
        refused_at: float | None = None
        while True:
            self._wait_until_sure()
            try:
                self._client.create(
                    check_pod(self._spec, number, self._needs, self._by, self._resumes)
                )
                return
            except (Conflict, Unanswered):
                return
            except NotAsked as error:
                logger.warning("the check of the model is not launched yet: %s", error)
                refused_at = None
            except KubeError as error:
                if isinstance(error, Forbidden) and error.is_quota:
                    self._waits(str(error))
                else:
                    refused_at = time.monotonic() if refused_at is None else refused_at
                    if time.monotonic() - refused_at > REFUSED_S:
                        raise JobError(f"the check of the model: {error}") from error
            time.sleep(POLL_S)

    def _follow(self, number: int) -> Json | End:
        """Wait for an answer, or for the end of a pod that has none."""
        name = check_pod_name(object_name(self._spec.job_name), number)
        pod: Json | None = None
        waits_since: float | None = None
        while True:
            answer = self._servicer.of(number, POLL_S)
            if answer is not None:
                return answer
            try:
                pod = self._client.get("Pod", name)
            except NotFound:
                why = "its pod is not there"
                return End(Cause.DELETED, message=why) if pod is None else end_of(pod)
            except KubeError as error:
                logger.warning("the check of the model is not seen: %s", error)
                continue
            match state_of(pod):
                case End() as end:
                    # It may have answered just before it ended.
                    return self._servicer.of(number, POLL_S) or self._with_log(name, end)
                case Waits(why, is_error):
                    self._waits(why)
                    waits_since = (waits_since or time.monotonic()) if is_error else None
                case Runs():
                    waits_since = None
                    self._waits("")
            waited_s = 0.0 if waits_since is None else time.monotonic() - waits_since
            if waited_s > self._spec.start_deadline:
                raise JobError(f"the check of the model cannot start: {self._why}")

    def _waits(self, why: str) -> None:
        if why != self._why:
            self._why = why
            self._on_waits(why)

    def _with_log(self, name: str, end: End) -> End:
        try:
            log_tail = self._client.log_tail(name, MAIN, LOG_BYTES)
        except KubeError as error:
            logger.info("no log of the check: %s", error)
            log_tail = ""
        return End(end.cause, end.exit_code, end.message, log_tail)

    def _give_more(self, end: End) -> None:
        had = memory_limit(self._spec, CHECK, self._needs)
        more = Needs(self._needs.memory_factor * self._spec.oom_memory_factor)
        if had == memory_limit(self._spec, CHECK, more):
            raise JobError(
                f"the check of the model ran out of memory ({had} bytes); a check has what a "
                "worker has: --worker_resource_request and --memory_limit_max give it more"
            )
        self._needs = more

    def _remove(self, number: int) -> None:
        """Delete a pod that has ended; its log is not missed."""
        if self._spec.keep_objects in ("pods", "all"):
            return
        try:
            self._client.delete("Pod", check_pod_name(object_name(self._spec.job_name), number))
        except KubeError as error:
            logger.info("the pod of the check stays: %s", error)


def save_checked(
    spec: JobSpec, client: KubeClient, by: LaunchedBy, resolved: dict[str, Any]
) -> None:
    """Write what a check resolved to where every pod of the job mounts it.

    Raises:
      KubeError: the apiserver refuses, or is away.
    """
    made = checked_map(spec, by.owner, yaml.safe_dump(resolved))
    try:
        client.create(made)
    except Conflict:
        found = client.get("ConfigMap", made["metadata"]["name"])
        client.replace({**found, "data": made["data"]})


def read_checked(spec: JobSpec, client: KubeClient) -> dict[str, Any]:
    """What a check resolved; nothing where there was none.

    Raises:
      KubeError: the apiserver refuses, or is away.
    """
    try:
        found = client.get("ConfigMap", checked_name(object_name(spec.job_name)))
    except NotFound:
        return {}
    read: dict[str, Any] = yaml.safe_load((found.get("data") or {}).get(CHECKED_FILE, "")) or {}
    return read


def _answered(answer: Json) -> Json:
    error = answer.get("error")
    if error is None:
        return answer
    if error["is_users_code"]:
        raise UserCodeError(error["message"], error["traceback_text"])
    raise JobError(error["message"])
