"""RecordIO files, bit-compatible with the Go implementation.

`Index` knows where the records are, `Scanner` reads them, `Writer` writes them.
"""

from elasticdl.data.recordio.chunk import DEFAULT_MAX_CHUNK_BYTES, Compressor
from elasticdl.data.recordio.index import Index
from elasticdl.data.recordio.scanner import Scanner, read_range
from elasticdl.data.recordio.writer import DEFAULT_CHUNK_BYTES, Writer

__all__ = [
    "DEFAULT_CHUNK_BYTES",
    "DEFAULT_MAX_CHUNK_BYTES",
    "Compressor",
    "Index",
    "Scanner",
    "Writer",
    "read_range",
]
