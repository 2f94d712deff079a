"""While a master is not sure to be the only one, nothing leaves it; with SIGTERM it makes room."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from elasticdl.credentials import Credentials
from elasticdl.data.shards import Shard
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.local import from_message, to_message
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.door import Door
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.journal import Journal, read_journal
from elasticdl.master.membership_events import Registered
from elasticdl.master.running_clock import RunningClock
from elasticdl.master.tasks import JobPlan, TaskKind
from elasticdl.proto import master_pb2, supervisor_pb2
from elasticdl.rpc import Client, GrpcTransport, Server, Service
from elasticdl.rpc.errors import RpcUnavailable
from tests.job.real_jobs import wait_until
from tests.master.tenures import FILE_NAME, RELEASED
from tests.master.test_coordinator import Recorder

PS = InstanceSpec(Role.PS, 0, 1)
WORKER = InstanceSpec(Role.WORKER, 0, 1)
MASTER = master_pb2.DESCRIPTOR.services_by_name["Master"]
SUPERVISOR = supervisor_pb2.DESCRIPTOR.services_by_name["Supervisor"]
DEADLINE_S = 30.0


class Doubtful:
    """A tenure that is sure when a test says so."""

    def __init__(self) -> None:
        self.incarnation = 1
        self.sure = threading.Event()
        self.sure.set()

    def is_sure(self) -> bool:
        return self.sure.is_set()

    def wait_until_sure(self) -> None:
        assert self.sure.wait(DEADLINE_S)

    def release(self) -> None:
        self.sure.clear()


# ------------------------------------------------------------------------ unsure


def test_nobody_is_told_of_an_entry_before_its_master_is_sure(tmp_path):
    tenure = Doubtful()
    journal = Journal(tmp_path, wait_until_sure=tenure.wait_until_sure)
    journal.append("before", {})
    tenure.sure.clear()
    told = threading.Event()
    journal.when_on_disk(journal.write([("unsure", {})]), lambda failure: told.set())
    wait_until("it is on disk", lambda: [one.kind for one in journal.entries()][1:], DEADLINE_S)
    assert not told.wait(0.3)
    tenure.sure.set()
    assert told.wait(DEADLINE_S)
    journal.close()


class Unsure:
    """A coordinator of a doubtful master, whose clock a test moves."""

    def __init__(self, job_dir: Path) -> None:
        self.tenure, self.backend = Doubtful(), Recorder()
        spec = JobSpec(command="train", job_dir=str(job_dir), num_workers=1, num_ps=1, lease_s=5)
        plan = JobPlan(phases=(TaskKind.TRAINING,), shards=(Shard("a", 20),), records_per_task=10)
        self.journal = Journal(job_dir, wait_until_sure=self.tenure.wait_until_sure)
        self.coordinator = Coordinator(
            spec, plan, self.backend, self.journal, clock=SlowClock, tenure=self.tenure
        )
        assert self.coordinator.register(Registered(PS, "here:1", 1))
        assert self.coordinator.register(Registered(WORKER, "", 2))

    def close(self) -> None:
        self.tenure.sure.set()
        self.coordinator.ended.set()
        self.journal.close()


class SlowClock(RunningClock):
    """Runs on when it is told to."""

    passed_s = 0.0

    def __init__(self, start_s: float) -> None:
        self._stands_at = None
        self._time_lost = -start_s

    def now(self) -> float:
        return self._stands_at if self._stands_at is not None else self.passed_s - self._time_lost

    def tick(self) -> float:
        if self._stands_at is not None:
            self._time_lost, self._stands_at = self.passed_s - self._stands_at, None
        return self.now()


@pytest.fixture
def unsure(tmp_path) -> Iterator[Unsure]:
    made = Unsure(tmp_path)
    yield made
    made.close()


def test_time_in_which_a_master_is_not_sure_is_nobodys_silence(unsure, monkeypatch):
    coordinator = unsure.coordinator
    monkeypatch.setattr(SlowClock, "passed_s", 4.9)
    coordinator.tick()
    before = coordinator.clock
    unsure.tenure.sure.clear()
    coordinator.tick()
    monkeypatch.setattr(SlowClock, "passed_s", 500.0)
    coordinator.tick()
    assert coordinator.clock == before, "it stands still"
    unsure.tenure.sure.set()
    coordinator.tick()
    assert coordinator.clock == pytest.approx(before)
    monkeypatch.setattr(SlowClock, "passed_s", 504.9)
    coordinator.tick()
    assert coordinator.heartbeat(WORKER, [], None), "all count as heard"
    monkeypatch.setattr(SlowClock, "passed_s", 505.1)
    coordinator.tick()
    assert not coordinator.heartbeat(PS, [], None), "silence since then counts"


def test_the_backend_is_asked_for_nothing_by_a_master_that_is_not_sure(unsure):
    unsure.coordinator.start()
    unsure.backend.wait_for([PS, WORKER])
    unsure.tenure.sure.clear()
    scaling = threading.Thread(target=unsure.coordinator.scale, args=(2,))
    scaling.start()
    time.sleep(0.3)
    assert scaling.is_alive(), "who asked for it is not answered either"
    assert unsure.backend.launched == [PS, WORKER]
    unsure.tenure.sure.set()
    unsure.backend.wait_for([PS, WORKER, InstanceSpec(Role.WORKER, 1, 1)])
    scaling.join(DEADLINE_S)


def test_the_clock_of_a_job_stands_still_and_goes_on_where_it_stood():
    clock = RunningClock(100.0)
    clock.stand_still()
    stood = clock.now()
    time.sleep(0.05)
    clock.stand_still()
    assert clock.now() == stood
    assert stood <= clock.tick() < stood + 0.04
    assert not clock.stands_still


def is_open(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    with socket.socket() as caller:
        return caller.connect_ex((host, int(port))) == 0


def test_the_port_of_a_master_that_is_not_sure_is_closed():
    tenure = Doubtful()
    door = Door(lambda address: Server([], Credentials("secret"), address), "127.0.0.1:0", tenure)
    try:
        assert is_open(door.address)
        for _ in range(2):
            tenure.sure.clear()
            wait_until("it is closed", lambda: not is_open(door.address), DEADLINE_S)
            tenure.sure.set()
            wait_until("it is open", lambda: is_open(door.address), DEADLINE_S)
    finally:
        door.close()
    assert not is_open(door.address)


# ------------------------------------------------------------------ one after the other


class Supervisor:
    """Remembers what it is asked to launch; the instances are the test's own."""

    def __init__(self) -> None:
        self.launched: list[InstanceSpec] = []
        self.stopped: list[InstanceSpec] = []

    def launch(self, request: master_pb2.InstanceId) -> master_pb2.Ack:
        self.launched.append(from_message(request))
        return master_pb2.Ack(accepted=True)

    def stop_instance(self, request: supervisor_pb2.StopInstanceRequest) -> master_pb2.Ack:
        self.stopped.append(from_message(request.instance))
        return master_pb2.Ack(accepted=True)

    def watch(self, request: supervisor_pb2.WatchRequest) -> supervisor_pb2.WatchReply:
        events = [
            supervisor_pb2.InstanceEvent(
                number=number,
                instance=to_message(spec),
                kind=supervisor_pb2.InstanceEvent.STARTED,
                pid=1,
            )
            for number, spec in enumerate(dict.fromkeys(self.launched), 1)
        ]
        if not events[request.after :]:
            time.sleep(0.1)
        return supervisor_pb2.WatchReply(events=events[request.after :])


class Succession:
    """Two masters of one job, as processes, with one port."""

    def __init__(self, job_dir: Path) -> None:
        self.job_dir = job_dir
        data = job_dir / "data.csv"
        data.write_text("x,label\n" + "1,0\n" * 40)
        spec = JobSpec(
            command="train",
            job_dir=str(job_dir),
            data=str(data),
            model_zoo=str(job_dir),
            model_def="none.None",
            output=str(job_dir / "output"),
            records_per_task=10,
            checkpoint_steps=0,
            num_workers=1,
            num_ps=1,
        )
        (job_dir / "job.yaml").write_text(spec.to_yaml())
        (job_dir / "token").write_text("secret")
        credentials = Credentials.of_directory(job_dir)
        self.supervisor = Supervisor()
        self._server = Server([Service(SUPERVISOR, self.supervisor)], credentials)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.client = Client(MASTER, GrpcTransport(self.address, credentials), "the master")
        self.processes: list[subprocess.Popen[bytes]] = []

    def launch(self, incarnation: int) -> subprocess.Popen[bytes]:
        """Launch a master; it waits for its turn."""
        arguments = [
            f"--job_dir={self.job_dir}",
            f"--incarnation={incarnation}",
            f"--listen={self.address}",
            f"--supervisor={self._server.address}",
            "--session=one",
        ]
        with (self.job_dir / f"master-{incarnation}.txt").open("wb") as output:
            command = [sys.executable, "-m", "tests.master.tenures", *arguments]
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        self.processes.append(process)
        return process

    def is_accepted(self, spec: InstanceSpec) -> bool:
        request = master_pb2.HeartbeatRequest(instance=to_message(spec))
        return self.client.call_until("Heartbeat", request, DEADLINE_S).accepted

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.client.close()
        self._server.stop()


@pytest.fixture
def succession(tmp_path) -> Iterator[Succession]:
    made = Succession(tmp_path)
    yield made
    made.close()


def test_a_master_that_is_told_to_go_leaves_the_job_to_the_next_which_adopts_all(succession):
    one, client = succession, succession.client
    first = one.launch(1)
    for spec, address in ((PS, "here:1"), (WORKER, "")):
        request = master_pb2.RegisterRequest(
            instance=to_message(spec), address=address, pid=os.getpid(), ready=True
        )
        assert client.call_until("Register", request, DEADLINE_S).accepted
    second = one.launch(2)
    assert one.is_accepted(WORKER)
    assert second.poll() is None, "it waits"
    first.send_signal(signal.SIGTERM)
    assert first.wait(DEADLINE_S) == 143
    assert (one.job_dir / FILE_NAME).read_text() in (RELEASED, "2")
    assert one.is_accepted(WORKER), "the next one is heard at the same address"
    assert one.is_accepted(PS)
    reply = client.call_until(
        "Register", master_pb2.RegisterRequest(instance=to_message(WORKER), pid=1), DEADLINE_S
    )
    assert [part.address for part in reply.cluster.partitions] == ["here:1"]
    told = [entry.kind for entry in read_journal(one.job_dir)]
    assert "ended" not in told, "the job goes on"
    masters = [entry.body["incarnation"] for entry in read_journal(one.job_dir, "master")]
    assert masters == [1, 2]
    assert Counter(one.supervisor.launched) == {PS: 2, WORKER: 2}, "adopted, and none anew"
    assert not (one.job_dir / "result.json").exists()


def test_a_master_that_is_not_sure_any_more_is_not_heard_and_says_nothing(succession):
    one = succession
    one.launch(1)
    request = master_pb2.RegisterRequest(instance=to_message(WORKER), pid=1)
    assert one.client.call_until("Register", request, DEADLINE_S).accepted
    (one.job_dir / FILE_NAME).write_text("7")

    def is_unheard() -> bool:
        try:
            one.client.call("Heartbeat", master_pb2.HeartbeatRequest(instance=to_message(WORKER)))
        except RpcUnavailable:
            return not is_open(one.address)
        return False

    wait_until("it is not heard", is_unheard, DEADLINE_S)
    (one.job_dir / FILE_NAME).write_text("1")
    assert one.is_accepted(WORKER), "it goes on where it stood"
