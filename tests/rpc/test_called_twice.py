"""Every method of every service, called twice, has the effect of once.

Also when the second call comes late, after others that went ahead of it. A method without a case
here fails the test.
"""

from __future__ import annotations

import dataclasses
import json
import queue
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from elasticdl.api.early_instances import EarlyInstances
from elasticdl.api.forks import Forks
from elasticdl.api.supervisor import LOGS, Commands, Lifetime, Supervisor
from elasticdl.credentials import TOKEN_FILE
from elasticdl.data.shards import Shard
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.check import CheckServicer
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.job_files import JobFiles
from elasticdl.master.journal import Journal
from elasticdl.master.membership_events import Registered
from elasticdl.master.servicer import MasterServicer
from elasticdl.master.tasks import JobPlan, TaskKind
from elasticdl.proto import check_pb2, master_pb2, ps_pb2, supervisor_pb2
from elasticdl.ps import frames
from elasticdl.ps.copies import Copies
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.partition import Partition
from elasticdl.ps.rate_table import BLOCK_STEPS
from elasticdl.rpc import Frame, Service
from tests.checkpoints import wait_for_writers
from tests.master.test_coordinator import Recorder

SERVICES = {
    service.name: service
    for module in (master_pb2, ps_pb2, supervisor_pb2, check_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
}


class World:
    """A service with its handler, and what can be seen of the handler's state."""

    def __init__(self, descriptor: ServiceDescriptor, handler: Any) -> None:
        self._descriptor, self._handler = descriptor, handler
        self._service = Service(descriptor, handler)

    def call(self, method: str, request: Message | Frame) -> Any:
        """Return the reply: a frame to a frame, else a message's bytes."""
        path = f"/{self._descriptor.full_name}/{method}"
        if isinstance(request, Frame):
            return self._service.call(path, request.delivered()).delivered()
        return self._service.call(path, Frame(request.SerializeToString())).head

    def picture(self) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Case:
    """A request, and what must be there before it.

    changes: it does something, so that there is something to do twice. later: calls that go ahead
    of the repeat when it comes late. same_reply: the repeat is answered as the first was.
    """

    request: Callable[[Any], Message | Frame]
    before: Callable[[Any], object] = lambda world: None
    later: Callable[[Any], object] = lambda world: None
    world: str = ""
    changes: bool = True
    same_reply: bool = True


# ---------------------------------------------------------------------- the master


IGNORED = ("_handlers", "_lock", "first_actions")


def picture_of(value: Any) -> Any:
    """A value as plain data, moments left out, to be compared."""
    if isinstance(value, float):
        return "a number"
    if isinstance(value, dict):
        return sorted((repr(key), picture_of(item)) for key, item in value.items())
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple | deque):
        return [picture_of(item) for item in value]
    if dataclasses.is_dataclass(value):
        fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
        return [type(value).__name__, picture_of(fields)]
    if value is None or isinstance(value, str | int | Enum) or callable(value):
        return repr(value) if not callable(value) else ""
    seen = {name: item for name, item in vars(value).items() if name not in IGNORED}
    return [type(value).__name__, picture_of(seen)]


PS = InstanceSpec(Role.PS, 0, 1)
WORKER = InstanceSpec(Role.WORKER, 0, 1)
WORKER_ID = master_pb2.InstanceId(role="worker", index=0, incarnation=1)


class MasterWorld(World):
    """A master of a job in training; its parameter server is up, its worker is not yet."""

    def __init__(self, directory: Path) -> None:
        spec = JobSpec(command="train", job_dir=str(directory), num_workers=1, num_ps=1)
        plan = JobPlan((TaskKind.TRAINING,), (Shard("a", 40),), records_per_task=10)
        self.journal = Journal(directory)
        self.coordinator = Coordinator(spec, plan, Recorder(), self.journal)
        self.coordinator.start()
        assert self.coordinator.register(Registered(PS, "here:1", 1))
        files = JobFiles(spec, Path(spec.job_dir), self.journal, "one")
        servicer = MasterServicer(self.coordinator, lambda: {"lost": 0}, files=files)
        super().__init__(SERVICES["Master"], servicer)

    def register(self) -> None:
        assert self.coordinator.register(Registered(WORKER, "", 2))

    def lease(self, number: int) -> master_pb2.LeaseReply:
        request = master_pb2.LeaseRequest(instance=WORKER_ID, request=number)
        return master_pb2.LeaseReply.FromString(self.call("Lease", request))

    def work(self) -> None:
        """The worker is up, and has the job's first two tasks."""
        self.register()
        self.granted = [self.lease(0), self.lease(1)]

    def completion(self, number: int) -> master_pb2.CompleteTaskRequest:
        granted = self.granted[number]
        return master_pb2.CompleteTaskRequest(
            instance=WORKER_ID,
            task=granted.task.id,
            grant=granted.grant,
            partition_incarnations=[1],
            num_minibatches=1,
        )

    def picture(self) -> Any:
        coordinator = self.coordinator
        with coordinator._lock:
            return picture_of(
                [coordinator._ledger, coordinator._membership, coordinator.outcome is None]
            )

    def close(self) -> None:
        self.coordinator.ended.set()
        self.journal.close()


MASTER_CASES = {
    "Register": Case(
        lambda world: master_pb2.RegisterRequest(instance=WORKER_ID, pid=2),
        later=lambda world: world.lease(0),
    ),
    "Heartbeat": Case(
        lambda world: master_pb2.HeartbeatRequest(
            instance=WORKER_ID, grants=[world.granted[0].grant], loss=0.5, has_loss=True
        ),
        before=MasterWorld.work,
        later=lambda world: world.call("CompleteTask", world.completion(0)),
        changes=False,  # But of the moments.
    ),
    "Lease": Case(
        lambda world: master_pb2.LeaseRequest(instance=WORKER_ID, request=0),
        before=MasterWorld.register,
        later=lambda world: world.lease(1),
    ),
    "CompleteTask": Case(
        lambda world: world.completion(0),
        before=MasterWorld.work,
        later=lambda world: world.call("CompleteTask", world.completion(1)),
    ),
    "FailTask": Case(
        lambda world: master_pb2.FailTaskRequest(
            instance=WORKER_ID, grant=world.granted[0].grant, message="boom"
        ),
        before=MasterWorld.work,
        later=lambda world: world.lease(2),
    ),
    "ReturnTasks": Case(
        lambda world: master_pb2.ReturnTasksRequest(
            instance=WORKER_ID, grants=[world.granted[0].grant]
        ),
        before=MasterWorld.work,
        later=lambda world: world.lease(2),
    ),
    "RestartTask": Case(
        lambda world: master_pb2.RestartTaskRequest(
            instance=WORKER_ID, task=world.granted[0].task.id, attempt=0
        ),
        before=MasterWorld.work,
        later=lambda world: world.lease(2),
    ),
    "GetStatus": Case(
        lambda world: master_pb2.StatusRequest(), before=MasterWorld.work, changes=False
    ),
    "Scale": Case(lambda world: master_pb2.ScaleRequest(num_workers=3)),
    "Stop": Case(lambda world: master_pb2.StopRequest(reason="enough"), before=MasterWorld.work),
    "GetAudit": Case(lambda world: master_pb2.JobAuditRequest(), changes=False),
    "Fetch": Case(lambda world: master_pb2.FetchRequest(file="job.yaml", offset=3), changes=False),
    "FetchJournal": Case(  # It has times in it.
        lambda world: master_pb2.FetchJournalRequest(), changes=False, same_reply=False
    ),
}


# -------------------------------------------------------------- a parameter server


IDS = np.array([5, -3, 2**40, 77], np.int64)
RATES = np.full(BLOCK_STEPS, 0.25, np.float32)


class PartitionWorld(World):
    """A partition that hosts the whole of a small model."""

    def __init__(self, directory: Path, initialize: bool = True, **model: Any) -> None:
        self.directory = directory
        optimizer = model.pop("optimizer", OptimizerConfig("adam", learning_rate=0.5))
        self.model = ps_pb2.ModelDefinition(
            tables=[
                ps_pb2.TableDefinition(
                    name="rows",
                    dim=3,
                    initializer=ps_pb2.RowInitializer(kind="uniform", seed=5, a=-1.0, b=1.0),
                )
            ],
            variables=[ps_pb2.VariableDefinition(name="kernel", shape=[4, 2], trainable=True)],
            optimizer=optimizer.to_json(),
            **model,
        )
        super().__init__(SERVICES["ParameterServer"], Partition(0, 1, longest_wait_s=0.01))
        if initialize:
            self.frame("Initialize", self.definition())

    def definition(self) -> Frame:
        routing = ps_pb2.Routing(version=1, partition_of_group=[0] * 64)
        header = ps_pb2.InitializeHeader(incarnation=1, routing=routing, model=self.model)
        return frames.pack(header, [np.arange(8, dtype=np.float32)])

    def frame(self, method: str, request: Frame) -> tuple[ps_pb2.PsReply, list[memoryview]]:
        reply, buffers = frames.unpack(self.call(method, request), ps_pb2.PsReply)
        return reply, buffers

    def push_request(self, k: int, **header: Any) -> Frame:
        fields = {"incarnation": 1, "routing_version": 1, "task": 9, "k": k, "num_records": 4}
        message = ps_pb2.PushHeader(**{**fields, "loss": 1.0, **header})
        gradients = [IDS, np.full((len(IDS), 3), 1.0 + k, np.float32), np.ones(8, np.float32)]
        return frames.pack(message, [] if message.close else gradients)

    def push(self, k: int, **header: Any) -> int:
        return self.frame("Push", self.push_request(k, **header))[0].status

    def pull_request(self, pin: int = 0) -> Frame:
        header = ps_pb2.PullHeader(incarnation=1, routing_version=1, dense=True, pin=pin)
        return frames.pack(header, [IDS])

    def pin(self, number: int) -> ps_pb2.PinRequest:
        return ps_pb2.PinRequest(incarnation=1, number=number, attempt=1, action=ps_pb2.PIN_NOW)

    def picture(self) -> Any:
        pulls = {}
        for pin in range(3):
            reply, buffers = self.frame("Pull", self.pull_request(pin))
            pulls[pin] = (reply.status, reply.version, [bytes(one) for one in buffers])
        audit = ps_pb2.PartitionAudit.FromString(
            self.call("GetAudit", ps_pb2.AuditRequest(incarnation=1))
        )
        del audit.repeats_dropped[:]  # The one thing that a repeat is to change.
        progress = self.call("GetTaskProgress", self.progress_request())
        counted = audit.SerializeToString(deterministic=True)
        return pulls, counted, progress, self.exported(), self.files()

    def progress_request(self) -> ps_pb2.TaskProgressRequest:
        return ps_pb2.TaskProgressRequest(incarnation=1, task=9)

    def files(self) -> dict[str, bytes]:
        """What snapshots have written."""
        wait_for_writers()
        found = sorted(path for path in self.directory.rglob("*") if path.is_file())
        return {str(path.relative_to(self.directory)): path.read_bytes() for path in found}

    def exported(self) -> list[bytes]:
        _, buffers = self.frame("ExportRows", self.export_request())
        return [bytes(one) for one in buffers]

    def export_request(self) -> Frame:
        return frames.pack(ps_pb2.ExportRowsHeader(incarnation=1, table="rows", max_rows=100))

    def snapshot_request(self, number: int) -> ps_pb2.SnapshotRequest:
        directory = self.directory / str(number)
        directory.mkdir(exist_ok=True)
        return ps_pb2.SnapshotRequest(incarnation=1, number=number, directory=str(directory))

    def load_request(self) -> Frame:
        header = ps_pb2.LoadRowsHeader(incarnation=1, routing_version=1, table="rows")
        return frames.pack(header, [IDS, np.full((len(IDS), 3), 7.0, np.float32)])


class SyncWorld(PartitionWorld):
    """A partition in sync mode with one lane and a clipped norm."""

    LANE = ps_pb2.LanePosition(epoch=0, lane=0, position=0, num_lanes=1, last=True)

    def __init__(self, directory: Path) -> None:
        super().__init__(
            directory,
            optimizer=OptimizerConfig("sgd", learning_rate=0.5, clipnorm=0.1),
            synchronous=ps_pb2.Synchronous(),
        )

    def push_first(self) -> None:
        """The open step has all it needs, but the norms over all partitions."""
        self.push(0, lane=self.LANE)
        closing = self.push(1, lane=self.LANE, close=True, task_records=4, emitted_records=4)
        assert closing == ps_pb2.PS_NORMS_WANTED
        self.sums = self.norms(0).sums
        assert len(self.sums) == 2

    def progress_request(self) -> ps_pb2.TaskProgressRequest:
        return ps_pb2.TaskProgressRequest(incarnation=1, task=9, lane=self.LANE)

    def norms(self, step: int) -> ps_pb2.StepNorms:
        request = ps_pb2.StepNormsRequest(incarnation=1, step=step)
        return ps_pb2.StepNorms.FromString(self.call("GetStepNorms", request))

    def totals(self) -> ps_pb2.StepNorms:
        return ps_pb2.StepNorms(incarnation=1, step=0, sums=self.sums)


def scheduled(directory: Path) -> PartitionWorld:
    return PartitionWorld(directory, optimizer=OptimizerConfig("sgd", schedule="Constant"))


PS_CASES = {
    "Initialize": Case(
        lambda world: world.definition(),
        later=lambda world: world.push(0),
        world="empty",
    ),
    "LoadRows": Case(lambda world: world.load_request(), later=lambda world: world.push(0)),
    "Pull": Case(
        lambda world: world.pull_request(), before=lambda world: world.push(0), changes=False
    ),
    "Push": Case(
        lambda world: world.push_request(0),
        later=lambda world: (world.push(1), world.push(2, close=True, task_records=8)),
        same_reply=False,  # `next` tells where the task stands.
    ),
    "GetTaskProgress": Case(
        lambda world: world.progress_request(),
        before=lambda world: world.push(0),
        changes=False,
    ),
    "GetAudit": Case(
        lambda world: ps_pb2.AuditRequest(incarnation=1),
        before=lambda world: world.push(0),
        changes=False,
    ),
    "ExportRows": Case(
        lambda world: world.export_request(), before=lambda world: world.push(0), changes=False
    ),
    "Pin": Case(
        lambda world: world.pin(1),
        later=lambda world: (world.push(0), world.call("Pin", world.pin(2)), world.push(1)),
    ),
    "Unpin": Case(
        lambda world: world.pin(1),
        before=lambda world: world.call("Pin", world.pin(1)),
        later=lambda world: world.call("Pin", world.pin(2)),
    ),
    "Snapshot": Case(
        lambda world: world.snapshot_request(1),
        before=lambda world: world.push(0),
        later=lambda world: (world.push(1), world.call("Snapshot", world.snapshot_request(2))),
        same_reply=False,  # It tells how far the writing is.
    ),
    "GetStepNorms": Case(
        lambda world: ps_pb2.StepNormsRequest(incarnation=1, step=0),
        before=SyncWorld.push_first,
        world="sync",
        changes=False,
    ),
    "SetStepNorms": Case(lambda world: world.totals(), before=SyncWorld.push_first, world="sync"),
    "SetRates": Case(
        lambda world: frames.pack(ps_pb2.SetRatesHeader(incarnation=1, block=0), [RATES]),
        later=lambda world: world.push(0),
        world="scheduled",
        changes=False,  # Until something is pushed.
    ),
}


# ------------------------------------------------------------------------ a standby


class StandbyWorld(World):
    """A parameter server that keeps what another one copies to it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(SERVICES["Standby"], Copies(1))

    def part(self, number: int) -> ps_pb2.CopyPart:
        return ps_pb2.CopyPart(keeper=1, incarnation=1, number=number)

    def write_request(self, number: int) -> Frame:
        header = ps_pb2.WriteCopyHeader(part=self.part(number), file="a.arrow")
        return frames.pack(header, [np.arange(number, dtype=np.uint8)])

    def finish_request(self, number: int) -> ps_pb2.FinishCopyRequest:
        file = {"name": "a.arrow", "kind": "rows", "table": "", "rows": 0, "sha256": ""}
        described = {"partition": 0, "incarnation": 1, "number": number, "base": 0, "version": 0}
        described |= {"groups": [], "closed": [], "files": [{**file, "bytes": number}]}
        return ps_pb2.FinishCopyRequest(part=self.part(number), entry=json.dumps(described))

    def copy(self, number: int) -> None:
        self.call("WriteCopy", self.write_request(number))
        self.call("FinishCopy", self.finish_request(number))

    def get_request(self, incarnation: int) -> ps_pb2.GetCopyRequest:
        return ps_pb2.GetCopyRequest(keeper=1, incarnation=incarnation)

    def read_request(self, number: int) -> Frame:
        return frames.pack(
            ps_pb2.ReadCopyHeader(part=self.part(number), file="a.arrow", max_bytes=9)
        )

    def picture(self) -> Any:
        copies = self._handler
        return repr([copies._kept, copies._arriving, copies._earliest])


STANDBY_CASES = {
    "WriteCopy": Case(
        lambda world: world.write_request(3),
        later=lambda world: (
            world.call("FinishCopy", world.finish_request(3)),
            world.call("WriteCopy", world.write_request(5)),
        ),
    ),
    "FinishCopy": Case(
        lambda world: world.finish_request(3),
        before=lambda world: world.call("WriteCopy", world.write_request(3)),
        later=lambda world: world.copy(5),
    ),
    "GetCopy": Case(
        lambda world: world.get_request(2),
        before=lambda world: (world.copy(3), world.call("WriteCopy", world.write_request(5))),
        later=lambda world: world.call("GetCopy", world.get_request(3)),
    ),
    "ReadCopy": Case(
        lambda world: world.read_request(3),
        before=lambda world: world.copy(3),
        later=lambda world: world.copy(5),
        changes=False,
    ),
}


# ------------------------------------------------------------------- the supervisor


SLEEPER = master_pb2.InstanceId(role="ps", index=0, incarnation=1)


class SupervisorWorld(World):
    """A supervisor whose commands are carried out in this thread, as its `run` does."""

    def __init__(self, directory: Path) -> None:
        (directory / LOGS).mkdir()
        (directory / TOKEN_FILE).write_text("secret")
        spec = JobSpec(command="train", job_dir=str(directory))
        spec.save()
        commands: Commands = queue.Queue()
        lifetime = Lifetime(directory, None)
        early = EarlyInstances((), lifetime.command, {}, lifetime.inherited, commands.put)
        self.supervisor = Supervisor(spec, lifetime, commands, early, Forks((), {}, commands.put))
        super().__init__(SERVICES["Supervisor"], self.supervisor)

    def call(self, method: str, request: Message | Frame) -> Any:
        reply = super().call(method, request)
        while not self.supervisor._commands.empty():
            self.supervisor._take_command(0.0)
        while method == "StopInstance" and self.supervisor._children:
            self.supervisor._take_command(1.0)
        return reply

    def launch(self) -> None:
        self.call("Launch", SLEEPER)

    def stop_request(self) -> supervisor_pb2.StopInstanceRequest:
        return supervisor_pb2.StopInstanceRequest(instance=SLEEPER, grace_s=0)

    def stop(self) -> None:
        self.call("StopInstance", self.stop_request())

    def events(self, after: int = 0) -> supervisor_pb2.WatchReply:
        request = supervisor_pb2.WatchRequest(after=after, wait_s=0.0)
        return supervisor_pb2.WatchReply.FromString(super().call("Watch", request))

    def picture(self) -> Any:
        return [(one.number, one.instance.role, one.kind) for one in self.events().events]

    def close(self) -> None:
        self.supervisor._end_children()
        self.supervisor._server.stop()
        self.supervisor._lifetime.end()


SUPERVISOR_CASES = {
    "Launch": Case(lambda world: SLEEPER, later=SupervisorWorld.stop),
    "StopInstance": Case(
        SupervisorWorld.stop_request, before=SupervisorWorld.launch, later=SupervisorWorld.stop
    ),
    "Watch": Case(
        lambda world: supervisor_pb2.WatchRequest(),
        before=SupervisorWorld.launch,
        changes=False,
        same_reply=False,
    ),
}

# ----------------------------------------------------------- a master before its job


class CheckWorld(World):
    """A master that waits for two checks of its model."""

    def __init__(self, directory: Path) -> None:
        super().__init__(SERVICES["Check"], CheckServicer())

    def picture(self) -> Any:
        return [self._handler.of(number, 0.0) for number in range(2)]


def answered(number: int) -> check_pb2.CheckAnswer:
    return check_pb2.CheckAnswer(number=number, answer='{"report": {"warnings": []}}')


CHECK_CASES = {
    "Answer": Case(
        lambda world: answered(0), later=lambda world: world.call("Answer", answered(1))
    ),
}


CASES = {
    "Master": MASTER_CASES,
    "ParameterServer": PS_CASES,
    "Standby": STANDBY_CASES,
    "Supervisor": SUPERVISOR_CASES,
    "Check": CHECK_CASES,
}
WORLDS: dict[str, Callable[[Path], World]] = {
    "Master": MasterWorld,
    "ParameterServer": PartitionWorld,
    "Standby": StandbyWorld,
    "Supervisor": SupervisorWorld,
    "Check": CheckWorld,
    "empty": lambda directory: PartitionWorld(directory, initialize=False),
    "sync": SyncWorld,
    "scheduled": scheduled,
}


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[[str], World]]:
    worlds: list[World] = []

    def make(name: str) -> World:
        directory = tmp_path / str(len(worlds))
        directory.mkdir()
        worlds.append(WORLDS[name](directory))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def test_every_method_has_a_case():
    assert {name: set(cases) for name, cases in CASES.items()} == {
        name: {method.name for method in service.methods} for name, service in SERVICES.items()
    }


@pytest.mark.parametrize(
    ("service", "method"), [(name, method) for name, cases in CASES.items() for method in cases]
)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_called_twice_it_has_the_effect_of_once(make_world, service, method, late):
    case = CASES[service][method]

    def play(twice: bool) -> tuple[list[Any], Any]:
        world = make_world(case.world or service)
        case.before(world)
        before = world.picture()
        replies = [world.call(method, case.request(world))]
        assert (world.picture() != before) == case.changes
        if late:
            case.later(world)
        if twice:
            replies.append(world.call(method, case.request(world)))
        if not late:
            case.later(world)
        return replies, world.picture()

    (first,), once = play(twice=False)
    (again, repeat), twice = play(twice=True)
    assert twice == once
    if case.same_reply and not late:
        assert first == again == repeat
