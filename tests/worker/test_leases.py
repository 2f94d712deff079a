"""A worker's leases: what is given back is never worked on."""

from __future__ import annotations

import threading

import pytest

from elasticdl.proto import master_pb2
from elasticdl.rpc import Client, DirectTransport, RpcFailed, Service
from elasticdl.worker.leases import Leases

MASTER = master_pb2.DESCRIPTOR.services_by_name["Master"]


class Granting:
    """A master that grants task after task, and notes what comes back."""

    def __init__(self, num_tasks: int) -> None:
        self.num_tasks = num_tasks
        self.granted = 0
        self.returned: list[int] = []
        self.broken = False

    def lease(self, request: master_pb2.LeaseRequest) -> master_pb2.LeaseReply:
        if self.broken:
            raise RuntimeError("the journal cannot be written")
        if self.granted == self.num_tasks:
            return master_pb2.LeaseReply(outcome=master_pb2.LeaseReply.FINISHED)
        self.granted += 1
        task = master_pb2.Task(id=self.granted, kind=master_pb2.TRAINING)
        return master_pb2.LeaseReply(task=task, grant=100 + self.granted)

    def return_tasks(self, request: master_pb2.ReturnTasksRequest) -> master_pb2.Ack:
        self.returned += request.grants
        return master_pb2.Ack(accepted=True)

    def __getattr__(self, name):
        return lambda request: master_pb2.Ack(accepted=True)


def leases_of(master: Granting, read) -> Leases:
    client = Client(MASTER, DirectTransport(Service(MASTER, master)), "the master")
    return Leases(client, master_pb2.InstanceId(role="worker"), read)


def test_a_task_given_back_while_its_records_are_read_is_not_handed_out():
    master = Granting(3)
    reading, go_on = threading.Event(), threading.Event()

    def read(task: master_pb2.Task) -> list[bytes]:
        if task.id == 2:
            reading.set()
            assert go_on.wait(10.0)
        return [b"%d" % task.id]

    leases = leases_of(master, read)
    leases.start()
    first = leases.next()
    assert first.records == [b"1"]
    assert reading.wait(10.0)
    leases.fail(first, "boom")
    leases.give_back_all()
    assert master.returned == [102]
    go_on.set()
    assert leases.next().records == [b"3"], "task 2 is somebody else's now"
    leases.stop()


def test_at_most_one_task_is_held_ahead():
    master = Granting(10)
    leases = leases_of(master, lambda task: [])
    leases.start()
    held = leases.next()
    second = leases.next()
    assert leases.grants == [101, 102]
    leases.complete(held)
    third = leases.next()
    assert (second.grant, third.grant) == (102, 103)
    leases.stop()


def test_an_error_of_reading_comes_with_the_task():
    def read(task: master_pb2.Task) -> list[bytes]:
        raise ValueError("truncated")

    leases = leases_of(Granting(1), read)
    leases.start()
    held = leases.next()
    assert isinstance(held.error, ValueError)
    leases.stop()


def test_the_end_of_the_job_is_told_once_all_is_handed_out():
    leases = leases_of(Granting(1), lambda task: [])
    leases.start()
    assert leases.next().grant == 101
    assert leases.next() is None


def test_a_master_that_refuses_is_an_error_not_a_wait():
    master = Granting(1)
    master.broken = True

    class Refusing(DirectTransport):
        def call(self, path, request, timeout_s, placement=None):
            try:
                return super().call(path, request, timeout_s, placement)
            except RuntimeError as error:
                raise RpcFailed(str(error)) from None

    client = Client(MASTER, Refusing(Service(MASTER, master)), "the master")
    leases = Leases(client, master_pb2.InstanceId(), lambda task: [])
    leases.start()
    with pytest.raises(RpcFailed, match="journal"):
        leases.next()


def test_a_pin_that_is_over_is_told_once():
    class Pinning(Granting):
        def lease(self, request: master_pb2.LeaseRequest) -> master_pb2.LeaseReply:
            reply = super().lease(request)
            reply.pin_over = [0, 0, 3, 3, 7][self.granted]
            return reply

    told: list[int] = []
    client = Client(MASTER, DirectTransport(Service(MASTER, Pinning(4))), "the master")
    leases = Leases(client, master_pb2.InstanceId(), lambda task: [], told.append)
    leases.start()
    while (held := leases.next()) is not None:
        leases.complete(held)
    assert told == [3, 7]


def test_a_task_that_is_granted_again_while_it_is_worked_on_only_gets_another_grant():
    class Forgetful(Granting):
        """Another master, which does not know what the one before it granted last."""

        def lease(self, request: master_pb2.LeaseRequest) -> master_pb2.LeaseReply:
            reply = super().lease(request)
            if self.granted == 2:
                reply.task.id = 1
            return reply

    master = Forgetful(3)
    leases = leases_of(master, lambda task: [])
    leases.start()
    first, second = leases.next(), leases.next()
    assert (first.task.id, second.task.id) == (1, 3), "task 1 is not done twice"
    assert leases.grants == [102, 103]
    leases.give_back([first.grant])
    assert master.returned == [102]
    assert leases.next() is None


def test_a_task_that_failed_and_is_granted_again_before_that_is_answered_is_done_again():
    failed, granted_again = threading.Event(), threading.Event()

    class Prompt(Granting):
        """A master that grants a task again while it is still told that the task failed."""

        def lease(self, request: master_pb2.LeaseRequest) -> master_pb2.LeaseReply:
            if self.granted == 1 and not failed.is_set():
                return master_pb2.LeaseReply(outcome=master_pb2.LeaseReply.WAIT, retry_after_s=0.01)
            if self.granted == 2:
                granted_again.set()
            reply = super().lease(request)
            reply.task.id = 1
            return reply

        def fail_task(self, request: master_pb2.FailTaskRequest) -> master_pb2.Ack:
            failed.set()
            assert granted_again.wait(10.0)
            return master_pb2.Ack(accepted=True)

    leases = leases_of(Prompt(2), lambda task: [])
    leases.start()
    leases.fail(leases.next(), "boom")
    again = leases.next()
    assert again is not None, "its lease was lost, which nobody would find"
    assert (again.task.id, again.grant) == (1, 102)
    leases.stop()
