"""Data files of every format behind one `Reader`: how many records, and those of a range."""

from elasticdl.data.readers.opening import FORMATS, detect_format, open_reader
from elasticdl.data.readers.reader import Reader, Records

__all__ = ["FORMATS", "Reader", "Records", "detect_format", "open_reader"]
