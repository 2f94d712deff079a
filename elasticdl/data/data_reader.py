"""What a reader of the user's own may derive from; `custom_data_reader` of a model makes it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elasticdl.data.filesystems import file_system, is_remote
from elasticdl.data.recordio import Index, read_range
from elasticdl.data.shards import find_files
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
    """Reads RecordIO files: all of a directory, or those that ``--data`` may name.

    Args:
      data_dir: the directory, or paths and patterns of files.

    Raises:
      UsageError: there are no such files.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if "data_dir" not in options:
            raise UsageError("RecordIODataReader: needs data_dir, the directory of the files")
        self._origin = str(options["data_dir"])

    def create_shards(self) -> dict[str, tuple[int, int]]:
        if is_remote(self._origin):
            store, origin = file_system(self._origin)
            files = store.glob(f"{origin}/*") or find_files(self._origin, "data_dir")
        elif os.path.isdir(self._origin):
            directory = Path(self._origin)
            files = sorted(str(path) for path in directory.glob("*") if path.is_file())
        else:
            files = find_files(self._origin, "data_dir")
        if not files:
            raise UsageError(
                f"data_dir '{self._origin}': has no files; give a directory of RecordIO files, a "
                "pattern such as 'DIR/*.recordio', or a file"
            )
        return {path: (0, Index(path).num_records) for path in files}

    def read_records(self, task: Any) -> Iterator[bytes]:
        yield from read_range(task.shard_name, task.start, task.end - task.start)
