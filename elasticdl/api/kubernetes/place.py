"""The jobs of pods that were submitted from here, and those that others submitted."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from elasticdl.api.job_backends import Log
from elasticdl.api.kubernetes.job_copy import JobCopy, write_privately
from elasticdl.api.kubernetes.pod_logs import find_pod_logs
from elasticdl.api.kubernetes.port_forward import NoMaster, PortForward, master_pod
from elasticdl.api.kubernetes.record import (
    PREFIX,
    Submitted,
    foreign_directory,
    is_submitted,
    parse_name,
)
from elasticdl.api.kubernetes.store_copy import StoreCopy
from elasticdl.api.kubernetes.submission import lasting, leftovers, remove, remove_at_once
from elasticdl.api.result import JobResult, JobStatus
from elasticdl.credentials import Credentials, credential_items
from elasticdl.dashboard.events import JobEvent, JobEvents
from elasticdl.errors import JobError, UsageError
from elasticdl.job_spec import JOB_FILE, JobSpec, jobs_home
from elasticdl.logs.files import find_logs
from elasticdl.master.cluster.kubernetes.client import KubeClient, KubeError, NotFound
from elasticdl.master.cluster.kubernetes.last_acts import (
    KEEP_ANNOTATION,
    STATE_ANNOTATION,
    is_of_job,
)
from elasticdl.master.cluster.kubernetes.names import (
    dashboard_service_name,
    result_name,
)
from elasticdl.master.cluster.kubernetes.objects import PORT, page_port
from elasticdl.master.job_files import RESULT_FILE
from elasticdl.proto import master_pb2
from elasticdl.rpc import Client, DeadlinePassed, GrpcTransport, RpcError
from elasticdl.rpc.roles import CLIENT

logger = logging.getLogger(__name__)

Json = dict[str, Any]

LOOK_S = 1.0
"""How long is believed what the apiserver said."""
STOP_S = 120.0
"""How long a master may take to end its job before the objects are deleted under it."""
GONE_S = 30.0
"""How long a master that has ended may take to remove what is left of its job."""
_CALL_S = 10.0
_PAUSE_S = 0.5


class KubernetesJob:
    """A job of pods; see `elasticdl.api.job_backends.PlacedJob`.

    Args:
      known_as: as it was asked for.
      directory: where this machine keeps what it knows of it.
      submitted: where its objects are.
      client: of their namespace; made when it is needed.
      is_own: it was submitted from here, so its result is for here.
    """

    def __init__(
        self,
        known_as: str,
        directory: Path,
        submitted: Submitted,
        client: KubeClient | None = None,
        is_own: bool = True,
    ) -> None:
        self.known_as = known_as
        self.submitted = submitted
        self._directory = directory
        self._known_client = client
        self._is_own = is_own
        self._looked_at = float("-inf")
        self._job: Json | None = None
        self._synced_at = float("-inf")

    @property
    def client(self) -> KubeClient:
        """Asks the apiserver; KubeError where no cluster is known."""
        if self._known_client is None:
            there = self.submitted
            self._known_client = KubeClient.of_kubeconfig(there.context, there.namespace)
        return self._known_client

    @property
    def directory(self) -> Path:
        """What is known of the job, brought up to date as far as the cluster can be asked."""
        if time.monotonic() >= self._synced_at + LOOK_S:
            self._synced_at = time.monotonic()
            self._update()
        if not (self._directory / JOB_FILE).exists():
            raise UsageError(f"job '{self.known_as}': no Secret says what it is (any more)")
        return self._directory

    @property
    def job_dir(self) -> str:
        return self.submitted.job_dir or str(self._directory)

    def is_running(self) -> bool:
        job = self._looked_up()
        if job is None or job["metadata"].get("deletionTimestamp"):
            return False
        annotations = job["metadata"].get("annotations") or {}
        return STATE_ANNOTATION not in annotations and job["spec"].get("parallelism") != 0

    def connect(self) -> Client | None:
        try:
            master_pod(self.client, self.submitted.name)
            self._describe()
            credentials = Credentials.of_directory(self._directory)
        except (NoMaster, OSError):
            return None
        service = master_pb2.DESCRIPTOR.services_by_name["Master"]
        forward = self.forward(PORT)
        return Client(service, _Forwarded(forward, credentials), "the master, through a forward")

    def dashboard(self) -> str | None:
        return None

    @contextlib.contextmanager
    def page(self, port: int = 0) -> Iterator[str | None]:
        spec = JobSpec.load(self.directory)
        if not spec.dashboard:
            yield None
            return
        with self.forward(page_port(spec), port) as address:
            yield f"http://{address}/"

    def open_page(self) -> str:
        """Who may see its page without a port forward, for people; empty: nobody.

        Raises:
          KubeError: the apiserver refuses, or is away.
        """
        name = dashboard_service_name(self.submitted.name)
        try:
            service = self.client.get("Service", name)
        except NotFound:
            return ""
        (port,) = service["spec"]["ports"]
        addresses = (service.get("status") or {}).get("loadBalancer", {}).get("ingress") or ()
        where = " ".join(
            f"http://{one.get('ip') or one.get('hostname')}:{port['port']}/" for one in addresses
        )
        where = where or f"port {port['nodePort']} of every node"
        return f"the job's page has no login, and is open to whoever reaches {where}"

    def logs(self, role: str | None = None, index: int | None = None) -> Sequence[Log]:
        """See `PlacedJob`.

        Raises:
          UsageError: its name is that of another job by now, and so are the pods of that name.
          KubeError: the apiserver refuses, or is away.
        """
        if self._looked_up() is None:
            self.check_name()
        return find_pod_logs(self.client, self.submitted.name, role, index) or find_logs(
            self._directory, role, index
        )

    def events(self) -> Iterator[JobEvent]:
        return JobEvents(self.directory).read()

    def resume(self, spec: JobSpec, on_status: Callable[[JobStatus], None]) -> JobResult:
        from elasticdl.api.kubernetes.following import resume

        return resume(self, spec, on_status)

    def stop(self, now: bool) -> None:
        """End it, and remove all that there is of it.

        Args:
          now: without asking its master, and without any grace of its pods.

        Raises:
          UsageError: its name is that of another job by now.
          JobError: there is nothing of it; or not all of it went in time.
        """
        self.check_name()
        if not self.objects():
            raise JobError(f"job '{self.known_as}': it does not run (any more)")
        asked = not now and self._ask_to_stop()
        ends = time.monotonic() + STOP_S
        while asked and self._has_job() and time.monotonic() < ends:
            time.sleep(_PAUSE_S)
        self._describe()
        self.fetch_result()
        (remove_at_once if now else remove)(self.client, self.submitted)
        path = self._directory / RESULT_FILE
        if self._directory.exists() and not path.exists():
            self._write_result({"state": "stopped", "error": "", "traceback": ""})
        self._looked_at = float("-inf")

    def end_failed(self, error: str) -> None:
        """Remove it, as it cannot go on, and write down why.

        Raises:
          UsageError: its name is that of another job by now.
          KubeError, JobError: it cannot be removed.
        """
        self.check_name()
        remove(self.client, self.submitted)
        self._write_result({"state": "failed", "error": error, "traceback": ""})

    def objects(self) -> list[str]:
        """What there is of it in the cluster: `Kind name`."""
        return leftovers(self.client, self.submitted.name)

    def forward(self, port: int, own_port: int = 0) -> PortForward:
        """Reach a port of its master, whichever pod that is, at one of this machine.

        Raises:
          UsageError: somebody else listens there.
        """
        name = self.submitted.name
        return PortForward(self.client, lambda: master_pod(self.client, name), port, own_port)

    def job(self) -> Json | None:
        """The Job as the apiserver has it now; None if it is gone.

        Raises:
          KubeError: the apiserver refuses, or is away.
        """
        found = self._of_its_name()
        return found if found is not None and self._is_it(found) else None

    def is_followed_by_another(self) -> bool:
        """Whether its name is that of another job by now: somebody else's, or of another machine.

        Raises:
          KubeError: the apiserver refuses, or is away.
        """
        found = self._of_its_name()
        return found is not None and not self._is_it(found)

    def check_name(self) -> None:
        """Raise UsageError where all that has its name is another job's; KubeError as `job`."""
        if self.is_followed_by_another():
            there = self.submitted
            raise UsageError(
                f"job '{self.known_as}': it is gone, and another of its name is in namespace "
                f"{there.namespace}; that is {PREFIX}{there.namespace}/{there.name}"
            )

    def fetch_result(self, master: Client | None = None) -> bool:
        """Bring the result here; return whether it is here.

        Where the job is one's own it is not kept in the cluster any more, unless it was to be.

        Args:
          master: is asked for it, and for all else that is new; else it may be kept in the cluster.

        Raises:
          KubeError: the apiserver refuses, or is away.
          RpcError, JobError: the master does not answer, or not as it should.
        """
        if (self._directory / RESULT_FILE).exists():
            self._settle()
            return True
        if master is not None and self._directory.exists():
            taken = self._keep_nothing if self._is_own else None
            StoreCopy(self._directory, self.job_dir).forget()
            if JobCopy(self._directory).bring(master, taken):
                return True
        try:
            kept = self.client.get("ConfigMap", result_name(self.submitted.name))
        except NotFound:
            return False
        result = json.loads(kept["data"][RESULT_FILE])
        if not is_of_job(result, self.submitted.uid):
            return False
        self._write_result(result)
        self._forget(kept)
        return True

    def wait_until_gone(self, most_s: float = GONE_S) -> None:
        """Wait until what is not to be kept is being removed, once its result is here.

        Kubelets may need a minute to say that a pod which has ended is gone.

        Raises:
          KubeError: the apiserver refuses, or is away.
        """
        ends = time.monotonic() + most_s
        result = f"ConfigMap {result_name(self.submitted.name)}"
        while set(lasting(self.client, self.submitted.name)) - {result} and time.monotonic() < ends:
            annotations = (self.job() or {"metadata": {}})["metadata"].get("annotations") or {}
            if STATE_ANNOTATION in annotations and self._is_kept():
                return
            time.sleep(_PAUSE_S)
        with contextlib.suppress(NotFound):  # Its master may have been in a hurry.
            self._forget(self.client.get("ConfigMap", result_name(self.submitted.name)))

    def _update(self) -> None:
        """Bring here what is new: of its master, else of where it keeps its files."""
        is_brought = False
        with contextlib.suppress(KubeError):
            self._describe()
            is_brought = not self.fetch_result() and self._bring()
        if not is_brought and (self._directory / JOB_FILE).exists():
            StoreCopy(self._directory, self.job_dir).bring(self.submitted.uid)

    def _bring(self) -> bool:
        """Bring here what its master has; return whether there is one that answers."""
        master = self.connect()
        if master is None:
            return False
        try:
            self.fetch_result(master)
            return True
        except KubeError:
            raise
        except (RpcError, JobError) as error:
            logger.debug("job '%s': %s", self.known_as, error)
            return False
        finally:
            master.close()

    def _keep_nothing(self) -> None:
        """Say that the result need not be kept, as it is here."""
        annotation = {KEEP_ANNOTATION: "none"}
        with contextlib.suppress(KubeError):  # It is kept then, and removed below.
            self.client.patch("Job", self.submitted.name, {"metadata": {"annotations": annotation}})

    def _is_kept(self) -> bool:
        return JobSpec.load(self._directory).keep_objects in ("pods", "all")

    def _forget(self, kept: Json) -> None:
        """Remove the result where the cluster keeps it for whoever submitted the job."""
        if not self._is_own or JobSpec.load(self._directory).keep_objects != "none":
            return
        metadata = kept["metadata"]
        with contextlib.suppress(KubeError):  # `jobs stop` removes it as well.
            self.client.delete("ConfigMap", metadata["name"], uid=metadata["uid"])

    def _settle(self) -> None:
        """Remove the result from the cluster where it was brought from a store, not from there."""
        copy = StoreCopy(self._directory, self.job_dir)
        if not copy.is_unsettled() or self.job() is not None:
            return
        with contextlib.suppress(NotFound):
            self._forget(self.client.get("ConfigMap", result_name(self.submitted.name)))
        copy.settle()

    def _of_its_name(self) -> Json | None:
        try:
            return self.client.get("Job", self.submitted.name)
        except NotFound:
            return None

    def _is_it(self, job: Json) -> bool:
        return self.submitted.uid in ("", job["metadata"]["uid"])

    def _looked_up(self) -> Json | None:
        if time.monotonic() >= self._looked_at + LOOK_S:
            self._job = self.job()
            self._looked_at = time.monotonic()
        return self._job

    def _has_job(self) -> bool:
        try:
            return self.job() is not None
        except KubeError:
            return True

    def _ask_to_stop(self) -> bool:
        """Ask its master to end it; false where there is none."""
        try:
            master = self.connect()
        except (KubeError, UsageError):
            return False
        if master is None:
            return False
        try:
            request = master_pb2.StopRequest(reason="stopped on request")
            return bool(master.call_until("Stop", request, _CALL_S).accepted)
        except (RpcError, DeadlinePassed):
            return False
        finally:
            master.close()

    def _describe(self) -> None:
        """Read from the job's Secret what describes it, where it was submitted elsewhere."""
        if (self._directory / JOB_FILE).exists():
            return
        try:
            secret = self.client.get("Secret", self.submitted.name).get("data") or {}
        except NotFound:
            return
        items = {**credential_items(CLIENT), JOB_FILE: JOB_FILE}
        if not items.keys() <= secret.keys():
            return  # Of something else that has this name.
        self._directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        written = Path(tempfile.mkdtemp(dir=self._directory.parent))
        try:
            for item, name in items.items():
                (written / name).touch(mode=0o600)
                (written / name).write_bytes(b64decode(secret[item]))
            self.submitted.save(written)
            os.rename(written, self._directory)
        finally:
            shutil.rmtree(written, ignore_errors=True)

    def _write_result(self, result: Json) -> None:
        content = json.dumps(result, indent=2) + "\n"
        write_privately(self._directory / RESULT_FILE, content.encode())


class Clusters:
    """Jobs of pods: those of this person's directories, and others by `k8s:NAMESPACE/NAME`."""

    def find(self, job: str) -> KubernetesJob:
        namespace, name = parse_name(job)
        for own in self.jobs():
            is_named = (own.submitted.namespace, own.submitted.name) == (namespace, name)
            if is_named and not _is_certainly_gone(own):
                return own
        client = KubeClient.of_kubeconfig("", namespace)
        directory = foreign_directory(namespace, name)
        submitted = Submitted(client.context, namespace, name)
        found = KubernetesJob(job, directory, submitted, client, is_own=False)
        live = found.job()
        if live is not None:
            known, job_dir = live["metadata"]["uid"], _job_dir_of(live)
            if is_submitted(directory) and Submitted.load(directory).uid not in ("", known):
                shutil.rmtree(directory)  # Another job had that name.
            found.submitted = Submitted(client.context, namespace, name, known, job_dir)
        elif is_submitted(directory):
            found.submitted = Submitted.load(directory)
        elif not found.objects():
            raise UsageError(f"job '{job}': no such job in namespace {namespace}")
        return found

    def of_directory(self, known_as: str, directory: Path) -> KubernetesJob:
        """The job that was submitted from here, by its directory."""
        return KubernetesJob(known_as, directory, Submitted.load(directory))

    def jobs(self) -> list[KubernetesJob]:
        """Those that were submitted from here, the latest first."""
        found = sorted(jobs_home().glob(f"*/{JOB_FILE}"), key=os.path.getmtime, reverse=True)
        directories = [path.parent for path in found if is_submitted(path.parent)]
        return [self.of_directory(each.name, each) for each in directories]


def _is_certainly_gone(job: KubernetesJob) -> bool:
    """Whether a job is gone, and its name another's."""
    with contextlib.suppress(KubeError):
        return job.is_followed_by_another()
    return False


def _job_dir_of(job: Json) -> str:
    """Where the pods of a Job keep its files; empty where it does not say."""
    for container in job["spec"]["template"]["spec"]["containers"]:
        for argument in container.get("args") or ():
            if argument.startswith("--job_dir="):
                return str(argument.partition("=")[2])
    return ""


class _Forwarded(GrpcTransport):
    """A channel through a port forward, which ends with it."""

    def __init__(self, forward: PortForward, credentials: Credentials) -> None:
        super().__init__(forward.address, credentials)
        self._forward = forward

    def close(self) -> None:
        super().close()
        self._forward.close()
