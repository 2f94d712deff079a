"""What is in a RecordIO file."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from elasticdl.data.example import decode
from elasticdl.data.recordio import DEFAULT_MAX_CHUNK_BYTES, Compressor, Index, Scanner
from elasticdl.errors import DataError

_PREVIEW_VALUES = 4
_PREVIEW_BYTES = 24


@dataclass(frozen=True)
class FeatureSummary:
    """One feature of the first record."""

    type: str  # int64, float32 or bytes
    shape: tuple[int, ...]  # as stored: Examples are flat
    preview: str


@dataclass(frozen=True)
class FileSummary:
    """What `inspect` found."""

    path: str
    num_bytes: int
    num_chunks: int
    num_records: int
    compressors: tuple[str, ...]
    first_record_bytes: int | None  # None: there is no record
    features: dict[str, FeatureSummary] | None  # None: the first record is no Example
    is_verified: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        stored = ", ".join(self.compressors) or "no"
        lines = [
            self.path,
            f"  {_count(self.num_records, 'record')} in {_count(self.num_chunks, 'chunk')}, "
            f"{self.num_bytes:,} bytes, {stored} compression",
        ]
        if self.is_verified:
            lines.append("  every chunk verified")
        if self.first_record_bytes is not None:
            what = "not a tf.train.Example" if self.features is None else "a tf.train.Example"
            lines.append(f"  first record: {self.first_record_bytes:,} bytes, {what}")
        if self.features:
            width = max(map(len, self.features))
            for name, feature in self.features.items():
                about = f"{feature.type:<7}  {list(feature.shape)}  {feature.preview}"
                lines.append(f"    {name:<{width}}  {about}")
        return "\n".join(lines)


def inspect(
    path: str | os.PathLike[str],
    verify: bool = False,
    max_chunk_bytes: int = DEFAULT_MAX_CHUNK_BYTES,
) -> FileSummary:
    """Summarize a RecordIO file: its headers and its first record, decoded if it is an Example.

    Args:
      path: the file.
      verify: read and verify every chunk, not only the first.
      max_chunk_bytes: the largest chunk accepted.

    Raises:
      DataError: the file is missing or broken.
    """
    index = Index(path, max_chunk_bytes)
    numbers = {index.header(chunk).compressor for chunk in range(index.num_chunks)}
    first = next(iter(Scanner(path, 0, 1, max_chunk_bytes)), None)
    if verify:
        for _ in Scanner(path, max_chunk_bytes=max_chunk_bytes).batches():
            pass
    return FileSummary(
        path=os.fspath(path),
        num_bytes=index.num_bytes,
        num_chunks=index.num_chunks,
        num_records=index.num_records,
        compressors=tuple(Compressor(number).name.lower() for number in sorted(numbers)),
        first_record_bytes=None if first is None else len(first),
        features=None if first is None else _summarize(first),
        is_verified=verify,
    )


def _summarize(record: bytes) -> dict[str, FeatureSummary] | None:
    try:
        features = decode(record)
    except DataError:
        return None
    # Much that is no Example parses as one without features.
    return {name: _summarize_feature(value) for name, value in features.items()} or None


def _summarize_feature(value: np.ndarray | list[bytes]) -> FeatureSummary:
    if isinstance(value, np.ndarray):
        form = "d" if value.dtype.kind == "i" else ".6g"
        type_name = str(value.dtype)
        shown = [format(item.item(), form) for item in value[:_PREVIEW_VALUES]]
    else:
        type_name, shown = "bytes", [_shorten(item) for item in value[:_PREVIEW_VALUES]]
    if len(value) > _PREVIEW_VALUES:
        shown.append("…")
    return FeatureSummary(type_name, (len(value),), " ".join(shown))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _shorten(value: bytes) -> str:
    return repr(value[:_PREVIEW_BYTES])[1:] + ("…" if len(value) > _PREVIEW_BYTES else "")
