"""Instances as pods of a real apiserver. The tests say what kubelets and schedulers would."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.backend import (
    BackendEvent,
    InstanceEnded,
    InstanceStarted,
    InstanceWaits,
)
from elasticdl.master.cluster.kubernetes import backend as backend_module
from elasticdl.master.cluster.kubernetes.backend import KubernetesBackend
from elasticdl.master.cluster.kubernetes.client import NotFound
from elasticdl.master.cluster.kubernetes.names import pod_name
from elasticdl.master.cluster.kubernetes.objects import (
    Owner,
    instance_pod,
    partition_service,
)
from elasticdl.master.exits import Cause, End
from elasticdl.master.instances import InstanceSpec, Needs, Role
from tests.cluster.api import Api, Namespace
from tests.cluster.api_only import ApiOnly
from tests.kubernetes.bare_jobs import NAME, BareJob
from tests.kubernetes.objects import WAIT_S, set_container, set_status, wait_for
from tests.master.kubernetes.jobs import job, server, worker

pytestmark = pytest.mark.apiserver

NONE = Needs()


class Cluster(BareJob):
    """A job's backend, what it told, and what its pods are said to do."""

    def __init__(self, api: Api, namespace: Namespace) -> None:
        super().__init__(api, namespace)
        self.events: list[BackendEvent] = []
        self.sure = threading.Event()
        self.sure.set()
        self.backends: list[KubernetesBackend] = []

    def backend(self, spec: JobSpec | None = None, session: str = "s1") -> KubernetesBackend:
        made = KubernetesBackend(
            spec or job(), self.master, self.by(session), lambda: self.sure.wait() and None
        )
        self.backends.append(made)
        return made

    def watched(self, *adopted: InstanceSpec, **how: Any) -> KubernetesBackend:
        made = self.backend(**how)
        made.adopt(adopted)
        made.watch(self.events.append)
        return made

    def pod(self, who: InstanceSpec) -> dict[str, Any]:
        return self.admin.get("Pod", pod_name(NAME, who))

    def wait_for_pod(self, who: InstanceSpec) -> dict[str, Any]:
        return self.wait_for_name(pod_name(NAME, who))

    def bind(self, who: InstanceSpec) -> None:
        """Place a pod on a node, whose kubelet has to end it from now on."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod_name(NAME, who)}/binding"
        target = {"apiVersion": "v1", "kind": "Node", "name": "nowhere"}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod_name(NAME, who)}}
        self.api.call("POST", path, {**body, "target": target})

    def run(self, who: InstanceSpec) -> None:
        self.wait_for_pod(who)
        self.bind(who)
        running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        set_status(self.api, self.namespace, pod_name(NAME, who), phase="Running")
        set_container(self.api, self.namespace, pod_name(NAME, who), state=running)

    def end(self, who: InstanceSpec, code: int, reason: str = "Error") -> None:
        self.end_container(pod_name(NAME, who), code, reason)

    def event(self, who: InstanceSpec, reason: str, message: str = "") -> None:
        pod = self.pod(who)["metadata"]
        self.api.create(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {
                    "name": f"{pod['name']}.{reason.lower()}",
                    "namespace": self.namespace,
                },
                "involvedObject": {
                    "kind": "Pod",
                    "name": pod["name"],
                    "namespace": self.namespace,
                    "uid": pod["uid"],
                },
                "reason": reason,
                "message": message,
                "type": "Normal",
            }
        )

    def told(self, who: InstanceSpec, kind: type) -> list[Any]:
        return [one for one in self.events if isinstance(one, kind) and one.spec == who]

    def wait_until_told(self, who: InstanceSpec, kind: type) -> Any:
        wait_for(lambda: self.told(who, kind), f"{kind.__name__} of {who}")
        return self.told(who, kind)[-1]

    def close(self) -> None:
        self.sure.set()
        for one in self.backends:
            one.close()
        super().close()


@pytest.fixture
def cluster(apiserver: ApiOnly, api_namespace: Namespace) -> Iterator[Cluster]:
    made = Cluster(apiserver.api, api_namespace)
    yield made
    made.close()


def ended(cluster: Cluster) -> list[InstanceSpec]:
    return [one.spec for one in cluster.events if isinstance(one, InstanceEnded)]


def test_an_instance_is_launched_once_runs_and_ends(cluster: Cluster) -> None:
    backend = cluster.watched()
    backend.launch(worker(), NONE)
    backend.launch(worker(), NONE)
    cluster.run(worker())
    assert cluster.wait_until_told(worker(), InstanceStarted).where == "nowhere"
    cluster.end(worker(), 3)
    end = cluster.wait_until_told(worker(), InstanceEnded).end
    assert (end.cause, end.exit_code) == (Cause.EXITED, 3)
    assert len(cluster.told(worker(), InstanceStarted)) == 1
    assert cluster.pods() == [pod_name(NAME, worker())]  # It stays, for its log.


def test_what_comes_of_early_launches_is_told_once_somebody_listens(cluster: Cluster) -> None:
    backend = cluster.backend()
    backend.launch_early([server(0), server(1)])
    cluster.run(server(0))
    cluster.run(server(1))
    cluster.end(server(1), 3)
    backend.adopt(())
    backend.watch(cluster.events.append)
    for who in (server(0), server(1)):
        backend.launch(who, NONE)
    cluster.wait_until_told(server(0), InstanceStarted)
    assert cluster.wait_until_told(server(1), InstanceEnded).end.exit_code == 3
    assert len(cluster.pods()) == 2


def test_an_early_launch_that_is_refused_is_told(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "REFUSED_S", 0.5)
    backend = cluster.backend(job(ps_pod_priority="no-such-class"))
    backend.launch_early([server(0)])
    wait_for(lambda: backend._untold, "it is refused")
    backend.watch(cluster.events.append)
    end = cluster.wait_until_told(server(0), InstanceEnded).end
    assert end.cause is Cause.NOT_STARTED
    assert "no-such-class" in end.message


def test_more_memory_is_asked_for_where_it_is_needed(cluster: Cluster) -> None:
    backend = cluster.watched()
    backend.launch(worker(), Needs(memory_factor=1.5))
    main = cluster.wait_for_pod(worker())["spec"]["containers"][0]
    assert main["resources"]["limits"]["memory"] == "6Gi"


def test_a_partition_is_where_its_service_leads_before_its_pod_is_there(cluster: Cluster) -> None:
    backend = cluster.watched()
    backend.launch(server(), NONE)
    first = cluster.wait_for_pod(server())
    service = cluster.admin.get("Service", f"{NAME}-ps-0")
    advertised = f"--advertise={service['spec']['clusterIP']}:2222"
    assert advertised in first["spec"]["containers"][0]["args"]
    assert service["spec"]["selector"]["elasticdl.org/incarnation"] == "1"

    backend.launch(server(incarnation=2), NONE)
    second = cluster.wait_for_pod(server(incarnation=2))
    again = cluster.admin.get("Service", f"{NAME}-ps-0")
    assert again["spec"]["selector"]["elasticdl.org/incarnation"] == "2"
    assert again["spec"]["clusterIP"] == service["spec"]["clusterIP"]
    assert advertised in second["spec"]["containers"][0]["args"]


def test_who_was_deleted_by_somebody_has_ended_and_who_was_preempted_is_known(
    cluster: Cluster,
) -> None:
    backend = cluster.watched()
    for index in range(2):
        backend.launch(worker(index), NONE)
        cluster.run(worker(index))
        cluster.wait_until_told(worker(index), InstanceStarted)
    cluster.admin.delete("Pod", pod_name(NAME, worker(0)), grace_s=0)
    assert cluster.wait_until_told(worker(0), InstanceEnded).end.cause is Cause.DELETED
    cluster.event(worker(1), "Preempted", "by default/high on node nowhere")
    cluster.admin.delete("Pod", pod_name(NAME, worker(1)), grace_s=0)
    end = cluster.wait_until_told(worker(1), InstanceEnded).end
    assert end.cause is Cause.PREEMPTED
    assert "by default/high" in end.describe()


def test_the_event_that_says_why_may_come_a_moment_after_the_deletion(cluster: Cluster) -> None:
    backend = cluster.watched()
    backend.launch(worker(), NONE)
    cluster.run(worker())
    cluster.wait_until_told(worker(), InstanceStarted)
    cluster.admin.delete("Pod", pod_name(NAME, worker()), grace_s=30)
    cluster.end(worker(), 143)
    cluster.event(worker(), "Preempted")
    assert cluster.wait_until_told(worker(), InstanceEnded).end.cause is Cause.PREEMPTED


def deleted_by_somebody(cluster: Cluster, who: InstanceSpec) -> None:
    cluster.admin.delete("Pod", pod_name(NAME, who), grace_s=30)
    cluster.end(who, 143)


def test_nobody_waits_for_the_event_that_says_who_deleted_another(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "EVENT_PAUSE_S", 2 * WAIT_S)
    backend = cluster.watched()
    for index in range(4):
        backend.launch(worker(index), NONE)
        cluster.run(worker(index))
    deleted_by_somebody(cluster, worker(0))
    deleted_by_somebody(cluster, worker(1))
    cluster.event(worker(2), "Preempted")
    deleted_by_somebody(cluster, worker(2))
    cluster.end(worker(3), 3)
    backend.launch(worker(4), NONE)
    assert cluster.wait_until_told(worker(2), InstanceEnded).end.cause is Cause.PREEMPTED
    assert cluster.wait_until_told(worker(3), InstanceEnded).end.exit_code == 3
    cluster.wait_for_pod(worker(4))
    # The one that this master has deleted is not asked about again.
    backend.stop(worker(4), 1)
    cluster.wait_until_told(worker(4), InstanceEnded)
    assert set(ended(cluster)) == {worker(2), worker(3), worker(4)}


def test_who_deleted_many_is_asked_for_all_together(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "EVENT_PAUSE_S", 0.0)
    asked: list[Any] = []
    listed = cluster.master.list

    def listing(kind: str, *arguments: Any, **how: Any) -> Any:
        if kind == "Event":
            asked.append(how)
        return listed(kind, *arguments, **how)

    backend = cluster.watched()
    everybody = [worker(index) for index in range(8)]
    for who in everybody:
        backend.launch(who, NONE)
        cluster.run(who)
    for who in everybody:
        cluster.wait_until_told(who, InstanceStarted)
    cluster.sure.clear()  # What the master asks for waits.
    monkeypatch.setattr(cluster.master, "list", listing)
    for who in everybody:
        deleted_by_somebody(cluster, who)
    wait_for(lambda: len(backend._held) == len(everybody), "all are seen to be deleted")
    assert asked == []
    cluster.sure.set()
    for who in everybody:
        assert cluster.wait_until_told(who, InstanceEnded).end.cause is Cause.DELETED
    assert len(ended(cluster)) == len(everybody)
    assert [one["fields"] for one in asked] == [
        {"reason": one} for one in ("Preempted", "Preempting", "TaintManagerEviction")
    ]


def test_what_a_former_master_launched_is_watched_and_never_made_again(cluster: Cluster) -> None:
    former = cluster.watched()
    for who in (worker(0), worker(1)):
        former.launch(who, NONE)
        cluster.run(who)
    former.close()
    cluster.admin.delete("Pod", pod_name(NAME, worker(1)), grace_s=0)
    cluster.events.clear()

    backend = cluster.watched(worker(0), worker(1), server(0))
    backend.launch(worker(0), NONE)  # It is there: nothing is asked for.
    cluster.wait_until_told(worker(0), InstanceStarted)
    for gone in (worker(1), server(0)):
        assert cluster.wait_until_told(gone, InstanceEnded).end.cause is Cause.DELETED
    assert cluster.pods() == [pod_name(NAME, worker(0))]


def test_a_launch_waits_for_an_apiserver_that_is_away(
    apiserver: ApiOnly, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    backend = cluster.watched()
    apiserver.plane.apiserver.kill()
    for index in range(3):
        backend.launch(worker(index), NONE)
    backend.launch(server(), NONE)
    time.sleep(5)
    apiserver.restart()
    everybody = (worker(0), worker(1), worker(2), server())
    # Of one that was asked for over a connection that was just lost, or of an apiserver that has
    # just started, it was not known whether it would be there: a list has shown that it is not.
    wait_for(lambda: len(cluster.pods()) + len(ended(cluster)) == len(everybody), "all is decided")
    for who in set(everybody) - set(ended(cluster)):
        cluster.run(who)
        cluster.wait_until_told(who, InstanceStarted)
    not_known = {one.args[0] for one in caplog.records if one.args and "a list will" in one.msg}
    assert set(ended(cluster)) <= not_known


def test_a_pod_that_was_created_late_for_a_former_master_is_deleted(cluster: Cluster) -> None:
    late = instance_pod(job(), worker(3, 1), NONE, cluster.by())
    cluster.admin.create(cluster.placed(late))
    backend = cluster.watched()
    backend.launch(worker(), NONE)
    wait_for(lambda: cluster.pods() == [pod_name(NAME, worker())], "only its own is there")
    assert not cluster.told(worker(3, 1), InstanceEnded)


def test_a_pod_that_comes_after_it_was_told_that_it_never_was_is_deleted(
    cluster: Cluster,
) -> None:
    """Its creation was not answered, and happened after a list that decided."""
    backend = cluster.watched(worker())
    assert cluster.wait_until_told(worker(), InstanceEnded).end.cause is Cause.DELETED
    cluster.admin.create(cluster.placed(instance_pod(job(), worker(), NONE, cluster.by())))
    backend.stop(worker(9), 1)  # There is none: the pods are listed anew.
    wait_for(lambda: cluster.pods() == [], "it is deleted")
    assert cluster.told(worker(), InstanceStarted) == []
    assert len(cluster.told(worker(), InstanceEnded)) == 1


def test_a_pod_of_the_session_before_makes_room_for_one_of_its_name(cluster: Cluster) -> None:
    before = instance_pod(job(), worker(), NONE, cluster.by(session="s0"))
    old = cluster.admin.create(cluster.placed(before))["metadata"]["uid"]
    cluster.bind(worker())
    cluster.end(worker(), 1)
    backend = cluster.watched()
    backend.launch(worker(), NONE)
    wait_for(lambda: cluster.pod(worker())["metadata"].get("deletionTimestamp"), "its deletion")
    cluster.admin.delete("Pod", pod_name(NAME, worker()), grace_s=0)  # As its kubelet would.

    def is_new() -> bool:
        return pod_name(NAME, worker()) in cluster.pods() and (
            cluster.pod(worker())["metadata"]["uid"] != old
        )

    wait_for(is_new, "its own pod")
    cluster.run(worker())
    cluster.wait_until_told(worker(), InstanceStarted)
    assert not cluster.told(worker(), InstanceEnded)


def test_a_service_of_a_former_job_is_not_used(cluster: Cluster) -> None:
    former = partition_service(job(), server(incarnation=9), Owner(NAME, "another-uid"))
    cluster.admin.create(cluster.placed(former))
    backend = cluster.watched()
    backend.launch(server(), NONE)
    cluster.wait_for_pod(server())
    service = cluster.admin.get("Service", f"{NAME}-ps-0")
    assert service["metadata"]["ownerReferences"][0]["uid"] == cluster.owner.uid


def test_a_quota_that_is_used_up_is_waited_for(cluster: Cluster) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
    cluster.api.create(cluster.placed({**quota, "spec": {"hard": {"pods": "0"}}}))
    path = f"/api/v1/namespaces/{cluster.namespace}/resourcequotas/none"
    status = {"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}}
    cluster.api.call("PATCH", f"{path}/status", status, "merge-patch+json")
    backend = cluster.watched()
    backend.launch(worker(), NONE)
    told = cluster.wait_until_told(worker(), InstanceWaits)
    assert "exceeded quota" in told.why
    assert not told.is_error
    cluster.api.delete(path)
    cluster.wait_for_pod(worker())


def test_what_is_refused_for_good_has_not_started(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "REFUSED_S", 1.0)
    backend = cluster.watched(spec=job(worker_pod_priority="no-such-class"))
    backend.launch(worker(), NONE)
    end = cluster.wait_until_told(worker(), InstanceEnded).end
    assert end.cause is Cause.NOT_STARTED
    assert "no-such-class" in end.message


def test_who_is_stopped_has_its_grace_and_is_deleted_by_force_only_later(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "STUCK_S", 2.0)
    backend = cluster.watched()
    backend.launch(worker(), NONE)
    cluster.run(worker())
    cluster.wait_until_told(worker(), InstanceStarted)
    backend.stop(worker(), 3)
    wait_for(lambda: cluster.pod(worker())["metadata"].get("deletionTimestamp"), "its deletion")
    assert cluster.pod(worker())["metadata"]["deletionGracePeriodSeconds"] == 3
    began = time.monotonic()
    cluster.wait_until_told(worker(), InstanceEnded)
    assert time.monotonic() - began > 2.0


def test_who_is_stopped_before_it_was_created_never_is(cluster: Cluster) -> None:
    cluster.sure.clear()
    backend = cluster.watched()
    backend.launch(worker(), NONE)
    backend.stop(worker(), 1)
    cluster.sure.set()
    assert cluster.wait_until_told(worker(), InstanceEnded).end.cause is Cause.DELETED
    assert cluster.pods() == []


def test_nothing_is_asked_for_by_a_master_that_is_not_sure(cluster: Cluster) -> None:
    cluster.sure.clear()
    backend = cluster.watched()
    backend.launch(worker(), NONE)
    time.sleep(2)
    assert cluster.pods() == []
    cluster.sure.set()
    cluster.wait_for_pod(worker())


def test_what_happens_is_told_of_the_job(cluster: Cluster) -> None:
    backend = cluster.watched()
    backend.launch(worker(), NONE)
    cluster.run(worker())
    cluster.end(worker(), 9, "Error")

    def events() -> list[str]:
        of_job = cluster.admin.list("Event", fields={"involvedObject.uid": cluster.owner.uid})
        return [f"{one['type']} {one['reason']}: {one['message']}" for one in of_job.items]

    wait_for(events, "an Event of the Job")
    assert events() == ["Warning WorkerExited: worker 0, incarnation 1: exit code 9"]


def test_the_end_of_the_master_before_is_told_once_somebody_listens(cluster: Cluster) -> None:
    backend = cluster.backend()
    end = End(Cause.DELETED, message="its pod was deleted")
    backend.tell_of_master(1, end)
    backend.adopt(())
    backend.watch(cluster.events.append)
    master = InstanceSpec(Role.MASTER, 0, 1)
    assert cluster.wait_until_told(master, InstanceEnded).end == end
    wait_for(lambda: "MasterDeleted" in reasons(cluster), "an Event of the Job")


def reasons(cluster: Cluster) -> list[str]:
    """Of the Events of the Job."""
    of_job = cluster.admin.list("Event", fields={"involvedObject.uid": cluster.owner.uid})
    return [one["reason"] for one in of_job.items]


def test_an_ended_job_leaves_no_pod_and_no_service_of_its_instances(cluster: Cluster) -> None:
    backend = cluster.watched()
    for who in (server(), worker()):
        backend.launch(who, NONE)
        cluster.wait_for_pod(who)
    backend.clean_up()
    wait_for(lambda: cluster.pods() == [], "no pod")
    with pytest.raises(NotFound):
        cluster.admin.get("Service", f"{NAME}-ps-0")


def test_many_instances_are_each_told_of_once(cluster: Cluster) -> None:
    backend = cluster.watched()
    everybody = [worker(index) for index in range(50)]
    for who in everybody:
        backend.launch(who, NONE)
    for who in everybody:
        cluster.run(who)
    for who in everybody:
        cluster.wait_until_told(who, InstanceStarted)
    for who in everybody:
        cluster.admin.delete("Pod", pod_name(NAME, who), grace_s=0)
    for who in everybody:
        cluster.wait_until_told(who, InstanceEnded)
    told = [one for one in cluster.events if not isinstance(one, InstanceWaits)]
    assert len(told) == 2 * len(everybody)
