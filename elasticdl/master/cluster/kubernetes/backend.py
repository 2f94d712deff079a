"""Pods as instances: created, watched, stopped and described through the apiserver."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.backend import (
    LOG_TAIL_BYTES,
    InstanceEnded,
    InstanceStarted,
    InstanceWaits,
)
from elasticdl.master.cluster.kubernetes.agenda import Agenda
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
from elasticdl.master.cluster.kubernetes.job_events import JobEvents
from elasticdl.master.cluster.kubernetes.last_acts import LAUNCHED, clean_up
from elasticdl.master.cluster.kubernetes.names import (
    COMPONENT_LABEL,
    SESSION_ANNOTATION,
    object_name,
    partition_service_name,
    pod_name,
    selecting,
)
from elasticdl.master.cluster.kubernetes.objects import (
    PORT,
    LaunchedBy,
    instance_pod,
    partition_service,
    selector_patch,
)
from elasticdl.master.cluster.kubernetes.pod_events import deletion_events, events_of
from elasticdl.master.cluster.kubernetes.pod_state import end_of, is_event_of
from elasticdl.master.cluster.kubernetes.pod_table import STUCK_S, PodEvent, PodTable
from elasticdl.master.cluster.kubernetes.pod_template import MAIN
from elasticdl.master.cluster.kubernetes.reflector import Reflector
from elasticdl.master.exits import Cause, End
from elasticdl.master.instances import InstanceSpec, Needs, Role

logger = logging.getLogger(__name__)

KEPT_PODS = 20
"""So many that have ended stay until the job is over: for their logs."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
REFUSED_S = 30.0
"""How long to ask again for what is refused: an apiserver that has just started refuses all."""
EVENT_PAUSE_S = 1.0
"""After which the Event is there that says why a pod was deleted."""
_UNEXPLAINED = frozenset({Cause.DELETED, Cause.EVICTED})


@dataclasses.dataclass
class _Launch:
    """An instance whose pod is to be created. refused_at: since when that is refused."""

    spec: InstanceSpec
    needs: Needs
    pause_s: float = 0.0
    refused_at: float | None = None


@dataclasses.dataclass(eq=False)
class _Held:
    """An end that is not told yet, of an instance whose pod somebody deleted.

    due: when it is told, whether it is known who that was or not.
    """

    event: InstanceEnded
    pod: Mapping[str, Any]
    due: float
    is_asked: bool = False


class KubernetesBackend:
    """A cluster's pods, as a backend.

    Nothing is asked while the master is not sure that it is the only one.

    Args:
      spec: the job.
      by: what its pods are told of this master.
      wait_until_sure: of its `Tenure`.
      host: this master's own pod.
    """

    def __init__(
        self,
        spec: JobSpec,
        client: KubeClient,
        by: LaunchedBy,
        wait_until_sure: Callable[[], None],
        host: str = "",
    ) -> None:
        self._spec = spec
        self._client = client
        self._by = by
        self._name = object_name(spec.job_name)
        self._lock = threading.RLock()
        self._table = PodTable(self._events_of)
        self._asked: set[InstanceSpec] = set()
        self._stopped: set[InstanceSpec] = set()
        self._over: set[InstanceSpec] = set()
        self._held: list[_Held] = []
        self._ended_pods: deque[str] = deque()
        # What was to be told before anybody listened.
        self._untold: list[PodEvent] = []
        self._on_event: Callable[[PodEvent], None] = self._untold.append
        self._job_events = JobEvents(client, by.owner, host)
        self._agenda = Agenda(wait_until_sure)
        self._reflector = Reflector(client, selecting(self._name), self._listed, self._changed)

    # ------------------------------------------------------------ what a backend does

    def launch(self, spec: InstanceSpec, needs: Needs) -> None:
        """Have its pod created, however long the apiserver is away."""
        with self._lock:
            if spec in self._asked:
                return
            self._asked.add(spec)
        self._agenda.add(lambda: self._launch(_Launch(spec, needs)))

    def launch_early(self, specs: Sequence[InstanceSpec]) -> None:
        """Have pods created, of which it is told what came of them once that is watched."""
        for spec in specs:
            self.launch(spec, Needs())
        self._agenda.start()

    def adopt(self, specs: Sequence[InstanceSpec]) -> None:
        """Watch what a former master launched; what is not there any more has ended."""
        with self._lock:
            self._asked.update(specs)
            self._table.adopt(specs)

    def tell_of_master(self, incarnation: int, end: End) -> None:
        """Tell how a master before this one ended, once somebody listens; before that."""
        event = InstanceEnded(InstanceSpec(Role.MASTER, 0, incarnation), end)
        self._untold.append(event)
        self._agenda.add(lambda: self._job_events.tell(event))

    def stop(self, spec: InstanceSpec, grace_s: float) -> None:
        """Delete its pod; by force only where it is still there long after its grace."""
        with self._lock:
            self._stopped.add(spec)
        grace = max(1, round(grace_s))
        self._agenda.add(lambda: self._delete(spec, grace))
        self._agenda.add(lambda: self._end_by_force(spec), grace + STUCK_S)

    def watch(self, on_event: Callable[[PodEvent], None]) -> None:
        """Begin to launch, to stop and to tell."""
        self._on_event = on_event
        # So far its own thread alone has told anything.
        self._agenda.add(lambda: self._tell_late(on_event))
        self._reflector.start()
        self._agenda.start()

    def log_tail(self, spec: InstanceSpec, most_bytes: int = LOG_TAIL_BYTES) -> str:
        """The end of what it printed; empty where that cannot be read."""
        try:
            return self._client.log_tail(pod_name(self._name, spec), MAIN, most_bytes)
        except KubeError as error:
            logger.info("no log of %s: %s", spec, error)
            return ""

    def clean_up(self) -> None:
        """Delete the pods and services of the job's instances, as `--keep_objects` says."""
        clean_up(self._spec, self._client, self._spec.keep_objects)

    def close(self) -> None:
        """Ask and tell no more."""
        self._reflector.close()
        self._agenda.close()

    # ------------------------------------------------------------ launching

    def _launch(self, launch: _Launch) -> None:
        spec = launch.spec
        with self._lock:
            if spec in self._stopped:
                self._tell([InstanceEnded(spec, End(Cause.DELETED, message="not created"))])
                return
            self._table.launching(spec)
        try:
            address = self._serve(spec) if spec.role is Role.PS else ""
        except KubeError as error:
            self._refused(launch, error)
            return
        doubt = ""
        try:
            self._client.create(instance_pod(self._spec, spec, launch.needs, self._by, address))
        except Conflict:
            if not self._is_there(spec):
                self._again(launch)
                return
        except Unanswered as error:  # Asked for twice, it might be made twice: a list decides.
            doubt = str(error)
            logger.warning("whether %s was launched, a list will say: %s", spec, error)
        except KubeError as error:
            self._refused(launch, error)
            return
        with self._lock:
            self._table.expect(spec, time.monotonic(), doubt)

    def _refused(self, launch: _Launch, error: KubeError) -> None:
        """Ask again, or say that it will never be."""
        if isinstance(error, NotAsked | Unanswered | Conflict):
            launch.refused_at = None
            logger.warning("%s is not launched yet: %s", launch.spec, error)
            self._again(launch)
            return
        if isinstance(error, Forbidden) and error.is_quota:
            self._tell([InstanceWaits(launch.spec, str(error), False, for_room=True)])
            self._again(launch)
            return
        now = time.monotonic()
        launch.refused_at = now if launch.refused_at is None else launch.refused_at
        if now - launch.refused_at < REFUSED_S:
            logger.warning("%s is not launched: %s", launch.spec, error)
            self._again(launch)
            return
        self._tell([InstanceEnded(launch.spec, End(Cause.NOT_STARTED, message=str(error)))])

    def _again(self, launch: _Launch) -> None:
        launch.pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * launch.pause_s))
        self._agenda.add(lambda: self._launch(launch), launch.pause_s)

    def _is_there(self, spec: InstanceSpec) -> bool:
        """Is the pod of this name one that a master of this session has created?

        One of a session before is deleted, and its name free again some time later.
        """
        try:
            pod = self._client.get("Pod", pod_name(self._name, spec))
        except KubeError:
            return False
        if self._is_of_session(pod):
            return True
        self._remove("Pod", pod)
        return False

    def _is_of_session(self, pod: Json) -> bool:
        annotations = pod["metadata"].get("annotations") or {}
        return annotations.get(SESSION_ANNOTATION) == self._by.session

    def _serve(self, spec: InstanceSpec) -> str:
        """Have the service of its index lead to this incarnation; return where that is.

        The resource version says that it is replaced which was read: what a former master asks for
        late must not hide a partition.
        """
        name = partition_service_name(self._name, spec.index)
        made = partition_service(self._spec, spec, self._by.owner)
        try:
            service = self._client.get("Service", name)
        except NotFound:
            service = self._client.create(made)
        owners = service["metadata"].get("ownerReferences") or [{}]
        if owners[0].get("uid") != self._by.owner.uid:  # Of a Job before this one.
            self._remove("Service", service)
            raise NotAsked(f"service '{name}' of a former job is being deleted")
        changes = selector_patch(self._spec, spec)
        if service["spec"].get("selector") != changes["spec"]["selector"]:
            version = service["metadata"]["resourceVersion"]
            changes["metadata"] = {"resourceVersion": version}
            service = self._client.patch("Service", name, changes)
        return f"{service['spec']['clusterIP']}:{PORT}"

    # ------------------------------------------------------------ stopping

    def _delete(self, spec: InstanceSpec, grace_s: int) -> None:
        try:
            self._client.delete("Pod", pod_name(self._name, spec), grace_s)
        except NotFound:
            self._reflector.list_now()
        except KubeError as error:
            logger.warning("%s is not stopped yet: %s", spec, error)
            self._agenda.add(lambda: self._delete(spec, grace_s), FIRST_PAUSE_S)

    def _end_by_force(self, spec: InstanceSpec) -> None:
        with self._lock:
            if spec in self._over:
                return
        self._delete_by_force(spec)

    def _delete_by_force(self, spec: InstanceSpec) -> None:
        """Have a pod forgotten that nobody ends: its node is lost."""
        try:
            self._client.delete("Pod", pod_name(self._name, spec), 0)
        except NotFound:
            self._reflector.list_now()
        except KubeError as error:
            logger.warning("the pod of %s stays: %s", spec, error)
            self._agenda.add(lambda: self._delete_by_force(spec), LONGEST_PAUSE_S)

    def _remove(self, kind: str, found: Json, grace_s: int | None = None) -> None:
        """Delete an object that was read, if it is still that one."""
        metadata = found["metadata"]
        try:
            self._client.delete(kind, metadata["name"], grace_s, uid=metadata["uid"])
        except (NotFound, Conflict):
            pass
        except KubeError as error:
            logger.warning("%s '%s' stays: %s", kind, metadata["name"], error)

    # ------------------------------------------------------------ what the cluster tells

    def _listed(self, pods: list[Json], asked_at: float) -> None:
        own = [pod for pod in pods if self._is_of_session(pod)]
        with self._lock:
            events = self._table.listed(own, asked_at)
            strays = set(self._table.strays())
        for pod in pods:
            metadata = pod["metadata"]
            is_launched = metadata["labels"].get(COMPONENT_LABEL) in LAUNCHED
            is_former = is_launched and not self._is_of_session(pod)
            is_nobodys = is_former or metadata["name"] in strays
            if is_nobodys and not metadata.get("deletionTimestamp"):
                logger.info("pod '%s' is nobody's and is deleted", metadata["name"])
                self._agenda.add(functools.partial(self._remove, "Pod", pod, 1))
        self._tell(events)

    def _changed(self, change: Json) -> None:
        if change["type"] not in ("ADDED", "MODIFIED", "DELETED"):
            return
        if not self._is_of_session(change["object"]):
            return
        with self._lock:
            events = self._table.changed(change)
        self._tell(events)

    def _tell_late(self, on_event: Callable[[PodEvent], None]) -> None:
        for event in self._untold:
            on_event(event)

    def _tell(self, events: Sequence[PodEvent]) -> None:
        for event in events:
            if not self._is_held(event):
                self._tell_now(event)

    def _tell_now(self, event: PodEvent) -> None:
        if isinstance(event, InstanceEnded):
            event = self._ended(event)
        self._on_event(event)
        if not isinstance(event, InstanceStarted):
            self._agenda.add(functools.partial(self._job_events.tell, event))

    def _ended(self, event: InstanceEnded) -> InstanceEnded:
        """Read the log of what has ended, and let go of its pod if need be."""
        spec, end = event.spec, event.end
        with self._lock:
            self._over.add(spec)
        if end.cause in (Cause.EXITED, Cause.KILLED, Cause.OUT_OF_MEMORY):
            self._ended_pods.append(pod_name(self._name, spec))
            if len(self._ended_pods) > KEPT_PODS:
                oldest = self._ended_pods.popleft()
                self._agenda.add(lambda: self._forget(oldest))
            log_tail = "" if end.exit_code == 0 else self.log_tail(spec)
            return InstanceEnded(spec, dataclasses.replace(end, log_tail=log_tail))
        if end.cause is Cause.NODE_LOST:
            self._agenda.add(lambda: self._delete_by_force(spec))
        return event

    def _forget(self, name: str) -> None:
        try:
            self._client.delete("Pod", name)
        except KubeError as error:
            logger.info("pod '%s' stays: %s", name, error)

    def _events_of(self, pod: Mapping[str, Any]) -> Sequence[Json]:
        """The Events of a pod; those of one that was deleted are asked for by `_explain`."""
        return [] if _is_deleted(pod) else events_of(self._client, pod)

    def _is_held(self, event: PodEvent) -> bool:
        """Whether an end is told later, as Events say who deleted the pod."""
        if not isinstance(event, InstanceEnded) or event.end.cause not in _UNEXPLAINED:
            return False
        with self._lock:
            pod = self._table.pod_of(event.spec)
            if pod is None or not _is_deleted(pod):
                return False
            self._held.append(_Held(event, pod, time.monotonic() + EVENT_PAUSE_S))
        self._agenda.add(self._explain)
        self._agenda.add(self._explain, EVENT_PAUSE_S)
        return True

    def _explain(self) -> None:
        """Tell of the ends that are held, of all together, where it is known who deleted the pods.

        Of others once more after a moment.
        """
        now = time.monotonic()
        with self._lock:
            asked = [one for one in self._held if not one.is_asked or one.due <= now]
        if not asked:
            return
        events = deletion_events(self._client)
        told = []
        for one in asked:
            one.is_asked = True
            own = [event for event in events if is_event_of(event, one.pod)]
            spec = one.event.spec
            if own or one.due <= now or spec in self._stopped:
                told.append(InstanceEnded(spec, end_of(one.pod, own)))
        with self._lock:
            specs = {event.spec for event in told}
            self._held = [one for one in self._held if one.event.spec not in specs]
        for event in told:
            self._tell_now(event)


def _is_deleted(pod: Mapping[str, Any]) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))
