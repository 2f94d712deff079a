"""Has another parameter server keep a copy of this one's partition, which follows by what changes.

docs/decisions/recovery.md tells the whole.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import Message

from elasticdl.errors import JobError
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps import frames
from elasticdl.ps.part_files import Sink
from elasticdl.ps.part_writer import GivenUp, PartImage
from elasticdl.ps.partition import Partition
from elasticdl.rpc import Client, Frame, RpcError, Transport

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
"""From the beginning of one copy to that of the next, at least."""
REST = 4
"""So many times as long as the last copy took, none is made."""
MOST_INCREMENTS = 8
CHUNK_BYTES = 1 << 22
CALL_S = 5.0

Connect = Callable[[master_pb2.Partition], Transport]


class NotTaken(Exception):
    """The keeper refused a part; `status` says why."""

    def __init__(self, status: ps_pb2.PsStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class _Keeper:
    """Who keeps the copy, and what is known to be there: parts, the whole one first."""

    server: master_pb2.Partition
    client: Client
    numbers: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    @property
    def base(self) -> int:
        """The part that the next one is to build on; 0 for none: it is to be whole."""
        increments = self.sizes[1:]
        if not self.sizes or len(increments) >= MOST_INCREMENTS or sum(increments) > self.sizes[0]:
            return 0
        return self.numbers[-1]

    def took(self, number: int, base: int, num_bytes: int) -> None:
        """A part is there."""
        if not base:
            self.forget()
        self.numbers.append(number)
        self.sizes.append(num_bytes)

    def forget(self) -> None:
        """It is not known what is there."""
        self.numbers.clear()
        self.sizes.clear()


def keeper_of(index: int, cluster: master_pb2.Cluster) -> master_pb2.Partition | None:
    """Who keeps the copy of a partition: the next one; None where there is no other."""
    num_partitions = len(cluster.partitions)
    return cluster.partitions[(index + 1) % num_partitions] if num_partitions > 1 else None


class Standby:
    """Keeps a copy of a partition in the memory of another, from a thread of its own.

    Nothing waits for it, and no wait of its own is without end.

    Args:
      partition: is copied.
      connect: makes a transport to another parameter server.
    """

    def __init__(self, partition: Partition, connect: Connect) -> None:
        self._partition = partition
        self._connect = connect
        self._keeper: _Keeper | None = None
        self._is_kept = False
        self._last_trouble = ""
        self._heard = self._known = -1
        self._stopped = threading.Event()

    def start(self, find_cluster: Callable[[], master_pb2.Cluster | None]) -> None:
        """Begin to copy.

        Args:
          find_cluster: asks who is there; None while somebody is away.
        """
        threading.Thread(
            target=self._run, args=(find_cluster,), name="standby", daemon=True
        ).start()

    def stop(self) -> None:
        """Copy no more."""
        self._stopped.set()

    def heard(self, cluster_version: int) -> None:
        """The master has this version of the cluster."""
        self._heard = cluster_version

    # ------------------------------------------------------------------ its thread

    def _run(self, find_cluster: Callable[[], master_pb2.Cluster | None]) -> None:
        pause_s = INTERVAL_S
        while not self._stopped.wait(pause_s):
            began = time.monotonic()
            has_worked = False
            try:
                if self._heard != self._known:
                    self._look_for_keeper(find_cluster())
                has_worked = self.copy()
            except Exception:
                logger.exception("no copy could be made")
            took_s = time.monotonic() - began
            pause_s = max(INTERVAL_S - took_s, REST * took_s if has_worked else INTERVAL_S)
        if self._keeper is not None:
            self._keeper.client.close()

    def _look_for_keeper(self, cluster: master_pb2.Cluster | None) -> None:
        if cluster is None:
            return
        self._known = cluster.version
        self.is_to_be_kept_by(keeper_of(self._partition.index, cluster))

    def is_to_be_kept_by(self, server: master_pb2.Partition | None) -> None:
        """Have this parameter server keep the copy from now on; None for nobody."""
        keeper = self._keeper
        if keeper is not None and keeper.server == server:
            return
        if keeper is not None:
            keeper.client.close()
        self._keeper = None
        if server is None:
            self._is_not_kept("there is no other parameter server")
            return
        descriptor = ps_pb2.DESCRIPTOR.services_by_name["Standby"]
        name = f"parameter server {server.index}"
        self._keeper = _Keeper(server, Client(descriptor, self._connect(server), name))

    def copy(self) -> bool:
        """Send what changed since the last time; False where there was nothing to do.

        Also False where it was in vain; the log says so, once.
        """
        keeper = self._keeper
        if keeper is None:
            return False
        try:
            image = self._partition.begin_copy(keeper.base)
            if image is None:
                return False
            try:
                num_bytes = self._send(keeper, image)
            finally:
                self._partition.end_copy(image)
        except GivenUp:  # A checkpoint was begun.
            return True
        except NotTaken as error:
            keeper.forget()
            if error.status == ps_pb2.PS_COPY_WANTED_WHOLE:
                return True
            self._is_not_kept(f"{keeper.client.name} refuses it: {error}")
        except (RpcError, JobError, MemoryError) as error:
            self._is_not_kept(str(error) or "no memory")
        else:
            keeper.took(image.moment.number, image.base, num_bytes)
            if not self._is_kept:
                self._is_kept, self._last_trouble = True, ""
                logger.info("%s keeps a copy of it", keeper.client.name)
            return True
        return False

    def _is_not_kept(self, why: str) -> None:
        if self._is_kept or not self._last_trouble:
            logger.warning("its copy is not kept (any more); it will be tried again: %s", why)
        self._is_kept, self._last_trouble = False, why

    def _send(self, keeper: _Keeper, image: PartImage) -> int:
        """Send an image; return its bytes."""
        version = self._heard
        upload = _Upload(keeper, image, lambda: self._stopped.is_set() or self._heard != version)
        entry = self._partition.write_copy(image, upload)
        upload.close(json.dumps(entry))
        return sum(one["bytes"] for one in entry["files"])


class _Upload:
    """Where a part is written to: the memory of the keeper.

    Args:
      keeper: where.
      image: what.
      is_over: asked while the keeper is not there: it will not come back.
    """

    def __init__(self, keeper: _Keeper, image: PartImage, is_over: Callable[[], bool]) -> None:
        self._keeper = keeper
        self._image = image
        self._is_over = is_over
        self._failure: Exception | None = None
        self._part = ps_pb2.CopyPart(
            keeper=keeper.server.incarnation,
            partition=image.partition,
            incarnation=image.incarnation,
            number=image.moment.number,
            base=image.base,
        )

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[Sink]:
        file = _UploadedFile(self, name)
        yield file
        file.flush()

    def finish(self) -> None:
        """What is there counts once its entry is there, too."""

    def remove(self, name: str) -> None:
        """What does not count goes when the next part comes."""

    def send(self, name: str, offset: int, data: bytearray) -> None:
        """Send some bytes of a file."""
        if self._failure is not None:  # Arrow closes what it could not write.
            raise self._failure
        header = ps_pb2.WriteCopyHeader(part=self._part, file=name, offset=offset)
        frame = frames.pack(header, [np.frombuffer(data, np.uint8)])
        try:
            reply, _ = frames.unpack(self._call("WriteCopy", frame), ps_pb2.PsReply)
            if reply.status != ps_pb2.PS_OK:
                raise NotTaken(reply.status, reply.message)
        except (RpcError, JobError, NotTaken) as error:
            self._failure = error
            raise

    def close(self, entry: str) -> None:
        """Have the part count."""
        request = ps_pb2.FinishCopyRequest(
            part=self._part,
            entry=entry,
            routing_version=self._image.contents.routing_version,
            newest_checkpoint=self._image.moment.newest_checkpoint,
            model=self._image.contents.model,
        )
        reply = self._call("FinishCopy", request)
        if reply.status != ps_pb2.PS_OK:
            raise NotTaken(reply.status, reply.message)

    def _call(self, method: str, request: Frame | Message) -> Any:
        return self._keeper.client.call_until(method, request, CALL_S, CALL_S, self._is_over)


class _UploadedFile:
    """A file that goes to the keeper chunk by chunk."""

    def __init__(self, upload: _Upload, name: str) -> None:
        self._upload = upload
        self._name = name
        self._offset = 0
        self._waiting = bytearray()

    def write(self, data: memoryview) -> int:
        taken = data[: CHUNK_BYTES - len(self._waiting)]
        self._waiting += taken
        if len(self._waiting) >= CHUNK_BYTES:
            self.flush()
        return len(taken)

    def flush(self) -> None:
        """Send what waits."""
        self._upload.send(self._name, self._offset, self._waiting)
        self._offset += len(self._waiting)
        self._waiting = bytearray()
