import struct
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import cramjam
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.data import recordio
from elasticdl.errors import DataError

RECORDS = st.one_of(
    st.lists(st.binary(max_size=200), max_size=40),
    st.builds(lambda record, count: [record] * count, st.binary(max_size=50), st.integers(0, 60)),
)
COMPRESSORS = st.sampled_from(recordio.Compressor)
CHUNK_BYTES = st.integers(1, 2000)
MAX_CHUNK_BYTES = 1 << 20


def write(directory: str, records, compressor, chunk_bytes) -> bytes:
    path = Path(directory) / "written.recordio"
    with recordio.Writer(path, compressor, chunk_bytes) as writer:
        for record in records:
            writer.write(record)
    return path.read_bytes()


def scan(directory: str, data: bytes) -> list[bytes]:
    path = Path(directory) / "read.recordio"
    path.write_bytes(data)
    return list(recordio.Scanner(path, max_chunk_bytes=MAX_CHUNK_BYTES))


@settings(deadline=None)
@given(RECORDS, COMPRESSORS, CHUNK_BYTES, st.data())
def test_what_was_written_is_read_in_any_range(records, compressor, chunk_bytes, data):
    with tempfile.TemporaryDirectory() as directory:
        written = write(directory, records, compressor, chunk_bytes)
        assert scan(directory, written) == records
        start = data.draw(st.integers(0, len(records) + 2))
        count = data.draw(st.integers(0, len(records) + 2))
        path = Path(directory) / "written.recordio"
        assert list(recordio.Scanner(path, start, count)) == records[start : start + count]
        assert recordio.Index(path).num_records == len(records)


@settings(deadline=None)
@given(RECORDS, COMPRESSORS, CHUNK_BYTES, st.data())
def test_a_truncated_file_is_an_error_or_ends_with_a_chunk(records, compressor, chunk_bytes, data):
    with tempfile.TemporaryDirectory() as directory:
        written = write(directory, records, compressor, chunk_bytes)
        index = recordio.Index(Path(directory) / "written.recordio")
        ends = {index.offset(chunk): index.first_record(chunk) for chunk in range(index.num_chunks)}
        ends[len(written)] = len(records)
        size = data.draw(st.integers(0, len(written)))
        try:
            assert scan(directory, written[:size]) == records[: ends[size]]
        except DataError:
            assert size not in ends


@settings(max_examples=400, deadline=None)
@given(RECORDS.filter(bool), COMPRESSORS, CHUNK_BYTES, st.data())
def test_any_changed_byte_is_an_error_or_changes_nothing(records, compressor, chunk_bytes, data):
    with tempfile.TemporaryDirectory() as directory:
        written = bytearray(write(directory, records, compressor, chunk_bytes))
        position = data.draw(st.integers(0, len(written) - 1))
        written[position] ^= data.draw(st.integers(1, 255))
        with suppress(DataError):
            assert scan(directory, written) == records


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 2**32 - 1), COMPRESSORS, st.integers(0, 30))
def test_any_payload_with_a_right_crc_is_records_or_an_error(payload, many, compressor, few):
    with tempfile.TemporaryDirectory() as directory:
        for num_records in (many, few):
            fields = (0x01020304, zlib.crc32(payload), compressor, len(payload), num_records)
            try:
                records = scan(directory, struct.pack("<5I", *fields) + payload)
            except DataError:
                continue
            assert len(records) == num_records


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.data(), COMPRESSORS)
def test_damage_under_a_right_crc_never_crashes_the_decompressor(content, data, compressor):
    payload = struct.pack("<I", len(content)) + content
    if compressor == recordio.Compressor.SNAPPY:
        payload = bytes(cramjam.snappy.compress(payload))
    elif compressor == recordio.Compressor.GZIP:
        payload = zlib.compress(payload, wbits=31)
    damaged = bytearray(payload)
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    fields = (0x01020304, zlib.crc32(damaged), compressor, len(damaged), 1)
    with tempfile.TemporaryDirectory() as directory, suppress(DataError):
        assert len(scan(directory, struct.pack("<5I", *fields) + damaged)) == 1
