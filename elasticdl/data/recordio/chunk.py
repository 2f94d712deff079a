"""One chunk of a RecordIO file: header, compression, records.

chunk   = header payload
header  = magic, CRC32-IEEE of the payload as stored, compressor, bytes of the payload as stored,
          number of records: five unsigned 32-bit little-endian integers
payload = per record its length, unsigned 32-bit little-endian, and its bytes; compressed as a whole
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import islice
from typing import NamedTuple, Protocol

import cramjam
import numpy as np
from isal import isal_zlib

from elasticdl.errors import UsageError

MAGIC = 0x01020304
DEFAULT_MAX_CHUNK_BYTES = 256 << 20

_HEADER = struct.Struct("<5I")
_GZIP_WINDOW = 31  # zlib's code for a gzip header and the largest window
# A Snappy copy element turns 3 bytes into at most 64; literals and framing only make data longer.
_SNAPPY_MAX_EXPANSION = 22

HEADER_BYTES = _HEADER.size
_LENGTH_BYTES = 4
_BATCH_BYTES = (
    256 << 10
)  # records handed out at once: enough to amortize, few enough to stay cached


class Compressor(IntEnum):
    """How the payload of a chunk is stored; the numbers are those of the file."""

    NONE = 0
    SNAPPY = 1
    GZIP = 2

    @classmethod
    def parse(cls, value: Compressor | str) -> Compressor:
        """Return the compressor of that name, or raise a UsageError naming those there are."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and value.upper() in cls.__members__:
            return cls[value.upper()]
        names = ", ".join(member.name.lower() for member in cls)
        raise UsageError(f"compressor '{value}': unknown; one of {names}")


_COMPRESSORS = frozenset(int(compressor) for compressor in Compressor)


class BrokenChunkError(Exception):
    """Why a chunk cannot be read; whoever knows the file makes a DataError of it."""


class Header(NamedTuple):
    """The header of a chunk, as stored."""

    magic: int
    crc: int
    compressor: int
    compressed_bytes: int
    num_records: int

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """Read a header from `HEADER_BYTES` bytes."""
        return cls(*_HEADER.unpack(data))

    def pack(self) -> bytes:
        """Return the header as the file has it."""
        return _HEADER.pack(*self)

    def check(self, available_bytes: int, max_chunk_bytes: int) -> None:
        """Check what can be known without the payload.

        Args:
          available_bytes: what the file holds after this header.
          max_chunk_bytes: the largest payload the reader accepts, stored or decompressed.

        Raises:
          BrokenChunkError: the header is wrong, or claims more than there is or more than allowed.
        """
        stored = self.compressed_bytes
        if self.magic != MAGIC:
            raise BrokenChunkError(
                f"starts with 0x{self.magic:08x}, not 0x{MAGIC:08x}: not RecordIO, or corrupted"
            )
        if self.compressor not in _COMPRESSORS:
            raise BrokenChunkError(
                f"has compressor {self.compressor}; there are 0 (none), 1 (Snappy), 2 (gzip)"
            )
        if not self.num_records:
            raise BrokenChunkError("has no records, and no writer makes such a chunk: corrupted")
        if stored > available_bytes:
            raise BrokenChunkError(
                f"claims {stored} bytes where {available_bytes} are left: truncated or corrupted"
            )
        if stored > max_chunk_bytes:
            raise BrokenChunkError(f"has {stored} bytes, over max_chunk_bytes={max_chunk_bytes}")
        room = stored if self.compressor == Compressor.NONE else max_chunk_bytes
        if self.num_records * _LENGTH_BYTES > room:
            raise BrokenChunkError(f"claims {self.num_records} records, more than fit {room} bytes")


def pack_chunk(records: Sequence[bytes], compressor: Compressor) -> bytes:
    """Return header and payload of a chunk with these records."""
    parts: list[bytes] = []
    for record in records:
        parts.append(len(record).to_bytes(_LENGTH_BYTES, "little"))
        parts.append(record)
    payload = b"".join(parts)
    if compressor is Compressor.SNAPPY:
        payload = bytes(cramjam.snappy.compress(payload))
    elif compressor is Compressor.GZIP:
        stream = zlib.compressobj(wbits=_GZIP_WINDOW)
        payload = stream.compress(payload) + stream.flush()
    header = Header(MAGIC, zlib.crc32(payload), compressor, len(payload), len(records))
    return header.pack() + payload


class ChunkFile(Protocol):
    """What `ChunkReader` needs of a file; each chunk is sought before it is read."""

    def seek(self, offset: int, /) -> object: ...
    def read(self, num_bytes: int, /) -> bytes: ...
    def readinto(self, target: memoryview, /) -> int: ...


class ChunkReader:
    """Reads chunks of one file, each into the memory of the one before.

    That memory stays within a small multiple of `max_chunk_bytes`, whatever the file claims.
    Not safe for several threads.

    Args:
      file: the open file.
      max_chunk_bytes: the largest payload accepted, stored or decompressed.
    """

    def __init__(self, file: ChunkFile, max_chunk_bytes: int) -> None:
        self._file = file
        self._max_chunk_bytes = max_chunk_bytes
        self._stored = io.BytesIO()
        self._decompressed = io.BytesIO()
        self._snappy_buffer = np.empty(0, np.uint8)
        self._joined = np.empty(0, np.uint8)

    def read(self, header: Header, offset: int) -> Iterator[list[bytes]]:
        """Verify the chunk at an offset, then iterate over its records, some at a time.

        Use up or drop the iterator before the next call.

        Args:
          header: what the header there was, and passed `Header.check`.
          offset: where the header is.

        Raises:
          BrokenChunkError: the payload is not what the header says, or larger than allowed; from
            this call, but for lengths of records that do not add up, which only a forged CRC lets
            through: from the iterator.
        """
        self._file.seek(offset)
        same = self._file.read(HEADER_BYTES) == header.pack()
        with _resize(self._stored, header.compressed_bytes) as stored:
            crc = 0
            for start in range(0, len(stored), _BATCH_BYTES):
                part = stored[start : start + _BATCH_BYTES]
                same = same and self._file.readinto(part) == len(part)
                crc = isal_zlib.crc32(part, crc)
            if not same:
                raise BrokenChunkError("changed since the file was indexed")
            if crc != header.crc:
                raise BrokenChunkError(
                    f"has CRC32 0x{crc:08x}, its header says 0x{header.crc:08x}: corrupted"
                )
            if header.compressor == Compressor.NONE:
                return self._split(self._stored, len(stored), header.num_records)
            if header.compressor == Compressor.SNAPPY:
                payload = self._decompress_snappy(stored)
            else:
                payload = memoryview(_decompress_gzip(stored, self._max_chunk_bytes))
        with _resize(self._decompressed, len(payload)) as target:
            target[:] = payload
        return self._split(self._decompressed, len(payload), header.num_records)

    def _decompress_snappy(self, stored: memoryview) -> memoryview:
        size = min(_SNAPPY_MAX_EXPANSION * len(stored), self._max_chunk_bytes)
        if len(self._snappy_buffer) < size:
            # Costs nothing until it is written to; cramjam never writes beyond it.
            self._snappy_buffer = np.empty(size, np.uint8)
        buffer = self._snappy_buffer.data[:size]
        try:
            return buffer[: cramjam.snappy.decompress_into(stored, buffer)]
        except cramjam.DecompressionError as error:
            if "failed to write whole buffer" in str(error):
                raise _too_large(self._max_chunk_bytes) from error
            raise BrokenChunkError(f"is not valid Snappy data ({error}): corrupted") from error

    def _split(
        self, payload: io.BytesIO, num_bytes: int, num_records: int
    ) -> Iterator[list[bytes]]:
        """Cut a payload into its records, in C loops; faster still where all are equally long."""
        if num_records * _LENGTH_BYTES > num_bytes:
            raise _misfit(num_bytes, num_records)
        batch = max(1, _BATCH_BYTES * num_records // num_bytes)
        if num_bytes % num_records == 0:
            step = num_bytes // num_records
            length = step - _LENGTH_BYTES
            lengths = np.ndarray(num_records, "<u4", payload.getbuffer(), strides=(step,))
            if (lengths == length).all():
                return _split_evenly(payload, length, batch)
            del lengths  # Nobody else holds the payload's memory.
        return self._split_unevenly(payload, num_bytes, num_records, batch)

    def _split_unevenly(
        self, payload: io.BytesIO, num_bytes: int, num_records: int, batch: int
    ) -> Iterator[list[bytes]]:
        # Compiled, which takes a while to be loaded: not for who looks at headers only.
        from elasticdl.data.readers.kernels import join_records

        if len(self._joined) < num_bytes:
            self._joined = np.empty(num_bytes, np.uint8)
        end = 0
        for first in range(0, num_records, batch):
            lengths, begin = np.empty(min(batch, num_records - first), np.int64), end
            with payload.getbuffer() as view:
                data = np.frombuffer(view, np.uint8)
                count, end = join_records(data, begin, lengths, self._joined)
                del data
            if count < len(lengths) or (first + batch >= num_records and end != num_bytes):
                raise _misfit(num_bytes, num_records)
            joined = self._joined[: end - begin - _LENGTH_BYTES * count]
            yield list(map(io.BytesIO(joined.data).read, lengths.tolist()))


def _decompress_gzip(stored: memoryview, max_chunk_bytes: int) -> bytes:
    stream = isal_zlib.decompressobj(wbits=_GZIP_WINDOW)
    try:
        payload = stream.decompress(stored, max_chunk_bytes + 1)
    except isal_zlib.error as error:  # type: ignore[misc]  # What its stub says is no class.
        raise BrokenChunkError(f"is not valid gzip data ({error}): corrupted") from error
    if len(payload) > max_chunk_bytes:
        raise _too_large(max_chunk_bytes)
    if not stream.eof or stream.unused_data:
        raise BrokenChunkError("is not one whole gzip stream: corrupted")
    return payload


def _too_large(max_chunk_bytes: int) -> BrokenChunkError:
    return BrokenChunkError(f"decompresses to more than max_chunk_bytes={max_chunk_bytes}")


def _resize(buffer: io.BytesIO, num_bytes: int) -> memoryview:
    """Give a buffer that size, at position 0; return its memory, to be released before the next."""
    present = buffer.seek(0, io.SEEK_END)
    if present < num_bytes:
        buffer.write(bytes(num_bytes - present))
    else:
        buffer.truncate(num_bytes)
    buffer.seek(0)
    return buffer.getbuffer()


def _split_evenly(payload: io.BytesIO, length: int, batch: int) -> Iterator[list[bytes]]:
    records = struct.iter_unpack(f"<{_LENGTH_BYTES}x{length}s", payload.getbuffer())
    while some := [record for (record,) in islice(records, batch)]:
        yield some


def _misfit(num_bytes: int, num_records: int) -> BrokenChunkError:
    return BrokenChunkError(
        f"has {num_records} records whose lengths do not fill its {num_bytes} bytes: corrupted"
    )
