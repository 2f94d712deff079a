"""Registers an instance with the master and keeps telling it that the instance lives."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from elasticdl.instance import resident_bytes
from elasticdl.phases import PHASES
from elasticdl.proto import master_pb2
from elasticdl.refusals import REFUSALS
from elasticdl.rpc import Client, DeadlinePassed, RpcError

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
ORPHAN_S = 900.0
"""How long an instance waits for a master that does not answer; then it ends by itself."""
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.25


class NotAMember(Exception):
    """The master does not know this incarnation (any more): it was replaced, and must leave."""


class Orphaned(DeadlinePassed):
    """No master answered for so long that there will be none: the instance must leave."""


class Heartbeat:
    """Signs of life of one instance, from a thread of its own.

    Args:
      master: the master's client.
      instance: who this is.
      grants: tells which grants the instance works on.
      loss: tells the latest loss, None where there is none.
      on_end: called once, from that thread, with why: `finished`, `replaced` or `orphaned`.
      on_cluster: called, from that thread, with the version of the cluster as the master has it.
      doing: says what the instance is at, in words.
      metrics_address: where the instance serves metrics of its own; empty where it does not.
      partition: what a parameter server counted; None for others, and before it holds anything.
    """

    def __init__(
        self,
        master: Client,
        instance: master_pb2.InstanceId,
        on_end: Callable[[str], None],
        grants: Callable[[], Sequence[int]] = tuple,
        loss: Callable[[], float | None] = lambda: None,
        on_cluster: Callable[[int], None] = lambda version: None,
        doing: Callable[[], str] = lambda: "",
        partition: Callable[[], master_pb2.PartitionCounts | None] = lambda: None,
        metrics_address: str = "",
    ) -> None:
        self._doing = doing
        self._partition = partition
        self._metrics_address = metrics_address
        self._master = master
        self._instance = instance
        self._grants = grants
        self._loss = loss
        self._on_end = on_end
        self._on_cluster = on_cluster
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()

    def _beat(self) -> None:
        answered = time.monotonic()
        while not self._stopped.wait(INTERVAL_S):
            loss = self._loss()
            request = master_pb2.HeartbeatRequest(
                instance=self._instance,
                grants=self._grants(),
                loss=loss or 0.0,
                has_loss=loss is not None,
                figures=PHASES.figures(self._instance.role).to_message(),
                vitals=self._vitals(),
            )
            try:
                reply = self._master.call("Heartbeat", request, timeout_s=5.0)
            except RpcError as error:
                # The master may be restarting.
                logger.warning("the master is not heard: %s", error)
                if time.monotonic() - answered > ORPHAN_S:
                    self._on_end("orphaned")
                    return
                continue
            answered = time.monotonic()
            if not reply.accepted or reply.job_finished:
                self._on_end("finished" if reply.job_finished else "replaced")
                return
            self._on_cluster(reply.cluster_version)

    def _vitals(self) -> master_pb2.Vitals:
        return master_pb2.Vitals(
            memory_bytes=resident_bytes(),
            doing=self._doing(),
            partition=self._partition(),
            metrics_address=self._metrics_address,
            refusals=REFUSALS.told(),
        )


def call_master(
    master: Client,
    method: str,
    request: Any,
    give_up: Callable[[], bool] = lambda: False,
) -> Any:
    """Call a master, which may be away for long.

    Raises:
      Orphaned: none answered.
      DeadlinePassed: `give_up` said so.
    """
    try:
        return master.call_until(method, request, ORPHAN_S, give_up=give_up)
    except DeadlinePassed as error:
        if give_up():
            raise
        raise Orphaned(str(error)) from None


def register(master: Client, request: master_pb2.RegisterRequest) -> master_pb2.RegisterReply:
    """Tell the master that an instance is there.

    Raises:
      NotAMember: this incarnation is not wanted (any more).
      Orphaned: no master answers.
    """
    reply = call_master(master, "Register", request)
    if not reply.accepted:
        raise NotAMember
    return reply


def find_cluster(master: Client, request: master_pb2.RegisterRequest) -> master_pb2.Cluster | None:
    """Ask once who is there, for an instance that registered with this request.

    Returns:
      None while a parameter server or the master is away.
    """
    try:
        reply = master.call("Register", request, timeout_s=5.0)
    except RpcError:
        return None
    return reply.cluster if reply.HasField("cluster") else None


def wait_for_cluster(
    master: Client,
    instance: master_pb2.InstanceId,
    pid: int,
    give_up: threading.Event | None = None,
) -> master_pb2.Cluster:
    """Register and wait until every parameter server is up, as long as a master says that it waits.

    Raises:
      NotAMember: this incarnation is not wanted (any more), or it gave up.
      Orphaned: no master answers.
    """
    stop = give_up or threading.Event()
    request = master_pb2.RegisterRequest(instance=instance, pid=pid)
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            reply = call_master(master, "Register", request, stop.is_set)
        except DeadlinePassed:
            if stop.is_set():
                raise NotAMember from None
            raise
        if not reply.accepted:
            raise NotAMember
        if reply.HasField("cluster"):
            return reply.cluster
        rest_s = max(pause_s, reply.retry_after_s)
        if stop.wait(rest_s):
            raise NotAMember
        pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)
