"""Submits a job of pods, and shows of it what is shown of a job of this machine until it ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from elasticdl.api.image.build import image_of_job
from elasticdl.api.kubernetes.place import KubernetesJob
from elasticdl.api.kubernetes.pods_checked import check_accepted, jobs_of_pods
from elasticdl.api.kubernetes.store_copy import StoreCopy
from elasticdl.api.kubernetes.submission import check_free, check_submittable, remove, submit
from elasticdl.api.launcher import CHECKING, Following, read_result, set_result_aside
from elasticdl.api.result import JobResult, JobStatus
from elasticdl.errors import Detached, JobError, UsageError
from elasticdl.job_spec import JobSpec, jobs_home
from elasticdl.master.cluster.kubernetes.client import KubeClient, KubeError, is_over_quota
from elasticdl.master.cluster.kubernetes.names import (
    CHECK,
    COMPONENT_LABEL,
    INDEX_LABEL,
    selecting,
)
from elasticdl.master.cluster.kubernetes.objects import TEMPLATE_FILE
from elasticdl.master.cluster.kubernetes.pod_state import Runs, Waits, state_of
from elasticdl.master.exits import End
from elasticdl.master.instances import Role
from elasticdl.rpc import Client, RpcError

Json = dict[str, Any]
OnStatus = Callable[[JobStatus], None]

POLL_S = 0.25
LOOK_S = 1.0
"""How often the apiserver is asked what became of the Job and of pods that wait."""

_UNBUILT = "unbuilt"  # In place of the name of an image that is not built yet.

# Reasons of the events in which a Job tells what became of its pod.
_NOT_CREATED, _CREATED = "FailedCreate", "SuccessfulCreate"


def launch(spec: JobSpec, on_status: OnStatus) -> JobResult:
    """Make the image of a job, submit the job, and follow it to its end.

    Args:
      on_status: called several times a second with where the job stands.

    Raises:
      UsageError: nothing was submitted.
      UserCodeError, JobError: it failed.
      Detached: Ctrl-C was pressed, and it goes on.
    """
    pods = jobs_of_pods(spec, spec.image or _UNBUILT)
    directory = jobs_home() / spec.job_name
    check_free(directory)
    try:
        client = KubeClient.of_kubeconfig("", spec.namespace)
    except KubeError as error:
        raise UsageError(f"{error}; give KUBECONFIG a file that knows one") from None
    check_submittable(client, spec.job_name)
    check_accepted(client, spec, pods)
    image = image_of_job(spec, lambda line: on_status(_said(line, "building the image")))
    on_status(_said(f"submitting job {spec.job_name} to namespace {client.namespace}"))
    submitted = submit(spec, image, directory, client)
    return follow(KubernetesJob(spec.job_name, directory, submitted, client), on_status)


def resume(job: KubernetesJob, spec: JobSpec, on_status: OnStatus) -> JobResult:
    """Submit a job again that does not run, under the same name, and follow it to its end.

    Args:
      spec: as its directory has it.

    Raises:
      UsageError: it runs, has succeeded, or its name is another's.
      UserCodeError, JobError, Detached: as of `launch`.
    """
    directory = job.directory
    if job.is_running():
        raise UsageError(
            f"job '{job.known_as}': it still runs; elasticdl jobs stop {job.known_as} ends it"
        )
    job.check_name()
    set_result_aside(spec)
    StoreCopy(directory, job.job_dir).forget()
    on_status(_said(f"removing what is left of job {spec.job_name}"))
    remove(job.client, job.submitted)
    template = directory / TEMPLATE_FILE
    spec = spec.model_copy(
        update={
            "job_dir": job.submitted.job_dir or spec.job_dir,
            "pod_template": str(template) if template.exists() else None,
        }
    )
    on_status(_said(f"job {spec.job_name} goes on"))
    job.submitted = submit(spec, spec.image, directory, job.client, again=True)
    return follow(job, on_status)


def follow(job: KubernetesJob, on_status: OnStatus) -> JobResult:
    """Show how a job goes on until it has ended.

    Raises:
      UserCodeError, JobError: it failed, or was deleted.
      Detached: Ctrl-C was pressed, and it goes on.
    """
    try:
        namespace = job.submitted.namespace
        on_status(_said(f"job {job.known_as} is in namespace {namespace}; Ctrl-C detaches from it"))
        spec = JobSpec.load(job.directory)
        with _Follower(job, spec, on_status) as follower:
            while not follower.has_ended():
                time.sleep(POLL_S)
            with contextlib.suppress(KubeError):
                job.wait_until_gone()
    except KeyboardInterrupt:
        raise Detached(_detached(job)) from None
    except SystemExit as end:  # SIGTERM: the job is not tied to who started it.
        end.add_note(_detached(job))
        raise
    return read_result(spec)


def states_of_pods(job: KubernetesJob) -> Iterator[tuple[str, Waits | Runs | End]]:
    """Which pods of a job wait, run, or have ended, and why.

    Raises:
      KubeError: the apiserver refuses, or is away.
    """
    for pod in job.client.list("Pod", selecting(job.submitted.name)).items:
        state = state_of(pod)
        if isinstance(state, Waits):
            state = state_of(pod, _events_of(job.client, pod))
        if state is not None:
            labels = pod["metadata"]["labels"]
            component = labels.get(COMPONENT_LABEL, "pod")
            is_one_of_many = INDEX_LABEL in labels and component != CHECK
            index = f" {labels[INDEX_LABEL]}" if is_one_of_many else ""
            yield f"{component}{index}", state


class _Follower:
    """Asks a job's master where it stands, and the apiserver while there is none."""

    def __init__(self, job: KubernetesJob, spec: JobSpec, on_status: OnStatus) -> None:
        self._job = job
        self._spec = spec
        self._on_status = on_status
        self._stack = contextlib.ExitStack()
        self._master: Client | None = None
        self._following: Following | None = None
        self._due = 0.0
        self._told: dict[str, str] = {}
        self._stuck_since: float | None = None
        self._was_gone = False

    def __enter__(self) -> _Follower:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def has_ended(self) -> bool:
        """Look once; tell what is new; return whether the result is here.

        Raises:
          JobError: it was deleted, or its master's pod cannot start.
        """
        is_heard = self._hear_master()
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + LOOK_S
        try:
            if self._has_result(is_heard):
                return True
            self._look_for_job()
            if not is_heard:
                self._tell_of_pods(now)
                self._connect()
        except KubeError as error:
            self._tell("cluster", f"the cluster does not answer: {error}")
        return False

    def _has_result(self, is_heard: bool) -> bool:
        if is_heard:
            try:
                return self._job.fetch_result(self._master)
            except RpcError:  # It ends: the cluster may keep the result.
                pass
            except KubeError:
                raise
            except JobError as error:
                self._tell("copy", f"no copy of the job's journal and figures: {error}")
        return self._job.fetch_result()

    def _hear_master(self) -> bool:
        if self._following is None:
            return False
        try:
            is_checked = self._following.look().state != CHECKING
        except RpcError:  # It checks the model, ends, or another one begins.
            return False
        self._stuck_since = None
        return is_checked

    def _connect(self) -> None:
        if self._following is not None or (master := self._job.connect()) is None:
            return
        self._master = master
        page = self._stack.enter_context(self._job.page())
        self._following = Following(master, page, self._on_status)
        self._stack.callback(self._following.close)
        if page is not None:
            self._tell("page", f"dashboard: {page} (as long as this command runs)")
        if opened := self._job.open_page():
            self._tell("open page", opened)

    def _look_for_job(self) -> None:
        if self._job.job() is not None:
            self._was_gone = False
        elif not self._was_gone:
            self._was_gone = True  # It may have ended between the two questions.
        else:
            raise JobError(f"job '{self._job.known_as}': somebody deleted it")

    def _tell_of_pods(self, now: float) -> None:
        is_stuck = ""
        states = list(states_of_pods(self._job))
        if not states and (why := self._why_no_pod()):
            self._tell(Role.MASTER.value, f"{Role.MASTER.value} waits: {why}")
            # Of a job that had a master, the next one is waited for.
            if self._following is None and not is_over_quota(why):
                is_stuck = why
        for who, state in states:
            if isinstance(state, Waits):
                self._tell(who, f"{who} waits: {state.why}")
                if state.is_error and who == Role.MASTER.value:
                    is_stuck = state.why
            elif isinstance(state, Runs):
                if who == CHECK:
                    self._tell(who, f"checking the model, on {state.node}")
            elif who == Role.MASTER.value:
                self._tell(who, f"{who}: {state.describe()}")
        if not is_stuck:
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or now
        if now - self._stuck_since > self._spec.start_deadline:
            # Nobody else can: there is no master.
            error = f"the master's pod did not start in {self._spec.start_deadline:g} s: {is_stuck}"
            self._job.end_failed(error)
            raise JobError(error)

    def _why_no_pod(self) -> str:
        """Why the master's pod cannot even be created; empty where nobody says so."""
        uid = self._job.submitted.uid
        told = self._job.client.list("Event", fields={"involvedObject.uid": uid}).items
        told = [one for one in told if one.get("reason") in (_NOT_CREATED, _CREATED)]
        last = max(told, key=lambda one: one.get("lastTimestamp") or "", default={})
        return str(last.get("message") or "") if last.get("reason") == _NOT_CREATED else ""

    def _tell(self, who: str, text: str) -> None:
        if self._told.get(who) != text:
            self._told[who] = text
            self._on_status(_said(text))


def _events_of(client: KubeClient, pod: Json) -> list[Json]:
    return client.list("Event", fields={"involvedObject.uid": pod["metadata"]["uid"]}).items


def _said(text: str, state: str = "starting") -> JobStatus:
    return JobStatus(state=state, message=text)


def _detached(job: KubernetesJob) -> str:
    name = job.known_as
    return (
        f"detached; job {name} goes on: elasticdl jobs logs {name} -f follows it, elasticdl jobs "
        f"stop {name} ends it, elasticdl jobs wait {name} fetches its result, which is kept there"
    )
