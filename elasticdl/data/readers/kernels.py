"""The loops over bytes, compiled by numba: CRC-32C, the frames of TFRecord, the rows of CSV.

They check nothing about their arguments; what a kernel calls lives in this file, because numba's
cache notices changes of a file only.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import boolean, int64, njit, types, uint8, uint32, uint64

HEADER_BYTES = 12
FOOTER_BYTES = 4

FINE, SHORT_HEADER, WRONG_LENGTH_CRC, BEYOND_END, TOO_LONG, WRONG_DATA_CRC = range(6)
"""What the TFRecord kernels find at the place they stop."""

ROW_START, FIELD_START, IN_FIELD, IN_QUOTES, QUOTE_IN_QUOTES = range(5)
"""Where the CSV kernel stands."""

_QUOTE, _NEWLINE, _RETURN = 34, 10, 13
_BYTES = types.Array(uint8, 1, "C", readonly=True)


def _crc_tables() -> np.ndarray:
    tables = np.zeros((8, 256), np.uint32)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        tables[0, byte] = crc
    for slot in range(1, 8):
        before = tables[slot - 1]
        tables[slot] = (before >> 8) ^ tables[0][before & 0xFF]
    return tables


_TABLES = _crc_tables()


@njit(uint32(_BYTES, int64, int64), nogil=True, cache=True)
def masked_crc32c(data, start, end):
    """Return the masked CRC-32C of some bytes, as TFRecord stores it."""
    crc = uint32(0xFFFFFFFF)
    position = start
    while position + 8 <= end:
        low = crc ^ (
            uint32(data[position])
            | (uint32(data[position + 1]) << uint32(8))
            | (uint32(data[position + 2]) << uint32(16))
            | (uint32(data[position + 3]) << uint32(24))
        )
        crc = (
            _TABLES[7, low & uint32(0xFF)]
            ^ _TABLES[6, (low >> uint32(8)) & uint32(0xFF)]
            ^ _TABLES[5, (low >> uint32(16)) & uint32(0xFF)]
            ^ _TABLES[4, (low >> uint32(24)) & uint32(0xFF)]
            ^ _TABLES[3, data[position + 4]]
            ^ _TABLES[2, data[position + 5]]
            ^ _TABLES[1, data[position + 6]]
            ^ _TABLES[0, data[position + 7]]
        )
        position += 8
    while position < end:
        crc = _TABLES[0, (crc ^ uint32(data[position])) & uint32(0xFF)] ^ (crc >> uint32(8))
        position += 1
    crc = crc ^ uint32(0xFFFFFFFF)
    return uint32((crc >> uint32(15)) | (crc << uint32(17))) + uint32(0xA282EAD8)


@njit(uint64(_BYTES, int64, int64), nogil=True, cache=True)
def _little_endian(data, start, count):
    number = uint64(0)
    for index in range(count):
        number |= uint64(data[start + index]) << uint64(8 * index)
    return number


@njit(
    types.Tuple((int64, int64, int64))(
        _BYTES, int64, int64, int64, int64, types.Array(int64, 1, "C"), boolean
    ),
    nogil=True,
    cache=True,
)
def scan_tfrecord(data, offset, most_records, max_record_bytes, every, offsets, verify):
    """Go over frames from an offset on; note the offset of every so manieth.

    Args:
      most_records: stop after so many.
      max_record_bytes: a longer record is an error.
      every: note frames 0, every, 2 * every, …
      offsets: where to; large enough.
      verify: compare the sums of the records too, not only those of their lengths.

    Returns:
      (frames passed, offset after them, what is wrong there).
    """
    count = 0
    while count < most_records and offset < len(data):
        left = len(data) - offset
        if left < HEADER_BYTES:
            return count, offset, SHORT_HEADER
        if masked_crc32c(data, offset, offset + 8) != _little_endian(data, offset + 8, 4):
            return count, offset, WRONG_LENGTH_CRC
        length = _little_endian(data, offset, 8)
        if length > uint64(left):
            return count, offset, BEYOND_END
        size = int64(length)
        if size + HEADER_BYTES + FOOTER_BYTES > left:
            return count, offset, BEYOND_END
        if size > max_record_bytes:
            return count, offset, TOO_LONG
        end = offset + HEADER_BYTES + size
        if verify and masked_crc32c(data, offset + HEADER_BYTES, end) != _little_endian(
            data, end, 4
        ):
            return count, offset, WRONG_DATA_CRC
        if count % every == 0:
            offsets[count // every] = offset
        count += 1
        offset = end + FOOTER_BYTES
    return count, offset, FINE


@njit(
    types.Tuple((int64, int64))(
        _BYTES, int64, types.Array(int64, 1, "C"), types.Array(uint8, 1, "C")
    ),
    nogil=True,
    cache=True,
)
def join_records(data, offset, lengths, joined):
    """Put records that each stand behind their length of 32 bits together, without the lengths.

    Args:
      data: all of them.
      offset: where the length of the first is.
      lengths: where their lengths go; one for each record that is wanted.
      joined: where their bytes go; large enough for all that follows `offset`.

    Returns:
      (records that are whole, offset after them).
    """
    place = 0
    for index in range(len(lengths)):
        start = offset + 4
        if start > len(data):
            return index, offset
        length = int64(_little_endian(data, offset, 4))
        if length > len(data) - start:
            return index, offset
        # Of slices alone the compiler knows that it is one copy, ten times as fast as byte by byte.
        source, target = data[start : start + length], joined[place : place + length]
        for byte in range(uint64(len(target))):
            target[byte] = source[byte]
        lengths[index] = length
        place += length
        offset = start + length
    return len(lengths), offset


@njit(
    types.Tuple((int64, int64, int64))(
        _BYTES, int64, int64, uint8, int64, types.Array(int64, 1, "C")
    ),
    nogil=True,
    cache=True,
)
def scan_csv(data, offset, most_rows, delimiter, every, offsets):
    """Go over rows that are not blank; note where every so manieth begins.

    Quotes count where a field begins with one; inside, two of them are one, and line ends are text.

    Returns:
      (rows passed, offset after them, offset of a quote that is never closed or −1).
    """
    count, state, quote = 0, ROW_START, -1
    while offset < len(data):
        byte = data[offset]
        if state == IN_QUOTES:
            if byte == _QUOTE:
                state = QUOTE_IN_QUOTES
            offset += 1
            continue
        if byte == _NEWLINE:
            offset += 1
            if state != ROW_START:
                state = ROW_START
                if count == most_rows:
                    return count, offset, -1
            continue
        if state == ROW_START:
            # The line end of Windows is two bytes; alone it makes no row.
            if byte == _RETURN and offset + 1 < len(data) and data[offset + 1] == _NEWLINE:
                offset += 1
                continue
            if count == most_rows:
                return count, offset, -1
            if count % every == 0:
                offsets[count // every] = offset
            count += 1
            state = FIELD_START
        if byte == delimiter:
            state = FIELD_START
        elif byte == _QUOTE and (state == FIELD_START or state == QUOTE_IN_QUOTES):  # noqa: SIM109
            if state == FIELD_START:
                quote = offset
            state = IN_QUOTES
        else:
            state = IN_FIELD
        offset += 1
    return count, offset, quote if state == IN_QUOTES else -1
