"""A reader of the user's own, in the place of those for known formats.

``custom_data_reader(data_origin)`` makes it. ``create_shards()`` names its shards with first record
and number of records, ``{name: (start, count)}``; ``read_records(task)`` yields the records of a
task, which has ``shard_name``, ``start`` and ``end``. Both are asked where the model's code runs:
before the launch, whose answer the master gets as a list, and in the workers.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from elasticdl.data.shards import Shard
from elasticdl.errors import DataError, UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.model.contract import Contract
from elasticdl.model.resolver import defined_names, model_files
from elasticdl.model.source import ModelSource
from elasticdl.model.user_code import user_code

_NAME: Final = "custom_data_reader"


@dataclass(frozen=True)
class ReaderTask:
    """What ``read_records`` is told to read: records start to end, end left out, of a shard."""

    shard_name: str
    start: int
    end: int

    @property
    def name(self) -> str:
        """The shard's name, as ``task.shard.name``."""
        return self.shard_name

    @property
    def shard(self) -> ReaderTask:
        """The same, for readers that ask ``task.shard.start``."""
        return self


class CustomReader:
    """Reads through the user's reader, and holds it to the numbers it declares. Thread-safe.

    Args:
      contract: has a ``custom_data_reader``.
      origin: of the data: what ``--data`` says.
      records_per_task: told to a reader that takes it.

    Raises:
      UserCodeError: the user's function raises.
      UsageError: what it makes is no reader of serialized records.
    """

    def __init__(self, contract: Contract, origin: str, records_per_task: int | None) -> None:
        make = contract.custom_data_reader()
        assert make is not None
        self._where = contract.function(_NAME)
        self._lock = threading.Lock()
        self._reader = make(origin, **_options(make, records_per_task))
        for name in ("create_shards", "read_records"):
            if not callable(getattr(self._reader, name, None)):
                raise UsageError(
                    f"{self._where}: makes a {type(self._reader).__name__} without {name}; "
                    "give it create_shards() and read_records(task)"
                )

    def shards(self) -> list[Shard]:
        """Return the shards that the reader declares, sorted by name.

        Raises:
          UserCodeError: the user's code raises.
          UsageError: what it returns are no shards, or they have no records.
        """
        with self._lock, user_code(f"create_shards of {self._where}"):
            declared = self._reader.create_shards()
        try:
            given = (
                [(name, *each) for name, each in declared.items()]
                if isinstance(declared, Mapping)
                else [tuple(each) for each in declared]
            )
            shards = [
                Shard(str(name), int(count), int(start)) for name, start, count in sorted(given)
            ]
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"create_shards of {self._where}: returns {declared!r:.80}; "
                "return {name: (start, count)}"
            ) from error
        if not shards or any(each.num_records < 1 or each.start < 0 for each in shards):
            raise UsageError(
                f"create_shards of {self._where}: declares shards without records; "
                "return {name: (start, count)} with count ≥ 1"
            )
        return shards

    def read(self, shard: str, start: int, end: int) -> list[bytes]:
        """Return the records of a range.

        Raises:
          UserCodeError: the user's code raises.
          DataError: there are not as many as declared, or one is not bytes.
        """
        count = end - start
        with self._lock, user_code(f"read_records of {self._where}"):
            # One more than wanted, to know of it; a reader that never ends is no trap.
            task = ReaderTask(shard, start, end)
            records = list(islice(self._reader.read_records(task), count + 1))
        if len(records) != count:
            found = f"more than {count}" if len(records) > count else str(len(records))
            raise DataError(
                f"read_records of {self._where}: yields {found} records for shard '{shard}', "
                f"records {start} to {end}, which create_shards declares; yield {count}"
            )
        texts = [each.encode() if isinstance(each, str) else each for each in records]
        for number, each in enumerate(texts, start):
            if not isinstance(each, bytes):
                raise DataError(
                    f"read_records of {self._where}: record {number} of shard '{shard}' is "
                    f"{type(each).__name__}, not bytes; yield serialized records, such as Examples"
                )
        return texts


def has_custom_reader(job_spec: JobSpec) -> bool:
    """Whether a job's model brings its own reader: by option, or defined in its module.

    Nothing is imported: this is asked where the user's code never runs.
    """
    source = ModelSource.of_job(job_spec)
    if source.custom_data_reader is not None:
        return True
    files = model_files(Path(source.model_zoo).resolve(), source.model_def)
    return any(_NAME in defined_names(file) for file in files)


def _options(make: Any, records_per_task: int | None) -> dict[str, Any]:
    takes = inspect.signature(make).parameters
    return (
        {}
        if records_per_task is None or "records_per_task" not in takes
        else {"records_per_task": records_per_task}
    )
