"""How a parameter server joins a job: it is told what to restore, does so, and says what it has."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from elasticdl.errors import JobError
from elasticdl.heartbeat import register
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.copy_source import CopySource
from elasticdl.ps.partition import Partition
from elasticdl.ps.restoring import Source
from elasticdl.rpc import Client, RpcError, Transport

logger = logging.getLogger(__name__)

ASK_AGAIN_S = 0.1
STORE_PAUSE_S = 1.0

Connect = Callable[[master_pb2.Partition], Transport]


def join(
    master: Client,
    instance: master_pb2.InstanceId,
    partition: Partition,
    address: str,
    on_known: Callable[[], None] = lambda: None,
    connect: Connect | None = None,
) -> master_pb2.RegisterRequest:
    """Register, restore, and register again as ready; return what was said then.

    Args:
      master: the master's client.
      instance: who this is.
      partition: to be restored; it is reachable already.
      address: where.
      on_known: called once the master knows the instance: from then on it expects signs of life.
      connect: makes a transport to another parameter server; None where none keeps a copy.

    Raises:
      NotAMember: this incarnation is not wanted (any more).
      Orphaned: no master answers.
      JobError: the checkpoint cannot be read.
    """
    request = master_pb2.RegisterRequest(instance=instance, address=address, pid=os.getpid())
    register(master, request)
    on_known()
    restore = _ask(master, request)
    while restore.checkpoint and not request.restored:
        try:
            source = _restore(partition, restore, connect)
        except ConnectionError as error:  # The store may be there again later.
            logger.warning("checkpoint %d: %s", restore.number, error.strerror or error)
            time.sleep(STORE_PAUSE_S)
            restore = _ask(master, request)
            continue
        except JobError as error:
            if request.unusable == restore.number:  # The master says that it is whole.
                raise
            logger.warning("%s", error)
            request.unusable, request.why = restore.number, str(error)
            restore = _ask(master, request)
            continue
        logger.info("restored from %s", source)
        request.restored, request.restored_from = True, source
        request.closed.extend(
            bound for pair in partition.progress.closed.intervals for bound in pair
        )
    request.ready = True
    register(master, request)
    return request


def _ask(master: Client, request: master_pb2.RegisterRequest) -> master_pb2.Restore:
    """Ask what to restore, until that is known."""
    while not (reply := register(master, request)).HasField("restore"):
        time.sleep(ASK_AGAIN_S)
    return reply.restore


def _restore(partition: Partition, restore: master_pb2.Restore, connect: Connect | None) -> str:
    """Restore a partition from its copy or the checkpoint; return what that is called.

    Raises:
      JobError: the checkpoint cannot be read.
    """
    is_copy = connect is not None and restore.HasField("keeper")
    source = _restore_copy(partition, restore, connect) if is_copy and connect else ""
    if not source:
        partition.restore(Source.checkpoint(restore.checkpoint), restore.routing)
        source = f"checkpoint {restore.number}"
    return source


def _restore_copy(partition: Partition, restore: master_pb2.Restore, connect: Connect) -> str:
    """Restore a partition from its copy, if that can be; return what that is called, or nothing."""
    keeper = restore.keeper
    descriptor = ps_pb2.DESCRIPTOR.services_by_name["Standby"]
    client = Client(descriptor, connect(keeper), f"parameter server {keeper.index}")
    try:
        source = CopySource(keeper, client, partition.index, partition.incarnation).fetch(restore)
        partition.restore(source, restore.routing)
    except (JobError, RpcError, MemoryError) as error:
        logger.warning("restores checkpoint %d: %s", restore.number, error or "no memory")
        return ""
    finally:
        client.close()
    return source.name
