"""Leases per second of a real master through gRPC, its journal on disk.

The master's process holds what every master holds: ledger, membership, journal, service. Two other
processes are thousands of its workers: all want the two tasks that a worker may hold, 64 of them at
a time. A lease is answered once its journal entries are on disk. What a master without a journal
answers, in the same run, says what the journal costs. With `--lease_mirror`, a path or URI, another
one takes turns with them whose journal is mirrored there, as that of a master in a pod is.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import secrets
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import grpc

from benchmarks.figures import Figure
from elasticdl.credentials import Credentials
from elasticdl.data.shards import Shard
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.backend import LOG_TAIL_BYTES
from elasticdl.master.cluster.local import to_message
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.garbage import collect_rarely
from elasticdl.master.instances import InstanceSpec, Needs, Role
from elasticdl.master.journal import Journal, Row
from elasticdl.master.journal_mirror import JournalMirror
from elasticdl.master.membership_events import Registered
from elasticdl.master.servicer import MasterServicer
from elasticdl.master.tasks import JobPlan, TaskKind
from elasticdl.proto import master_pb2
from elasticdl.rpc import Server, Service
from elasticdl.rpc.transport import CHANNEL_OPTIONS, TOKEN_KEY

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

    def launch(self, spec: InstanceSpec, needs: Needs) -> None:
        pass

    def adopt(self, specs: Sequence[InstanceSpec]) -> None:
        pass

    def stop(self, spec: InstanceSpec, grace_s: float) -> None:
        pass

    def watch(self, on_event: Any) -> None:
        pass

    def log_tail(self, spec: InstanceSpec, most_bytes: int = LOG_TAIL_BYTES) -> str:
        return ""

    def clean_up(self) -> None:
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
    """Be some workers, in a process of its own."""
    asyncio.run(_ask_all(address, workers, pipe))


async def _ask_all(address: str, workers: Sequence[int], pipe: Connection) -> None:
    """Take what the workers may hold; tell how many tasks were granted, and the time that took.

    The processor is shared with the master, and should be its: gRPC without threads takes least.
    """
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        call = channel.unary_unary(f"/{SERVICE.full_name}/Lease")
        left = iter(workers)

        async def take() -> int:
            granted = 0
            for worker in left:
                spec = to_message(InstanceSpec(Role.WORKER, worker, 1))
                for number in range(TASKS_EACH):
                    request = master_pb2.LeaseRequest(instance=spec, request=number)
                    text = await call(
                        request.SerializeToString(),
                        timeout=_CALL_S,
                        metadata=((TOKEN_KEY, _TOKEN),),
                    )
                    reply = master_pb2.LeaseReply.FromString(text)
                    if reply.outcome != master_pb2.LeaseReply.GRANTED:
                        raise SystemExit(f"not granted: {reply}")
                    granted += 1
            return granted

        await channel.channel_ready()
        pipe.send("connected")
        pipe.recv()
        used = time.process_time()
        granted = sum(await asyncio.gather(*(take() for _ in range(_AT_A_TIME))))
        pipe.send((granted, time.process_time() - used))


@dataclass(frozen=True)
class _Run:
    """Leases per second; processor time of the master and of who asks it, in µs a lease."""

    per_s: float
    master_us: float
    workers_us: float


class _TimedMirror(JournalMirror):
    """Notes how long each put takes, and of how many entries it is."""

    def __init__(self, root: str) -> None:
        super().__init__(root, 1)
        self.puts: list[tuple[float, int]] = []

    def put(self, rows: Sequence[Row]) -> None:
        began = time.perf_counter()
        super().put(rows)
        self.puts.append((time.perf_counter() - began, len(rows)))


def run(kind: type[Journal], workers: int, mirror: _TimedMirror | None = None) -> _Run:
    """Run a master and its workers."""
    with tempfile.TemporaryDirectory() as job_dir:
        if mirror is not None:
            mirror.fetch(job_dir)
        spec = JobSpec(command="train", job_dir=job_dir, num_workers=workers, num_ps=1)
        shard = Shard("records", _TASKS_BEYOND * workers * RECORDS_PER_TASK)
        plan = JobPlan((TaskKind.TRAINING,), (shard,), records_per_task=RECORDS_PER_TASK)
        journal = kind(job_dir, mirror=mirror)
        coordinator = Coordinator(spec, plan, _NoCluster(), journal)
        server = Server(
            [Service(SERVICE, MasterServicer(coordinator, dict))],
            Credentials(_TOKEN),
            num_threads=_SERVER_THREADS,
        )
        try:
            coordinator.start()
            coordinator.register(Registered(InstanceSpec(Role.PS, 0, 1), "here:1", 1))
            for worker in range(workers):
                coordinator.register(Registered(InstanceSpec(Role.WORKER, worker, 1), "", 1))
            if mirror is not None:
                mirror.puts.clear()
            return _drive(server.address, workers)
        finally:
            server.stop()
            coordinator.ended.set()
            journal.close()


def _drive(address: str, workers: int) -> _Run:
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
        told = [pipe.recv() for _, pipe in clients]
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - used
    finally:
        for process, pipe in clients:
            pipe.close()
            process.join(_CALL_S)
            process.kill()
    granted = sum(each for each, _ in told)
    workers_s = sum(each for _, each in told)
    return _Run(granted / wall_s, 1e6 * cpu_s / granted, 1e6 * workers_s / granted)


def measure(rounds: int, workers: int, mirror: str = "") -> list[Figure]:
    """Let masters with and without a journal take turns; return the figures.

    Args:
      rounds: so many turns.
      workers: who ask in each.
      mirror: where another journal is mirrored, path or URI; empty: there is none.
    """
    with_journal, without, mirrored = [], [], []
    puts: list[tuple[float, int]] = []
    collect_rarely()
    for _ in range(rounds):
        with_journal.append(run(Journal, workers))
        without.append(run(_NoJournal, workers))
        if mirror:
            timed = _TimedMirror(f"{mirror.rstrip('/')}/{secrets.token_hex(4)}")
            mirrored.append(run(Journal, workers, timed))
            puts += timed.puts
    costs = [
        1 - ours.per_s / theirs.per_s for ours, theirs in zip(with_journal, without, strict=True)
    ]

    def time_of(name: str, runs: Sequence[_Run], field: str) -> Figure:
        median = statistics.median(getattr(each, field) for each in runs)
        return Figure(name, median, "µs a lease", less_is_better=True)

    of_mirror = (
        []
        if not mirrored
        else [
            Figure("with a mirror", statistics.median(each.per_s for each in mirrored), "1/s"),
            time_of("processor time of the master, with a mirror", mirrored, "master_us"),
            Figure("one put", 1e3 * statistics.median(each for each, _ in puts), "ms"),
            Figure("entries a put", statistics.mean(number for _, number in puts), ""),
        ]
    )
    return [
        Figure(
            "leases through gRPC, journal on disk",
            statistics.median(each.per_s for each in with_journal),
            "1/s",
            at_least=3000.0,
        ),
        time_of("processor time of the master", with_journal, "master_us"),
        time_of("processor time of who asks", with_journal, "workers_us"),
        Figure("without a journal", statistics.median(each.per_s for each in without), "1/s"),
        time_of("processor time of the master, without", without, "master_us"),
        Figure("what the journal costs", 100 * statistics.median(costs), "%", at_most=10.0),
        *of_mirror,
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says how often, and by how many, the master is asked."""
    parser.add_argument("--lease_workers", type=int, default=WORKERS, help="who take two each")
    parser.add_argument("--lease_rounds", type=int, default=3, help="0: no leases through gRPC")
    parser.add_argument("--lease_mirror", default="", help="where a journal is mirrored as well")
