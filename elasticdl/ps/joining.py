"""How a parameter server joins a job: it is told what to restore, does so, and says what it has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from elasticdl.heartbeat import register
from elasticdl.proto import master_pb2
from elasticdl.ps.partition import Partition
from elasticdl.rpc import Client


def join(
    master: Client,
    instance: master_pb2.InstanceId,
    partition: Partition,
    address: str,
    on_known: Callable[[], None] = lambda: None,
) -> None:
    """Register, restore, and register again as ready.

    Args:
      master: the master's client.
      instance: who this is.
      partition: to be restored; it is reachable already.
      address: where.
      on_known: called once the master knows the instance: from then on it expects signs of life.

    Raises:
      NotAMember: this incarnation is not wanted (any more).
      JobError: the checkpoint cannot be read.
    """
    request = master_pb2.RegisterRequest(instance=instance, address=address, pid=os.getpid())
    restore = register(master, request).restore
    on_known()
    if restore.checkpoint:
        partition.restore(Path(restore.checkpoint), restore.routing)
        request.restored = True
        request.closed.extend(
            bound for pair in partition.progress.closed.intervals for bound in pair
        )
    request.ready = True
    register(master, request)
