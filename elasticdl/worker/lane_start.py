"""Where a worker goes on with a task of a lane, from what the partitions say of it (R7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.client import TaskDiffers
from elasticdl.ps.progress import CLOSED
from elasticdl.worker.leases import decided_rate
from elasticdl.worker.pipeline import Minibatch, TaskEnd


@dataclass(frozen=True)
class LaneStart:
    """Minibatches of a task are numbered on over its attempts; those of the pipeline are not.

    Attributes:
      place: what the worker's messages say.
      first: the lowest minibatch that any partition wants; `CLOSED` of an epoch that is over.
      closing: how the task was closed, where it was.
      fillers: the pushes that let partitions count nothing in the place of a minibatch of an
        earlier attempt that others have, by partition.
      taken: (how many minibatches, their digest) as each partition has of this attempt.
      is_early: an earlier task of the lane has to be closed first.
    """

    place: ps_pb2.LanePosition
    first: int
    closing: ps_pb2.TaskClosing | None
    fillers: tuple[tuple[int, ps_pb2.PushHeader], ...]
    taken: tuple[tuple[int, int], ...]
    is_early: bool

    @property
    def first_of_attempt(self) -> int:
        """The first minibatch that is wanted of the pipeline's, 0 for the task's first."""
        return max(0, self.first - self.place.start) if self.first < CLOSED else 0

    def check(self, task: master_pb2.Task, item: Minibatch | TaskEnd) -> None:
        """Check that the pipeline goes on from what the partitions have.

        Args:
          task: the task.
          item: what comes first out of the pipeline, of the minibatches wanted.

        Raises:
          TaskDiffers: it makes other minibatches of the task's records than those.
        """
        if isinstance(item, TaskEnd):
            known = {item.num_minibatches: item.digest}
        else:
            known = {item.k: item.digest_before, item.k + 1: item.digest_after}
        for count, digest in self.taken:
            if known.get(count - self.place.start) != digest:
                raise TaskDiffers(task.id, task.attempt, "its minibatches are others now")


def start_of(
    task: master_pb2.Task, grant: int, replies: Sequence[ps_pb2.TaskProgressReply]
) -> LaneStart:
    """Say where to go on.

    Nothing of the task changes while this worker is the last it was granted to, and of one attempt
    all partitions have the minibatches of one reading of its records: whoever goes on with it
    checks that, and else lets it begin anew, where the farthest partition stands.

    Args:
      task: of a lane.
      grant: the lease's.
      replies: of all partitions.

    Raises:
      TaskDiffers: partitions have a later attempt than the master.
    """
    attempt = task.attempt
    if any(reply.attempt > attempt for reply in replies):
        raise TaskDiffers(task.id, attempt, "it began anew already")
    begun = [reply for reply in replies if reply.attempt == attempt]
    is_past = any(reply.next == CLOSED for reply in replies)
    start = 0
    if attempt and not is_past:
        start = begun[0].start if begun else max(reply.next for reply in replies)
    place = ps_pb2.LanePosition()
    place.CopyFrom(task.lane)
    place.grant, place.attempt, place.start = grant, attempt, start
    closings = [reply.closing for reply in replies if reply.HasField("closing")]
    fillers = [
        (index, _filler(task, place, reply))
        for index, reply in enumerate(replies)
        if reply.next < start
    ]
    wanted = min(reply.next for reply in replies)
    return LaneStart(
        place,
        max(wanted, start),
        closings[0] if closings else None,
        tuple(fillers) if not closings else (),
        tuple((reply.next, reply.digest) for reply in begun if not is_past),
        any(reply.early for reply in replies),
    )


def _filler(
    task: master_pb2.Task, place: ps_pb2.LanePosition, reply: ps_pb2.TaskProgressReply
) -> ps_pb2.PushHeader:
    # One is enough: no partition is more than one minibatch behind another, that of the open step.
    return ps_pb2.PushHeader(
        task=task.id,
        k=reply.next,
        epoch=task.epoch,
        version=reply.version,
        skip=True,
        lane=place,
        learning_rate=decided_rate(task),
    )
