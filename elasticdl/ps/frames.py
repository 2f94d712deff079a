"""Packs a header message and raw arrays into one block of bytes, and reads it back unafraid.

Layout, little-endian: magic u32, header length u32, number of buffers u32, reserved u32; the length
of each buffer u64; the header; then the buffers, each starting at a multiple of 64 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

MAGIC = 0x46454C31
ALIGNMENT = 64
MAX_BUFFERS = 1 << 16
_PREFIX = struct.Struct("<IIII")

Header = TypeVar("Header", bound=Message)


class FrameError(ValueError):
    """The bytes are not a frame, or not one that fits what was expected."""


def _padding(position: int) -> int:
    return -position % ALIGNMENT


def pack(header: Message, buffers: Sequence[np.ndarray] = ()) -> bytes:
    """Return one frame of a header and C-contiguous arrays (copied once)."""
    head = header.SerializeToString()
    views = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in buffers]
    parts: list[bytes | memoryview] = [_PREFIX.pack(MAGIC, len(head), len(views), 0)]
    parts.append(struct.pack(f"<{len(views)}Q", *(view.nbytes for view in views)))
    parts.append(head)
    position = _PREFIX.size + 8 * len(views) + len(head)
    for view in views:
        pad = _padding(position)
        parts.append(bytes(pad))
        parts.append(view)
        position += pad + view.nbytes
    return b"".join(parts)


def unpack(data: bytes, header_class: type[Header]) -> tuple[Header, list[memoryview]]:
    """Return the header and views of the buffers; nothing is copied.

    Raises:
      FrameError: the bytes are truncated, too long, or no frame at all.
    """
    if len(data) < _PREFIX.size:
        raise FrameError(f"a frame of {len(data)} bytes is too short")
    magic, head_length, num_buffers, _ = _PREFIX.unpack_from(data)
    if magic != MAGIC or num_buffers > MAX_BUFFERS:
        raise FrameError(f"not a frame: magic {magic:#x}, {num_buffers} buffers")
    position = _PREFIX.size + 8 * num_buffers
    if position + head_length > len(data):
        raise FrameError(f"the header of {head_length} bytes ends beyond the frame")
    lengths = struct.unpack_from(f"<{num_buffers}Q", data, _PREFIX.size)
    view = memoryview(data)
    try:
        header = header_class.FromString(bytes(view[position : position + head_length]))
    except DecodeError as error:
        raise FrameError(f"unreadable header: {error}") from None
    position += head_length
    buffers = []
    for length in lengths:
        position += _padding(position)
        if position + length > len(data):
            raise FrameError(f"a buffer of {length} bytes ends beyond the frame")
        buffers.append(view[position : position + length])
        position += length
    if position != len(data):
        raise FrameError(f"{len(data) - position} bytes follow the last buffer")
    return header, buffers


def int64s(buffer: memoryview) -> np.ndarray:
    """View a buffer as int64 ``[n]``; FrameError if its length does not fit."""
    if buffer.nbytes % 8:
        raise FrameError(f"{buffer.nbytes} bytes are no int64 array")
    return np.frombuffer(buffer, np.int64)


def float32s(buffer: memoryview) -> np.ndarray:
    """View a buffer as float32 ``[n]``; FrameError if its length does not fit."""
    if buffer.nbytes % 4:
        raise FrameError(f"{buffer.nbytes} bytes are no float32 array")
    return np.frombuffer(buffer, np.float32)


def float32_rows(buffer: memoryview, dim: int) -> np.ndarray:
    """View a buffer as float32 ``[n, dim]``; FrameError if its length does not fit."""
    if buffer.nbytes % (4 * dim):
        raise FrameError(f"{buffer.nbytes} bytes are no float32 array of {dim} columns")
    return np.frombuffer(buffer, np.float32).reshape(-1, dim)
