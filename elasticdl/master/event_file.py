"""A job's numbers as TensorBoard reads them: a TFRecord file that grows."""

from __future__ import annotations

import math
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from elasticdl.proto import event_pb2

DIRECTORY = "tensorboard"
_VERSION = "brain.Event:2"


class EventFile:
    """The events of one master, in a file that is made with the first of them. Not thread-safe.

    Args:
      directory: of this file and those of masters before; TensorBoard reads them as one.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._path: Path | None = None

    def add(self, at: float, step: int, numbers: Mapping[str, float | None]) -> None:
        """Add what was so at a time, in seconds since 1970, after a step; None is left out.

        Raises:
          OSError: it cannot be written.
        """
        values = [
            event_pb2.Summary.Value(tag=tag, simple_value=number)
            for tag, number in numbers.items()
            if number is not None and math.isfinite(number)
        ]
        if not values:
            return
        data = b""
        if self._path is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{int(at):010d}.{socket.gethostname()}.{os.getpid()}"
            self._path = self._directory / name
            data = _record(event_pb2.Event(wall_time=at, file_version=_VERSION))
        summary = event_pb2.Summary(value=values)
        data += _record(event_pb2.Event(wall_time=at, step=step, summary=summary))
        with self._path.open("ab") as file:
            file.write(data)


def _record(event: event_pb2.Event) -> bytes:
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def _checksum(data: bytes) -> bytes:
    """TFRecord's masked CRC-32C; of a few bytes a second, so that nothing has to be compiled."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
