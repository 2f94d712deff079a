"""The copies of other partitions that a parameter server keeps in its memory.

docs/decisions/recovery.md tells the whole.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field

import numpy as np

from elasticdl.proto import ps_pb2
from elasticdl.ps import frames
from elasticdl.ps.part_files import check_part
from elasticdl.ps.refusal import Refused
from elasticdl.rpc import Frame

MAX_READ_BYTES = 1 << 24


@dataclass
class _Part:
    """A part whose files are arriving, or have arrived."""

    incarnation: int
    number: int
    base: int
    files: dict[str, bytearray] = field(default_factory=dict)
    entry: str = ""

    @property
    def order(self) -> tuple[int, int]:
        return self.incarnation, self.number


@dataclass
class _Copy:
    """What is there of one partition: parts, the whole one first, and what the last one said."""

    parts: list[_Part]
    finished: ps_pb2.FinishCopyRequest

    @property
    def newest(self) -> _Part:
        return self.parts[-1]


class Copies:
    """Keeps copies; its methods are those of the service Standby, called any number of times.

    A copy stays until a newer whole one is there, or one of a later life. Thread-safe.

    Args:
      incarnation: of the parameter server that keeps them.
    """

    def __init__(self, incarnation: int) -> None:
        self._incarnation = incarnation
        self._lock = threading.Lock()
        # By partition: what is kept, what arrives, and the earliest life that is listened to.
        self._kept: dict[int, _Copy] = {}
        self._arriving: dict[int, _Part] = {}
        self._earliest: dict[int, int] = {}

    # ------------------------------------------------------------------ writing

    def write_copy(self, frame: Frame) -> Frame:
        """Take bytes of a file of a part."""
        try:
            header, buffers = frames.unpack(frame, ps_pb2.WriteCopyHeader)
            if len(buffers) != 1:
                raise frames.FrameError(f"{len(buffers)} buffers; the bytes are one")
            with self._lock:
                part = self._expected(header.part)
                if part is not None:
                    _append(part, header.file, header.offset, buffers[0])
            return frames.pack(ps_pb2.PsReply())
        except Refused as refused:
            return frames.pack(refused.reply)
        except (frames.FrameError, MemoryError) as error:
            return frames.pack(ps_pb2.PsReply(status=ps_pb2.PS_INVALID, message=str(error)))

    def finish_copy(self, request: ps_pb2.FinishCopyRequest) -> ps_pb2.FinishCopyReply:
        """Let a part count all of whose files are there."""
        with self._lock:
            try:
                part = self._expected(request.part)
                if part is not None:
                    self._finish(part, request)
                return ps_pb2.FinishCopyReply()
            except Refused as refused:
                reply = refused.reply
                return ps_pb2.FinishCopyReply(status=reply.status, message=reply.message)

    def _expected(self, said: ps_pb2.CopyPart) -> _Part | None:
        """Return the part that arrives, begun if it is new; None for one that is there already.

        Raises:
          Refused: it is older than what is here, or what it builds on is not here.
        """
        self._check_keeper(said.keeper)
        index, order = said.partition, (said.incarnation, said.number)
        kept, arriving = self._kept.get(index), self._arriving.get(index)
        if kept is not None and kept.newest.order == order:
            return None
        newest = max(one.order for one in ((kept and kept.newest), arriving, _NONE) if one)
        if order < newest or said.incarnation < self._earliest.get(index, 0):
            raise Refused(ps_pb2.PS_COPY_GONE, f"a newer copy of partition {index} is here")
        if said.base and (kept is None or kept.newest.order != (said.incarnation, said.base)):
            raise Refused(
                ps_pb2.PS_COPY_WANTED_WHOLE, f"part {said.base} of partition {index} is not here"
            )
        if arriving is None or arriving.order != order:
            arriving = _Part(said.incarnation, said.number, said.base)
            self._arriving[index] = arriving
            self._earliest[index] = said.incarnation
        return arriving

    def _finish(self, part: _Part, request: ps_pb2.FinishCopyRequest) -> None:
        index = request.part.partition
        try:
            entry = json.loads(request.entry)
            check_part(entry, part.number)
            described = {one["name"]: one["bytes"] for one in entry["files"]}
            if described != {name: len(data) for name, data in part.files.items()}:
                raise ValueError("its files are not those that came")
        except (ValueError, TypeError, KeyError) as error:
            del self._arriving[index]
            message = f"part {part.number} of partition {index}: {error}"
            raise Refused(ps_pb2.PS_INVALID, message) from None
        part.entry = request.entry
        before = self._kept[index].parts if part.base else []
        self._kept[index] = _Copy([*before, part], request)
        del self._arriving[index]

    # ------------------------------------------------------------------ reading

    def get_copy(self, request: ps_pb2.GetCopyRequest) -> ps_pb2.GetCopyReply:
        """Say what is kept of a partition, whose earlier lives are not listened to any more."""
        with self._lock:
            try:
                self._check_keeper(request.keeper)
                index = request.partition
                earliest = max(request.incarnation, self._earliest.get(index, 0))
                self._earliest[index] = earliest
                if index in self._arriving and self._arriving[index].incarnation < earliest:
                    del self._arriving[index]
                copy = self._kept.get(index)
                if copy is None:
                    raise Refused(ps_pb2.PS_COPY_GONE, "there is none")
            except Refused as refused:
                reply = refused.reply
                return ps_pb2.GetCopyReply(status=reply.status, message=reply.message)
            return ps_pb2.GetCopyReply(
                incarnation=copy.newest.incarnation,
                entries=[part.entry for part in copy.parts],
                routing_version=copy.finished.routing_version,
                newest_checkpoint=copy.finished.newest_checkpoint,
                model=copy.finished.model,
            )

    def read_copy(self, frame: Frame) -> Frame:
        """Return bytes of a file of a part that is kept."""
        try:
            header, _ = frames.unpack(frame, ps_pb2.ReadCopyHeader)
            with self._lock:
                end = header.offset + min(max(0, header.max_bytes), MAX_READ_BYTES)
                found = self._file(header.part, header.file)
                # A copy: what is kept may go, and a view would keep it from growing.
                bytes_read = bytes(memoryview(found)[max(0, header.offset) : max(0, end)])
            return frames.pack(ps_pb2.PsReply(), [np.frombuffer(bytes_read, np.uint8)])
        except Refused as refused:
            return frames.pack(refused.reply)
        except (frames.FrameError, MemoryError) as error:
            return frames.pack(ps_pb2.PsReply(status=ps_pb2.PS_INVALID, message=str(error)))

    def _file(self, said: ps_pb2.CopyPart, name: str) -> bytearray:
        self._check_keeper(said.keeper)
        copy = self._kept.get(said.partition)
        for part in [] if copy is None else copy.parts:
            if part.order == (said.incarnation, said.number) and name in part.files:
                return part.files[name]
        raise Refused(ps_pb2.PS_COPY_GONE, f"part {said.number} is not here any more")

    def _check_keeper(self, incarnation: int) -> None:
        if incarnation != self._incarnation:
            raise Refused(
                ps_pb2.PS_STALE_INCARNATION, f"incarnation {self._incarnation}, not {incarnation}"
            )


_NONE = _Part(0, 0, 0)


def _append(part: _Part, name: str, offset: int, data: memoryview) -> None:
    file = part.files.setdefault(name, bytearray())
    if offset == len(file):
        file += data
    elif offset < 0 or offset + len(data) > len(file):
        raise Refused(ps_pb2.PS_INVALID, f"'{name}' has {len(file)} bytes, none at {offset}")
