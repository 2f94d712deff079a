"""Frames of a header message and raw arrays: made of them, and read back unafraid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from elasticdl.proto import ps_pb2
from elasticdl.ps import bfloat16
from elasticdl.rpc.frame import Buffer, Frame, bytes_of

Header = TypeVar("Header", bound=Message)


class FrameError(ValueError):
    """A frame does not fit what was expected."""


def pack(header: Message, arrays: Sequence[np.ndarray | Sequence[np.ndarray]] = ()) -> Frame:
    """Return a frame whose buffers are the arrays, or lists of arrays, themselves; no copies."""
    return Frame(header.SerializeToString(), tuple(_buffer(one) for one in arrays))


def _buffer(arrays: np.ndarray | Sequence[np.ndarray]) -> Buffer:
    if isinstance(arrays, np.ndarray):
        return bytes_of(arrays)
    return tuple(bytes_of(one) for one in arrays)


def unpack(frame: Frame, header_class: type[Header]) -> tuple[Header, list[memoryview]]:
    """Return the header and the buffers of a frame that came; nothing is copied.

    Raises:
      FrameError: the header is not of this class.
    """
    try:
        header = header_class.FromString(frame.head)
    except DecodeError as error:
        raise FrameError(f"unreadable header: {error}") from None
    return header, [one for one in frame.buffers if isinstance(one, memoryview)]


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


def bfloat16s(buffer: memoryview) -> np.ndarray:
    """View a buffer as bfloat16, which is uint16 ``[n]``; FrameError if its length does not fit."""
    if buffer.nbytes % 2:
        raise FrameError(f"{buffer.nbytes} bytes are no bfloat16 array")
    return np.frombuffer(buffer, np.uint16)


def rows(buffer: memoryview, dim: int, dtype: ps_pb2.WireDtype) -> np.ndarray:
    """Return rows that came as one type or the other, float32 ``[n, dim]``; FrameError likewise."""
    if dtype == ps_pb2.WIRE_FLOAT32:
        return float32_rows(buffer, dim)
    halves = bfloat16s(buffer)
    if len(halves) % dim:
        raise FrameError(f"{buffer.nbytes} bytes are no bfloat16 array of {dim} columns")
    return bfloat16.widened(halves.reshape(-1, dim))


def check_dtype(dtype: ps_pb2.WireDtype, is_pinned: bool = False) -> ps_pb2.WireDtype:
    """Return the type that a frame's header names; FrameError if there is none for what it asks."""
    if dtype not in ps_pb2.WireDtype.values():
        raise FrameError(f"values of the unknown type {dtype}")
    if is_pinned and dtype != ps_pb2.WIRE_FLOAT32:
        raise FrameError("what is pinned travels as float32")
    return dtype
