"""The snapshots of a partition: the one that it is asked for, and the one that its copy is of."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable

from elasticdl.phases import PHASES, Phase
from elasticdl.proto import ps_pb2
from elasticdl.ps.part_files import Destination, directory_at
from elasticdl.ps.part_writer import GivenUp, Moment, PartImage, PartWriter
from elasticdl.ps.refusal import Refused

logger = logging.getLogger(__name__)

WRITING = ps_pb2.SnapshotReply.WRITING
WRITTEN = ps_pb2.SnapshotReply.WRITTEN
FAILED = ps_pb2.SnapshotReply.FAILED


class _Writing:
    """One snapshot from its moment on; a thread writes it. Its fields change under the lock."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.state = WRITING
        self.message = ""
        self.part = ""
        self.store_is_away = False
        self.is_given_up = False
        self.image: PartImage | None = None

    def fail(self, why: str) -> None:
        self.state, self.message = FAILED, why

    def let_go(self) -> None:
        if self.image is not None:
            self.image.let_go()
            self.image = None


class Snapshots:
    """The newest snapshot asked for of one partition; the partition's lock is held in all methods.

    A newer one ends the one before: what is not written yet never will be. A failed one leaves
    the partition as it is. An image for a copy is given up when a checkpoint's is taken: a table
    keeps one.

    Args:
      lock: the partition's; the writing thread takes it for a page of rows at a time.
      take: keeps what there is now.

    Attributes:
      newest_checkpoint: the highest number of those whose moment has been, in this life or in what
        it was restored from: all that a committed checkpoint up to this number has is here.
    """

    def __init__(self, lock: threading.Lock, take: Callable[[Moment], PartImage]) -> None:
        self.newest_checkpoint = 0
        self._lock = lock
        self._take = take
        self._number = 0
        self._mark = 0
        # By number: of checkpoints that others may build on.
        self._marks: dict[int, int] = {}
        self._copy: PartImage | None = None
        self._has_begun = False
        self._awaited: ps_pb2.SnapshotRequest | None = None
        self._writing: _Writing | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the moment of a snapshot has been."""
        return self._has_begun

    @property
    def is_writing(self) -> bool:
        """Whether the part of a checkpoint is being written."""
        return self._writing is not None and self._writing.state == ps_pb2.SnapshotReply.WRITING

    def snapshot(self, request: ps_pb2.SnapshotRequest, version: int) -> ps_pb2.SnapshotReply:
        """Begin a snapshot now, or once a version is reached, or say how it stands.

        Args:
          version: of the partition now.

        Raises:
          Refused: a newer one was asked for, the version is not there, or the request is wrong.
        """
        if request.ask:
            return ps_pb2.SnapshotReply(version=version)
        if not 0 <= request.base < request.number:
            raise Refused(
                ps_pb2.PS_INVALID, f"snapshot {request.number} on base {request.base}: no such one"
            )
        if request.number < self._number:
            raise Refused(ps_pb2.PS_SNAPSHOT_GONE, f"snapshot {self._number} was asked for")
        if request.number > self._number:
            self._give_up()
            self._number = request.number
        if self._writing is None:
            self._awaited = request
            self.reached(version)
        writing = self._writing
        wanted = request.at_version if request.HasField("at_version") else None
        if writing is None and wanted is not None and wanted > version:
            raise Refused(ps_pb2.PS_NOT_YET, version=version)
        if writing is None or wanted not in (None, writing.version):
            self._awaited = None
            raise Refused(ps_pb2.PS_PIN_TOO_LATE, f"version {wanted} has passed", version=version)
        return ps_pb2.SnapshotReply(
            version=version,
            state=writing.state,
            message=writing.message,
            part=writing.part,
            store_is_away=writing.store_is_away,
        )

    def reached(self, version: int) -> None:
        """The partition holds this version; called at each, before anything more is changed."""
        request = self._awaited
        if request is None:
            return
        if request.HasField("at_version") and request.at_version != version:
            return
        self._awaited = None
        self._begin(request, version)

    def _begin(self, request: ps_pb2.SnapshotRequest, version: int) -> None:
        writing = self._writing = _Writing(version)
        self._has_begun = True
        self.end_copy(self._copy)
        self.newest_checkpoint = request.number
        self._mark += 1
        since = self._marks.get(request.base, 0)
        moment = Moment(request.number, request.base, version, self._mark, since, request.number)
        # What is older than what the master builds on, it never will build on.
        self._marks = {n: mark for n, mark in self._marks.items() if n >= request.base}
        self._marks[request.number] = moment.mark
        try:
            image = writing.image = self._take(moment)
            directory = directory_at(request.directory)
            writer = PartWriter(image, directory, self._lock, lambda: writing.is_given_up)
            threading.Thread(
                target=self._write,
                args=(writing, writer, directory),
                name="snapshot",
                daemon=True,
            ).start()
        except (MemoryError, RuntimeError) as error:  # no memory, or no further thread
            writing.let_go()
            writing.fail(f"snapshot {request.number}: not begun ({error})")

    def _write(self, writing: _Writing, writer: PartWriter, directory: Destination) -> None:
        part, why = "", ""
        try:
            with PHASES.measure(Phase.CHECKPOINT):
                part = json.dumps(writer.write())
        except GivenUp:
            why = "given up"
        except OSError as error:
            why = f"cannot be written ({error.strerror or error})"
            writing.store_is_away = isinstance(error, ConnectionError)
        except Exception as error:
            logger.exception("a snapshot could not be written")
            why = f"cannot be written ({type(error).__name__}: {error})"
        with self._lock:
            writing.let_go()
            if not why and not writing.is_given_up:
                writing.state, writing.part = WRITTEN, part
                return
        writer.remove()
        with self._lock:
            writing.fail(f"{directory}: {why}")

    # ------------------------------------------------------------------ the copy

    def begin_copy(self, base: int, version: int) -> PartImage | None:
        """Keep what there is now for a copy, which is numbered by its mark.

        Args:
          base: number of the copy since which changes are wanted; 0 for everything.
          version: of the partition now.

        Returns:
          None while a checkpoint is being written, and before the first one: a partition that is
          lost then begins anew.

        Raises:
          MemoryError: nothing is kept.
        """
        writing = self._writing
        if not self.newest_checkpoint or (writing is not None and writing.state == WRITING):
            return None
        self._mark += 1
        moment = Moment(self._mark, base, version, self._mark, base, self.newest_checkpoint)
        self._copy = self._take(moment)
        return self._copy

    def has_copy(self, image: PartImage) -> bool:
        """Whether an image for a copy is kept still."""
        return self._copy is image

    def end_copy(self, image: PartImage | None) -> None:
        """Let an image for a copy go, if it is there still."""
        if image is not None and self._copy is image:
            image.let_go()
            self._copy = None

    def _give_up(self) -> None:
        """End what is not written yet; the thread removes the files it has begun."""
        self._awaited = None
        if self._writing is not None:
            self._writing.is_given_up = True
            self._writing.let_go()
            self._writing = None
