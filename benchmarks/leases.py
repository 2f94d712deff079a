"""Leases per second of a real master through gRPC, its journal on disk.

The master's process holds what every master holds: ledger, membership, journal, service. Two other
processes are thousands of its workers: all want the two tasks that a worker may hold, 64 of them at
a time. A lease is answered once its journal entries are on disk. What a master without a journal
answers, in the same run, says what the journal costs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.figures import Figure
from elasticdl.data.shards import Shard
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.local import to_message
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.journal import Journal
from elasticdl.master.membership import InstanceSpec, Registered, Role
from elasticdl.master.servicer import MasterServicer
from elasticdl.master.tasks import JobPlan, TaskKind
from elasticdl.proto import master_pb2
from elasticdl.rpc import Client, GrpcTransport, Server, Service

SERVICE = master_pb2.DESCRIPTOR.services_by_name["Master"]
WORKERS = 5_000
CLIENTS = 2
TASKS_EACH = 2
RECORDS_PER_TASK = 1024
_AT_A_TIME = 32
_TASKS_BEYOND = 5
_TOKEN = "benchmark"
_CALL_S = 30.0
_SERVER_THREADS = 32  # as `elasticdl.master.__main__` has them


class _NoCluster:
    """There are no processes to launch or stop: the workers come by themselves."""

    def launch(self, spec: InstanceSpec) -> None:
        pass

    def stop(self, spec: InstanceSpec, grace_s: float) -> None:
        pass

    def watch(self, on_event: Any) -> None:
        pass

    def close(self) -> None:
        pass


class _NoJournal(Journal):
    """Forgets what it is told, and has nobody wait."""

    def write(self, entries: Sequence[tuple[str, dict[str, Any]]]) -> int:
        with self._changed:
            self._number += len(entries)
            self._committed = self._number
            return self._number


def _ask(address: str, workers: Sequence[int], pipe: Connection) -> None:
    """Be some workers: take what they may hold; tell how many tasks were granted."""
    client = Client(SERVICE, GrpcTransport(address, _TOKEN), "the master")
    specs = [to_message(InstanceSpec(Role.WORKER, worker, 1)) for worker in workers]
    client.call("GetStatus", master_pb2.StatusRequest(), _CALL_S)
    pipe.send("connected")
    pipe.recv()

    def lease(spec: master_pb2.InstanceId) -> int:
        for number in range(TASKS_EACH):
            request = master_pb2.LeaseRequest(instance=spec, request=number)
            reply = client.call("Lease", request, _CALL_S)
            if reply.outcome != master_pb2.LeaseReply.GRANTED:
                raise SystemExit(f"not granted: {reply}")
        return TASKS_EACH

    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        pipe.send(sum(threads.map(lease, specs)))
    client.close()


def leases_per_s(kind: type[Journal], workers: int) -> tuple[float, float]:
    """Run a master and its workers; return leases per second, and per second of its processor."""
    with tempfile.TemporaryDirectory() as job_dir:
        spec = JobSpec(command="train", job_dir=job_dir, num_workers=workers, num_ps=1)
        shard = Shard("records", _TASKS_BEYOND * workers * RECORDS_PER_TASK)
        plan = JobPlan((TaskKind.TRAINING,), (shard,), records_per_task=RECORDS_PER_TASK)
        journal = kind(job_dir)
        coordinator = Coordinator(spec, plan, _NoCluster(), journal)
        server = Server(
            [Service(SERVICE, MasterServicer(coordinator, dict))],
            _TOKEN,
            num_threads=_SERVER_THREADS,
        )
        try:
            coordinator.start()
            coordinator.register(Registered(InstanceSpec(Role.PS, 0, 1), "here:1", 1))
            for worker in range(workers):
                coordinator.register(Registered(InstanceSpec(Role.WORKER, worker, 1), "", 1))
            return _drive(server.address, workers)
        finally:
            server.stop()
            coordinator.ended.set()
            journal.close()


def _drive(address: str, workers: int) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    clients = []
    for number in range(CLIENTS):
        ours, theirs = context.Pipe()
        ours_of = range(number, workers, CLIENTS)
        process = context.Process(target=_ask, args=(address, ours_of, theirs))
        process.start()
        theirs.close()
        clients.append((process, ours))
    try:
        for _, pipe in clients:
            assert pipe.recv() == "connected"
        began, used = time.perf_counter(), time.process_time()
        for _, pipe in clients:
            pipe.send("begin")
        granted = sum(pipe.recv() for _, pipe in clients)
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - used
    finally:
        for process, pipe in clients:
            pipe.close()
            process.join(_CALL_S)
            process.kill()
    return granted / wall_s, granted / cpu_s


def measure(rounds: int, workers: int) -> list[Figure]:
    """Let masters with and without a journal take turns; return the figures."""
    with_journal, without = [], []
    for _ in range(rounds):
        with_journal.append(leases_per_s(Journal, workers))
        without.append(leases_per_s(_NoJournal, workers))
    costs = [
        1 - ours / theirs for (ours, _), (theirs, _) in zip(with_journal, without, strict=True)
    ]
    return [
        Figure(
            "leases through gRPC, journal on disk",
            statistics.median(wall for wall, _ in with_journal),
            "1/s",
            at_least=3000.0,
        ),
        Figure(
            "the same by the master's processor time",
            statistics.median(cpu for _, cpu in with_journal),
            "1/s",
        ),
        Figure("without a journal", statistics.median(wall for wall, _ in without), "1/s"),
        Figure("what the journal costs", 100 * statistics.median(costs), "%", at_most=10.0),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says how often, and by how many, the master is asked."""
    parser.add_argument("--lease_workers", type=int, default=WORKERS, help="who take two each")
    parser.add_argument("--lease_rounds", type=int, default=3, help="0: no leases through gRPC")
