"""Answers the Master service: translates messages to the coordinator's words and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from google.protobuf.message import Message

from elasticdl.errors import JobError
from elasticdl.master import ledger_events, membership_events
from elasticdl.master.cluster.local import from_message, to_message
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.instances import Instance, Role
from elasticdl.master.job_figures import JobFigures
from elasticdl.master.job_files import JobFiles
from elasticdl.master.story import Outcome
from elasticdl.master.tasks import Task
from elasticdl.master.vitals import JobVitals
from elasticdl.phases import PHASES, Figures, Phase
from elasticdl.proto import figures_pb2, master_pb2, ps_pb2
from elasticdl.ps.routing_table import RoutingTable
from elasticdl.refusals import REFUSALS, Reason
from elasticdl.rpc.service import prompt

_Reply = TypeVar("_Reply", bound=Message)

STALE = "not a current incarnation; leave"


class MasterServicer:
    """The Master service of one job; every method may be called twice.

    Args:
      coordinator: who decides.
      audit: makes the job's audit as it stands.
      figures: what the instances say that they spend their time on; None where nobody asks.
      vitals: what they say of themselves; likewise.
      files: the job's, for whoever keeps a copy elsewhere; likewise.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        audit: Callable[[], dict[str, Any]],
        figures: JobFigures | None = None,
        vitals: JobVitals | None = None,
        files: JobFiles | None = None,
    ) -> None:
        self._files = files
        self._vitals = vitals
        self._figures = figures
        self._coordinator = coordinator
        self._audit = audit

    def register(self, request: master_pb2.RegisterRequest) -> master_pb2.RegisterReply:
        """An instance is there; answered with the cluster once all partitions are up.

        A parameter server that is not ready is told what to begin with.
        """
        spec = from_message(request.instance)
        is_ps = spec.role is Role.PS
        event = membership_events.Registered(
            spec,
            request.address,
            request.pid,
            ready=request.ready or not is_ps,
            closed=_intervals(request.closed) if request.restored else None,
            restored_from=request.restored_from,
        )
        if not self._coordinator.register(event):
            REFUSALS.note(Reason.STALE_INCARNATION)
            return master_pb2.RegisterReply(accepted=False)
        if not event.ready:
            if request.unusable:
                self._coordinator.doubt_checkpoint(request.unusable, request.why)
            restore = self._coordinator.restore(spec)
            if restore is None:
                return master_pb2.RegisterReply(accepted=True)
            keeper = restore.keeper
            return master_pb2.RegisterReply(
                accepted=True,
                restore=master_pb2.Restore(
                    checkpoint=restore.checkpoint,
                    routing=_routing_message(restore.routing),
                    number=restore.number,
                    keeper=None if keeper is None else _partition_message(keeper),
                ),
            )
        return master_pb2.RegisterReply(
            accepted=True,
            cluster=self._cluster(),
            retry_after_s=self._coordinator.retry_after_s,
        )

    def _cluster(self) -> master_pb2.Cluster | None:
        cluster = self._coordinator.cluster()
        if cluster is None:
            return None
        return master_pb2.Cluster(
            routing=_routing_message(cluster.routing),
            partitions=[_partition_message(one) for one in cluster.partitions],
            version=cluster.version,
        )

    def _once_on_disk(self, reply: _Reply) -> Future[_Reply]:
        """Return a reply that leaves when all that it may tell of is in the journal (R5)."""
        outcome: Future[_Reply] = Future()

        def told(failure: JobError | None) -> None:
            if failure is None:
                outcome.set_result(reply)
            else:
                outcome.set_exception(failure)

        self._coordinator.when_on_disk(told)
        return outcome

    @prompt
    def heartbeat(self, request: master_pb2.HeartbeatRequest) -> Future[master_pb2.HeartbeatReply]:
        """Extend the leases the worker still works on."""
        accepted = self._coordinator.heartbeat(
            from_message(request.instance),
            request.grants,
            request.loss if request.has_loss else None,
            waits=False,
        )
        if not accepted:
            REFUSALS.note(Reason.STALE_INCARNATION)
        if accepted and request.HasField("figures"):
            self._note_figures(request.instance, request.figures)
        if accepted and self._vitals is not None:
            spec = from_message(request.instance)
            self._vitals.note(spec, request.figures.cpu_s, request.vitals)
        return self._once_on_disk(
            master_pb2.HeartbeatReply(
                accepted=accepted,
                job_finished=self._coordinator.ended.is_set(),
                cluster_version=self._coordinator.cluster_version,
            )
        )

    @prompt
    def lease(self, request: master_pb2.LeaseRequest) -> Future[master_pb2.LeaseReply]:
        """Grant a task, or say why not."""
        with PHASES.measure(Phase.GRANT):  # Until it is on disk, no thread is at it.
            reply = self._lease(request)
        return self._once_on_disk(reply)

    def _lease(self, request: master_pb2.LeaseRequest) -> master_pb2.LeaseReply:
        version = self._coordinator.cluster_version
        spec = from_message(request.instance)
        answer = self._coordinator.lease(spec, request.request, waits=False)
        if isinstance(answer, ledger_events.Grant | ledger_events.Wait) and answer.repeated:
            REFUSALS.note(Reason.REPLAYED)
        if isinstance(answer, ledger_events.Grant):
            return master_pb2.LeaseReply(
                outcome=master_pb2.LeaseReply.GRANTED,
                task=_task_message(answer.task),
                grant=answer.grant,
                pin_over=self._coordinator.pin_over,
                cluster_version=version,
            )
        if isinstance(answer, ledger_events.Wait):
            return master_pb2.LeaseReply(
                outcome=master_pb2.LeaseReply.WAIT,
                retry_after_s=answer.retry_after_s,
                pin_over=self._coordinator.pin_over,
            )
        finished = isinstance(answer, ledger_events.NoMoreTasks)
        if not finished:
            REFUSALS.note(Reason.STALE_INCARNATION)
        outcome = master_pb2.LeaseReply.FINISHED if finished else master_pb2.LeaseReply.NOT_A_MEMBER
        return master_pb2.LeaseReply(outcome=outcome)

    @prompt
    def complete_task(self, request: master_pb2.CompleteTaskRequest) -> Future[master_pb2.Ack]:
        """A task is closed everywhere; true also when it was known already."""
        if request.HasField("figures"):
            self._note_figures(request.instance, request.figures)
        self._coordinator.report(
            ledger_events.TaskCompleted(
                task=request.task,
                partition_incarnations=tuple(request.partition_incarnations),
                num_minibatches=request.num_minibatches,
                result=request.result,
                limited=request.limited,
            ),
            waits=False,
        )
        return self._once_on_disk(master_pb2.Ack(accepted=True))

    def _note_figures(self, instance: master_pb2.InstanceId, figures: figures_pb2.Figures) -> None:
        if self._figures is not None:
            self._figures.note(from_message(instance), Figures.of_message(figures))

    def fail_task(self, request: master_pb2.FailTaskRequest) -> master_pb2.Ack:
        """The user's code raised; counted once per grant."""
        self._coordinator.report(
            ledger_events.TaskFailed(
                request.grant, request.message, request.traceback, request.fatal
            )
        )
        return master_pb2.Ack(accepted=True)

    def return_tasks(self, request: master_pb2.ReturnTasksRequest) -> master_pb2.Ack:
        """Leases come back unharmed."""
        spec = from_message(request.instance)
        self._coordinator.give_back(spec, request.grants, request.goodbye)
        return master_pb2.Ack(accepted=True)

    def restart_task(self, request: master_pb2.RestartTaskRequest) -> master_pb2.Ack:
        """A task cannot be gone on with; true also when that was known already."""
        self._coordinator.report(ledger_events.TaskDiffers(request.task, request.attempt))
        return master_pb2.Ack(accepted=True)

    def scale(self, request: master_pb2.ScaleRequest) -> master_pb2.Ack:
        """Change the number of workers, or of parameter servers; 0 leaves it as it is."""
        if request.num_workers < 0:
            return master_pb2.Ack(accepted=False, message="at least 1 worker is needed")
        if request.num_ps:
            refused = self._coordinator.rescale(request.num_ps)
            if refused:
                return master_pb2.Ack(accepted=False, message=refused)
        if request.num_workers:
            self._coordinator.scale(request.num_workers)
        return master_pb2.Ack(accepted=True)

    def stop(self, request: master_pb2.StopRequest) -> master_pb2.Ack:
        """End the job early."""
        self._coordinator.end(Outcome("stopped", request.reason or "stopped on request"))
        return master_pb2.Ack(accepted=True)

    def get_audit(self, request: master_pb2.JobAuditRequest) -> master_pb2.JobAuditReply:
        """The audit as it stands."""
        return master_pb2.JobAuditReply(audit=json.dumps(self._audit()))

    def fetch(self, request: master_pb2.FetchRequest) -> master_pb2.FetchReply:
        """A piece of one of the job's files."""
        return self._given_files().piece(request)

    def fetch_journal(
        self, request: master_pb2.FetchJournalRequest
    ) -> master_pb2.FetchJournalReply:
        """What a copy of the journal lacks, or a piece of it."""
        return self._given_files().journal_piece(request)

    def _given_files(self) -> JobFiles:
        if self._files is None:
            raise JobError("this master gives no files away")
        return self._files

    def get_status(self, request: master_pb2.StatusRequest) -> master_pb2.JobStatus:
        """What the job looks like now."""
        now = self._coordinator.snapshot()
        return master_pb2.JobStatus(
            state=now.state,
            phase=now.phase,
            epoch=now.epoch,
            num_epochs=self._coordinator.plan.num_epochs,
            records_done=now.records_done,
            records_expected=now.records_expected,
            records_repeated=now.records_repeated,
            records_to_repeat=now.records_to_repeat,
            loss=now.loss or 0.0,
            has_loss=now.loss is not None,
            instances=[_instance_message(one) for one in now.instances],
            messages=[
                master_pb2.StatusMessage(number=number, text=text)
                for number, text in self._coordinator.messages(request.after_message)
            ],
            target_workers=now.target_workers,
            tasks_todo=now.tasks_todo,
            tasks_leased=now.tasks_leased,
            tasks_done=now.tasks_done,
            figures=self._figures_text() if request.with_figures else "",
        )

    def _figures_text(self) -> str:
        return json.dumps(self._figures.describe()) if self._figures is not None else ""


def _routing_message(routing: RoutingTable) -> ps_pb2.Routing:
    return ps_pb2.Routing(version=routing.version, partition_of_group=routing.partition_of_group)


def _partition_message(server: Instance) -> master_pb2.Partition:
    spec = server.spec
    return master_pb2.Partition(
        index=spec.index, incarnation=spec.incarnation, address=server.address
    )


def _intervals(bounds: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(bounds[::2], bounds[1::2], strict=True))


def _task_message(task: Task) -> master_pb2.Task:
    lane = None
    if task.lane is not None:
        lane = ps_pb2.LanePosition(
            epoch=task.epoch,
            lane=task.lane.lane,
            position=task.lane.position,
            num_lanes=task.lane.num_lanes,
            last=task.lane.last,
        )
    return master_pb2.Task(
        id=task.id,
        kind=master_pb2.TaskKind.Name(task.kind.value),
        epoch=task.epoch,
        shard=task.shard,
        start=task.start,
        end=task.end,
        max_minibatches=task.max_minibatches or 0,
        truncated=task.truncated,
        payload=task.payload,
        lane=lane,
        learning_rate=task.learning_rate,
        pin=task.pin,
        attempt=task.attempt,
    )


def _instance_message(instance: Instance) -> master_pb2.InstanceStatus:
    return master_pb2.InstanceStatus(
        instance=to_message(instance.spec),
        state=instance.state.value,
        pid=instance.pid,
        reason=instance.reason,
    )
