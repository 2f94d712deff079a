import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from elasticdl.data import recordio
from elasticdl.errors import DataError, UsageError

FILES = Path(__file__).parent / "files"


def golden_record(number: int) -> bytes:
    return bytes((number * 31 + j * 7) % 251 for j in range((number * 37) % 911))


GOLDEN = [golden_record(i) for i in range(1000)]


def chunk(payload: bytes, num_records: int, compressor: int = 0, **changes: int) -> bytes:
    fields = {
        "magic": 0x01020304,
        "crc": zlib.crc32(payload),
        "compressor": compressor,
        "size": len(payload),
        "num_records": num_records,
    } | changes
    return struct.pack("<5I", *fields.values()) + payload


def scan(path: Path, **options: int) -> list[bytes]:
    return list(recordio.Scanner(path, **options))


@pytest.mark.parametrize("name", ["none", "snappy", "gzip"])
def test_files_of_the_go_writer_are_read(name):
    path = FILES / f"golden_{name}.recordio"
    assert scan(path) == GOLDEN
    index = recordio.Index(path)
    assert (index.num_records, index.num_chunks) == (1000, 121)


def test_a_chunk_of_many_small_snappy_frames_is_read():
    records = scan(FILES / "golden_snappy_bigchunk.recordio")
    assert records == [golden_record(i) for i in range(3000)]


def test_text_and_iris_are_read():
    text = scan(FILES / "golden_text.recordio")
    assert text == [f"record-{i}".encode() for i in range(10)]
    assert len(scan(FILES / "iris.recordio")) == 150


def test_uncompressed_output_is_byte_identical_to_the_go_writer(tmp_path):
    path = tmp_path / "x.recordio"
    with recordio.Writer(path, compressor="none", chunk_bytes=4096) as writer:
        for record in GOLDEN:
            writer.write(record)
    assert path.read_bytes() == (FILES / "golden_none.recordio").read_bytes()


@pytest.mark.parametrize("compressor", ["none", "snappy", "gzip"])
def test_chunks_are_flushed_where_the_go_writer_flushes_them(tmp_path, compressor):
    path = tmp_path / "x.recordio"
    with recordio.Writer(path, compressor, 4096) as writer:
        for record in GOLDEN:
            writer.write(record)
    golden = recordio.Index(FILES / f"golden_{compressor}.recordio")
    assert recordio.Index(path).records_per_chunk.tolist() == golden.records_per_chunk.tolist()
    assert scan(path) == GOLDEN


def test_the_default_is_snappy_in_chunks_of_32_mib(tmp_path):
    path = tmp_path / "x.recordio"
    with recordio.Writer(path) as writer:
        for _ in range(33):
            writer.write(bytes(1 << 20))
    index = recordio.Index(path)
    assert index.records_per_chunk.tolist() == [32, 1]
    assert index.header(0).compressor == recordio.Compressor.SNAPPY


def test_a_record_larger_than_a_chunk_gets_its_own(tmp_path):
    path = tmp_path / "x.recordio"
    records = [b"a", b"b" * 100, b"c", b"", b""]
    with recordio.Writer(path, "none", chunk_bytes=10) as writer:
        for record in records:
            writer.write(record)
    assert recordio.Index(path).records_per_chunk.tolist() == [1, 1, 3]
    assert scan(path) == records


def test_every_range_gives_those_records():
    path = FILES / "golden_snappy.recordio"
    for start, count in [
        (0, 0),
        (0, 1),
        (14, 2),
        (15, 1),
        (500, 250),
        (999, 1),
        (1000, 5),
        (0, 1000),
    ]:
        scanner = recordio.Scanner(path, start, count)
        assert list(scanner) == GOLDEN[start : start + count]
        assert len(scanner) == len(GOLDEN[start : start + count])
    assert list(recordio.Scanner(path, 990)) == GOLDEN[990:]
    assert list(recordio.Scanner(path, 990, 100)) == GOLDEN[990:]


def test_chunks_outside_the_range_are_not_read(tmp_path):
    data = bytearray((FILES / "golden_none.recordio").read_bytes())
    data[30] ^= 1  # in chunk 0
    path = tmp_path / "x.recordio"
    path.write_bytes(data)
    assert list(recordio.Scanner(path, 15, 20)) == GOLDEN[15:35]
    with pytest.raises(DataError, match="chunk 0 at offset 0"):
        scan(path)


def test_an_iteration_may_stop_early(tmp_path):
    path = tmp_path / "x.recordio"
    with recordio.Writer(path) as writer:
        for _ in range(1000):
            writer.write(bytes(1000))
    scanner = recordio.Scanner(path)
    for records in (iter(scanner), scanner.batches()):
        assert next(records)
        records.close()


def test_read_range_gives_all_of_the_range_or_an_error():
    path = FILES / "golden_none.recordio"
    assert recordio.read_range(path, 3, 4) == GOLDEN[3:7]
    with pytest.raises(DataError, match="has 1000 records"):
        recordio.read_range(path, 990, 11)


def test_a_scanner_can_be_iterated_again_and_at_the_same_time():
    scanner = recordio.Scanner(FILES / "golden_gzip.recordio", 10, 30)
    assert list(zip(scanner, scanner, strict=True)) == [(r, r) for r in GOLDEN[10:40]]


def test_the_index_is_read_once_and_again_when_the_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "x.recordio"
    path.write_bytes(chunk(b"\0\0\0\0", 1) * 2)
    assert recordio.Index(path).num_records == 2
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda *_: pytest.fail("read again"))
        assert recordio.Index(path).num_records == 2
    path.write_bytes(chunk(b"\0\0\0\0", 1) * 3)
    assert recordio.Index(path).num_records == 3


def test_a_file_that_changed_after_it_was_indexed_is_an_error(tmp_path):
    path = tmp_path / "x.recordio"
    path.write_bytes(chunk(b"\1\0\0\0a", 1))
    scanner = recordio.Scanner(path)
    path.write_bytes(chunk(b"\1\0\0\0b", 1))
    with pytest.raises(DataError, match="changed since"):
        list(scanner)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="changed since"):
        list(scanner)


def test_an_empty_file_has_no_records(tmp_path):
    path = tmp_path / "x.recordio"
    with recordio.Writer(path):
        pass
    assert path.read_bytes() == b""
    assert scan(path) == []
    assert recordio.Index(path).num_chunks == 0


WRONG_SUM = zlib.compress(b"\0" * 4, wbits=31)[:-8] + b"\1\2\3\4\4\0\0\0"
BROKEN = {
    "wrong magic": (chunk(b"\0\0\0\0", 1, magic=0x04030201), "not RecordIO"),
    "text": (b"age,income\n" * 10, "not RecordIO"),
    "bad CRC": (chunk(b"\0\0\0\0", 1, crc=1), "CRC32"),
    "unknown compressor": (chunk(b"\0\0\0\0", 1, compressor=3), "compressor 3"),
    "claims 4 GB": (
        chunk(b"\0\0\0\0", 1, size=0xFFFFFFFF),
        "claims 4294967295 bytes where 4 are left",
    ),
    "claims 4 G records": (chunk(b"\0\0\0\0", 0xFFFFFFFF), "claims 4294967295 records"),
    "4 G records, Snappy": (chunk(b"\0\0\0\0", 0xFFFFFFFF, 1), "claims 4294967295 records"),
    "record of 4 GB": (chunk(b"\xff\xff\xff\xff", 1), "do not fill"),
    "last record too long": (chunk(b"\1\0\0\0a\2\0\0\0b", 2), "do not fill"),
    "last record too short": (chunk(b"\1\0\0\0abc", 1), "do not fill"),
    "length cut short": (chunk(b"\1\0\0\0a\1\0\0", 2), "claims|do not fill"),
    "more records than said": (chunk(b"\0\0\0\0" * 2, 1), "do not fill"),
    "fewer records than said": (chunk(b"\4\0\0\0\0\0\0\0", 2), "do not fill"),
    "bytes without records": (chunk(b"abc", 0), "has no records"),
    "half a header": (chunk(b"\0\0\0\0", 1)[:11], "11 bytes of its 20-byte header"),
    "no Snappy": (chunk(b"abcdefgh", 1, 1), "not valid Snappy"),
    "no gzip": (chunk(b"abcdefghijklmnop", 1, 2), "not valid gzip"),
    "no header of gzip": (chunk(b"abcdefgh", 1, 2), "not one whole gzip"),
    "gzip of another sum": (chunk(WRONG_SUM, 1, 2), "not valid gzip"),
    "half gzip": (chunk(zlib.compress(b"\0" * 99, wbits=31)[:-4], 1, 2), "not one whole gzip"),
    "gzip and more": (chunk(zlib.compress(b"\0" * 4, wbits=31) + b"x", 1, 2), "not one whole gzip"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_error_with_file_chunk_and_offset(tmp_path, name):
    data, why = BROKEN[name]
    good = chunk(b"\3\0\0\0abc", 1)
    path = tmp_path / "x.recordio"
    path.write_bytes(good + data)
    with pytest.raises(DataError, match=why) as caught:
        scan(path)
    message = str(caught.value)
    assert f"'{path}': chunk 1 at offset {len(good)} " in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "device"])
def test_what_is_not_a_file_is_an_error_and_never_a_hang(tmp_path, kind):
    path = tmp_path / "x.recordio"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    with pytest.raises(DataError, match=re.escape(str(path))):
        scan(path)


BOMB = """
import resource, sys
from elasticdl.data import recordio
from elasticdl.errors import DataError
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    list(recordio.Scanner(sys.argv[1], max_chunk_bytes=int(sys.argv[2])))
except DataError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used)
"""


@pytest.mark.parametrize("compressor", ["snappy", "gzip"])
def test_a_decompression_bomb_is_an_error_within_bounded_memory(tmp_path, compressor):
    path = tmp_path / "bomb.recordio"
    with recordio.Writer(path, compressor, chunk_bytes=256 << 20) as writer:
        writer.write(bytes(256 << 20))
    command = [sys.executable, "-c", BOMB, path, str(16 << 20)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "chunk 0 at offset 0 decompresses to more than max_chunk_bytes=16777216" in lines[0]
    assert int(lines[1]) < 80 << 10  # KiB


def test_a_chunk_of_exactly_max_chunk_bytes_is_read_and_one_byte_more_is_not(tmp_path):
    for compressor in recordio.Compressor:
        path = tmp_path / f"{compressor}.recordio"
        with recordio.Writer(path, compressor) as writer:
            writer.write(bytes(10_000))
        assert scan(path, max_chunk_bytes=10_004) == [bytes(10_000)]
        with pytest.raises(DataError, match="max_chunk_bytes=10003"):
            scan(path, max_chunk_bytes=10_003)


def test_an_exception_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.recordio"
    path.write_bytes(b"before")

    def write_and_fail():
        with recordio.Writer(path) as writer:
            writer.write(b"after")
            raise KeyError("why")

    with pytest.raises(KeyError):
        write_and_fail()
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["x.recordio"]


def test_a_writer_makes_the_directory_and_can_be_closed_twice(tmp_path):
    path = tmp_path / "a" / "b" / "x.recordio"
    writer = recordio.Writer(path)
    writer.write(bytearray(b"one"))
    writer.write(memoryview(b"two"))
    assert not path.exists()
    writer.close()
    writer.close()
    assert scan(path) == [b"one", b"two"]
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"three")


def test_wrong_arguments_say_what_would_be_right(tmp_path):
    path = tmp_path / "x.recordio"
    with pytest.raises(UsageError, match="compressor 'lz4': unknown; one of none, snappy, gzip"):
        recordio.Writer(path, "lz4")
    with pytest.raises(UsageError, match="chunk_bytes '0'"):
        recordio.Writer(path, chunk_bytes=0)
    with pytest.raises(UsageError, match="is a directory"):
        recordio.Writer(tmp_path)
    with pytest.raises(UsageError, match="cannot be written"):
        recordio.Writer("/proc/none/x.recordio")
    with recordio.Writer(path) as writer, pytest.raises(TypeError):
        writer.write("text")
    with pytest.raises(UsageError, match="start '-1'"):
        recordio.Scanner(path, -1)
    with pytest.raises(UsageError, match="count '-1'"):
        recordio.Scanner(path, 0, -1)
    with pytest.raises(UsageError, match="max_chunk_bytes '0'"):
        recordio.Index(path, 0)
    assert os.listdir(tmp_path) == ["x.recordio"]
