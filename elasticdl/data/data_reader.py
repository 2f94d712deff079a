"""What a reader of the user's own may derive from; `custom_data_reader` of a model makes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elasticdl.data.recordio import Index, read_range
from elasticdl.errors import UsageError


@dataclass(frozen=True)
class Metadata:
    """What is known of a reader's records: names and types of columns, if they have any."""

    column_names: Sequence[str] | None = None
    column_dtypes: Any = None


class AbstractDataReader(ABC):
    """A source of serialized records, in shards whose numbers of records are known.

    Args:
      options: what the reader's maker was given; kept by those who derive from this.
    """

    def __init__(self, **options: Any) -> None:
        del options

    @abstractmethod
    def create_shards(self) -> dict[str, tuple[int, int]]:
        """Return (first record, number of records) of each shard by its name."""

    @abstractmethod
    def read_records(self, task: Any) -> Iterator[bytes]:
        """Yield the records of a task: `task.start` to `task.end` of `task.shard_name`."""

    @property
    def metadata(self) -> Metadata:
        """What `feed(dataset, mode, metadata)` is given."""
        return Metadata()


class RecordIODataReader(AbstractDataReader):
    """Reads all RecordIO files of a directory.

    Args:
      data_dir: the directory.

    Raises:
      UsageError: it is not there, or has no files.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if "data_dir" not in options:
            raise UsageError("RecordIODataReader: needs data_dir, the directory of the files")
        self._directory = Path(options["data_dir"])

    def create_shards(self) -> dict[str, tuple[int, int]]:
        files = sorted(path for path in self._directory.glob("*") if path.is_file())
        if not files:
            raise UsageError(f"data_dir '{self._directory}': has no files")
        return {str(path): (0, Index(path).num_records) for path in files}

    def read_records(self, task: Any) -> Iterator[bytes]:
        yield from read_range(task.shard_name, task.start, task.end - task.start)
