"""Fetches the copy of a partition from the parameter server that keeps it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from elasticdl.errors import JobError
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps import frames
from elasticdl.ps.part_files import Memory, PlacedPart, check_part
from elasticdl.ps.restoring import Source
from elasticdl.rpc import Client

logger = logging.getLogger(__name__)

DEADLINE_S = 3.0
"""How long nothing may come."""
CHUNK_BYTES = 1 << 22


class CopySource:
    """The copy of one partition, as its keeper has it.

    Args:
      keeper: who keeps it.
      client: of the keeper's service Standby.
      partition: the partition's index.
      incarnation: of the life that is to be restored.
    """

    def __init__(
        self, keeper: master_pb2.Partition, client: Client, partition: int, incarnation: int
    ) -> None:
        self._keeper = keeper
        self._client = client
        self._partition = partition
        self._incarnation = incarnation
        self._name = f"its copy on parameter server {keeper.index}"

    def fetch(self, restore: master_pb2.Restore) -> Source:
        """Return all of it, unchecked, if it may be restored instead of the checkpoint.

        It may if it is of the same routing and goes beyond that checkpoint: then it has closed what
        the ledger has forgotten.

        Raises:
          JobError: it may not, there is none, or it did not come; one line.
          RpcError: the keeper cannot answer.
        """
        reply = self._client.call_until(
            "GetCopy",
            ps_pb2.GetCopyRequest(
                keeper=self._keeper.incarnation,
                partition=self._partition,
                incarnation=self._incarnation,
            ),
            DEADLINE_S,
            DEADLINE_S,
        )
        if reply.status != ps_pb2.PS_OK:
            raise JobError(f"{self._name}: {reply.message}")
        if reply.routing_version != restore.routing.version:
            raise JobError(f"{self._name} is of routing version {reply.routing_version}")
        if reply.newest_checkpoint < restore.number:
            raise JobError(
                f"{self._name} is older than checkpoint {restore.number}: it goes beyond "
                f"{reply.newest_checkpoint}"
            )
        try:
            chain = [self._part(reply.incarnation, text) for text in reply.entries]
        except (ValueError, TypeError, KeyError) as error:
            raise JobError(f"{self._name}: {error}") from None
        num_groups = len(restore.routing.partition_of_group)
        return Source(self._name, reply.newest_checkpoint, num_groups, reply.model, [chain])

    def _part(self, incarnation: int, text: str) -> PlacedPart:
        entry: dict[str, Any] = json.loads(text)
        check_part(entry, entry["number"])
        said = ps_pb2.CopyPart(
            keeper=self._keeper.incarnation,
            partition=self._partition,
            incarnation=incarnation,
            number=entry["number"],
        )
        files = {
            one["name"]: b"".join(self._blocks(said, one["name"], one["bytes"]))
            for one in entry["files"]
        }
        return PlacedPart(Memory(self._name, files), entry)

    def _blocks(self, part: ps_pb2.CopyPart, name: str, num_bytes: int) -> Iterator[memoryview]:
        offset = 0
        while offset < num_bytes:
            header = ps_pb2.ReadCopyHeader(
                part=part, file=name, offset=offset, max_bytes=CHUNK_BYTES
            )
            frame = frames.pack(header)
            answer = self._client.call_until("ReadCopy", frame, DEADLINE_S, DEADLINE_S)
            reply, buffers = frames.unpack(answer, ps_pb2.PsReply)
            if reply.status != ps_pb2.PS_OK or not buffers or not len(buffers[0]):
                raise JobError(f"{self._name}: {name}: {reply.message or 'bytes are missing'}")
            yield buffers[0]
            offset += len(buffers[0])
